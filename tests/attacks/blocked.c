// blocked append|gather FILE THREADS: starts THREADS threads, each of which blocks in a write. append writes to a full pipe;
// gather writes to FILE, in place, and the kernel waits for its array of buffers. Says "blocked" once all threads are
// blocked, and ends when it gets a line.
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096 };

static int fd;
static struct iovec *vector;
static int flags;
static long position;
static int begun;

static void *block(void *none)
{
	__atomic_add_fetch(&begun, 1, __ATOMIC_RELAXED);
	if (pwritev2(fd, vector, 1, position, flags) < 0)
		err(2, "pwritev2");
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	int threads = atoi(argv[3]);
	static char byte[PAGE];
	static struct iovec one = { byte, sizeof byte };
	if (!strcmp(argv[1], "append")) {
		int ends[2];
		struct rlimit most = { RLIM_INFINITY, RLIM_INFINITY };
		if (setrlimit(RLIMIT_NPROC, &most) || setgid(65534) || setuid(65534) || pipe2(ends, O_NONBLOCK))
			err(2, "pipe");
		fd = ends[1];
		while (write(fd, byte, sizeof byte) > 0)
			;
		if (fcntl(fd, F_SETFL, 0))
			err(2, "F_SETFL");
		vector = &one;
		flags = RWF_APPEND;
		position = -1;
	} else {
		struct uffdio_api api = { .api = UFFD_API };
		int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
		vector = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct uffdio_register range = { .range = { (uintptr_t)vector, PAGE },
						 .mode = UFFDIO_REGISTER_MODE_MISSING };
		fd = open(argv[2], O_RDWR);
		if (fd < 0 || vector == MAP_FAILED || faults < 0 || ioctl(faults, UFFDIO_API, &api) ||
		    ioctl(faults, UFFDIO_REGISTER, &range))
			err(2, "userfaultfd");
	}
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN);
	pthread_attr_setguardsize(&small, 0);
	for (int i = 0; i < threads; i++) {
		pthread_t thread;
		if ((errno = pthread_create(&thread, &small, block, NULL)))
			err(2, "pthread_create, after %d", i);
	}
	while (__atomic_load_n(&begun, __ATOMIC_RELAXED) < threads)
		usleep(10000);
	sleep(1);
	puts("blocked");
	fflush(stdout);
	getchar();
	_exit(0);
}
