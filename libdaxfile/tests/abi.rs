//! Compares every ioctl number, structure and constant of this crate with linux-raw-sys and, through a C program, with the
//! headers of the system; and checks that every declaration in the sources is compared.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem::{offset_of, transmute};
use std::path::Path;
use std::process::Command;

use bitflags::Flags;
use libdaxfile::bulkstat::{self, RawBulkCall, RawBulkRequest, RawBulkstat};
use libdaxfile::cachestat::{self, RawCachestat, RawRange};
use libdaxfile::dedupe::{self, RawDedupe, RawDedupeOne, RawDestination};
use libdaxfile::dm::{self, RawAnswer, RawDm, RawTarget};
use libdaxfile::f2fs;
use libdaxfile::fallocate::Mode;
use libdaxfile::fiemap::{self, ExtentFlags, RawCall, RawExtent, RawHeader, RawShortCall, Request};
use libdaxfile::fsmap::{self, RawHead, RawQuery, RawRecord, RecordFlags};
use libdaxfile::fsuuid::{self, RawExt4Fsuuid, RawFsuuid2};
use libdaxfile::fsxattr::{self, Fsxattr, Xflags};
use libdaxfile::handle::{self, RawFileHandle};
use libdaxfile::inode;
use libdaxfile::kprobe::{self, RawEvent, RawLink, RawPin};
use libdaxfile::lease;
use libdaxfile::quota::{self, RawFile, RawState, RawUsage};
use libdaxfile::statx::{self, Attributes};
use libdaxfile::xfs::{self, GeometryFlags, RawBmapx, RawEofblocks, RawGeometry};

const HEADERS: &str = "needs cc and the headers of libc, Linux and XFS; on Debian: apt-get install gcc libc6-dev \
                       linux-libc-dev xfslibs-dev";

/// Names, and beginnings of names, that linux-raw-sys 0.12 does not have.
const ONLY_IN_HEADERS: &[&str] = &[
    "BMV_",
    "BPF_",
    "DM_BUFFER_FULL_FLAG",
    "DM_NOFLUSH_FLAG",
    "DM_STATUS_TABLE_FLAG",
    "DM_VERSION_MAJOR",
    "EXT4_IOC_GETFSUUID",
    "FMR_",
    "FS_IOC_GETFSMAP",
    "FS_QSTATV_",
    "FS_IOC_GETFSUUID",
    "FS_XFLAG_VERITY",
    "MAX_HANDLE_SZ",
    "PERF_",
    "QIF_",
    "Q_GETQUOTA",
    "Q_XGETQSTATV",
    "fs_q",
    "XFS_",
    "bpf_attr.",
    "dm_",
    "fiemap",
    "fsmap",
    "fsuuid.",
    "file_handle",
    "getbmapx",
    "if_dqblk.",
    "link_create.",
    "perf_event_attr.",
    "sizeof(dm_",
    "sizeof(fs_q",
    "sizeof(file_handle",
    "sizeof(fiemap",
    "sizeof(fsmap",
    "sizeof(fsuuid)",
    "sizeof(fsuuid.",
    "sizeof(getbmapx",
    "sizeof(if_dqblk",
    "sizeof(perf_event_attr",
    "sizeof(xfs_",
    "xfs_",
];

struct Field {
    name: &'static str,
    offset: usize,
    size: usize,
}

fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! fields {
    ($structure:ty { $($field:ident),+ $(,)? }) => {
        [$(Field {
            name: stringify!($field),
            offset: offset_of!($structure, $field),
            size: size_of_field(|value: &$structure| &value.$field),
        }),+]
    };
}

/// Values by their C names, and the types of the crate that they come from.
#[derive(Default)]
struct Abi {
    values: BTreeMap<String, u64>,
    types: BTreeSet<String>,
}

impl Abi {
    fn enter(&mut self, name: impl Into<String>, value: impl TryInto<u64>) {
        let name = name.into();
        let value = value.try_into().ok().expect("no constant is negative");
        assert!(self.values.insert(name.clone(), value).is_none(), "{name} is entered twice");
    }

