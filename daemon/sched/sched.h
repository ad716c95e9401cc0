/*
 * The two calls that the daemon makes per pass, and the few beside them. One scheduler per model.
 * Pure: no clock, randomness, system call or allocation inside; the same inputs give the same
 * plans. Loop thread.
 *
 *   serve:  sched_add -> sched_tick -> (executor) -> sched_commit -> publish what is in the outbox
 *
 * Up to two steps are planned and not committed; commits come in plan order.
 */
#ifndef RINGLET_SCHED_SCHED_H
#define RINGLET_SCHED_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct arena;
struct payload_pool;
struct request;
struct sequence;
struct step;
struct sched;

/* What a user may have; users that are not listed have weight 1 and no cap. */
struct sched_share {
    uint32_t uid;
    uint32_t weight;      /* >= 1: share of tokens under the policy "fair" */
    uint32_t running_max; /* running sequences, 0 = no cap */
};

struct sched_config {
    const char *policy; /* "fcfs", "fair", "deadline", "longest-prefix" */
    int batch_max;      /* running sequences */
    int rows_max;       /* token budget of a step */
    int samples_max;    /* logits rows of a step */
    int context_max;    /* tokens of one sequence */
    int kv_blocks;      /* of the pool */
    int kv_host_blocks; /* of the swap pool, 0 = none */
    int queue_max, queue_uid_max;
    int requests_max, sequences_max; /* pool sizes, for side tables */
    int lists_max;                   /* bias and ban entries of a step, as in step_limits */
    int moves_max;                   /* block copies and swaps of a step, as in step_limits */
    int vocab;
    int handles_max; /* held sequences and leases of all sessions, 0 = none */
    int handles_session_max;
    int pinned_percent; /* of the pool that one user's handles may hold; all: twice as much */
    bool prefix_cache;
    bool batch_invariant;   /* the backend's results never depend on the batch (CPU) */
    uint64_t cadence_ns;    /* token cadence that prefill chunks must not break, 0 = none */
    const int32_t *eos_ids; /* ids that end a sequence unless ignore_eos */
    int n_eos_id;
    const struct sched_share *shares;
    int n_share;
    struct payload_pool *payload; /* outputs and log-probabilities are taken here at admission */

    /*
     * After sched_forget, once no step in flight names the request any more: the scheduler has
     * given back outputs and log-probabilities and will not touch it again. Called inside
     * sched_forget, sched_commit or sched_add.
     */
    void (*released)(void *context, struct request *request);

    /*
     * Will somebody give payload back, beside the requests that this scheduler runs? Asked when
     * nobody runs here and the next one finds no room for its output: true and it waits, else it
     * is refused. NULL: nobody will.
     */
    bool (*payload_comes)(void *context, const struct sched *s);
    void *context;
};

/* Requests whose state changed since they were last taken off: publish walks and empties it. */
struct list *sched_outbox(struct sched *s);

/* Take memory from the arena. Returns 0, -ENOMEM, -EINVAL unknown policy. */
int sched_create(const struct sched_config *config, struct arena *arena, struct sched **ret);

/*
 * Queue an encoded request (prompt ids known, n_prompt >= 1, seq[0 .. params.n) taken). From here
 * on the scheduler moves request->state and sequence->state, and puts the request in the outbox
 * whenever there is something to publish.
 * Returns: 0; -EAGAIN queue bound (end it with overload); -E2BIG it can never fit the KV pool, even
 * alone (too_big); -EMSGSIZE the prompt leaves no room in the context (too_long); -ENOSPC more
 * bias or stop ids than a step can hold; -EDQUOT a lease of more than its user may pin now; -EUSERS
 * more beams than may run at once, by batch_max or the user's cap (all three over_quota). On error
 * the scheduler keeps nothing of it. More sequences than may run at once take turns; beams
 * (params.beam_width of them are in seq) cannot. 0 is also returned when it is refused at once
 * because its deadline cannot be met: it is DONE then, in the outbox, reason `deadline`, detail 1,
 * totals.estimate_ns set.
 */
int sched_add(struct sched *s, struct request *request, uint64_t now_ns);

/*
 * End a request's live sequences with this reason (cancel, deadline, slow_client, stop of the
 * daemon). Legal and idempotent in every state; KV returns at the next step boundary.
 */
void sched_cancel(struct sched *s, struct request *request, uint16_t reason, uint32_t detail,
                  uint64_t now_ns);

/* End one sequence that the text side found ended (stop string). Tokens stay as they are. */
void sched_finish(struct sched *s, struct sequence *seq, uint16_t reason, uint32_t detail,
                  uint64_t now_ns);

