/* borrow.c: the warm path, and the whole of a borrow; looks.h has the looks at a connection before
 * it is lent, wait.c the wait.
 *
 * The warm path is one swap of the word of the connection that this thread returned last, and one
 * swap back. Because the whole word must be what it was, nothing else has to be looked at to know
 * that it is the same connection of the same peer, idle ever since.
 */
#include "pool/borrow.h"

#include <errno.h>

#include "base/os.h"
#include "net/stream.h"
#include "pool/ask.h"
#include "pool/events.h"
#include "pool/hooks.h"
#include "pool/looks.h"
#include "pool/recent.h"
#include "pool/retry.h"
#include "pool/secure.h"
#include "pool/ticket.h"
#include "pool/wait.h"

const char *pl_borrow_text(const struct pl_borrow *borrow)
{
    const struct pool_target *target = borrow->call.target;

    if (borrow->peer && (target || !borrow->address))
        return borrow->peer->text;
    return target ? target->peer->text : borrow->address;
}

/* ---- a lease */

static void begin_lease(struct pl_connection *connection, uint32_t timeout_ms, uint32_t flags)
{
    struct pl_lease *lease = &connection->lease;
    uint64_t uses = pl_get(connection->uses);

    lease->timeout_ms = timeout_ms;
    pl_set(lease->holder, 0);
    pl_set(lease->flags, flags);
    pl_set(lease->marks, uses ? PL_MARK_REUSED : 0);
    pl_set(connection->uses, uses + 1);
}

static uint32_t timeout_of(const struct pool *pool, const struct pool_call *call)
{
    if (!call || !call->timeout_ms)
        return pool->settings.options.timeout_ms;
    return call->timeout_ms == POOL_ZERO ? 0 : call->timeout_ms;
}

/* ---- the warm path */

static const struct pool_call no_call = { .size = sizeof(no_call) };

static bool is_simple(const struct pool *pool, const struct pool_call *call)
{
    return pool && pool->settings.is_plain &&
           atomic_load_explicit(&pool->state, memory_order_relaxed) == PL_POOL_LIVE &&
           call->size == sizeof(*call) && !call->deadline_ns && !call->ticket &&
           !call->on_part &&
           !(call->flags & ~(uint32_t)(POOL_SAFE_TO_REPEAT | POOL_DONT_WAIT | POOL_ONE_WAY));
}

/* Takes exactly the connection that this thread returned last, if nothing happened to it since. */
PL_INLINE struct pl_connection *take_recent(struct pl_recent *recent)
{
    struct pl_connection *connection = recent->connection;
    uint64_t seen;

    if (!connection)
        return NULL;
    seen = pl_get(connection->word);
    if (seen != recent->word && seen != pl_word_with(recent->word, PL_PARKED))
        return NULL;
    if (!pl_word_become(&connection->word, seen, pl_word_handed(seen, PL_LENT)))
        return NULL;
    connection->is_armed = pl_word_state(seen) == PL_PARKED;
    return connection;
}

static struct pl_recent *find_recent(struct pl_thread *self, struct pool *pool, const char *address,
                                     const struct pool_call *call)
{
    if (call->target)
        return call->target->pool == pool ? pl_recent_of_peer(self, call->target->peer) : NULL;
    return address && *address ? pl_recent_of_text(self, pool, address) : NULL;
}

/* Takes what this thread returned last, unlooked at; NULL: it takes more than that. */
PL_INLINE struct pl_connection *take_warm(struct pool *pool, const char *address,
                                          const struct pool_call *call)
{
    struct pl_thread *self = pl_thread_current;
    struct pl_connection *connection;
    struct pl_recent *recent;

    if (!self || !is_simple(pool, call))
        return NULL;
    recent = find_recent(self, pool, address, call);
    if (!recent)
        return NULL;
    connection = take_recent(recent);
    if (PL_UNLIKELY(connection && !pl_get(connection->is_prepared))) {
        pl_peer_give_back(connection->peer, connection);
        return NULL;
    }
    return connection;
}

/* False: it is past its age, and closed now. */
PL_INLINE bool lend_warm(struct pool *pool, const struct pool_call *call,
                         struct pl_connection *connection, struct pool_conn *conn)
{
    connection->lease.start_ns = pl_os->coarse_ns();
    pl_thread_stamp(pl_thread_current, connection->lease.start_ns);
    if (pl_look_has_aged(connection, connection->lease.start_ns))
        return false;
    pl_set(connection->lease.deadline_ns, 0);
    begin_lease(connection, timeout_of(pool, call), call->flags);
    *conn = pl_connection_handle(connection, pl_get(connection->word));
    return true;
}

