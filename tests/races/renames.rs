//! The name that the user gave leads to another file meanwhile; and root pins a file while its owner does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use daxfile_tests::child::spawn;
use daxfile_tests::generate::Random;
use daxfile_tests::tools::{checksum, on, require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, on_each, wait_until};

use super::pin_leases::{Held, calls, chosen, held_by, new_file};

/// What a verb says of a file that is no longer at its name.
const REPLACED: &str = "busy: another process moved, replaced or deleted the file of this name meanwhile; that file ";

/// After the last look at the name come the results, and the end of the program.
const LATE: usize = 40;

/// A file that a verb has something to do with, another name of it, and a file to put in its place.
fn three(scratch: &Scratch, verb: &[&str]) -> [PathBuf; 3] {
    let [file, old, new] = ["file", "old", "new"].map(|name| scratch.path(name));
    for path in [&file, &old, &new] {
        let _ = fs::remove_file(path);
    }
    new_file(scratch, "file");
    sh(on(&file, "xfs_io -c 'fpunch 16k 16k' -c fsync $F; touch -d '1 minute ago' $F; sync -f $F"));
    if verb[0] == "unpin" {
        Daxfile::new(["pin", "--hold", "none", "--allow", "hole"]).arg(&file).run().expect(0);
    }
    fs::hard_link(&file, &old).unwrap();
    new_file(scratch, "new");
    [file, old, new]
}

/// Replaces the file while the verb is stopped at a call. Returns whether that succeeded, and the result.
fn replace_at(scratch: &Scratch, verb: &[&str], call: usize) -> Option<(bool, Run)> {
    let [file, old, new] = three(scratch, verb);
    let before = checksum(&old);
    let other = checksum(&new);
    let Ok(held) = Held::at(call, &Daxfile::new(verb).arg(&file), scratch) else {
        Daxfile::new(["unpin"]).arg(&old).run().expect(0);
        return None;
    };
    let replaced = fs::rename(&new, &file).is_ok();
    let run = held.end();
    let context = format!("{verb:?} at call {call}, replaced: {replaced}: {run}");
    assert_eq!(checksum(&old), before, "{context}");
    if replaced {
        assert_eq!((checksum(&file), held_by(&file)), (other, String::new()), "{context}");
    }
    match (run.status, verb) {
        (0, ["pin", .., "none"]) => assert_eq!(held_by(&old), "user", "{context}"),
        (0, ["pin", ..]) => assert_eq!((replaced, held_by(&old).as_str()), (false, "i security"), "{context}"),
        (0, ["unpin"]) => assert_eq!(held_by(&old), "", "{context}"),
        (0, _) => {}
        (5, _) => {
            assert!(run.stderr.contains(REPLACED), "{context}");
            assert_eq!(held_by(&old), if verb == ["unpin"] { "user" } else { "" }, "{context}");
        }
        _ => panic!("{context}"),
    }
    Daxfile::new(["unpin"]).arg(&old).run().expect(0);
    Some((replaced, run))
}

/// Status 0 means that the file at the name is the one that the verb did its work on.
#[test]
fn verbs_notice_a_file_that_was_replaced_meanwhile() {
    require(&["xfs_io", "lsattr", "getfattr"]);
    on_each(Kind::xfs_and_ext4(), |kind| {
        let (scratch, mut random) = (Scratch::new(kind), Random::new("renames"));
        for verb in
            [&["pin", "--allow", "hole"][..], &["pin", "--allow", "hole", "--hold", "none"], &["prepare"], &["unpin"]]
        {
            let [file, ..] = three(&scratch, verb);
            let range = calls(&scratch, &Daxfile::new(verb).arg(&file), &file);
            Daxfile::new(["unpin"]).arg(&file).run().expect(0);
            let (mut noticed, mut unnoticed) = (0, range.1);
            for call in chosen(range, Some(24), &mut random) {
                match replace_at(&scratch, verb, call) {
                    Some((true, run)) if run.status == 5 => noticed += 1,
                    // unpin looks at the name first. What happens to it afterwards is another matter.
                    Some((true, _)) if verb != ["unpin"] => unnoticed = unnoticed.min(call),
                    _ => {}
                }
            }
            assert!(noticed > 0, "{verb:?}: never replaced before the last look");
            assert!(unnoticed + LATE >= range.1, "{verb:?}: not noticed at call {unnoticed} of {}", range.1);
        }
    });
}

/// `alloc` in a directory that another one replaces: the file is at its name, or there is none.
#[test]
fn alloc_notices_a_directory_that_was_replaced_meanwhile() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let (scratch, mut random) = (Scratch::new(kind), Random::new("renames"));
        let [dir, was, new] = ["dir", "was", "new"].map(|name| scratch.path(name));
        let alloc = Daxfile::new(["alloc", "-s", "64K"]).arg(dir.join("file"));
        fs::create_dir(&dir).unwrap();
        let range = calls(&scratch, &alloc, &dir);
        let mut noticed = 0;
        for call in chosen(range, Some(24), &mut random) {
            for path in [&dir, &was, &new] {
                let _ = fs::remove_dir_all(path);
            }
            fs::create_dir(&dir).unwrap();
            fs::create_dir(&new).unwrap();
            let Ok(held) = Held::at(call, &alloc, &scratch) else { continue };
            fs::rename(&dir, &was).unwrap();
            fs::rename(&new, &dir).unwrap();
            let run = held.end();
            let there = [&dir, &was].map(|dir| dir.join("file").exists());
            match run.status {
                0 => assert!(there == [true, false] || call + LATE >= range.1, "call {call}: {there:?}: {run}"),
                5 => {
                    assert!(run.stderr.contains("no file was made"), "{run}");
                    assert_eq!(there, [false; 2], "call {call}: {run}");
                    noticed += 1;
                }
                _ => panic!("call {call}: {run}"),
            }
        }
        assert!(noticed > 0, "never replaced before the last look");
    });
}

