/*
 * Sampling. Greedy rows without any adjustment are split over several blocks, the last of which
 * picks the winner, unless the product that made the logits left the best of each of its blocks;
 * every other row is one block's work, in place on its logits.
 */
#include "kernels/cuda/sample.cuh"

#include <math.h>

struct sample_shared {
    candidate best[33];
    float sum[33];
    candidate top[SAMPLE_TOP_MAX];
    int n_top;
    search_shared search;
};

struct row {
    float *z;
    const uint32_t *mask;
    const uint16_t *counts;
    const struct sample_params *p;
    int vocab;

    __device__ __forceinline__ float value(int i) const
    {
        bool allowed = !mask || mask[i / 32] >> i % 32 & 1;
        return allowed ? z[i] : -INFINITY;
    }
};

static __device__ __forceinline__ bool penalised(const struct sample_params &p)
{
    return p.state_slot >= 0
           && (p.presence != 0 || p.frequency != 0 || p.repetition != 1);
}

static __device__ __forceinline__ bool plain_greedy(const struct sample_params &p)
{
    return p.temperature == 0 && p.flags == 0 && p.n_bias == 0 && p.n_ban == 0 && p.mask_index < 0
           && !penalised(p);
}

static __device__ float penalise(const struct sample_params &p, uint16_t count, float v)
{
    int n = count & 0x7fff;
    if (count && p.repetition != 1)
        v = v > 0 ? v / p.repetition : v * p.repetition;
    return n ? v - (p.presence + p.frequency * (float)n) : v;
}

static __device__ float unpenalise(const struct sample_params &p, uint16_t count, float v)
{
    int n = count & 0x7fff;
    if (n)
        v += p.presence + p.frequency * (float)n;
    if (count && p.repetition != 1)
        v = v > 0 ? v * p.repetition : v / p.repetition;
    return v;
}

/* The drawn token joins its sequence's counts and goes out. One thread. */
static __device__ void emit(const struct sample_args &a, int i, int token, uint32_t flags,
                            float logprob)
{
    const struct sample_params &p = a.params[i];
    a.out[i].token = token;
    a.out[i].flags = flags;
    a.out[i].logprob = logprob;
    if (a.sampled)
        a.sampled[i] = token;
    if (token < 0 || p.state_slot < 0 || !a.counts)
        return;
    count_token(a.counts + (int64_t)p.state_slot * a.vocab, token, false);
}

enum { AHEAD = 4 }; /* loads of four logits that a thread has out at once */

static __device__ void emit_greedy(const struct sample_args &a, int i, candidate best)
{
    bool bad = best.id < 0;
    a.out[i].n_top = 0;
    emit(a, i, bad ? -1 : best.id, bad ? SAMPLE_BAD : 0, 0);
}

/* The best of logits [begin, end) of a row among this thread's share of them. */
static __device__ candidate look_through(const struct sample_args &a, const float *z, int begin,
                                         int end)
{
    candidate best = { -INFINITY, CANDIDATE_NONE };
    if (a.vocab % 4 || (uintptr_t)a.logits % 16) {
        for (int at = begin + (int)threadIdx.x; at < end; at += SAMPLE_THREADS)
            take_logit(&best, __ldcg(z + at), at);
        return best;
    }
    for (int t0 = begin + (int)threadIdx.x * 4; t0 < end; t0 += AHEAD * 4 * SAMPLE_THREADS) {
        float4 v[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (t0 + j * 4 * SAMPLE_THREADS < end)
                v[j] = __ldcg((const float4 *)(z + t0 + j * 4 * SAMPLE_THREADS));
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            int at = t0 + j * 4 * SAMPLE_THREADS;
            if (at >= end)
                break;
            take_logit(&best, v[j].x, at);
            take_logit(&best, v[j].y, at + 1);
            take_logit(&best, v[j].z, at + 2);
            take_logit(&best, v[j].w, at + 3);
        }
    }
    return best;
}

