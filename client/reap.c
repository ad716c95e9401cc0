/*
 * The down side: show events in place, give them back, wait for them. One entry at a time is copied
 * out and checked; ids and text are used where they lie, in memory that only the daemon can write.
 *
 * cq_head shares its line with words that the daemon reads each pass, so it is told rarely: after S
 * completions or a quarter of the arena, when the daemon says that it waits for credit, and before
 * this side sleeps. The daemon is then never short of credit for what we have consumed.
 */
#include "client/client_internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

/* Fruitless looks between two looks at the clock, and the time between two looks at the pipe. */
enum { IDLE_LOOKS = 512, CHECK_NS = 1000000 };

/* Address of a thread's own byte: its name while it holds a shown event. */
static __thread char thread_mark __attribute__((tls_model("initial-exec"))); /* no call */

static int lock_until(pthread_mutex_t *lock, uint64_t deadline_ns)
{
#ifdef RINGLET_TSAN /* gcc 12's does not know pthread_mutex_clocklock */
    while (pthread_mutex_trylock(lock) != 0) {
        if (doorbell_now_ns() >= deadline_ns)
            return -ETIMEDOUT;
        nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
    }
    return 0;
#else
    struct timespec deadline = { .tv_sec = (time_t)(deadline_ns / 1000000000u),
                                 .tv_nsec = (long)(deadline_ns % 1000000000u) };
    return -pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &deadline);
#endif
}

/*
 * Enter the down side. With RINGLET_SHARED the lock is taken unless this thread was shown an event
 * and so has it already.
 */
static int enter(struct ringlet_client *cl, uint64_t deadline_ns)
{
    int error = client_check(cl);
    if (unlikely(error < 0) || !client_is_shared(cl))
        return error;
    if (load_once(&cl->down.holder) == &thread_mark)
        return 0;
    if (deadline_ns == RINGLET_FOREVER) {
        pthread_mutex_lock(&cl->down.lock);
        return 0;
    }
    return lock_until(&cl->down.lock, deadline_ns);
}

/* Leave it, but keep the lock with a shown event. */
static void leave(struct ringlet_client *cl)
{
    if (!client_is_shared(cl))
        return;
    if (cl->down.is_shown) {
        store_once(&cl->down.holder, &thread_mark);
    } else {
        store_once(&cl->down.holder, NULL);
        pthread_mutex_unlock(&cl->down.lock);
    }
}

/* Tell the daemon how far we came, and ring it if it waits for credit. */
static void tell_head(struct ringlet_client *cl)
{
    struct client_down *down = &cl->down;
    down->head_told = down->cq.head;
    down->untold_bytes = 0;
    /* pairs with the daemon's load_acquire of cq_head before it writes the slots again */
    store_release(&cl->link.up_parts.head->cq_head, down->head_told);
    full_fence(); /* pairs with the daemon's fence between odd credit_wait and its second look */
    if (unlikely(wait_watch_must_ring(&down->credit_watch)))
        (void)bell_up_ring(cl->link.bell_up_fd);
}

/* The request has ended: its slot goes back to the up side. */
static void slot_free(struct ringlet_client *cl, uint16_t slot_i)
{
    store_once(&cl->slots[slot_i].state, CLIENT_SLOT_FREE);
    cl->free_slots[cl->down.free_tail & (cl->n_slot - 1)] = slot_i;
    store_release(&cl->down.free_tail, cl->down.free_tail + 1); /* pairs with take_room */
}

