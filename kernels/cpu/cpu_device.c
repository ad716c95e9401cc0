/*
 * The CPU as a device: memory, streams that run at once, the pool and the instruction set. Opened
 * at start-up; afterwards only copy, fill and signal run.
 */
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "kernels/cpu/cpu.h"

enum { PARTIALS_BYTES = 8 << 20 };

static int device_count(void)
{
    return 1;
}

#if defined(__x86_64__)
/* clang 14 does not know "f16c" in __builtin_cpu_supports. */
static bool cpu_has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

const struct cpu_isa *cpu_isa_find(const char *name)
{
    const struct cpu_isa *best = &cpu_isa_plain;
#if defined(__x86_64__)
    const struct cpu_isa *found[3] = { &cpu_isa_plain, NULL, NULL };
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c())
        best = found[1] = &cpu_isa_avx2;
    if (found[1] && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        best = found[2] = &cpu_isa_avx512;
#else
    const struct cpu_isa *found[1] = { &cpu_isa_plain };
#endif
    if (!name)
        return best;
    for (size_t i = 0; i < ARRAY_SIZE(found); i++)
        if (found[i] && strcmp(found[i]->name, name) == 0)
            return found[i];
    return NULL;
}

static int device_open(const struct device_options *options, struct device **ret, char *err,
                       size_t err_bytes)
{
    const char *level = getenv("RINGLET_CPU_ISA");
    const struct cpu_isa *isa = cpu_isa_find(level && *level ? level : NULL);
    struct cpu_threads *pool;

    if (options->index != 0) {
        snprintf(err, err_bytes, "there is no CPU device %d, only 0", options->index);
        return -ENODEV;
    }
    if (!isa) {
        snprintf(err, err_bytes, "RINGLET_CPU_ISA=%s: this machine has no such level", level);
        return -EINVAL;
    }
    int error = cpu_threads_open(options->n_thread, options->cpus, &pool);
    if (error) {
        const char *cpus = options->cpus;
        bool many = options->n_thread > CPU_THREADS_MAX;
        snprintf(err, err_bytes, "cannot start CPU threads%s%s%s: %s", cpus ? " on CPUs \"" : "",
                 cpus ? cpus : "", cpus ? "\"" : "",
                 many               ? "at most 256"
                 : error == -EINVAL ? "no list of CPUs, as 0-3,8"
                 : error == -ENODEV ? "one of them is not there, or not for this process"
                                    : strerror(-error));
        return error;
    }
    struct device *dev = calloc(1, sizeof(*dev));
    if (!dev) {
        cpu_threads_close(pool);
        snprintf(err, err_bytes, "out of memory");
        return -ENOMEM;
    }
    *dev = (struct device){ .pool = pool, .isa = isa, .n_thread = cpu_threads_count(pool) };
    *ret = dev;
    return 0;
}

static void device_close(struct device *dev)
{
    if (!dev)
        return;
    cpu_threads_close(dev->pool);
    cpu_memory_free_all(&dev->memory);
    free(dev);
}

static void *device_alloc(struct device *dev, size_t bytes)
{
    return cpu_memory_alloc(&dev->memory, bytes);
}

static void device_free(struct device *dev, void *p)
{
    cpu_memory_free(&dev->memory, p);
}

static void device_settle(struct device *dev, void *p)
{
    (void)dev;
    cpu_memory_settle(p);
}

static void device_info(struct device *dev, struct device_info *ret)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);

    *ret = (struct device_info){ .n_core = dev->n_thread };
    if (pages > 0 && page > 0)
        ret->memory_total = (uint64_t)pages * (uint64_t)page;
    ret->memory_free = cpu_memory_available();
    snprintf(ret->name, sizeof(ret->name), "CPU, %d threads", dev->n_thread);
    snprintf(ret->features, sizeof(ret->features), "%s", dev->isa->name);
}

static const char *device_error(struct device *dev)
{
    (void)dev;
    return NULL;
}

