/* queries_redis.c: GET on a real Redis, ours beside hiredis, the client library that is its own.
 *
 * The command is formatted once, on both sides, and each reply's value is looked at. Where hiredis
 * or Redis is missing the figures are left out, and say so.
 */
#include "bench.h"

#define ASYNC_LEAST 1.2
#define THREADS_LEAST 1.35

#ifndef BENCH_HIREDIS

void figure_query_redis(const char *name)
{
    report_no_rates(name, "hiredis or libuv was not there to build with", ASYNC_LEAST);
}

void figure_query_redis_threads(const char *name)
{
    report_no_rates(name, "hiredis or libuv was not there to build with", THREADS_LEAST);
}

#else

#include <hiredis/adapters/libuv.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <string.h>
#include <uv.h>

#include "commpool/query.h"
#include "crowd.h"
#include "support/servers.h"

#define VALUE "0123456789abcdef"

static const char command[] = "*2\r\n$3\r\nGET\r\n$5\r\nbench\r\n";
static const char answer[] = "$16\r\n" VALUE "\r\n";

#define COMMAND_SIZE (sizeof(command) - 1)
#define ANSWER_SIZE (sizeof(answer) - 1)
#define VALUE_SIZE (sizeof(VALUE) - 1)

static void take(struct pool_reply *reply)
{
    const struct pool_error *error = pool_reply_error(reply);
    struct pool_bytes bytes = pool_reply_bytes(reply);

    if (error)
        give_up("a query", error->text);
    need(bytes.size == ANSWER_SIZE && memcmp(bytes.data, answer, ANSWER_SIZE) == 0,
         "the value that was set");
    pool_reply_free(reply);
}

static void look_at_theirs(const redisReply *reply)
{
    need(reply && reply->type == REDIS_REPLY_STRING && reply->len == VALUE_SIZE &&
             memcmp(reply->str, VALUE, VALUE_SIZE) == 0,
         "the value that was set, as hiredis has it");
}

static redisContext *connect_theirs(const struct server *redis)
{
    redisContext *context = redisConnect("127.0.0.1", server_port(redis));

    need(context && !context->err, "redisConnect");
    return context;
}

/* NULL, and the figure is left out, where there is none. */
static struct server *start_redis(const char *name, double least)
{
    struct server *redis = redis_start(NULL);
    redisContext *context;
    redisReply *reply;

    if (!redis) {
        report_no_rates(name, server_why_not(), least);
        return NULL;
    }
    context = connect_theirs(redis);
    reply = redisCommand(context, "SET bench " VALUE);
    need(reply && reply->type == REDIS_REPLY_STATUS, "SET");
    freeReplyObject(reply);
    redisFree(context);
    return redis;
}

/* ---- many in flight */

#define ASYNC_ROUNDS 21u
#define ASYNC_TIMES 100000u
#define AT_ONCE 256u

struct flight {
    struct server *redis;
    struct pool_mux *mux;
    struct pool *pool;
    redisAsyncContext *theirs;
    uv_loop_t loop;
    unsigned to_ask, to_come;
};

static void ask(struct flight *flight, pool_reply_fn *on_reply)
{
    flight->to_ask--;
    need_ok(pool_query_async(flight->pool, server_address(flight->redis),
                             (struct pool_bytes){ command, COMMAND_SIZE }, on_reply, flight, NULL,
                             NULL),
            "pool_query_async");
}

static void ask_again(struct pool_reply *reply, void *user)
{
    struct flight *flight = user;

    take(reply);
    flight->to_come--;
    if (flight->to_ask)
        ask(flight, ask_again);
}

static double round_ours(void *user)
{
    struct flight *flight = user;
    uint64_t start_ns = now_ns();

    flight->to_ask = flight->to_come = ASYNC_TIMES;
    for (unsigned i = 0; i < AT_ONCE; i++)
        ask(flight, ask_again);
    while (flight->to_come)
        need_ok(pool_mux_dispatch(flight->mux, POOL_NONE), "pool_mux_dispatch");
    return (double)(now_ns() - start_ns) / ASYNC_TIMES;
}

