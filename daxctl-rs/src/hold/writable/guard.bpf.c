// SPDX-License-Identifier: GPL-2.0-only OR MIT
//
// The guard: refuses everything that would change the extent map of the files in the map "files", and nothing else. It
// lets writes within a file's size through, because blocks that are written and not shared stay in place.
//
// Errors: ETXTBSY for size and layout, EPERM for names. EOPNOTSUPP for sharing and copying blocks within the kernel, in
// both directions: on this error cp(1), overlayfs and nfsd copy the bytes. EOPNOTSUPP also for the flags of single
// writes, as from a filesystem that does not know these flags.
//
// The hook file_permission() receives the file, but not where a write goes, how long it is, or what it is for. So
// programs at the entry of every function that calls the hook for writing leave a note for the task, and the hook reads
// the note. The hook refuses a write without a note. The functions are the callers of rw_verify_area(WRITE) and of
// security_file_permission(MAY_WRITE); a read runs none of these programs.
//
// The programs make notes for guarded files only, so a process that cannot write to a guarded file cannot fill the
// table. If the table is full, the oldest note is evicted: an old note belongs to a call that waits for its caller's
// memory. An evicted note makes only its own task's write fail. A note belongs to one call: every function with a
// program here, and every ioctl that leads to file_permission(), replaces or removes the previous note.
//
// The programs that leave notes are kprobes, which run with preemption disabled. The kernel skips an fentry program
// while the same program is preempted on the same CPU (__bpf_prog_enter_recur()). It also skips the fexit programs here
// in that case; these only remove unused notes. It never skips LSM programs. It skips a kprobe within a bpf(2) that
// changes a map (bpf_disable_instrumentation()), if the caller is preempted there; that takes CAP_BPF. No kprobe runs
// while kernel.ftrace_enabled or kprobes/enabled in debugfs is 0, and libdaxfile's query detects that.

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
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_LRU_HASH = 9 };
enum { BPF_ANY = 0, BPF_F_NO_PREALLOC = 1 };

// <asm/ptrace.h>, which the headers for the target bpf do not include.
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#define SIXTH(ctx) (__PT_REGS_CAST(ctx)->r9)
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31], sp, pc, pstate;
};
#define SIXTH(ctx) (__PT_REGS_CAST(ctx)->regs[5])
#else
#error "the guard knows how functions get their arguments on x86-64 and on arm64"
#endif
// The register names are the kernel's.
#define __VMLINUX_H__

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

// The fields that the programs read of the kernel's structures; the loader relocates them.
#define kernel __attribute__((preserve_access_index))

struct list_head;
typedef struct {
	__u8 b[16];
} uuid_t;
struct super_block {
	unsigned long s_magic;
	uuid_t s_uuid;
} kernel;
struct inode {
	__u16 i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_rdev;
	__s64 i_size;
	__u32 i_generation;
} kernel;
struct qstr {
	const unsigned char *name;
} kernel;
struct dentry {
	struct qstr d_name;
	struct dentry *d_parent;
	struct inode *d_inode;
} kernel;
typedef struct {
	int counter;
} atomic_t;
typedef struct {
	__s64 counter;
} atomic64_t;
typedef struct {
	atomic64_t refcnt;
} file_ref_t;
struct file {
	__u32 f_mode;
	__u32 f_flags;
	__s64 f_pos;
	struct inode *f_inode;
	atomic64_t f_count;
} kernel;
struct file___6_13 {
	file_ref_t f_ref;
} kernel;
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} kernel;
struct files_struct {
	atomic_t count;
	struct fdtable *fdt;
} kernel;
struct iattr {
	__u32 ia_valid;
	__s64 ia_size;
} kernel;
struct iov_iter {
	unsigned long count;
} kernel;
struct kiocb {
	struct file *ki_filp;
	__s64 ki_pos;
	int ki_flags;
} kernel;
struct iocb {
	__u64 aio_nbytes;
} kernel;
struct io_cqe {
	__s32 res;
} kernel;
struct io_kiocb {
	struct file *file;
	struct io_cqe cqe;
} kernel;
struct user_namespace {
	int level;
} kernel;
typedef struct {
	__u64 value;
} kernel_cap_t;
struct cred {
	kernel_cap_t cap_effective;
	struct user_namespace *user_ns;
} kernel;
struct task_struct {
	const struct cred *cred;
	struct files_struct *files;
} kernel;
struct bpf_map {
	char name[16];
} kernel;

