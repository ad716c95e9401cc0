/* The oracle of sampling: everything sorted, everything summed, nothing skipped. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/ref.h"

struct ranked {
    float z;
    int id;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->z != y->z)
        return x->z > y->z ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Philox4x32-10 (Salmon et al., 2011), word t % 4 of block t / 4. */
static uint32_t random_word(const struct sample_params *p, uint32_t t)
{
    uint32_t c[4] = { t / 4, p->position, p->index, 0 };
    uint32_t key[2] = { (uint32_t)p->seed, (uint32_t)(p->seed >> 32) };
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c[0] * 0xd2511f53u, b = (uint64_t)c[2] * 0xcd9e8d57u;
        uint32_t next[4] = { (uint32_t)(b >> 32) ^ c[1] ^ key[0], (uint32_t)b,
                             (uint32_t)(a >> 32) ^ c[3] ^ key[1], (uint32_t)a };
        memcpy(c, next, sizeof(c));
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
    return c[t % 4];
}

static float gumbel(uint32_t word)
{
    float v = fminf(fmaf((float)word, 0x1p-32f, 0x1p-33f), 1.0f - 0x1p-24f);
    return -logf(-log1pf(-v));
}

static void shape(const struct sample_args *args, const struct sample_params *p, float *z)
{
    int vocab = args->vocab;
    for (int t = 0; p->state_slot >= 0 && t < vocab; t++) {
        int count = args->counts[(int64_t)p->state_slot * vocab + t], n = count & 0x7fff;
        if (count)
            z[t] = z[t] > 0.0f ? z[t] / p->repetition : z[t] * p->repetition;
        if (n)
            z[t] -= p->presence + p->frequency * (float)n;
    }
    for (int i = p->bias_start; i < p->bias_start + p->n_bias; i++)
        z[args->bias_id[i]] += args->bias[i];
    for (int t = 0; p->mask_index >= 0 && t < vocab; t++)
        if (!(args->mask[p->mask_index * ((vocab + 31) / 32) + t / 32] >> (t % 32) & 1))
            z[t] = -INFINITY;
    for (int i = p->ban_start; i < p->ban_start + p->n_ban; i++)
        z[args->ban_id[i]] = -INFINITY;
}

/* How many of the sorted candidates stay. */
static int keep(const struct sample_params *p, const struct ranked *list, int n)
{
    double total = 0.0, mass = 0.0;
    while (n > 0 && list[n - 1].z == -INFINITY)
        n--;
    if (p->top_k > 0 && p->top_k < n)
        n = p->top_k;
    for (int i = 0; i < n; i++)
        total += exp((double)list[i].z - (double)list[0].z);
    for (int i = 0; i < n && p->top_p < 1.0f; i++) {
        mass += exp((double)list[i].z - (double)list[0].z);
        if (mass >= (double)p->top_p * total)
            n = i + 1;
    }
    while (n > 1 && p->min_p > 0.0f && list[n - 1].z < list[0].z + logf(p->min_p))
        n--;
    return n;
}

static int choose(const struct sample_params *p, struct ranked *list, int n)
{
    bool greedy = p->temperature == 0.0f;
    for (int i = 0; i < n && !greedy; i++)
        list[i].z /= p->temperature;
    qsort(list, (size_t)n, sizeof(*list), by_rank);
    if (list[0].z == -INFINITY)
        return -1;
    if (greedy)
        return list[0].id;
    n = keep(p, list, n);
    for (int i = 0; i < n; i++)
        list[i].z += gumbel(random_word(p, (uint32_t)list[i].id));
    qsort(list, (size_t)n, sizeof(*list), by_rank);
    return list[0].id;
}

/* top: the ranked logits that the n_top best are of. */
static void report(const struct sample_params *p, const struct ranked *raw,
                   const struct ranked *top, const float *logits, int n, int id,
                   struct sample_out *out)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += exp((double)raw[i].z - (double)raw[0].z);
    double log_sum = log(sum) + (double)raw[0].z;
    if (id >= 0 && id < n)
        out->logprob = (float)((double)logits[id] - log_sum);
    for (int i = 0; i < p->n_top && i < n && top[i].z > -INFINITY; i++) {
        out->top_id[i] = top[i].id;
        out->top_logprob[i] = (float)((double)top[i].z - log_sum);
        out->n_top = i + 1;
    }
}

static void sample_row(const struct sample_args *args, int row)
{
    const struct sample_params *p = &args->params[row];
    struct sample_out *out = &args->out[row];
    int vocab = args->vocab;
    const float *logits = args->logits + (int64_t)row * vocab;
    struct ranked *raw = calloc((size_t)vocab, sizeof(*raw)), *list = calloc((size_t)vocab, 8);
    struct ranked *shaped = calloc((size_t)vocab, sizeof(*shaped));
    float *z = calloc((size_t)vocab, sizeof(*z));
    bool finite = true;

    if (!raw || !list || !shaped || !z)
        abort();
    memset(out, 0, sizeof(*out));
    out->token = -1;
    for (int t = 0; t < vocab; t++) {
        finite &= (bool)isfinite(logits[t]);
        raw[t] = (struct ranked){ logits[t], t };
    }
    if (finite) {
        memcpy(z, logits, (size_t)vocab * 4);
        qsort(raw, (size_t)vocab, sizeof(*raw), by_rank);
        if (!(p->flags & SAMPLE_SCORE)) {
            shape(args, p, z);
            for (int t = 0; t < vocab; t++)
                shaped[t] = list[t] = (struct ranked){ z[t], t };
            qsort(shaped, (size_t)vocab, sizeof(*shaped), by_rank);
            out->token = choose(p, list, vocab);
        }
        if (p->flags & SAMPLE_SCORE)
            report(p, raw, raw, logits, vocab, p->score_id, out);
        else if (out->token < 0)
            out->flags = SAMPLE_BAD;
        else if (p->flags & SAMPLE_LOGPROBS)
            report(p, raw, p->flags & SAMPLE_SHAPED ? shaped : raw, logits, vocab, out->token, out);
    } else {
        out->flags = SAMPLE_BAD;
    }
    args->sampled[row] = out->token;
    free(raw);
    free(list);
    free(shaped);
    free(z);
}

void ref_sample(const struct sample_args *args)
{
    for (int i = 0; i < args->n_sample; i++)
        sample_row(args, i);
    for (int i = 0; i < args->n_sample; i++) {
        int slot = args->params[i].state_slot, token = args->out[i].token;
        if (slot >= 0 && token >= 0) {
            uint16_t *count = &args->counts[(int64_t)slot * args->vocab + token];
            *count += (*count & 0x7fff) < 0x7fff;
        }
    }
}

void ref_counts_load(const struct counts_load_args *args)
{
    uint16_t *counts = args->counts + (int64_t)args->slot * args->vocab;
    memset(counts, 0, (size_t)args->vocab * 2);
    for (int i = 0; i < args->n_id; i++)
        if (i < args->n_prompt)
            counts[args->id[i]] |= 0x8000;
        else if ((counts[args->id[i]] & 0x7fff) < 0x7fff)
            counts[args->id[i]]++;
}
