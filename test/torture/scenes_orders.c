/* scenes_orders.c: what a program orders its pool to do: clear, pause, kill, close, keep room. */
#include "torture/scenes.h"

/* An order says whether it was taken; no fault but a lack of memory may stop one. */
static bool is_taken(struct torture *torture, enum pool_status status, const char *order)
{
    torture_check_status(torture, status, order);
    torture_check(torture, !status || status == POOL_E_MEMORY);
    return status == POOL_OK;
}

static bool borrow(struct torture *torture, const char *address, struct pool_conn *conn)
{
    enum pool_status status =
        pool_borrow(torture->pool, address, POOL_CALL(.timeout_ms = 1000), conn);

    torture_check_status(torture, status, "pool_borrow");
    return status == POOL_OK;
}

static uint64_t idle_ones(struct torture *torture)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    torture_check(torture, pool_stats(torture->pool, &stats) == POOL_OK);
    return stats.idle;
}

/* ---- clear */

/* Hot, parked and lent ones; what is lent ends in the call, or when it is returned. */
static void clear_all(struct torture *torture)
{
    struct pool_conn conn;
    char byte;
    unsigned accepted;

    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 400);
    TORTURE_ASK(torture, .address = TCP2);
    if (is_taken(torture, pool_clear(torture->pool, NULL, 0), "pool_clear"))
        torture_check(torture, idle_ones(torture) == 0);
    world_settle(torture->world);
    accepted = world_counts(torture->peer).accepted;
    TORTURE_ASK(torture, .address = TCP);
    torture_must(torture, world_counts(torture->peer).accepted == accepted + 1);
    if (!borrow(torture, TCP, &conn))
        return;
    if (is_taken(torture, pool_clear(torture->pool, TCP, POOL_INTERRUPT), "pool_clear")) {
        torture_check(torture, pool_send(&conn, "x", 1) == POOL_E_CLEARED);
        torture_check(torture, pool_recv_exact(&conn, &byte, 1) == POOL_E_CLEARED);
    }
    torture_check(torture, pool_return(&conn) == POOL_OK);
    if (borrow(torture, TCP, &conn)) {
        is_taken(torture, pool_clear(torture->pool, NULL, 0), "pool_clear");
        torture_check(torture, pool_return(&conn) == POOL_OK);
    }
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_clear = { "clear", .exercise = clear_all };

static void clear_later(void *user)
{
    struct torture *torture = user;

    is_taken(torture, pool_clear(torture->pool, TCP, POOL_THEN_PAUSE), "pool_clear");
}

/* Somebody waits when it is cleared; the pool is paused after. */
static void clear_while_asking(struct torture *torture)
{
    world_at(torture->world, 30, clear_later, torture);
    TORTURE_ASK(torture, .address = TCP, .timeout_ms = 500, .expected = POOL_E_CLEARED);
    world_run(torture->world, 50);
    torture_check(torture, pool_ready(torture->pool) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP2);
}

static void listen_blackly(struct torture *torture)
{
    WORLD_LISTEN(torture->world, TCP, .behave = WORLD_BLACK_HOLE);
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_ECHO);
}

const struct scenario scene_clear_connecting = { "clear-connecting", .furnish = listen_blackly,
                                                 .exercise = clear_while_asking };

