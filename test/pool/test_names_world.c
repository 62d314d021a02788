/* test_names_world.c: addresses with host names, by the clock of the scripted world: how long a
 * dial may take, what is remembered of places, who asks, and when connections move. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "commpool/pool.h"
#include "support/tests.h"
#include "support/verbs.h"
#include "world/world.h"
#include "world/world_resolve.h"

#define NAMED "tcp://db.example:80"
#define S 1000

static struct world *world;
static struct world_names *names;
static struct world_peer *peers[9]; /* 10.0.0.1 and on */
static struct pool *pool;
static struct pl_os os;
static struct pool_error error;
static char tried[128]; /* the last bytes of the places connected to, in order; "six" for IPv6 */

/* ---- the door */

static int note_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    size_t length = strlen(tried);
    const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)address;
    char number[8] = "six";

    if (address->sa_family == AF_INET)
        snprintf(number, sizeof(number), "%u", ntohl(ipv4->sin_addr.s_addr) & 0xff);
    snprintf(tried + length, sizeof(tried) - length, "%s%s", length ? " " : "", number);
    return world_os(world)->connect(fd, address, size);
}

static void begin(void)
{
    world = world_create(3);
    names = world_names_open(world);
    os = *world_os(world);
    os.connect = note_connect;
    pl_os_replace(&os);
    for (unsigned i = 1; i < PL_COUNT(peers); i++) {
        char address[64];

        snprintf(address, sizeof(address), "tcp://10.0.0.%u:80", i);
        peers[i] = WORLD_LISTEN(world, address, .behave = WORLD_ECHO, .latency_us = 20 * S);
    }
    WORLD_LISTEN(world, "tcp://[2001:db8::1]:80", .behave = WORLD_BLACK_HOLE);
    tried[0] = '\0';
}

static void end(void)
{
    pool_destroy(pool);
    cr_expect_eq(world_allocations(world), 0);
    cr_expect_eq(world_descriptors(world), 0);
    cr_expect_eq(world_violations(world), 0);
    pl_os_replace(NULL);
    world_destroy(world);
    world_names_close(names);
}

/* Nothing can be connected over IPv6, for lack of ports or of an address of ours. The world has no
 * datagrams: a stream that is not to be connected stands for one. */
static int datagram_fd;
static bool has_own_address;

static int make_socket(int family, int type, int protocol)
{
    bool is_stream = (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) == SOCK_STREAM;
    int fd = world_os(world)->socket(family, SOCK_STREAM | SOCK_NONBLOCK, protocol);

    datagram_fd = is_stream ? datagram_fd : fd;
    return fd;
}

static int refuse_ipv6(int fd, const struct sockaddr *address, socklen_t size)
{
    if (address->sa_family != AF_INET6)
        return note_connect(fd, address, size);
    return fd == datagram_fd && has_own_address ? 0 : -EADDRNOTAVAIL;
}

TestSuite(names_world, .init = begin, .fini = end);

#define MAKE(...)                                                                                  \
    cr_assert_eq(pool_create(POOL_OPTIONS(.max_per_address = 16, __VA_ARGS__), &pool), POOL_OK)

/* One borrow, how long it took, and where it led. */
static struct {
    enum pool_status status;
    uint64_t took_ms;
    char remote[64];
} last;

static void call(uint32_t timeout_ms, bool keeps)
{
    uint64_t begun_ms = world_now_ms(world);
    struct pool_conn conn;

    tried[0] = last.remote[0] = '\0';
    error = (struct pool_error)POOL_ERROR_INIT;
    last.status =
        pool_borrow(pool, NAMED, POOL_CALL(.timeout_ms = timeout_ms, .error = &error), &conn);
    last.took_ms = world_now_ms(world) - begun_ms;
    if (last.status)
        return;
    cr_assert_eq(pool_conn_remote(&conn, last.remote, sizeof(last.remote)), POOL_OK);
    cr_assert_eq(keeps ? pool_return(&conn) : pool_discard(&conn), POOL_OK);
}

