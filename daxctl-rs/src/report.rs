//! The reports of verbs on files. Serialised, they are the JSON that the program prints; its format only ever grows.

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
use crate::pin::drift::{self, Change, Drift};
use crate::pin::record::{Record, RecordedMap, Stored};
use crate::pin::state::{self, State};
use crate::pin::survey::Survey;
use crate::size;
use crate::status::Status;
use crate::system::devices::Layer;
use crate::system::filesystem::AddressSpace;
use crate::system::kernel::Host;
use crate::system::mounts::Mount;
use crate::system::resume::Setting;

/// Version of the JSON format.
pub const SCHEMA_VERSION: u32 = 1;

/// Receives each file's report as soon as it is known, in the order in which the user named the files. Reports on later
/// files do not wait for a file that takes long.
pub type Sink<'a> = dyn FnMut(FileReport) + 'a;

/// The result of a verb for one file.
#[derive(Debug, Serialize)]
pub struct FileReport {
    /// Its name.
    #[serde(serialize_with = "name::serialize")]
    pub path: PathBuf,
    /// The exit status that this file alone would give.
    pub exit_status: Status,
    /// The error, if the verb failed.
    pub error: Option<ErrorReport>,
    /// The action taken, or the one that would be taken without `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Facts about the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileFacts>,
    /// The map's totals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<MapFacts>,
    /// The map's runs, if requested.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "extents")]
    pub extents: Option<Runs>,
    /// Where its bytes are, in the form that other programs take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Mapping>,
    /// What preparing the file takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// What prevents pinning the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blockers: Option<Vec<Blocker>>,
    /// Which holds work here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeFacts>,
    /// The file's pin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<PinFacts>,
    /// Whether the file no longer exists.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Where the map differs from the recorded one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
    /// The number of differences, if the list is incomplete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_count: Option<u64>,
    /// The file as recorded and as it is now, if the record has runs and some moved.
    #[serde(skip)]
    pub strips: Option<[Strip; 2]>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl FileReport {
    /// Makes an empty report on a file.
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

    /// Makes a report of a failure.
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

    /// Reports that the file no longer exists, which means the answer no.
    pub(crate) fn mark_gone(&mut self) {
        self.gone = true;
        self.raise(Status::No);
    }

    /// Adds the differences between map and record, as a list and as strips.
    pub(crate) fn add_drift(&mut self, survey: &Survey) {
        let Some(drift) = &survey.drift else { return };
        if let Stored::Own(record) = &survey.stored
            && let RecordedMap::Runs(was) = &record.map
            && !drift.changes.is_empty()
            && drift.change_count.is_none()
        {
            let block_size = self.file.as_ref().map_or(1, |facts| facts.block_size);
            let end = block_end(record.size.max(survey.inode.statx.size), block_size);
            self.strips = Some(drift::strips(was, &drift.changes, end));
        }
        self.add_changes(drift);
    }

    /// Adds blockers, which raise the status.
    pub(crate) fn add_blockers(&mut self, blockers: Vec<Blocker>) {
        for blocker in &blockers {
            self.raise(blocker.kind.status());
        }
        self.blockers = Some(blockers);
    }

    /// Adds a note if blocks became shared since the pin; returns whether they did.
    pub(crate) fn note_shared(&mut self) -> bool {
        let shared = self.pin.as_ref().map_or(0, |pin| pin.shared_since);
        if shared > 0 {
            let shared = size::format(shared, false);
            self.notes.push(format!("{shared} shared with other files since the pin; that moves no blocks"));
        }
        shared > 0
    }

    /// Adds the places where the map differs from the record.
    pub(crate) fn add_changes(&mut self, drift: &Drift) {
        self.changes = Some(drift.changes.clone());
        self.change_count = drift.change_count;
    }

    /// Adds the results of a survey, except blockers and drift.
    pub fn describe(&mut self, target: &Target, survey: &Survey) {
        let realtime = survey.inode.xflags().contains(Xflags::REALTIME);
        self.file = Some(FileFacts::new(target, survey));
        self.map = Some(MapFacts {
            consistent: survey.consistent,
            address_space: target.filesystem.address_space(realtime),
            realtime_device: survey.context.realtime_device.clone(),
            staging: survey.context.staging,
            summary: survey.overview.summary,
            strip: survey.overview.strip.clone(),
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
    /// The whole error in words.
    pub message: String,
    /// Whether the user interrupted the work.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

/// An action of a verb.
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
    /// Nothing had to be done.
    AlreadyPrepared,
}

/// What preparing a file takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Work {
    /// Bytes to write.
    pub write: u64,
    /// Bytes to allocate, at least for a while.
    pub allocate: u64,
}

/// Facts about a place, its machine and the caller that holds depend on.
#[derive(Debug, Serialize)]
pub struct ProbeFacts {
    /// The kernel, and the limits of the caller in it.
    #[serde(flatten)]
    pub host: Host,
    /// The filesystem.
    pub filesystem: FilesystemFacts,
    /// The device of the filesystem and the layers below it, outermost first; empty if it is on no device, or on
    /// several.
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
    /// Its features, if it reports them.
    pub features: Option<Vec<String>>,
    /// Where and how it is mounted.
    pub mount: Option<Mount>,
}

/// Whether a hold works.
#[derive(Debug, Clone, Serialize)]
pub struct HoldFacts {
    /// The hold.
    pub hold: Hold,
    /// The exit status of a pin: 0, or 3 or 4.
    pub exit_status: Status,
    /// The unmet requirement that decides the status.
    pub missing: Option<String>,
    /// All requirements known to be unmet, with the deciding one first.
    pub lacks: Vec<String>,
}

/// Where a file's bytes are, for one kind of reading program.
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
        /// Bytes in a page.
        page_size: u64,
        /// The place that the kernel is set to resume from, if requested.
        #[serde(skip_serializing_if = "Option::is_none")]
        settings: Option<Vec<ResumeSetting>>,
    },
}

/// The place to resume from according to one source, compared with the file's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResumeSetting {
    /// The setting.
    #[serde(flatten)]
    pub setting: Setting,
    /// Whether it names the file's blocks. `None` if it names no place.
    pub matches: Option<bool>,
}

