//! Each attack, and what it comes to: declared before it is run.

/// The holds; the columns of each filesystem stand in this order.
pub(crate) const HOLDS: [Hold; 2] = [Hold::Frozen, Hold::None];
pub(crate) const FILESYSTEMS: [Fs; 2] = [Fs::Xfs, Fs::Ext4];

type Columns = [Expected; HOLDS.len()];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Frozen,
    None,
}

impl Hold {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Hold::Frozen => "frozen",
            Hold::None => "none",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fs {
    Xfs,
    Ext4,
}

impl Fs {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fs::Xfs => "xfs",
            Fs::Ext4 => "ext4",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Fs::Xfs => "XFS",
            Fs::Ext4 => "ext4",
        }
    }
}

/// What is declared of an attack on a pinned file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It fails so, and changes nothing.
    Refused(&'static str),
    /// It succeeds, and the map stays as it is.
    Harmless,
    /// It succeeds, and the map stays but for blocks that others share.
    Shared,
    /// It changes something that `verify` reports.
    Detected,
}

/// How the attacker gets at the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// By name, once the file is pinned
    Path,
    /// By a descriptor from before the pin, open for reading
    Ro,
    /// By one open for reading and writing
    Rw,
    /// By a shared writable mapping from before the pin
    Map,
    /// By a loop device that was set up before the pin
    Loop,
    /// By a descriptor, or a mapping, that another process had before the pin and handed over
    Sent,
}

impl Access {
    /// What the attacking program calls it.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Access::Path => "path",
            Access::Ro => "ro",
            Access::Rw => "rw",
            Access::Map => "map",
            Access::Loop => "loop",
            Access::Sent => "sent",
        }
    }

    pub(crate) fn slug(self) -> &'static str {
        match self {
            Access::Path => "path",
            Access::Ro => "read-fd",
            Access::Rw => "write-fd",
            Access::Map => "mapping",
            Access::Loop => "loop",
            Access::Sent => "sent",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Access::Ro => "read fd",
            Access::Rw => "write fd",
            Access::Sent => "sent fd",
            _ => self.slug(),
        }
    }

    pub(crate) fn is_before(self) -> bool {
        self != Access::Path
    }

    pub(crate) fn writes(self) -> bool {
        !matches!(self, Access::Path | Access::Ro)
    }

    /// While the attacker has hold of the file, it is not pinned so.
    pub(crate) fn is_busy(self, hold: Hold) -> bool {
        hold == Hold::Frozen && self.writes()
    }
}

/// What an attack changes on a file that nothing holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Map,
    Shared,
    Size,
    Contents,
    /// Flags, hints, project, generation
    Flags,
    /// Mode, owner, links, times, extended attributes
    Inode,
    /// There is no file of that name, or another
    Name,
    /// How much space it takes
    Blocks,
    /// The other file of the operation
    Other,
    /// The script fails unless it had its effect
    Itself,
}

