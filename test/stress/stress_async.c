/* stress_async.c: threads that block and event-driven code, all over the same few connections.
 *
 * Threads borrow and block, start asynchronous calls, cancel them at random moments, take over
 * loans that the mux hands them; on the mux thread calls are started from callbacks, connections
 * are used by events, handed on, returned and thrown away. At the end the pool is destroyed with
 * all that is still out.
 *
 * What must hold: every call that started is told exactly once, with an answer that fits; canceled
 * only if a cancel said so, and when one did, canceled or lent before; no connection is lent twice
 * at once; no reply is another's; the gauges of every snapshot add up, and nothing is left. */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define THREADS 6u
#define CALLS 4000u /* of one pool at most */
#define SPARE 1000u /* of these, for what callbacks start */
#define CARDS 65536u
#define BOXES 8u
#define MAILBOX 2u /* less than any pool has connections: threads may all be waiting for one */
#define LINE 64
#define ENOUGH_MS 30000u
#define LAST_BURST 20u

enum plan { RETURN, DISCARD, BY_EVENTS, HAND_OVER, AND_ANOTHER, PLANS };

/* One asynchronous call. */
struct call {
    enum plan plan;
    atomic_uint told;
    enum pool_status status;
    bool has_started;
    uint32_t timeout_ms;
    struct pool_ticket *ticket; /* its box's, or nobody's */
    atomic_uint canceled; /* cancels that said they came in time */
    struct pool_conn conn;
    uint64_t id;
    char line[LINE], heard[LINE];
    size_t have;
    atomic_bool is_over; /* its loan, if it got one */
};

static struct peer *peer;
static struct pool *pool;
static struct call *calls;
static atomic_uint calls_begun, calls_told;
static atomic_uint holders[CARDS]; /* by a connection's id: how many have it */
static struct call *_Atomic boxes[BOXES], *_Atomic mailbox[MAILBOX];
static atomic_bool is_ending;
static atomic_ullong started, canceled, by_events, blocking, handed_over;
static atomic_uint preparers;

/* ---- who has what */

static void hold(struct call *call, const struct pool_conn *conn)
{
    uint64_t id = pool_conn_id(conn);

    if (call)
        call->id = id;
    if (!id || atomic_fetch_add(&holders[id % CARDS], 1))
        stress_fail("connection %llu is lent twice", (unsigned long long)id);
}

static void let_go(uint64_t id)
{
    atomic_fetch_sub(&holders[id % CARDS], 1);
}

/* Ends a call's loan; false: it must not fail, and did. */
static void end_loan(struct call *call, bool is_clean)
{
    enum pool_status status;

    let_go(call->id);
    status = is_clean ? pool_return(&call->conn) : pool_discard(&call->conn);
    if (status)
        stress_fail("giving back answered %s", pool_status_name(status));
    if (atomic_exchange(&call->is_over, true))
        stress_fail("a loan ended twice");
}

/* ---- on the mux thread */

static void begin_call(struct stress_caller *self, enum plan plan, bool has_ticket);

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct call *call = user;

    if (atomic_load(&call->is_over) || !pool_conn_same(conn, &call->conn)) {
        stress_fail("an event of a loan that is over");
        return;
    }
    if (event == POOL_EV_ERROR || event == POOL_EV_CLOSED) {
        end_loan(call, false);
        return;
    }
    if (event != POOL_EV_READ)
        return;
    if (call->have + bytes.size >= LINE) {
        stress_fail("heard more than was asked for");
        end_loan(call, false);
        return;
    }
    memcpy(call->heard + call->have, bytes.data, bytes.size);
    call->have += bytes.size;
    if (call->heard[call->have - 1] != '\n')
        return;
    if (!strstr(call->heard, call->line + 6))
        stress_fail("crossed: asked \"%s\", heard \"%s\"", call->line, call->heard);
    atomic_fetch_add(&by_events, 1);
    end_loan(call, true);
}

static void use_by_events(struct call *call)
{
    snprintf(call->line, LINE, "TOKEN m%u-\n", (unsigned)(call - calls));
    if (pool_conn_watch(&call->conn, on_event, call) ||
        pool_write(&call->conn, call->line, strlen(call->line)))
        end_loan(call, false);
}

