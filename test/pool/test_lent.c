/* test_lent.c: event-driven use of a loan: what its watcher hears, what ends it, and that the next
 * one hears nothing of it. Ways of giving it back are in test_lent_return.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/os.h"
#include "pool/lent_user.h"
#include "support/peer.h"
#include "support/tests.h"

static void write_hello(void *argument)
{
    struct lent_user *user = argument;

    user->status = pool_write(&user->ask.conn, "hello", 5);
}

/* ---- reading and writing */

Test(lent, what_is_written_leaves_and_what_comes_is_told)
{
    struct peer *peer = PEER();
    struct lent_user *user = LENT_USER(peer, .max_per_address = 1);

    lent_watch(user);
    lent_on_mux(user, write_hello);
    cr_expect_eq(user->status, POOL_OK);
    cr_expect(lent_wait_bytes(user, 5));
    cr_expect(lent_wait(&user->written, 1));
    cr_expect_eq(memcmp(user->text, "hello", 5), 0);
    cr_expect(pool_conn_same(&user->handle, &user->ask.conn));
    cr_expect_eq(user->written, 1);
    cr_expect_eq(user->errors + user->ends, 0);
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    cr_expect(WAIT_STAT(user->pool, idle, 1), "it is clean");
    cr_expect_eq(STAT(user->pool, bytes_in), 5);
    cr_expect_eq(STAT(user->pool, bytes_out), 5);
    cr_expect_eq(id_of_next(user->pool, peer_address(peer)), user->ask.id);
    lent_end(user, peer);
}

static void write_much(void *argument)
{
    static char much[LENT_TEXT];
    struct lent_user *user = argument;

    for (size_t i = 0; i < LENT_TEXT; i++)
        much[i] = (char)(i * 7 + i / 251);
    user->status = pool_write(&user->ask.conn, much, LENT_TEXT);
}

Test(lent, much_comes_back_whole_and_in_order)
{
    struct peer *peer = PEER(.queue_bytes = 1u << 20);
    struct lent_user *user = lent_user(peer);

    lent_watch(user);
    lent_on_mux(user, write_much);
    cr_assert(lent_wait_bytes(user, LENT_TEXT));
    for (size_t i = 0; i < LENT_TEXT; i++)
        cr_assert_eq(user->text[i], (char)(i * 7 + i / 251), "byte %zu", i);
    cr_expect(lent_wait(&user->written, 1));
    cr_expect_eq(user->written, 1);
    lent_end(user, peer);
}

/* Nothing of it leaves, and there is no memory to keep it. */
static ssize_t refuse_to_send(int fd, const void *data, size_t size, int flags)
{
    (void)fd, (void)data, (void)size, (void)flags;
    return -EAGAIN;
}

static void *refuse_memory(void *memory, size_t size)
{
    (void)memory, (void)size;
    return NULL;
}

static void write_in_vain(void *argument)
{
    static struct pl_os poor;

    poor = pl_os_real;
    poor.send = refuse_to_send;
    poor.realloc = refuse_memory;
    pl_os_replace(&poor);
    write_hello(argument);
    pl_os_replace(NULL);
}

static void do_nothing_more(void *unused)
{
    (void)unused;
}

Test(lent, what_was_refused_is_not_told_as_written)
{
    struct peer *peer = PEER();
    struct lent_user *user = lent_user(peer);

    lent_watch(user);
    lent_on_mux(user, write_in_vain);
    cr_expect_eq(user->status, POOL_E_MEMORY);
    for (size_t i = 1; i <= 2; i++) {   /* the first event looks what is due, the second tells */
        cr_assert_eq(peer_push(peer, 0, "!", 1), 1);
        cr_assert(lent_wait_bytes(user, i));
        lent_on_mux(user, do_nothing_more); /* it has ended */
    }
    cr_expect_eq(user->written, 0);
    lent_on_mux(user, write_hello);
    cr_expect_eq(user->status, POOL_OK);
    cr_expect(lent_wait(&user->written, 1));
    lent_end(user, peer);
}

/* ---- what a blocking call read ahead */

static void send_lines(struct pool_conn *conn, size_t rest)
{
    static char lines[LENT_TEXT];

    memset(lines, 'x', rest);
    memcpy(lines, "first\n", 6);
    for (size_t i = 6; i < rest; i++)
        lines[i] = (char)('a' + i % 23);
    cr_assert_eq(pool_send(conn, lines, rest), POOL_OK);
}

/* All of it in the kernel, so that one receive reads far ahead. */
static bool is_all_there(void *argument)
{
    struct lent_user *user = argument;
    int there = 0;

    return !ioctl(pool_conn_fd(&user->ask.conn), FIONREAD, &there) && (size_t)there >= user->wanted;
}

