/* retry.c: see retry.h. The pool is entered while it is asked and while a caller pauses, so it ends
 * under neither; a pool that has ended is not asked any more.
 */
#include "pool/retry.h"

#include <errno.h>

#include "base/os.h"
#include "pool/hooks.h"
#include "pool/ticket.h"
#include "pool/wait.h"

/* A caller between two attempts; on its stack, in the pool's list. */
struct pause {
    struct pl_list link;
    struct pl_thread *thread;
};

bool pl_retry_is_asked(const struct pool *pool, const struct pool_call *call)
{
    size_t needed = offsetof(struct pool_call, on_error) + sizeof(call->on_error);

    if (call && call->size >= needed && call->on_error)
        return true;
    if (call && call->size >= needed && call->target && call->target->is_for_queries)
        return false;                   /* of queries it is not asked */
    return pool && pool->settings.options.on_error;
}

bool pl_retry_begin(struct pl_retry *retry, const struct pool_call *call)
{
    *retry = (struct pl_retry){ .error = POOL_ERROR_INIT };
    if (pl_call_read(call, &retry->call))
        return false;
    retry->told = retry->call.error;
    retry->call.size = sizeof(retry->call);
    retry->call.error = &retry->error;
    return true;
}

/* Failures that are the caller's own: trying again would meet the same. */
static bool is_the_callers(const struct pl_failure *failure)
{
    switch ((enum pool_status)failure->status) {
    case POOL_E_ARGUMENT:
    case POOL_E_ADDRESS:
    case POOL_E_WOULD_BLOCK:
    case POOL_E_CANCELED:
    case POOL_E_CLOSING:
    case POOL_E_FORKED:
        return true;
    case POOL_E_FULL:
        return failure->cause == EDEADLK;
    default:
        return false;
    }
}

/* Waits for the pause to end, or the pool, or the call by its ticket. */
static void wait_until(struct pl_borrow *borrow, uint64_t until_ns)
{
    struct pool *pool = borrow->pool;
    struct pause pause = { .thread = borrow->self };

    pthread_mutex_lock(&pool->lock);
    pl_list_push_back(&pool->pausing, &pause.link);
    pthread_mutex_unlock(&pool->lock);
    while (pl_ticket_pause(borrow->ticket, borrow->self) && !pl_is_past(until_ns) &&
           pl_pool_refusal(pool) != POOL_E_CLOSING)
        pl_thread_wait(borrow->self, until_ns);
    pl_ticket_pause(borrow->ticket, NULL);
    pthread_mutex_lock(&pool->lock);
    pl_list_unlink(&pause.link);
    pthread_mutex_unlock(&pool->lock);
}

void pl_retry_wake_all(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    PL_LIST_EACH(link, &pool->pausing)
        pl_thread_wake(pl_container(link, struct pause, link)->thread);
    pthread_mutex_unlock(&pool->lock);
}

/* False: there is no time for it, or no place to wait; then there is no other attempt either. */
static bool pause_before(const struct pl_retry *retry, struct pl_borrow *borrow,
                         const struct pl_attempt *attempt)
{
    struct pool *pool = borrow->pool;
    uint64_t start_ns = pl_os->now_ns(),
             pause_ns = pl_decide_pause(&pool->settings.backoff, retry->repeats + 1, pl_dice());

    if (attempt->was_reused)
        pause_ns = 0;
    if (pl_after(start_ns, pause_ns) >= attempt->deadline_ns)
        return false;
    if (!pause_ns)
        return true;
    if (pl_mux_is_here(pool->mux))
        return false;
    borrow->self = pl_thread_self();
    wait_until(borrow, start_ns + pause_ns);
    borrow->spent.ns[POOL_PHASE_WAIT] += pl_os->now_ns() - start_ns;
    return true;
}

/* Both levels are told, the call's first; what they say is in `votes`. `pool` NULL: it has ended,
 * as it may in the hook of the call. */
