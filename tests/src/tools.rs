//! Other people's programs: readers of extent maps to compare with, and a shell.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::child::finish;
use crate::command::status_of;

/// A stretch of a file that lies in one stretch of the device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file
    pub logical: u64,
    /// Offset in the device
    pub physical: u64,
    /// Bytes
    pub length: u64,
    /// Allocated, but reads as zeros
    pub unwritten: bool,
    /// Other owners have these blocks too
    pub shared: bool,
}

const FIEMAP_EXTENT_NOT_ALIGNED: u64 = 0x100;
const FIEMAP_EXTENT_UNWRITTEN: u64 = 0x800;
const FIEMAP_EXTENT_SHARED: u64 = 0x2000;
const BMAP_SHARED: u64 = 0o100_000;
const BMAP_UNWRITTEN: u64 = 0o010_000;
const SECTOR: u64 = 512;

/// Joins pieces that follow one another in the file and on the device and are of one sort.
pub fn normalise(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut runs: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match runs.last_mut() {
            Some(run)
                if run.logical + run.length == piece.logical
                    && run.physical + run.length == piece.physical
                    && (run.unwritten, run.shared) == (piece.unwritten, piece.shared) =>
            {
                run.length += piece.length;
            }
            _ => runs.push(piece),
        }
    }
    runs
}

/// The runs that filefrag(8) shows, after a sync of the file.
pub fn filefrag(path: impl AsRef<Path>) -> Vec<Piece> {
    normalise(filefrag_records(path).into_iter().map(|(piece, _)| piece).collect())
}

/// The records that filefrag(8) shows, as the kernel gave them, and the names of their flags.
pub fn filefrag_records(path: impl AsRef<Path>) -> Vec<(Piece, Vec<String>)> {
    let path = path.as_ref();
    require(&["filefrag"]);
    let text = output(Command::new("filefrag").args(["-s", "-v", "-e", "-b1"]).arg(path));
    assert!(text.trim_end().ends_with(" found"), "filefrag {}: unknown form:\n{text}", path.display());
    rows(&text, "ext:", path).map(|row| filefrag_row(row).unwrap_or_else(|| bad_row("filefrag", row))).collect()
}

/// `EXT: LOGICAL..LAST: PHYSICAL..LAST: LENGTH: [EXPECTED:] FLAG,FLAG`
fn filefrag_row(row: &str) -> Option<(Piece, Vec<String>)> {
    let columns: Vec<&str> = row.split(':').map(str::trim).collect();
    let [_, logical, physical, length, .., flags] = columns[..] else { return None };
    let flags: Vec<String> = flags.split(',').filter(|flag| !flag.is_empty()).map(str::to_owned).collect();
    let has = |flag| flags.iter().any(|f| f == flag);
    let piece = Piece {
        logical: first_of(logical)?,
        physical: first_of(physical)?,
        length: length.parse().ok()?,
        unwritten: has("unwritten"),
        shared: has("shared"),
    };
    Some((piece, flags))
}

/// The runs that xfs_io(8) gets by FIEMAP, on any filesystem; it asks with FIEMAP_FLAG_SYNC.
pub fn xfs_io_fiemap(path: impl AsRef<Path>) -> Vec<Piece> {
    let path = path.as_ref();
    require(&["xfs_io"]);
    let text = output(Command::new("xfs_io").args(["-r", "-c", "fiemap -v"]).arg(path));
    sector_table(&text, path, |row, flags| {
        let flags = u64::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
        assert!(flags & FIEMAP_EXTENT_NOT_ALIGNED == 0, "xfs_io rounds this to sectors: {row}");
        Some((flags & FIEMAP_EXTENT_UNWRITTEN != 0, flags & FIEMAP_EXTENT_SHARED != 0))
    })
}

