/* See rig.h. */
#include "tests/daemon/session/rig.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "daemon/base/arena.h"
#include "daemon/base/clock.h"
#include "daemon/base/payload.h"
#include "daemon/base/pool.h"
#include "shm/handshake.h"

static void on_gone(void *context, struct session *s)
{
    (void)s;
    ((struct rig *)context)->n_gone++;
}

static void on_slow(void *context, struct session *s)
{
    struct rig *r = context;
    r->n_slow++;
    r->last_slow = s;
}

struct rig *rig_open(void)
{
    static struct rig r;
    memset(&r, 0, sizeof(r));
    signal(SIGPIPE, SIG_IGN); /* as main.c does */
    assert_ok(arena_create(64 << 20, &r.arena));
    assert_ok(loop_create(4096, r.arena, &r.loop));
    rig_stop_time(&r);
    timer_wheel_init(&r.wheel, r.stopped_ns);
    struct board_config board = { .version = "test", .daemon_generation = 7, .n_model = 1 };
    board_limits_default(&board.limits);
    assert_ok(board_create(&board, &r.board));
    assert_ok(payload_create(16 << 20, r.arena, &r.payload));
    struct sessions_config config = {
        .loop = r.loop,
        .wheel = &r.wheel,
        .board = &r.board,
        .stats = &r.board.stats,
        .payload = r.payload,
        .daemon_generation = 7,
        .slow_client_ns = 50 * NS_PER_MS,
        .sessions_max = 100,
        .sessions_uid_max = 80,
        .shm_uid_bytes_max = 64 << 20,
        .stops_bytes = 64,
        .on_gone = on_gone,
        .on_slow = on_slow,
        .context = &r,
    };
    assert_ok(sessions_create(&config, r.arena, &r.all));
    snprintf(r.path, sizeof(r.path), "%s/rig", harness_tmpdir());
    assert_ok(handshake_listen(r.path, 0600, 512, &r.listen_fd));
    assert_ok(listener_start(&r.listener, r.all, r.listen_fd));
    r.model = (struct validate_model){
        .ready = true,
        .generation = 1,
        .vocab = 1000,
        .context = 4096,
        .has_text = true,
        .defaults = { .temperature = 1, .top_p = 1, .repetition = 1, .n = 1 }
    };
    r.env = (struct validate_env){ .models = &r.model, .n_model = 1 };
    rig_turn(&r, 0);
    return &r;
}

void rig_stop_time(struct rig *r)
{
    r->stopped_ns = clock_now_ns();
}

void rig_let_time_go_on(struct rig *r)
{
    r->stopped_ns = 0;
}

static uint64_t rig_now(const struct rig *r)
{
    return r->stopped_ns ? r->stopped_ns : clock_now_ns();
}

void rig_turn(struct rig *r, int ms)
{
    uint64_t until = clock_now_ns() + (uint64_t)ms * NS_PER_MS;
    do {
        loop_wait(r->loop, ms ? clock_now_ns() + NS_PER_MS : 0);
        uint64_t now = rig_now(r);
        sessions_begin(r->all, now);
        timer_expire(&r->wheel, now);
        publish_flush(r->all);
        sessions_reap(r->all);
        listener_turn(&r->listener);
    } while (clock_now_ns() < until);
}

void rig_turn_until(struct rig *r, int fd)
{
    struct pollfd readable = { .fd = fd, .events = POLLIN };
    for (int i = 0; i < RIG_PATIENCE_MS && poll(&readable, 1, 0) == 0; i++)
        rig_turn(r, i >= RIG_PATIENCE_MS / 10);
}

void rig_close(struct rig *r)
{
    listener_stop(&r->listener);
    sessions_close(r->all, RINGLET_SESSION_ERROR_SHUTDOWN);
    assert_int_equal(r->all->n_session, 0);
    assert_int_equal(r->all->n_connection, 0);
    assert_int_equal(payload_used(r->payload), 0);
    loop_free(r->loop);
    board_free(&r->board);
    close(r->listen_fd);
    arena_free(r->arena);
}

void raw_connect(struct rig *r, struct raw_client *c, struct ringlet_hello hello)
{
    int fds[RINGLET_N_FD];
    memset(c, 0, sizeof(*c));
    assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &c->fd));
    assert_ok(handshake_send_hello(c->fd, &hello));
    rig_turn_until(r, c->fd);
    assert_ok(
        handshake_recv_welcome(c->fd, false, clock_now_ns() + RIG_PATIENCE_NS, &c->welcome, fds));
    assert_ok(layout_from_welcome(&c->welcome, &c->layout));
    assert_ok(region_map(fds[RINGLET_FD_UP], c->layout.up_bytes, REGION_UP, &c->up));
    assert_ok(region_map(fds[RINGLET_FD_DOWN], c->layout.down_bytes, REGION_DOWN, &c->down));
    close(fds[RINGLET_FD_UP]);
    close(fds[RINGLET_FD_DOWN]);
    close(fds[RINGLET_FD_BOARD]);
    c->bell_up = fds[RINGLET_FD_BELL_UP];
    c->bell_down = fds[RINGLET_FD_BELL_DOWN];
    c->up_part = layout_up(&c->layout, c->up.base);
    c->down_part = layout_down(&c->layout, c->down.base);
    ring_writer_init(&c->sq, c->up_part.sq, c->layout.n_slot, c->welcome.sq_start);
    ring_reader_init(&c->cq, c->down_part.cq, c->layout.n_cqe, c->welcome.cq_start);
    assert_ok(handshake_send_attach(c->fd, c->welcome.session_id));
    for (int i = 0; i < RIG_PATIENCE_MS && rig_session(r)->phase != SESSION_OPEN; i++)
        rig_turn(r, i >= RIG_PATIENCE_MS / 10);
    rig_turn(r, 0);
}

void raw_close(struct raw_client *c)
{
    close(c->fd);
    close(c->bell_up);
    close(c->bell_down);
    c->up.fd = c->down.fd = -1;
    region_free(&c->up);
    region_free(&c->down);
}

struct session *rig_session(struct rig *r)
{
    struct session *last = NULL;
    for (uint32_t i = 0; i < pool_size(r->all->pool); i++) {
        struct session *s = pool_get(r->all->pool, i, pool_generation(r->all->pool, i));
        if (s && (!last || s->id > last->id))
            last = s;
    }
    return last;
}

void raw_put(struct raw_client *c, struct ringlet_sqe sqe)
{
    union ring_entry e = { .sqe = sqe };
    ring_writer_put(&c->sq, &e);
    c->sq.head = c->sq.tail; /* this client never asks whether there is room */
}

bool raw_take(struct raw_client *c, struct ringlet_cqe *ret)
{
    union ring_entry e;
    if (ring_reader_take(&c->cq, &e) != 1)
        return false;
    store_release(&c->up_part.head->cq_head, c->cq.head);
    *ret = e.cqe;
    return true;
}
