//! Each attack and its expected result: declared before it runs.

use crate::run::NO_EFFECT;

/// The holds, in the order of [`Hold`]; so are the columns of each filesystem.
pub(crate) const HOLDS: [Hold; 3] = [Hold::Frozen, Hold::Writable, Hold::None];
pub(crate) const FILESYSTEMS: [Fs; 2] = [Fs::Xfs, Fs::Ext4];

/// Under holds frozen and none.
type Columns = [Expected; 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Frozen,
    Writable,
    None,
}

impl Hold {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Hold::Frozen => "frozen",
            Hold::Writable => "writable",
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

/// The declared result of an attack on a pinned file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It fails so, and changes nothing.
    Refused(&'static str),
    /// It succeeds, and the map stays as it is.
    Harmless,
    /// It succeeds, and the map stays, except for blocks that other files share.
    Shared,
    /// It changes something that `verify` reports.
    Detected,
    /// Such a file cannot be pinned with this hold.
    Unpinnable,
}

/// How the attacker gets at the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// By name, once the file is pinned
    Path,
    /// By a descriptor from before the pin, open for reading
    Ro,
    /// By a descriptor from before the pin, open for reading and writing
    Rw,
    /// By a shared writable mapping from before the pin
    Map,
    /// By a loop device that was set up before the pin
    Loop,
    /// By a descriptor, or a mapping, from before the pin that another process passed on
    Sent,
    /// By a file that the kernel has opened itself, before the pin: below a stacked file, or for process accounting
    Kernel,
}

impl Access {
    pub(crate) const ALL: [Access; 7] =
        [Access::Path, Access::Ro, Access::Rw, Access::Map, Access::Loop, Access::Sent, Access::Kernel];

    /// Its name on the attacking program's command line.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Access::Path => "path",
            Access::Ro => "ro",
            Access::Rw => "rw",
            Access::Map => "map",
            Access::Loop => "loop",
            Access::Sent => "sent",
            Access::Kernel => "kernel",
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
            Access::Kernel => "kernel",
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
        match hold {
            Hold::Frozen => self.writes(),
            // Processes may write to it.
            Hold::Writable => matches!(self, Access::Loop | Access::Kernel),
            Hold::None => false,
        }
    }
}

/// The change that an attack makes to a file without a hold.
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
    /// There is no file of that name, or another file
    Name,
    /// The space that it takes
    Blocks,
    /// The other file of the operation
    Other,
    /// The script fails unless it had its effect
    Itself,
}

/// Which line of the summary in daxfile-holds(7) an attack counts in, and under which heading daxfile-attacks(7) shows
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    InPlace,
    Size,
    Holes,
    Allocation,
    Onto,
    From,
    Exchange,
    Defragmenters,
    Name,
    Path,
    Inode,
    Flags,
    Record,
    Unlocked,
    Loop,
    Kernel,
    Programs,
    Filesystem,
    Device,
}

/// The groups, in the order of the pages.
pub(crate) const GROUPS: [Group; 19] = [
    Group::InPlace,
    Group::Size,
    Group::Holes,
    Group::Allocation,
    Group::Onto,
    Group::From,
    Group::Exchange,
    Group::Defragmenters,
    Group::Name,
    Group::Path,
    Group::Inode,
    Group::Flags,
    Group::Record,
    Group::Unlocked,
    Group::Loop,
    Group::Kernel,
    Group::Programs,
    Group::Filesystem,
    Group::Device,
];

impl Group {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Group::InPlace => "Write in place",
            Group::Size => "Resize, append",
            Group::Holes => "Fill holes, unshare",
            Group::Allocation => "Allocate, free blocks",
            Group::Onto => "Clone, copy onto it",
            Group::From => "Clone, copy from it",
            Group::Exchange => "Exchange, move blocks",
            Group::Defragmenters => "Defragment",
            Group::Name => "Delete, replace",
            Group::Path => "Move or hide its path",
            Group::Inode => "Set mode, owner, ...",
            Group::Flags => "Set other flags",
            Group::Record => "Remove the pin record",
            Group::Unlocked => "chattr -i, change it",
            Group::Loop => "Loop device on it",
            Group::Kernel => "overlayfs, FUSE, acct",
            Group::Programs => "swapon, mkfs",
            Group::Filesystem => "fsck, grow, trim, ...",
            Group::Device => "Write to the device",
        }
    }
}

