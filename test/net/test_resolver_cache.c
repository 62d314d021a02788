/* test_resolver_cache.c: what is remembered of names: pure, with the time as an argument. */
#include "net/resolver_cache.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "base/os.h"

#define S (1000 * PL_MS)

static struct pl_cache cache;

static void begin(void)
{
    pl_cache_init(&cache);
}

static void finish(void)
{
    pl_cache_fini(&cache);
}

TestSuite(resolver_cache, .init = begin, .fini = finish);

/* One that is told apart by its address. */
static void put(const char *name, enum pl_family family, uint32_t number, uint64_t expires_ns)
{
    struct pl_addresses *addresses = pl_addresses_make(1, expires_ns);

    cr_assert_not_null(addresses);
    addresses->count = 1;
    addresses->list[0].ipv4 =
        (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = number };
    pl_cache_put(&cache, name, family, addresses);
    pl_addresses_unref(addresses);
}

/* 0: nothing is known. */
static uint32_t get(const char *name, enum pl_family family, uint64_t now_ns)
{
    const struct pl_addresses *found = pl_cache_find(&cache, name, family, now_ns);

    return found ? found->list[0].ipv4.sin_addr.s_addr : 0;
}

Test(resolver_cache, an_answer_is_good_until_it_expires_and_not_after)
{
    put("db", PL_IPV4, 7, 10 * S);
    cr_expect_eq(get("db", PL_IPV4, 0), 7);
    cr_expect_eq(get("db", PL_IPV4, 10 * S - 1), 7);
    cr_expect_eq(get("db", PL_IPV4, 10 * S), 0);
    cr_expect_eq(get("db", PL_IPV4, 0), 0, "it is gone for good");
}

Test(resolver_cache, families_and_names_are_told_apart)
{
    put("db", PL_IPV4, 4, S);
    put("db", PL_IPV6, 6, S);
    put("dc", PL_IPV4, 5, S);
    cr_expect_eq(get("db", PL_IPV4, 0), 4);
    cr_expect_eq(get("db", PL_IPV6, 0), 6);
    cr_expect_eq(get("dc", PL_IPV4, 0), 5);
    cr_expect_eq(get("dc", PL_IPV6, 0), 0);
}

Test(resolver_cache, a_new_answer_replaces_the_old_one)
{
    put("db", PL_IPV4, 1, S);
    put("db", PL_IPV4, 2, 2 * S);
    cr_expect_eq(get("db", PL_IPV4, 0), 2);
    cr_expect_eq(get("db", PL_IPV4, S), 2);
}

Test(resolver_cache, when_it_is_full_the_one_used_longest_ago_leaves)
{
    char name[16];

    for (unsigned i = 0; i < PL_CACHE_MOST; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        put(name, PL_IPV4, i + 1, S);
    }
    cr_expect_eq(get("n0", PL_IPV4, 0), 1, "used, so n1 is next to leave");
    put("one-more", PL_IPV4, 9, S);
    cr_expect_eq(get("n0", PL_IPV4, 0), 1);
    cr_expect_eq(get("n1", PL_IPV4, 0), 0);
    cr_expect_eq(get("n2", PL_IPV4, 0), 3);
    cr_expect_eq(get("one-more", PL_IPV4, 0), 9);
    cr_expect_eq(cache.entries.count, PL_CACHE_MOST);
}

Test(resolver_cache, clearing_forgets_everything)
{
    put("db", PL_IPV4, 1, S);
    put("db", PL_IPV6, 2, S);
    pl_cache_clear(&cache);
    cr_expect_eq(get("db", PL_IPV4, 0), 0);
    cr_expect_eq(get("db", PL_IPV6, 0), 0);
    cr_expect_eq(cache.entries.count, 0);
}

Test(resolver_cache, an_answer_in_use_outlives_its_entry)
{
    const struct pl_addresses *kept;

    put("db", PL_IPV4, 7, S);
    kept = pl_addresses_ref(pl_cache_find(&cache, "db", PL_IPV4, 0));
    pl_cache_clear(&cache);
    cr_expect_eq(kept->list[0].ipv4.sin_addr.s_addr, 7);
    pl_addresses_unref(kept);
}

Test(resolver_cache, a_time_to_live_is_clamped)
{
    cr_expect_eq(pl_ttl_end(5 * S, 0), 6 * S);
    cr_expect_eq(pl_ttl_end(5 * S, -1), 6 * S);
    cr_expect_eq(pl_ttl_end(5 * S, INT64_C(1) << 31), 6 * S, "RFC 2181: it counts as 0");
    cr_expect_eq(pl_ttl_end(5 * S, 60), 65 * S);
    cr_expect_eq(pl_ttl_end(5 * S, INT32_MAX), 5 * S + UINT64_C(3600) * S);
    cr_expect_eq(pl_ttl_end(PL_NEVER - 1, 60), PL_NEVER);
}

static void *no_malloc(size_t size)
{
    (void)size;
    return NULL;
}

Test(resolver_cache, without_memory_the_failure_says_so_and_nothing_is_kept)
{
    struct pl_os os = pl_os_real;
    const struct pl_addresses *none;

    put("db", PL_IPV4, 7, S);
    os.malloc = no_malloc;
    pl_os_replace(&os);
    none = pl_addresses_none(pl_failure_because(PL_REASON_NO_HOST, POOL_PHASE_RESOLVE, 0), S);
    cr_expect_eq(none->failure.status, POOL_E_MEMORY);
    cr_expect_eq(none->count, 0);
    pl_cache_put(&cache, "db", PL_IPV4, pl_addresses_ref(none));
    pl_addresses_unref(none);
    pl_os_replace(NULL);
    cr_expect_eq(get("db", PL_IPV4, 0), 0);
}
