//! Root beside other users: they change names, directories and maps, and hold locks and pages.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daxfile_tests::child::{Killed, spawn};
use daxfile_tests::tools::{attack, checksum, filefrag, flags, on, require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, Xfs, report, run};

const NOBODY: u32 = 65534;

fn immutable(file: &Path) -> bool {
    flags(file).lines().any(|line| line.contains('i'))
}

fn write(file: &Path) {
    sh(on(file, "xfs_io -f -c 'pwrite -q 0 64k' -c fsync $F; chmod 644 $F"));
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory of nobody with a file, and a directory of root with a file that nobody may not access.
struct Places {
    scratch: Scratch,
    home: PathBuf,
    victim: PathBuf,
}

impl Places {
    fn new(kind: Kind) -> Places {
        let scratch = Scratch::new(kind);
        let (home, secret) = (scratch.path("home"), scratch.path("secret"));
        for directory in [&home, &home.join("d"), &secret] {
            fs::create_dir(directory).unwrap();
        }
        for name in ["home", "home/d"] {
            chown(scratch.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let victim = secret.join("f");
        write(&victim);
        write(&home.join("d/f"));
        Places { scratch, home, victim }
    }
}

#[track_caller]
fn assert_link_is_refused(run: &Run, victim: &Path) {
    assert_eq!(run.status, 2, "{run}");
    assert!(run.stderr.contains("symbolic link") && run.stderr.contains("another user"), "{run}");
    assert!(!immutable(victim), "{run}");
}

#[test]
fn links_of_other_users_are_refused() {
    for kind in Kind::xfs_and_ext4() {
        let places = Places::new(kind);
        let (home, victim) = (&places.home, &places.victim);
        fs::rename(home.join("d"), home.join("real")).unwrap();
        symlink("../secret", home.join("d")).unwrap();
        lchown(home.join("d"), Some(NOBODY), None).unwrap();
        let path = home.join("d/f");
        for verb in
            [&["stat"][..], &["check"], &["prepare"], &["pin"], &["pin", "--hold", "none"], &["verify"], &["unpin"]]
        {
            assert_link_is_refused(&run(verb, &path), victim);
        }
        assert_link_is_refused(&run(&["alloc", "-s", "4k"], &home.join("d/new")), victim);
        assert!(!places.scratch.path("secret/new").exists());

        // Root's link in nobody's directory is not trusted; a link of nobody in root's directory belongs to nobody.
        lchown(home.join("d"), Some(0), None).unwrap();
        assert_link_is_refused(&run(&["pin"], &path), victim);
        // Below nobody's directory, a link never counts as root's.
        fs::create_dir(home.join("roots")).unwrap();
        symlink("../../secret", home.join("roots/link")).unwrap();
        assert_link_is_refused(&run(&["pin"], &home.join("roots/link/f")), victim);
    }
}

#[test]
fn links_of_root_are_followed() {
    let places = Places::new(Kind::xfs());
    let (scratch, victim) = (&places.scratch, &places.victim);
    let pins = |path: &Path| {
        assert_eq!(report(&["pin"], path, 0)["action"], "pinned", "{path:?}");
        assert!(immutable(victim));
        assert_eq!(report(&["unpin"], path, 0)["action"], "unpinned", "{path:?}");
    };
    symlink("secret", scratch.path("relative")).unwrap();
    symlink(scratch.path("secret"), scratch.path("absolute")).unwrap();
    symlink("relative/../absolute", scratch.path("both")).unwrap();
    for name in ["relative/f", "absolute/f", "both/f", "both/../secret/./f"] {
        pins(&scratch.path(name));
    }
    assert!(run(&["pin"], &scratch.path("relative/f/")).expect(2).stderr.contains("Not a directory"));
    symlink("loop", scratch.path("loop")).unwrap();
    assert!(run(&["pin"], &scratch.path("loop/f")).expect(2).stderr.contains("Too many levels"));

    // In a directory that every user may write to, the link's owner decides, if the directory is sticky.
    for (directory_mode, group, owner, followed) in [
        (0o1777, 0, 0, true),
        (0o1777, 0, NOBODY, false),
        (0o777, 0, 0, false),
        (0o775, 0, 0, true),
        (0o775, NOBODY, 0, false),
        (0o1775, NOBODY, 0, true),
    ] {
        let directory = scratch.path("shared");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        symlink("../secret", directory.join("link")).unwrap();
        lchown(directory.join("link"), Some(owner), None).unwrap();
        chown(&directory, None, Some(group)).unwrap();
        mode(&directory, directory_mode);
        let path = directory.join("link/f");
        match followed {
            true => pins(&path),
            false => assert_link_is_refused(&run(&["pin"], &path), victim),
        }
    }
}

/// Users' own links are theirs to follow, and so are root's.
#[test]
fn users_follow_their_own_links() {
    let places = Places::new(Kind::ext4());
    let home = &places.home;
    chown(home.join("d/f"), Some(NOBODY), None).unwrap();
    symlink("d", home.join("mine")).unwrap();
    lchown(home.join("mine"), Some(NOBODY), None).unwrap();
    symlink("home", places.scratch.path("roots")).unwrap();
    for path in [home.join("mine/f"), places.scratch.path("roots/mine/f")] {
        for verb in [&["pin", "--hold", "none"][..], &["verify"], &["unpin"]] {
            Daxfile::new(verb).arg(&path).as_nobody().run().expect(0);
        }
    }
    // Not the links of a third user.
    fs::create_dir(places.scratch.path("third")).unwrap();
    chown(places.scratch.path("third"), Some(1234), None).unwrap();
    symlink("../home/d", places.scratch.path("third/link")).unwrap();
    let stat = Daxfile::new(["stat"]).arg(places.scratch.path("third/link/f")).as_nobody().run().expect(2);
    assert!(stat.stderr.contains("another user"), "{stat}");
}

/// A user that can move a directory chooses its parent.
#[test]
fn dotdot_behind_a_writable_directory_is_refused() {
    let places = Places::new(Kind::ext4());
    let path = places.home.join("d/../d/f");
    let refused = run(&["pin"], &path).expect(2);
    assert!(refused.stderr.contains("'..'"), "{refused}");
    // The caller chooses its own working directory, and only root can change a path through root's directories.
    for (dir, name) in [(places.home.join("d"), "../d/f"), (places.home.join("d"), "../../secret/f")] {
        Daxfile::new(["stat"]).arg(name).dir(dir).run().expect(0);
    }
    Daxfile::new(["stat"]).arg(places.scratch.path("secret/../secret/f")).run().expect(0);
}

/// Swaps `d` in nobody's directory with `other` there, without end.
fn swapper(home: &Path) -> Killed {
    const SWAP: &str = r#"
        chdir shift; $| = 1;
        for (my $i = 0; ; $i++) {
            rename "d", "was" and rename "other", "d" and rename "was", "other" or die $!;
            print "ready\n" if $i == 10;
        }"#;
    require(&["perl", "setpriv"]);
    let mut perl = Command::new("setpriv");
    perl.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "perl", "-e", SWAP]).arg(home);
    let mut swapper = Killed(spawn(perl.stdout(Stdio::piped())));
    swapper.0.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    swapper
}

#[test]
fn directory_swapped_for_a_link_is_not_followed() {
    for kind in Kind::xfs_and_ext4() {
        let places = Places::new(kind);
        let (home, victim) = (&places.home, &places.victim);
        symlink("../secret", home.join("other")).unwrap();
        lchown(home.join("other"), Some(NOBODY), None).unwrap();
        let mut swapper = swapper(home);
        let path = home.join("d/f");
        let (mut done, mut refused) = (0, 0);
        for _ in 0..150 {
            for verb in ["pin", "unpin"] {
                let run = run(&[verb], &path);
                assert!(!immutable(victim), "{run}");
                match run.status {
                    0 => done += 1,
                    // Between two renames there is no such name.
                    2 => refused += 1,
                    5 if run.stderr.contains("the file of this name meanwhile") => refused += 1,
                    _ => panic!("{run}"),
                }
            }
        }
        assert!(swapper.0.try_wait().unwrap().is_none(), "nobody swapped");
        drop(swapper);
        assert!(done >= 20 && refused >= 20, "{done} done, {refused} refused: no race was run");
        sh(format!("chattr -R -i '{}' 2>/dev/null || :", home.display()));
    }
}

/// `prepare` of a file that others have open looks for its directory once more.
#[test]
fn directory_swapped_for_a_fifo_does_not_block() {
    let places = Places::new(Kind::xfs());
    let home = &places.home;
    sh(on(home.join("d/f"), "xfs_io -c 'fpunch 8k 8k' $F"));
    let _user = File::open(home.join("d/f")).unwrap();
    sh(format!("mkfifo '{}'", home.join("other").display()));
    let _swapper = swapper(home);
    let (mut done, mut refused) = (0, 0);
    for _ in 0..60 {
        let prepare = Daxfile::new(["prepare"]).arg(home.join("d/f")).wrap(["timeout", "-s", "KILL", "20"]).run();
        match prepare.status {
            0 => done += 1,
            2 => refused += 1,
            5 if prepare.stderr.contains("the file of this name meanwhile") => refused += 1,
            _ => panic!("{prepare}"),
        }
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused: no race was run");
}

#[test]
fn links_below_root_option_stay_below_it() {
    let places = Places::new(Kind::xfs());
    let victim = &places.victim;
    let root = places.scratch.path("root");
    fs::create_dir(&root).unwrap();
    let stat = Daxfile::new(["stat", "--json", "--extents", "f"]).dir(victim.parent().unwrap()).run().expect(0);
    let named = |path: &str| {
        let manifest = places.scratch.image().with_file_name("manifest.json");
        let mut report = stat.json();
        report["files"][0]["path"] = path.into();
        fs::write(&manifest, report.to_string()).unwrap();
        manifest
    };
    let verify = |path: &str, status| {
        let run = Daxfile::new(["verify", "--json", "--against"]).arg(named(path)).arg("--root").arg(&root).run();
        run.expect(status).file()
    };
    for to in [victim.parent().unwrap(), Path::new("../secret")] {
        symlink(to, root.join("d")).unwrap();
        assert!(verify("d/f", 1)["notes"][0].as_str().unwrap().contains("does not exist"));
        fs::remove_file(root.join("d")).unwrap();
    }
    // Below the root, links lead where they would lead if it were the root directory.
    sh(format!("cd '{}'; mkdir real; ln ../secret/f real/f; ln -s /real d", root.display()));
    verify("d/f", 0);
    verify("/d/f", 0);
}

/// Every user that may read a file may lock it.
#[test]
fn flock_of_a_reader_does_not_delay_root() {
    require(&["flock"]);
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = scratch.path("file");
        write(&path);
        for mode in ["-s", "-x"] {
            let mut lock = Command::new("setpriv");
            lock.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "flock", "--no-fork", mode])
                .arg(&path);
            let mut locked =
                Killed(spawn(lock.args(["sh", "-c", "echo locked; exec sleep 1000"]).stdout(Stdio::piped())));
            locked.0.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
            assert_eq!(report(&["pin"], &path, 0)["action"], "pinned", "{mode}");
            assert_eq!(report(&["unpin"], &path, 0)["action"], "unpinned", "{mode}");
            assert_eq!(report(&["pin", "--hold", "none"], &path, 0)["action"], "pinned", "{mode}");
            assert_eq!(report(&["unpin"], &path, 0)["action"], "unpinned", "{mode}");
            sh(on(&path, "xfs_io -c 'fpunch 8k 8k' $F"));
            let prepare = run(&["prepare"], &path);
            // If a reader has it open on ext4, prepare refuses; the lock is not the reason.
            assert!(prepare.status == 0 || prepare.status == 5 && !prepare.stderr.contains("lock"), "{prepare}");
            write(&path);
        }
    }
}

