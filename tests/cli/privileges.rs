//! Privileges: an unprivileged user, a user with some capabilities, and a hostile one.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use daxfile_tests::child::{Killed, finish, spawn};
use daxfile_tests::tools::{filefrag, require, sh, sh_status, xflags};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, Xfs, notes, run, state};
use serde_json::Value;

const NOBODY: u32 = 65534;

fn daxfile_of_nobody(verb: &[&str], file: &Path) -> Run {
    Daxfile::new(verb).arg(file).as_nobody().run()
}

/// The one file of a report.
#[track_caller]
fn report(run: &Daxfile, status: i32) -> Value {
    run.clone().arg("--json").run().expect(status).file()
}

/// A bash script run by the user nobody, with "$1" set.
fn nobody(script: &str, argument: &Path) -> Output {
    require(&["setpriv"]);
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    setpriv.args(["--", "bash", "-euc", script, "bash"]).arg(argument).env("LC_ALL", "C.UTF-8");
    finish(setpriv.current_dir("/"))
}

#[track_caller]
fn nobody_can(script: &str, argument: &Path) {
    let out = nobody(script, argument);
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
}

/// It fails, and it is the kernel that refuses it.
#[track_caller]
fn nobody_cannot(script: &str, argument: &Path) {
    let out = nobody(script, argument);
    let stderr = String::from_utf8_lossy(&out.stderr);
    let refused = stderr.contains("Operation not permitted") || stderr.contains("Permission denied");
    assert!(!out.status.success() && refused, "{script}: {stderr}");
}

fn owned_by(owner: u32, path: &Path) {
    chown(path, Some(owner), Some(owner)).unwrap();
}

fn directory(path: PathBuf, owner: u32, mode: u32) -> PathBuf {
    fs::create_dir(&path).unwrap();
    owned_by(owner, &path);
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn file(path: PathBuf, owner: u32, mode: u32) -> PathBuf {
    fs::write(&path, vec![7; 100_000]).unwrap();
    owned_by(owner, &path);
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// Whether the kernel treats the file as immutable: not even root can open an immutable file for writing.
fn immutable(file: &Path) -> bool {
    match fs::OpenOptions::new().append(true).open(file) {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
        Err(error) => panic!("{}: {error}", file.display()),
    }
}

fn attributes(file: &Path) -> String {
    require(&["getfattr"]);
    sh(format!("getfattr --absolute-names -d -m - -e hex '{}'", file.display()))
}

/// Times change with every change of an inode, even if it is undone.
fn times(file: &Path) -> [(i64, i64); 2] {
    let metadata = fs::metadata(file).unwrap();
    [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())]
}

#[test]
fn unprivileged_user_allocates_and_records() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let own = directory(scratch.path("own"), NOBODY, 0o700);
        let path = own.join("file");
        let of_nobody = |verb: &[&str], status| report(&Daxfile::new(verb).arg(&path).as_nobody(), status);
        assert_eq!(of_nobody(&["alloc", "-s", "3MiB"], 0)["action"], "created");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.len()), (NOBODY, NOBODY, 3 << 20));
        assert_eq!(fs::read(&path).unwrap(), vec![0; 3 << 20]);
        let map = filefrag(&path);
        assert!(
            map.iter().all(|piece| !piece.unwritten) && map.iter().map(|piece| piece.length).sum::<u64>() == 3 << 20
        );
        of_nobody(&["alloc", "-s", "3MiB"], 2);

        of_nobody(&["check"], 0);
        of_nobody(&["check", "--hold", "none"], 0);
        of_nobody(&["verify"], 1);
        assert_eq!(of_nobody(&["pin", "--hold", "none", "--dry-run"], 0)["action"], "would_pin");
        assert_eq!(of_nobody(&["pin", "--hold", "none"], 0)["pin"]["state"], "pinned");
        assert_eq!(of_nobody(&["pin", "--hold", "none"], 0)["action"], "already_pinned");
        of_nobody(&["verify"], 0);
        run(&["verify"], &path).expect(0);
        assert_eq!(filefrag(&path), map);
        nobody_can("fallocate -p -o 1MiB -l 64KiB \"$1\"", &path);
        of_nobody(&["verify"], 1);
        assert_eq!(of_nobody(&["unpin"], 0)["action"], "unpinned");
        assert_eq!(of_nobody(&["unpin"], 0)["action"], "already_unpinned");
        assert!(!attributes(&path).contains("daxfile"));

        let not_permitted = |verb: &[&str], path: &Path| {
            let refused = report(&Daxfile::new(verb).arg(path).as_nobody(), 4);
            assert!(refused["error"]["errno"] == 13 || refused["error"]["errno"] == 1, "{refused}");
        };
        let roots = directory(scratch.path("roots"), 0, 0o755);
        not_permitted(&["alloc", "-s", "1MiB"], &roots.join("new"));
        assert_eq!(fs::read_dir(&roots).unwrap().count(), 0);
        let readable = file(roots.join("readable"), 0, 0o644);
        not_permitted(&["pin", "--hold", "none"], &readable);
        let unreadable = file(roots.join("unreadable"), 0, 0o600);
        for verb in [&["stat"][..], &["check"], &["verify"], &["pin"], &["pin", "--hold", "none"], &["unpin"]] {
            not_permitted(verb, &unreadable);
        }
        for path in [&readable, &unreadable] {
            assert!(!attributes(path).contains("daxfile"));
        }
        // Write access matters, not ownership.
        let writable = file(roots.join("writable"), 0, 0o666);
        for verb in [&["pin", "--hold", "none"][..], &["verify"], &["unpin"]] {
            daxfile_of_nobody(verb, &writable).expect(0);
        }
    }
}

