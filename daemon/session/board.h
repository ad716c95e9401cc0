/*
 * The BOARD: one sealed region that every client and tool maps read-only. Versions, heartbeat,
 * limits, model table; the counters behind it are base/stats.h's. Loop thread.
 */
#ifndef RINGLET_SESSION_BOARD_H
#define RINGLET_SESSION_BOARD_H

#include <stdint.h>

#include "base/atomics.h"
#include "daemon/base/stats.h"
#include "ringlet_abi.h"
#include "shm/region.h"

struct board {
    struct region region;
    struct ringlet_board_head *head;
    struct ringlet_board_beat *beat;
    struct ringlet_board_model *models;
    struct stats stats;
};

struct board_config {
    const char *version;
    uint64_t daemon_generation, start_ns;
    uint32_t n_model;
    struct ringlet_limits limits;
};

/* The limits that clients may see, as this daemon holds them. */
void board_limits_default(struct ringlet_limits *ret);

/* Create, fill, describe the counters. Returns 0 or a negative errno. Thread: start-up. */
int board_create(const struct board_config *config, struct board *ret);
void board_free(struct board *board);

/* Replace entry i of the model table, behind its sequence lock. */
void board_set_model(struct board *board, uint32_t i, const struct ringlet_board_model *model);

static inline void board_beat(struct board *board, uint64_t now_ns)
{
    store_once(&board->beat->heartbeat_ns, now_ns);
}

static inline void board_steps(struct board *board, uint64_t steps)
{
    store_once(&board->beat->steps, steps);
}

#endif
