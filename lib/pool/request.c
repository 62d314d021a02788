/* request.c: see request.h.
 *
 * Until its post runs, a request belongs to whoever holds the other end: the peer's queue, a
 * worker, or the call that starts it. Each of them posts it exactly once; from then on it is the
 * mux thread's, which alone may free it. `pool->undelivered` counts requests from before their pool
 * was found open until on_lent came back, so that the pool's end can wait for the last of them.
 */
#include "pool/request.h"

#include <errno.h>

#include "base/os.h"
#include "net/stream.h"
#include "pool/events.h"
#include "pool/ticket.h"
#include "pool/wait.h"
#include "pool/waiter.h"
#include "pool/worker.h"

#define SPARES 64u /* kept for the next warm ones */

/* ---- warm: on the mux thread, from one callback to the next */

/* A connection that is on its way to its borrower. */
struct delivery {
    struct pl_post post;
    struct pl_room *room;
    struct pool_conn conn;
    pool_lent_fn *on_lent;
    void *user;
};

static struct delivery *take_delivery(struct pl_room *room)
{
    struct pl_list *link = pl_list_pop_front(&room->on_mux.spares);

    if (!link)
        return pl_zalloc(sizeof(struct delivery));
    room->on_mux.spare_count--;
    return pl_container(link, struct delivery, post.link);
}

static void give_delivery(struct delivery *delivery)
{
    struct pl_room *room = delivery->room;

    if (room->on_mux.spare_count >= SPARES) {
        pl_os->free(delivery);
        return;
    }
    room->on_mux.spare_count++;
    pl_list_push_front(&room->on_mux.spares, &delivery->post.link);
}

void pl_request_drop_spares(struct pl_list *spares)
{
    struct pl_list *link;

    while ((link = pl_list_pop_front(spares)))
        pl_os->free(pl_container(link, struct delivery, post.link));
}

static void deliver_warm(struct pl_post *post)
{
    struct delivery *delivery = pl_container(post, struct delivery, post);
    struct pl_connection *connection = pl_connection_of(delivery->conn.slot);
    struct pool_conn conn = delivery->conn;
    pool_lent_fn *on_lent = delivery->on_lent;
    void *user = delivery->user;
    struct pool_error error = POOL_ERROR_INIT;
    struct pl_failure failure;

    give_delivery(delivery);
    if (PL_LIKELY(!pl_get(connection->doom))) {
        on_lent(&conn, NULL, user);
        return;
    }
    failure = pl_failure_make(pl_stream_doom(connection), POOL_PHASE_WAIT, 0);
    pl_failure_tell(&failure, NULL, connection->peer->text, &error);
    pool_discard(&conn);
    on_lent(NULL, &error, user);
}

/* The mux thread gets what it returned last: nothing is locked, counted or woken for it. */
static bool start_warm(struct pool *pool, const char *address, pool_lent_fn *on_lent, void *user,
                       const struct pool_call *call)
{
    struct pl_thread *self = pl_thread_current;
    struct delivery *delivery;
    struct pool_conn conn;

    if (!self || !self->dispatching || self->dispatching != pool->mux)
        return false;
    delivery = take_delivery(pool->room);
    if (!delivery)
        return false;
    delivery->room = pool->room;
    if (!pl_borrow_warm(pool, address, call, &conn)) {
        give_delivery(delivery);
        return false;
    }
    pl_set(pl_connection_of(conn.slot)->lease.flags,
           pl_get(pl_connection_of(conn.slot)->lease.flags) | PL_LEASE_BY_EVENTS);
    delivery->post.run = deliver_warm;
    delivery->post.owner = pool;
    delivery->conn = conn;
    delivery->on_lent = on_lent;
    delivery->user = user;
    pl_mux_post_here(pool->mux, &delivery->post);
    return true;
}

/* ---- the end of a request; mux thread */

static void tell_failure(struct pl_request *request)
{
    struct pl_borrow *borrow = &request->borrow;
    struct pool_error error = POOL_ERROR_INIT;

    if (!pl_ticket_end(borrow->ticket)) {
        borrow->failure.status = POOL_E_CANCELED;
        borrow->failure.cause = 0;
    }
    pl_borrow_give_up(borrow, (enum pool_status)borrow->failure.status);
    pl_failure_tell(&borrow->failure, &borrow->spent, pl_borrow_text(borrow), &error);
    request->on_lent(NULL, &error, request->user);
}

/* Canceled since it was granted, it is not delivered any more. */
static bool is_canceled_now(struct pl_request *request)
{
    if (pl_ticket_take(request->borrow.ticket, &request->conn))
        return false;
    request->borrow.failure = pl_failure_make(POOL_E_CANCELED, POOL_PHASE_WAIT, 0);
    pool_discard(&request->conn);
    return true;
}

