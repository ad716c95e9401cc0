/*
 * Templates, first stage: bytes to tokens. Owns whitespace control: the block tags eat the newline
 * behind them (trim_blocks) and the blanks before them on their line (lstrip_blocks), a minus sign
 * eats all whitespace on its side, a plus sign switches trimming off.
 */
#include "daemon/text/template_internal.h"

#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char at(const struct lexer *lx, uint32_t pos)
{
    return pos < lx->bytes ? lx->src[pos] : '\0';
}

void template_lex_init(struct lexer *lx, const char *src, uint32_t bytes)
{
    *lx = (struct lexer){
        .src = src, .bytes = bytes, .line = 1, .mode = TOKEN_TEXT, .line_starting = true
    };
}

static void advance_to(struct lexer *lx, uint32_t pos)
{
    for (; lx->pos < pos; lx->pos++)
        lx->line += lx->src[lx->pos] == '\n';
}

static void lex_error(struct lexer *lx, struct token *ret, const char *why)
{
    lx->error = why;
    lx->pos = lx->bytes;
    ret->type = TOKEN_ERROR;
}

/* Behind an end tag: its sign decides what whitespace goes. */
static void finish_tag(struct lexer *lx, char sign, bool trim)
{
    uint32_t pos = lx->pos;
    if (sign == '-') {
        while (pos < lx->bytes && is_space(lx->src[pos]))
            pos++;
    } else if (trim && sign != '+' && at(lx, pos) == '\n') {
        pos++;
    }
    lx->line_starting = pos > lx->pos && lx->src[pos - 1] == '\n';
    advance_to(lx, pos);
}

/* Text [from, to) stands before a tag with this sign: where does it end once stripped? */
static uint32_t strip_before(const struct lexer *lx, uint32_t from, uint32_t to, char sign,
                             bool block)
{
    uint32_t end = to;
    if (sign == '-') {
        while (end > from && is_space(lx->src[end - 1]))
            end--;
        return end;
    }
    if (sign == '+' || !block)
        return to;
    while (end > from && lx->src[end - 1] != '\n' && is_space(lx->src[end - 1]))
        end--;
    if (end > from ? lx->src[end - 1] == '\n' : lx->line_starting)
        return end;
    return to;
}

static uint32_t find_tag(const struct lexer *lx, uint32_t pos)
{
    for (; pos + 1 < lx->bytes; pos++) {
        const char *open = memchr(lx->src + pos, '{', lx->bytes - pos - 1);
        if (!open)
            break;
        pos = (uint32_t)(open - lx->src);
        if (open[1] == '{' || open[1] == '%' || open[1] == '#')
            return pos;
    }
    return lx->bytes;
}

static uint32_t skip_spaces(const struct lexer *lx, uint32_t pos)
{
    while (pos < lx->bytes && is_space(lx->src[pos]))
        pos++;
    return pos;
}

/* `{% word %}` at pos: sets the end of the tag and its two signs. */
static bool bare_tag(const struct lexer *lx, uint32_t pos, const char *word, char *ret_open,
                     char *ret_close, uint32_t *ret_end)
{
    if (at(lx, pos) != '{' || at(lx, pos + 1) != '%')
        return false;
    pos += 2;
    *ret_open = at(lx, pos);
    if (*ret_open == '-' || *ret_open == '+')
        pos++;
    pos = skip_spaces(lx, pos);
    size_t n = strlen(word);
    if (lx->bytes - pos < n || memcmp(lx->src + pos, word, n) != 0)
        return false;
    pos = skip_spaces(lx, pos + (uint32_t)n);
    *ret_close = at(lx, pos);
    if (*ret_close == '-' || *ret_close == '+')
        pos++;
    if (at(lx, pos) != '%' || at(lx, pos + 1) != '}')
        return false;
    *ret_end = pos + 2;
    return true;
}