pub(crate) enum By {
    /// An operation of strike.c, at a block of the file
    Strike(&'static str, u32),
    /// A script of bash: `$F` is the file, `$O` the other one, `$DIR` their directory, `$MNT` the filesystem, `$DEV` its
    /// device, `$IMAGE` what that is a loop device of
    Shell(&'static str),
}

/// What it comes to through one access.
pub(crate) struct Line {
    pub(crate) access: Access,
    xfs: Columns,
    ext4: Columns,
}

impl Line {
    pub(crate) fn expected(&self, fs: Fs) -> Columns {
        match fs {
            Fs::Xfs => self.xfs,
            Fs::Ext4 => self.ext4,
        }
    }
}

/// A filesystem, the errno there, and why the operation is missing.
type Missing = (Fs, &'static str, &'static str);

pub(crate) struct Attack {
    /// Names its tests
    pub(crate) slug: &'static str,
    /// Names it in the page
    pub(crate) title: &'static str,
    pub(crate) effect: Effect,
    pub(crate) by: By,
    /// What strike.c makes
    pub(crate) file: &'static str,
    pub(crate) allow: &'static str,
    /// A script before the pin
    pub(crate) setup: &'static str,
    /// A script at the end
    pub(crate) after: &'static str,
    /// MiB of a filesystem of its own, for what acts on all of it
    pub(crate) alone: Option<u64>,
    /// Where the operation does not exist
    pub(crate) not_on: Vec<Missing>,
    /// Where some kernels do not have it
    pub(crate) may_lack: Vec<Missing>,
    pub(crate) lines: Vec<Line>,
}

impl Attack {
    pub(crate) fn lacks(&self, fs: Fs, errno: &str) -> bool {
        self.may_lack.iter().any(|(other, lacking, _)| (*other, *lacking) == (fs, errno))
    }

    pub(crate) fn lacking(&self, fs: Fs) -> String {
        let why = self.may_lack.iter().find(|(other, ..)| *other == fs).map_or("", |(_, _, why)| why);
        format!("{} on {}: {why}", self.title, fs.name())
    }

    /// On a file of this shape, which is pinned so.
    fn on(mut self, file: &'static str, allow: &'static str) -> Attack {
        (self.file, self.allow) = (file, allow);
        if matches!(file, "shared" | "staged") {
            self = self.not_on(Fs::Ext4, "failure", "no shared blocks");
        }
        self
    }

    fn setup(mut self, script: &'static str) -> Attack {
        self.setup = script;
        self
    }

    fn after(mut self, script: &'static str) -> Attack {
        self.after = script;
        self
    }

    fn alone(mut self, mebibytes: u64) -> Attack {
        self.alone = Some(mebibytes);
        self
    }

    fn not_on(mut self, fs: Fs, errno: &'static str, why: &'static str) -> Attack {
        self.not_on.push((fs, errno, why));
        self
    }

    fn may_lack(mut self, fs: Fs, errno: &'static str, why: &'static str) -> Attack {
        self.may_lack.push((fs, errno, why));
        self
    }

    fn through(mut self, access: Access, xfs: Columns, ext4: Columns) -> Attack {
        self.lines.push(Line { access, xfs, ext4 });
        self
    }

    /// Where the file must be open for writing: by name that is refused already, else by a descriptor from before.
    fn writing(self, access: Access, xfs: Columns, ext4: Columns) -> Attack {
        self.through(Access::Path, [EPERM, xfs[1]], [EPERM, ext4[1]]).through(access, xfs, ext4)
    }
}

/// An operation of strike.c.
fn strike(slug: &'static str, title: &'static str, effect: Effect) -> Attack {
    strike_at(slug, title, effect, slug, 4)
}

fn strike_at(slug: &'static str, title: &'static str, effect: Effect, operation: &'static str, block: u32) -> Attack {
    Attack {
        slug,
        title,
        effect,
        by: By::Strike(operation, block),
        file: "written",
        allow: "",
        setup: "",
        after: "",
        alone: None,
        not_on: Vec::new(),
        may_lack: Vec::new(),
        lines: Vec::new(),
    }
}

/// Other people's programs, by name.
fn shell(slug: &'static str, title: &'static str, effect: Effect, script: &'static str) -> Attack {
    Attack { by: By::Shell(script), ..strike(slug, title, effect) }
}

const EPERM: Expected = Expected::Refused("EPERM");
const SIGBUS: Expected = Expected::Refused("SIGBUS");
const SAME: Expected = Expected::Harmless;
const SHARED: Expected = Expected::Shared;
const SEEN: Expected = Expected::Detected;

pub(crate) fn attacks() -> Vec<Attack> {
    [sizes(), in_place(), past_end(), flagged(), where_stores_allocate(), allocation(), reflinks(), swaps()]
        .into_iter()
        .chain([flags(), devices(), names(), filesystem(), programs()])
        .flatten()
        .collect()
}

use Access::{Loop, Map, Path, Ro, Rw, Sent};
use Effect::{Blocks, Contents, Flags, Inode, Itself, Name, Other, Shared, Size};
use Fs::{Ext4, Xfs};

fn sizes() -> Vec<Attack> {
    vec![
        strike("ftruncate-shrink", "ftruncate, smaller", Size)
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN])
            .through(Sent, [SEEN, SEEN], [EPERM, SEEN]),
        strike("ftruncate-grow", "ftruncate, larger", Size).writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        strike("uring-ftruncate", "ftruncate by io_uring", Size)
            .may_lack(Xfs, "EINVAL", "Linux 6.9 has it")
            .may_lack(Ext4, "EINVAL", "Linux 6.9 has it")
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        strike("truncate-shrink", "truncate, smaller", Size)
            .through(Path, [EPERM, SEEN], [EPERM, SEEN])
            .through(Ro, [EPERM, SEEN], [EPERM, SEEN]),
        strike("truncate-grow", "truncate, larger", Size).through(Path, [EPERM, SEEN], [EPERM, SEEN]),
        strike("open-trunc", "open with O_TRUNC", Size)
            .through(Path, [EPERM, SEEN], [EPERM, SEEN])
            .through(Ro, [EPERM, SEEN], [EPERM, SEEN]),
        strike("reopen", "open for writing, pwrite", Contents)
            .through(Path, [EPERM, SAME], [EPERM, SAME])
            .through(Ro, [EPERM, SAME], [EPERM, SAME]),
    ]
}

