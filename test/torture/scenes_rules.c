/* scenes_rules.c: what the options and the flags of a call ask for. */
#include "torture/scenes.h"

#include <string.h>

/* ---- how long a connection serves */

static void use_up(struct torture *torture)
{
    for (int i = 0; i < 4; i++)
        TORTURE_ASK(torture, .address = TCP);
    world_settle(torture->world);
    torture_must(torture, world_counts(torture->peer).open <= 1);
}

const struct scenario scene_max_uses = { "max-uses", .options = { .max_uses = 2 },
                                         .exercise = use_up };

static void grow_old(struct torture *torture)
{
    for (int i = 0; i < 3; i++) {
        TORTURE_ASK(torture, .address = TCP);
        world_run(torture->world, 400);
    }
}

const struct scenario scene_max_age = { "max-age", .options = { .max_age_ms = 300 },
                                        .exercise = grow_old };

static int drain_in_use(struct pool_conn *conn, void *user)
{
    pool_conn_drain(conn);
    return torture_exchange(conn, user);
}

static void drain(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .use = drain_in_use);
    world_settle(torture->world);
    torture_must(torture, world_counts(torture->peer).open == 0);
    TORTURE_ASK(torture, .address = TCP);
    pool_remove_some_connection(torture->pool);
    world_settle(torture->world);
    torture_must(torture, world_counts(torture->peer).open == 0);
}

const struct scenario scene_drain = { "drain", .exercise = drain };

/* ---- flags */

static int send_only(struct pool_conn *conn, void *user)
{
    (void)user;
    return pool_send(conn, "no answer is due", 16) ? 1 : 0;
}

static void send_one_way(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .use = send_only, .flags = POOL_ONE_WAY);
    TORTURE_ASK(torture, .address = TCP, .use = send_only, .flags = POOL_ONE_WAY);
}

static void listen_silently(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_SILENT);
}

const struct scenario scene_one_way = { "one-way", .furnish = listen_silently,
                                        .exercise = send_one_way };

static void do_not_wait(struct torture *torture)
{
    struct pool_conn conn;
    enum pool_status status = pool_borrow(torture->pool, TCP, NULL, &conn);

    torture_check_status(torture, status, "pool_borrow");
    TORTURE_ASK(torture, .address = TCP, .flags = POOL_DONT_WAIT,
                .expected = status ? POOL_OK : POOL_E_FULL);
    if (!status)
        torture_check(torture, pool_return(&conn) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP, .flags = POOL_DONT_WAIT);
}

const struct scenario scene_dont_wait = { "dont-wait", .options = { .max_per_address = 1 },
                                          .exercise = do_not_wait };

/* ---- when there is no room */

static enum pool_decision give_up(struct pool *pool, void *user)
{
    (void)pool, (void)user;
    return POOL_ABORT;
}

static void find_no_room(struct torture *torture)
{
    struct pool_conn conn;
    enum pool_status status = pool_borrow(torture->pool, TCP, NULL, &conn);

    torture_check_status(torture, status, "pool_borrow");
    TORTURE_ASK(torture, .address = TCP2, .expected = status ? POOL_OK : POOL_E_RESOURCE);
    if (!status)
        torture_check(torture, pool_return(&conn) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP2);
}

const struct scenario scene_no_room = { "no-room", .options = { .on_none_removable = give_up },
                                        .descriptors = 7, .exercise = find_no_room };
const struct scenario scene_no_share = { "no-share", .options = { .on_none_removable = give_up,
                                                                  .max_connections = 1 },
                                         .exercise = find_no_room };
const struct scenario scene_no_room_late = { "no-room-late", .descriptors = 7,
                                             .exercise = find_no_room };

/* ---- peers that do not take or give */

#define BIG 300000

static int send_big(struct pool_conn *conn, void *user)
{
    static char big[BIG];

    (void)user;
    return pool_send(conn, big, sizeof(big)) ? 1 : 0;
}

static void listen_deafly(struct torture *torture)
{
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_ECHO);
    WORLD_LISTEN(torture->world, "tcp://10.0.0.3:80", .behave = WORLD_DEAF);
    WORLD_LISTEN(torture->world, "tcp://10.0.0.4:80", .behave = WORLD_HALF_CLOSE, .after_bytes = 5);
}

static void ask_the_deaf(struct torture *torture)
{
    TORTURE_ASK(torture, .address = "tcp://10.0.0.3:80", .use = send_big, .timeout_ms = 300,
                .expected = POOL_E_TIMEOUT_IN_TRANSFER);
    TORTURE_ASK(torture, .address = TCP2);
    TORTURE_ASK(torture, .address = "tcp://10.0.0.4:80");
    TORTURE_ASK(torture, .address = "tcp://10.0.0.4:80");
}

const struct scenario scene_deaf = { "deaf", .furnish = listen_deafly, .exercise = ask_the_deaf };

static void cut_the_wire(struct torture *torture)
{
    struct world_peer *peer = torture->peer;

    torture->peer = NULL; /* it never hears of the end */
    TORTURE_ASK(torture, .address = TCP);
    world_vanish(peer);
    TORTURE_ASK(torture, .address = TCP, .timeout_ms = 5000,
                .expected = POOL_E_TIMEOUT_IN_TRANSFER);
    TORTURE_ASK(torture, .address = TCP2);
}