    fn enter_type<T>(&mut self) {
        let name = type_name::<T>();
        self.types.insert(name.rsplit("::").next().unwrap_or(name).to_owned());
    }

    fn flags<F: Flags<Bits: TryInto<u64>>>(&mut self, c_name: impl Fn(&str) -> String) {
        self.enter_type::<F>();
        for flag in F::FLAGS.iter().filter(|flag| flag.is_named()) {
            self.enter(c_name(flag.name()), flag.value().bits());
        }
    }

    fn fields(&mut self, c_name: &str, fields: &[Field]) {
        for Field { name, offset, size } in fields {
            self.enter(format!("{c_name}.{name}"), *offset);
            self.enter(format!("sizeof({c_name}.{name})"), *size);
        }
    }

    fn structure<S>(&mut self, c_name: &str, fields: &[Field]) {
        assert_eq!(end_of_last(c_name, fields), size_of::<S>(), "{c_name} has a field after the last, or padding");
        self.enter_type::<S>();
        self.enter(format!("sizeof({c_name})"), size_of::<S>());
        self.fields(c_name, fields);
    }
}

/// Returns where the last field ends. Each field must begin where the one before it ends; otherwise a field was forgotten.
fn end_of_last(c_name: &str, fields: &[Field]) -> usize {
    fields.iter().fold(0, |end, field| {
        assert_eq!(field.offset, end, "{c_name}: something lies before {}", field.name);
        end + field.size
    })
}

macro_rules! constants {
    ($abi:ident, $($module:ident::$name:ident),+ $(,)?) => { $($abi.enter(stringify!($name), $module::$name);)+ };
}

/// Enters requests by number, and checks that the errors of each have its name.
macro_rules! ioctls {
    ($abi:ident, $($module:ident::$name:ident),+ $(,)?) => {
        $(assert_eq!($module::$name.name(), concat!("ioctl(", stringify!($name), ")"));)+
        constants!($abi, $($module::$name),+)
    };
}

