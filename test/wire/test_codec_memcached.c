/* test_codec_memcached.c: replies of memcached's text protocol end where they end, and none passes
 * for the answer of a command that it cannot answer. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "support/tests.h"
#include "wire/fed.h"
#include "wire/out.h"

/* The hint that encode gives for a request. */
static uint64_t hint_of(const char *request)
{
    struct pool_expect expect;
    enum pool_status status;
    char *text;

    cr_assert(fed_encode(pool_codec_memcached(), (struct pool_bytes){ request, strlen(request) },
                         &text, &expect, &status),
              "%s", request);
    free(text);
    return expect.hint;
}

/* What is read where `request` was sent three times over. */
static struct fed fed_replies(const char *request, const char *replies)
{
    uint64_t hint = hint_of(request), hints[] = { hint, hint, hint };
    struct feed feed = { .codec = pool_codec_memcached(), .hints = hints, .hint_count = 3 };
    struct fed fed;

    cr_assert(fed_text(&fed, &feed, replies), "%s: %s", request, replies);
    return fed;
}

static const char *const answered[][2] = {
    { "get a\r\n", "END" },
    { "get a\r\n", "VALUE a 0 5\r\nhello\r\nEND" },
    { "get a\r\n", "VALUE a 0 0\r\n\r\nEND" },
    { "get a\r\n", "VALUE a 4294967295 7\r\n\r\nEND\r\n\r\nEND" },
    { "gets a b\r\n", "VALUE a 1 1 18446744073709551615\r\na\r\nVALUE b 2 2 7\r\nbb\r\nEND" },
    { "gat 0 a\r\n", "VALUE END 0 3\r\nEND\r\nEND" },
    { "set a 0 0 1\r\nx\r\n", "STORED" },
    { "add a 0 0 1\r\nx\r\n", "NOT_STORED" },
    { "cas a 0 0 1 1\r\nx\r\n", "EXISTS" },
    { "cas a 0 0 1 1\r\nx\r\n", "NOT_FOUND" },
    { "delete a\r\n", "DELETED" },
    { "delete a\r\n", "NOT_FOUND" },
    { "incr a 1\r\n", "0" },
    { "decr a 1\r\n", "18446744073709551615" },
    { "decr a 1\r\n", "9 " },
    { "incr a 1\r\n", "NOT_FOUND" },
    { "touch a 1\r\n", "TOUCHED" },
    { "touch a 1\r\n", "NOT_FOUND" },
    { "flush_all\r\n", "OK" },
    { "verbosity 1\r\n", "OK" },
    { "version\r\n", "VERSION 1.6.18" },
    { "stats\r\n", "STAT pid 1\r\nSTAT version 1.6\r\nEND" },
    { "stats\r\n", "END" },
    { "stats cachedump 1 1\r\n", "ITEM a [1 b; 0 s]\r\nEND" },
    { "stats detail dump\r\n", "PREFIX a get 1\r\nEND" },
    { "stats detail on\r\n", "OK" },
    { "stats reset\r\n", "RESET" },
    { "mg a v\r\n", "VA 5 t0\r\nhello" },
    { "mg a v\r\n", "VA 0\r\n" },
    { "mg a v\r\n", "VA 4\r\nMN\r\n" },
    { "mg a\r\n", "HD" },
    { "mg a t\r\n", "HD t-1" },
    { "mg a v\r\n", "EN" },
    { "ms a 1\r\nx\r\n", "HD" },
    { "ms a 1\r\nx\r\n", "NS" },
    { "ms a 1 C1\r\nx\r\n", "EX k1" },
    { "md a\r\n", "NF" },
    { "ma a v\r\n", "VA 1\r\n7" },
    { "me a\r\n", "ME a exp=-1 la=0" },
    { "me a\r\n", "EN" },
    { "mn\r\n", "MN" },
    { "mg a v q\r\nmg b q\r\nmn\r\n", "MN" },
    { "mg a v q\r\nmg b q\r\nmn\r\n", "VA 4\r\nMN\r\n\r\nHD\r\nMN" },
    { "mg a v q\r\nmn\r\n", "CLIENT_ERROR bad token\r\nMN" },
};

Test(codec_memcached, a_reply_ends_where_it_ends_and_its_body_is_all_but_the_last_line_end)
{
    for (size_t i = 0; i < PL_COUNT(answered); i++) {
        const char *request = answered[i][0], *reply = answered[i][1];
        char text[512];
        struct fed fed;

        snprintf(text, sizeof(text), "%s\r\n%s\r\n%s\r\n", reply, reply, reply);
        fed = fed_replies(request, text);
        cr_assert_eq(fed.count, 3, "%s: %s", request, reply);
        for (size_t j = 0; j < 3; j++) {
            cr_expect(fed_is(&fed, j, POOL_REPLY, reply), "%s: %s", request, reply);
            cr_expect_eq(fed.messages[j].failed, strstr(reply, "ERROR") != NULL, "%s", reply);
            cr_expect_not(fed.messages[j].closes);
        }
        cr_expect_eq(fed.status, POOL_E_CLOSED);
        fed_free(&fed);
    }
}

