//! Properties that all verbs share: one table of verbs, and cases that each row inherits.
//!
//! A new verb is one row of [`VERBS`]; `the_table_has_every_verb` fails until it is there.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use daxfile_tests::child::{Killed, spawn};
use daxfile_tests::tools::{checksum, filefrag, require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{major, minor};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// One row of the table.
struct Verb {
    name: &'static str,
    /// Required arguments, before the files
    options: &'static [&'static str],
    /// Makes the file on which it succeeds and, if it changes anything, has something to do; [`None`] if itself makes
    /// it
    subject: Option<fn(&Path)>,
    /// It takes one file, and prints input for another program: no name
    single: bool,
    /// The subject is pinned, where that can be
    pinned: bool,
    /// It has `--dry-run`
    changes: bool,
    /// It keeps other `daxfile`s off the file
    locks: bool,
    /// Its answers that differ from [`Done`]
    answers: &'static [(Place, Answer)],
}

/// Where the subject is, or whose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Tmpfs,
    Btrfs,
    ReadOnly,
    FullDisk,
    /// Owned by root, readable by the unprivileged caller
    Others,
    /// Owned by the unprivileged caller
    Own,
}

use Answer::{Done, Error, No};
use Place::{Btrfs, FullDisk, Others, Own, ReadOnly, Tmpfs};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// Status 0, nothing on standard error
    Done,
    /// This status and this text on standard output
    No(i32, &'static str),
    /// This status and one line on standard error that names verb and file and has this text
    Error(i32, &'static str),
}

const NO_EXTENTS: Answer = Error(3, ": Operation not supported: tmpfs");
const NO_HOLD: Answer = No(3, "unsupported filesystem: ");

/// The defaults of a row: the verb takes files, and changes nothing.
const ANY: Verb = Verb {
    name: "",
    options: &[],
    subject: Some(write),
    single: false,
    pinned: false,
    changes: false,
    locks: false,
    answers: &[],
};

const VERBS: [Verb; 8] = [
    Verb {
        name: "alloc",
        options: &["--size", "256K"],
        subject: None,
        changes: true,
        answers: &[
            (Tmpfs, Error(3, "no hold is available on tmpfs")),
            (Btrfs, Error(3, "no hold is available on btrfs")),
            (ReadOnly, Error(3, "Read-only file system")),
            (FullDisk, Error(2, ": No space left on device")),
            (Others, Error(4, "Permission denied")),
        ],
        ..ANY
    },
    Verb {
        name: "check",
        answers: &[(Tmpfs, NO_HOLD), (Btrfs, NO_HOLD), (ReadOnly, Error(3, "Read-only file system"))],
        ..ANY
    },
    Verb {
        name: "prepare",
        subject: Some(write_sparse),
        changes: true,
        locks: true,
        answers: &[
            (Tmpfs, NO_HOLD),
            (Btrfs, NO_HOLD),
            (ReadOnly, Error(3, "Read-only file system")),
            (FullDisk, Error(2, "No space left on device")),
            (Others, Error(4, "Permission denied")),
        ],
        ..ANY
    },
    Verb {
        name: "pin",
        changes: true,
        locks: true,
        answers: &[
            (Tmpfs, NO_HOLD),
            (Btrfs, NO_HOLD),
            (ReadOnly, Error(3, "Read-only file system")),
            (FullDisk, Error(2, "No space left on device (fsetxattr)")),
            (Others, Error(4, "CAP_LINUX_IMMUTABLE")),
            (Own, Error(4, "CAP_LINUX_IMMUTABLE")),
        ],
        ..ANY
    },
    Verb {
        name: "map",
        options: &["--format", "dmsetup"],
        single: true,
        pinned: true,
        answers: &[
            (Tmpfs, Error(3, "the map cannot be relied on with tmpfs")),
            (Btrfs, Error(3, "the map cannot be relied on with btrfs")),
        ],
        ..ANY
    },
    Verb {
        name: "unpin",
        pinned: true,
        changes: true,
        locks: true,
        answers: &[
            (ReadOnly, Error(3, "Read-only file system")),
            (Others, Error(4, "CAP_LINUX_IMMUTABLE")),
            (Own, Error(4, "CAP_LINUX_IMMUTABLE")),
        ],
        ..ANY
    },
    Verb { name: "stat", answers: &[(Tmpfs, NO_EXTENTS)], ..ANY },
    Verb { name: "verify", pinned: true, answers: &[(Tmpfs, NO_EXTENTS), (Btrfs, No(1, "not pinned"))], ..ANY },
];

impl Verb {
    /// `daxfile VERB OPTIONS FLAGS -- FILES`, ended if it hangs.
    fn call<S: AsRef<OsStr>>(&self, flags: &[&str], files: &[S]) -> Daxfile {
        let words = [&[self.name], self.options, flags, &["--"]].concat();
        let call = Daxfile::new(words).wrap(["timeout", "--kill-after=1", "60"]);
        files.iter().fold(call, Daxfile::arg)
    }

    fn many(&self) -> bool {
        self.subject.is_some() && !self.single
    }

    /// The answer for a name that leads to no file. verify, unlike other verbs, answers whether a file is there.
    fn gone(&self, call: &'static str) -> Answer {
        if self.name == "verify" { No(1, ": gone") } else { Error(2, call) }
    }

    fn answer(&self, place: Place) -> Answer {
        self.answers.iter().find(|(at, _)| *at == place).map_or(Done, |(_, answer)| *answer)
    }

    /// Puts its subject there, and replaces any file of that name.
    #[track_caller]
    fn put_subject(&self, path: &Path) {
        self.put_subject_with(path, || ());
    }

    /// The same, with something that must come before it is pinned.
    #[track_caller]
    fn put_subject_with(&self, path: &Path, before_pin: impl Fn()) {
        remove(path);
        let Some(make) = self.subject else { return };
        make(path);
        before_pin();
        if self.pinned {
            Daxfile::new(["pin", "--"]).arg(path).run().expect(0);
        }
    }
}

const EXTENTS: u32 = 16;

/// The verbs that take several files, and thus lists.
fn listing() -> impl Iterator<Item = &'static Verb> {
    VERBS.iter().filter(|verb| verb.many())
}

/// A written file of [`EXTENTS`] extents, whose record therefore does not fit in its inode.
#[track_caller]
fn write(path: &Path) {
    const PIECE: u32 = 65536;
    require(&["xfs_io"]);
    // The extents beside a removed range join logically, but not physically.
    let cuts = (1..EXTENTS).map(|extent| format!("-c 'fcollapse {} {PIECE}' ", extent * PIECE)).collect::<String>();
    // Never open for writing here: children that other threads fork would have it open as well, and pin finds it busy.
    sh(format!(
        "xfs_io -f -c 'pwrite -q -S 0xa5 0 {}' {cuts} -c 'truncate {}' -c fsync {path}; chmod 644 {path}",
        2 * EXTENTS * PIECE,
        EXTENTS * PIECE,
        path = quoted(path)
    ));
}

/// The same with a hole and with blocks that were never written.
#[track_caller]
fn write_sparse(path: &Path) {
    write(path);
    sh(format!("xfs_io -c 'fpunch 128k 64k' -c 'fpunch 256k 64k' -c 'falloc 256k 64k' -c fsync {}", quoted(path)));
}

