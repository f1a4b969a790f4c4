//! Copy-on-write staging of XFS, which no map shows: `check` never overlooks it, and `prepare` leaves none.
//!
//! The trap is a block that was cloned, written, and whose clone was deleted. The test finds staging by GETFSMAP where
//! the filesystem keeps owners (`cow reservation`), and everywhere by the kernel's behaviour: a rewrite in place moves
//! extents into the staging.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use daxfile_tests::child::{finish, spawn};
use daxfile_tests::generate::{Generated, Random};
use daxfile_tests::tools::{Piece, allocated, attack, checksum, require, sh, xfs_bmap, xfs_io_fiemap};
use daxfile_tests::{Daxfile, Kind, Scratch, Xfs, report};
use serde_json::Value;

const HOW: [&str; 3] = ["direct", "buffered", "mapped"];

fn xfs(rmapbt: bool, block_size: u32) -> Kind {
    Xfs { rmapbt, block_size, ..Xfs::default() }.into()
}

fn has_rmapbt(scratch: &Scratch) -> bool {
    matches!(scratch.kind(), Kind::Xfs(xfs) if xfs.rmapbt)
}

fn stage() -> Command {
    Command::new(attack("stage"))
}

#[track_caller]
fn must(command: &mut Command) {
    let out = finish(command);
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A file of `extents` extents, each of one block.
#[track_caller]
fn build(scratch: &Scratch, name: &str, extents: u64, order: &str) -> PathBuf {
    let (path, source) = (scratch.path(name), scratch.path(format!("{name}.source")));
    let numbers = [extents, scratch.kind().block_size()].map(|number| number.to_string());
    must(stage().arg("build").args([&path, &source]).args(numbers).arg(order));
    settle(&path);
    path
}

/// A deleted file's blocks are released in the background; a statfs(2) pushes that on.
#[track_caller]
fn settle(path: &Path) {
    for _ in 0..1000 {
        sh(format!("stat -f '{}'", path.display()));
        if xfs_io_fiemap(path).iter().all(|piece| !piece.shared) {
            return;
        }
    }
    panic!("{}: still shared", path.display());
}

/// Clones and writes the blocks of these numbers, and deletes the clone. FIEMAP then shows no trace.
#[track_caller]
fn trap(scratch: &Scratch, path: &Path, blocks: &[u64]) {
    let block_size = scratch.kind().block_size();
    let offsets = blocks.iter().map(|block| (block * block_size).to_string());
    must(stage().arg("trap").args([path, &path.with_extension("clone")]).arg(block_size.to_string()).args(offsets));
    settle(path);
}

#[track_caller]
fn rewrite(path: &Path, how: &str) {
    must(stage().arg("rewrite").arg(path).arg(how));
}

fn cow_extent_size(path: &Path, bytes: u64) {
    require(&["xfs_io"]);
    sh(format!("xfs_io -c 'cowextsize {bytes}' '{}'", path.display()));
}

/// A line of xfs_io's fsmap: bytes, and whose.
fn fsmap(scratch: &Scratch) -> Vec<(u64, String)> {
    require(&["xfs_io"]);
    let text = sh(format!("sync -f '{0}'; xfs_io -c 'fsmap -v' '{0}'", scratch.mount_point().display()));
    let row = |row: &str| {
        let (_, after) = row.split_once("]:").unwrap_or_else(|| panic!("fsmap: {row}"));
        let words: Vec<&str> = after.split_whitespace().collect();
        // The number of the allocation group precedes the range there; some rows end in flags.
        let range = words.iter().rposition(|word| word.starts_with('(')).unwrap();
        (words[range + 1].parse::<u64>().unwrap() * 512, words[..range - 1].join(" "))
    };
    text.lines().skip(1).map(row).collect()
}

/// Bytes of staging on the whole filesystem.
fn staging_on(scratch: &Scratch) -> u64 {
    assert!(has_rmapbt(scratch));
    fsmap(scratch).iter().filter(|(_, owner)| owner.starts_with("cow reservation")).map(|(bytes, _)| bytes).sum()
}

fn mapped(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.length).sum()
}

#[track_caller]
fn state(path: &Path) -> String {
    state_of(&report(&["stat"], path, 0))
}

fn state_of(report: &Value) -> String {
    report["map"]["staging"]["state"].as_str().unwrap_or_else(|| panic!("{report}")).to_owned()
}

fn has_blocker(report: &Value, kind: &str) -> bool {
    report["blockers"].as_array().unwrap().iter().any(|blocker| blocker["kind"] == kind)
}

