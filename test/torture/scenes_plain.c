/* scenes_plain.c: borrowing, using and giving back, from one caller's view. */
#include "torture/scenes.h"

#include <string.h>

/* ---- the simplest ones */

static void do_nothing(struct torture *torture)
{
    (void)torture;
}

const struct scenario scene_create = { "create", .exercise = do_nothing };

static void ask_once(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_once = { "once", .exercise = ask_once };

static void ask_thrice(struct torture *torture)
{
    for (int i = 0; i < 3; i++)
        TORTURE_ASK(torture, .address = TCP);
    if (torture->is_strict)
        torture_check(torture, world_counts(torture->peer).open == 1);
}

const struct scenario scene_reuse = { "reuse", .exercise = ask_thrice };

static void ask_in_turn(struct torture *torture)
{
    for (int i = 0; i < 4; i++)
        TORTURE_ASK(torture, .address = i % 2 ? TCP2 : TCP);
}

const struct scenario scene_two = { "two", .exercise = ask_in_turn };

static void ask_parked(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 500);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_parked = { "parked", .exercise = ask_parked };

/* ---- other places */

static void listen_on_unix(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, "unix:///run/echo", .behave = WORLD_ECHO);
    torture->second = WORLD_LISTEN(torture->world, "abstract://echo", .behave = WORLD_ECHO);
}

static void ask_unix(struct torture *torture)
{
    TORTURE_ASK(torture, .address = "unix:///run/echo");
    TORTURE_ASK(torture, .address = "abstract://echo");
    TORTURE_ASK(torture, .address = "unix:///run/nobody", .expected = POOL_E_REFUSED);
    TORTURE_ASK(torture, .address = "abstract://nobody", .expected = POOL_E_REFUSED);
}

const struct scenario scene_unix = { "unix", .furnish = listen_on_unix, .exercise = ask_unix };

static void listen_on_v6(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, "tcp://[fd00::1]:80", .behave = WORLD_ECHO);
}

static void ask_with_parameters(struct torture *torture)
{
    TORTURE_ASK(torture, .address = "tcp://[fd00::1]:80?dscp=10");
    TORTURE_ASK(torture, .address = "tcp://[fd00::1]:80?bind=fd00::fe");
    TORTURE_ASK(torture, .address = "tcp://[fd00::1]:80?bind=eth0");
}

const struct scenario scene_parameters = { "parameters", .furnish = listen_on_v6,
                                           .exercise = ask_with_parameters };

/* ---- borrowing by hand */

static bool borrow(struct torture *torture, const char *address, struct pool_conn *conn)
{
    enum pool_status status =
        pool_borrow(torture->pool, address, POOL_CALL(.timeout_ms = 1000), conn);

    torture_check_status(torture, status, "pool_borrow");
    return status == POOL_OK;
}

