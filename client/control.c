/* What is there: models and counters from BOARD; the operations on handles; names and messages. */
#include "client/client_internal.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "config.h"

static const void *board_at(const struct ringlet_client *cl, uint64_t off)
{
    return (const char *)cl->link.board.base + off;
}

static void copy_text(char *to, size_t to_bytes, const char *from, size_t from_bytes)
{
    size_t n = strnlen(from, min_of(from_bytes, to_bytes - 1));
    memcpy(to, from, n);
    memset(to + n, 0, to_bytes - n);
}

api_export int ringlet_model_at(struct ringlet_client *cl, uint32_t index,
                                struct ringlet_model_info *ret_model)
{
    if (load_once(cl->alive) == 0)
        return -ECHILD;
    if (index >= RINGLET_MODELS_MAX)
        return -ENOENT;
    const struct ringlet_board_model *table = board_at(cl, RINGLET_BOARD_MODELS_OFF);
    struct ringlet_board_model m;
    int error = layout_read_model(&table[index], &m);
    if (error < 0)
        return error;
    if (m.state == RINGLET_MODEL_EMPTY)
        return -ENOENT;
    *ret_model = (struct ringlet_model_info){ .index = (uint16_t)index,
                                         .generation = m.generation,
                                         .state = m.state,
                                         .flags = m.flags,
                                         .vocab = m.vocab,
                                         .context = m.context,
                                         .kv_block_tokens = m.kv_block_tokens,
                                         .set = m.set,
                                         .temperature = m.temperature,
                                         .top_p = m.top_p,
                                         .min_p = m.min_p,
                                         .top_k = m.top_k,
                                         .presence_penalty = m.presence_penalty,
                                         .frequency_penalty = m.frequency_penalty,
                                         .repetition_penalty = m.repetition_penalty,
                                         .bos = m.bos,
                                         .eos = m.eos,
                                         .weight_bytes = m.weight_bytes,
                                         .n_parameter = m.n_parameter };
    copy_text(ret_model->name, sizeof(ret_model->name), m.name, sizeof(m.name));
    copy_text(ret_model->arch, sizeof(ret_model->arch), m.arch, sizeof(m.arch));
    copy_text(ret_model->file_type, sizeof(ret_model->file_type), m.file_type,
              sizeof(m.file_type));
    copy_text(ret_model->device, sizeof(ret_model->device), m.device, sizeof(m.device));
    return 0;
}

api_export int ringlet_model(struct ringlet_client *cl, const char *name,
                             struct ringlet_model_info *ret_model)
{
    int busy = -ENOENT;
    for (uint32_t i = 0; i < RINGLET_MODELS_MAX; i++) {
        struct ringlet_model_info m;
        int error = ringlet_model_at(cl, i, &m);
        if (error == -ENOENT)
            continue;
        if (error == -EAGAIN) {
            busy = error;
            continue;
        }
        if (error < 0)
            return error;
        if (name ? strcmp(m.name, name) == 0 : m.state == RINGLET_MODEL_READY) {
            *ret_model = m;
            return 0;
        }
    }
    return busy;
}

api_export int ringlet_stats(struct ringlet_client *cl, struct ringlet_stats_info *ret_stats)
{
    if (load_once(cl->alive) == 0)
        return -ECHILD;
    const struct ringlet_board_head *head = board_at(cl, 0);
    const struct ringlet_board_beat *beat = board_at(cl, RINGLET_BOARD_BEAT_OFF);
    const struct ringlet_board_stats *stats = board_at(cl, RINGLET_BOARD_STATS_OFF);
    uint64_t now_ns = doorbell_now_ns() + (uint64_t)cl->link.clock_shift_ns;
    uint64_t beat_ns = load_once(&beat->heartbeat_ns);
    *ret_stats = (struct ringlet_stats_info){
        .daemon_generation = head->daemon_generation,
        .uptime_ns = now_ns > head->start_ns ? now_ns - head->start_ns : 0,
        .heartbeat_age_ns = now_ns > beat_ns ? now_ns - beat_ns : 0,
        .steps = load_once(&beat->steps),
        .pid = head->pid,
        .n_model = head->n_model,
        .n_stat = load_acquire(&stats->n_stat), /* pairs with the daemon's last store of it */
        .in_flight = client_is_observer(cl) ? 0 : client_in_flight(cl),
        .limits = board_at(cl, RINGLET_BOARD_LIMITS_OFF),
    };
    copy_text(ret_stats->version, sizeof(ret_stats->version), head->version,
              sizeof(head->version));
    return 0;
}

api_export int ringlet_stat_at(struct ringlet_client *cl, uint32_t i,
                               struct ringlet_counter *ret_counter)
{
    if (load_once(cl->alive) == 0)
        return -ECHILD;
    const struct ringlet_board_stats *stats = board_at(cl, RINGLET_BOARD_STATS_OFF);
    uint64_t size = cl->link.board.bytes;
    if (i >= load_acquire(&stats->n_stat)) /* pairs with the daemon's last store of it */
        return -ENOENT;
    if (stats->stat_bytes < sizeof(struct ringlet_stat) || stats->stat_bytes % 8 ||
        stats->stat_bytes > 4096)
        return -EPROTO;
    uint64_t off =
        RINGLET_BOARD_STATS_OFF + sizeof(*stats) + (uint64_t)i * stats->stat_bytes;
    if (!span_inside(off, sizeof(struct ringlet_stat), size))
        return -EPROTO;
    const struct ringlet_stat *stat = board_at(cl, off);
    if (!memchr(stat->name, 0, sizeof(stat->name)) || stat->value_off % 8 ||
        !span_inside(stat->value_off, 8 * (uint64_t)stat->n_value, size))
        return -EPROTO;
    *ret_counter = (struct ringlet_counter){ .name = stat->name,
                                             .kind = stat->kind,
                                             .model = stat->model,
                                             .urgency_class = stat->urgency_class,
                                             .n_value = stat->n_value,
                                             .values = board_at(cl, stat->value_off) };
    return 0;
}

