/*
 * Fair between users, then between a user's sessions: deficit round robin over tokens.
 *
 * Each waiting user has a credit of tokens. Who is next in the ring, has something waiting in the
 * most urgent class (aged urgency, in steps of 64) and credit left goes first; planned tokens are
 * taken off the credit, below zero if need be. When none of the candidates has credit, everybody
 * waiting gets as many rounds of quantum x weight as it takes. The same again among the sessions of
 * the user. Users at their cap of running sequences are passed over. Of a session's requests in the
 * same class the one with the most cached prefix goes first, and so many times before the oldest.
 *
 * Flows live while something of theirs waits or runs; a flow that comes back starts with a quantum.
 * The last DORMANT_MAX users who have spent some then are remembered: they come back with what they
 * had, and the rounds that were given meanwhile, or one request after the other would always find
 * a whole quantum.
 */
#include "daemon/sched/sched_internal.h"

#include <errno.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/arena.h"
#include "daemon/base/hash.h"

enum { QUANTUM_TOKENS = 256, CLASS_URGENCY = 64, WINDOW = 16, PASSED_MAX = 16, DORMANT_MAX = 64 };

struct flow {
    struct list ring;     /* waiting flows of the same parent; or the dormant ones */
    struct list children; /* ring of a user's waiting sessions */
    struct list waiting;  /* a session's tickets, in order */
    uint64_t key;
    struct flow *parent; /* a session's user */
    int64_t credit;
    int64_t left_round; /* dormant: when it left */
    uint32_t weight;
    uint32_t n_ticket; /* known: waiting or running */
    uint32_t n_waiting;
};

struct fair {
    struct flow *flow; /* users first, then sessions */
    uint32_t *free_flow;
    uint32_t n_free;
    struct hash users, sessions;
    struct list ring;    /* waiting users */
    struct list dormant; /* users who have nothing here, the oldest first */
    uint32_t n_dormant;
    int64_t n_round; /* of credit, among users */
    struct sched *sched;
};

static int fair_create(const struct sched_config *config, struct sched *sched, struct arena *arena,
                       void **ret)
{
    struct fair *fair = arena_new(arena, struct fair);
    uint32_t n_user = (uint32_t)config->requests_max + DORMANT_MAX,
             n_flow = n_user + (uint32_t)config->requests_max;
    if (!fair)
        return -ENOMEM;
    fair->flow = arena_array(arena, struct flow, n_flow);
    fair->free_flow = arena_array(arena, uint32_t, n_flow);
    if (!fair->flow || !fair->free_flow)
        return -ENOMEM;
    for (uint32_t flow_i = n_flow; flow_i-- > 0;)
        fair->free_flow[fair->n_free++] = flow_i;
    list_init(&fair->ring);
    list_init(&fair->dormant);
    fair->sched = sched;
    *ret = fair;
    int error = hash_init(&fair->users, n_user, arena);
    return error ? error : hash_init(&fair->sessions, (uint32_t)config->requests_max, arena);
}

static void wake(struct fair *fair, struct flow *user)
{
    int64_t quantum = (int64_t)QUANTUM_TOKENS * user->weight,
            n_missed =
                min_of(fair->n_round - user->left_round, (quantum - user->credit) / quantum + 1);
    user->credit = min_of(user->credit + n_missed * quantum, quantum);
    list_remove(&user->ring);
    fair->n_dormant--;
}

static struct flow *flow_get(struct fair *fair, struct hash *hash, uint64_t key, uint32_t weight)
{
    uint32_t flow_i;
    if (hash_get(hash, key, &flow_i)) {
        if (fair->flow[flow_i].n_ticket == 0)
            wake(fair, &fair->flow[flow_i]);
        return &fair->flow[flow_i];
    }
    assert(fair->n_free > 0); /* at most one of each kind per request */
    flow_i = fair->free_flow[--fair->n_free];
    struct flow *flow = &fair->flow[flow_i];
    *flow =
        (struct flow){ .key = key, .weight = weight, .credit = (int64_t)QUANTUM_TOKENS * weight };
    list_init(&flow->ring);
    list_init(&flow->children);
    list_init(&flow->waiting);
    hash_put(hash, key, flow_i);
    return flow;
}

