/* test_turns.c: what a hook or an actor asked for ends with its turn: its watch, its bounds, its
 * "ready", and its claim to a number that is another socket's by now. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/connection.h"
#include "pool/lent_user.h"
#include "support/asks.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

struct turn {
    struct pool_conn conn;
    enum pool_status ready;     /* what the hook is told to say */
    int answer;
    bool watches, says_ready, listens, is_late;
    atomic_uint hooked, heard, read, silences, ends;
};

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct turn *turn = user;

    (void)conn, (void)bytes;
    if (event == POOL_EV_READ)
        atomic_fetch_add(&turn->read, 1);
    else if (event == POOL_EV_TIMEOUT_READ)
        atomic_fetch_add(&turn->silences, 1);
    else if (event == POOL_EV_ERROR || event == POOL_EV_CLOSED)
        atomic_fetch_add(&turn->ends, 1);
}

static int hear(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct turn *turn = user;

    (void)message;
    if (turn->watches) {
        cr_expect_eq(pool_conn_watch(conn, on_event, turn), POOL_OK);
        cr_expect_eq(pool_conn_timeout(conn, POOL_READ, 20), POOL_OK);
    }
    turn->conn = *conn;
    atomic_fetch_add(&turn->heard, 1);
    return turn->is_late ? POOL_LATER : 0;
}

static int hook(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct turn *turn = user;

    if (turn->listens) {
        actor->on_message = hear;
        actor->user = turn;
    } else if (turn->watches) {
        cr_expect_eq(pool_conn_watch(conn, on_event, turn), POOL_OK);
    }
    if (turn->says_ready)
        pool_conn_ready(conn, turn->ready);
    turn->conn = *conn;
    atomic_fetch_add(&turn->hooked, 1);
    return turn->answer;
}

struct awaited {
    atomic_uint *count;
    unsigned least;
};

static bool has_come(void *argument)
{
    struct awaited *awaited = argument;

    return atomic_load(awaited->count) >= awaited->least;
}

static bool await(atomic_uint *count, unsigned least)
{
    return wait_until(has_come, &(struct awaited){ count, least }, VERBS_SOON);
}

#define WITH_TURN(turn, ...) \
    MAKE_POOL(.on_new_connection = hook, .user = (turn), .max_per_address = 1, __VA_ARGS__)

/* Its actor's turn is over: in the middle of one it is watched, too, and counted as idle. */
static bool is_parked(void *slot)
{
    return pl_word_state(atomic_load(&pl_connection_of(slot)->word)) == PL_PARKED;
}

Test(turns, an_actors_bound_of_silence_does_not_reach_the_next_loan)
{
    static struct turn turn = { .listens = true, .watches = true };
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 100, .own_process = true);
    struct pool *pool = WITH_TURN(&turn, .park_ms = 1);
    struct pool_conn conn;

    cr_assert_geq(leave_parked(pool, peer_address(peer)), 0);
    peer_push(peer, 0, "push", 4);
    cr_assert(await(&turn.heard, 1));
    cr_assert(wait_until(is_parked, turn.conn.slot, VERBS_SOON));
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(echo(&conn, "longer than the bound"), 0);
    cr_expect_eq(atomic_load(&turn.silences), 0, "the handle of the loan would be the actor's");
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(turns, an_actors_watch_does_not_take_what_its_next_turn_is_for)
{
    static struct turn turn = { .listens = true, .watches = true, .is_late = true };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_TURN(&turn, .park_ms = 1);

    cr_assert_geq(leave_parked(pool, peer_address(peer)), 0);
    for (unsigned i = 1; i <= 3; i++) {
        peer_push(peer, 0, "message", 7);
        cr_assert(await(&turn.heard, i));
        pool_conn_ready(&turn.conn, POOL_OK);
        cr_assert(wait_until(is_parked, turn.conn.slot, VERBS_SOON));
    }
    cr_expect_eq(atomic_load(&turn.read), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* A hook that answers 0 was not waited for: its "ready" is not kept for the actor's first half. */
Test(turns, ready_that_nobody_waits_for_is_forgotten)
{
    static struct turn turn = { .listens = true, .is_late = true, .says_ready = true };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_TURN(&turn, .park_ms = 1);
    struct pool_conn conn;

    cr_assert_geq(leave_parked(pool, peer_address(peer)), 0);
    peer_push(peer, 0, "half", 4);
    cr_assert(await(&turn.heard, 1));
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 100), &conn),
                 POOL_E_TIMEOUT, "half a message is never lent");
    pool_destroy(pool);
    peer_stop(peer);
}

