//! Compares the manual pages and README.md with the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use daxfile::file::blockers::Kind;
use daxfile::pin::state::State;
use daxfile_tests::Daxfile;
use daxfile_tests::child::finish;
use daxfile_tests::tools::require;
use strum::VariantArray;

use crate::read;

pub(crate) type Names = BTreeSet<String>;

fn daxfile(args: &[&str]) -> Output {
    finish(&mut Daxfile::new(args).command())
}

fn help(args: &[&str]) -> String {
    let out = daxfile(&[args, &["--help"]].concat());
    assert!(out.status.success(), "{args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// The names of each option: of `  -s, --size <SIZE>  Size of ...`, `-s` and `--size`.
fn options_of_help(args: &[&str]) -> Vec<Vec<String>> {
    let help = help(args);
    // Descriptions are further to the right.
    let lines = help.lines().filter(|line| line.len() - line.trim_start().len() < 8).map(str::trim_start);
    let lines = lines.filter(|line| line.starts_with('-'));
    let names =
        lines.map(|line| line.split("  ").next().unwrap().split([',', ' ']).filter(|word| word.starts_with('-')));
    // An option that may be repeated ends in dots.
    names.map(|names| names.map(|name| name.trim_end_matches('.').to_owned()).collect()).collect()
}

pub(crate) fn verbs() -> Names {
    let help = help(&[]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.map(|line| line.split_whitespace().next().unwrap().to_owned());
    let verbs: Names = names.filter(|name| name != "help").collect();
    assert!(verbs.len() >= 6, "{help}");
    verbs
}

/// The options of a line of mdoc(7): `Fl s` and `Fl -size`.
fn options_of_mdoc(line: &str) -> Names {
    let words: Vec<_> = line.split_whitespace().collect();
    words.windows(2).filter(|pair| matches!(pair[0], "Fl" | ".Fl")).map(|pair| format!("-{}", pair[1])).collect()
}

/// Titles and lines of the page's sections or subsections that begin with this macro.
fn sections<'a>(page: &'a str, begin: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut sections: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if let Some(title) = line.strip_prefix(begin) {
            inside = true;
            sections.push((title.trim(), Vec::new()));
        } else if line.starts_with(".Sh") || line.starts_with(".Ss") {
            inside = false;
        } else if inside {
            sections.last_mut().unwrap().1.push(line);
        }
    }
    sections
}

fn section<'a>(page: &'a str, title: &str) -> Vec<&'a str> {
    let found = sections(page, ".Sh ").into_iter().find(|section| section.0 == title);
    found.unwrap_or_else(|| panic!("no section {title}")).1
}

/// The options of each verb in the synopsis.
fn synopsis(page: &str) -> BTreeMap<String, Names> {
    let mut synopsis: BTreeMap<String, Names> = BTreeMap::new();
    let mut verb = None;
    for line in section(page, "SYNOPSIS") {
        if let Some(name) = line.strip_prefix(".Cm ") {
            verb = Some(name).filter(|name| *name != "help");
        }
        if let Some(verb) = verb {
            synopsis.entry(verb.to_owned()).or_default().extend(options_of_mdoc(line));
        }
    }
    synopsis
}

/// The options in those subsections whose titles name this verb, or every command.
fn described(page: &str, verb: &str) -> Names {
    let names_it = |title: &str| title.split([' ', ',']).any(|word| word == verb || word == "every");
    let sections = sections(page, ".Ss ").into_iter().filter(|(title, _)| names_it(title));
    let items = sections.flat_map(|(_, lines)| lines).filter(|line| line.starts_with(".It "));
    items.flat_map(options_of_mdoc).collect()
}

#[test]
fn page_and_program_have_the_same_options() {
    let page = read("man/daxfile.8");
    let synopsis = synopsis(&page);
    let common = options_of_help(&[]);
    assert!(common.contains(&vec!["--json".into()]) && common.contains(&vec!["-b".into(), "--bytes".into()]));
    assert_eq!(synopsis.keys().cloned().collect::<Names>(), verbs());
    for verb in verbs() {
        let options = options_of_help(&[&verb]);
        let all: Names = options.concat().into_iter().collect();
        assert_eq!(described(&page, &verb), all, "daxfile {verb}: the page (left) and --help (right)");
        // The synopsis shows the shorter name of each, and leaves out the options of every verb.
        let own = options.iter().filter(|names| !common.contains(names)).map(|names| names[0].clone());
        assert_eq!(synopsis[&verb], own.collect(), "daxfile {verb}: the synopsis (left) and --help (right)");
    }
}