fn ours() -> Abi {
    let mut abi = Abi::default();
    constants!(
        abi,
        bulkstat::XFS_BULK_IREQ_NREXT64,
        cachestat::SYS_CACHESTAT,
        quota::FS_QSTATV_VERSION1,
        quota::QIF_DQBLKSIZE,
        quota::Q_GETQUOTA,
        quota::Q_XGETQSTATV,
        quota::SYS_QUOTACTL_FD,
        dedupe::FILE_DEDUPE_RANGE_DIFFERS,
        dm::DM_BUFFER_FULL_FLAG,
        dm::DM_NOFLUSH_FLAG,
        dm::DM_STATUS_TABLE_FLAG,
        dm::DM_VERSION_MAJOR,
        f2fs::FS_NOCOW_FL,
        fsmap::FMR_OWN_UNKNOWN,
        fsmap::XFS_FMR_OWN_COW,
        fsmap::XFS_FMR_OWN_LOG,
        handle::MAX_HANDLE_SZ,
        inode::FS_EXTENT_FL,
        kprobe::BPF_LINK_CREATE,
        kprobe::BPF_OBJ_PIN,
        kprobe::BPF_PERF_EVENT,
        kprobe::PERF_FLAG_FD_CLOEXEC,
        lease::F_SETSIG,
        statx::STATX_DIOALIGN,
        statx::STATX_DIO_READ_ALIGN,
        statx::S_IFDIR,
        statx::S_IFLNK,
        statx::S_IFMT,
        statx::S_IFREG,
        xfs::BMV_IF_NO_HOLES,
        xfs::BMV_IF_PREALLOC,
        xfs::BMV_OF_PREALLOC,
        xfs::BMV_OF_SHARED,
        xfs::XFS_EOFBLOCKS_VERSION,
        xfs::XFS_EOF_FLAGS_MINFILESIZE,
        xfs::XFS_EOF_FLAGS_SYNC,
    );
    ioctls!(
        abi,
        bulkstat::XFS_IOC_BULKSTAT,
        dedupe::FIDEDUPERANGE,
        dm::DM_TABLE_STATUS,
        f2fs::F2FS_IOC_SET_PIN_FILE,
        f2fs::FS_IOC_GETFLAGS,
        fiemap::FS_IOC_FIEMAP,
        fsmap::FS_IOC_GETFSMAP,
        fsuuid::EXT4_IOC_GETFSUUID,
        fsuuid::FS_IOC_GETFSUUID,
        fsxattr::FS_IOC_FSGETXATTR,
        fsxattr::FS_IOC_FSSETXATTR,
        inode::FS_IOC_GETVERSION,
        xfs::XFS_IOC_FREE_EOFBLOCKS,
        xfs::XFS_IOC_FSGEOMETRY,
        xfs::XFS_IOC_GETBMAPX,
    );

    abi.flags::<Attributes>(|name| format!("STATX_ATTR_{name}"));
    abi.flags::<ExtentFlags>(|name| format!("FIEMAP_EXTENT_{name}"));
    abi.flags::<GeometryFlags>(|name| format!("XFS_FSOP_GEOM_FLAGS_{name}"));
    abi.flags::<Mode>(|name| format!("FALLOC_FL_{name}"));
    abi.flags::<RecordFlags>(|name| format!("FMR_OF_{name}"));
    abi.flags::<Request>(|name| format!("FIEMAP_FLAG_{name}"));
    abi.flags::<Xflags>(|name| format!("FS_XFLAG_{name}"));

    abi.structure::<RawHeader>(
        "fiemap",
        &fields!(RawHeader { fm_start, fm_length, fm_flags, fm_mapped_extents, fm_extent_count, fm_reserved }),
    );
    let call = fields!(RawCall { header, extents });
    assert_eq!(end_of_last("RawCall", &call), size_of::<RawCall>());
    abi.enter_type::<RawCall>();
    abi.enter("fiemap.fm_extents", offset_of!(RawCall, extents));
    let call = fields!(RawShortCall { header, extents });
    assert_eq!(end_of_last("RawShortCall", &call), size_of::<RawShortCall>());
    assert_eq!(offset_of!(RawShortCall, extents), offset_of!(RawCall, extents));
    abi.enter_type::<RawShortCall>();
    abi.structure::<RawExtent>(
        "fiemap_extent",
        &fields!(RawExtent { fe_logical, fe_physical, fe_length, fe_reserved64, fe_flags, fe_reserved }),
    );

    abi.structure::<RawDedupe>(
        "file_dedupe_range",
        &fields!(RawDedupe { src_offset, src_length, dest_count, reserved1, reserved2 }),
    );
    abi.structure::<RawDestination>(
        "file_dedupe_range_info",
        &fields!(RawDestination { dest_fd, dest_offset, bytes_deduped, status, reserved }),
    );
    let one = fields!(RawDedupeOne { dedupe, destination });
    assert_eq!(end_of_last("RawDedupeOne", &one), size_of::<RawDedupeOne>());
    abi.enter_type::<RawDedupeOne>();
    abi.enter("file_dedupe_range.info", offset_of!(RawDedupeOne, destination));

    abi.structure::<RawDm>(
        "dm_ioctl",
        &fields!(RawDm {
            version,
            data_size,
            data_start,
            target_count,
            open_count,
            flags,
            event_nr,
            padding,
            dev,
            name,
            uuid,
            data,
        }),
    );
    abi.structure::<RawTarget>(
        "dm_target_spec",
        &fields!(RawTarget { sector_start, length, status, next, target_type }),
    );
    let answer = fields!(RawAnswer { head, data });
    assert_eq!(end_of_last("RawAnswer", &answer), size_of::<RawAnswer>());
    abi.enter_type::<RawAnswer>();

    let record =
        fields!(RawRecord { fmr_device, fmr_flags, fmr_physical, fmr_owner, fmr_offset, fmr_length, fmr_reserved });
    abi.structure::<RawRecord>("fsmap", &record);
    let head = fields!(RawHead { fmh_iflags, fmh_oflags, fmh_count, fmh_entries, fmh_reserved, fmh_keys });
    abi.structure::<RawHead>("fsmap_head", &head);
    let query = fields!(RawQuery { head, records });
    assert_eq!(end_of_last("RawQuery", &query), size_of::<RawQuery>());
    abi.enter_type::<RawQuery>();
    abi.enter("fsmap_head.fmh_recs", offset_of!(RawQuery, records));

    let event = fields!(RawEvent {
        kind,
        size,
        config,
        sample_period,
        sample_type,
        read_format,
        bits,
        wakeup_events,
        bp_type,
        kprobe_func,
        probe_offset,
    });
    abi.enter_type::<RawEvent>();
    abi.enter("PERF_ATTR_SIZE_VER1", end_of_last("RawEvent", &event));
    abi.fields("perf_event_attr", &[Field { name: "type", ..event[0] }]);
    abi.fields("perf_event_attr", &event[1..6]);
    // A bit field of C has no offset.
    abi.fields("perf_event_attr", &event[7..]);
    for (c_name, fields) in [
        ("link_create", &fields!(RawLink { prog_fd, target_fd, attach_type, flags })[..]),
        ("bpf_attr", &fields!(RawPin { pathname, bpf_fd, file_flags })[..]),
    ] {
        end_of_last(c_name, fields);
        for field in fields {
            abi.enter(format!("{c_name}.{}", field.name), field.offset);
        }
    }
    abi.enter_type::<RawLink>();
    abi.enter_type::<RawPin>();

    let file_handle = fields!(RawFileHandle { handle_bytes, handle_type, f_handle });
    assert_eq!(end_of_last("file_handle", &file_handle), size_of::<RawFileHandle>());
    abi.enter_type::<RawFileHandle>();
    abi.fields("file_handle", &file_handle[..2]);
    abi.enter("sizeof(file_handle)", offset_of!(RawFileHandle, f_handle));
    abi.enter("file_handle.f_handle", offset_of!(RawFileHandle, f_handle));

    abi.structure::<RawFsuuid2>("fsuuid2", &fields!(RawFsuuid2 { len, uuid }));
    // In C, the array at the end has no size, and the structure ends before it.
    let fsuuid = fields!(RawExt4Fsuuid { fsu_len, fsu_flags, fsu_uuid });
    assert_eq!(end_of_last("fsuuid", &fsuuid), size_of::<RawExt4Fsuuid>());
    abi.enter_type::<RawExt4Fsuuid>();
    abi.fields("fsuuid", &fsuuid[..2]);
    abi.enter("sizeof(fsuuid)", offset_of!(RawExt4Fsuuid, fsu_uuid));
    abi.enter("fsuuid.fsu_uuid", offset_of!(RawExt4Fsuuid, fsu_uuid));

    // Only the first and the last field are private: see fsxattr_private_fields_match_the_layout.
    let public = fields!(Fsxattr { extsize, nextents, projid, cowextsize });
    let end = public[3].offset + public[3].size;
    let field = |name, Field { offset, size, .. }: &Field| Field { name, offset: *offset, size: *size };
    abi.structure::<Fsxattr>(
        "fsxattr",
        &[
            Field { name: "fsx_xflags", offset: 0, size: public[0].offset },
            field("fsx_extsize", &public[0]),
            field("fsx_nextents", &public[1]),
            field("fsx_projid", &public[2]),
            field("fsx_cowextsize", &public[3]),
            Field { name: "fsx_pad", offset: end, size: size_of::<Fsxattr>() - end },
        ],
    );

    abi.structure::<RawGeometry>(
        "xfs_fsop_geom",
        &fields!(RawGeometry {
            blocksize,
            rtextsize,
            agblocks,
            agcount,
            logblocks,
            sectsize,
            inodesize,
            imaxpct,
            datablocks,
            rtblocks,
            rtextents,
            logstart,
            uuid,
            sunit,
            swidth,
            version,
            flags,
            logsectsize,
            rtsectsize,
            dirblocksize,
            logsunit,
            sick,
            checked,
            reserved,
        }),
    );
    // Later kernels give names to words of `reserved`; the size of the structure stays.
    abi.values.retain(|name, _| !name.contains("xfs_fsop_geom.reserved"));
    abi.structure::<RawBmapx>(
        "getbmapx",
        &fields!(RawBmapx {
            bmv_offset,
            bmv_block,
            bmv_length,
            bmv_count,
            bmv_entries,
            bmv_iflags,
            bmv_oflags,
            bmv_unused1,
            bmv_unused2,
        }),
    );
    abi.structure::<RawEofblocks>(
        "xfs_fs_eofblocks",
        &fields!(RawEofblocks { eof_version, eof_flags, eof_uid, eof_gid, eof_prid, pad32, eof_min_file_size, pad64 }),
    );
    enter_bulkstat(&mut abi);

    abi.structure::<RawRange>("cachestat_range", &fields!(RawRange { off, len }));
    abi.structure::<RawCachestat>(
        "cachestat",
        &fields!(RawCachestat { nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted }),
    );
    abi.structure::<RawFile>("fs_qfilestatv", &fields!(RawFile { qfs_ino, qfs_nblks, qfs_nextents, qfs_pad }));
    let usage = fields!(RawUsage {
        dqb_bhardlimit,
        dqb_bsoftlimit,
        dqb_curspace,
        dqb_ihardlimit,
        dqb_isoftlimit,
        dqb_curinodes,
        dqb_btime,
        dqb_itime,
        dqb_valid,
    });
    // The structure ends with padding.
    assert_eq!(end_of_last("if_dqblk", &usage).next_multiple_of(8), size_of::<RawUsage>());
    abi.enter_type::<RawUsage>();
    abi.enter("sizeof(if_dqblk)", size_of::<RawUsage>());
    abi.fields("if_dqblk", &usage);
    abi.structure::<RawState>(
        "fs_quota_statv",
        &fields!(RawState {
            qs_version,
            qs_pad1,
            qs_flags,
            qs_incoredqs,
            qs_uquota,
            qs_gquota,
            qs_pquota,
            qs_btimelimit,
            qs_itimelimit,
            qs_rtbtimelimit,
            qs_bwarnlimit,
            qs_iwarnlimit,
            qs_rtbwarnlimit,
            qs_pad3,
            qs_pad4,
            qs_pad2,
        }),
    );
    abi
}

