/* scenes_query.c: queries over connections that they share: every one is refused or answered
 * exactly once, in time, by nobody else's reply, and a connection that carried them is borrowed
 * after. The peers echo, so a line is answered by the same line. */
#include "torture/scenes.h"

#include <stdio.h>
#include <string.h>

#include "commpool/query.h"

#define LATE_MS 40
#define MOST 6u

/* The codec of lines, as a constant that options can name. */
static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *out)
{
    return pool_codec_line()->next(state, in, at_end, hint, out);
}

static enum pool_status encode(void *state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect)
{
    return pool_codec_line()->encode(state, kind, key, body, out, expect);
}

static const struct pool_codec lines = { .size = sizeof(lines),
                                         .name = "lines",
                                         .read_state_size = 64, /* as much as it may want */
                                         .next = next,
                                         .encode = encode };

/* A fault that stays makes the peer fail; here nobody pauses for that. */
#define LINES .codec = &lines, .backoff_first_ms = POOL_ZERO, .suspend_after = POOL_ZERO

struct query {
    struct torture *torture;
    const char *address;
    uint32_t timeout_ms; /* 1,000 by default */
    uint32_t flags;
    bool wants_ticket;
    enum pool_status started, status;
    unsigned told;
    bool is_starting;
    struct pool_ticket *ticket;
    char text[24];
};

static void name_it(struct torture *torture, struct query *query)
{
    query->torture = torture;
    if (!query->address)
        query->address = TCP;
    if (!query->timeout_ms)
        query->timeout_ms = 1000;
    snprintf(query->text, sizeof(query->text), "query %u", torture->asked++);
}

static struct pool_call call_of(const struct query *query)
{
    return (struct pool_call){ .size = sizeof(struct pool_call),
                               .timeout_ms = query->timeout_ms,
                               .flags = query->flags };
}

/* Where no fault can strike, the script says what it must be. */
static void check_status(struct torture *torture, enum pool_status status, const char *of)
{
    if (!torture->is_strict && status != POOL_E_CANCELED && status != POOL_E_CLOSING)
        torture_check_status(torture, status, of);
}

static void check_reply(struct query *query, const struct pool_reply *reply)
{
    struct pool_bytes bytes = pool_reply_bytes(reply);

    torture_check(query->torture, !pool_reply_failed(reply));
    if (bytes.size != strlen(query->text) || memcmp(bytes.data, query->text, bytes.size) != 0)
        torture_fail(query->torture, "a reply crossed: %s", query->text);
}

static void on_reply(struct pool_reply *reply, void *user)
{
    struct query *query = user;
    const struct pool_error *error = pool_reply_error(reply);

    query->told++;
    torture_check(query->torture, !query->is_starting);
    if (error) {
        query->status = error->status;
        check_status(query->torture, error->status, "on_reply");
    } else {
        check_reply(query, reply);
    }
    pool_reply_free(reply);
}

static void start(struct torture *torture, struct query *query)
{
    struct pool_call call;

    name_it(torture, query);
    call = call_of(query);
    query->is_starting = true;
    query->started = pool_query_async(torture->pool, query->address,
                                      (struct pool_bytes){ query->text, strlen(query->text) },
                                      on_reply, query, &call,
                                      query->wants_ticket ? &query->ticket : NULL);
    query->is_starting = false;
    torture_check_status(torture, query->started, "pool_query_async");
    torture_check(torture, !query->wants_ticket || !query->started == !!query->ticket);
}

static enum pool_status finish(struct query *query, enum pool_status expected)
{
    struct torture *torture = query->torture;
    uint64_t limit_ms = world_now_ms(torture->world) + query->timeout_ms + LATE_MS;

    while (!query->started && !query->told && world_now_ms(torture->world) < limit_ms)
        world_run(torture->world, 1);
    world_settle(torture->world);
    if (query->told != !query->started)
        torture_fail(torture, "start: %s, and told %u times", pool_status_name(query->started),
                     query->told);
    pool_ticket_free(query->ticket);
    torture_must(torture, query->started || query->status == expected);
    return query->started ? query->started : query->status;
}

static enum pool_status ask(struct torture *torture, struct query *query,
                            enum pool_status expected)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_reply *reply = NULL;
    struct pool_call call;
    uint64_t start_ms = world_now_ms(torture->world);

    name_it(torture, query);
    call = call_of(query);
    call.error = &error;
    query->status = pool_query(torture->pool, query->address,
                               (struct pool_bytes){ query->text, strlen(query->text) }, &call,
                               &reply);
    check_status(torture, query->status, "pool_query");
    torture_check(torture, !query->status == !!reply);
    torture_check(torture, world_now_ms(torture->world) - start_ms <= query->timeout_ms + LATE_MS);
    if (reply)
        check_reply(query, reply);
    else if (!strstr(error.text, query->address))
        torture_fail(torture, "the error does not name the peer: %s", error.text);
    torture_must(torture, query->status == expected);
    pool_reply_free(reply);
    return query->status;
}

/* ---- queries that go well */

static void ask_twice(struct torture *torture)
{
    struct query first = { 0 }, second = { .flags = POOL_SAFE_TO_REPEAT },
                 third = { .flags = POOL_ORDERED };

    ask(torture, &first, POOL_OK);
    ask(torture, &second, POOL_OK);
    world_run(torture->world, 400); /* the line goes back, and is lent */
    TORTURE_ASK(torture, .address = TCP);
    ask(torture, &third, POOL_OK);
}

