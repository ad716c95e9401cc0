/*
 * One table of options: name, where it may stand, how its value is read and where it goes. Flags
 * are collected over an empty set of model options so that they can beat every section afterwards.
 */
#include "daemon/config.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <ini.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/compiler.h"
#include "daemon/base/log.h"

enum section {
    SECTION_DAEMON = 1,
    SECTION_MODEL = 2,
    SECTION_KV = 4,
    SECTION_SCHED = 8,
    SECTION_LOG = 16,
    SECTION_USER = 32,
};

enum kind { KIND_TEXT, KIND_U32, KIND_SIZE, KIND_MODE, KIND_SPIN, KIND_ON_OFF, KIND_LOG };

struct option_rule {
    const char *name;
    unsigned sections;
    enum kind kind;
    bool of_model; /* offset counts in config_model_options, else in config */
    size_t off, bytes;
    uint64_t min, max;
    const char *choices; /* KIND_TEXT: allowed words, separated by '|', or NULL */
};

#define OF(field) offsetof(struct config, field), sizeof(((struct config *)0)->field)
#define OF_MODEL(field)                                                                            \
    offsetof(struct config_model_options, field), sizeof(((struct config_model_options *)0)->field)

static const struct option_rule rules[] = {
    { "socket", SECTION_DAEMON, KIND_TEXT, false, OF(socket), 0, 0, NULL },
    { "socket-mode", SECTION_DAEMON, KIND_MODE, false, OF(socket_mode), 0, 0777, NULL },
    { "device", SECTION_DAEMON, KIND_TEXT, false, OF(device), 0, 0, NULL },
    { "threads", SECTION_DAEMON, KIND_U32, false, OF(threads), 1, 1024, NULL },
    { "cpus", SECTION_DAEMON, KIND_TEXT, false, OF(cpus), 0, 0, NULL },
    { "spin", SECTION_DAEMON, KIND_SPIN, false, OF(spin), 0, 0, NULL },
    { "drain-s", SECTION_DAEMON, KIND_U32, false, OF(drain_s), 0, 3600, NULL },
    { "slow-client-s", SECTION_DAEMON, KIND_U32, false, OF(slow_client_s), 1, 3600, NULL },
    { "watchdog-s", SECTION_DAEMON, KIND_U32, false, OF(watchdog_s), 1, 3600, NULL },
    { "log", SECTION_LOG | SECTION_DAEMON, KIND_LOG, false, OF(log), 0, 0, NULL },
    { "trace", SECTION_LOG | SECTION_DAEMON, KIND_TEXT, false, OF(trace), 0, 0, NULL },
    { "ctx", SECTION_MODEL | SECTION_KV, KIND_U32, true, OF_MODEL(ctx), 1, 1 << 24, NULL },
    { "kv-memory", SECTION_MODEL | SECTION_KV, KIND_SIZE, true, OF_MODEL(kv_memory), 1, UINT64_MAX,
      NULL },
    { "host-kv-memory", SECTION_MODEL | SECTION_KV, KIND_SIZE, true, OF_MODEL(host_kv_memory), 0,
      UINT64_MAX, NULL },
    { "dtype", SECTION_MODEL | SECTION_DAEMON, KIND_TEXT, true, OF_MODEL(dtype), 0, 0,
      "auto|f32|f16|bf16" },
    { "kv-type", SECTION_MODEL | SECTION_KV, KIND_TEXT, true, OF_MODEL(kv_type), 0, 0,
      "auto|f32|f16|bf16|q8_0" },
    { "prefix-cache", SECTION_MODEL | SECTION_KV, KIND_ON_OFF, true, OF_MODEL(prefix_cache), 0, 0,
      NULL },
    { "batch-max", SECTION_MODEL | SECTION_SCHED, KIND_U32, true, OF_MODEL(batch_max), 1, 1024,
      NULL },
    { "policy", SECTION_MODEL | SECTION_SCHED, KIND_TEXT, true, OF_MODEL(policy), 0, 0,
      "fcfs|fair|deadline|longest-prefix" },
    { "cadence-ms", SECTION_MODEL | SECTION_SCHED, KIND_U32, true, OF_MODEL(cadence_ms), 0, 10000,
      NULL },
    { "load-format", SECTION_MODEL | SECTION_DAEMON, KIND_TEXT, true, OF_MODEL(load_format), 0, 0,
      "auto|dummy" },
};