Test(turns, idle_time_is_kept_after_a_late_ready)
{
    static struct turn turn = { .listens = true, .is_late = true };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_TURN(&turn, .park_ms = 1, .idle_ms = 200);

    cr_assert_geq(leave_parked(pool, peer_address(peer)), 0);
    peer_push(peer, 0, "half", 4);
    cr_assert(await(&turn.heard, 1));
    cr_assert_eq(poll(NULL, 0, 300), 0, "the actor takes longer than the connection may be idle");
    pool_conn_ready(&turn.conn, POOL_OK);
    cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_IDLE], 1));
    pool_destroy(pool);
    peer_stop(peer);
}

static void expect_one_end(struct turn *turn, uint32_t connect_ms, enum pool_status status)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_TURN(turn, .connect_ms = connect_ms);
    struct pool_conn conn;

    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = VERBS_SOON), &conn),
                 status);
    pool_destroy(pool);
    cr_expect_eq(atomic_load(&turn->ends), 1);
    peer_stop(peer);
}

Test(turns, whoever_watches_is_told_once_how_the_setup_ended)
{
    static struct turn fails = { .watches = true, .answer = -7 };
    static struct turn says = { .watches = true, .answer = POOL_LATER, .says_ready = true,
                                .ready = POOL_E_PROTOCOL };
    static struct turn sleeps = { .watches = true, .answer = POOL_LATER };

    expect_one_end(&fails, 0, POOL_E_USER);
    expect_one_end(&says, 0, POOL_E_PROTOCOL);
    expect_one_end(&sleeps, 100, POOL_E_TIMEOUT);
}

/* ---- numbers that other code took meanwhile */

