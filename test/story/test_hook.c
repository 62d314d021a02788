/* test_hook.c: what happens to a connection between its opening and its first use: the hook
 * on_new_connection, and event-driven exchanges that it begins. `prepare` is in test_prepare.c. */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* What one connection's hook does, and what was seen of it. */
struct setup {
    enum { ANSWER, READY_INSIDE, READY_IN_EVENT, READY_ELSEWHERE, NEVER, WATCH_ONLY } how;
    int answer; /* of the hook, with ANSWER */
    enum pool_status status; /* told to pool_conn_ready */
    const char *write; /* written by the hook, or NULL */
    atomic_uint hooks, reads, writtens, lasts, errors, after_last, read_timeouts, write_timeouts;
    atomic_bool is_over; /* the last event came */
    struct pool_conn conn;
    struct pool_error error;
    pthread_t self; /* the thread of the hook */
    pthread_t other;
    char heard[64];
    size_t heard_size;
};

static void *tell_ready(void *argument)
{
    struct setup *setup = argument;

    pool_conn_ready(&setup->conn, setup->status);
    return NULL;
}

static void count_event(struct setup *setup, enum pool_event event)
{
    if (atomic_load(&setup->is_over))
        atomic_fetch_add(&setup->after_last, 1);
    if (event == POOL_EV_READ)
        atomic_fetch_add(&setup->reads, 1);
    if (event == POOL_EV_WRITTEN)
        atomic_fetch_add(&setup->writtens, 1);
    if (event == POOL_EV_TIMEOUT_READ)
        atomic_fetch_add(&setup->read_timeouts, 1);
    if (event == POOL_EV_TIMEOUT_WRITE)
        atomic_fetch_add(&setup->write_timeouts, 1);
    if (event == POOL_EV_ERROR)
        atomic_fetch_add(&setup->errors, 1);
    if (event == POOL_EV_ERROR || event == POOL_EV_CLOSED) {
        atomic_fetch_add(&setup->lasts, 1);
        atomic_store(&setup->is_over, true);
    }
}

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct setup *setup = user;

    count_event(setup, event);
    if (event != POOL_EV_READ) {
        cr_expect_eq(bytes.size, 0);
        return;
    }
    cr_expect_gt(bytes.size, 0);
    if (setup->heard_size + bytes.size <= sizeof(setup->heard)) {
        memcpy(setup->heard + setup->heard_size, bytes.data, bytes.size);
        setup->heard_size += bytes.size;
    }
    if (setup->how == READY_IN_EVENT)
        pool_conn_ready(conn, setup->status);
    if (setup->how == READY_ELSEWHERE)
        cr_assert_eq(pthread_create(&setup->other, NULL, tell_ready, setup), 0);
}

static int hook(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct setup *setup = user;

    atomic_fetch_add(&setup->hooks, 1);
    cr_expect_eq(actor->size, sizeof(*actor));
    cr_expect_null((void *)(uintptr_t)actor->on_message);
    cr_expect_neq(pool_conn_id(conn), 0);
    setup->conn = *conn;
    setup->self = pthread_self();
    if (setup->how == ANSWER)
        return setup->answer;
    if (setup->how != NEVER)
        cr_expect_eq(pool_conn_watch(conn, on_event, setup), POOL_OK);
    if (setup->write)
        cr_expect_eq(pool_write(conn, setup->write, strlen(setup->write)), POOL_OK);
    if (setup->how == READY_INSIDE)
        pool_conn_ready(conn, setup->status);
    return POOL_LATER;
}

#define HOOKED(setup, ...) MAKE_POOL(.on_new_connection = hook, .user = (setup), __VA_ARGS__)

