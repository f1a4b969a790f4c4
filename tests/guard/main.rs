//! Hold `writable`: the guard, on files of real filesystems, on the lab's kernels.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use daxfile_tests::child::{finish, spawn};
use daxfile_tests::tools::{attack, checksum, filefrag, flags, inode, on, sh, sh_status};
use daxfile_tests::{Daxfile, Kind, Scratch, done, report, run, state};
use nix::libc;

const PIN: [&str; 3] = ["pin", "--hold", "writable"];

/// The guard exists once per machine: tests that watch it appear and disappear take turns with the others.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Left over from a test that failed.
    sh("rm -rf /sys/fs/bpf/daxfile");
    turn
}

fn allocated(scratch: &Scratch, name: &str) -> PathBuf {
    let path = scratch.path(name);
    done(&["alloc", "-s", "1M"], &path);
    path
}

fn pinned(scratch: &Scratch, name: &str) -> PathBuf {
    let path = allocated(scratch, name);
    done(&PIN, &path);
    path
}

/// Takes the whole guard away, as a reboot does, from a file that is pinned. The kernel lets its programs go a while
/// after.
fn lose_guard(path: &Path) {
    sh("rm -r /sys/fs/bpf/daxfile");
    let deadline = Instant::now() + Duration::from_secs(60);
    while state(path) != "not_held" {
        assert!(Instant::now() < deadline, "held without the guard");
        sleep(Duration::from_millis(20));
    }
}

fn refused(path: &Path, script: &str) {
    assert_ne!(sh_status(on(path, script)), 0, "{script}");
}

/// Writes within the file, of every kind; the map stays.
fn write_in_place(path: &Path) {
    let map = filefrag(path);
    // The operations write the same bytes each time.
    sh(on(path, "head -c $(stat -c %s $F) /dev/urandom | dd of=$F bs=64k iflag=fullblock conv=notrunc status=none"));
    let before = checksum(path);
    let other = path.with_extension("other");
    sh(on(&other, "head -c 1M /dev/urandom >$F"));
    for operation in ["pwrite", "pwrite-direct", "aio", "aio-direct", "uring-write", "uring-direct", "store"] {
        assert_eq!(
            strike(if operation == "store" { "map" } else { "rw" }, operation, path, &other),
            DONE,
            "{operation}"
        );
    }
    assert_ne!(checksum(path), before);
    assert_eq!(filefrag(path), map);
}

/// A machine either allows the operation, or daxfile says that it does not.
#[test]
fn refusal_by_policy_is_reported() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = allocated(&scratch, "file");
    let (was, marks) = (checksum(&path), flags(&path));
    let pin = run(&PIN, &path);
    if pin.status == 0 {
        write_in_place(&path);
        done(&["unpin"], &path);
    } else {
        let pin = pin.expect(4);
        assert!(pin.stderr.contains("not permitted"), "{pin}");
        assert_eq!(state(&path), "unpinned");
        run(&["pin", "--dry-run", "--hold", "writable"], &path).expect(4);
        assert_eq!(checksum(&path), was);
    }
    assert_eq!(flags(&path), marks);
    sh("test ! -e /sys/fs/bpf/daxfile");
    let nobody = Daxfile::new(PIN).arg(&path).as_nobody().run().expect(4);
    assert!(nobody.stderr.contains("CAP_SYS_ADMIN"), "{nobody}");
}

#[test]
fn a_map_that_writes_would_change_is_not_held_writable() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = allocated(&scratch, "file");
    // Where a policy refuses BPF programs, check and pin say that first.
    let refused = run(&["check", "--hold", "writable"], &path).status;
    assert!([0, 4].contains(&refused), "{refused}");
    sh(on(&path, "truncate -s 2M $F"));
    run(&["check", "--hold", "writable"], &path).expect(refused.max(1));
    run(&PIN, &path).expect(refused.max(1));
    for verb in ["check", "pin", "prepare"] {
        run(&[verb, "--hold", "writable", "--allow", "hole"], &path).expect(2);
    }
    done(&["prepare", "--hold", "writable"], &path);
    run(&["check", "--hold", "writable"], &path).expect(refused);
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn life_of_a_writable_pin_in_the_lab() {
    let _turn = turn();
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = allocated(&scratch, "file");
        let marks = flags(&path);
        // Opened before the pin, it is refused at the write.
        let mut appender = Command::new("bash");
        appender.args(["-c", "exec 3>>\"$1\"; echo; read; echo more >&3", "bash"]).arg(&path);
        let mut appender = spawn(appender.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()));
        appender.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        done(&PIN, &path);
        appender.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(!appender.wait().unwrap().success());
        let map = filefrag(&path);
        assert_eq!(state(&path), "pinned");
        done(&["verify"], &path);
        assert!(done(&PIN, &path).text().contains("already"));
        run(&["pin"], &path).expect(1);
        write_in_place(&path);
        for attack in ["truncate -s 0 $F", "echo >>$F", "rm -f $F", "mv $F $F.away", "fallocate -p -l 4096 $F"] {
            refused(&path, attack);
        }
        sh(on(&path, "cp $F $F.copy; cmp $F $F.copy"));
        // To the size that it has: nothing changes.
        sh(on(&path, "truncate -s 1M $F"));
        assert!(filefrag(&path).iter().all(|piece| !piece.shared));
        assert_eq!(filefrag(&path), map);
        done(&["verify"], &path);
        assert_eq!(
            Daxfile::new(["stat", "--json"]).arg(&path).as_nobody().run().expect(0).json()["files"][0]["pin"]["state"],
            "pinned"
        );
        done(&["unpin"], &path);
        assert_eq!(state(&path), "unpinned");
        assert_eq!((flags(&path), filefrag(&path)), (marks, map));
        sh("test ! -e /sys/fs/bpf/daxfile");
        sh(on(&path, "truncate -s 0 $F; rm $F"));
    }
}