Test(lent, what_was_read_ahead_comes_first_and_leaves_no_dirt)
{
    static const size_t sizes[] = { 12, 5000, 60000 };
    struct pool_bytes line;

    for (int i = 0; i < 3; i++) {
        struct peer *peer = PEER(.queue_bytes = 1u << 20);
        struct lent_user *user = lent_user(peer);
        char whole[100];

        memset(whole, 'y', sizeof(whole));
        send_lines(&user->ask.conn, sizes[i]);
        user->wanted = sizes[i];
        cr_assert(wait_until(is_all_there, user, VERBS_SOON));
        cr_expect_eq(pool_recv_until(&user->ask.conn, "\n", 1, &line), POOL_OK);
        cr_expect_eq(line.size, 6);
        lent_watch(user);
        cr_assert(lent_wait_bytes(user, sizes[i] - 6));
        for (size_t at = 6; at < sizes[i]; at++)
            cr_assert_eq(user->text[at - 6], (char)('a' + at % 23), "byte %zu of %zu", at,
                         sizes[i]);
        cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
        cr_expect(WAIT_STAT(user->pool, idle, 1), "it is clean: %zu", sizes[i]);
        lent_end(user, peer);
    }
}

/* More than one event can tell, and more still in the socket behind it. */
Test(lent, far_more_read_ahead_than_one_event_tells_stays_in_order)
{
    enum { LINE = 40000, REST = 20000, LATER = 10000, ALL = LINE + REST + LATER };
    static char sent[ALL];
    struct peer *peer = PEER(.queue_bytes = 1u << 20);
    struct lent_user *user = LENT_USER(peer, .max_line = 1u << 20);
    struct pool_bytes line;

    for (size_t i = 0; i < ALL; i++)
        sent[i] = (char)('a' + i % 23);
    sent[LINE - 1] = '\n';
    cr_assert_eq(pool_send(&user->ask.conn, sent, LINE + REST), POOL_OK);
    user->wanted = LINE + REST;
    cr_assert(wait_until(is_all_there, user, VERBS_SOON));
    cr_assert_eq(pool_recv_until(&user->ask.conn, "\n", 1, &line), POOL_OK);
    cr_expect_eq(line.size, LINE);
    cr_assert_eq(pool_send(&user->ask.conn, sent + LINE + REST, LATER), POOL_OK);
    user->wanted = LATER;
    cr_assert(wait_until(is_all_there, user, VERBS_SOON));
    lent_watch(user);
    cr_assert(lent_wait_bytes(user, REST + LATER));
    cr_expect_eq(memcmp(user->text, sent + LINE, REST + LATER), 0, "the order is lost");
    lent_end(user, peer);
}

/* ---- time */

static void set_silences(void *argument)
{
    struct lent_user *user = argument;

    user->status = pool_conn_timeout(&user->ask.conn, POOL_READ, 40);
}

Test(lent, silence_is_told_and_closes_nothing)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct lent_user *user = lent_user(peer);

    lent_watch(user);
    lent_on_mux(user, set_silences);
    cr_expect_eq(user->status, POOL_OK);
    cr_expect(lent_wait(&user->silences_read, 1));
    cr_expect_eq(user->errors + user->ends, 0);
    peer_push(peer, PEER_ALL, "late", 4);
    cr_expect(lent_wait_bytes(user, 4));
    cr_expect(lent_wait(&user->silences_read, 2), "it counts anew from every byte");
    lent_end(user, peer);
}

static void stuff(void *argument)
{
    static char block[100000];
    struct lent_user *user = argument;

    while (!(user->status = pool_write(&user->ask.conn, block, sizeof(block))))
        continue;
    cr_expect_eq(pool_conn_timeout(&user->ask.conn, POOL_WRITE, 40), POOL_OK);
}

Test(lent, a_peer_that_does_not_read_is_told_as_silence_of_writing)
{
    struct peer *peer = PEER(.behave = PEER_DEAF);
    struct lent_user *user = LENT_USER(peer, .write_high = 1u << 20);

    lent_watch(user);
    lent_on_mux(user, stuff);
    cr_expect_eq(user->status, POOL_E_FULL);
    cr_expect(lent_wait(&user->silences_write, 1));
    cr_expect_eq(user->written, 0);
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    cr_expect(WAIT_STAT(user->pool, closed[POOL_CLOSE_DIRTY], 1), "bytes are queued");
    lent_end(user, peer);
}