/*
 * The client of this sequence is out of credit (true), or reads again (false). Nothing happens to
 * beams: they have nothing to say before the end.
 */
void sched_stall(struct sched *s, struct sequence *seq, bool stalled);

/*
 * The publisher is done with an ended request (END is out): forget it. Its memory stays untouched
 * until config.released is called, which may be inside this call.
 */
void sched_forget(struct sched *s, struct request *request);

/*
 * Admit what may run and fill the next step.
 *
 *   step     empty (step_reset); number and every array up to its count are filled
 *
 * Returns: rows planned, > 0: submit the step. 0: nothing to run now; do not submit the step.
 * Call it only while at most one planned step is not committed.
 */
int sched_tick(struct sched *s, uint64_t now_ns, struct step *step);

/*
 * Take a finished step's tokens, find ends, free or cache KV. step->status < 0 ends all that run,
 * but for those who were admitted after a step in flight with it had failed.
 * Returns: is it a failure that was not known when the step was planned? False: it failed with one
 * before it, or ended well.
 */
bool sched_commit(struct sched *s, struct step *step, uint64_t now_ns);

/*
 * Handles: KV and ids that outlive their request, for the session that made them. A sequence with
 * params.hold gets one when it ends normally (seq->handle), a prompt with params.lease_ns when it
 * is computed (request->lease_handle; it ends by itself when the lease does). What a user pins so
 * is bounded (config.pinned_percent); beyond it no handle is given (0).
 *
 * To fork: put the handle's ids before the new input into the prompt and set request->from_handle
 * before sched_add. Any number of forks may run; the held one stays as it is. A handle that is gone
 * by then costs only time: the prompt is computed anew.
 */

/*
 * The ids of a handle; stay put until it ends.
 * Returns: 0; -ENOENT none of this session, or ended.
 */
int sched_handle_ids(const struct sched *s, uint32_t session_id, uint64_t handle,
                     const int32_t **ret_ids, uint32_t *ret_n);

/*
 * A held sequence ends after this many of its ids: the text side found that the rest was never
 * said. Returns: 0; -ENOENT.
 */
int sched_handle_cut(struct sched *s, uint32_t session_id, uint64_t handle, uint32_t n_token);

/* End a handle. Returns: 0; -ENOENT. */
int sched_handle_release(struct sched *s, uint32_t session_id, uint64_t handle);

/*
 * A lease (not a held sequence) ends this long from now.
 * Returns: 0; -ENOENT none of this session, or it has ended by now; -EINVAL no lease.
 */
int sched_handle_renew(struct sched *s, uint32_t session_id, uint64_t handle, uint64_t lease_ns,
                       uint64_t now_ns);

/*
 * Queued requests that wait for a place or for memory, and nothing else; those that wait for their
 * client to read are not among them.
 */
uint32_t sched_waiting(const struct sched *s);

/* End all handles of a session that is gone. */
void sched_handle_release_all(struct sched *s, uint32_t session_id);

/* How many of these tokens' KV is cached now, for a request of this domain; computes nothing. */
uint32_t sched_query(struct sched *s, uint64_t domain, const int32_t *ids, uint32_t n);

/*
 * The device ran out of memory in the step that was committed last: half as many sequences run at
 * once from now on. Once for each failure that sched_commit tells: what was planned before it was
 * known was planned for more. What runs well at that limit for LIMIT_GROW_NS makes it grow again,
 * by a sixteenth of batch_max each time; another shortage on the way doubles that wait, up to
 * LIMIT_GROW_NS_MAX.
 * Returns: how many; 0: it was one already, and nothing helps.
 */
uint32_t sched_shrink(struct sched *s, uint64_t now_ns);

/* Earliest deadline or lease end that sched_expire must see, UINT64_MAX = none. */
uint64_t sched_next_ns(const struct sched *s);
void sched_expire(struct sched *s, uint64_t now_ns);

/*
 * The scheduler's own invariants: blocks are conserved, references add up, counts agree, states are
 * of the table. O(everything); for tests. Returns NULL or what is wrong.
 */
const char *sched_check(const struct sched *s);

struct sched_stats {
    uint32_t running, queued;
    uint32_t kv_total, kv_free, kv_cached, kv_owned;
    uint32_t handles, kv_pinned;    /* blocks that handles hold, shared ones counted for each */
    uint32_t host_total, host_used; /* blocks of the swap pool */
    uint64_t steps, preemptions, prefix_hit_tokens, prefix_query_tokens, evicted_blocks;
    uint64_t swapped_out, swapped_in; /* blocks to the host and back */
};
void sched_stats(const struct sched *s, struct sched_stats *ret);

#endif