/// `check` agrees with `stat`: it reports the blocker if staging is found, and otherwise not.
#[track_caller]
fn check_agrees(path: &Path) -> String {
    let state = state(path);
    let found = state == "found";
    let checked = report(&["check"], path, i32::from(found));
    assert_eq!(has_blocker(&checked, "staging"), found, "{state}: {checked}");
    state
}

/// After `prepare`, a rewrite of the whole file moves nothing, contents are unchanged, and `check` finds no blocker.
#[track_caller]
fn prepared(scratch: &Scratch, path: &Path, options: &[&str], hows: &[&str]) {
    let (contents, size) = (checksum(path), fs::metadata(path).unwrap().len());
    let verb = |verb| [&[verb][..], options].concat();
    Daxfile::new(verb("prepare")).arg(path).run().expect(0);
    assert_eq!((checksum(path), fs::metadata(path).unwrap().len()), (contents, size));
    let checked = report(&verb("check"), path, 0);
    assert!(!has_blocker(&checked, "staging"), "{checked}");
    let left = state(path);
    assert!(left == "none" || (left == "cannot_tell" && !has_rmapbt(scratch)), "{left}");
    let before = xfs_bmap(path);
    for how in hows {
        rewrite(path, how);
        assert!(xfs_bmap(path) == before, "{}: {how} moved it", path.display());
    }
}

/// Without `prepare`, a rewrite moves a block: the trap works.
#[track_caller]
fn springs(path: &Path, how: &str) {
    let before = xfs_bmap(path);
    rewrite(path, how);
    assert!(xfs_bmap(path) != before, "{}: {how} moved nothing: no trap", path.display());
}

/// Sets the trap in twins of a file: one shows that it is one, the others are prepared, alone and beside another
/// opener.
fn trapped(scratch: &Scratch, extents: u64, cow_extent: Option<u64>, blocks: &[u64], hows: &[&str]) {
    let name = |role: &str| format!("{extents}-{}-{role}", cow_extent.unwrap_or(0));
    let rmapbt = has_rmapbt(scratch);
    let set = |role: &str| {
        let path = build(scratch, &name(role), extents, "ascending");
        let before = check_agrees(&path);
        assert!(before == "none" || (before == "cannot_tell" && !rmapbt), "{before} without staging");
        assert!(before == "none" || extents > 10, "{before} of {extents} extents");
        if let Some(bytes) = cow_extent {
            cow_extent_size(&path, bytes);
        }
        let (staged, allocated_before) = (if rmapbt { staging_on(scratch) } else { 0 }, allocated(&path));
        trap(scratch, &path, blocks);
        let pieces = xfs_io_fiemap(&path);
        assert!(pieces.iter().all(|piece| !piece.shared && !piece.unwritten), "FIEMAP shows it");
        assert_eq!(mapped(&pieces), extents * scratch.kind().block_size());
        assert!(allocated(&path) > allocated_before, "no staging");
        let now = check_agrees(&path);
        assert!(now != "none", "none, but there is staging");
        if rmapbt {
            assert!(staging_on(scratch) > staged, "no staging");
            assert_eq!(now, "found");
        }
        (path, now)
    };
    for how in hows {
        let (path, _) = set(how);
        springs(&path, how);
        fs::remove_file(path).unwrap();
    }
    let (path, now) = set("alone");
    if now == "found" {
        let refused = report(&["pin", "--hold", "none"], &path, 1);
        assert!(has_blocker(&refused, "staging") && refused["pin"]["state"] == "unpinned", "{refused}");
        report(&["pin"], &path, 1);
    }
    prepared(scratch, &path, &[], hows);
    fs::remove_file(path).unwrap();

    let (path, _) = set("beside");
    let opener = File::open(&path).unwrap();
    prepared(scratch, &path, &[], hows);
    drop(opener);
    fs::remove_file(path).unwrap();
    if rmapbt {
        sh(format!("stat -f '{}'", scratch.mount_point().display()));
        assert_eq!(staging_on(scratch), 0, "some is left");
    }
}

#[test]
fn staging_of_one_to_many_blocks_is_found() {
    for (rmapbt, block_size) in [(false, 4096), (true, 4096)] {
        let scratch = Scratch::new(xfs(rmapbt, block_size));
        trapped(&scratch, 10, Some(2 * u64::from(block_size)), &[2], &HOW[..1]);
        trapped(&scratch, 10, None, &[2], &HOW);
        trapped(&scratch, 1000, Some(2 * u64::from(block_size)), &[500], &HOW[..1]);
        trapped(&scratch, 1000, None, &[500], &HOW);
        trapped(&scratch, 1000, None, &[0, 100, 200, 300, 400, 999], &HOW[..1]);
    }
}

