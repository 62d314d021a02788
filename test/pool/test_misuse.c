/* test_misuse.c: the caller's mistakes are errors in every build: NULLs, impossible settings, stale
 * handles, copies that outlive their loan. */
#include <criterion/criterion.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "commpool/query.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* ---- settings of a pool */

static enum pool_status make(const struct pool_options *options)
{
    struct pool *pool = NULL;
    enum pool_status status = pool_create(options, &pool);

    cr_expect_eq(status == POOL_OK, pool != NULL);
    pool_destroy(pool);
    return status;
}

Test(pool_misuse, impossible_settings_make_no_pool)
{
    int before = count_descriptors();

    cr_expect_eq(make(POOL_OPTIONS(.max_connections = POOL_ZERO)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.max_per_address = POOL_ZERO)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.max_connecting = POOL_ZERO)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.max_uses = POOL_ZERO)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.max_line = POOL_ZERO)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.max_inflight = POOL_ZERO)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.max_message = POOL_ZERO)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.write_high = POOL_ZERO)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.write_high = 1000, .write_low = 1001)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.check = (enum pool_check)3)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.check = (enum pool_check) - 1)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.order = (enum pool_order)2)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.order = (enum pool_order) - 1)), POOL_E_ARGUMENT);
    cr_expect_eq(count_descriptors(), before);
}

static void on_request(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    (void)responder;
    (void)request;
    (void)user;
}

static void on_orphan(uint64_t connection, uint64_t key, struct pool_bytes message, void *user)
{
    (void)connection;
    (void)key;
    (void)message;
    (void)user;
}

Test(pool_misuse, a_codec_that_lacks_something_makes_no_pool)
{
    struct pool_codec codec = *pool_codec_line();
    const struct pool_options *options = POOL_OPTIONS(.codec = &codec);

    codec.next = NULL;
    cr_expect_eq(make(options), POOL_E_ARGUMENT);
    codec = *pool_codec_line();
    codec.encode = NULL;
    cr_expect_eq(make(options), POOL_E_ARGUMENT);
    codec = *pool_codec_length();
    codec.key_limit = 0;
    cr_expect_eq(make(options), POOL_E_ARGUMENT);
    codec = *pool_codec_line();
    codec.size--;
    cr_expect_eq(make(options), POOL_E_ARGUMENT);
}

Test(pool_misuse, hooks_for_messages_make_no_pool_without_a_codec)
{
    cr_expect_eq(make(POOL_OPTIONS(.on_request = on_request)), POOL_E_ARGUMENT);
    cr_expect_eq(make(POOL_OPTIONS(.on_orphan = on_orphan)), POOL_E_ARGUMENT);
}

Test(pool_misuse, a_wrong_size_makes_no_pool)
{
    static const size_t wrong[] = { 0, 1, 7, 8, 15, 5000, SIZE_MAX };
    struct {
        struct pool_options options;
        char more[64];
    } later = { .options.size = sizeof(later) };
    struct pool_options options = { 0 };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        options.size = wrong[i];
        cr_expect_eq(make(&options), POOL_E_ARGUMENT, "size %zu", wrong[i]);
    }
    cr_expect_eq(make(&later.options), POOL_OK, "a later program that asks for nothing new");
    later.more[63] = 1;
    cr_expect_eq(make(&later.options), POOL_E_ARGUMENT, "a later program's setting is not ignored");
    cr_expect_eq(make(NULL), POOL_OK);
    cr_expect_eq(make(POOL_OPTIONS()), POOL_OK);
    cr_expect_eq(pool_create(NULL, NULL), POOL_E_ARGUMENT);
    pool_options_init(&options);
    cr_expect_eq(make(&options), POOL_OK);
    pool_options_init(NULL);
    pool_call_init(NULL);
}

Test(pool_misuse, no_limit_is_possible_for_every_number)
{
    cr_expect_eq(
        make(POOL_OPTIONS(.idle_ms = POOL_NONE, .max_age_ms = POOL_NONE, .park_ms = POOL_NONE,
                          .timeout_ms = POOL_NONE, .connect_ms = POOL_NONE, .read_ms = POOL_NONE,
                          .write_ms = POOL_NONE, .barge_ms = POOL_NONE, .write_high = POOL_NONE,
                          .write_low = POOL_NONE, .max_line = POOL_NONE)),
        POOL_OK);
    cr_expect_eq(
        make(POOL_OPTIONS(.idle_ms = POOL_ZERO, .park_ms = POOL_ZERO, .barge_ms = POOL_ZERO,
                          .write_low = POOL_ZERO, .max_waiters = POOL_ZERO, .max_idle = POOL_ZERO)),
        POOL_OK);
}