/* ---- the whole of a borrow */

/* Who came when it had begun was there for the last of its phases. What is left of `own_ns` went by
 * between them. */
static void account_opening(struct pl_borrow *borrow, const struct pl_connection *connection,
                            uint64_t own_ns)
{
    for (unsigned phase = POOL_PHASE_SETUP; phase >= POOL_PHASE_RESOLVE; phase--) {
        uint64_t took_ns = pl_earlier(connection->took_us[phase] * UINT64_C(1000), own_ns);

        borrow->spent.ns[phase] += took_ns;
        own_ns -= took_ns;
    }
    borrow->spent.ns[POOL_PHASE_CONNECT] += own_ns;
}

void pl_borrow_account(struct pl_borrow *borrow, const struct pl_connection *connection)
{
    uint64_t now_ns = pl_os->now_ns(), total_ns = now_ns - borrow->start_ns, own_ns = 0;
    uint8_t own_phase = POOL_PHASE_CONNECT;

    if (connection && connection->is_fresh) {
        own_ns = pl_earlier(pl_since(connection->opened_ns, now_ns), total_ns);
        account_opening(borrow, connection, own_ns);
        total_ns -= own_ns;
        own_ns = 0;
    } else if (borrow->failure.status) {
        own_ns = borrow->tried_ns ? pl_since(borrow->tried_ns, now_ns) : total_ns;
        own_phase = borrow->failure.phase;
    }
    own_ns = pl_earlier(own_ns, total_ns);
    borrow->spent.ns[own_phase] += own_ns;
    borrow->spent.ns[POOL_PHASE_WAIT] += total_ns - own_ns;
}

/* Not after the pool's end, which the connection then tells, since it was doomed with it. */
static int prepare(struct pool *pool, struct pool_conn conn)
{
    const struct pool_options *options = &pool->settings.options;
    struct pl_hook hook;
    int answer;

    if (!pl_hook_enter(pool, &hook)) {
        pl_stream_fail(pl_connection_of(conn.slot), POOL_E_CLOSING, 0);
        return -1;
    }
    answer = options->prepare(&conn, options->user);
    pl_hook_leave(pool, &hook);
    return answer;
}

/* What `prepare` left behind; status POOL_OK: it may be lent. Pinned. */
static struct pl_failure judge_prepared(struct pl_connection *connection, int answer)
{
    struct pl_failure failure = pl_failure_unpack(pl_get(connection->failure));
    uint32_t marks = atomic_exchange(&connection->lease.marks, 0);

    if (!failure.status && answer)
        failure = pl_failure_because(PL_REASON_PREPARE, POOL_PHASE_SETUP, answer);
    else if (!failure.status && (marks & (PL_MARK_DIRT | PL_MARK_AWAITS)))
        failure = pl_failure_because(PL_REASON_UNCLEAN, POOL_PHASE_SETUP, answer);
    else if (!failure.status && pl_secure_is_missing(connection))
        failure = pl_failure_because(PL_REASON_CLEAR, POOL_PHASE_TLS, 0);
    if (failure.phase != POOL_PHASE_TLS)
        failure.phase = POOL_PHASE_SETUP;
    return failure;
}

/* `prepare` took that long; in the handshake that it waited for the call was in another phase.
 * Pinned. */
static void account_handshake(struct pl_borrow *borrow, const struct pl_connection *connection,
                              uint64_t took_ns)
{
    uint64_t tls_ns = pl_earlier(pl_get(connection->secured_us) * UINT64_C(1000), took_ns);

    borrow->spent.ns[POOL_PHASE_TLS] += tls_ns;
    borrow->spent.ns[POOL_PHASE_SETUP] -= tls_ns;
}

static bool settle_in(struct pl_borrow *borrow, struct pl_connection *connection,
                      struct pool_conn *conn)
{
    uint64_t begin_ns, took_ns;
    int answer;

