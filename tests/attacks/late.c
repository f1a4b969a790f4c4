// late splice|closed|queue FILE: calls that the kernel checks before they change FILE, and that wait after the check. Goes on
// at each line that it gets.
//
// splice and closed: a splice of a page past FILE's end, from a pipe in which nothing is. closed closes its descriptor of
// FILE meanwhile. Says "inside" when the call waits; then fills the pipe, and says how many bytes the call copied.
//
// queue: two writes. The first holds FILE's lock, because the kernel waits for a page of its buffer, and says "locked". Then
// the second begins, in FILE's last block and past its end, and waits for that lock: "queued". Then the first ends, and the
// second waits for its own buffer: "locked". Then it ends; says how many bytes it wrote.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096 };

struct call {
	void *(*make)(void *);
	char *buffer;
	size_t length;
	off_t offset;
	long result;
	pthread_t thread;
	pid_t id;
};

static int fd;
static int ends[2];

static void say(const char *what)
{
	puts(what);
	fflush(stdout);
}

static void next_line(void)
{
	int byte;
	while ((byte = getchar()) != '\n')
		if (byte == EOF)
			_exit(0);
}

static void *copy(void *argument)
{
	struct call *call = argument;
	__atomic_store_n(&call->id, gettid(), __ATOMIC_RELEASE);
	call->result = splice(ends[0], NULL, fd, NULL, PAGE, 0);
	return NULL;
}

static void *put(void *argument)
{
	struct call *call = argument;
	__atomic_store_n(&call->id, gettid(), __ATOMIC_RELEASE);
	call->result = pwrite(fd, call->buffer, call->length, call->offset);
	return NULL;
}

static void begin(struct call *call)
{
	if (pthread_create(&call->thread, NULL, call->make, call))
		errx(2, "pthread_create");
}

// Waits until the call waits.
static void until_it_waits(struct call *call, long number)
{
	char path[64], was[16];
	snprintf(was, sizeof was, "%ld ", number);
	for (;; usleep(10000)) {
		pid_t id = __atomic_load_n(&call->id, __ATOMIC_ACQUIRE);
		if (!id)
			continue;
		char now[256] = "";
		snprintf(path, sizeof path, "/proc/self/task/%d/syscall", id);
		FILE *file = fopen(path, "r");
		if (!file || !fgets(now, sizeof now, file))
			err(2, "%s", path);
		fclose(file);
		if (!strncmp(now, was, strlen(was)))
			return;
	}
}

// Two pages, of which the kernel waits for the first.
static char *stalling_pages(int faults)
{
	char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register range = { .range = { (uintptr_t)pages, PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	if (pages == MAP_FAILED || ioctl(faults, UFFDIO_REGISTER, &range))
		err(2, "UFFDIO_REGISTER");
	memset(pages + PAGE, 'l', PAGE);
	return pages;
}

static void wait_for_fault(int faults)
{
	struct uffd_msg message;
	if (read(faults, &message, sizeof message) != sizeof message)
		err(2, "userfaultfd");
}

static void fill(int faults, char *pages)
{
	static char contents[PAGE] __attribute__((aligned(PAGE)));
	memset(contents, 'l', PAGE);
	struct uffdio_copy copy = { .dst = (uintptr_t)pages, .src = (uintptr_t)contents, .len = PAGE };
	if (ioctl(faults, UFFDIO_COPY, &copy))
		err(2, "UFFDIO_COPY");
}

static void queue(off_t size)
{
	struct uffdio_api api = { .api = UFFD_API };
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (faults < 0 || ioctl(faults, UFFDIO_API, &api))
		err(2, "userfaultfd");
	struct call first = { .make = put, .buffer = stalling_pages(faults), .length = PAGE };
	struct call second = {
		.make = put, .buffer = stalling_pages(faults), .length = 2 * PAGE, .offset = size - PAGE
	};
	begin(&first);
	wait_for_fault(faults);
	say("locked");
	next_line();
	begin(&second);
	until_it_waits(&second, SYS_pwrite64);
	say("queued");
	next_line();
	fill(faults, first.buffer);
	pthread_join(first.thread, NULL);
	wait_for_fault(faults);
	say("locked");
	next_line();
	fill(faults, second.buffer);
	pthread_join(second.thread, NULL);
	printf("%ld\n", second.result);
}

int main(int argc, char **argv)
{
	struct stat st;
	if (argc != 3)
		return 2;
	fd = open(argv[2], O_RDWR);
	if (fd < 0 || fstat(fd, &st))
		err(2, "%s", argv[2]);
	if (!strcmp(argv[1], "queue")) {
		queue(st.st_size);
		return 0;
	}
	struct call call = { .make = copy };
	if (lseek(fd, 0, SEEK_END) < 0 || pipe(ends))
		err(2, "pipe");
	begin(&call);
	until_it_waits(&call, SYS_splice);
	if (!strcmp(argv[1], "closed"))
		close(fd);
	say("inside");
	next_line();
	static char page[PAGE];
	if (write(ends[1], page, PAGE) != PAGE)
		err(2, "write");
	pthread_join(call.thread, NULL);
	printf("%ld\n", call.result);
	return 0;
}
