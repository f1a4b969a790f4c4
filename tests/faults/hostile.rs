//! Files made to do harm, or swapped while daxfile examines them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use daxfile_tests::child::{Killed, finish, spawn};
use daxfile_tests::tools::{checksum, flags, inode, on, require, sh, sh_status};
use daxfile_tests::{Daxfile, Ext4, Kind, Run, Scratch, Xfs, on_each, report, run, wait_until};
use nix::libc;
use serde_json::Value;
use sha2::{Digest, Sha256};

const MIB: u64 = 1 << 20;
const ENFORCED: &str = "security.daxfile.pin";
const UNENFORCED: &str = "user.daxfile.pin";

fn immutable(file: &Path) -> bool {
    flags(file).lines().any(|line| line.contains('i'))
}

fn has_record(file: &Path) -> bool {
    sh_status(on(file, &format!("getfattr -n {ENFORCED} $F || getfattr -n {UNENFORCED} $F"))) == 0
}

/// Everything that daxfile could change on a file, except its names and the time of the last change of its inode.
fn marks(file: &Path) -> (String, String, String) {
    let script = "stat -c '%i %s %b %a %u:%g %y' $F; getfattr -d -m - -e hex --absolute-names $F";
    (sh(on(file, script)), flags(file), checksum(file))
}

/// A name that alternates between a file, another file, a symbolic link to a third and, on request, no file.
struct Swapped {
    path: PathBuf,
    files: [PathBuf; 2],
    victim: PathBuf,
    _swapper: Killed,
}

impl Swapped {
    fn start(scratch: &Scratch, and_gone: bool) -> Swapped {
        const SWAP: &str = r#"
            chdir shift; my ($victim, $gone) = @ARGV; $| = 1;
            my @ways = (sub { link "a", "n" }, sub { symlink $victim, "n" }, sub { link "b", "n" });
            for (my $i = 0; ; $i++) {
                $ways[$i % 3]->();
                rename "n", "path";
                unlink "n";
                unlink "path" if $gone and $i % 2;
                print "ready\n" if $i == 10;
            }"#;
        require(&["perl", "xfs_io"]);
        let dir = scratch.path("dir");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        let files = [dir.join("a"), dir.join("b")];
        let victim = scratch.path("victim");
        for (file, size) in [(&files[0], 300), (&files[1], 500), (&victim, 700)] {
            sh(on(file, &format!("xfs_io -f -c 'pwrite -q 0 64k' -c 'truncate {size}k' -c fsync $F")));
        }
        let mut perl = Command::new("perl");
        perl.args(["-e", SWAP]).args([&dir, &victim]).arg(if and_gone { "1" } else { "0" });
        let mut swapper = Killed(spawn(perl.stdout(Stdio::piped())));
        swapper.0.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        Swapped { path: dir.join("path"), files, victim, _swapper: swapper }
    }

    fn run(&self, verb: &[&str]) -> Run {
        Daxfile::new(verb).arg("--json").arg(&self.path).run()
    }

    /// Which of the two files the report speaks of; by all it says it must be the same.
    fn meant(&self, run: &Run) -> (&Path, &Path) {
        let about = &run.file()["file"];
        let [a, b] = [0, 1].map(|at| self.files[at].as_path());
        let is = |file: &Path| {
            let metadata = fs::metadata(file).unwrap();
            about["inode"] == metadata.ino() && about["size"] == metadata.len()
        };
        match (is(a), is(b)) {
            (true, false) => (a, b),
            (false, true) => (b, a),
            _ => panic!("neither file, or both: {run}"),
        }
    }

    /// What the run found: the first file, the second, or the link.
    fn met(&self, run: &Run) -> usize {
        if was_a_link(run) { 2 } else { usize::from(self.meant(run).0 == self.files[1]) }
    }
}

/// The name led to another file at the end than at the beginning.
fn was_replaced(run: &Run) -> bool {
    run.status == 5 && run.stderr.contains("another process moved, replaced or deleted the file of this name")
}

fn was_a_link(run: &Run) -> bool {
    run.status == 2 && run.stderr.contains("symbolic link")
}

