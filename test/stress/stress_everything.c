/* stress_everything.c: sixteen threads do at once whatever a program can do to a pool: borrow,
 * begin and cancel calls, discard, clear, evict, kill, force timeouts, forget numbers, pause,
 * detach, release and adopt; then the pool is destroyed with every connection out and callers in
 * its queue, and the next one begins.
 *
 *     stress_everything [SEED [SECONDS]]
 *     stress_everything BORROWS        so many borrows, however long it takes; not more than that
 *
 * (A number alone is one of borrows when it is at least 10,000 and ends in 000.)
 *
 * What must hold: every call ends with what those orders allow, every reply carries its caller's
 * token, each asynchronous call is told once, canceling keeps its word, the gauges of every
 * snapshot add up, every loan that observers hear of ends for them, and no descriptor or byte is
 * left. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define PLACES 3u
#define PER_PLACE 3u
#define HOLDERS (PLACES * PER_PLACE)
#define THREADS 16u
#define WAITERS (THREADS - HOLDERS - 1)
#define CALL_MS 30000u
#define SOON_MS 30000u
#define PART_MS 700u
#define PART_BORROWS 100000u
#define TICKETS 8u

static struct peer *peers[PLACES];
static struct pool *pool;
static bool is_observed;
static pthread_barrier_t all_are_done, all_are_out;
static _Atomic uint64_t last_id;
static atomic_ullong borrows, orders, canceled, cut, lent_events, returned_events;
static uint64_t borrows_wanted, part_end;

/* Tickets of calls under way, for anybody to cancel. Who owns one takes it out before it ends. */
static struct {
    pthread_mutex_t lock;
    struct pool_ticket *tickets[TICKETS];
} open_calls = { .lock = PTHREAD_MUTEX_INITIALIZER };

static bool is_over(void)
{
    return borrows_wanted ? atomic_load(&borrows) >= part_end || stress_failures() > 100
                          : !stress_is_on();
}

static const char *some_address(struct stress_caller *caller)
{
    return peer_address(peers[stress_below(caller, PLACES)]);
}

/* What an exchange on a loan may meet. */
static bool may_meet(int status)
{
    switch (status) {
    case POOL_OK:
    case POOL_E_CANCELED:
    case POOL_E_CLEARED:
    case POOL_E_BROKEN:
    case POOL_E_TIMEOUT:
    case POOL_E_TIMEOUT_IN_TRANSFER:
        return true;
    default:
        return false;
    }
}

static void judge(const char *what, int status)
{
    if (status)
        atomic_fetch_add(&cut, 1);
    if (status > 0)
        stress_fail("%s: a reply crossed or strayed", what);
    else if (!may_meet(status))
        stress_fail("%s: %s", what, pool_status_name((enum pool_status)status));
    if (status == POOL_E_CLEARED)
        sched_yield(); /* whoever paused the pool goes first */
}

/* ---- tickets */

static void show(struct pool_ticket *ticket, unsigned thread)
{
    pthread_mutex_lock(&open_calls.lock);
    if (!open_calls.tickets[thread % TICKETS])
        open_calls.tickets[thread % TICKETS] = ticket;
    pthread_mutex_unlock(&open_calls.lock);
}

static void hide(struct pool_ticket *ticket, unsigned thread)
{
    pthread_mutex_lock(&open_calls.lock);
    if (open_calls.tickets[thread % TICKETS] == ticket)
        open_calls.tickets[thread % TICKETS] = NULL;
    pthread_mutex_unlock(&open_calls.lock);
}

static void cancel_some(struct stress_caller *caller)
{
    struct pool_ticket *ticket;

    pthread_mutex_lock(&open_calls.lock);
    ticket = open_calls.tickets[stress_below(caller, TICKETS)];
    if (ticket && pool_ticket_cancel(ticket))
        atomic_fetch_add(&canceled, 1);
    pthread_mutex_unlock(&open_calls.lock);
}

/* ---- loans */

static int exchange(struct stress_caller *caller, struct pool_conn *conn)
{
    uint64_t id = pool_conn_id(conn), last = atomic_load(&last_id);

    atomic_fetch_add(&borrows, 1);
    while (id > last && !atomic_compare_exchange_weak(&last_id, &last, id))
        continue;
    if (stress_chance(caller, 50))
        return stress_ask(caller, conn, NULL);
    return POOL_OK;
}