const struct scenario scene_query = { "query", .options = { LINES },
                                      .exercise = ask_twice };

static void ask_many(struct torture *torture)
{
    struct query queries[MOST] = { { .wants_ticket = true }, { .flags = POOL_SAFE_TO_REPEAT } };

    for (unsigned i = 0; i < MOST; i++)
        start(torture, &queries[i]);
    for (unsigned i = 0; i < MOST; i++)
        finish(&queries[i], POOL_OK);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_query_async = { "query-async", .options = { LINES },
                                            .exercise = ask_many };

const struct scenario scene_query_full = {
    "query-full", .options = { LINES, .max_inflight = 2, .max_per_address = 2 },
    .exercise = ask_many
};

static void post_some(struct torture *torture)
{
    struct query query = { 0 };

    for (unsigned i = 0; i < 3; i++)
        torture_check_status(torture,
                             pool_post_request(torture->pool, TCP, POOL_TEXT("posted"), NULL),
                             "pool_post_request");
    ask(torture, &query, POOL_OK);
    world_run(torture->world, 400);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_query_post = { "query-post", .options = { LINES },
                                           .exercise = post_some };

/* ---- given up */

static void be_silent(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .behave = WORLD_SILENT);
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_ECHO);
}

static void ask_in_vain(struct torture *torture)
{
    struct query query = { .timeout_ms = 50 }, other = { .timeout_ms = 30 },
                 canceled = { .wants_ticket = true }, next = { .address = TCP2 };

    start(torture, &other);
    start(torture, &canceled);
    ask(torture, &query, POOL_E_TIMEOUT_IN_TRANSFER);
    finish(&other, POOL_E_TIMEOUT_IN_TRANSFER);
    if (canceled.ticket && !canceled.told)
        torture_check(torture, pool_ticket_cancel(canceled.ticket));
    finish(&canceled, POOL_E_CANCELED);
    ask(torture, &next, POOL_OK);
}

const struct scenario scene_query_vain = { "query-vain", .options = { LINES },
                                           .furnish = be_silent, .exercise = ask_in_vain };

/* It takes two queries and a half, and never notices an end. */
static void be_deaf(struct torture *torture)
{
    WORLD_LISTEN(torture->world, TCP, .behave = WORLD_DEAF, .window = 20);
    torture->peer = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_ECHO);
}

static void ask_behind(struct torture *torture)
{
    struct query queries[MOST], next = { .address = TCP2 };
    bool was_strict = torture->is_strict;

    for (unsigned i = 0; i < MOST; i++) {
        queries[i] = (struct query){ .timeout_ms = i == 3 ? 60 : 50, .wants_ticket = i == 4 };
        start(torture, &queries[i]);
    }
    world_run(torture->world, 20);
    if (queries[4].ticket && !queries[4].told)
        torture_check(torture, pool_ticket_cancel(queries[4].ticket));
    torture->is_strict = false; /* what has begun to leave depends on who asked before */
    for (unsigned i = 0; i < MOST; i++)
        finish(&queries[i], POOL_E_TIMEOUT);
    torture->is_strict = was_strict;
    ask(torture, &next, POOL_OK);
}

const struct scenario scene_query_behind = { "query-behind", .options = { LINES },
                                             .furnish = be_deaf, .exercise = ask_behind };

/* ---- the end of the connection, and of the pool */

static void close_soon(struct torture *torture)
{
    torture->peer =
        WORLD_LISTEN(torture->world, TCP, .behave = WORLD_CLOSE_RECEIVED, .after_bytes = 12);
    torture->second = WORLD_LISTEN(torture->world, TCP2, .behave = WORLD_ECHO);
}

static void ask_what_closes(struct torture *torture)
{
    struct query queries[MOST] = { { 0 }, { .flags = POOL_SAFE_TO_REPEAT },
                                   { .flags = POOL_ONE_SHOT } };
    struct query next = { .address = TCP2 };

    for (unsigned i = 0; i < MOST; i++)
        start(torture, &queries[i]);
    for (unsigned i = 0; i < MOST; i++) {
        bool was_strict = torture->is_strict;

        torture->is_strict = false; /* whichever came before the end was answered */
        finish(&queries[i], POOL_OK);
        torture->is_strict = was_strict;
    }
    ask(torture, &next, POOL_OK);
}

const struct scenario scene_query_closed = { "query-closed", .options = { LINES },
                                             .furnish = close_soon, .exercise = ask_what_closes };

/* A pool of its own ends with some in flight. */
static void end_in_flight(struct torture *torture)
{
    struct pool *outer = torture->pool;
    struct query queries[MOST] = { { 0 } };

    torture->pool = NULL;
    torture_check_status(torture, pool_create(POOL_OPTIONS(LINES), &torture->pool),
                         "pool_create");
    if (torture->pool) {
        for (unsigned i = 0; i < MOST; i++)
            start(torture, &queries[i]);
        world_run(torture->world, 1);
        pool_destroy(torture->pool);
        for (unsigned i = 0; i < MOST; i++)
            torture_check(torture, queries[i].told == !queries[i].started);
    }
    torture->pool = outer;
}

const struct scenario scene_query_end = { "query-end", .options = { LINES },
                                          .furnish = be_silent, .exercise = end_in_flight };
