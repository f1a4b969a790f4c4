//! Shells complete the arguments of `daxfile`.

use std::collections::BTreeSet;

use daxfile_tests::tools::{require, sh};
use daxfile_tests::{Daxfile, Run};

fn script(shell: &str) -> Run {
    Daxfile::new(["completions", shell]).run().expect(0)
}

/// Returns a shell's proposals after it has read the script.
fn proposed(shell: &str, ask: &str) -> BTreeSet<String> {
    require(&[shell]);
    let dir = tempfile::tempdir().unwrap();
    let (file, ask_file) = (dir.path().join("daxfile"), dir.path().join("ask"));
    std::fs::write(&file, script(shell).text()).unwrap();
    std::fs::write(&ask_file, format!("source '{}'\n{ask}\n", file.display())).unwrap();
    let said = sh(format!(
        "cd /var/empty 2>/dev/null || cd /; HOME='{}' {shell} '{}'",
        dir.path().display(),
        ask_file.display()
    ));
    said.split_whitespace().map(str::to_owned).collect()
}

fn bash(words: &[&str]) -> BTreeSet<String> {
    let last = words.len() - 1;
    let [word, before] = [words[last], words[last - 1]];
    let ask = format!(
        "COMP_WORDS=({}) COMP_CWORD={last}; _daxfile daxfile '{word}' '{before}'; echo ${{COMPREPLY[*]}}",
        words.iter().map(|word| format!("'{word}' ")).collect::<String>()
    );
    proposed("bash", &ask)
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(ToString::to_string).collect()
}

#[test]
fn bash_completes_verbs_options_and_values() {
    assert_eq!(bash(&["daxfile", "pi"]), set(&["pin"]));
    assert_eq!(bash(&["daxfile", "pin", "--wa"]), set(&["--wait"]));
    let holds = bash(&["daxfile", "pin", "--hold", ""]);
    assert!(holds.is_superset(&set(&["frozen", "none"])), "{holds:?}");
    assert_eq!(bash(&["daxfile", "map", "--format", ""]), set(&["dmsetup", "resume"]));
}

/// Where the script proposes nothing, bash completes file names itself, because of complete -o default.
#[test]
fn bash_completes_files() {
    assert!(script("bash").text().contains("-o default"));
    for verb in ["alloc", "check", "list", "map", "pin", "prepare", "probe", "stat", "unpin", "verify"] {
        assert_eq!(bash(&["daxfile", verb, ""]), set(&[]), "{verb}");
        assert_eq!(bash(&["daxfile", verb, "disk"]), set(&[]), "{verb}");
        assert!(bash(&["daxfile", verb, "-"]).contains("--json"), "{verb}");
    }
    assert!(bash(&["daxfile", "man", ""]).is_superset(&set(&["attacks", "holds", "json"])));
    assert!(bash(&["daxfile", "completions", ""]).contains("zsh"));
}

/// Every verb with every option that its help has, and no other.
#[test]
fn bash_completes_exactly_the_options_of_help() {
    let long = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        words.filter(|word| word.len() > 2 && word.starts_with("--")).map(str::to_owned).collect()
    };
    let verbs = bash(&["daxfile", ""]).into_iter().filter(|word| !word.starts_with('-') && word != "help");
    let verbs: Vec<String> = verbs.collect();
    assert!(verbs.len() >= 9, "{verbs:?}");
    for verb in verbs {
        let help = Daxfile::new([&verb, "-h"]).run().expect(0);
        let of_help = help.text().lines().filter(|line| line.trim_start().starts_with('-'));
        let of_help: BTreeSet<String> =
            of_help.flat_map(|line| long(line.trim_start().split("  ").next().unwrap())).collect();
        assert_eq!(bash(&["daxfile", &verb, "--"]), of_help, "bash (left) and daxfile {verb} -h (right)");
    }
}

#[test]
fn fish_completes_verbs_options_and_values() {
    let fish = |line: &str| proposed("fish", &format!("complete -C '{line}' | string split -f1 \\t"));
    assert_eq!(fish("daxfile pi"), set(&["pin"]));
    assert_eq!(fish("daxfile pin --wa"), set(&["--wait"]));
    assert_eq!(fish("daxfile pin --hold fro"), set(&["frozen"]));
    assert_eq!(fish("daxfile map --format "), set(&["dmsetup", "resume"]));
}

/// zsh's completion needs a terminal: another zsh there reads the script, and completes the typed text.
#[test]
fn zsh_completes_verbs_options_and_values() {
    require(&["zsh"]);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    std::fs::write(dir.path().join("_daxfile"), script("zsh").text()).unwrap();
    // Text that is typed before the prompt appears can get lost. -u: every user may write to the directory's parent.
    // Another key shows when a line is completed.
    let ask = r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "unset zle_bracketed_paste; fpath=(AT \$fpath); autoload -U compinit; compinit -u -D"
        zpty -w shell "tell() { print -rn -- '<''<'\$BUFFER'>''>'; BUFFER=; zle accept-line }; zle -N tell"
        zpty -w shell "bindkey '^X' tell; bindkey '^I' complete-word; PS1='<''ready''>'"
        for line in "$@"; do
            zpty -r -m shell said '*<ready>*' || exit 1
            zpty -n -w shell $line$'\t\x18'
            zpty -r -m shell said '*<<*>>*' || exit 1
            said=${said##*<<}
            print -r -- ${said%%>>*}
        done
        zpty -d shell"#;
    std::fs::write(dir.path().join("ask"), ask.replace("AT", &at.to_string())).unwrap();
    let typed = ["daxfile pi", "daxfile pin --wa", "daxfile pin --hold fro", "daxfile map --format=res"];
    let typed = typed.map(|line| format!("'{line}'")).join(" ");
    let said = sh(format!("HOME='{at}' timeout --kill-after=1 120 zsh -f '{at}/ask' {typed}"));
    let said: Vec<_> = said.lines().map(str::trim_end).collect();
    assert_eq!(
        said,
        ["daxfile pin", "daxfile pin --wait=", "daxfile pin --hold frozen", "daxfile map --format=resume"]
    );
}

#[test]
fn an_unknown_shell_is_a_usage_error() {
    for args in [&["completions"][..], &["completions", "no-such-shell"], &["completions", "bash", "zsh"]] {
        let run = Daxfile::new(args).run().expect(2);
        assert!(run.stdout.is_empty(), "{run}");
    }
}
