/* test_resolver_world.c: what is told when, by the clock of the scripted world. */
#include <errno.h>
#include <criterion/criterion.h>
#include <errno.h>

#include "base/os.h"
#include "mux/mux.h"
#include "net/resolver.h"
#include "world/world.h"
#include "world/world_resolve.h"

/* The world's own mux and resolver; asked.h has those of the real kernel. */
static struct world *world;
static struct world_names *names;
static struct pool_mux *own_mux;
static struct pl_resolver *own_resolver;

static struct told {
    struct pl_lookup lookup;
    uint64_t at_ms[4];
    unsigned counts[4], tellings;
    struct pl_failure failure;
    bool is_over;
} told;

static void on_addresses(struct pl_lookup *lookup, const struct pl_answer *answer)
{
    struct told *of = pl_container(lookup, struct told, lookup);

    of->at_ms[of->tellings] = world_now_ms(world);
    for (int family = 0; family < PL_FAMILIES; family++)
        of->counts[of->tellings] += answer->of[family] ? answer->of[family]->count : 0;
    of->tellings++;
    of->failure = answer->failure;
    of->is_over = answer->is_last;
}

static void begin(void)
{
    world = world_create(1);
    pl_os_replace(world_os(world));
    names = world_names_open(world);
    cr_assert_eq(pool_mux_create(&own_mux), POOL_OK);
    cr_assert_eq(pl_resolver_open(own_mux, NULL, &own_resolver), POOL_OK);
}

static void finish(void)
{
    pl_resolver_close(own_resolver);
    pool_mux_destroy(own_mux);
    cr_expect_eq(world_allocations(world), 0);
    cr_expect_eq(world_descriptors(world), 0);
    pl_os_replace(NULL);
    world_destroy(world);
    world_names_close(names);
}

TestSuite(resolver_world, .init = begin, .fini = finish);

static bool start(struct told *of, const char *name, int family)
{
    struct pl_answer answer;

    *of = (struct told){ .lookup = { .name = name,
                                     .family = family,
                                     .on_addresses = on_addresses } };
    return pl_resolver_look_up(own_resolver, &of->lookup, &answer);
}

static void run_for(uint64_t ms)
{
    uint64_t end_ms = world_now_ms(world) + ms;

    while (world_now_ms(world) < end_ms)
        cr_assert_eq(pool_mux_dispatch(own_mux, (uint32_t)(end_ms - world_now_ms(world))), POOL_OK);
}

Test(resolver_world, ipv4_waits_fifty_milliseconds_for_ipv6_and_no_longer)
{
    WORLD_NAME(names, "db", .addresses = { "10.0.0.1", "2001:db8::1" }, .delay6_ms = 300);
    cr_assert_not(start(&told, "db", 0));
    run_for(400);
    cr_assert_eq(told.tellings, 2);
    cr_expect_eq(told.at_ms[0], 50);
    cr_expect_eq(told.counts[0], 1);
    cr_expect_eq(told.at_ms[1], 300);
    cr_expect(told.is_over);
}

Test(resolver_world, ipv6_within_the_fifty_milliseconds_is_told_with_ipv4)
{
    WORLD_NAME(names, "db", .addresses = { "10.0.0.1", "2001:db8::1" }, .delay6_ms = 49);
    cr_assert_not(start(&told, "db", 0));
    run_for(100);
    cr_assert_eq(told.tellings, 1);
    cr_expect_eq(told.at_ms[0], 49);
    cr_expect_eq(told.counts[0], 2);
}

Test(resolver_world, a_denial_of_ipv6_ends_the_wait)
{
    WORLD_NAME(names, "db", .addresses = { "10.0.0.1" }, .delay6_ms = 20);
    cr_assert_not(start(&told, "db", 0));
    run_for(100);
    cr_assert_eq(told.tellings, 1);
    cr_expect_eq(told.at_ms[0], 20);
}

Test(resolver_world, ipv6_alone_waits_for_nothing)
{
    WORLD_NAME(names, "db", .addresses = { "10.0.0.1", "2001:db8::1" }, .delay4_ms = 300,
               .delay6_ms = 10);
    cr_assert_not(start(&told, "db", 0));
    run_for(400);
    cr_assert_eq(told.tellings, 2);
    cr_expect_eq(told.at_ms[0], 10);
    cr_expect_eq(told.at_ms[1], 300);
}

