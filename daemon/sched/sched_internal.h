/*
 * The scheduler's own records, for the files of this folder only.
 *
 *   ticket   beside each request: its place in queue, running list and deadline heap
 *   run      beside each sequence: its KV and how far it is planned and computed
 *
 * Positions of a sequence:   0 ... n_computed ... n_planned ... total
 *   n_computed  KV is there, the step came back
 *   n_planned   KV will be there when the planned steps have run
 *   total       prompt, output, and tokens that planned steps draw
 */
#ifndef RINGLET_SCHED_INTERNAL_H
#define RINGLET_SCHED_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "daemon/base/hash.h"
#include "daemon/base/heap.h"
#include "daemon/kv/block_pool.h"
#include "daemon/kv/block_table.h"
#include "daemon/kv/radix_tree.h"
#include "daemon/request/request.h"
#include "daemon/sched/cost.h"
#include "daemon/sched/policy.h"
#include "daemon/sched/sched.h"
#include "daemon/step/step.h"

enum {
    SCHED_PINS_MAX = 512, /* blocks kept for the moves of one tick */
    SCHED_SKIPS_MAX = 64, /* waiting requests passed over in one tick */
    SCHED_IN_FLIGHT_MAX = 2,
    SCHED_DOMAINS_MAX = 4096,
};

/* One unit of urgency is worth this much waiting. */
#define SCHED_AGING_NS (UINT64_C(100) * 1000000)

struct run {
    struct sequence *seq;
    struct block_table table;
    struct radix_cursor cursor;
    uint32_t generation, epoch;
    uint32_t n_planned, n_computed;
    uint32_t n_drawing;  /* tokens that planned steps draw */
    uint32_t n_inflight; /* planned steps that name it */
    int32_t sample_row;  /* of the last planned draw, in step sample_step */
    uint64_t sample_step;
    int32_t state_slot; /* row of token counts, -1 = none */
    uint64_t room_tick; /* tick in which its blocks are ready to be written */
    bool stalled;
    bool parked; /* its request runs, but it waits for its turn: more sequences than may run */
};

/* What a user has; lives while a request of theirs does. */
struct account {
    uint32_t uid;
    uint32_t n_ref;
    uint32_t n_queued, n_running_seqs;
    uint32_t n_pinned; /* blocks that handles hold */
    uint32_t weight, running_max;
    struct list capped; /* tickets set aside, since one of them found too few places left */
};

/* KV and ids that outlive their request. */
struct held {
    struct block_table table;
    int32_t *ids; /* [n_token]; one piece of payload with the table behind it */
    uint32_t n_token, n_computed;
    uint32_t session_id;
    uint64_t domain; /* kv_sharing of what computed it */
    struct account *account;
    struct heap_node expiry; /* leases only */
    struct list age_node;    /* in sched->held, oldest first */
    bool lease;
};

struct ticket {
    struct request *request;
    struct account *account;
    struct heap_node order; /* the policy's; */
    struct list wait_node;  /* one of the two is in use; or account->capped's, while aside */
    struct heap_node deadline;
    struct list run_node; /* in sched->running: admitted, oldest first */
    uint64_t order_ns;    /* arrival, less what urgency is worth */
    uint64_t serial;      /* of sched_add: breaks ties */
    uint32_t n_inflight;  /* planned steps that name one of its sequences */
    uint32_t n_reserved;  /* blocks promised to it and not taken yet */
    bool preempted;       /* its KV may be in the tree */
    bool aside;           /* waits, and not in the policy's order */
    bool queued, running, forked, admitted_once, forgotten;
    uint64_t planned_step;        /* last step that has rows of it */
    uint64_t bias_step, ban_step; /* steps that have its lists, which start at ... */
    int32_t bias_start, ban_start;
    void *policy_data;
    uint64_t hint_tick; /* when the cached tokens were looked up */
    uint32_t hint_tokens;
    uint32_t n_passed;   /* times that later ones went first, because more of them was cached */
    struct beams *beams; /* of a beam search, from admission on; a payload piece */
};

struct sched {
    struct sched_config config;
    struct block_pool *pool, *host;
    struct radix_tree *tree;
    const struct policy *policy;
    void *policy_self;

