/* test_codec_http.c: responses of HTTP/1.1 end where RFC 9112 says; what two readers could cut in
 * two ways is refused, be it a response or a request. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "wire/fed.h"
#include "wire/http.h"

#define OK "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK "Transfer-Encoding: chunked\r\n\r\n"

static struct fed fed_responses(const char *text, uint64_t hint, bool stays_open)
{
    struct feed feed = { .codec = pool_codec_http1(),
                         .hints = &hint,
                         .hint_count = 1,
                         .most = 1u << 20,
                         .stays_open = stays_open };
    struct fed fed;

    cr_assert(fed_text(&fed, &feed, text), "%s", text);
    return fed;
}

/* It is one whole response while the connection stays open. */
static void expect_one(const char *text, uint64_t hint)
{
    struct fed fed = fed_responses(text, hint, true);

    cr_expect(fed.is_clean, "%s", text);
    cr_expect_eq(fed.count, 1, "%zu: %s", fed.count, text);
    cr_expect(fed_is(&fed, 0, POOL_REPLY, text));
    fed_free(&fed);
}

static void expect_refused(const char *text)
{
    struct fed fed = fed_responses(text, 0, true);

    cr_expect_eq(fed.status, POOL_E_PROTOCOL, "%s", text);
    cr_expect_eq(fed.count, 0, "%s", text);
    fed_free(&fed);
}

Test(codec_http, a_response_is_head_and_content_as_they_came)
{
    static const char *const responses[] = {
        OK "Content-Length: 0\r\n\r\n",
        OK "Content-Length: 5\r\n\r\nhello",
        OK "content-LENGTH:\t 005 \t\r\n\r\n\r\n\r\nx",
        "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na",
        "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\na",
        "HTTP/1.1 999 \xe4 odd\r\nContent-Length: 1\r\nEmpty:\r\nX: \xff\t.\r\n\r\na",
        "HTTP/1.1 204 None\r\n\r\n",
        "HTTP/1.1 204 None\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 304 Same\r\nContent-Length: 500\r\n\r\n",
        "HTTP/1.1 304 Same\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED "0\r\n\r\n",
        CHUNKED "5\r\nhello\r\n0A\r\n0\r\n\r\n56789\r\n0\r\n\r\n",
        CHUNKED "1;a=b;c=\"d\"\r\na\r\n00 ; x\r\nTrailer: yes\r\nOther: 1\r\n\r\n",
        OK "TRANSFER-encoding: \tChunked\t\r\n\r\n0\r\n\r\n"
    };

    for (size_t i = 0; i < PL_COUNT(responses); i++)
        expect_one(responses[i], 0);
}

Test(codec_http, the_response_to_head_has_no_content)
{
    expect_one(OK "Content-Length: 500\r\n\r\n", PL_HTTP_WAS_HEAD);
    expect_one(CHUNKED, PL_HTTP_WAS_HEAD);
    expect_one(OK "\r\n", PL_HTTP_WAS_HEAD);
}

Test(codec_http, responses_come_one_by_one)
{
    struct fed fed = fed_responses(OK "Content-Length: 1\r\n\r\na" CHUNKED "1\r\nb\r\n0\r\n\r\n"
                                      "HTTP/1.1 204 x\r\n\r\n" OK "Content-Length: 2\r\n\r\n0",
                                   0, true);

    cr_assert_eq(fed.count, 3);
    cr_expect(fed_is(&fed, 0, POOL_REPLY, OK "Content-Length: 1\r\n\r\na"));
    cr_expect(fed_is(&fed, 1, POOL_REPLY, CHUNKED "1\r\nb\r\n0\r\n\r\n"));
    cr_expect(fed_is(&fed, 2, POOL_REPLY, "HTTP/1.1 204 x\r\n\r\n"));
    cr_expect_not(fed.is_clean);
    fed_free(&fed);
}

Test(codec_http, interim_responses_are_taken_off)
{
    struct fed fed = fed_responses("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n"
                                   "\r\n" OK "Content-Length: 1\r\n\r\na",
                                   0, true);

    cr_assert_eq(fed.count, 1);
    cr_expect(fed_is(&fed, 0, POOL_REPLY, OK "Content-Length: 1\r\n\r\na"));
    cr_expect(fed.is_clean);
    fed_free(&fed);
}

