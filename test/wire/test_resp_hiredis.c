/* test_resp_hiredis.c: what hiredis' reader takes for replies of RESP2, the codec takes for the
 * same ones; it refuses more, and what more is told here. */
#include <criterion/criterion.h>
#include <hiredis/read.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "support/tests.h"
#include "wire/fed.h"
#include "wire/resp_model.h"

#define REPLIES 64u

static void *make_string(const redisReadTask *task, char *text, size_t size)
{
    (void)text;
    (void)size;
    return (void *)task;
}

static void *make_array(const redisReadTask *task, int elements)
{
    (void)elements;
    return (void *)task;
}

static void *make_integer(const redisReadTask *task, long long number)
{
    (void)number;
    return (void *)task;
}

static void *make_nil(const redisReadTask *task)
{
    return (void *)task;
}

static void free_object(void *object)
{
    (void)object;
}

struct read_by_hiredis {
    size_t ends[REPLIES];
    size_t count;
    bool is_refused;
    char why[128];
};

static void read_with_hiredis(const struct made *made, struct read_by_hiredis *result)
{
    static redisReplyObjectFunctions functions = { make_string, make_array, make_integer, make_nil,
                                                   free_object };
    redisReader *reader = redisReaderCreateWithFunctions(&functions);
    void *reply = NULL;

    cr_assert(reader);
    reader->maxbuf = 0;
    *result = (struct read_by_hiredis){ .count = 0 };
    cr_assert_eq(redisReaderFeed(reader, made->bytes, made->size), REDIS_OK);
    while (result->count < REPLIES) {
        if (redisReaderGetReply(reader, &reply) != REDIS_OK) {
            result->is_refused = true;
            strcpy(result->why, reader->errstr);
            break;
        }
        if (!reply)
            break;
        result->ends[result->count++] = made->size - (reader->len - reader->pos);
    }
    redisReaderFree(reader);
}

/* What this version of hiredis refuses and the codec does not: RESP3, deep nesting, and ":+1". */
static bool is_narrower(const char *why, const char *rest, size_t size)
{
    char text[MADE_MOST + 1];

    memcpy(text, rest, size);
    text[size] = '\0';
    if (strncmp(why, "Protocol error, got ", 20) == 0)
        return strpbrk(text, "_#,(!=%~>|") != NULL;
    return strstr(why, "nested") || (strstr(why, "integer") && strstr(text, ":+"));
}

static void compare_with_hiredis(const struct made *made, size_t *agreed)
{
    struct feed feed = { .codec = pool_codec_resp(), .most = 1u << 20, .stays_open = true };
    struct read_by_hiredis hiredis;
    struct fed fed;
    size_t at = 0, i;

    read_with_hiredis(made, &hiredis);
    cr_assert(fed_bytes(&fed, &feed, made->bytes, made->size));
    for (i = 0; i < fed.count && i < hiredis.count; i++) {
        at += fed.messages[i].size;
        cr_assert_eq(at, hiredis.ends[i], "%.*s", (int)made->size, made->bytes);
    }
    *agreed += i;
    if (i < fed.count) /* hiredis went no further */
        cr_assert(hiredis.is_refused && is_narrower(hiredis.why, made->bytes + at, made->size - at),
                  "%s: %.*s", hiredis.why, (int)made->size, made->bytes);
    else if (i < hiredis.count) /* the line ends are not all CR LF */
        cr_assert(fed.status == POOL_E_PROTOCOL &&
                      resp_model(made->bytes + at, hiredis.ends[i] - at) <= 0,
                  "%.*s", (int)made->size, made->bytes);
    else if (hiredis.is_refused)
        cr_assert(fed.status == POOL_E_PROTOCOL ||
                      is_narrower(hiredis.why, made->bytes + at, made->size - at),
                  "%s: %.*s", hiredis.why, (int)made->size, made->bytes);
    fed_free(&fed);
}

Test(resp_hiredis, replies_as_redis_sends_them_are_read_alike)
{
    unsigned rounds = 50000 / slowness();
    size_t agreed = 0, made_count = 0;
    static struct made made;

    for (uint64_t seed = 1; seed <= rounds; seed++) {
        uint64_t state = seed;

        made.size = 0;
        make_value(&made, &state, false, 0);
        if (made.size == MADE_MOST - 1)
            continue;
        made_count++;
        compare_with_hiredis(&made, &agreed);
    }
    cr_expect_eq(agreed, made_count);
}

Test(resp_hiredis, spoiled_replies_are_read_or_refused_alike)
{
    static const char *const words[] = { "\r\n", "\n", "\r",      "$",          "*1\r\n",
                                         "-1",   "0",  "9",       "+",          "-",
                                         "*",    ":",  "$-1\r\n", "$0\r\n\r\n", "2147483647" };
    unsigned rounds = 100000 / slowness();
    size_t agreed = 0;
    static struct made made;

    for (uint64_t seed = 1; seed <= rounds; seed++) {
        uint64_t state = seed;

        made.size = 0;
        for (size_t count = 1 + any_number(&state, 3); count; count--)
            make_value(&made, &state, false, 0);
        for (size_t count = 1 + any_number(&state, 3); count; count--)
            spoil(&made, &state, words, PL_COUNT(words));
        compare_with_hiredis(&made, &agreed);
    }
    cr_expect_gt(agreed, rounds / 2);
}