/// Removes a file, pinned or not.
fn remove(path: &Path) {
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        Daxfile::new(["unpin", "--"]).arg(path).run().expect(0);
        fs::remove_file(path).unwrap();
    }
}

/// Everything about this name that no refused verb may change; the time of the last access is left out.
#[track_caller]
fn snapshot(path: &Path) -> String {
    let Ok(m) = path.symlink_metadata() else { return "absent".into() };
    let kind = format!("inode {} mode {:o} links {} owner {}:{}", m.ino(), m.mode(), m.nlink(), m.uid(), m.gid());
    let mtime = format!("mtime {}.{:09}", m.mtime(), m.mtime_nsec());
    let ctime = format!("ctime {}.{:09}", m.ctime(), m.ctime_nsec());
    let mut all = format!("{kind} size {} blocks {} {mtime} {ctime}", m.size(), m.blocks());
    if m.is_file() {
        all += &format!("\n{}{}", checksum(path), marks(path));
    }
    if m.is_file() && !path.starts_with("/dev/shm") {
        all += &format!("{:?}", filefrag(path));
    }
    all
}

/// Extended attributes and inode flags.
#[track_caller]
fn marks(path: &Path) -> String {
    require(&["getfattr", "lsattr", "xfs_io"]);
    let path = quoted(path);
    sh(format!(
        "getfattr --absolute-names -d -m - -e hex -- {path}
         lsattr -v -- {path} 2>/dev/null || :
         xfs_io -r -c lsattr {path} 2>/dev/null || :"
    ))
}

/// A name as bash reads it.
fn quoted(path: impl AsRef<OsStr>) -> String {
    let octal = path.as_ref().as_bytes().iter().map(|byte| format!("\\{byte:03o}"));
    format!("$'{}'", octal.collect::<String>())
}

/// Names in a directory, in order.
fn names(dir: &Path) -> Vec<OsString> {
    if !dir.is_dir() {
        return Vec::new();
    }
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Runs the call and checks the properties of every run.
#[track_caller]
fn run(call: &Daxfile) -> Run {
    let run = call.run();
    assert!((0..=5).contains(&run.status), "an undocumented status: {run}");
    assert!(!run.stderr.contains("panicked"), "{run}");
    for text in [&*String::from_utf8_lossy(&run.stdout), &run.stderr] {
        // JSON is for programs: it escapes the characters that JSON requires, and no others.
        let json = text.starts_with('{');
        let steers = |c: char| c != '\n' && if json { c < ' ' } else { c.is_control() || c == '\u{202e}' };
        assert!(!text.contains(steers), "this could steer a terminal: {run}");
    }
    run
}

/// Checks the properties of every report, for these files.
#[track_caller]
fn report<S: AsRef<OsStr>>(verb: &Verb, run: &Run, files: &[S]) -> Value {
    let report = run.json();
    assert_eq!(report["schema_version"], 1, "{run}");
    assert_eq!(report["exit_status"], run.status, "{run}");
    let entries = report["files"].as_array().unwrap_or_else(|| panic!("no files: {run}"));
    let paths: Vec<_> = entries.iter().map(|entry| entry["path"].clone()).collect();
    assert_eq!(paths, files.iter().map(|file| json_path(file.as_ref())).collect::<Vec<_>>(), "{run}");
    let worst = entries.iter().map(|entry| entry["exit_status"].as_i64().expect("a status")).max();
    assert_eq!(worst, Some(run.status.into()), "{run}");
    let errors: Vec<_> = entries.iter().filter(|entry| !entry["error"].is_null()).collect();
    assert_eq!(run.stderr.lines().count(), errors.len(), "one line an error: {run}");
    for (line, entry) in run.stderr.lines().zip(errors) {
        let error = &entry["error"];
        let message = error["message"].as_str().expect("a message");
        assert_ne!(entry["exit_status"], 0, "{run}");
        // An error that daxfile foresees has an errno, and no call.
        assert!(error["call"].is_null() || error["errno"].is_u64(), "{run}");
        let names_it = |call: &str| message.contains(&format!("({call})")) || message.starts_with("busy: ");
        assert!(error["call"].as_str().is_none_or(names_it), "{run}");
        assert!(line.starts_with(&format!("daxfile {}: ", verb.name)) && line.ends_with(message), "{run}");
    }
    report
}

fn json_path(path: &OsStr) -> Value {
    match path.to_str() {
        Some(text) => json!(text),
        None => json!({ "bytes": sh(format!("printf %s {} | base64 -w0", quoted(path))) }),
    }
}

/// Has a verb do one file: as text, quietly, and as JSON. `prepare` comes before each, `call` turns it as is needed.
#[track_caller]
fn ask(verb: &Verb, file: &OsStr, answer: Answer, prepare: impl Fn(), call: impl Fn(Daxfile) -> Daxfile) {
    for flags in [&[][..], &["--quiet"], &["-qq"], &["--json"]] {
        prepare();
        let run = run(&call(verb.call(flags, &[file])));
        let (status, on_stdout, on_stderr) = match answer {
            Done => (0, None, None),
            No(status, text) => (status, Some(text), None),
            Error(status, text) => (status, None, Some(text)),
        };
        assert_eq!(run.status, status, "expected {answer:?}: {run}");
        match on_stderr.filter(|_| flags != ["-qq"]) {
            None => assert_eq!(run.stderr, "", "{run}"),
            Some(text) => {
                assert_eq!(run.stderr.lines().count(), 1, "{run}");
                let line = format!("daxfile {}: ", verb.name);
                assert!(run.stderr.starts_with(&line) && run.stderr.contains(text), "expected {answer:?}: {run}");
            }
        }
        match flags {
            ["-qq"] => assert!(run.stdout.is_empty(), "{run}"),
            ["--quiet"] => assert!(run.stdout.is_empty() || status != 0, "{run}"),
            ["--json"] => drop(report(verb, &run, &[file])),
            _ if status == 0 => assert!(run.text().ends_with('\n'), "{run}"),
            _ => {}
        }
        if let (Some(text), [] | ["--quiet"]) = (on_stdout, flags) {
            assert!(run.text().contains(text), "expected {answer:?}: {run}");
        }
    }
}

/// The same for a file that the verb must refuse and leave unchanged.
#[track_caller]
fn refused(verb: &Verb, path: &Path, answer: Answer) {
    let dir = path.parent().unwrap();
    let before = (snapshot(path), names(dir));
    ask(verb, path.as_os_str(), answer, || (), |call| call);
    assert_eq!((snapshot(path), names(dir)), before, "{} changed it", verb.name);
}

/// Refused before any file is examined.
/// The reason why no file was processed, in JSON.
#[track_caller]
fn no_file(call: &Daxfile) -> String {
    let ended = run(call).expect(2);
    let report = ended.json();
    assert_eq!((&report["files"], &report["exit_status"]), (&json!([]), &json!(2)), "{ended}");
    assert!(ended.stderr.ends_with(&format!(": {}\n", report["error"]["message"].as_str().unwrap())), "{ended}");
    report["error"]["message"].as_str().unwrap().to_owned()
}

#[track_caller]
fn usage(call: &Daxfile, text: &str) {
    let run = run(call);
    assert_eq!(run.status, 2, "{run}");
    assert!(run.stdout.is_empty() && run.stderr.contains(text), "expected {text}: {run}");
}

#[test]
fn the_table_has_every_verb() {
    let help = run(&Daxfile::new(["--help"])).expect(0);
    let commands = help.text().split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let lines = commands.lines().filter_map(|line| line.strip_prefix("  "));
    let mut listed: Vec<_> = lines.filter_map(|line| line.split(' ').next()).collect();
    // The rest of a wrapped line begins with blanks.
    // These verbs act on no named file; they have modules of their own.
    listed.retain(|name| !["", "help", "probe", "completions", "list", "man"].contains(name));
    let mut rows: Vec<_> = VERBS.iter().map(|verb| verb.name).collect();
    listed.sort_unstable();
    rows.sort_unstable();
    assert_eq!(rows, listed);
    for verb in &VERBS {
        let help = run(&Daxfile::new([verb.name, "--help"])).expect(0);
        assert_eq!(help.text().contains("--dry-run"), verb.changes, "{help}");
        assert_eq!(help.text().contains("--files-from"), verb.many(), "{help}");
    }
}

#[test]
fn usage_errors_exit_with_2() {
    usage(&Daxfile::new([""; 0]), "Usage: daxfile");
    usage(&Daxfile::new(["no-such-verb"]), "no-such-verb");
    usage(&Daxfile::new(["no-such-verb\x1b[31m"]), "no-such-verb");
    usage(&Daxfile::new(["--no-such-option"]), "--no-such-option");
    for verb in &VERBS {
        let with = |args: &[&str]| Daxfile::new([verb.name].iter().chain(verb.options).chain(args));
        usage(&with(&[]), if verb.many() { "no files named" } else { "<FILE>" });
        usage(&with(&["--no-such-option", "/none"]), "--no-such-option");
        usage(&with(&["-Z", "/none"]), "-Z");
        usage(&with(&["--quiet", "--verbose", "/none"]), "--verbose");
        usage(&with(&["--color", "pink", "/none"]), "pink");
        usage(&with(&["--json=yes", "/none"]), "--json");
        usage(&with(&[""]), "value is required");
        if verb.many() {
            usage(&with(&["-0", "/none"]), "--files-from");
        }
        if verb.changes {
            usage(&with(&["--dry-run", "--dry-run", "/none"]), "--dry-run");
        }
    }
}

#[test]
fn every_verb_prints_help_and_version() {
    for option in ["-h", "--help", "-V", "--version"] {
        let mut calls = vec![Daxfile::new([option])];
        calls.extend(VERBS.iter().map(|verb| Daxfile::new([verb.name, option])));
        calls.extend(VERBS.iter().map(|verb| Daxfile::new([verb.name, "--json", "/none", option])));
        for call in calls {
            let run = run(&call).expect(0);
            assert_eq!(run.stderr, "", "{run}");
            if option.to_lowercase().contains('h') {
                assert!(run.text().contains("Usage: daxfile"), "{run}");
            } else {
                assert!(run.text().starts_with("daxfile"), "{run}");
                // The tests have a build with the guard.
                let version = format!(" {} (features: guard)\n", env!("CARGO_PKG_VERSION"));
                assert!(run.text().ends_with(&version), "{run}");
            }
        }
    }
}

#[test]
fn invalid_sizes_are_refused() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    let before = names(scratch.mount_point());
    for size in ["", "1X", "-1", "1.5", "1KiBB", "0x", "08", "8E", "99999999999P", "9223372036854775808", "1 M", "M"] {
        usage(&Daxfile::new(["alloc", &format!("--size={size}")]).arg(&file), "--size");
        for verb in ["check", "pin"] {
            usage(&Daxfile::new([verb, &format!("--align={size}")]).arg(&file), "--align");
        }
    }
    for align in ["0", "3K", "256"] {
        usage(&Daxfile::new(["alloc", "-s1M", "--align", align]).arg(&file), "power of two");
    }
    usage(&Daxfile::new(["check", "--max-extents", "0"]).arg(&file), "--max-extents");
    Daxfile::new(["alloc", "--size", "0"]).arg(&file).run().expect(2);
    assert_eq!(names(scratch.mount_point()), before);
}

