/*
 * Whose text the encoder takes next, so that a flood of chats or long texts delays nobody else's:
 * users take turns, within a user its sessions, and a session's texts go in their order, whatever
 * model they are for. The encoder itself is one queue, so only a little is handed to it at once:
 * what comes then waits for no more than that, of which one text at most is long.
 *
 *   turns -> user -> session -> text
 *         \       \ session -> text -> text -> text
 *          \ user -> session -> text
 *
 * Loop thread only. Holds no memory of its own: all of it are nodes in the caller's structs.
 */
#ifndef RINGLET_ENCODE_TURNS_H
#define RINGLET_ENCODE_TURNS_H

#include <stdint.h>

#include "base/list.h"

/* A user, or a session. */
struct encode_place {
    struct list node;    /* among its like, while something waits below it */
    struct list waiting; /* sessions of the user, or texts of the session */
};

struct encode_turns {
    struct list users;  /* those with a text that waits, in their order */
    uint32_t n_out;     /* texts that the encoder has */
    uint64_t bytes_out; /* theirs */
};

void encode_turns_init(struct encode_turns *t);
void encode_place_init(struct encode_place *place);

/* A text waits. To take it back, remove its node. */
void encode_turns_add(struct encode_turns *t, struct encode_place *user,
                      struct encode_place *session, struct list *text);

/* The text that goes to the encoder now, removed from here; NULL: none waits, or it has enough. */
struct list *encode_turns_next(struct encode_turns *t);

/* A text of so many bytes went to the encoder, or came back. */
void encode_turns_out(struct encode_turns *t, uint64_t bytes);
void encode_turns_back(struct encode_turns *t, uint64_t bytes);

/* The session ends, and none of its texts waits any more. */
void encode_turns_leave(struct encode_place *session);

#endif
