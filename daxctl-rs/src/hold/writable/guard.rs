//! The guard's loader: its programs and maps, pinned below /sys/fs/bpf/daxfile, where flock(2) serialises changes.
//!
//! All builds of daxfile share the maps. The name of the links' directory contains the object's digest and the number
//! of links. A build that finds another build's directory adds its own before it removes the other, so that the guard
//! is never absent. When the last file leaves the guard, the loader removes everything.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::programs::links::FdLink;
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, Pod};
use aya_obj::btf::BtfKind;
use libdaxfile::{Errno, kprobe};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use sha2::{Digest, Sha256};

use super::{MissingPart, Part, calls};
use crate::error::{Error, Result, ResultExt};
use crate::file::target::Target;
use crate::pin::guarded::{BPFFS, PINS, belongs_to_root, directories_of_links, has_all};
use crate::status::Status;
use crate::system::kernel;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.o"));

const FILES: &str = "daxfile_files";
const FILESYSTEMS: &str = "daxfile_fs";
const FILTER: &str = "daxfile_filter";
const MAPS: [&str; 3] = [FILES, FILESYSTEMS, FILTER];

type Key = [u8; 24];

/// A program, the hook or kernel function that it attaches to, and what stays unprotected if the kernel lacks that
/// place; `None` if everything stays protected.
struct Place {
    program: &'static str,
    hook: &'static str,
    leaves_open: Option<&'static str>,
}

const fn place(program: &'static str, hook: &'static str, leaves_open: &'static str) -> Place {
    Place { program, hook, leaves_open: Some(leaves_open) }
}

const fn passing(program: &'static str, hook: &'static str) -> Place {
    Place { program, hook, leaves_open: None }
}

const INODE_SETATTR: &str = "inode_setattr";
const DO_ITER_WRITE: &str = "do_iter_write";
const GATHERED_BY_WRITEV: &str = "gathered_by_writev";
const GATHERED_BY_AIO: &str = "gathered_by_aio";
/// The kernel function at whose call instructions, within the functions above, these programs attach.
const RW_VERIFY_AREA: &str = "rw_verify_area";

const PLACES: [Place; 37] = [
    place("file_permission", "file_permission", "writes past the end and allocation are not refused"),
    place(INODE_SETATTR, INODE_SETATTR, "truncation is not refused"),
    place("file_ioctl", "file_ioctl", "extents can be swapped away"),
    passing("file_ioctl_compat", "file_ioctl_compat"),
    place("file_open", "file_open", "opening for appending, and by overlayfs for writing, is not refused"),
    place("file_fcntl", "file_fcntl", "a descriptor can be made to append"),
    place("file_receive", "file_receive", "the position of a descriptor can change unseen"),
    // Only if the kernel has quotas.
    passing("quota_on", "quota_on"),
    place("inode_unlink", "inode_unlink", "the file can be deleted"),
    place("inode_rmdir", "inode_rmdir", "the guard's own pins can be removed"),
    place("inode_rename", "inode_rename", "the file can be replaced"),
    place("inode_setxattr", "inode_setxattr", "the record can be forged where the kernel does not refuse it"),
    place("inode_removexattr", "inode_removexattr", "the record can be removed where the kernel does not refuse it"),
    place("bpf_map", "bpf_map", "the guard's list of files can be changed without CAP_SYS_ADMIN"),
    place("vfs_write", "vfs_write", "a write can be taken for another one"),
    place("kernel_write", "kernel_write", "a write by the kernel can be taken for another one"),
    place("vfs_iter_write", "vfs_iter_write", "a write by the kernel can be taken for another one"),
    passing("do_iter_write", DO_ITER_WRITE),
    place("vfs_writev", "vfs_writev", "a write can be taken for another one"),
    place("vfs_iocb_iter_write", "vfs_iocb_iter_write", "a write by the kernel can be taken for another one"),
    place("aio_write", "aio_write", "a write by aio can be taken for another one"),
    // Absent before Linux 6.8: there, the kernel calls do_iter_write() with the length.
    passing(GATHERED_BY_WRITEV, "vfs_writev"),
    place(GATHERED_BY_AIO, "aio_write", "the length of an aio write from many buffers is not known"),
    place("io_write", "io_write", "a write by io_uring can be taken for another one"),
    place("do_splice", "do_splice", "a splice can be taken for another write"),
    place("do_sendfile", "do_sendfile", "a sendfile can be taken for another write"),
    place("do_splice_direct", "do_splice_direct", "a copy can be taken for another write"),
    place("vfs_fallocate", "vfs_fallocate", "an allocation can be taken for a write"),
    place("clone", "vfs_clone_file_range", "its blocks can be shared"),
    place("clone_end", "vfs_clone_file_range", "reads after a refused clone are refused"),
    passing("do_clone", "do_clone_file_range"),
    passing("do_clone_end", "do_clone_file_range"),
    place("dedupe", "vfs_dedupe_file_range_one", "its blocks can be shared"),
    place("dedupe_end", "vfs_dedupe_file_range_one", "reads after a refused deduplication are refused"),
    place("copy", "vfs_copy_file_range", "its blocks can be shared"),
    place("copy_end", "vfs_copy_file_range", "reads after a refused copy are refused"),
    // Before Linux 6.3, in place of the program above.
    passing("inode_setattr_old", INODE_SETATTR),
];

