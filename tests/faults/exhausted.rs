//! Full disks, spent quotas, and disks that fail: a clear error, and nothing half done.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use daxfile_tests::child::finish;
use daxfile_tests::tools::{checksum, flags, on, require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, Xfs, on_each, report, run, state};

const MIB: u64 = 1 << 20;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// Flags, records, contents and blocks of a file.
fn marks(file: &Path) -> [String; 3] {
    let script = "stat -c '%i %s %b %y' $F; getfattr -d -m daxfile -e hex --absolute-names $F";
    [sh(on(file, script)), flags(file), checksum(file)]
}

fn fill(scratch: &Scratch) {
    sh(on(
        scratch.mount_point(),
        "cd $F; size=$((1 << 28)); at=$(stat -c %s fill 2>/dev/null || echo 0)
         while ((size >= 512)); do
             if fallocate -o $at -l $size fill 2>/dev/null; then at=$((at + size)); else size=$((size / 2)); fi
         done
         i=0; while echo >small.$i; do i=$((i + 1)); done 2>/dev/null; rm -f small.$i; sync -f .",
    ));
}

/// Single blocks between holes: more of them than a record keeps whole, and than an inode has room for.
fn fragmented(scratch: &Scratch, name: &str) -> std::path::PathBuf {
    let file = scratch.path(name);
    let block = scratch.kind().block_size();
    let writes: String = (0..200).map(|n| format!("pwrite -q {} {block}\\n", 2 * n * block)).collect();
    sh(on(&file, &format!("truncate -s {} $F; printf '{writes}' | xfs_io $F; sync $F", 400 * block)));
    file
}

/// To the last block: a pin without room for its record leaves nothing, an unpin without room leaves the pin, and
/// both succeed once there is a little room.
#[test]
fn pin_and_unpin_on_a_full_disk_change_nothing() {
    require(&["xfs_io", "fallocate", "getfattr"]);
    on_each(Kind::small_and_large_blocks(), |kind| {
        let scratch = Scratch::new(kind);
        let holds = ["frozen", "none"];
        let files = holds.map(|hold| fragmented(&scratch, &format!("file-{hold}")));
        let kept = holds.map(|hold| fragmented(&scratch, &format!("kept-{hold}")));
        let pin = |hold| ["pin", "--allow", "hole", "--hold", hold];
        kept.iter().zip(holds).for_each(|(file, hold)| drop(run(&pin(hold), file).expect(0)));
        if scratch.kind().name() == "xfs" {
            // XFS uses the blocks that it reserves for itself for attributes as well.
            sh(on(scratch.mount_point(), "xfs_io -x -c 'resblks 0' $F"));
        }
        fill(&scratch);

        let new = scratch.path("new");
        let refused = report(&["alloc", "-s", "64K"], &new, 2);
        assert_eq!(refused["error"]["errno"], ENOSPC, "{refused}");
        assert!(!new.exists());
        for (file, hold) in files.iter().zip(holds) {
            let before = marks(file);
            let refused = report(&["prepare"], file, 2);
            assert_eq!(refused["error"]["errno"], ENOSPC, "{refused}");
            assert_eq!(marks(file), before);
            let pinned = Daxfile::new(pin(hold)).arg("--json").arg(file).run();
            if pinned.status == 0 {
                assert_eq!(state(file), "pinned");
                run(&["verify"], file).expect(0);
            } else {
                let refused = pinned.expect(2).file();
                assert_eq!(
                    (&refused["error"]["call"], &refused["error"]["errno"]),
                    (&"fsetxattr".into(), &ENOSPC.into()),
                    "{refused}"
                );
                assert_eq!(marks(file), before);
                assert_eq!(state(file), "unpinned");
            }
        }
        for file in &kept {
            let before = marks(file);
            let unpinned = Daxfile::new(["unpin", "--json"]).arg(file).run();
            if unpinned.status == 0 {
                assert_eq!(state(file), "unpinned");
            } else {
                assert_eq!(unpinned.expect(2).file()["error"]["errno"], ENOSPC);
                assert_eq!(marks(file), before);
                run(&["verify"], file).expect(0);
            }
        }

        sh(on(scratch.mount_point(), "rm $F/fill; sync -f $F"));
        for (file, hold) in files.iter().zip(holds) {
            run(&pin(hold), file).expect(0);
            run(&["verify"], file).expect(0);
        }
        for file in kept.iter().chain(&files) {
            run(&["unpin"], file).expect(0);
            assert_eq!(state(file), "unpinned");
        }
        run(&["prepare"], &files[0]).expect(0);
        run(&["alloc", "-s", "64K"], &new).expect(0);
    });
}