#[test]
fn staging_is_found_with_blocks_of_one_kib() {
    let scratch = Scratch::new(xfs(false, 1024));
    trapped(&scratch, 1000, Some(2048), &[500], &HOW[..1]);
    trapped(&scratch, 1000, None, &[10, 500], &HOW);
}

#[test]
fn staging_is_found_in_files_of_40_000_extents() {
    for rmapbt in [false, true] {
        let scratch = Scratch::with_size(xfs(rmapbt, 4096), 2 << 30);
        trapped(&scratch, 40_000, None, &[20_000], &HOW[..1]);
    }
}

#[test]
fn cow_extent_size_of_one_block_leaves_no_staging() {
    for rmapbt in [false, true] {
        let scratch = Scratch::new(xfs(rmapbt, 4096));
        let path = build(&scratch, "file", 10, "ascending");
        cow_extent_size(&path, 4096);
        trap(&scratch, &path, &[2]);
        let before = xfs_bmap(&path);
        assert_eq!(check_agrees(&path), "none");
        rewrite(&path, "direct");
        assert_eq!(xfs_bmap(&path), before);
    }
}

/// Blocks that are copied on write lie beside blocks that only become written.
#[test]
fn staging_beside_unwritten_and_holes_is_found() {
    for rmapbt in [false, true] {
        let scratch = Scratch::new(xfs(rmapbt, 4096));
        for beside in [false, true] {
            let (path, peer) = (scratch.path(format!("mixed-{beside}")), scratch.path(format!("peer-{beside}")));
            let work = ["pwrite -q 0 40000", "falloc 40960 20480", "truncate 90000", "pwrite -q 69632 20368", "fsync"];
            must(Command::new("xfs_io").arg("-f").args(work.iter().flat_map(|work| ["-c", work])).arg(&path));
            must(Command::new("cp").arg("--reflink=always").args([&path, &peer]));
            let contents = checksum(&peer);
            let opener = beside.then(|| File::open(&path).unwrap());
            prepared(&scratch, &path, &[], &HOW);
            assert_eq!(checksum(&peer), contents);
            drop(opener);
        }
        assert!(!rmapbt || staging_on(&scratch) == 0, "some is left");
    }
}

#[test]
fn staging_is_found_beside_allowed_holes() {
    for rmapbt in [false, true] {
        let scratch = Scratch::new(xfs(rmapbt, 4096));
        for beside in [false, true] {
            for how in HOW {
                let path = build(&scratch, &format!("{beside}-{how}"), 100, "ascending");
                sh(format!("xfs_io -c 'fpunch 200704 40960' '{}'", path.display()));
                trap(&scratch, &path, &[40]);
                assert_eq!(state(&path), "found");
                let opener = beside.then(|| File::open(&path).unwrap());
                prepared(&scratch, &path, &["--allow", "hole"], &[how]);
                assert_eq!(mapped(&xfs_bmap(&path)), 90 * 4096, "the hole is gone");
                drop(opener);
            }
        }
    }
}

/// Ends with its pipe.
struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn keep_mapped(path: &Path) -> Keeper {
    let mut child = spawn(stage().arg("keep").arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()));
    let stdout = child.stdout.take().unwrap();
    let keeper = Keeper(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "mapped\n");
    keeper
}

#[test]
fn staging_under_an_older_mapping_is_found() {
    let scratch = Scratch::new(xfs(false, 4096));
    let path = build(&scratch, "file", 100, "ascending");
    trap(&scratch, &path, &[40]);
    let keeper = keep_mapped(&path);
    report(&["pin"], &path, 5);
    Daxfile::new(["prepare"]).arg(&path).run().expect(0);
    // Only the mapping itself still prevents the pin.
    report(&["check"], &path, 0);
    report(&["pin"], &path, 5);
    assert_eq!(report(&["stat"], &path, 0)["pin"]["state"], "unpinned");
    drop(keeper);
    assert_eq!(report(&["pin"], &path, 0)["pin"]["state"], "pinned");
    report(&["unpin"], &path, 0);
    let before = xfs_bmap(&path);
    rewrite(&path, "mapped");
    assert_eq!(xfs_bmap(&path), before);
}