static void pause_and_go_on(struct torture *torture)
{
    struct pool_conn conn;
    bool is_lent = borrow(torture, TCP, &conn);

    torture_check(torture, pool_pause(torture->pool) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP, .expected = POOL_E_CLEARED);
    if (is_lent)
        torture_check(torture, pool_return(&conn) == POOL_OK);
    torture_check(torture, pool_ready(torture->pool) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_pause = { "pause", .exercise = pause_and_go_on };

/* ---- kill */

static int note_id(struct pool_conn *conn, void *user)
{
    struct torture *torture = user;

    torture->heard = (unsigned)pool_conn_id(conn);
    return torture_exchange(conn, user);
}

static void kill_idle_and_lent(struct torture *torture)
{
    struct pool_conn conn;
    char byte;

    for (int i = 0; i < 2; i++) {
        torture->heard = 0;
        TORTURE_ASK(torture, .address = TCP, .use = note_id);
        if (i)
            world_run(torture->world, 400);
        torture_must(torture, pool_kill(torture->pool, torture->heard));
        torture_check(torture, !pool_kill(torture->pool, torture->heard));
    }
    if (borrow(torture, TCP, &conn)) {
        torture_check(torture, pool_kill(torture->pool, pool_conn_id(&conn)));
        torture_check(torture, pool_send(&conn, "x", 1) == POOL_E_BROKEN);
        torture_check(torture, pool_return(&conn) == POOL_OK);
    }
    if (borrow(torture, TCP, &conn)) {
        torture_check(torture, pool_force_timeout(torture->pool, pool_conn_id(&conn)));
        torture_check(torture, pool_recv_exact(&conn, &byte, 1) == POOL_E_TIMEOUT);
        torture_check(torture, pool_discard(&conn) == POOL_OK);
    }
    TORTURE_ASK(torture, .address = TCP);
}

/* A fault that stays makes the peer fail; here nobody pauses for that. */
#define NO_PAUSES .backoff_first_ms = POOL_ZERO, .suspend_after = POOL_ZERO

const struct scenario scene_kill = { "kill", .options = { NO_PAUSES },
                                     .exercise = kill_idle_and_lent };

static void kill_any(void *user)
{
    struct torture *torture = user;

    for (uint64_t id = 1; id < 200; id++)
        pool_kill(torture->pool, id);
}

/* Without memory it cannot be brought to the mux, and goes on. */
static void kill_while_asking(struct torture *torture)
{
    world_at(torture->world, 30, kill_any, torture);
    TORTURE_ASK(torture, .address = TCP, .timeout_ms = 500, .expected = POOL_E_BROKEN);
    world_run(torture->world, 50);
    TORTURE_ASK(torture, .address = TCP2);
}

const struct scenario scene_kill_connecting = { "kill-connecting", .furnish = listen_blackly,
                                                .exercise = kill_while_asking };

static int be_late_at_first(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct torture *torture = user;

    (void)conn, (void)actor;
    return torture->attached++ ? 0 : POOL_LATER;
}

static void kill_in_setup(struct torture *torture)
{
    torture->attached = 0;
    world_at(torture->world, 30, kill_any, torture);
    TORTURE_ASK(torture, .address = TCP, .timeout_ms = 500, .expected = POOL_E_BROKEN);
    world_run(torture->world, 50);
    kill_any(torture);
    torture->attached = 1;
    TORTURE_ASK(torture, .address = TCP);
    kill_any(torture); /* played again, it must open anew */
}

const struct scenario scene_kill_setup = {
    "kill-setup", .options = { NO_PAUSES, .on_new_connection = be_late_at_first },
    .exercise = kill_in_setup
};

/* ---- close; a pool of its own, as the torture's must stay */

struct closed {
    struct torture *torture;
    struct pool *pool;
    struct pool_conn conn;
    unsigned told;
};

static void on_closed(void *user)
{
    ((struct closed *)user)->told++;
}

static void give_back(void *user)
{
    struct closed *closed = user;

    torture_check(closed->torture, pool_return(&closed->conn) == POOL_OK);
}

/* One is lent, one idle, one waited for; they finish, or are forced, or the pool ends first. */
static void close_in_work(struct torture *torture, uint32_t drain_ms, bool waits)
{
    struct closed closed = { .torture = torture };
    struct pool_conn conn;
    bool is_lent, is_closing;

    torture_check_status(torture, pool_create(POOL_OPTIONS(.max_per_address = 1), &closed.pool),
                         "pool_create");
    if (!closed.pool)
        return;
    pool_communicate(closed.pool, TCP2, torture_exchange, torture, POOL_CALL(.timeout_ms = 1000));
    is_lent = pool_borrow(closed.pool, TCP, POOL_CALL(.timeout_ms = 1000), &closed.conn) == POOL_OK;
    is_closing =
        is_taken(torture, pool_close(closed.pool, drain_ms, on_closed, &closed), "pool_close");
    if (is_closing)
        torture_check(torture, pool_borrow(closed.pool, TCP, NULL, &conn) == POOL_E_CLOSING);
    if (is_lent)
        world_at(torture->world, 50, give_back, &closed);
    if (waits)
        world_run(torture->world, 200);
    torture_check(torture, !waits || closed.told == is_closing);
    pool_destroy(closed.pool);
    torture_check(torture, closed.told == is_closing);
    world_run(torture->world, 100);
    torture_check(torture, closed.told == is_closing);
}

static void close_all(struct torture *torture)
{
    close_in_work(torture, POOL_NONE, true);
    close_in_work(torture, 10, true);
    close_in_work(torture, 0, true);
    close_in_work(torture, 1000, false);
}

const struct scenario scene_close = { "close", .exercise = close_all };

/* ---- room for the program */

static void reserve_room(struct torture *torture)
{
    static const char *const places[] = { TCP, TCP2, "tcp://10.0.0.3:80", "tcp://10.0.0.4:80" };
    enum pool_status status;

    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++)
        TORTURE_ASK(torture, .address = places[i]);
    status = pool_reserve_fds(torture->pool, 2);
    torture_check(torture, status == POOL_OK || (!torture->is_strict && status == POOL_E_RESOURCE));
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        TORTURE_ASK(torture, .address = places[i]);
        if (!status)
            torture_check(torture, idle_ones(torture) <= 2);
    }
    torture_check(torture, pool_reserve_fds(torture->pool, 0) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP);
}

static void listen_on_four(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_ECHO);
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_ECHO);
    WORLD_LISTEN(torture->world, "tcp://10.0.0.3:80", .behave = WORLD_ECHO);
    WORLD_LISTEN(torture->world, "tcp://10.0.0.4:80", .behave = WORLD_ECHO);
}

const struct scenario scene_reserve = { "reserve", .descriptors = 10, .furnish = listen_on_four,
                                        .exercise = reserve_room };