/// A verb acts on the file that it opened, and on no other.
#[test]
fn verbs_act_only_on_the_file_they_opened() {
    const ROUNDS: usize = 15;
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let swapped = Swapped::start(&scratch, false);
        let before = inode(&swapped.victim);
        let clean = swapped.files.each_ref().map(|file| marks(file));
        let mut met = [0; 3];
        let unpin = |file: &Path| run(&["unpin"], file).expect(0);
        for round in 0..ROUNDS {
            for (verb, status) in [("stat", 0), ("check", 1), ("verify", 1)] {
                let run = swapped.run(&[verb]);
                assert!(run.status == status || was_a_link(&run), "{run}");
                met[swapped.met(&run)] += 1;
            }

            let hold = if round % 2 == 0 { "frozen" } else { "none" };
            let run = swapped.run(&["pin", "--allow", "hole", "--hold", hold]);
            if run.status == 0 {
                let (meant, other) = swapped.meant(&run);
                assert_eq!((immutable(meant), has_record(meant)), (hold == "frozen", true), "{run}");
                assert_eq!((immutable(other), has_record(other)), (false, false), "{run}");
                unpin(meant);
                met[swapped.met(&run)] += 1;
            } else {
                assert!(was_a_link(&run) || was_replaced(&run), "{run}");
                assert!(swapped.files.iter().all(|file| !immutable(file) && !has_record(file)), "{run}");
            }

            // The one is pinned by its own name; only a run that opened it may end that.
            let [a, b] = &swapped.files;
            Daxfile::new(["pin", "--allow", "hole"]).arg(a).run().expect(0);
            let run = swapped.run(&["unpin"]);
            let action = match was_a_link(&run) || was_replaced(&run) {
                true => Value::Null,
                false => run.clone().expect(0).file()["action"].clone(),
            };
            assert_eq!(immutable(a), action != "unpinned", "{run}");
            assert_eq!(has_record(a), action != "unpinned", "{run}");
            assert!(!immutable(b) && !has_record(b), "{run}");
            unpin(a);
        }
        assert_eq!(swapped.files.each_ref().map(|file| marks(file)), clean);

        for _ in 0..ROUNDS {
            let run = swapped.run(&["prepare"]);
            let whole = swapped.files.each_ref().map(|file| {
                let metadata = fs::metadata(file).unwrap();
                metadata.blocks() * 512 >= metadata.len()
            });
            if run.status == 0 {
                let (meant, _) = swapped.meant(&run);
                assert_eq!(whole, [0, 1].map(|at| meant == swapped.files[at]), "{run}");
            } else {
                // It says of which file it did the work.
                let done = was_replaced(&run) && run.stderr.contains("that file is prepared");
                assert!(was_a_link(&run) || run.status == 5, "{run}");
                assert!(whole == [false; 2] || done && whole != [true; 2], "{run}");
            }
            for (file, clean) in swapped.files.iter().zip(&clean) {
                assert_eq!(marks(file).2, clean.2, "{run}");
                sh(on(file, "xfs_io -c 'fpunch 64k 1m' -c fsync $F"));
            }
        }
        assert_eq!(inode(&swapped.victim), before);
        // On a busy machine few runs meet the link.
        for _ in 0..1000 {
            if met.iter().all(|times| *times >= 5) {
                return;
            }
            met[swapped.met(&swapped.run(&["stat"]))] += 1;
        }
        panic!("{met:?}: no race was run");
    });
}

/// A name that comes and goes: alloc uses it while it is free, and otherwise leaves the existing file alone.
#[test]
fn alloc_spares_a_name_taken_by_another_process() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let swapped = Swapped::start(&scratch, true);
        let files = [&swapped.files[0], &swapped.files[1], &swapped.victim];
        let before = files.map(|file| marks(file));
        let (mut made, mut taken) = (0, 0);
        for round in 0.. {
            if round >= 100 && made >= 5 && taken >= 5 {
                break;
            }
            assert!(round < 2000, "{made} made, {taken} taken: no race was run");
            let run = swapped.run(&["alloc", "-s", "64K"]);
            match run.status {
                0 => made += 1,
                2 if run.stderr.contains("File exists") => taken += 1,
                // Taken as soon as it was made.
                5 if run.stderr.contains("busy: another process moved or replaced the new file") => taken += 1,
                _ => panic!("{run}"),
            }
        }
        assert_eq!(files.map(|file| marks(file)), before);
    });
}

/// Asserts that the filesystem's own checker finds nothing; it stays unmounted.
#[track_caller]
fn assert_sound(scratch: &mut Scratch) {
    require(&["xfs_repair", "e2fsck"]);
    scratch.unmount();
    sh(on(scratch.image(), if scratch.kind().name() == "xfs" { "xfs_repair -n $F" } else { "e2fsck -fn $F" }));
    scratch.mount();
}

