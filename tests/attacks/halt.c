// halt count OUT PATH PROGRAM ARGS...
// halt crash N FLAVOUR MOUNTPOINT PROGRAM ARGS...
// halt hold N FILE PROGRAM ARGS...
//
// Runs a program under ptrace(2), and stops it at the entry of its Nth system call; ends with its status.
//
// `count` writes to OUT which call is the first one after PATH was named in a call, and how many calls there are. `crash`
// shuts the filesystem down while the program is stopped, or after its end where it makes fewer calls. `hold` makes FILE
// once it is stopped, and lets it go on once FILE is gone.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// The same number for XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN: 0 freezes first, 1 flushes the log, 2 does not.
#define GOINGDOWN _IOR('X', 125, uint32_t)

static void die(const char *call)
{
	fprintf(stderr, "halt: %s: %s\n", call, strerror(errno));
	exit(99);
}

static void crash(const char *mount_point, uint32_t flavour)
{
	int fd = open(mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, GOINGDOWN, &flavour))
		die("GOINGDOWN");
	close(fd);
}

static void hold(const char *file)
{
	int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		die(file);
	close(fd);
	while (!access(file, F_OK))
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

// Whether the path is the first or the second argument of the call at whose entry the thread is stopped.
static int names(pid_t pid, const char *path)
{
	struct __ptrace_syscall_info info;
	char found[4096];
	size_t length = strlen(path) + 1;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) < 0)
		die("PTRACE_GET_SYSCALL_INFO");
	for (int i = 0; i < 2; i++) {
		struct iovec here = { found, length }, there = { (void *)(uintptr_t)info.entry.args[i], length };
		if (process_vm_readv(pid, &here, 1, &there, 1, 0) == (ssize_t)length && !memcmp(found, path, length))
			return 1;
	}
	return 0;
}

static int entering(pid_t pid)
{
	struct __ptrace_syscall_info info;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) < 0)
		die("PTRACE_GET_SYSCALL_INFO");
	return info.op == PTRACE_SYSCALL_INFO_ENTRY;
}

int main(int argc, char **argv)
{
	if (argc < 6)
		return 99;
	char mode = *argv[1] == 'c' ? argv[1][1] : 'h';
	char **program = argv + (mode == 'r' ? 5 : 4);
	unsigned long wanted = mode == 'o' ? 0 : strtoul(argv[2], NULL, 10), calls = 0, first = 0;

	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (!child) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) || raise(SIGSTOP))
			die("PTRACE_TRACEME");
		execvp(program[0], program);
		die(program[0]);
	}
	int status, running = 0, result = 99;
	if (waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status))
		die("waitpid");
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
	if (ptrace(PTRACE_SETOPTIONS, child, NULL, options) || ptrace(PTRACE_SYSCALL, child, NULL, NULL))
		die("PTRACE_SETOPTIONS");
	for (;;) {
		pid_t pid = waitpid(-1, &status, __WALL);
		if (pid < 0 && errno == ECHILD)
			break;
		if (pid < 0)
			die("waitpid");
		if (!WIFSTOPPED(status)) {
			if (pid == child)
				result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		int signal = 0;
		if (status >> 16 == PTRACE_EVENT_EXEC) {
			running = 1;
		} else if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
			if (running && entering(pid)) {
				calls++;
				if (mode == 'o' && !first && names(pid, argv[3]))
					first = calls + 1;
				if (calls == wanted && mode == 'r')
					crash(argv[4], atoi(argv[3]));
				if (calls == wanted && mode == 'h')
					hold(argv[3]);
			}
		} else if (!(status >> 16) && !(WSTOPSIG(status) == SIGSTOP && pid != child)) {
			signal = WSTOPSIG(status);
		}
		// It may have been killed meanwhile.
		if (ptrace(PTRACE_SYSCALL, pid, NULL, signal) && errno != ESRCH)
			die("PTRACE_SYSCALL");
	}
	if (mode == 'r' && calls < wanted)
		crash(argv[4], atoi(argv[3]));
	if (mode == 'o') {
		FILE *out = fopen(argv[2], "w");
		if (!out || fprintf(out, "%lu %lu\n", first, calls) < 0 || fclose(out))
			die(argv[2]);
	}
	return result;
}
