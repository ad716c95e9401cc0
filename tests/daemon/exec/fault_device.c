#include "tests/daemon/exec/fault_device.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "kernels/device.h"
#include "kernels/kernels.h"

static const struct backend *inner;
static struct device_ops device;
static struct kernel_ops ops;
static struct backend wrapped;
/* The executor reads the plan while a test arms the next: old ones stay as they were. */
static struct fault_plan plans[8];
static const struct fault_plan *plan = plans;
static unsigned n_plan;
static int n_call;
static bool sticky;
/* What a hanging device kept back. */
static uint32_t *held_word, held_value;

static const struct fault_plan *armed(void)
{
    return __atomic_load_n(&plan, __ATOMIC_ACQUIRE); /* pairs with fault_arm */
}

/* Count a call; its error, or 0 to go on. After a device fault every call fails. */
static int fault_hit(void)
{
    int call = __atomic_add_fetch(&n_call, 1, __ATOMIC_RELAXED);
    if (__atomic_load_n(&sticky, __ATOMIC_ACQUIRE))
        return -EIO;
    const struct fault_plan *now = armed();
    if (now->hang || now->fail_at == 0 || call != now->fail_at)
        return 0;
    if (now->late && fault_holds())
        __atomic_store_n(held_word, held_value, __ATOMIC_RELEASE); /* pairs with exec_model_done */
    if (now->fail_rc == -EIO)
        fault_break();
    return now->fail_rc;
}

static const char *fault_error(struct device *dev)
{
    return __atomic_load_n(&sticky, __ATOMIC_ACQUIRE) ? "injected fault"
                                                      : inner->device->error(dev);
}

static void *fault_alloc(struct device *dev, size_t bytes)
{
    return fault_hit() < 0 ? NULL : inner->device->alloc(dev, bytes);
}

static void *fault_host_alloc(struct device *dev, size_t bytes)
{
    return fault_hit() < 0 ? NULL : inner->device->host_alloc(dev, bytes);
}

static int fault_signal(struct stream *st, uint32_t *word, uint32_t value)
{
    int rc = fault_hit();
    const struct fault_plan *now = armed();
    if (rc < 0 || (now->hang && now->fail_at && fault_calls() >= now->fail_at))
        return rc;
    return inner->device->signal(st, word, value);
}

static int fault_deliver(struct stream *st, void *dst, const void *src, size_t bytes,
                         uint32_t *word, const uint32_t *value, const struct device_turn *turn)
{
    int rc = fault_hit();
    const struct fault_plan *now = armed();
    if (rc == 0 && now->hang && now->fail_at && fault_calls() >= now->fail_at) {
        held_value = *value;
        word += *turn->word % 2 * turn->stride / sizeof(*word);
        __atomic_store_n(&held_word, word, __ATOMIC_RELEASE); /* pairs with fault_holds */
        return 0;
    }
    if (rc < 0)
        return rc;
    return inner->device->deliver(st, dst, src, bytes, word, value, turn);
}

static int fault_fetch(struct stream *st, void *dst, const void *src,
                       const struct device_turn *turn, size_t sure, size_t max)
{
    int rc = fault_hit();
    return rc < 0 ? rc : inner->device->fetch(st, dst, src, turn, sure, max);
}

static int fault_logits(struct stream *st, const struct logits_args *args)
{
    int rc = fault_hit();
    if (rc == 0)
        rc = inner->ops->logits(st, args);
    if (rc == 0 && armed()->nan_logits)
        args->out[0] = NAN;
    return rc;
}

/* The others only count and pass on. */
#define pass_device(op, params, args)                                                              \
    static int fault_##op params                                                                   \
    {                                                                                              \
        int rc = fault_hit();                                                                      \
        return rc < 0 ? rc : inner->device->op args;                                               \
    }
pass_device(stream_open, (struct device * d, const struct op_limits *l, struct stream **s),
            (d, l, s)) pass_device(stream_sync, (struct stream * s), (s))
    pass_device(copy_in, (struct stream * s, void *d, const void *f, size_t n), (s, d, f, n))
        pass_device(copy_out, (struct stream * s, void *d, const void *f, size_t n), (s, d, f, n))
            pass_device(fill, (struct stream * s, void *d, uint8_t b, size_t n), (s, d, b, n))

#define pass_op(op)                                                                                \
    static int fault_##op(struct stream *st, const struct op##_args *args)                         \
    {                                                                                              \
        int rc = fault_hit();                                                                      \
        return rc < 0 ? rc : inner->ops->op(st, args);                                             \
    }
                pass_op(embed) pass_op(rms_norm) pass_op(matmul) pass_op(rope_append) pass_op(attn)
                    pass_op(swiglu) pass_op(sample) pass_op(counts_load) pass_op(kv_copy)
                        pass_op(kv_move)

                            static int fault_weight_load(struct stream *st, struct weight *w,
                                                         int first_row, int n_row, const void *src,
                                                         int64_t row_bytes)
{
    int rc = fault_hit();
    return rc < 0 ? rc : inner->ops->weight_load(st, w, first_row, n_row, src, row_bytes);
}

const struct backend *fault_backend(const char *name)
{
    char err[256];
    if (backend_find(name, &inner, err, sizeof(err)) < 0)
        return NULL;
    device = *inner->device;
    ops = *inner->ops;
    device.is_apart = true; /* weights go up as to a GPU */
    device.error = fault_error;
    device.alloc = fault_alloc;
    device.host_alloc = fault_host_alloc;
    device.signal = fault_signal;
    device.fetch = fault_fetch;
    device.deliver = fault_deliver;
    device.stream_open = fault_stream_open;
    device.stream_sync = fault_stream_sync;
    device.copy_in = fault_copy_in;
    device.copy_out = fault_copy_out;
    device.fill = fault_fill;
    ops.embed = fault_embed;
    ops.rms_norm = fault_rms_norm;
    ops.matmul = fault_matmul;
    ops.rope_append = fault_rope_append;
    ops.attn = fault_attn;
    ops.swiglu = fault_swiglu;
    ops.logits = fault_logits;
    ops.sample = fault_sample;
    ops.counts_load = fault_counts_load;
    ops.kv_copy = fault_kv_copy;
    ops.kv_move = fault_kv_move;
    ops.weight_load = fault_weight_load;
    ops.attn_in = NULL; /* composed: more calls to fail */
    ops.ffn_in = NULL;
    wrapped = (struct backend){ inner->abi, inner->name, &device, &ops };
    __atomic_store_n(&held_word, NULL, __ATOMIC_RELEASE);
    fault_arm(&(struct fault_plan){ 0 });
    return &wrapped;
}

void fault_arm(const struct fault_plan *new_plan)
{
    struct fault_plan *next = &plans[++n_plan % 8];
    *next = *new_plan;
    __atomic_store_n(&plan, next, __ATOMIC_RELEASE);
    __atomic_store_n(&n_call, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&sticky, false, __ATOMIC_RELEASE);
}

bool fault_holds(void)
{
    return __atomic_load_n(&held_word, __ATOMIC_ACQUIRE) != NULL; /* pairs with fault_deliver */
}

int fault_calls(void)
{
    return __atomic_load_n(&n_call, __ATOMIC_RELAXED);
}

void fault_break(void)
{
    __atomic_store_n(&sticky, true, __ATOMIC_RELEASE);
}
