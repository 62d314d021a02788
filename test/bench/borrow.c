/* borrow.c: what lending a warm connection costs, without any bytes on it.
 *
 * The pool's own mux thread is alive in all of them, so neither side runs with the shortcuts that
 * the C library takes in programs of one thread.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"
#include "peer.h"

#define ROUNDS 41u
#define FAST_TIMES 100000u
#define CHECKED_TIMES 10000u
#define PAIR_TIMES 300000u

/* One pool with a warm connection, and a bare one to the same peer. */
struct stage {
    struct echo echo;
    struct pool *pool;
    struct pool_call call; /* by target */
    pthread_mutex_t mutex;
    int bare_fd;
};

/* Two threads of one stage; the second one waits at `begin` between rounds. */
struct pair {
    struct stage stage;
    pthread_barrier_t begin, end;
    uint64_t second_begun_ns, second_ended_ns;
    bool is_over;
};

static void stage_open(struct stage *stage, enum pool_check check)
{
    pin_to_core(0);
    echo_start(&stage->echo, 1);
    need_ok(pool_create(POOL_OPTIONS(.check = check), &stage->pool), "pool_create");
    pool_call_init(&stage->call);
    need_ok(pool_target_get(stage->pool, stage->echo.addresses[0], &stage->call.target),
            "pool_target_get");
    pthread_mutex_init(&stage->mutex, NULL);
    stage->bare_fd = echo_connect(&stage->echo, 0);
}

static void stage_close(struct stage *stage)
{
    close(stage->bare_fd);
    pthread_mutex_destroy(&stage->mutex);
    pool_target_free(stage->call.target);
    pool_destroy(stage->pool);
    echo_stop(&stage->echo);
}

static void borrow_by_target(struct stage *stage, unsigned times)
{
    struct pool_conn conn;

    for (unsigned i = 0; i < times; i++) {
        need_ok(pool_borrow(stage->pool, NULL, &stage->call, &conn), "pool_borrow");
        need_ok(pool_return(&conn), "pool_return");
    }
}

/* The first one is not measured: it may have to take the connection back from the mux. */
static double time_borrows(struct stage *stage, unsigned times)
{
    uint64_t start_ns;

    borrow_by_target(stage, 1);
    start_ns = now_ns();
    borrow_by_target(stage, times);
    return (double)(now_ns() - start_ns) / times;
}

static double round_borrow(void *user)
{
    return time_borrows(user, FAST_TIMES);
}

static double round_mutex(void *user)
{
    struct stage *stage = user;
    uint64_t start_ns = now_ns();

    for (unsigned i = 0; i < FAST_TIMES; i++) {
        pthread_mutex_lock(&stage->mutex);
        pthread_mutex_unlock(&stage->mutex);
    }
    return (double)(now_ns() - start_ns) / FAST_TIMES;
}

void figure_borrow(const char *name)
{
    struct stage stage;

    stage_open(&stage, POOL_CHECK_NEVER);
    report_comparison(name, alternate(ROUNDS, round_borrow, round_mutex, &stage), 2);
    stage_close(&stage);
}

static double round_borrow_checked(void *user)
{
    return time_borrows(user, CHECKED_TIMES);
}

