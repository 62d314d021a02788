/* test_lent_end.c: a loan in event-driven use and its pool end at the same moment, where the one
 * could meet the other half done. schedule/schedule_lent.c has the moments that no door opens on.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "base/os.h"
#include "pool/lent_user.h"
#include "pool/pool.h"
#include "support/peer.h"
#include "support/tests.h"

static bool is_set(void *argument)
{
    return atomic_load((atomic_bool *)argument);
}

/* ---- the program's data goes with the connection, and ends the pool */

struct home {
    struct pool *pool;
    struct pool_conn conn;
    bool is_freed;
};

static void keep(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct home *home = user;

    cr_assert_null(error);
    home->conn = *conn;
}

static void ignore(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                   void *user)
{
    (void)conn, (void)event, (void)bytes, (void)user;
}

static void end_pool(void *user)
{
    struct home *home = user;

    pool_destroy(home->pool);
    home->is_freed = true;
}

Test(lent_end, between_two_batches_at_home_the_freed_data_may_end_the_pool, .timeout = 60)
{
    struct home home = { 0 };
    struct peer *peer = PEER();
    struct pool_mux *mux;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    home.pool = MAKE_POOL(.mux = mux);
    cr_assert_eq(pool_communicate_async(home.pool, peer_address(peer), keep, &home, NULL, NULL),
                 POOL_OK);
    while (!home.conn.slot)
        cr_assert_eq(pool_mux_dispatch(mux, VERBS_SOON), POOL_OK);
    cr_assert_eq(pool_conn_watch(&home.conn, ignore, NULL), POOL_OK);
    pool_conn_set_user(&home.conn, &home, end_pool);
    cr_expect_eq(pool_discard(&home.conn), POOL_OK, "no callback may be met by a mux that is busy");
    cr_expect(home.is_freed);
    pool_mux_destroy(mux);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    peer_stop(peer);
}

/* ---- the deadline is moved while the pool is closed by force */

/* The closer waits, with the loan in his hands, until the mover has the loan's deadline in his; the
 * mover until what the watcher had is freed, if he can be overtaken. */
static struct pl_os door;
static pthread_t mover, closer;
static atomic_bool is_closing, is_moving;
static int looks;
static struct lent_user *moved;

static bool is_freed(void *argument)
{
    return atomic_load(&((struct lent_user *)argument)->pool->channels) == 0;
}

static int shutdown_late(int fd, int how)
{
    if (pthread_equal(pthread_self(), closer)) {
        atomic_store(&is_closing, true);
        wait_until(is_set, &is_moving, VERBS_SOON);
    }
    return pl_os_real.shutdown(fd, how);
}

/* The second look at the clock comes when the watcher's timer is at hand. */
static uint64_t look_late(void)
{
    if (atomic_load(&is_closing) && pthread_equal(pthread_self(), mover) && ++looks == 2) {
        atomic_store(&is_moving, true);
        wait_until(is_freed, moved, 200);
    }
    return pl_os_real.now_ns();
}

static void *close_pool(void *user)
{
    closer = pthread_self();
    cr_expect_eq(pool_close(((struct lent_user *)user)->pool, POOL_ZERO, NULL, NULL), POOL_OK);
    return NULL;
}

Test(lent_end, a_deadline_moved_while_the_pool_is_forced_to_end_finds_its_timer, .timeout = 60)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct lent_user *user = lent_user(peer);
    pthread_t thread;

    lent_watch(user);
    mover = pthread_self();
    moved = user;
    door = pl_os_real;
    door.shutdown = shutdown_late;
    door.now_ns = look_late;
    pl_os_replace(&door);
    cr_assert_eq(pthread_create(&thread, NULL, close_pool, user), 0);
    cr_assert(wait_until(is_set, &is_closing, VERBS_SOON));
    cr_expect_eq(pool_conn_deadline(&user->ask.conn, 5000), POOL_OK);
    cr_expect(atomic_load(&is_moving));
    cr_expect(lent_wait(&user->errors, 1), "the end is told all the same");
    pthread_join(thread, NULL);
    pl_os_replace(NULL);
    lent_end(user, peer);
}

/* ---- it is to leave the pool, and cannot */

static int refuse_timeout(int fd, int level, int name, const void *value, socklen_t size)
{
    struct pl_connection *connection = pl_connection_of(moved->ask.conn.slot);

    if (name != SO_RCVTIMEO || !pthread_equal(pthread_self(), mover))
        return pl_os_real.setsockopt(fd, level, name, value, size);
    peer_push(moved->ask.user, PEER_ALL, "now", 3);
    wait_until(is_set, &connection->missed_event, VERBS_SOON);
    return -ENOMEM;
}

Test(lent_end, what_comes_while_it_cannot_leave_the_pool_is_told_all_the_same, .timeout = 60)
{
    struct peer *peer = PEER();
    struct lent_user *user = lent_user(peer);
    int fd = -1;

    cr_assert_eq(echo(&user->ask.conn, "a timeout is set"), 0);
    lent_watch(user);
    user->ask.user = peer;
    mover = pthread_self();
    moved = user;
    door = pl_os_real;
    door.setsockopt = refuse_timeout;
    pl_os_replace(&door);
    cr_expect_neq(pool_release_fd(&user->ask.conn, &fd), POOL_OK);
    cr_expect_eq(fd, -1);
    pl_os_replace(NULL);
    cr_expect(lent_wait_bytes(user, 3), "the watcher hears nothing any more");
    lent_end(user, peer);
}
