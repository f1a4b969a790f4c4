//! `check`, `probe`, the dry runs and the verbs give the same answer for a file, and a user can act on it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use daxfile_tests::child::{Killed, finish, spawn};
use daxfile_tests::tools::{allocated, filefrag, on, require, sh, sh_status};
use daxfile_tests::{Daxfile, Ext4, Kind, Run, Scratch, Xfs, on_each, report, run, wait_until};
use serde_json::Value;

const HOLDS: [&str; 3] = ["frozen", "writable", "none"];

/// The user that runs it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    Root,
    /// Root without the capabilities that freezing needs.
    Dropped,
    /// The file's owner, an ordinary user.
    Owner,
}

fn call(caller: Caller, args: &[&str], file: &Path) -> Run {
    let daxfile = Daxfile::new(args).arg("--").arg(file);
    match caller {
        Caller::Root => daxfile,
        Caller::Dropped => daxfile.wrap(["setpriv", "--bounding-set=-linux_immutable,-lease,-sys_resource"]),
        Caller::Owner => daxfile.as_nobody(),
    }
    .run()
}

/// A file in one state: its name, the script that makes it, and the status of root's `check` under `frozen` and `none`.
type Case = (&'static str, &'static str, i32, i32);

/// `$F` is the file, `daxfile` the program.
const CASES: [Case; 18] = [
    ("plain", "", 0, 0),
    ("hole", "truncate -s 1M $F", 1, 1),
    ("unwritten", "fallocate -o 100K -l 64K $F", 1, 1),
    ("past_eof", "fallocate -n -o 200K -l 64K $F", 1, 1),
    ("empty", ": >$F", 1, 1),
    ("immutable", "chattr +i $F", 1, 1),
    ("append_only", "chattr +a $F", 1, 1),
    ("fragmented", "fallocate -c -o 64K -l 4K $F", 0, 0),
    ("swapfile", "chmod 600 $F; mkswap -q $F 2>/dev/null || mkswap $F >/dev/null; sync $F; swapon $F", 5, 0),
    ("pinned", "daxfile pin -q $F", 0, 1),
    ("recorded", "daxfile pin -q --hold none $F", 1, 0),
    ("pinned with needs", "daxfile pin -q --align 4K --max-extents 9 $F", 1, 1),
    ("drifted", "daxfile pin -q $F; chattr -i $F; echo more >>$F; sync $F; chattr +i $F", 1, 1),
    ("not held", "daxfile pin -q $F; chattr -i $F", 0, 1),
    ("foreign", "daxfile pin -q $F; cp -a --reflink=never $F $F.copy; daxfile unpin -q $F; mv $F.copy $F", 0, 0),
    (
        "restored",
        "daxfile pin -q $F; cp -a --reflink=never $F $F.copy; daxfile unpin -q $F; mv $F.copy $F; chattr +i $F",
        1,
        1,
    ),
    ("bad record", "setfattr -n security.daxfile.pin -v junk $F", 0, 0),
    ("of another version", "setfattr -n security.daxfile.pin -v 0x64617866696c6563 $F", 2, 2),
];

const OF_XFS: [Case; 2] = [
    ("shared", "cp --reflink=always $F $F.copy", 1, 1),
    ("shared since", "daxfile pin -q $F; cp --reflink=always $F $F.copy", 0, 1),
];

/// Makes the file again, in one state.
fn make(file: &Path, script: &str) {
    let program = Daxfile::new([""; 0]).command().get_program().to_owned();
    let path = Path::new(&program).parent().unwrap().display();
    sh(on(
        file,
        &format!(
            "PATH={path}:$PATH; rm -f $F; head -c 100K /dev/urandom >$F; chown 65534:65534 $F; chmod 644 $F; sync $F
             {script}"
        ),
    ));
}

/// Removes every trace of the file.
fn remove(file: &Path) {
    let program = Daxfile::new([""; 0]).command().get_program().to_owned();
    let program = program.to_str().unwrap();
    sh(on(
        file,
        &format!(
            "swapoff $F 2>/dev/null || :; chattr -ia $F $F.copy 2>/dev/null || :; {program} unpin -q $F 2>/dev/null || :
             rm -f $F $F.copy"
        ),
    ));
}

