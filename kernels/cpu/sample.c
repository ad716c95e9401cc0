/*
 * Sampling, one row on one thread. The short ways first: a greedy row reads its logits twice; a
 * draw from the whole vocabulary skips whatever cannot win; only top_k and top_p build a list of
 * candidates, in the thread's scratch.
 */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

enum {
    WORDS = 256, /* tokens whose random words are made at once */
    PART = 64,   /* tokens that share a maximum; WORDS is a multiple */
};

#define GUMBEL_MAX 23.0f /* above -log(-log1p(-2^-33)) */
#define NEAR_GAP 12.0f   /* tokens further below the best are looked at only if they must be */

struct candidate {
    float z;      /* logit / temperature */
    float weight; /* e^(z - largest z) */
    int id;
};

struct row {
    const struct sample_args *args;
    const struct sample_params *params;
    const struct cpu_isa *isa;
    const float *raw;       /* logits as they came */
    float *logits;          /* may be raw, changed in place */
    float *spare;           /* [vocab] */
    struct sample_out *out;
    float *part_max;        /* [vocab / PART, up] of logits */
    struct candidate *list; /* [vocab] */
};

int64_t cpu_sample_thread_bytes(const struct op_limits *limits)
{
    int64_t vocab = lanes_up(max_of(limits->vocab, 1));
    return vocab * (int64_t)(sizeof(struct candidate) + 4) + (vocab / PART + 1) * 4;
}

static float gumbel(uint32_t word)
{
    float v = fminf(fmaf((float)word, 0x1p-32f, 0x1p-33f), 0x1.fffffep-1f);
    return -logf(-log1pf(-v));
}

static float token_gumbel(const struct row *row, int id)
{
    uint32_t words[4];
    row->isa->philox(words, (uint32_t)id / 4, 1, row->params->position, row->params->index,
                     row->params->seed);
    return gumbel(words[id % 4]);
}

/*
 * Natural log-probabilities of the untouched logits: of `id` if it is one, and of the best of
 * `top`, the untouched logits or the shaped ones.
 */
static void report_logprobs(const struct row *row, float max, int id, const float *top)
{
    struct sample_out *out = row->out;
    int vocab = row->args->vocab, n_top = row->params->n_top, n = 0;
    double log_sum = log(row->isa->sum_exp(row->raw, vocab, max, 1.0f)) + (double)max;

    if (id >= 0 && id < vocab)
        out->logprob = (float)((double)row->raw[id] - log_sum);
    n_top = min_of(n_top, (int)SAMPLE_TOP_MAX);
    n_top = min_of(n_top, vocab);
    for (int t = 0; n_top > 0 && t < vocab; t++) {
        float z = top[t];
        if ((n == n_top && z <= out->top_logprob[n - 1]) || !(z > -INFINITY))
            continue;
        int at = n < n_top ? n++ : n - 1;
        for (; at > 0 && out->top_logprob[at - 1] < z; at--) {
            out->top_logprob[at] = out->top_logprob[at - 1];
            out->top_id[at] = out->top_id[at - 1];
        }
        out->top_logprob[at] = z;
        out->top_id[at] = t;
    }
    for (int i = 0; i < n; i++)
        out->top_logprob[i] = (float)((double)out->top_logprob[i] - log_sum);
    out->n_top = n;
}

static void apply_penalties(const struct row *row)
{
    const struct sample_params *p = row->params;
    const uint16_t *counts = row->args->counts + (int64_t)p->state_slot * row->args->vocab;

    for (int t = 0; t < row->args->vocab; t++) {
        if (!counts[t])
            continue;
        float z = row->logits[t];
        int n = counts[t] & 0x7fff;
        if (p->repetition != 1.0f)
            z = z > 0.0f ? z / p->repetition : z * p->repetition;
        if (n)
            z -= p->presence + p->frequency * (float)n;
        row->logits[t] = z;
    }
}

static bool shapes_logits(const struct sample_params *p)
{
    bool penalties = p->presence != 0.0f || p->frequency != 0.0f || p->repetition != 1.0f;
    return (p->state_slot >= 0 && penalties) || p->n_bias || p->n_ban || p->mask_index >= 0;
}