enum { EPERM = 1, EINVAL = 22, ETXTBSY = 26, EOPNOTSUPP = 95 };
enum { MAY_WRITE = 2, MAY_READ = 4, ATTR_SIZE = 8 };
enum { FMODE_WRITE = 2, FMODE_NOACCOUNT = 0x20000000 };
enum { S_IFMT = 0170000, S_IFREG = 0100000, S_IFBLK = 0060000, O_APPEND = 02000, F_SETFL = 4 };
enum { LOOP_MAJOR = 7, MINOR_BITS = 20 };
// The flags of a struct kiocb use the same values.
enum { RWF_APPEND = 0x10, RWF_ATOMIC = 0x40, COPY_FILE_SPLICE = 1 };
enum { XFS_MAGIC = 0x58465342, BPF_FS_MAGIC = 0xcafe4a11 };
enum { CAP_SYS_ADMIN = 21 };

// The key of a file across mounts and reboots: device numbers can change and inode numbers can be reused. The
// generation, which tells reused inode numbers apart, is the value.
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

// The filesystems that hold guarded files.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, uuid_t);
	__type(value, __u32); // the number of guarded files
} daxfile_fs SEC(".maps");

// The number of guarded files with inode number i modulo 4096: this alone tells most other files apart.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} daxfile_filter SEC(".maps");

// The operation that a task is about to perform.
enum what {
	WRITE,	// write `count` bytes
	GATHER, // write a number of bytes that is not known yet
	URING,	// write as many bytes as `request`, a struct io_kiocb, says
	MOVE,	// move up to `count` bytes out of a pipe or another file
	SEEK,	// like MOVE, at the current position of the open file
	PIECES, // like MOVE, in pieces that the kernel checks one by one
	SHARE,	// share or copy blocks between `file` and `other`, one of them guarded
};

struct intent {
	__u64 file, other;
	__u64 kiocb; // contains position and flags, unless it is 0
	__u64 request;
	__u64 position, count, received;
	__u32 flags;
	enum what what;
};

// One note per task, during the call. All entries are preallocated: a program here may not wait for memory.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, __u64);
	__type(value, struct intent);
} daxfile_intents SEC(".maps");

// Before Linux 6.8, iter_file_splice_write() calls vfs_iter_write() for each piece. Set by the loader.
const volatile bool pieces_are_checked;

// The number of times that another process received an open file that is guarded.
static __u64 received;

static __always_inline bool in_filter(__u64 number)
{
	__u32 place = number & 4095;
	__u32 *files = bpf_map_lookup_elem(&daxfile_filter, &place);

	return files && *files;
}

static __always_inline bool in_files(struct super_block *filesystem, __u64 number, __u32 generation)
{
	struct key key = { .inode = number };

	bpf_probe_read_kernel(key.filesystem, sizeof key.filesystem, &filesystem->s_uuid);
	__u32 *there = bpf_map_lookup_elem(&daxfile_files, &key);
	return there && *there == generation;
}

static __always_inline bool guarded(struct inode *inode)
{
	return inode && in_filter(inode->i_ino) && (inode->i_mode & S_IFMT) == S_IFREG &&
	       in_files(inode->i_sb, inode->i_ino, inode->i_generation);
}

// The same for a kprobe, for which pointers are numbers.
static __always_inline bool is_of_guarded(struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u64 number = BPF_CORE_READ(inode, i_ino);

	return in_filter(number) && (BPF_CORE_READ(inode, i_mode) & S_IFMT) == S_IFREG &&
	       in_files(BPF_CORE_READ(inode, i_sb), number, BPF_CORE_READ(inode, i_generation));
}