/* Everything that the library relies on, checked on the private copy. */
static int check_cqe(const struct ringlet_client *cl, const struct ringlet_cqe *e)
{
    if (e->kind < RINGLET_KIND_ACCEPTED || e->kind > RINGLET_KIND_FINISHED ||
        (e->flags & ~RINGLET_CQE_FLAGS_KNOWN) || e->slot >= cl->n_slot)
        return -EPROTO;
    const struct client_slot *slot = &cl->slots[e->slot];
    if (load_once(&slot->state) != CLIENT_SLOT_OPEN ||
        load_once(&slot->generation) != e->generation)
        return -EPROTO;
    if ((e->flags & RINGLET_CQE_END) && e->kind != RINGLET_KIND_FINISHED)
        return -EPROTO;
    if (e->kind != RINGLET_KIND_TOKENS && e->kind != RINGLET_KIND_PROMPT)
        return 0;
    if (e->flags & RINGLET_CQE_INLINE)
        return e->n_token <= 1 && e->n_top == 0 && e->text_bytes <= RINGLET_INLINE_BYTES ? 0
                                                                                         : -EPROTO;
    uint64_t bytes = layout_span_bytes(e->flags, e->n_token, e->n_top, e->text_bytes);
    uint64_t size = cl->link.layout.text_bytes;
    return bytes <= size && e->span_off <= size - bytes && e->span_off % RINGLET_SPAN_ALIGN == 0
               ? 0
               : -EPROTO;
}

/* Point the event at the span's parts, in the order of ringlet_abi.h. */
static void point_at_span(const struct ringlet_client *cl, const struct ringlet_cqe *e,
                          struct ringlet_event *ev)
{
    const unsigned char *at = cl->link.down_parts.text + e->span_off;
    ev->tokens = (const uint32_t *)(const void *)at;
    at += 4u * e->n_token;
    if (e->flags & RINGLET_CQE_LOGPROBS) {
        ev->logprobs = (const float *)(const void *)at;
        at += 4u * e->n_token;
        ev->tops = e->n_top ? (const struct ringlet_top *)(const void *)at : NULL;
        at += sizeof(struct ringlet_top) * e->n_token * e->n_top;
    }
    ev->text = (const char *)at;
}

/*
 * Field by field: the compiler would clear a whole event with a string instruction, which takes
 * longer than all that is done here.
 */
static void fill_event(const struct ringlet_client *cl, const struct ringlet_cqe *e,
                       struct ringlet_event *ev)
{
    bool finished = e->kind == RINGLET_KIND_FINISHED;
    bool tokens = !finished && e->kind != RINGLET_KIND_ACCEPTED;
    bool annexed = !finished || (e->flags & RINGLET_CQE_END);
    ev->id = client_id(e->generation, e->slot);
    ev->tag = e->tag;
    ev->kind = e->kind;
    ev->flags = e->flags;
    ev->reason = e->reason;
    ev->index = e->index;
    ev->n_top = tokens ? e->n_top : 0;
    ev->position = e->position;
    ev->n_token = tokens ? e->n_token : 0;
    ev->text_bytes = tokens ? e->text_bytes : 0;
    ev->detail = finished ? e->token : 0;
    ev->error_field = finished ? e->span_off : 0;
    ev->cumulative_logprob = finished && (e->flags & RINGLET_CQE_LOGPROBS) ? e->logprob : 0;
    ev->handle = finished ? e->body.handle : 0;
    ev->tokens = NULL;
    ev->logprobs = NULL;
    ev->tops = NULL;
    ev->text = e->body.text;
    ev->annex = NULL;
    if (tokens && (e->flags & RINGLET_CQE_INLINE)) {
        ev->tokens = &e->token;
        ev->logprobs = e->flags & RINGLET_CQE_LOGPROBS ? &e->logprob : NULL;
    } else if (tokens) {
        point_at_span(cl, e, ev);
    } else if (annexed && e->reason != RINGLET_REASON_DAEMON_LOST) {
        ev->annex = &cl->link.down_parts.annex[e->slot];
    }
}

/* Is the other end of the pipe gone, whatever still lies in it? */
static bool hung_up(const struct ringlet_client *cl)
{
    struct pollfd pfd = { .fd = cl->link.bell_down_fd };
    return poll(&pfd, 1, 0) > 0 && pfd.revents & (POLLHUP | POLLERR);
}