static void shape_logits(const struct row *row)
{
    const struct sample_args *args = row->args;
    const struct sample_params *p = row->params;
    int vocab = args->vocab;

    if (p->state_slot >= 0 &&
        (p->presence != 0.0f || p->frequency != 0.0f || p->repetition != 1.0f))
        apply_penalties(row);
    for (int i = p->bias_start; i < p->bias_start + p->n_bias; i++)
        if (args->bias_id[i] >= 0 && args->bias_id[i] < vocab)
            row->logits[args->bias_id[i]] += args->bias[i];
    if (p->mask_index >= 0) {
        const uint32_t *mask = args->mask + (int64_t)p->mask_index * ((vocab + 31) / 32);
        for (int t = 0; t < vocab; t++)
            if (!(mask[t / 32] >> (t % 32) & 1))
                row->logits[t] = -INFINITY;
    }
    for (int i = p->ban_start; i < p->ban_start + p->n_ban; i++)
        if (args->ban_id[i] >= 0 && args->ban_id[i] < vocab)
            row->logits[args->ban_id[i]] = -INFINITY;
}

static int first_equal(const float *x, int n, float value)
{
    for (int i = 0; i < n; i++)
        if (x[i] == value)
            return i;
    return -1;
}

/* No random word above it has a Gumbel value of g: 1 - e^-y <= y. All words if many have. */
static uint32_t word_bound(float g)
{
    float v = expf(-g) * 1.001f + 0x1p-31f; /* a little generous: f32 rounds */
    return v < 0.999f ? (uint32_t)(v * 0x1p32f) : UINT32_MAX;
}

static int n_part(const struct row *row)
{
    return (row->args->vocab + PART - 1) / PART;
}

static void fill_part_max(const struct row *row)
{
    bool finite;
    for (int i = 0; i < n_part(row); i++)
        row->part_max[i] = row->isa->row_max(row->logits + i * PART,
                                             min_of(row->args->vocab - i * PART, (int)PART),
                                             &finite);
}

/*
 * The draw over every token with z >= least. A token can win only if its random word is below a
 * bound that follows from the best score so far and the largest logit of its part.
 */
static int draw_all(const struct row *row, float max, float least)
{
    float temperature = row->params->temperature;
    int vocab = row->args->vocab, best_id = first_equal(row->logits, vocab, max);
    float best = max / temperature + token_gumbel(row, best_id);
    uint32_t words[WORDS];
    int words_at = -1;

    for (int part = 0; part < n_part(row); part++) {
        int first = part * PART, end = min_of(first + PART, vocab);
        float most = row->part_max[part] / temperature;
        if (most + GUMBEL_MAX < best || most < least)
            continue;
        if (words_at != first / WORDS) {
            words_at = first / WORDS;
            row->isa->philox(words, (uint32_t)words_at * WORDS / 4, WORDS / 4,
                             row->params->position, row->params->index, row->params->seed);
        }
        uint32_t bound = word_bound(best - most);
        for (int t = first; t < end; t++) {
            if (words[t % WORDS] > bound)
                continue;
            float z = row->logits[t] / temperature, score = z + gumbel(words[t % WORDS]);
            if (z < least || score < best || (score == best && t >= best_id))
                continue;
            best = score;
            best_id = t;
            bound = word_bound(best - most);
        }
    }
    return best_id;
}

static bool ranks_before(const struct candidate *a, const struct candidate *b)
{
    return a->z != b->z ? a->z > b->z : a->id < b->id;
}

static void swap(struct candidate *a, struct candidate *b)
{
    struct candidate t = *a;
    *a = *b;
    *b = t;
}

/* Split [0, n) around a pivot: those that rank before it come first; returns its new place. */
static int partition(struct candidate *list, int n)
{
    struct candidate *a = &list[0], *b = &list[n / 2], *c = &list[n - 1];
    struct candidate *middle = ranks_before(a, b) ? (ranks_before(b, c)   ? b
                                                     : ranks_before(a, c) ? c
                                                                          : a)
                                                  : (ranks_before(a, c)   ? a
                                                     : ranks_before(b, c) ? c
                                                                          : b);
    int at = 0;
    swap(middle, &list[n - 1]);
    for (int i = 0; i < n - 1; i++)
        if (ranks_before(&list[i], &list[n - 1]))
            swap(&list[i], &list[at++]);
    swap(&list[at], &list[n - 1]);
    return at;
}

