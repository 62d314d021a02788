/* test_queries.c: public bugs of connections that many share: replies that reach the wrong caller,
 * one caller's trouble that becomes everybody's, and one connection where several are needed. Each
 * test is named after its bug and shows that the same cannot happen here. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "support/query_script.h"
#include "support/resp.h"
#include "support/servers.h"

TestSuite(museum_queries, .timeout = 60);

static void end(void)
{
    cr_expect(script_end());
}

/* ---- on Redis itself */

static const char *redis_command(const char *command, const char *argument)
{
    static char text[256];

    snprintf(text, sizeof(text), "*2\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n", strlen(command), command,
             strlen(argument), argument);
    return text;
}

static const char *redis_string(const char *string)
{
    static char text[256];

    snprintf(text, sizeof(text), "$%zu\r\n%s\r\n", strlen(string), string);
    return text;
}

static struct server *start_redis(struct pool **pool, unsigned connections)
{
    struct server *redis = redis_start(NULL);

    if (!redis)
        cr_skip("%s", server_why_not());
    *pool = MAKE_POOL(.codec = pool_codec_resp(), .max_per_address = connections);
    return redis;
}

/* redis-py #2624, CVE-2023-28858: the reply of a command that was canceled after it was sent went
 * to the next one on that connection. */
Test(museum_queries, redis_py_2624_cve_2023_28858_canceled_on_a_shared_connection)
{
    struct pool *pool;
    struct server *redis = start_redis(&pool, 1);
    const char *address = server_address(redis);

    for (unsigned i = 0; i < 300; i++) {
        struct query secret = { .has_ticket = true }, own = { 0 };
        char name[16];

        snprintf(name, sizeof(name), "name-%u", i);
        cr_assert_eq(start_query(&secret, pool, address, redis_command("ECHO", "secret"), NULL),
                     POOL_OK);
        if (i % 3)
            cr_assert_eq(start_query(&own, pool, address, redis_command("ECHO", name), NULL),
                         POOL_OK);
        pool_ticket_cancel(secret.ticket);
        pool_ticket_free(secret.ticket);
        if (i % 3)
            cr_assert(wait_answered(&own));
        else
            ask_and_wait(&own, pool, address, redis_command("ECHO", name), NULL);
        cr_expect(is_answered_with(&own, redis_string(name)));
        cr_assert(wait_answered(&secret));
        cr_expect(secret.status == POOL_E_CANCELED ||
                  is_answered_with(&secret, redis_string("secret")));
    }
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    server_stop(redis);
}

/* redis-py #2665, CVE-2023-28859: the mend forgot pipelines, which several replies answer. */
Test(museum_queries, redis_py_2665_cve_2023_28859_canceled_pipeline)
{
    static const char pipeline[] = "*2\r\n$4\r\nECHO\r\n$7\r\nsecret1\r\n"
                                   "*2\r\n$4\r\nECHO\r\n$7\r\nsecret2\r\n"
                                   "*2\r\n$4\r\nECHO\r\n$7\r\nsecret3\r\n";
    struct pool *pool;
    struct server *redis = start_redis(&pool, 1);
    const char *address = server_address(redis);

    for (unsigned i = 0; i < 300; i++) {
        struct query secret = { .has_ticket = true }, own = { 0 };

        cr_assert_eq(start_query(&secret, pool, address, pipeline, NULL), POOL_OK);
        pool_ticket_cancel(secret.ticket);
        pool_ticket_free(secret.ticket);
        ask_and_wait(&own, pool, address, redis_command("ECHO", "mine"), NULL);
        cr_expect(is_answered_with(&own, redis_string("mine")));
        cr_assert(wait_answered(&secret));
    }
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    server_stop(redis);
}

/* NRedisStack #421: a blocking command on the one shared connection held up everybody. It is for a
 * connection of one's own, from the same pool. */
Test(museum_queries, nredisstack_421_blocking_command)
{
    struct pool *pool;
    struct server *redis = start_redis(&pool, 2);
    const char *address = server_address(redis);
    struct query query = { 0 };
    struct pool_conn conn;
    char reply[RESP_TEXT];
    uint64_t start_ms;

    cr_assert(borrow(pool, address, &conn));
    cr_assert_eq(pool_send(&conn, "BLPOP list 20\r\n", 15), POOL_OK);
    start_ms = now_ms();
    for (unsigned i = 0; i < 100; i++) {
        query = (struct query){ 0 };
        ask_and_wait(&query, pool, address, redis_command("ECHO", "meanwhile"), NULL);
        cr_expect(is_answered_with(&query, redis_string("meanwhile")));
    }
    cr_expect_lt(elapsed_ms(start_ms), 15000);
    query = (struct query){ 0 };
    ask_and_wait(&query, pool, address,
                 "*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$4\r\nitem\r\n", NULL);
    cr_expect(is_answered_with(&query, ":1\r\n"));
    cr_expect_eq(resp_read(&conn, reply), 0);
    cr_expect_str_eq(reply, "list item");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    server_stop(redis);
}