static int fail(char *err, const char *format, ...) printf_like(2, 3);
static int fail(char *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(err, CONFIG_ERROR_BYTES, format, args);
    va_end(args);
    return -EINVAL;
}

int config_parse_size(const char *text, uint64_t *ret)
{
    static const struct {
        const char *suffix;
        double factor;
    } units[] = { { "", 1 },         { "K", 1e3 },      { "M", 1e6 },
                  { "G", 1e9 },      { "T", 1e12 },     { "KiB", 0x1p10 },
                  { "MiB", 0x1p20 }, { "GiB", 0x1p30 }, { "TiB", 0x1p40 } };
    if (strcmp(text, "auto") == 0) {
        *ret = 0;
        return 0;
    }
    char *end;
    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    double x = strtod(text, &end);
    for (size_t i = 0; i < ARRAY_SIZE(units); i++)
        if (strcmp(end, units[i].suffix) == 0 && x * units[i].factor < 0x1p62) {
            *ret = (uint64_t)(x * units[i].factor);
            return 0;
        }
    return -EINVAL;
}

static int parse_u32(const char *text, uint32_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long x = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || x > UINT32_MAX)
        return -EINVAL;
    *ret = (uint32_t)x;
    return 0;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t bytes = strlen(value);
    for (const char *at = choices; bytes;) {
        size_t n = strcspn(at, "|");
        if (n == bytes && memcmp(at, value, n) == 0)
            return true;
        if (!at[n])
            break;
        at += n + 1;
    }
    return false;
}

/* The value of a rule into its place. `where` begins the message: "--ctx" or "file:7: ctx". */
static int put_text(const struct option_rule *rule, char *to, const char *where, const char *value,
                    char *err)
{
    if (strlen(value) >= rule->bytes)
        return fail(err, "%s: longer than %zu bytes", where, rule->bytes - 1);
    if (rule->choices && !is_choice(rule->choices, value))
        return fail(err, "%s: \"%s\" is none of %s", where, value, rule->choices);
    memcpy(to, value, strlen(value) + 1);
    return 0;
}

static int put_number(const struct option_rule *rule, void *to, const char *where,
                      const char *value, char *err)
{
    uint64_t size;
    uint32_t u32;
    if (rule->kind == KIND_SIZE) {
        if (config_parse_size(value, &size) || (size < rule->min && strcmp(value, "auto")))
            return fail(err, "%s: \"%s\" is no size (as 512MiB, 2G or auto)", where, value);
        memcpy(to, &size, sizeof(size));
        return 0;
    }
    if (rule->kind == KIND_MODE) {
        char *end;
        unsigned long mode = strtoul(value, &end, 8);
        if (!isdigit((unsigned char)*value) || *end || mode > rule->max)
            return fail(err, "%s: \"%s\" is no mode (octal, as 0660)", where, value);
        mode_t m = (mode_t)mode;
        memcpy(to, &m, sizeof(m));
        return 0;
    }
    if (strcmp(value, "auto") == 0 && rule->of_model && strcmp(rule->name, "ctx") == 0)
        u32 = 0;
    else if (parse_u32(value, &u32) || u32 < rule->min || u32 > rule->max)
        return fail(err, "%s: \"%s\" is no number from %llu to %llu", where, value,
                    (unsigned long long)rule->min, (unsigned long long)rule->max);
    memcpy(to, &u32, sizeof(u32));
    return 0;
}

