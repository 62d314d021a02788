/* communicate.c: borrow, use, return: the main call, and what becomes of what `use` did. */
#include "base/os.h"
#include "net/stream.h"
#include "pool/borrow.h"
#include "pool/events.h"
#include "pool/ticket.h"

/* How one run of `use` ended. */
struct run {
    enum pool_status status;
    struct pl_failure failure;
    bool was_reused, was_sent, was_received;
    bool has_failed; /* an operation did: the connection's return will say why it is closed */
    bool is_to_repeat;
};

/* Does what the connection says win over what `use` answered? The peer's end does, unless it is the
 * end of an answer. */
static bool connection_decides(const struct pl_failure *failure, uint32_t marks, int answer)
{
    if (!(marks & PL_MARK_FAILED))
        return false;
    return failure->status != POOL_E_CLOSED || answer || !(marks & PL_MARK_RECEIVED);
}

static void judge(struct run *run, struct pl_connection *connection, int answer)
{
    uint32_t marks = pl_get(connection->lease.marks);
    enum pool_status doom = pl_stream_doom(connection);

    run->was_reused = marks & PL_MARK_REUSED;
    run->was_sent = marks & PL_MARK_SENT;
    run->was_received = marks & PL_MARK_RECEIVED;
    run->has_failed = marks & PL_MARK_FAILED;
    run->failure = pl_failure_unpack(pl_get(connection->failure));
    if (doom && !(marks & PL_MARK_FAILED) && answer)
        pl_stream_fail(connection, doom, 0);
    else if (!connection_decides(&run->failure, marks, answer))
        run->failure = (struct pl_failure){ 0 };
    if (!run->failure.status && answer) {
        run->failure = pl_failure_make(POOL_E_USER, POOL_PHASE_USE, answer);
        run->failure.outcome = run->was_received ? POOL_ANSWERED
                               : run->was_sent   ? POOL_MAYBE_SENT
                                                 : POOL_NOT_SENT;
    }
    run->status = (enum pool_status)run->failure.status;
}

/* Only a connection that had served before may have died of age; a new one that fails would fail
 * again. */
static bool is_worth_repeating(const struct run *run, uint32_t flags)
{
    if (!run->was_reused || (run->status != POOL_E_CLOSED && run->status != POOL_E_BROKEN))
        return false;
    return (!run->was_sent && !run->was_received) || (flags & POOL_SAFE_TO_REPEAT);
}

/* While the connection still keeps its pool alive: after the last one is given back to a destroyed
 * pool, none is. */
static void keep_count(struct pl_connection *connection, const struct run *run)
{
    struct pool *pool = connection->peer->pool;

    if (run->is_to_repeat)
        pl_pool_count(pool, retries, 1);
    else if (run->status == POOL_E_TIMEOUT || run->status == POOL_E_TIMEOUT_IN_TRANSFER)
        pl_pool_count(pool, timeouts, 1);
}

/* Whatever `use` made of it: who canceled was told that it came in time. */
static void note_canceled(struct run *run)
{
    run->failure = pl_failure_make(POOL_E_CANCELED, POOL_PHASE_USE, 0);
    run->failure.outcome = run->was_received ? POOL_ANSWERED
                           : run->was_sent   ? POOL_MAYBE_SENT
                                             : POOL_NOT_SENT;
    run->status = POOL_E_CANCELED;
}

/* `use` had the connection; it may have given it away itself. */
static void run_use(struct run *run, struct pool_conn *conn, pool_use_fn *use, void *user,
                    struct pool_ticket *ticket)
{
    struct pl_connection *connection = pl_connection_of(conn->slot);
    bool may_repeat = run->is_to_repeat;
    uint32_t flags = connection->lease.flags;
    struct pool_conn lent = *conn;
    int answer = use(&lent, user);
    bool was_canceled = !pl_ticket_let_go(ticket);

    *run = (struct run){ .status = POOL_OK };
    if (!pl_word_pin(&connection->word, conn->serial)) {
        if (pl_connection_refusal(conn) == POOL_E_FORKED) {
            run->failure = pl_failure_make(POOL_E_FORKED, POOL_PHASE_USE, 0);
        } else if (answer) {
            run->failure = pl_failure_make(POOL_E_USER, POOL_PHASE_USE, answer);
            run->failure.outcome = POOL_MAYBE_SENT;
        }
        run->status = (enum pool_status)run->failure.status;
        return;
    }
    judge(run, connection, answer);
    if (was_canceled)
        note_canceled(run);
    run->is_to_repeat = may_repeat && !was_canceled && is_worth_repeating(run, flags);
    keep_count(connection, run);
    if (pl_word_unpin(&connection->word)) {
        pl_peer_finish_close(connection);
        return;
    }
    if (run->status && !run->has_failed)
        pool_discard(conn);
    else
        pool_return(conn);
}

static enum pool_status tell_failure(const char *address, const struct pool_call *call,
                                     const struct run *run, const struct pl_spent *spent)
{
    const char *text = address ? address : call && call->target ? call->target->peer->text : NULL;

    pl_failure_tell(&run->failure, spent, text, call ? call->error : NULL);
    return run->status;
}

/* The second run has what is left of the first one's time. */
static enum pool_status borrow_again(struct pl_borrow *borrow, const struct pool_call *call,
                                     uint64_t deadline_ns, struct pool_conn *conn)
{
    enum pool_status status = pl_call_read(call, &borrow->call);

    if (status)
        return status;
    if (!borrow->call.deadline_ns || borrow->call.deadline_ns > deadline_ns)
        borrow->call.deadline_ns = deadline_ns;
    borrow->must_look = true;
    return pl_borrow_any(borrow, conn);
}

/* What the call took so far belongs to `use`, but for what the ways to a connection took. */
static void account_use(struct pl_spent *spent, uint64_t begin_ns)
{
    uint64_t rest_ns = pl_os->now_ns() - begin_ns;

    spent->ns[POOL_PHASE_USE] = 0;
    for (size_t i = 0; i < PL_COUNT(spent->ns); i++)
        rest_ns -= spent->ns[i] < rest_ns ? spent->ns[i] : rest_ns;
    spent->ns[POOL_PHASE_USE] = rest_ns;
}

static enum pool_status communicate(struct pl_borrow *borrow, pool_use_fn *use, void *user,
                                    const struct pool_call *call)
{
    uint64_t begin_ns = pl_os->now_ns(), deadline_ns;
    struct pool_conn conn;
    enum pool_status status;
    struct run run;

    status = pl_borrow_first(borrow, call, &conn);
    for (int repeats = 0; !status; repeats++) {
        deadline_ns = pl_stream_deadline(pl_connection_of(conn.slot), begin_ns); /* exact now */
        run.is_to_repeat = repeats == 0;
        run_use(&run, &conn, use, user, borrow->ticket);
        if (!run.status)
            return POOL_OK;
        account_use(&borrow->spent, begin_ns);
        if (!run.is_to_repeat)
            return tell_failure(borrow->address, call, &run, &borrow->spent);
        borrow->peer = NULL;
        status = borrow_again(borrow, call, deadline_ns, &conn);
    }
    return status;
}

enum pool_status pool_communicate(struct pool *pool, const char *address, pool_use_fn *use,
                                  void *user, const struct pool_call *call)
{
    struct pl_borrow borrow = { .pool = pool, .address = address };
    enum pool_status status;

    if (!use)
        return POOL_E_ARGUMENT;
    status = communicate(&borrow, use, user, call);
    return borrow.ticket ? pl_borrow_end_ticket(&borrow, status) : status;
}
