//! `--align`: the placement by `alloc` and the reports of `check` and `stat`, against arithmetic on other tools' maps.

use std::path::{Path, PathBuf};

use daxfile_tests::generate::Random;
use daxfile_tests::tools::{Piece, checksum, filefrag, require, sh, xfs_bmap};
use daxfile_tests::{Daxfile, Ext4, Kind, Run, Scratch, Xfs};
use serde_json::{Value, json};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn striped() -> Kind {
    Xfs { mkfs_args: vec!["-d".into(), "su=2m,sw=1,agcount=4".into()], ..Xfs::default() }.into()
}

/// A stretch of a file in one physical piece, regardless of the states of its blocks: logical, physical, end.
type Stretch = (u64, u64, u64);

fn stretches(map: &[Piece]) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for piece in map {
        match stretches.last_mut() {
            Some((logical, physical, end))
                if *end == piece.logical && *physical + (*end - *logical) == piece.physical =>
            {
                *end += piece.length;
            }
            _ => stretches.push((piece.logical, piece.physical, piece.logical + piece.length)),
        }
    }
    stretches
}

/// The distance of a stretch from its aligned place, modulo the alignment.
fn off((logical, physical, _): Stretch, align: u64) -> u64 {
    (physical % align + align - logical % align) % align
}

/// Whether a piece of the file lies in one place that is aligned.
fn is_placed(stretches: &[Stretch], start: u64, end: u64, align: u64) -> bool {
    stretches.iter().any(|&stretch| stretch.0 <= start && end <= stretch.2 && off(stretch, align) == 0)
}

/// The ranges that are not in whole, aligned pieces: logical, length, distance.
fn misaligned(stretches: &[Stretch], end: u64, align: u64) -> Vec<(u64, u64, Option<u64>)> {
    let mut cuts: Vec<u64> = (0..=end / align).map(|piece| piece * align).collect();
    cuts.extend(stretches.iter().flat_map(|&(start, _, end)| [start, end]));
    cuts.push(end);
    cuts.retain(|&cut| cut <= end);
    cuts.sort_unstable();
    cuts.dedup();
    let mut found: Vec<(u64, u64, Option<u64>)> = Vec::new();
    for (from, to) in cuts.iter().zip(&cuts[1..]).map(|(&from, &to)| (from, to)) {
        let piece = from - from % align;
        if is_placed(stretches, piece, (piece + align).min(end), align) {
            continue;
        }
        let within = stretches.iter().find(|stretch| stretch.0 <= from && to <= stretch.2);
        let off = within.map(|&stretch| off(stretch, align)).filter(|&off| off > 0);
        match found.last_mut() {
            Some((logical, length, same)) if *logical + *length == from && *same == off => *length += to - from,
            _ => found.push((from, to - from, off)),
        }
    }
    found
}

/// The number of bytes in whole pieces that one page-table entry can map.
fn mappable(stretches: &[Stretch], end: u64, align: u64) -> u64 {
    (0..end / align).filter(|piece| is_placed(stretches, piece * align, (piece + 1) * align, align)).count() as u64
        * align
}

fn alloc(path: &Path, size: u64, align: &str) -> Run {
    Daxfile::new(["alloc", "--json", &format!("--align={align}"), "-s", &size.to_string()]).arg(path).run()
}

fn check(path: &Path, align: u64) -> Run {
    Daxfile::new(["check", "--json", "--align", &align.to_string()]).arg(path).run()
}

fn blocks_free(scratch: &Scratch) -> String {
    sh(format!("sync -f '{0}'; stat -f -c '%f %d' '{0}'", scratch.mount_point().display()))
}

/// The map of another tool: xfs_bmap(8) on XFS, as its addresses come by another call than FIEMAP.
fn map(scratch: &Scratch, path: &Path) -> Vec<Piece> {
    match scratch.kind() {
        Kind::Xfs(_) => xfs_bmap(path),
        _ => filefrag(path),
    }
}

