//! What verbs tell of each file. Serialised, it is the JSON that the program prints; it only ever grows.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use libdaxfile::fiemap::ExtentFlags;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::statx::{Attributes, Time};
use serde::{Serialize, Serializer};
use strum::VariantArray;

use crate::error::Error;
use crate::file::blockers::Blocker;
use crate::file::layout::block_end;
use crate::file::map::Runs;
use crate::file::overview::Summary;
use crate::file::staging::Staging;
use crate::file::strip::Strip;
use crate::file::target::Target;
use crate::name;
use crate::needs::Hold;
use crate::pin::drift::{self, Change, Moved};
use crate::pin::record::{Kept, Stored};
use crate::pin::state::{self, State};
use crate::pin::survey::Survey;
use crate::size;
use crate::status::Status;
use crate::system::devices::Layer;
use crate::system::filesystem::AddressSpace;
use crate::system::kernel::Host;
use crate::system::mounts::Mount;
use crate::system::resume::Setting;

/// Version of the format.
pub const SCHEMA_VERSION: u32 = 1;

/// Receives each file's report as soon as it is known, in the order in which the files were named.
pub type Sink<'a> = dyn FnMut(FileReport) + 'a;

/// What a verb did to one file.
#[derive(Debug, Serialize)]
pub struct FileReport {
    /// Its name.
    #[serde(serialize_with = "name::serialize")]
    pub path: PathBuf,
    /// The status that this file alone would have given.
    pub exit_status: Status,
    /// What failed.
    pub error: Option<ErrorReport>,
    /// What was done, or would be under `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileFacts>,
    /// The map's totals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<MapFacts>,
    /// The map's runs, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "extents")]
    pub extents: Option<Runs>,
    /// Where its bytes are, as other programs take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Mapping>,
    /// What preparing it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// What stands against pinning it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blockers: Option<Vec<Blocker>>,
    /// What can be had here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeFacts>,
    /// Its pin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<PinFacts>,
    /// Whether there is no such file any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Where the map differs from what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
    /// How many such places there are, where not all are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_count: Option<u64>,
    /// The file as it was recorded, and as it is, where runs were recorded and moved.
    #[serde(skip)]
    pub strips: Option<[Strip; 2]>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl FileReport {
    /// An empty report of a file.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        FileReport {
            path: path.to_owned(),
            exit_status: Status::Done,
            error: None,
            action: None,
            file: None,
            map: None,
            extents: None,
            mapping: None,
            work: None,
            blockers: None,
            probe: None,
            pin: None,
            gone: false,
            changes: None,
            change_count: None,
            strips: None,
            notes: Vec::new(),
        }
    }

    /// A report of a failure.
    #[must_use]
    pub fn failed(path: &Path, error: &Error) -> Self {
        let mut report = FileReport::new(path);
        report.fail(error);
        report
    }

    /// Adds a failure.
    pub fn fail(&mut self, error: &Error) {
        self.raise(error.status);
        self.error = Some(ErrorReport {
            call: error.call,
            errno: error.errno.map(|errno| errno as i32),
            message: error.to_string(),
            interrupted: error.interrupted,
        });
    }

    /// Raises the status.
    pub fn raise(&mut self, status: Status) {
        self.exit_status = self.exit_status.max(status);
    }

    /// Says that there is no such file any more, which is the answer no.
    pub(crate) fn lose(&mut self) {
        self.gone = true;
        self.raise(Status::No);
    }

    /// Adds where the map differs from the record, in words and drawn.
    pub(crate) fn compare(&mut self, survey: &Survey) {
        let Some(moved) = &survey.moved else { return };
        if let Stored::Own(record) = &survey.stored
            && let Kept::Runs(was) = &record.map
            && !moved.changes.is_empty()
            && moved.change_count.is_none()
        {
            let block_size = self.file.as_ref().map_or(1, |facts| facts.block_size);
            let end = block_end(record.size.max(survey.inode.statx.size), block_size);
            self.strips = Some(drift::strips(was, &moved.changes, end));
        }
        self.differ(moved);
    }

    /// Adds what stands against pinning, which raises the status.
    pub(crate) fn block(&mut self, blockers: Vec<Blocker>) {
        for blocker in &blockers {
            self.raise(blocker.kind.status());
        }
        self.blockers = Some(blockers);
    }

    /// Notes that blocks have come to be shared since the pin, if so; says whether.
    pub(crate) fn note_shared(&mut self) -> bool {
        let shared = self.pin.as_ref().map_or(0, |pin| pin.shared_since);
        if shared > 0 {
            let shared = size::format(shared, false);
            self.notes.push(format!("{shared} shared with other files since; that alone moves nothing"));
        }
        shared > 0
    }

    /// Adds where the map is not as it was.
    pub(crate) fn differ(&mut self, moved: &Moved) {
        self.changes = Some(moved.changes.clone());
        self.change_count = moved.change_count;
    }

    /// Adds what a survey found, blockers and drift apart.
    pub fn describe(&mut self, target: &Target, survey: &Survey) {
        let realtime = survey.inode.xflags().contains(Xflags::REALTIME);
        self.file = Some(FileFacts::new(target, survey));
        self.map = Some(MapFacts {
            consistent: survey.consistent,
            address_space: target.filesystem.address_space(realtime),
            realtime_device: survey.beside.realtime_device.clone(),
            staging: survey.beside.staging,
            summary: survey.overview.summary,
            strip: survey.overview.strip,
        });
        self.pin = Some(PinFacts::new(survey));
    }
}

