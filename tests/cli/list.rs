//! `list` finds exactly the existing pins, according to the tests' own records.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use daxfile::file::target::Target;
use daxfile::needs::Hold;
use daxfile::pin::record::{self, Stored};
use daxfile_tests::child::finish;
use daxfile_tests::generate::Random;
use daxfile_tests::tools::{require, sh};
use daxfile_tests::{Daxfile, Ext4, Kind, Run, Scratch, Xfs, on_each};
use serde_json::Value;

/// The expected entry of a listed file.
#[derive(Clone, Debug)]
struct Entry {
    /// Every hard link.
    names: BTreeSet<PathBuf>,
    state: &'static str,
    hold: Option<&'static str>,
    note: Option<&'static str>,
}

/// Which files of a tree are pinned, and how.
#[derive(Clone, Debug, Default)]
struct Books(Vec<Entry>);

impl Books {
    fn add(&mut self, names: &BTreeSet<PathBuf>, state: &'static str, hold: Option<&'static str>) {
        self.0.push(Entry { names: names.clone(), state, hold, note: None });
    }

    /// Every entry is listed once, by one of its names, and nothing else is.
    #[track_caller]
    fn judge(&self, run: &Run) {
        let report = run.json();
        let mut left: Vec<&Entry> = self.0.iter().collect();
        for file in report["files"].as_array().unwrap() {
            let path = path_of(&file["path"]);
            let found = left.iter().position(|entry| entry.names.contains(&path));
            let found = found.unwrap_or_else(|| panic!("{} is not pinned, or listed twice: {run}", path.display()));
            let entry = left.swap_remove(found);
            let pin = &file["pin"];
            assert_eq!(pin["state"], entry.state, "{file}");
            assert_eq!(pin["hold"].as_str(), entry.hold, "{file}");
            assert_eq!(pin["note"].as_str(), entry.note, "{file}");
        }
        assert!(left.is_empty(), "not listed: {left:?}");
    }
}

/// A random number below `bound`, to index with.
fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap()
}

fn path_of(path: &Value) -> PathBuf {
    match path.as_str() {
        Some(text) => text.into(),
        None => {
            let bytes = data_encoding::BASE64.decode(path["bytes"].as_str().unwrap().as_bytes());
            OsString::from_vec(bytes.unwrap()).into()
        }
    }
}

