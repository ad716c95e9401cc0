/*
 * Baselines in shared memory: the bare cache line (the limit), a plain SPSC queue with cached
 * indices, the product's own ring without library and daemon, and a futex.
 */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/atomics.h"
#include "shm/doorbell.h"
#include "shm/ring.h"
#include "tools/ringbench/channel.h"

/*
 * ---- One word on one line, both ends polling: nothing can be faster. ----
 *
 * What a transfer takes depends on where in the shared cache the line lives, by up to two times; so
 * the word moves on to the next line after some messages.
 */

enum { LINES = 256, LINE_TURNS = 256 };

static uint64_t *line_of(const struct channel *ch, uint64_t turn, bool back)
{
    uint64_t at = (back ? LINES : 0) + turn / LINE_TURNS % LINES;
    return (uint64_t *)(void *)(ch->shared->bytes + at * CACHE_LINE_PAIR);
}

static void line_round_trip(struct channel *ch)
{
    ch->turn += 2;
    uint64_t *word = line_of(ch, ch->turn, false);
    store_release(word, ch->turn - 1);     /* pairs with load_acquire in line_echo */
    while (load_acquire(word) != ch->turn) /* pairs with store_release in line_echo */
        cpu_relax();
}

static void line_echo(struct channel *ch)
{
    for (uint64_t turn = 2;; turn += 2) {
        uint64_t *word = line_of(ch, turn, false);
        while (load_acquire(word) != turn - 1) /* pairs with store_release in line_round_trip */
            cpu_relax();
        store_release(word, turn); /* pairs with load_acquire in line_round_trip */
    }
}

/*
 * One way: lines that are written here and read there, and nothing told but how far, once a quarter
 * of them: what any queue of such messages is bounded by.
 */
enum { STREAM_LINES = 256, STREAM_CHUNK = STREAM_LINES / 4, LINE_WORDS = CHANNEL_MESSAGE / 8 };

struct stream {
    uint64_t written aligned_to(128), taken aligned_to(128);
    uint64_t words[STREAM_LINES * LINE_WORDS] aligned_to(128);
};

static void line_produce(struct channel *ch, uint64_t n)
{
    struct stream *s = (struct stream *)(void *)ch->shared->bytes;
    for (uint64_t i = 0; i < n; i += STREAM_CHUNK) {
        while (ch->turn + STREAM_CHUNK - load_acquire(&s->taken) > STREAM_LINES)
            cpu_relax(); /* pairs with store_release in line_consume */
        uint64_t *to = s->words + ch->turn % STREAM_LINES * LINE_WORDS;
        for (int k = 0; k < STREAM_CHUNK * LINE_WORDS; k++)
            store_once(to + k, i);
        ch->turn += STREAM_CHUNK;
        store_release(&s->written, ch->turn); /* pairs with load_acquire in line_consume */
    }
    while (load_acquire(&s->taken) != ch->turn) /* pairs with store_release in line_consume */
        cpu_relax();
}

static void line_consume(struct channel *ch)
{
    struct stream *s = (struct stream *)(void *)ch->shared->bytes;
    uint64_t taken = 0, sum = 0;
    for (;;) {
        while (load_acquire(&s->written) == taken) /* pairs with store_release in line_produce */
            cpu_relax();
        const uint64_t *from = s->words + taken % STREAM_LINES * LINE_WORDS;
        for (int k = 0; k < STREAM_CHUNK * LINE_WORDS; k++)
            sum += load_once(from + k);
        taken += STREAM_CHUNK;
        store_release(&s->taken, taken); /* pairs with load_acquire in line_produce */
    }
    (void)sum;
}

const struct channel_kind channel_cache_line = {
    .name = "cache_line",
    .round_trip = line_round_trip,
    .echo = line_echo,
    .produce = line_produce,
    .consume = line_consume,
    .can_spin = true,
};

/* ---- The same with a line each way: the limit where neither side may write the other's words. */

static void lines_round_trip(struct channel *ch)
{
    const uint64_t *answer = line_of(ch, ++ch->turn, true);
    store_release(line_of(ch, ch->turn, false), ch->turn); /* pairs with lines_echo */
    while (load_acquire(answer) != ch->turn)               /* pairs with lines_echo */
        cpu_relax();
}

static void lines_echo(struct channel *ch)
{
    for (uint64_t turn = 1;; turn++) {
        while (load_acquire(line_of(ch, turn, false)) != turn) /* pairs with lines_round_trip */
            cpu_relax();
        store_release(line_of(ch, turn, true), turn); /* pairs with lines_round_trip */
    }
}

const struct channel_kind channel_two_lines = {
    .name = "two_lines", .round_trip = lines_round_trip, .echo = lines_echo, .can_spin = true,
};

/* ---- Plain SPSC queue: two indices, each side caches the other's. ---- */

