/* scenes_filter.c: names and a hook that says which of their places may be connected to: it refuses
 * some, asks for more, and ends pools, while calls of the door fail. */
#include "torture/scenes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "world/fault.h"
#include "world/world_resolve.h"

#define NAMED "tcp://db.example:80"
#define INSIDE "10.0.0.1"
#define OUTSIDE "10.0.0.2"
#define NO_PAUSES .backoff_first_ms = POOL_ZERO, .suspend_after = POOL_ZERO

static struct world_names *names;

static void open_names(struct torture *torture)
{
    names = world_names_open(torture->world);
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_ECHO);
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_ECHO);
}

static void close_names(struct torture *torture)
{
    fault_off();
    world_run(torture->world, 2000);
    world_names_close(names);
}

#define SCENE_OF_NAMES .furnish = open_names, .afterwards = close_names

static void begin(struct torture *torture, const struct world_name *is)
{
    world_names_change(names);
    world_name(names, "db.example", is);
    world_run(torture->world, 100);
    pool_clear(torture->pool, NULL, 0);
    world_settle(torture->world);
}

#define BEGIN(torture, ...) begin((torture), &(struct world_name){ __VA_ARGS__ })

/* ---- it refuses */

static int let_outside(const char *address, const struct sockaddr *place, socklen_t size,
                       void *user)
{
    const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)(const void *)place;
    struct torture *torture = user;

    torture->heard++;
    torture_check(torture, !strcmp(address, NAMED));
    if (place->sa_family == AF_INET) {
        torture_check(torture, size == sizeof(*ipv4));
        if (ntohl(ipv4->sin_addr.s_addr) != 0x0a000001)
            return 0;
    }
    torture->may_refuse = true;
    return 5;
}

/* What is refused comes first, last and between. */
static void pass_refused(struct torture *torture)
{
    BEGIN(torture, .addresses = { INSIDE, "2001:db8::1", "10.0.0.9", OUTSIDE }, .delay_ms = 5);
    TORTURE_ASK(torture, .address = NAMED);
    pool_clear(torture->pool, NULL, 0);
    TORTURE_ASK(torture, .address = NAMED);
    BEGIN(torture, .addresses = { OUTSIDE, INSIDE, "2001:db8::1" }, .delay6_ms = 20);
    TORTURE_ASK(torture, .address = NAMED);
    BEGIN(torture, .addresses = { INSIDE, "2001:db8::1" }, .delay4_ms = 20);
    TORTURE_ASK(torture, .address = NAMED, .expected = POOL_E_USER);
    BEGIN(torture, .addresses = { OUTSIDE });
    TORTURE_ASK(torture, .address = NAMED);
    torture_must(torture, torture->heard > 0);
    torture_check(torture, world_counts(torture->peer).accepted == 0);
}

const struct scenario scene_filter_refuses = {
    "filter-refuses", .options = { NO_PAUSES, .on_resolved = let_outside }, SCENE_OF_NAMES,
    .exercise = pass_refused
};

/* ---- it asks for more */

struct call {
    struct torture *torture;
    unsigned started, told;
};

static struct call inner;

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct call *call = user;

    call->told++;
    if (conn)
        torture_check(call->torture, pool_return(conn) == POOL_OK);
    else
        torture_check_status(call->torture, error->status, "the call of the hook");
}

/* To another peer, and by the same name, which asks the hook again: so only once. */
static int ask_for_more(const char *address, const struct sockaddr *place, socklen_t size,
                        void *user)
{
    struct torture *torture = user;
    struct pool_conn conn;
    enum pool_status status;

    (void)address, (void)place, (void)size;
    status = pool_borrow(torture->pool, TCP, NULL, &conn);
    torture_check(torture, !status || status == POOL_E_WOULD_BLOCK || status == POOL_E_MEMORY);
    if (!status)
        torture_check(torture, pool_return(&conn) == POOL_OK);
    for (int i = 0; i < 2 && torture->heard < 2; i++, torture->heard++) {
        status = pool_communicate_async(torture->pool, i ? NAMED : TCP, on_lent, &inner,
                                        POOL_CALL(.timeout_ms = 500), NULL);
        torture_check_status(torture, status, "pool_communicate_async");
        inner.started += status == POOL_OK;
    }
    return 0;
}

static void ask_more(struct torture *torture)
{
    inner = (struct call){ .torture = torture };
    torture->heard = 0;
    BEGIN(torture, .addresses = { OUTSIDE }, .delay_ms = 5);
    TORTURE_ASK(torture, .address = NAMED);
    world_run(torture->world, 600);
    torture_check(torture, inner.told == inner.started);
    torture_must(torture, inner.started == 2);
}

const struct scenario scene_filter_asks = {
    "filter-asks", .options = { NO_PAUSES, .on_resolved = ask_for_more }, SCENE_OF_NAMES,
    .exercise = ask_more
};

/* ---- it ends its pool */

struct end {
    struct pool *pool;
    unsigned closed;
    bool closes; /* first */
};

static void on_closed(void *user)
{
    struct end *end = user;

    end->closed++;
}

static int end_pool(const char *address, const struct sockaddr *place, socklen_t size, void *user)
{
    struct end *end = user;
    struct pool *pool = end->pool;

    (void)address, (void)place, (void)size;
    if (!pool)
        return 0;
    if (end->closes && pool_close(pool, 0, on_closed, end))
        end->closed++;
    end->pool = NULL;
    pool_destroy(pool);
    return 0;
}

/* A pool of its own, as the torture's must stay. */
static void end_inside(struct torture *torture, bool closes)
{
    struct end end = { .closes = closes };
    struct pool *pool = NULL;
    enum pool_status status = pool_create(
        POOL_OPTIONS(NO_PAUSES, .on_resolved = end_pool, .user = &end), &pool);

    torture_check_status(torture, status, "pool_create");
    if (status)
        return;
    end.pool = pool;
    status = pool_communicate(pool, NAMED, torture_exchange, torture,
                              POOL_CALL(.timeout_ms = 300));
    torture_must(torture, status == POOL_E_CLOSING && !end.pool);
    if (status != POOL_E_CLOSING)
        torture_check_status(torture, status, "pool_communicate");
    if (end.pool) {
        pool_destroy(pool); /* it was never asked */
        return;
    }
    world_run(torture->world, 10);
    torture_check(torture, end.closed == closes);
}

static void end_in_hook(struct torture *torture)
{
    BEGIN(torture, .addresses = { INSIDE, OUTSIDE }, .delay_ms = 5);
    end_inside(torture, false);
    end_inside(torture, true);
    torture_check(torture, world_counts(torture->peer).accepted == 0);
}

const struct scenario scene_filter_ends = { "filter-ends", .options = { NO_PAUSES },
                                            SCENE_OF_NAMES, .exercise = end_in_hook };
