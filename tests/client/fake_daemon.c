/* See fake_daemon.h. One thread, up to 16 sessions. Unlike the real
 * daemon it reads the up bells, to have them one by one. */
#include "tests/client/fake_daemon.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "shm/doorbell.h"
#include "shm/handshake.h"
#include "shm/layout.h"
#include "shm/region.h"
#include "shm/ring.h"
#include "shm/span.h"

enum { SESSIONS = 16, PIECE = 20, INPUT_MAX = 1 << 20, REQUESTS = 64 };

struct fake_request {
    int open, accepted, cancelled, hang;
    struct ringlet_sqe sqe;
    unsigned char *input;
    uint32_t done; /* bytes or ids sent */
};

struct fake_session {
    int used, attached, socket_fd, bell_up_fd, bell_down_fd;
    uint64_t id;
    struct layout layout;
    struct region up, down;
    struct layout_up up_parts;
    struct layout_down down_parts;
    struct ring_reader sq;
    struct ring_writer cq;
    struct span_arena text;
    uint64_t *ends;
    struct wait_word sleep, credit;
    struct wait_watch client_watch;
    uint32_t cancel_seq, n_open;
    int published, starved;
    struct fake_request *requests; /* [n_slot] */
};

struct fake_daemon {
    struct fake_options options;
    pthread_t thread;
    int listen_fd, stop_fd, stop;
    struct region board;
    struct fake_session sessions[SESSIONS];
    uint64_t taken, bells, hellos, rand;
    struct ringlet_block last_block;
    struct ringlet_sqe last_sqe;
    unsigned char *last_input, *last_stop;
};

static void session_end(struct fake_session *s)
{
    close(s->socket_fd);
    if (s->bell_up_fd >= 0)
        close(s->bell_up_fd);
    if (s->bell_down_fd >= 0)
        close(s->bell_down_fd);
    region_free(&s->up);
    region_free(&s->down);
    for (uint32_t i = 0; s->requests && i < s->layout.n_slot; i++)
        free(s->requests[i].input);
    free(s->requests);
    free(s->ends);
    *s = (struct fake_session){ 0 };
}

static void session_drop(struct fake_session *s, uint32_t why)
{
    store_once(&s->down_parts.head->session_error, why);
    store_once(&s->down_parts.head->session_state, (uint32_t)RINGLET_SESSION_DROPPED);
    session_end(s);
}

