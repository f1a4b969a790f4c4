// The floor of list on XFS: bulkstat DIRECTORY reads every inode of the filesystem with XFS_IOC_BULKSTAT, 1,024 a call, and
// prints how many regular files there are.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <xfs/xfs.h>

enum { INODES = 1024 };

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;
	struct xfs_bulkstat_req *request = calloc(1, XFS_BULKSTAT_REQ_SIZE(INODES));
	unsigned long long files = 0;

	if (fd < 0 || !request)
		return 2;
	request->hdr.icount = INODES;
	do {
		if (ioctl(fd, XFS_IOC_BULKSTAT, request) < 0) {
			perror("XFS_IOC_BULKSTAT");
			return 2;
		}
		for (unsigned i = 0; i < request->hdr.ocount; i++)
			files += S_ISREG(request->bulkstat[i].bs_mode);
	} while (request->hdr.ocount > 0);
	printf("%llu\n", files);
	return 0;
}
