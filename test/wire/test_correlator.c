/* test_correlator.c: which reply answers which request: by key and in order, when numbers run out,
 * and when a reply comes late. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/os.h"
#include "wire/correlator.h"

static bool (*allowed)(uint64_t key);
static struct pool_codec codec;
static struct pl_correlator correlator;
static uint64_t next_key;

static bool is_allowed(uint64_t key)
{
    return !allowed || allowed(key);
}

static void begin(bool keyed, uint64_t key_limit, uint64_t first_key)
{
    codec = (struct pool_codec){ .size = sizeof(codec),
                                 .keyed = keyed,
                                 .key_limit = key_limit,
                                 .key_allowed = is_allowed };
    next_key = first_key;
    pl_correlator_init(&correlator, &codec, &next_key);
}

static void end(void)
{
    pl_correlator_fini(&correlator);
    pl_os_replace(NULL);
}

TestSuite(correlator, .fini = end);

static uint64_t add(struct pl_entry *entry, uint32_t replies)
{
    uint64_t key;

    cr_assert_eq(pl_correlator_reserve(&correlator, &key), POOL_OK);
    *entry = (struct pl_entry){ .replies = replies, .hint = 100 + key };
    pl_correlator_add(&correlator, entry, key);
    return key;
}

static void answer(struct pl_entry *entry)
{
    cr_assert_eq(pl_correlator_find(&correlator, entry->key), entry);
    cr_assert(pl_correlator_count_off(&correlator, entry));
}

Test(correlator, keys_count_from_one)
{
    struct pl_entry entries[100];

    begin(true, UINT32_MAX, 1);
    for (unsigned i = 0; i < 100; i++)
        cr_expect_eq(add(&entries[i], 1), i + 1);
    for (unsigned i = 0; i < 100; i++)
        answer(&entries[i]);
    cr_expect_eq(correlator.count, 0);
}

Test(correlator, each_reply_finds_its_own_in_whatever_order_it_comes)
{
    enum { COUNT = 1000 };
    static struct pl_entry entries[COUNT];

    begin(true, UINT32_MAX, 1);
    for (unsigned i = 0; i < COUNT; i++)
        add(&entries[i], 1);
    for (unsigned i = 0; i < COUNT; i++)
        answer(&entries[i * 7 % COUNT]);
    cr_expect_eq(correlator.count, 0);
}

Test(correlator, a_key_nobody_has_is_nobodys)
{
    struct pl_entry entry;
    uint64_t key;

    begin(true, UINT32_MAX, 1);
    cr_expect_null(pl_correlator_find(&correlator, 1));
    key = add(&entry, 1);
    cr_expect_null(pl_correlator_find(&correlator, key + 16));
    cr_expect_null(pl_correlator_find(&correlator, 0));
    answer(&entry);
    cr_expect_null(pl_correlator_find(&correlator, key));
}

Test(correlator, a_key_comes_back_only_when_its_last_reply_came)
{
    struct pl_entry old, entry;
    uint64_t key;

    begin(true, 65535, 65530);
    key = add(&old, 1);
    for (unsigned i = 0; i < 300000; i++) {
        cr_assert_neq(add(&entry, 1), key);
        answer(&entry);
    }
    answer(&old);
    for (unsigned i = 0; i < 65535; i++) {
        if (add(&entry, 1) == key)
            return;
        answer(&entry);
    }
    cr_assert_fail("the key never came back");
}

Test(correlator, numbers_start_anew_behind_their_limit_and_pass_over_who_still_waits)
{
    struct pl_entry old, entry;

    begin(true, UINT32_MAX, UINT64_C(4294967286));
    cr_assert_eq(add(&old, 1), UINT64_C(4294967286));
    for (uint64_t key = UINT64_C(4294967287); key <= UINT32_MAX; key++) {
        if (key % 16 == old.key % 16)
            continue;                   /* its place is taken */
        cr_expect_eq(add(&entry, 1), key);
        answer(&entry);
    }
    cr_expect_eq(add(&entry, 1), 1);
    answer(&entry);
    answer(&old);
}

static bool is_odd(uint64_t key)
{
    return key % 2;
}

Test(correlator, keys_that_the_codec_does_not_allow_are_passed_over)
{
    struct pl_entry entries[50];

    allowed = is_odd;
    begin(true, 99, 1);
    for (unsigned i = 0; i < 50; i++)
        cr_expect_eq(add(&entries[i], 1), 2 * i + 1);
    while (pl_correlator_pop(&correlator))
        continue;
    allowed = NULL;
}

