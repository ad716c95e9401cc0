/*
 * Owns one encoder per model and one scratch region, cut into: template arena, rendered text,
 * trust marks, message table. All of it is sized at start.
 */
#include "daemon/encode_thread.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/base/arena.h"
#include "daemon/base/limits.h"
#include "daemon/base/log.h"
#include "daemon/base/spsc.h"
#include "daemon/base/wake.h"
#include "daemon/session/validate.h"
#include "daemon/text/encode.h"
#include "daemon/text/template.h"
#include "daemon/text/vocab.h"
#include "ringlet_abi.h"

enum { TEMPLATE_ARENA_BYTES = 16 << 20, RENDERED_MIN = 64 << 10, TEXT_PER_TOKEN = 32 };

struct encode_thread {
    struct spsc in, out;
    struct wake wake;
    struct wake *loop_wake;
    struct encode_model models[LIMIT_MODELS];
    struct encoder *encoders[LIMIT_MODELS];
    uint32_t n_model;
    void *template_arena;
    char *rendered;
    uint8_t *trusted;
    size_t rendered_max;
    struct template_message *messages;
    pthread_t thread;
    bool started;
    uint32_t stop;
};

static size_t rendered_bytes(const struct encode_model *m)
{
    return max_of((size_t)LIMIT_TEMPLATE_FACTOR * m->context, (size_t)RENDERED_MIN);
}

/* Longer texts cannot fit the context; 1 MiB is always taken, for TOKENIZE. */
static size_t text_bytes_max(const struct encode_model *m)
{
    size_t most = max_of((size_t)TEXT_PER_TOKEN * m->context, (size_t)1 << 20);
    return min_of(most, (size_t)16 << 20);
}

int encode_thread_create(const struct encode_model *models, uint32_t n_model, uint32_t n_job,
                         struct arena *arena, struct wake *loop_wake, struct encode_thread **ret)
{
    struct encode_thread *t = arena_new(arena, struct encode_thread);
    if (!t)
        return -ENOMEM;
    t->wake.fd = -1;
    t->loop_wake = loop_wake;
    t->n_model = n_model;
    for (uint32_t i = 0; i < n_model; i++) {
        t->models[i] = models[i];
        t->rendered_max = max_of(t->rendered_max, rendered_bytes(&models[i]));
    }
    t->template_arena = arena_take_lazy(arena, TEMPLATE_ARENA_BYTES);
    t->rendered = arena_take_lazy(arena, max_of(t->rendered_max, (size_t)1));
    t->trusted = arena_take_lazy(arena, max_of(t->rendered_max, (size_t)1));
    t->messages = arena_array(arena, struct template_message, RINGLET_MESSAGES_MAX);
    if (!t->template_arena || !t->rendered || !t->trusted || !t->messages)
        return -ENOMEM;
    int error = spsc_init(&t->in, arena, n_job);
    if (!error)
        error = spsc_init(&t->out, arena, n_job);
    if (!error)
        error = wake_init(&t->wake, 0);
    for (uint32_t i = 0; i < n_model && !error; i++) {
        error = encoder_create(models[i].vocab, text_bytes_max(&models[i]), &t->encoders[i]);
        if (!error)
            encoder_set_ids(t->encoders[i], models[i].n_id);
    }
    *ret = t;
    return error;
}

void encode_fault(int error, uint16_t *ret_reason, uint32_t *ret_error)
{
    *ret_reason = RINGLET_REASON_REJECTED;
    switch (-error) {
    case EILSEQ:
        *ret_error = RINGLET_ERROR_BAD_UTF8;
        break;
    case E2BIG:
    case EMSGSIZE:
    case ENOSPC:
        *ret_error = RINGLET_ERROR_TOO_LONG;
        break;
    case ERANGE:
        *ret_error = RINGLET_ERROR_BAD_TOKEN;
        break;
    default:
        *ret_reason = RINGLET_REASON_ERROR_REQUEST;
        *ret_error = RINGLET_ERROR_BAD_FIELD;
    }
}

static void encode(struct encode_thread *t, struct encode_job *job, const char *text, size_t bytes,
                   const uint8_t *trusted, unsigned flags)
{
    size_t n = 0;
    int error = encode_text(t->encoders[job->model], text, bytes, flags, trusted, job->ids,
                            job->ids_max, &n);
    job->n_id = (uint32_t)n;
    if (error)
        encode_fault(error, &job->reason, &job->error);
}