static bool put_in_mailbox(struct call *call)
{
    for (unsigned i = 0; i < MAILBOX; i++) {
        struct call *none = NULL;

        if (atomic_compare_exchange_strong(&mailbox[i], &none, call))
            return true;
    }
    return false;
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    static __thread struct stress_caller *mux_self;
    static __thread struct stress_caller mux_caller;
    struct call *call = user;

    if (!mux_self) {
        mux_caller = stress_caller_make(5000);
        mux_self = &mux_caller;
    }
    if (atomic_fetch_add(&call->told, 1))
        stress_fail("told twice");
    atomic_fetch_add(&calls_told, 1);
    call->status = error ? error->status : POOL_OK;
    if (error) {
        if (error->outcome != POOL_NOT_SENT && error->phase != POOL_PHASE_SETUP)
            stress_fail("nothing can have been sent: %s", error->text);
        return;
    }
    call->conn = *conn;
    hold(call, conn);
    if (call->plan == BY_EVENTS)
        use_by_events(call);
    else if (call->plan != HAND_OVER || !put_in_mailbox(call))
        end_loan(call, call->plan != DISCARD);
    if (call->plan == AND_ANOTHER)
        begin_call(mux_self, stress_chance(mux_self, 80) ? AND_ANOTHER : BY_EVENTS, false);
}

/* ---- starting and canceling */

static void cancel(struct call *call)
{
    if (!call)
        return;
    if (pool_ticket_cancel(call->ticket)) {
        atomic_fetch_add(&call->canceled, 1);
        atomic_fetch_add(&canceled, 1);
    }
    pool_ticket_free(call->ticket);
}

static bool may_be_refused(enum pool_status status)
{
    return status == POOL_E_FULL || (status == POOL_E_CLOSING && atomic_load(&is_ending));
}

static void begin_call(struct stress_caller *self, enum plan plan, bool has_ticket)
{
    unsigned number = atomic_fetch_add(&calls_begun, 1);
    struct call *call = number < CALLS ? &calls[number] : NULL;
    struct pool_call settings = { .size = sizeof(settings), .timeout_ms = ENOUGH_MS };
    enum pool_status status;

    if (!call) {
        atomic_fetch_sub(&calls_begun, 1);
        return;
    }
    call->plan = plan;
    if (stress_chance(self, 15))
        settings.timeout_ms = 1 + stress_below(self, 5);
    if (stress_chance(self, 5))
        settings.wait_ms = 1 + stress_below(self, 5);
    call->timeout_ms = settings.timeout_ms;
    status = pool_communicate_async(pool, peer_address(peer), on_lent, call, &settings,
                                    has_ticket ? &call->ticket : NULL);
    call->has_started = !status;
    if (status && !may_be_refused(status))
        stress_fail("the start: %s", pool_status_name(status));
    if (status && call->ticket)
        stress_fail("a ticket for nothing");
    atomic_fetch_add(&started, !status);
    if (status || !has_ticket)
        return;
    if (stress_chance(self, 30))
        cancel(call);
    else
        cancel(atomic_exchange(&boxes[stress_below(self, BOXES)], call));
}

/* ---- threads that block */

static void block(struct stress_caller *self)
{
    struct pool_call settings = { .size = sizeof(settings), .timeout_ms = ENOUGH_MS };
    struct pool_ticket *ticket = NULL;
    struct pool_conn conn;
    enum pool_status status;
    uint64_t id;

    if (stress_chance(self, 20))
        settings.timeout_ms = 1 + stress_below(self, 5);
    if (stress_chance(self, 20))
        settings.ticket = &ticket;
    status = pool_borrow(pool, peer_address(peer), &settings, &conn);
    if (status) {
        if (status != POOL_E_TIMEOUT && status != POOL_E_TIMEOUT_IN_TRANSFER)
            stress_fail("borrow: %s", pool_status_name(status));
        pool_ticket_free(ticket);
        return;
    }
    id = pool_conn_id(&conn);
    hold(NULL, &conn);
    if (ticket && stress_chance(self, 30) && !pool_ticket_cancel(ticket))
        stress_fail("too late for a loan that is on");
    pool_ticket_free(ticket);
    stress_ask(self, &conn, NULL);
    let_go(id);
    if (stress_chance(self, 10))
        pool_discard(&conn);
    else
        pool_return(&conn);
    atomic_fetch_add(&blocking, 1);
}

static void take_over(struct stress_caller *self)
{
    struct call *call = atomic_exchange(&mailbox[stress_below(self, MAILBOX)], NULL);

    if (!call)
        return;
    end_loan(call, stress_ask(self, &call->conn, NULL) == POOL_OK);
    atomic_fetch_add(&handed_over, 1);
}

static bool is_backlog_long(void)
{
    return atomic_load(&calls_begun) > atomic_load(&calls_told) + 200;
}

static void run(unsigned index, void *argument)
{
    struct stress_caller self = stress_caller_make(index + 100 * *(unsigned *)argument);

    while (stress_is_on() && atomic_load(&calls_begun) < CALLS - SPARE - LAST_BURST * THREADS) {
        unsigned dice = stress_below(&self, 100);

        take_over(&self);
        if (dice < 35 || is_backlog_long())
            block(&self);
        else if (dice < 95)
            begin_call(&self, stress_below(&self, PLANS), stress_chance(&self, 60));
        else if (dice < 98)
            stress_expect_even(pool);
        else
            pool_remove_some_connection(pool);
    }
    for (unsigned i = 0; i < LAST_BURST; i++) /* still out when the pool ends */
        begin_call(&self, stress_below(&self, PLANS), stress_chance(&self, 60));
}

