/* Patterns of tokenizer.json are Oniguruma's: this writes them as PCRE2 reads them. Any thread. */
#ifndef RINGLET_TEXT_SPLIT_PATTERN_H
#define RINGLET_TEXT_SPLIT_PATTERN_H

#include <stddef.h>

/*
 * \s and \S become explicit lists (PCRE2 counts U+180E as a space, Unicode and Oniguruma do not),
 * \w, \W, \b and \B go by Oniguruma's word characters, \h and \H are hexadecimal digits, \uXXXX is
 * a code point, classes within classes are unions. Everything else stays.
 *
 *   ret   freed by the caller
 *
 * Returns: 0; -EINVAL not UTF-8; -ENOTSUP an intersection or a negated class within a class;
 * -ENOMEM.
 */
int split_pattern_rewrite(const char *pattern, size_t bytes, char **ret, size_t *ret_bytes);

#endif
