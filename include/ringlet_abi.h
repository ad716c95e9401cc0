/*
 * The bytes that cross between a client and ringletd: three shared regions (UP, DOWN, BOARD), two
 * rings of 64-byte entries, two byte arenas and three handshake messages. Little endian, natural
 * alignment, no pointers. Every struct here is a wire layout: its size and each offset is asserted
 * below and never changes within an ABI major; new fields come from reserved bytes and a feature
 * bit. Reserved bytes are zero, and the reader checks that.
 *
 * Programs that talk to the daemon use ringlet.h; this header is for it, for the daemon, and for
 * tools that look at a region from outside. C99- and C++-clean, libc only.
 *
 *   UP, one per session, written by the client     DOWN, one per session, written by the daemon
 *   0x000 client_wait                               0x000 daemon_wait, credit_wait
 *   0x080 cq_head, cancel_seq                       0x080 sq_head
 *   0x100 cancel[S]                                 0x100 session_state, session_error
 *   sq_off     S submission entries                 cq_off     4 S completion entries
 *   prompt_off prompt arena                         annex_off  S annexes of 256 bytes
 *                                                   text_off   text arena
 *
 *   BOARD, one per daemon, read-only for everyone: head, 0x080 heartbeat, 0x100 limits,
 *   0x1000 model table, 0x2000 counters described by a table.
 */