static double round_mutex_checked(void *user)
{
    struct stage *stage = user;
    uint64_t start_ns = now_ns(), cookie;
    socklen_t size;
    char byte;

    for (unsigned i = 0; i < CHECKED_TIMES; i++) {
        size = sizeof(cookie);
        pthread_mutex_lock(&stage->mutex);
        need(recv(stage->bare_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
                 getsockopt(stage->bare_fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0,
             "looking at a bare connection");
        pthread_mutex_unlock(&stage->mutex);
    }
    return (double)(now_ns() - start_ns) / CHECKED_TIMES;
}

void figure_borrow_check(const char *name)
{
    struct stage stage;

    stage_open(&stage, POOL_CHECK_ALWAYS);
    report_comparison(name, alternate(ROUNDS, round_borrow_checked, round_mutex_checked, &stage),
                      1.1);
    stage_close(&stage);
}

static double round_borrow_text(void *user)
{
    struct stage *stage = user;
    struct pool_conn conn;
    uint64_t start_ns;

    borrow_by_target(stage, 1);
    start_ns = now_ns();
    for (unsigned i = 0; i < FAST_TIMES; i++) {
        need_ok(pool_borrow(stage->pool, stage->echo.addresses[0], NULL, &conn), "pool_borrow");
        need_ok(pool_return(&conn), "pool_return");
    }
    return (double)(now_ns() - start_ns) / FAST_TIMES;
}

void figure_borrow_text(const char *name)
{
    struct stage stage;

    stage_open(&stage, POOL_CHECK_NEVER);
    report_comparison(name, alternate(ROUNDS, round_borrow_text, round_borrow, &stage), BENCH_NONE);
    stage_close(&stage);
}

/* ---- two threads */

static double round_alone(void *user)
{
    struct pair *pair = user;

    return time_borrows(&pair->stage, PAIR_TIMES);
}

/* Wall time from the first one's start to the last one's end. */
static double round_both(void *user)
{
    struct pair *pair = user;
    uint64_t begun_ns, ended_ns;

    borrow_by_target(&pair->stage, 1);
    pthread_barrier_wait(&pair->begin);
    begun_ns = now_ns();
    borrow_by_target(&pair->stage, PAIR_TIMES);
    ended_ns = now_ns();
    pthread_barrier_wait(&pair->end);
    if (pair->second_begun_ns < begun_ns)
        begun_ns = pair->second_begun_ns;
    if (pair->second_ended_ns > ended_ns)
        ended_ns = pair->second_ended_ns;
    return (double)(ended_ns - begun_ns) / (2 * PAIR_TIMES);
}

static void *run_second(void *argument)
{
    struct pair *pair = argument;

    pin_to_core(1);
    for (;;) {
        pthread_barrier_wait(&pair->begin);
        if (pair->is_over)
            return NULL;
        pair->second_begun_ns = now_ns();
        borrow_by_target(&pair->stage, PAIR_TIMES);
        pair->second_ended_ns = now_ns();
        pthread_barrier_wait(&pair->end);
    }
}

/* Two at once, so that there is one connection for each thread. */
static void open_two(struct stage *stage)
{
    struct pool_conn first, second;

    need_ok(pool_borrow(stage->pool, NULL, &stage->call, &first), "pool_borrow");
    need_ok(pool_borrow(stage->pool, NULL, &stage->call, &second), "pool_borrow");
    need_ok(pool_return(&first), "pool_return");
    need_ok(pool_return(&second), "pool_return");
}

static void need_two_connections(struct pool *pool)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    need_ok(pool_stats(pool, &stats), "pool_stats");
    if (stats.opened != 2)
        fprintf(stderr, "bench: borrow2 opened %llu connections, not 2\n",
                (unsigned long long)stats.opened);
}

void figure_borrow2(const char *name)
{
    struct pair pair = { .is_over = false };
    pthread_t second;

    stage_open(&pair.stage, POOL_CHECK_NEVER);
    pthread_barrier_init(&pair.begin, NULL, 2);
    pthread_barrier_init(&pair.end, NULL, 2);
    open_two(&pair.stage);
    need(pthread_create(&second, NULL, run_second, &pair) == 0, "pthread_create");
    report_comparison(name, alternate(ROUNDS, round_both, round_alone, &pair), 1);
    need_two_connections(pair.stage.pool);
    pair.is_over = true;
    pthread_barrier_wait(&pair.begin);
    pthread_join(second, NULL);
    pthread_barrier_destroy(&pair.begin);
    pthread_barrier_destroy(&pair.end);
    stage_close(&pair.stage);
}
