/* test_room.c: when descriptors, ports or a cap run out, the least recently used idle connection of
 * anybody on the mux makes room; when nothing is idle, whoever needs room waits, and burns
 * nothing. */
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/os.h"
#include "pool/room.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* ---- which connections were closed, in order */

struct ends {
    atomic_uint count;
    char addresses[64][64];
};

static void note_end(const struct pool_event_info *event, void *user)
{
    struct ends *ends = user;

    if (event->kind != POOL_EVENT_CONNECTION_CLOSED || event->reason != POOL_CLOSE_EVICTED ||
        ends->count == 64)
        return;
    snprintf(ends->addresses[ends->count], sizeof(ends->addresses[0]), "%s", event->address);
    atomic_fetch_add(&ends->count, 1);
}

static bool has_end(void *argument)
{
    struct ends *ends = argument;

    return ends->count > 0;
}

/* The one end since the last time, told by another thread perhaps. */
static void expect_end(struct ends *ends, const char *address)
{
    cr_assert(wait_until(has_end, ends, VERBS_SOON));
    cr_expect_eq(ends->count, 1);
    cr_expect_str_eq(ends->addresses[0], address);
    ends->count = 0;
}

/* ---- the order */

static void expect_order(uint32_t park_ms, bool waits)
{
    static const unsigned uses[] = {
        0, 1, 2, 3, 4, 5, 2, 0, 0, 4
    }; /* the last use of each counts */
    static const unsigned order[] = { 1, 3, 5, 2, 0, 4 };
    static struct ends ends;
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool;
    struct pool_conn conn;
    int fd = -1;

    ends.count = 0;
    /* One for each address: who comes while one is being parked waits for it. */
    pool = MAKE_POOL(.park_ms = park_ms, .on_event = note_end, .user = &ends,
                     .max_per_address = 1);
    for (size_t i = 0; i < sizeof(uses) / sizeof(*uses); i++) {
        cr_assert(borrow(pool, loopback_at(peer, uses[i]), &conn));
        fd = pool_conn_fd(&conn);
        cr_assert_eq(pool_return(&conn), POOL_OK);
    }
    if (waits)
        cr_assert(wait_parked(fd));
    for (int i = 0; i < 6; i++) {
        cr_expect_eq(pool_remove_some_connection(pool), 1);
        expect_end(&ends, loopback_at(peer, order[i]));
    }
    cr_expect_eq(pool_remove_some_connection(pool), 0);
    cr_expect_eq(STAT(pool, evicted), 6);
    cr_expect_eq(STAT(pool, total), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_room, the_least_recently_used_goes_first_hot_or_parked)
{
    expect_order(POOL_NONE, false);
    expect_order(1, true);
    expect_order(1, false); /* some of each */
}

Test(pool_room, a_busy_connection_is_untouched_however_old_it_is)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool = MAKE_POOL();
    struct pool_conn oldest;

    cr_assert(borrow(pool, loopback_at(peer, 0), &oldest));
    cr_expect_eq(id_of_next(pool, loopback_at(peer, 1)), 2);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    cr_expect_eq(pool_remove_some_connection(pool), 0);
    cr_expect_eq(echo(&oldest, "still mine"), 0);
    cr_expect_eq(pool_return(&oldest), POOL_OK);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* pool_remove_some_connection is about its own pool only. */
Test(pool_room, a_pool_asked_for_room_closes_nothing_of_another)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool_mux *mux;
    struct pool *first, *second;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    first = MAKE_POOL(.mux = mux);
    second = MAKE_POOL(.mux = mux);
    cr_expect_eq(pool_remove_some_connection(first), 0);
    pool_destroy(first);
    pool_destroy(second);
    pool_mux_destroy(mux);
    peer_stop(peer);
}

/* ---- across pools */

struct running {
    struct pool_mux *mux;
    pthread_t thread;
    atomic_bool runs;
};

static void *run_mux(void *argument)
{
    pool_mux_run(argument);
    return NULL;
}

static void note_running(void *user)
{
    struct running *running = user;

    atomic_store(&running->runs, true);
}

