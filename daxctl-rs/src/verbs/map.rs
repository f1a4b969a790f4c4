//! `map`: prints a file's blocks in the form that other programs take: a device-mapper table, or where to resume from
//! hibernation.
//!
//! Such numbers are valid only as long as the blocks stay in place. So the file must be pinned and unchanged.
//! `--compare` compares them with the place that the kernel is set to resume from.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use libdaxfile::Errno;
use libdaxfile::fsmap::{Records, XFS_FMR_OWN_LOG};
use libdaxfile::fsxattr::Xflags;
use nix::sys::stat::{major, minor};
use nix::unistd::{SysconfVar, sysconf};

use super::each;
use crate::error::{Error, Result, ResultExt};
use crate::file::blockers::Kind;
use crate::file::map::Run;
use crate::file::swap_header;
use crate::file::target::Target;
use crate::hold;
use crate::name::quote;
use crate::needs::{Hold, Needs};
use crate::pin::record::Stored;
use crate::pin::state::State;
use crate::pin::survey::{self, Survey};
use crate::progress::Progress;
use crate::report::{FileReport, Mapping, ResumeSetting, Segment, Sink, format_uuid};
use crate::size;
use crate::status::Status;
use crate::system::devices::{self, SECTOR};
use crate::system::resume::{self, Setting};

/// The reader of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// device-mapper: linear targets, one per extent; see dmsetup(8).
    Dmsetup,
    /// The kernel that resumes from a swapfile: `Documentation/power/swsusp-and-swap-files.rst`.
    Resume,
}

/// Options of `map`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The reader of the map.
    pub format: Format,
    /// Also map a file that is not pinned, or that has changed since it was pinned.
    pub unpinned: bool,
    /// With [`Format::Resume`], compare with the place that the kernel is set to resume from.
    pub compare: bool,
}

/// Maps the file.
pub fn run(path: &Path, options: Options, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    each::in_sequence(&[path.to_owned()], progress, sink, |target, report| map(target, options, report))
}

fn map(target: &Target, options: Options, report: &mut FileReport) -> Result<()> {
    let Options { format, unpinned, compare } = options;
    if let Some(why) = target.filesystem.refusal(Hold::Frozen) {
        return Err(Error::new(Status::Unable, unreliable(target, format, why)));
    }
    let mut runs = Vec::new();
    // The first run alone says where to resume.
    let wanted = if format == Format::Resume { 1 } else { usize::MAX };
    let mut survey = survey::with_writers(target, Needs::default(), |run| {
        if runs.len() < wanted {
            runs.push(*run);
        }
    })?;
    hold::detect_writer(&mut survey)?;
    report.describe(target, &survey);
    if !unpinned && survey.state != State::Pinned {
        return Err(Error::new(Status::No, not_pinned(survey.state)));
    }
    if !unpinned {
        survey.require_certainty()?;
    }
    require_places(format, &survey, report)?;
    let size = survey.inode.statx.size;
    let (major, minor) = device(target, &survey)?;
    let device = format!("{major}:{minor}");
    report.mapping = Some(match format {
        Format::Dmsetup => {
            let block_size = devices::logical_block_size((major, minor)).unwrap_or(SECTOR);
            Mapping::Dmsetup { device, segments: segments(&runs, size, block_size)? }
        }
        Format::Resume => {
            let (resume_offset, page_size) = resume_offset(&runs)?;
            if !swap_header::present(target, size) {
                report.notes.push("has no swap header yet: mkswap writes it, and moves no blocks".into());
            }
            // The number of a device can change from boot to boot, but the realtime device has no other name.
            let uuid = target.filesystem.uuid.filter(|_| !survey.inode.xflags().contains(Xflags::REALTIME));
            let resume = uuid.map_or_else(|| device.clone(), |uuid| format!("UUID={}", format_uuid(uuid)));
            let settings = if compare {
                let settings = settings((major, minor), &resume, resume_offset)?;
                if !resumes_here(&settings) {
                    report.exit_status = report.exit_status.max(Status::No);
                }
                Some(settings)
            } else {
                None
            };
            Mapping::Resume { device, resume, resume_offset, page_size, settings }
        }
    });
    Ok(())
}

/// Describes why the numbers of a file on such a filesystem have no meaning.
fn unreliable(target: &Target, format: Format, why: &str) -> String {
    let name = target.filesystem.name();
    let mut message = format!("the map cannot be relied on with {name}: {why}");
    if name == "btrfs" && format == Format::Resume {
        let file = quote(&target.path);
        message += &format!("; 'btrfs inspect-internal map-swapfile {file}' prints a swap file's offset");
    }
    message
}

/// Compares each place that the kernel is set to resume from with the place of the file.
fn settings(device: (u32, u32), resume: &str, resume_offset: u64) -> Result<Vec<ResumeSetting>> {
    let uuid = |name: &str| name.strip_prefix("UUID=").map(str::to_ascii_lowercase);
    let compared = |setting: Setting| {
        let matches = match (&setting.resume, setting.resume_offset) {
            (None, None) => None,
            // If the offset differs, the device does not matter.
            (_, offset) if offset != Some(resume_offset) => Some(false),
            (None, _) => Some(true),
            (Some(other), _) => Some(match (uuid(other), uuid(resume)) {
                (Some(other), Some(own)) => other == own,
                _ => resume::device(other)? == Some(device),
            }),
        };
        Ok(ResumeSetting { setting, matches })
    };
    [resume::command_line()?, resume::power()?].map(compared).into_iter().collect()
}

/// Whether at least one source names the file's device and offset, and none names others.
fn resumes_here(settings: &[ResumeSetting]) -> bool {
    let named = |it: &ResumeSetting| it.matches == Some(true) && it.setting.resume.is_some();
    settings.iter().any(named) && settings.iter().all(|it| it.matches != Some(false))
}