fn enter_bulkstat(abi: &mut Abi) {
    abi.structure::<RawBulkRequest>(
        "xfs_bulk_ireq",
        &fields!(RawBulkRequest { ino, flags, icount, ocount, agno, reserved }),
    );
    abi.structure::<RawBulkstat>(
        "xfs_bulkstat",
        &fields!(RawBulkstat {
            bs_ino,
            bs_size,
            bs_blocks,
            bs_xflags,
            bs_atime,
            bs_mtime,
            bs_ctime,
            bs_btime,
            bs_gen,
            bs_uid,
            bs_gid,
            bs_projectid,
            bs_atime_nsec,
            bs_mtime_nsec,
            bs_ctime_nsec,
            bs_btime_nsec,
            bs_blksize,
            bs_rdev,
            bs_cowextsize_blks,
            bs_extsize_blks,
            bs_nlink,
            bs_extents,
            bs_aextents,
            bs_version,
            bs_forkoff,
            bs_sick,
            bs_checked,
            bs_mode,
            bs_pad2,
            bs_extents64,
            bs_pad,
        }),
    );
    let call = fields!(RawBulkCall { request, inodes });
    assert_eq!(end_of_last("RawBulkCall", &call), size_of::<RawBulkCall>());
    abi.enter_type::<RawBulkCall>();
    abi.enter("xfs_bulkstat_req.bulkstat", offset_of!(RawBulkCall, inodes));
}

