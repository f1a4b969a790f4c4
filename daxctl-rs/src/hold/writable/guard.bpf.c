// SPDX-License-Identifier: GPL-2.0-only OR MIT
//
// The guard: refuses what would change the extent map of the files in the map "files", and nothing else. Writes within
// a file's size go through, for blocks that are written and not shared stay where they are.
//
// Errors: ETXTBSY for size and layout, EPERM for names. EOPNOTSUPP for sharing and copying blocks within the kernel, in
// both directions, upon which cp(1), overlayfs and nfsd copy the bytes; and for the flags of single writes, as where a
// filesystem does not know these.
//
// file_permission() is told neither where a write goes nor what it is for. So programs at the entry of those functions
// that call it note that down for the task. A write of which nothing was noted is refused.
//
// They are kprobes, which run without being preempted. An fentry program is passed over while the same program is
// preempted on the same CPU (__bpf_prog_enter_recur()), and so are the fexit programs here, which only take notes away
// that came to no use; LSM programs never are. A kprobe is passed over within a bpf(2) that changes a map
// (bpf_disable_instrumentation()), if the caller is preempted there; that takes CAP_BPF.

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
#define bool _Bool
#define NULL ((void *)0)
#define true 1
#define false 0

// <linux/bpf.h>
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2 };
enum { BPF_NOEXIST = 1, BPF_F_NO_PREALLOC = 1 };

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

// What is read of the kernel's structures; the loader finds where it is.
#define kernel __attribute__((preserve_access_index))

struct list_head;
typedef struct { __u8 b[16]; } uuid_t;
struct super_block { unsigned long s_magic; uuid_t s_uuid; } kernel;
struct inode { __u16 i_mode; struct super_block *i_sb; unsigned long i_ino; __s64 i_size; __u32 i_generation; } kernel;
struct qstr { const unsigned char *name; } kernel;
struct dentry { struct qstr d_name; struct dentry *d_parent; struct inode *d_inode; } kernel;
struct file { __u32 f_mode; __u32 f_flags; struct inode *f_inode; } kernel;
struct iattr { __u32 ia_valid; __s64 ia_size; } kernel;
struct iocb { __s32 aio_rw_flags; } kernel;
struct io_rw { __s32 flags; } kernel;
#if defined(__TARGET_ARCH_x86)
struct pt_regs { unsigned long di, si, dx, cx, r8, r9; } kernel;
#define argument(regs, n) ((n) == 0 ? (regs)->di : (n) == 1 ? (regs)->si : (n) == 2 ? (regs)->dx : \
			   (n) == 3 ? (regs)->cx : (n) == 4 ? (regs)->r8 : (regs)->r9)
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs { __u64 regs[31]; } kernel;
#define argument(context, n) ((context)->regs[n])
#else
#error "the guard knows how functions get their arguments on x86-64 and on arm64"
#endif
struct user_namespace { int level; } kernel;
typedef struct { __u64 value; } kernel_cap_t;
struct cred { kernel_cap_t cap_effective; struct user_namespace *user_ns; } kernel;
struct task_struct { const struct cred *cred; } kernel;
struct bpf_map { char name[16]; } kernel;

enum { EPERM = 1, ETXTBSY = 26, EOPNOTSUPP = 95 };
enum { MAY_WRITE = 2, MAY_READ = 4, FMODE_WRITE = 2, ATTR_SIZE = 8, WRITE = 1 };
enum { S_IFMT = 0170000, S_IFREG = 0100000, O_APPEND = 02000, F_SETFL = 4 };
enum { RWF_APPEND = 0x10, RWF_ATOMIC = 0x40, COPY_FILE_SPLICE = 1 };
enum { XFS_MAGIC = 0x58465342, BPF_FS_MAGIC = 0xcafe4a11 };
enum { CAP_SYS_ADMIN = 21 };

// A file, over mounts and reboots: device numbers and, with its generation left out, inode numbers come to be another's.
struct key {
	__u8 filesystem[16];
	__u64 inode;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key);
	__type(value, __u32); // the generation
} daxfile_files SEC(".maps");

// The filesystems that these files are on.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, uuid_t);
	__type(value, __u32); // the number of files
} daxfile_fs SEC(".maps");

// How many of these files have an inode number of i modulo 4096: most others are told apart by it.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} daxfile_filter SEC(".maps");

// What a task is about to do.
struct intent {
	bool shares;  // to share or copy blocks between two files, one of them in the map
	bool flagged; // to write with flags that put the bytes elsewhere
	__u64 file;   // to write to this file, or 0
	__u64 position;
	__u64 count;
};

