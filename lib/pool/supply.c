/* supply.c: when a peer opens connections: for those who wait, and to have spares. Deciding is in
 * decide.c; opening in open.c.
 */
#include <errno.h>

#include "base/os.h"
#include "pool/backoff.h"
#include "pool/decide.h"
#include "pool/exchange.h"
#include "pool/open.h"
#include "pool/pool.h"
#include "pool/spare.h"
#include "pool/waiter.h"

bool pl_open_take_share(struct pool *pool, bool *is_reserved)
{
    while (!pl_pool_try_share(pool, is_reserved)) {
        if (!pl_room_evict(pool->room, *is_reserved ? NULL : pool))
            return false;
    }
    return true;
}

/* A birth that was planned does not take place. */
static void take_back_plan(struct pl_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    peer->shared.count--;
    peer->shared.opening--;
    pthread_mutex_unlock(&peer->lock);
}

/* There is no room. Those who do not wait for it are told; waits somebody else? */
static bool has_patient_left(struct pl_peer *peer, const struct pl_failure *failure)
{
    struct pl_failure full = *failure;

    if (!failure->cause)
        full.status = POOL_E_FULL;
    pl_peer_fail_hasty(peer, &full);
    return pl_peer_has_waiters(peer);
}

/* False: the next one would fare no better. */
static bool open_one(struct pool *pool, struct pl_peer *peer, bool *has_begun)
{
    struct pl_failure failure = pl_failure_because(PL_REASON_CAP, POOL_PHASE_WAIT, 0);
    bool is_reserved, was_told;

    if (!pl_open_take_share(pool, &is_reserved)) {
        if (pl_pool_is_forked(pool))
            return false;
        take_back_plan(peer);
        failure.cause = is_reserved ? EMFILE : 0;
        if (!has_patient_left(peer, &failure))
            return false;
        if (pl_open_may_wait_for_room(peer, &was_told)) {
            if (was_told)
                return true;
            pl_room_want(pool->room, peer, is_reserved, failure.cause);
            return false;
        }
        pl_peer_fail_waiters(peer, &failure, 0, false);
        return true;                    /* the next one in the queue has his own chance */
    }
    if (!pl_open_begin(peer)) {
        take_back_plan(peer);
        pl_pool_give_share(pool);
        failure = pl_failure_make(POOL_E_MEMORY, POOL_PHASE_CONNECT, ENOMEM);
        pl_peer_fail_waiters(peer, &failure, 0, true);
        return false;
    }
    *has_begun = true;
    return true;
}

/* What there is to decide about; peer lock held. */
static struct pl_view view_of(const struct pl_peer *peer, const struct pool_options *options)
{
    bool is_closing = atomic_load(&peer->hints) & PL_HINT_CLOSING;

    return (struct pl_view){
        .waiting = peer->shared.waiting,
        .count = peer->shared.count,
        .max_count = options->max_per_address,
        .opening = peer->shared.opening,
        /* after a failure one tries for all */
        .max_opening = peer->shared.backoff.failures ? 1 : options->max_connecting,
        .is_closing = is_closing || peer->shared.is_wanting || peer->shared.holds ||
                      pl_backoff_is_pausing(peer),
    };
}

/* Decides, under the lock, whether one more connection should be opened, for whoever waits or as a
 * spare, and counts it as if it were there. */
static bool plan_one(struct pl_peer *peer, const struct pool_options *options, bool is_spare)
{
    struct pl_view view;
    bool is_wanted;

    pthread_mutex_lock(&peer->lock);
    view = view_of(peer, options);
    view.least = is_spare ? pl_spare_least(peer) : 0;
    is_wanted = pl_decide_dials(&view) > 0;
    peer->shared.count += is_wanted;
    peer->shared.opening += is_wanted;
    pthread_mutex_unlock(&peer->lock);
    return is_wanted;
}

/* Is what stands idle there for others in the queue, who take it as it is and go first? Peer lock
 * held. */
static bool is_spoken_for(struct pl_peer *peer)
{
    uint32_t takers = peer->shared.waiting - pl_get(peer->shared.waiting_fresh);

    return takers && pl_peer_count_idle(peer) <= takers &&
           !pl_waiter_wants_place(peer, pl_waiter_first(peer, false));
}

/* Closes an idle connection of the peer for somebody who wants a fresh one and finds no place. */
static bool make_place(struct pl_peer *peer, const struct pool_options *options)
{
    struct pl_connection *coldest = NULL;
    struct pl_view view;

    if (!pl_get(peer->shared.waiting_fresh))
        return false;
    pthread_mutex_lock(&peer->lock);
    view = view_of(peer, options);
    view.max_count = UINT32_MAX;
    if (pl_waiter_wants_place(peer, NULL) && pl_decide_dials(&view) && !is_spoken_for(peer))
        coldest = pl_peer_take_coldest(peer);
    peer->shared.holds += coldest != NULL; /* until we look ourselves */
    pthread_mutex_unlock(&peer->lock);
    if (!coldest)
        return false;
    pl_peer_close(coldest, POOL_CLOSE_EVICTED);
    if (pl_pool_is_forked(peer->pool))
        return false;
    pthread_mutex_lock(&peer->lock);
    peer->shared.holds--;
    pthread_mutex_unlock(&peer->lock);
    return true;
}

/* A line that carried nothing was given back, and nobody needs more than that: who still waits is
 * alone, takes what is idle, and finds it there. */
static bool is_served_by_queries(struct pl_peer *peer)
{
    bool is_enough;

    if (pl_pool_is_forked(peer->pool) || !(atomic_load(&peer->hints) & PL_HINT_WAITERS) ||
        !pl_exchange_yield(peer))
        return false;
    pthread_mutex_lock(&peer->lock);
    is_enough = !peer->shared.waiting ||
                (peer->shared.waiting == 1 && !pl_get(peer->shared.waiting_fresh) &&
                 pl_peer_count_idle(peer));
    pthread_mutex_unlock(&peer->lock);
    return is_enough;
}

bool pl_peer_supply(struct pl_peer *peer)
{
    struct pool *pool = peer->pool;
    const struct pool_options *options = &pool->settings.options;
    bool has_begun = false, may_go_on = true;

    if (is_served_by_queries(peer))
        return false;
    while (may_go_on && !pl_pool_is_forked(pool)) {
        if (plan_one(peer, options, false))
            may_go_on = open_one(pool, peer, &has_begun);
        else
            may_go_on = make_place(peer, options);
    }
    return has_begun;
}

/* Spares take what is free, and nothing from others. Who queued since one was planned has counted
 * on it. */
static bool open_spare(struct pool *pool, struct pl_peer *peer)
{
    bool is_reserved, has_share = pl_pool_try_share(pool, &is_reserved);

    if (has_share && pl_open_begin(peer))
        return true;
    take_back_plan(peer);
    if (has_share)
        pl_pool_give_share(pool);
    pl_peer_supply(peer);
    return false;
}

void pl_peer_supply_spares(struct pl_peer *peer)
{
    const struct pool_options *options = &peer->pool->settings.options;

    while (plan_one(peer, options, true) && open_spare(peer->pool, peer))
        continue;
}