/// Tasks preempt one another in the middle of a call. If the kernel then skipped a program of the guard, the guard would
/// take a write in place for another operation, or miss what an operation is for.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn preempted_tasks_keep_their_own_notes_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = pinned(&scratch, "file");
    let map = filefrag(&path);
    let crowd = finish(Command::new(attack("crowd")).arg(&path).arg(path.with_extension("clone")).arg("40"));
    assert!(crowd.status.success() && crowd.stderr.is_empty(), "{crowd:?}");
    let counts = String::from_utf8(crowd.stdout).unwrap();
    let counts: Vec<u64> = counts.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [written, not_written, appended, not_appended, shared, not_shared] = counts[..] else { panic!("{counts:?}") };
    println!("crowd: {written} writes, {not_appended} refused to append, {not_shared} refused to share");
    assert_eq!((not_written, appended, shared), (0, 0, 0), "of {counts:?}");
    assert!([written, not_appended, not_shared].iter().all(|&number| number > 1000), "{counts:?}");
    assert_eq!(filefrag(&path), map);
    done(&["verify"], &path);
    done(&["unpin"], &path);
}

/// Unmounted and mounted again it is guarded; another filesystem at its device, with a file of its inode number, is
/// not.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn guard_identifies_files_by_filesystem_and_generation_in_the_lab() {
    let _turn = turn();
    for kind in Kind::xfs_and_ext4() {
        let mut scratch = Scratch::new(kind.clone());
        let mut another = Scratch::new(kind);
        let path = pinned(&scratch, "file");
        let namesake = allocated(&another, "file");
        let number = |path: &Path| sh(on(path, "stat -c %i $F"));
        assert_eq!(number(&path), number(&namesake));
        done(&PIN, &namesake);
        refused(&namesake, "truncate -s 0 $F");
        done(&["unpin"], &namesake);
        refused(&path, "truncate -s 0 $F");
        sh(on(&namesake, "truncate -s 4096 $F"));
        let device = scratch.device().to_owned();
        let (image, dir) = (another.image().to_owned(), tempfile::tempdir().unwrap());
        scratch.unmount();
        another.unmount();
        // The other image, at the same device.
        let (device, image, dir) = (device.display(), image.display(), dir.path());
        sh(format!("losetup {device} '{image}'; mount {device} '{}'", dir.display()));
        let there = dir.join("file");
        sh(on(&there, "truncate -s 8192 $F; echo more >>$F"));
        sh(format!("umount '{}'; losetup -d {device}", dir.display()));
        scratch.mount();
        assert_eq!(state(&path), "pinned");
        refused(&path, "truncate -s 0 $F");
        done(&["verify"], &path);
        done(&["unpin"], &path);
    }
}

/// A reboot removes the guard, and keeps the record.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn unchanged_files_are_held_again_after_reboot_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let (same, moved) = (pinned(&scratch, "same"), pinned(&scratch, "moved"));
    lose_guard(&moved);
    run(&["verify"], &moved).expect(1);
    sh(on(
        &moved,
        "cp --reflink=always $F $F.clone; dd if=/dev/urandom of=$F bs=4k count=16 conv=notrunc,fsync status=none",
    ));
    sh(on(&same, "dd if=/dev/urandom of=$F bs=4k count=16 conv=notrunc,fsync status=none"));
    let list = scratch.path("pins");
    std::fs::write(&list, format!("{}\n{}\n", same.display(), moved.display())).unwrap();
    let again = Daxfile::new(PIN).arg("--files-from").arg(&list).run();
    again.expect(1);
    assert_eq!(state(&same), "pinned");
    done(&["verify"], &same);
    assert_eq!(state(&moved), "not_held");
    sh(on(&moved, "truncate -s 0 $F"));
    refused(&same, "truncate -s 0 $F");
    done(&["unpin"], &moved);
    done(&["unpin"], &same);
}