#define CALL() call(10 * S, false)

/* ---- how long a dial may take */

Test(names_world, a_family_that_is_a_black_hole_costs_three_hundred_ms_and_the_round_trip_at_most)
{
    static const struct {
        struct world_name is;
        uint64_t low_ms;
    } rows[] = {
        { { .addresses = { "2001:db8::1", "10.0.0.1" } }, 250 },
        { { .addresses = { "2001:db8::1", "10.0.0.1" }, .delay6_ms = 49 }, 299 },
        { { .addresses = { "2001:db8::1", "10.0.0.1" }, .delay6_ms = 200 }, 50 },
        { { .addresses = { "2001:db8::1", "10.0.0.1" }, .delay4_ms = 100 }, 250 },
        { { .addresses = { "2001:db8::1", "10.0.0.1" }, .only_family = 6, .is_silent = true }, 50 },
    };

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        MAKE();
        world_names_change(names);
        world_name(names, "db.example", &rows[i].is);
        CALL();
        cr_expect_eq(last.status, POOL_OK, "%zu: %s", i, error.text);
        cr_expect_str_eq(last.remote, "10.0.0.1:80");
        cr_expect(WITHIN(last.took_ms, rows[i].low_ms + 40, rows[i].low_ms + 42), "%zu: %d ms", i,
                  (int)last.took_ms);
        cr_expect_leq(last.took_ms, 300 + 40 + 1);
        pool_destroy(pool);
    }
    pool = NULL;
}

Test(names_world, the_other_family_may_be_the_black_hole)
{
    MAKE();
    world_behave(peers[1], WORLD_BLACK_HOLE);
    WORLD_LISTEN(world, "tcp://[2001:db8::2]:80", .behave = WORLD_ECHO, .latency_us = 20 * S);
    WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1", "2001:db8::2" }, .delay6_ms = 120);
    CALL();
    cr_expect_eq(last.status, POOL_OK, "%s", error.text);
    cr_expect_str_eq(last.remote, "[2001:db8::2]:80");
    cr_expect(WITHIN(last.took_ms, 340, 342), "%d ms", (int)last.took_ms);
}

Test(names_world, all_places_are_tried)
{
    MAKE();
    for (unsigned i = 1; i < 8; i++)
        world_behave(peers[i], i % 2 ? WORLD_BLACK_HOLE : WORLD_REFUSE);
    WORLD_NAME(names, "db.example",
               .addresses = { "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5",
                              "10.0.0.6", "10.0.0.7", "10.0.0.8" });
    CALL();
    cr_expect_eq(last.status, POOL_OK, "%s", error.text);
    cr_expect_str_eq(tried, "1 2 3 4 5 6 7 8");
    cr_expect_str_eq(last.remote, "10.0.0.8:80");
    /* Four are silent; three refuse after a round trip. */
    cr_expect(WITHIN(last.took_ms, 4 * 250 + 40, 4 * 250 + 3 * 40 + 42), "%d ms",
              (int)last.took_ms);
}

Test(names_world, when_no_place_answers_all_were_tried_before_the_error)
{
    MAKE();
    for (unsigned i = 1; i < 4; i++)
        world_behave(peers[i], i == 2 ? WORLD_UNREACHABLE : WORLD_REFUSE);
    WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1", "10.0.0.2", "10.0.0.3" });
    CALL();
    cr_expect_eq(last.status, POOL_E_REFUSED, "%s", error.text);
    cr_expect_str_eq(tried, "1 2 3");
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
}

Test(names_world, a_deadline_while_resolving_is_exact)
{
    MAKE();
    WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1" }, .is_silent = true);
    call(137, false);
    cr_expect_eq(last.status, POOL_E_TIMEOUT, "%s", error.text);
    cr_expect_eq(last.took_ms, 137);
    cr_expect_eq(error.phase, POOL_PHASE_RESOLVE);
    cr_expect_eq(error.spent_ms[POOL_PHASE_RESOLVE], 137, "%s", error.text);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    cr_expect_str_eq(tried, "");
}