/// A quota that is spent: no kernel without quotas can be made to say so but by strace.
#[test]
fn verbs_report_spent_quotas() {
    require(&["strace"]);
    on_each(vec![Kind::xfs(), Kind::ext4()], |kind| {
        let scratch = Scratch::new(kind);
        let spent = |verb: &[&str], call: &str, file: &Path| {
            let inject = format!("inject={call}:error=EDQUOT");
            let run =
                Daxfile::new(verb).arg("--json").arg(file).wrap(["strace", "-qq", "-o", "/dev/null", "-e", &inject]);
            let run = run.run().expect(2);
            let error = &run.file()["error"];
            assert_eq!((&error["call"], &error["errno"]), (&call.into(), &EDQUOT.into()), "{run}");
            assert!(run.stderr.contains(&format!("Disk quota exceeded ({call})")), "{run}");
        };
        let new = scratch.path("new");
        for call in ["fallocate", "pwrite64", "linkat"] {
            spent(&["alloc", "-s", "1M"], call, &new);
            assert!(!new.exists());
        }
        let file = fragmented(&scratch, "file");
        let before = marks(&file);
        for hold in ["frozen", "none"] {
            spent(&["pin", "--allow", "hole", "--hold", hold], "fsetxattr", &file);
            assert_eq!(marks(&file), before);
        }
        for call in ["fallocate", "pwrite64"] {
            spent(&["prepare"], call, &file);
            assert_eq!((fs::metadata(&file).unwrap().len(), checksum(&file)), (400 * 4096, before[2].clone()));
            assert_eq!(state(&file), "unpinned");
        }
        run(&["prepare"], &file).expect(0);
        run(&["pin"], &file).expect(0);
        spent(&["unpin"], "fremovexattr", &file);
        run(&["verify"], &file).expect(0);
        run(&["unpin"], &file).expect(0);
        run(&["alloc", "-s", "1M"], &new).expect(0);
    });
}

/// The output of a run must be an answer, or an error that names call and errno.
#[track_caller]
fn assert_clear(run: &Run) {
    assert!((0..=5).contains(&run.status) || run.status == 124, "{run}");
    assert!(!run.stderr.contains("panicked"), "{run}");
    let file = run.file();
    if run.status >= 2 {
        let error = &file["error"];
        assert!(error["call"].is_string() && error["errno"].is_number(), "{run}");
        assert!(run.stderr.contains(error["call"].as_str().unwrap()), "{run}");
    }
}

/// Cuts the image while it is mounted: data that is not cached can no longer be read. The kernel's writes still
/// succeed, and make the image longer.
fn cut(scratch: &Scratch, length: u64) {
    let mount_point = scratch.mount_point().display();
    let cut = format!("cp --sparse=always $F $F.whole; truncate -s {length} $F");
    sh(on(scratch.image(), &format!("fsfreeze -f '{mount_point}'; {cut}; fsfreeze -u '{mount_point}'")));
}

/// As if the device had come back: the former image, with the later writes.
fn restore(scratch: &mut Scratch) {
    const OVERLAY: &str = r#"
        my ($SEEK_SET, $SEEK_DATA, $SEEK_HOLE) = (0, 3, 4);
        open my $new, "<", $ARGV[0] or die $!; open my $whole, "+<", "$ARGV[0].whole" or die $!;
        for (my $at = 0; defined($at = sysseek $new, $at, $SEEK_DATA); ) {
            my $end = sysseek $new, $at, $SEEK_HOLE or die $!;
            sysseek $new, $at, $SEEK_SET; sysseek $whole, $at, $SEEK_SET;
            while ($at < $end) {
                my $most = $end - $at < 1 << 20 ? $end - $at : 1 << 20;
                $at += sysread($new, my $data, $most) or die $!;
                syswrite($whole, $data) == length $data or die $!;
            }
        }"#;
    scratch.unmount();
    let overlaid = finish(Command::new("perl").args(["-e", OVERLAY]).arg(scratch.image()));
    assert!(overlaid.status.success(), "{overlaid:?}");
    sh(on(scratch.image(), "mv $F.whole $F"));
    scratch.mount();
}