#[test]
fn other_file_types_are_refused() {
    let scratch = Scratch::new(Kind::xfs());
    let path = |name: &str| scratch.path(name);
    fs::create_dir(path("dir")).unwrap();
    write(&path("file"));
    let at = scratch.mount_point().display().to_string();
    sh(format!("cd {at}; mkfifo fifo; mknod char c 1 5; mknod block b 7 250; mknod nothing c 250 250"));
    let _socket = UnixListener::bind(path("socket")).unwrap();
    symlink("file", path("link")).unwrap();
    symlink("none", path("dangling")).unwrap();
    symlink("loop", path("loop")).unwrap();

    let cases = |nodev| {
        for verb in &VERBS {
            let new = verb.subject.is_none();
            let answer = |existing| if new { Error(2, ": File exists: alloc never touches") } else { existing };
            for name in ["fifo", "char", "block", "nothing", "socket"] {
                refused(verb, &path(name), answer(Error(2, ": not a regular file")));
            }
            if nodev {
                continue;
            }
            refused(verb, &path("dir"), answer(Error(2, "a directory, not a regular file")));
            if verb.many() {
                refused(verb, &path("dir"), Error(2, "/dir -type f -print0 | daxfile "));
            }
            for name in ["link", "dangling", "loop"] {
                refused(verb, &path(name), answer(Error(2, ": a symbolic link (not followed)")));
            }
            refused(verb, &path("file/below"), verb.gone("Not a directory (open)"));
            refused(verb, &path("none/below"), verb.gone("No such file or directory (open)"));
            refused(verb, &path("loop/below"), Error(2, "Too many levels of symbolic links (open)"));
            refused(verb, &path("x".repeat(256).as_str()), Error(2, ": File name too long"));
            let slash = format!("{at}/none/");
            let before = names(scratch.mount_point());
            let answer = if new {
                Error(2, "the path does not end with a file name")
            } else {
                verb.gone("No such file or directory (open)")
            };
            ask(verb, slash.as_ref(), answer, || (), |call| call);
            ask(verb, (slash + ".").as_ref(), answer, || (), |call| call);
            assert_eq!(names(scratch.mount_point()), before);
            if !new {
                refused(verb, &path("none"), verb.gone("No such file or directory (open)"));
                ask(verb, format!("{at}/file/").as_ref(), verb.gone("Not a directory (open)"), || (), |call| call);
            }
        }
    };
    cases(false);
    // Where devices cannot be opened, they are still no regular files.
    sh(format!("mount -o remount,nodev {at}"));
    cases(true);
}

