/* test_resolver.c: names, looked up with c-ares at a DNS server of the tests' own. */
#include "net/resolver.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "base/os.h"
#include "net/asked.h"
#include "support/dns.h"
#include "support/tests.h"

TestSuite(resolver, .init = begin_names, .fini = end_names, .timeout = 60);

/* ---- both families */

Test(resolver, both_families_are_told_at_once_when_they_come_together)
{
    /* Were IPv6 the first by a hair, it would be told at once and by itself. */
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60,
            .delay6_ms = 1);
    look_up(&asked, "db.example");
    expect_text("2001:db8::1 10.0.0.1");
    cr_expect_eq(asked.tellings, 1);
    cr_expect_eq(dns_count(dns, "db.example", 4), 1);
    cr_expect_eq(dns_count(dns, "db.example", 6), 1);
}

Test(resolver, one_family_is_asked_for_alone)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60);
    ask_name(&asked, "db.example", 4);
    await_answer(&asked);
    expect_text("10.0.0.1");
    cr_expect_eq(dns_count(dns, "db.example", 6), 0);
    ask_name(&asked, "db.example", 6);
    cr_expect_not(asked.was_cached);
    await_answer(&asked);
    expect_text("2001:db8::1");
    cr_expect_eq(dns_count(dns, "db.example", 4), 1);
}

Test(resolver, ipv4_that_comes_first_waits_a_little_for_ipv6)
{
    DNS_SAY(dns, "late.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60,
            .delay6_ms = 10);
    look_up(&asked, "late.example");
    cr_expect_eq(asked.tellings, 1);
    expect_text("2001:db8::1 10.0.0.1");
    DNS_SAY(dns, "later.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60,
            .delay6_ms = 800);
    look_up(&asked, "later.example");
    cr_expect_eq(asked.tellings, 2);
    cr_expect_str_eq(asked.first, "10.0.0.1");
    cr_expect(WITHIN(asked.first_ms, 50, 400));
    expect_text("10.0.0.1 2001:db8::1");
}

Test(resolver, ipv6_that_comes_first_is_told_at_once)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60,
            .delay4_ms = 800);
    look_up(&asked, "db.example");
    cr_expect_eq(asked.tellings, 2);
    cr_expect_str_eq(asked.first, "2001:db8::1");
    cr_expect_lt(asked.first_ms, 700);
    expect_text("2001:db8::1 10.0.0.1");
}

Test(resolver, the_silence_of_one_family_does_not_hold_back_the_other)
{
    reopen_names(1000, 1);
    DNS_SAY(dns, "half.example", .addresses = { "10.0.0.1" }, .ttl = 60, .trick = DNS_SILENT,
            .trick_family = 6);
    ask_name(&asked, "half.example", 0);
    await_tellings(&asked, 1);
    expect_text("10.0.0.1");
    cr_expect_not(asked.is_over);
    cr_expect_lt(asked.first_ms, 900);
    await_answer(&asked);
    cr_expect_eq(asked.tellings, 2);
    cr_expect_eq(asked.failure.status, POOL_OK, "there was an address before");
}

Test(resolver, a_family_without_an_address_does_not_make_the_other_wait)
{
    DNS_SAY(dns, "six.example", .addresses = { "2001:db8::6" }, .ttl = 60);
    look_up(&asked, "six.example");
    expect_text("2001:db8::6");
    DNS_SAY(dns, "four.example", .addresses = { "10.0.0.4" }, .ttl = 60);
    look_up(&asked, "four.example");
    expect_text("10.0.0.4");
    cr_expect_eq(asked.tellings, 1);
}

/* ---- the cache */

Test(resolver, a_cached_name_is_answered_by_the_call_and_asks_nobody)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60);
    look_up(&asked, "db.example");
    cr_expect_not(asked.was_cached);
    ask_name(&asked, "db.example", 0);
    cr_expect(asked.was_cached && asked.is_over);
    expect_text("2001:db8::1 10.0.0.1");
    ask_name(&asked, "db.example", 4);
    cr_expect(asked.was_cached);
    expect_text("10.0.0.1");
    cr_expect_eq(dns_count(dns, "db.example", 0), 2);
}

Test(resolver, no_such_host_is_remembered_for_a_while)
{
    look_up(&asked, "nobody.example");
    expect_reason(PL_REASON_NO_HOST);
    cr_expect_eq(asked.tellings, 1);
    ask_name(&asked, "nobody.example", 0);
    cr_expect(asked.was_cached);
    expect_reason(PL_REASON_NO_HOST);
    cr_expect_eq(dns_count(dns, "nobody.example", 0), 2);
}

Test(resolver, a_host_without_an_address_is_told_from_no_host)
{
    DNS_SAY(dns, "empty.example", .trick = DNS_EMPTY);
    look_up(&asked, "empty.example");
    expect_reason(PL_REASON_NO_ADDRESS);
    ask_name(&asked, "empty.example", 0);
    cr_expect(asked.was_cached);
}

Test(resolver, a_failure_of_the_server_is_not_remembered)
{
    DNS_SAY(dns, "db.example", .trick = DNS_SERVFAIL);
    reopen_names(500, 1);
    look_up(&asked, "db.example");
    cr_expect_eq(asked.failure.status, POOL_E_RESOLVE);
    cr_expect(asked.failure.reason == PL_REASON_DNS_FAILED ||
              asked.failure.reason == PL_REASON_DNS_UNREACHED);
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    look_up(&asked, "db.example");
    expect_text("10.0.0.1");
}

Test(resolver, silence_is_not_remembered)
{
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60, .trick = DNS_SILENT);
    reopen_names(200, 1);
    look_up(&asked, "db.example");
    expect_reason(PL_REASON_DNS_SILENT);
    cr_expect(WITHIN(asked.over_ms, 200, 3000));
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    look_up(&asked, "db.example");
    expect_text("10.0.0.1");
}

