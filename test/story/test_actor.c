/* test_actor.c: an actor receives what nobody asked for while its connection is idle; what comes
 * during a loan is the borrower's; and half a message is never lent. test_pubsub.c has the same on
 * a real Redis. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "support/asks.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* Frames of eight bytes, "F" and a number. */
enum { FRAME = 8, MOST = 4096 };

struct inbox {
    char bytes[MOST * FRAME];
    atomic_size_t size;
    atomic_uint messages, ends;
    atomic_bool drains, answers;
    uint64_t ended_id;
    bool has_error;
    struct pool_error error;
};

static int hear(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct inbox *inbox = user;
    size_t size = atomic_load(&inbox->size);

    cr_expect_gt(message.size, 0);
    if (size + message.size > sizeof(inbox->bytes))
        return 0;
    memcpy(inbox->bytes + size, message.data, message.size);
    atomic_store(&inbox->size, size + message.size);
    atomic_fetch_add(&inbox->messages, 1);
    if (atomic_load(&inbox->drains))
        pool_conn_drain(conn);
    if (atomic_load(&inbox->answers))
        cr_expect_eq(pool_write(conn, "answer..", FRAME), POOL_OK);
    return (size + message.size) % FRAME ? POOL_LATER : 0;
}

static void hear_the_end(uint64_t connection, const struct pool_error *error, void *user)
{
    struct inbox *inbox = user;

    inbox->ended_id = connection;
    inbox->has_error = error != NULL;
    if (error)
        inbox->error = *error;
    atomic_fetch_add(&inbox->ends, 1);
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = hear;
    actor->on_close = hear_the_end;
    actor->user = user;
    return 0;
}

#define WITH_ACTOR(inbox, ...) MAKE_POOL(.on_new_connection = attach, .user = (inbox), __VA_ARGS__)

struct expected {
    struct inbox *inbox;
    size_t size;
    unsigned ends;
};

static bool has_heard(void *argument)
{
    struct expected *expected = argument;

    return atomic_load(&expected->inbox->size) >= expected->size &&
           atomic_load(&expected->inbox->ends) >= expected->ends;
}

static bool wait_heard(struct inbox *inbox, size_t size)
{
    struct expected expected = { .inbox = inbox, .size = size };

    return wait_until(has_heard, &expected, VERBS_SOON);
}

/* All that was pushed waits in the socket or was heard: it may have been held back on its way. */
struct arrival {
    struct inbox *inbox;
    int fd;
    size_t size;
};

static bool has_arrived(void *argument)
{
    struct arrival *arrival = argument;
    int waiting = 0;

    return ioctl(arrival->fd, FIONREAD, &waiting) == 0 &&
           atomic_load(&arrival->inbox->size) + (size_t)waiting >= arrival->size;
}

static bool wait_arrived(int fd, struct inbox *inbox, size_t size)
{
    struct arrival arrival = { .inbox = inbox, .fd = fd, .size = size };

    return wait_until(has_arrived, &arrival, VERBS_SOON);
}

static bool wait_ended(struct inbox *inbox, unsigned ends)
{
    struct expected expected = { .inbox = inbox, .ends = ends };

    return wait_until(has_heard, &expected, VERBS_SOON);
}

static void push_frames(struct peer *peer, unsigned first, unsigned count)
{
    char frame[32];

    for (unsigned i = first; i < first + count; i++) {
        snprintf(frame, sizeof(frame), "F%06u\n", i);
        cr_assert_eq(peer_push(peer, 0, frame, FRAME), 1);
    }
}

static void expect_frames(const struct inbox *inbox, unsigned count)
{
    unsigned number;

    cr_expect_eq(atomic_load(&inbox->size), count * FRAME);
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(sscanf(inbox->bytes + i * FRAME, "F%06u\n", &number), 1, "frame %u", i);
        cr_assert_eq(number, i);
    }
}

/* One idle connection; answers its descriptor. */
static int leave_idle(struct pool *pool, struct peer *peer)
{
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return fd;
}

