//! Each blocker, on a file made with ordinary tools: `check` names it with the right ranges, and its remedy removes
//! it.
//!
//! Kinds for which there is no file here:
//! - `delalloc`: every read of a map writes dirty pages back first, so the tests show that it is gone.
//! - `unknown_address`: on this kernel, filesystems show an extent at an unknown place only for delayed allocation.
//! - `verity`: needs a kernel with CONFIG_FS_VERITY; without it a file with that flag cannot be opened.
//! - `realtime`: needs a kernel with CONFIG_XFS_RT; without it no XFS with a realtime device can be mounted, and an
//!   inode with that flag counts as corrupt.
//! - `not_dax`, `dax_unavailable`, `no_map_sync`: see dax.rs.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use daxfile_tests::child::finish;
use daxfile_tests::tools::{Piece, checksum, filefrag, flags, inode, on, require, sh, sh_status};
use daxfile_tests::{Daxfile, Ext4, Kind, Scratch, notes, on_each, report, run, words_of};
use serde_json::{Value, json};

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;

/// (logical, length)
type Ranges = Vec<(u64, u64)>;

/// Joins consecutive ranges.
fn joined(ranges: impl IntoIterator<Item = (u64, u64)>) -> Ranges {
    let mut all: Ranges = Vec::new();
    for (logical, length) in ranges {
        match all.last_mut() {
            Some((from, so_far)) if *from + *so_far == logical => *so_far += length,
            _ => all.push((logical, length)),
        }
    }
    all
}

/// The parts of the pieces of one sort between two offsets.
fn parts(pieces: &[Piece], from: u64, to: u64, sort: impl Fn(&Piece) -> bool) -> Ranges {
    let cut = |p: &Piece| (p.logical.max(from), (p.logical + p.length).min(to));
    let cuts = pieces.iter().filter(|p| sort(p)).map(cut).filter(|(start, end)| start < end);
    joined(cuts.map(|(start, end)| (start, end - start)))
}

