/* The handshake's state machine; every step of it is a poll event or the 2 s timer. */
#include "daemon/session/listener.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "shm/handshake.h"

static struct session_uid *find_user(struct sessions *all, uid_t uid)
{
    struct session_uid *vacant = NULL;
    for (int i = 0; i < LIMIT_UIDS; i++) {
        struct session_uid *user = &all->users[i];
        bool known = user->sessions_max > 0; /* by a former session: what it has logged counts */
        if (known && user->uid == uid)
            return user;
        bool free = user->n_connection == 0 && user->n_request == 0 && user->payload_bytes == 0;
        if (free && (!vacant || (vacant->sessions_max && !known)))
            vacant = user;
    }
    const struct sessions_config *config = &all->config;
    if (!vacant)
        return NULL;
    *vacant = (struct session_uid){ .uid = uid,
                                    .log_lines = LIMIT_LOG_BURST_UID,
                                    .log_ns = all->now_ns,
                                    .sessions_max = config->sessions_uid_max,
                                    .shm_bytes_max = config->shm_uid_bytes_max };
    for (uint32_t i = 0; i < config->n_grant; i++) {
        const struct session_grant *grant = &config->grants[i];
        if (grant->uid == uid && grant->sessions_max)
            vacant->sessions_max = grant->sessions_max;
        if (grant->uid == uid && grant->shm_bytes_max)
            vacant->shm_bytes_max = grant->shm_bytes_max;
        if (grant->uid == uid)
            vacant->groups = grant->groups;
    }
    return vacant;
}

bool session_may_log(struct sessions *all, struct session_uid *user)
{
    uint64_t seconds = (all->now_ns - user->log_ns) / NS_PER_S;
    if (seconds) {
        user->log_lines =
            (uint32_t)min_of(user->log_lines + seconds, (uint64_t)LIMIT_LOG_BURST_UID);
        user->log_ns = all->now_ns;
    }
    if (user->log_lines == 0) {
        user->n_unlogged++;
        return false;
    }
    user->log_lines--;
    if (user->n_unlogged)
        log_warn(SESSION, "uid %u: %u lines about its clients were not logged", (unsigned)user->uid,
                 user->n_unlogged);
    user->n_unlogged = 0;
    return true;
}

static void on_timeout(struct timer *t, uint64_t now_ns)
{
    (void)now_ns;
    session_doom(container_of(t, struct session, timer), RINGLET_SESSION_ERROR_NONE);
}

static void on_death(void *context, uint32_t events)
{
    (void)events;
    if (!BUG(247))
        session_doom(context, RINGLET_SESSION_ERROR_NONE);
}

/* A refusal: WELCOME with the reason, and the connection ends. */
static void refuse(struct session *s, int error)
{
    struct ringlet_welcome welcome = { .result = error };
    log_debug(SESSION, "uid %u (pid %d) refused: %s", s->user ? (unsigned)s->user->uid : 0u,
              (int)s->pid, strerrorname_np(-error));
    if (handshake_send_welcome(s->fd, &welcome, NULL, 0))
        log_debug(SESSION, "pid %d left before its refusal", (int)s->pid);
    session_doom(s, RINGLET_SESSION_ERROR_NONE);
}

static void end_handshake(struct session *s)
{
    s->all->n_handshake -= !BUG(248);
    s->user->n_handshake--;
}

/* WELCOME with all descriptors, or BOARD alone for an observer. */
static int welcome(struct session *s, const struct ringlet_hello *hello)
{
    const struct sessions_config *config = &s->all->config;
    int fds[RINGLET_N_FD] = { -1, -1, -1, -1, -1 };
    struct ringlet_welcome w = { .session_id = s->id,
                                 .daemon_generation = config->daemon_generation,
                                 .board_bytes = (uint32_t)config->board->region.bytes };
    uint16_t minor;
    int error = handshake_check_hello(hello, RINGLET_FEATURES_KNOWN, &minor, &w.features);
    if (error)
        return error;
    w.abi_minor = minor;
    if (hello->flags & RINGLET_HELLO_OBSERVER) {
        if (s->user->n_observer >= LIMIT_OBSERVERS_UID)
            return -EDQUOT;
        if (s->all->n_observer >= LIMIT_OBSERVERS)
            return -EAGAIN;
        s->observer = true;
        s->all->n_observer++;
        s->user->n_observer++;
        w.now_ns = clock_now_ns();
        return handshake_send_welcome(s->fd, &w, &config->board->region.fd, 1);
    }
    if (s->all->draining)
        return -ESHUTDOWN;
    error = session_build(s, hello, fds);
    if (!error) {
        layout_to_welcome(&s->layout, &w);
        w.sq_start = w.cq_start = RINGLET_SEQ_START;
        w.now_ns = clock_now_ns();
        error = handshake_send_welcome(s->fd, &w, fds, RINGLET_N_FD);
    }
    if (fds[RINGLET_FD_BELL_DOWN] >= 0)
        close(fds[RINGLET_FD_BELL_DOWN]); /* the read end is the client's alone */
    return error;
}

