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

#endif
