/*
 * `ringlet doctor`: what this machine gives to the daemon, a line each: ok, or what to do. Looks
 * only; changes nothing, needs no daemon and no privilege.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "config.h"
#include "kernels/cuda/gpu_facts.h"
#include "tools/ringlet/tool.h"

static unsigned n_advice, n_broken;

static void ok(const char *what, const char *format, ...) printf_like(2, 3);
static void advice(const char *what, const char *format, ...) printf_like(2, 3);

static void line(const char *mark, const char *what, const char *format, va_list ap)
{
    printf("%-6s %-12s ", mark, what);
    vprintf(format, ap);
    putchar('\n');
}

static void ok(const char *what, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    line("ok", what, format, ap);
    va_end(ap);
}

static void advice(const char *what, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    line("advice", what, format, ap);
    va_end(ap);
    n_advice++;
}

/* First line of a small file, without its newline; false when it cannot be read. */
static bool read_line(const char *path, char *text, size_t bytes)
{
    FILE *file = fopen(path, "re");
    bool got = file && fgets(text, (int)bytes, file);
    if (file)
        fclose(file);
    if (got)
        text[strcspn(text, "\n")] = '\0';
    return got;
}

/* The value of "Name: 123 kB" in a /proc file; 0 when it is not there. */
static uint64_t proc_kib(const char *path, const char *name)
{
    char text[256];
    uint64_t v = 0;
    FILE *file = fopen(path, "re");
    while (file && fgets(text, sizeof(text), file)) {
        size_t n = strlen(name);
        if (strncmp(text, name, n) == 0 && text[n] == ':')
            v = strtoull(text + n + 1, NULL, 10);
    }
    if (file)
        fclose(file);
    return v;
}

static void check_cpu(void)
{
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int usable = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)online;
    ok("cores", "%d usable of %ld online", usable, online);
    if (usable < 2)
        advice("cores", "with one core the daemon and its clients take turns: expect more latency");
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    bool vnni = __builtin_cpu_supports("avx512vnni");
    if (avx2)
        ok("simd", "AVX2%s%s", avx512 ? ", AVX-512" : "", vnni ? ", VNNI" : "");
    else
        advice("simd", "no AVX2: the CPU backend runs its plain code, many times slower");
#endif
}

static void check_caches(void)
{
    char text[128] = "", path[128], size[32], level[8], type[32];
    size_t n = 0;
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        if (!read_line(path, size, sizeof(size)))
            break;
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        if (!read_line(path, level, sizeof(level)))
            break;
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu0/cache/index%d/type", i);
        if (!read_line(path, type, sizeof(type)) || strcmp(type, "Instruction") == 0)
            continue;
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%sL%s %s", n ? ", " : "", level, size);
        if (n >= sizeof(text) - 1)
            break;
    }
    if (text[0])
        ok("caches", "%s", text);
}

/* Cores that share the last cache, and hardware threads that share a core. */
static void check_placement(void)
{
    char siblings[128];
    if (read_line("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list", siblings,
                  sizeof(siblings))) {
        if (strpbrk(siblings, ",-"))
            advice("placement",
                   "cores have several hardware threads (cpu0: %s): give ringletd whole cores "
                   "(--threads, --cpus)",
                   siblings);
        else
            ok("placement", "a hardware thread per core");
    }
    char nodes[64];
    if (read_line("/sys/devices/system/node/online", nodes, sizeof(nodes)) && strpbrk(nodes, ",-"))
        advice("numa", "memory nodes %s: keep ringletd on one (--cpus), or start one daemon each",
               nodes);
}

static void check_memory(void)
{
    uint64_t total = proc_kib("/proc/meminfo", "MemTotal");
    uint64_t available = proc_kib("/proc/meminfo", "MemAvailable");
    struct rlimit limit;
    char text[128];
    if (available < (1u << 20))
        advice("memory", "%.1f GiB of %.1f GiB available: small models only",
               (double)available / 1048576.0, (double)total / 1048576.0);
    else
        ok("memory", "%.1f GiB of %.1f GiB available", (double)available / 1048576.0,
           (double)total / 1048576.0);
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        if (limit.rlim_cur == RLIM_INFINITY)
            ok("memlock", "unlimited");
        else if (limit.rlim_cur >= (rlim_t)64 << 20)
            ok("memlock", "%llu MiB", (unsigned long long)(limit.rlim_cur >> 20));
        else
            advice("memlock",
                   "%llu KiB: raise it (ulimit -l, or LimitMEMLOCK= of the unit) so that "
                   "rings cannot be swapped out",
                   (unsigned long long)(limit.rlim_cur >> 10));
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 1024)
        advice("files", "%llu descriptors: each session takes five; raise ulimit -n",
               (unsigned long long)limit.rlim_cur);
    if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text))) {
        if (strstr(text, "[never]"))
            advice("huge pages", "off: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
        else
            ok("huge pages", "%s", text);
    }
}

