//! Output for many files and for few, for people and for programs; and input: sizes and lists.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use daxfile_tests::child::spawn;
use daxfile_tests::tools::{require, sh, sh_status};
use daxfile_tests::{Daxfile, Kind, Run, Scratch};

fn make(scratch: &Scratch, name: &str) -> PathBuf {
    let path = scratch.path(name);
    sh(format!("head -c 5000 /dev/zero >'{0}'; sync '{0}'", path.display()));
    path
}

fn run(words: &[&str], dir: &Path, status: i32) -> Run {
    Daxfile::new(words).dir(dir).run().expect(status)
}

/// One file of each kind that can be in a list of pinned files.
fn mixture(scratch: &Scratch) -> &'static str {
    let [ok, drifted, released, gone] = ["ok", "drifted", "released", "gone"].map(|name| make(scratch, name));
    for file in [&ok, &drifted, &released, &gone] {
        Daxfile::new(["pin", "--hold", "none", "--note", "why"]).arg(file).run().expect(0);
    }
    fs::File::options().write(true).open(&drifted).unwrap().set_len(4999).unwrap();
    fs::remove_file(&gone).unwrap();
    Daxfile::new(["unpin"]).arg(&released).run().expect(0);
    sh(format!("cd '{}'; mkdir dir", scratch.mount_point().display()));
    "# pins\nok\ndrifted\nreleased\ngone\n"
}

#[test]
fn verify_separates_outcomes_and_prints_totals() {
    let scratch = Scratch::new(Kind::ext4());
    let list = mixture(&scratch);
    let verify = |flags: &[&str], more: &str, status| {
        let list = list.to_owned() + more;
        let call = Daxfile::new([&["verify", "--files-from", "-"], flags].concat());
        call.stdin(list).dir(scratch.mount_point()).run().expect(status)
    };
    let all = verify(&[], "", 1);
    let lines: Vec<_> = all.text().lines().collect();
    assert!(lines.contains(&"ok: unchanged, 1 extent, why"), "{all}");
    assert!(lines.contains(&"drifted: drifted, why"), "{all}");
    assert!(lines.contains(&"released: not pinned"), "{all}");
    assert!(lines.contains(&"gone: gone"), "{all}");
    assert_eq!(lines.last(), Some(&"4 files: 1 unchanged, 1 drifted, 1 not pinned, 1 gone"), "{all}");
    assert_eq!(all.stderr, "", "{all}");

    // With a file that cannot be examined, the status is that of the worst file; the output still separates both kinds.
    let both = verify(&[], "dir\n", 2);
    let totals = both.text().lines().last();
    assert_eq!(totals, Some("5 files: 1 unchanged, 1 drifted, 1 not pinned, 1 gone, 1 failed"), "{both}");
    let quiet = verify(&["-q"], "dir\n", 2);
    let heads: Vec<_> = quiet.text().lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(heads, ["drifted: drifted, why", "released: not pinned", "gone: gone"], "{quiet}");
    assert!(quiet.stderr.starts_with("daxfile verify: dir: a directory"), "{quiet}");
    let mute = verify(&["-qq"], "dir\n", 2);
    assert_eq!((mute.text(), mute.stderr.as_str()), ("", ""), "{mute}");
    let json = verify(&["--json"], "dir\n", 2).json();
    let statuses: Vec<_> = json["files"].as_array().unwrap().iter().map(|file| file["exit_status"].clone()).collect();
    assert_eq!(statuses, [0, 1, 1, 1, 2]);

    // If all files are unchanged, nothing is printed.
    let well = Daxfile::new(["verify", "-q", "--files-from", "-"]).stdin("ok\nok\n").dir(scratch.mount_point()).run();
    assert_eq!((well.status, well.text(), well.stderr.as_str()), (0, "", ""), "{well}");
    assert!(!run(&["verify", "ok"], scratch.mount_point(), 0).text().contains("files"), "one file needs no totals");
}