/// The ranges in filefrag's output, for those blockers that a map shows.
fn shown_by_filefrag(file: &Path, block: u64) -> [(&'static str, Ranges); 4] {
    let end = fs::metadata(file).unwrap().len().next_multiple_of(block);
    let pieces = filefrag(file);
    let mut holes = Vec::new();
    let mut position = 0;
    for (logical, length) in parts(&pieces, 0, end, |_| true).into_iter().chain([(end, 0)]) {
        if position < logical {
            holes.push((position, logical - position));
        }
        position = logical + length;
    }
    [
        ("hole", holes),
        ("unwritten", parts(&pieces, 0, end, |p| p.unwritten)),
        ("shared", parts(&pieces, 0, end, |p| p.shared)),
        ("past_eof", parts(&pieces, end, u64::MAX, |_| true)),
    ]
}

/// `check` finds just these blockers, whole-file ones without ranges; `stat` names the same, and `pin` refuses with the
/// same and leaves the file alone. Gives the remedies.
#[track_caller]
fn assert_blocked(needs: &[&str], file: &Path, status: i32, expected: &[(&str, Ranges)]) -> Vec<String> {
    let verb = |name| [&[name], needs].concat();
    let checked = report(&verb("check"), file, status);
    let blockers = checked["blockers"].as_array().unwrap_or_else(|| panic!("no blockers: {checked}"));
    let mut names: Vec<&str> = blockers.iter().map(|blocker| blocker["kind"].as_str().unwrap()).collect();
    let mut wanted: Vec<&str> = expected.iter().map(|(kind, _)| *kind).collect();
    names.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(names, wanted, "{checked}");
    assert_eq!(checked["error"], Value::Null, "{checked}");

    let text = run(&[&verb("check")[..], &["--verbose", "--bytes"]].concat(), file).expect(status);
    let remedies = expected.iter().map(|(kind, ranges)| {
        let blocker = blockers.iter().find(|blocker| blocker["kind"] == *kind).unwrap();
        let number = |range: &Value, key| range[key].as_u64().unwrap();
        let found = blocker["ranges"].as_array().unwrap();
        let found: Ranges = found.iter().map(|range| (number(range, "logical"), number(range, "length"))).collect();
        // Ranges that are off by different amounts stay apart.
        let found = if *kind == "misaligned" { joined(found) } else { found };
        assert_eq!(found, *ranges, "{kind}: {checked}");
        assert_eq!(blocker["bytes"], ranges.iter().map(|(_, length)| length).sum::<u64>(), "{kind}: {checked}");
        let remedy = blocker["remedy"].as_str().unwrap();
        assert!(!remedy.is_empty() && !blocker["detail"].as_str().unwrap().is_empty(), "{kind}: {checked}");
        assert!(text.text().contains(&format!("{}:", words_of(kind))) && text.text().contains(remedy), "{text}");
        if *kind != "misaligned" {
            let size = fs::metadata(file).unwrap().len();
            for (logical, length) in ranges {
                // For the last block, the text counts only the bytes within the file.
                let shown = if *logical < size { (*length).min(size - logical) } else { *length };
                assert!(text.text().contains(&format!("{shown} at byte {logical}")), "{text}");
            }
        }
        remedy.to_owned()
    });
    let remedies = remedies.collect();

    if needs.is_empty() {
        // check names the sharers, and so does pin when it refuses.
        let mut without_sharers = checked["blockers"].clone();
        for blocker in without_sharers.as_array_mut().into_iter().flatten() {
            blocker.as_object_mut().map(|blocker| blocker.remove("sharers"));
        }
        assert_eq!(report(&["stat"], file, 0)["blockers"], without_sharers);
    }
    let before = inode(file);
    assert_eq!(report(&verb("pin"), file, status)["blockers"], checked["blockers"]);
    assert_eq!(inode(file), before);
    super::answers::agree_as_it_is(needs, file);
    remedies
}

/// Types the remedy into a shell; `NEW` is a name that the user chooses.
#[track_caller]
pub(super) fn follow(remedy: &str, new: &Path) {
    let program = Daxfile::new([""; 0]).command().get_program().to_owned();
    let mut path = OsString::from(Path::new(&program).parent().unwrap());
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let command = remedy.replace("NEW", new.to_str().unwrap());
    let out = finish(Command::new("bash").args(["-euc", &command]).env("PATH", path));
    assert!(out.status.success(), "{command}\n{out:?}");
}

/// The file is blocked; after its own remedies it is not, and its contents are unchanged.
#[track_caller]
fn assert_remedied(needs: &[&str], file: &Path, expected: &[(&str, Ranges)]) {
    let contents = checksum(file);
    for remedy in assert_blocked(needs, file, 1, expected) {
        follow(&remedy, Path::new("/nonexistent"));
    }
    run(&[&["check"], needs].concat(), file).expect(0);
    assert_eq!(checksum(file), contents);
}

/// The same for a blocker that only a copy removes: the copy is on `elsewhere`.
#[track_caller]
fn assert_copied(file: &Path, elsewhere: &Scratch, status: i32, expected: &[(&str, Ranges)]) {
    let remedies = assert_blocked(&[], file, status, expected);
    let new = elsewhere.path("new");
    let (command, _) = remedies[0].split_once(", where NEW").unwrap_or((&remedies[0], ""));
    follow(command, &new);
    assert_eq!(checksum(&new), checksum(file));
    run(&["check"], &new).expect(0);
}

#[test]
fn holes_unwritten_and_past_eof() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        let block = kind.block_size();
        let scratch = Scratch::new(kind);
        let up = |bytes: u64| bytes.next_multiple_of(block);
        let end = up(M + 5);
        let cases = [
            // Written directly: buffered writes past EOF leave preallocation in the holes.
            (
                "holes",
                "xfs_io -f -d -c 'pwrite -b 64k 0 64k' -c 'pwrite -b 64k 128k 64k' -c 'truncate 1048581' $F",
                vec![("hole", vec![(64 * K, 64 * K), (192 * K, end - 192 * K)])],
            ),
            ("nothing", "truncate -s 1M $F", vec![("hole", vec![(0, M)])]),
            ("one byte", "truncate -s 1 $F", vec![("hole", vec![(0, block)])]),
            (
                "unwritten",
                "xfs_io -f -d -c 'pwrite -b 64k 0 64k' -c 'falloc 64k 64k' -c 'pwrite -b 64k 128k 64k' \
                     -c 'falloc 192k 10000' $F",
                vec![("unwritten", vec![(64 * K, 64 * K), (192 * K, up(10000))])],
            ),
            // Adjacent in the file, but not on the device.
            ("joined", "fallocate -l 256K $F; fallocate -c -o 64K -l 64K $F", vec![("unwritten", vec![(0, 192 * K)])]),
            (
                "past the end",
                "head -c 10000 /dev/urandom >$F; fallocate -n -o 64K -l 64K $F",
                vec![("past_eof", vec![(64 * K, 64 * K)])],
            ),
            (
                "right past the end",
                "head -c 10000 /dev/urandom >$F; fallocate -n -l 64K $F",
                vec![("past_eof", vec![(up(10000), 64 * K - up(10000))])],
            ),
            (
                "all of them",
                "xfs_io -f -c 'falloc 0 64k' -c 'truncate 200000' -c 'falloc -k 100k 200k' -c 'pwrite 64k 4k' $F",
                vec![
                    ("hole", vec![(68 * K, 32 * K)]),
                    ("unwritten", vec![(0, 64 * K), (100 * K, up(200_000) - 100 * K)]),
                    ("past_eof", vec![(up(200_000), 300 * K - up(200_000))]),
                ],
            ),
        ];
        for (name, make, expected) in cases {
            let file = scratch.path(name);
            sh(on(&file, make));
            if name == "joined" {
                assert!(filefrag(&file).len() > 1, "nothing to join");
            }
            for (kind, ranges) in shown_by_filefrag(&file, block) {
                let wanted = expected.iter().find(|(named, _)| *named == kind).map(|(_, ranges)| ranges.clone());
                assert_eq!(ranges, wanted.unwrap_or_default(), "{name}: {kind}");
            }
            assert_remedied(&[], &file, &expected);
        }
    });
}

