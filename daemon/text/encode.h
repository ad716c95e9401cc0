/*
 * Text to token ids. An encoder holds all scratch for texts up to its limit, so that a call
 * allocates nothing; time is O(n log n) in the text's bytes.
 *
 * Thread: one encoder belongs to one thread (the loop has one for short texts, the encoder thread
 * one for long ones), several may share a vocabulary.
 */
#ifndef RINGLET_TEXT_ENCODE_H
#define RINGLET_TEXT_ENCODE_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct encoder;
struct vocab;

enum {
    ENCODE_SPECIAL = 1, /* control tokens count wherever they are spelled: trusted text only */
    ENCODE_BOS = 2,     /* BOS in front, if the vocabulary asks for one (vocab_add_bos) */
};

/*
 *   v           outlives the encoder
 *   bytes_max   longest text; scratch is about 70 bytes for each (three times that where the family
 *               asks for NFC, which may triple a text), touched only as far as texts need it
 *
 * Returns: 0; -ENOMEM; -EINVAL bytes_max is 0 or above 1 GiB.
 * Memory:  all of the encoder's; freed by encoder_free.
 */
int encoder_create(const struct vocab *v, size_t bytes_max, struct encoder **ret);
void encoder_free(struct encoder *e);

/*
 * How much time of its thread one call may take, for split patterns that come from a model file; at
 * first 20 ms and 1 us for each byte of the text.
 */
void encoder_set_budget(struct encoder *e, uint64_t budget_ns);

/*
 * How many ids the model knows. A tokenizer may have more: a text that needs one of those has no
 * answer, and must not come as far as a step that others share. At first all are known.
 */
void encoder_set_ids(struct encoder *e, int32_t n_id);

/*
 * Encode one text.
 *
 *   text      UTF-8, need not end in NUL; untrusted. NUL bytes are ordinary characters
 *   flags     ENCODE_*
 *   trusted   one byte for each of text, or NULL: a control token counts only where all its bytes
 *             are marked with 1 (text that a chat template wrote). Without ENCODE_SPECIAL and with
 *             NULL no control token can come out, whatever the text spells
 *   ret_ids   room for ids_max ids; undefined after an error
 *
 * Returns: 0; -EMSGSIZE longer than bytes_max; -EILSEQ not UTF-8; -E2BIG more than ids_max ids;
 *          -ETIME the pattern took too long; -ERANGE an id that the model does not know.
 * Thread:  the encoder's.  Memory: none allocated.
 */
int encode_text(struct encoder *e, const char *text, size_t bytes, unsigned flags,
                const uint8_t *trusted, int32_t *ret_ids, size_t ids_max, size_t *ret_n);

define_cleanup(struct encoder, encoder_free)

#endif