/// Links that are missing show, and pinning puts them back.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn guard_with_a_missing_link_does_not_count_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = pinned(&scratch, "file");
    let links = "/sys/fs/bpf/daxfile/links-*";
    // Programs of another build are found and replaced.
    sh(format!("cd /sys/fs/bpf/daxfile; mv {links} links-0123456789abcdef-$(ls {links} | wc -l)"));
    assert_eq!(state(&path), "pinned");
    let other = pinned(&scratch, "other");
    sh("test $(ls -d /sys/fs/bpf/daxfile/links-* | wc -l) = 1; test ! -e /sys/fs/bpf/daxfile/links-0123456789abcdef-*");
    refused(&path, "truncate -s 0 $F");
    write_in_place(&path);

    sh(format!("rm {links}/inode_setattr*"));
    assert_eq!(state(&path), "not_held");
    done(&PIN, &path);
    refused(&path, "truncate -s 0 $F");
    assert_eq!((state(&path), state(&other)), ("pinned".into(), "pinned".into()));
    done(&["unpin"], &path);
    refused(&other, "truncate -s 0 $F");
    sh(on(&path, "truncate -s 0 $F"));
    done(&["unpin"], &other);
}

/// `unpin` still releases a file whose record root removed.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn unpin_releases_a_file_without_its_record_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = pinned(&scratch, "file");
    sh(on(&path, "setfattr -x security.daxfile.pin $F"));
    assert_eq!(state(&path), "unpinned");
    refused(&path, "truncate -s 0 $F");
    assert!(done(&["unpin", "--dry-run"], &path).text().contains("would"));
    refused(&path, "truncate -s 0 $F");
    assert!(done(&["unpin"], &path).text().contains("without a record"));
    sh("test ! -e /sys/fs/bpf/daxfile");
    sh(on(&path, "truncate -s 0 $F"));
}

/// Without CAP_SYS_ADMIN, a caller cannot remove the record or the guard, regardless of the file's owner.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn record_and_pins_need_an_administrator_in_the_lab() {
    let _turn = turn();
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = pinned(&scratch, "file");
        sh(on(&path, "chown 65534 $F; chmod 777 ${F%/*}"));
        let before = inode(&path);
        let without = |script: &str, as_whom: &str| {
            let script = format!("setpriv {as_whom} -- bash -euc '{script}' bash $F");
            refused(&path, &format!("unset IFS; {script}"));
        };
        for whom in ["--reuid 65534 --clear-groups", "--bounding-set -sys_admin --inh-caps -sys_admin"] {
            without("setfattr -x security.daxfile.pin $1", whom);
            without("setfattr -n security.daxfile.pin -v none $1", whom);
            without("rm -r /sys/fs/bpf/daxfile", whom);
            without("rm /sys/fs/bpf/daxfile/links-*/inode_setattr", whom);
            without("mv /sys/fs/bpf/daxfile /sys/fs/bpf/away", whom);
            without(
                "bpftool map delete pinned /sys/fs/bpf/daxfile/daxfile_files key hex $(printf \"0 %.0s\" {1..24})",
                whom,
            );
            without("rm -f $1", whom);
        }
        assert_eq!(inode(&path), before);
        assert_eq!(state(&path), "pinned");
        refused(&path, "truncate -s 0 $F");
        done(&["unpin"], &path);
    }
}

/// With the flag, as nfsd copies, bytes are read; without, blocks are not shared, and others go on as ever.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn other_files_are_left_alone_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = pinned(&scratch, "file");
    let other = allocated(&scratch, "other");
    let script = "cp --reflink=always $F $F.clone; truncate -s 2M $F; echo more >>$F; fallocate -p -l 4096 $F; \
                  mv $F $F.away; mv $F.away $F; rm $F.clone; xfs_io -x -c 'reflink $F 0 0 4096' $F.new -f || :; rm $F";
    sh(on(&other, script));
    refused(&path, "cp --reflink=always $F $F.clone");
    sh(on(&path, "for i in 1 2 3; do cat $F | cmp - $F; cp $F $F.copy; done"));
    done(&["verify"], &path);
    done(&["unpin"], &path);
    sh(on(&path, "cp --reflink=always $F $F.clone"));
}

/// Blocks that became shared while the guard was absent count, because a write would move them.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn sharing_since_the_pin_is_drift_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = pinned(&scratch, "file");
    lose_guard(&path);
    sh(on(&path, "cp --reflink=always $F $F.clone"));
    run(&PIN, &path).expect(1);
    assert_eq!(state(&path), "not_held");
    sh(on(&path, "rm $F.clone; sync -f $F"));
    done(&["prepare", "--hold", "writable"], &path);
    done(&["unpin"], &path);
}

/// strike.c prints this for an operation that succeeds, and otherwise an errno.
const DONE: &str = "done";

