/*
 * How attention lays out rows that it takes one by one: warps of a block, splits of a context, and
 * whether the splits are a cluster. Plain C and C++, so that it can be tested without a GPU.
 *
 * A unit is a row's KV head (and group of query heads). Fixed splits depend on the context alone.
 * Many units: waves of narrow blocks are counted. Few: a step's latency is all that counts, and it
 * is estimated in ns: a warp's first KV block is there when the kernel may begin, each further one
 * is waited for, so blocks are wide and contexts are split. As many as there is room for: unsplit.
 */
#ifndef RINGLET_CUDA_ATTN_PLAN_H
#define RINGLET_CUDA_ATTN_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"

#ifdef __CUDACC__
#define ATTN_PLAN_INLINE static __host__ __device__ constexpr
#else
#define ATTN_PLAN_INLINE static inline
#endif

enum {
    ATTN_SPLIT_MAX = 64,
    ATTN_CLUSTER_MAX = 8,   /* splits that are one */
    ATTN_NARROW = 4,        /* warps of a block: of many or of fixed splits */
    ATTN_WIDE = 8,          /* of one with an SM of its own, or half of it (heads of 64) */
    ATTN_WIDEST = 16,       /* of one of heads of 64 with an SM of its own */
    ATTN_NARROW_BLOCKS = 3, /* that an SM holds */
    ATTN_FIXED_BLOCKS = 16, /* KV blocks of a fixed split */
    ATTN_SPLIT_TOKENS = 64, /* at least, of one among many */
    ATTN_BLOCK_ROUNDS = 2,  /* cost of a block's start and end, in rounds */
    ATTN_TICKET_ROUNDS = 1, /* of a merge through memory that other blocks hide, likewise */
    ATTN_ROUND_NS = 1500,   /* a wide block's next KV blocks, one a warp, come from memory */
    ATTN_CLUSTER_NS = 400,  /* a merge in a cluster, and more for each block of it */
    ATTN_CLUSTER_EACH_NS = 110,
    ATTN_TICKET_NS = 4200, /* through memory */
    ATTN_WIDEST_NS = 1150, /* for the warps beyond ATTN_WIDE to come up and be merged */
    ATTN_FULL_TOKENS = 128, /* up to them wide blocks have nothing for half of their warps */
    ATTN_SM_SHARE = 35,    /* bytes a ns that memory brings, for each SM */
};

struct attn_work {
    int n_sm, compute; /* the GPU's; compute is 10 major + minor */
    int units;
    int head_dim, group; /* query heads of a unit */
    int kv_tokens_max;
    bool fixed;
};

struct attn_plan {
    int n_warp, n_split; /* fixed: at most so many splits */
    bool cluster;
};

ATTN_PLAN_INLINE int attn_div_up(int64_t a, int64_t b)
{
    return (int)((a + b - 1) / b);
}

/*
 * KV blocks of a warp on their way at a time. A narrow block's warps have 8 KB each, so that
 * memory's latency is covered; of a wide one it is waited for once.
 */
ATTN_PLAN_INLINE int attn_flying(int head_dim, int group, int n_warp)
{
    return n_warp == ATTN_NARROW && head_dim == 64 && group <= 8 ? 2 : 1;
}

/*
 * KV blocks a split of a row that has n_block, in a plan of n_split: what a plan is made for is the
 * longest context that it meets. Splits beyond the row's last block have no work.
 */
ATTN_PLAN_INLINE int attn_split_blocks(int n_block, int n_split, int round, bool fixed)
{
    int each = attn_div_up(n_block, fixed ? ATTN_SPLIT_MAX : n_split);
    int least = fixed ? (int)ATTN_FIXED_BLOCKS : round;
    return each > least ? each : least;
}

/* A cluster waits until there is room for all of it, so only grids that leave room have them. */
static inline bool attn_can_cluster(const struct attn_work *w, int n_warp, int n_split)
{
    int64_t n = (int64_t)w->units * n_split;
    if (w->compute < 90 || w->fixed || n_split < 2 || n_split > ATTN_CLUSTER_MAX)
        return false;
    if (n_warp == ATTN_NARROW)
        return 2 * n <= (int64_t)w->n_sm * (2 * ATTN_NARROW_BLOCKS - (w->head_dim > 64));
    return 8 * n <= (int64_t)w->n_sm * (n_split == 2 ? 8 : 7); /* two SMs are never apart */
}

