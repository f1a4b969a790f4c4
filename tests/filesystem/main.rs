//! The verbs and libdaxfile on real filesystems, compared with what other tools report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod align;
mod answers;
mod blockers;
mod calls;
mod dax;
mod examples;
mod harness;
mod interfaces;
mod main_job;
mod map;
mod maps;
mod prepare;
mod realtime;
mod records;
mod sharers;
mod staging;
