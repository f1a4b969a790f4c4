//! Reports as people read them, and as JSON.

pub(crate) mod progress;
mod text;

use std::io::{BufWriter, ErrorKind, IsTerminal, Result, StdoutLock, Write};

use daxfile::name::quote;
use daxfile::report::{FileReport, SCHEMA_VERSION};
use daxfile::status::Status;

use crate::cli::{Cli, Color, Verb};
use text::text;

/// How text is to look.
#[derive(Debug, Clone, Copy)]
struct Style {
    /// With colours.
    color: bool,
    /// Sizes to the byte.
    exact: bool,
    /// Every range.
    verbose: bool,
    /// Columns that prose is folded to: those of a terminal. What programs read keeps one line for one thing.
    width: Option<usize>,
}

impl Verb {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Verb::Alloc { .. } => "alloc",
            Verb::Check { .. } => "check",
            Verb::Completions { .. } => "completions",
            Verb::Map { .. } => "map",
            Verb::Pin { .. } => "pin",
            Verb::Prepare { .. } => "prepare",
            Verb::Probe { .. } => "probe",
            Verb::Unpin { .. } => "unpin",
            Verb::Stat { .. } => "stat",
            Verb::Verify { .. } => "verify",
        }
    }
}

/// Prints reports as they come.
pub(crate) struct Printer<'a> {
    cli: &'a Cli,
    style: Style,
    watched: bool,
    out: BufWriter<StdoutLock<'static>>,
    begun: bool,
    printed: Result<()>,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(cli: &'a Cli) -> Self {
        let stdout = std::io::stdout();
        let color = match cli.common.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        Printer {
            cli,
            watched: stdout.is_terminal(),
            style: Style {
                color,
                exact: cli.common.bytes,
                verbose: cli.common.verbose,
                width: stdout.is_terminal().then(textwrap::termwidth),
            },
            out: BufWriter::with_capacity(1 << 16, stdout.lock()),
            begun: false,
            printed: Ok(()),
        }
    }

    /// Prints one file's report to standard output, and what failed to standard error.
    pub(crate) fn print(&mut self, file: &FileReport) {
        if self.printed.is_ok() {
            self.printed = self.data(file);
        }
        if let Some(error) = &file.error {
            let name = quote(&file.path);
            let _ = writeln!(std::io::stderr(), "daxfile {}: {name}: {}", self.cli.verb.name(), error.message);
        }
    }

    fn data(&mut self, file: &FileReport) -> Result<()> {
        if self.cli.common.json {
            self.begin_json()?;
            serde_json::to_writer(&mut self.out, file)?;
            return Ok(());
        }
        if !self.cli.common.quiet {
            text(&self.cli.verb, file, self.style, &mut self.out)?;
        }
        // What a person watches should come in the order in which it happened.
        if file.error.is_some() || self.watched { self.out.flush() } else { Ok(()) }
    }

    fn begin_json(&mut self) -> Result<()> {
        let begun = std::mem::replace(&mut self.begun, true);
        match begun {
            true => write!(self.out, ","),
            false => write!(self.out, r#"{{"schema_version":{SCHEMA_VERSION},"files":["#),
        }
    }

    /// Whether nobody reads what is printed any more.
    pub(crate) fn closed(&self) -> bool {
        self.printed.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)
    }

    /// Ends what was printed. An error says that not all of it came through.
    pub(crate) fn finish(mut self, status: Status) -> Result<()> {
        self.printed?;
        if self.cli.common.json && self.begun {
            writeln!(self.out, r#"],"exit_status":{}}}"#, status as u8)?;
        }
        self.out.flush()
    }
}
