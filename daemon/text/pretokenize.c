/*
 * Owns compiled split patterns and the walk over their matches. Steps are shared read-only; the
 * state belongs to one thread. Invariant: a step turns pieces into finer pieces, in order, none of
 * them empty, so there are never more of them than bytes.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "daemon/text/pretokenize.h"

#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "daemon/text/split_pattern.h"
#include "daemon/text/utf8.h"

enum {
    MATCH_LIMIT = 100000, /* backtracking steps of one match, and for each byte: */
    MATCH_LIMIT_PER_BYTE = 8,
    HEAP_LIMIT_KIB = 8192, /* where JIT is refused by the system */
    DEPTH_LIMIT = 20000,
    JIT_STACK_BYTES = 1 << 20,
    CLOCK_EVERY = 32,
};

struct step {
    pcre2_code *code;
    enum split_behavior behavior;
    bool invert;
};

struct pretokenizer {
    struct step steps[SPLIT_STEPS_MAX];
    uint32_t n;
};

struct pretokenize_state {
    pcre2_match_context *context;
    pcre2_match_data *match;
    pcre2_jit_stack *stack;
    struct text_piece *pieces[2];
    uint32_t capacity, ticks;
};

int pretokenizer_new(struct pretokenizer **ret)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret ? 0 : -ENOMEM;
}

void pretokenizer_free(struct pretokenizer *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->n; i++)
        pcre2_code_free(p->steps[i].code);
    free(p);
}

uint32_t pretokenizer_steps(const struct pretokenizer *p)
{
    return p->n;
}

int pretokenizer_add(struct pretokenizer *p, const char *pattern, size_t bytes,
                     enum split_behavior behavior, bool invert, char *why, size_t why_bytes)
{
    snprintf(why, why_bytes, "too many or too long");
    if (p->n == SPLIT_STEPS_MAX || bytes > SPLIT_PATTERN_BYTES_MAX)
        return -E2BIG;
    auto_free char *rewritten = NULL;
    size_t rewritten_bytes;
    int error = split_pattern_rewrite(pattern, bytes, &rewritten, &rewritten_bytes);
    if (error) {
        snprintf(why, why_bytes, "%s",
                 error == -EINVAL    ? "not UTF-8"
                 : error == -ENOTSUP ? "classes within classes like this are not supported"
                                     : strerror(-error));
        return error;
    }
    int code;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return -ENOMEM;
    pcre2_set_parens_nest_limit(context, 100);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_code *compiled = pcre2_compile(
        (PCRE2_SPTR)rewritten, rewritten_bytes,
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, context);
    pcre2_compile_context_free(context);
    if (!compiled) {
        char message[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof(message));
        snprintf(why, why_bytes, "%s at byte %zu", message, (size_t)at);
        return -EINVAL;
    }
    (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE); /* without JIT it is only slower */
    p->steps[p->n++] = (struct step){ compiled, behavior, invert };
    return 0;
}

