/* test_reentrancy.c: every public function is called in every callback, in a pool with a thread of
 * its own and in one whose mux the test dispatches. It answers what its row in calls.h allows, it
 * returns, and what is left of the pool works and ends.
 *
 * One cell is one function in one callback. The callback is brought about on a thread beside, while
 * this one dispatches the cell's mux; the first time that it runs it makes the call. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commpool/codec.h"
#include "pool/cell.h"

#define CELL_S 20u /* no cell of a healthy run comes near */
#define PATIENT POOL_CALL(.timeout_ms = VERBS_SOON)

/* ---- the cell */

enum { NOT_RUN = 200 };

static char cell_name[256];

/* Only what a signal handler may call. */
static void on_alarm(int signo)
{
    (void)signo;
    if (write(STDERR_FILENO, cell_name, strlen(cell_name)) < 0)
        _exit(4);
    _exit(3);
}

static void *run_beside(void *argument)
{
    (void)argument;
    cell.beside();
    atomic_store(&cell.is_beside_done, true);
    return NULL;
}

/* Runs it on another thread, and the mux on this one meanwhile, as long as there is one. */
static void beside(void (*fn)(void))
{
    cell.beside = fn;
    atomic_store(&cell.is_beside_done, false);
    cr_assert_eq(pthread_create(&cell.thread, NULL, run_beside, NULL), 0);
    while (!atomic_load(&cell.is_beside_done) && cell.props.mux)
        (void)pool_mux_dispatch(cell.props.mux, 2);
    if (!cell.props.mux && cell.props.pool && !atomic_load(&cell.is_beside_done)) {
        pool_destroy(cell.props.pool); /* nobody dispatches any more: it runs what is left itself */
        cell.props.pool = NULL;
    }
    pthread_join(cell.thread, NULL);
}

/* ---- one cell */

static atomic_int ends;

static void count_end(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)error;
    (void)user;
    if (conn)
        pool_discard(conn);
    atomic_fetch_add(&ends, 1);
}

static void do_no_more(void *user)
{
    (void)user;
}

/* The loan is made by way of a connection of its own, before the hooks are of interest. */
static void take_loan(void)
{
    struct pool_conn conn;

    if (borrow(cell.props.pool, cell.props.address, &conn)) {
        cell.loan = conn;
        pool_conn_deadline(&cell.loan, VERBS_SOON);
    }
}

static void get_target(void)
{
    cr_expect_eq(pool_target_get(cell.props.pool, cell.props.address, &cell.props.target), POOL_OK);
    cr_expect_eq(pool_communicate_async(cell.props.pool, cell.props.address, count_end, NULL,
                                        PATIENT, &cell.props.ticket),
                 POOL_OK);
}

static void set_up(const struct callback *callback, const struct call *call, bool is_embedded)
{
    struct pool_options *options =
        POOL_OPTIONS(.park_ms = 1, .timeout_ms = 200, .max_per_address = 4, .user = &cell,
                     .codec = pool_codec_line());

    cell = (struct cell){ .callback = callback->name, .call = call, .answer = NOT_RUN };
    snprintf(cell_name, sizeof(cell_name), "%s in %s (%s) hangs\n", call->function, callback->name,
             is_embedded ? "embedded" : "own thread");
    alarm(CELL_S * slowness());
    cell.peer = PEER(.every_loopback = true);
    cr_assert(cell.peer);
    cr_assert_eq(pool_mux_create(&cell.mux), POOL_OK);
    cell.props.peer = cell.peer;
    cell.props.patience_ms = 10 * WAITS_MS;
    cell.props.mux = cell.mux;
    cell.props.address = loopback_at(cell.peer, 0);
    options->mux = is_embedded ? cell.mux : NULL;
    if (callback->adjust)
        callback->adjust(options);
    cell.props.pool = make_pool(options);
    cr_assert(cell.props.pool);
    atomic_store(&cell.has_begun, true); /* not yet */
    beside(take_loan);
    cr_assert(cell.loan.slot, "%s", cell_name);
    atomic_store(&cell.has_begun, false);
    if (callback->needs_loan_gone)
        pool_discard(&cell.loan);
}

static void equip(const struct callback *callback)
{
    cr_assert_eq(pool_mux_after(cell.mux, POOL_NONE, do_no_more, NULL, &cell.props.timer), POOL_OK);
    cr_assert_eq(pool_address_parse(cell.props.address, &cell.props.parsed, NULL), POOL_OK);
    atomic_store(&ends, 0);
    if (cell.call->answers[0] == NOTHING || cell.call->answers[0] == DONE) {
        bool is_ticket = strncmp(cell.call->function, "pool_ticket", 11) == 0;
        bool is_target = strncmp(cell.call->function, "pool_target", 11) == 0;

        if ((is_ticket || is_target) && !callback->needs_loan_gone) {
            atomic_store(&cell.has_begun, true);
            get_target();
            atomic_store(&cell.has_begun, false);
        }
    }
}

static bool may_answer(const struct call *call, int answer)
{
    for (unsigned place = 0; place < MOST_PLACES; place++) {
        if (call->answers[place] == answer && answer != POOL_E_FORKED)
            return true;
    }
    return answer <= 0 && answer > -32 && (call->also & BIT(answer));
}