static void cut_once(struct torture *torture)
{
    if (torture->peer)
        cut_the_wire(torture);
    else
        TORTURE_ASK(torture, .address = TCP2);
}

const struct scenario scene_vanished = { "vanished", .exercise = cut_once };

/* ---- setting up that fails */

static void on_silence(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                       void *user)
{
    struct torture *torture = user;

    (void)bytes;
    torture->may_refuse = true;
    if (event == POOL_EV_TIMEOUT_READ)
        pool_conn_ready(conn, POOL_E_TIMEOUT);
}

static int greet_in_vain(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    ((struct torture *)user)->may_refuse = true;
    if (pool_conn_watch(conn, on_silence, user) || pool_conn_timeout(conn, POOL_READ, 200) ||
        pool_write(conn, "HELLO\n", 6))
        return 3;
    return POOL_LATER;
}

static void ask_in_vain(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .expected = POOL_E_TIMEOUT);
}

const struct scenario scene_setup_timeout = { "setup-timeout",
                                              .options = { .on_new_connection = greet_in_vain },
                                              .furnish = listen_silently, .exercise = ask_in_vain };

static int prepare_badly(struct pool_conn *conn, void *user)
{
    char byte;

    (void)user;
    return pool_send(conn, "wrong\n", 6) || pool_recv_exact(conn, &byte, 1) ? 1 : 0;
}

static void listen_strictly(struct torture *torture)
{
    torture->peer =
        WORLD_LISTEN(torture->world, TCP, .behave = WORLD_CLOSE_RECEIVED, .after_bytes = 6);
}

static void prepare_and_fail(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .expected = POOL_E_CLOSED);
}

const struct scenario scene_bad_prepare = { "bad-prepare", .options = { .prepare = prepare_badly },
                                            .furnish = listen_strictly,
                                            .exercise = prepare_and_fail };

/* ---- much to write, event-driven */

static void on_written(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                       void *user)
{
    struct torture *torture = user;

    torture->heard += event == POOL_EV_READ ? (unsigned)bytes.size : 0;
    if (torture->heard == BIG)
        pool_conn_ready(conn, POOL_OK);
    else if (event == POOL_EV_ERROR)
        torture->may_refuse = true;
}

static int write_big(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    static char big[BIG];
    struct torture *torture = user;

    (void)actor;
    torture->heard = 0;
    if (pool_conn_watch(conn, on_written, user) || pool_write(conn, big, 1000) ||
        pool_write(conn, big, BIG - 1000)) {
        torture->may_refuse = true;
        return 3;
    }
    return POOL_LATER;
}

static void ask_after_big(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_big_setup = { "big-setup",
                                          .options = { .on_new_connection = write_big },
                                          .exercise = ask_after_big };

/* ---- an actor that answers, and takes its time */

static int answer_ping(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct torture *torture = user;

    torture->heard += (unsigned)message.size;
    if (torture->heard % 6 == 5 && !pool_write(conn, "p", 1))
        return POOL_LATER; /* the echo of it is still to come */
    pool_conn_ready(conn, POOL_OK);
    return 0;
}

static int attach_answerer(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = answer_ping;
    actor->user = user;
    return 0;
}

static void be_pinged(struct torture *torture)
{
    unsigned accepted;

    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 300);
    accepted = world_counts(torture->peer).accepted;
    torture->heard = 0;
    if (accepted)
        world_say_text(world_link_at(torture->peer, accepted - 1), "ping\n");
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 300);
    torture_must(torture, torture->heard == 6);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_ping = { "ping", .options = { .on_new_connection = attach_answerer },
                                     .exercise = be_pinged };

/* ---- stolen while it is lent */

static void steal_lent(struct torture *torture)
{
    struct pool_conn conn;
    enum pool_status status = pool_borrow(torture->pool, TCP, NULL, &conn);
    int fd;
    char byte;

    torture_check_status(torture, status, "pool_borrow");
    if (status)
        return;
    fd = pool_conn_fd(&conn);
    world_foreign_replace(torture->world, fd);
    torture_check(torture, pool_mark_as_dead(torture->pool, fd) == 1);
    torture_check(torture, pool_send(&conn, "x", 1) == POOL_E_BROKEN);
    torture_check(torture, pool_recv_exact(&conn, &byte, 1) == POOL_E_BROKEN);
    torture_check(torture, pool_return(&conn) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP);
    world_foreign_close(torture->world, fd);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_stolen_lent = { "stolen-lent", .exercise = steal_lent };

/* Foreign code closes ours, and the number goes to our own next socket. */
static void close_under_us(struct torture *torture)
{
    struct pool_conn conn;
    enum pool_status status;
    int fd;

    TORTURE_ASK(torture, .address = TCP);
    status = pool_borrow(torture->pool, TCP, NULL, &conn);
    torture_check_status(torture, status, "pool_borrow");
    if (status)
        return;
    fd = pool_conn_fd(&conn);
    torture_check(torture, pool_return(&conn) == POOL_OK);
    world_foreign_close(torture->world, fd);
    TORTURE_ASK(torture, .address = TCP2);
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 400);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_closed_by_others = { "closed-by-others", .exercise = close_under_us };