/// The possible values of an option of `pin`.
fn values(option: &str) -> Names {
    let out = daxfile(&["pin", &format!("--{option}=?"), "file"]);
    let message = String::from_utf8(out.stderr).unwrap();
    let (_, values) = message.split_once("[possible values: ").unwrap_or_else(|| panic!("{message}"));
    values.split(']').next().unwrap().split(", ").map(str::to_owned).collect()
}

#[test]
fn page_and_program_have_the_same_values() {
    let page = read("man/daxfile.8");
    for option in ["hold", "allow", "color"] {
        let values = values(option);
        let entry = page.split(&format!("\n.It Fl -{option} ")).nth(1).expect("an entry");
        let entry = entry.split("\n.It ").next().unwrap().split("\n.El").next().unwrap();
        let named = entry.lines().filter_map(|line| line.strip_prefix(".Cm "));
        let named = named.flat_map(|line| line.split([' ', ',', '.', ':'])).filter(|word| !word.is_empty());
        let named: Names = named.filter(|word| *word != "or").map(str::to_owned).collect();
        assert_eq!(named, values, "--{option}: the page (left) and the program (right)");
    }
}

/// Every blocker and every state has an entry, and every entry has its blocker or state.
#[test]
fn page_has_every_blocker_and_state() {
    let page = read("man/daxfile.8");
    let entries = |title: &str| -> Names {
        section(&page, title).iter().filter_map(|line| line.strip_prefix(".It ")).map(str::to_owned).collect()
    };
    let blockers: Names = Kind::VARIANTS.iter().map(|kind| kind.words()).collect();
    assert_eq!(entries("BLOCKERS"), blockers);
    let states: Names = State::VARIANTS.iter().map(|state| state.name().replace('_', " ")).collect();
    assert_eq!(entries("PIN RECORD"), states);
}

/// The manual pages in the repository.
fn pages() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../man")).unwrap();
    let is_page = |path: &PathBuf| path.extension().is_some_and(|section| section.len() == 1);
    let mut pages: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(is_page).collect();
    pages.sort();
    assert!(pages.len() >= 4, "{pages:?}");
    pages
}

#[test]
fn mandoc_lint_accepts_the_pages() {
    // Whether other pages are installed, how long the lines of the source are, that .Os has an argument, and that the
    // sections are in the order of man-pages(7), not in that of mdoc(7).
    let unheeded = [
        "referenced manual not found",
        "input text line longer",
        "operating system explicitly specified",
        "sections out of conventional order",
    ];
    require(&["mandoc"]);
    for page in pages() {
        let out = finish(Command::new("mandoc").args(["-T", "lint", "-W", "style"]).arg(&page));
        let text = String::from_utf8(out.stdout).unwrap();
        let said: Vec<_> = text.lines().filter(|line| !unheeded.iter().any(|message| line.contains(message))).collect();
        assert!(said.is_empty(), "{}", said.join("\n"));
    }
}

/// The output of a formatter on a terminal of 80 columns.
fn shown(formatter: &mut Command) -> String {
    let out = finish(formatter.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").env_remove("MAN_KEEP_FORMATTING"));
    let complaints = String::from_utf8_lossy(&out.stderr);
    // mandoc has a database of all pages, which may be older than the pages.
    let complaints: Vec<_> = complaints.lines().filter(|line| !line.contains("outdated mandoc.db")).collect();
    assert!(out.status.success() && complaints.is_empty(), "{}", complaints.join("\n"));
    // Bold and underlined characters are struck twice.
    let mut shown = String::new();
    for character in String::from_utf8(out.stdout).unwrap().chars() {
        if character == '\u{8}' {
            shown.pop();
        } else {
            shown.push(character);
        }
    }
    shown
}

#[test]
fn pages_fit_80_columns_without_a_warning() {
    require(&["man", "mandoc"]);
    for page in pages() {
        let formatters = [
            shown(Command::new("man").args(["--warnings=w", "--encoding=UTF-8", "--local-file"]).arg(&page)),
            shown(Command::new("mandoc").args(["-T", "utf8", "-O", "width=80"]).arg(&page)),
        ];
        for (shown, formatter) in formatters.iter().zip(["man", "mandoc"]) {
            let wide: Vec<_> = shown.lines().filter(|line| line.chars().count() > 80).collect();
            assert!(wide.is_empty(), "{} by {formatter}:\n{}", page.display(), wide.join("\n"));
            let footer = shown.trim_end().lines().last().unwrap_or_default();
            assert!(
                footer.starts_with("Linux  ") && footer.ends_with("  Linux"),
                "{} by {formatter}: {footer}",
                page.display()
            );
            let header = shown.trim_start().lines().next().unwrap_or_default();
            assert!(!header.contains("BSD"), "{} by {formatter}: {header}", page.display());
        }
    }
}

#[test]
fn the_package_has_every_page() {
    let manifest = read("daxctl-rs/Cargo.toml");
    for page in pages() {
        let section = page.extension().unwrap().to_str().unwrap();
        let asset = format!("[\"../man/{}\", \"usr/share/man/man{section}/\"", page.file_name().unwrap().display());
        assert!(manifest.contains(&asset), "no asset {asset}");
    }
}

/// Each hold has its section there, and there are no other such sections.
#[test]
fn holds_page_has_every_hold() {
    let page = read("man/daxfile-holds.7");
    let described = sections(&page, ".Ss Hold ").into_iter().map(|(hold, _)| hold.to_owned()).collect::<Names>();
    assert_eq!(described, values("hold"), "the page (left) and the program (right)");
}

/// The code in a Markdown text: fenced lines, and spans between backquotes.
fn code(markdown: &str) -> Vec<&str> {
    let mut code = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        match line {
            _ if line.starts_with("```") => fenced = !fenced,
            _ if fenced => code.push(line),
            _ => code.extend(line.split('`').skip(1).step_by(2)),
        }
    }
    code
}