fn program(words: &[&OsStr]) {
    let out = finish(Command::new(words[0]).args(&words[1..]));
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn list(path: &Path) -> Daxfile {
    Daxfile::new(["list", "--json"]).arg(path)
}

/// Pins files together.
#[track_caller]
fn pin(options: &[&str], files: &[PathBuf]) {
    if !files.is_empty() {
        let list: Vec<u8> = files.iter().flat_map(|file| [file.as_os_str().as_bytes(), b"\0"].concat()).collect();
        let words = [&["pin", "--wait", "60", "-0", "--files-from", "-"], options].concat();
        Daxfile::new(words).stdin(list).run().expect(0);
    }
}

fn name(random: &mut Random) -> OsString {
    const PIECES: [&[u8]; 12] = [
        b"a",
        b"B7",
        b" ",
        b"\n",
        b"\xff\xfe",
        b"caf\xc3\xa9",
        b"-",
        b"'",
        b"$x",
        b"\x1b[31m",
        b"#",
        b"very-long-indeed",
    ];
    let mut name: Vec<u8> = format!("{}", random.below(1 << 40)).into_bytes();
    for _ in 0..random.below(5) {
        let piece = PIECES[below(random, 12)];
        let at = below(random, name.len() + 1);
        name.splice(at..at, piece.iter().copied());
    }
    if random.percent(5) {
        name.resize(255, b'z');
    }
    OsString::from_vec(name)
}

/// Makes a tree with files of every state, and records the expected entries.
fn plant(root: &Path, random: &mut Random) -> Books {
    fs::create_dir(root).unwrap();
    let mut directories = vec![root.to_owned()];
    for _ in 0..random.below(12) {
        let above = &directories[below(random, directories.len())];
        let directory = above.join(name(random));
        fs::create_dir(&directory).unwrap();
        directories.push(directory);
    }
    let place = |random: &mut Random| directories[below(random, directories.len())].join(name(random));
    let mut files: BTreeMap<usize, Vec<BTreeSet<PathBuf>>> = BTreeMap::new();
    for _ in 0..10 + random.below(20) {
        let path = place(random);
        let length = 1 + below(random, 20_000);
        fs::write(&path, random.bytes(length)).unwrap();
        let mut names = BTreeSet::from([path.clone()]);
        while random.percent(20) {
            let other = place(random);
            fs::hard_link(&path, &other).unwrap();
            names.insert(other);
        }
        if random.percent(10) {
            symlink(&path, place(random)).unwrap();
        }
        files.entry(below(random, 10)).or_default().push(names);
    }
    let mut take = |kind: usize| files.remove(&kind).unwrap_or_default();
    let firsts =
        |files: &[BTreeSet<PathBuf>]| files.iter().map(|names| names.first().unwrap().clone()).collect::<Vec<_>>();
    let mut books = Books::default();
    let (plain, other_attributes) = (take(0), take(1));
    firsts(&other_attributes).iter().for_each(|file| {
        program(&[
            "setfattr".as_ref(),
            "-n".as_ref(),
            "user.other".as_ref(),
            "-v".as_ref(),
            "x".as_ref(),
            file.as_ref(),
        ]);
    });
    drop(plain);
    let frozen = take(2);
    pin(&[], &firsts(&frozen));
    frozen.iter().for_each(|names| books.add(names, "pinned", Some("frozen")));
    let noted = take(3);
    pin(&["--note", "for\nwhom"], &firsts(&noted));
    noted.iter().for_each(|names| books.add(names, "pinned", Some("frozen")));
    let none = [take(4), take(5)].concat();
    pin(&["--hold", "none"], &firsts(&none));
    none.iter().for_each(|names| books.add(names, "pinned", Some("none")));
    let drifted = take(6);
    pin(&["--hold", "none"], &firsts(&drifted));
    for file in firsts(&drifted) {
        fs::File::options().write(true).open(file).unwrap().set_len(100_000).unwrap();
    }
    drifted.iter().for_each(|names| books.add(names, "drifted", Some("none")));
    let lost = take(7);
    pin(&[], &firsts(&lost));
    for file in firsts(&lost) {
        program(&["chattr".as_ref(), "-i".as_ref(), file.as_ref()]);
    }
    lost.iter().for_each(|names| books.add(names, "not_held", Some("frozen")));
    // As on a machine that was started without the guard.
    let unguarded = take(8);
    pin(&[], &firsts(&unguarded));
    for file in firsts(&unguarded) {
        let Stored::Own(mut record) = record::load(&Target::open(&file).unwrap(), false).unwrap() else {
            panic!("no record")
        };
        (record.needs.hold, record.added) = (Hold::Writable, Default::default());
        program(&["chattr".as_ref(), "-i".as_ref(), file.as_ref()]);
        set(&file, "security.daxfile.pin", &hex(&record.encode()));
    }
    unguarded.iter().for_each(|names| books.add(names, "not_held", Some("writable")));
    for (index, names) in take(9).iter().enumerate() {
        let file = names.first().unwrap();
        match index % 3 {
            0 => set(file, "user.daxfile.pin", "nonsense"),
            1 => set(file, "security.daxfile.pin", "0x64617866696c6509"),
            _ if none.is_empty() => continue,
            _ => {
                let own = record_of(none[0].first().unwrap());
                set(file, "user.daxfile.pin", &own);
                books.add(names, "foreign_record", None);
                continue;
            }
        }
        books.add(names, "bad_record", None);
    }
    for entry in &mut books.0 {
        entry.note = noted.contains(&entry.names).then_some("for\nwhom");
    }
    books
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn set(file: &Path, attribute: &str, value: &str) {
    program(&["setfattr".as_ref(), "-n".as_ref(), attribute.as_ref(), "-v".as_ref(), value.as_ref(), file.as_ref()]);
}

fn record_of(file: &Path) -> String {
    let Stored::Own(record) = record::load(&Target::open(file).unwrap(), false).unwrap() else { panic!("no record") };
    hex(&record.encode())
}

fn random_trees(kinds: Vec<Kind>, trees: u64) {
    let random = Random::new("random_trees");
    on_each(kinds, |kind| random_trees_on(&Scratch::new(kind), &random, trees));
}

fn random_trees_on(scratch: &Scratch, random: &Random, trees: u64) {
    require(&["setfattr", "chattr"]);
    let mut all = Books::default();
    for tree in 0..trees {
        let root = scratch.path(format!("tree-{tree}"));
        let books = plant(&root, &mut random.fork(tree));
        books.judge(&list(&root).run().expect(0));
        // The same without BULKSTAT, and without privileges but those to look.
        books.judge(&list(&root).as_nobody_with(&["dac_read_search"]).run().expect(0));
        all.0.extend(books.0);
    }
    let root = scratch.mount_point();
    all.judge(&list(root).run().expect(0));
    all.judge(&list(root).as_nobody_with(&["dac_read_search"]).run().expect(0));

    // A filter lists exactly the matching entries.
    for (option, of) in [
        ("--hold=frozen", (|entry: &Entry| entry.hold == Some("frozen")) as fn(&Entry) -> bool),
        ("--hold=writable,none", |entry| matches!(entry.hold, Some("writable" | "none"))),
        ("--state=drifted", |entry| entry.state == "drifted"),
        ("--state=not-held,foreign_record", |entry| matches!(entry.state, "not_held" | "foreign_record")),
    ] {
        let chosen = Books(all.0.iter().filter(|entry| of(entry)).cloned().collect());
        chosen.judge(&list(root).arg(option).run().expect(0));
    }

    // verify reads the list, and its answer for each file matches the file's state.
    let paths = Daxfile::new(["list", "-0"]).arg(root).run().expect(0).stdout;
    assert_eq!(paths.iter().filter(|byte| **byte == 0).count(), all.0.len());
    let verify = Daxfile::new(["verify", "--json", "-0", "--files-from", "-"]).stdin(paths).run();
    let report = verify.json();
    for file in report["files"].as_array().unwrap() {
        let entry = all.0.iter().find(|entry| entry.names.contains(&path_of(&file["path"]))).unwrap();
        let status = match entry.state {
            "pinned" => 0,
            "bad_record" => 2,
            _ => 1,
        };
        assert_eq!(file["exit_status"], status, "{file}");
    }
}

#[test]
fn list_finds_the_pins_of_random_trees() {
    random_trees(Kind::xfs_and_ext4(), 4);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn list_finds_the_pins_of_two_hundred_random_trees() {
    let small_blocks = Xfs { block_size: 1024, rmapbt: true, ..Xfs::default() };
    let small_ext4 = Ext4 { block_size: 1024, ..Ext4::default() };
    random_trees(vec![Kind::xfs(), small_blocks.into(), Kind::ext4(), small_ext4.into()], 40);
    let random = Random::new("random_trees_with_parent_pointers");
    random_trees_on(&Scratch::with_parent_pointers(), &random, 40);
}

/// Makes a tree on f2fs, where only the guard holds files, and each takes whole sections.
fn plant_on_f2fs(root: &Path, random: &mut Random) -> Books {
    fs::create_dir(root).unwrap();
    let mut directories = vec![root.to_owned()];
    for _ in 0..random.below(8) {
        let directory = directories[below(random, directories.len())].join(name(random));
        fs::create_dir(&directory).unwrap();
        directories.push(directory);
    }
    let mut books = Books::default();
    let place = |random: &mut Random| directories[below(random, directories.len())].join(name(random));
    let mut first_record = None;
    for kind in 0..7 + random.below(4) {
        let path = place(random);
        let held = matches!(kind, 0..=3);
        if held {
            Daxfile::new(["alloc", "-s", "2M"]).arg(&path).run().expect(0);
        } else {
            fs::write(&path, "contents").unwrap();
        }
        let mut names = BTreeSet::from([path.clone()]);
        while random.percent(30) {
            let other = place(random);
            fs::hard_link(&path, &other).unwrap();
            names.insert(other);
        }
        let writable = ["--hold", "writable"];
        match kind {
            0 | 1 => {
                pin(&writable, std::slice::from_ref(&path));
                first_record.get_or_insert_with(|| record_of(&path));
                books.add(&names, "pinned", Some("writable"));
            }
            2 => {
                pin(&[&writable[..], &["--note", "for\nwhom"]].concat(), std::slice::from_ref(&path));
                books.add(&names, "pinned", Some("writable"));
                books.0.last_mut().unwrap().note = Some("for\nwhom");
            }
            // As on a machine that was started without the guard.
            3 => {
                pin(&writable, std::slice::from_ref(&path));
                let own = record_of(&path);
                Daxfile::new(["unpin"]).arg(&path).run().expect(0);
                set(&path, "security.daxfile.pin", &own);
                books.add(&names, "not_held", Some("writable"));
            }
            4 => {
                set(&path, "security.daxfile.pin", first_record.as_ref().unwrap());
                books.add(&names, "foreign_record", None);
            }
            5 => {
                set(&path, "user.daxfile.pin", "nonsense");
                books.add(&names, "bad_record", None);
            }
            6 => set(&path, "user.other", "x"),
            _ => {}
        }
    }
    books
}

/// Before Linux 6.9 f2fs tells no UUID, and the guard holds nothing there.
#[test]
#[ignore = "runs in the lab: tests/lab.sh 6.12 cli list"]
fn list_finds_the_pins_of_random_trees_on_f2fs_in_the_lab() {
    require(&["mkfs.f2fs", "setfattr"]);
    let scratch = Scratch::with_size(Kind::F2fs, 1 << 30);
    if Daxfile::new(["probe", "--hold", "writable"]).arg(scratch.mount_point()).run().status == 3 {
        assert!(sh("uname -r").starts_with("6.1."), "only the oldest kernel may lack it");
        return;
    }
    let random = Random::new("random_trees_on_f2fs");
    let mut all = Books::default();
    for tree in 0..20 {
        let root = scratch.path(format!("tree-{tree}"));
        let books = plant_on_f2fs(&root, &mut random.fork(tree));
        books.judge(&list(&root).run().expect(0));
        all.0.extend(books.0);
    }
    all.judge(&list(scratch.mount_point()).run().expect(0));
    for entry in &all.0 {
        Daxfile::new(["unpin"]).arg(entry.names.first().unwrap()).run().expect(0);
    }
    Books::default().judge(&list(scratch.mount_point()).run().expect(0));
}

/// There every file has attributes, so that these do not show which files are pinned.
#[test]
fn list_finds_the_pins_of_random_trees_with_parent_pointers() {
    let random = Random::new("random_trees_with_parent_pointers");
    random_trees_on(&Scratch::with_parent_pointers(), &random, 4);
}

/// Paths longer than any call takes, and more directories on the way than a process has descriptors at first.
#[test]
fn list_reaches_the_deepest_file() {
    for scratch in [Scratch::new(Kind::xfs()), Scratch::new(Kind::ext4()), Scratch::with_parent_pointers()] {
        let at = scratch.mount_point().display();
        Daxfile::new([
            "cd \"$1\"; for ((i = 0; i < 400; i++)); do mkdir longer-name-$i other; cd longer-name-$i; done
             printf contents >file; sync file; \"$0\" pin --hold none ./file",
            &at.to_string(),
        ])
        .wrap(["bash", "-c", "bash -ec \"$1\" \"$0\" \"$2\""])
        .run()
        .expect(0);
        for privileged in [true, false] {
            let call = Daxfile::new(["list", "-0"]).arg(scratch.mount_point());
            let call = if privileged { call } else { call.as_nobody_with(&["dac_read_search"]) };
            let run = call.wrap(["bash", "-c", "ulimit -Sn 128; exec \"$0\" \"$@\""]).run().expect(0);
            let path = run.stdout.strip_suffix(b"\0").unwrap();
            assert!(path.len() > 5_000 && path.ends_with(b"/longer-name-399/file"), "{} bytes", path.len());
        }
        sh(format!("rm -r '{at}'/longer-name-0"));
    }
}

/// A file that cannot be examined is named, and does not count as nothing.
#[test]
fn list_reports_unreadable_directories() {
    let scratch = Scratch::new(Kind::xfs());
    let paths = ["open", "hidden", "hidden/file", "secret", "seen"].map(|name| scratch.path(name));
    let [open, hidden, inside, secret, seen] = &paths;
    fs::create_dir(open).unwrap();
    fs::create_dir(hidden).unwrap();
    for file in [inside, secret, seen] {
        fs::write(file, "contents").unwrap();
        sh(format!("sync '{}'", file.display()));
    }
    pin(&["--hold", "none"], &[inside.clone(), secret.clone(), seen.clone()]);
    fs::set_permissions(hidden, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();

    let run = list(scratch.mount_point()).as_nobody().run().expect(4);
    let status = |path: &Path| {
        let report = run.json();
        let file = report["files"].as_array().unwrap().iter().find(|file| path_of(&file["path"]) == *path).cloned();
        file.map(|file| (file["exit_status"].as_i64().unwrap(), file["error"]["call"].as_str().map(str::to_owned)))
    };
    assert_eq!(status(hidden), Some((4, Some("open".into()))), "{run}");
    assert_eq!(status(secret), Some((4, Some("open".into()))), "{run}");
    assert_eq!(status(seen), Some((0, None)), "{run}");
    assert_eq!(status(inside), None, "{run}");
    let text = Daxfile::new(["list", "-q"]).arg(scratch.mount_point()).as_nobody().run().expect(4);
    assert!(text.stdout.is_empty(), "{text}");
    // Where the guard's directory is unreadable, list says that too.
    let unreadable = text.stderr.lines().filter(|line| !line.contains("the guard")).count();
    assert_eq!(unreadable, 2, "{text}");

    // Below another mount nothing has a name; only BULKSTAT sees it.
    sh(format!("mount -t tmpfs none '{}'", hidden.display()));
    let run = Daxfile::new(["list"]).arg(scratch.mount_point()).run();
    sh(format!("umount '{}'", hidden.display()));
    let run = run.expect(3);
    assert!(run.stderr.contains("1 files with attributes could not be examined"), "{run}");
    assert_eq!(run.text().lines().count(), 3, "{run}");
}

/// Processors share a large directory. On XFS, most of its files can have attributes where a security module is active.
#[test]
fn list_finds_the_pins_of_a_large_directory() {
    const FILES: usize = 6_000;
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let files: Vec<PathBuf> = (0..FILES).map(|number| scratch.path(number.to_string())).collect();
        files.iter().for_each(|file| fs::write(file, "x").unwrap());
        sh(format!("sync -f '{}'", scratch.mount_point().display()));
        let pinned: Vec<PathBuf> = files.iter().step_by(97).cloned().collect();
        pin(&["--hold", "none"], &pinned);
        let mut books = Books::default();
        pinned.iter().for_each(|file| books.add(&BTreeSet::from([file.clone()]), "pinned", Some("none")));
        books.judge(&list(scratch.mount_point()).run().expect(0));
    });
}

/// `list` does not enter a mount below the directory, and does not follow links.
#[test]
fn list_stays_on_its_filesystem() {
    let (one, other) = (Scratch::new(Kind::ext4()), Scratch::new(Kind::xfs()));
    let files = [one.path("file"), other.path("file")];
    for file in &files {
        fs::write(file, "contents").unwrap();
        sh(format!("sync '{}'", file.display()));
    }
    pin(&[], &files);
    let [mounted, bound, link] = ["mounted", "bound", "link"].map(|name| one.path(name));
    fs::create_dir(&mounted).unwrap();
    fs::create_dir(&bound).unwrap();
    symlink(other.mount_point(), &link).unwrap();
    sh(format!(
        "mount --bind '{}' '{}'; mount --bind '{}' '{}'",
        other.mount_point().display(),
        mounted.display(),
        one.mount_point().display(),
        bound.display()
    ));
    let listed = |run: Run| {
        run.expect(0).json()["files"].as_array().unwrap().iter().map(|file| path_of(&file["path"])).collect::<Vec<_>>()
    };
    let below = listed(list(one.mount_point()).run());
    let there = listed(list(&mounted).run());
    let here = listed(Daxfile::new(["list", "--json"]).dir(&mounted).run());
    let refused = list(&link).run();
    sh(format!("umount '{}' '{}'", mounted.display(), bound.display()));
    assert_eq!(below, [files[0].clone()]);
    assert_eq!(there, [mounted.join("file")]);
    assert_eq!(here, there, "the filesystem of the current directory");
    let refused = refused.expect(2);
    assert!(refused.stderr.ends_with("/link: a symbolic link (not followed)\n"), "{refused}");
}

#[test]
fn list_takes_files_and_refuses_nonsense() {
    let scratch = Scratch::new(Kind::ext4());
    let [file, plain] = ["file", "plain"].map(|name| scratch.path(name));
    for file in [&file, &plain] {
        fs::write(file, "contents").unwrap();
        sh(format!("sync '{}'", file.display()));
    }
    pin(&["--note", "why"], std::slice::from_ref(&file));
    let text = Daxfile::new(["list"]).arg(&file).arg(&plain).run().expect(0);
    let words: Vec<_> = text.text().split_whitespace().collect();
    assert_eq!([&words[..2], &words[3..]].concat(), ["pinned", "frozen", file.to_str().unwrap(), "why"], "{text}");
    assert_eq!(list(&plain).run().expect(0).json()["files"], Value::Array(Vec::new()));
    let mut fifo = list(&scratch.path("none")).run().expect(2);
    assert!(fifo.stderr.contains("none: No such file or directory (open)"), "{fifo}");
    sh(format!("mkfifo '{}'", scratch.path("fifo").display()));
    fifo = list(&scratch.path("fifo")).run().expect(2);
    assert!(fifo.stderr.contains("fifo: not a regular file"), "{fifo}");
    for wrong in [&["--state", "writer_inside"][..], &["--hold", "x"], &["-0", "--json"], &["--files-from", "-"]] {
        Daxfile::new(["list"]).args(wrong).run().expect(2);
    }
}
