/* test_query_servers.c: queries on real servers: Redis, memcached and nginx, many callers over one
 * connection to each. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "story/query_stage.h"
#include "support/tests.h"

#define THREADS 50u

TestSuite(query_servers, .fini = stage_end, .timeout = 120);

/* One connection for all. */
static void begin(struct server *started, const struct pool_codec *codec)
{
    stage_begin(started, POOL_OPTIONS(.codec = codec, .max_per_address = 1));
}

/* ---- Redis */

static atomic_uint right;

static void use_redis(unsigned index, void *rounds)
{
    char words[64], expected[64];

    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        snprintf(words, sizeof(words), "SET key:%u %06u", index, i);
        right += redis_answers(words, "+OK\r\n");
        snprintf(words, sizeof(words), "GET key:%u", index);
        snprintf(expected, sizeof(expected), "$6\r\n%06u\r\n", i);
        right += redis_answers(words, expected);
        snprintf(words, sizeof(words), "INCR count:%u", index);
        snprintf(expected, sizeof(expected), ":%u\r\n", i + 1);
        right += redis_answers(words, expected);
    }
}

Test(query_servers, fifty_threads_share_one_connection_to_redis)
{
    unsigned rounds = 200 / slowness();

    begin(redis_start(NULL), pool_codec_resp());
    atomic_store(&right, 0);
    cr_assert(run_threads(THREADS, use_redis, &rounds));
    cr_expect_eq(atomic_load(&right), THREADS * rounds * 3);
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

Test(query_servers, an_error_of_redis_is_a_reply_that_failed)
{
    static const char words[] = "*1\r\n$4\r\nNOPE\r\n";
    struct pool_reply *reply = NULL;

    begin(redis_start(NULL), pool_codec_resp());
    cr_assert_eq(pool_query(stage.pool, server_address(stage.server),
                            (struct pool_bytes){ words, sizeof(words) - 1 }, NULL, &reply),
                 POOL_OK);
    cr_expect(pool_reply_failed(reply));
    cr_expect_null(pool_reply_error(reply));
    pool_reply_free(reply);
    cr_expect(redis_answers("ECHO after", "$5\r\nafter\r\n"));
}

Test(query_servers, a_reply_of_redis_that_comes_too_late_is_nobody_elses)
{
    char request[REQUEST_ROOM];
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_reply *reply = NULL;

    begin(redis_start(NULL), pool_codec_resp());
    cr_expect(redis_answers("SET mine secret", "+OK\r\n"));
    cr_expect(redis_answers("CLIENT PAUSE 300 ALL", "+OK\r\n"));
    cr_expect_eq(pool_query(stage.pool, server_address(stage.server),
                            (struct pool_bytes){ request, write_command(request, "GET mine") },
                            POOL_CALL(.timeout_ms = 50, .error = &error), &reply),
                 POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_eq(error.outcome, POOL_MAYBE_SENT);
    cr_expect(redis_answers("ECHO yours", "$5\r\nyours\r\n"));
    cr_expect_eq(STAT(stage.pool, late_replies), 1);
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

Test(query_servers, what_may_be_repeated_moves_when_redis_kills_the_connection)
{
    begin(redis_start(NULL), pool_codec_resp());
    cr_expect(redis_answers("SET count 1", "+OK\r\n"));
    redis_answers("CLIENT KILL TYPE normal SKIPME no", ":1\r\n");
    cr_expect(redis_answers_to(POOL_CALL(.flags = POOL_SAFE_TO_REPEAT), "GET count",
                               "$1\r\n1\r\n"));
    cr_expect_eq(STAT(stage.pool, opened), 2);
}

/* ---- memcached */

static void use_memcached(unsigned index, void *rounds)
{
    char request[128], expected[128];
    size_t size;

    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        size = (size_t)snprintf(request, sizeof(request), "set key%u 0 0 6\r\n%06u\r\n", index, i);
        right += is_answered((struct pool_bytes){ request, size }, NULL, "STORED");
        size = (size_t)snprintf(request, sizeof(request), "get key%u\r\n", index);
        snprintf(expected, sizeof(expected), "VALUE key%u 0 6\r\n%06u\r\nEND", index, i);
        right += is_answered((struct pool_bytes){ request, size }, NULL, expected);
    }
}

Test(query_servers, fifty_threads_share_one_connection_to_memcached)
{
    unsigned rounds = 200 / slowness();

    begin(memcached_start(), pool_codec_memcached());
    atomic_store(&right, 0);
    cr_assert(run_threads(THREADS, use_memcached, &rounds));
    cr_expect_eq(atomic_load(&right), THREADS * rounds * 2);
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

/* ---- nginx */

static bool has_status(const char *method, const char *path, const char *status)
{
    struct pool_reply *reply = NULL;
    struct pool_bytes bytes;
    char request[128];
    bool has;
    size_t size = (size_t)snprintf(request, sizeof(request), "%s %s HTTP/1.1\r\nHost: here\r\n\r\n",
                                   method, path);

    if (pool_query(stage.pool, server_address(stage.server),
                   (struct pool_bytes){ request, size }, NULL, &reply))
        return false;
    bytes = pool_reply_bytes(reply);
    has = bytes.size > 12 && memcmp((const char *)bytes.data + 9, status, 3) == 0;
    pool_reply_free(reply);
    return has;
}

static void use_nginx(unsigned index, void *rounds)
{
    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        right += has_status(index % 2 ? "GET" : "HEAD", "/", "200");
        right += has_status("GET", "/not-there", "404");
    }
}

Test(query_servers, fifty_threads_share_one_connection_to_nginx)
{
    unsigned rounds = 9; /* nginx closes a connection after 1,000 requests */

    begin(nginx_start(), pool_codec_http1());
    atomic_store(&right, 0);
    cr_assert(run_threads(THREADS, use_nginx, &rounds));
    cr_expect_eq(atomic_load(&right), THREADS * rounds * 2);
    cr_expect_eq(STAT(stage.pool, opened), 1);
}
