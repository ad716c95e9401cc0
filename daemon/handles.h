/*
 * Held sequences and leases between wire and scheduler: GENERATE's handle, LEASE, RELEASE. Part of
 * the request path; loop thread.
 */
#ifndef RINGLET_HANDLES_H
#define RINGLET_HANDLES_H

#include <stdbool.h>
#include <stdint.h>

struct intake_item;
struct request;
struct serve;
struct session;

/* The scheduler's handle as the client gets it; 0 stays 0. */
uint64_t handles_wire(const struct request *request, uint64_t handle);

/*
 * Put the ids of a handle before the request's own.
 * Returns: 0; -ENOENT no such handle of this session and model; -EMSGSIZE too long together;
 * -EAGAIN no memory now. On error the request is as before.
 */
int handles_join(struct serve *sv, struct request *request, uint64_t wire);

/* RELEASE, or LEASE of a handle: done and answered, item's payload given back. False: neither. */
bool handles_op(struct serve *sv, struct session *s, const struct intake_item *item);

/* The session is gone, and so are all its handles. */
void handles_gone(struct serve *sv, const struct session *s);

#endif
