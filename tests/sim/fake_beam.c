#include "tests/sim/fake_beam.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "daemon/request/request.h"
#include "tests/sim/fake_executor.h"

enum { TOP = 20 };

struct candidate {
    double sum;
    int beam, top;
    int32_t id;
};

struct search {
    const struct request *request;
    uint32_t width, n_open, n_done, length_max;
    struct fake_beam open[FAKE_BEAMS], next[FAKE_BEAMS];
    struct fake_beam *done; /* best first */
};

static int by_rank(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->sum != y->sum)
        return x->sum > y->sum ? -1 : 1;
    return x->beam != y->beam ? x->beam - y->beam : x->top - y->top;
}

static bool is_in(int32_t id, const int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static void extend(struct fake_beam *to, const struct fake_beam *from, const struct candidate *c)
{
    *to = *from;
    to->ids[to->n++] = c->id;
    to->sum = c->sum;
}

static void add_done(struct search *s, const struct fake_beam *beam, uint16_t reason)
{
    struct fake_beam new = *beam;
    new.reason = reason;
    new.score = new.sum / pow(new.n, (double)s->request->params.length_penalty);
    if (s->n_done == s->width) {
        if (s->done[s->n_done - 1].score >= new.score)
            return;
        s->n_done--;
    }
    uint32_t at = s->n_done++;
    for (; at > 0 && s->done[at - 1].score < new.score; at--)
        s->done[at] = s->done[at - 1];
    s->done[at] = new;
}

static bool over(const struct search *s, double best, uint32_t length)
{
    const struct request_params *params = &s->request->params;
    if (s->n_done < s->width)
        return false;
    if (params->early_stopping == RINGLET_EARLY_STOPPING_TRUE)
        return true;
    if (params->early_stopping == RINGLET_EARLY_STOPPING_NEVER && params->length_penalty > 0)
        length = s->length_max;
    return best / pow(length, (double)params->length_penalty) <= s->done[s->width - 1].score;
}

/* One token more for all. Returns: the search goes on. */
static bool advance(struct search *s, const struct fake_executor *fake, const int32_t *eos,
                    int n_eos)
{
    const struct request *request = s->request;
    const struct request_params *params = &request->params;
    struct candidate all[FAKE_BEAMS * TOP];
    uint32_t n_end = request->n_stop_id + (params->ignore_eos ? 0 : (uint32_t)n_eos), n_all = 0;
    uint32_t n_top = max_of(max_of(2 * s->width, s->width + n_end), (uint32_t)params->logprobs_k);
    for (uint32_t beam = 0; beam < s->n_open; beam++) {
        int32_t ids[TOP];
        float values[TOP];
        int n = fake_top(fake, request, s->open[beam].ids, s->open[beam].n, eos, n_eos,
                         (int)min_of(n_top, (uint32_t)TOP), ids, values);
        for (int top = 0; top < n; top++)
            all[n_all++] = (struct candidate){ s->open[beam].sum + (double)values[top], (int)beam,
                                               top, ids[top] };
    }
    qsort(all, n_all, sizeof(*all), by_rank);
    uint32_t n_next = 0, length = s->open[0].n + 1;
    for (uint32_t i = 0; i < n_all && n_next < s->width; i++) {
        bool is_eos = !params->ignore_eos && is_in(all[i].id, eos, (uint32_t)n_eos);
        bool is_stop = is_in(all[i].id, request->stop_ids, request->n_stop_id);
        struct fake_beam longer;
        extend(&longer, &s->open[all[i].beam], &all[i]);
        if (!is_eos && !is_stop)
            s->next[n_next++] = longer;
        else if (i < s->width)
            add_done(s, &longer, is_eos ? RINGLET_REASON_STOP_EOS : RINGLET_REASON_STOP_TOKEN);
    }
    if (n_next == 0 || over(s, s->next[0].sum, length))
        return false;
    memcpy(s->open, s->next, sizeof(s->open));
    s->n_open = n_next;
    if (length < s->length_max)
        return true;
    for (uint32_t beam = 0; beam < n_next; beam++)
        add_done(s, &s->open[beam],
                 length == params->max_tokens ? RINGLET_REASON_LENGTH : RINGLET_REASON_CONTEXT);
    return false;
}

uint32_t fake_beam_search(const struct fake_executor *fake, const struct request *request,
                          const int32_t *eos, int n_eos, uint32_t room,
                          struct fake_beam ret[FAKE_BEAMS])
{
    static struct search s;
    s.request = request;
    s.width = request->params.beam_width;
    s.length_max = min_of(request->params.max_tokens, room);
    assert(s.length_max <= FAKE_BEAM_TOKENS);
    s.n_open = 1;
    s.n_done = 0;
    s.open[0] = (struct fake_beam){ .n = 0 };
    s.done = ret;
    while (s.length_max > 0 && advance(&s, fake, eos, n_eos)) {
    }
    return s.n_done;
}
