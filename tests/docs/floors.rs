//! The structure of the library: which folder may use which, and its picture in daxctl-rs/CONTRIBUTING.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the top down. A folder uses those below it; two on one floor do not know each other.
const FLOORS: [&[&str]; 5] = [&["verbs"], &["hold", "prepare"], &["pin"], &["file"], &["system"]];

/// The picture is between these lines.
const BEGIN: &str = "<!-- floors: UPDATE_FLOORS=1 tests/run.sh floors_are_as_drawn -->\n```text\n";
const END: &str = "```\n";

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../daxctl-rs")
}

/// Every module of the library with the modules that it uses, as paths such as `file/map`.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let source = package().join("src");
    let mut files = Vec::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() && !path.ends_with("render") => folders.push(path),
                Some(extension) if extension == "rs" => files.push(path),
                _ => {}
            }
        }
    }
    let module = |path: &Path| {
        let path = path.strip_prefix(&source).unwrap().with_extension("");
        path.to_str().unwrap().trim_end_matches("/mod").to_owned()
    };
    let modules: BTreeSet<String> = files.iter().map(|path| module(path)).collect();
    let used = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let mut used = BTreeSet::new();
        let own = module(path);
        let parent: Vec<&str> = own.split('/').take(own.matches('/').count()).collect();
        let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let names_from = |base: &'static str| code.iter().flat_map(move |line| line.split(base).skip(1));
        let lines = names_from("crate::").map(|line| (&[][..], line));
        for (base, line) in lines.chain(names_from("super::").map(|line| (&parent[..], line))) {
            // `use crate::pin::{record, state}` names both.
            let (prefix, names) = line.split_once('{').unwrap_or((line, ""));
            let prefix = prefix.split("::").map(word).filter(|part| !part.is_empty());
            let prefix: Vec<&str> = base.iter().copied().chain(prefix).collect();
            let mut candidates: Vec<Vec<&str>> = vec![prefix.clone()];
            candidates.extend(names.split(',').map(|name| [prefix.as_slice(), &[word(name.trim())]].concat()));
            for candidate in candidates {
                // The longest path that is a module: the rest is an item in that module.
                let longest = (1..=candidate.len()).rev().map(|length| candidate[..length].join("/"));
                used.extend(longest.clone().find(|path| modules.contains(path)));
            }
        }
        used.remove(&own);
        // A folder's mod.rs has what its modules share.
        used.remove(&parent.join("/"));
        used
    };
    let binary = ["main", "cli", "lib"];
    let library = files.iter().filter(|path| !binary.contains(&module(path).as_str()));
    library.map(|path| (module(path), used(path))).collect()
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
}

/// The floor of a module, counted from the top; `None` for modules that all floors use.
fn floor(module: &str) -> Option<usize> {
    let folder = module.split('/').next().unwrap();
    FLOORS.iter().position(|floor| floor.contains(&folder))
}

