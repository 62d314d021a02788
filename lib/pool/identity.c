/* identity.c: descriptors that other code closed or replaced, and room asked for by the program. */
#include "pool/identity.h"

#include "base/os.h"
#include "pool/events.h"
#include "pool/exchange.h"
#include "pool/lent.h"
#include "pool/orders.h"
#include "pool/pool.h"

/* Ours to look at, whoever has it: idle it is taken, held it is pinned, for a moment and under its
 * peer's lock, where whoever takes it out of the pool looks for pins. */
enum hold { TAKEN, HELD, OUT_OF_REACH };

static enum hold hold(struct pl_connection *connection)
{
    uint64_t seen = atomic_load(&connection->word);

    for (;;) {
        if (pl_word_is_held(seen)) {
            return HELD;
        } else if ((pl_word_state(seen) != PL_IDLE && pl_word_state(seen) != PL_PARKED) ||
                   (seen & PL_PIN_MASK)) {
            return OUT_OF_REACH;
        } else if (pl_word_become_state(&connection->word, seen, PL_MUX)) {
            return TAKEN;
        }
        seen = atomic_load(&connection->word);
    }
}

/* Which connections are to be forgotten: who has this number (-1: who was found to have lost his),
 * in one pool. */
struct loss {
    struct pool *pool;
    int fd;
};

static bool is_meant(const struct pl_connection *connection, const struct loss *loss)
{
    bool is_stolen = atomic_load(&connection->doom) == PL_DOOM_STOLEN;

    if (connection->peer->pool != loss->pool)
        return false;
    if (loss->fd < 0)
        return is_stolen;
    return connection->fd == loss->fd && !is_stolen;
}

/* Who got its number after another of ours had lost it may not be meant, but that other one. Idle
 * it need not be forgotten for that: whoever borrows it looks. */
static bool is_proven(const struct pl_connection *connection, const struct loss *loss)
{
    return loss->fd >= 0 && connection->robbed && pl_connection_is_ours(connection);
}

static int forget_taken(struct pl_connection *connection, const struct loss *loss)
{
    if (!is_meant(connection, loss) || is_proven(connection, loss)) {
        pl_peer_give_back(connection->peer, connection);
        return 0;
    }
    atomic_store(&connection->doom, PL_DOOM_STOLEN); /* so that closing leaves the number alone */
    pl_peer_close(connection, POOL_CLOSE_STOLEN);
    return 1;
}

#define LOOK_AGAIN (-1)                 /* it was given away meanwhile */

/* Whoever waits for an event of it hears of it from the mux: no event may ever come. */
static void tell_holder(struct pl_connection *connection, bool *needs_mux)
{
    enum pl_state state = pl_word_state(atomic_load(&connection->word));

    if (state == PL_LENT)
        pl_lent_look(connection);
    else
        *needs_mux = true;
}

static int forget_held(struct pl_connection *connection, const struct loss *loss, bool *needs_mux)
{
    struct pl_peer *peer = pl_get(connection->peer);
    bool is_held, is_it = false, has_ended = false;

    pthread_mutex_lock(&peer->lock);
    is_held = pl_get(connection->peer) == peer && pl_word_pin_any(&connection->word);
    if (is_held) {
        is_it = is_meant(connection, loss);
        if (is_it) {
            atomic_store(&connection->doom, PL_DOOM_STOLEN);
            tell_holder(connection, needs_mux);
        }
        has_ended = pl_word_unpin(&connection->word);
    }
    pthread_mutex_unlock(&peer->lock);
    if (has_ended)
        pl_peer_finish_close(connection);
    return is_held ? is_it : LOOK_AGAIN;
}

/* Without memory, whoever has it learns at his deadline. */
static void have_unready_ended(struct pool *pool)
{
    struct pl_errand *errand = pl_errand_make(pool);

    if (errand)
        pl_errand_run(errand, false);
}

static int forget(struct pl_connection *connection, const struct loss *loss)
{
    int forgotten = LOOK_AGAIN;
    bool needs_mux = false;

    while (forgotten == LOOK_AGAIN) {
        switch (hold(connection)) {
        case TAKEN:
            forgotten = forget_taken(connection, loss);
            break;
        case HELD:
            forgotten = forget_held(connection, loss, &needs_mux);
            break;
        case OUT_OF_REACH:
            forgotten = 0;
            break;
        }
    }
    if (forgotten)
        pl_exchange_look(loss->pool);
    if (needs_mux)
        have_unready_ended(loss->pool);
    pl_events_tell(loss->pool);
    return forgotten;
}

int pool_mark_as_dead(struct pool *pool, int fd)
{
    struct pl_connection *connection = pl_fd_table_get(fd);
    struct loss loss = { pool, fd };
    int forgotten;

    if (!pool || !connection || pl_pool_enter(pool))
        return 0;
    forgotten = forget(connection, &loss);
    pl_pool_leave(pool);
    return forgotten;
}

void pl_identity_forget_robbed(struct pool *pool, uint32_t robbed)
{
    struct loss loss = { pool, -1 };

    if (robbed && !pl_pool_is_forked(pool))
        forget(pl_connection_at(robbed - 1), &loss);
}

int pool_remove_some_connection(struct pool *pool)
{
    bool is_removed;

    if (!pool || pl_pool_enter(pool))
        return 0;
    is_removed = pl_room_evict(pool->room, pool);
    if (!is_removed)
        pl_room_ask(pool, pool->settings.options.on_none_removable);
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return is_removed;
}