/// Opening a FIFO lets the writer on its other end continue, and closing the FIFO again loses the written data.
#[test]
fn a_fifo_keeps_its_writer_and_its_data() {
    let scratch = Scratch::new(Kind::ext4());
    let fifo = scratch.path("fifo");
    sh(format!("mkfifo {}", quoted(&fifo)));
    let mut writer = spawn(Command::new("bash").args(["-c", "echo hello >\"$0\""]).arg(&fifo));
    let stat = format!("/proc/{}/stat", writer.id());
    wait_until("the writer waits", || fs::read_to_string(&stat).unwrap().contains(" S "));
    for verb in &VERBS {
        run(&verb.call(&[], &[&fifo])).expect(2);
    }
    assert_eq!(sh(format!("timeout 10 cat {}", quoted(&fifo))), "hello\n");
    assert!(writer.wait().unwrap().success());
}

/// Names, and a fragment of each that stays unchanged.
const NAMES: [(&[u8], &str); 9] = [
    (b"-name", "-name"),
    (b"--json", "--json"),
    (b"# not a comment", "# not a comment"),
    (b"two  words 'and\" $(false) `quotes` \\", "two  words"),
    (b" blanks ", " blanks "),
    (b"first\nsecond", "second"),
    (b"\x1b[31mred\x07\x7f\t", "red"),
    (b"latin-1 caf\xe9 \xff\xfe7", "latin-1"),
    ("right-to-left \u{202e}gnp caf\u{e9}".as_bytes(), "right-to-left"),
];

#[test]
fn odd_file_names_are_handled_and_escaped() {
    let scratch = Scratch::new(Kind::xfs());
    let dir = scratch.mount_point();
    for (name, fragment) in NAMES {
        let name = OsStr::from_bytes(name);
        for verb in &VERBS {
            let here = |call: Daxfile| call.dir(dir);
            ask(verb, name, Done, || verb.put_subject(&dir.join(name)), here);
            verb.put_subject(&dir.join(name));
            let done = run(&verb.call(&["--verbose"], &[name]).dir(dir)).expect(0);
            assert!(verb.single || done.text().lines().any(|line| line.contains(fragment)), "{done}");

            remove(&dir.join(name));
            if verb.subject.is_some() {
                ask(verb, name, verb.gone(fragment), || (), here);
            } else {
                fs::create_dir(dir.join(name)).unwrap();
                ask(verb, name, Error(2, fragment), || (), here);
                fs::remove_dir(dir.join(name)).unwrap();
            }
        }
    }
    assert!(names(dir).is_empty());
}

/// A remedy for a file can be typed as it is, for every file name.
#[test]
fn remedies_name_the_file() {
    let scratch = Scratch::new(Kind::ext4());
    let dir = scratch.mount_point();
    for (name, _) in NAMES {
        let name = OsStr::from_bytes(name);
        let file = dir.join(name);
        let check = || run(&Daxfile::new(["check", "--json", "--"]).arg(name).dir(dir)).json();
        for spoil in ["chattr +i", "chattr +a", "fallocate -n -o 2M -l 64K", "truncate -s 2M"] {
            write(&file);
            sh(format!("{spoil} {}", quoted(&file)));
            let answer = check();
            assert_eq!(answer["exit_status"], 1, "{answer}");
            let remedy = answer["files"][0]["blockers"][0]["remedy"].as_str().unwrap().to_owned();
            Daxfile::new([remedy])
                .wrap(["bash", "-c", "PATH=${1%/*}:$PATH; eval \"$2\"", "bash"])
                .dir(dir)
                .run()
                .expect(0);
            let answer = check();
            assert_eq!(answer["exit_status"], 0, "{answer}");
            fs::remove_file(&file).unwrap();
        }
    }
}

#[test]
fn lists_of_files() {
    let scratch = Scratch::new(Kind::ext4());
    let dir = scratch.mount_point();
    let list = tempfile::NamedTempFile::new().unwrap();
    let path = list.path().to_str().unwrap();
    for verb in listing() {
        let from = |flags: &[&str], input: &[u8]| {
            fs::write(list.path(), input).unwrap();
            let stdin = verb.call(&[flags, &["--files-from", "-"]].concat(), &[""; 0]).stdin(input).dir(dir);
            (stdin, verb.call(&[flags, &["--files-from", path]].concat(), &[""; 0]).dir(dir))
        };
        for (flags, input) in
            [(&[][..], &b""[..]), (&[], b"\n\n"), (&[], b"# none yet\n"), (&["-0"], b""), (&["--null"], b"\0\0")]
        {
            let (stdin, file) = from(flags, input);
            usage(&stdin, "no files named");
            usage(&file, "no files named");
            let (stdin, file) = from(&[flags, &["--json"]].concat(), input);
            assert_eq!(no_file(&stdin), "no files named");
            assert_eq!(no_file(&file), "no files named");
        }
        let error = |text: &str| format!("daxfile {}: {text}\n", verb.name);
        let none = error("none: No such file or directory (open)");
        usage(&verb.call(&["--files-from", "none"], &[""; 0]).dir(dir), &none);
        usage(&verb.call(&["--files-from", "."], &["x"]).dir(dir), &error(".: Is a directory (read)"));
        let missing = verb.call(&["--json", "--files-from", "none"], &[""; 0]).dir(dir);
        assert_eq!(no_file(&missing), "none: No such file or directory (open)");
        // A list in the other format, as long as a pipe may bring it.
        let names = b"some/where/a file\0".repeat(1 << 17);
        let (stdin, file) = from(&[], &names);
        for list in [stdin, file] {
            let refused = run(&list).expect(2);
            assert!(refused.stderr.contains("has NUL bytes, which no name contains: use -0"), "{}", refused.command);
            assert!(refused.stderr.len() < 300, "{} bytes", refused.stderr.len());
        }
        let (_, endless) = from(&[], &b"x".repeat(1 << 20));
        let refused = run(&endless).expect(2);
        assert!(
            refused.stderr.contains("File name too long") && refused.stderr.len() < 5_000,
            "{}",
            refused.stderr.len()
        );
        fs::write(list.path(), "x").unwrap();
        let hidden = run(&verb.call(&["--files-from", path], &[""; 0]).as_nobody()).expect(4);
        assert_eq!(hidden.stderr, error(&format!("{path}: Permission denied (open)")));

        // Blank lines are none, the last line needs no end, and a name is all of its line.
        let lines = ["a", " b ", "-c"];
        // With -0, every byte except NUL belongs to the name.
        let all = NAMES.map(|(name, _)| OsStr::from_bytes(name));
        let nul = all.iter().flat_map(|name| [name.as_bytes(), b"\0"]).collect::<Vec<_>>().concat();
        let lines: Vec<_> = lines.iter().map(OsStr::new).collect();
        for (flags, input, names) in [
            (&["--json"][..], &b"#comment\na\n\n b \n# another\n-c"[..], &lines[..]),
            (&["--json", "-0"], &nul, &all[..]),
        ] {
            for which in 0..2 {
                names.iter().for_each(|name| verb.put_subject(&dir.join(name)));
                let (stdin, file) = from(flags, input);
                report(verb, &run(&[stdin, file][which]).expect(0), names);
                names.iter().for_each(|name| remove(&dir.join(name)));
            }
        }

        // Files that are named come first.
        for name in ["named", "listed"] {
            verb.put_subject(&dir.join(name));
        }
        let both = run(&verb.call(&["--json", "--files-from", "-"], &["named"]).stdin("listed\n").dir(dir)).expect(0);
        report(verb, &both, &["named", "listed"]);
        for name in ["named", "listed"] {
            remove(&dir.join(name));
        }
    }
}

