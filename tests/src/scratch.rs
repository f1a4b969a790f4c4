//! Loop-mounted filesystems that go away with their value.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{panicking, sleep};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use crate::tools::{output, require, sh};
use crate::workdir::new_dir;

const MIB: u64 = 1 << 20;

/// Another test thread's child holds copies of all our descriptors between fork and exec, and udev looks into loop
/// devices: for that long, "busy" says nothing.
const BUSY: Duration = Duration::from_secs(5);

/// How an XFS is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xfs {
    /// `-m reflink=`
    pub reflink: bool,
    /// `-m rmapbt=`
    pub rmapbt: bool,
    /// `-b size=`, in bytes
    pub block_size: u32,
    /// More arguments, for instance `["-d", "su=64k,sw=2,agcount=4"]` (a stripe alone makes too many groups)
    pub mkfs_args: Vec<String>,
}

impl Default for Xfs {
    fn default() -> Xfs {
        Xfs { reflink: true, rmapbt: false, block_size: 4096, mkfs_args: Vec::new() }
    }
}

/// How an ext4 is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ext4 {
    /// `-b`, in bytes
    pub block_size: u32,
    /// `-O`, for instance `["^extent"]` or `["verity", "encrypt"]`
    pub features: Vec<String>,
    /// More arguments
    pub mkfs_args: Vec<String>,
}

impl Default for Ext4 {
    fn default() -> Ext4 {
        Ext4 { block_size: 4096, features: Vec::new(), mkfs_args: Vec::new() }
    }
}

/// Which filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// XFS
    Xfs(Xfs),
    /// ext4
    Ext4(Ext4),
    /// btrfs, as mkfs makes it
    Btrfs,
    /// f2fs, as mkfs makes it
    F2fs,
}

impl From<Xfs> for Kind {
    fn from(xfs: Xfs) -> Kind {
        Kind::Xfs(xfs)
    }
}

impl From<Ext4> for Kind {
    fn from(ext4: Ext4) -> Kind {
        Kind::Ext4(ext4)
    }
}

impl Kind {
    /// XFS as mkfs makes it today: reflink, 4 KiB blocks.
    pub fn xfs() -> Kind {
        Xfs::default().into()
    }

    /// ext4 with extents and 4 KiB blocks.
    pub fn ext4() -> Kind {
        Ext4::default().into()
    }

    /// ext4 with these features: `ext4_with(&["^extent"])`.
    pub fn ext4_with(features: &[&str]) -> Kind {
        Ext4 { features: features.iter().map(ToString::to_string).collect(), ..Ext4::default() }.into()
    }

    /// XFS and ext4 as mkfs makes them.
    pub fn xfs_and_ext4() -> Vec<Kind> {
        vec![Kind::xfs(), Kind::ext4()]
    }

    /// Each form of XFS and ext4 in which files can be pinned: reflink, rmapbt, and both block sizes.
    pub fn pinnable() -> Vec<Kind> {
        let xfs = |reflink, rmapbt, block_size| Xfs { reflink, rmapbt, block_size, mkfs_args: Vec::new() }.into();
        vec![
            xfs(true, false, 4096),
            xfs(true, true, 4096),
            xfs(false, false, 4096),
            xfs(false, true, 4096),
            xfs(true, false, 1024),
            Kind::ext4(),
            Ext4 { block_size: 1024, ..Ext4::default() }.into(),
        ]
    }

    /// XFS and ext4, each with small and large blocks.
    pub fn small_and_large_blocks() -> Vec<Kind> {
        vec![
            Kind::xfs(),
            Xfs { block_size: 1024, rmapbt: true, ..Xfs::default() }.into(),
            Kind::ext4(),
            Ext4 { block_size: 1024, ..Ext4::default() }.into(),
        ]
    }

