/* What the three files that read Hugging Face tokenizers share. Start-up only. */
#ifndef RINGLET_TEXT_VOCAB_HF_H
#define RINGLET_TEXT_VOCAB_HF_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/text/vocab_internal.h"

struct hfjson;

struct hf_loader {
    const struct hfjson *json; /* tokenizer.json */
    struct hfjson *config;     /* tokenizer_config.json, NULL: not there */
    struct hfjson *map;        /* special_tokens_map.json, where it counts */
    char *tool_template;       /* in place of the other where there are tools, or NULL */
    json_t *more;              /* added tokens that only the files beside tokenizer.json have */
    int32_t n;                 /* ids so far: those of tokenizer.json, then those of more too */
    struct vocab *v;
    struct format_error *err;
};

struct hf_text {
    const char *text;
    size_t bytes;
};

/* A message about tokenizer.json; returns rc. */
int hf_fail(const struct hf_loader *l, int rc, const char *what, const char *why);
/* "type" of an object; "" when there is none. */
const char *hf_type(const json_t *node);
/* The id of an added or model token by its text as written in the file, or -1. */
int32_t hf_find(const struct hf_loader *l, const char *text);

/* Normalizer, pre-tokenizer and post-processor: kind, nfc, space, metaspace, pre, add_bos, bos. */
int hf_load_steps(struct hf_loader *l);
/* Opens config, map and more; NULL where the folder has none of it. hf_close_config frees them. */
int hf_open_config(struct hf_loader *l, const char *folder);
void hf_close_config(struct hf_loader *l);
/* Special ids, ends of generation and chat template, from the files beside tokenizer.json. */
int hf_load_config(struct hf_loader *l, const char *folder);

/*
 * A vocabulary from the text of a tokenizer.json alone. For tests and fuzzing.
 *
 *   name   stands for the path in messages
 *
 * Returns: as vocab_open_hf.
 */
int vocab_open_hf_memory(const char *json, size_t bytes, const char *name, struct vocab **ret,
                         struct format_error *err);

#endif