static void finish(struct pl_request *request)
{
    struct pl_borrow *borrow = &request->borrow;
    struct pool *pool = borrow->pool;
    struct pool_conn conn = { 0 };

    if (pl_pool_is_forked(pool))
        return;                         /* a hook on the way here did */
    pl_ticket_wait_end(borrow->ticket);
    pl_mux_timer_close(pool->mux, &request->timer);
    if (request->conn.slot && !is_canceled_now(request))
        conn = request->conn;
    if (conn.slot)
        request->on_lent(&conn, NULL, request->user);
    else
        tell_failure(request);
    if (pl_pool_is_forked(pool))
        return;
    pl_ticket_unref(borrow->ticket);
    pl_peer_leave(borrow->peer);
    pl_borrow_end_wait(borrow);
    pl_os->free(request);
    atomic_fetch_sub(&pool->undelivered, 1);
    pl_pool_leave(pool);
}

static void fail(struct pl_request *request, enum pool_status status, int cause)
{
    request->borrow.failure = status == POOL_E_TIMEOUT
                                  ? pl_failure_because(PL_REASON_DEADLINE, POOL_PHASE_WAIT, cause)
                                  : pl_failure_make(status, POOL_PHASE_WAIT, cause);
    request->conn = (struct pool_conn){ 0 };
    finish(request);
}

static void on_prepared(struct pl_post *post)
{
    finish(pl_container(post, struct pl_request, post));
}

void pl_request_prepared(struct pl_request *request)
{
    request->post.run = on_prepared;
    pl_mux_post(request->borrow.pool->mux, &request->post);
}

/* While it waits it has a deadline. Peer lock held. */
static void arm_wait(struct pl_request *request)
{
    const struct pl_borrow *borrow = &request->borrow;

    pl_mux_timer_arm(borrow->pool->mux, &request->timer,
                     pl_earlier(borrow->deadline_ns, borrow->wait_deadline_ns));
}

static void fail_waiting(struct pl_request *request, enum pool_status status)
{
    if (!request->borrow.failure.status)
        request->borrow.failure = pl_wait_refusal(status);
    pl_borrow_account(&request->borrow, NULL);
    finish(request);
}

/* What it got turned out to be no good: it takes what is idle, or goes back to the place it had.
 * False: it waits again, or is told that it cannot. */
static bool queue_again(struct pl_request *request)
{
    struct pl_borrow *borrow = &request->borrow;
    struct pool_ticket *ticket = borrow->ticket;
    struct pl_peer *peer = borrow->peer;
    struct pl_waiter *waiter = &request->waiter;
    enum pool_status refusal;
    bool has_one;

    if (pl_pool_is_forked(borrow->pool))
        return false;
    borrow->failure = (struct pl_failure){ 0 };
    if (!pl_ticket_hold(ticket, peer, waiter)) {
        fail_waiting(request, POOL_E_CANCELED);
        return false;
    }
    pthread_mutex_lock(&peer->lock);
    waiter->state = PL_WAITER_QUEUED;
    waiter->connection = pl_wait_join(borrow, waiter, &refusal);
    has_one = waiter->connection;       /* once it is queued, others write that */
    if (has_one)
        waiter->state = PL_WAITER_SERVED;
    else if (!refusal)
        arm_wait(request);              /* it may have come due while the post was on its way */
    pthread_mutex_unlock(&peer->lock);
    pl_ticket_release(ticket);
    if (has_one || refusal)
        pl_ticket_wait_end(ticket);
    if (has_one)
        return true;
    if (refusal)
        fail_waiting(request, refusal);
    else
        pl_peer_supply(peer); /* this thread alone ends requests: it is still there */
    return false;
}

/* Blocking code must set it up first. */
static void hand_to_worker(struct pl_request *request)
{
    struct pl_borrow *borrow = &request->borrow;
    struct pool_mux *mux = borrow->pool->mux;
    enum pool_status status = POOL_E_CANCELED;

    pl_mux_timer_arm(mux, &request->timer, borrow->deadline_ns);
    if (pl_ticket_set_alarm(borrow->ticket, mux, &request->timer)) {
        if (pl_workers_take(borrow->pool, request))
            return;
        status = POOL_E_RESOURCE;
    }
    pl_peer_give_back(borrow->peer, request->waiter.connection);
    fail(request, status, status == POOL_E_RESOURCE ? EAGAIN : 0);
}

