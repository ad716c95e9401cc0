/* Start-up as main.c does it, with a simulated device, and the daemon's books. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/assert.h"
#include "daemon/base/arena.h"
#include "daemon/base/clock.h"
#include "daemon/base/payload.h"
#include "daemon/base/pool.h"
#include "daemon/sched/sched_internal.h"
#include "daemon/session/intake.h"
#include "daemon/session/publish.h"
#include "daemon/text/template.h"
#include "daemon/text/vocab.h"
#include "tests/sim/sim_serve.h"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        int must_error = (call);                                                                   \
        if (must_error) {                                                                          \
            fprintf(stderr, "sim_serve: " #call ": %s\n", strerror(-must_error));                  \
            exit(2);                                                                               \
        }                                                                                          \
    } while (0)

const char *const sim_groups[SIM_GROUPS] = { "crew", "crew of two" };

static struct sim *opened;

static const char template_source[] =
    "{% for m in messages %}{{ m.role }}:{{ m.content }}<eos>{% endfor %}";

/* ---- Start ---- */

static void draw_model(struct sim *sim, uint32_t i, struct config *config)
{
    struct prng *p = &sim->prng;
    struct engine_model *m = &sim->engine.model[i];
    struct executor_model *l = &m->loaded;
    static const char *const policies[] = { "fcfs", "fair", "deadline", "longest-prefix" };
    struct config_model_options *o = &config->model[i].options;
    snprintf(o->policy, sizeof(o->policy), "%s", policies[prng_below(p, ARRAY_SIZE(policies))]);
    o->prefix_cache = prng_chance(p, 80);
    o->cadence_ms = prng_chance(p, 50) ? 0 : 1;
    m->batch_max = (int)prng_between(p, 1, prng_chance(p, 50) ? 4 : 16);
    sim->context[i] = l->context = (int)prng_between(p, 20, prng_chance(p, 50) ? 64 : SIM_CONTEXT);
    uint32_t most = prng_chance(p, 50) ? 8 : prng_chance(p, 60) ? 40 : 128;
    sim->kv_blocks[i] = l->kv_blocks = (int)prng_between(p, 2, most);
    if (sim->lone)
        sim->kv_blocks[i] = l->kv_blocks = 1 << 12;
    l->kv_host_blocks = prng_chance(p, 50) ? (int)prng_between(p, 1, 32) : 0;
    l->info.vocab = 258;
    snprintf(l->info.name, sizeof(l->info.name), "fake%u", i);
    snprintf(l->device, sizeof(l->device), "%s", sim->batch_invariant ? "cpu" : "gpu");
    l->limits = (struct step_limits){
        .rows_max = m->batch_max + (int)prng_below(p, prng_chance(p, 50) ? 8 : 128),
        .seqs_max = m->batch_max,
        .samples_max = m->batch_max + (int)prng_below(p, 16),
        .blocks_max = m->batch_max * (l->context / 16 + 1),
        .lists_max = 64,
        .moves_max = (int)prng_between(p, 1, 16),
        .vocab = l->info.vocab,
    };
    if (prng_chance(p, 30)) {
        l->info.sampling.set = MODEL_SETS_TEMPERATURE | MODEL_SETS_TOP_K;
        l->info.sampling.temperature = 0.5f;
        l->info.sampling.top_k = 7;
    }
    MUST(vocab_open_bytes(&m->vocab));
    char why[160];
    MUST(
        template_compile(template_source, strlen(template_source), &m->template, why, sizeof(why)));
}

static void draw_faults(struct sim *sim, struct exec_faults *faults)
{
    struct prng *p = &sim->prng;
    static const uint32_t step_ns[] = { 100, 5000, 200000, 5000000 };
    *faults = (struct exec_faults){ .step_ns = step_ns[prng_below(p, ARRAY_SIZE(step_ns))],
                                    .watchdog_ns = 100 * NS_PER_MS };
    if (prng_chance(p, 10))
        faults->fail = prng_between(p, 1, 30);
    if (prng_chance(p, 10))
        faults->bad = prng_between(p, 1, 30);
    if (prng_chance(p, 10))
        faults->oom = prng_between(p, 1, 30);
    if (prng_chance(p, 3))
        faults->hang = prng_between(p, 1, 200);
}

