/* Hot and cold, sleeping without losing a bell, bell storms, death by socket and by process. */
#include "tests/daemon/session/rig.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "shm/handshake.h"

static struct ringlet_sqe nop(uint32_t generation)
{
    return (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .generation = generation };
}

static void ring(struct raw_client *c)
{
    uint64_t one = 1;
    assert_int_equal(write(c->bell_up, &one, 8), 8);
}

TEST(an_idle_session_goes_cold_and_its_bell_heats_it)
{
    struct rig *r = rig_open();
    struct raw_client c;
    raw_connect(r, &c, (struct ringlet_hello){ 0 });
    struct session *s = rig_session(r);
    r->all->now_ns = clock_now_ns() + 2 * LIMIT_COLD_AFTER_NS;
    sessions_cool_idle(r->all);
    assert_false(s->hot);
    assert_int_equal(r->all->n_hot, 0);
    assert_true(load_once(&c.down_part.head->daemon_wait) & 1);
    raw_put(&c, nop(1));
    ring(&c);
    rig_turn_to(r, s->hot);
    assert_int_equal(load_once(&c.down_part.head->daemon_wait) & 1, 0);
    assert_true(intake_ready(s));
    raw_close(&c);
    rig_turn(r, 3);
    rig_close(r);
}

TEST(a_session_with_an_entry_does_not_go_cold)
{
    struct rig *r = rig_open();
    struct raw_client c;
    raw_connect(r, &c, (struct ringlet_hello){ 0 });
    struct session *s = rig_session(r);
    raw_put(&c, nop(1)); /* no bell: the word was even */
    assert_false(session_cool(s));
    assert_true(s->hot);
    raw_close(&c);
    rig_turn(r, 3);
    rig_close(r);
}

TEST(sleep_is_announced_to_all_and_withdrawn_from_the_busy)
{
    struct rig *r = rig_open();
    struct raw_client idle, busy;
    struct intake_item item;
    raw_connect(r, &idle, (struct ringlet_hello){ 0 });
    struct session *s_idle = rig_session(r);
    raw_connect(r, &busy, (struct ringlet_hello){ 0 });
    struct session *s_busy = rig_session(r);
    raw_put(&busy, nop(1));
    intake_begin(s_busy);
    assert_int_equal(intake_take(s_busy, &r->env, &item), 1);
    sessions_announce(r->all);
    assert_true(load_once(&idle.down_part.head->daemon_wait) & 1);
    assert_true(load_once(&busy.down_part.head->daemon_wait) & 1);
    assert_false(sessions_ready(r->all));
    raw_put(&idle, nop(1)); /* between the announcement and the second look */
    assert_true(sessions_ready(r->all));
    sessions_awake(r->all, false);
    assert_true(s_idle->hot && s_busy->hot);
    sessions_announce(r->all);
    sessions_awake(r->all, true);
    assert_false(s_idle->hot);
    assert_true(s_busy->hot);
    assert_int_equal(load_once(&busy.down_part.head->daemon_wait) & 1, 0);
    raw_close(&idle);
    raw_close(&busy);
    rig_turn(r, 3);
    rig_close(r);
}

TEST(more_sessions_than_may_be_hot_all_get_their_turn)
{
    enum { N = LIMIT_SESSIONS_HOT + 6 };
    struct rig *r = rig_open();
    static struct raw_client c[N];
    static bool seen[N + 1];
    struct ringlet_hello small = { .n_slot = 16, .prompt_bytes = 65536, .text_bytes = 65536 };
    for (int i = 0; i < N; i++)
        raw_connect(r, &c[i], small);
    for (int i = 0; i < N; i++) {
        raw_put(&c[i], nop(1));
        if (load_once(&c[i].down_part.head->daemon_wait) & 1)
            ring(&c[i]);
    }
    int n_seen = 0;
    for (int pass = 0; pass < 50 && n_seen < N; pass++) {
        rig_turn(r, 0);
        for (uint32_t i = 0; i < r->all->n_hot; i++) {
            struct session *s = r->all->hot[i];
            struct intake_item item;
            intake_begin(s);
            if (intake_take(s, &r->env, &item) == 1 && !seen[s->id]) {
                seen[s->id] = true;
                n_seen++;
            }
        }
    }
    assert_int_equal(n_seen, N);
    for (int i = 0; i < N; i++)
        raw_close(&c[i]);
    rig_turn(r, 10);
    rig_close(r);
}

TEST(a_bell_storm_is_left_unheard_for_a_while)
{
    struct rig *r = rig_open();
    struct raw_client c;
    raw_connect(r, &c, (struct ringlet_hello){ 0 });
    struct session *s = rig_session(r);
    for (int round = 0; round < 2000 && !s->muted; round++) {
        s->bell_second_ns = clock_now_ns(); /* they came as fast as a storm does */
        for (int i = 0; i < 64; i++) {
            ring(&c);
            loop_poll(r->loop);
        }
    }
    assert_true(s->muted);
    raw_put(&c, nop(1));
    assert_false(intake_ready(s));
    rig_let_time_go_on(r);
    rig_turn_to(r, !s->muted);
    assert_true(intake_ready(s));
    raw_close(&c);
    rig_turn(r, 3);
    rig_close(r);
}