// By task, while it is at it. A place for every one is there from the start: what runs here may not wait for memory.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct intent);
} daxfile_intents SEC(".maps");

// There was no place left. From then on a task of which nothing is noted is not believed to be about to do nothing.
static volatile bool lost;

#define inline static __attribute__((always_inline))

inline bool in_filter(__u64 number)
{
	__u32 place = number & 4095;
	__u32 *files = bpf_map_lookup_elem(&daxfile_filter, &place);

	return files && *files;
}

inline bool in_files(struct super_block *filesystem, __u64 number, __u32 generation)
{
	struct key key = { .inode = number };

	bpf_probe_read_kernel(key.filesystem, sizeof key.filesystem, &filesystem->s_uuid);
	__u32 *there = bpf_map_lookup_elem(&daxfile_files, &key);
	return there && *there == generation;
}

inline bool guarded(struct inode *inode)
{
	return inode && in_filter(inode->i_ino) && (inode->i_mode & S_IFMT) == S_IFREG &&
	       in_files(inode->i_sb, inode->i_ino, inode->i_generation);
}

// The same for a kprobe, to which pointers are numbers.
inline bool is_of_guarded(struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u64 number = BPF_CORE_READ(inode, i_ino);

	return in_filter(number) && (BPF_CORE_READ(inode, i_mode) & S_IFMT) == S_IFREG &&
	       in_files(BPF_CORE_READ(inode, i_sb), number, BPF_CORE_READ(inode, i_generation));
}

inline bool on_guarded_filesystem(struct inode *inode)
{
	uuid_t filesystem = {};

	bpf_probe_read_kernel(&filesystem, sizeof filesystem, &inode->i_sb->s_uuid);
	return bpf_map_lookup_elem(&daxfile_fs, &filesystem);
}

inline struct intent *noted(void)
{
	__u64 task = bpf_get_current_task();

	return bpf_map_lookup_elem(&daxfile_intents, &task);
}

inline struct intent *note(void)
{
	__u64 task = bpf_get_current_task();
	struct intent nothing = {};

	bpf_map_update_elem(&daxfile_intents, &task, &nothing, BPF_NOEXIST);
	struct intent *intends = bpf_map_lookup_elem(&daxfile_intents, &task);
	if (!intends)
		lost = true;
	return intends;
}

inline int forget(__u64 task)
{
	bpf_map_delete_elem(&daxfile_intents, &task);
	return 0;
}

// CAP_SYS_ADMIN in the first user namespace, as capable() has it.
inline bool is_admin(void)
{
	const struct cred *cred = ((struct task_struct *)bpf_get_current_task_btf())->cred;
	__u64 effective = 0;

	bpf_probe_read_kernel(&effective, sizeof effective, &cred->cap_effective);
	return effective >> CAP_SYS_ADMIN & 1 && cred->user_ns->level == 0;
}

// What file_permission() is not told

SEC("kprobe/rw_verify_area")
int place_write(struct pt_regs *regs)
{
	struct file *file = (struct file *)argument(regs, 1);

	if ((int)argument(regs, 0) != WRITE || !is_of_guarded(file))
		return 0;
	struct intent *intends = note();
	if (!intends)
		return 0;
	intends->file = 0;
	if (bpf_probe_read_kernel(&intends->position, sizeof intends->position, (void *)argument(regs, 2)))
		return 0;
	intends->count = argument(regs, 3);
	// What rw_verify_area() itself refuses does not come to file_permission(), which takes this away.
	if ((__s64)intends->position >= 0 && (__s64)intends->count >= 0)
		intends->file = (__u64)file;
	return 0;
}

// Another LSM may have refused the write that was placed.
SEC("kprobe/vfs_fallocate")
int forget_write(struct pt_regs *regs) { return forget(bpf_get_current_task()); }

inline int flag(__u32 flags)
{
	bool elsewhere = flags & (RWF_APPEND | RWF_ATOMIC);
	struct intent *intends = elsewhere ? note() : noted();

	if (intends)
		intends->flagged = elsewhere;
	return 0;
}

SEC("kprobe/vfs_writev")
int writev(struct pt_regs *regs) { return flag(argument(regs, 4)); }
SEC("kprobe/aio_write")
int aio(struct pt_regs *regs) { return flag(BPF_CORE_READ((struct iocb *)argument(regs, 1), aio_rw_flags)); }
// struct io_kiocb begins with what is struct io_rw there.
SEC("kprobe/io_write")
int uring(struct pt_regs *regs) { return flag(BPF_CORE_READ((struct io_rw *)argument(regs, 0), flags)); }

