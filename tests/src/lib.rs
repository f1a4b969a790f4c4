//! Shared by the integration tests: scratch filesystems, the `daxfile` binary, and independent readers of extent maps.
//!
//! Nothing here uses the crates under test, so that a mistake in them cannot hide itself. If their environment lacks
//! something, helpers panic with all known facts: no test is skipped in silence.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod child;
mod command;
pub mod generate;
pub mod lab;
pub mod pages;
mod scratch;
pub mod tools;
pub mod trials;
mod wait;
mod workdir;

pub use command::{Daxfile, Run, done, notes, report, run, state, words_of};
pub use scratch::{Elsewhere, Ext4, Kind, Scratch, Xfs, on_each};
pub use wait::wait_until;