#[test]
fn frozen_names_the_missing_capabilities() {
    let all = ["linux_immutable", "sys_admin", "fowner", "lease"];
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let own = file(scratch.path("own"), NOBODY, 0o644);
        let roots = file(scratch.path("roots"), 0, 0o644);
        // The documented needs on a caller's own file, and on other files; FSSETXATTR needs ownership or CAP_FOWNER.
        for (path, needed) in [(&own, &all[..2]), (&roots, &all[..])] {
            for chosen in 0..1 << all.len() {
                let has: Vec<&str> = (0..all.len()).filter(|n| chosen & 1 << n != 0).map(|n| all[n]).collect();
                let missing: Vec<&str> = needed.iter().copied().filter(|name| !has.contains(name)).collect();
                let before = (xflags(path), attributes(path), times(path));
                for dry_run in [&["pin", "--dry-run"][..], &["pin"]] {
                    if missing.is_empty() {
                        break;
                    }
                    let refused = report(&Daxfile::new(dry_run).arg(path).as_nobody_with(&has), 4);
                    let message = refused["error"]["message"].as_str().unwrap();
                    for name in all {
                        let named = message.contains(&format!("CAP_{}", name.to_uppercase()));
                        assert_eq!(named, missing.contains(&name), "with {has:?}: {message}");
                    }
                    assert!(refused["action"].is_null());
                }
                if missing.is_empty() {
                    let with = |verb: &str| report(&Daxfile::new([verb]).arg(path).as_nobody_with(&has), 0);
                    assert_eq!(with("pin")["pin"]["state"], "pinned", "with {has:?}");
                    assert!(immutable(path));
                    with("verify");
                    with("unpin");
                    assert!(!immutable(path));
                } else {
                    assert_eq!((xflags(path), attributes(path), times(path)), before, "with {has:?}");
                }
            }
        }
        // A capability that root lacks is named in the same way.
        for name in ["linux_immutable", "sys_admin", "lease"] {
            let without = [format!("--bounding-set=-{name}"), format!("--inh-caps=-{name}")];
            let without = ["setpriv", &without[0], &without[1], "--"];
            let refused = report(&Daxfile::new(["pin"]).arg(&own).wrap(without), 4);
            let message = refused["error"]["message"].as_str().unwrap();
            let named: Vec<_> =
                all.iter().filter(|name| message.contains(&format!("CAP_{}", name.to_uppercase()))).collect();
            assert_eq!(named, [&name], "{message}");
            // A blocker is still reported, and without any hold nothing is missing.
            run(&["check"], &own).expect(0);
            let none = Daxfile::new(["pin", "--hold", "none", "--dry-run"]).arg(&own).wrap(without);
            report(&none, 0);
        }
        assert_eq!(state(&own), "unpinned");
    }
}

