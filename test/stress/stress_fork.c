/* stress_fork.c: threads talk through pools, wait, dial, and end pools, while children are forked
 * at any moment by several of them at once.
 *
 * What must hold: every answer in the parent is its asker's own, whatever the children do; a child
 * is refused the parent's pools and handles, may destroy them, makes pools of its own and talks,
 * forks again, executes another program, or just leaves; none hangs, and each ends as it means
 * to. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stress/stress.h"
#include "support/child.h"
#include "support/peer.h"
#include "support/tests.h"

#define TALKERS 6u
#define FORKERS 3u
#define RESTARTER (TALKERS + FORKERS)
#define CALL_MS 30000u
#define LEAST 60u /* children */

static struct peer *peers[2];
static const char *addresses[2];
static struct pool *steady; /* lives as long as the program */
static struct pool_mux *mux; /* and its multiplexer is the program's */
static struct pool *_Atomic passing; /* ends and begins anew, all the time */
static pthread_rwlock_t passing_lock = PTHREAD_RWLOCK_INITIALIZER;
static atomic_ullong asked, children, inside;
static atomic_bool is_over;
static __thread struct stress_caller *self;

/* TSan takes no new thread in a child whose parent had some. */
#ifdef __SANITIZE_THREAD__
#define MAY_START_THREADS false
#else
#define MAY_START_THREADS true
#endif

/* ---- children */

static int talk_in(struct pool *pool, const char *address)
{
    struct pool_conn conn;
    int status = pool_borrow(pool, address, POOL_CALL(.timeout_ms = CALL_MS), &conn);

    if (status)
        return status;
    status = stress_ask(self, &conn, NULL);
    return status ? status : (int)pool_return(&conn);
}

static int make_own(void *unused)
{
    struct pool *own;

    (void)unused;
    if (!MAY_START_THREADS)
        return 0;
    CHILD_NEEDS(pool_create(POOL_OPTIONS(.max_per_address = 2), &own) == POOL_OK);
    for (int i = 0; i < 10; i++)
        CHILD_NEEDS(talk_in(own, addresses[i % 2]) == POOL_OK);
    pool_destroy(own);
    return 0;
}

static int meet_the_parents(const struct pool_conn *lent)
{
    struct pool_conn conn, copy = *lent;

    CHILD_NEEDS(pool_borrow(steady, addresses[0], NULL, &conn) == POOL_E_FORKED);
    CHILD_NEEDS(pool_mux_dispatch(mux, POOL_ZERO) == POOL_E_FORKED);
    if (!lent->slot)
        return 0;
    CHILD_NEEDS(pool_send(&copy, "TOKEN stray\n", 12) == POOL_E_FORKED);
    CHILD_NEEDS(pool_return(&copy) == POOL_E_FORKED);
    return 0;
}

/* Answers the exit status of the child, or does not come back. */
static int live(const struct pool_conn *lent, unsigned life)
{
    CHILD_NEEDS(meet_the_parents(lent) == 0);
    switch (life) {
    case 0:
        return 0;
    case 1:
        exit(0);
    case 2:
        execl("/bin/true", "true", (char *)NULL);
        return 1;
    case 3:
        pool_destroy(steady);
        pool_mux_destroy(mux);
        CHILD_NEEDS(meet_the_parents(lent) == 0);
        return make_own(NULL);
    case 4:
        CHILD_NEEDS(make_own(NULL) == 0);
        return child_run(make_own, NULL);
    default:
        return make_own(NULL);
    }
}

static void have_child(const struct pool_conn *lent)
{
    unsigned life = stress_below(self, 6);
    pid_t child = child_fork();
    int status;

    if (child == 0)
        _exit(live(lent, life));
    status = child_status(child);
    if (status)
        stress_fail("a child with life %u ended with %d", life, status);
    atomic_fetch_add(&children, 1);
}

/* ---- the parent */

