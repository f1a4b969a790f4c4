//! `daxfile prepare`: the blockers that it removes, the ones that it leaves alone, and the data that it never harms.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use daxfile_tests::child::{Killed, spawn};
use daxfile_tests::generate::Random;
use daxfile_tests::tools::{Piece, allocated, checksum, filefrag, normalise, require, sh, xfs_bmap, xfs_io_fiemap};
use daxfile_tests::{Daxfile, Ext4, Kind, Run, Scratch, Xfs, wait_until};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn xfs(reflink: bool, rmapbt: bool, block_size: u32) -> Kind {
    Xfs { reflink, rmapbt, block_size, mkfs_args: Vec::new() }.into()
}

fn ext4(block_size: u32) -> Kind {
    Ext4 { block_size, ..Ext4::default() }.into()
}

fn reflinks(kind: &Kind) -> bool {
    matches!(kind, Kind::Xfs(Xfs { reflink: true, .. }))
}

/// The state of a stretch of a file before it is prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Written,
    Hole,
    Unwritten,
    Shared,
}

/// The plan of a file.
#[derive(Clone, Debug)]
struct Plan {
    /// Stretches, with their number of blocks.
    stretches: Vec<(Sort, u64)>,
    /// The number of bytes between the end of the file and the end of its last block.
    cut: u64,
    past_eof: bool,
    /// Whether the first written stretch gets copy-on-write staging around it.
    staging: bool,
}

/// A generated file, and its original state.
struct Made {
    path: PathBuf,
    peer: PathBuf,
    plan: Plan,
    block: u64,
    size: u64,
}

impl Plan {
    fn of(stretches: &[(Sort, u64)], cut: u64) -> Plan {
        Plan { stretches: stretches.to_vec(), cut, past_eof: false, staging: false }
    }

    fn random(random: &mut Random, kind: &Kind, stretches: u64, longest: u64) -> Plan {
        let sorts = [Sort::Written, Sort::Hole, Sort::Unwritten, Sort::Shared];
        let sorts = if reflinks(kind) { &sorts[..] } else { &sorts[..3] };
        let mut stretch = || {
            let sort = sorts[usize::try_from(random.below(sorts.len() as u64)).unwrap()];
            (sort, 1 + random.below(longest))
        };
        let stretches = (0..stretches).map(|_| stretch()).collect();
        let cut = if random.percent(30) { 0 } else { random.below(kind.block_size()) };
        let staging = reflinks(kind) && random.percent(50);
        Plan { stretches, cut, past_eof: random.percent(50), staging }
    }

    fn make(self, scratch: &Scratch, name: &str) -> Made {
        require(&["xfs_io"]);
        let block = scratch.kind().block_size();
        let blocks: u64 = self.stretches.iter().map(|(_, blocks)| blocks).sum();
        let size = blocks * block - self.cut;
        let made =
            Made { path: scratch.path(name), peer: scratch.path(format!("{name}.peer")), plan: self, block, size };
        let (mut own, mut peers) = (Vec::new(), vec![format!("truncate {size}")]);
        let mut staged = None;
        for (number, (sort, start, end)) in made.stretches().enumerate() {
            let length = end.min(size) - start;
            match sort {
                Sort::Hole => {}
                Sort::Unwritten => own.push(format!("falloc -k {start} {}", end - start)),
                Sort::Written => {
                    own.push(format!("pwrite -q -S {} {start} {length}", 1 + number % 200));
                    staged.get_or_insert(start);
                }
                Sort::Shared => {
                    peers.push(format!("pwrite -q -S {} {start} {length}", 1 + number % 250));
                    own.push(format!("reflink -q {} {start} {start} {length}", made.peer.display()));
                }
            }
        }
        // In an order other than the file's, so that logical neighbours are not neighbours on the device.
        let half = own.len() / 2;
        own.rotate_left(half);
        own.insert(0, format!("truncate {size}"));
        if made.plan.past_eof {
            own.push(format!("falloc -k {} {}", made.end() + block * 3, block * 5));
        }
        // Otherwise other dirty pages are written to the staging, and use it up.
        own.push("fsync".to_owned());
        xfs_io(&made.peer, &peers);
        xfs_io(&made.path, &own);
        if let Some(start) = staged.filter(|_| made.plan.staging) {
            let length = block.min(size - start);
            let clone = scratch.path(format!("{name}.clone"));
            xfs_io(&clone, &[format!("reflink -q {} {start} 0 {length}", made.path.display())]);
            xfs_io(&made.path, &[format!("pwrite -q -S 251 {start} {length}"), "fsync".to_owned()]);
            fs::remove_file(&clone).unwrap();
        }
        // Deleted files share until XFS has done with them, which it does behind the caller's back.
        sh(format!("sync -f '{}'", made.path.display()));
        made.assert_made();
        made
    }
}

/// Runs commands that say nothing.
#[track_caller]
fn xfs_io(file: &Path, commands: &[String]) {
    let mut command = Command::new("xfs_io");
    command.arg("-f").arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command);
    let mut stdin = child.stdin.take().unwrap();
    let script = commands.join("\n") + "\n";
    let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).replace("xfs_io> ", "") + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.trim().is_empty(), "xfs_io {}: {said}", file.display());
}

impl Made {
    fn end(&self) -> u64 {
        self.size.next_multiple_of(self.block)
    }

    /// Each stretch with its start and end in bytes; the end of its last block, even if that is past EOF.
    fn stretches(&self) -> impl Iterator<Item = (Sort, u64, u64)> {
        self.plan.stretches.iter().scan(0, |position, &(sort, blocks)| {
            let start = *position;
            *position += blocks * self.block;
            Some((sort, start, *position))
        })
    }

    fn bytes(&self, wanted: Sort) -> u64 {
        self.stretches().filter(|(sort, ..)| *sort == wanted).map(|(_, start, end)| end - start).sum()
    }

