/* Whole KV blocks: copied inside the pool, or moved to host memory and back. */
#include <string.h>

#include "kernels/cpu/cpu.h"

int cpu_kv_copy(struct stream *st, const struct kv_copy_args *args)
{
    (void)st;
    for (int i = 0; i < args->n; i++)
        memcpy((char *)args->pool + args->dst[i] * args->block_stride,
               (const char *)args->pool + args->src[i] * args->block_stride,
               (size_t)args->block_stride);
    return 0;
}

int cpu_kv_move(struct stream *st, const struct kv_move_args *args)
{
    (void)st;
    for (int i = 0; i < args->n; i++) {
        char *pool = (char *)args->pool + args->pool_block[i] * args->block_stride;
        char *host = (char *)args->host + args->host_block[i] * args->block_stride;
        if (args->to_host)
            memcpy(host, pool, (size_t)args->block_stride);
        else
            memcpy(pool, host, (size_t)args->block_stride);
    }
    return 0;
}
