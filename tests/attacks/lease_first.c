// lease_first FILE record|recorded
//
// An obvious way to freeze a file: a lease, and under it a record and the immutable flag. A process that has passed the
// permission check and waits for the lease has the file open for writing afterwards. With `recorded`, the file has a record
// already, the program asks for the lease again and again, and gives other processes time to open the file.
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
	int fd = argc == 3 ? open(argv[1], O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
	signal(SIGIO, SIG_IGN);
	if (fd < 0)
		return failed("open");
	int recorded = !strcmp(argv[2], "recorded"), tries = recorded ? 100000 : 1;
	while (fcntl(fd, F_SETLEASE, F_RDLCK))
		if (errno != EAGAIN || !--tries)
			return failed("F_SETLEASE");
	for (int i = 0; recorded && i < 1000 && fcntl(fd, F_GETLEASE) == F_RDLCK; i++)
		usleep(100);
	if (!recorded && (fsetxattr(fd, "security.daxfile.pin", "control", 7, 0) || fsync(fd)))
		return failed("fsetxattr");
	if (ioctl(fd, FS_IOC_FSGETXATTR, &attributes))
		return failed("FS_IOC_FSGETXATTR");
	attributes.fsx_xflags |= FS_XFLAG_IMMUTABLE;
	if (ioctl(fd, FS_IOC_FSSETXATTR, &attributes) || fsync(fd))
		return failed("FS_IOC_FSSETXATTR");
	fcntl(fd, F_SETLEASE, F_UNLCK);
	return 0;
}
