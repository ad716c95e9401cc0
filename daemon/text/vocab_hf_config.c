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
#include "daemon/text/utf8.h"
#include "daemon/text/vocab_hf.h"

#define TEMPLATE_BYTES_MAX (1u << 20)

/* An absent file is no error: *ret stays NULL. */
static int open_optional(const char *folder, const char *name, struct hfjson **ret,
                         struct format_error *err)
{
    int error = hfjson_open(folder, name, ret, err);
    return error == -ENOENT ? 0 : error;
}

/* "<s>", or {"content": "<s>", ...}; NULL: nothing or null. */
static const char *token_text(const json_t *node)
{
    const char *text =
        json_string_value(json_is_object(node) ? json_object_get(node, "content") : node);
    return text && *text ? text : NULL;
}

/* What the file's class in transformers assumes where "bos_token" and the like are not there. */
static const char *class_token(const struct hf_loader *l, const char *key)
{
    static const struct {
        const char *class, *key, *text;
    } known[] = {
        { "LlamaTokenizer", "bos_token", "<s>" },
        { "LlamaTokenizer", "eos_token", "</s>" },
        { "CodeLlamaTokenizer", "bos_token", "<s>" },
        { "CodeLlamaTokenizer", "eos_token", "</s>" },
        { "GPT2Tokenizer", "bos_token", "<|endoftext|>" },
        { "GPT2Tokenizer", "eos_token", "<|endoftext|>" },
        { "Qwen2Tokenizer", "eos_token", "<|endoftext|>" },
    };
    const char *class;
    if (!l->config || hfjson_is_null(l->config, key) ||
        hfjson_string(l->config, "tokenizer_class", &class, NULL))
        return NULL;
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (strncmp(class, known[i].class, strlen(known[i].class)) == 0 &&
            strcmp(key, known[i].key) == 0)
            return known[i].text;
    return NULL;
}

/* The text of "bos_token" and the like, or NULL. The older file counts before the newer one. */
static const char *named_text(const struct hf_loader *l, const char *key)
{
    const char *text = l->map ? token_text(hfjson_node(l->map, key)) : NULL;
    if (text)
        return text;
    return l->config && hfjson_has(l->config, key) ? token_text(hfjson_node(l->config, key))
                                                   : class_token(l, key);
}

/* All of them, one after the other; false at the end. *ret is NULL where a name has no token. */
static bool nth_named_text(const struct hf_loader *l, size_t i, const char **ret)
{
    static const char *const keys[] = { "bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token" };
    static const char more[] = "additional_special_tokens";
    const json_t *list = l->map ? hfjson_node(l->map, more) : NULL;
    if (!list && l->config)
        list = hfjson_node(l->config, more);
    *ret = i < ARRAY_SIZE(keys) ? named_text(l, keys[i])
                                : token_text(json_array_get(list, i - ARRAY_SIZE(keys)));
    return i < ARRAY_SIZE(keys) + json_array_size(list);
}

/* Added tokens by their text, and the first id that nobody has. */
struct known {
    json_t *texts;
    json_int_t next;
};

static int know(const struct hf_loader *l, struct known *ret)
{
    const json_t *added = hfjson_node(l->json, "added_tokens");
    const char *text;
    json_t *node;
    size_t i;
    *ret = (struct known){ .texts = json_object(), .next = l->n };
    if (!ret->texts)
        return -ENOMEM;
    json_array_foreach(added, i, node)
    {
        text = json_string_value(json_object_get(node, "content"));
        if (text && json_object_set_new(ret->texts, text, json_true()))
            return -ENOMEM;
    }
    return 0;
}

/*
 * One of the folder's own, unless tokenizer.json has its text or gives its id to another. What
 * tokenizer.json has as a token of the model becomes an added token with its id there.
 */
static int keep_added(struct hf_loader *l, struct known *known, const char *text, json_int_t id,
                      const json_t *flags)
{
    if (!text || !*text || json_object_get(known->texts, text))
        return 0;
    const json_t *in_model = json_object_get(hfjson_node(l->json, "model.vocab"), text);
    if (in_model)
        id = json_integer_value(in_model);
    else if (id < l->n)
        return 0;
    json_t *token = json_copy((json_t *)(uintptr_t)flags);
    int failed = !token || json_object_set_new(token, "content", json_string(text)) ||
                 json_object_set_new(token, "id", json_integer(id)) ||
                 json_object_set_new(known->texts, text, json_true()) ||
                 json_array_append(l->more, token);
    json_decref(token);
    known->next = max_of(known->next, id + 1);
    return failed ? -ENOMEM : 0;
}

