/*
 * The only reader of UP. Entries and what they point at are copied once into private memory, within
 * a budget per session and pass, and checked there; nobody else sees a client's bytes. Loop thread.
 */
#ifndef RINGLET_SESSION_INTAKE_H
#define RINGLET_SESSION_INTAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/session/session.h"
#include "daemon/session/validate.h"

/* An entry that was taken, whole and private. */
struct intake_item {
    struct ringlet_sqe sqe;      /* NOP, or refused: op, slot, generation and tag only */
    struct validate_fault fault; /* error != 0: refuse it; then nothing below is there */
    struct request_params params;
    bool seed_set;

    uint8_t *payload; /* one piece of the payload pool, the taker's now (intake_give); NULL: NOP */
    uint32_t payload_bytes;
    int32_t *ids; /* TOKENS: the input; else room for ids_max ids */
    uint32_t n_id, ids_max;
    char *text; /* TEXT, MESSAGES: the input, in the same piece */
    uint32_t text_bytes;
    void *stops; /* room of config.stops_bytes for the caller's table, 16-aligned; NULL: no stops */
    const uint8_t *raw_stops; /* as on the wire, checked */
    uint32_t raw_stops_bytes;
    const int32_t *stop_ids;
    uint32_t n_stop_id;
    const struct request_bias *bias;
    uint32_t n_bias;
    uint32_t group; /* sharing group, from 1; 0: the user's own cache */
};

/*
 * Take the next entry of a session that sends one at a time, if it is a NOP without flags: the
 * checks of intake_take on the same single copy, on the shortest way. Its slot is not marked busy:
 * publish_done answers it at once.
 * Returns: 1 taken; 0 nothing there; -EAGAIN intake_take has to look.
 */
int intake_take_nop(struct session *s, const struct validate_env *env, struct ringlet_sqe *ret);

/* A session's turn in this pass: what it may copy. Deficit round robin over the hot ones. */
void intake_begin(struct session *s);

/*
 * Take the next entry.
 * Returns: 1 item; 0 nothing more now (none there, budget spent, no credit, pool full); a protocol
 * error dooms the session and gives 0.
 */
int intake_take(struct session *s, const struct validate_env *env, struct intake_item *ret);

/*
 * A turn took n entries, of s->bite that it might have. A look at an entry that is not there yet
 * takes its line away from the client that is about to write it, and costs both a transfer: so
 * who sends one at a time is looked at once a turn, and a bite grows only now and then, or while
 * there is more.
 */
void intake_bitten(struct session *s, uint32_t n);

/* A piece of the payload pool, charged to the user; NULL: its share is used up, or the pool full.
 */
void *intake_room(struct sessions *all, struct session_uid *user, uint32_t bytes);

/* Give an item's payload, or such a piece, back, and its user the room for it. NULL is fine. */
void intake_give(struct sessions *all, struct session_uid *user, uint8_t *payload, uint32_t bytes);

/* Tell the client how far its entries were taken: its ring and its arena are free up to there. */
void intake_end(struct session *s);

/*
 * Call fn for each busy slot whose cancel word names its request, if cancel_seq moved.
 * The slot's request may be NULL (its entry is still being copied).
 */
void intake_cancels(struct session *s, void (*fn)(void *context, struct session *s, uint16_t slot),
                    void *context);

/*
 * Does the slot's cancel word name its request already? It may have come before the entry was
 * taken, with cancel_seq seen for another's sake; so it is asked once when the request is made.
 */
bool intake_cancelled(const struct session *s, uint16_t slot);

/* Is there an entry, a cancel or fresh credit that somebody waits for? Looks, takes nothing. */
bool intake_ready(const struct session *s);

/* Publish's two looks into UP. cq_head is as the client wrote it, unchecked. */
uint32_t intake_cq_head(const struct session *s);
bool intake_client_sleeps(struct session *s);

/* Forget an entry that is half copied, payload included. For session.c, at the end. */
void intake_drop_pending(struct session *s);

#endif
