/* test_runner.c: the runner bounds what a peer may send and believes no codec: a faulty one ends
 * its connection and nothing else. */
#include "wire/runner.h"

#include <criterion/criterion.h>
#include <limits.h>
#include <string.h>

#include "base/os.h"

#define MOST 100u

/* A codec whose messages end with ';', and which does the one thing wrong that the test asks
 * for. */
static struct {
    long answer; /* instead of the bytes of the message; 0: it is right */
    long lead; /* the body begins so far from the message */
    size_t body_size; /* instead of the body's own; 0: it is right */
    int kind;
    size_t wanted;
    bool never_ends, closes, bodies_end_with_stream;
    int calls;
    bool was_at_end;
    uint64_t hint;
} is;

static long next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *message)
{
    const char *bytes = in.data;
    const char *end = in.size ? memchr(bytes, ';', in.size) : NULL;

    (void)state;
    is.calls++;
    is.was_at_end = at_end;
    is.hint = hint;
    message->wanted = is.wanted;
    message->kind = (enum pool_message_kind)is.kind;
    message->closes = is.closes;
    if (is.bodies_end_with_stream && at_end && in.size) {
        message->body = in;
        return (long)in.size;
    }
    if (is.never_ends || (!end && !is.answer))
        return 0;
    message->body.data = bytes + is.lead;
    message->body.size = is.body_size ? is.body_size : (size_t)((end ? end : bytes) - bytes);
    return is.answer ? is.answer : end - bytes + 1;
}

static const struct pool_codec codec = { .size = sizeof(codec), .name = "semicolon", .next = next };

static struct pl_runner runner;
static struct pool_message message;

static void init(void)
{
    memset(&is, 0, sizeof(is));
    is.kind = POOL_REPLY;
    cr_assert_eq(pl_runner_init(&runner, &codec, MOST), POOL_OK);
}

static void fini(void)
{
    pl_runner_fini(&runner);
}

TestSuite(runner, .init = init, .fini = fini);

static void receive_bytes(const char *bytes, size_t size)
{
    size_t room = 0;
    char *space = pl_runner_space(&runner, size, &room);

    cr_assert_not_null(space);
    cr_assert_geq(room, size);
    memcpy(space, bytes, size);
    pl_runner_filled(&runner, size);
}

static void receive(const char *text)
{
    receive_bytes(text, strlen(text));
}

static bool find(void)
{
    return pl_runner_next(&runner, 0, &message);
}

static bool found(const char *body)
{
    bool is_it = find() && message.body.size == strlen(body) &&
                 memcmp(message.body.data, body, message.body.size) == 0;

    if (is_it)
        pl_runner_drop(&runner);
    return is_it;
}

static void expect_end(enum pool_status status)
{
    cr_expect_not(find());
    cr_expect_eq(runner.status, status, "%s", pool_status_name(runner.status));
    cr_expect_not(find(), "it stays so");
    cr_expect_eq(runner.status, status);
    cr_expect_not(pl_runner_is_clean(&runner));
}

/* What a whole message that is not right does. */
static void expect_refused(void)
{
    receive("body;rest");
    expect_end(POOL_E_PROTOCOL);
}

Test(runner, messages_come_in_order_as_their_bytes_do)
{
    cr_expect(pl_runner_is_clean(&runner));
    cr_expect_not(find());
    receive("one;two;th");
    cr_expect(found("one"));
    cr_expect_not(pl_runner_is_clean(&runner));
    cr_expect(found("two"));
    cr_expect_not(find());
    receive("ree;");
    cr_expect(found("three"));
    cr_expect(pl_runner_is_clean(&runner));
    cr_expect_eq(runner.status, POOL_OK);
}

Test(runner, it_is_clean_once_its_last_message_is_found_though_not_dropped)
{
    receive("one;");
    cr_expect(find());
    cr_expect(pl_runner_is_clean(&runner));
    pl_runner_drop(&runner);
    cr_expect(pl_runner_is_clean(&runner));
}

Test(runner, the_hint_reaches_the_codec)
{
    receive("one;");
    cr_expect(pl_runner_next(&runner, 0xfedcba9876543210, &message));
    cr_expect_eq(is.hint, 0xfedcba9876543210);
}

Test(runner, without_bytes_the_codec_is_not_asked)
{
    cr_expect_not(find());
    cr_expect_eq(is.calls, 0);
}

