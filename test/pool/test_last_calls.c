/* test_last_calls.c: what a pool tells when a connection or the pool itself ends: everything, once,
 * and nothing after its end. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/os.h"
#include "net/connection.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* ---- actors */

struct ends {
    atomic_uint count;
    atomic_bool is_over; /* the pool's end came back */
    atomic_uint late;
};

static int hear(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn, (void)message, (void)user;
    return 0;
}

static void hear_the_end(uint64_t connection, const struct pool_error *error, void *user)
{
    struct ends *ends = user;

    (void)connection, (void)error;
    atomic_fetch_add(&ends->count, 1);
    if (atomic_load(&ends->is_over))
        atomic_fetch_add(&ends->late, 1);
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = hear;
    actor->on_close = hear_the_end;
    actor->user = user;
    return 0;
}

/* ---- a thread that is held up in the kernel while the pool ends on another one */

struct ending {
    struct pool *pool;
    struct pool_conn conn;
    struct ends ends;
    pthread_t ender;
};

static struct pl_os door;
static struct ending *held_up; /* by what the door's next call does */
static _Atomic int held_fd;
static atomic_bool is_inside;

static void *end_pool(void *user)
{
    struct ending *ending = user;

    pool_destroy(ending->pool);
    atomic_store(&ending->ends.is_over, true);
    return NULL;
}

static bool is_over(void *user)
{
    return atomic_load(&((struct ending *)user)->ends.is_over);
}

/* Ends the pool, here and now, as far as it gets without this thread. */
static void end_meanwhile(void)
{
    struct ending *ending = held_up;

    held_up = NULL;
    cr_assert_eq(pthread_create(&ending->ender, NULL, end_pool, ending), 0);
    wait_until(is_over, ending, 200);
}

static int end_in_close(int fd)
{
    if (fd == atomic_load(&held_fd) && held_up && !atomic_exchange(&is_inside, true))
        end_meanwhile();
    return pl_os_real.close(fd);
}

static ssize_t end_in_peek(int fd, void *buffer, size_t size, int flags)
{
    if (fd == atomic_load(&held_fd) && held_up && (flags & MSG_PEEK) &&
        !atomic_exchange(&is_inside, true))
        end_meanwhile();
    return pl_os_real.recv(fd, buffer, size, flags);
}

static void begin(struct ending *ending, const struct peer *peer)
{
    pl_os_replace(&door);
    ending->pool = MAKE_POOL(.on_new_connection = attach, .user = &ending->ends,
                             .check = POOL_CHECK_ALWAYS, .park_ms = POOL_NONE);
    cr_assert(borrow(ending->pool, peer_address(peer), &ending->conn));
    atomic_store(&held_fd, pool_conn_fd(&ending->conn));
    held_up = ending;
}

static void expect_one_end(struct ending *ending)
{
    pthread_join(ending->ender, NULL);
    cr_expect_eq(atomic_load(&ending->ends.count), 1);
    cr_expect_eq(atomic_load(&ending->ends.late), 0, "nothing is told after the pool's end");
}

Test(last_calls, the_pools_end_waits_for_one_that_another_thread_is_about_to_cause)
{
    static struct ending ending;
    struct peer *peer = PEER(.own_process = true);

    door = pl_os_real;
    door.close = end_in_close;
    begin(&ending, peer);
    cr_expect_eq(pool_discard(&ending.conn), POOL_OK);
    expect_one_end(&ending);
    peer_stop(peer);
}

/* The pool ends while a borrower looks at what is there for the actor, who has had his last call
 * then. */
Test(last_calls, a_borrower_who_meets_an_actors_data_after_the_end_reaches_no_actor)
{
    static struct ending ending;
    struct peer *peer = PEER(.own_process = true);
    struct pool_conn conn;

    door = pl_os_real;
    door.recv = end_in_peek;
    begin(&ending, peer);
    cr_assert_eq(pool_return(&ending.conn), POOL_OK);
    peer_push(peer, 0, "push", 4);
    cr_assert_eq(listen_to(atomic_load(&held_fd), VERBS_SOON), HEARD_BYTES);
    cr_expect_eq(pool_borrow(ending.pool, peer_address(peer), NULL, &conn), POOL_E_CLOSING);
    expect_one_end(&ending);
    peer_stop(peer);
}