#[test]
fn shared() {
    let kinds = Kind::pinnable().into_iter().filter(|kind| matches!(kind, Kind::Xfs(xfs) if xfs.reflink));
    on_each(kinds.collect(), |kind| {
        let block = kind.block_size();
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        // Shared by two clones, of neighbouring ranges, and by a third one elsewhere.
        sh(on(
            &file,
            "head -c 512K /dev/urandom >$F; sync $F
             xfs_io -f -c \"reflink $F 64k 0 64k\" $F.1
             xfs_io -f -c \"reflink $F 128k 0 64k\" $F.2
             xfs_io -f -c \"reflink $F 448k 0 64k\" $F.3",
        ));
        let expected = vec![(64 * K, 128 * K), (448 * K, 64 * K)];
        assert_eq!(shown_by_filefrag(&file, block)[2], ("shared", expected.clone()));
        let clone = scratch.path("file.1");
        let cloned = checksum(&clone);
        assert_blocked(&[], &clone, 1, &[("shared", vec![(0, 64 * K)])]);
        assert_remedied(&[], &file, &[("shared", expected)]);
        assert_eq!(checksum(&clone), cloned);
        run(&["check"], &clone).expect(0);

        let whole = scratch.path("whole");
        sh(on(&whole, "head -c 10000 /dev/urandom >$F; cp --reflink=always $F $F.copy"));
        assert_remedied(&[], &whole, &[("shared", vec![(0, 10000_u64.next_multiple_of(block))])]);
    });
}

/// Delayed allocation, and dirty pages over unwritten extents, are written back before anything is said of them.
#[test]
fn dirty_pages_are_no_blocker() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        let scratch = Scratch::new(kind);
        let shown = |file: &Path| sh(on(file, "filefrag -v $F"));
        for (name, make, sign) in [
            ("delayed", "xfs_io -f -c 'pwrite 0 64k' $F", "delalloc"),
            ("converted", "xfs_io -f -c 'falloc 0 64k' -c fsync -c 'pwrite 0 64k' $F", "unwritten"),
        ] {
            for verb in ["check", "stat", "pin"] {
                let file = scratch.path(format!("{name}-{verb}"));
                sh(on(&file, make));
                assert!(shown(&file).contains(sign), "not made: {}", shown(&file));
                let report = report(&[verb], &file, 0);
                assert_eq!(report["blockers"], json!([]), "{name}: {report}");
                assert_eq!(report["map"]["written"], 64 * K, "{name}: {report}");
                assert!(!shown(&file).contains(sign), "{name}: {}", shown(&file));
            }
        }
        run(&["unpin"], &scratch.path("delayed-pin")).expect(0);
        run(&["unpin"], &scratch.path("converted-pin")).expect(0);
    });
}