static void begin_loan(struct pl_request *request)
{
    struct pl_borrow *borrow = &request->borrow;
    struct pl_connection *connection = request->waiter.connection;

    pl_mux_timer_disarm(borrow->pool->mux, &request->timer);
    pl_borrow_account(borrow, connection);
    if (!pl_get(connection->is_prepared) && !pl_get(connection->doom)) {
        hand_to_worker(request);
        return;
    }
    if (pl_get(connection->doom)) {
        borrow->failure = pl_failure_make(pl_stream_doom(connection), POOL_PHASE_WAIT, 0);
        pl_peer_close(connection, (enum pool_close_reason)pl_peer_verdict(connection));
    } else if (!pl_borrow_settle_in(borrow, connection, &request->conn)) {
        request->conn = (struct pool_conn){ 0 };
    }
    finish(request);
}

/* The wait is over: served, or failed. */
static void on_result(struct pl_post *post)
{
    struct pl_request *request = pl_container(post, struct pl_request, post);
    struct pl_waiter *waiter = &request->waiter;
    struct pl_peer *peer = request->borrow.peer;

    pl_ticket_wait_end(request->borrow.ticket);
    pthread_mutex_lock(&peer->lock);
    pl_wait_calm_down(peer);
    pthread_mutex_unlock(&peer->lock);
    if (waiter->state == PL_WAITER_FAILED) {
        request->borrow.failure = waiter->failure;
        request->borrow.tried_ns = waiter->tried_ns;
        pl_borrow_account(&request->borrow, NULL);
        finish(request);
        return;
    }
    while (!pl_borrow_is_fit(&request->borrow, waiter->connection)) {
        if (!queue_again(request))
            return;
    }
    begin_loan(request);
}

static void on_deadline(void *user)
{
    struct pl_request *request = user;
    struct pl_peer *peer = request->borrow.peer;
    uint64_t tried_ns;
    struct pl_failure failure = pl_wait_out_of_time(peer, &tried_ns);

    pthread_mutex_lock(&peer->lock);
    if (pl_list_is_linked(&request->waiter.link)) {
        request->waiter.tried_ns = tried_ns;
        pl_waiter_fail(peer, &request->waiter, &failure);
        pl_wait_calm_down(peer);
    }
    pthread_mutex_unlock(&peer->lock);
    if (!pl_workers_withdraw(request->borrow.pool, request))
        return;
    pl_peer_give_back(peer, request->waiter.connection);
    fail(request, POOL_E_TIMEOUT, ETIMEDOUT);
}

/* ---- the start */

static enum pool_status make_request(struct pool *pool, const char *address,
                                     const struct pool_call *call, struct pl_request **made)
{
    struct pl_request *request = pl_zalloc(sizeof(*request));
    enum pool_status status;

    *made = request;
    if (!request)
        return POOL_E_MEMORY;
    request->borrow.pool = pool;
    request->borrow.address = address;
    request->post.run = on_result;
    request->post.owner = pool;
    request->waiter.post = &request->post;
    status = pl_call_read(call, &request->borrow.call);
    if (request->borrow.call.ticket)
        pl_ticket_show(request->borrow.call.ticket, NULL);
    if (!status && !address && !request->borrow.call.target)
        status = POOL_E_ARGUMENT;
    if (!status)
        status = pl_borrow_begin(&request->borrow);
    request->borrow.call.flags |= PL_LEASE_BY_EVENTS;
    return status;
}

/* Finds the peer, and all that the rest needs: from then on the request cannot fail to be told. */
static enum pool_status equip(struct pl_request *request, struct pool_ticket **ticket)
{
    struct pl_borrow *borrow = &request->borrow;
    enum pool_status status = pl_pool_admission(borrow->pool, borrow->has_waited);
    struct pl_peer *peer;

    if (!status)
        status = pl_borrow_find_peer(borrow);
    if (status)
        return status;
    peer = borrow->peer;
    if (ticket)
        status = pl_ticket_make(&borrow->ticket, ticket);
    if (!status && !pl_mux_timer_open(borrow->pool->mux, &request->timer, on_deadline, request))
        status = POOL_E_MEMORY;
    if (!status) {
        borrow->address = NULL; /* the program's text ends with the call; the peer has it */
        return POOL_OK;
    }
    borrow->peer = NULL;
    if (borrow->ticket) {
        pl_ticket_unref(borrow->ticket);
        pl_ticket_unref(borrow->ticket);
        pl_ticket_show(ticket, NULL);
    }
    pl_peer_leave(peer);
    return status;
}

/* Serves it or queues it; either way the mux will tell. Else the answer says why it may not
 * queue. */