    *conn = pl_connection_handle(connection, atomic_load(&connection->word));
    connection->is_fresh = false;
    if (!pl_ticket_take(borrow->ticket, conn)) {
        borrow->failure = pl_failure_make(POOL_E_CANCELED, POOL_PHASE_WAIT, 0);
        pl_peer_give_back(connection->peer, connection);
        return false;
    }
    if (borrow->pool->events) {
        connection->lease.lent_ns = pl_os->now_ns();
        pl_event_lent(borrow->pool, connection, connection->lease.lent_ns - borrow->start_ns);
    }
    connection->lease.start_ns = borrow->start_ns;
    pl_set(connection->lease.deadline_ns, borrow->deadline_ns);
    begin_lease(connection, timeout_of(borrow->pool, &borrow->call), borrow->call.flags);
    if (borrow->pool->settings.leak_ns != PL_NEVER)
        pl_leak_note(connection, borrow->tag);
    if (pl_get(connection->is_prepared))
        return true;
    begin_ns = pl_os->now_ns();
    answer = prepare(borrow->pool, *conn);
    took_ns = pl_os->now_ns() - begin_ns;
    borrow->spent.ns[POOL_PHASE_SETUP] += took_ns;
    if (!pl_word_pin(&connection->word, conn->serial)) {
        borrow->failure = pl_failure_because(PL_REASON_PREPARE, POOL_PHASE_SETUP, answer);
        return false; /* it threw the connection away */
    }
    account_handshake(borrow, connection, took_ns);
    pl_ask_begin_anew(connection);
    borrow->failure = judge_prepared(connection, answer);
    if (borrow->failure.status) /* whoever gives a copy back from here on gives back a failure */
        pl_set(connection->lease.marks, PL_MARK_FAILED);
    else
        pl_set(connection->is_prepared, true);
    if (pl_word_unpin(&connection->word)) {
        pl_peer_finish_close(connection);
        return false;
    }
    if (!borrow->failure.status)
        return true;
    if (pl_give_back_claim(connection, conn->serial)) {
        pl_set(connection->uses, pl_get(connection->uses) - 1); /* nobody got it */
        pl_event_returned(borrow->pool, connection);
        pl_peer_close(connection, POOL_CLOSE_ERROR);
    }
    return false;
}

bool pl_borrow_settle_in(struct pl_borrow *borrow, struct pl_connection *connection,
                         struct pool_conn *conn)
{
    if (settle_in(borrow, connection, conn))
        return true;
    (void)!pl_ticket_let_go(borrow->ticket); /* canceling would take the old handle for the end */
    return false;
}

enum pool_status pl_borrow_begin(struct pl_borrow *borrow)
{
    uint32_t timeout_ms = timeout_of(borrow->pool, &borrow->call), wait_ms = borrow->call.wait_ms;

    borrow->self = pl_thread_self();
    borrow->start_ns = pl_os->now_ns();
    borrow->queued_ns = 0;
    borrow->is_told = false;
    borrow->is_for_line = borrow->call.target && borrow->call.target->is_for_queries;
    borrow->has_waited = borrow->has_waited || borrow->is_for_line;     /* or earlier */
    borrow->deadline_ns =
        timeout_ms == POOL_NONE ? PL_NEVER : pl_after(borrow->start_ns, timeout_ms * PL_MS);
    if (borrow->call.deadline_ns)
        borrow->deadline_ns = pl_earlier(borrow->deadline_ns, borrow->call.deadline_ns);
    if (borrow->call.tag && borrow->pool->settings.leak_ns != PL_NEVER)
        memcpy(borrow->tag, borrow->call.tag, strnlen(borrow->call.tag, PL_TAG - 1));
    borrow->wait_deadline_ns = PL_NEVER;
    if (wait_ms && wait_ms != POOL_NONE)
        borrow->wait_deadline_ns =
            pl_after(borrow->start_ns, wait_ms == POOL_ZERO ? 0 : wait_ms * PL_MS);
    return borrow->self ? POOL_OK : POOL_E_MEMORY;
}

enum pool_status pl_borrow_find_peer(struct pl_borrow *borrow)
{
    struct pool_target *target = borrow->call.target;
    struct pl_recent *recent;
    enum pool_status status;

    if (target) {
        if (target->pool != borrow->pool ||
            !pl_peer_enter(target->peer, borrow->pool, pl_get(target->peer->generation)))
            return POOL_E_ARGUMENT;
        borrow->peer = target->peer;
        return POOL_OK;
    }
    recent =
        *borrow->address ? pl_recent_of_text(borrow->self, borrow->pool, borrow->address) : NULL;
    if (recent && pl_peer_enter(recent->peer, borrow->pool, recent->generation)) {
        borrow->peer = recent->peer;
        return POOL_OK;
    }
    status = pl_pool_find_peer(borrow->pool, borrow->address, &borrow->peer, borrow->call.error);
    borrow->is_told = status != POOL_OK;
    if (!status)
        pl_recent_spell(pl_recent_make(borrow->self, borrow->peer), borrow->address);
    return status;
}