static void be_ready(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    (void)bytes, (void)user;
    if (event == POOL_EV_TIMEOUT_READ)
        pool_conn_ready(conn, POOL_OK);
}

static int be_ready_later(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor, (void)user;
    cr_assert_eq(pool_conn_watch(conn, be_ready, NULL), POOL_OK);
    cr_assert_eq(pool_conn_timeout(conn, POOL_READ, 70), POOL_OK);
    return POOL_LATER;
}

static int refuse(struct pool_conn *conn, void *user)
{
    (void)conn, (void)user;
    return 1;
}

Test(names_world, each_phase_of_a_dial_that_succeeded_is_told_by_itself)
{
    MAKE(.on_new_connection = be_ready_later);
    WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1" }, .delay_ms = 130);
    error = (struct pool_error)POOL_ERROR_INIT;
    cr_expect_eq(pool_communicate(pool, NAMED, refuse, NULL, POOL_CALL(.error = &error)),
                 POOL_E_USER);
    cr_expect_eq(error.spent_ms[POOL_PHASE_RESOLVE], 130, "%s", error.text);
    cr_expect_eq(error.spent_ms[POOL_PHASE_CONNECT], 40, "%s", error.text);
    cr_expect_eq(error.spent_ms[POOL_PHASE_TLS], 0, "%s", error.text);
    cr_expect_eq(error.spent_ms[POOL_PHASE_SETUP], 70, "%s", error.text);
    cr_expect_eq(error.spent_ms[POOL_PHASE_WAIT], 0, "%s", error.text);
}

Test(names_world, connect_ms_counts_the_lookup)
{
    MAKE(.connect_ms = 200, .suspend_after = POOL_NONE);
    WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1" }, .is_silent = true);
    CALL();
    cr_expect_eq(last.status, POOL_E_TIMEOUT, "%s", error.text);
    cr_expect_eq(last.took_ms, 200);
    cr_expect_eq(error.phase, POOL_PHASE_RESOLVE, "%s", error.text);
}

Test(names_world, a_machine_without_ipv6_evicts_nothing_for_it)
{
    struct pool_conn conn;

    for (int i = 0; i < 2; i++) {
        MAKE();
        cr_assert(borrow(pool, "tcp://10.0.0.8:80", &conn));
        cr_assert_eq(pool_return(&conn), POOL_OK);
        os.socket = make_socket;
        os.connect = refuse_ipv6;
        has_own_address = i;
        datagram_fd = -1;
        WORLD_NAME(names, "db.example", .addresses = { "2001:db8::1", "10.0.0.1" });
        CALL();
        cr_expect_eq(last.status, POOL_OK, "%s", error.text);
        cr_expect_str_eq(last.remote, "10.0.0.1:80");
        cr_expect_eq(STAT(pool, evicted), (uint64_t)i, "for want of ports one is");
        pool_destroy(pool);
        os.socket = world_os(world)->socket;
        os.connect = note_connect;
    }
    pool = NULL;
}

/* ---- where a name may lead */

static unsigned asked_about;
static bool ends_its_pool;

static int not_inside(const char *address, const struct sockaddr *place, socklen_t size,
                      void *user)
{
    const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)place;

    asked_about++;
    cr_expect_eq(user, &asked_about);
    cr_expect_str_eq(address, NAMED);
    cr_assert_eq(place->sa_family, AF_INET);
    cr_expect_eq(size, sizeof(*ipv4));
    cr_expect_eq(ntohs(ipv4->sin_port), 80);
    if (ends_its_pool) {
        pool_destroy(pool);
        pool = NULL;
    }
    return ntohl(ipv4->sin_addr.s_addr) >> 24 == 127 ? 5 : 0;
}

static struct world_peer *listen_inside(void)
{
    asked_about = 0;
    ends_its_pool = false;
    MAKE(.on_resolved = not_inside, .user = &asked_about, .suspend_after = POOL_NONE);
    return WORLD_LISTEN(world, "tcp://127.0.0.1:80", .behave = WORLD_ECHO);
}

