/* round.c: see round.h.
 *
 * Marks are set before a word is looked at, and whoever lets go of a connection looks at the marks
 * after its swap; so one that slips by unseen is ended by the one who brings it back.
 */
#include "pool/round.h"

#include "pool/channel.h"
#include "pool/exchange.h"
#include "pool/pool.h"
#include "pool/waiter.h"

void pl_round_begin(struct pl_round *round)
{
    pl_list_init(&round->taken);
    pl_list_init(&round->doomed);
}

/* ---- one connection; its peer's lock is held, so it does not go away */

/* Into a list of the round's. It is ours, or pinned and doomed by us: nobody else links it. */
static void keep(struct pl_list *list, struct pl_connection *connection)
{
    pl_room_unpark(connection->peer->pool->room, connection);
    pl_list_push_back(list, &connection->lru_link);
}

static bool take_idle(struct pl_round *round, struct pl_connection *connection, uint64_t seen)
{
    enum pl_state state = round->idle == PL_ROUND_CLOSE ? PL_CLOSING : PL_MUX;

    if (round->idle == PL_ROUND_LEAVE)
        return true;
    if (!pl_word_become_state(&connection->word, seen, state))
        return false;
    if (state == PL_CLOSING)
        connection->close_reason = (uint8_t)round->reason;
    keep(&round->taken, connection);
    return true;
}

/* False: it is lent no more. */
static bool doom_lent(struct pl_round *round, struct pl_connection *connection)
{
    bool is_lent;

    if (round->doom == PL_DOOM_NONE)
        return true;
    if (!pl_word_pin_any(&connection->word))
        return false;
    is_lent = pl_word_state(atomic_load(&connection->word)) == PL_LENT;
    if (is_lent && pl_connection_doom(connection, round->doom))
        keep(&round->doomed, connection);
    else if (pl_word_unpin(&connection->word))
        keep(&round->taken, connection); /* it was given back meanwhile, and is ours now */
    return is_lent;
}

/* Only the mux may end it. */
static bool mark_unready(struct pl_round *round, struct pl_connection *connection)
{
    if (round->spares_unready)
        return false;
    if (round->doom != PL_DOOM_NONE)
        pl_connection_doom(connection, round->doom);
    round->needs_mux = true;
    return true;
}

/* False: it changed hands meanwhile, look again. */
static bool meet_as(struct pl_round *round, struct pl_connection *connection, uint64_t seen)
{
    switch (pl_word_state(seen)) {
    case PL_IDLE:
    case PL_PARKED:
        round->has_met = true;
        return take_idle(round, connection, seen);
    case PL_LENT:
        round->has_met = true;
        return doom_lent(round, connection);
    case PL_MUX:
        round->has_met = true;
        if (round->doom != PL_DOOM_NONE)
            pl_connection_doom(connection, round->doom);
        return atomic_load(&connection->word) == seen; /* else its owner may not have seen it */
    case PL_OPENING:
    case PL_SETUP:
    case PL_HEARD:
        round->has_met |= mark_unready(round, connection);
        return true;
    default:
        return true;
    }
}

static void meet(struct pl_round *round, struct pl_connection *connection)
{
    uint64_t seen;
    enum pl_state state;

    do {
        seen = atomic_load(&connection->word);
        state = pl_word_state(seen);
        if (round->is_for_lent && state != PL_LENT)
            return;
        /* Before it is ready its owner sets this itself, and looks at the verdict after. */
        if (round->idle == PL_ROUND_CLOSE && state != PL_OPENING && state != PL_SETUP &&
            !(state == PL_HEARD && round->spares_unready))
            atomic_store(&connection->expires_ns, 0);
    } while (!meet_as(round, connection, seen));
}

/* ---- one peer, all peers */

void pl_round_of_peer(struct pl_round *round, struct pl_peer *peer)
{
    atomic_fetch_or(&peer->hints, round->hints);
    if (round->failure.status) {
        pl_exchange_fail_queued(peer, round->failure);
        pl_peer_fail_waiters(peer, &round->failure, 0, true);
    }
    pthread_mutex_lock(&peer->lock);
    if (round->is_new_epoch)
        atomic_fetch_add(&peer->epoch, 1);
    if (round->idle != PL_ROUND_LEAVE) {
        PL_LIST_EACH(link, &peer->shared.all)
            meet(round, pl_container(link, struct pl_connection, all_link));
    }
    pl_peer_stop_looking(peer);
    pthread_mutex_unlock(&peer->lock);
}

/* The next peer where this round was not yet, entered; NULL: none is left. Those where it was stand
 * behind the others, and so do new ones. */
static struct pl_peer *next_peer(struct pool *pool, uint64_t round)
{
    struct pl_peer *peer = NULL;

    pthread_mutex_lock(&pool->lock);
    if (!pl_list_is_empty(&pool->all_peers)) {
        peer = pl_container(pool->all_peers.next, struct pl_peer, pool_link);
        if (peer->round == round) {
            peer = NULL;
        } else {
            peer->round = round;
            pl_list_unlink(&peer->pool_link);
            pl_list_push_back(&pool->all_peers, &peer->pool_link);
            pl_peer_join(peer);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return peer;
}

void pl_round_of_pool(struct pl_round *round, struct pool *pool)
{
    struct pl_peer *peer;
    uint64_t number;

    pthread_mutex_lock(&pool->round_lock);
    number = ++pool->last_round;
    while ((peer = next_peer(pool, number))) {
        pl_round_of_peer(round, peer);
        pl_peer_leave(peer);
    }
    pthread_mutex_unlock(&pool->round_lock);
}

/* Peer lock held. */
static struct pl_connection *find(struct pl_peer *peer, uint64_t id)
{
    PL_LIST_EACH(link, &peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);

        if (connection->id == id)
            return connection;
    }
    return NULL;
}

void pl_round_of_connection(struct pl_round *round, struct pool *pool, uint64_t id)
{
    struct pl_connection *connection = NULL;

    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->all_peers) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, pool_link);

        if (connection)
            break;
        pthread_mutex_lock(&peer->lock);
        connection = find(peer, id);
        if (connection) {
            atomic_fetch_or(&peer->hints, round->hints);
            meet(round, connection);
        }
        pthread_mutex_unlock(&peer->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* ---- the deed */

/* It is pinned, and its borrower may be busy with it. */
static void end_channel(struct pl_connection *connection)
{
    struct pl_peer *peer = connection->peer;

    pthread_mutex_lock(&peer->lock);
    pl_channel_end(connection);
    pthread_mutex_unlock(&peer->lock);
}

void pl_round_finish(struct pl_round *round)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(&round->doomed))) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, lru_link);

        if (pl_word_state(atomic_load(&connection->word)) == PL_FORKED)
            return;                     /* a hook did, on the way to here */
        pl_connection_shut(connection);
        if (round->doom == PL_DOOM_POOL)
            end_channel(connection); /* its actor does not wait for the borrower */
        if (pl_word_unpin(&connection->word))
            pl_peer_finish_close(connection);
    }
    while ((link = pl_list_pop_front(&round->taken))) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, lru_link);

        if (pl_word_state(atomic_load(&connection->word)) == PL_CLOSING)
            pl_peer_finish_close(connection);
        else
            pl_peer_give_back(connection->peer, connection);
    }
}