/// Allocates a file: it is placed as was asked, or refused and nothing is left. Says which.
#[track_caller]
fn allocates_or_refuses(scratch: &Scratch, name: &str, size: u64) -> bool {
    let path = scratch.path(name);
    let before = blocks_free(scratch);
    let run = alloc(&path, size, "2M");
    if run.status == 1 {
        let file = run.file();
        assert!(file["blockers"].as_array().unwrap().iter().any(|blocker| blocker["kind"] == "misaligned"), "{run}");
        assert!(!path.exists(), "{run}");
        // The filesystem frees the blocks of a file that was never linked in the background.
        let start = std::time::Instant::now();
        while blocks_free(scratch) != before {
            assert!(start.elapsed().as_secs() < 10, "{} free, {before} before: {run}", blocks_free(scratch));
        }
        return false;
    }
    let run = run.expect(0);
    let map = map(scratch, &path);
    let end = size.next_multiple_of(scratch.kind().block_size());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
    assert_eq!(map.iter().map(|piece| piece.length).sum::<u64>(), end, "{map:?}");
    assert!(map.iter().all(|piece| !piece.unwritten && piece.logical < end), "{map:?}");
    let stretches = stretches(&map);
    for start in (0..end).step_by(2 << 20) {
        let placed = is_placed(&stretches, start, (start + 2 * MIB).min(end), 2 * MIB);
        assert!(placed, "{start} of {size}: {stretches:?}: {run}");
    }
    assert_eq!(mappable(&stretches, end, 2 * MIB), size / (2 * MIB) * (2 * MIB));
    assert_eq!(run.file()["map"]["mappable_2m"], size / (2 * MIB) * (2 * MIB), "{run}");
    check(&path, 2 * MIB).expect(0);
    true
}

const SIZES: [u64; 5] = [2 * MIB, 4 * MIB, 2 * MIB + 1, 10 * MIB, 64 * MIB];

#[test]
fn alloc_places_files_or_leaves_nothing() {
    require(&["xfs_io"]);
    for kind in [striped(), Kind::xfs(), Xfs { block_size: 1024, ..Xfs::default() }.into(), Kind::ext4()] {
        let name = format!("{kind:?}");
        let scratch = Scratch::with_size(kind, 512 * MIB);
        // If there is room, there is no reason to refuse: the first of each size.
        for size in SIZES {
            assert!(allocates_or_refuses(&scratch, &size.to_string(), size), "{size} on {name}");
        }
        // An odd allocation before each, so that the free space begins anywhere.
        for (number, size) in SIZES.into_iter().take(4).enumerate() {
            sh(format!(
                "xfs_io -f -c 'falloc 0 {}' '{}'",
                4 * KIB * (number as u64 * 77 + 5),
                scratch.path(format!("odd.{number}")).display()
            ));
            assert!(allocates_or_refuses(&scratch, &format!("{size}.again"), size), "{size} on {name}");
        }
    }
}

/// The free space has no place for a piece, or few.
#[test]
fn alloc_refuses_in_fragmented_space() {
    require(&["xfs_io"]);
    for kind in [striped(), Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::with_size(kind.clone(), 512 * MIB);
        let (filler, rest) = (scratch.path("filler"), scratch.path("rest"));
        sh(format!(
            "fill() {{ for ((i = $3; ; i += $2)); do fallocate -o $i -l $2 \"$1\" 2>/dev/null || break; done; }}
             fill '{0}' $((8 << 20)) 0; fill '{1}' $((1 << 20)) 0; fill '{1}' 65536 $((1 << 30)); rm -f '{1}.'*",
            filler.display(),
            rest.display()
        ));
        let filled = stretches(&filefrag(&filler));
        // So much from each multiple of `step` on the device, plus `offset`.
        let punch = |step: u64, offset: u64, length: u64| {
            let places = filled.iter().flat_map(|&(logical, physical, end)| {
                let first = (physical + step - offset).div_ceil(step) * step - step + offset;
                let first = if first < physical { first + step } else { first };
                (first..)
                    .step_by(usize::try_from(step).unwrap())
                    .map(move |place| (place, place - physical + logical))
                    .take_while(move |&(place, _)| place + length <= physical + (end - logical))
            });
            let commands: Vec<String> = places.map(|(_, at)| format!("fpunch {at} {length}")).collect();
            assert!(commands.len() > 20, "{filled:?}");
            std::fs::write(scratch.image().with_file_name("script"), commands.join("\n")).unwrap();
            let script = scratch.image().with_file_name("script");
            sh(format!("xfs_io '{}' <'{}' >/dev/null", filler.display(), script.display()));
        };
        // Enough in sum, but in pieces of 2 MiB that all are 1 MiB off.
        punch(4 * MIB, MIB, 2 * MIB);
        for size in SIZES {
            let placed = allocates_or_refuses(&scratch, &format!("off.{size}"), size);
            // Both filesystems keep some blocks back, which have room for little.
            assert!(!placed || size < 10 * MIB, "{size} on {kind:?}");
        }
        // Here and there a place for two pieces.
        punch(16 * MIB, 4 * MIB, 4 * MIB);
        for size in SIZES {
            allocates_or_refuses(&scratch, &format!("mixed.{size}"), size);
        }
    }
}

