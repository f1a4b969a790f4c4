//! The documentation, compared with the program: manual pages, README and transcripts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod floors;
mod json_page;
mod man;
mod pictures;
mod sessions;

use std::path::Path;

/// The text of a file of the repository.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
