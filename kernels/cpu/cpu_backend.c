/* The CPU's op table; weights are packed here, by all threads. */
#include "kernels/cpu/cpu.h"

#include <errno.h>

#include "base/compiler.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/quant.h"

int cpu_weight_layout(struct device *dev, enum dtype dtype, int n_row, int n_col,
                      int64_t *ret_bytes, int *ret_layout)
{
    struct packed w;
    (void)dev;
    if (!packed_shape(dtype, n_row, n_col, &w))
        return -ENOTSUP;
    *ret_bytes = w.group_bytes * w.n_group;
    *ret_layout = 0;
    return 0;
}

struct load_job {
    struct packed w;
    int first_row, n_row;
    const char *src;
    int64_t row_bytes;
};

static void load_fn(void *arg, int from, int to)
{
    const struct load_job *job = arg;
    int first = from * GROUP_ROWS, end = min_of(to * GROUP_ROWS, job->n_row);
    packed_fill(&job->w, job->first_row + first, end - first, job->src + first * job->row_bytes,
                job->row_bytes);
}

int cpu_weight_load(struct stream *st, struct weight *w, int first_row, int n_row,
                    const void *src, int64_t row_bytes)
{
    struct load_job job = { packed_view(w), first_row, n_row, src, row_bytes };
    if (first_row < 0 || first_row % GROUP_ROWS || n_row < 0 || n_row > w->n_row - first_row)
        return -EINVAL;
    run_items(st, load_fn, &job, (n_row + GROUP_ROWS - 1) / GROUP_ROWS, 4);
    return 0;
}

static const struct kernel_ops cpu_ops = {
    .act_dtype = DTYPE_F32,
    .weight_layout = cpu_weight_layout,
    .weight_load = cpu_weight_load,
    .embed = cpu_embed,
    .rms_norm = cpu_rms_norm,
    .matmul = cpu_matmul,
    .rope_append = cpu_rope_append,
    .attn = cpu_attn,
    .swiglu = cpu_swiglu,
    .logits = cpu_logits,
    .sample = cpu_sample,
    .counts_load = cpu_counts_load,
    .kv_copy = cpu_kv_copy,
    .kv_move = cpu_kv_move,
    .attn_in = cpu_attn_in,
    .ffn_in = cpu_ffn_in,
};

const struct backend cpu_backend = {
    .abi = BACKEND_ABI,
    .name = "cpu",
    .device = &cpu_device_ops,
    .ops = &cpu_ops,
};