static void borrow_and_return(struct torture *torture)
{
    struct pool_conn conn;

    torture->asked++;
    if (borrow(torture, TCP, &conn)) {
        torture_must(torture, torture_exchange(&conn, torture) == 0);
        torture_check(torture, pool_conn_id(&conn) != 0);
        torture_check(torture, pool_return(&conn) == POOL_OK);
        torture_check(torture, !conn.slot && pool_return(&conn) == POOL_E_ARGUMENT);
    }
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_borrow = { "borrow", .exercise = borrow_and_return };

/* Gives back what went wrong half way as if nothing had happened; nobody looks at it before the
 * next use. */
static void borrow_and_hide(struct torture *torture)
{
    char half[12];
    struct pool_conn conn;

    if (borrow(torture, TCP, &conn)) {
        if (!pool_send(&conn, "twenty-four letters only", 24) &&
            !pool_recv_exact(&conn, half, sizeof(half)))
            pool_recv_exact(&conn, half, sizeof(half));
        torture_check(torture, pool_return(&conn) == POOL_OK);
    }
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_hidden = { "hidden", .options = { .check = POOL_CHECK_NEVER },
                                       .exercise = borrow_and_hide };

static void borrow_and_discard(struct torture *torture)
{
    unsigned accepted;
    struct pool_conn conn;

    if (borrow(torture, TCP, &conn))
        torture_check(torture, pool_discard(&conn) == POOL_OK);
    world_settle(torture->world);
    accepted = world_counts(torture->peer).accepted;
    TORTURE_ASK(torture, .address = TCP);
    torture_must(torture, world_counts(torture->peer).accepted == accepted + 1);
    if (borrow(torture, TCP, &conn))
        torture_check(torture, pool_discard(&conn) == POOL_OK);
}

const struct scenario scene_discard = { "discard", .exercise = borrow_and_discard };

static void ask_by_target(struct torture *torture)
{
    struct pool_target *target = NULL;
    enum pool_status status = pool_target_get(torture->pool, TCP, &target);

    torture_check_status(torture, status, "pool_target_get");
    if (status)
        return;
    TORTURE_ASK(torture, .target = target);
    TORTURE_ASK(torture, .target = target);
    pool_target_free(target);
}

const struct scenario scene_target = { "target", .exercise = ask_by_target };

/* ---- uses that do not go well */

static int refuse_use(struct pool_conn *conn, void *user)
{
    (void)conn;
    ((struct torture *)user)->uses++;
    return 7;
}

static int send_and_forget(struct pool_conn *conn, void *user)
{
    (void)user;
    return pool_send(conn, "unanswered", 10) ? 1 : 0;
}

static void fail_in_use(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .use = refuse_use, .expected = POOL_E_USER);
    TORTURE_ASK(torture, .address = TCP);
    TORTURE_ASK(torture, .address = TCP, .use = send_and_forget); /* dirty: it is closed */
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_use_fails = { "use-fails", .exercise = fail_in_use };

static int ask_inside(struct pool_conn *conn, void *user)
{
    struct torture *torture = user;

    TORTURE_ASK(torture, .address = TCP2);
    return torture_exchange(conn, user);
}

static void ask_nested(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .use = ask_inside, .timeout_ms = 3000);
}

const struct scenario scene_nested = { "nested", .exercise = ask_nested };

/* ---- long texts */

#define LONG_SIZE 100000

static int exchange_long(struct pool_conn *conn, void *user)
{
    static char sent[LONG_SIZE], got[LONG_SIZE];
    struct torture *torture = user;
    struct iovec pieces[] = { { sent, 10 }, { NULL, 0 }, { sent + 10, LONG_SIZE - 10 } };

    for (size_t i = 0; i < LONG_SIZE; i++)
        sent[i] = (char)(i * 7 + i / 251 + torture->asked);
    if (pool_sendv(conn, pieces, 3) || pool_recv_exact(conn, got, LONG_SIZE))
        return 1;
    if (memcmp(sent, got, LONG_SIZE))
        torture_fail(torture, "a long reply came back changed");
    return 0;
}

static void ask_long(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .use = exchange_long);
}

const struct scenario scene_long = { "long", .exercise = ask_long };

static int exchange_lines(struct pool_conn *conn, void *user)
{
    static char text[6000];
    struct torture *torture = user;
    struct pool_bytes line;
    char tail[4];

    memset(text, 'x', sizeof(text));
    text[99] = text[4999] = '\n';
    if (pool_send(conn, text, sizeof(text)))
        return 1;
    if (pool_recv_until(conn, "\n", 1, &line))
        return 1;
    torture_check(torture, line.size == 100);
    if (pool_recv_until(conn, "\n", 1, &line))
        return 1;
    torture_check(torture, line.size == 4900);
    for (size_t left = sizeof(text) - 5000; left; left -= sizeof(tail)) {
        if (pool_recv_exact(conn, tail, sizeof(tail)))
            return 1;
    }
    return 0;
}

static void ask_lines(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .use = exchange_lines);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_lines = { "lines", .exercise = ask_lines };

/* ---- the end of the pool while somebody has a connection */

static void keep_one(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP2);
    if (torture->conn.slot)
        pool_discard(&torture->conn);
    if (!borrow(torture, TCP, &torture->conn))
        torture->conn = (struct pool_conn){ 0 };
}

static void use_what_is_left(struct torture *torture)
{
    char byte;

    if (!torture->conn.slot)
        return;
    torture_check(torture, pool_send(&torture->conn, "x", 1) == POOL_E_CLOSING);
    torture_check(torture, pool_recv_exact(&torture->conn, &byte, 1) == POOL_E_CLOSING);
    torture_check(torture, pool_return(&torture->conn) == POOL_OK);
}

const struct scenario scene_destroy_lent = { "destroy-lent", .exercise = keep_one,
                                             .afterwards = use_what_is_left };