/// The file stays held throughout: a flag that is cleared and set again lets a writer in between.
#[test]
fn forbidden_unpin_changes_nothing() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let own = file(scratch.path("own"), NOBODY, 0o644);
        let roots = file(scratch.path("roots"), 0, 0o644);
        for path in [&own, &roots] {
            run(&["pin"], path).expect(0);
            let before = (xflags(path), attributes(path), times(path));
            for has in [&[][..], &["linux_immutable"], &["sys_admin"], &["linux_immutable", "sys_admin"]] {
                if *path == own && has.len() == 2 {
                    continue;
                }
                let unpin = Daxfile::new(["unpin"]).arg(path).as_nobody_with(has);
                let refused = report(&unpin, 4);
                let message = refused["error"]["message"].as_str().unwrap();
                let mut missing = vec!["linux_immutable", "sys_admin"];
                if *path == roots {
                    missing.push("fowner");
                }
                for name in ["linux_immutable", "sys_admin", "fowner", "lease"] {
                    let named = message.contains(&format!("CAP_{}", name.to_uppercase()));
                    assert_eq!(named, missing.contains(&name) && !has.contains(&name), "with {has:?}: {message}");
                }
                assert_eq!((xflags(path), attributes(path), times(path)), before, "with {has:?}");
            }
            run(&["verify"], path).expect(0);
            run(&["unpin"], path).expect(0);
        }
    }
}

/// In a user namespace every user has every capability, but none of them matters here.
#[test]
fn userns_root_cannot_pin() {
    require(&["unshare"]);
    let scratch = Scratch::new(Kind::xfs());
    let own = file(scratch.path("own"), NOBODY, 0o644);
    let unshared = |verb: &[&str], status| {
        let run = Daxfile::new(verb).arg(&own).as_nobody().wrap(["unshare", "--user", "--map-root-user"]);
        report(&run, status)
    };
    let before = (xflags(&own), attributes(&own));
    let refused = unshared(&["pin"], 4);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("CAP_SYS_ADMIN") && message.contains("user namespace"), "{message}");
    assert!(!message.contains("unpin"), "nothing is to be undone: {message}");
    assert_eq!((xflags(&own), attributes(&own)), before);
    unshared(&["pin", "--hold", "none"], 0);
    unshared(&["verify"], 0);
    unshared(&["unpin"], 0);

    run(&["pin"], &own).expect(0);
    let before = (xflags(&own), attributes(&own), times(&own));
    unshared(&["verify"], 0);
    unshared(&["unpin"], 4);
    assert_eq!((xflags(&own), attributes(&own), times(&own)), before);
    run(&["unpin"], &own).expect(0);
}

/// Removes facts that only a privileged process sees, the sharers of blocks, and the note that only an unprivileged one
/// gets: that it lacks privileges.
fn unprivileged(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|name, _| name != "sharers" && name != "staging");
            if let Some(Value::Array(notes)) = fields.get_mut("notes") {
                notes.retain(|note| !note.as_str().unwrap().starts_with("pin would fail for this user"));
            }
            fields.values_mut().for_each(|value| *value = unprivileged(value.take()));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| *value = unprivileged(value.take())),
        _ => {}
    }
    value
}

