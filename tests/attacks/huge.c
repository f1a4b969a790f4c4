/*
 * huge FILE: prints how many pieces of 2 MiB of FILE come into a mapping with one page fault each: by one entry of the page
 * tables. Nobody may have mapped FILE by small pages since the kernel read its inode.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE (2UL << 20)

static long faults(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_THREAD, &usage))
		err(1, "getrusage");
	return usage.ru_minflt + usage.ru_majflt;
}

int main(int argc, char **argv)
{
	struct stat stat;

	if (argc != 2)
		errx(2, "usage: huge FILE");
	int fd = open(argv[1], O_RDONLY);
	if (fd < 0 || fstat(fd, &stat))
		err(1, "%s", argv[1]);
	/* Addresses that begin where a piece does. */
	char *room = mmap(NULL, stat.st_size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		err(1, "mmap");
	room = (char *)(((uintptr_t)room + HUGE - 1) & ~(HUGE - 1));
	volatile char *bytes = mmap(room, stat.st_size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
	if (bytes == MAP_FAILED)
		err(1, "mmap %s", argv[1]);

	int huge = 0;
	for (off_t piece = 0; piece < stat.st_size; piece += HUGE) {
		long before = faults();
		for (off_t page = piece; page < piece + (off_t)HUGE && page < stat.st_size; page += 4096)
			(void)bytes[page];
		huge += faults() - before == 1;
	}
	printf("%d\n", huge);
	return 0;
}
