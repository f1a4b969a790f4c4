//! daxfile reads the same maps as other programs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use daxfile_tests::generate::{Generated, Random, paths};
use daxfile_tests::tools::{Piece, filefrag, filefrag_records, require, sh, xfs_bmap, xfs_io_fiemap};
use daxfile_tests::{Daxfile, Ext4, Kind, Run, Scratch};
use serde_json::Value;

const FILES: usize = 200;
const UNWRITTEN: u64 = 0x800;
const SHARED: u64 = 0x2000;

/// States that must occur in the generated files.
const FLAGS: [&str; 5] = ["unwritten", "shared", "hole", "past EOF", "last"];
const PAST_EOF: usize = 3;

/// filefrag's facts about one file.
struct Facts {
    runs: usize,
    /// Which of [`FLAGS`] it has
    flags: [bool; 5],
}

#[test]
fn generated_files_have_the_map_that_others_read() {
    let random = Random::new("maps");
    let kinds = Kind::pinnable();
    let facts: Vec<Facts> = std::thread::scope(|scope| {
        let threads: Vec<_> = kinds
            .iter()
            .enumerate()
            .map(|(number, kind)| {
                let files = (number..FILES).step_by(kinds.len()).count();
                let random = random.fork(number as u64);
                scope.spawn(move || compare_generated(kind, files, random))
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("its panic says why")).collect()
    });

    assert_eq!(facts.len(), FILES);
    let mut runs: Vec<usize> = facts.iter().map(|facts| facts.runs).collect();
    runs.sort_unstable();
    assert!(runs[FILES / 2] >= 50, "the median file has {} runs", runs[FILES / 2]);
    for (number, flag) in FLAGS.iter().enumerate() {
        let files = facts.iter().filter(|facts| facts.flags[number]).count();
        assert!(files >= 20, "{flag}: in {files} files only");
    }
}

fn compare_generated(kind: &Kind, count: usize, mut random: Random) -> Vec<Facts> {
    let mut scratch = Scratch::new(kind.clone());
    let mut files: Vec<Generated> = Vec::new();
    for number in 0..count {
        let mut file = Generated::new(scratch.path(format!("file.{number}")));
        let steps = 80 + random.below(60);
        file.work(&scratch, &mut random, &files, steps);
        if random.percent(40) {
            file.preallocate_past_eof(&scratch, &mut random);
        }
        files.push(file);
    }
    // Writing back one file's pages over blocks that it shares gives these to the other file alone.
    sh(format!("sync --file-system '{}'", scratch.mount_point().display()));
    let before = compare_all(&scratch, &files, &[]);

    let maps = |facts: &[(Facts, Vec<Piece>)]| facts.iter().map(|(_, pieces)| pieces.clone()).collect::<Vec<_>>();
    let (pinned, others): (Vec<_>, Vec<_>) =
        files.iter().zip(&before).partition(|(_, (facts, _))| !facts.flags[PAST_EOF]);
    assert!(!pinned.is_empty() && !others.is_empty(), "{kind:?}");
    let pinned: Vec<&Path> = pinned.into_iter().map(|(file, _)| file.path.as_path()).collect();
    daxfile(&["pin", "--allow", "hole,unwritten,shared,empty"], pinned.iter().copied()).expect(0);
    assert_eq!(maps(&compare_all(&scratch, &files, &pinned)), maps(&before), "{kind:?}: pinned");

    scratch.remount();
    daxfile(&["verify"], pinned.iter().copied()).expect(0);
    let after = compare_all(&scratch, &files, &pinned);
    // XFS frees its preallocated blocks by itself.
    if matches!(kind, Kind::Ext4(_)) {
        assert_eq!(maps(&after), maps(&before), "{kind:?}: mounted again");
    }
    before.into_iter().map(|(facts, _)| facts).collect()
}

fn daxfile<'a>(args: &[&str], files: impl IntoIterator<Item = &'a Path>) -> Run {
    files.into_iter().fold(Daxfile::new(args), Daxfile::arg).run()
}