/* pos is at `{% raw %}`, whose body becomes a text token. */
static void lex_raw(struct lexer *lx, uint32_t body, char sign, struct token *ret)
{
    advance_to(lx, body);
    if (sign == '-')
        advance_to(lx, skip_spaces(lx, lx->pos));
    lx->line_starting = false;
    uint32_t from = lx->pos, end;
    char open, close;
    for (uint32_t pos = from; pos < lx->bytes; pos++) {
        if (lx->src[pos] != '{' || !bare_tag(lx, pos, "endraw", &open, &close, &end))
            continue;
        uint32_t to = strip_before(lx, from, pos, open, true);
        *ret =
            (struct token){ .type = TOKEN_TEXT, .line = lx->line, .off = from, .bytes = to - from };
        advance_to(lx, end);
        finish_tag(lx, close, true);
        return;
    }
    lex_error(lx, ret, "raw without endraw");
}

static bool lex_comment(struct lexer *lx, struct token *ret)
{
    const char *end = NULL;
    if (lx->pos + 2 <= lx->bytes)
        end = memmem(lx->src + lx->pos + 2, lx->bytes - lx->pos - 2, "#}", 2);
    if (!end) {
        lex_error(lx, ret, "a comment without its end");
        return false;
    }
    uint32_t pos = (uint32_t)(end - lx->src);
    char sign = pos > lx->pos + 2 ? lx->src[pos - 1] : ' ';
    advance_to(lx, pos + 2);
    finish_tag(lx, sign, true);
    return true;
}

/* Enters the tag at pos. True when *ret is set, false when there was only a comment. */
static bool enter_tag(struct lexer *lx, struct token *ret)
{
    char open = ' ', close = ' ', kind = at(lx, lx->pos + 1);
    uint32_t end;
    if (kind == '#')
        return !lex_comment(lx, ret);
    if (kind == '%' && bare_tag(lx, lx->pos, "raw", &open, &close, &end)) {
        lex_raw(lx, end, close, ret);
        return true;
    }
    char sign = at(lx, lx->pos + 2);
    lx->mode = kind == '%' ? TOKEN_BLOCK_BEGIN : TOKEN_PRINT_BEGIN;
    *ret = (struct token){ .type = lx->mode, .line = lx->line };
    advance_to(lx, lx->pos + 2 + (sign == '-' || sign == '+'));
    lx->line_starting = false;
    lx->nesting = 0;
    return true;
}

static void lex_text(struct lexer *lx, struct token *ret)
{
    for (;;) {
        if (lx->pos >= lx->bytes) {
            *ret = (struct token){ .type = TOKEN_EOF, .line = lx->line };
            return;
        }
        uint32_t tag = find_tag(lx, lx->pos), from = lx->pos, to = tag;
        if (tag < lx->bytes)
            to = strip_before(lx, from, tag, at(lx, tag + 2), lx->src[tag + 1] != '{');
        *ret =
            (struct token){ .type = TOKEN_TEXT, .line = lx->line, .off = from, .bytes = to - from };
        if (tag > from) {
            lx->line_starting = false;
            advance_to(lx, tag);
        }
        if (to > from)
            return;
        if (tag < lx->bytes && enter_tag(lx, ret))
            return;
    }
}

static void lex_number(struct lexer *lx, struct token *ret)
{
    uint32_t pos = lx->pos;
    char second = at(lx, pos + 1);
    ret->type = TOKEN_INT;
    if (lx->src[pos] == '0' && second && strchr("xXoObB", second)) {
        for (pos += 2; is_name_start(at(lx, pos)) || is_digit(at(lx, pos));)
            pos++;
    } else {
        while (is_digit(at(lx, pos)) || (at(lx, pos) == '_' && is_digit(at(lx, pos + 1))))
            pos++;
        if (at(lx, pos) == '.' && is_digit(at(lx, pos + 1))) {
            ret->type = TOKEN_FLOAT;
            for (pos++; is_digit(at(lx, pos)) || at(lx, pos) == '_';)
                pos++;
        }
        char e = at(lx, pos), s = at(lx, pos + 1);
        if ((e == 'e' || e == 'E') &&
            (is_digit(s) || ((s == '+' || s == '-') && is_digit(at(lx, pos + 2))))) {
            ret->type = TOKEN_FLOAT;
            for (pos += 2; is_digit(at(lx, pos));)
                pos++;
        }
    }
    ret->bytes = pos - lx->pos;
    lx->pos = pos;
}

