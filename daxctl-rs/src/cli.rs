//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::PossibleValue;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use daxfile::needs::{Allow, Hold, Needs};
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

/// Makes the extent maps of files immutable, and proves that they stayed so.
#[derive(Debug, Parser)]
#[command(name = "daxfile", version = VERSION, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 done, or yes; 1 no; 2 failed; 3 cannot be done here; 4 not permitted; 5 busy.\n\
    The largest of all files counts. See daxfile(8)."
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
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only files that are not well; -qq prints nothing, and the exit status tells
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
    /// Print every range
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Print sizes in bytes, exactly
    #[arg(short, long, global = true)]
    pub(crate) bytes: bool,
    /// Colour the output
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
    Alloc {
        /// Set the size of the file: 4096, 0x1000, 1.5G or 1.5GiB (1024s), 64MB (1000s)
        #[arg(short, long, value_parser = size::parse)]
        size: u64,
        #[command(flatten)]
        shape: Shape,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// The file, which must not exist
        file: PathBuf,
    },
    /// Say whether pin would meet a blocker, and name every one
    Check {
        #[command(flatten)]
        needs: NeedsArgs,
        #[command(flatten)]
        files: Files,
    },
    /// Print what a shell completes command lines of daxfile by
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Find the pinned files on a filesystem, or below a directory
    List {
        /// List only files with this hold
        #[arg(long, value_name = "HOLD", value_delimiter = ',')]
        hold: Vec<HoldArg>,
        /// List only files in this state
        #[arg(long, value_name = "STATE", value_delimiter = ',')]
        state: Vec<StateArg>,
        /// Print nothing but paths, each with a NUL byte at its end, as --files-from -0 reads them
        #[arg(short = '0', long, conflicts_with = "json")]
        null: bool,
        /// Search below these directories, each on its own filesystem [default: the filesystem of the current directory]
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Print a manual page of this program
    Man {
        /// Choose daxfile(8), daxfile-holds(7) or daxfile-json(5)
        #[arg(default_value = "daxfile")]
        page: Page,
    },
    /// Make a file pinnable in place, whoever is at work on it
    Prepare {
        #[command(flatten)]
        needs: NeedsArgs,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Hold the map as it is, and record it
    Pin {
        #[command(flatten)]
        needs: NeedsArgs,
        /// Wait so long for open writers to go
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
        /// Pin a file that has a record as that says, whatever the options
        #[arg(long)]
        as_recorded: bool,
        /// Keep TEXT with the pin, to say why the file is pinned; at most 256 bytes
        #[arg(long, value_name = "TEXT", value_parser = |text: &str| Note::new(text))]
        note: Option<Note>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Say which holds can be had at a place, and what is missing
    Probe {
        /// Give the status that this hold would have: 0, or 3 or 4
        #[arg(long)]
        hold: Option<HoldArg>,
        /// A directory, or a regular file
        #[arg(value_name = "PATH", default_value = ".")]
        path: PathBuf,
    },
    /// End the hold, and remove the record
    Unpin {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Show a file, its map and its pin
    Stat {
        /// Show every run of the map
        #[arg(long)]
        extents: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Tell device-mapper, or a resuming kernel, where a pinned file's blocks are
    Map {
        /// Whom to tell
        #[arg(long)]
        format: FormatArg,
        /// Also where nothing keeps the blocks there
        #[arg(long)]
        unpinned: bool,
        /// Compare with what the kernel is set to resume from, and print both (with --format resume)
        #[arg(long)]
        compare: bool,
        /// The file
        file: PathBuf,
    },
    /// Compare the map with the record, and name what moved
    Verify {
        /// Compare with what stat --json --extents wrote; all of it, if no FILE is named
        #[arg(long, value_name = "MANIFEST")]
        against: Option<PathBuf>,
        /// Where the manifest's paths begin
        #[arg(long, value_name = "DIR", requires = "against")]
        root: Option<PathBuf>,
        /// Blocks shared since count as drift
        #[arg(long, conflicts_with = "against")]
        strict: bool,
        #[command(flatten)]
        files: Files,
    },
}

/// What the map must be like.
#[derive(Debug, Args)]
pub(crate) struct Shape {
    /// Every piece of so many bytes must be one extent that starts at a multiple of it
    #[arg(long, value_name = "SIZE", value_parser = alignment)]
    pub(crate) align: Option<u64>,
    /// The most extents that the map may have
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_extents: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct NeedsArgs {
    /// What is to hold the map
    #[arg(long, default_value = "frozen")]
    hold: HoldArg,
    #[command(flatten)]
    shape: Shape,
    /// Put up with these, and pin the map as it stands
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    allow: Vec<AllowArg>,
    /// The file must be accessed as DAX, and the kernel grant MAP_SYNC
    #[arg(long)]
    dax: bool,
}

impl NeedsArgs {
    pub(crate) fn needs(&self) -> Result<Needs> {
        if self.hold.0 == Hold::Writable && !self.allow.is_empty() {
            bail!("--allow does not go with --hold writable: a write would change such a map");
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
            Hold::Frozen => "The immutable flag: contents, size and name are fixed, too",
            Hold::Writable if HAS_GUARD => {
                "BPF LSM programs: size and name are fixed, and the contents written in place"
            }
            Hold::Writable => {
                "BPF LSM programs, which this build lacks: size and name are fixed, and the contents written in place"
            }
            Hold::None => "Nothing: drift is found, not prevented",
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
            State::Pinned => "Held, and as recorded",
            State::Drifted => "Changed since",
            State::NotHeld => "Recorded, but not held",
            State::Unpinned => "Held by the guard, but without a record",
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
    /// What the program does
    Daxfile,
    /// What each hold refuses
    Holds,
    /// What --json prints
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
            Format::Dmsetup => PossibleValue::new("dmsetup").help("A table of linear targets"),
            Format::Resume => PossibleValue::new("resume").help("The kernel's parameters resume and resume_offset"),
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
    /// Read the names of files from LIST, one a line; '-' is standard input, and a line that begins with # is a comment
    #[arg(long, value_name = "LIST")]
    pub(crate) files_from: Option<PathBuf>,
    /// Take names in LIST to end with a NUL byte, and # for a part of them
    #[arg(short = '0', long, requires = "files_from", action = ArgAction::SetTrue)]
    pub(crate) null: bool,
    /// The files
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
}

fn alignment(text: &str) -> Result<u64> {
    match size::parse(text)? {
        align if align.is_power_of_two() && align >= 512 => Ok(align),
        _ => bail!("must be a power of two, at least 512"),
    }
}