static int stream_open(struct device *dev, const struct op_limits *limits, struct stream **ret)
{
    struct stream *st = calloc(1, sizeof(*st));
    if (!st)
        return -ENOMEM;
    const struct op_limits l = *limits;
    int64_t rows = max_of(l.rows_max, l.samples_max), freqs = lanes_up(max_of(l.head_dim, 2));
    int64_t wide = max_of(l.dim_max, l.n_head * l.head_dim);
    wide = lanes_up((int)max_of(wide, (int64_t)32));
    /* A row as f32, then as int8: float weights and block weights may share a norm. */
    st->x_stride = (int64_t)align_up((uint64_t)(wide * 4 + xq_bytes((int)wide)), 64);
    int64_t piece = max_of(cpu_attn_thread_floats(limits) * 4, cpu_sample_thread_bytes(limits));
    piece = max_of(piece, 2 * st->x_stride + wide * 4);
    st->thread_stride = (int64_t)align_up((uint64_t)piece, 4096);
    st->partials_floats = PARTIALS_BYTES / 4;

    int64_t total = rows * st->x_stride + st->thread_stride * dev->n_thread + PARTIALS_BYTES +
                    rows * freqs * 4 + rows * 4 + freqs * 4 + 64 * 8;
    st->memory = device_alloc(dev, (size_t)total);
    if (!st->memory) {
        free(st);
        return -ENOMEM;
    }
    char *at = st->memory;
    st->x = at;
    at += rows * st->x_stride;
    st->partials = (float *)(void *)at;
    at += PARTIALS_BYTES;
    st->cos_sin = (float *)(void *)at;
    at += align_up((uint64_t)(rows * freqs) * 4, 64);
    st->rope_position = (int32_t *)(void *)at;
    at += align_up((uint64_t)rows * 4, 64);
    st->rope_freq = (float *)(void *)at;
    at += align_up((uint64_t)freqs * 4, 64);
    st->thread = at;
    st->dev = dev;
    st->limits = l;
    *ret = st;
    return 0;
}

static void stream_close(struct stream *st)
{
    if (!st)
        return;
    device_free(st->dev, st->memory);
    free(st);
}

static int stream_sync(struct stream *st)
{
    (void)st;
    return 0;
}

static int copy_bytes(struct stream *st, void *dst, const void *src, size_t bytes)
{
    (void)st;
    memmove(dst, src, bytes);
    return 0;
}

static int fill_bytes(struct stream *st, void *dst, uint8_t byte, size_t bytes)
{
    (void)st;
    memset(dst, byte, bytes);
    return 0;
}

static int signal_word(struct stream *st, uint32_t *word, uint32_t value)
{
    (void)st;
    store_release(word, value); /* pairs with load_acquire of whoever polls the word */
    return 0;
}

static size_t turn_offset(const struct device_turn *turn)
{
    return *turn->word % 2 * turn->stride;
}

/* The block's first word is its length. */
static int fetch_block(struct stream *st, void *dst, const void *src,
                       const struct device_turn *turn, size_t bytes_sure, size_t bytes_max)
{
    uint32_t bytes;
    (void)st;
    src = (const char *)src + turn_offset(turn);
    memcpy(&bytes, src, sizeof(bytes));
    assert(bytes >= bytes_sure && bytes <= bytes_max);
    memcpy(dst, src, bytes);
    return 0;
}

static int deliver(struct stream *st, void *dst, const void *src, size_t bytes, uint32_t *word,
                   const uint32_t *value, const struct device_turn *turn)
{
    size_t offset = turn_offset(turn);
    (void)st;
    memcpy((char *)dst + offset, src, bytes);
    *turn->word = *value; /* before the signal: the loop may plan the next step at once */
    word += offset / sizeof(*word);
    store_release(word, *value); /* pairs with load_acquire of whoever polls the word */
    return 0;
}

static void device_adopt(struct device *dev)
{
    cpu_threads_adopt(dev->pool);
}

const struct device_ops cpu_device_ops = {
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .error = device_error,
    .alloc = device_alloc,
    .free = device_free,
    .settle = device_settle,
    .host_alloc = device_alloc,
    .host_free = device_free,
    .stream_open = stream_open,
    .stream_close = stream_close,
    .stream_sync = stream_sync,
    .copy_in = copy_bytes,
    .copy_out = copy_bytes,
    .fill = fill_bytes,
    .signal = signal_word,
    .fetch = fetch_block,
    .deliver = deliver,
    .adopt = device_adopt,
};