/// Compares the answers for one caller with the result of `pin`, which is what `of_root` tells for root, and returns that.
#[track_caller]
fn agree_for(caller: Caller, options: &[&str], file: &Path, of_root: Option<i32>, context: &str) -> i32 {
    let with = |verb: &[&'static str]| -> Vec<&str> { verb.iter().copied().chain(options.iter().copied()).collect() };
    let check = call(caller, &with(&["check"]), file);
    let dry = call(caller, &with(&["pin", "--dry-run"]), file);
    let pin = call(caller, &with(&["pin"]), file);
    let root = of_root.unwrap_or(pin.status);
    let all = format!("{context:?} {options:?} {caller:?}\n{check}\n{dry}\n{pin}");
    // A privilege that the caller lacks is a note. Only root sees that the kernel refuses BPF to root, too.
    if root != 4 || caller == Caller::Root {
        assert_eq!(check.status, root, "check says what root's pin does: {all}");
    }
    assert_eq!(dry.status, pin.status, "the dry run does as well: {all}");
    assert!(root == 4 || pin.status == root || pin.status == 4, "only a privilege makes a difference: {all}");
    if pin.status == 4 && check.status == 0 {
        assert!(check.text().contains("note: pin would fail for this user: "), "{all}");
    }
    pin.status
}

/// Compares the answers for each caller with the result of `pin`, and returns root's status.
#[track_caller]
fn agree(options: &[&str], file: &Path, script: &str) -> i32 {
    let mut of_root = None;
    for caller in [Caller::Root, Caller::Dropped, Caller::Owner] {
        make(file, script);
        let pin = agree_for(caller, options, file, of_root, script);
        of_root.get_or_insert(pin);
        remove(file);
    }
    of_root.unwrap()
}

/// Compares the answers on a file that is not pinned, for each caller and each hold, and leaves the file unpinned.
///
/// An ordinary user cannot read the superblock: without the feature `extent`, that user is told of the file's block map,
/// which is status 1, and root of the filesystem, which is status 3.
#[track_caller]
pub(super) fn agree_as_it_is(needs: &[&str], file: &Path) {
    let everybody_reads = fs::metadata(file).unwrap().mode() & 0o444 == 0o444;
    let everybody_sees = everybody_reads && !run(&["check"], file).text().contains("its feature extent is off");
    for hold in HOLDS {
        let options = [needs, &["--hold", hold]].concat();
        let mut of_root = None;
        for caller in [Caller::Root, Caller::Dropped, Caller::Owner] {
            if caller == Caller::Owner && !everybody_sees {
                continue;
            }
            let pin = agree_for(caller, &options, file, of_root, "as it is");
            of_root.get_or_insert(pin);
            if pin == 0 {
                run(&["unpin"], file).expect(0);
            }
        }
    }
}

#[test]
fn check_agrees_with_pin() {
    require(&["setpriv", "mkswap", "swapon", "setfattr", "chattr"]);
    let rmapbt = Xfs { rmapbt: true, block_size: 1024, ..Xfs::default() };
    let without_reflink = Xfs { reflink: false, ..Xfs::default() };
    let small_blocks = Ext4 { block_size: 1024, ..Ext4::default() };
    on_each(vec![rmapbt.into(), without_reflink.into(), Kind::ext4(), small_blocks.into()], |kind| {
        let scratch = Scratch::new(kind.clone());
        let file = scratch.path("file");
        let of_xfs = if matches!(&kind, Kind::Xfs(xfs) if xfs.reflink) { &OF_XFS[..] } else { &[] };
        for (name, script, frozen, none) in CASES.iter().chain(of_xfs) {
            assert_eq!(agree(&[], &file, script), *frozen, "{name}");
            assert_eq!(agree(&["--hold", "none"], &file, script), *none, "{name}");
            agree(&["--hold", "writable"], &file, script);
        }
        // Options that accept, and such that ask for more.
        for (options, script, status) in [
            (&["--allow", "hole"][..], "truncate -s 1M $F", 0),
            (&["--allow", "hole", "--hold", "none"], "truncate -s 1M $F; fallocate -o 200K -l 4K $F", 1),
            (&["--allow", "empty,unwritten"], "fallocate -o 100K -l 64K $F", 0),
            (&["--max-extents", "1"], "fallocate -c -o 64K -l 4K $F", 1),
            (&["--max-extents", "1"], "", 0),
            (&["--align", "2M"], "fallocate -c -o 64K -l 4K $F", 1),
            (&["--dax"], "", 3),
            (&["--align", "4K", "--max-extents", "9"], "daxfile pin -q --align 4K --max-extents 9 $F", 0),
        ] {
            assert_eq!(agree(options, &file, script), status, "{options:?} {script}");
        }
    });
}

#[test]
fn check_says_how_the_options_of_a_pin_differ() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    make(&file, "daxfile pin -q --hold none --align 4K $F");
    for verb in ["check", "pin"] {
        let said = run(&[verb, "--max-extents", "3"], &file).expect(1);
        let differ = "already pinned with other options (recorded: --hold none, --align 4096, no --max-extents; \
                      requested: --hold frozen, no --align, --max-extents 3): unpin first";
        assert!(said.stderr.contains(differ), "{said}");
    }
    let said = run(&["check", "--hold", "none", "--align", "4K"], &file).expect(0);
    assert!(said.text().ends_with(": pinned, 1 extent\n"), "{said}");
}

/// A filesystem on which nothing can be held, or nothing with this mount.
struct Place {
    dir: PathBuf,
    /// The answer of every verb there.
    says: &'static str,
}

/// Every verb says that it cannot be done there, `probe` and the dry runs as well.
#[track_caller]
fn assert_refused(place: &Place) {
    let file = place.dir.join("file");
    let new = place.dir.join("new");
    for hold in HOLDS {
        let hold = ["--hold", hold];
        for verb in [&["probe"][..], &["check"], &["pin", "--dry-run"], &["pin"]] {
            for caller in [Caller::Root, Caller::Owner] {
                let path = if verb == ["probe"] { &place.dir } else { &file };
                let said = call(caller, &[verb, &hold].concat(), path).expect(3);
                assert!(said.text().contains(place.says) || said.stderr.contains(place.says), "{said}");
            }
        }
    }
    for verb in [&["alloc", "--dry-run", "-s", "1M"][..], &["alloc", "-s", "1M"]] {
        let said = run(verb, &new).expect(3);
        assert!(said.stderr.contains(place.says), "{said}");
        assert!(!new.exists());
    }
}