Test(names_world, a_name_that_turns_to_a_place_that_is_not_allowed_is_refused)
{
    struct world_peer *inside = listen_inside();

    WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1" }, .ttl = 1);
    CALL();
    cr_expect_eq(last.status, POOL_OK, "%s", error.text);
    WORLD_NAME(names, "db.example", .addresses = { "127.0.0.1" }, .ttl = 1);
    world_run(world, 2 * S);
    CALL();
    cr_expect_eq(last.status, POOL_E_USER, "%s", error.text);
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
    cr_expect_eq(error.cause, 5);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    cr_expect(strstr(error.text, NAMED ": on_resolved answered 5, "), "%s", error.text);
    cr_expect_str_eq(tried, "");
    cr_expect_eq(asked_about, 2);
    cr_expect_eq(world_counts(inside).accepted, 0);
}

Test(names_world, a_place_that_is_not_allowed_is_passed)
{
    struct world_peer *inside = listen_inside();

    WORLD_NAME(names, "db.example", .addresses = { "127.0.0.1", "127.0.0.2", "10.0.0.1" });
    CALL();
    cr_expect_eq(last.status, POOL_OK, "%s", error.text);
    cr_expect_str_eq(tried, "1");
    cr_expect_eq(last.took_ms, 40, "%d ms", (int)last.took_ms);
    cr_expect_eq(asked_about, 3);
    cr_expect_eq(world_counts(inside).accepted, 0);
}

Test(names_world, nobody_is_asked_about_a_literal_address)
{
    struct world_peer *inside = listen_inside();

    cr_expect_eq(talk(pool, "tcp://127.0.0.1:80"), POOL_OK);
    cr_expect_eq(asked_about, 0);
    cr_expect_eq(world_counts(inside).accepted, 1);
}

Test(names_world, a_function_that_ended_its_pool_is_not_asked_about_the_next_place)
{
    listen_inside();
    ends_its_pool = true;
    WORLD_NAME(names, "db.example", .addresses = { "127.0.0.1", "127.0.0.2" });
    CALL();
    cr_expect_eq(last.status, POOL_E_CLOSING, "%s", error.text);
    cr_expect_eq(asked_about, 1);
}

/* ---- what is remembered of places */

Test(names_world, what_failed_is_tried_last_the_next_time_and_first_again_later)
{
    MAKE();
    world_behave(peers[1], WORLD_BLACK_HOLE);
    world_behave(peers[2], WORLD_REFUSE);
    WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1", "10.0.0.2", "10.0.0.3" },
               .ttl = 3600);
    CALL();
    cr_expect_str_eq(tried, "1 2 3");
    world_run(world, 29 * S);
    CALL();
    cr_expect_str_eq(tried, "3", "no connection stood in between");
    cr_expect(WITHIN(last.took_ms, 40, 42), "%d ms", (int)last.took_ms);
    world_run(world, 31 * S);
    world_behave(peers[1], WORLD_ECHO);
    CALL();
    cr_expect_str_eq(tried, "1");
}

Test(names_world, what_failed_is_tried_when_nothing_else_is_left)
{
    MAKE();
    world_behave(peers[1], WORLD_REFUSE);
    WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1", "10.0.0.2" }, .ttl = 3600);
    CALL();
    cr_expect_str_eq(tried, "1 2");
    world_behave(peers[1], WORLD_ECHO);
    world_behave(peers[2], WORLD_REFUSE);
    CALL();
    cr_expect_eq(last.status, POOL_OK);
    cr_expect_str_eq(tried, "2 1");
}

/* ---- who asks */

struct loop {
    struct pool_mux *mux;
    pthread_t thread;
    bool is_over;
};

static bool dispatch(void *argument)
{
    struct loop *loop = argument;

    pool_mux_dispatch(loop->mux, POOL_NONE);
    return !loop->is_over;
}

