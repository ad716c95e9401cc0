/*
 * The CPU backend with graphs: between begin and end ops are recorded instead of run, launch runs
 * them with the arguments of the recording. What a real capture does with host values (they freeze)
 * and with device memory (it is read anew), so that padding and offsets can be proved without a
 * GPU.
 */
#ifndef RINGLET_TESTS_REPLAY_DEVICE_H
#define RINGLET_TESTS_REPLAY_DEVICE_H

#include "kernels/backend.h"

const struct backend *replay_backend(void);
int replay_launches(void);
int replay_most_rows(void); /* of attention op by op, since replay_backend */

/* From now on call number `call` that begins, ends or launches a graph gives rc; 0: none does. */
void replay_fail(int call, int rc);
int replay_graph_calls(void); /* since replay_backend or replay_fail */

#endif
