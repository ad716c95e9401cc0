/*
 * The truth about a beam search over the fake executor: the same search once more, without blocks,
 * forks, steps or places: every beam owns its ids.
 */
#ifndef RINGLET_TESTS_SIM_FAKE_BEAM_H
#define RINGLET_TESTS_SIM_FAKE_BEAM_H

#include <stdint.h>

struct fake_executor;
struct request;

enum { FAKE_BEAMS = 10, FAKE_BEAM_TOKENS = 512 };

struct fake_beam {
    int32_t ids[FAKE_BEAM_TOKENS];
    uint32_t n;
    double sum, score;
    uint16_t reason; /* of a hypothesis */
};

/*
 * The hypotheses of a request, best first; returns how many.
 *
 *   room   output tokens that the context leaves; at most FAKE_BEAM_TOKENS are looked at
 */
uint32_t fake_beam_search(const struct fake_executor *fake, const struct request *request,
                          const int32_t *eos, int n_eos, uint32_t room,
                          struct fake_beam ret[FAKE_BEAMS]);

#endif