/// Returns what the guard lacks on this kernel or in this process. If this build's guard is loaded already, returns
/// nothing; otherwise loads the guard and discards it. An empty answer promises that the guard can hold a file.
#[must_use]
pub fn missing_parts() -> Vec<MissingPart> {
    if directories_of_links().is_ok_and(|found| is_loaded(&found)) {
        return Vec::new();
    }
    load(false).map_or_else(|missing| missing, |_| Vec::new())
}

/// Loads every program that has a place to attach in this kernel.
fn load(pinned: bool) -> std::result::Result<Ebpf, Vec<MissingPart>> {
    if let Some(active) = kernel::active_lsms()
        && !active.iter().any(|lsm| lsm == "bpf")
    {
        let active = active.join(",");
        return Err(vec![MissingPart::new(
            Part::Lsm,
            format!("bpf is not among the active LSMs: boot with lsm={active},bpf"),
        )]);
    }
    if kernel::lockdown().as_deref() == Some("confidentiality") {
        return Err(vec![MissingPart::new(
            Part::Permission,
            "not permitted: the kernel is locked down (confidentiality)",
        )]);
    }
    let btf = Btf::from_sys_fs().map_err(|_| {
        vec![MissingPart::new(Part::Btf, "this kernel has no type information (/sys/kernel/btf/vmlinux)")]
    })?;
    let mut missing: Vec<_> = kprobe_pmu().err().into_iter().collect();
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf));
    // Both changed in Linux 6.8: before, splice_write() of a file calls do_iter_write() for each piece.
    let has = |function| btf.id_by_type_name_kind(function, BtfKind::Func).is_ok();
    let pieces_are_checked = u8::from(has(DO_ITER_WRITE) && !has("splice_file_range"));
    loader.override_global("pieces_are_checked", &pieces_are_checked, true);
    if pinned {
        for map in MAPS {
            loader.map_pin_path(map, Path::new(PINS).join(map));
        }
    }
    let mut object = match loader.load(OBJECT) {
        Ok(object) => object,
        Err(error) => {
            // Without permission to load, no other missing part decides.
            missing.insert(0, refused(&error, None));
            return Err(missing);
        }
    };
    let mut setattr = false;
    for place in &PLACES {
        // Where the new form fits, whatever the old form makes of the arguments does not matter.
        if place.program == "inode_setattr_old" && setattr {
            continue;
        }
        match load_place(&mut object, place, &btf) {
            Ok(()) => setattr |= place.hook == INODE_SETATTR,
            Err(_) if place.leaves_open.is_none() => {}
            // The old form may fit.
            Err(_) if place.program == INODE_SETATTR => {}
            Err(error) => missing.push(missing_hook(place, &error)),
        }
        if missing.iter().any(|missing| missing.part == Part::Permission) {
            return Err(missing.split_off(missing.len() - 1));
        }
    }
    if !setattr && let Some(place) = PLACES.iter().find(|place| place.program == INODE_SETATTR) {
        let message = format!("no hook {INODE_SETATTR}: {}", place.leaves_open.unwrap_or_default());
        missing.push(MissingPart { hook: Some(INODE_SETATTR), ..MissingPart::new(Part::Hook, message) });
    }
    // Only if nothing else is missing: reading the kernel's symbols takes longer than all other checks.
    if missing.is_empty()
        && let Some(error) = PLACES.iter().find_map(|place| offsets(place, Path::new(PINS)).err())
    {
        let open = "without it, a write from an array of buffers is refused";
        let message = format!("no program can stand where {RW_VERIFY_AREA} is called ({error}): {open}");
        missing.push(MissingPart { hook: Some(RW_VERIFY_AREA), ..MissingPart::new(Part::Hook, message) });
    }
    if missing.is_empty() { Ok(object) } else { Err(missing) }
}