/* It is. Says why for good. */
static int lose(struct ringlet_client *cl)
{
    bool dropped = load_once(&cl->link.down_parts.head->session_state) == RINGLET_SESSION_DROPPED;
    return client_lose(cl, dropped ? -ECONNABORTED : -EPIPE);
}

/*
 * Is the other end of the pipe gone, or the session dropped? Says why for good. A heartbeat that
 * moved since the last look answers without the kernel: a spinning daemon's moves all the time.
 */
static int check_alive(struct ringlet_client *cl)
{
    uint64_t beat = load_once(&client_beat(cl)->heartbeat_ns);
    bool beats = beat != cl->down.beat_seen;
    cl->down.beat_seen = beat;
    if (beats && load_once(&cl->link.down_parts.head->session_state) != RINGLET_SESSION_DROPPED)
        return 0;
    return hung_up(cl) ? lose(cl) : 0;
}

/*
 * The session is lost, or was replaced: make up the end of a request that got none. Looks at every
 * slot each time, since another thread may have queued one just before it saw the loss.
 */
static int show_lost(struct ringlet_client *cl, int lost)
{
    for (uint32_t i = 0; i < cl->n_slot; i++) {
        uint32_t state = load_once(&cl->slots[i].state);
        if (state != CLIENT_SLOT_LOST && !(state == CLIENT_SLOT_OPEN && lost < 0))
            continue;
        store_once(&cl->slots[i].state, CLIENT_SLOT_LOST);
        cl->down.shown.cqe = (struct ringlet_cqe){ .kind = RINGLET_KIND_FINISHED,
                                                   .flags = RINGLET_CQE_END,
                                                   .reason = RINGLET_REASON_DAEMON_LOST,
                                                   .tag = load_once(&cl->slots[i].tag),
                                                   .slot = (uint16_t)i,
                                                   .index = RINGLET_INDEX_ALL,
                                                   .generation = cl->slots[i].generation };
        cl->down.is_shown = true;
        return 0;
    }
    return lost < 0 ? lost : -EAGAIN;
}

/*
 * The ring is empty: tell the credit, and look now and then whether the daemon still lives: when
 * nothing came for a millisecond (an event shows that it does), and after each one more.
 */
static int look_around(struct ringlet_client *cl)
{
    struct client_down *down = &cl->down;
    if (unlikely(load_once(down->credit_watch.word) & 1) && down->head_told != down->cq.head)
        tell_head(cl);
    int lost = load_acquire(&cl->lost); /* pairs with client_lose */
    if (likely(lost == 0)) {
        if (likely(++down->n_idle < IDLE_LOOKS))
            return -EAGAIN;
        down->n_idle = 0;
        uint64_t now = doorbell_now_ns();
        if (down->check_ns == 0)
            down->check_ns = now;
        if (now - down->check_ns < CHECK_NS)
            return -EAGAIN;
        down->check_ns = now;
        lost = check_alive(cl);
        if (lost == 0 || ring_reader_ready(&down->cq) == 1) /* what it wrote before counts */
            return -EAGAIN;
    }
    return show_lost(cl, lost);
}

static void disarm(struct client_down *down)
{
    if (down->is_armed)
        wait_word_withdraw(&down->wait);
    down->is_armed = false;
}

/* Was one request submitted since the last look, and is nothing else out? Wait for its time. */
static void look_in_time(struct ringlet_client *cl)
{
    struct client_down *down = &cl->down;
    uint32_t submitted = load_once(&cl->up.free_head), n = submitted - down->submitted;
    if (n == 0)
        return;
    down->submitted = submitted;
    if (n == 1 && client_in_flight(cl) == 1)
        pace_published(&down->pace);
}

/* The next request's line, on its way while the caller looks at the event. */
static void next_ahead(const struct ringlet_client *cl)
{
    uint32_t number = cl->link.sq_start + load_once(&cl->up.free_head);
    prefetch_write(cl->link.up_parts.sq + (size_t)(number & (cl->n_slot - 1)) * 8);
}

