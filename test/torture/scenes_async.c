/* scenes_async.c: the main job for event-driven code: every start is refused or told exactly once,
 * in time, and what was lent is used by events and given back. */
#include "torture/scenes.h"

#include <string.h>

#define LATE_MS 40
#define EXCHANGE 24

/* One asynchronous call. It lives on the script's stack, so the script waits until it is told. */
struct request {
    struct torture *torture;
    const char *address;
    uint32_t timeout_ms; /* 1,000 by default */
    struct pool_target *target;
    bool wants_ticket;
    bool only_borrows; /* gives it back at once; else an exchange by events, first */
    bool keeps; /* leaves it lent */
    enum pool_status started, status; /* of the start, and of the whole */
    unsigned told;
    bool is_over, is_starting;
    struct pool_conn conn;
    struct pool_ticket *ticket;
    char sent[EXCHANGE], got[EXCHANGE];
    size_t have;
};

static void end_loan(struct request *request, struct pool_conn *conn, enum pool_status status)
{
    request->status = status;
    request->is_over = true;
    torture_check(request->torture, (status ? pool_discard(conn) : pool_return(conn)) == POOL_OK);
}

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct request *request = user;
    struct pool_error error = POOL_ERROR_INIT;

    torture_check(request->torture, !request->is_over);
    if (event == POOL_EV_ERROR || event == POOL_EV_CLOSED) {
        torture_check(request->torture, pool_conn_error(conn, &error) == POOL_OK && error.status);
        end_loan(request, conn, error.status);
        return;
    }
    if (event != POOL_EV_READ)
        return;
    torture_check(request->torture, request->have + bytes.size <= EXCHANGE);
    memcpy(request->got + request->have, bytes.data, bytes.size);
    request->have += bytes.size;
    if (request->have < EXCHANGE)
        return;
    if (memcmp(request->sent, request->got, EXCHANGE))
        torture_fail(request->torture, "a reply crossed");
    end_loan(request, conn, POOL_OK);
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct request *request = user;
    enum pool_status status;

    request->told++;
    torture_check(request->torture, !request->is_starting && !conn != !error);
    if (error) {
        torture_check(request->torture, error->status && error->outcome == POOL_NOT_SENT);
        if (request->address && !strstr(error->text, request->address))
            torture_fail(request->torture, "the error does not name the peer: %s", error->text);
        request->status = error->status;
        request->is_over = true;
        return;
    }
    request->conn = *conn;
    if (request->keeps) {
        request->is_over = true;
        return;
    }
    if (request->only_borrows) {
        end_loan(request, conn, POOL_OK);
        return;
    }
    status = pool_conn_watch(conn, on_event, request);
    if (!status)
        status = pool_write(conn, request->sent, EXCHANGE);
    if (status)
        end_loan(request, conn, status);
}

static void start(struct torture *torture, struct request *request)
{
    struct pool_call call = { .size = sizeof(call),
                              .timeout_ms = request->timeout_ms,
                              .target = request->target };

    request->torture = torture;
    if (!request->timeout_ms)
        call.timeout_ms = request->timeout_ms = 1000;
    memset(request->sent, 'a' + (int)(torture->asked++ % 26), EXCHANGE);
    request->is_starting = true;
    request->started =
        pool_communicate_async(torture->pool, request->address, on_lent, request, &call,
                               request->wants_ticket ? &request->ticket : NULL);
    request->is_starting = false;
    torture_check(torture, !request->wants_ticket || !request->started == !!request->ticket);
    torture_check(torture, !request->told || !request->started);
}

/* Until it is over, or should have been for long. */
static enum pool_status finish(struct request *request, enum pool_status expected)
{
    struct torture *torture = request->torture;
    uint64_t limit_ms = world_now_ms(torture->world) + request->timeout_ms + LATE_MS;

    while (!request->started && !request->is_over && world_now_ms(torture->world) < limit_ms)
        world_run(torture->world, 1);
    world_settle(torture->world);
    if (request->told != !request->started)
        torture_fail(torture, "start: %s, and told %u times", pool_status_name(request->started),
                     request->told);
    if (!request->started && !request->is_over)
        torture_fail(torture, "its loan is not over in time");
    if (request->started)
        request->status = request->started;
    if (request->status != expected)
        torture_check_status(torture, request->status, "an asynchronous call");
    if (torture->is_strict && request->status != expected)
        torture_fail(torture, "%s where %s was due", pool_status_name(request->status),
                     pool_status_name(expected));
    pool_ticket_free(request->ticket);
    return request->status;
}

