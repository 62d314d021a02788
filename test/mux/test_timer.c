/* test_timer.c: timers fire in order, never early, and at the mercy of nobody's callback: the heap
 * against a plain model, the mux's timers with a clock of the test, then with the real one. */
#include "mux/timer.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/os.h"
#include "mux/mux.h"
#include "support/tests.h"

/* ---- the heap */

#define TIMERS 250
#define OPERATIONS 1000000u

static struct pl_timers heap;
static struct pl_timer timers[TIMERS];
static struct model {
    uint64_t deadline_ns, order;
    bool is_armed;
} models[TIMERS];
static uint64_t random_state = 1, last_order;

static uint32_t any(uint32_t count)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) % count;
}

/* Few distinct deadlines, so that equal ones are common. */
static void arm(size_t index)
{
    uint64_t deadline_ns = any(16) ? any(100) : PL_NEVER;

    pl_timers_arm(&heap, &timers[index], deadline_ns);
    models[index] = (struct model){ deadline_ns, ++last_order, true };
}

static void disarm(size_t index)
{
    pl_timers_disarm(&heap, &timers[index]);
    models[index].is_armed = false;
}

/* The one that a list sorted by deadline, then by the order of arming, has in front; NULL: none. */
static struct model *front(void)
{
    struct model *best = NULL;

    for (size_t i = 0; i < TIMERS; i++) {
        struct model *model = &models[i];

        if (model->is_armed && (!best || model->deadline_ns < best->deadline_ns ||
                                (model->deadline_ns == best->deadline_ns &&
                                 model->order < best->order)))
            best = model;
    }
    return best;
}

static void pop(uint64_t now_ns)
{
    struct model *model = front();
    struct pl_timer *timer = pl_timers_pop_due(&heap, now_ns);

    if (!model || model->deadline_ns > now_ns) {
        cr_assert_null(timer);
        return;
    }
    cr_assert_eq(timer, &timers[model - models]);
    model->is_armed = false;
}

static void reserve_all(void)
{
    for (size_t i = 0; i < TIMERS; i++)
        cr_assert(pl_timers_reserve(&heap));
}

Test(timer, a_million_random_operations_agree_with_a_sorted_list)
{
    reserve_all();
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        uint32_t chance = any(10);

        if (chance < 5)
            arm(any(TIMERS));
        else if (chance < 7)
            disarm(any(TIMERS));
        else
            pop(any(4) ? any(60) : PL_NEVER);
        if (i % 64 == 0)
            cr_assert_eq(pl_timers_first(&heap), front() ? front()->deadline_ns : PL_NEVER);
    }
    while (front())
        pop(PL_NEVER);
    cr_expect_null(pl_timers_pop_due(&heap, PL_NEVER));
    pl_timers_fini(&heap);
}

Test(timer, equal_deadlines_fire_in_the_order_of_arming_and_a_moved_one_is_armed_anew)
{
    static const size_t order[] = { 1, 3, 4, 0, 2 };

    reserve_all();
    for (size_t i = 0; i < PL_COUNT(order); i++)
        pl_timers_arm(&heap, &timers[i], 5);
    pl_timers_arm(&heap, &timers[0], 5);
    pl_timers_arm(&heap, &timers[2], 4);
    pl_timers_arm(&heap, &timers[2], 5);
    for (size_t i = 0; i < PL_COUNT(order); i++)
        cr_expect_eq(pl_timers_pop_due(&heap, 5), &timers[order[i]]);
    pl_timers_fini(&heap);
}

static void *no_memory(void *memory, size_t size)
{
    (void)memory;
    (void)size;
    return NULL;
}

Test(timer, room_is_had_before_and_arming_needs_no_memory)
{
    struct pl_os os = pl_os_real;

    reserve_all();
    os.realloc = no_memory;
    pl_os_replace(&os);
    for (size_t i = 0; i < TIMERS; i++)
        pl_timers_arm(&heap, &timers[i], i);
    while (pl_timers_reserve(&heap))
        continue;
    cr_expect_eq(heap.reserved, heap.capacity);
    pl_timers_unreserve(&heap);
    cr_expect(pl_timers_reserve(&heap));
    for (size_t i = 0; i < TIMERS; i++)
        cr_expect_eq(pl_timers_pop_due(&heap, PL_NEVER), &timers[i]);
    pl_os_replace(NULL);
    pl_timers_fini(&heap);
}

/* ---- the timers of a mux, in a time of the test's own */

static uint64_t now, armed, arms;

static uint64_t read_now(void)
{
    return now;
}

