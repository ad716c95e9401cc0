/* Sampling: every shape of a draw against the oracle, and the laws that it must keep. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"
#include "tests/harness/harness.h"
#include "tests/kernels/rig.h"

/* A sequence draws once a call: no two rows share a state. */
enum { ROWS = 24, STATES = ROWS, MASKS = 2, LISTS = 16, VOCAB_MAX = 5003 };

/* One call of the op, host side. */
struct draw {
    int vocab, n_sample;
    float *logits;
    struct sample_params params[ROWS];
    int32_t bias_id[LISTS], ban_id[LISTS];
    float bias[LISTS];
    uint32_t *mask;
    uint16_t *counts;
    struct sample_out out[ROWS];
    int32_t sampled[ROWS];
};

static struct sample_params plain_params(void)
{
    return (struct sample_params){ .temperature = 1.0f, .top_p = 1.0f, .repetition = 1.0f,
                                   .state_slot = -1, .mask_index = -1 };
}

static void random_params(struct draw *d, int row, uint64_t *seed)
{
    static const float temperatures[] = { 0.0f, 0.3f, 1.0f, 1.7f };
    static const float top_ps[] = { 1.0f, 1.0f, 0.9f, 0.5f, 0.999f, 0.01f };
    static const int32_t top_ks[] = { 0, 0, 1, 2, 40, 1000, 100000 };
    struct sample_params *p = &d->params[row];
    *p = plain_params();
    p->temperature = temperatures[harness_rand(seed) % 4];
    p->top_p = top_ps[harness_rand(seed) % 6];
    p->top_k = top_ks[harness_rand(seed) % 7];
    p->min_p = harness_rand(seed) % 3 ? 0.0f : 0.05f;
    p->seed = harness_rand(seed);
    p->index = (uint32_t)harness_rand(seed) % 4;
    p->position = (uint32_t)harness_rand(seed) % 5000;
    if (harness_rand(seed) % 2) {
        p->state_slot = row;
        p->presence = harness_rand(seed) % 2 ? 0.7f : 0.0f;
        p->frequency = harness_rand(seed) % 2 ? -0.3f : 0.0f;
        p->repetition = harness_rand(seed) % 2 ? 1.3f : 1.0f;
    }
    if (harness_rand(seed) % 2)
        p->mask_index = (int32_t)(harness_rand(seed) % MASKS);
    p->bias_start = (int32_t)(harness_rand(seed) % 8);
    p->n_bias = (int32_t)(harness_rand(seed) % 8);
    p->ban_start = (int32_t)(harness_rand(seed) % 8);
    p->n_ban = (int32_t)(harness_rand(seed) % 8);
    p->flags = harness_rand(seed) % 2 ? SAMPLE_LOGPROBS : harness_rand(seed) % 4 ? 0 : SAMPLE_SCORE;
    if (p->flags == SAMPLE_LOGPROBS && harness_rand(seed) % 3 == 0)
        p->flags |= SAMPLE_SHAPED;
    p->n_top = (int32_t)(harness_rand(seed) % (SAMPLE_TOP_MAX + 1));
    p->score_id = (int32_t)(harness_rand(seed) % (uint64_t)d->vocab);
}

static void make_draw(struct draw *d, int vocab, int n_sample, uint64_t *seed)
{
    *d = (struct draw){ .vocab = vocab, .n_sample = n_sample };
    size_t n = (size_t)n_sample * (size_t)vocab, words = (size_t)(vocab + 31) / 32;
    d->logits = random_floats(seed, n, 0);
    for (size_t i = 0; i < n; i++)
        d->logits[i] = roundf(d->logits[i] * 800.0f) * 0.01f; /* ties happen */
    d->mask = calloc(words * MASKS, 4);
    for (size_t i = 0; i < words * MASKS; i++)
        d->mask[i] = (uint32_t)harness_rand(seed);
    d->counts = calloc((size_t)vocab * STATES, 2);
    for (int i = 0; i < vocab * STATES; i++)
        d->counts[i] = harness_rand(seed) % 5 ? 0 : (uint16_t)(harness_rand(seed) & 0x8003);
    for (int i = 0; i < LISTS; i++) {
        d->bias_id[i] = (int32_t)(harness_rand(seed) % (uint64_t)vocab);
        d->ban_id[i] = (int32_t)(harness_rand(seed) % (uint64_t)vocab);
        d->bias[i] = (float)harness_uniform(seed, -10.0, 10.0);
    }
    for (int i = 0; i < n_sample; i++)
        random_params(d, i, seed);
}

