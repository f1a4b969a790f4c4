// lease_first FILE
//
// An obvious way to freeze a file: a lease, and under it a record and the immutable flag. Whoever is past the permission
// check and waits for the lease has the file open for writing afterwards.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>


static int failed(const char *call)
{
	int busy = errno == EAGAIN;
	if (!busy)
		fprintf(stderr, "%s: %s\n", call, strerror(errno));
	return busy ? 5 : 2;
}

int main(int argc, char **argv)
{
	struct fsxattr attributes;
	int fd = argc == 2 ? open(argv[1], O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
	signal(SIGIO, SIG_IGN);
	if (fd < 0)
		return failed("open");
	if (fcntl(fd, F_SETLEASE, F_RDLCK))
		return failed("F_SETLEASE");
	if (fsetxattr(fd, "security.daxfile.pin", "control", 7, 0) || fsync(fd))
		return failed("fsetxattr");
	if (ioctl(fd, FS_IOC_FSGETXATTR, &attributes))
		return failed("FS_IOC_FSGETXATTR");
	attributes.fsx_xflags |= FS_XFLAG_IMMUTABLE;
	if (ioctl(fd, FS_IOC_FSSETXATTR, &attributes) || fsync(fd))
		return failed("FS_IOC_FSSETXATTR");
	fcntl(fd, F_SETLEASE, F_UNLCK);
	return 0;
}
