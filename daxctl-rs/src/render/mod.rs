//! What the program prints: reports, as text for people and as JSON, and progress. No module here looks at a file.

mod indented;
pub(crate) mod progress;
mod tally;
mod text;

use std::borrow::Cow;
use std::io::{BufWriter, ErrorKind, IsTerminal, Result, StdoutLock, Write};
use std::path::Path;

use daxfile::name::quote;
use daxfile::pin::state::State;
use daxfile::report::{ErrorReport, FileReport, SCHEMA_VERSION};
use daxfile::status::Status;
use libdaxfile::process::stdout_was_closed;
use nix::libc::EBADF;

use crate::cli::{Cli, Color, Verb};
use indented::Indented;
use tally::Tally;
use text::text;

/// The style of text output.
#[derive(Debug, Clone, Copy)]
struct Style {
    /// Use colours.
    color: bool,
    /// Print exact sizes in bytes.
    exact: bool,
    /// Print every range.
    verbose: bool,
    /// The width to fold prose to: that of a terminal. Output for programs keeps one item per line.
    width: Option<usize>,
}

impl Verb {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Verb::Alloc { .. } => "alloc",
            Verb::Check { .. } => "check",
            Verb::Completions { .. } => "completions",
            Verb::List { .. } => "list",
            Verb::Man { .. } => "man",
            Verb::Map { .. } => "map",
            Verb::Pin { .. } => "pin",
            Verb::Prepare { .. } => "prepare",
            Verb::Probe { .. } => "probe",
            Verb::Unpin { .. } => "unpin",
            Verb::Stat { .. } => "stat",
            Verb::Verify { .. } => "verify",
        }
    }

    /// Whether the verb takes lists of files.
    pub(crate) fn takes_lists(&self) -> bool {
        match self {
            Verb::Check { .. }
            | Verb::Pin { .. }
            | Verb::Prepare { .. }
            | Verb::Stat { .. }
            | Verb::Unpin { .. }
            | Verb::Verify { .. } => true,
            Verb::Alloc { .. }
            | Verb::Completions { .. }
            | Verb::List { .. }
            | Verb::Man { .. }
            | Verb::Map { .. }
            | Verb::Probe { .. } => false,
        }
    }
}

impl Verb {
    fn ends_in_totals(&self) -> bool {
        self.takes_lists() || matches!(self, Verb::List { .. })
    }
}

/// Whether a file is as it should be, as far as the verb reports it.
fn is_well(file: &FileReport) -> bool {
    let state = file.pin.as_ref().map(|pin| pin.state);
    // stat and list succeed if they could read the file, whatever its state.
    file.exit_status == Status::Done
        && (file.action.is_some() || !matches!(state, Some(state) if !matches!(state, State::Pinned | State::Unpinned)))
}

/// Standard output. If it was closed when the program started, the Rust runtime has put /dev/null in its place, and writing
/// would seem to succeed.
pub(crate) struct Output(Option<StdoutLock<'static>>);

impl Output {
    pub(crate) fn new() -> Self {
        Output((!stdout_was_closed()).then(|| std::io::stdout().lock()))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.as_mut().map_or_else(|| Err(std::io::Error::from_raw_os_error(EBADF)), |stdout| stdout.write(bytes))
    }

    fn flush(&mut self) -> Result<()> {
        self.0.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// A name for a message. No path that the kernel accepts is shortened much, but a line of a list can have any length.
fn named(path: &Path) -> Cow<'_, str> {
    const MOST: usize = 4096;
    let name = quote(path);
    match name.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}… ({} bytes)", &name[..end], path.as_os_str().len()).into(),
        None => name,
    }
}