/// Attributes that need blocks of their own, and blocks past EOF.
#[test]
fn attribute_and_eof_blocks_are_not_staging() {
    require(&["setfattr"]);
    for rmapbt in [false, true] {
        let scratch = Scratch::new(xfs(rmapbt, 4096));
        for extents in [1, 10, 30, 300] {
            let path = build(&scratch, &format!("attributes-{extents}"), extents, "random");
            sh(format!(
                "for n in {{1..40}}; do setfattr -n user.$n -v $(printf %03000d $n) '{0}'; done; \
                 setfattr -n user.big -v $(printf %060000d 7) '{0}'; sync '{0}'",
                path.display()
            ));
            let said = check_agrees(&path);
            assert!(said == "none" || (said == "cannot_tell" && !rmapbt && extents > 1), "{extents}: {said}");

            let path = build(&scratch, &format!("past-{extents}"), extents, "random");
            let size = fs::metadata(&path).unwrap().len();
            sh(format!("xfs_io -c 'falloc -k {size} 1m' '{}'", path.display()));
            let stated = report(&["stat"], &path, 0);
            assert_eq!(stated["map"]["past_eof"], 1 << 20, "{stated}");
            assert_ne!(state_of(&stated), "found");
            // The speculative kind, which appends leave while the file is open.
            let path = scratch.path(format!("appended-{extents}"));
            sh(format!(
                "exec 3>'{0}'; for n in {{1..20}}; do dd if=/dev/zero bs=64k count=1 status=none >&3; done; \
                 sync -f '{0}'",
                path.display()
            ));
            assert_ne!(state(&path), "found");
        }
    }
}

#[test]
fn staging_is_never_found_without_sharing() {
    let random = Random::new("staging_is_never_found_without_sharing");
    for rmapbt in [false, true] {
        let scratch = Scratch::new(xfs(rmapbt, 4096));
        let files: Vec<Generated> = (0..50)
            .map(|number| {
                let mut random = random.fork(number + 50 * u64::from(rmapbt));
                let mut file = Generated::new(scratch.path(format!("file-{number}")));
                let steps = 20 + random.below(120);
                file.work(&scratch, &mut random, &[], steps);
                if random.percent(20) {
                    file.preallocate_past_eof(&scratch, &mut random);
                }
                file
            })
            .collect();
        let stated = Daxfile::new(["stat", "--json"]).args(files.iter().map(|file| &file.path)).run().expect(0).json();
        for (file, report) in files.iter().zip(stated["files"].as_array().unwrap()) {
            let state = state_of(report);
            assert!(state != "found" && !(rmapbt && state != "none"), "{state}\n{}", file.history());
        }
    }
}

/// No file's map has a btree outside the bounds that the detector assumes.
#[test]
fn btree_size_is_within_the_assumed_bounds() {
    let counts: Vec<u64> = (1..=30).chain([60, 125, 126, 250, 251, 252, 253, 1000, 5000]).collect();
    for rmapbt in [true, false] {
        let scratch = Scratch::new(xfs(rmapbt, 4096));
        let orders = ["ascending", "descending", "random", "punched"];
        let files: Vec<(u64, &str, PathBuf)> = orders
            .iter()
            .flat_map(|&order| counts.iter().map(move |&count| (count, order)))
            .map(|(count, order)| {
                let name = format!("{count}-{order}");
                if order != "punched" {
                    return (count, order, build(&scratch, &name, count, order));
                }
                // Twice as many, and then every other one is gone: the btree shrinks.
                let path = build(&scratch, &name, 2 * count, "random");
                let mut punch = Command::new("xfs_io");
                punch.args((0..count).flat_map(|n| ["-c".to_owned(), format!("fpunch {} 4096", n * 8192)]));
                must(punch.arg(&path));
                (count, order, path)
            })
            .collect();
        let mut btrees: HashMap<String, u64> = HashMap::new();
        for (bytes, owner) in fsmap(&scratch) {
            if let Some((inode, "extent map")) = owner.split_once(' ') {
                *btrees.entry(inode.to_owned()).or_default() += bytes;
            }
        }
        assert!(btrees.is_empty() != rmapbt);
        let stated = Daxfile::new(["stat", "--json"]).args(files.iter().map(|(.., path)| path)).run().expect(0).json();
        for ((count, order, path), report) in files.iter().zip(stated["files"].as_array().unwrap()) {
            let pieces = xfs_io_fiemap(path);
            assert_eq!(pieces.len() as u64, *count, "{}", path.display());
            let btree = allocated(path) - mapped(&pieces);
            let staging = &report["map"]["staging"];
            let context = format!("{count} extents, {order}: {} blocks of btree: {staging}", btree / 4096);
            if rmapbt {
                let inode = fs::metadata(path).unwrap().ino().to_string();
                assert_eq!(btrees.get(&inode).copied().unwrap_or(0), btree, "{context}");
                assert_eq!(staging["state"], "none", "{context}");
            } else if staging["state"] == "cannot_tell" {
                // Above the minimum, and not above the maximum: that would be "found".
                let above = staging["bytes"].as_u64().unwrap();
                assert!(above > 0 && above <= btree, "{context}");
            } else {
                assert_eq!(staging["state"], "none", "{context}");
            }
        }
    }
}
