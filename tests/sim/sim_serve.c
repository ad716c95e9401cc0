/*
 * Simulation of the whole daemon with its clients: one seed is one small world (limits, pools,
 * policy, clients, faults: each seed draws its own) and one history of it. Clients, encoder, device
 * and daemon run in an order that the seed chooses, also in the middle of the daemon's reading of
 * shared memory. Every event of an honest client is compared with what it must be; the daemon's
 * books are checked after each of its passes. Usage: sim_main.c.
 */
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "tests/sim/sim_main.h"
#include "tests/sim/sim_serve.h"

#include <signal.h>

/*
 * DEAF_TURNS_MAX: no client hears anything for so long: nobody gets on. (A crowd in a tiny pool may
 * well take longer to its end.) LONE_EVERY: a seed of so many is run twice, see sim_lone.c.
 */
enum { DEAF_TURNS_MAX = 200000, LONE_EVERY = 20 };

static uint32_t swarm(struct prng *p, uint32_t percent)
{
    return prng_chance(p, 50) ? 0 : prng_between(p, 1, percent);
}

static void draw_alphabet(struct sim *sim)
{
    struct prng *p = &sim->prng;
    static const uint8_t parts[] = { 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xFF };
    uint32_t n = 0;
    for (uint32_t i = prng_between(p, 9, 12); i > 0; i--)
        sim->alphabet[n++] = 'a' + (int32_t)prng_below(p, 4);
    for (uint32_t i = prng_below(p, ARRAY_SIZE(parts)); i > 0; i--)
        sim->alphabet[n++] = parts[i];
    if (prng_chance(p, 70))
        sim->alphabet[n++] = 257;
    sim->alphabet[n++] = 'e';
    sim->n_alphabet = n;
    for (uint32_t i = 0; i < SIM_CONTEXT; i++)
        sim->stream[i] = sim->alphabet[prng_below(p, n)];
}

static void draw_sim(struct sim *sim)
{
    struct prng *p = &sim->prng;
    static const uint32_t preempts[] = { 0, 2000, 30000 };
    sim->chances = (struct sim_chances){
        .beams = swarm(p, 30),
        .groups = swarm(p, 60),
        .batches = swarm(p, 60),
        .renews = swarm(p, 40),
        .cancel = swarm(p, 20),
        .stall = swarm(p, 20),
        .deadline = swarm(p, 30),
        .forks = swarm(p, 60),
        .scores = swarm(p, 40),
        .penalties = swarm(p, 60),
        .lists = swarm(p, 60),
        .holds = swarm(p, 60),
        .stops = swarm(p, 60),
        .chats = swarm(p, 30),
        .hurry = prng_between(p, 5, 90),
        .longs = prng_chance(p, 20) ? prng_between(p, 5, 80) : 0,
        .idle = swarm(p, 30),
        .kill_ppm = swarm(p, 3000),
        .crash_ppm = prng_chance(p, 10) ? prng_between(p, 1, 1000) : 0,
        .drain_ppm = prng_chance(p, 15) ? prng_between(p, 1, 300) : 0,
    };
    if (sim->lone)
        sim->chances.deadline = sim->chances.holds = sim->chances.crash_ppm =
            sim->chances.drain_ppm = 0;
    os.preempt_ppm = preempts[prng_below(p, ARRAY_SIZE(preempts))];
    static const uint32_t longs[] = { 3000, 16000, 16000, SIM_LONG };
    sim->crowd = prng_below(p, 250) == 0 && !sim->lone;
    sim->chances.long_max = sim->crowd ? 3000 : longs[prng_below(p, ARRAY_SIZE(longs))];
    os.lie_ppm = prng_chance(p, 30) ? 3000 : 0;
    os.no_pidfd = prng_chance(p, 10);
    os.accept_error = prng_chance(p, 10) ? 20 : 0;
    os.late = swarm(p, 60);
    os.keep_listen = prng_chance(p, 50);
    os.hooks = true;
    draw_alphabet(sim);
}

