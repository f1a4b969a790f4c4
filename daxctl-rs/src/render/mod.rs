//! Reports as people read them, and as JSON.

pub(crate) mod progress;
mod text;

use std::io::{Result, Write};

use daxfile::name::quote;
use daxfile::report::Report;

use crate::cli::Verb;
pub(crate) use text::text;

/// How text is to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// With colours.
    pub(crate) color: bool,
    /// Sizes to the byte.
    pub(crate) exact: bool,
    /// Every range.
    pub(crate) verbose: bool,
}

impl Verb {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Verb::Alloc { .. } => "alloc",
            Verb::Check { .. } => "check",
            Verb::Pin { .. } => "pin",
            Verb::Prepare { .. } => "prepare",
            Verb::Unpin { .. } => "unpin",
            Verb::Stat { .. } => "stat",
            Verb::Verify { .. } => "verify",
        }
    }
}

pub(crate) fn json(report: &Report, out: &mut impl Write) -> Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    writeln!(out)
}

/// Says what failed: verb, file, call, the errno's meaning, and what to do.
pub(crate) fn errors(verb: &Verb, report: &Report, err: &mut impl Write) {
    for file in &report.files {
        if let Some(error) = &file.error {
            let _ = writeln!(err, "daxfile {}: {}: {}", verb.name(), quote(&file.path), error.message);
        }
    }
}
