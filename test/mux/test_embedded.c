/* test_embedded.c: a mux in a loop of the program's: what its one descriptor says, and what other
 * threads do in it between two batches. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/os.h"
#include "commpool/pool.h"
#include "mux/mux.h"
#include "support/peer.h"
#include "support/tests.h"

#define SOON 10000

static struct pool_mux *mux;

static void begin(void)
{
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
}

static void end(void)
{
    pool_mux_destroy(mux);
}

TestSuite(embedded, .init = begin, .fini = end);

static _Atomic unsigned called;

static void count_call(void *user)
{
    (void)user;
    called++;
}

static void dispatch(void)
{
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
}

static bool is_true(void *flag)
{
    return atomic_load((_Atomic bool *)flag);
}

/* ---- its descriptor in a set of the program's */

static void post_one(unsigned index, void *argument)
{
    (void)index, (void)argument;
    pool_mux_post(mux, count_call, NULL);
}

static bool is_told(int epoll_fd, int within_ms)
{
    struct epoll_event event;

    return epoll_wait(epoll_fd, &event, 1, within_ms) == 1;
}

Test(embedded, every_post_of_another_thread_shows_in_the_programs_own_epoll_set)
{
    struct epoll_event event = { .events = EPOLLIN };
    int outer = epoll_create1(EPOLL_CLOEXEC);

    cr_assert_eq(epoll_ctl(outer, EPOLL_CTL_ADD, pool_mux_fd(mux), &event), 0);
    for (unsigned round = 1; round <= 100; round++) {
        cr_assert(run_threads(1, post_one, NULL));
        cr_assert(is_told(outer, SOON));
        cr_assert(is_told(outer, 0), "until it is dispatched");
        dispatch();
        cr_assert_eq(called, round);
        cr_assert_not(is_told(outer, 0));
    }
    close(outer);
}

#define CROWD 600 /* more than a batch takes */

Test(embedded, a_post_among_more_events_than_a_batch_takes_is_neither_lost_nor_told_for_ever)
{
    static int crowd[CROWD];
    unsigned batches = 0;
    struct pollfd polled = { .fd = pool_mux_fd(mux), .events = POLLIN };

    cr_assert_geq(set_descriptor_limit(CROWD + 100), 100);
    for (size_t i = 0; i < CROWD; i++) {
        crowd[i] = pl_os->eventfd_create();
        cr_assert_eq(pl_mux_add(mux, crowd[i], EPOLLIN | EPOLLONESHOT,
                                pl_mux_data(PL_WATCH_CONNECTION, (uint32_t)i, 1)),
                     POOL_OK);
        pl_os->eventfd_add(crowd[i]);
    }
    cr_assert(run_threads(1, post_one, NULL));
    for (; poll(&polled, 1, 0) == 1 && batches < 10; batches++) {
        dispatch();
        cr_expect_eq(called, 1, "posts run in every batch, full or not");
    }
    cr_expect_eq(batches, CROWD / 256 + 1);
    cr_assert(run_threads(1, post_one, NULL));
    cr_expect_eq(poll(&polled, 1, SOON), 1);
    dispatch();
    cr_expect_eq(called, 2);
    for (size_t i = 0; i < CROWD; i++)
        close(crowd[i]);
}

/* ---- other threads in it, for a moment */

struct visit {
    struct pl_post post;
    _Atomic bool has_begun, may_end, has_ended;
    _Atomic int during, in_time, after;
    _Atomic uint64_t waited_ms;
};

static void hold_visit(struct pl_post *post)
{
    struct visit *visit = pl_container(post, struct visit, post);

    atomic_store(&visit->has_begun, true);
    wait_until(is_true, &visit->may_end, SOON);
    atomic_store(&visit->has_ended, true);
}

static void dispatch_beside(unsigned index, void *argument)
{
    struct visit *visit = argument;
    uint64_t begin_ms;

    if (index == 0) {
        visit->after = pl_mux_visit(mux, visit);
        return;
    }
    wait_until(is_true, &visit->has_begun, SOON);
    pool_mux_post(mux, count_call, NULL);
    visit->during = pool_mux_dispatch(mux, 0);
    begin_ms = now_ms();
    visit->in_time = pool_mux_dispatch(mux, 20);
    visit->waited_ms = elapsed_ms(begin_ms);
    visit->in_time |= called != 0;
    atomic_store(&visit->may_end, true);
    visit->during |= pool_mux_dispatch(mux, POOL_NONE) | !visit->has_ended;
}