/* {"32000": {"content": "<|im_end|>", "special": true, ...}, ...} of tokenizer_config.json. */
static int keep_decoder(struct hf_loader *l, struct known *known, const json_t *decoder)
{
    const char *key;
    json_t *token;
    json_object_foreach((json_t *)(uintptr_t)decoder, key, token)
    {
        char *end;
        long id = strtol(key, &end, 10);
        if (*end || !json_is_object(token))
            return format_fail(l->err, -EINVAL,
                               "%s: \"added_tokens_decoder\" has \"%.32s\", expected ids of tokens",
                               hfjson_path(l->config), key);
        int error =
            keep_added(l, known, json_string_value(json_object_get(token, "content")), id, token);
        if (error)
            return error;
    }
    return 0;
}

static bool has_name(const struct hf_loader *l, const char *text)
{
    const char *named;
    for (size_t i = 0; nth_named_text(l, i, &named); i++)
        if (named && strcmp(named, text) == 0)
            return true;
    return false;
}

static int keep_by_text(struct hf_loader *l, struct known *known, const char *text, json_int_t id,
                        bool special)
{
    json_t *flags = json_object();
    int error = flags ? json_object_set_new(flags, "special", json_boolean(special)) : -1;
    error = error ? -ENOMEM : keep_added(l, known, text, id, flags);
    json_decref(flags);
    return error;
}

/* {"<|im_end|>": 32000, ...} of added_tokens.json: special are those that have a name. */
static int keep_older(struct hf_loader *l, struct known *known, const json_t *list)
{
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)list, text, id)
    {
        int error = keep_by_text(l, known, text, json_integer_value(id), has_name(l, text));
        if (error)
            return error;
    }
    return 0;
}

/* What has a name and no id anywhere gets the next one, in the order of transformers. */
static int keep_named(struct hf_loader *l, struct known *known)
{
    const char *text;
    for (size_t i = 0; nth_named_text(l, i, &text); i++) {
        int error = keep_by_text(l, known, text, known->next, true);
        if (error)
            return error;
    }
    return 0;
}

int hf_open_config(struct hf_loader *l, const char *folder)
{
    auto_call(hfjson_close) struct hfjson *list = NULL;
    struct known known = { 0 };
    int error = open_optional(folder, "tokenizer_config.json", &l->config, l->err);
    const json_t *decoder = l->config ? hfjson_node(l->config, "added_tokens_decoder") : NULL;
    /* beside the decoder, which newer files have, transformers reads neither of the other two */
    if (!error && !decoder)
        error = open_optional(folder, "special_tokens_map.json", &l->map, l->err);
    if (!error && !decoder)
        error = open_optional(folder, "added_tokens.json", &list, l->err);
    if (error || (!l->config && !l->map && !list))
        return error;
    l->more = json_array();
    error = l->more ? know(l, &known) : -ENOMEM;
    if (!error && decoder)
        error = keep_decoder(l, &known, decoder);
    if (!error && list)
        error = keep_older(l, &known, hfjson_node(list, NULL));
    if (!error)
        error = keep_named(l, &known);
    json_decref(known.texts);
    return error == -ENOMEM ? hf_fail(l, error, "\"added_tokens\"", "no memory") : error;
}

void hf_close_config(struct hf_loader *l)
{
    hfjson_close(l->config);
    hfjson_close(l->map);
    json_decref(l->more);
    free(l->tool_template);
}

/* The id of "bos_token" and the like, -1: none. */
static int32_t named_token(const struct hf_loader *l, const char *key)
{
    const char *text = named_text(l, key);
    return text ? hf_find(l, text) : -1;
}

static void load_tokens(struct hf_loader *l)
{
    struct vocab *v = l->v;
    bool flag;
    int32_t bos = named_token(l, "bos_token");
    v->bos = bos >= 0 ? bos : v->bos;
    v->eos = named_token(l, "eos_token");
    if (v->unk < 0)
        v->unk = named_token(l, "unk_token");
    if (l->config && hfjson_bool(l->config, "add_bos_token", &flag) == 0)
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
        if (ids[i] > INT32_MAX)
            return format_fail(l->err, -ERANGE, "%s: \"eos_token_id\" is out of range",
                               hfjson_path(config));
        if (ids[i] >= 0) /* -1 is a way to say none */
            vocab_add_eog(l->v, (int32_t)ids[i]);
    }
    if (!l->config && !l->map && l->v->bos < 0 && hfjson_i64(config, "bos_token_id", &bos) == 0 &&
        bos >= 0 && bos < l->v->n)
        l->v->bos = (int32_t)bos;
    return 0;
}

