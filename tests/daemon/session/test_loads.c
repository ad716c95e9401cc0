/*
 * What the compiler made of single fetch: the session layer as shipped, with its mapping of UP
 * shut. Each access faults, is noted, and is let through for one instruction (trap flag). So this
 * counts the loads of the machine code itself, not of the source: eight for an entry, one of each
 * word, and none by anything but intake.
 */
#include "tests/daemon/session/rig.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "daemon/base/payload.h"

enum { NOTED_MAX = 4096, TRAP_FLAG = 0x100 };

static char *guarded;
static size_t guarded_bytes, noted[NOTED_MAX], n_noted;

/* A sanitizer has handlers and loads of its own. */
#if defined(__x86_64__) && defined(__OPTIMIZE__) && !defined(RINGLET_TSAN) &&                      \
    !defined(__SANITIZE_ADDRESS__)
static void on_fault(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    char *at = info->si_addr;
    if (at < guarded || at >= guarded + guarded_bytes) {
        signal(sig, SIG_DFL); /* none of ours: die of it */
        return;
    }
    if (n_noted < NOTED_MAX)
        noted[n_noted] = (size_t)(at - guarded);
    n_noted++;
    mprotect(guarded, guarded_bytes, PROT_READ | PROT_WRITE);
    uc->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_step(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)sig, (void)info;
    mprotect(guarded, guarded_bytes, PROT_NONE);
    uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static bool guard(struct session *s)
{
    struct sigaction fault = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    struct sigaction step = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &fault, NULL);
    sigaction(SIGTRAP, &step, NULL);
    guarded = s->up.base;
    guarded_bytes = s->up.bytes;
    assert_int_equal(mprotect(guarded, guarded_bytes, PROT_NONE), 0);
    n_noted = 0;
    return true;
}
#else
static bool guard(struct session *s)
{
    (void)s;
    return false; /* the trap flag is x86's; without optimisation there is nothing to check */
}
#endif

static void open_again(void)
{
    assert_int_equal(mprotect(guarded, guarded_bytes, PROT_READ | PROT_WRITE), 0);
}

/* How often the word at this offset of UP was loaded. */
static unsigned n_load(size_t off)
{
    unsigned n = 0;
    for (size_t i = 0; i < n_noted; i++)
        n += noted[i] == off;
    return n;
}

static void check_entry(const struct session *s, uint32_t number)
{
    size_t slot = (size_t)((char *)s->up_part.sq - guarded) + 64 * (size_t)(number & s->sq.mask);
    size_t next =
        (size_t)((char *)s->up_part.sq - guarded) + 64 * (size_t)((number + 1) & s->sq.mask);
    for (size_t i = 0; i < 8; i++)
        if (n_load(slot + 8 * i) != 1)
            fail_msg("word %zu of the entry was loaded %u times", i, n_load(slot + 8 * i));
    unsigned in_slot = 0;
    for (size_t i = 0; i < n_noted; i++)
        in_slot += noted[i] >= slot && noted[i] < slot + 64;
    assert_int_equal(in_slot, 8);
    assert_true(n_load(next) <= 1); /* is there another? */
}

TEST(the_machine_code_takes_an_entry_by_eight_loads)
{
    struct rig *r = rig_open();
    struct raw_client c;
    static struct intake_item item;
    raw_connect(r, &c, (struct ringlet_hello){ .n_slot = 16 });
    struct session *s = rig_session(r);
    for (uint32_t i = 0; i < 20; i++) { /* once around the ring and more */
        raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .slot = 0, .generation = i + 1 });
        uint32_t number = s->sq.head;
        if (!guard(s))
            skip();
        intake_begin(s);
        assert_int_equal(intake_take(s, &r->env, &item), 1);
        assert_int_equal(n_noted, 8);
        check_entry(s, number);
        intake_end(s);
        assert_int_equal(n_noted, 8);
        struct publish_id id = { 0, i + 1, 0 };
        struct publish_end end = { .index = RINGLET_INDEX_ALL, .reason = RINGLET_REASON_DONE };
        publish_last(s, &id, &end, NULL);
        assert_int_equal(n_noted, 8); /* publishing looks at nothing there */
        open_again();
        struct ringlet_cqe e;
        assert_true(raw_take(&c, &e));
    }
    raw_close(&c);
    rig_turn(r, 5);
    rig_close(r);
}

TEST(input_and_block_are_read_by_intake_alone_and_only_where_they_lie)
{
    struct rig *r = rig_open();
    struct raw_client c;
    static struct intake_item item;
    raw_connect(r, &c, (struct ringlet_hello){ .n_slot = 16 });
    struct session *s = rig_session(r);
    size_t prompt = (size_t)((char *)s->up_part.prompt - (char *)s->up.base);
    uint32_t ids[40];
    for (uint32_t i = 0; i < 40; i++)
        ids[i] = i;
    memcpy(c.up_part.prompt + 4096, ids, sizeof(ids));
    raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_GENERATE,
                                      .slot = 3,
                                      .generation = 1,
                                      .model_generation = 1,
                                      .input_kind = RINGLET_INPUT_TOKENS,
                                      .input_off = 4096,
                                      .input_bytes = sizeof(ids),
                                      .max_tokens = 1 });
    uint32_t number = s->sq.head;
    if (!guard(s))
        skip();
    intake_begin(s);
    assert_int_equal(intake_take(s, &r->env, &item), 1);
    check_entry(s, number);
    for (size_t i = 0; i < n_noted; i++) /* the entry and the ids, nothing else */
        assert_true(noted[i] < prompt ||
                    (noted[i] >= prompt + 4096 && noted[i] < prompt + 4096 + sizeof(ids)));
    size_t before = n_noted;
    assert_memory_equal(item.ids, ids, sizeof(ids));
    intake_end(s);
    intake_give(r->all, s->user, item.payload, item.payload_bytes);
    struct publish_id id = { 3, 1, 0 };
    struct publish_end end = { .index = RINGLET_INDEX_ALL, .reason = RINGLET_REASON_DONE };
    publish_last(s, &id, &end, NULL);
    assert_int_equal(n_noted, before);
    publish_flush(r->all); /* one look: does the client sleep? */
    assert_int_equal(n_noted, before + 1);
    assert_int_equal(noted[before], (char *)&s->up_part.head->client_wait - guarded);
    open_again();
    raw_close(&c);
    rig_turn(r, 5);
    rig_close(r);
}
