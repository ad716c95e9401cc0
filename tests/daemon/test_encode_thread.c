/* The encoder's work, turned by hand: on a text, a chat, a bad one, one that was cancelled. */
#include "daemon/encode_thread.h"

#include "base/bits.h"
#include "daemon/base/arena.h"
#include "daemon/base/wake.h"
#include "daemon/format/format_error.h"
#include "daemon/text/template.h"
#include "daemon/text/vocab.h"
#include "ringlet_abi.h"
#include "tests/harness/harness.h"

enum { CONTEXT = 256, N_JOB = 4 };

static struct arena *arena;
static struct wake loop_wake;
static struct vocab *vocab;
static struct template *template;
static struct encode_thread *t;
static int32_t ids[CONTEXT + 1];

/* A model that knows so many of the vocabulary's ids. */
static void open_knowing(int32_t n_id)
{
    static const char source[] = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    struct format_error err;
    assert_ok(arena_create(64 << 20, &arena));
    assert_ok(wake_init(&loop_wake, 0));
    assert_ok(vocab_open_bytes(&vocab));
    assert_ok(template_compile(source, sizeof(source) - 1, &template, err.text, sizeof(err.text)));
    struct encode_model model = {
        .vocab = vocab, .template = template, .context = CONTEXT, .n_id = n_id
    };
    assert_ok(encode_thread_create(&model, 1, N_JOB, arena, &loop_wake, &t));
}

static void open_all(void)
{
    open_knowing(258);
}

static void close_all(void)
{
    encode_thread_stop(t);
    template_free(template);
    vocab_free(vocab);
    wake_close(&loop_wake);
    arena_free(arena);
}

static struct encode_job text_job(const char *text, size_t bytes)
{
    return (struct encode_job){ .input_kind = RINGLET_INPUT_TEXT,
                                .text = text,
                                .text_bytes = (uint32_t)bytes,
                                .ids = ids,
                                .ids_max = CONTEXT + 1 };
}

static struct encode_job chat_job(const char *records, size_t bytes)
{
    struct encode_job job = text_job(records, bytes);
    job.input_kind = RINGLET_INPUT_MESSAGES;
    return job;
}

static void encode(struct encode_job *job)
{
    encode_thread_submit(t, job);
    assert_true(encode_thread_turn(t));
    assert_false(encode_thread_turn(t));
    assert_true(encode_thread_ready(t));
    assert_ptr_equal(encode_thread_collect(t), job);
    assert_null(encode_thread_collect(t));
}

static void expect_ids(const struct encode_job *job, const char *text)
{
    assert_int_equal(job->reason, 0);
    assert_int_equal(job->n_id, strlen(text));
    for (size_t i = 0; i < strlen(text); i++)
        assert_int_equal(job->ids[i], text[i]);
}

static size_t put_record(char *to, uint8_t role, const char *text)
{
    struct ringlet_chat_record r = { .role = role, .bytes = (uint32_t)strlen(text) };
    memcpy(to, &r, sizeof(r));
    memcpy(to + sizeof(r), text, r.bytes);
    return sizeof(r) + align_up(r.bytes, 8);
}

TEST(a_text_and_a_chat_become_ids)
{
    char chat[128] = "";
    open_all();
    struct encode_job job = text_job("Gr\xc3\xbc\xc3\x9f", 6);
    encode(&job);
    assert_int_equal(job.reason, 0);
    assert_int_equal(job.n_id, 6);
    size_t n = put_record(chat, RINGLET_ROLE_SYSTEM, "be brief");
    n += put_record(chat + n, RINGLET_ROLE_USER, "why?");
    job = chat_job(chat, n);
    encode(&job);
    expect_ids(&job, "<system>be brief<user>why?");
    close_all();
}

TEST(a_chat_that_is_none_is_refused_here)
{
    char chat[128] = "";
    open_all();
    size_t n = put_record(chat, RINGLET_ROLE_USER, "why?");
    struct encode_job job = chat_job(chat, n - 1); /* it says that it is longer */
    encode(&job);
    assert_int_equal(job.reason, 0); /* but for padding */
    job = chat_job(chat, n - 5);
    encode(&job);
    assert_int_equal(job.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(job.error, RINGLET_ERROR_BAD_FIELD);
    chat[sizeof(struct ringlet_chat_record)] = (char)0xff;
    job = chat_job(chat, n);
    encode(&job);
    assert_int_equal(job.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(job.error, RINGLET_ERROR_BAD_UTF8);
    assert_int_equal(job.n_id, 0);
    chat[sizeof(struct ringlet_chat_record)] = 'w';
    job = chat_job(chat, n); /* and nothing of all that is left */
    encode(&job);
    expect_ids(&job, "<user>why?");
    close_all();
}

TEST(a_text_that_is_too_long_or_no_text_is_refused)
{
    static char text[CONTEXT + 3];
    open_all();
    memset(text, 'a', sizeof(text));
    struct encode_job job = text_job(text, sizeof(text));
    encode(&job);
    assert_int_equal(job.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(job.error, RINGLET_ERROR_TOO_LONG);
    job = text_job("\xc3(", 2);
    encode(&job);
    assert_int_equal(job.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(job.error, RINGLET_ERROR_BAD_UTF8);
    close_all();
}

TEST(a_text_and_a_chat_with_ids_beyond_the_models_are_refused)
{
    char chat[128] = "";
    open_knowing('y');
    struct encode_job job = text_job("xyz", 3);
    encode(&job);
    assert_int_equal(job.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(job.error, RINGLET_ERROR_BAD_TOKEN);
    job = text_job("uvwx", 4);
    encode(&job);
    expect_ids(&job, "uvwx");
    job = chat_job(chat, put_record(chat, RINGLET_ROLE_USER, "why?"));
    encode(&job);
    assert_int_equal(job.error, RINGLET_ERROR_BAD_TOKEN);
    close_all();
}

TEST(a_cancelled_job_comes_back_without_work)
{
    open_all();
    struct encode_job job = text_job("abc", 3);
    ids[0] = -7;
    job.cancelled = true;
    encode(&job);
    assert_int_equal(job.n_id, 0);
    assert_int_equal(ids[0], -7);
    close_all();
}

TEST(the_thread_itself_wakes_for_a_job_and_ends_with_jobs_waiting)
{
    open_all();
    struct encode_job job[N_JOB];
    assert_ok(encode_thread_start(t));
    for (int round = 0; round < 200; round++) {
        job[0] = text_job("abc", 3);
        encode_thread_submit(t, &job[0]);
        while (!encode_thread_ready(t)) {
            wake_announce(&loop_wake);
            if (!encode_thread_ready(t))
                wake_sleep(&loop_wake);
            wake_awake(&loop_wake);
        }
        assert_ptr_equal(encode_thread_collect(t), &job[0]);
        expect_ids(&job[0], "abc");
    }
    for (int i = 0; i < N_JOB; i++) {
        job[i] = text_job("abc", 3);
        encode_thread_submit(t, &job[i]);
    }
    close_all();
}
