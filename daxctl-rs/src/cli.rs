//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::{PossibleValue, StyledStr, Styles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use daxfile::needs::{self, Allow, Hold, Needs};
use daxfile::pin::record::Note;
use daxfile::pin::state::State;
use daxfile::size;
use daxfile::verbs::map::Format;

/// The version, and what this build has besides.
const VERSION: &str = if HAS_GUARD {
    concat!(env!("CARGO_PKG_VERSION"), " (features: guard)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (features: none)")
};

/// Whether this build can hold files writable.
const HAS_GUARD: bool = cfg!(feature = "guard");

/// Make the extent maps of files immutable, and prove that they stayed so
///
/// A file's extent map says which blocks of the device hold which bytes of the file. daxfile pins a file: it records the
/// map, and keeps the filesystem from changing it, so that every block stays where it is. At any later time it can
/// verify that no block has moved.
#[derive(Debug, Parser)]
#[command(name = "daxfile", version = VERSION, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 done, or yes; 1 no; 2 failed; 3 cannot be done here; 4 not permitted; 5 busy.\n\
    Of several files, the largest counts. daxfile COMMAND --help shows examples; see also daxfile(8).",
    after_long_help = below(include_str!("help/daxfile.txt"))
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Common {
    /// Print JSON
    ///
    /// Sizes and offsets are in bytes, times in RFC 3339. Programs should read this: later versions only add to it, while
    /// the text may change. See daxfile-json(5).
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only the files that have a problem; -qq prints nothing
    ///
    /// Files with exit status 1 go to standard output, files with a higher status to standard error. With -qq, only the exit
    /// status tells the result.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
    /// Print up to 10,000 ranges of each kind, not only the first few
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Print exact sizes, in bytes
    #[arg(short, long, global = true)]
    pub(crate) bytes: bool,
    /// Colour the output: always, never, or on a terminal unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a file with every block allocated, zeroed and written
    ///
    /// The file gets its name only when it is complete and durable, so no failure, signal or crash leaves a partial
    /// file. An existing file is never touched. pin accepts the new file as it is.
    #[command(after_long_help = below(include_str!("help/alloc.txt")))]
    Alloc {
        /// Set the file's size in bytes: 4096, 0x1000, 1.5G = 1.5GiB (powers of 1024), 64MB (powers of 1000)
        #[arg(short, long, value_parser = size::parse)]
        size: u64,
        #[command(flatten)]
        shape: Shape,
        /// Only report what would be done
        #[arg(long)]
        dry_run: bool,
        /// Create this file, which must not exist
        file: PathBuf,
    },
    /// Report everything that would prevent pinning
    ///
    /// Report what this kernel, build, filesystem or mount lacks for the hold, then every blocker of the file, each with
    /// its place and its remedy. The status is 0 exactly if pin with the same options, run by root while no process has
    /// the file open for writing, would succeed. Missing privileges, and processes that have the file open for
    /// writing, are notes: they do not change the status.
    /// Nothing is changed, but the kernel writes dirty pages back.
    #[command(after_long_help = below(include_str!("help/check.txt")))]
    Check {
        #[command(flatten)]
        needs: NeedsArgs,
        #[command(flatten)]
        files: Files,
    },
    /// Make a file pinnable in place, safely beside other users of it
    ///
    /// Fill holes, write unwritten extents, replace shared blocks by the file's own, and drop copy-on-write
    /// staging and blocks past EOF. Contents and size stay, and no data of a concurrent writer is lost: where
    /// prepare cannot guarantee that, it reports the file as busy (status 5). An interrupted run can be repeated, and continues where it stopped. A
    /// file that has a pin record is left alone.
    #[command(after_long_help = below(include_str!("help/prepare.txt")))]
    Prepare {
        #[command(flatten)]
        needs: NeedsArgs,
        /// Only report how many bytes would be written and allocated
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Record a file's map, and hold it as it is
    ///
    /// Check the file for blockers, record its map in an extended attribute, and keep the map from changing. The map
    /// stays as it is; prepare changes it. A file that is already pinned with the same options is compared again
    /// and stays pinned; if it has changed, or is pinned with other options, unpin it first.
    #[command(after_long_help = below(include_str!("help/pin.txt")))]
    Pin {
        #[command(flatten)]
        needs: NeedsArgs,
        /// If the file is busy, try again for up to SECONDS
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
        /// Re-pin recorded files with their recorded options
        ///
        /// The options on the command line apply only to files without a record. Everybody who can write to a
        /// file can forge its record of hold none, so such a record is refused unless --hold none is given.
        #[arg(long)]
        as_recorded: bool,
        /// Keep TEXT with the pin, to say why the file is pinned (at most 256 bytes)
        #[arg(long, value_name = "TEXT", value_parser = |text: &str| Note::new(text))]
        note: Option<Note>,
        /// Check everything, but record and hold nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Compare a file's map with its record, and name every block that moved
    ///
    /// Compare the map, the size and, under hold frozen, the time of the last write with the record, and check that the
    /// file is still held. A file that no longer exists counts as changed. If the caller may, verify also looks for a
    /// process that has the file open for writing.
    #[command(after_long_help = below(include_str!("help/verify.txt")))]
    Verify {
        /// Compare with MANIFEST, the output of stat --json --extents, instead of the record
        ///
        /// Without FILE, every file of the manifest is compared. The files need not be pinned.
        #[arg(long, value_name = "MANIFEST")]
        against: Option<PathBuf>,
        /// Look up the manifest's paths below DIR
        #[arg(long, value_name = "DIR", requires = "against")]
        root: Option<PathBuf>,
        /// Report drift if other files began to share blocks since the pin
        #[arg(long, conflicts_with = "against")]
        strict: bool,
        #[command(flatten)]
        files: Files,
    },
    /// End the hold, and remove the record
    ///
    /// Clear the flags that the pin added and no others, or release the file from the guard (the BPF programs of hold
    /// writable), then remove the record. A
    /// file that is not pinned is left unchanged.
    #[command(after_long_help = below(include_str!("help/unpin.txt")))]
    Unpin {
        /// Only report what would be done
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Show a file, its map, its blockers and its pin
    ///
    /// The map is drawn as a strip, in which each character represents an equal part of the file: # written, s shared,
    /// u unwritten, ? at no known place, . a hole. Nothing is changed, but the kernel writes dirty pages back.
    #[command(after_long_help = below(include_str!("help/stat.txt")))]
    Stat {
        /// Show every run of the map: adjacent extents with the same flags are joined
        #[arg(long)]
        extents: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Find the pinned files on a filesystem, or below a directory
    ///
    /// Print one line for each file that has a pin record, or that the guard holds without one: the state, the hold, the
    /// time of the pin, the path and the note. The search stays on the filesystem of PATH and follows no symbolic link.
    #[command(after_long_help = below(include_str!("help/list.txt")))]
    List {
        /// List only files with one of these holds
        #[arg(long, value_name = "HOLD", value_delimiter = ',')]
        hold: Vec<HoldArg>,
        /// List only files in one of these states
        #[arg(long, value_name = "STATE", value_delimiter = ',')]
        state: Vec<StateArg>,
        /// Print only paths, each followed by a NUL byte, for -0 --files-from -
        #[arg(short = '0', long, conflicts_with = "json")]
        null: bool,
        /// Search below these directories [default: the filesystem of the current directory]
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Print where a pinned file's blocks are, for device-mapper or a resuming kernel
    ///
    /// The file must be pinned and unchanged, and every byte must have a place on the device; otherwise standard output
    /// stays empty.
    #[command(after_long_help = below(include_str!("help/map.txt")))]
    Map {
        /// Choose the program that reads the map
        #[arg(long)]
        format: FormatArg,
        /// Print the map of an unpinned file, too; the numbers may go stale
        #[arg(long)]
        unpinned: bool,
        /// With --format resume: compare with the place that the kernel is set to resume from
        #[arg(long)]
        compare: bool,
        /// Print the map of this file
        file: PathBuf,
    },
    /// Report which holds are available at a place, and what is missing for the others
    ///
    /// Also show the facts behind the answer: kernel, active Linux security modules, lockdown, the caller's
    /// capabilities, the filesystem with its features and its mount, and the devices below it. Blockers of a file are
    /// not examined: check does that.
    #[command(after_long_help = below(include_str!("help/probe.txt")))]
    Probe {
        /// Exit with the status of this hold: 0 if it is available, else 3 or 4
        #[arg(long)]
        hold: Option<HoldArg>,
        /// Examine this directory or regular file
        #[arg(value_name = "PATH", default_value = ".")]
        path: PathBuf,
    },
    /// Show a manual page that is built into the program
    ///
    /// On a terminal, man(1) shows the page; elsewhere its source is printed.
    #[command(after_long_help = below(include_str!("help/man.txt")))]
    Man {
        /// Show this page
        #[arg(default_value = "daxfile")]
        page: Page,
    },
    /// Print a shell completion script
    ///
    /// The script makes the shell complete the commands, options and values of daxfile. The packages install it
    /// for bash, fish and zsh.
    #[command(after_long_help = below(include_str!("help/completions.txt")))]
    Completions {
        /// Print the script for this shell
        shell: Shell,
    },
}

/// Requirements on the map.
#[derive(Debug, Args)]
pub(crate) struct Shape {
    /// Require each SIZE-aligned piece to be one extent aligned to SIZE on the device
    ///
    /// SIZE is a power of two, at least 512. For a file that is accessed as DAX (directly, without the page
    /// cache), SIZE applies to the address in memory instead: with 2M, one page-table entry then maps each piece.
    #[arg(long, value_name = "SIZE", value_parser = alignment)]
    pub(crate) align: Option<u64>,
    /// Require at most N extents
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_extents: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct NeedsArgs {
    /// Select what keeps the map from changing
    #[arg(long, default_value = "frozen")]
    hold: HoldArg,
    #[command(flatten)]
    shape: Shape,
    /// Accept these blockers, and pin the map as it is (not with --hold writable)
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    allow: Vec<AllowArg>,
    /// Require that the file is accessed as DAX, and that the kernel grants MAP_SYNC
    ///
    /// A store through a mapping with MAP_SYNC is durable once it is flushed from the CPU's caches.
    #[arg(long)]
    dax: bool,
}

impl NeedsArgs {
    pub(crate) fn needs(&self) -> Result<Needs> {
        if self.hold.0 == Hold::Writable && !self.allow.is_empty() {
            bail!("--allow cannot be combined with --hold writable: a write would change such a map");
        }
        Ok(Needs {
            hold: self.hold.0,
            align: self.shape.align,
            max_extents: self.shape.max_extents,
            allow: self.allow.iter().fold(Allow::empty(), |all, one| all | one.0),
            dax: self.dax,
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldArg(pub(crate) Hold);

impl ValueEnum for HoldArg {
    fn value_variants<'a>() -> &'a [Self] {
        &[HoldArg(Hold::Frozen), HoldArg(Hold::Writable), HoldArg(Hold::None)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            Hold::Frozen => "The immutable flag; contents, size and name are fixed, too",
            Hold::Writable if HAS_GUARD => {
                "BPF LSM programs, until the next boot; contents can be written in place, size and name are fixed"
            }
            Hold::Writable => "BPF LSM programs, which this build lacks",
            Hold::None => "Nothing; verify detects changes, but nothing prevents them",
        };
        Some(PossibleValue::new(self.0.name()).help(help))
    }
}

/// A state that `list` can find. A writer inside takes a lease to be found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StateArg(pub(crate) State, &'static str);

impl ValueEnum for StateArg {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            StateArg(State::Pinned, "pinned"),
            StateArg(State::Drifted, "drifted"),
            StateArg(State::NotHeld, "not-held"),
            StateArg(State::Unpinned, "unpinned"),
            StateArg(State::ForeignRecord, "foreign-record"),
            StateArg(State::BadRecord, "bad-record"),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            State::Pinned => "Held, and unchanged since the pin",
            State::Drifted => "Changed since the pin",
            State::NotHeld => "Recorded, but not held",
            State::Unpinned => "Without a record; shown only if the guard holds the file",
            State::ForeignRecord => "With the record of another file",
            _ => "With a record that cannot be read",
        };
        // JSON's names are taken as well.
        Some(PossibleValue::new(self.1).alias(self.0.name()).help(help))
    }
}

/// A manual page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Page {
    /// daxfile(8): commands, options, blockers, states, examples
    Daxfile,
    /// daxfile-holds(7): what each hold refuses
    Holds,
    /// daxfile-attacks(7): the result of each operation on a pinned file, by filesystem and kernel
    Attacks,
    /// daxfile-json(5): the output of --json
    Json,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct FormatArg(pub(crate) Format);

impl ValueEnum for FormatArg {
    fn value_variants<'a>() -> &'a [Self] {
        &[FormatArg(Format::Dmsetup), FormatArg(Format::Resume)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self.0 {
            Format::Dmsetup => PossibleValue::new("dmsetup").help("A table of linear targets for dmsetup(8)"),
            Format::Resume => {
                PossibleValue::new("resume").help("The kernel's parameters resume and resume_offset, for hibernation")
            }
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct AllowArg(Allow, &'static str);

impl ValueEnum for AllowArg {
    fn value_variants<'a>() -> &'a [Self] {
        const { &[kind(0), kind(1), kind(2), kind(3)] }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.1))
    }
}

const fn kind(index: usize) -> AllowArg {
    let (kind, name) = Allow::KINDS[index];
    AllowArg(kind, name)
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Read names of files from LIST, one per line; - is standard input, # begins a comment line
    #[arg(long, value_name = "LIST")]
    pub(crate) files_from: Option<PathBuf>,
    /// Expect a NUL byte after each name in LIST, and no comments
    #[arg(short = '0', long, requires = "files_from", action = ArgAction::SetTrue)]
    pub(crate) null: bool,
    /// Process these files
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
}

fn alignment(text: &str) -> Result<u64> {
    match size::parse(text)? {
        align if needs::is_alignment(align) => Ok(align),
        _ => bail!("must be a power of two, at least 512"),
    }
}

/// Formats the examples and exit statuses below a long help as clap formats the rest.
fn below(text: &str) -> StyledStr {
    let style = *Styles::styled().get_header();
    let lines = text.trim_end().lines().map(|line| match line.strip_suffix(':') {
        Some(title) if !title.starts_with(' ') => format!("{style}{title}:{style:#}\n"),
        _ => format!("{line}\n"),
    });
    StyledStr::from(lines.collect::<String>().trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_marks_what_this_build_lacks() {
        let help = |hold| HoldArg(hold).to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
        let lacking = |hold| help(hold).is_some_and(|help| help.contains("which this build lacks"));
        assert_eq!(Hold::ALL.map(lacking), [false, !HAS_GUARD, false]);
        assert_eq!(VERSION.ends_with("(features: none)"), !HAS_GUARD);
    }
}