static bool is_none(uint64_t key)
{
    (void)key;
    return false;
}

static bool is_far(uint64_t key)
{
    return key >= 1000000;
}

Test(correlator, a_long_row_of_keys_that_are_not_allowed_is_passed_over)
{
    struct pl_entry entries[3];

    allowed = is_far;
    begin(true, UINT32_MAX, 1);
    for (unsigned i = 0; i < 3; i++)
        cr_expect_eq(add(&entries[i], 1), 1000000 + i);
    while (pl_correlator_pop(&correlator))
        continue;
    allowed = NULL;
}

Test(correlator, without_a_free_key_it_is_full)
{
    struct pl_entry entries[8];
    uint64_t key;

    begin(true, 7, 1);
    for (unsigned i = 0; i < 7; i++)
        add(&entries[i], 1);
    cr_expect_eq(pl_correlator_reserve(&correlator, &key), POOL_E_FULL);
    answer(&entries[3]);
    cr_expect_eq(add(&entries[3], 1), 4);
    allowed = is_none;
    answer(&entries[3]);
    cr_expect_eq(pl_correlator_reserve(&correlator, &key), POOL_E_FULL);
    allowed = NULL;
}

Test(correlator, in_order_the_oldest_is_answered_first)
{
    enum { COUNT = 500 };
    static struct pl_entry entries[COUNT];
    unsigned answered = 0;

    begin(false, 0, 1);
    for (unsigned i = 0; i < COUNT; i++) {
        add(&entries[i], 1);
        if (i % 3)
            continue;
        cr_expect_eq(pl_correlator_hint(&correlator), entries[answered].hint);
        cr_assert_eq(pl_correlator_find(&correlator, 0), &entries[answered]);
        cr_assert(pl_correlator_count_off(&correlator, &entries[answered++]));
    }
    for (; answered < COUNT; answered++)
        answer(&entries[answered]);
    cr_expect_eq(pl_correlator_hint(&correlator), 0);
    cr_expect_null(pl_correlator_find(&correlator, 0));
}

Test(correlator, an_entry_stays_until_all_its_replies_came)
{
    struct pl_entry two, one;

    begin(false, 0, 1);
    add(&two, 2);
    add(&one, 1);
    cr_expect_not(pl_correlator_count_off(&correlator, &two));
    cr_expect_eq(pl_correlator_find(&correlator, 0), &two);
    cr_expect(pl_correlator_count_off(&correlator, &two));
    answer(&one);
}

Test(correlator, all_come_out_once_the_oldest_first)
{
    enum { COUNT = 100 };
    static struct pl_entry entries[COUNT];

    for (unsigned keyed = 0; keyed < 2; keyed++) {
        begin(keyed, UINT32_MAX, 12345);
        for (unsigned i = 0; i < COUNT; i++)
            add(&entries[i], 1);
        for (unsigned i = 0; i < COUNT; i++)
            cr_expect_eq(pl_correlator_pop(&correlator), &entries[i]);
        cr_expect_null(pl_correlator_pop(&correlator));
        pl_correlator_fini(&correlator);
    }
}

/* A key that is as old as others are far behind it, one that wrapped around, and some that were
 * given: what counts is when they were added. */
Test(correlator, all_come_out_in_the_order_of_asking_whatever_their_keys)
{
    enum { COUNT = 300 };
    static struct pl_entry entries[COUNT];
    struct pl_entry passing;
    unsigned next = 0;

    begin(true, 1000, 990);
    for (unsigned i = 0; i < COUNT; i++) {
        if (i % 10 == 7 && !pl_correlator_reserve_key(&correlator, 980 - i)) {
            entries[i] = (struct pl_entry){ .replies = 1 };
            pl_correlator_add(&correlator, &entries[i], 980 - i);
        } else {
            add(&entries[i], 1);
        }
        for (unsigned j = 0; j < 40; j++) { /* the keys go on */
            add(&passing, 1);
            answer(&passing);
        }
    }
    for (; next < COUNT; next++)
        cr_assert_eq(pl_correlator_pop(&correlator), &entries[next], "the one at %u", next);
    cr_expect_null(pl_correlator_pop(&correlator));
    add(&passing, 1);
    answer(&passing);
}