static void ask(const struct pl_retry *retry, struct pool *pool, struct pl_votes *votes)
{
    const struct pool_options *options = pool ? &pool->settings.options : NULL;
    struct pl_hook hook;

    if (retry->call.on_error) {
        votes->call_says = retry->call.on_error(&retry->error, retry->call.user);
        votes->call_ran = true;
    }
    if (options && options->on_error && pl_hook_enter(pool, &hook)) {
        votes->pool_says = options->on_error(&retry->error, options->user);
        votes->pool_ran = true;
        pl_hook_leave(pool, &hook);
    }
}

bool pl_retry_wants(struct pl_retry *retry, struct pl_borrow *borrow,
                    const struct pl_attempt *attempt)
{
    struct pool *pool = borrow->pool;
    struct pl_votes votes = { 0 };
    bool is_wanted = false;

    if ((int)retry->error.status != attempt->failure.status)
        pl_failure_tell(&attempt->failure, &borrow->spent, pl_borrow_text(borrow), &retry->error);
    if (!pool || pl_pool_enter(pool)) {
        ask(retry, NULL, &votes);
        return false;
    }
    ask(retry, pool, &votes);
    if (pl_pool_is_forked(pool))
        return false;
    if (!is_the_callers(&attempt->failure) &&
        pl_decide_again(&votes, attempt->repeatable, retry->repeats))
        is_wanted = pl_thread_self() && pause_before(retry, borrow, attempt);
    if (is_wanted) {
        retry->repeats++;
        pl_pool_count(pool, &pool->books.retries);
    }
    pl_pool_leave(pool);
    return is_wanted;
}

/* on_error forked, and this is the child: whatever had failed, the call ends for that. */
static enum pool_status end_in_child(struct pl_retry *retry, const struct pl_borrow *borrow)
{
    struct pl_failure failure =
        pl_failure_make(POOL_E_FORKED, (enum pool_phase)retry->error.phase, 0);

    failure.outcome = (uint8_t)retry->error.outcome;
    pl_failure_tell(&failure, &borrow->spent, pl_borrow_text(borrow), &retry->error);
    return POOL_E_FORKED;
}

enum pool_status pl_retry_end(struct pl_retry *retry, struct pl_borrow *borrow,
                              enum pool_status status)
{
    if (status && borrow->pool && pl_pool_is_forked(borrow->pool))
        status = end_in_child(retry, borrow);
    borrow->call.error = retry->told;
    if (status)
        pl_failure_copy(&retry->error, retry->told);
    return status;
}

struct pl_attempt pl_retry_failed_borrow(const struct pl_borrow *borrow, enum pool_status status)
{
    struct pl_attempt attempt = { .failure = borrow->failure,
                                  .deadline_ns = borrow->deadline_ns,
                                  .repeatable.if_wanted = true };

    attempt.failure.status = (int8_t)status;
    return attempt;
}

enum pool_status pl_retry_borrow_again(struct pl_borrow *borrow, const struct pool_call *call,
                                       uint64_t deadline_ns, struct pool_conn *conn)
{
    enum pool_status status = pl_call_read(call, &borrow->call);

    if (status)
        return status;
    if (!borrow->call.deadline_ns || borrow->call.deadline_ns > deadline_ns)
        borrow->call.deadline_ns = deadline_ns;
    borrow->must_look = true;
    borrow->peer = NULL;
    return pl_borrow_any(borrow, conn);
}

enum pool_status pl_retry_borrow(struct pl_borrow *borrow, const struct pool_call *call,
                                 struct pool_conn *conn)
{
    struct pl_attempt attempt;
    struct pl_retry retry;
    enum pool_status status;

    if (!pl_retry_begin(&retry, call))
        return pl_borrow_first(borrow, call, conn);
    status = pl_borrow_first(borrow, &retry.call, conn);
    while (status) {
        attempt = pl_retry_failed_borrow(borrow, status);
        if (!pl_retry_wants(&retry, borrow, &attempt))
            break;
        status = pl_retry_borrow_again(borrow, &retry.call, attempt.deadline_ns, conn);
    }
    return pl_retry_end(&retry, borrow, status);
}
