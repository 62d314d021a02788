/* test_memcached.c: a request to memcached is sent only if its replies can be counted: whole, well
 * formed, and with nothing in it that a server might take for something else. */
#include "wire/memcached.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/fed.h"
#include "wire/out.h"

#define KEY_50 "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"
#define KEY_250 KEY_50 KEY_50 KEY_50 KEY_50 KEY_50

/* What memcached sees of a request, or the status that it is refused with. */
static enum pool_status encode(const void *request, size_t size, struct pool_expect *expect)
{
    enum pool_status status;
    char *text;

    fed_encode(pool_codec_memcached(), (struct pool_bytes){ request, size }, &text, expect,
               &status);
    if (status)
        cr_expect_str_empty(text, "nothing of it is sent");
    else
        cr_expect_arr_eq(text, (const char *)request, size, "it is sent as it is");
    free(text);
    return status;
}

static const struct {
    const char *request;
    uint32_t replies;
} counted[] = {
    { "get a\r\n", 1 },
    { "get a b c\r\n", 1 },
    { "get " KEY_250 "\r\n", 1 },
    { "get \xc3\xa4\xff\r\n", 1 },
    { "gets a\r\n", 1 },
    { "gat 10 a b\r\n", 1 },
    { "gats -1 a\r\n", 1 },
    { "set a 0 0 5\r\nhello\r\n", 1 },
    { "set a 4294967295 -1 0\r\n\r\n", 1 },
    { "set a 0 2147483647 6\r\na\r\n\r\nb\r\n", 1 },
    { "set a 0 0 5 noreply\r\nhello\r\n", 0 },
    { "add a 0 0 1\r\nx\r\n", 1 },
    { "replace a 0 0 1\r\nx\r\n", 1 },
    { "append a 0 0 1\r\nx\r\n", 1 },
    { "prepend a 0 0 1 noreply\r\nx\r\n", 0 },
    { "cas a 0 0 1 18446744073709551615\r\nx\r\n", 1 },
    { "cas a 0 0 1 5 noreply\r\nx\r\n", 0 },
    { "delete a\r\n", 1 },
    { "delete a 0\r\n", 1 },
    { "delete a noreply\r\n", 0 },
    { "delete a 0 noreply\r\n", 0 },
    { "delete noreply\r\n", 1 },
    { "incr a 18446744073709551615\r\n", 1 },
    { "decr a 1 noreply\r\n", 0 },
    { "touch a 5\r\n", 1 },
    { "touch a 5 noreply\r\n", 0 },
    { "flush_all\r\n", 1 },
    { "flush_all 10\r\n", 1 },
    { "flush_all noreply\r\n", 0 },
    { "flush_all 0 noreply\r\n", 0 },
    { "verbosity 1\r\n", 1 },
    { "verbosity 1 noreply\r\n", 0 },
    { "version\r\n", 1 },
    { "stats\r\n", 1 },
    { "stats detail on\r\n", 1 },
    { "mg a\r\n", 1 },
    { "mg a v t c Oqq kq\r\n", 1 },
    { "ms a 2 T90 F0\r\nhi\r\n", 1 },
    { "md a I T30\r\n", 1 },
    { "ma a N0 J13 v t\r\n", 1 },
    { "me a\r\n", 1 },
    { "mn\r\n", 1 },
    { "mg a v q\r\nmn\r\n", 1 },
    { "mg a v q\r\nmg b v\r\nms c 2 q\r\nhi\r\nmn\r\n", 1 },
    { "mg a q\r\nmn\r\nmg b q\r\nmn\r\n", 2 },
    { "mn\r\nmn\r\n", 2 },
    { "set a 0 0 1\r\nx\r\nget a\r\ndelete a noreply\r\nincr b 1\r\n", 3 },
    { "set a 0 0 7\r\nget b\r\n\r\nget c\r\n", 2 },
};

Test(memcached, every_command_is_counted_by_the_replies_to_it)
{
    for (size_t i = 0; i < PL_COUNT(counted); i++) {
        struct pool_expect expect;

        cr_expect_eq(encode(counted[i].request, strlen(counted[i].request), &expect), POOL_OK, "%s",
                     counted[i].request);
        cr_expect_eq(expect.replies, counted[i].replies, "%s", counted[i].request);
        cr_expect_eq(expect.hint != 0, counted[i].replies != 0, "%s", counted[i].request);
    }
}

