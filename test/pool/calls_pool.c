/* calls_pool.c: the rows of the functions that take a pool. See calls.h. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool/calls.h"

#define PATIENT(props)                                                                             \
    POOL_CALL(.timeout_ms = (props)->patience_ms ? (props)->patience_ms : VERBS_SOON)

const char *const bad_addresses[] = {
    "",           "nonsense",           "tcp://127.0.0.1",       "tcp://127.0.0.1:0",
    "tcp://:80",  "tcp://[::1:80",      "tcp://127.0.0.1:99999", "unix://relative",
    "ftp://a:21", "tcp://1.2.3.4:5?x=y"
};

const unsigned count_of_bad_addresses = sizeof(bad_addresses) / sizeof(*bad_addresses);

#define BAD_ADDRESSES count_of_bad_addresses

/* ---- what borrows */

static enum pool_status borrow_with(struct props *props, const char *address,
                                    const struct pool_call *call)
{
    struct pool_conn conn = { .serial = 1 };
    enum pool_status status = pool_borrow(props->pool, address, call, &conn);

    if (status)
        cr_expect(!conn.slot && !conn.serial, "it got a handle");
    else
        pool_return(&conn);
    return status;
}

static int run_borrow(struct props *props)
{
    return borrow_with(props, props->address, PATIENT(props));
}

static void part(struct pool_bytes bytes, void *user)
{
    (void)bytes;
    (void)user;
}

static void give_back(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)error;
    if (user)
        atomic_fetch_add((atomic_int *)user, 1);
    if (conn)
        pool_return(conn);
}

typedef enum pool_status attempt_fn(struct props *props, const char *address,
                                    const struct pool_call *call);

static enum pool_status communicate_with(struct props *props, const char *address,
                                         const struct pool_call *call)
{
    return pool_communicate(props->pool, address, do_nothing, NULL, call);
}

static enum pool_status begin_with(struct props *props, const char *address,
                                   const struct pool_call *call)
{
    struct pool_ticket *ticket = (struct pool_ticket *)(void *)props;
    enum pool_status status =
        pool_communicate_async(props->pool, address, give_back, NULL, call, &ticket);

    if (status)
        cr_expect_null(ticket);
    else
        pool_ticket_free(ticket);
    return status;
}

/* All calls that take an address and settings of a call refuse the same ones. */
static void refuse_calls(struct props *props, attempt_fn *attempt)
{
    static const size_t sizes[] = { 3, 8, 5000, SIZE_MAX };
    const char *address = props->address;
    struct pool_target *other_target;
    struct pool_call call = { .size = sizeof(call) };
    struct pool *other = MAKE_POOL();

    REFUSES(attempt(props, NULL, NULL), POOL_E_ARGUMENT);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        call.size = sizes[i];
        REFUSES(attempt(props, address, &call), POOL_E_ARGUMENT);
    }
    REFUSES(attempt(props, address, POOL_CALL(.flags = POOL_ONE_SHOT)), POOL_E_ARGUMENT);
    REFUSES(attempt(props, address, POOL_CALL(.flags = POOL_ORDERED)), POOL_E_ARGUMENT);
    REFUSES(attempt(props, address, POOL_CALL(.flags = 1u << 31)), POOL_E_ARGUMENT);
    REFUSES(attempt(props, address, POOL_CALL(.flags = 64)), POOL_E_ARGUMENT);
    REFUSES(attempt(props, address, POOL_CALL(.on_part = part)), POOL_E_ARGUMENT);
    cr_assert_eq(pool_target_get(other, address, &other_target), POOL_OK);
    REFUSES(attempt(props, address, POOL_CALL(.target = other_target)), POOL_E_ARGUMENT);
    REFUSES(attempt(props, NULL, POOL_CALL(.target = other_target)), POOL_E_ARGUMENT);
    pool_target_free(other_target);
    pool_destroy(other);
    for (unsigned i = 0; i < BAD_ADDRESSES; i++)
        cr_expect_eq(attempt(props, bad_addresses[i], NULL), POOL_E_ADDRESS, "\"%s\"",
                     bad_addresses[i]);
}

static void wrong_borrow(struct props *props)
{
    refuse_calls(props, borrow_with);
    REFUSES(pool_borrow(props->pool, props->address, NULL, NULL), POOL_E_ARGUMENT);
}

static int run_communicate(struct props *props)
{
    return communicate_with(props, props->address, PATIENT(props));
}