static int note_arm(int fd, uint64_t deadline_ns)
{
    (void)fd;
    armed = deadline_ns;
    arms++;
    return 0;
}

static struct pl_os scripted;
static struct pool_mux *mux;

static void begin(void)
{
    scripted = pl_os_real;
    scripted.now_ns = scripted.coarse_ns = read_now;
    scripted.timerfd_arm = note_arm;
    pl_os_replace(&scripted);
    now = 1000;
    armed = PL_NEVER;
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
}

static void end(void)
{
    pool_mux_destroy(mux);
    pl_os_replace(NULL);
}

TestSuite(mux_timer, .init = begin, .fini = end);

struct bell {
    struct pl_timer timer;
    unsigned rings;
    uint64_t rang_ns;
    size_t place; /* among all rings */
    void (*on_ring)(struct bell *bell);
    struct bell *other;
};

static struct bell bells[8];
static size_t rings;

static void ring(void *user)
{
    struct bell *bell = user;

    bell->rings++;
    bell->rang_ns = now;
    bell->place = ++rings;
    if (bell->on_ring)
        bell->on_ring(bell);
}

static void open_bells(size_t count)
{
    for (size_t i = 0; i < count; i++)
        cr_assert(pl_mux_timer_open(mux, &bells[i].timer, ring, &bells[i]));
}

static void close_bells(size_t count)
{
    for (size_t i = 0; i < count; i++)
        pl_mux_timer_close(mux, &bells[i].timer);
}

static void dispatch_at(uint64_t when)
{
    now = when;
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
}

Test(mux_timer, one_fires_at_its_deadline_once_and_not_a_nanosecond_before)
{
    open_bells(1);
    pl_mux_timer_arm(mux, &bells[0].timer, 5000);
    dispatch_at(4999);
    cr_expect_eq(bells[0].rings, 0);
    dispatch_at(5000);
    cr_expect_eq(bells[0].rings, 1);
    dispatch_at(90000);
    cr_expect_eq(bells[0].rings, 1);
    close_bells(1);
}

Test(mux_timer, a_past_deadline_is_armed_as_it_is_and_fires_in_the_next_batch)
{
    open_bells(1);
    pl_mux_timer_arm(mux, &bells[0].timer, 7);
    cr_expect_eq(armed, 7);
    cr_expect_eq(bells[0].rings, 0, "never on the stack of the call");
    dispatch_at(1000);
    cr_expect_eq(bells[0].rings, 1);
    close_bells(1);
}

Test(mux_timer, all_that_are_due_fire_by_deadline_and_equal_ones_as_they_were_armed)
{
    static const uint64_t deadlines[] = { 30, 10, 20, 10, 30, 10, 5, 40 };
    static const size_t places[] = { 6, 2, 5, 3, 7, 4, 1, 0 };

    open_bells(PL_COUNT(deadlines));
    for (size_t i = 0; i < PL_COUNT(deadlines); i++)
        pl_mux_timer_arm(mux, &bells[i].timer, 5000 + deadlines[i]);
    dispatch_at(5030);
    for (size_t i = 0; i < PL_COUNT(places); i++)
        cr_expect_eq(bells[i].place, places[i], "bell %zu: %zu", i, bells[i].place);
    close_bells(PL_COUNT(deadlines));
}

static void again_at_once(struct bell *bell)
{
    pl_mux_timer_arm(mux, &bell->timer, 0);
}

Test(mux_timer, one_that_arms_itself_in_its_callback_fires_once_a_batch)
{
    open_bells(1);
    bells[0].on_ring = again_at_once;
    pl_mux_timer_arm(mux, &bells[0].timer, 0);
    for (unsigned batch = 1; batch < 10; batch++) {
        dispatch_at(now);
        cr_expect_eq(bells[0].rings, batch);
        cr_expect_eq(armed, 0, "the next batch comes at once");
    }
    close_bells(1);
}

static void close_other(struct bell *bell)
{
    pl_mux_timer_close(mux, &bell->other->timer);
    free(bell->other);
}

Test(mux_timer, one_that_is_closed_by_another_of_the_same_batch_does_not_fire)
{
    struct bell *other = calloc(1, sizeof(*other));

    open_bells(1);
    cr_assert(pl_mux_timer_open(mux, &other->timer, ring, other));
    bells[0].on_ring = close_other;
    bells[0].other = other;
    pl_mux_timer_arm(mux, &bells[0].timer, 10);
    pl_mux_timer_arm(mux, &other->timer, 10);
    dispatch_at(5000);
    cr_expect_eq(rings, 1);
    close_bells(1);
}

static void close_and_free_self(struct bell *bell)
{
    pl_mux_timer_close(mux, &bell->timer);
    free(bell);
}