static int put_word(const struct option_rule *rule, void *to, const char *where, const char *value,
                    char *err)
{
    static const char *const spins[] = { "adaptive", "always", "never" };
    const char *bad;
    size_t bad_bytes;
    if (rule->kind == KIND_SPIN) {
        for (size_t i = 0; i < ARRAY_SIZE(spins); i++)
            if (strcmp(value, spins[i]) == 0) {
                enum config_spin spin = (enum config_spin)i;
                memcpy(to, &spin, sizeof(spin));
                return 0;
            }
        return fail(err, "%s: \"%s\" is none of adaptive|always|never", where, value);
    }
    if (rule->kind == KIND_ON_OFF) {
        bool on = strcmp(value, "on") == 0;
        if (!on && strcmp(value, "off"))
            return fail(err, "%s: \"%s\" is neither on nor off", where, value);
        memcpy(to, &on, sizeof(on));
        return 0;
    }
    if (log_parse(value, &bad, &bad_bytes))
        return fail(err,
                    "%s: \"%.*s\" is no TOPIC=LEVEL (topics: daemon session loop sched exec "
                    "model text all; levels: off error warn info debug)",
                    where, (int)bad_bytes, bad);
    return put_text(rule, to, where, value, err);
}

static int apply(const struct option_rule *rule, struct config *c, struct config_model_options *m,
                 const char *where, const char *value, char *err)
{
    char *to = (rule->of_model ? (char *)m : (char *)c) + rule->off;
    int error;
    if (rule->kind == KIND_TEXT)
        error = put_text(rule, to, where, value, err);
    else if (rule->kind == KIND_U32 || rule->kind == KIND_SIZE || rule->kind == KIND_MODE)
        error = put_number(rule, to, where, value, err);
    else
        error = put_word(rule, to, where, value, err);
    if (!error && rule->of_model)
        m->set |= 1u << (rule - rules);
    return error;
}

/* Options that somebody set in `from`, for n models, go over `to`; sizes are shared by the n. */
static void overlay(struct config_model_options *to, const struct config_model_options *from,
                    uint32_t n)
{
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        void *at = (char *)to + rules[i].off;
        if (!(from->set & 1u << i))
            continue;
        memcpy(at, (const char *)from + rules[i].off, rules[i].bytes);
        if (rules[i].kind == KIND_SIZE)
            *(uint64_t *)at = div_ceil(*(uint64_t *)at, n);
    }
    to->set |= from->set;
}

static struct config_model *find_model(struct config *c, const char *name, size_t bytes, char *err)
{
    for (uint32_t i = 0; i < c->n_model; i++)
        if (strlen(c->model[i].name) == bytes && bytes &&
            memcmp(c->model[i].name, name, bytes) == 0)
            return &c->model[i];
    if (c->n_model == LIMIT_MODELS || bytes >= sizeof(c->model[0].name)) {
        fail(err,
             bytes >= sizeof(c->model[0].name) ? "model name \"%.*s\" is longer than 63 bytes"
                                               : "model \"%.*s\" is one too many: at most 16",
             (int)bytes, name);
        return NULL;
    }
    struct config_model *m = &c->model[c->n_model++];
    *m = (struct config_model){ 0 };
    memcpy(m->name, name, bytes);
    return m;
}

/* --model [NAME=]PATH. A '=' after a '/' belongs to the path. */
static int add_model(struct config *c, const char *value, char *err)
{
    const char *equals = strchr(value, '='), *slash = strchr(value, '/');
    bool named = equals && (!slash || equals < slash) && equals > value;
    const char *path = named ? equals + 1 : value;
    if (!*path)
        return fail(err, "--model: \"%s\" has no path", value);
    if (strlen(path) >= CONFIG_TEXT_BYTES)
        return fail(err, "--model: path longer than %d bytes", CONFIG_TEXT_BYTES - 1);
    struct config_model *m = find_model(c, value, named ? (size_t)(equals - value) : 0, err);
    if (!m)
        return -EINVAL;
    if (m->by_flag)
        return fail(err, "--model: two are named \"%s\"", m->name);
    m->by_flag = true;
    memcpy(m->path, path, strlen(path) + 1);
    return 0;
}

/* ---- The file ---- */

struct file_reader {
    FILE *file;
    const char *path;
    int line; /* of what the handler sees */
    struct config *c;
    char *err;
    int error;
};

/* The parser would take the rest of a long line for the next one; a comment may be as long. */
static char *next_line(char *to, int room, void *stream)
{
    struct file_reader *r = stream;
    char *line = fgets(to, room, r->file);
    if (!line)
        return NULL;
    r->line++;
    int rest = strchr(line, '\n') ? '\n' : getc(r->file);
    if (rest == '\n' || rest == EOF)
        return line;
    char first = line[strspn(line, " \t")];
    if (first != '#' && first != ';') {
        r->error = fail(r->err, "%s:%d: longer than %d bytes, or with a zero byte in it", r->path,
                        r->line, room - 1);
        return NULL;
    }
    while (rest != '\n' && rest != EOF)
        rest = getc(r->file);
    return line;
}