Test(codec_http, 4xx_and_5xx_are_failed_replies)
{
    static const struct {
        const char *status;
        bool is_failed;
    } rows[] = { { "200", false }, { "304", false }, { "399", false }, { "400", true },
                 { "404", true },  { "503", true },  { "999", true } };
    char text[64];

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        struct fed fed;

        sprintf(text, "HTTP/1.1 %s x\r\nContent-Length: 0\r\n\r\n", rows[i].status);
        fed = fed_responses(text, 0, true);
        cr_assert_eq(fed.count, 1);
        cr_expect_eq(fed.messages[0].failed, rows[i].is_failed, "%s", rows[i].status);
        fed_free(&fed);
    }
}

Test(codec_http, a_response_without_a_length_ends_with_the_connection)
{
    static const char text[] = OK "\r\nall of\r\nthis";
    struct fed fed = fed_responses(text, 0, false);

    cr_assert_eq(fed.count, 1);
    cr_expect(fed_is(&fed, 0, POOL_REPLY, text));
    cr_expect(fed.messages[0].closes);
    fed_free(&fed);
    fed = fed_responses(text, 0, true);
    cr_expect_eq(fed.count, 0);
    cr_expect_eq(fed.status, POOL_OK);
    fed_free(&fed);
}

Test(codec_http, a_connection_that_ends_too_early_is_broken)
{
    static const char *const texts[] = { "HTTP",
                                         OK,
                                         OK "A: b\r\n",
                                         OK "Content-Length: 2\r\n\r\na",
                                         CHUNKED,
                                         CHUNKED "5\r\nab",
                                         CHUNKED "1\r\na\r\n0\r\n",
                                         "HTTP/1.1 100 Continue\r\n\r\n" };

    for (size_t i = 0; i < PL_COUNT(texts); i++) {
        struct fed fed = fed_responses(texts[i], 0, false);

        cr_expect_eq(fed.count, 0, "%s", texts[i]);
        cr_expect_eq(fed.status, POOL_E_BROKEN, "%s", texts[i]);
        fed_free(&fed);
    }
}

Test(codec_http, connection_tells_whether_more_can_follow)
{
    static const struct {
        const char *head;
        uint64_t hint;
        bool closes;
    } rows[] = { { OK, 0, false },
                 { OK, PL_HTTP_WAS_LAST, true },
                 { OK "Connection: close\r\n", 0, true },
                 { OK "connection: Keep-Alive , CLOSE\r\n", 0, true },
                 { OK "Connection: keep-alive\r\nConnection: close\r\n", 0, true },
                 { OK "Connection: closed, enclose, x-close\r\n", 0, false },
                 { OK "Connections: close\r\n", 0, false },
                 { "HTTP/1.0 200 OK\r\n", 0, true },
                 { "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", 0, false },
                 { "HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n", 0, true } };
    char text[256];

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        struct fed fed;

        sprintf(text, "%sContent-Length: 1\r\n\r\na", rows[i].head);
        fed = fed_responses(text, rows[i].hint, true);
        cr_assert_eq(fed.count, 1, "%s", text);
        cr_expect_eq(fed.messages[0].closes, rows[i].closes, "%s", text);
        fed_free(&fed);
    }
}

