/*
 * Live hostile processes against a real daemon while an honest client works: whatever they do to
 * their memory, bells, sockets and descriptors, the honest answers stay exact, and afterwards the
 * daemon is as it was.
 */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/compiler.h"
#include "shm/doorbell.h"
#include "shm/handshake.h"
#include "shm/layout.h"
#include "shm/region.h"
#include "shm/ring.h"

enum { NS_PER_MS = 1000000, SLOTS = 16 };

static struct e2e_daemon d;
static struct e2e_answer answer;

/* A session without the library's manners: every byte of UP is ours to spoil. */
struct raw {
    int fd, up_fd, down_fd, bell_up, bell_down;
    struct region up, down;
    struct layout layout;
    struct layout_up parts;
    struct ring_writer sq;
};

/* Points of a client's life. One that is to die at one of them kills itself there. */
enum point {
    POINT_NONE,
    POINT_CONNECTED,
    POINT_SAID_HELLO,
    POINT_WELCOMED,
    POINT_MAPPED,
    POINT_ATTACHED,
    POINT_PROMPT_WRITTEN,
    POINT_ENTRY_PUT,
    POINT_BELL_RUNG,
    POINT_CANCEL_WORD,
    POINT_CANCEL_TOLD,
    POINT_ASLEEP,
    POINT_ANSWER_COMES,
    POINT_HALF_READ,
    POINTS
};

static enum point die_at;
static bool leave_a_child; /* that holds socket and rings a little longer */

static void pass(enum point here)
{
    if (here != die_at)
        return;
    if (leave_a_child && fork() == 0) {
        usleep(100000);
        _exit(0);
    }
    kill(getpid(), SIGKILL);
}

static int raw_open(struct raw *c)
{
    struct ringlet_hello hello = { .n_slot = SLOTS };
    struct ringlet_welcome w;
    int fds[RINGLET_N_FD];
    uint64_t deadline = e2e_deadline_ns();
    memset(c, 0, sizeof(*c));
    if (handshake_connect(d.socket, deadline, &c->fd) < 0)
        return -1;
    pass(POINT_CONNECTED);
    if (handshake_send_hello(c->fd, &hello) < 0) {
        close(c->fd);
        return -1;
    }
    pass(POINT_SAID_HELLO);
    if (handshake_recv_welcome(c->fd, false, deadline, &w, fds) < 0) {
        close(c->fd);
        return -1;
    }
    pass(POINT_WELCOMED);
    if (layout_from_welcome(&w, &c->layout) < 0 ||
        region_map(fds[RINGLET_FD_UP], c->layout.up_bytes, REGION_UP, &c->up) < 0 ||
        region_map(fds[RINGLET_FD_DOWN], c->layout.down_bytes, REGION_DOWN, &c->down) < 0) {
        close(c->fd);
        return -1;
    }
    c->up_fd = fds[RINGLET_FD_UP];
    c->down_fd = fds[RINGLET_FD_DOWN];
    c->bell_up = fds[RINGLET_FD_BELL_UP];
    c->bell_down = fds[RINGLET_FD_BELL_DOWN];
    close(fds[RINGLET_FD_BOARD]);
    c->parts = layout_up(&c->layout, c->up.base);
    ring_writer_init(&c->sq, c->parts.sq, c->layout.n_slot, w.sq_start);
    pass(POINT_MAPPED);
    int error = handshake_send_attach(c->fd, w.session_id);
    pass(POINT_ATTACHED);
    return error;
}

static void raw_close(struct raw *c)
{
    close(c->fd);
    close(c->up_fd);
    close(c->down_fd);
    close(c->bell_up);
    close(c->bell_down);
    region_free(&c->up);
    region_free(&c->down);
}

/* A valid request for a few tokens, so that there is work to disturb. */
static void raw_ask(struct raw *c, uint32_t i)
{
    memcpy(c->parts.prompt + 64 * (i % SLOTS), "hostile ", 8);
    pass(POINT_PROMPT_WRITTEN);
    union ring_entry e = { .sqe = { .op = RINGLET_OP_GENERATE,
                                    .slot = (uint16_t)(i % SLOTS),
                                    .generation = 1 + i / SLOTS,
                                    .model_generation = 1,
                                    .input_off = 64 * (i % SLOTS),
                                    .input_bytes = 8,
                                    .input_kind = RINGLET_INPUT_TEXT,
                                    .max_tokens = 8 } };
    ring_writer_put(&c->sq, &e);
    pass(POINT_ENTRY_PUT);
    (void)bell_up_ring(c->bell_up);
    pass(POINT_BELL_RUNG);
}

