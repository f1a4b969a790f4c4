//! Sessions as a person would have them, compared with transcripts in `tests/docs/sessions`.
//!
//! A transcript is its own script. Lines that begin with `$ ` are commands, those with `> ` continue them, those with
//! `#` are prose; the rest is the output of the commands on either stream, and `[N]` the exit status if it was not 0.
//! All commands of a session run in one bash, in the empty root of a fresh filesystem: XFS, or ext4 where the session's
//! name says so. `UPDATE_SESSIONS=1` rewrites the output and keeps commands and prose.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use daxfile_tests::child::finish;
use daxfile_tests::tools::require;
use daxfile_tests::{Daxfile, Kind, Run, Scratch, run};

use crate::read;

/// Hides, as a sed(1) script, the differences between kernels, mkfs versions and moments.
const NORMALISE: &str = r"
s/(inode|generation) [0-9]+/\1 N/g
s/device [0-9]+:[0-9]+/device N:N/
s/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/TIME/g
s/[0-9.]+ [KMGT]iB are free/N are free/
s/UUID=[0-9a-f-]+/UUID=UUID/g
s/resume_offset=[0-9]+/resume_offset=N/g

# Rows of changes: physical offsets, and so the widths of the columns.
/^  logical +length +was/s/  +/  /g
/^  [0-9]+ +[0-9]+ +(at|unwritten at|hole|\(digest\))/{
    s/at [0-9]+/at PHYSICAL/g
    s/  +/  /g
}
# Rows of extents.
s/^(  [ 0-9]{20} )[ 0-9]{19}[0-9]/\1            PHYSICAL/
# Rows of filefrag(8).
s/^( +[0-9]+: +[0-9]+\.\. +[0-9]+:) +[0-9]+\.\. +[0-9]+:/\1 PHYSICAL:/
s/\(PID [0-9, ]+\)/(PID N)/

# By how much a place is off.
s/\(off by [^)]*\)/(off by N)/g
";

