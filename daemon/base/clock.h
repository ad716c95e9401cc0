/* The one reader of CLOCK_MONOTONIC. Times are nanoseconds, durations too; NS_NEVER is "no time".
 */
#ifndef RINGLET_BASE_CLOCK_H
#define RINGLET_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S  UINT64_C(1000000000)
#define NS_NEVER  UINT64_MAX

static inline uint64_t clock_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

#endif
