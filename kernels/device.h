/*
 * Memory, streams and graphs of one device, as a table that each backend fills.
 *
 * Work on a stream is ordered and asynchronous (the CPU's streams run at once: when a call returns
 * the work is done). Memory is taken at start-up only; steady state calls nothing that allocates.
 * Every function that returns int gives 0 or a negative errno; -EIO is a device fault: it is
 * sticky, device->error() says which, and the device must be closed.
 */
#ifndef RINGLET_KERNELS_DEVICE_H
#define RINGLET_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

struct device; /* opaque, per backend */
struct stream;
struct graph;

struct device_options {
    int index;        /* which device of the backend, from 0 */
    int n_thread;     /* CPU: threads of the pool, the caller's included; 0 = one per core */
    const char *cpus; /* CPU: list such as "0-3,8", NULL = not pinned */
};

struct device_info {
    char name[128];
    uint64_t memory_total, memory_free; /* bytes */
    int n_core;                         /* cores or SMs */
    int compute;                        /* CUDA: 90 for 9.0; CPU: 0 */
    char features[64];                  /* CPU: "avx512-vnni"; CUDA: driver version */
};

/*
 * Host blocks come in pairs, one for each of two steps in flight: a word of device memory tells
 * whose turn it is, so that one captured graph serves both.
 */
struct device_turn {
    uint32_t *word; /* device memory; even: the block told, odd: the one stride bytes behind it */
    size_t stride;  /* a multiple of 16 */
};

/* What ops may be asked for at most; sizes a stream's scratch. */
struct op_limits {
    int rows_max;    /* token rows of one step */
    int seqs_max;    /* sequences of one step */
    int samples_max; /* logits rows of one step */
    int dim_max;     /* widest input of a matmul (model dim, ffn dim, n_head * head_dim) */
    int out_max;     /* widest output of a matmul (qkv, 2 * ffn); lm_head apart */
    int vocab;       /* logits width */
    int n_head, n_kv_head, head_dim;
    int context_max; /* tokens of one sequence */
};

/* What the device can do at most, measured: the limits that figures are held against. */
struct device_ceilings {
    double read_bytes_per_s;   /* reading memory far beyond the caches */
    double copy_bytes_per_s;   /* read and written bytes of a copy */
    double matmul_flops_per_s; /* large 16-bit product, random data */
    double launch_ns;          /* one more empty kernel in a captured graph */
};

struct device_ops {
    int (*count)(void); /* devices present; 0 = none */
    int (*open)(const struct device_options *options, struct device **ret, char *err,
                size_t err_bytes);
    void (*close)(struct device *dev);
    void (*info)(struct device *dev, struct device_info *ret);
    const char *(*error)(struct device *dev); /* NULL, or the sticky fault in words */

    /* 64-byte aligned at least, zeroed; NULL = out of memory. Start-up only. */
    void *(*alloc)(struct device *dev, size_t bytes);
    void (*free)(struct device *dev, void *p);
    /*
     * This allocation will be used in whatever order: make it present in the background, so that no
     * step pays for the first touch of a page. NULL: memory is present at once.
     */
    void (*settle)(struct device *dev, void *p);
    /* Host memory that the device can read and write while it runs (pinned); host pointer. */
    void *(*host_alloc)(struct device *dev, size_t bytes);
    void (*host_free)(struct device *dev, void *p);

    int (*stream_open)(struct device *dev, const struct op_limits *limits, struct stream **ret);
    void (*stream_close)(struct stream *st);
    int (*stream_sync)(struct stream *st); /* start-up, shutdown and tests only */

    int (*copy_in)(struct stream *st, void *dst_device, const void *src_host, size_t bytes);
    int (*copy_out)(struct stream *st, void *dst_host, const void *src_device, size_t bytes);
    int (*fill)(struct stream *st, void *dst_device, uint8_t byte, size_t bytes);
    /*
     * After all earlier work of the stream: store value to *word (host_alloc memory) with release
     * order, so that a thread that polls *word with acquire sees every earlier result.
     */
    int (*signal)(struct stream *st, uint32_t *word, uint32_t value);
    /*
     * A step's way in and out, made to be captured: what the host memory holds is read when the
     * work's turn comes, so a replayed graph takes what lies there then.
     *
     * fetch: the block whose turn it is (src_host, 16-byte aligned, or the one behind it) begins
     * with a u32 that tells how many bytes of it go to dst_device: a multiple of 16, bytes_sure at
     * least, bytes_max at most.
     * deliver: after all earlier work of the stream copy bytes (a multiple of 16) to dst_host, then
     * store *value (device memory) to *word as signal does, both of the block whose turn it is, and
     * to the turn's own word.
     */
    int (*fetch)(struct stream *st, void *dst_device, const void *src_host,
                 const struct device_turn *turn, size_t bytes_sure, size_t bytes_max);
    int (*deliver)(struct stream *st, void *dst_host, const void *src_device, size_t bytes,
                   uint32_t *word, const uint32_t *value, const struct device_turn *turn);

    /* Capture between begin and end, replay with launch. NULL on backends without graphs. */
    int (*graph_begin)(struct stream *st);
    int (*graph_end)(struct stream *st, struct graph **ret);
    int (*graph_launch)(struct stream *st, struct graph *graph);
    void (*graph_close)(struct graph *graph);

    /* For benchmarks: takes seconds and about 5 GB for the time of the call. May be NULL. */
    int (*ceilings)(struct device *dev, struct device_ceilings *ret);

    /* alloc's memory is the device's own: files are read into host_alloc memory, not mapped. */
    bool is_apart;

    /*
     * The calling thread is the one that streams are driven from: goes where the options' list of
     * CPUs wants it. NULL: nothing to do.
     */
    void (*adopt)(struct device *dev);
};

#endif
