/* clear.c: a new generation. What there is at that moment is closed or marked in one round; what is
 * opened later has the peer's new epoch.
 */
#include "net/address.h"
#include "pool/events.h"
#include "pool/exchange.h"
#include "pool/orders.h"
#include "pool/round.h"

#define FLAGS (POOL_INTERRUPT | POOL_THEN_PAUSE)

/* At the peer of an address, or everywhere if it is NULL. */
static void go_round(struct pool *pool, const struct pool_address *address, struct pl_round *round)
{
    struct pl_peer *peer;

    if (!address) {
        pl_round_of_pool(round, pool);
        return;
    }
    peer = pl_pool_look_up(pool, address);
    if (!peer)
        return;
    pl_round_of_peer(round, peer);
    pl_peer_leave(peer);
}

static enum pool_status clear(struct pool *pool, const struct pool_address *address, uint32_t flags)
{
    struct pl_round round = {
        .failure = pl_failure_make(POOL_E_CLEARED, POOL_PHASE_WAIT, 0),
        .hints = PL_HINT_LOOK,
        .is_new_epoch = true,
        .idle = PL_ROUND_CLOSE,
        .reason = POOL_CLOSE_STALE,
        .doom = flags & POOL_INTERRUPT ? PL_DOOM_CLEARED : PL_DOOM_NONE,
    };
    struct pl_errand *errand = pl_errand_make(pool);
    enum pool_status status = errand ? pl_orders_refusal(pool) : POOL_E_MEMORY;

    if (!status && (flags & POOL_THEN_PAUSE))
        status = pl_orders_pause(pool);
    if (status) {
        pl_errand_drop(errand);
        return status;
    }
    pl_event_cleared(pool, address ? pool_address_text(address) : NULL);
    pl_round_begin(&round);
    go_round(pool, address, &round);
    if (round.needs_mux)
        pl_errand_run(errand, false);
    else
        pl_errand_drop(errand);
    pl_round_finish(&round);
    pl_exchange_look(pool);
    return POOL_OK;
}

enum pool_status pool_clear(struct pool *pool, const char *text, uint32_t flags)
{
    struct pool_address *address = NULL;
    enum pool_status status;

    if (!pool || (flags & ~(uint32_t)FLAGS))
        return POOL_E_ARGUMENT;
    status = pl_pool_enter(pool);
    if (status)
        return status;
    status = text ? pool_address_parse(text, &address, NULL) : POOL_OK;
    if (!status)
        status = clear(pool, address, flags);
    pool_address_unref(address);
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return status;
}
