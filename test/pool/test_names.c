/* test_names.c: addresses with host names, from the pool's side: where a name leads, what is told
 * when it leads nowhere, and what becomes of connections when it leads elsewhere. The names are a
 * DNS server's of the test's own, or /etc/hosts'. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/os.h"
#include "net/resolver.h"
#include "support/child.h"
#include "support/dns.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct dns *dns;
static struct pl_os os;

static void begin(void)
{
    dns = dns_start();
    cr_assert_not_null(dns);
    pl_resolver_use_servers(dns_server(dns));
    os = pl_os_real;
    pl_os_replace(&os);
}

static void end(void)
{
    pl_os_replace(NULL);
    pl_resolver_use_servers(NULL);
    dns_stop(dns);
}

TestSuite(pool_names, .init = begin, .fini = end, .timeout = 60);

/* "tcp://NAME:PORT" of a peer, and what follows. */
static const char *named(const char *name, const struct peer *peer, const char *rest)
{
    static char text[8][128];
    static unsigned turn;
    char *made = text[turn++ % 8];

    snprintf(made, sizeof(text[0]), "tcp://%s:%d%s", name, peer_port(peer), rest);
    return made;
}

static enum pool_status try(struct pool *pool, const char *address, struct pool_error *error)
{
    struct pool_conn conn;
    enum pool_status status =
        pool_borrow(pool, address, POOL_CALL(.timeout_ms = 2000, .error = error), &conn);

    if (!status)
        pool_return(&conn);
    return status;
}

/* ---- where a name leads */

Test(pool_names, a_name_is_as_good_as_a_number)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();

    DNS_SAY(dns, "db.example", .addresses = { "127.0.0.1" }, .ttl = 60);
    cr_expect_eq(talk(pool, named("db.example", peer, "")), POOL_OK);
    cr_expect_eq(talk(pool, named("DB.Example", peer, "")), POOL_OK);
    cr_expect_eq(peer_accepted(peer, 1), 1, "the same name is the same peer");
    cr_expect_eq(dns_count(dns, "db.example", 4), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_names, localhost_needs_no_server)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();

    cr_expect_eq(talk(pool, named("localhost", peer, "")), POOL_OK);
    cr_expect_eq(dns_count(dns, "localhost", 0), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_names, a_dead_place_of_a_name_is_passed)
{
    struct peer *peer = PEER(), *gone = PEER();
    struct pool *pool = MAKE_POOL();
    uint64_t begin_ms = now_ms();

    /* The peer listens on 127.0.0.1 alone: at the other places nobody does. */
    DNS_SAY(dns, "db.example", .addresses = { "127.0.0.9", "127.0.0.8", "127.0.0.1" }, .ttl = 60);
    cr_expect_eq(talk(pool, named("db.example", peer, "")), POOL_OK);
    cr_expect(WITHIN(now_ms() - begin_ms, 0, 250));
    pool_destroy(pool);
    peer_stop(gone);
    peer_stop(peer);
}

Test(pool_names, the_family_of_the_address_chooses_among_its_places)
{
    struct peer *peer = PEER(.family = AF_INET6);
    struct pool *pool = MAKE_POOL();
    struct pool_error error = POOL_ERROR_INIT;

    DNS_SAY(dns, "db.example", .addresses = { "127.0.0.1", "::1" }, .ttl = 60);
    cr_expect_eq(talk(pool, named("db.example", peer, "?family=6")), POOL_OK);
    cr_expect_eq(try(pool, named("db.example", peer, "?family=4"), &error), POOL_E_REFUSED, "%s",
                 error.text);
    cr_expect_eq(peer_accepted(peer, 1), 1, "the family is part of the key");
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_names, many_callers_ask_for_a_name_once)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_connecting = 8);
    struct pool_conn conns[8];

    DNS_SAY(dns, "db.example", .addresses = { "127.0.0.1" }, .ttl = 60);
    for (size_t i = 0; i < PL_COUNT(conns); i++)
        cr_assert(borrow(pool, named("db.example", peer, ""), &conns[i]));
    for (size_t i = 0; i < PL_COUNT(conns); i++)
        pool_return(&conns[i]);
    cr_expect_eq(dns_count(dns, "db.example", 4), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- when it leads nowhere */

Test(pool_names, a_name_that_is_not_there_is_told_with_its_reason)
{
    static const struct {
        const char *name;
        struct dns_rule rule;
        const char *text;
    } rows[] = {
        { "no.example", { .trick = DNS_NXDOMAIN }, "no such host" },
        { "empty.example", { .trick = DNS_EMPTY }, "the host has no address" },
        { "broken.example", { .trick = DNS_SERVFAIL }, "DNS server" },
    };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        struct pool_error error = POOL_ERROR_INIT;
        const char *address = named(rows[i].name, peer, "");

        dns_say(dns, rows[i].name, &rows[i].rule);
        cr_expect_eq(try(pool, address, &error), POOL_E_RESOLVE, "%s: %s", rows[i].name,
                     error.text);
        cr_expect_eq(error.phase, POOL_PHASE_RESOLVE, "%s", error.text);
        cr_expect_eq(error.outcome, POOL_NOT_SENT);
        cr_expect(strstr(error.text, rows[i].text), "%s", error.text);
        cr_expect(strstr(error.text, rows[i].name), "%s", error.text);
    }
    cr_expect_eq(peer_count(peer, PEER_ACCEPTED), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_names, a_silent_server_costs_no_more_than_the_deadline)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    uint64_t begin_ms = now_ms();

    DNS_SAY(dns, "silent.example", .trick = DNS_SILENT);
    cr_expect_eq(pool_borrow(pool, named("silent.example", peer, ""),
                             POOL_CALL(.timeout_ms = 300, .error = &error), &conn),
                 POOL_E_TIMEOUT);
    cr_expect(WITHIN(now_ms() - begin_ms, 300, 320));
    cr_expect_eq(error.phase, POOL_PHASE_RESOLVE, "%s", error.text);
    pool_destroy(pool);
    cr_expect(WITHIN(now_ms() - begin_ms, 300, 400), "the end waits for no answer");
    peer_stop(peer);
}

