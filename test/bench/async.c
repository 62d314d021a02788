/* async.c: what asynchronous borrowing costs, and what waiting costs.
 *
 * async: from pool_communicate_async() to on_lent and back, warm, one after the other on the mux
 * thread. async-cross: the same started from another thread, which is told back by an eventfd;
 * beside it two threads that hand a bare eventfd to and fro. waiters: more threads than
 * connections.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/os.h"
#include "bench.h"
#include "peer.h"

#define ROUNDS 41u
#define ASYNC_TIMES 50000u
#define CROSS_TIMES 2000u
#define WAITERS 64u
#define WAITED_FOR 32u
#define WAITER_TIMES 2000u
#define WAITER_ROUNDS 15u

/* ---- on the mux thread */

struct async {
    struct echo echo;
    struct pool_mux *mux;
    struct pool *pool;
    struct pool_call call; /* by target */
    unsigned left;
};

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct async *async = user;

    need(!error, "a warm connection");
    need_ok(pool_return(conn), "pool_return");
    if (--async->left)
        need_ok(pool_communicate_async(async->pool, NULL, on_lent, async, &async->call, NULL),
                "pool_communicate_async");
}

static void chain(struct async *async, unsigned times)
{
    async->left = times;
    need_ok(pool_communicate_async(async->pool, NULL, on_lent, async, &async->call, NULL),
            "pool_communicate_async");
    while (async->left)
        need_ok(pool_mux_dispatch(async->mux, POOL_NONE), "pool_mux_dispatch");
}

static double round_async(void *user)
{
    uint64_t start_ns;

    chain(user, 1);
    start_ns = now_ns();
    chain(user, ASYNC_TIMES);
    return (double)(now_ns() - start_ns) / ASYNC_TIMES;
}

static double round_blocking(void *user)
{
    struct async *async = user;
    uint64_t start_ns = now_ns();
    struct pool_conn conn;

    for (unsigned i = 0; i < ASYNC_TIMES; i++) {
        need_ok(pool_borrow(async->pool, NULL, &async->call, &conn), "pool_borrow");
        need_ok(pool_return(&conn), "pool_return");
    }
    return (double)(now_ns() - start_ns) / ASYNC_TIMES;
}

/* A pool whose mux the thread that measures drives itself. A second pool keeps a thread alive, so
 * that the C library takes no shortcuts, as in borrow.c. */
void figure_async(const char *name)
{
    struct async async = { .left = 0 };
    struct pool *other;

    pin_to_core(0);
    echo_start(&async.echo, 1);
    need_ok(pool_create(NULL, &other), "pool_create");
    need_ok(pool_mux_create(&async.mux), "pool_mux_create");
    need_ok(pool_create(POOL_OPTIONS(.mux = async.mux, .check = POOL_CHECK_NEVER), &async.pool),
            "pool_create");
    pool_call_init(&async.call);
    need_ok(pool_target_get(async.pool, async.echo.addresses[0], &async.call.target),
            "pool_target_get");
    report_comparison(name, alternate(ROUNDS, round_async, round_blocking, &async), 3);
    pool_target_free(async.call.target);
    pool_destroy(async.pool);
    pool_mux_destroy(async.mux);
    pool_destroy(other);
    echo_stop(&async.echo);
}

/* ---- from another thread */

struct cross {
    struct echo echo;
    struct pool *pool;
    struct pool_call call;
    int told_fd; /* on_lent says so */
    int there_fd, back_fd; /* the bare ping-pong */
    atomic_bool is_over;
};

static void ring(int fd)
{
    uint64_t one = 1;

    need(write(fd, &one, sizeof(one)) == sizeof(one), "writing to an eventfd");
}

static void wait_for(int fd)
{
    uint64_t number;

    need(read(fd, &number, sizeof(number)) == sizeof(number), "reading an eventfd");
}

static void on_lent_there(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct cross *cross = user;

    need(!error, "a connection");
    need_ok(pool_return(conn), "pool_return");
    ring(cross->told_fd);
}

static double round_cross(void *user)
{
    struct cross *cross = user;
    uint64_t start_ns = now_ns();

    for (unsigned i = 0; i < CROSS_TIMES; i++) {
        need_ok(pool_communicate_async(cross->pool, NULL, on_lent_there, cross, &cross->call, NULL),
                "pool_communicate_async");
        wait_for(cross->told_fd);
    }
    return (double)(now_ns() - start_ns) / CROSS_TIMES;
}

static double round_bare(void *user)
{
    struct cross *cross = user;
    uint64_t start_ns = now_ns();

    for (unsigned i = 0; i < CROSS_TIMES; i++) {
        ring(cross->there_fd);
        wait_for(cross->back_fd);
    }
    return (double)(now_ns() - start_ns) / CROSS_TIMES;
}

static void *answer(void *argument)
{
    struct cross *cross = argument;

    for (wait_for(cross->there_fd); !cross->is_over; wait_for(cross->there_fd))
        ring(cross->back_fd);
    return NULL;
}

static int open_eventfd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC);

    need(fd >= 0, "eventfd");
    return fd;
}

/* The mux thread and the one that answers stand on one core, the one that measures on another. */
void figure_async_cross(const char *name)
{
    struct cross cross = { .told_fd = open_eventfd(),
                           .there_fd = open_eventfd(),
                           .back_fd = open_eventfd() };
    pthread_t thread;

    pin_to_core(1);
    echo_start(&cross.echo, 1);
    need_ok(pool_create(POOL_OPTIONS(.check = POOL_CHECK_NEVER), &cross.pool), "pool_create");
    need(pthread_create(&thread, NULL, answer, &cross) == 0, "pthread_create");
    pin_to_core(0);
    pool_call_init(&cross.call);
    need_ok(pool_target_get(cross.pool, cross.echo.addresses[0], &cross.call.target),
            "pool_target_get");
    report_comparison(name, alternate(ROUNDS, round_cross, round_bare, &cross), 1.3);
    pool_target_free(cross.call.target);
    pool_destroy(cross.pool);
    atomic_store(&cross.is_over, true);
    ring(cross.there_fd);
    pthread_join(thread, NULL);
    echo_stop(&cross.echo);
}