fn in_place() -> Vec<Attack> {
    let write = |slug, title| strike(slug, title, Contents).writing(Rw, [SEEN, SAME], [EPERM, SAME]);
    let store = |slug, title, refusal| strike(slug, title, Contents).writing(Map, [SEEN, SAME], [refusal, SAME]);
    vec![
        write("pwrite", "pwrite, in place").through(Sent, [SEEN, SAME], [EPERM, SAME]),
        write("pwrite-part", "pwrite, a part of a block"),
        write("pwrite-whole", "pwrite, the whole file"),
        write("pwrite-direct", "pwrite, O_DIRECT, in place"),
        write("aio", "aio write, in place"),
        write("aio-direct", "aio write, O_DIRECT, in place"),
        write("uring-write", "io_uring write, in place"),
        write("uring-direct", "io_uring write, O_DIRECT"),
        write("uring-fixed", "io_uring write, fixed file"),
        write("splice", "splice, in place"),
        write("vmsplice", "vmsplice and splice, in place"),
        write("sendfile", "sendfile, in place"),
        store("store", "store by mmap, in place", SIGBUS).through(Sent, [SEEN, SAME], [SIGBUS, SAME]),
        store("read-into", "read into the mapping", Expected::Refused("EFAULT")),
        store("direct-read-into", "O_DIRECT read into the mapping", Expected::Refused("EFAULT")),
    ]
}

fn past_end() -> Vec<Attack> {
    let write = |slug, title| strike(slug, title, Size).writing(Rw, [SEEN, SEEN], [EPERM, SEEN]);
    vec![
        write("past-end", "pwrite, past the end").through(Sent, [SEEN, SEEN], [EPERM, SEEN]),
        write("past-end-direct", "pwrite, O_DIRECT, past the end"),
        write("across-end", "pwrite, across the end"),
        write("far-past-end", "pwrite, far past the end"),
        write("aio-past-end", "aio write, past the end"),
        write("uring-past-end", "io_uring write, past the end"),
        write("splice-past-end", "splice, past the end"),
        write("sendfile-past-end", "sendfile, past the end"),
        write("o-append", "write, opened O_APPEND").through(Sent, [SEEN, SEEN], [EPERM, SEEN]),
        write("setfl-append", "F_SETFL O_APPEND, then write"),
        write("rwf-append", "pwritev2, RWF_APPEND"),
        write("aio-append", "aio write, RWF_APPEND"),
        write("uring-append", "io_uring write, RWF_APPEND"),
    ]
}

fn flagged() -> Vec<Attack> {
    let write = |slug, title| strike(slug, title, Contents).writing(Rw, [SEEN, SAME], [EPERM, SAME]);
    let atomic = |slug, title| {
        strike(slug, title, Effect::Map)
            .may_lack(Xfs, "EOPNOTSUPP", "Linux 6.16 has it where the device does not")
            .may_lack(Xfs, "EINVAL", "Linux 6.16 has it where the device does not")
            .not_on(Ext4, "EOPNOTSUPP", "only where the device has atomic writes")
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN])
    };
    vec![
        write("rwf-dsync", "pwritev2, RWF_DSYNC"),
        write("rwf-sync", "pwritev2, RWF_SYNC"),
        write("rwf-hipri", "pwritev2, RWF_HIPRI, O_DIRECT"),
        write("rwf-nowait", "pwritev2, RWF_NOWAIT"),
        write("rwf-dontcache", "pwritev2, RWF_DONTCACHE")
            .may_lack(Xfs, "EOPNOTSUPP", "Linux 6.14 has it")
            .may_lack(Ext4, "EOPNOTSUPP", "Linux 6.14 has it"),
        write("rwf-noappend", "pwritev2, RWF_NOAPPEND")
            .may_lack(Xfs, "EOPNOTSUPP", "Linux 6.9 has it")
            .may_lack(Ext4, "EOPNOTSUPP", "Linux 6.9 has it"),
        atomic("rwf-atomic", "pwritev2, RWF_ATOMIC, O_DIRECT"),
        atomic("uring-atomic", "io_uring write, RWF_ATOMIC"),
    ]
}