/* ---- observers */

struct seen {
    atomic_uint borrowed, returned, closed;
};

static void observe(const struct pool_event_info *event, void *user)
{
    struct seen *seen = user;

    if (event->kind == POOL_EVENT_BORROWED)
        atomic_fetch_add(&seen->borrowed, 1);
    else if (event->kind == POOL_EVENT_RETURNED)
        atomic_fetch_add(&seen->returned, 1);
    else if (event->kind == POOL_EVENT_CONNECTION_CLOSED)
        atomic_fetch_add(&seen->closed, 1);
}

static bool has_closed(void *user)
{
    return atomic_load(&((struct seen *)user)->closed) > 0;
}

Test(last_calls, observers_hear_at_once_of_what_was_marked_as_dead)
{
    static struct seen seen;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.on_event = observe, .user = &seen);
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(pool_mark_as_dead(pool, fd), 1);
    cr_expect(wait_until(has_closed, &seen, VERBS_SOON));
    pool_destroy(pool);
    peer_stop(peer);
}

static void *receive(void *copy)
{
    char byte;

    cr_expect_eq(pool_recv_exact(copy, &byte, 1), POOL_E_ARGUMENT);
    return NULL;
}

static bool is_reading(void *conn)
{
    const struct pool_conn *handle = conn;

    return pl_word_pins(atomic_load(&pl_connection_of(handle->slot)->word)) > 0;
}

Test(last_calls, observers_hear_of_a_return_beside_an_operation_and_of_its_close)
{
    static struct seen seen;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.on_event = observe, .user = &seen);
    struct pool_conn conn, copy;
    pthread_t thread;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    copy = conn;
    cr_assert_eq(pthread_create(&thread, NULL, receive, &copy), 0);
    cr_assert(wait_until(is_reading, &copy, VERBS_SOON));
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(atomic_load(&seen.returned), 1, "with the call that returned it");
    pthread_join(thread, NULL);
    cr_expect(wait_until(has_closed, &seen, VERBS_SOON), "with the operation that ended last");
    pool_destroy(pool);
    cr_expect_eq(atomic_load(&seen.borrowed), 1);
    cr_expect_eq(atomic_load(&seen.returned), 1);
    cr_expect_eq(atomic_load(&seen.closed), 1);
    peer_stop(peer);
}

/* ---- pool and mux at once */

struct both {
    struct pool *pool;
    struct pool_mux *mux;
    unsigned told;
    enum pool_status status;
};

static void hear_of_the_call(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct both *both = user;

    (void)conn;
    both->told++;
    both->status = error ? error->status : POOL_OK;
}

static void call_and_end_both(void *user)
{
    struct both *both = user;

    cr_expect_eq(pool_communicate_async(both->pool, "tcp://127.0.0.1:1", hear_of_the_call, both,
                                        NULL, NULL),
                 POOL_OK);
    pool_destroy(both->pool);
    pool_mux_destroy(both->mux);
}

Test(last_calls, are_made_in_the_batch_whose_callback_ends_both_the_pool_and_its_mux)
{
    int before = count_descriptors();
    struct both both = { .told = 0 };

    cr_assert_eq(pool_mux_create(&both.mux), POOL_OK);
    both.pool = MAKE_POOL(.mux = both.mux);
    cr_assert_eq(pool_mux_post(both.mux, call_and_end_both, &both), POOL_OK);
    cr_assert_eq(pool_mux_dispatch(both.mux, VERBS_SOON), POOL_OK);
    cr_expect_eq(both.told, 1);
    cr_expect_eq(both.status, POOL_E_CLOSING);
    cr_expect_eq(count_descriptors(), before);
}
