/* test_lent_return.c: how a loan to event-driven code ends, from every place: what is kept, what is
 * closed, and that nobody hears of a loan that is not his. */
#include <criterion/criterion.h>
#include <poll.h>
#include <string.h>

#include "base/os.h"
#include "pool/lent_user.h"
#include "support/peer.h"
#include "support/tests.h"

static void write_hello(void *argument)
{
    struct lent_user *user = argument;

    user->status = pool_write(&user->ask.conn, "hello", 5);
}

static void give_it_back(void *argument)
{
    struct lent_user *user = argument;

    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
}

static void throw_it_away(void *argument)
{
    struct lent_user *user = argument;

    cr_expect_eq(pool_discard(&user->ask.conn), POOL_OK);
}

/* ---- inside its own events */

Test(lent_return, inside_its_own_event_it_is_kept_warm)
{
    struct peer *peer = PEER();
    struct lent_user *user = lent_user(peer);

    user->at_read = give_it_back;
    lent_watch(user);
    lent_on_mux(user, write_hello);
    cr_expect(lent_wait_bytes(user, 5));
    cr_expect(WAIT_STAT(user->pool, idle, 1));
    cr_expect_eq(id_of_next(user->pool, peer_address(peer)), user->ask.id);
    cr_expect_eq(user->errors + user->ends, 0, "a loan that was returned has no last event");
    cr_expect_eq(user->bytes, 5, "and hears nothing of the next one");
    lent_end(user, peer);
}

Test(lent_return, inside_its_own_event_it_may_be_thrown_away)
{
    struct peer *peer = PEER();
    struct lent_user *user = lent_user(peer);

    user->at_read = throw_it_away;
    lent_watch(user);
    lent_on_mux(user, write_hello);
    cr_expect(lent_wait_bytes(user, 5));
    cr_expect(WAIT_STAT(user->pool, total, 0));
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    cr_expect_eq(user->errors + user->ends, 0);
    lent_end(user, peer);
}

static void return_and_ask_again(void *argument)
{
    struct lent_user *user = argument;
    struct pool_conn old = user->ask.conn;

    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    cr_expect_eq(pool_conn_watch(&old, lent_on_event, user), POOL_E_ARGUMENT);
    cr_expect_eq(pool_write(&old, "x", 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_borrow(user->pool, peer_address(user->ask.user), NULL, &user->ask.conn),
                 POOL_OK, "it is warm at once");
    cr_expect_eq(pool_conn_id(&user->ask.conn), user->ask.id);
}

/* What the socket still has belongs to the loan that is on now. */
Test(lent_return, and_lent_anew_inside_one_event_it_tells_the_former_nothing)
{
    struct peer *peer = PEER();
    struct lent_user *user = lent_user(peer);

    user->ask.user = peer;
    user->at_read = return_and_ask_again;
    lent_watch(user);
    lent_on_mux(user, write_hello);
    cr_expect(lent_wait_bytes(user, 5));
    lent_on_mux(user, lent_do_watch);
    cr_expect_eq(user->status, POOL_E_ARGUMENT, "the new loan is a blocking one");
    cr_expect_eq(echo(&user->ask.conn, "blocking"), 0);
    cr_expect_eq(user->bytes, 5);
    lent_end(user, peer);
}

/* ---- by another thread */

/* A door that holds the mux thread up inside one call, until the test has done what it wants to do
 * meanwhile. */
static struct pl_os slow_door;
static pthread_t slow_thread;
static atomic_bool is_slow, is_inside, may_go_on;

static bool is_set(void *argument)
{
    return atomic_load((atomic_bool *)argument);
}

static void be_slow(void)
{
    if (!pthread_equal(pthread_self(), slow_thread) || !atomic_exchange(&is_slow, false))
        return;
    atomic_store(&is_inside, true);
    wait_until(is_set, &may_go_on, VERBS_SOON);
}

static ssize_t slow_recv(int fd, void *buffer, size_t size, int flags)
{
    be_slow();
    return pl_os_real.recv(fd, buffer, size, flags);
}

static int slow_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    be_slow();
    return pl_os_real.getsockopt(fd, level, name, value, size);
}

