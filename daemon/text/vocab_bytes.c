/*
 * Vocabularies whose ids are bytes: the model echo's, which has BOS and EOS as well, and that of a
 * model whose folder has no tokenizer. Start-up only.
 */
#include <errno.h>

#include "base/cleanup.h"
#include "daemon/text/vocab_internal.h"

enum { BYTES_BOS = 256, BYTES_EOS = 257, BYTES_N = 258 };

/* n ids, of which the first 256 are bytes. */
static int new_bytes(int32_t n, struct vocab **ret)
{
    auto_call(vocab_free) struct vocab *v = NULL;
    int error = vocab_new(n, &v);
    if (error)
        return error;
    v->kind = VOCAB_BYTE_LEVEL;
    for (int32_t id = 0; !error && id < 256; id++)
        error = vocab_set_piece(v, id, (const char[]){ (char)id }, 1, PIECE_NORMAL);
    if (!error)
        *ret = steal_ptr(&v);
    return error;
}

int vocab_open_raw_bytes(struct vocab **ret)
{
    auto_call(vocab_free) struct vocab *v = NULL;
    int error = new_bytes(256, &v);
    if (!error)
        error = vocab_index(v);
    if (!error)
        error = vocab_reserve_merges(v, 1);
    if (!error)
        *ret = steal_ptr(&v);
    return error;
}

int vocab_open_bytes(struct vocab **ret)
{
    auto_call(vocab_free) struct vocab *v = NULL;
    int error = new_bytes(BYTES_N, &v);
    if (!error)
        error = vocab_set_piece(v, BYTES_BOS, "<bos>", 5, PIECE_CONTROL);
    if (!error)
        error = vocab_set_piece(v, BYTES_EOS, "<eos>", 5, PIECE_CONTROL);
    if (!error)
        error = vocab_index(v);
    if (!error)
        error = vocab_reserve_merges(v, 1);
    if (!error)
        error = vocab_add_special(v, BYTES_BOS, SPECIAL_CONTROL);
    if (!error)
        error = vocab_add_special(v, BYTES_EOS, SPECIAL_CONTROL);
    if (error)
        return error;
    v->bos = BYTES_BOS;
    v->eos = BYTES_EOS;
    vocab_add_eog(v, BYTES_EOS);
    *ret = steal_ptr(&v);
    return 0;
}
