/*
 * BOARD, the page set that every client and tool maps read-only: versions, heartbeat, limits, model
 * table, counters. Part of ringlet_abi.h, under the same rules; include that one.
 */
#ifndef RINGLET_BOARD_H
#define RINGLET_BOARD_H

#include "ringlet_abi.h"

#define RINGLET_BOARD_BEAT_OFF   0x080u
#define RINGLET_BOARD_LIMITS_OFF 0x100u
#define RINGLET_BOARD_MODELS_OFF 0x1000u
#define RINGLET_BOARD_STATS_OFF  0x2000u
#define RINGLET_BOARD_BYTES      0x100000u /* as the daemon makes it; board_bytes is what counts */

/* At 0x000; constant once the first client is served. */
struct ringlet_board_head {
    uint32_t magic;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t struct_size; /* of this head */
    uint32_t board_bytes;
    uint64_t features;
    uint64_t daemon_generation;
    uint64_t start_ns; /* CLOCK_MONOTONIC */
    uint32_t pid;
    uint32_t n_model; /* entries of the table that may be in use; the rest are empty */
    char version[32]; /* NUL-terminated */
    uint64_t reserved[6];
};
RINGLET_ASSERT_SIZE(ringlet_board_head, RINGLET_BOARD_BEAT_OFF);
RINGLET_ASSERT_FIELD(ringlet_board_head, magic, 0, 4);
RINGLET_ASSERT_FIELD(ringlet_board_head, abi_major, 4, 2);
RINGLET_ASSERT_FIELD(ringlet_board_head, abi_minor, 6, 2);
RINGLET_ASSERT_FIELD(ringlet_board_head, struct_size, 8, 4);
RINGLET_ASSERT_FIELD(ringlet_board_head, board_bytes, 12, 4);
RINGLET_ASSERT_FIELD(ringlet_board_head, features, 16, 8);
RINGLET_ASSERT_FIELD(ringlet_board_head, daemon_generation, 24, 8);
RINGLET_ASSERT_FIELD(ringlet_board_head, start_ns, 32, 8);
RINGLET_ASSERT_FIELD(ringlet_board_head, pid, 40, 4);
RINGLET_ASSERT_FIELD(ringlet_board_head, n_model, 44, 4);
RINGLET_ASSERT_FIELD(ringlet_board_head, version, 48, 32);

/* At RINGLET_BOARD_BEAT_OFF, on a line of its own; stored by the loop, relaxed. */
struct ringlet_board_beat {
    uint64_t heartbeat_ns; /* CLOCK_MONOTONIC of the loop's last pass with requests in flight */
    uint64_t steps;        /* steps committed since the start: progress */
    uint64_t reserved[14];
};
RINGLET_ASSERT_SIZE(ringlet_board_beat, 128);
RINGLET_ASSERT_FIELD(ringlet_board_beat, heartbeat_ns, 0, 8);
RINGLET_ASSERT_FIELD(ringlet_board_beat, steps, 8, 8);

