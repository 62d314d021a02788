/* stress_handles.c: duels over one loan: two threads have a copy of its handle each and end it,
 * use it or ask about it at the same moment.
 *
 * What must hold: of two who end a loan exactly one succeeds, the other is told that its handle
 * is stale; whoever comes late sees nothing of the connection's next life, whether it was kept
 * (the first pool) or closed and its slot given to another connection (the second). */
#include <sched.h>
#include <stdatomic.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define PAIRS 2u
#define SPIN 300u
#define PATIENCE 2000u /* turns of waiting before the processor is given away */

/* The two meet at `turn`: four steps each time. The loan is on the table (1), the other one has
 * come (2), both draw and he says when he is done (3); then the next begins (4). */
struct duel {
    _Atomic unsigned turn;
    _Atomic bool is_over;
    struct pool_conn conn;
    enum pool_status status[2];
};

static struct duel duels[PAIRS];
static struct pool *pool;
static struct peer *peer;
static atomic_ullong fought, lost_by_follower;

static void spin(struct stress_caller *caller)
{
    for (volatile unsigned left = stress_below(caller, SPIN); left; left--)
        continue;
}

/* Until the duel has come that far. False: it is over. */
static bool wait_for_turn(struct duel *duel, unsigned turn)
{
    for (unsigned i = 0; atomic_load(&duel->turn) < turn; i++) {
        if (atomic_load(&duel->is_over))
            return false;
        if (i > PATIENCE)
            sched_yield();
    }
    return true;
}

/* One's own way to end the loan. Some look at it or use it first. */
static enum pool_status end_it(struct stress_caller *caller, struct pool_conn conn)
{
    spin(caller);
    switch (stress_below(caller, 8)) {
    case 0:
        return pool_discard(&conn);
    case 1:
        pool_send(&conn, "TOKEN t9-9\n", 11);
        break;
    case 2:
        pool_conn_fd(&conn);
        break;
    case 3:
        pool_conn_drain(&conn);
        break;
    default:
        break;
    }
    return pool_return(&conn);
}

static void expect_one_winner(struct duel *duel)
{
    bool first = duel->status[0] == POOL_OK, second = duel->status[1] == POOL_OK;

    atomic_fetch_add(&fought, 1);
    atomic_fetch_add(&lost_by_follower, first);
    if (first == second)
        stress_fail("both were told %s", pool_status_name(duel->status[0]));
    else if (duel->status[first] != POOL_E_ARGUMENT)
        stress_fail("the loser was told %s", pool_status_name(duel->status[first]));
}

static void lead(struct stress_caller *caller, struct duel *duel)
{
    const struct pool_call *call = POOL_CALL(.timeout_ms = 20000);
    enum pool_status status;
    unsigned turn;

    for (turn = 0; stress_is_on(); turn += 4) {
        status = pool_borrow(pool, peer_address(peer), call, &duel->conn);
        if (!status && stress_chance(caller, 25))
            status = (enum pool_status)stress_ask(caller, &duel->conn, NULL);
        if (status) {
            stress_fail("no fresh loan: %s", pool_status_name(status));
            break;
        }
        atomic_store(&duel->turn, turn + 1);
        wait_for_turn(duel, turn + 2);
        duel->status[0] = end_it(caller, duel->conn);
        wait_for_turn(duel, turn + 3);
        expect_one_winner(duel);
        atomic_store(&duel->turn, turn + 4);
    }
    atomic_store(&duel->is_over, true);
}

static void follow(struct stress_caller *caller, struct duel *duel)
{
    for (unsigned turn = 0; wait_for_turn(duel, turn + 1); turn += 4) {
        atomic_store(&duel->turn, turn + 2);
        duel->status[1] = end_it(caller, duel->conn);
        atomic_store(&duel->turn, turn + 3);
    }
}

static void fight(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);
    struct duel *duel = &duels[index / 2];

    (void)argument;
    if (index % 2)
        follow(&caller, duel);
    else
        lead(&caller, duel);
}

static void play(const struct pool_options *options, const char *name)
{
    int descriptors = count_descriptors();
    long blocks = stress_blocks();

    if (pool_create(options, &pool)) {
        stress_fail("no pool");
        return;
    }
    for (unsigned i = 0; i < PAIRS; i++)
        duels[i] = (struct duel){ 0 };
    stress_begin_part(stress_seconds() * 1000 / 2);
    run_threads(2 * PAIRS, fight, NULL);
    pool_destroy(pool);
    stress_expect_nothing_left(descriptors, blocks, name);
}

int main(int argc, char **argv)
{
    stress_begin(argc, argv, 4);
    peer = PEER(.behave = PEER_TOKEN, .own_process = true, .record_connections = 1);
    if (peer) {
        play(POOL_OPTIONS(.max_per_address = 8), "kept");
        play(POOL_OPTIONS(.max_per_address = 8, .max_uses = 1), "closed");
    } else {
        stress_fail("no peer");
    }
    peer_stop(peer);
    return stress_end("%llu duels, %llu of them won by whom it was lent to", fought,
                      lost_by_follower);
}