/* Take the next event into `shown`. */
static int show(struct ringlet_client *cl)
{
    struct client_down *down = &cl->down;
    look_in_time(cl);
    if (unlikely(cl->n_lost) && show_lost(cl, 0) == 0)
        return 0;
    int n = ring_reader_take(&down->cq, &down->shown);
    if (n == 0)
        return look_around(cl);
    if (likely(n > 0) && likely(check_cqe(cl, &down->shown.cqe) == 0)) {
        next_ahead(cl);
        down->is_shown = true;
        down->n_idle = 0;
        down->check_ns = 0;
        disarm(down);
        return 0;
    }
    return show_lost(cl, client_lose(cl, -EPROTO));
}

api_export int ringlet_peek(struct ringlet_client *cl, struct ringlet_event *ret_ev)
{
    int error = enter(cl, RINGLET_FOREVER);
    if (unlikely(error < 0))
        return error;
    if (!cl->down.is_shown)
        error = show(cl);
    if (error == 0)
        fill_event(cl, &cl->down.shown.cqe, ret_ev);
    leave(cl);
    return error;
}

api_export void ringlet_advance(struct ringlet_client *cl)
{
    struct client_down *down = &cl->down;
    if (unlikely(client_check(cl) < 0))
        return;
    if (client_is_shared(cl) && load_once(&down->holder) != &thread_mark)
        return; /* nothing is shown to this thread */
    if (!down->is_shown)
        return;
    down->is_shown = false;
    const struct ringlet_cqe *e = &down->shown.cqe;
    if (e->flags & RINGLET_CQE_END) {
        if (unlikely(cl->n_lost > 0))
            cl->n_lost -= load_once(&cl->slots[e->slot].state) == CLIENT_SLOT_LOST;
        slot_free(cl, e->slot);
    }
    if (e->kind == RINGLET_KIND_TOKENS || e->kind == RINGLET_KIND_PROMPT)
        down->untold_bytes += layout_span_bytes(e->flags, e->n_token, e->n_top, e->text_bytes);
    if (unlikely(down->cq.head - down->head_told >= cl->n_slot) ||
        unlikely(down->untold_bytes >= cl->link.layout.text_bytes / 4))
        tell_head(cl);
    leave(cl);
}

/* Did the loop stand still since `since_ns` while requests of ours are open? */
static bool is_stuck(const struct ringlet_client *cl, uint64_t since_ns, uint64_t now_ns)
{
    if (cl->options.heartbeat_ns == RINGLET_FOREVER || client_in_flight(cl) == 0)
        return false;
    uint64_t beat_ns =
        load_once(&client_beat(cl)->heartbeat_ns) - (uint64_t)cl->link.clock_shift_ns;
    uint64_t last_ns = beat_ns > since_ns && beat_ns <= now_ns ? beat_ns : since_ns;
    return now_ns - last_ns > cl->options.heartbeat_ns;
}

/* Sleep until a bell, the deadline, or the time to look at the heartbeat. */
static int sleep_once(struct ringlet_client *cl, uint64_t deadline_ns, uint64_t now_ns)
{
    struct client_down *down = &cl->down;
    uint64_t until_ns = deadline_ns;
    if (cl->options.heartbeat_ns < until_ns - now_ns && client_in_flight(cl) > 0)
        until_ns = now_ns + cl->options.heartbeat_ns;
    if (down->head_told != down->cq.head)
        tell_head(cl);
    wait_word_announce(&down->wait);
    int error = 0;
    /* the acquire pairs with client_lose */
    if (ring_reader_ready(&down->cq) == 0 && load_acquire(&cl->lost) == 0)
        error = bell_down_wait(cl->link.bell_down_fd, until_ns);
    wait_word_withdraw(&down->wait);
    down->is_armed = false;
    if (error == -EPIPE) {
        (void)lose(cl);
        return 0; /* what is in the ring comes first, then the loss */
    }
    return error;
}

