/* Makes, springs and holds the staging trap. Numbers are bytes, but for COUNT. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int must_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);

	if (fd < 0)
		err(1, "open %s", path);
	return fd;
}

static char *buffer(size_t length, int salt)
{
	char *bytes = aligned_alloc(4096, length);

	if (!bytes)
		err(1, "aligned_alloc");
	for (size_t i = 0; i < length; i++)
		bytes[i] = (char)(1 + (i * 2654435761u >> 13) % 251 + salt);
	return bytes;
}

static void must_write(int fd, const char *bytes, size_t length, off_t offset)
{
	if (pwrite(fd, bytes, length, offset) != (ssize_t)length)
		err(1, "pwrite");
}

static void must_clone(int from, off_t at, size_t length, int to, off_t offset)
{
	struct file_clone_range range = { from, (__u64)at, length, (__u64)offset };

	if (ioctl(to, FICLONERANGE, &range))
		err(1, "FICLONERANGE");
}

/* A file of COUNT extents: the blocks of another in reverse order, which then is deleted. */
static void build(const char *path, const char *source, long count, size_t block, const char *order)
{
	int from = must_open(source, O_RDWR | O_CREAT | O_EXCL), to = must_open(path, O_RDWR | O_CREAT | O_EXCL);
	size_t length = (size_t)count * block;
	char *bytes = buffer(length, 0);
	long *turn = calloc((size_t)count, sizeof(*turn));

	must_write(from, bytes, length, 0);
	fsync(from);
	if (ftruncate(to, (off_t)length))
		err(1, "ftruncate");
	for (long i = 0; i < count; i++)
		turn[i] = *order == 'd' ? count - 1 - i : i;
	srandom((unsigned)count);
	for (long i = count - 1; *order == 'r' && i > 0; i--) {
		long other = random() % (i + 1), this = turn[i];

		turn[i] = turn[other];
		turn[other] = this;
	}
	for (long i = 0; i < count; i++)
		must_clone(from, (count - 1 - turn[i]) * (off_t)block, block, to, turn[i] * (off_t)block);
	if (unlink(source) || fsync(to))
		err(1, "%s", source);
}

/* Clones single blocks, writes them, and deletes the clone. */
static void trap(const char *path, const char *clone, size_t block, char **offsets)
{
	int fd = must_open(path, O_RDWR), other = must_open(clone, O_RDWR | O_CREAT | O_EXCL);
	char *bytes = buffer(block, 3);

	for (char **offset = offsets; *offset; offset++)
		must_clone(fd, atol(*offset), block, other, atol(*offset));
	for (char **offset = offsets; *offset; offset++)
		must_write(fd, bytes, block, atol(*offset));
	if (fsync(fd) || unlink(clone) || close(other) || syncfs(fd))
		err(1, "%s", clone);
}

/* Writes every byte in place that is not in a hole. */
static void rewrite(const char *path, const char *how)
{
	int fd = must_open(path, O_RDWR | (*how == 'd' ? O_DIRECT : 0));
	const size_t chunk = 1 << 20;
	char *bytes = buffer(chunk, 7), *map = MAP_FAILED;
	struct stat st;
	off_t offset = 0, end;

	if (fstat(fd, &st))
		err(1, "fstat");
	if (*how == 'm') {
		map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			err(1, "mmap");
	}
	while ((offset = lseek(fd, offset, SEEK_DATA)) >= 0) {
		end = lseek(fd, offset, SEEK_HOLE);
		while (offset < end) {
			size_t length = (size_t)(end - offset) < chunk ? (size_t)(end - offset) : chunk;

			/* The part of a block at the end cannot be written directly. */
			if (*how == 'd' && length > 4096)
				length &= ~(size_t)4095;
			else if (*how == 'd' && length % 512)
				fcntl(fd, F_SETFL, O_RDWR);
			if (*how == 'm')
				memcpy(map + offset, bytes, length);
			else
				must_write(fd, bytes, length, offset);
			offset += (off_t)length;
		}
	}
	if (map != MAP_FAILED && msync(map, (size_t)st.st_size, MS_SYNC))
		err(1, "msync");
	if (fsync(fd))
		err(1, "fsync");
}

/* Keeps a shared mapping made through a descriptor that was open for writing, until standard input ends. */
static void keep(const char *path)
{
	int fd = must_open(path, O_RDWR);

	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
		err(1, "mmap");
	close(fd);
	puts("mapped");
	fflush(stdout);
	while (getchar() != EOF)
		;
}

int main(int argc, char **argv)
{
	if (argc == 7 && !strcmp(argv[1], "build"))
		build(argv[2], argv[3], atol(argv[4]), (size_t)atol(argv[5]), argv[6]);
	else if (argc >= 6 && !strcmp(argv[1], "trap"))
		trap(argv[2], argv[3], (size_t)atol(argv[4]), argv + 5);
	else if (argc == 4 && !strcmp(argv[1], "rewrite"))
		rewrite(argv[2], argv[3]);
	else if (argc == 3 && !strcmp(argv[1], "keep"))
		keep(argv[2]);
	else
		errx(2, "usage: build FILE SOURCE COUNT BLOCK ascending|descending|random | trap FILE CLONE BLOCK "
			"OFFSET... | "
			"rewrite FILE direct|buffered|mapped | keep FILE");
	return 0;
}
