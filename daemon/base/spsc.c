/* Start-up half of the queue; push and pop are inline. */
#include "daemon/base/spsc.h"

#include <errno.h>

#include "daemon/base/arena.h"

int spsc_init(struct spsc *q, struct arena *arena, uint32_t n)
{
    uint32_t n_slot = 2;
    if (n == 0 || n > UINT32_C(1) << 30)
        return -EINVAL;
    while (n_slot < n)
        n_slot *= 2;
    void **slot = arena_array(arena, void *, n_slot);
    if (!slot)
        return -ENOMEM;
    *q = (struct spsc){ .slot = slot, .mask = n_slot - 1 };
    return 0;
}
