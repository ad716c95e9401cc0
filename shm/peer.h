/*
 * Every load from memory that the peer may write goes through these two. Test builds define
 * RINGLET_LOAD_HOOK: there the hook makes each load itself, so that it can count it, forge it, or
 * find the bytes elsewhere when the page is shut; in the product they are plain loads.
 */
#ifndef RINGLET_SHM_PEER_H
#define RINGLET_SHM_PEER_H

#include <stdint.h>

#include "base/atomics.h"

#ifdef RINGLET_LOAD_HOOK
uint64_t ring_load_hook(const void *p, unsigned bytes);
#define peer_load(p)         ((__typeof__(*(p)))ring_load_hook((p), sizeof(*(p))))
#define peer_load_acquire(p) peer_load(p)
#else
#define peer_load(p)         load_once(p)
#define peer_load_acquire(p) load_acquire(p)
#endif

#endif
