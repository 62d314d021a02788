/* test_events.c: the stream of events: what happened, to which connection, why, and in order. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool/raw_line.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

enum { MOST = 200000, MANY = 100000 };

struct story {
    struct pool_event_info events[MOST];
    char addresses[64][80]; /* of the first ones */
    atomic_uint count;
    atomic_int inside;
    atomic_uint overlaps;
    struct pool *pool; /* called back into, when set */
};

static struct story story;

static void note(const struct pool_event_info *event, void *user)
{
    struct story *into = user;
    unsigned at = atomic_load(&into->count);

    if (atomic_fetch_add(&into->inside, 1))
        atomic_fetch_add(&into->overlaps, 1);
    cr_expect_eq(event->size, sizeof(*event));
    if (at < MOST)
        into->events[at] = *event;
    if (at < 64)
        snprintf(into->addresses[at], sizeof(into->addresses[0]), "%s",
                 event->address ? event->address : "");
    atomic_store(&into->count, at + 1);
    atomic_fetch_sub(&into->inside, 1);
}

static const char *const names[] = { "created", "ready", "cleared", "closed", "+",   "up",
                                     "-",       "ask",   "failed",  "lent",   "back" };

/* The story so far, one word an event: kind, connection, and why it was closed. */
static const char *tell(void)
{
    static char text[4096];
    size_t size = 0;
    unsigned count = atomic_load(&story.count);

    for (unsigned i = 0; i < count && size + 32 < sizeof(text); i++) {
        const struct pool_event_info *event = &story.events[i];

        size += (size_t)snprintf(text + size, sizeof(text) - size, "%s%s", i ? " " : "",
                                 names[event->kind]);
        if (event->connection)
            size += (size_t)snprintf(text + size, sizeof(text) - size, "%llu",
                                     (unsigned long long)event->connection);
        if (event->kind == POOL_EVENT_CONNECTION_CLOSED)
            size += (size_t)snprintf(text + size, sizeof(text) - size, ":%d", (int)event->reason);
    }
    return text;
}

struct awaited {
    unsigned count;
};

static bool has_count(void *argument)
{
    const struct awaited *awaited = argument;

    return atomic_load(&story.count) >= awaited->count;
}

static void expect_story(const char *expected)
{
    struct awaited awaited = { .count = 1 };

    for (const char *at = expected; *at; at++)
        awaited.count += *at == ' ';
    wait_until(has_count, &awaited, 5000);
    cr_expect_str_eq(tell(), expected);
}

static struct pool *observed(const struct pool_options *options)
{
    struct pool_options with = *options;

    memset(&story, 0, sizeof(story));
    with.on_event = note;
    with.user = &story;
    return make_pool(&with);
}

#define OBSERVED(...) observed(POOL_OPTIONS(__VA_ARGS__))

Test(pool_events, a_pools_life_is_told_in_order)
{
    struct peer *peer = PEER();
    struct pool *pool = OBSERVED(.max_per_address = 1);

    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    pool_destroy(pool);
    expect_story("created ready ask +1 up1 lent1 back1 ask lent1 back1 -1:9 closed");
    for (unsigned i = 2; i < 10; i++)
        cr_expect_str_eq(story.addresses[i], peer_address(peer), "event %u", i);
    cr_expect_null(story.events[0].address);
    cr_expect_eq(story.overlaps, 0);
    peer_stop(peer);
}

static int refuse(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    (void)actor;
    (void)user;
    return 5;
}

