/* What each user has waiting and running, and what the config says they may. */
#include "daemon/sched/sched_internal.h"

#include "base/assert.h"
#include "base/compiler.h"
#include "daemon/base/pool.h"

struct account *account_ref(struct sched *s, uint32_t uid)
{
    uint32_t index;
    struct account *account;
    if (hash_get(&s->account_of, uid, &index)) {
        account = pool_get(s->accounts, index, pool_generation(s->accounts, index));
    } else {
        account = pool_take(s->accounts);
        if (!account)
            return NULL;
        *account = (struct account){ .uid = uid, .weight = 1, .running_max = UINT32_MAX };
        list_init(&account->capped);
        for (int share_i = 0; share_i < s->config.n_share; share_i++) {
            const struct sched_share *share = &s->config.shares[share_i];
            if (share->uid != uid)
                continue;
            account->weight = max_of(share->weight, 1u);
            account->running_max = share->running_max ? share->running_max : UINT32_MAX;
        }
        hash_put(&s->account_of, uid, pool_index(s->accounts, account));
    }
    account->n_ref++;
    return account;
}

void account_unref(struct sched *s, struct account *account)
{
    assert(account->n_ref > 0);
    if (--account->n_ref > 0)
        return;
    assert(account->n_queued == 0 && account->n_running_seqs == 0);
    hash_remove(&s->account_of, account->uid);
    pool_put(s->accounts, account);
}
