// hostile DIR LOG SEED
//
// Four threads open DIR/fNUMBER for writing in every way, truncate it by path, write, extend, map and clone into it, as
// the words of the log after its head tell them, until stdin is closed. The threads ignore the results of their calls:
// other programs find out whether the file was changed unseen.
#include "attack.h"
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

enum { THREADS = 4, LENGTH = 65536 };

// Which file; what to do, with a number that tells each order from the one before; modifications in a thousand chances;
// the longest pause between openings, in us; how many of the threads wait for the pin. Then the answers: threads that are
// still inside, modifications made and openings for writing that succeeded after the pin had; openings for writing
// before; the last order that each thread has seen.
enum { NUMBER = HEAD, ORDER, TEMPER, PAUSE, POUNCERS, INSIDE, LATE, THROUGH, OPENED, SEEN };

// Let go of the file and rest; attack; attack a file that is pinned, and stay inside where one got in; keep still.
enum { REST, ATTACK, PERSIST, FREEZE };

static const char *directory;
static int donor;

struct inside {
	int fd;
	_Atomic char *map;
	uint64_t random;
	char path[4096];
};

static _Thread_local sigjmp_buf fault;
static _Thread_local volatile sig_atomic_t faults;

// Stores to an immutable file, or past the end of a file that was cut.
static void on_sigbus(int signal)
{
	(void)signal;
	if (faults)
		siglongjmp(fault, 1);
	_exit(3);
}

static int doing(void) { return head[ORDER] & 0xff; }

static void leave(struct inside *in)
{
	if (in->map)
		munmap((void *)in->map, LENGTH);
	if (in->fd >= 0)
		close(in->fd);
	in->map = NULL;
	in->fd = -1;
}

static int store(struct inside *in)
{
	if (sigsetjmp(fault, 1)) {
		faults = 0;
		return -1;
	}
	faults = 1;
	in->map[roll(&in->random) % LENGTH]++;
	faults = 0;
	return 0;
}

// Changes contents, size or map; -1 where that was refused.
static int modify(struct inside *in, int mildly)
{
	char bytes[4096];
	struct stat st;
	struct file_clone_range clone = { .src_fd = donor,
					  .src_length = 4096,
					  .dest_offset = roll(&in->random) % 16 * 4096 };

	if (in->map)
		return store(in);
	memset(bytes, roll(&in->random), sizeof bytes);
	if (fstat(in->fd, &st))
		die("fstat");
	// Mildly, because most of the other operations make a file that cannot be pinned any more.
	switch (roll(&in->random) % (mildly ? 12 : 6)) {
	case 0:
		return ftruncate(in->fd, roll(&in->random) % (2 * LENGTH));
	case 1:
		return ioctl(in->fd, FICLONERANGE, &clone);
	case 2:
		return fallocate(in->fd, 0, st.st_size, 8192);
	case 3:
	case 4:
		return pwrite(in->fd, bytes, sizeof bytes, st.st_size / 4096 * 4096) > 0 ? 0 : -1;
	default:
		return pwrite(in->fd, bytes, sizeof bytes, roll(&in->random) % 16 * 4096) > 0 ? 0 : -1;
	}
}

static int chance(struct inside *in) { return roll(&in->random) % 1000 < head[TEMPER]; }

static void enter(struct inside *in)
{
	static char contents[LENGTH];
	int flags = O_RDWR | O_CLOEXEC;
	if (roll(&in->random) % 8 == 0)
		flags |= O_APPEND;
	if (roll(&in->random) % 4 == 0)
		flags |= O_NONBLOCK;
	if (chance(in))
		flags |= O_TRUNC;
	in->fd = open(in->path, flags);
	if (in->fd < 0)
		return;
	if (roll(&in->random) % 4 == 0) {
		in->map = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, in->fd, 0);
		if (in->map == MAP_FAILED)
			die("mmap");
	}
	if (flags & O_TRUNC && doing() == ATTACK && pwrite(in->fd, contents, LENGTH, 0) < 0 && errno != EPERM)
		die("pwrite");
	// A mapping keeps the file open for writing as a descriptor does.
	if (in->map) {
		close(in->fd);
		in->fd = -1;
	}
}

// Opens it all the time from when the record is written until the flag refuses it.
static void lie_in_wait(struct inside *in)
{
	char value;
	if (getxattr(in->path, "security.daxfile.pin", &value, 0) < 0) {
		pause_us(20);
		return;
	}
	enter(in);
	if (in->fd < 0 && !in->map) {
		pause_us(100);
		return;
	}
	head[OPENED]++;
	if (roll(&in->random) % 2)
		pause_us(roll(&in->random) % 200);
	if (doing() != ATTACK)
		return;
	if (chance(in))
		modify(in, 1);
	leave(in);
}

static void attack(struct inside *in)
{
	if (chance(in) && roll(&in->random) % 4 == 0) {
		truncate(in->path, roll(&in->random) % 4 ? LENGTH : LENGTH / 2);
		return;
	}
	enter(in);
	if (in->fd < 0 && !in->map) {
		pause_us(roll(&in->random) % 100);
		return;
	}
	head[OPENED]++;
	pause_us(roll(&in->random) % 64 ? roll(&in->random) % 50 : roll(&in->random) % 20000);
	if (doing() != ATTACK)
		return;
	if (chance(in))
		modify(in, 1);
	leave(in);
	pause_us(roll(&in->random) % (head[PAUSE] + 1));
}

static void persist(struct inside *in)
{
	if (in->fd >= 0 || in->map) {
		if (!modify(in, 0))
			head[LATE]++;
	} else if (roll(&in->random) % 4) {
		enter(in);
		if (in->fd >= 0 || in->map)
			head[THROUGH]++;
	} else if (!truncate(in->path, roll(&in->random) % LENGTH)) {
		head[THROUGH]++;
	}
	pause_us(roll(&in->random) % 500);
}

static void *run(void *number)
{
	uint64_t seen = 0, index = (uintptr_t)number;
	struct inside in = { .fd = -1, .random = mix(head[0] + (index << 32)) };

	while (!stop) {
		uint64_t order = head[ORDER];
		if (order != seen) {
			if ((order & 0xff) <= ATTACK)
				leave(&in);
			if ((order & 0xff) == FREEZE && (in.fd >= 0 || in.map))
				head[INSIDE]++;
			snprintf(in.path, sizeof in.path, "%s/f%06lu", directory, head[NUMBER]);
			head[SEEN + index] = seen = order;
		}
		switch (order & 0xff) {
		case ATTACK:
			index < head[POUNCERS] ? lie_in_wait(&in) : attack(&in);
			break;
		case PERSIST:
			persist(&in);
			break;
		default:
			pause_us(200);
		}
	}
	leave(&in);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	char path[4096];
	if (argc != 4)
		return 2;
	directory = argv[1];
	begin(argv[2]);
	head[0] = strtoull(argv[3], NULL, 10);
	signal(SIGBUS, on_sigbus);
	snprintf(path, sizeof path, "%s/donor", directory);
	donor = open(path, O_RDONLY | O_CLOEXEC);
	if (donor < 0)
		die(path);
	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, run, (void *)i))
			die("pthread_create");
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