Test(embedded, a_dispatch_that_meets_a_visitor_waits_for_its_end_and_no_longer_than_told)
{
    struct visit visit = { .post = { .run = hold_visit, .owner = &visit }, .during = -1 };

    pl_mux_post(mux, &visit.post);
    cr_assert(run_threads(2, dispatch_beside, &visit));
    cr_expect(visit.after);
    cr_expect_eq(visit.during, POOL_OK);
    cr_expect_eq(visit.in_time, POOL_OK);
    cr_expect(WITHIN(visit.waited_ms, 20, 40));
    cr_expect_eq(called, 1, "and then it does its batch: %u", called);
}

struct owned {
    struct pl_post post;
    unsigned *order, place;
};

static void note_order(struct pl_post *post)
{
    struct owned *owned = pl_container(post, struct owned, post);

    owned->place = ++*owned->order;
}

Test(embedded, a_visitor_runs_what_is_its_own_or_nobodys_and_leaves_the_rest_in_order)
{
    unsigned order = 0;
    int mine, other;
    const void *owners[] = { &other, &mine, NULL, mux, &mine, &other };
    static const unsigned places[] = { 4, 1, 2, 5, 3, 6 };
    struct owned owned[PL_COUNT(places)];

    for (size_t i = 0; i < PL_COUNT(owned); i++) {
        owned[i] = (struct owned){ { .run = note_order, .owner = owners[i] }, &order, 0 };
        pl_mux_post(mux, &owned[i].post);
    }
    cr_expect(pl_mux_visit(mux, &mine));
    cr_expect_eq(order, 3);
    dispatch();
    for (size_t i = 0; i < PL_COUNT(owned); i++)
        cr_expect_eq(owned[i].place, places[i], "%zu: %u", i, owned[i].place);
}

static void dispatch_inside(struct pl_post *post)
{
    (void)post;
    called += pool_mux_dispatch(mux, 1) == POOL_E_ARGUMENT;
}

Test(embedded, a_dispatch_inside_a_visit_of_the_same_thread_is_still_an_argument_error)
{
    struct pl_post post = { .run = dispatch_inside };

    pl_mux_post(mux, &post);
    cr_expect(pl_mux_visit(mux, &post));
    cr_expect_eq(called, 1);
}

static void enter_or_visit(unsigned index, void *argument)
{
    struct visit *visit = argument;

    if (index == 0) {
        visit->after = pl_mux_enter(mux); /* not the home thread */
        visit->during = pl_mux_visit(mux, visit);
    }
}

Test(embedded, between_two_batches_the_home_thread_keeps_visitors_out)
{
    struct visit visit = { .post = { .run = hold_visit, .owner = &visit }, .may_end = true };

    pl_mux_post(mux, &visit.post);
    cr_assert_eq(pl_mux_enter(mux), PL_MUX_ENTERED);
    cr_expect_eq(pl_mux_enter(mux), PL_MUX_INSIDE);
    cr_assert(run_threads(1, enter_or_visit, &visit));
    cr_expect_eq(visit.after, PL_MUX_ELSEWHERE);
    cr_expect_not(visit.during);
    cr_expect_not(visit.has_begun);
    pl_mux_leave(mux, PL_MUX_ENTERED);
    cr_assert(run_threads(1, enter_or_visit, &visit));
    cr_expect(visit.during);
    cr_expect(visit.has_ended);
}

static void visit_in_thread(unsigned index, void *argument)
{
    struct visit *visit = argument;

    if (index == 0)
        visit->after = pl_mux_visit(mux, visit);
    else if (wait_until(is_true, &visit->has_begun, SOON))
        atomic_store(&visit->may_end, true);
}

static void *visit_later(void *argument)
{
    run_threads(2, visit_in_thread, argument);
    return NULL;
}

Test(embedded, the_home_thread_waits_for_a_visitor_before_it_touches_what_is_the_muxs)
{
    for (unsigned round = 0; round < 20; round++) {
        struct visit visit = { .post = { .run = hold_visit, .owner = &visit } };
        pthread_t thread;

        pl_mux_post(mux, &visit.post);
        cr_assert_eq(pthread_create(&thread, NULL, visit_later, &visit), 0);
        cr_assert(wait_until(is_true, &visit.has_begun, SOON));
        cr_assert_eq(pl_mux_enter(mux), PL_MUX_ENTERED);
        cr_expect(visit.has_ended);
        pl_mux_leave(mux, PL_MUX_ENTERED);
        pthread_join(thread, NULL);
    }
}

