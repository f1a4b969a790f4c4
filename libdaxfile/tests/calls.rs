//! Makes the calls that need no privilege and no mount, on real files: on the filesystem that cargo builds on, which must
//! have FIEMAP; on tmpfs in /dev/shm, which has none; and on procfs, which has almost nothing.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use libdaxfile::bulkstat::Inodes;
use libdaxfile::fallocate::{Mode, fallocate};
use libdaxfile::fiemap::{self, Extent, ExtentFlags, Extents, Request};
use libdaxfile::handle::Handle;
use libdaxfile::lease::{Kind, Lease};
use libdaxfile::{Errno, Result, cachestat, fsuuid, fsxattr, inode, statx, xattr, xfs};
use tempfile::{NamedTempFile, TempDir, tempdir_in, tempfile_in};

const ON_DISK: &str = env!("CARGO_TARGET_TMPDIR");
const SHM: &str = "/dev/shm";
const PROC: &str = "/proc/self/status";

#[track_caller]
fn assert_error<T: Debug>(result: Result<T>, call: &str, errnos: &[Errno]) {
    let error = result.expect_err("must fail");
    assert_eq!(error.call, call);
    assert!(errnos.contains(&error.errno), "{error:?}");
    assert_eq!(error.to_string(), format!("{call}: {}", libdaxfile::meaning(error.errno)));
}

fn extents(file: &File) -> Vec<Extent> {
    Extents::new(file, 0..u64::MAX, Request::SYNC).collect::<Result<_>>().expect("the filesystem has FIEMAP")
}

/// Makes a file of `count` blocks with a hole before each. XFS may preallocate a part of the next hole.
fn sparse_file(count: usize) -> File {
    const STRIDE: usize = 128 * 1024;
    let file = tempfile_in(ON_DISK).unwrap();
    let block = vec![0xaa; usize::try_from(file.metadata().unwrap().blksize()).unwrap()];
    for offset in (1..=count).map(|index| index * STRIDE) {
        file.write_all_at(&block, offset as u64).unwrap();
    }
    file
}

#[test]
fn fiemap_counts_what_it_lists() {
    for blocks in [0, 1, 3] {
        let file = sparse_file(blocks);
        let extents = extents(&file);
        assert!(extents.len() >= blocks, "{extents:?}");
        assert_eq!(fiemap::count(&file, 0..u64::MAX, Request::SYNC).unwrap() as usize, extents.len());
        let last: Vec<bool> = extents.iter().map(|extent| extent.flags.contains(ExtentFlags::LAST)).collect();
        assert_eq!(last.iter().position(|&last| last), last.len().checked_sub(1), "{extents:?}");
    }
}

#[test]
fn fiemap_continues_after_a_full_call() {
    const MORE_THAN_ONE_CALL_GIVES: usize = 4200;
    let file = sparse_file(MORE_THAN_ONE_CALL_GIVES);
    let extents = extents(&file);
    assert!(extents.len() >= MORE_THAN_ONE_CALL_GIVES, "{}", extents.len());
    assert_eq!(fiemap::count(&file, 0..u64::MAX, Request::SYNC).unwrap() as usize, extents.len());
    for pair in extents.windows(2) {
        assert!(pair[0].logical + pair[0].length <= pair[1].logical, "{pair:?}");
        assert!(!pair[0].flags.intersects(ExtentFlags::LAST | ExtentFlags::UNKNOWN), "{pair:?}");
    }
}

#[test]
fn fiemap_returns_only_extents_of_its_range() {
    let file = sparse_file(3);
    let all = extents(&file);
    let second = all[1].logical..all[1].logical + all[1].length;
    let mut found: Vec<Extent> =
        Extents::new(&file, second.clone(), Request::SYNC).map(|extent| extent.unwrap()).collect();
    for extent in &mut found {
        extent.flags.remove(ExtentFlags::LAST);
    }
    assert_eq!(found, all[1..2]);
    assert_eq!(fiemap::count(&file, second.clone(), Request::SYNC).unwrap(), 1);
    for nothing in [0..all[0].logical, second.start..second.start, 0..0] {
        assert_eq!(Extents::new(&file, nothing.clone(), Request::SYNC).count(), 0, "{nothing:?}");
        assert_eq!(fiemap::count(&file, nothing.clone(), Request::SYNC).unwrap(), 0, "{nothing:?}");
    }
}

