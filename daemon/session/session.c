/* Pool, regions, descriptors, hot and cold, the end. See session.h for the life of one. */
#include "daemon/session/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/arena.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/payload.h"
#include "daemon/base/pool.h"
#include "daemon/session/intake.h"
#include "shm/handshake.h"

size_t sessions_bytes(void)
{
    return sizeof(struct sessions) + LIMIT_CONNECTIONS * (sizeof(struct session) + 64) + 65536;
}

int sessions_create(const struct sessions_config *config, struct arena *arena,
                    struct sessions **ret)
{
    struct sessions *all = arena_new(arena, struct sessions);
    if (!all)
        return -ENOMEM;
    int error = pool_create(sizeof(struct session), LIMIT_CONNECTIONS, arena, &all->pool);
    if (error)
        return error;
    all->config = *config;
    all->dma_latency_fd = -1;
    list_init(&all->doomed);
    list_init(&all->dirty);
    list_init(&all->again);
    list_init(&all->short_of_pool);
    list_init(&all->parked);
    list_init(&all->buried);
    *ret = all;
    return 0;
}

static struct stats *stats_of(struct session *s)
{
    return s->all->config.stats;
}

static void on_slow(struct timer *t, uint64_t now_ns)
{
    struct session *s = container_of(t, struct session, slow_timer);
    if (!s->starved || s->doomed)
        return;
    /* Anew: others may come to want credit while the client still does not read. */
    timer_set(s->all->config.wheel, &s->slow_timer, now_ns + s->all->config.slow_client_ns);
    s->all->config.on_slow(s->all->config.context, s);
}

struct session *session_take(struct sessions *all, int fd)
{
    struct session *s = pool_take(all->pool);
    if (!s)
        return NULL;
    s->all = all;
    s->id = ++all->last_id;
    s->phase = SESSION_PARKED;
    s->fd = fd;
    s->pidfd = s->bell_up = s->bell_down = -1;
    s->up = s->down = REGION_NONE;
    list_init(&s->doomed_node);
    list_init(&s->dirty_node);
    list_init(&s->again_node);
    list_init(&s->pool_node);
    list_init(&s->parked_node);
    list_init(&s->blocked);
    timer_init(&s->timer, NULL);
    timer_init(&s->slow_timer, on_slow);
    all->n_connection++;
    return s;
}

/* Private tables of one session, from the payload pool in one piece. */
static int take_tables(struct session *s)
{
    size_t n = s->layout.n_slot, words = div_ceil(n, 64);
    size_t slot_bytes = n * sizeof(struct session_slot);
    size_t bytes = slot_bytes + words * 8 + s->layout.n_cqe * sizeof(uint64_t);
    s->tables = payload_take(s->all->config.payload, bytes);
    if (!s->tables)
        return -EAGAIN;
    memset(s->tables, 0, bytes);
    s->slot = s->tables;
    s->busy_map = (uint64_t *)(void *)((char *)s->tables + slot_bytes);
    span_arena_init(&s->text, s->layout.text_bytes, s->busy_map + words, s->layout.n_cqe,
                    RINGLET_SEQ_START);
    return 0;
}

/* Regions: DOWN and UP's head and ring are prefaulted and charged to us; prompts come as written.
 */
enum { POPULATED_TEXT_BYTES = 256 << 10 }; /* a larger arena's rest comes as it is written */