/// A file of falloc'd and written pieces of all sizes at all offsets.
fn generate(scratch: &Scratch, random: &mut Random, path: &Path) {
    let block = scratch.kind().block_size();
    let mut commands = vec![format!("truncate {}", 6 * MIB + random.below(20 * MIB))];
    for _ in 0..1 + random.below(7) {
        let unit = [block, 64 * KIB, MIB, 2 * MIB][usize::try_from(random.below(4)).unwrap()];
        let offset = random.below(16 * MIB / unit) * unit;
        let length = (1 + random.below(9 * MIB / unit)) * unit;
        commands.push(match random.below(10) {
            0 => format!("pwrite -q {offset} {}", length.min(MIB) - random.below(block)),
            1 => format!("fpunch {offset} {}", length.min(MIB)),
            2 => format!("falloc -k {} {}", 28 * MIB + offset, length.min(MIB)),
            3 => format!("fcollapse 0 {}", block * (1 + random.below(600))),
            _ => format!("falloc -k {offset} {length}"),
        });
    }
    if random.percent(50) {
        // Collapsed until it begins at a multiple of 2 MiB.
        sh(format!("xfs_io -f -c 'falloc 0 14m' '{}'", path.display()));
        let head = (2 * MIB - stretches(&filefrag(path))[0].1 % (2 * MIB)) % (2 * MIB);
        if head > 0 {
            sh(format!("xfs_io -c 'fcollapse 0 {head}' '{}'", path.display()));
        }
    }
    let script: Vec<String> = commands.iter().map(|command| format!("-c '{command}'")).collect();
    // A collapse that reaches EOF is refused, which makes for no fewer files.
    sh(format!("xfs_io -f {} '{}' >/dev/null 2>&1 || :", script.join(" "), path.display()));
}

/// The reports of check and stat match arithmetic on filefrag's map.
#[track_caller]
fn assert_told(scratch: &Scratch, path: &Path) -> (u64, usize) {
    let stretches = stretches(&filefrag(path));
    let size = std::fs::metadata(path).unwrap().len();
    let end = size.next_multiple_of(scratch.kind().block_size());
    let stat = Daxfile::new(["stat", "--json"]).arg(path).run().expect(0);
    let told = &stat.file()["map"];
    assert_eq!(told["mappable_2m"], mappable(&stretches, end, 2 * MIB), "{stretches:?}: {stat}");
    assert_eq!(told["mappable_1g"], mappable(&stretches, end, GIB), "{stretches:?}: {stat}");
    let mut count = 0;
    for align in [512, 4 * KIB, 64 * KIB, 2 * MIB, GIB] {
        let run = check(path, align);
        let report = run.file();
        let blocker = report["blockers"].as_array().unwrap().iter().find(|blocker| blocker["kind"] == "misaligned");
        let wanted = misaligned(&stretches, end, align);
        count += wanted.len();
        let ranges: Vec<Value> = wanted
            .iter()
            .map(|&(logical, length, off)| match off {
                Some(off) => json!({"logical": logical, "length": length, "off": off}),
                None => json!({"logical": logical, "length": length}),
            })
            .collect();
        let says = || format!("--align {align}: {stretches:?} to {end}: {run}");
        match blocker {
            Some(blocker) => {
                assert_eq!(blocker["ranges"], Value::from(ranges), "{}", says());
                assert_eq!(blocker["bytes"], wanted.iter().map(|range| range.1).sum::<u64>(), "{}", says());
                assert!(blocker["detail"].as_str().unwrap().contains("that are aligned to"), "{}", says());
            }
            None => assert!(ranges.is_empty(), "{ranges:?} {}", says()),
        }
    }
    (mappable(&stretches, end, 2 * MIB), count)
}

#[test]
fn check_and_stat_match_computed_alignment() {
    require(&["xfs_io"]);
    let mut random = Random::new("check_and_stat_match_computed_alignment");
    let kinds = [striped(), Kind::xfs(), Xfs { block_size: 1024, ..Xfs::default() }.into(), Kind::ext4()];
    let (mut mappable, mut ranges) = (0, 0);
    for kind in kinds.into_iter().chain([Ext4 { block_size: 1024, ..Ext4::default() }.into()]) {
        let scratch = Scratch::with_size(kind, 1024 * MIB);
        for number in 0..10 {
            let path = scratch.path(number.to_string());
            generate(&scratch, &mut random, &path);
            let told = assert_told(&scratch, &path);
            mappable += u64::from(told.0 > 0);
            ranges += told.1;
        }
    }
    // The generator must have made something to be wrong about.
    assert!(mappable >= 10 && ranges >= 200, "{mappable} files with huge pieces, {ranges} misaligned ranges");
}