#[test]
fn totals_of_every_verb_that_takes_lists() {
    let scratch = Scratch::new(Kind::ext4());
    let dir = scratch.mount_point();
    for name in ["a", "b"] {
        make(&scratch, name);
    }
    sh(format!("truncate -s 1M '{}'", scratch.path("sparse").display()));
    let totals = |words: &[&str], status| {
        let run = run(&[words, &["a", "b", "sparse"]].concat(), dir, status);
        run.text().lines().last().unwrap().to_owned()
    };
    assert_eq!(totals(&["check"], 1), "3 files: 2 pinnable, 1 not pinnable");
    assert_eq!(totals(&["pin", "--dry-run"], 1), "3 files: 2 would be pinned, 1 refused");
    assert_eq!(totals(&["pin"], 1), "3 files: 2 pinned, 1 refused");
    assert_eq!(totals(&["stat"], 0), "3 files: 2 pinned, 1 not pinned");
    assert_eq!(totals(&["unpin"], 0), "3 files: 2 unpinned, 1 not pinned");
    assert_eq!(totals(&["prepare"], 0), "3 files: 2 with nothing to prepare, 1 prepared");
    let list = run(&["list", "."], dir, 0);
    assert_eq!(list.text(), "", "{list}");
}

/// The note is kept with the pin, shown wherever the pin is, and steers no terminal.
#[test]
fn note_is_kept_and_shown() {
    for kind in Kind::small_and_large_blocks() {
        let scratch = Scratch::new(kind);
        let dir = scratch.mount_point();
        let file = make(&scratch, "file");
        let longest = "ö".repeat(128);
        for (hold, note, shown) in [
            ("frozen", "for\nthe \x1b[31mboot loader", r"$'for\nthe \033[31mboot loader'"),
            ("none", "it's", r"$'it\'s'"),
            ("frozen", &longest, &longest),
        ] {
            run(&["pin", "--hold", hold, "--note", note, "--align", "1K", "--max-extents", "9", "file"], dir, 0);
            // The same note again, or no note, is no other pin.
            let options = ["pin", "--hold", hold, "--align", "1K", "--max-extents", "9"];
            run(&[&options[..], &["--note", note, "file"]].concat(), dir, 0);
            run(&[&options[..], &["file"]].concat(), dir, 0);
            let other = run(&[&options[..], &["--note", "other", "file"]].concat(), dir, 1);
            assert!(other.stderr.contains("another note: unpin first"), "{other}");

            for words in [&["stat"][..], &["verify"], &["list"]] {
                let text = run(&[words, &["file"]].concat(), dir, 0);
                assert!(text.text().contains(shown), "{text}");
                let json = run(&[words, &["--json", "file"]].concat(), dir, 0).json();
                let pin = &json["files"][0]["pin"];
                assert_eq!(
                    (&pin["note"], &pin["align"], &pin["max_extents"], &pin["dax"]),
                    (&note.into(), &1024.into(), &9.into(), &false.into()),
                    "{pin}"
                );
            }
            let stat = run(&["stat", "file"], dir, 0);
            assert!(stat.text().contains("\n  options  --align 1 KiB, --max-extents 9\n"), "{stat}");
            run(&["unpin", "file"], dir, 0);
        }
        for note in [String::new(), "x".repeat(257), "ö".repeat(129)] {
            let run = run(&["pin", "--note", &note, "file"], dir, 2);
            assert!(run.stderr.contains("--note"), "{run}");
        }
        run(&["pin", "--as-recorded", "--note", "why", "file"], dir, 0);
        sh(format!("chattr -i '{}'", file.display()));
        // Held again, it is the pin that it was.
        run(&["pin", "--as-recorded", "file"], dir, 0);
        assert!(run(&["verify", "file"], dir, 0).text().ends_with(", why\n"));
    }
}

/// An older daxfile can read every record without a note. The unit tests of the format compare the bytes.
#[test]
fn record_uses_the_oldest_sufficient_version() {
    require(&["getfattr"]);
    let scratch = Scratch::new(Kind::xfs());
    let file = make(&scratch, "file");
    for (note, version) in [(&[][..], "01"), (&["--note", "why"], "02")] {
        Daxfile::new(["pin"]).args(note).arg(&file).run().expect(0);
        let record =
            sh(format!("getfattr --only-values -n security.daxfile.pin '{}' | od -An -tx1 -N8", file.display()));
        assert_eq!(record.split_whitespace().last(), Some(version));
        Daxfile::new(["unpin"]).arg(&file).run().expect(0);
    }
}

