/* test_query_room.c: what queries share and carries nothing makes room as what is idle does,
 * however long it would be kept. */
#include <criterion/criterion.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "pool/room.h"
#include "support/peer.h"
#include "support/queries.h"
#include "support/tests.h"

/* It keeps what carries nothing for ever. */
#define KEEPING .codec = pool_codec_line(), .park_ms = POOL_NONE

TestSuite(query_room, .timeout = 60);

static struct {
    atomic_uint count;
    char address[64];           /* of the last one */
} evicted;

static void note_evicted(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind != POOL_EVENT_CONNECTION_CLOSED || event->reason != POOL_CLOSE_EVICTED)
        return;
    snprintf(evicted.address, sizeof(evicted.address), "%s", event->address);
    atomic_fetch_add(&evicted.count, 1);
}

static bool has_evicted(void *count)
{
    return evicted.count >= *(unsigned *)count;
}

static void expect_evicted(unsigned count, const char *address)
{
    cr_assert(wait_until(has_evicted, &count, VERBS_SOON));
    cr_expect_eq(evicted.count, count);
    cr_expect_str_eq(evicted.address, address);
}

static void answer_nothing(struct pool_responder *responder, struct pool_bytes body, void *user)
{
    (void)body;
    (void)user;
    pool_respond(responder, text_bytes("nothing"));
}

/* The order of use is read off the coarse clock. */
static void let_clock_step(void)
{
    uint64_t now_ns = pl_os->coarse_ns();

    while (pl_os->coarse_ns() == now_ns)
        sched_yield();
}

static void ask(struct pool *pool, const char *place)
{
    struct query query = { 0 };

    ask_and_wait(&query, pool, place, "ask", POOL_CALL(.timeout_ms = 3000));
    cr_expect(is_answered_with(&query, "ask"));
    let_clock_step();
}

/* ---- the cap */

static void make_room_below_cap(pool_request_fn *on_request)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool = MAKE_POOL(KEEPING, .max_connections = 2, .on_request = on_request,
                                  .on_event = note_evicted);
    struct pool_conn conn;

    evicted.count = 0;
    ask(pool, loopback_at(peer, 0));
    ask(pool, loopback_at(peer, 1));
    ask(pool, loopback_at(peer, 0));
    cr_expect_eq(STAT(pool, idle), 0);
    ask(pool, loopback_at(peer, 2));
    expect_evicted(1, loopback_at(peer, 1));
    cr_expect_eq(pool_borrow(pool, loopback_at(peer, 3), POOL_CALL(.timeout_ms = 3000), &conn),
                 POOL_OK);
    expect_evicted(2, loopback_at(peer, 0));
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    cr_expect_eq(pool_remove_some_connection(pool), 0);
    expect_evicted(4, loopback_at(peer, 2));
    cr_expect_eq(pl_room_wanted, 0);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(query_room, below_a_cap_the_one_that_carried_nothing_for_the_longest_time_goes)
{
    make_room_below_cap(NULL);
}

Test(query_room, so_it_does_where_both_ends_may_ask)
{
    make_room_below_cap(answer_nothing);
}

/* ---- descriptors */

Test(query_room, without_descriptors_that_of_any_pool_on_the_mux_goes)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct query query = { 0 };
    struct pool_mux *mux;
    struct pool *pools[2];

    evicted.count = 0;
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    for (int i = 0; i < 2; i++)
        pools[i] = MAKE_POOL(KEEPING, .mux = mux, .on_event = note_evicted);
    for (unsigned i = 0; i < 4; i++) {
        query = (struct query){ 0 };
        cr_assert_eq(start_query(&query, pools[i % 2], loopback_at(peer, i), "ask", NULL), POOL_OK);
        cr_assert(dispatch_until_answered(mux, &query));
        let_clock_step();
    }
    set_descriptor_limit(64);
    fill_descriptors_but(0);
    query = (struct query){ 0 };
    cr_assert_eq(start_query(&query, pools[1], loopback_at(peer, 9), "next",
                             POOL_CALL(.timeout_ms = 3000)), POOL_OK);
    cr_assert(dispatch_until_answered(mux, &query));
    cr_expect(is_answered_with(&query, "next"));
    expect_evicted(1, loopback_at(peer, 0));
    free_descriptors(PEER_ALL);
    cr_expect_eq(pl_room_wanted, 0);
    pool_destroy(pools[0]);
    pool_destroy(pools[1]);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

/* ---- what stays */

struct two {
    struct query_peer *peer;
    char address[64];           /* another one of the same peer */
};

static void start_two(struct two *two)
{
    two->peer = QUERY_PEER();
    snprintf(two->address, sizeof(two->address), "%s?tenant=two", query_peer_address(two->peer));
}

Test(query_room, one_that_carries_a_query_stays)
{
    struct query never = { 0 }, next = { 0 };
    struct pool *pool = MAKE_POOL(.codec = pool_codec_length(), .max_connections = 1);
    struct two two;

    start_two(&two);
    cr_assert_eq(start_query(&never, pool, query_peer_address(two.peer), "Never", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(two.peer, 1));
    ask_and_wait(&next, pool, two.address, "next", POOL_CALL(.timeout_ms = 100));
    cr_expect(has_failed_with(&next, POOL_E_RESOURCE));
    cr_expect_eq(never.told, 0);
    pool_destroy(pool);
    query_peer_stop(two.peer);
}

/* It carried something when it was looked for, and nobody looks again. */
Test(query_room, who_waits_for_room_is_served_when_the_last_reply_has_come)
{
    struct query slow = { 0 }, next = { 0 };
    struct pool *pool = MAKE_POOL(.codec = pool_codec_length(), .park_ms = POOL_NONE,
                                  .max_connections = 1);
    struct two two;

    start_two(&two);
    cr_assert_eq(start_query(&slow, pool, query_peer_address(two.peer), "D60", NULL), POOL_OK);
    cr_assert(query_peer_wait_requests(two.peer, 1));
    ask_and_wait(&next, pool, two.address, "next", POOL_CALL(.timeout_ms = 3000));
    cr_expect(is_answered_with(&next, "next"));
    cr_expect_eq(slow.told, 1);
    pool_destroy(pool);
    query_peer_stop(two.peer);
}

Test(query_room, the_clients_of_a_server_are_not_dropped_for_room)
{
    struct query next = { 0 };
    struct pool *pool = MAKE_POOL(KEEPING, .max_connections = 1, .on_request = answer_nothing);
    struct two two;
    int ends[2];

    start_two(&two);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    cr_assert_eq(pool_adopt(pool, "unix:///client", ends[0]), POOL_OK);
    ask_and_wait(&next, pool, two.address, "next", POOL_CALL(.timeout_ms = 100));
    cr_expect(has_failed_with(&next, POOL_E_RESOURCE));
    cr_expect_eq(STAT(pool, total), 1);
    cr_expect_eq(STAT(pool, evicted), 0);
    close(ends[1]);
    pool_destroy(pool);
    query_peer_stop(two.peer);
}
