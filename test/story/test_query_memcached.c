/* test_query_memcached.c: queries to a real memcached over one connection: commands with no reply,
 * with one of many values, with several, and with large ones. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "story/query_stage.h"
#include "support/tests.h"

#define THREADS 50u
#define KEYS 100u
#define BIG 1000000u /* what one value may be is a little more */

TestSuite(query_memcached, .fini = stage_end, .timeout = 120);

static atomic_uint right;

static void begin(void)
{
    stage_begin(memcached_start(),
                POOL_OPTIONS(.codec = pool_codec_memcached(), .max_per_address = 1));
}

static bool answers(const char *request, const char *expected)
{
    return is_answered(text_bytes(request), NULL, expected);
}

/* ---- none */

static void set_without_reply(unsigned index, void *rounds)
{
    char request[128], expected[128];

    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        snprintf(request, sizeof(request), "set key%u 0 0 6 noreply\r\n%06u\r\n", index, i);
        if (i % 2)
            right += !pool_post_request(stage.pool, server_address(stage.server),
                                        text_bytes(request), NULL);
        else
            right += answers(request, "");
        snprintf(request, sizeof(request), "get key%u\r\n", index);
        snprintf(expected, sizeof(expected), "VALUE key%u 0 6\r\n%06u\r\nEND", index, i);
        right += answers(request, expected);
    }
}

Test(query_memcached, commands_without_a_reply_take_nobodys)
{
    unsigned rounds = 100 / slowness();

    begin();
    cr_assert(run_threads(THREADS, set_without_reply, &rounds));
    cr_expect_eq(atomic_load(&right), THREADS * rounds * 2);
    cr_expect_eq(STAT(stage.pool, opened), 1);
    cr_expect_eq(STAT(stage.pool, orphans), 0);
}

/* ---- one, of many values */

/* All keys, of which only the even ones are there. */
static void get_many(unsigned index, void *rounds)
{
    static const char missing[] = "get missing:1 missing:2\r\n";
    char request[16 * KEYS] = "get", expected[64 * KEYS] = "";
    size_t asked = 3, told = 0;

    (void)index;
    for (unsigned i = 0; i < KEYS; i++) {
        asked += (size_t)snprintf(request + asked, sizeof(request) - asked, " many:%u", i);
        if (i % 2 == 0)
            told += (size_t)snprintf(expected + told, sizeof(expected) - told,
                                     "VALUE many:%u %u 4\r\n%04u\r\n", i, i, i);
    }
    strcpy(request + asked, "\r\n");
    strcpy(expected + told, "END");
    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        right += answers(request, expected);
        right += answers(missing, "END");
    }
}

Test(query_memcached, a_get_of_many_keys_has_one_reply_of_those_that_are_there)
{
    unsigned rounds = 50 / slowness();
    char request[64];

    begin();
    for (unsigned i = 0; i < KEYS; i += 2) {
        snprintf(request, sizeof(request), "set many:%u %u 0 4\r\n%04u\r\n", i, i, i);
        cr_assert(answers(request, "STORED"));
    }
    cr_assert(run_threads(THREADS / 5, get_many, &rounds));
    cr_expect_eq(atomic_load(&right), THREADS / 5 * rounds * 2);
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

/* ---- several */

static char told[256];

static void note_part(struct pool_bytes part, void *user)
{
    size_t size = strlen(told);

    (void)user;
    snprintf(told + size, sizeof(told) - size, "<%.*s>", (int)part.size, (const char *)part.data);
}

Test(query_memcached, several_commands_in_one_request_have_one_reply_of_all_or_in_parts)
{
    static const char request[] = "set it 0 0 2\r\nno\r\nset it 0 0 2 noreply\r\nme\r\nget it\r\n"
                                  "delete it\r\nget it\r\n";

    begin();
    cr_expect(answers(request, "STOREDVALUE it 0 2\r\nme\r\nENDDELETEDEND"));
    cr_expect(is_answered(text_bytes(request),
                          POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = note_part), "END"));
    cr_expect_str_eq(told, "<STORED><VALUE it 0 2\r\nme\r\nEND><DELETED>");
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

/* ---- large ones */

static void keep_a_big_one(unsigned index, void *rounds)
{
    char *request = malloc(BIG + 128), *expected = malloc(BIG + 128), small[64];
    int head, size;

    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        head = snprintf(request, 128, "set big%u 0 0 %u\r\n", index, BIG);
        memset(request + head, 'a' + (int)((index + i) % 26), BIG);
        strcpy(request + head + BIG, "\r\n");
        size = snprintf(expected, 128, "VALUE big%u 0 %u\r\n", index, BIG);
        memcpy(expected + size, request + head, BIG + 3);
        strcpy(expected + size + BIG + 2, "END");
        right += answers(request, "STORED");
        snprintf(small, sizeof(small), "get big%u\r\n", index);
        right += answers(small, expected);
        right += answers("get none\r\n", "END");
    }
    free(request);
    free(expected);
}

Test(query_memcached, large_values_come_whole_and_go_to_their_callers)
{
    unsigned rounds = 10 / slowness();

    begin();
    cr_assert(run_threads(8, keep_a_big_one, &rounds));
    cr_expect_eq(atomic_load(&right), 8 * rounds * 3);
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

/* It reads the value all the same, so what comes behind it is in step. */
Test(query_memcached, a_value_that_is_too_large_is_a_failed_reply_and_costs_no_connection)
{
    struct query query = { 0 };
    char *request = calloc(1, 3 * BIG + 64);
    int head = sprintf(request, "set huge 0 0 %u\r\n", 3 * BIG);

    begin();
    memset(request + head, 'x', 3 * BIG);
    strcpy(request + head + 3 * BIG, "\r\n");
    ask_and_wait(&query, stage.pool, server_address(stage.server), request, NULL);
    cr_expect_eq(query.status, POOL_OK);
    cr_expect(query.failed, "%s", query.text);
    cr_expect(answers("set it 0 0 2\r\nme\r\n", "STORED"));
    cr_expect(answers("get huge it\r\n", "VALUE it 0 2\r\nme\r\nEND"));
    cr_expect_eq(STAT(stage.pool, opened), 1);
    free(request);
}

/* ---- counting */

static void increment(unsigned index, void *rounds)
{
    (void)index;
    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        struct query query = { 0 };

        ask_and_wait(&query, stage.pool, server_address(stage.server), "incr count 1\r\n", NULL);
        right += !query.status && !query.failed && strtoul(query.text, NULL, 10) > 0;
    }
}

Test(query_memcached, fifty_threads_count_and_no_number_is_lost)
{
    unsigned rounds = 200 / slowness();
    char expected[32];

    begin();
    cr_assert(answers("set count 0 0 1\r\n0\r\n", "STORED"));
    cr_assert(run_threads(THREADS, increment, &rounds));
    cr_expect_eq(atomic_load(&right), THREADS * rounds);
    snprintf(expected, sizeof(expected), "%u", THREADS * rounds + 1);
    cr_expect(answers("incr count 1\r\n", expected));
}
