/* `ringlet status`: one look at the BOARD, as an observer; the daemon is not asked anything. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "tools/ringlet/json_out.h"
#include "tools/ringlet/session.h"

#define REASON_PREFIX "finished_"

static uint64_t counter(struct ringlet_client *cl, int model, const char *name)
{
    struct ringlet_counter c;
    for (uint32_t i = 0; ringlet_stat_at(cl, i, &c) == 0; i++) {
        if (c.model == (model < 0 ? RINGLET_STAT_ANY : (unsigned)model) && c.n_value > 0 &&
            strcmp(c.name, name) == 0)
            return __atomic_load_n(&c.values[0], __ATOMIC_RELAXED);
    }
    return 0;
}

static void put_reasons(struct ringlet_client *cl, unsigned model)
{
    struct ringlet_counter c;
    size_t prefix = strlen(REASON_PREFIX);
    bool first = true;
    for (uint32_t i = 0; ringlet_stat_at(cl, i, &c) == 0; i++) {
        if (c.model != model || strncmp(c.name, REASON_PREFIX, prefix) != 0)
            continue;
        printf("%s", first ? "" : ",");
        out_string(stdout, c.name + prefix, strlen(c.name + prefix));
        printf(":%" PRIu64, __atomic_load_n(&c.values[0], __ATOMIC_RELAXED));
        first = false;
    }
}

static const char *state_name(unsigned state)
{
    static const char *const names[] = { "empty", "loading", "ready", "failed", "draining" };
    return state < ARRAY_SIZE(names) ? names[state] : "unknown";
}

static void put_model(struct ringlet_client *cl, const struct ringlet_model_info *m)
{
    unsigned i = m->index;
    fputs("{\"name\":", stdout);
    out_string(stdout, m->name, strlen(m->name));
    printf(",\"state\":\"%s\",\"arch\":", state_name(m->state));
    out_string(stdout, m->arch, strlen(m->arch));
    fputs(",\"file_type\":", stdout);
    out_string(stdout, m->file_type, strlen(m->file_type));
    fputs(",\"device\":", stdout);
    out_string(stdout, m->device, strlen(m->device));
    printf(",\"vocab\":%u,\"context\":%u,\"weight_bytes\":%" PRIu64 ",\"parameters\":%" PRIu64,
           m->vocab, m->context, m->weight_bytes, m->n_parameter);
    printf(",\"running\":%" PRIu64 ",\"queued\":%" PRIu64, counter(cl, (int)i, "running"),
           counter(cl, (int)i, "queued"));
    printf(",\"kv\":{\"blocks_total\":%" PRIu64 ",\"blocks_free\":%" PRIu64
           ",\"blocks_cached\":%" PRIu64 ",\"blocks_owned\":%" PRIu64 ",\"block_tokens\":%u}",
           counter(cl, (int)i, "kv_blocks_total"), counter(cl, (int)i, "kv_blocks_free"),
           counter(cl, (int)i, "kv_blocks_cached"), counter(cl, (int)i, "kv_blocks_owned"),
           m->kv_block_tokens);
    printf(",\"requests\":{\"accepted\":%" PRIu64 ",\"finished\":%" PRIu64 ",\"by_reason\":{",
           counter(cl, (int)i, "requests_accepted"), counter(cl, (int)i, "requests_finished"));
    put_reasons(cl, i);
    printf("}},\"tokens\":{\"prompt\":%" PRIu64 ",\"cached\":%" PRIu64 ",\"completion\":%" PRIu64
           "}}",
           counter(cl, (int)i, "prompt_tokens"), counter(cl, (int)i, "cached_tokens"),
           counter(cl, (int)i, "completion_tokens"));
}

static void show_json(struct ringlet_client *cl, const struct ringlet_stats_info *stats)
{
    struct ringlet_model_info m;
    bool first = true;
    fputs("{\"version\":", stdout);
    out_string(stdout, stats->version, strlen(stats->version));
    printf(",\"pid\":%u,\"uptime_ns\":%" PRIu64 ",\"clients\":%" PRIu64 ",\"steps\":%" PRIu64
           ",\"models\":[",
           stats->pid, stats->uptime_ns, counter(cl, -1, "clients"), stats->steps);
    for (uint32_t i = 0; i < stats->n_model; i++) {
        if (ringlet_model_at(cl, i, &m) != 0)
            continue;
        fputs(first ? "" : ",", stdout);
        put_model(cl, &m);
        first = false;
    }
    fputs("]}\n", stdout);
}

static void show_model(struct ringlet_client *cl, const struct ringlet_model_info *m)
{
    int i = m->index;
    uint64_t total = counter(cl, i, "kv_blocks_total"), owned = counter(cl, i, "kv_blocks_owned");
    uint64_t cached = counter(cl, i, "kv_blocks_cached");
    printf("\n%s  %s  %s%s%s on %s\n", m->name, state_name(m->state), m->arch,
           m->file_type[0] ? " " : "", m->file_type, m->device);
    printf("  context   %u tokens, vocabulary %u, weights %.1f MiB\n", m->context, m->vocab,
           (double)m->weight_bytes / 1048576.0);
    printf("  requests  %" PRIu64 " running, %" PRIu64 " queued, %" PRIu64 " accepted, %" PRIu64
           " finished\n",
           counter(cl, i, "running"), counter(cl, i, "queued"), counter(cl, i, "requests_accepted"),
           counter(cl, i, "requests_finished"));
    printf("  KV        %" PRIu64 " blocks of %u tokens: %" PRIu64 " free, %" PRIu64
           " cached, %" PRIu64 " in use\n",
           total, m->kv_block_tokens, counter(cl, i, "kv_blocks_free"), cached, owned);
    printf("  tokens    %" PRIu64 " prompt (%" PRIu64 " from cache), %" PRIu64 " answered\n",
           counter(cl, i, "prompt_tokens"), counter(cl, i, "cached_tokens"),
           counter(cl, i, "completion_tokens"));
}

static void show_text(struct ringlet_client *cl, const struct ringlet_stats_info *stats)
{
    struct ringlet_model_info m;
    uint64_t s = stats->uptime_ns / 1000000000u;
    printf("ringletd %s, pid %u, up %" PRIu64 " h %02u min %02u s, %" PRIu64 " clients, %" PRIu64
           " steps\n",
           stats->version, stats->pid, s / 3600, (unsigned)(s / 60 % 60), (unsigned)(s % 60),
           counter(cl, -1, "clients"), stats->steps);
    for (uint32_t i = 0; i < stats->n_model; i++) {
        if (ringlet_model_at(cl, i, &m) == 0)
            show_model(cl, &m);
    }
}

static int status(const char *socket, bool json)
{
    struct ringlet_options options;
    struct ringlet_client *cl;
    struct ringlet_stats_info stats;
    char path[512];
    const char *shown = socket ? socket : session_default_socket(path, sizeof(path));
    ringlet_options_init(&options);
    options.socket_path = socket;
    options.flags = RINGLET_OBSERVER;
    options.timeout_ns = 5000000000u;
    int error = ringlet_connect(&options, &cl);
    if (error == -ENOENT || error == -ECONNREFUSED)
        return tool_say(TOOL_NO_DAEMON, "%s: no daemon there; start `ringletd --model PATH`",
                        shown);
    if (error)
        return tool_say(TOOL_NO_DAEMON, "%s: %s", shown, ringlet_strerror(error));
    error = ringlet_stats(cl, &stats);
    if (!error && json)
        show_json(cl, &stats);
    else if (!error)
        show_text(cl, &stats);
    ringlet_close(cl);
    if (error)
        return tool_say(TOOL_NO_DAEMON, "status: %s", ringlet_strerror(error));
    return tool_flush() ? TOOL_DONE : TOOL_FAILED;
}

int command_status(int argc, char **argv)
{
    static const struct option table[] = { { "json", no_argument, NULL, 'j' },
                                           { "socket", required_argument, NULL, 's' },
                                           { "help", no_argument, NULL, 'h' },
                                           { "version", no_argument, NULL, 'V' },
                                           { 0 } };
    const char *socket = NULL;
    bool json = false;
    int found;
    while ((found = getopt_long(argc, argv, "h", table, NULL)) >= 0) {
        switch (found) {
        case 'j':
            json = true;
            break;
        case 's':
            socket = optarg;
            break;
        case 'h':
            puts("usage: ringlet status [--json] [--socket PATH]\n\nShow the daemon, its models, "
                 "queues, KV use and clients.");
            return TOOL_DONE;
        case 'V':
            puts("ringlet " RINGLET_VERSION);
            return TOOL_DONE;
        default:
            return TOOL_USAGE;
        }
    }
    if (optind < argc)
        return tool_say(TOOL_USAGE, "status: %s: no arguments are expected", argv[optind]);
    return status(socket, json);
}