#[test]
fn readable_file_gives_the_same_answers_as_to_root() {
    require(&["setfattr", "chattr"]);
    for kind in [Kind::xfs(), Xfs { rmapbt: true, ..Xfs::default() }.into(), Kind::ext4()] {
        let scratch = Scratch::new(kind.clone());
        let new = |name: &str, owner| file(scratch.path(name), owner, 0o644);
        let (mut files, mut states) = (Vec::new(), Vec::new());
        let mut is = |file: &Path, expected: &'static str| {
            files.push(file.to_owned());
            states.push(expected);
        };
        for (name, owner) in [("roots", 0), ("nobodys", NOBODY)] {
            let named = |what: &str| new(&format!("{what}, {name}"), owner);
            is(&named("plain"), "unpinned");
            let holed = named("holed");
            sh(format!("fallocate -p -o 16KiB -l 8KiB '{0}'; fallocate -o 200KiB -l 8KiB '{0}'", holed.display()));
            is(&holed, "unpinned");
            let frozen = named("frozen");
            run(&["pin"], &frozen).expect(0);
            is(&frozen, "pinned");
            let copy = named("foreign");
            sh(format!("cp -a --reflink=never '{}' '{}'", frozen.display(), copy.display()));
            is(&copy, "foreign_record");
            let none = named("none");
            run(&["pin", "--hold", "none"], &none).expect(0);
            is(&none, "pinned");
            let lifted = named("lifted");
            run(&["pin"], &lifted).expect(0);
            sh(format!("chattr -i '{}'", lifted.display()));
            is(&lifted, "not_held");
            let drifted = named("drifted");
            run(&["pin"], &drifted).expect(0);
            sh(format!("chattr -i '{0}'; echo more >>'{0}'; chattr +i '{0}'", drifted.display()));
            is(&drifted, "drifted");
            let immutable = named("immutable");
            sh(format!("chattr +i '{}'", immutable.display()));
            is(&immutable, "unpinned");
            for (what, value) in [("bad", "nonsense"), ("of another version", "0x64617866696c6502")] {
                let file = named(what);
                sh(format!("setfattr -n security.daxfile.pin -v {value} '{}'", file.display()));
                is(&file, "bad_record");
            }
            if kind.name() == "xfs" {
                let shared = named("shared since");
                run(&["pin"], &shared).expect(0);
                sh(format!(
                    "cp --reflink=always '{}' '{}'",
                    shared.display(),
                    scratch.path(format!("sharer, {name}")).display()
                ));
                is(&shared, "pinned");
            }
        }
        let all = |verb: &[&str]| Daxfile::new(verb).arg("--json").arg("--").clone();
        let manifest = Daxfile::new(["stat", "--json", "--extents"]);
        let manifest = files.iter().fold(manifest, Daxfile::arg).run().expect(0).stdout;
        let list = scratch.path("manifest");
        fs::write(&list, manifest).unwrap();
        let against = ["verify", "--against", list.to_str().unwrap()];
        let verbs: [&[&str]; 8] = [
            &["stat"],
            &["stat", "--extents"],
            &["check"],
            &["check", "--hold", "none", "--align", "1MiB"],
            &["check", "--allow", "hole,unwritten,shared", "--max-extents", "1"],
            &["verify"],
            &["verify", "--strict"],
            &against,
        ];
        for verb in verbs {
            let run = files.iter().fold(all(verb), Daxfile::arg);
            let (root, nobody) = (run.run(), run.as_nobody().run());
            assert_eq!(root.status, nobody.status, "{root}\n{nobody}");
            assert_eq!(unprivileged(root.json()), unprivileged(nobody.json()), "{verb:?}");
            if verb == ["stat"] {
                let found: Vec<Value> = nobody.json()["files"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|file| file["pin"]["state"].clone())
                    .collect();
                assert_eq!(found, states);
            }
        }
        // Text is the same, too.
        for verb in [&["stat"][..], &["check"], &["verify"]] {
            let run = files.iter().fold(Daxfile::new(verb), Daxfile::arg);
            let (root, nobody) = (run.run(), run.as_nobody().run());
            let own = |line: &&str| !line.starts_with("  note: pin would fail for this user: ");
            if kind.name() == "ext4" {
                assert!(root.text().lines().eq(nobody.text().lines().filter(own)), "{root}\n{nobody}");
            }
            assert_eq!(root.stderr, nobody.stderr);
        }
        let frozen = files.iter().fold(Daxfile::new(["unpin", "-q"]), Daxfile::arg);
        frozen.run();
    }
}

