/* safetensors: any bytes either are refused with a message or give tensors that cover their data.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "daemon/format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sum;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *s = NULL;
    struct format_error err = { "" };
    uint64_t covered = 0, header;
    if (safetensors_open_memory(data, size, "fuzz.safetensors", &s, &err)) {
        assert(!s && err.text[0]);
        return 0;
    }
    memcpy(&header, data, sizeof(header));
    for (uint32_t i = 0; i < safetensors_count(s); i++) {
        const struct safetensors_tensor *t = safetensors_at(s, i);
        assert(safetensors_find(s, t->name) == t);
        assert(t->offset <= size && t->bytes <= size - t->offset);
        covered += t->bytes;
        if (t->bytes)
            sum += ((const uint8_t *)t->data)[0] + ((const uint8_t *)t->data)[t->bytes - 1];
    }
    assert(covered == size - sizeof(header) - header);
    safetensors_close(s);
    return 0;
}
