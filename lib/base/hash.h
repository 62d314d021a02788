/* hash.h: the hash by which our tables look for bytes. It tells nothing apart for good: who finds
 * something by it compares. It is no defence against who chooses the bytes.
 */
#ifndef PL_BASE_HASH_H
#define PL_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* FNV-1a, then mixed so that the low bits, which choose a bucket, depend on every byte. `seed`:
 * equal bytes of different kinds get different hashes. */
static inline uint64_t pl_hash(const void *bytes, size_t size, uint64_t seed)
{
    const unsigned char *at = bytes;
    uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ seed;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    hash = (hash ^ hash >> 33) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ hash >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ hash >> 33;
}

#endif