int pretokenize_state_new(size_t bytes_max, struct pretokenize_state **ret)
{
    struct pretokenize_state *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->capacity = (uint32_t)bytes_max;
    s->context = pcre2_match_context_create(NULL);
    s->match = pcre2_match_data_create(1, NULL);
    s->stack = pcre2_jit_stack_create(32768, JIT_STACK_BYTES, NULL);
    for (int i = 0; i < 2; i++)
        s->pieces[i] = malloc(max_of(bytes_max, (size_t)1) * sizeof(struct text_piece));
    if (!s->context || !s->match || !s->stack || !s->pieces[0] || !s->pieces[1]) {
        pretokenize_state_free(s);
        return -ENOMEM;
    }
    pcre2_set_depth_limit(s->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(s->context, HEAP_LIMIT_KIB);
    pcre2_jit_stack_assign(s->context, NULL, s->stack);
    *ret = s;
    return 0;
}

void pretokenize_state_free(struct pretokenize_state *s)
{
    if (!s)
        return;
    pcre2_jit_stack_free(s->stack);
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    free(s->pieces[0]);
    free(s->pieces[1]);
    free(s);
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

struct split_budget split_budget_start(uint64_t ns)
{
    return (struct split_budget){ .ns = ns, .wall_deadline_ns = clock_now_ns() + ns };
}

static bool past(struct pretokenize_state *s, struct split_budget *budget)
{
    if (++s->ticks % CLOCK_EVERY || clock_now_ns() <= budget->wall_deadline_ns)
        return false;
    uint64_t cpu = thread_cpu_ns();
    if (budget->cpu_deadline_ns == 0)
        budget->cpu_deadline_ns = cpu + budget->ns;
    if (cpu > budget->cpu_deadline_ns)
        return true;
    budget->wall_deadline_ns = clock_now_ns() + (budget->cpu_deadline_ns - cpu);
    return false;
}

/* Pieces of one step on the way: what is pending may still grow by what its neighbour decides. */
struct sink {
    struct text_piece *out;
    uint32_t n;
    enum split_behavior behavior;
    bool last_was_match;
};

static void sink_put(struct sink *sink, uint32_t from, uint32_t to)
{
    if (to > from)
        sink->out[sink->n++] = (struct text_piece){ from, to };
}

/* One stretch, match or not, in order; `first` is where this input piece's output begins. */
static void sink_take(struct sink *sink, uint32_t first, uint32_t from, uint32_t to, bool match)
{
    bool joins = false;
    if (to == from)
        return;
    switch (sink->behavior) {
    case SPLIT_ISOLATED:
        break;
    case SPLIT_REMOVED:
        if (match)
            return;
        break;
    case SPLIT_MERGED_WITH_PREVIOUS:
        joins = match && !sink->last_was_match;
        break;
    case SPLIT_MERGED_WITH_NEXT:
        joins = !match && sink->last_was_match;
        break;
    case SPLIT_CONTIGUOUS:
        joins = match == sink->last_was_match;
        break;
    }
    if (joins && sink->n > first)
        sink->out[sink->n - 1].to = to;
    else
        sink_put(sink, from, to);
    sink->last_was_match = match;
}

/* All matches of one step in text[from, to). */
static int split_piece(const struct step *step, struct pretokenize_state *s, struct sink *sink,
                       const char *text, struct text_piece piece, struct split_budget *budget)
{
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(s->match);
    PCRE2_SPTR subject = (PCRE2_SPTR)text + piece.from;
    uint32_t length = piece.to - piece.from, at = 0, done = 0, first = sink->n;
    sink->last_was_match = false;
    pcre2_set_match_limit(s->context,
                          MATCH_LIMIT + MATCH_LIMIT_PER_BYTE * min_of(length, 1u << 28));
    while (at < length) {
        int rc =
            pcre2_match(step->code, subject, length, at, PCRE2_NO_UTF_CHECK, s->match, s->context);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0 || past(s, budget))
            return -ETIME;
        uint32_t from = (uint32_t)found[0], to = (uint32_t)found[1];
        if (from < done || to < from || to > length)
            return -ETIME; /* \K in a look-around could do that */
        sink_take(sink, first, piece.from + done, piece.from + from, step->invert);
        sink_take(sink, first, piece.from + from, piece.from + to, !step->invert);
        done = to;
        at = to > from ? to : to == length ? to : to + utf8_length((uint8_t)subject[to]);
    }
    sink_take(sink, first, piece.from + done, piece.to, step->invert);
    return 0;
}

int pretokenize(const struct pretokenizer *p, struct pretokenize_state *s, const char *text,
                uint32_t bytes, struct split_budget *budget, const struct text_piece **ret,
                uint32_t *ret_n)
{
    assert(bytes <= s->capacity);
    struct text_piece *in = s->pieces[0], *out = s->pieces[1];
    uint32_t n = bytes ? 1 : 0;
    in[0] = (struct text_piece){ 0, bytes };
    for (uint32_t i = 0; i < p->n; i++) {
        struct sink sink = { .out = out, .behavior = p->steps[i].behavior };
        for (uint32_t k = 0; k < n; k++) {
            int error = split_piece(&p->steps[i], s, &sink, text, in[k], budget);
            if (error)
                return error;
        }
        n = sink.n;
        out = in;
        in = sink.out;
    }
    *ret = in;
    *ret_n = n;
    return 0;
}

/* The names of tokenizer.ggml.pre. Patterns are facts of the models; GPT-2's and its relatives'. */
#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define GPT2         CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA3_WITH(digits)                                                                        \
    "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                  \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN_WITH(tail, digits)                                                                  \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" tail "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER    \
    "*" tail "|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define HAN "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

#define QWEN35                                                                                     \
    "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"                           \
    "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define SEED                                                                                       \
    "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"                                   \
    "| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define BAILING                                                                                    \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}"                                  \
    "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define BLOOM " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"
