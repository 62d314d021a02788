/* waiter.c: see waiter.h. */
#include "pool/waiter.h"

#include "base/os.h"
#include "pool/decide.h"
#include "pool/exchange.h"
#include "pool/pool.h"

static struct pl_waiter *from_link(struct pl_list *link)
{
    return pl_container(link, struct pl_waiter, link);
}

void pl_waiter_link(struct pl_peer *peer, struct pl_waiter *waiter, bool is_again)
{
    struct pl_list *waiters = &peer->shared.waiters, *place = is_again ? waiters->next : waiters;

    while (place != waiters && from_link(place)->queued_ns < waiter->queued_ns)
        place = place->next;
    pl_list_link_before(place, &waiter->link);
    peer->shared.waiting++;
    peer->shared.waiting_lines += waiter->is_for_line;
    pl_add(peer->shared.waiting_fresh, waiter->wants_fresh);
    atomic_fetch_or(&peer->hints, PL_HINT_WAITERS);
}

void pl_waiter_unlink(struct pl_peer *peer, struct pl_waiter *waiter)
{
    pl_list_unlink(&waiter->link);
    peer->shared.waiting--;
    peer->shared.waiting_lines -= waiter->is_for_line;
    pl_add(peer->shared.waiting_fresh, -(uint32_t)waiter->wants_fresh);
    if (pl_list_is_empty(&peer->shared.waiters))
        atomic_fetch_and(&peer->hints, ~(uint32_t)PL_HINT_WAITERS);
    if (PL_UNLIKELY(peer->shared.is_yielded_to))
        pl_exchange_note_served(peer);
}

struct pl_waiter *pl_waiter_first(struct pl_peer *peer, bool is_new)
{
    PL_LIST_EACH(link, &peer->shared.waiters) {
        if (is_new || !from_link(link)->wants_fresh)
            return from_link(link);
    }
    return NULL;
}

struct pl_waiter *pl_waiter_at(struct pl_peer *peer, uint32_t nth)
{
    PL_LIST_EACH(link, &peer->shared.waiters) {
        if (!nth--)
            return from_link(link);
    }
    return NULL;
}

struct pl_waiter *pl_waiter_next_untold(struct pl_peer *peer)
{
    PL_LIST_EACH(link, &peer->shared.waiters) {
        struct pl_waiter *waiter = from_link(link);

        if (!waiter->is_woken && !waiter->wants_fresh)
            return waiter;
    }
    return NULL;
}

bool pl_waiter_may_be_passed(const struct pl_peer *peer, const struct pl_waiter *waiter,
                             uint64_t now_ns)
{
    return pl_decide_may_barge(pl_since(waiter->queued_ns, now_ns),
                               peer->pool->settings.barge_ns);
}

/* The result of a wait stands. The peer lock keeps a blocking waiter's stack there. */
static void tell_waiter(struct pl_peer *peer, struct pl_waiter *waiter)
{
    if (waiter->thread)
        pl_thread_wake(waiter->thread);
    else
        pl_mux_post(peer->pool->mux, waiter->post);
}

/* A waiter that was told to look for itself leaves without having looked: what it was told of is
 * the next one's to find. */
static void pass_call_on(struct pl_peer *peer, const struct pl_waiter *waiter)
{
    struct pl_waiter *next = waiter->is_woken ? pl_waiter_next_untold(peer) : NULL;

    if (!next)
        return;
    if (next->thread) {
        next->is_woken = true;
        tell_waiter(peer, next);
        return;
    }
    next->connection = pl_peer_take_idle(peer, false);
    if (!next->connection)
        return;
    pl_waiter_unlink(peer, next);
    next->state = PL_WAITER_SERVED;
    tell_waiter(peer, next);
}

struct pl_thread *pl_waiter_serve(struct pl_peer *peer, struct pl_waiter *waiter,
                                  struct pl_connection *connection)
{
    pl_waiter_unlink(peer, waiter);
    pass_call_on(peer, waiter);
    waiter->state = PL_WAITER_SERVED;
    waiter->connection = connection;
    if (!waiter->thread)
        pl_mux_post(peer->pool->mux, waiter->post);
    return waiter->thread;
}

