/* test_http_parser.c: what the codec takes for a response or a request, http_parser (from node)
 * cuts at the same place. It takes more: what the codec refuses beyond that is not what RFC 9112
 * lets pass, and a simple look at the lines says so. */
#include <criterion/criterion.h>
#include <http_parser.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "support/tests.h"
#include "wire/fed.h"
#include "wire/http.h"
#include "wire/made.h"

/* The next message as http_parser sees it. */
struct parsed {
    size_t end; /* 0: not whole, or refused */
    unsigned status;
    bool is_head; /* given: the answer to one */
    bool is_whole, keeps_alive;
    bool is_refused;
};

/* Its user has to know which responses have no content, whatever they say. */
static int on_headers(http_parser *parser)
{
    const struct parsed *parsed = parser->data;

    if (parser->type == HTTP_REQUEST || parser->status_code < 200)
        return 0;
    return parsed->is_head || parser->status_code == 304;
}

static int on_complete(http_parser *parser)
{
    struct parsed *parsed = parser->data;

    parsed->is_whole = true;
    parsed->status = parser->status_code;
    parsed->keeps_alive = http_should_keep_alive(parser);
    http_parser_pause(parser, 1);
    return 0;
}

static struct parsed parse(enum http_parser_type type, const char *bytes, size_t size, bool is_head)
{
    static const http_parser_settings settings = { .on_headers_complete = on_headers,
                                                   .on_message_complete = on_complete };
    struct parsed parsed = { .is_head = is_head };
    http_parser parser;

    http_parser_init(&parser, type);
    parser.data = &parsed;
    parsed.end = http_parser_execute(&parser, &settings, bytes, size);
    if (!parsed.is_whole && !parser.http_errno)
        http_parser_execute(&parser, &settings, bytes, 0); /* the end of the connection */
    parsed.is_refused = parser.http_errno && parser.http_errno != HPE_PAUSED &&
                        parser.http_errno != HPE_INVALID_EOF_STATE;
    return parsed;
}

/* The next final response. */
static struct parsed parse_final(const char *bytes, size_t size, bool is_head)
{
    size_t begin = 0;
    struct parsed parsed;

    do {
        parsed = parse(HTTP_RESPONSE, bytes + begin, size - begin, is_head);
        begin += parsed.end;
    } while (parsed.is_whole && parsed.status / 100 == 1 && parsed.status != 101);
    parsed.end = begin;
    return parsed;
}

static bool matches(const char *pattern, const char *text)
{
    regex_t regex;
    bool is_match;

    cr_assert_eq(regcomp(&regex, pattern, REG_EXTENDED | REG_ICASE | REG_NOSUB), 0);
    is_match = regexec(&regex, text, 0, NULL, 0) == 0;
    regfree(&regex);
    return is_match;
}

#define TEXT "[\t -~\x80-\xff]*"

/* Are all lines of this head as the grammar has them, and does it say its length once at most? */
static bool is_head_strict(char *at, bool *is_chunked)
{
    bool is_first = true, is_old = false;
    unsigned lengths = 0, chunkeds = 0, status = 0;

    for (char *end; (end = strstr(at, "\r\n")) && end > at; at = end + 2) {
        *end = '\0';
        if (is_first && sscanf(at, "HTTP/1.%*c %u", &status) != 1)
            return false;
        if (!matches(is_first ? "^HTTP/1\\.[01] [1-9][0-9][0-9]( " TEXT ")?$"
                              : "^[!#$%&'*+.^_`|~0-9a-z-]+:" TEXT "$",
                     at))
            return false;
        is_old |= is_first && at[7] == '0';
        lengths += !is_first && matches("^content-length:", at);
        if (!is_first && matches("^transfer-encoding:", at)) {
            chunkeds++;
            if (!matches("^transfer-encoding:[ \t]*chunked[ \t]*$", at))
                return false;
        }
        if (status / 100 == 1 || status == 204)
            if (chunkeds || matches("^content-length:.*[1-9]", at))
                return false;
        is_first = false;
    }
    *is_chunked = chunkeds > 0;
    return !is_first && status != 101 && lengths + chunkeds <= 1 && !(is_old && chunkeds);
}