/* The k first in rank come to the front, in any order. */
static void select_first(struct candidate *list, int n, int k)
{
    while (n > 1 && k > 0 && k < n) {
        int at = partition(list, n);
        if (at >= k) {
            n = at;
            continue;
        }
        list += at + 1;
        n -= at + 1;
        k -= at + 1;
    }
}

/* The shortest run of ranks with at least `mass` comes to the front; returns its length, >= 1. */
static int select_mass(struct candidate *list, int n, double mass)
{
    int taken = 0;
    while (n > 1) {
        int at = partition(list, n);
        double before = 0.0;
        for (int i = 0; i < at; i++)
            before += (double)list[i].weight;
        if (before >= mass && at > 0) {
            n = at;
            continue;
        }
        mass -= before + (double)list[at].weight;
        taken += at + 1;
        if (mass <= 0.0)
            return taken;
        list += at + 1;
        n -= at + 1;
    }
    return taken + n;
}

/* The tokens with z >= least; weights come later. */
static int gather(const struct row *row, float least)
{
    float temperature = row->params->temperature;
    int n = 0;
    for (int part = 0; part < n_part(row); part++) {
        int end = min_of((part + 1) * PART, row->args->vocab);
        if (row->part_max[part] / temperature < least)
            continue;
        for (int t = part * PART; t < end; t++) {
            float z = row->logits[t] / temperature;
            if (z >= least)
                row->list[n++] = (struct candidate){ .z = z, .id = t };
        }
    }
    return n;
}

/* At least k tokens have this z or more, few others have: the k-th largest maximum of a part. */
static float bound_of_k(const struct row *row, int k)
{
    float least = -FLT_MAX;
    if (k > n_part(row))
        return least;
    for (int i = 0; i < n_part(row); i++)
        row->list[i] = (struct candidate){ .z = row->part_max[i], .id = i };
    select_first(row->list, n_part(row), k);
    float bound = row->list[0].z;
    for (int i = 1; i < k; i++)
        bound = min_of(bound, row->list[i].z);
    bound /= row->params->temperature;
    return max_of(bound, least);
}

static double weigh(const struct row *row, int n, float z_max)
{
    double total = 0.0;
    for (int i = 0; i < n; i++) {
        row->list[i].weight = expf(row->list[i].z - z_max);
        total += (double)row->list[i].weight;
    }
    return total;
}

/* Candidates after top_k and top_p stand first in the list; returns how many. */
static int choose_candidates(const struct row *row, float max, float z_max)
{
    const struct sample_params *p = row->params;
    bool use_k = p->top_k > 0 && p->top_k < row->args->vocab, use_p = p->top_p < 1.0f;

    if (use_k) {
        int n = gather(row, bound_of_k(row, p->top_k));
        if (p->top_k < n) {
            select_first(row->list, n, p->top_k);
            n = p->top_k;
        }
        return use_p ? select_mass(row->list, n, (double)p->top_p * weigh(row, n, z_max)) : n;
    }
    int n = gather(row, z_max - NEAR_GAP);
    double mass = (double)p->top_p *
                  row->isa->sum_exp(row->logits, row->args->vocab, max, p->temperature);
    if (weigh(row, n, z_max) < mass) {
        n = gather(row, -FLT_MAX);
        weigh(row, n, z_max);
    }
    return select_mass(row->list, n, mass);
}

static int draw(const struct row *row, float max)
{
    const struct sample_params *p = row->params;
    float z_max = max / p->temperature, least = -FLT_MAX;
    if (p->min_p > 0.0f)
        least = z_max + logf(p->min_p);
    fill_part_max(row);
    if (!(p->top_p < 1.0f) && (p->top_k <= 0 || p->top_k >= row->args->vocab))
        return draw_all(row, max, least);

    int n = choose_candidates(row, max, z_max), best_id = -1;
    float best = -INFINITY;
    for (int i = 0; i < n; i++) {
        const struct candidate *c = &row->list[i];
        if (c->z < least)
            continue;
        float score = c->z + token_gumbel(row, c->id);
        if (score > best || (score == best && c->id < best_id)) {
            best = score;
            best_id = c->id;
        }
    }
    return best_id;
}