static void free_draw(struct draw *d)
{
    free(d->logits), free(d->mask), free(d->counts);
}

static struct sample_args host_args(struct draw *d)
{
    return (struct sample_args){ .logits = d->logits, .n_sample = d->n_sample, .vocab = d->vocab,
                                 .params = d->params, .bias_id = d->bias_id, .bias = d->bias,
                                 .ban_id = d->ban_id, .mask = d->mask, .counts = d->counts,
                                 .out = d->out, .sampled = d->sampled };
}

/* Results come back into ret_out, sampled and counts. */
static void run(struct rig *rig, struct draw *d, struct sample_out *ret_out, int32_t *ret_sampled,
                uint16_t *ret_counts)
{
    struct sample_args args = host_args(d);
    size_t n = (size_t)d->n_sample, vocab = (size_t)d->vocab, words = (vocab + 31) / 32;
    args.logits = rig_put(rig, d->logits, n * vocab * 4);
    args.params = rig_put(rig, d->params, sizeof(d->params));
    args.bias_id = rig_put(rig, d->bias_id, sizeof(d->bias_id));
    args.bias = rig_put(rig, d->bias, sizeof(d->bias));
    args.ban_id = rig_put(rig, d->ban_id, sizeof(d->ban_id));
    args.mask = rig_put(rig, d->mask, words * MASKS * 4);
    args.counts = rig_put(rig, d->counts, vocab * STATES * 2);
    args.out = rig_put(rig, NULL, sizeof(d->out));
    args.sampled = rig_put(rig, NULL, sizeof(d->sampled));
    assert_ok(rig->ops->sample(rig->st, &args));
    rig_get(rig, args.out, ret_out, n * sizeof(*ret_out));
    rig_get(rig, args.sampled, ret_sampled, n * 4);
    rig_get(rig, args.counts, ret_counts, vocab * STATES * 2);
    rig_reset(rig);
}

static void check_row(const struct rig *rig, const struct draw *d, int i,
                      const struct sample_out *got)
{
    const struct sample_out *want = &d->out[i];
    const struct sample_params *p = &d->params[i];
    if (got->token != want->token)
        fail_msg("%s row %d: token %d, not %d (temperature %g top_k %d top_p %g min_p %g seed %lu)",
                 rig->name, i, got->token, want->token, p->temperature, p->top_k, p->top_p,
                 p->min_p, (unsigned long)p->seed);
    assert_int_equal(got->flags, want->flags);
    if (!(p->flags & (SAMPLE_LOGPROBS | SAMPLE_SCORE)) || want->flags)
        return;
    assert_close(got->logprob, want->logprob, 2e-5, 2e-6);
    assert_int_equal(got->n_top, want->n_top);
    for (int k = 0; k < want->n_top; k++) {
        assert_int_equal(got->top_id[k], want->top_id[k]);
        assert_close(got->top_logprob[k], want->top_logprob[k], 2e-5, 2e-6);
    }
}

