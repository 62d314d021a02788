/* test_texts.c: what a failure says to a person: the sentence is about what the program did, and
 * has a hint where one helps. Statuses and causes are other tests'. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static int answer_minus_two(struct pool_conn *conn, void *user)
{
    (void)conn, (void)user;
    return -2;
}

static void expect_text(const struct pool_error *error, const char *wanted)
{
    cr_expect_not_null(strstr(error->text, wanted), "\"%s\" should say \"%s\"", error->text,
                       wanted);
}

/* A call to a peer that fails; what it was told. */
static struct pool_error failure_at(struct pool *pool, const char *address, uint32_t timeout_ms,
                                    pool_use_fn *use)
{
    struct pool_error error = POOL_ERROR_INIT;

    cr_expect_neq(pool_communicate(pool, address, use, NULL,
                                   POOL_CALL(.timeout_ms = timeout_ms, .error = &error)),
                  POOL_OK);
    return error;
}

static struct pool_error failure_of(const char *address)
{
    struct pool *pool = MAKE_POOL();
    struct pool_error error = failure_at(pool, address, VERBS_SOON, do_nothing);

    pool_destroy(pool);
    return error;
}

/* ---- the address */

Test(pool_texts, an_address_that_this_release_cannot_reach_is_told_why)
{
    static const struct {
        const char *address;
        enum pool_status status;
        const char *text;
    } rows[] = {
        { "tcp://[fe80::1]:6379", POOL_E_ADDRESS,
          ": a link-local address needs a zone, as in [fe80::1%eth0] (EINVAL) while connecting" },
        { "unix:///no/such/socket", POOL_E_REFUSED,
          ": no socket stands at this path (ENOENT) while connecting" },
        { "", POOL_E_ADDRESS, "\"\": scheme missing" },
        { "127.0.0.1:6379", POOL_E_ADDRESS,
          "127.0.0.1:6379: scheme missing (tcp://, tls://, unix:// or abstract://) at "
          "character 1" },
        { "tcp://user:secret@127.0.0.1:1", POOL_E_ADDRESS,
          "user info is not part of an address at character 18" },
        { "tcp://user@[::1]:1", POOL_E_ADDRESS,
          "user info is not part of an address at character 11" },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct pool_error error = failure_of(rows[i].address);

        cr_expect_eq(error.status, rows[i].status, "%s: %s", rows[i].address, error.text);
        expect_text(&error, rows[i].text);
    }
}

Test(pool_texts, a_long_address_is_cut_where_one_can_see_it)
{
    struct peer *peer = PEER();
    char address[256], wanted[256];
    struct pool_error error;

    snprintf(address, sizeof(address), "%s?tenant=%0100d", peer_address(peer), 0);
    peer_down(peer);
    error = failure_of(address);
    snprintf(wanted, sizeof(wanted), "%.80s...: the peer refused", address);
    expect_text(&error, wanted);
    peer_stop(peer);
}

struct delivery {
    atomic_bool is_told;
    struct pool_error error;
};

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct delivery *delivery = user;

    cr_expect_null(conn);
    if (error)
        delivery->error = *error;
    delivery->is_told = true;
}

static bool is_told(void *delivery)
{
    return ((struct delivery *)delivery)->is_told;
}