static void start_mux(struct running *running)
{
    *running = (struct running){ 0 };
    cr_assert_eq(pool_mux_create(&running->mux), POOL_OK);
    cr_assert_eq(pool_mux_post(running->mux, note_running, running), POOL_OK);
    cr_assert_eq(pthread_create(&running->thread, NULL, run_mux, running->mux), 0);
    while (!atomic_load(&running->runs))
        sched_yield(); /* until then this thread is the mux's */
}

static void stop_mux(struct running *running)
{
    pool_mux_stop(running->mux);
    pthread_join(running->thread, NULL);
    pool_mux_destroy(running->mux);
}

static void evict_across(uint32_t first_park_ms, uint32_t second_park_ms)
{
    static struct ends ends;
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pools[2];
    struct running running;
    struct pool_conn conn;
    int fd = -1;

    start_mux(&running);
    ends.count = 0;
    pools[0] = MAKE_POOL(.mux = running.mux, .park_ms = first_park_ms, .on_event = note_end,
                         .user = &ends);
    pools[1] = MAKE_POOL(.mux = running.mux, .park_ms = second_park_ms, .on_event = note_end,
                         .user = &ends);
    for (unsigned i = 0; i < 6; i++) {
        cr_assert(borrow(pools[i % 2], loopback_at(peer, i), &conn));
        fd = pool_conn_fd(&conn);
        cr_assert_eq(pool_return(&conn), POOL_OK);
    }
    if (second_park_ms != POOL_NONE)
        cr_assert(wait_parked(fd));
    fill_descriptors_but(0);
    for (unsigned i = 0; i < 6; i++) {
        cr_expect(borrow(pools[1], loopback_at(peer, 10 + i), &conn));
        cr_expect_eq(pool_discard(&conn), POOL_OK);
        fill_descriptors_but(0);
        expect_end(&ends, loopback_at(peer, i));
    }
    free_descriptors(PEER_ALL);
    pool_destroy(pools[0]);
    pool_destroy(pools[1]);
    stop_mux(&running);
    peer_stop(peer);
}

Test(pool_room, the_oldest_of_all_pools_on_a_mux_makes_room)
{
    set_descriptor_limit(64);
    evict_across(100, 100);
    evict_across(POOL_NONE, POOL_NONE);
}

/* The first pool's connections are hot still when the second one's are parked, and older. */
Test(pool_room, a_hot_connection_that_is_older_goes_before_a_parked_one)
{
    set_descriptor_limit(64);
    evict_across(POOL_NONE, 1);
}

/* ---- at the limit of descriptors */

static void visit_many(unsigned limit, unsigned addresses)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool = MAKE_POOL();
    unsigned most = 0;
    int now;

    set_descriptor_limit(limit);
    for (unsigned i = 0; i < addresses; i++) {
        cr_assert_eq(talk(pool, loopback_at(peer, i)), POOL_OK, "address %u", i);
        now = (int)STAT(pool, total);
        most = (unsigned)now > most ? (unsigned)now : most;
    }
    cr_expect_leq(most, limit);
    cr_expect_eq(STAT(pool, opened), addresses);
    cr_expect_eq(STAT(pool, evicted) + STAT(pool, total), addresses);
    cr_expect_eq(STAT(pool, borrow_failed), 0);
    cr_expect(peer_wait_accepted(peer, addresses, VERBS_SOON));
    set_descriptor_limit(4096);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_room, two_hundred_addresses_are_visited_with_forty_descriptors)
{
    visit_many(40, 200);
}

/* As far as it fits into this process; the plain programs go lower. */
Test(pool_room, with_room_for_one_connection_all_goes_on)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool = MAKE_POOL();

    set_descriptor_limit(64);
    fill_descriptors_but(1);
    for (unsigned i = 0; i < 50; i++)
        cr_expect_eq(talk(pool, loopback_at(peer, i)), POOL_OK);
    cr_expect_eq(STAT(pool, total), 1);
    cr_expect_eq(STAT(pool, evicted), 49);
    free_descriptors(PEER_ALL);
    pool_destroy(pool);
    peer_stop(peer);
}

struct crowd {
    struct pool *pool;
    struct peer *peer;
    unsigned rounds;
    atomic_uint failures, foreign;
};