static void leave_and_work_on(struct stress_caller *caller, struct pool_conn *conn)
{
    enum pool_status status = pool_detach(conn);

    if (status) {
        if (status != POOL_E_ARGUMENT) /* somebody has a look at it just now */
            judge("detaching", status);
        pool_discard(conn);
        return;
    }
    if (stress_ask(caller, conn, NULL))
        stress_fail("a detached connection does not answer");
    if (pool_discard(conn))
        stress_fail("a detached connection cannot be discarded");
}

static void release_and_adopt(struct stress_caller *caller, struct pool_conn *conn,
                              const char *address)
{
    enum pool_status status;
    int fd;

    status = pool_release_fd(conn, &fd);
    if (status) {
        if (status != POOL_E_ARGUMENT)
            judge("releasing", status);
        pool_discard(conn);
        return;
    }
    status = stress_chance(caller, 70) ? pool_adopt(pool, address, fd) : POOL_E_FULL;
    if (status)
        close(fd);
    if (status && status != POOL_E_FULL)
        stress_fail("adopting: %s", pool_status_name(status));
}

/* The number becomes the program's own: it closes it. */
static void forget(struct pool_conn *conn)
{
    int fd = pool_conn_fd(conn), forgotten = pool_mark_as_dead(pool, fd);

    if (forgotten != 1)
        stress_fail("%d connections had number %d", forgotten, fd);
    pool_return(conn);
    close(fd);
}

static void end_loan(struct stress_caller *caller, struct pool_conn *conn, const char *address,
                     int answer)
{
    unsigned choice = answer ? 0 : stress_below(caller, 200);

    if (choice < 2)
        leave_and_work_on(caller, conn);
    else if (choice < 4)
        release_and_adopt(caller, conn, address);
    else if (choice < 5)
        forget(conn);
    else if (choice < 12)
        pool_discard(conn);
    else
        pool_return(conn);
}

static void borrow_by_hand(struct stress_caller *caller)
{
    const char *address = some_address(caller);
    struct pool_conn conn;
    int answer;
    enum pool_status status = pool_borrow(
        pool, address,
        POOL_CALL(.timeout_ms = CALL_MS, .flags = stress_chance(caller, 1) ? POOL_FRESH : 0),
        &conn);

    judge("borrowing", status);
    if (status)
        return;
    answer = exchange(caller, &conn);
    judge("an exchange", answer);
    if (answer)
        pool_return(&conn);
    else
        end_loan(caller, &conn, address, answer);
}

struct visit {
    struct stress_caller *caller;
    struct pool_ticket *ticket;
};

static int use(struct pool_conn *conn, void *user)
{
    struct visit *visit = user;
    int answer;

    if (visit->ticket)
        show(visit->ticket, visit->caller->thread);
    answer = exchange(visit->caller, conn);
    if (visit->ticket)
        hide(visit->ticket, visit->caller->thread);
    if (answer > 0)
        stress_fail("a reply crossed or strayed");
    return answer;
}

static void communicate(struct stress_caller *caller)
{
    struct visit visit = { .caller = caller };
    bool has_ticket = stress_chance(caller, 20);
    enum pool_status status = pool_communicate(
        pool, some_address(caller), use, &visit,
        POOL_CALL(.timeout_ms = CALL_MS, .ticket = has_ticket ? &visit.ticket : NULL,
                  .flags = stress_chance(caller, 30) ? POOL_SAFE_TO_REPEAT : 0));

    judge("communicating", status);
    pool_ticket_free(visit.ticket);
}

/* ---- asynchronous ones */

struct request {
    struct pool_conn conn;
    enum pool_status status;
    bool returns_at_once;
    atomic_uint told;
};

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct request *request = user;

    request->status = conn ? POOL_OK : error->status;
    if (conn && request->returns_at_once)
        pool_return(conn);
    else if (conn)
        request->conn = *conn;
    atomic_fetch_add(&request->told, 1);
}

static bool was_told(void *argument)
{
    return atomic_load(&((struct request *)argument)->told);
}

static void await(struct request *request)
{
    if (!wait_until(was_told, request, SOON_MS * slowness()))
        stress_fail("an asynchronous call is not told");
    else if (atomic_load(&request->told) != 1)
        stress_fail("an asynchronous call was told %u times", atomic_load(&request->told));
}