Test(runner, a_message_of_the_longest_size_goes_through_and_one_byte_more_does_not)
{
    char bytes[MOST + 1];

    memset(bytes, 'x', sizeof(bytes));
    bytes[MOST - 1] = ';';
    receive_bytes(bytes, MOST);
    cr_expect(find());
    pl_runner_drop(&runner);
    bytes[MOST - 1] = 'x';
    bytes[MOST] = ';';
    receive_bytes(bytes, MOST + 1);
    expect_end(POOL_E_PROTOCOL);
}

Test(runner, a_message_that_does_not_end_within_the_bound_is_refused)
{
    is.never_ends = true;
    for (size_t i = 1; i < MOST; i++) {
        receive("x");
        cr_expect_not(find());
        cr_expect_eq(runner.status, POOL_OK, "%zu", i);
    }
    receive("x");
    expect_end(POOL_E_PROTOCOL);
    cr_expect_leq(runner.in.capacity, 512);
}

Test(runner, a_message_that_will_be_too_long_is_refused_before_it_has_come)
{
    is.wanted = MOST + 1;
    receive("x");
    expect_end(POOL_E_PROTOCOL);
}

Test(runner, one_that_is_too_long_is_refused_as_such_also_at_the_end_of_the_stream)
{
    is.wanted = SIZE_MAX;
    receive("x");
    pl_runner_end(&runner);
    expect_end(POOL_E_PROTOCOL);
}

Test(runner, room_is_made_at_once_for_what_is_known_to_come)
{
    size_t room = 0;

    fini();
    cr_assert_eq(pl_runner_init(&runner, &codec, 1u << 20), POOL_OK);
    is.wanted = 1u << 20;
    receive("x");
    cr_expect_not(find());
    cr_expect_eq(runner.status, POOL_OK);
    cr_expect_not_null(pl_runner_space(&runner, 1, &room));
    cr_expect_geq(room, (1u << 20) - 1);
}

Test(runner, the_room_of_a_large_message_is_given_back_after_it)
{
    static char bytes[1u << 20];
    size_t room = 0;

    fini();
    cr_assert_eq(pl_runner_init(&runner, &codec, sizeof(bytes)), POOL_OK);
    memset(bytes, 'x', sizeof(bytes));
    bytes[sizeof(bytes) - 1] = ';';
    receive_bytes(bytes, sizeof(bytes));
    cr_expect(find());
    pl_runner_drop(&runner);
    cr_expect_not_null(pl_runner_space(&runner, 1, &room));
    cr_expect_lt(runner.in.capacity, 1024);
    cr_expect_not(find(), "nothing was put there");
    cr_expect_eq(runner.wanted, 0);
}

Test(runner, what_was_wanted_is_forgotten_when_it_has_come)
{
    size_t room = 0;

    is.wanted = MOST;
    receive("x");
    cr_expect_not(find());
    cr_expect_eq(runner.wanted, MOST);
    is.wanted = 0;
    receive(";");
    cr_expect(found("x"));
    cr_expect_eq(runner.wanted, 0);
    cr_expect_not_null(pl_runner_space(&runner, 1, &room));
}

Test(runner, a_codec_that_takes_more_than_there_is_is_not_believed)
{
    is.answer = 10;
    expect_refused();
}

Test(runner, a_codec_that_takes_as_much_as_can_be_told_is_not_believed)
{
    is.answer = LONG_MAX;
    expect_refused();
}

Test(runner, a_body_before_the_message_is_not_believed)
{
    is.lead = -1;
    expect_refused();
}

Test(runner, a_body_that_begins_behind_the_message_is_not_believed)
{
    is.lead = 6;
    is.body_size = 1;
    expect_refused();
}

Test(runner, a_body_that_ends_behind_the_message_is_not_believed)
{
    is.body_size = 6;
    expect_refused();
}

Test(runner, a_body_as_long_as_memory_is_not_believed)
{
    is.lead = 1;
    is.body_size = SIZE_MAX;
    expect_refused();
}

Test(runner, an_empty_body_may_be_anywhere)
{
    is.lead = -1;
    receive(";");
    cr_expect(find());
    cr_expect_eq(message.body.size, 0);
}

Test(runner, a_kind_that_is_none_is_not_believed)
{
    is.kind = POOL_REQUEST + 1;
    expect_refused();
}

Test(runner, a_negative_kind_is_not_believed)
{
    is.kind = -1;
    expect_refused();
}

Test(runner, an_error_reply_is_told_by_failed_and_never_by_its_kind)
{
    is.kind = POOL_ERROR_REPLY;
    expect_refused();
}