static void visit_at_random(unsigned index, void *argument)
{
    struct crowd *crowd = argument;
    unsigned seed = index + 1;
    struct pool_error error = POOL_ERROR_INIT;
    char token[32];

    for (unsigned i = 0; i < crowd->rounds; i++) {
        snprintf(token, sizeof(token), "thread %3u %9u", index, i);
        if (pool_communicate(crowd->pool, loopback_at(crowd->peer, (unsigned)rand_r(&seed) % 40),
                             use_echo, token,
                             POOL_CALL(.timeout_ms = VERBS_SOON, .error = &error))) {
            fprintf(stderr, "%s\n", error.text);
            atomic_fetch_add(error.status == POOL_E_USER ? &crowd->foreign : &crowd->failures, 1);
        }
    }
}

/* Evicting while others borrow, at a limit of eight. */
Test(pool_room, sixteen_threads_share_eight_descriptors_among_forty_addresses, .timeout = 300)
{
    struct crowd crowd = { .peer = PEER(.own_process = true, .every_loopback = true) };

    crowd.pool = MAKE_POOL(.park_ms = 2);
    crowd.rounds = 400 / slowness();
    set_descriptor_limit(128);
    fill_descriptors_but(8);
    cr_assert(run_threads(16, visit_at_random, &crowd));
    free_descriptors(PEER_ALL);
    cr_expect_eq(crowd.failures, 0);
    cr_expect_eq(crowd.foreign, 0);
    cr_expect_eq(STAT(crowd.pool, lent), 0);
    cr_expect_eq(STAT(crowd.pool, waiting), 0);
    cr_expect_gt(STAT(crowd.pool, evicted), 0);
    cr_expect_eq(pl_room_wanted, 0);
    pool_destroy(crowd.pool);
    peer_stop(crowd.peer);
}

/* The same when it is the pool's own cap. */
Test(pool_room, sixteen_threads_share_eight_connections_among_forty_addresses, .timeout = 300)
{
    struct crowd crowd = { .peer = PEER(.own_process = true, .every_loopback = true) };

    crowd.pool = MAKE_POOL(.max_connections = 8, .park_ms = 2);
    crowd.rounds = 400 / slowness();
    cr_assert(run_threads(16, visit_at_random, &crowd));
    cr_expect_eq(crowd.failures, 0);
    cr_expect_eq(crowd.foreign, 0);
    cr_expect_eq(STAT(crowd.pool, lent), 0);
    cr_expect_leq(STAT(crowd.pool, total), 8);
    cr_expect_eq(pl_room_wanted, 0);
    pool_destroy(crowd.pool);
    peer_stop(crowd.peer);
}

/* ---- nothing is idle */

struct asked {
    atomic_uint times;
    enum pool_decision decision;
    unsigned frees;
};

static enum pool_decision on_none(struct pool *pool, void *user)
{
    struct asked *asked = user;

    (void)pool;
    atomic_fetch_add(&asked->times, 1);
    free_descriptors(asked->frees);
    return asked->decision;
}

static uint64_t cpu_ms(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

/* Two connections are lent, and one more is asked for. */
struct full {
    struct peer *peer;
    struct pool *pool;
    struct asked asked;
    struct pool_conn conns[2];
};

static void fill_up(struct full *full, bool with_descriptors, enum pool_decision decision,
                    unsigned frees)
{
    full->asked = (struct asked){ .decision = decision, .frees = frees };
    full->peer = PEER(.own_process = true, .every_loopback = true);
    full->pool = MAKE_POOL(.max_connections = with_descriptors ? 100 : 2,
                           .on_none_removable = on_none, .user = &full->asked);
    for (unsigned i = 0; i < 2; i++)
        cr_assert(borrow(full->pool, loopback_at(full->peer, i), &full->conns[i]));
    if (with_descriptors) {
        set_descriptor_limit(64);
        fill_descriptors_but(0);
    }
}

static void empty(struct full *full)
{
    free_descriptors(PEER_ALL);
    for (int i = 0; i < 2; i++)
        if (full->conns[i].slot)
            cr_expect_eq(pool_return(&full->conns[i]), POOL_OK);
    pool_destroy(full->pool);
    peer_stop(full->peer);
}

static void wait_in_vain(bool with_descriptors)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    struct full full;
    uint64_t start_ms, start_cpu_ms;

    fill_up(&full, with_descriptors, POOL_CONTINUE, 0);
    start_ms = now_ms();
    start_cpu_ms = cpu_ms();
    cr_expect_eq(pool_borrow(full.pool, loopback_at(full.peer, 9),
                             POOL_CALL(.timeout_ms = 1000, .error = &error), &conn),
                 POOL_E_RESOURCE, "%s", error.text);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 1000));
    cr_expect_leq(cpu_ms() - start_cpu_ms, 50 * slowness());
    cr_expect_eq(error.cause, with_descriptors ? EMFILE : 0);
    cr_expect_eq(full.asked.times, 1);
    cr_expect_eq(echo(&full.conns[0], "lent ones are untouched"), 0);
    cr_expect_eq(echo(&full.conns[1], "lent ones are untouched"), 0);
    cr_expect_eq(pl_room_wanted, 0);
    empty(&full);
}