Test(codec_memcached, a_reply_that_is_cut_is_broken)
{
    for (size_t i = 0; i < PL_COUNT(answered); i++) {
        size_t whole = strlen(answered[i][1]) + 2;

        for (size_t size = 1; size < whole; size++) {
            char text[512];
            struct fed fed;

            snprintf(text, sizeof(text), "%s\r\n", answered[i][1]);
            text[size] = '\0';
            fed = fed_replies(answered[i][0], text);
            cr_expect_eq(fed.count, 0, "%s", text);
            cr_expect_eq(fed.status, POOL_E_BROKEN, "%s", text);
            fed_free(&fed);
        }
    }
}

Test(codec_memcached, without_a_hint_a_reply_still_ends_where_it_ends)
{
    for (size_t i = 0; i < PL_COUNT(answered); i++) {
        struct feed feed = { .codec = pool_codec_memcached() };
        char text[512];
        struct fed fed;

        if (strstr(answered[i][0], "mn\r\n"))
            continue; /* only the hint tells a batch from its parts */
        snprintf(text, sizeof(text), "%s\r\n", answered[i][1]);
        cr_assert(fed_text(&fed, &feed, text), "%s", text);
        cr_expect(fed_is(&fed, 0, POOL_REPLY, answered[i][1]));
        cr_expect_eq(fed.count, 1);
        fed_free(&fed);
    }
}

Test(codec_memcached, an_error_is_a_failed_reply_to_anything)
{
    static const char *const requests[] = { "get a\r\n",   "incr a 1\r\n", "version\r\n",
                                            "stats\r\n",   "mg a v\r\n",   "mn\r\n",
                                            "delete a\r\n" };
    static const char *const errors[] = { "ERROR", "ERROR Too many open connections",
                                          "CLIENT_ERROR bad command line format",
                                          "SERVER_ERROR out of memory" };

    for (size_t i = 0; i < PL_COUNT(requests) * PL_COUNT(errors); i++) {
        const char *request = requests[i / PL_COUNT(errors)], *what = errors[i % PL_COUNT(errors)];
        char text[256];
        struct fed fed;

        snprintf(text, sizeof(text), "%s\r\n%s\r\n", what, what);
        fed = fed_replies(request, text);
        cr_assert_eq(fed.count, 2);
        cr_expect(fed_is(&fed, 1, POOL_REPLY, what));
        cr_expect(fed.messages[0].failed && fed.messages[1].failed);
        cr_expect_not(fed.messages[0].closes || fed.messages[1].closes);
        fed_free(&fed);
    }
}

Test(codec_memcached, an_error_among_the_values_ends_the_reply)
{
    const char *reply = "VALUE a 0 1\r\nx\r\nSERVER_ERROR out of memory writing get response";
    char text[256];
    struct fed fed;

    snprintf(text, sizeof(text), "%s\r\nEND\r\n", reply);
    fed = fed_replies("get a b\r\n", text);
    cr_assert_eq(fed.count, 2);
    cr_expect(fed_is(&fed, 0, POOL_REPLY, reply));
    cr_expect(fed.messages[0].failed);
    cr_expect(fed_is(&fed, 1, POOL_REPLY, "END"));
    cr_expect_not(fed.messages[1].failed);
    fed_free(&fed);
}

/* Whether the server took the data, or will answer them as commands, nobody can tell. */
Test(codec_memcached, after_an_error_to_a_command_with_data_the_connection_is_not_used_again)
{
    static const struct {
        const char *request, *reply;
        bool closes;
    } rows[] = {
        { "set a 0 0 1\r\nx\r\n", "ERROR", true },
        { "set a 0 0 1\r\nx\r\n", "CLIENT_ERROR bad data chunk", true },
        { "set a 0 0 1\r\nx\r\n", "SERVER_ERROR object too large for cache", false },
        { "ms a 1\r\nx\r\n", "ERROR", true },
        { "get a\r\nset a 0 0 1\r\nx\r\n", "ERROR", true },
        { "get a\r\nset a 0 0 1 noreply\r\nx\r\n", "ERROR", true },
        { "ms a 1 q\r\nx\r\nmn\r\n", "ERROR\r\nERROR\r\nMN", true },
        { "ms a 1 q\r\nx\r\nmn\r\n", "SERVER_ERROR too large\r\nMN", false },
        { "set a 0 0 1\r\nx\r\n", "STORED", false },
        { "get a\r\n", "ERROR", false },
    };

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        char text[256];
        struct fed fed;

        snprintf(text, sizeof(text), "%s\r\n", rows[i].reply);
        fed = fed_replies(rows[i].request, text);
        cr_assert_eq(fed.count, 1, "%zu", i);
        cr_expect(fed_is(&fed, 0, POOL_REPLY, rows[i].reply));
        cr_expect_eq(fed.messages[0].closes, rows[i].closes, "%zu", i);
        cr_expect_eq(fed.messages[0].failed, strcmp(rows[i].reply, "STORED") != 0);
        fed_free(&fed);
    }
}

