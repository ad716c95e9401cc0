/*
 * One tick of the request path, top to bottom. A pass with nothing to do costs a few loads; the
 * clock is read at most once a pass, and only when somebody needs it.
 *
 *   bells, deaths, timers -> intake -> encode -> commit -> plan -> answer -> bells -> rest
 */
#include "daemon/serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/arena.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/payload.h"
#include "daemon/base/trace.h"
#include "daemon/session/intake.h"
#include "daemon/session/publish.h"

enum {
    WATCH_TURNS = 32, /* looks of an idle loop between two looks at the clock */
    CLOCK_TICKS = 64, /* passes of a busy one */
};
#define SLOW_NS (10 * NS_PER_MS)

uint64_t serve_now(struct serve *sv)
{
    if (!sv->clock_fresh) {
        sv->now_ns = clock_now_ns();
        sv->clock_fresh = true;
    }
    return sv->now_ns;
}

/* ---- Intake ---- */

static void on_cancel(void *context, struct session *s, uint16_t slot)
{
    struct request *request = s->slot[slot].request;
    if (request) /* else its entry is still being copied: accept_item looks at the word again */
        answer_cancel(context, request, RINGLET_REASON_CANCELLED, 0);
}

/* One session's turn. */
static bool intake(struct serve *sv, struct session *s)
{
    if (s->doomed)
        return true;
    bool busy = publish_look(s);
    if (!list_empty(&s->blocked) && !s->starved &&
        !BUG(201)) { /* it read on, or has read on meanwhile */
        answer_blocked(sv, s);
        busy = true;
    } else if (ring_writer_free(&s->cq) <= s->n_owed) {
        publish_refresh(s);
    }
    intake_cancels(s, on_cancel, sv);
    if (!s->pending.taken && ring_reader_ready(&s->sq) == 0)
        return busy;
    struct intake_item item;
    uint32_t n = 0;
    intake_begin(s);
    for (; n < s->bite && s->deficit && intake_take(s, &sv->env, &item); n++)
        accept_item(sv, s, &item);
    intake_bitten(s, n);
    busy |= n > 0;
    if (!s->doomed)
        intake_end(s);
    return busy || s->pending.placed;
}

/* A NOP that came alone, found by an idle loop. Returns as intake_take_nop. */
static int answer_nop(struct serve *sv, struct session *s)
{
    struct ringlet_sqe sqe;
    int got = intake_take_nop(s, &sv->env, &sqe);
    if (got <= 0)
        return got;
    publish_done(s, &sqe);
    intake_end(s);
    intake_bitten(s, 1);
    return got;
}

static bool serve_intake(struct serve *sv)
{
    struct sessions *all = sv->sessions;
    bool busy = false;
    uint32_t n = all->n_hot, from = n ? all->next_hot++ % n : 0;
    for (uint32_t i = 0; i < n && all->n_hot; i++)
        busy |= intake(sv, all->hot[(from + i) % all->n_hot]);
    return busy;
}

/* ---- Encoder, executor, scheduler ---- */

static void trace_step(enum trace_kind kind, const struct step *step, uint64_t from_ns)
{
    trace_put(&(struct trace_event){ .at_ns = from_ns,
                                     .end_ns = clock_now_ns(),
                                     .step = step->number,
                                     .rows = (uint32_t)step->n_row,
                                     .seqs = (uint32_t)step->n_seq,
                                     .tokens = (uint32_t)step->n_sample,
                                     .kind = (uint8_t)kind,
                                     .model = (uint8_t)step->model,
                                     .status = (int16_t)step->status });
}

/* Requests that lost their KV since the scheduler had `before`. */
static void trace_preempted(const struct serve_model *m, int model, uint64_t before)
{
    struct sched_stats stats;
    sched_stats(m->sched, &stats);
    if (stats.preemptions != before)
        trace_put(&(struct trace_event){ .at_ns = clock_now_ns(),
                                         .seqs = (uint32_t)(stats.preemptions - before),
                                         .kind = TRACE_PREEMPTED,
                                         .model = (uint8_t)model });
}

static bool serve_encoded(struct serve *sv)
{
    struct encode_job *job;
    bool busy = false;
    while ((job = encode_thread_collect(sv->encode_thread))) {
        struct serve_request *side = job->owner;
        struct request *request = side->request;
        busy = true;
        encode_turns_back(&sv->encode_turns, job->text_bytes);
        side->encoding = false;
        request->n_prompt = job->n_id;
        if (side->ended && !BUG(202))
            serve_released(sv, request);
        else if (job->reason)
            answer_refusal(sv, request, job->reason, job->error, VALIDATE_SQE_FIELD(input_off));
        else
            accept_encoded(sv, request);
    }
    if (busy)
        accept_encode_next(sv);
    return busy;
}