#[test]
fn inline() {
    on_each(vec![1024, 4096].into_iter().map(inline_data).collect(), |kind| {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        sh(on(&file, "printf hello >$F"));
        assert!(sh(on(&file, "filefrag -s -v $F")).contains("inline"), "not made");
        assert_eq!(report(&["stat"], &file, 0)["map"]["hole"], 0);
        assert_remedied(&[], &file, &[("inline", vec![(0, 5)])]);
    });
}

fn inline_data(block_size: u32) -> Kind {
    Ext4 { block_size, features: vec!["inline_data".into()], ..Ext4::default() }.into()
}

#[test]
fn encoded() {
    let (scratch, elsewhere) = (Scratch::new(Kind::Btrfs), Scratch::new(Kind::xfs()));
    require(&["btrfs"]);
    let file = scratch.path("file");
    sh(on(&file, "touch $F; btrfs property set $F compression zstd; yes daxfile | head -c 1000000 >$F; sync $F"));
    assert!(sh(on(&file, "filefrag -s -v $F")).contains("encoded"), "not compressed");
    let blocked = [("encoded", vec![(0, 1_000_000_u64.next_multiple_of(4096))]), ("unsupported_filesystem", vec![])];
    assert_copied(&file, &elsewhere, 3, &blocked);
}

#[test]
fn encrypted() {
    let (scratch, elsewhere) = (Scratch::new(Kind::ext4_with(&["encrypt"])), Scratch::new(Kind::ext4()));
    let dir = scratch.path("dir");
    sh(on(
        &dir,
        "mkdir $F; key=$(head -c 64 /dev/urandom | xfs_io -c add_enckey $F | grep -o '[0-9a-f]\\{32\\}')
         xfs_io -c \"set_encpolicy -v 2 $key\" $F; head -c 10000 /dev/urandom >$F/file",
    ));
    assert!(sh(on(dir.join("file"), "lsattr $F")).starts_with("---------E"), "not encrypted");
    assert_copied(&dir.join("file"), &elsewhere, 1, &[("encrypted", vec![(0, 12288)])]);
}

/// Compressed EROFS shows where each compressed block begins in the file, at any byte.
#[test]
fn unaligned() {
    require(&["mkfs.erofs"]);
    let scratch = Scratch::new(Kind::xfs());
    let below = scratch.path("below");
    // Mounted below the scratch filesystem, it is unmounted with it.
    sh(on(
        &below,
        "mkdir $F $F.files; seq 60000 >$F.files/file; mkfs.erofs -zlz4 $F.image $F.files >/dev/null
         mount -t erofs -o loop $F.image $F",
    ));
    let file = below.join("file");
    assert!(filefrag(&file).iter().any(|piece| !piece.logical.is_multiple_of(4096)), "all is aligned");
    let size = fs::metadata(&file).unwrap().len();
    assert_copied(&file, &scratch, 3, &[("unaligned", vec![(0, size)]), ("unsupported_filesystem", vec![])]);
}

#[test]
fn block_mapped() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    sh(on(&file, "head -c 20000 /dev/urandom >$F; sync $F; chattr -e $F"));
    assert!(!flags(&file).contains('e'));
    assert!(sh(on(&file, "filefrag -s -v $F")).contains("merged"));
    assert_remedied(&[], &file, &[("merged", vec![(0, 20480)])]);
    assert!(flags(&file).contains('e'));

    let scratch = Scratch::new(Kind::ext4_with(&["^extent"]));
    let file = scratch.path("file");
    sh(on(&file, "head -c 8M /dev/urandom >$F"));
    assert_blocked(&[], &file, 3, &[("unsupported_filesystem", vec![])]);
}

