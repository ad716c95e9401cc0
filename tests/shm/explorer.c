/* Coroutines, the memory of views, and the list of decisions that is replayed. */
#include "tests/shm/explorer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "base/compiler.h"

enum {
    THREADS = EXPLORE_THREADS,
    BELLS = 4,
    LOCATIONS = 96,
    STORES = 24, /* of one word in one run */
    DECISIONS = 4096,
    STACK_BYTES = 64 * 1024,
    ENTRY_WORDS = 8,
};

/* How far a thread, or a store, has seen each location: the index of a store. */
struct view {
    uint8_t at[LOCATIONS];
};

struct stored {
    uint64_t value;
    struct view view; /* what comes with it to whoever acquires it */
};

struct location {
    const void *p;
    uint32_t n, bytes;
    int writer;                  /* -1: none yet */
    struct stored store[STORES]; /* [0] is what was there at the start */
};

enum op_kind { OP_NONE, OP_LOAD, OP_STORE, OP_FENCE, OP_PAUSE, OP_RING, OP_WAIT };

struct op {
    enum op_kind kind;
    int place; /* location or bell */
};

struct thread {
    ucontext_t context;
    char *stack;
    void (*main)(void);
    struct view now, acquired, released; /* seen; seen by loads that were relaxed; at the fence */
    struct op next;
    int polled; /* location of the last load */
    bool ended;
};

/* A point where there was a choice. */
struct decision {
    uint8_t chosen, n;     /* which of n; for threads: the thread itself */
    uint8_t enabled, done; /* threads only: bits; done or asleep */
    bool is_thread;
};

static struct {
    const struct explore_plan *plan;
    struct explore_result *result;
    struct thread thread[THREADS];
    int n_thread, running; /* -1: no thread: plain memory */
    ucontext_t home;
    struct location location[LOCATIONS];
    int n_location;
    struct view fences; /* what all seq_cst fences so far have seen */
    struct {
        bool set;
        struct view view;
    } bell[BELLS];
    struct decision decision[DECISIONS];
    uint32_t n_decision, depth;
    uint8_t asleep; /* threads whose next step was tried here before, and has met nothing since */
    bool run_over, run_pruned;
    struct {
        uint64_t value;
        void *p;
        unsigned bytes;
    } kept[ENTRY_WORDS]; /* EXPLORE_PUBLISH_FIRST */
    unsigned n_kept;
} x = { .running = -1 };

static struct thread *self(void)
{
    return &x.thread[x.running];
}

static void join(struct view *to, const struct view *from)
{
    for (int i = 0; i < x.n_location; i++)
        to->at[i] = to->at[i] > from->at[i] ? to->at[i] : from->at[i];
}

static uint64_t plain_load(const void *p, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, p, bytes);
    return value;
}

static int location_of(const void *p, unsigned bytes)
{
    for (int i = 0; i < x.n_location; i++)
        if (x.location[i].p == p) {
            assert(x.location[i].bytes == bytes); /* one size for one word */
            return i;
        }
    assert(x.n_location < LOCATIONS);
    struct location *l = &x.location[x.n_location];
    l->p = p;
    l->n = 1;
    l->bytes = bytes;
    l->writer = -1;
    l->store[0].value = plain_load(p, bytes);
    memset(&l->store[0].view, 0, sizeof(l->store[0].view));
    return x.n_location++;
}

/* ---- Decisions ---- */

static _Noreturn void leave_run(void)
{
    x.run_over = true;
    setcontext(&x.home);
    abort();
}

static void fail(const char *why)
{
    x.result->failed = true;
    snprintf(x.result->why, sizeof(x.result->why), "%s", why);
    leave_run();
}

/* One of n, replayed or new. */
static unsigned choose(unsigned n)
{
    if (n == 1)
        return 0;
    assert(x.depth < DECISIONS);
    struct decision *d = &x.decision[x.depth];
    if (x.depth == x.n_decision) {
        *d = (struct decision){ .n = (uint8_t)n };
        x.n_decision++;
    }
    assert(!d->is_thread && d->n == n); /* a run depends on its decisions alone */
    x.depth++;
    return d->chosen;
}

static bool enabled(int t)
{
    const struct thread *thread = &x.thread[t];
    if (thread->ended)
        return false;
    if (thread->next.kind == OP_WAIT)
        return x.bell[thread->next.place].set;
    if (thread->next.kind == OP_PAUSE)
        return x.location[thread->next.place].n - 1 > thread->now.at[thread->next.place];
    return true;
}

