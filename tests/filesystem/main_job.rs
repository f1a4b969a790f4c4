//! The main job: alloc, check, pin, stat, verify, unpin, on every form of filesystem in which files can be pinned.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use daxfile_tests::child::{Killed, finish, spawn};
use daxfile_tests::tools::{Piece, filefrag, flags, inode, on, require, sh, xfs_bmap, xfs_io_fiemap};
use daxfile_tests::{Daxfile, Ext4, Kind, Scratch, Xfs, on_each, report, run, state, wait_until, words_of};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn record(file: &Path) -> String {
    sh(format!("getfattr -d -m 'daxfile' -e hex --absolute-names '{}'", file.display()))
}

/// The bytes that `record` tells.
fn record_size(file: &Path) -> usize {
    let record = record(file);
    let hex = record.split_once("=0x").expect("a record").1.trim();
    hex.len() / 2
}

/// The map, as every other program sees it.
#[track_caller]
fn map(scratch: &Scratch, file: &Path) -> Vec<Piece> {
    let pieces = filefrag(file);
    assert_eq!(xfs_io_fiemap(file), pieces);
    if matches!(scratch.kind(), Kind::Xfs(_)) {
        assert_eq!(xfs_bmap(file), pieces);
    }
    pieces
}

/// Written, unshared, without a gap, up to the end of the last block and no further.
#[track_caller]
fn assert_whole(pieces: &[Piece], size: u64, block: u64) {
    let mut position = 0;
    for piece in pieces {
        assert_eq!(piece.logical, position, "{pieces:?}");
        assert!(!piece.unwritten && !piece.shared && piece.physical.is_multiple_of(block), "{piece:?}");
        position += piece.length;
    }
    assert_eq!(position, size.next_multiple_of(block), "{pieces:?}");
}

/// The kernel refuses it with EPERM.
#[track_caller]
fn assert_refused(file: &Path, script: &str) {
    let said = sh(on(file, &format!("! {{ {script} ; }} 2>&1")));
    assert!(said.contains("Operation not permitted"), "{script}: {said}");
}

fn puncture(file: &Path, from: u64, length: u64) {
    sh(format!("xfs_io -c 'fpunch {from} {length}' -c fsync '{}'", file.display()));
}

fn clear_by_hand(file: &Path) {
    sh(format!("chattr -i '{}'", file.display()));
}

fn set_by_hand(file: &Path) {
    sh(format!("chattr +i '{}'", file.display()));
}

/// The expected changes in `verify --json` for a map that became `now`: found block by block, then joined like extents.
fn differences(was: &[Piece], now: &[Piece], block: u64) -> Value {
    let place = |pieces: &[Piece], at: u64| {
        let piece = pieces.iter().find(|p| p.logical <= at && at < p.logical + p.length);
        piece.map(|p| (p.physical + (at - p.logical), p.unwritten))
    };
    let follows = |a: Option<(u64, bool)>, b: Option<(u64, bool)>, length| match (a, b) {
        (Some((a, unwritten)), Some((b, same))) => a + length == b && unwritten == same,
        (None, None) => true,
        _ => false,
    };
    let end = was.iter().chain(now).map(|p| p.logical + p.length).max().unwrap_or(0);
    let mut found: Vec<(u64, u64, _, _)> = Vec::new();
    for at in (0..end).step_by(usize::try_from(block).unwrap()) {
        let (before, after) = (place(was, at), place(now, at));
        if before == after {
            continue;
        }
        match found.last_mut() {
            Some((from, length, first, last))
                if *from + *length == at && follows(*first, before, *length) && follows(*last, after, *length) =>
            {
                *length += block;
            }
            _ => found.push((at, block, before, after)),
        }
    }
    let json = |place| match place {
        None => json!({"state": "hole"}),
        Some((physical, false)) => json!({"state": "written", "physical": physical}),
        Some((physical, true)) => json!({"state": "unwritten", "physical": physical}),
    };
    found
        .into_iter()
        .map(|(logical, length, was, now)| {
            json!({"logical": logical, "length": length, "was": json(was), "now": json(now)})
        })
        .collect()
}