Test(codec_memcached, what_cannot_answer_the_request_is_a_stream_out_of_step)
{
    static const char *const requests[] = {
        "get a\r\n",        "set a 0 0 1\r\nx\r\n", "delete a\r\n", "incr a 1\r\n", "touch a 1\r\n",
        "flush_all\r\n",    "version\r\n",          "stats\r\n",    "mg a v\r\n",   "mn\r\n",
        "mg a q\r\nmn\r\n",
    };
    static const struct {
        const char *reply;
        const char *fits; /* a letter for each of the requests above */
    } rows[] = {
        { "END", "x......x..." },       { "VALUE a 0 1\r\nx\r\nEND", "x.........." },
        { "STORED", ".x........." },    { "NOT_STORED", ".x........." },
        { "EXISTS", ".x........." },    { "NOT_FOUND", ".xxxx......" },
        { "DELETED", "..x........" },   { "17", "...x......." },
        { "TOUCHED", "....x......" },   { "OK", ".....x.x..." },
        { "VERSION 1", "......x...." }, { "STAT a 1\r\nEND", ".......x..." },
        { "RESET", ".......x..." },     { "HD", "........x.+" },
        { "VA 1\r\nx", "........x.+" }, { "EN", "........x.+" },
        { "NF", "........x.+" },        { "MN", ".........xx" },
    };

    for (size_t i = 0; i < PL_COUNT(rows) * PL_COUNT(requests); i++) {
        const char *reply = rows[i / PL_COUNT(requests)].reply;
        const char *request = requests[i % PL_COUNT(requests)];
        char fits = rows[i / PL_COUNT(requests)].fits[i % PL_COUNT(requests)], text[256];
        struct fed fed;

        snprintf(text, sizeof(text), "%s\r\n", reply);
        fed = fed_replies(request, text);
        cr_expect_eq(fed.count, fits == 'x', "%s: %s", request, text);
        if (fits == '+') /* a batch goes on behind it */
            cr_expect_eq(fed.status, POOL_E_BROKEN);
        else
            cr_expect_eq(fed.status, fits == 'x' ? POOL_E_CLOSED : POOL_E_PROTOCOL, "%s: %s",
                         request, text);
        fed_free(&fed);
    }
}

Test(codec_memcached, a_reply_that_is_not_of_the_protocol_is_refused)
{
    static const char *const rows[][2] = {
        { "get a\r\n", "\r\n" },
        { "get a\r\n", "\n" },
        { "get a\r\n", "END\n" },
        { "get a\r\n", "ENDx\n" },
        { "get a\r\n", "END\r\r\n" },
        { "get a\r\n", " END\r\n" },
        { "get a\r\n", "END \r\n" },
        { "get a\r\n", "end\r\n" },
        { "get a\r\n", "ENDING\r\n" },
        { "get a\r\n", "VALUE\r\n" },
        { "get a\r\n", "VALUE a\r\n" },
        { "get a\r\n", "VALUE a 0\r\n" },
        { "get a\r\n", "VALUE a 0 \r\n" },
        { "get a\r\n", "VALUE a 0 -1\r\n" },
        { "get a\r\n", "VALUE a 0 +1\r\n" },
        { "get a\r\n", "VALUE a 0 1x\r\n" },
        { "get a\r\n", "VALUE a 0 2147483648\r\n" },
        { "get a\r\n", "VALUE a 0 18446744073709551617\r\n" },
        { "get a\r\n", "VALUE a 0 99999999999999999999999999999999\r\n" },
        { "get a\r\n", "VALUE a 0 1\r\nxy\r\nEND\r\n" },
        { "get a\r\n", "VALUE a 0 2\r\nx\r\nEND\r\n" },
        { "get a\r\n", "VALUE a 0 1\r\nx\n\r\nEND\r\n" },
        { "get a\r\n", "VALUE a 0 1\r\nx\r\nSTAT a 1\r\n" },
        { "get a\r\n", "VALUE a 0 1\r\nx\r\nSTORED\r\n" },
        { "stats\r\n", "STAT a 1\r\nRESET\r\n" },
        { "stats\r\n", "STAT a 1\r\nOK\r\n" },
        { "stats\r\n", "STAT\r\n" },
        { "stats\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n" },
        { "mg a v\r\n", "VA\r\n" },
        { "mg a v\r\n", "VA x\r\n" },
        { "mg a v\r\n", "VA 2147483648\r\n" },
        { "mg a v\r\n", "VA 1\r\nxy\r\n" },
        { "mg a v\r\n", "ME\r\n" },
        { "mg a v\r\n", "HDx\r\n" },
        { "mn\r\n", "MN x\r\n" },
        { "incr a 1\r\n", "-1\r\n" },
        { "incr a 1\r\n", "1x\r\n" },
        { "incr a 1\r\n", "18446744073709551616\r\n" },
        { "version\r\n", "VERSION\r\n" },
        { "set a 0 0 1\r\nx\r\n", "STORED x\r\n" },
        { "set a 0 0 1\r\nx\r\n", "ERRORS\r\n" },
    };

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        struct fed fed = fed_replies(rows[i][0], rows[i][1]);

        cr_expect_eq(fed.count, 0, "%s", rows[i][1]);
        cr_expect_eq(fed.status, POOL_E_PROTOCOL, "%s: %s", rows[i][1],
                     pool_status_name(fed.status));
        fed_free(&fed);
    }
}

