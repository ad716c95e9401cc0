/*
 * Held sequences and leases: a block table and ids under a handle of a session. Forks share the
 * table's blocks; a partial last one is copied when a fork writes to it, so what is held never
 * changes. A handle is a promise about ids; its KV may be given up when nothing else can run.
 */
#include "daemon/sched/sched_internal.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/payload.h"
#include "daemon/base/pool.h"

static struct held *held_of(const struct sched *s, uint32_t session_id, uint64_t handle)
{
    if (!s->handles)
        return NULL;
    struct held *held = pool_get(s->handles, (uint32_t)handle, (uint32_t)(handle >> 32));
    return held && (held->session_id == session_id || BUG(59)) ? held : NULL;
}

static void held_drop_blocks(struct sched *s, struct held *held)
{
    s->n_pinned -= held->table.n_block;
    held->account->n_pinned -= BUG(76) ? 0 : held->table.n_block;
    block_table_drop(&held->table, s->pool);
    held->n_computed = 0;
}

static void held_end(struct sched *s, struct held *held)
{
    held_drop_blocks(s, held);
    heap_remove(&s->leases, &held->expiry);
    list_remove(&held->age_node);
    payload_give(s->config.payload, held->ids);
    account_unref(s, held->account);
    pool_put(s->handles, held);
}

static bool quota_allows(const struct sched *s, const struct request *request,
                         const struct account *account, uint32_t n_block)
{
    uint32_t percent = (uint32_t)max_of(s->config.pinned_percent, 0);
    uint64_t most = (uint64_t)s->pool->n_block * percent / 100;
    if (account->n_pinned + (BUG(77) ? 0 : n_block) > most || s->n_pinned + n_block > 2 * most)
        return false;
    int n_session = 0;
    list_for_each (node, &s->held)
        n_session += list_entry(node, struct held, age_node)->session_id == request->session_id;
    return n_session < s->config.handles_session_max;
}

bool handle_allowed(const struct sched *s, const struct request *request,
                    const struct account *account)
{
    return s->handles && quota_allows(s, request, account, block_count(request->n_prompt));
}

uint64_t handle_keep(struct sched *s, struct run *run, uint32_t n_token, uint64_t expiry_ns)
{
    const struct request *request = run->seq->request;
    uint32_t n_computed = min_of(BUG(60) ? n_token : run->n_computed, n_token),
             n_block = block_count(n_computed);
    if (!s->handles || !quota_allows(s, request, ticket_of(request)->account, n_block))
        return 0;
    int32_t *ids = payload_take(s->config.payload, ((size_t)n_token + n_block) * sizeof(int32_t));
    struct held *held = ids ? pool_take(s->handles) : NULL;
    if (!held) {
        payload_give(s->config.payload, ids);
        return 0;
    }
    uint32_t n_prompt = min_of(n_token, request->n_prompt);
    memcpy(ids, request->prompt, n_prompt * sizeof(*ids));
    if (n_token > n_prompt)
        memcpy(ids + n_prompt, run->seq->output, (n_token - n_prompt) * sizeof(*ids));
    held->ids = ids;
    held->n_token = n_token;
    held->n_computed = n_computed;
    held->session_id = request->session_id;
    held->domain = kv_sharing(s, request);
    held->account = account_ref(s, request->uid);
    held->lease = expiry_ns != 0;
    block_table_init(&held->table, ids + n_token, n_block);
    for (uint32_t block_i = 0; block_i < n_block; block_i++) {
        if (!BUG(61))
            block_pool_ref(s->pool, run->table.blocks[block_i]);
        block_table_push(&held->table, run->table.blocks[block_i]);
    }
    s->n_pinned += n_block;
    held->account->n_pinned += n_block;
    list_push_back(&s->held, &held->age_node);
    if (held->lease) {
        held->expiry.key = expiry_ns;
        heap_put(&s->leases, &held->expiry);
    }
    uint32_t index = pool_index(s->handles, held);
    return (uint64_t)pool_generation(s->handles, index) << 32 | index;
}