/// Mounts below a scratch filesystem, which unmounts them with its own.
#[test]
fn verbs_refuse_filesystems_without_a_hold() {
    require(&["mkfs.erofs", "mksquashfs", "mkfs.btrfs"]);
    let scratch = Scratch::new(Kind::xfs());
    let below = |name: &str, script: &str| -> PathBuf {
        let dir = scratch.path(name);
        sh(on(&dir, &format!("mkdir $F $F.files; seq 60000 >$F.files/file; {script}")));
        dir
    };
    let erofs = "mkfs.erofs $F.image $F.files >/dev/null; mount -t erofs -o loop $F.image $F";
    let squashfs = "mksquashfs $F.files $F.image -quiet -no-progress >/dev/null; mount -t squashfs -o loop $F.image $F";
    let btrfs = "truncate -s 200M $F.image; mkfs.btrfs -q $F.image; mount -o loop $F.image $F; cp $F.files/file $F";
    let tmpfs = "mount -t tmpfs tmpfs $F; cp $F.files/file $F";
    let overlay =
        "mkdir $F.upper $F.work; mount -t overlay -o lowerdir=$F.files,upperdir=$F.upper,workdir=$F.work o $F";
    let ext3 =
        "truncate -s 64M $F.image; mkfs.ext3 -q -b 4096 $F.image; mount -o loop $F.image $F; cp $F.files/file $F";
    let old = "truncate -s 64M $F.image; mkfs.ext4 -q -O ^extent,^64bit $F.image; mount -t ext4 -o loop $F.image $F
               cp $F.files/file $F";
    for (name, script, says) in [
        ("erofs", erofs, "it is not known whether it keeps blocks in place"),
        ("squashfs", squashfs, "it cannot be written"),
        ("btrfs", btrfs, "every write relocates"),
        ("tmpfs", tmpfs, "its files have no blocks"),
        ("overlay", overlay, "look at it on the filesystem below"),
        ("ext3", ext3, "its feature extent is off"),
    ] {
        assert_refused(&Place { dir: below(name, script), says });
    }
    // If it is mounted as ext4, only a caller that may read the device gets this answer.
    let old = below("ext4 without extents", old);
    let said = run(&["check"], &old.join("file")).expect(3);
    assert!(said.text().contains("its feature extent is off"), "{said}");
    let said = run(&["alloc", "--dry-run", "-s", "1M"], &old.join("new")).expect(3);
    assert!(
        said.stderr.contains("its feature extent is off") && said.stderr.contains("tune2fs -O extents /dev/"),
        "{said}"
    );

    let said = run(&["unpin"], &scratch.path("overlay").join("file")).expect(3);
    assert!(said.stderr.contains("look at it on the filesystem below"), "{said}");
    // A pin below is intact, and no answer about the file above it says otherwise.
    let below = scratch.path("overlay.files").join("file");
    sh(on(&below, "sync -f $F"));
    run(&["pin"], &below).expect(0);
    let above = scratch.path("overlay").join("file");
    for verb in ["verify", "check", "pin", "stat"] {
        let said = run(&[verb], &above).expect(if verb == "stat" { 0 } else { 3 });
        assert!(!said.text().contains("chattr") && !said.text().contains("pin it like"), "{said}");
    }
    run(&["verify"], &below).expect(0);
    run(&["unpin"], &below).expect(0);
    // unpin succeeds on a file that is not pinned.
    for name in ["erofs", "squashfs", "btrfs", "tmpfs", "ext3"] {
        run(&["unpin"], &scratch.path(name).join("file")).expect(0);
    }
}

/// Only the guard holds files on f2fs. Where it cannot be loaded, every verb says so, `alloc` too: Linux 6.1 tells no UUID,
/// and `--boot lsm=apparmor` leaves out BPF.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem answers"]
fn verbs_agree_on_f2fs_in_the_lab() {
    require(&["mkfs.f2fs"]);
    let scratch = Scratch::new(Kind::F2fs);
    let (dir, file, new) = (scratch.mount_point(), scratch.path("file"), scratch.path("new"));
    make(&file, "");
    for hold in ["frozen", "none"] {
        for verb in [&["check"][..], &["pin", "--dry-run"], &["pin"]] {
            run(&[verb, &["--hold", hold]].concat(), &file).expect(3);
        }
        run(&["probe", "--hold", hold], dir).expect(3);
    }
    let available = run(&["probe", "--hold", "writable"], dir).status;
    assert!([0, 3, 4].contains(&available), "{available}");
    let pin = run(&["pin", "--hold", "writable"], &file).status;
    // f2fs has not pinned the file, which comes on top.
    assert_eq!(pin, available.max(1));
    for verb in [&["check"][..], &["pin", "--dry-run"]] {
        run(&[verb, &["--hold", "writable"]].concat(), &file).expect(pin);
    }
    for verb in [&["alloc", "--dry-run", "-s", "2M"][..], &["alloc", "-s", "2M"]] {
        let said = run(verb, &new).expect(available);
        assert!(available == 0 || said.stderr.contains("no hold is available on f2fs: "), "{said}");
    }
    assert_eq!(new.exists(), available == 0);
}

/// Exports a directory by the kernel's own NFS server, and mounts it over the loopback device. The caches that
/// rpc.mountd(8) would fill on demand are filled before.
const EXPORT: &str = r#"
    perl -e 'socket(my $s, 2, 2, 0) or die $!; my $up = pack("a16 s x14", "lo", 0x41);
        ioctl($s, 0x8914, $up) or die $!'
    modprobe nfsd; mount -t nfsd nfsd /proc/fs/nfsd
    cd /proc/fs/nfsd; echo -3 >versions # only version 4 does without rpcbind(8)
    # For these seconds, the least that it takes, the server lets no client open a file. Some kernels refuse to end that
    # early where nothing keeps track of clients.
    echo 10 >nfsv4gracetime
    echo 'tcp 2049' >portlist; echo 2 >threads; echo Y 2>/dev/null >v4_end_grace || :
    cd /proc/net/rpc; never=2147483647
    echo "nfsd 127.0.0.1 $never *" >auth.unix.ip/channel
    # NFSEXP_FSID, NFSEXP_NOSUBTREECHECK, NFSEXP_INSECURE_PORT; 0 is the ID of the root of all exports.
    echo "* $EXPORTED $never $((0x2000 + 0x400 + 2)) 65534 65534 0" >nfsd.export/channel
    echo "* 1 \\x00000000 $never $EXPORTED" >nfsd.fh/channel
    mount -i -t nfs4 -o vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1 127.0.0.1:/ $F
