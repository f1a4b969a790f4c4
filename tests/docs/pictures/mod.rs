//! The pictures in `man/pictures`: drawn from the program's output and behaviour, and from tables in the documentation.
//!
//! A test fails if a picture differs from a new drawing. `UPDATE_PICTURES=1 tests/run.sh pictures` draws them again.

mod holds;
mod speed;
mod states;
mod svg;
mod terminal;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::read;
use svg::{DARK, LIGHT, Theme};

/// Documents that may show a picture.
const SHOWN_IN: [&str; 3] = ["README.md", "daxctl-rs/BENCHMARKS.md", "daxctl-rs/CONTRIBUTING.md"];

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../man/pictures")
}

fn file_name(picture: &str, theme: &Theme) -> String {
    format!("{picture}-{}.svg", theme.name)
}

fn is_update() -> bool {
    std::env::var_os("UPDATE_PICTURES").is_some()
}

/// Fails if the picture in the repository is another; writes it if that was asked for.
fn is_current(picture: &str, draw: impl Fn(&Theme) -> String) {
    for theme in [&LIGHT, &DARK] {
        let path = dir().join(file_name(picture, theme));
        let drawn = draw(theme);
        if is_update() {
            fs::create_dir_all(dir()).unwrap();
            fs::write(&path, drawn).unwrap();
            continue;
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        let differs = kept.lines().zip(drawn.lines()).find(|(kept, drawn)| kept != drawn);
        assert!(
            kept == drawn,
            "{} is stale: UPDATE_PICTURES=1 tests/run.sh pictures draws it anew; first difference: {differs:?}",
            path.display()
        );
    }
}

macro_rules! pictures {
    ($($name:ident: $draw:expr,)*) => {
        $(#[test]
        fn $name() {
            is_current(stringify!($name), $draw);
        })*

        #[test]
        fn pictures_are_drawn_and_shown() {
            let names = [$(stringify!($name)),*];
            let drawn: BTreeSet<_> =
                names.iter().flat_map(|name| [&LIGHT, &DARK].map(|theme| file_name(name, theme))).collect();
            if is_update() {
                return;
            }
            let kept = fs::read_dir(dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            assert_eq!(kept.collect::<BTreeSet<_>>(), drawn, "man/pictures (left) and what is drawn (right)");
            let documents = SHOWN_IN.map(read).concat();
            let hidden: Vec<_> = drawn.iter().filter(|file| !documents.contains(file.as_str())).collect();
            assert!(hidden.is_empty(), "no document shows {hidden:?}");
        }
    };
}

pictures! {
    stat: terminal::stat(),
    refused: terminal::refused(),
    drift: terminal::drift(),
    holds: holds::grid(),
    states: states::diagram(),
    speed: speed::bars(),
}