/* Names of sharing groups, with commas or blanks between. */
static int user_groups(struct file_reader *r, struct config_user *u, const char *where,
                       const char *value)
{
    struct config *c = r->c;
    for (const char *at = value + strspn(value, ", "); *at; at += strspn(at, ", ")) {
        size_t n = strcspn(at, ", "), i = 0;
        if (n > RINGLET_GROUP_BYTES_MAX)
            return fail(r->err, "%s: a name is longer than 64 bytes", where);
        while (i < c->n_group && (strncmp(c->group[i], at, n) || c->group[i][n]))
            i++;
        if (i == CONFIG_GROUPS_MAX)
            return fail(r->err, "%s: more than %d groups in all", where, CONFIG_GROUPS_MAX);
        if (i == c->n_group)
            memcpy(c->group[c->n_group++], at, n);
        u->groups |= UINT64_C(1) << i;
        at += n;
    }
    return 0;
}

/* The section of a user, by name or number: the first key of it makes it. */
static int user_section(struct file_reader *r, const char *user, struct config_user **ret)
{
    struct config *c = r->c;
    for (uint32_t i = 0; i < c->n_user; i++) {
        if (strcmp(c->user[i].name, user) == 0) {
            *ret = &c->user[i];
            return 0;
        }
    }
    uint32_t uid;
    struct passwd *entry = getpwnam(user);
    if (!entry && parse_u32(user, &uid))
        return fail(r->err, "%s:%d: no user \"%s\" on this system", r->path, r->line, user);
    uid = entry ? entry->pw_uid : uid;
    for (uint32_t i = 0; i < c->n_user; i++)
        if (c->user[i].uid == uid)
            return fail(r->err, "%s:%d: [user %s] is who [user %s] is", r->path, r->line, user,
                        c->user[i].name);
    if (c->n_user == CONFIG_USERS_MAX)
        return fail(r->err, "%s:%d: more than %d users", r->path, r->line, CONFIG_USERS_MAX);
    struct config_user *u = &c->user[c->n_user++];
    *u = (struct config_user){ .uid = uid, .weight = 1 };
    snprintf(u->name, sizeof(u->name), "%s", user);
    *ret = u;
    return 0;
}

static int user_key(struct file_reader *r, const char *user, const char *where, const char *key,
                    const char *value)
{
    struct config_user *u = NULL;
    int error = user_section(r, user, &u);
    if (error)
        return error;
    static const struct {
        const char *name;
        size_t off;
        uint32_t min, max;
    } numbers[] = {
        { "weight", offsetof(struct config_user, weight), 1, 1000 },
        { "sessions-max", offsetof(struct config_user, sessions_max), 1, LIMIT_SESSIONS },
        { "running-max", offsetof(struct config_user, running_max), 1, 4096 },
    };
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        uint32_t x;
        if (strcmp(key, numbers[i].name))
            continue;
        if (parse_u32(value, &x) || x < numbers[i].min || x > numbers[i].max)
            return fail(r->err, "%s: \"%s\" is no number from %u to %u", where, value,
                        numbers[i].min, numbers[i].max);
        memcpy((char *)u + numbers[i].off, &x, sizeof(x));
        return 0;
    }
    if (strcmp(key, "shared-memory-max") == 0)
        return config_parse_size(value, &u->shm_bytes_max)
                   ? fail(r->err, "%s: \"%s\" is no size (as 512MiB)", where, value)
                   : 0;
    if (strcmp(key, "groups") == 0)
        return user_groups(r, u, where, value);
    return fail(r->err,
                "%s:%d: unknown key \"%s\" in [user %s] (known: weight sessions-max running-max "
                "shared-memory-max groups)",
                r->path, r->line, key, user);
}