/*
 * A step failed, and with it all that ran. A device that was only short of memory is asked for less
 * from now on, once for the steps that were planned alike (`news`); any other is given up.
 */
static void step_failed(struct serve *sv, const struct serve_model *m, int status, bool news)
{
    const char *fault = executor_fault(m->executor);
    bool shortage = status == -ENOMEM && !fault;
    if (shortage && !news)
        return;
    uint32_t n = shortage ? sched_shrink(m->sched, serve_now(sv)) : 0;
    if (n > 0) {
        log_error(EXEC, "the device is out of memory: %u sequences at once from now on", n);
        return;
    }
    log_error(EXEC, "device fault: %s; the daemon starts anew",
              fault ? fault : strerrorname_np(-status));
    sv->end = SERVE_ENGINE_LOST;
}

static void commit(struct serve *sv, struct step *step)
{
    struct serve_model *m = &sv->model[step->model];
    int status = step->status;
    uint64_t from = trace_on() ? clock_now_ns() : 0;
    bool news = sched_commit(m->sched, step, serve_now(sv));
    tell_step(sv, step);
    sv->step_ns = step->ended_ns - step->started_ns;
    placement_step(&sv->placement, sv->step_ns, sv->executor, sv->n_executor);
    if (trace_on())
        trace_step(TRACE_COMMITTED, step, from);
    m->free_step[m->n_free++] = step;
    m->dirty |= !BUG(203);
    sv->n_in_flight--;
    sv->progress_ns = serve_now(sv);
    board_steps(sv->board, ++sv->steps);
    if (status < 0 && sv->end != SERVE_ENGINE_LOST && !BUG(204))
        step_failed(sv, m, status, news);
}

static bool serve_commit(struct serve *sv)
{
    bool busy = false;
    for (uint32_t i = 0; i < sv->n_executor; i++) {
        struct step *step;
        while ((step = executor_collect(sv->executor[i]))) {
            commit(sv, step);
            busy = true;
        }
    }
    return busy;
}

/* sched_tick, seen by the trace. */
static int plan(struct serve *sv, const struct serve_model *m, struct step *step)
{
    struct sched_stats before;
    if (!trace_on())
        return sched_tick(m->sched, serve_now(sv), step);
    sched_stats(m->sched, &before);
    uint64_t from = clock_now_ns();
    int n = sched_tick(m->sched, serve_now(sv), step);
    if (n > 0)
        trace_step(TRACE_PLANNED, step, from);
    trace_preempted(m, step->model, before.preemptions);
    return n;
}

/* Did something change behind serve_plan, memory that answers gave back, say? */
static bool plan_is_due(const struct serve *sv)
{
    for (uint32_t i = 0; i < sv->n_model; i++)
        if (sv->model[i].dirty && sv->model[i].n_free > 0)
            return true;
    return false;
}

/* Fill the pipe: up to two steps of a model in flight. */
static bool serve_plan(struct serve *sv)
{
    bool busy = false;
    for (uint32_t i = 0; i < sv->n_model; i++) {
        struct serve_model *m = &sv->model[i];
        while (m->dirty && m->n_free > 0 && sv->end != SERVE_ENGINE_LOST) {
            struct step *step = m->free_step[m->n_free - 1];
            step_reset(step);
            if (plan(sv, m, step) <= 0) {
                m->dirty = false;
                break;
            }
            int error = executor_submit(m->executor, step);
            assert(!error); /* the bound is ours: free_step */
            m->n_free--;
            if (sv->n_in_flight++ == 0)
                sv->progress_ns = serve_now(sv);
            busy = true;
        }
    }
    return busy;
}

static void serve_answer(struct serve *sv)
{
    for (uint32_t i = 0; i < sv->n_model; i++) {
        struct list *outbox = sched_outbox(sv->model[i].sched);
        if (list_empty(outbox))
            continue;
        uint64_t from = trace_on() ? clock_now_ns() : 0;
        uint32_t n = 0;
        sv->n_told_tokens = 0;
        for (; !list_empty(outbox); n++)
            answer(sv, list_first(outbox, struct request, outbox_node));
        if (trace_on())
            trace_put(&(struct trace_event){ .at_ns = from,
                                             .end_ns = clock_now_ns(),
                                             .seqs = n,
                                             .tokens = sv->n_told_tokens,
                                             .kind = TRACE_PUBLISHED,
                                             .model = (uint8_t)i });
    }
}