Test(runner, the_status_of_a_codec_ends_the_stream)
{
    is.answer = POOL_E_MEMORY;
    receive("body;");
    expect_end(POOL_E_MEMORY);
}

Test(runner, a_status_that_is_none_is_a_breach_of_the_protocol)
{
    is.answer = POOL_E_SYSTEM - 1;
    expect_refused();
}

Test(runner, the_least_answer_that_can_be_is_a_breach_of_the_protocol)
{
    is.answer = LONG_MIN;
    expect_refused();
}

Test(runner, nothing_more_is_asked_of_a_codec_that_failed)
{
    is.answer = POOL_E_PROTOCOL;
    expect_refused();
    cr_expect_eq(is.calls, 1);
    is.answer = 0;
    receive("good;");
    cr_expect_not(find());
    cr_expect_eq(is.calls, 1);
}

Test(runner, a_stream_that_ends_between_two_messages_is_closed)
{
    receive("one;");
    pl_runner_end(&runner);
    cr_expect(found("one"));
    expect_end(POOL_E_CLOSED);
}

Test(runner, a_stream_that_ends_without_a_byte_is_closed)
{
    pl_runner_end(&runner);
    expect_end(POOL_E_CLOSED);
}

Test(runner, a_stream_that_ends_inside_a_message_is_broken)
{
    receive("one;tw");
    pl_runner_end(&runner);
    cr_expect(found("one"));
    expect_end(POOL_E_BROKEN);
}

Test(runner, a_codec_is_told_of_the_end_and_may_end_a_body_by_it)
{
    is.bodies_end_with_stream = true;
    is.never_ends = true;
    receive("one");
    cr_expect_not(find());
    cr_expect_not(is.was_at_end);
    pl_runner_end(&runner);
    cr_expect(found("one"));
    cr_expect(is.was_at_end);
    expect_end(POOL_E_CLOSED);
}

Test(runner, a_message_made_of_nothing_is_not_believed)
{
    is.answer = 1;
    pl_runner_end(&runner);
    expect_end(POOL_E_PROTOCOL);
}

Test(runner, after_a_message_that_closes_none_follows)
{
    is.closes = true;
    receive("last;");
    cr_expect(found("last"));
    cr_expect_not(pl_runner_is_clean(&runner), "it cannot be used again");
    cr_expect_not(find());
    cr_expect_eq(runner.status, POOL_OK, "nothing is wrong yet");
    cr_expect_eq(is.calls, 1);
}

Test(runner, bytes_after_a_message_that_closes_are_a_breach_of_the_protocol)
{
    is.closes = true;
    receive("last;more;");
    cr_expect(found("last"));
    expect_end(POOL_E_PROTOCOL);
    cr_expect_eq(is.calls, 1);
}

static void *no_memory(size_t size)
{
    (void)size;
    return NULL;
}

static void *no_more_memory(void *memory, size_t size)
{
    (void)memory;
    (void)size;
    return NULL;
}

Test(runner, without_memory_it_is_not_made)
{
    struct pl_os os = pl_os_real;
    struct pl_runner other;

    os.malloc = no_memory;
    pl_os_replace(&os);
    cr_expect_eq(pl_runner_init(&other, &codec, MOST), POOL_E_MEMORY);
    pl_os_replace(NULL);
    pl_runner_fini(&other);
}

Test(runner, without_memory_there_is_no_space_and_nothing_is_lost)
{
    struct pl_os os = pl_os_real;
    size_t room = 0;

    receive("on");
    os.realloc = no_more_memory;
    pl_os_replace(&os);
    cr_expect_null(pl_runner_space(&runner, 4096, &room));
    pl_os_replace(NULL);
    receive("e;");
    cr_expect(found("one"));
}

/* Counts to 1 in what must begin as zeros. */
static long count_next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                       struct pool_message *out)
{
    unsigned char *bytes = state;

    (void)in;
    (void)at_end;
    (void)hint;
    for (size_t i = 0; i < 999; i++)
        if (bytes[i])
            return POOL_E_PROTOCOL;
    bytes[998] = 1;
    out->kind = POOL_REPLY;
    return 1;
}

Test(runner, the_state_of_a_codec_begins_as_zeros_and_is_kept)
{
    static const struct pool_codec counting = {
        .size = sizeof(counting), .name = "counting", .read_state_size = 999, .next = count_next
    };

    fini();
    cr_assert_eq(pl_runner_init(&runner, &counting, MOST), POOL_OK);
    receive("xx");
    cr_expect(find());
    pl_runner_drop(&runner);
    expect_end(POOL_E_PROTOCOL);
}