    /// The generator's own failures must not pass for the program's successes.
    #[track_caller]
    fn assert_made(&self) {
        let map = filefrag(&self.path);
        for (sort, start, end) in self.stretches() {
            let found = sort_of(&map, start, end);
            assert_eq!(found, Some(sort), "{start}..{end} of {}: {:?}", self.path.display(), self.plan);
        }
        let past: u64 = map.iter().filter(|piece| piece.logical >= self.end()).map(|piece| piece.length).sum();
        assert_eq!(past > 0, self.plan.past_eof, "{}", self.path.display());
        if self.plan.staging && self.plan.stretches.iter().any(|(sort, _)| *sort == Sort::Written) {
            assert!(allocated(&self.path) > total(&map), "no staging: {:?}", self.plan);
        }
    }
}

/// The state of a whole range; `None` if the range has several.
fn sort_of(map: &[Piece], start: u64, end: u64) -> Option<Sort> {
    let touching = map.iter().filter(|piece| piece.logical < end && piece.logical + piece.length > start);
    let mut sorts = touching.clone().map(|piece| match (piece.unwritten, piece.shared) {
        (false, false) => Sort::Written,
        (false, true) => Sort::Shared,
        (true, _) => Sort::Unwritten,
    });
    let covered: u64 = touching.map(|piece| (piece.logical + piece.length).min(end) - piece.logical.max(start)).sum();
    match sorts.next() {
        None => Some(Sort::Hole),
        Some(sort) => (covered == end - start && sorts.all(|other| other == sort)).then_some(sort),
    }
}

fn total(map: &[Piece]) -> u64 {
    map.iter().map(|piece| piece.length).sum()
}

/// A file as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    digest: String,
    size: u64,
    times: [i64; 4],
    allocated: u64,
    map: Vec<Piece>,
}

#[track_caller]
fn look(path: &Path) -> Seen {
    let map = filefrag(path);
    assert_eq!(xfs_io_fiemap(path), map, "{}", path.display());
    let stat = fs::metadata(path).unwrap();
    Seen {
        digest: checksum(path),
        size: stat.size(),
        times: [stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()],
        allocated: stat.blocks() * 512,
        map,
    }
}

/// The places of the blocks, regardless of sharers.
fn places(map: &[Piece]) -> Vec<Piece> {
    normalise(map.iter().map(|piece| Piece { shared: false, ..*piece }).collect())
}

/// The most that the map itself can take: leaves half full on average and their parents, after as many extents as there
/// were before or are now. None where they fit into the inode.
fn overhead(kind: &Kind, extents: usize) -> u64 {
    let block = kind.block_size();
    let extents = extents as u64;
    let (inline, leaf) = match kind {
        Kind::Xfs(_) => (9, (block - 72) / 16),
        _ => (2, (block - 12) / 12),
    };
    let leaves = (2 * extents).div_ceil(leaf / 2);
    if extents <= inline { 0 } else { (leaves + leaves.div_ceil(leaf / 4) + 1) * block }
}

fn prepare(path: &Path, options: &[&str]) -> Run {
    Daxfile::new(["prepare", "--json"]).arg(path).args(options).run()
}

fn check(path: &Path, options: &[&str]) -> Run {
    Daxfile::new(["check", "--json"]).arg(path).args(options).run()
}

fn kinds(file: &Value) -> Vec<String> {
    let blockers = file["blockers"].as_array().into_iter().flatten();
    blockers.map(|blocker| blocker["kind"].as_str().unwrap().to_owned()).collect()
}

/// It was prepared, and everything that was promised holds.
#[track_caller]
fn assert_prepared(scratch: &Scratch, path: &Path, before: &Seen) {
    let now = look(path);
    assert_eq!((&now.digest, now.size), (&before.digest, before.size), "{}", path.display());
    let end = now.size.next_multiple_of(scratch.kind().block_size());
    let mut position = 0;
    for piece in &now.map {
        assert!(piece.logical == position && !piece.unwritten && !piece.shared, "{piece:?} of {}", path.display());
        position += piece.length;
    }
    assert_eq!(position, end, "{}", path.display());
    let most = end + overhead(scratch.kind(), before.map.len().max(now.map.len()) + 1);
    assert!((end..=most).contains(&now.allocated), "{} of {end} to {most}: {}", now.allocated, path.display());
    if let Kind::Xfs(_) = scratch.kind() {
        assert_eq!(xfs_bmap(path), now.map, "{}", path.display());
    }
    check(path, &[]).expect(0);
    let again = prepare(path, &[]).expect(0);
    assert_eq!(again.file()["action"], "already_prepared", "{again}");
    assert_eq!(look(path), now, "{}", path.display());
}

/// Prepares a file, and checks it and the file that shares its blocks.
#[track_caller]
fn assert_mends(scratch: &Scratch, made: &Made) {
    let (before, peer) = (look(&made.path), look(&made.peer));
    let run = prepare(&made.path, &[]).expect(0);
    assert_eq!(run.file()["action"], "prepared", "{run}");
    assert_eq!(kinds(&run.file()), [""; 0], "{run}");
    assert_prepared(scratch, &made.path, &before);
    let now = look(&made.peer);
    assert_eq!((now.digest, now.times, places(&now.map)), (peer.digest, peer.times, places(&peer.map)));
}

/// Every blocker that prepare can remove alone, then mixtures of them.
fn mends_everything(test: &str, kinds: &[Kind]) {
    let mut random = Random::new(test);
    for kind in kinds {
        mends_everything_on(kind, &mut random);
    }
}