static void begin_and_await(struct stress_caller *caller)
{
    const char *address = some_address(caller);
    struct request request = { .returns_at_once = stress_chance(caller, 30) };
    struct pool_ticket *ticket = NULL;
    bool has_ticket = stress_chance(caller, 60), was_in_time = false;
    enum pool_status status =
        pool_communicate_async(pool, address, on_lent, &request, POOL_CALL(.timeout_ms = CALL_MS),
                               has_ticket ? &ticket : NULL);
    int answer = POOL_OK;

    judge("beginning", status);
    if (status)
        return;
    if (ticket && stress_chance(caller, 30))
        was_in_time = pool_ticket_cancel(ticket);
    else if (ticket)
        show(ticket, caller->thread);
    await(&request);
    judge("an asynchronous call", request.status);
    if (was_in_time)
        atomic_fetch_add(&canceled, 1);
    if (request.conn.slot) {
        answer = exchange(caller, &request.conn);
        judge("an exchange", answer);
        if (was_in_time && !answer && stress_ask(caller, &request.conn, NULL) != POOL_E_CANCELED)
            stress_fail("a canceled call goes on");
        end_loan(caller, &request.conn, address, answer || was_in_time);
    } else if (was_in_time && request.status == POOL_OK && !request.returns_at_once) {
        stress_fail("a canceled call was well");
    }
    hide(ticket, caller->thread);
    pool_ticket_free(ticket);
}

/* ---- orders */

static void order(struct stress_caller *caller)
{
    uint64_t id = atomic_load(&last_id) + 2 - stress_below(caller, 12);
    enum pool_status status = POOL_OK;

    switch (stress_below(caller, 16)) {
    case 0:
        status = pool_clear(pool, NULL, stress_chance(caller, 30) ? POOL_INTERRUPT : 0);
        break;
    case 1:
        status = pool_clear(pool, some_address(caller), POOL_INTERRUPT);
        break;
    case 2:
        status = pool_pause(pool);
        if (!status)
            status = pool_ready(pool);
        break;
    case 3:
        pool_force_timeout(pool, id);
        break;
    case 4:
    case 5:
        pool_kill(pool, id);
        break;
    case 6:
        status = pool_reserve_fds(pool, stress_below(caller, 10));
        break;
    case 7:
    case 8:
        stress_expect_even(pool);
        break;
    case 9:
    case 10:
    case 11:
        pool_remove_some_connection(pool);
        break;
    default:
        cancel_some(caller);
        break;
    }
    if (status)
        stress_fail("an order: %s", pool_status_name(status));
    atomic_fetch_add(&orders, 1);
}

/* ---- the end of a pool with everything out */

static void hold_to_the_end(struct stress_caller *caller)
{
    struct pool_conn conn = { 0 };
    int answer;

    if (pool_borrow(pool, peer_address(peers[caller->thread % PLACES]),
                    POOL_CALL(.timeout_ms = CALL_MS), &conn))
        stress_fail("no connection for the end");
    pthread_barrier_wait(&all_are_out);
    answer = stress_ask(caller, &conn, NULL); /* the pool may end meanwhile, or not yet */
    while (!answer)
        answer = stress_ask(caller, &conn, NULL);
    if (answer != POOL_E_CLOSING)
        stress_fail("at the end: %d", answer);
    if (stress_chance(caller, 50) ? pool_return(&conn) : pool_discard(&conn))
        stress_fail("what outlived its pool cannot be given back");
}

/* The handles are out: whoever asks now waits, until the pool ends. */
static void wait_to_the_end(struct stress_caller *caller)
{
    const char *address = some_address(caller);
    struct request request = { 0 };
    struct visit visit = { .caller = caller };
    struct pool_ticket *ticket = NULL;
    bool is_async = stress_chance(caller, 50);
    enum pool_status status;

    pthread_barrier_wait(&all_are_out);
    if (is_async) {
        status = pool_communicate_async(pool, address, on_lent, &request,
                                        POOL_CALL(.timeout_ms = POOL_NONE), &ticket);
        if (!status) {
            await(&request);
            status = request.status;
        }
    } else {
        status = pool_communicate(pool, address, use, &visit, POOL_CALL(.timeout_ms = POOL_NONE));
    }
    if (status != POOL_E_CLOSING)
        stress_fail("who waited to the end: %s", pool_status_name(status));
    pool_ticket_free(ticket);
}

static bool do_all_wait(void *argument)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    (void)argument;
    return !pool_stats(pool, &stats) && stats.waiting == WAITERS && stats.lent == HOLDERS;
}