/* ---- by a script */

static void let_time_pass(unsigned ms)
{
    world_run(script.world, ms);
}

/* redis/hiredis #1128, #945: the time-out of one command closed the connection and failed all
 * others that waited there. */
Test(museum_queries, hiredis_1128_one_timeout_on_a_shared_connection)
{
    struct query late = { 0 }, others[20] = { { 0 } };

    script_begin(SPEAK_RESP, POOL_OPTIONS(), NULL);
    cr_assert_eq(script_ask(&late, "late", POOL_CALL(.timeout_ms = 10)), POOL_OK);
    for (unsigned i = 0; i < 20; i++)
        cr_assert_eq(script_ask(&others[i], "other", NULL), POOL_OK);
    let_time_pass(100);
    cr_expect(has_failed_with(&late, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_assert_eq(script.count, 21);
    for (unsigned i = 0; i < 21; i++)
        script_answer(&script.requests[i], (struct pool_bytes){ 0 });
    let_time_pass(1);
    for (unsigned i = 0; i < 20; i++)
        cr_expect(script_is_answered(&others[i], "other"));
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    end();
}

/* aredis #52, #171: a connection on which a reply was still to come was lent as idle. */
static void lend_with_a_reply_due(enum script_speech speech)
{
    struct query late = { 0 };
    struct pool_conn conn;
    struct pool_bytes reply = { NULL, 0 };
    char body[64], expected[64];
    size_t size;

    script_begin(speech, POOL_OPTIONS(.max_per_address = 1, .park_ms = 5), NULL);
    cr_assert_eq(script_ask(&late, "secret", POOL_CALL(.timeout_ms = 10)), POOL_OK);
    let_time_pass(100);
    cr_expect(has_failed_with(&late, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_expect_eq(STAT(script.pool, idle), 0);
    script.on_request = script_answer;
    cr_assert(borrow(script.pool, SCRIPT_ADDRESS, &conn));
    size = script_write_request(body, sizeof(body), text_bytes("mine"));
    cr_expect_eq(pool_ask(&conn, (struct pool_bytes){ body, size }, &reply), POOL_OK);
    size = script_write_body(expected, sizeof(expected), text_bytes("mine"));
    cr_expect_eq(reply.size, size);
    cr_expect_arr_eq(reply.data, expected, size);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    end();
}

Test(museum_queries, aredis_52_171_connection_with_a_reply_due_lent_as_idle)
{
    lend_with_a_reply_due(SPEAK_LENGTH);
    lend_with_a_reply_due(SPEAK_LINE);
    lend_with_a_reply_due(SPEAK_RESP);
}

/* StackExchange.Redis #1279, lettuce #2065: on the one connection a big reply held up the small
 * ones. Where the protocol has parts, they go in between. */
static unsigned parts_left;

static void say_a_part(void *unused)
{
    static char part[1000];
    struct script_bytes bytes = { .size = 0 };

    (void)unused;
    memset(part, 'x', sizeof(part) - 1);
    script_frame(&bytes, script.requests[0].id, --parts_left ? FRAME_PART : FRAME_REPLY, part);
    world_say(script.requests[0].link, bytes.data, bytes.size);
    if (parts_left)
        world_at(script.world, 1, say_a_part, NULL);
}

static void answer_the_small(const struct script_request *request, struct pool_bytes token)
{
    if (strcmp(request->token, "big") != 0)
        script_answer(request, token);
    else
        world_at(script.world, 0, say_a_part, NULL);
}

Test(museum_queries, stackexchange_redis_1279_small_replies_between_the_parts_of_a_big_one)
{
    struct query big = { 0 };
    uint64_t start_ms;

    parts_left = 1000;
    script_begin(SPEAK_LENGTH, POOL_OPTIONS(), NULL);
    script.on_request = answer_the_small;
    cr_assert_eq(script_ask(&big, "big", NULL), POOL_OK);
    let_time_pass(50);
    start_ms = world_now_ms(script.world);
    for (unsigned i = 0; i < 10; i++) {
        struct query small = { 0 };

        script_ask_and_wait(&small, "small", NULL);
        cr_expect(script_is_answered(&small, "small"));
    }
    cr_expect_leq(world_now_ms(script.world) - start_ms, 10);
    cr_expect_eq(big.told, 0);
    let_time_pass(2000);
    cr_expect_eq(big.told, 1);
    cr_expect_eq(big.size, 999 * 1000);
    cr_expect_eq(world_counts(script.peer).accepted, 1);
    end();
}

/* The same where it has none: what has little to answer is on another connection, which is there
 * as soon as the first has as many as it may. */
static void answer_big_late(const struct script_request *request, struct pool_bytes token)
{
    if (strcmp(request->token, "big") != 0)
        script_answer(request, token);
}

Test(museum_queries, lettuce_2065_small_replies_beside_a_big_one)
{
    struct query big = { 0 }, small[10] = { { 0 } };

    script_begin(SPEAK_RESP, POOL_OPTIONS(.max_inflight = 1), NULL);
    script.on_request = answer_big_late;
    cr_assert_eq(script_ask(&big, "big", NULL), POOL_OK);
    let_time_pass(50);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(script_ask(&small[i], "small", NULL), POOL_OK);
    let_time_pass(10);
    for (unsigned i = 0; i < 10; i++)
        cr_expect(script_is_answered(&small[i], "small"));
    cr_expect_eq(big.told, 0);
    script_answer(&script.requests[0], (struct pool_bytes){ 0 });
    let_time_pass(1);
    cr_expect(script_is_answered(&big, "big"));
    end();
}

/* SER #705, #886: the connection for a query is the one with the least to answer, not the next in
 * turn, behind what is big. */
Test(museum_queries, stackexchange_redis_705_the_least_busy_connection_is_chosen)
{
    static struct query big[2], small[50];
    char large[200] = "big ";

    memset(large + 4, 'x', sizeof(large) - 5);
    script_begin(SPEAK_RESP, POOL_OPTIONS(.max_inflight = 60, .max_per_address = 2), NULL);
    for (unsigned i = 0; i < 50; i++)
        cr_assert_eq(script_ask(&small[i], "opens both", NULL), POOL_OK);
    for (unsigned i = 0; i < 12; i++)
        cr_assert_eq(pool_post_request(script.pool, SCRIPT_ADDRESS,
                                       text_bytes(redis_command("ECHO", "opens both")), NULL),
                     POOL_OK);
    let_time_pass(50);
    cr_assert_eq(world_counts(script.peer).accepted, 2);
    for (unsigned i = 0; i < script.count; i++)
        script_answer(&script.requests[i], (struct pool_bytes){ 0 });
    let_time_pass(1);
    memset(small, 0, sizeof(small));
    script.count = 0;
    cr_assert_eq(script_ask(&big[0], large, NULL), POOL_OK);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(script_ask(&small[i], "small", NULL), POOL_OK);
    let_time_pass(1);
    cr_assert_eq(script.count, 4);
    for (unsigned i = 1; i < 4; i++) {
        bool is_small = strcmp(script.requests[i].token, "small") == 0;

        cr_expect(!is_small || script.requests[i].link != script.requests[0].link ||
                      strcmp(script.requests[0].token, "small") == 0,
                  "behind the big one");
    }
    end();
}

/* gRPC #20985, grpc-java #8252, grpc-dotnet #994: beyond the limit of one connection calls queued
 * in silence. Here there are further ones, and the queue is bounded and known. */
Test(museum_queries, grpc_20985_more_in_flight_than_one_connection_may_have)
{
    static struct query queries[35];
    struct query hasty = { 0 };

    script_begin(SPEAK_LENGTH,
                 POOL_OPTIONS(.max_inflight = 10, .max_per_address = 3, .max_waiters = 5), NULL);
    for (unsigned i = 0; i < 35; i++) {
        cr_assert_eq(script_ask(&queries[i], "held", NULL), POOL_OK, "%u", i);
        if (i % 5 == 4)
            let_time_pass(20);
    }
    cr_expect_eq(script.count, 30);
    cr_expect_eq(world_counts(script.peer).accepted, 3);
    cr_expect_eq(script_ask(&hasty, "held", POOL_CALL(.flags = POOL_DONT_WAIT)), POOL_E_FULL);
    cr_expect_eq(script_ask(&hasty, "held", NULL), POOL_E_FULL);
    for (unsigned i = 0; i < 35; i++) {
        script_answer(&script.requests[i], (struct pool_bytes){ 0 });
        let_time_pass(1);
    }
    for (unsigned i = 0; i < 35; i++)
        cr_expect(script_is_answered(&queries[i], "held"));
    end();
}

/* redis/hiredis #109: a graceful end waited for ever for a server that was dead. */
static void note_closed(void *user)
{
    *(bool *)user = true;
}

Test(museum_queries, hiredis_109_graceful_end_on_a_dead_server)
{
    struct query query = { 0 };
    bool is_closed = false;

    script_begin(SPEAK_RESP, POOL_OPTIONS(), NULL);
    cr_assert_eq(script_ask(&query, "x", NULL), POOL_OK);
    let_time_pass(10);
    world_vanish(script.peer);
    cr_assert_eq(pool_close(script.pool, 500, note_closed, &is_closed), POOL_OK);
    let_time_pass(400);
    cr_expect(!is_closed);
    cr_expect_eq(query.told, 0);
    let_time_pass(200);
    cr_expect(is_closed);
    cr_expect(has_failed_with(&query, POOL_E_CLOSING));
    end();
}
