// hog: takes the processor away from every other task, for some milliseconds at a time, as a real-time thread.
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(void)
{
	struct sched_param most = { .sched_priority = 50 };

	if (sched_setscheduler(0, SCHED_FIFO, &most) < 0) {
		perror("sched_setscheduler");
		return 2;
	}
	for (;;) {
		long long until = now() + 1000000LL * (1 + random() % 6);

		while (now() < until)
			;
		usleep(500 + random() % 8000);
	}
}
