/* Matrix products: the skinny kernels for few rows, cublasLt for the rest, and the fused forms. */
#include "kernels/cuda/act.cuh"

#include "kernels/cuda/cuda_rows.cuh"

namespace ACT_SPACE {

static bool weights_fit(const struct matmul_args *a)
{
    for (int i = 0; i < a->n_weight; i++)
        if (a->weight[i]->layout != ACT_LAYOUT || a->weight[i]->n_col != a->weight[0]->n_col)
            return false;
    return true;
}

/* Rows in groups that the skinny kernels take: the same sums whatever the batch. */
static int matmul_in_groups(struct stream *st, const struct matmul_args *a)
{
    struct matmul_args part = *a;
    for (int row = 0; row < a->n_row; row += ROWS_SKINNY_MAX) {
        part.n_row = a->n_row - row < ROWS_SKINNY_MAX ? a->n_row - row : ROWS_SKINNY_MAX;
        part.x = (const act *)a->x + row * a->x_stride;
        for (int i = 0; i < a->n_weight; i++) {
            int64_t at = row * a->out_stride[i];
            part.out[i] = a->out_f32 ? (void *)((float *)a->out[i] + at)
                                     : (void *)((act *)a->out[i] + at);
        }
        int error = gemv_matmul(st, &part);
        if (error)
            return error;
    }
    return 0;
}

static bool any_odd(const struct matmul_args *a, const act *x, int64_t x_stride)
{
    bool odd = a->weight[0]->n_col % 8 || x_stride % 8 || (uintptr_t)x % 16;
    for (int i = 0; i < a->n_weight; i++)
        odd |= (uintptr_t)a->weight[i]->data % 16 != 0;
    return odd;
}

/* Weight i of a goes on where the last one of `joint` ends, in memory and in the output. */
static bool follows(const struct matmul_args *a, int i, const struct matmul_args *joint)
{
    int last = joint->n_weight - 1;
    const struct weight *w = joint->weight[last];
    int64_t item = a->out_f32 ? sizeof(float) : sizeof(act);
    const float *bias = joint->bias[last];
    return (act *)w->data + (int64_t)w->n_row * w->n_col == a->weight[i]->data
           && (char *)joint->out[last] + w->n_row * item == a->out[i]
           && joint->out_stride[last] == a->out_stride[i]
           && a->bias[i] == (bias ? bias + w->n_row : NULL);
}

/* Neighbours become one weight (in room): cublasLt is far better at one product than at three. */
static struct matmul_args join_weights(const struct matmul_args *a, struct weight *room)
{
    struct matmul_args joint = *a;
    joint.n_weight = 0;
    for (int i = 0; i < a->n_weight; i++) {
        if (i > 0 && follows(a, i, &joint)) {
            room[joint.n_weight - 1].n_row += a->weight[i]->n_row;
            continue;
        }
        int n = joint.n_weight++;
        room[n] = *a->weight[i];
        joint.weight[n] = &room[n];
        joint.out[n] = a->out[i];
        joint.out_stride[n] = a->out_stride[i];
        joint.bias[n] = a->bias[i];
    }
    return joint;
}

/*
 * Products whose input is normalised already: a skinny kernel, else cublasLt and the bias. What is
 * deterministic and comes here is too wide for gemv.cu's fixed split of K: one order, slowly.
 */
static int products(struct stream *st, const struct matmul_args *apart, const act *x,
                    int64_t x_stride, float scale)
{
    struct weight room[MATMUL_WEIGHTS_MAX];
    const struct matmul_args joint = join_weights(apart, room), *a = &joint;
    int error = a->deterministic || any_odd(a, x, x_stride)
                    ? plain_matmul(st, a, x, x_stride, scale)
                    : skinny_matmul(st, a, x, x_stride, scale);
    if (error != -ENOTSUP)
        return error;
    error = 0;
    for (int i = 0; i < a->n_weight && !error; i++) {
        const struct weight *w = a->weight[i];
        error = lt_gemm(st, w, x, x_stride, a->out[i], a->out_stride[i], a->n_row, a->out_f32,
                        scale, a->add ? 1.0f : 0.0f);
        if (!error && a->bias[i])
            error = rows_bias(st, a->out[i], a->out_stride[i], a->bias[i], a->n_row, w->n_row,
                              a->out_f32);
    }
    return error;
}

int cuda_matmul(struct stream *st, const struct matmul_args *a)
{
    if (a->n_row == 0)
        return 0;
    if (!weights_fit(a))
        return -ENOTSUP;
    int error = a->deterministic ? matmul_in_groups(st, a) : gemv_matmul(st, a);
    if (error != -ENOTSUP)
        return error;
    int n_col = a->weight[0]->n_col;
    const act *x = (const act *)a->x;
    int64_t x_stride = a->x_stride;
    if (a->norm_weight) {
        error = rows_norm(st, norm_x(st), n_col, x, x_stride, NULL, a->norm_weight, a->norm_eps,
                          a->n_row, n_col);
        if (error)
            return error;
        x = norm_x(st);
        x_stride = n_col;
    }
    return products(st, a, x, x_stride, 1.0f);
}

static int logits_in_groups(struct stream *st, const struct logits_args *a)
{
    struct logits_args part = *a;
    for (int row = 0; row < a->n_sample; row += ROWS_SKINNY_MAX) {
        part.n_sample =
            a->n_sample - row < ROWS_SKINNY_MAX ? a->n_sample - row : ROWS_SKINNY_MAX;
        part.row = a->row + row;
        part.out = a->out + (int64_t)row * a->lm_head->n_row;
        int error = gemv_logits(st, &part);
        if (error)
            return error;
    }
    return 0;
}

int cuda_logits(struct stream *st, const struct logits_args *a)
{
    const struct weight *w = a->lm_head;
    st->best_logits = NULL;
    if (a->n_sample == 0)
        return 0;
    if (w->layout != ACT_LAYOUT)
        return -ENOTSUP;
    int error = a->deterministic ? logits_in_groups(st, a) : gemv_logits(st, a);
    if (error != -ENOTSUP)
        return error;
    error = rows_norm(st, norm_x(st), w->n_col, (const act *)a->x, a->x_stride, a->row,
                      a->norm_weight, a->norm_eps, a->n_sample, w->n_col);
    if (error)
        return error;
    struct matmul_args m = {};
    m.n_row = a->n_sample;
    m.n_weight = 1;
    m.weight[0] = w;
    m.out[0] = a->out;
    m.out_stride[0] = w->n_row;
    m.out_f32 = true;
    m.deterministic = a->deterministic;
    return products(st, &m, norm_x(st), w->n_col, a->scale);
}

int cuda_ffn_in(struct stream *st, const struct ffn_in_args *a)
{
    if (a->n_row == 0)
        return 0;
    if (a->gate->layout != ACT_LAYOUT || (a->up && a->up->layout != ACT_LAYOUT))
        return -ENOTSUP;
    int error = gemv_ffn_in(st, a);
    if (error == -ENOTSUP)
        error = skinny_ffn_in(st, a);
    if (error == -ENOTSUP)
        error = swiglu_ffn_in(st, a);
    if (error != -ENOTSUP)
        return error;
    int ffn = a->up ? a->gate->n_row : a->gate->n_row / 2;
    if (2 * (int64_t)ffn * a->n_row > (int64_t)st->limits.rows_max * st->limits.out_max)
        return -ENOTSUP;
    struct matmul_args m = {};
    m.x = a->x;
    m.x_stride = a->gate->n_col;
    m.n_row = a->n_row;
    m.n_weight = a->up ? 2 : 1;
    m.weight[0] = a->gate;
    m.weight[1] = a->up;
    m.out[0] = wide(st);
    m.out[1] = wide(st) + ffn;
    m.out_stride[0] = m.out_stride[1] = 2 * (int64_t)ffn;
    m.norm_weight = a->norm_weight;
    m.norm_eps = a->norm_eps;
    m.deterministic = a->deterministic;
    error = cuda_matmul(st, &m);
    if (error)
        return error;
    struct swiglu_args s = {};
    s.out = a->out;
    s.gate = wide(st);
    s.up = wide(st) + ffn;
    s.out_stride = ffn;
    s.stride = 2 * (int64_t)ffn;
    s.n_row = a->n_row;
    s.dim = ffn;
    return cuda_swiglu(st, &s);
}

int cuda_attn_in(struct stream *st, const struct attn_in_args *a)
{
    if (!weights_fit(&a->qkv))
        return -ENOTSUP;
    int error = gemv_attn_in(st, a);
    if (error != -ENOTSUP)
        return error;
    error = cuda_matmul(st, &a->qkv);
    return error ? error : cuda_rope_append(st, &a->rope);
}

} // namespace ACT_SPACE