static __always_inline bool on_guarded_filesystem(struct inode *inode)
{
	uuid_t filesystem = {};

	bpf_probe_read_kernel(&filesystem, sizeof filesystem, &inode->i_sb->s_uuid);
	return bpf_map_lookup_elem(&daxfile_fs, &filesystem);
}

static __always_inline struct intent *noted(void)
{
	__u64 task = bpf_get_current_task();

	return bpf_map_lookup_elem(&daxfile_intents, &task);
}

static __always_inline int note(struct intent *intends)
{
	__u64 task = bpf_get_current_task();

	bpf_map_update_elem(&daxfile_intents, &task, intends, BPF_ANY);
	return 0;
}

static __always_inline int forget(void)
{
	__u64 task = bpf_get_current_task();

	if (bpf_map_lookup_elem(&daxfile_intents, &task))
		bpf_map_delete_elem(&daxfile_intents, &task);
	return 0;
}

// On any processor, orders the reads before this call ahead of the reads after it.
#undef barrier
static __always_inline void barrier(void)
{
	__u64 anything = 0;

	__sync_lock_test_and_set(&anything, 1);
}

// Whether the task has CAP_SYS_ADMIN in the initial user namespace, as capable() checks it.
static __always_inline bool is_admin(void)
{
	const struct cred *cred = ((struct task_struct *)bpf_get_current_task_btf())->cred;
	__u64 effective = 0;

	bpf_probe_read_kernel(&effective, sizeof effective, &cred->cap_effective);
	return effective >> CAP_SYS_ADMIN & 1 && cred->user_ns->level == 0;
}

// Notes for file_permission()

static __always_inline int write(struct file *file, __s64 *position, __u64 count, __u32 flags)
{
	struct intent intends = { .file = (__u64)file, .count = count, .flags = flags, .what = WRITE };

	if (!is_of_guarded(file))
		return 0;
	// A position that cannot be read counts as outside of the file.
	if (bpf_probe_read_kernel(&intends.position, sizeof intends.position, position))
		intends.position = -1;
	return note(&intends);
}

SEC("kprobe/vfs_write")
int BPF_KPROBE(vfs_write, struct file *file, void *bytes, __u64 count, __s64 *position)
{
	return write(file, position, count, 0);
}

SEC("kprobe/kernel_write")
int BPF_KPROBE(kernel_write, struct file *file, void *bytes, __u64 count, __s64 *position)
{
	return write(file, position, count, 0);
}

SEC("kprobe/vfs_iter_write")
int BPF_KPROBE(vfs_iter_write, struct file *file, struct iov_iter *iter, __s64 *position, int flags)
{
	return write(file, position, BPF_CORE_READ(iter, count), flags);
}

// Before Linux 6.8, vfs_writev() and vfs_iter_write() call it.
SEC("kprobe/do_iter_write")
int BPF_KPROBE(do_iter_write, struct file *file, struct iov_iter *iter, __s64 *position, int flags)
{
	return write(file, position, BPF_CORE_READ(iter, count), flags);
}

SEC("kprobe/vfs_writev")
int BPF_KPROBE(vfs_writev, struct file *file, void *vector, unsigned long length, __s64 *position, int flags)
{
	struct intent intends = { .file = (__u64)file, .flags = flags, .what = GATHER };

	if (!is_of_guarded(file))
		return 0;
	if (bpf_probe_read_kernel(&intends.position, sizeof intends.position, position))
		intends.position = -1;
	return note(&intends);
}

SEC("kprobe/vfs_iocb_iter_write")
int BPF_KPROBE(vfs_iocb_iter_write, struct file *file, struct kiocb *kiocb, struct iov_iter *iter)
{
	struct intent intends = { .file = (__u64)file, .kiocb = (__u64)kiocb, .what = WRITE };

	if (!is_of_guarded(file))
		return 0;
	intends.count = BPF_CORE_READ(iter, count);
	return note(&intends);
}

SEC("kprobe/aio_write")
int BPF_KPROBE(aio_write, struct kiocb *kiocb, struct iocb *iocb, bool gathers)
{
	struct file *file = BPF_CORE_READ(kiocb, ki_filp);
	struct intent intends = { .file = (__u64)file, .kiocb = (__u64)kiocb, .what = gathers ? GATHER : WRITE };

	if (!is_of_guarded(file))
		return 0;
	intends.count = BPF_CORE_READ(iocb, aio_nbytes);
	return note(&intends);
}