Test(pool_texts, an_asynchronous_call_is_told_the_same)
{
    struct delivery delivery = { .is_told = false };
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_call *call = POOL_CALL(.error = &error);
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    char address[64], wanted[128];

    cr_expect_eq(pool_communicate_async(pool, "127.0.0.1", on_lent, &delivery, call, NULL),
                 POOL_E_ADDRESS);
    expect_text(&error, "127.0.0.1: scheme missing");
    cr_expect_eq(pool_communicate_async(pool, "tcp://127.0.0.1:1", NULL, NULL, call, NULL),
                 POOL_E_ARGUMENT);
    expect_text(&error, "tcp://127.0.0.1:1: the call was used wrongly");
    snprintf(address, sizeof(address), "%s", peer_address(peer));
    snprintf(wanted, sizeof(wanted), "%s: the peer refused the connection", address);
    peer_down(peer);
    cr_expect_eq(pool_communicate_async(pool, address, on_lent, &delivery, NULL, NULL), POOL_OK);
    memset(address, '!', sizeof(address));
    cr_assert(wait_until(is_told, &delivery, VERBS_SOON));
    expect_text(&delivery.error, wanted);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Waits for an answer that the peer keeps to itself, and holds one of those that run `prepare`. */
static int wait_for_the_peer(struct pool_conn *conn, void *user)
{
    char byte;

    (void)user;
    return pool_recv_exact(conn, &byte, 1);
}

static void count_down(struct pool_conn *conn, const struct pool_error *error, void *left)
{
    (void)conn, (void)error;
    atomic_fetch_sub((atomic_uint *)left, 1);
}

static bool are_all_told(void *left)
{
    return atomic_load((atomic_uint *)left) == 0;
}

Test(pool_texts, an_asynchronous_call_that_waits_for_prepare_is_late_by_our_own_clock)
{
    enum { OTHERS = 8 }; /* more than run `prepare` at once */
    struct delivery delivery = { .is_told = false };
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.prepare = wait_for_the_peer, .max_connecting = OTHERS + 1);
    atomic_uint left = OTHERS;

    for (int i = 0; i < OTHERS; i++)
        cr_assert_eq(pool_communicate_async(pool, peer_address(peer), count_down, &left,
                                            POOL_CALL(.timeout_ms = VERBS_SOON), NULL),
                     POOL_OK);
    cr_assert(peer_wait_accepted(peer, OTHERS, VERBS_SOON));
    cr_assert_eq(pool_communicate_async(pool, peer_address(peer), on_lent, &delivery,
                                        POOL_CALL(.timeout_ms = 200), NULL),
                 POOL_OK);
    cr_assert(wait_until(is_told, &delivery, VERBS_SOON));
    cr_expect_eq(delivery.error.status, POOL_E_TIMEOUT);
    cr_expect_eq(delivery.error.cause, ETIMEDOUT);
    cr_expect_null(strstr(delivery.error.text, "ETIMEDOUT"), "%s", delivery.error.text);
    pool_destroy(pool);
    cr_expect(wait_until(are_all_told, &left, VERBS_SOON));
    peer_stop(peer);
}

/* ---- time, and limits of our own */

static int send_and_wait(struct pool_conn *conn, void *user)
{
    char back[1];

    (void)user;
    return pool_send(conn, "x", 1) || pool_recv_exact(conn, back, 1);
}

Test(pool_texts, our_own_deadlines_are_no_errors_of_the_system)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct peer *deaf = PEER(.behave = PEER_NEVER_ACCEPT);
    struct pool *pool = MAKE_POOL(.max_per_address = 1, .connect_ms = 50);
    struct pool_error error;
    struct pool_conn conn;

    error = failure_at(pool, peer_address(peer), 50, send_and_wait);
    cr_expect_eq(error.cause, ETIMEDOUT);
    expect_text(&error, ": out of time part way while in use, the peer may have seen the request");
    cr_assert(borrow(pool, peer_address(peer), &conn));
    error = failure_at(pool, peer_address(peer), 50, do_nothing);
    cr_expect_eq(error.cause, ETIMEDOUT);
    expect_text(&error,
                ": out of time while waiting for a free connection, the request was not sent; ");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    error = failure_at(pool, peer_address(deaf), VERBS_SOON, do_nothing);
    cr_expect_eq(error.cause, ETIMEDOUT);
    expect_text(&error, ": out of time while connecting, the request was not sent; ");
    pool_destroy(pool);                 /* which backs off now */
    pool = MAKE_POOL(.max_per_address = 1, .connect_ms = 50);
    error = failure_at(pool, peer_address(deaf), 20, do_nothing);
    cr_expect_eq(error.cause, ETIMEDOUT);
    expect_text(&error, ": out of time while connecting, the request was not sent; ");
    pool_destroy(pool);
    peer_stop(peer);
    peer_stop(deaf);
}

static enum pool_decision abort_now(struct pool *pool, void *user)
{
    (void)pool, (void)user;
    return POOL_ABORT;
}