/* ---- settings of a call, cold and warm alike */

static void expect_refused(struct pool *pool, const char *address, const struct pool_call *call,
                           const char *what)
{
    struct pool_conn conn = { .serial = 1 };

    cr_expect_eq(pool_borrow(pool, address, call, &conn), POOL_E_ARGUMENT, "%s", what);
    cr_expect(!conn.slot && !conn.serial, "%s: it got a handle", what);
    if (conn.slot)
        pool_discard(&conn);
    cr_expect_eq(pool_communicate(pool, address, do_nothing, NULL, call), POOL_E_ARGUMENT, "%s",
                 what);
}

static void part(struct pool_bytes bytes, void *user)
{
    (void)bytes;
    (void)user;
}

static void refuse_calls(struct pool *pool, const char *address)
{
    struct pool_call call = { .timeout_ms = 5 };

    expect_refused(pool, address, &call, "size 0, and a field that is set");
    call.size = 3;
    expect_refused(pool, address, &call, "size 3");
    call.size = 8;
    expect_refused(pool, address, &call, "size 8");
    call.size = 5000;
    expect_refused(pool, address, &call, "size 5000");
    expect_refused(pool, address, POOL_CALL(.flags = POOL_ONE_SHOT), "POOL_ONE_SHOT");
    expect_refused(pool, address, POOL_CALL(.flags = POOL_ORDERED), "POOL_ORDERED");
    expect_refused(pool, address, POOL_CALL(.flags = 1u << 20), "an unknown flag");
    expect_refused(pool, address, POOL_CALL(.on_part = part), "on_part");
}

