/* test_home.c: where waiting would wait for itself, a call says so, wherever on that thread it was
 * made; and what it began and could not finish is not left to the next borrower. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdatomic.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* A pool on this thread's mux, with one connection that is idle. */
static struct pool *idle_at_home(struct pool_mux *mux, const struct peer *peer)
{
    struct pool *pool = MAKE_POOL(.mux = mux, .max_per_address = 1, .park_ms = POOL_NONE);
    struct caller caller;

    cr_assert(start_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&caller.is_back))
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_assert_eq(join_caller(&caller), POOL_OK);
    cr_assert_eq(pool_return(&caller.conn), POOL_OK);
    return pool;
}

enum receiver { SOME, EXACT, LINE };

static enum pool_status receive(struct pool_conn *conn, enum receiver how)
{
    struct pool_bytes line;
    char bytes[8];
    size_t got;

    switch (how) {
    case SOME:
        cr_expect_eq(pool_recv(conn, bytes, sizeof(bytes), &got), POOL_OK);
        return pool_recv(conn, bytes, sizeof(bytes), &got);
    case EXACT:
        return pool_recv_exact(conn, bytes, sizeof(bytes));
    case LINE:
        break;
    }
    return pool_recv_until(conn, "\n", 1, &line);
}

static void await_bytes(struct pool_conn *conn)
{
    struct pollfd polled = { .fd = pool_conn_fd(conn), .events = POLLIN };

    cr_assert_eq(poll(&polled, 1, VERBS_SOON), 1);
}

/* True: the answer came in two parts, the first of them was received, and the connection was
 * kept. */
static bool is_kept_after_half(enum receiver how, bool is_rest_read)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool_mux *mux;
    struct pool *pool;
    struct pool_conn conn;
    char rest[4];
    bool is_kept;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = idle_at_home(mux, peer);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_send(&conn, "get", 3), POOL_OK);
    cr_assert(peer_wait_bytes_in(peer, 3, VERBS_SOON));
    peer_push(peer, 0, "half", 4);
    await_bytes(&conn);
    cr_expect_eq(receive(&conn, how), POOL_E_WOULD_BLOCK);
    if (is_rest_read) {
        peer_push(peer, 0, "rest", 4);
        await_bytes(&conn);
        cr_expect_eq(pool_recv_exact(&conn, rest, 4), POOL_OK);
    }
    cr_expect_eq(pool_return(&conn), POOL_OK);
    is_kept = STAT(pool, idle) == 1;
    pool_destroy(pool);
    pool_mux_destroy(mux);
    peer_stop(peer);
    return is_kept;
}

Test(pool_home, what_was_received_in_part_is_not_left_to_the_next_borrower)
{
    cr_expect_not(is_kept_after_half(SOME, false));
    cr_expect_not(is_kept_after_half(EXACT, false));
    cr_expect_not(is_kept_after_half(LINE, false));
}

Test(pool_home, once_the_rest_came_the_connection_is_kept)
{
    cr_expect(is_kept_after_half(SOME, true));
}

/* ---- a batch of another mux, in a callback of the pool's own */

struct guest {
    struct pool *pool;
    struct pool_mux *mux;
    const char *address;
    enum pool_status status;
    bool ends_pool;
    atomic_bool is_back;
};

static void call_pool(void *user)
{
    struct guest *guest = user;
    struct pool_conn conn;

    if (guest->ends_pool)
        pool_destroy(guest->pool);
    else
        guest->status = pool_borrow(guest->pool, guest->address, NULL, &conn);
}

static int run_guest(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct guest *guest = user;

    (void)conn, (void)message;
    cr_assert_eq(pool_mux_post(guest->mux, call_pool, guest), POOL_OK);
    cr_assert_eq(pool_mux_dispatch(guest->mux, POOL_ZERO), POOL_OK);
    atomic_store(&guest->is_back, true);
    return 0;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = run_guest;
    actor->user = user;
    return 0;
}

static bool is_back(void *argument)
{
    return atomic_load(&((struct guest *)argument)->is_back);
}

static void call_from_guest(struct guest *guest)
{
    struct peer *peer = PEER(), *other = PEER();
    struct pool_conn conn;
    int fd;

    guest->address = peer_address(other);
    cr_assert_eq(pool_mux_create(&guest->mux), POOL_OK);
    guest->pool = MAKE_POOL(.on_new_connection = attach, .user = guest, .park_ms = 1);
    cr_assert(borrow(guest->pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_assert(wait_parked(fd));
    peer_push(peer, 0, "x", 1);
    cr_assert(wait_until(is_back, guest, VERBS_SOON), "the mux thread waits for itself");
    if (!guest->ends_pool)
        pool_destroy(guest->pool);
    pool_mux_destroy(guest->mux);
    peer_stop(peer);
    peer_stop(other);
}

Test(pool_home, what_would_wait_says_so_in_another_mux_that_a_callback_runs)
{
    static struct guest guest;

    call_from_guest(&guest);
    cr_expect_eq(guest.status, POOL_E_WOULD_BLOCK);
}

Test(pool_home, the_pool_ends_in_another_mux_that_a_callback_runs)
{
    static struct guest guest = { .ends_pool = true };

    call_from_guest(&guest);
}