/* The number is one end of a pair from now on; answers the other end. */
static int take_number(int fd)
{
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    cr_assert_eq(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
    cr_assert_eq(dup2(pair[0], fd), fd);
    close(pair[0]);
    return pair[1];
}

Test(turns, a_number_that_was_replaced_while_the_hook_took_its_time_is_left_alone)
{
    static struct turn turn = { .answer = POOL_LATER };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_TURN(&turn, .park_ms = POOL_NONE);
    struct caller caller;
    int fd, far;

    cr_assert(start_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    cr_assert(await(&turn.hooked, 1));
    fd = pool_conn_fd(&turn.conn);
    far = take_number(fd);
    pool_conn_ready(&turn.conn, POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_E_BROKEN);
    cr_expect(fcntl(fd, F_GETFL) & O_NONBLOCK, "other code's socket is as it was");
    pool_destroy(pool);
    cr_expect_eq(listen_to(far, 0), HEARD_NOTHING, "and open");
    close(fd);
    close(far);
    peer_stop(peer);
}

static bool is_put_aside(void *pool)
{
    return STAT(pool, waiting) == 1;
}

/* A borrower meets what is the actor's to hear; the mux comes to it late. */
Test(turns, an_actor_hears_nothing_of_other_codes_socket)
{
    static struct turn turn = { .listens = true };
    static struct mux_hold hold;
    struct peer *peer = PEER(.own_process = true);
    struct mux_thread mux;
    struct pool *pool;
    struct pool_conn conn;
    struct caller caller;
    int fd, far;

    cr_assert(start_mux_thread(&mux));
    pool = WITH_TURN(&turn, .mux = mux.mux, .park_ms = POOL_NONE);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_assert(hold_mux(mux.mux, &hold));
    peer_push(peer, 0, "push", 4);
    cr_assert_eq(listen_to(fd, VERBS_SOON), HEARD_BYTES);
    cr_assert(start_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    cr_assert(wait_until(is_put_aside, pool, VERBS_SOON));
    far = take_number(fd);
    cr_assert(write_exactly(far, "FOREIGN", 7, VERBS_SOON));
    let_mux_go(&hold);
    cr_expect_eq(join_caller(&caller), POOL_OK);
    cr_expect_eq(atomic_load(&turn.heard), 0);
    cr_expect_eq(listen_to(fd, 0), HEARD_BYTES, "they are still the other code's");
    cr_expect_eq(pool_return(&caller.conn), POOL_OK);
    pool_destroy(pool);
    stop_mux_thread(&mux);
    close(fd);
    close(far);
    peer_stop(peer);
}

/* What a program took over by saying that it is dead is not ended for it. */
Test(turns, what_was_marked_as_dead_is_neither_shut_down_nor_closed)
{
    struct peer *peer = PEER(.own_process = true);

    for (int i = 0; i < 2; i++) {
        struct pool *pool = MAKE_POOL(.max_per_address = 1);
        struct pool_conn conn;
        int fd;

        cr_assert(borrow(pool, peer_address(peer), &conn));
        fd = pool_conn_fd(&conn);
        cr_expect_eq(pool_mark_as_dead(pool, fd), 1);
        if (i == 0)
            pool_destroy(pool);
        cr_expect_eq(pool_return(&conn), POOL_OK);
        cr_expect(write_exactly(fd, "mine", 4, VERBS_SOON));
        cr_expect_eq(listen_to(fd, VERBS_SOON), HEARD_BYTES, "the echo of it");
        if (i == 1)
            pool_destroy(pool);
        close(fd);
    }
    peer_stop(peer);
}

static void write_late(void *argument)
{
    struct lent_user *user = argument;

    user->status = pool_write(&user->ask.conn, "ours", 4);
}

/* Not by calls that go event by event either. */
Test(turns, nothing_is_written_to_what_was_marked_as_dead)
{
    struct peer *peer = PEER(.own_process = true);
    struct lent_user *user = LENT_USER(peer, .park_ms = POOL_NONE);
    int fd = pool_conn_fd(&user->ask.conn);
    char heard[5] = "";

    lent_watch(user);
    cr_expect_eq(pool_mark_as_dead(user->pool, fd), 1);
    lent_on_mux(user, write_late);
    cr_expect_eq(user->status, POOL_E_BROKEN);
    cr_expect(write_exactly(fd, "mine", 4, VERBS_SOON));
    cr_expect_eq(listen_to(fd, VERBS_SOON), HEARD_BYTES);
    cr_expect(read_exactly(fd, heard, 4, VERBS_SOON));
    cr_expect_str_eq(heard, "mine", "and nothing before");
    lent_end(user, peer);
    close(fd);
}

/* No event may ever come of a number that other code closed. */
Test(turns, whoever_waits_for_events_hears_that_his_number_was_marked_as_dead)
{
    struct peer *peer = PEER(.own_process = true);
    struct lent_user *user = lent_user_with(peer, POOL_OPTIONS(.park_ms = POOL_NONE),
                                            POOL_CALL(.timeout_ms = POOL_NONE));
    int fd = pool_conn_fd(&user->ask.conn);

    lent_watch(user);
    close(fd);
    cr_expect_eq(pool_mark_as_dead(user->pool, fd), 1);
    cr_expect(lent_wait(&user->errors, 1));
    cr_expect_eq(user->error.status, POOL_E_BROKEN, "%s", user->error.text);
    lent_end(user, peer);
}

Test(turns, whoever_waits_for_events_hears_that_the_pool_has_his_number_for_another)
{
    struct peer *peer = PEER(.own_process = true);
    struct lent_user *user = lent_user_with(peer, POOL_OPTIONS(.park_ms = POOL_NONE),
                                            POOL_CALL(.timeout_ms = POOL_NONE));
    int fd = pool_conn_fd(&user->ask.conn);
    struct pool_conn conn;

    lent_watch(user);
    close(fd);
    cr_assert(borrow(user->pool, peer_address(peer), &conn));
    cr_assert_eq(pool_conn_fd(&conn), fd, "the test needs the number again");
    cr_expect(lent_wait(&user->errors, 1));
    cr_expect_eq(user->error.status, POOL_E_BROKEN, "%s", user->error.text);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    lent_end(user, peer);
}

static bool is_armed(void *fd)
{
    return is_watched(*(int *)fd);
}

Test(turns, what_an_actor_has_in_hand_ends_when_its_number_is_marked_as_dead)
{
    static struct turn turn = { .listens = true, .is_late = true };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_TURN(&turn, .park_ms = 1);
    int fd = leave_parked(pool, peer_address(peer));

    cr_assert_geq(fd, 0);
    peer_push(peer, 0, "half", 4);
    cr_assert(await(&turn.heard, 1));
    cr_assert(wait_until(is_armed, &fd, VERBS_SOON), "for the other half");
    close(fd);
    cr_expect_eq(pool_mark_as_dead(pool, fd), 1);
    cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_STOLEN], 1));
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}
