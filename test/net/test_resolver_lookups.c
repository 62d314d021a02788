/* test_resolver_lookups.c: lookups that are canceled, started and closed at every moment, also
 * inside what they and others are told. */
#include <criterion/criterion.h>
#include <string.h>

#include "net/asked.h"
#include "support/dns.h"
#include "support/tests.h"

TestSuite(resolver_lookups, .init = begin_names, .fini = end_names, .timeout = 60);

/* Lets everything that is on its way arrive. */
static void let_all_arrive(void)
{
    struct asked last = { 0 };

    DNS_SAY(dns, "last.example", .addresses = { "10.0.0.99" }, .ttl = 60, .delay_ms = 100);
    look_up(&last, "last.example");
}

Test(resolver_lookups, a_canceled_lookup_is_told_nothing_and_its_answer_is_remembered)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60,
            .delay_ms = 20);
    ask_name(&asked, "db.example", 0);
    pl_lookup_cancel(&asked.lookup);
    pl_lookup_cancel(&asked.lookup);
    memset(&asked, 0x5a, sizeof(asked));
    let_all_arrive();
    asked = (struct asked){ 0 };
    ask_name(&asked, "db.example", 0);
    cr_expect(asked.was_cached);
    cr_expect_eq(dns_count(dns, "db.example", 0), 2);
}

Test(resolver_lookups, a_lookup_can_be_canceled_while_it_is_held)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60,
            .delay6_ms = 30);
    ask_name(&asked, "db.example", 0);
    while (!asked.lookup.held_until_ns)
        cr_assert_eq(pool_mux_dispatch(mux, 1000), POOL_OK);
    pl_lookup_cancel(&asked.lookup);
    let_all_arrive();
    cr_expect_eq(asked.tellings, 0);
}

static void cancel_itself(struct asked *of)
{
    pl_lookup_cancel(&of->lookup);
    memset(&of->lookup, 0x5a, sizeof(of->lookup));
}

Test(resolver_lookups, a_lookup_canceled_in_its_first_telling_has_no_second)
{
    asked.then = cancel_itself;
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60,
            .delay4_ms = 200);
    ask_name(&asked, "db.example", 0);
    await_tellings(&asked, 1);
    let_all_arrive();
    let_all_arrive();
    cr_expect_eq(asked.tellings, 1);
    expect_text("2001:db8::1");
}

Test(resolver_lookups, a_lookup_may_be_reused_in_its_last_telling)
{
    asked.then = cancel_itself;
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    look_up(&asked, "db.example");
    expect_text("10.0.0.1");
}

static void cancel_the_other(struct asked *of)
{
    pl_lookup_cancel(&((struct asked *)of->user)->lookup);
}

Test(resolver_lookups, a_lookup_canceled_in_anothers_telling_is_told_nothing)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60, .delay_ms = 10);
    asked.then = cancel_the_other;
    asked.user = &other;
    ask_name(&asked, "db.example", 0);
    ask_name(&other, "db.example", 0);
    await_answer(&asked);
    let_all_arrive();
    cr_expect_eq(other.tellings, 0);
}

static void start_the_other(struct asked *of)
{
    ask_name(of->user, "next.example", 0);
}

Test(resolver_lookups, a_lookup_may_be_started_in_a_telling)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    DNS_SAY(dns, "next.example", .addresses = { "10.0.0.2" }, .ttl = 60);
    asked.then = start_the_other;
    asked.user = &other;
    look_up(&asked, "db.example");
    await_answer(&other);
    cr_expect_str_eq(other.text, "10.0.0.2");
}

static void close_all(struct asked *of)
{
    (void)of;
    pl_resolver_close(resolver);
    resolver = NULL;
}

Test(resolver_lookups, the_resolver_may_be_closed_in_a_telling)
{
    static struct asked crowd[20];

    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60, .delay_ms = 10);
    DNS_SAY(dns, "slow.example", .trick = DNS_SILENT);
    ask_name(&other, "slow.example", 0);
    asked.then = close_all;
    ask_name(&asked, "db.example", 0);
    for (size_t i = 0; i < PL_COUNT(crowd); i++)
        ask_name(&crowd[i], "db.example", 0);
    await_answer(&asked);
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    for (size_t i = 0; i < PL_COUNT(crowd); i++) {
        cr_expect_eq(crowd[i].tellings, 0);
        cr_expect_null(crowd[i].lookup.resolver);
        pl_lookup_cancel(&crowd[i].lookup);
    }
    cr_expect_eq(other.tellings, 0);
    cr_expect_eq(count_descriptors(), descriptors);
    open_names(0, 0);
}

Test(resolver_lookups, closing_ends_all_lookups_silently)
{
    DNS_SAY(dns, "slow.example", .trick = DNS_SILENT);
    DNS_SAY(dns, "ready.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    ask_name(&asked, "slow.example", 0);
    ask_name(&other, "localhost", 0);
    reopen_names(0, 0);
    cr_expect_eq(count_descriptors(), descriptors);
    let_all_arrive();
    cr_expect_eq(asked.tellings + other.tellings, 0);
}

Test(resolver_lookups, an_answer_after_the_close_meets_nobody)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60, .delay_ms = 50);
    ask_name(&asked, "db.example", 0);
    cr_assert(dns_wait_count(dns, "db.example", 0, 2, ASKED_SOON));
    reopen_names(0, 0);
    let_all_arrive();
    cr_expect_eq(asked.tellings, 0);
}

Test(resolver_lookups, a_thousand_cancels_leave_nothing)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 0, .delay_ms = 1);
    for (int i = 0; i < 1000; i++) {
        ask_name(&asked, "db.example", 0);
        if (i % 3)
            cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
        if (!asked.is_over)
            pl_lookup_cancel(&asked.lookup);
        asked = (struct asked){ 0 };
    }
    let_all_arrive();
    cr_expect_eq(count_descriptors(), descriptors);
}

Test(resolver_lookups, a_lookup_that_hangs_does_not_hold_up_the_mux)
{
    DNS_SAY(dns, "slow.example", .trick = DNS_SILENT);
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    ask_name(&other, "slow.example", 0);
    look_up(&asked, "db.example");
    cr_expect_lt(asked.over_ms, 1500);
    pl_lookup_cancel(&other.lookup);
}

Test(resolver_lookups, a_cached_name_costs_at_most_two_microseconds)
{
    uint64_t best_us = UINT64_MAX;

    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 3600);
    look_up(&asked, "db.example");
    for (int round = 0; round < 15; round++) {
        uint64_t began_us = now_us();
        struct pl_answer answer;

        for (int i = 0; i < 1000; i++)
            cr_assert(pl_resolver_look_up(resolver, &asked.lookup, &answer));
        best_us = now_us() - began_us < best_us ? now_us() - began_us : best_us;
    }
    cr_expect_leq(best_us / slowness(), 2000, "%llu ns each", (unsigned long long)best_us);
}
