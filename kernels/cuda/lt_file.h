/*
 * The file that keeps chosen matrix product algorithms, apart from the library that makes them, so
 * that its reader can be tested and fuzzed without a GPU. In memory it is the cache itself: a head,
 * then entries by ascending key. Host byte order: the file never leaves its machine. C and C++.
 * Pure.
 */
#ifndef RINGLET_KERNELS_CUDA_LT_FILE_H
#define RINGLET_KERNELS_CUDA_LT_FILE_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    LT_FILE_MAGIC = 0x32544c52, /* RLT2; RLT1 had no checksum */
    LT_FILE_ENTRIES_MAX = 4096,
    LT_FILE_BUCKET_MIN = 16,
    LT_FILE_F32_OUT = 1, /* bits of lt_key.what */
    LT_FILE_ACCUMULATE = 2,
    LT_FILE_F16 = 4,
    LT_FILE_WHAT_MAX = 7,
};

struct lt_key {
    int32_t n_out, k; /* the weight's rows and columns */
    int32_t bucket;   /* rows of the input, up to this power of two */
    int32_t what;     /* LT_FILE_F32_OUT and the like */
};

struct lt_file_entry {
    struct lt_key key;
    uint64_t algo[8]; /* opaque: the library's, sound for one version of it on one device */
};

struct lt_file_head {
    uint32_t magic, n;
    uint64_t version;
    char device[128];
    uint64_t sum; /* FNV-1a of the head above it and of the entries */
};

struct lt_file {
    struct lt_file_head head;
    struct lt_file_entry entry[LT_FILE_ENTRIES_MAX];
};

static_assert(offsetof(struct lt_file_head, sum) == 144, "no padding is summed");
static_assert(sizeof(struct lt_file_head) == 152 && sizeof(struct lt_file_entry) == 80, "format");

static inline uint64_t lt_file_fnv(uint64_t sum, const void *data, size_t n)
{
    const uint8_t *byte = (const uint8_t *)data;
    for (size_t i = 0; i < n; i++)
        sum = (sum ^ byte[i]) * UINT64_C(0x100000001b3);
    return sum;
}

/* head.n within its bounds. */
static inline uint64_t lt_file_sum(const struct lt_file *f)
{
    uint64_t sum =
        lt_file_fnv(UINT64_C(0xcbf29ce484222325), &f->head, offsetof(struct lt_file_head, sum));
    return lt_file_fnv(sum, f->entry, f->head.n * sizeof(f->entry[0]));
}

/* An empty file of a library version and a device; what does not fit of its name is cut. */
static inline void lt_file_init(struct lt_file *f, uint64_t version, const char *device)
{
    memset(&f->head, 0, sizeof(f->head));
    f->head.magic = LT_FILE_MAGIC;
    f->head.version = version;
    for (size_t i = 0; i + 1 < sizeof(f->head.device) && device[i]; i++)
        f->head.device[i] = device[i];
}

static inline int lt_key_order(const struct lt_key *a, const struct lt_key *b)
{
    if (a->n_out != b->n_out)
        return a->n_out < b->n_out ? -1 : 1;
    if (a->k != b->k)
        return a->k < b->k ? -1 : 1;
    if (a->bucket != b->bucket)
        return a->bucket < b->bucket ? -1 : 1;
    return (a->what > b->what) - (a->what < b->what);
}

static inline bool lt_key_sound(const struct lt_key *k)
{
    return k->n_out > 0 && k->k > 0 && k->bucket >= LT_FILE_BUCKET_MIN &&
           (k->bucket & (k->bucket - 1)) == 0 && k->what >= 0 && k->what <= LT_FILE_WHAT_MAX;
}

/* The first entry whose key is not below this one; head.n: there is none. */
static inline uint32_t lt_file_find(const struct lt_file *f, const struct lt_key *key)
{
    uint32_t from = 0, to = f->head.n;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (lt_key_order(&f->entry[middle].key, key) < 0)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

/* Is the entry that lt_file_find gave this key's? */
static inline bool lt_file_has(const struct lt_file *f, uint32_t at, const struct lt_key *key)
{
    return at < f->head.n && lt_key_order(&f->entry[at].key, key) == 0;
}

/* at: from lt_file_find, and not had. The others move up. False: there is no room. */
static inline bool lt_file_insert(struct lt_file *f, uint32_t at, const struct lt_file_entry *entry)
{
    if (f->head.n >= LT_FILE_ENTRIES_MAX || at > f->head.n)
        return false;
    memmove(&f->entry[at + 1], &f->entry[at], (f->head.n - at) * sizeof(f->entry[0]));
    f->entry[at] = *entry;
    f->head.n++;
    return true;
}

/* To be written: sums it up. Returns how many bytes, from the head on, are the file. */
static inline size_t lt_file_seal(struct lt_file *f)
{
    f->head.sum = lt_file_sum(f);
    return sizeof(f->head) + f->head.n * sizeof(f->entry[0]);
}

/*
 * Are the n_bytes that were read into f what lt_file_seal left, for this version and device?
 * Foreign bytes: 0, or -EINVAL for the file as a whole, and f is to be made anew.
 */
static inline int lt_file_check(const struct lt_file *f, size_t n_bytes,
                                const struct lt_file_head *want)
{
    if (n_bytes < sizeof(f->head) || f->head.magic != want->magic ||
        f->head.version != want->version ||
        memcmp(f->head.device, want->device, sizeof(want->device)) != 0)
        return -EINVAL;
    if (f->head.n > LT_FILE_ENTRIES_MAX ||
        n_bytes != sizeof(f->head) + f->head.n * sizeof(f->entry[0]) ||
        f->head.sum != lt_file_sum(f))
        return -EINVAL;
    for (uint32_t i = 0; i < f->head.n; i++)
        if (!lt_key_sound(&f->entry[i].key) ||
            (i > 0 && lt_key_order(&f->entry[i - 1].key, &f->entry[i].key) >= 0))
            return -EINVAL;
    return 0;
}

#endif