static void wrong_communicate(struct props *props)
{
    refuse_calls(props, communicate_with);
    REFUSES(pool_communicate(props->pool, props->address, NULL, NULL, NULL), POOL_E_ARGUMENT);
}

static int run_async(struct props *props)
{
    return begin_with(props, props->address, PATIENT(props));
}

static void wrong_async(struct props *props)
{
    struct pool_ticket *ticket = NULL;

    refuse_calls(props, begin_with);
    REFUSES(pool_communicate_async(props->pool, props->address, NULL, NULL, NULL, &ticket),
            POOL_E_ARGUMENT);
    cr_expect_null(ticket);
}

static int run_target_get(struct props *props)
{
    struct pool_target *target = NULL;
    enum pool_status status = pool_target_get(props->pool, props->address, &target);

    cr_expect_eq(status == POOL_OK, target != NULL);
    pool_target_free(target);
    return status;
}

static void wrong_target_get(struct props *props)
{
    struct pool_target *target = NULL;

    REFUSES(pool_target_get(props->pool, NULL, &target), POOL_E_ARGUMENT);
    REFUSES(pool_target_get(props->pool, props->address, NULL), POOL_E_ARGUMENT);
    for (unsigned i = 0; i < BAD_ADDRESSES; i++)
        REFUSES(pool_target_get(props->pool, bad_addresses[i], &target), POOL_E_ADDRESS);
    cr_expect_null(target);
}

/* ---- sockets of the program's */

static enum pool_status adopt(struct props *props, const char *address)
{
    int fd = peer_dial(props->peer);
    enum pool_status status = pool_adopt(props->pool, address, fd);

    if (status)
        cr_expect_eq(close(fd), 0, "it is the caller's again");
    return status;
}

static int run_adopt(struct props *props)
{
    return adopt(props, props->address);
}

static void wrong_adopt(struct props *props)
{
    int line[2], alone = socket(AF_INET, SOCK_STREAM, 0), packets[2], fd = dup(STDIN_FILENO);

    REFUSES(adopt(props, NULL), POOL_E_ARGUMENT);
    for (unsigned i = 0; i < BAD_ADDRESSES; i++)
        REFUSES(adopt(props, bad_addresses[i]), POOL_E_ADDRESS);
    REFUSES(adopt(props, "unix:///tmp/of-another-kind"), POOL_E_ARGUMENT);
    cr_assert_eq(pipe(line), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_DGRAM, 0, packets), 0);
    REFUSES(pool_adopt(props->pool, props->address, -1), POOL_E_ARGUMENT);
    REFUSES(pool_adopt(props->pool, props->address, INT32_MIN), POOL_E_ARGUMENT);
    REFUSES(pool_adopt(props->pool, props->address, 1 << 20), POOL_E_ARGUMENT);
    REFUSES(pool_adopt(props->pool, props->address, fd), POOL_E_ARGUMENT);
    REFUSES(pool_adopt(props->pool, props->address, line[0]), POOL_E_ARGUMENT);
    REFUSES(pool_adopt(props->pool, props->address, alone), POOL_E_ARGUMENT);
    REFUSES(pool_adopt(props->pool, "unix:///tmp/packets", packets[0]), POOL_E_ARGUMENT);
    REFUSES(pool_adopt(props->pool, props->address, pool_conn_fd(props->conn)), POOL_E_ARGUMENT);
    close(fd);
    close(alone);
    close(line[0]);
    close(line[1]);
    close(packets[0]);
    close(packets[1]);
}

/* ---- numbers */

static int run_stats(struct props *props)
{
    struct pool_stats stats = { .size = sizeof(stats), .total = UINT64_MAX };
    enum pool_status status = pool_stats(props->pool, &stats);

    cr_expect_eq(status == POOL_OK, stats.total != UINT64_MAX);
    return status;
}

static void wrong_stats(struct props *props)
{
    static const size_t sizes[] = { 0, 3, 7, SIZE_MAX };
    struct pool_stats stats;

    REFUSES(pool_stats(props->pool, NULL), POOL_E_ARGUMENT);
    memset(&stats, 'g', sizeof(stats));
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        stats.size = sizes[i];
        REFUSES(pool_stats(props->pool, &stats), POOL_E_ARGUMENT);
        cr_expect_eq(stats.total, UINT64_C(0x6767676767676767), "size %zu", sizes[i]);
    }
}