    struct ticket *ticket; /* [requests_max] */
    struct run *run;       /* [sequences_max] */
    struct list running, outbox;
    uint32_t n_running, n_running_seqs, n_queued;
    uint32_t seqs_max; /* running sequences; batch_max until the device is short of memory */
    uint64_t grow_ns;  /* then: when more may be tried */
    uint64_t grow_wait_ns;
    uint32_t n_reserved; /* sum over tickets */
    uint64_t serial;
    struct heap deadlines;
    struct pool *accounts;
    struct hash account_of; /* uid -> index */
    struct pool *handles;   /* NULL: none */
    struct list held;
    struct heap leases;
    uint32_t n_pinned;
    struct cost_model cost;
    uint64_t backlog_tokens; /* prompt tokens of waiting requests, cached or not */

    int32_t *state_free; /* [batch_max] stack of token-count rows */
    int32_t n_state_free;

    int32_t *scratch; /* [context_max] a sequence's ids in one piece */
    int32_t *matched; /* [block_count(context_max)] */

    uint64_t n_planned_step, n_committed_step;
    uint64_t sound_step; /* the first that was planned after the latest failure */
    uint64_t n_tick;
    uint32_t n_ended; /* ended requests that are not forgotten: their memory will come back */
    uint64_t now_ns;
    struct step *step; /* the one that is being filled */
    uint64_t step_kv;  /* KV tokens that its rows read */
    int32_t pin[SCHED_PINS_MAX], host_pin[SCHED_PINS_MAX];
    uint32_t n_pin, n_host_pin;
    struct step_move *carry; /* [moves_max] swapped out in a tick without rows */
    int n_carry;
    struct sched_stats stats;
};

static inline struct ticket *ticket_of(const struct request *request)
{
    return request->sched;
}

static inline struct run *run_of(const struct sequence *seq)
{
    return seq->sched;
}

static inline bool seq_live(const struct sequence *seq)
{
    return seq->state != SEQUENCE_ENDED;
}

/* By urgency and age in one. */
static inline bool ticket_before(const struct ticket *a, const struct ticket *b)
{
    return a->order_ns < b->order_ns || (a->order_ns == b->order_ns && a->serial < b->serial);
}

/* Prompt, output, and what planned steps draw. */
static inline uint32_t run_total(const struct run *run)
{
    return sequence_tokens(run->seq) + run->n_drawing;
}