fn where_stores_allocate() -> Vec<Attack> {
    let holed = |slug, title, operation, block| {
        strike_at(slug, title, Effect::Map, operation, block).on("holed", "hole,unwritten")
    };
    let shared = |slug, title, operation, file| strike_at(slug, title, Effect::Map, operation, 4).on(file, "shared");
    vec![
        holed("hole-pwrite", "pwrite into a hole", "pwrite", 40).writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        holed("hole-direct", "pwrite, O_DIRECT, into a hole", "pwrite-direct", 40)
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        holed("hole-store", "store by mmap into a hole", "store", 40).writing(Map, [SEEN, SEEN], [SIGBUS, SEEN]),
        holed("hole-populate", "MADV_POPULATE_WRITE of a hole", "populate-write", 40)
            .writing(Map, [SEEN, SEEN], [Expected::Refused("EFAULT"), SEEN]),
        holed("unwritten-pwrite", "pwrite into unwritten", "pwrite", 20).writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        holed("unwritten-direct", "pwrite, O_DIRECT, into unwritten", "pwrite-direct", 20)
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        holed("unwritten-store", "store by mmap into unwritten", "store", 20)
            .writing(Map, [SEEN, SEEN], [SIGBUS, SEEN]),
        shared("shared-pwrite", "pwrite into shared", "pwrite", "shared").writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        shared("shared-direct", "pwrite, O_DIRECT, into shared", "pwrite-direct", "shared")
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        shared("shared-store", "store by mmap into shared", "store", "shared")
            .writing(Map, [SEEN, SEEN], [SIGBUS, SEEN]),
        Attack { by: By::Strike("pwrite", 41), ..shared("staged-pwrite", "pwrite beside staging", "pwrite", "staged") }
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        Attack { by: By::Strike("store", 41), ..shared("staged-store", "store beside staging", "store", "staged") }
            .writing(Map, [SEEN, SEEN], [SIGBUS, SEEN]),
        shared("free-eofblocks", "XFS_IOC_FREE_EOFBLOCKS", "free-eofblocks", "staged")
            .through(Path, [SAME, SAME], [SAME, SAME])
            .through(Ro, [SAME, SAME], [SAME, SAME])
            .changes(Blocks),
    ]
}

fn allocation() -> Vec<Attack> {
    let fallocate =
        |slug, title, effect| strike(slug, title, effect).writing(Rw, [EPERM, SEEN], [EPERM, SEEN]);
    let holed = |slug, title, operation| {
        strike_at(slug, title, Effect::Map, operation, 40)
            .on("holed", "hole,unwritten")
            .writing(Rw, [EPERM, SEEN], [EPERM, SEEN])
    };
    vec![
        fallocate("alloc-beyond", "fallocate past the end", Size),
        fallocate("keep-beyond", "fallocate KEEP_SIZE past the end", Effect::Map),
        holed("alloc-within", "fallocate in a hole", "alloc-within"),
        fallocate("punch", "fallocate PUNCH_HOLE", Effect::Map).through(Sent, [EPERM, SEEN], [EPERM, SEEN]),
        fallocate("zero", "fallocate ZERO_RANGE", Effect::Map),
        fallocate("zero-keep", "ZERO_RANGE KEEP_SIZE past the end", Effect::Map),
        fallocate("collapse", "fallocate COLLAPSE_RANGE", Size),
        fallocate("insert", "fallocate INSERT_RANGE", Size),
        strike("unshare", "fallocate UNSHARE_RANGE", Effect::Map)
            .on("shared", "shared")
            .writing(Rw, [EPERM, SEEN], [EPERM, SEEN]),
        holed("write-zeroes", "fallocate WRITE_ZEROES", "write-zeroes")
            .may_lack(Xfs, "EOPNOTSUPP", "Linux 7.3 has it")
            .may_lack(Ext4, "EOPNOTSUPP", "Linux 6.17 has it, over devices that unmap by writing zeroes"),
        fallocate("uring-punch", "PUNCH_HOLE by io_uring", Effect::Map),
        holed("resvsp", "XFS_IOC_RESVSP64 in a hole", "resvsp"),
        fallocate("unresvsp", "XFS_IOC_UNRESVSP64", Effect::Map),
        fallocate("zero-ioctl", "XFS_IOC_ZERO_RANGE", Effect::Map),
        strike("madv-remove", "MADV_REMOVE", Effect::Map).writing(Map, [EPERM, SEEN], [EPERM, SEEN]),
    ]
}