Test(codec_http, ambiguous_lengths_are_refused)
{
    static const char *const bad[] = {
        OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        OK "Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK "Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        OK "Content-Length: 5, 5\r\n\r\n",
        OK "Content-Length: 5, 6\r\n\r\n",
        OK "Content-Length:\r\n\r\n",
        OK "Content-Length: +5\r\n\r\n",
        OK "Content-Length: -5\r\n\r\n",
        OK "Content-Length: 5 5\r\n\r\n",
        OK "Content-Length: 0x5\r\n\r\n",
        OK "Content-Length: 5;\r\n\r\n",
        OK "Content-Length: 18446744073709551616\r\n\r\n",
        OK "Content-Length: 18446744073709551621\r\n\r\n",
        OK "Content-Length: 9223372036854775807\r\n\r\n",
        OK "Transfer-Encoding: xchunked\r\n\r\n",
        OK "Transfer-Encoding: chunkedx\r\n\r\n",
        OK "Transfer-Encoding: chunked, gzip\r\n\r\n",
        OK "Transfer-Encoding: gzip, chunked\r\n\r\n",
        OK "Transfer-Encoding: chunked, chunked\r\n\r\n",
        OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK "Transfer-Encoding: identity\r\n\r\n",
        OK "Transfer-Encoding: \"chunked\"\r\n\r\n",
        OK "Transfer-Encoding: \vchunked\r\n\r\n",
        OK "Transfer-Encoding:\r\n\r\n",
        OK "Transfer-Encoding: chunked;a=b\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 204 None\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 304 Same\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    };

    for (size_t i = 0; i < PL_COUNT(bad); i++)
        expect_refused(bad[i]);
}

Test(codec_http, content_that_must_not_be_is_no_response)
{
    static const char *const heads[] = { "HTTP/1.1 204 None\r\n\r\n",
                                         "HTTP/1.1 304 Same\r\nContent-Length: 4\r\n\r\n" };
    char text[256];

    for (size_t i = 0; i < PL_COUNT(heads); i++) {
        struct fed fed;

        sprintf(text, "%sbody\r\n", heads[i]);
        fed = fed_responses(text, 0, true);
        cr_assert_eq(fed.count, 1);
        cr_expect(fed_is(&fed, 0, POOL_REPLY, heads[i]));
        cr_expect_eq(fed.status, POOL_E_PROTOCOL);
        fed_free(&fed);
    }
}

Test(codec_http, bad_lines_are_refused)
{
    static const char *const bad[] = {
        "\r\n" OK "\r\n",
        "\n" OK "\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
        OK "A: b\rc\r\n\r\n",
        OK "A: b\r\r\n\r\n",
        OK "A: b\r\n folded\r\n\r\n",
        OK "A: b\r\n\tfolded\r\n\r\n",
        OK " A: b\r\n\r\n",
        OK "Content-Length : 5\r\n\r\n",
        OK "Content-Length\t: 5\r\n\r\n",
        OK "No colon\r\n\r\n",
        OK "nocolon\r\n\r\n",
        OK ": no name\r\n\r\n",
        OK "A b: c\r\n\r\n",
        OK "A(b): c\r\n\r\n",
        OK "\xc3\xa4: c\r\n\r\n",
        OK "A: \x01\r\n\r\n",
        OK "A: \x7f\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.10 200 OK\r\n\r\n",
        "HTTP/1,1 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1\t200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 -99 OK\r\n\r\n",
        "HTTP/1.1 20x OK\r\n\r\n",
        "HTTP/1.1 200-OK\r\n\r\n",
        "HTTP/1.1 200 O\x01K\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HELLO\r\n\r\n",
    };

    for (size_t i = 0; i < PL_COUNT(bad); i++)
        expect_refused(bad[i]);
}

Test(codec_http, a_zero_byte_in_a_head_is_refused)
{
    static const char text[] = OK "A: b\0c\r\nContent-Length: 0\r\n\r\n";
    struct feed feed = { .codec = pool_codec_http1(), .stays_open = true };
    struct fed fed;

    cr_assert(fed_bytes(&fed, &feed, text, sizeof(text) - 1));
    cr_expect_eq(fed.status, POOL_E_PROTOCOL);
    fed_free(&fed);
}

Test(codec_http, bad_chunks_are_refused)
{
    static const char *const bad[] = {
        CHUNKED "\r\n",
        CHUNKED "x\r\n",
        CHUNKED "-1\r\n",
        CHUNKED "+1\r\na\r\n",
        CHUNKED " 1\r\na\r\n",
        CHUNKED "1 \r\na\r\n",
        CHUNKED "0x1\r\na\r\n",
        CHUNKED "1\na\n0\n\n",
        CHUNKED "1\r\na\n0\r\n\r\n",
        CHUNKED "1\r\nab\r\n",
        CHUNKED "1\r\naxx0\r\n\r\n",
        CHUNKED "1\r\na\r\r0\r\n\r\n",
        CHUNKED "1\r\na\n\n0\r\n\r\n",
        CHUNKED "2\r\na\r\n0\r\n\r\n",
        CHUNKED ";a\r\n",
        CHUNKED "1;a\rb\r\na\r\n",
        CHUNKED "1;a\nb\r\na\r\n",
        CHUNKED "ffffffffffffffff\r\n",
        CHUNKED "10000000000000000\r\n",
        CHUNKED "10000000000000001\r\na\r\n0\r\n\r\n",
        CHUNKED "7fffffffffffffff\r\n",
        CHUNKED "0\r\n folded\r\n\r\n",
        CHUNKED "0\r\nContent-Length: 5\r\n\r\n",
        CHUNKED "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED "0\r\nA: b\n\r\n",
        CHUNKED "0\r\nhello\r\n\r\n",
    };

    for (size_t i = 0; i < PL_COUNT(bad); i++)
        expect_refused(bad[i]);
}

/* `before`, `count` times `unit`, `after`. */
static char *repeat(const char *before, const char *unit, size_t count, const char *after)
{
    char *text = malloc(strlen(before) + count * strlen(unit) + strlen(after) + 1), *at = text;

    cr_assert(text);
    at += sprintf(at, "%s", before);
    while (count--)
        at += sprintf(at, "%s", unit);
    sprintf(at, "%s", after);
    return text;
}

static void expect_bound(const char *before, const char *unit, size_t most, const char *after)
{
    char *text = repeat(before, unit, most, after);

    expect_one(text, 0);
    free(text);
    text = repeat(before, unit, most + 1, after);
    expect_refused(text);
    free(text);
}

Test(codec_http, heads_trailers_and_chunk_lines_are_bounded)
{
    static const char end[] = "\r\nContent-Length: 0\r\n\r\n";

    expect_bound(OK "A: ", "x", PL_HTTP_HEAD - strlen(OK "A: ") - strlen(end), end);
    expect_bound(OK, "A:\r\n", PL_HTTP_FIELDS - 1, "Content-Length: 0\r\n\r\n");
    expect_bound(CHUNKED "0\r\nA: ", "x", PL_HTTP_HEAD - strlen("A: \r\n\r\n"), "\r\n\r\n");
    expect_bound(CHUNKED "0\r\n", "A:\r\n", PL_HTTP_FIELDS, "\r\n");
    expect_bound(CHUNKED "1;", "x", PL_HTTP_CHUNK_LINE - strlen("1;\r\n"), "\r\na\r\n0\r\n\r\n");
}

Test(codec_http, endless_interim_responses_are_refused)
{
    char *text = repeat("", "HTTP/1.1 102 Wait\r\n\r\n", PL_HTTP_HEAD / 21 + 1, "");

    expect_refused(text);
    free(text);
}

Test(codec_http, what_cannot_fit_is_refused_before_it_comes)
{
    expect_refused(OK "Content-Length: 1048576\r\n\r\n");
    expect_refused(CHUNKED "fffff\r\n");
}

static enum pool_status encode(const char *request, struct pool_expect *expect)
{
    struct pool_bytes body = { request, strlen(request) };
    enum pool_status status;
    char *out;

    fed_encode(pool_codec_http1(), body, &out, expect, &status);
    cr_expect_str_eq(out, status ? "" : request);
    free(out);
    return status;
}

Test(codec_http, a_request_has_one_response)
{
    static const struct {
        const char *request;
        uint64_t hint;
    } rows[] = {
        { "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0 },
        { "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", PL_HTTP_WAS_HEAD },
        { "head / HTTP/1.1\r\nHost: a\r\n\r\n", 0 },
        { "OPTIONS * HTTP/1.1\r\n\r\n", 0 },
        { "GET / HTTP/1.0\r\n\r\n", PL_HTTP_WAS_LAST },
        { "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", PL_HTTP_WAS_HEAD },
        { "HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n", PL_HTTP_WAS_HEAD | PL_HTTP_WAS_LAST },
        { "POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 0 },
        { "POST /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 0 },
        { "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 0 },
        { "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n", 0 },
        { "M-SEARCH http://a/%20?x=y#z HTTP/1.1\r\nX-Expect: 100-continue\r\n\r\n", 0 },
    };
    struct pool_expect expect;

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        cr_expect_eq(encode(rows[i].request, &expect), POOL_OK, "%s", rows[i].request);
        cr_expect_eq(expect.replies, 1);
        cr_expect_eq(expect.hint, rows[i].hint, "%s", rows[i].request);
        cr_expect_eq(expect.closes, (rows[i].hint & PL_HTTP_WAS_LAST) != 0, "%s", rows[i].request);
    }
}

static const char *const bad_requests[] = {
    "",
    "\r\n",
    "GET / HTTP/1.1\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n",
    "GET / HTTP/1.1\n\n",
    "\r\nGET / HTTP/1.1\r\n\r\n",
    "GET /\r\n\r\n",
    "GET / HTTP/2.0\r\n\r\n",
    "GET  / HTTP/1.1\r\n\r\n",
    "GET /a b HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1 \r\n\r\n",
    "GET\t/ HTTP/1.1\r\n\r\n",
    "GET  HTTP/1.1\r\n\r\n",
    "G(T / HTTP/1.1\r\n\r\n",
    " / HTTP/1.1\r\n\r\n",
    "GET /\xc3\xa4 HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nA : b\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\nbody",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhell",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello!",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "CONNECT a:80 HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
    "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    "GET / HTTP/1.1\r\nConnection: a, Upgrade\r\n\r\n",
};

Test(codec_http, a_request_that_is_not_exactly_one_is_refused)
{
    struct pool_expect expect;

    for (size_t i = 0; i < PL_COUNT(bad_requests); i++)
        cr_expect_eq(encode(bad_requests[i], &expect), POOL_E_ARGUMENT, "%s", bad_requests[i]);
}