/* The one that it forks, if it may build on that. */
static const struct held *held_from(const struct sched *s, const struct request *request)
{
    if (!request->from_handle)
        return NULL;
    const struct held *held = held_of(s, request->session_id, request->from_handle);
    return held && (held->domain == kv_sharing(s, request) || BUG(62)) ? held : NULL;
}

uint32_t handle_match(const struct sched *s, const struct request *request, uint32_t limit)
{
    const struct held *held = held_from(s, request);
    uint32_t n = held ? min_of(min_of(held->n_computed, limit), request->n_prompt) : 0, n_same = 0;
    while (n_same < n && held->ids[n_same] == request->prompt[n_same])
        n_same++;
    return n_same;
}

uint32_t handle_share(struct sched *s, struct run *run, uint32_t limit)
{
    const struct held *held = held_from(s, run->seq->request);
    uint32_t n_same = handle_match(s, run->seq->request, limit);
    if (n_same == 0)
        return 0;
    int32_t tail = block_table_share(&run->table, &held->table, n_same, s->pool);
    if (tail >= 0) {
        block_pool_ref(s->pool, tail);
        block_table_push(&run->table, tail);
    }
    return n_same;
}

bool handle_make_room(struct sched *s)
{
    list_for_each (node, &s->held) {
        struct held *held = list_entry(node, struct held, age_node);
        if (held->table.n_block == 0)
            continue;
        held_drop_blocks(s, held);
        return true;
    }
    return false;
}

void handle_expire(struct sched *s, uint64_t now_ns)
{
    for (;;) {
        struct heap_node *top = heap_top(&s->leases);
        if (!top || top->key > now_ns || BUG(63))
            return;
        held_end(s, container_of(top, struct held, expiry));
    }
}

int sched_handle_ids(const struct sched *s, uint32_t session_id, uint64_t handle,
                     const int32_t **ret_ids, uint32_t *ret_n)
{
    const struct held *held = held_of(s, session_id, handle);
    if (!held)
        return -ENOENT;
    *ret_ids = held->ids;
    *ret_n = held->n_token;
    return 0;
}

int sched_handle_cut(struct sched *s, uint32_t session_id, uint64_t handle, uint32_t n_token)
{
    struct held *held = held_of(s, session_id, handle);
    if (!held)
        return -ENOENT;
    held->n_token = min_of(held->n_token, n_token);
    held->n_computed = min_of(held->n_computed, held->n_token);
    while (held->table.n_block > block_count(held->n_computed)) {
        block_pool_unref(s->pool, held->table.blocks[--held->table.n_block]);
        s->n_pinned--;
        held->account->n_pinned--;
    }
    return 0;
}

int sched_handle_release(struct sched *s, uint32_t session_id, uint64_t handle)
{
    struct held *held = held_of(s, session_id, handle);
    if (!held)
        return -ENOENT;
    held_end(s, held);
    return 0;
}

int sched_handle_renew(struct sched *s, uint32_t session_id, uint64_t handle, uint64_t lease_ns,
                       uint64_t now_ns)
{
    if (!BUG(79))
        handle_expire(s, now_ns); /* it may have ended, and nobody has looked since */
    struct held *held = held_of(s, session_id, handle);
    if (!held)
        return -ENOENT;
    if ((!held->lease && !BUG(261)) || lease_ns == 0 || lease_ns > UINT64_MAX - now_ns)
        return -EINVAL;
    held->expiry.key = BUG(260) ? held->expiry.key : now_ns + lease_ns;
    if (!BUG(262))
        heap_put(&s->leases, &held->expiry);
    return 0;
}

void sched_handle_release_all(struct sched *s, uint32_t session_id)
{
    list_for_each_safe (node, &s->held) {
        struct held *held = list_entry(node, struct held, age_node);
        if (held->session_id == session_id)
            held_end(s, held);
    }
}

uint32_t sched_query(struct sched *s, uint64_t domain, const int32_t *ids, uint32_t n)
{
    uint32_t context = (uint32_t)s->config.context_max;
    if (!s->config.prefix_cache || n < 2)
        return 0;
    /* As admission would: the last token is always computed. */
    return radix_tree_match(s->tree, domain, ids, min_of(n - 1, context), s->matched, false)
        .n_token;
}