/// A working process of root excludes another one of root.
#[test]
fn two_daxfiles_of_root_exclude_each_other() {
    require(&["strace"]);
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let (path, other) = (scratch.path("file"), scratch.path("other"));
        write(&path);
        write(&other);
        let slow = ["strace", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=8s:when=1"];
        let mut first = spawn(Daxfile::new(["pin"]).arg(&path).wrap(slow).command().stdout(Stdio::null()));
        let slots = Path::new("/proc/locks");
        daxfile_tests::wait_until("it has locked the file", || {
            let inode = sh(on(&path, "stat -c %i $F"));
            let byte = format!(" {0} {0}", inode.trim());
            fs::read_to_string(slots).unwrap().lines().any(|line| line.contains("OFDLCK") && line.ends_with(&byte))
        });
        for verb in [&["pin"][..], &["pin", "--hold", "none"], &["unpin"]] {
            let second = run(verb, &path).expect(5);
            assert!(second.stderr.contains("another daxfile"), "{second}");
        }
        // Not from another file, and not beyond its end.
        run(&["pin"], &other).expect(0);
        run(&["unpin"], &other).expect(0);
        assert!(first.wait().unwrap().success());
        run(&["unpin"], &path).expect(0);
    }
}

/// XFS gives the blocks of deleted files back a little later, and until then they are shared.
#[test]
fn deleted_copies_share_nothing() {
    for rmapbt in [false, true] {
        let scratch = Scratch::new(Xfs { rmapbt, ..Xfs::default() });
        let mut waited = 0;
        for round in 0..40 {
            let (first, second) = (scratch.path("first"), scratch.path("second"));
            write(&first);
            sh(format!("cp --reflink=always '{}' '{}'; rm '{}'", first.display(), second.display(), first.display()));
            let look = || {
                let daxfile = Daxfile::new([["check"], ["pin"], ["prepare"]][round % 3]).arg(&second).arg("--json");
                if round % 6 == 0 { daxfile.as_nobody().run() } else { daxfile.run() }
            };
            let mut said = look();
            // Only root can wait for the deletion itself. On a busy machine it may take longer than others wait, and
            // another test that looks at open files may have this one open for a moment.
            for _ in 0..9 {
                if said.status != 0 {
                    waited += u32::from(round % 6 != 0);
                    said = look();
                }
            }
            assert_eq!(said.status, 0, "round {round}: {said}");
            if round % 3 == 2 {
                // There was nothing to prepare.
                assert_eq!(said.file()["action"], "already_prepared", "round {round}");
            }
            run(&["unpin"], &second).expect(0);
        }
        assert!(waited <= 2, "root found shared blocks {waited} times");
    }
}