/* ---- Time passes ---- */

static void drain(struct sim *sim, int number)
{
    if (!sim->draining)
        sim->drain_by_ns = os.now_ns + sim->serve->drain_ns + 500 * NS_PER_MS;
    sim->draining = true;
    os_signal(sim->signals, number);
}

static void make_trouble(struct sim *sim)
{
    struct prng *p = &sim->prng;
    if (prng_below(p, 1000000) < sim->chances.kill_ppm) {
        struct client *c = &sim->client[prng_below(p, sim->n_client)];
        if (c->kind != CLIENT_LONE && os.task[c->task_i].used && !os.task[c->task_i].done &&
            !c->connecting)
            client_kill(c);
    }
    if (sim->up && !sim->draining && prng_below(p, 1000000) < sim->chances.crash_ppm)
        daemon_kill(sim);
    if (sim->down && prng_chance(p, 1))
        daemon_open(sim);
    if (sim->up && prng_below(p, 1000000) < sim->chances.drain_ppm) {
        os_say("a signal\n");
        sim->at_once |= sim->draining;
        drain(sim, prng_chance(p, 50) ? SIGTERM : SIGINT);
    }
}

static bool run_client(struct sim *sim, uint32_t i)
{
    int task_i = sim->client[i].task_i;
    if (!os_task_runs(task_i))
        return false;
    if (!task_run(task_i))
        os.task[task_i].done = true;
    return true;
}

/* Nobody can go on now: to the next moment when somebody can. False: there is none. */
static bool skip_time(struct sim *sim, uint64_t most_ns)
{
    uint64_t next = exec_next_ns(sim->executor);
    for (uint32_t i = 0; i <= sim->n_client; i++)
        if (os.task[i].used && !os.task[i].done && os.task[i].ready)
            next = min_of(next, os.task[i].until_ns);
    if (next == UINT64_MAX)
        return false;
    os.now_ns = max_of(os.now_ns, min_of(next, os.now_ns + most_ns));
    return true;
}

/* The daemon runs, nobody else can, and nothing comes of it: time passes, and it should sleep. */
static void check_sleeps(struct sim *sim)
{
    const struct serve_spin *spin = &sim->serve->spin;
    bool idle = !os_loop_events() && exec_next_ns(sim->executor) > os.now_ns;
    for (uint32_t i = 0; i < sim->n_client && idle; i++)
        idle = !os_task_runs(sim->client[i].task_i);
    sim->n_idle = idle ? sim->n_idle + 1 : 0;
    if (sim->n_idle % 16 == 15 && !skip_time(sim, 5 * NS_PER_MS))
        os.now_ns += NS_PER_MS;
    if (sim->n_idle > 500 && max_of(spin->idle_ns, spin->busy_ns) != UINT64_MAX)
        os_fail("the daemon does not sleep, and nothing happens");
}

static bool run_daemon(struct sim *sim)
{
    if (!os_task_runs(OS_DAEMON))
        return false;
    if (!task_run(OS_DAEMON))
        os.task[OS_DAEMON].done = true;
    check_sleeps(sim);
    sim->n_tick += os.daemon_quiet;
    if (sim->up && sim->draining && os.now_ns > sim->drain_by_ns)
        os_fail("the daemon was told to end, and it is past the time of its drain");
    if (os.daemon_quiet && sim->up) {
        os.hooks = false;
        daemon_check(sim);
        os.hooks = true;
    }
    return true;
}

static bool all_blocked(const struct sim *sim)
{
    for (uint32_t i = 0; i < sim->n_client; i++) {
        const struct os_task *task = &os.task[sim->client[i].task_i];
        if (task->used && !task->done && !task->ready)
            return false;
    }
    return os.task[OS_DAEMON].ready && os.daemon_quiet;
}