/*
 * Poll the ring until something is there, the deadline, the end of the spin budget, or a
 * millisecond. Returns whether the budget is used up: time to sleep.
 */
static bool poll_ring(struct ringlet_client *cl, uint64_t start_ns, uint64_t deadline_ns,
                      uint64_t *ret_now_ns)
{
    uint64_t slice_ns = doorbell_now_ns(), now_ns = slice_ns;
    while (now_ns - start_ns < cl->options.spin_ns && now_ns < deadline_ns) {
        for (int i = 0; i < 64; i++) {
            if (ring_reader_ready(&cl->down.cq) != 0) {
                *ret_now_ns = now_ns;
                return false;
            }
            cpu_relax();
        }
        now_ns = doorbell_now_ns();
        if (now_ns - slice_ns > CHECK_NS) {
            cl->down.n_idle = IDLE_LOOKS; /* show() looks now whether the daemon lives */
            break;
        }
    }
    *ret_now_ns = now_ns;
    return now_ns - start_ns >= cl->options.spin_ns;
}

static int wait_for_event(struct ringlet_client *cl, uint64_t deadline_ns)
{
    int error = show(cl);
    if (likely(error != -EAGAIN))
        return error;
    if (deadline_ns == 0)
        return -ETIMEDOUT;
    uint64_t start_ns = doorbell_now_ns(), now_ns;
    for (;;) {
        bool sleepy = poll_ring(cl, start_ns, deadline_ns, &now_ns);
        error = show(cl);
        if (error != -EAGAIN)
            return error;
        if (now_ns >= deadline_ns || is_stuck(cl, start_ns, now_ns))
            return -ETIMEDOUT;
        if (!sleepy)
            continue;
        error = sleep_once(cl, deadline_ns, now_ns);
        if (error < 0 && error != -ETIMEDOUT)
            return error;
    }
}

api_export int ringlet_wait(struct ringlet_client *cl, struct ringlet_event *ret_ev,
                            uint64_t deadline_ns)
{
    int error = enter(cl, deadline_ns);
    if (unlikely(error < 0))
        return error;
    if (!cl->down.is_shown)
        error = wait_for_event(cl, deadline_ns);
    if (error == 0)
        fill_event(cl, &cl->down.shown.cqe, ret_ev);
    leave(cl);
    return error;
}

api_export int ringlet_fd(const struct ringlet_client *cl)
{
    if (client_is_observer(cl))
        return -ENOTCONN;
    return cl->link.bell_down_fd >= 0 ? cl->link.bell_down_fd : -EPIPE;
}

/* Under the lock: 0 armed, -EALREADY an event is there, or lost. */
static int arm(struct ringlet_client *cl)
{
    struct client_down *down = &cl->down;
    if (down->is_shown)
        return -EALREADY;
    /* Read or not, a hang-up is seen here: an edge that told of it with a bell comes once. */
    if (down->bell_may_wait) {
        (void)bell_down_drain(cl->link.bell_down_fd);
        if (hung_up(cl))
            (void)lose(cl);
    }
    wait_word_withdraw(&down->wait); /* a new epoch: the last one's bell may be drained */
    if (down->head_told != down->cq.head)
        tell_head(cl);
    down->bell_may_wait = down->is_armed = true;
    wait_word_announce(&down->wait);
    /* the acquire pairs with client_lose */
    if (ring_reader_ready(&down->cq) == 0 && load_acquire(&cl->lost) == 0 && !cl->n_lost)
        return 0;
    disarm(down);
    return -EALREADY;
}

api_export int ringlet_arm(struct ringlet_client *cl)
{
    int error = enter(cl, RINGLET_FOREVER);
    if (unlikely(error < 0))
        return error;
    error = arm(cl);
    leave(cl);
    return error;
}