/* May the two steps be done in either order with the same outcome? */
static bool independent(const struct op *a, const struct op *b)
{
    bool a_bell = a->kind == OP_RING || a->kind == OP_WAIT;
    bool b_bell = b->kind == OP_RING || b->kind == OP_WAIT;
    if (a->kind == OP_NONE || b->kind == OP_NONE)
        return true;
    if (a->kind == OP_FENCE || b->kind == OP_FENCE)
        return a->kind != b->kind;
    if (a_bell != b_bell || a->place != b->place)
        return true;
    return !a_bell && a->kind != OP_STORE && b->kind != OP_STORE;
}

static int lowest(uint8_t bits)
{
    return __builtin_ctz(bits);
}

/* Who goes next. Ends the run where nobody can, or where all who can were tried before. */
static int choose_thread(void)
{
    uint8_t can = 0, open = 0;
    for (int t = 0; t < x.n_thread; t++) {
        can |= (uint8_t)(enabled(t) << t);
        open |= (uint8_t)(!x.thread[t].ended << t);
    }
    if (!open)
        leave_run();
    if (!can)
        fail("nobody can go on: a wake-up is lost");
    if (!(can & ~x.asleep)) {
        x.run_pruned = true;
        leave_run();
    }
    assert(x.depth < DECISIONS);
    struct decision *d = &x.decision[x.depth];
    if (x.depth == x.n_decision) {
        *d = (struct decision){ .is_thread = true, .enabled = can, .done = x.asleep & can };
        d->chosen = (uint8_t)lowest(can & (uint8_t)~d->done);
        x.n_decision++;
    }
    assert(d->is_thread && d->enabled == can);
    x.depth++;
    const struct op *op = &x.thread[d->chosen].next;
    uint8_t asleep = 0;
    for (int t = 0; t < x.n_thread; t++)
        if ((d->done | (x.asleep & ~can)) >> t & 1 && t != d->chosen &&
            independent(op, &x.thread[t].next))
            asleep |= (uint8_t)(1 << t);
    x.asleep = asleep;
    return d->chosen;
}

/* The last decision that has an alternative takes it; what followed is forgotten. False: none. */
static bool next_run(void)
{
    while (x.n_decision > 0) {
        struct decision *d = &x.decision[x.n_decision - 1];
        if (!d->is_thread && ++d->chosen < d->n)
            return true;
        if (d->is_thread) {
            d->done |= (uint8_t)(1 << d->chosen);
            uint8_t left = d->enabled & (uint8_t)~d->done;
            if (left) {
                d->chosen = (uint8_t)lowest(left);
                return true;
            }
        }
        x.n_decision--;
    }
    return false;
}

/* ---- Steps ---- */

static void go(int t)
{
    int before = x.running;
    if (t == before)
        return;
    x.running = t;
    if (before < 0)
        setcontext(&x.thread[t].context);
    else
        swapcontext(&x.thread[before].context, &x.thread[t].context);
}

/* Tell what the next step is, and come back when it is this thread's turn. */
static void step(enum op_kind kind, int place)
{
    self()->next = (struct op){ kind, place };
    x.result->steps++;
    go(choose_thread());
}

static bool planted(enum explore_fault_kind kind, const void *p)
{
    const struct explore_fault *f = &x.plan->fault;
    if (f->kind != kind)
        return false;
    return !f->place || ((const char *)p >= (const char *)f->place &&
                         (const char *)p < (const char *)f->place + f->bytes);
}

uint64_t explore_load(const void *p, unsigned bytes, int acquire)
{
    if (x.running < 0)
        return plain_load(p, bytes);
    int i = location_of(p, bytes);
    step(OP_LOAD, i);
    struct thread *t = self();
    const struct location *l = &x.location[i];
    unsigned seen = l->n - 1 - choose(l->n - t->now.at[i]); /* the latest first */
    const struct stored *store = &l->store[seen];
    t->now.at[i] = (uint8_t)seen;
    t->polled = i;
    join(&t->acquired, &store->view);
    if (acquire && !planted(EXPLORE_NO_ACQUIRE, p))
        join(&t->now, &store->view);
    return store->value;
}