/* Of chunks that http_parser has taken, so they are whole. */
static bool are_chunks_strict(char *at)
{
    unsigned long size = 1;
    char *end;

    while (size) {
        end = strstr(at, "\r\n");
        if (!end)
            return false;
        *end = '\0';
        if (!matches("^[0-9a-f]+([ \t]*;" TEXT ")?$", at))
            return false;
        size = strtoul(at, NULL, 16);
        at = end + 2 + (size ? size + 2 : 0);
        if (size && memcmp(at - 2, "\r\n", 2) != 0)
            return false;
    }
    for (; (end = strstr(at, "\r\n")) && end > at; at = end + 2) {
        *end = '\0';
        if (!matches("^[!#$%&'*+.^_`|~0-9a-z-]+:" TEXT "$", at) ||
            matches("^(transfer-encoding|content-length):", at))
            return false;
    }
    return end != NULL;
}

/* Of what http_parser takes for one response, with the interim ones in front. */
static bool is_strict(const char *bytes, size_t size)
{
    char text[MADE_MOST + 1], *at = text, *head;
    bool is_interim, is_chunked;

    memcpy(text, bytes, size);
    text[size] = '\0';
    do {
        head = at;
        is_interim = strncmp(at + 9, "1", 1) == 0;
        at = strstr(at, "\r\n\r\n");
        if (!at || memchr(head, '\0', (size_t)(at - head)))
            return false;
        at += 4;
        at[-1] = '\0'; /* "\r\n\r" is what ends the head now */
        if (strchr(head, '\n') == NULL || !is_head_strict(head, &is_chunked))
            return false;
        is_interim = is_interim && at < text + size;
    } while (is_interim);
    return !is_chunked || at == text + size || are_chunks_strict(at);
}