/* ---- pools that end elsewhere */

struct ends {
    const char *address;
    _Atomic bool is_over;
    _Atomic unsigned failed, destroyed, strangers, dispatched, seen;
    pthread_t loop;
};

static void note_thread(void *user)
{
    struct ends *ends = user;

    ends->strangers += !pthread_equal(pthread_self(), ends->loop);
    called++;
}

static bool has_dispatched(void *user)
{
    struct ends *ends = user;

    return ends->dispatched > ends->seen;
}

/* Lets the loop dispatch beside it; when this is the loop's own thread it cannot. */
static void linger(uint64_t connection, const struct pool_error *error, void *user)
{
    struct ends *ends = user;

    (void)connection, (void)error;
    ends->seen = ends->dispatched;
    if (!pthread_equal(pthread_self(), ends->loop))
        wait_until(has_dispatched, ends, SOON);
}

static int ignore(struct pool_conn *conn, struct pool_bytes bytes, void *user)
{
    (void)conn, (void)bytes, (void)user;
    return 0;
}

static int attach_lingerer(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = ignore;
    actor->on_close = linger;
    actor->user = user;
    return 0;
}

static int echo(struct pool_conn *conn, void *user)
{
    char byte;

    (void)user;
    return pool_send(conn, "x", 1) || pool_recv_exact(conn, &byte, 1);
}

#define ROUNDS 100

static void loop_or_end(unsigned index, void *argument)
{
    struct ends *ends = argument;
    struct pool *pool;

    if (index == 0) {
        ends->loop = pthread_self();
        while (!atomic_load(&ends->is_over)) {
            struct pollfd polled = { .fd = pool_mux_fd(mux), .events = POLLIN };

            poll(&polled, 1, 1);
            ends->failed += pool_mux_dispatch(mux, 0) != POOL_OK;
            ends->dispatched++;
        }
        return;
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        if (pool_create(POOL_OPTIONS(.mux = mux, .on_new_connection = attach_lingerer,
                                     .user = ends),
                        &pool))
            abort();
        ends->failed += pool_communicate(pool, ends->address, echo, NULL, NULL) != POOL_OK;
        pool_mux_post(mux, note_thread, ends);
        pool_destroy(pool);
        ends->destroyed++;
    }
    atomic_store(&ends->is_over, true);
}

Test(embedded, a_loop_sees_no_error_while_pools_end_on_another_thread_and_its_posts_stay_its_own)
{
    struct peer *peer = PEER(.behave = PEER_ECHO);
    struct ends ends = { .address = peer_address(peer) };

    cr_assert(run_threads(2, loop_or_end, &ends));
    dispatch();
    cr_expect_eq(ends.destroyed, ROUNDS);
    cr_expect_eq(ends.failed, 0);
    cr_expect_eq(called, ROUNDS);
    cr_expect_eq(ends.strangers, 0);
    peer_stop(peer);
}

/* ---- posts that never end */

static enum pool_status told;
static unsigned rounds;

static void post_for_ever(void *user)
{
    struct pool_mux *of = user;

    rounds++;
    told = pool_mux_post(of, post_for_ever, of);
}

Test(embedded, a_post_that_posts_itself_for_ever_is_told_of_the_end_and_does_not_keep_it_off)
{
    struct pool_mux *other;

    cr_assert_eq(pool_mux_create(&other), POOL_OK);
    pool_mux_post(other, post_for_ever, other);
    pool_mux_destroy(other);
    cr_expect_eq(told, POOL_E_CLOSING);
    cr_expect_gt(rounds, 100, "those that come to an end have their time: %u", rounds);
}

static void destroy_inside(void *user)
{
    pool_mux_destroy(user);
}

Test(embedded, nor_does_it_when_the_end_comes_inside_a_batch)
{
    int before = count_descriptors();
    struct pool_mux *other;

    cr_assert_eq(pool_mux_create(&other), POOL_OK);
    pool_mux_post(other, post_for_ever, other);
    pool_mux_post(other, destroy_inside, other);
    cr_expect_eq(pool_mux_dispatch(other, 0), POOL_OK);
    cr_expect_eq(told, POOL_E_CLOSING);
    cr_expect_eq(count_descriptors(), before);
}