bool pl_borrow_is_fit(struct pl_borrow *borrow, struct pl_connection *connection)
{
    enum pool_check check =
        borrow->must_look ? POOL_CHECK_ALWAYS : borrow->pool->settings.options.check;

    if (connection->is_fresh && !pl_connection_is_ours(connection)) {
        pl_peer_close(connection, POOL_CLOSE_STOLEN);
        return false;
    }
    if (connection->is_fresh && connection->tls && pl_secure_is_outdated(connection)) {
        pl_peer_close(connection, POOL_CLOSE_STALE);
        return false;
    }
    if (!connection->is_fresh &&
        (!pl_look_is_fit(connection, check) || pl_look_has_aged(connection, pl_os->coarse_ns())))
        return false;
    borrow->failure = (struct pl_failure){ 0 };
    return true;
}

static bool obtain(struct pl_borrow *borrow, struct pool_conn *conn)
{
    struct pl_connection *connection;

    do {
        connection = pl_wait_for_some(borrow);
        if (!connection) {
            pl_borrow_account(borrow, NULL);
            return false;
        }
    } while (!pl_borrow_is_fit(borrow, connection));
    pl_borrow_account(borrow, connection);
    return pl_borrow_settle_in(borrow, connection, conn);
}

void pl_borrow_note_wait(struct pl_borrow *borrow)
{
    borrow->has_waited = true;
    if (borrow->waited_at)
        return;
    borrow->waited_at = borrow->peer;   /* which is there when the call borrows again */
    borrow->peer->shared.users++;
    pl_pool_ref(borrow->pool);
    atomic_fetch_add(&borrow->pool->waited, 1);
}

void pl_borrow_end_wait(struct pl_borrow *borrow)
{
    struct pool *pool = borrow->pool;

    if (PL_LIKELY(!borrow->waited_at) || pl_pool_is_forked(pool))
        return;
    atomic_fetch_sub(&pool->waited, 1);
    pl_peer_leave(borrow->waited_at);   /* which looks whether the pool is empty now */
    borrow->waited_at = NULL;
    pl_pool_leave(pool);
}

void pl_borrow_give_up(struct pl_borrow *borrow, enum pool_status status)
{
    struct pool *pool = borrow->pool;

    pthread_mutex_lock(&pool->lock);
    pool->books.borrow_failed++;
    pool->books.timeouts += status == POOL_E_TIMEOUT || status == POOL_E_TIMEOUT_IN_TRANSFER;
    pthread_mutex_unlock(&pool->lock);
    pl_event_borrow_failed(pool, pl_borrow_text(borrow), status);
}

static void tell_failure(struct pl_borrow *borrow)
{
    pl_borrow_note_outcome(borrow, &borrow->failure);
    pl_failure_tell(&borrow->failure, &borrow->spent, pl_borrow_text(borrow), borrow->call.error);
}

enum pool_status pl_borrow_any(struct pl_borrow *borrow, struct pool_conn *conn)
{
    struct pool *pool = borrow->pool;
    enum pool_status status = pl_borrow_begin(borrow);

    if (!status)
        status = pl_pool_enter(pool);
    if (status) {
        borrow->failure = pl_failure_make(status, POOL_PHASE_NONE, 0);
        tell_failure(borrow);
        return status;
    }
    pl_event_borrow_started(pool, pl_borrow_text(borrow));
    status = pl_pool_admission(pool, borrow->has_waited);
    if (!status && borrow->call.ticket && !borrow->ticket)
        status = pl_ticket_make(&borrow->ticket, borrow->call.ticket);
    if (!status)
        status = pl_borrow_find_peer(borrow);
    if (status)
        borrow->failure = pl_failure_make(status, POOL_PHASE_NONE, 0);
    else if (!obtain(borrow, conn))
        status = (enum pool_status)borrow->failure.status;
    if (pl_pool_is_forked(pool)) {      /* a hook did: nothing of it is ours any more */
        *conn = (struct pool_conn){ 0 };
        borrow->failure = pl_failure_make(POOL_E_FORKED, POOL_PHASE_NONE, 0);
        tell_failure(borrow);
        return POOL_E_FORKED;
    }
    if (status) {
        *conn = (struct pool_conn){ 0 };
        pl_borrow_give_up(borrow, status);
        if (!borrow->is_told || borrow->seen)   /* the search knows of no earlier attempt */
            tell_failure(borrow);
    }
    if (borrow->peer)
        pl_peer_leave(borrow->peer);
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return status;
}