/* Reply to HELLO with everything. */
static int session_welcome(struct fake_daemon *d, struct fake_session *s)
{
    struct ringlet_hello hello;
    struct ringlet_welcome w = { 0 };
    int error = handshake_recv_hello(s->socket_fd, &hello), client_bell;
    if (error == -EAGAIN)
        return 0;
    if (error == 0)
        error = handshake_check_hello(&hello, 0, &w.abi_minor, &w.features);
    uint64_t before = d->hellos;
    store_once(&d->hellos, before + 1);
    if (before < d->options.hang_up_times)
        return -1;
    if (error == 0 && d->options.refuse &&
        (d->options.refuse_times == 0 || before < d->options.refuse_times))
        error = d->options.refuse;
    if (error < 0) {
        w.result = error;
        (void)!handshake_send_welcome(s->socket_fd, &w, NULL, 0);
        return -1;
    }
    w.session_id = s->id = d->taken + 1000 + (uint64_t)(s - d->sessions);
    w.daemon_generation = ((struct ringlet_board_head *)d->board.base)->daemon_generation;
    w.now_ns = doorbell_now_ns();
    w.board_bytes = (uint32_t)d->board.bytes;
    if (hello.flags & RINGLET_HELLO_OBSERVER)
        return handshake_send_welcome(s->socket_fd, &w, &d->board.fd, 1);
    assert(layout_compute(hello.n_slot, hello.prompt_bytes, hello.text_bytes, &s->layout) == 0);
    assert(region_create("up", s->layout.up_bytes, REGION_UP, &s->up) == 0);
    assert(region_create("down", s->layout.down_bytes, REGION_DOWN, &s->down) == 0);
    assert(region_populate(&s->down, 0, s->layout.down_bytes) == 0);
    s->up_parts = layout_up(&s->layout, s->up.base);
    s->down_parts = layout_down(&s->layout, s->down.base);
    layout_format(&s->layout, &s->up_parts, &s->down_parts, RINGLET_SEQ_START, RINGLET_SEQ_START);
    layout_to_welcome(&s->layout, &w);
    w.sq_start = w.cq_start = RINGLET_SEQ_START;
    ring_reader_init(&s->sq, s->up_parts.sq, s->layout.n_slot, w.sq_start);
    ring_writer_init(&s->cq, s->down_parts.cq, s->layout.n_cqe, w.cq_start);
    s->ends = calloc(s->layout.n_cqe, sizeof(*s->ends));
    s->requests = calloc(s->layout.n_slot, sizeof(*s->requests));
    span_arena_init(&s->text, s->layout.text_bytes, s->ends, s->layout.n_cqe, w.cq_start);
    wait_word_init(&s->sleep, &s->down_parts.head->daemon_wait);
    wait_word_init(&s->credit, &s->down_parts.head->credit_wait);
    wait_watch_init(&s->client_watch, &s->up_parts.head->client_wait);
    assert(bell_up_create(&s->bell_up_fd) == 0);
    assert(bell_down_create(&client_bell, &s->bell_down_fd) == 0);
    int fds[RINGLET_N_FD] = { s->up.fd, s->down.fd, d->board.fd, s->bell_up_fd, client_bell };
    error = handshake_send_welcome(s->socket_fd, &w, fds, RINGLET_N_FD);
    close(client_bell);
    region_close_fd(&s->up);
    region_close_fd(&s->down);
    return error;
}

static void accept_one(struct fake_daemon *d)
{
    int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    for (unsigned i = 0; fd >= 0 && i < SESSIONS; i++) {
        struct fake_session *s = &d->sessions[i];
        if (s->used)
            continue;
        *s = (struct fake_session){ .used = 1,
                                    .socket_fd = fd,
                                    .bell_up_fd = -1,
                                    .bell_down_fd = -1,
                                    .up.fd = -1,
                                    .down.fd = -1 };
        return;
    }
    assert(fd < 0);
}

static void socket_event(struct fake_daemon *d, struct fake_session *s)
{
    int error;
    if (!s->id) {
        error = session_welcome(d, s);
    } else if (!s->attached) {
        error = handshake_recv_attach(s->socket_fd, s->id);
        s->attached = error == 0;
        error = error == -EAGAIN ? 0 : error;
    } else {
        error = handshake_peek_closed(s->socket_fd);
    }
    if (error < 0)
        session_end(s);
}

static uint32_t free_credit(const struct fake_session *s)
{
    return ring_writer_free(&s->cq) - s->n_open;
}

/* Room for one event with a span of `bytes`, and not at the expense of the reserved ENDs? */
static int have_credit(struct fake_session *s, uint64_t bytes, uint32_t *ret_off)
{
    for (int tries = 0; tries < 3; tries++) {
        if (free_credit(s) > 0 && span_arena_take(&s->text, bytes, ret_off) == 0)
            return 1;
        if (tries == 1) /* a plain look at the head was not enough */
            wait_word_announce(&s->credit);
        uint32_t head = load_acquire(&s->up_parts.head->cq_head); /* pairs with tell_head */
        assert(ring_writer_see_head(&s->cq, head) == 0);
        span_arena_free_to(&s->text, head);
    }
    s->starved = 1;
    return 0;
}

static void put(struct fake_daemon *d, struct fake_session *s, struct ringlet_cqe *cqe)
{
    union ring_entry e = { .cqe = *cqe };
    if (d->options.cqe_hook)
        d->options.cqe_hook(&e.cqe);
    span_arena_put(&s->text, s->cq.tail);
    ring_writer_put(&s->cq, &e);
    s->published = 1;
}