/// A failing file does not stop the others, and the largest status counts.
#[test]
fn bad_file_does_not_stop_the_others() {
    let scratch = Scratch::new(Kind::xfs());
    let path = |name: &str| scratch.path(name);
    fs::create_dir(path("dir")).unwrap();
    let (good, bad) = (path("good"), path("none"));
    // Locked: busy for the verbs that lock, and no matter to the others.
    let busy = path("busy");
    for verb in listing() {
        verb.put_subject(&good);
        let single = report(verb, &run(&verb.call(&["--json"], &[&good])).expect(0), &[&good]);
        let missing = if verb.name == "verify" { 1 } else { 2 };
        for files in [[&good, &bad], [&bad, &good]] {
            verb.put_subject(&good);
            let mixed = run(&verb.call(&["--json"], &files)).expect(missing);
            let entries = report(verb, &mixed, &files)["files"].clone();
            let index = files.iter().position(|file| *file == &good).unwrap();
            assert_eq!(entries[index]["exit_status"], 0, "{mixed}");
            assert_eq!(entries[index]["action"], single["files"][0]["action"], "{mixed}");
            assert_eq!(entries[1 - index]["exit_status"], missing, "{mixed}");
            verb.put_subject(&good);
            let text = run(&verb.call(&[], &files)).expect(missing);
            let told = if missing == 1 { text.text() } else { &text.stderr };
            assert!(text.text().contains("good") && told.contains("none"), "{text}");
        }
        verb.put_subject(&good);
        verb.put_subject(&busy);
        let _lock = lock(&busy);
        let files = [&bad, &busy, &good, &path("dir")];
        let statuses = if verb.locks { [missing, 5, 0, 2] } else { [missing, 0, 0, 2] };
        let several = run(&verb.call(&["--json"], &files)).expect(*statuses.iter().max().unwrap());
        let entries = report(verb, &several, &files)["files"].clone();
        for (entry, status) in entries.as_array().unwrap().iter().zip(statuses) {
            assert_eq!(entry["exit_status"], status, "{several}");
        }
    }
}

/// A name given twice, or two names of one file, is no reason to fail: at the second, the work is already done.
#[test]
fn file_named_twice_is_no_failure() {
    let scratch = Scratch::new(Kind::ext4());
    let (one, other) = (scratch.path("one"), scratch.path("other"));
    for verb in listing() {
        for files in [[&one, &one], [&one, &other]] {
            verb.put_subject_with(&one, || fs::hard_link(&one, &other).unwrap());
            report(verb, &run(&verb.call(&["--json"], &files)).expect(0), &files);
            Daxfile::new(["unpin"]).arg(&one).run().expect(0);
            fs::remove_file(&other).unwrap();
        }
    }
}

#[test]
fn unprivileged_users_change_no_files_of_others() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let own = scratch.path("own");
        fs::create_dir(&own).unwrap();
        chown(&own, Some(65534), Some(65534)).unwrap();
        let hidden = scratch.path("hidden");
        fs::create_dir(&hidden).unwrap();
        fs::set_permissions(&hidden, Permissions::from_mode(0o700)).unwrap();
        for verb in &VERBS {
            let as_nobody = |path: &Path, answer| ask(verb, path.as_os_str(), answer, || (), Daxfile::as_nobody);
            let others = scratch.path("others");
            verb.put_subject(&others);
            let before = snapshot(&others);
            as_nobody(&others, verb.answer(Others));
            assert_eq!(snapshot(&others), before);

            for place in [scratch.path("unreadable"), hidden.join("file")] {
                verb.put_subject_with(&place, || fs::set_permissions(&place, Permissions::from_mode(0o600)).unwrap());
                let before = snapshot(&place);
                as_nobody(&place, Error(4, "Permission denied"));
                assert_eq!(snapshot(&place), before);
                remove(&place);
            }

            let file = own.join("file");
            let put = || verb.put_subject_with(&file, || chown(&file, Some(65534), Some(65534)).unwrap());
            ask(verb, file.as_os_str(), verb.answer(Own), put, Daxfile::as_nobody);
            if verb.answer(Own) != Done {
                put();
                let before = snapshot(&file);
                as_nobody(&file, verb.answer(Own));
                assert_eq!(snapshot(&file), before);
            }
            remove(&others);
            remove(&file);
        }
    }
}

/// Where nothing can be pinned, or nothing written.
#[test]
fn other_filesystems_have_the_declared_answers() {
    let btrfs = Scratch::new(Kind::Btrfs);
    let shm = tempfile::Builder::new().prefix("daxfile-tests.").tempdir_in("/dev/shm").unwrap();
    for verb in &VERBS {
        for (place, path) in [(Tmpfs, shm.path().join("file")), (Btrfs, btrfs.path("file"))] {
            if verb.subject.is_some() {
                fs::write(&path, vec![1; 1 << 20]).unwrap();
                sh(format!("sync {}", quoted(&path)));
            }
            refused(verb, &path, verb.answer(place));
            if verb.changes {
                same_when_dry(verb, &path, |call| call);
            }
            let _ = fs::remove_file(path);
        }
    }
}

#[test]
fn read_only_mounts_have_the_declared_answers() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let mut scratch = Scratch::new(kind);
        let path = |scratch: &Scratch, verb: &Verb| scratch.path(format!("of-{}", verb.name));
        for verb in &VERBS {
            verb.put_subject(&path(&scratch, verb));
        }
        scratch.remount_with("ro");
        for verb in &VERBS {
            refused(verb, &path(&scratch, verb), verb.answer(ReadOnly));
            if verb.changes {
                same_when_dry(verb, &path(&scratch, verb), |call| call);
            }
        }
    }
}

/// A rehearsal answers as the performance that follows.
#[track_caller]
fn same_when_dry(verb: &Verb, path: &Path, turn: impl Fn(Daxfile) -> Daxfile) {
    let dry = run(&turn(verb.call(&["--dry-run", "--json"], &[path])));
    let real = run(&turn(verb.call(&["--json"], &[path])));
    assert_eq!(dry.status, real.status, "{dry}\nbut\n{real}");
    report(verb, &dry, &[path]);
}