static void make_content(struct made *made, uint64_t *state, bool is_chunked)
{
    size_t size = any_number(state, 30);

    if (!is_chunked) {
        make_text(made, "Content-Length: %zu\r\n\r\n%.*s", size, (int)size,
                  "012345678\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
        return;
    }
    make_text(made, "Transfer-Encoding: chunked\r\n\r\n");
    for (size_t count = any_number(state, 3); count; count--) {
        size = 1 + any_number(state, 20);
        make_text(made, "%zx%s\r\n%.*s\r\n", size, any_number(state, 3) ? "" : ";a=b", (int)size,
                  "0\r\n\r\n5678901234567890123");
    }
    make_text(made, "0\r\n%s\r\n", any_number(state, 3) ? "" : "Trailer: a\r\n");
}

static void make_response(struct made *made, uint64_t *state)
{
    static const char *const fields[] = { "",
                                          "A: b\r\n",
                                          "Connection: close\r\n",
                                          "Connection: Keep-Alive\r\n",
                                          "X-Long: a b\tc\r\n",
                                          "Date:\r\n" };
    static const char *const heads[] = { "HTTP/1.1 204 None\r\n", "HTTP/1.1 304 Same\r\n",
                                         "HTTP/1.0 200 OK\r\n", "HTTP/1.1 404\r\n" };
    size_t kind = any_number(state, 8);
    bool is_old = kind == 2;

    if (any_number(state, 5) == 0)
        make_text(made, "HTTP/1.1 100 Continue\r\n%s\r\n", fields[any_number(state, 2)]);
    make_text(made, "%s", kind < 4 ? heads[kind] : "HTTP/1.1 200 OK\r\n");
    make_text(made, "%s", fields[any_number(state, PL_COUNT(fields))]);
    make_text(made, "%s", fields[any_number(state, 2)]);
    if (kind < 2)
        make_text(made, "\r\n");
    else
        make_content(made, state, !is_old && any_number(state, 2));
}

/* What http_parser reads in another way, though it is as it should be: tabs around values that it
 * looks at, lists with empty members, and close beside keep-alive in HTTP/1.0. */
static bool is_beyond_it(const struct made *made)
{
    static const char pattern[] = "(connection|content-length|transfer-encoding):[^\r\n]*\t|"
                                  "connection:([^\r\n]*,)? *,|"
                                  "\n[0-9a-f]+[ \t]*\t *;|"
                                  "HTTP/1\\.0.*connection:[^\r\n]*close";
    char text[MADE_MOST + 1];

    for (size_t i = 0; i < made->size; i++)
        text[i] = made->bytes[i] ? made->bytes[i] : '?';
    text[made->size] = '\0';
    return matches(pattern, text);
}

/* Compares the first response. True: there is one. */
static bool compare_response(const struct made *made, bool is_head)
{
    uint64_t hint = is_head ? PL_HTTP_WAS_HEAD : 0;
    struct feed feed = { .codec = pool_codec_http1(), .hints = &hint, .hint_count = 1 };
    struct parsed parsed = parse_final(made->bytes, made->size, is_head);
    struct fed fed;
    bool is_found;

    cr_assert(fed_bytes(&fed, &feed, made->bytes, made->size), "%.*s", (int)made->size,
              made->bytes);
    is_found = fed.count > 0;
    if (is_found && !is_beyond_it(made)) {
        cr_assert(parsed.is_whole, "%.*s", (int)made->size, made->bytes);
        cr_assert(fed.messages[0].closes != parsed.keeps_alive, "%.*s", (int)made->size,
                  made->bytes);
        cr_assert(fed.messages[0].size <= parsed.end &&
                      memcmp(made->bytes + parsed.end - fed.messages[0].size, fed.messages[0].body,
                             fed.messages[0].size) == 0,
                  "%zu %zu: %.*s", fed.messages[0].size, parsed.end, (int)made->size, made->bytes);
        cr_assert_eq(fed.messages[0].failed, parsed.status >= 400);
    } else if (!is_found && parsed.is_whole) {
        cr_assert_not(is_strict(made->bytes, parsed.end), "%.*s", (int)made->size, made->bytes);
    }
    fed_free(&fed);
    return is_found;
}

Test(http_parser, good_responses_are_cut_alike)
{
    unsigned rounds = 20000 / slowness();
    static struct made made;

    for (uint64_t seed = 1; seed <= rounds; seed++) {
        uint64_t state = seed;

        made.size = 0;
        make_response(&made, &state);
        make_response(&made, &state);
        cr_assert(compare_response(&made, false), "%.*s", (int)made.size, made.bytes);
        made.size = 0;
        make_text(&made, "HTTP/1.1 200 OK\r\n%s: 5\r\n\r\nHTTP/1.1",
                  any_number(&state, 2) ? "Content-Length" : "A");
        cr_assert(compare_response(&made, true));
    }
}

static const char *const words[] = { "\r\n",
                                     "\n",
                                     "\r",
                                     ":",
                                     " ",
                                     "\t",
                                     "0",
                                     "5",
                                     "Content-Length: 5\r\n",
                                     "HTTP/1.1 ",
                                     "100",
                                     "204",
                                     "304",
                                     "Transfer-Encoding: chunked\r\n",
                                     "Connection: close\r\n",
                                     ", ",
                                     "chunked",
                                     "gzip, ",
                                     ";",
                                     "0\r\n\r\n",
                                     "\r\n\r\n",
                                     "HTTP/1.0 ",
                                     "Content-Length: 5, 5\r\n",
                                     "close",
                                     "x" };

Test(http_parser, spoiled_responses_are_cut_alike_or_refused_for_a_reason)
{
    unsigned rounds = 40000 / slowness();
    size_t found = 0;
    static struct made made;

    for (uint64_t seed = 1; seed <= rounds; seed++) {
        uint64_t state = seed;

        made.size = 0;
        make_response(&made, &state);
        for (size_t count = 1 + any_number(&state, 3); count; count--)
            spoil(&made, &state, words, PL_COUNT(words));
        found += compare_response(&made, any_number(&state, 4) == 0);
    }
    cr_expect_gt(found, rounds / 4);
}

Test(http_parser, a_request_that_is_sent_is_one_request)
{
    static const char *const lines[] = { "GET / HTTP/1.1\r\n", "HEAD /a HTTP/1.1\r\n",
                                         "POST /a?b HTTP/1.1\r\n", "PUT /a HTTP/1.0\r\n" };
    unsigned rounds = 40000 / slowness();
    size_t sent = 0;
    static struct made made;

    for (uint64_t seed = 1; seed <= rounds; seed++) {
        uint64_t state = seed;
        struct pool_expect expect;
        enum pool_status status;
        struct parsed parsed;
        char *out;

        made.size = 0;
        make_text(&made, "%sHost: a\r\n", lines[any_number(&state, PL_COUNT(lines))]);
        make_content(&made, &state, any_number(&state, 2));
        for (size_t count = any_number(&state, 3); count; count--)
            spoil(&made, &state, words, PL_COUNT(words));
        if (fed_encode(pool_codec_http1(), (struct pool_bytes){ made.bytes, made.size }, &out,
                       &expect, &status)) {
            parsed = parse(HTTP_REQUEST, made.bytes, made.size, false);
            sent++;
            /* it knows only some methods, and only so much of a target */
            cr_assert(parsed.is_refused || parsed.end == made.size, "%.*s", (int)made.size,
                      made.bytes);
            cr_assert(parsed.is_refused || parsed.is_whole, "%.*s", (int)made.size, made.bytes);
        }
        free(out);
    }
    cr_expect_gt(sent, rounds / 4);
}
