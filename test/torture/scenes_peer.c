/* scenes_peer.c: peers that misbehave, run out, and talk unasked; and who waits for whom. */
#include "torture/scenes.h"

#include <string.h>

/* ---- a peer that ends idle connections */

static void close_while_hot(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    world_close_all(torture->peer);
    world_settle(torture->world);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_closed_hot = { "closed-hot", .exercise = close_while_hot };

static void close_while_parked(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 400);
    world_close_all(torture->peer);
    world_run(torture->world, 100);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_closed_parked = { "closed-parked", .exercise = close_while_parked };

/* Nobody looks before lending: the use fails before anything was answered, and runs again
 * elsewhere. */
static int receive_first(struct pool_conn *conn, void *user)
{
    return pool_send(conn, "", 0) ? 1 : torture_exchange(conn, user);
}

static void find_it_stale(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    if (world_link_at(torture->peer, 0))
        world_reset(world_link_at(torture->peer, world_counts(torture->peer).accepted - 1));
    world_settle(torture->world);
    TORTURE_ASK(torture, .address = TCP, .use = receive_first, .flags = POOL_SAFE_TO_REPEAT);
}

const struct scenario scene_stale = { "stale", .options = { .check = POOL_CHECK_NEVER },
                                      .exercise = find_it_stale };

static void wait_until_old(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 3000);
    torture_must(torture, world_counts(torture->peer).open == 0);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_idle = { "idle", .options = { .idle_ms = 1000 },
                                     .exercise = wait_until_old };

/* ---- connecting in vain */

static void listen_nowhere(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_BLACK_HOLE);
    torture->second =
        WORLD_LISTEN(torture->world, "tcp://10.0.0.3:80", .behave = WORLD_UNREACHABLE);
    WORLD_LISTEN(torture->world, "tcp://10.0.0.4:80", .behave = WORLD_SELF);
}

static void ask_nobody(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP2, .expected = POOL_E_REFUSED);
    TORTURE_ASK(torture, .address = "tcp://10.0.0.4:80", .expected = POOL_E_REFUSED);
    TORTURE_ASK(torture, .address = "tcp://10.0.0.3:80", .expected = POOL_E_CONNECT);
}

const struct scenario scene_refused = { "refused", .furnish = listen_nowhere,
                                        .exercise = ask_nobody };

static void ask_silence(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .timeout_ms = 300, .expected = POOL_E_TIMEOUT);
}

const struct scenario scene_connect_timeout = { "connect-timeout", .furnish = listen_nowhere,
                                                .exercise = ask_silence };

/* ---- answers that do not come whole */

static void listen_badly(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_SILENT);
    torture->second =
        WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_CLOSE_SENT, .after_bytes = 5);
    WORLD_LISTEN(torture->world, "tcp://10.0.0.3:80", .behave = WORLD_RESET, .after_bytes = 3);
    WORLD_LISTEN(torture->world, "tcp://10.0.0.4:80", .behave = WORLD_ACCEPT_CLOSE);
    WORLD_LISTEN(torture->world, "tcp://10.0.0.5:80", .behave = WORLD_DRIP, .interval_ms = 40);
}

static void ask_bad_ones(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .timeout_ms = 300, .expected = POOL_E_TIMEOUT_IN_TRANSFER);
    TORTURE_ASK(torture, .address = TCP2, .expected = POOL_E_BROKEN);
    TORTURE_ASK(torture, .address = "tcp://10.0.0.3:80", .expected = POOL_E_BROKEN);
    TORTURE_ASK(torture, .address = "tcp://10.0.0.5:80", .timeout_ms = 700,
                .expected = POOL_E_TIMEOUT_IN_TRANSFER);
    TORTURE_ASK(torture, .address = "tcp://10.0.0.5:80", .timeout_ms = 2000);
}

const struct scenario scene_bad_answers = { "bad-answers", .furnish = listen_badly,
                                            .exercise = ask_bad_ones };

/* ---- waiting for a connection */

static void give_back(void *user)
{
    struct torture *torture = user;

    torture_check(torture, pool_return(&torture->conn) == POOL_OK);
}

static void wait_for_return(struct torture *torture)
{
    enum pool_status status =
        pool_borrow(torture->pool, TCP, POOL_CALL(.timeout_ms = 1000), &torture->conn);

    torture_check_status(torture, status, "pool_borrow");
    if (!status)
        world_at(torture->world, 50, give_back, torture);
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 60);
}

const struct scenario scene_waiter = { "waiter", .options = { .max_per_address = 1 },
                                       .exercise = wait_for_return };

static void wait_in_vain(struct torture *torture)
{
    struct pool_conn conn;
    enum pool_status status = pool_borrow(torture->pool, TCP, POOL_CALL(.timeout_ms = 1000), &conn);

    torture_check_status(torture, status, "pool_borrow");
    TORTURE_ASK(torture, .address = TCP, .timeout_ms = 200,
                .expected = status ? POOL_OK : POOL_E_TIMEOUT);
    if (!status)
        torture_check(torture, pool_return(&conn) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_waiter_late = { "waiter-late", .options = { .max_per_address = 1 },
                                            .exercise = wait_in_vain };

/* ---- room */

static const char *const many[] = { "tcp://10.0.1.1:80", "tcp://10.0.1.2:80", "tcp://10.0.1.3:80",
                                    "tcp://10.0.1.4:80", "unix:///run/five" };

static void listen_on_many(struct torture *torture)
{
    for (size_t i = 0; i < sizeof(many) / sizeof(*many); i++)
        WORLD_LISTEN(torture->world, many[i], .behave = WORLD_ECHO);
}

static void visit_many(struct torture *torture)
{
    for (size_t i = 0; i < sizeof(many) / sizeof(*many); i++) {
        TORTURE_ASK(torture, .address = many[i]);
        world_run(torture->world, i == 2 ? 300 : 1);
    }
    TORTURE_ASK(torture, .address = many[0]);
}

const struct scenario scene_descriptors = { "descriptors", .descriptors = 8,
                                            .furnish = listen_on_many, .exercise = visit_many };

const struct scenario scene_max_connections = { "max-connections",
                                                .options = { .max_connections = 2 },
                                                .furnish = listen_on_many, .exercise = visit_many };

/* All that there is room for is lent; one comes back while somebody else needs the room. */
static void wait_for_room(struct torture *torture)
{
    enum pool_status status =
        pool_borrow(torture->pool, many[0], POOL_CALL(.timeout_ms = 1000), &torture->conn);

    torture_check_status(torture, status, "pool_borrow");
    if (!status)
        world_at(torture->world, 50, give_back, torture);
    TORTURE_ASK(torture, .address = many[1]);
    world_run(torture->world, 60);
}

const struct scenario scene_room = { "room", .descriptors = 7, .furnish = listen_on_many,
                                     .exercise = wait_for_room };
const struct scenario scene_share = { "share", .options = { .max_connections = 1 },
                                      .furnish = listen_on_many, .exercise = wait_for_room };