/* A thousand frames between borrows: the actor gets them all, the borrowers none. */
static void push_between_borrows(uint32_t park_ms)
{
    static struct inbox inbox;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool;
    int fd;

    inbox = (struct inbox){ .ends = 0 };
    pool = WITH_ACTOR(&inbox, .max_per_address = 1, .park_ms = park_ms);
    fd = leave_idle(pool, peer);
    for (unsigned i = 0; i < 100; i++) {
        push_frames(peer, i * 10, 10);
        cr_assert(wait_arrived(fd, &inbox, (i + 1) * 10 * FRAME));
        cr_assert_eq(id_of_next(pool, peer_address(peer)), 1, "round %u", i);
    }
    cr_expect(wait_heard(&inbox, 1000 * FRAME));
    expect_frames(&inbox, 1000);
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    cr_expect_eq(inbox.ends, 1);
    peer_stop(peer);
}

Test(actor, hears_all_that_comes_between_borrows_and_borrowers_hear_none_of_it)
{
    push_between_borrows(POOL_NONE); /* the borrower finds it */
    push_between_borrows(1); /* the mux or the borrower, whoever comes first */
}

struct hasty {
    struct pool *pool;
    const char *address;
    enum pool_status status;
};

static void *borrow_hastily(void *user)
{
    struct hasty *hasty = user;
    struct pool_conn conn;

    hasty->status = pool_borrow(hasty->pool, hasty->address,
                                POOL_CALL(.flags = POOL_DONT_WAIT, .timeout_ms = VERBS_SOON),
                                &conn);
    return NULL;
}

/* Who comes first finds a message on it and goes; when it was heard, the connection is
 * anybody's. */
Test(actor, a_connection_that_was_put_aside_to_be_heard_is_lent_again)
{
    static struct inbox inbox;
    static struct mux_hold hold;
    struct peer *peer = PEER(.own_process = true);
    struct mux_thread mux;
    struct pool *pool;
    struct hasty hasty = { .address = peer_address(peer) };
    struct pool_conn conn;
    pthread_t other;
    int fd;

    cr_assert(start_mux_thread(&mux));
    hasty.pool = pool =
        WITH_ACTOR(&inbox, .mux = mux.mux, .max_per_address = 1, .park_ms = POOL_NONE);
    fd = leave_idle(pool, peer);
    push_frames(peer, 0, 1);
    cr_assert(wait_arrived(fd, &inbox, FRAME));
    cr_assert(hold_mux(mux.mux, &hold));
    cr_assert_eq(pthread_create(&other, NULL, borrow_hastily, &hasty), 0);
    pthread_join(other, NULL);
    cr_expect_eq(hasty.status, POOL_E_FULL);
    let_mux_go(&hold);
    cr_assert(wait_heard(&inbox, FRAME));
    cr_assert(WAIT_STAT(pool, idle, 1));
    cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 2000), &conn),
                 POOL_OK);
    pool_return(&conn);
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    stop_mux_thread(&mux);
    peer_stop(peer);
}

