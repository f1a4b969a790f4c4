// Shared by the attacking programs: patterns, the log of acknowledged writes, and termination by a closed stdin.
//
// The log is a file of 64-bit words: a head, then for each block of the file the counter last acknowledged.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// Writes acknowledged, opens refused, losses seen; an appender's size, and the offset where its own data begins; syncs that
// failed.
enum { WRITES, REFUSED, LOST, SIZE, FROM, FAILED, HEAD = 8 };

static _Atomic uint64_t *head;
static atomic_bool stop;

static void die(const char *call)
{
	fprintf(stderr, "%s: %s\n", call, strerror(errno));
	exit(2);
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static uint64_t roll(uint64_t *state) { return mix((*state)++); }

static void pause_us(uint64_t us) { nanosleep(&(struct timespec){ .tv_nsec = us * 1000 }, NULL); }

// Mostly short, so that a lease is broken; now and then long enough for one to be held to its end.
static void pause_between_opens(uint64_t *random) { pause_us(roll(random) % 32 ? roll(random) % 3000 : 100000); }

static void lost(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	if (head[LOST]++ < 10)
		vfprintf(stderr, format, args);
	va_end(args);
}

static void *wait_for_end(void *none)
{
	char byte;
	while (read(0, &byte, 1) > 0)
		;
	stop = true;
	return none;
}

static void begin(const char *log)
{
	int fd = open(log, O_RDWR | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st))
		die(log);
	head = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (head == MAP_FAILED)
		die("mmap");
	pthread_t waiter;
	if (pthread_create(&waiter, NULL, wait_for_end, NULL))
		die("pthread_create");
}

// Opens it, and tries again for as long as another process's lease prevents it.
static int open_patiently(const char *path, int flags)
{
	for (;;) {
		int fd = open(path, flags | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		if (errno != EWOULDBLOCK || !(flags & O_NONBLOCK))
			die("open");
		head[REFUSED]++;
		pause_us(200);
	}
}

// The kernel reports the collision of a direct write with another process's dirty page here, and only here.
static void sync_data(int fd)
{
	if (!fdatasync(fd))
		return;
	if (errno != EIO)
		die("fdatasync");
	head[FAILED]++;
}

static void *aligned(size_t size)
{
	void *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
	if (!memory)
		die("aligned_alloc");
	return memory;
}