/// Whether a program that strace runs is in that system call. strace's own output is buffered, and comes too late.
fn is_inside(strace: &Child, call: libc::c_long) -> bool {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", strace.id())).unwrap();
    children.split_whitespace().any(|pid| {
        let inside = fs::read_to_string(format!("/proc/{pid}/syscall"));
        inside.is_ok_and(|inside| inside.split(' ').next() == Some(&call.to_string()))
    })
}

/// A file that loses its last name while a verb works on it disappears with all its blocks, whatever the verb did.
#[test]
fn unlinked_file_frees_all_its_blocks() {
    require(&["strace"]);
    on_each(Kind::xfs_and_ext4(), |kind| {
        let mut scratch = Scratch::new(kind);
        let file = scratch.path("file");
        fs::create_dir(scratch.path("dir")).unwrap();
        let free = scratch.free_blocks();
        // The call in which it waits while the name disappears.
        for (verb, call, number, done) in [
            (&["stat"][..], "flistxattr", libc::SYS_flistxattr, "described"),
            (&["check"], "flistxattr", libc::SYS_flistxattr, "described"),
            (&["verify"], "flistxattr", libc::SYS_flistxattr, "described"),
            (&["prepare"], "flock", libc::SYS_flock, "prepared"),
            (&["pin"], "flock", libc::SYS_flock, "pinned"),
            (&["pin"], "fsetxattr", libc::SYS_fsetxattr, "pinned"),
            (&["pin", "--hold", "none"], "fsetxattr", libc::SYS_fsetxattr, "pinned"),
            (&["unpin"], "fremovexattr", libc::SYS_fremovexattr, "unpinned"),
        ] {
            sh(on(&file, "xfs_io -f -c 'pwrite -q 0 1m' -c fsync $F"));
            if verb[0] == "prepare" {
                sh(on(&file, "xfs_io -c 'fpunch 64k 64k' -c fsync $F"));
            }
            if verb[0] == "unpin" {
                run(&["pin"], &file).expect(0);
            }
            let inject = format!("inject={call}:delay_enter=700000:when=1");
            let waiting =
                Daxfile::new(verb).arg("--json").arg(&file).wrap(["strace", "-o", "/dev/null", "-e", &inject]);
            let mut command = waiting.command();
            let mut child = Killed(spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())));
            wait_until("it is so far", || is_inside(&child.0, number));
            fs::remove_file(&file).unwrap();
            let status = child.0.wait().unwrap();
            let (mut stdout, mut stderr) = (String::new(), String::new());
            child.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
            child.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            let what = format!("{verb:?} at {call}: {status}\n{stdout}{stderr}");
            let answer: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {what}"));
            let answer = &answer["files"][0];
            match done {
                "described" => assert_eq!(answer["file"]["size"], MIB, "{what}"),
                // There is no file of that name that is pinned or prepared now.
                "pinned" | "prepared" => {
                    assert_eq!((status.code(), &answer["action"]), (Some(5), &Value::Null), "{what}");
                    assert!(stderr.contains("deleted the file of this name meanwhile"), "{what}");
                }
                done => assert_eq!((status.code(), &answer["action"]), (Some(0), &done.into()), "{what}"),
            }
            wait_until("its blocks are free", || scratch.free_blocks() == free);
        }

        let dir = scratch.path("dir");
        let strace = ["strace", "-o", "/dev/null", "-e", "inject=linkat:delay_enter=700000:when=1"];
        let mut command = Daxfile::new(["alloc", "-s", "1M"]).arg(dir.join("file")).wrap(strace).command();
        let mut child = Killed(spawn(command.stderr(Stdio::piped())));
        wait_until("it is so far", || is_inside(&child.0, libc::SYS_linkat));
        fs::remove_dir(&dir).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(2));
        let mut stderr = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert!(stderr.contains("No such file or directory (linkat)"), "{stderr}");
        assert_sound(&mut scratch);
    });
}