static void on_lent(struct pool_conn *conn, const struct pool_error *told, void *user)
{
    cr_expect_null(told, "%s", told ? told->text : "");
    if (conn)
        pool_return(conn);
    ++*(unsigned *)user;
}

Test(names_world, two_pools_on_one_mux_ask_for_a_name_once)
{
    struct loop loop = { 0 };
    struct pool *pools[2];
    unsigned told = 0;

    WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1" }, .delay_ms = 30);
    cr_assert_eq(pool_mux_create(&loop.mux), POOL_OK);
    cr_assert_eq(os.thread_start(&loop.thread, dispatch, &loop), 0);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(pool_create(POOL_OPTIONS(.mux = loop.mux), &pools[i]), POOL_OK);
        cr_assert_eq(pool_communicate_async(pools[i], NAMED, on_lent, &told, NULL, NULL), POOL_OK);
    }
    world_run(world, 200);
    cr_expect_eq(told, 2);
    cr_expect_eq(world_counts(peers[1]).accepted, 2);
    cr_expect_eq(world_name_asked(names, "db.example", 4), 1);
    cr_expect_eq(world_name_asked(names, "db.example", 6), 1);
    pool_destroy(pools[0]);
    pool_destroy(pools[1]);
    loop.is_over = true;
    pool_mux_stop(loop.mux);
    os.thread_join(loop.thread);
    pool_mux_destroy(loop.mux);
}

/* ---- when connections move */

static void stand_for(const char *first, const char *second)
{
    WORLD_NAME(names, "db.example", .addresses = { first, second }, .ttl = 10);
}

/* So many idle connections, all to 10.0.0.1. */
static void connect_many(struct pool_conn *conns, size_t count)
{
    for (size_t i = 0; i < count; i++)
        cr_assert(borrow(pool, NAMED, &conns[i]));
    for (size_t i = 0; i < count; i++)
        cr_assert_eq(pool_return(&conns[i]), POOL_OK);
    world_run(world, 100);
    cr_assert_eq(world_counts(peers[1]).open, count);
}

static void run_until(uint64_t ms)
{
    cr_assert_leq(world_now_ms(world), ms);
    world_run(world, ms - world_now_ms(world));
}

static unsigned open_at_first(void)
{
    return world_counts(peers[1]).open;
}

Test(names_world, connections_of_a_place_that_left_end_within_ten_seconds_after_two_absences)
{
    struct pool_conn conns[12], lent;
    unsigned before = 12, moments = 0;

    MAKE(.idle_ms = POOL_NONE);
    stand_for("10.0.0.1", NULL);
    connect_many(conns, 12);
    cr_assert(borrow(pool, NAMED, &lent));
    stand_for("10.0.0.2", NULL);
    run_until(19900);                   /* answered at 0, read at 10 and 20 seconds */
    cr_expect_eq(open_at_first(), 12);
    for (unsigned tenth = 0; tenth < 110; tenth++) {
        world_run(world, 100);
        moments += open_at_first() < before;
        before = open_at_first();
    }
    cr_expect_eq(open_at_first(), 1, "the one that is lent");
    cr_expect_geq(moments, 6, "only %u moments", moments);
    cr_assert_eq(pool_return(&lent), POOL_OK);
    world_run(world, 100);
    cr_expect_eq(open_at_first(), 0);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_AGE]), 12);
    CALL();
    cr_expect_str_eq(last.remote, "10.0.0.2:80");
}

/* Another two of four each time. */
Test(names_world, weighted_answers_end_nothing_until_two_in_a_row_lack_the_place)
{
    struct pool_conn conns[4];

    MAKE(.idle_ms = POOL_NONE);
    stand_for("10.0.0.1", NULL);
    connect_many(conns, 4);
    for (unsigned i = 0; i < 20; i++) {
        stand_for(i % 2 ? "10.0.0.1" : "10.0.0.4", i % 4 < 2 ? "10.0.0.2" : "10.0.0.3");
        world_run(world, 10 * S);
    }
    cr_expect_eq(open_at_first(), 4);
    cr_expect_geq(world_name_asked(names, "db.example", 4), 18, "it was read each time");
    stand_for("10.0.0.3", "10.0.0.4");
    world_run(world, 32 * S);
    cr_expect_eq(open_at_first(), 0);
}

