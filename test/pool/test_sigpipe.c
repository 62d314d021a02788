/* test_sigpipe.c: a peer that is gone never raises SIGPIPE in the program, whatever the way of
 * sending; the signal stands at its default, so one would end the test. */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

#define TRIES 50

static char much[1 << 16];

static void put_at_default(void)
{
    struct sigaction action;
    sigset_t none;

    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigaddset(&none, SIGPIPE);
    pthread_sigmask(SIG_UNBLOCK, &none, NULL);
    cr_assert_eq(sigaction(SIGPIPE, NULL, &action), 0);
    cr_assert_eq(action.sa_handler, SIG_DFL);
}

TestSuite(pool_sigpipe, .init = put_at_default);

typedef enum pool_status send_fn(struct pool_conn *conn);

static enum pool_status by_send(struct pool_conn *conn)
{
    return pool_send(conn, much, sizeof(much));
}

static enum pool_status by_sendv(struct pool_conn *conn)
{
    struct iovec pieces[2] = { { .iov_base = much, .iov_len = 100 },
                               { .iov_base = much, .iov_len = sizeof(much) } };

    return pool_sendv(conn, pieces, 2);
}

static enum pool_status by_try_send(struct pool_conn *conn)
{
    size_t sent;

    return pool_try_send(conn, much, sizeof(much), &sent);
}

static enum pool_status by_write(struct pool_conn *conn)
{
    return pool_write(conn, much, sizeof(much));
}

/* Goes on sending until it is told that nobody is there; what fails once is tried again. */
static enum pool_status send_on(struct pool_conn *conn, send_fn *send)
{
    enum pool_status status = POOL_OK;

    for (unsigned i = 0; i < TRIES; i++) {
        enum pool_status one = send(conn);

        status = status ? status : one;
    }
    return status;
}

enum loss { RESET, ENDED, LOSSES };

/* The peer is gone, and this end has heard of it. */
static void lose(struct peer *peer, struct pool_conn *conn, enum loss loss)
{
    int fd = pool_conn_fd(conn);

    if (loss == RESET)
        cr_assert_eq(peer_reset_all(peer), 1);
    else
        cr_assert_eq(peer_close_all(peer), 1);
    cr_assert_neq(listen_to(fd, VERBS_SOON), HEARD_NOTHING);
}

static void expect_no_signal(const struct peer_options *options, send_fn *send, const char *how)
{
    for (enum loss loss = RESET; loss < LOSSES; loss++) {
        struct peer *peer = peer_start(options);
        struct pool *pool = MAKE_POOL();
        struct pool_conn conn;

        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_assert_eq(echo(&conn, "there"), 0);
        lose(peer, &conn, loss);
        cr_expect_eq(send_on(&conn, send), POOL_E_BROKEN, "%s", how);
        cr_expect_eq(pool_return(&conn), POOL_OK);
        pool_destroy(pool);
        peer_stop(peer);
    }
}

static void expect_none_on(const struct peer_options *options)
{
    expect_no_signal(options, by_send, "pool_send");
    expect_no_signal(options, by_sendv, "pool_sendv");
    expect_no_signal(options, by_try_send, "pool_try_send");
}

Test(pool_sigpipe, none_from_a_tcp_peer_that_is_gone)
{
    expect_none_on(&(struct peer_options){ .behave = PEER_ECHO });
}

Test(pool_sigpipe, none_from_a_unix_peer_that_is_gone)
{
    expect_none_on(&(struct peer_options){ .behave = PEER_ECHO, .family = AF_UNIX });
}

/* ---- event-driven, on this thread: a thread of the pool's own blocks all signals */

struct driven {
    struct peer *peer;
    struct pool_conn conn;
    enum loss loss;
    enum pool_status written;
    enum pool_event last;
    atomic_bool is_over;
};

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct driven *driven = user;

    (void)conn;
    (void)bytes;
    if (event != POOL_EV_ERROR && event != POOL_EV_CLOSED)
        return;
    driven->last = event;
    driven->written = send_on(&driven->conn, by_write);
    pool_discard(&driven->conn);
    atomic_store(&driven->is_over, true);
}

/* Writes into a socket whose peer is gone, before and after it is told so. */
static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct driven *driven = user;

    cr_assert_null(error);
    driven->conn = *conn;
    cr_assert_eq(pool_conn_watch(conn, on_event, driven), POOL_OK);
    cr_assert_eq(pool_write(conn, "x", 1), POOL_OK);
    lose(driven->peer, conn, driven->loss);
    driven->written = send_on(conn, by_write);
}

static void dispatch_until_over(struct pool_mux *mux, struct driven *driven)
{
    uint64_t start_ms = now_ms();

    while (!atomic_load(&driven->is_over) && elapsed_ms(start_ms) < VERBS_SOON)
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_assert(atomic_load(&driven->is_over));
}

Test(pool_sigpipe, none_from_event_driven_writes)
{
    for (enum loss loss = RESET; loss < LOSSES; loss++) {
        struct driven driven = { .peer = PEER(.behave = PEER_SILENT), .loss = loss };
        struct pool_mux *mux;
        struct pool *pool;

        cr_assert_eq(pool_mux_create(&mux), POOL_OK);
        pool = MAKE_POOL(.mux = mux);
        cr_assert_eq(pool_communicate_async(pool, peer_address(driven.peer), on_lent, &driven,
                                            POOL_CALL(.timeout_ms = VERBS_SOON), NULL),
                     POOL_OK);
        dispatch_until_over(mux, &driven);
        cr_expect_neq(driven.written, POOL_OK);
        pool_destroy(pool);
        pool_mux_destroy(mux);
        peer_stop(driven.peer);
    }
}

/* What was queued is flushed by the mux, into a socket that has ended meanwhile. */
static int queue_much(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct driven *driven = user;

    (void)actor;
    driven->conn = *conn;
    if (pool_conn_watch(conn, on_event, driven))
        return 2;
    for (unsigned i = 0; i < TRIES; i++)
        (void)pool_write(conn, much, sizeof(much));
    return POOL_LATER;
}

Test(pool_sigpipe, none_from_what_the_mux_flushes_later)
{
    for (enum loss loss = RESET; loss < LOSSES; loss++) {
        struct driven driven = { .peer = PEER(.behave = PEER_DEAF), .loss = loss };
        struct pool_mux *mux;
        struct pool *pool;
        struct caller caller;

        cr_assert_eq(pool_mux_create(&mux), POOL_OK);
        pool = MAKE_POOL(.mux = mux, .on_new_connection = queue_much, .user = &driven);
        cr_assert(start_caller(&caller, pool, peer_address(driven.peer), VERBS_SOON));
        while (!driven.conn.slot)
            cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
        cr_assert(peer_wait_accepted(driven.peer, 1, VERBS_SOON));
        lose(driven.peer, &driven.conn, loss);
        dispatch_until_over(mux, &driven);
        while (!atomic_load(&caller.is_back))
            cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
        cr_expect_neq(join_caller(&caller), POOL_OK);
        pool_destroy(pool);
        pool_mux_destroy(mux);
        peer_stop(driven.peer);
    }
}
