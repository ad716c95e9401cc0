#include "tests/daemon/exec/golden.h"

#include <jansson.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/compiler.h"
#include "config.h"
#include "tests/harness/harness.h"

extern char **environ;

#define VECTORS RINGLET_SOURCE_ROOT "/tests/vectors/"

const char *golden_device(void)
{
    const char *device = getenv("RINGLET_TEST_DEVICE");
    if (!device || !*device || strcmp(device, "cpu") == 0)
        return "cpu";
    harness_allow_descriptors();
    return device;
}

static json_t *golden_open(const char *file)
{
    char path[512];
    json_error_t error;
    snprintf(path, sizeof(path), "%s%s", VECTORS, file);
    json_t *root = json_load_file(path, 0, &error);
    if (!root)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return root;
}

int golden_names(const char *file, const char *prefix, char names[][64], int max)
{
    json_t *root = golden_open(file), *value;
    const char *key;
    int n = 0;
    json_object_foreach(root, key, value) if (json_is_object(value) &&
                                              strncmp(key, prefix, strlen(prefix)) == 0 && n < max)
        snprintf(names[n++], 64, "%s", key);
    json_decref(root);
    return n;
}

void golden_load(const char *file, const char *name, struct golden *ret)
{
    json_t *root = golden_open(file);
    json_t *entry = json_object_get(root, name);
    json_t *ids = json_object_get(entry, "ids"), *top = json_object_get(entry, "top");
    if (!json_is_array(ids) || json_array_size(top) != json_array_size(ids) ||
        json_array_size(ids) > GOLDEN_IDS_MAX)
        fail_msg("%s has no usable case %s", file, name);
    ret->n = (int)json_array_size(ids);
    ret->kl_bf16 = json_number_value(json_object_get(entry, "kl_bf16"));
    ret->kl_f16 = json_number_value(json_object_get(entry, "kl_f16"));
    for (int i = 0; i < ret->n; i++) {
        json_t *row = json_array_get(top, (size_t)i);
        ret->ids[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
        for (size_t j = 0; j < GOLDEN_TOP; j++) {
            json_t *id = json_array_get(json_array_get(row, 0), j);
            json_t *logprob = json_array_get(json_array_get(row, 1), j);
            assert_true(json_is_integer(id) && json_is_number(logprob));
            ret->top_id[i][j] = (int32_t)json_integer_value(id);
            ret->top_logprob[i][j] = (float)json_number_value(logprob);
        }
    }
    json_decref(root);
}

const char *golden_weights(const char *name)
{
    static char path[512];
    char script[] = VECTORS "tiny.py", python[] = "python3", case_name[64];
    snprintf(path, sizeof(path), "%s/%s", harness_tmpdir(), name);
    snprintf(case_name, sizeof(case_name), "%s", name);
    char *argv[] = { python, script, case_name, path, NULL };
    pid_t pid;
    int status;
    if (posix_spawnp(&pid, python, NULL, NULL, argv, environ) != 0) {
        print_message("python3 is not there\n");
        skip();
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return path;
}

/*
 * Kullback-Leibler divergence over the reference's 20 best, both sides made to add up to 1 there.
 */
static void golden_add(const float *want, const struct step_token *have, int n,
                       struct golden_result *ret)
{
    double sum_p = 0, sum_q = 0, kl = 0;
    for (int j = 0; j < GOLDEN_TOP; j++) {
        double p = (double)want[j], q = (double)have[j].logprob;
        assert_true(isfinite(q));
        ret->diff_max = fmax(ret->diff_max, fabs(p - q));
        sum_p += exp(p);
        sum_q += exp(q);
        kl += exp(p) * (p - q);
    }
    ret->kl_mean += (kl / sum_p + log(sum_q / sum_p)) / n;
}

/* Log-probabilities of the reference's 20 best ids after every prefix: 20 score rows each. */
void golden_compare(struct runner *r, const struct golden *g, struct golden_result *ret)
{
    *ret = (struct golden_result){ 0 };
    int chunk = min_of(r->model.limits.rows_max, r->model.limits.samples_max / GOLDEN_TOP);
    if (r->chunk)
        chunk = min_of(chunk, r->chunk);
    for (int first = 0; first < g->n; first += chunk) {
        int n = min_of(chunk, g->n - first);
        struct step *step = runner_step(r);
        runner_add_seq(r, step, g->ids + first, first, n, g->n);
        for (int i = 0; i < n * GOLDEN_TOP; i++) {
            runner_add_sample(step, i / GOLDEN_TOP, first + i / GOLDEN_TOP);
            step->sample[i].flags = STEP_SAMPLE_SCORE | STEP_SAMPLE_LOGPROBS;
            step->sample[i].score_id = g->top_id[first + i / GOLDEN_TOP][i % GOLDEN_TOP];
        }
        assert_ok(runner_run(r, step));
        for (int i = 0; i < n; i++)
            golden_add(g->top_logprob[first + i], &step->result[i * GOLDEN_TOP], g->n, ret);
    }
}