/// Forty pieces of 64 KiB, none of which follows its neighbour on the device. Up to 21 extents XFS keeps in the inode;
/// there xfs_fsr may do nothing, and say nothing, because its temporary file's inode has less room (SWAPEXT: EINVAL).
fn fragmented(file: &Path) {
    run(&["alloc", "-s", "5M"], file).expect(0);
    sh(on(
        file,
        "for ((i = 1; i < 40; i++)); do fallocate -c -o $((i * 64))K -l 64K $F; done
         dd if=/dev/urandom of=$F bs=64K count=40 conv=notrunc,fsync status=none",
    ));
}

#[test]
fn too_many_extents() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        require(&[if matches!(kind, Kind::Xfs(_)) { "xfs_fsr" } else { "e4defrag" }]);
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        fragmented(&file);
        let count = filefrag(&file).len();
        assert!(count >= 40, "{count} extents");
        run(&["check", "--max-extents", &count.to_string()], &file).expect(0);
        assert_blocked(&["--max-extents", &(count - 1).to_string()], &file, 1, &[("too_many_extents", vec![])]);
        assert_remedied(&["--max-extents", "1"], &file, &[("too_many_extents", vec![])]);
    });
}

/// The pieces of `align` bytes that are not one aligned extent.
fn misplaced(file: &Path, align: u64, block: u64) -> Ranges {
    let end = fs::metadata(file).unwrap().len().next_multiple_of(block);
    let pieces = filefrag(file);
    let well_placed = |&start: &u64| {
        let last = (start + align).min(end);
        pieces.iter().any(|p| {
            p.logical <= start && last <= p.logical + p.length && (p.physical + start - p.logical) % align == 0
        })
    };
    let starts = (0..end).step_by(usize::try_from(align).unwrap()).filter(|start| !well_placed(start));
    joined(starts.map(|start| (start, align.min(end - start))))
}

#[test]
fn misaligned() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        let block = kind.block_size();
        let scratch = Scratch::new(kind);
        for (name, cut, expected) in [
            // All behind the cut is off; then but a single piece is cut in two, and the rest is in its place again.
            ("tail", "fallocate -c -o 512K -l 4K $F", vec![(512 * K, 508 * K)]),
            ("piece", "fallocate -c -o 320K -l 4K $F; fallocate -c -o 380K -l 60K $F", vec![(320 * K, 64 * K)]),
        ] {
            let file = scratch.path(name);
            run(&["alloc", "--align", "64K", "-s", "1M"], &file).expect(0);
            run(&["check", "--align", "64K"], &file).expect(0);
            sh(on(&file, &format!("{cut}; dd if=/dev/urandom of=$F bs=4K count=99 conv=notrunc,fsync status=none")));
            assert_eq!(misplaced(&file, 64 * K, block), expected, "{name}");
            let remedies = assert_blocked(&["--align", "64K"], &file, 1, &[("misaligned", expected)]);
            run(&["check"], &file).expect(0);
            run(&["check", "--align", "4K"], &file).expect(0);
            let new = scratch.path(format!("{name}.new"));
            follow(&remedies[0], &new);
            run(&["check", "--align", "64K"], &new).expect(0);
            assert_eq!(misplaced(&new, 64 * K, block), []);
            assert_eq!(checksum(&new), checksum(&file));
        }
    });
}

#[test]
fn foreign_flags_are_blockers() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        let scratch = Scratch::new(kind);
        for (flag, kind) in [("i", "immutable"), ("a", "append_only")] {
            let file = scratch.path(kind);
            sh(on(&file, &format!("head -c 10000 /dev/urandom >$F; sync $F; chattr +{flag} $F")));
            let found = flags(&file);
            // Not of this tool's making: unpin does not take them away either.
            run(&["unpin"], &file).expect(0);
            assert_eq!(flags(&file), found);
            assert_remedied(&[], &file, &[(kind, vec![])]);
            assert_ne!(flags(&file), found);
        }
    });
}

