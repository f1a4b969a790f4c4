//! Sessions as a person would have them, held against transcripts in `tests/sessions`.
//!
//! A transcript is its own script. Lines that begin with `$ ` are commands, those with `> ` continue them, those with `#`
//! are prose; the rest is what the commands printed on either stream, and `[N]` the exit status where it was not 0. All
//! commands of a session run in one bash, in the empty root of a fresh filesystem. `UPDATE_SESSIONS=1` rewrites what is
//! not a command or prose.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use daxfile_tests::child::finish;
use daxfile_tests::tools::require;
use daxfile_tests::{Daxfile, Kind, Scratch};

/// Hides, as a sed(1) script, what another kernel, mkfs or moment would make different.
const NORMALISE: &str = r"
s/(inode|generation) [0-9]+/\1 N/g
s/device [0-9]+:[0-9]+/device N:N/
s/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/TIME/g
s/[0-9.]+ [KMGT]iB are free/N are free/

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

enum Item {
    Prose(String),
    Command(String),
}

fn sessions_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sessions")
}

fn parse(transcript: &str) -> Vec<Item> {
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

/// The transcript of these items as it is now, but for what [`NORMALISE`] hides.
fn perform(items: &[Item], scratch: &Scratch) -> String {
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
    require(&["xfs_io", "jq", "filefrag", "chattr", "setfattr", "fallocate", "tar"]);
    let expected = sessions_dir().join(name).with_extension("txt");
    let text = fs::read_to_string(&expected).unwrap();
    let now = normalise(&perform(&parse(&text), &Scratch::new(Kind::xfs())));
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

/// README.md does not show exit statuses.
#[test]
fn readme() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, session) = readme.split_once("```console\n").expect("a session");
    let (session, _) = session.split_once("```\n").expect("its end");
    let now = perform(&parse(session), &Scratch::new(Kind::xfs()));
    let now: String = now.split_inclusive('\n').filter(|line| !line.starts_with('[')).collect();
    assert_eq!(normalise(&now), normalise(session));
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
    many_files
    drift
    json
}