// The kernel copies an array of buffers after the entry. The caller can make that take as long as it likes, and can
// change the array meanwhile. Only the call of rw_verify_area() has the length, so these programs attach to that
// instruction.
static __always_inline int gathered(struct pt_regs *ctx)
{
	struct intent *found = noted();

	if (!found || found->what != GATHER || found->file != PT_REGS_PARM2(ctx))
		return 0;
	// Works on a copy: the table may have given the entry to another task meanwhile.
	struct intent intends = *found;
	intends.count = PT_REGS_PARM4(ctx);
	intends.what = WRITE;
	return note(&intends);
}

SEC("kprobe")
int gathered_by_writev(struct pt_regs *ctx) { return gathered(ctx); }
SEC("kprobe")
int gathered_by_aio(struct pt_regs *ctx) { return gathered(ctx); }

// There a struct io_kiocb begins with a struct io_rw, and that with a struct kiocb.
SEC("kprobe/io_write")
int BPF_KPROBE(io_write, struct io_kiocb *request)
{
	struct file *file = BPF_CORE_READ(request, file);
	struct intent intends = {
		.file = (__u64)file, .kiocb = (__u64)request, .request = (__u64)request, .what = URING
	};

	return is_of_guarded(file) ? note(&intends) : 0;
}

// Splicing. Since Linux 6.8 the kernel asks once, with the count from the caller, before it knows how many bytes there
// are. If the position is that of the open file, the kernel reads it after this.

static __always_inline struct task_struct *current(void) { return (struct task_struct *)bpf_get_current_task(); }

// Whether only the current task refers to an open file.
static __always_inline bool is_alone(struct file *file)
{
	struct file___6_13 *newer = (void *)file;
	__s64 others = bpf_core_field_exists(newer->f_ref) ? BPF_CORE_READ(newer, f_ref.refcnt.counter) :
							     BPF_CORE_READ(file, f_count.counter) - 1;

	return others == 0 && BPF_CORE_READ(current(), files, count.counter) == 1;
}

static __always_inline int move(struct file *file, __s64 *position, __u64 count)
{
	struct intent intends = { .file = (__u64)file, .count = count, .received = received, .position = -1 };

	if (!is_of_guarded(file))
		return 0;
	intends.what = pieces_are_checked ? PIECES : position ? MOVE : SEEK;
	if (position)
		bpf_probe_read_kernel(&intends.position, sizeof intends.position, position);
	else if (is_alone(file))
		intends.position = BPF_CORE_READ(file, f_pos);
	return note(&intends);
}

static __always_inline struct file *opened_as(__u32 number)
{
	struct fdtable *table = BPF_CORE_READ(current(), files, fdt);
	struct file *file = NULL;

	if (number < BPF_CORE_READ(table, max_fds))
		bpf_probe_read_kernel(&file, sizeof file, BPF_CORE_READ(table, fd) + number);
	return file;
}

SEC("kprobe/do_splice")
int BPF_KPROBE(do_splice, struct file *in, __s64 *in_position, struct file *out, __s64 *position, __u64 count)
{
	return move(out, position, count);
}

// The descriptor may refer to another file by the time the kernel looks: remove the previous note in any case.
SEC("kprobe/do_sendfile")
int BPF_KPROBE(do_sendfile, int out, int in, __s64 *in_position, __u64 count)
{
	forget();
	return move(opened_as(out), NULL, count);
}

// Before Linux 6.8, the kernel asks again.
SEC("kprobe/do_splice_direct")
int BPF_KPROBE(do_splice_direct, struct file *in, __s64 *in_position, struct file *out, __s64 *position, __u64 count)
{
	return move(out, position, count);
}

SEC("lsm/file_receive")
int file_receive(unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];

	if (guarded(file->f_inode))
		__sync_fetch_and_add(&received, 1);
	return 0;
}