/// Prints reports one by one as they arrive.
pub(crate) struct Printer<'a> {
    cli: &'a Cli,
    style: Style,
    watched: bool,
    out: BufWriter<Output>,
    begun: bool,
    tally: Tally,
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
            out: BufWriter::with_capacity(1 << 16, Output::new()),
            begun: false,
            tally: Tally::default(),
            printed: Ok(()),
        }
    }

    /// Prints one file's report to standard output, and its error to standard error. `alone` says that the user named
    /// no other file.
    pub(crate) fn print(&mut self, file: &FileReport, alone: bool) {
        self.tally.add(&self.cli.verb, file);
        if self.printed.is_ok() {
            self.printed = self.data(file);
        }
        // One line at the end reports all files that an interrupt left.
        if let Some(error) = file.error.as_ref().filter(|error| alone || !error.interrupted) {
            self.say(&format!("{}: {}", named(&file.path), error.message));
        }
        // The standard output of map is for another program.
        if matches!(self.cli.verb, Verb::Map { .. }) && !self.cli.common.json {
            file.notes.iter().for_each(|note| self.say(&format!("{}: note: {note}", quote(&file.path))));
        }
        // A failure to look at a file or directory that the list does not show.
        if matches!(self.cli.verb, Verb::List { .. }) && file.pin.is_none() && !self.cli.common.json {
            file.notes.iter().for_each(|note| self.say(&format!("{}: {note}", quote(&file.path))));
        }
    }

    fn say(&self, what: &str) {
        if self.cli.common.quiet < 2 {
            let _ = writeln!(std::io::stderr(), "daxfile {}: {what}", self.cli.verb.name());
        }
    }

    fn data(&mut self, file: &FileReport) -> Result<()> {
        if self.cli.common.json {
            self.begin_json()?;
            return if self.watched {
                write!(self.out, "\n    ")?;
                serde_json::to_writer_pretty(Indented::new(&mut self.out), file).map_err(Into::into)
            } else {
                serde_json::to_writer(&mut self.out, file).map_err(Into::into)
            };
        }
        let wanted = match self.cli.common.quiet {
            0 => true,
            // A file that only failed appears on standard error alone.
            1 => !is_well(file) && (file.error.is_none() || file.blockers.is_some()),
            _ => false,
        };
        if wanted {
            text(&self.cli.verb, file, self.style, &mut self.out)?;
        }
        // A person who watches should see the lines in the order of events.
        if file.error.is_some() || self.watched { self.out.flush() } else { Ok(()) }
    }

    fn begin_json(&mut self) -> Result<()> {
        let begun = std::mem::replace(&mut self.begun, true);
        match (begun, self.watched) {
            (true, _) => write!(self.out, ","),
            (false, false) => write!(self.out, r#"{{"schema_version":{SCHEMA_VERSION},"files":["#),
            (false, true) => write!(self.out, "{{\n  \"schema_version\": {SCHEMA_VERSION},\n  \"files\": ["),
        }
    }

    /// Ends the output when no file was processed.
    pub(crate) fn fail(mut self, status: Status, error: &ErrorReport) -> Result<()> {
        if self.cli.common.json {
            self.begin_json()?;
            self.end_json(status as i32, Some(error))?;
        }
        self.out.flush()
    }

    fn end_json(&mut self, status: i32, error: Option<&ErrorReport>) -> Result<()> {
        let (line, space, end) = if self.watched { ("\n  ", " ", "\n") } else { ("", "", "") };
        write!(self.out, "{line}],")?;
        if let Some(error) = error {
            let error = serde_json::to_string(error)?;
            write!(self.out, "{line}\"error\":{space}{error},")?;
        }
        writeln!(self.out, "{line}\"exit_status\":{space}{status}{end}}}")
    }

    /// Whether the reader has closed the output.
    pub(crate) fn closed(&self) -> bool {
        self.printed.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)
    }

    /// Ends the output for `named` named files. An error means that not all output could be written.
    pub(crate) fn finish(mut self, status: Status, named: usize, signal: Option<i32>) -> Result<()> {
        let files = self.tally.files();
        if signal.is_some() && named > 1 {
            let done = if files > 0 { format!(" ({})", self.tally) } else { String::new() };
            let (verb, rest) = (&self.cli.verb, named.saturating_sub(files));
            let left = match verb {
                Verb::Pin { .. } | Verb::Unpin { .. } if rest == 1 => "; the other is unchanged".into(),
                Verb::Pin { .. } | Verb::Unpin { .. } => format!("; the other {rest} are unchanged"),
                Verb::Prepare { .. } => format!("; the other {rest} have their contents unchanged"),
                _ => String::new(),
            };
            self.say(&format!("interrupted: {files} of {named} files done{done}{left}"));
        }
        std::mem::replace(&mut self.printed, Ok(()))?;
        match &self.cli.verb {
            Verb::Completions { .. } | Verb::Man { .. } => {}
            _ if self.cli.common.json => {
                if !self.begun {
                    self.begin_json()?;
                }
                self.end_json(signal.map_or(status as i32, |signal| 128 + signal), None)?;
            }
            Verb::List { null: true, .. } => {}
            verb if self.cli.common.quiet == 0 && signal.is_none() && files > 1 && verb.ends_in_totals() => {
                writeln!(self.out, "{files} files: {}", self.tally)?;
            }
            _ => {}
        }
        self.out.flush()
    }
}
