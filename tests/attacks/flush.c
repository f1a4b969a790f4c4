/* flush NAME FILE FIRST [unsynchronised]: stores counters from FIRST on into FILE, one a page and round again, through a
 * mapping made with MAP_SYNC (or without), flushes each with CPU instructions alone, and then acknowledges it on the lab's
 * line as "lab: NAME COUNTER". The first is acknowledged on standard output, too. Ends when it is killed. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <err.h>
#include <fcntl.h>
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096 };

__attribute__((target("clwb"))) static void write_back(void *line) { _mm_clwb(line); }

__attribute__((target("clflushopt"))) static void flush_weakly(void *line) { _mm_clflushopt(line); }

static void flush(void *line) { _mm_clflush(line); }

int main(int argc, char **argv)
{
	if (argc < 4)
		errx(2, "usage: flush NAME FILE FIRST [unsynchronised]");

	unsigned a, b = 0, c, d;
	__get_cpuid_count(7, 0, &a, &b, &c, &d);
	void (*persist)(void *) = b & bit_CLWB ? write_back : b & bit_CLFLUSHOPT ? flush_weakly : flush;

	int fd = open(argv[2], O_RDWR);
	struct stat st;
	if (fd < 0 || fstat(fd, &st))
		err(1, "%s", argv[2]);
	int line = open("/dev/lab", O_WRONLY | O_NOCTTY);
	if (line < 0)
		err(1, "/dev/lab");
	int flags = argc > 4 ? MAP_SHARED : MAP_SHARED_VALIDATE | MAP_SYNC;
	char *bytes = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (bytes == MAP_FAILED)
		err(1, "mmap");

	uint64_t pages = st.st_size / PAGE, first = strtoull(argv[3], NULL, 10);
	for (uint64_t counter = first;; counter++) {
		char *at = bytes + counter % pages * PAGE, said[128];
		memcpy(at, &counter, sizeof counter);
		persist(at);
		_mm_sfence();
		int length = snprintf(said, sizeof said, "\nlab: %s %llu\n", argv[1], (unsigned long long)counter);
		if (write(line, said, length) != length)
			err(1, "/dev/lab");
		if (counter == first && puts("stored") >= 0)
			fflush(stdout);
	}
}