Test(pool_misuse, impossible_calls_are_refused_cold_and_warm)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_call zeros = { 0 };

    refuse_calls(pool, peer_address(peer));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    refuse_calls(pool, peer_address(peer));
    cr_expect_eq(pool_communicate(pool, peer_address(peer), do_nothing, NULL, &zeros), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(STAT(pool, lent), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- NULLs */

Test(pool_misuse, a_null_that_matters_is_told_in_the_error_too)
{
    struct pool_error error = { .status = POOL_E_SYSTEM };
    struct pool_call *call = POOL_CALL(.error = &error);
    struct pool *pool = MAKE_POOL();

    cr_expect_eq(pool_borrow(pool, "tcp://127.0.0.1:1", call, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(error.status, POOL_E_ARGUMENT);
    cr_expect_not_null(strstr(error.text, "tcp://127.0.0.1:1: "), "%s", error.text);
    error = (struct pool_error){ .status = POOL_E_SYSTEM };
    cr_expect_eq(pool_communicate(pool, "tcp://127.0.0.1:1", NULL, NULL, call), POOL_E_ARGUMENT);
    cr_expect_eq(error.status, POOL_E_ARGUMENT);
    cr_expect_not_null(strstr(error.text, "tcp://127.0.0.1:1: "), "%s", error.text);
    pool_destroy(pool);
}

Test(pool_misuse, null_is_an_error_or_nothing)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_stats stats = { .size = sizeof(stats) };
    struct pool_target *target;
    struct pool_bytes bytes;
    struct pool_conn conn;
    struct pool_error error = POOL_ERROR_INIT;
    char byte;
    size_t got;

    cr_expect_eq(pool_borrow(NULL, peer_address(peer), NULL, &conn), POOL_E_ARGUMENT);
    cr_expect_eq(pool_borrow(pool, NULL, NULL, &conn), POOL_E_ARGUMENT);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_communicate(NULL, peer_address(peer), do_nothing, NULL, NULL),
                 POOL_E_ARGUMENT);
    cr_expect_eq(pool_communicate(pool, NULL, do_nothing, NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), NULL, NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_target_get(NULL, peer_address(peer), &target), POOL_E_ARGUMENT);
    cr_expect_eq(pool_target_get(pool, NULL, &target), POOL_E_ARGUMENT);
    cr_expect_eq(pool_target_get(pool, peer_address(peer), NULL), POOL_E_ARGUMENT);
    pool_target_free(NULL);
    cr_expect_eq(pool_return(NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_discard(NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_stats(NULL, &stats), POOL_E_ARGUMENT);
    cr_expect_eq(pool_stats(pool, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_mark_as_dead(NULL, 3), 0);
    cr_expect_eq(pool_remove_some_connection(NULL), 0);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_send(&conn, NULL, 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_sendv(&conn, NULL, 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_sendv(&conn, &(struct iovec){ 0 }, -1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_sendv(&conn, &(struct iovec){ .iov_len = 1 }, 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_recv(&conn, NULL, 1, &got), POOL_E_ARGUMENT);
    cr_expect_eq(pool_recv(&conn, &byte, 1, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_recv_exact(&conn, NULL, 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_recv_until(&conn, NULL, 1, &bytes), POOL_E_ARGUMENT);
    cr_expect_eq(pool_recv_until(&conn, "\n", 0, &bytes), POOL_E_ARGUMENT);
    cr_expect_eq(pool_recv_until(&conn, "\n", 1, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_conn_error(&conn, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_conn_error(NULL, &error), POOL_E_ARGUMENT);
    cr_expect_eq(pool_conn_watch(&conn, NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_write(&conn, NULL, 1), POOL_E_ARGUMENT);
    cr_expect_eq(echo(&conn, "none of it did any harm"), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    pool_destroy(NULL);
    peer_stop(peer);
}

Test(pool_misuse, nothing_at_all_is_sent_and_received_without_harm)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct iovec empty[3] = { { 0 } };
    struct pool_conn conn;
    size_t got = 7;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_send(&conn, NULL, 0), POOL_OK);
    cr_expect_eq(pool_sendv(&conn, NULL, 0), POOL_OK);
    cr_expect_eq(pool_sendv(&conn, empty, 3), POOL_OK);
    cr_expect_eq(pool_recv(&conn, NULL, 0, &got), POOL_OK);
    cr_expect_eq(got, 0);
    cr_expect_eq(pool_recv_exact(&conn, NULL, 0), POOL_OK);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1, "it is clean still");
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- stale handles: every function that takes one */

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    (void)conn;
    (void)event;
    (void)bytes;
    (void)user;
}

static void expect_stale(struct pool_conn *conn, const char *which)
{
    struct pool_error error = { .size = sizeof(error), .status = 77 };
    struct iovec piece = { .iov_base = (char[]){ "x" }, .iov_len = 1 };
    struct pool_bytes bytes;
    struct pool_conn copy = *conn;
    char byte;
    size_t got;

    cr_expect_eq(pool_send(conn, "x", 1), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq(pool_sendv(conn, &piece, 1), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq(pool_recv(conn, &byte, 1, &got), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq(pool_recv_exact(conn, &byte, 1), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq(pool_recv_until(conn, "\n", 1, &bytes), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq(pool_conn_watch(conn, on_event, NULL), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq(pool_write(conn, "x", 1), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq(pool_conn_timeout(conn, POOL_READ, 10), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq(pool_conn_error(conn, &error), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq((int)error.status, 77, "%s", which);
    cr_expect_eq(pool_conn_id(conn), 0, "%s", which);
    cr_expect_eq(pool_conn_fd(conn), -1, "%s", which);
    cr_expect_null(pool_conn_address(conn), "%s", which);
    cr_expect_eq(pool_conn_last_used_ns(conn), 0, "%s", which);
    cr_expect_not(pool_conn_same(conn, &copy), "%s", which);
    pool_conn_ready(conn, POOL_OK);
    pool_conn_drain(conn);
    cr_expect_eq(pool_return(conn), POOL_E_ARGUMENT, "%s", which);
    cr_expect_eq(pool_discard(conn), POOL_E_ARGUMENT, "%s", which);
}

static int keep_a_copy(struct pool_conn *conn, void *user)
{
    *(struct pool_conn *)user = *conn;
    return 0;
}

Test(pool_misuse, a_stale_handle_is_an_error_everywhere_and_touches_nobody)
{
    struct pool_conn returned, discarded, communicated, zero = { 0 }, wrong, now;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();

    cr_assert(borrow(pool, peer_address(peer), &now));
    discarded = now;
    cr_assert_eq(pool_discard(&now), POOL_OK);
    cr_assert(borrow(pool, peer_address(peer), &now));
    returned = now;
    cr_assert_eq(pool_return(&now), POOL_OK);
    cr_assert_eq(pool_communicate(pool, peer_address(peer), keep_a_copy, &communicated, NULL),
                 POOL_OK);
    cr_assert(borrow(pool, peer_address(peer), &now));
    for (int i = 0; i < 2; i++) {
        wrong = now;
        wrong.serial++;
        expect_stale(&discarded, "discarded");
        expect_stale(&returned, "returned");
        expect_stale(&communicated, "kept by a use that returned");
        expect_stale(&zero, "zero");
        expect_stale(&wrong, "another serial");
        cr_expect_eq(echo(&now, "the real borrower"), 0);
        cr_expect_eq(pool_conn_id(&now), 2);
        cr_assert_eq(pool_return(&now), POOL_OK);
        cr_assert(borrow(pool, peer_address(peer), &now));
    }
    cr_assert_eq(pool_return(&now), POOL_OK);
    expect_stale(&communicated, "idle now");
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect_eq(STAT(pool, lent), 0);
    pool_destroy(pool);
    expect_stale(&returned, "after the pool's end");
    peer_stop(peer);
}

/* The event-driven calls belong to the mux thread; a blocking borrower has no use for them. */
Test(pool_misuse, a_loan_is_not_driven_event_by_event)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_conn_watch(&conn, on_event, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_write(&conn, "x", 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_conn_timeout(&conn, POOL_WRITE, 10), POOL_E_ARGUMENT);
    cr_expect_eq(pool_conn_timeout(&conn, (enum pool_direction)2, 10), POOL_E_ARGUMENT);
    pool_conn_ready(&conn, POOL_E_ACCESS);
    cr_expect_eq(echo(&conn, "still mine"), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- a use that leaves early, in every way it can */

static int return_by_hand(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_expect_eq(echo(conn, "done"), 0);
    cr_expect_eq(pool_return(conn), POOL_OK);
    cr_expect_eq(pool_send(conn, "x", 1), POOL_E_ARGUMENT);
    return 0;
}

static int discard_by_hand(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_expect_eq(pool_discard(conn), POOL_OK);
    return 3;
}

struct nest {
    struct pool *pool;
    const char *address;
    unsigned depth;
};

static int go_deeper(struct pool_conn *conn, void *user)
{
    struct nest *nest = user;

    if (echo(conn, "before"))
        return -1;
    if (nest->depth-- && pool_communicate(nest->pool, nest->address, go_deeper, nest, NULL))
        return -1;
    return echo(conn, "after");
}

Test(pool_misuse, however_a_use_leaves_nothing_stays_borrowed)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct nest nest = { .pool = pool, .address = peer_address(peer), .depth = 5 };
    struct pool_error error = POOL_ERROR_INIT;

    cr_expect_eq(pool_communicate(pool, peer_address(peer), return_by_hand, NULL, NULL), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 1);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), discard_by_hand, NULL,
                                  POOL_CALL(.error = &error)),
                 POOL_E_USER);
    cr_expect_eq(error.cause, 3);
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(pool_communicate(pool, peer_address(peer), go_deeper, &nest, NULL), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 6);
    cr_expect_eq(STAT(pool, lent), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- pool_stats */

Test(pool_misuse, stats_fill_what_the_caller_has)
{
    struct {
        struct pool_stats stats;
        char guard[16];
    } small;
    struct pool *pool = MAKE_POOL();

    memset(&small, 'g', sizeof(small));
    small.stats.size = 0;
    cr_expect_eq(pool_stats(pool, &small.stats), POOL_E_ARGUMENT);
    small.stats.size = offsetof(struct pool_stats, waiting);
    cr_expect_eq(pool_stats(pool, &small.stats), POOL_OK);
    cr_expect_eq(small.stats.total, 0);
    cr_expect_eq(small.stats.size, offsetof(struct pool_stats, waiting));
    for (const char *at = (char *)&small.stats.waiting; at < small.guard + sizeof(small.guard);
         at++)
        cr_assert_eq(*at, 'g');
    pool_destroy(pool);
}
