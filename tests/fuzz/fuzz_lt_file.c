/*
 * The file of matrix product algorithms: any bytes either are refused, or give entries within their
 * bounds in an order in which each is found. As they came, and again as if their sum were right, or
 * no change would ever get past it.
 */
#include <stdint.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/cuda/lt_file.h"
#include "tests/fuzz/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct lt_file file, want;

static bool check(size_t size)
{
    if (lt_file_check(&file, size, &want.head) < 0)
        return false;
    MUST(file.head.n <= LT_FILE_ENTRIES_MAX);
    for (uint32_t i = 0; i < file.head.n; i++) {
        const struct lt_key *key = &file.entry[i].key;
        MUST(key->n_out > 0 && key->k > 0 && key->bucket >= LT_FILE_BUCKET_MIN);
        MUST(key->what >= 0 && key->what <= LT_FILE_WHAT_MAX);
        MUST(lt_file_find(&file, key) == i && lt_file_has(&file, i, key));
    }
    MUST(lt_file_seal(&file) == size);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size = min_of(size, sizeof(file));
    lt_file_init(&want, 130000, "NVIDIA H200");
    memcpy(&file, data, size);
    memset((uint8_t *)&file + size, 0xff, sizeof(file) - size);
    bool sound = check(size);
    if (size < sizeof(file.head) || file.head.n > LT_FILE_ENTRIES_MAX)
        return 0;
    file.head.sum = lt_file_sum(&file);
    MUST(check(size) || !sound);
    return 0;
}