void serve_released(void *context, struct request *request)
{
    struct serve *sv = context;
    struct serve_request *side = &sv->request[request->pool_index];
    intake_give(sv->sessions, side->user, BUG(205) ? NULL : request->payload, side->payload_bytes);
    intake_give(sv->sessions, side->user, BUG(206) ? NULL : (void *)side->joined,
                side->joined_bytes);
    side->joined = NULL;
    side->user->n_request--;
    request_put(sv->requests, request);
    sv->n_request--;
}

/* ---- Time ---- */

/*
 * Does the engine stand still? The executor says so of a step that it has begun; no step back for
 * as long covers a thread that never gets to it.
 */
static void watch_engine(struct serve *sv, uint64_t now)
{
    uint64_t waited_ns = watch_look(&sv->progress_watch, sv->progress_ns, now);
    bool stuck = sv->n_in_flight && waited_ns > sv->watchdog_ns;
    for (uint32_t i = 0; i < sv->n_executor; i++)
        stuck |= executor_stuck(sv->executor[i], now);
    if (!stuck || sv->end == SERVE_ENGINE_LOST || BUG(208))
        return;
    log_error(EXEC, "no step came back for as long as the watchdog allows; the daemon starts anew");
    sv->end = SERVE_ENGINE_LOST;
}

/* What need not happen each pass. True: something came of it. */
static bool serve_time(struct serve *sv)
{
    uint64_t now = serve_now(sv);
    board_beat(sv->board, now);
    bool busy = timer_expire(&sv->wheel, now) > 0 || now >= sv->sched_next_ns;
    if (now >= sv->sched_next_ns)
        for (uint32_t i = 0; i < sv->n_model; i++) {
            sched_expire(sv->model[i].sched, now);
            sv->model[i].dirty = true;
        }
    sv->sched_next_ns = NS_NEVER;
    for (uint32_t i = 0; i < sv->n_model; i++)
        sv->sched_next_ns = min_of(sv->sched_next_ns, sched_next_ns(sv->model[i].sched));
    if (now < sv->slow_ns)
        return busy;
    sv->slow_ns = now + SLOW_NS;
    sessions_cool_idle(sv->sessions);
    placement_turn(&sv->placement, now, sv->executor, sv->n_executor);
    tell_stats(sv);
    watch_engine(sv, now);
    return busy;
}

/* ---- Rest: poll on for the spin budget, then sleep ---- */

static bool something_came(struct serve *sv)
{
    if (sessions_ready(sv->sessions) || encode_thread_ready(sv->encode_thread))
        return true;
    bool came = false;
    for (uint32_t i = 0; i < sv->n_executor; i++) {
        struct step *step = executor_collect(sv->executor[i]);
        if (step) {
            commit(sv, step);
            came = true;
        }
    }
    return came;
}

static void sleep_until_rung(struct serve *sv)
{
    uint64_t until = min_of(timer_next_ns(&sv->wheel), sv->sched_next_ns);
    if (sv->n_request)
        until = min_of(until, serve_now(sv) + LIMIT_HEARTBEAT_NS);
    tell_stats(sv);
    tell_log(sv);
    struct wake *wake = loop_wake(sv->loop);
    sessions_announce(sv->sessions);
    wake_announce(wake); /* its fence is for the sessions' words too */
    bool slept = BUG(207) || !something_came(sv), in_flight = sv->n_in_flight > 0;
    uint64_t from = serve_now(sv);
    if (slept) {
        stats_add(sv->board->stats.daemon[STATS_SLEEPS], 1);
        loop_wait(sv->loop, until);
    }
    wake_awake(wake);
    sv->clock_fresh = false;
    sessions_awake(sv->sessions, slept);
    sv->active_ns = serve_now(sv);
    if (slept)
        placement_do(
            &sv->placement,
            placement_slept(&sv->placement, in_flight, sv->active_ns - from, sv->active_ns),
            sv->executor, sv->n_executor);
}

/*
 * An idle loop's inner circle: looks at everything that can bring work, and at nothing else. What
 * can be answered at once is, and need not wait for a whole pass; the rest is handled by one.
 */