#[test]
fn full_disk_fails_only_verbs_that_need_space() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let path = |verb: &Verb| scratch.path(format!("of-{}", verb.name));
        let kept = scratch.path("kept");
        VERBS.iter().for_each(|verb| verb.put_subject(&path(verb)));
        write(&kept);
        Daxfile::new(["pin"]).arg(&kept).run().expect(0);

        fill(&scratch);
        let (done, failing): (Vec<_>, Vec<_>) = VERBS.iter().partition(|verb| verb.answer(FullDisk) == Done);
        for verb in done {
            // There the record needs a block of its own, as pin finds.
            let no_room = verb.name == "check" && scratch.kind().name() == "ext4";
            let once = run(&verb.call(&["--json"], &[path(verb)])).expect(if no_room { 2 } else { 0 });
            report(verb, &once, &[path(verb)]);
        }

        if scratch.kind().name() == "xfs" {
            // Blocks that XFS reserves for itself serve attributes of `security` as well.
            sh(format!("xfs_io -x -c 'resblks 0' {}", quoted(scratch.mount_point())));
        }
        fill(&scratch);
        let free = free_bytes(&scratch);
        for verb in failing {
            let before = without_ctime(&snapshot(&path(verb)));
            ask(verb, path(verb).as_os_str(), verb.answer(FullDisk), || (), |call| call);
            assert_eq!(without_ctime(&snapshot(&path(verb))), before);
        }
        assert_eq!(free_bytes(&scratch), free);
        // The removal of an attribute needs space, too; without space, the pin must stay whole.
        let before = without_ctime(&snapshot(&kept));
        let unpin = run(&Daxfile::new(["unpin"]).arg(&kept));
        if unpin.status != 0 {
            assert_eq!(without_ctime(&snapshot(&kept)), before, "{unpin}");
            Daxfile::new(["verify"]).arg(&kept).run().expect(0);
        }

        fs::remove_file(scratch.path("fill")).unwrap();
        for verb in &VERBS {
            verb.put_subject(&path(verb));
            run(&verb.call(&[], &[path(verb)])).expect(0);
        }
    }
}

/// Setting and taking back an attribute leaves a trace in the time of the last change of the inode.
fn without_ctime(snapshot: &str) -> String {
    snapshot.lines().map(|line| line.split(" ctime ").next().unwrap()).collect()
}

fn free_bytes(scratch: &Scratch) -> u64 {
    sh(format!("sync -f {0}; stat -f -c '%f * %S' {0}", quoted(scratch.mount_point())))
        .trim()
        .split(" * ")
        .map(|n| n.parse::<u64>().unwrap())
        .product()
}

/// Allocates all the space that is left.
fn fill(scratch: &Scratch) {
    sh(format!(
        "cd {}; at=$(stat -c %s fill 2>/dev/null || echo 0); size=$((1 << 28))
         while ((size >= 1024)); do
             if fallocate -o $at -l $size fill 2>/dev/null; then at=$((at + size)); else size=$((size / 2)); fi
         done",
        quoted(scratch.mount_point())
    ));
}

/// Larger than the disk by little, by much, and beyond all measure: nothing is made, and no space is lost.
#[test]
fn size_beyond_the_disk_leaves_nothing() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let free = free_bytes(&scratch);
        let before = names(scratch.mount_point());
        for size in [free + 4096, 1 << 40, (1 << 63) - 4096, (1 << 63) - 1] {
            let call = Daxfile::new(["alloc", "--size", &size.to_string()]).arg(scratch.path("file"));
            let run = run(&call).expect(2);
            assert!(run.stderr.contains("No space left on device"), "{run}");
            assert_eq!(names(scratch.mount_point()), before, "{run}");
            wait_until("the space is free again", || free_bytes(&scratch) == free);
        }
        // All free space, with nothing left for the filesystem's own needs; root may have more on ext4.
        if scratch.kind().name() == "xfs" {
            let call = Daxfile::new(["alloc", "--size", &free.to_string()]).arg(scratch.path("file"));
            let run = run(&call).expect(2);
            assert!(run.stderr.contains(": No space left on device"), "{run}");
            assert_eq!(names(scratch.mount_point()), before, "{run}");
            wait_until("the space is free again", || free_bytes(&scratch) == free);
        }
    }
}

#[test]
fn dry_run_changes_nothing_and_reports_the_work() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        for verb in VERBS.iter().filter(|verb| verb.changes) {
            verb.put_subject(&file);
            let before = (snapshot(&file), names(scratch.mount_point()));
            for flags in [&["--dry-run"][..], &["--dry-run", "--json"], &["--dry-run", "--quiet"]] {
                let dry = run(&verb.call(flags, &[&file])).expect(0);
                assert_eq!(dry.stderr, "", "{dry}");
                assert_eq!((snapshot(&file), names(scratch.mount_point())), before, "{dry}");
            }
            let said = |flags: &[&str]| {
                let run = run(&verb.call(flags, &[&file])).expect(0);
                report(verb, &run, &[&file])["files"][0]["action"].as_str().unwrap().to_owned()
            };
            let (dry, real) = (said(&["--dry-run", "--json"]), said(&["--json"]));
            assert!(dry.starts_with("would_"), "{dry}");
            assert_ne!(snapshot(&file), before.0, "{real}");

            // The caller's rights are checked, too, also where another hold needs them.
            verb.put_subject(&file);
            same_when_dry(verb, &file, Daxfile::as_nobody);
            if verb.pinned {
                remove(&file);
                write(&file);
                Daxfile::new(["pin", "--hold", "none"]).arg(&file).run().expect(0);
                same_when_dry(verb, &file, Daxfile::as_nobody);
            }
            if verb.name == "pin" {
                let unheld = Verb { options: &["--hold", "none"], ..*verb };
                same_when_dry(&unheld, &file, Daxfile::as_nobody);
                same_when_dry(&unheld, &file, |call| call);
            }
        }
        // Files that exist already.
        fs::create_dir(scratch.path("dir")).unwrap();
        for verb in VERBS.iter().filter(|verb| verb.changes) {
            same_when_dry(verb, &scratch.path("dir"), |call| call);
            same_when_dry(verb, &scratch.path("none/below"), |call| call);
        }
    }
}

fn open(path: &str) -> Stdio {
    File::options().write(true).open(path).unwrap().into()
}

/// A pipe without a reader.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn failed_output_sets_the_status() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    for verb in &VERBS {
        for flags in [&[][..], &["--json"], &["--verbose"]] {
            let ended = |stdout: Stdio| {
                verb.put_subject(&file);
                let mut command = verb.call(flags, &[&file]).command();
                let child = spawn(command.stdout(stdout).stderr(Stdio::piped()));
                let out = child.wait_with_output().unwrap();
                (out.status.code(), String::from_utf8(out.stderr).unwrap())
            };
            assert_eq!(ended(broken_pipe()), (Some(0), String::new()), "{}", verb.name);
            let (status, stderr) = ended(open("/dev/full"));
            assert_eq!(status, Some(2), "{}: {stderr}", verb.name);
            assert!(stderr.contains("standard output: No space left on device"), "{}: {stderr}", verb.name);
            // The work was done nevertheless.
            assert!(file.exists());
        }
        // A status above that of the failed output stays.
        let status = |file: &Path, stdout: Stdio, stderr: Stdio| {
            let mut command = verb.call(&[], &[file]).as_nobody().command();
            spawn(command.stdout(stdout).stderr(stderr)).wait().unwrap().code()
        };
        let hidden = scratch.path("lost+found/file");
        assert_eq!(status(&hidden, open("/dev/full"), Stdio::null()), Some(4), "{}", verb.name);
        assert_eq!(status(&hidden, Stdio::null(), open("/dev/full")), Some(4), "{}", verb.name);
        assert_eq!(status(&hidden, broken_pipe(), broken_pipe()), Some(4), "{}", verb.name);
    }
    for option in ["-h", "-V"] {
        for verb in [None, Some("pin")] {
            let ended = |stdout: Stdio| {
                let mut command = Daxfile::new(verb.into_iter().chain([option])).command();
                let out = spawn(command.stdout(stdout).stderr(Stdio::piped())).wait_with_output().unwrap();
                (out.status.code(), String::from_utf8(out.stderr).unwrap())
            };
            assert_eq!(ended(broken_pipe()), (Some(0), String::new()), "{option}");
            let (status, stderr) = ended(open("/dev/full"));
            assert_eq!(status, Some(2), "{option}: {stderr}");
            assert!(stderr.contains("No space left on device"), "{option}: {stderr}");
        }
    }
}

