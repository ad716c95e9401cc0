/*
 * An admission policy: in which order waiting requests are looked at. A plug-in is one file
 * policy_<name>.c, one word in this folder's list, and one row of policies[] that meson writes.
 * Pure like the rest of the scheduler. All calls: loop thread, no allocation after create.
 *
 * Urgency ages: request->order is the time of arrival minus urgency times a constant, so a request
 * is overtaken by more urgent ones only while they arrive within 255 of these constants after it.
 */
#ifndef RINGLET_SCHED_POLICY_H
#define RINGLET_SCHED_POLICY_H

#include <stdbool.h>
#include <stdint.h>

struct arena;
struct sched;
struct sched_config;
struct ticket;

struct policy {
    const char *name;

    /* Returns: 0; -ENOMEM. */
    int (*create)(const struct sched_config *config, struct sched *sched, struct arena *arena,
                  void **ret);

    /* A request is known from here on; it has ended. May be NULL. */
    void (*begin)(void *self, struct ticket *ticket);
    void (*end)(void *self, struct ticket *ticket);

    /* A request waits from now on (again, after a preemption); it no longer waits. */
    void (*add)(void *self, struct ticket *ticket);
    void (*remove)(void *self, struct ticket *ticket);

    /* The one to admit next, taken out; NULL none. Back in if it cannot be admitted now. */
    struct ticket *(*next)(void *self, uint64_t now_ns);
    void (*put_back)(void *self, struct ticket *ticket);

    /* Is `a` before `b` in the order that they wait in, as far as that is certain? */
    bool (*before)(const struct ticket *a, const struct ticket *b);

    /* So many tokens of this request were planned. May be NULL. */
    void (*charge)(void *self, struct ticket *ticket, uint32_t n_token);
};

extern const struct policy policy_fcfs, policy_fair, policy_deadline, policy_longest_prefix;

/* The policy of that name, or NULL. */
const struct policy *policy_find(const char *name);

#endif