/// A record of the file's own, altered, with its checksum made right.
fn altered(own: &[u8], changes: &[(usize, &[u8])], map: Option<&[u8]>) -> Vec<u8> {
    const HEAD: usize = 100;
    let mut record = own[..own.len() - 8].to_vec();
    if let Some(map) = map {
        record.truncate(HEAD);
        record.extend(map);
    }
    for (offset, bytes) in changes {
        record[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    let sum = Sha256::digest(&record);
    record.extend(&sum[..8]);
    record
}

fn runs(runs: &[(u64, u64, u64)]) -> Vec<u8> {
    let run = |&(logical, physical, length): &(u64, u64, u64)| {
        [&logical.to_le_bytes()[..], &physical.to_le_bytes(), &length.to_le_bytes(), &[0]].concat()
    };
    runs.iter().flat_map(run).collect()
}

fn digests(span: u64, count: usize) -> Vec<u8> {
    [&span.to_le_bytes()[..], &vec![7; 16 * count]].concat()
}

/// Records that say they are this file's, and are whole by their checksum. Whether they can be decoded.
fn forgeries(own: &[u8]) -> Vec<(&'static str, Vec<u8>, bool)> {
    // The offsets of these fields in a record.
    let [hold, form, added, size, mtime, time, align, count] = [8, 10, 12, 44, 52, 64, 76, 92];
    let number = |number: u64| number.to_le_bytes();
    let with = |changes: &[(usize, &[u8])], map: Option<&[u8]>| altered(own, changes, map);
    let stepped: Vec<_> = (0..118).map(|n| (n * 8192, n * 65536, 4096)).collect();
    let (full, one) = (runs(&stepped), number(1));
    let two = number(2);
    let billion = number(1_000_000_000);
    vec![
        ("a billion runs, one there", with(&[(count, &billion)], None), false),
        ("a billion runs, digests of them", with(&[(form, &[1]), (count, &billion)], Some(&digests(MIB, 1))), true),
        ("as many runs as it can have", with(&[(count, &number(118))], Some(&full)), true),
        (
            "as many digests as it can have",
            with(&[(form, &[1]), (size, &number(184 * MIB))], Some(&digests(MIB, 184))),
            true,
        ),
        ("too few digests", with(&[(form, &[1]), (size, &number(184 * MIB))], Some(&digests(MIB, 183))), false),
        ("the largest size", with(&[(form, &[1]), (size, &number(u64::MAX))], Some(&digests(1 << 63, 2))), true),
        ("spans that are no power of two", with(&[(form, &[1])], Some(&digests(MIB + 1, 1))), false),
        ("runs to the end of all numbers", with(&[(count, &one)], Some(&runs(&[(0, 0, u64::MAX)]))), true),
        ("runs beyond all numbers", with(&[(count, &one)], Some(&runs(&[(1, 0, u64::MAX)]))), false),
        ("places beyond all numbers", with(&[(count, &one)], Some(&runs(&[(0, 1, u64::MAX)]))), false),
        ("runs one over another", with(&[(count, &two)], Some(&runs(&[(0, 0, 8192), (4096, 65536, 8192)]))), false),
        ("runs out of order", with(&[(count, &two)], Some(&runs(&[(8192, 0, 4096), (0, 65536, 4096)]))), false),
        ("runs of nothing", with(&[(count, &one)], Some(&runs(&[(0, 0, 0)]))), false),
        ("no runs", with(&[(count, &number(0))], Some(&[])), true),
        ("the first moment", with(&[(mtime, &number(1 << 63)), (time, &number(1 << 63))], None), true),
        ("the last moment", with(&[(mtime, &number(i64::MAX as u64)), (time, &number(i64::MAX as u64))], None), true),
        ("flags that no pin adds", with(&[(added, &[0xff])], None), false),
        ("a hold that is none", with(&[(hold, &[2])], None), false),
        (
            "the largest needs",
            with(&[(size, &two), (align, &number(1 << 63)), (align + 8, &number(u64::MAX))], None),
            true,
        ),
        ("an alignment that is no power of two", with(&[(align, &number(u64::MAX))], None), false),
        ("an alignment within a sector", with(&[(align, &number(256))], None), false),
    ]
}

/// Only the administrator can put such records in the place of enforced holds; daxfile still trusts nothing in them.
#[test]
fn forged_record_with_valid_checksum_is_refused() {
    require(&["getfattr", "setfattr", "chattr"]);
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        sh(on(&file, "xfs_io -f -c 'pwrite -q 0 100k' -c fsync $F"));
        run(&["pin"], &file).expect(0);
        let own = fs::read({
            let copy = scratch.path("record");
            sh(on(&file, &format!("getfattr --only-values -n {ENFORCED} $F >'{}'", copy.display())));
            copy
        })
        .unwrap();
        run(&["unpin"], &file).expect(0);
        let clean = flags(&file);
        let verbs = ["stat", "check", "verify", "pin", "unpin"];
        let put = |attribute: &str, value: &[u8]| {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            sh(on(&file, &format!("setfattr -n {attribute} -v 0x{hex} $F")));
        };
        for (name, record, decodes) in forgeries(&own) {
            assert!(record.len() <= 3072);
            for held in [false, true] {
                // A file that differs from its own record is never pinned, checked or overwritten; unpin ends its pin.
                let expected = match (decodes, held) {
                    (true, false) => ("not_held", [0, 1, 1, 1, 0]),
                    (true, true) => ("drifted", [0, 1, 1, 1, 0]),
                    (false, false) => ("bad_record", [0, 0, 2, 0, 0]),
                    (false, true) => ("bad_record", [0, 1, 2, 1, 1]),
                };
                put(ENFORCED, &record);
                if held {
                    sh(on(&file, "chattr +i $F"));
                }
                let state = report(&["stat"], &file, 0)["pin"]["state"].clone();
                assert_eq!(state, expected.0, "{name}");
                for (verb, status) in verbs.into_iter().zip(expected.1) {
                    if ["stat", "verify"].contains(&verb) {
                        run(&[verb, "-v"], &file).expect(status);
                    }
                    report(&[verb], &file, status);
                }
                if !decodes && held {
                    sh(on(&file, &format!("chattr -i $F; setfattr -x {ENFORCED} $F")));
                }
                assert_eq!((flags(&file), has_record(&file)), (clean.clone(), false), "{name}, held {held}");
            }
            // Where the file's owner may write, it can speak of no flag.
            let mine = altered(&record, &[(8, &[1]), (12, &[0; 4])], None);
            put(UNENFORCED, &mine);
            sh(on(&file, "chattr +i $F"));
            let before = inode(&file);
            for verb in verbs {
                let run = run(&[verb], &file);
                assert!(verb != "unpin" || run.status != 0, "{name}: {run}");
            }
            // Only here does a record of hold none say what to check.
            let pin = run(&["pin", "--as-recorded", "--hold", "none"], &file);
            assert!((0..=5).contains(&pin.status), "{name}: {pin}");
            assert_eq!(inode(&file), before, "{name}");
            sh(on(&file, "chattr -i $F"));
            run(&["unpin"], &file).expect(0);
            assert_eq!((flags(&file), has_record(&file)), (clean.clone(), false), "{name}");
        }
    });
}