static bool watch_for_work(struct serve *sv)
{
    struct sessions *all = sv->sessions;
    for (int i = 0, at_once = 0; i < WATCH_TURNS; i++) {
        for (uint32_t k = 0; k < all->n_hot; k++) {
            struct session *s = all->hot[k];
            int got = answer_nop(sv, s);
            if (likely(got == 0 || (got < 0 && !BUG(256))) && !intake_ready(s))
                continue;
            sv->clock_fresh = false;
            bool lone = (got > 0 || intake(sv, s)) && all->n_hot == 1 && s->bite == 1;
            publish_flush(all);
            if (sv->n_request > 0 || sessions_changed(all) || ++at_once == CLOCK_TICKS)
                return true;
            if (lone) /* else there are others to look at meanwhile */
                pace_published(&s->pace);
            i = 0; /* all of it is answered: go on looking */
        }
        if (sessions_changed(all) || encode_thread_ready(sv->encode_thread) ||
            loop_has_events(sv->loop))
            return true;
        for (uint32_t k = 0; k < sv->n_executor; k++)
            if (executor_ready(sv->executor[k]))
                return true;
        cpu_relax();
    }
    return false;
}

static void rest(struct serve *sv, bool busy)
{
    if (busy) {
        sv->active_ns = 0; /* taken from the clock when the first idle pass reads it */
        return;
    }
    uint64_t budget = sv->n_in_flight == 0 ? sv->spin.idle_ns
                      : sv->step_ns <= sv->spin.short_ns
                          ? max_of(sv->spin.busy_ns, sv->spin.short_ns)
                          : sv->spin.busy_ns;
    if (budget && watch_for_work(sv)) {
        sv->active_ns = 0; /* work it was: the spin budget begins anew */
        return;
    }
    uint64_t now = serve_now(sv);
    if (sv->active_ns == 0)
        sv->active_ns = now;
    bool go_on = serve_time(sv) || sv->end != SERVE_RUNNING; /* an end to be told, or the end */
    if (!go_on && budget != NS_NEVER && now - sv->active_ns >= budget)
        sleep_until_rung(sv);
}

/* ---- The tick ---- */

static void serve_tick(struct serve *sv)
{
    stats_add(sv->board->stats.daemon[STATS_PASSES], 1);
    bool busy = loop_poll(sv->loop) > 0; /* bells, deaths, connections, signals */
    sv->clock_fresh = false;
    sv->loop_text_left = LIMIT_LOOP_TEXT_PASS_BYTES;
    sessions_begin(sv->sessions, sv->now_ns);
    if (!BUG(270))
        sessions_end_doomed(sv->sessions); /* no plan of this pass has their work */
    busy |= serve_intake(sv);              /* rings -> requests */
    busy |= serve_encoded(sv);             /* texts -> ids -> queue */
    busy |= serve_commit(sv);              /* finished steps -> tokens, ends */
    busy |= serve_plan(sv);                /* queue -> steps -> executor */
    serve_answer(sv);                      /* tokens, text, ends -> rings */
    publish_flush(sv->sessions);           /* one fence, then the bells */
    sessions_reap(sv->sessions);
    listener_turn(&sv->listener);
    if (++sv->n_tick % CLOCK_TICKS == 0)
        serve_now(sv); /* a loop that always finds work must not forget the time */
    if (sv->clock_fresh)
        busy |= serve_time(sv);
    busy |= accept_waiting(sv);
    rest(sv, busy || plan_is_due(sv));
}

/* ---- Beginning and end ---- */

static void on_drain_over(struct timer *t, uint64_t now_ns)
{
    (void)now_ns;
    container_of(t, struct serve, drain_timer)->end = SERVE_DRAINED;
}

static void on_signal(void *context, uint32_t events)
{
    struct serve *sv = context;
    struct signalfd_siginfo info;
    (void)events;
    while (read(sv->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGUSR2 && sv->trace_fd < 0)
            log_info(DAEMON, "SIGUSR2: there is no trace to write (start with --trace FILE)");
        else if (info.ssi_signo == SIGUSR2 && sv->trace_state == SERVE_TRACE_IDLE)
            sv->trace_state = SERVE_TRACE_ASKED;
        if (info.ssi_signo == SIGHUP || info.ssi_signo == SIGUSR2 || sv->end != SERVE_RUNNING)
            continue;
        if (sv->draining) {
            log_info(DAEMON, "second signal: ending at once");
            sv->end = SERVE_AT_ONCE;
            continue;
        }
        log_info(DAEMON, "%s: draining, %u requests in flight, %llu s at most",
                 info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT", sv->n_request,
                 (unsigned long long)(sv->drain_ns / NS_PER_S));
        sv->draining = sv->env.draining = true;
        listener_stop(&sv->listener);
        sessions_drain(sv->sessions);
        timer_set(&sv->wheel, &sv->drain_timer, clock_now_ns() + sv->drain_ns);
    }
}

/* Every request that is left ends with this reason, and its END goes out. */
static void end_all(struct serve *sv, uint16_t reason, uint32_t detail)
{
    for (uint32_t i = BUG(209); i < sv->requests_max; i++) {
        struct serve_request *side = &sv->request[i];
        if (side->session && !side->ended)
            answer_cancel(sv, side->request, reason, detail);
    }
    serve_answer(sv);
    publish_flush(sv->sessions);
}