static enum pool_status place(struct pl_request *request)
{
    struct pl_borrow *borrow = &request->borrow;
    struct pl_peer *peer = borrow->peer;
    struct pl_waiter *waiter = &request->waiter;
    struct pool_ticket *ticket = borrow->ticket;
    enum pool_status status;

    if (!pl_ticket_hold(ticket, peer, waiter))
        return POOL_E_CANCELED;
    pthread_mutex_lock(&peer->lock);
    waiter->connection = pl_wait_join(borrow, waiter, &status);
    if (waiter->connection) {
        pl_borrow_note_wait(borrow);    /* it was accepted, and has nothing yet */
        waiter->state = PL_WAITER_SERVED;
        pl_mux_post(borrow->pool->mux, &request->post);
    } else if (!status) {
        arm_wait(request);              /* from the unlocking on it is another's */
    }
    pthread_mutex_unlock(&peer->lock);
    pl_ticket_release(ticket);
    return status;
}

static void drop(struct pl_request *request, bool has_ticket)
{
    struct pl_borrow *borrow = &request->borrow;

    pl_mux_timer_close(borrow->pool->mux, &request->timer);
    pl_ticket_wait_end(borrow->ticket);
    pl_ticket_unref(borrow->ticket);
    if (has_ticket)
        pl_ticket_unref(borrow->ticket);
    pl_peer_leave(borrow->peer);
}

/* Canceled, out of time before it could queue, or suspended: that comes through on_lent. Any other
 * refusal is the answer of the call, and on_lent never runs. */
static bool is_told_later(enum pool_status status)
{
    return status == POOL_E_TIMEOUT || status == POOL_E_CANCELED || status == POOL_E_SUSPENDED;
}

static void fail_later(struct pl_request *request, enum pool_status status)
{
    request->waiter.state = PL_WAITER_FAILED;
    request->waiter.failure = request->borrow.failure;
    if (!request->waiter.failure.status)
        request->waiter.failure = pl_wait_refusal(status);
    pl_mux_post(request->borrow.pool->mux, &request->post);
}

/* The pool is entered twice, for this call and for the request. */
static enum pool_status start_entered(struct pl_request *request, struct pool_ticket **ticket)
{
    struct pl_borrow *borrow = &request->borrow;
    struct pl_peer *peer;
    enum pool_status status;

    pl_event_borrow_started(borrow->pool,
                            borrow->address ? borrow->address : borrow->call.target->peer->text);
    status = equip(request, ticket);
    if (status) {
        pl_borrow_give_up(borrow, status);
        return status;
    }
    peer = pl_peer_join(borrow->peer); /* for this call: the request may end before it */
    status = place(request);
    if (!status) {
        pl_peer_supply(peer);
    } else if (is_told_later(status)) {
        fail_later(request, status);
        status = POOL_OK;
    } else {
        if (ticket)
            pl_ticket_show(ticket, NULL);
        pl_borrow_give_up(borrow, status);
        drop(request, ticket != NULL);
    }
    pl_peer_leave(peer);
    return status;
}

static enum pool_status start_cold(struct pool *pool, struct pl_request *request,
                                   struct pool_ticket **ticket)
{
    enum pool_status status;

    atomic_fetch_add(&pool->undelivered, 1);
    status = pl_pool_enter(pool);
    if (status) {
        atomic_fetch_sub(&pool->undelivered, 1);
        return status;
    }
    pl_pool_ref(pool);
    status = start_entered(request, ticket);
    if (pl_pool_is_forked(pool))        /* on_none_removable did; the request is the parent's */
        return POOL_E_FORKED;
    if (status) {
        pl_pool_leave(pool);
        atomic_fetch_sub(&pool->undelivered, 1); /* an observer may end the pool */
    }
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return status;
}

enum pool_status pool_communicate_async(struct pool *pool, const char *address,
                                        pool_lent_fn *on_lent, void *user,
                                        const struct pool_call *call, struct pool_ticket **ticket)
{
    struct pl_request *request = NULL;
    enum pool_status status = POOL_E_ARGUMENT;
    bool is_told;

    if (ticket)
        pl_ticket_show(ticket, NULL);
    if (pool && on_lent) {
        if (!ticket && start_warm(pool, address, on_lent, user, call))
            return POOL_OK;
        status = make_request(pool, address, call, &request);
    }
    if (!status) {
        request->on_lent = on_lent;
        request->user = user;
        status = start_cold(pool, request, ticket ? ticket : request->borrow.call.ticket);
    }
    if (!status)
        return POOL_OK;
    if (ticket)
        pl_ticket_show(ticket, NULL);
    is_told = request && request->borrow.is_told;
    pl_os->free(request);
    return is_told ? status : pl_borrow_refuse(address, call, status);
}