static void make_serve(struct sim *sim, struct config *config)
{
    struct prng *p = &sim->prng;
    static const uint64_t spins[] = { 0, 20 * NS_PER_US, NS_NEVER };
    bool roomy = sim->crowd || sim->lone;
    sim->tiny = prng_chance(p, 40) && !roomy;
    sim->slow_client_ns = prng_chance(p, 50) && !sim->lone ? 20 * NS_PER_MS : 10 * NS_PER_S;
    /* Session tables come from it too. */
    uint64_t payload_bytes = sim->tiny ? prng_between(p, 40, 400) << 10 : 16 << 20;
    MUST(payload_create(payload_bytes, sim->arena, &sim->payload));
    struct loop *loop;
    MUST(loop_create(0, sim->arena, &loop));
    static struct session_grant grants[SIM_UIDS + 1];
    for (uint32_t uid = 0; uid < SIM_UIDS; uid++) {
        sim->groups[uid] = prng_below(p, 1 << SIM_GROUPS);
        grants[uid] = (struct session_grant){ .uid = uid, .groups = sim->groups[uid] };
    }
    grants[SIM_UIDS] = (struct session_grant){ .uid = 7, .sessions_max = 1 };
    struct serve_config serve = {
        .loop = loop,
        .board = &sim->board,
        .payload = sim->payload,
        .daemon_generation = 4 + sim->n_life,
        .slow_client_ns = sim->slow_client_ns,
        .drain_ns = prng_chance(p, 50) ? 30 * NS_PER_S : 5 * NS_PER_MS,
        .watchdog_ns = 100 * NS_PER_MS,
        .spin = { spins[prng_below(p, 3)], spins[prng_below(p, 3)] },
        .requests_max = sim->tiny ? prng_between(p, 4, 40) : SIM_REQUESTS,
        .sequences_max = 400,
        .sessions_max = prng_chance(p, 10) && !roomy ? 2 : LIMIT_SESSIONS,
        .sessions_uid_max = prng_chance(p, 10) && !roomy ? 2 : LIMIT_SESSIONS_UID,
        .shm_uid_bytes_max = LIMIT_SHM_UID_BYTES,
        .grants = grants,
        .n_grant = ARRAY_SIZE(grants),
        .groups = sim_groups,
        .n_group = SIM_GROUPS,
        .seed_key = { prng_next(p), 0 },
        .signal_fd = sim->signal_fd,
        .trace_fd = -1,
    };
    MUST(serve_create(&serve, sim->arena, &sim->serve));
    (void)config;
}

static void run_daemon(void *arg)
{
    struct sim *sim = arg;
    sim->end = serve_run(sim->serve, sim->listen_fd);
    sim->returned = true;
    sim->up = false;
}

/*
 * A request that found no memory for its output in this tick was told so; had another model any
 * running, it had to wait for theirs. Looked at when it is let go, or else after the tick.
 */
static void check_refusal(struct sim *sim, uint32_t request_i)
{
    const struct serve_request *side = &sim->serve->request[request_i];
    const struct request *request = side->request;
    bool ended = side->scheduled && request->state == REQUEST_DONE, seen = sim->ended[request_i];
    sim->ended[request_i] = ended;
    if (!ended || seen || request->seq[0]->reason != RINGLET_REASON_REJECTED ||
        request->seq[0]->detail != RINGLET_ERROR_OVER_QUOTA)
        return;
    for (uint32_t i = 0; i < sim->n_model; i++) {
        struct sched_stats stats;
        sched_stats(sim->serve->model[i].sched, &stats);
        if (i != request->model && stats.running > 0)
            os_fail("a request is refused for memory that model %u's requests will give back", i);
    }
}

static void on_released(void *context, struct request *request)
{
    struct serve *sv = context;
    check_refusal(opened, request->pool_index);
    opened->ended[request->pool_index] = false;
    serve_released(sv, request);
}