static struct ringlet_cqe event_of(const struct fake_request *r, uint8_t kind)
{
    return (struct ringlet_cqe){
        .kind = kind, .tag = r->sqe.tag, .slot = r->sqe.slot, .generation = r->sqe.generation
    };
}

static void finish(struct fake_daemon *d, struct fake_session *s, struct fake_request *r,
                   uint16_t reason, uint32_t detail)
{
    struct ringlet_cqe e = event_of(r, RINGLET_KIND_FINISHED);
    e.flags = RINGLET_CQE_END;
    e.reason = reason;
    e.token = detail;
    e.position = r->done;
    s->down_parts.annex[r->sqe.slot].completion_tokens = r->done;
    r->open = 0;
    s->n_open--;
    if (ring_writer_free(&s->cq) == 0) { /* only a head that was not looked at for long */
        uint32_t head = load_acquire(&s->up_parts.head->cq_head);
        assert(ring_writer_see_head(&s->cq, head) == 0);
        span_arena_free_to(&s->text, head);
    }
    put(d, s, &e);
}

/* One event of text or ids; 0 when the request has nothing more to say, -1 without credit. */
static int say_next(struct fake_daemon *d, struct fake_session *s, struct fake_request *r)
{
    struct ringlet_cqe e = event_of(r, RINGLET_KIND_TOKENS);
    uint32_t left = r->sqe.input_bytes - r->done, off;
    e.position = r->done;
    if (left == 0)
        return 0;
    if (r->sqe.input_kind == RINGLET_INPUT_TOKENS) {
        if (!have_credit(s, 0, &off))
            return -1;
        e.flags = RINGLET_CQE_INLINE | RINGLET_CQE_LOGPROBS;
        e.n_token = 1;
        memcpy(&e.token, r->input + r->done, 4);
        e.logprob = -0.5f;
        e.position = r->done / 4;
        r->done += 4;
        put(d, s, &e);
        return 1;
    }
    uint32_t n = min_of(left, (uint32_t)PIECE);
    if (r->sqe.op == RINGLET_OP_TOKENIZE)
        e.kind = RINGLET_KIND_PROMPT;
    uint64_t bytes = n <= 16 && e.kind == RINGLET_KIND_TOKENS ? 0 : 4 * (uint64_t)n + n;
    if (!have_credit(s, bytes, &off))
        return -1;
    if (bytes == 0) {
        e.flags = RINGLET_CQE_INLINE;
        e.n_token = 1;
        e.token = r->input[r->done];
        memcpy(e.body.text, r->input + r->done, n);
    } else {
        unsigned char *to = s->down_parts.text + off;
        e.span_off = off;
        e.n_token = (uint8_t)n;
        for (uint32_t i = 0; i < n; i++)
            memcpy(to + 4 * i, &(uint32_t){ r->input[r->done + i] }, 4);
        memcpy(to + 4 * n, r->input + r->done, n);
    }
    e.text_bytes = n;
    r->done += n;
    put(d, s, &e);
    return 1;
}

static void progress(struct fake_daemon *d, struct fake_session *s, struct fake_request *r)
{
    uint32_t off;
    if (r->cancelled) {
        finish(d, s, r, RINGLET_REASON_CANCELLED, 0);
        return;
    }
    if (r->hang)
        return;
    if (!r->accepted && r->sqe.op == RINGLET_OP_GENERATE) {
        if (!have_credit(s, 0, &off))
            return;
        struct ringlet_cqe e = event_of(r, RINGLET_KIND_ACCEPTED);
        s->down_parts.annex[r->sqe.slot].prompt_tokens = r->sqe.input_bytes;
        put(d, s, &e);
    }
    r->accepted = 1;
    int n;
    while ((n = say_next(d, s, r)) > 0)
        ;
    if (n == 0)
        finish(d, s, r,
               r->sqe.op == RINGLET_OP_GENERATE ? RINGLET_REASON_LENGTH : RINGLET_REASON_DONE, 0);
}