/// f2fs pins files while they are empty, and lets their owner unpin them: the guard keeps them pinned.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn guard_keeps_f2fs_files_pinned_in_the_lab() {
    const ATTACKS: [(&str, &str); 14] = [
        ("rw", "f2fs-unpin"),
        ("rw", "f2fs-move-from"),
        ("rw", "f2fs-move-onto"),
        ("rw", "f2fs-defragment"),
        ("rw", "f2fs-atomic"),
        ("rw", "ftruncate-shrink"),
        ("rw", "ftruncate-grow"),
        ("rw", "rwf-append"),
        ("rw", "alloc-beyond"),
        ("rw", "punch"),
        ("rw", "zero"),
        ("rw", "collapse"),
        ("rw", "insert"),
        ("path", "unlink"),
    ];
    let _turn = turn();
    let mut scratch = Scratch::new(Kind::F2fs);
    let [path, plain, other] = ["file", "plain", "other"].map(|name| scratch.path(name));
    let write = |path: &Path| sh(on(path, "head -c 1M /dev/urandom >$F; sync $F"));
    write(&plain);
    if report(&["probe"], &plain, 0)["probe"]["filesystem"]["uuid"].is_null() {
        // Before Linux 6.9.
        for refused in [run(&["alloc", "-s", "2M"], &path).expect(3), run(&PIN, &plain).expect(3)] {
            assert!(refused.stderr.contains("UUID"), "{refused}");
        }
        return;
    }
    done(&["alloc", "-s", "2M"], &path);
    let alloc = run(&["alloc", "-s", "1M"], &other).expect(2);
    assert!(alloc.stderr.contains("multiple") && !other.exists(), "{alloc}");
    assert!(flags(&path).contains('C') && !flags(&plain).contains('C'), "{}", flags(&path));
    for hold in ["frozen", "none"] {
        run(&["pin", "--hold", hold], &path).expect(3);
    }
    let blockers = report(&["check", "--hold", "writable"], &plain, 1)["blockers"].clone();
    assert_eq!((blockers.as_array().unwrap().len(), &blockers[0]["kind"]), (1, &"f2fs_unpinned".into()), "{blockers}");
    run(&PIN, &plain).expect(1);

    for (access, operation) in ATTACKS {
        write(&other);
        write(&plain);
        assert_eq!(strike(access, operation, &plain, &other), DONE, "{operation}");
    }
    done(&PIN, &path);
    write_in_place(&path);
    let map = filefrag(&path);
    for (access, operation) in ATTACKS {
        write(&other);
        assert_ne!(strike(access, operation, &path, &other), DONE, "{operation}");
        assert_eq!((state(&path), filefrag(&path)), ("pinned".into(), map.clone()), "{operation}");
    }
    scratch.remount();
    assert_eq!(state(&path), "pinned");
    done(&["verify"], &path);
    assert_ne!(strike("rw", "f2fs-unpin", &path, &other), DONE);
    done(&["unpin"], &path);

    // f2fs itself does the same when its garbage collection has met the file too often.
    done(&PIN, &path);
    lose_guard(&path);
    assert_eq!(strike("rw", "f2fs-unpin", &path, &other), DONE);
    run(&PIN, &path).expect(1);
    assert_eq!(state(&path), "not_held");
    done(&["unpin"], &path);
}

fn strike(access: &str, operation: &str, file: &Path, other: &Path) -> String {
    strike_by(&attack("strike"), access, operation, file, other)
}

fn strike_by(program: &Path, access: &str, operation: &str, file: &Path, other: &Path) -> String {
    let script = "echo | \"$@\"";
    let mut strike = Command::new("bash");
    strike.args(["-c", script, "bash"]).arg(program).args([access, operation]).arg(file).arg(other).arg("4");
    let out = finish(&mut strike);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && out.stderr.is_empty(), "{operation}: {out:?}");
    said.split_whitespace().last().unwrap().to_owned()
}

/// The cost for calls on other files: without the guard, with a program at the hook file_permission that does nothing,
/// and with the guard.
#[test]
#[ignore = "a measurement: tests/lab.sh --count KERNEL guard toll --nocapture"]
fn toll_of_other_files_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let (held, other) = (allocated(&scratch, "held"), allocated(&scratch, "other"));
    let measure = |with: &[&str]| -> Vec<u64> {
        let out = finish(Command::new(attack("toll")).arg(&other).args(with));
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap().split_whitespace().map(|number| number.parse().unwrap()).collect()
    };
    let none = measure(&[]);
    let empty = measure(&["empty"]);
    done(&PIN, &held);
    let guard = measure(&[]);
    done(&["unpin"], &held);
    for (call, what) in ["pread", "pwrite", "open, close"].iter().enumerate() {
        let [none, empty, guard] = [none[call], empty[call], guard[call]];
        println!("toll: {what}: {none} without, {empty} empty, {guard} guard: {} per mille", guard * 1000 / empty);
    }
    // Where the clock counts instructions.
    if std::fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor\t:").count() == 1 {
        assert!(guard[0] * 100 <= empty[0] * 103, "a read of another file");
        assert!(guard[1] * 100 <= empty[1] * 115, "a write to another file");
    }
}

