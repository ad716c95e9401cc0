/*
 * Is this submission acceptable? Pure: sees private copies and limits only, so what it checked is
 * what gets used. One table says for each number "accept if and only if in range"; NaN fails.
 */
#ifndef RINGLET_SESSION_VALIDATE_H
#define RINGLET_SESSION_VALIDATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/request/request.h"
#include "ringlet_abi.h"

/* What a request may ask of one model, and what the model takes where it asks nothing. */
struct validate_model {
    bool ready;
    uint16_t generation;
    uint32_t vocab;   /* width of the logits */
    uint32_t context; /* tokens */
    bool has_text, has_template;
    struct request_params defaults;
};

struct validate_env {
    const struct validate_model *models;
    uint32_t n_model;
    uint32_t features;     /* that must_understand may name */
    uint64_t prompt_bytes; /* of the session's arena */
    bool draining;
};

/* Why not. error 0: acceptable. field: byte offset in the entry, or 64 + offset in the block. */
struct validate_fault {
    uint32_t error; /* enum ringlet_error */
    uint32_t field;
};

#define VALIDATE_SQE_FIELD(name)   ((uint32_t)offsetof(struct ringlet_sqe, name))
#define VALIDATE_BLOCK_FIELD(name) ((uint32_t)(64 + offsetof(struct ringlet_block, name)))

/*
 * The entry alone, everything but slot and generation (those are protocol, not request). A fault is
 * an answer to the client, never an error of ours. Returns whether it is acceptable.
 */
bool validate_sqe(const struct ringlet_sqe *sqe, const struct validate_env *env,
                  struct validate_fault *ret_fault);

/* Effective temperature (but 0) and repetition penalty are no smaller: logits stay finite. */
#define VALIDATE_DIVISOR_MIN 1e-6f

/*
 * The request block; set fields are checked and put over the model's defaults.
 *   ret_params   complete but for the seed where none is set (seed_set tells) and the deadline,
 *                urgency and max_tokens of the entry, which are filled in here too
 */
bool validate_block(const struct ringlet_sqe *sqe, const struct ringlet_block *block,
                    const struct validate_env *env, struct request_params *ret_params,
                    struct validate_fault *ret_fault);

/* No block: the defaults with what the entry itself says. */
void validate_no_block(const struct ringlet_sqe *sqe, const struct validate_env *env,
                       struct request_params *ret_params);

/* The lists, as copied: stop strings as {u32 bytes, text, padding to 4}; ids; biases. */
bool validate_stops(const void *bytes, uint32_t n_byte, struct validate_fault *ret_fault);
bool validate_ids(const int32_t *ids, uint32_t n, uint32_t vocab);
bool validate_bias(const struct request_bias *bias, uint32_t n, uint32_t vocab,
                   struct validate_fault *ret_fault);

/* Chat records: kinds, roles, lengths, padding, count. */
bool validate_chat(const void *bytes, uint32_t n_byte, struct validate_fault *ret_fault);

/* Well-formed UTF-8 without surrogates and beyond-range values; NUL is a character. */
bool validate_utf8(const void *text, size_t bytes);

#endif
