/* scenes_mux.c: one mux for two pools, and pools that end while somebody is at work in them. */
#include "torture/scenes.h"

#include <signal.h>
#include <string.h>

#include "mux/mux.h"

/* ---- two pools on a mux of the program's, which one of its threads dispatches */

struct loop {
    struct pool_mux *mux;
    pthread_t thread;
    bool is_over;
};

static bool dispatch(void *argument)
{
    struct loop *loop = argument;

    pool_mux_dispatch(loop->mux, POOL_NONE);
    return !loop->is_over;
}

static void ring(void *user)
{
    ++*(unsigned *)user;
}

static bool start_loop(struct torture *torture, struct loop *loop)
{
    const struct pl_os *os = world_os(torture->world);

    torture_check_status(torture, pool_mux_create(&loop->mux), "pool_mux_create");
    return loop->mux && !os->thread_start(&loop->thread, dispatch, loop);
}

static void stop_loop(struct torture *torture, struct loop *loop)
{
    const struct pl_os *os = world_os(torture->world);

    loop->is_over = true;
    pool_mux_stop(loop->mux);
    os->thread_join(loop->thread);
    pool_mux_destroy(loop->mux);
}

static void time_it(struct torture *torture, struct pool_mux *mux)
{
    struct pool_timer *timer = NULL;
    unsigned rung = 0;
    enum pool_status status = pool_mux_after(mux, 10, ring, &rung, &timer);

    torture_check_status(torture, status, "pool_mux_after");
    if (status)
        return;
    world_run(torture->world, 20);
    torture_check(torture, rung == 1);
    torture_check(torture, pool_timer_again(timer, 5) == POOL_OK);
    world_run(torture->world, 20);
    torture_check(torture, rung == 2);
    pool_timer_cancel(timer);
}

/* The second pool needs the descriptor that the first one has idle. */
static void ask_in_both(struct torture *torture, struct pool *first, struct pool *second)
{
    for (int i = 0; i < 3; i++) {
        torture->pool = first;
        TORTURE_ASK(torture, .address = TCP);
        torture->pool = second;
        TORTURE_ASK(torture, .address = TCP2);
        world_run(torture->world, 150);
    }
}

static void share_mux(struct torture *torture)
{
    struct pool *own = torture->pool, *first = NULL, *second = NULL;
    struct loop loop = { 0 };

    if (!start_loop(torture, &loop))
        return;
    torture_check_status(torture, pool_create(POOL_OPTIONS(.mux = loop.mux), &first),
                         "pool_create");
    torture_check_status(torture, pool_create(POOL_OPTIONS(.mux = loop.mux), &second),
                         "pool_create");
    if (first && second)
        ask_in_both(torture, first, second);
    torture->pool = own;
    time_it(torture, loop.mux);
    pool_destroy(first);
    pool_destroy(second);
    stop_loop(torture, &loop);
}

const struct scenario scene_shared_mux = { "shared-mux", .descriptors = 10, .exercise = share_mux };

/* ---- signals */

static void listen_to_signals(struct torture *torture)
{
    static const int signals[] = { SIGHUP, SIGTERM, SIGHUP };
    enum pool_status statuses[PL_COUNT(signals)];
    unsigned told[PL_COUNT(signals)] = { 0 };
    struct loop loop = { 0 };

    if (!start_loop(torture, &loop))
        return;
    for (size_t i = 0; i < PL_COUNT(signals); i++) {
        statuses[i] = pool_mux_signal(loop.mux, signals[i], ring, &told[i]);
        torture_check_status(torture, statuses[i], "pool_mux_signal");
    }
    for (unsigned round = 1; round <= 3; round++) {
        if (!statuses[0] || !statuses[2])
            world_signal(torture->world, SIGHUP);
        if (!statuses[1])
            world_signal(torture->world, SIGTERM);
        world_run(torture->world, 5);
        for (size_t i = 0; i < PL_COUNT(signals); i++)
            torture_check(torture, told[i] == (statuses[i] ? 0 : round));
    }
    stop_loop(torture, &loop);
}

const struct scenario scene_signals = { "signals", .exercise = listen_to_signals };

/* ---- the end of a pool while somebody waits in it */

static void end_pool(void *user)
{
    struct torture *torture = user;

    pool_destroy(torture->pool);
}

static bool may_end(enum pool_status status)
{
    return status == POOL_E_CLOSING || status == POOL_E_MEMORY || status == POOL_E_RESOURCE ||
           status == POOL_E_CONNECT || status == POOL_E_REFUSED || status == POOL_E_ACCESS ||
           status == POOL_E_BROKEN || status == POOL_E_TIMEOUT || status == POOL_E_ADDRESS;
}