static const char *const refused[] = {
    /* not whole, or more than whole */
    "",
    "get a",
    "get a\r",
    "get a\n",
    "get a\r\nget b",
    "set a 0 0 5\r\n",
    "set a 0 0 5\r\nhell\r\n",
    "set a 0 0 5\r\nhello",
    "set a 0 0 5\r\nhello\r",
    "set a 0 0 5\r\nhello\n\n",
    "set a 0 0 5\r\nhello!\r\n",
    "set a 0 0 2147483646\r\nhello\r\n",
    "set a 0 0 18446744073709551615\r\nhello\r\n",
    "get a\r\n\r\n",
    "\r\n",
    /* one server sees one line, another two */
    "get a\nget b\r\n",
    "get a\rb\r\n",
    "get a\tb\r\n",
    "get a\x7f\r\n",
    "get a\x01\r\n",
    /* a server refuses the line, and reads the data as commands */
    "set " KEY_250 "k 0 0 1\r\nx\r\n",
    "set a -1 0 1\r\nx\r\n",
    "set a 4294967296 0 1\r\nx\r\n",
    "set a x 0 1\r\nx\r\n",
    "set a 0 x 1\r\nx\r\n",
    "set a 0 - 1\r\nx\r\n",
    "set a 0 2147483648 1\r\nx\r\n",
    "set a 0 0 -1\r\nx\r\n",
    "set a 0 0 1x\r\nx\r\n",
    "set a 0 0\r\nx\r\n",
    "set a 0 1\r\nx\r\n",
    "set  a 0 0 1\r\nx\r\n",
    "set a 0 0 1 \r\nx\r\n",
    "set a 0 0 1 nreply\r\nx\r\n",
    "set a 0 0 1 noreply noreply\r\nx\r\n",
    "cas a 0 0 1\r\nx\r\n",
    "cas a 0 0 1 noreply\r\nx\r\n",
    "cas a 0 0 1 18446744073709551616\r\nx\r\n",
    "ms " KEY_250 "k 1\r\nx\r\n",
    "ms a S1\r\nx\r\n",
    "ms a\r\nx\r\n",
    "ms a 1 \r\nx\r\n",
    /* what comes back is not known */
    "get\r\n",
    "get \r\n",
    "get a \r\n",
    " get a\r\n",
    "GET a\r\n",
    "gett a\r\n",
    "gat a\r\n",
    "gat 1\r\n",
    "delete\r\n",
    "delete a 5\r\n",
    "delete a 0 0\r\n",
    "incr a\r\n",
    "incr a -1\r\n",
    "incr a 18446744073709551616\r\n",
    "touch a\r\n",
    "flush_all x\r\n",
    "flush_all noreply 0\r\n",
    "verbosity\r\n",
    "version 1\r\n",
    "watch\r\n",
    "watch fetchers\r\n",
    "misbehave\r\n",
    "cache_memlimit 64\r\n",
    "refresh_certs\r\n",
    "slabs automove 1\r\n",
    "lru_crawler metadump all\r\n",
    "mn x\r\n",
    "mg\r\n",
    "mg a q\r\n",
    "ms a 1 q\r\nx\r\n",
    "mg a v qq\r\n",
    "mn\r\nmg a q\r\n",
    "mg a q\r\nmn\r\nmg b\r\n",
    "get b\r\nmg a q\r\nmn\r\n",
    /* it ends the connection that others share */
    "quit\r\n",
    "quit now\r\n",
    "quit\r\nget a\r\n",
    "get a\r\nquit\r\n",
    "mg a q\r\nmn\r\nquit\r\n",
    "shutdown\r\n",
    "shutdown graceful\r\n",
};

Test(memcached, what_cannot_be_counted_is_refused)
{
    for (size_t i = 0; i < PL_COUNT(refused); i++) {
        struct pool_expect expect;

        cr_expect_eq(encode(refused[i], strlen(refused[i]), &expect), POOL_E_ARGUMENT, "%s",
                     refused[i]);
    }
}

Test(memcached, a_zero_in_a_command_is_refused_and_in_data_it_is_not)
{
    struct pool_expect expect;

    cr_expect_eq(encode("get a\0b\r\n", 9, &expect), POOL_E_ARGUMENT);
    cr_expect_eq(encode("set a 0 0 3\r\na\0b\r\n", 18, &expect), POOL_OK);
    cr_expect_eq(expect.replies, 1);
}

Test(memcached, every_prefix_of_a_request_is_refused)
{
    const char *request = "set a 0 0 10\r\nget b\r\n\r\n!\r\n";
    char *copy;

    for (size_t size = 0; size < strlen(request); size++) {
        struct pool_expect expect = { .size = sizeof(expect) };

        copy = malloc(size + 1); /* so that a look past the end is seen */
        cr_assert_not_null(copy);
        memcpy(copy + 1, request, size);
        cr_expect_eq(pl_memcached_count((struct pool_bytes){ copy + 1, size }, &expect),
                     POOL_E_ARGUMENT, "%zu", size);
        free(copy);
    }
}

Test(memcached, only_requests_are_written)
{
    static const enum pool_message_kind kinds[] = { POOL_REPLY, POOL_PART, POOL_PUSH,
                                                    POOL_ERROR_REPLY };
    struct pl_buffer buffer = { 0 };
    struct pool_out out = { .buffer = &buffer, .most = FED_MOST };
    struct pool_expect expect;

    for (size_t i = 0; i < PL_COUNT(kinds); i++) {
        struct pl_frame frame = { .kind = kinds[i], .body = { "mn\r\n", 4 } };

        cr_expect_eq(pl_out_encode(&out, pool_codec_memcached(), NULL, &frame, &expect),
                     POOL_E_ARGUMENT);
    }
    cr_expect_eq(pl_buffer_size(&buffer), 0);
}

Test(memcached, numbers_are_read_up_to_what_they_may_be)
{
    static const struct {
        const char *text;
        uint64_t most;
        bool is_it;
    } rows[] = {
        { "0", 9, true },
        { "007", 9, true },
        { "9", 9, true },
        { "10", 9, false },
        { "18446744073709551615", UINT64_MAX, true },
        { "18446744073709551616", UINT64_MAX, false },
        { "28446744073709551615", UINT64_MAX, false },
        { "", 9, false },
        { "1 ", 9, false },
        { "/", 9, false },
        { ":", 9, false },
    };

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        struct pool_bytes word = { rows[i].text, strlen(rows[i].text) };
        uint64_t number;

        cr_expect_eq(pl_memcached_number(word, rows[i].most, &number), rows[i].is_it, "%s",
                     rows[i].text);
    }
}