static int make_regions(struct session *s)
{
    uint64_t hot_bytes = s->layout.text_off + (uint64_t)POPULATED_TEXT_BYTES;
    /* The names tell ringlet-dump the geometry and the client: they show in /proc/PID/maps. */
    char up_name[96], down_name[96], shape[64];
    snprintf(shape, sizeof(shape), "%u:%llu:%llu:%u", s->layout.n_slot,
             (unsigned long long)s->layout.prompt_bytes, (unsigned long long)s->layout.text_bytes,
             (unsigned)s->pid);
    snprintf(up_name, sizeof(up_name), "ringlet-up:%s", shape);
    snprintf(down_name, sizeof(down_name), "ringlet-down:%s", shape);
    int error = region_create(up_name, s->layout.up_bytes, REGION_UP, &s->up);
    if (!error)
        error = region_create(down_name, s->layout.down_bytes, REGION_DOWN, &s->down);
    if (!error)
        error = region_populate(&s->down, 0, min_of(s->layout.down_bytes, hot_bytes));
    if (!error)
        error = region_populate(&s->up, 0, s->layout.prompt_off);
    if (error)
        return error;
    s->up_part = layout_up(&s->layout, s->up.base);
    s->down_part = layout_down(&s->layout, s->down.base);
    layout_format(&s->layout, &s->up_part, &s->down_part, RINGLET_SEQ_START, RINGLET_SEQ_START);
    ring_reader_init(&s->sq, s->up_part.sq, s->layout.n_slot, RINGLET_SEQ_START);
    s->bite = 1;
    ring_writer_init(&s->cq, s->down_part.cq, s->layout.n_cqe, RINGLET_SEQ_START);
    wait_word_init(&s->daemon_wait, &s->down_part.head->daemon_wait);
    wait_word_init(&s->credit_wait, &s->down_part.head->credit_wait);
    wait_watch_init(&s->client_watch, &s->up_part.head->client_wait);
    return 0;
}

int session_build(struct session *s, const struct ringlet_hello *hello, int ret_fds[RINGLET_N_FD])
{
    const struct sessions_config *config = &s->all->config;
    int error = layout_compute(hello->n_slot, hello->prompt_bytes, hello->text_bytes, &s->layout);
    if (error)
        return error;
    struct session_uid *user = s->user;
    uint64_t bytes = s->layout.up_bytes + s->layout.down_bytes;
    uint64_t living = user->shm_bytes - user->buried_bytes;
    if (user->n_session >= user->sessions_max ||
        bytes > user->shm_bytes_max - min_of(living, user->shm_bytes_max))
        return -EDQUOT;
    if (bytes > user->shm_bytes_max - min_of(user->shm_bytes, user->shm_bytes_max))
        return -EAGAIN;
    if (s->all->n_session >= config->sessions_max)
        return -EAGAIN;
    s->user->n_session++;
    s->all->n_session++;
    s->user->shm_bytes += s->shm_bytes = bytes;
    error = take_tables(s);
    if (!error)
        error = make_regions(s);
    if (!error)
        error = bell_up_create(&s->bell_up);
    if (!error)
        error = bell_down_create(&ret_fds[RINGLET_FD_BELL_DOWN], &s->bell_down);
    if (error)
        return error;
    ret_fds[RINGLET_FD_UP] = s->up.fd;
    ret_fds[RINGLET_FD_DOWN] = s->down.fd;
    ret_fds[RINGLET_FD_BOARD] = config->board->region.fd;
    ret_fds[RINGLET_FD_BELL_UP] = s->bell_up;
    return 0;
}

/* Bells above a rate that no client needs: the ring is left alone for a while. */
static void unmute(struct timer *t, uint64_t now_ns);

static void mute(struct session *s, uint64_t now_ns)
{
    s->muted = true;
    loop_unwatch(s->all->config.loop, s->bell_watch);
    s->bell_watch = 0;
    timer_init(&s->timer, unmute);
    timer_set(s->all->config.wheel, &s->timer, now_ns + LIMIT_BELL_PENALTY_NS);
}

static void on_bell(void *context, uint32_t events)
{
    struct session *s = context;
    (void)events;
    if (s->doomed)
        return;
    stats_add(stats_of(s)->daemon[STATS_BELLS_UP], 1);
    if (++s->n_bell >= LIMIT_BELLS_PER_S / 16) { /* the clock is looked at now and then */
        uint64_t now_ns = clock_now_ns();
        bool storm = now_ns - s->bell_second_ns < NS_PER_S / 16;
        s->bell_second_ns = now_ns;
        s->n_bell = 0;
        if (storm) {
            mute(s, now_ns);
            return;
        }
    }
    session_heat(s);
}

static void unmute(struct timer *t, uint64_t now_ns)
{
    struct session *s = container_of(t, struct session, timer);
    s->muted = false;
    s->n_bell = 0;
    s->bell_second_ns = now_ns;
    if (loop_watch(s->all->config.loop, s->bell_up, POLLIN, on_bell, s, &s->bell_watch))
        session_doom(s, RINGLET_SESSION_ERROR_NONE);
    session_heat(s);
}