/// A failure, as data.
#[derive(Debug, Serialize)]
pub struct ErrorReport {
    /// The kernel call.
    pub call: Option<&'static str>,
    /// Its errno.
    pub errno: Option<i32>,
    /// All of it in words.
    pub message: String,
    /// Whether it was the user who ended it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

/// What a verb did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The file was made.
    Created,
    /// It would be made.
    WouldCreate,
    /// It was pinned.
    Pinned,
    /// It would be pinned.
    WouldPin,
    /// It was pinned already; its map was proved again.
    AlreadyPinned,
    /// Its pin was ended.
    Unpinned,
    /// Its pin would be ended.
    WouldUnpin,
    /// It was not pinned.
    AlreadyUnpinned,
    /// It was made pinnable.
    Prepared,
    /// It would be made pinnable.
    WouldPrepare,
    /// Nothing was to be done.
    AlreadyPrepared,
}

/// What preparing a file takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Work {
    /// To be written.
    pub write: u64,
    /// To be allocated, for a while at least.
    pub allocate: u64,
}

/// What a place, its machine and the caller have to do with holds.
#[derive(Debug, Serialize)]
pub struct ProbeFacts {
    /// The kernel, and what bounds the caller in it.
    #[serde(flatten)]
    pub host: Host,
    /// The filesystem.
    pub filesystem: FilesystemFacts,
    /// The device it is on, and what is below, outermost first; empty where it is on none, or on several.
    pub devices: Vec<Layer>,
    /// Each hold.
    pub holds: Vec<HoldFacts>,
}

/// A filesystem.
#[derive(Debug, Serialize)]
pub struct FilesystemFacts {
    /// Its name.
    pub name: &'static str,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Its block size in bytes.
    pub block_size: u64,
    /// Its features, where it tells of them.
    pub features: Option<Vec<String>>,
    /// Where and how it is mounted.
    pub mount: Option<Mount>,
}

/// Whether a hold can be had.
#[derive(Debug, Clone, Serialize)]
pub struct HoldFacts {
    /// Which.
    pub hold: Hold,
    /// What a pin would end with: 0, or 3 or 4.
    pub exit_status: Status,
    /// The one thing that decides that it cannot be had.
    pub missing: Option<String>,
    /// All that is known to be missing, that first.
    pub lacks: Vec<String>,
}