/* Entries: the product's default for round trips (two rings that fit the first cache), more for
 * throughput. Both queues get the same. */
enum { QUEUE_MAX = 256, QUEUE_ROUND_TRIP = 64 };
static uint32_t n_entry;


struct queue {
    uint32_t head aligned_to(128), tail aligned_to(128);
    uint64_t slots[QUEUE_MAX][CHANNEL_MESSAGE / 8] aligned_to(128);
};

struct queue_end {
    struct queue *q;
    uint32_t mine, other; /* own index; the other side's as last seen */
};

static struct queue *queue_of(struct channel *ch, int i)
{
    return (struct queue *)(void *)(ch->shared->bytes + (size_t)i * sizeof(struct queue));
}

static void queue_push(struct queue_end *e, const uint64_t message[CHANNEL_MESSAGE / 8])
{
    while (e->mine - e->other == n_entry) {
        e->other = load_acquire(&e->q->head); /* pairs with store_release in queue_pop */
        if (e->mine - e->other == n_entry)
            cpu_relax();
    }
    for (int i = 0; i < CHANNEL_MESSAGE / 8; i++)
        store_once(&e->q->slots[e->mine & (n_entry - 1)][i], message[i]);
    store_release(&e->q->tail, ++e->mine); /* pairs with load_acquire in queue_pop */
}

static void queue_pop(struct queue_end *e, uint64_t message[CHANNEL_MESSAGE / 8])
{
    while (e->mine == e->other) {
        e->other = load_acquire(&e->q->tail); /* pairs with store_release in queue_push */
        if (e->mine == e->other)
            cpu_relax();
    }
    for (int i = 0; i < CHANNEL_MESSAGE / 8; i++)
        message[i] = load_once(&e->q->slots[e->mine & (n_entry - 1)][i]);
    store_release(&e->q->head, ++e->mine); /* pairs with load_acquire in queue_push */
}

static struct queue_end queue_there, queue_back; /* this process's ends */

static int queue_open(struct channel *ch)
{
    n_entry = ch->one_way ? QUEUE_MAX : QUEUE_ROUND_TRIP;
    queue_there = (struct queue_end){ .q = queue_of(ch, 0) };
    queue_back = (struct queue_end){ .q = queue_of(ch, 1) };
    return 0;
}

static void queue_round_trip(struct channel *ch)
{
    uint64_t message[CHANNEL_MESSAGE / 8] = { ++ch->turn };
    queue_push(&queue_there, message);
    queue_pop(&queue_back, message);
}

static void queue_echo(struct channel *ch)
{
    uint64_t message[CHANNEL_MESSAGE / 8];
    for (;; ch->turn++) {
        queue_pop(&queue_there, message);
        queue_push(&queue_back, message);
    }
}

static void queue_produce(struct channel *ch, uint64_t n)
{
    uint64_t message[CHANNEL_MESSAGE / 8] = { 0 };
    for (uint64_t i = 0; i < n; i++) {
        message[0] = i;
        queue_push(&queue_there, message);
    }
    ch->turn += n;
    while (load_acquire(&queue_there.q->head) != queue_there.mine) /* pairs with queue_pop */
        cpu_relax();
}

static void queue_consume(struct channel *ch)
{
    uint64_t message[CHANNEL_MESSAGE / 8], sum = 0;
    for (;; ch->turn++) {
        queue_pop(&queue_there, message);
        sum += message[0];
        compiler_barrier();
    }
    (void)sum;
}

const struct channel_kind channel_spsc = {
    .name = "spsc", .open = queue_open, .round_trip = queue_round_trip, .echo = queue_echo,
    .produce = queue_produce, .consume = queue_consume, .can_spin = true,
};

/* ---- The product's ring alone: number in the slot, private copy, one fence per batch. ---- */

struct ring_shared {
    uint32_t head aligned_to(128); /* told by the reader */
    uint32_t wait aligned_to(128); /* the reader's wait word: it never sleeps here */
    uint64_t words[QUEUE_MAX * 8] aligned_to(128);
};

static struct ring_writer ring_w;
static struct ring_reader ring_r;
static struct ring_shared *ring_to, *ring_from;
static struct wait_watch ring_watch;

static int ring_open(struct channel *ch)
{
    struct ring_shared *both = (struct ring_shared *)(void *)ch->shared->bytes;
    n_entry = ch->one_way ? QUEUE_MAX : QUEUE_ROUND_TRIP;
    for (int i = 0; i < 2; i++)
        ring_format(both[i].words, n_entry, RINGLET_SEQ_START);
    ring_to = &both[0];
    ring_from = &both[1];
    for (int i = 0; i < 2; i++)
        both[i].head = RINGLET_SEQ_START;
    return 0;
}