/// Threads that block in a write, with or without a note about it, keep no other process from reading and writing.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn blocked_writers_harm_nobody_in_the_lab() {
    let _turn = turn();
    sh("sysctl -q kernel.pid_max=200000 kernel.threads-max=100000 vm.max_map_count=300000");
    let scratch = Scratch::new(Kind::xfs());
    let path = pinned(&scratch, "file");
    let map = filefrag(&path);
    // The guard has room for 32,768 notes.
    for (how, threads) in [("append", "20000"), ("gather", "34000")] {
        let mut blocked = Command::new(attack("blocked"));
        blocked.arg(how).arg(&path).arg(threads);
        let mut blocked = spawn(blocked.stdin(Stdio::piped()).stdout(Stdio::piped()));
        blocked.stdout.take().unwrap().read_exact(&mut [0; 8]).expect("all are blocked");
        sh(on(&path, "for i in 1 2 3; do cat $F | cmp - $F; cp $F $F.copy; done"));
        write_in_place(&path);
        refused(&path, "echo >>$F");
        refused(&path, "dd if=/dev/zero of=$F bs=1M count=1 seek=1 conv=notrunc");
        drop(blocked.stdin.take());
        assert!(blocked.wait().unwrap().success());
        write_in_place(&path);
    }
    assert_eq!(filefrag(&path), map);
    done(&["verify"], &path);
    done(&["unpin"], &path);
}

/// Kprobes can be silenced as a whole.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn guard_with_silent_probes_does_not_count_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = pinned(&scratch, "file");
    let as_nobody = || {
        let stat = Daxfile::new(["stat", "--json"]).arg(&path).as_nobody().run().expect(0);
        stat.file()["pin"]["state"].as_str().unwrap().to_owned()
    };
    let debugfs = tempfile::tempdir().unwrap();
    sh(on(debugfs.path(), "mount -t debugfs debugfs $F"));
    let kprobes = format!("{}/kprobes/enabled", debugfs.path().display());
    for switch in ["/proc/sys/kernel/ftrace_enabled", &kprobes] {
        // Newer kernels refuse that while a BPF program needs ftrace.
        if sh_status(format!("echo 0 >{switch}")) != 0 {
            assert_eq!(state(&path), "pinned", "{switch}");
            continue;
        }
        let silent = (state(&path), as_nobody());
        let verify = run(&["verify"], &path);
        sh(format!("echo 1 >{switch}"));
        assert_eq!(silent, ("not_held".into(), "not_held".into()), "{switch}");
        verify.expect(1);
        assert_eq!((state(&path), as_nobody()), ("pinned".into(), "pinned".into()), "{switch}");
        done(&["verify"], &path);
    }
    sh(on(debugfs.path(), "umount $F"));
    // A file that cannot be examined is not reported as pinned.
    let nobody = Daxfile::new(["verify"]).arg(&path).as_nobody().run().expect(4);
    assert!(nobody.stderr.contains("only root can see"), "{nobody}");
    done(&["unpin"], &path);
}

/// unpin releases a file that the guard holds, with any value in place of its record.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn unpin_releases_a_file_with_a_strange_record_in_the_lab() {
    let _turn = turn();
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = pinned(&scratch, "file");
        let other = pinned(&scratch, "other");
        sh(on(&path, "setfattr -n security.daxfile.pin -v junk $F"));
        done(&["unpin"], &path);
        sh(on(&path, "truncate -s 0 $F"));
        // The record of another file.
        let foreign = pinned(&scratch, "foreign");
        sh(on(
            &foreign,
            "setfattr -n security.daxfile.pin -v $(getfattr --only-values -e hex -n security.daxfile.pin \
            ${F%/*}/other | od -An -tx1 -v | tr -d ' \\n' | sed s/^/0x/) $F",
        ));
        assert_eq!(state(&foreign), "foreign_record");
        done(&["unpin"], &foreign);
        sh(on(&foreign, "truncate -s 0 $F"));
        done(&["unpin"], &other);
        sh("test ! -e /sys/fs/bpf/daxfile");
    }
}

/// A directory of another user in place of the guard's directory is not trusted.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn pin_refuses_a_guard_directory_of_another_user_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = allocated(&scratch, "file");
    for script in ["mkdir $P; chown 65534 $P", "mkdir $P; chmod 777 $P"] {
        sh(format!("P=/sys/fs/bpf/daxfile; {script}"));
        let pin = run(&PIN, &path).expect(2);
        assert!(pin.stderr.contains("does not belong to root alone"), "{pin}");
        assert_eq!(state(&path), "unpinned");
        sh("rmdir /sys/fs/bpf/daxfile");
    }
    done(&PIN, &path);
    sh("chmod 755 /sys/fs/bpf/daxfile; chown 65534 /sys/fs/bpf/daxfile");
    assert_eq!(state(&path), "not_held");
    sh("chown 0 /sys/fs/bpf/daxfile");
    done(&["unpin"], &path);
}