static void ask_theirs(struct flight *flight, redisCallbackFn *on_reply)
{
    flight->to_ask--;
    need(redisAsyncFormattedCommand(flight->theirs, on_reply, flight, command, COMMAND_SIZE) ==
             REDIS_OK,
         "redisAsyncFormattedCommand");
}

static void ask_theirs_again(redisAsyncContext *context, void *reply, void *user)
{
    struct flight *flight = user;

    (void)context;
    if (!reply)
        return; /* it is being freed */
    look_at_theirs(reply);
    if (--flight->to_come == 0)
        uv_stop(&flight->loop);
    if (flight->to_ask)
        ask_theirs(flight, ask_theirs_again);
}

static double round_theirs(void *user)
{
    struct flight *flight = user;
    uint64_t start_ns = now_ns();

    flight->to_ask = flight->to_come = ASYNC_TIMES;
    for (unsigned i = 0; i < AT_ONCE; i++)
        ask_theirs(flight, ask_theirs_again);
    while (flight->to_come)
        uv_run(&flight->loop, UV_RUN_DEFAULT);
    return (double)(now_ns() - start_ns) / ASYNC_TIMES;
}

/* Each on the thread that measures, with its own loop; Redis has the other core. */
void figure_query_redis(const char *name)
{
    struct flight flight = { .to_ask = 0 };
    struct pool *other;

    pin_to_core(1);
    flight.redis = start_redis(name, ASYNC_LEAST);
    if (!flight.redis)
        return;
    pin_to_core(0);
    need_ok(pool_create(NULL, &other), "pool_create");
    need_ok(pool_mux_create(&flight.mux), "pool_mux_create");
    need_ok(pool_create(POOL_OPTIONS(.mux = flight.mux, .codec = pool_codec_resp(),
                                     .max_per_address = 1, .max_inflight = AT_ONCE),
                        &flight.pool),
            "pool_create");
    need(uv_loop_init(&flight.loop) == 0, "uv_loop_init");
    flight.theirs = redisAsyncConnect("127.0.0.1", server_port(flight.redis));
    need(flight.theirs && !flight.theirs->err &&
             redisLibuvAttach(flight.theirs, &flight.loop) == REDIS_OK,
         "redisAsyncConnect");
    report_rates(name, alternate(ASYNC_ROUNDS, round_ours, round_theirs, &flight), ASYNC_LEAST);
    redisAsyncFree(flight.theirs);
    uv_run(&flight.loop, UV_RUN_DEFAULT);
    uv_loop_close(&flight.loop);
    pool_destroy(flight.pool);
    pool_mux_destroy(flight.mux);
    pool_destroy(other);
    server_stop(flight.redis);
}

/* ---- many threads that wait */

struct sharers {
    struct server *redis;
    struct pool *pool;
};

static void get(void *user, void *own)
{
    struct sharers *sharers = user;
    struct pool_reply *reply;

    (void)own;
    need_ok(pool_query(sharers->pool, server_address(sharers->redis),
                       (struct pool_bytes){ command, COMMAND_SIZE }, NULL, &reply),
            "pool_query");
    take(reply);
}

static void *enter_theirs(void *user)
{
    return connect_theirs(((struct sharers *)user)->redis);
}

static void leave_theirs(void *context)
{
    redisFree(context);
}

static void get_theirs(void *user, void *context)
{
    void *reply;

    (void)user;
    need(redisAppendFormattedCommand(context, command, COMMAND_SIZE) == REDIS_OK &&
             redisGetReply(context, &reply) == REDIS_OK,
         "redisGetReply");
    look_at_theirs(reply);
    freeReplyObject(reply);
}

/* Ours on one pool as it comes; theirs with a connection each. */
void figure_query_redis_threads(const char *name)
{
    struct sharers sharers;
    const struct crowd crowd = { enter_theirs, leave_theirs, get, get_theirs, &sharers };

    sharers.redis = start_redis(name, THREADS_LEAST);
    if (!sharers.redis)
        return;
    need_ok(pool_create(POOL_OPTIONS(.codec = pool_codec_resp()), &sharers.pool), "pool_create");
    report_rates(name, measure_crowd(&crowd), THREADS_LEAST);
    pool_destroy(sharers.pool);
    server_stop(sharers.redis);
}

#endif
