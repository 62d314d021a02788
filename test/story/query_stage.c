/* query_stage.c: see query_stage.h. */
#include "story/query_stage.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/tests.h"

struct stage stage;
static struct pool *another;

void stage_begin(struct server *started, const struct pool_options *options)
{
    stage.server = started;
    if (!started)
        cr_skip("%s", server_why_not());
    stage.pool = make_pool(options);
    cr_assert_not_null(stage.pool);
}

void stage_end(void)
{
    pool_destroy(stage.pool);
    pool_destroy(another);
    server_stop(stage.server);
}

static size_t write_one(char *request, size_t room, char *words)
{
    char *word;
    size_t size, count = 1;

    for (const char *at = words; *at; at++)
        count += *at == ' ';
    size = (size_t)snprintf(request, room, "*%zu\r\n", count);
    while ((word = strsep(&words, " ")) && size < room)
        size += (size_t)snprintf(request + size, room - size, "$%zu\r\n%s\r\n", strlen(word), word);
    return size;
}

size_t write_command(char request[REQUEST_ROOM], const char *words)
{
    char copy[REQUEST_ROOM], *rest = copy, *command;
    size_t size = 0;

    snprintf(copy, sizeof(copy), "%s", words);
    while ((command = strsep(&rest, ";")) && size < REQUEST_ROOM)
        size += write_one(request + size, REQUEST_ROOM - size, command);
    cr_assert_lt(size, REQUEST_ROOM);
    return size;
}

bool is_answered(struct pool_bytes request, const struct pool_call *call, const char *expected)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_call own = call ? *call : *POOL_CALL(.timeout_ms = VERBS_SOON);
    struct pool_reply *reply = NULL;
    struct pool_bytes bytes;
    bool is_expected;

    own.error = &error;
    if (pool_query(stage.pool, server_address(stage.server), request, &own, &reply)) {
        fprintf(stderr, "%s\n", error.text);
        return false;
    }
    bytes = pool_reply_bytes(reply);
    is_expected = bytes.size == strlen(expected) && memcmp(bytes.data, expected, bytes.size) == 0;
    if (!is_expected)
        fprintf(stderr, "not %s: %.*s\n", expected, (int)bytes.size, (const char *)bytes.data);
    pool_reply_free(reply);
    return is_expected;
}

bool redis_answers_to(const struct pool_call *call, const char *words, const char *expected)
{
    char request[REQUEST_ROOM];

    return is_answered((struct pool_bytes){ request, write_command(request, words) }, call,
                       expected);
}

bool redis_answers(const char *words, const char *expected)
{
    return redis_answers_to(NULL, words, expected);
}

enum pool_status start_command(struct query *query, const char *words,
                               const struct pool_call *call)
{
    char request[REQUEST_ROOM + 1];

    request[write_command(request, words)] = 0;
    return start_query(query, stage.pool, server_address(stage.server), request, call);
}

enum pool_status ask_as_another(struct query *query, const char *words)
{
    char request[REQUEST_ROOM + 1];

    if (!another)
        another = MAKE_POOL(.codec = pool_codec_resp());
    request[write_command(request, words)] = 0;
    return ask_and_wait(query, another, server_address(stage.server), request, NULL);
}

bool another_is_answered(const char *words, const char *expected)
{
    struct query query = { 0 };

    ask_as_another(&query, words);
    return is_answered_with(&query, expected);
}

bool has_blocked(void *unused)
{
    struct query query = { 0 };
    const char *count;

    (void)unused;
    if (ask_as_another(&query, "INFO clients"))
        return false;
    count = strstr(query.text, "blocked_clients:");
    return count && strtoul(strchr(count, ':') + 1, NULL, 10);
}
