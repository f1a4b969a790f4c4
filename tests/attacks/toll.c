// toll FILE [empty]: nanoseconds of a pread, a pwrite, each of 4 KiB in the page cache, and an open with close: the median of
// many rounds. Where the processor takes a nanosecond for an instruction (tests/lab.sh --count), they are counts of
// instructions. With "empty", a BPF program that does nothing is attached to the hook file_permission meanwhile.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 40, CALLS = 2000 };

static char block[4096];

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;
	return (x > y) - (x < y);
}

// The number of a function in the kernel's type information.
static int number_of(const char *function)
{
	static const int extra[BTF_KIND_ENUM64 + 1] = {
		[BTF_KIND_INT] = 4,
		[BTF_KIND_ARRAY] = 12,
		[BTF_KIND_VAR] = 4,
		[BTF_KIND_DECL_TAG] = 4,
	};
	static const int each[BTF_KIND_ENUM64 + 1] = {
		[BTF_KIND_STRUCT] = 12,	   [BTF_KIND_UNION] = 12,   [BTF_KIND_ENUM] = 8,
		[BTF_KIND_FUNC_PROTO] = 8, [BTF_KIND_DATASEC] = 12, [BTF_KIND_ENUM64] = 12,
	};
	static char all[32 << 20];
	int from = open("/sys/kernel/btf/vmlinux", O_RDONLY);
	size_t length = 0;
	ssize_t got;
	while ((got = read(from, all + length, sizeof all - length)) > 0)
		length += got;
	struct btf_header *head = (void *)all;
	if (length < sizeof *head)
		err(2, "/sys/kernel/btf/vmlinux");
	char *names = all + head->hdr_len + head->str_off, *type = all + head->hdr_len + head->type_off;
	for (int number = 1; type < all + head->hdr_len + head->type_off + head->type_len; number++) {
		struct btf_type *t = (void *)type;
		int kind = BTF_INFO_KIND(t->info);
		if (kind == BTF_KIND_FUNC && !strcmp(names + t->name_off, function))
			return number;
		type += sizeof *t + extra[kind] + each[kind] * BTF_INFO_VLEN(t->info);
	}
	errx(2, "no function %s", function);
}

static void stand_at(const char *hook)
{
	struct bpf_insn nothing[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr load = { .prog_type = BPF_PROG_TYPE_LSM,
				.insns = (uintptr_t)nothing,
				.insn_cnt = 2,
				.license = (uintptr_t) "GPL",
				.expected_attach_type = BPF_LSM_MAC,
				.attach_btf_id = number_of(hook) };
	int program = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
	union bpf_attr link = { .link_create = { .prog_fd = program, .attach_type = BPF_LSM_MAC } };
	if (program < 0 || syscall(SYS_bpf, BPF_LINK_CREATE, &link, sizeof link) < 0)
		err(2, "bpf");
}

int main(int argc, char **argv)
{
	int fd = argc >= 2 ? open(argv[1], O_RDWR) : -1;
	if (fd < 0)
		err(2, "open");
	if (argc == 3)
		stand_at("bpf_lsm_file_permission");
	for (int what = 0; what < 3; what++) {
		long took[ROUNDS];
		for (int round = 0; round < ROUNDS; round++) {
			long start = now();
			for (int i = 0; i < CALLS; i++) {
				if (what == 0 ? pread(fd, block, sizeof block, 0) < 0 :
				    what == 1 ? pwrite(fd, block, sizeof block, 0) < 0 :
						close(open(argv[1], O_RDONLY)))
					err(2, "%s", argv[1]);
			}
			took[round] = (now() - start) / CALLS;
		}
		qsort(took, ROUNDS, sizeof *took, ascending);
		printf("%ld%c", took[ROUNDS / 2], what == 2 ? '\n' : ' ');
	}
}
