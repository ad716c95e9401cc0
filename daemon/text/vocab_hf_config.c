/*
 * Owns what the files beside tokenizer.json say: special ids, the ids that end a generation, the
 * chat template. All of them may be absent. Start-up only.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/format/format_file.h"
#include "daemon/format/hfjson.h"
#include "daemon/text/vocab_hf.h"

#define TEMPLATE_BYTES_MAX (1u << 20)

/* An absent file is no error: *ret stays NULL. */
static int open_optional(const char *folder, const char *name, struct hfjson **ret,
                         struct format_error *err)
{
    int error = hfjson_open(folder, name, ret, err);
    return error == -ENOENT ? 0 : error;
}

/* "bos_token": "<s>", or {"content": "<s>", ...}. */
static int32_t named_token(const struct hf_loader *l, const struct hfjson *config, const char *key)
{
    char path[64];
    const char *text;
    snprintf(path, sizeof(path), "%s.content", key);
    if (hfjson_string(config, key, &text, NULL) && hfjson_string(config, path, &text, NULL))
        return -1;
    return hf_find(l, text);
}

static void load_tokens(struct hf_loader *l, const struct hfjson *config)
{
    struct vocab *v = l->v;
    bool flag;
    int32_t bos = named_token(l, config, "bos_token");
    v->bos = bos >= 0 ? bos : v->bos;
    v->eos = named_token(l, config, "eos_token");
    if (v->unk < 0)
        v->unk = named_token(l, config, "unk_token");
    if (hfjson_bool(config, "add_bos_token", &flag) == 0)
        v->add_bos = flag;
}

/* eos_token_id of generation_config.json or config.json. */
static int load_eog(struct hf_loader *l, const struct hfjson *config)
{
    int64_t ids[VOCAB_EOG_MAX], bos;
    size_t n = 0;
    int error = hfjson_ids(config, "eos_token_id", ids, VOCAB_EOG_MAX, &n);
    if (error && error != -ENOENT)
        return format_fail(l->err, error,
                           "%s: \"eos_token_id\" is no id and no list of up to %d ids",
                           hfjson_path(config), VOCAB_EOG_MAX);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] > INT32_MAX)
            return format_fail(l->err, -ERANGE, "%s: \"eos_token_id\" is out of range",
                               hfjson_path(config));
        vocab_add_eog(l->v, (int32_t)ids[i]);
    }
    if (l->v->bos < 0 && hfjson_i64(config, "bos_token_id", &bos) == 0 && bos >= 0 && bos < l->v->n)
        l->v->bos = (int32_t)bos;
    return 0;
}

/* A string, or a list of {name, template}: then the one named "default", else the first. */
static int load_template(struct hf_loader *l, const struct hfjson *config)
{
    const json_t *node = hfjson_node(config, "chat_template");
    if (json_is_array(node)) {
        const json_t *list = node, *item;
        node = json_object_get(json_array_get(list, 0), "template");
        for (size_t i = 0; i < json_array_size(list); i++) {
            item = json_array_get(list, i);
            const char *name = json_string_value(json_object_get(item, "name"));
            if (name && strcmp(name, "default") == 0)
                node = json_object_get(item, "template");
        }
    }
    if (!node)
        return 0;
    int error = json_is_string(node)
                    ? vocab_set_template(l->v, json_string_value(node), json_string_length(node))
                    : -EINVAL;
    return error
               ? format_fail(l->err, error, "%s: \"chat_template\" is no text", hfjson_path(config))
               : 0;
}

static int load_template_file(struct hf_loader *l, const char *folder)
{
    auto_free char *path = NULL, *text = NULL;
    size_t bytes;
    struct format_error ignored;
    if (asprintf(&path, "%s/chat_template.jinja", folder) < 0) {
        path = NULL;
        return format_fail(l->err, -ENOMEM, "%s: no memory", folder);
    }
    int error = format_read_file(path, TEMPLATE_BYTES_MAX, &text, &bytes, &ignored);
    if (error == -ENOENT)
        return 0;
    if (!error)
        error = vocab_set_template(l->v, text, bytes);
    return error ? format_fail(l->err, error, "%s: %s", path,
                               error == -EINVAL ? "not UTF-8" : strerror(-error))
                 : 0;
}

int hf_load_config(struct hf_loader *l, const char *folder)
{
    auto_call(hfjson_close) struct hfjson *tokenizer = NULL, *generation = NULL, *config = NULL;
    int error = open_optional(folder, "tokenizer_config.json", &tokenizer, l->err);
    if (error || (error = open_optional(folder, "generation_config.json", &generation, l->err)) ||
        (error = open_optional(folder, "config.json", &config, l->err)))
        return error;
    if (tokenizer) {
        load_tokens(l, tokenizer);
        if ((error = load_template(l, tokenizer)))
            return error;
    }
    if (generation && (error = load_eog(l, generation)))
        return error;
    bool listed = l->v->n_eog > 0;
    if (config && !listed && (error = load_eog(l, config)))
        return error;
    vocab_add_eog(l->v, l->v->eos); /* a chat made of a base model may still list the base's */
    if (l->v->eos < 0 && l->v->n_eog)
        l->v->eos = l->v->eog[0];
    return load_template_file(l, folder);
}