/// verify finds a writer inside by asking for a lease, which needs ownership or CAP_LEASE.
#[test]
fn writer_inside_is_visible_with_cap_lease() {
    // Only XFS keeps an earlier descriptor usable, but both keep it open for writing.
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        for (name, owner, seen) in [("own", NOBODY, 1), ("roots", 0, 0)] {
            let path = file(scratch.path(name), owner, 0o644);
            run(&["pin"], &path).expect(0);
            sh(format!("chattr -i '{}'", path.display()));
            let writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
            sh(format!("chattr +i '{}'", path.display()));
            let root = report(&Daxfile::new(["verify"]).arg(&path), 1);
            assert_eq!(root["pin"]["state"], "writer_inside");
            let nobody = report(&Daxfile::new(["verify"]).arg(&path).as_nobody(), seen);
            assert_eq!(nobody["pin"]["state"], if seen == 1 { "writer_inside" } else { "pinned" });
            report(&Daxfile::new(["verify"]).arg(&path).as_nobody_with(&["lease"]), 1);
            drop(writer);
            run(&["verify"], &path).expect(0);
            run(&["unpin"], &path).expect(0);
        }
    }
}

#[test]
fn the_owner_can_neither_forge_nor_remove_a_pin() {
    require(&["setfattr", "chattr", "fallocate", "xfs_io"]);
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let own = directory(scratch.path("own"), NOBODY, 0o700);
        let path = file(own.join("file"), NOBODY, 0o600);
        let other = file(own.join("other"), NOBODY, 0o600);
        run(&["pin"], &path).expect(0);
        let before = (xflags(&path), attributes(&path), times(&path), filefrag(&path));
        let forge = "setfattr -n security.daxfile.pin -v forged \"$1\"";
        for script in [
            forge,
            "setfattr -x security.daxfile.pin \"$1\"",
            "setfattr -n user.daxfile.pin -v forged \"$1\"",
            "chattr -i \"$1\"",
            "xfs_io -r -c 'chattr -i' \"$1\" 2>&1 >/dev/null | tee /dev/stderr | grep -v 'not permitted'",
            "echo more >> \"$1\"",
            "truncate -s 1 \"$1\"",
            "fallocate -p -o 0 -l 4096 \"$1\"",
            "chmod 0666 \"$1\"",
            "touch \"$1\"",
            "ln \"$1\" \"$1.link\"",
            "mv \"$1\" \"$1.moved\"",
            "mv -f \"${1%/*}/other\" \"$1\"",
            "rm -f \"$1\"",
        ] {
            nobody_cannot(script, &path);
        }
        daxfile_of_nobody(&["unpin"], &path).expect(4);
        daxfile_of_nobody(&["pin", "--hold", "none"], &path).expect(1);
        assert_eq!((xflags(&path), attributes(&path), times(&path), filefrag(&path)), before);
        daxfile_of_nobody(&["verify"], &path).expect(0);

        // The administrator lifts the flag by hand: the record is still not the owner's.
        sh(format!("chattr -i '{}'", path.display()));
        nobody_cannot(forge, &path);
        nobody_cannot("setfattr -x security.daxfile.pin \"$1\"", &path);
        daxfile_of_nobody(&["unpin"], &path).expect(4);
        let claim = "record=$(getfattr --absolute-names --only-values -n security.daxfile.pin \"$1\" | od -An -tx1 | tr -d ' \\n')
             setfattr -n user.daxfile.pin -v \"0x$record\" \"$1\"";
        nobody_can(claim, &path);
        assert_eq!(state(&path), "not_held");
        run(&["pin"], &path).expect(0);
        assert_eq!(state(&path), "pinned");
        run(&["unpin"], &path).expect(0);
        assert_eq!(state(&path), "unpinned");
        assert!(!attributes(&path).contains("daxfile"));

        // The owner cannot claim either that a file was frozen.
        nobody_cannot(forge, &other);
        nobody_can("setfattr -n user.daxfile.pin -v forged \"$1\"", &other);
        run(&["verify"], &other).expect(2);
        run(&["pin"], &other).expect(0);
        run(&["verify"], &other).expect(0);
        run(&["unpin"], &other).expect(0);
        assert_eq!(state(&other), "unpinned");
        // A copy by its owner has no record, because such a record cannot be copied.
        run(&["pin"], &other).expect(0);
        nobody_can("cp -a --reflink=never \"$1\" \"$1.copy\"", &other);
        assert_eq!(state(&own.join("other.copy")), "unpinned");
        run(&["unpin"], &other).expect(0);
    }
}