typedef enum pool_status text_fn(struct pool *pool, char *text, size_t size, size_t *needed);

static int run_text(struct props *props, text_fn *write_text)
{
    char text[16384] = "g";
    size_t needed = 0;
    enum pool_status status = write_text(props->pool, text, sizeof(text), &needed);

    cr_expect_eq(status == POOL_OK, needed > 0);
    return status;
}

static void wrong_text(struct props *props, text_fn *write_text)
{
    char text[16] = "g";
    size_t needed;

    REFUSES(write_text(props->pool, text, sizeof(text), NULL), POOL_E_ARGUMENT);
    REFUSES(write_text(props->pool, NULL, 16, &needed), POOL_E_ARGUMENT);
    REFUSES(write_text(props->pool, NULL, 0, &needed), POOL_E_FULL);
    REFUSES(write_text(props->pool, text, sizeof(text), &needed), POOL_E_FULL);
    REFUSES(write_text(props->pool, text, 0, &needed), POOL_E_FULL);
}

static int run_json(struct props *props)
{
    return run_text(props, pool_stats_json);
}

static void wrong_json(struct props *props)
{
    wrong_text(props, pool_stats_json);
}

static int run_openmetrics(struct props *props)
{
    return run_text(props, pool_stats_openmetrics);
}

static void wrong_openmetrics(struct props *props)
{
    wrong_text(props, pool_stats_openmetrics);
}

/* ---- orders */

static int run_clear(struct props *props)
{
    return pool_clear(props->pool, NULL, 0);
}

static void wrong_clear(struct props *props)
{
    REFUSES(pool_clear(props->pool, NULL, 4), POOL_E_ARGUMENT);
    REFUSES(pool_clear(props->pool, NULL, POOL_NONE), POOL_E_ARGUMENT);
    REFUSES(pool_clear(props->pool, bad_addresses[1], 8), POOL_E_ARGUMENT);
    for (unsigned i = 0; i < BAD_ADDRESSES; i++)
        REFUSES(pool_clear(props->pool, bad_addresses[i], POOL_THEN_PAUSE), POOL_E_ADDRESS);
}

static int run_pause(struct props *props)
{
    return pool_pause(props->pool);
}

static int run_ready(struct props *props)
{
    return pool_ready(props->pool);
}

static int run_close(struct props *props)
{
    return pool_close(props->pool, 0, NULL, NULL);
}

static int run_reserve(struct props *props)
{
    enum pool_status status = pool_reserve_fds(props->pool, 1);

    if (!status)
        status = pool_reserve_fds(props->pool, 0);
    return status;
}

static void wrong_reserve(struct props *props)
{
    REFUSES(pool_reserve_fds(props->pool, POOL_NONE), POOL_E_ARGUMENT);
    REFUSES(pool_reserve_fds(props->pool, POOL_ZERO), POOL_E_ARGUMENT);
    REFUSES(pool_reserve_fds(props->pool, 1u << 31), POOL_E_ARGUMENT);
    REFUSES(pool_reserve_fds(props->pool, INT32_MAX), POOL_E_RESOURCE);
}

/* The first connection of a pool is the one that is lent, in all places. */
static int run_kill(struct props *props)
{
    return something_if(pool_kill(props->pool, 1));
}

static void wrong_kill(struct props *props)
{
    cr_expect_not(pool_kill(props->pool, 0));
    cr_expect_not(pool_kill(props->pool, 1000));
    cr_expect_not(pool_kill(props->pool, UINT64_MAX));
}

static int run_force_timeout(struct props *props)
{
    return something_if(pool_force_timeout(props->pool, 1));
}

static void wrong_force_timeout(struct props *props)
{
    cr_expect_not(pool_force_timeout(props->pool, 0));
    cr_expect_not(pool_force_timeout(props->pool, 1000));
    cr_expect_not(pool_force_timeout(props->pool, UINT64_MAX));
}

/* Of a number that no connection has. */
static int run_mark_as_dead(struct props *props)
{
    return something_if(pool_mark_as_dead(props->pool, STDIN_FILENO));
}

static void wrong_mark_as_dead(struct props *props)
{
    cr_expect_eq(pool_mark_as_dead(props->pool, -1), 0);
    cr_expect_eq(pool_mark_as_dead(props->pool, INT32_MIN), 0);
    cr_expect_eq(pool_mark_as_dead(props->pool, INT32_MAX), 0);
    cr_expect_eq(pool_mark_as_dead(props->pool, 1 << 20), 0);
}

