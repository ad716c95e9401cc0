/*
 * Chat records as a client wrote them, through the encoder's own work: whatever they are, they
 * become ids of the vocabulary or are refused with a reason, and nothing outside of them is read.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/arena.h"
#include "daemon/base/wake.h"
#include "daemon/encode_thread.h"
#include "daemon/text/template.h"
#include "daemon/text/vocab.h"
#include "ringlet_abi.h"
#include "tests/fuzz/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CONTEXT = 512 };

static struct arena *arena;
static struct encode_thread *t;
static struct encode_model model = { .context = CONTEXT };

/* What hangs on an arena no leak checker sees. */
static void close_all(void)
{
    encode_thread_stop(t);
    arena_free(arena);
}

static void open_all(void)
{
    static const char source[] = "{{ bos_token }}{% for m in messages %}{% if loop.first and "
                                 "m.role != 'system' %}-{% endif %}"
                                 "<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
                                 "{% for tool in tools or [] %}[{{ tool.name }}]{% endfor %}"
                                 "{% if add_generation_prompt %}<assistant>{% endif %}";
    static struct wake wake;
    struct template *template;
    struct vocab *vocab;
    char why[200];
    MUST(arena_create(64 << 20, &arena) == 0);
    MUST(wake_init(&wake, 0) == 0);
    MUST(vocab_open_bytes(&vocab) == 0);
    MUST(template_compile(source, sizeof(source) - 1, &template, why, sizeof(why)) == 0);
    model.vocab = vocab;
    model.template = template;
    MUST(encode_thread_create(&model, 1, 1, arena, &wake, &t) == 0);
    MUST(atexit(close_all) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int32_t ids[CONTEXT + 1];
    if (!t)
        open_all();
    if (size == 0)
        return 0;               /* refused as it is taken from the ring */
    char *exact = malloc(size); /* so that a byte too far is seen */
    MUST(exact);
    memcpy(exact, data, size);
    struct encode_job job = { .input_kind = RINGLET_INPUT_MESSAGES,
                              .text = exact,
                              .text_bytes = (uint32_t)size,
                              .ids = ids,
                              .ids_max = CONTEXT + 1 };
    encode_thread_submit(t, &job);
    MUST(encode_thread_turn(t) && encode_thread_collect(t) == &job);
    if (job.reason) {
        MUST(job.reason == RINGLET_REASON_REJECTED || job.reason == RINGLET_REASON_ERROR_REQUEST);
        MUST(job.error != 0 && job.error <= RINGLET_ERROR_DRAINING);
    } else {
        MUST(job.n_id <= CONTEXT + 1);
        for (uint32_t i = 0; i < job.n_id; i++)
            MUST(ids[i] >= 0 && (size_t)ids[i] < vocab_size(model.vocab));
    }
    free(exact);
    return 0;
}