/// A loop device that is larger than the file writes past its end, and the guard does not see it.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn pin_names_a_loop_device_in_the_lab() {
    let _turn = turn();
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = allocated(&scratch, "file");
        let device = sh(on(&path, "truncate -s 2M $F; losetup -f --show $F; truncate -s 1M $F"));
        let device = device.trim();
        let pin = run(&PIN, &path).expect(5);
        assert!(pin.stderr.contains(device), "{pin}");
        // A process that has it open does not hide the device either.
        let mut writer = Command::new("bash");
        writer.args(["-c", "exec 3<>\"$1\"; echo; read", "bash"]).arg(&path);
        let mut writer = spawn(writer.stdin(Stdio::piped()).stdout(Stdio::piped()));
        writer.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        run(&PIN, &path).expect(5);
        assert_eq!(state(&path), "unpinned");
        sh(format!("losetup -d {device}"));
        done(&[PIN[0], "--wait", "10", PIN[1], PIN[2]], &path);
        drop(writer.stdin.take());
        writer.wait().unwrap();
        refused(&path, "losetup -f $F");
        sh(on(&path, "L=$(losetup -r -f --show $F); cmp $L $F; losetup -d $L"));
        done(&["unpin"], &path);
    }
}

/// Files that are pinned together wait together, and one that is busy stays out of the guard alone.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn files_pinned_together_share_one_wait_in_the_lab() {
    const FILES: usize = 100;
    let _turn = turn();
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let files: Vec<PathBuf> = (0..FILES).map(|number| scratch.path(number.to_string())).collect();
        files.iter().for_each(|file| std::fs::write(file, [1; 4096]).unwrap());
        sh(format!("sync -f '{}'", scratch.mount_point().display()));
        let all = |words: &[&str]| Daxfile::new(words).args(&files);

        let busy = &files[FILES / 2];
        let device = sh(on(busy, "losetup -f --show $F"));
        let pin = all(&PIN).run().expect(5);
        assert!(pin.stderr.contains(device.trim()), "{pin}");
        for file in &files {
            assert_eq!(state(file), if file == busy { "unpinned" } else { "pinned" }, "{}", file.display());
        }
        sh(format!("losetup -d {device}"));
        sh(on(busy, "echo >>$F; truncate -s 4096 $F; sync $F"));
        all(&["unpin"]).run().expect(0);
        sh("test ! -e /sys/fs/bpf/daxfile");

        let trace = scratch.path("trace");
        let words = ["strace", "-f", "-qq", "-e", "trace=bpf,fsync,syncfs", "-o", trace.to_str().unwrap()];
        all(&PIN).wrap(words).run().expect(0);
        all(&["verify", "-q"]).run().expect(0);
        let trace = std::fs::read_to_string(&trace).unwrap();
        let count = |call: &str| trace.lines().filter(|line| line.contains(call)).count();
        assert!(count("BPF_OBJ_GET") < 20, "{}", count("BPF_OBJ_GET"));
        assert!(count("sync") < 10, "{}", count("sync"));
        all(&["unpin"]).run().expect(0);

        let times = ["frozen", "writable", "frozen", "writable", "frozen", "writable"].map(|hold| {
            let begun = Instant::now();
            all(&["pin", "--hold", hold]).run().expect(0);
            all(&["unpin"]).run().expect(0);
            begun.elapsed()
        });
        println!("{}: pin and unpin of {FILES} files, frozen and writable in turn: {times:?}", scratch.kind().name());
    }
}

