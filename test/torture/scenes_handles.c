/* scenes_handles.c: connections that leave the pool open, and sockets that come into it. */
#include "torture/scenes.h"

#include <string.h>

static bool borrow(struct torture *torture, const char *address, struct pool_conn *conn)
{
    enum pool_status status =
        pool_borrow(torture->pool, address, POOL_CALL(.timeout_ms = 1000), conn);

    torture_check_status(torture, status, "pool_borrow");
    return status == POOL_OK;
}

/* ---- with its handle */

static void detach_one(struct torture *torture)
{
    struct pool_conn conn;
    bool works;

    TORTURE_ASK(torture, .address = TCP);
    if (borrow(torture, TCP, &conn)) {
        torture->asked++;
        works = torture_exchange(&conn, torture) == 0;
        torture_must(torture, works);
        torture_check(torture, pool_detach(&conn) == POOL_OK);
        TORTURE_ASK(torture, .address = TCP);
        torture->asked++;
        if (works)
            torture_must(torture, torture_exchange(&conn, torture) == 0);
        torture_check(torture, pool_detach(&conn) == POOL_E_ARGUMENT);
        torture_check(torture, pool_discard(&conn) == POOL_OK);
    }
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_detach = { "detach", .exercise = detach_one };

static void detach_at_the_cap(struct torture *torture)
{
    struct pool_conn conn;

    if (borrow(torture, TCP, &conn)) {
        torture_check(torture, pool_detach(&conn) == POOL_OK);
        TORTURE_ASK(torture, .address = TCP2);
        torture_check(torture, pool_return(&conn) == POOL_OK);
    }
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_detach_share = { "detach-share", .options = { .max_connections = 1 },
                                             .exercise = detach_at_the_cap };

static int take_away(struct pool_conn *conn, void *user)
{
    struct torture *torture = user;

    torture->conn = *conn;
    torture_check(torture, pool_detach(conn) == POOL_OK);
    return 0;
}

static void detach_in_use(struct torture *torture)
{
    torture->conn = (struct pool_conn){ 0 };
    TORTURE_ASK(torture, .address = TCP, .use = take_away);
    if (torture->conn.slot)
        torture_check(torture, pool_discard(&torture->conn) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_detach_use = { "detach-use", .exercise = detach_in_use };

static void detach_and_keep(struct torture *torture)
{
    if (torture->conn.slot)
        torture_check(torture, pool_discard(&torture->conn) == POOL_OK);
    if (borrow(torture, TCP, &torture->conn))
        torture_check(torture, pool_detach(&torture->conn) == POOL_OK);
}

static void use_what_was_detached(struct torture *torture)
{
    if (!torture->conn.slot)
        return;
    torture->asked++;
    torture_must(torture, torture_exchange(&torture->conn, torture) == 0);
    torture_check(torture, pool_discard(&torture->conn) == POOL_OK);
}

const struct scenario scene_detach_late = { "detach-late", .exercise = detach_and_keep,
                                            .afterwards = use_what_was_detached };

/* ---- as a bare descriptor, and back */

static void check_release(struct torture *torture, enum pool_status status)
{
    torture_must(torture, status == POOL_OK);
    torture_check(torture, status == POOL_OK || status == POOL_E_RESOURCE);
}

static void check_adopt(struct torture *torture, enum pool_status status)
{
    torture_must(torture, status == POOL_OK);
    torture_check(torture, status == POOL_OK || status == POOL_E_RESOURCE ||
                               status == POOL_E_MEMORY || status == POOL_E_ARGUMENT ||
                               status == POOL_E_FULL);
}

/* A connected socket of the program's; -1: it was not to be had. */
static int bare_socket(struct torture *torture)
{
    struct pool_conn conn;
    enum pool_status status;
    int fd = -1;

    if (!borrow(torture, TCP, &conn))
        return -1;
    torture->asked++;
    torture_must(torture, torture_exchange(&conn, torture) == 0);
    status = pool_release_fd(&conn, &fd);
    check_release(torture, status);
    torture_check(torture, (status == POOL_OK) == (conn.slot == NULL));
    if (status)
        torture_check(torture, fd == -1 && pool_discard(&conn) == POOL_OK);
    return fd;
}

static void release_and_adopt(struct torture *torture)
{
    int fd = bare_socket(torture);
    unsigned accepted = world_counts(torture->peer).accepted;
    enum pool_status status;

    if (fd >= 0) {
        status = pool_adopt(torture->pool, TCP, fd);
        check_adopt(torture, status);
        if (status)
            world_foreign_close(torture->world, fd);    /* it is ours, and works */
    }
    TORTURE_ASK(torture, .address = TCP);
    torture_must(torture, world_counts(torture->peer).accepted == accepted);
    world_run(torture->world, 400);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_adopt = { "adopt", .exercise = release_and_adopt };

static void adopt_at_the_cap(struct torture *torture)
{
    int fd = bare_socket(torture);
    struct pool_conn conn;
    enum pool_status status;

    if (fd < 0)
        return;
    if (borrow(torture, TCP2, &conn)) {
        torture_check(torture, pool_adopt(torture->pool, TCP, fd) != POOL_OK);
        torture_check(torture, pool_return(&conn) == POOL_OK);
    }
    status = pool_adopt(torture->pool, TCP, fd);
    check_adopt(torture, status);
    if (status)
        world_foreign_close(torture->world, fd);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_adopt_share = { "adopt-share", .options = { .max_connections = 1 },
                                            .exercise = adopt_at_the_cap };

/* ---- only trying, and the program's own data */

static void free_data(void *user)
{
    ((struct torture *)user)->gone++;
}

static void try_until_it_is_there(struct torture *torture)
{
    char back[5] = "";
    size_t sent = 0, got = 0;
    struct pool_conn conn;
    enum pool_status status;

    if (!borrow(torture, TCP, &conn))
        return;
    if (!pool_conn_user(&conn)) {
        torture->attached++;
        pool_conn_set_user(&conn, torture, free_data);
    }
    status = pool_try_send(&conn, "tried", 5, &sent);
    torture_must(torture, status == POOL_OK && sent == 5);
    for (int i = 0; i < 5 && !status && sent == 5 && got < sizeof(back); i++) {
        size_t more = 0;

        world_run(torture->world, 10);
        status = pool_try_recv(&conn, back + got, sizeof(back) - got, &more);
        got += more;
        if (status == POOL_E_WOULD_BLOCK)
            status = POOL_OK;
    }
    torture_must(torture, status == POOL_OK && got == 5 && memcmp(back, "tried", 5) == 0);
    torture_check(torture,
                  got == 5 ? pool_return(&conn) == POOL_OK : pool_discard(&conn) == POOL_OK);
    TORTURE_ASK(torture, .address = TCP);
}

static void all_data_is_freed(struct torture *torture)
{
    torture_check(torture, torture->gone == torture->attached);
}

const struct scenario scene_tries = { "tries", .exercise = try_until_it_is_there,
                                      .afterwards = all_data_is_freed };