void pl_waiter_fail(struct pl_peer *peer, struct pl_waiter *waiter,
                    const struct pl_failure *failure)
{
    pl_waiter_unlink(peer, waiter);
    pass_call_on(peer, waiter);
    waiter->state = PL_WAITER_FAILED;
    waiter->failure = *failure;
    tell_waiter(peer, waiter);
}

/* Whoever came while a dial was under way has time left when the dial has none, and another one is
 * begun for him; but not where the peer is suspended now. Peer lock held. */
static bool concerns(const struct pl_peer *peer, const struct pl_waiter *waiter,
                     const struct pl_failure *failure, uint64_t tried_ns)
{
    return failure->reason != PL_REASON_DEADLINE || !tried_ns || waiter->queued_ns <= tried_ns ||
           peer->shared.backoff.is_suspended;
}

void pl_peer_fail_waiters(struct pl_peer *peer, const struct pl_failure *failure, uint64_t tried_ns,
                          bool all)
{
    struct pl_waiter *waiter;

    if (pl_pool_is_forked(peer->pool))
        return;
    pthread_mutex_lock(&peer->lock);
    do {
        waiter = pl_waiter_first(peer, true);
        if (!waiter || !concerns(peer, waiter, failure, tried_ns))
            break;
        waiter->tried_ns = tried_ns;
        pl_waiter_fail(peer, waiter, failure);
    } while (all);
    pthread_mutex_unlock(&peer->lock);
}

/* The first one who is hasty, or who is not. */
static struct pl_waiter *first_hasty(struct pl_peer *peer, bool is_hasty)
{
    PL_LIST_EACH(link, &peer->shared.waiters) {
        if (from_link(link)->is_hasty == is_hasty)
            return from_link(link);
    }
    return NULL;
}

void pl_peer_fail_hasty(struct pl_peer *peer, const struct pl_failure *failure)
{
    struct pl_waiter *hasty;

    if (pl_pool_is_forked(peer->pool))
        return;
    pthread_mutex_lock(&peer->lock);
    while ((hasty = first_hasty(peer, true))) /* failing one may serve another */
        pl_waiter_fail(peer, hasty, failure);
    pthread_mutex_unlock(&peer->lock);
}

bool pl_peer_has_patient(struct pl_peer *peer)
{
    bool has_patient;

    pthread_mutex_lock(&peer->lock);
    has_patient = first_hasty(peer, false) != NULL;
    pthread_mutex_unlock(&peer->lock);
    return has_patient;
}

bool pl_peer_has_waiters(struct pl_peer *peer)
{
    bool has_waiters;

    pthread_mutex_lock(&peer->lock);
    has_waiters = !pl_list_is_empty(&peer->shared.waiters);
    pthread_mutex_unlock(&peer->lock);
    return has_waiters;
}

uint32_t pl_waiter_coming(struct pl_peer *peer, bool with_idle)
{
    uint32_t most = peer->pool->settings.options.max_per_address, coming = peer->shared.opening;

    if (peer->shared.is_wanting)
        return 0;
    if (peer->shared.count < most)
        coming += most - peer->shared.count;
    return with_idle ? coming + pl_peer_count_idle(peer) : coming;
}

/* Those who take what comes back go first, until who wants a fresh one stands in front of them and
 * has waited for long enough. */
bool pl_waiter_wants_place(struct pl_peer *peer, const struct pl_waiter *taker)
{
    const struct pl_waiter *first = pl_waiter_first(peer, true);
    uint64_t now_ns;

    if (pl_get(peer->shared.waiting_fresh) <= peer->shared.opening ||
        peer->shared.count < peer->pool->settings.options.max_per_address)
        return false;
    if (!taker)
        return true;
    now_ns = pl_os->now_ns();
    return first->wants_fresh && now_ns > first->queued_ns &&
           !pl_waiter_may_be_passed(peer, first, now_ns);
}
