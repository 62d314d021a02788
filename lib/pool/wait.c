/* wait.c: see wait.h. Whoever returns a connection looks at the hint after its swap; who waits
 * looks at the idle ones after the hint: no wake-up is lost.
 */
#include "pool/wait.h"

#include <errno.h>

#include "base/os.h"
#include "pool/backoff.h"
#include "pool/exchange.h"
#include "pool/nested.h"
#include "pool/open.h"
#include "pool/ticket.h"
#include "pool/waiter.h"

/* Nothing stands here, and nothing is under way but what finds no room. Peer lock held. */
static bool is_for_room(struct pl_peer *peer)
{
    bool is_for_room = peer->shared.is_short;

    PL_LIST_EACH(link, &peer->shared.all)
        is_for_room = is_for_room && pl_container(link, struct pl_connection, all_link)->is_short;
    return is_for_room;
}

struct pl_failure pl_wait_out_of_time(struct pl_peer *peer, uint64_t *tried_ns)
{
    enum pool_phase phase = pl_open_phase(peer, tried_ns);
    struct pl_failure failure = pl_failure_because(
        phase == POOL_PHASE_WAIT ? PL_REASON_QUEUE : PL_REASON_DEADLINE, phase, ETIMEDOUT);
    bool is_short;
    int cause;

    pthread_mutex_lock(&peer->lock);
    is_short = is_for_room(peer);
    cause = peer->shared.short_of;
    pl_backoff_blame(peer, &failure);
    pthread_mutex_unlock(&peer->lock);
    if (!is_short)
        return failure;
    *tried_ns = 0;
    return cause ? pl_failure_make(POOL_E_RESOURCE, POOL_PHASE_CONNECT, cause)
                 : pl_failure_because(PL_REASON_CAP, POOL_PHASE_WAIT, 0);
}

void pl_wait_calm_down(struct pl_peer *peer)
{
    if (!pl_list_is_empty(&peer->shared.waiters))
        return;
    peer->shared.is_short = false;
    if (!peer->shared.is_wanting)
        return;
    peer->shared.is_wanting = peer->shared.was_asked = false;
    pl_room_stop_wanting(peer->pool->room, peer);
}

/* What a waiter who is awake finds; peer lock held. True: the wait is over. */
static bool look_around(struct pl_borrow *borrow, struct pl_waiter *waiter, bool is_over)
{
    struct pl_peer *peer = borrow->peer;

    if (waiter->state == PL_WAITER_FAILED) {
        borrow->failure = waiter->failure;
        borrow->tried_ns = waiter->tried_ns;
    }
    if (waiter->state != PL_WAITER_QUEUED)
        return true;
    waiter->is_woken = false;
    waiter->connection = waiter->wants_fresh ? NULL : pl_peer_take_idle(peer, false);
    if (!waiter->connection && !is_over)
        return false;
    pl_waiter_unlink(peer, waiter);
    return true;
}

static bool was_told(struct pl_peer *peer, const struct pl_waiter *waiter)
{
    bool was_told;

    pthread_mutex_lock(&peer->lock);
    was_told = waiter->is_woken || waiter->state != PL_WAITER_QUEUED;
    pthread_mutex_unlock(&peer->lock);
    return was_told;
}

static void wait_in_queue(struct pl_borrow *borrow, struct pl_waiter *waiter)
{
    struct pl_peer *peer = borrow->peer;
    uint64_t deadline_ns = pl_earlier(borrow->deadline_ns, borrow->wait_deadline_ns),
             until_ns = deadline_ns;
    bool is_over = false, has_ended = false, must_supply = true;

    do {
        if (must_supply)
            pl_peer_supply(peer);
        if (pl_pool_is_forked(borrow->pool))
            return;                     /* on_none_removable did; pl_borrow_any() sees it, too */
        if (must_supply && was_told(peer, waiter))
            until_ns = 0;               /* the hook may have waited, and used up our wake-up */
        if (!pl_thread_wait(borrow->self, until_ns))
            is_over = pl_is_past(deadline_ns);
        until_ns = deadline_ns;
        if (is_over)
            borrow->failure = pl_wait_out_of_time(
                peer, &borrow->tried_ns); /* while it still shows what was waited for */
        pthread_mutex_lock(&peer->lock);
        has_ended = look_around(borrow, waiter, is_over);
        if (has_ended)
            pl_wait_calm_down(peer);
        pthread_mutex_unlock(&peer->lock);
        /* Nothing was opened for whom a line was to serve, which another may have taken. */
        must_supply = atomic_load(&peer->exchange);
    } while (!has_ended);
    /* What was left for us while we were called may now make place for a fresh one. */
    if (pl_get(peer->shared.waiting_fresh))
        pl_peer_supply(peer);
}

/* May this caller take what is idle? Where nobody waits for it, or came before, nobody is passed.
 * Peer lock held. */
static bool may_take_idle(const struct pl_borrow *borrow, const struct pl_waiter *waiter)
{
    const struct pl_waiter *first = pl_waiter_first(borrow->peer, false);

    if ((borrow->call.flags & POOL_FRESH) || pl_pool_admission(borrow->pool, borrow->has_waited))
        return false;
    return !first || first->queued_ns > waiter->queued_ns ||
           pl_waiter_may_be_passed(borrow->peer, first, pl_os->now_ns());
}