static void ring_side(struct ring_shared *to, struct ring_shared *from)
{
    ring_to = to;
    ring_from = from;
    ring_writer_init(&ring_w, to->words, n_entry, RINGLET_SEQ_START);
    ring_reader_init(&ring_r, from->words, n_entry, RINGLET_SEQ_START);
    wait_watch_init(&ring_watch, &to->wait);
}

static void ring_put(union ring_entry *e)
{
    while (ring_writer_free(&ring_w) == 0) /* pairs with store_release in ring_take */
        if (ring_writer_see_head(&ring_w, load_acquire(&ring_to->head)) < 0)
            _exit(1);
    ring_writer_put(&ring_w, e);
}

static void ring_test_bell(void)
{
    full_fence(); /* pairs with the fence of a reader that goes to sleep; here none does */
    if (wait_watch_must_ring(&ring_watch))
        _exit(1); /* nobody sleeps here */
}

static void ring_take(union ring_entry *e)
{
    while (ring_reader_take(&ring_r, e) == 0)
        cpu_relax();
    if (ring_r.head % (n_entry / 4) == 0)
        store_release(&ring_from->head, ring_r.head); /* pairs with load_acquire in ring_put */
}

static void ring_round_trip(struct channel *ch)
{
    union ring_entry e = { .sqe = { .tag = ++ch->turn } };
    if (ch->turn == 1)
        ring_side(ring_to, ring_from);
    ring_put(&e);
    ring_test_bell();
    ring_take(&e);
}

static void ring_echo(struct channel *ch)
{
    union ring_entry e = { 0 };
    (void)ch;
    ring_side(ring_from, ring_to);
    for (;;) {
        ring_take(&e);
        ring_put(&e);
        ring_test_bell();
    }
}

static void ring_produce(struct channel *ch, uint64_t n)
{
    if (ch->turn == 0)
        ring_side(ring_to, ring_from);
    for (uint64_t i = 0; i < n; i += CHANNEL_BATCH) {
        union ring_entry first = { .sqe = { .tag = i } };
        while (ring_writer_free(&ring_w) < CHANNEL_BATCH) /* pairs with ring_consume */
            if (ring_writer_see_head(&ring_w, load_acquire(&ring_to->head)) < 0)
                _exit(1);
        ring_writer_ahead(&ring_w, CHANNEL_BATCH);
        uint32_t number = ring_writer_reserve(&ring_w);
        for (uint64_t k = 1; k < CHANNEL_BATCH; k++) {
            union ring_entry e = { .sqe = { .tag = i + k } };
            ring_writer_put(&ring_w, &e);
        }
        ring_writer_put_at(&ring_w, number, &first);
        ring_test_bell();
    }
    ch->turn += n;
    while (load_acquire(&ring_to->head) != ring_w.tail) /* pairs with ring_consume */
        cpu_relax();
}

static void ring_consume(struct channel *ch)
{
    union ring_entry e;
    uint64_t sum = 0;
    ring_side(ring_from, ring_to);
    for (;; ch->turn++) {
        int n;
        while ((n = ring_reader_take(&ring_r, &e)) == 0) {
            if (load_once(&ring_from->head) != ring_r.head)
                store_release(&ring_from->head, ring_r.head); /* pairs with ring_produce */
            cpu_relax();
        }
        sum += e.sqe.tag;
        compiler_barrier();
        if (ring_r.head % (n_entry / 4) == 0)
            store_release(&ring_from->head, ring_r.head); /* pairs with ring_produce */
    }
    (void)sum;
}

const struct channel_kind channel_ring = {
    .name = "ring", .open = ring_open, .round_trip = ring_round_trip, .echo = ring_echo,
    .produce = ring_produce, .consume = ring_consume, .can_spin = true,
};

/* ---- Futex: two words, each side sleeps on its own. ---- */

static void futex_post(uint32_t *word, uint32_t value)
{
    store_release(word, value); /* pairs with load_acquire in futex_wait */
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void futex_wait(uint32_t *word, uint32_t value)
{
    uint32_t now;
    while ((now = load_acquire(word)) != value) /* pairs with store_release in futex_post */
        syscall(SYS_futex, word, FUTEX_WAIT, now, NULL, NULL, 0);
}

static void futex_round_trip(struct channel *ch)
{
    uint32_t *words = (uint32_t *)(void *)ch->shared->bytes, turn = (uint32_t)++ch->turn;
    futex_post(&words[0], turn);
    futex_wait(&words[64], turn);
}

static void futex_echo(struct channel *ch)
{
    uint32_t *words = (uint32_t *)(void *)ch->shared->bytes;
    for (uint32_t turn = 1;; turn++) {
        futex_wait(&words[0], turn);
        futex_post(&words[64], turn);
    }
}

const struct channel_kind channel_futex = {
    .name = "futex", .round_trip = futex_round_trip, .echo = futex_echo, .can_sleep = true,
};