static uint64_t seconds_left(void)
{
    uint64_t now_ns = pl_os->now_ns();

    return (pl_since(now_ns, asked.expires_ns) + 500 * PL_MS) / (1000 * PL_MS);
}

Test(resolver, ttls_are_kept_within_bounds)
{
    static const struct {
        const char *name;
        uint32_t ttl, seconds;
    } cases[] = {
        { "t0.example", 0, 1 },
        { "t31.example", UINT32_C(1) << 31, 1 },
        { "t90.example", 90, 90 },
        { "tmax.example", INT32_MAX, 3600 },
    };

    for (size_t i = 0; i < PL_COUNT(cases); i++) {
        DNS_SAY(dns, cases[i].name, .addresses = { "10.0.0.1" }, .ttl = cases[i].ttl);
        ask_name(&asked, cases[i].name, 4);
        await_answer(&asked);
        expect_text("10.0.0.1");
        cr_expect(WITHIN(seconds_left(), cases[i].seconds - 1, cases[i].seconds), "%s",
                  cases[i].name);
    }
}

Test(resolver, an_alias_that_lives_shorter_bounds_the_time)
{
    DNS_SAY(dns, "www.example", .addresses = { "10.0.0.1" }, .ttl = 900, .aliases = 5,
            .alias_ttl = 30);
    ask_name(&asked, "www.example", 4);
    await_answer(&asked);
    expect_text("10.0.0.1");
    cr_expect(WITHIN(seconds_left(), 28, 30));
}

/* ---- hostile and broken answers */

Test(resolver, a_truncated_answer_is_fetched_by_tcp)
{
    DNS_SAY(dns, "big.example", .addresses = { "10.0.0.1" }, .ttl = 60, .trick = DNS_TRUNCATED);
    look_up(&asked, "big.example");
    expect_text("10.0.0.1");
    cr_expect_geq(dns_count_tcp(dns), 1);
}

Test(resolver, an_answer_that_drips_over_tcp_arrives)
{
    DNS_SAY(dns, "drip.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 60,
            .trick = DNS_DRIP);
    look_up(&asked, "drip.example");
    cr_expect_eq(asked.count, 2);
}

Test(resolver, a_thousand_records_are_cut_to_what_anybody_tries)
{
    DNS_SAY(dns, "many.example", .made_up = 1000, .ttl = 60);
    look_up(&asked, "many.example");
    cr_expect_eq(asked.count, PL_ADDRESSES_MOST);
}

Test(resolver, answers_to_other_questions_are_not_believed)
{
    static const enum dns_trick tricks[] = { DNS_WRONG_ID, DNS_WRONG_QUESTION, DNS_NO_BYTES };
    static const char *const names[] = { "id.example", "question.example", "nothing.example" };

    for (size_t i = 0; i < PL_COUNT(tricks); i++) {
        DNS_SAY(dns, names[i], .addresses = { "10.0.0.1" }, .ttl = 60, .trick = tricks[i]);
        ask_name(&asked, names[i], 4);
        await_answer(&asked);
        expect_text("10.0.0.1");
    }
}

Test(resolver, an_answer_without_sense_fails_and_is_not_remembered)
{
    reopen_names(300, 2);
    DNS_SAY(dns, "db.example", .trick = DNS_GARBLED);
    look_up(&asked, "db.example");
    cr_expect_eq(asked.failure.status, POOL_E_RESOLVE);
    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1" }, .ttl = 60);
    look_up(&asked, "db.example");
    expect_text("10.0.0.1");
}

Test(resolver, an_alias_of_itself_ends_as_a_failure)
{
    DNS_SAY(dns, "round.example", .trick = DNS_LOOP);
    look_up(&asked, "round.example");
    cr_expect_eq(asked.count, 0);
    cr_expect_eq(asked.failure.status, POOL_E_RESOLVE);
}

Test(resolver, the_unspecified_address_is_no_address)
{
    DNS_SAY(dns, "zero.example", .addresses = { "0.0.0.0", "::" }, .ttl = 60);
    look_up(&asked, "zero.example");
    expect_reason(PL_REASON_NO_ADDRESS);
    DNS_SAY(dns, "some.example", .addresses = { "0.0.0.0", "10.0.0.1", "::" }, .ttl = 60);
    look_up(&asked, "some.example");
    expect_text("10.0.0.1");
}

/* ---- many who ask */

Test(resolver, those_who_ask_meanwhile_share_one_question)
{
    static struct asked crowd[50];

    DNS_SAY(dns, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .ttl = 0,
            .delay_ms = 50);
    for (size_t i = 0; i < PL_COUNT(crowd); i++)
        ask_name(&crowd[i], "db.example", 0);
    for (size_t i = 0; i < PL_COUNT(crowd); i++) {
        await_answer(&crowd[i]);
        cr_expect_eq(crowd[i].count, 2);
    }
    cr_expect_eq(dns_count(dns, "db.example", 4), 1);
    cr_expect_eq(dns_count(dns, "db.example", 6), 1);
}

Test(resolver, questions_under_way_are_bounded)
{
    static struct asked crowd[4097];
    static char names[4097][16];
    unsigned refused = 0;

    for (unsigned i = 0; i < PL_COUNT(crowd); i++) {
        snprintf(names[i], sizeof(names[i]), "n%u.example", i);
        ask_name(&crowd[i], names[i], 4);
        if (crowd[i].was_cached) {
            cr_expect_eq(crowd[i].failure.status, POOL_E_FULL);
            refused++;
        } else {
            pl_lookup_cancel(&crowd[i].lookup);
        }
    }
    cr_expect_eq(refused, 1, "also those that nobody waits for any more count");
}