/// Where a file's bytes are, for one kind of reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "format", rename_all = "snake_case")]
pub enum Mapping {
    /// For device-mapper.
    Dmsetup {
        /// The device, `major:minor`.
        device: String,
        /// The extents up to EOF.
        segments: Vec<Segment>,
    },
    /// For resuming from hibernation.
    Resume {
        /// The device, `major:minor`.
        device: String,
        /// The value of the kernel's parameter `resume`.
        resume: String,
        /// The value of the kernel's parameter `resume_offset`, in pages.
        resume_offset: u64,
        /// Bytes a page.
        page_size: u64,
        /// What the kernel is set to resume from, where that was asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        settings: Option<Vec<ResumeSetting>>,
    },
}

/// What one source says about the place to resume from, beside the file's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResumeSetting {
    /// What it says.
    #[serde(flatten)]
    pub setting: Setting,
    /// Whether it names the file's blocks. `None` where it names no place.
    pub matches: Option<bool>,
}

/// A piece of a file that is in one place, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Where it starts in the file.
    pub logical: u64,
    /// Where it starts on the device.
    pub physical: u64,
    /// How long it is.
    pub length: u64,
}

/// A file's identity, size and attributes. Sizes in bytes.
#[derive(Debug, Serialize)]
pub struct FileFacts {
    /// Inode number.
    pub inode: u64,
    /// Generation; 0 where the filesystem keeps none.
    pub generation: u32,
    /// Name of the filesystem.
    pub filesystem: &'static str,
    /// Its UUID.
    #[serde(serialize_with = "uuid")]
    pub filesystem_uuid: Option<[u8; 16]>,
    /// Its device number: major, minor.
    #[serde(serialize_with = "device")]
    pub device: (u32, u32),
    /// Its block size.
    pub block_size: u64,
    /// Size.
    pub size: u64,
    /// Space allocated.
    pub allocated: u64,
    /// Last change of the contents.
    #[serde(serialize_with = "time")]
    pub mtime: Time,
    /// Last change of the inode.
    #[serde(serialize_with = "time")]
    pub ctime: Time,
    /// The `FS_XFLAG_*` bits.
    #[serde(serialize_with = "names")]
    pub flags: Xflags,
    /// The same as an integer.
    pub raw_flags: u32,
    /// Whether accesses go past the page cache, to persistent memory.
    pub dax: bool,
    /// Whether the kernel grants mappings with `MAP_SYNC`, if it could be asked.
    pub map_sync: Option<bool>,
}

impl FileFacts {
    fn new(target: &Target, survey: &Survey) -> Self {
        let statx = &survey.inode.statx;
        let flags = survey.inode.xflags();
        FileFacts {
            inode: target.identity.inode,
            generation: target.identity.generation,
            filesystem: target.filesystem.name(),
            filesystem_uuid: target.filesystem.uuid,
            device: statx.device,
            block_size: target.filesystem.block_size,
            size: statx.size,
            allocated: statx.allocated,
            mtime: statx.mtime,
            ctime: statx.ctime,
            flags,
            raw_flags: flags.bits(),
            dax: statx.attributes.contains(Attributes::DAX),
            map_sync: survey.beside.map_sync,
        }
    }
}

/// A map's totals.
#[derive(Debug, Serialize)]
pub struct MapFacts {
    /// Whether the map is proved untorn.
    pub consistent: bool,
    /// What physical offsets count from.
    pub address_space: AddressSpace,
    /// The realtime device, where the file is on one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "name::serialize_some")]
    pub realtime_device: Option<PathBuf>,
    /// Copy-on-write staging, on filesystems that have such.
    pub staging: Option<Staging>,
    /// The totals.
    #[serde(flatten)]
    pub summary: Summary,
    /// The strip that text shows.
    #[serde(skip)]
    pub strip: Option<Strip>,
}