fn reflinks() -> Vec<Attack> {
    let onto = |slug, title| {
        strike(slug, title, Effect::Map)
            .not_on(Ext4, "EOPNOTSUPP", "no reflink")
            .writing(Rw, [EPERM, SEEN], [EPERM, SEEN])
    };
    let from = |slug, title| {
        strike(slug, title, Shared)
            .not_on(Ext4, "EOPNOTSUPP", "no reflink")
            .through(Path, [SHARED, SHARED], [SAME, SAME])
            .through(Ro, [SHARED, SHARED], [SAME, SAME])
    };
    vec![
        onto("clone-onto", "FICLONE onto it"),
        onto("clone-range-onto", "FICLONERANGE onto it"),
        onto("dedupe-onto", "FIDEDUPERANGE onto it").through(Ro, [EPERM, SEEN], [EPERM, SEEN]),
        strike("copy-onto", "copy_file_range onto it", Contents).writing(Rw, [EPERM, SEEN], [EPERM, SAME]),
        strike("copy-past-end", "copy_file_range past its end", Size).writing(Rw, [EPERM, SEEN], [EPERM, SEEN]),
        from("clone-from", "FICLONE from it"),
        from("clone-range-from", "FICLONERANGE from it"),
        from("dedupe-from", "FIDEDUPERANGE from it"),
        strike("copy-from", "copy_file_range from it", Other)
            .through(Path, [SHARED, SHARED], [SAME, SAME])
            .through(Ro, [SHARED, SHARED], [SAME, SAME]),
    ]
}

fn swaps() -> Vec<Attack> {
    let on_xfs = |slug, title| strike(slug, title, Effect::Map).not_on(Ext4, "ENOTTY", "an ioctl of XFS");
    let on_ext4 = |slug, title| strike(slug, title, Effect::Map).not_on(Xfs, "ENOTTY", "an ioctl of ext4");
    let exchange = |slug, title| {
        on_xfs(slug, title)
            .may_lack(Xfs, "ENOTTY", "Linux 6.10 has it")
            .may_lack(Xfs, "EOPNOTSUPP", "only on XFS made with it")
            .writing(Rw, [EPERM, SEEN], [EPERM, SEEN])
    };
    vec![
        on_xfs("swapext-target", "XFS_IOC_SWAPEXT, target").writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        on_xfs("swapext-donor", "XFS_IOC_SWAPEXT, donor").writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        exchange("exchange-first", "XFS_IOC_EXCHANGE_RANGE"),
        exchange("exchange-second", "XFS_IOC_EXCHANGE_RANGE, donor"),
        exchange("commit-second", "XFS_IOC_COMMIT_RANGE"),
        on_ext4("move-origin", "EXT4_IOC_MOVE_EXT, origin").writing(Rw, [SEEN, SEEN], [SEEN, SEEN]),
        on_ext4("move-donor", "EXT4_IOC_MOVE_EXT, donor").writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        on_ext4("swap-boot", "EXT4_IOC_SWAP_BOOT").alone(64).writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        on_ext4("migrate", "EXT4_IOC_MIGRATE")
            .not_on(Ext4, "EINVAL", "only for files mapped by blocks, which are not pinned")
            .through(Path, [SAME, SAME], [SAME, SAME]),
        strike("enable-verity", "FS_IOC_ENABLE_VERITY", Flags)
            .not_on(Xfs, "ENOTTY", "no fs-verity")
            .may_lack(Ext4, "EOPNOTSUPP", "a kernel or a filesystem without fs-verity")
            .may_lack(Ext4, "ENOTTY", "a kernel or a filesystem without fs-verity")
            .through(Path, [EPERM, SEEN], [EPERM, SEEN])
            .through(Ro, [EPERM, SEEN], [EPERM, SEEN]),
    ]
}