/// A file's owner can share extents without limit; they take no memory in output that does not show them.
#[test]
fn many_shared_extents_take_little_memory() {
    // Two lists of 10,000 ranges take 2 MiB; whole lists would take 15 MiB.
    shared_extents(1 << 17, 8 << 10);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn a_million_shared_extents_take_little_memory() {
    shared_extents(1 << 20, 8 << 10);
}

/// Every verb handles a file of `extents` shared extents with at most `more` KiB more than it needs for one extent.
fn shared_extents(extents: u64, more: u64) {
    require(&["xfs_io"]);
    let scratch = Scratch::new(Kind::xfs());
    let path = scratch.path("file");
    // The same block again and again, with holes between; each round doubles the file.
    sh(on(
        &path,
        "xfs_io -f -c 'pwrite -q 0 4k' -c 'truncate 8k' -c fsync $F; touch $F.of; cp --reflink=always $F $F.of",
    ));
    let mut size = 8192u64;
    while size < 8192 * extents {
        sh(on(&path, &format!("xfs_io -c \"reflink $F 0 {size} {size}\" $F")));
        size *= 2;
    }
    let peak = |args: &[&str], status| {
        let out = scratch.image().with_file_name("peak");
        let out = out.to_str().unwrap();
        Daxfile::new(args).arg(&path).wrap(["/usr/bin/time", "-f", "%M", "-o", out]).run().expect(status);
        let peak = fs::read_to_string(out).unwrap();
        let peak = peak.lines().last().unwrap().trim().parse::<u64>().unwrap();
        eprintln!("{args:?}: {peak} KiB");
        peak
    };
    let least = {
        let small = scratch.path("small");
        write(&small);
        let out = Daxfile::new(["stat"]).arg(&small).wrap(["/usr/bin/time", "-f", "%M"]).run().expect(0);
        out.stderr.trim().parse::<u64>().unwrap()
    };
    for (args, status) in [
        (&["stat"][..], 0),
        (&["stat", "--json"], 0),
        (&["check"], 1),
        (&["check", "--json"], 1),
        (&["pin", "--hold", "none", "--allow", "hole,shared"], 0),
        (&["verify"], 0),
        (&["unpin"], 0),
        (&["pin", "--allow", "hole,shared"], 0),
        (&["verify"], 0),
        (&["unpin"], 0),
    ] {
        let peak = peak(args, status);
        assert!(peak < least + more, "{args:?}: {peak} KiB, and {least} for a small file");
    }
    let check = report(&["check"], &path, 1);
    let shared = check["blockers"].as_array().unwrap().iter().find(|blocker| blocker["kind"] == "shared").unwrap();
    assert_eq!(shared["ranges"].as_array().unwrap().len(), 10_000);
    assert_eq!((&shared["range_count"], &shared["bytes"]), (&extents.into(), &(4096 * extents).into()));
}

/// A page of the file to which the kernel keeps a reference, while no process has the file open.
#[test]
fn pin_is_busy_while_the_kernel_holds_pages() {
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind.clone());
        let path = scratch.path("file");
        write(&path);
        let holder = attack("held_page");
        let hold = |how: &str| {
            let mut child = Killed(spawn(Command::new(&holder).arg(&path).arg(how).stdout(Stdio::piped())));
            child.0.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
            child
        };
        let held = hold("closed");
        let busy = run(&["pin"], &path).expect(5);
        assert!(busy.stderr.contains("holds 1 of its pages"), "{kind:?}: {busy}");
        assert!(!immutable(&path));
        assert_eq!(report(&["stat"], &path, 0)["pin"]["state"], "unpinned");
        drop(held);
        run(&["pin"], &path).expect(0);
        run(&["unpin"], &path).expect(0);

        // A reader's mapping looks the same, and is noted.
        let mapped = hold("mapped");
        let pinned = report(&["pin"], &path, 0);
        assert!(pinned["notes"][0].as_str().unwrap().contains("stay in memory"), "{kind:?}: {pinned}");
        drop(mapped);
        run(&["unpin"], &path).expect(0);
        // Readers that come and go, and pages just written, are no reason.
        for _ in 0..20 {
            write(&path);
            let mut reader =
                Killed(spawn(Command::new("sh").args(["-c", "while :; do cat \"$0\"; done >/dev/null"]).arg(&path)));
            run(&["pin"], &path).expect(0);
            run(&["unpin"], &path).expect(0);
            reader.0.kill().unwrap();
        }
    }
}