static int handle(struct file_reader *r, const char *section, const char *key, const char *value)
{
    static const struct {
        const char *name;
        unsigned bit;
    } sections[] = { { "daemon", SECTION_DAEMON },
                     { "kv", SECTION_KV },
                     { "sched", SECTION_SCHED },
                     { "log", SECTION_LOG } };
    char where[CONFIG_ERROR_BYTES / 2];
    unsigned bit = 0;
    struct config_model_options *options = &r->c->common;
    if (strlen(section) >= 49) /* the parser cuts there */
        return fail(r->err, "%s:%d: the section's name is too long", r->path, r->line);
    snprintf(where, sizeof(where), "%s:%d: %s", r->path, r->line, key);
    for (size_t i = 0; i < ARRAY_SIZE(sections); i++)
        if (strcmp(section, sections[i].name) == 0)
            bit = sections[i].bit;
    if (strncmp(section, "user ", 5) == 0 && section[5])
        return user_key(r, section + 5, where, key, value);
    if (strncmp(section, "model ", 6) == 0 && section[6]) {
        bit = SECTION_MODEL;
        char why[CONFIG_ERROR_BYTES];
        struct config_model *m = find_model(r->c, section + 6, strlen(section + 6), why);
        if (!m)
            return fail(r->err, "%s:%d: %.300s", r->path, r->line, why);
        options = &m->options;
        if (strcmp(key, "path") == 0) {
            if (!*value || strlen(value) >= sizeof(m->path))
                return fail(r->err, "%s: not a path", where);
            memcpy(m->path, value, strlen(value) + 1);
            return 0;
        }
    }
    if (!bit)
        return fail(r->err,
                    "%s:%d: unknown section [%s] (known: daemon, model NAME, kv, sched, "
                    "user NAME, log)",
                    r->path, r->line, section);
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
        if (rules[i].sections & bit && strcmp(rules[i].name, key) == 0)
            return apply(&rules[i], r->c, options, where, value, r->err);
    return fail(r->err, "%s:%d: unknown key \"%s\" in [%s]", r->path, r->line, key, section);
}

static int on_key(void *context, const char *section, const char *key, const char *value)
{
    struct file_reader *r = context;
    if (!r->error)
        r->error = handle(r, section, key, value ? value : "");
    return 1;
}

int config_read_file(const char *path, struct config *c, char err[CONFIG_ERROR_BYTES])
{
    auto_fclose FILE *file = fopen(path, "re");
    if (!file) {
        int error = -errno;
        fail(err, "%s: %s", path, strerror(errno));
        return error;
    }
    struct file_reader r = { .file = file, .path = path, .c = c, .err = err };
    int line = ini_parse_stream(next_line, &r, on_key, &r);
    if (r.error)
        return r.error;
    if (line)
        return fail(err, "%s:%d: neither [section] nor key = value", path, line);
    return 0;
}

/* ---- Flags ---- */

enum { FLAG_MODEL = 1000, FLAG_CONFIG, FLAG_CHECK, FLAG_HELP, FLAG_VERSION, FLAG_RULE };

static void default_socket(struct config *c)
{
    const char *env = getenv("RINGLET_SOCKET"), *run = getenv("XDG_RUNTIME_DIR");
    int n;
    if (env && *env)
        n = snprintf(c->socket, sizeof(c->socket), "%s", env);
    else if (run && *run)
        n = snprintf(c->socket, sizeof(c->socket), "%s/ringlet/ringlet.sock", run);
    else
        n = snprintf(c->socket, sizeof(c->socket), "/run/ringlet/ringlet.sock");
    if (n >= (int)sizeof(c->socket))
        c->socket[0] = 0; /* too long: config_load says so */
}

struct flags {
    struct option option[ARRAY_SIZE(rules) + 6];
    const char *config_path;
};

static void make_flags(struct flags *f)
{
    static const struct option fixed[] = {
        { "model", required_argument, NULL, FLAG_MODEL },
        { "config", required_argument, NULL, FLAG_CONFIG },
        { "check-config", no_argument, NULL, FLAG_CHECK },
        { "help", no_argument, NULL, FLAG_HELP },
        { "version", no_argument, NULL, FLAG_VERSION },
    };
    *f = (struct flags){ 0 };
    memcpy(f->option, fixed, sizeof(fixed));
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
        f->option[ARRAY_SIZE(fixed) + i] =
            (struct option){ rules[i].name, required_argument, NULL, FLAG_RULE + (int)i };
}