#[test]
fn whole_sequence_works_on_every_filesystem() {
    on_each(Kind::pinnable(), |kind| {
        let block = kind.block_size();
        let scratch = Scratch::new(kind);
        // Flags that the administrator set before stay; ext4 drops the f (no defragmentation), XFS keeps it.
        for (name, decorate) in [("plain", ":"), ("flagged", "chattr +dA $F; xfs_io -c 'chattr +f' $F")] {
            let file = scratch.path(name);
            let at = file.display();
            assert_eq!(run(&["alloc", "-s", "64MiB"], &file).expect(0).stderr, "");
            sh(on(&file, &format!("echo other >$F.other; {decorate}")));
            run(&["check"], &file).expect(0);
            let (before, contents, found) = (map(&scratch, &file), fs::read(&file).unwrap(), flags(&file));
            assert_whole(&before, 64 * M, block);
            let attributes = sh(format!("getfattr -d -m - '{at}'"));

            run(&["pin"], &file).expect(0);
            let pinned = flags(&file);
            assert_ne!(pinned, found);
            assert_eq!(state(&file), "pinned");
            for change in [
                "truncate -s 0 $F",
                "truncate -s 65M $F",
                ": > $F",
                ": >> $F",
                "dd if=/dev/zero of=$F bs=4k count=1 conv=notrunc",
                "dd if=/dev/zero of=$F bs=4k count=1 conv=notrunc oflag=direct",
                "fallocate -l 128M $F",
                "fallocate -p -o 0 -l 64K $F",
                "fallocate -z -o 0 -l 64K $F",
                "xfs_io -c 'mmap -rw 0 4k' $F",
                "rm -f $F",
                "mv -f $F.other $F",
                "mv $F $F.new",
                "ln $F $F.link",
                "chmod 600 $F",
                "chown 1 $F",
                "touch -d 2001-01-01 $F",
                "setfattr -n user.name -v value $F",
                "setfattr -x security.daxfile.pin $F",
            ] {
                assert_refused(&file, change);
            }
            match scratch.kind() {
                Kind::Ext4(_) => {
                    assert_refused(&file, "chattr +S $F");
                    assert_refused(&file, "chattr -e $F");
                }
                Kind::Xfs(xfs) if xfs.reflink => {
                    assert_refused(&file, "cp --reflink=always $F.other $F");
                    assert_refused(&file, "xfs_io -c \"reflink $F.other\" $F");
                }
                Kind::Xfs(_) => {}
                Kind::Btrfs | Kind::F2fs => unreachable!(),
            }
            assert_eq!(map(&scratch, &file), before);
            assert!(fs::read(&file).unwrap() == contents, "the contents changed");
            assert_eq!(flags(&file), pinned);
            run(&["verify"], &file).expect(0);

            run(&["unpin"], &file).expect(0);
            assert_eq!(flags(&file), found);
            assert_eq!(sh(format!("getfattr -d -m - '{at}'")), attributes);
            assert_eq!(map(&scratch, &file), before);
            let said = run(&["verify"], &file).expect(1);
            assert!(said.text().contains("not pinned"), "{said}");
            sh(format!("truncate -s 1M '{at}'"));
            assert_eq!(report(&["verify"], &file, 1)["pin"]["state"], "unpinned");
        }
        let xfs = matches!(scratch.kind(), Kind::Xfs(_));
        let kept = sh(on(scratch.path("flagged"), "xfs_io -r -c lsattr $F | cut -d' ' -f1 | tr -cd f"));
        assert_eq!(kept.trim_end(), if xfs { "f" } else { "" });
    });
}

#[test]
fn small_sizes_are_exact() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        let block = kind.block_size();
        let scratch = Scratch::new(kind);
        for size in [1, 511, 4095, 4097, M + 1] {
            let file = scratch.path(size.to_string());
            run(&["alloc", "-s", &size.to_string()], &file).expect(0);
            assert_zeros(&file, size);
            let pieces = map(&scratch, &file);
            assert_whole(&pieces, size, block);
            // Not one block that no map shows: so few extents and attributes are kept in the inode.
            assert_eq!(fs::metadata(&file).unwrap().blocks() * 512, size.next_multiple_of(block));
            for verb in ["check", "pin", "verify"] {
                run(&[verb], &file).expect(0);
            }
            assert_eq!(map(&scratch, &file), pieces);
            run(&["unpin"], &file).expect(0);
        }
    });
}

#[track_caller]
fn assert_zeros(file: &Path, size: u64) {
    require(&["cmp"]);
    assert_eq!(fs::metadata(file).unwrap().len(), size);
    sh(format!("cmp -n {size} '{}' /dev/zero", file.display()));
}

/// Above 4 GiB, where sizes no longer fit in 32 bits.
#[test]
fn five_gibibytes() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::with_size(kind, 6 * G);
        let file = scratch.path("file");
        run(&["alloc", "-s", "5G"], &file).expect(0);
        assert_eq!(fs::metadata(&file).unwrap().len(), 5 * G);
        // Directly, in large requests: through two page caches this would take twice as long.
        sh(on(
            &file,
            &format!("set -o pipefail; dd if=$F bs=8M iflag=direct status=none | cmp -n {} - /dev/zero", 5 * G),
        ));
        let pieces = map(&scratch, &file);
        assert_whole(&pieces, 5 * G, 4096);
        let unexplained = fs::metadata(&file).unwrap().blocks() * 512 - 5 * G;
        assert!(unexplained <= 4096, "{unexplained} bytes, more than one block of the extent tree");
        for verb in ["check", "pin", "verify"] {
            run(&[verb], &file).expect(0);
        }
        assert_refused(&file, "truncate -s 4G $F");
        run(&["unpin"], &file).expect(0);
    });
}