/// Lockdown forbids programs that write to user memory, and AppArmor refuses before the guard is asked.
#[test]
#[ignore = "runs in the lab: tests/lab.sh --boot lockdown=integrity KERNEL guard"]
fn writable_pins_hold_beside_apparmor_and_lockdown_in_the_lab() {
    let active = |name: &str| std::fs::read_to_string(Path::new("/sys/kernel/security").join(name)).unwrap();
    let (lsm, lockdown) = (active("lsm"), active("lockdown"));
    assert!(lsm.contains("apparmor") && lsm.contains("bpf"), "{lsm}");
    assert!(lockdown.contains("[integrity]"), "not booted with --boot lockdown=integrity: {lockdown}");
    let _turn = turn();
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = allocated(&scratch, "file");
        let map = filefrag(&path);
        let confined = "$F.dd if=/dev/zero of=$F bs=4k count=1 conv=notrunc";
        sh(on(&path, &format!("cp /usr/bin/dd $F.dd; {confined}")));
        sh(on(&path, r#"echo "profile $F.dd { file, deny $F w, }" >$F.profile; apparmor_parser -K -a $F.profile"#));
        done(&PIN, &path);
        refused(&path, confined);
        write_in_place(&path);
        for attack in ["truncate -s 0 $F", "echo >>$F", "rm -f $F", "fallocate -p -l 4096 $F"] {
            refused(&path, attack);
        }
        sh(on(&path, &format!("apparmor_parser -R $F.profile; {confined}")));
        assert_eq!(filefrag(&path), map);
        done(&["verify"], &path);
        done(&["unpin"], &path);
        sh("test ! -e /sys/fs/bpf/daxfile");
    }
}

/// The program late.c, once it has said its first word.
struct Late {
    child: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Late {
    fn start(how: &str, path: &Path, first: &str) -> Late {
        let mut command = Command::new(attack("late"));
        let mut child = spawn(command.arg(how).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut late = Late { child, lines };
        assert_eq!(late.says(), first);
        late
    }

    fn says(&mut self) -> String {
        self.lines.next().expect("a line").unwrap()
    }

    fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// The kernel checks a splice when it begins, and not again for as long as the pipe is empty.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn pin_detects_a_waiting_splice_in_the_lab() {
    let _turn = turn();
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = allocated(&scratch, "file");
        for how in ["splice", "closed"] {
            let late = Late::start(how, &path, "inside");
            let pin = run(&PIN, &path).expect(5);
            assert!(pin.stderr.contains("splice(2)"), "{pin}");
            let process = format!("process {} ", late.child.id());
            assert_eq!(pin.stderr.contains(&process), how == "splice", "{pin}");
            assert_eq!(state(&path), "unpinned");
            late.end();
            done(&[PIN[0], "--wait", "10", PIN[1], PIN[2]], &path);
            done(&["unpin"], &path);
        }
        // It would have changed the file.
        let mut late = Late::start("splice", &path, "inside");
        late.go_on();
        assert_eq!(late.says(), "4096");
        sh(on(&path, "test $(stat -c %s $F) = $((1048576 + 4096))"));
        late.end();
    }
}

/// The guard does not see a write that was checked before, and then waits for the inode's lock behind pin.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn pin_waits_for_a_queued_write_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::ext4());
    let path = allocated(&scratch, "file");
    let mut late = Late::start("queue", &path, "locked");
    let mut pin = spawn(Daxfile::new(PIN).arg(&path).command().stdout(Stdio::null()).stderr(Stdio::piped()));
    let is_in = |call: libc::c_long| {
        let now = std::fs::read_to_string(format!("/proc/{}/syscall", pin.id())).unwrap();
        now.starts_with(&format!("{call} "))
    };
    // pin waits for the lock where it stores the record. On newer kernels it waits earlier, where it reads ext4's map.
    let (mut in_ioctl, start) = (0, Instant::now());
    while in_ioctl < 50 && !is_in(libc::SYS_fsetxattr) {
        assert!(start.elapsed() < Duration::from_secs(120), "pin does not wait");
        in_ioctl = if is_in(libc::SYS_ioctl) { in_ioctl + 1 } else { 0 };
        sleep(Duration::from_millis(100));
    }
    println!("pin waits in {}", if in_ioctl < 50 { "fsetxattr" } else { "ioctl" });
    late.go_on();
    assert_eq!(late.says(), "queued");
    late.go_on();
    assert_eq!(late.says(), "locked");
    // Time enough for a pin that does not wait for the write.
    let start = Instant::now();
    while pin.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(100));
    }
    late.go_on();
    assert_eq!(late.says(), "8192");
    late.end();
    let pin = pin.wait_with_output().unwrap();
    assert_eq!(pin.status.code(), Some(5), "{}", String::from_utf8_lossy(&pin.stderr));
    assert_eq!(state(&path), "unpinned");
    sh("test ! -e /sys/fs/bpf/daxfile");
}

/// AppArmor refuses before the guard is asked. What it refused must not be taken for a later operation.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn a_write_refused_by_apparmor_permits_no_exchange_in_the_lab() {
    let _turn = turn();
    let lsm = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap();
    assert!(lsm.contains("apparmor") && lsm.contains("bpf"), "{lsm}");
    let mut scratch = Scratch::new(Kind::xfs());
    if sh("uname -r").starts_with("6.1.") {
        println!("Linux 6.10 has XFS_IOC_EXCHANGE_RANGE");
        return;
    }
    // This mkfs.xfs may be older than the feature.
    scratch.unmount();
    sh(on(
        scratch.image(),
        "old=$(xfs_db -c 'sb 0' -c 'print features_incompat' $F | cut -d= -f2)
        xfs_db -x -c 'sb 0' -c \"write -d features_incompat $((old | 0x40))\" $F >/dev/null 2>&1",
    ));
    scratch.mount();
    let [path, other] = ["file", "other"].map(|name| allocated(&scratch, name));
    let map = filefrag(&path);
    let program = path.with_extension("strike");
    std::fs::copy(attack("strike"), &program).unwrap();
    sh(on(
        &path,
        r#"echo "profile daxfile-allowed $F.strike { file, capability, change_profile, }
              profile daxfile-denied { file, capability, change_profile, deny $F w, }" >$F.profile
        apparmor_parser -K -a $F.profile"#,
    ));
    let exchange = || strike_by(&program, "rw", "exchange-denied", &path, &other);
    // It would give the file other blocks, and does so again.
    assert_eq!(exchange(), DONE);
    assert_ne!(filefrag(&path), map);
    assert_eq!(exchange(), DONE);
    assert_eq!(filefrag(&path), map);
    done(&PIN, &path);
    assert_eq!(exchange(), "ETXTBSY");
    assert_eq!(filefrag(&path), map);
    done(&["verify"], &path);
    done(&["unpin"], &path);
    sh(on(&path, "apparmor_parser -R $F.profile"));
}