static int fork_in_use(struct pool_conn *conn, void *user)
{
    int status = stress_send(self, conn);

    (void)user;
    if (!status)
        have_child(conn); /* between the question and its answer */
    atomic_fetch_add(&inside, 1);
    return status ? status : stress_hear(self, conn, NULL);
}

static int ask_in_use(struct pool_conn *conn, void *user)
{
    (void)user;
    return stress_ask(self, conn, NULL);
}

static void talk_steady(pool_use_fn *use)
{
    const char *address = addresses[stress_below(self, 2)];
    int status = pool_communicate(steady, address, use, NULL, POOL_CALL(.timeout_ms = CALL_MS));

    if (status)
        stress_fail("a talk of the parent: %s", pool_status_name((enum pool_status)status));
    atomic_fetch_add(&asked, 1);
}

static void talk_passing(void)
{
    int status;

    pthread_rwlock_rdlock(&passing_lock);
    status = talk_in(atomic_load(&passing), addresses[stress_below(self, 2)]);
    pthread_rwlock_unlock(&passing_lock);
    if (status)
        stress_fail("a talk of the parent on a passing pool: %s",
                    pool_status_name((enum pool_status)status));
    atomic_fetch_add(&asked, 1);
}

/* Pools are born and die, connections of theirs are dialed and closed. */
static void replace_passing(void)
{
    struct pool *next, *last;

    if (pool_create(POOL_OPTIONS(.max_per_address = 2, .park_ms = 1), &next))
        stress_fail("no pool");
    pthread_rwlock_wrlock(&passing_lock);
    last = atomic_exchange(&passing, next);
    pthread_rwlock_unlock(&passing_lock);
    pool_destroy(last);
}

static void take_part(unsigned index, void *unused)
{
    struct stress_caller caller = stress_caller_make(index);

    (void)unused;
    self = &caller;
    while (stress_is_on() || (atomic_load(&children) < LEAST && !stress_failures())) {
        if (index == RESTARTER)
            replace_passing();
        else if (index >= TALKERS && stress_chance(self, 50))
            talk_steady(fork_in_use);
        else if (index >= TALKERS)
            have_child(&(struct pool_conn){ 0 });
        else if (stress_chance(self, 50))
            talk_steady(ask_in_use);
        else
            talk_passing();
    }
}

static void *dispatch(void *unused)
{
    (void)unused;
    while (!atomic_load(&is_over))
        pool_mux_dispatch(mux, 20);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t dispatcher;
    int descriptors;
    long blocks;

    stress_begin(argc, argv, 5);
    for (unsigned i = 0; i < 2; i++) {
        peers[i] = PEER(.behave = PEER_TOKEN, .own_process = true, .family = i ? AF_UNIX : AF_INET,
                        .record_connections = 1);
        if (!peers[i])
            return stress_end("no peer");
        addresses[i] = peer_address(peers[i]);
    }
    descriptors = count_descriptors();
    blocks = stress_blocks();
    if (pool_mux_create(&mux) ||
        pool_create(POOL_OPTIONS(.mux = mux, .max_per_address = 3, .park_ms = 1), &steady))
        return stress_end("no pool");
    atomic_store(&passing, NULL);
    if (pthread_create(&dispatcher, NULL, dispatch, NULL))
        return stress_end("no thread");
    replace_passing();
    run_threads(RESTARTER + 1, take_part, NULL);
    pool_destroy(atomic_load(&passing));
    pool_destroy(steady);
    atomic_store(&is_over, true);
    pthread_join(dispatcher, NULL);
    pool_mux_destroy(mux);
    for (unsigned i = 0; i < 2; i++) {
        if (!peer_wait_open(peers[i], 0, 10000))
            stress_fail("the peer has connections left");
    }
    stress_expect_nothing_left(descriptors, blocks, "in the end");
    for (unsigned i = 0; i < 2; i++)
        peer_stop(peers[i]);
    return stress_end("%llu asked, %llu children, %llu of them from inside a use", asked, children,
                      inside);
}