/// Reads fail; then the device comes back. The state is one of those that `stat` names, and one command goes on from
/// it.
#[test]
fn failed_reads_leave_a_known_state() {
    require(&["perl", "timeout", "fsfreeze"]);
    // In blocks of 4 KiB, the log too: after smaller writes to the cut part, the bytes beside them are unknown.
    let xfs = Xfs { mkfs_args: ["-s", "size=4096"].map(String::from).to_vec(), ..Xfs::default() };
    on_each(vec![xfs.into(), Kind::ext4()], |kind| {
        // Verb; the pin beforehand; the states that it may leave.
        let rows: [(&[&str], Option<&str>, &[&str]); 8] = [
            (&["stat", "--extents"], None, &["unpinned"]),
            (&["check"], Some("frozen"), &["pinned"]),
            (&["verify"], Some("frozen"), &["pinned"]),
            (&["prepare"], None, &["unpinned"]),
            (&["pin"], None, &["unpinned", "not_held", "pinned"]),
            (&["pin", "--hold", "none"], None, &["unpinned", "pinned"]),
            (&["unpin"], Some("frozen"), &["pinned", "not_held", "unpinned"]),
            (&["unpin"], Some("none"), &["pinned", "unpinned"]),
        ];
        let mut scratch = Scratch::new(kind.clone());
        let file = scratch.path("file");
        // Long enough for blocks of the map, so that there is something to read.
        let writes: String = (0..1000).map(|n| format!("pwrite -q {} 4096\\n", 8192 * n)).collect();
        sh(on(&file, &format!("truncate -s {} $F; printf '{writes}' | xfs_io $F; sync $F", 8192 * 1000)));
        let contents = checksum(&file);
        let mut failed = Vec::new();
        for (verb, hold, states) in rows {
            let allow = |verb: &[&str]| Daxfile::new(verb).args((verb[0] != "prepare").then_some("--allow=hole"));
            for warm in [false, true] {
                if let Some(hold) = hold {
                    allow(&["pin", "--hold", hold]).arg(&file).run().expect(0);
                }
                scratch.remount();
                if warm {
                    run(&["stat"], &file).expect(0);
                }
                cut(&scratch, 4096);
                let takes = ["check", "pin"].contains(&verb[0]);
                let verb = if takes { allow(verb) } else { Daxfile::new(verb) };
                let run = verb.arg("--json").arg(&file).wrap(["timeout", "60"]).run();
                if run.status >= 2 {
                    failed.push(warm);
                }
                restore(&mut scratch);

                assert_clear(&run);
                let now = state(&file);
                assert!(states.contains(&&*now), "{now}: {run}");
                match (run.status, run.file()["action"].as_str()) {
                    (0, Some("pinned")) => assert_eq!(now, "pinned", "{run}"),
                    (0, Some("unpinned")) => assert_eq!(now, "unpinned", "{run}"),
                    _ => {}
                }
                assert_eq!(checksum(&file), contents, "{run}");
                // One command, either way.
                if now == "not_held" {
                    allow(&["pin"]).arg(&file).run().expect(0);
                }
                Daxfile::new(["unpin"]).arg(&file).run().expect(0);
                assert!(!flags(&file).contains('i'), "{run}");
            }
        }
        assert!(failed.contains(&false), "no run met the failing device");
        // And a file that was not there.
        scratch.remount();
        cut(&scratch, 4096);
        let alloc =
            Daxfile::new(["alloc", "-s", "64K", "--json"]).arg(scratch.path("new")).wrap(["timeout", "60"]).run();
        restore(&mut scratch);
        assert_clear(&alloc);
        assert_eq!(scratch.path("new").exists(), alloc.status == 0, "{alloc}");
        run(&["prepare"], &file).expect(0);
        assert_eq!(checksum(&file), contents);
        eprintln!("{}: {} of 16 runs met the failing device", kind.name(), failed.len());
    });
}

/// A thin device that is out of space: reads succeed, and writes to where nothing was yet do not. Then it gets space.
#[test]
fn failed_writes_leave_a_known_state() {
    require(&["fallocate", "timeout", "mount", "umount"]);
    on_each(vec![Kind::xfs(), Kind::ext4()], |kind| {
        let outer = Scratch::with_size(Kind::ext4(), 600 * MIB);
        let [image, inner] = ["image", "inner"].map(|name| outer.path(name));
        fs::create_dir(&inner).unwrap();
        let mount = || sh(format!("mount -o loop '{}' '{}'", image.display(), inner.display()));
        let umount = || sh(on(&inner, "umount $F"));
        sh(on(&image, &format!("truncate -s 512M $F; mkfs.{} -q $F", kind.name())));
        mount();
        let file = inner.join("file");
        sh(on(&file, "xfs_io -f -c 'pwrite -q 0 1m' -c 'truncate 64m' -c fsync $F"));
        let contents = checksum(&file);
        let new = inner.join("new");
        let mut failed = 0;
        for (verb, hold) in [
            (&["alloc", "-s", "64M"][..], None),
            (&["prepare"], None),
            (&["pin", "--allow", "hole,unwritten"], None),
            (&["pin", "--allow", "hole,unwritten", "--hold", "none"], None),
            (&["unpin"], Some("frozen")),
            (&["unpin"], Some("none")),
        ] {
            if let Some(hold) = hold {
                run(&["pin", "--allow", "hole,unwritten", "--hold", hold], &file).expect(0);
            }
            sh(on(&inner, "sync -f $F"));
            fill(&outer);
            let subject = if verb[0] == "alloc" { &new } else { &file };
            let run_now = Daxfile::new(verb).arg("--json").arg(subject).wrap(["timeout", "60"]).run();
            sh(on(outer.path("fill"), "rm $F"));
            assert_clear(&run_now);
            failed += i32::from(run_now.status >= 2);
            umount();
            mount();

            if verb[0] == "alloc" {
                assert_eq!(new.exists(), run_now.status == 0, "{run_now}");
                continue;
            }
            let now = state(&file);
            match run_now.file()["action"].as_str() {
                Some("pinned") => assert_eq!(now, "pinned", "{run_now}"),
                Some("unpinned") => assert_eq!(now, "unpinned", "{run_now}"),
                _ => assert!(["unpinned", "pinned", "not_held"].contains(&&*now), "{now}: {run_now}"),
            }
            assert_eq!(checksum(&file), contents, "{run_now}");
            run(&["unpin"], &file).expect(0);
            assert!(!flags(&file).contains('i'), "{run_now}");
        }
        run(&["alloc", "-s", "64M"], &new).expect(0);
        run(&["prepare"], &file).expect(0);
        assert_eq!(checksum(&file), contents);
        eprintln!("{}: {failed} of 6 runs met the full device", kind.name());
        assert!(failed >= 2, "{failed} runs met the full device");
        umount();
    });
}