Test(mux_timer, one_may_be_closed_and_freed_in_its_own_callback)
{
    struct bell *bell = calloc(1, sizeof(*bell));

    bell->on_ring = close_and_free_self;
    cr_assert(pl_mux_timer_open(mux, &bell->timer, ring, bell));
    pl_mux_timer_arm(mux, &bell->timer, 0);
    dispatch_at(5000);
    cr_expect_eq(rings, 1);
    cr_expect_eq(armed, PL_NEVER);
}

static void move_other(struct bell *bell)
{
    pl_mux_timer_arm(mux, &bell->other->timer, 6000);
}

static void disarm_other(struct bell *bell)
{
    pl_mux_timer_disarm(mux, &bell->other->timer);
}

Test(mux_timer, one_that_is_moved_or_disarmed_by_another_of_the_same_batch_does_not_fire)
{
    open_bells(4);
    bells[0].on_ring = move_other;
    bells[0].other = &bells[2];
    bells[1].on_ring = disarm_other;
    bells[1].other = &bells[3];
    for (size_t i = 0; i < 4; i++)
        pl_mux_timer_arm(mux, &bells[i].timer, 2000);
    dispatch_at(5000);
    cr_expect_eq(bells[2].rings, 0);
    cr_expect_eq(bells[3].rings, 0);
    cr_expect_eq(armed, 6000);
    dispatch_at(6000);
    cr_expect_eq(bells[2].rings, 1);
    cr_expect_eq(bells[3].rings, 0);
    close_bells(4);
}

Test(mux_timer, the_kernels_timer_is_set_to_the_first_deadline_and_only_when_that_changes)
{
    open_bells(3);
    pl_mux_timer_arm(mux, &bells[0].timer, 3000);
    cr_expect_eq(armed, 3000);
    pl_mux_timer_arm(mux, &bells[1].timer, 4000);
    pl_mux_timer_arm(mux, &bells[2].timer, 3000);
    cr_expect_eq(arms, 1);
    pl_mux_timer_disarm(mux, &bells[0].timer);
    cr_expect_eq(arms, 1);
    pl_mux_timer_disarm(mux, &bells[2].timer);
    cr_expect_eq(armed, 4000);
    pl_mux_timer_arm(mux, &bells[1].timer, PL_NEVER);
    cr_expect_eq(armed, PL_NEVER);
    close_bells(3);
    cr_expect_eq(armed, PL_NEVER);
}

Test(mux_timer, a_deadline_that_never_comes_never_fires)
{
    open_bells(1);
    pl_mux_timer_arm(mux, &bells[0].timer, PL_NEVER);
    dispatch_at(PL_NEVER - 1);
    cr_expect_eq(bells[0].rings, 0);
    close_bells(1);
}

static void do_nothing(void *user)
{
    (void)user;
}

static uint64_t behind_ns;

static uint64_t read_coarse(void)
{
    return now - behind_ns;
}

Test(mux_timer, a_programs_long_timer_is_never_early_however_far_the_coarse_clock_is_behind)
{
    uint64_t slack_ns = 2 * pl_os->coarse_step_ns(), ms[] = { 1, 999, 1000, 60000 };

    scripted.coarse_ns = read_coarse;
    for (size_t i = 0; i < PL_COUNT(ms); i++) {
        for (behind_ns = 0; behind_ns <= slack_ns; behind_ns += slack_ns) {
            struct pool_timer *timer;

            now = 3600 * 1000 * PL_MS;
            cr_assert_eq(pool_mux_after(mux, (uint32_t)ms[i], do_nothing, NULL, &timer), POOL_OK);
            cr_expect_geq(armed, now + ms[i] * PL_MS);
            cr_expect_leq(armed, now + ms[i] * PL_MS + (ms[i] < 1000 ? 0 : slack_ns));
            cr_assert_eq(pool_timer_again(timer, (uint32_t)ms[i] + 1), POOL_OK);
            cr_expect_geq(armed, now + (ms[i] + 1) * PL_MS);
            pool_timer_cancel(timer);
        }
    }
}

Test(mux_timer, without_memory_it_is_not_opened)
{
    scripted.realloc = no_memory;
    cr_expect_not(pl_mux_timer_open(mux, &bells[0].timer, ring, &bells[0]));
    scripted.realloc = pl_os_real.realloc;
}

/* ---- in real time, on a thread of the mux's own */

#define SHOTS 200

struct shot {
    struct pl_timer timer;
    uint64_t deadline_ns;
    _Atomic uint64_t fired_ns;
};

static _Atomic unsigned fired;