static void flow_free(struct fair *fair, struct hash *hash, struct flow *flow)
{
    hash_remove(hash, flow->key);
    fair->free_flow[fair->n_free++] = (uint32_t)(flow - fair->flow);
}

static void flow_put(struct fair *fair, struct hash *hash, struct flow *flow)
{
    if (--flow->n_ticket > 0)
        return;
    if (flow->parent || flow->credit >= (int64_t)QUANTUM_TOKENS * flow->weight) {
        flow_free(fair, hash, flow);
        return;
    }
    if (fair->n_dormant == DORMANT_MAX) {
        struct flow *oldest = list_first(&fair->dormant, struct flow, ring);
        list_remove(&oldest->ring);
        flow_free(fair, hash, oldest);
        fair->n_dormant--;
    }
    flow->left_round = fair->n_round;
    list_push_back(&fair->dormant, &flow->ring);
    fair->n_dormant++;
}

static void fair_begin(void *self, struct ticket *ticket)
{
    struct fair *fair = self;
    const struct request *request = ticket->request;
    struct flow *user = flow_get(fair, &fair->users, request->uid, ticket->account->weight);
    uint64_t key = (uint64_t)request->uid << 32 | request->session_id;
    struct flow *session = flow_get(fair, &fair->sessions, key, 1);
    session->parent = user;
    user->n_ticket++;
    session->n_ticket++;
    ticket->policy_data = session;
}

static void fair_end(void *self, struct ticket *ticket)
{
    struct fair *fair = self;
    struct flow *session = ticket->policy_data, *user = session->parent;
    flow_put(fair, &fair->sessions, session);
    flow_put(fair, &fair->users, user);
}

static struct ticket *head(const struct flow *session)
{
    return list_first(&session->waiting, struct ticket, wait_node);
}

/* In order among the session's tickets; mostly at the end. */
static void fair_add(void *self, struct ticket *ticket)
{
    struct fair *fair = self;
    struct flow *session = ticket->policy_data, *user = session->parent;
    struct list *after = session->waiting.prev;
    while (after != &session->waiting) {
        const struct ticket *other = list_entry(after, struct ticket, wait_node);
        if (ticket_before(other, ticket))
            break;
        after = after->prev;
    }
    list_push_front(after, &ticket->wait_node);
    if (session->n_waiting++ == 0)
        list_push_back(&user->children, &session->ring);
    if (user->n_waiting++ == 0)
        list_push_back(&fair->ring, &user->ring);
}

static void fair_remove(void *self, struct ticket *ticket)
{
    (void)self;
    struct flow *session = ticket->policy_data, *user = session->parent;
    list_remove(&ticket->wait_node);
    if (--session->n_waiting == 0 && !BUG(64))
        list_remove(&session->ring);
    if (--user->n_waiting == 0)
        list_remove(&user->ring);
}

/* Aged urgency of a ticket in classes; grows with time, so everybody gets to the top. */
static uint64_t class_of(const struct ticket *ticket, uint64_t now_ns)
{
    uint64_t age = now_ns + UINT8_MAX * SCHED_AGING_NS - ticket->order_ns;
    return age / (CLASS_URGENCY * SCHED_AGING_NS);
}

static uint64_t flow_class(const struct flow *flow, uint64_t now_ns)
{
    if (!flow->parent) {
        uint64_t best = 0;
        list_for_each (node, &flow->children)
            best = max_of(best, class_of(head(list_entry(node, struct flow, ring)), now_ns));
        return best;
    }
    return class_of(head(flow), now_ns);
}

