// append FILE LOG BLOCK buffered|direct held|reopen|nonblock SEED [truncate]
//
// Appends records until stdin is closed, and writes the acknowledged size to the log. The offset determines each byte.
// With `truncate`, it sometimes truncates the file to zero first. Before each record it checks the size, and the end of
// the last record.
#include "attack.h"

static const uint64_t MOST = 24 << 20;

static void pattern(unsigned char *bytes, uint64_t offset, uint64_t length)
{
	for (uint64_t i = offset; i < offset + length; i++)
		*bytes++ = mix(i / 8) >> (i % 8 * 8);
}

static int unchanged(int fd, uint64_t block, uint64_t size, unsigned char *expected, unsigned char *found)
{
	struct stat st;
	if (fstat(fd, &st))
		die("fstat");
	if ((uint64_t)st.st_size != size) {
		lost("size %lu, acknowledged %lu\n", st.st_size, size);
		return 0;
	}
	uint64_t from = size / block * block;
	from = from == size && from ? from - block : from;
	if (from < head[FROM])
		return 1;
	ssize_t length = pread(fd, found, block, from);
	if (length < 0)
		die("pread");
	if ((uint64_t)length != size - from) {
		lost("cut at offset %lu, acknowledged %lu\n", from + length, size);
		return 0;
	}
	pattern(expected, from, size - from);
	if (memcmp(expected, found, size - from)) {
		lost("changed after offset %lu of %lu\n", from, size);
		return 0;
	}
	return 1;
}

int main(int argc, char **argv)
{
	if (argc != 7 && argc != 8)
		return 2;
	uint64_t block = strtoull(argv[3], NULL, 10), random = mix(strtoull(argv[6], NULL, 10)), size;
	int direct = *argv[4] == 'd', reopen = strcmp(argv[5], "held"), fd = -1;
	int flags = O_RDWR | (direct ? O_DIRECT : O_APPEND) | (*argv[5] == 'n' ? O_NONBLOCK : 0);
	unsigned char *record = aligned(8 * block), *found = aligned(block);
	begin(argv[2]);
	size = head[SIZE];

	while (!stop) {
		// Slowly, because the file must not outgrow the filesystem.
		pause_us(roll(&random) % 500 + (size > MOST ? 2000 : 0));
		if (reopen)
			pause_between_opens(&random);
		if (fd < 0)
			fd = open_patiently(argv[1], flags);
		if (!unchanged(fd, block, size, record, found))
			break;
		if (argc == 8 && roll(&random) % 100 == 0) {
			if (ftruncate(fd, 0))
				die("ftruncate");
			head[FROM] = head[SIZE] = size = 0;
		}
		uint64_t length = (1 + roll(&random) % 3) * block + (direct ? 0 : roll(&random) % block);
		pattern(record, size, length);
		if (size <= MOST && pwrite(fd, record, length, size) != (ssize_t)length)
			die("pwrite");
		head[SIZE] = size += size <= MOST ? length : 0;
		head[WRITES]++;
		if (roll(&random) % 32 == 0)
			sync_data(fd);
		if (reopen) {
			if (close(fd))
				die("close");
			fd = -1;
		}
	}
	return head[LOST] ? 1 : 0;
}