/// Files opened in place of closed descriptors must not receive the output.
#[test]
fn output_avoids_files_that_took_closed_descriptors() {
    for option in ["--help", "-V", "man", "completions"] {
        let words: &[&str] = if option == "completions" { &[option, "bash"] } else { &[option] };
        let closed = Daxfile::new(words).wrap(["bash", "-c", "exec >&-; exec \"$@\"", "bash"]).run().expect(2);
        assert!(closed.stderr.contains("standard output: Bad file descriptor"), "{closed}");
    }
    let scratch = Scratch::new(Kind::xfs());
    let (file, missing) = (scratch.path("file"), scratch.path("none/below"));
    for verb in &VERBS {
        for closed in ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&-", "<&- >&- 2>&-"] {
            let through = |path: &Path| {
                let script = format!("exec {closed}; exec \"$@\"");
                verb.call(&["--verbose"], &[path]).wrap(["bash", "-c", &script, "bash"])
            };
            verb.put_subject(&file);
            let contents = fs::read(&file).ok();
            let silenced = closed.split(' ').any(|redirection| redirection == ">&-");
            let ended = run(&through(&file)).expect(if silenced { 2 } else { 0 });
            if closed == ">&-" {
                let why = "daxfile: standard output: Bad file descriptor (os error 9)\n";
                assert_eq!(ended.stderr, why, "{}", verb.name);
            }
            match contents {
                Some(contents) => assert_eq!(fs::read(&file).unwrap(), contents, "{} {closed}", verb.name),
                None => assert!(fs::read(&file).unwrap().iter().all(|byte| *byte == 0), "{} {closed}", verb.name),
            }
            let missing = run(&through(&missing));
            assert_eq!(missing.status, if verb.name == "verify" && !silenced { 1 } else { 2 }, "{missing}");
            // Nothing was to be printed.
            verb.put_subject(&file);
            let script = format!("exec {closed}; exec \"$@\"");
            run(&verb.call(&["-qq"], &[&file]).wrap(["bash", "-c", &script, "bash"])).expect(0);
        }
        if verb.many() {
            let script = "exec <&-; exec \"$@\"";
            let list = verb.call(&["--files-from", "-"], &[""; 0]).wrap(["bash", "-c", script, "bash"]);
            usage(&list, "no files named");
        }
    }
}

/// The lock that a daxfile of root's takes, held until the value is dropped.
fn lock(path: &Path) -> Killed {
    const LOCK: &str = r#"
        my $file = sprintf "/run/daxfile/%d:%d", map { hex } split /:/, shift;
        mkdir "/run/daxfile", 0700; open my $lock, "+>>", $file or die $!; chmod 0600, $file;
        # F_OFD_SETLK, and F_WRLCK of the byte at the inode's number
        fcntl($lock, 37, pack("s s x4 q q i x4", 1, 0, shift, 1, 0)) or die $!;
        $| = 1; print "locked\n"; sleep 1000"#;
    require(&["perl"]);
    let metadata = path.metadata().unwrap();
    let (major, minor) = (major(metadata.dev()), minor(metadata.dev()));
    let mut perl = Command::new("perl");
    perl.args(["-e", LOCK, &format!("{major:x}:{minor:x}"), &metadata.ino().to_string()]);
    let mut holder = Killed(spawn(perl.stdout(Stdio::piped())));
    std::io::Read::read_exact(holder.0.stdout.as_mut().unwrap(), &mut [0; 7]).unwrap();
    holder
}

fn is_locked(path: &Path) -> bool {
    // Not by trying, which could make the other one find it locked.
    let metadata = path.metadata().unwrap();
    let (major, minor) = (metadata.dev() >> 8 & 0xfff, metadata.dev() & 0xff | metadata.dev() >> 12 & 0xfff00);
    let inode = format!(" {major:02x}:{minor:02x}:{} ", metadata.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|line| line.contains("FLOCK") && line.contains(&inode) && !line.contains("->"))
}

#[test]
fn locked_file_is_busy() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    for verb in listing() {
        verb.put_subject(&file);
        let before = snapshot(&file);
        let held = lock(&file);
        if verb.locks {
            refused(verb, &file, Error(5, "Resource temporarily unavailable (fcntl(F_OFD_SETLK)): another daxfile"));
        } else {
            run(&verb.call(&[], &[&file])).expect(0);
            assert_eq!(snapshot(&file), before);
        }
        drop(held);
        run(&verb.call(&[], &[&file])).expect(0);
    }
}

/// `pin --wait` on a file that another process has open for writing.
fn waiting_pin(file: &Path) -> (Child, File) {
    let writer = File::options().append(true).open(file).unwrap();
    let pin = Daxfile::new(["pin", "--allow", "hole,unwritten", "--wait", "1000", "--"]).arg(file);
    let child = spawn(pin.command().stdout(Stdio::piped()).stderr(Stdio::piped()));
    wait_until("it has locked the file", || is_locked(file));
    (child, writer)
}

#[test]
fn a_second_daxfile_is_busy() {
    let scratch = Scratch::new(Kind::xfs());
    for verb in listing() {
        let file = scratch.path(verb.name);
        // Not pinned, so that there is something to wait for.
        verb.subject.unwrap()(&file);
        let (waiting, writer) = waiting_pin(&file);
        if verb.locks {
            refused(verb, &file, Error(5, "another daxfile works on it"));
        } else {
            let answer = run(&verb.call(&["--json"], &[&file]));
            report(verb, &answer, &[&file]);
            assert!(answer.status < 2, "{answer}");
        }
        drop(writer);
        let out = waiting.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        remove(&file);
    }
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
}

/// Ended by the signal itself, so that a shell's loop ends as well.
#[track_caller]
fn expect_interrupted(child: Child) {
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.signal(), Some(Signal::SIGINT as i32), "{out:?}");
}

#[test]
fn interrupt_ends_a_verb_that_waits() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    for verb in listing() {
        let args = [verb.name].iter().chain(verb.options).chain(&["--files-from", "-"]).copied().collect::<Vec<_>>();
        let mut command = Daxfile::new(args).command();
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let _list = child.stdin.take();
        interrupt(&child);
        expect_interrupted(child);
    }
    write(&file);
    let (waiting, _writer) = waiting_pin(&file);
    let before = snapshot(&file);
    interrupt(&waiting);
    expect_interrupted(waiting);
    assert_eq!(snapshot(&file), before);
}