static void make_slow(struct lent_user *user)
{
    slow_door = pl_os_real;
    slow_thread = user->mux.thread;
    atomic_store(&is_inside, false);
    atomic_store(&may_go_on, false);
}

static void make_recv_slow(void *argument)
{
    (void)argument;
    atomic_store(&is_slow, true);
}

/* The mux is just looking at the connection, which is no operation of the program's. */
Test(lent_return, by_another_thread_while_the_mux_looks_at_it_keeps_it_warm)
{
    struct peer *peer = PEER();
    struct lent_user *user = LENT_USER(peer, .max_per_address = 1);

    make_slow(user);
    slow_door.recv = slow_recv;
    pl_os_replace(&slow_door);
    user->at_read = make_recv_slow; /* the next look, which finds nothing more */
    lent_watch(user);
    lent_on_mux(user, write_hello);
    cr_assert(wait_until(is_set, &is_inside, VERBS_SOON));
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    atomic_store(&may_go_on, true);
    cr_expect_eq(id_of_next(user->pool, peer_address(peer)), 1, "closed, although it was clean");
    cr_expect_eq(user->bytes, 5);
    cr_expect_eq(user->errors + user->ends, 0);
    pl_os_replace(NULL);
    lent_end(user, peer);
}

/* The mux's interest in the socket outlives the loan by one event, at which it must not touch what
 * a thread has by then. */
Test(lent_return, leaves_a_blocking_borrower_in_peace)
{
    struct peer *peer = PEER();
    struct lent_user *user = LENT_USER(peer, .max_per_address = 1, .check = POOL_CHECK_NEVER);
    struct pool_conn conn;

    make_slow(user);
    slow_door.getsockopt = slow_getsockopt;
    lent_watch(user);
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    cr_assert(borrow(user->pool, peer_address(peer), &conn));
    pl_os_replace(&slow_door);
    atomic_store(&is_slow, true);
    cr_expect_eq(echo(&conn, "its reply is an event, too"), 0);
    wait_until(is_set, &is_inside, 100); /* in vain, if all is well */
    cr_expect_eq(pool_return(&conn), POOL_OK);
    atomic_store(&may_go_on, true);
    atomic_store(&is_slow, false);
    cr_expect_eq(id_of_next(user->pool, peer_address(peer)), 1);
    cr_expect_eq(user->reads, 0);
    pl_os_replace(NULL);
    lent_end(user, peer);
}

struct reader {
    struct pool_conn conn;
    enum pool_status status;
};

static void *read_on(void *argument)
{
    struct reader *reader = argument;
    size_t got;
    char byte;

    reader->status = pool_send(&reader->conn, "x", 1);
    if (!reader->status)
        reader->status = pool_recv(&reader->conn, &byte, 1, &got);
    return NULL;
}

static bool is_read(void *argument)
{
    return pool_conn_last_used_ns(argument) == 0;
}

/* An operation of the program's on a copy: dirty, and no event of it comes afterwards. */
Test(lent_return, while_a_thread_reads_a_copy_closes_it_without_a_word)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct lent_user *user = lent_user(peer);
    struct reader reader;
    pthread_t thread;

    lent_watch(user);
    reader.conn = user->ask.conn;
    cr_assert_eq(pthread_create(&thread, NULL, read_on, &reader), 0);
    cr_expect(peer_wait_bytes_in(peer, 1, VERBS_SOON)); /* it blocks, or is about to */
    lent_on_mux(user, give_it_back);
    pthread_join(thread, NULL);
    cr_expect(reader.status == POOL_E_ARGUMENT, "%s", pool_status_name(reader.status));
    cr_expect(WAIT_STAT(user->pool, total, 0));
    cr_expect(is_read(&reader.conn), "the handle is stale");
    lent_on_mux(user, lent_do_watch);
    cr_expect_eq(user->errors + user->ends, 0);
    lent_end(user, peer);
}

