/* test_identity_unready.c: a number that other code took while its connection was being set up, or
 * an actor heard it, and that is marked: the stranger is left alone, and who is concerned is told. */
#include <criterion/criterion.h>
#include <errno.h>
#include <unistd.h>

#include "commpool/pool.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

#define CONNECTIONS 8u

static struct peer *peer;
static struct pool *pool;
static atomic_int fds[CONNECTIONS]; /* as they are being set up, or heard */
static atomic_uint count, ends;
static _Atomic enum pool_status told;

static bool is_there(void *unused)
{
    (void)unused;
    return atomic_load(&count);
}

static bool has_ended(void *unused)
{
    (void)unused;
    return atomic_load(&ends);
}

static void begin(void)
{
    atomic_store(&count, 0);
    atomic_store(&ends, 0);
    atomic_store(&told, POOL_OK);
    peer = PEER(.own_process = true);
}

static void end(void)
{
    pool_destroy(pool);
    peer_stop(peer);
}

TestSuite(identity_unready, .init = begin, .fini = end, .timeout = 60);

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    (void)conn, (void)bytes, (void)user;
    if (event != POOL_EV_ERROR && event != POOL_EV_CLOSED)
        return;
    atomic_store(&told, event == POOL_EV_ERROR ? POOL_E_BROKEN : POOL_OK);
    atomic_fetch_add(&ends, 1);
}

/* The first one is never ready. */
static int set_up(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    unsigned nth = atomic_load(&count);

    (void)actor, (void)user;
    if (nth)
        return 0;
    cr_expect_eq(pool_conn_watch(conn, on_event, NULL), POOL_OK);
    atomic_store(&fds[nth], pool_conn_fd(conn));
    atomic_store(&count, nth + 1);
    return POOL_LATER;
}

/* Other code has closed the number of the first one, and opened something by it. */
static int take_its_number(void)
{
    int pair[2], fd = atomic_load(&fds[0]);

    cr_assert_eq(pipe(pair), 0);
    cr_assert_eq(dup2(pair[1], fd), fd);
    close(pair[1]);
    return pair[0];
}

static void expect_stranger_is_left_alone(int other_end)
{
    char byte = 0;

    cr_expect_eq(write(atomic_load(&fds[0]), "x", 1), 1, "it was closed");
    cr_expect_eq(read(other_end, &byte, 1), 1);
    cr_expect_eq(byte, 'x', "something was written to it");
    close(atomic_load(&fds[0]));
    close(other_end);
}

Test(identity_unready, who_waits_for_one_in_its_setup_gets_another)
{
    struct caller caller;
    int other_end;

    pool = MAKE_POOL(.on_new_connection = set_up);
    cr_assert(start_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    cr_assert(wait_until(is_there, NULL, VERBS_SOON));
    other_end = take_its_number();
    cr_expect_eq(pool_mark_as_dead(pool, atomic_load(&fds[0])), 1);
    cr_expect_eq(join_caller(&caller), POOL_OK);
    cr_expect_eq(pool_conn_id(&caller.conn), 2);
    cr_expect(wait_until(has_ended, NULL, VERBS_SOON));
    cr_expect_eq(atomic_load(&told), POOL_E_BROKEN, "%s", pool_status_name(atomic_load(&told)));
    cr_expect(WAIT_STAT(pool, stolen, 1));
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STOLEN]), 1);
    cr_expect_eq(pool_return(&caller.conn), POOL_OK);
    expect_stranger_is_left_alone(other_end);
}

static int hear_half(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)message, (void)user;
    atomic_store(&fds[0], pool_conn_fd(conn));
    atomic_store(&count, 1);
    return POOL_LATER;
}

static void on_close(uint64_t connection, const struct pool_error *error, void *user)
{
    (void)connection, (void)user;
    atomic_store(&told, error ? error->status : POOL_OK);
    atomic_fetch_add(&ends, 1);
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)user;
    actor->on_message = hear_half;
    actor->on_close = on_close;
    return 0;
}

Test(identity_unready, an_actor_that_hears_one_is_told_that_it_broke)
{
    int other_end;

    pool = MAKE_POOL(.on_new_connection = attach, .park_ms = 1);
    cr_assert_eq(id_of_next(pool, peer_address(peer)), 1);
    peer_push(peer, 0, "half", 4);
    cr_assert(wait_until(is_there, NULL, VERBS_SOON));
    other_end = take_its_number();
    cr_expect_eq(pool_mark_as_dead(pool, atomic_load(&fds[0])), 1);
    cr_expect(wait_until(has_ended, NULL, VERBS_SOON));
    cr_expect_eq(atomic_load(&told), POOL_E_BROKEN, "%s", pool_status_name(atomic_load(&told)));
    cr_expect(WAIT_STAT(pool, stolen, 1));
    expect_stranger_is_left_alone(other_end);
}
