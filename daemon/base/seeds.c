/* Owns nothing: the caller's struct holds the key and the count. */
#include "daemon/base/seeds.h"

static uint64_t turn(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static void sip_rounds(uint64_t v[4], int n)
{
    for (int i = 0; i < n; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = turn(v[1], 13) ^ v[0];
        v[3] = turn(v[3], 16) ^ v[2];
        v[0] = turn(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = turn(v[1], 17) ^ v[2];
        v[3] = turn(v[3], 21) ^ v[0];
        v[2] = turn(v[2], 32);
    }
}

uint64_t seeds_hash(const uint64_t key[2], uint64_t message)
{
    /* The second block holds no byte of the message, only its length in the top byte. */
    const uint64_t block[2] = { message, (uint64_t)sizeof(message) << 56 };
    uint64_t v[4] = { key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
                      key[0] ^ UINT64_C(0x6c7967656e657261),
                      key[1] ^ UINT64_C(0x7465646279746573) };
    for (int i = 0; i < 2; i++) {
        v[3] ^= block[i];
        sip_rounds(v, 2);
        v[0] ^= block[i];
    }
    v[2] ^= 0xff;
    sip_rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t seeds_next(struct seeds *seeds)
{
    return seeds_hash(seeds->key, ++seeds->n) >> 11;
}