static int run_remove(struct props *props)
{
    return something_if(pool_remove_some_connection(props->pool));
}

/* ---- life */

static int run_create(struct props *props)
{
    struct pool *pool = NULL;
    enum pool_status status = pool_create(POOL_OPTIONS(.mux = props->mux), &pool);

    cr_expect_eq(status == POOL_OK, pool != NULL);
    pool_destroy(pool);
    return status;
}

static void wrong_create(struct props *props)
{
    static const size_t sizes[] = { 0, 3, 8, 5000, SIZE_MAX };
    struct pool_options options = { 0 };
    struct pool *pool;

    (void)props;
    REFUSES(pool_create(NULL, NULL), POOL_E_ARGUMENT);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        options.size = sizes[i];
        pool = (struct pool *)(void *)&options;
        REFUSES(pool_create(&options, &pool), POOL_E_ARGUMENT);
        cr_expect_null(pool);
    }
}

static int run_destroy(struct props *props)
{
    pool_destroy(props->pool);
    props->pool = NULL;
    return DONE;
}

/* ---- the rows */

#define ARG POOL_E_ARGUMENT
#define SHY POOL_E_WOULD_BLOCK
#define END POOL_E_CLOSING
#define CUT POOL_E_CLEARED
#define KID POOL_E_FORKED
#define YES SOMETHING
#define NO NOTHING

/* Inside a callback all that there may be can be lent already. */
#define LACKS (BIT(POOL_E_FULL) | BIT(POOL_E_RESOURCE) | BIT(POOL_E_TIMEOUT))

/* In order: no pool, live, paused, closing, closed, on the mux thread, forked. */
const struct call calls_of_pool[] = {
    { "pool_borrow", run_borrow, wrong_borrow, { ARG, 0, CUT, END, END, SHY, KID }, LACKS },
    { "pool_communicate",
      run_communicate,
      wrong_communicate,
      { ARG, 0, CUT, END, END, SHY, KID },
      LACKS },
    { "pool_communicate_async", run_async, wrong_async, { ARG, 0, CUT, END, END, 0, KID }, 0 },
    { "pool_target_get", run_target_get, wrong_target_get, { ARG, 0, 0, END, END, 0, KID }, 0 },
    { "pool_adopt", run_adopt, wrong_adopt, { ARG, 0, 0, END, END, 0, KID }, BIT(POOL_E_FULL) },
    { "pool_stats", run_stats, wrong_stats, { ARG, 0, 0, 0, 0, 0, KID }, 0 },
    { "pool_stats_json", run_json, wrong_json, { ARG, 0, 0, 0, 0, 0, KID }, 0 },
    { "pool_stats_openmetrics",
      run_openmetrics,
      wrong_openmetrics,
      { ARG, 0, 0, 0, 0, 0, KID },
      0 },
    { "pool_clear", run_clear, wrong_clear, { ARG, 0, 0, END, END, 0, KID }, 0 },
    { "pool_pause", run_pause, NULL, { ARG, 0, 0, END, END, 0, KID }, 0 },
    { "pool_ready", run_ready, NULL, { ARG, 0, 0, END, END, 0, KID }, 0 },
    { "pool_close", run_close, NULL, { ARG, 0, 0, END, END, 0, KID }, 0 },
    { "pool_reserve_fds", run_reserve, wrong_reserve, { ARG, 0, 0, 0, 0, 0, KID }, 0 },
    { "pool_kill", run_kill, wrong_kill, { NO, YES, YES, YES, NO, YES, NO }, 0 },
    { "pool_force_timeout",
      run_force_timeout,
      wrong_force_timeout,
      { NO, YES, YES, YES, NO, YES, NO },
      0 },
    { "pool_mark_as_dead",
      run_mark_as_dead,
      wrong_mark_as_dead,
      { NO, NO, NO, NO, NO, NO, NO },
      0 },
    { "pool_remove_some_connection", run_remove, NULL, { NO, NO, NO, NO, NO, NO, NO }, 0 },
    { "pool_create", run_create, wrong_create, { 0, 0, 0, 0, 0, 0, 0 }, 0 },
    { "pool_destroy", run_destroy, NULL, { DONE, DONE, DONE, DONE, DONE, DONE, DONE }, 0 },
};

const unsigned count_of_pool = sizeof(calls_of_pool) / sizeof(*calls_of_pool);