/* Whoever the seed picks goes on. Returns false when nobody could, and no time is left to pass. */
static bool turn(struct sim *sim)
{
    struct prng *p = &sim->prng;
    sim->turn++;
    os.now_ns += prng_below(p, 1000);
    if (!sim->calm)
        make_trouble(sim);
    /* In the middle of a pass: the moment when what was seen a moment ago is not so any more. */
    if (!os.daemon_quiet && prng_chance(p, 50))
        os_end_pause(sim->client[prng_below(p, sim->n_client)].task_i);
    uint32_t first = prng_below(p, 4);
    for (uint32_t i = 0; i < 4; i++) {
        switch ((first + i) % 4) {
        case 0:
            if (run_daemon(sim))
                return true;
            break;
        case 1:
            if (exec_turn(sim->executor))
                return true;
            break;
        case 2:
            if (prng_chance(p, 50) && sim->arena && encode_thread_turn(sim->encode_thread))
                return true;
            break;
        default:
            for (uint32_t k = 0, from = prng_below(p, sim->n_client); k < sim->n_client; k++)
                if (run_client(sim, (from + k) % sim->n_client))
                    return true;
        }
    }
    if (sim->arena && encode_thread_turn(sim->encode_thread))
        return true;
    if (sim->up && all_blocked(sim)) {
        os.hooks = false;
        daemon_check_asleep(sim);
        os.hooks = true;
    }
    return skip_time(sim, NS_PER_S * 100);
}

/* Where somebody always spins nobody ever waits for the time: it passes now and then. */
static void hurry_time(struct sim *sim)
{
    if (sim->turn % 32 == 0 && prng_chance(&sim->prng, 50))
        skip_time(sim, 5 * NS_PER_MS);
}

static bool clients_done(const struct sim *sim)
{
    for (uint32_t i = 0; i < sim->n_client; i++)
        if (os.task[sim->client[i].task_i].used && !os.task[sim->client[i].task_i].done)
            return false;
    return true;
}

static void be_calm(struct sim *sim)
{
    sim->calm = true;
    exec_calm(sim->executor);
    os_say("faults stop\n");
}

/* As main.c: it executes itself with its socket; after a few times the world has seen enough. */
static bool begins_anew(const struct sim *sim)
{
    return sim->returned && sim->end == SERVE_ENGINE_LOST && os.keep_listen && !sim->draining &&
           !sim->calm && sim->n_life < 4 && !os.error[0];
}

static void live(struct sim *sim)
{
    uint64_t calm_at = 200 + prng_below(&sim->prng, 20000);
    while (!os.error[0] && !clients_done(sim)) {
        if (sim->turn >= calm_at && !sim->calm)
            be_calm(sim);
        if (sim->calm && sim->down)
            daemon_open(sim);
        if (!turn(sim) && !clients_done(sim))
            os_fail("nothing can happen any more, and clients wait");
        if (begins_anew(sim))
            daemon_again(sim);
        hurry_time(sim);
        if (sim->turn > sim->heard_turn + DEAF_TURNS_MAX)
            os_fail("no event for any client in %d turns", DEAF_TURNS_MAX);
    }
}

/* Until the daemon has nothing left to do, or has ended. */
static void let_settle(struct sim *sim)
{
    const struct serve *sv = sim->serve;
    for (uint32_t i = 0; sim->up && !os.error[0]; i++) {
        turn(sim);
        if (i > 100000)
            os_fail("all have left, and the daemon does not come to rest");
        bool rests = os.task[OS_DAEMON].ready ? !os_loop_pending() : sv->spin.idle_ns == NS_NEVER;
        bool empty = sv->sessions->n_connection == 0 && sv->n_request == 0 && !os_loop_events();
        if (empty && rests && os.daemon_quiet && !sim->draining)
            return;
    }
}

