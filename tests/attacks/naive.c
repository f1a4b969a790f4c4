// naive FILE touch|populate|cut
//
// Obvious ways of preparing a file that lose the data of a concurrent writer.
#include "attack.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int main(int argc, char **argv)
{
	struct stat st;
	int fd = argc == 3 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
	if (fd < 0 || fstat(fd, &st))
		die("open");
	if (*argv[2] == 'c') {
		if (fsync(fd) || ftruncate(fd, st.st_size))
			die("ftruncate");
		return 0;
	}
	_Atomic char *map = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	for (off_t i = 0; *argv[2] == 't' && i < st.st_size; i += 4096)
		map[i] |= 0;
	if (*argv[2] == 'p' && madvise((void *)map, st.st_size, MADV_POPULATE_WRITE))
		die("madvise");
	// The kernel reports the collision with a direct writer as EIO; the loss is for others to find.
	if (fsync(fd) && errno != EIO)
		die("fsync");
	return 0;
}