/* Validated chat records to what a template sees. */
static void read_chat(struct encode_thread *t, const struct encode_job *job,
                      struct template_input *in)
{
    static const char *const roles[] = { "system", "user", "assistant", "tool" };
    *in = (struct template_input){ .messages = t->messages, .add_generation_prompt = true };
    for (size_t at = 0; at < job->text_bytes;) {
        struct ringlet_chat_record r;
        memcpy(&r, job->text + at, sizeof(r));
        const char *text = job->text + at + sizeof(r);
        at += sizeof(r) + align_up(r.bytes, 8);
        if (r.kind == RINGLET_CHAT_TOOLS) {
            in->tools_json = text;
            in->tools_json_bytes = r.bytes;
        } else if (r.kind == RINGLET_CHAT_ARGUMENTS) {
            in->args_json = text;
            in->args_json_bytes = r.bytes;
        } else {
            t->messages[in->n_message++] = (struct template_message){
                .role = roles[r.role],
                .role_bytes = strlen(roles[r.role]),
                .role_trusted = true,
                .content = text,
                .content_bytes = r.bytes,
            };
            in->continue_final = r.flags & RINGLET_CHAT_CONTINUE;
        }
    }
    in->add_generation_prompt = !in->continue_final;
    time_t now = time(NULL);
    struct tm local;
    in->now_local_s = (int64_t)now;
    if (localtime_r(&now, &local))
        in->now_local_s += local.tm_gmtoff;
}

/* A control token as the template's bos_token and eos_token: NUL-terminated. */
static const char *special_text(const struct vocab *v, int32_t id, char *to, size_t room)
{
    size_t n = 0;
    const char *text = id >= 0 ? vocab_piece(v, id, &n) : "";
    n = min_of(n, room - 1);
    memcpy(to, text, n);
    to[n] = 0;
    return to;
}

static void encode_chat(struct encode_thread *t, struct encode_job *job)
{
    const struct encode_model *m = &t->models[job->model];
    struct template_input in;
    char bos[PIECE_BYTES_MAX + 1], eos[PIECE_BYTES_MAX + 1], why[160];
    size_t bytes = 0;
    read_chat(t, job, &in);
    in.bos_token = special_text(m->vocab, vocab_bos(m->vocab), bos, sizeof(bos));
    in.eos_token = special_text(m->vocab, vocab_eos(m->vocab), eos, sizeof(eos));
    int error =
        template_render(m->template, &in, t->template_arena, TEMPLATE_ARENA_BYTES, t->rendered,
                        t->trusted, rendered_bytes(m), &bytes, why, sizeof(why));
    if (error == -ENOSPC) {
        job->reason = RINGLET_REASON_REJECTED;
        job->error = RINGLET_ERROR_TOO_LONG;
    } else if (error) {
        job->reason = RINGLET_REASON_ERROR_REQUEST;
        job->error = RINGLET_ERROR_BAD_TEMPLATE;
        log_debug(TEXT, "model %u: a chat was refused: %s", (unsigned)job->model, why);
    } else {
        encode(t, job, t->rendered, bytes, t->trusted, 0);
    }
}

static void work(struct encode_thread *t, struct encode_job *job)
{
    job->reason = 0;
    job->n_id = 0;
    if (load_once(&job->cancelled))
        return;
    unsigned flags = (job->parse_special ? ENCODE_SPECIAL : 0u) | (job->add_bos ? ENCODE_BOS : 0u);
    struct validate_fault fault;
    if (job->input_kind != RINGLET_INPUT_MESSAGES) {
        encode(t, job, job->text, job->text_bytes, NULL, flags);
    } else if (validate_chat(job->text, job->text_bytes, &fault)) {
        encode_chat(t, job);
    } else {
        job->reason = RINGLET_REASON_REJECTED;
        job->error = fault.error;
    }
}

bool encode_thread_turn(struct encode_thread *t)
{
    struct encode_job *job = spsc_pop(&t->in);
    if (!job)
        return false;
    work(t, job);
    spsc_push(&t->out, job); /* as many places as jobs */
    wake_ring(t->loop_wake);
    return true;
}

static void *run(void *arg)
{
    struct encode_thread *t = arg;
    pthread_setname_np(pthread_self(), "encoder");
    log_attach(1);
    while (!load_acquire(&t->stop)) { /* pairs with store_release in encode_thread_stop */
        if (encode_thread_turn(t))
            continue;
        wake_announce(&t->wake);
        if (spsc_peek(&t->in) || load_acquire(&t->stop)) /* pairs as the one above */
            wake_awake(&t->wake);
        else
            wake_sleep(&t->wake);
    }
    return NULL;
}

int encode_thread_start(struct encode_thread *t)
{
    int error = -pthread_create(&t->thread, NULL, run, t);
    t->started = !error;
    return error;
}

void encode_thread_stop(struct encode_thread *t)
{
    if (!t)
        return;
    if (t->started) {
        store_release(&t->stop, 1); /* pairs with load_acquire in run */
        wake_ring(&t->wake);
        pthread_join(t->thread, NULL);
        t->started = false;
    }
    for (uint32_t i = 0; i < t->n_model; i++)
        encoder_free(t->encoders[i]);
    t->n_model = 0;
    wake_close(&t->wake);
}

void encode_thread_submit(struct encode_thread *t, struct encode_job *job)
{
    bool pushed = spsc_push(&t->in, job);
    assert(pushed); /* as many places as requests */
    wake_ring(&t->wake);
}

struct encode_job *encode_thread_collect(struct encode_thread *t)
{
    return spsc_pop(&t->out);
}

bool encode_thread_ready(const struct encode_thread *t)
{
    return spsc_peek(&t->out) != NULL;
}