/// Runs a verb, and gives the KiB of memory that it had at most.
fn measured(scratch: &Scratch, verb: &[&str], file: &Path) -> (Run, u64) {
    let peak = scratch.image().with_file_name("peak");
    let time = ["/usr/bin/time", "-o", peak.to_str().unwrap(), "-f", "%M"];
    assert!(Path::new(time[0]).exists(), "apt-get install time");
    let run = Daxfile::new(verb).arg(file).wrap(time).run();
    let said = fs::read_to_string(&peak).unwrap();
    (run, said.lines().last().unwrap().parse().unwrap())
}

/// A file of `extents` extents, each one block between holes: every verb handles it in at most `most` KiB of memory.
fn many_extents(kind: Kind, extents: u64, most: u64) {
    require(&["perl"]);
    let block = kind.block_size();
    let name = kind.name();
    let scratch = Scratch::with_size(kind, (600 * MIB).max(3 * extents * block));
    let file = scratch.path("file");
    const FILL: &str = r#"
        my ($name, $count, $block) = @ARGV; open my $file, ">", $name or die $!; my $data = "d" x $block;
        # What makes a file longer gets blocks in advance.
        truncate $file, 2 * $count * $block;
        for (0 .. $count - 1) { sysseek $file, 2 * $_ * $block, 0; syswrite($file, $data) == $block or die $! }"#;
    let made =
        finish(Command::new("perl").args(["-e", FILL]).arg(&file).args([extents.to_string(), block.to_string()]));
    assert!(made.status.success(), "{made:?}");
    sh(on(&file, "sync $F"));
    // Its own count is of pieces on the device.
    let found = sh(on(&file, "filefrag -v $F | grep -cE '^ *[0-9]+: '"));
    assert_eq!(found.trim(), extents.to_string());
    let before = checksum(&file);
    for (verb, status) in [
        (&["stat"][..], 0),
        (&["stat", "--extents"], 0),
        (&["stat", "--extents", "--json"], 0),
        (&["check"], 1),
        (&["check", "--allow", "hole"], 0),
        (&["prepare", "--dry-run"], 0),
        (&["pin", "--allow", "hole"], 0),
        (&["verify"], 0),
        (&["pin", "--allow", "hole"], 0),
        (&["unpin"], 0),
        (&["pin", "--allow", "hole", "--hold", "none"], 0),
        (&["verify"], 0),
    ] {
        let (run, peak) = measured(&scratch, verb, &file);
        assert_eq!(run.status, status, "{verb:?}: {}", run.stderr);
        assert!(peak <= most, "{verb:?}: {peak} KiB");
        eprintln!("{name}, {extents} extents: {}: at most {} MiB", verb.join(" "), peak.div_ceil(1024));
        if verb[0] == "pin" {
            assert_eq!(report(&["stat"], &file, 0)["map"]["extents"], extents);
            let attribute = if verb.contains(&"none") { UNENFORCED } else { ENFORCED };
            let bytes = sh(on(&file, &format!("getfattr --only-values -n {attribute} $F | wc -c")));
            assert!(bytes.trim().parse::<u64>().unwrap() <= 3072, "{bytes}");
        }
    }
    // One block of all of them, in the middle.
    let middle = extents / 2 * 2 * block;
    sh(on(&file, &format!("xfs_io -c 'fpunch {middle} {block}' -c fsync $F")));
    let moved = report(&["verify"], &file, 1);
    let change = &moved["changes"][0];
    let [logical, length] = ["logical", "length"].map(|key| change[key].as_u64().unwrap());
    assert!((logical..logical + length).contains(&middle), "{moved}");
    run(&["unpin"], &file).expect(0);
    assert_ne!(checksum(&file), before);
}