/// Runs the commands that are its arguments; each one's output ends with a line of a control character and the status.
const RUNNER: &str = r#"
exec 2>&1
PATH=${0%/*}:$PATH
for command; do
    eval "$command"
    printf '\001%d\n' $?
done
"#;

pub(crate) enum Item {
    Prose(String),
    Command(String),
}

fn sessions_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sessions")
}

pub(crate) fn parse(transcript: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut lines = transcript.lines().peekable();
    let starts_item = |line: Option<&&str>| line.is_none_or(|line| line.starts_with('#') || line.starts_with("$ "));
    while let Some(line) = lines.next() {
        if let Some(command) = line.strip_prefix("$ ") {
            let mut command = command.to_owned();
            while let Some(more) = lines.next_if(|line| line.starts_with("> ")) {
                command = command + "\n" + &more[2..];
            }
            items.push(Item::Command(command));
        } else if line.starts_with('#') || (line.is_empty() && starts_item(lines.peek())) {
            items.push(Item::Prose(line.to_owned()));
        }
    }
    items
}

/// The current transcript of these items, except for the parts that [`NORMALISE`] hides.
pub(crate) fn perform(items: &[Item], scratch: &Scratch) -> String {
    let commands = items.iter().filter_map(|item| match item {
        Item::Command(command) => Some(command),
        Item::Prose(_) => None,
    });
    let run = Daxfile::new(commands).wrap(["bash", "-c", RUNNER]).dir(scratch.mount_point()).run().expect(0);
    let mut rest = run.text();
    let mut transcript = String::new();
    for item in items {
        match item {
            Item::Prose(line) => transcript += line,
            Item::Command(command) => {
                transcript = transcript + "$ " + &command.replace('\n', "\n> ") + "\n";
                let (output, after) = rest.split_once('\u{1}').unwrap_or_else(|| panic!("{command}: ended {run}"));
                let (status, after) = after.split_once('\n').expect("the status ends its line");
                transcript += output;
                if !output.is_empty() && !output.ends_with('\n') {
                    transcript.push('\n');
                }
                rest = after;
                if status == "0" {
                    continue;
                }
                transcript = transcript + "[" + status + "]";
            }
        }
        transcript.push('\n');
    }
    assert_eq!(rest, "", "after the last command of {run}");
    transcript
}

fn normalise(text: &str) -> String {
    let run = Daxfile::new([NORMALISE]).wrap(["sh", "-c", r#"exec sed -E "$1""#]).stdin(text).run().expect(0);
    run.text().to_owned()
}

fn session(name: &str) {
    require(&[
        "xfs_io",
        "jq",
        "filefrag",
        "chattr",
        "setfattr",
        "fallocate",
        "tar",
        "logrotate",
        "dpkg",
        "swapon",
        "bsdtar",
        "rsync",
    ]);
    let expected = sessions_dir().join(name).with_extension("txt");
    let text = fs::read_to_string(&expected).unwrap();
    let kind = if name.ends_with("_ext4") { Kind::ext4() } else { Kind::xfs() };
    let now = normalise(&perform(&parse(&text), &Scratch::new(kind)));
    if std::env::var_os("UPDATE_SESSIONS").is_some() {
        fs::write(&expected, now).unwrap();
    } else if now != text {
        let dir = tempfile::tempdir().unwrap();
        let actual = dir.path().join("now");
        fs::write(&actual, now).unwrap();
        let diff = finish(Command::new("diff").arg("-u").arg(&expected).arg(&actual));
        let diff = String::from_utf8_lossy(&diff.stdout);
        panic!("{name} went another way; UPDATE_SESSIONS=1 rewrites the transcript\n{diff}");
    }
}

/// The contents of the fences of this kind in README.md.
fn fenced(kind: &str) -> Vec<String> {
    let readme = read("README.md");
    let parts = readme.split("```").skip(1).step_by(2);
    parts.filter_map(|part| part.strip_prefix(kind)?.strip_prefix('\n').map(str::to_owned)).collect()
}

/// README.md does not show exit statuses.
#[test]
fn readme() {
    let sessions = fenced("console");
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    let now = perform(&parse(&sessions[0]), &Scratch::new(Kind::xfs()));
    let now: String = now.split_inclusive('\n').filter(|line| !line.starts_with('[')).collect();
    assert_eq!(normalise(&now), normalise(&sessions[0]));
}

/// Runs a script where `daxfile` is the program under test, and `pins` replaces the list in /etc.
pub(crate) fn script(text: &str, dir: &Path) -> Run {
    let text = text.replace("/etc/daxfile/pins", "pins");
    Daxfile::new([text]).wrap(["bash", "-c", "PATH=${0%/*}:$PATH; eval \"$1\" 2>&1"]).dir(dir).run()
}

#[test]
fn scripts_of_the_pages_work() {
    require(&["chattr", "setfattr", "lsattr", "jq"]);
    let scratch = Scratch::new(Kind::xfs());
    let dir = scratch.mount_point();
    let file = dir.join("disk.img");
    run(&["alloc", "-s", "1M"], &file).expect(0);
    run(&["pin"], &file).expect(0);
    let scripts = fenced("sh");
    assert_eq!(scripts.len(), 1, "it has its test here: {scripts:?}");
    let way_out = &scripts[0];
    let monitoring = displays(&read("man/daxfile.8"), "MONITORING");
    assert_eq!(monitoring.len(), 3, "each has its test here, or in tests/scripts/fleet.sh: {monitoring:?}");
    let [monitor, prometheus] = [&monitoring[0], &monitoring[1]];
    let counts = || {
        script(&prometheus.replace("/srv", "."), dir).expect(0);
        let text = fs::read_to_string(dir.join("daxfile.prom")).unwrap();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        ["daxfile_pins_unchanged", "daxfile_pins_drifted", "daxfile_pins_unknown"].map(|name| value(name).expect(name))
    };

    let no_list = script(monitor, dir).expect(0);
    assert!(no_list.text().starts_with("not examined:\ndaxfile verify: pins: No such file"), "{no_list}");
    assert_eq!(counts(), [0, 0, 1], "no list");
    fs::write(dir.join("pins"), "# held for the boot loader\ndisk.img\n").unwrap();
    assert_eq!(script(monitor, dir).expect(0).text(), "");
    assert_eq!(counts(), [1, 0, 0]);

    script(&way_out.replace("FILE", "disk.img"), dir).expect(0);
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(4096).unwrap();
    assert_eq!(script(monitor, dir).expect(0).text(), "changed, unpinned or gone:\ndisk.img: not pinned\n");
    assert_eq!(counts(), [0, 1, 0]);
    // The output separates the two kinds, though there is only one status.
    fs::create_dir(dir.join("dir")).unwrap();
    fs::write(dir.join("pins"), "disk.img\ndir\nnone\n").unwrap();
    let both = script(monitor, dir).expect(0);
    let said =
        "changed, unpinned or gone:\ndisk.img: not pinned\nnone: gone\nnot examined:\ndaxfile verify: dir: a dir";
    assert!(both.text().starts_with(said), "{both}");
    assert_eq!(both.text().lines().count(), 5, "{both}");
    assert_eq!(counts(), [0, 2, 1]);
    // Metrics that could not be written do not replace the last ones.
    let last = fs::read(dir.join("daxfile.prom")).unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.join("daxfile.prom.new")).unwrap();
    assert_ne!(script(&prometheus.replace("/srv", "."), dir).status, 0);
    assert_eq!(fs::read(dir.join("daxfile.prom")).unwrap(), last);
    assert!(dir.join("daxfile.prom").symlink_metadata().unwrap().is_file());
}

/// The literal displays in a section of a manual page.
fn displays(page: &str, section: &str) -> Vec<String> {
    let (_, rest) = page.split_once(&format!(".Sh {section}\n")).expect("the section");
    let (section, _) = rest.split_once("\n.Sh ").unwrap();
    let displays = section.split(".Bd -literal -offset indent\n").skip(1);
    let displays = displays.map(|display| display.split_once(".Ed").expect("its end").0);
    displays.map(|display| display.replace("\\e", "\\").replace("\\-", "-")).collect()
}

/// The literal displays under EXAMPLES: `# ` begins a command, which goes on where a line begins with blanks.
fn examples(page: &str) -> Vec<Vec<(String, String)>> {
    let displays = displays(page, "EXAMPLES");
    displays
        .iter()
        .map(|display| {
            let mut commands: Vec<(String, String)> = Vec::new();
            for line in display.lines() {
                match (line.strip_prefix("# "), commands.last_mut()) {
                    (Some(command), _) => commands.push((command.to_owned(), String::new())),
                    (None, Some((command, _))) if line.starts_with("    ") => *command += &format!("\n{line}"),
                    (None, Some((_, output))) => *output += &format!("{line}\n"),
                    (None, None) => panic!("{line}: not after a command"),
                }
            }
            commands
        })
        .collect()
}

/// An example, with files of the scratch directory in place of the system's.
fn here(text: &str) -> String {
    [
        ("/srv/images", "images"),
        ("/boot/", "boot/"),
        ("/boot ", "boot "),
        ("/mnt/", "mnt/"),
        ("apt-get -qq upgrade", "true"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Every command prints the output that the page shows, or succeeds, in a directory with some images.
#[test]
fn examples_of_the_pages_work() {
    require(&["jq"]);
    let mut all = 0;
    for page in ["man/daxfile.8", "man/daxfile-json.5"] {
        let scratch = Scratch::new(Kind::xfs());
        let dir = scratch.mount_point();
        script(
            "mkdir images boot mnt; for i in images/a images/b; do daxfile alloc -s 1M $i; done; echo images/a >pins",
            dir,
        );
        script("cp images/a boot/vmlinuz-6.1; daxfile prepare boot/vmlinuz-6.1", dir);
        if page == "man/daxfile-json.5" {
            script("daxfile alloc -s 1M disk.img; daxfile pin disk.img images/a", dir);
        }
        for commands in examples(&read(page)) {
            let told = commands.iter().any(|(_, output)| !output.is_empty());
            for (command, output) in commands {
                let run = script(&here(&command), dir).expect(0);
                assert!(!told || run.text() == here(&output), "{page}: {run}");
                all += 1;
            }
        }
    }
    assert!(all >= 9, "{all} examples");
}

macro_rules! sessions {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            session(stringify!($name));
        })*

        #[test]
        fn every_transcript_is_performed() {
            let mut names: Vec<_> =
                fs::read_dir(sessions_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            let mut performed = vec![$(concat!(stringify!($name), ".txt")),*];
            performed.sort_unstable();
            assert_eq!(names, performed);
        }
    };
}

sessions! {
    first_use
    ci_job
    refused
    upgrade
    other_programs
    many_files
    drift
    json
    who_pinned_this
    quiet_job
    monitoring
    swap_xfs
    swap_ext4
    kernel_upgrade
    restore
    repin
}