/* What the call wrote in a callback may be answered after the callback said that the connection is
 * ready; so another address's connection shows whether the pool works. */
static void talk_again(void)
{
    bool is_answer_due = strcmp(cell.call->function, "pool_write") == 0;
    const char *address = is_answer_due ? loopback_at(cell.peer, 1) : cell.props.address;
    enum pool_status status = talk(cell.props.pool, address);

    cr_expect_eq(status, POOL_OK, "%s in %s: %s afterwards", cell.call->function, cell.callback,
                 pool_status_name(status));
}

static bool is_usable(const struct callback *callback)
{
    return cell.props.pool && cell.props.mux && !callback->needs_loan_gone &&
           strcmp(cell.call->function, "pool_close") != 0;
}

static void tear_down(const struct callback *callback)
{
    atomic_store(&cell.has_begun, true);
    if (cell.loan.slot && pool_conn_id(&cell.loan))
        pool_discard(&cell.loan);
    if (is_usable(callback)) {
        (void)pool_ready(cell.props.pool);
        beside(talk_again);
    }
    pool_ticket_free(cell.props.ticket);
    pool_target_free(cell.props.target);
    pool_timer_cancel(cell.props.timer);
    pool_destroy(cell.props.pool);
    pool_mux_destroy(cell.props.mux);
    pool_address_unref(cell.props.parsed);
    peer_stop(cell.peer);
    alarm(0);
}

static void visit(const struct callback *callback, const struct call *call, bool is_embedded)
{
    int answer;

    set_up(callback, call, is_embedded);
    equip(callback);
    beside(callback->bring_about);
    cr_expect(
        wait_until(cell_has_run, NULL, VERBS_SOON)); /* another call may have brought it about */
    answer = atomic_load(&cell.answer);
    cr_expect_neq(answer, NOT_RUN, "%s in %s: it never ran", call->function, callback->name);
    cr_expect(may_answer(call, answer), "%s in %s (%s): %s", call->function, callback->name,
              is_embedded ? "embedded" : "own thread", answer_name(answer));
    tear_down(callback);
}

struct table {
    const struct call *calls;
    const unsigned *count;
};

static const struct table tables[] = { { calls_of_conn, &count_of_conn },
                                       { calls_of_pool, &count_of_pool },
                                       { calls_of_mux, &count_of_mux },
                                       { calls_of_none, &count_of_none },
                                       { calls_of_queries, &count_of_queries },
                                       { calls_of_replies, &count_of_replies } };

static void visit_all(unsigned which, bool is_embedded)
{
    const struct callback *callback = &callbacks[which];
    sigset_t signals;

    cr_assert_lt(which, count_of_callbacks);
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGALRM, on_alarm);
    for (unsigned i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        for (unsigned row = 0; row < *tables[i].count; row++)
            visit(callback, &tables[i].calls[row], is_embedded);
    }
}

/* ---- one case for each callback */

Test(pool_reentrancy, every_function_in_use)
{
    visit_all(0, false);
    visit_all(0, true);
}

Test(pool_reentrancy, every_function_in_prepare)
{
    visit_all(1, false);
    visit_all(1, true);
}

Test(pool_reentrancy, every_function_in_on_new_connection)
{
    visit_all(2, false);
    visit_all(2, true);
}

Test(pool_reentrancy, every_function_in_on_message)
{
    visit_all(3, false);
    visit_all(3, true);
}

Test(pool_reentrancy, every_function_in_on_close)
{
    visit_all(4, false);
    visit_all(4, true);
}

Test(pool_reentrancy, every_function_in_on_socket)
{
    visit_all(5, false);
    visit_all(5, true);
}

Test(pool_reentrancy, every_function_in_on_lent)
{
    visit_all(6, false);
    visit_all(6, true);
}

Test(pool_reentrancy, every_function_in_events_of_a_connection)
{
    visit_all(7, false);
    visit_all(7, true);
}

Test(pool_reentrancy, every_function_in_on_error)
{
    visit_all(8, false);
    visit_all(8, true);
}

Test(pool_reentrancy, every_function_in_on_none_removable)
{
    visit_all(9, false);
    visit_all(9, true);
}

Test(pool_reentrancy, every_function_in_on_event)
{
    visit_all(10, false);
    visit_all(10, true);
}

Test(pool_reentrancy, every_function_in_on_log)
{
    visit_all(11, false);
    visit_all(11, true);
}

Test(pool_reentrancy, every_function_in_posts)
{
    visit_all(12, false);
    visit_all(12, true);
}

Test(pool_reentrancy, every_function_in_timers)
{
    visit_all(13, false);
    visit_all(13, true);
}

Test(pool_reentrancy, every_function_in_signals)
{
    visit_all(14, false);
    visit_all(14, true);
}

Test(pool_reentrancy, every_function_in_on_closed)
{
    visit_all(15, false);
    visit_all(15, true);
}

Test(pool_reentrancy, every_function_in_free_user)
{
    visit_all(16, false);
    visit_all(16, true);
}

Test(pool_reentrancy, every_function_in_on_resolved)
{
    visit_all(17, false);
    visit_all(17, true);
}
