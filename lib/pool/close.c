/* close.c: see close.h. The state CLOSING refuses what is new at the door; those who already wait
 * are served until none is left. A connection that comes back while the pool closes goes to the
 * first of them or ends. What he is handed may be no good, or break under him: whoever waited
 * counts until his whole call is over.
 */
#include "pool/close.h"

#include "base/os.h"
#include "pool/events.h"
#include "pool/exchange.h"
#include "pool/orders.h"
#include "pool/retry.h"
#include "pool/round.h"

/* Made before the state changes; freed when on_closed has been called. */
struct pl_closing {
    struct pl_post post;
    struct pl_timer timer; /* the end of the patience */
    struct pool *pool; /* counted */
    pool_done_fn *on_closed;
    void *user;
    bool is_told; /* pool->lock: the post is on its way */
};

/* ---- the last connection */

static void on_gone(struct pl_post *post)
{
    struct pl_closing *closing = pl_container(post, struct pl_closing, post);
    struct pool *pool = closing->pool;
    pool_done_fn *on_closed = closing->on_closed;
    void *user = closing->user;

    pl_mux_timer_close(pool->mux, &closing->timer);
    pthread_mutex_lock(&pool->lock);
    pool->closing = NULL;
    pthread_mutex_unlock(&pool->lock);
    pl_os->free(closing);
    if (on_closed)
        on_closed(user);
    pl_pool_leave(pool);
}

/* Pool lock held; posted under it, so pool_destroy(), which takes it later, posts behind. */
static void tell(struct pool *pool)
{
    if (!pool->closing || pool->closing->is_told)
        return;
    pool->closing->is_told = true;
    pl_mux_post(pool->mux, &pool->closing->post);
}

/* Pool lock held. */
static bool is_empty(struct pool *pool)
{
    bool is_empty = !atomic_load(&pool->waited);

    PL_LIST_EACH(link, &pool->all_peers) {
        struct pl_peer *peer = pl_container(link, struct pl_peer, pool_link);

        is_empty = is_empty && !pl_exchange_owes(peer);
        pthread_mutex_lock(&peer->lock);
        is_empty = is_empty && !peer->shared.count && !peer->shared.waiting;
        pthread_mutex_unlock(&peer->lock);
    }
    return is_empty;
}

void pl_close_look(struct pool *pool)
{
    if (atomic_load(&pool->state) != PL_POOL_CLOSING || atomic_load(&pool->total))
        return;
    pthread_mutex_lock(&pool->lock);
    if (atomic_load(&pool->state) == PL_POOL_CLOSING && is_empty(pool))
        tell(pool);
    pthread_mutex_unlock(&pool->lock);
}

void pl_close_end(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    tell(pool);
    pthread_mutex_unlock(&pool->lock);
}

/* ---- what closes it */

/* Those that nobody waits for end; the others go to who does. */
static void drain(struct pool *pool)
{
    struct pl_round round = { .hints = PL_HINT_LOOK,
                              .idle = PL_ROUND_GIVE_BACK,
                              .doom = PL_DOOM_NONE };

    pl_round_begin(&round);
    pl_round_of_pool(&round, pool);
    pl_round_finish(&round);
    pl_exchange_look(pool);
}

/* As pool_destroy() does it; with an errand for what only the mux may end, unless this is there. */
static void force(struct pool *pool, struct pl_errand *errand)
{
    struct pl_round round = {
        .failure = pl_failure_make(POOL_E_CLOSING, POOL_PHASE_WAIT, 0),
        .hints = PL_HINT_CLOSING | PL_HINT_LOOK,
        .idle = PL_ROUND_CLOSE,
        .reason = POOL_CLOSE_POOL,
        .doom = PL_DOOM_POOL,
    };

    pl_round_begin(&round);
    pl_round_of_pool(&round, pool);
    if (errand)
        pl_errand_run(errand, true);
    pl_round_finish(&round);
    pl_exchange_look(pool);
    pl_retry_wake_all(pool);            /* they are refused now */
}

static void on_drained(void *user)
{
    struct pl_closing *closing = user;
    struct pool *pool = closing->pool;

    if (atomic_load(&pool->state) != PL_POOL_CLOSING)
        return;
    force(pool, NULL);
    pl_pool_abort_unready(pool, false);
}

static struct pl_closing *make_closing(struct pool *pool, pool_done_fn *on_closed, void *user)
{
    struct pl_closing *closing = pl_zalloc(sizeof(*closing));

    if (!closing)
        return NULL;
    closing->post.run = on_gone;
    closing->pool = pool;
    closing->on_closed = on_closed;
    closing->user = user;
    if (pl_mux_timer_open(pool->mux, &closing->timer, on_drained, closing))
        return closing;
    pl_os->free(closing);
    return NULL;
}

static void drop_closing(struct pl_closing *closing)
{
    if (!closing)
        return;
    pl_mux_timer_close(closing->pool->mux, &closing->timer);
    pl_os->free(closing);
}

/* False: it is closing already. From the unlocking on, `closing` may be gone. */
static bool begin(struct pool *pool, struct pl_closing *closing, uint32_t drain_ms)
{
    uint32_t state;

    pthread_mutex_lock(&pool->lock);
    state = atomic_load(&pool->state);
    while ((state == PL_POOL_LIVE || state == PL_POOL_PAUSED) &&
           !atomic_compare_exchange_weak(&pool->state, &state, PL_POOL_CLOSING))
        continue;
    if (state == PL_POOL_LIVE || state == PL_POOL_PAUSED) {
        pl_pool_ref(pool);
        pool->closing = closing;
        if (drain_ms && drain_ms != POOL_NONE)
            pl_mux_timer_arm(pool->mux, &closing->timer,
                             pl_after(pl_os->now_ns(), drain_ms * PL_MS));
    }
    pthread_mutex_unlock(&pool->lock);
    return state == PL_POOL_LIVE || state == PL_POOL_PAUSED;
}

static enum pool_status close_pool(struct pool *pool, uint32_t drain_ms, pool_done_fn *on_closed,
                                   void *user)
{
    struct pl_closing *closing = make_closing(pool, on_closed, user);
    struct pl_errand *errand = pl_errand_make(pool);

    if (!closing || !errand || !begin(pool, closing, drain_ms)) {
        enum pool_status status = closing && errand ? pl_orders_refusal(pool) : POOL_E_MEMORY;

        drop_closing(closing);
        pl_errand_drop(errand);
        return status;
    }
    if (drain_ms) {
        pl_errand_drop(errand);
        drain(pool);
    } else {
        force(pool, errand);
    }
    pl_close_look(pool);
    return POOL_OK;
}

enum pool_status pool_close(struct pool *pool, uint32_t drain_ms, pool_done_fn *on_closed,
                            void *user)
{
    enum pool_status status;

    if (!pool)
        return POOL_E_ARGUMENT;
    status = pl_pool_enter(pool);
    if (status)
        return status;
    status = close_pool(pool, drain_ms == POOL_ZERO ? 0 : drain_ms, on_closed, user);
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return status;
}
