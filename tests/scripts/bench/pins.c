// pins pin|unpin LIST: the floor of pin and unpin. Makes the changes to each file of LIST that must become durable, in the batches and
// with the waits of daxfile: pin sets an attribute, waits for the device, sets the immutable flag, and waits again; unpin
// clears the flag, removes the attribute, and waits. It proves nothing about the files.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

// The length of the record of a file of one extent.
enum { BATCH = 1000, RECORD = 133 };

static const char name[] = "security.daxfile.pin";

static void need(const char *call, int returned)
{
	if (returned < 0) {
		perror(call);
		exit(2);
	}
}

static void set_immutable(int fd, int on)
{
	struct fsxattr attributes;

	need("FS_IOC_FSGETXATTR", ioctl(fd, FS_IOC_FSGETXATTR, &attributes));
	attributes.fsx_xflags &= ~FS_XFLAG_IMMUTABLE;
	attributes.fsx_xflags |= on ? FS_XFLAG_IMMUTABLE : 0;
	need("FS_IOC_FSSETXATTR", ioctl(fd, FS_IOC_FSSETXATTR, &attributes));
}

int main(int argc, char **argv)
{
	static char path[4096], record[RECORD];
	int pin = argc == 3 && strcmp(argv[1], "pin") == 0, fds[BATCH], count, i;
	FILE *list = argc == 3 ? fopen(argv[2], "r") : NULL;

	if (!list)
		return 2;
	do {
		for (count = 0; count < BATCH && fgets(path, sizeof path, list); count++) {
			path[strcspn(path, "\n")] = '\0';
			need("open", fds[count] = open(path, O_RDONLY | O_CLOEXEC));
		}
		if (count == 0)
			break;
		for (i = 0; i < count; i++) {
			if (pin) {
				need("fsetxattr", fsetxattr(fds[i], name, record, sizeof record, 0));
			} else {
				set_immutable(fds[i], 0);
				need("fremovexattr", fremovexattr(fds[i], name));
			}
		}
		need("syncfs", syncfs(fds[0]));
		if (pin) {
			for (i = 0; i < count; i++)
				set_immutable(fds[i], 1);
			usleep(5000);
			need("syncfs", syncfs(fds[0]));
		}
		for (i = 0; i < count; i++)
			close(fds[i]);
	} while (count == BATCH);
	return 0;
}