static void lex_string(struct lexer *lx, struct token *ret)
{
    char quote = lx->src[lx->pos];
    uint32_t pos = lx->pos + 1;
    while (pos < lx->bytes && lx->src[pos] != quote)
        pos += lx->src[pos] == '\\' ? 2 : 1;
    if (pos >= lx->bytes) {
        lex_error(lx, ret, "a string without its closing quote");
        return;
    }
    ret->type = TOKEN_STRING;
    ret->off = lx->pos + 1;
    ret->bytes = pos - lx->pos - 1;
    advance_to(lx, pos + 1);
}

static void lex_operator(struct lexer *lx, struct token *ret)
{
    static const struct {
        char text[3];
        uint16_t op;
    } pairs[] = { { "**", OP_POW }, { "//", OP_FLOOR_DIV }, { "==", OP_EQ },
                  { "!=", OP_NE },  { "<=", OP_LE },        { ">=", OP_GE } };
    char c = lx->src[lx->pos], second = at(lx, lx->pos + 1);
    ret->type = TOKEN_OP;
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        if (c == pairs[i].text[0] && second == pairs[i].text[1]) {
            ret->op = pairs[i].op;
            lx->pos += 2;
            return;
        }
    }
    if (!c || !strchr("+-*/%~()[]{},.:|<>=", c)) {
        lex_error(lx, ret, "a character that no expression has");
        return;
    }
    if (strchr("([{", c))
        lx->nesting++;
    else if (strchr(")]}", c) && lx->nesting > 0)
        lx->nesting--;
    ret->op = (uint8_t)c;
    lx->pos++;
}

/* Is the end tag of this mode here? Then leaves the expression. */
static bool leave_tag(struct lexer *lx, struct token *ret)
{
    bool block = lx->mode == TOKEN_BLOCK_BEGIN;
    char first = block ? '%' : '}', sign = at(lx, lx->pos);
    bool has_sign = sign == '-' || (block && sign == '+');
    uint32_t pos = lx->pos + has_sign;
    if (lx->nesting > 0 || at(lx, pos) != first || at(lx, pos + 1) != '}')
        return false;
    ret->type = block ? TOKEN_BLOCK_END : TOKEN_PRINT_END;
    lx->mode = TOKEN_TEXT;
    advance_to(lx, pos + 2);
    finish_tag(lx, has_sign ? sign : ' ', block);
    return true;
}

void template_lex_next(struct lexer *lx, struct token *ret)
{
    *ret = (struct token){ .line = lx->line };
    if (lx->error) {
        ret->type = TOKEN_ERROR;
        return;
    }
    if (lx->mode == TOKEN_TEXT) {
        lex_text(lx, ret);
        return;
    }
    advance_to(lx, skip_spaces(lx, lx->pos));
    *ret = (struct token){ .line = lx->line, .off = lx->pos };
    if (lx->pos >= lx->bytes) {
        lex_error(lx, ret, "a tag without its end");
        return;
    }
    if (leave_tag(lx, ret))
        return;
    char c = lx->src[lx->pos];
    if (is_name_start(c)) {
        uint32_t pos = lx->pos;
        while (is_name_start(at(lx, pos)) || is_digit(at(lx, pos)))
            pos++;
        ret->type = TOKEN_NAME;
        ret->bytes = pos - lx->pos;
        lx->pos = pos;
    } else if (is_digit(c)) {
        lex_number(lx, ret);
    } else if (c == '"' || c == '\'') {
        lex_string(lx, ret);
    } else {
        lex_operator(lx, ret);
    }
}
