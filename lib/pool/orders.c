/* orders.c: what a program tells a pool to do with one of its connections, pauses, and what orders
 * share. Clearing, closing and reserving have files of their own.
 */
#include "pool/orders.h"

#include "base/os.h"
#include "pool/events.h"
#include "pool/exchange.h"
#include "pool/round.h"

enum pool_status pl_orders_refusal(const struct pool *pool)
{
    enum pool_status refusal = pl_pool_refusal(pool); /* one look: the state may change */

    return refusal == POOL_E_CLEARED ? POOL_OK : refusal;
}

/* ---- errands */

struct pl_errand {
    struct pl_post post;
    struct pool *pool; /* counted once it is under way */
    bool is_forced;
};

static void on_errand(struct pl_post *post)
{
    struct pl_errand *errand = pl_container(post, struct pl_errand, post);
    struct pool *pool = errand->pool;

    pl_pool_abort_unready(pool, !errand->is_forced);
    pl_os->free(errand);
    pl_pool_leave(pool);
}

struct pl_errand *pl_errand_make(struct pool *pool)
{
    struct pl_errand *errand = pl_zalloc(sizeof(*errand));

    if (errand)
        *errand = (struct pl_errand){ .post = { .run = on_errand }, .pool = pool };
    return errand;
}

void pl_errand_run(struct pl_errand *errand, bool is_forced)
{
    errand->is_forced = is_forced;
    pl_pool_ref(errand->pool);
    pl_mux_post(errand->pool->mux, &errand->post);
}

void pl_errand_drop(struct pl_errand *errand)
{
    pl_os->free(errand);
}

/* ---- pauses */

enum pool_status pl_orders_pause(struct pool *pool)
{
    struct pl_round round = {
        .failure = pl_failure_make(POOL_E_CLEARED, POOL_PHASE_WAIT, 0),
        .idle = PL_ROUND_LEAVE,
    };
    uint32_t live = PL_POOL_LIVE;

    if (!atomic_compare_exchange_strong(&pool->state, &live, PL_POOL_PAUSED))
        return pl_orders_refusal(pool);
    pl_round_begin(&round);
    pl_round_of_pool(&round, pool);
    return POOL_OK;
}

enum pool_status pool_pause(struct pool *pool)
{
    enum pool_status status;

    if (!pool)
        return POOL_E_ARGUMENT;
    status = pl_pool_enter(pool);
    if (status)
        return status;
    status = pl_orders_pause(pool);
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return status;
}

enum pool_status pool_ready(struct pool *pool)
{
    uint32_t paused = PL_POOL_PAUSED;
    enum pool_status status = POOL_OK;

    if (!pool)
        return POOL_E_ARGUMENT;
    status = pl_pool_enter(pool);
    if (status)
        return status;
    if (atomic_compare_exchange_strong(&pool->state, &paused, PL_POOL_LIVE))
        pl_event_of_pool(pool, POOL_EVENT_POOL_READY);
    else
        status = pl_orders_refusal(pool);
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return status;
}

/* ---- one connection */

/* Carries the round to one connection; answers whether it was meant and met. */
static bool order_one(struct pool *pool, uint64_t id, struct pl_round *round,
                      struct pl_errand *errand)
{
    pl_round_begin(round);
    pl_round_of_connection(round, pool, id);
    if (round->needs_mux)
        pl_errand_run(errand, false);
    else
        pl_errand_drop(errand);
    pl_round_finish(round);
    pl_events_tell(pool);
    return round->has_met;
}

bool pool_kill(struct pool *pool, uint64_t id)
{
    struct pl_round round = { .hints = PL_HINT_LOOK,
                              .idle = PL_ROUND_CLOSE,
                              .reason = POOL_CLOSE_DIRTY,
                              .doom = PL_DOOM_KILLED };
    struct pl_errand *errand;
    bool was_there;

    if (!pool || pl_pool_enter(pool))
        return false;
    errand = pl_errand_make(pool);
    round.spares_unready = errand == NULL;
    was_there = order_one(pool, id, &round, errand);
    pl_exchange_look(pool);
    pl_pool_leave(pool);
    return was_there;
}

bool pool_force_timeout(struct pool *pool, uint64_t id)
{
    struct pl_round round = { .is_for_lent = true,
                              .idle = PL_ROUND_LEAVE,
                              .doom = PL_DOOM_TIMEOUT };
    bool was_there;

    if (!pool || pl_pool_enter(pool))
        return false;
    was_there = order_one(pool, id, &round, NULL);
    pl_exchange_look(pool);
    pl_pool_leave(pool);
    return was_there;
}