/// A program that keeps a file open for writing, and then replaces it by a new version, as many do.
#[test]
fn pin_stops_waiting_for_a_file_that_was_replaced() {
    require(&["xfs_io"]);
    let scratch = Scratch::new(Kind::xfs());
    for gone in [false, true] {
        let [file, old, new] = three(&scratch, &["pin"]);
        let writer = fs::File::options().write(true).open(&file).unwrap();
        let mut command = Daxfile::new(["pin", "--allow", "hole", "--wait", "90"]).arg(&file).command();
        let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let inside = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
        wait_until("it waits", || inside("wchan").contains("nanosleep"));
        match gone {
            true => fs::remove_file(&file).unwrap(),
            false => fs::rename(&new, &file).unwrap(),
        }
        let start = Instant::now();
        let out = child.wait_with_output().unwrap();
        assert!(start.elapsed() < Duration::from_secs(60), "it went on waiting");
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(5), "{stderr}");
        assert!(stderr.contains(REPLACED) && stderr.contains("that file is not pinned"), "{stderr}");
        drop(writer);
        assert_eq!(held_by(&old), "");
        assert!(gone || held_by(&file).is_empty());
    }
}

/// Root takes a lock that its owner cannot take, so that no reader of the file can hold root up. Here root begins when the
/// owner has its lock, stops at a call until the owner has ended, and goes on.
fn of_both(file: &Path, scratch: &Scratch, call: usize) -> (i32, i32) {
    new_file(scratch, "file");
    std::os::unix::fs::chown(file, Some(65534), None).unwrap();
    let slow = ["strace", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:delay_exit=600000:when=1"];
    let mut owner = Daxfile::new(["pin", "--hold", "none"]).arg(file).as_nobody().wrap(slow).command();
    let owner = spawn(owner.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let inode = format!(":{} ", file.metadata().unwrap().ino());
    wait_until("the owner has its lock", || fs::read_to_string("/proc/locks").unwrap().contains(&inode));
    let held = Held::at(call, &Daxfile::new(["pin"]).arg(file), scratch);
    let owner = owner.wait_with_output().unwrap();
    let owner_said = String::from_utf8_lossy(&owner.stderr);
    let root = held.map_or_else(|ended| ended, Held::end);
    let statuses = (root.status, owner.status.code().unwrap());
    let context = format!("call {call}: {root}, {owner_said}");
    let expected = match statuses {
        (0, 1 | 4 | 5) => "i security",
        (1 | 5, 0) => "user",
        // Each noticed the other.
        (5, 5) => "",
        _ => panic!("{context}"),
    };
    assert_eq!(held_by(file), expected, "{context}");
    statuses
}

#[test]
fn root_and_the_owner_never_both_pin_a_file() {
    require(&["lsattr", "getfattr", "setpriv", "strace"]);
    on_each(Kind::xfs_and_ext4(), |kind| {
        let (scratch, mut random) = (Scratch::new(kind), Random::new("renames"));
        let file = new_file(&scratch, "file");
        let range = calls(&scratch, &Daxfile::new(["pin"]).arg(&file), &file);
        let end = || {
            Daxfile::new(["unpin"]).arg(&file).run().expect(0);
            fs::remove_file(&file).unwrap();
        };
        end();
        let mut seen = std::collections::BTreeSet::new();
        for call in chosen(range, Some(20), &mut random) {
            seen.insert(of_both(&file, &scratch, call));
            end();
        }
        // Root saw the owner's record only at the end, or the owner came too late.
        assert!(seen.contains(&(5, 0)) && seen.iter().any(|(root, _)| *root == 0), "{seen:?}");

        // And at the same time.
        let mut both = [0; 2];
        for round in 0..40 {
            new_file(&scratch, "file");
            std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
            assert_eq!(file.metadata().unwrap().uid(), 65534);
            let children =
                [Daxfile::new(["pin"]), Daxfile::new(["pin", "--hold", "none"]).as_nobody()].map(|daxfile| {
                    let mut command = daxfile.arg(&file).command();
                    // The one or the other first.
                    let child = spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
                    sleep(Duration::from_millis(round / 4));
                    child
                });
            let statuses = children.map(|mut child| child.wait().unwrap().code().unwrap());
            assert!(statuses != [0, 0], "both pinned it: {}", held_by(&file));
            both[0] += usize::from(statuses[0] == 0);
            both[1] += usize::from(statuses[1] == 0);
            end();
        }
        eprintln!("{}: root {} times, the owner {} times", scratch.kind().name(), both[0], both[1]);
    });
}
