/*
 * Which skinny kernel takes a product of few rows: see gemv.cuh.
 *
 * A deterministic batch always takes the NT >= 1 form with the same slices of K, so a row's result
 * does not depend on the rows beside it.
 */
#include "kernels/cuda/gemv.cuh"

#include "kernels/cuda/cuda_rows.cuh"
#include "kernels/cuda/gemv_pair.cuh"

namespace ACT_SPACE {

/*
 * Measured on an H200: 64 KB of loads in flight an SM, spread over many warps. Wide rows and few
 * tiles take one block of 16 warps an SM, narrow rows several small blocks. Registers below 92 a
 * thread serialise the loads of the 4-step form.
 */
enum { STAGED_BYTES_MAX = 180 << 10, PAIR_ROWS_MIN = 5 };

static size_t staged_bytes(const gemv_params &p)
{
    return (size_t)p.n_row * (size_t)(p.n_col + 32) * sizeof(act);
}

struct gemv_plan {
    int warps, unroll, per_sm;
    bool early;
};

static gemv_plan plan_of(struct stream *st, const gemv_params &p, int form)
{
    bool few = p.n_tile <= st->dev->n_sm;
    if (p.n_col >= 2048)
        return few || p.n_col >= 4096 || p.n_row > 1 ? gemv_plan{ 16, 4, 1, true }
                                                     : gemv_plan{ 8, 4, 2, true };
    if (p.n_row > 1 || form == GEMV_SWIGLU)
        return { 8, 4, 2, true };
    return few ? gemv_plan{ 16, 4, 1, true } : gemv_plan{ 8, 2, 4, true };
}

template <int W, int U, int NT, bool STAGED, int FORM>
static int launch_gemv(struct stream *st, gemv_params &p, const gemv_plan &plan, int cluster)
{
    size_t smem = STAGED ? staged_bytes(p) : 0;
    if (smem > 16 << 10) {
        int error = CUDA_CHECK(st->dev, cudaFuncSetAttribute(
                                            gemv_kernel<W, U, NT, STAGED, FORM>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            STAGED_BYTES_MAX));
        if (error)
            return error;
    }
    p.step = div_up(div_up(div_up(gemv_width<FORM>(p.n_col), 32), W), U) * U;
    int grid = st->dev->n_sm * plan.per_sm;
    if (grid > p.n_tile || cluster > 1)
        grid = p.n_tile;
    if (FORM == GEMV_LOGITS) {
        if (grid > BEST_BLOCKS_MAX)
            grid = BEST_BLOCKS_MAX;
        st->best_blocks = grid;
    }
    p.early = plan.early && grid <= st->dev->n_sm * plan.per_sm;
    ahead_share(p.ahead, grid);
    int error = launch_cluster(st, gemv_kernel<W, U, NT, STAGED, FORM>, dim3((unsigned)grid),
                               dim3(W * 32), smem, cluster, p);
    st->settled = FORM < GEMV_ROPE;
    return error;
}

/* Norm and end folded in. -ENOTSUP: the rows do not fit in shared memory. */
template <int FORM> static int launch_staged(struct stream *st, gemv_params &p, int cluster)
{
    gemv_plan plan = plan_of(st, p, FORM);
    if (staged_bytes(p) > STAGED_BYTES_MAX)
        return -ENOTSUP;
    if (p.n_row > 8)
        return plan.warps == 8 ? launch_gemv<8, 4, 2, true, FORM>(st, p, plan, cluster)
                               : launch_gemv<16, 4, 2, true, FORM>(st, p, plan, cluster);
    if (p.n_row > 1)
        return plan.warps == 8 ? launch_gemv<8, 4, 1, true, FORM>(st, p, plan, cluster)
                               : launch_gemv<16, 4, 1, true, FORM>(st, p, plan, cluster);
    if (plan.warps == 8)
        return plan.unroll == 2 ? launch_gemv<8, 2, 0, true, FORM>(st, p, plan, cluster)
                                : launch_gemv<8, 4, 0, true, FORM>(st, p, plan, cluster);
    return launch_gemv<16, 4, 0, true, FORM>(st, p, plan, cluster);
}

/* One row of activations, and fewer weight rows than would busy half of the SMs by sixteens. */
static bool fits_halves(struct stream *st, const gemv_params &p)
{
    return p.n_row == 1 && p.n_part == 1 && p.n_col % 16 == 0 && 2 * p.n_tile <= st->dev->n_sm
           && staged_bytes(p) <= STAGED_BYTES_MAX;
}

static int launch_halves(struct stream *st, gemv_params &p)
{
    p.n_tile = div_up(p.part[0].n_row, 8);
    if (p.n_col <= 2048)
        return launch_gemv<8, 4, 0, true, GEMV_HALVES>(st, p, { 8, 4, 2, true }, 1);
    if (p.n_col <= 3072) /* all of it on its way at once, by no more warps than that takes */
        return launch_gemv<12, 4, 0, true, GEMV_HALVES>(st, p, { 12, 4, 1, true }, 1);
    return launch_gemv<16, 4, 0, true, GEMV_HALVES>(st, p, { 16, 4, 1, true }, 1);
}

/* Straight from L2, x normalised already. */
template <int FORM> static int launch_direct(struct stream *st, gemv_params &p)
{
    gemv_plan plan = plan_of(st, p, FORM);
    if (p.n_row > 8)
        return launch_gemv<16, 4, 2, false, FORM>(st, p, plan, 1);
    return launch_gemv<16, 4, 1, false, FORM>(st, p, plan, 1);
}

/* Rows enough that their bytes count beside the weights', and no SM with more tiles for it. */
static bool fits_pairs(struct stream *st, const gemv_params &p)
{
    int n_sm = st->dev->n_sm, n_pair = div_up(p.n_tile, 2);
    return p.n_row >= PAIR_ROWS_MIN && 2 * div_up(n_pair, n_sm) <= div_up(p.n_tile, n_sm);
}

static int launch_pairs(struct stream *st, gemv_params &p)
{
    int n_sm = st->dev->n_sm, n_pair = div_up(p.n_tile, 2);
    p.step = div_up(div_up(div_up(p.n_col, 32), PAIR_WARPS), PAIR_STEPS) * PAIR_STEPS;
    p.early = true;
    dim3 grid((unsigned)(n_pair < n_sm ? n_pair : n_sm)), block(PAIR_WARPS * 32);
    ahead_share(p.ahead, (int)grid.x);
    int error = p.n_row > 8 ? launch(st, gemv_pair_kernel<2>, grid, block, 0, p)
                            : launch(st, gemv_pair_kernel<1>, grid, block, 0, p);
    st->settled = true;
    return error;
}

/* One split of K for every batch, so that a row's sum does not depend on the rows beside it. */
static int launch_fixed(struct stream *st, gemv_params &p)
{
    gemv_plan plan = { 8, 4, 2, false };
    return p.n_row <= 8 ? launch_gemv<8, 4, 1, false, GEMV_PLAIN>(st, p, plan, 1)
                        : launch_gemv<8, 4, 2, false, GEMV_PLAIN>(st, p, plan, 1);
}

static bool fits(const void *x, int64_t x_stride, int n_col)
{
    return n_col % 8 == 0 && n_col <= 32 << 10 && x_stride % 8 == 0 && (uintptr_t)x % 16 == 0;
}

/* Several rows: the norm is a kernel of its own, into the stream's scratch. */
static int norm_first(struct stream *st, gemv_params *p)
{
    if (!p->norm_weight)
        return 0;
    int error = rows_norm(st, norm_x(st), p->n_col, p->x, p->x_stride, NULL, p->norm_weight,
                          p->eps, p->n_row, p->n_col);
    p->x = norm_x(st);
    p->x_stride = p->n_col;
    p->norm_weight = NULL;
    return error;
}

static void set_input(gemv_params *p, const void *x, int64_t x_stride, int n_row, int n_col,
                      const float *norm_weight, float eps)
{
    p->x = (const act *)x;
    p->x_stride = x_stride;
    p->n_row = n_row;
    p->n_col = n_col;
    p->norm_weight = norm_weight;
    p->eps = eps;
    p->scale = 1;
}

static gemv_part part_for(const struct weight *w, int first_row, int n_row, void *out,
                          int64_t out_stride, const float *bias)
{
    gemv_part part = {};
    part.w = (const act *)w->data + (int64_t)first_row * w->n_col;
    part.n_row = n_row;
    part.out = out;
    part.out_stride = out_stride;
    part.bias = bias;
    return part;
}

int gemv_matmul(struct stream *st, const struct matmul_args *a)
{
    int n_col = a->weight[0]->n_col; /* odd widths have one way, whatever the batch */
    if (a->n_row > ROWS_SKINNY_MAX || !fits(a->x, a->x_stride, n_col))
        return -ENOTSUP;
    gemv_params p = {};
    set_input(&p, a->x, a->x_stride, a->n_row, n_col, a->norm_weight, a->norm_eps);
    ahead_set(p.ahead, a->next, st->dev->n_sm);
    p.n_part = a->n_weight;
    p.add = a->add;
    p.out_f32 = a->out_f32;
    for (int i = 0; i < a->n_weight; i++) {
        const struct weight *w = a->weight[i];
        p.part[i] = part_for(w, 0, w->n_row, a->out[i], a->out_stride[i], a->bias[i]);
        p.part[i].tile0 = p.n_tile;
        p.n_tile += div_up(w->n_row, 16);
    }
    bool direct = p.n_row > 8 && !p.norm_weight && fits_pairs(st, p); /* rows beside the weights */
    int error = a->deterministic || direct ? -ENOTSUP
                : fits_halves(st, p)       ? launch_halves(st, p)
                                           : launch_staged<GEMV_PLAIN>(st, p, 1);
    if (error != -ENOTSUP)
        return error;
    error = norm_first(st, &p);
    if (error)
        return error;
    if (a->deterministic)
        return launch_fixed(st, p);
    return fits_pairs(st, p) ? launch_pairs(st, p) : launch_direct<GEMV_PLAIN>(st, p);
}

/* The sampler is left the best of each block: greedy rows need not be read again. */
static int launch_logits(struct stream *st, gemv_params &p, const struct logits_args *a)
{
    p.best = st->best_part;
    int error = p.x_row ? launch_staged<GEMV_LOGITS>(st, p, 1) : launch_direct<GEMV_LOGITS>(st, p);
    if (!error) {
        st->best_logits = a->out;
        st->best_rows = a->n_sample;
    }
    return error;
}

int gemv_logits(struct stream *st, const struct logits_args *a)
{
    const struct weight *w = a->lm_head;
    if (a->n_sample > ROWS_SKINNY_MAX || !fits(a->x, a->x_stride, w->n_col))
        return -ENOTSUP;
    gemv_params p = {};
    set_input(&p, a->x, a->x_stride, a->n_sample, w->n_col, a->norm_weight, a->norm_eps);
    ahead_set(p.ahead, a->next, st->dev->n_sm);
    p.n_part = 1;
    p.out_f32 = true;
    p.scale = a->scale;
    p.part[0] = part_for(w, 0, w->n_row, a->out, w->n_row, NULL);
    p.n_tile = div_up(w->n_row, 16);
    if (!a->deterministic) {
        p.x_row = a->row;
        int error = launch_logits(st, p, a);
        if (error != -ENOTSUP)
            return error;
        p.x_row = NULL;
    }
    int error = rows_norm(st, norm_x(st), w->n_col, p.x, p.x_stride, a->row, a->norm_weight,
                          a->norm_eps, a->n_sample, w->n_col);
    if (error)
        return error;
    p.x = norm_x(st);
    p.x_stride = w->n_col;
    p.norm_weight = NULL;
    return a->deterministic ? launch_fixed(st, p) : launch_logits(st, p, a);
}

int gemv_ffn_in(struct stream *st, const struct ffn_in_args *a)
{
    int n_col = a->gate->n_col, ffn = a->up ? a->gate->n_row : a->gate->n_row / 2;
    if (a->n_row > ROWS_SKINNY_MAX || !fits(a->x, n_col, n_col) || a->deterministic)
        return -ENOTSUP;
    gemv_params p = {};
    set_input(&p, a->x, n_col, a->n_row, n_col, a->norm_weight, a->norm_eps);
    ahead_set(p.ahead, a->next, st->dev->n_sm);
    p.n_part = 2;
    p.part[0] = part_for(a->gate, 0, ffn, a->out, ffn, NULL);
    p.part[1] = part_for(a->up ? a->up : a->gate, a->up ? 0 : ffn, ffn, NULL, 0, NULL);
    p.n_tile = div_up(ffn, 8);
    int error = launch_staged<GEMV_SWIGLU>(st, p, 1);
    if (error == -ENOTSUP)
        error = norm_first(st, &p);
    else
        return error;
    return error ? error : launch_direct<GEMV_SWIGLU>(st, p);
}

static gemv_rope rope_for(const struct rope_append_args *r)
{
    gemv_rope rope = {};
    rope_tell(&rope, r);
    rope.block_stride = r->kv.block_stride / (int64_t)sizeof(act);
    rope.n_head = r->n_head;
    rope.n_kv_head = r->kv.n_kv_head;
    rope.head_dim = r->kv.head_dim;
    rope.interleaved = r->rope.interleaved;
    return rope;
}

/* q, k and v, whether they came as three weights or as one; only q is written besides the KV. */
int gemv_attn_in(struct stream *st, const struct attn_in_args *a)
{
    const struct matmul_args *m = &a->qkv;
    const struct rope_append_args *r = &a->rope;
    int hd = r->kv.head_dim, n_col = m->weight[0]->n_col;
    bool normed = r->q_norm || r->k_norm;
    if (m->n_row > ROWS_SKINNY_MAX || m->deterministic || m->add || !fits(m->x, m->x_stride, n_col)
        || (normed && st->dev->compute < 90) || r->rope.n_dim != hd || hd % 16
        || hd > (normed ? 128 : 256) || (normed && hd < 32) /* a cluster of one is none */
        || r->kv.dtype != ACT_DTYPE || (m->n_weight != 1 && m->n_weight != 3))
        return -ENOTSUP;
    gemv_params p = {};
    set_input(&p, m->x, m->x_stride, m->n_row, n_col, m->norm_weight, m->norm_eps);
    ahead_set(p.ahead, m->next, st->dev->n_sm);
    p.n_part = 3;
    p.rope = rope_for(r);
    for (int i = 0, first = 0; i < 3; i++) {
        bool one = m->n_weight == 1;
        int n = (i == 0 ? r->n_head : r->kv.n_kv_head) * hd;
        const float *bias = one ? (m->bias[0] ? m->bias[0] + first : NULL) : m->bias[i];
        p.part[i] = part_for(m->weight[one ? 0 : i], one ? first : 0, n, r->q, r->stride, bias);
        p.part[i].tile0 = p.n_tile;
        p.n_tile += n / 16;
        first += n;
    }
    st->appended_rows = m->n_row;
    return normed ? launch_staged<GEMV_ROPE_NORM>(st, p, hd / 16)
                  : launch_staged<GEMV_ROPE>(st, p, 1);
}

} // namespace ACT_SPACE
