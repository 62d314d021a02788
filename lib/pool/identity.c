/* identity.c: descriptors that other code closed or replaced, and room asked for by the program. */
#include "base/os.h"
#include "pool/events.h"
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

static bool is_meant(const struct pl_connection *connection, const struct pool *pool, int fd)
{
    return connection->peer->pool == pool && connection->fd == fd &&
           atomic_load(&connection->doom) != PL_DOOM_STOLEN;
}

static int forget_taken(struct pl_connection *connection, const struct pool *pool, int fd)
{
    if (!is_meant(connection, pool, fd)) {
        pl_peer_give_back(connection->peer, connection);
        return 0;
    }
    atomic_store(&connection->doom, PL_DOOM_STOLEN); /* so that closing leaves the number alone */
    pl_peer_close(connection, POOL_CLOSE_STOLEN);
    return 1;
}

#define LOOK_AGAIN (-1)                 /* it was given away meanwhile */

static int forget_held(struct pl_connection *connection, const struct pool *pool, int fd)
{
    struct pl_peer *peer = pl_get(connection->peer);
    bool is_held, is_it = false, has_ended = false;

    pthread_mutex_lock(&peer->lock);
    is_held = pl_get(connection->peer) == peer && pl_word_pin_any(&connection->word);
    if (is_held) {
        is_it = is_meant(connection, pool, fd);
        if (is_it)
            atomic_store(&connection->doom, PL_DOOM_STOLEN);
        has_ended = pl_word_unpin(&connection->word);
    }
    pthread_mutex_unlock(&peer->lock);
    if (has_ended)
        pl_peer_finish_close(connection);
    return is_held ? is_it : LOOK_AGAIN;
}

int pool_mark_as_dead(struct pool *pool, int fd)
{
    struct pl_connection *connection = pl_fd_table_get(fd);
    int forgotten = LOOK_AGAIN;

    if (!pool || !connection || pl_pool_enter(pool))
        return 0;
    while (forgotten == LOOK_AGAIN) {
        switch (hold(connection)) {
        case TAKEN:
            forgotten = forget_taken(connection, pool, fd);
            break;
        case HELD:
            forgotten = forget_held(connection, pool, fd);
            break;
        case OUT_OF_REACH:
            forgotten = 0;
            break;
        }
    }
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return forgotten;
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