/* ---- many threads over fewer connections */

struct crowd {
    struct echo echo;
    struct pool *pool;
    struct pool_call call;
    pthread_barrier_t begin, end;
    bool is_over;
};

static __thread unsigned own_waits; /* of this thread, that have ended */
static atomic_ullong wakes, grants; /* in all; and borrows that had to wait at all */

static int counting_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    own_waits++;
    return pl_os_real.sleep_until(word, expected, deadline_ns);
}

static void *be_one_of_many(void *argument)
{
    struct crowd *crowd = argument;
    struct pool_conn conn;

    for (;;) {
        pthread_barrier_wait(&crowd->begin);
        if (crowd->is_over)
            return NULL;
        for (unsigned i = 0; i < WAITER_TIMES; i++) {
            need_ok(pool_borrow(crowd->pool, NULL, &crowd->call, &conn), "pool_borrow");
            need_ok(pool_return(&conn), "pool_return");
        }
        pthread_barrier_wait(&crowd->end);
    }
}

static double round_waiters(void *user)
{
    struct crowd *crowd = user;
    uint64_t start_ns;

    pthread_barrier_wait(&crowd->begin);
    start_ns = now_ns();
    pthread_barrier_wait(&crowd->end);
    return (double)(now_ns() - start_ns) / (WAITERS * WAITER_TIMES);
}

/* With its connections there from the beginning: all are lent at once, and returned. */
static void crowd_open(struct crowd *crowd, pthread_t *threads, void *(*run)(void *),
                       uint32_t barge_ms)
{
    struct pool_conn conns[WAITED_FOR];

    echo_start(&crowd->echo, -1);
    need_ok(pool_create(POOL_OPTIONS(.check = POOL_CHECK_NEVER, .max_per_address = WAITED_FOR,
                                     .timeout_ms = 60000, .barge_ms = barge_ms),
                        &crowd->pool),
            "pool_create");
    pool_call_init(&crowd->call);
    need_ok(pool_target_get(crowd->pool, crowd->echo.addresses[0], &crowd->call.target),
            "pool_target_get");
    for (unsigned i = 0; i < WAITED_FOR; i++)
        need_ok(pool_borrow(crowd->pool, NULL, &crowd->call, &conns[i]), "pool_borrow");
    for (unsigned i = 0; i < WAITED_FOR; i++)
        need_ok(pool_return(&conns[i]), "pool_return");
    pthread_barrier_init(&crowd->begin, NULL, WAITERS + 1);
    pthread_barrier_init(&crowd->end, NULL, WAITERS + 1);
    for (unsigned i = 0; i < WAITERS; i++)
        need(pthread_create(&threads[i], NULL, run, crowd) == 0, "pthread_create");
}

static void crowd_join(struct crowd *crowd, pthread_t *threads)
{
    for (unsigned i = 0; i < WAITERS; i++)
        pthread_join(threads[i], NULL);
    pool_target_free(crowd->call.target);
    pool_destroy(crowd->pool);
    pthread_barrier_destroy(&crowd->begin);
    pthread_barrier_destroy(&crowd->end);
    echo_stop(&crowd->echo);
}

/* Wall time for each borrow and return of all threads together. There is no limit: the best pool of
 * another world is measured at 52 to 58 ns where threads that find nothing spin in user space; ours
 * sleep, and a sleep and a wake-up cost what the kernel and the machine make of them. How often
 * that is needed is the next figure. */
void figure_waiters(const char *name)
{
    struct crowd crowd = { .is_over = false };
    pthread_t threads[WAITERS];

    crowd_open(&crowd, threads, be_one_of_many, 0);
    report(name, repeat(WAITER_ROUNDS, round_waiters, &crowd), BENCH_NONE);
    crowd.is_over = true;
    pthread_barrier_wait(&crowd.begin);
    crowd_join(&crowd, threads);
}

/* Who holds a connection lets the others run, so that they come to wait for it. */
static void *wait_in_turn(void *argument)
{
    struct crowd *crowd = argument;
    unsigned long long granted = 0, woken = 0;
    struct pool_conn conn;

    pthread_barrier_wait(&crowd->begin);
    for (unsigned i = 0; i < WAITER_TIMES; i++) {
        own_waits = 0;
        need_ok(pool_borrow(crowd->pool, NULL, &crowd->call, &conn), "pool_borrow");
        granted += own_waits > 0;
        woken += own_waits;
        sched_yield();
        need_ok(pool_return(&conn), "pool_return");
    }
    atomic_fetch_add(&grants, granted);
    atomic_fetch_add(&wakes, woken);
    return NULL;
}

/* Ends of waits for each borrow that had to wait, strictly in order: what is above 1 was woken for
 * nothing. */
void figure_waiters_wakes(const char *name)
{
    struct crowd crowd = { .is_over = false };
    struct pl_os door = pl_os_real;
    pthread_t threads[WAITERS];

    door.sleep_until = counting_wait;
    pl_os_replace(&door);
    crowd_open(&crowd, threads, wait_in_turn, POOL_ZERO);
    pthread_barrier_wait(&crowd.begin);
    crowd_join(&crowd, threads);
    need(grants > 0, "somebody waited");
    report(name, (double)wakes / (double)grants, 1.1);
    pl_os_replace(NULL);
}