Test(lent, the_deadline_of_the_call_ends_the_loan)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct lent_user *user;
    uint64_t start_ms = now_ms();

    user = lent_user_with(peer, POOL_OPTIONS(.idle_ms = 1000), POOL_CALL(.timeout_ms = 300));
    lent_watch(user);
    lent_on_mux(user, write_hello);
    cr_expect(lent_wait(&user->errors, 1));
    cr_expect(IN_TIME(elapsed_ms(start_ms), 300));
    cr_expect_eq(user->error.status, POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_eq(user->error.outcome, POOL_MAYBE_SENT);
    cr_expect_eq(user->error.cause, ETIMEDOUT);
    cr_expect_eq(STAT(user->pool, timeouts), 0, "the loan goes on");
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    cr_expect(WAIT_STAT(user->pool, closed[POOL_CLOSE_ERROR], 1));
    cr_expect_eq(STAT(user->pool, timeouts), 1);
    lent_end(user, peer);
}

static void try_again(void *argument)
{
    struct lent_user *user = argument;

    cr_expect_eq(pool_write(&user->ask.conn, "more", 4), POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_eq(pool_conn_timeout(&user->ask.conn, POOL_READ, 10), POOL_E_TIMEOUT_IN_TRANSFER);
    user->status = pool_conn_watch(&user->ask.conn, lent_on_event, user);
}

Test(lent, after_a_failure_nothing_more_can_be_begun_on_it)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct lent_user *user =
        lent_user_with(peer, POOL_OPTIONS(.idle_ms = 1000), POOL_CALL(.timeout_ms = 100));

    lent_watch(user);
    lent_on_mux(user, write_hello);
    cr_expect(lent_wait(&user->errors, 1));
    lent_on_mux(user, try_again);
    cr_expect_eq(user->status, POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_eq(user->errors, 1);
    cr_expect_eq(STAT(user->pool, bytes_out), 5);
    lent_end(user, peer);
}

static bool is_out_of_time(void *argument)
{
    struct lent_user *user = argument;
    struct pool_error error = POOL_ERROR_INIT;

    return !pool_conn_error(&user->ask.conn, &error) && error.status == POOL_E_TIMEOUT_IN_TRANSFER;
}

Test(lent, after_the_peers_end_one_may_write_until_the_deadline)
{
    struct peer *peer = PEER(.behave = PEER_HALF_CLOSE, .after_bytes = 5);
    struct lent_user *user =
        lent_user_with(peer, POOL_OPTIONS(.idle_ms = 1000), POOL_CALL(.timeout_ms = 300));

    lent_watch(user);
    lent_on_mux(user, write_hello);
    cr_expect(lent_wait(&user->ends, 1));
    cr_expect(wait_until(is_out_of_time, user, VERBS_SOON));
    lent_on_mux(user, write_hello);
    cr_expect_eq(user->status, POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_eq(user->errors, 0, "it had its last event");
    lent_end(user, peer);
}

Test(lent, a_loan_without_a_deadline_lasts)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct lent_user *user;

    user = lent_user_with(peer, POOL_OPTIONS(.idle_ms = 1000), POOL_CALL(.timeout_ms = POOL_NONE));
    lent_watch(user);
    lent_on_mux(user, set_silences);
    cr_expect(lent_wait(&user->silences_read, 1));
    cr_expect_eq(user->errors + user->ends, 0);
    lent_end(user, peer);
}

/* ---- the peer's end */

Test(lent, an_end_is_told_as_closed_and_a_reset_as_an_error)
{
    for (int reset = 0; reset < 2; reset++) {
        struct peer *peer = PEER();
        struct lent_user *user = lent_user(peer);

        lent_watch(user);
        if (reset)
            peer_reset_all(peer);
        else
            peer_close_all(peer);
        cr_expect(lent_wait(reset ? &user->errors : &user->ends, 1));
        cr_expect_eq(user->errors + user->ends, 1);
        if (reset)
            cr_expect_eq(user->error.status, POOL_E_BROKEN);
        cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
        cr_expect(WAIT_STAT(user->pool, closed[reset ? POOL_CLOSE_ERROR : POOL_CLOSE_PEER], 1));
        lent_end(user, peer);
    }
}

Test(lent, a_half_close_is_told_behind_the_bytes_and_one_may_still_write)
{
    struct peer *peer = PEER(.behave = PEER_HALF_CLOSE, .after_bytes = 5);
    struct lent_user *user = lent_user(peer);

    lent_watch(user);
    lent_on_mux(user, write_hello);
    cr_expect(lent_wait(&user->ends, 1));
    cr_expect_eq(user->bytes, 5);
    lent_on_mux(user, write_hello);
    cr_expect_eq(user->status, POOL_OK);
    cr_expect(peer_wait_bytes_in(peer, 10, VERBS_SOON));
    cr_expect_eq(user->ends, 1);
    lent_end(user, peer);
}

static int hear_nothing(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn, (void)message, (void)user;
    return 0;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)user;
    actor->on_message = hear_nothing;
    return 0;
}