static __always_inline int share(struct file *from, struct file *to)
{
	struct intent intends = { .file = (__u64)from, .other = (__u64)to, .what = SHARE };

	return is_of_guarded(from) || is_of_guarded(to) ? note(&intends) : 0;
}

SEC("kprobe/vfs_clone_file_range")
int BPF_KPROBE(clone, struct file *from, __s64 from_position, struct file *to) { return share(from, to); }
// Before Linux 6.8, overlayfs calls it.
SEC("kprobe/do_clone_file_range")
int BPF_KPROBE(do_clone, struct file *from, __s64 from_position, struct file *to) { return share(from, to); }
SEC("kprobe/vfs_dedupe_file_range_one")
int BPF_KPROBE(dedupe, struct file *from, __s64 from_position, struct file *to) { return share(from, to); }

// With COPY_FILE_SPLICE, which nfsd passes, the kernel reads bytes and writes them.
SEC("kprobe/vfs_copy_file_range")
int BPF_KPROBE(copy, struct file *from, __s64 from_position, struct file *to, __s64 position, __u64 count)
{
	struct intent intends = { .file = (__u64)to, .position = position, .count = count, .what = WRITE };

	if (!(SIXTH(ctx) & COPY_FILE_SPLICE))
		return share(from, to);
	return is_of_guarded(to) ? note(&intends) : 0;
}

// If the call fails before file_permission(), its note must not reach the task's next read.
SEC("fexit/vfs_clone_file_range")
int clone_end(unsigned long long *ctx) { return forget(); }
SEC("fexit/do_clone_file_range")
int do_clone_end(unsigned long long *ctx) { return forget(); }
SEC("fexit/vfs_dedupe_file_range_one")
int dedupe_end(unsigned long long *ctx) { return forget(); }
SEC("fexit/vfs_copy_file_range")
int copy_end(unsigned long long *ctx) { return forget(); }

// It asks for write permission, and without a note the hook refuses it.
SEC("kprobe/vfs_fallocate") int BPF_KPROBE(vfs_fallocate, struct file *file)
{
	return is_of_guarded(file) ? forget() : 0;
}

// Hooks

static __always_inline int judge(struct intent *intends, struct file *file)
{
	__u64 position = intends->position, count = intends->count, size = file->f_inode->i_size;
	__u32 flags = intends->flags;
	struct kiocb *kiocb = (void *)intends->kiocb;
	struct io_kiocb *request = (void *)intends->request;

	if (kiocb) {
		position = BPF_CORE_READ(kiocb, ki_pos);
		flags |= BPF_CORE_READ(kiocb, ki_flags);
	}
	if (file->f_flags & O_APPEND)
		return -ETXTBSY;
	if (flags & (RWF_APPEND | RWF_ATOMIC))
		return -EOPNOTSUPP;
	if (intends->what == PIECES)
		return 0;
	if (intends->what == GATHER)
		return -ETXTBSY;
	if (intends->what == URING)
		count = BPF_CORE_READ(request, cqe.res);
	// Another task can have moved the position and moved it back, unless no other task has the file now, or had it
	// before.
	if (intends->what == SEEK &&
	    (!is_alone(file) || received != intends->received || file->f_pos != intends->position))
		return -EINVAL;
	if (position <= size && count <= size - position)
		return 0;
	// Fewer bytes may arrive, but that is not known here. On this error programs fall back to read(2) and write(2).
	return position < size && (intends->what == MOVE || intends->what == SEEK) ? -EINVAL : -ETXTBSY;
}

SEC("lsm/file_permission")
int file_permission(unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];
	int mask = ctx[1];
	if (!(mask & (MAY_READ | MAY_WRITE)) || !guarded(file->f_inode))
		return 0;
	struct intent *found = noted();
	if (!found)
		return mask & MAY_WRITE ? -ETXTBSY : 0;
	struct intent intends = *found;
	// The table may have given the entry to another task meanwhile. Then it is no longer this task's.
	barrier();
	if (noted() != found)
		return mask & MAY_WRITE ? -ETXTBSY : intends.what == SHARE ? -EOPNOTSUPP : 0;
	bool is_for_it = intends.file == (__u64)file || intends.other == (__u64)file;
	if (intends.what == SHARE && is_for_it) {
		forget();
		return -EOPNOTSUPP;
	}
	if (!(mask & MAY_WRITE))
		return 0;
	forget();
	return is_for_it ? judge(&intends, file) : -ETXTBSY;
}

