/* test_codec_length.c: frames with their size in front carry any body and any key, and say what
 * they are; what is none of ours is refused at its head. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "wire/fed.h"
#include "wire/out.h"
#include "wire/runner.h"

#define HEAD 12u

/* A frame with a head as the test wants it. */
static size_t put_frame(char *at, uint32_t size, uint32_t key, uint32_t flags)
{
    uint32_t words[] = { size, key, flags };

    for (size_t i = 0; i < HEAD; i++)
        at[i] = (char)(words[i / 4] >> (24 - 8 * (i % 4)));
    return HEAD;
}

static size_t put_text(char *at, const char *body, uint32_t key, uint32_t flags)
{
    put_frame(at, (uint32_t)strlen(body), key, flags);
    memcpy(at + HEAD, body, strlen(body));
    return HEAD + strlen(body);
}

static struct fed fed_frames(const char *bytes, size_t size)
{
    struct feed feed = { .codec = pool_codec_length() };
    struct fed fed;

    cr_assert(fed_bytes(&fed, &feed, bytes, size));
    return fed;
}

Test(codec_length, every_kind_is_told_apart_and_carries_its_key_and_body)
{
    static const enum pool_message_kind kinds[] = { POOL_REQUEST, POOL_REPLY, POOL_PART,
                                                    POOL_PUSH };
    char bytes[256];
    size_t size = 0;
    struct fed fed;

    for (uint32_t i = 0; i < PL_COUNT(kinds); i++)
        size += put_text(bytes + size, "body", i + 7, i + 1);
    size += put_text(bytes + size, "error", 11, 2 | 8);
    size += put_text(bytes + size, "", UINT32_MAX, 2);
    fed = fed_frames(bytes, size);
    cr_assert_eq(fed.count, 6);
    for (uint32_t i = 0; i < PL_COUNT(kinds); i++) {
        cr_expect(fed_is(&fed, i, kinds[i], "body"));
        cr_expect_eq(fed.messages[i].key, i + 7);
        cr_expect_not(fed.messages[i].failed);
    }
    cr_expect(fed_is(&fed, 4, POOL_REPLY, "error"));
    cr_expect(fed.messages[4].failed);
    cr_expect(fed_is(&fed, 5, POOL_REPLY, ""));
    cr_expect_eq(fed.messages[5].key, UINT32_MAX);
    cr_expect_eq(fed.status, POOL_E_CLOSED);
    fed_free(&fed);
}

Test(codec_length, what_is_no_flag_of_ours_is_refused)
{
    static const uint32_t flags[] = {
        0, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 18, 32, 0x102, 0x01000000, 0x02000002, UINT32_MAX
    };

    for (size_t i = 0; i < PL_COUNT(flags); i++) {
        char bytes[HEAD + 4];
        struct fed fed = fed_frames(bytes, put_text(bytes, "body", 1, flags[i]));

        cr_expect_eq(fed.count, 0);
        cr_expect_eq(fed.status, POOL_E_PROTOCOL, "%x", flags[i]);
        fed_free(&fed);
    }
}

Test(codec_length, the_key_0_is_for_pushes_alone)
{
    for (uint32_t flags = 1; flags <= 4; flags++) {
        char bytes[HEAD];
        struct fed fed = fed_frames(bytes, put_text(bytes, "", 0, flags));

        cr_expect_eq(fed.status, flags == 4 ? POOL_E_CLOSED : POOL_E_PROTOCOL, "%x", flags);
        cr_expect_eq(fed.count, flags == 4);
        fed_free(&fed);
    }
}

Test(codec_length, ids_and_bodies_that_look_like_a_trailer_go_through)
{
    static const char *const bodies[] = { "\r\r\n", "a\r\r\nb", "\r\r\n\r\r\n", "\n", "\r" };
    char bytes[1024];
    size_t size = 0, count = 0;
    struct fed fed;

    for (uint32_t key = 855304; key <= 855308; key++) /* 855306 is 0x000d0d0a */
        for (size_t i = 0; i < PL_COUNT(bodies); i++)
            size += put_text(bytes + size, bodies[i], key, 2);
    fed = fed_frames(bytes, size);
    cr_assert_eq(fed.count, 5 * PL_COUNT(bodies));
    for (uint32_t key = 855304; key <= 855308; key++) {
        for (size_t i = 0; i < PL_COUNT(bodies); i++, count++) {
            cr_expect(fed_is(&fed, count, POOL_REPLY, bodies[i]));
            cr_expect_eq(fed.messages[count].key, key);
        }
    }
    fed_free(&fed);
}

Test(codec_length, a_stream_that_ends_inside_a_frame_is_broken_and_between_two_it_is_closed)
{
    char bytes[2 * HEAD + 8];
    size_t size = put_text(bytes, "body", 1, 2);

    size += put_text(bytes + size, "body", 2, 2);
    for (size_t i = 0; i <= size; i++) {
        struct fed fed = fed_frames(bytes, i);

        cr_expect_eq(fed.count, i / (HEAD + 4));
        cr_expect_eq(fed.status, i % (HEAD + 4) ? POOL_E_BROKEN : POOL_E_CLOSED, "%zu", i);
        fed_free(&fed);
    }
}