fn mends_everything_on(kind: &Kind, random: &mut Random) {
    let scratch = Scratch::new(kind.clone());
    let block = kind.block_size();
    for cut in [0, 1, block / 2 + 3, block - 1] {
        let (written, clean) = ((Sort::Written, 3), Plan::of(&[(Sort::Written, 9)], cut));
        let mut alone = vec![
            ("hole", Plan::of(&[written, (Sort::Hole, 5), written], cut)),
            ("hole_at_the_ends", Plan::of(&[(Sort::Hole, 40), written, (Sort::Hole, 1)], cut)),
            ("all_hole", Plan::of(&[(Sort::Hole, 1)], cut)),
            ("unwritten", Plan::of(&[written, (Sort::Unwritten, 5), written], cut)),
            ("unwritten_at_the_ends", Plan::of(&[(Sort::Unwritten, 1), written, (Sort::Unwritten, 2)], cut)),
            ("past_eof", Plan { past_eof: true, ..clean.clone() }),
        ];
        if reflinks(kind) {
            alone.push(("shared", Plan::of(&[written, (Sort::Shared, 5), written], cut)));
            alone.push(("all_shared", Plan::of(&[(Sort::Shared, 5)], cut)));
            alone.push(("staging", Plan { staging: true, ..clean }));
        }
        for (name, plan) in alone {
            let made = plan.make(&scratch, &format!("{name}.{cut}"));
            let wanted = name.split("_at_").next().unwrap().trim_start_matches("all_");
            assert_eq!(kinds(&check(&made.path, &[]).expect(1).file()), [wanted], "{}", made.path.display());
            assert_mends(&scratch, &made);
        }
    }
    for (number, stretches) in [2, 3, 7, 12, 20, 40, 400].into_iter().enumerate() {
        let made = Plan::random(random, kind, stretches, 40).make(&scratch, &format!("mixed.{number}"));
        if check(&made.path, &[]).status == 1 {
            assert_mends(&scratch, &made);
        }
    }
}

#[test]
fn prepares_on_xfs_with_reflink() {
    mends_everything("prepares_on_xfs_with_reflink", &[xfs(true, false, 4096)]);
}

#[test]
fn prepares_on_xfs_with_reflink_and_rmapbt() {
    mends_everything("prepares_on_xfs_with_reflink_and_rmapbt", &[xfs(true, true, 4096)]);
}

#[test]
fn prepares_on_xfs_with_small_blocks() {
    let kinds = [false, true].map(|rmapbt| xfs(true, rmapbt, 1024));
    mends_everything("prepares_on_xfs_with_small_blocks", &kinds);
}

#[test]
fn prepares_on_xfs_without_reflink() {
    let kinds = [xfs(false, false, 4096), xfs(false, true, 4096), xfs(false, false, 1024), xfs(false, true, 1024)];
    mends_everything("prepares_on_xfs_without_reflink", &kinds);
}

#[test]
fn prepares_on_ext4() {
    mends_everything("prepares_on_ext4", &[ext4(4096), ext4(1024)]);
}

fn mends_many_extents(test: &str, kinds: &[Kind]) {
    for kind in kinds {
        let scratch = Scratch::new(kind.clone());
        let made = Plan::random(&mut Random::new(test), kind, 10_000, 3).make(&scratch, "file");
        assert_mends(&scratch, &made);
    }
}

#[test]
fn prepares_ten_thousand_extents_on_xfs() {
    mends_many_extents("prepares_ten_thousand_extents_on_xfs", &[xfs(true, true, 4096)]);
}

#[test]
fn prepares_ten_thousand_extents_on_ext4() {
    mends_many_extents("prepares_ten_thousand_extents_on_ext4", &[ext4(1024)]);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn prepares_ten_thousand_extents_everywhere() {
    let kinds = [Kind::pinnable(), vec![xfs(true, true, 1024), xfs(false, true, 1024)]].concat();
    mends_many_extents("prepares_ten_thousand_extents_everywhere", &kinds);
}

/// prepare leaves each subset of kinds alone exactly, even if other processes have the file open.
fn leaves_alone(kind: &Kind, by: &str, beside: bool) {
    let scratch = Scratch::new(kind.clone());
    let block = kind.block_size();
    let (hole, unwritten, shared) = (Sort::Hole, Sort::Unwritten, Sort::Shared);
    let mut stretches =
        vec![(Sort::Written, 4), (hole, 7), (Sort::Written, 2), (unwritten, 9), (hole, 20), (Sort::Written, 1)];
    if reflinks(kind) {
        stretches.extend([(shared, 6), (hole, 3), (shared, 2), (unwritten, 4), (shared, 3)]);
    }
    stretches.extend([(hole, 2), (unwritten, 2)]);
    for allowed in 0..8 {
        let allow: Vec<&str> = ["hole", "unwritten", "shared"]
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| allowed >> bit & 1 == 1)
            .map(|(_, kind)| kind)
            .collect();
        for last in [Sort::Written, hole, unwritten] {
            let stretches = stretches.iter().copied().chain([(last, 1)]).collect();
            let plan = Plan { stretches, cut: block / 3, past_eof: !beside, staging: reflinks(kind) };
            let made = plan.make(&scratch, &format!("{by}.{allowed}.{last:?}"));
            let (before, peer) = (look(&made.path), look(&made.peer));
            let other = beside.then(|| held_open(&made.path, false));
            let list = allow.join(",");
            let options = if list.is_empty() { vec![] } else { vec!["--allow", list.as_str()] };
            let run = prepare(&made.path, &options).expect(0);
            drop(other);
            let nothing_to_do = allowed == 7 && !made.plan.past_eof;
            let action = if nothing_to_do { "already_prepared" } else { "prepared" };
            assert_eq!(run.file()["action"], action, "{run}");
            check(&made.path, &options).expect(0);

            let now = look(&made.path);
            let says = || format!("--allow {list}: {run}\nbefore: {before:#?}\nnow: {now:#?}");
            assert_eq!((&now.digest, now.size), (&before.digest, before.size), "{}", says());
            for (sort, start, end) in made.stretches() {
                let found = sort_of(&now.map, start, end);
                let left = |kind| allow.contains(&kind);
                match sort {
                    Sort::Hole if left("hole") => assert_eq!(found, Some(Sort::Hole), "{start}: {}", says()),
                    Sort::Hole if left("unwritten") => {
                        assert!(matches!(found, Some(Sort::Unwritten | Sort::Written)), "{start}: {}", says());
                    }
                    Sort::Unwritten if left("unwritten") => {
                        assert_eq!(found, Some(Sort::Unwritten), "{start}: {}", says());
                        assert_eq!(cut_out(&now.map, start, end), cut_out(&before.map, start, end), "{}", says());
                    }
                    Sort::Shared if left("shared") => {
                        assert_eq!(found, Some(Sort::Shared), "{start}: {}", says());
                        assert_eq!(cut_out(&now.map, start, end), cut_out(&before.map, start, end), "{}", says());
                    }
                    _ => assert_eq!(found, Some(Sort::Written), "{start}: {}", says()),
                }
            }
            assert!(now.map.iter().all(|piece| piece.logical < made.end()), "{}", says());
            if !allow.contains(&"shared") {
                let most = total(&now.map) + overhead(kind, before.map.len().max(now.map.len()));
                assert!(now.allocated <= most, "{} of {most} at most: {}", now.allocated, says());
            }
            let peer_now = look(&made.peer);
            assert_eq!((peer_now.digest, places(&peer_now.map)), (peer.digest, places(&peer.map)));
            fs::remove_file(&made.path).unwrap();
        }
    }
}

