/* test_codec_line.c: a line is a message, whichever way its bytes come and whichever of the two
 * ends it has. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "support/tests.h"
#include "wire/fed.h"
#include "wire/out.h"

static struct fed fed_lines(const char *text)
{
    struct feed feed = { .codec = pool_codec_line() };
    struct fed fed;

    cr_assert(fed_text(&fed, &feed, text));
    return fed;
}

Test(codec_line, each_line_is_a_message_and_its_end_is_none_of_it)
{
    static const char *const bodies[] = { "one", "two", "", "", "a\rb", "three\r", "end" };
    struct fed fed = fed_lines("one\ntwo\r\n\n\r\na\rb\r\nthree\r\r\nend\n");

    cr_assert_eq(fed.count, PL_COUNT(bodies));
    for (size_t i = 0; i < PL_COUNT(bodies); i++) {
        cr_expect(fed_is(&fed, i, POOL_REPLY, bodies[i]));
        cr_expect_not(fed.messages[i].failed || fed.messages[i].closes);
    }
    cr_expect_eq(fed.status, POOL_E_CLOSED);
    fed_free(&fed);
}

Test(codec_line, a_line_may_hold_any_other_byte)
{
    struct feed feed = { .codec = pool_codec_line() };
    char bytes[256];
    struct fed fed;

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i == '\n' ? 'x' : i);
    bytes[255] = '\n';
    cr_assert(fed_bytes(&fed, &feed, bytes, sizeof(bytes)));
    cr_assert_eq(fed.count, 1);
    cr_assert_eq(fed.messages[0].size, 255);
    cr_expect_arr_eq(fed.messages[0].body, bytes, 255);
    fed_free(&fed);
}

Test(codec_line, a_line_without_an_end_is_broken_when_the_stream_ends)
{
    static const char *const texts[] = { "one\ntwo", "one\n\r", "one\ntwo\r" };

    for (size_t i = 0; i < PL_COUNT(texts); i++) {
        struct fed fed = fed_lines(texts[i]);

        cr_expect_eq(fed.count, 1);
        cr_expect_eq(fed.status, POOL_E_BROKEN);
        fed_free(&fed);
    }
}

Test(codec_line, the_bound_counts_the_end_of_the_line)
{
    struct feed feed = { .codec = pool_codec_line(), .most = 5 };
    struct fed fed;

    cr_assert(fed_text(&fed, &feed, "four\nfou\r\nfive5\n"));
    cr_expect_eq(fed.count, 2);
    cr_expect_eq(fed.status, POOL_E_PROTOCOL);
    fed_free(&fed);
    cr_assert(fed_text(&fed, &feed, "fives and no end"));
    cr_expect_eq(fed.status, POOL_E_PROTOCOL);
    fed_free(&fed);
}

/* Looked at again for every byte, this takes a minute and more. */
Test(codec_line, no_byte_is_looked_at_twice)
{
    struct feed feed = { .codec = pool_codec_line(), .most = 1u << 21 };
    size_t size = 1u << 21;
    char *bytes = malloc(size);
    uint64_t start = now_ms();
    struct fed fed;

    cr_assert_not_null(bytes);
    memset(bytes, 'x', size);
    bytes[size - 1] = '\n';
    cr_assert(fed_bytes(&fed, &feed, bytes, size));
    cr_expect_eq(fed.count, 1);
    cr_expect(WITHIN(elapsed_ms(start), 0, 5000));
    fed_free(&fed);
    free(bytes);
}

Test(codec_line, a_request_is_given_its_end_and_is_answered_by_one_line)
{
    static const char *const bodies[] = { "PING", "", "a\rb", "end\r" };

    for (size_t i = 0; i < PL_COUNT(bodies); i++) {
        struct pool_expect expect;
        enum pool_status status;
        char *text;

        cr_expect(fed_encode(pool_codec_line(), (struct pool_bytes){ bodies[i], strlen(bodies[i]) },
                             &text, &expect, &status));
        cr_expect_eq(strlen(text), strlen(bodies[i]) + 1);
        cr_expect_eq(strncmp(text, bodies[i], strlen(bodies[i])), 0);
        cr_expect_eq(text[strlen(bodies[i])], '\n');
        cr_expect_eq(expect.replies, 1);
        cr_expect_eq(expect.hint, 0);
        free(text);
    }
}

Test(codec_line, a_request_of_several_lines_cannot_be_counted)
{
    static const char *const bodies[] = { "\n", "PING\n", "PING\r\n", "PING\nPING", "\nPING" };

    for (size_t i = 0; i < PL_COUNT(bodies); i++) {
        struct pool_expect expect;
        enum pool_status status;
        char *text;

        cr_expect_not(fed_encode(pool_codec_line(),
                                 (struct pool_bytes){ bodies[i], strlen(bodies[i]) }, &text,
                                 &expect, &status));
        cr_expect_eq(status, POOL_E_ARGUMENT);
        cr_expect_str_empty(text);
        free(text);
    }
}

Test(codec_line, what_is_neither_request_nor_reply_cannot_be_told)
{
    static const enum pool_message_kind kinds[] = { POOL_PART, POOL_PUSH, POOL_ERROR_REPLY,
                                                    (enum pool_message_kind)99 };
    struct pl_buffer buffer = { 0 };
    struct pool_out out = { .buffer = &buffer, .most = FED_MOST };
    struct pl_frame frame = { .kind = POOL_REPLY, .body = { "yes", 3 } };
    struct pool_expect expect;

    cr_expect_eq(pl_out_encode(&out, pool_codec_line(), NULL, &frame, &expect), POOL_OK);
    cr_expect_eq(expect.replies, 0);
    cr_expect_eq(pl_buffer_size(&buffer), 4);
    for (size_t i = 0; i < PL_COUNT(kinds); i++) {
        frame.kind = kinds[i];
        cr_expect_eq(pl_out_encode(&out, pool_codec_line(), NULL, &frame, &expect),
                     POOL_E_ARGUMENT);
    }
    cr_expect_eq(pl_buffer_size(&buffer), 4);
    pl_buffer_fini(&buffer);
}
