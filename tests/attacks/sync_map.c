/* sync_map FILE OFFSET: stores through a mapping made with MAP_SYNC, which the kernel grants on DAX files alone. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: sync_map FILE OFFSET");

	int fd = open(argv[1], O_RDWR);
	if (fd < 0)
		err(1, "open %s", argv[1]);
	long page = sysconf(_SC_PAGESIZE);
	char *bytes = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, atoll(argv[2]));
	if (bytes == MAP_FAILED)
		err(1, "mmap");
	memset(bytes, 0x5a, page);
	return 0;
}