#[test]
fn stat_reports_an_aligned_gibibyte() {
    require(&["xfs_io"]);
    let kind = Xfs { mkfs_args: vec!["-d".into(), "agcount=2".into()], ..Xfs::default() };
    let scratch = Scratch::with_size(kind, 12 * GIB);
    let path = scratch.path("file");
    sh(format!("xfs_io -f -c 'falloc 0 4g' '{}'", path.display()));
    assert_told(&scratch, &path);
    // Remove the part before the first multiple of 1 GiB.
    let first = stretches(&filefrag(&path))[0];
    let head = GIB - first.1 % GIB;
    sh(format!("xfs_io -c 'fcollapse 0 {head}' '{}'", path.display()));
    let stat = Daxfile::new(["stat", "--json"]).arg(&path).run().expect(0);
    assert!(stat.file()["map"]["mappable_1g"].as_u64().unwrap() >= GIB, "{stat}");
    assert_told(&scratch, &path);
}

/// Ranges past EOF are past EOF, and not misaligned as well.
#[test]
fn blocks_past_eof_are_not_called_misaligned() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let path = scratch.path("file");
        alloc(&path, 4 * MIB, "2M").expect(0);
        let other = scratch.path("other");
        sh(format!("fallocate -l 100K '{}'; fallocate -n -o 10M -l 64K '{}'", other.display(), path.display()));
        let report = check(&path, 2 * MIB).expect(1).file();
        let kinds: Vec<_> = report["blockers"].as_array().unwrap().iter().map(|blocker| &blocker["kind"]).collect();
        assert_eq!(kinds, ["past_eof"], "{report:#}");
        assert_told(&scratch, &path);
    }
}

/// prepare keeps the place of each piece, and reports a misaligned one.
#[test]
fn prepare_reports_misaligned_ranges() {
    for kind in [striped(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let (good, bad): (PathBuf, PathBuf) = (scratch.path("good"), scratch.path("bad"));
        alloc(&good, 4 * MIB, "2M").expect(0);
        sh(format!("fallocate -z -l 1M '{0}'; fallocate -z -o 3M -l 4K '{0}'", good.display()));
        sh(format!("fallocate -l 12K '{0}.odd'; fallocate -l 3M '{0}'", bad.display()));
        for path in [&good, &bad] {
            let digest = checksum(path);
            let run = Daxfile::new(["prepare", "--json", "--align", "2M"]).arg(path).run();
            assert_eq!(run.status, check(path, 2 * MIB).status, "{run}");
            let stretches = stretches(&filefrag(path));
            let end = std::fs::metadata(path).unwrap().len();
            assert_eq!(run.status == 0, misaligned(&stretches, end, 2 * MIB).is_empty(), "{run}");
            assert_eq!(checksum(path), digest);
            Daxfile::new(["check"]).arg(path).run().expect(0);
        }
    }
}

#[test]
fn align_refuses_other_numbers() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    for align in ["0", "1", "256", "511", "513", "3M", "3000", "2MB", "-2M", "2X", "", "9E"] {
        for verb in ["check", "pin", "prepare"] {
            Daxfile::new([verb, &format!("--align={align}")]).arg(&file).run().expect(2);
        }
        let run = alloc(&file, MIB, align).expect(2);
        assert!(!file.exists() && run.stderr.contains("--align"), "{run}");
    }
    // A sector is the least.
    alloc(&file, MIB, "512").expect(0);
    check(&file, 512).expect(0);
}

/// The data of block groups begins at any block there, so that a large file is aligned piece by piece.
#[test]
fn alloc_aligns_where_groups_of_small_blocks_begin_anywhere() {
    let scratch = Scratch::with_size(Ext4 { block_size: 1 << 10, ..Ext4::default() }, 512 * MIB);
    for (align, sizes) in [(4 * KIB, [64 * MIB, 20 * MIB + 5 * KIB, 4 * KIB]), (2 * MIB, [64 * MIB, 17 * MIB + 3, 1])] {
        for size in sizes {
            let path = scratch.path(format!("{align}.{size}"));
            let (align, size) = (align.to_string(), size.to_string());
            Daxfile::new(["alloc", "-s", &size, "--align", &align]).arg(&path).run().expect(0);
            Daxfile::new(["check", "--align", &align]).arg(&path).run().expect(0);
            assert_eq!(misaligned(&stretches(&filefrag(&path)), size.parse().unwrap(), align.parse().unwrap()), []);
            assert_eq!(std::fs::metadata(&path).unwrap().len().to_string(), size);
            std::fs::remove_file(&path).unwrap();
        }
    }
}