/* And the other way round: what comes during a loan is the borrower's alone. */
Test(actor, hears_nothing_of_what_comes_during_a_loan)
{
    static struct inbox inbox;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_ACTOR(&inbox, .max_per_address = 1, .park_ms = 1);
    struct pool_conn conn;
    char frame[FRAME], expected[32];

    for (unsigned i = 0; i < 100; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        push_frames(peer, i * 10, 10);
        for (unsigned j = i * 10; j < i * 10 + 10; j++) {
            snprintf(expected, sizeof(expected), "F%06u\n", j);
            cr_assert_eq(pool_recv_exact(&conn, frame, FRAME), POOL_OK);
            cr_assert_eq(memcmp(frame, expected, FRAME), 0, "frame %u", j);
        }
        cr_assert_eq(pool_return(&conn), POOL_OK);
    }
    cr_expect_eq(inbox.messages, 0);
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* An idle connection that nobody borrows is heard all the same. */
Test(actor, hears_without_any_borrower)
{
    static struct inbox inbox;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_ACTOR(&inbox, .park_ms = 20);

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    for (unsigned i = 0; i < 20; i++) {
        push_frames(peer, i, 1);
        cr_expect(wait_heard(&inbox, (i + 1) * FRAME));
    }
    expect_frames(&inbox, 20);
    cr_expect_eq(STAT(pool, idle), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- half messages */

Test(actor, keeps_a_connection_with_half_a_message_from_being_lent)
{
    static struct inbox inbox;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_ACTOR(&inbox, .max_per_address = 1, .park_ms = 1);
    struct caller waiter;

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    for (unsigned i = 0; i < 50; i++) {
        char frame[32];

        snprintf(frame, sizeof(frame), "F%06u\n", i);
        cr_assert_eq(peer_push(peer, 0, frame, 3), 1);
        cr_assert(wait_heard(&inbox, i * FRAME + 3));
        cr_assert(queue_caller(&waiter, pool, peer_address(peer), VERBS_SOON));
        cr_expect_not(atomic_load(&waiter.is_back));
        cr_assert_eq(peer_push(peer, 0, frame + 3, FRAME - 3), 1);
        cr_assert_eq(join_caller(&waiter), POOL_OK);
        cr_expect_eq(pool_conn_id(&waiter.conn), 1);
        cr_expect_eq(echo(&waiter.conn, "mine"), 0);
        cr_assert_eq(pool_return(&waiter.conn), POOL_OK);
    }
    expect_frames(&inbox, 50);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(actor, with_half_a_message_leaves_others_a_connection_of_their_own)
{
    static struct inbox inbox;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_ACTOR(&inbox, .max_per_address = 2, .park_ms = 1);

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_assert_eq(peer_push(peer, 0, "F00", 3), 1);
    cr_assert(wait_heard(&inbox, 3));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect_eq(STAT(pool, idle), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

/* An actor that wrote something which is answered says LATER, and ready when the answer is
 * there. */
struct dialogue {
    atomic_uint asked, answered;
    bool from_outside;
    struct pool_conn conn;
};

static int answer_then_listen(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct dialogue *dialogue = user;

    if (memchr(message.data, '?', message.size)) {
        atomic_fetch_add(&dialogue->asked, 1);
        cr_expect_eq(pool_write(conn, "yes", 3), POOL_OK);
        return POOL_LATER;
    }
    dialogue->conn = *conn;
    atomic_fetch_add(&dialogue->answered, 1);
    if (dialogue->from_outside)
        return POOL_LATER;
    pool_conn_ready(conn, POOL_OK);
    return POOL_LATER;
}

static int attach_dialogue(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = answer_then_listen;
    actor->user = user;
    return 0;
}

static bool has_answer(void *argument)
{
    struct dialogue *dialogue = argument;

    return atomic_load(&dialogue->answered) > 0;
}

static void hold_a_dialogue(bool from_outside, enum pool_status told)
{
    struct dialogue dialogue = { .from_outside = from_outside };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.on_new_connection = attach_dialogue, .user = &dialogue,
                                  .max_per_address = 1, .park_ms = 1);

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_assert_eq(peer_push(peer, 0, "well?", 5), 1);
    cr_expect(wait_until(has_answer, &dialogue, VERBS_SOON));
    if (from_outside)
        pool_conn_ready(&dialogue.conn, told);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), told ? 2 : 1);
    cr_expect_eq(dialogue.asked, 1);
    cr_expect_eq(dialogue.answered, 1, "its answer was the actor's");
    pool_destroy(pool);
    peer_stop(peer);
}

Test(actor, may_talk_and_says_when_it_is_done)
{
    hold_a_dialogue(false, POOL_OK);
    hold_a_dialogue(true, POOL_OK);
    hold_a_dialogue(true, POOL_E_PROTOCOL);
}

/* ---- ends */

/* Told by the peer to go. */
Test(actor, that_drains_its_connection_ends_it_and_the_next_borrower_gets_another)
{
    static struct inbox inbox = { .drains = true };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_ACTOR(&inbox, .park_ms = 1);

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    push_frames(peer, 0, 1);
    cr_expect(wait_ended(&inbox, 1));
    cr_expect_eq(inbox.ended_id, 1);
    cr_expect_not(inbox.has_error);
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_expect(peer_wait_end(peer, 0, PEER_CLOSED_BY_OTHER, VERBS_SOON));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    pool_destroy(pool);
    peer_stop(peer);
}

/* A drain is never late: not to be lent again even when it comes with a message that a borrower
 * found. */
Test(actor, that_drains_on_a_hot_connection_keeps_it_from_the_borrower_who_found_the_message)
{
    static struct inbox inbox = { .drains = true };
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_ACTOR(&inbox, .park_ms = POOL_NONE, .max_per_address = 1);
    int fd = leave_idle(pool, peer);

    push_frames(peer, 0, 1);
    cr_assert(wait_arrived(fd, &inbox, FRAME));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect_eq(inbox.messages, 1);
    pool_destroy(pool);
    peer_stop(peer);
}

enum ending {
    CLOSED_BY_PEER,
    RESET_BY_PEER,
    DISCARDED,
    EVICTED,
    POOL_DESTROYED,
    RESET_IN_LOAN,
    ENDINGS
};

static void end_with_actor(enum ending ending)
{
    static struct inbox inbox;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool;
    struct pool_conn conn;
    int fd;

    inbox = (struct inbox){ .ends = 0 };
    pool = WITH_ACTOR(&inbox, .park_ms = 1);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    if (ending == RESET_IN_LOAN) {
        cr_assert_eq(peer_reset(peer, 0), 1);
        cr_expect_neq(echo(&conn, "too late"), 0);
    }
    cr_assert_eq(ending == DISCARDED ? pool_discard(&conn) : pool_return(&conn), POOL_OK);
    if (ending < DISCARDED)
        cr_assert(wait_parked(fd));
    if (ending == CLOSED_BY_PEER)
        cr_assert_eq(peer_close(peer, 0), 1);
    if (ending == RESET_BY_PEER)
        cr_assert_eq(peer_reset(peer, 0), 1);
    if (ending == EVICTED)
        cr_assert_eq(pool_remove_some_connection(pool), 1);
    if (ending != POOL_DESTROYED)
        cr_expect(wait_ended(&inbox, 1), "way %d", ending);
    pool_destroy(pool);
    cr_expect_eq(inbox.ends, 1, "way %d: %u ends", ending, inbox.ends);
    cr_expect_eq(inbox.ended_id, 1);
    cr_expect_eq(inbox.has_error, ending == RESET_BY_PEER || ending == RESET_IN_LOAN, "way %d",
                 ending);
    peer_stop(peer);
}

Test(actor, is_told_once_that_its_connection_is_gone_and_why)
{
    for (int ending = 0; ending < ENDINGS; ending++)
        end_with_actor((enum ending)ending);
}

/* The last bytes before an end are heard, too. */
Test(actor, hears_the_last_words_before_the_end)
{
    static struct inbox inbox;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = WITH_ACTOR(&inbox, .park_ms = POOL_NONE);
    int fd = leave_idle(pool, peer);

    push_frames(peer, 0, 3);
    cr_assert_eq(peer_half_close(peer, 0), 1);
    cr_assert(wait_arrived(fd, &inbox, 3 * FRAME));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect(wait_ended(&inbox, 1));
    expect_frames(&inbox, 3);
    pool_destroy(pool);
    peer_stop(peer);
}

/* A loud peer does not keep the mux from others. */
Test(actor, that_is_flooded_leaves_the_mux_to_others)
{
    static struct inbox inbox;
    struct peer *loud = PEER(.own_process = true, .behave = PEER_PUSH, .push = "F000000\nF000000\n",
                             .interval_ms = 1);
    struct peer *quiet = PEER(.own_process = true);
    struct pool *pool = WITH_ACTOR(&inbox, .park_ms = 1);
    struct pool_conn conn;
    uint64_t start_ms;

    leave_idle(pool, loud);
    cr_expect(wait_heard(&inbox, FRAME));
    for (int i = 0; i < 20; i++) {
        start_ms = now_ms();
        cr_assert(borrow(pool, peer_address(quiet), &conn));
        cr_assert_eq(pool_discard(&conn), POOL_OK);
        cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    }
    pool_destroy(pool);
    peer_stop(loud);
    peer_stop(quiet);
}
