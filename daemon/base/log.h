/*
 * Log lines by topic and level. A thread with a ring of its own (log_attach) never enters the
 * kernel to log: it formats into the ring, and the loop writes the rings out through io_uring. A
 * thread without one, and everything before the loop runs, writes to stderr at once. A full ring
 * drops lines and says how many.
 */
#ifndef RINGLET_BASE_LOG_H
#define RINGLET_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

struct arena;

enum log_level { LOG_LEVEL_OFF, LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum log_topic {
    LOG_TOPIC_DAEMON,
    LOG_TOPIC_SESSION,
    LOG_TOPIC_LOOP,
    LOG_TOPIC_SCHED,
    LOG_TOPIC_EXEC,
    LOG_TOPIC_MODEL,
    LOG_TOPIC_TEXT,
    LOG_N_TOPIC
};

enum { LOG_LINE_BYTES = 240, LOG_RING_LINES = 256, LOG_RINGS = 12 };

extern uint8_t log_levels[LOG_N_TOPIC];

#define log_on(topic, level) (unlikely(log_levels[LOG_TOPIC_##topic] >= LOG_LEVEL_##level))
#define log_at(topic, level, ...)                                                                  \
    do {                                                                                           \
        if (log_on(topic, level))                                                                  \
            log_write(LOG_TOPIC_##topic, LOG_LEVEL_##level, __VA_ARGS__);                          \
    } while (0)
#define log_error(topic, ...) log_at(topic, ERROR, __VA_ARGS__)
#define log_warn(topic, ...)  log_at(topic, WARN, __VA_ARGS__)
#define log_info(topic, ...)  log_at(topic, INFO, __VA_ARGS__)
#define log_debug(topic, ...) log_at(topic, DEBUG, __VA_ARGS__)

/* One line, without its newline; longer ones are cut, control characters become '?'. */
void log_write(enum log_topic topic, enum log_level level, const char *format, ...)
    printf_like(3, 4);

/*
 * `TOPIC=LEVEL[,...]` as --log takes it; `all` is every topic.
 *   ret_bad   the first part that is not understood, within `text`
 * Returns: 0; -EINVAL, nothing changed.
 */
int log_parse(const char *text, const char **ret_bad, size_t *ret_bad_bytes);

/* Rings for LOG_RINGS threads. Returns 0 or -ENOMEM. Thread: start-up. */
int log_create(struct arena *arena);

/* The calling thread logs into ring `i` from now on. Thread: itself, once. */
void log_attach(unsigned i);

/* Back to direct writes for the calling thread, for the way out. */
void log_detach(void);

/* Take whole lines from all rings, up to `room` bytes. Returns bytes. Thread: loop. */
size_t log_drain(char *to, size_t room);

/* Is there a line to drain? Thread: loop. */
bool log_pending(void);

#endif