/// `--size` accepts the sizes that fallocate(1) accepts, with the same meaning.
#[test]
fn sizes_are_those_of_fallocate() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    let name = file.display();
    let sizes = [
        "4097", "1K", "1k", "1KiB", "1kib", "1KB", "3MB", "1.5M", "1.50K", "1.K", "0.1K", "1.5KB", "0x1000", "0x1K",
        "0X1e", "010", "010K",
    ];
    let nonsense = ["", "K", "1.5", ".5K", "1,5K", "1KiBx", "08", "0x", "1e3", "-5", "1X", "9E"];
    for size in sizes.iter().chain(&nonsense) {
        let theirs = sh_status(format!("fallocate -l '{size}' '{name}' 2>/dev/null")) == 0;
        assert_eq!(theirs, sizes.contains(size), "fallocate -l {size}");
        let length = theirs.then(|| fs::metadata(&file).unwrap().len());
        let _ = fs::remove_file(&file);
        let ours = Daxfile::new(["alloc", &format!("--size={size}")]).arg(&file).run();
        assert_eq!(ours.status, if theirs { 0 } else { 2 }, "{ours}");
        assert_eq!(fs::metadata(&file).ok().map(|metadata| metadata.len()), length, "--size={size}");
        let _ = fs::remove_file(&file);
    }
}

/// For a file that ends within a block, sizes are those of the file.
#[test]
fn sizes_end_where_the_file_ends() {
    let scratch = Scratch::new(Kind::xfs());
    let dir = scratch.mount_point();
    let run = |words: &[&str], status| run(words, dir, status).text().to_owned();
    assert_eq!(run(&["alloc", "-s", "5000", "new"], 0), "new: created, 4.8 KiB in 1 extent\n");
    sh(format!(
        "cd '{}'; truncate -s 5000 sparse; xfs_io -f -c 'pwrite -q 4k 4k' -c 'truncate 13000' two; sync two",
        dir.display()
    ));
    assert!(run(&["check", "-b", "sparse"], 1).contains("where:  5000 at byte 0\n"));
    assert!(run(&["check", "-b", "two"], 1).contains("where:  8904 in 2 ranges: 4096 at byte 0, 4808 at byte 8192\n"));
}

/// The recorded strip is above the current one, with the characters of stat.
#[test]
fn drift_is_drawn_as_two_strips() {
    let scratch = Scratch::new(Kind::ext4());
    let dir = scratch.mount_point();
    run(&["alloc", "-s", "64K", "file"], dir, 0);
    run(&["pin", "--hold", "none", "file"], dir, 0);
    let strips = |words: &[&str], status| {
        let run = run(words, dir, status);
        let strips = run.text().lines().filter(|line| line.ends_with(']')).map(|line| line.trim().to_owned());
        strips.filter(|line| line.starts_with("was") || line.starts_with("now")).collect::<Vec<_>>()
    };
    assert!(strips(&["verify", "file"], 0).is_empty());
    sh(format!("cd '{}'; fallocate -p -o 16K -l 8K file; fallocate -z -o 32K -l 16K file", dir.display()));
    let whole = "#".repeat(64);
    let now = format!("{}{}{}{}{}", "#".repeat(16), ".".repeat(8), "#".repeat(8), "u".repeat(16), "#".repeat(16));
    assert_eq!(strips(&["verify", "file"], 1), [format!("was  [{whole}]"), format!("now  [{now}]")]);
    assert_eq!(strips(&["stat", "file"], 0).len(), 2);
    // A map that is kept as digests cannot be drawn.
    sh(format!(
        "cd '{}'; for ((i = 0; i < 300; i++)); do echo \"pwrite -q $((i * 8))k 4k\"; done | xfs_io -f many; sync many",
        dir.display()
    ));
    run(&["pin", "--hold", "none", "--allow", "hole", "many"], dir, 0);
    sh(format!("fallocate -p -l 4K '{}'", scratch.path("many").display()));
    assert!(strips(&["verify", "many"], 1).is_empty());
}