#ifndef RINGLET_ABI_H
#define RINGLET_ABI_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus) && __cplusplus >= 201103L
#define RINGLET_STATIC_ASSERT(cond, name) static_assert(cond, #name)
#elif !defined(__cplusplus) && defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define RINGLET_STATIC_ASSERT(cond, name) _Static_assert(cond, #name)
#else
#define RINGLET_STATIC_ASSERT(cond, name) typedef char ringlet_assert_##name[(cond) ? 1 : -1]
#endif
/* One field: where it lies and how many bytes it takes. */
#define RINGLET_ASSERT_FIELD(type, field, off, bytes)                                              \
    RINGLET_STATIC_ASSERT(offsetof(struct type, field) == (off) &&                                 \
                              sizeof(((struct type *)0)->field) == (bytes),                        \
                          type##_##field)
#define RINGLET_ASSERT_SIZE(type, bytes)                                                           \
    RINGLET_STATIC_ASSERT(sizeof(struct type) == (bytes), type##_size)

#define RINGLET_ABI_MAJOR 1
#define RINGLET_ABI_MINOR 0

/* First word of the handshake messages and of BOARD: "RLHI", "RLWE", "RLAT", "RLBD" in memory. */
#define RINGLET_MAGIC_HELLO   0x49484C52u
#define RINGLET_MAGIC_WELCOME 0x45574C52u
#define RINGLET_MAGIC_ATTACH  0x54414C52u
#define RINGLET_MAGIC_BOARD   0x44424C52u

/*
 * Features: one space of bits for HELLO, WELCOME, BOARD (u64) and must_understand (its low 32).
 * Bit 0 is reserved for asymmetric fences (the sleeper pays).
 */
#define RINGLET_FEATURE_ASYMMETRIC_FENCE 1u
#define RINGLET_FEATURE_BEAM_SEARCH      2u /* request blocks of 256 bytes with their beam fields */
#define RINGLET_FEATURES_KNOWN           RINGLET_FEATURE_BEAM_SEARCH

/* ---- Limits of the wire. The daemon may allow less: see BOARD. ---- */

enum ringlet_abi_limit {
    RINGLET_SLOTS_MIN = 16,
    RINGLET_SLOTS_DEFAULT = 64,
    RINGLET_SLOTS_MAX = 4096,
    RINGLET_CQE_PER_SLOT = 4, /* completion entries per request slot */
    RINGLET_PROMPT_BYTES_MIN = 64 * 1024,
    RINGLET_PROMPT_BYTES_DEFAULT = 1024 * 1024,
    RINGLET_PROMPT_BYTES_MAX = 256 * 1024 * 1024,
    RINGLET_TEXT_BYTES_MIN = 64 * 1024,
    RINGLET_TEXT_BYTES_DEFAULT = 128 * 1024,
    RINGLET_TEXT_BYTES_MAX = 64 * 1024 * 1024,
    RINGLET_N_MAX = 64, /* sequences of one request */
    RINGLET_LOGPROBS_MAX = 20,
    RINGLET_STOP_STRINGS_MAX = 16,
    RINGLET_STOP_BYTES_MAX = 128, /* of one stop string */
    RINGLET_STOP_IDS_MAX = 64,
    RINGLET_LOGIT_BIAS_MAX = 1024,
    RINGLET_STRUCTURE_BYTES_MAX = 64 * 1024,
    RINGLET_MESSAGES_MAX = 1024,
    RINGLET_GROUP_BYTES_MAX = 64, /* name of a sharing group */
    RINGLET_INLINE_BYTES = 16,    /* text inside a completion entry */
    RINGLET_EVENT_TOKENS_MAX = 255,
    RINGLET_ENTRY_BYTES = 64,
    RINGLET_ANNEX_BYTES = 256,
    RINGLET_BLOCK_BYTES = 128, /* request block of a request that needs no feature */
    RINGLET_BLOCK_BYTES_MAX = 256,
    RINGLET_BEAM_WIDTH_MAX = 10,
    RINGLET_SPAN_ALIGN = 8,
    RINGLET_MODELS_MAX = 16,
    RINGLET_MODEL_NAME_BYTES = 64 /* the NUL included */
};

#define RINGLET_MAX_TOKENS_CONTEXT 0xFFFFFFFFu /* max_tokens: to the end of the context */
#define RINGLET_INDEX_ALL          0xFFFFu     /* event index: all sequences that were left */
/*
 * The running number of a session's first submission and first completion, as the daemon chooses it
 * (WELCOME tells). Just before the wrap, so that every session exercises it.
 */
#define RINGLET_SEQ_START 0xFFFFFFFDu

/* ---- Submission ---- */

/* A piece of the prompt arena. offset counts from the arena's start; {0, 0} is none. */
struct ringlet_span {
    uint32_t offset;
    uint32_t bytes;
};

enum ringlet_op {
    RINGLET_OP_NOP = 0,      /* answers `done`: latency, liveness */
    RINGLET_OP_GENERATE = 1, /* ACCEPTED, PROMPT*, TOKENS*, one FINISHED per sequence */
    RINGLET_OP_LEASE = 2,    /* pins the input's KV blocks, or renews `handle` */
    RINGLET_OP_QUERY = 3,    /* annex: prompt tokens and cached tokens; computes nothing */
    RINGLET_OP_RELEASE = 4,  /* ends a held sequence or a lease */
    RINGLET_OP_TOKENIZE = 5  /* PROMPT events with the ids */
};

enum ringlet_sqe_flag {
    RINGLET_SQE_NO_TEXT = 1,       /* ids only */
    RINGLET_SQE_HOLD = 2,          /* keep the sequences after the end; FINISHED tells handles */
    RINGLET_SQE_PARSE_SPECIAL = 4, /* control tokens spelt in the text count as such */
    RINGLET_SQE_NO_BOS = 8,        /* the text does not begin with the model's BOS */
    RINGLET_SQE_FLAGS_KNOWN = 15
};

enum ringlet_input {
    RINGLET_INPUT_NONE = 0,
    RINGLET_INPUT_TEXT = 1,    /* UTF-8, no NUL needed */
    RINGLET_INPUT_TOKENS = 2,  /* uint32_t[] */
    RINGLET_INPUT_MESSAGES = 3 /* struct ringlet_chat_record and its text, repeatedly */
};

/* Submission entry. {seq, op, flags, slot} is the publication word: stored last, with release. */
struct ringlet_sqe {
    uint32_t seq; /* running number of the entry + 1, mod 2^32; its place is number mod S */
    uint8_t op;
    uint8_t flags;       /* enum ringlet_sqe_flag */
    uint16_t slot;       /* request slot, < S, free on the client's side */
    uint64_t tag;        /* the caller's, echoed in every event */
    uint32_t generation; /* of the slot, +1 at each reuse, never 0 */
    uint16_t model;      /* index into BOARD's model table */
    uint16_t model_generation;
    uint32_t input_off; /* in the prompt arena, 8-aligned */
    uint32_t input_bytes;
    uint32_t block_off;   /* request block in the prompt arena, 8-aligned */
    uint16_t block_bytes; /* 0: none, the model's defaults */
    uint8_t input_kind;   /* enum ringlet_input */
    uint8_t urgency;      /* 0 lowest .. 255 */
    uint32_t max_tokens;  /* per sequence; RINGLET_MAX_TOKENS_CONTEXT; 0: score the prompt only */
    uint32_t must_understand;   /* feature bits this request relies on */
    uint64_t total_deadline_ns; /* the daemon's CLOCK_MONOTONIC, absolute; 0: none */
    uint64_t handle;            /* held sequence (continue, fork) or lease; 0: none */
};
RINGLET_ASSERT_SIZE(ringlet_sqe, RINGLET_ENTRY_BYTES);
RINGLET_ASSERT_FIELD(ringlet_sqe, seq, 0, 4);
RINGLET_ASSERT_FIELD(ringlet_sqe, op, 4, 1);
RINGLET_ASSERT_FIELD(ringlet_sqe, flags, 5, 1);
RINGLET_ASSERT_FIELD(ringlet_sqe, slot, 6, 2);
RINGLET_ASSERT_FIELD(ringlet_sqe, tag, 8, 8);
RINGLET_ASSERT_FIELD(ringlet_sqe, generation, 16, 4);
RINGLET_ASSERT_FIELD(ringlet_sqe, model, 20, 2);
RINGLET_ASSERT_FIELD(ringlet_sqe, model_generation, 22, 2);
RINGLET_ASSERT_FIELD(ringlet_sqe, input_off, 24, 4);
RINGLET_ASSERT_FIELD(ringlet_sqe, input_bytes, 28, 4);
RINGLET_ASSERT_FIELD(ringlet_sqe, block_off, 32, 4);
RINGLET_ASSERT_FIELD(ringlet_sqe, block_bytes, 36, 2);
RINGLET_ASSERT_FIELD(ringlet_sqe, input_kind, 38, 1);
RINGLET_ASSERT_FIELD(ringlet_sqe, urgency, 39, 1);
RINGLET_ASSERT_FIELD(ringlet_sqe, max_tokens, 40, 4);
RINGLET_ASSERT_FIELD(ringlet_sqe, must_understand, 44, 4);
RINGLET_ASSERT_FIELD(ringlet_sqe, total_deadline_ns, 48, 8);
RINGLET_ASSERT_FIELD(ringlet_sqe, handle, 56, 8);

/* Bits of ringlet_block.set: an unset field takes the model's default. */
enum ringlet_set {
    RINGLET_SET_SEED = 1 << 0,
    RINGLET_SET_TEMPERATURE = 1 << 1,
    RINGLET_SET_TOP_P = 1 << 2,
    RINGLET_SET_MIN_P = 1 << 3,
    RINGLET_SET_TOP_K = 1 << 4,
    RINGLET_SET_PRESENCE_PENALTY = 1 << 5,
    RINGLET_SET_FREQUENCY_PENALTY = 1 << 6,
    RINGLET_SET_REPETITION_PENALTY = 1 << 7,
    RINGLET_SET_MIN_TOKENS = 1 << 8,
    RINGLET_SET_N = 1 << 9,
    RINGLET_SET_LOGPROBS = 1 << 10,
    RINGLET_SET_PROMPT_LOGPROBS = 1 << 11,
    RINGLET_SET_FLAGS = 1 << 12,
    RINGLET_SET_QUEUE_DEADLINE = 1 << 13,
    RINGLET_SET_FIRST_TOKEN_DEADLINE = 1 << 14,
    RINGLET_SET_LEASE = 1 << 15,
    RINGLET_SET_STOP = 1 << 16,
    RINGLET_SET_STOP_TOKEN_IDS = 1 << 17,
    RINGLET_SET_LOGIT_BIAS = 1 << 18,
    RINGLET_SET_STRUCTURE = 1 << 19, /* kind and text */
    RINGLET_SET_GROUP = 1 << 20,
    RINGLET_SET_REPETITION_DETECTOR = 1 << 21, /* its three bytes */
    RINGLET_SET_BEAM = 1 << 22,                /* width, early stopping, length penalty */
    RINGLET_SET_KNOWN = (1 << 23) - 1
};

enum ringlet_block_flag {
    RINGLET_BLOCK_IGNORE_EOS = 1,
    RINGLET_BLOCK_LOGPROBS = 2, /* the tokens' own logprobs; `logprobs` more per token */
    RINGLET_BLOCK_PROMPT_LOGPROBS = 4,
    RINGLET_BLOCK_INCLUDE_STOP = 8,   /* the stop string stays in the text */
    RINGLET_BLOCK_DETERMINISTIC = 16, /* results do not depend on the batch */
    RINGLET_BLOCK_FLAGS_KNOWN = 31
};

enum ringlet_structure {
    RINGLET_STRUCTURE_NONE = 0,
    RINGLET_STRUCTURE_CHOICE = 1, /* alternatives, one per line */
    RINGLET_STRUCTURE_REGEX = 2,
    RINGLET_STRUCTURE_JSON_SCHEMA = 3,
    RINGLET_STRUCTURE_GRAMMAR = 4
};

/* When a beam search ends that has found as many hypotheses as it has beams. */
enum ringlet_early_stopping {
    RINGLET_EARLY_STOPPING_FALSE = 0, /* when no beam, ending now, would be better than the worst */
    RINGLET_EARLY_STOPPING_TRUE = 1,  /* at once */
    RINGLET_EARLY_STOPPING_NEVER = 2  /* when none could become better up to max_tokens */
};

/*
 * Request block, in the prompt arena: RINGLET_BLOCK_BYTES of it, or RINGLET_BLOCK_BYTES_MAX with a
 * feature that has fields there. What a block lacks is zero.
 */
struct ringlet_block {
    uint32_t block_bytes; /* again, as in the entry */
    uint32_t set;         /* enum ringlet_set */
    uint64_t seed;
    float temperature;
    float top_p;
    float min_p;
    uint32_t top_k; /* 0: all */
    float presence_penalty;
    float frequency_penalty;
    float repetition_penalty;
    uint32_t min_tokens;
    uint16_t n; /* sequences */
    uint8_t logprobs;
    uint8_t prompt_logprobs;
    uint32_t flags; /* enum ringlet_block_flag */
    uint64_t queue_deadline_ns;
    uint64_t first_token_deadline_ns;
    uint64_t lease_ns;
    struct ringlet_span stop;           /* each: u32 bytes, UTF-8, padded to 4 */
    struct ringlet_span stop_token_ids; /* uint32_t[] */
    struct ringlet_span logit_bias;     /* struct ringlet_logit_bias[] */
    struct ringlet_span structure;      /* text of the constraint */
    struct ringlet_span group;          /* sharing group's name; none: the peer's uid */
    uint8_t structure_kind;             /* enum ringlet_structure */
    uint8_t repetition_min;             /* shortest and longest pattern in tokens, and how often */
    uint8_t repetition_max;
    uint8_t repetition_count;
    uint32_t reserved;
    /* From here on with RINGLET_FEATURE_BEAM_SEARCH. */
    uint16_t beam_width;    /* 1..RINGLET_BEAM_WIDTH_MAX; the n best hypotheses are told */
    uint8_t early_stopping; /* enum ringlet_early_stopping */
    uint8_t reserved1;
    float length_penalty; /* score = sum of log-probabilities / tokens ^ this */
    uint64_t reserved2[15];
};
RINGLET_ASSERT_SIZE(ringlet_block, RINGLET_BLOCK_BYTES_MAX);
RINGLET_ASSERT_FIELD(ringlet_block, block_bytes, 0, 4);
RINGLET_ASSERT_FIELD(ringlet_block, set, 4, 4);
RINGLET_ASSERT_FIELD(ringlet_block, seed, 8, 8);
RINGLET_ASSERT_FIELD(ringlet_block, temperature, 16, 4);
RINGLET_ASSERT_FIELD(ringlet_block, top_p, 20, 4);
RINGLET_ASSERT_FIELD(ringlet_block, min_p, 24, 4);
RINGLET_ASSERT_FIELD(ringlet_block, top_k, 28, 4);
RINGLET_ASSERT_FIELD(ringlet_block, presence_penalty, 32, 4);
RINGLET_ASSERT_FIELD(ringlet_block, frequency_penalty, 36, 4);
RINGLET_ASSERT_FIELD(ringlet_block, repetition_penalty, 40, 4);
RINGLET_ASSERT_FIELD(ringlet_block, min_tokens, 44, 4);
RINGLET_ASSERT_FIELD(ringlet_block, n, 48, 2);
RINGLET_ASSERT_FIELD(ringlet_block, logprobs, 50, 1);
RINGLET_ASSERT_FIELD(ringlet_block, prompt_logprobs, 51, 1);
RINGLET_ASSERT_FIELD(ringlet_block, flags, 52, 4);
RINGLET_ASSERT_FIELD(ringlet_block, queue_deadline_ns, 56, 8);
RINGLET_ASSERT_FIELD(ringlet_block, first_token_deadline_ns, 64, 8);
RINGLET_ASSERT_FIELD(ringlet_block, lease_ns, 72, 8);
RINGLET_ASSERT_FIELD(ringlet_block, stop, 80, 8);
RINGLET_ASSERT_FIELD(ringlet_block, stop_token_ids, 88, 8);
RINGLET_ASSERT_FIELD(ringlet_block, logit_bias, 96, 8);
RINGLET_ASSERT_FIELD(ringlet_block, structure, 104, 8);
RINGLET_ASSERT_FIELD(ringlet_block, group, 112, 8);
RINGLET_ASSERT_FIELD(ringlet_block, structure_kind, 120, 1);
RINGLET_ASSERT_FIELD(ringlet_block, repetition_min, 121, 1);
RINGLET_ASSERT_FIELD(ringlet_block, repetition_max, 122, 1);
RINGLET_ASSERT_FIELD(ringlet_block, repetition_count, 123, 1);
RINGLET_ASSERT_FIELD(ringlet_block, reserved, 124, 4);
RINGLET_ASSERT_FIELD(ringlet_block, beam_width, 128, 2);
RINGLET_ASSERT_FIELD(ringlet_block, early_stopping, 130, 1);
RINGLET_ASSERT_FIELD(ringlet_block, reserved1, 131, 1);
RINGLET_ASSERT_FIELD(ringlet_block, length_penalty, 132, 4);
RINGLET_ASSERT_FIELD(ringlet_block, reserved2, 136, 120);

struct ringlet_logit_bias {
    uint32_t id;
    float bias;
};
RINGLET_ASSERT_SIZE(ringlet_logit_bias, 8);

enum ringlet_chat_kind {
    RINGLET_CHAT_MESSAGE = 0,
    RINGLET_CHAT_TOOLS = 1,    /* JSON array of tools, for the template */
    RINGLET_CHAT_ARGUMENTS = 2 /* JSON object of further template arguments */
};

enum ringlet_role {
    RINGLET_ROLE_SYSTEM = 0,
    RINGLET_ROLE_USER = 1,
    RINGLET_ROLE_ASSISTANT = 2,
    RINGLET_ROLE_TOOL = 3
};

enum ringlet_chat_flag {
    RINGLET_CHAT_CONTINUE = 1, /* the answer continues this message: only the last one */
    RINGLET_CHAT_FLAGS_KNOWN = 1
};

/* Before each message; `bytes` of UTF-8 follow, then zeros up to a multiple of 8. */
struct ringlet_chat_record {
    uint8_t kind;   /* enum ringlet_chat_kind */
    uint8_t role;   /* enum ringlet_role; 0 where kind is no message */
    uint16_t flags; /* enum ringlet_chat_flag */
    uint32_t bytes;
};
RINGLET_ASSERT_SIZE(ringlet_chat_record, 8);
RINGLET_ASSERT_FIELD(ringlet_chat_record, kind, 0, 1);
RINGLET_ASSERT_FIELD(ringlet_chat_record, role, 1, 1);
RINGLET_ASSERT_FIELD(ringlet_chat_record, flags, 2, 2);
RINGLET_ASSERT_FIELD(ringlet_chat_record, bytes, 4, 4);

/* ---- Completion ---- */

enum ringlet_kind {
    RINGLET_KIND_ACCEPTED = 1, /* admitted; the annex holds the effective parameters */
    RINGLET_KIND_TOKENS = 2,
    RINGLET_KIND_PROMPT = 3, /* prompt ids (TOKENIZE), prompt logprobs */
    RINGLET_KIND_FINISHED = 4
};

enum ringlet_cqe_flag {
    RINGLET_CQE_END = 1,      /* the request's last event; its slot is free */
    RINGLET_CQE_INLINE = 2,   /* at most one token, its text in this entry, no span */
    RINGLET_CQE_LOGPROBS = 4, /* `logprob`, and the span's logprob arrays, are valid */
    RINGLET_CQE_FLAGS_KNOWN = 7
};

/* Why a sequence or request ended. Below 16: normally. */
enum ringlet_reason {
    RINGLET_REASON_DONE = 0, /* operations without tokens */
    RINGLET_REASON_STOP_EOS = 1,
    RINGLET_REASON_STOP_TOKEN = 2,  /* detail: the id */
    RINGLET_REASON_STOP_STRING = 3, /* detail: index of the stop string */
    RINGLET_REASON_LENGTH = 4,      /* max_tokens */
    RINGLET_REASON_CONTEXT = 5,     /* the model's context is full */
    RINGLET_REASON_REPETITION = 6,
    RINGLET_REASON_CANCELLED = 16,
    RINGLET_REASON_DEADLINE = 17, /* detail: 0 expired, 1 refused early, see estimate_ns */
    RINGLET_REASON_SLOW_CLIENT = 18,
    RINGLET_REASON_REJECTED = 32,      /* detail: enum ringlet_error */
    RINGLET_REASON_OVERLOAD = 33,      /* the queue is full */
    RINGLET_REASON_ERROR_REQUEST = 34, /* grammar, template, tokenizer; detail: the error */
    RINGLET_REASON_ERROR_ENGINE = 35,  /* device fault, restart */
    RINGLET_REASON_DAEMON_LOST = 64    /* never on the wire: the library's, when the daemon died */
};

/*
 * Why a request was refused: `detail` of REJECTED and ERROR_REQUEST. With BAD_FIELD span_off tells
 * the offending field: its byte offset in the submission entry, or 64 + its offset in the block.
 */
enum ringlet_error {
    RINGLET_ERROR_NONE = 0,
    RINGLET_ERROR_BAD_OP = 1,
    RINGLET_ERROR_BAD_BIT = 2, /* unknown flag, set or must_understand bit */
    RINGLET_ERROR_BAD_FIELD = 3,
    RINGLET_ERROR_BAD_SPAN = 4, /* outside of the arena, or misaligned */
    RINGLET_ERROR_BAD_UTF8 = 5,
    RINGLET_ERROR_BAD_TOKEN = 6, /* id beyond the vocabulary */
    RINGLET_ERROR_BAD_TEMPLATE = 7,
    RINGLET_ERROR_BAD_GRAMMAR = 8,
    RINGLET_ERROR_TOO_LONG = 9, /* the prompt exceeds the context */
    RINGLET_ERROR_TOO_BIG = 10, /* the prompt exceeds the KV pool */
    RINGLET_ERROR_OVER_QUOTA = 11,
    RINGLET_ERROR_NO_MODEL = 12,
    RINGLET_ERROR_MODEL_CHANGED = 13, /* the model was loaded anew: ask BOARD again */
    RINGLET_ERROR_NO_HANDLE = 14,
    RINGLET_ERROR_DRAINING = 15
};

/* Session errors, in ringlet_down_head.session_error when session_state is DROPPED. */
enum ringlet_session_error {
    RINGLET_SESSION_ERROR_NONE = 0,
    RINGLET_SESSION_ERROR_SEQ = 1,     /* impossible sequence number in the submission ring */
    RINGLET_SESSION_ERROR_CQ_HEAD = 2, /* cq_head ahead of the tail, or running backwards */
    RINGLET_SESSION_ERROR_SLOT = 3,    /* slot out of range or in use, generation 0 */
    RINGLET_SESSION_ERROR_MESSAGE = 4, /* a message or descriptors on the session socket */
    RINGLET_SESSION_ERROR_PEER = 5,    /* the process at the other end is not who connected */
    RINGLET_SESSION_ERROR_SHUTDOWN = 6 /* the daemon ends */
};

enum ringlet_session_state {
    RINGLET_SESSION_OK = 0,
    RINGLET_SESSION_DRAINING = 1, /* no new requests; those in flight finish */
    RINGLET_SESSION_DROPPED = 2   /* see session_error; the socket closes next */
};

/*
 * The 16 bytes at 48: text of an INLINE event, or a FINISHED event's handle of the held sequence or
 * lease (0: none).
 */
union ringlet_cqe_body {
    char text[RINGLET_INLINE_BYTES];
    uint64_t handle;
};

/*
 * Completion entry; {seq, kind, flags, reason} is the publication word.
 *
 * With INLINE: n_token <= 1, n_top 0, text_bytes <= 16, no span. Else TOKENS and PROMPT have at
 * span_off, in this order and without gaps:
 *     uint32_t id[n_token]
 *     with LOGPROBS: float logprob[n_token], struct ringlet_top top[n_token][n_top]
 *     char text[text_bytes]
 * A prompt's first token has no logprob: it is NaN and its `top` ids are 0xFFFFFFFF.
 */
struct ringlet_cqe {
    uint32_t seq;
    uint8_t kind;    /* enum ringlet_kind */
    uint8_t flags;   /* enum ringlet_cqe_flag */
    uint16_t reason; /* FINISHED only: enum ringlet_reason */
    uint64_t tag;
    uint16_t slot;
    uint16_t index; /* of the sequence, 0..n-1; RINGLET_INDEX_ALL */
    uint32_t generation;
    uint32_t position; /* tokens of this sequence (PROMPT: of the prompt) before this event;
                          FINISHED: tokens published */
    uint8_t n_token;
    uint8_t n_top;
    uint16_t reserved;
    uint32_t token;    /* first id; FINISHED: detail */
    float logprob;     /* of `token`, with LOGPROBS; FINISHED of a beam search's hypothesis, with
                          LOGPROBS: the sum of its log-probabilities, biases included */
    uint32_t span_off; /* in the text arena, 8-aligned */
    uint32_t text_bytes;
    union ringlet_cqe_body body;
};
RINGLET_ASSERT_SIZE(ringlet_cqe, RINGLET_ENTRY_BYTES);
RINGLET_ASSERT_FIELD(ringlet_cqe, seq, 0, 4);
RINGLET_ASSERT_FIELD(ringlet_cqe, kind, 4, 1);
RINGLET_ASSERT_FIELD(ringlet_cqe, flags, 5, 1);
RINGLET_ASSERT_FIELD(ringlet_cqe, reason, 6, 2);
RINGLET_ASSERT_FIELD(ringlet_cqe, tag, 8, 8);
RINGLET_ASSERT_FIELD(ringlet_cqe, slot, 16, 2);
RINGLET_ASSERT_FIELD(ringlet_cqe, index, 18, 2);
RINGLET_ASSERT_FIELD(ringlet_cqe, generation, 20, 4);
RINGLET_ASSERT_FIELD(ringlet_cqe, position, 24, 4);
RINGLET_ASSERT_FIELD(ringlet_cqe, n_token, 28, 1);
RINGLET_ASSERT_FIELD(ringlet_cqe, n_top, 29, 1);
RINGLET_ASSERT_FIELD(ringlet_cqe, reserved, 30, 2);
RINGLET_ASSERT_FIELD(ringlet_cqe, token, 32, 4);
RINGLET_ASSERT_FIELD(ringlet_cqe, logprob, 36, 4);
RINGLET_ASSERT_FIELD(ringlet_cqe, span_off, 40, 4);
RINGLET_ASSERT_FIELD(ringlet_cqe, text_bytes, 44, 4);
RINGLET_ASSERT_FIELD(ringlet_cqe, body, 48, 16);

struct ringlet_top {
    uint32_t id;
    float logprob;
};
RINGLET_ASSERT_SIZE(ringlet_top, 8);

/* A slot's annex in DOWN: `effective` .. `length_penalty` hold from ACCEPTED, the rest from END. */
struct ringlet_annex {
    unsigned char effective[80]; /* the first 80 bytes of a ringlet_block, every field filled in */
    uint32_t prompt_tokens;
    uint32_t cached_tokens;
    uint32_t max_tokens; /* as asked: RINGLET_MAX_TOKENS_CONTEXT is to the context's end */
    uint16_t beam_width; /* effective; 0: no beam search */
    uint8_t early_stopping;
    uint8_t reserved2;
    float length_penalty;
    uint32_t reserved0[7];
    uint32_t total_prompt_tokens;
    uint32_t total_cached_tokens;
    uint32_t completion_tokens; /* of all sequences */
    uint32_t preemptions;
    uint64_t queue_ns;
    uint64_t prefill_ns;
    uint64_t decode_ns;
    uint64_t first_token_ns; /* from the arrival in the loop */
    uint64_t total_ns;
    uint32_t steps;
    uint32_t drafted;  /* draft tokens proposed */
    uint32_t accepted; /* draft tokens kept */
    uint32_t kv_blocks_peak; /* of a request refused as too_big: what it needs */
    uint64_t estimate_ns; /* of a deadline that was refused early */
    uint64_t reserved1[6];
};
RINGLET_ASSERT_SIZE(ringlet_annex, RINGLET_ANNEX_BYTES);
RINGLET_ASSERT_FIELD(ringlet_annex, effective, 0x00, 80);
RINGLET_ASSERT_FIELD(ringlet_annex, prompt_tokens, 0x50, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, cached_tokens, 0x54, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, max_tokens, 0x58, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, beam_width, 0x5C, 2);
RINGLET_ASSERT_FIELD(ringlet_annex, early_stopping, 0x5E, 1);
RINGLET_ASSERT_FIELD(ringlet_annex, reserved2, 0x5F, 1);
RINGLET_ASSERT_FIELD(ringlet_annex, length_penalty, 0x60, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, reserved0, 0x64, 28);
RINGLET_ASSERT_FIELD(ringlet_annex, total_prompt_tokens, 0x80, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, total_cached_tokens, 0x84, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, completion_tokens, 0x88, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, preemptions, 0x8C, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, queue_ns, 0x90, 8);
RINGLET_ASSERT_FIELD(ringlet_annex, prefill_ns, 0x98, 8);
RINGLET_ASSERT_FIELD(ringlet_annex, decode_ns, 0xA0, 8);
RINGLET_ASSERT_FIELD(ringlet_annex, first_token_ns, 0xA8, 8);
RINGLET_ASSERT_FIELD(ringlet_annex, total_ns, 0xB0, 8);
RINGLET_ASSERT_FIELD(ringlet_annex, steps, 0xB8, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, drafted, 0xBC, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, accepted, 0xC0, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, kv_blocks_peak, 0xC4, 4);
RINGLET_ASSERT_FIELD(ringlet_annex, estimate_ns, 0xC8, 8);
RINGLET_ASSERT_FIELD(ringlet_annex, reserved1, 0xD0, 48);

/* ---- Heads of the session's regions. Words of different writers lie 128 bytes apart. ---- */

/*
 * First 0x100 bytes of UP; the cancel words, uint32_t cancel[S], follow at RINGLET_UP_CANCEL_OFF.
 */
struct ringlet_up_head {
    uint32_t client_wait; /* epoch, odd: the client sleeps or is about to */
    uint32_t pad0[31];
    uint32_t cq_head;    /* completions consumed (running number) */
    uint32_t cancel_seq; /* +1 after each store to a cancel word */
    uint32_t pad1[30];
};
#define RINGLET_UP_CANCEL_OFF 0x100u
RINGLET_ASSERT_SIZE(ringlet_up_head, RINGLET_UP_CANCEL_OFF);
RINGLET_ASSERT_FIELD(ringlet_up_head, client_wait, 0x000, 4);
RINGLET_ASSERT_FIELD(ringlet_up_head, cq_head, 0x080, 4);
RINGLET_ASSERT_FIELD(ringlet_up_head, cancel_seq, 0x084, 4);

/* First 0x180 bytes of DOWN. */
struct ringlet_down_head {
    uint32_t daemon_wait; /* epoch, odd: ring the up bell after an entry or a cancel */
    uint32_t credit_wait; /* epoch, odd: ring it after publishing cq_head */
    uint32_t pad0[30];
    uint32_t sq_head; /* submissions consumed (running number), prompts copied */
    uint32_t pad1[31];
    uint32_t session_state; /* enum ringlet_session_state */
    uint32_t session_error; /* enum ringlet_session_error */
    uint32_t pad2[30];
};
RINGLET_ASSERT_SIZE(ringlet_down_head, 0x180);
RINGLET_ASSERT_FIELD(ringlet_down_head, daemon_wait, 0x000, 4);
RINGLET_ASSERT_FIELD(ringlet_down_head, credit_wait, 0x004, 4);
RINGLET_ASSERT_FIELD(ringlet_down_head, sq_head, 0x080, 4);
RINGLET_ASSERT_FIELD(ringlet_down_head, session_state, 0x100, 4);
RINGLET_ASSERT_FIELD(ringlet_down_head, session_error, 0x104, 4);

#include "ringlet_board.h"
#include "ringlet_handshake.h"

#endif