    /// The filesystem's name, as mount(8) knows it.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Xfs(_) => "xfs",
            Kind::Ext4(_) => "ext4",
            Kind::Btrfs => "btrfs",
            Kind::F2fs => "f2fs",
        }
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u64 {
        match self {
            Kind::Xfs(xfs) => xfs.block_size.into(),
            Kind::Ext4(ext4) => ext4.block_size.into(),
            Kind::Btrfs | Kind::F2fs => 4096,
        }
    }

    fn default_size(&self) -> u64 {
        match self {
            // mkfs.xfs makes none below 300 MiB
            Kind::Xfs(_) => 512 * MIB,
            Kind::Ext4(_) | Kind::Btrfs | Kind::F2fs => 256 * MIB,
        }
    }

    fn mkfs(&self) -> Command {
        let program = format!("mkfs.{}", self.name());
        require(&[&program]);
        let mut mkfs = Command::new(program);
        mkfs.arg("-q");
        match self {
            Kind::Xfs(xfs) => {
                let (reflink, rmapbt) = (u8::from(xfs.reflink), u8::from(xfs.rmapbt));
                mkfs.args(["-m", &format!("reflink={reflink},rmapbt={rmapbt}")]);
                mkfs.args(["-b", &format!("size={}", xfs.block_size)]);
                mkfs.args(&xfs.mkfs_args);
            }
            Kind::Ext4(ext4) => {
                mkfs.args(["-b", &ext4.block_size.to_string()]);
                let mut features = ext4.features.clone();
                if features.iter().any(|f| f == "^extent" || f == "^extents") {
                    // mkfs refuses block maps on a filesystem of 64-bit block numbers
                    features.push("^64bit".to_owned());
                }
                if !features.is_empty() {
                    mkfs.args(["-O", &features.join(",")]);
                }
                mkfs.args(&ext4.mkfs_args);
            }
            Kind::Btrfs | Kind::F2fs => {}
        }
        mkfs
    }
}

/// Runs a test on several kinds at once; panics with the kinds on which it failed.
#[track_caller]
pub fn on_each(kinds: Vec<Kind>, test: impl Fn(Kind) + Sync) {
    let failed: Vec<Kind> = std::thread::scope(|scope| {
        let running: Vec<_> = kinds.into_iter().map(|kind| (kind.clone(), scope.spawn(|| test(kind)))).collect();
        running.into_iter().filter_map(|(kind, thread)| thread.join().is_err().then_some(kind)).collect()
    });
    assert!(failed.is_empty(), "failed on {failed:?}");
}

/// A filesystem in a sparse image, mounted; dropping it unmounts and removes everything, on a panic too.
#[derive(Debug)]
pub struct Scratch {
    /// `None` only when something below it could not be unmounted and must not be deleted
    dir: Option<TempDir>,
    image: PathBuf,
    mount_point: PathBuf,
    kind: Kind,
    /// The loop device, while mounted
    device: Option<PathBuf>,
}

impl Scratch {
    /// XFS whose files know their names. The mkfs.xfs of Debian 12 cannot make one, but the feature needs nothing on
    /// disk while there is no file, and xfs_db can set its bit (`XFS_SB_FEAT_INCOMPAT_PARENT`).
    pub fn with_parent_pointers() -> Scratch {
        require(&["xfs_db"]);
        let mut scratch = Scratch::new(Kind::xfs());
        scratch.unmount();
        let xfs_db = |arguments: &[&str]| output(Command::new("xfs_db").args(arguments).arg(scratch.image()));
        let features = xfs_db(&["-r", "-c", "sb 0", "-c", "print features_incompat"]);
        let features = features.trim().strip_prefix("features_incompat = 0x").map(|hex| u32::from_str_radix(hex, 16));
        let with_parents = features.expect("a number").expect("a number") | 0x80;
        xfs_db(&["-x", "-c", "sb 0", "-c", &format!("write -d features_incompat {with_parents:#x}")]);
        scratch.mount();
        scratch
    }