int session_open(struct session *s)
{
    struct sessions *all = s->all;
    int error = loop_watch(all->config.loop, s->bell_up, POLLIN, on_bell, s, &s->bell_watch);
    if (error)
        return error;
    region_close_fd(&s->up);
    region_close_fd(&s->down);
    if (!BUG(249))
        timer_drop(all->config.wheel, &s->timer);
    s->phase = SESSION_OPEN;
    if (all->draining)
        store_once(&s->down_part.head->session_state, RINGLET_SESSION_DRAINING);
    s->latency_held = s->low_latency;
    if (s->latency_held && all->n_low_latency++ == 0) {
        int32_t us = 0;
        all->dma_latency_fd = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC);
        if (all->dma_latency_fd < 0 || write(all->dma_latency_fd, &us, sizeof(us)) != sizeof(us))
            log_warn(SESSION, "/dev/cpu_dma_latency: %s; idle states stay as they are",
                     strerrorname_np(errno));
    }
    stats_add(stats_of(s)->daemon[STATS_SESSIONS], 1);
    stats_set(stats_of(s)->daemon[STATS_CLIENTS], all->n_session);
    session_heat(s);
    return 0;
}

void session_park(struct session *s)
{
    list_push_back(&s->all->parked, &s->parked_node);
    s->all->n_parked++;
    s->user->n_parked++;
}

void session_unpark(struct session *s)
{
    if (list_empty(&s->parked_node))
        return;
    list_remove(&s->parked_node);
    s->all->n_parked--;
    s->user->n_parked--;
}

void session_doom(struct session *s, uint32_t error)
{
    if (s->doomed)
        return;
    session_unpark(s);
    s->doomed = true;
    s->error = error;
    list_push_back(&s->all->doomed, &s->doomed_node);
    if (error && error != RINGLET_SESSION_ERROR_SHUTDOWN) {
        stats_add(stats_of(s)->daemon[STATS_PROTOCOL_ERRORS], 1);
        if (session_may_log(s->all, s->user))
            log_warn(SESSION, "session %u of uid %u (pid %d): protocol error %u, dropped", s->id,
                     (unsigned)s->user->uid, (int)s->pid, error);
    }
}

static void leave_hot(struct session *s)
{
    struct sessions *all = s->all;
    if (!s->hot)
        return;
    s->hot = false;
    for (uint32_t i = 0; i < all->n_hot; i++)
        if (all->hot[i] == s)
            all->hot[i--] = all->hot[--all->n_hot];
    stats_set(all->config.stats->daemon[STATS_HOT_SESSIONS], all->n_hot);
}

