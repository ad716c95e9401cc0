/*
 * What the administrator wants: flags and an INI file into one struct, checked as a whole. Flag
 * beats file; for a model: flag, then its own section, then [kv], [sched] and [daemon].
 */
#ifndef RINGLET_CONFIG_H
#define RINGLET_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/base/limits.h"

enum {
    CONFIG_TEXT_BYTES = 4096,
    CONFIG_USERS_MAX = 64,
    CONFIG_GROUPS_MAX = 64,
    CONFIG_ERROR_BYTES = 512
};

enum config_spin { CONFIG_SPIN_ADAPTIVE, CONFIG_SPIN_ALWAYS, CONFIG_SPIN_NEVER };

/* Options that a model can have of its own. `set` has a bit per field that somebody gave. */
struct config_model_options {
    uint32_t set;
    uint32_t ctx;       /* 0: the model's */
    uint64_t kv_memory; /* 0: auto */
    uint64_t host_kv_memory;
    uint32_t batch_max;
    char dtype[8];
    char kv_type[8];
    char policy[24];
    char load_format[8];
    bool prefix_cache;
    uint32_t cadence_ms;
};

struct config_model {
    char name[RINGLET_MODEL_NAME_BYTES]; /* "": from the file */
    char path[CONFIG_TEXT_BYTES];
    bool by_flag; /* a flag named it */
    struct config_model_options options; /* effective once config_load is done */
};

struct config_user {
    char name[64];
    uid_t uid;
    uint32_t weight;       /* share of tokens under the policy fair */
    uint32_t running_max;  /* sequences that run at once; 0: no cap */
    uint32_t sessions_max; /* 0: the default */
    uint64_t shm_bytes_max;
    uint64_t groups; /* bit i: may join config.group[i] */
};

struct config {
    char socket[108];
    mode_t socket_mode;
    char device[32];  /* "auto", "cpu", "cuda", "cuda:N" */
    uint32_t threads; /* 0: one per core */
    char cpus[256];
    enum config_spin spin;
    uint32_t drain_s, slow_client_s, watchdog_s;
    char log[256];
    char trace[CONFIG_TEXT_BYTES]; /* "": none */
    struct config_model_options common;
    struct config_model model[LIMIT_MODELS];
    uint32_t n_model;
    struct config_user user[CONFIG_USERS_MAX];
    uint32_t n_user;
    char group[CONFIG_GROUPS_MAX][RINGLET_GROUP_BYTES_MAX + 1]; /* sharing groups of the cache */
    uint32_t n_group;
    bool check_only, help, version;
};

/*
 * Read flags and, if there is one, the file.
 *   err   one line that names flag or file:line, the cause, and what would be right
 * Returns: 0; -EINVAL usage or contents; -ENOENT, ... the file named by --config cannot be read.
 */
int config_load(int argc, char **argv, struct config *ret, char err[CONFIG_ERROR_BYTES]);

/* One INI file over `c`, for the fuzzer and tests; config_load calls it. */
int config_read_file(const char *path, struct config *c, char err[CONFIG_ERROR_BYTES]);

/* "16", "1.5G", "256MiB", "auto" (0). K, M, G count in 1000, KiB, MiB, GiB in 1024.
 * Returns 0 or -EINVAL. */
int config_parse_size(const char *text, uint64_t *ret);

/* The text of --help. */
const char *config_usage(void);

#endif
