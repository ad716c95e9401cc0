/*
 * A ring's producer stores an event word by word, then its tail; a reader copies an event, then
 * looks at the tail again: had the producer come round to its place, the copy is thrown away.
 *
 * JSON: a track per model of the loop's events; two per model of the executor's, for odd and even
 * steps, because two of a model are in flight and slices of one track may not overlap.
 */
#include "daemon/base/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "daemon/base/arena.h"

enum { WORDS = 6, NAME_BYTES = 64, TRACKS = 3 };
static_assert(sizeof(struct trace_event) == WORDS * sizeof(uint64_t), "no padding");

struct trace_ring {
    aligned_to(CACHE_LINE_PAIR) uint64_t tail; /* events ever put */
    uint64_t word[TRACE_RING_EVENTS][WORDS];
};

bool trace_wanted;

static struct trace_ring *rings;
static uint32_t n_attached;
static _Thread_local struct trace_ring *own;
static char model_name[TRACE_MODELS][NAME_BYTES];

enum dump_part { DUMP_HEAD, DUMP_NAMES, DUMP_EVENTS, DUMP_TAIL, DUMP_OVER };

/* The dump under way, the loop's. */
static struct {
    enum dump_part part;
    int name_i, ring_i;
    uint64_t at, end[TRACE_RINGS]; /* of the ring ring_i; where each dump ends */
    uint64_t written, overwritten;
} dump = { .part = DUMP_OVER };

int trace_create(struct arena *arena)
{
    rings = arena_array(arena, struct trace_ring, TRACE_RINGS);
    if (!rings)
        return -ENOMEM;
    memset(model_name, 0, sizeof(model_name));
    store_once(&n_attached, 0);
    dump.part = DUMP_OVER;
    trace_wanted = true;
    return 0;
}

void trace_destroy(void)
{
    trace_wanted = false;
    rings = NULL;
    own = NULL;
}

void trace_name_model(int model, const char *name)
{
    assert(model >= 0 && model < TRACE_MODELS);
    snprintf(model_name[model], NAME_BYTES, "%s", name);
    for (char *at = model_name[model]; *at; at++) /* no escapes in the JSON */
        if (*at < ' ' || *at >= 127 || *at == '"' || *at == '\\')
            *at = '_';
}

void trace_attach(void)
{
    if (!rings)
        return;
    uint32_t i = __atomic_fetch_add(&n_attached, 1, __ATOMIC_RELAXED);
    own = i < TRACE_RINGS ? &rings[i] : NULL;
}

void trace_put(const struct trace_event *event)
{
    uint64_t word[WORDS];
    if (!own)
        return;
    memcpy(word, event, sizeof(word));
    uint64_t *to = own->word[own->tail % TRACE_RING_EVENTS];
    for (int i = 0; i < WORDS; i++) /* release: not seen before the tail that came before them */
        store_release(&to[i], word[i]);       /* pairs with load_acquire in take */
    store_release(&own->tail, own->tail + 1); /* pairs with load_acquire in trace_dump_begin */
}

/* Event number `at` of a ring; false if it is overwritten, or may be just now. */
static bool take(const struct trace_ring *ring, uint64_t at, struct trace_event *ret)
{
    uint64_t word[WORDS];
    for (int i = 0; i < WORDS; i++)
        word[i] = load_acquire(&ring->word[at % TRACE_RING_EVENTS][i]); /* pairs with trace_put */
    if (load_once(&ring->tail) - at >= TRACE_RING_EVENTS)
        return false;
    memcpy(ret, word, sizeof(word));
    return true;
}

static uint64_t oldest(uint64_t tail)
{
    return tail < TRACE_RING_EVENTS ? 0 : tail - TRACE_RING_EVENTS + 1;
}

void trace_dump_begin(void)
{
    memset(&dump, 0, sizeof(dump));
    for (int i = 0; rings && i < TRACE_RINGS; i++) {
        dump.end[i] = load_acquire(&rings[i].tail); /* pairs with store_release in trace_put */
        dump.overwritten += oldest(dump.end[i]);
    }
    dump.at = oldest(dump.end[0]);
    dump.part = DUMP_HEAD;
}

static int track(const struct trace_event *e)
{
    return 1 + e->model * TRACKS + (e->kind == TRACE_EXECUTED ? 1 + (int)(e->step & 1) : 0);
}

/* ns as the microseconds that the format counts in; exact. */
#define US        "%" PRIu64 ".%03u"
#define US_OF(ns) (ns) / 1000, (unsigned)((ns) % 1000)