enum serve_end serve_run(struct serve *sv, int listen_fd)
{
    int error = listener_start(&sv->listener, sv->sessions, listen_fd);
    if (!error)
        error = loop_watch(sv->loop, sv->signal_fd, POLLIN, on_signal, sv, &sv->signal_watch);
    assert(!error); /* the first watches of a table sized for all */
    sv->slow_ns = clock_now_ns();
    while (sv->end == SERVE_RUNNING) {
        serve_tick(sv);
        if (sv->draining && sv->n_request == 0)
            sv->end = SERVE_DRAINED;
        if (unlikely(log_pending()))
            tell_log(sv);
        if (unlikely(sv->trace_state != SERVE_TRACE_IDLE))
            tell_trace(sv);
    }
    /* the next execution is to see all CPUs */
    placement_turn(&sv->placement, NS_NEVER, sv->executor, sv->n_executor);
    bool lost = sv->end == SERVE_ENGINE_LOST;
    listener_stop(&sv->listener); /* who comes now waits for the next execution */
    end_all(sv, lost ? RINGLET_REASON_ERROR_ENGINE : RINGLET_REASON_CANCELLED, 0);
    tell_stats(sv); /* the last word: who has the BOARD mapped reads on */
    sessions_close(sv->sessions, RINGLET_SESSION_ERROR_SHUTDOWN);
    loop_unwatch(sv->loop, sv->signal_watch);
    for (int i = 0;
         i < 100 && (sv->log_writing || log_pending() || sv->trace_state == SERVE_TRACE_WRITING);
         i++) {
        tell_log(sv);
        loop_wait(sv->loop, clock_now_ns() + 10 * NS_PER_MS);
    }
    return sv->end;
}

size_t serve_bytes(void)
{
    return sizeof(struct serve) + LIMIT_REQUESTS * sizeof(struct serve_request) +
           LIMIT_SEQUENCES * sizeof(struct serve_sequence) + accept_bytes() + SERVE_OUT_BYTES +
           4096 + sessions_bytes();
}

int serve_create(const struct serve_config *config, struct arena *arena, struct serve **ret)
{
    struct serve *sv = arena_new(arena, struct serve);
    if (!sv)
        return -ENOMEM;
    sv->request = arena_array(arena, struct serve_request, config->requests_max);
    sv->sequence = arena_array(arena, struct serve_sequence, config->sequences_max);
    sv->out = arena_take(arena, SERVE_OUT_BYTES, CACHE_LINE);
    if (!sv->request || !sv->sequence || !sv->out)
        return -ENOMEM;
    int error = accept_create(sv, arena);
    if (!error)
        error =
            request_pool_create(config->requests_max, config->sequences_max, arena, &sv->requests);
    if (error)
        return error;
    sv->requests_max = config->requests_max;
    sv->sequences_max = config->sequences_max;
    sv->loop = config->loop;
    sv->board = config->board;
    sv->payload = config->payload;
    sv->spin = config->spin;
    sv->placement.n_core = config->spin.n_core;
    sv->drain_ns = config->drain_ns;
    sv->watchdog_ns = config->watchdog_ns;
    sv->seeds.key[0] = config->seed_key[0];
    sv->seeds.key[1] = config->seed_key[1];
    sv->signal_fd = config->signal_fd;
    sv->trace_fd = config->trace_fd;
    sv->sched_next_ns = NS_NEVER;
    sv->env.models = sv->validate_models;
    sv->env.features = RINGLET_FEATURES_KNOWN;
    timer_wheel_init(&sv->wheel, clock_now_ns());
    timer_init(&sv->drain_timer, on_drain_over);
    struct sessions_config sessions = {
        .loop = sv->loop,
        .wheel = &sv->wheel,
        .board = sv->board,
        .stats = &sv->board->stats,
        .payload = sv->payload,
        .daemon_generation = config->daemon_generation,
        .slow_client_ns = config->slow_client_ns,
        .sessions_max = config->sessions_max,
        .sessions_uid_max = config->sessions_uid_max,
        .shm_uid_bytes_max = config->shm_uid_bytes_max,
        .grants = config->grants,
        .n_grant = config->n_grant,
        .groups = config->groups,
        .n_group = config->n_group,
        .stops_bytes = sizeof(struct detok_stops),
        .on_gone = answer_gone,
        .on_slow = answer_slow,
        .context = sv,
    };
    error = sessions_create(&sessions, arena, &sv->sessions);
    *ret = sv;
    return error;
}
