/* memcached.h: what answers a request of memcached's text protocol: how many replies, and which
 * kinds of them. It knows requests only; replies are read in codec_memcached.c. */
#ifndef PL_WIRE_MEMCACHED_H
#define PL_WIRE_MEMCACHED_H

#include "base/compiler.h"
#include "commpool/codec.h"

/* The shapes a reply can have, as a set: the hint of a request is the set of what its commands are
 * answered by, with marks of its own. An error answers anything. */
enum pl_memcached_shape {
    PL_MEMCACHED_VALUES = 1 << 0, /* VALUE lines with data, and END */
    PL_MEMCACHED_STORED = 1 << 1,
    PL_MEMCACHED_DELETED = 1 << 2,
    PL_MEMCACHED_NUMBER = 1 << 3,
    PL_MEMCACHED_TOUCHED = 1 << 4,
    PL_MEMCACHED_OK = 1 << 5,
    PL_MEMCACHED_VERSION = 1 << 6,
    PL_MEMCACHED_STATS = 1 << 7, /* STAT lines, and END */
    PL_MEMCACHED_META = 1 << 8, /* one line, with data after VA */
    PL_MEMCACHED_NOOP = 1 << 9, /* MN */
    PL_MEMCACHED_BATCH = 1 << 10, /* any number of META, and MN; stands alone */
    PL_MEMCACHED_DATA = 1 << 11 /* no shape: the request has data, see closes */
};

#define PL_MEMCACHED_SHAPES (PL_MEMCACHED_BATCH - 1)

/* POOL_E_ARGUMENT, unless the body is one or more whole commands whose replies can be counted. */
enum pool_status pl_memcached_count(struct pool_bytes body, struct pool_expect *expect) PL_MUST_USE;

/* Takes the word at the start of *text, and the space behind it; true also for the empty word
 * between two spaces. False: nothing is left. */
bool pl_memcached_word(struct pool_bytes *text, struct pool_bytes *word);

bool pl_memcached_is(struct pool_bytes word, const char *text);

/* False: it is no decimal number up to `most`. */
bool pl_memcached_number(struct pool_bytes word, uint64_t most, uint64_t *number);

#endif
