/*
 * A vocabulary: token ids, their bytes, merges, special tokens, split patterns and chat template.
 * Made at start-up from a model file, never changed afterwards.
 *
 * Thread: any thread may read an open vocabulary; making and freeing one allocates.
 */
#ifndef RINGLET_TEXT_VOCAB_H
#define RINGLET_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "daemon/format/format_error.h"

struct gguf;
struct vocab;

/* A longer token is refused when the vocabulary is opened: buffers can be sized by it. */
enum { PIECE_BYTES_MAX = 1024 };
enum { VOCAB_EOG_MAX = 16 };

/*
 * From the metadata of a GGUF file (tensors are not looked at): models "gpt2" (byte-level BPE with
 * the split patterns that tokenizer.ggml.pre names) and "llama" (SentencePiece BPE).
 *
 *   g      may be closed afterwards
 *   ret    owned by the caller: vocab_free
 *
 * Returns: 0; -ENOENT a key is missing; -EINVAL, -ERANGE something in it is wrong; -ENOTSUP a kind
 *          of tokenizer that is not read; -ENOMEM.
 */
int vocab_open_gguf(const struct gguf *g, struct vocab **ret, struct format_error *err);

/*
 * From a Hugging Face checkpoint folder: tokenizer.json, and what tokenizer_config.json (without
 * added_tokens_decoder: special_tokens_map.json and added_tokens.json, too),
 * generation_config.json, config.json, chat_template.jinja and additional_chat_templates beside it
 * say, where they are there.
 *
 * Returns: as vocab_open_gguf.
 */
int vocab_open_hf(const char *folder, struct vocab **ret, struct format_error *err);

/* Ids are bytes, 256 is BOS, 257 EOS: the vocabulary of the model echo. Returns: 0; -ENOMEM. */
int vocab_open_bytes(struct vocab **ret);

/* Ids below 256 are bytes and none is special: for weights without a tokenizer. Returns: 0;
 * -ENOMEM. */
int vocab_open_raw_bytes(struct vocab **ret);

void vocab_free(struct vocab *v);

int32_t vocab_size(const struct vocab *v);

/* Special ids; -1 where the vocabulary has none. */
int32_t vocab_bos(const struct vocab *v);
int32_t vocab_eos(const struct vocab *v);
int32_t vocab_unk(const struct vocab *v);
/* Does a plain prompt begin with BOS? */
bool vocab_add_bos(const struct vocab *v);
/* Every id that ends a generation; *ret_ids lives as long as v. Returns how many, up to
 * VOCAB_EOG_MAX. */
size_t vocab_eog(const struct vocab *v, const int32_t **ret_ids);
bool vocab_is_eog(const struct vocab *v, int32_t id);

/*
 * The raw bytes of a token: the space marker of SentencePiece is a space here, a byte token is its
 * byte, bytes need not be whole UTF-8. Not NUL-terminated. An id outside of the vocabulary (padding
 * rows of the output matrix) gives "" and length 0.
 */
const char *vocab_piece(const struct vocab *v, int32_t id, size_t *ret_bytes);

/* Control tokens give no text and come from trusted text only. False for ids outside. */
bool vocab_is_control(const struct vocab *v, int32_t id);

/*
 * The id whose literal text is this, control and added tokens included; -1 if there is none.
 * SentencePiece's space marker is written as a space.
 */
int32_t vocab_find(const struct vocab *v, const char *text, size_t bytes);

/* Does text of its own get a space in front (SentencePiece), which detokenizing takes off again? */
bool vocab_adds_space(const struct vocab *v);

/* The chat template, UTF-8, NUL-terminated; NULL when there is none. As the file has it, or, where
 * the file has one for tools, both in an if. */
const char *vocab_template(const struct vocab *v);

define_cleanup(struct vocab, vocab_free)

#endif
