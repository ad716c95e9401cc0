/*
 * The shape of an input to fuzz_session, which its mutator knows too:
 *
 *   [1] entries, each [1] control, [64] the entry
 *   4 x [1] control, [256] a request block
 *   [2] bytes of the arena, the bytes; [16] cancel words; [1] cancel_seq moves
 *   4 x [1] how the client reads on before a pass
 *   the rest: the stream that decides at every single load what is seen
 *
 * A control byte says what is left as the input has it; what it does not name is repaired, so that
 * many inputs get far. Short input reads as zeros.
 */
#ifndef RINGLET_TESTS_FUZZ_SESSION_INPUT_H
#define RINGLET_TESTS_FUZZ_SESSION_INPUT_H

enum {
    INPUT_ENTRIES = 12,
    INPUT_BLOCKS = 4,
    INPUT_ARENA = 8192,
    INPUT_SLOTS = 16,
    INPUT_PASSES = 4
};

/* Control of an entry. */
enum {
    INPUT_RAW_SLOT = 1,
    INPUT_RAW_MODEL = 2,
    INPUT_RAW_OP = 4,
    INPUT_RAW_SPAN = 8,
    INPUT_RAW_BLOCK = 16,
    INPUT_RAW_SEQ = 0xE0 /* all three bits: the running number is wrong */
};

/* Control of a block. */
enum { INPUT_RAW_HEAD = 1, INPUT_RAW_LISTS = 2, INPUT_SHORT = 4 };

/* The stream: below the first a load is honest; up to each of the others it is */
enum {
    STREAM_FLIP = 244, /* one bit flipped: [1] which */
    STREAM_ADD = 250,  /* a little more or less: [1] how much */
    STREAM_FORGE = 253 /* something else: as many bytes as are loaded */
};

/* Bytes of an entry or a block that the mutator's tables do not name; must be 0. */
int mutate_session_misses(void);

#endif