fn linux_raw_sys() -> Abi {
    use linux_raw_sys::{general, ioctl};
    let mut abi = Abi::default();
    constants!(
        abi,
        ioctl::FIEMAP_EXTENT_DATA_ENCRYPTED,
        ioctl::FIEMAP_EXTENT_DATA_INLINE,
        ioctl::FIEMAP_EXTENT_DATA_TAIL,
        ioctl::FIEMAP_EXTENT_DELALLOC,
        ioctl::FIEMAP_EXTENT_ENCODED,
        ioctl::FIEMAP_EXTENT_LAST,
        ioctl::FIEMAP_EXTENT_MERGED,
        ioctl::FIEMAP_EXTENT_NOT_ALIGNED,
        ioctl::FIEMAP_EXTENT_SHARED,
        ioctl::FIEMAP_EXTENT_UNKNOWN,
        ioctl::FIEMAP_EXTENT_UNWRITTEN,
        ioctl::FIEMAP_FLAG_SYNC,
        ioctl::FIEMAP_FLAG_XATTR,
        ioctl::F2FS_IOC_SET_PIN_FILE,
        ioctl::FS_IOC_GETFLAGS,
        general::FS_NOCOW_FL,
        general::FS_EXTENT_FL,
        ioctl::FIDEDUPERANGE,
        ioctl::DM_TABLE_STATUS,
        general::FILE_DEDUPE_RANGE_DIFFERS,
        ioctl::FS_IOC_FIEMAP,
        ioctl::FS_IOC_FSGETXATTR,
        ioctl::FS_IOC_FSSETXATTR,
        ioctl::FS_IOC_GETVERSION,
        general::FALLOC_FL_COLLAPSE_RANGE,
        general::FALLOC_FL_KEEP_SIZE,
        general::FALLOC_FL_PUNCH_HOLE,
        general::FALLOC_FL_UNSHARE_RANGE,
        general::FALLOC_FL_WRITE_ZEROES,
        general::FS_XFLAG_APPEND,
        general::FS_XFLAG_COWEXTSIZE,
        general::FS_XFLAG_DAX,
        general::FS_XFLAG_EXTSIZE,
        general::FS_XFLAG_EXTSZINHERIT,
        general::FS_XFLAG_FILESTREAM,
        general::FS_XFLAG_HASATTR,
        general::FS_XFLAG_IMMUTABLE,
        general::FS_XFLAG_NOATIME,
        general::FS_XFLAG_NODEFRAG,
        general::FS_XFLAG_NODUMP,
        general::FS_XFLAG_NOSYMLINKS,
        general::FS_XFLAG_PREALLOC,
        general::FS_XFLAG_PROJINHERIT,
        general::FS_XFLAG_REALTIME,
        general::FS_XFLAG_RTINHERIT,
        general::FS_XFLAG_SYNC,
        general::F_SETSIG,
        general::STATX_ATTR_APPEND,
        general::STATX_ATTR_COMPRESSED,
        general::STATX_ATTR_DAX,
        general::STATX_ATTR_ENCRYPTED,
        general::STATX_ATTR_IMMUTABLE,
        general::STATX_ATTR_MOUNT_ROOT,
        general::STATX_ATTR_VERITY,
        general::STATX_DIOALIGN,
        general::STATX_DIO_READ_ALIGN,
        general::S_IFDIR,
        general::S_IFLNK,
        general::S_IFMT,
        general::S_IFREG,
    );
    abi.structure::<general::file_dedupe_range_info>(
        "file_dedupe_range_info",
        &fields!(general::file_dedupe_range_info { dest_fd, dest_offset, bytes_deduped, status, reserved }),
    );
    abi.enter("SYS_CACHESTAT", general::__NR_cachestat);
    abi.enter("SYS_QUOTACTL_FD", general::__NR_quotactl_fd);
    abi.structure::<general::cachestat_range>("cachestat_range", &fields!(general::cachestat_range { off, len }));
    abi.structure::<general::cachestat>(
        "cachestat",
        &fields!(general::cachestat { nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted }),
    );
    let dedupe = fields!(general::file_dedupe_range { src_offset, src_length, dest_count, reserved1, reserved2 });
    abi.structure::<general::file_dedupe_range>("file_dedupe_range", &dedupe);
    abi.enter("file_dedupe_range.info", offset_of!(general::file_dedupe_range, info));
    abi.structure::<general::fsuuid2>("fsuuid2", &fields!(general::fsuuid2 { len, uuid }));
    abi.structure::<general::fsxattr>(
        "fsxattr",
        &fields!(general::fsxattr { fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, fsx_cowextsize, fsx_pad }),
    );
    abi
}