/* One walk over the flags. file_pass: only those that say where the file is, and whether to. */
static int walk_flags(int argc, char **argv, struct flags *f, bool file_pass, struct config *c,
                      struct config_model_options *of_flags, char *err)
{
    optind = 0; /* start over, GNU */
    opterr = 0;
    for (int flag; (flag = getopt_long(argc, argv, "+:", f->option, NULL)) != -1;) {
        char where[64];
        int error = 0;
        if (flag == '?')
            return fail(err, "unknown flag %s (see --help)", argv[optind - 1]);
        if (flag == ':')
            return fail(err, "%s: its value is missing", argv[optind - 1]);
        if (flag == FLAG_CONFIG)
            f->config_path = optarg;
        c->check_only |= flag == FLAG_CHECK;
        c->help |= flag == FLAG_HELP;
        c->version |= flag == FLAG_VERSION;
        if (file_pass)
            continue;
        if (flag == FLAG_MODEL) {
            error = add_model(c, optarg, err);
        } else if (flag >= FLAG_RULE) {
            const struct option_rule *rule = &rules[flag - FLAG_RULE];
            snprintf(where, sizeof(where), "--%s", rule->name);
            error = apply(rule, c, of_flags, where, optarg, err);
        }
        if (error)
            return error;
    }
    if (optind < argc)
        return fail(err, "\"%s\" is no flag (a model is named by --model)", argv[optind]);
    return 0;
}

static int check_whole(const struct config *c, char *err)
{
    const char *device = c->device;
    bool cuda = strncmp(device, "cuda", 4) == 0;
    uint32_t index;
    if (strcmp(device, "auto") && strcmp(device, "cpu") &&
        !(cuda && (!device[4] || (device[4] == ':' && !parse_u32(device + 5, &index)))))
        return fail(err, "device \"%s\" is none of auto|cpu|cuda|cuda:N", device);
    if (!c->socket[0])
        return fail(err,
                    "the socket's path is empty, or longer than 107 bytes; give another --socket");
    if (c->n_model == 0)
        return fail(err, "no model: give --model [NAME=]PATH, or a [model NAME] section with path");
    for (uint32_t i = 0; i < c->n_model; i++)
        if (!c->model[i].path[0])
            return fail(err, "model \"%s\" has no path: set it in [model %s] or by --model %s=PATH",
                        c->model[i].name, c->model[i].name, c->model[i].name);
    return 0;
}

int config_load(int argc, char **argv, struct config *ret, char err[CONFIG_ERROR_BYTES])
{
    static const char usual[] = "/etc/ringlet/ringletd.conf";
    struct config_model_options defaults = { .batch_max = 0,
                                             .dtype = "auto",
                                             .kv_type = "auto",
                                             .policy = "fair",
                                             .load_format = "auto",
                                             .prefix_cache = true };
    struct config_model_options of_flags = { 0 };
    struct flags flags;
    *ret = (struct config){ .socket_mode = 0660,
                            .device = "auto",
                            .drain_s = LIMIT_DRAIN_S,
                            .watchdog_s = 60,
                            .slow_client_s = (uint32_t)(LIMIT_SLOW_CLIENT_NS / 1000000000) };
    default_socket(ret);
    make_flags(&flags);
    int error = walk_flags(argc, argv, &flags, true, ret, &of_flags, err);
    if (error || ret->help || ret->version)
        return error;
    if (flags.config_path || access(usual, R_OK) == 0)
        error = config_read_file(flags.config_path ? flags.config_path : usual, ret, err);
    if (!error)
        error = walk_flags(argc, argv, &flags, false, ret, &of_flags, err);
    if (!error)
        error = check_whole(ret, err);
    for (uint32_t i = 0; i < ret->n_model && !error; i++) {
        struct config_model_options o = defaults;
        overlay(&o, &ret->common, ret->n_model);
        overlay(&o, &ret->model[i].options, 1);
        overlay(&o, &of_flags, ret->n_model);
        ret->model[i].options = o;
    }
    return error;
}