Test(pool_events, failures_are_told_with_their_status)
{
    struct peer *peer = PEER();
    struct pool *pool = OBSERVED(.on_new_connection = refuse);
    struct pool_conn conn;

    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_E_USER);
    cr_expect(WAIT_STAT(pool, total, 0));
    peer_down(peer);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_E_REFUSED);
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_expect_eq(pool_borrow(pool, "tcp://nonsense", NULL, &conn), POOL_E_ADDRESS);
    pool_destroy(pool);
    for (unsigned i = 0, failed = 0, closed = 0; i < story.count; i++) {
        static const enum pool_status fails[] = { POOL_E_USER, POOL_E_REFUSED, POOL_E_ADDRESS };

        if (story.events[i].kind == POOL_EVENT_BORROW_FAILED)
            cr_expect_eq(story.events[i].status, fails[failed++]);
        else if (story.events[i].kind == POOL_EVENT_CONNECTION_CLOSED)
            cr_expect_eq(story.events[i].status, fails[closed++]);
        else
            cr_expect_eq(story.events[i].status, POOL_OK);
        if (story.events[i].kind == POOL_EVENT_CONNECTION_CLOSED)
            cr_expect_eq(story.events[i].reason, POOL_CLOSE_ERROR);
        if (i + 1 == story.count)
            cr_expect_eq(failed, 3);
        if (i + 1 == story.count)
            cr_expect_eq(closed, 2);
    }
    peer_stop(peer);
}

static int answer_five(struct pool_conn *conn, void *user)
{
    (void)conn, (void)user;
    return 5;
}

static int discard_it(struct pool_conn *conn, void *user)
{
    (void)user;
    return pool_discard(conn) + 5;
}

Test(pool_events, a_loan_that_prepare_ends_is_told_as_returned)
{
    static pool_use_fn *const ends[] = { answer_five, discard_it };
    struct peer *peer = PEER();
    struct pool_conn conn;
    struct pool *pool;

    for (unsigned i = 0; i < 2; i++) {
        pool = OBSERVED(.prepare = ends[i]);
        cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn), POOL_E_USER);
        pool_destroy(pool);
        expect_story(i ? "created ready ask +1 up1 lent1 back1 -1:6 failed closed"
                       : "created ready ask +1 up1 lent1 back1 -1:5 failed closed");
    }
    peer_stop(peer);
}

static void answer_fine(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    (void)request, (void)user;
    pool_respond(responder, (struct pool_bytes){ "fine", 4 });
}

static void expect_fine(int fd)
{
    char line[5];

    cr_assert(write_exactly(fd, "?\n", 2, VERBS_SOON));
    cr_assert(read_exactly(fd, line, sizeof(line), VERBS_SOON));
    cr_expect_eq(memcmp(line, "fine\n", sizeof(line)), 0);
}

