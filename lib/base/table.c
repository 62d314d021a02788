/* table.c: chains in a power of two of buckets, doubled when there are as many nodes as buckets. */
#include "base/table.h"

#include "base/assert.h"
#include "base/os.h"

void pl_table_init(struct pl_table *table)
{
    *table = (struct pl_table){ .mask = PL_TABLE_FIRST - 1 };
}

void pl_table_fini(struct pl_table *table)
{
    pl_os->free(table->buckets);
    pl_table_init(table);
}

static struct pl_table_node **buckets_of(struct pl_table *table)
{
    return table->buckets ? table->buckets : table->first;
}

static void grow(struct pl_table *table)
{
    size_t mask = table->mask * 2 + 1;
    struct pl_table_node **old = buckets_of(table),
                         **buckets = pl_zalloc((mask + 1) * sizeof(struct pl_table_node *));

    if (!buckets)
        return;
    for (size_t i = 0; i <= table->mask; i++) {
        struct pl_table_node *node, *next;

        for (node = old[i]; node; node = next) {
            next = node->next;
            node->next = buckets[node->hash & mask];
            buckets[node->hash & mask] = node;
        }
    }
    pl_os->free(table->buckets);
    table->buckets = buckets;
    table->mask = mask;
}

void pl_table_add(struct pl_table *table, struct pl_table_node *node, uint64_t hash)
{
    struct pl_table_node **bucket;

    if (table->count > table->mask)
        grow(table);
    bucket = &buckets_of(table)[hash & table->mask];
    node->hash = hash;
    node->next = *bucket;
    *bucket = node;
    table->count++;
}

void pl_table_remove(struct pl_table *table, struct pl_table_node *node)
{
    struct pl_table_node **place = &buckets_of(table)[node->hash & table->mask];

    while (*place != node) {
        pl_assert(*place != NULL);
        place = &(*place)->next;
    }
    *place = node->next;
    table->count--;
}

struct pl_table_node *pl_table_find(const struct pl_table *table, uint64_t hash,
                                    pl_table_match_fn *match, const void *key)
{
    struct pl_table_node *const *buckets = table->buckets ? table->buckets : table->first;
    struct pl_table_node *node;

    for (node = buckets[hash & table->mask]; node; node = node->next) {
        if (node->hash == hash && match(node, key))
            break;
    }
    return node;
}
