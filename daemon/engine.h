/*
 * Devices and models from the configuration: opened, loaded and wired to a scheduler before anyone
 * is served. Start-up thread.
 */
#ifndef RINGLET_ENGINE_H
#define RINGLET_ENGINE_H

#include "daemon/config.h"
#include "daemon/exec/executor.h"
#include "daemon/format/format_error.h"
#include "daemon/serve.h"

struct arena;
struct encoder;
struct gguf;
struct template;
struct vocab;

struct engine_model {
    struct gguf *gguf; /* the file, shared by weights and vocabulary; NULL: none */
    struct vocab *vocab;
    struct template *template;
    struct encoder *encoder;
    struct executor_model loaded;
    struct ringlet_board_model entry; /* of the model table */
    int batch_max;
    uint64_t text_ns; /* what reading vocabulary and template took */
};

struct engine {
    struct executor *executor;
    char device[32];
    struct engine_model model[LIMIT_MODELS];
    uint32_t n_model;
};

/*
 * Open the device, then every model. A line is logged for each.
 *   spin_ns   how long an idle executor polls
 * Returns 0 or a negative errno with err.
 */
int engine_open(const struct config *config, uint64_t spin_ns, struct engine *ret,
                struct format_error *err);

/* Schedulers, steps and loop-side encoders for a serve; fills its model tables and the board. */
int engine_attach(struct engine *e, const struct config *config, struct serve *sv,
                  struct arena *arena, struct format_error *err);

/* What the encoder thread must know. */
void engine_encode_models(const struct engine *e, struct encode_model ret[LIMIT_MODELS]);

/* Bytes that engine_attach takes from the arena, at most. */
size_t engine_bytes(const struct engine *e);

/* Ends the executor thread first. */
void engine_close(struct engine *e);

#endif