fn not_pinned(state: State) -> String {
    match state {
        State::Unpinned | State::NotHeld => {
            "not pinned, so its blocks may move: pin it first, or use --unpinned".into()
        }
        state => format!("{}: see daxfile verify, or use --unpinned", state.name().replace('_', " ")),
    }
}

/// Refuses a file in which some byte has no place of its own.
fn require_places(format: Format, survey: &Survey, report: &mut FileReport) -> Result<()> {
    let mut against = survey.blockers.clone();
    // A pinned map stays in place, and check confirms that. But the reader must know of blocks shared with other files.
    let shared = survey.overview.summary.shared;
    if shared > 0
        && survey.state == State::Pinned
        && !matches!(&survey.stored, Stored::Own(record) if record.needs.hold == Hold::Writable)
    {
        against.retain(|blocker| blocker.kind != Kind::Shared);
        let shared = size::format(shared, false);
        report
            .notes
            .push(format!("{shared} shared with other files: a write there through this map changes them, too"));
    }
    against.retain(|blocker| match blocker.kind {
        // These blockers say nothing about where the bytes are.
        Kind::TooManyExtents | Kind::Misaligned | Kind::Staging | Kind::PastEof => false,
        Kind::Immutable | Kind::AppendOnly | Kind::Verity | Kind::Merged => false,
        // The kernel leaves the map of an active swapfile alone (`S_SWAPFILE`), and accepts unwritten blocks in it.
        Kind::Swapfile | Kind::Unwritten => format != Format::Resume,
        _ => true,
    });
    if against.is_empty() {
        return Ok(());
    }
    let kinds: Vec<_> = against.iter().map(|blocker| blocker.kind.words()).collect();
    let message = format!("{}: daxfile check says where", kinds.join(", "));
    report.add_blockers(against);
    Err(Error::new(report.exit_status, message))
}

/// The number of the device that the physical offsets refer to.
fn device(target: &Target, survey: &Survey) -> Result<(u32, u32)> {
    let data = survey.inode.statx.device;
    let Some(path) = &survey.context.realtime_device else { return Ok(data) };
    let metadata = std::fs::metadata(path).call("stat(the realtime device)")?;
    let number = metadata.rdev();
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let number = (narrow(major(number)), narrow(minor(number)));
    if metadata.file_type().is_block_device() && number != data && is_realtime_device(target, number)? {
        return Ok(number);
    }
    let path = quote(path);
    Err(Error::new(Status::Failed, format!("{path}, the realtime device at mount time, is another device now")))
}

/// Whether the file's filesystem, an XFS, uses this device, and not for its journal. The check needs no privilege.
fn is_realtime_device(target: &Target, number: (u32, u32)) -> Result<bool> {
    match Records::new(target, number, 0, 1).next().transpose() {
        Ok(record) => Ok(record.is_none_or(|record| record.owner != XFS_FMR_OWN_LOG)),
        Err(error) if error.errno == Errno::EINVAL => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn segments(runs: &[Run], size: u64, block_size: u64) -> Result<Vec<Segment>> {
    if !size.is_multiple_of(block_size) {
        return Err(Error::new(
            Status::No,
            format!(
                "its size, {size}, is not a multiple of the device's block size, {block_size}: a table cannot end there"
            ),
        ));
    }
    let of_run = |run: &Run| Segment {
        logical: run.logical,
        physical: run.physical,
        length: run.length.min(size.saturating_sub(run.logical)),
    };
    Ok(runs.iter().map(of_run).filter(|segment| segment.length > 0).collect())
}

/// The position of the swap header in pages, and the page size.
fn resume_offset(runs: &[Run]) -> Result<(u64, u64)> {
    let page_size = sysconf(SysconfVar::PAGE_SIZE).call("sysconf(_SC_PAGESIZE)")?;
    let page_size = page_size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096);
    match runs.first() {
        Some(first) if first.physical.is_multiple_of(page_size) && first.length >= page_size => {
            Ok((first.physical / page_size, page_size))
        }
        _ => Err(Error::new(
            Status::No,
            format!(
                "its first {page_size} bytes are not in one page on the device; those of a file that daxfile alloc --align \
                 {page_size} makes are"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use libdaxfile::fiemap::ExtentFlags;

    use super::*;

    fn run(logical: u64, physical: u64, length: u64) -> Run {
        Run { logical, physical, length, flags: ExtentFlags::empty() }
    }

    #[test]
    fn a_table_ends_with_the_file() {
        let runs = [run(0, 8192, 4096), run(4096, 65536, 4096), run(8192, 1 << 20, 4096)];
        let all = segments(&runs, 4608, 512).map(|segments| segments.iter().map(|s| (s.physical, s.length)).collect());
        assert_eq!(all, Ok(vec![(8192, 4096), (65536, 512)]));
        for (size, block_size) in [(4609, 512), (4608, 4096)] {
            assert_eq!(segments(&runs, size, block_size).map_err(|error| error.status), Err(Status::No));
        }
    }

    #[test]
    fn the_swap_header_is_one_page() {
        let (offset, page) = resume_offset(&[run(0, 1 << 20, 1 << 20)]).unwrap_or_default();
        assert_eq!(offset * page, 1 << 20);
        assert_eq!(resume_offset(&[run(0, 10 * page, 2 * page)]), Ok((10, page)));
        for first in [run(0, page / 4, 2 * page), run(0, 10 * page, page / 4)] {
            assert_eq!(resume_offset(&[first]).map_err(|error| error.status), Err(Status::No));
        }
    }
}