/// A file's pin.
#[derive(Debug, Serialize)]
pub struct PinFacts {
    /// Its state.
    pub state: State,
    /// What holds it.
    pub hold: Option<Hold>,
    /// When it was pinned.
    #[serde(serialize_with = "maybe_time")]
    pub pinned_at: Option<Time>,
    /// What was written about it.
    pub note: Option<String>,
    /// The alignment that was demanded, in bytes.
    pub align: Option<u64>,
    /// The most extents that were allowed.
    pub max_extents: Option<u64>,
    /// Whether DAX was demanded.
    pub dax: Option<bool>,
    /// Kinds of blockers that were put up with.
    pub allowed: Vec<&'static str>,
    /// The `FS_XFLAG_*` bits that unpinning takes away.
    pub added_flags: Vec<String>,
    /// The size that was recorded, where it is another now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_was: Option<u64>,
    /// The mtime that was recorded, where it is another now and the hold fixes it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_time")]
    pub mtime_was: Option<Time>,
    /// Bytes shared now that were not when it was pinned.
    pub shared_since: u64,
}

impl PinFacts {
    fn new(survey: &Survey) -> Self {
        let own = match &survey.stored {
            Stored::Own(record) => Some(record),
            _ => None,
        };
        let shared_since = match (own, &survey.moved) {
            (Some(record), Some(moved)) if !record.needs.allow.contains(crate::needs::Allow::SHARED) => moved.shared,
            _ => 0,
        };
        PinFacts {
            state: survey.state,
            hold: own.map(|record| record.needs.hold),
            pinned_at: own.map(|record| record.time),
            note: own.and_then(|record| record.note.as_ref()).map(|note| note.as_str().to_owned()),
            align: own.and_then(|record| record.needs.align),
            max_extents: own.and_then(|record| record.needs.max_extents),
            dax: own.map(|record| record.needs.dax),
            allowed: own.map(|record| record.needs.allow.names()).unwrap_or_default(),
            added_flags: own.map(|record| xflag_names(record.added)).unwrap_or_default(),
            size_was: own.map(|record| record.size).filter(|size| *size != survey.inode.statx.size),
            mtime_was: own.and_then(|record| state::mtime_drift(record, &survey.inode.statx)),
            shared_since,
        }
    }
}

fn lower<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_lowercase).collect()
}

/// Writes a UUID as everybody does.
#[must_use]
pub fn format_uuid(bytes: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(bytes).to_string()
}

/// Writes a time as RFC 3339, in UTC; `None` outside of the years 0 to 9999, for which it has no form. XFS and ext4 have
/// no such times, btrfs has.
#[must_use]
pub fn format_time(time: Time) -> Option<String> {
    const YEAR_0: i64 = -62_167_219_200;
    if time.seconds < YEAR_0 {
        return None;
    }
    let nanoseconds = i32::try_from(time.nanoseconds).ok()?;
    Timestamp::new(time.seconds, nanoseconds).ok().map(|timestamp| timestamp.to_string())
}

fn uuid<S: Serializer>(uuid: &Option<[u8; 16]>, serializer: S) -> Result<S::Ok, S::Error> {
    uuid.map(format_uuid).serialize(serializer)
}

fn device<S: Serializer>((major, minor): &(u32, u32), serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{major}:{minor}"))
}

fn names<S: Serializer>(flags: &Xflags, serializer: S) -> Result<S::Ok, S::Error> {
    xflag_names(*flags).serialize(serializer)
}

fn time<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    format_time(*time).serialize(serializer)
}

fn maybe_time<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
    time.and_then(format_time).serialize(serializer)
}

#[derive(Serialize)]
struct ExtentReport {
    logical: u64,
    physical: u64,
    length: u64,
    flags: Vec<String>,
    raw_flags: u32,
}

fn extents<S: Serializer>(extents: &Option<Runs>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(extents.iter().flat_map(Runs::iter).map(|extent| ExtentReport {
        logical: extent.logical,
        physical: extent.physical,
        length: extent.length,
        flags: flag_names(extent.flags),
        raw_flags: extent.flags.bits(),
    }))
}

/// The names of an extent's flags.
#[must_use]
pub fn flag_names(flags: ExtentFlags) -> Vec<String> {
    lower(flags.iter_names().map(|(name, _)| name))
}

/// The names of a file's flags.
#[must_use]
pub fn xflag_names(flags: Xflags) -> Vec<String> {
    lower(flags.iter_names().map(|(name, _)| name))
}
