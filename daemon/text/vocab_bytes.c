/* The vocabulary of the model echo: ids are bytes, 256 is BOS, 257 EOS. Start-up only. */
#include <errno.h>

#include "base/cleanup.h"
#include "daemon/text/vocab_internal.h"

enum { BYTES_BOS = 256, BYTES_EOS = 257, BYTES_N = 258 };

int vocab_open_bytes(struct vocab **ret)
{
    auto_call(vocab_free) struct vocab *v = NULL;
    int error = vocab_new(BYTES_N, &v);
    if (error)
        return error;
    v->kind = VOCAB_BYTE_LEVEL;
    for (int32_t id = 0; !error && id < 256; id++)
        error = vocab_set_piece(v, id, (const char[]){ (char)id }, 1, PIECE_NORMAL);
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