fn load_place(object: &mut Ebpf, place: &Place, btf: &Btf) -> std::result::Result<(), ProgramError> {
    match object.program_mut(place.program) {
        Some(Program::Lsm(program)) => program.load(place.hook, btf),
        Some(Program::FExit(program)) => program.load(place.hook, btf),
        Some(Program::KProbe(program)) => {
            btf.id_by_type_name_kind(place.hook, BtfKind::Func)?;
            program.load()
        }
        _ => Ok(()),
    }
}

fn missing_hook(place: &Place, error: &ProgramError) -> MissingPart {
    let missing = refused(error, Some(place.hook));
    match missing.part {
        Part::Hook => {
            let open = place.leaves_open.unwrap_or_default();
            MissingPart { message: format!("{}: without it, {open}", missing.message), ..missing }
        }
        _ => missing,
    }
}

/// Translates an error of loading.
fn refused(error: &(dyn std::error::Error + 'static), hook: Option<&'static str>) -> MissingPart {
    let mut source = Some(error);
    while let Some(error) = source {
        if is_of_verifier(error) {
            break;
        }
        let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).map(Errno::from_raw);
        if let Some(errno @ (Errno::EPERM | Errno::EACCES)) = errno {
            let meaning = libdaxfile::meaning(errno);
            let why = "the kernel refuses to load BPF programs: root without CAP_BPF, or a policy";
            return MissingPart {
                hook,
                ..MissingPart::new(Part::Permission, format!("not permitted: bpf: {meaning}: {why}"))
            };
        }
        source = error.source();
    }
    let message = match hook {
        Some(hook) => format!("no program can stand at {hook} ({})", first_line(error)),
        None => format!("the guard cannot be loaded ({})", first_line(error)),
    };
    MissingPart { hook, ..MissingPart::new(Part::Hook, message) }
}

/// Whether the verifier refused a program. It does so with EACCES, too, and says why.
fn is_of_verifier(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref();
    matches!(error, Some(ProgramError::LoadError { verifier_log, .. }) if !verifier_log.to_string().is_empty())
}