/* Of [{"name": "default", "template": text}, ...] or {"default": text, ...}; NULL: none. */
static const json_t *named_template(const json_t *node, const char *name)
{
    if (json_is_object(node))
        return json_object_get(node, name);
    for (size_t i = 0; i < json_array_size(node); i++) {
        const json_t *item = json_array_get(node, i);
        const char *is = json_string_value(json_object_get(item, "name"));
        if (is && strcmp(is, name) == 0)
            return json_object_get(item, "template");
    }
    return NULL;
}

/* A string, or several with names: then "default", else the first, and "tool_use". */
static int load_template(struct hf_loader *l, const struct hfjson *config)
{
    const json_t *node = hfjson_node(config, "chat_template"), *plain = node, *tools = NULL;
    if (json_is_array(node) || json_is_object(node)) {
        plain = named_template(node, "default");
        tools = named_template(node, "tool_use");
        if (!plain)
            plain = json_object_get(json_array_get(node, 0), "template");
    }
    if (!plain)
        return 0;
    int error = json_is_string(plain) && (!tools || json_is_string(tools))
                    ? vocab_set_template(l->v, json_string_value(plain), json_string_length(plain))
                    : -EINVAL;
    if (!error && tools && !(l->tool_template = strdup(json_string_value(tools))))
        error = -ENOMEM;
    return error
               ? format_fail(l->err, error, "%s: \"chat_template\" is no text", hfjson_path(config))
               : 0;
}

/* Text of a file of the folder, of bounded size and UTF-8; *ret stays NULL where there is none. */
static int read_template(struct hf_loader *l, const char *folder, const char *name, char **ret)
{
    auto_free char *path = NULL, *text = NULL;
    size_t bytes;
    struct format_error ignored;
    if (asprintf(&path, "%s/%s", folder, name) < 0) {
        path = NULL;
        return format_fail(l->err, -ENOMEM, "%s: no memory", folder);
    }
    int error = format_read_file(path, TEMPLATE_BYTES_MAX, &text, &bytes, &ignored);
    if (error == -ENOENT || error == -ENOTDIR)
        return 0;
    if (!error && (!utf8_valid(text, bytes) || memchr(text, 0, bytes)))
        error = -EINVAL;
    if (error)
        return format_fail(l->err, error, "%s: %s", path,
                           error == -EINVAL ? "not UTF-8" : strerror(-error));
    *ret = steal_ptr(&text);
    return 0;
}

/* chat_template.jinja takes the place of all that tokenizer_config.json has. */
static int load_template_files(struct hf_loader *l, const char *folder)
{
    auto_free char *plain = NULL, *tools = NULL;
    int error = read_template(l, folder, "chat_template.jinja", &plain);
    if (!error)
        error = read_template(l, folder, "additional_chat_templates/tool_use.jinja", &tools);
    if (error)
        return error;
    if (plain || tools) {
        free(l->tool_template);
        l->tool_template = steal_ptr(&tools);
    }
    if (plain)
        error = vocab_set_template(l->v, plain, strlen(plain));
    if (!error && l->tool_template)
        error = vocab_set_tool_template(l->v, l->tool_template, strlen(l->tool_template));
    return error ? hf_fail(l, error, "chat template", strerror(-error)) : 0;
}

int hf_load_config(struct hf_loader *l, const char *folder)
{
    auto_call(hfjson_close) struct hfjson *generation = NULL, *config = NULL;
    int error = open_optional(folder, "generation_config.json", &generation, l->err);
    if (error || (error = open_optional(folder, "config.json", &config, l->err)))
        return error;
    load_tokens(l);
    if (l->config && (error = load_template(l, l->config)))
        return error;
    if (generation && (error = load_eog(l, generation)))
        return error;
    bool listed = l->v->n_eog > 0;
    if (config && !listed && (error = load_eog(l, config)))
        return error;
    vocab_add_eog(l->v, l->v->eos); /* a chat made of a base model may still list the base's */
    if (!l->config && !l->map && l->v->eos < 0 && l->v->n_eog)
        l->v->eos = l->v->eog[0];
    return load_template_files(l, folder);
}
