//! The programs, and how they take each hold.

/// The holds, in the order of the columns.
pub(crate) const HOLDS: [&str; 3] = ["frozen", "writable", "none"];

/// How a program takes a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It is content, what it has written is right, and `verify` says unchanged.
    Works,
    /// It is content, and `verify` reports what it changed.
    Seen,
    /// It fails with a message that contains this, and `verify` says unchanged.
    Fails(&'static str),
}

/// Where a program is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    Everywhere,
    /// Also outside the lab, but only with `--full`: this program is large
    Full(&'static str),
    /// Only in the lab, because the kernel needs this
    Lab(&'static str),
}

/// A program that uses a pinned file, by tests/programs/programs.sh.
pub(crate) struct Program {
    /// The row's name in tests
    pub(crate) slug: &'static str,
    /// The row's title in daxfile-holds(7), at most 21 characters
    pub(crate) title: &'static str,
    /// The arguments of `make`, and of `use`
    pub(crate) make: &'static str,
    pub(crate) using: &'static str,
    /// By hold, in the order of [`HOLDS`]
    pub(crate) expected: [Expected; 3],
    pub(crate) tried: Tried,
    /// The programs that it takes
    pub(crate) needs: &'static [&'static str],
}

use Expected::{Fails, Seen, Works};

const DENIED: Expected = Fails("Operation not permitted");

/// Every program that writes in place is like this.
const IN_PLACE: [Expected; 3] = [DENIED, Works, Works];
const READS: [Expected; 3] = [Works, Works, Works];

const fn row(
    slug: &'static str,
    title: &'static str,
    make: &'static str,
    using: &'static str,
    expected: [Expected; 3],
    needs: &'static [&'static str],
) -> Program {
    Program { slug, title, make, using, expected, tried: Tried::Everywhere, needs }
}

const fn only(tried: Tried, program: Program) -> Program {
    Program { tried, ..program }
}

const FIO: &[&str] = &["fio"];
const QEMU: &[&str] = &["qemu-io", "qemu-img"];
const SQLITE: &[&str] = &["sqlite3"];

/// Every program.
pub(crate) const PROGRAMS: &[Program] = &[
    row("fio-sync", "fio sync", "file", "fio sync", IN_PLACE, FIO),
    row("fio-psync", "fio psync", "file", "fio psync", IN_PLACE, FIO),
    row("fio-psync-direct", "fio psync, direct", "file", "fio psync --direct=1", IN_PLACE, FIO),
    // With more than one write at a time, fio verifies nothing by this engine.
    row("fio-vsync", "fio vsync", "file", "fio vsync --iodepth=1", IN_PLACE, FIO),
    row("fio-pvsync2", "fio pvsync2", "file", "fio pvsync2", IN_PLACE, FIO),
    row("fio-pvsync2-direct", "fio pvsync2, direct", "file", "fio pvsync2 --direct=1", IN_PLACE, FIO),
    row("fio-libaio", "fio libaio", "file", "fio libaio", IN_PLACE, FIO),
    row("fio-libaio-direct", "fio libaio, direct", "file", "fio libaio --direct=1", IN_PLACE, FIO),
    row("fio-posixaio", "fio posixaio", "file", "fio posixaio", IN_PLACE, FIO),
    row("fio-io_uring", "fio io_uring", "file", "fio io_uring", IN_PLACE, FIO),
    row("fio-io_uring-direct", "fio io_uring, direct", "file", "fio io_uring --direct=1", IN_PLACE, FIO),
    row("fio-mmap", "fio mmap", "file", "fio mmap", IN_PLACE, FIO),
    row("fio-splice", "fio splice", "file", "fio splice", IN_PLACE, FIO),
    row(
        "fio-jobs",
        "fio libaio, 4 jobs",
        "file",
        "fio libaio --direct=1 --numjobs=4 --size=2M --offset_increment=2M",
        IN_PLACE,
        FIO,
    ),
    row("qemu-none-threads", "QEMU none, threads", "file", "qemu none threads", IN_PLACE, QEMU),
    row("qemu-none-native", "QEMU none, native", "file", "qemu none native", IN_PLACE, QEMU),
    row("qemu-none-io_uring", "QEMU none, io_uring", "file", "qemu none io_uring", IN_PLACE, QEMU),
    row("qemu-back-threads", "QEMU writeback", "file", "qemu writeback threads", IN_PLACE, QEMU),
    row("qemu-back-io_uring", "QEMU wb., io_uring", "file", "qemu writeback io_uring", IN_PLACE, QEMU),
    row("qemu-discard", "QEMU discard=unmap", "file", "qemu-discard", [DENIED, Fails("Text file busy"), Seen], QEMU),
    row("qemu-zeroes", "QEMU write zeroes", "file", "qemu-zeroes", [DENIED, Fails("Text file busy"), Seen], QEMU),
    row("qemu-img", "qemu-img convert -n", "file", "qemu-img", IN_PLACE, QEMU),
    row("dd", "dd conv=notrunc", "file", "dd", IN_PLACE, &["dd"]),
    row("lmdb", "LMDB", "lmdb", "lmdb", IN_PLACE, &["mdb_load", "mdb_dump"]),
    row(
        "sqlite-delete",
        "SQLite, rollback",
        "sqlite delete",
        "sqlite",
        [Fails("readonly database"), Works, Works],
        SQLITE,
    ),
    row("sqlite-wal", "SQLite, WAL", "sqlite wal", "sqlite", [Fails("readonly database"), Works, Works], SQLITE),
    row("swap", "swapon, swapoff", "swap", "swap", IN_PLACE, &["mkswap", "swapon"]),
    row("rsync", "rsync onto it", "file", "rsync", [DENIED, DENIED, Seen], &["rsync"]),
    row("rsync-inplace", "rsync --inplace", "file", "rsync --inplace", IN_PLACE, &["rsync"]),
    row("backup-rsync", "Backup by rsync", "file", "backup-rsync", READS, &["rsync"]),
    row("backup-tar", "Backup by tar", "file", "backup-tar", READS, &["tar"]),
    only(Tried::Full("borg is large"), row("backup-borg", "Backup by borg", "file", "backup-borg", READS, &["borg"])),
    row("restore", "tar -x onto it", "file", "restore", [Fails("File exists"), Fails("File exists"), Seen], &["tar"]),
    row(
        "restore-overwrite",
        "tar -x --overwrite",
        "file",
        "restore --overwrite",
        [DENIED, Fails("Text file busy"), Seen],
        &["tar"],
    ),
    row("logrotate", "logrotate", "file", "logrotate", [DENIED, DENIED, Seen], &["logrotate"]),
    row(
        "logrotate-copytruncate",
        "  copytruncate",
        "file",
        "logrotate copytruncate",
        [DENIED, Fails("Text file busy"), Seen],
        &["logrotate"],
    ),
    row("overlayfs", "Container, overlayfs", "file", "overlayfs", IN_PLACE, &["mount"]),
    only(
        Tried::Lab("needs device-mapper"),
        row("dmsetup", "dmsetup, with ext4", "dmsetup", "dmsetup", READS, &["dmsetup", "mkfs.ext4"]),
    ),
    only(
        Tried::Lab("needs a kernel with nfsd, and no other NFS server"),
        row("nfs", "NFS export, written", "file", "nfs", IN_PLACE, &["exportfs", "rpc.nfsd"]),
    ),
];

impl Expected {
    /// The cell in daxfile-holds(7).
    pub(crate) fn text(self) -> &'static str {
        match self {
            Works => "works",
            Seen => "seen",
            Fails(_) => "fails",
        }
    }
}
