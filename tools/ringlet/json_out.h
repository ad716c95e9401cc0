/* JSON written piece by piece; the caller sets commas and brackets. */
#ifndef RINGLET_TOOLS_RINGLET_JSON_OUT_H
#define RINGLET_TOOLS_RINGLET_JSON_OUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A string with its quotes. Bytes that are not UTF-8 become U+FFFD, so that the output always is.
 */
void out_string(FILE *to, const char *text, size_t bytes);
/* The shortest decimal that reads back as the same float; NaN and infinities are null. */
void out_float(FILE *to, float f);
void out_ids(FILE *to, const uint32_t *ids, size_t n);

#endif