#[test]
fn owner_and_mode_are_the_callers() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        sh(format!("mkdir -m 777 '{}'", scratch.path("dir").display()));
        for (umask, mode) in [("022", 0o644), ("077", 0o600), ("000", 0o666)] {
            let alloc = |name: &str| {
                let file = scratch.path("dir").join(name);
                let script = format!("umask {umask}; exec \"$0\" \"$@\"");
                (Daxfile::new(["alloc", "-s", "4K"]).arg(&file).wrap(["sh", "-c", &script]), file)
            };
            let (root, file) = alloc(&format!("root-{umask}"));
            root.run().expect(0);
            let found = fs::metadata(&file).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (mode, 0, 0));
            let (nobody, file) = alloc(&format!("nobody-{umask}"));
            nobody.as_nobody().run().expect(0);
            let found = fs::metadata(&file).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (mode, 65534, 65534));
        }
    });
}

/// Every piece of `align` bytes is in one run, at an aligned offset.
#[track_caller]
fn assert_aligned(pieces: &[Piece], size: u64, align: u64) {
    for start in (0..size).step_by(usize::try_from(align).unwrap()) {
        let end = (start + align).min(size);
        let piece = pieces.iter().find(|p| p.logical <= start && end <= p.logical + p.length);
        let piece = piece.unwrap_or_else(|| panic!("{start}..{end} is in no one run of {pieces:?}"));
        assert!((piece.physical + (start - piece.logical)).is_multiple_of(align), "{start} is at {piece:?}");
    }
}

#[test]
fn alloc_aligns_with_and_without_a_stripe() {
    let stripe = |args: &str| Xfs { mkfs_args: vec!["-d".into(), args.into()], ..Xfs::default() }.into();
    // 4 KiB past a multiple of 2 MiB, so that no group begins at one.
    let odd = stripe("agsize=138416128");
    on_each(vec![Kind::xfs(), stripe("su=512k,sw=1,agcount=4"), stripe("su=64k,sw=3,agcount=4"), odd], |kind| {
        let scratch = Scratch::new(kind);
        // The existing files have arbitrary places.
        sh(format!("cd '{}'; for i in {{1..9}}; do head -c ${{i}}7000 /dev/zero >before$i; done", mounted(&scratch)));
        for (n, size) in [1, 2 * M, 3 * M + 1, 64 * M].into_iter().enumerate() {
            let file = scratch.path(format!("aligned{n}"));
            let align = ["alloc", "--align", "2M", "--max-extents", "1", "-s", &size.to_string()];
            run(&align, &file).expect(0);
            assert_zeros(&file, size);
            let pieces = map(&scratch, &file);
            assert_whole(&pieces, size, 4096);
            assert_aligned(&pieces, size, 2 * M);
            assert_eq!(pieces.len(), 1);
            assert_eq!(fs::metadata(&file).unwrap().blocks() * 512, size.next_multiple_of(4096));
            run(&["pin", "--align", "2M", "--max-extents", "1"], &file).expect(0);
            run(&["verify"], &file).expect(0);
            run(&["unpin"], &file).expect(0);
        }
    });
}

fn mounted(scratch: &Scratch) -> String {
    scratch.mount_point().display().to_string()
}