/// The part of a map that lies in a range.
fn cut_out(map: &[Piece], start: u64, end: u64) -> Vec<Piece> {
    let within = map.iter().filter_map(|piece| {
        let (from, to) = (piece.logical.max(start), (piece.logical + piece.length).min(end));
        let part = |length| Piece { logical: from, physical: piece.physical + from - piece.logical, length, ..*piece };
        to.checked_sub(from).filter(|&length| length > 0).map(part)
    });
    within.collect()
}

#[test]
fn prepare_leaves_allowed_blockers() {
    for kind in [xfs(true, false, 4096), xfs(true, true, 1024), xfs(false, false, 4096), ext4(4096), ext4(1024)] {
        leaves_alone(&kind, "leased", false);
    }
}

#[test]
fn prepare_beside_others_leaves_allowed_blockers() {
    for kind in [xfs(true, false, 4096), xfs(true, true, 1024)] {
        leaves_alone(&kind, "deduped", true);
    }
}

/// Every change of contents or map goes through one of these calls.
const CHANGING: &str = "trace=pwrite64,write,fallocate,ftruncate,ioctl";

/// The bytes that a traced run wrote to files with pwrite64(2).
fn written(trace: &Path) -> u64 {
    let trace = fs::read_to_string(trace).unwrap();
    let calls = trace.lines().filter(|line| line.contains("pwrite64("));
    calls.map(|line| line.rsplit("= ").next().unwrap().trim().parse::<u64>().unwrap_or(0)).sum()
}

#[test]
fn a_dry_run_changes_nothing_and_tells_the_bounds() {
    require(&["strace"]);
    let mut random = Random::new("a_dry_run_changes_nothing_and_tells_the_bounds");
    for kind in [xfs(true, true, 4096), xfs(true, false, 1024), xfs(false, false, 4096), ext4(4096), ext4(1024)] {
        let scratch = Scratch::new(kind.clone());
        for number in 0..4 {
            let made = Plan::random(&mut random, &kind, 8 + 5 * number, 30).make(&scratch, &format!("{number}"));
            if check(&made.path, &[]).status == 0 {
                continue;
            }
            let before = look(&made.path);
            let dry = prepare(&made.path, &["--dry-run"]).expect(0);
            assert_eq!(look(&made.path), before, "{dry}");
            let dry = dry.file();
            assert_eq!(dry["action"], "would_prepare");
            let gaps = made.bytes(Sort::Hole) + made.bytes(Sort::Unwritten);
            let (write, allocate) = (dry["work"]["write"].as_u64().unwrap(), dry["work"]["allocate"].as_u64().unwrap());
            assert_eq!(write, gaps + made.bytes(Sort::Shared), "{dry:#}");
            assert_eq!(allocate, made.bytes(Sort::Hole) + made.bytes(Sort::Shared), "{dry:#}");

            let trace = scratch.path("trace");
            let wrapper = ["strace", "-f", "-e", CHANGING, "-o", trace.to_str().unwrap()];
            let run = Daxfile::new(["prepare", "--json"]).arg(&made.path).wrap(wrapper).run().expect(0);
            assert_eq!(run.file()["work"], dry["work"], "{run}");
            let now = look(&made.path);
            let more = now.allocated.saturating_sub(before.allocated);
            let map = overhead(&kind, before.map.len().max(now.map.len()));
            assert!(more <= allocate + map, "{more} more allocated, {allocate} told: {run}");
            assert!(written(&trace) <= write, "{} written, {write} told: {run}", written(&trace));
            assert!(written(&trace) <= gaps.min(write), "{run}");
        }
    }
}