// Allows truncation to the current size, which changes nothing in a file without blocks past its end: rsync(1)
// --inplace does this.
static __always_inline int resize(struct dentry *dentry, struct iattr *change)
{
	struct inode *inode = dentry->d_inode;

	return change->ia_valid & ATTR_SIZE && guarded(inode) && change->ia_size != inode->i_size ? -ETXTBSY : 0;
}

// Linux 6.3 put the mount's idmap before the other arguments.
SEC("lsm/inode_setattr")
int inode_setattr(unsigned long long *ctx) { return resize((struct dentry *)ctx[1], (struct iattr *)ctx[2]); }
SEC("lsm/inode_setattr")
int inode_setattr_old(unsigned long long *ctx) { return resize((struct dentry *)ctx[0], (struct iattr *)ctx[1]); }

// Since Linux 6.8 a write to a file of overlayfs, or of FUSE with passthrough, may reach the real file without any
// hook. Both open the real file without accounting for it (alloc_empty_file_noaccount(), alloc_empty_backing_file()).
SEC("lsm/file_open")
int file_open(unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];

	return file->f_mode & FMODE_WRITE && (file->f_flags & O_APPEND || file->f_mode & FMODE_NOACCOUNT) &&
			       guarded(file->f_inode) ?
		       -ETXTBSY :
		       0;
}

// Running calls remember whether a descriptor appends.
SEC("lsm/file_fcntl")
int file_fcntl(unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];

	return (__u32)ctx[1] == F_SETFL && (file->f_flags ^ ctx[2]) & O_APPEND && guarded(file->f_inode) ? -ETXTBSY : 0;
}

// The kernel itself writes to quota files.
SEC("lsm/quota_on")
int quota_on(unsigned long long *ctx) { return guarded(((struct dentry *)ctx[0])->d_inode) ? -ETXTBSY : 0; }

// Whether a loop device is about to receive a guarded file that is open for writing. Does not see what a thread with
// the same memory or descriptors changes meanwhile.
static __always_inline bool is_for_loop(struct file *device, unsigned long argument, bool in_memory)
{
	__u32 number = argument;

	if ((device->f_inode->i_mode & S_IFMT) != S_IFBLK || device->f_inode->i_rdev >> MINOR_BITS != LOOP_MAJOR)
		return false;
	if (in_memory && bpf_probe_read_user(&number, sizeof number, (void *)argument))
		return false;
	struct file *file = opened_as(number);
	return file && BPF_CORE_READ(file, f_mode) & FMODE_WRITE && is_of_guarded(file);
}

// An ioctl number without the size of the argument, which differs for 32-bit programs.
#define IOC(type, number) ((type) << 8 | (number))

