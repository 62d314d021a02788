/* test_query_tls.c: queries over TLS. The peer echoes what it is sent, so a line is answered by the
 * same line. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "pool/secure_stage.h"
#include "support/queries.h"

TestSuite(query_tls, .init = secure_stage_begin, .fini = secure_stage_end);

static atomic_uint wrong;

static void ask_own(unsigned index, void *user)
{
    char body[64];

    for (unsigned i = 0; i < 50; i++) {
        struct query query = { 0 };

        snprintf(body, sizeof(body), "own %u of %u", i, index);
        ask_and_wait(&query, pool, user, body, NULL);
        if (!is_answered_with(&query, body))
            atomic_fetch_add(&wrong, 1);
    }
}

Test(query_tls, threads_share_one_connection_and_each_gets_its_own)
{
    char address[64];

    START_PEER();
    SECURE_POOL(.codec = pool_codec_line());
    snprintf(address, sizeof(address), "%s", secure_at(""));
    cr_assert(run_threads(20, ask_own, address));
    cr_expect_eq(wrong, 0);
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

Test(query_tls, many_are_in_flight)
{
    static struct query queries[500];
    char address[64], body[64];

    START_PEER();
    SECURE_POOL(.codec = pool_codec_line());
    snprintf(address, sizeof(address), "%s", secure_at(""));
    for (unsigned i = 0; i < 500; i++) {
        snprintf(body, sizeof(body), "own %u", i);
        cr_assert_eq(start_query(&queries[i], pool, address, body, NULL), POOL_OK);
    }
    for (unsigned i = 0; i < 500; i++) {
        snprintf(body, sizeof(body), "own %u", i);
        cr_assert(wait_answered(&queries[i]));
        cr_expect(is_answered_with(&queries[i], body));
    }
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

Test(query_tls, a_line_goes_back_and_is_borrowed)
{
    struct query query = { 0 };

    START_PEER();
    SECURE_POOL(.codec = pool_codec_line(), .park_ms = 20);
    ask_and_wait(&query, pool, secure_at(""), "first", NULL);
    cr_expect(is_answered_with(&query, "first"));
    cr_expect(WAIT_STAT(pool, idle, 1));
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    query = (struct query){ 0 };
    ask_and_wait(&query, pool, secure_at(""), "again", NULL);
    cr_expect(is_answered_with(&query, "again"));
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

Test(query_tls, tickets_and_key_updates_disturb_no_query)
{
    struct query held = { 0 }, query = { 0 };

    START_PEER();
    SECURE_POOL(.codec = pool_codec_line());
    for (unsigned i = 0; i < 20; i++) {
        query = (struct query){ 0 };
        ask_and_wait(&query, pool, secure_at(""), "again", NULL);
        cr_expect(is_answered_with(&query, "again"));
        held = (struct query){ 0 };
        cr_assert_eq(start_query(&held, pool, secure_at(""), "held", NULL), POOL_OK);
        tls_peer_tell(tls_peer, i % 2 ? ORDER_TICKET : ORDER_KEY_UPDATE);
        cr_assert(wait_answered(&held));
        cr_expect(is_answered_with(&held, "held"));
    }
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

static atomic_bool is_free;

static bool may_go_on(void *unused)
{
    (void)unused;
    return atomic_load(&is_free);
}

static void hold_the_mux(struct query *query)
{
    (void)query;
    wait_until(may_go_on, NULL, VERBS_SOON);
}

/* Threads that can be canceled leave the reading to the mux, which is held up meanwhile. */
Test(query_tls, what_came_in_several_records_at_once_is_all_heard)
{
    struct pool_ticket *tickets[5];
    struct asker askers[5] = { { .query = { 0 } } };
    struct query first = { .then = hold_the_mux };
    char address[64];

    START_PEER();
    SECURE_POOL(.codec = pool_codec_line(), .park_ms = 60000);
    snprintf(address, sizeof(address), "%s", secure_at(""));
    cr_assert_eq(start_query(&first, pool, address, "first", NULL), POOL_OK);
    cr_assert(WAIT_STAT(pool, bytes_in, 6));
    for (unsigned i = 0; i < 5; i++)
        cr_assert(start_asker(&askers[i], pool, address, "own record",
                              POOL_CALL(.timeout_ms = VERBS_SOON / 2, .ticket = &tickets[i])));
    cr_assert(let_peer_take_time(200));
    atomic_store(&is_free, true);
    for (unsigned i = 0; i < 5; i++) {
        cr_expect_eq(join_asker(&askers[i]), POOL_OK);
        cr_expect(is_answered_with(&askers[i].query, "own record"));
        pool_ticket_free(tickets[i]);
    }
    cr_expect(wait_answered(&first));
}