/* ---- the pools */

static void on_event_told(const struct pool_event_info *event, void *user)
{
    (void)event, (void)user;
}

static int prepare(struct pool_conn *conn, void *user)
{
    struct stress_caller caller = stress_caller_make(6000 + atomic_fetch_add(&preparers, 1));

    (void)user;
    caller.must_copy = true;
    return stress_ask(&caller, conn, NULL);
}

static const struct pool_options kinds[] = {
    { .size = sizeof(struct pool_options), .max_per_address = 4 },
    { .size = sizeof(struct pool_options),
      .max_per_address = 3,
      .order = POOL_FIFO,
      .barge_ms = POOL_ZERO,
      .park_ms = 1,
      .max_idle = 2,
      .max_uses = 60,
      .max_age_ms = 300,
      .on_event = on_event_told },
    { .size = sizeof(struct pool_options),
      .max_per_address = 5,
      .park_ms = 1,
      .max_connecting = 3,
      .max_uses = 20,
      .check = POOL_CHECK_PARKED,
      .prepare = prepare },
};

static bool may_be_told(const struct call *call)
{
    switch (call->status) {
    case POOL_OK:
    case POOL_E_CANCELED:
    case POOL_E_CLOSING:
        return true;
    case POOL_E_TIMEOUT:
    case POOL_E_TIMEOUT_IN_TRANSFER: /* in `prepare` */
        return true;
    default:
        return false;
    }
}

static void look_at_call(struct call *call)
{
    unsigned cancels = atomic_load(&call->canceled);

    if (atomic_load(&call->told) != call->has_started)
        stress_fail("started %d, told %u times", call->has_started, call->told);
    if (!call->has_started)
        return;
    if (!may_be_told(call))
        stress_fail("told %s", pool_status_name(call->status));
    if (call->status == POOL_E_CANCELED && !cancels)
        stress_fail("canceled by nobody");
    if (cancels && call->status && call->status != POOL_E_CANCELED)
        stress_fail("cancel said yes, the call says %s", pool_status_name(call->status));
    if (!call->status && !atomic_load(&call->is_over))
        stress_fail("a loan was forgotten (plan %d)", (int)call->plan);
}

static bool are_loans_over(void *argument)
{
    unsigned begun = atomic_load(&calls_begun);

    (void)argument;
    for (unsigned i = 0; i < begun; i++) {
        if (calls[i].told && !calls[i].status && !atomic_load(&calls[i].is_over))
            return false;
    }
    return true;
}

static void end_pool(void)
{
    atomic_store(&is_ending, true);
    pool_destroy(pool);
    for (unsigned i = 0; i < BOXES; i++)
        cancel(atomic_exchange(&boxes[i], NULL));
    for (unsigned i = 0; i < MAILBOX; i++) {
        struct call *call = atomic_exchange(&mailbox[i], NULL);

        if (call)
            end_loan(call, false);
    }
    wait_until(are_loans_over, NULL, 5000 * slowness());
    for (unsigned i = 0; i < atomic_load(&calls_begun); i++)
        look_at_call(&calls[i]);
    for (unsigned i = 0; i < CARDS; i++) {
        if (atomic_load(&holders[i]))
            stress_fail("connection %u is still held", i);
    }
}

static void play(unsigned kind)
{
    int descriptors = count_descriptors();
    long blocks = stress_blocks();

    memset(calls, 0, CALLS * sizeof(*calls));
    atomic_store(&calls_begun, 0);
    atomic_store(&calls_told, 0);
    atomic_store(&is_ending, false);
    if (pool_create(&kinds[kind], &pool)) {
        stress_fail("no pool");
        return;
    }
    run_threads(THREADS, run, &kind);
    end_pool();
    stress_expect_nothing_left(descriptors, blocks, "at the end");
}

int main(int argc, char **argv)
{
    unsigned kinds_count = sizeof(kinds) / sizeof(*kinds), pools = 0;

    stress_begin(argc, argv, 12);
    calls = calloc(CALLS, sizeof(*calls));
    peer = PEER(.behave = PEER_TOKEN, .own_process = true);
    if (!peer || !calls) {
        stress_fail("nothing to begin with");
        return stress_end("nothing");
    }
    for (unsigned kind = 0; kind < kinds_count; kind++) {
        stress_begin_part(stress_seconds() * 1000 / kinds_count);
        while (stress_is_on()) {
            play(kind);
            pools++;
        }
    }
    peer_stop(peer);
    free(calls);
    return stress_end("%u pools, %llu calls started, %llu cancels in time, %llu used by events, "
                      "%llu handed to threads, %llu blocking",
                      pools, started, canceled, by_events, handed_over, blocking);
}
