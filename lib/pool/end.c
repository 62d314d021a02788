/* end.c: the end of a pool, at any moment and from anywhere: who waits is told, what is idle is
 * closed, what is lent is shut down, what only the mux thread may end is ended there, and last
 * calls are waited for, unless this is one of them.
 */
#include "base/os.h"
#include "pool/channel.h"
#include "pool/close.h"
#include "pool/events.h"
#include "pool/exchange.h"
#include "pool/fork.h"
#include "pool/hooks.h"
#include "pool/names.h"
#include "pool/open.h"
#include "pool/pool.h"
#include "pool/reserve.h"
#include "pool/retry.h"
#include "pool/waiter.h"

/* A connection as the destroyer meets it; peer lock held. True: it is idle no more, and the
 * destroyer's to close. */
static bool end_connection(struct pl_connection *connection)
{
    uint64_t seen = atomic_load(&connection->word);

    while (pl_word_state(seen) == PL_IDLE || pl_word_state(seen) == PL_PARKED) {
        if (pl_word_become_state(&connection->word, seen, PL_CLOSING)) {
            connection->close_reason = POOL_CLOSE_POOL;
            return true;
        }
        seen = atomic_load(&connection->word);
    }
    if (pl_word_state(seen) == PL_LENT && pl_word_pin_any(&connection->word)) {
        pl_connection_doom(connection, PL_DOOM_POOL);
        pl_connection_shut(connection);
        pl_channel_end(connection);
        if (pl_word_unpin(&connection->word))
            return true;
    }
    return false;
}

/* Does the destroyer have something to do with it yet? One that somebody watches has a last call to
 * get. Peer lock held. */
static bool is_unended(const struct pl_connection *connection)
{
    return atomic_load(&connection->doom) != PL_DOOM_POOL || pl_channel_of(connection);
}

/* Closes what is idle, shuts down what is lent, one at a time: closing takes the lock. */
static void end_connections(struct pl_peer *peer)
{
    struct pl_connection *mine;

    do {
        mine = NULL;
        pthread_mutex_lock(&peer->lock);
        PL_LIST_EACH(link, &peer->shared.all) {
            struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);

            if (!mine && is_unended(connection) && end_connection(connection))
                mine = connection;
        }
        pthread_mutex_unlock(&peer->lock);
        if (mine)
            pl_peer_finish_close(mine);
    } while (mine);
}

/* The next peer that was not told of the end yet, entered and told; NULL: none is left. */
static struct pl_peer *next_peer(struct pool *pool)
{
    struct pl_peer *peer = NULL;

    pthread_mutex_lock(&pool->lock);
    if (!pl_list_is_empty(&pool->all_peers)) {
        peer = pl_container(pool->all_peers.next, struct pl_peer, pool_link);
        atomic_fetch_or(&peer->hints, PL_HINT_CLOSING);
        if (peer->is_ended) {
            peer = NULL;
        } else {
            peer->is_ended = true;
            pl_list_unlink(&peer->pool_link);
            pl_list_push_back(&pool->all_peers, &peer->pool_link);
            pl_peer_join(peer);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return peer;
}

/* A peer of which that holds, entered; NULL: none. */
static struct pl_peer *next_peer_that(struct pool *pool, bool (*holds)(struct pl_peer *peer))
{
    struct pl_peer *found = NULL;

    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->all_peers) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, pool_link);

