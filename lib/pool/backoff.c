/* backoff.c: see backoff.h. A peer that has failed is kept until its failures are forgotten, so
 * that callers who come one after the other meet the same pause.
 */
#include "pool/backoff.h"

#include <string.h>

#include "base/os.h"
#include "pool/log.h"
#include "pool/pool.h"
#include "pool/tend.h"

#define FORGET_NS (10000 * PL_MS)       /* without an attempt, after a pause, its cause is past */

/* The peer or the way to it failed, not the program, and not what we have of our own. */
static bool is_the_peers(const struct pl_failure *failure)
{
    switch ((enum pool_status)failure->status) {
    case POOL_E_REFUSED:
    case POOL_E_CONNECT:
    case POOL_E_ACCESS:
    case POOL_E_TIMEOUT:
    case POOL_E_CLOSED:
    case POOL_E_BROKEN:
    case POOL_E_SYSTEM:
        return true;
    case POOL_E_TLS:
        return failure->reason != PL_REASON_CLEAR; /* that is the program's */
    default:
        return false;
    }
}

/* 0: it is no errno. */
static int errno_of(const struct pl_failure *failure)
{
    return failure->status == POOL_E_TLS ? 0 : failure->cause;
}

static void log_suspension(struct pl_peer *peer, uint32_t failures,
                           const struct pl_failure *failure)
{
    const char *cause = errno_of(failure) ? strerrorname_np(failure->cause) : NULL;

    pl_log(peer->pool, POOL_LOG_WARNING, "%s: suspended for %u ms after %u failures in a row (%s)",
           peer->text, peer->pool->settings.options.suspend_ms, failures,
           cause ? cause : pool_status_name((enum pool_status)failure->status));
}

void pl_backoff_fail(struct pl_peer *peer, uint64_t begun_ns, const struct pl_failure *failure)
{
    const struct pl_backoff_rules *rules = &peer->pool->settings.backoff;
    struct pl_backoff *backoff = &peer->shared.backoff, before, after;
    uint64_t now_ns = pl_os->now_ns(), chance = pl_dice();

    if (!pl_decide_backs_off(rules) || !is_the_peers(failure))
        return;
    pthread_mutex_lock(&peer->lock);
    before = *backoff;
    if (!(atomic_load(&peer->hints) & PL_HINT_CLOSING)) {
        pl_decide_backoff(backoff, rules, (struct pl_miss){ begun_ns, now_ns, chance });
        peer->shared.last_failure = *failure;
    }
    after = *backoff;
    pthread_mutex_unlock(&peer->lock);
    if (after.failures)
        pl_tend_at(peer->pool->room, peer, after.until_ns);
    if (after.is_suspended && !before.is_suspended)
        log_suspension(peer, after.failures, failure);
}

void pl_backoff_succeed(struct pl_peer *peer)
{
    struct pl_backoff before;

    pthread_mutex_lock(&peer->lock);
    before = peer->shared.backoff;
    peer->shared.backoff = (struct pl_backoff){ 0 };
    pthread_mutex_unlock(&peer->lock);
    if (before.is_suspended)
        pl_log(peer->pool, POOL_LOG_INFO, "%s: connected after %u failures, suspended no more",
               peer->text, before.failures);
}

bool pl_backoff_is_pausing(const struct pl_peer *peer)
{
    return peer->shared.backoff.failures && pl_os->now_ns() < peer->shared.backoff.until_ns;
}

bool pl_backoff_refuses(const struct pl_peer *peer, struct pl_failure *failure)
{
    if (!peer->shared.backoff.is_suspended || !pl_backoff_is_pausing(peer))
        return false;
    *failure = pl_failure_make(POOL_E_SUSPENDED, POOL_PHASE_WAIT,
                               errno_of(&peer->shared.last_failure));
    return true;
}

void pl_backoff_blame(const struct pl_peer *peer, struct pl_failure *failure)
{
    if (!peer->shared.backoff.failures || peer->shared.count)
        return;
    failure->reason = PL_REASON_PAUSE;
    if (errno_of(&peer->shared.last_failure))
        failure->cause = errno_of(&peer->shared.last_failure);
}

bool pl_backoff_has_failed(const struct pl_peer *peer, struct pl_failure *failure)
{
    if (!peer->shared.backoff.failures || peer->shared.count > peer->shared.opening)
        return false;
    *failure = peer->shared.last_failure;
    failure->outcome = POOL_NOT_SENT;
    return true;
}

uint64_t pl_backoff_tend(struct pl_peer *peer, uint64_t now_ns)
{
    struct pl_backoff *backoff = &peer->shared.backoff;
    uint64_t forget_ns = pl_after(backoff->until_ns, FORGET_NS);

    if (!backoff->failures)
        return PL_NEVER;
    if (now_ns < backoff->until_ns)
        return backoff->until_ns;
    if (peer->shared.opening || peer->shared.waiting)
        return pl_after(now_ns, FORGET_NS);
    if (now_ns < forget_ns)
        return forget_ns;
    *backoff = (struct pl_backoff){ 0 };
    return PL_NEVER;
}