fn small_blocks() -> [Kind; 2] {
    [Xfs { block_size: 1024, ..Xfs::default() }.into(), Ext4 { block_size: 1024, ..Ext4::default() }.into()]
}

#[test]
fn verbs_handle_fifty_thousand_extents() {
    small_blocks().into_iter().for_each(|kind| many_extents(kind, 50_000, 64 << 10));
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn verbs_handle_a_million_extents() {
    small_blocks().into_iter().for_each(|kind| many_extents(kind, 1_000_000, 512 << 10));
}

/// A file of the largest possible size, nearly empty.
#[test]
fn verbs_handle_the_largest_sparse_file() {
    const ENOSPC: i32 = 28;
    let largest = [(Kind::xfs(), i64::MAX as u64), (Kind::ext4(), (16 << 40) - 4096)];
    for (kind, size) in largest {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        sh(on(&file, &format!("truncate -s {size} $F; ! truncate -s +4096 $F")));
        let free = scratch.free_blocks();
        assert_eq!(report(&["stat"], &file, 0)["file"]["size"], size);
        assert_eq!(report(&["stat", "--extents"], &file, 0)["map"]["hole"], size.next_multiple_of(4096));
        let blockers = report(&["check"], &file, 1)["blockers"].clone();
        assert_eq!((&blockers[0]["kind"], blockers.as_array().unwrap().len()), (&"hole".into(), 1), "{blockers}");
        report(&["check", "--align", "1G", "--max-extents", "1"], &file, 1);
        assert_eq!(report(&["verify"], &file, 1)["pin"]["state"], "unpinned");
        for verb in [&["prepare"][..], &["prepare", "--dry-run"]] {
            let refused = report(verb, &file, 2);
            assert_eq!(refused["error"]["errno"], ENOSPC, "{refused}");
            assert_eq!(refused["work"]["allocate"], size.next_multiple_of(4096), "{refused}");
            let said = run(verb, &file).expect(2);
            let needed = if size > 1 << 60 { "needs 8 EiB" } else { "needs 15.9 TiB" };
            assert!(said.stderr.contains(needed) && said.stderr.contains("MiB are free"), "{said}");
        }
        let refused = report(&["alloc", "-s", "9223372036854775807"], &scratch.path("new"), 2);
        assert_eq!(refused["error"]["errno"], ENOSPC, "{refused}");
        let said = run(&["alloc", "-s", "8EiB"], &scratch.path("new")).expect(2);
        assert!(said.stderr.contains("too large: above 8 EiB - 1"), "{said}");
        assert!(!scratch.path("new").exists());
        assert_eq!(scratch.free_blocks(), free);

        // Without any block; with the first and the last; with more than a record keeps whole.
        for blocks in [0, 2, 300] {
            sh(on(&file, &format!("truncate -s 0 $F; truncate -s {size} $F")));
            let step = (size / blocks.max(1)).next_multiple_of(4096);
            let mut commands: Vec<_> = (0..blocks).map(|n| format!("pwrite -q {} 4095", n * step)).collect();
            if blocks > 0 {
                commands.push(format!("pwrite -q {} 100", size - 100));
            }
            sh(on(&file, &format!("printf '{}\\n' | xfs_io $F; sync $F", commands.join("\\n"))));
            assert_eq!(fs::metadata(&file).unwrap().len(), size);
            for hold in ["frozen", "none"] {
                let pinned = report(&["pin", "--allow", "hole", "--hold", hold], &file, 0);
                assert_eq!(pinned["map"]["extents"], if blocks == 0 { 0 } else { blocks + 1 });
                report(&["verify"], &file, 0);
                run(&["unpin"], &file).expect(0);
            }
            if blocks == 0 {
                continue;
            }
            run(&["pin", "--allow", "hole", "--hold", "none"], &file).expect(0);
            let end = size / 4096 * 4096 - 8192;
            sh(on(&file, &format!("xfs_io -c 'pwrite -q {end} 4096' -c fsync $F")));
            let moved = report(&["verify"], &file, 1);
            let change = &moved["changes"][0];
            let [logical, length] = ["logical", "length"].map(|key| change[key].as_u64().unwrap());
            assert!(logical <= end && end < logical + length, "{moved}");
            assert!(logical.checked_add(length).is_some(), "{moved}");
            run(&["verify"], &file).expect(1);
            run(&["unpin"], &file).expect(0);
        }
    }
}

/// Two names of one file, given together and one after the other.
#[test]
fn two_names_of_one_file_have_one_pin() {
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let [one, other, link] = ["one", "other", "link"].map(|name| scratch.path(name));
        sh(on(&one, "xfs_io -f -c 'pwrite -q 0 100k' -c fsync $F"));
        fs::hard_link(&one, &other).unwrap();
        symlink(&one, &link).unwrap();
        let manifest = scratch.path("manifest");
        fs::write(&manifest, run(&["stat", "--json", "--extents"], &one).expect(0).stdout).unwrap();
        let clean = flags(&one);
        for hold in ["frozen", "none"] {
            run(&["pin", "--hold", hold], &one).expect(0);
            assert_eq!(report(&["pin", "--hold", hold], &other, 0)["action"], "already_pinned");
            for name in [&one, &other] {
                assert_eq!(report(&["stat"], name, 0)["pin"]["state"], "pinned");
                run(&["verify"], name).expect(0);
            }
            Daxfile::new(["verify", "--against"]).args([&manifest, &other]).run().expect(0);
            assert!(run(&["unpin"], &link).expect(2).stderr.contains("symbolic link"));
            assert_eq!(report(&["unpin"], &other, 0)["action"], "unpinned");
            assert_eq!((flags(&one), has_record(&one)), (clean.clone(), false));
            assert_eq!(report(&["unpin"], &one, 0)["action"], "already_unpinned");
        }
    }
}

/// The file's owner can write a record of hold `none`, and must not so keep root from holding the file.
#[test]
fn a_forged_record_of_hold_none_ends_no_enforced_pin() {
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = scratch.path("file");
        sh(on(&path, "xfs_io -f -c 'pwrite -q 0 64k' -c fsync $F; chown 65534 $F"));
        Daxfile::new(["pin", "--hold", "none"]).arg(&path).as_nobody().run().expect(0);
        for hold in [&[][..], &["--hold", "frozen"], &["--hold", "writable"]] {
            let again = Daxfile::new(["pin", "--as-recorded", "--json"]).args(hold).arg(&path).run().expect(1);
            let message = again.file()["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.contains("hold none") && message.contains("owner"), "{again}");
            assert!(!immutable(&path), "{again}");
        }
        // Where no hold is enforced, it is as good as any.
        assert_eq!(report(&["pin", "--as-recorded", "--hold", "none"], &path, 0)["action"], "already_pinned");
        run(&["unpin"], &path).expect(0);
        assert_eq!(report(&["pin", "--as-recorded"], &path, 0)["pin"]["hold"], "frozen");
        run(&["unpin"], &path).expect(0);
    }
}
