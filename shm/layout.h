/*
 * Where everything lies in a session's regions: computed in one place, checked on both sides. The
 * daemon computes the layout from what the client asked for and tells it in WELCOME; the client
 * computes it again and takes nothing else. Offsets are then private geometry that no peer can
 * move.
 */
#ifndef RINGLET_SHM_LAYOUT_H
#define RINGLET_SHM_LAYOUT_H

#include <stdint.h>

#include "base/compiler.h"
#include "ringlet_abi.h"

/* Offsets and sizes of one session; all offsets are multiples of 4096. */
struct layout {
    uint32_t n_slot; /* S */
    uint32_t n_cqe;  /* 4 S */
    uint32_t sq_off, prompt_off;          /* in UP */
    uint32_t cq_off, annex_off, text_off; /* in DOWN */
    uint64_t prompt_bytes, text_bytes;
    uint64_t up_bytes, down_bytes;
};

/* UP by parts. */
struct layout_up {
    struct ringlet_up_head *head;
    uint32_t *cancel;      /* [n_slot] */
    uint64_t *sq;          /* n_slot entries of 8 words */
    unsigned char *prompt; /* [prompt_bytes] */
};

/* DOWN by parts; the client's mapping is read-only. */
struct layout_down {
    struct ringlet_down_head *head;
    uint64_t *cq; /* n_cqe entries of 8 words */
    struct ringlet_annex *annex; /* [n_slot] */
    unsigned char *text;         /* [text_bytes] */
};

/*
 * Compute a session's layout.
 *
 *   n_slot         power of two, 16 .. 4096; 0 = default
 *   prompt_bytes   64 KiB .. 256 MiB, multiple of 4096; 0 = default
 *   text_bytes     64 KiB .. 64 MiB, multiple of 4096; 0 = default
 *
 * Returns: 0; -EINVAL a value out of range (the ABI's range; quotas are the daemon's).
 */
nodiscard int layout_compute(uint32_t n_slot, uint64_t prompt_bytes, uint64_t text_bytes,
                             struct layout *ret_layout);

/* Fill the geometry fields of a WELCOME; the others stay as they are. */
void layout_to_welcome(const struct layout *layout, struct ringlet_welcome *welcome);

/*
 * The layout that a WELCOME describes, if it is one that layout_compute would give.
 *
 * Returns: 0; -EPROTO it is not.
 */
nodiscard int layout_from_welcome(const struct ringlet_welcome *welcome, struct layout *ret_layout);

/* The parts of a mapped region. `base` is up_bytes, or down_bytes, long. */
struct layout_up layout_up(const struct layout *layout, void *base);
struct layout_down layout_down(const struct layout *layout, void *base);

/*
 * Daemon, once, before the client sees the regions (both all zero): running numbers of the rings
 * and of the heads. Pass RINGLET_SEQ_START for both.
 */
void layout_format(const struct layout *layout, const struct layout_up *up,
                   const struct layout_down *down, uint32_t sq_start, uint32_t cq_start);

/*
 * A consistent copy of a model table entry, behind its sequence lock.
 *
 * Returns: 0; -EAGAIN a writer kept changing it (or died in the middle); ret_model untouched.
 */
nodiscard int layout_read_model(const struct ringlet_board_model *shared,
                                struct ringlet_board_model *ret_model);

/*
 * Replace a model table entry (daemon; one writer). `model->lock` is ignored.
 */
void layout_write_model(struct ringlet_board_model *shared,
                        const struct ringlet_board_model *model);

/* Bytes of a TOKENS or PROMPT event's span, text included; 0 for an INLINE or span-less one. */
static inline uint64_t layout_span_bytes(uint8_t flags, uint32_t n_token, uint32_t n_top,
                                         uint32_t text_bytes)
{
    if (flags & RINGLET_CQE_INLINE)
        return 0;
    uint64_t per_token = 4;
    if (flags & RINGLET_CQE_LOGPROBS)
        per_token += 4 + sizeof(struct ringlet_top) * (uint64_t)n_top;
    return n_token * per_token + text_bytes;
}

#endif