Test(pool_events, a_connection_that_is_heard_for_requests_is_told_as_lent)
{
    uint64_t start_ms = now_ms();
    struct pool_conn conn;
    struct pool *pool = OBSERVED(.codec = raw_asking_lines(), .on_request = answer_fine,
                                 .max_per_address = 1, .park_ms = 1);
    int ends[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    cr_assert_eq(pool_adopt(pool, RAW, ends[0]), POOL_OK);
    expect_fine(ends[1]);
    cr_assert(borrow(pool, RAW, &conn));
    cr_expect_eq(pool_return(&conn), POOL_OK);
    expect_fine(ends[1]);
    close(ends[1]);
    expect_story("created ready +1 up1 lent1 ask back1 lent1 back1 lent1 back1 -1:7");
    for (unsigned i = 0; i < story.count; i++)
        cr_expect_leq(story.events[i].duration_ns / 1000000, elapsed_ms(start_ms), "event %u", i);
    pool_destroy(pool);
}

/* ---- why connections end */

static int answer_one(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_expect_eq(echo(conn, "fine"), 0);
    return 1;
}

static int read_in_vain(struct pool_conn *conn, void *user)
{
    char byte;
    size_t got;

    (void)user;
    return pool_recv(conn, &byte, 1, &got);
}

static void expect_reason(enum pool_close_reason reason, enum pool_status status)
{
    struct awaited awaited = { .count = 0 };
    unsigned ends = 0;

    for (awaited.count = 1; !ends && awaited.count < 64; awaited.count++) {
        if (!wait_until(has_count, &awaited, 5000))
            break;
        if (story.events[awaited.count - 1].kind != POOL_EVENT_CONNECTION_CLOSED)
            continue;
        ends++;
        cr_expect_eq(story.events[awaited.count - 1].reason, reason, "reason %d, not %d: %s",
                     story.events[awaited.count - 1].reason, reason, tell());
        cr_expect_eq(story.events[awaited.count - 1].status, status, "reason %d", reason);
    }
    cr_expect_eq(ends, 1, "reason %d: %s", reason, tell());
}

Test(pool_events, every_end_tells_its_reason)
{
    struct peer *peer = PEER();
    struct pool_conn conn;
    struct pool *pool;

    pool = OBSERVED(.idle_ms = 30, .park_ms = 5);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    expect_reason(POOL_CLOSE_IDLE, POOL_OK);
    pool_destroy(pool);
    pool = OBSERVED(.max_age_ms = 30, .park_ms = 5);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    expect_reason(POOL_CLOSE_AGE, POOL_OK);
    pool_destroy(pool);
    pool = OBSERVED(.max_uses = 1);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    expect_reason(POOL_CLOSE_USES, POOL_OK);
    pool_destroy(pool);
    pool = OBSERVED();
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    expect_reason(POOL_CLOSE_EVICTED, POOL_OK);
    pool_destroy(pool);
    pool = OBSERVED();
    pool_communicate(pool, peer_address(peer), read_in_vain, NULL, POOL_CALL(.timeout_ms = 30));
    expect_reason(POOL_CLOSE_ERROR, POOL_E_TIMEOUT);
    pool_destroy(pool);
    pool = OBSERVED();
    pool_communicate(pool, peer_address(peer), answer_one, NULL, NULL);
    expect_reason(POOL_CLOSE_DIRTY, POOL_OK);
    pool_destroy(pool);
    pool = OBSERVED(.park_ms = 5);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_return(&conn), POOL_OK);
    peer_close_all(peer);
    expect_reason(POOL_CLOSE_PEER, POOL_OK);
    pool_destroy(pool);
    pool = OBSERVED();
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_mark_as_dead(pool, pool_conn_fd(&conn)), 1);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    expect_reason(POOL_CLOSE_STOLEN, POOL_OK);
    pool_destroy(pool);
    pool = OBSERVED();
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    pool_destroy(pool);
    expect_reason(POOL_CLOSE_POOL, POOL_OK);
    peer_stop(peer);
}

/* ---- durations */

Test(pool_events, durations_are_those_of_the_wait_the_opening_and_the_loan)
{
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 100);
    struct pool *pool = OBSERVED(.max_per_address = 1);
    uint64_t ms;

    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    pool_destroy(pool);
    expect_story("created ready ask +1 up1 lent1 back1 -1:9 closed");
    for (unsigned i = 0; i < story.count; i++) {
        ms = story.events[i].duration_ns / 1000000;
        if (story.events[i].kind == POOL_EVENT_RETURNED)
            cr_expect(WITHIN(ms, 100, 200));
        else if (story.events[i].kind == POOL_EVENT_BORROWED ||
                 story.events[i].kind == POOL_EVENT_CONNECTION_READY)
            cr_expect(WITHIN(ms, 0, 50));
        else
            cr_expect_eq(story.events[i].duration_ns, 0);
    }
    peer_stop(peer);
}

/* ---- many threads: one at a time, and in order for each connection */

struct crowd {
    struct pool *pool;
    const char *address;
};

static void use_some(unsigned index, void *argument)
{
    const struct crowd *crowd = argument;
    struct pool_conn conn;

    for (unsigned i = 0; i < 300; i++) {
        cr_assert(borrow(crowd->pool, crowd->address, &conn));
        if (echo(&conn, "x") || (index + i) % 13 == 0)
            pool_discard(&conn);
        else
            pool_return(&conn);
    }
}