fn flags() -> Vec<Attack> {
    let set = |slug, title, xfs: Columns, ext4: Columns| {
        strike(slug, title, Flags).through(Path, xfs, ext4).through(Ro, xfs, ext4)
    };
    vec![
        set("set-extsize", "FSSETXATTR, extent-size hint", [EPERM, SAME], [EPERM, SAME])
            .on("empty", "empty")
            .not_on(Ext4, "EOPNOTSUPP", "no such hint"),
        set("set-cowextsize", "FSSETXATTR, cowextsize", [SAME, SAME], [EPERM, SAME])
            .not_on(Ext4, "EOPNOTSUPP", "no such hint"),
        set("set-project", "FSSETXATTR, project", [SAME, SAME], [EPERM, SAME]),
        set("set-dax", "FSSETXATTR, DAX", [SAME, SAME], [EPERM, SAME])
            .not_on(Ext4, "EOPNOTSUPP", "only where the device has DAX"),
        set("set-realtime", "FSSETXATTR, realtime", [EPERM, SAME], [EPERM, SAME])
            .on("empty", "empty")
            .not_on(Xfs, "EINVAL", "only with a realtime device")
            .not_on(Ext4, "EOPNOTSUPP", "no such flag"),
        set("set-nodefrag", "FSSETXATTR, NODEFRAG", [SAME, SAME], [EPERM, SAME]),
        set("set-nodump", "SETFLAGS, nodump", [SAME, SAME], [EPERM, SAME]),
        set("set-sync", "SETFLAGS, sync", [SAME, SAME], [EPERM, SAME]),
        set("set-append", "SETFLAGS, append-only", [SAME, SAME], [EPERM, SAME]),
        set("set-journal", "SETFLAGS, data journalling", [SAME, SAME], [EPERM, SAME])
            .not_on(Xfs, "EOPNOTSUPP", "no such flag"),
        set("set-blockmap", "SETFLAGS, no extents", [SAME, SAME], [EPERM, SAME])
            .on("short", "")
            .not_on(Xfs, "EOPNOTSUPP", "no such flag"),
        set("set-generation", "EXT4_IOC_SETVERSION", [SAME, SAME], [EPERM, SEEN])
            .not_on(Xfs, "ENOTTY", "an ioctl of ext4"),
        strike("set-immutable", "SETFLAGS, immutable", Flags).through(Path, [SAME, SAME], [SAME, SAME]),
        shell("clear-immutable", "SETFLAGS, not immutable", Itself, "chattr +i $F; chattr -i $F; ! touch -r $O $F || :")
            .through(Path, [SEEN, SAME], [SEEN, SAME]),
    ]
}

fn devices() -> Vec<Attack> {
    let on_loop = |slug, title, effect, xfs, ext4| strike(slug, title, effect).writing(Loop, xfs, ext4);
    vec![
        on_loop("loop-discard", "loop device, discard", Effect::Map, [SEEN, SEEN], [SEEN, SEEN]),
        on_loop("loop-zeroout", "loop device, zero-out", Effect::Map, [SEEN, SEEN], [SEEN, SEEN]),
        on_loop("loop-write", "loop device, write", Contents, [SEEN, SAME], [Expected::Refused("EIO"), SAME]),
        shell("loop-read-only", "loop device, read-only, discard", Itself,
            "L=$(losetup -f --show -r $F); ! blkdiscard $L; ! blkdiscard -z $L; losetup -d $L")
            .through(Path, [SAME, SAME], [SAME, SAME]),
        shell("swapon", "swapon", Itself, "swapon $F; grep -q $F /proc/swaps")
            .setup("chmod 600 $F; mkswap -q $F; sync $F")
            .after("swapoff $F")
            .through(Path, [EPERM, SAME], [EPERM, SAME]),
    ]
}

fn names() -> Vec<Attack> {
    let gone = |slug, title| strike(slug, title, Name).through(Path, [EPERM, SEEN], [EPERM, SEEN]);
    let set = |slug, title| {
        strike(slug, title, Inode).through(Path, [EPERM, SAME], [EPERM, SAME]).through(Ro, [EPERM, SAME], [EPERM, SAME])
    };
    vec![
        gone("unlink", "unlink"),
        gone("rename-over", "rename over it"),
        gone("rename-away", "rename"),
        gone("rename-exchange", "rename, RENAME_EXCHANGE"),
        set("link", "link"),
        set("chmod", "chmod"),
        set("chown", "chown"),
        set("utimes", "utimensat"),
        set("setxattr", "setxattr"),
        set("setxattrs", "setxattr, more than the inode holds"),
    ]
}

fn filesystem() -> Vec<Attack> {
    Vec::new()
}

fn programs() -> Vec<Attack> {
    Vec::new()
}

impl Attack {
    fn changes(mut self, effect: Effect) -> Attack {
        self.effect = effect;
        self
    }
}