/// A write beyond the limit of the caller's file sizes fails, and kills nobody.
#[test]
fn a_limit_of_file_sizes_is_an_error() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let limited = |verb: &[&str], file: &Path| {
            // In KiB.
            let limit = ["bash", "-c", "ulimit -f 1024; exec \"$0\" \"$@\""];
            Daxfile::new(verb).arg(file).wrap(limit).run()
        };
        for align in [&[][..], &["--align", "64K"]] {
            let new = scratch.path("new");
            let refused = limited(&[&["alloc", "-s", "2M"], align].concat(), &new).expect(2);
            assert!(refused.stderr.contains("File too large") && refused.stderr.contains("ulimit -f"), "{refused}");
            assert!(!new.exists());
            limited(&[&["alloc", "-s", "512K"], align].concat(), &new).expect(0);
            fs::remove_file(new).unwrap();
        }
        let holed = scratch.path("holed");
        sh(on(&holed, "xfs_io -f -c 'pwrite -q 0 64k' -c 'pwrite -q 3m 64k' -c fsync $F"));
        let before = checksum(&holed);
        let refused = limited(&["prepare"], &holed).expect(2);
        assert!(refused.stderr.contains("File too large"), "{refused}");
        assert_eq!(checksum(&holed), before);
        limited(&["pin", "--allow", "hole,unwritten"], &holed).expect(0);
        limited(&["unpin"], &holed).expect(0);
    });
}

/// A thread that the kernel refuses is missed by nobody, or the error says so.
#[test]
fn threads_that_the_kernel_refuses_end_no_verb_by_a_panic() {
    require(&["strace", "xfs_io"]);
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        // So long that another thread reads its map ahead.
        let long = scratch.path("long");
        let writes: String = (0..6000).map(|n| format!("pwrite -q {}k 4k\\n", 8 * n)).collect();
        sh(on(&long, &format!("truncate -s 48M $F; printf '{writes}' | xfs_io $F; sync $F")));
        let files: Vec<_> = (0..64).map(|n| scratch.path(format!("file-{n}"))).collect();
        for file in &files {
            sh(on(file, "head -c 4096 /dev/zero >$F"));
        }
        let without = |first: u32, verb: &[&str], files: &[&Path]| {
            let inject = format!("inject=clone3,clone:error=EAGAIN:when={first}+");
            Daxfile::new(verb).args(files).wrap(["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject]).run()
        };
        let all: Vec<&Path> = files.iter().chain([&long]).map(PathBuf::as_path).collect();
        // The first thread waits for signals, the second looks at files.
        without(2, &["check", "--allow", "hole"], &[&long]).expect(0);
        without(2, &["pin", "--allow", "hole"], &all).expect(0);
        for verb in ["stat", "verify"] {
            let refused = without(2, &[verb], &all).expect(2);
            assert!(refused.stderr.contains("no thread could be started"), "{refused}");
            without(3, &[verb], &all).expect(0);
        }
        let refused = without(2, &["list"], &[scratch.mount_point()]).expect(2);
        assert!(refused.stderr.contains("no thread could be started"), "{refused}");
        without(3, &["list"], &[scratch.mount_point()]).expect(0);
        without(2, &["unpin"], &all).expect(0);
    });
}
