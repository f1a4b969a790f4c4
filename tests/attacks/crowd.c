// crowd FILE CLONE SECONDS: tasks in a crowd on one processor, which a real-time task takes from them again and again. They
// write to FILE in place, append to it, and share its blocks with CLONE. Prints of each of these how often it was done, and
// how often it was refused.
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WRITE, APPEND, SHARE, KINDS, TASKS = 24, BLOCK = 4096 };

struct counts {
	long done, refused;
};

static char block[BLOCK];

static int act(int kind, int fd, int clone)
{
	struct iovec vector = { block, sizeof block };
	struct file_clone_range range = { .src_fd = fd, .src_length = BLOCK };
	switch (kind) {
	case WRITE:
		return pwrite(fd, block, sizeof block, 0) < 0;
	case APPEND:
		return pwritev2(fd, &vector, 1, 0, RWF_APPEND) < 0;
	default:
		return ioctl(clone, FICLONERANGE, &range) < 0;
	}
}

static void crowd(int kind, struct counts *counts, char **argv)
{
	int fd = open(argv[1], O_RDWR), clone = open(argv[2], O_RDWR | O_CREAT, 0600);
	if (fd < 0 || clone < 0)
		err(2, "open");
	for (;;) {
		if (!act(kind, fd, clone))
			__atomic_add_fetch(&counts->done, 1, __ATOMIC_RELAXED);
		else if (errno == ETXTBSY || errno == EOPNOTSUPP)
			__atomic_add_fetch(&counts->refused, 1, __ATOMIC_RELAXED);
		else
			err(2, "%s", argv[1]);
	}
}

// Takes the processor, and gives it back, at times that are unrelated to the work of the other tasks.
static void interrupt(void)
{
	struct sched_param most = { .sched_priority = 50 };
	if (sched_setscheduler(0, SCHED_FIFO, &most))
		err(2, "sched_setscheduler");
	for (;;)
		usleep(20 + random() % 400);
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	struct counts *counts =
		mmap(NULL, KINDS * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cpu_set_t first;
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	if (counts == MAP_FAILED || sched_setaffinity(0, sizeof first, &first))
		err(2, "sched_setaffinity");
	pid_t tasks[TASKS + 1];
	for (int i = 0; i <= TASKS; i++) {
		tasks[i] = fork();
		if (tasks[i] < 0)
			err(2, "fork");
		if (tasks[i])
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (i == TASKS)
			interrupt();
		if (nice(i % 8) < 0)
			err(2, "nice");
		// Half of them write.
		int kind = i % 4 == 1 ? APPEND : i % 4 == 3 ? SHARE : WRITE;
		crowd(kind, &counts[kind], argv);
	}
	sleep(atoi(argv[3]));
	int failed = 0;
	for (int i = 0; i <= TASKS; i++) {
		int status;
		kill(tasks[i], SIGKILL);
		failed |= waitpid(tasks[i], &status, 0) < 0 || !WIFSIGNALED(status);
	}
	if (failed)
		errx(2, "a task ended by itself");
	for (int kind = 0; kind < KINDS; kind++)
		printf("%ld %ld\n", counts[kind].done, counts[kind].refused);
	return 0;
}
