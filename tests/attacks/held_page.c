/*
 * held_page FILE closed|mapped: has the kernel hold on to a page of the file for a pipe, with neither mapping nor descriptor left;
 * or keeps one mapped for reading. Says "held", and waits to be killed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int closed = !strcmp(argv[2], "closed");
	int fd = open(argv[1], closed ? O_RDWR : O_RDONLY);
	int prot = closed ? PROT_READ | PROT_WRITE : PROT_READ;
	char *page = mmap(NULL, 4096, prot, MAP_SHARED, fd, 0);
	int pipes[2];
	if (fd < 0 || page == MAP_FAILED || pipe(pipes))
		return 3;
	volatile char first = *page;
	struct iovec piece = { .iov_base = page, .iov_len = 4096 };
	if (closed && (vmsplice(pipes[1], &piece, 1, 0) != 4096 || munmap(page, 4096)))
		return 4;
	close(fd);
	(void)first;
	puts("held");
	fflush(stdout);
	pause();
	return 0;
}