/* A blocking caller must not stop the mux that it waits for; an asynchronous one does not. */
static bool would_block(const struct pl_borrow *borrow, const struct pl_waiter *waiter)
{
    return waiter->thread && pl_mux_is_here(borrow->pool->mux);
}

/* Where nobody may wait for what others have, one may still be opened. Peer lock held. */
static bool waits_for_opening_only(const struct pl_peer *peer, const struct pool_options *options,
                                   uint32_t before)
{
    return !options->max_waiters && peer->shared.count < options->max_per_address &&
           before < options->max_connecting;
}

/* May this caller queue? Where a refusal is more than its status, borrow->failure says it. Peer
 * lock held. */
static enum pool_status may_queue(struct pl_borrow *borrow, const struct pl_waiter *waiter)
{
    struct pl_peer *peer = borrow->peer;
    const struct pool_options *options = &borrow->pool->settings.options;
    enum pool_status refusal = pl_pool_admission(borrow->pool, borrow->has_waited);
    uint32_t before = borrow->queued_ns ? 0 : peer->shared.waiting; /* who has a place keeps it */

    if (refusal)
        return refusal; /* paused or closed since the call began */
    if (atomic_load(&peer->hints) & PL_HINT_CLOSING)
        return POOL_E_CLOSING;
    if ((peer->shared.count == 0 || waiter->wants_fresh) &&
        pl_backoff_refuses(peer, &borrow->failure))
        return POOL_E_SUSPENDED;
    if (pl_is_past(pl_earlier(borrow->deadline_ns, borrow->wait_deadline_ns)))
        return POOL_E_TIMEOUT; /* no time at all was given: only what is idle could be had */
    if (before >= options->max_waiters && !waits_for_opening_only(peer, options, before))
        return POOL_E_FULL;
    if (waiter->is_hasty && before >= pl_waiter_coming(peer, waiter->wants_fresh))
        return POOL_E_FULL;
    if (waiter->thread && (borrow->holds_pool || pl_nested_holds_peer(peer, waiter->thread))) {
        borrow->failure = pl_failure_make(POOL_E_FULL, POOL_PHASE_WAIT, EDEADLK);
        return POOL_E_FULL;
    }
    /* Last: the others would not wait. */
    return would_block(borrow, waiter) ? POOL_E_WOULD_BLOCK : POOL_OK;
}

/* Joins the queue, unless something turns out to be idle after all; peer lock held. */
static struct pl_connection *join_queue(struct pl_borrow *borrow, struct pl_waiter *waiter)
{
    struct pl_peer *peer = borrow->peer;
    struct pl_connection *connection;
    bool may_take = may_take_idle(borrow, waiter);

    pl_waiter_link(peer, waiter, borrow->queued_ns != 0);
    borrow->queued_ns = waiter->queued_ns;
    pl_borrow_note_wait(borrow);
    /* Whoever returns a connection looks at the hint after its swap; we look at the idle ones after
     * the hint. */
    connection = may_take ? pl_peer_take_idle(peer, false) : NULL;
    if (connection)
        pl_waiter_unlink(peer, waiter);
    return connection;
}

struct pl_connection *pl_wait_join(struct pl_borrow *borrow, struct pl_waiter *waiter,
                                   enum pool_status *status)
{
    struct pl_connection *connection = NULL;

    *status = POOL_OK;
    waiter->queued_ns = borrow->queued_ns ? borrow->queued_ns : pl_os->now_ns();
    waiter->wants_fresh = borrow->call.flags & POOL_FRESH;
    waiter->is_hasty = borrow->call.flags & POOL_DONT_WAIT;
    waiter->is_for_line = borrow->is_for_line;
    if (may_take_idle(borrow, waiter))
        connection = pl_peer_take_idle(borrow->peer, would_block(borrow, waiter));
    if (connection)
        return connection;
    *status = may_queue(borrow, waiter);
    return *status ? NULL : join_queue(borrow, waiter);
}

struct pl_failure pl_wait_refusal(enum pool_status status)
{
    if (status == POOL_E_TIMEOUT)
        return pl_failure_because(PL_REASON_QUEUE, POOL_PHASE_WAIT, ETIMEDOUT);
    return pl_failure_make(status, POOL_PHASE_WAIT, 0);
}

struct pl_connection *pl_wait_for_some(struct pl_borrow *borrow)
{
    struct pl_peer *peer = borrow->peer;
    struct pl_waiter waiter = { .thread = borrow->self };
    enum pool_status status = POOL_E_CANCELED;
    bool is_queued = false;

    if (pl_pool_is_forked(borrow->pool))
        return NULL;
    borrow->failure = (struct pl_failure){ 0 };
    borrow->tried_ns = 0;
    borrow->holds_pool = pl_nested_holds_pool(borrow->pool, borrow->self);
    if (pl_ticket_hold(borrow->ticket, peer, &waiter)) {
        pthread_mutex_lock(&peer->lock);
        waiter.connection = pl_wait_join(borrow, &waiter, &status);
        is_queued = !status && !waiter.connection; /* from the unlocking on it may be served */
        pthread_mutex_unlock(&peer->lock);
        pl_ticket_release(borrow->ticket);
    }
    if (is_queued && waiter.is_for_line)
        pl_exchange_note_wait(peer);
    if (status && !borrow->failure.status)
        borrow->failure = pl_wait_refusal(status);
    else if (is_queued)
        wait_in_queue(borrow, &waiter);
    pl_ticket_wait_end(borrow->ticket);
    return waiter.connection;
}
