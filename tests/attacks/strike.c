// strike make SHAPE FILE OTHER
// strike facts FILE...
// strike path|ro|rw|map|loop|sent OPERATION FILE OTHER [BLOCK]
//
// The last opens FILE (not by `path`: that happens later), says "ready", waits for a line, does OPERATION, at BLOCK if
// that matters, and says "done", or the call that was refused: "refused CALL ERRNO".
#define _GNU_SOURCE
#include <xfs/xfs.h>

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/f2fs.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fsverity.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <linux/loop.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/quota.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

// Newer than the headers of Debian 12.
enum {
	NOAPPEND = 0x20,      // RWF_NOAPPEND
	ATOMIC = 0x40,	      // RWF_ATOMIC
	DONTCACHE = 0x80,     // RWF_DONTCACHE
	WRITE_ZEROES = 0x80,  // FALLOC_FL_WRITE_ZEROES
	URING_FTRUNCATE = 55, // IORING_OP_FTRUNCATE
};
struct exchange_range { // struct xfs_exchange_range
	int32_t other;
	uint32_t pad;
	uint64_t other_offset, offset, length, flags;
};
struct commit_range { // struct xfs_commit_range
	int32_t other;
	uint32_t pad;
	uint64_t other_offset, offset, length, flags, freshness[6];
};
#define EXCHANGE_RANGE _IOW('X', 129, struct exchange_range)
#define START_COMMIT _IOR('X', 130, struct commit_range)
#define COMMIT_RANGE _IOW('X', 131, struct commit_range)
struct move_extent {
	uint32_t reserved, donor;
	uint64_t start, donor_start, length, moved;
};
#define MOVE_EXT _IOWR('f', 15, struct move_extent)
#define MIGRATE _IO('f', 9)
#define SET_GENERATION _IOW('f', 4, long)
#define SWAP_BOOT _IO('f', 17)

enum { BLOCK = 4096, BLOCKS = 64, SIZE = BLOCK * BLOCKS };

// The arguments that an operation needs.
enum {
	NAME = -1,
	MAP = -2,
	LOOP = -3,
	OLD_LOOP = -4, // by LOOP_SET_FD
	HANDLE = -5,
	OVERLAY = -6,
	APPENDING_OVERLAY = -7,
	PASSTHROUGH = -8,
	ACCT = -9,
};

static int fd = -1;
static char *map;
static char device[32];
static const char *file, *other;
static off_t at = 4 * BLOCK;
static char *bytes;

// The test's environment is wrong.
static void die(const char *call) { err(2, "%s", call); }

static void refused(const char *call)
{
	printf("refused %s %s\n", call, strerrorname_np(errno));
	exit(0);
}

static void try(const char *call, long result)
{
	if (result < 0)
		refused(call);
}

// A short write was not refused either; other programs see its effect.
static void wrote(const char *call, ssize_t result)
{
	try(call, result);
	if (result == 0)
		errx(2, "%s wrote nothing", call);
}

static int must_open(const char *path, int flags)
{
	int opened = open(path, flags | O_CLOEXEC, 0644);
	if (opened < 0)
		die(path);
	return opened;
}

static void seek(int to, off_t offset, int whence)
{
	if (lseek(to, offset, whence) < 0)
		die("lseek");
}

// A pipe with a block in it, by vmsplice if `pages`.
static void fill_pipe(int ends[2], bool pages)
{
	struct iovec vector = { bytes, BLOCK };
	if (pipe(ends) || (pages ? vmsplice(ends[1], &vector, 1, 0) : write(ends[1], bytes, BLOCK)) != BLOCK)
		die("pipe");
}

static void bus(int number)
{
	static const char said[] = "refused store SIGBUS\n";
	_exit(write(1, said, sizeof said - 1) < 0);
}

// The file's name, or the name of its descriptor if only that was taken.
static const char *name(void)
{
	static char link[32];
	if (fd < 0)
		return file;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	return link;
}

// A name beside the file's.
static const char *beside(const char *suffix)
{
	static char path[4096];
	snprintf(path, sizeof path, "%s%s", file, suffix);
	return path;
}

// io_uring and aio without their libraries.

