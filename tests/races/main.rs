//! The verbs while other processes use the same file.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod opening;
mod pin_leases;
mod pin_races;
mod prepare_races;
mod renames;
