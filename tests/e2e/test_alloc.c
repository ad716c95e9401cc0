/*
 * In steady state nobody allocates: not the loop, not the executor, not even the encoder, whose
 * scratch is sized at start. Shown by an allocator in front of the daemon's own that counts.
 */
#include "tests/e2e/e2e.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/e2e/alloc_guard.h"

static struct e2e_daemon d;
static struct e2e_answer a;
static char text[6001];

static struct alloc_guard *open_guard(void)
{
    char path[160];
    const char *library = getenv("ALLOC_GUARD_LIBRARY");
    if (!library)
        skip();
    snprintf(path, sizeof(path), "%s/guard", harness_tmpdir());
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    assert_int_equal(ftruncate(fd, sizeof(struct alloc_guard)), 0);
    struct alloc_guard *guard =
        mmap(NULL, sizeof(*guard), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    assert_ptr_not_equal(guard, MAP_FAILED);
    setenv("ALLOC_GUARD", path, 1);
    setenv("LD_PRELOAD", library, 1);
    return guard;
}

/* All kinds of requests, good and bad, several at once, cancels, and clients that come and go. */
static void round_of_everything(void)
{
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_text stop = { "qq", 2 };
    for (size_t i = 0; i < sizeof(text) - 1; i++)
        text[i] = (char)('a' + i % 16);
    for (int i = 0; i < 30; i++) {
        struct ringlet_request req = e2e_text(text);
        req.text_bytes = i % 3 ? 20 : 3000;
        req.max_tokens = 40;
        if (i % 4 == 1)
            req.op = RINGLET_OP_TOKENIZE;
        if (i % 5 == 2) {
            req.stop = &stop;
            req.n_stop = 1;
            req.logprobs = 2;
            req.prompt_logprobs = 1;
        }
        if (i % 7 == 3) {
            req.temperature = 0.9f;
            req.n = 3;
            req.repetition_penalty = 1.2f;
        }
        if (i % 11 == 5)
            req.top_p = -1;
        e2e_ask(cl, &req, &a);
    }
    struct ringlet_request req = e2e_text(text);
    uint64_t id[8];
    for (int i = 0; i < 8; i++)
        assert_ok(ringlet_submit(cl, &req, &id[i]));
    for (int i = 0; i < 8; i++)
        assert_ok(ringlet_cancel(cl, id[i]));
    for (int n_end = 0; n_end < 8;) {
        struct ringlet_event ev;
        assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
        n_end += ev.flags & RINGLET_CQE_END;
        ringlet_advance(cl);
    }
    ringlet_close(cl);
}

TEST(nobody_allocates_in_steady_state)
{
    struct alloc_guard *guard = open_guard();
    e2e_start(&d, NULL);
    unsetenv("LD_PRELOAD");
    round_of_everything(); /* lazy things of libraries happen here, if there are any */
    __atomic_store_n(&guard->armed, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 5; i++)
        round_of_everything();
    __atomic_store_n(&guard->armed, 0, __ATOMIC_RELAXED);
    print_message("# allocations in steady state: loop and executor %llu, encoder %llu\n",
                  (unsigned long long)guard->count[ALLOC_LOOP_AND_EXECUTOR],
                  (unsigned long long)guard->count[ALLOC_ENCODER]);
    assert_int_equal(guard->count[ALLOC_LOOP_AND_EXECUTOR], 0);
    assert_int_equal(guard->count[ALLOC_ENCODER], 0);
    e2e_stop(&d);
}

/* Chats through the template, long and short text, forks and scores. */
static void round_of_chats(void)
{
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_message messages[4] = {
        { .role = RINGLET_ROLE_SYSTEM, .text = "Be brief.", .bytes = 9 },
        { .role = RINGLET_ROLE_USER, .text = "A colour?", .bytes = 9 },
        { .role = RINGLET_ROLE_ASSISTANT, .text = "Red.", .bytes = 4 },
        { .role = RINGLET_ROLE_USER, .text = text, .bytes = 1500 },
    };
    memset(text, 'y', sizeof(text) - 1);
    for (int i = 0; i < 8; i++) {
        struct ringlet_request req = e2e_text(text);
        req.text_bytes = i % 2 ? 30 : 1500;
        req.max_tokens = 6;
        if (i % 4 < 2) {
            req.text = NULL;
            req.text_bytes = 0;
            req.messages = messages;
            req.n_message = i % 2 ? 2 : 4;
        }
        if (i % 3 == 1) {
            req.n = 2;
            req.temperature = 0.8f;
            req.prompt_logprobs = 2;
        }
        e2e_ask(cl, &req, &a);
        assert_true(a.reason < 16);
    }
    ringlet_close(cl);
}

TEST(nobody_allocates_with_a_real_model_and_its_template)
{
    const char *path = e2e_smollm2();
    const char *const args[] = { "--model", path, "--ctx", "1024", NULL };
    if (!path)
        skip();
    struct alloc_guard *guard = open_guard();
    e2e_start_with(&d, args);
    unsetenv("LD_PRELOAD");
    round_of_chats();
    __atomic_store_n(&guard->armed, 1, __ATOMIC_RELAXED);
    round_of_chats();
    __atomic_store_n(&guard->armed, 0, __ATOMIC_RELAXED);
    print_message("# allocations in steady state: loop and executor %llu, encoder %llu\n",
                  (unsigned long long)guard->count[ALLOC_LOOP_AND_EXECUTOR],
                  (unsigned long long)guard->count[ALLOC_ENCODER]);
    assert_int_equal(guard->count[ALLOC_LOOP_AND_EXECUTOR], 0);
    assert_int_equal(guard->count[ALLOC_ENCODER], 0);
    e2e_stop(&d);
}

TEST(the_guard_sees_an_allocation)
{
    struct alloc_guard *guard = open_guard();
    guard->armed = 1; /* from the start: start-up allocates */
    e2e_start(&d, NULL);
    unsetenv("LD_PRELOAD");
    assert_true(guard->count[ALLOC_LOOP_AND_EXECUTOR] > 10);
    e2e_stop(&d);
}