void daemon_open(struct sim *sim)
{
    static struct config config;
    struct prng other = sim->prng, *p = &sim->prng;
    if (sim->n_life++ == 0)
        sim->birth = sim->prng;
    sim->prng = sim->birth;
    opened = sim;
    memset(sim->ended, 0, sizeof(sim->ended));
    os_say("daemon %u starts\n", sim->n_life);
    struct format_error err;
    MUST(arena_create(256 << 20, &sim->arena));
    struct board_config board = { .version = "sim",
                                  .daemon_generation = 4 + sim->n_life,
                                  .start_ns = os.now_ns,
                                  .n_model = SIM_MODELS };
    board_limits_default(&board.limits);
    MUST(board_create(&board, &sim->board));
    sim->signals = os_object_new(OS_SIGNALS);
    sim->signal_fd = os_fd_new(OS_SIGNALS, sim->signals);
    sim->listen_fd = os_listen();
    sim->n_model = prng_chance(p, 25) ? 2 : 1;
    sim->batch_invariant = prng_chance(p, 50);
    memset(&config, 0, sizeof(config));
    memset(&sim->engine, 0, sizeof(sim->engine));
    config.n_model = sim->engine.n_model = sim->n_model;
    if (prng_chance(p, 30)) {
        config.user[0] = (struct config_user){ .uid = 1, .weight = 3, .running_max = 2 };
        config.n_user = 1;
    }
    make_serve(sim, &config);
    struct exec_faults faults;
    draw_faults(sim, &faults);
    sim->executor = sim->engine.executor = exec_open(&faults, loop_wake(sim->serve->loop));
    for (uint32_t i = 0; i < sim->n_model; i++)
        draw_model(sim, i, &config);
    if (sim->lone)
        exec_calm(sim->executor);
    MUST(engine_attach(&sim->engine, &config, sim->serve, sim->arena, &err));
    struct encode_model models[LIMIT_MODELS];
    engine_encode_models(&sim->engine, models);
    MUST(encode_thread_create(models, sim->n_model, sim->serve->requests_max, sim->arena,
                              loop_wake(sim->serve->loop), &sim->encode_thread));
    sim->serve->encode_thread = sim->encode_thread;
    for (uint32_t i = 0; i < sim->n_model; i++) {
        const struct executor_model *l = &sim->engine.model[i].loaded;
        sim->fake[i] = fake_create(l->kv_blocks, l->kv_host_blocks, sim->engine.model[i].batch_max,
                                   l->info.vocab);
        fake_alphabet(sim->fake[i], sim->alphabet, (int)sim->n_alphabet);
        exec_add(sim->executor, sim->fake[i], sim->serve->model[i].sched);
        sim->serve->model[i].sched->config.released = on_released;
        sim->defaults[i] = sim->serve->validate_models[i].defaults;
        if (sim->n_life > 1)
            continue;
        sim->truth[i] = fake_create(1, 0, 1, l->info.vocab);
        fake_alphabet(sim->truth[i], sim->alphabet, (int)sim->n_alphabet);
    }
    sim->up = true;
    sim->down = sim->returned = false;
    os.task[OS_DAEMON] = (struct os_task){ .used = true };
    task_start(OS_DAEMON, run_daemon, sim);
    if (sim->n_life > 1)
        sim->prng = other;
}

static void free_all(struct sim *sim)
{
    encode_thread_stop(sim->encode_thread);
    engine_close(&sim->engine); /* the executor too */
    arena_free(sim->arena);
    sim->arena = NULL;
}

static void leave(struct sim *sim)
{
    sim->up = sim->returned = false;
    sim->down = true;
    sim->had_failed |= exec_failed(sim->executor);
    sim->had_bad |= exec_drew_badly(sim->executor);
    os.task[OS_DAEMON].done = true;
    os_daemon_died();
    free_all(sim);
}

void daemon_kill(struct sim *sim)
{
    os_say("the daemon is killed\n");
    sim->killed = true;
    leave(sim);
}

void daemon_again(struct sim *sim)
{
    os_say("the daemon begins anew\n");
    daemon_check_ended(sim);
    sim->reborn = true;
    leave(sim);
}

void daemon_close(struct sim *sim)
{
    if (!sim->arena)
        return;
    board_free(&sim->board);
    free_all(sim);
}

/* ---- Checks ---- */

