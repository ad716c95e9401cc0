/*
 * Handles as clients see them: the scheduler's, with the model in bits 24 .. 31, so that RELEASE
 * and LEASE need no other hint. A handle is looked up for the session that names it; no other
 * session's can be named.
 */
#include "daemon/handles.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/planted.h"
#include "daemon/serve.h"
#include "daemon/session/intake.h"

enum { MODEL_SHIFT = 24, MODEL_MASK = 0xFF };

uint64_t handles_wire(const struct request *request, uint64_t handle)
{
    assert((uint32_t)handle < 1u << MODEL_SHIFT);
    return handle ? handle | (uint64_t)request->model << MODEL_SHIFT : 0;
}

/* The model that a handle names, or NULL; *ret_handle is the scheduler's. */
static struct serve_model *model_of(struct serve *sv, uint64_t wire, uint64_t *ret_handle)
{
    uint32_t model_i = BUG(250) ? 0 : (uint32_t)(wire >> MODEL_SHIFT) & MODEL_MASK;
    *ret_handle = wire & ~((uint64_t)MODEL_MASK << MODEL_SHIFT);
    return model_i < sv->n_model ? &sv->model[model_i] : NULL;
}

int handles_join(struct serve *sv, struct request *request, uint64_t wire)
{
    uint64_t handle;
    struct serve_model *m = model_of(sv, wire, &handle);
    const int32_t *held;
    uint32_t n_held;
    if (m != &sv->model[request->model] ||
        sched_handle_ids(m->sched, request->session_id, handle, &held, &n_held))
        return -ENOENT;
    uint64_t n = (uint64_t)n_held + request->n_prompt;
    if (n > sv->validate_models[request->model].context)
        return -EMSGSIZE;
    struct serve_request *side = &sv->request[request->pool_index];
    side->joined_bytes = (uint32_t)(n * sizeof(int32_t)); /* n is within a context */
    int32_t *ids = intake_room(sv->sessions, side->user, side->joined_bytes);
    if (!ids)
        return -EAGAIN;
    memcpy(ids, held, n_held * sizeof(*ids));
    memcpy(ids + n_held - (BUG(251) && n_held), request->prompt, request->n_prompt * sizeof(*ids));
    side->joined = ids;
    request->prompt = ids;
    request->n_prompt = (uint32_t)n;
    request->from_handle = handle;
    return 0;
}

bool handles_op(struct serve *sv, struct session *s, const struct intake_item *item)
{
    uint64_t handle;
    uint8_t op = item->sqe.op;
    if (op != RINGLET_OP_RELEASE && (op != RINGLET_OP_LEASE || !item->sqe.handle))
        return false;
    struct serve_model *m = model_of(sv, item->sqe.handle, &handle);
    int error = -ENOENT;
    if (m && op == RINGLET_OP_RELEASE)
        error = BUG(273) ? 0 : sched_handle_release(m->sched, s->id, handle);
    else if (m)
        error = sched_handle_renew(m->sched, s->id, handle,
                                   item->params.lease_ns ? item->params.lease_ns : LIMIT_LEASE_NS,
                                   serve_now(sv));
    if (m)
        m->dirty = true; /* blocks may be free, and a timer different */
    intake_give(sv->sessions, s->user, BUG(252) ? NULL : item->payload, item->payload_bytes);
    if (error)
        answer_entry(s, item, RINGLET_REASON_REJECTED, RINGLET_ERROR_NO_HANDLE,
                     VALIDATE_SQE_FIELD(handle));
    else
        answer_entry(s, item, RINGLET_REASON_DONE, 0, 0);
    return true;
}

void handles_gone(struct serve *sv, const struct session *s)
{
    for (uint32_t model_i = 0; model_i < sv->n_model; model_i++) {
        sched_handle_release_all(sv->model[model_i].sched, s->id);
        sv->model[model_i].dirty = true;
    }
}
