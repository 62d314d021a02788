/* test_late.c: slots and numbers are used again at once, while events, handles and threads of
 * before are on their way: what comes late reaches nobody. */
#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/connection.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* Two parked connections whose events are in one batch. The first one heard closes the other, and
 * has its number or its slot used again before the other's event has its turn. */
struct batch {
    struct pool *pool, *other;
    struct pool_mux *mux;
    struct peer *peer, *hung;
    int fds[2];
    struct pool_slot *slots[2];
    unsigned heard;
    bool reuses_slot;
    int near, far; /* the socket that has the number now, and its other end */
    struct caller waiting; /* for the connection that has the slot now */
};

static void reuse_number(struct batch *batch, int number)
{
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    batch->near = pair[1] == number ? pair[1] : pair[0];
    batch->far = pair[1] == number ? pair[0] : pair[1];
    cr_expect_eq(batch->near, number, "the test needs the number again");
    cr_expect(write_exactly(batch->far, "late", 4, VERBS_SOON));
}

/* By a connection of another pool that is being opened and never will be. */
static void reuse_slot(struct batch *batch, struct pool_slot *slot)
{
    struct pl_connection *connection = pl_connection_of(slot);

    cr_assert(queue_caller(&batch->waiting, batch->other, peer_address(batch->hung), 300));
    cr_expect(WAIT_STAT(batch->other, opening, 1));
    cr_expect_eq(pl_word_state(atomic_load(&connection->word)), PL_OPENING,
                 "the test needs the slot again");
}

static int hear_and_reuse(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct batch *batch = user;
    int other = conn->slot == batch->slots[0] ? 1 : 0;

    (void)message;
    if (batch->heard++)
        return 0;
    cr_expect_eq(pool_remove_some_connection(batch->pool), 1);
    if (batch->reuses_slot)
        reuse_slot(batch, batch->slots[other]);
    else
        reuse_number(batch, batch->fds[other]);
    return 0;
}

static int attach_batch(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = hear_and_reuse;
    actor->user = user;
    return 0;
}

static void open_both(struct batch *batch)
{
    struct caller callers[2];

    for (int i = 0; i < 2; i++) {
        cr_assert(start_caller(&callers[i], batch->pool, peer_address(batch->peer), VERBS_SOON));
        while (!atomic_load(&callers[i].is_back))
            cr_assert_eq(pool_mux_dispatch(batch->mux, 10), POOL_OK);
        cr_assert_eq(join_caller(&callers[i]), POOL_OK);
        batch->fds[i] = pool_conn_fd(&callers[i].conn);
        batch->slots[i] = callers[i].conn.slot;
    }
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pool_return(&callers[i].conn), POOL_OK);
    for (int i = 0; i < 2; i++)
        while (!is_watched(batch->fds[i]))
            cr_assert_eq(pool_mux_dispatch(batch->mux, 10), POOL_OK);
}

static void start_batch(struct batch *batch, bool reuses_slot)
{
    *batch = (struct batch){ .reuses_slot = reuses_slot, .near = -1, .far = -1 };
    batch->peer = PEER(.own_process = true);
    batch->hung = PEER(.own_process = true, .behave = PEER_NEVER_ACCEPT);
    cr_assert_eq(pool_mux_create(&batch->mux), POOL_OK);
    batch->pool = MAKE_POOL(.mux = batch->mux, .park_ms = 1, .on_new_connection = attach_batch,
                            .user = batch);
    batch->other = MAKE_POOL();
    open_both(batch);
    cr_assert_eq(peer_push(batch->peer, PEER_ALL, "x", 1), 2);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(listen_to(batch->fds[i], VERBS_SOON), HEARD_BYTES);
    cr_assert_eq(pool_mux_dispatch(batch->mux, 0), POOL_OK);
    cr_expect_eq(batch->heard, 1);
    cr_expect_eq(STAT(batch->pool, total), 1);
}

static void end_batch(struct batch *batch)
{
    pool_destroy(batch->other);
    pool_destroy(batch->pool);
    pool_mux_destroy(batch->mux);
    peer_stop(batch->peer);
    peer_stop(batch->hung);
}

Test(pool_late, an_event_of_a_closed_connection_never_reaches_who_has_its_number_now)
{
    struct batch batch;
    char got[4];

    start_batch(&batch, false);
    cr_expect(read_exactly(batch.near, got, 4, 0), "its bytes were taken");
    close(batch.near);
    close(batch.far);
    end_batch(&batch);
}

Test(pool_late, an_event_of_a_closed_connection_never_reaches_who_has_its_slot_now)
{
    struct batch batch;

    start_batch(&batch, true);
    cr_expect_eq(join_caller(&batch.waiting), POOL_E_TIMEOUT, "it was taken for connected");
    end_batch(&batch);
}

/* Numbers and slots are used again and again while events are on their way. */
Test(pool_late, tight_reuse_of_numbers_and_slots_never_revives_a_handle)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.park_ms = 1);
    struct pool_conn conn, old = { 0 };
    unsigned rounds = 2000 / slowness();

    for (unsigned i = 0; i < rounds; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_assert_eq(pool_conn_id(&conn), i + 1);
        cr_assert_eq(pool_conn_id(&old), 0);
        cr_assert_eq(pool_send(&old, "x", 1), POOL_E_ARGUMENT);
        cr_assert_eq(pool_return(&old), POOL_E_ARGUMENT);
        if (i % 2)
            cr_assert_eq(echo(&conn, "mine"), 0);
        if (i % 3 == 0)
            peer_push(peer, i, "late", 4);
        old = conn;
        cr_assert_eq(pool_discard(&conn), POOL_OK);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* A slot is found at once, however full the table is. */
Test(pool_late, a_slot_is_found_at_once_and_a_serial_never_comes_again)
{
    enum { SLOTS = 1000 };
    static struct pl_connection *held[SLOTS];
    static uint64_t last_serial[4 * SLOTS];
    unsigned rounds = 1000000 / slowness(), seed = 1, highest = 0;

    for (unsigned i = 0; i < rounds; i++) {
        struct pl_connection **at = &held[(seed = seed * 1103515245 + 12345) / 65536 % SLOTS];
        uint64_t word;

        if (*at) {
            pl_word_move(&(*at)->word, pl_word_with(atomic_load(&(*at)->word), PL_CLOSING));
            pl_connection_give(*at);
            *at = NULL;
            continue;
        }
        *at = pl_connection_take();
        cr_assert_not_null(*at);
        word = atomic_load(&(*at)->word);
        cr_assert_lt((*at)->node.index, 4 * SLOTS);
        cr_assert_gt(pl_word_serial(word), last_serial[(*at)->node.index]);
        last_serial[(*at)->node.index] = pl_word_serial(word);
        if ((*at)->node.index > highest)
            highest = (*at)->node.index;
    }
    cr_expect_leq(highest, SLOTS + 64, "free slots are used before new ones are made");
    for (unsigned i = 0; i < SLOTS; i++)
        if (held[i]) {
            pl_word_move(&held[i]->word, pl_word_with(atomic_load(&held[i]->word), PL_CLOSING));
            pl_connection_give(held[i]);
        }
}
