// toll FILE: CPU nanoseconds of a pread, a pwrite, each of 4 KiB in the page cache, and an open with close: the median
// of many rounds, for clocks in virtual machines jump.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
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

static int ascending(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;
	if (fd < 0)
		err(2, "open");
	for (int what = 0; what < 3; what++) {
		long took[ROUNDS];
		for (int round = 0; round < ROUNDS; round++) {
			long start = now();
			for (int i = 0; i < CALLS; i++) {
				if (what == 0 ? pread(fd, block, sizeof block, 0) < 0 :
				    what == 1 ? pwrite(fd, block, sizeof block, 0) < 0 :
						close(open(argv[1], O_RDONLY)))
					err(2, "%s", argv[1]);
			}
			took[round] = (now() - start) / CALLS;
		}
		qsort(took, ROUNDS, sizeof *took, ascending);
		printf("%ld%c", took[ROUNDS / 2], what == 2 ? '\n' : ' ');
	}
}