#[test]
fn empty() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        sh(on(&file, "touch $F"));
        let remedies = assert_blocked(&[], &file, 1, &[("empty", vec![])]);
        assert!(remedies[0].contains("--allow empty"), "{remedies:?}");
        sh(on(&file, "echo contents >$F"));
        run(&["check"], &file).expect(0);
    });
}

/// Swapped off again when dropped, or the scratch filesystem could not be unmounted.
struct Swap<'a>(&'a Path);

impl Drop for Swap<'_> {
    fn drop(&mut self) {
        if finish(Command::new("swapoff").arg(self.0)).status.success() {
            eprintln!("{} was still swapped to", self.0.display());
        }
    }
}

#[test]
fn swapfile() {
    require(&["mkswap", "swapon", "swapoff"]);
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        // /proc/swaps escapes the blank.
        let file = scratch.path("swap file");
        sh(on(&file, "head -c 1M /dev/zero >$F; chmod 600 $F; sync $F; mkswap -q $F || mkswap $F >/dev/null"));
        run(&["check"], &file).expect(0);
        let swap = Swap(&file);
        sh(on(&file, "swapon $F"));
        let remedies = assert_blocked(&[], &file, 5, &[("swapfile", vec![])]);
        follow(&remedies[0], &file);
        drop(swap);
        run(&["check"], &file).expect(0);
    }
}

/// No order of pin and swapon works under frozen, but that is no blocker: the file may be for another machine.
#[test]
fn swap_header_is_noted_under_frozen_alone() {
    const NOTE: &str = "has a swap header, and swapon fails on a frozen file";
    require(&["mkswap", "swapon"]);
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let file = scratch.path("swap");
        sh(on(&file, "head -c 1M /dev/zero >$F; chmod 600 $F; sync $F"));
        let noted = |verb: &[&str]| notes(&report(verb, &file, 0)).contains(NOTE);
        assert!(!noted(&["check"]));
        for page_size in [4096, 8192, 16384, 32768, 65536] {
            sh(on(&file, &format!("mkswap --pagesize {page_size} $F 2>&1; sync $F")));
            assert!(noted(&["check"]), "pages of {page_size}");
            sh(on(&file, "head -c 64K /dev/zero | dd of=$F conv=notrunc status=none"));
            assert!(!noted(&["check"]));
        }
        sh(on(&file, "mkswap $F; sync $F"));
        assert!(!noted(&["check", "--hold", "none"]) && !noted(&["pin", "--hold", "none"]));
        run(&["unpin"], &file).expect(0);
        assert!(noted(&["pin", "--dry-run"]) && noted(&["pin"]) && noted(&["check"]));
        assert_ne!(sh_status(on(&file, "swapon $F")), 0);
        run(&["unpin"], &file).expect(0);
        // Less than ten pages is no swap file.
        sh(on(&file, "truncate -s 36K $F; sync $F"));
        assert!(!noted(&["check"]));
    }
}

#[test]
fn unsupported_filesystems() {
    let (btrfs, xfs) = (Scratch::new(Kind::Btrfs), Scratch::new(Kind::xfs()));
    let file = btrfs.path("file");
    sh(on(&file, "head -c 1M /dev/urandom >$F; sync $F"));
    let unsupported = [("unsupported_filesystem", vec![])];
    assert_blocked(&[], &file, 3, &unsupported);

    let overlay = xfs.path("overlay");
    sh(on(
        &overlay,
        "mkdir $F $F.lower $F.upper $F.work; head -c 1M /dev/urandom >$F.lower/file
         mount -t overlay -o lowerdir=$F.lower,upperdir=$F.upper,workdir=$F.work overlay $F",
    ));
    assert_blocked(&[], &overlay.join("file"), 3, &unsupported);

    // Where FIEMAP succeeds and says nothing, that must not pass for a hole.
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = shm.path().join("file");
    fs::write(&file, "contents").unwrap();
    for verb in ["check", "pin"] {
        let report = report(&[verb], &file, 3);
        let [blocker] = &report["blockers"].as_array().unwrap()[..] else { panic!("{report}") };
        assert_eq!(blocker["kind"], "unsupported_filesystem");
        assert!(!blocker["remedy"].as_str().unwrap().is_empty());
    }
}

