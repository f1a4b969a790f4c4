/*
 * Prints the ioctl numbers, structures and constants that tests/abi.rs compares with, one "name value" on each line.
 *
 * The headers of Debian 12 lack the definitions below, which are those of later kernels.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/dqblk_xfs.h>
#include <linux/dm-ioctl.h>
#include <linux/f2fs.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/fsmap.h>
#include <linux/perf_event.h>
#include <linux/quota.h>
#include <linux/stat.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <xfs/xfs.h>

#ifdef __NR_cachestat
#include <linux/mman.h>
#else
#define __NR_cachestat 451
struct cachestat_range {
	__u64 off;
	__u64 len;
};
struct cachestat {
	__u64 nr_cache;
	__u64 nr_dirty;
	__u64 nr_writeback;
	__u64 nr_evicted;
	__u64 nr_recently_evicted;
};
#endif

#if __has_include(<linux/ext4.h>)
#include <linux/ext4.h>
#else
struct fsuuid {
	__u32 fsu_len;
	__u32 fsu_flags;
	__u8 fsu_uuid[];
};
#define EXT4_IOC_GETFSUUID _IOR('f', 44, struct fsuuid)
#endif

#ifndef FS_IOC_GETFSUUID
struct fsuuid2 {
	__u8 len;
	__u8 uuid[16];
};
#define FS_IOC_GETFSUUID _IOR(0x15, 0, struct fsuuid2)
#endif
#ifndef FS_XFLAG_VERITY
#define FS_XFLAG_VERITY 0x00020000
#endif
#ifndef FALLOC_FL_WRITE_ZEROES
#define FALLOC_FL_WRITE_ZEROES 0x80
#endif
#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x00002000U
#endif
#ifndef STATX_DIO_READ_ALIGN
#define STATX_DIO_READ_ALIGN 0x00020000U
#endif
#ifndef XFS_FSOP_GEOM_FLAGS_ZONED
#define XFS_FSOP_GEOM_FLAGS_ZONED (1 << 27)
#endif

#define PRINT(name, value) printf("%s %llu\n", name, (unsigned long long)(value))
#define NUMBER(name) PRINT(#name, name)
#define SIZE(type) PRINT("sizeof(" #type ")", sizeof(struct type))
#define OFFSET(type, field) PRINT(#type "." #field, offsetof(struct type, field))
#define FIELD(type, field)                                                                   \
	do {                                                                                 \
		OFFSET(type, field);                                                         \
		PRINT("sizeof(" #type "." #field ")", sizeof(((struct type *)NULL)->field)); \
	} while (0)

int main(void)
{
	NUMBER(DM_BUFFER_FULL_FLAG);
	NUMBER(DM_NOFLUSH_FLAG);
	NUMBER(DM_STATUS_TABLE_FLAG);
	NUMBER(DM_TABLE_STATUS);
	NUMBER(DM_VERSION_MAJOR);
	NUMBER(F2FS_IOC_SET_PIN_FILE);
	NUMBER(FS_IOC_GETFLAGS);
	NUMBER(FS_NOCOW_FL);
	NUMBER(FS_EXTENT_FL);
	NUMBER(FIDEDUPERANGE);
	NUMBER(FILE_DEDUPE_RANGE_DIFFERS);
	NUMBER(FS_IOC_FIEMAP);
	NUMBER(FS_IOC_GETFSMAP);
	NUMBER(FMR_OWN_UNKNOWN);
	NUMBER(XFS_FMR_OWN_COW);
	NUMBER(XFS_FMR_OWN_LOG);
	NUMBER(FS_IOC_FSGETXATTR);
	NUMBER(FS_IOC_FSSETXATTR);
	NUMBER(FS_IOC_GETVERSION);
	NUMBER(FS_IOC_GETFSUUID);
	NUMBER(EXT4_IOC_GETFSUUID);
	NUMBER(XFS_IOC_FSGEOMETRY);
	NUMBER(XFS_IOC_GETBMAPX);
	NUMBER(XFS_IOC_FREE_EOFBLOCKS);

	SIZE(fiemap);
	FIELD(fiemap, fm_start);
	FIELD(fiemap, fm_length);
	FIELD(fiemap, fm_flags);
	FIELD(fiemap, fm_mapped_extents);
	FIELD(fiemap, fm_extent_count);
	FIELD(fiemap, fm_reserved);
	OFFSET(fiemap, fm_extents);

	SIZE(fiemap_extent);
	FIELD(fiemap_extent, fe_logical);
	FIELD(fiemap_extent, fe_physical);
	FIELD(fiemap_extent, fe_length);
	FIELD(fiemap_extent, fe_reserved64);
	FIELD(fiemap_extent, fe_flags);
	FIELD(fiemap_extent, fe_reserved);

	SIZE(fsxattr);
	FIELD(fsxattr, fsx_xflags);
	FIELD(fsxattr, fsx_extsize);
	FIELD(fsxattr, fsx_nextents);
	FIELD(fsxattr, fsx_projid);
	FIELD(fsxattr, fsx_cowextsize);
	FIELD(fsxattr, fsx_pad);

	SIZE(file_dedupe_range);
	FIELD(file_dedupe_range, src_offset);
	FIELD(file_dedupe_range, src_length);
	FIELD(file_dedupe_range, dest_count);
	FIELD(file_dedupe_range, reserved1);
	FIELD(file_dedupe_range, reserved2);
	OFFSET(file_dedupe_range, info);

	SIZE(file_dedupe_range_info);
	FIELD(file_dedupe_range_info, dest_fd);
	FIELD(file_dedupe_range_info, dest_offset);
	FIELD(file_dedupe_range_info, bytes_deduped);
	FIELD(file_dedupe_range_info, status);
	FIELD(file_dedupe_range_info, reserved);

	SIZE(dm_ioctl);
	FIELD(dm_ioctl, version);
	FIELD(dm_ioctl, data_size);
	FIELD(dm_ioctl, data_start);
	FIELD(dm_ioctl, target_count);
	FIELD(dm_ioctl, open_count);
	FIELD(dm_ioctl, flags);
	FIELD(dm_ioctl, event_nr);
	FIELD(dm_ioctl, padding);
	FIELD(dm_ioctl, dev);
	FIELD(dm_ioctl, name);
	FIELD(dm_ioctl, uuid);
	FIELD(dm_ioctl, data);

	SIZE(dm_target_spec);
	FIELD(dm_target_spec, sector_start);
	FIELD(dm_target_spec, length);
	FIELD(dm_target_spec, status);
	FIELD(dm_target_spec, next);
	FIELD(dm_target_spec, target_type);

	SIZE(fsmap);
	FIELD(fsmap, fmr_device);
	FIELD(fsmap, fmr_flags);
	FIELD(fsmap, fmr_physical);
	FIELD(fsmap, fmr_owner);
	FIELD(fsmap, fmr_offset);
	FIELD(fsmap, fmr_length);
	FIELD(fsmap, fmr_reserved);

	SIZE(fsmap_head);
	FIELD(fsmap_head, fmh_iflags);
	FIELD(fsmap_head, fmh_oflags);
	FIELD(fsmap_head, fmh_count);
	FIELD(fsmap_head, fmh_entries);
	FIELD(fsmap_head, fmh_reserved);
	FIELD(fsmap_head, fmh_keys);
	OFFSET(fsmap_head, fmh_recs);

	FIELD(perf_event_attr, type);
	FIELD(perf_event_attr, size);
	FIELD(perf_event_attr, config);
	FIELD(perf_event_attr, sample_period);
	FIELD(perf_event_attr, sample_type);
	FIELD(perf_event_attr, read_format);
	FIELD(perf_event_attr, wakeup_events);
	FIELD(perf_event_attr, bp_type);
	FIELD(perf_event_attr, kprobe_func);
	FIELD(perf_event_attr, probe_offset);
	NUMBER(PERF_ATTR_SIZE_VER1);
	NUMBER(PERF_FLAG_FD_CLOEXEC);

	NUMBER(BPF_OBJ_PIN);
	NUMBER(BPF_LINK_CREATE);
	NUMBER(BPF_PERF_EVENT);
	PRINT("link_create.prog_fd", offsetof(union bpf_attr, link_create.prog_fd));
	PRINT("link_create.target_fd", offsetof(union bpf_attr, link_create.target_fd));
	PRINT("link_create.attach_type", offsetof(union bpf_attr, link_create.attach_type));
	PRINT("link_create.flags", offsetof(union bpf_attr, link_create.flags));
	PRINT("bpf_attr.pathname", offsetof(union bpf_attr, pathname));
	PRINT("bpf_attr.bpf_fd", offsetof(union bpf_attr, bpf_fd));
	PRINT("bpf_attr.file_flags", offsetof(union bpf_attr, file_flags));

	SIZE(file_handle);
	FIELD(file_handle, handle_bytes);
	FIELD(file_handle, handle_type);
	OFFSET(file_handle, f_handle);
	NUMBER(MAX_HANDLE_SZ);

	SIZE(fsuuid2);
	FIELD(fsuuid2, len);
	FIELD(fsuuid2, uuid);

	SIZE(fsuuid);
	FIELD(fsuuid, fsu_len);
	FIELD(fsuuid, fsu_flags);
	OFFSET(fsuuid, fsu_uuid);

	SIZE(xfs_fsop_geom);
	FIELD(xfs_fsop_geom, blocksize);
	FIELD(xfs_fsop_geom, rtextsize);
	FIELD(xfs_fsop_geom, agblocks);
	FIELD(xfs_fsop_geom, agcount);
	FIELD(xfs_fsop_geom, logblocks);
	FIELD(xfs_fsop_geom, sectsize);
	FIELD(xfs_fsop_geom, inodesize);
	FIELD(xfs_fsop_geom, imaxpct);
	FIELD(xfs_fsop_geom, datablocks);
	FIELD(xfs_fsop_geom, rtblocks);
	FIELD(xfs_fsop_geom, rtextents);
	FIELD(xfs_fsop_geom, logstart);
	FIELD(xfs_fsop_geom, uuid);
	FIELD(xfs_fsop_geom, sunit);
	FIELD(xfs_fsop_geom, swidth);
	FIELD(xfs_fsop_geom, version);
	FIELD(xfs_fsop_geom, flags);
	FIELD(xfs_fsop_geom, logsectsize);
	FIELD(xfs_fsop_geom, rtsectsize);
	FIELD(xfs_fsop_geom, dirblocksize);
	FIELD(xfs_fsop_geom, logsunit);
	FIELD(xfs_fsop_geom, sick);
	FIELD(xfs_fsop_geom, checked);
	/* Not `reserved`: later kernels give names to its words, and the size stays. */

	SIZE(getbmapx);
	FIELD(getbmapx, bmv_offset);
	FIELD(getbmapx, bmv_block);
	FIELD(getbmapx, bmv_length);
	FIELD(getbmapx, bmv_count);
	FIELD(getbmapx, bmv_entries);
	FIELD(getbmapx, bmv_iflags);
	FIELD(getbmapx, bmv_oflags);
	FIELD(getbmapx, bmv_unused1);
	FIELD(getbmapx, bmv_unused2);

	SIZE(xfs_fs_eofblocks);
	FIELD(xfs_fs_eofblocks, eof_version);
	FIELD(xfs_fs_eofblocks, eof_flags);
	FIELD(xfs_fs_eofblocks, eof_uid);
	FIELD(xfs_fs_eofblocks, eof_gid);
	FIELD(xfs_fs_eofblocks, eof_prid);
	FIELD(xfs_fs_eofblocks, pad32);
	FIELD(xfs_fs_eofblocks, eof_min_file_size);
	FIELD(xfs_fs_eofblocks, pad64);

	NUMBER(XFS_IOC_BULKSTAT);
	NUMBER(XFS_BULK_IREQ_NREXT64);
	SIZE(xfs_bulk_ireq);
	FIELD(xfs_bulk_ireq, ino);
	FIELD(xfs_bulk_ireq, flags);
	FIELD(xfs_bulk_ireq, icount);
	FIELD(xfs_bulk_ireq, ocount);
	FIELD(xfs_bulk_ireq, agno);
	FIELD(xfs_bulk_ireq, reserved);
	OFFSET(xfs_bulkstat_req, bulkstat);

	SIZE(xfs_bulkstat);
	FIELD(xfs_bulkstat, bs_ino);
	FIELD(xfs_bulkstat, bs_size);
	FIELD(xfs_bulkstat, bs_blocks);
	FIELD(xfs_bulkstat, bs_xflags);
	FIELD(xfs_bulkstat, bs_atime);
	FIELD(xfs_bulkstat, bs_mtime);
	FIELD(xfs_bulkstat, bs_ctime);
	FIELD(xfs_bulkstat, bs_btime);
	FIELD(xfs_bulkstat, bs_gen);
	FIELD(xfs_bulkstat, bs_uid);
	FIELD(xfs_bulkstat, bs_gid);
	FIELD(xfs_bulkstat, bs_projectid);
	FIELD(xfs_bulkstat, bs_atime_nsec);
	FIELD(xfs_bulkstat, bs_mtime_nsec);
	FIELD(xfs_bulkstat, bs_ctime_nsec);
	FIELD(xfs_bulkstat, bs_btime_nsec);
	FIELD(xfs_bulkstat, bs_blksize);
	FIELD(xfs_bulkstat, bs_rdev);
	FIELD(xfs_bulkstat, bs_cowextsize_blks);
	FIELD(xfs_bulkstat, bs_extsize_blks);
	FIELD(xfs_bulkstat, bs_nlink);
	FIELD(xfs_bulkstat, bs_extents);
	FIELD(xfs_bulkstat, bs_aextents);
	FIELD(xfs_bulkstat, bs_version);
	FIELD(xfs_bulkstat, bs_forkoff);
	FIELD(xfs_bulkstat, bs_sick);
	FIELD(xfs_bulkstat, bs_checked);
	FIELD(xfs_bulkstat, bs_mode);
	FIELD(xfs_bulkstat, bs_pad2);
	FIELD(xfs_bulkstat, bs_extents64);
	FIELD(xfs_bulkstat, bs_pad);

	PRINT("SYS_CACHESTAT", __NR_cachestat);
	SIZE(cachestat_range);
	FIELD(cachestat_range, off);
	FIELD(cachestat_range, len);
	SIZE(cachestat);
	FIELD(cachestat, nr_cache);
	FIELD(cachestat, nr_dirty);
	FIELD(cachestat, nr_writeback);
	FIELD(cachestat, nr_evicted);
	FIELD(cachestat, nr_recently_evicted);

	PRINT("SYS_QUOTACTL_FD", __NR_quotactl_fd);
	NUMBER(Q_XGETQSTATV);
	NUMBER(FS_QSTATV_VERSION1);
	NUMBER(Q_GETQUOTA);
	NUMBER(QIF_DQBLKSIZE);
	SIZE(if_dqblk);
	FIELD(if_dqblk, dqb_bhardlimit);
	FIELD(if_dqblk, dqb_bsoftlimit);
	FIELD(if_dqblk, dqb_curspace);
	FIELD(if_dqblk, dqb_ihardlimit);
	FIELD(if_dqblk, dqb_isoftlimit);
	FIELD(if_dqblk, dqb_curinodes);
	FIELD(if_dqblk, dqb_btime);
	FIELD(if_dqblk, dqb_itime);
	FIELD(if_dqblk, dqb_valid);
	SIZE(fs_qfilestatv);
	FIELD(fs_qfilestatv, qfs_ino);
	FIELD(fs_qfilestatv, qfs_nblks);
	FIELD(fs_qfilestatv, qfs_nextents);
	FIELD(fs_qfilestatv, qfs_pad);
	SIZE(fs_quota_statv);
	FIELD(fs_quota_statv, qs_version);
	FIELD(fs_quota_statv, qs_pad1);
	FIELD(fs_quota_statv, qs_flags);
	FIELD(fs_quota_statv, qs_incoredqs);
	FIELD(fs_quota_statv, qs_uquota);
	FIELD(fs_quota_statv, qs_gquota);
	FIELD(fs_quota_statv, qs_pquota);
	FIELD(fs_quota_statv, qs_btimelimit);
	FIELD(fs_quota_statv, qs_itimelimit);
	FIELD(fs_quota_statv, qs_rtbtimelimit);
	FIELD(fs_quota_statv, qs_bwarnlimit);
	FIELD(fs_quota_statv, qs_iwarnlimit);
	FIELD(fs_quota_statv, qs_rtbwarnlimit);
	FIELD(fs_quota_statv, qs_pad3);
	FIELD(fs_quota_statv, qs_pad4);
	FIELD(fs_quota_statv, qs_pad2);

	NUMBER(FIEMAP_EXTENT_LAST);
	NUMBER(FIEMAP_EXTENT_UNKNOWN);
	NUMBER(FIEMAP_EXTENT_DELALLOC);
	NUMBER(FIEMAP_EXTENT_ENCODED);
	NUMBER(FIEMAP_EXTENT_DATA_ENCRYPTED);
	NUMBER(FIEMAP_EXTENT_NOT_ALIGNED);
	NUMBER(FIEMAP_EXTENT_DATA_INLINE);
	NUMBER(FIEMAP_EXTENT_DATA_TAIL);
	NUMBER(FIEMAP_EXTENT_UNWRITTEN);
	NUMBER(FIEMAP_EXTENT_MERGED);
	NUMBER(FIEMAP_EXTENT_SHARED);
	NUMBER(FIEMAP_FLAG_SYNC);
	NUMBER(FIEMAP_FLAG_XATTR);

	NUMBER(FMR_OF_PREALLOC);
	NUMBER(FMR_OF_ATTR_FORK);
	NUMBER(FMR_OF_EXTENT_MAP);
	NUMBER(FMR_OF_SHARED);
	NUMBER(FMR_OF_SPECIAL_OWNER);
	NUMBER(FMR_OF_LAST);

	NUMBER(FS_XFLAG_REALTIME);
	NUMBER(FS_XFLAG_PREALLOC);
	NUMBER(FS_XFLAG_IMMUTABLE);
	NUMBER(FS_XFLAG_APPEND);
	NUMBER(FS_XFLAG_SYNC);
	NUMBER(FS_XFLAG_NOATIME);
	NUMBER(FS_XFLAG_NODUMP);
	NUMBER(FS_XFLAG_RTINHERIT);
	NUMBER(FS_XFLAG_PROJINHERIT);
	NUMBER(FS_XFLAG_NOSYMLINKS);
	NUMBER(FS_XFLAG_EXTSIZE);
	NUMBER(FS_XFLAG_EXTSZINHERIT);
	NUMBER(FS_XFLAG_NODEFRAG);
	NUMBER(FS_XFLAG_FILESTREAM);
	NUMBER(FS_XFLAG_DAX);
	NUMBER(FS_XFLAG_COWEXTSIZE);
	NUMBER(FS_XFLAG_VERITY);
	NUMBER(FS_XFLAG_HASATTR);

	NUMBER(FALLOC_FL_KEEP_SIZE);
	NUMBER(FALLOC_FL_PUNCH_HOLE);
	NUMBER(FALLOC_FL_COLLAPSE_RANGE);
	NUMBER(FALLOC_FL_UNSHARE_RANGE);
	NUMBER(FALLOC_FL_WRITE_ZEROES);

	NUMBER(STATX_DIOALIGN);
	NUMBER(STATX_DIO_READ_ALIGN);
	NUMBER(STATX_ATTR_COMPRESSED);
	NUMBER(STATX_ATTR_IMMUTABLE);
	NUMBER(STATX_ATTR_MOUNT_ROOT);
	NUMBER(STATX_ATTR_APPEND);
	NUMBER(STATX_ATTR_ENCRYPTED);
	NUMBER(STATX_ATTR_VERITY);
	NUMBER(STATX_ATTR_DAX);

	NUMBER(S_IFMT);
	NUMBER(S_IFREG);
	NUMBER(S_IFDIR);
	NUMBER(S_IFLNK);

	NUMBER(F_SETSIG);

	NUMBER(XFS_FSOP_GEOM_FLAGS_RMAPBT);
	NUMBER(XFS_FSOP_GEOM_FLAGS_REFLINK);
	NUMBER(XFS_FSOP_GEOM_FLAGS_NREXT64);
	NUMBER(XFS_FSOP_GEOM_FLAGS_ZONED);
	NUMBER(BMV_IF_PREALLOC);
	NUMBER(BMV_IF_NO_HOLES);
	NUMBER(BMV_OF_PREALLOC);
	NUMBER(BMV_OF_SHARED);
	NUMBER(XFS_EOFBLOCKS_VERSION);
	NUMBER(XFS_EOF_FLAGS_SYNC);
	NUMBER(XFS_EOF_FLAGS_MINFILESIZE);
	return 0;
}