/* At RINGLET_BOARD_LIMITS_OFF: this daemon's maxima, constant. */
struct ringlet_limits {
    uint32_t struct_size;
    uint32_t slots_max;
    uint64_t prompt_bytes_max;
    uint64_t text_bytes_max;
    uint32_t n_max;
    uint32_t logprobs_max;
    uint32_t stop_strings_max;
    uint32_t stop_bytes_max;
    uint32_t stop_ids_max;
    uint32_t logit_bias_max;
    uint32_t structure_bytes_max;
    uint32_t messages_max;
    uint32_t sessions_max;
    uint32_t sessions_uid_max;
    uint32_t sessions_hot_max;
    uint32_t queued_max;
    uint32_t queued_uid_max;
    uint32_t held_max;
    uint32_t models_max;
    uint32_t devices_max;
    uint64_t shm_uid_bytes_max;
    uint64_t prompt_pool_bytes;
    uint64_t lease_ns_max;
    uint64_t slow_client_ns;
    uint32_t loop_text_bytes_max; /* longer text is encoded by the encoder thread */
    uint32_t pinned_percent_max;  /* share of the KV pool that one uid may pin */
    uint64_t structure_ns_max;
    uint64_t structure_bytes_memory_max;
    uint32_t template_factor_max; /* template output: this times the context's bytes */
    uint32_t beam_width_max;      /* 0: no beam search */
    uint64_t reserved1[11];
};
RINGLET_ASSERT_SIZE(ringlet_limits, 240);
RINGLET_ASSERT_FIELD(ringlet_limits, slots_max, 4, 4);
RINGLET_ASSERT_FIELD(ringlet_limits, prompt_bytes_max, 8, 8);
RINGLET_ASSERT_FIELD(ringlet_limits, text_bytes_max, 16, 8);
RINGLET_ASSERT_FIELD(ringlet_limits, n_max, 24, 4);
RINGLET_ASSERT_FIELD(ringlet_limits, messages_max, 52, 4);
RINGLET_ASSERT_FIELD(ringlet_limits, sessions_max, 56, 4);
RINGLET_ASSERT_FIELD(ringlet_limits, devices_max, 84, 4);
RINGLET_ASSERT_FIELD(ringlet_limits, shm_uid_bytes_max, 88, 8);
RINGLET_ASSERT_FIELD(ringlet_limits, slow_client_ns, 112, 8);
RINGLET_ASSERT_FIELD(ringlet_limits, loop_text_bytes_max, 120, 4);
RINGLET_ASSERT_FIELD(ringlet_limits, structure_ns_max, 128, 8);
RINGLET_ASSERT_FIELD(ringlet_limits, structure_bytes_memory_max, 136, 8);
RINGLET_ASSERT_FIELD(ringlet_limits, template_factor_max, 144, 4);
RINGLET_ASSERT_FIELD(ringlet_limits, beam_width_max, 148, 4);

enum ringlet_model_state {
    RINGLET_MODEL_EMPTY = 0,
    RINGLET_MODEL_LOADING = 1,
    RINGLET_MODEL_READY = 2,
    RINGLET_MODEL_FAILED = 3,
    RINGLET_MODEL_DRAINING = 4
};

enum ringlet_model_flag {
    RINGLET_MODEL_HAS_TEXT = 1,     /* it has a tokenizer: text in and out */
    RINGLET_MODEL_HAS_TEMPLATE = 2, /* chat messages */
    RINGLET_MODEL_ADDS_BOS = 4,
    RINGLET_MODEL_HAS_SYSTEM = 8 /* its template takes a system message */
};

/* Entry of the model table at RINGLET_BOARD_MODELS_OFF, behind its own sequence lock. */
struct ringlet_board_model {
    uint32_t lock; /* odd: being written; read, copy, read again, retry where it moved */
    uint16_t generation; /* +1 at each load, never 0 in a used entry */
    uint16_t state;      /* enum ringlet_model_state */
    char name[RINGLET_MODEL_NAME_BYTES];
    uint32_t vocab;   /* width of the logits: ids are below it */
    uint32_t context; /* tokens */
    uint32_t flags;   /* enum ringlet_model_flag */
    uint32_t kv_block_tokens;
    uint32_t set; /* enum ringlet_set: which of the following the model itself asks for */
    float temperature;
    float top_p;
    float min_p;
    uint32_t top_k;
    float presence_penalty;
    float frequency_penalty;
    float repetition_penalty;
    uint32_t bos; /* 0xFFFFFFFF: none */
    uint32_t eos;
    uint64_t weight_bytes;
    uint64_t n_parameter;
    char arch[32];
    char file_type[16];
    char device[32];
    uint64_t reserved[4];
};
RINGLET_ASSERT_SIZE(ringlet_board_model, 256);
RINGLET_ASSERT_FIELD(ringlet_board_model, lock, 0, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, generation, 4, 2);
RINGLET_ASSERT_FIELD(ringlet_board_model, state, 6, 2);
RINGLET_ASSERT_FIELD(ringlet_board_model, name, 8, 64);
RINGLET_ASSERT_FIELD(ringlet_board_model, vocab, 72, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, context, 76, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, flags, 80, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, kv_block_tokens, 84, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, set, 88, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, temperature, 92, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, top_p, 96, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, min_p, 100, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, top_k, 104, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, presence_penalty, 108, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, frequency_penalty, 112, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, repetition_penalty, 116, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, bos, 120, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, eos, 124, 4);
RINGLET_ASSERT_FIELD(ringlet_board_model, weight_bytes, 128, 8);
RINGLET_ASSERT_FIELD(ringlet_board_model, n_parameter, 136, 8);
RINGLET_ASSERT_FIELD(ringlet_board_model, arch, 144, 32);
RINGLET_ASSERT_FIELD(ringlet_board_model, file_type, 176, 16);
RINGLET_ASSERT_FIELD(ringlet_board_model, device, 192, 32);