static bool flow_capped(const struct flow *flow)
{
    if (flow->parent)
        return false;
    const struct flow *session = list_first(&flow->children, struct flow, ring);
    const struct ticket *ticket = head(session);
    return ticket->account->n_running_seqs >= ticket->account->running_max;
}

/* Rounds of credit until some candidate of the best class has any. Returns how many. */
static int64_t ring_refill(struct list *ring, uint64_t best, uint64_t now_ns)
{
    int64_t rounds = INT64_MAX;
    list_for_each (node, ring) {
        struct flow *flow = list_entry(node, struct flow, ring);
        int64_t quantum = (int64_t)QUANTUM_TOKENS * flow->weight;
        if (!flow_capped(flow) && flow_class(flow, now_ns) == best)
            rounds = min_of(rounds, -flow->credit / quantum + 1);
    }
    list_for_each (node, ring) {
        struct flow *flow = list_entry(node, struct flow, ring);
        int64_t quantum = (int64_t)QUANTUM_TOKENS * flow->weight;
        flow->credit = min_of(flow->credit + rounds * quantum, quantum);
    }
    return rounds;
}

/* The next flow of a ring; it goes to the end of it. */
static struct flow *ring_next(struct list *ring, uint64_t now_ns, int64_t *n_round)
{
    uint64_t best = 0;
    bool any = false;
    list_for_each (node, ring) {
        const struct flow *flow = list_entry(node, struct flow, ring);
        if (flow_capped(flow))
            continue;
        best = max_of(best, flow_class(flow, now_ns));
        any = true;
    }
    if (!any)
        return NULL;
    for (int pass = 0; pass < 2; pass++) {
        list_for_each (node, ring) {
            struct flow *flow = list_entry(node, struct flow, ring);
            if (flow_capped(flow) || flow->credit <= 0 || flow_class(flow, now_ns) != best)
                continue;
            return flow;
        }
        *n_round += ring_refill(ring, best, now_ns);
    }
    return NULL;
}

/* Of the first few in the head's class: who finds most of its prompt computed. */
static struct ticket *most_cached(struct fair *fair, const struct flow *session, uint64_t now_ns)
{
    struct ticket *first = head(session), *best = first;
    uint32_t n = 0;
    if (session->n_waiting == 1)
        return first;
    list_for_each (node, &session->waiting) {
        struct ticket *ticket = list_entry(node, struct ticket, wait_node);
        if (n++ == WINDOW || class_of(ticket, now_ns) != class_of(first, now_ns))
            break;
        if (admission_hint(fair->sched, ticket) > admission_hint(fair->sched, best))
            best = ticket;
    }
    return best != first && ++first->n_passed > PASSED_MAX ? first : best;
}

static struct ticket *fair_next(void *self, uint64_t now_ns)
{
    struct fair *fair = self;
    struct flow *user = ring_next(&fair->ring, now_ns, &fair->n_round);
    int64_t unused = 0;
    if (!user)
        return NULL;
    struct flow *session = ring_next(&user->children, now_ns, &unused);
    assert(session);
    struct ticket *ticket = most_cached(fair, session, now_ns);
    list_remove(&user->ring);
    list_push_back(&fair->ring, &user->ring);
    list_remove(&session->ring);
    list_push_back(&user->children, &session->ring);
    fair_remove(self, ticket);
    return ticket;
}

static void fair_charge(void *self, struct ticket *ticket, uint32_t n_token)
{
    (void)self;
    struct flow *session = ticket->policy_data;
    session->credit -= n_token;
    session->parent->credit -= n_token;
}

/* Of other sessions nobody knows what credit they will have. */
static bool fair_before(const struct ticket *a, const struct ticket *b)
{
    return a->policy_data == b->policy_data && ticket_before(a, b);
}

const struct policy policy_fair = {
    .name = "fair",
    .create = fair_create,
    .begin = fair_begin,
    .end = fair_end,
    .add = fair_add,
    .remove = fair_remove,
    .next = fair_next,
    .put_back = fair_add,
    .before = fair_before,
    .charge = fair_charge,
};