Test(pool_texts, a_full_pool_is_not_taken_for_a_system_that_ran_short)
{
    static pool_none_removable_fn *const hooks[] = { abort_now, NULL };
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);

    for (int i = 0; i < 2; i++) {
        struct pool *pool = MAKE_POOL(.max_connections = 1, .on_none_removable = hooks[i]);
        struct pool_error error;
        struct pool_conn conn;

        cr_assert(borrow(pool, loopback_at(peer, 0), &conn));
        error = failure_at(pool, loopback_at(peer, 1), 50, do_nothing);
        cr_expect_eq(error.status, POOL_E_RESOURCE);
        cr_expect_eq(error.cause, 0);
        expect_text(&error, ": no room: max_connections is reached and nothing is idle, the");
        cr_expect_eq(pool_return(&conn), POOL_OK);
        pool_destroy(pool);
    }
    peer_stop(peer);
}

static int read_a_line(struct pool_conn *conn, void *user)
{
    struct pool_bytes line;

    (void)user;
    if (pool_send(conn, "0123456789abcdef", 16))
        return -1;
    return pool_recv_until(conn, "\n", 1, &line);
}

Test(pool_texts, a_line_without_an_end_names_the_option_that_bounds_it)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_line = 8);
    struct pool_error error = failure_at(pool, peer_address(peer), VERBS_SOON, read_a_line);

    cr_expect_eq(error.status, POOL_E_PROTOCOL);
    expect_text(&error, ": no delimiter came within max_line bytes, the peer had answered; ");
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_texts, the_mux_thread_is_told_that_it_must_not_wait)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool_error error;
    struct pool_mux *mux;
    struct pool *pool;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux);
    error = failure_at(pool, peer_address(peer), VERBS_SOON, do_nothing);
    cr_expect_eq(error.status, POOL_E_WOULD_BLOCK);
    expect_text(&error, ": waiting is not allowed on this thread, the mux thread");
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

/* ---- the program's own functions */

static int answer_42(struct pool_conn *conn, void *user)
{
    (void)conn, (void)user;
    return 42;
}

static int leave_unclean(struct pool_conn *conn, void *user)
{
    (void)user;
    return pool_send(conn, "half", 4);
}

static int give_away(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_expect_eq(pool_discard(conn), POOL_OK);
    return -2;
}

static int hook_42(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)actor, (void)user;
    return 42;
}

static int hook_drains(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor, (void)user;
    pool_conn_drain(conn);
    return 0;
}

static int socket_42(int fd, const char *address, void *user)
{
    (void)fd, (void)address, (void)user;
    return 42;
}

static void expect_blame(const struct pool_options *options, pool_use_fn *use, int cause,
                         const char *text)
{
    struct peer *peer = PEER();
    struct pool *pool = make_pool(options);
    struct pool_error error = failure_at(pool, peer_address(peer), VERBS_SOON, use);

    cr_expect_eq(error.status, POOL_E_USER);
    cr_expect_eq(error.cause, cause, "%s", error.text);
    expect_text(&error, text);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_texts, whoever_refused_is_named_with_what_it_answered)
{
    expect_blame(NULL, answer_minus_two, -2, ": `use` answered -2, the request was not sent; ");
    expect_blame(NULL, give_away, -2, ": `use` answered -2, the peer may have seen the request; ");
    expect_blame(POOL_OPTIONS(.prepare = answer_42), do_nothing, 42, ": `prepare` answered 42, ");
    expect_blame(POOL_OPTIONS(.prepare = give_away), do_nothing, -2, ": `prepare` answered -2, ");
    expect_blame(POOL_OPTIONS(.prepare = leave_unclean), do_nothing, 0,
                 ": `prepare` answered 0, but the connection was not clean, ");
    expect_blame(POOL_OPTIONS(.on_new_connection = hook_42), do_nothing, 42,
                 ": on_new_connection answered 42, ");
    expect_blame(POOL_OPTIONS(.on_new_connection = hook_drains), do_nothing, 0,
                 ": on_new_connection drained the connection that it set up, ");
    expect_blame(POOL_OPTIONS(.on_socket = socket_42), do_nothing, 42, ": on_socket answered 42, ");
}
