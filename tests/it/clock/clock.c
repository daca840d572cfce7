/* The system's clock shows the second that CLOCK_SECONDS has; other clocks go on as they are. */

#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *time)
{
    const char *seconds = getenv("CLOCK_SECONDS");
    int result = (int)syscall(SYS_clock_gettime, id, time);

    if (result == 0 && id == CLOCK_REALTIME && seconds)
        time->tv_sec = atoll(seconds);
    return result;
}