/* The state word, and a last bell for one who sleeps; then its mappings are the client's alone. */
static void tell_end(struct session *s)
{
    struct ringlet_down_head *head = s->down_part.head;
    store_once(&head->session_error, s->error);
    store_release(&head->session_state, RINGLET_SESSION_DROPPED);
    full_fence(); /* pairs with the client's fence after client_wait went odd */
    bell_down_ring(s->bell_down);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void uncharge(struct session *s)
{
    struct sessions *all = s->all;
    if (s->user) {
        if (s->phase <= SESSION_ATTACH && s->phase != SESSION_PARKED)
            s->user->n_handshake--;
        if (s->shm_bytes) {
            s->user->n_session -= !BUG(243);
            all->n_session--;
        }
    }
    if (s->phase == SESSION_HELLO || s->phase == SESSION_ATTACH)
        all->n_handshake--;
    if (s->observer) {
        all->n_observer--;
        s->user->n_observer--;
    }
    if (s->latency_held && --all->n_low_latency == 0)
        close_fd(&all->dma_latency_fd);
    stats_set(all->config.stats->daemon[STATS_CLIENTS], all->n_session);
    stats_set(all->config.stats->daemon[STATS_OBSERVERS], all->n_observer);
}

/* The last of it: its memory, and with that its place. */
static void bury(struct session *s)
{
    struct sessions *all = s->all;
    region_free(&s->up);
    if (s->user) {
        s->user->shm_bytes -= s->shm_bytes;
        s->user->buried_bytes -= s->shm_bytes;
        s->user->n_connection--;
    }
    all->n_connection--;
    pool_put(all->pool, s);
}

/*
 * UP is punched, so that a former client that lives on holds no memory of ours; a large arena in
 * pieces, since giving pages back takes time that the other sessions would lack.
 */
static void punch_buried(struct sessions *all)
{
    uint64_t left = LIMIT_PUNCH_BYTES;
    while (!list_empty(&all->buried)) {
        struct session *s = list_first(&all->buried, struct session, doomed_node);
        uint64_t bytes = min_of(s->up.bytes - s->punched, left);
        region_punch(&s->up, s->punched, bytes);
        s->punched += bytes;
        left -= bytes;
        if (s->punched < s->up.bytes)
            return;
        list_remove(&s->doomed_node);
        bury(s);
    }
}

static void reap(struct session *s)
{
    struct sessions *all = s->all;
    struct loop *loop = all->config.loop;
    leave_hot(s);
    list_remove(&s->dirty_node);
    list_remove(&s->again_node);
    list_remove(&s->pool_node);
    timer_drop(all->config.wheel, &s->timer);
    timer_drop(all->config.wheel, &s->slow_timer);
    loop_unwatch(loop, s->fd_watch);
    loop_unwatch(loop, BUG(244) ? 0 : s->pidfd_watch);
    loop_unwatch(loop, s->bell_watch);
    if (s->phase == SESSION_OPEN) {
        if (!BUG(246))
            intake_drop_pending(s);
        all->config.on_gone(all->config.context, s);
        tell_end(s);
        if (s->error && s->error != RINGLET_SESSION_ERROR_SHUTDOWN)
            stats_add(stats_of(s)->daemon[STATS_SESSIONS_DROPPED], 1);
    }
    region_free(&s->down);
    payload_give(all->config.payload, BUG(242) ? NULL : s->tables);
    uncharge(s);
    close_fd(&s->bell_up);
    close_fd(&s->bell_down);
    close_fd(&s->pidfd);
    close_fd(&s->fd);
    s->phase = SESSION_BURIED;
    if (s->user)
        s->user->buried_bytes += s->shm_bytes;
    list_push_back(&all->buried, &s->doomed_node);
}

void sessions_end_doomed(struct sessions *all)
{
    list_for_each_safe (node, &all->doomed) {
        list_remove(node);
        reap(list_entry(node, struct session, doomed_node));
    }
}

void sessions_reap(struct sessions *all)
{
    sessions_end_doomed(all);
    punch_buried(all);
}

void sessions_close(struct sessions *all, uint32_t error)
{
    for (uint32_t i = 0; i < pool_size(all->pool); i++) {
        struct session *s = pool_get(all->pool, i, pool_generation(all->pool, i));
        if (s)
            session_doom(s, error);
    }
    do {
        sessions_reap(all);
    } while (!list_empty(&all->buried));
}

void sessions_drain(struct sessions *all)
{
    all->draining = true;
    for (uint32_t i = 0; i < pool_size(all->pool); i++) {
        struct session *s = pool_get(all->pool, i, pool_generation(all->pool, i));
        if (s && s->phase == SESSION_OPEN && !s->doomed)
            store_once(&s->down_part.head->session_state, RINGLET_SESSION_DRAINING);
    }
}

/* The hot session that did nothing for the longest time, those with work in flight last. */
static struct session *idlest(struct sessions *all)
{
    struct session *best = all->hot[0];
    for (uint32_t i = 1; i < all->n_hot; i++) {
        struct session *s = all->hot[i];
        if ((s->n_busy > 0) != (best->n_busy > 0) ? best->n_busy > 0
                                                  : s->active_ns < best->active_ns)
            best = s;
    }
    return best;
}

void session_heat(struct session *s)
{
    struct sessions *all = s->all;
    if (s->doomed || s->phase != SESSION_OPEN)
        return;
    s->active_ns = max_of(s->active_ns, all->now_ns);
    wait_word_withdraw(&s->daemon_wait); /* even first, then the ring is read: in this pass */
    if (s->hot)
        return;
    list_remove(&s->again_node);
    if (all->n_hot == LIMIT_SESSIONS_HOT) {
        struct session *other = idlest(all);
        if (BUG(269)) {
            leave_hot(other);
        } else if (!session_cool(other)) { /* something to read: its turn comes next pass */
            leave_hot(other);
            if (!BUG(271))
                list_push_back(&all->again, &other->again_node);
        }
    }
    s->hot = true;
    all->hot[all->n_hot++] = s;
    stats_set(all->config.stats->daemon[STATS_HOT_SESSIONS], all->n_hot);
}

bool session_cool(struct session *s)
{
    wait_word_announce(&s->daemon_wait); /* odd, fence */
    if (intake_ready(s) && !BUG(241)) {
        wait_word_withdraw(&s->daemon_wait);
        return false;
    }
    leave_hot(s);
    return true;
}

void sessions_cool_idle(struct sessions *all)
{
    for (uint32_t i = all->n_hot; i-- > 0;) {
        struct session *s = all->hot[i];
        if (s->n_busy == 0 && !s->starved && all->now_ns - s->active_ns > LIMIT_COLD_AFTER_NS)
            session_cool(s);
    }
}

void sessions_announce(struct sessions *all)
{
    for (uint32_t i = 0; i < all->n_hot; i++)
        wait_word_announce_unfenced(&all->hot[i]->daemon_wait);
}

bool sessions_ready(const struct sessions *all)
{
    for (uint32_t i = 0; i < all->n_hot; i++)
        if (intake_ready(all->hot[i]))
            return true;
    return sessions_changed(all);
}

bool sessions_changed(const struct sessions *all)
{
    return !list_empty(&all->doomed) || !list_empty(&all->again) || !list_empty(&all->buried);
}

void sessions_begin(struct sessions *all, uint64_t now_ns)
{
    all->now_ns = now_ns;
    all->pass++;
    struct list turn;
    list_init(&turn);
    list_for_each_safe (node, &all->again) { /* heating one may send another here: next pass */
        list_remove(node);
        list_push_back(&turn, node);
    }
    list_for_each_safe (node, &turn) {
        list_remove(node);
        session_heat(list_entry(node, struct session, again_node));
    }
}

void session_wait_pool(struct session *s)
{
    if (list_empty(&s->pool_node))
        list_push_back(&s->all->short_of_pool, &s->pool_node);
}

void sessions_pool_freed(struct sessions *all)
{
    list_for_each_safe (node, &all->short_of_pool) {
        list_remove(node);
        session_heat(list_entry(node, struct session, pool_node));
    }
}

void sessions_awake(struct sessions *all, bool slept)
{
    for (uint32_t i = all->n_hot; i-- > 0;) {
        struct session *s = all->hot[i];
        if (!slept || s->n_busy > 0 || s->starved)
            wait_word_withdraw(&s->daemon_wait);
        else if (wait_word_announced(&s->daemon_wait))
            leave_hot(s); /* odd and fenced already: cold */
    }
}

void session_starve(struct session *s)
{
    if (!s->starved) {
        s->starved = true;
        timer_set(s->all->config.wheel, &s->slow_timer,
                  clock_now_ns() + s->all->config.slow_client_ns);
    }
    wait_word_announce(&s->credit_wait); /* odd, fence */
}

void session_feed(struct session *s)
{
    if (!s->starved)
        return;
    s->starved = false;
    timer_drop(s->all->config.wheel, &s->slow_timer);
    wait_word_withdraw(&s->credit_wait);
    if (!list_empty(&s->blocked) && !s->hot && list_empty(&s->again_node))
        list_push_back(&s->all->again, &s->again_node); /* a cold one: nobody else would look */
}

void session_slot_take(struct session *s, uint16_t slot, uint32_t generation)
{
    s->slot[slot] = (struct session_slot){ .generation = generation, .busy = true };
    s->busy_map[slot / 64] |= UINT64_C(1) << (slot % 64);
    s->n_busy++;
}

void session_slot_free(struct session *s, uint16_t slot)
{
    assert(s->slot[slot].busy);
    s->slot[slot].busy = false;
    s->slot[slot].request = NULL;
    s->busy_map[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
    s->n_busy--;
}