#[test]
fn readme_names_only_existing_verbs_and_options() {
    let readme = read("README.md");
    let verbs = verbs();
    let all: Names = verbs.iter().flat_map(|verb| options_of_help(&[verb])).flatten().collect();
    let mut calls = 0;
    for code in code(&readme) {
        // In YAML a dash and a blank begin an entry.
        if code.starts_with('-') && !code.starts_with("- ") {
            let option = code.split([' ', '=']).next().unwrap();
            assert!(all.contains(option), "no verb has {option}: {code}");
        }
        calls += count_valid_calls(code, &verbs);
    }
    assert!(calls >= 6, "{calls} calls of daxfile in README.md");
}

/// Counts the calls of `daxfile` in a piece of code; each names a verb and options that exist.
fn count_valid_calls(code: &str, verbs: &Names) -> usize {
    let calls = code.split("daxfile ").skip(1);
    calls.fold(0, |count, call| {
        let mut words = call.split(['|', ';', '#', '>', '&', ')']).next().unwrap().split_whitespace();
        // An error begins with `daxfile pin:`.
        let verb = words.next().unwrap_or_default().trim_end_matches(':');
        assert!(verbs.contains(verb), "no verb '{verb}': {code}");
        let options: Names = options_of_help(&[verb]).concat().into_iter().collect();
        for option in words.filter(|word| word.len() > 1 && word.starts_with('-')) {
            // -qq is -q twice.
            let option = if option.starts_with("--") { option } else { &option[..2] };
            assert!(options.contains(option), "daxfile {verb} has no {option}: {code}");
        }
        count + 1
    })
}

#[test]
fn long_help_ends_with_examples_and_exit_statuses() {
    let verbs = verbs();
    for verb in verbs.iter().map(|verb| vec![verb.as_str()]).chain([Vec::new()]) {
        let long = help(&verb);
        let (_, examples) = long.split_once("\nExamples:\n").unwrap_or_else(|| panic!("no examples: {long}"));
        let (examples, statuses) = examples.split_once("\nExit status:\n").expect("exit statuses");
        let titles = examples.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        assert!(titles.count() >= 2, "{long}");
        let calls = examples.lines().filter_map(|line| line.strip_prefix("      "));
        assert!(calls.map(|call| count_valid_calls(call, &verbs)).sum::<usize>() >= 2, "{long}");
        let numbers = statuses.lines().filter_map(|line| line.strip_prefix("  ")?.split("  ").next()?.parse().ok());
        let numbers: Vec<u8> = numbers.collect();
        assert!(
            numbers.len() >= 2 && numbers[0] == 0 && numbers.is_sorted() && numbers.iter().all(|&number| number <= 5),
            "{long}"
        );
        let wide = long.lines().skip_while(|line| *line != "Examples:").filter(|line| line.chars().count() > 80);
        assert_eq!(wide.count(), 0, "{long}");
        let short = daxfile(&[verb.as_slice(), &["-h"]].concat());
        let short = String::from_utf8(short.stdout).unwrap();
        assert!(!short.contains("Examples:") && short.lines().count() < 40, "{short}");
    }
}

/// A file that does not answer, or one with very many extents, must not keep the machine busy for ever.
#[test]
fn units_have_limits_of_time_and_memory() {
    for unit in ["daxfile-pin.service", "daxfile-verify.service"] {
        let unit = read(&format!("daxctl-rs/systemd/{unit}"));
        for limit in ["TimeoutStartSec=", "MemoryMax="] {
            let value = unit.lines().find_map(|line| line.strip_prefix(limit)).unwrap_or("infinity");
            assert!(value.starts_with(|first: char| first.is_ascii_digit()), "{limit}{value} in {unit}");
        }
    }
}