/// nohup(1), and shells without job control, start programs with a signal ignored: it stays so.
#[test]
fn an_ignored_signal_is_no_interrupt() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    write(&file);
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        let writer = File::options().append(true).open(&file).unwrap();
        let ignoring = ["bash", "-c", "trap '' INT HUP; exec \"$@\"", "bash"];
        let mut command = Daxfile::new(["pin", "--wait", "1000", "--"]).arg(&file).wrap(ignoring).command();
        let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        wait_until("it has locked the file", || is_locked(&file));
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        drop(writer);
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        Daxfile::new(["unpin"]).arg(&file).run().expect(0);
    }
}

#[test]
fn an_interrupted_alloc_leaves_nothing() {
    let scratch = Scratch::with_size(Kind::xfs(), 6 << 30);
    let free = free_bytes(&scratch);
    let used = || scratch.image().metadata().unwrap().blocks() * 512;
    let before = used();
    let mut child = spawn(&mut Daxfile::new(["alloc", "--size", "5G"]).arg(scratch.path("file")).command());
    wait_until("some of it is written", || used() > before + (64 << 20));
    assert!(child.try_wait().unwrap().is_none(), "it was done too soon to be interrupted");
    interrupt(&child);
    expect_interrupted(child);
    assert!(names(scratch.mount_point()).is_empty());
    wait_until("the space is free again", || free_bytes(&scratch) == free);
}

/// SIGINT at each call that touches the file: a verb that only reads leaves it unchanged; a verb that makes changes has
/// made them completely or not at all.
#[test]
fn interrupt_at_any_call_leaves_no_partial_work() {
    require(&["strace"]);
    const CALLS: &str =
        "ioctl,fcntl,flock,statx,fsync,fsetxattr,fremovexattr,fgetxattr,flistxattr,fallocate,ftruncate,pwrite64,linkat";
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    for verb in &VERBS {
        verb.put_subject(&file);
        for nth in 1.. {
            let before = snapshot(&file);
            let contents = if before == "absent" { String::new() } else { checksum(&file) };
            let inject = format!("inject={CALLS}:signal=INT:when={nth}");
            let words = ["strace", "-qq", "-o/dev/null", "-e", &format!("trace={CALLS}"), "-e", &inject];
            let args = [&[verb.name], verb.options].concat();
            let run = Daxfile::new(args).arg(&file).wrap(words).run();
            if run.status == 0 {
                assert!(nth > 5, "only {nth} calls: {run}");
                break;
            }
            assert_eq!(run.status, 130, "{run}");
            if !verb.changes {
                assert_eq!(snapshot(&file), before, "call {nth}: {run}");
                continue;
            }
            if before == "absent" && !file.exists() {
                continue;
            }
            if before == "absent" {
                Daxfile::new(["check"]).arg(&file).run().expect(0);
            } else {
                assert_eq!(checksum(&file), contents, "call {nth}: {run}");
            }
            let marks = marks(&file);
            let pinned = marks.contains("security.daxfile.pin");
            let flags = marks.lines().last().and_then(|line| line.split_whitespace().next()).unwrap();
            assert_eq!((flags.contains('i'), flags.contains('f')), (pinned, pinned), "call {nth}: {run}\n{marks}");
            Daxfile::new(["verify"]).arg(&file).run().expect(i32::from(!pinned));
            verb.put_subject(&file);
        }
        remove(&file);
    }
}

/// An interrupt that comes while the file is being held, the flag set after it included, ends with nothing held.
#[test]
fn an_interrupted_pin_is_undone() {
    require(&["strace"]);
    // The first fsync(2) makes the record durable, and the flag comes next; the second one follows the flag.
    for (kind, when, cleared) in [(Kind::xfs(), 1, 0), (Kind::xfs(), 2, 1), (Kind::ext4(), 1, 0), (Kind::ext4(), 2, 1)]
    {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        write(&file);
        let before = without_ctime(&snapshot(&file));
        let trace = scratch.path("trace");
        let inject = format!("inject=fsync:signal=INT:when={when}");
        let words = ["strace", "-qq", "-e", "trace=fsetxattr,fsync,ioctl", "-e", &inject];
        let wrapped = |call: Daxfile| call.wrap(words.iter().map(OsStr::new).chain(["-o".as_ref(), trace.as_os_str()]));
        let pin = wrapped(Daxfile::new(["pin"]).arg(&file)).run().expect(130);
        assert_eq!(without_ctime(&snapshot(&file)), before, "{pin}");
        let calls = fs::read_to_string(&trace).unwrap();
        let (set, after) = calls.split_once("--- SIGINT").expect("it was interrupted");
        assert_eq!(set.matches("FSSETXATTR").count(), cleared, "set: {calls}");
        assert_eq!(after.matches("FSSETXATTR").count(), cleared, "cleared: {calls}");
    }
}

/// Like other programs whose reader, such as head(1), has closed the pipe: daxfile stops its work.
#[test]
fn closed_pipe_ends_the_work() {
    let scratch = Scratch::new(Kind::ext4());
    let names: Vec<String> = (0..1000).map(|number| format!("file{number}")).collect();
    for name in &names {
        fs::write(scratch.path(name), [1; 4096]).unwrap();
    }
    let mut pin = Daxfile::new(["pin", "--hold", "none", "--json"]).args(&names).dir(scratch.mount_point()).command();
    let out = spawn(pin.stdout(broken_pipe()).stderr(Stdio::piped())).wait_with_output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned()), (Some(0), String::new()));
    let states = Daxfile::new(["stat", "--json"]).args(&names).dir(scratch.mount_point()).run().expect(0).json();
    let files = states["files"].as_array().unwrap();
    let pinned = files.iter().filter(|file| file["pin"]["state"] == "pinned").count();
    assert!(0 < pinned && pinned < names.len(), "{pinned} of {}", names.len());

    // Reading ends, too: one file, named many times, would give work for minutes.
    let list = "file0\n".repeat(2_000_000);
    let mut stat = Daxfile::new(["stat", "--files-from", "-"]).dir(scratch.mount_point()).command();
    let mut child = spawn(stat.stdin(Stdio::piped()).stdout(broken_pipe()).stderr(Stdio::null()));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), list.as_bytes()).unwrap();
    let begun = Instant::now();
    assert!(child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn longest_wait_does_not_panic() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    fs::write(&file, [1; 65536]).unwrap();
    let pin = ["pin", "--wait", "18446744073709551615"];
    assert_eq!(Daxfile::new(pin).arg("--json").arg(&file).run().expect(0).file()["action"], "pinned");
    Daxfile::new(["unpin"]).arg(&file).run().expect(0);
    // While a writer has the file open, pin continues to wait.
    let writer = File::options().write(true).open(&file).unwrap();
    let mut waiting = spawn(&mut Daxfile::new(pin).arg(&file).command());
    std::thread::sleep(Duration::from_millis(500));
    assert!(waiting.try_wait().unwrap().is_none());
    drop(writer);
    assert!(waiting.wait().unwrap().success());
    Daxfile::new(["unpin"]).arg(&file).run().expect(0);
}

/// Files of the kernel itself, of which none can be pinned.
#[test]
fn unpin_leaves_files_of_proc_and_sys_alone() {
    for file in ["/proc/version", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"] {
        let unpin = run(&Daxfile::new(["unpin", file])).expect(0);
        assert_eq!((unpin.text(), unpin.stderr.as_str()), (format!("{file}: not pinned\n").as_str(), ""), "{unpin}");
    }
}
