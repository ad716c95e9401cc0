/* Single-producer rings of fixed lines, one per thread; the loop is the only consumer. */
#include "daemon/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "daemon/base/arena.h"

struct log_line {
    uint16_t bytes;
    char text[LOG_LINE_BYTES];
};

struct log_ring {
    aligned_to(CACHE_LINE_PAIR) uint32_t tail; /* producer */
    uint32_t dropped;
    aligned_to(CACHE_LINE_PAIR) uint32_t head; /* loop */
    uint32_t dropped_told;
    struct log_line line[LOG_RING_LINES];
};

uint8_t log_levels[LOG_N_TOPIC] = { LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_WARN, LOG_LEVEL_WARN,
                                    LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_WARN };

static const char *const topic_names[LOG_N_TOPIC] = { "daemon", "session", "loop", "sched",
                                                      "exec",   "model",   "text" };
static const char *const level_names[] = { "off", "error", "warn", "info", "debug" };

static struct log_ring *rings;
static _Thread_local struct log_ring *own;

/* "ringletd: " as the programs of GNU do; the topic only where it says more than the text. */
static size_t format_line(char *to, enum log_topic topic, enum log_level level, const char *format,
                          va_list args)
{
    int n = topic == LOG_TOPIC_DAEMON
                ? snprintf(to, LOG_LINE_BYTES, "ringletd: ")
                : snprintf(to, LOG_LINE_BYTES, "ringletd: %s: ", topic_names[topic]);
    if (level == LOG_LEVEL_DEBUG)
        n += snprintf(to + n, LOG_LINE_BYTES - (size_t)n, "debug: ");
    int m = vsnprintf(to + n, LOG_LINE_BYTES - (size_t)n, format, args);
    size_t bytes = m < 0 ? (size_t)n : min_of((size_t)(n + m), (size_t)LOG_LINE_BYTES - 1);
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)to[i] < 0x20 || to[i] == 0x7f)
            to[i] = '?';
    to[bytes++] = '\n';
    return bytes;
}

void log_write(enum log_topic topic, enum log_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!own) {
        char line[1024]; /* start-up lines name whole paths */
        int n = snprintf(line, sizeof(line), "ringletd: ");
        n += vsnprintf(line + n, sizeof(line) - (size_t)n, format, args);
        size_t bytes = min_of((size_t)n, sizeof(line) - 1);
        line[bytes++] = '\n';
        ssize_t written = write(STDERR_FILENO, line, bytes);
        (void)written;
    } else if (own->tail - load_acquire(&own->head) >= LOG_RING_LINES) {
        store_once(&own->dropped, own->dropped + 1); /* full; pairs with store_release in drain */
    } else {
        struct log_line *line = &own->line[own->tail % LOG_RING_LINES];
        line->bytes = (uint16_t)format_line(line->text, topic, level, format, args);
        store_release(&own->tail, own->tail + 1); /* pairs with load_acquire in log_drain */
    }
    va_end(args);
}

static int find_name(const char *const *names, int n, const char *text, size_t bytes)
{
    for (int i = 0; i < n; i++)
        if (strlen(names[i]) == bytes && memcmp(names[i], text, bytes) == 0)
            return i;
    return -1;
}

int log_parse(const char *text, const char **ret_bad, size_t *ret_bad_bytes)
{
    uint8_t levels[LOG_N_TOPIC];
    memcpy(levels, log_levels, sizeof(levels));
    for (const char *part = text; *part;) {
        size_t bytes = strcspn(part, ",");
        const char *equals = memchr(part, '=', bytes);
        size_t name_bytes = equals ? (size_t)(equals - part) : bytes;
        int topic = find_name(topic_names, LOG_N_TOPIC, part, name_bytes);
        bool all = name_bytes == 3 && memcmp(part, "all", 3) == 0;
        int level = equals ? find_name(level_names, ARRAY_SIZE(level_names), equals + 1,
                                       bytes - name_bytes - 1)
                           : -1;
        if ((topic < 0 && !all) || level < 0) {
            *ret_bad = part;
            *ret_bad_bytes = bytes;
            return -EINVAL;
        }
        for (int i = 0; i < LOG_N_TOPIC; i++)
            if (all || i == topic)
                levels[i] = (uint8_t)level;
        part += bytes;
        part += *part == ',';
    }
    memcpy(log_levels, levels, sizeof(levels));
    return 0;
}

int log_create(struct arena *arena)
{
    rings = arena_array(arena, struct log_ring, LOG_RINGS);
    return rings ? 0 : -ENOMEM;
}

void log_attach(unsigned i)
{
    assert(i < LOG_RINGS);
    if (rings)
        own = &rings[i];
}

void log_detach(void)
{
    own = NULL;
}

bool log_pending(void)
{
    for (unsigned i = 0; rings && i < LOG_RINGS; i++)
        if (load_once(&rings[i].tail) != rings[i].head ||
            load_once(&rings[i].dropped) != rings[i].dropped_told)
            return true;
    return false;
}

size_t log_drain(char *to, size_t room)
{
    size_t n = 0;
    for (unsigned i = 0; rings && i < LOG_RINGS; i++) {
        struct log_ring *ring = &rings[i];
        uint32_t tail = load_acquire(&ring->tail); /* pairs with store_release in log_write */
        for (; ring->head != tail; store_release(&ring->head, ring->head + 1)) {
            const struct log_line *line = &ring->line[ring->head % LOG_RING_LINES];
            if (line->bytes > room - n)
                return n;
            memcpy(to + n, line->text, line->bytes);
            n += line->bytes;
        }
        uint32_t dropped = load_once(&ring->dropped);
        if (dropped != ring->dropped_told && room - n > 64) {
            n += (size_t)snprintf(to + n, room - n, "ringletd: %u log lines dropped\n",
                                  dropped - ring->dropped_told);
            ring->dropped_told = dropped;
        }
    }
    return n;
}
