/* test_query_crossed.c: both ends ask over one connection: the requests of the peer's that wait
 * for their answers do not keep our replies from us. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool/raw_line.h"

#define LIMIT 2u
#define MOST 8u
#define SILENCE 300 /* ms in which nothing more is taken in */

static struct pool_responder *kept[MOST];
static char names[MOST + 1]; /* the last letter of each */
static atomic_uint kept_count, told;
static atomic_bool is_let_on;

/* They are answered later, but for those that come once all may go on. */
static void keep(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    unsigned at = atomic_load(&kept_count);

    (void)user;
    atomic_fetch_add(&told, 1);
    if (atomic_load(&is_let_on) || at == MOST) {
        pool_respond(responder, request);
        return;
    }
    kept[at] = responder;
    names[at] = request.size ? ((const char *)request.data)[request.size - 1] : '-';
    atomic_fetch_add(&kept_count, 1);
}

static bool has_kept(void *least)
{
    return atomic_load(&kept_count) >= *(unsigned *)least;
}

static bool wait_kept(unsigned least)
{
    return wait_until(has_kept, &least, VERBS_SOON);
}

TestSuite(query_crossed, .fini = raw_line_end, .timeout = 60);

/* Our query is on its way, and behind the peer's requests comes its answer. */
static void cross(struct query *ours, unsigned requests)
{
    struct raw_frame frame;

    cr_assert_eq(start_query(ours, raw_pool, RAW, "ours", NULL), POOL_OK);
    cr_assert(raw_get(&frame));
    for (uint32_t i = 1; i <= requests; i++)
        cr_assert(raw_put(i, FRAME_REQUEST, (char[]){ (char)('0' + i), 0 }));
    cr_assert(raw_put(frame.id, FRAME_REPLY, "theirs"));
}

Test(query_crossed, a_reply_is_heard_behind_requests_beyond_the_limit)
{
    struct query ours = { 0 };
    struct raw_frame frame;

    RAW_LINE(.codec = pool_codec_length(), .on_request = keep, .max_inflight = LIMIT);
    cross(&ours, 6);
    cr_assert(wait_answered(&ours));
    cr_expect(is_answered_with(&ours, "theirs"));
    for (unsigned i = 0; i < 6; i++) {
        cr_assert(wait_kept(i + LIMIT < 6 ? i + LIMIT : 6));
        cr_expect_leq(atomic_load(&kept_count) - i, LIMIT, "more than may be unanswered");
        pool_respond(kept[i], POOL_TEXT("done"));
        cr_assert(raw_get(&frame));
        cr_expect_eq(frame.id, i + 1);
    }
    cr_expect_str_eq(names, "123456");
}

Test(query_crossed, where_nothing_of_ours_is_due_requests_beyond_the_limit_are_not_read)
{
    struct pollfd polled;
    int room = 4096;
    unsigned count = 0;

    RAW_LINE(.codec = pool_codec_length(), .on_request = keep, .max_inflight = LIMIT);
    polled = (struct pollfd){ .fd = raw_end, .events = POLLOUT };
    cr_assert_eq(setsockopt(raw_end, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
    while (count < 100000 && poll(&polled, 1, SILENCE) == 1)
        cr_assert(raw_put(++count, FRAME_REQUEST, ""));
    cr_expect_lt(count, 5000, "any number is taken in");
    cr_expect_eq(atomic_load(&told), LIMIT);
}

static bool have_been_told(void *count)
{
    return atomic_load(&told) == *(unsigned *)count;
}

Test(query_crossed, what_is_kept_beyond_the_limit_is_bounded)
{
    struct pollfd polled;
    struct query ours = { 0 };
    struct raw_frame frame;
    int room = 4096;
    unsigned count = 0;

    RAW_LINE(.codec = pool_codec_length(), .on_request = keep, .max_inflight = 1,
             .max_message = 65536);
    polled = (struct pollfd){ .fd = raw_end, .events = POLLOUT };
    cr_assert_eq(setsockopt(raw_end, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
    cr_assert_eq(start_query(&ours, raw_pool, RAW, "ours", NULL), POOL_OK);
    cr_assert(raw_get(&frame));
    while (count < 100000 && poll(&polled, 1, SILENCE) == 1)
        cr_assert(raw_put(++count, FRAME_REQUEST, ""));
    cr_expect_gt(count, 65536 / 400, "as many are kept as the bound allows");
    cr_expect_lt(count, 5000, "any number is kept");
    cr_expect_eq(atomic_load(&told), 1);
    atomic_store(&is_let_on, true);
    pool_respond(kept[0], POOL_TEXT(""));
    cr_assert(raw_put(frame.id, FRAME_REPLY, "theirs"));
    cr_assert(wait_answered(&ours));
    cr_expect(wait_until(have_been_told, &count, VERBS_SOON), "%u of %u", told, count);
}

Test(query_crossed, what_was_kept_when_the_line_ends_is_told_nobody)
{
    struct query ours = { 0 };
    struct raw_frame frame;

    RAW_LINE(.codec = pool_codec_length(), .on_request = keep, .max_inflight = LIMIT);
    cr_assert_eq(start_query(&ours, raw_pool, RAW, "ours", NULL), POOL_OK);
    cr_assert(raw_get(&frame));
    for (uint32_t id = 1; id <= 6; id++)
        cr_assert(raw_put(id, FRAME_REQUEST, "asks"));
    cr_assert_eq(shutdown(raw_end, SHUT_WR), 0);
    cr_assert(wait_answered(&ours));
    cr_expect(has_failed_with(&ours, POOL_E_CLOSED));
    cr_assert(WAIT_STAT(raw_pool, total, 0));
    cr_assert(wait_kept(LIMIT));
    for (unsigned i = 0; i < LIMIT; i++)
        pool_respond(kept[i], POOL_TEXT("too late"));
    raw_line_end();
    cr_expect_eq(atomic_load(&told), LIMIT);
}

/* ---- where replies come in order */

static void expect_line(const char *text)
{
    char line[32];

    cr_assert(raw_get_line(line, sizeof(line)));
    cr_expect_str_eq(line, text);
}

Test(query_crossed, one_can_ask_in_order_while_requests_are_at_their_limit)
{
    const char *requests = "?1\n?2\n?3\n?4\n", *reply = "theirs\n";
    struct query ours = { 0 };

    RAW_LINE(.codec = raw_asking_lines(), .on_request = keep, .max_inflight = LIMIT);
    cr_assert(write_exactly(raw_end, requests, strlen(requests), VERBS_SOON));
    cr_assert(wait_kept(LIMIT));
    cr_assert_eq(start_query(&ours, raw_pool, RAW, "ours", NULL), POOL_OK);
    expect_line("ours");
    cr_assert(write_exactly(raw_end, reply, strlen(reply), VERBS_SOON));
    cr_assert(wait_answered(&ours));
    cr_expect(is_answered_with(&ours, "theirs"));
    cr_expect_eq(atomic_load(&kept_count), LIMIT);
    pool_respond(kept[1], POOL_TEXT("two"));
    pool_respond(kept[0], POOL_TEXT("one"));
    cr_assert(wait_kept(4));
    pool_respond(kept[3], POOL_TEXT("four"));
    pool_respond(kept[2], POOL_TEXT("three"));
    expect_line("one");
    expect_line("two");
    expect_line("three");
    expect_line("four");
    cr_expect_str_eq(names, "1234");
}