/* What may come next for a connection, by what came last. */
static bool may_follow(enum pool_event_kind last, enum pool_event_kind next)
{
    switch (next) {
    case POOL_EVENT_CONNECTION_CREATED:
        return last == POOL_EVENT_POOL_CREATED;
    case POOL_EVENT_CONNECTION_READY:
        return last == POOL_EVENT_CONNECTION_CREATED;
    case POOL_EVENT_BORROWED:
        return last == POOL_EVENT_CONNECTION_READY || last == POOL_EVENT_RETURNED;
    case POOL_EVENT_RETURNED:
        return last == POOL_EVENT_BORROWED;
    case POOL_EVENT_CONNECTION_CLOSED:
        return last != POOL_EVENT_POOL_CREATED && last != POOL_EVENT_BORROWED &&
               last != POOL_EVENT_CONNECTION_CLOSED;
    default:
        return true;
    }
}

Test(pool_events, of_many_threads_come_one_at_a_time_and_in_order_for_each_connection,
     .timeout = 120)
{
    static enum pool_event_kind last[4096];
    struct peer *peer = PEER(.own_process = true);
    struct crowd crowd = { .address = peer_address(peer),
                           .pool = OBSERVED(.max_per_address = 4, .park_ms = 1) };
    uint64_t counts[16] = { 0 };

    cr_assert(run_threads(8, use_some, &crowd));
    pool_destroy(crowd.pool);
    cr_expect_eq(story.overlaps, 0);
    cr_assert_lt(story.count, MOST);
    for (unsigned i = 0; i < story.count; i++) {
        const struct pool_event_info *event = &story.events[i];

        counts[event->kind]++;
        if (!event->connection)
            continue;
        cr_assert_lt(event->connection, 4096);
        cr_assert(may_follow(last[event->connection], event->kind),
                  "event %u: connection %llu: %s after %s", i,
                  (unsigned long long)event->connection, names[event->kind],
                  names[last[event->connection]]);
        last[event->connection] = event->kind;
    }
    cr_expect_eq(counts[POOL_EVENT_BORROW_STARTED], 8 * 300);
    cr_expect_eq(counts[POOL_EVENT_BORROWED], 8 * 300);
    cr_expect_eq(counts[POOL_EVENT_RETURNED], 8 * 300);
    cr_expect_eq(counts[POOL_EVENT_CONNECTION_CREATED], counts[POOL_EVENT_CONNECTION_CLOSED]);
    cr_expect_eq(story.events[story.count - 1].kind, POOL_EVENT_POOL_CLOSED);
    peer_stop(peer);
}

/* ---- an observer may call the pool */

struct caller_back {
    struct pool *pool;
    atomic_uint calls; /* each one makes events of its own: there must be an end */
};

static void call_back(const struct pool_event_info *event, void *user)
{
    struct caller_back *back = user;
    struct pool *pool = back->pool;
    struct pool_stats stats = { .size = sizeof(stats) };
    enum pool_status status;
    struct pool_conn conn;

    if (!pool || atomic_fetch_add(&back->calls, 1) > 100)
        return;
    cr_expect_eq(pool_stats(pool, &stats),
                 event->kind == POOL_EVENT_POOL_CLOSED ? POOL_E_CLOSING : POOL_OK);
    cr_expect_eq(stats.idle + stats.lent + stats.opening + stats.closing, stats.total);
    if (event->kind != POOL_EVENT_RETURNED)
        return;
    status = pool_borrow(pool, event->address, POOL_CALL(.timeout_ms = 1000), &conn);
    cr_expect(status == POOL_OK || status == POOL_E_WOULD_BLOCK, "%s", pool_status_name(status));
    if (status == POOL_OK)
        cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_remove_some_connection(pool);
}

