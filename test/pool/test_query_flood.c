/* test_query_flood.c: peers that say more than is heard, or nothing any more: what is kept of it is
 * bounded, and nobody spins. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "pool/raw_line.h"

TestSuite(query_flood, .fini = raw_line_end, .timeout = 60);

#define MOST 65536u /* of one message */
#define PART 1000u
#define SILENCE 300 /* ms in which nothing more is taken in */

/* ---- parts */

static atomic_bool is_let_on;
static atomic_size_t told;
static atomic_bool is_wrong;

static bool may_go_on(void *unused)
{
    (void)unused;
    return atomic_load(&is_let_on);
}

/* Holds the first part until the test lets go. */
static void on_part(struct pool_bytes part, void *user)
{
    (void)user;
    wait_until(may_go_on, NULL, VERBS_SOON);
    if (part.size != PART || ((const char *)part.data)[0] != 'a' + (char)(told / PART % 26))
        atomic_store(&is_wrong, true);
    atomic_fetch_add(&told, part.size);
}

static void put_part(uint32_t id, size_t number)
{
    char body[PART + 1] = "";

    memset(body, 'a' + (int)(number % 26), PART);
    cr_assert(raw_put(id, FRAME_PART, body));
}

/* Writes parts as long as they are taken; answers how many. */
static size_t flood(uint32_t id)
{
    struct pollfd polled = { .fd = raw_end, .events = POLLOUT };
    int room = 4096;
    size_t count = 0;

    cr_assert_eq(setsockopt(raw_end, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
    while (count < 100 * MOST / PART && poll(&polled, 1, SILENCE) == 1)
        put_part(id, count++);
    return count;
}

Test(query_flood, parts_that_are_told_late_are_received_late)
{
    struct query other = { 0 };
    struct asker asker = { .query = { 0 } };
    struct raw_frame frame, second;
    size_t count;

    RAW_LINE(.codec = pool_codec_length(), .max_message = MOST);
    cr_assert(start_asker(&asker, raw_pool, RAW, "parts",
                          POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = on_part)));
    cr_assert(raw_get(&frame));
    count = flood(frame.id);
    cr_expect_gt(count * PART, MOST / 4);
    cr_expect_lt(count, 6 * MOST / PART, "any amount is kept");
    cr_assert_eq(start_query(&other, raw_pool, RAW, "other", NULL), POOL_OK);
    cr_assert(raw_get(&second));
    atomic_store(&is_let_on, true);
    for (unsigned i = 0; i < 100; i++)
        put_part(frame.id, count++);
    cr_assert(raw_put(frame.id, FRAME_REPLY, "end") && raw_put(second.id, FRAME_REPLY, "other"));
    cr_expect_eq(join_asker(&asker), POOL_OK);
    cr_expect(is_answered_with(&asker.query, "end"));
    cr_assert(wait_answered(&other));
    cr_expect(is_answered_with(&other, "other"));
    cr_expect_eq(told, count * PART);
    cr_expect_not(is_wrong);
}

/* Empty ones take memory, too. */
Test(query_flood, parts_without_bytes_count)
{
    struct pollfd polled;
    struct asker asker = { .query = { 0 } };
    struct raw_frame frame;
    int room = 4096;
    size_t count = 0;

    RAW_LINE(.codec = pool_codec_length(), .max_message = 4096);
    polled = (struct pollfd){ .fd = raw_end, .events = POLLOUT };
    cr_assert_eq(setsockopt(raw_end, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
    cr_assert(start_asker(&asker, raw_pool, RAW, "parts",
                          POOL_CALL(.timeout_ms = VERBS_SOON, .on_part = on_part)));
    cr_assert(raw_get(&frame));
    while (count < 200000 && poll(&polled, 1, SILENCE) == 1) {
        cr_assert(raw_put(frame.id, FRAME_PART, ""));
        count++;
    }
    cr_expect_lt(count, 200000, "any number is kept");
    atomic_store(&is_let_on, true);
    cr_assert(raw_put(frame.id, FRAME_REPLY, "end"));
    cr_expect_eq(join_asker(&asker), POOL_OK);
}

/* ---- requests */

static atomic_uint served;

/* Holds the first one until the test lets go. */
static void on_request(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    (void)user;
    atomic_fetch_add(&served, 1);
    wait_until(may_go_on, NULL, VERBS_SOON);
    pool_respond(responder, (struct pool_bytes){ request.data, 2 });
}

static bool is_one_served(void *unused)
{
    (void)unused;
    return atomic_load(&served) == 1;
}

static atomic_uint found;

static long count_next(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                       struct pool_message *message)
{
    long taken = pool_codec_length()->next(state, in, at_end, hint, message);

    if (taken > 0 && message->kind == POOL_REQUEST)
        atomic_fetch_add(&found, 1);
    return taken;
}

static bool are_too_many_found(void *unused)
{
    (void)unused;
    return atomic_load(&found) == 3;
}

/* The thread that waits for its reply reads on while the mux is held up, and its reply stands behind
 * more requests than may be kept. */
Test(query_flood, requests_that_are_told_late_are_received_late)
{
    static struct pool_codec counting;
    static char body[MOST * 2 / 3];
    struct asker asker = { .query = { 0 } };
    struct raw_frame frame;

    memset(body, 'b', sizeof(body) - 1);
    counting = *pool_codec_length();
    counting.next = count_next;
    RAW_LINE(.codec = &counting, .max_message = MOST, .on_request = on_request);
    cr_assert(raw_put(1, FRAME_REQUEST, "first"));
    cr_assert(wait_until(is_one_served, NULL, VERBS_SOON));
    cr_assert(start_asker(&asker, raw_pool, RAW, "ours", POOL_CALL(.timeout_ms = VERBS_SOON)));
    cr_assert(raw_get(&frame));
    for (uint32_t id = 2; id <= 4; id++)
        cr_assert(raw_put(id, FRAME_REQUEST, body));
    cr_assert(raw_put(frame.id, FRAME_REPLY, "theirs"));
    cr_expect(wait_until(are_too_many_found, NULL, VERBS_SOON));
    atomic_store(&is_let_on, true);
    cr_expect_eq(join_asker(&asker), POOL_OK);
    cr_expect(is_answered_with(&asker.query, "theirs"));
    for (uint32_t id = 1; id <= 4; id++) {
        cr_assert(raw_get(&frame));
        cr_expect_eq(frame.id, id);
        cr_expect_str_eq(frame.body, id == 1 ? "fi" : "bb");
    }
}

static void drop(struct pool_reply *reply, void *user)
{
    pool_reply_free(reply);
    atomic_fetch_add((atomic_uint *)user, 1);
}

static _Atomic long blocks;

static void *counted_malloc(size_t size)
{
    void *memory = malloc(size);

    atomic_fetch_add(&blocks, memory != NULL);
    return memory;
}

static void *counted_realloc(void *memory, size_t size)
{
    atomic_fetch_add(&blocks, !memory);
    return realloc(memory, size);
}

static void counted_free(void *memory)
{
    atomic_fetch_sub(&blocks, memory != NULL);
    free(memory);
}

/* Those that are told as one cost what they carry. */
Test(query_flood, parts_without_bytes_that_are_joined_cost_nothing)
{
    atomic_uint count = 0;
    struct raw_frame frame;
    long before;

    cr_assert_eq(pool_set_allocator(counted_malloc, counted_realloc, counted_free), POOL_OK);
    RAW_LINE(.codec = pool_codec_length());
    cr_assert_eq(pool_query_async(raw_pool, RAW, text_bytes("joined"), drop, &count, NULL, NULL),
                 POOL_OK);
    cr_assert(raw_get(&frame));
    before = blocks;
    for (unsigned i = 0; i < 5000; i++)
        cr_assert(raw_put(frame.id, FRAME_PART, i % 1000 ? "" : "body"));
    cr_assert(WAIT_STAT(raw_pool, bytes_in, 5000 * 12 + 5 * 4));
    cr_expect_lt(blocks - before, 100);
    cr_assert(raw_put(frame.id, FRAME_REPLY, "end"));
    cr_expect(WAIT_STAT(raw_pool, bytes_in, 5001 * 12 + 5 * 4 + 3));
    raw_line_end();
    cr_expect_eq(count, 1);
}

/* Time that runs out in the middle leaves the line to the others. */
Test(query_flood, who_is_given_up_amid_its_parts_holds_up_nobody)
{
    struct asker asker = { .query = { 0 } };
    struct query other = { 0 };
    struct raw_frame frame, second;

    RAW_LINE(.codec = pool_codec_length(), .max_message = MOST);
    cr_assert(start_asker(&asker, raw_pool, RAW, "parts",
                          POOL_CALL(.timeout_ms = 200, .on_part = on_part)));
    cr_assert(raw_get(&frame));
    cr_assert_eq(start_query(&other, raw_pool, RAW, "other", NULL), POOL_OK);
    cr_assert(raw_get(&second));
    flood(frame.id);
    cr_expect_eq(other.told, 0);
    atomic_store(&is_let_on, true);
    cr_expect_eq(join_asker(&asker), POOL_E_TIMEOUT_IN_TRANSFER);
    cr_assert(raw_put(second.id, FRAME_REPLY, "other"));
    cr_assert(wait_answered(&other));
    cr_expect(is_answered_with(&other, "other"));
}

/* ---- requests of the peer's */

static struct pool_responder *kept[4];
static atomic_uint kept_count;

static void keep(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    (void)request, (void)user;
    kept[atomic_load(&kept_count)] = responder;
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

/* It asks more than we answer, reads nothing, and says that it will say no more. */
Test(query_flood, a_line_that_neither_hears_nor_can_write_does_not_spin_on_the_peers_end)
{
    struct query_peer *other = QUERY_PEER();
    struct pool *quiet = MAKE_POOL(.codec = pool_codec_length());
    struct query meanwhile = { 0 };
    struct raw_frame frame;
    uint64_t wakeups;

    RAW_LINE(.codec = pool_codec_length(), .on_request = keep, .max_inflight = 2);
    for (uint32_t id = 1; id <= 3; id++)
        cr_assert(raw_put(id, FRAME_REQUEST, "asks"));
    cr_assert(wait_kept(2));
    pool_respond(kept[0], (struct pool_bytes){ raw_big, RAW_BIG });
    cr_assert(wait_kept(3), "there was room for the third");
    cr_assert_eq(shutdown(raw_end, SHUT_WR), 0);
    wakeups = STAT(raw_pool, wakeups);
    ask_and_wait(&meanwhile, quiet, query_peer_address(other), "D200", NULL);
    cr_expect(is_answered_with(&meanwhile, "D200"));
    cr_expect_lt(STAT(raw_pool, wakeups) - wakeups, 50, "the mux spins");
    cr_assert(raw_get(&frame));
    cr_expect_eq(frame.size, RAW_BIG);
    pool_respond(kept[1], POOL_TEXT("two"));
    pool_respond(kept[2], POOL_TEXT("three"));
    cr_expect(WAIT_STAT(raw_pool, total, 0), "then the end is heard");
    pool_destroy(quiet);
    query_peer_stop(other);
}

/* ---- what was received and not looked at */

static struct asker second_asker;
static atomic_bool second_has_asked;

static bool has_asked(void *unused)
{
    (void)unused;
    return atomic_load(&second_has_asked);
}

/* The second request chokes the line; here it gets room again, and another thread takes the
 * reader's seat before the mux can hear on. */
static void answer_both(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    keep(responder, request, user);
    if (atomic_load(&kept_count) < 2)
        return;
    pool_respond(kept[0], POOL_TEXT("one"));
    pool_respond(kept[1], POOL_TEXT("two"));
    start_asker(&second_asker, raw_pool, RAW, "second", NULL);
    wait_until(has_asked, NULL, VERBS_SOON);
}

Test(query_flood, whoever_reads_on_looks_first_at_what_was_received)
{
    struct asker first = { .query = { 0 } };
    struct raw_frame frame, second;
    uint64_t start_ms;
    char heads[3 * FRAME_HEAD];
    size_t size = 0;

    RAW_LINE(.codec = pool_codec_length(), .on_request = answer_both, .max_inflight = 2);
    cr_assert(start_asker(&first, raw_pool, RAW, "first", NULL));
    cr_assert(raw_get(&frame));
    for (unsigned i = 0; i < 3; i++)
        size += frame_write(heads + size, i < 2 ? i + 1 : frame.id,
                            i < 2 ? FRAME_REQUEST : FRAME_REPLY, "");
    start_ms = now_ms();
    cr_assert(write_exactly(raw_end, heads, sizeof(heads), VERBS_SOON));
    cr_assert(raw_get(&second));
    while (second.kind != FRAME_REQUEST)
        cr_assert(raw_get(&second));
    atomic_store(&second_has_asked, true);
    cr_expect_eq(join_asker(&first), POOL_OK);
    cr_expect_lt(elapsed_ms(start_ms), VERBS_SOON / 2);
    cr_assert(raw_put(second.id, FRAME_REPLY, "second"));
    cr_expect_eq(join_asker(&second_asker), POOL_OK);
}
