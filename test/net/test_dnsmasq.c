/* test_dnsmasq.c: a resolver and a real DNS server. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "net/asked.h"
#include "support/servers.h"
#include "support/tests.h"

static struct server *server;
static char servers[64];

static void begin(void)
{
    struct pl_resolver_options options = { .servers = servers,
                                           .resolv_conf = "/dev/null",
                                           .hosts = "/dev/null" };

    server = dnsmasq_start();
    if (!server)
        cr_skip("%s", server_why_not());
    begin_names();
    pl_resolver_close(resolver);
    snprintf(servers, sizeof(servers), "127.0.0.1:%d", server_port(server));
    cr_assert_eq(pl_resolver_open(mux, &options, &resolver), POOL_OK);
}

static void end(void)
{
    if (server)
        end_names();
    server_stop(server);
}

TestSuite(dnsmasq, .init = begin, .fini = end, .timeout = 60);

/* When the earliest of the answers is good no more, from its arrival on. */
static uint64_t seconds_of(const struct asked *of)
{
    return (of->expires_ns - pl_os->now_ns() + PL_MS * 999) / (PL_MS * 1000);
}

/* IPv4 comes first when IPv6 takes its time. */
static void expect_both(void)
{
    cr_expect_eq(asked.count, 2, "%s", asked.text);
    cr_expect(strstr(asked.text, "2001:db8::1"), "%s", asked.text);
    cr_expect(strstr(asked.text, "10.0.0.1"), "%s", asked.text);
}

Test(dnsmasq, both_families_of_a_name_are_found_with_their_time_to_live)
{
    look_up(&asked, "db.example");
    expect_both();
    cr_expect(WITHIN(seconds_of(&asked), 5, 7), "%d s", (int)seconds_of(&asked));
    look_up(&asked, "db.example");
    cr_expect(asked.was_cached);
}

Test(dnsmasq, one_family_may_have_no_address)
{
    look_up(&asked, "v6.example");
    cr_expect_str_eq(asked.text, "2001:db8::6");
    ask_name(&asked, "v6.example", 4);
    await_answer(&asked);
    expect_reason(PL_REASON_NO_ADDRESS);
}

Test(dnsmasq, aliases_are_followed_and_the_shortest_time_to_live_counts)
{
    look_up(&asked, "www.example");
    expect_both();
    cr_expect(WITHIN(seconds_of(&asked), 1, 3), "%d s", (int)seconds_of(&asked));
}

Test(dnsmasq, a_name_that_is_not_there_is_told_so)
{
    look_up(&asked, "nobody.example");
    expect_reason(PL_REASON_NO_HOST);
    look_up(&asked, "nobody.example");
    cr_expect(asked.was_cached, "for a little while");
}

Test(dnsmasq, what_fits_into_no_datagram_comes_by_a_stream)
{
    look_up(&asked, "many.example");
    cr_expect_eq(asked.count, 60);
}

Test(dnsmasq, a_server_that_is_down_is_told_so_and_nothing_is_remembered_of_it)
{
    server_down(server);
    look_up(&asked, "db.example");
    cr_expect_eq(asked.failure.status, POOL_E_RESOLVE);
    /* Not every network says that nobody listens there. */
    if (asked.failure.reason != PL_REASON_DNS_SILENT)
        expect_reason(PL_REASON_DNS_UNREACHED);
    cr_assert(server_up(server));
    look_up(&asked, "db.example");
    expect_both();
}
