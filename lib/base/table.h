/* table.h: an intrusive hash table with chains. It owns none of its nodes and locks nothing. When
 * there is no memory for more buckets it goes on with longer chains: adding never fails.
 */
#ifndef PL_BASE_TABLE_H
#define PL_BASE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PL_TABLE_FIRST 8u

struct pl_table_node {
    struct pl_table_node *next;
    uint64_t hash;
};

struct pl_table {
    struct pl_table_node **buckets;     /* NULL: `first` */
    size_t mask, count;
    struct pl_table_node *first[PL_TABLE_FIRST];
};

typedef bool pl_table_match_fn(const struct pl_table_node *node, const void *key);

void pl_table_init(struct pl_table *table);
void pl_table_fini(struct pl_table *table);
void pl_table_add(struct pl_table *table, struct pl_table_node *node, uint64_t hash);
void pl_table_remove(struct pl_table *table, struct pl_table_node *node);
struct pl_table_node *pl_table_find(const struct pl_table *table, uint64_t hash,
                                    pl_table_match_fn *match, const void *key);

#endif