Test(hook, runs_once_for_each_connection_that_the_pool_opens_and_before_its_first_use)
{
    struct setup setup = { .how = ANSWER };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = HOOKED(&setup, .max_per_address = 8);
    struct pool_conn conns[8];

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 8; i++) {
            cr_assert(borrow(pool, peer_address(peer), &conns[i]));
            cr_expect_eq(setup.hooks, round ? 8 : i + 1);
            cr_expect_eq(echo(&conns[i], "used"), 0);
        }
        for (int i = 0; i < 8; i++)
            cr_expect_eq(pool_return(&conns[i]), POOL_OK);
    }
    cr_expect(peer_wait_exact(peer, PEER_ACCEPTED, 8, VERBS_SOON));
    cr_expect_not(pthread_equal(setup.self, pthread_self()), "it runs on the mux thread");
    pool_destroy(pool);
    peer_stop(peer);
}

static void expect_refusal(struct setup *setup, enum pool_status status, int cause)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER();
    struct pool *pool = HOOKED(setup, .max_per_address = 2);
    struct pool_conn conn;
    int before = count_descriptors();

    for (unsigned i = 0; i < 3; i++) {
        cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                     status, "%s", error.text);
        cr_expect_eq(error.phase, POOL_PHASE_SETUP);
        cr_expect_eq(error.cause, cause);
        cr_expect_eq(error.outcome, POOL_NOT_SENT);
        cr_expect(peer_wait_end(peer, i, PEER_CLOSED_BY_OTHER, VERBS_SOON));
    }
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_ERROR]), 3);
    cr_expect_eq(STAT(pool, opened), 0);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    cr_expect_eq(count_descriptors(), before);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(hook, may_refuse_a_connection_and_the_borrower_is_told)
{
    struct setup refuses = { .how = ANSWER, .answer = 42 }, fails = { .how = ANSWER, .answer = -3 };

    expect_refusal(&refuses, POOL_E_USER, 42);
    expect_refusal(&fails, POOL_E_USER, -3);
}

Test(hook, may_refuse_later_with_a_status_of_its_own)
{
    struct setup setup = { .how = READY_INSIDE, .status = POOL_E_ACCESS };

    expect_refusal(&setup, POOL_E_ACCESS, 0);
}

static void become_ready(struct setup *setup)
{
    struct peer *peer = PEER();
    struct pool *pool = HOOKED(setup, .max_per_address = 2);

    for (int i = 0; i < 5; i++)
        cr_expect_eq(id_of_next(pool, peer_address(peer)), 1, "way %d", setup->how);
    cr_expect_eq(setup->hooks, 1);
    cr_expect_eq(setup->lasts, 0, "the exchange ended when it was ready");
    if (setup->how == READY_ELSEWHERE)
        pthread_join(setup->other, NULL);
    pool_destroy(pool);
    cr_expect_eq(setup->lasts, 0, "way %d", setup->how);
    peer_stop(peer);
}

Test(hook, tells_that_it_is_ready_inside_in_an_event_or_from_another_thread)
{
    struct setup inside = { .how = READY_INSIDE };
    struct setup in_event = { .how = READY_IN_EVENT, .write = "hello" };
    struct setup elsewhere = { .how = READY_ELSEWHERE, .write = "hello" };

    become_ready(&inside);
    become_ready(&in_event);
    cr_expect_eq(in_event.heard_size, 5);
    cr_expect_eq(memcmp(in_event.heard, "hello", 5), 0);
    become_ready(&elsewhere);
}

Test(hook, that_never_answers_is_bounded_by_the_caller_and_by_connect_ms)
{
    struct setup setup = { .how = NEVER };
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER();
    struct pool *pool = HOOKED(&setup, .connect_ms = 300);
    struct pool_conn conn;
    uint64_t start_ms = now_ms();

    cr_expect_eq(
        pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 100, .error = &error), &conn),
        POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 100));
    cr_expect_eq(error.phase, POOL_PHASE_SETUP);
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_expect(IN_TIME(elapsed_ms(start_ms), 300));
    start_ms = now_ms();
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                 POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 300));
    cr_expect_eq(error.phase, POOL_PHASE_SETUP);
    pool_destroy(pool);
    peer_stop(peer);
}