static void note_block(struct fake_daemon *d, struct fake_session *s, const struct ringlet_sqe *e)
{
    const struct layout *l = &s->layout;
    d->last_sqe = *e;
    memset(d->last_input, 0, INPUT_MAX);
    assert(span_fetch(d->last_input, s->up_parts.prompt, l->prompt_bytes, e->input_off,
                      min_of(e->input_bytes, (uint32_t)INPUT_MAX), 8) == 0);
    if (e->block_bytes == 0)
        return;
    d->last_block = (struct ringlet_block){ 0 };
    assert(e->block_bytes <= sizeof(d->last_block));
    assert(span_fetch(&d->last_block, s->up_parts.prompt, l->prompt_bytes, e->block_off,
                      e->block_bytes, 8) == 0);
    memset(d->last_stop, 0, INPUT_MAX);
    assert(span_fetch(d->last_stop, s->up_parts.prompt, l->prompt_bytes, d->last_block.stop.offset,
                      d->last_block.stop.bytes, 4) == 0);
}

/* The entry is copied; who sees its answer may count on the room. */
static void give_back_entry(struct fake_session *s)
{
    /* pairs with load_acquire in refresh of client/submit.c */
    store_release(&s->down_parts.head->sq_head, s->sq.head);
}

/* Returns 1 something was taken, 0 nothing, -1 the session was dropped. */
static int intake(struct fake_daemon *d, struct fake_session *s)
{
    union ring_entry e;
    int any = 0, n;
    uint32_t off;
    if (free_credit(s) < s->layout.n_slot && !have_credit(s, 0, &off))
        return 0;
    while (free_credit(s) > 0 && (n = ring_reader_take(&s->sq, &e)) != 0) {
        if (n < 0 || e.sqe.slot >= s->layout.n_slot || s->requests[e.sqe.slot].open) {
            session_drop(s, n < 0 ? RINGLET_SESSION_ERROR_SEQ : RINGLET_SESSION_ERROR_SLOT);
            return -1;
        }
        any = 1;
        d->taken++;
        struct fake_request *r = &s->requests[e.sqe.slot];
        s->n_open++;
        free(r->input);
        *r = (struct fake_request){ .open = 1, .sqe = e.sqe };
        if (e.sqe.op == RINGLET_OP_NOP) {
            d->last_sqe = e.sqe;
            give_back_entry(s);
            finish(d, s, r, RINGLET_REASON_DONE, 0);
            continue;
        }
        note_block(d, s, &e.sqe);
        r->input = malloc(e.sqe.input_bytes + 1);
        assert(span_fetch(r->input, s->up_parts.prompt, s->layout.prompt_bytes, e.sqe.input_off,
                          e.sqe.input_bytes, 8) == 0);
        give_back_entry(s);
        r->hang = e.sqe.input_bytes == 4 && memcmp(r->input, "hang", 4) == 0;
        if (e.sqe.op != RINGLET_OP_GENERATE && e.sqe.op != RINGLET_OP_TOKENIZE)
            finish(d, s, r, RINGLET_REASON_REJECTED, RINGLET_ERROR_BAD_OP);
    }
    return any;
}

static int session_pass(struct fake_daemon *d, struct fake_session *s)
{
    s->starved = 0;
    int any = intake(d, s);
    if (any < 0)
        return 1;
    uint32_t seq = load_acquire(&s->up_parts.head->cancel_seq); /* pairs with ringlet_cancel */
    if (seq != s->cancel_seq) {
        s->cancel_seq = seq;
        any = 1;
        for (uint32_t i = 0; i < s->layout.n_slot; i++)
            if (s->requests[i].open &&
                load_once(&s->up_parts.cancel[i]) == s->requests[i].sqe.generation)
                s->requests[i].cancelled = 1;
    }
    for (uint32_t i = 0; s->n_open && i < s->layout.n_slot; i++)
        if (s->requests[i].open)
            progress(d, s, &s->requests[i]);
    if (!s->starved && wait_word_announced(&s->credit))
        wait_word_withdraw(&s->credit);
    return any || s->published;
}