static void check_draws(struct rig *rig)
{
    static const int vocabs[] = { 1, 2, 31, 257, 1000, 4996, VOCAB_MAX };
    uint64_t seed = 99;
    for (int round = 0; round < (rig_small() ? 4 : 21); round++) {
        struct draw d;
        struct sample_out got[ROWS];
        int32_t sampled[ROWS];
        int vocab = vocabs[round % 7];
        uint16_t *counts = calloc((size_t)vocab * STATES, 2);
        make_draw(&d, vocab, round % 5 ? ROWS : 1, &seed);
        run(rig, &d, got, sampled, counts);
        struct sample_args args = host_args(&d);
        ref_sample(&args);
        for (int i = 0; i < d.n_sample; i++) {
            check_row(rig, &d, i, &got[i]);
            assert_int_equal(sampled[i], d.sampled[i]);
        }
        assert_memory_equal(counts, d.counts, (size_t)vocab * STATES * 2);
        free(counts);
        free_draw(&d);
    }
}

TEST(sample_meets_the_oracle)
{
    assert_true(rig_each(check_draws) > 0);
}

TEST(sample_of_philox_is_the_published_generator)
{
    /* Known answers of Philox4x32-10 (Random123): all zeros, all ones. */
    static const uint32_t zeros[4] = { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 };
    for (int i = 0; i < 3; i++) {
        static const char *const levels[] = { "plain", "avx2", "avx512-vnni" };
        const struct cpu_isa *isa = cpu_isa_find(levels[i]);
        uint32_t words[4 * 40], one[4];
        if (!isa)
            continue;
        isa->philox(words, 0, 1, 0, 0, 0);
        assert_memory_equal(words, zeros, sizeof(zeros));
        isa->philox(words, 5, 40, 7, 9, 0x123456789abcdefu);
        for (uint32_t q = 0; q < 40; q++) {
            isa->philox(one, 5 + q, 1, 7, 9, 0x123456789abcdefu);
            assert_memory_equal(one, words + 4 * q, sizeof(one));
        }
    }
}

static void check_bad(struct rig *rig)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    uint64_t seed = 3;
    for (int i = 0; i < 3; i++)
        for (int at = 0; at < 1000 && !(rig_small() && at + i > 0); at += 333) {
            struct draw d;
            struct sample_out got[ROWS];
            int32_t sampled[ROWS];
            uint16_t counts[1000 * STATES];
            make_draw(&d, 1000, 2, &seed);
            d.params[0] = d.params[1] = plain_params();
            d.params[0].state_slot = 1;
            d.logits[at] = bad[i];
            run(rig, &d, got, sampled, counts);
            assert_int_equal(got[0].token, -1);
            assert_int_equal(sampled[0], -1);
            assert_int_equal(got[0].flags, SAMPLE_BAD);
            assert_true(got[1].token >= 0); /* its neighbor is served */
            assert_memory_equal(counts, d.counts, sizeof(counts));
            free_draw(&d);
        }
}

TEST(sample_flags_logits_that_are_not_finite)
{
    rig_each(check_bad);
}

/* Logits of a product and what is sampled of them, nothing in between. */
struct fresh {
    int n_sample, dim, vocab;
    struct weight file;
    float *logits;
    struct sample_params params[ROWS];
    struct sample_out out[ROWS];
    int32_t sampled[ROWS];
};

static void sample_fresh(struct rig *rig, struct fresh *f, const float *x, bool logits_anew)
{
    int32_t row[ROWS];
    struct weight head;
    size_t n = (size_t)f->n_sample, bytes = n * (size_t)f->vocab * 4;
    float *ones = malloc((size_t)f->dim * 4);
    for (int i = 0; i < f->n_sample; i++)
        row[i] = f->n_sample - 1 - i;
    for (int i = 0; i < f->dim; i++)
        ones[i] = 1.0f;
    assert_true(rig_put_weight(rig, &f->file, &head));
    struct logits_args l = { .x = rig_put_act(rig, x, n * (size_t)f->dim), .x_stride = f->dim,
                             .row = rig_put(rig, row, sizeof(row)), .n_sample = f->n_sample,
                             .norm_weight = rig_put(rig, ones, (size_t)f->dim * 4),
                             .norm_eps = 1e-5f, .lm_head = &head, .scale = 0.5f };
    l.out = rig_put(rig, NULL, bytes);
    struct sample_args s = { .logits = l.out, .n_sample = f->n_sample, .vocab = f->vocab,
                             .params = rig_put(rig, f->params, sizeof(f->params)),
                             .out = rig_put(rig, NULL, sizeof(f->out)),
                             .sampled = rig_put(rig, NULL, sizeof(f->sampled)) };
    assert_ok(rig->ops->logits(rig->st, &l));
    if (logits_anew) /* other logits in the same place */
        assert_ok(rig->backend->device->copy_in(rig->st, l.out, f->logits, bytes));
    assert_ok(rig->ops->sample(rig->st, &s));
    rig_get(rig, s.out, f->out, n * sizeof(*f->out));
    rig_get(rig, s.sampled, f->sampled, n * 4);
    rig_get(rig, l.out, f->logits, bytes);
    rig_reset(rig);
    free(ones);
}