"#;

const END_EXPORT: &str = "
    umount $F; echo 0 >/proc/fs/nfsd/threads
    for cache in auth.unix.ip nfsd.export nfsd.fh; do date +%s >/proc/net/rpc/$cache/flush; done
";

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem answers"]
fn every_verb_refuses_nfs_in_the_lab() {
    let (served, below) = (Scratch::new(Kind::xfs()), Scratch::new(Kind::ext4()));
    let (file, dir) = (served.path("file"), below.path("nfs"));
    sh(on(&file, "chmod 1777 ${F%/*}; seq 60000 >$F; sync $F"));
    fs::create_dir(&dir).unwrap();
    sh(on(&dir, &format!("EXPORTED={}\n{EXPORT}", quoted(served.mount_point()))));
    let looked = std::panic::catch_unwind(|| {
        let says = "the map is the server's";
        assert_refused(&Place { dir: dir.clone(), says });
        for verb in [&["stat"][..], &["unpin"], &["unpin", "--dry-run"], &["map", "--format", "dmsetup", "--unpinned"]]
        {
            let said = run(verb, &dir.join("file")).expect(3);
            assert!(said.stderr.contains(says), "{said}");
        }
        // Pinned on the server, the file is for the server to look at.
        run(&["pin"], &file).expect(0);
        for verb in ["unpin", "verify", "pin", "prepare"] {
            run(&[verb], &dir.join("file")).expect(3);
        }
        run(&["verify"], &file).expect(0);
        run(&["unpin"], &file).expect(0);
    });
    sh(on(&dir, END_EXPORT));
    looked.unwrap();
}

#[test]
fn every_verb_refuses_a_read_only_mount() {
    for kind in Kind::xfs_and_ext4() {
        let mut scratch = Scratch::new(kind);
        let (file, pinned) = (scratch.path("file"), scratch.path("pinned"));
        make(&pinned, "daxfile pin -q $F");
        make(&file, "");
        scratch.remount_with("ro");
        for hold in HOLDS {
            for verb in [&["probe"][..], &["check"], &["pin", "--dry-run"], &["pin"]] {
                run(&[verb, &["--hold", hold]].concat(), &file).expect(3);
            }
        }
        for verb in [&["check"][..], &["pin", "--dry-run"], &["pin"]] {
            run(verb, &pinned).expect(0);
        }
        scratch.remount();
        run(&["unpin"], &pinned).expect(0);
    }
}

