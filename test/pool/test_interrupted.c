/* test_interrupted.c: calls of the pool are no cancellation points, and their time is kept when the
 * kernel refuses the short way to keep it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

struct canceled {
    struct pool *pool;
    const char *address;
    enum pool_status borrowed, talked, returned;
};

static void *work_canceled(void *user)
{
    struct canceled *work = user;
    struct pool_conn conn;

    pthread_cancel(pthread_self());
    work->borrowed = pool_borrow(work->pool, work->address, NULL, &conn);
    work->talked = echo(&conn, "ping") ? POOL_E_BROKEN : POOL_OK;
    work->returned = pool_discard(&conn);
    pthread_testcancel();
    return NULL;
}

/* Opening, waiting, I/O, closing; and, with a mux of the thread's own, its end. */
Test(pool_interrupted, a_pending_cancellation_waits_until_the_call_is_over, .timeout = 60)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.max_per_address = 1);
    struct canceled work = { .pool = pool, .address = peer_address(peer), .borrowed = 1 };
    pthread_t thread;
    void *result;

    cr_assert_eq(pthread_create(&thread, NULL, work_canceled, &work), 0);
    pthread_join(thread, &result);
    cr_expect_eq(result, PTHREAD_CANCELED, "after the calls it is canceled");
    cr_expect_eq(work.borrowed, POOL_OK);
    cr_expect_eq(work.talked, POOL_OK);
    cr_expect_eq(work.returned, POOL_OK);
    cr_expect_eq(STAT(pool, waiting), 0);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

static void *end_canceled(void *user)
{
    struct pool **pool = user;

    pthread_cancel(pthread_self());
    pool_destroy(*pool);
    *pool = NULL;
    pthread_testcancel();
    return NULL;
}

Test(pool_interrupted, a_pending_cancellation_waits_until_the_pool_has_ended, .timeout = 60)
{
    struct peer *peer = PEER(.own_process = true);
    int before = count_descriptors();
    struct pool *pool = MAKE_POOL();
    pthread_t thread;
    void *result;

    cr_assert_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_assert_eq(pthread_create(&thread, NULL, end_canceled, &pool), 0);
    pthread_join(thread, &result);
    cr_expect_eq(result, PTHREAD_CANCELED);
    cr_expect_null(pool, "pool_destroy() came back");
    cr_expect_eq(count_descriptors(), before);
    peer_stop(peer);
}

static struct pl_os door;
static atomic_bool denies;

static int deny_receive_timeout(int fd, int level, int name, const void *value, socklen_t size)
{
    if (atomic_load(&denies) && level == SOL_SOCKET && name == SO_RCVTIMEO)
        return -ENOMEM;
    return pl_os_real.setsockopt(fd, level, name, value, size);
}

Test(pool_interrupted, the_deadline_holds_when_the_kernel_keeps_a_later_one)
{
    struct peer *peer = PEER(.behave = PEER_SILENT, .own_process = true);
    struct pool *pool;
    struct pool_conn conn;
    uint64_t start_ms;
    size_t got;
    char byte;

    door = pl_os_real;
    door.setsockopt = deny_receive_timeout;
    pl_os_replace(&door);
    pool = MAKE_POOL();
    cr_assert(borrow(pool, peer_address(peer), &conn));
    peer_push(peer, 0, "a", 1);
    cr_assert_eq(pool_recv(&conn, &byte, 1, &got), POOL_OK);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    atomic_store(&denies, true);
    start_ms = now_ms();
    cr_assert_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 300), &conn),
                 POOL_OK);
    cr_expect_eq(pool_recv(&conn, &byte, 1, &got), POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 300));
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}
