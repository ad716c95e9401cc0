/*
 * The encoder thread: chat templates, long texts and (later) structures, everything whose time a
 * client could stretch. The loop hands a job over and takes it back; in between it is the thread's
 * alone. Two queues, one wake each way. Each job runs in the thread's own fixed memory; nothing is
 * kept from one job to the next.
 */
#ifndef RINGLET_ENCODE_THREAD_H
#define RINGLET_ENCODE_THREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;
struct encode_thread;
struct template;
struct vocab;
struct wake;

/* What the thread must know of a model. */
struct encode_model {
    const struct vocab *vocab;
    const struct template *template; /* NULL: none */
    uint32_t context;
    int32_t n_id; /* ids below it are the model's */
};

struct encode_job {
    uint32_t model;
    uint8_t input_kind; /* RINGLET_INPUT_TEXT or _MESSAGES */
    bool parse_special, add_bos;
    bool
        cancelled; /* set by the loop before it hands over, or while it waits: then not worked on */
    const char *text; /* the payload's, unchecked: a long one would hold up the loop */
    uint32_t text_bytes;
    int32_t *ids; /* room for ids_max */
    uint32_t ids_max;

    /* Result: n_id ids, or a reason and an error of the wire. */
    uint32_t n_id;
    uint16_t reason; /* 0: done */
    uint32_t error;  /* enum ringlet_error */
    void *owner;
};

/*
 *   n_job       jobs at once, at most
 *   loop_wake   rung when a job is back
 * Returns: 0; -ENOMEM; -errno. Thread: start-up.
 */
int encode_thread_create(const struct encode_model *models, uint32_t n_model, uint32_t n_job,
                         struct arena *arena, struct wake *loop_wake, struct encode_thread **ret);

/* Returns 0 or -errno of pthread_create. */
int encode_thread_start(struct encode_thread *t);

/*
 * Work on one job that waits; what the thread does for ever. False: none waits.
 * Thread: the encoder; whoever drives it where it was not started.
 */
bool encode_thread_turn(struct encode_thread *t);

/* Ends after the job in hand; jobs that wait stay undone. Idempotent; frees encoders. */
void encode_thread_stop(struct encode_thread *t);

/* Hand a job over. There is always room: n_job bounds them. Thread: loop. */
void encode_thread_submit(struct encode_thread *t, struct encode_job *job);

/* A job that is done, or NULL. Thread: loop. */
struct encode_job *encode_thread_collect(struct encode_thread *t);
/* Is there one? Thread: loop. */
bool encode_thread_ready(const struct encode_thread *t);

/* The reason and error of the wire for what encode_text returned. */
void encode_fault(int error, uint16_t *ret_reason, uint32_t *ret_error);

#endif