/// The values in the C headers of this machine.
fn headers() -> BTreeMap<String, u64> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi.c");
    let probe = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi-probe");
    let cc = Command::new("cc").arg(source).arg("-o").arg(&probe).output();
    let cc = cc.unwrap_or_else(|error| panic!("cc: {error}; {HEADERS}"));
    assert!(cc.status.success(), "{HEADERS}\n{}", String::from_utf8_lossy(&cc.stderr));
    let output = Command::new(&probe).output().expect("the probe runs");
    assert!(output.status.success(), "the probe ended with {}", output.status);
    let lines = String::from_utf8(output.stdout).expect("the probe prints ASCII");
    let entry = |line: &str| {
        let (name, value) = line.split_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.lines().map(entry).collect()
}

fn assert_same(ours: &BTreeMap<String, u64>, theirs: &BTreeMap<String, u64>) {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let different: Vec<String> = names
        .into_iter()
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| format!("{name}: {:x?} here, {:x?} there", ours.get(name), theirs.get(name)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn abi_matches_linux_raw_sys() {
    let mut ours = ours().values;
    ours.retain(|name, _| !ONLY_IN_HEADERS.iter().any(|beginning| name.starts_with(beginning)));
    assert_same(&ours, &linux_raw_sys().values);
}

#[test]
fn abi_matches_c_headers() {
    assert_same(&ours().values, &headers());
}

#[test]
fn fsxattr_private_fields_match_the_layout() {
    let mut ours = Fsxattr::default().with_xflags(Xflags::NODEFRAG);
    (ours.extsize, ours.nextents, ours.projid, ours.cowextsize) = (1, 2, 3, 4);
    // SAFETY: the sizes are equal, otherwise this would not compile, and both types consist of integers.
    let raw: linux_raw_sys::general::fsxattr = unsafe { transmute(ours) };
    assert_eq!(raw.fsx_xflags, Xflags::NODEFRAG.bits());
    assert_eq!([raw.fsx_extsize, raw.fsx_nextents, raw.fsx_projid, raw.fsx_cowextsize], [1, 2, 3, 4]);
    assert_eq!(raw.fsx_pad, [0; 8]);
    // Private fields cannot be named here, but Debug prints them all.
    let all = "xflags: 8192, extsize: 1, nextents: 2, projid: 3, cowextsize: 4, pad: [0, 0, 0, 0, 0, 0, 0, 0]";
    assert_eq!(format!("{ours:?}"), format!("Fsxattr {{ {all} }}"));
}

#[test]
fn every_declaration_is_compared() {
    let abi = ours();
    let mut constants = BTreeSet::new();
    let mut types = BTreeSet::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut repr_c = false;
        for line in source.lines() {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let after = |word| words.iter().skip_while(|&&w| w != word).nth(1).map(|&name| name.to_owned());
            if let Some(name) = after("const").filter(|_| line.starts_with("pub const")) {
                constants.insert(name);
            }
            // `pub struct Name: u32 {` is how bitflags! declares its types.
            let bitflags = line.starts_with("    pub struct ") && line.contains(':');
            repr_c |= line == "#[repr(C)]";
            if let Some(name) = after("struct").filter(|_| repr_c || bitflags) {
                assert!(!types.contains(&name), "two types are named {name}, and one could be forgotten");
                types.insert(name);
                repr_c = false;
            }
        }
    }
    let entered: BTreeSet<String> = abi.values.into_keys().collect();
    assert!(constants.len() > 10, "too few constants found in the sources: {constants:?}");
    assert_eq!(constants.difference(&entered).collect::<Vec<_>>(), [""; 0], "constants that are not compared");
    assert_eq!(types, abi.types, "declared types on the left, compared types on the right");
}