static void scribble(struct raw *c, uint64_t *rand)
{
    uint32_t *words = c->up.base;
    size_t n = c->layout.prompt_off / 4 + 1024; /* heads, cancels, ring, the arena's front */
    for (int i = 0; i < 20000; i++) {
        uint64_t r = harness_rand(rand);
        words[r % n] = r >> 40 & 1 ? (uint32_t)(r >> 32) : RINGLET_SEQ_START + (uint32_t)(r >> 60);
        if (i % 512 == 0)
            (void)bell_up_ring(c->bell_up);
    }
}

static void punch(struct raw *c, uint64_t *rand)
{
    for (int i = 0; i < 300; i++) {
        off_t at = (off_t)(harness_rand(rand) % (c->layout.up_bytes / 4096) * 4096);
        (void)!fallocate(c->up_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 8192);
        (void)!ftruncate(c->up_fd, (off_t)(harness_rand(rand) % 100000));
        (void)!ftruncate(c->down_fd, 0);
        (void)fcntl(c->up_fd, F_ADD_SEALS, F_SEAL_WRITE);
        void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, c->down_fd, 0);
        if (p != MAP_FAILED || pwrite(c->down_fd, "x", 1, 0) == 1)
            _exit(99); /* DOWN could be forged */
        raw_ask(c, (uint32_t)i);
        c->sq.head = c->sq.tail;
    }
}

static void storm(struct raw *c)
{
    uint64_t most = UINT64_MAX - 1;
    (void)fcntl(c->bell_up, F_SETFL, 0); /* blocking, for whoever is so careless to read it */
    for (int i = 0; i < 50000; i++)
        if (fcntl(c->bell_up, F_SETFL, i % 2 ? 0 : O_NONBLOCK) < 0 || bell_up_ring(c->bell_up) < 0)
            break;
    (void)fcntl(c->bell_up, F_SETFL, O_NONBLOCK);
    (void)!write(c->bell_up, &most, sizeof(most)); /* full to the brim */
}

static void forge(struct raw *c, uint64_t *rand)
{
    for (uint32_t i = 0; i < 2000; i++) {
        raw_ask(c, i);
        c->sq.head = c->sq.tail; /* no regard for what the daemon took */
        c->parts.cancel[harness_rand(rand) % SLOTS] = (uint32_t)(harness_rand(rand) % 64);
        store_release(&c->parts.head->cancel_seq, c->parts.head->cancel_seq + 1);
        store_once(&c->parts.head->cq_head, (uint32_t)harness_rand(rand));
        store_once(&c->parts.head->client_wait, (uint32_t)harness_rand(rand) | 1);
    }
}

