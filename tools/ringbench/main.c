/* ringbench: measures the rings, the service and the models. Options common to all live here. */
#include "tools/ringbench/bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

static const char *const usage =
    "usage: ringbench rings|serve|model|report [OPTION...]\n"
    "\n"
    "  rings     latency, throughput and wake-up of the rings beside in-tree baselines\n"
    "  serve     load on a daemon, or on an OpenAI-compatible HTTP endpoint\n"
    "  model     prefill and decode of a model beside the machine's limits\n"
    "  report    tables and a page out of earlier --json files\n"
    "\n"
    "  --json FILE    results as JSON (- is stdout)\n"
    "  --csv FILE     results as CSV\n"
    "  --html FILE    a self-contained page with distribution plots\n"
    "  --repeat N     runs per figure; the run of median p50 is shown, with the spread\n"
    "  --long         sweeps and longer runs\n"
    "  --socket PATH  a running daemon instead of an own one\n"
    "  --help, --version\n"
    "\n"
    "'ringbench SUBCOMMAND --help' tells the rest. Exit status: 0 done, 1 failed, 2 usage,\n"
    "3 no daemon. See ringbench(1) and tools/ringbench/MEASURING.md.\n";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv, const struct bench_options *options);
} commands[] = {
    { "rings", bench_rings_main },
    { "serve", bench_serve_main },
    { "model", bench_model_main },
    { "report", bench_report_main },
};

/* Take "--name VALUE" or "--name=VALUE" at argv[*i]; true if it was that option. */
static bool take(const char *name, int argc, char **argv, int *i, const char **ret_value)
{
    size_t length = strlen(name);
    if (strncmp(argv[*i], name, length) != 0)
        return false;
    if (argv[*i][length] == '=') {
        *ret_value = argv[*i] + length + 1;
        return true;
    }
    if (argv[*i][length] != 0)
        return false;
    if (*i + 1 >= argc) {
        fprintf(stderr, "ringbench: %s needs a value\n", name);
        exit(2);
    }
    *ret_value = argv[++*i];
    return true;
}

/* Pull the common options out of argv; what is left goes to the subcommand. */
static int common_options(int argc, char **argv, struct bench_options *options)
{
    int kept = 0;
    for (int i = 0; i < argc; i++) {
        const char *repeat = NULL;
        if (take("--json", argc, argv, &i, &options->json_path) ||
            take("--csv", argc, argv, &i, &options->csv_path) ||
            take("--html", argc, argv, &i, &options->html_path) ||
            take("--socket", argc, argv, &i, &options->socket_path))
            continue;
        if (take("--repeat", argc, argv, &i, &repeat)) {
            char *end;
            long n = strtol(repeat, &end, 10);
            if (*end || n < 1 || n > 64) {
                fprintf(stderr, "ringbench: --repeat %s: give a number from 1 to 64\n", repeat);
                exit(2);
            }
            options->repeat = (int)n;
            continue;
        }
        if (strcmp(argv[i], "--long") == 0) {
            options->long_run = true;
            continue;
        }
        argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    return kept;
}

/* The command as it was given, for the report. */
static void keep_command(struct bench_options *options, int argc, char **argv)
{
    size_t used = (size_t)snprintf(options->command, sizeof(options->command), "ringbench");
    for (int i = 1; i < argc && used < sizeof(options->command); i++) {
        bool quote = argv[i][0] == 0 || strpbrk(argv[i], " \"*?$&|;<>()") != NULL;
        used += (size_t)snprintf(options->command + used, sizeof(options->command) - used,
                                 quote ? " '%s'" : " %s", argv[i]);
    }
}

/* A file that cannot be written is told before anything is measured, not after. */
static void check_outputs(const struct bench_options *options)
{
    const char *const paths[] = { options->json_path, options->csv_path, options->html_path };
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        if (!paths[i] || strcmp(paths[i], "-") == 0)
            continue;
        FILE *file = fopen(paths[i], "ae");
        if (!file) {
            fprintf(stderr, "ringbench: %s: %s\n", paths[i], strerror(errno));
            exit(2);
        }
        fclose(file);
    }
}

int main(int argc, char **argv)
{
    static struct bench_options options;
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        puts("ringbench (ringlet) " RINGLET_VERSION);
        return 0;
    }
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        fputs(usage, argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0) {
            keep_command(&options, argc, argv);
            int left = common_options(argc - 1, argv + 1, &options);
            check_outputs(&options);
            return commands[i].run(left, argv + 1, &options);
        }
    fprintf(stderr, "ringbench: unknown subcommand '%s' (see --help)\n", argv[1]);
    return 2;
}