/// The runs that xfs_bmap(8) gets by GETBMAPX, on XFS only; it flushes dirty pages.
pub fn xfs_bmap(path: impl AsRef<Path>) -> Vec<Piece> {
    let path = path.as_ref();
    require(&["xfs_io"]);
    // -p: otherwise preallocated extents look like written ones.
    // -n: otherwise it has room for twice as many extents as the inode counts, and leaves out the rest; if an extent is
    // partly shared, each part needs an entry, and each hole one more.
    // The name by which that script calls it.
    let text = output(Command::new("xfs_io").args(["-r", "-p", "xfs_bmap", "-c", "bmap -v -p -n 100000"]).arg(path));
    sector_table(&text, path, |_, flags| {
        let flags = u64::from_str_radix(flags, 8).ok()?;
        Some((flags & BMAP_UNWRITTEN != 0, flags & BMAP_SHARED != 0))
    })
}

/// `EXT: [LOGICAL..LAST]: PHYSICAL..LAST [AG (FIRST..LAST)] TOTAL FLAGS` in sectors; `flags` gives (unwritten, shared).
fn sector_table(text: &str, path: &Path, flags: impl Fn(&str, &str) -> Option<(bool, bool)>) -> Vec<Piece> {
    // For a file without extents, fiemap prints the name alone.
    let none =
        text.strip_prefix(&*path.to_string_lossy()).is_some_and(|t| matches!(t.trim_end(), ":" | ": no extents"));
    assert!(none || text.contains("EXT: FILE-OFFSET"), "{}: unknown form:\n{text}", path.display());
    let piece = |row: &str| {
        let (_, columns) = row.split_once(": [")?;
        let (logical, columns) = columns.split_once("]:")?;
        let columns: Vec<&str> = columns.split_whitespace().collect();
        let [physical, .., total, last] = columns[..] else { return None };
        let (unwritten, shared) = flags(row, last)?;
        Some(Piece {
            logical: first_of(logical)?.checked_mul(SECTOR)?,
            physical: first_of(physical)?.checked_mul(SECTOR)?,
            length: total.parse::<u64>().ok()?.checked_mul(SECTOR)?,
            unwritten,
            shared,
        })
    };
    let extents = rows(text, "EXT:", path).filter(|row| row.split_whitespace().nth(2) != Some("hole"));
    normalise(extents.map(|row| piece(row).unwrap_or_else(|| bad_row("xfs_io", row))).collect())
}

/// The lines below the table's header and above a line that names the file.
fn rows<'a>(text: &'a str, header: &'a str, path: &Path) -> impl Iterator<Item = &'a str> {
    let name = path.to_string_lossy().lines().next().unwrap_or_default().to_owned();
    text.lines()
        .skip_while(move |line| !line.trim_start().starts_with(header))
        .skip(1)
        .take_while(move |line| !line.starts_with(&name))
}

fn first_of(range: &str) -> Option<u64> {
    range.split_once("..")?.0.trim().parse().ok()
}

fn bad_row(tool: &str, row: &str) -> ! {
    panic!("{tool}: a row of unknown form: {row:?}")
}