pub(crate) enum By {
    /// An operation of strike.c, at a block of the file
    Strike(&'static str, u32),
    /// A script of bash: `$F` is the file, `$O` the other one, `$DIR` their directory, `$MNT` the filesystem, `$DEV`
    /// its device, `$IMAGE` the file behind that loop device
    Shell(&'static str),
}

/// The result of an attack through one access.
pub(crate) struct Line {
    pub(crate) access: Access,
    xfs: Columns,
    ext4: Columns,
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
    /// The file that strike.c makes
    pub(crate) file: &'static str,
    pub(crate) allow: &'static str,
    /// A script before the pin
    pub(crate) setup: &'static str,
    /// A script at the end
    pub(crate) after: &'static str,
    /// The size, in MiB, of a separate filesystem, for an attack that changes the whole filesystem
    pub(crate) alone: Option<u64>,
    /// Where the operation does not exist
    pub(crate) not_on: Vec<Missing>,
    /// Where some kernels do not have it
    pub(crate) may_lack: Vec<Missing>,
    /// Swaps extents, which is refused on whole filesystems, or on all, while any file is held writable
    pub(crate) swaps: bool,
    /// The result under hold writable, through every access
    writable: Option<Expected>,
    group: Option<Group>,
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

    pub(crate) fn expected(&self, line: &Line, fs: Fs, hold: Hold) -> Expected {
        let [frozen, none] = match fs {
            Fs::Xfs => line.xfs,
            Fs::Ext4 => line.ext4,
        };
        match hold {
            Hold::Frozen => frozen,
            Hold::None => none,
            Hold::Writable if self.allow.is_empty() => self.writable.expect("a declaration"),
            Hold::Writable => Expected::Unpinnable,
        }
    }

    pub(crate) fn group(&self) -> Group {
        self.group.expect("a group")
    }

    fn grouped(mut self, group: Group) -> Attack {
        self.group = Some(group);
        self
    }

    fn writable(mut self, expected: Expected) -> Attack {
        self.writable = Some(expected);
        self
    }

    fn swaps(mut self) -> Attack {
        self.swaps = true;
        self
    }

    /// On a file of this shape, which is pinned so.
    fn on(mut self, file: &'static str, allow: &'static str) -> Attack {
        (self.file, self.allow) = (file, allow);
        if matches!(file, "shared" | "staged") {
            self = self.not_on(Fs::Ext4, "EOPNOTSUPP", "no shared blocks");
        }
        self
    }

    fn changes(mut self, effect: Effect) -> Attack {
        self.effect = effect;
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
        let by_name = |[_, none]: Columns| [EPERM, none];
        self.through(Path, by_name(xfs), by_name(ext4)).through(access, xfs, ext4)
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
        swaps: false,
        writable: None,
        group: None,
        lines: Vec::new(),
    }
}

/// Sets the result under hold writable for attacks that do not declare one themselves.
fn writable(expected: Expected, attacks: Vec<Attack>) -> Vec<Attack> {
    let declare = |attack: Attack| Attack { writable: attack.writable.or(Some(expected)), ..attack };
    attacks.into_iter().map(declare).collect()
}

/// The group of those attacks that do not name another.
fn grouped(group: Group, attacks: Vec<Attack>) -> Vec<Attack> {
    attacks.into_iter().map(|attack| Attack { group: attack.group.or(Some(group)), ..attack }).collect()
}

/// Other people's programs, by name.
fn shell(slug: &'static str, title: &'static str, effect: Effect, script: &'static str) -> Attack {
    Attack { by: By::Shell(script), ..strike(slug, title, effect) }
}

const EPERM: Expected = Expected::Refused("EPERM");
const ETXTBSY: Expected = Expected::Refused("ETXTBSY");
const EOPNOTSUPP: Expected = Expected::Refused("EOPNOTSUPP");
const SIGBUS: Expected = Expected::Refused("SIGBUS");
const SAME: Expected = Expected::Harmless;
const SHARED: Expected = Expected::Shared;
const SEEN: Expected = Expected::Detected;

pub(crate) fn attacks() -> Vec<Attack> {
    [
        grouped(Group::Size, writable(ETXTBSY, sizes())),
        grouped(Group::InPlace, writable(SAME, in_place())),
        grouped(Group::Size, writable(ETXTBSY, past_end())),
        grouped(Group::InPlace, writable(SAME, flagged())),
        grouped(Group::Holes, where_stores_allocate()),
        grouped(Group::Allocation, writable(ETXTBSY, allocation())),
        grouped(Group::Onto, writable(EOPNOTSUPP, reflinks())),
        grouped(Group::Exchange, writable(ETXTBSY, swaps())),
        grouped(Group::Flags, writable(SAME, flags())),
        grouped(Group::Loop, writable(SAME, devices())),
        grouped(Group::Kernel, writable(ETXTBSY, by_the_kernel())),
        grouped(Group::Allocation, writable(ETXTBSY, after_a_refusal())),
        grouped(Group::Inode, writable(SAME, names())),
        grouped(Group::Filesystem, writable(SAME, filesystem())),
        grouped(Group::Programs, writable(SAME, programs())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

use Access::{Kernel, Loop, Map, Path, Ro, Rw, Sent};
use Effect::{Blocks, Contents, Flags, Inode, Itself, Name, Other, Shared, Size};
use Fs::{Ext4, Xfs};

fn sizes() -> Vec<Attack> {
    vec![
        strike("ftruncate-shrink", "ftruncate, smaller", Size).writing(Rw, [SEEN, SEEN], [EPERM, SEEN]).through(
            Sent,
            [SEEN, SEEN],
            [EPERM, SEEN],
        ),
        strike("ftruncate-grow", "ftruncate, larger", Size).writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        strike("uring-ftruncate", "ftruncate by io_uring", Size)
            .may_lack(Xfs, "EINVAL", "Linux 6.9 has it")
            .may_lack(Ext4, "EINVAL", "Linux 6.9 has it")
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        strike("truncate-shrink", "truncate, smaller", Size).through(Path, [EPERM, SEEN], [EPERM, SEEN]).through(
            Ro,
            [EPERM, SEEN],
            [EPERM, SEEN],
        ),
        strike("truncate-grow", "truncate, larger", Size).through(Path, [EPERM, SEEN], [EPERM, SEEN]),
        strike("open-trunc", "open with O_TRUNC", Size).through(Path, [EPERM, SEEN], [EPERM, SEEN]).through(
            Ro,
            [EPERM, SEEN],
            [EPERM, SEEN],
        ),
        strike("reopen", "open for writing, pwrite", Contents)
            .grouped(Group::InPlace)
            .writable(SAME)
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
        write("writev", "pwritev, in place"),
        write("writev-direct", "pwritev, O_DIRECT, in place"),
        write("aio-writev", "aio pwritev, in place"),
        write("uring-writev", "io_uring writev, in place"),
        write("splice-position", "splice, in place, at the descriptor's position"),
        write("splice-short", "splice, of less than asked for, in place"),
        write("sendfile-short", "sendfile, of less than asked for, in place"),
        write("sendfile", "sendfile, in place"),
        store("store", "store by mmap, in place", SIGBUS).through(Sent, [SEEN, SAME], [SIGBUS, SAME]),
        strike_at("populate-written", "MADV_POPULATE_WRITE, in place", Inode, "populate-write", 4).writing(
            Map,
            [SEEN, SAME],
            [Expected::Refused("EFAULT"), SAME],
        ),
        store("read-into", "read into the mapping", Expected::Refused("EFAULT")),
        store("proc-mem", "write to /proc/self/mem there", Expected::Refused("EIO")),
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
        write("writev-past-end", "pwritev, across the end"),
        write("writev-stalled", "pwritev, its buffers told late"),
        write("aio-writev-past-end", "aio pwritev, across the end"),
        write("uring-writev-past-end", "io_uring writev, across the end"),
        write("race-vector", "pwritev, its buffers changed meanwhile"),
        write("splice-position-end", "splice, past the end, at the descriptor's position"),
        write("race-splice", "splice, the position changed meanwhile"),
        write("sendfile-beyond", "sendfile, across the end"),
        write("race-sendfile", "sendfile, the position changed meanwhile"),
        // The guard refuses the change, and each write is in place.
        write("race-append", "pwrite, O_APPEND changed meanwhile").writable(SAME),
        write("aio-stalled", "aio pwritev, O_APPEND taken back meanwhile"),
        write("splice-past-end", "splice, past the end"),
        write("sendfile-past-end", "sendfile, past the end"),
        write("o-append", "write, opened O_APPEND").through(Sent, [SEEN, SEEN], [EPERM, SEEN]),
        write("setfl-append", "F_SETFL O_APPEND, then write"),
        write("rwf-append", "pwritev2, RWF_APPEND").writable(EOPNOTSUPP),
        write("aio-append", "aio write, RWF_APPEND").writable(EOPNOTSUPP),
        write("uring-append", "io_uring write, RWF_APPEND").writable(EOPNOTSUPP),
    ]
}

fn flagged() -> Vec<Attack> {
    let write = |slug, title| strike(slug, title, Contents).writing(Rw, [SEEN, SAME], [EPERM, SAME]);
    let atomic = |slug, title| {
        strike(slug, title, Effect::Map)
            .grouped(Group::Exchange)
            .writable(EOPNOTSUPP)
            .may_lack(Xfs, "EOPNOTSUPP", "Linux 6.16 has it where the device does not")
            .may_lack(Xfs, "EINVAL", "Linux 6.16 has it where the device does not")
            .not_on(Ext4, "EOPNOTSUPP", "only where the device has atomic writes")
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN])
    };
    vec![
        write("setfl-clear", "F_SETFL without O_APPEND, then pwrite").grouped(Group::Size).writable(ETXTBSY),
        write("rwf-dsync", "pwritev2, RWF_DSYNC"),
        write("rwf-sync", "pwritev2, RWF_SYNC"),
        write("rwf-hipri", "pwritev2, RWF_HIPRI, O_DIRECT"),
        write("rwf-nowait", "pwritev2, RWF_NOWAIT").not_on(Ext4, "EOPNOTSUPP", "only with O_DIRECT"),
        write("rwf-nowait-direct", "pwritev2, RWF_NOWAIT, O_DIRECT")
            .may_lack(Xfs, "EAGAIN", "a kernel whose loop devices may wait")
            .may_lack(Ext4, "EAGAIN", "a kernel whose loop devices may wait"),
        write("rwf-dontcache", "pwritev2, RWF_DONTCACHE").may_lack(Xfs, "EOPNOTSUPP", "Linux 6.14 has it").may_lack(
            Ext4,
            "EOPNOTSUPP",
            "Linux 6.14 has it",
        ),
        write("rwf-noappend", "pwritev2, RWF_NOAPPEND")
            .grouped(Group::Size)
            .writable(ETXTBSY)
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
        holed("hole-direct", "pwrite, O_DIRECT, into a hole", "pwrite-direct", 40).writing(
            Rw,
            [SEEN, SEEN],
            [EPERM, SEEN],
        ),
        holed("hole-store", "store by mmap into a hole", "store", 40).writing(Map, [SEEN, SEEN], [SIGBUS, SEEN]),
        holed("hole-populate", "MADV_POPULATE_WRITE of a hole", "populate-write", 40).writing(
            Map,
            [SEEN, SEEN],
            [Expected::Refused("EFAULT"), SEEN],
        ),
        holed("unwritten-pwrite", "pwrite into unwritten", "pwrite", 20).writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        holed("unwritten-direct", "pwrite, O_DIRECT, into unwritten", "pwrite-direct", 20).writing(
            Rw,
            [SEEN, SEEN],
            [EPERM, SEEN],
        ),
        holed("unwritten-store", "store by mmap into unwritten", "store", 20).writing(
            Map,
            [SEEN, SEEN],
            [SIGBUS, SEEN],
        ),
        shared("shared-pwrite", "pwrite into shared", "pwrite", "shared").writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        shared("shared-direct", "pwrite, O_DIRECT, into shared", "pwrite-direct", "shared").writing(
            Rw,
            [SEEN, SEEN],
            [EPERM, SEEN],
        ),
        shared("shared-store", "store by mmap into shared", "store", "shared").writing(
            Map,
            [SEEN, SEEN],
            [SIGBUS, SEEN],
        ),
        Attack { by: By::Strike("pwrite", 41), ..shared("staged-pwrite", "pwrite beside staging", "pwrite", "staged") }
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        Attack { by: By::Strike("store", 41), ..shared("staged-store", "store beside staging", "store", "staged") }
            .writing(Map, [SEEN, SEEN], [SIGBUS, SEEN]),
        shared("free-eofblocks", "XFS_IOC_FREE_EOFBLOCKS", "free-eofblocks", "staged")
            .through(Path, [SAME, SAME], [SAME, SAME])
            .through(Ro, [SAME, SAME], [SAME, SAME])
            .alone(320)
            .changes(Blocks),
    ]
}

fn allocation() -> Vec<Attack> {
    let fallocate = |slug, title, effect| strike(slug, title, effect).writing(Rw, [EPERM, SEEN], [EPERM, SEEN]);
    let holed = |slug, title, operation| {
        strike_at(slug, title, Effect::Map, operation, 40).grouped(Group::Holes).on("holed", "hole,unwritten").writing(
            Rw,
            [EPERM, SEEN],
            [EPERM, SEEN],
        )
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
        strike("unshare", "fallocate UNSHARE_RANGE", Effect::Map).grouped(Group::Holes).on("shared", "shared").writing(
            Rw,
            [EPERM, SEEN],
            [EPERM, SEEN],
        ),
        holed("write-zeroes", "fallocate WRITE_ZEROES", "write-zeroes")
            .may_lack(Xfs, "EOPNOTSUPP", "Linux 7.3 has it")
            .may_lack(Ext4, "EOPNOTSUPP", "Linux 6.17 has it, over devices that unmap by writing zeroes"),
        strike_at("zeroes-over", "WRITE_ZEROES over written blocks", Contents, "write-zeroes", 4)
            .may_lack(Xfs, "EOPNOTSUPP", "Linux 7.3 has it")
            .may_lack(Ext4, "EOPNOTSUPP", "Linux 6.17 has it, over devices that unmap by writing zeroes")
            .writing(Rw, [EPERM, SEEN], [EPERM, SEEN]),
        fallocate("uring-punch", "PUNCH_HOLE by io_uring", Effect::Map),
        holed("resvsp", "XFS_IOC_RESVSP64 in a hole", "resvsp"),
        fallocate("unresvsp", "XFS_IOC_UNRESVSP64", Effect::Map),
        fallocate("zero-ioctl", "XFS_IOC_ZERO_RANGE", Effect::Map),
        strike("madv-remove", "MADV_REMOVE", Effect::Map).writing(Map, [EPERM, SEEN], [EPERM, SEEN]),
    ]
}

fn reflinks() -> Vec<Attack> {
    let onto = |slug, title| {
        strike(slug, title, Effect::Map).not_on(Ext4, "EOPNOTSUPP", "no reflink").writing(
            Rw,
            [EPERM, SEEN],
            [EPERM, SEEN],
        )
    };
    let from = |slug, title| {
        strike(slug, title, Shared)
            .grouped(Group::From)
            .not_on(Ext4, "EOPNOTSUPP", "no reflink")
            .through(Path, [SHARED, SHARED], [SAME, SAME])
            .through(Ro, [SHARED, SHARED], [SAME, SAME])
    };
    vec![
        onto("clone-onto", "FICLONE onto it").through(Sent, [EPERM, SEEN], [EPERM, SEEN]),
        onto("clone-range-onto", "FICLONERANGE onto it"),
        onto("dedupe-onto", "FIDEDUPERANGE onto it").through(Ro, [EPERM, SEEN], [EPERM, SEEN]),
        strike("copy-onto", "copy_file_range onto it", Contents).writing(Rw, [EPERM, SEEN], [EPERM, SAME]),
        strike("copy-past-end", "copy_file_range past its end", Size).grouped(Group::Size).writing(
            Rw,
            [EPERM, SEEN],
            [EPERM, SEEN],
        ),
        from("clone-from", "FICLONE from it"),
        from("clone-range-from", "FICLONERANGE from it"),
        from("dedupe-from", "FIDEDUPERANGE from it"),
        strike("copy-from", "copy_file_range from it", Other)
            .grouped(Group::From)
            .through(Path, [SHARED, SHARED], [SAME, SAME])
            .through(Ro, [SHARED, SHARED], [SAME, SAME]),
    ]
}

fn swaps() -> Vec<Attack> {
    let on_xfs = |slug, title| strike(slug, title, Effect::Map).not_on(Ext4, "ENOTTY", "an ioctl of XFS");
    let on_ext4 = |slug, title| strike(slug, title, Effect::Map).not_on(Xfs, "ENOTTY", "an ioctl of ext4");
    let exchange = |slug, title| {
        on_xfs(slug, title)
            .may_lack(Xfs, "ENOTTY", "Linux 6.10 has it, and 6.12 the one that commits")
            .alone(320)
            .setup(EXCHANGE)
            .writing(Rw, [EPERM, SEEN], [EPERM, SEEN])
    };
    vec![
        on_xfs("swapext-target", "XFS_IOC_SWAPEXT, target").swaps().writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        on_xfs("swapext-donor", "XFS_IOC_SWAPEXT, donor").swaps().writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        exchange("exchange-first", "XFS_IOC_EXCHANGE_RANGE"),
        exchange("exchange-second", "XFS_IOC_EXCHANGE_RANGE, donor"),
        exchange("commit-first", "XFS_IOC_COMMIT_RANGE"),
        exchange("commit-second", "XFS_IOC_COMMIT_RANGE, donor"),
        on_ext4("move-origin", "EXT4_IOC_MOVE_EXT, origin").swaps().writing(Rw, [SEEN, SEEN], [SEEN, SEEN]),
        on_ext4("move-donor", "EXT4_IOC_MOVE_EXT, donor").swaps().writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        on_ext4("swap-boot", "EXT4_IOC_SWAP_BOOT").alone(320).writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        on_ext4("migrate", "EXT4_IOC_MIGRATE")
            .not_on(Ext4, "EINVAL", "only for files mapped by blocks, which are not pinned")
            .through(Path, [SAME, SAME], [SAME, SAME]),
        strike("enable-verity", "FS_IOC_ENABLE_VERITY", Flags)
            .grouped(Group::Allocation)
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
        set("set-extsize", "FSSETXATTR, extent-size hint", [SAME, SAME], [EPERM, SAME])
            .on("empty", "empty")
            .not_on(Ext4, NO_EFFECT, "no such hint"),
        set("set-cowextsize", "FSSETXATTR, cowextsize", [SAME, SAME], [EPERM, SAME])
            .not_on(Ext4, NO_EFFECT, "no such hint"),
        set("set-project", "FSSETXATTR, project", [SAME, SAME], [EPERM, SAME])
            .not_on(Ext4, "EOPNOTSUPP", "only on ext4 made with it"),
        set("set-dax", "FSSETXATTR, DAX", [SAME, SAME], [EPERM, SAME]),
        set("set-realtime", "FSSETXATTR, realtime", [EPERM, SAME], [EPERM, SAME])
            .on("empty", "empty")
            .not_on(Xfs, "EINVAL", "only with a realtime device")
            .not_on(Ext4, NO_EFFECT, "no such flag"),
        set("set-nodefrag", "FSSETXATTR, NODEFRAG", [SAME, SAME], [EPERM, SAME])
            .not_on(Ext4, NO_EFFECT, "no such flag"),
        set("set-nodump", "SETFLAGS, nodump", [SAME, SAME], [EPERM, SAME]),
        set("set-sync", "SETFLAGS, sync", [SAME, SAME], [EPERM, SAME]),
        set("set-append", "SETFLAGS, append-only", [SAME, SAME], [EPERM, SAME]).after("chattr -a $F"),
        set("set-journal", "SETFLAGS, data journalling", [SAME, SAME], [EPERM, SAME])
            .not_on(Xfs, "EOPNOTSUPP", "no such flag")
            .may_lack(Ext4, "EPERM", "needs CAP_SYS_RESOURCE"),
        set("set-blockmap", "SETFLAGS, no extents", [SAME, SAME], [EPERM, SAME])
            .on("short", "")
            .not_on(Xfs, NO_EFFECT, "no such flag"),
        set("set-generation", "EXT4_IOC_SETVERSION", [SAME, SAME], [EPERM, SEEN])
            .not_on(Xfs, "ENOTTY", "an ioctl of ext4")
            .not_on(Ext4, "ENOTTY", "not with metadata_csum, which mkfs sets"),
        strike("set-immutable", "SETFLAGS, immutable", Flags)
            .after("chattr -i $F")
            .through(Path, [SAME, SAME], [SAME, SAME]),
        shell("clear-immutable", "chattr -i", Itself, "chattr +i $F; chattr -i $F; lsattr $F | cut -d' ' -f1 | grep -v i")
            .grouped(Group::Unlocked)
        .through(Path, [SEEN, SAME], [SEEN, SAME]),
        shell(
            "clear-and-write",
            "chattr -i, write, chattr +i",
            Contents,
            "chattr -i $F; dd if=$O of=$F bs=4k count=1 conv=notrunc status=none; chattr +i $F",
        )
        .after("chattr -i $F")
        .grouped(Group::Unlocked)
        .through(Path, [SEEN, SAME], [SEEN, SAME]),
        // Contents and times are not the map.
        shell(
            "clear-and-forge",
            "chattr -i, write, touch, chattr +i",
            Contents,
            "T=$(stat -c %y $F); chattr -i $F; dd if=$O of=$F bs=4k count=1 conv=notrunc status=none; touch -d \"$T\" $F; \
             chattr +i $F",
        )
        .after("chattr -i $F")
        .grouped(Group::Unlocked)
        .through(Path, [SAME, SAME], [SAME, SAME]),
        shell(
            "clear-and-punch",
            "chattr -i, punch, touch, chattr +i",
            Effect::Map,
            "T=$(stat -c %y $F); chattr -i $F; fallocate -p -o 16k -l 64k $F; touch -d \"$T\" $F; chattr +i $F",
        )
        .writable(ETXTBSY)
        .after("chattr -i $F")
        .grouped(Group::Unlocked)
        .through(Path, [SEEN, SEEN], [SEEN, SEEN]),
    ]
}

fn devices() -> Vec<Attack> {
    let on_loop = |slug, title, effect, xfs, ext4| strike(slug, title, effect).writing(Loop, xfs, ext4);
    vec![
        on_loop("loop-discard", "loop device, discard", Effect::Map, [SEEN, SEEN], [SEEN, SEEN]).writable(ETXTBSY),
        on_loop("loop-zeroout", "loop device, zero-out", Effect::Map, [SEEN, SEEN], [SEEN, SEEN]).writable(ETXTBSY),
        on_loop("loop-set-fd", "loop device by LOOP_SET_FD, discard", Effect::Map, [SEEN, SEEN], [SEEN, SEEN])
            .writable(ETXTBSY),
        on_loop("loop-write", "loop device, write", Contents, [SEEN, SAME], [Expected::Refused("EIO"), SAME])
            .writable(ETXTBSY),
        shell(
            "loop-read-only",
            "loop device, read-only, discard",
            Itself,
            "L=$(losetup -f --show -r $F); ! blkdiscard $L || false; ! blkdiscard -z $L || false; losetup -d $L",
        )
        .through(Path, [SAME, SAME], [SAME, SAME]),
        shell("swapon", "swapon", Itself, "swapon $F; grep -q $F /proc/swaps")
            .grouped(Group::Programs)
            .setup("chmod 600 $F; mkswap -q $F; sync $F")
            .after("swapoff $F")
            .through(Path, [EPERM, SAME], [EPERM, SAME]),
    ]
}

/// Attacks where the kernel opens the file itself, and no hook sees its writes.
fn by_the_kernel() -> Vec<Attack> {
    let size = |slug, title| strike(slug, title, Size).writing(Kernel, [SEEN, SEEN], [EPERM, SEEN]);
    // A server without privileges over the file opens it: nothing checks the immutable flag.
    let through = |attack: Attack, none| {
        attack
            .writable(Expected::Refused("EIO"))
            .may_lack(Xfs, "ENOTTY", "Linux 6.9 has it")
            .may_lack(Ext4, "ENOTTY", "Linux 6.9 has it")
            .through(Path, [SEEN, none], [EPERM, none])
            .through(Kernel, [SEEN, none], [EPERM, none])
    };
    vec![
        strike("overlay-write", "overlayfs above it, pwrite", Contents).writing(Kernel, [SEEN, SAME], [EPERM, SAME]),
        size("overlay-past-end", "overlayfs above it, pwrite, past the end"),
        size("overlay-splice", "overlayfs above it, splice, past the end"),
        size("overlay-sendfile", "overlayfs above it, sendfile, past the end"),
        size("overlay-aio", "overlayfs above it, aio write, RWF_APPEND"),
        size("overlay-append", "overlayfs above it, opened O_APPEND, write"),
        size("overlay-stalled", "overlayfs above it, aio, O_APPEND taken back"),
        size("overlay-toggle", "overlayfs above it, O_APPEND changed meanwhile"),
        through(strike("passthrough-write", "FUSE passthrough to it, pwrite", Contents), SAME),
        through(strike("passthrough-past-end", "FUSE passthrough to it, pwrite, past the end", Size), SEEN),
        through(strike("passthrough-splice", "FUSE passthrough to it, splice, past the end", Size), SEEN),
        // The program does not report its failure.
        strike("acct", "acct", Size).writing(Kernel, [SEEN, SEEN], [SAME, SEEN]),
        strike("quota-on", "quotaon", Size)
            .not_on(Xfs, "ENOSYS", "no quota files")
            .may_lack(Ext4, "ENOSYS", "a kernel without quotas")
            .may_lack(Ext4, "ESRCH", "a kernel without quotas")
            .alone(320)
            .setup("mount -o remount,usrquota $MNT || :")
            .writing(Rw, [EPERM, SEEN], [EPERM, SEEN]),
    ]
}

/// Attacks after a write that failed before it was judged.
fn after_a_refusal() -> Vec<Attack> {
    vec![
        strike("punch-noted", "a failed pwrite, then PUNCH_HOLE", Effect::Map).writing(
            Rw,
            [EPERM, SEEN],
            [EPERM, SEEN],
        ),
        strike("clone-noted", "a failed pwrite, then FICLONE onto it", Effect::Map)
            .grouped(Group::Onto)
            .writable(EOPNOTSUPP)
            .not_on(Ext4, "EOPNOTSUPP", "no reflink")
            .writing(Rw, [EPERM, SEEN], [EPERM, SEEN]),
        strike("exchange-noted", "a failed pwrite, then XFS_IOC_EXCHANGE_RANGE", Effect::Map)
            .grouped(Group::Exchange)
            .not_on(Ext4, "ENOTTY", "an ioctl of XFS")
            .may_lack(Xfs, "ENOTTY", "Linux 6.10 has it")
            .alone(320)
            .setup(EXCHANGE)
            .writing(Rw, [EPERM, SEEN], [EPERM, SEEN]),
    ]
}

fn names() -> Vec<Attack> {
    let gone = |slug, title| {
        strike(slug, title, Name).grouped(Group::Name).writable(EPERM).through(Path, [EPERM, SEEN], [EPERM, SEEN])
    };
    let set = |slug, title| {
        strike(slug, title, Inode).through(Path, [EPERM, SAME], [EPERM, SAME]).through(Ro, [EPERM, SAME], [EPERM, SAME])
    };
    vec![
        gone("unlink", "unlink"),
        gone("rename-over", "rename over it"),
        gone("rename-away", "rename"),
        gone("rename-exchange", "rename, RENAME_EXCHANGE"),
        gone("rename-whiteout", "rename, RENAME_WHITEOUT"),
        set("link", "link"),
        set("chmod", "chmod"),
        set("chown", "chown"),
        set("utimes", "utimensat"),
        set("setxattr", "setxattr"),
        set("setxattrs", "setxattr, more than the inode holds"),
        strike("remove-record", "removexattr of the record", Itself)
            .grouped(Group::Record)
            .writable(SEEN)
            .through(Path, [EPERM, SEEN], [EPERM, SEEN])
            .through(Ro, [EPERM, SEEN], [EPERM, SEEN]),
        strike("remove-by-handle", "XFS_IOC_ATTRMULTI_BY_HANDLE, remove", Itself)
            .grouped(Group::Record)
            .writable(SEEN)
            .not_on(Ext4, "ENOTTY", "an ioctl of XFS")
            .through(Path, [EPERM, SEEN], [EPERM, SEEN]),
        strike("file-handle", "open_by_handle_at, pwrite", Contents).grouped(Group::InPlace).through(
            Path,
            [EPERM, SAME],
            [EPERM, SAME],
        ),
        // Writes through it leave the times alone.
        strike("xfs-handle", "XFS_IOC_OPEN_BY_HANDLE, pwrite", Contents)
            .grouped(Group::InPlace)
            .not_on(Ext4, "ENOTTY", "an ioctl of XFS")
            .writing(Rw, [SAME, SAME], [EPERM, SAME]),
        strike("xfs-handle-truncate", "XFS_IOC_OPEN_BY_HANDLE, ftruncate", Size)
            .grouped(Group::Size)
            .writable(ETXTBSY)
            .not_on(Ext4, "ENOTTY", "an ioctl of XFS")
            .writing(Rw, [SEEN, SEEN], [EPERM, SEEN]),
        shell("rename-parent", "rename of its directory", Name, "mv $DIR/in $DIR/out")
            .grouped(Group::Path)
            .writable(SEEN)
            .after("mv $DIR/out $DIR/in")
            .through(Path, [SEEN, SEEN], [SEEN, SEEN]),
        shell("mount-over", "another file mounted over it", Name, "mount --bind $O $F")
            .grouped(Group::Path)
            .writable(SEEN)
            .after("umount $F")
            .through(Path, [SEEN, SEEN], [SEEN, SEEN]),
    ]
}

fn filesystem() -> Vec<Attack> {
    let whole =
        |slug, title, script| shell(slug, title, Itself, script).alone(320).through(Path, [SAME, SAME], [SAME, SAME]);
    vec![
        whole(
            "remount",
            "remount read-only, read-write",
            "mount -o remount,ro $MNT; ! touch $DIR/new || false; mount -o remount,rw $MNT; touch $DIR/new",
        ),
        whole("mount-again", "unmount and mount", "umount $MNT; ! test -e $F || false; mount -o loop $IMAGE $MNT; test -e $F"),
        whole("freeze", "fsfreeze", "fsfreeze -f $MNT; ! fsfreeze -f $MNT || false; fsfreeze -u $MNT; ! fsfreeze -u $MNT"),
        whole(
            "grow",
            "online grow",
            "S=$(stat -f -c %b $MNT); truncate -s +256M $IMAGE; losetup -c $DEV; \
             if test $FS = xfs; then xfs_growfs $MNT; else resize2fs $DEV; fi; \
             test $(stat -f -c %b $MNT) -gt $S",
        )
        .may_lack(Ext4, "EACCES", "resize2fs needs CAP_SYS_RESOURCE"),
        whole("shrink", "online shrink", "S=$(stat -f -c %b $MNT); xfs_growfs -D $((80 * 1024)) $MNT; \
             test $(stat -f -c %b $MNT) -lt $S")
            .alone(352)
            .not_on(Ext4, "failure", "not while it is mounted"),
        whole(
            "fill",
            "filling the filesystem",
            "dd if=/dev/zero of=$DIR/fill bs=1M status=none || :; test $(stat -f -c %a $MNT) -lt 4096; rm $DIR/fill",
        ),
        // XFS frees the blocks of deleted files a little later.
        whole(
            "fstrim",
            "fstrim",
            "S=$(stat -c %b $IMAGE); dd if=/dev/urandom of=$DIR/space bs=1M count=64 conv=fsync status=none; rm $DIR/space; \
             for try in $(seq 50); do sync -f $MNT; fstrim $MNT; \
             if test $(stat -c %b $IMAGE) -lt $((S + 65536)); then exit 0; fi; sleep 0.1; done; exit 1",
        ),
        shell("xfs-fsr", "xfs_fsr", Effect::Map, "xfs_fsr $F").swaps().grouped(Group::Defragmenters)
            .on("scattered", "")
            .not_on(Ext4, NO_EFFECT, "a program for XFS")
            .through(Path, [SAME, SEEN], [SAME, SEEN]),
        shell("e4defrag", "e4defrag", Effect::Map, "e4defrag -v $F").swaps().grouped(Group::Defragmenters).writable(Expected::Refused("failure"))
            .on("scattered", "")
            .not_on(Xfs, "failure", "a program for ext4")
            .through(Path, [SAME, SEEN], [EPERM, SEEN]),
        whole("xfs-scrub", "xfs_scrub", "xfs_scrub $MNT")
            .not_on(Ext4, "failure", "a program for XFS")
            .may_lack(Xfs, "failure", "a kernel without online scrub"),
        whole("xfs-repair-inode", "XFS online repair", "xfs_io -rx -c 'repair inode' -c 'repair bmapbtd' $F 2>&1 | \
             sed '/did not need repair or optimization/d' | tee /dev/stderr | test $(wc -c) = 0")
            .not_on(Ext4, "failure", "an ioctl of XFS")
            .may_lack(Xfs, "ENOTTY", "a kernel without online repair")
            .may_lack(Xfs, "EOPNOTSUPP", "a kernel without online repair"),
        whole(
            "fsck",
            "offline check and repair",
            "umount $MNT; if test $FS = xfs; then xfs_repair $IMAGE; else e2fsck -fy $IMAGE; fi; \
             mount -o loop $IMAGE $MNT",
        ),
        whole(
            "new-uuid",
            "another UUID of the filesystem",
            "blkid -p -s UUID -o value $IMAGE >$IMAGE.uuid; umount $MNT; \
             if test $FS = xfs; then xfs_admin -U generate $IMAGE; else e2fsck -fy $IMAGE; tune2fs -U random $IMAGE; fi; \
             test $(cat $IMAGE.uuid) != $(blkid -p -s UUID -o value $IMAGE); mount -o loop $IMAGE $MNT",
        )
        // The guard has the file by the old one, and would have it for ever.
        .after(
            "U=$(cat $IMAGE.uuid); umount $MNT; \
             if test $FS = xfs; then xfs_admin -U $U $IMAGE; else e2fsck -fy $IMAGE; tune2fs -U $U $IMAGE; fi; \
             mount -o loop $IMAGE $MNT",
        )
        .writable(SEEN),
        whole(
            "shutdown",
            "shutdown without flushing",
            "xfs_io -x -c shutdown $MNT; ! touch $DIR/new || false; umount $MNT; mount -o loop $IMAGE $MNT; touch $DIR/new",
        ),
        shell(
            "device-write",
            "write to the device beneath",
            Contents,
            "P=$(filefrag -e -b4096 -v $F | sed -nE 's/^ +0:[^:]*: +([0-9]+)\\..*/\\1/p'); \
             dd if=/dev/urandom of=$DEV bs=4k seek=$P count=1 oflag=direct conv=notrunc status=none; \
             dd of=$F oflag=nocache conv=notrunc,fdatasync count=0 status=none || dd if=$F iflag=nocache count=0 status=none",
        )
        .grouped(Group::Device)
        .through(Path, [SAME, SAME], [SAME, SAME]),
        shell(
            "device-metadata",
            "the inode edited on the device",
            Size,
            "I=$(stat -c %i $F); umount $MNT; \
             if test $FS = xfs; then xfs_db -x -c \"inode $I\" -c 'write core.size 8192' $IMAGE; \
             else debugfs -w -R \"sif <$I> size 8192\" $IMAGE; fi; mount -o loop $IMAGE $MNT",
        )
        .writable(SEEN)
        .alone(320)
        .grouped(Group::Device)
        .through(Path, [SEEN, SEEN], [SEEN, SEEN]),
        shell(
            "overlay",
            "overlayfs, copy up",
            Itself,
            "mkdir $DIR/up $DIR/work $DIR/over; mount -t overlay -o lowerdir=$DIR/in,upperdir=$DIR/up,workdir=$DIR/work \
             overlay $DIR/over; echo more >>$DIR/over/file; umount $DIR/over; ! cmp -s $F $DIR/up/file",
        )
        .grouped(Group::From)
        .through(Path, [EPERM, SHARED], [EPERM, SAME]),
    ]
}

fn programs() -> Vec<Attack> {
    let onto = |slug, title, script| {
        shell(slug, title, Contents, script).grouped(Group::Size).writable(ETXTBSY).through(
            Path,
            [EPERM, SEEN],
            [EPERM, SEEN],
        )
    };
    let into = |slug, title, script| {
        shell(slug, title, Contents, script).grouped(Group::InPlace).through(Path, [EPERM, SAME], [EPERM, SAME])
    };
    let replaced = |slug, title, script| {
        shell(slug, title, Name, script).grouped(Group::Name).writable(EPERM).through(
            Path,
            [EPERM, SEEN],
            [EPERM, SEEN],
        )
    };
    let sharing = |slug, title, script| {
        shell(slug, title, Itself, script).grouped(Group::From).through(Path, [SHARED, SHARED], [SAME, SAME])
    };
    vec![
        onto("cp-onto", "cp onto it", "cp $O $F"),
        onto("cp-reflink-onto", "cp --reflink=always onto it", "cp --reflink=always $O $F").not_on(
            Ext4,
            "EOPNOTSUPP",
            "no reflink",
        ),
        replaced("cp-force-onto", "cp --remove-destination onto it", "cp --remove-destination $O $F"),
        sharing("cp-from", "cp from it", "cp $F $DIR/copy; cmp $F $DIR/copy"),
        sharing("cp-reflink-from", "cp --reflink=always from it", "cp --reflink=always $F $DIR/copy")
            .writable(EOPNOTSUPP)
            .not_on(Ext4, "EOPNOTSUPP", "no reflink"),
        sharing("cat-from", "cat from it", "cat $F >$DIR/copy; cmp $F $DIR/copy"),
        shell(
            "cp-plain-from",
            "cp --reflink=never from it",
            Itself,
            "cp --reflink=never $F $DIR/copy; cmp $F $DIR/copy",
        )
        .grouped(Group::From)
        .through(Path, [SAME, SAME], [SAME, SAME]),
        replaced("mv-onto", "mv onto it", "mv -f $O $F; cp $F $O"),
        replaced("mv-away", "mv", "mv $F $DIR/away"),
        into("dd-notrunc", "dd conv=notrunc", "dd if=$O of=$F conv=notrunc status=none"),
        onto("dd", "dd", "dd if=$O of=$F bs=4k count=8 status=none"),
        replaced("rsync", "rsync", "rsync --checksum $O $F"),
        into("rsync-inplace", "rsync --inplace", "rsync --checksum --inplace $O $F"),
        replaced("sed", "sed -i", "sed -i '1s/^/x/' $F"),
        replaced("perl", "perl -i", "perl -pi -e 's/^/x/ if $. == 1' $F"),
        replaced("install", "install", "install -m 644 $O $F"),
        shell(
            "tar",
            "tar, unpacking over it",
            Name,
            "tar -cf $DIR/tar --transform 's/other/file/' -C $DIR other; tar -xf $DIR/tar -C $DIR/in",
        )
        .grouped(Group::Name)
        .writable(Expected::Refused("EEXIST"))
        .through(Path, [Expected::Refused("EEXIST"), SEEN], [Expected::Refused("EEXIST"), SEEN]),
        replaced("rm", "rm -rf of its directory", "rm -rf $DIR/in"),
        replaced("ln", "ln -f onto it", "ln -f $O $F"),
        replaced("gzip", "gzip", "gzip $F"),
        replaced("shred", "shred -u", "shred -n 1 -u $F").writable(ETXTBSY),
        into("shred-in-place", "shred", "shred -n 1 $F"),
        onto("redirect", "shell, > file", "echo short >$F"),
        onto("append", "shell, >> file", "echo more >>$F"),
        onto("truncate", "truncate", "truncate -s 100k $F"),
        shell("fallocate-dig", "fallocate --dig-holes", Effect::Map, "fallocate --dig-holes $F")
            .grouped(Group::Allocation)
            .writable(ETXTBSY)
            .setup("dd if=/dev/zero of=$F bs=64k count=2 conv=notrunc,fsync status=none")
            .through(Path, [EPERM, SEEN], [EPERM, SEEN]),
        onto("mkfs", "mkfs.ext4 on it", "mkfs.ext4 -q -F $F 200k").grouped(Group::Programs).writable(SAME),
        replaced("hardlink", "hardlink", "hardlink -c $O $F; test $F -ef $O")
            .setup("dd if=$F of=$O status=none; touch -d 2030-01-01 $O; sync -f $O"),
        replaced("dpkg", "dpkg, upgrading a package", "dpkg --root=$DIR -i $DIR/2.deb").setup(PACKAGE),
    ]
}

/// Makes an XFS that exchanges ranges, where the kernel mounts that, of one by an mkfs that cannot.
const EXCHANGE: &str = r#"
if test $FS = xfs; then
    umount $MNT
    old=$(xfs_db -c 'sb 0' -c 'print features_incompat' $IMAGE | cut -d' ' -f3)
    xfs_db -x -c 'sb 0' -c "write -d features_incompat $((old | 0x40))" $IMAGE >/dev/null 2>&1
    mount -o loop $IMAGE $MNT || {
        xfs_db -x -c 'sb 0' -c "write -d features_incompat $old" $IMAGE >/dev/null 2>&1
        mount -o loop $IMAGE $MNT
    }
fi
"#;

/// Two versions of a package that has the file; the first is installed.
const PACKAGE: &str = r#"
mkdir -p $DIR/var/lib/dpkg/info $DIR/var/lib/dpkg/updates; touch $DIR/var/lib/dpkg/status
for version in 1 2; do
    mkdir -p $DIR/$version/in $DIR/$version/DEBIAN
    printf 'Package: attacked\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: none\n' \
        $version >$DIR/$version/DEBIAN/control
    cat $F >$DIR/$version/in/file
    echo $version >>$DIR/$version/in/file
    dpkg-deb -b $DIR/$version $DIR/$version.deb >/dev/null
done
dpkg --root=$DIR -i $DIR/1.deb >/dev/null
sync -f $F
"#;
