//! Test programs whose tests are rows of a table, run by libtest_mimic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{Daxfile, Kind, Scratch};

/// The options, and the names of tests, of which libtest_mimic takes one and the other test programs any number.
pub fn arguments() -> (Arguments, Vec<String>) {
    const WITH_VALUE: [&str; 5] = ["--skip", "--test-threads", "--format", "--color", "--logfile"];
    let mut words = std::env::args();
    let mut options: Vec<String> = words.next().into_iter().collect();
    let mut names = Vec::new();
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            names.push(word);
            continue;
        }
        let value = if WITH_VALUE.contains(&&*word) { words.next() } else { None };
        options.push(word);
        options.extend(value);
    }
    (Arguments::from_iter(options), names)
}

/// A test that fails where `run` panics.
pub fn trial(name: String, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || catch_unwind(AssertUnwindSafe(run)).map_err(|panic| Failed::from(message(&*panic))))
}

/// What a panic said.
pub fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".to_owned())
}

/// The reason why this machine cannot hold files writable.
pub fn guard() -> Result<(), String> {
    let scratch = Scratch::new(Kind::xfs());
    let probe = Daxfile::new(["probe", "--json"]).arg(scratch.mount_point()).run().expect(0);
    let holds = &probe.file()["probe"]["holds"];
    let writable = holds.as_array().expect("holds").iter().find(|hold| hold["hold"] == "writable");
    writable.expect("hold writable")["missing"].as_str().map_or(Ok(()), |missing| Err(missing.to_owned()))
}