/// The pages are in the program.
#[test]
fn man_prints_the_pages() {
    for (words, page) in [
        (&[][..], include_str!("../../man/daxfile.8")),
        (&["daxfile"], include_str!("../../man/daxfile.8")),
        (&["holds"], include_str!("../../man/daxfile-holds.7")),
        (&["attacks"], include_str!("../../man/daxfile-attacks.7")),
        (&["json"], include_str!("../../man/daxfile-json.5")),
    ] {
        assert_eq!(Daxfile::new(["man"]).args(words).run().expect(0).text(), page);
    }
    Daxfile::new(["man", "none"]).run().expect(2);
    let json = Daxfile::new(["man", "--json"]).run().expect(0);
    assert!(json.text().starts_with(".\\\""), "{json}");
}

/// A terminal, whose every line is read.
fn on_terminal(words: &[&str], dir: &Path) -> String {
    require(&["script"]);
    let run = Daxfile::new(words)
        .wrap(["bash", "-c", "script -qec \"$(printf '%q ' \"$0\" \"$@\")\" /dev/null | tr -d '\\r'"])
        .dir(dir)
        .run();
    run.text().to_owned()
}

/// The output on a terminal with this many columns, without colours.
fn on_columns(columns: usize, words: &[&str], dir: &Path) -> String {
    require(&["script"]);
    let shell = format!(
        "script -qec \"stty rows 24 cols {columns}; $(printf '%q ' \"$0\" --color never \"$@\")\" /dev/null | tr -d '\\r'"
    );
    Daxfile::new(words).wrap(["bash", "-c", &shell]).dir(dir).run().text().to_owned()
}

#[test]
fn screens_use_the_width_of_the_terminal() {
    let scratch = Scratch::new(Kind::xfs());
    let dir = scratch.mount_point();
    sh(format!(
        "cd '{}'; xfs_io -f -c 'pwrite -q 0 256k' -c 'falloc 256k 256k' -c 'truncate 1m' f; cp --reflink f copy
         xfs_io -c 'pwrite -q 512k 64k' -c 'falloc -k 2m 64k' -c 'fpunch 540k 4k' -c 'fpunch 560k 4k' f
         xfs_io -f -c 'pwrite -q 0 1m' -c fsync moved",
        dir.display()
    ));
    run(&["pin", "--hold", "none", "moved"], dir, 0);
    sh(format!("cd '{}'; fallocate -p -o 500K -l 24K moved", dir.display()));
    let screens: [&[&str]; 9] = [
        &["stat", "f"],
        &["stat", "-b", "f"],
        &["stat", "--extents", "moved"],
        &["check", "f"],
        &["pin", "--dry-run", "f"],
        &["prepare", "--dry-run", "f"],
        &["verify", "moved"],
        &["list", "."],
        &["probe"],
    ];
    for (columns, cells) in [(60, 40), (80, 64), (200, 160)] {
        for words in screens {
            let screen = on_columns(columns, words, dir);
            let plain = Daxfile::new(words).dir(dir).run();
            let whole: Vec<&str> = plain.text().split_whitespace().chain(plain.stderr.split_whitespace()).collect();
            for line in screen.lines() {
                if let Some((_, strip)) = line.strip_suffix(']').and_then(|line| line.split_once('[')) {
                    assert_eq!(strip.len(), cells, "{screen}");
                    continue;
                }
                for word in line.split_whitespace() {
                    assert!(whole.contains(&word), "{columns} columns break a word: {word}: {screen}");
                }
                // Commands, tables and lists are not folded, nor a file's first line.
                let folded = !["remedy: ", "logical"].iter().any(|word| line.contains(word));
                let folded = folded && line.contains(|c: char| c.is_ascii_alphabetic()) && words[0] != "list";
                let folded = folded && line.starts_with(' ') && line.split_whitespace().count() > 1;
                assert!(!folded || line.chars().count() <= columns, "{columns} columns: {line}");
            }
        }
    }
}

