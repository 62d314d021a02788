/* resolver_cache.c: see resolver_cache.h. */
#include "net/resolver_cache.h"

#include <string.h>

#include "base/hash.h"
#include "base/os.h"

struct entry {
    struct pl_table_node node;
    struct pl_list used_link;
    const struct pl_addresses *addresses;
    enum pl_family family;
    char name[];
};

struct key {
    const char *name;
    enum pl_family family;
};

uint64_t pl_name_hash(const char *name, unsigned kind)
{
    return pl_hash(name, strlen(name), kind);
}

static struct entry *entry_of(struct pl_list *link)
{
    return pl_container(link, struct entry, used_link);
}

static bool is_entry(const struct pl_table_node *node, const void *key)
{
    const struct entry *entry = pl_container(node, struct entry, node);
    const struct key *wanted = key;

    return entry->family == wanted->family && !strcmp(entry->name, wanted->name);
}

static struct entry *find(struct pl_cache *cache, const char *name, enum pl_family family)
{
    struct key key = { name, family };
    struct pl_table_node *node =
        pl_table_find(&cache->entries, pl_name_hash(name, family), is_entry, &key);

    return node ? pl_container(node, struct entry, node) : NULL;
}

static void drop(struct pl_cache *cache, struct entry *entry)
{
    pl_table_remove(&cache->entries, &entry->node);
    pl_list_unlink(&entry->used_link);
    pl_addresses_unref(entry->addresses);
    pl_os->free(entry);
}

void pl_cache_init(struct pl_cache *cache)
{
    pl_table_init(&cache->entries);
    pl_list_init(&cache->used);
}

void pl_cache_fini(struct pl_cache *cache)
{
    pl_cache_clear(cache);
    pl_table_fini(&cache->entries);
}

const struct pl_addresses *pl_cache_find(struct pl_cache *cache, const char *name,
                                         enum pl_family family, uint64_t now_ns)
{
    struct entry *entry = find(cache, name, family);

    if (!entry)
        return NULL;
    if (now_ns >= entry->addresses->expires_ns) {
        drop(cache, entry);
        return NULL;
    }
    pl_list_unlink(&entry->used_link);
    pl_list_push_front(&cache->used, &entry->used_link);
    return entry->addresses;
}

void pl_cache_put(struct pl_cache *cache, const char *name, enum pl_family family,
                  const struct pl_addresses *addresses)
{
    struct entry *entry = find(cache, name, family);
    size_t size = strlen(name) + 1;

    if (entry)
        drop(cache, entry);
    if (cache->entries.count >= PL_CACHE_MOST)
        drop(cache, entry_of(cache->used.previous));
    entry = pl_zalloc(sizeof(*entry) + size);
    if (!entry)
        return;
    memcpy(entry->name, name, size);
    entry->family = family;
    entry->addresses = pl_addresses_ref(addresses);
    pl_table_add(&cache->entries, &entry->node, pl_name_hash(name, family));
    pl_list_push_front(&cache->used, &entry->used_link);
}

void pl_cache_clear(struct pl_cache *cache)
{
    while (!pl_list_is_empty(&cache->used))
        drop(cache, entry_of(cache->used.next));
}