/// Compares `stat`'s report on each file with other programs; the maps of `frozen` files count as read atomically, even
/// if reading takes several calls.
fn compare_all(scratch: &Scratch, files: &[Generated], frozen: &[&Path]) -> Vec<(Facts, Vec<Piece>)> {
    let report = daxfile(&["stat", "--json", "--extents"], paths(files)).expect(0).json();
    let reports = report["files"].as_array().unwrap();
    assert_eq!(reports.len(), files.len());
    let compare = |(file, report): (&Generated, &Value)| {
        let history = format!("{:?}\n{}", scratch.kind(), file.history());
        assert_eq!(report["path"].as_str(), file.path.to_str());
        compare(scratch, &file.path, report, frozen.contains(&file.path.as_path()), &history)
    };
    files.iter().zip(reports).map(compare).collect()
}

fn compare(scratch: &Scratch, path: &Path, report: &Value, frozen: bool, history: &str) -> (Facts, Vec<Piece>) {
    let records = filefrag_records(path);
    let pieces = filefrag(path);
    let said = pieces_of(report);
    assert_eq!(said, pieces, "filefrag differs: {history}");
    assert_eq!(said, xfs_io_fiemap(path), "fiemap of xfs_io differs: {history}");
    let on_xfs = matches!(scratch.kind(), Kind::Xfs(_));
    if on_xfs {
        assert_eq!(said, xfs_bmap(path), "xfs_bmap differs: {history}");
    }

    let totals = Totals::of(&pieces, path, scratch.kind().block_size());
    let map = &report["map"];
    let number = |name: &str| map[name].as_u64().unwrap_or_else(|| panic!("{name} in {map}"));
    let said = Totals {
        written: number("written"),
        unwritten: number("unwritten"),
        shared: number("shared"),
        hole: number("hole"),
        past_eof: number("past_eof"),
    };
    assert_eq!(said, totals, "the totals differ: {history}");
    assert_eq!((number("extents"), number("unknown")), (pieces.len() as u64, 0), "{history}");
    assert_eq!(map["consistent"].as_bool(), Some(on_xfs || frozen), "{history}");

    let has = |flag: &str| records.iter().any(|(_, flags)| flags.iter().any(|f| f == flag));
    assert_eq!(has("last"), !pieces.is_empty(), "{history}");
    let flags = [has("unwritten"), has("shared"), totals.hole > 0, totals.past_eof > 0, has("last")];
    (Facts { runs: pieces.len(), flags }, pieces)
}

/// The runs of a report, unchanged: daxfile must have joined them.
fn pieces_of(report: &Value) -> Vec<Piece> {
    let extents = report["extents"].as_array().unwrap_or_else(|| panic!("no extents in {report}"));
    let piece = |extent: &Value| {
        let number = |name: &str| extent[name].as_u64().unwrap_or_else(|| panic!("{name} in {extent}"));
        let flags = number("raw_flags");
        assert_eq!(flags & !(UNWRITTEN | SHARED), 0, "{extent}");
        let named = |name| extent["flags"].as_array().unwrap().iter().any(|flag| flag == name);
        let piece = Piece {
            logical: number("logical"),
            physical: number("physical"),
            length: number("length"),
            unwritten: flags & UNWRITTEN != 0,
            shared: flags & SHARED != 0,
        };
        assert_eq!((named("unwritten"), named("shared")), (piece.unwritten, piece.shared), "{extent}");
        piece
    };
    extents.iter().map(piece).collect()
}

/// Bytes in each state, counted block by block in filefrag's map.
#[derive(Debug, PartialEq, Eq, Default)]
struct Totals {
    written: u64,
    unwritten: u64,
    shared: u64,
    hole: u64,
    past_eof: u64,
}

impl Totals {
    fn of(pieces: &[Piece], path: &Path, block: u64) -> Totals {
        let end = fs::metadata(path).unwrap().len().next_multiple_of(block);
        let mut totals = Totals { hole: end, ..Totals::default() };
        for piece in pieces {
            let mut logical = piece.logical;
            while logical < piece.logical + piece.length {
                let state = match (piece.unwritten, piece.shared) {
                    _ if logical >= end => &mut totals.past_eof,
                    (true, _) => &mut totals.unwritten,
                    (false, true) => &mut totals.shared,
                    (false, false) => &mut totals.written,
                };
                *state += block;
                totals.hole -= if logical < end { block } else { 0 };
                logical += block;
            }
        }
        totals
    }
}