fn first_line(error: &(dyn std::error::Error + 'static)) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Refuses a pin directory that another user could have made.
pub(super) fn require_trusted_pins() -> Result<()> {
    match fs::symlink_metadata(PINS) {
        Ok(directory) => require_roots(&directory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).call("lstat(/sys/fs/bpf/daxfile)"),
    }
}

fn require_roots(directory: &Metadata) -> Result<()> {
    if belongs_to_root(directory) {
        return Ok(());
    }
    Err(Error::new(
        Status::Failed,
        "/sys/fs/bpf/daxfile does not belong to root alone, so the guard did not make it: remove it",
    ))
}

/// Opens and locks the pin directory; mounts bpffs and makes the directory if they are missing.
fn lock() -> Result<Flock<File>> {
    let mounted = statfs(BPFFS).call("statfs(/sys/fs/bpf)")?.filesystem_type() == BPF_FS_MAGIC;
    if !mounted {
        mount(
            Some("bpf"),
            BPFFS,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=700"),
        )
        .call("mount(/sys/fs/bpf)")?;
    }
    loop {
        match DirBuilder::new().mode(0o700).create(PINS) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).call("mkdir(/sys/fs/bpf/daxfile)");
            }
            _ => {}
        }
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
            .open(PINS)
            .call("open(/sys/fs/bpf/daxfile)")?;
        require_roots(&directory.metadata().call("fstat")?)?;
        let locked = Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::call("flock(/sys/fs/bpf/daxfile)", errno))?;
        // The process that held the lock may have removed everything.
        if Path::new(PINS).is_dir() && same_directory(&locked)? {
            return Ok(locked);
        }
    }
}

fn same_directory(directory: &File) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let there = directory.metadata().call("fstat")?;
    Ok(fs::metadata(PINS).is_ok_and(|here| here.ino() == there.ino()))
}

fn digest() -> String {
    Sha256::digest(OBJECT).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a directory has the links of this build.
fn is_of_this_build(path: &Path) -> bool {
    path.file_name().unwrap_or_default().to_string_lossy().starts_with(&format!("links-{}-", digest()))
}

/// Whether this build's guard is loaded, with all its links.
fn is_loaded(found: &[(PathBuf, usize)]) -> bool {
    found.iter().any(|(path, number)| is_of_this_build(path) && has_all(path, *number))
}

/// Makes sure that this build's programs are attached, and no other build's.
fn ensure() -> Result<()> {
    let found = directories_of_links().call("readdir(/sys/fs/bpf/daxfile)")?;
    if !is_loaded(&found) {
        let mut object = load(true).map_err(|missing| missing.first().map_or_else(unknown, MissingPart::error))?;
        let new = Path::new(PINS).join("new");
        remove_all(&new)?;
        DirBuilder::new().mode(0o700).create(&new).call("mkdir(/sys/fs/bpf/daxfile/new)")?;
        let number = attach(&mut object, &new)?;
        let path = Path::new(PINS).join(format!("links-{}-{number}", digest()));
        remove_all(&path)?;
        fs::rename(&new, &path).call("rename(/sys/fs/bpf/daxfile/new)")?;
    }
    for (path, _) in found.iter().filter(|(path, _)| !is_of_this_build(path)) {
        remove_all(path)?;
    }
    Ok(())
}

fn unknown() -> Error {
    Error::new(Status::Failed, "the guard cannot be loaded")
}

/// Attaches everything that was loaded; returns the number of links.
fn attach(object: &mut Ebpf, directory: &Path) -> Result<usize> {
    let mut number = 0;
    // Attach the programs that let writes through first.
    for place in PLACES.iter().rev() {
        let path = directory.join(place.program);
        let link = match object.program_mut(place.program) {
            Some(Program::Lsm(program)) if program.fd().is_ok() => {
                program.attach().and_then(|id| program.take_link(id)).map(FdLink::from)
            }
            Some(Program::FExit(program)) if program.fd().is_ok() => {
                program.attach().and_then(|id| program.take_link(id)).map(FdLink::from)
            }
            Some(Program::KProbe(program)) => {
                if let Ok(program) = program.fd() {
                    let pmu = kprobe_pmu().map_err(|missing| missing.error())?;
                    for (offset, path) in offsets(place, &path)? {
                        let link = kprobe::attach(program, pmu, &c_string(place.hook.as_bytes())?, offset)?;
                        kprobe::pin(link, &c_string(path.as_os_str().as_bytes())?)?;
                        number += 1;
                    }
                }
                continue;
            }
            _ => continue,
        };
        let link = link.map_err(|error| refused(&error, None).error())?;
        link.pin(&path).map_err(|error| refused(&error, None).error())?;
        number += 1;
    }
    Ok(number)
}

/// Returns the offsets in its function at which a kprobe attaches, and the names of its links: at the entry, or at each
/// call of rw_verify_area().
fn offsets(place: &Place, path: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if ![GATHERED_BY_WRITEV, GATHERED_BY_AIO].contains(&place.program) {
        return Ok(vec![(0, path.to_owned())]);
    }
    let calls = calls::find(place.hook, RW_VERIFY_AREA)?;
    if calls.is_empty() && place.leaves_open.is_some() {
        return Err(Error::new(
            Status::Unable,
            format!("hold writable: {} does not call {RW_VERIFY_AREA}", place.hook),
        ));
    }
    let name = |offset: &u64| path.with_file_name(format!("{}_{offset:x}", place.program));
    Ok(calls.iter().map(|offset| (*offset, name(offset))).collect())
}

/// The type number of the kprobes' performance monitoring unit.
fn kprobe_pmu() -> std::result::Result<u32, MissingPart> {
    const TYPE: &str = "/sys/bus/event_source/devices/kprobe/type";
    let number = fs::read_to_string(TYPE).ok().and_then(|number| number.trim().parse().ok());
    number.ok_or_else(|| MissingPart::new(Part::Hook, format!("this kernel has no kprobes ({TYPE})")))
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| unknown())
}

