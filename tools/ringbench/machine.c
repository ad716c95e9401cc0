/* What machine this is, pinning, the clock, and progress lines. */
#include "tools/ringbench/bench.h"

#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static bool progress_open;

uint64_t bench_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int bench_cpus(int *cpus, int max)
{
    cpu_set_t set;
    int n = 0;
    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && n < max; cpu++)
        if (CPU_ISSET(cpu, &set))
            cpus[n++] = cpu;
    return n;
}

void bench_pin(int cpu)
{
    if (cpu < 0)
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        fprintf(stderr, "ringbench: cannot pin to CPU %d; going on unpinned\n", cpu);
}

static bool read_line(const char *path, char *line, size_t bytes)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool ok = fgets(line, (int)bytes, file) != NULL;
    fclose(file);
    if (ok)
        line[strcspn(line, "\n")] = 0;
    return ok;
}

/* Last-level cache of a CPU as the kernel lists it, "" if it does not tell. */
static void cache_list(int cpu, char *list, size_t bytes)
{
    char path[128];
    list[0] = 0;
    for (int index = 3; index >= 2 && !list[0]; index--) {
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/cache/index%d/shared_cpu_list",
                 cpu, index);
        if (!read_line(path, list, bytes))
            list[0] = 0;
    }
}

bool bench_same_cache(int cpu_a, int cpu_b)
{
    char a[256], b[256];
    cache_list(cpu_a, a, sizeof(a));
    cache_list(cpu_b, b, sizeof(b));
    return a[0] && strcmp(a, b) == 0;
}

static void cpu_model(char *model, size_t bytes)
{
    char line[512];
    snprintf(model, bytes, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && fgets(line, sizeof(line), file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            colon[strcspn(colon, "\n")] = 0;
            snprintf(model, bytes, "%s", colon + 2);
            break;
        }
    }
    if (file)
        fclose(file);
}

static const char *idle_driver(char *line, size_t bytes)
{
    if (!read_line("/sys/devices/system/cpu/cpuidle/current_driver", line, bytes))
        snprintf(line, bytes, "none");
    return line;
}

void bench_machine_line(char *line, size_t bytes)
{
    char model[128], idle[64];
    struct utsname name;
    int cpus[64], n = bench_cpus(cpus, 64);
    cpu_model(model, sizeof(model));
    uname(&name);
    snprintf(line, bytes, "%s, %d CPUs%s, Linux %s, idle driver %s", model, n,
             n < 2                                ? ""
             : bench_same_cache(cpus[0], cpus[1]) ? " (first two share their last-level cache)"
                                                  : " (first two in different caches)",
             name.release, idle_driver(idle, sizeof(idle)));
}

void bench_write_machine_json(FILE *out)
{
    char model[128], idle[64], date[64];
    struct utsname name;
    int cpus[64], n = bench_cpus(cpus, 64);
    time_t now = time(NULL);
    struct tm utc;
    cpu_model(model, sizeof(model));
    uname(&name);
    gmtime_r(&now, &utc);
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &utc);
    for (char *c = model; *c; c++)
        if (*c == '"' || *c == '\\')
            *c = ' ';
    fprintf(out,
            "{\"cpu\":\"%s\",\"cpus\":%d,\"same_last_level_cache\":%s,\"kernel\":\"%s\","
            "\"arch\":\"%s\",\"idle_driver\":\"%s\",\"date\":\"%s\"}",
            model, n, n > 1 && bench_same_cache(cpus[0], cpus[1]) ? "true" : "false", name.release,
            name.machine, idle_driver(idle, sizeof(idle)), date);
}

void bench_progress(const char *format, ...)
{
    static uint64_t told;
    bool tty = isatty(STDERR_FILENO);
    uint64_t now = bench_now_ns();
    if (now - told < (tty ? 100000000u : 5000000000u))
        return;
    told = now;
    va_list args;
    va_start(args, format);
    fputs(tty ? "\r\033[K" : "", stderr);
    vfprintf(stderr, format, args);
    fputs(tty ? "" : "\n", stderr);
    va_end(args);
    progress_open = tty;
}

void bench_progress_end(void)
{
    if (progress_open)
        fputs("\r\033[K", stderr);
    progress_open = false;
}
