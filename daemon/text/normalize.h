/*
 * Unicode normalization form C in linear time and without allocation: libutf8proc knows the
 * characters, the ordering of combining marks is counted instead of bubbled, because a text of
 * nothing but marks would take quadratic time there.
 */
#ifndef RINGLET_TEXT_NORMALIZE_H
#define RINGLET_TEXT_NORMALIZE_H

#include <stddef.h>
#include <stdint.h>

/* What n bytes may become at most: bytes of text, and code points on the way. */
#define NFC_BYTES_MAX(n) (3 * (size_t)(n) + 4)
#define NFC_CODES_MAX(n) (2 * (size_t)(n) + 8)

/*
 *   text      valid UTF-8
 *   codes     scratch, NFC_CODES_MAX(bytes) elements; sorted: as many more
 *   out       NFC_BYTES_MAX(bytes)
 *
 * Returns: bytes written.
 */
size_t normalize_nfc(const char *text, size_t bytes, int32_t *codes, int32_t *sorted, char *out);

#endif