/* Greedy rows must be the first of the best logits that lie there, whoever found them. */
static void check_fresh_rows(const struct rig *rig, struct fresh *f)
{
    struct sample_out want[ROWS];
    int32_t sampled[ROWS];
    struct sample_args ref = { .logits = f->logits, .n_sample = f->n_sample, .vocab = f->vocab,
                               .params = f->params, .out = want, .sampled = sampled };
    ref_sample(&ref);
    for (int i = 0; i < f->n_sample; i++) {
        if (f->out[i].token != want[i].token || f->out[i].flags != want[i].flags)
            fail_msg("%s: row %d of %d, vocabulary %d by %d: token %d flags %u, not %d and %u",
                     rig->name, i, f->n_sample, f->vocab, f->dim, f->out[i].token, f->out[i].flags,
                     want[i].token, want[i].flags);
        assert_int_equal(f->sampled[i], want[i].token);
    }
}

static void check_fresh_case(struct rig *rig, int n_sample, int dim, int vocab)
{
    uint64_t seed = (uint64_t)(n_sample + dim + vocab);
    struct fresh f = { .n_sample = n_sample, .dim = dim, .vocab = vocab };
    size_t n_x = (size_t)n_sample * (size_t)dim, row_bytes = (size_t)dim * 2;
    f.file = random_weight(&seed, DTYPE_BF16, vocab, dim, 0.5f);
    uint8_t *rows = f.file.data;
    for (int t = vocab / 2; t < vocab; t++) /* each logit twice: ties */
        memcpy(rows + (size_t)t * row_bytes, rows + (size_t)(t - vocab / 2) * row_bytes, row_bytes);
    float *x = random_floats(&seed, n_x, 0);
    f.logits = random_floats(&seed, (size_t)n_sample * (size_t)vocab, 0);
    for (int i = 0; i < ROWS; i++) {
        f.params[i] = plain_params();
        f.params[i].temperature = 0;
    }
    sample_fresh(rig, &f, x, false);
    check_fresh_rows(rig, &f);
    if (n_sample > 1) /* among rows of other kinds, and one that the device must not trust */
        f.params[1].flags = SAMPLE_LOGPROBS;
    x[n_x - 1] = NAN;
    sample_fresh(rig, &f, x, false);
    assert_int_equal(f.out[0].flags, SAMPLE_BAD);
    check_fresh_rows(rig, &f);
    for (int i = 0; i < n_sample * vocab; i++)
        f.logits[i] = (float)(i % 7);
    sample_fresh(rig, &f, x, true);
    check_fresh_rows(rig, &f);
    free(f.file.data), free(x), free(f.logits);
}

static void check_fresh(struct rig *rig)
{
    static const int samples[] = { 1, 2, 8, 9, 16, 17, ROWS };
    for (size_t i = 0; i < ARRAY_SIZE(samples); i += rig_small() ? 3 : 1) {
        check_fresh_case(rig, samples[i], 256, 1004);
        if (!rig->is_cpu && !rig_small()) /* the CPU has one way for all */
            check_fresh_case(rig, samples[i], 2048, 1002);
    }
    if (!rig->is_cpu && !rig_small())
        check_fresh_case(rig, 1, 256, 40002); /* more tiles than blocks */
}