static void on_hello(struct session *s)
{
    struct ringlet_hello hello;
    int error = handshake_recv_hello(s->fd, &hello);
    if (error == -EAGAIN)
        return;
    if (error == -EPIPE) {
        session_doom(s, RINGLET_SESSION_ERROR_NONE);
        return;
    }
    if (!error)
        error = welcome(s, &hello);
    if (error == -EPIPE) {
        session_doom(s, RINGLET_SESSION_ERROR_NONE);
        return;
    }
    if (error) {
        refuse(s, error);
        return;
    }
    s->low_latency = hello.flags & RINGLET_HELLO_LOW_LATENCY;
    s->phase = SESSION_ATTACH;
}

static void observe(struct session *s)
{
    timer_drop(s->all->config.wheel, &s->timer);
    s->phase = SESSION_OBSERVER;
    stats_set(s->all->config.stats->daemon[STATS_OBSERVERS], s->all->n_observer);
}

static void on_attach(struct session *s)
{
    int error = handshake_recv_attach(s->fd, s->id);
    if (error == -EAGAIN)
        return;
    if (error) {
        session_doom(s, RINGLET_SESSION_ERROR_NONE);
        return;
    }
    end_handshake(s);
    if (s->observer) {
        observe(s);
        return;
    }
    s->phase = SESSION_OPEN;
    if (session_open(s)) {
        session_doom(s, RINGLET_SESSION_ERROR_NONE);
        return;
    }
    log_debug(SESSION, "session %u: uid %u, pid %d, %u slots", s->id, (unsigned)s->user->uid,
              (int)s->pid, s->layout.n_slot);
}

static void on_socket(void *context, uint32_t events)
{
    struct session *s = context;
    if (s->doomed)
        return;
    if (events & POLLIN && s->phase == SESSION_HELLO)
        on_hello(s);
    if (events & POLLIN && s->phase == SESSION_ATTACH && !s->doomed)
        on_attach(s);
    if (s->doomed)
        return;
    if (s->phase >= SESSION_OPEN && events & (POLLIN | POLLHUP | POLLRDHUP | POLLERR)) {
        int error = handshake_peek_closed(s->fd);
        if (error)
            session_doom(s, error == -EPROTO ? RINGLET_SESSION_ERROR_MESSAGE
                                             : RINGLET_SESSION_ERROR_NONE);
    } else if (events & (POLLHUP | POLLERR)) {
        session_doom(s, RINGLET_SESSION_ERROR_NONE);
    }
}

/* Its turn: from here on the handshake counts as one of the 64, and has its time. */
static void begin(struct session *s)
{
    struct sessions *all = s->all;
    s->phase = SESSION_HELLO;
    timer_set(all->config.wheel, &s->timer, clock_now_ns() + LIMIT_HANDSHAKE_NS);
    all->n_handshake++;
    s->user->n_handshake++;
    int error = loop_watch(all->config.loop, s->fd, POLLIN | POLLRDHUP, on_socket, s, &s->fd_watch);
    if (!error && s->pidfd >= 0)
        error = loop_watch(all->config.loop, s->pidfd, POLLIN, on_death, s, &s->pidfd_watch);
    if (error)
        refuse(s, -EAGAIN);
}

static bool has_turn(const struct session *s)
{
    return s->all->n_handshake < LIMIT_HANDSHAKES && s->user->n_handshake < LIMIT_HANDSHAKES_UID;
}

/* The parked one whose turn is next: of those with a place left, of the user with the fewest. */
static struct session *next_turn(struct sessions *all)
{
    struct session *best = NULL;
    list_for_each (node, &all->parked) {
        struct session *s = list_entry(node, struct session, parked_node);
        if (has_turn(s) && (!best || s->user->n_handshake < best->user->n_handshake))
            best = s;
    }
    return best;
}