/* A connection with an actor, too, is the borrower's alone: after his last event nothing keeps the
 * mux busy. */
Test(lent, after_its_last_event_the_mux_sleeps)
{
    struct peer *peer = PEER();
    struct lent_user *user = LENT_USER(peer, .on_new_connection = attach);
    uint64_t wakeups;

    lent_watch(user);
    peer_half_close_all(peer);
    cr_expect(lent_wait(&user->ends, 1));
    lent_on_mux(user, set_silences);
    wakeups = STAT(user->pool, wakeups);
    poll(NULL, 0, 200); /* a delay in which nothing may happen: there is no event of nothing */
    cr_expect_lt(STAT(user->pool, wakeups) - wakeups, 20);
    lent_end(user, peer);
}

/* ---- watermarks */

static void keep_full(void *argument)
{
    struct lent_user *user = argument;

    stuff(user);
    cr_expect_eq(pool_write(&user->ask.conn, "x", 1), POOL_E_FULL, "until it is low");
}

Test(lent, a_full_queue_takes_more_once_it_is_low)
{
    struct peer *peer = PEER(.behave = PEER_SINK);
    struct lent_user *user = LENT_USER(peer, .write_high = 1u << 20, .write_low = 1u << 10);

    peer_pause_reading(peer);
    lent_watch(user);
    lent_on_mux(user, keep_full);
    cr_expect_eq(user->status, POOL_E_FULL);
    peer_resume_reading(peer);
    cr_expect(lent_wait(&user->written, 1));
    lent_on_mux(user, write_hello);
    cr_expect_eq(user->status, POOL_OK);
    cr_expect(lent_wait(&user->written, 2));
    lent_end(user, peer);
}

/* ---- the end of the pool */

static void destroy_inside(void *argument)
{
    pool_destroy(((struct lent_user *)argument)->pool);
}

Test(lent, destroy_is_the_watchers_error_and_the_handle_is_still_good)
{
    for (int inside = 0; inside < 2; inside++) {
        struct peer *peer = PEER(.behave = PEER_SILENT);
        struct lent_user *user = lent_user(peer);

        lent_watch(user);
        if (inside)
            lent_on_mux(user, destroy_inside); /* told behind it */
        else
            pool_destroy(user->pool);
        cr_expect(!inside || lent_wait(&user->errors, 1));
        cr_expect_eq(user->errors, 1, "told before destroy came back");
        cr_expect_eq(user->ends, 0);
        cr_expect_eq(user->error.status, POOL_E_CLOSING);
        cr_expect(pool_conn_same(&user->handle, &user->ask.conn));
        cr_expect_eq(pool_return(&user->handle), POOL_OK);
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
        user->pool = NULL;
        lent_end(user, peer);
    }
}

/* ---- who may not */

static void borrow_and_watch(void *argument)
{
    struct lent_user *user = argument;
    struct pool_conn conn;

    cr_assert_eq(pool_borrow(user->pool, pool_conn_address(&user->ask.conn), NULL, &conn),
                 POOL_E_WOULD_BLOCK);
    user->status = pool_conn_watch(&user->handle, lent_on_event, user);
}

Test(lent, a_blocking_loan_and_a_stale_handle_cannot_be_watched)
{
    struct peer *peer = PEER();
    struct lent_user *user = lent_user(peer);
    struct pool_conn blocking;

    cr_assert(borrow(user->pool, peer_address(peer), &blocking));
    user->handle = blocking;
    lent_on_mux(user, borrow_and_watch);
    cr_expect_eq(user->status, POOL_E_ARGUMENT, "a thread has it");
    cr_expect_eq(pool_conn_watch(&user->ask.conn, lent_on_event, user), POOL_E_ARGUMENT,
                 "not the mux thread");
    cr_expect_eq(pool_write(&user->ask.conn, "x", 1), POOL_E_ARGUMENT);
    user->handle = user->ask.conn;
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    user->ask.conn = user->handle;
    lent_on_mux(user, lent_do_watch);
    cr_expect_eq(user->status, POOL_E_ARGUMENT, "stale");
    lent_on_mux(user, write_hello);
    cr_expect_eq(user->status, POOL_E_ARGUMENT);
    lent_on_mux(user, set_silences);
    cr_expect_eq(user->status, POOL_E_ARGUMENT);
    cr_expect_eq(echo(&blocking, "untouched"), 0);
    cr_expect_eq(pool_return(&blocking), POOL_OK);
    lent_end(user, peer);
}
