//! The command line: options, exit statuses, privileges and JSON of every verb.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod completions;
mod conformance;
mod json;
mod list;
mod output;
mod privileges;
mod probe;
mod verify_against;