/* Many: waves of narrow blocks, each as long as its walk and a fixed cost. */
static inline struct attn_plan attn_plan_many(const struct attn_work *w)
{
    struct attn_plan best = { ATTN_NARROW, 1, false };
    int most = attn_div_up(w->kv_tokens_max, ATTN_SPLIT_TOKENS);
    int walk = attn_div_up(w->kv_tokens_max, (int)KV_BLOCK_TOKENS * ATTN_NARROW);
    int64_t least = INT64_MAX, slots = (int64_t)w->n_sm * ATTN_NARROW_BLOCKS;
    for (int n = 1; n <= most && n <= ATTN_SPLIT_MAX; n++) {
        bool cluster = attn_can_cluster(w, ATTN_NARROW, n);
        int64_t waves = attn_div_up((int64_t)w->units * n, slots);
        int64_t cost = waves * (attn_div_up(walk, n) + ATTN_BLOCK_ROUNDS);
        cost += n > 1 && !cluster ? ATTN_TICKET_ROUNDS : 0;
        if (cost < least) {
            least = cost;
            best = (struct attn_plan){ ATTN_NARROW, n, cluster };
        }
    }
    return best;
}

/* Few: that many splits of so many warps; -1: some SM would have two, or some split nothing. */
static inline int64_t attn_few_ns(const struct attn_work *w, const struct attn_plan *p)
{
    int64_t units = w->units, block_bytes = 4 * KV_BLOCK_TOKENS * w->head_dim;
    int n_block = attn_div_up(w->kv_tokens_max, KV_BLOCK_TOKENS);
    int each = attn_split_blocks(n_block, p->n_split, p->n_warp, false);
    if (units * p->n_split > w->n_sm || attn_div_up(n_block, each) < p->n_split)
        return -1;
    int64_t wait = (int64_t)(attn_div_up(each, p->n_warp) - 1) * ATTN_ROUND_NS;
    int later = n_block > p->n_split * p->n_warp ? n_block - p->n_split * p->n_warp : 0;
    int64_t bring = block_bytes * units * later / (w->n_sm * ATTN_SM_SHARE);
    int64_t merge = ATTN_CLUSTER_NS + ATTN_CLUSTER_EACH_NS * p->n_split;
    if (p->n_split == 1)
        merge = 0;
    else if (!p->cluster)
        merge = ATTN_TICKET_NS;
    return (wait > bring ? wait : bring) + merge + (p->n_warp > ATTN_WIDE ? ATTN_WIDEST_NS : 0);
}

static inline struct attn_plan attn_plan_few(const struct attn_work *w)
{
    struct attn_plan best = { ATTN_NARROW, 1, false };
    int64_t least = INT64_MAX;
    int round = ATTN_NARROW * attn_flying(w->head_dim, w->group, ATTN_NARROW);
    if (w->kv_tokens_max <= round * KV_BLOCK_TOKENS)
        return best; /* nothing is waited for */
    int widest = w->head_dim == 64 ? ATTN_WIDEST : ATTN_WIDE;
    for (int n_warp = ATTN_WIDE; n_warp <= widest; n_warp *= 2)
        for (int n = 1; n <= ATTN_SPLIT_MAX; n++) {
            struct attn_plan p = { n_warp, n, attn_can_cluster(w, n_warp, n) };
            int64_t cost = attn_few_ns(w, &p);
            if (cost >= 0 && cost < least) {
                least = cost;
                best = p;
            }
        }
    return best;
}

/*
 * Few enough for wide blocks: heads of 64 up to one unit an SM. Of heads of 128 half as many, or
 * nearly as many; between the two, narrow blocks have more SMs at work.
 */
static inline bool attn_is_few(const struct attn_work *w)
{
    if (w->group > 8 || w->units > w->n_sm)
        return false;
    return w->head_dim == 64 || 2 * w->units <= w->n_sm || 8 * w->units > 7 * w->n_sm;
}

/*
 * Heads of 64 whose units nearly fill the device with blocks of so many warps, 512 threads an SM:
 * unsplit. 0: they do not.
 */
static inline int attn_full_warps(const struct attn_work *w)
{
    if (w->head_dim != 64 || w->group > 8 || w->kv_tokens_max <= ATTN_FULL_TOKENS)
        return 0;
    for (int n_warp = ATTN_WIDE; n_warp >= ATTN_NARROW; n_warp /= 2) {
        int blocks = ATTN_WIDEST / n_warp * w->n_sm;
        if (w->units <= blocks && 8 * w->units > 7 * blocks)
            return n_warp;
    }
    return 0;
}

static inline struct attn_plan attn_plan_of(const struct attn_work *w)
{
    int fixed = attn_div_up(w->kv_tokens_max, (int)ATTN_FIXED_BLOCKS * KV_BLOCK_TOKENS);
    fixed = fixed < 1 ? 1 : fixed > ATTN_SPLIT_MAX ? (int)ATTN_SPLIT_MAX : fixed;
    if (w->fixed)
        return (struct attn_plan){ ATTN_NARROW, fixed, false };
    int full = attn_full_warps(w);
    if (full > 0)
        return (struct attn_plan){ full, 1, false };
    return attn_is_few(w) ? attn_plan_few(w) : attn_plan_many(w);
}

#endif