/* What the peer says first is the hook's, not the first borrower's. */
Test(hook, hears_the_greeting_and_the_borrower_does_not)
{
    struct setup setup = { .how = READY_IN_EVENT };
    struct peer *peer = PEER(.behave = PEER_PUSH, .push = "welcome\n", .push_on_accept = true,
                             .interval_ms = 1000000);
    struct pool *pool = HOOKED(&setup, .max_per_address = 2);

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(setup.heard_size, 8);
    cr_expect_eq(memcmp(setup.heard, "welcome\n", 8), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- exactly one last event, in each way to end */

static bool is_over(void *argument)
{
    struct setup *setup = argument;

    return atomic_load(&setup->is_over);
}

enum ending {
    CLOSED_BY_PEER,
    RESET_BY_PEER,
    OUT_OF_TIME,
    POOL_DESTROYED,
    RESET_AFTER_BYTES,
    ENDINGS
};
static const char *const ending_names[] = { "peer closes", "peer resets", "time ends", "pool ends",
                                            "says and resets" };

static void end_it(enum ending ending, struct peer *peer, struct pool *pool)
{
    if (ending == RESET_AFTER_BYTES)
        peer_push(peer, 0, "last words", 10);
    if (ending == CLOSED_BY_PEER)
        cr_expect_eq(peer_close(peer, 0), 1);
    if (ending == RESET_BY_PEER || ending == RESET_AFTER_BYTES)
        cr_expect_eq(peer_reset(peer, 0), 1);
    if (ending == POOL_DESTROYED)
        pool_destroy(pool);
}

static void watch_to_the_end(enum ending ending, const char *write)
{
    struct setup setup = { .how = WATCH_ONLY, .write = write };
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = HOOKED(&setup, .connect_ms = ending == OUT_OF_TIME ? 200 : 5000);
    struct caller caller;

    cr_assert(queue_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    cr_assert(peer_wait_accepted(peer, 1, VERBS_SOON));
    while (!setup.hooks)
        sched_yield();
    if (write)
        cr_assert(peer_wait_bytes_in(peer, strlen(write), VERBS_SOON));
    end_it(ending, peer, pool);
    cr_expect(wait_until(is_over, &setup, VERBS_SOON), "%s: no last event", ending_names[ending]);
    cr_expect_lt(join_caller(&caller), POOL_OK, "%s", ending_names[ending]);
    if (ending != POOL_DESTROYED)
        pool_destroy(pool);
    cr_expect_eq(setup.lasts, 1, "%s: %u last events", ending_names[ending], setup.lasts);
    cr_expect_eq(setup.after_last, 0, "%s", ending_names[ending]);
    cr_expect_eq(setup.errors, ending != CLOSED_BY_PEER, "%s", ending_names[ending]);
    peer_stop(peer);
}

Test(hook, gets_exactly_one_last_event_however_it_ends)
{
    for (int ending = 0; ending < ENDINGS; ending++) {
        watch_to_the_end((enum ending)ending, NULL);
        watch_to_the_end((enum ending)ending, "half an exchange");
    }
}

/* ---- writing event by event */

struct flood {
    size_t high, low;
    size_t taken; /* by pool_write */
    unsigned fulls;
    atomic_uint writtens;
    enum pool_status first_refusal;
    atomic_bool is_full;
    bool was_taken_at_once_after;
};

static void on_flood(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct flood *flood = user;
    static char block[4096];

    (void)bytes;
    if (event != POOL_EV_WRITTEN)
        return;
    atomic_fetch_add(&flood->writtens, 1);
    flood->was_taken_at_once_after = pool_write(conn, block, sizeof(block)) == POOL_OK;
    pool_conn_ready(conn, POOL_E_CANCELED);
}

static int start_flood(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct flood *flood = user;
    static char block[4096];
    enum pool_status status = POOL_OK;

    (void)actor;
    cr_expect_eq(pool_conn_watch(conn, on_flood, flood), POOL_OK);
    while (!status) {
        status = pool_write(conn, block, sizeof(block));
        flood->taken += status ? 0 : sizeof(block);
    }
    flood->first_refusal = status;
    for (int i = 0; i < 5; i++)
        flood->fulls += pool_write(conn, "x", 1) == POOL_E_FULL;
    atomic_store(&flood->is_full, true);
    return POOL_LATER;
}

/* Memory stays below the mark; after the mark nothing is taken until it has drained. */
Test(hook, writes_up_to_the_mark_and_is_told_when_all_has_left)
{
    struct flood flood = { .high = 256 << 10, .low = 16 << 10 };
    struct peer *peer = PEER(.behave = PEER_SINK);
    struct pool *pool;
    struct caller caller;
    uint64_t sent;

    peer_pause_reading(peer);
    pool = MAKE_POOL(.on_new_connection = start_flood, .user = &flood, .write_high = 256 << 10,
                     .write_low = 16 << 10);
    cr_assert(start_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&flood.is_full))
        sched_yield();
    cr_expect_eq(flood.first_refusal, POOL_E_FULL);
    cr_expect_eq(flood.fulls, 5, "it stays full until it has drained");
    sent = STAT(pool, bytes_out);
    cr_expect_leq(flood.taken - sent, flood.high + 4096, "%zu taken, %llu sent", flood.taken,
                  (unsigned long long)sent);
    cr_expect_eq(flood.writtens, 0);
    peer_resume_reading(peer);
    cr_expect_eq(join_caller(&caller), POOL_E_CANCELED);
    cr_expect_eq(flood.writtens, 1);
    cr_expect(flood.was_taken_at_once_after);
    cr_expect(peer_wait_bytes_in(peer, flood.taken, VERBS_SOON), "what was taken arrives");
    pool_destroy(pool);
    peer_stop(peer);
}

static void on_small(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    (void)bytes;
    count_event(user, event);
    if (event == POOL_EV_WRITTEN)
        pool_conn_ready(conn, POOL_OK);
}

static int write_small(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct setup *setup = user;

    (void)actor;
    cr_expect_eq(pool_conn_watch(conn, on_small, setup), POOL_OK);
    cr_expect_eq(pool_write(conn, "one ", 4), POOL_OK);
    cr_expect_eq(pool_write(conn, "two", 3), POOL_OK);
    cr_expect_eq(setup->writtens, 0, "never on the stack of the call that asked for it");
    return POOL_LATER;
}

Test(hook, is_told_of_what_left_at_once_too_but_not_on_its_own_stack)
{
    struct setup setup = { .how = WATCH_ONLY };
    struct peer *peer = PEER(.behave = PEER_SINK);
    struct pool *pool = MAKE_POOL(.on_new_connection = write_small, .user = &setup);
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(setup.writtens, 1);
    cr_expect(peer_wait_bytes_in(peer, 7, VERBS_SOON));
    pool_return(&conn);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- silence in each direction */

static void on_silence(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                       void *user)
{
    (void)bytes;
    count_event(user, event);
    if (event == POOL_EV_TIMEOUT_READ || event == POOL_EV_TIMEOUT_WRITE)
        pool_conn_ready(conn, POOL_E_CANCELED);
}

static int bound_silence(struct pool_conn *conn, void *user, uint32_t read_ms, uint32_t write_ms)
{
    cr_expect_eq(pool_conn_watch(conn, on_silence, user), POOL_OK);
    cr_expect_eq(pool_conn_timeout(conn, POOL_READ, read_ms), POOL_OK);
    cr_expect_eq(pool_conn_timeout(conn, POOL_WRITE, write_ms), POOL_OK);
    return POOL_LATER;
}

static int bound_reading(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    return bound_silence(conn, user, 120, 3600000);
}

static int bound_writing(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    static char block[1 << 20];

    (void)actor;
    bound_silence(conn, user, 3600000, 120);
    while (pool_write(conn, block, sizeof(block)) == POOL_OK)
        ;
    return POOL_LATER;
}

static int bound_nothing(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    bound_silence(conn, user, 20, 20);
    return bound_silence(conn, user, POOL_NONE, POOL_NONE);
}

static void expect_silence(pool_new_connection_fn *bound, unsigned reads, unsigned writes)
{
    struct setup setup = { .how = WATCH_ONLY };
    struct peer *peer = PEER(.behave = PEER_DEAF);
    struct pool *pool = MAKE_POOL(.on_new_connection = bound, .user = &setup, .connect_ms = 400);
    struct pool_conn conn;
    uint64_t start_ms = now_ms();

    cr_expect_eq(pool_borrow(pool, peer_address(peer), NULL, &conn),
                 reads + writes ? POOL_E_CANCELED : POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), reads + writes ? 120 : 400));
    cr_expect_eq(setup.read_timeouts, reads);
    cr_expect_eq(setup.write_timeouts, writes);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(hook, bounds_silence_in_each_direction_by_itself)
{
    expect_silence(bound_reading, 1, 0);
    expect_silence(bound_writing, 0, 1);
    expect_silence(bound_nothing, 0, 0);
}

/* ---- what a hook may call */

static int call_what_would_wait(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct pool *pool = *(struct pool **)user;
    struct pool_stats stats = { .size = sizeof(stats) };
    struct pool_conn other;
    char byte;
    size_t got;

    (void)actor;
    cr_expect_eq(pool_borrow(pool, pool_conn_address(conn), NULL, &other), POOL_E_WOULD_BLOCK);
    cr_expect_eq(pool_communicate(pool, pool_conn_address(conn), do_nothing, NULL, NULL),
                 POOL_E_WOULD_BLOCK);
    cr_expect_eq(pool_send(conn, "x", 1), POOL_E_WOULD_BLOCK);
    cr_expect_eq(pool_recv(conn, &byte, 1, &got), POOL_E_WOULD_BLOCK);
    cr_expect_eq(pool_recv_exact(conn, &byte, 1), POOL_E_WOULD_BLOCK);
    cr_expect_eq(pool_return(conn), POOL_E_ARGUMENT, "it is not a loan");
    cr_expect_eq(pool_discard(conn), POOL_E_ARGUMENT);
    cr_expect_eq(pool_stats(pool, &stats), POOL_OK);
    cr_expect_eq(stats.opening, 1);
    cr_expect_eq(pool_remove_some_connection(pool), 0);
    cr_expect_gt(pool_conn_fd(conn), 2);
    cr_expect_gt(pool_conn_last_used_ns(conn), 0);
    return 0;
}

Test(hook, never_waits_whatever_it_calls)
{
    struct pool *pool = NULL;
    struct peer *peer = PEER();

    pool = MAKE_POOL(.on_new_connection = call_what_would_wait, .user = &pool);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- the fresh socket */

struct fresh {
    atomic_uint sockets;
    int answer;
    char address[80];
};

static int on_socket(int fd, const char *address, void *user)
{
    struct fresh *fresh = user;
    int size = 4096;

    atomic_fetch_add(&fresh->sockets, 1);
    snprintf(fresh->address, sizeof(fresh->address), "%s", address);
    cr_expect_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    return fresh->answer;
}

Test(hook, sees_each_fresh_socket_before_it_connects_and_may_refuse_it)
{
    struct fresh fresh = { .answer = 0 };
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.on_socket = on_socket, .user = &fresh);
    int size = 0, one = 0;
    socklen_t length = sizeof(int);
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_str_eq(fresh.address, peer_address(peer));
    cr_expect_eq(getsockopt(pool_conn_fd(&conn), SOL_SOCKET, SO_SNDBUF, &size, &length), 0);
    cr_expect_leq(size, 2 * 4096 + 512);
    cr_expect_eq(getsockopt(pool_conn_fd(&conn), IPPROTO_TCP, TCP_NODELAY, &one, &length), 0);
    cr_expect_eq(one, 1, "small messages are not held back");
    fresh.answer = -1;
    cr_assert_eq(pool_discard(&conn), POOL_OK);
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.error = &error), &conn),
                 POOL_E_USER);
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
    cr_expect_eq(fresh.sockets, 2);
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_expect_eq(peer_accepted(peer, 1), 1);
    pool_destroy(pool);
    peer_stop(peer);
}