/* A pool of its own, as the torture's must stay. */
static void end_while_asking(struct torture *torture, const struct pool_options *options)
{
    struct torture inner = *torture;
    enum pool_status status = pool_create(options, &inner.pool);

    torture_check_status(torture, status, "pool_create");
    if (status)
        return;
    world_at(torture->world, 30, end_pool, &inner);
    status =
        pool_communicate(inner.pool, TCP, torture_exchange, &inner, POOL_CALL(.timeout_ms = 1000));
    torture_check(torture, torture->is_strict ? status == POOL_E_CLOSING : may_end(status));
    world_run(torture->world, 50);
}

static void listen_silently(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_SILENT);
}

static void listen_blackly(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_BLACK_HOLE);
}

static void end_plain(struct torture *torture)
{
    end_while_asking(torture, NULL);
}

const struct scenario scene_end_in_use = { "end-in-use", .furnish = listen_silently,
                                           .exercise = end_plain };
const struct scenario scene_end_in_connect = { "end-in-connect", .furnish = listen_blackly,
                                               .exercise = end_plain };

/* The end waits for a hook that runs on another thread, and here there is but one: the hook itself
 * ends the pool. */
static int prepare_the_end(struct pool_conn *conn, void *user)
{
    struct pool **pool = user;
    char byte;

    pool_destroy(*pool);
    *pool = NULL;
    return pool_recv_exact(conn, &byte, 1);
}

static void end_in_prepare(struct torture *torture)
{
    struct pool *pool;
    enum pool_status status =
        pool_create(POOL_OPTIONS(.prepare = prepare_the_end, .user = &pool), &pool);

    torture_check_status(torture, status, "pool_create");
    if (status)
        return;
    status = pool_communicate(pool, TCP, torture_exchange, torture, POOL_CALL(.timeout_ms = 1000));
    torture_check(torture, torture->is_strict ? status == POOL_E_CLOSING : may_end(status));
    pool_destroy(pool);                 /* the hook may never have run */
    world_run(torture->world, 50);
}

const struct scenario scene_end_in_prepare = { "end-in-prepare", .furnish = listen_silently,
                                               .exercise = end_in_prepare };

static int never_ready(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)actor, (void)user;
    return POOL_LATER;
}

static void end_in_setup(struct torture *torture)
{
    end_while_asking(torture, POOL_OPTIONS(.on_new_connection = never_ready));
}

const struct scenario scene_end_in_setup = { "end-in-setup", .furnish = listen_silently,
                                             .exercise = end_in_setup };

/* One waits for the connection that another has when the pool ends; the other gives it back
 * after. */
static void end_while_queued(struct torture *torture)
{
    struct torture inner = *torture;
    struct pool_conn conn;
    enum pool_status status = pool_create(POOL_OPTIONS(.max_per_address = 1), &inner.pool);

    torture_check_status(torture, status, "pool_create");
    if (status)
        return;
    status = pool_borrow(inner.pool, TCP, NULL, &conn);
    torture_check_status(torture, status, "pool_borrow");
    world_at(torture->world, 30, end_pool, &inner);
    if (!status) {
        status = pool_communicate(inner.pool, TCP, torture_exchange, &inner,
                                  POOL_CALL(.timeout_ms = 1000));
        torture_check(torture,
                      status == POOL_E_CLOSING || (!torture->is_strict && may_end(status)));
        world_run(torture->world, 50);
        torture_check(torture, pool_return(&conn) == POOL_OK);
    } else {
        world_run(torture->world, 50);
    }
}

const struct scenario scene_end_queued = { "end-queued", .exercise = end_while_queued };

/* An actor ends the pool that it belongs to. */
static int end_when_told(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct torture *inner = user;

    (void)conn, (void)message;
    pool_destroy(inner->pool);
    inner->pool = NULL;
    return 0;
}

static int attach_ender(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = end_when_told;
    actor->user = user;
    return 0;
}

static void end_in_actor(struct torture *torture)
{
    struct torture inner = *torture;
    unsigned last;

    torture_check_status(
        torture,
        pool_create(POOL_OPTIONS(.on_new_connection = attach_ender, .user = &inner), &inner.pool),
        "pool_create");
    if (!inner.pool)
        return;
    TORTURE_ASK(&inner, .address = TCP);
    torture->failures += inner.failures - torture->failures;
    torture->asked = inner.asked;
    world_run(torture->world, 300);
    last = world_counts(torture->peer).accepted;
    if (last)
        world_say_text(world_link_at(torture->peer, last - 1), "end\n");
    world_run(torture->world, 50);
    torture_must(torture, !inner.pool);
    pool_destroy(inner.pool);
    world_run(torture->world, 50);
}

const struct scenario scene_end_in_actor = { "end-in-actor", .exercise = end_in_actor };