Test(correlator, what_is_withdrawn_is_passed_over_and_all_others_keep_their_turns)
{
    enum { COUNT = 100 };
    static struct pl_entry entries[COUNT];

    for (unsigned keyed = 0; keyed < 2; keyed++) {
        begin(keyed, UINT32_MAX, 1);
        for (unsigned i = 0; i < COUNT; i++)
            add(&entries[i], 1);
        for (unsigned i = 0; i < COUNT; i++) {
            if (i % 3)
                pl_correlator_withdraw(&correlator, &entries[i]);
        }
        for (unsigned i = 0; i < COUNT; i += 3)
            answer(&entries[i]);
        cr_expect_eq(correlator.count, 0);
        cr_expect_null(pl_correlator_find(&correlator, 1));
        add(&entries[0], 1);
        pl_correlator_withdraw(&correlator, &entries[0]);
        add(&entries[1], 1);
        answer(&entries[1]);
        pl_correlator_fini(&correlator);
    }
}

/* Where one is never answered, as many as you like may come and be withdrawn behind it. */
Test(correlator, withdrawing_takes_no_memory_however_often)
{
    struct pl_entry first, entries[5], passing;

    begin(false, 0, 1);
    add(&first, 1);
    for (unsigned i = 0; i < 100000; i++) {
        if (i % 20000 == 10)
            add(&entries[i / 20000], 1);
        add(&passing, 1);
        pl_correlator_withdraw(&correlator, &passing);
    }
    cr_expect_leq(correlator.mask, 63);
    answer(&first);
    for (unsigned i = 0; i < 5; i++)
        answer(&entries[i]);
    cr_expect_eq(correlator.count, 0);
}

/* ---- without memory */

static struct pl_os os;

static void *no_memory(size_t size)
{
    (void)size;
    return NULL;
}

Test(correlator, without_memory_what_stands_in_it_stays)
{
    struct pl_entry entries[12];
    uint64_t key;

    begin(true, UINT32_MAX, 1);
    for (unsigned i = 0; i < 12; i++)
        add(&entries[i], 1);
    os = pl_os_real;
    os.malloc = no_memory;
    pl_os_replace(&os);
    cr_expect_eq(pl_correlator_reserve(&correlator, &key), POOL_E_MEMORY);
    for (unsigned i = 0; i < 12; i++)
        answer(&entries[i]);
    cr_expect_eq(add(&entries[0], 1), 13);
}

/* ---- against a map without tricks */

Test(correlator, a_million_at_random_are_found_as_in_a_plain_table)
{
    enum { KEYS = 300 };
    static struct pl_entry entries[KEYS + 1];
    static bool is_out[KEYS + 1];
    struct pl_entry *found;
    unsigned live = 0;
    uint64_t key;

    srandom(1);
    begin(true, KEYS, 1);
    for (unsigned i = 0; i < 1000000; i++) {
        if (live < 200 && random() % 2) {
            cr_assert_eq(pl_correlator_reserve(&correlator, &key), POOL_OK);
            cr_assert(key >= 1 && key <= KEYS && !is_out[key]);
            entries[key] = (struct pl_entry){ .replies = 1 };
            pl_correlator_add(&correlator, &entries[key], key);
            is_out[key] = true;
            live++;
        } else {
            key = (uint64_t)random() % KEYS + 1;
            found = pl_correlator_find(&correlator, key);
            cr_assert_eq(found, is_out[key] ? &entries[key] : NULL);
            if (found && random() % 4) {
                cr_assert(pl_correlator_count_off(&correlator, found));
                is_out[key] = false;
                live--;
            }
        }
    }
    cr_expect_eq(correlator.count, live);
}

Test(correlator, a_key_from_elsewhere_does_not_turn_the_keys_back)
{
    struct pl_entry entries[12];

    begin(true, UINT32_MAX, 1);
    for (unsigned i = 0; i < 10; i++) {
        add(&entries[i], 1);
        answer(&entries[i]);
    }
    cr_assert_eq(pl_correlator_reserve_key(&correlator, 3), POOL_OK);
    entries[10] = (struct pl_entry){ .replies = 1 };
    pl_correlator_add(&correlator, &entries[10], 3);
    cr_expect_eq(add(&entries[11], 1), 11);
    answer(&entries[10]);
    answer(&entries[11]);
}
