/* End ids and beginnings of a checkpoint: which of its files says them. */
#include "daemon/model/model_meta.h"

#include <stdio.h>

#include "daemon/model/model.h"
#include "kernels/backend.h"
#include "tests/harness/harness.h"

enum { VOCAB = 160 };

static void write_json(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", harness_tmpdir(), name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* What is made of more keys in either file; want: bos, then the end ids, -1 last. */
static void expect_ids(const char *config, const char *generation, const int *want)
{
    char text[512], why[256];
    struct format_error err = { "" };
    const struct backend *cpu;
    struct model *m;
    struct model_source source = { .path = harness_tmpdir(), .dummy = true };
    snprintf(text, sizeof(text),
             "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64, "
             "\"intermediate_size\": 96, \"num_hidden_layers\": 1, \"num_attention_heads\": 4, "
             "\"vocab_size\": %d, \"max_position_embeddings\": 256%s}",
             VOCAB, config);
    write_json("config.json", text);
    write_json("generation_config.json", generation);
    assert_ok(backend_find("cpu", &cpu, why, sizeof(why)));
    if (model_open(cpu, NULL, &source, NULL, &m, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(m->info.bos_id, want[0]);
    int n = 0;
    for (; want[1 + n] >= 0; n++)
        assert_int_equal(m->info.eos_ids[n], want[1 + n]);
    assert_int_equal(m->info.n_eos_id, n);
    model_close(m);
}

TEST(model_meta_takes_ends_from_generation_config)
{
    expect_ids("", "{}", (const int[]){ -1, -1 });
    expect_ids(", \"bos_token_id\": 1, \"eos_token_id\": 2",
               "{\"bos_token_id\": 3, \"eos_token_id\": [5, 4, 5]}", (const int[]){ 3, 5, 4, -1 });
}

/* A chat model's list need not have the base model's end, and may say nothing of a beginning. */
TEST(model_meta_takes_each_from_config_where_generation_config_has_none)
{
    static const char both[] = ", \"bos_token_id\": 1, \"eos_token_id\": 2";
    expect_ids(both, "{}", (const int[]){ 1, 2, -1 });
    expect_ids(both, "{\"eos_token_id\": 5}", (const int[]){ 1, 5, -1 });
    expect_ids(both, "{\"bos_token_id\": 3}", (const int[]){ 3, 2, -1 });
    expect_ids(both, "{\"eos_token_id\": null}", (const int[]){ 1, 2, -1 });
}

TEST(model_meta_leaves_out_ids_that_the_model_cannot_give)
{
    expect_ids(", \"eos_token_id\": [2, -7]", "{\"bos_token_id\": 160, \"eos_token_id\": [160, 5]}",
               (const int[]){ -1, 5, -1 });
}
