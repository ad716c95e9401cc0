/* Written at start, then single relaxed words; model entries through layout_write_model. */
#include "daemon/session/board.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/limits.h"
#include "shm/layout.h"

void board_limits_default(struct ringlet_limits *ret)
{
    *ret = (struct ringlet_limits){
        .struct_size = sizeof(*ret),
        .slots_max = RINGLET_SLOTS_MAX,
        .prompt_bytes_max = RINGLET_PROMPT_BYTES_MAX,
        .text_bytes_max = RINGLET_TEXT_BYTES_MAX,
        .n_max = RINGLET_N_MAX,
        .logprobs_max = RINGLET_LOGPROBS_MAX,
        .stop_strings_max = RINGLET_STOP_STRINGS_MAX,
        .stop_bytes_max = RINGLET_STOP_BYTES_MAX,
        .stop_ids_max = RINGLET_STOP_IDS_MAX,
        .logit_bias_max = RINGLET_LOGIT_BIAS_MAX,
        .structure_bytes_max = RINGLET_STRUCTURE_BYTES_MAX,
        .messages_max = RINGLET_MESSAGES_MAX,
        .sessions_max = LIMIT_SESSIONS,
        .sessions_uid_max = LIMIT_SESSIONS_UID,
        .sessions_hot_max = LIMIT_SESSIONS_HOT,
        .queued_max = LIMIT_QUEUED,
        .queued_uid_max = LIMIT_QUEUED_UID,
        .held_max = LIMIT_HELD,
        .models_max = LIMIT_MODELS,
        .devices_max = LIMIT_DEVICES,
        .shm_uid_bytes_max = LIMIT_SHM_UID_BYTES,
        .prompt_pool_bytes = LIMIT_PROMPT_POOL_BYTES,
        .lease_ns_max = LIMIT_LEASE_NS,
        .slow_client_ns = LIMIT_SLOW_CLIENT_NS,
        .loop_text_bytes_max = LIMIT_LOOP_TEXT_BYTES,
        .pinned_percent_max = LIMIT_PINNED_PERCENT,
        .structure_ns_max = LIMIT_STRUCTURE_NS,
        .structure_bytes_memory_max = LIMIT_STRUCTURE_BYTES,
        .template_factor_max = LIMIT_TEMPLATE_FACTOR,
        .beam_width_max = RINGLET_BEAM_WIDTH_MAX,
    };
}

int board_create(const struct board_config *config, struct board *ret)
{
    struct board board = { .region = REGION_NONE };
    int error = region_create("ringlet-board", RINGLET_BOARD_BYTES, REGION_BOARD, &board.region);
    if (error)
        return error;
    unsigned char *base = board.region.base;
    board.head = (struct ringlet_board_head *)(void *)base;
    board.beat = (struct ringlet_board_beat *)(void *)(base + RINGLET_BOARD_BEAT_OFF);
    board.models = (struct ringlet_board_model *)(void *)(base + RINGLET_BOARD_MODELS_OFF);
    error = stats_init(&board.stats, base, board.region.bytes, (int)config->n_model);
    if (error) {
        region_free(&board.region);
        return error;
    }
    *board.head = (struct ringlet_board_head){
        .magic = RINGLET_MAGIC_BOARD,
        .abi_major = RINGLET_ABI_MAJOR,
        .abi_minor = RINGLET_ABI_MINOR,
        .struct_size = sizeof(struct ringlet_board_head),
        .board_bytes = (uint32_t)board.region.bytes,
        .features = RINGLET_FEATURES_KNOWN,
        .daemon_generation = config->daemon_generation,
        .start_ns = config->start_ns,
        .pid = (uint32_t)getpid(),
        .n_model = config->n_model,
    };
    snprintf(board.head->version, sizeof(board.head->version), "%s", config->version);
    memcpy(base + RINGLET_BOARD_LIMITS_OFF, &config->limits, sizeof(config->limits));
    *ret = board;
    return 0;
}

void board_free(struct board *board)
{
    region_free(&board->region);
}

void board_set_model(struct board *board, uint32_t i, const struct ringlet_board_model *model)
{
    layout_write_model(&board->models[i], model);
}