/// Without /proc all verbs give the same answer.
#[test]
fn verbs_report_missing_proc() {
    require(&["chroot", "unshare"]);
    let scratch = Scratch::new(Kind::xfs());
    let root = scratch.path("root");
    let program = Daxfile::new([""; 0]).command().get_program().to_owned();
    sh(on(
        &root,
        &format!(
            "mkdir -p $F/usr $F/mnt $F/dev; for name in bin lib lib64 sbin; do ln -s usr/$name $F/$name; done
             mount --bind /usr $F/usr; cp {} $F/daxfile; head -c 100K /dev/urandom >$F/mnt/file
             truncate -s 1M $F/mnt/holed; sync $F/mnt/file",
            program.to_str().unwrap()
        ),
    ));
    let inside = |args: &[&str]| -> (i32, String) {
        let out = finish(Command::new("chroot").arg(&root).arg("/daxfile").args(args));
        let said = [out.stdout, out.stderr].concat();
        (out.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    // Every file is opened through /proc, so that no other process can replace it.
    for args in [
        &["check", "/mnt/file"][..],
        &["pin", "--dry-run", "/mnt/file"],
        &["pin", "/mnt/file"],
        &["verify", "/mnt/file"],
        &["unpin", "/mnt/file"],
        &["prepare", "--dry-run", "/mnt/holed"],
        &["prepare", "/mnt/holed"],
    ] {
        let (status, said) = inside(args);
        assert!(status == 3 && said.contains("needs /proc, which is not mounted here"), "{args:?}: {status} {said}");
    }
    let answers = ["--dry-run", "-q"].map(|option| inside(&["alloc", option, "-s", "1M", "/mnt/new"]));
    assert_eq!(answers[0].0, answers[1].0, "{answers:?}");
}

/// A process that has the file open for writing is named; for `check` that is a note.
#[test]
fn a_busy_file_names_its_users() {
    require(&["losetup", "perl", "mkswap", "swapon"]);
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        make(&file, "");
        let busy = |who: &str| {
            let pin = report(&["pin"], &file, 5);
            let message = pin["error"]["message"].as_str().unwrap();
            assert_eq!(message, format!("busy: open for writing by {who}, or use --wait"));
            assert_eq!(pin["error"]["call"], "fcntl(F_SETLEASE)");
            assert_eq!(report(&["pin", "--dry-run"], &file, 5)["error"], pin["error"]);
            let check = report(&["check"], &file, 0);
            let note = Value::from(format!("at the moment open for writing by {who}"));
            assert!(check["notes"].as_array().unwrap().contains(&note), "{check}");
            // A record alone does not need other processes to close the file.
            run(&["check", "--hold", "none"], &file).expect(0);
        };
        let perl = |script: &str| {
            let mut perl = Command::new("perl");
            perl.args(["-e", &format!("{script}; open(my $ready, '>', \"$ARGV[0].ready\"); sleep 1000")]).arg(&file);
            let child = Killed(spawn(&mut perl));
            let ready = scratch.path("file.ready");
            wait_until("it has the file open", || ready.exists());
            fs::remove_file(ready).unwrap();
            child
        };
        let writer = perl("open(my $file, '+<', $ARGV[0])");
        busy(&format!("1 process (PID {}); close it", writer.0.id()));
        let also = perl("open(my $file, '>>', $ARGV[0])");
        let (one, other) = (writer.0.id().min(also.0.id()), writer.0.id().max(also.0.id()));
        busy(&format!("2 processes (PID {one}, {other}); close them"));
        drop((writer, also));

        // A mapping outlives the descriptor that it was made through.
        let mapper = super::main_job::mapped(&file);
        busy(&format!("1 process (PID {}); close it", mapper.0.id()));
        drop(mapper);

        let device = sh(on(&file, "losetup --show -f $F")).trim().to_owned();
        let found = std::panic::catch_unwind(|| busy(&format!("the loop device {device}; losetup -d {device}")));
        sh(format!("losetup -d {device}"));
        found.unwrap();
        wait_until("the loop device lets go", || run(&["pin", "--dry-run"], &file).status == 0);

        // A reader stops prepare where prepare needs an exclusive lease.
        if scratch.kind().name() == "ext4" {
            let holed = scratch.path("holed");
            File::create(&holed).unwrap().set_len(1 << 20).unwrap();
            let _reader = File::open(&holed).unwrap();
            let said = run(&["prepare"], &holed).expect(5);
            let named = format!("busy: open by 1 process (PID {}); close it: beside other", std::process::id());
            assert!(said.stderr.contains(&named), "{said}");
        }
    }
}

/// swapoff would fail on a frozen swapfile; a record does no harm.
#[test]
fn hold_none_accepts_swap_files() {
    require(&["mkswap", "swapon", "swapoff"]);
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        let swap = "chmod 600 $F; mkswap -q $F 2>/dev/null || mkswap $F >/dev/null; sync $F";
        for order in ["swapon $F; daxfile pin -q --hold none $F", "daxfile pin -q --hold none $F; swapon $F"] {
            make(&file, &format!("{swap}; {order}"));
            for verb in ["check", "pin", "verify"] {
                let hold = if verb == "verify" { &[][..] } else { &["--hold", "none"] };
                let said = run(&[&[verb], hold].concat(), &file).expect(0);
                assert!(!said.text().contains("swap"), "{said}");
            }
            let frozen = run(&["pin"], &file).expect(5);
            assert!(frozen.text().starts_with(file.to_str().unwrap()), "{frozen}");
            assert!(frozen.text().contains("swapoff would fail on a frozen file"), "{frozen}");
            assert!(!frozen.stderr.contains("open for writing"), "one reason, once: {frozen}");
            remove(&file);
        }
    }
}

/// prepare does not move the blocks of a file with a record, under any hold.
#[test]
fn prepare_refuses_pinned_files() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    for (hold, allow) in [("frozen", &[][..]), ("none", &[]), ("none", &["--allow", "hole"])] {
        let pin = [&["pin", "--hold", hold], allow].concat();
        for (script, options) in [("cp --reflink=always $F $F.copy", &[][..]), ("", &["--allow", "hole"])] {
            if !allow.is_empty() && !script.is_empty() {
                continue;
            }
            make(&file, if allow.is_empty() { "" } else { "truncate -s 1M $F" });
            run(&pin, &file).expect(0);
            sh(on(&file, script));
            let map = filefrag(&file);
            let wanted = allow.is_empty() && options.is_empty() || !allow.is_empty() && options.is_empty();
            for dry in [&["--dry-run"][..], &[]] {
                let said = run(&[&["prepare"], options, dry].concat(), &file);
                if wanted {
                    let said = said.expect(1);
                    let command = format!("pinned: unpin first (daxfile unpin {})", file.display());
                    assert!(said.stderr.contains(&command), "{said}");
                    assert!(
                        said.text().contains(&format!("remedy: daxfile unpin {} && daxfile prepare", file.display())),
                        "{said}"
                    );
                } else {
                    // There is nothing to do, which is no error.
                    said.expect(0);
                }
            }
            assert_eq!(filefrag(&file).len(), map.len());
            run(&["verify"], &file).expect(0);
            remove(&file);
        }
    }
}

/// After a pinned file is copied, `check`, `pin`, `verify` and `map` answer as before.
#[test]
fn copies_of_a_pinned_file_change_no_answer() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    for hold in ["frozen", "none"] {
        make(&file, "");
        run(&["pin", "--hold", hold], &file).expect(0);
        let table = run(&["map", "--format", "dmsetup"], &file).expect(0);
        assert_eq!(table.stderr, "");
        sh(on(&file, "cp --reflink=always $F $F.copy"));
        for verb in [&["check", "--hold", hold][..], &["pin", "--hold", hold], &["verify"]] {
            let said = run(verb, &file).expect(0);
            assert!(said.text().contains("shared with other files since"), "{said}");
        }
        let again = run(&["map", "--format", "dmsetup"], &file).expect(0);
        assert_eq!(again.stdout, table.stdout);
        assert!(again.stderr.contains("note: 100 KiB shared with other files"), "{again}");
        remove(&file);
    }
    // Nothing keeps an unpinned one where it is, and both say no.
    make(&file, "cp --reflink=always $F $F.copy");
    run(&["check"], &file).expect(1);
    run(&["map", "--format", "dmsetup", "--unpinned"], &file).expect(1);
}

