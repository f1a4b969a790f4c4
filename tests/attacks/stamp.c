// stamp FILE LOG BLOCK buffered|mmap|direct held|reopen|nonblock SEED
//
// Stamps a growing counter, in a pattern, into every block in random order until stdin is closed, and logs the acknowledged
// writes. Before every other write it reads the block, which must be unchanged since its last write.
#include "attack.h"

static const char *path;
static uint64_t size, block, seed;
static enum { BUFFERED, MAPPED, DIRECT } mode;
static int reopen, flags = O_RDWR;

struct file {
	int fd;
	char *map;
};

static void pattern(uint64_t *words, uint64_t number, uint64_t counter)
{
	memset(words, 0, block);
	for (uint64_t i = 0; counter && i < block / 8; i++)
		words[i] = i ? mix(counter << 40 ^ number << 16 ^ i) : counter;
}

static struct file open_file(void)
{
	struct file file = { .fd = open_patiently(path, flags) };
	if (mode == MAPPED) {
		file.map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);
		if (file.map == MAP_FAILED)
			die("mmap");
	}
	return file;
}

static void close_file(struct file file)
{
	if (file.map && munmap(file.map, size))
		die("munmap");
	if (close(file.fd))
		die("close");
}

static void stamp(struct file file, uint64_t number, uint64_t *expected, uint64_t *found, uint64_t *random)
{
	_Atomic uint64_t *acknowledged = &head[HEAD + number];
	uint64_t offset = number * block, counter = *acknowledged;
	uint64_t length = size - offset < block ? size - offset : block;

	if (roll(random) % 2) {
		if (file.map)
			memcpy(found, file.map + offset, length);
		else if (pread(file.fd, found, block, offset) != (ssize_t)length)
			die("pread");
		pattern(expected, number, counter);
		if (memcmp(expected, found, length))
			lost("block %lu: counter %lu, acknowledged %lu\n", number, found[0], counter);
	}
	pattern(expected, number, counter + 1);
	if (file.map)
		memcpy(file.map + offset, expected, length);
	else if (pwrite(file.fd, expected, length, offset) != (ssize_t)length)
		die("pwrite");
	*acknowledged = counter + 1;
	head[WRITES]++;
	// Pages written back are write-protected again, and so meet the filesystem again.
	if (roll(random) % 64 == 0)
		sync_data(file.fd);
}

// Each thread has every second block.
static void *stamp_blocks(void *remainder)
{
	uint64_t random = seed ^ (uintptr_t)remainder << 32, count = 0;
	// A direct write cannot end within a block.
	uint64_t blocks = mode == DIRECT ? size / block : (size + block - 1) / block;
	uint64_t *order = aligned(blocks * sizeof *order), *expected = aligned(block), *found = aligned(block);
	for (uint64_t b = (uintptr_t)remainder; b < blocks; b += 2)
		order[count++] = b;
	struct file file = { 0 };
	if (!reopen)
		file = open_file();
	while (!stop) {
		for (uint64_t i = count - 1; i > 0; i--) {
			uint64_t j = roll(&random) % (i + 1), swapped = order[i];
			order[i] = order[j];
			order[j] = swapped;
		}
		for (uint64_t i = 0; i < count && !stop; i++) {
			if (reopen) {
				pause_between_opens(&random);
				file = open_file();
			}
			stamp(file, order[i], expected, found, &random);
			if (reopen)
				close_file(file);
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 7)
		return 2;
	path = argv[1];
	block = strtoull(argv[3], NULL, 10);
	mode = *argv[4] == 'm' ? MAPPED : *argv[4] == 'd' ? DIRECT : BUFFERED;
	reopen = strcmp(argv[5], "held");
	seed = mix(strtoull(argv[6], NULL, 10));
	flags |= (mode == DIRECT ? O_DIRECT : 0) | (*argv[5] == 'n' ? O_NONBLOCK : 0);
	struct stat st;
	if (stat(path, &st))
		die(path);
	size = st.st_size;
	begin(argv[2]);
	pthread_t other;
	if (pthread_create(&other, NULL, stamp_blocks, (void *)1))
		die("pthread_create");
	stamp_blocks(NULL);
	pthread_join(other, NULL);
	return head[LOST] ? 1 : 0;
}