static int ring(struct io_uring_sqe *entry)
{
	struct io_uring_params p = { 0 };
	int uring = syscall(SYS_io_uring_setup, 4, &p);
	if (uring < 0)
		die("io_uring_setup");
	char *sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, uring,
			IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE,
			MAP_SHARED, uring, IORING_OFF_CQ_RING);
	struct io_uring_sqe *entries =
		mmap(NULL, p.sq_entries * sizeof *entry, PROT_READ | PROT_WRITE, MAP_SHARED, uring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || entries == MAP_FAILED)
		die("mmap of io_uring");
	if (entry->opcode == IORING_OP_WRITE_FIXED) {
		struct iovec buffer = { bytes, SIZE };
		if (syscall(SYS_io_uring_register, uring, IORING_REGISTER_BUFFERS, &buffer, 1) ||
		    syscall(SYS_io_uring_register, uring, IORING_REGISTER_FILES, &entry->fd, 1))
			die("io_uring_register");
		entry->fd = 0;
		entry->flags |= IOSQE_FIXED_FILE;
	}
	entries[0] = *entry;
	((unsigned *)(sq + p.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, uring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		die("io_uring_enter");
	int result = ((struct io_uring_cqe *)(cq + p.cq_off.cqes))[0].res;
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

static int uring(int opcode, off_t offset, uint64_t length, int flags)
{
	struct io_uring_sqe entry = {
		.opcode = opcode, .fd = fd, .off = offset, .addr = (uintptr_t)bytes, .len = length, .rw_flags = flags
	};
	return ring(&entry);
}

static long submit(struct iocb *block)
{
	aio_context_t context = 0;
	struct io_event event;
	if (syscall(SYS_io_setup, 1, &context))
		die("io_setup");
	if (syscall(SYS_io_submit, context, 1, &block) != 1)
		return -1;
	if (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
		die("io_getevents");
	if (event.res >= 0)
		return event.res;
	errno = -event.res;
	return -1;
}

static long aio(off_t offset, size_t length, int flags)
{
	struct iocb block = { .aio_lio_opcode = IOCB_CMD_PWRITE,
			      .aio_fildes = fd,
			      .aio_buf = (uintptr_t)bytes,
			      .aio_nbytes = length,
			      .aio_offset = offset,
			      .aio_rw_flags = flags };
	return submit(&block);
}

static ssize_t write_at(off_t offset, size_t length, int flags)
{
	struct iovec vector = { bytes, length };
	return flags < 0 ? pwrite(fd, bytes, length, offset) : syscall(SYS_pwritev2, fd, &vector, 1, offset, 0, flags);
}

static ssize_t splice_at(off_t offset, bool pages)
{
	int ends[2];
	fill_pipe(ends, pages);
	return splice(ends[0], NULL, fd, &offset, BLOCK, 0);
}

static ssize_t send_at(off_t offset)
{
	int from = must_open(other, O_RDONLY);
	seek(fd, offset, SEEK_SET);
	return sendfile(fd, from, NULL, BLOCK);
}

// From two buffers.

static struct iovec halves[2];

static struct iovec *in_halves(size_t length)
{
	halves[0] = (struct iovec){ bytes, length / 2 };
	halves[1] = (struct iovec){ bytes + length / 2, length - length / 2 };
	return halves;
}

static long aio_vector(off_t offset, struct iovec *vector)
{
	struct iocb block = { .aio_lio_opcode = IOCB_CMD_PWRITEV,
			      .aio_fildes = fd,
			      .aio_buf = (uintptr_t)vector,
			      .aio_nbytes = 2,
			      .aio_offset = offset };
	return submit(&block);
}

static int uring_vector(off_t offset, struct iovec *vector)
{
	struct io_uring_sqe entry = {
		.opcode = IORING_OP_WRITEV, .fd = fd, .off = offset, .addr = (uintptr_t)vector, .len = 2
	};
	return ring(&entry);
}

// Memory that a read of waits until `meanwhile` has been called.

struct stall {
	int faults;
	// A page may be larger than a block.
	size_t size;
	char *page, *contents;
	void (*meanwhile)(void);
	pthread_t thread;
};

static void *serve(void *argument)
{
	struct stall *stall = argument;
	struct uffd_msg message;
	if (read(stall->faults, &message, sizeof message) != sizeof message)
		die("userfaultfd");
	stall->meanwhile();
	struct uffdio_copy copy = { .dst = (uintptr_t)stall->page,
				    .src = (uintptr_t)stall->contents,
				    .len = stall->size };
	if (ioctl(stall->faults, UFFDIO_COPY, &copy))
		die("UFFDIO_COPY");
	return NULL;
}

static void stall_at(struct stall *stall, void (*meanwhile)(void))
{
	struct uffdio_api api = { .api = UFFD_API };
	stall->size = sysconf(_SC_PAGESIZE);
	stall->page = mmap(NULL, stall->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stall->contents = aligned_alloc(stall->size, stall->size);
	stall->meanwhile = meanwhile;
	stall->faults = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_register range = { .range = { (uintptr_t)stall->page, stall->size },
					 .mode = UFFDIO_REGISTER_MODE_MISSING };
	if (stall->page == MAP_FAILED || stall->faults < 0 || ioctl(stall->faults, UFFDIO_API, &api) ||
	    ioctl(stall->faults, UFFDIO_REGISTER, &range) || pthread_create(&stall->thread, NULL, serve, stall))
		die("userfaultfd");
}

// The other file of a reflink, as its source or its destination.
static int partner(int flags) { return must_open(other, flags); }

static void clone_range(int from, int to)
{
	struct file_clone_range range = { from, at, 4 * BLOCK, at };
	try("FICLONERANGE", ioctl(to, FICLONERANGE, &range));
}

static void same_contents(int from, int to)
{
	char *copy = malloc(SIZE);
	if (pread(from, copy, SIZE, 0) != SIZE || pwrite(to, copy, SIZE, 0) != SIZE || fsync(to))
		die(other);
}

static void dedupe(int from, int to)
{
	struct {
		struct file_dedupe_range range;
		struct file_dedupe_range_info info;
	} both = { { .src_offset = at, .src_length = 4 * BLOCK, .dest_count = 1 },
		   { .dest_fd = to, .dest_offset = at } };
	try("FIDEDUPERANGE", ioctl(from, FIDEDUPERANGE, &both));
	if (both.info.status > 0)
		errx(2, "FIDEDUPERANGE: contents differ");
	errno = -both.info.status;
	try("FIDEDUPERANGE", both.info.status);
}

static void copy(int from, int to, off_t offset)
{
	off_t begin = at;
	try("copy_file_range", copy_file_range(from, &begin, to, &offset, 4 * BLOCK, 0));
}

static void swap_extents(int target, int donor)
{
	struct xfs_swapext swap = {
		.sx_version = XFS_SX_VERSION, .sx_fdtarget = target, .sx_fdtmp = donor, .sx_length = SIZE
	};
	struct xfs_fsop_bulkreq request = { .icount = 1, .ubuffer = &swap.sx_stat };
	struct stat st;
	if (fstat(target, &st))
		die("fstat");
	__u64 inode = st.st_ino;
	request.lastip = &inode;
	try("XFS_IOC_FSBULKSTAT_SINGLE", ioctl(target, XFS_IOC_FSBULKSTAT_SINGLE, &request));
	try("XFS_IOC_SWAPEXT", ioctl(target, XFS_IOC_SWAPEXT, &swap));
}

static void exchange(int first, int second)
{
	struct exchange_range range = { .other = second, .length = SIZE };
	try("XFS_IOC_EXCHANGE_RANGE", ioctl(first, EXCHANGE_RANGE, &range));
}

static void move_extents(int origin, int donor)
{
	struct move_extent move = { .donor = donor, .length = BLOCKS };
	try("EXT4_IOC_MOVE_EXT", ioctl(origin, MOVE_EXT, &move));
}

static void set_xattr(uint32_t set, uint32_t extent, uint32_t cow, uint32_t project)
{
	struct fsxattr x;
	try("FS_IOC_FSGETXATTR", ioctl(fd, FS_IOC_FSGETXATTR, &x));
	x.fsx_xflags |= set;
	x.fsx_extsize = extent ?: x.fsx_extsize;
	x.fsx_cowextsize = cow ?: x.fsx_cowextsize;
	x.fsx_projid = project ?: x.fsx_projid;
	try("FS_IOC_FSSETXATTR", ioctl(fd, FS_IOC_FSSETXATTR, &x));
}

static void set_flags(int set, int clear)
{
	int flags;
	try("FS_IOC_GETFLAGS", ioctl(fd, FS_IOC_GETFLAGS, &flags));
	flags = (flags | set) & ~clear;
	try("FS_IOC_SETFLAGS", ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

static void range_ioctl(const char *call, unsigned long request, off_t start)
{
	struct xfs_flock64 range = { .l_whence = SEEK_SET, .l_start = start, .l_len = 4 * BLOCK };
	try(call, ioctl(fd, request, &range));
}

static void fallocated(int mode, off_t offset) { try("fallocate", fallocate(fd, mode, offset, 4 * BLOCK)); }

static void device_range(unsigned long request)
{
	uint64_t range[2] = { at, 4 * BLOCK };
	int disk = must_open(device, O_RDWR);
	try("ioctl of the loop device", ioctl(disk, request, range));
	if (fsync(disk))
		die("fsync of the loop device");
}

// The operations.

static void ftruncate_shrink(void) { try("ftruncate", ftruncate(fd, SIZE / 2)); }
static void ftruncate_grow(void) { try("ftruncate", ftruncate(fd, SIZE * 2)); }
static void uring_ftruncate(void)
{
	struct io_uring_sqe entry = { .opcode = URING_FTRUNCATE, .fd = fd, .off = SIZE / 2 };
	try("io_uring ftruncate", ring(&entry));
}
static void truncate_shrink(void) { try("truncate", truncate(name(), SIZE / 2)); }
static void truncate_grow(void) { try("truncate", truncate(name(), SIZE * 2)); }
static void open_trunc(void) { try("open", open(name(), O_RDWR | O_TRUNC)); }
static void reopen(void)
{
	fd = open(name(), O_RDWR);
	try("open", fd);
	wrote("pwrite", write_at(at, BLOCK, -1));
}

static void in_place(void) { wrote("pwrite", write_at(at, BLOCK, -1)); }
static void in_part(void) { wrote("pwrite", write_at(at + 100, 1000, -1)); }
static void write_whole(void) { wrote("pwrite", write_at(0, SIZE, -1)); }
static void aio_in_place(void) { wrote("io_submit", aio(at, BLOCK, 0)); }
static void uring_in_place(void) { wrote("io_uring write", uring(IORING_OP_WRITE, at, BLOCK, 0)); }
static void uring_fixed(void) { wrote("io_uring write", uring(IORING_OP_WRITE_FIXED, at, BLOCK, 0)); }
static void splice_in_place(void) { wrote("splice", splice_at(at, false)); }
static void vmsplice_in_place(void) { wrote("splice", splice_at(at, true)); }
static void sendfile_in_place(void) { wrote("sendfile", send_at(at)); }

static void past_end(void) { wrote("pwrite", write_at(SIZE, BLOCK, -1)); }
static void across_end(void) { wrote("pwrite", write_at(SIZE - BLOCK, 2 * BLOCK, -1)); }
static void far_past_end(void) { wrote("pwrite", write_at(4 * SIZE, BLOCK, -1)); }
static void aio_past_end(void) { wrote("io_submit", aio(SIZE, BLOCK, 0)); }
static void uring_past_end(void) { wrote("io_uring write", uring(IORING_OP_WRITE, SIZE, BLOCK, 0)); }
static void splice_past_end(void) { wrote("splice", splice_at(SIZE, false)); }
static void sendfile_past_end(void) { wrote("sendfile", send_at(SIZE)); }

static void rwf_append(void) { wrote("pwritev2", write_at(0, BLOCK, RWF_APPEND)); }
static void rwf_atomic(void) { wrote("pwritev2", write_at(at, BLOCK, ATOMIC)); }
static void rwf_dsync(void) { wrote("pwritev2", write_at(at, BLOCK, RWF_DSYNC)); }
static void rwf_sync(void) { wrote("pwritev2", write_at(at, BLOCK, RWF_SYNC)); }
static void rwf_hipri(void) { wrote("pwritev2", write_at(at, BLOCK, RWF_HIPRI)); }
static void rwf_dontcache(void) { wrote("pwritev2", write_at(at, BLOCK, DONTCACHE)); }
static void rwf_noappend(void) { wrote("pwritev2", write_at(at, BLOCK, NOAPPEND)); }
// A new time of the last write would have to wait for the journal, so it says EAGAIN unless the time is new already.
static void rwf_nowait(void)
{
	for (int i = 0; i < 1000; i++) {
		wrote("pwrite", write_at(at, BLOCK, -1));
		if (write_at(at + BLOCK, BLOCK, RWF_NOWAIT) > 0)
			return;
		if (errno != EAGAIN)
			refused("pwritev2");
	}
	refused("pwritev2");
}
static void aio_append(void) { wrote("io_submit", aio(0, BLOCK, RWF_APPEND)); }
static void uring_append(void) { wrote("io_uring write", uring(IORING_OP_WRITE, 0, BLOCK, RWF_APPEND)); }
static void uring_atomic(void) { wrote("io_uring write", uring(IORING_OP_WRITE, at, BLOCK, ATOMIC)); }
static void appending(void) { wrote("write", write(fd, bytes, BLOCK)); }
static void setfl_append(void)
{
	try("F_SETFL", fcntl(fd, F_SETFL, O_APPEND));
	appending();
}

static void setfl_clear(void)
{
	try("F_SETFL", fcntl(fd, F_SETFL, 0));
	wrote("pwrite", write_at(at, BLOCK, -1));
}
static void writev_in_place(void) { wrote("pwritev", pwritev(fd, in_halves(BLOCK), 2, at)); }
static void writev_past_end(void) { wrote("pwritev", pwritev(fd, in_halves(2 * BLOCK), 2, SIZE - BLOCK)); }
static void aio_writev_in_place(void) { wrote("io_submit", aio_vector(at, in_halves(BLOCK))); }
static void aio_writev_past_end(void) { wrote("io_submit", aio_vector(SIZE - BLOCK, in_halves(2 * BLOCK))); }
static void uring_writev_in_place(void) { wrote("io_uring writev", uring_vector(at, in_halves(BLOCK))); }
static void uring_writev_past_end(void) { wrote("io_uring writev", uring_vector(SIZE - BLOCK, in_halves(2 * BLOCK))); }

// The flag is copied before the kernel waits for the array of buffers.
static void stop_appending(void) { fcntl(fd, F_SETFL, 0); }
static void aio_stalled(void)
{
	struct stall stall;
	stall_at(&stall, stop_appending);
	memcpy(stall.contents, in_halves(BLOCK), sizeof halves);
	wrote("io_submit", aio_vector(0, (struct iovec *)stall.page));
}
// The array is another one once the kernel has begun.
static void lengthen(void) {}
static void writev_stalled(void)
{
	struct stall stall;
	stall_at(&stall, lengthen);
	memcpy(stall.contents, in_halves(2 * BLOCK), sizeof halves);
	wrote("pwritev", pwritev(fd, (struct iovec *)stall.page, 2, SIZE - BLOCK));
}

// Two threads: one writes, the other meanwhile changes the data or the target of the write.

enum { SECONDS = 8 };
static volatile bool over;

// One store per round: an emulated processor may switch tasks between rounds only.
static void *flip_length(void *none)
{
	volatile size_t *length = &halves[1].iov_len;
	while (!over)
		*length ^= 2 * BLOCK ^ BLOCK / 2;
	return NULL;
}

static void *flip_position(void *none)
{
	while (!over) {
		lseek(fd, SIZE, SEEK_SET);
		lseek(fd, 0, SEEK_SET);
	}
	return NULL;
}

static void *flip_append(void *none)
{
	while (!over) {
		fcntl(fd, F_SETFL, O_APPEND);
		fcntl(fd, F_SETFL, 0);
	}
	return NULL;
}

static ssize_t write_vector(void) { return pwritev(fd, halves, 2, SIZE - BLOCK); }
static ssize_t splice_here(void)
{
	static int ends[2];
	if (ends[1] == 0 && pipe2(ends, O_NONBLOCK))
		die("pipe");
	if (write(ends[1], bytes, BLOCK) < 0 && errno != EAGAIN)
		die("pipe");
	ssize_t sent = splice(ends[0], NULL, fd, NULL, BLOCK, 0);
	return sent < 0 && errno == EINVAL ? write(fd, bytes, read(ends[0], bytes, BLOCK)) : sent;
}
static ssize_t send_here(void)
{
	static int from = -1;
	off_t begin = 0;
	if (from < 0)
		from = must_open(other, O_RDONLY);
	ssize_t sent = sendfile(fd, from, &begin, BLOCK);
	return sent < 0 && errno == EINVAL ? write(fd, bytes, BLOCK) : sent;
}
static ssize_t write_begin(void) { return pwrite(fd, bytes, BLOCK, 0); }

// One refusal counts as refused; other programs see the effect of earlier writes.
static void race(const char *call, void *(*flip)(void *), ssize_t (*act)(void))
{
	pthread_t other;
	int last = 0, done = 0;
	in_halves(BLOCK);
	over = false;
	if (pthread_create(&other, NULL, flip, NULL))
		die("pthread_create");
	struct stat st = { 0 };
	time_t end = time(NULL) + SECONDS;
	while (time(NULL) < end && st.st_size <= SIZE) {
		if (act() > 0)
			done++;
		else
			last = errno;
		if (fstat(fd, &st))
			die("fstat");
	}
	over = true;
	pthread_join(other, NULL);
	errno = last;
	if (last && st.st_size <= SIZE)
		refused(call);
	if (!done)
		errx(2, "%s did nothing", call);
}
static void race_vector(void) { race("pwritev", flip_length, write_vector); }
static void race_splice(void) { race("splice", flip_position, splice_here); }
static void race_sendfile(void) { race("sendfile", flip_position, send_here); }
static void race_append(void) { race("pwrite", flip_append, write_begin); }

static void splice_from(off_t offset, int whence)
{
	int ends[2];
	fill_pipe(ends, false);
	seek(fd, offset, whence);
	wrote("splice", splice(ends[0], NULL, fd, NULL, BLOCK, 0));
}
static void splice_position(void) { splice_from(at, SEEK_SET); }
static void splice_position_end(void) { splice_from(0, SEEK_END); }
// Like programs that read and write where the kernel says EINVAL: see sendfile(2).
static void send_short(void)
{
	int from = must_open(other, O_RDONLY);
	seek(from, SIZE - BLOCK, SEEK_SET);
	seek(fd, SIZE - 2 * BLOCK, SEEK_SET);
	ssize_t sent = sendfile(fd, from, NULL, 4 * BLOCK);
	if (sent < 0 && errno == EINVAL) {
		sent = read(from, bytes, 4 * BLOCK);
		sent = write(fd, bytes, sent);
	}
	wrote("sendfile", sent);
}
static void splice_short(void)
{
	int ends[2];
	off_t offset = SIZE - 2 * BLOCK;
	fill_pipe(ends, false);
	close(ends[1]);
	ssize_t sent = splice(ends[0], NULL, fd, &offset, 4 * BLOCK, 0);
	if (sent < 0 && errno == EINVAL) {
		sent = read(ends[0], bytes, 4 * BLOCK);
		sent = pwrite(fd, bytes, sent, offset);
	}
	wrote("splice", sent);
}
static void send_beyond(void)
{
	int from = must_open(other, O_RDONLY);
	seek(fd, SIZE - BLOCK, SEEK_SET);
	ssize_t sent = sendfile(fd, from, NULL, 4 * BLOCK);
	if (sent < 0 && errno == EINVAL)
		sent = write(fd, bytes, 4 * BLOCK);
	wrote("sendfile", sent);
}

// A write that fails before any security module is asked for it, and then something else.
static void leave_note(void)
{
	if (pwrite(fd, (void *)-4096L, BLOCK, 0) >= 0 || errno != EFAULT)
		die("pwrite");
}

static void store(void)
{
	memcpy(map + at, bytes, BLOCK);
	if (msync(map, SIZE, MS_SYNC))
		refused("msync");
}
static void read_into(void)
{
	int from = partner(O_RDONLY);
	try("read", pread(from, map + at, BLOCK, 0));
}
static void direct_read_into(void)
{
	int from = partner(O_RDONLY | O_DIRECT);
	try("read", pread(from, map + at, BLOCK, 0));
}
static void by_proc_mem(void)
{
	int memory = must_open("/proc/self/mem", O_RDWR);
	wrote("write to /proc/self/mem", pwrite(memory, bytes, BLOCK, (off_t)(uintptr_t)(map + at)));
}
static void populate_write(void) { try("MADV_POPULATE_WRITE", madvise(map + at, BLOCK, MADV_POPULATE_WRITE)); }
static void madv_remove(void) { try("MADV_REMOVE", madvise(map + at, 4 * BLOCK, MADV_REMOVE)); }

static void alloc_beyond(void) { fallocated(0, SIZE); }
static void keep_beyond(void) { fallocated(FALLOC_FL_KEEP_SIZE, SIZE); }
static void alloc_within(void) { fallocated(0, at); }
static void punch(void) { fallocated(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at); }
static void zero(void) { fallocated(FALLOC_FL_ZERO_RANGE, at); }
static void zero_keep(void) { fallocated(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, SIZE); }
static void clone_onto(void);
static void punch_noted(void)
{
	leave_note();
	punch();
}
static void clone_noted(void)
{
	leave_note();
	clone_onto();
}
static void collapse(void) { fallocated(FALLOC_FL_COLLAPSE_RANGE, at); }
static void insert(void) { fallocated(FALLOC_FL_INSERT_RANGE, at); }
static void unshare_range(void) { fallocated(FALLOC_FL_UNSHARE_RANGE, at); }
static void write_zeroes(void) { fallocated(WRITE_ZEROES, at); }
static void uring_punch(void)
{
	struct io_uring_sqe entry = { .opcode = IORING_OP_FALLOCATE,
				      .fd = fd,
				      .off = at,
				      .addr = 4 * BLOCK,
				      .len = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
	try("io_uring fallocate", ring(&entry));
}
static void resvsp(void) { range_ioctl("XFS_IOC_RESVSP64", XFS_IOC_RESVSP64, at); }
static void unresvsp(void) { range_ioctl("XFS_IOC_UNRESVSP64", XFS_IOC_UNRESVSP64, at); }
static void zero_ioctl(void) { range_ioctl("XFS_IOC_ZERO_RANGE", XFS_IOC_ZERO_RANGE, at); }

static void clone_onto(void) { try("FICLONE", ioctl(fd, FICLONE, partner(O_RDONLY))); }
static void clone_from(void) { try("FICLONE", ioctl(partner(O_RDWR), FICLONE, fd)); }
static void clone_range_onto(void) { clone_range(partner(O_RDONLY), fd); }
static void clone_range_from(void) { clone_range(fd, partner(O_RDWR)); }
static void dedupe_onto(void)
{
	int from = partner(O_RDWR);
	same_contents(fd, from);
	dedupe(from, fd);
}
static void dedupe_from(void)
{
	int to = partner(O_RDWR);
	same_contents(fd, to);
	dedupe(fd, to);
}
static void copy_onto(void) { copy(partner(O_RDONLY), fd, at); }
static void copy_past_end(void) { copy(partner(O_RDONLY), fd, SIZE); }
static void copy_from(void) { copy(fd, partner(O_RDWR), at); }

static void swapext_target(void) { swap_extents(fd, partner(O_RDWR)); }
static void swapext_donor(void) { swap_extents(partner(O_RDWR), fd); }
static void exchange_first(void) { exchange(fd, partner(O_RDWR)); }
static void exchange_second(void) { exchange(partner(O_RDWR), fd); }
static void exchange_noted(void)
{
	leave_note();
	exchange(partner(O_RDWR), fd);
}
static void change_profile(const char *name)
{
	char change[64];
	int attribute = must_open("/proc/self/attr/apparmor/current", O_WRONLY);
	int length = snprintf(change, sizeof change, "changeprofile %s", name);
	if (write(attribute, change, length) != length)
		die("changeprofile");
	close(attribute);
}
// AppArmor refuses a write to the file while the program has its second profile.
static void exchange_denied(void)
{
	int donor = partner(O_RDWR);
	change_profile("daxfile-denied");
	if (pwrite(fd, bytes, BLOCK, 0) >= 0 || errno != EACCES)
		die("pwrite");
	change_profile("daxfile-allowed");
	exchange(donor, fd);
}
static void commit(int first, int second)
{
	struct commit_range range;
	try("XFS_IOC_START_COMMIT", ioctl(first, START_COMMIT, &range));
	range.other = second;
	range.other_offset = range.offset = range.flags = 0;
	range.length = SIZE;
	try("XFS_IOC_COMMIT_RANGE", ioctl(first, COMMIT_RANGE, &range));
}
static void commit_first(void) { commit(fd, partner(O_RDWR)); }
static void commit_second(void) { commit(partner(O_RDWR), fd); }
static void move_origin(void) { move_extents(fd, partner(O_RDWR)); }
static void move_donor(void) { move_extents(partner(O_RDWR), fd); }
static void swap_boot(void) { try("EXT4_IOC_SWAP_BOOT", ioctl(fd, SWAP_BOOT)); }
static void migrate(void) { try("EXT4_IOC_MIGRATE", ioctl(fd, MIGRATE)); }
static void set_generation(void)
{
	int generation = 4711;
	try("EXT4_IOC_SETVERSION", ioctl(fd, SET_GENERATION, &generation));
}
static void enable_verity(void)
{
	struct fsverity_enable_arg enable = { .version = 1,
					      .hash_algorithm = FS_VERITY_HASH_ALG_SHA256,
					      .block_size = BLOCK };
	try("FS_IOC_ENABLE_VERITY", ioctl(fd, FS_IOC_ENABLE_VERITY, &enable));
}
static void free_eofblocks(void)
{
	struct xfs_fs_eofblocks all = { .eof_version = XFS_EOFBLOCKS_VERSION, .eof_flags = XFS_EOF_FLAGS_SYNC };
	if (syncfs(fd))
		die("syncfs");
	try("XFS_IOC_FREE_EOFBLOCKS", ioctl(fd, XFS_IOC_FREE_EOFBLOCKS, &all));
}

static void set_extsize(void) { set_xattr(FS_XFLAG_EXTSIZE, 16 * BLOCK, 0, 0); }
static void set_cowextsize(void) { set_xattr(FS_XFLAG_COWEXTSIZE, 0, 16 * BLOCK, 0); }
static void set_project(void) { set_xattr(0, 0, 0, 42); }
static void set_dax(void) { set_xattr(FS_XFLAG_DAX, 0, 0, 0); }
static void set_realtime(void) { set_xattr(FS_XFLAG_REALTIME, 0, 0, 0); }
static void set_nodefrag(void) { set_xattr(FS_XFLAG_NODEFRAG, 0, 0, 0); }
static void set_nodump(void) { set_flags(FS_NODUMP_FL, 0); }
static void set_sync(void) { set_flags(FS_SYNC_FL, 0); }
static void set_append(void) { set_flags(FS_APPEND_FL, 0); }
static void set_journal(void) { set_flags(FS_JOURNAL_DATA_FL, 0); }
static void set_immutable(void) { set_flags(FS_IMMUTABLE_FL, 0); }
static void set_blockmap(void) { set_flags(0, FS_EXTENT_FL); }
static void clear_immutable(void) { set_flags(0, FS_IMMUTABLE_FL); }

static void loop_discard(void) { device_range(BLKDISCARD); }
static void loop_zeroout(void) { device_range(BLKZEROOUT); }
static void loop_write(void)
{
	int disk = must_open(device, O_RDWR);
	wrote("write to the loop device", pwrite(disk, bytes, BLOCK, at));
	if (fsync(disk))
		refused("fsync of the loop device");
}
// Every process that ends is noted in the file.
static void account(void)
{
	for (int i = 0; i < 8; i++) {
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		if (child < 0 || waitpid(child, NULL, 0) != child)
			die("fork");
	}
	if (acct(NULL))
		die("acct");
}

// The kernel adds blocks for another user's quotas at the end of the file.
static void quota_on(void)
{
	// struct v2_disk_dqheader and struct v2_disk_dqinfo of fs/quota/quotaio_v2.h, and an empty tree.
	static uint32_t head[512] = { 0xd9c01f11, 1, 604800, 604800, 0, SIZE / 1024, 0, 0 };
	char where[4096];
	struct stat st;
	if (pwrite(fd, head, sizeof head, 0) != sizeof head || fsync(fd))
		refused("pwrite");
	if (!realpath(getenv("STRIKE_DEVICE") ?: "", where))
		die("STRIKE_DEVICE");
	try("quotactl", quotactl(QCMD(Q_QUOTAON, USRQUOTA), where, 4 /* QFMT_VFS_V1 */, (char *)file));
	if (stat(other, &st) || chown(other, 12345, -1) || chown(other, st.st_uid, -1))
		die("chown");
	if (quotactl(QCMD(Q_QUOTAOFF, USRQUOTA), where, 0, NULL))
		die("quotactl");
}

static void f2fs_unpin(void)
{
	uint32_t off = 0;

	try("F2FS_IOC_SET_PIN_FILE", ioctl(fd, F2FS_IOC_SET_PIN_FILE, &off));
}
static void f2fs_move(int from, int to)
{
	struct f2fs_move_range range = { .dst_fd = to, .len = 4 * BLOCK };

	try("F2FS_IOC_MOVE_RANGE", ioctl(from, F2FS_IOC_MOVE_RANGE, &range));
}
static void f2fs_move_from(void) { f2fs_move(fd, partner(O_RDWR)); }
static void f2fs_move_onto(void) { f2fs_move(partner(O_RDWR), fd); }
static void f2fs_defragment(void)
{
	struct f2fs_defragment range = { .len = SIZE };

	try("F2FS_IOC_DEFRAGMENT", ioctl(fd, F2FS_IOC_DEFRAGMENT, &range));
}
static void f2fs_atomic(void) { try("F2FS_IOC_START_ATOMIC_WRITE", ioctl(fd, F2FS_IOC_START_ATOMIC_WRITE)); }

static void remove_name(void) { try("unlink", unlink(file)); }
static void rename_over(void) { try("rename", rename(other, file)); }
static void rename_away(void) { try("rename", rename(file, beside(".away"))); }
static void rename_exchange(void) { try("renameat2", renameat2(AT_FDCWD, file, AT_FDCWD, other, RENAME_EXCHANGE)); }
static void rename_whiteout(void)
{
	try("renameat2", renameat2(AT_FDCWD, file, AT_FDCWD, beside(".away"), RENAME_WHITEOUT));
}
static void make_link(void) { try("linkat", linkat(AT_FDCWD, name(), AT_FDCWD, beside(".link"), AT_SYMLINK_FOLLOW)); }
static void change_mode(void) { try("chmod", chmod(name(), 0600)); }
static void change_owner(void) { try("chown", chown(name(), 4711, 4711)); }
static void change_times(void)
{
	try("utimensat", utimensat(AT_FDCWD, name(), (struct timespec[2]){ { 1 }, { 1 } }, 0));
}
static void set_attribute(void) { try("setxattr", setxattr(name(), "user.attack", bytes, 8, 0)); }
// On XFS it pushes the list of extents out of the inode.
static void set_attributes(void)
{
	for (int i = 0; i < 8; i++) {
		char attribute[32];
		snprintf(attribute, sizeof attribute, "trusted.attack%d", i);
		try("setxattr", setxattr(name(), attribute, bytes, 200, 0));
	}
}
// The pin's record; an unpinned file gets something in its place.
static bool has_record_of_frozen(void)
{
	if (getxattr(name(), "security.daxfile.pin", NULL, 0) > 0)
		return true;
	if (getxattr(name(), "user.daxfile.pin", NULL, 0) < 0 && setxattr(name(), "user.daxfile.pin", "none", 4, 0))
		die("setxattr");
	return false;
}
static void remove_record(void)
{
	try("removexattr", removexattr(name(), has_record_of_frozen() ? "security.daxfile.pin" : "user.daxfile.pin"));
}
// Handles are opened by directories only.
static int directory(void)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/..", file);
	*strrchr(path, '/') = 0;
	*strrchr(path, '/') = 0;
	return must_open(path, O_RDONLY);
}
static __u32 xfs_handle(int where, char *handle, __u32 room)
{
	struct xfs_fsop_handlereq find = { .path = (char *)file, .ohandle = handle, .ohandlen = &room };
	try("XFS_IOC_PATH_TO_HANDLE", ioctl(where, XFS_IOC_PATH_TO_HANDLE, &find));
	return room;
}
static void remove_by_handle(void)
{
	char handle[64];
	int where = directory();
	__u32 length = xfs_handle(where, handle, sizeof handle);
	struct xfs_attr_multiop remove = { .am_opcode = 3 /* ATTR_OP_REMOVE */,
					   .am_attrname = "daxfile.pin",
					   .am_flags = has_record_of_frozen() ? 8 /* XFS_IOC_ATTR_SECURE */ : 0 };
	struct xfs_fsop_attrmulti_handlereq multi = { .hreq = { .ihandle = handle, .ihandlen = length },
						      .opcount = 1,
						      .ops = &remove };
	try("XFS_IOC_ATTRMULTI_BY_HANDLE", ioctl(where, XFS_IOC_ATTRMULTI_BY_HANDLE, &multi));
	errno = -remove.am_error;
	try("XFS_IOC_ATTRMULTI_BY_HANDLE", remove.am_error);
}
static void by_file_handle(void)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} u = { { MAX_HANDLE_SZ } };
	int mount;
	if (name_to_handle_at(AT_FDCWD, file, &u.handle, &mount, 0))
		die("name_to_handle_at");
	fd = open_by_handle_at(must_open(other, O_RDONLY), &u.handle, O_RDWR);
	try("open_by_handle_at", fd);
	wrote("pwrite", write_at(at, BLOCK, -1));
}

static const struct operation {
	const char *name;
	int needs;
	void (*run)(void);
} operations[] = {
	{ "ftruncate-shrink", O_RDWR, ftruncate_shrink },
	{ "ftruncate-grow", O_RDWR, ftruncate_grow },
	{ "uring-ftruncate", O_RDWR, uring_ftruncate },
	{ "truncate-shrink", NAME, truncate_shrink },
	{ "truncate-grow", NAME, truncate_grow },
	{ "open-trunc", NAME, open_trunc },
	{ "reopen", NAME, reopen },
	{ "pwrite", O_RDWR, in_place },
	{ "pwrite-part", O_RDWR, in_part },
	{ "pwrite-whole", O_RDWR, write_whole },
	{ "pwrite-direct", O_RDWR | O_DIRECT, in_place },
	{ "aio", O_RDWR, aio_in_place },
	{ "aio-direct", O_RDWR | O_DIRECT, aio_in_place },
	{ "uring-write", O_RDWR, uring_in_place },
	{ "uring-direct", O_RDWR | O_DIRECT, uring_in_place },
	{ "uring-fixed", O_RDWR, uring_fixed },
	{ "splice", O_RDWR, splice_in_place },
	{ "vmsplice", O_RDWR, vmsplice_in_place },
	{ "sendfile", O_RDWR, sendfile_in_place },
	{ "past-end", O_RDWR, past_end },
	{ "past-end-direct", O_RDWR | O_DIRECT, past_end },
	{ "across-end", O_RDWR, across_end },
	{ "far-past-end", O_RDWR, far_past_end },
	{ "aio-past-end", O_RDWR, aio_past_end },
	{ "uring-past-end", O_RDWR, uring_past_end },
	{ "writev", O_RDWR, writev_in_place },
	{ "writev-direct", O_RDWR | O_DIRECT, writev_in_place },
	{ "aio-writev", O_RDWR, aio_writev_in_place },
	{ "uring-writev", O_RDWR, uring_writev_in_place },
	{ "splice-position", O_RDWR, splice_position },
	{ "splice-short", O_RDWR, splice_short },
	{ "sendfile-short", O_RDWR, send_short },
	{ "writev-past-end", O_RDWR, writev_past_end },
	{ "writev-stalled", O_RDWR, writev_stalled },
	{ "aio-writev-past-end", O_RDWR, aio_writev_past_end },
	{ "uring-writev-past-end", O_RDWR, uring_writev_past_end },
	{ "splice-position-end", O_RDWR, splice_position_end },
	{ "sendfile-beyond", O_RDWR, send_beyond },
	{ "race-vector", O_RDWR, race_vector },
	{ "race-splice", O_RDWR, race_splice },
	{ "race-sendfile", O_RDWR, race_sendfile },
	{ "race-append", O_RDWR, race_append },
	{ "aio-stalled", O_RDWR | O_APPEND, aio_stalled },
	{ "setfl-clear", O_RDWR | O_APPEND, setfl_clear },
	{ "overlay-write", OVERLAY, in_place },
	{ "overlay-past-end", OVERLAY, past_end },
	{ "overlay-splice", OVERLAY, splice_past_end },
	{ "overlay-sendfile", OVERLAY, sendfile_past_end },
	{ "overlay-aio", OVERLAY, aio_append },
	{ "overlay-append", APPENDING_OVERLAY, appending },
	{ "overlay-stalled", APPENDING_OVERLAY, aio_stalled },
	{ "overlay-toggle", OVERLAY, race_append },
	{ "passthrough-write", PASSTHROUGH, in_place },
	{ "passthrough-past-end", PASSTHROUGH, past_end },
	{ "passthrough-splice", PASSTHROUGH, splice_past_end },
	{ "acct", ACCT, account },
	{ "quota-on", O_RDWR, quota_on },
	{ "punch-noted", O_RDWR, punch_noted },
	{ "clone-noted", O_RDWR, clone_noted },
	{ "exchange-noted", O_RDWR, exchange_noted },
	{ "exchange-denied", O_RDWR, exchange_denied },
	{ "loop-set-fd", OLD_LOOP, loop_discard },
	{ "splice-past-end", O_RDWR, splice_past_end },
	{ "sendfile-past-end", O_RDWR, sendfile_past_end },
	{ "rwf-append", O_RDWR, rwf_append },
	{ "rwf-atomic", O_RDWR | O_DIRECT, rwf_atomic },
	{ "rwf-dsync", O_RDWR, rwf_dsync },
	{ "rwf-sync", O_RDWR, rwf_sync },
	{ "rwf-hipri", O_RDWR | O_DIRECT, rwf_hipri },
	{ "rwf-nowait", O_RDWR, rwf_nowait },
	{ "rwf-nowait-direct", O_RDWR | O_DIRECT, rwf_nowait },
	{ "rwf-dontcache", O_RDWR, rwf_dontcache },
	{ "rwf-noappend", O_RDWR | O_APPEND, rwf_noappend },
	{ "aio-append", O_RDWR, aio_append },
	{ "uring-append", O_RDWR, uring_append },
	{ "uring-atomic", O_RDWR | O_DIRECT, uring_atomic },
	{ "o-append", O_RDWR | O_APPEND, appending },
	{ "setfl-append", O_RDWR, setfl_append },
	{ "store", MAP, store },
	{ "read-into", MAP, read_into },
	{ "direct-read-into", MAP, direct_read_into },
	{ "proc-mem", MAP, by_proc_mem },
	{ "populate-write", MAP, populate_write },
	{ "madv-remove", MAP, madv_remove },
	{ "alloc-beyond", O_RDWR, alloc_beyond },
	{ "keep-beyond", O_RDWR, keep_beyond },
	{ "alloc-within", O_RDWR, alloc_within },
	{ "punch", O_RDWR, punch },
	{ "zero", O_RDWR, zero },
	{ "zero-keep", O_RDWR, zero_keep },
	{ "collapse", O_RDWR, collapse },
	{ "insert", O_RDWR, insert },
	{ "unshare", O_RDWR, unshare_range },
	{ "write-zeroes", O_RDWR, write_zeroes },
	{ "uring-punch", O_RDWR, uring_punch },
	{ "resvsp", O_RDWR, resvsp },
	{ "unresvsp", O_RDWR, unresvsp },
	{ "zero-ioctl", O_RDWR, zero_ioctl },
	{ "clone-onto", O_RDWR, clone_onto },
	{ "clone-from", O_RDONLY, clone_from },
	{ "clone-range-onto", O_RDWR, clone_range_onto },
	{ "clone-range-from", O_RDONLY, clone_range_from },
	{ "dedupe-onto", O_RDWR, dedupe_onto },
	{ "dedupe-from", O_RDONLY, dedupe_from },
	{ "copy-onto", O_RDWR, copy_onto },
	{ "copy-past-end", O_RDWR, copy_past_end },
	{ "copy-from", O_RDONLY, copy_from },
	{ "swapext-target", O_RDWR, swapext_target },
	{ "swapext-donor", O_RDWR, swapext_donor },
	{ "exchange-first", O_RDWR, exchange_first },
	{ "exchange-second", O_RDWR, exchange_second },
	{ "commit-first", O_RDWR, commit_first },
	{ "commit-second", O_RDWR, commit_second },
	{ "move-origin", O_RDWR, move_origin },
	{ "move-donor", O_RDWR, move_donor },
	{ "swap-boot", O_RDWR, swap_boot },
	{ "migrate", O_RDONLY, migrate },
	{ "set-generation", O_RDONLY, set_generation },
	{ "enable-verity", O_RDONLY, enable_verity },
	{ "free-eofblocks", O_RDONLY, free_eofblocks },
	{ "set-extsize", O_RDONLY, set_extsize },
	{ "set-cowextsize", O_RDONLY, set_cowextsize },
	{ "set-project", O_RDONLY, set_project },
	{ "set-dax", O_RDONLY, set_dax },
	{ "set-realtime", O_RDONLY, set_realtime },
	{ "set-nodefrag", O_RDONLY, set_nodefrag },
	{ "set-nodump", O_RDONLY, set_nodump },
	{ "set-sync", O_RDONLY, set_sync },
	{ "set-append", O_RDONLY, set_append },
	{ "set-journal", O_RDONLY, set_journal },
	{ "set-immutable", O_RDONLY, set_immutable },
	{ "set-blockmap", O_RDONLY, set_blockmap },
	{ "clear-immutable", O_RDONLY, clear_immutable },
	{ "loop-discard", LOOP, loop_discard },
	{ "loop-zeroout", LOOP, loop_zeroout },
	{ "loop-write", LOOP, loop_write },
	{ "f2fs-unpin", O_RDWR, f2fs_unpin },
	{ "f2fs-move-from", O_RDWR, f2fs_move_from },
	{ "f2fs-move-onto", O_RDWR, f2fs_move_onto },
	{ "f2fs-defragment", O_RDWR, f2fs_defragment },
	{ "f2fs-atomic", O_RDWR, f2fs_atomic },
	{ "unlink", NAME, remove_name },
	{ "rename-over", NAME, rename_over },
	{ "rename-away", NAME, rename_away },
	{ "rename-exchange", NAME, rename_exchange },
	{ "rename-whiteout", NAME, rename_whiteout },
	{ "link", NAME, make_link },
	{ "chmod", NAME, change_mode },
	{ "chown", NAME, change_owner },
	{ "utimes", NAME, change_times },
	{ "setxattr", NAME, set_attribute },
	{ "setxattrs", NAME, set_attributes },
	{ "remove-record", NAME, remove_record },
	{ "remove-by-handle", NAME, remove_by_handle },
	{ "file-handle", NAME, by_file_handle },
	{ "xfs-handle", HANDLE, in_place },
	{ "xfs-handle-truncate", HANDLE, ftruncate_shrink },
};

static int open_by_xfs_handle(void)
{
	char handle[64];
	int where = directory();
	__u32 length = xfs_handle(where, handle, sizeof handle);
	struct xfs_fsop_handlereq request = { .oflags = O_RDWR, .ihandle = handle, .ihandlen = length };
	int opened = ioctl(where, XFS_IOC_OPEN_BY_HANDLE, &request);
	try("XFS_IOC_OPEN_BY_HANDLE", opened);
	return opened;
}

static void attach_loop(int backing, bool old)
{
	for (;;) {
		int free = ioctl(must_open("/dev/loop-control", O_RDWR), LOOP_CTL_GET_FREE);
		if (free < 0)
			die("LOOP_CTL_GET_FREE");
		snprintf(device, sizeof device, "/dev/loop%d", free);
		// Kept open: the last one to close it detaches the file.
		int disk = must_open(device, O_RDWR);
		struct loop_config config = { .fd = backing, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
		struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };
		if (old ? !ioctl(disk, LOOP_SET_FD, backing) && !ioctl(disk, LOOP_SET_STATUS64, &info) :
			  !ioctl(disk, LOOP_CONFIGURE, &config))
			return;
		if (errno != EBUSY)
			refused(old ? "LOOP_SET_FD" : "LOOP_CONFIGURE");
		close(disk);
	}
}

// A mount that no other process sees.
static void mount_unseen(const char *type, const char *where, unsigned long flags, const char *options)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(type, where, type, flags, options))
		err(2, "mount of %s", type);
}

// The file's directory is the upper one, and mounted where no other process sees it.
static int open_overlay(int flags)
{
	char in[4096], directory[4096], options[16384], path[8192];
	snprintf(in, sizeof in, "%s", file);
	char *name = strrchr(in, '/');
	*name++ = 0;
	snprintf(directory, sizeof directory, "%s", in);
	*strrchr(directory, '/') = 0;
	for (const char *const *sub = (const char *const[]){ "low", "work", "over", NULL }; *sub; sub++) {
		snprintf(path, sizeof path, "%s/%s", directory, *sub);
		if (mkdir(path, 0755) && errno != EEXIST)
			die(path);
	}
	snprintf(options, sizeof options, "lowerdir=%s/low,upperdir=%s,workdir=%s/work", directory, in, directory);
	mount_unseen("overlay", path, 0, options);
	strcat(path, "/");
	strcat(path, name);
	int opened = open(path, flags);
	try("open", opened);
	return opened;
}

// A FUSE filesystem whose only file is passed through to the file.

#define INIT_PASSTHROUGH (1ull << 37) // FUSE_PASSTHROUGH
enum { OPEN_PASSTHROUGH = 1 << 7 };   // FOPEN_PASSTHROUGH
struct backing {		      // struct fuse_backing_map
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN _IOW(229, 1, struct backing)

struct init_out { // struct fuse_init_out
	uint32_t major, minor, max_readahead, flags;
	uint16_t max_background, congestion_threshold;
	uint32_t max_write, time_gran;
	uint16_t max_pages, map_alignment;
	uint32_t flags2, max_stack_depth, unused[6];
};
struct open_out { // struct fuse_open_out
	uint64_t fh;
	uint32_t open_flags;
	int32_t backing_id;
};

static void answer(int device, uint64_t unique, int error, const void *body, size_t length)
{
	struct fuse_out_header head = { .len = sizeof head + length, .error = -error, .unique = unique };
	struct iovec parts[2] = { { &head, sizeof head }, { (void *)body, length } };
	if (writev(device, parts, length ? 2 : 1) < 0 && errno != ENOENT)
		die("write to /dev/fuse");
}

static void serve_fuse(int device)
{
	static char request[1 << 17];
	struct fuse_in_header *head = (void *)request;
	struct fuse_attr whole = { .ino = 1, .mode = S_IFREG | 0644, .nlink = 1, .size = SIZE, .blksize = BLOCK };
	// The mount's root is the file itself.
	struct fuse_attr_out attributes = { .attr = whole };
	while (read(device, request, sizeof request) > 0) {
		if (head->opcode == FUSE_INIT) {
			struct init_out out = { .major = 7,
						.minor = 40,
						.flags = FUSE_INIT_EXT,
						.max_write = 1 << 16,
						.time_gran = 1,
						.flags2 = INIT_PASSTHROUGH >> 32,
						.max_stack_depth = 1 };
			answer(device, head->unique, 0, &out, sizeof out);
		} else if (head->opcode == FUSE_GETATTR) {
			answer(device, head->unique, 0, &attributes, sizeof attributes);
		} else if (head->opcode == FUSE_OPEN) {
			struct backing backing = { .fd = open(file, O_RDONLY) };
			int id = ioctl(device, BACKING_OPEN, &backing);
			struct open_out out = { .open_flags = OPEN_PASSTHROUGH, .backing_id = id };
			answer(device, head->unique, id < 0 ? errno : 0, &out, id < 0 ? 0 : sizeof out);
			close(backing.fd);
		} else if (head->opcode == FUSE_RELEASE || head->opcode == FUSE_FLUSH || head->opcode == FUSE_FSYNC) {
			answer(device, head->unique, 0, NULL, 0);
		} else if (head->opcode != FUSE_FORGET && head->opcode != FUSE_BATCH_FORGET &&
			   head->opcode != FUSE_INTERRUPT) {
			answer(device, head->unique, ENOSYS, NULL, 0);
		}
	}
}

static int open_passthrough(void)
{
	char options[128];
	const char *where = beside(".fuse");
	close(must_open(where, O_RDWR | O_CREAT));
	int device = open("/dev/fuse", O_RDWR);
	// A kernel without FUSE has no passthrough either.
	if (device < 0 && errno == ENOENT)
		errno = ENOTTY;
	try("open", device);
	snprintf(options, sizeof options, "fd=%d,rootmode=100644,user_id=0,group_id=0", device);
	mount_unseen("fuse", where, MS_NOSUID | MS_NODEV, options);
	pid_t server = fork();
	if (server < 0)
		die("fork");
	if (server == 0) {
		// The process that reads from our end of a pipe must not wait for the server.
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int nothing = must_open("/dev/null", O_RDWR);
		for (int i = 0; i < 3; i++)
			dup2(nothing, i);
		serve_fuse(device);
		_exit(0);
	}
	close(device);
	int opened = open(where, O_RDWR);
	try("open", opened);
	return opened;
}

static void exit_like(pid_t child)
{
	int status;
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		exit(2);
	exit(WEXITSTATUS(status));
}

static void take_hold(int needs, const char *access)
{
	if (needs == NAME && strcmp(access, "ro"))
		return;
	if (needs == HANDLE) {
		fd = open_by_xfs_handle();
		return;
	}
	if (needs == OVERLAY || needs == APPENDING_OVERLAY) {
		fd = open_overlay(needs == OVERLAY ? O_RDWR : O_RDWR | O_APPEND);
		return;
	}
	if (needs == PASSTHROUGH) {
		fd = open_passthrough();
		return;
	}
	if (needs == ACCT) {
		// There can be one for every namespace of processes, whose first process is a child.
		if (unshare(CLONE_NEWPID))
			die("unshare");
		pid_t child = fork();
		if (child < 0)
			die("fork");
		if (child > 0)
			exit_like(child);
		try("acct", acct(file));
		return;
	}
	int flags = needs == NAME ? O_RDONLY : needs < 0 ? O_RDWR : needs;
	if (!strcmp(access, "ro"))
		flags &= ~O_ACCMODE;
	if (!strcmp(access, "rw"))
		flags = (flags & ~O_ACCMODE) | O_RDWR;
	fd = open(file, flags | O_CLOEXEC);
	try("open", fd);
	if (needs == MAP) {
		map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			refused("mmap");
	}
	if (needs == LOOP || needs == OLD_LOOP)
		attach_loop(fd, needs == OLD_LOOP);
	if (needs == MAP || needs == LOOP || needs == OLD_LOOP) {
		close(fd);
		fd = -1;
	}
}

// The process that opened the file passes it to another process, and closes its own descriptor.
static void hand_over(int needs)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends))
		die("socketpair");
	if (needs == MAP)
		take_hold(needs, "sent");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof fd)];
	} control = { { CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS } };
	char byte = 0;
	struct iovec vector = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
	};
	if (child == 0) {
		if (needs != MAP && (recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC) != 1 || message.msg_controllen == 0))
			die("recvmsg");
		if (needs != MAP)
			memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
		close(ends[0]);
		return;
	}
	if (needs == MAP) {
		munmap(map, SIZE);
	} else {
		take_hold(needs, "rw");
		memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
		if (sendmsg(ends[0], &message, 0) != 1)
			die("sendmsg");
		close(fd);
	}
	exit_like(child);
}

