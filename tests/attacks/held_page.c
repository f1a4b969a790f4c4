/*
 * held_page FILE closed|mapped: has the kernel hold on to a page of the file for a pipe, with neither mapping nor descriptor left;
 * or keeps one mapped for reading. Says "held", and waits to be killed.
 * held_page FILE reading DEVICE: the same for a direct read of the device, which the kernel stores into the page.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int begin_reading(const char *device, char *page)
{
	aio_context_t context = 0;
	struct iocb read = { .aio_lio_opcode = IOCB_CMD_PREAD,
			     .aio_fildes = open(device, O_RDONLY | O_DIRECT),
			     .aio_buf = (uintptr_t)page,
			     .aio_nbytes = 4096 };
	struct iocb *reads = &read;
	return syscall(SYS_io_setup, 1, &context) || syscall(SYS_io_submit, context, 1, &reads) != 1;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	int closed = !strcmp(argv[2], "closed");
	int reading = argc == 4;
	int fd = open(argv[1], closed || reading ? O_RDWR : O_RDONLY);
	int prot = closed || reading ? PROT_READ | PROT_WRITE : PROT_READ;
	char *page = mmap(NULL, 4096, prot, MAP_SHARED, fd, 0);
	int pipes[2];
	if (fd < 0 || page == MAP_FAILED || pipe(pipes))
		return 3;
	volatile char first = *page;
	struct iovec piece = { .iov_base = page, .iov_len = 4096 };
	if (closed && (vmsplice(pipes[1], &piece, 1, 0) != 4096 || munmap(page, 4096)))
		return 4;
	if (reading && (begin_reading(argv[3], page) || munmap(page, 4096)))
		return 5;
	close(fd);
	(void)first;
	puts("held");
	fflush(stdout);
	pause();
	return 0;
}