/// A record that root copied along can be removed only by root.
#[test]
fn owner_cannot_remove_a_foreign_record() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let (path, copy) = (file(scratch.path("file"), NOBODY, 0o644), scratch.path("copy"));
        run(&["pin"], &path).expect(0);
        sh(format!("cp -a --reflink=never '{}' '{}'", path.display(), copy.display()));
        run(&["unpin"], &path).expect(0);
        let before = attributes(&copy);
        for verb in [&["pin", "--hold", "none"][..], &["unpin"]] {
            let refused = report(&Daxfile::new(verb).arg(&copy).as_nobody(), 4);
            assert!(refused["error"]["message"].as_str().unwrap().contains("CAP_SYS_ADMIN"), "{refused}");
            assert_eq!(attributes(&copy), before, "{verb:?}");
        }
        // A record of hold none belongs to the file's owner: a user who copies it can also remove it.
        daxfile_of_nobody(&["pin", "--hold", "none"], &path).expect(0);
        let public = directory(scratch.path("public"), 0, 0o1777);
        nobody_can(&format!("cp -a --reflink=never \"$1\" '{}/copy'", public.display()), &path);
        let copy = public.join("copy");
        assert_eq!(state(&copy), "foreign_record");
        daxfile_of_nobody(&["pin", "--hold", "none"], &copy).expect(0);
        daxfile_of_nobody(&["verify"], &copy).expect(0);
        daxfile_of_nobody(&["unpin"], &copy).expect(0);
        daxfile_of_nobody(&["verify"], &path).expect(0);
    }
}

#[test]
fn plain_copy_by_another_user_is_noted() {
    for (kind, shares) in
        [(Kind::xfs(), true), (Xfs { reflink: false, ..Xfs::default() }.into(), false), (Kind::ext4(), false)]
    {
        let scratch = Scratch::new(kind);
        let path = file(scratch.path("file"), 0, 0o644);
        let public = directory(scratch.path("public"), 0, 0o1777);
        let quiet = |status| {
            let verified = report(&Daxfile::new(["verify"]).arg(&path), status);
            assert_eq!((notes(&verified), &verified["pin"]["shared_since"]), (String::new(), &0.into()));
            run(&["verify", "--strict"], &path).expect(0);
        };
        run(&["pin"], &path).expect(0);
        quiet(0);
        let map = filefrag(&path);
        nobody_can(&format!("cp \"$1\" '{}/copy'", public.display()), &path);
        assert_eq!(filefrag(&path).iter().all(|piece| piece.shared), shares);
        if shares {
            let verified = report(&Daxfile::new(["verify"]).arg(&path), 0);
            assert!(notes(&verified).contains("shared"), "{verified}");
            assert_eq!(verified["changes"], Value::Array(Vec::new()));
            assert_eq!(verified["pin"]["shared_since"], map.iter().map(|piece| piece.length).sum::<u64>());
            let strict = report(&Daxfile::new(["verify", "--strict"]).arg(&path), 1);
            assert_eq!(strict["pin"]["state"], "pinned");
            daxfile_of_nobody(&["verify"], &path).expect(0);
            daxfile_of_nobody(&["verify", "--strict"], &path).expect(1);
        } else {
            quiet(0);
        }
        nobody_can("rm \"$1/copy\"", &public);
        // XFS frees the blocks of a deleted file later.
        sh(format!("sync -f '{0}'; xfs_io -r -c fsync '{0}'", path.display()));
        assert_eq!(filefrag(&path), map);
        quiet(0);
        run(&["unpin"], &path).expect(0);
    }
}