static int strike(const char *access, const char *operation)
{
	const struct operation *o = operations;
	while (o < operations + sizeof operations / sizeof *o && strcmp(o->name, operation))
		o++;
	if (o == operations + sizeof operations / sizeof *o)
		errx(2, "no operation %s", operation);
	signal(SIGBUS, bus);
	bytes = aligned_alloc(BLOCK, SIZE);
	memset(bytes, 0xa5, SIZE);
	if (!strcmp(access, "sent"))
		hand_over(o->needs);
	else if (strcmp(access, "path"))
		take_hold(o->needs, access);
	puts("ready");
	fflush(stdout);
	if (getchar() != '\n')
		return 0;
	if (!strcmp(access, "path"))
		take_hold(o->needs, access);
	o->run();
	puts("done");
	return 0;
}

// Files to attack.

static void fill(int to, int seed, off_t from, off_t end)
{
	for (off_t i = from; i < end; i++)
		bytes[i] = 1 + (i * 2654435761u >> 13) % 251 + seed;
	if (pwrite(to, bytes + from, end - from, from) != end - from)
		die("pwrite");
}

static void make(const char *shape)
{
	const char *neighbour = beside(".beside");
	bytes = malloc(SIZE);
	int to = must_open(file, O_RDWR | O_CREAT | O_EXCL);
	if (!strcmp(shape, "written") || !strcmp(shape, "shared") || !strcmp(shape, "staged")) {
		fill(to, 0, 0, SIZE);
		if (fsync(to))
			die("fsync");
	}
	if (!strcmp(shape, "holed")) {
		if (ftruncate(to, SIZE) || fallocate(to, 0, SIZE / 4, SIZE / 4))
			die("fallocate");
		fill(to, 0, 0, SIZE / 4);
		fill(to, 0, SIZE / 4 * 3, SIZE);
	}
	if (!strcmp(shape, "short"))
		fill(to, 0, 0, 8 * BLOCK);
	if (!strcmp(shape, "shared") || !strcmp(shape, "staged")) {
		int clone = must_open(neighbour, O_RDWR | O_CREAT | O_EXCL);
		struct file_clone_range block = { to, 40 * BLOCK, BLOCK, 0 };
		if (*(shape + 1) == 'h' ? ioctl(clone, FICLONE, to) : ioctl(clone, FICLONERANGE, &block))
			die("FICLONE");
	}
	if (!strcmp(shape, "staged")) {
		fill(to, 1, 40 * BLOCK, 41 * BLOCK);
		if (fsync(to) || unlink(neighbour) || syncfs(to))
			die("syncfs");
	}
	if (!strcmp(shape, "scattered")) {
		int between = must_open(neighbour, O_RDWR | O_CREAT | O_EXCL);
		for (int i = 0; i < BLOCKS; i++)
			if (fallocate(to, 0, i * BLOCK, BLOCK) || fallocate(between, 0, i * BLOCK, BLOCK))
				die("fallocate");
		fill(to, 0, 0, SIZE);
	}
	if (fsync(to))
		die("fsync");
	to = must_open(other, O_RDWR | O_CREAT | O_EXCL);
	fill(to, 2, 0, SIZE);
	if (fsync(to))
		die("fsync");
}