static int pass(struct fake_daemon *d)
{
    int any = 0;
    if (d->options.freeze)
        return 0;
    for (unsigned i = 0; i < SESSIONS; i++)
        if (d->sessions[i].attached && d->sessions[i].sq.words)
            any |= session_pass(d, &d->sessions[i]);
    int rung = 0;
    for (unsigned i = 0; i < SESSIONS; i++) {
        struct fake_session *s = &d->sessions[i];
        if (!s->published)
            continue;
        s->published = 0;
        if (!rung++)
            full_fence(); /* one for all; pairs with the client's wait_word_announce */
        if (wait_watch_must_ring(&s->client_watch))
            (void)bell_down_ring(s->bell_down_fd);
    }
    struct ringlet_board_beat *beat =
        (struct ringlet_board_beat *)(void *)((char *)d->board.base + RINGLET_BOARD_BEAT_OFF);
    store_once(&beat->heartbeat_ns, doorbell_now_ns());
    return any;
}

/* Wait for descriptors and handle what came: number 0 listens, 1 stops, then two a session. */
static void look_at_descriptors(struct fake_daemon *d, int timeout_ms)
{
    struct pollfd fds[2 + 2 * SESSIONS];
    fds[0] = (struct pollfd){ d->listen_fd, POLLIN, 0 };
    fds[1] = (struct pollfd){ d->stop_fd, POLLIN, 0 };
    for (unsigned i = 0; i < SESSIONS; i++) {
        const struct fake_session *s = &d->sessions[i];
        fds[2 + 2 * i] = (struct pollfd){ s->used ? s->socket_fd : -1, POLLIN, 0 };
        fds[3 + 2 * i] = (struct pollfd){ s->used ? s->bell_up_fd : -1, POLLIN, 0 };
    }
    if (poll(fds, ARRAY_SIZE(fds), timeout_ms) <= 0)
        return;
    for (unsigned i = 0; i < SESSIONS; i++) {
        uint64_t count;
        if (fds[3 + 2 * i].revents && read(fds[3 + 2 * i].fd, &count, sizeof(count)) > 0)
            store_once(&d->bells, d->bells + 1);
        if (fds[2 + 2 * i].revents)
            socket_event(d, &d->sessions[i]);
    }
    if (fds[0].revents)
        accept_one(d);
}

static void each_sleep_word(struct fake_daemon *d, int announce)
{
    for (unsigned i = 0; i < SESSIONS; i++) {
        if (!d->sessions[i].attached || !d->sessions[i].sq.words)
            continue;
        if (announce)
            wait_word_announce_unfenced(&d->sessions[i].sleep);
        else
            wait_word_withdraw(&d->sessions[i].sleep);
    }
}

static void *serve(void *arg)
{
    struct fake_daemon *d = arg;
    uint64_t idle_ns = 0;
    while (!load_acquire(&d->stop)) {
        uint64_t now = doorbell_now_ns(), budget = d->options.spin_ns;
        if (d->options.random_sleep)
            budget = (d->rand = d->rand * 6364136223846793005u + 1) % d->options.random_sleep;
        int any = pass(d), timeout = 0;
        if (any)
            idle_ns = now;
        if (!any && now - idle_ns >= budget) {
            each_sleep_word(d, 1);
            full_fence(); /* pairs with the client's full_fence after its put or cancel */
            if (!pass(d))
                timeout = d->options.freeze ? 5 : -1;
        } else if (any || (now & 15)) {
            continue; /* spinning: look at the descriptors now and then */
        }
        look_at_descriptors(d, timeout);
        each_sleep_word(d, 0);
    }
    return NULL;
}