#[test]
fn fiemap_error_names_the_call_and_ends_the_iteration() {
    const CALL: &str = "ioctl(FS_IOC_FIEMAP)";
    let none = [Errno::EOPNOTSUPP];
    for file in [File::open(PROC).unwrap(), tempfile_in(SHM).unwrap()] {
        assert_error(fiemap::count(&file, 0..u64::MAX, Request::SYNC), CALL, &none);
        let mut extents = Extents::new(&file, 0..u64::MAX, Request::SYNC);
        assert_error(extents.next().unwrap(), CALL, &none);
        assert!(extents.next().is_none());
    }
    let unknown_flag = Request::from_bits_retain(0x4000_0000);
    assert_error(fiemap::count(sparse_file(1), 0..u64::MAX, unknown_flag), CALL, &[Errno::EBADR]);
}

#[test]
fn fallocate_allocates_and_reports_errors() {
    let file = tempfile_in(ON_DISK).unwrap();
    fallocate(&file, Mode::empty(), 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    assert!(extents(&file).iter().all(|extent| extent.flags.contains(ExtentFlags::UNWRITTEN)));
    fallocate(&file, Mode::PUNCH_HOLE | Mode::KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(extents(&file), []);
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);

    let error = |offset, length, errno| {
        assert_error(fallocate(&file, Mode::empty(), offset, length), "fallocate", &[errno]);
    };
    error(0, 0, Errno::EINVAL);
    error(u64::MAX, 1, Errno::EFBIG);
    error(1, u64::MAX, Errno::EFBIG);
    error(i64::MAX.unsigned_abs(), 1, Errno::EFBIG);
    assert_error(fallocate(&file, Mode::PUNCH_HOLE, 0, 4096), "fallocate", &[Errno::EOPNOTSUPP]);
}

#[test]
fn fallocate_needs_a_descriptor_open_for_writing() {
    for directory in [ON_DISK, SHM] {
        let named = NamedTempFile::new_in(directory).unwrap();
        let read_only = File::open(named.path()).unwrap();
        assert_error(fallocate(&read_only, Mode::empty(), 0, 4096), "fallocate", &[Errno::EBADF]);
    }
}

#[test]
fn xattr_absent_returns_none() {
    let file = tempfile_in(ON_DISK).unwrap();
    let name = c"user.daxfile.test";
    assert_eq!(xattr::get(&file, name, 16).unwrap(), None);
    xattr::remove(&file, name).unwrap();

    xattr::set(&file, name, b"first").unwrap();
    xattr::set(&file, name, b"second").unwrap();
    for limit in [6, 16] {
        assert_eq!(xattr::get(&file, name, limit).unwrap().unwrap(), b"second");
    }
    for limit in [0, 5] {
        assert_error(xattr::get(&file, name, limit), "fgetxattr", &[Errno::ERANGE]);
    }
    xattr::set(&file, name, b"").unwrap();
    for limit in [0, 16] {
        assert_eq!(xattr::get(&file, name, limit).unwrap().unwrap(), b"");
    }
    xattr::remove(&file, name).unwrap();
    assert_eq!(xattr::get(&file, name, 16).unwrap(), None);
}

#[test]
fn xattr_list_rules_out_absent_names() {
    let file = tempfile_in(ON_DISK).unwrap();
    let names = [c"user.daxfile.test", c"user.daxfile.other"];
    let listed = || {
        let listed = xattr::may_have(&file, names).unwrap();
        (listed.names, listed.others)
    };
    assert_eq!(listed(), ([false, false], false));
    xattr::set(&file, names[1], b"").unwrap();
    assert_eq!(listed(), ([false, true], false));
    xattr::set(&file, c"user.daxfile.test.longer", b"").unwrap();
    assert_eq!(listed(), ([false, true], true));
    xattr::remove(&file, names[1]).unwrap();
    assert_eq!(listed(), ([false, false], true));
    // The list of these names does not fit into the buffer of one call.
    for n in 0..5 {
        let name = std::ffi::CString::new(format!("user.{n}{}", "x".repeat(240))).unwrap();
        xattr::set(&file, &name, b"").unwrap();
    }
    assert_eq!(listed(), ([true, true], true));
}

#[test]
fn handle_names_inode_and_generation() {
    let directory = tempdir_in(ON_DISK).unwrap();
    let path = directory.path().join("file");
    let file = File::create(&path).unwrap();
    let opened = File::open(directory.path()).unwrap();
    let handle = Handle::at(&opened, c"file").unwrap();
    // Only ext4 and XFS are known to have handles of this form.
    if let Some((number, generation)) = handle.inode_and_generation() {
        assert_eq!(number, file.metadata().unwrap().ino());
        assert_eq!(generation, inode::generation(&file).unwrap());
    }
    let there = statx::at(&opened, c"file").unwrap();
    assert_eq!((there.inode, there.mode), (file.metadata().unwrap().ino(), statx::get(&file).unwrap().mode));

    std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
    let link = Handle::at(&opened, c"link").unwrap();
    assert_ne!(link.inode_and_generation(), handle.inode_and_generation(), "a link is not followed");
    assert_eq!(u32::from(statx::at(&opened, c"link").unwrap().mode) & statx::S_IFMT, statx::S_IFLNK);
    assert_error(Handle::at(&opened, c"none"), "name_to_handle_at", &[Errno::ENOENT]);
    assert_error(statx::at(&opened, c"none"), "statx", &[Errno::ENOENT]);
    // NFS cannot export procfs.
    assert_error(Handle::at(File::open("/proc/self").unwrap(), c"status"), "name_to_handle_at", &[Errno::EOPNOTSUPP]);
}

#[test]
fn lease_ends_when_its_file_is_closed() {
    let file = NamedTempFile::new_in(ON_DISK).unwrap();
    let path = file.into_temp_path();
    let opened = File::open(&path).unwrap();
    Lease::take(&opened, Kind::Read).unwrap().release_at_close();
    let write = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
    assert_eq!(write().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(opened);
    write().unwrap();
}

#[test]
fn xattr_unknown_namespace_is_refused() {
    let file = tempfile_in(ON_DISK).unwrap();
    let no_such_namespace = c"daxfile.test";
    let none = [Errno::EOPNOTSUPP];
    assert_error(xattr::get(&file, no_such_namespace, 16), "fgetxattr", &none);
    assert_error(xattr::set(&file, no_such_namespace, b"1"), "fsetxattr", &none);
    assert_error(xattr::remove(&file, no_such_namespace), "fremovexattr", &none);
}

#[test]
fn statx_matches_stat() {
    for directory in [ON_DISK, SHM] {
        let mut file = tempfile_in(directory).unwrap();
        file.write_all(&[1; 5000]).unwrap();
        file.sync_all().unwrap();
        let (ours, theirs) = (statx::get(&file).unwrap(), file.metadata().unwrap());
        assert_eq!(u32::from(ours.mode), theirs.mode());
        assert_eq!(u64::from(ours.nlink), theirs.nlink());
        assert_eq!(ours.uid, theirs.uid());
        assert_eq!(ours.inode, theirs.ino());
        assert_eq!(ours.size, theirs.size());
        assert_eq!(ours.allocated, theirs.blocks() * 512);
        let time = |time: statx::Time| (time.seconds, i64::from(time.nanoseconds));
        assert_eq!(time(ours.mtime), (theirs.mtime(), theirs.mtime_nsec()));
        assert_eq!(time(ours.ctime), (theirs.ctime(), theirs.ctime_nsec()));
        assert_eq!(libc::makedev(ours.device.0, ours.device.1), theirs.dev());
    }
}

#[test]
fn fsxattr_written_flags_are_read_back() {
    let file = tempfile_in(ON_DISK).unwrap();
    let before = fsxattr::get(&file).unwrap();
    assert!(!before.xflags().contains(fsxattr::Xflags::NODUMP));
    let nodump = before.with_xflags(before.xflags() | fsxattr::Xflags::NODUMP);
    fsxattr::set(&file, &nodump).unwrap();
    assert_eq!(fsxattr::get(&file).unwrap(), nodump);
    fsxattr::set(&file, &before).unwrap();
    assert_eq!(fsxattr::get(&file).unwrap(), before);
}

#[test]
fn procfs_refuses_inode_ioctls() {
    let file = File::open(PROC).unwrap();
    let none = [Errno::ENOTTY, Errno::EOPNOTSUPP];
    assert_error(fsxattr::get(&file), "ioctl(FS_IOC_FSGETXATTR)", &none);
    assert_error(inode::generation(&file), "ioctl(FS_IOC_GETVERSION)", &[Errno::ENOTTY]);
    assert_error(fsuuid::get(&file), "ioctl(EXT4_IOC_GETFSUUID)", &[Errno::ENOTTY]);
}

#[test]
fn tmpfs_refuses_xfs_ioctls() {
    let file = tempfile_in(SHM).unwrap();
    assert_error(xfs::geometry(&file), "ioctl(XFS_IOC_FSGEOMETRY)", &[Errno::ENOTTY]);
    assert_error(xfs::whole_map(&file, 1), "ioctl(XFS_IOC_GETBMAPX)", &[Errno::ENOTTY]);
    assert_error(xfs::free_eofblocks(&file, 0), "ioctl(XFS_IOC_FREE_EOFBLOCKS)", &[Errno::ENOTTY]);

    let mut inodes = Inodes::new(&file, 0);
    assert_error(inodes.next().unwrap(), "ioctl(XFS_IOC_BULKSTAT)", &[Errno::ENOTTY]);
    assert_eq!(inodes.next(), None);
}

#[test]
fn cachestat_counts_the_pages_of_its_range() {
    // SAFETY: sysconf(3) with a constant.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
    let mut file = tempfile_in(SHM).unwrap();
    let pages = |range| cachestat::count(&file, range).unwrap().cached;
    assert_eq!(pages(0..u64::MAX), 0);
    file.write_all(&vec![1; usize::try_from(4 * page).unwrap()]).unwrap();
    let pages = |range| cachestat::count(&file, range).unwrap().cached;
    assert_eq!(pages(0..u64::MAX), 4);
    assert_eq!(pages(0..4 * page), 4);
    assert_eq!(pages(page..3 * page), 2);
    assert_eq!(pages(page - 1..page + 1), 2, "the pages of both bytes");
    assert_eq!(pages(4 * page..u64::MAX), 0);
    assert_eq!(pages(page..page), 0);
}

#[test]
fn cachestat_refuses_a_path_only_descriptor() {
    let path_only = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(PROC).unwrap();
    assert_error(cachestat::count(&path_only, 0..u64::MAX), "cachestat", &[Errno::EBADF]);
}

fn file_to_lease() -> (TempDir, PathBuf) {
    let directory = tempdir_in(SHM).unwrap();
    let path = directory.path().join("file");
    fs::write(&path, b"contents").unwrap();
    (directory, path)
}

/// Opens a file, or fails at once if a lease makes the open wait.
fn open_at_once(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

#[test]
fn read_lease_blocks_a_writer_until_dropped() {
    let (_directory, path) = file_to_lease();
    let file = File::open(&path).unwrap();
    let lease = Lease::take(&file, Kind::Read).unwrap();
    File::open(&path).unwrap();
    assert!(lease.is_unbroken().unwrap(), "a reader does not disturb the lease");

    let writer = thread::spawn(move || File::options().write(true).open(path).map(drop));
    while lease.is_unbroken().unwrap() {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!writer.is_finished(), "the writer waits");
    drop(lease);
    writer.join().unwrap().unwrap();
    Lease::take(&file, Kind::Read).unwrap();
}

#[test]
fn read_lease_stays_disturbed_after_a_writer_gave_up() {
    let (_directory, path) = file_to_lease();
    let file = File::open(&path).unwrap();
    let lease = Lease::take(&file, Kind::Read).unwrap();
    let refused = open_at_once(&path, File::options().write(true)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    assert!(!lease.is_unbroken().unwrap());
    drop(lease);
    open_at_once(&path, File::options().write(true)).unwrap();
}

#[test]
fn read_lease_is_refused_while_a_writer_is_inside() {
    let (_directory, path) = file_to_lease();
    let file = File::open(&path).unwrap();
    let writer = File::options().write(true).open(&path).unwrap();
    assert_error(Lease::take(&file, Kind::Read), "fcntl(F_SETLEASE)", &[Errno::EAGAIN]);
    assert_error(Lease::take(&writer, Kind::Read), "fcntl(F_SETLEASE)", &[Errno::EAGAIN]);
    drop(writer);
    Lease::take(&file, Kind::Read).unwrap();
}

#[test]
fn write_lease_blocks_readers_too() {
    let (_directory, path) = file_to_lease();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let reader = File::open(&path).unwrap();
    assert_error(Lease::take(&file, Kind::Write), "fcntl(F_SETLEASE)", &[Errno::EAGAIN]);
    drop(reader);
    let lease = Lease::take(&file, Kind::Write).unwrap();
    assert!(lease.is_unbroken().unwrap());
    let refused = open_at_once(&path, File::options().read(true)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    assert!(!lease.is_unbroken().unwrap());
}