#define for_each_seq(seq, request)                                                                 \
    for (uint32_t seq##_i = 0; seq##_i < (request)->n_seq; seq##_i++)                              \
        for (struct sequence *seq = (request)->seq[seq##_i]; seq; seq = NULL)

#define for_each_live(seq, request)                                                                \
    for_each_seq (seq, request)                                                                    \
        if (seq_live(seq))

/* Those that may run now, of a request that was added. */
#define for_each_active(seq, request)                                                              \
    for_each_live (seq, request)                                                                   \
        if (!run_of(seq)->parked)

/* Those of a beam search are all active; which of them are open beams is beam.c's. */
static inline uint32_t n_active(const struct request *request)
{
    uint32_t n = 0;
    for_each_active(seq, request) n++;
    return n;
}

/* kv.c: blocks for sequences */

/* Blocks that could be had now beyond all reservations; may be negative. */
int64_t kv_available(const struct sched *s);
/* One block, evicting if need be, from the ticket's reservation first; -1 none to be had. */
int32_t kv_take(struct sched *s, struct ticket *ticket);
/*
 * Make positions [run->n_planned, n_token) writable in the step that is being filled: blocks are
 * there and the first is nobody else's (else it is copied). What was taken stays in the table.
 */
enum kv_room { KV_READY, KV_NO_BLOCKS, KV_NO_MOVES /* not in this step */ };
enum kv_room kv_extend(struct sched *s, struct run *run, uint32_t n_token);
/* Offer what is computed to the tree; whole: the partial last block too. */
void kv_cache(struct sched *s, struct run *run, bool whole);
/* A copy that this tick wanted for it does not happen: the shared block is back. */
void kv_restore(struct sched *s, struct run *run);
/* Give all blocks back, to the cache if it is good for that; positions are zero again. */
void kv_drop(struct sched *s, struct run *run, bool cache);
void kv_unreserve(struct sched *s, struct ticket *ticket);
/*
 * Bring what the host has of a match, after the device's part, which is in the table already. The
 * ticket has blocks for it reserved. Returns the tokens that the table has then.
 */
uint32_t kv_swap_in(struct sched *s, struct run *run, struct radix_match *match);
/* Let go of what was kept for the moves of this tick. */
void kv_unpin(struct sched *s);
/* Whose KV a request may share; and the tree's domain for it, a private one without the cache. */
uint64_t kv_sharing(const struct sched *s, const struct request *request);
uint64_t kv_domain(const struct sched *s, const struct request *request);

/* account.c */
struct account *account_ref(struct sched *s, uint32_t uid);
void account_unref(struct sched *s, struct account *account);

/* admission.c */
/* Prompt tokens that the cache has for a request now. */
uint32_t admission_cached(struct sched *s, const struct request *request);
/* The same of a waiting one, looked up again every few ticks: for policies. */
uint32_t admission_hint(struct sched *s, struct ticket *ticket);
void admission_run(struct sched *s);
/* Take a running request out whole; it waits again with its tokens. */
void admission_preempt(struct sched *s, struct request *request);
/* Those who had their turn have ended: it waits for the turn of the rest. */
void admission_next_turn(struct sched *s, struct request *request);
/* One of its sequences gives its blocks back until the others have ended. */
void admission_park(struct sched *s, struct sequence *seq);
/* What it was set aside for has changed: it is in the policy's order again. */
void admission_look_again(struct sched *s, struct ticket *ticket);
/* It waits from now on; so many of its sequences run more. */
void admission_queue(struct sched *s, struct ticket *ticket);
void admission_count(struct sched *s, struct ticket *ticket, int n_more);
/* Its place among the waiting, or among the running, ends. */
void admission_leave(struct sched *s, struct request *request);

/* estimate.c */
/*
 * Can its deadlines be met, as far as is known? Asked when it comes and again when it is its turn.
 * If not, totals.estimate_ns says how long it would take.
 */
bool estimate_in_time(struct sched *s, struct request *request, bool waiting);

/* handle.c */
/* Keep n_token ids and their computed KV beyond the request. Returns the handle, 0 = not kept. */
uint64_t handle_keep(struct sched *s, struct run *run, uint32_t n_token, uint64_t expiry_ns);
/* May this user pin the whole prompt, as things are now? */
bool handle_allowed(const struct sched *s, const struct request *request,
                    const struct account *account);
/* Tokens of a request's prompt, <= limit, whose KV its handle has. */
uint32_t handle_match(const struct sched *s, const struct request *request, uint32_t limit);
/* Begin a request's table with its handle's blocks; returns tokens taken, <= limit. */
uint32_t handle_share(struct sched *s, struct run *run, uint32_t limit);
/* Nobody runs and still there is no room: the oldest handle lets its blocks go, not its ids. */
bool handle_make_room(struct sched *s);
void handle_expire(struct sched *s, uint64_t now_ns);

/* beam.c */
/* The search's own memory, once outputs are there. False: none now. */
bool beams_take_memory(struct sched *s, struct request *request);
/* What rows told is forgotten: they are computed again. */
void beams_forget_told(struct beams *beams);
/* The best open beam; the number of open ones; is this one? */
struct sequence *beams_leader(const struct request *request);
uint32_t beams_open(const struct beams *beams);
bool beams_is_open(const struct sequence *seq);
/* Tokens, prompt included, that two beams begin with. */
uint32_t beams_common_tokens(const struct sequence *leader, const struct sequence *seq);
/* Candidates that a row is asked for. */
int32_t beams_n_top(const struct sched *s, const struct request *request);
/* A beam's row has come back; with the last of them the search goes on. */
void beams_take(struct sched *s, struct sequence *seq, const struct step_token *result);
/* The search ends here, with what it has. */
void beams_cut(struct sched *s, struct request *request, uint16_t reason, uint32_t detail);

/* batcher.c */
/* Blocks for what the running sequences write next; false: somebody was preempted or ended. */
bool batcher_make_room(struct sched *s);
void batcher_fill(struct sched *s);

/* sched.c */
void sched_touch(struct sched *s, struct request *request); /* it has something to publish */
void sched_end(struct sched *s, struct sequence *seq, uint16_t reason, uint32_t detail);
/* Why this token ends a sequence, EOS or a stop id; 0: it does not. */
uint16_t sched_end_reason(const struct sched *s, const struct request *request, int32_t id);
/* A state changed that deadlines depend on. */
void sched_deadline_changed(struct sched *s, struct request *request);
/* Nothing in flight names it and the publisher is done: give its memory back. */
void sched_release(struct sched *s, struct ticket *ticket);

#endif
