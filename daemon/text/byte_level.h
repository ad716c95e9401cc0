/*
 * The printable alphabet in which byte-level vocabularies write their tokens: bytes 33-126, 161-172
 * and 174-255 stand for themselves, the others are U+0100 and up in their order. Any thread.
 */
#ifndef RINGLET_TEXT_BYTE_LEVEL_H
#define RINGLET_TEXT_BYTE_LEVEL_H

#include <stddef.h>
#include <stdint.h>

/*
 * The bytes that a token's text stands for.
 *
 *   text     valid UTF-8
 *   out      room for `bytes` bytes
 *
 * Returns: how many bytes; SIZE_MAX when a character is not of the alphabet.
 */
size_t byte_level_decode(const char *text, size_t bytes, char *out);

#endif