Test(pool_room, with_nothing_idle_it_asks_once_waits_quietly_and_fails_at_the_deadline)
{
    wait_in_vain(true);
    wait_in_vain(false);
}

static void fail_at_once(bool with_descriptors)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    struct full full;
    uint64_t start_ms;

    fill_up(&full, with_descriptors, POOL_ABORT, 0);
    start_ms = now_ms();
    cr_expect_eq(
        pool_borrow(full.pool, loopback_at(full.peer, 9), POOL_CALL(.error = &error), &conn),
        POOL_E_RESOURCE);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(error.cause, with_descriptors ? EMFILE : 0);
    cr_expect_eq(full.asked.times, 1);
    cr_expect_eq(pool_borrow(full.pool, loopback_at(full.peer, 9), NULL, &conn), POOL_E_RESOURCE);
    cr_expect_eq(full.asked.times, 2, "once for each call that finds nothing");
    cr_expect_eq(pl_room_wanted, 0);
    empty(&full);
}

Test(pool_room, the_program_may_let_it_fail_at_once)
{
    fail_at_once(true);
    fail_at_once(false);
}

/* What it freed is not left for the look that comes each 100 ms. */
Test(pool_room, what_the_program_frees_of_its_own_is_used_at_once)
{
    bool is_quick = false;
    struct pool_conn conn;
    struct full full;
    uint64_t start_ms;

    for (int i = 0; i < 3 && !is_quick; i++) {
        fill_up(&full, true, POOL_CONTINUE, 3);
        start_ms = now_ms();
        cr_expect(borrow(full.pool, loopback_at(full.peer, 9), &conn));
        is_quick = elapsed_ms(start_ms) < 100;
        cr_expect_eq(full.asked.times, 1);
        pool_return(&conn);
        empty(&full);
    }
    cr_expect(is_quick);
}

static void serve_by_return(bool with_descriptors, bool discards)
{
    struct caller waiter;
    struct full full;
    uint64_t start_ms;

    fill_up(&full, with_descriptors, POOL_CONTINUE, 0);
    cr_assert(queue_caller(&waiter, full.pool, loopback_at(full.peer, 9), VERBS_SOON));
    while (!pl_room_wanted)
        sched_yield();
    start_ms = now_ms();
    cr_expect_eq(discards ? pool_discard(&full.conns[0]) : pool_return(&full.conns[0]), POOL_OK);
    cr_expect_eq(join_caller(&waiter), POOL_OK, "%s", waiter.error.text);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(echo(&waiter.conn, "in its room"), 0);
    cr_expect_eq(STAT(full.pool, evicted), discards ? 0 : 1);
    cr_expect_eq(pl_room_wanted, 0);
    pool_return(&waiter.conn);
    empty(&full);
}

Test(pool_room, the_next_return_serves_who_waits_for_room)
{
    serve_by_return(true, false);
    serve_by_return(true, true);
    serve_by_return(false, false);
    serve_by_return(false, true);
}