/// The kernel stores what it reads directly from a device into a page of the file, long after the process has closed the
/// file.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL faults a_stalled_read"]
fn a_stalled_read_stores_into_a_file_pinned_meanwhile_in_the_lab() {
    require(&["dmsetup"]);
    let has_cachestat = !sh("uname -r").starts_with("6.1.");
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind.clone());
        let path = scratch.path("file");
        write(&path);
        let (map, before) = (filefrag(&path), checksum(&path));
        sh(on(
            &path,
            "export DM_DISABLE_UDEV=1; head -c 1M /dev/urandom >$F.source; D=$(losetup -f --show $F.source)
            dmsetup create source --table '0 2048 linear '$D' 0'; dmsetup suspend source",
        ));
        let mut reader = Command::new(attack("held_page"));
        let mut reader =
            Killed(spawn(reader.arg(&path).args(["reading", "/dev/mapper/source"]).stdout(Stdio::piped())));
        reader.0.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        let pin = run(&["pin"], &path);
        sh("DM_DISABLE_UDEV=1 dmsetup resume source");
        drop(reader);
        assert_ne!(checksum(&path), before, "{kind:?}");
        let pin = pin.expect(if has_cachestat { 5 } else { 0 });
        if has_cachestat {
            assert!(pin.stderr.contains("holds 1 of its pages"), "{kind:?}: {pin}");
            run(&["pin"], &path).expect(0);
        }
        // daxfile-holds(7) says so: the map is the same, and so is the time.
        run(&["verify"], &path).expect(0);
        assert_eq!(filefrag(&path), map);
        run(&["unpin"], &path).expect(0);
        sh(on(&path, "DM_DISABLE_UDEV=1 dmsetup remove --retry source; losetup -d $(losetup -n -O NAME -j $F.source)"));
    }
}

