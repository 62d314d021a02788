/* drain.c: see drain.h. That a connection is to end stands in its expires_ns, which everybody looks
 * at who lends it, takes it back or parks it; only those that stay idle need to be fetched.
 */
#include "pool/drain.h"

#include "base/os.h"
#include "pool/pool.h"

#define STEP_NS (100 * PL_MS)           /* so many end together, lest a great peer be looked through
                                         * for each of them */
#define STEPS 100u                      /* 10 s in all */

/* False: it ends sooner. Whoever has it may drain it meanwhile, on another thread. */
static bool end_by(struct pl_connection *connection, uint64_t ends_ns)
{
    uint64_t seen_ns = pl_get(connection->expires_ns);

    while (seen_ns > ends_ns) {
        if (atomic_compare_exchange_weak(&connection->expires_ns, &seen_ns, ends_ns))
            return true;
    }
    return false;
}

uint64_t pl_drain_soon(struct pl_connection *connection, enum pool_close_reason reason,
                       uint64_t now_ns)
{
    uint64_t ends_ns = pl_after(now_ns, (1 + pl_dice() % STEPS) * STEP_NS);

    pl_set(connection->leaves_for, (uint8_t)reason);
    return end_by(connection, ends_ns) ? ends_ns : PL_NEVER;
}

/* Into the list, by lru_link, CLOSING and the caller's, what is idle and due. Answers when the
 * first of the others is. Peer lock held. */
static uint64_t take_due(struct pl_peer *peer, uint64_t now_ns, struct pl_list *taken)
{
    uint64_t next_ns = PL_NEVER;

    PL_LIST_EACH(link, &peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);
        uint64_t seen = atomic_load(&connection->word), ends_ns = pl_get(connection->expires_ns);
        enum pl_state state = pl_word_state(seen);

        if (!pl_get(connection->leaves_for))
            continue;
        if (ends_ns > now_ns) {
            next_ns = pl_earlier(ends_ns, next_ns);
        } else if ((state == PL_IDLE || state == PL_PARKED) && !(seen & PL_PIN_MASK) &&
                   pl_word_become_state(&connection->word, seen, PL_CLOSING)) {
            connection->close_reason = (uint8_t)pl_peer_reason_of_age(connection);
            pl_room_unpark(peer->pool->room, connection);
            pl_list_push_back(taken, &connection->lru_link);
        }
    }
    return next_ns;
}

uint64_t pl_drain_tend(struct pl_peer *peer, uint64_t now_ns)
{
    struct pl_list taken, *link;
    uint64_t next_ns;

    pl_list_init(&taken);
    pthread_mutex_lock(&peer->lock);
    next_ns = take_due(peer, now_ns, &taken);
    pthread_mutex_unlock(&peer->lock);
    while ((link = pl_list_pop_front(&taken)))
        pl_peer_finish_close(pl_container(link, struct pl_connection, lru_link));
    return next_ns;
}