        if (found)
            break;
        pthread_mutex_lock(&peer->lock);
        if (holds(peer)) {
            found = peer;
            peer->shared.users++;
        }
        pthread_mutex_unlock(&peer->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return found;
}

static bool has_ordered(struct pl_peer *peer)
{
    return pl_open_has_unready(peer, true);
}

static bool has_unready(struct pl_peer *peer)
{
    return pl_open_has_unready(peer, false);
}

void pl_pool_abort_unready(struct pool *pool, bool is_ordered)
{
    struct pl_peer *peer;

    while (!pl_pool_is_forked(pool) &&
           (peer = next_peer_that(pool, is_ordered ? has_ordered : has_unready))) {
        pl_open_abort(peer, is_ordered);
        pl_peer_leave(peer);
    }
}

static bool has_reading(struct pl_peer *peer)
{
    return pl_names_are_read(peer);
}

static void abort_readings(struct pool *pool)
{
    struct pl_peer *peer;

    while (!pl_pool_is_forked(pool) && (peer = next_peer_that(pool, has_reading))) {
        pl_names_abort(peer);
        pl_peer_leave(peer);
    }
}

/* The part of the end that only the mux thread may do. */
struct end {
    struct pl_post post;
    struct pool *pool;
    struct pl_thread *thread;
    bool is_inside; /* a callback ends the pool: others may be due after it */
    _Atomic bool is_done;
};

static void on_end(struct pl_post *post)
{
    struct end *end = pl_container(post, struct end, post);
    struct pl_thread *thread = end->thread;

    if (pl_mux_is_dispatching(end->pool->mux) && !end->is_inside)
        /* borrows that were granted in this batch */
        pl_mux_run_posted_here(end->pool->mux, end->pool);
    pl_pool_abort_unready(end->pool, false);
    abort_readings(end->pool);
    if (!pl_pool_is_forked(end->pool))
        pl_close_end(end->pool);
    atomic_store(&end->is_done, true);
    pl_thread_wake(thread);
}

/* The second one is posted behind all that the first one made to be posted: last calls of
 * channels. */
static void end_on_mux(struct pool *pool)
{
    struct pl_thread *self = pl_thread_self();
    bool is_inside = pl_mux_is_dispatching(pool->mux);

    for (int round = 0; round < 2 && self; round++) {
        struct end end = { .post = { .run = on_end, .owner = pool },
                           .pool = pool,
                           .thread = self,
                           .is_inside = is_inside };

        if (pl_pool_is_forked(pool))
            return;
        if (is_inside) {
            on_end(&end.post);
            continue;
        }
        pl_mux_post(pool->mux, &end.post);
        while (!atomic_load(&end.is_done) && !pl_pool_is_forked(pool)) {
            if (pool->mux->has_thread)
                pl_thread_wait(self, PL_NEVER);
            else if (!pl_mux_visit(pool->mux, pool))
                pl_thread_wait(self, pl_after(pl_os->now_ns(), PL_MS));
        }
    }
}

/* Peer lock held. */
static bool has_unended(struct pl_peer *peer)
{
    PL_LIST_EACH(link, &peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);

        if (pl_word_state(atomic_load(&connection->word)) == PL_LENT &&
            (!atomic_load(&connection->doom) || pl_channel_of(connection)))
            return true;
    }
    return false;
}

/* One that was in the pool's own hands when the rest was ended, and was lent since. */
static void end_stragglers(struct pool *pool)
{
    struct pl_peer *peer;

    while ((peer = next_peer_that(pool, has_unended))) {
        end_connections(peer);
        pl_peer_leave(peer);
    }
}

/* Asynchronous calls, queries and channels that were not told their end, hooks that run. */
static bool has_last_calls(struct pool *pool)
{
    return atomic_load(&pool->undelivered) || atomic_load(&pool->channels) ||
           pl_hooks_run_elsewhere(pool);
}

/* Waits for them, unless called from where they are made. */
static void await_last_calls(struct pool *pool)
{
    struct pl_thread *self = pl_thread_self();
    bool is_inside = pl_mux_is_dispatching(pool->mux) || pl_workers_are_here(&pool->workers);

    while (self && !is_inside && !pl_pool_is_forked(pool) && has_last_calls(pool)) {
        end_stragglers(pool);
        if (pool->mux->has_thread || !pl_mux_visit(pool->mux, pool) || has_last_calls(pool))
            pl_thread_wait(self, pl_after(pl_os->now_ns(), PL_MS));
    }
}

/* False: somebody else ended it already. */
static bool begin_end(struct pool *pool)
{
    uint32_t state = atomic_load(&pool->state);

    do {
        if (state != PL_POOL_LIVE && state != PL_POOL_PAUSED && state != PL_POOL_CLOSING)
            return false;
    } while (!atomic_compare_exchange_weak(&pool->state, &state, PL_POOL_DESTROYED));
    return true;
}

void pool_destroy(struct pool *pool)
{
    struct pl_failure failure = pl_failure_make(POOL_E_CLOSING, POOL_PHASE_WAIT, 0);
    struct pl_peer *peer;

    if (!pool)
        return;
    if (!begin_end(pool)) {
        if (pl_pool_is_forked(pool))
            pl_fork_destroy(pool);
        return;
    }
    pl_retry_wake_all(pool);
    while (!pl_pool_is_forked(pool) && (peer = next_peer(pool))) {
        pl_peer_fail_waiters(peer, &failure, 0, true);
        pl_exchange_end(peer);
        end_connections(peer);
        pl_peer_leave(peer);
    }
    pl_reserve_end(pool);
    end_on_mux(pool);
    await_last_calls(pool);
    if (pl_pool_is_forked(pool)) {      /* in one of its last callbacks */
        pl_fork_destroy(pool);
        return;
    }
    pl_event_of_pool(pool, POOL_EVENT_POOL_CLOSED);
    pl_events_stop(pool);
    pl_pool_leave(pool);
}
