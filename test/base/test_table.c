/* test_table.c: the table finds what is in it and nothing else, whatever the hash is worth and
 * whether or not there is memory to grow; and every byte counts in the hash. */
#include "base/table.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/compiler.h"
#include "base/hash.h"
#include "base/os.h"

#define KEYS 4096u
#define OPERATIONS 200000u

struct item {
    struct pl_table_node node;
    uint32_t key;
    bool is_in;
};

static struct item items[KEYS];
static struct pl_table table;
static uint64_t random_state = 1;

static uint32_t any(uint32_t count)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) % count;
}

static bool has_key(const struct pl_table_node *node, const void *key)
{
    return pl_container(node, const struct item, node)->key == *(const uint32_t *)key;
}

static struct pl_table_node *look_up(uint32_t key, uint64_t hash)
{
    return pl_table_find(&table, hash, has_key, &key);
}

/* Adds, removes and looks up at random, and compares with the flags in the items. */
static void work(uint64_t (*hash_of)(uint32_t key), uint32_t keys, uint32_t operations)
{
    size_t count = 0;

    pl_table_init(&table);
    for (uint32_t i = 0; i < operations; i++) {
        uint32_t key = any(keys);
        struct item *item = &items[key];

        item->key = key;
        cr_assert_eq(look_up(key, hash_of(key)), item->is_in ? &item->node : NULL);
        if (any(3) == 0)
            continue;
        if (item->is_in)
            pl_table_remove(&table, &item->node);
        else
            pl_table_add(&table, &item->node, hash_of(key));
        item->is_in = !item->is_in;
        count += item->is_in ? 1 : SIZE_MAX;
        cr_assert_eq(table.count, count);
    }
    for (uint32_t key = 0; key < keys; key++)
        cr_assert_eq(look_up(key, hash_of(key)) != NULL, items[key].is_in);
    pl_table_fini(&table);
}

static uint64_t spread(uint32_t key)
{
    return key * UINT64_C(0x9e3779b97f4a7c15);
}

static uint64_t always_0(uint32_t key)
{
    (void)key;
    return 0;
}

static uint64_t in_high_bits(uint32_t key)
{
    return (uint64_t)key << 32;
}

Test(table, it_finds_what_was_added_and_not_removed)
{
    work(spread, KEYS, OPERATIONS);
}

Test(table, a_hash_that_is_always_0_finds_the_right_one)
{
    work(always_0, 100, OPERATIONS / 4);
}

Test(table, hashes_that_differ_only_in_high_bits_are_told_apart)
{
    work(in_high_bits, 100, OPERATIONS / 4);
}

static void *no_memory(size_t size)
{
    (void)size;
    return NULL;
}

Test(table, without_memory_it_goes_on_with_longer_chains)
{
    struct pl_os os = pl_os_real;

    os.malloc = no_memory;
    pl_os_replace(&os);
    work(spread, 500, OPERATIONS / 4);
    pl_os_replace(NULL);
}

Test(table, it_grows_so_that_chains_stay_short)
{
    pl_table_init(&table);
    for (uint32_t key = 0; key < KEYS; key++) {
        items[key].key = key;
        pl_table_add(&table, &items[key].node, spread(key));
    }
    cr_expect_geq(table.mask + 1, KEYS / 2);
    pl_table_fini(&table);
}

Test(table, equal_hashes_do_not_match_without_the_key)
{
    struct item item = { .key = 1 };

    pl_table_init(&table);
    pl_table_add(&table, &item.node, 7);
    cr_expect_null(look_up(2, 7));
    cr_expect_null(look_up(1, 7 + 8), "the same bucket, another hash");
    cr_expect_eq(look_up(1, 7), &item.node);
    pl_table_fini(&table);
}

/* ---- the hash */

Test(hash, each_byte_and_the_seed_change_the_bits_that_choose_a_bucket)
{
    char text[16] = "0123456789abcde";
    uint64_t seen[16 * 8 + 2];
    unsigned count = 0, equal = 0;

    seen[count++] = pl_hash(text, sizeof(text), 0) & 0xffff;
    seen[count++] = pl_hash(text, sizeof(text), 1) & 0xffff;
    for (unsigned bit = 0; bit < 16 * 8; bit++) {
        text[bit / 8] ^= (char)(1 << bit % 8);
        seen[count++] = pl_hash(text, sizeof(text), 0) & 0xffff;
        text[bit / 8] ^= (char)(1 << bit % 8);
    }
    for (unsigned i = 0; i < count; i++) {
        for (unsigned k = i + 1; k < count; k++)
            equal += seen[i] == seen[k];
    }
    cr_expect_leq(equal, 3, "%u of %u", equal, count); /* by chance it would be 0.13 */
}
