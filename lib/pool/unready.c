/* unready.c: the end of what is not ready and belongs to the mux: connections that are being dialed
 * or set up, and those that an actor hears. Runs on the mux thread, but for the looks.
 */
#include <errno.h>

#include "net/dialer.h"
#include "pool/open.h"
#include "pool/pool.h"

static enum pool_phase phase_of(const struct pl_connection *connection)
{
    switch (pl_word_state(atomic_load(&connection->word))) {
    case PL_SETUP:
        return POOL_PHASE_SETUP;
    case PL_HEARD:
        return POOL_PHASE_USE;
    default:
        return POOL_PHASE_CONNECT;
    }
}

struct pl_failure pl_open_ordered_failure(const struct pl_connection *connection)
{
    if (atomic_load(&connection->peer->hints) & PL_HINT_CLOSING)
        return pl_failure_make(POOL_E_CLOSING, POOL_PHASE_CONNECT, 0);
    switch ((enum pl_doom)atomic_load(&connection->doom)) {
    case PL_DOOM_KILLED:
        return pl_failure_make(POOL_E_BROKEN, phase_of(connection), ESHUTDOWN);
    case PL_DOOM_STOLEN:
        return pl_failure_make(POOL_E_BROKEN, phase_of(connection), EBADF);
    default:
        return (struct pl_failure){ 0 };
    }
}

/* Peer lock held. */
static bool has_state(struct pl_peer *peer, enum pl_state state)
{
    PL_LIST_EACH(link, &peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);

        if (pl_word_state(atomic_load(&connection->word)) == state)
            return true;
    }
    return false;
}

/* Peer lock held. */
static uint64_t first_try(struct pl_peer *peer)
{
    uint64_t first_ns = PL_NEVER;

    PL_LIST_EACH(link, &peer->shared.all)
        first_ns = pl_earlier(first_ns,
                              pl_container(link, struct pl_connection, all_link)->opened_ns);
    return first_ns == PL_NEVER ? 0 : first_ns;
}

/* Of the one that is nearest to being connected. Peer lock held. */
static enum pool_phase furthest_phase(struct pl_peer *peer)
{
    enum pool_phase furthest = POOL_PHASE_RESOLVE, phase;

    PL_LIST_EACH(link, &peer->shared.all) {
        phase = atomic_load(&pl_container(link, struct pl_connection, all_link)->dial_phase);
        if (!phase)
            phase = POOL_PHASE_CONNECT;
        if (phase > furthest)
            furthest = phase;
    }
    return furthest;
}

enum pool_phase pl_open_phase(struct pl_peer *peer, uint64_t *tried_ns)
{
    enum pool_phase phase = POOL_PHASE_WAIT;

    *tried_ns = 0;
    pthread_mutex_lock(&peer->lock);
    if (peer->shared.opening && peer->shared.opening == peer->shared.count) {
        phase = has_state(peer, PL_SETUP) ? POOL_PHASE_SETUP : furthest_phase(peer);
        *tried_ns = first_try(peer);
    }
    pthread_mutex_unlock(&peer->lock);
    return phase;
}

/* Must it be ended, of all or of those that were ordered to? What an actor hears it hears to the
 * end, unless it was doomed. */
static bool is_meant(const struct pl_connection *connection, bool is_ordered)
{
    switch (pl_word_state(atomic_load(&connection->word))) {
    case PL_OPENING:
        return connection->dial && connection->dial->is_begun &&
               (!is_ordered || pl_peer_verdict(connection) >= 0);
    case PL_SETUP:
        return !is_ordered || pl_peer_verdict(connection) >= 0;
    case PL_HEARD:
        return !is_ordered || atomic_load(&connection->doom);
    default:
        return false;
    }
}

/* What only the mux thread may end: being dialed, set up, or heard by its actor. Peer lock held. */
static struct pl_connection *find_unready(struct pl_peer *peer, bool is_ordered)
{
    PL_LIST_EACH(link, &peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);

        if (is_meant(connection, is_ordered))
            return connection;
    }
    return NULL;
}

bool pl_open_has_unready(struct pl_peer *peer, bool is_ordered)
{
    return find_unready(peer, is_ordered) != NULL;
}

static void abort_one(struct pl_connection *connection, bool is_ordered)
{
    struct pl_failure failure = pl_open_ordered_failure(connection);

    if (pl_word_state(atomic_load(&connection->word)) != PL_HEARD) {
        pl_open_give_up(connection, &failure);
        return;
    }
    if (is_ordered && failure.status)   /* whoever hears it is told */
        pl_set(connection->failure, pl_failure_pack(failure));
    pl_peer_close(connection, is_ordered ? pl_peer_reason_of_age(connection) : POOL_CLOSE_POOL);
}

void pl_open_abort(struct pl_peer *peer, bool is_ordered)
{
    struct pl_connection *connection;

    do {
        pthread_mutex_lock(&peer->lock);
        connection = find_unready(peer, is_ordered);
        pthread_mutex_unlock(&peer->lock);
        if (connection)
            abort_one(connection, is_ordered);
    } while (connection);
}