    /// Makes and mounts a filesystem: 512 MiB for XFS, 256 MiB for others.
    pub fn new(kind: impl Into<Kind>) -> Scratch {
        let kind = kind.into();
        let size = kind.default_size();
        Scratch::with_size(kind, size)
    }

    /// Makes and mounts a filesystem of `size` bytes.
    pub fn with_size(kind: impl Into<Kind>, size: u64) -> Scratch {
        assert!(nix::unistd::geteuid().is_root(), "scratch filesystems need root: run the tests with tests/run.sh");
        let kind = kind.into();
        let mut scratch = Scratch::unmade(kind);
        File::create(&scratch.image).and_then(|f| f.set_len(size)).expect("a sparse image");
        output(scratch.kind.mkfs().arg(&scratch.image));
        scratch.mount();
        scratch
    }

    /// Copies the image with dd(1), lets `alter` do something to the copy, and mounts both, the copy with `options`:
    /// two XFS of the same UUID need `"nouuid"`.
    #[track_caller]
    pub fn twin(&mut self, alter: impl FnOnce(&Path), options: &str) -> Scratch {
        self.unmount();
        let mut twin = Scratch::unmade(self.kind.clone());
        let operands = [("if=", &self.image), ("of=", &twin.image)].map(|(name, image)| {
            let mut operand = OsString::from(name);
            operand.push(image);
            operand
        });
        output(Command::new("dd").args(["bs=1M", "conv=sparse", "status=none"]).args(operands));
        self.mount();
        alter(&twin.image);
        twin.mount_at(&twin.mount_point.clone(), options);
        twin
    }

    fn unmade(kind: Kind) -> Scratch {
        let dir = new_dir("scratch.");
        let image = dir.path().join("image");
        let mount_point = dir.path().join("mnt");
        fs::create_dir(&mount_point).expect("mkdir");
        Scratch { dir: Some(dir), image, mount_point, kind, device: None }
    }

    /// `name` below the mount point.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount_point.join(name)
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// How many blocks are free, once nothing waits to be given back.
    pub fn free_blocks(&self) -> u64 {
        sh(format!("sync -f '{0}'; stat -f -c %f '{0}'", self.mount_point.display())).trim().parse().expect("a number")
    }

    /// The image file.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The kind that it was made as.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The loop device, such as `/dev/loop3`; panics while unmounted.
    pub fn device(&self) -> &Path {
        self.device.as_deref().expect("the scratch filesystem is mounted")
    }

    /// Mounts it again after [`Scratch::unmount`].
    pub fn mount(&mut self) {
        self.mount_at(&self.mount_point.clone(), "");
    }

    /// Unmounts it and waits until its loop device is free.
    #[track_caller]
    pub fn unmount(&mut self) {
        let device = self.device.take().expect("the scratch filesystem is mounted");
        for point in mounts_below(self.base()).into_iter().rev() {
            unmount_patiently(&point, BUSY).unwrap_or_else(|e| panic!("umount {}: {e}", point.display()));
        }
        assert!(released(&device, &self.image), "{} still holds the image", device.display());
    }

    /// Unmounts and mounts, which empties all caches of the filesystem.
    #[track_caller]
    pub fn remount(&mut self) {
        self.remount_with("");
    }

    /// Unmounts and mounts with these options, `"ro"` for instance; the next [`Scratch::remount`] is without them.
    #[track_caller]
    pub fn remount_with(&mut self, options: &str) {
        self.unmount();
        self.mount_at(&self.mount_point.clone(), options);
    }

