// intruder FILE map|write|append|empty|cut
//
// Gets into a file, once: by a mapping whose descriptor is closed again, by a descriptor, by O_TRUNC, or by truncate(2),
// which leaves nothing inside. Says "in" or "refused". At each line on stdin it changes the file, and says "changed" or
// "refused"; at its end it goes away.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static sigjmp_buf fault;

static void on_sigbus(int signal)
{
	(void)signal;
	siglongjmp(fault, 1);
}

static int answer(const char *done, int failed)
{
	printf("%s\n", failed ? "refused" : done);
	fflush(stdout);
	return failed;
}

int main(int argc, char **argv)
{
	char line[16], bytes[4096] = { 1 }, *volatile map = NULL;
	struct stat st;
	int fd = -1, flags = O_RDWR | O_CLOEXEC;
	if (argc != 3)
		return 2;
	const char *how = argv[2];
	flags |= !strcmp(how, "append") ? O_APPEND : !strcmp(how, "empty") ? O_TRUNC : 0;
	signal(SIGBUS, on_sigbus);
	if (!strcmp(how, "cut"))
		return answer("in", truncate(argv[1], 4096)) ? 1 : 0;
	fd = open(argv[1], flags);
	if (fd >= 0 && !strcmp(how, "map")) {
		map = mmap(NULL, sizeof bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	}
	if (answer("in", fd < 0 || map == MAP_FAILED))
		return 1;
	while (fgets(line, sizeof line, stdin)) {
		volatile int failed = 1;
		if (map && !sigsetjmp(fault, 1)) {
			*(volatile char *)map = map[0] + 1;
			failed = 0;
		} else if (!map && !fstat(fd, &st)) {
			failed = pwrite(fd, bytes, sizeof bytes, st.st_size) < 0;
		}
		answer("changed", failed);
	}
	return 0;
}