/// Other processes have the file open: readers, and writers that do not write.
#[test]
fn prepare_beside_others_succeeds_or_is_busy() {
    let mixed = [
        (Sort::Written, 5),
        (Sort::Hole, 9),
        (Sort::Unwritten, 6),
        (Sort::Shared, 8),
        (Sort::Written, 3),
        (Sort::Hole, 4100),
        (Sort::Shared, 1),
        (Sort::Unwritten, 2),
    ];
    for kind in [xfs(true, false, 4096), xfs(true, true, 1024), xfs(false, true, 4096), ext4(4096)] {
        let scratch = Scratch::new(kind.clone());
        let block = kind.block_size();
        for (number, write) in [false, true].into_iter().enumerate() {
            let mut number = number * 100;
            let mut plan = |stretches: &[(Sort, u64)], cut, past_eof| {
                let stretches: Vec<_> =
                    stretches.iter().copied().filter(|(sort, _)| reflinks(&kind) || *sort != Sort::Shared).collect();
                number += 1;
                let staging = reflinks(&kind) && stretches.len() > 2;
                Plan { past_eof, staging, ..Plan::of(&stretches, cut) }.make(&scratch, &format!("{number}"))
            };
            let plans = [
                plan(&mixed, 0, false),
                plan(&mixed, 5, false),
                plan(&[&mixed[..], &[(Sort::Hole, 1)]].concat(), block - 1, false),
                plan(&[(Sort::Hole, 1)], 1, false),
                plan(&[(Sort::Written, 2), (Sort::Unwritten, 1)], block / 2, false),
                plan(&[(Sort::Written, 2), (Sort::Hole, 2)], 0, true),
            ];
            for made in plans {
                let (before, peer) = (look(&made.path), look(&made.peer));
                let other = held_open(&made.path, write);
                let run = prepare(&made.path, &[]);
                drop(other);
                if reflinks(&kind) && !made.plan.past_eof {
                    assert_eq!(run.expect(0).file()["action"], "prepared");
                    assert_prepared(&scratch, &made.path, &before);
                } else {
                    assert!(run.clone().expect(5).stderr.contains("busy: open by"), "{run}");
                    assert_eq!(look(&made.path), before, "{run}");
                    prepare(&made.path, &[]).expect(0);
                    assert_prepared(&scratch, &made.path, &before);
                }
                let now = look(&made.peer);
                assert_eq!((now.digest, places(&now.map)), (peer.digest, places(&peer.map)));
            }
        }
    }
}

/// A file with work for prepare, of each kind that needs no help from other processes.
fn a_file(scratch: &Scratch, name: &str) -> Made {
    let stretches = [(Sort::Written, 4), (Sort::Hole, 4), (Sort::Unwritten, 4), (Sort::Written, 4)];
    let mut plan = Plan::of(&stretches, 9);
    if reflinks(scratch.kind()) {
        plan.stretches.push((Sort::Shared, 4));
    }
    plan.make(scratch, name)
}

#[test]
fn prepare_leaves_unpinnable_files() {
    require(&["chattr", "swapon"]);
    for kind in [xfs(true, true, 4096), ext4(4096)] {
        let scratch = Scratch::new(kind.clone());
        for (flag, blocker) in [("i", "immutable"), ("a", "append_only")] {
            let made = a_file(&scratch, blocker);
            sh(format!("chattr +{flag} '{}'", made.path.display()));
            let before = look(&made.path);
            let run = prepare(&made.path, &[]).expect(1);
            assert!(kinds(&run.file()).contains(&blocker.to_owned()), "{run}");
            assert_eq!(look(&made.path), before);
            sh(format!("chattr -{flag} '{}'", made.path.display()));
            prepare(&made.path, &[]).expect(0);
        }

        // The file is pinned: there is nothing to prepare, or the pin accepted the blockers.
        let made = a_file(&scratch, "pinned");
        Daxfile::new(["pin", "--allow", "hole,unwritten,shared"]).arg(&made.path).run().expect(0);
        let before = look(&made.path);
        let run = prepare(&made.path, &[]).expect(1);
        assert!(kinds(&run.file()).contains(&"hole".to_owned()), "{run}");
        assert_eq!(look(&made.path), before);
        Daxfile::new(["verify"]).arg(&made.path).run().expect(0);
        Daxfile::new(["unpin"]).arg(&made.path).run().expect(0);
        prepare(&made.path, &[]).expect(0);
        Daxfile::new(["pin"]).arg(&made.path).run().expect(0);
        let before = look(&made.path);
        let run = prepare(&made.path, &[]).expect(0);
        assert_eq!(run.file()["action"], "already_prepared", "{run}");
        assert_eq!(look(&made.path), before);
        Daxfile::new(["unpin"]).arg(&made.path).run().expect(0);

        // A swapfile has no holes, but may have blocks past EOF.
        let swap = scratch.path("swap");
        sh(format!(
            "dd if=/dev/zero of='{0}' bs=1M count=4 status=none; fallocate -n -o 8M -l 64K '{0}'; chmod 600 '{0}'
             mkswap '{0}' >/dev/null; sync '{0}'; swapon '{0}'",
            swap.display()
        ));
        let before = (allocated(&swap), fs::metadata(&swap).unwrap().ctime_nsec(), filefrag(&swap));
        let run = prepare(&swap, &[]);
        sh(format!("swapoff '{}'", swap.display()));
        assert!(kinds(&run.clone().expect(5).file()).contains(&"swapfile".to_owned()), "{run}");
        assert_eq!((allocated(&swap), fs::metadata(&swap).unwrap().ctime_nsec(), filefrag(&swap)), before);
        prepare(&swap, &[]).expect(0);

        // A running program.
        let program = scratch.path("sleep");
        sh(format!("install /bin/sleep '{0}'; fallocate -n -o 8M -l 64K '{0}'", program.display()));
        let before = look(&program);
        let mut child = Killed(spawn(Command::new(&program).arg("60")));
        let run = prepare(&program, &[]).expect(5);
        assert_eq!(run.file()["error"]["errno"], Errno::ETXTBSY as i32, "{run}");
        assert_eq!(look(&program), before);
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        prepare(&program, &[]).expect(0);
        assert_prepared(&scratch, &program, &before);
    }
}

/// Another program that keeps the file open until it is dropped.
#[track_caller]
fn held_open(path: &Path, write: bool) -> Killed {
    let script = if write { "exec <>\"$0\"; echo; exec sleep 600" } else { "exec <\"$0\"; echo; exec sleep 600" };
    let mut command = Command::new("bash");
    command.args(["-c", script]).arg(path).stdout(Stdio::piped());
    let mut child = Killed(spawn(&mut command));
    child.0.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    child
}