static enum pool_status ask(struct torture *torture, struct request request,
                            enum pool_status expected)
{
    start(torture, &request);
    return finish(&request, expected);
}

#define ASK(torture, expected, ...) ask((torture), (struct request){ __VA_ARGS__ }, (expected))

/* ---- alone */

static void ask_thrice(struct torture *torture)
{
    for (int i = 0; i < 3; i++)
        ASK(torture, POOL_OK, .address = i == 1 ? TCP2 : TCP, .wants_ticket = i == 2);
    world_run(torture->world, 500);
    ASK(torture, POOL_OK, .address = TCP);
    TORTURE_ASK(torture, .address = TCP); /* a thread finds what events left */
    ASK(torture, POOL_OK, .address = TCP, .only_borrows = true);
}

/* So many calls fail one after the other that the peer would be suspended. */
const struct scenario scene_async = { "async", .options = { .suspend_after = POOL_NONE },
                                      .exercise = ask_thrice };

static void ask_by_target(struct torture *torture)
{
    struct pool_target *target = NULL;
    enum pool_status status = pool_target_get(torture->pool, TCP, &target);

    torture_check_status(torture, status, "pool_target_get");
    if (status)
        return;
    ASK(torture, POOL_OK, .target = target);
    ASK(torture, POOL_OK, .target = target);
    pool_target_free(target);
}

const struct scenario scene_async_target = { "async-target", .exercise = ask_by_target };

/* ---- several at once, over one connection */

static void ask_many(struct torture *torture)
{
    struct request requests[5] = { { .address = TCP },
                                   { .address = TCP, .wants_ticket = true },
                                   { .address = TCP },
                                   { .address = TCP, .only_borrows = true },
                                   { .address = TCP } };

    for (int i = 0; i < 5; i++)
        start(torture, &requests[i]);
    for (int i = 0; i < 5; i++)
        finish(&requests[i], POOL_OK);
    torture_must(torture, world_counts(torture->peer).open == 1);
}

const struct scenario scene_async_queue = { "async-queue", .options = { .max_per_address = 1 },
                                            .exercise = ask_many };

/* From one callback to the next: the warm way, which locks nothing. */
struct chain {
    struct torture *torture;
    unsigned left, told, started;
};

static void next_link(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct chain *chain = user;

    chain->told++;
    if (error)
        return;
    torture_check(chain->torture, pool_return(conn) == POOL_OK);
    if (chain->left-- && !pool_communicate_async(chain->torture->pool, TCP, next_link, chain,
                                                 POOL_CALL(.timeout_ms = 500), NULL))
        chain->started++;
}

static void follow_chain(struct torture *torture)
{
    struct chain chain = { torture, .left = 4 };

    chain.started = !pool_communicate_async(torture->pool, TCP, next_link, &chain,
                                            POOL_CALL(.timeout_ms = 500), NULL);
    world_run(torture->world, 3000);
    torture_check(torture, chain.told == chain.started);
    torture_must(torture, chain.told == 5);
}

const struct scenario scene_async_chain = { "async-chain", .exercise = follow_chain };

/* ---- peers that are not there, or end */

static void ask_in_vain(struct torture *torture)
{
    ASK(torture, POOL_E_REFUSED, .address = "tcp://10.0.0.9:80");
    ASK(torture, POOL_OK, .address = TCP);
    world_close_all(torture->peer);
    world_settle(torture->world);
    ASK(torture, POOL_OK, .address = TCP);
    world_run(torture->world, 400);
    world_close_all(torture->peer);
    world_run(torture->world, 100);
    ASK(torture, POOL_OK, .address = TCP);
}

const struct scenario scene_async_closed = { "async-closed", .exercise = ask_in_vain };

static void listen_to_nothing(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_BLACK_HOLE);
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_SILENT);
}

static void run_out_of_time(struct torture *torture)
{
    ASK(torture, POOL_E_TIMEOUT, .address = TCP, .timeout_ms = 200);
    ASK(torture, POOL_E_TIMEOUT_IN_TRANSFER, .address = TCP2, .timeout_ms = 200);
}

const struct scenario scene_async_late = { "async-late", .furnish = listen_to_nothing,
                                           .exercise = run_out_of_time };

/* ---- room: the second address needs what the first one has idle */

static void ask_in_turn(struct torture *torture)
{
    for (int i = 0; i < 4; i++)
        ASK(torture, POOL_OK, .address = i % 2 ? TCP2 : TCP);
}