inline int share(struct file *from, struct file *to)
{
	if (is_of_guarded(from) || is_of_guarded(to)) {
		struct intent *intends = note();
		if (intends)
			intends->shares = true;
	}
	return 0;
}

#define share_between(regs) share((struct file *)argument(regs, 0), (struct file *)argument(regs, 2))

SEC("kprobe/vfs_clone_file_range")
int clone(struct pt_regs *regs) { return share_between(regs); }
// Until Linux 6.8 overlayfs called it.
SEC("kprobe/do_clone_file_range")
int do_clone(struct pt_regs *regs) { return share_between(regs); }
SEC("kprobe/vfs_dedupe_file_range_one")
int dedupe(struct pt_regs *regs) { return share_between(regs); }
// With that flag, which nfsd sets, bytes are read and written.
SEC("kprobe/vfs_copy_file_range")
int copy(struct pt_regs *regs) { return argument(regs, 5) & COPY_FILE_SPLICE ? 0 : share_between(regs); }

// What failed before file_permission() was asked leaves nothing for the task's next call.
#define ends(function, name) \
	SEC("fexit/" #function) int name(unsigned long long *ctx) { return forget(bpf_get_current_task()); }

ends(vfs_writev, writev_end)
ends(aio_write, aio_end)
ends(io_write, uring_end)
ends(vfs_clone_file_range, clone_end)
ends(do_clone_file_range, do_clone_end)
ends(vfs_dedupe_file_range_one, dedupe_end)
ends(vfs_copy_file_range, copy_end)

// Another task may come to stand where this one stood in memory.
SEC("lsm/task_free")
int task_free(unsigned long long *ctx) { return forget(ctx[0]); }

// The hooks

SEC("lsm/file_permission")
int file_permission(unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];
	int mask = ctx[1];
	if (!(mask & (MAY_READ | MAY_WRITE)) || !guarded(file->f_inode))
		return 0;
	struct intent *intends = noted();
	if (!intends) {
		if (mask & MAY_WRITE)
			return -ETXTBSY;
		return lost ? -EOPNOTSUPP : 0;
	}
	if (!(mask & MAY_WRITE) && !intends->shares)
		return 0;
	bool elsewhere = intends->shares || intends->flagged, placed = intends->file == (__u64)file;
	__u64 position = intends->position, count = intends->count, size = file->f_inode->i_size;
	forget(bpf_get_current_task());
	if (elsewhere)
		return -EOPNOTSUPP;
	if (!placed || file->f_flags & O_APPEND || position > size || count > size - position)
		return -ETXTBSY;
	return 0;
}

// To the size that it has, a file without blocks past its end is truncated in vain: rsync(1) --inplace does so.
inline int resize(struct dentry *dentry, struct iattr *change)
{
	struct inode *inode = dentry->d_inode;

	return change->ia_valid & ATTR_SIZE && guarded(inode) && change->ia_size != inode->i_size ? -ETXTBSY : 0;
}

// Linux 6.3 has put the mount's idmap before the others.
SEC("lsm/inode_setattr")
int inode_setattr(unsigned long long *ctx) { return resize((struct dentry *)ctx[1], (struct iattr *)ctx[2]); }
SEC("lsm/inode_setattr")
int inode_setattr_old(unsigned long long *ctx) { return resize((struct dentry *)ctx[0], (struct iattr *)ctx[1]); }

SEC("lsm/file_open")
int file_open(unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];

	return file->f_flags & O_APPEND && file->f_mode & FMODE_WRITE && guarded(file->f_inode) ? -ETXTBSY : 0;
}

SEC("lsm/file_fcntl")
int file_fcntl(unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];

	return (__u32)ctx[1] == F_SETFL && ctx[2] & O_APPEND && file->f_mode & FMODE_WRITE && guarded(file->f_inode) ?
		       -ETXTBSY : 0;
}

// Without the size of the argument, which is another to 32-bit programs.
#define IOC(type, number) ((type) << 8 | (number))