static bool is_crowded(const struct sessions *all)
{
    return all->n_parked >= LIMIT_PARKED;
}

/* One more than can be parked: the newest of the user with the most goes, that may be itself. */
static struct session *surplus(struct sessions *all, struct session *newcomer)
{
    struct session *most = newcomer; /* if its user has as many as any other */
    list_for_each (node, &all->parked) {
        struct session *s = list_entry(node, struct session, parked_node);
        uint32_t n = most->user->n_parked;
        if (s->user->n_parked > n || (s->user == most->user && most != newcomer))
            most = s;
    }
    return most;
}

static void pause_accept(struct listener *l)
{
    loop_unwatch(l->all->config.loop, l->watch);
    l->watch = 0;
}

static void wait_for_turn(struct listener *l, struct session *s)
{
    struct sessions *all = l->all;
    struct session *out = is_crowded(all) ? surplus(all, s) : NULL;
    l->n_sort -= l->n_sort > 0;
    if (out)
        refuse(out, -EAGAIN);
    if (out != s)
        session_park(s);
}

static void stop_for_a_while(struct listener *l, uint64_t ns)
{
    pause_accept(l);
    timer_set(l->all->config.wheel, &l->retry, clock_now_ns() + ns);
}

static void on_accept(void *context, int fd)
{
    struct listener *l = context;
    struct sessions *all = l->all;
    struct handshake_peer peer;
    if (fd < 0) {
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS) {
            uint64_t now_ns = clock_now_ns();
            if (now_ns - l->told_ns >
                10 * NS_PER_S) { /* a client may bring it about, over and over */
                log_warn(SESSION, "accept: %s; tried again every 100 ms", strerrorname_np(-fd));
                l->told_ns = now_ns;
            }
            l->no_fd = true;
            stop_for_a_while(l, 100 * NS_PER_MS);
        }
        return;
    }
    if (handshake_peer(fd, &peer)) {
        close(fd);
        return;
    }
    struct session_uid *user = find_user(all, peer.uid);
    struct session *s = user ? session_take(all, fd) : NULL;
    if (!s) {
        struct ringlet_welcome full = { .result = -EAGAIN };
        if (handshake_send_welcome(fd, &full, NULL, 0))
            log_debug(SESSION, "pid %d left before its refusal", (int)peer.pid);
        if (peer.pidfd >= 0)
            close(peer.pidfd);
        close(fd);
        return;
    }
    s->pid = peer.pid;
    s->pidfd = peer.pidfd;
    s->user = user;
    user->n_connection++;
    timer_init(&s->timer, on_timeout);
    timer_set(all->config.wheel, &s->timer, clock_now_ns() + LIMIT_HANDSHAKE_NS);
    if (has_turn(s))
        begin(s);
    else
        wait_for_turn(l, s);
    if (l->watch && is_crowded(all) && l->n_sort == 0)
        stop_for_a_while(l, l->sorts ? LIMIT_SORT_NS : LIMIT_CROWD_NS);
}

static void on_retry(struct timer *t, uint64_t now_ns)
{
    struct listener *l = container_of(t, struct listener, retry);
    (void)now_ns;
    l->no_fd = false;
    l->sorts = is_crowded(l->all);
    l->n_sort = l->sorts ? LIMIT_SORTED : 0;
    listener_turn(l);
}

int listener_start(struct listener *l, struct sessions *all, int fd)
{
    *l = (struct listener){ .all = all, .fd = fd };
    timer_init(&l->retry, on_retry);
    return loop_accept(all->config.loop, fd, on_accept, l, &l->watch);
}

void listener_stop(struct listener *l)
{
    if (l->watch)
        pause_accept(l);
    timer_drop(l->all->config.wheel, &l->retry);
    l->fd = -1;
}

void listener_turn(struct listener *l)
{
    struct sessions *all = l->all;
    for (struct session *s; (s = next_turn(all));) {
        session_unpark(s);
        begin(s);
    }
    bool crowded = is_crowded(all);
    if (!crowded) {
        l->sorts = false;
        l->n_sort = 0;
        if (!l->no_fd)
            timer_drop(all->config.wheel, &l->retry);
    }
    if (l->watch || l->fd < 0 || l->no_fd || (crowded && l->n_sort == 0))
        return;
    int error = loop_accept(all->config.loop, l->fd, on_accept, l, &l->watch);
    if (error)
        log_warn(SESSION, "cannot accept: %s", strerrorname_np(-error));
}