Test(pool_room, those_who_wait_for_room_are_served_one_for_each_return)
{
    static char addresses[2][64];
    struct caller waiters[2];
    struct full full;

    fill_up(&full, true, POOL_CONTINUE, 0);
    for (unsigned i = 0; i < 2; i++) {
        snprintf(addresses[i], sizeof(addresses[i]), "%s", loopback_at(full.peer, 20 + i));
        cr_assert(queue_caller(&waiters[i], full.pool, addresses[i], VERBS_SOON));
        while (pl_room_wanted < i + 1)
            sched_yield();
    }
    for (unsigned i = 0; i < 2; i++) {
        cr_expect_eq(pool_return(&full.conns[i]), POOL_OK);
        cr_expect_eq(join_caller(&waiters[i]), POOL_OK, "in the order in which they came");
        cr_expect_eq(STAT(full.pool, waiting), 1 - i);
    }
    cr_expect_eq(STAT(full.pool, evicted), 2);
    for (unsigned i = 0; i < 2; i++)
        pool_return(&waiters[i].conn);
    empty(&full);
}

/* Nobody returns anything, but the program closes descriptors: all who wait are served, not one. */
Test(pool_room, descriptors_that_the_program_frees_serve_all_who_wait)
{
    enum { WAITERS = 5 };
    static char addresses[WAITERS][64];
    struct caller waiters[WAITERS];
    struct full full;
    uint64_t start_ms;

    fill_up(&full, true, POOL_CONTINUE, 0);
    for (unsigned i = 0; i < WAITERS; i++) {
        snprintf(addresses[i], sizeof(addresses[i]), "%s", loopback_at(full.peer, 20 + i));
        cr_assert(queue_caller(&waiters[i], full.pool, addresses[i], 3000));
    }
    while (pl_room_wanted < WAITERS)
        sched_yield();
    start_ms = now_ms();
    free_descriptors(WAITERS + 2);
    for (unsigned i = 0; i < WAITERS; i++) {
        cr_expect_eq(join_caller(&waiters[i]), POOL_OK, "%u: %s", i, waiters[i].error.text);
        cr_expect(WITHIN(elapsed_ms(start_ms), 0, 1000));
        pool_return(&waiters[i].conn);
    }
    empty(&full);
}

/* One who gives up leaves no claim behind: what comes back afterwards is kept. */
Test(pool_room, one_who_gave_up_costs_no_connection)
{
    struct pool_conn conn;
    struct full full;

    fill_up(&full, true, POOL_CONTINUE, 0);
    cr_expect_eq(
        pool_borrow(full.pool, loopback_at(full.peer, 9), POOL_CALL(.timeout_ms = 50), &conn),
        POOL_E_RESOURCE);
    cr_expect_eq(pool_return(&full.conns[0]), POOL_OK);
    cr_expect_eq(STAT(full.pool, idle), 1);
    cr_expect_eq(STAT(full.pool, evicted), 0);
    empty(&full);
}

/* ---- the rest */

Test(pool_room, what_a_pool_needs_for_life_is_opened_at_its_creation)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.park_ms = 1), *second;
    int made = count_descriptors();

    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(count_descriptors(), made + 1, "one connection, and nothing else");
    set_descriptor_limit(64);
    fill_descriptors_but(0);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1);
    cr_expect_eq(pool_create(NULL, &second), POOL_E_RESOURCE);
    free_descriptors(PEER_ALL);
    cr_expect_eq(count_descriptors(), made + 1, "what failed left nothing");
    cr_expect_eq(peer_close_all(peer), 1);
    cr_expect(WAIT_STAT(pool, total, 0));
    cr_expect_eq(count_descriptors(), made);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_room, by_default_a_pool_leaves_64_descriptors_to_the_program)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool;

    set_descriptor_limit(84);
    pool = MAKE_POOL();
    for (unsigned i = 0; i < 40; i++)
        cr_expect_eq(talk(pool, loopback_at(peer, i)), POOL_OK);
    cr_expect_eq(STAT(pool, total), 20);
    pool_destroy(pool);
    set_descriptor_limit(66);
    pool = MAKE_POOL();
    for (unsigned i = 0; i < 40; i++)
        cr_expect_eq(talk(pool, loopback_at(peer, i)), POOL_OK);
    cr_expect_eq(STAT(pool, total), 8);
    pool_destroy(pool);
    peer_stop(peer);
}