bool pl_borrow_warm(struct pool *pool, const char *address, const struct pool_call *call,
                    struct pool_conn *conn)
{
    const struct pool_call *read = call ? call : &no_call;
    struct pl_connection *connection = take_warm(pool, address, read);

    return connection && pl_look_is_fit(connection, pool->settings.options.check) &&
           lend_warm(pool, read, connection, conn);
}

PL_COLD enum pool_status pl_borrow_refuse(const char *address, const struct pool_call *call,
                                          enum pool_status status)
{
    struct pl_borrow borrow = { .address = address };
    struct pl_failure failure;

    if (pl_call_read(call, &borrow.call))
        status = POOL_E_ARGUMENT;
    failure = pl_failure_make(status, POOL_PHASE_NONE, 0);
    pl_failure_tell(&failure, NULL, pl_borrow_text(&borrow), borrow.call.error);
    return status;
}

static PL_COLD enum pool_status borrow_cold(struct pl_borrow *borrow, const struct pool_call *call,
                                            struct pool_conn *conn)
{
    enum pool_status status = pl_call_read(call, &borrow->call);

    *conn = (struct pool_conn){ 0 };
    if (borrow->call.ticket)
        pl_ticket_show(borrow->call.ticket, NULL);
    if (!borrow->pool || (!borrow->address && !borrow->call.target))
        status = POOL_E_ARGUMENT;
    if (!status)
        return pl_borrow_any(borrow, conn);
    return pl_borrow_refuse(borrow->address, call, status);
}

enum pool_status pl_borrow_first(struct pl_borrow *borrow, const struct pool_call *call,
                                 struct pool_conn *conn)
{
    if (pl_borrow_warm(borrow->pool, borrow->address, call, conn))
        return POOL_OK;
    return borrow_cold(borrow, call, conn);
}

enum pool_status pl_borrow_end_ticket(struct pl_borrow *borrow, enum pool_status status)
{
    bool is_whole = pl_ticket_end(borrow->ticket);

    pl_ticket_unref(borrow->ticket);
    borrow->ticket = NULL;
    if (is_whole || status == POOL_E_CANCELED)
        return status;
    borrow->failure.status = POOL_E_CANCELED;
    tell_failure(borrow);
    return POOL_E_CANCELED;
}

static PL_COLD enum pool_status borrow_cold_by_hand(struct pool *pool, const char *address,
                                                    const struct pool_call *call,
                                                    struct pool_conn *conn)
{
    struct pl_borrow borrow = { .pool = pool, .address = address };
    enum pool_status status = pl_retry_is_asked(pool, call)
                                  ? pl_retry_borrow(&borrow, call, conn)
                                  : borrow_cold(&borrow, call, conn);

    pl_borrow_end_wait(&borrow);
    if (borrow.ticket && status)
        return pl_borrow_end_ticket(&borrow, status);
    pl_ticket_unref(borrow.ticket);     /* it cancels the loan from here on */
    return status;
}

/* The last call of its caller, so that nothing returns through several frames after the system
 * calls. */
static PL_NOINLINE enum pool_status look_and_lend(struct pool *pool, const char *address,
                                                  const struct pool_call *call,
                                                  struct pl_connection *connection,
                                                  struct pool_conn *conn)
{
    if (PL_LIKELY(pl_look_is_fit(connection, pool->settings.options.check)) &&
        lend_warm(pool, call ? call : &no_call, connection, conn))
        return POOL_OK;
    return borrow_cold_by_hand(pool, address, call, conn);
}

enum pool_status pool_borrow(struct pool *pool, const char *address, const struct pool_call *call,
                             struct pool_conn *conn)
{
    const struct pool_call *read = call ? call : &no_call;
    struct pl_connection *connection;

    if (!conn)
        return pl_borrow_refuse(address, call, POOL_E_ARGUMENT);
    connection = take_warm(pool, address, read);
    if (!connection)
        return borrow_cold_by_hand(pool, address, call, conn);
    if (connection->is_armed || pool->settings.options.check != POOL_CHECK_NEVER ||
        PL_UNLIKELY(connection->tls))
        return look_and_lend(pool, address, call, connection, conn);
    if (lend_warm(pool, read, connection, conn))
        return POOL_OK;
    return borrow_cold_by_hand(pool, address, call, conn);
}