Test(codec_memcached, one_request_of_several_commands_takes_each_of_their_replies_in_turn)
{
    struct fed fed = fed_replies("set a 0 0 1\r\nx\r\nget a\r\ndelete a\r\n",
                                 "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nDELETED\r\n");

    cr_assert_eq(fed.count, 3);
    cr_expect(fed_is(&fed, 0, POOL_REPLY, "STORED"));
    cr_expect(fed_is(&fed, 1, POOL_REPLY, "VALUE a 0 1\r\nx\r\nEND"));
    cr_expect(fed_is(&fed, 2, POOL_REPLY, "DELETED"));
    fed_free(&fed);
    fed = fed_replies("set a 0 0 1\r\nx\r\nget a\r\ndelete a\r\n", "STORED\r\nTOUCHED\r\n");
    cr_expect_eq(fed.count, 1);
    cr_expect_eq(fed.status, POOL_E_PROTOCOL, "none of them is answered so");
    fed_free(&fed);
}

Test(codec_memcached, data_that_would_be_too_long_is_refused_by_its_size)
{
    static const struct {
        const char *request, *reply;
        enum pool_status status;
    } rows[] = {
        { "get a\r\n", "VALUE a 0 1000\r\nx", POOL_E_PROTOCOL },
        { "get a\r\n", "VALUE a 0 80\r\nx", POOL_E_PROTOCOL },
        { "get a\r\n", "VALUE a 0 79\r\nx", POOL_OK },
        { "mg a v\r\n", "VA 91\r\nx", POOL_E_PROTOCOL },
        { "mg a v\r\n", "VA 90\r\nx", POOL_OK },
    };

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        uint64_t hint = hint_of(rows[i].request);
        struct feed feed = { .codec = pool_codec_memcached(),
                             .most = 99,
                             .hints = &hint,
                             .hint_count = 1,
                             .stays_open = true };
        struct fed fed;

        cr_assert(fed_text(&fed, &feed, rows[i].reply));
        cr_expect_eq(fed.status, rows[i].status, "%s", rows[i].reply);
        fed_free(&fed);
    }
}

/* Looked at again for every byte, this takes minutes: many lines, many blocks, one long line. */
Test(codec_memcached, no_byte_is_looked_at_twice)
{
    static const struct {
        const char *request, *first, *more, *last;
    } rows[] = {
        { "get a\r\n", "", "VALUE a 0 1\r\nx\r\n", "END\r\n" },
        { "stats\r\n", "", "STAT aaaaaaaaaaaaaaaaaa 1\r\n", "END\r\n" },
        { "stats\r\n", "STAT a ", "x", "\r\nEND\r\n" },
    };
    size_t size = 1u << 21, most = size;
    char *bytes = malloc(size);

    cr_assert_not_null(bytes);
    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        uint64_t hint = hint_of(rows[i].request), start = now_ms();
        struct feed feed = {
            .codec = pool_codec_memcached(), .most = most, .hints = &hint, .hint_count = 1
        };
        size_t at = strlen(rows[i].first), more = strlen(rows[i].more);
        struct fed fed;

        memcpy(bytes, rows[i].first, at);
        for (; at + more + 16 <= size; at += more)
            memcpy(bytes + at, rows[i].more, more);
        memcpy(bytes + at, rows[i].last, strlen(rows[i].last));
        cr_assert(fed_bytes(&fed, &feed, bytes, at + strlen(rows[i].last)));
        cr_expect_eq(fed.count, 1);
        cr_expect(WITHIN(elapsed_ms(start), 0, 5000));
        fed_free(&fed);
    }
    free(bytes);
}