/* An input alone, with another operation. */
static void input_only(struct ringlet_request *to, const struct ringlet_request *from, uint8_t op)
{
    ringlet_request_init(to);
    to->struct_size = from->struct_size;
    to->op = op;
    to->flags = from->flags & (RINGLET_SQE_PARSE_SPECIAL | RINGLET_SQE_NO_BOS);
    to->tag = from->tag;
    to->urgency = from->urgency;
    to->model = from->model;
    to->model_generation = from->model_generation;
    to->must_understand = from->must_understand;
    to->text = from->text;
    to->text_bytes = from->text_bytes;
    to->tokens = from->tokens;
    to->n_token = from->n_token;
    to->messages = from->messages;
    to->n_message = from->n_message;
    to->handle = from->handle;
    to->group = from->group;
    to->group_bytes = from->group_bytes;
}

api_export int ringlet_lease(struct ringlet_client *cl, const struct ringlet_request *req,
                             uint64_t lease_ns, uint64_t *ret_id)
{
    struct ringlet_request lease;
    input_only(&lease, req, RINGLET_OP_LEASE);
    lease.lease_ns = lease_ns;
    return ringlet_submit(cl, &lease, ret_id);
}

api_export int ringlet_query(struct ringlet_client *cl, const struct ringlet_request *req,
                             uint64_t *ret_id)
{
    struct ringlet_request query;
    input_only(&query, req, RINGLET_OP_QUERY);
    return ringlet_submit(cl, &query, ret_id);
}

api_export int ringlet_release(struct ringlet_client *cl, uint64_t handle, uint64_t tag,
                               uint64_t *ret_id)
{
    struct ringlet_request release;
    ringlet_request_init(&release);
    release.op = RINGLET_OP_RELEASE;
    release.tag = tag;
    release.handle = handle;
    return ringlet_submit(cl, &release, ret_id);
}

api_export const char *ringlet_strerror(int error)
{
    switch (-error) {
    case 0: return "no error";
    case ENOENT: return "no daemon at this socket, or no such model or counter";
    case ECONNREFUSED: return "the socket is there but no daemon accepts: is ringletd running?";
    case EACCES:
    case EPERM: return "no permission for the daemon's socket";
    case ETIMEDOUT: return "the deadline passed, or the daemon stands still";
    case EDQUOT: return "this user's sessions or shared memory are used up";
    case ESHUTDOWN: return "the daemon is shutting down";
    case EPROTONOSUPPORT: return "the daemon speaks another version of the protocol";
    case ENOTSUP: return "the daemon lacks a required feature";
    case EPROTO: return "the daemon sent something impossible";
    case EPIPE: return "the daemon is gone";
    case ECONNABORTED: return "the daemon dropped this session";
    case EAGAIN: return "nothing now: no event, no room, or a full daemon; try again";
    case EALREADY: return "an event is there already";
    case EMSGSIZE: return "the request is larger than the prompt arena";
    case EINVAL: return "an argument that cannot be sent, or a struct that was not initialised";
    case ENOTCONN: return "this session observes only and takes no requests";
    case ECHILD: return "a forked child cannot use its parent's session";
    case EINTR: return "interrupted by a signal";
    case ENAMETOOLONG: return "the socket's path is too long";
    case ENOMEM: return "out of memory";
    case EMFILE:
    case ENFILE: return "too many open files";
    default: return "unexpected system error";
    }
}

api_export const char *ringlet_reason_name(unsigned reason)
{
    switch (reason) {
    case RINGLET_REASON_DONE: return "done";
    case RINGLET_REASON_STOP_EOS: return "stop_eos";
    case RINGLET_REASON_STOP_TOKEN: return "stop_token";
    case RINGLET_REASON_STOP_STRING: return "stop_string";
    case RINGLET_REASON_LENGTH: return "length";
    case RINGLET_REASON_CONTEXT: return "context";
    case RINGLET_REASON_REPETITION: return "repetition";
    case RINGLET_REASON_CANCELLED: return "cancelled";
    case RINGLET_REASON_DEADLINE: return "deadline";
    case RINGLET_REASON_SLOW_CLIENT: return "slow_client";
    case RINGLET_REASON_REJECTED: return "rejected";
    case RINGLET_REASON_OVERLOAD: return "overload";
    case RINGLET_REASON_ERROR_REQUEST: return "error_request";
    case RINGLET_REASON_ERROR_ENGINE: return "error_engine";
    case RINGLET_REASON_DAEMON_LOST: return "daemon_lost";
    default: return "unknown";
    }
}

api_export const char *ringlet_error_name(unsigned error)
{
    static const char *const names[] = {
        "none",      "bad_op",       "bad_bit",      "bad_field", "bad_span", "bad_utf8",
        "bad_token", "bad_template", "bad_grammar",  "too_long",  "too_big",  "over_quota",
        "no_model",  "model_changed", "no_handle",   "draining",
    };
    return error < ARRAY_SIZE(names) ? names[error] : "unknown";
}

api_export const char *ringlet_version(void)
{
    return RINGLET_VERSION;
}