/* One thread tells events at a time, so the last ones may be told a moment later. */
static bool are_others_told_to_have_ended(void *argument)
{
    (void)argument;
    return !is_observed || atomic_load(&lent_events) == atomic_load(&returned_events) + HOLDERS;
}

static void end_pool(void)
{
    pthread_barrier_wait(&all_are_out);
    if (!wait_until(do_all_wait, NULL, SOON_MS * slowness()))
        stress_fail("not everybody waits, or not every connection is out");
    if (!wait_until(are_others_told_to_have_ended, NULL, SOON_MS * slowness()))
        stress_fail("%llu loans were told of, and %llu ends", atomic_load(&lent_events),
                    atomic_load(&returned_events));
    stress_expect_even(pool);
    pool_destroy(pool);
}

/* ---- a part */

static void work(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index + 100 * *(unsigned *)argument);

    caller.must_copy = true;
    while (!is_over()) {
        unsigned choice = stress_below(&caller, 1000);

        if (choice < 8)
            order(&caller);
        else if (choice < 150)
            begin_and_await(&caller);
        else if (choice < 500)
            communicate(&caller);
        else
            borrow_by_hand(&caller);
    }
    caller.thread = index;
    pthread_barrier_wait(&all_are_done);
    if (index == 0)
        end_pool();
    else if (index <= HOLDERS)
        hold_to_the_end(&caller);
    else
        wait_to_the_end(&caller);
}

static void on_event(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind == POOL_EVENT_BORROWED)
        atomic_fetch_add(&lent_events, 1);
    if (event->kind == POOL_EVENT_RETURNED)
        atomic_fetch_add(&returned_events, 1);
}

static int prepare(struct pool_conn *conn, void *user)
{
    (void)user;
    return pool_conn_id(conn) ? 0 : 1;
}

static void play(unsigned part)
{
    is_observed = part % 3 == 1;
    atomic_store(&last_id, 0);
    atomic_store(&lent_events, 0);
    atomic_store(&returned_events, 0);
    part_end = atomic_load(&borrows) + PART_BORROWS;
    if (borrows_wanted && part_end > borrows_wanted)
        part_end = borrows_wanted;
    if (pool_create(POOL_OPTIONS(.max_per_address = PER_PLACE, .park_ms = 1,
                                 .check = part % 2 ? POOL_CHECK_ALWAYS : POOL_CHECK_NEVER,
                                 .order = part % 4 < 2 ? POOL_LIFO : POOL_FIFO,
                                 .barge_ms = part % 5 == 4 ? POOL_ZERO : 0,
                                 .prepare = part % 3 == 2 ? prepare : NULL,
                                 .on_event = is_observed ? on_event : NULL),
                    &pool)) {
        stress_fail("no pool");
        return;
    }
    if (!run_threads(THREADS, work, &part))
        stress_fail("no threads");
}

/* `stress_everything 10000000` */
static uint64_t wanted_of(int argc, char **argv)
{
    uint64_t number = argc == 2 ? strtoull(argv[1], NULL, 0) : 0;

    return number % 1000 ? 0 : number;
}

int main(int argc, char **argv)
{
    uint64_t end_ms;
    int descriptors;
    long blocks;

    borrows_wanted = wanted_of(argc, argv);
    stress_begin(borrows_wanted ? 1 : argc, argv, 6);
    for (unsigned i = 0; i < PLACES; i++)
        peers[i] = PEER(.behave = PEER_TOKEN, .own_process = true);
    pthread_barrier_init(&all_are_done, NULL, THREADS);
    pthread_barrier_init(&all_are_out, NULL, THREADS);
    descriptors = count_descriptors();
    blocks = stress_blocks();
    end_ms = now_ms() + stress_seconds() * 1000;
    for (unsigned part = 0;
         borrows_wanted ? atomic_load(&borrows) < borrows_wanted : now_ms() < end_ms || part < 3;
         part++) {
        stress_begin_part(PART_MS);
        play(part);
        stress_expect_nothing_left(descriptors, blocks, "a pool");
        if (stress_failures() > 100)
            break;
    }
    for (unsigned i = 0; i < PLACES; i++)
        peer_stop(peers[i]);
    return stress_end("%llu borrows, %llu cut short, %llu canceled, %llu orders",
                      atomic_load(&borrows), atomic_load(&cut), atomic_load(&canceled),
                      atomic_load(&orders));
}