/* All have left: the daemon must find that out, be empty, and end in order. */
static void wind_up(struct sim *sim)
{
    bool drained = sim->draining;
    if (sim->down)
        daemon_open(sim);
    be_calm(sim);
    let_settle(sim);
    if (sim->up && !os.error[0]) {
        daemon_check_idle(sim);
        drain(sim, SIGTERM);
        let_settle(sim);
    }
    if (!os.error[0])
        daemon_check_ended(sim);
    bool lost = sim->end == SERVE_ENGINE_LOST;
    if (!os.error[0] && lost && !exec_failed(sim->executor) && !exec_drew_badly(sim->executor))
        os_fail("the engine is said to be lost");
    if (!os.error[0] && !lost && !drained && exec_told(sim->executor))
        os_fail("a step said that the device failed, and the daemon went on");
}

/* Who lives in this world. */
static void start_clients(struct sim *sim, bool alone)
{
    struct prng *p = &sim->prng;
    uint32_t n_honest = sim->crowd ? SIM_CROWD + prng_below(p, 16) : prng_between(p, 1, 6);
    sim->n_client = n_honest + (prng_chance(p, 50) ? prng_below(p, 4) : 0);
    if (alone)
        sim->n_client = 1;
    for (uint32_t i = 0; i < sim->n_client; i++)
        client_start(sim, i,
                     i == 0 && sim->lone  ? CLIENT_LONE
                     : i < n_honest       ? CLIENT_HONEST
                     : prng_chance(p, 70) ? CLIENT_HOSTILE
                                          : CLIENT_RUDE);
}

static void tear_down(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->n_client; i++)
        client_free(&sim->client[i]);
    daemon_close(sim);
    for (uint32_t i = 0; i < sim->n_model; i++)
        fake_free(sim->truth[i]);
    os_close();
}

static struct sim the_sim;

/* alone: without all others, compared with what the run before this has left in the_sim. */
static uint64_t run_world(uint64_t seed, bool verbose, bool alone, uint64_t *ret_trace)
{
    static struct record with_others[SIM_RECORDS];
    struct sim *sim = &the_sim;
    uint32_t n_with_others = sim->n_record;
    memcpy(with_others, sim->record, sizeof(with_others));
    memset(sim, 0, offsetof(struct sim, client));
    sim->seed = seed;
    sim->verbose = verbose;
    sim->prng.state = seed;
    sim->lone = seed % LONE_EVERY == 0;
    os_open(seed, verbose);
    memset(log_levels, 0, sizeof(log_levels));
    draw_sim(sim);
    daemon_open(sim);
    start_clients(sim, alone);
    live(sim);
    if (!os.error[0])
        wind_up(sim);
    if (alone && !os.error[0])
        lone_compare(sim, with_others, n_with_others);
    if (os.error[0])
        printf("FAILED: %s\n", os.error);
    uint64_t n_event = os.error[0] ? 0 : os.n_event + 1;
    *ret_trace = os.trace;
    if (verbose && os.error[0] && sim->arena)
        daemon_show(sim);
    if (verbose)
        printf("%llu turns, %llu requests, %llu tokens, %.3f ms, end %d\n",
               (unsigned long long)sim->turn, (unsigned long long)sim->n_request,
               (unsigned long long)sim->n_token, (double)(os.now_ns - 1000000000) / 1e6, sim->end);
    tear_down(sim);
    return n_event;
}

static uint64_t run_seed(uint64_t seed, bool verbose, uint64_t *ret_trace)
{
    uint64_t n = run_world(seed, verbose, false, ret_trace), again;
    if (n == 0 || !the_sim.lone)
        return n;
    uint64_t n_alone = run_world(seed, verbose, true, &again);
    *ret_trace = prng_mix(*ret_trace ^ again);
    return n_alone ? n + n_alone : 0;
}

int main(int argc, char **argv)
{
    static const struct sim_program program = { "sim_serve", run_seed, 201, 274, 20000 };
    return sim_main(&program, argc, argv);
}