static __always_inline int control(unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];
	bool alive = false;

	if ((file->f_inode->i_mode & S_IFMT) == S_IFREG && on_guarded_filesystem(file->f_inode)) {
		struct intent *intends = noted();
		alive = intends && intends->file == (__u64)file;
		forget();
	}
	switch ((__u16)ctx[1]) {
	case IOC('L', 0): // LOOP_SET_FD
	case IOC('L', 6): // LOOP_CHANGE_FD
		return is_for_loop(file, ctx[2], false) ? -ETXTBSY : 0;
	case IOC('L', 10): // LOOP_CONFIGURE
		return is_for_loop(file, ctx[2], true) ? -ETXTBSY : 0;
	case IOC('X',
		 109): // XFS_IOC_SWAPEXT tells both files in memory, and may be made on another filesystem than theirs.
		return file->f_inode->i_sb->s_magic == XFS_MAGIC ? -ETXTBSY : 0;
	case IOC('f', 15): // EXT4_IOC_MOVE_EXT names the donor in memory.
		return on_guarded_filesystem(file->f_inode) ? -ETXTBSY : 0;
	case IOC(0xf5, 9): // F2FS_IOC_MOVE_RANGE names the destination in memory.
		return on_guarded_filesystem(file->f_inode) ? -ETXTBSY : 0;
	case IOC(0xf5, 1):    // F2FS_IOC_START_ATOMIC_WRITE
	case IOC(0xf5, 8):    // F2FS_IOC_DEFRAGMENT
	case IOC(0xf5, 13):   // F2FS_IOC_SET_PIN_FILE
	case IOC(0xf5, 18):   // F2FS_IOC_RELEASE_COMPRESS_BLOCKS
	case IOC(0xf5, 19):   // F2FS_IOC_RESERVE_COMPRESS_BLOCKS
	case IOC(0xf5, 22):   // F2FS_IOC_SET_COMPRESS_OPTION
	case IOC(0xf5, 23):   // F2FS_IOC_DECOMPRESS_FILE
	case IOC(0xf5, 24):   // F2FS_IOC_COMPRESS_FILE
	case IOC(0xf5, 25):   // F2FS_IOC_START_ATOMIC_REPLACE
	case IOC('X', 129):   // XFS_IOC_EXCHANGE_RANGE
	case IOC('X', 131):   // XFS_IOC_COMMIT_RANGE
	case IOC('f', 17):    // EXT4_IOC_SWAP_BOOT
	case IOC('f', 9):     // EXT4_IOC_MIGRATE
	case IOC('f', 4):     // EXT4_IOC_SETVERSION
	case IOC('v', 2):     // FS_IOC_SETVERSION
	case IOC('f', 133):   // FS_IOC_ENABLE_VERITY
	case IOC(0xda, 0xf1): // libdaxfile's query whether the guard has the file
		return guarded(file->f_inode) ? -ETXTBSY : 0;
	case IOC(
		0xda,
		0xf2): // and whether the kprobes are at work: the last one has left a note of a write that came to nothing
		return alive && guarded(file->f_inode) ? -ETXTBSY : 0;
	}
	return 0;
}

SEC("lsm/file_ioctl")
int file_ioctl(unsigned long long *ctx) { return control(ctx); }
// Linux 6.8 has this hook, and so have stable kernels since. Before that, the kernel calls the other hook for 32-bit
// programs, too.
SEC("lsm/file_ioctl_compat")
int file_ioctl_compat(unsigned long long *ctx) { return control(ctx); }

// Before Linux 6.11, and where bpf is among the LSMs, the kernel itself does not check for CAP_SYS_ADMIN
// (security_inode_removexattr()).

static __always_inline int record(unsigned long long *ctx)
{
	__u64 name[3] = {};

	bpf_probe_read_kernel_str(name, sizeof name, (void *)ctx[2]);
	// "security.daxfile.pin"
	return name[0] == 0x7974697275636573 && name[1] == 0x656c69667861642e && name[2] == 0x6e69702e && !is_admin() ?
		       -EPERM :
		       0;
}

SEC("lsm/inode_setxattr")
int inode_setxattr(unsigned long long *ctx) { return record(ctx); }
SEC("lsm/inode_removexattr")
int inode_removexattr(unsigned long long *ctx) { return record(ctx); }

// The guard's own pins: /sys/fs/bpf/daxfile/NAME and /sys/fs/bpf/daxfile/BUILD/NAME.

static __always_inline bool is_named_daxfile(struct dentry *dentry)
{
	char name[8] = {};

	bpf_probe_read_kernel_str(name, sizeof name, dentry->d_name.name);
	return *(__u64 *)name == 0x656c6966786164; // "daxfile"
}

static __always_inline bool is_own(struct dentry *dentry)
{
	struct dentry *parent = dentry->d_parent;

	return parent->d_inode->i_sb->s_magic == BPF_FS_MAGIC &&
	       (is_named_daxfile(dentry) || is_named_daxfile(parent) || is_named_daxfile(parent->d_parent));
}

static __always_inline int remove(struct dentry *dentry)
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

// The helpers that read kernel memory are only for programs under the GPL.
char LICENSE[] SEC("license") = "Dual MIT/GPL";