/* The record that TLS holds goes on where it stopped, whatever was taken back behind it. */
Test(query_tls, what_runs_out_of_time_behind_a_peer_that_does_not_read_disturbs_no_other)
{
    static char body[4000001];
    static struct query stuck, hurried[50], patient[50];
    char bodies[50][16];

    memset(body, 'x', sizeof(body) - 1);
    START_PEER();
    SECURE_POOL(.codec = pool_codec_line());
    ask_and_wait(&stuck, pool, secure_at(""), "warm", NULL);
    stuck = (struct query){ 0 };
    tls_peer_tell(tls_peer, ORDER_DEAF);
    cr_assert_eq(start_query(&stuck, pool, secure_at(""), body, NULL), POOL_OK);
    for (unsigned i = 0; i < 50; i++) {
        snprintf(bodies[i], sizeof(bodies[i]), "patient %u", i);
        cr_assert_eq(start_query(&hurried[i], pool, secure_at(""), "hurried",
                                 POOL_CALL(.timeout_ms = 30)),
                     POOL_OK);
        cr_assert_eq(start_query(&patient[i], pool, secure_at(""), bodies[i], NULL), POOL_OK);
    }
    for (unsigned i = 0; i < 50; i++)
        cr_assert(wait_answered(&hurried[i]));
    tls_peer_tell(tls_peer, ORDER_NOTHING);
    for (unsigned i = 0; i < 50; i++) {
        cr_assert(wait_answered(&patient[i]));
        cr_expect(is_answered_with(&patient[i], bodies[i]));
        cr_expect_neq(hurried[i].status, POOL_OK);
    }
    cr_assert(wait_answered(&stuck));
    cr_expect_eq(stuck.size, sizeof(body) - 1);
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

Test(query_tls, the_peers_end_fails_what_is_in_flight_once)
{
    static const char *const ends[] = { ORDER_GOODBYE, ORDER_CUT, ORDER_RESET };

    START_PEER();
    SECURE_POOL(.codec = pool_codec_line());
    for (unsigned i = 0; i < 3; i++) {
        struct query query = { 0 }, next = { 0 };

        ask_and_wait(&next, pool, secure_at(""), "warm", NULL);
        cr_expect(is_answered_with(&next, "warm"));
        tls_peer_tell(tls_peer, ORDER_DEAF);
        cr_assert_eq(start_query(&query, pool, secure_at(""), "in flight", NULL), POOL_OK);
        tls_peer_tell(tls_peer, ends[i]);
        cr_assert(wait_answered(&query));
        cr_expect_eq(query.told, 1);
        cr_expect(query.status == POOL_E_CLOSED || query.status == POOL_E_BROKEN ||
                      query.status == POOL_OK,
                  "%s", query.error.text);
        next = (struct query){ 0 };
        ask_and_wait(&next, pool, secure_at(""), "next", NULL);
        cr_expect(is_answered_with(&next, "next"));
    }
}

/* Lines whose requests are sent as they are. */
static enum pool_status encode_bare(void *state, enum pool_message_kind kind, uint64_t key,
                                    struct pool_bytes body, struct pool_out *out,
                                    struct pool_expect *expect)
{
    (void)state, (void)kind, (void)key;
    expect->replies = 1;
    return pool_out_append(out, body.data, body.size);
}

static void expect_cut(const struct query *query)
{
    cr_expect_eq(query->status, POOL_E_BROKEN);
    cr_expect_eq(query->error.phase, POOL_PHASE_REPLY);
    cr_expect(strstr(query->error.text, "no close_notify came"), "%s", query->error.text);
}

Test(query_tls, who_is_cut_off_learns_that_there_was_no_goodbye)
{
    static struct pool_codec bare;
    struct query waited = { 0 }, told = { 0 };

    bare = *pool_codec_line();
    bare.encode = encode_bare;
    START_PEER();
    SECURE_POOL(.codec = &bare);
    ask_and_wait(&waited, pool, secure_at(""), ORDER_CUT, NULL);
    expect_cut(&waited);
    cr_assert_eq(start_query(&told, pool, secure_at(""), ORDER_CUT, NULL), POOL_OK);
    cr_assert(wait_answered(&told));
    expect_cut(&told);
}

/* The socket says nothing more once its bytes were taken: what OpenSSL read ahead is asked for. */
Test(query_tls, replies_in_several_records_that_came_at_once_are_all_heard)
{
    struct query queries[3] = { { 0 } };
    char address[64], body[16];

    START_PEER(.record_size = 8);
    SECURE_POOL(.codec = pool_codec_line());
    snprintf(address, sizeof(address), "%s", secure_at(""));
    for (unsigned i = 0; i < 3; i++) {
        snprintf(body, sizeof(body), "reply %u", i);
        cr_assert_eq(start_query(&queries[i], pool, address, body, NULL), POOL_OK);
    }
    for (unsigned i = 0; i < 3; i++) {
        snprintf(body, sizeof(body), "reply %u", i);
        cr_assert(wait_answered(&queries[i]));
        cr_expect(is_answered_with(&queries[i], body));
    }
}

Test(query_tls, a_reload_ends_a_line_that_carries_nothing)
{
    struct query query = { 0 };

    START_PEER();
    SECURE_POOL(.codec = pool_codec_line(), .park_ms = 60000);
    ask_and_wait(&query, pool, secure_at(""), "before", NULL);
    cr_expect(is_answered_with(&query, "before"));
    cr_assert_eq(pool_tls_reload(trust, POOL_TLS_OPTIONS(.ca_pem = authority->certificate), NULL),
                 POOL_OK);
    cr_expect(WAIT_STAT(pool, total, 0));
}

static struct pl_os door;
static int sent_to;
static unsigned sent;

static ssize_t note_sent(int fd, const void *data, size_t size, int flags)
{
    sent_to = fd;
    sent++;
    return pl_os_real.send(fd, data, size, flags);
}

static bool has_come(short events)
{
    struct pollfd polled = { .fd = sent_to, .events = events };

    return poll(&polled, 1, VERBS_SOON) == 1;
}

/* The reply is there, and then a reset, before the mux looks; it writes first. */
Test(query_tls, what_has_come_before_a_write_that_fails_is_told)
{
    struct query first = { 0 }, query = { 0 }, last = { 0 };
    struct pool_mux *mux;
    unsigned before;

    START_PEER(.tickets = -1);
    door = pl_os_real;
    door.send = note_sent;
    pl_os_replace(&door);
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    SECURE_POOL(.mux = mux, .codec = pool_codec_line(), .park_ms = 60000);
    cr_assert_eq(start_query(&first, pool, secure_at(""), "first", NULL), POOL_OK);
    cr_assert(dispatch_until_answered(mux, &first));
    before = sent;
    cr_assert_eq(start_query(&query, pool, secure_at(""), "query", NULL), POOL_OK);
    cr_assert_gt(sent, before, "it is written at once, and nobody reads");
    cr_assert(has_come(POLLIN));
    tls_peer_tell(tls_peer, ORDER_RESET);
    cr_assert(has_come(0));
    cr_assert_eq(start_query(&last, pool, secure_at(""), "last", NULL), POOL_OK);
    cr_assert(dispatch_until_answered(mux, &last));
    cr_expect(is_answered_with(&query, "query"));
    cr_expect(is_answered_with(&last, "last"));
    pool_destroy(pool);
    pool = NULL;
    pool_mux_destroy(mux);
    pl_os_replace(NULL);
}