/// FIEMAP's answers to daxfile: the number of records in each.
fn fiemap_calls(args: &[&str], file: &Path) -> (Run, Vec<u64>) {
    require(&["strace"]);
    let trace = tempfile::NamedTempFile::new().unwrap();
    let strace = ["strace", "-f", "-e", "trace=ioctl", "-o", trace.path().to_str().unwrap()];
    let run = Daxfile::new(args).arg(file).wrap(strace).run();
    let text = fs::read_to_string(trace.path()).unwrap();
    let answer = |line: &str| {
        let (_, after) = line.split_once("fm_mapped_extents=").unwrap_or_else(|| panic!("strace: {line}"));
        after.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    (run, text.lines().filter(|line| line.contains("FS_IOC_FIEMAP")).map(answer).collect())
}

#[test]
fn thousands_of_extents_are_read_whole() {
    const BLOCKS: u64 = 6000;
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind.clone());
        let path = scratch.path("file");
        let block = kind.block_size();
        let file = File::create(&path).unwrap();
        file.set_len(2 * BLOCKS * block).unwrap();
        for number in 0..BLOCKS {
            file.write_all_at(&[1; 512], 2 * number * block).unwrap();
        }
        file.sync_all().unwrap();
        drop(file);
        assert!(filefrag(&path).len() >= 5000);

        let stat = || daxfile(&["stat", "--json", "--extents"], [path.as_path()]).expect(0).json();
        let history = format!("{kind:?}: {BLOCKS} written blocks with a hole after each");
        let (_, pieces) = compare(&scratch, &path, &stat()["files"][0], false, &history);
        daxfile(&["pin", "--allow", "hole"], [path.as_path()]).expect(0);
        let (_, pinned) = compare(&scratch, &path, &stat()["files"][0], true, &history);
        assert_eq!(pinned, pieces);

        let (run, calls) = fiemap_calls(&["verify"], &path);
        run.expect(0);
        assert!(calls.len() > 1 && calls.iter().sum::<u64>() >= BLOCKS, "FIEMAP gave {calls:?} records");
    }
}

/// The first reader of a map after a mount sees ext4's records as they are on the disk; later readers see the records
/// that ext4's cache has joined.
#[test]
fn pin_survives_changed_extent_boundaries() {
    // In blocks of 1 KiB an extent is at most 32 MiB. Without copies of the superblock more than that is free in a row,
    // and fallocate uses it that way.
    let kind = Ext4 {
        block_size: 1024,
        features: vec!["sparse_super2".into()],
        mkfs_args: vec!["-E".into(), "num_backup_sb=0".into()],
    };
    let mut scratch = Scratch::with_size(kind, 1 << 30);
    let written = scratch.path("written");
    let unwritten = scratch.path("unwritten");
    sh(format!(
        "fallocate --length 48M '{0}'; fallocate --length 48M '{1}'
         dd if=/dev/zero of='{1}' bs=1M count=48 oflag=direct conv=notrunc,fsync status=none",
        unwritten.display(),
        written.display()
    ));
    let files = [&written, &unwritten];
    let manifest = scratch.image().with_file_name("manifest");
    let stat = daxfile(&["stat", "--json", "--extents"], files.map(|file| file.as_path())).expect(0);
    fs::write(&manifest, &stat.stdout).unwrap();

    for file in files {
        daxfile(&["pin", "--allow", "unwritten"], [file.as_path()]).expect(0);
        let pieces = filefrag(file);
        let (run, before) = fiemap_calls(&["verify"], file);
        run.expect(0);
        scratch.remount();
        let (run, after) = fiemap_calls(&["verify"], file);
        run.expect(0);
        assert_ne!(after, before, "the records are as they were, so this shows nothing: {}", file.display());
        assert_eq!(filefrag(file), pieces);
        scratch.remount();
        let run = Daxfile::new(["verify", "--against"]).arg(&manifest).arg(file).run();
        run.expect(0);
    }
}

/// A store into an unwritten block writes it, but the disk shows that only once the page is written back.
#[test]
fn dirty_pages_are_written_back_first() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind.clone());
        let path = scratch.path("file");
        sh(format!("xfs_io -f -c 'falloc 0 64k' -c fsync '{}'", path.display()));
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[1; 32 << 10], 16 << 10).unwrap();
        let report = daxfile(&["stat", "--json", "--extents"], [path.as_path()]).expect(0).json();
        compare(&scratch, &path, &report["files"][0], false, &format!("{kind:?}: dirty pages over unwritten blocks"));

        // The same over holes.
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        let report = daxfile(&["stat", "--json", "--extents"], [path.as_path()]).expect(0).json();
        compare(&scratch, &path, &report["files"][0], false, &format!("{kind:?}: dirty pages over a hole"));
    }
}