/* ---- what makes it dirty */

Test(lent_return, after_a_send_without_an_answer_it_is_closed_unless_none_is_due)
{
    for (int one_way = 0; one_way < 2; one_way++) {
        struct peer *peer = PEER(.behave = PEER_SINK);
        struct lent_user *user = lent_user_with(peer, POOL_OPTIONS(.user = NULL),
                                                POOL_CALL(.flags = one_way ? POOL_ONE_WAY : 0));

        lent_watch(user);
        lent_on_mux(user, write_hello);
        cr_expect(lent_wait(&user->written, 1));
        cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
        if (one_way)
            cr_expect(WAIT_STAT(user->pool, idle, 1));
        else
            cr_expect(WAIT_STAT(user->pool, closed[POOL_CLOSE_DIRTY], 1));
        lent_end(user, peer);
    }
}

static void stuff_and_return(void *argument)
{
    static char block[100000];
    struct lent_user *user = argument;

    while (!pool_write(&user->ask.conn, block, sizeof(block)))
        continue;
    give_it_back(user);
}

Test(lent_return, with_bytes_still_queued_it_is_closed_even_one_way)
{
    struct peer *peer = PEER(.behave = PEER_DEAF);
    struct lent_user *user =
        lent_user_with(peer, POOL_OPTIONS(.user = NULL), POOL_CALL(.flags = POOL_ONE_WAY));

    lent_watch(user);
    lent_on_mux(user, stuff_and_return);
    cr_expect(WAIT_STAT(user->pool, closed[POOL_CLOSE_DIRTY], 1));
    cr_expect_eq(user->errors + user->ends, 0);
    lent_end(user, peer);
}

/* ---- the next one */

static void set_silence(void *argument)
{
    struct lent_user *user = argument;

    cr_expect_eq(pool_conn_timeout(&user->ask.conn, POOL_READ, 30), POOL_OK);
}

Test(lent_return, takes_its_timers_and_its_watcher_along)
{
    struct peer *peer = PEER();
    struct lent_user *user =
        lent_user_with(peer, POOL_OPTIONS(.user = NULL), POOL_CALL(.timeout_ms = 150));
    struct ask next = { .is_kept = true };

    lent_watch(user);
    lent_on_mux(user, set_silence);
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    cr_expect(WAIT_STAT(user->pool, idle, 1));
    cr_assert_eq(start_ask(&next, user->pool, peer_address(peer), NULL), POOL_OK);
    cr_assert(wait_told(&next));
    cr_expect_eq(next.id, user->ask.id);
    peer_push(peer, PEER_ALL, "for the next one", 16);
    poll(NULL, 0, 250); /* all the former one's times pass */
    cr_expect_eq(user->bytes + user->silences_read + user->errors + user->ends, 0);
    user->ask.conn = next.conn;
    lent_on_mux(user, lent_do_watch);
    cr_expect_eq(user->status, POOL_OK);
    cr_expect(lent_wait_bytes(user, 16));
    cr_expect_eq(user->errors, 0, "nor has it the former one's deadline");
    lent_end(user, peer);
}

/* ---- the end of the pool */

Test(lent_return, after_the_pools_end_is_still_due_and_frees_what_is_left)
{
    int before = count_descriptors();

    for (int watched = 0; watched < 2; watched++) {
        struct peer *peer = PEER(.own_process = true, .behave = PEER_SILENT);
        struct lent_user *user = lent_user(peer);

        if (watched)
            lent_watch(user);
        pool_destroy(user->pool);
        user->pool = NULL;
        cr_expect_eq(user->errors, watched);
        cr_expect_eq(pool_send(&user->ask.conn, "x", 1), POOL_E_CLOSING);
        cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
        lent_end(user, peer);
    }
    cr_expect_eq(count_descriptors(), before);
}