#[test]
fn json_is_indented_on_a_terminal() {
    require(&["jq"]);
    let scratch = Scratch::new(Kind::xfs());
    let dir = scratch.mount_point();
    for name in ["a", "b"] {
        make(&scratch, name);
    }
    for words in [&["stat", "--json", "--extents", "a", "b"][..], &["list", "--json", "."], &["check", "--json", "a"]] {
        let shown = on_terminal(words, dir);
        let plain = run(words, dir, 0).json();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect(&shown), plain);
        assert!(
            shown.lines().count() > 3 && shown.starts_with("{\n  \"schema_version\": 1,\n  \"files\": ["),
            "{shown}"
        );
        // Indented like the output of jq.
        let empty = shown.contains("\"files\": [\n  ]");
        assert!(
            empty || Daxfile::new(["."]).wrap(["sh", "-c", "jq \"$1\""]).stdin(shown.clone()).run().text() == shown,
            "{shown}"
        );
    }
}

/// Work that lasts shows for how long, one file as well as many; work that is over soon shows nothing.
#[test]
fn work_over_a_second_shows_on_a_terminal() {
    let scratch = Scratch::new(Kind::xfs());
    let dir = scratch.mount_point();
    for name in ["a", "b"] {
        make(&scratch, name);
    }
    require(&["strace"]);
    let slow = |files: &[&str]| {
        let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fgetxattr,flistxattr:delay_enter=1500000"];
        require(&["script"]);
        let call = [&["stat"], files].concat();
        let run = Daxfile::new(&call)
            .wrap([
                "bash",
                "-c",
                &format!("script -qec \"$(printf '%q ' {} \"$0\" \"$@\")\" /dev/null", words.join(" ")),
            ])
            .dir(dir)
            .run();
        run.text().to_owned()
    };
    sh(format!("cd '{}'; setfattr -n user.x -v y a; setfattr -n user.x -v y b", dir.display()));
    let one = slow(&["a"]);
    assert!(one.contains(" 1s"), "{one:?}");
    let two = slow(&["a", "b"]);
    assert!(two.contains("of 2 files"), "{two:?}");
    let quick = on_terminal(&["stat", "a", "b"], dir);
    assert!(!quick.contains("of 2 files") && !quick.contains(" 1s"), "{quick:?}");
}

/// A run that a signal ends says in one line how many files are done and how many are not; its JSON is complete, and
/// has the status of the process.
#[test]
fn an_interrupt_is_one_line() {
    const FILES: usize = 400;
    let scratch = Scratch::new(Kind::ext4());
    let dir = scratch.mount_point();
    sh(format!("cd '{}'; for ((i = 0; i < {FILES}; i++)); do echo $i >$i; done; sync -f .", dir.display()));
    let list: String = (0..FILES).map(|number| format!("{number}\n")).collect();
    fs::write(scratch.path("list"), list).unwrap();
    let interrupted = |words: &[&str]| {
        // Each file of the second batch takes its time, so that there is one to interrupt.
        let slow =
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync,fgetxattr,flistxattr:delay_exit=20000"];
        let words = [words, &["--files-from", "list"]].concat();
        let mut command = Daxfile::new(words).wrap(slow).dir(dir).command();
        let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        std::thread::sleep(Duration::from_millis(1500));
        // strace ends by the signal that ended its child.
        sh(format!("kill -INT $(cat /proc/{0}/task/{0}/children)", child.id()));
        let began = Instant::now();
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.signal().or(out.status.code().map(|code| code - 128)), Some(2), "{out:?}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (_, said) = interrupted(&["pin"]);
    let words = "; the other ";
    assert!(said.starts_with("daxfile pin: interrupted: ") && said.contains(words), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let done: usize = said.split(' ').nth(3).unwrap().parse().unwrap();
    let pinned = Daxfile::new(["list", "-0"]).arg(dir).run().expect(0).stdout;
    assert_eq!(pinned.iter().filter(|byte| **byte == 0).count(), done, "{said}");
    assert!(done < FILES, "it was over too soon: {said}");
    Daxfile::new(["unpin", "--files-from", "list", "-q"]).dir(dir).run().expect(0);

    for verb in ["stat", "pin"] {
        let (stdout, said) = interrupted(&[verb, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"));
        assert_eq!(report["exit_status"], 130);
        assert!(report["files"].as_array().unwrap().len() < FILES);
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