static void note_shot(void *user)
{
    struct shot *shot = user;

    atomic_store(&shot->fired_ns, pl_os->now_ns());
    atomic_fetch_add(&fired, 1);
}

static bool all_fired(void *argument)
{
    (void)argument;
    return atomic_load(&fired) == SHOTS;
}

Test(timer, none_is_early_and_none_much_late)
{
    static struct shot shots[SHOTS];

    cr_assert_eq(pl_mux_open(&mux, true), POOL_OK);
    for (size_t i = 0; i < SHOTS; i++) {
        cr_assert(pl_mux_timer_open(mux, &shots[i].timer, note_shot, &shots[i]));
        shots[i].deadline_ns = pl_os->now_ns() + any(100 * 1000 * 1000);
        pl_mux_timer_arm(mux, &shots[i].timer, shots[i].deadline_ns);
    }
    cr_assert(wait_until(all_fired, NULL, 10000));
    for (size_t i = 0; i < SHOTS; i++) {
        cr_expect_geq(shots[i].fired_ns, shots[i].deadline_ns);
        cr_expect(WITHIN((shots[i].fired_ns - shots[i].deadline_ns) / PL_MS, 0, 20));
        pl_mux_timer_close(mux, &shots[i].timer);
    }
    pl_mux_unref(mux);
}

struct long_call {
    struct pl_timer timer;
    _Atomic bool has_begun, may_end, has_ended;
};

static bool is_true(void *flag)
{
    return atomic_load((_Atomic bool *)flag);
}

static void take_long(void *user)
{
    struct long_call *call = user;

    atomic_store(&call->has_begun, true);
    wait_until(is_true, &call->may_end, 10000);
    pl_mux_timer_arm(mux, &call->timer, 0); /* must not outlive the close that waits */
    atomic_store(&call->has_ended, true);
}

static void let_it_end(unsigned index, void *argument)
{
    struct long_call *call = argument;

    if (index == 1) {
        atomic_store(&call->may_end, true);
        return;
    }
    pl_mux_timer_close(mux, &call->timer);
    fired = atomic_load(&call->has_ended);
    free(call);
}

Test(timer, closing_one_waits_for_its_callback_that_runs_on_another_thread)
{
    cr_assert_eq(pl_mux_open(&mux, true), POOL_OK);
    for (unsigned round = 0; round < 50; round++) {
        struct long_call *call = calloc(1, sizeof(*call));

        cr_assert(pl_mux_timer_open(mux, &call->timer, take_long, call));
        pl_mux_timer_arm(mux, &call->timer, 0);
        cr_assert(wait_until(is_true, &call->has_begun, 10000));
        fired = 0;
        cr_assert(run_threads(2, let_it_end, call));
        cr_assert(fired);
    }
    pl_mux_unref(mux);
}

/* ---- what other threads do at the wrong moment */

static struct pl_timer hasty;
static pl_timer_fn *after_wait;

static int wait_then_meddle(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    int ready = pl_os_real.epoll_wait(epoll_fd, events, count, timeout_ms);

    if (after_wait)
        after_wait(NULL);
    after_wait = NULL;
    return ready;
}

static void disarm_hasty(void *user)
{
    (void)user;
    pl_mux_timer_disarm(mux, &hasty);
}

static void arm_hasty(unsigned index, void *argument)
{
    (void)index, (void)argument;
    pl_mux_timer_arm(mux, &hasty, 0);
}

static void arm_hasty_elsewhere(void *user)
{
    (void)user;
    cr_assert(run_threads(1, arm_hasty, NULL));
}

static void count_shot(void *user)
{
    (void)user;
    fired++;
}

Test(timer, one_that_is_armed_while_a_batch_handles_the_ring_of_a_disarmed_one_is_not_lost)
{
    struct pollfd polled = { .events = POLLIN };
    struct pl_os os = pl_os_real;

    os.epoll_wait = wait_then_meddle;
    pl_os_replace(&os);
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    polled.fd = pool_mux_fd(mux);
    cr_assert(pl_mux_timer_open(mux, &hasty, count_shot, NULL));
    pl_mux_timer_arm(mux, &hasty, 0);
    after_wait = disarm_hasty;
    cr_assert_eq(pool_mux_post(mux, arm_hasty_elsewhere, NULL), POOL_OK);
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect_eq(fired, 0, "it was disarmed in time");
    cr_expect_eq(poll(&polled, 1, 0), 1);
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect_eq(fired, 1);
    pl_mux_timer_close(mux, &hasty);
    pool_mux_destroy(mux);
    pl_os_replace(NULL);
}
