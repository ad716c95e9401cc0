/*
 * Any template over any input ends within its budgets. The bytes are a template up to the first
 * 0 byte, then template arguments as JSON up to the next, then messages as JSON. Oracles: steps
 * and arena bound the time (a run over 2 s fails), the output is as long as it says, marks are 0
 * or 1, an error leaves one terminated line.
 */
#include "daemon/text/template.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OUT_MAX   (64u << 10)
#define ARENA_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static const char *part(const uint8_t **data, size_t *left, size_t *ret_bytes)
{
    const uint8_t *from = *data, *end = *left ? memchr(from, 0, *left) : NULL;
    *ret_bytes = end ? (size_t)(end - from) : *left;
    size_t used = *ret_bytes + (end != NULL);
    *data += used;
    *left -= used;
    return (const char *)from;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(8) char arena[ARENA_MAX];
    static char out[OUT_MAX];
    static uint8_t trusted[OUT_MAX];
    static const struct template_message message = {
        .role = "user", .role_bytes = 4, .content = "Hi \xc3\xa4", .content_bytes = 5
    };
    char err[200];
    struct template *t;
    size_t source_bytes, bytes = 0;
    memset(err, 'x', sizeof(err));
    const char *source = part(&data, &size, &source_bytes);
    if (template_compile(source, source_bytes, &t, err, sizeof(err)) < 0) {
        assert(memchr(err, 0, sizeof(err)));
        return 0;
    }
    struct template_input in = { .messages = &message,
                                 .n_message = 1,
                                 .bos_token = "<s>",
                                 .eos_token = "</s>",
                                 .add_generation_prompt = true,
                                 .steps_max = 200000 };
    if (size > 0)
        in.args_json = part(&data, &size, &in.args_json_bytes);
    if (size > 0)
        in.messages_json = part(&data, &size, &in.messages_json_bytes);
    double start = seconds();
    int error = template_render(t, &in, arena, sizeof(arena), out, trusted, sizeof(out), &bytes,
                                err, sizeof(err));
    assert(seconds() - start < 2.0);
    assert(error == 0 || memchr(err, 0, sizeof(err)));
    assert(bytes <= sizeof(out) && (error == 0 || bytes == 0));
    for (size_t i = 0; i < bytes; i++)
        assert(trusted[i] <= 1);
    template_free(t);
    return 0;
}