#[test]
fn a_pin_holds_in_directories_of_others() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let theirs = directory(scratch.path("theirs"), NOBODY, 0o755);
        let public = directory(scratch.path("public"), 0, 0o1777);
        // The file's owner and its directory. Otherwise a directory's owner may remove every file in it.
        for (dir, owner) in [(&theirs, 0), (&theirs, NOBODY), (&public, NOBODY)] {
            let path = file(dir.join("file"), owner, 0o644);
            nobody_can("mv \"$1\" \"$1.moved\"; mv \"$1.moved\" \"$1\"", &path);
            run(&["pin"], &path).expect(0);
            nobody_cannot("mv \"$1\" \"$1.moved\"", &path);
            nobody_cannot("rm -f \"$1\"", &path);
            nobody_cannot("touch \"$1.new\"; mv -f \"$1.new\" \"$1\"", &path);
            run(&["verify"], &path).expect(0);
            daxfile_of_nobody(&["verify"], &path).expect(0);
            run(&["unpin"], &path).expect(0);
            nobody_can("rm -f \"$1\" \"$1.new\"", &path);
        }
        let new = public.join("new");
        Daxfile::new(["alloc", "-s", "1MiB"]).arg(&new).run().expect(0);
        assert_eq!(fs::metadata(&new).unwrap().uid(), 0);
        nobody_cannot("rm -f \"$1\"", &new);
    }
}

#[test]
fn all_names_of_a_file_are_pinned() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let own = directory(scratch.path("own"), NOBODY, 0o755);
        let path = file(own.join("file"), NOBODY, 0o644);
        nobody_can("ln \"$1\" \"$1.link\"", &path);
        let link = own.join("file.link");
        run(&["pin"], &path).expect(0);
        for name in [&path, &link] {
            assert_eq!(state(name), "pinned");
            run(&["verify"], name).expect(0);
            nobody_cannot("rm -f \"$1\"", name);
            nobody_cannot("ln \"$1\" \"$1.another\"", name);
        }
        assert_eq!(report(&Daxfile::new(["pin"]).arg(&link), 0)["action"], "already_pinned");
        run(&["unpin"], &link).expect(0);
        assert_eq!(state(&path), "unpinned");
        assert!(!immutable(&path));
    }
}