static void make_board(struct fake_daemon *d)
{
    assert(region_create("board", RINGLET_BOARD_BYTES, REGION_BOARD, &d->board) == 0);
    char *base = d->board.base;
    *(struct ringlet_board_head *)(void *)base =
        (struct ringlet_board_head){ .magic = RINGLET_MAGIC_BOARD,
                                     .abi_major = RINGLET_ABI_MAJOR,
                                     .struct_size = sizeof(struct ringlet_board_head),
                                     .board_bytes = RINGLET_BOARD_BYTES,
                                     .daemon_generation = doorbell_now_ns(),
                                     .start_ns = doorbell_now_ns(),
                                     .pid = 1,
                                     .n_model = 2,
                                     .version = "fake" };
    struct ringlet_board_model m = {
        .generation = 7, .state = RINGLET_MODEL_READY, .name = "echo", .vocab = 256, .context = 4096
    };
    layout_write_model((void *)(base + RINGLET_BOARD_MODELS_OFF), &m);
    m.state = RINGLET_MODEL_LOADING;
    memcpy(m.name, "slow", 5);
    layout_write_model((void *)(base + RINGLET_BOARD_MODELS_OFF + sizeof(m)), &m);
    struct ringlet_board_stats *stats = (void *)(base + RINGLET_BOARD_STATS_OFF);
    struct ringlet_stat *stat = (void *)(stats + 1);
    stats->stat_bytes = sizeof(*stat);
    stat[0] = (struct ringlet_stat){ .name = "clients",
                                     .kind = RINGLET_STAT_GAUGE,
                                     .model = RINGLET_STAT_ANY,
                                     .urgency_class = RINGLET_STAT_ANY,
                                     .value_off = 0x8000,
                                     .n_value = 1 };
    stat[1] = (struct ringlet_stat){ .name = "bad", .n_value = 1 };
    stat[1].value_off = RINGLET_BOARD_BYTES; /* outside */
    *(uint64_t *)(void *)(base + 0x8000) = 3;
    store_release(&stats->n_stat, 2u); /* pairs with load_acquire in ringlet_stat_at */
}

struct fake_daemon *fake_daemon_start(const char *path, const struct fake_options *options)
{
    struct fake_daemon *d = calloc(1, sizeof(*d));
    assert(d);
    if (options)
        d->options = *options;
    d->rand = 88172645463325252u;
    d->last_input = calloc(1, INPUT_MAX);
    d->last_stop = calloc(1, INPUT_MAX);
    signal(SIGPIPE, SIG_IGN);
    make_board(d);
    d->stop_fd = eventfd(0, EFD_CLOEXEC);
    int error = handshake_listen(path, 0600, 64, &d->listen_fd);
    assert(error == 0 && d->stop_fd >= 0);
    assert(pthread_create(&d->thread, NULL, serve, d) == 0);
    return d;
}

void fake_daemon_kill(struct fake_daemon *d)
{
    store_release(&d->stop, 1); /* pairs with load_acquire in serve */
    assert(write(d->stop_fd, &(uint64_t){ 1 }, 8) == 8);
    pthread_join(d->thread, NULL);
    for (unsigned i = 0; i < SESSIONS; i++)
        if (d->sessions[i].used)
            session_end(&d->sessions[i]);
    region_free(&d->board);
    close(d->listen_fd);
    close(d->stop_fd);
    free(d->last_input);
    free(d->last_stop);
    free(d);
}

uint64_t fake_daemon_hellos(const struct fake_daemon *d)
{
    return load_once(&d->hellos);
}

uint64_t fake_daemon_taken(const struct fake_daemon *d)
{
    return load_once(&d->taken);
}

uint64_t fake_daemon_bells(const struct fake_daemon *d)
{
    return load_once(&d->bells);
}

struct ringlet_block fake_daemon_last_block(const struct fake_daemon *d)
{
    return d->last_block;
}

struct ringlet_sqe fake_daemon_last_sqe(const struct fake_daemon *d)
{
    return d->last_sqe;
}

const unsigned char *fake_daemon_last_input(const struct fake_daemon *d)
{
    return d->last_input;
}

const unsigned char *fake_daemon_last_stop(const struct fake_daemon *d)
{
    return d->last_stop;
}