Test(resolver_world, a_family_that_is_known_already_is_not_asked_for_again)
{
    WORLD_NAME(names, "db", .addresses = { "10.0.0.1", "2001:db8::1" }, .delay_ms = 10);
    cr_assert_not(start(&told, "db", 4));
    run_for(20);
    cr_assert_not(start(&told, "db", 0));
    cr_expect_eq(told.tellings, 0, "what is known is told by no call either");
    run_for(200);
    cr_assert_eq(told.tellings, 1);
    cr_expect_eq(told.counts[0], 2);
    cr_expect_eq(world_name_asked(names, "db", 4), 1);
    cr_expect_eq(world_name_asked(names, "db", 6), 1);
}

Test(resolver_world, an_answer_is_good_for_its_time_to_live)
{
    WORLD_NAME(names, "db", .addresses = { "10.0.0.1" }, .ttl = 2);
    cr_assert_not(start(&told, "db", 4));
    run_for(1999);
    cr_expect(start(&told, "db", 4));
    run_for(2);
    cr_expect_not(start(&told, "db", 4));
    run_for(1);
    cr_expect_eq(world_name_asked(names, "db", 4), 2);
}

Test(resolver_world, of_two_failures_the_one_that_can_be_helped_is_told)
{
    struct pl_failure shortage = pl_failure_of_errno(EMFILE, POOL_PHASE_RESOLVE);
    struct pl_failure silence = pl_failure_because(PL_REASON_DNS_SILENT, POOL_PHASE_RESOLVE, 0);

    WORLD_NAME(names, "short", .failure = shortage, .only_family = 4);
    WORLD_NAME(names, "mute", .failure = silence, .only_family = 6);
    cr_assert_not(start(&told, "short", 0));
    run_for(10);
    cr_expect_eq(told.failure.status, POOL_E_RESOURCE);
    cr_expect_eq(told.failure.cause, EMFILE);
    cr_assert_not(start(&told, "mute", 0));
    run_for(10);
    cr_expect_eq(told.failure.reason, PL_REASON_DNS_SILENT);
}

Test(resolver_world, a_failure_of_one_family_is_none_while_the_other_has_addresses)
{
    WORLD_NAME(names, "db", .addresses = { "10.0.0.1" }, .only_family = 6,
               .failure = pl_failure_because(PL_REASON_DNS_FAILED, POOL_PHASE_RESOLVE, 0));
    cr_assert_not(start(&told, "db", 0));
    run_for(10);
    cr_assert(told.is_over);
    cr_expect_eq(told.failure.status, POOL_OK);
}

Test(resolver_world, a_change_forgets_what_was_answered_and_splits_those_who_ask)
{
    static struct told before;

    WORLD_NAME(names, "db", .addresses = { "10.0.0.1" }, .delay_ms = 10);
    cr_assert_not(start(&before, "db", 4));
    world_names_change(names);
    cr_assert_not(start(&told, "db", 4));
    run_for(20);
    cr_expect(before.is_over && told.is_over);
    cr_expect_eq(world_name_asked(names, "db", 4), 2, "the older answer may be wrong");
    world_names_change(names);
    cr_expect_not(start(&told, "db", 4));
    run_for(20);
}

Test(resolver_world, closing_forgets_what_is_under_way_at_each_moment)
{
    WORLD_NAME(names, "db", .addresses = { "10.0.0.1", "2001:db8::1" }, .delay4_ms = 10,
               .delay6_ms = 100);
    for (uint64_t ms = 0; ms <= 110; ms += 5) {
        cr_assert_not(start(&told, "db", 0));
        if (ms)
            run_for(ms);
        pl_resolver_close(own_resolver);
        cr_expect_eq(world_names_waiting(names), 0);
        cr_assert_eq(pl_resolver_open(own_mux, NULL, &own_resolver), POOL_OK);
    }
}

static void *no_malloc(size_t size)
{
    (void)size;
    return NULL;
}

Test(resolver_world, without_memory_the_call_says_so)
{
    struct pl_os os_without_memory = *pl_os;
    struct pl_answer answer;

    os_without_memory.malloc = no_malloc;
    pl_os_replace(&os_without_memory);
    told = (struct told){ .lookup = { .name = "db", .on_addresses = on_addresses } };
    cr_expect(pl_resolver_look_up(own_resolver, &told.lookup, &answer));
    cr_expect_eq(answer.failure.status, POOL_E_MEMORY);
    cr_expect(answer.is_last);
    pl_os_replace(world_os(world));
}