/* One block's share of a plain greedy row; the last block to finish decides. */
static __device__ void greedy_chunk(const struct sample_args &a, int i, candidate *part,
                                    uint32_t *ticket, sample_shared *s)
{
    int n = (int)gridDim.x, each = ((a.vocab + n - 1) / n + 3) / 4 * 4;
    int begin = (int)blockIdx.x * each;
    candidate best = look_through(a, a.logits + (int64_t)i * a.vocab, begin,
                                  min(a.vocab, begin + each));
    best = block_best(best, s->best);
    part += i * SAMPLE_CHUNKS;
    if (threadIdx.x == 0)
        part[blockIdx.x] = best;
    if (!last_arriver(ticket + i, (uint32_t)n) || threadIdx.x >= 32)
        return;
    best = { -INFINITY, CANDIDATE_NONE };
    if ((int)threadIdx.x < n)
        best = { __ldcg(&part[threadIdx.x].value), __ldcg(&part[threadIdx.x].id) };
    best = lanes_best<32>(best);
    if (threadIdx.x == 0)
        emit_greedy(a, i, best);
}

/* A plain greedy row whose logits came with the best of each block that made them. */
static __device__ void greedy_parts(const struct sample_args &a, int i, const candidate *part,
                                    int n_part, sample_shared *s)
{
    candidate best = { -INFINITY, CANDIDATE_NONE };
    for (int j = (int)threadIdx.x; j < n_part; j += SAMPLE_THREADS)
        best = better_sound(best, { __ldcg(&part[j].value), __ldcg(&part[j].id) });
    best = block_best(best, s->best);
    if (threadIdx.x == 0)
        emit_greedy(a, i, best);
}

/* Maximum and log of the sum of exponentials of the raw row; false if a logit is not finite. */
static __device__ bool survey(const row &r, sample_shared *s, float *ret_log_sum)
{
    candidate best = { -INFINITY, -1 };
    bool bad = false;
    for (int i = (int)threadIdx.x; i < r.vocab; i += SAMPLE_THREADS) {
        bad |= !isfinite(r.z[i]);
        best = better(best, { r.z[i], i });
    }
    if (__syncthreads_or(bad))
        return false;
    best = block_best(best, s->best);
    float sum = 0;
    if (r.p->flags)
        for (int i = (int)threadIdx.x; i < r.vocab; i += SAMPLE_THREADS)
            sum += expf(r.z[i] - best.value);
    *ret_log_sum = best.value + logf(block_sum(sum, s->sum));
    return true;
}

/* Ranks run by value, the lower id first among equals; a row's first ranks end with this one. */
struct rank {
    uint32_t key;
    int id;

    __device__ __forceinline__ bool covers(uint32_t k, int i) const
    {
        return k > key || (k == key && i <= id);
    }
};

/* Rank number n (from 1) of the tokens whose key is `key`. */
template <typename Key>
static __device__ rank rank_among(int vocab, uint32_t key, unsigned long long n, sample_shared *s,
                                  Key key_at)
{
    unsigned long long rest;
    uint32_t id = select_key(
        vocab, n, &s->search, [](int i) { return ~(uint32_t)i; },
        [&](int i) { return key_at(i) == key ? 1ull : 0ull; }, &rest);
    return { key, id ? (int)~id : vocab };
}

/* The n best of the row as it stands into s->top, best first. */
static __device__ void find_top(const row &r, int n, sample_shared *s)
{
    auto key_at = [&](int i) { return key_of(r.value(i)); };
    unsigned long long rest;
    uint32_t key = select_key(r.vocab, (unsigned long long)n, &s->search, key_at,
                              [](int) { return 1ull; }, &rest);
    rank last = rank_among(r.vocab, key, rest, s, key_at);
    if (threadIdx.x == 0)
        s->n_top = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < r.vocab; i += SAMPLE_THREADS)
        if (last.covers(key_at(i), i)) {
            int at = atomicAdd(&s->n_top, 1);
            if (at < SAMPLE_TOP_MAX)
                s->top[at] = { r.value(i), i };
        }
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 1; i < n; i++)
            for (int j = i; j > 0 && better(s->top[j - 1], s->top[j]).id == s->top[j].id; j--) {
                candidate c = s->top[j];
                s->top[j] = s->top[j - 1];
                s->top[j - 1] = c;
            }
    __syncthreads();
}