/// bsdtar brings the immutable flag and the record of a pinned file along: one command ends both.
#[test]
fn unpin_names_the_command_for_a_restored_copy() {
    require(&["bsdtar", "lsattr"]);
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        make(&file, "daxfile pin -q $F");
        let copy = scratch.path("restored 'here'/file");
        let dir = copy.parent().unwrap();
        fs::create_dir(dir).unwrap();
        sh(on(&file, &format!("cd ${{F%/*}}; bsdtar -cf - file | bsdtar -xpf - -C {}", quoted(dir))));
        assert!(sh(on(&copy, "lsattr $F")).contains('i'), "not brought along");
        for verb in [&["unpin"][..], &["unpin", "--dry-run"]] {
            let said = run(verb, &copy).expect(1);
            assert!(said.stderr.contains("another file's pin record"), "{said}");
            assert_eq!(said.text(), "", "one reason, once");
            let command = said.stderr.trim().rsplit_once("to end both: ").unwrap().1.to_owned();
            assert!(command.starts_with("chattr -i ") && command.contains(" && daxfile unpin "), "{command}");
            if verb == ["unpin"] {
                continue;
            }
            let program = Daxfile::new([""; 0]).command().get_program().to_owned();
            let path = Path::new(&program).parent().unwrap().display().to_string();
            sh(format!("PATH={path}:$PATH; {command}"));
        }
        assert_eq!(report(&["stat"], &copy, 0)["pin"]["state"], "unpinned");
        assert!(!sh(on(&copy, "lsattr $F")).split(' ').next().unwrap().contains('i'));
        run(&["pin"], &copy).expect(0);
        run(&["unpin"], &copy).expect(0);
        run(&["unpin"], &file).expect(0);
    }
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_str().unwrap().replace('\'', r"'\''"))
}

/// The smallest remedies are for files that `xfs_fsr` leaves alone, and for whole filesystems.
#[test]
fn remedies_repeat_the_options_of_the_call() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    let remedies = |options: &[&str]| -> Vec<String> {
        let checked = report(&[&["check"], options].concat(), &file, 1);
        let all = checked["blockers"].as_array().unwrap().clone();
        all.iter().map(|blocker| blocker["remedy"].as_str().unwrap().to_owned()).collect()
    };
    make(&file, "fallocate -o 100K -l 64K $F");
    let name = file.display();
    let options = ["--hold", "none", "--align", "64K", "--max-extents", "7", "--allow", "hole,shared"];
    assert_eq!(
        remedies(&options)[0],
        format!("daxfile prepare --hold none --align 65536 --max-extents 7 --allow hole,shared {name}")
    );
    // Few extents, which xfs_fsr does not touch: a new file, of the wanted shape.
    make(&file, "fallocate -c -o 64K -l 4K $F");
    let [remedy] = &remedies(&["--max-extents", "1"])[..] else { panic!("not one") };
    assert!(remedy.starts_with("daxfile alloc --max-extents 1 -s 98304 NEW && "), "{remedy}");
    super::blockers::follow(remedy, &scratch.path("new"));
    run(&["check", "--max-extents", "1"], &scratch.path("new")).expect(0);

    // On a pinned file, each remedy that changes the file ends the pin first.
    make(&file, "truncate -s 1M $F; daxfile pin -q --allow hole $F");
    let [remedy] = &remedies(&[])[..] else { panic!("not one") };
    assert_eq!(*remedy, format!("daxfile unpin {name} && daxfile prepare {name}"));
    super::blockers::follow(remedy, Path::new("/nonexistent"));
    run(&["pin"], &file).expect(0);
    remove(&file);
    make(&file, "daxfile pin -q $F; chattr -i $F; chattr +ia $F");
    let [remedy] = &remedies(&["--max-extents", "3"])[..] else { panic!("not one") };
    super::blockers::follow(remedy, Path::new("/nonexistent"));
    run(&["pin", "--max-extents", "3"], &file).expect(0);
    remove(&file);

    // Shared blocks may be accepted if no process writes to them.
    make(&file, "cp --reflink=always $F $F.copy");
    let shared = &report(&["check"], &file, 1)["blockers"][0];
    assert_eq!(shared["alternative"], "--allow shared");
    assert!(run(&["check"], &file).text().contains("    or:     --allow shared\n"));
    run(&["pin", "--allow", "shared"], &file).expect(0);
    run(&["unpin"], &file).expect(0);
    assert_eq!(report(&["check", "--hold", "none"], &file, 1)["blockers"][0]["alternative"], Value::Null);
}

/// ext3, and ext4 without the feature: the remedy works on the mounted filesystem, and then everything is as on ext4.
#[test]
fn the_remedy_of_ext3_turns_extents_on() {
    require(&["tune2fs", "chattr"]);
    let old: Kind = Ext4 { features: vec!["^extent".into()], ..Ext4::default() }.into();
    let scratch = Scratch::new(old);
    let file = scratch.path("file");
    make(&file, "");
    let checked = report(&["check"], &file, 3);
    let [blocker] = &checked["blockers"].as_array().unwrap()[..] else { panic!("one reason, once: {checked}") };
    assert_eq!(blocker["kind"], "unsupported_filesystem");
    super::blockers::follow(blocker["remedy"].as_str().unwrap(), Path::new("/nonexistent"));
    run(&["check"], &file).expect(0);
    run(&["alloc", "-s", "1M"], &scratch.path("new")).expect(0);
    run(&["probe", "--hold", "frozen"], scratch.mount_point()).expect(0);
}

