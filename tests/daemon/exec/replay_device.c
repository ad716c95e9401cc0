#include "tests/daemon/exec/replay_device.h"

#include <errno.h>
#include <stdlib.h>

#include "kernels/device.h"
#include "kernels/kernels.h"

enum { CALLS_MAX = 256 };

enum call_kind {
    CALL_EMBED,
    CALL_MATMUL,
    CALL_ROPE,
    CALL_ATTN,
    CALL_SWIGLU,
    CALL_LOGITS,
    CALL_SAMPLE,
    CALL_FETCH,
    CALL_DELIVER
};

/* Of the device table's calls that are captured. */
struct move_args {
    void *dst;
    const void *src;
    size_t bytes, bytes_max;
    uint32_t *word;
    const uint32_t *value;
    struct device_turn turn;
};

struct call {
    enum call_kind kind;
    union {
        struct embed_args embed;
        struct matmul_args matmul;
        struct rope_append_args rope_append;
        struct attn_args attn;
        struct swiglu_args swiglu;
        struct logits_args logits;
        struct sample_args sample;
        struct move_args move;
    };
    struct seq_batch batch; /* of attn: the caller's is gone at replay */
};

struct graph {
    int n;
    struct call calls[CALLS_MAX];
};

static const struct backend *inner;
static struct device_ops device;
static struct kernel_ops ops;
static struct backend wrapped;
static struct graph *recording;
static int n_launch, most_rows;
static int n_graph_call, fail_at, fail_rc; /* written while no step is under way */

void replay_fail(int call, int rc)
{
    n_graph_call = 0;
    fail_at = call;
    fail_rc = rc;
}

int replay_graph_calls(void)
{
    return n_graph_call;
}

int replay_most_rows(void)
{
    return most_rows;
}

/* The error of this call to do with graphs, or 0. */
static int graph_call(void)
{
    return ++n_graph_call == fail_at ? fail_rc : 0;
}

#define record_op(op, call_kind)                                                                   \
    static int replay_##op(struct stream *st, const struct op##_args *args)                        \
    {                                                                                              \
        if (!recording)                                                                            \
            return inner->ops->op(st, args);                                                       \
        if (recording->n == CALLS_MAX)                                                             \
            return -ENOMEM;                                                                        \
        struct call *call = &recording->calls[recording->n++];                                     \
        call->kind = call_kind;                                                                    \
        call->op = *args;                                                                          \
        return 0;                                                                                  \
    }
record_op(embed, CALL_EMBED) record_op(matmul, CALL_MATMUL) record_op(rope_append, CALL_ROPE)
    record_op(swiglu, CALL_SWIGLU) record_op(logits, CALL_LOGITS) record_op(sample, CALL_SAMPLE)

        static int replay_attn(struct stream *st, const struct attn_args *args)
{
    if (!recording) {
        if (args->batch->n_row > most_rows)
            most_rows = args->batch->n_row;
        return inner->ops->attn(st, args);
    }
    if (recording->n == CALLS_MAX)
        return -ENOMEM;
    struct call *call = &recording->calls[recording->n++];
    call->kind = CALL_ATTN;
    call->attn = *args;
    call->batch = *args->batch;
    return 0;
}

static int record_move(enum call_kind kind, const struct move_args *move)
{
    if (recording->n == CALLS_MAX)
        return -ENOMEM;
    struct call *call = &recording->calls[recording->n++];
    call->kind = kind;
    call->move = *move;
    return 0;
}

static int replay_fetch(struct stream *st, void *dst, const void *src,
                        const struct device_turn *turn, size_t sure, size_t max)
{
    if (!recording)
        return inner->device->fetch(st, dst, src, turn, sure, max);
    return record_move(CALL_FETCH, &(struct move_args){ dst, src, sure, max, NULL, NULL, *turn });
}

static int replay_deliver(struct stream *st, void *dst, const void *src, size_t bytes,
                          uint32_t *word, const uint32_t *value, const struct device_turn *turn)
{
    if (!recording)
        return inner->device->deliver(st, dst, src, bytes, word, value, turn);
    return record_move(CALL_DELIVER, &(struct move_args){ dst, src, bytes, 0, word, value, *turn });
}

static int replay_graph_begin(struct stream *st)
{
    (void)st;
    int rc = graph_call();
    if (rc == 0)
        recording = calloc(1, sizeof(*recording));
    return rc < 0 ? rc : recording ? 0 : -ENOMEM;
}

static int replay_graph_end(struct stream *st, struct graph **ret)
{
    (void)st;
    int rc = graph_call();
    if (rc < 0)
        free(recording);
    else
        *ret = recording;
    recording = NULL;
    return rc;
}

static int replay_call(struct stream *st, struct call *call)
{
    switch (call->kind) {
    case CALL_EMBED:
        return inner->ops->embed(st, &call->embed);
    case CALL_MATMUL:
        return inner->ops->matmul(st, &call->matmul);
    case CALL_ROPE:
        return inner->ops->rope_append(st, &call->rope_append);
    case CALL_SWIGLU:
        return inner->ops->swiglu(st, &call->swiglu);
    case CALL_LOGITS:
        return inner->ops->logits(st, &call->logits);
    case CALL_SAMPLE:
        return inner->ops->sample(st, &call->sample);
    case CALL_FETCH:
        return inner->device->fetch(st, call->move.dst, call->move.src, &call->move.turn,
                                    call->move.bytes, call->move.bytes_max);
    case CALL_DELIVER:
        return inner->device->deliver(st, call->move.dst, call->move.src, call->move.bytes,
                                      call->move.word, call->move.value, &call->move.turn);
    case CALL_ATTN:
        call->attn.batch = &call->batch;
        return inner->ops->attn(st, &call->attn);
    }
    return -EINVAL;
}

static int replay_graph_launch(struct stream *st, struct graph *graph)
{
    int rc = graph_call();
    for (int i = 0; i < graph->n && rc == 0; i++)
        rc = replay_call(st, &graph->calls[i]);
    __atomic_add_fetch(&n_launch, 1, __ATOMIC_RELAXED);
    return rc;
}

static void replay_graph_close(struct graph *graph)
{
    free(graph);
}

const struct backend *replay_backend(void)
{
    char err[256];
    if (backend_find("cpu", &inner, err, sizeof(err)) < 0)
        return NULL;
    device = *inner->device;
    ops = *inner->ops;
    device.fetch = replay_fetch;
    device.deliver = replay_deliver;
    device.graph_begin = replay_graph_begin;
    device.graph_end = replay_graph_end;
    device.graph_launch = replay_graph_launch;
    device.graph_close = replay_graph_close;
    ops.embed = replay_embed;
    ops.matmul = replay_matmul;
    ops.rope_append = replay_rope_append;
    ops.attn = replay_attn;
    ops.swiglu = replay_swiglu;
    ops.logits = replay_logits;
    ops.sample = replay_sample;
    ops.attn_in = NULL;
    ops.ffn_in = NULL;
    wrapped = (struct backend){ inner->abi, inner->name, &device, &ops };
    n_launch = most_rows = 0;
    replay_fail(0, 0);
    return &wrapped;
}

int replay_launches(void)
{
    return __atomic_load_n(&n_launch, __ATOMIC_RELAXED);
}