static void store(void *p, unsigned bytes, uint64_t value, bool release)
{
    int i = location_of(p, bytes);
    step(OP_STORE, i);
    struct thread *t = self();
    struct location *l = &x.location[i];
    assert(l->n < STORES && (l->writer < 0 || l->writer == x.running));
    l->writer = x.running;
    struct stored *store = &l->store[l->n];
    t->now.at[i] = (uint8_t)l->n;
    store->value = value;
    store->view = release ? t->now : t->released;
    store->view.at[i] = (uint8_t)l->n++;
}

void explore_store(void *p, unsigned bytes, uint64_t value, int release)
{
    if (bytes < 8)
        value &= (UINT64_C(1) << 8 * bytes) - 1;
    if (x.running < 0) {
        memcpy(p, &value, bytes);
        return;
    }
    if (planted(EXPLORE_PUBLISH_FIRST, p) && (uintptr_t)p % 64) {
        x.kept[x.n_kept].value = value; /* until the publication word is out */
        x.kept[x.n_kept].p = p;
        x.kept[x.n_kept++].bytes = bytes;
        return;
    }
    store(p, bytes, value, release && !planted(EXPLORE_NO_RELEASE, p));
    for (unsigned i = 0; i < x.n_kept && planted(EXPLORE_PUBLISH_FIRST, p); i++)
        store(x.kept[i].p, x.kept[i].bytes, x.kept[i].value, false);
    x.n_kept = 0;
}

void explore_fence(void)
{
    if (x.running < 0 ||
        (x.plan->fault.kind == EXPLORE_NO_FENCE && x.plan->fault.thread == x.running))
        return;
    step(OP_FENCE, 0);
    struct thread *t = self();
    join(&t->now, &t->acquired);
    join(&t->now, &x.fences);
    x.fences = t->acquired = t->released = t->now;
}

void explore_pause(void)
{
    int i = self()->polled;
    step(OP_PAUSE, i);
    self()->now.at[i] = (uint8_t)(x.location[i].n - 1);
}

void explore_ring(int bell)
{
    step(OP_RING, bell);
    x.bell[bell].set = true;
    join(&x.bell[bell].view, &self()->now); /* the kernel's locks */
}

void explore_wait(int bell)
{
    step(OP_WAIT, bell);
    x.bell[bell].set = false;
    join(&self()->now, &x.bell[bell].view);
}

void explore_assert(bool holds, const char *what)
{
    if (!holds)
        fail(what);
}

/* ---- Runs ---- */

static void thread_main(void)
{
    self()->main();
    self()->ended = true;
    self()->next = (struct op){ OP_NONE, 0 };
    int t = choose_thread(); /* leaves where all have ended */
    x.running = t;
    setcontext(&x.thread[t].context);
}

static void start_threads(void)
{
    for (x.n_thread = 0; x.n_thread < THREADS && x.plan->threads[x.n_thread]; x.n_thread++) {
        struct thread *thread = &x.thread[x.n_thread];
        char *stack = thread->stack ? thread->stack : malloc(STACK_BYTES);
        assert(stack);
        *thread = (struct thread){ .stack = stack, .main = x.plan->threads[x.n_thread] };
        assert(getcontext(&thread->context) == 0);
        thread->context.uc_stack.ss_sp = stack;
        thread->context.uc_stack.ss_size = STACK_BYTES;
        makecontext(&thread->context, thread_main, 0);
    }
}

static void one_run(void)
{
    x.running = -1;
    x.n_location = 0;
    x.depth = 0;
    x.asleep = 0;
    x.n_kept = 0;
    x.run_over = x.run_pruned = false;
    memset(&x.fences, 0, sizeof(x.fences));
    memset(x.bell, 0, sizeof(x.bell));
    x.plan->reset();
    start_threads();
    volatile bool begun = false; /* getcontext returns twice */
    assert(getcontext(&x.home) == 0);
    if (!begun) {
        begun = true;
        go(choose_thread());
    }
    assert(x.run_over);
    x.running = -1;
    if (x.run_pruned || x.result->failed)
        x.result->pruned += x.run_pruned;
    else if (x.plan->check)
        x.plan->check();
    x.result->runs += !x.run_pruned;
}

void explore(const struct explore_plan *plan, struct explore_result *ret)
{
    *ret = (struct explore_result){ 0 };
    x.plan = plan;
    x.result = ret;
    x.n_decision = 0;
    do {
        one_run();
    } while (!ret->failed && ret->runs + ret->pruned < plan->runs_max && next_run());
    ret->complete = !ret->failed && x.n_decision == 0;
    for (int t = 0; t < THREADS; t++) {
        free(x.thread[t].stack);
        x.thread[t].stack = NULL;
    }
}
