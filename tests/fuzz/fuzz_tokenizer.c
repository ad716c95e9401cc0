/*
 * tokenizer.json, NUL, a text: a vocabulary that opens must encode any text in bounded time, give
 * ids of its own, no control token from untrusted text, and text again from ids. Without NUL the
 * input is a text for a vocabulary that is made here.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "daemon/text/detokenize.h"
#include "daemon/text/encode.h"
#include "daemon/text/utf8.h"
#include "daemon/text/vocab_hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT_MAX = 4096, IDS_MAX = 4 * TEXT_MAX };

static const char fixed[] = "{\"added_tokens\":[{\"id\":3,\"content\":\"<|end|>\",\"special\":true}"
                            "],\"normalizer\":{\"type\":\"NFC\"},"
                            "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                            "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<\":4,\"|\":5,\"e\":"
                            "6,\"n\":7,\"d\":8},\"merges\":[\"a b\"]}}";

static void check_ids(const struct vocab *v, const int32_t *ids, size_t n, bool trusted)
{
    for (size_t i = 0; i < n; i++) {
        assert(ids[i] >= 0 && ids[i] < vocab_size(v));
        assert(trusted || !vocab_is_control(v, ids[i]) ||
               (ids[i] == vocab_unk(v) && !vocab_is_eog(v, ids[i])));
    }
}

static void check_text(const struct vocab *v, const char *text, size_t bytes)
{
    static int32_t ids[IDS_MAX];
    static char out[DETOK_OUT_MAX];
    struct encoder *e;
    struct detok_stops stops = { 0 };
    struct detok d;
    size_t n;
    int stop;
    if (encoder_create(v, TEXT_MAX, &e))
        return;
    encoder_set_budget(e, 20000000);
    for (int trusted = 0; trusted < 2; trusted++) {
        int rc = encode_text(e, text, bytes, trusted ? ENCODE_SPECIAL | ENCODE_BOS : 0, NULL, ids,
                             IDS_MAX, &n);
        assert(rc == 0 || rc == -EILSEQ || rc == -E2BIG || rc == -ETIME);
        assert((rc == -EILSEQ) == !utf8_valid(text, bytes));
        if (rc == 0)
            check_ids(v, ids, n, trusted);
        if (detok_stops_add(&stops, text,
                            bytes < 9 ? bytes : 9)) /* fails where it cuts a character */
            stops.n = 0;
        detok_init(&d, &stops, trusted ? DETOK_SPECIAL : DETOK_AT_START);
        for (size_t i = 0; rc == 0 && i < n; i++) {
            size_t got;
            assert(detok_push(&d, v, ids[i], out, sizeof(out), &got, &stop) == 0);
            assert(got <= sizeof(out) && utf8_valid(out, got));
        }
    }
    encoder_free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct format_error err = { "" };
    struct vocab *v = NULL;
    const uint8_t *nul = memchr(data, 0, size);
    const char *text = nul ? (const char *)nul + 1 : (const char *)data;
    size_t json_bytes = nul ? (size_t)(nul - data) : 0, bytes = nul ? size - json_bytes - 1 : size;
    const char *json = nul ? (const char *)data : fixed;
    if (vocab_open_hf_memory(json, nul ? json_bytes : sizeof(fixed) - 1, "fuzz.json", &v, &err)) {
        assert(!v && err.text[0]);
        return 0;
    }
    check_text(v, text, bytes < TEXT_MAX ? bytes : TEXT_MAX);
    vocab_free(v);
    return 0;
}