Test(pool_events, an_observer_may_call_the_pool)
{
    struct peer *peer = PEER(.own_process = true);
    struct caller_back back = { .pool = NULL };

    back.pool = MAKE_POOL(.on_event = call_back, .user = &back);
    for (int i = 0; i < 50; i++)
        cr_expect_eq(talk(back.pool, peer_address(peer)), POOL_OK);
    cr_expect_gt(back.calls, 100);
    pool_destroy(back.pool);
    peer_stop(peer);
}

/* ---- whoever tells comes back */

struct spring {
    struct pool *pool;
    pthread_t caller;
    unsigned told_by_caller;
    atomic_bool has_returned; /* the caller's first call; until then there is an end */
    atomic_uint told, told_after_end;
    atomic_bool has_ended;
};

static void fail_to_borrow(struct pool *pool)
{
    struct pool_conn conn;

    cr_assert_eq(pool_borrow(pool, "tcp://nonsense", NULL, &conn), POOL_E_ADDRESS);
}

/* Each event makes the next one, as threads do that are quicker than the observer. */
static void spring_up(const struct pool_event_info *event, void *user)
{
    struct spring *spring = user;
    struct pool_conn conn;

    if (atomic_load(&spring->has_ended))
        atomic_fetch_add(&spring->told_after_end, 1);
    if (event->kind == POOL_EVENT_POOL_CLOSED)
        atomic_store(&spring->has_ended, true);
    if (event->kind != POOL_EVENT_BORROW_FAILED)
        return;
    if (pthread_equal(pthread_self(), spring->caller))
        spring->told_by_caller++;
    if (atomic_fetch_add(&spring->told, 1) < MANY || atomic_load(&spring->has_returned))
        (void)pool_borrow(spring->pool, "tcp://nonsense", NULL, &conn);
}

static bool has_told_much(void *argument)
{
    const struct spring *spring = argument;

    return atomic_load(&spring->told) >= 10000;
}

Test(pool_events, events_that_never_end_hold_up_neither_a_caller_nor_the_mux, .timeout = 60)
{
    struct peer *peer = PEER();
    struct spring spring = { .caller = pthread_self() };

    spring.pool = MAKE_POOL(.on_event = spring_up, .user = &spring);
    fail_to_borrow(spring.pool);
    cr_expect_lt(spring.told_by_caller, 1000, "the call that began it told on and on");
    atomic_store(&spring.has_returned, true);
    for (int i = 0; i < 10; i++)
        cr_expect_eq(talk(spring.pool, peer_address(peer)), POOL_OK);
    cr_expect(wait_until(has_told_much, &spring, VERBS_SOON), "%u: nobody told on", spring.told);
    pool_destroy(spring.pool);
    cr_expect(spring.has_ended);
    cr_expect_eq(spring.told_after_end, 0);
    peer_stop(peer);
}

static void call_many(unsigned index, void *argument)
{
    (void)index;
    for (unsigned i = 0; i < 3000; i++)
        fail_to_borrow(argument);
}

static void count_failed(const struct pool_event_info *event, void *user)
{
    unsigned *count = user;

    *count += event->kind == POOL_EVENT_BORROW_FAILED;
}

Test(pool_events, none_is_lost_when_another_goes_on_telling, .timeout = 60)
{
    unsigned count = 0;
    struct pool *pool = MAKE_POOL(.on_event = count_failed, .user = &count);

    cr_assert(run_threads(4, call_many, pool));
    pool_destroy(pool);
    cr_expect_eq(count, 4 * 3000);
}

Test(pool_events, nothing_is_told_after_destroy_has_returned)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool_conn conns[5];
    struct pool *pool = OBSERVED();
    unsigned count;

    for (int i = 0; i < 5; i++)
        cr_assert(borrow(pool, peer_address(peer), &conns[i]));
    pool_destroy(pool);
    count = story.count;
    cr_expect_eq(story.events[count - 1].kind, POOL_EVENT_POOL_CLOSED);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(pool_return(&conns[i]), POOL_OK);
    cr_expect_eq(story.count, count);
    peer_stop(peer);
}