#[test]
fn prepare_refuses_a_read_only_mount() {
    for kind in [xfs(true, false, 4096), ext4(4096)] {
        let mut scratch = Scratch::new(kind);
        let (made, done) = (a_file(&scratch, "file"), a_file(&scratch, "done"));
        prepare(&done.path, &[]).expect(0);
        scratch.remount_with("ro");
        let before = look(&made.path);
        let run = prepare(&made.path, &[]).expect(3);
        assert_eq!(run.file()["error"]["errno"], Errno::EROFS as i32, "{run}");
        assert_eq!(look(&made.path), before);
        assert_eq!(prepare(&done.path, &[]).expect(0).file()["action"], "already_prepared");
    }
}

#[test]
fn unprivileged_user_prepares_own_files() {
    for kind in [xfs(true, true, 4096), xfs(true, false, 4096), ext4(4096)] {
        let scratch = Scratch::new(kind.clone());
        fs::set_permissions(scratch.mount_point(), fs::Permissions::from_mode(0o777)).unwrap();
        let nobody = |made: &Made, options: &[&str]| {
            Daxfile::new(["prepare", "--json"]).arg(&made.path).args(options).as_nobody().run()
        };
        for (number, past_eof) in [false, true].into_iter().enumerate() {
            let mut made = a_file(&scratch, &format!("own.{number}"));
            made.plan.past_eof = past_eof;
            if past_eof {
                xfs_io(&made.path, &[format!("falloc -k {} 64k", made.end())]);
            }
            chown(&made.path, Some(65534), Some(65534)).unwrap();
            let before = look(&made.path);
            assert_eq!(nobody(&made, &[]).expect(0).file()["action"], "prepared");
            assert_prepared(&scratch, &made.path, &before);
        }

        // Beside a reader.
        let made = a_file(&scratch, "read");
        chown(&made.path, Some(65534), Some(65534)).unwrap();
        let before = look(&made.path);
        let reader = held_open(&made.path, false);
        let run = nobody(&made, &[]);
        drop(reader);
        if reflinks(&kind) {
            assert_eq!(run.expect(0).file()["action"], "prepared");
            assert_prepared(&scratch, &made.path, &before);

            // If holes stay, only CAP_SYS_ADMIN drops staging.
            let plan = Plan { staging: true, ..Plan::of(&[(Sort::Written, 9), (Sort::Hole, 9)], 0) };
            let made = plan.make(&scratch, "staging");
            chown(&made.path, Some(65534), Some(65534)).unwrap();
            let before = look(&made.path);
            let run = nobody(&made, &["--allow", "hole"]).expect(4);
            assert!(run.file()["error"]["call"].as_str().unwrap().contains("FREE_EOFBLOCKS"), "{run}");
            assert_eq!(checksum(&made.path), before.digest);
            assert_eq!(nobody(&made, &[]).expect(0).file()["action"], "prepared");
            assert_prepared(&scratch, &made.path, &before);
        } else {
            run.expect(5);
            assert_eq!(look(&made.path), before);
        }

        // A file of another user, readable and not.
        let made = a_file(&scratch, "others");
        for mode in [0o644, 0o600] {
            fs::set_permissions(&made.path, fs::Permissions::from_mode(mode)).unwrap();
            let before = look(&made.path);
            let run = nobody(&made, &[]).expect(4);
            assert_eq!(run.file()["error"]["errno"], Errno::EACCES as i32, "{run}");
            assert_eq!(look(&made.path), before);
        }
        // Writable, but a lease takes the owner.
        fs::set_permissions(&made.path, fs::Permissions::from_mode(0o666)).unwrap();
        let before = look(&made.path);
        nobody(&made, &[]).expect(4);
        assert_eq!(look(&made.path), before);
        prepare(&made.path, &[]).expect(0);
        assert_prepared(&scratch, &made.path, &before);
    }
}

/// Free blocks and inodes, as df(1) counts them.
fn free(scratch: &Scratch) -> String {
    sh(format!("sync -f '{0}'; stat -f -c '%f %a %d' '{0}'", scratch.mount_point().display()))
}

#[test]
fn a_file_larger_than_its_filesystem_is_refused_at_once() {
    for kind in [xfs(true, false, 4096), xfs(true, true, 1024), xfs(false, false, 4096), ext4(4096)] {
        let scratch = Scratch::with_size(kind.clone(), 1024 * MIB);
        let path = scratch.path("sparse");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        File::open(scratch.mount_point()).unwrap().sync_all().unwrap();
        for beside in [false, true] {
            let other = beside.then(|| held_open(&path, false));
            let ctime = fs::metadata(&path).unwrap().ctime_nsec();
            let before = free(&scratch);
            for options in [&[][..], &["--dry-run"]] {
                let run = prepare(&path, options).expect(2);
                let report = run.file();
                assert_eq!(report["work"], json!({"write": 1u64 << 40, "allocate": 1u64 << 40}), "{run}");
                assert_eq!(report["error"]["errno"], Errno::ENOSPC as i32, "{run}");
                assert!(run.stderr.contains("needs 1 TiB") && run.stderr.contains("MiB are free"), "{run}");
                assert_eq!((allocated(&path), fs::metadata(&path).unwrap().ctime_nsec()), (0, ctime), "{run}");
                assert_eq!(free(&scratch), before, "{run}");
            }
            drop(other);
        }
        // Ranges that stay holes take no space.
        assert_eq!(prepare(&path, &["--allow", "hole"]).expect(0).file()["action"], "already_prepared");
        assert_eq!(allocated(&path), 0);
    }
}