fn remove_all(directory: &Path) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.call("readdir(/sys/fs/bpf/daxfile)")?,
    };
    for entry in entries {
        fs::remove_file(entry.call("readdir(/sys/fs/bpf/daxfile)")?.path()).call("unlink(/sys/fs/bpf/daxfile)")?;
    }
    fs::remove_dir(directory).call("rmdir(/sys/fs/bpf/daxfile)")
}

fn map(name: &str) -> Result<MapData> {
    MapData::from_pin(Path::new(PINS).join(name)).map_err(|error| failed(&error))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Error::call("bpf", Errno::from_raw(errno));
        }
        source = error.source();
    }
    Error::new(Status::Failed, format!("bpf: {}", first_line(error)))
}

/// The list of guarded files, and the number of them on each filesystem and in each slot of the filter. The counts rise
/// before a file is added, and fall after it is removed: after a crash a count may be too high, which costs only time.
struct Lists {
    files: HashMap<MapData, Key, u32>,
    filesystems: HashMap<MapData, [u8; 16], u32>,
    filter: Array<MapData, u32>,
}

impl Lists {
    fn open() -> Result<Self> {
        Ok(Lists {
            files: HashMap::try_from(Map::HashMap(map(FILES)?)).map_err(|error| failed(&error))?,
            filesystems: HashMap::try_from(Map::HashMap(map(FILESYSTEMS)?)).map_err(|error| failed(&error))?,
            filter: Array::try_from(Map::Array(map(FILTER)?)).map_err(|error| failed(&error))?,
        })
    }

    fn has(&self, key: &Key) -> Result<bool> {
        Ok(find(&self.files, key)?.is_some())
    }

    fn add(&mut self, key: &Key, generation: u32) -> Result<()> {
        let new = !self.has(key)?;
        if new {
            self.count(key, |files| files.saturating_add(1))?;
        }
        self.files.insert(key, generation, 0).or_else(|error| {
            if new {
                self.count(key, |files| files.saturating_sub(1))?;
            }
            Err(failed(&error))
        })
    }

    fn remove(&mut self, key: &Key) -> Result<()> {
        if self.has(key)? {
            self.files.remove(key).map_err(|error| failed(&error))?;
            self.count(key, |files| files.saturating_sub(1))?;
        }
        Ok(())
    }

    fn count(&mut self, key: &Key, change: impl Fn(u32) -> u32) -> Result<()> {
        let (uuid, number) = key.split_at(16);
        let place = number.iter().rev().fold(0, |place, byte| place << 8 & 4095 | u32::from(*byte));
        let files = self.filter.get(&place, 0).map_err(|error| failed(&error))?;
        self.filter.set(place, change(files), 0).map_err(|error| failed(&error))?;

        let mut filesystem = [0; 16];
        filesystem.copy_from_slice(uuid);
        match change(find(&self.filesystems, &filesystem)?.unwrap_or(0)) {
            0 => self.filesystems.remove(&filesystem),
            files => self.filesystems.insert(filesystem, files, 0),
        }
        .map_err(|error| failed(&error))
    }
}