/// The output of a bash script; panics with the output if a command in the script fails.
#[track_caller]
pub fn sh(script: impl AsRef<str>) -> String {
    let (status, out) = bash(script.as_ref());
    assert!(status == 0, "{}\n{}", script.as_ref(), describe(status, &out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The exit status of a bash script, 128 + the signal if one ended it.
pub fn sh_status(script: impl AsRef<str>) -> i32 {
    bash(script.as_ref()).0
}

fn bash(script: &str) -> (i32, Output) {
    let out = finish(Command::new("bash").args(["-euc", script]).env("LC_ALL", "C.UTF-8"));
    (status_of(out.status), out)
}

/// A script for [`sh`] in which `$F` is the file, with any name.
pub fn on(file: impl AsRef<Path>, script: &str) -> String {
    let name = file.as_ref().to_str().expect("a name in UTF-8").replace('\'', r"'\''");
    // Without splitting and globbing, $F needs no quotes.
    format!("set -f; IFS=; F='{name}'; {script}")
}

/// The inode's flags, as two programs tell them by two interfaces.
#[track_caller]
pub fn flags(file: impl AsRef<Path>) -> String {
    require(&["lsattr", "xfs_io"]);
    // xfs_io's last letter says that there are extended attributes; it is no flag of the inode.
    sh(on(file, "lsattr $F | cut -d' ' -f1; xfs_io -r -c lsattr $F | cut -d' ' -f1 | tr X -"))
}

/// The inode's flags, as xfs_io(8) alone tells them.
#[track_caller]
pub fn xflags(file: impl AsRef<Path>) -> String {
    require(&["xfs_io"]);
    sh(on(file, "xfs_io -r -c lsattr $F")).split_whitespace().next().expect("flags").to_owned()
}

/// The bytes that are allocated to the file.
pub fn allocated(file: impl AsRef<Path>) -> u64 {
    std::fs::metadata(file).expect("a file").blocks() * 512
}

/// Everything about an inode but its access time.
#[track_caller]
pub fn inode(file: impl AsRef<Path>) -> String {
    require(&["getfattr"]);
    let script = "stat --format '%i %s %b %a %u:%g %h %y %z' $F; getfattr -d -m - -e hex --absolute-names $F";
    sh(on(&file, script)) + &flags(file)
}

/// The output of cksum(1) for a file's contents: it is many times as fast as a digest, and no test forges contents
/// here.
#[track_caller]
pub fn checksum(file: impl AsRef<Path>) -> String {
    sh(on(file, "cksum <$F"))
}

/// Size, mtime, contents and map, as other people's programs tell them.
#[track_caller]
pub fn looks(file: &Path) -> (String, Vec<Piece>) {
    (sh(on(file, "stat --format '%s %y' $F; cksum <$F")), filefrag(file))
}

/// A program of attacks/, which the build script has compiled.
pub fn attack(name: &str) -> PathBuf {
    Path::new(env!("OUT_DIR")).join(name)
}

/// Fails, naming the Debian package, unless all these programs are on the path.
#[track_caller]
pub fn require(programs: &[&str]) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
        assert!(found, "{program} is missing: apt-get install {} (or run tests/run.sh)", package_of(program));
    }
}

fn package_of(program: &str) -> &str {
    match program {
        "mkfs.xfs" | "xfs_io" | "xfs_bmap" | "xfs_db" | "xfs_repair" | "xfs_admin" | "xfs_fsr" | "xfs_growfs"
        | "xfs_scrub" => "xfsprogs",
        "mkfs.ext4" | "filefrag" | "chattr" | "lsattr" | "debugfs" | "tune2fs" | "dumpe2fs" | "e2fsck" | "e4defrag"
        | "resize2fs" => "e2fsprogs",
        "mkfs.erofs" => "erofs-utils",
        "mksquashfs" => "squashfs-tools",
        "bsdtar" => "libarchive-tools",
        "mkfs.btrfs" | "btrfs" => "btrfs-progs",
        "getfattr" | "setfattr" => "attr",
        "setpriv" | "unshare" | "losetup" | "fallocate" | "flock" | "script" | "mkswap" | "hardlink" | "fsfreeze"
        | "fstrim" | "blkid" | "blkdiscard" => "util-linux",
        "mount" | "umount" | "swapon" | "swapoff" => "mount",
        "cksum" | "sha256sum" | "install" | "timeout" | "split" | "stat" => "coreutils",
        "dpkg-deb" => "dpkg",
        "cmp" => "diffutils",
        "getcap" | "setcap" | "capsh" => "libcap2-bin",
        "perl" => "perl-base",
        "man" => "man-db",
        same => same,
    }
}

/// Runs a program that must succeed, and returns its output.
#[track_caller]
pub fn output(command: &mut Command) -> String {
    let out = finish(command.env("LC_ALL", "C"));
    assert!(out.status.success(), "{command:?}\n{}", describe(status_of(out.status), &out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn describe(status: i32, out: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    format!("exit status {status}\n--- stdout ---\n{stdout}\n--- stderr ---\n{stderr}\n---")
}