static void sample_row(struct row *row, int32_t *ret_sampled)
{
    const struct sample_params *p = row->params;
    const struct sample_args *args = row->args;
    struct sample_out *out = row->out;
    bool finite, shaped = shapes_logits(p);
    float raw_max = row->isa->row_max(row->raw, args->vocab, &finite), max = raw_max;

    *out = (struct sample_out){ .token = -1 };
    *ret_sampled = -1;
    if (!finite) {
        out->flags = SAMPLE_BAD;
        return;
    }
    if (p->flags & SAMPLE_SCORE) {
        report_logprobs(row, raw_max, p->score_id, row->raw);
        return;
    }
    if (shaped) {
        if (p->flags & SAMPLE_LOGPROBS)
            row->logits = memcpy(row->spare, row->raw, (size_t)args->vocab * 4);
        shape_logits(row);
        max = row->isa->row_max(row->logits, args->vocab, &finite);
    }
    if (!(max > -INFINITY)) {
        out->flags = SAMPLE_BAD;
        return;
    }
    out->token = p->temperature > 0.0f ? draw(row, max)
                                       : first_equal(row->logits, args->vocab, max);
    *ret_sampled = out->token;
    if (p->flags & SAMPLE_LOGPROBS)
        report_logprobs(row, raw_max, out->token,
                        p->flags & SAMPLE_SHAPED ? row->logits : row->raw);
}

struct sample_job {
    struct stream *st;
    const struct sample_args *args;
    int next;
};

static void sample_fn(void *arg, int thread_i)
{
    struct sample_job *job = arg;
    const struct sample_args *args = job->args;
    char *scratch = stream_thread_piece(job->st, thread_i);
    size_t vocab = (size_t)lanes_up(args->vocab);

    for (int i; (i = cpu_work_next(&job->next, 1)) < args->n_sample;) {
        float *logits = (float *)(uintptr_t)(args->logits + (int64_t)i * args->vocab);
        struct row row = {
            .args = args,
            .params = &args->params[i],
            .isa = job->st->dev->isa,
            .raw = logits,
            .logits = logits,
            .spare = (float *)(void *)scratch,
            .out = &args->out[i],
            .list = (struct candidate *)(void *)(scratch + 4 * vocab),
            .part_max = (float *)(void *)(scratch + (4 + sizeof(struct candidate)) * vocab),
        };
        sample_row(&row, &args->sampled[i]);
    }
}

/* After all rows: two rows of one sequence never count at the same time. */
static void count_drawn(const struct sample_args *args)
{
    for (int i = 0; i < args->n_sample; i++) {
        int slot = args->params[i].state_slot, token = args->out[i].token;
        if (slot < 0 || token < 0 || !args->counts)
            continue;
        uint16_t *count = args->counts + (int64_t)slot * args->vocab + token;
        if ((*count & 0x7fff) < 0x7fff)
            ++*count;
    }
}

int cpu_sample(struct stream *st, const struct sample_args *args)
{
    struct sample_job job = { .st = st, .args = args };

    if (args->vocab > st->limits.vocab)
        return -ENOTSUP;
    if (args->n_sample == 1)
        sample_fn(&job, 0);
    else if (args->n_sample > 1)
        cpu_threads_run(st->dev->pool, sample_fn, &job);
    count_drawn(args);
    return 0;
}

int cpu_counts_load(struct stream *st, const struct counts_load_args *args)
{
    uint16_t *counts = args->counts + (int64_t)args->slot * args->vocab;
    (void)st;

    memset(counts, 0, (size_t)args->vocab * 2);
    for (int i = 0; i < args->n_id; i++) {
        int32_t id = args->id[i];
        if (id < 0 || id >= args->vocab)
            continue;
        if (i < args->n_prompt)
            counts[id] |= 0x8000;
        else if ((counts[id] & 0x7fff) < 0x7fff)
            counts[id]++;
    }
    return 0;
}