/* Penalties, biases and bans, in place. */
static __device__ void adjust(const row &r, const struct sample_args &a)
{
    const struct sample_params &p = *r.p;
    if (r.counts)
        for (int i = (int)threadIdx.x; i < r.vocab; i += SAMPLE_THREADS)
            r.z[i] = penalise(p, r.counts[i], r.z[i]);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < p.n_bias; i += SAMPLE_THREADS) {
        int id = a.bias_id[p.bias_start + i];
        if (id >= 0 && id < r.vocab)
            atomicAdd(&r.z[id], a.bias[p.bias_start + i]);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < p.n_ban; i += SAMPLE_THREADS) {
        int id = a.ban_id[p.ban_start + i];
        if (id >= 0 && id < r.vocab)
            r.z[id] = -INFINITY;
    }
    __syncthreads();
}

static __device__ candidate best_of(const row &r, sample_shared *s)
{
    candidate best = { -INFINITY, -1 };
    for (int i = (int)threadIdx.x; i < r.vocab; i += SAMPLE_THREADS) {
        float v = r.value(i);
        if (v > -INFINITY)
            best = better(best, { v, i });
    }
    return block_best(best, s->best);
}

/* What top_k keeps, then what top_p keeps of that. */
static __device__ rank last_kept(const row &r, float max, sample_shared *s)
{
    const struct sample_params &p = *r.p;
    auto key_at = [&](int i) { return key_of(r.value(i)); };
    rank last = { key_of(-INFINITY) + 1, r.vocab };
    unsigned long long rest;
    if (p.top_k > 0 && p.top_k < r.vocab) {
        uint32_t key = select_key(
            r.vocab, (unsigned long long)p.top_k, &s->search, key_at,
            [&](int i) { return last.covers(key_at(i), i) ? 1ull : 0ull; }, &rest);
        if (key)
            last = rank_among(r.vocab, key, rest, s, key_at);
    }
    if (!(p.top_p < 1))
        return last;
    float to_log2 = (float)M_LOG2E / p.temperature;
    auto mass = [&](int i) -> unsigned long long {
        float v = r.value(i);
        return last.covers(key_of(v), i)
                   ? (unsigned long long)(exp2f((v - max) * to_log2) * 0x1p36f)
                   : 0ull;
    };
    unsigned long long own = 0;
    for (int i = (int)threadIdx.x; i < r.vocab; i += SAMPLE_THREADS)
        own += mass(i);
    __syncthreads();
    if (threadIdx.x == 0)
        s->search.before = 0;
    __syncthreads();
    atomicAdd(&s->search.before, own);
    __syncthreads();
    double target = ceil((double)s->search.before * (double)p.top_p);
    uint32_t key = select_key(r.vocab, target < 1 ? 1ull : (unsigned long long)target, &s->search,
                              key_at, mass, &rest);
    if (!key)
        return last;
    float v = __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
    double each = floor((double)exp2f((v - max) * to_log2) * 0x1p36);
    double n = each > 0 ? ceil((double)rest / each) : 1;
    rank cut = rank_among(r.vocab, key, (unsigned long long)n, s, key_at);
    return last.covers(cut.key, cut.id) ? cut : last;
}

/* Gumbel-max over what top_k, top_p and min_p keep. */
static __device__ candidate draw(const row &r, float max, sample_shared *s)
{
    const struct sample_params &p = *r.p;
    rank last = last_kept(r, max, s);
    float least = p.min_p > 0 ? max / p.temperature + logf(p.min_p) : -INFINITY;
    candidate best = { -INFINITY, -1 };
    for (int i = (int)threadIdx.x * 4; i < r.vocab; i += SAMPLE_THREADS * 4) {
        philox_words w = philox((uint32_t)i / 4, p.position, p.index, p.seed);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float v = i + j < r.vocab ? r.value(i + j) : -INFINITY, z = v / p.temperature;
            if (last.covers(key_of(v), i + j) && z >= least)
                best = better(best, { z + gumbel_of(w.w[j]), i + j });
        }
    }
    return block_best(best, s->best);
}

/* Raw logit of a token whose value was adjusted in place. One thread. */
static __device__ float raw_of(const row &r, const struct sample_args &a, int token)
{
    float v = r.z[token];
    for (int i = 0; i < r.p->n_bias; i++)
        if (a.bias_id[r.p->bias_start + i] == token)
            v -= a.bias[r.p->bias_start + i];
    return r.counts ? unpenalise(*r.p, r.counts[token], v) : v;
}