/// Two blocks that can store quotas of users: a head, and the root of an empty tree.
const QUOTA_FILE: &str = r#"
    open my $file, ">", shift or die $!; binmode $file;
    print $file pack("V2 V6 x992 x1024", 0xd9c01f11, 1, 604800, 604800, 0, 2, 0, 0)"#;

/// The kernel writes to a quota file regardless of its flags.
#[test]
fn quota_files_are_refused() {
    let scratch = Scratch::new(Kind::ext4());
    let path = scratch.path("file");
    sh(on(&path, &format!("perl -e '{QUOTA_FILE}' $F; sync")));
    for verb in ["check", "pin"] {
        let blocked = report(&[verb], &path, 1);
        assert_eq!(blocked["blockers"][0]["kind"], "quota_file", "{blocked}");
    }
    // Without a hold, daxfile promises nothing; and elsewhere these bytes have no special meaning.
    run(&["pin", "--hold", "none"], &path).expect(0);
    let xfs = Scratch::new(Kind::xfs());
    sh(format!("cp '{}' '{}'; sync", path.display(), xfs.path("file").display()));
    run(&["pin"], &xfs.path("file")).expect(0);
    run(&["unpin"], &xfs.path("file")).expect(0);
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL faults verify_reports_quotas"]
fn verify_reports_quotas_in_a_frozen_file_in_the_lab() {
    let mut scratch = Scratch::new(Kind::ext4_with(&["^quota"]));
    scratch.remount_with("usrquota");
    let path = scratch.path("file");
    sh(on(&path, &format!("perl -e '{QUOTA_FILE}' $F; sync")));
    // It gets its form while it is held, as root can have it.
    sh(on(&path, "cp -p $F $F.quota; dd if=/dev/zero of=$F bs=4 count=1 conv=notrunc status=none; sync; sleep 0.1"));
    run(&["pin"], &path).expect(0);
    sh(on(
        &path,
        "touch -r $F $F.then; chattr -i $F; dd if=$F.quota of=$F bs=4 count=1 conv=notrunc,fsync status=none
        touch -r $F.then $F; chattr +i $F",
    ));
    run(&["verify"], &path).expect(0);

    // quotactl(2): Q_QUOTAON with QFMT_VFS_V1, Q_QUOTAOFF
    let source = sh(format!("findmnt -no SOURCE '{}'", scratch.mount_point().display()));
    let quotactl = |command: u32, id: u32| {
        let source = source.trim();
        sh(on(&path, &format!("perl -e 'syscall(179, {command}, $ARGV[0], {id}, $ARGV[1]) and die $!' {source} $F")));
    };
    quotactl(0x8000_0200, 4);
    let verify = report(&["verify"], &path, 1);
    assert_eq!(verify["pin"]["state"], "writer_inside", "{verify}");
    assert!(verify["notes"][0].as_str().unwrap().contains("quotas"), "{verify}");
    let check = report(&["check"], &path, 1);
    assert_eq!(check["blockers"][0]["kind"], "quota_file", "{check}");
    quotactl(0x8000_0300, 0);
    assert_eq!(report(&["verify"], &path, 1)["pin"]["state"], "not_held");
}

/// A device that does not answer stalls a thread in such a way that nothing can end it.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL faults a_stalled_file"]
fn a_stalled_file_does_not_delay_the_others_in_the_lab() {
    require(&["dmsetup"]);
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind.clone());
        let mut below = Scratch::new(kind);
        let others: Vec<_> = (0..20).map(|number| scratch.path(number.to_string())).collect();
        for other in &others {
            write(other);
            run(&["pin", "--hold", "none"], other).expect(0);
        }
        let stalled = below.path("stalled");
        write(&stalled);
        run(&["pin", "--hold", "none"], &stalled).expect(0);
        let manifest = scratch.path("manifest");
        let stat = Daxfile::new(["stat", "--json", "--extents"]).arg(&stalled).args(&others).run().expect(0);
        fs::write(&manifest, stat.stdout).unwrap();
        below.unmount();
        let (image, directory) = (below.image().display(), below.mount_point().display());
        let set = format!("export DM_DISABLE_UDEV=1 I='{image}' M='{directory}'");
        // Reading the map waits until the dirty page is written.
        sh(format!(
            "{set}; D=$(losetup -f --show $I); dmsetup create stalls --table \"0 $(blockdev --getsz $D) linear $D 0\"
            mount /dev/mapper/stalls $M; dd if=/dev/zero of=$M/stalled bs=4k count=1 conv=notrunc status=none
            dmsetup suspend --nolockfs --noflush stalls"
        ));

        let verify = Daxfile::new(["verify", "--json"]);
        let ways = [verify.clone().arg(&stalled).args(&others), verify.arg("--against").arg(&manifest)];
        let verifying = ways.map(|verify| {
            let mut verify = verify.command();
            spawn(verify.stdout(Stdio::piped()).stderr(Stdio::piped()))
        });
        // The others wait a while for the stalled one.
        std::thread::sleep(Duration::from_secs(10));
        let start = Instant::now();
        let outs = verifying.map(|verify| {
            sh(format!("kill -INT {}", verify.id()));
            verify.wait_with_output().unwrap()
        });
        let took = start.elapsed();
        sh(format!(
            "{set}; dmsetup resume stalls; until umount $M; do sleep 0.1; done
            dmsetup remove --retry stalls; losetup -d $(losetup -n -O NAME -j $I)"
        ));
        assert!(took < Duration::from_secs(16), "{took:?}");
        for out in outs {
            assert_eq!(out.status.signal(), Some(2), "{out:?}");
            let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            let files = json["files"].as_array().unwrap();
            let named = |path: &Path| files.iter().find(|file| file["path"] == path.to_str().unwrap()).unwrap();
            assert_eq!(files.len(), others.len() + 1, "{json}");
            for other in &others {
                assert_eq!(named(other)["pin"]["state"], "pinned", "{json}");
            }
            let error = &named(&stalled)["error"];
            assert!(error["message"].as_str().unwrap().contains("does not answer"), "{json}");
            assert_eq!(json["exit_status"], 130, "{json}");
        }
        below.mount();
    }
}