/*
 * Counters: a head at RINGLET_BOARD_STATS_OFF, then `n_stat` descriptions of 64 bytes, then the
 * values, all u64 stored relaxed by the loop. A reader finds a value by its description and skips
 * names and kinds that it does not know; so counters can be added without a new ABI. The daemon
 * writes the descriptions before the first client is served (n_stat last, with release) and never
 * changes them. The set of names is daemon/base/stats.c's.
 */
struct ringlet_board_stats {
    uint32_t n_stat;
    uint32_t stat_bytes; /* sizeof(struct ringlet_stat) */
    uint64_t reserved[7];
};
RINGLET_ASSERT_SIZE(ringlet_board_stats, 64);

enum ringlet_stat_kind {
    RINGLET_STAT_COUNTER = 0,  /* only grows */
    RINGLET_STAT_GAUGE = 1,    /* a present value */
    RINGLET_STAT_HISTOGRAM = 2 /* count, sum, then one counter per bucket: ringlet_stat_bucket */
};

#define RINGLET_STAT_ANY 0xFFu /* model, urgency_class: does not apply */

struct ringlet_stat {
    char name[40];
    uint8_t kind;          /* enum ringlet_stat_kind */
    uint8_t model;         /* index of the model table, or RINGLET_STAT_ANY */
    uint8_t urgency_class; /* urgency / 64, or RINGLET_STAT_ANY */
    uint8_t reserved0;
    uint32_t value_off; /* from the start of BOARD, 8-aligned */
    uint32_t n_value;   /* 1; 2 + buckets for a histogram */
    uint32_t reserved1;
    uint64_t reserved2;
};
RINGLET_ASSERT_SIZE(ringlet_stat, 64);
RINGLET_ASSERT_FIELD(ringlet_stat, name, 0, 40);
RINGLET_ASSERT_FIELD(ringlet_stat, kind, 40, 1);
RINGLET_ASSERT_FIELD(ringlet_stat, model, 41, 1);
RINGLET_ASSERT_FIELD(ringlet_stat, urgency_class, 42, 1);
RINGLET_ASSERT_FIELD(ringlet_stat, value_off, 44, 4);
RINGLET_ASSERT_FIELD(ringlet_stat, n_value, 48, 4);

enum ringlet_stat_limit {
    RINGLET_URGENCY_CLASSES = 4,
    RINGLET_STAT_BUCKETS = 156, /* four per power of two, up to 2^40; the last takes all above */
    RINGLET_STAT_HISTOGRAM_VALUES = 2 + RINGLET_STAT_BUCKETS
};

/* The bucket of a histogram that `value` falls into: exact below 4, then four per power of two. */
static inline uint32_t ringlet_stat_bucket(uint64_t value)
{
    uint32_t e = 0;
    uint64_t rest;
    if (value < 4)
        return (uint32_t)value;
    for (rest = value; rest > 1; rest >>= 1)
        e++;
    if (e > 39)
        return RINGLET_STAT_BUCKETS - 1;
    return 4 * (e - 1) + (uint32_t)((value >> (e - 2)) & 3);
}

/* The smallest value of a bucket. */
static inline uint64_t ringlet_stat_bucket_floor(uint32_t bucket)
{
    uint32_t e;
    if (bucket < 4)
        return bucket;
    e = bucket / 4 + 1;
    return ((uint64_t)1 << e) + ((uint64_t)(bucket % 4) << (e - 2));
}

#endif