// Everything about a file that an attack may change, but its map.
static void facts(void)
{
	struct stat st;
	struct fsxattr x = { 0 };
	fd = open(file, O_RDONLY);
	// A file whose name became a whiteout is gone.
	if (fd < 0 && (errno == ENOENT || errno == ENXIO)) {
		puts("name gone");
		return;
	}
	if (fd < 0 || fstat(fd, &st))
		die(file);
	unsigned flags = 0, generation = 0;
	if (ioctl(fd, FS_IOC_FSGETXATTR, &x) || ioctl(fd, FS_IOC_GETFLAGS, &flags) ||
	    ioctl(fd, FS_IOC_GETVERSION, &generation))
		die("FS_IOC_FSGETXATTR");
	printf("name %lu:%u\nsize %ld\nblocks %ld\n", st.st_ino, generation, st.st_size, st.st_blocks);
	printf("inode %o %u:%u %lu %ld.%09ld", st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_mtim.tv_sec,
	       st.st_mtim.tv_nsec);
	char names[4096], value[65536];
	ssize_t length = flistxattr(fd, names, sizeof names);
	if (length < 0)
		die("flistxattr");
	for (char *n = names; n < names + length; n += strlen(n) + 1) {
		ssize_t got = fgetxattr(fd, n, value, sizeof value);
		uint64_t sum = 0;
		for (ssize_t i = 0; i < got; i++)
			sum = (sum ^ (unsigned char)value[i]) * 0x100000001b3;
		printf(" %s=%zd:%lx", n, got, sum);
	}
	// FS_XFLAG_HASATTR only says whether there are extended attributes; no caller sets it.
	printf("\nflags %x %x %u %u %u\n", x.fsx_xflags & ~FS_XFLAG_HASATTR, flags, x.fsx_extsize, x.fsx_cowextsize,
	       x.fsx_projid);
	uint64_t sum = 0;
	while ((length = read(fd, value, sizeof value)) > 0)
		for (ssize_t i = 0; i < length; i++)
			sum = (sum ^ (unsigned char)value[i]) * 0x100000001b3;
	if (length < 0)
		die("read");
	printf("contents %lx\n", sum);
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "facts")) {
		for (char **name = argv + 2; *name; name++) {
			file = *name;
			facts();
			puts("");
		}
		return 0;
	}
	if (argc < 5)
		errx(2, "usage: make SHAPE FILE OTHER | facts FILE... | ACCESS OPERATION FILE OTHER [BLOCK]");
	file = argv[3];
	other = argv[4];
	if (argc == 6)
		at = atol(argv[5]) * BLOCK;
	if (!strcmp(argv[1], "make")) {
		make(argv[2]);
		return 0;
	}
	return strike(argv[1], argv[2]);
}