#[test]
fn pin_keeps_allowed_blockers() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        let reflink = matches!(kind, Kind::Xfs(_));
        let scratch = Scratch::new(kind);
        let mut cases = vec![
            ("hole", "truncate -s 1M $F"),
            ("unwritten", "fallocate -l 1M $F"),
            ("empty", "touch $F"),
            ("hole,unwritten", "fallocate -l 1M $F; fallocate -p -o 512K -l 64K $F"),
        ];
        if reflink {
            cases.push(("shared", "head -c 1M /dev/urandom >$F; cp --reflink=always $F $F.copy"));
        }
        for (kinds, make) in cases {
            let file = scratch.path(kinds);
            sh(on(&file, make));
            let all: Vec<&str> = kinds.split(',').collect();
            let named = |report: &Value| -> Vec<String> {
                let blockers = report["blockers"].as_array().unwrap();
                blockers.iter().map(|blocker| blocker["kind"].as_str().unwrap().to_owned()).collect()
            };
            assert_eq!(named(&report(&["check"], &file, 1)), all);
            // Each remedy removes its own blocker and no other.
            for kind in ["hole", "unwritten", "shared", "empty"] {
                let left: Vec<&str> = all.iter().copied().filter(|one| *one != kind).collect();
                let status = i32::from(!left.is_empty());
                for verb in [&["check"][..], &["pin", "--dry-run"]] {
                    assert_eq!(named(&report(&[verb, &["--allow", kind]].concat(), &file, status)), left);
                }
            }
            let was = filefrag(&file);
            let pinned = report(&["pin", "--allow", kinds], &file, 0);
            assert_eq!(pinned["pin"]["allowed"], json!(all));
            assert_eq!(filefrag(&file), was);
            run(&["verify"], &file).expect(0);
            // Again, with the kinds one by one.
            let each: Vec<&str> = all.iter().flat_map(|kind| ["--allow", *kind]).collect();
            assert_eq!(report(&[&["pin"], &each[..]].concat(), &file, 0)["action"], "already_pinned");
            run(&["pin"], &file).expect(1);
            run(&["unpin"], &file).expect(0);
            assert_eq!(filefrag(&file), was);
        }
    });
    for kind in ["delalloc", "inline", "immutable", "misaligned", "past_eof", "swapfile", "", "hole,nonsense"] {
        Daxfile::new(["check", "--allow", kind, "/dev/null"]).run().expect(2);
    }
}

/// `pin` says all that `check` would, though the file is in use as well.
#[test]
fn pin_of_a_busy_file_names_blockers() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        sh(on(&file, "truncate -s 1M $F"));
        let _writer = OpenOptions::new().write(true).open(&file).unwrap();
        let before = inode(&file);
        let checked = report(&["check"], &file, 1);
        let pinned = report(&["pin"], &file, 5);
        assert_eq!(pinned["blockers"], checked["blockers"]);
        assert_eq!(pinned["error"]["call"], "fcntl(F_SETLEASE)");
        let said = run(&["pin"], &file).expect(5);
        assert!(said.text().contains("hole:") && said.stderr.contains("open"), "{said}");
        assert_eq!(inode(&file), before);
    }
}

/// A remedy works in a shell, with any file name.
#[test]
fn remedies_are_quoted() {
    let scratch = Scratch::new(Kind::xfs());
    for name in ["it's a \"name\"", "$(touch x) `touch y`; *", "-\n\t\\n\u{1b}[31m", "é"] {
        let file = scratch.path(name);
        fs::File::create(&file).unwrap().set_len(M).unwrap();
        for remedy in assert_blocked(&[], &file, 1, &[("hole", vec![(0, M)])]) {
            follow(&remedy, Path::new("/nonexistent"));
        }
        run(&["check"], &file).expect(0);
        sh(on(&file, "chattr +i $F"));
        for remedy in assert_blocked(&[], &file, 1, &[("immutable", vec![])]) {
            follow(&remedy, Path::new("/nonexistent"));
        }
        run(&["check"], &file).expect(0);
    }
}