const struct scenario scene_async_share = { "async-share", .options = { .max_connections = 1 },
                                            .exercise = ask_in_turn };
const struct scenario scene_async_room = { "async-room", .descriptors = 7,
                                           .exercise = ask_in_turn };

/* ---- prepare, on a thread of the pool's own */

static int prepare(struct pool_conn *conn, void *user)
{
    (void)conn;
    ((struct torture *)user)->uses++;
    return 0;
}

static void ask_prepared(struct torture *torture)
{
    struct request requests[3] = { { .address = TCP },
                                   { .address = TCP, .wants_ticket = true },
                                   { .address = TCP2 } };

    for (int i = 0; i < 3; i++)
        start(torture, &requests[i]);
    for (int i = 0; i < 3; i++)
        finish(&requests[i], POOL_OK);
    ASK(torture, POOL_OK, .address = TCP);
}

const struct scenario scene_async_prepare = { "async-prepare", .options = { .prepare = prepare },
                                              .exercise = ask_prepared };

/* ---- canceled */

/* It was in time, so it is what the call ends with; too late only if it was over. */
static void cancel(struct request *request)
{
    if (request->started)
        return;
    torture_check(request->torture, pool_ticket_cancel(request->ticket) || request->is_over);
}

static void cancel_everywhere(struct torture *torture)
{
    struct request kept = { .address = TCP, .keeps = true };
    struct request queued = { .address = TCP, .wants_ticket = true };
    struct request next = { .address = TCP };
    struct request granted = { .address = TCP, .wants_ticket = true };
    struct request silent = { .address = TCP2, .wants_ticket = true };

    start(torture, &kept);
    finish(&kept, POOL_OK);
    start(torture, &queued);
    start(torture, &next);
    cancel(&queued);
    if (kept.conn.slot)
        torture_check(torture, pool_return(&kept.conn) == POOL_OK);
    finish(&queued, POOL_E_CANCELED);
    finish(&next, POOL_OK);
    start(torture, &granted);
    cancel(&granted);
    finish(&granted, POOL_E_CANCELED);
    start(torture, &silent); /* it connects */
    cancel(&silent);
    finish(&silent, POOL_E_CANCELED);
    silent = (struct request){ .address = TCP2, .wants_ticket = true };
    start(torture, &silent);
    world_run(torture->world, 100); /* it is in use */
    cancel(&silent);
    finish(&silent, POOL_E_CANCELED);
}

static void listen_and_be_silent(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_ECHO);
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_SILENT);
}

const struct scenario scene_async_cancel = { "async-cancel", .options = { .max_per_address = 1 },
                                             .furnish = listen_and_be_silent,
                                             .exercise = cancel_everywhere };

/* ---- the end of the pool with calls at every point */

static void end_with_calls(struct torture *torture)
{
    struct torture inner = *torture;
    struct request requests[4] = { { .address = TCP2, .wants_ticket = true },
                                   { .address = TCP2 },
                                   { .address = "tcp://10.0.0.3:80" },
                                   { .address = TCP } };
    enum pool_status status =
        pool_create(POOL_OPTIONS(.max_per_address = 1, .user = &inner), &inner.pool);

    torture_check_status(torture, status, "pool_create");
    if (status)
        return;
    for (int i = 0; i < 4; i++)
        start(&inner, &requests[i]);
    world_run(torture->world, 50);
    pool_destroy(inner.pool);
    inner.pool = NULL;
    for (int i = 0; i < 4; i++) {
        torture_check(&inner, requests[i].told == !requests[i].started);
        torture_check(&inner, requests[i].started || requests[i].is_over);
        pool_ticket_free(requests[i].ticket);
    }
    torture_must(&inner, requests[0].status == POOL_E_CLOSING); /* in use */
    torture_must(&inner, requests[1].status == POOL_E_CLOSING); /* it waits */
    torture_must(&inner, requests[2].status == POOL_E_CLOSING); /* it connects */
    torture_must(&inner, requests[3].status == POOL_OK);
    torture->failures += inner.failures - torture->failures;
    torture->asked = inner.asked;
}

static void listen_variously(struct torture *torture)
{
    listen_and_be_silent(torture);
    WORLD_LISTEN(torture->world, "tcp://10.0.0.3:80", .behave = WORLD_BLACK_HOLE);
}

const struct scenario scene_async_end = { "async-end", .furnish = listen_variously,
                                          .exercise = end_with_calls };