Test(codec_length, the_largest_size_is_told_early_and_refused_unless_it_is_allowed)
{
    static const struct {
        uint32_t size;
        size_t most;
        enum pool_status status;
    } rows[] = {
        { UINT32_MAX, 1u << 20, POOL_E_PROTOCOL },
        { UINT32_MAX, (size_t)UINT32_MAX + HEAD - 1, POOL_E_PROTOCOL },
        { UINT32_MAX, (size_t)UINT32_MAX + HEAD, POOL_OK },
        { UINT32_MAX - HEAD + 1, UINT32_MAX, POOL_E_PROTOCOL },
        { (1u << 20) - HEAD, 1u << 20, POOL_OK },
        { (1u << 20) - HEAD + 1, 1u << 20, POOL_E_PROTOCOL },
    };

    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        struct pool_message message;
        struct pl_runner runner;
        size_t room = 0;
        char *space;

        cr_assert_eq(pl_runner_init(&runner, pool_codec_length(), rows[i].most), POOL_OK);
        space = pl_runner_space(&runner, HEAD, &room);
        cr_assert_not_null(space);
        pl_runner_filled(&runner, put_frame(space, rows[i].size, 1, 2));
        cr_expect_not(pl_runner_next(&runner, 0, &message));
        cr_expect_eq(runner.status, rows[i].status, "%zu", i);
        if (!rows[i].status)
            cr_expect_eq(runner.wanted, (size_t)rows[i].size + HEAD);
        cr_expect_leq(runner.in.capacity, 512, "no memory was taken yet");
        pl_runner_fini(&runner);
    }
}

/* What is written for a body, or the status. */
static enum pool_status encode(enum pool_message_kind kind, uint64_t key, struct pool_bytes body,
                               struct pl_buffer *buffer, struct pool_expect *expect)
{
    struct pool_out out = { .buffer = buffer, .most = FED_MOST };
    struct pl_frame frame = { .kind = kind, .key = key, .body = body };

    return pl_out_encode(&out, pool_codec_length(), NULL, &frame, expect);
}

Test(codec_length, what_is_encoded_is_what_is_found)
{
    static const enum pool_message_kind kinds[] = { POOL_REQUEST, POOL_REPLY, POOL_PART, POOL_PUSH,
                                                    POOL_ERROR_REPLY };
    struct pl_buffer buffer = { 0 };
    struct pool_expect expect;
    struct fed fed;

    for (size_t i = 0; i < PL_COUNT(kinds); i++) {
        struct pool_bytes body = { "\r\r\n\0body", 3 + i };

        cr_assert_eq(encode(kinds[i], 855304 + i, body, &buffer, &expect), POOL_OK);
        cr_expect_eq(expect.replies, kinds[i] == POOL_REQUEST);
        cr_expect_eq(expect.hint, 0);
    }
    fed = fed_frames(buffer.data, pl_buffer_size(&buffer));
    cr_assert_eq(fed.count, PL_COUNT(kinds));
    for (size_t i = 0; i < PL_COUNT(kinds); i++) {
        bool failed = kinds[i] == POOL_ERROR_REPLY;

        cr_expect_eq(fed.messages[i].kind, failed ? POOL_REPLY : kinds[i]);
        cr_expect_eq(fed.messages[i].failed, failed);
        cr_expect_eq(fed.messages[i].key, 855304 + i);
        cr_expect_eq(fed.messages[i].size, 3 + i);
        cr_expect_arr_eq(fed.messages[i].body, "\r\r\n\0body", 3 + i);
    }
    fed_free(&fed);
    pl_buffer_fini(&buffer);
}

Test(codec_length, the_bytes_on_the_wire_are_big_endian)
{
    static const unsigned char bytes[] = { 0, 0, 0, 2, 0, 0x0d, 0x0d, 0x0a, 0, 0, 0, 1, 'h', 'i' };
    struct pl_buffer buffer = { 0 };
    struct pool_expect expect;

    cr_assert_eq(encode(POOL_REQUEST, 855306, (struct pool_bytes){ "hi", 2 }, &buffer, &expect),
                 POOL_OK);
    cr_assert_eq(pl_buffer_size(&buffer), sizeof(bytes));
    cr_expect_arr_eq((const unsigned char *)buffer.data + buffer.start, bytes, sizeof(bytes));
    pl_buffer_fini(&buffer);
}

Test(codec_length, what_does_not_fit_into_the_head_is_refused)
{
    struct pool_bytes empty = { NULL, 0 }, huge = { "", (size_t)UINT32_MAX + 1 };
    struct pl_buffer buffer = { 0 };
    struct pool_expect expect;

    cr_expect_eq(encode(POOL_REQUEST, (uint64_t)UINT32_MAX + 1, empty, &buffer, &expect),
                 POOL_E_ARGUMENT);
    cr_expect_eq(encode(POOL_REQUEST, 1, huge, &buffer, &expect), POOL_E_ARGUMENT);
    cr_expect_eq(encode((enum pool_message_kind)99, 1, empty, &buffer, &expect), POOL_E_ARGUMENT);
    cr_expect_eq(encode((enum pool_message_kind) - 1, 1, empty, &buffer, &expect), POOL_E_ARGUMENT);
    cr_expect_eq(encode(POOL_REPLY, 0, empty, &buffer, &expect), POOL_E_ARGUMENT,
                 "the peer would refuse it");
    cr_expect_eq(encode(POOL_PUSH, 0, empty, &buffer, &expect), POOL_OK);
    cr_expect_eq(pl_buffer_size(&buffer), HEAD);
    pl_buffer_fini(&buffer);
}
