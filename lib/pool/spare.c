/* spare.c: see spare.h. */
#include "pool/spare.h"

#include "base/os.h"
#include "pool/open.h"
#include "pool/pool.h"
#include "pool/tend.h"

#define AGAIN_NS (1000 * PL_MS)         /* between attempts that come to nothing */

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

uint32_t pl_spare_least(const struct pl_peer *peer)
{
    const struct pool_options *options = &peer->pool->settings.options;

    if (!peer->shared.keeps_spares || (atomic_load(&peer->hints) & PL_HINT_CLOSING) ||
        pl_pool_refusal(peer->pool))
        return 0;
    return smaller(options->min_idle, smaller(options->max_idle, options->max_per_address));
}

void pl_spare_fail(struct pl_peer *peer, const struct pl_failure *failure)
{
    bool is_short_of = failure->status == POOL_E_RESOURCE || failure->status == POOL_E_MEMORY;

    peer->shared.spare_ns = pl_after(pl_os->now_ns(), AGAIN_NS);
    if (failure->status && !is_short_of && peer->shared.count <= 1)
        peer->shared.keeps_spares = false; /* it was the last one */
}

void pl_spare_lose(struct pl_peer *peer, const struct pl_connection *connection)
{
    uint64_t again_ns = pl_after(connection->opened_ns, AGAIN_NS);

    switch ((enum pool_close_reason)connection->close_reason) {
    case POOL_CLOSE_PEER:
    case POOL_CLOSE_ERROR:
    case POOL_CLOSE_DIRTY:
        if (!pl_get(connection->uses) && again_ns > peer->shared.spare_lost_ns)
            peer->shared.spare_lost_ns = again_ns;
        break;
    default:
        break;                          /* our own doing */
    }
}

void pl_spare_begin(struct pl_peer *peer)
{
    if (!peer->pool->settings.options.min_idle)
        return;
    pthread_mutex_lock(&peer->lock);
    peer->shared.keeps_spares = true;
    peer->shared.spare_ns = 0;
    pthread_mutex_unlock(&peer->lock);
    pl_spare_note(peer);
}

/* Not before then is one opened. Peer lock held. */
static uint64_t due_of(const struct pl_peer *peer)
{
    return peer->shared.spare_ns > peer->shared.spare_lost_ns ? peer->shared.spare_ns
                                                              : peer->shared.spare_lost_ns;
}

void pl_spare_note(struct pl_peer *peer)
{
    uint64_t when_ns = pl_os->now_ns(), due_ns;
    bool is_short;

    if (!peer->pool->settings.options.min_idle)
        return;
    pthread_mutex_lock(&peer->lock);
    is_short = peer->shared.count < pl_spare_least(peer);
    due_ns = due_of(peer);
    if (when_ns < due_ns)
        when_ns = due_ns;
    pthread_mutex_unlock(&peer->lock);
    if (is_short)
        pl_tend_at(peer->pool->room, peer, when_ns);
}

uint64_t pl_spare_tend(struct pl_peer *peer, uint64_t now_ns)
{
    bool is_short, is_time;

    if (!peer->pool->settings.options.min_idle)
        return PL_NEVER;
    pthread_mutex_lock(&peer->lock);
    is_time = now_ns >= due_of(peer) && !atomic_load(&pl_room_wanted);
    pthread_mutex_unlock(&peer->lock);
    if (is_time)
        pl_peer_supply_spares(peer);
    if (pl_pool_is_forked(peer->pool))
        return PL_NEVER;
    pthread_mutex_lock(&peer->lock);
    is_short = peer->shared.keeps_spares && peer->shared.count < pl_spare_least(peer);
    pthread_mutex_unlock(&peer->lock);
    return is_short ? pl_after(now_ns, AGAIN_NS) : PL_NEVER;
}