inline int control(unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];

	switch ((__u16)ctx[1]) {
	case IOC('X', 109): // XFS_IOC_SWAPEXT tells both files in memory, and may be made on another filesystem than theirs.
		return file->f_inode->i_sb->s_magic == XFS_MAGIC ? -ETXTBSY : 0;
	case IOC('f', 15): // EXT4_IOC_MOVE_EXT tells the donor in memory.
		return on_guarded_filesystem(file->f_inode) ? -ETXTBSY : 0;
	case IOC(0xf5, 9): // F2FS_IOC_MOVE_RANGE tells where to in memory.
		return on_guarded_filesystem(file->f_inode) ? -ETXTBSY : 0;
	case IOC(0xf5, 1):  // F2FS_IOC_START_ATOMIC_WRITE
	case IOC(0xf5, 8):  // F2FS_IOC_DEFRAGMENT
	case IOC(0xf5, 13): // F2FS_IOC_SET_PIN_FILE
	case IOC(0xf5, 18): // F2FS_IOC_RELEASE_COMPRESS_BLOCKS
	case IOC(0xf5, 19): // F2FS_IOC_RESERVE_COMPRESS_BLOCKS
	case IOC(0xf5, 22): // F2FS_IOC_SET_COMPRESS_OPTION
	case IOC(0xf5, 23): // F2FS_IOC_DECOMPRESS_FILE
	case IOC(0xf5, 24): // F2FS_IOC_COMPRESS_FILE
	case IOC(0xf5, 25): // F2FS_IOC_START_ATOMIC_REPLACE
	case IOC('X', 129): // XFS_IOC_EXCHANGE_RANGE
	case IOC('X', 131): // XFS_IOC_COMMIT_RANGE
	case IOC('f', 17):  // EXT4_IOC_SWAP_BOOT
	case IOC('f', 9):   // EXT4_IOC_MIGRATE
	case IOC('f', 4):   // EXT4_IOC_SETVERSION
	case IOC('v', 2):   // FS_IOC_SETVERSION
	case IOC('f', 133): // FS_IOC_ENABLE_VERITY
	case IOC(0xda, 0xf1): // libdaxfile's question
		return guarded(file->f_inode) ? -ETXTBSY : 0;
	}
	return 0;
}

SEC("lsm/file_ioctl")
int file_ioctl(unsigned long long *ctx) { return control(ctx); }
// Linux 6.8 and stable kernels since have it; before, the other one is called for 32-bit programs, too.
SEC("lsm/file_ioctl_compat")
int file_ioctl_compat(unsigned long long *ctx) { return control(ctx); }

// Before Linux 6.11, and where bpf is among the LSMs, the kernel does not look for CAP_SYS_ADMIN itself
// (security_inode_removexattr()).

inline int record(unsigned long long *ctx)
{
	__u64 name[3] = {};

	bpf_probe_read_kernel_str(name, sizeof name, (void *)ctx[2]);
	// "security.daxfile.pin"
	return name[0] == 0x7974697275636573 && name[1] == 0x656c69667861642e && name[2] == 0x6e69702e && !is_admin() ? -EPERM :
														       0;
}

SEC("lsm/inode_setxattr")
int inode_setxattr(unsigned long long *ctx) { return record(ctx); }
SEC("lsm/inode_removexattr")
int inode_removexattr(unsigned long long *ctx) { return record(ctx); }

// The guard's own pins: /sys/fs/bpf/daxfile/NAME and /sys/fs/bpf/daxfile/BUILD/NAME.

inline bool is_named_daxfile(struct dentry *dentry)
{
	char name[8] = {};

	bpf_probe_read_kernel_str(name, sizeof name, dentry->d_name.name);
	return *(__u64 *)name == 0x656c6966786164; // "daxfile"
}

inline bool is_own(struct dentry *dentry)
{
	struct dentry *parent = dentry->d_parent;

	return parent->d_inode->i_sb->s_magic == BPF_FS_MAGIC &&
	       (is_named_daxfile(dentry) || is_named_daxfile(parent) || is_named_daxfile(parent->d_parent));
}

inline int remove(struct dentry *dentry)
{
	return guarded(dentry->d_inode) || (is_own(dentry) && !is_admin()) ? -EPERM : 0;
}

SEC("lsm/inode_unlink")
int inode_unlink(unsigned long long *ctx) { return remove((struct dentry *)ctx[1]); }
SEC("lsm/inode_rmdir")
int inode_rmdir(unsigned long long *ctx) { return remove((struct dentry *)ctx[1]); }
SEC("lsm/inode_rename")
int inode_rename(unsigned long long *ctx)
{
	int refused = remove((struct dentry *)ctx[1]);

	return refused ? refused : remove((struct dentry *)ctx[3]);
}

SEC("lsm/bpf_map")
int bpf_map(unsigned long long *ctx)
{
	struct bpf_map *map = (struct bpf_map *)ctx[0];
	__u64 name = 0;

	if (!((__u32)ctx[1] & FMODE_WRITE))
		return 0;
	bpf_probe_read_kernel(&name, sizeof name, map->name);
	return name == 0x5f656c6966786164 /* "daxfile_" */ && !is_admin() ? -EPERM : 0;
}

// Helpers that read the kernel's memory are for programs under the GPL.
char LICENSE[] SEC("license") = "Dual MIT/GPL";
