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
#define USERS 3u /* two threads, and one by events */

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

static void stage_open_on(struct stage *stage, enum pool_check check, struct pool_mux *mux)
{
    pin_to_core(0);
    echo_start(&stage->echo, 1);
    need_ok(pool_create(POOL_OPTIONS(.check = check, .mux = mux), &stage->pool), "pool_create");
    pool_call_init(&stage->call);
    need_ok(pool_target_get(stage->pool, stage->echo.addresses[0], &stage->call.target),
            "pool_target_get");
    pthread_mutex_init(&stage->mutex, NULL);
    stage->bare_fd = echo_connect(&stage->echo, 0);
}

static void stage_open(struct stage *stage, enum pool_check check)
{
    stage_open_on(stage, check, NULL);
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

/* So many at once, so that there is one connection for each user. */
static void open_connections(struct stage *stage, unsigned count)
{
    struct pool_conn conns[USERS];

    for (unsigned i = 0; i < count; i++)
        need_ok(pool_borrow(stage->pool, NULL, &stage->call, &conns[i]), "pool_borrow");
    for (unsigned i = 0; i < count; i++)
        need_ok(pool_return(&conns[i]), "pool_return");
}

static void need_connections(struct pool *pool, unsigned count)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    need_ok(pool_stats(pool, &stats), "pool_stats");
    if (stats.opened != count)
        fprintf(stderr, "bench: %llu connections were opened, not %u\n",
                (unsigned long long)stats.opened, count);
}

/* Two threads, and a user by events beside them if there is one. */
static void compare_two(const char *name, struct pair *pair, unsigned connections)
{
    pthread_t second;

    pthread_barrier_init(&pair->begin, NULL, 2);
    pthread_barrier_init(&pair->end, NULL, 2);
    need(pthread_create(&second, NULL, run_second, pair) == 0, "pthread_create");
    report_comparison(name, alternate(ROUNDS, round_both, round_alone, pair), 1);
    need_connections(pair->stage.pool, connections);
    pair->is_over = true;
    pthread_barrier_wait(&pair->begin);
    pthread_join(second, NULL);
    pthread_barrier_destroy(&pair->begin);
    pthread_barrier_destroy(&pair->end);
}

void figure_borrow2(const char *name)
{
    struct pair pair = { .is_over = false };

    stage_open(&pair.stage, POOL_CHECK_NEVER);
    open_connections(&pair.stage, 2);
    compare_two(name, &pair, 2);
    stage_close(&pair.stage);
}

/* ---- and event-driven code beside them, a thousand times a second, on the mux thread */

struct beside {
    struct stage *stage;
    struct pool_mux *mux;
    struct pool_timer *timer;
};

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)user;
    need(!error, "a connection");
    need_ok(pool_return(conn), "pool_return");
}

static void on_tick(void *user)
{
    struct beside *beside = user;

    need_ok(pool_communicate_async(beside->stage->pool, NULL, on_lent, NULL, &beside->stage->call,
                                   NULL),
            "pool_communicate_async");
    need_ok(pool_timer_again(beside->timer, 1), "pool_timer_again");
}

static void *run_beside(void *argument)
{
    struct beside *beside = argument;

    need_ok(pool_mux_run(beside->mux), "pool_mux_run");
    return NULL;
}

void figure_borrow2_async(const char *name)
{
    struct pair pair = { .is_over = false };
    struct beside beside = { .stage = &pair.stage };
    pthread_t thread;

    need_ok(pool_mux_create(&beside.mux), "pool_mux_create");
    need(pthread_create(&thread, NULL, run_beside, &beside) == 0, "pthread_create");
    rest_ms(50); /* it counts as the mux's thread once it runs it */
    stage_open_on(&pair.stage, POOL_CHECK_NEVER, beside.mux);
    open_connections(&pair.stage, 3);
    need_ok(pool_mux_after(beside.mux, POOL_NONE, on_tick, &beside, &beside.timer),
            "pool_mux_after");
    need_ok(pool_timer_again(beside.timer, 1), "pool_timer_again");
    compare_two(name, &pair, 3);
    pool_timer_cancel(beside.timer);
    stage_close(&pair.stage);
    pool_mux_stop(beside.mux);
    pthread_join(thread, NULL);
    pool_mux_destroy(beside.mux);
}