TEST(sample_of_fresh_logits_is_the_first_of_the_best)
{
    assert_true(rig_each(check_fresh) > 0);
}

static void check_nothing_allowed(struct rig *rig)
{
    uint64_t seed = 4;
    struct draw d;
    struct sample_out got[ROWS];
    int32_t sampled[ROWS];
    uint16_t counts[100 * STATES];
    make_draw(&d, 100, 3, &seed);
    memset(d.mask, 0, 16);
    for (int i = 0; i < 3; i++) {
        d.params[i] = plain_params();
        d.params[i].temperature = i ? 1.0f : 0.0f;
        d.params[i].top_k = i == 2 ? 5 : 0;
        d.params[i].mask_index = 0;
    }
    run(rig, &d, got, sampled, counts);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(got[i].token, -1);
        assert_int_equal(got[i].flags, SAMPLE_BAD);
    }
    free_draw(&d);
}

TEST(sample_tells_when_no_token_is_allowed)
{
    rig_each(check_nothing_allowed);
}

/* Chi-squared against the probabilities themselves: right by more than agreement with a twin. */
TEST(sample_draws_with_the_probabilities_of_softmax)
{
    enum { VOCAB = 12, DRAWS = 6000 };
    static const float logits[VOCAB] = { 0, 1, 2, -1, 0.5f, -2, 1.5f, 0, 0, 3, -3, 1 };
    double p[VOCAB], sum = 0.0, chi = 0.0;
    int seen[VOCAB] = { 0 };
    struct rig rig;
    rig_open_cpu(&rig, NULL, 1);
    for (int t = 0; t < VOCAB; t++)
        sum += p[t] = exp((double)logits[t] / 1.5);
    for (int i = 0; i < DRAWS; i++) {
        float copy[VOCAB];
        struct sample_params params = plain_params();
        struct sample_out out;
        int32_t sampled;
        memcpy(copy, logits, sizeof(copy));
        params.temperature = 1.5f;
        params.seed = 42;
        params.position = (uint32_t)i;
        struct sample_args args = { .logits = copy, .n_sample = 1, .vocab = VOCAB,
                                    .params = &params, .out = &out, .sampled = &sampled };
        assert_ok(rig.ops->sample(rig.st, &args));
        assert_in_range(sampled, 0, VOCAB - 1);
        seen[sampled]++;
    }
    for (int t = 0; t < VOCAB; t++) {
        double expected = DRAWS * p[t] / sum;
        chi += (seen[t] - expected) * (seen[t] - expected) / expected;
    }
    assert_true(chi < 31.3); /* 11 degrees of freedom, 1 in 1000 */
    rig_close(&rig);
}

static void check_counts(struct rig *rig)
{
    enum { VOCAB = 50, SLOTS = 3 };
    static const int32_t id[] = { 1, 2, 2, 49, 7, 2, 7, 7 };
    uint16_t got[VOCAB * SLOTS], want[VOCAB * SLOTS];
    memset(want, 0xff, sizeof(want));
    struct counts_load_args args = { rig_put(rig, want, sizeof(want)), 1, VOCAB, id, 4, 8 };
    struct counts_load_args ref = args;
    assert_ok(rig->ops->counts_load(rig->st, &args));
    rig_get(rig, args.counts, got, sizeof(got));
    ref.counts = want;
    ref_counts_load(&ref);
    assert_memory_equal(got, want, sizeof(want));
    assert_int_equal(got[VOCAB + 2], 0x8001);
    assert_int_equal(got[VOCAB + 7], 3);
    rig_reset(rig);
}

TEST(counts_load_marks_the_prompt_and_counts_the_output)
{
    rig_each(check_counts);
}