TEST(a_starved_session_without_progress_is_told_to_the_owner)
{
    struct rig *r = rig_open();
    struct raw_client c;
    raw_connect(r, &c, (struct ringlet_hello){ 0 });
    struct session *s = rig_session(r);
    uint64_t began = clock_now_ns(), slow_ns = r->all->config.slow_client_ns;
    rig_let_time_go_on(r);
    session_starve(s);
    assert_true(load_once(&c.down_part.head->credit_wait) & 1);
    rig_turn(r, 20);
    if (clock_now_ns() - began < slow_ns) /* else the machine was busy */
        assert_int_equal(r->n_slow, 0);
    rig_turn_to(r, r->n_slow == 1);
    assert_true(clock_now_ns() - began >= slow_ns);
    assert_ptr_equal(r->last_slow, s);
    rig_turn_to(r, r->n_slow == 2); /* it still does not read: so is what came to wait since */
    session_feed(s);
    assert_int_equal(load_once(&c.down_part.head->credit_wait) & 1, 0);
    raw_close(&c);
    rig_turn(r, 3);
    rig_close(r);
}

TEST(death_is_seen_even_when_a_child_keeps_the_socket)
{
    struct rig *r = rig_open();
    int up[2], down[2];
    assert_int_equal(pipe(up), 0);
    assert_int_equal(pipe(down), 0);
    pid_t pid = fork();
    if (pid == 0) { /* a client that forks a sleeper and dies: no HUP of the socket */
        struct raw_client c;
        char go;
        int fds[RINGLET_N_FD];
        if (handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &c.fd))
            _exit(1);
        struct ringlet_hello hello = { 0 };
        if (handshake_send_hello(c.fd, &hello) || write(up[1], "h", 1) != 1 ||
            handshake_recv_welcome(c.fd, false, clock_now_ns() + RIG_PATIENCE_NS, &c.welcome,
                                   fds) ||
            handshake_send_attach(c.fd, c.welcome.session_id))
            _exit(1);
        if (fork() == 0) {
            if (read(down[0], &go, 1) != 1)
                _exit(1);
            _exit(0);
        }
        _exit(0);
    }
    int status = -1;
    uint64_t until = clock_now_ns() + RIG_PATIENCE_NS;
    while (waitpid(pid, &status, WNOHANG) == 0 && clock_now_ns() < until)
        rig_turn(r, 2);
    assert_int_equal(status, 0);
    while (r->n_gone == 0 && clock_now_ns() < until)
        rig_turn(r, 2);
    assert_int_equal(r->n_gone, 1);
    assert_int_equal(r->all->n_session, 0);
    assert_int_equal(write(down[1], "x", 1), 1);
    for (int i = 0; i < 2; i++) {
        close(up[i]);
        close(down[i]);
    }
    rig_close(r);
}

/* How much of the client's mapping is memory still. */
static size_t resident_bytes(const struct raw_client *c)
{
    static unsigned char pages[1 << 14];
    size_t n = c->layout.up_bytes / 4096, resident = 0;
    assert_true(n <= sizeof(pages));
    assert_ok(mincore(c->up.base, c->layout.up_bytes, pages));
    for (size_t i = 0; i < n; i++)
        resident += pages[i] & 1;
    return resident * 4096;
}

TEST(a_dead_clients_memory_is_given_back_in_pieces)
{
    enum { PROMPT_BYTES = 30 << 20 };
    struct rig *r = rig_open();
    struct raw_client c;
    raw_connect(r, &c, (struct ringlet_hello){ .prompt_bytes = PROMPT_BYTES });
    memset(c.up_part.prompt, 7, PROMPT_BYTES);
    size_t before = resident_bytes(&c), most = 0;
    assert_true(before >= PROMPT_BYTES);
    close(c.fd); /* the mapping lives on, in a child maybe */
    int n_piece = 0;
    for (int i = 0; i < RIG_PATIENCE_MS && r->all->n_connection > 0; i++) {
        rig_turn(r, 0);
        size_t after = resident_bytes(&c);
        if (after == before && r->all->n_connection > 0)
            usleep(1000); /* the socket's end is not seen yet */
        n_piece += after < before;
        most = before - after > most ? before - after : most;
        before = after;
    }
    assert_int_equal(r->all->n_connection, 0);
    assert_int_equal(before, 0);
    assert_in_range(n_piece, 4, 5);
    assert_true(most <= LIMIT_PUNCH_BYTES);
    c.fd = dup(c.bell_up); /* for raw_close */
    raw_close(&c);
    rig_close(r);
}
