/* stress_leave.c: connections leave and join a pool that is ended meanwhile, again and again.
 *
 * What must hold: a detached connection works for its holder, whoever that is by then, also when
 * the pool is gone; a released descriptor comes back or is closed; copies of one handle that
 * several threads use and end at once do no harm but to that loan; and nothing is left in the
 * end. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define THREADS 6u
#define KEPT 8u
#define SPIN 3000000u

static struct pool *pool;
static struct peer *peer;
static struct {
    pthread_mutex_t lock;
    struct pool_conn conns[KEPT];
} kept = { .lock = PTHREAD_MUTEX_INITIALIZER };
static struct pool_conn shared; /* its copies are everybody's */
static atomic_int marked; /* the pool was told that this number is not its own */
static atomic_ullong rounds, detached, released, adopted, scuffles;

/* Puts one there and takes what was there before. */
static struct pool_conn exchange(unsigned place, struct pool_conn conn)
{
    struct pool_conn before;

    pthread_mutex_lock(&kept.lock);
    before = kept.conns[place];
    kept.conns[place] = conn;
    pthread_mutex_unlock(&kept.lock);
    return before;
}

/* Only the end of the pool may keep it in. */
static bool has_left(enum pool_status status)
{
    if (status && status != POOL_E_CLOSING)
        stress_fail("leaving: %s", pool_status_name(status));
    return status == POOL_OK;
}

static void ask_detached(struct stress_caller *caller, struct pool_conn *conn)
{
    int status = stress_ask(caller, conn, NULL);

    if (status)
        stress_fail("a detached connection: %s", pool_status_name((enum pool_status)status));
}

static void detach(struct stress_caller *caller, struct pool_conn *conn)
{
    if (!has_left(pool_detach(conn))) {
        pool_discard(conn);
        return;
    }
    atomic_fetch_add(&detached, 1);
    ask_detached(caller, conn);
    *conn = exchange(stress_below(caller, KEPT), *conn);
    if (!conn->slot)
        return;
    ask_detached(caller, conn);
    if (stress_chance(caller, 50) ? pool_discard(conn) : pool_return(conn))
        stress_fail("a detached connection could not be given back");
}

static void release_and_adopt(struct stress_caller *caller, struct pool_conn *conn)
{
    enum pool_status status;
    int fd = -1;

    if (stress_chance(caller, 30))
        has_left(pool_detach(conn));
    if (!has_left(pool_release_fd(conn, &fd))) {
        pool_discard(conn);
        return;
    }
    atomic_fetch_add(&released, 1);
    status = pool_adopt(pool, peer_address(peer), fd);
    if (status)
        close(fd);
    else
        atomic_fetch_add(&adopted, 1);
    if (status && status != POOL_E_CLOSING && status != POOL_E_FULL && status != POOL_E_ARGUMENT)
        stress_fail("adopting: %s", pool_status_name(status));
}

/* False: the pool has ended. */
static bool borrow_once(struct stress_caller *caller)
{
    struct pool_conn conn;
    enum pool_status status =
        pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 20000), &conn);
    int asked;

    if (status == POOL_E_CLOSING)
        return false;
    if (status) {
        stress_fail("borrowing: %s", pool_status_name(status));
        return false;
    }
    asked = stress_ask(caller, &conn, NULL);
    if (asked && asked != POOL_E_CLOSING)
        stress_fail("asking: %s", pool_status_name((enum pool_status)asked));
    switch (asked ? 3 : stress_below(caller, 4)) {
    case 0:
        detach(caller, &conn);
        break;
    case 1:
        release_and_adopt(caller, &conn);
        break;
    case 2:
        pool_discard(&conn);
        break;
    default:
        pool_return(&conn);
        break;
    }
    return true;
}

static void live(unsigned index, void *argument)
{
    struct stress_caller caller =
        stress_caller_make((unsigned)atomic_load(&rounds) * THREADS + index);

    (void)argument;
    if (index == 0) {
        for (volatile unsigned left = stress_below(&caller, SPIN); left; left--)
            continue;
        pool_destroy(pool);
        return;
    }
    while (borrow_once(&caller))
        continue;
}

/* ---- many with one handle */

static void scuffle(unsigned index, void *argument)
{
    struct stress_caller caller =
        stress_caller_make((unsigned)atomic_load(&scuffles) * THREADS + index);
    struct pool_conn conn = shared;
    char text[64];
    size_t done;
    int fd = -1;

    (void)argument;
    for (volatile unsigned left = stress_below(&caller, 1000); left; left--)
        continue;
    pool_send(&conn, "x", 1);
    pool_conn_remote(&conn, text, sizeof(text));
    switch (stress_below(&caller, 5)) {
    case 0:
        pool_detach(&conn);
        break;
    case 1:
        if (pool_release_fd(&conn, &fd) == POOL_OK)
            close(fd);
        break;
    case 2:
        pool_discard(&conn);
        break;
    case 3:
        fd = pool_conn_fd(&conn);
        if (pool_mark_as_dead(pool, fd) == 1)
            atomic_store(&marked, fd);
        break;
    default:
        pool_conn_deadline(&conn, 1000);
        break;
    }
    pool_try_recv(&conn, text, sizeof(text), &done);
    pool_conn_set_user(&conn, &shared, NULL);
    pool_conn_address(&conn);
}

static void scuffle_once(void)
{
    if (pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 20000), &shared)) {
        stress_fail("borrowing for a scuffle");
        return;
    }
    atomic_store(&marked, -1);
    run_threads(4, scuffle, NULL);
    pool_discard(&shared);              /* unless one of them did */
    if (marked >= 0)
        close(marked);
    atomic_fetch_add(&scuffles, 1);
}

/* What is kept works without a pool. */
static void end_kept(void)
{
    struct stress_caller caller = stress_caller_make(999999);

    for (unsigned place = 0; place < KEPT; place++) {
        struct pool_conn conn = exchange(place, (struct pool_conn){ 0 });

        if (!conn.slot)
            continue;
        ask_detached(&caller, &conn);
        if (pool_discard(&conn))
            stress_fail("a detached connection could not be given back");
    }
}

int main(int argc, char **argv)
{
    int descriptors;
    long blocks;

    stress_begin(argc, argv, 4);
    peer = PEER(.behave = PEER_TOKEN, .own_process = true, .record_connections = 1);
    if (!peer)
        stress_fail("no peer");
    descriptors = count_descriptors();
    blocks = stress_blocks();
    while (peer && stress_is_on()) {
        if (pool_create(POOL_OPTIONS(.max_per_address = 4, .max_connections = 4), &pool)) {
            stress_fail("no pool");
            break;
        }
        for (int i = 0; i < 4; i++)
            scuffle_once();
        run_threads(THREADS, live, NULL);
        end_kept();
        atomic_fetch_add(&rounds, 1);
    }
    if (peer)
        stress_expect_nothing_left(descriptors, blocks, "the end");
    peer_stop(peer);
    return stress_end("%llu pools, %llu scuffles, %llu detached, %llu released, %llu adopted",
                      rounds, scuffles, detached, released, adopted);
}