void daemon_show(const struct sim *sim)
{
    const struct serve *sv = sim->serve;
    printf("daemon: %s, spin %llu %llu, %u requests, %u steps in flight, payload %zu of %zu\n",
           sim->up ? "up" : "down", (unsigned long long)sv->spin.idle_ns,
           (unsigned long long)sv->spin.busy_ns, sv->n_request, sv->n_in_flight,
           payload_used(sim->payload), payload_bytes(sim->payload));
    for (uint32_t i = 0; i < sim->n_model; i++) {
        struct sched_stats stats;
        sched_stats(sv->model[i].sched, &stats);
        printf("model %u: context %d, %u running, %u queued, %u handles, blocks %u free, %u "
               "cached, %u owned of %u\n",
               i, sim->context[i], stats.running, stats.queued, stats.handles, stats.kv_free,
               stats.kv_cached, stats.kv_owned, stats.kv_total);
    }
    struct sessions *all = sv->sessions;
    for (uint32_t i = 0; i < pool_size(all->pool); i++) {
        const struct session *s = pool_get(all->pool, i, pool_generation(all->pool, i));
        if (s)
            printf("session %u of pid %d: phase %d, %s, %u busy, %s%s%s%s\n", s->id, (int)s->pid,
                   (int)s->phase, s->hot ? "hot" : "cold", s->n_busy, s->starved ? "starved " : "",
                   s->pending.taken ? "pending " : "", s->doomed ? "doomed " : "",
                   s->muted ? "muted" : "");
    }
    for (uint32_t i = 0; i < sv->requests_max; i++) {
        const struct serve_request *side = &sv->request[i];
        struct request *r = side->request;
        if (r && request_get(sv->requests, i, r->pool_generation) == r)
            printf("request %u tag %llu: state %d, op %u, %u prompt, %u of %u ended, %s%s%s\n", i,
                   (unsigned long long)r->tag, (int)r->state, r->op, r->n_prompt, r->n_seq_ended,
                   r->n_seq, side->session ? "" : "nobody's ", side->encoding ? "encoding " : "",
                   side->ended ? "ended" : "");
    }
    for (int i = 0; i < TASKS_MAX; i++)
        if (os.task[i].used)
            printf("task %d: %s%s\n", i, os.task[i].done ? "done " : "",
                   os.task[i].ready ? "blocked" : "");
}

static void check_session(const struct session *s)
{
    if (s->phase != SESSION_OPEN || s->doomed)
        return;
    uint32_t n_busy = 0;
    for (uint32_t i = 0; i < s->layout.n_slot; i++) {
        bool mapped = s->busy_map[i / 64] >> (i % 64) & 1;
        n_busy += s->slot[i].busy;
        if (mapped != s->slot[i].busy)
            os_fail("session %u: slot %u is busy here and free there", s->id, i);
        if (!s->slot[i].busy && s->slot[i].request)
            os_fail("session %u: free slot %u has a request", s->id, i);
    }
    if (n_busy != s->n_busy || s->n_owed != s->n_busy)
        os_fail("session %u: %u slots are busy, %u counted, %u ENDs owed", s->id, n_busy, s->n_busy,
                s->n_owed);
    if (s->n_owed > ring_writer_free(&s->cq))
        os_fail("session %u: %u ENDs owed, room for %u", s->id, s->n_owed,
                ring_writer_free(&s->cq));
    if (s->starved && s->slow_timer.when_ns + 300 * NS_PER_MS < os.now_ns)
        os_fail("session %u waits for its client for ever", s->id);
    if (s->starved && !timer_is_set(&s->slow_timer))
        os_fail("session %u is starved without a timer", s->id);
    if (!s->starved && timer_is_set(&s->slow_timer))
        os_fail("session %u has a timer and is not starved", s->id);
}

/* A client to which nothing is owed knows all that is kept for it: nobody else could release it. */
static void check_handles(const struct sim *sim, const struct session *s)
{
    const struct client *c = NULL;
    for (uint32_t i = 0; i < sim->n_client && !c; i++)
        c = sim->client[i].process.pid == (uint32_t)s->pid ? &sim->client[i] : NULL;
    bool idle = c && c->kind == CLIENT_HONEST && os.task[c->task_i].ready && c->n_open == 0;
    if (!idle || c->lost || c->connecting || s->phase != SESSION_OPEN)
        return;
    uint32_t n = 0;
    for (uint32_t i = 0; i < sim->n_model; i++)
        list_for_each (node, &sim->serve->model[i].sched->held)
            n += list_entry(node, struct held, age_node)->session_id == s->id;
    if (n > c->n_handle + c->n_forgotten)
        os_fail("%u handles are kept for client %d, which knows %u", n, c->task_i,
                c->n_handle + c->n_forgotten);
}