Test(names_world, readings_that_fail_end_nothing)
{
    static const enum pl_reason reasons[] = { PL_REASON_NO_HOST, PL_REASON_NO_ADDRESS,
                                              PL_REASON_DNS_FAILED, PL_REASON_DNS_SILENT };
    struct pool_conn conns[3];
    unsigned asked;

    MAKE(.idle_ms = POOL_NONE);
    stand_for("10.0.0.1", NULL);
    connect_many(conns, 3);
    for (size_t i = 0; i < PL_COUNT(reasons); i++) {
        WORLD_NAME(names, "db.example", .failure = { .status = POOL_E_RESOLVE,
                                                     .phase = POOL_PHASE_RESOLVE,
                                                     .reason = (uint8_t)reasons[i] });
        world_run(world, 300 * S);
    }
    cr_expect_eq(open_at_first(), 3);
    cr_expect(WITHIN(world_name_asked(names, "db.example", 4), 30, 42), "each thirty seconds: %u",
              world_name_asked(names, "db.example", 4));
    stand_for("10.0.0.2", NULL);        /* and what comes after failures counts as ever */
    asked = world_name_asked(names, "db.example", 4);
    while (world_name_asked(names, "db.example", 4) == asked)
        world_run(world, 100);
    world_run(world, 9 * S);
    cr_expect_eq(open_at_first(), 3, "one absence");
    world_run(world, 12 * S);
    cr_expect_eq(open_at_first(), 0);
}

/* The family that fails may be that of the connection. */
Test(names_world, a_family_that_was_not_answered_is_not_absent)
{
    struct pool_conn conns[2];

    MAKE(.idle_ms = POOL_NONE);
    WORLD_LISTEN(world, "tcp://[2001:db8::2]:80", .behave = WORLD_ECHO);
    stand_for("10.0.0.1", NULL);
    connect_many(conns, 2);
    WORLD_NAME(names, "db.example", .addresses = { "2001:db8::2" }, .ttl = 10, .only_family = 4,
               .failure = { .status = POOL_E_RESOLVE, .phase = POOL_PHASE_RESOLVE,
                            .reason = PL_REASON_DNS_FAILED });
    world_run(world, 120 * S);
    cr_expect_eq(open_at_first(), 2);
    WORLD_NAME(names, "db.example", .addresses = { "2001:db8::2" }, .ttl = 10);
    world_run(world, 60 * S);
    cr_expect_eq(open_at_first(), 0, "there is none in that family now");
}

Test(names_world, max_age_ms_bounds_what_no_reading_ends)
{
    struct pool_conn conns[3];

    MAKE(.idle_ms = POOL_NONE, .max_age_ms = 60 * S);
    stand_for("10.0.0.1", NULL);
    connect_many(conns, 3);
    WORLD_NAME(names, "db.example", .is_silent = true);
    world_run(world, 53 * S);
    cr_expect_eq(open_at_first(), 3);
    stand_for("10.0.0.2", NULL);
    world_names_change(names);
    world_run(world, 14 * S);
    CALL();
    cr_expect_str_eq(last.remote, "10.0.0.2:80");
}

Test(names_world, a_name_that_nobody_is_connected_to_is_not_read)
{
    unsigned asked;

    MAKE(.idle_ms = 20 * S);
    stand_for("10.0.0.1", NULL);
    call(10 * S, true);
    world_run(world, 60 * S);
    cr_assert_eq(open_at_first(), 0);
    asked = world_name_asked(names, "db.example", 4);
    cr_expect(WITHIN(asked, 2, 4), "%u", asked);
    world_run(world, 600 * S);
    cr_expect_eq(world_name_asked(names, "db.example", 4), asked);
}
