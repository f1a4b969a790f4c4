//! The documentation, compared with the program: manual pages, README and transcripts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod floors;
mod json_page;
mod man;
mod sessions;