/// A file whose record is gone is still held; list alone can find it.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn list_shows_files_without_a_record_in_the_lab() {
    let _turn = turn();
    for kind in [Kind::xfs(), Kind::ext4(), Kind::F2fs] {
        let scratch = Scratch::new(kind.clone());
        let uuid = report(&["probe"], scratch.mount_point(), 0)["probe"]["filesystem"]["uuid"].clone();
        if kind == Kind::F2fs && uuid.is_null() {
            println!("f2fs has no UUID here: Linux before 6.9");
            continue;
        }
        let [recorded, without] = ["recorded", "without"].map(|name| scratch.path(name));
        for path in [&recorded, &without] {
            done(&["alloc", "-s", "2M"], path);
            done(&PIN, path);
        }
        sh(on(&without, "setfattr -x security.daxfile.pin $F"));
        let listed = |options: &[&str]| {
            let list = Daxfile::new(["list", "--json"]).args(options).arg(scratch.mount_point()).run().expect(0).json();
            let files = list["files"].as_array().unwrap().clone();
            let mut files: Vec<_> =
                files.iter().map(|file| (file["path"].clone(), file["pin"]["state"].clone())).collect();
            files.sort_by_key(|file| file.1.to_string());
            files
        };
        let [recorded, without] = [(recorded, "pinned"), (without.clone(), "unpinned")]
            .map(|(path, state)| (path.to_str().unwrap().into(), state.into()));
        assert_eq!(listed(&[]), [recorded.clone(), without.clone()]);
        assert_eq!(listed(&["--hold", "writable"]), [recorded.clone(), without.clone()]);
        assert_eq!(listed(&["--state", "unpinned"]), [without]);
        assert_eq!(listed(&["--state", "pinned"]), [recorded]);
        assert_eq!(listed(&["--hold", "frozen"]), []);
        for name in ["recorded", "without"] {
            done(&["unpin"], &scratch.path(name));
        }
    }
}

/// A guard that cannot be armed leaves nothing behind, at whichever of its calls the kernel refuses it.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL guard"]
fn a_guard_that_fails_half_way_leaves_nothing_in_the_lab() {
    let _turn = turn();
    let scratch = Scratch::new(Kind::xfs());
    let path = allocated(&scratch, "file");
    let marks = (inode(&path).lines().skip(1).map(str::to_owned).collect::<Vec<_>>(), filefrag(&path));
    let trace = scratch.path("trace");
    let trace = trace.to_str().unwrap();
    let traced = |inject: &[&str]| {
        let strace = ["strace", "-f", "-o", trace, "-e", "trace=bpf,perf_event_open"];
        Daxfile::new(PIN).arg(&path).wrap([&strace[..], inject].concat()).run()
    };
    traced(&[]).expect(0);
    let calls = sh(format!("grep -c 'bpf(' '{trace}'")).trim().parse::<usize>().unwrap();
    assert!(calls > 60, "{calls} calls");
    done(&["unpin"], &path);
    sh("test ! -e /sys/fs/bpf/daxfile");
    let mut failed = 0;
    // Each of the first calls, which make the maps, and some of the many that load and attach programs.
    const FIRST: usize = 36;
    let later = (FIRST + 1..=calls).step_by((calls - FIRST).div_ceil(6));
    for call in (1..=FIRST).chain(later).chain(calls - 3..=calls) {
        let pin = traced(&["-e", &format!("inject=bpf:error=ENOMEM:when={call}")]);
        if pin.status == 0 {
            done(&["unpin"], &path);
        } else {
            failed += 1;
            assert_eq!(state(&path), "unpinned", "{call} of {calls}: {pin}");
        }
        let left = sh("ls -A /sys/fs/bpf/daxfile 2>/dev/null || :");
        assert!(!Path::new("/sys/fs/bpf/daxfile").exists(), "call {call} of {calls} left {left}: {pin}");
        let now = (inode(&path).lines().skip(1).map(str::to_owned).collect::<Vec<_>>(), filefrag(&path));
        assert_eq!(now, marks, "call {call} of {calls}: {pin}");
    }
    assert!(failed > 8, "{failed} of {calls}");
    done(&PIN, &path);
    refused(&path, "truncate -s 0 $F");
    done(&["unpin"], &path);
}
