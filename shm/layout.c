/* Offsets of the regions, the parts of a mapping, and the sequence lock of the model table. */
#include "shm/layout.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "base/bits.h"
#include "shm/ring.h"

enum { PAGE = 4096, MODEL_READ_TRIES = 10000 };

int layout_compute(uint32_t n_slot, uint64_t prompt_bytes, uint64_t text_bytes,
                   struct layout *ret_layout)
{
    n_slot = n_slot ? n_slot : RINGLET_SLOTS_DEFAULT;
    prompt_bytes = prompt_bytes ? prompt_bytes : RINGLET_PROMPT_BYTES_DEFAULT;
    text_bytes = text_bytes ? text_bytes : RINGLET_TEXT_BYTES_DEFAULT;
    if (!is_pow2(n_slot) || n_slot < RINGLET_SLOTS_MIN || n_slot > RINGLET_SLOTS_MAX)
        return -EINVAL;
    if (prompt_bytes < RINGLET_PROMPT_BYTES_MIN || prompt_bytes > RINGLET_PROMPT_BYTES_MAX ||
        prompt_bytes % PAGE)
        return -EINVAL;
    if (text_bytes < RINGLET_TEXT_BYTES_MIN || text_bytes > RINGLET_TEXT_BYTES_MAX ||
        text_bytes % PAGE)
        return -EINVAL;
    /* In range from here: the largest sums are 256 MiB + 1 MiB, far from overflow. */
    struct layout l = { .n_slot = n_slot, .n_cqe = n_slot * RINGLET_CQE_PER_SLOT };
    l.prompt_bytes = prompt_bytes;
    l.text_bytes = text_bytes;
    l.sq_off = (uint32_t)align_up(RINGLET_UP_CANCEL_OFF + 4 * (uint64_t)n_slot, PAGE);
    l.prompt_off = (uint32_t)align_up(l.sq_off + (uint64_t)RINGLET_ENTRY_BYTES * n_slot, PAGE);
    l.up_bytes = l.prompt_off + prompt_bytes;
    l.cq_off = PAGE;
    l.annex_off = (uint32_t)align_up(l.cq_off + (uint64_t)RINGLET_ENTRY_BYTES * l.n_cqe, PAGE);
    l.text_off = (uint32_t)align_up(l.annex_off + (uint64_t)RINGLET_ANNEX_BYTES * n_slot, PAGE);
    l.down_bytes = l.text_off + text_bytes;
    *ret_layout = l;
    return 0;
}

void layout_to_welcome(const struct layout *layout, struct ringlet_welcome *welcome)
{
    welcome->n_slot = layout->n_slot;
    welcome->n_cqe = layout->n_cqe;
    welcome->sq_off = layout->sq_off;
    welcome->prompt_off = layout->prompt_off;
    welcome->cq_off = layout->cq_off;
    welcome->annex_off = layout->annex_off;
    welcome->text_off = layout->text_off;
    welcome->prompt_bytes = layout->prompt_bytes;
    welcome->text_bytes = layout->text_bytes;
    welcome->up_bytes = layout->up_bytes;
    welcome->down_bytes = layout->down_bytes;
}

int layout_from_welcome(const struct ringlet_welcome *welcome, struct layout *ret_layout)
{
    struct layout l;
    if (welcome->n_slot == 0 || welcome->prompt_bytes == 0 || welcome->text_bytes == 0 ||
        layout_compute(welcome->n_slot, welcome->prompt_bytes, welcome->text_bytes, &l) < 0)
        return -EPROTO;
    if (welcome->n_cqe != l.n_cqe || welcome->sq_off != l.sq_off ||
        welcome->prompt_off != l.prompt_off || welcome->cq_off != l.cq_off ||
        welcome->annex_off != l.annex_off || welcome->text_off != l.text_off ||
        welcome->up_bytes != l.up_bytes || welcome->down_bytes != l.down_bytes)
        return -EPROTO;
    *ret_layout = l;
    return 0;
}

static void *at(void *base, uint64_t off)
{
    return (unsigned char *)base + off;
}

struct layout_up layout_up(const struct layout *layout, void *base)
{
    return (struct layout_up){
        .head = base,
        .cancel = at(base, RINGLET_UP_CANCEL_OFF),
        .sq = at(base, layout->sq_off),
        .prompt = at(base, layout->prompt_off),
    };
}

struct layout_down layout_down(const struct layout *layout, void *base)
{
    return (struct layout_down){
        .head = base,
        .cq = at(base, layout->cq_off),
        .annex = at(base, layout->annex_off),
        .text = at(base, layout->text_off),
    };
}

void layout_format(const struct layout *layout, const struct layout_up *up,
                   const struct layout_down *down, uint32_t sq_start, uint32_t cq_start)
{
    ring_format(up->sq, layout->n_slot, sq_start);
    ring_format(down->cq, layout->n_cqe, cq_start);
    store_once(&up->head->cq_head, cq_start);
    store_once(&down->head->sq_head, sq_start);
}

int layout_read_model(const struct ringlet_board_model *shared,
                      struct ringlet_board_model *ret_model)
{
    enum { N_WORD = sizeof(*shared) / 8 };
    const uint64_t *from = (const uint64_t *)(const void *)shared;
    uint64_t copy[N_WORD];
    for (int i = 0; i < MODEL_READ_TRIES; i++) {
        uint32_t before = load_acquire(&shared->lock); /* pairs with the second store_release */
        if (before & 1) {
            cpu_relax();
            continue;
        }
        for (unsigned k = 0; k < N_WORD; k++)
            copy[k] = load_acquire(from + k); /* pairs with full_fence in layout_write_model */
        if (load_once(&shared->lock) == before) {
            memcpy(ret_model, copy, sizeof(copy));
            return 0;
        }
    }
    return -EAGAIN;
}

void layout_write_model(struct ringlet_board_model *shared, const struct ringlet_board_model *model)
{
    enum { N_WORD = sizeof(*shared) / 8 };
    uint64_t *to = (uint64_t *)(void *)shared;
    uint64_t copy[N_WORD];
    memcpy(copy, model, sizeof(copy));
    uint32_t lock = load_once(&shared->lock);
    assert(!(lock & 1));
    store_once(&shared->lock, lock + 1);
    full_fence(); /* the odd lock before the words; pairs with the acquires in layout_read_model */
    uint64_t head = (copy[0] & ~(uint64_t)UINT32_MAX) | (uint32_t)(lock + 1);
    store_once(to, head);
    for (unsigned k = 1; k < N_WORD; k++)
        store_once(to + k, copy[k]);
    store_release(&shared->lock, lock + 2); /* pairs with load_acquire in layout_read_model */
}