/// A contiguous piece of a file, in bytes.
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
    /// Whether accesses bypass the page cache and go straight to persistent memory.
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
            map_sync: survey.context.map_sync,
        }
    }
}

/// A map's totals.
#[derive(Debug, Serialize)]
pub struct MapFacts {
    /// Whether the map is proved consistent.
    pub consistent: bool,
    /// The base of physical offsets.
    pub address_space: AddressSpace,
    /// The realtime device, if the file is on one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "name::serialize_some")]
    pub realtime_device: Option<PathBuf>,
    /// Copy-on-write staging, on filesystems that have it.
    pub staging: Option<Staging>,
    /// The totals.
    #[serde(flatten)]
    pub summary: Summary,
    /// The strip, as text output shows it.
    #[serde(skip)]
    pub strip: Option<Strip>,
}

/// A file's pin.
#[derive(Debug, Serialize)]
pub struct PinFacts {
    /// Its state.
    pub state: State,
    /// Its hold.
    pub hold: Option<Hold>,
    /// When it was pinned.
    #[serde(serialize_with = "maybe_time")]
    pub pinned_at: Option<Time>,
    /// The note on the pin.
    pub note: Option<String>,
    /// The required alignment, in bytes.
    pub align: Option<u64>,
    /// The allowed number of extents.
    pub max_extents: Option<u64>,
    /// Whether the pin requires DAX.
    pub dax: Option<bool>,
    /// Kinds of blockers that the pin allows.
    pub allowed: Vec<&'static str>,
    /// The `FS_XFLAG_*` bits that unpinning clears.
    pub added_flags: Vec<String>,
    /// The recorded size, if it differs from the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_was: Option<u64>,
    /// The recorded mtime, if it differs from the current one and the hold fixes it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_time")]
    pub mtime_was: Option<Time>,
    /// Bytes that are shared now but were not when the file was pinned.
    pub shared_since: u64,
    /// The pin that a record of another file describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignPin>,
}

/// The pin of another file, from whose copy the record came.
#[derive(Debug, Serialize)]
pub struct ForeignPin {
    /// Its hold.
    pub hold: Hold,
    /// When that file was pinned.
    #[serde(serialize_with = "time")]
    pub pinned_at: Time,
    /// The note on the pin.
    pub note: Option<String>,
    /// The required alignment, in bytes.
    pub align: Option<u64>,
    /// The allowed number of extents.
    pub max_extents: Option<u64>,
    /// Whether the pin requires DAX.
    pub dax: bool,
    /// Kinds of blockers that the pin allows.
    pub allowed: Vec<&'static str>,
}

impl ForeignPin {
    fn new(record: &Record) -> Self {
        ForeignPin {
            hold: record.needs.hold,
            pinned_at: record.time,
            note: record.note.as_ref().map(|note| note.as_str().to_owned()),
            align: record.needs.align,
            max_extents: record.needs.max_extents,
            dax: record.needs.dax,
            allowed: record.needs.allow.names(),
        }
    }
}

impl PinFacts {
    fn new(survey: &Survey) -> Self {
        let own = match &survey.stored {
            Stored::Own(record) => Some(record),
            _ => None,
        };
        let shared_since = match (own, &survey.drift) {
            (Some(record), Some(drift)) if !record.needs.allow.contains(crate::needs::Allow::SHARED) => drift.shared,
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
            foreign: match &survey.stored {
                Stored::Foreign(record) => Some(ForeignPin::new(record)),
                _ => None,
            },
        }
    }
}

fn lower<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_lowercase).collect()
}

/// Formats a UUID in the usual form.
#[must_use]
pub fn format_uuid(bytes: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(bytes).to_string()
}

/// Formats a time as RFC 3339, in UTC. `None` outside of the years 0 to 9999, which the format cannot express. XFS and
/// ext4 have no such times; btrfs has.
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