static void check_sessions(struct sim *sim)
{
    struct sessions *all = sim->serve->sessions;
    uint32_t n_hot = 0, n_session = 0, n_connection = 0, n_handshake = 0;
    for (uint32_t i = 0, left = pool_used(all->pool); left > 0; i++) {
        struct session *s = pool_get(all->pool, i, pool_generation(all->pool, i));
        if (!s)
            continue;
        left--;
        n_connection++;
        n_hot += s->hot;
        n_session += s->shm_bytes != 0 && s->phase != SESSION_BURIED;
        n_handshake += s->phase == SESSION_HELLO || s->phase == SESSION_ATTACH;
        check_session(s);
        check_handles(sim, s);
    }
    if (n_hot != all->n_hot || n_session != all->n_session || n_handshake != all->n_handshake ||
        n_connection != all->n_connection)
        os_fail("sessions: %u hot of %u, %u open of %u, %u handshakes of %u, %u in all of %u",
                n_hot, all->n_hot, n_session, all->n_session, n_handshake, all->n_handshake,
                n_connection, all->n_connection);
}

/* Requests are in a session's slot, or nobody's, and there are as many as counted. */
static void check_requests(struct sim *sim)
{
    struct serve *sv = sim->serve;
    uint32_t n_live = 0;
    for (uint32_t i = 0; i < sv->requests_max; i++) {
        const struct serve_request *side = &sv->request[i];
        struct request *request = side->request;
        if (!request || request_get(sv->requests, i, request->pool_generation) != request)
            continue;
        n_live++;
        check_refusal(sim, i);
        if (side->session && (side->ended || side->session->slot[request->slot].request != request))
            os_fail("request %u is not in its session's slot", i);
        if (!side->ended && side->session == NULL && !side->encoding && !side->scheduled)
            os_fail("request %u is nobody's", i);
    }
    if (n_live != sv->n_request || request_pool_used(sv->requests) != n_live)
        os_fail("%u requests live, %u counted, %u out of the pool", n_live, sv->n_request,
                request_pool_used(sv->requests));
}

/* What a user is charged for is what its entries and requests have of the payload pool. */
static void check_rooms(struct sim *sim)
{
    struct serve *sv = sim->serve;
    struct sessions *all = sv->sessions;
    uint64_t had[SIM_UIDS] = { 0 };
    for (uint32_t i = 0, left = pool_used(all->pool); left > 0; i++) {
        const struct session *s = pool_get(all->pool, i, pool_generation(all->pool, i));
        left -= s != NULL;
        if (s && s->pending.payload)
            had[s->user - all->users] += s->pending.payload_bytes;
    }
    for (uint32_t i = 0; i < sv->requests_max; i++) {
        const struct serve_request *side = &sv->request[i];
        struct request *request = side->request;
        if (!request || request_get(sv->requests, i, request->pool_generation) != request)
            continue;
        had[side->user - all->users] += side->payload_bytes;
        if (side->joined)
            had[side->user - all->users] += request->n_prompt * sizeof(int32_t);
    }
    for (uint32_t i = 0; i < SIM_UIDS; i++)
        if (had[i] != all->users[i].payload_bytes)
            os_fail("user %u has %llu bytes of the payload pool and is charged for %llu", i,
                    (unsigned long long)had[i], (unsigned long long)all->users[i].payload_bytes);
}

void daemon_check(struct sim *sim)
{
    struct serve *sv = sim->serve;
    check_sessions(sim);
    check_requests(sim);
    check_rooms(sim);
    if (sv->n_in_flight != (uint32_t)executor_in_flight(sim->executor))
        os_fail("%u steps in flight, %d with the executor", sv->n_in_flight,
                executor_in_flight(sim->executor));
    bool costly = sim->lone && sim->n_tick % 64; /* each of its many blocks is looked at */
    for (uint32_t i = 0; i < sim->n_model && !costly; i++) {
        const char *wrong = sched_check(sv->model[i].sched);
        if (wrong)
            os_fail("model %u: %s", i, wrong);
    }
    if (++sim->checked % 16 == 0 && !payload_consistent(sim->payload))
        os_fail("the payload pool's pieces do not add up");
}

