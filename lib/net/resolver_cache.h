/* resolver_cache.h: answers that are still good, by name and family. It is pure: it knows no clock,
 * no DNS and no lookup. What is in it is good until it expires; when it is full the one that was
 * used longest ago leaves. It locks nothing.
 */
#ifndef PL_NET_RESOLVER_CACHE_H
#define PL_NET_RESOLVER_CACHE_H

#include <stdint.h>

#include "base/list.h"
#include "base/table.h"
#include "net/answer.h"

#define PL_CACHE_MOST 2048 /* entries: 1,024 names in two families */

struct pl_cache {
    struct pl_table entries;
    struct pl_list used;                /* the one used last in front */
};

void pl_cache_init(struct pl_cache *cache);
void pl_cache_fini(struct pl_cache *cache);

/* NULL: nothing is known at `now_ns`. Borrowed until the cache is changed next. */
const struct pl_addresses *pl_cache_find(struct pl_cache *cache, const char *name,
                                         enum pl_family family, uint64_t now_ns);

/* Instead of what was known before. Takes a reference of its own; without memory it keeps
 * nothing. */
void pl_cache_put(struct pl_cache *cache, const char *name, enum pl_family family,
                  const struct pl_addresses *addresses);
void pl_cache_clear(struct pl_cache *cache);

uint64_t pl_name_hash(const char *name, unsigned kind);

#endif