/* No socket of the resolver's is to be had while that peer has a connection. */
static struct peer *greedy;

static int refuse_datagrams(int family, int type, int protocol)
{
    if ((type & SOCK_DGRAM) == SOCK_DGRAM && peer_count(greedy, PEER_OPEN))
        return -EMFILE;
    return pl_os_real.socket(family, type, protocol);
}

Test(pool_names, a_resolver_without_descriptors_gets_one_by_eviction)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_error error = POOL_ERROR_INIT;

    greedy = PEER();
    os.socket = refuse_datagrams;
    cr_assert_eq(talk(pool, peer_address(greedy)), POOL_OK);
    cr_assert(peer_wait_open(greedy, 1, 2000));
    DNS_SAY(dns, "db.example", .addresses = { "127.0.0.1" }, .ttl = 60);
    cr_expect_eq(try(pool, named("db.example", peer, ""), &error), POOL_OK, "%s", error.text);
    cr_expect_eq(STAT(pool, evicted), 1);
    pool_destroy(pool);
    peer_stop(greedy);
    peer_stop(peer);
}

/* ---- a fork in the middle of a lookup */

struct forked {
    struct pool *pool;
    struct peer *peer;
};

static int resolve_in_child(void *argument)
{
    struct forked *parent = argument;
    struct pool *own;

    child_watch_door();
    CHILD_NEEDS(talk(parent->pool, named("slow.example", parent->peer, "")) == POOL_E_FORKED);
    pool_destroy(parent->pool);
    own = make_pool(NULL);
    CHILD_NEEDS(own);
    CHILD_NEEDS(talk(own, named("db.example", parent->peer, "")) == POOL_OK);
    pool_destroy(own);
    CHILD_NEEDS(child_door_calls() == 0);
    return 0;
}

Test(pool_names, a_fork_in_the_middle_of_a_lookup_disturbs_neither_side)
{
    struct peer *peer = PEER(.own_process = true);
    struct forked parent = { .pool = MAKE_POOL(), .peer = peer };
    struct caller caller;

    DNS_SAY(dns, "slow.example", .addresses = { "127.0.0.1" }, .ttl = 60, .delay_ms = 1000);
    DNS_SAY(dns, "db.example", .addresses = { "127.0.0.1" }, .ttl = 60);
    cr_assert(start_caller(&caller, parent.pool, named("slow.example", peer, ""), VERBS_SOON));
    cr_assert(dns_wait_count(dns, "slow.example", 4, 1, VERBS_SOON));
    cr_assert(dns_wait_count(dns, "slow.example", 6, 1, VERBS_SOON));
    cr_expect_eq(child_run(resolve_in_child, &parent), 0);
    cr_expect_eq(join_caller(&caller), POOL_OK, "%s", caller.error.text);
    pool_return(&caller.conn);
    cr_expect_eq(dns_count(dns, "slow.example", 0), 2, "the child asked for nothing of it");
    cr_expect_eq(dns_count(dns, "db.example", 4), 1, "and once for its own");
    cr_expect_eq(talk(parent.pool, named("slow.example", peer, "")), POOL_OK);
    pool_destroy(parent.pool);
    peer_stop(peer);
}

/* ---- when it leads elsewhere */

Test(pool_names, connections_of_a_place_that_left_its_name_end_one_after_the_other)
{
    struct peer *peer = PEER(.every_loopback = true);
    struct pool *pool = MAKE_POOL(.park_ms = 1);
    const char *address = named("db.example", peer, "");
    struct pool_conn conns[3], last;
    char remote[64];

    DNS_SAY(dns, "db.example", .addresses = { "127.0.0.1" }, .ttl = 1);
    for (size_t i = 0; i < PL_COUNT(conns); i++)
        cr_assert(borrow(pool, address, &conns[i]));
    cr_assert(peer_wait_open(peer, 3, VERBS_SOON));
    DNS_SAY(dns, "db.example", .addresses = { "127.0.0.2" }, .ttl = 1);
    pool_return(&conns[0]);
    pool_return(&conns[1]);
    /* Two readings, five seconds apart, and up to ten more until the last of them has ended. */
    cr_expect(peer_wait_open(peer, 1, 25000));
    cr_expect(dns_count(dns, "db.example", 4) >= 3);
    cr_expect(WAIT_STAT(pool, total, 1), "what is lent goes on");
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_AGE]), 2);
    pool_return(&conns[2]);
    cr_expect(peer_wait_open(peer, 0, 11000), "at its own moment, or when it came back after that");
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_assert(borrow(pool, address, &last));
    cr_assert_eq(pool_conn_remote(&last, remote, sizeof(remote)), POOL_OK);
    cr_expect(strstr(remote, "127.0.0.2"), "%s", remote);
    pool_return(&last);
    pool_destroy(pool);
    peer_stop(peer);
}