#define DEEPSEEK3                                                                                  \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"           \
    "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define FALCON CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"

/* "default", and no name at all, are old files that do not say: GPT-2's is the likeliest. */
static const struct {
    const char *names; /* each between spaces */
    struct pretokenize_family family;
    const char *patterns[6];
} families[] = {
    { " default gpt-2 gpt2 phi-2 olmo jais mpt roberta-bpe trillion gigachat a.x-4.0 mellum exaone4"
      " granite-docling ",
      { 0 },
      { GPT2 } },
    { " smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ",
      { 0 },
      { "\\p{N}", GPT2 } },
    { " llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
      { .ignore_merges = true, .add_bos = true },
      { LLAMA3_WITH("\\p{N}{1,3}") } },
    { " dbrx smaug-bpe glm4 chatglm-bpe ", { 0 }, { LLAMA3_WITH("\\p{N}{1,3}") } },
    { " qwen2 deepseek-r1-qwen megrez ", { .nfc = true }, { LLAMA3_WITH("\\p{N}") } },
    { " qwen35 ", { .nfc = true }, { QWEN35 } },
    { " stablelm2 hunyuan solar-open grok-2 kormo f2llmv2 ", { 0 }, { LLAMA3_WITH("\\p{N}") } },
    { " seed-coder ", { 0 }, { SEED } },
    { " bailingmoe bailingmoe2 llada-moe ", { 0 }, { BAILING } },
    { " gpt-4o o200k llama4 minimax-m2 kanana2 ",
      { 0 },
      { TEKKEN_WITH("(?i:" CONTRACTIONS ")?", "\\p{N}{1,3}") } },
    { " tekken ", { .ignore_merges = true, .add_bos = true }, { TEKKEN_WITH("", "\\p{N}") } },
    { " deepseek-coder ", { 0 }, { "[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", HAN, "\\p{N}" } },
    { " deepseek-v3 hunyuan-dense joyai-llm ",
      { 0 },
      { "\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
        DEEPSEEK3 } },
    { " falcon ", { 0 }, { "[\\p{P}\\$\\+<=>\\^~\\|`]+", FALCON, "[0-9][0-9][0-9]" } },
    { " poro-chat bloom gpt3-finnish ", { 0 }, { BLOOM } },
    { " viking ", { 0 }, { BLOOM, "\\p{N}" } },
    { " superbpe ", { 0 }, { "\\p{N}+", "(?=(\\d{3})+(?!\\d))" } },
};

int pretokenizer_family(const char *name, size_t bytes, struct pretokenizer **ret,
                        struct pretokenize_family *ret_family)
{
    char wanted[64], why[64];
    if (bytes == 0 || bytes > 48 || memchr(name, ' ', bytes) || memchr(name, 0, bytes))
        return -ENOENT;
    snprintf(wanted, sizeof(wanted), " %.*s ", (int)bytes, name);
    for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
        if (!strstr(families[i].names, wanted))
            continue;
        struct pretokenizer *p;
        int error = pretokenizer_new(&p);
        for (int k = 0; !error && k < 6 && families[i].patterns[k]; k++)
            error = pretokenizer_add(p, families[i].patterns[k], strlen(families[i].patterns[k]),
                                     SPLIT_ISOLATED, false, why, sizeof(why));
        if (error) {
            pretokenizer_free(p);
            return error == -ENOENT ? -EINVAL : error;
        }
        *ret = p;
        *ret_family = families[i].family;
        return 0;
    }
    return -ENOENT;
}