/* The daemon needs io_uring; containers often refuse it. */
static void check_uring(void)
{
    uint64_t params[15] = { 0 }; /* struct io_uring_params is 120 bytes */
    char disabled[8];
    long fd = syscall(SYS_io_uring_setup, 4, params);
    if (fd >= 0) {
        close((int)fd);
        ok("io_uring", "works");
        return;
    }
    n_broken++;
    int error = errno;
    if (read_line("/proc/sys/kernel/io_uring_disabled", disabled, sizeof(disabled)) &&
        disabled[0] != '0')
        advice("io_uring",
               "ringletd cannot run: kernel.io_uring_disabled is %s: sysctl "
               "kernel.io_uring_disabled=0",
               disabled);
    else if (error == EPERM || error == ENOSYS)
        advice("io_uring",
               "ringletd cannot run: %s: allow it in the container's seccomp profile, "
               "or use Linux 5.19 or later",
               strerror(error));
    else
        advice("io_uring", "ringletd cannot run: %s", strerror(error));
}

/* Deep idle states cost tens of microseconds at each wake-up. */
static void check_idle(void)
{
    char path[160], text[64], name[64] = "";
    uint64_t worst = 0;
    for (int i = 0; i < 16; i++) {
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu0/cpuidle/state%d/latency", i);
        if (!read_line(path, text, sizeof(text)))
            break;
        uint64_t us = strtoull(text, NULL, 10);
        if (us < worst)
            continue;
        worst = us;
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu0/cpuidle/state%d/name", i);
        read_line(path, name, sizeof(name));
    }
    if (worst == 0)
        ok("idle", "no idle states are visible (a virtual machine, or polling)");
    else if (worst <= 20)
        ok("idle", "deepest state %s wakes within %llu us", name, (unsigned long long)worst);
    else if (access("/dev/cpu_dma_latency", W_OK) == 0)
        ok("idle",
           "deepest state %s takes %llu us; ringletd may hold it off for low-latency "
           "clients",
           name, (unsigned long long)worst);
    else
        advice("idle",
               "deepest state %s takes %llu us to wake; let ringletd write "
               "/dev/cpu_dma_latency, or use --spin always",
               name, (unsigned long long)worst);
    if (read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", text, sizeof(text)) &&
        strcmp(text, "powersave") == 0)
        advice("frequency", "governor powersave: cpupower frequency-set -g performance");
}

/* The driver that the CUDA module would meet; silent where there is neither driver nor GPU. */
static void check_driver(unsigned n_gpu)
{
    void *lib = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    void *symbol = lib ? dlsym(lib, "cuDriverGetVersion") : NULL;
    struct gpu_facts facts = { .n_gpu = 1 };
    char why[160];
    int (*version)(int *);
    memcpy(&version, &symbol, sizeof(version));
    if (version && version(&facts.driver) != 0)
        facts.driver = 0;
    if ((n_gpu > 0 || facts.driver > 0) && gpu_facts_check(&facts, why, sizeof(why)))
        advice("driver", "%s", why);
    else if (facts.driver > 0)
        ok("driver", "NVIDIA, for CUDA %d.%d", facts.driver / 1000, facts.driver % 1000 / 10);
    if (lib)
        dlclose(lib);
}

static void check_gpus(void)
{
    DIR *dir = opendir("/proc/driver/nvidia/gpus");
    struct dirent *entry;
    unsigned n = 0;
    while (dir && (entry = readdir(dir))) {
        char path[512], text[320];
        FILE *file;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/driver/nvidia/gpus/%s/information", entry->d_name);
        file = fopen(path, "re");
        if (!file || !fgets(text, sizeof(text), file))
            snprintf(text, sizeof(text), "GPU at %s", entry->d_name);
        if (file)
            fclose(file);
        text[strcspn(text, "\n")] = '\0';
        char *model = strchr(text, ':');
        model = model ? model + 1 + strspn(model + 1, " \t") : text;
        if (access("/dev/nvidiactl", R_OK | W_OK) == 0)
            ok("gpu", "%s", model);
        else
            advice("gpu",
                   "%s: no access to /dev/nvidiactl: join its group, or pass the device into "
                   "the container",
                   model);
        n++;
    }
    if (dir)
        closedir(dir);
    if (n == 0)
        ok("gpu", "none found: the CPU backend is used");
    check_driver(n);
}

int command_doctor(int argc, char **argv)
{
    static const struct option table[] = { { "help", no_argument, NULL, 'h' },
                                           { "version", no_argument, NULL, 'V' },
                                           { 0 } };
    int found;
    while ((found = getopt_long(argc, argv, "h", table, NULL)) >= 0) {
        if (found == 'h')
            puts("usage: ringlet doctor\n\nShow what this machine gives to ringletd: a line each, "
                 "ok or "
                 "what to do.\nExit status 1 when the daemon cannot run here.");
        else if (found == 'V')
            puts("ringlet " RINGLET_VERSION);
        return found == '?' ? TOOL_USAGE : TOOL_DONE;
    }
    if (optind < argc)
        return tool_say(TOOL_USAGE, "doctor: %s: no arguments are expected", argv[optind]);
    check_cpu();
    check_caches();
    check_placement();
    check_memory();
    check_uring();
    check_idle();
    check_gpus();
    printf("%s\n", n_broken   ? "ringletd cannot run on this machine yet"
                   : n_advice ? "ringletd can run here; see the advice above"
                              : "all is well");
    return tool_flush() && n_broken == 0 ? TOOL_DONE : TOOL_FAILED;
}
