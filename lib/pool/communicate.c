/* communicate.c: borrow, use, return: the main call, and what becomes of what `use` did. */
#include "base/os.h"
#include "net/stream.h"
#include "pool/borrow.h"
#include "pool/conn.h"
#include "pool/events.h"
#include "pool/retry.h"
#include "pool/ticket.h"

/* How one run of `use` ended. */
struct run {
    enum pool_status status;
    struct pl_failure failure;
    bool was_reused, was_sent, was_received;
    bool has_failed; /* an operation did: the connection's return will say why it is closed */
    struct pl_repeatable repeatable;
    bool is_to_repeat; /* nobody else decides, and it is */
};

/* Does what the connection says win over what `use` answered? The peer's end does, unless it is the
 * end of an answer. */
static bool connection_decides(const struct pl_failure *failure, uint32_t marks, int answer)
{
    if (!(marks & PL_MARK_FAILED))
        return false;
    return failure->status != POOL_E_CLOSED || answer || !(marks & PL_MARK_RECEIVED);
}

static uint8_t outcome_of(const struct run *run)
{
    if (run->was_received)
        return POOL_ANSWERED;
    return run->was_sent ? POOL_MAYBE_SENT : POOL_NOT_SENT;
}

static void judge(struct run *run, struct pl_connection *connection, int answer)
{
    uint32_t marks = pl_get(connection->lease.marks);
    enum pool_status doom = pl_stream_doom(connection);

    run->was_reused = marks & PL_MARK_REUSED;
    run->was_sent = marks & PL_MARK_SENT;
    run->was_received = marks & PL_MARK_RECEIVED;
    run->has_failed = marks & PL_MARK_FAILED;
    run->failure = pl_stream_failure(connection);
    if (doom && !(marks & PL_MARK_FAILED) && answer)
        pl_stream_fail(connection, doom, 0);
    else if (!connection_decides(&run->failure, marks, answer))
        run->failure = (struct pl_failure){ 0 };
    if (!run->failure.status && answer) {
        run->failure = pl_failure_because(PL_REASON_USE, POOL_PHASE_USE, answer);
        run->failure.outcome = outcome_of(run);
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
        pl_pool_count(pool, &pool->books.retries);
    else if (run->status == POOL_E_TIMEOUT || run->status == POOL_E_TIMEOUT_IN_TRANSFER)
        pl_pool_count(pool, &pool->books.timeouts);
}

/* Whatever `use` made of it: who canceled was told that it came in time. */
static void note_canceled(struct run *run)
{
    run->failure = pl_failure_make(POOL_E_CANCELED, POOL_PHASE_USE, 0);
    run->failure.outcome = outcome_of(run);
    run->status = POOL_E_CANCELED;
}

/* While it runs, the connection is this thread's own: calls inside it can tell. */
static int call_use(const struct pool_conn *conn, pool_use_fn *use, void *user)
{
    struct pl_thread *self = pl_thread_current;
    struct pool_conn lent = *conn;
    int answer;

    pl_set(pl_connection_of(conn->slot)->lease.holder, self->id);
    self->loans++;
    answer = use(&lent, user);
    self->loans--;
    return answer;
}

/* True: it is, and pinned; false: `use` gave it away itself, or took it out of the pool. */
static bool is_still_lent(const struct pool_conn *conn)
{
    struct pl_connection *connection = pl_conn_enter(conn);

    if (!connection || !pl_connection_is_detached(connection))
        return connection;
    pl_conn_leave(connection);
    return false;
}

/* `use` gave the connection away: of what went over it nothing is known. */
static void judge_gone(struct run *run, const struct pool_conn *conn, int answer)
{
    run->was_sent = true;
    if (pl_connection_refusal(conn) == POOL_E_FORKED) {
        run->failure = pl_failure_make(POOL_E_FORKED, POOL_PHASE_USE, 0);
    } else if (answer) {
        run->failure = pl_failure_because(PL_REASON_USE, POOL_PHASE_USE, answer);
    }
    run->failure.outcome = POOL_MAYBE_SENT;
    run->status = (enum pool_status)run->failure.status;
}

/* Who cancels a call that went well has come too late from here on. */
static bool is_canceled(const struct run *run, struct pool_ticket *ticket, bool was_canceled)
{
    return was_canceled || (!run->status && !pl_ticket_end(ticket));
}

/* `use` had the connection; it may not be the pool's any more. */
static void run_use(struct run *run, struct pool_conn *conn, pool_use_fn *use, void *user,
                    struct pool_ticket *ticket)
{
    struct pl_connection *connection = pl_connection_of(conn->slot);
    bool may_repeat = run->is_to_repeat;
    uint32_t flags = connection->lease.flags;
    int answer = call_use(conn, use, user);
    bool was_canceled = !pl_ticket_let_go(ticket);

    *run = (struct run){ .status = POOL_OK };
    if (!is_still_lent(conn)) {
        judge_gone(run, conn, answer);
        if (run->status != POOL_E_FORKED && is_canceled(run, ticket, was_canceled))
            note_canceled(run);
        return;
    }
    judge(run, connection, answer);
    was_canceled = is_canceled(run, ticket, was_canceled);
    if (was_canceled)
        note_canceled(run);
    run->repeatable.by_itself = !was_canceled && is_worth_repeating(run, flags);
    run->repeatable.if_wanted = !run->was_sent || (flags & POOL_SAFE_TO_REPEAT);
    run->is_to_repeat = may_repeat && run->repeatable.by_itself;
    keep_count(connection, run);
    if (pl_word_unpin(&connection->word)) {
        pl_peer_finish_close_and_tell(connection);
        return;
    }
    if (run->status && !run->has_failed)
        pool_discard(conn);
    else
        pool_return(conn);
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

/* One pool_communicate(). */
struct job {
    struct pl_borrow borrow;
    const struct pool_call *call;       /* as each attempt is made */
    struct pl_retry *retry;             /* NULL: nobody is asked about failures */
    pool_use_fn *use;
    void *user;
    uint64_t begin_ns;
};

static void tell_failure(struct job *job, const struct run *run)
{
    struct pl_borrow *borrow = &job->borrow;

    if (!pl_call_read(job->call, &borrow->call))        /* a warm borrow has not */
        pl_failure_tell(&run->failure, &borrow->spent, pl_borrow_text(borrow), borrow->call.error);
}

/* `use` on what was borrowed. With a failure, *attempt says what there is to decide. */
static enum pool_status use_once(struct job *job, struct pool_conn *conn, bool may_replace,
                                 struct pl_attempt *attempt)
{
    struct run run = { .is_to_repeat = may_replace && !job->retry };

    attempt->deadline_ns =
        pl_stream_deadline(pl_connection_of(conn->slot), job->begin_ns); /* exact now */
    run_use(&run, conn, job->use, job->user, job->borrow.ticket);
    if (!run.status)
        return POOL_OK;
    account_use(&job->borrow.spent, job->begin_ns);
    pl_borrow_note_outcome(&job->borrow, &run.failure);
    attempt->failure = run.failure;
    attempt->repeatable = run.repeatable;
    attempt->was_reused = run.was_reused;
    attempt->is_to_repeat = run.is_to_repeat;
    if (job->retry || !run.is_to_repeat)
        tell_failure(job, &run);
    return run.status;
}

/* Where nobody is asked, a connection that died of age is replaced, and nothing else is. */
static bool is_wanted_again(struct job *job, enum pool_status status, bool has_run,
                            struct pl_attempt *attempt)
{
    if (!has_run && !job->retry)
        return false;
    if (!has_run)
        *attempt = pl_retry_failed_borrow(&job->borrow, status);
    return job->retry ? pl_retry_wants(job->retry, &job->borrow, attempt) : attempt->is_to_repeat;
}

static enum pool_status communicate(struct job *job)
{
    struct pl_attempt attempt = { 0 };
    struct pool_conn conn;
    enum pool_status status = pl_borrow_first(&job->borrow, job->call, &conn);
    bool has_run;

    for (int repeats = 0;; repeats++) {
        has_run = !status;
        if (has_run)
            status = use_once(job, &conn, repeats == 0, &attempt);
        if (!status || !is_wanted_again(job, status, has_run, &attempt))
            return status;
        status = pl_retry_borrow_again(&job->borrow, job->call, attempt.deadline_ns, &conn);
    }
}

/* The same where somebody is asked about failures; out of the way of those who ask nobody. */
static PL_COLD enum pool_status communicate_asking(struct job *job)
{
    struct pl_retry retry;
    enum pool_status status;

    if (!pl_retry_begin(&retry, job->call))
        return communicate(job);
    job->call = &retry.call;
    job->retry = &retry;
    status = communicate(job);
    return pl_retry_end(&retry, &job->borrow, status);
}

enum pool_status pool_communicate(struct pool *pool, const char *address, pool_use_fn *use,
                                  void *user, const struct pool_call *call)
{
    struct job job = { .borrow = { .pool = pool, .address = address },
                       .call = call,
                       .use = use,
                       .user = user,
                       .begin_ns = pl_os->now_ns() };
    enum pool_status status;

    if (!use)
        return pl_borrow_refuse(address, call, POOL_E_ARGUMENT);
    status = pl_retry_is_asked(pool, call) ? communicate_asking(&job) : communicate(&job);
    pl_borrow_end_wait(&job.borrow);
    return job.borrow.ticket ? pl_borrow_end_ticket(&job.borrow, status) : status;
}