static int print_event(char *to, size_t room, const struct trace_event *e)
{
    static const char *const names[TRACE_N_KIND] = { "plan", "execute", "commit", "publish",
                                                     "preempt" };
    int pid = (int)getpid(), n;
    if (e->kind == TRACE_PREEMPTED)
        return snprintf(to, room,
                        ",\n{\"name\":\"preempt\",\"ph\":\"i\",\"s\":\"t\",\"pid\":%d,\"tid\":%d,"
                        "\"ts\":" US ",\"args\":{\"requests\":%u}}",
                        pid, track(e), US_OF(e->at_ns), e->seqs);
    uint64_t ns = e->end_ns > e->at_ns ? e->end_ns - e->at_ns : 0;
    n = snprintf(to, room,
                 ",\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":" US ",\"dur\":" US
                 ",\"args\":",
                 names[e->kind], pid, track(e), US_OF(e->at_ns), US_OF(ns));
    if (e->kind == TRACE_PUBLISHED)
        return n + snprintf(to + n, room - (size_t)n, "{\"requests\":%u,\"tokens\":%u}}", e->seqs,
                            e->tokens);
    n += snprintf(to + n, room - (size_t)n,
                  "{\"step\":%" PRIu64 ",\"rows\":%u,\"seqs\":%u,\"tokens\":%u,\"status\":%d",
                  e->step, e->rows, e->seqs, e->tokens, e->status);
    if (e->kind == TRACE_EXECUTED)
        n += snprintf(to + n, room - (size_t)n, ",\"launch\":" US, US_OF((uint64_t)e->launch_ns));
    return n + snprintf(to + n, room - (size_t)n, "}}");
}

/* One line of names; 0: no more. */
static int print_name(char *to, size_t room)
{
    static const char *const of[TRACKS] = { "loop", "executor, even steps", "executor, odd steps" };
    while (dump.name_i < TRACE_MODELS * TRACKS && !model_name[dump.name_i / TRACKS][0])
        dump.name_i++;
    if (dump.name_i == TRACE_MODELS * TRACKS)
        return 0;
    int i = dump.name_i++;
    return snprintf(to, room,
                    ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":"
                    "{\"name\":\"model %d (%s): %s\"}}",
                    (int)getpid(), 1 + i, i / TRACKS, model_name[i / TRACKS], of[i % TRACKS]);
}

/* One line of events; 0: no more. */
static int print_next(char *to, size_t room)
{
    struct trace_event e;
    while (rings && dump.ring_i < TRACE_RINGS) {
        if (dump.at >= dump.end[dump.ring_i]) {
            if (++dump.ring_i < TRACE_RINGS)
                dump.at = oldest(dump.end[dump.ring_i]);
        } else if (take(&rings[dump.ring_i], dump.at++, &e)) {
            dump.written++;
            return print_event(to, room, &e);
        } else {
            dump.overwritten++;
        }
    }
    return 0;
}

/* The next line of any part; 0: over. */
static int print_line(char *to, size_t room)
{
    int n = 0;
    if (dump.part == DUMP_HEAD) {
        dump.part = DUMP_NAMES;
        return snprintf(to, room,
                        "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n{\"name\":\"process_name\","
                        "\"ph\":\"M\",\"pid\":%d,\"args\":{\"name\":\"ringletd\"}}",
                        (int)getpid());
    }
    if (dump.part == DUMP_NAMES && !(n = print_name(to, room)))
        dump.part = DUMP_EVENTS;
    if (dump.part == DUMP_EVENTS && !(n = print_next(to, room)))
        dump.part = DUMP_TAIL;
    if (dump.part != DUMP_TAIL)
        return n;
    dump.part = DUMP_OVER;
    return snprintf(to, room,
                    "\n],\"otherData\":{\"events\":\"%" PRIu64 "\",\"overwritten\":\"%" PRIu64
                    "\"}}\n",
                    dump.written, dump.overwritten);
}

size_t trace_dump_next(char *to, size_t room)
{
    size_t n = 0;
    assert(room >= TRACE_LINE_BYTES);
    while (dump.part != DUMP_OVER && room - n >= TRACE_LINE_BYTES) {
        int line = print_line(to + n, room - n);
        assert(line >= 0 && line < TRACE_LINE_BYTES);
        n += (size_t)line;
    }
    return n;
}

int trace_dump_to(int fd)
{
    char text[16384];
    if (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return -errno;
    trace_dump_begin();
    for (size_t n; (n = trace_dump_next(text, sizeof(text))) > 0;)
        for (size_t at = 0; at < n;) {
            ssize_t written = write(fd, text + at, n - at);
            if (written < 0 && errno != EINTR)
                return -errno;
            at += written > 0 ? (size_t)written : 0;
        }
    return 0;
}
