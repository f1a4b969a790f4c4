// toll FILE: CPU nanoseconds of a pread, a pwrite, each of 4 KiB in the page cache, and an open with close: the least of
// many rounds.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 40, CALLS = 2000 };

static char block[4096];

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;
	if (fd < 0)
		err(2, "open");
	for (int what = 0; what < 3; what++) {
		long least = -1;
		for (int round = 0; round < ROUNDS; round++) {
			long start = now();
			for (int i = 0; i < CALLS; i++) {
				if (what == 0 ? pread(fd, block, sizeof block, 0) < 0 :
				    what == 1 ? pwrite(fd, block, sizeof block, 0) < 0 :
						close(open(argv[1], O_RDONLY)))
					err(2, "%s", argv[1]);
			}
			long took = (now() - start) / CALLS;
			if (least < 0 || took < least)
				least = took;
		}
		printf("%ld%c", least, what == 2 ? '\n' : ' ');
	}
}