/* The n best and their log-probabilities go out; what is not allowed is left out. */
static __device__ void put_top(const row &r, const struct sample_args &a, int i, int n,
                               float log_sum, sample_shared *s)
{
    if (n > 0)
        find_top(r, n, s);
    for (int j = (int)threadIdx.x; j < n; j += SAMPLE_THREADS) {
        a.out[i].top_id[j] = s->top[j].id;
        a.out[i].top_logprob[j] = s->top[j].value - log_sum;
    }
    if (threadIdx.x != 0)
        return;
    while (n > 0 && s->top[n - 1].value == -INFINITY)
        n--;
    a.out[i].n_top = n;
}

static __device__ void sample_row(const struct sample_args &a, int i, sample_shared *s)
{
    const struct sample_params &p = a.params[i];
    row r;
    r.z = (float *)a.logits + (int64_t)i * a.vocab;
    r.mask = p.mask_index >= 0 && a.mask ? a.mask + (int64_t)p.mask_index * ((a.vocab + 31) / 32)
                                         : NULL;
    r.counts = penalised(p) ? a.counts + (int64_t)p.state_slot * a.vocab : NULL;
    r.p = &p;
    r.vocab = a.vocab;
    float log_sum = 0;
    bool fine = survey(r, s, &log_sum);
    int n_top = fine && p.flags ? min(min(max(p.n_top, 0), (int)SAMPLE_TOP_MAX), a.vocab) : 0;
    bool shaped = p.flags & SAMPLE_SHAPED && !(p.flags & SAMPLE_SCORE);
    if (!shaped) {
        row raw = r;
        raw.mask = NULL;
        put_top(raw, a, i, n_top, log_sum, s);
    }
    if (!fine || p.flags & SAMPLE_SCORE) {
        bool known = fine && p.score_id >= 0 && p.score_id < a.vocab;
        if (threadIdx.x == 0)
            emit(a, i, -1, fine ? 0 : SAMPLE_BAD, known ? r.z[p.score_id] - log_sum : 0);
        return;
    }
    __syncthreads();
    adjust(r, a);
    if (shaped) {
        put_top(r, a, i, n_top, log_sum, s);
        __syncthreads();
    }
    candidate pick = best_of(r, s);
    if (pick.id >= 0 && p.temperature > 0) {
        __syncthreads();
        pick = draw(r, pick.value, s);
    }
    if (threadIdx.x == 0) {
        bool wanted = pick.id >= 0 && p.flags & SAMPLE_LOGPROBS;
        emit(a, i, pick.id, pick.id < 0 ? SAMPLE_BAD : 0,
             wanted ? raw_of(r, a, pick.id) - log_sum : 0);
    }
}

static __global__ void __launch_bounds__(SAMPLE_THREADS)
sample_kernel(const __grid_constant__ struct sample_args a, candidate *part, uint32_t *ticket,
              const candidate *best, int n_best)
{
    __shared__ sample_shared shared;
    int i = (int)blockIdx.y;
    bool greedy = plain_greedy(a.params[i]); /* they were there before the step began */
    pdl_wait();
    pdl_trigger();
    if (!greedy) {
        if (blockIdx.x == 0)
            sample_row(a, i, &shared);
    } else if (n_best > 0) {
        greedy_parts(a, i, best + i * BEST_BLOCKS_MAX, n_best, &shared);
    } else {
        greedy_chunk(a, i, part, ticket, &shared);
    }
}

int cuda_sample(struct stream *st, const struct sample_args *a)
{
    static_assert(SAMPLE_CHUNKS * sizeof(candidate) <= 1024, "stream scratch of a row");
    if (a->n_sample == 0)
        return 0;
    if (a->n_sample > st->limits.samples_max || a->n_sample > TICKETS)
        return -ENOTSUP;
    bool have_best = st->best_logits == a->logits && a->n_sample <= st->best_rows;
    int blocks = have_best ? st->best_blocks : 0, chunks = 4 * st->dev->n_sm / a->n_sample;
    chunks = have_best || chunks < 1 ? 1 : chunks > SAMPLE_CHUNKS ? SAMPLE_CHUNKS : chunks;
    st->best_logits = NULL; /* penalties and the like change them in place */
    return launch(st, sample_kernel, dim3((unsigned)chunks, (unsigned)a->n_sample),
                  dim3(SAMPLE_THREADS), 0, *a, (candidate *)st->sample_part, st->ticket,
                  (const candidate *)st->best_part, blocks);
}