/// A name that alternates, as fast as possible, between a file of nobody and a symbolic link to one of root.
#[test]
fn link_in_place_of_a_file_is_refused() {
    require(&["perl", "setpriv"]);
    const SWAP: &str = r#"
        chdir shift or die; my $victim = shift; $| = 1; print "ready\n";
        while (1) {
            symlink($victim, "l"); rename("l", "path");
            link("file", "f"); rename("f", "path");
            unlink("l", "f");
        }"#;
    let scratch = Scratch::new(Kind::xfs());
    let victim = file(scratch.path("passwd"), 0, 0o644);
    let own = directory(scratch.path("own"), NOBODY, 0o755);
    let (theirs, path) = (file(own.join("file"), NOBODY, 0o644), own.join("path"));
    let before = (xflags(&victim), attributes(&victim), times(&victim));

    // A link that stays is refused by every verb, and says so.
    symlink(&victim, &path).unwrap();
    for verb in [&["pin"][..], &["pin", "--hold", "none"], &["unpin"], &["check"], &["stat"], &["verify"]] {
        assert!(run(verb, &path).expect(2).stderr.contains("symbolic link"));
    }
    owned_by(NOBODY, &own);
    let mut perl = Command::new("setpriv");
    perl.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    perl.args(["--", "perl", "-e", SWAP]).args([&own, &victim]);
    let mut attacker = Killed(spawn(perl.stdout(Stdio::piped())));
    io::Read::read_exact(attacker.0.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();

    let (mut pinned, mut refused) = (0, 0);
    for round in 0..200 {
        let hold = if round % 4 == 3 { "none" } else { "frozen" };
        let pin = run(&["pin", "--hold", hold], &path);
        assert!(!immutable(&victim), "{pin}");
        match pin.status {
            0 => pinned += 1,
            2 if pin.stderr.contains("symbolic link") => refused += 1,
            5 if pin.stderr.contains("the file of this name meanwhile") => refused += 1,
            _ => panic!("{pin}"),
        }
        let unpin = run(&["unpin"], &path);
        let moved = unpin.status == 5 && unpin.stderr.contains("the file of this name meanwhile");
        let refused = unpin.status == 2 && unpin.stderr.contains("symbolic link");
        assert!(unpin.status == 0 || refused || moved, "{unpin}");
        // Where the name was swapped after the pin, the file is still held by its other one.
        if unpin.status != 0 {
            run(&["unpin"], &theirs).expect(0);
        }
        assert!(!immutable(&theirs), "{unpin}");
    }
    assert!(attacker.0.try_wait().unwrap().is_none(), "nobody attacked");
    drop(attacker);
    assert!(pinned >= 10 && refused >= 10, "{pinned} pinned, {refused} refused: no race was run");
    assert_eq!((xflags(&victim), attributes(&victim), times(&victim)), before);
    assert_eq!(sh_status(format!("test -e '{}'", theirs.display())), 0);
}

/// A dry run asks for no capability that the unpin itself does without.
#[test]
fn unpin_dry_run_needs_the_privileges_of_unpin() {
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind.clone());
        let path = scratch.path("file");
        let give = |script: &str| {
            let path = path.display();
            sh(format!("xfs_io -f -c 'pwrite -q 0 64k' -c fsync '{path}'; chown 65534 '{path}'; {script}"));
        };
        let unreadable = || give(&format!("setfattr -n security.daxfile.pin -v junk '{}'", path.display()));
        let not_held = || {
            give("");
            run(&["pin"], &path).expect(0);
            sh(format!("chattr -i '{}'", path.display()));
        };
        for prepare in [&unreadable as &dyn Fn(), &not_held] {
            prepare();
            let unpin = |flags: &[&str]| Daxfile::new(["unpin"]).args(flags).arg(&path).as_nobody_with(&["sys_admin"]);
            assert_eq!(report(&unpin(&["--dry-run"]), 0)["action"], "would_unpin", "{kind:?}");
            assert_eq!(report(&unpin(&[]), 0)["action"], "unpinned", "{kind:?}");
        }
        // A file that is held needs more, and both say so.
        run(&["pin"], &path).expect(0);
        for flags in [&["--dry-run"][..], &[]] {
            let unpin = Daxfile::new(["unpin"]).args(flags).arg(&path).as_nobody_with(&["sys_admin"]);
            assert!(unpin.run().expect(4).stderr.contains("CAP_LINUX_IMMUTABLE"), "{kind:?}");
        }
        run(&["unpin"], &path).expect(0);
    }
}

/// Advice that a caller cannot follow is none.
#[test]
fn advice_to_an_unprivileged_caller_needs_no_privileges() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    fs::write(&file, "contents").unwrap();
    owned_by(NOBODY, &file);
    sh(format!("sync '{}'", file.display()));
    for verb in [&["pin", "--hold", "writable", "--dry-run"][..], &["pin", "--hold", "writable"]] {
        let refused = daxfile_of_nobody(verb, &file).expect(4);
        assert!(refused.stderr.contains("--hold none records the map with write access alone"), "{refused}");
        assert!(!refused.stderr.contains("--hold frozen"), "{refused}");
    }
    daxfile_of_nobody(&["pin", "--hold", "none"], &file).expect(0);
}