static void send_fds(int socket, int fd)
{
    union {
        char bytes[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control = { 0 };
    struct iovec iov = { "x", 1 };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = control.bytes,
                          .msg_controllen = sizeof(control.bytes) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(4 * sizeof(int));
    for (size_t i = 0; i < 4; i++)
        memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
    (void)!sendmsg(socket, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Connections that say nothing, half, too much, or pass descriptors. */
static void flood(uint64_t *rand)
{
    int fds[32], n = 0;
    struct ringlet_hello hello = { .magic = RINGLET_MAGIC_HELLO, .struct_size = sizeof(hello) };
    for (; n < 32; n++) {
        if (handshake_connect(d.socket, doorbell_now_ns() + 50u * NS_PER_MS, &fds[n]) < 0)
            break;
        switch (harness_rand(rand) % 4) {
        case 0:
            break;
        case 1:
            (void)!send(fds[n], &hello, harness_rand(rand) % 64, MSG_NOSIGNAL);
            break;
        case 2:
            send_fds(fds[n], fds[n]);
            break;
        default:
            (void)!send(fds[n], &hello, sizeof(hello), MSG_NOSIGNAL);
            send_fds(fds[n], fds[n]);
        }
    }
    while (n > 0)
        close(fds[--n]);
}

static _Noreturn void hostile(unsigned kind, uint64_t seed)
{
    uint64_t rand = seed * 0x9E3779B97F4A7C15u + kind + 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        struct raw c;
        if (kind == 4) {
            flood(&rand);
            continue;
        }
        if (raw_open(&c) < 0) {
            usleep(1000);
            continue;
        }
        for (uint32_t i = 0; i < 4; i++)
            raw_ask(&c, i);
        if (kind == 0)
            scribble(&c, &rand);
        else if (kind == 1)
            punch(&c, &rand);
        else if (kind == 2)
            storm(&c);
        else if (kind == 3)
            forge(&c, &rand);
        else if (fork() == 0) { /* a child that keeps everything open, and dies later */
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            usleep(20000);
            _exit(0);
        } else {
            send_fds(c.fd, c.fd);
            while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
        }
        raw_close(&c);
    }
}

/* The rest of a short life: ask, cancel, sleep, read a little. */
static _Noreturn void live_until(enum point end)
{
    struct raw c;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    die_at = end;
    uint64_t until = e2e_deadline_ns();
    while (raw_open(&c) < 0) /* a handshake of more than two seconds is ended */
        if (!e2e_may_wait(until))
            _exit(1);
    for (uint32_t i = 0; i < 8; i++)
        raw_ask(&c, i);
    struct ring_reader cq;
    ring_reader_init(&cq, layout_down(&c.layout, c.down.base).cq, c.layout.n_cqe,
                     RINGLET_SEQ_START);
    store_once(&c.parts.cancel[3], 1u);
    pass(POINT_CANCEL_WORD);
    store_release(&c.parts.head->cancel_seq, 1u);
    (void)bell_up_ring(c.bell_up);
    pass(POINT_CANCEL_TOLD);
    store_once(&c.parts.head->client_wait, 1u);
    full_fence();
    pass(POINT_ASLEEP);
    union ring_entry e;
    while (ring_reader_take(&cq, &e) == 0)
        usleep(1000);
    pass(POINT_ANSWER_COMES);
    store_release(&c.parts.head->cq_head, cq.head);
    pass(POINT_HALF_READ);
    _exit(2);
}

static void check_answer(struct ringlet_client *cl, unsigned i)
{
    static char text[700];
    size_t n = 1 + i * 37 % 600;
    for (size_t k = 0; k < n; k++)
        text[k] = (char)('a' + (i + k) % 26);
    text[n] = 0;
    struct ringlet_request req = e2e_text(text);
    e2e_ask(cl, &req, &answer);
    if (answer.reason >= 16)
        fail_msg("an honest request ended with %s", ringlet_reason_name(answer.reason));
    assert_string_equal(answer.text, text);
}

TEST(hostile_processes_change_no_honest_answer_and_leave_nothing)
{
    enum { KINDS = 6 };
    pid_t pids[KINDS];
    const char *longer = getenv("RINGLET_TEST_LONG");
    uint64_t last_ns = (longer && longer[0] == '1' ? 60000u : 4000u) * (uint64_t)NS_PER_MS;
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    check_answer(cl, 599);
    int fds = e2e_fd_count_at_rest(&d, cl);
    for (unsigned k = 0; k < KINDS; k++) {
        pids[k] = fork();
        if (pids[k] == 0)
            hostile(k, harness_seed());
    }
    uint64_t start = e2e_now_ns(), until = e2e_deadline_ns();
    unsigned n = 0;
    for (; e2e_now_ns() - start < last_ns ||
           (e2e_stat(cl, "protocol_errors", -1) == 0 && e2e_now_ns() < until);
         n++) {
        check_answer(cl, n);
        if (n % 16 == 15) { /* one is stopped in whatever it does, and goes on later */
            kill(pids[n / 16 % KINDS], SIGSTOP);
            check_answer(cl, n);
            kill(pids[n / 16 % KINDS], SIGCONT);
        }
    }
    for (unsigned k = 0; k < KINDS; k++) {
        int status;
        kill(pids[k], SIGKILL);
        waitpid(pids[k], &status, 0);
        assert_true(WIFSIGNALED(status)); /* 99: DOWN was writable */
    }
    e2e_stat_becomes(cl, "clients", -1, 1);
    e2e_audit(cl, 0);
    e2e_fd_count_becomes(&d, fds);
    print_message("%u honest answers beside %llu dropped sessions\n", n,
                  (unsigned long long)e2e_stat(cl, "sessions_dropped", -1));
    assert_true(n > 0 && e2e_stat(cl, "protocol_errors", -1) > 0);
    check_answer(cl, 1);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(death_at_every_named_point_leaves_nothing)
{
    enum { ROUNDS = 4 };
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    check_answer(cl, 599);
    e2e_audit(cl, 0);
    int fds = e2e_fd_count_at_rest(&d, cl);
    uint64_t pool = e2e_stat(cl, "prompt_pool_used", -1);
    for (int i = 0; i < ROUNDS * (POINTS - 1); i++) {
        int status, point = 1 + i % (POINTS - 1);
        leave_a_child = i / (POINTS - 1) % 2;
        pid_t pid = fork();
        if (pid == 0)
            live_until((enum point)point);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
            fail_msg("point %d was not reached: status 0x%x", point, (unsigned)status);
        check_answer(cl, (unsigned)i);
    }
    e2e_stat_becomes(cl, "clients", -1, 1);
    e2e_audit(cl, 0);
    e2e_stat_becomes(cl, "prompt_pool_used", -1, pool);
    e2e_fd_count_becomes(&d, fds);
    print_message("# killed at %d named points, %d times each\n", POINTS - 1, ROUNDS);
    ringlet_close(cl);
    e2e_stop(&d);
}