/// Prepares a file, and takes all space but `left` once the trace shows `sign` and while the next `call` waits. Gives
/// the report of a failure, with the space given back.
#[track_caller]
fn fill_meanwhile(scratch: &Scratch, path: &Path, call: &str, sign: &str, left: u64) -> Value {
    require(&["strace", "fallocate"]);
    // Outside the filesystem, because it grows while the disk is full.
    let trace = scratch.image().with_file_name("trace");
    let inject = format!("inject={call}:delay_enter=2s:when=1");
    let wrapper = ["strace", "-e", "trace=openat,ioctl,flock,fallocate", "-e", &inject, "-o", trace.to_str().unwrap()];
    let mut command = Daxfile::new(["prepare", "--json"]).arg(path).wrap(wrapper).command();
    let mut child = Killed(spawn(command.stdout(Stdio::piped()).stderr(Stdio::null())));
    wait_until("it is so far", || fs::read_to_string(&trace).is_ok_and(|text| text.contains(sign)));
    let filler = scratch.path("filler");
    sh(format!("fallocate -l {} '{}'", available(scratch) - left, filler.display()));
    let status = child.0.wait().unwrap();
    let mut report = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    fs::remove_file(&filler).unwrap();
    sh(format!("sync -f '{}'", scratch.mount_point().display()));
    assert_eq!(status.code(), Some(2), "{report}\n{}", fs::read_to_string(&trace).unwrap());
    serde_json::from_str::<Value>(&report).unwrap()["files"][0].clone()
}

fn available(scratch: &Scratch) -> u64 {
    let numbers = sh(format!("stat -f -c '%a %S' '{}'", scratch.mount_point().display()));
    numbers.split_whitespace().map(|number| number.parse::<u64>().unwrap()).product()
}

/// Another program takes the space after it was compared, and before it is used.
#[test]
fn a_disk_that_fills_up_harms_nothing() {
    for kind in [xfs(true, true, 4096), xfs(false, false, 4096), ext4(4096), ext4(1024)] {
        let scratch = Scratch::new(kind.clone());
        let blocks = |mib: u64| mib * MIB / kind.block_size();
        let stretches =
            [(Sort::Written, 3), (Sort::Hole, 5), (Sort::Written, 3), (Sort::Hole, blocks(100)), (Sort::Unwritten, 5)];
        let made = Plan::of(&stretches, 7).make(&scratch, "file");
        let before = look(&made.path);
        let report = fill_meanwhile(&scratch, &made.path, "flock", "O_RDWR", 40 * MIB);
        assert_eq!(report["error"]["errno"], Errno::ENOSPC as i32, "{report:#}");
        assert_eq!(
            (checksum(&made.path), fs::metadata(&made.path).unwrap().len()),
            (before.digest.clone(), before.size)
        );
        // prepare has freed the blocks that it could not use.
        assert!(allocated(&made.path) < before.allocated + MIB, "{:?}", filefrag(&made.path));
        prepare(&made.path, &[]).expect(0);
        assert_prepared(&scratch, &made.path, &before);
    }
}

/// The same beside others: the zeros are in, and there is no room to unshare them.
#[test]
fn a_disk_that_fills_up_beside_others_harms_nothing() {
    let scratch = Scratch::new(xfs(true, true, 4096));
    let stretches =
        [(Sort::Written, 100), (Sort::Hole, 1000), (Sort::Shared, 2000), (Sort::Hole, 9000), (Sort::Unwritten, 1000)];
    let made = Plan::of(&stretches, 77).make(&scratch, "file");
    let before = look(&made.path);
    let reader = held_open(&made.path, false);
    let report = fill_meanwhile(&scratch, &made.path, "fallocate", "FIDEDUPERANGE", 10 * MIB);
    assert_eq!(report["error"]["errno"], Errno::ENOSPC as i32, "{report:#}");
    assert_eq!((checksum(&made.path), fs::metadata(&made.path).unwrap().len()), (before.digest.clone(), before.size));
    assert_eq!(prepare(&made.path, &[]).expect(0).file()["action"], "prepared");
    drop(reader);
    assert_prepared(&scratch, &made.path, &before);
}

/// Calls `act` with a reader inside the file and `left` bytes of free space, then prepares the file with all space.
fn with_little_space(scratch: &Scratch, made: &Made, left: u64, act: impl FnOnce(&Seen)) {
    let before = look(&made.path);
    let filler = scratch.path("filler");
    sh(format!("fallocate -l {} '{}'", available(scratch) - left, filler.display()));
    let reader = held_open(&made.path, false);
    act(&before);
    fs::remove_file(&filler).unwrap();
    sh(format!("sync -f '{}'", made.path.display()));
    prepare(&made.path, &[]).expect(0);
    drop(reader);
    assert_prepared(scratch, &made.path, &before);
}

/// Beside others there must be room for the donor, too.
#[test]
fn a_donor_that_does_not_fit_harms_nothing() {
    let scratch = Scratch::new(xfs(true, false, 4096));
    let blocks = |mib: u64| mib * MIB / 4096;
    let stretches = [(Sort::Written, 3), (Sort::Hole, blocks(100)), (Sort::Unwritten, blocks(20))];
    let made = Plan::of(&stretches, 7).make(&scratch, "file");
    with_little_space(&scratch, &made, 110 * MIB, |before| {
        let run = prepare(&made.path, &[]).expect(2);
        assert!(run.stderr.contains("are free"), "{run}");
        assert_eq!(look(&made.path), *before);
    });
}

/// A gap of a block takes no donor of megabytes.
#[test]
fn a_donor_is_no_larger_than_the_gaps() {
    let scratch = Scratch::new(xfs(true, false, 4096));
    let stretches = [(Sort::Written, 8192), (Sort::Unwritten, 1), (Sort::Hole, 1), (Sort::Written, 1)];
    let made = Plan::of(&stretches, 0).make(&scratch, "file");
    // Where holes are filled, XFS reserves as much as the whole file has.
    with_little_space(&scratch, &made, 3 * MIB, |_| {
        prepare(&made.path, &["--allow", "hole"]).expect(0);
    });
}