/* Something to do for a session, that its client has told and the daemon can do. */
static bool waits_for_daemon(const struct session *s)
{
    bool entry = !s->pending.taken && ring_reader_ready(&s->sq);
    bool read_on = intake_cq_head(s) != s->cq.head;
    if (s->phase != SESSION_OPEN || s->muted || s->doomed)
        return false;
    if (s->n_busy && load_once(&s->up_part.head->cancel_seq) != s->cancel_seq)
        return true;
    if (entry && (read_on || ring_writer_free(&s->cq) > s->n_owed))
        return true;
    return !list_empty(&s->blocked) && (read_on || !s->starved);
}

void daemon_check_asleep(struct sim *sim)
{
    struct serve *sv = sim->serve;
    if (os_loop_pending())
        return;
    if (executor_ready(sim->executor) || encode_thread_ready(sim->encode_thread))
        os_fail("the daemon sleeps over a finished step or text");
    for (uint32_t i = 0; i < sim->n_model; i++) {
        const struct heap_node *lease = heap_top(&sv->model[i].sched->leases);
        if (lease && lease->key <= os.now_ns)
            os_fail("the daemon sleeps over a lease that has ended");
    }
    for (uint32_t i = 0; i < sim->n_client; i++) {
        const struct client *c = &sim->client[i];
        if (c->kind != CLIENT_HONEST || c->process.dead || c->connecting || !c->cl || c->lost)
            continue;
        struct sessions *all = sv->sessions;
        for (uint32_t k = 0; k < pool_size(all->pool); k++) {
            struct session *s = pool_get(all->pool, k, pool_generation(all->pool, k));
            if (s && s->pid == (pid_t)c->process.pid && waits_for_daemon(s))
                os_fail("the daemon sleeps over client %u", i + 1);
        }
    }
}

void daemon_check_idle(struct sim *sim)
{
    struct serve *sv = sim->serve;
    const struct sessions *all = sv->sessions;
    if (all->n_connection || all->n_session || all->n_handshake || all->n_parked || all->n_hot)
        os_fail("nobody is there, and %u connections are", all->n_connection);
    if (sv->n_request || request_pool_used(sv->requests) ||
        request_pool_sequences_used(sv->requests))
        os_fail("nobody is there, and %u requests are", sv->n_request);
    if (payload_used(sim->payload))
        os_fail("nobody is there, and %zu bytes of payload are out", payload_used(sim->payload));
    for (uint32_t i = 0; i < LIMIT_UIDS; i++)
        if (all->users[i].n_connection || all->users[i].n_session || all->users[i].shm_bytes)
            os_fail("nobody is there, and uid %u is charged", all->users[i].uid);
    for (uint32_t i = 0; i < sim->n_model; i++) {
        struct sched_stats stats;
        sched_stats(sv->model[i].sched, &stats);
        if (stats.kv_owned || stats.running || stats.queued || stats.handles || stats.kv_pinned)
            os_fail("idle, and model %u has %u blocks owned, %u running, %u queued, %u handles", i,
                    stats.kv_owned, stats.running, stats.queued, stats.handles);
    }
    if (os_open_fds(true) != 3) /* board, signals, listening socket */
        os_fail("idle, and %u descriptors are open", os_open_fds(true));
    uint32_t n_watch = !sim->returned + (sv->listener.watch != 0);
    if (os_loop_watches() != n_watch)
        os_fail("idle, and %u watches are set", os_loop_watches());
}

void daemon_check_ended(struct sim *sim)
{
    const struct serve *sv = sim->serve;
    bool busy = sv->n_in_flight > 0; /* steps that nobody will collect name their requests */
    for (uint32_t i = 0; i < sv->requests_max; i++) {
        const struct serve_request *side = &sv->request[i];
        const struct request *r = side->request;
        if (!r || request_get(sv->requests, i, r->pool_generation) != r)
            continue;
        if (!side->ended)
            os_fail("the daemon has ended, and request %u has not", i);
        busy |= side->encoding;
    }
    if (!busy)
        daemon_check_idle(sim);
}
