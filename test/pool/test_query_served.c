/* test_query_served.c: what lies on a connection before its first query, and what still lies there
 * after its last one. */
#include <criterion/criterion.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool/raw_line.h"

static void answer_nothing(struct pool_responder *responder, struct pool_bytes body, void *user)
{
    (void)body;
    (void)user;
    pool_respond(responder, text_bytes("nothing"));
}

/* The mux is ours, and has not run yet: the query comes before what lies there was looked at. */
Test(query_served, what_came_before_the_first_query_answers_nobody)
{
    struct query query = { 0 };
    struct pool_mux *mux;
    struct pool *pool;
    int ends[2];

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = make_pool(POOL_OPTIONS(.mux = mux, .codec = pool_codec_line(), .max_per_address = 1,
                                  .backoff_first_ms = POOL_ZERO, .suspend_after = POOL_ZERO,
                                  .on_request = answer_nothing));
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    cr_assert_eq(write(ends[1], "stale\n", 6), 6);
    cr_assert_eq(pool_adopt(pool, RAW, ends[0]), POOL_OK);
    cr_assert_eq(start_query(&query, pool, RAW, "query", NULL), POOL_OK);
    cr_assert_eq(write(ends[1], "fresh\n", 6), 6);
    cr_assert(dispatch_until_answered(mux, &query));
    cr_expect_neq(query.status, POOL_OK, "%s", query.text);
    pool_destroy(pool);
    pool_mux_destroy(mux);
    close(ends[1]);
}

static void *borrow_for_long(void *borrowed)
{
    struct pool_conn conn;

    if (pool_borrow(raw_pool, RAW, POOL_CALL(.timeout_ms = VERBS_SOON), &conn) == POOL_OK) {
        *(bool *)borrowed = true;
        pool_return(&conn);
    }
    return NULL;
}

/* A request without a reply was accepted, and the socket is full; then somebody wants the
 * connection. */
Test(query_served, what_was_accepted_is_sent_before_the_connection_goes)
{
    static char request[400000], got[65536];
    static const char head[] = "set key 0 0 300000 noreply\r\n";
    size_t size = sizeof(head) - 1 + 300000 + 2, total = 0;
    struct pollfd readable = { .events = POLLIN };
    bool borrowed = false;
    pthread_t thread;

    RAW_LINE(.codec = pool_codec_memcached());
    readable.fd = raw_end;
    memset(request, 'x', size);
    memcpy(request, head, sizeof(head) - 1);
    memcpy(request + size - 2, "\r\n", 2);
    cr_assert_eq(pool_post_request(raw_pool, RAW, (struct pool_bytes){ request, size }, NULL),
                 POOL_OK);
    cr_assert_eq(poll(&readable, 1, VERBS_SOON), 1); /* the mux has the connection opened for it */
    pthread_create(&thread, NULL, borrow_for_long, &borrowed);
    cr_assert(WAIT_STAT(raw_pool, waiting, 1));
    while (total < size) {
        ssize_t more = poll(&readable, 1, VERBS_SOON) == 1 ? read(raw_end, got, sizeof(got)) : -1;

        cr_assert_gt(more, 0, "after %zu bytes", total);
        total += (size_t)more;
    }
    pthread_join(thread, NULL);
    cr_expect(borrowed);
    raw_line_end();
}

/* ---- requests of the peer's, answered in order */

static struct pool_responder *kept[4];
static atomic_uint kept_count;

static void keep(struct pool_responder *responder, struct pool_bytes body, void *user)
{
    (void)body, (void)user;
    kept[atomic_load(&kept_count)] = responder;
    atomic_fetch_add(&kept_count, 1);
}

static bool are_kept(void *count)
{
    return atomic_load(&kept_count) == *(unsigned *)count;
}

static void begin_being_asked(unsigned count)
{
    RAW_LINE(.codec = raw_asking_lines(), .on_request = keep, .max_message = 1000,
             .write_high = 100);
    for (unsigned i = 0; i < count; i++)
        cr_assert(write_exactly(raw_end, "?\n", 2, VERBS_SOON));
    cr_assert(wait_until(are_kept, &count, VERBS_SOON));
}

Test(query_served, answers_leave_in_the_order_of_the_requests_where_no_key_tells_them_apart)
{
    static const char *const expected[] = { "zero", "one", "two", "three" };
    char line[32];

    begin_being_asked(4);
    pool_respond(kept[2], text_bytes("two"));
    pool_respond_error(kept[1], text_bytes("one"));
    pool_respond(kept[0], text_bytes("zero"));
    pool_respond(kept[3], text_bytes("three"));
    for (unsigned i = 0; i < 4; i++) {
        cr_assert(raw_get_line(line, sizeof(line)));
        cr_expect_str_eq(line, expected[i]);
    }
    raw_line_end();
}

/* Some have an answer that waits for its turn, one has none yet. */
Test(query_served, answers_whose_turn_never_came_go_with_the_line)
{
    begin_being_asked(3);
    pool_respond(kept[2], text_bytes("two"));
    pool_respond(kept[1], text_bytes("one"));
    raw_line_end();
    pool_respond(kept[0], text_bytes("too late"));
}

Test(query_served, answers_that_wait_for_their_turn_are_bounded)
{
    static char big[600];
    char line[32];

    begin_being_asked(4);
    for (unsigned i = 3; i; i--)
        pool_respond(kept[i], (struct pool_bytes){ big, sizeof(big) });
    cr_expect_not(raw_get_line(line, sizeof(line)), "the connection has ended");
    pool_respond(kept[0], text_bytes("too late"));
    raw_line_end();
}

Test(query_served, answers_that_were_kept_within_the_bound_all_leave)
{
    static char body[991], line[1024];

    memset(body, 'x', sizeof(body));
    begin_being_asked(3);
    pool_respond(kept[2], (struct pool_bytes){ body, 500 });
    pool_respond(kept[1], (struct pool_bytes){ body, 500 });
    pool_respond(kept[0], (struct pool_bytes){ body, 990 });
    for (unsigned i = 0; i < 3; i++) {
        cr_assert(raw_get_line(line, sizeof(line)), "%u", i);
        cr_expect_eq(strlen(line), i ? 500 : 990);
    }
    raw_line_end();
}
