/* test_idle.c: an idle pool costs no wake-up: the mux sleeps until something happens. */
#include <criterion/criterion.h>
#include <stdatomic.h>

#include "base/os.h"
#include "commpool/pool.h"
#include "pool/pool.h"
#include "support/peer.h"
#include "support/tests.h"

#define SOON 10000

static struct pl_os os;

static int echo(struct pool_conn *conn, void *user)
{
    char text[5];

    (void)user;
    return pool_send(conn, "ping\n", 5) || pool_recv_exact(conn, text, 5) ||
           memcmp(text, "ping\n", 5) != 0;
}

static _Atomic unsigned woken;

static int counted_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    int ready = pl_os_real.epoll_wait(epoll_fd, events, count, timeout_ms);

    atomic_fetch_add(&woken, 1);
    return ready;
}

static bool has_woken(void *unused)
{
    (void)unused;
    return atomic_load(&woken) != 0;
}

static bool is_parked(void *argument)
{
    struct pool *pool = argument;
    bool is_parked;

    pthread_mutex_lock(&pool->room->lock);
    is_parked = !pl_list_is_empty(&pool->parked);
    pthread_mutex_unlock(&pool->room->lock);
    return is_parked;
}

Test(mux_idle, an_idle_pool_with_a_parked_connection_never_wakes_up)
{
    struct peer *peer = PEER(.behave = PEER_ECHO, .own_process = true);
    struct pool *pool;

    os = pl_os_real;
    os.epoll_wait = counted_wait;
    pl_os_replace(&os);
    cr_assert_eq(pool_create(NULL, &pool), POOL_OK);
    cr_assert_eq(pool_communicate(pool, peer_address(peer), echo, NULL, NULL), POOL_OK);
    cr_assert(wait_until(is_parked, pool, SOON));
    cr_expect_gt(woken, 0, "the door counts");
    atomic_store(&woken, 0);
    cr_expect_not(wait_until(has_woken, NULL, 1000));
    pool_destroy(pool);
    peer_stop(peer);
}