    /// Mounts the image at another directory until the guard is dropped, which mounts it back at its own.
    #[track_caller]
    pub fn mount_elsewhere(&mut self) -> Elsewhere<'_> {
        self.unmount();
        let dir = tempfile::Builder::new().prefix("elsewhere.").tempdir_in(self.base()).expect("mkdir");
        self.mount_at(dir.path(), "");
        Elsewhere { scratch: self, dir: Some(dir) }
    }

    fn base(&self) -> &Path {
        self.dir.as_ref().expect("taken only by drop").path()
    }

    fn mount_at(&mut self, at: &Path, options: &str) {
        assert!(self.device.is_none(), "the scratch filesystem is mounted already");
        // mount(8) sets loop devices up with autoclear: unmounting frees them.
        let options = if options.is_empty() { "loop".to_owned() } else { format!("loop,{options}") };
        output(Command::new("mount").args(["-t", self.kind.name(), "-o", &options]).arg(&self.image).arg(at));
        self.device = mounts().into_iter().rev().find(|m| m.point == at).map(|m| m.source);
        assert!(self.device.is_some(), "{} is not in /proc/self/mountinfo", at.display());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        // A panic has already reported the failure: the rest need not wait as long for open files.
        let patience = if panicking() { BUSY / 5 } else { BUSY };
        for point in mounts_below(dir.path()).into_iter().rev() {
            let Err(e) = unmount_patiently(&point, patience) else { continue };
            eprintln!("umount {}: {e}: detaching it, whoever uses it keeps its loop device", point.display());
            if let Err(e) = umount2(&point, MntFlags::MNT_DETACH) {
                eprintln!("umount --lazy {}: {e}", point.display());
                let _ = dir.keep();
                return;
            }
            self.device = None;
        }
        if let Some(device) = &self.device
            && !released(device, &self.image)
        {
            eprintln!("{} still holds {}", device.display(), self.image.display());
        }
        if let Err(e) = dir.close() {
            eprintln!("scratch directory: {e}");
        }
    }
}

/// A scratch filesystem mounted at another directory; dropping it mounts it back.
#[derive(Debug)]
pub struct Elsewhere<'a> {
    scratch: &'a mut Scratch,
    dir: Option<TempDir>,
}

impl Elsewhere<'_> {
    /// Where it is mounted now.
    pub fn mount_point(&self) -> &Path {
        self.dir.as_ref().expect("taken only by drop").path()
    }

    /// `name` below the mount point of now.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount_point().join(name)
    }
}

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        if panicking() {
            // The scratch filesystem, dropped next, unmounts and removes this directory with its own.
            let _ = self.dir.take().map(TempDir::keep);
            return;
        }
        self.scratch.unmount();
        self.scratch.mount();
    }
}

struct Mount {
    point: PathBuf,
    source: PathBuf,
}

fn mounts() -> Vec<Mount> {
    let info = fs::read("/proc/self/mountinfo").expect("/proc is mounted");
    info.split(|&b| b == b'\n').filter(|line| !line.is_empty()).map(mount_of_line).collect()
}

/// One line of /proc/self/mountinfo, see proc_pid_mountinfo(5).
fn mount_of_line(line: &[u8]) -> Mount {
    let mut fields = line.split(|&b| b == b' ');
    let point = fields.nth(4).map(unescaped).expect("a mount point");
    let source = fields.skip_while(|f| *f != b"-").nth(2).map(unescaped).expect("a mount source");
    Mount { point, source }
}

/// Space, tab, newline and backslash are written `\040` and so on.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        if let Some(byte) = octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes).into()
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    mounts().into_iter().map(|m| m.point).filter(|point| point.starts_with(dir)).collect()
}

fn unmount_patiently(point: &Path, patience: Duration) -> Result<(), Errno> {
    let start = Instant::now();
    loop {
        match umount2(point, MntFlags::empty()) {
            Err(Errno::EBUSY) if start.elapsed() < patience => sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
}

/// Waits until the loop device has released the image; false if it does not.
fn released(device: &Path, image: &Path) -> bool {
    let name = device.file_name().expect("a device has a name");
    let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
    let start = Instant::now();
    // The attribute is missing while the device is free; soon afterwards it may name another test's image.
    while fs::read(&backing).is_ok_and(|now| now.trim_ascii_end() == image.as_os_str().as_bytes()) {
        if start.elapsed() > BUSY {
            return false;
        }
        sleep(Duration::from_millis(5));
    }
    true
}