fn find<K: Pod>(map: &HashMap<MapData, K, u32>, key: &K) -> Result<Option<u32>> {
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

fn key(target: &Target) -> Key {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&target.filesystem.uuid.unwrap_or_default());
    key[16..].copy_from_slice(&target.identity.inode.to_ne_bytes());
    key
}

/// Puts files under the guard, and loads the guard if it is not loaded. The results are in the order of the files.
pub(super) fn arm(targets: &[&Target]) -> Vec<Result<()>> {
    let opened = || -> Result<_> {
        let lock = lock()?;
        ensure().inspect_err(|_| drop(remove_if_unused()))?;
        Ok((lock, Lists::open()?))
    };
    let (_lock, mut lists) = match opened() {
        Ok(opened) => opened,
        Err(error) => return targets.iter().map(|_| Err(Error::clone(&error))).collect(),
    };
    let add = |target: &&Target| {
        lists.add(&key(target), target.identity.generation).map_err(|error| match error.errno {
            Some(Errno::E2BIG) => error.because("the guard has as many files as it can"),
            _ => error,
        })
    };
    targets.iter().map(add).collect()
}

/// Takes a file from the guard, and removes the guard after the last file.
pub(super) fn disarm(target: &Target) -> Result<()> {
    let _lock = lock()?;
    if !is_unused()? {
        Lists::open()?.remove(&key(target))?;
    }
    remove_if_unused()
}

/// Whether the guard has no files. After a failure half-way, the other maps may be missing.
fn is_unused() -> Result<bool> {
    if !Path::new(PINS).join(FILES).exists() {
        return Ok(true);
    }
    let files = HashMap::<_, Key, u32>::try_from(Map::HashMap(map(FILES)?)).map_err(|error| failed(&error))?;
    files.keys().next().transpose().map(|key| key.is_none()).map_err(|error| failed(&error))
}

fn remove_if_unused() -> Result<()> {
    if is_unused()? { take_away() } else { Ok(()) }
}

/// Returns the inode numbers of a filesystem's files that are under the guard.
pub(super) fn inodes(uuid: [u8; 16]) -> Result<Vec<u64>> {
    let files = HashMap::<_, Key, u32>::try_from(Map::HashMap(map(FILES)?)).map_err(|error| failed(&error))?;
    let mut inodes = Vec::new();
    for key in files.keys() {
        let key = key.map_err(|error| failed(&error))?;
        if let Some((filesystem, number)) = key.split_last_chunk::<8>()
            && filesystem == uuid
        {
            inodes.push(u64::from_ne_bytes(*number));
        }
    }
    Ok(inodes)
}

fn take_away() -> Result<()> {
    for (path, _) in directories_of_links().call("readdir(/sys/fs/bpf/daxfile)")? {
        remove_all(&path)?;
    }
    remove_all(&Path::new(PINS).join("new"))?;
    remove_all(Path::new(PINS))
}

#[cfg(test)]
mod tests {
    use aya_obj::VerifierLog;

    use super::*;

    #[test]
    fn a_refusal_by_the_verifier_is_no_lack_of_permission() {
        let refusal = |errno: Errno, log: &str| {
            let io_error = io::Error::from_raw_os_error(errno as i32);
            let error = ProgramError::LoadError { io_error, verifier_log: VerifierLog::new(log.to_owned()) };
            refused(&error, Some("file_open")).part
        };
        for errno in [Errno::EPERM, Errno::EACCES] {
            assert_eq!(refusal(errno, ""), Part::Permission);
            assert_eq!(refusal(errno, "0: R1=ctx()\ninvalid bpf_context access off=8 size=8"), Part::Hook);
        }
        assert_eq!(refusal(Errno::EINVAL, ""), Part::Hook);
    }
}