/// A device-mapper table ends where a block of the device does.
#[test]
fn table_ends_at_a_device_block() {
    require(&["losetup", "mkfs.xfs"]);
    let below = Scratch::new(Kind::ext4());
    let (image, at) = (below.path("image"), below.path("mnt"));
    sh(on(&image, "truncate -s 400M $F; mkdir ${F%/*}/mnt"));
    let device = sh(on(&image, "losetup --show -f --sector-size 4096 $F")).trim().to_owned();
    let checked = std::panic::catch_unwind(|| {
        sh(format!("mkfs.xfs -q -f -s size=4096 {device}; mount {device} {}", quoted(&at)));
        for (size, status) in [("5632", 1), ("8192", 0)] {
            let file = at.join(size);
            run(&["alloc", "-s", size], &file).expect(0);
            run(&["pin"], &file).expect(0);
            let said = run(&["map", "--format", "dmsetup"], &file).expect(status);
            assert_eq!(said.stderr.contains("not a multiple of the device's block size, 4096"), status == 1, "{said}");
            run(&["unpin"], &file).expect(0);
        }
    });
    let _ = sh_status(format!("umount {}; losetup -d {device}", quoted(&at)));
    checked.unwrap();
}

/// Only root may use the blocks that are reserved for root, as with fallocate(1).
#[test]
fn root_may_use_reserved_blocks() {
    let kind = Ext4 { mkfs_args: vec!["-m".into(), "10".into()], ..Ext4::default() };
    let scratch = Scratch::new(kind);
    let at = scratch.mount_point();
    let available = || sh(on(at, "df --output=avail -B1 $F | tail -1")).trim().parse::<u64>().unwrap();
    sh(on(scratch.path("fill"), &format!("chmod 1777 ${{F%/*}}; fallocate -l {} $F", available() - 400 * 1024)));
    let holed = scratch.path("holed");
    File::create(&holed).unwrap().set_len(4 << 20).unwrap();
    fs::set_permissions(&holed, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    for verb in [&["alloc", "--dry-run", "-s", "4M"][..], &["alloc", "-s", "4M"]] {
        let said = call(Caller::Owner, verb, &scratch.path("theirs")).expect(2);
        assert!(said.stderr.contains(": No space left on device: needs 4 MiB"), "{said}");
        let json = call(Caller::Owner, &[verb, &["--json"]].concat(), &scratch.path("theirs")).expect(2).file();
        assert_eq!((&json["error"]["call"], &json["error"]["errno"]), (&Value::Null, &28.into()));
        run(verb, &scratch.path("roots")).expect(0);
    }
    call(Caller::Owner, &["prepare"], &holed).expect(2);
    run(&["prepare"], &holed).expect(0);
    run(&["check"], &holed).expect(0);
    // There are no more blocks beyond those, and a failed run uses none.
    let free = available();
    run(&["alloc", "-s", "1G"], &scratch.path("large")).expect(2);
    assert_eq!(available(), free);
}

/// `check` and the dry run know how much room there is for the record, and write nothing to find out.
#[test]
fn check_reports_missing_room_for_the_record() {
    require(&["setfattr", "dd"]);
    let agree = |file: &Path, status: i32, says: &str| {
        for verb in [&["check"][..], &["pin", "--dry-run"], &["pin"]] {
            let said = report(verb, file, status);
            if status != 0 {
                assert_eq!(said["error"]["errno"], 28, "{said}");
                assert!(verb == ["pin"] || said["error"]["message"].as_str().unwrap().contains(says), "{said}");
            }
        }
        run(&["unpin"], file).expect(0);
    };
    let small = |mkfs_args: &[&str], block_size| Ext4 {
        block_size,
        mkfs_args: mkfs_args.iter().map(ToString::to_string).collect(),
        ..Ext4::default()
    };
    // Other attributes are in the way, or leave just enough.
    let scratch = Scratch::with_size(small(&[], 1024), 64 << 20);
    for (bytes, status) in [(0, 0), (500, 0), (700, 0), (900, 2)] {
        let file = scratch.path(format!("{bytes}"));
        make(&file, &format!("setfattr -n user.x -v $(printf %0{bytes}d 0) $F"));
        agree(&file, status, "other extended attributes leave no room");
    }
    // A full disk has no block for attributes; where inodes are large, none is needed.
    for (inode_size, status) in [("256", 2), ("1024", 0)] {
        let scratch = Scratch::with_size(small(&["-I", inode_size, "-m", "0"], 4096), 64 << 20);
        let file = scratch.path("file");
        make(&file, "");
        let fill = "for size in 1M 4K; do dd if=/dev/zero of=$F.$size bs=$size 2>/dev/null || :; done; sync -f $F";
        sh(on(&file, fill));
        agree(&file, status, "needs one more block");
    }
}

/// XFS sets blocks aside while it stores the record of hold none, and on older kernels any record.
#[test]
fn check_counts_the_blocks_that_xfs_sets_aside() {
    let large_counts = Xfs { mkfs_args: vec!["-i".into(), "nrext64=1".into()], ..Xfs::default() };
    let small_blocks = Xfs { block_size: 1024, ..Xfs::default() };
    on_each(vec![Kind::xfs(), large_counts.into(), small_blocks.into()], |kind| {
        let scratch = Scratch::with_size(kind, 300 << 20);
        let (at, block) = (quoted(scratch.mount_point()), scratch.kind().block_size());
        let [file, frozen] = ["file", "frozen"].map(|name| scratch.path(name));
        make(&file, "");
        make(&frozen, "");
        // One block each.
        let zeros = format!("dd if=/dev/zero bs={block} count=1 status=none");
        sh(format!("cd {at}; mkdir d; for i in {{1..120}}; do {zeros} of=d/$i; done; sync -f ."));
        sh(format!(
            "cd {at}; fallocate -l $(($(df --output=avail -B1 . | tail -1) - (1 << 20))) fill
             dd if=/dev/zero of=rest bs={block} status=none 2>/dev/null || :; sync -f ."
        ));
        let none = ["--hold", "none"];
        let pin = || {
            let status = run(&[&["pin"], &none[..]].concat(), &file).status;
            run(&["unpin"], &file).expect(0);
            status
        };
        let agree = |status: i32| {
            for verb in [&["check"][..], &["pin", "--dry-run"], &["pin"]] {
                let said = report(&[verb, &none].concat(), &file, status);
                assert_eq!(said["error"]["errno"].as_i64(), (status == 2).then_some(28), "{said}");
            }
            run(&["unpin"], &file).expect(0);
        };
        let removed = (1..=120).find(|number| {
            sh(format!("rm {at}/d/{number}; sync -f {at}"));
            pin() == 0
        });
        assert!(removed.is_some_and(|removed| removed > 1), "there was always room, or never");
        agree(0);
        // Other files grow, because a new one would need more.
        for grown in [119, 120] {
            sh(format!("{zeros} of={at}/d/{grown} seek=1 conv=notrunc; sync -f {at}"));
            agree(2);
        }
        // Whether the kernel has a reserve for records in security.* is not known, and a note says so.
        let check = run(&["check"], &frozen).expect(0);
        assert!(check.text().contains("note: No space left on device: to store the pin record, XFS needs"), "{check}");
        let pin = run(&["pin"], &frozen);
        assert!(pin.status == 0 || pin.stderr.contains("there is no room for the pin record"), "{pin}");
        run(&["unpin"], &frozen).expect(0);
    });
}

/// Sets the limits of a user's quota, in bytes; quotactl(2) is all that this takes.
fn limit(scratch: &Scratch, user: u32, bytes: u64) {
    // Q_SETQUOTA, USRQUOTA, and QIF_BLIMITS in `struct if_dqblk`.
    let set = "my ($device, $user, $blocks) = @ARGV; my $limits = pack(\"Q8Lx4\", $blocks, (0) x 7, 1);
               syscall(179, 0x80000800, $device, $user + 0, $limits) and die $!";
    sh(format!("perl -e '{set}' {} {user} {}", scratch.device().display(), bytes / 1024));
}

/// The quota of a file's owner limits a caller without CAP_SYS_RESOURCE on ext4, and everyone on XFS.
fn quotas_leave_no_room(kind: Kind, mount_options: &str) {
    const OWNER: u32 = 65534;
    let mut scratch = Scratch::with_size(kind, 300 << 20);
    scratch.remount_with(mount_options);
    let of_xfs = scratch.kind().name() == "xfs";
    let file = scratch.path("file");
    let none = ["--hold", "none"];
    let agree = |caller: Caller, checks: i32, pins: i32| {
        let with = |verb: &[&'static str]| [verb, &none[..]].concat();
        let check = call(caller, &with(&["check"]), &file).expect(checks);
        for verb in [&["pin", "--dry-run"][..], &["pin"]] {
            let said = call(caller, &with(verb), &file).expect(pins);
            assert!(pins == 0 || said.stderr.contains("Disk quota exceeded"), "{said}");
        }
        if checks != pins {
            let note = format!("note: pin would fail for this user: Disk quota exceeded: the quota of user {OWNER}");
            assert!(check.text().contains(&note), "{check}");
        }
        run(&["unpin"], &file).expect(0);
    };
    // There is no limit, then a far one, then one that is reached.
    make(&file, "");
    agree(Caller::Owner, 0, 0);
    let used = allocated(&file);
    limit(&scratch, OWNER, used + (8 << 20));
    agree(Caller::Owner, 0, 0);
    limit(&scratch, OWNER, used);
    let root = if of_xfs { 2 } else { 0 };
    agree(Caller::Owner, root, 2);
    agree(Caller::Root, root, root);
    // The quota of another user than the owner does not count.
    sh(on(&file, "chown 0 $F"));
    limit(&scratch, OWNER, 1024);
    agree(Caller::Root, 0, 0);
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem answers"]
fn check_counts_the_quotas_of_ext4_in_the_lab() {
    let quotas = Ext4 { mkfs_args: ["-O", "quota"].map(str::to_owned).to_vec(), ..Ext4::default() };
    quotas_leave_no_room(quotas.into(), "usrquota");
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem answers"]
fn check_counts_the_quotas_of_xfs_in_the_lab() {
    quotas_leave_no_room(Kind::xfs(), "uquota");
}

/// A debug setting of XFS that only kernels built with XFS_DEBUG have: a file over the kernel's own stands for it.
#[test]
fn a_kernel_whose_xfs_always_copies_holds_nothing() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    make(&file, "");
    for (value, status) in [("1", 3), ("0", 0)] {
        let script = format!(
            "mount -t tmpfs settings /sys/fs/xfs; mkdir /sys/fs/xfs/debug; echo {value} >/sys/fs/xfs/debug/always_cow
            exec \"$0\" \"$@\""
        );
        for verb in [&["check"][..], &["pin", "--dry-run"]] {
            let said = Daxfile::new(verb).arg(&file).wrap(["unshare", "--mount", "bash", "-euc", &script]).run();
            let said = said.expect(status);
            let text = format!("{}{}", said.text(), said.stderr);
            assert_eq!(text.contains("always_cow"), status == 3, "{said}");
        }
    }
}
