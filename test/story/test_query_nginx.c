/* test_query_nginx.c: queries to a real nginx that are in flight on one connection, many at once:
 * responses of all shapes in turn, and connections that nginx ends behind one of them. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "story/query_stage.h"
#include "support/tests.h"

#define PIPELINED 100u
#define THREADS 20u

TestSuite(query_nginx, .fini = stage_end, .timeout = 120);

static void begin(void)
{
    stage_begin(nginx_start(), POOL_OPTIONS(.codec = pool_codec_http1(), .max_per_address = 1));
}

static const char *write_request(char request[REQUEST_ROOM], const char *line, const char *fields)
{
    snprintf(request, REQUEST_ROOM, "%s HTTP/1.1\r\nHost: here\r\n%s\r\n", line, fields);
    return request;
}

static void start_get(struct query *query, const char *folder, unsigned number,
                      const struct pool_call *call)
{
    char line[64], request[REQUEST_ROOM];

    snprintf(line, sizeof(line), "GET /%s/%u", folder, number);
    cr_assert_eq(start_query(query, stage.pool, server_address(stage.server),
                             write_request(request, line, ""), call),
                 POOL_OK);
}

/* Is it the answer to that path? */
static bool repeats(const struct query *query, const char *folder, unsigned number)
{
    const char *content = strstr(query->text, "\r\n\r\n");
    char path[64];

    snprintf(path, sizeof(path), "/%s/%u", folder, number);
    return query->told == 1 && !query->status && content && strcmp(content + 4, path) == 0;
}

Test(query_nginx, a_hundred_requests_at_once_are_answered_in_turn)
{
    struct query *queries = calloc(PIPELINED, sizeof(*queries));

    begin();
    for (unsigned i = 0; i < PIPELINED; i++)
        start_get(&queries[i], "echo", i, NULL);
    for (unsigned i = 0; i < PIPELINED; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(repeats(&queries[i], "echo", i), "%s", queries[i].text);
    }
    cr_expect_eq(STAT(stage.pool, opened), 1);
    free(queries);
}

/* ---- responses of all shapes */

static atomic_uint right;

static bool says(const char *line, const char *fields, const char *head, const char *tail)
{
    struct query query = { 0 };
    char request[REQUEST_ROOM];
    size_t size = strlen(tail);

    ask_and_wait(&query, stage.pool, server_address(stage.server),
                 write_request(request, line, fields), NULL);
    if (!query.status && strncmp(query.text, head, strlen(head)) == 0 && query.size >= size &&
        query.size < QUERY_TEXT && memcmp(query.text + query.size - size, tail, size) == 0)
        return true;
    fprintf(stderr, "%s: %s, %s\n", line, pool_status_name(query.status), query.text);
    return false;
}

static void ask_for_all_shapes(unsigned index, void *rounds)
{
    char line[64], path[32];

    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        snprintf(path, sizeof(path), "/echo/%u:%u", index, i);
        snprintf(line, sizeof(line), "GET %s", path);
        right += says(line, "", "HTTP/1.1 200 ", path);
        snprintf(line, sizeof(line), "HEAD %s", path);
        right += says(line, "", "HTTP/1.1 200 ", "\r\n\r\n");
        right += says("GET /none", "", "HTTP/1.1 204 ", "\r\n\r\n");
        right += says("GET /", "If-None-Match: *\r\n", "HTTP/1.1 304 ", "\r\n\r\n");
        right += says("GET /packed/kilo.txt", "Accept-Encoding: gzip\r\n", "HTTP/1.1 200 ",
                      "\r\n0\r\n\r\n");
        right += says("GET /", "", "HTTP/1.1 200 ", "\r\n\r\n" NGINX_SMALL);
        right += says("GET /not-there", "", "HTTP/1.1 404 ", "</html>\r\n");
    }
}

Test(query_nginx, responses_with_and_without_content_keep_their_turn)
{
    unsigned rounds = 50 / slowness();

    begin();
    cr_assert(run_threads(THREADS, ask_for_all_shapes, &rounds));
    cr_expect_eq(atomic_load(&right), THREADS * rounds * 7);
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

/* ---- a server that ends a connection after so many */

Test(query_nginx, what_is_left_unanswered_at_the_end_moves_if_it_may)
{
    struct query *queries = calloc(PIPELINED, sizeof(*queries));

    begin();
    for (unsigned i = 0; i < PIPELINED; i++)
        start_get(&queries[i], "few", i,
                  POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_SAFE_TO_REPEAT));
    for (unsigned i = 0; i < PIPELINED; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(repeats(&queries[i], "few", i), "%u: %s", i, queries[i].error.text);
    }
    cr_expect_eq(STAT(stage.pool, opened), PIPELINED / NGINX_FEW);
    free(queries);
}

Test(query_nginx, what_is_left_unanswered_at_the_end_and_may_not_move_fails_once)
{
    struct query *queries = calloc(PIPELINED, sizeof(*queries)), next = { 0 };

    begin();
    for (unsigned i = 0; i < PIPELINED; i++)
        start_get(&queries[i], "few", i, NULL);
    for (unsigned i = 0; i < PIPELINED; i++) {
        cr_assert(wait_answered(&queries[i]));
        if (i < NGINX_FEW)
            cr_expect(repeats(&queries[i], "few", i));
        else
            cr_expect(has_failed_with(&queries[i], POOL_E_CLOSED));
        cr_expect(i < NGINX_FEW || queries[i].error.outcome == POOL_MAYBE_SENT);
    }
    start_get(&next, "few", 0, NULL);
    cr_assert(wait_answered(&next));
    cr_expect(repeats(&next, "few", 0));
    cr_expect_eq(STAT(stage.pool, opened), 2);
    free(queries);
}

Test(query_nginx, one_at_a_time_no_request_is_lost_to_the_end_of_a_connection)
{
    unsigned count = 4 * NGINX_FEW;

    begin();
    for (unsigned i = 0; i < count; i++) {
        struct query query = { 0 };

        start_get(&query, "few", i, NULL);
        cr_assert(wait_answered(&query));
        cr_expect(repeats(&query, "few", i), "%u: %s", i, query.error.text);
    }
    cr_expect_eq(STAT(stage.pool, opened), 4);
}

static void get_few(unsigned index, void *rounds)
{
    char line[64];

    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        struct query query = { 0 };
        char request[REQUEST_ROOM];

        snprintf(line, sizeof(line), "GET /few/%u", index * 1000 + i);
        ask_and_wait(&query, stage.pool, server_address(stage.server),
                     write_request(request, line, ""),
                     POOL_CALL(.timeout_ms = VERBS_SOON, .flags = POOL_SAFE_TO_REPEAT));
        right += repeats(&query, "few", index * 1000 + i);
    }
}

Test(query_nginx, threads_lose_none_that_may_move_to_the_end_of_connections)
{
    unsigned rounds = 100 / slowness();

    begin();
    cr_assert(run_threads(THREADS, get_few, &rounds));
    cr_expect_eq(atomic_load(&right), THREADS * rounds);
    cr_expect_geq(STAT(stage.pool, opened), THREADS * rounds / NGINX_FEW);
}