#[test]
fn folders_use_only_those_below_them() {
    let imports = imports();
    assert!(imports.len() > 30, "{imports:?}");
    let mut upward = Vec::new();
    for (module, used) in &imports {
        for other in used {
            let same_folder = module.split('/').next() == other.split('/').next();
            let allowed = match (floor(module), floor(other)) {
                _ if same_folder => true,
                (Some(mine), Some(other)) => mine < other,
                // Modules that all floors use are below every floor; the report gathers from pin and below.
                (None, Some(_)) => module == "report",
                (Some(mine), None) => other != "report" || mine == 0,
                (None, None) => true,
            };
            if !allowed {
                upward.push(format!("{module} uses {other}"));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn no_module_uses_itself_through_others() {
    let imports = imports();
    for start in imports.keys() {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = imports[start].iter().collect();
        while let Some(module) = next.pop() {
            assert_ne!(module, start, "a circle goes through {start}: {reached:?}");
            // A folder's mod.rs declares its modules, which is no use of them.
            if reached.insert(module) {
                next.extend(imports.get(module).into_iter().flatten());
            }
        }
    }
}

/// The folder, and all below it, that have Rust code.
fn folders_of_code(folder: PathBuf) -> Vec<PathBuf> {
    let inside: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let has_code = inside.iter().any(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let below = inside.into_iter().filter(|path| path.is_dir()).flat_map(folders_of_code);
    below.chain(has_code.then_some(folder)).collect()
}

#[test]
fn folders_describe_their_contents() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = ["attacks", "cli", "decoders", "docs", "faults", "filesystem", "guard", "programs", "races", "src"];
    let roots = programs.map(|program| tests.join(program)).into_iter().chain([package().join("src")]);
    let folders: Vec<PathBuf> = roots.flat_map(folders_of_code).collect();
    assert!(folders.len() > 15, "{folders:?}");
    for folder in folders {
        let first =
            ["mod.rs", "lib.rs", "main.rs"].map(|name| folder.join(name)).into_iter().find(|path| path.exists());
        let first = first.unwrap_or_else(|| panic!("{}: no module that says what belongs there", folder.display()));
        let text = fs::read_to_string(&first).unwrap();
        assert!(text.starts_with("//! "), "{} does not begin with what belongs in its folder", first.display());
    }
    let library = fs::read_to_string(package().join("../libdaxfile/src/lib.rs")).unwrap();
    assert!(library.starts_with("#![doc = include_str!(\"../README.md\")]"), "{library}");
}

#[test]
fn verbs_do_not_call_one_another() {
    let verbs = fs::read_to_string(package().join("src/verbs/mod.rs")).unwrap();
    let verbs: Vec<&str> = verbs.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(verbs.len() >= 9, "{verbs:?}");
    for verb in &verbs {
        let code = fs::read_to_string(package().join(format!("src/verbs/{verb}.rs"))).unwrap();
        for other in verbs.iter().filter(|other| *other != verb) {
            assert!(!code.contains(&format!("verbs::{other}")), "{verb} uses {other}");
            assert!(!code.contains(&format!("super::{other}::")), "{verb} uses {other}");
        }
    }
}

#[test]
fn floors_are_as_drawn() {
    let imports = imports();
    let modules = |folder: &str| -> String {
        let inside = imports.keys().filter_map(|module| module.strip_prefix(folder)?.strip_prefix('/'));
        let names: BTreeSet<&str> = inside.map(|module| module.split('/').next().unwrap()).collect();
        names.into_iter().collect::<Vec<_>>().join(" ")
    };
    let common =
        imports.keys().filter(|module| !module.contains('/') && floor(module).is_none() && *module != "report");
    let mut rows = vec![("main.rs cli.rs render/".to_owned(), "the program: parses, prints".to_owned())];
    for floor in FLOORS {
        rows.extend(floor.iter().map(|folder| (format!("{folder}/"), modules(folder))));
        rows.push(("│".into(), String::new()));
    }
    rows.pop();
    rows.insert(1, ("│".into(), String::new()));
    rows.push(("│".into(), String::new()));
    rows.push(("for all".into(), common.cloned().collect::<Vec<_>>().join(" ")));
    rows.push(("│".into(), String::new()));
    rows.push(("libdaxfile".into(), "the kernel's interfaces; the only unsafe code".into()));
    let mut picture = String::new();
    for (name, what) in rows {
        let what = textwrap(&what, 72);
        picture += &format!("{name:<24}{}", what.join(&format!("\n{:24}", ""))).trim_end().replace('│', "   │");
        picture.push('\n');
    }
    let page = package().join("CONTRIBUTING.md");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("daxctl-rs/CONTRIBUTING.md has a place for the picture");
    let (drawn, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_FLOORS").is_some() {
        fs::write(&page, format!("{before}{BEGIN}{picture}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(drawn, picture, "the picture is stale: UPDATE_FLOORS=1 tests/run.sh floors_are_as_drawn");
}

/// Lines of at most `width` characters.
fn textwrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().unwrap();
        if last.is_empty() {
            last.push_str(word);
        } else if last.len() + 1 + word.len() <= width {
            *last += &format!(" {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