#[test]
fn concurrent_prepares_do_no_harm() {
    for kind in [xfs(true, true, 4096), ext4(4096)] {
        let scratch = Scratch::new(kind.clone());
        for round in 0..6 {
            let stretches = [(Sort::Written, 100), (Sort::Hole, 5000), (Sort::Unwritten, 5000), (Sort::Written, 10)];
            let made = Plan::of(&stretches, 77).make(&scratch, &format!("{round}"));
            let before = look(&made.path);
            let runs: Vec<Run> = std::thread::scope(|scope| {
                let both = [(); 2].map(|()| scope.spawn(|| prepare(&made.path, &[])));
                both.into_iter().map(|run| run.join().unwrap()).collect()
            });
            assert!(runs.iter().all(|run| [0, 5].contains(&run.status)), "{} {}", runs[0], runs[1]);
            assert_eq!(checksum(&made.path), before.digest);
            prepare(&made.path, &[]).expect(0);
            assert_prepared(&scratch, &made.path, &before);
            fs::remove_file(&made.path).unwrap();
        }
    }
}

/// Bytes that a process has sent to storage.
fn sent(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.map_or(0, |bytes| bytes.parse().unwrap())
}

#[test]
fn an_interrupted_run_leaves_the_contents_and_can_be_repeated() {
    for (kind, beside) in [(xfs(true, false, 4096), false), (xfs(true, false, 4096), true), (ext4(4096), false)] {
        let size = if beside {
            256 * MIB
        } else if kind.name() == "ext4" {
            512 * MIB
        } else {
            1024 * MIB
        };
        let scratch = Scratch::with_size(kind.clone(), 2048 * MIB);
        let blocks = size / kind.block_size();
        let stretches = [
            (Sort::Written, 50),
            (Sort::Hole, blocks / 2),
            (Sort::Written, 50),
            (Sort::Unwritten, blocks / 2 - 200),
            (Sort::Written, 100),
        ];
        let made = Plan::of(&stretches, 1).make(&scratch, "file");
        let before = look(&made.path);
        let other = beside.then(|| held_open(&made.path, false));
        let mut child = Killed(spawn(&mut Daxfile::new(["prepare"]).arg(&made.path).command()));
        // Under a lease prepare writes all zeros; beside other processes it writes a donor of zeros, and then copies.
        let middle = if beside { 32 * MIB } else { size / 4 };
        wait_until("it is in the middle", || sent(child.0.id()) > middle || child.0.try_wait().unwrap().is_some());
        kill(Pid::from_raw(child.0.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let status = child.0.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{status}");
        assert_eq!(
            (checksum(&made.path), fs::metadata(&made.path).unwrap().len()),
            (before.digest.clone(), before.size)
        );
        check(&made.path, &[]).expect(1);
        prepare(&made.path, &[]).expect(0);
        drop(other);
        assert_prepared(&scratch, &made.path, &before);
    }
}

/// An extent-size hint makes the filesystem allocate more than was asked for, past EOF too.
#[test]
fn an_extent_size_hint_leaves_nothing_past_eof() {
    let scratch = Scratch::new(xfs(true, true, 4096));
    for beside in [false, true] {
        let path = scratch.path(format!("{beside}"));
        xfs_io(&path, &["extsize 1m".into(), "truncate 100001".into()]);
        let before = look(&path);
        let other = beside.then(|| held_open(&path, false));
        let run = prepare(&path, &[]);
        drop(other);
        if beside {
            assert!([0, 5].contains(&run.status), "{run}");
            assert_eq!(checksum(&path), before.digest);
        } else {
            run.expect(0);
        }
        prepare(&path, &[]).expect(0);
        assert_prepared(&scratch, &path, &before);
    }
}

/// After a time the kernel breaks a lease by force. A call that was decided upon before must not overwrite or cut later
/// writes.
#[test]
#[ignore = "long: tests/run.sh --full"]
fn a_lease_that_was_broken_by_force_protects_nothing() {
    require(&["strace"]);
    let patience: u64 = fs::read_to_string("/proc/sys/fs/lease-break-time").unwrap().trim().parse().unwrap();
    for (kind, past_eof, call) in [
        (ext4(4096), false, "fallocate"),
        (xfs(false, false, 4096), false, "fallocate"),
        (xfs(true, true, 4096), true, "fallocate"),
    ] {
        let scratch = Scratch::new(kind.clone());
        let mut stretches = vec![(Sort::Written, 4), (Sort::Hole, 4), (Sort::Written, 4)];
        if past_eof {
            stretches[1] = (Sort::Shared, 4);
        }
        let made = Plan { past_eof, ..Plan::of(&stretches, 0) }.make(&scratch, "file");
        let trace = scratch.path("trace");
        let inject = format!("inject={call}:delay_exit={}s:when={}", patience + 5, if past_eof { "1+" } else { "1" });
        let wrapper = ["strace", "-e", "trace=fallocate,fcntl", "-e", &inject, "-o", trace.to_str().unwrap()];
        let mut command = Daxfile::new(["prepare", "--json"]).arg(&made.path).wrap(wrapper).command();
        let mut child = Killed(spawn(command.stdout(Stdio::piped())));
        wait_until("it has the lease", || {
            fs::read_to_string(&trace).is_ok_and(|text| text.contains("F_SETLEASE, F_WRLCK"))
        });
        sleep(Duration::from_secs(1));
        let other = OpenOptions::new().write(true).open(&made.path).unwrap();
        other.write_all_at(b"a hole no longer", 4 * 4096).unwrap();
        other.write_all_at(&[b'x'; 8192], 12 * 4096).unwrap();
        other.sync_all().unwrap();
        child.0.wait().unwrap();
        let mut now = vec![0; 16];
        let reader = File::open(&made.path).unwrap();
        reader.read_exact_at(&mut now, 4 * 4096).unwrap();
        assert_eq!(now, b"a hole no longer", "{}", kind.name());
        assert_eq!(reader.metadata().unwrap().len(), 14 * 4096, "{}", kind.name());
    }
}
