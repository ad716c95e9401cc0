/*
 * The only writer of DOWN's rings and arena. Every event of a pass is stored first; then one fence
 * for all sessions, then the bells of those who sleep. An END has its completion slot reserved from
 * the moment its entry was taken, so it can neither fail nor wait; everything else needs credit.
 * Loop thread.
 */
#ifndef RINGLET_SESSION_PUBLISH_H
#define RINGLET_SESSION_PUBLISH_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/session/session.h"

/* Whose event it is: enough to answer an entry that never became a request. */
struct publish_id {
    uint16_t slot;
    uint32_t generation;
    uint64_t tag;
};

struct publish_tokens {
    uint8_t kind; /* RINGLET_KIND_TOKENS or _PROMPT */
    uint16_t index;
    uint32_t position;
    const int32_t *ids;
    uint32_t n_id;                       /* 0 .. RINGLET_EVENT_TOKENS_MAX */
    const struct step_logprob *logprobs; /* [n_id] or NULL */
    uint32_t n_top;
    const char *text;
    uint32_t text_bytes;
};

struct publish_end {
    uint16_t index, reason;
    uint32_t detail, field; /* field: with RINGLET_ERROR_BAD_FIELD and the like */
    uint32_t position;      /* tokens published */
    uint64_t handle;        /* of the held sequence or lease, 0 = none */
    bool hypothesis;        /* of a beam search: cumulative holds */
    float cumulative;
};

/*
 * Take notice of what the client consumed; who waited for it is fed. False: it lies, and is doomed.
 */
bool publish_refresh(struct session *s);

/*
 * Did the client read on where somebody needs it to, or the ring was full? Takes notice. Once a
 * turn: what intake_ready reports must not stay, or an idle loop would never sleep.
 */
bool publish_look(struct session *s);

/*
 * Is there credit for one event (not an END) with a span of this many bytes? Looks at cq_head only
 * when the last known one does not do. If not, the session is starved: it is tried again when the
 * client reads on.
 */
bool publish_can(struct session *s, uint64_t span_bytes);

/* The largest span that can go out now. */
uint64_t publish_room(struct session *s);

/*
 * A piece of what is known all at once, the ids of a text say, is about to go out: may it, in this
 * pass? Else the session is looked at again in the next one: nobody waits while all of a long
 * answer is written.
 */
bool publish_bulk(struct session *s, uint64_t bytes);

/* Span bytes of an event, as the wire counts them; 0 where it goes inline. */
uint64_t publish_span_bytes(uint32_t n_id, bool logprobs, uint32_t n_top, uint32_t text_bytes);

/* After publish_can. The request was admitted: its effective parameters go to the annex. */
void publish_accepted(struct session *s, const struct request *request);

/* After publish_can with the event's span bytes. */
void publish_tokens(struct session *s, const struct publish_id *id, const struct publish_tokens *t);

/* After publish_can(s, 0): one sequence of several has ended. */
void publish_finished(struct session *s, const struct publish_id *id,
                      const struct publish_end *end);

/* The request's last event; its slot is free afterwards. request: totals for the annex, or NULL. */
void publish_last(struct session *s, const struct publish_id *id, const struct publish_end *end,
                  const struct request *request);

/* The one event of an entry that intake_take_nop took. */
void publish_done(struct session *s, const struct ringlet_sqe *sqe);

/* One fence, then the bells. At the end of the pass. */
void publish_flush(struct sessions *all);

#endif