/// No free piece is larger than about 1 MiB, except for the 32 MiB that XFS reserves.
#[test]
fn failed_alloc_leaves_no_file() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        sh(format!(
            "cd '{}'; mkdir fill; i=0; while fallocate -l 1M fill/$i 2>/dev/null; do i=$((i + 1)); done
             rm -f fill/$i fill/*[02468]; sync -f .",
            mounted(&scratch)
        ));
        let listing = || sh(format!("cd '{}'; find . | sort", mounted(&scratch)));
        let (names, free) = (listing(), scratch.free_blocks());
        for (needs, kind) in [
            (&["--max-extents", "1"][..], "too_many_extents"),
            (&["--align", "2M"][..], "misaligned"),
            (&["--align", "2M", "--max-extents", "1"][..], "misaligned"),
        ] {
            let file = scratch.path("file");
            let verb = [&["alloc", "-s", "64M"], needs].concat();
            let report = report(&verb, &file, 1);
            let blockers = report["blockers"].as_array().unwrap();
            assert!(blockers.iter().any(|blocker| blocker["kind"] == kind), "{report}");
            assert_eq!(report["error"], Value::Null);
            let said = run(&verb, &file).expect(1);
            assert!(said.text().contains(&words_of(kind)), "{said}");
            assert_eq!(listing(), names);
            // XFS frees the blocks of an unlinked file in the background.
            wait_until("the space is given back", || scratch.free_blocks() >= free);
        }
        run(&["alloc", "-s", "64M", "--max-extents", "100"], &scratch.path("file")).expect(0);
        assert!((2..=100).contains(&map(&scratch, &scratch.path("file")).len()));
        let full = report(&["alloc", "-s", "10G"], &scratch.path("full"), 2);
        assert_eq!(full["error"]["errno"], 28);
        assert!(!scratch.path("full").exists());
    });
}

#[test]
fn repeated_verbs_change_nothing() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        run(&["alloc", "-s", "1M"], &file).expect(0);
        assert_eq!(report(&["pin", "--dry-run"], &file, 0)["action"], "would_pin");
        assert_eq!(state(&file), "unpinned");
        assert_eq!(report(&["pin"], &file, 0)["action"], "pinned");
        let pinned = inode(&file);
        assert_eq!(report(&["pin"], &file, 0)["action"], "already_pinned");
        assert_eq!(inode(&file), pinned);

        for options in [
            &["--allow", "hole"][..],
            &["--allow", "empty"],
            &["--align", "4K"],
            &["--max-extents", "1"],
            &["--hold", "none"],
        ] {
            for verb in ["pin", "check"] {
                let report = report(&[&[verb], options].concat(), &file, 1);
                let message = report["error"]["message"].as_str().unwrap();
                assert!(message.contains("unpin first"), "{verb} {options:?}: {message}");
            }
            assert_eq!(inode(&file), pinned);
        }
        assert_eq!(report(&["unpin", "--dry-run"], &file, 0)["action"], "would_unpin");
        assert_eq!(inode(&file), pinned);
        run(&["verify"], &file).expect(0);

        assert_eq!(report(&["unpin"], &file, 0)["action"], "unpinned");
        let unpinned = inode(&file);
        assert_eq!(report(&["unpin"], &file, 0)["action"], "already_unpinned");
        assert_eq!(inode(&file), unpinned);
    });
}

#[test]
fn a_pin_that_is_not_held_is_held_again() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        run(&["alloc", "-s", "1M"], &file).expect(0);
        let found = flags(&file);
        run(&["pin"], &file).expect(0);
        let (record, pinned) = (record(&file), flags(&file));
        clear_by_hand(&file);
        assert_eq!(state(&file), "not_held");
        assert_eq!(report(&["verify"], &file, 1)["pin"]["state"], "not_held");
        run(&["check"], &file).expect(0);
        assert_eq!(report(&["pin"], &file, 0)["action"], "pinned");
        assert_eq!((self::record(&file), flags(&file)), (record.clone(), pinned));
        assert_eq!(state(&file), "pinned");
        run(&["verify"], &file).expect(0);

        // Really changed meanwhile: that must not be pinned over, and the record stays to compare with.
        clear_by_hand(&file);
        sh(format!("dd if=/dev/urandom of='{}' bs=4k count=1 conv=notrunc,fsync", file.display()));
        let changed = inode(&file);
        for verb in ["check", "pin"] {
            let report = report(&[verb], &file, 1);
            assert!(report["error"]["message"].as_str().unwrap().contains("unpin first"), "{report}");
        }
        assert_eq!(inode(&file), changed);
        assert_eq!(self::record(&file), record);
        run(&["verify"], &file).expect(1);
        run(&["unpin"], &file).expect(0);
        assert_eq!(flags(&file), found);
        run(&["pin"], &file).expect(0);
        run(&["verify"], &file).expect(0);
        run(&["unpin"], &file).expect(0);
        assert_eq!(flags(&file), found);
    });
}

/// Files are held at boot with their recorded options; the command line's options are for files without a record.
#[test]
fn as_recorded_pins_a_list_with_recorded_options() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let names = ["frozen", "shaped", "let go", "none", "new", "changed"];
        let files = names.map(|name| scratch.path(name));
        let [frozen, shaped, let_go, none, new, changed] = &files;
        for file in &files {
            run(&["alloc", "-s", "1M"], file).expect(0);
        }
        for file in [frozen, let_go, changed] {
            run(&["pin"], file).expect(0);
        }
        run(&["pin", "--max-extents", "3", "--align", "512"], shaped).expect(0);
        run(&["pin", "--hold", "none"], none).expect(0);
        clear_by_hand(let_go);
        clear_by_hand(changed);
        sh(on(changed, "dd if=/dev/urandom of=$F bs=4k count=1 conv=notrunc,fsync"));

        let pin = ["pin", "--json", "--hold", "none", "--max-extents", "9"];
        let held = || files.clone().map(|file| report(&["stat"], &file, 0)["pin"]["hold"].clone());
        let before = held();
        Daxfile::new(pin).args([frozen, shaped, let_go, none, changed]).run().expect(1);
        assert_eq!(held(), before);
        let run = Daxfile::new(pin).arg("--as-recorded").args(&files).run().expect(1);
        let all = run.json()["files"].clone();
        let came = all.as_array().unwrap().iter().map(|file| file["action"].as_str().unwrap_or("refused"));
        let kept = "already_pinned";
        assert_eq!(came.collect::<Vec<_>>(), [kept, kept, "pinned", kept, "pinned", "refused"], "{run}");
        assert!(all[5]["error"]["message"].as_str().unwrap().contains("changed since"), "{run}");
        assert_eq!(held(), ["frozen", "frozen", "frozen", "none", "none", "frozen"]);
        assert_eq!(
            files.each_ref().map(|file| state(file)),
            ["pinned", "pinned", "pinned", "pinned", "pinned", "not_held"]
        );
        for file in [frozen, shaped, let_go, none, new] {
            self::run(&["verify"], file).expect(0);
        }
        Daxfile::new(["unpin"]).args(&files).run().expect(0);
    });
}

#[test]
fn drift_is_named_piece_by_piece() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        let block = kind.block_size();
        let scratch = Scratch::new(kind);
        // Each file with a change that bypasses the tool; the mtime is restored where only the map shows the change.
        let changes = [
            ("punched", "xfs_io -c 'fpunch 64k 64k' $F; touch -r $F.time $F"),
            ("punched-twice", "xfs_io -c 'fpunch 64k 4k' -c 'fpunch 512k 4k' $F; touch -r $F.time $F"),
            ("zeroed", "xfs_io -c 'fzero 128k 64k' $F; touch -r $F.time $F"),
            ("collapsed", "xfs_io -c 'fcollapse 256k 64k' $F; truncate -s 1M $F; touch -r $F.time $F"),
            ("shrunk", "truncate -s 500K $F; touch -r $F.time $F"),
            ("grown", "xfs_io -c 'pwrite 1M 64k' -c fsync $F; touch -r $F.time $F"),
            ("written", "dd if=/dev/urandom of=$F bs=4k count=1 conv=notrunc,fsync"),
            ("touched", "touch -d 2001-01-01 $F"),
        ];
        for (name, change) in changes {
            let file = scratch.path(name);
            run(&["alloc", "-s", "1M"], &file).expect(0);
            let found = flags(&file);
            run(&["pin"], &file).expect(0);
            sh(on(&file, "touch -r $F $F.time"));
            let was = map(&scratch, &file);
            clear_by_hand(&file);
            sh(on(&file, change));
            set_by_hand(&file);
            let now = map(&scratch, &file);

            let expected = differences(&was, &now, block);
            assert_eq!(expected != json!([]), !matches!(name, "written" | "touched"), "{name}: {expected}");
            let verified = report(&["verify"], &file, 1);
            assert_eq!(verified["changes"], expected, "{name}");
            assert_eq!(verified["pin"]["state"], "drifted", "{name}");
            assert_eq!(verified["pin"]["size_was"].is_u64(), matches!(name, "shrunk" | "grown"), "{name}: {verified}");
            assert_eq!(verified["pin"]["mtime_was"].is_string(), matches!(name, "written" | "touched"), "{name}");
            let said = run(&["verify"], &file).expect(1);
            assert!(said.text().contains("drifted") || said.text().contains("was"), "{said}");
            assert_eq!(state(&file), "drifted");
            let pinned = report(&["pin"], &file, 1);
            assert!(pinned["error"]["message"].as_str().unwrap().contains("unpin first"), "{pinned}");
            run(&["unpin"], &file).expect(0);
            assert_eq!(flags(&file), found, "{name}");
        }
    });
}

#[test]
fn pins_survive_a_remount() {
    on_each(Kind::pinnable(), |kind| {
        let mut scratch = Scratch::new(kind);
        let (file, none) = (scratch.path("file"), scratch.path("none"));
        run(&["alloc", "-s", "20M"], &file).expect(0);
        run(&["alloc", "-s", "1M"], &none).expect(0);
        let found = flags(&file);
        run(&["pin"], &file).expect(0);
        run(&["pin", "--hold", "none"], &none).expect(0);
        for options in ["", "ro", ""] {
            scratch.remount_with(options);
            for file in [&file, &none] {
                assert_eq!(state(file), "pinned", "mounted with {options:?}");
                run(&["verify"], file).expect(0);
            }
            if options != "ro" {
                assert_refused(&file, "truncate -s 0 $F");
            }
        }
        assert_eq!(report(&["pin"], &file, 0)["action"], "already_pinned");
        run(&["unpin"], &file).expect(0);
        assert_eq!(flags(&file), found);
        sh(format!("truncate -s 0 '{}'", file.display()));
    });
}

/// The flag was set while another process had the file open for writing, which `pin` itself never does.
#[test]
fn a_writer_inside_is_seen() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        run(&["alloc", "-s", "1M"], &file).expect(0);
        run(&["pin"], &file).expect(0);
        clear_by_hand(&file);
        let writer = OpenOptions::new().write(true).open(&file).unwrap();
        set_by_hand(&file);
        assert_eq!(report(&["verify"], &file, 1)["pin"]["state"], "writer_inside");
        let said = run(&["verify"], &file).expect(1);
        let who = format!("open for writing by 1 process (PID {}); close it", std::process::id());
        assert!(said.text().contains(&format!("note: unchanged since the pin, but {who}")), "{said}");
        let pinned = inode(&file);
        run(&["pin"], &file).expect(5);
        assert_eq!(inode(&file), pinned);
        // On XFS such a writer can change the file, so verify must report it.
        let cut = writer.set_len(4096);
        match scratch.kind() {
            Kind::Xfs(_) => {
                cut.unwrap();
                assert_eq!(report(&["verify"], &file, 1)["pin"]["state"], "drifted");
                drop(writer);
            }
            _ => {
                assert_eq!(cut.unwrap_err().raw_os_error(), Some(1));
                drop(writer);
                run(&["verify"], &file).expect(0);
            }
        }
        run(&["unpin"], &file).expect(0);
    });
}

/// Maps the file for writing, shared, and closes it: only the mapping is left.
pub(super) fn mapped(file: &Path) -> Killed {
    require(&["xfs_io"]);
    let mut xfs_io = Killed(spawn(Command::new("xfs_io").arg(file).stdin(Stdio::piped()).stdout(Stdio::null())));
    xfs_io.0.stdin.as_mut().unwrap().write_all(b"mmap -rw 0 4096\nclose\n").unwrap();
    let pid = xfs_io.0.id();
    wait_until("the file is mapped and closed", || {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        maps.lines().any(|line| line.contains("rw-s") && line.ends_with(file.to_str().unwrap())) && !has_open(pid, file)
    });
    xfs_io
}

fn has_open(pid: u32, file: &Path) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .is_ok_and(|fds| fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == file)))
}

struct Loop(String);

impl Loop {
    fn new(file: &Path, options: &str) -> Loop {
        require(&["losetup"]);
        Loop(sh(format!("losetup -f --show {options} '{}'", file.display())).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A panic here would hide the one that may be under way.
        finish(Command::new("losetup").args(["-d", &self.0]));
    }
}

#[test]
fn a_file_in_use_is_busy_and_untouched() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        run(&["alloc", "-s", "1M"], &file).expect(0);
        let busy = |what: &str| {
            let before = inode(&file);
            let report = report(&["pin"], &file, 5);
            assert_eq!(report["error"]["errno"], 11, "{what}: {report}");
            assert_eq!(report["error"]["call"], "fcntl(F_SETLEASE)", "{what}");
            assert_eq!(inode(&file), before, "{what}");
            assert_eq!(state(&file), "unpinned", "{what}");
            // The use of a file is no property of its map.
            run(&["check"], &file).expect(0);
        };
        for options in [&mut OpenOptions::new().write(true), &mut OpenOptions::new().append(true)] {
            let writer = options.open(&file).unwrap();
            busy("open for writing");
            drop(writer);
        }
        let mapping = mapped(&file);
        busy("mapped for writing, and closed");
        drop(mapping);
        let device = Loop::new(&file, "");
        busy("a loop device");
        drop(device);
        wait_until("the loop device lets go", || sh(format!("losetup -j '{}'", file.display())).is_empty());

        // Readers of every sort are welcome.
        let _reader = File::open(&file).unwrap();
        let device = Loop::new(&file, "-r");
        run(&["pin"], &file).expect(0);
        run(&["verify"], &file).expect(0);
        run(&["unpin"], &file).expect(0);
        drop(device);
    });
}

#[test]
fn pin_waits_for_writers() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        run(&["alloc", "-s", "1M"], &file).expect(0);
        let writer = OpenOptions::new().write(true).open(&file).unwrap();
        let before = inode(&file);
        run(&["pin", "--wait", "1"], &file).expect(5);
        assert_eq!(inode(&file), before);

        let mut pin = Killed(spawn(&mut Daxfile::new(["pin", "-q", "--wait", "60"]).arg(&file).command()));
        wait_until("pin has opened the file", || has_open(pin.0.id(), &file));
        // More than one attempt, so that it does wait.
        sleep(Duration::from_millis(200));
        assert_eq!(pin.0.try_wait().unwrap(), None);
        assert_eq!(inode(&file), before);
        drop(writer);
        assert!(pin.0.wait().unwrap().success());
        run(&["verify"], &file).expect(0);
        run(&["unpin"], &file).expect(0);
    });
}

/// More than two batches, with files in use at the seams.
#[test]
fn three_hundred_files_are_done_in_batches() {
    const FILES: usize = 300;
    const BUSY: [usize; 6] = [0, 5, 127, 128, 200, 299];
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        sh(format!(
            "cd '{}'; for ((i = 0; i < {FILES}; i++)); do head -c 65536 /dev/zero >$i; done; sync -f .",
            mounted(&scratch)
        ));
        let paths: Vec<_> = (0..FILES).map(|n| scratch.path(n.to_string())).collect();
        let list: String = paths.iter().map(|path| format!("{}\n", path.display())).collect();
        let all = |verb: &str| Daxfile::new([verb, "--json", "--files-from", "-"]).stdin(list.as_str()).run();
        let writers: Vec<_> =
            BUSY.iter().map(|&n| (n, OpenOptions::new().write(true).open(&paths[n]).unwrap())).collect();
        let untouched: Vec<_> = BUSY.iter().map(|&n| inode(&paths[n])).collect();

        let report = all("pin").expect(5).json();
        let files = report["files"].as_array().unwrap();
        assert_eq!(files.len(), FILES);
        for (n, (file, path)) in files.iter().zip(&paths).enumerate() {
            assert_eq!(file["path"], path.to_str().unwrap());
            let expected = if BUSY.contains(&n) { (json!(5), Value::Null) } else { (json!(0), json!("pinned")) };
            assert_eq!((file["exit_status"].clone(), file["action"].clone()), expected, "{n}: {file}");
        }
        assert_eq!(BUSY.iter().map(|&n| inode(&paths[n])).collect::<Vec<_>>(), untouched);
        drop(writers);

        let report = all("pin").expect(0).json();
        for (n, file) in report["files"].as_array().unwrap().iter().enumerate() {
            assert_eq!(file["action"], if BUSY.contains(&n) { "pinned" } else { "already_pinned" }, "{n}: {file}");
        }
        let immutable = sh(format!("lsattr '{}' | grep -c '^....i' || :", mounted(&scratch)));
        assert_eq!(immutable.trim(), FILES.to_string());
        all("verify").expect(0);
        all("unpin").expect(0);
        assert_eq!(sh(format!("getfattr -d -m daxfile '{}'/*", mounted(&scratch))), "");
        assert_eq!(sh(format!("lsattr '{}' | grep -c '^....i' || :", mounted(&scratch))).trim(), "0");
    });
}

/// The second batch waits for a writer when SIGINT comes: the first is done, and the report says so.
#[test]
fn interrupted_pin_reports_finished_files() {
    const FILES: usize = 130;
    const BUSY: usize = 128;
    let scratch = Scratch::new(Kind::ext4());
    sh(format!(
        "cd '{}'; for ((i = 0; i < {FILES}; i++)); do head -c 4096 /dev/zero >$i; done; sync -f .",
        mounted(&scratch)
    ));
    let paths: Vec<_> = (0..FILES).map(|n| scratch.path(n.to_string())).collect();
    let _writer = OpenOptions::new().write(true).open(&paths[BUSY]).unwrap();
    let mut command = Daxfile::new(["pin", "--json", "--wait", "600"]).args(&paths).command();
    let pin = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    wait_until("the second batch has begun", || has_open(pin.id(), &paths[BUSY]));
    kill(Pid::from_raw(pin.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let out = pin.wait_with_output().unwrap();
    assert_eq!(out.status.signal(), Some(Signal::SIGINT as i32), "{out:?}");
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let files = report["files"].as_array().unwrap();
    for (file, path) in files.iter().zip(&paths).take(BUSY) {
        assert_eq!((&file["path"], &file["action"]), (&json!(path), &json!("pinned")), "{file}");
    }
    assert_eq!(files[BUSY]["error"]["errno"], Errno::EAGAIN as i32, "{report}");
    let immutable = sh(format!("lsattr '{}' | grep -c '^....i' || :", mounted(&scratch)));
    assert_eq!(immutable.trim(), BUSY.to_string());
}

#[test]
fn hold_none_records_and_finds_drift() {
    on_each(Kind::small_and_large_blocks(), |kind| {
        let block = kind.block_size();
        let reflink = matches!(&kind, Kind::Xfs(xfs) if xfs.reflink);
        let scratch = Scratch::new(kind);
        let mut makes = vec![
            ("hole", "xfs_io -f -c 'pwrite -b 64k 0 64k' -c 'truncate 256k' $F"),
            ("unwritten", "fallocate -l 256K $F"),
        ];
        if reflink {
            let make = "head -c 256K /dev/urandom >$F; cp --reflink=always $F $F.clone; xfs_io -c 'cowextsize 4096' $F";
            makes.push(("shared", make));
        }
        for (name, make) in makes {
            let file = scratch.path(name);
            sh(on(&file, make));
            run(&["pin", "--hold", "none"], &file).expect(1);
            let (found, was) = (flags(&file), map(&scratch, &file));
            let pinned = report(&["pin", "--hold", "none", "--allow", name], &file, 0);
            assert_eq!(pinned["pin"]["state"], "pinned");
            assert_eq!(pinned["pin"]["hold"], "none");
            assert_eq!(pinned["pin"]["allowed"], json!([name]));
            assert_eq!(flags(&file), found);
            assert!(record(&file).contains("user.daxfile.pin="));
            assert_eq!(map(&scratch, &file), was);
            run(&["verify"], &file).expect(0);
            // Data in blocks of its own can be written in place.
            if name == "hole" {
                sh(on(&file, "xfs_io -c 'pwrite 16k 4k' $F"));
                run(&["verify"], &file).expect(0);
            }
            sh(on(&file, "xfs_io -c 'pwrite 128k 32k' $F"));
            let verified = report(&["verify"], &file, 1);
            let expected = differences(&was, &map(&scratch, &file), block);
            assert_ne!(expected, json!([]));
            assert_eq!(verified["changes"], expected, "{name}");
            assert_eq!(verified["pin"]["state"], "drifted");
            let again = report(&["pin", "--hold", "none", "--allow", name], &file, 1);
            assert!(again["error"]["message"].as_str().unwrap().contains("unpin first"), "{again}");
            run(&["unpin"], &file).expect(0);
            assert_eq!((record(&file).as_str(), flags(&file)), ("", found));
        }
    });
}

/// A map too long for the record is kept as digests; 1 KiB blocks leave less room for it than others.
#[test]
fn long_maps_are_kept_as_digests() {
    const PIECES: u64 = 300;
    let small_blocks = Ext4 { block_size: 1024, ..Ext4::default() }.into();
    on_each(vec![Kind::xfs(), Kind::ext4(), small_blocks], |kind| {
        let limit = if kind.block_size() == 1024 { 800 } else { 3072 };
        let mut scratch = Scratch::new(kind);
        let file = scratch.path("file");
        let at = file.display().to_string();
        run(&["alloc", "-s", &(2 * PIECES * 64 * K).to_string()], &file).expect(0);
        // Without every second piece, no piece follows its neighbour on the device.
        sh(on(
            &file,
            &format!(
                "for ((i = 1; i < {PIECES}; i++)); do echo \"fcollapse $((i * 64))k 64k\"; done | xfs_io $F >/dev/null
                 truncate -s {} $F",
                PIECES * 64 * K
            ),
        ));
        let was = map(&scratch, &file);
        assert_eq!(was.len() as u64, PIECES);
        assert_whole(&was, PIECES * 64 * K, 1024);
        let found = flags(&file);
        run(&["check"], &file).expect(0);
        let pinned = report(&["pin"], &file, 0);
        assert_eq!(pinned["map"]["extents"], PIECES);
        let size = record_size(&file);
        assert!((200..=limit).contains(&size), "a record of {size} bytes");
        assert_eq!(report(&["pin"], &file, 0)["action"], "already_pinned");
        scratch.remount();
        assert_eq!(map(&scratch, &file), was);
        run(&["verify"], &file).expect(0);
        clear_by_hand(&file);
        assert_eq!(state(&file), "not_held");
        assert_eq!(report(&["pin"], &file, 0)["action"], "pinned");
        run(&["verify"], &file).expect(0);

        sh(format!("touch -r '{at}' '{at}.time'"));
        clear_by_hand(&file);
        puncture(&file, 5 * M + 64 * K, 64 * K);
        sh(format!("touch -r '{at}.time' '{at}'"));
        set_by_hand(&file);
        let verified = report(&["verify"], &file, 1);
        assert_eq!(verified["pin"]["state"], "drifted");
        let [change] = &verified["changes"].as_array().unwrap()[..] else { panic!("one change: {verified}") };
        let (logical, length) = (change["logical"].as_u64().unwrap(), change["length"].as_u64().unwrap());
        assert!(logical <= 5 * M + 64 * K && 5 * M + 128 * K <= logical + length && length <= 2 * M, "{change}");
        assert_eq!((&change["was"], &change["now"]), (&json!({"state": "digest"}), &json!({"state": "digest"})));
        run(&["pin"], &file).expect(1);
        run(&["unpin"], &file).expect(0);
        assert_eq!(flags(&file), found);

        // With a hold that sets no flag, and past a hole.
        let allow = ["pin", "--hold", "none", "--allow", "hole"];
        run(&allow, &file).expect(0);
        run(&["verify"], &file).expect(0);
        sh(format!("xfs_io -c 'pwrite {}k 4k' -c fsync '{at}'", 5 * 1024 + 64));
        assert_eq!(report(&["verify"], &file, 1)["pin"]["state"], "drifted");
        run(&["unpin"], &file).expect(0);
    });
}
