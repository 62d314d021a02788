/* test_mux_fork.c: in a child of fork() a mux of the parent is refused and quiet, with or without a
 * pool on it, whatever is posted or due; the parent's goes on. */
#include <criterion/criterion.h>
#include <signal.h>
#include <unistd.h>

#include "commpool/pool.h"
#include "support/child.h"
#include "support/tests.h"

#define SOON 20000u

struct parent {
    struct pool_mux *mux;
    struct pool_timer *timer;
    int descriptors_before;
    _Atomic int posts, fires;
};

static void on_post(void *user)
{
    ((struct parent *)user)->posts++;
}

static void on_timer(void *user)
{
    ((struct parent *)user)->fires++;
}

static void set_up(struct parent *parent)
{
    *parent = (struct parent){ .descriptors_before = count_descriptors() };
    cr_assert_eq(pool_mux_create(&parent->mux), POOL_OK);
    cr_assert_eq(pool_mux_post(parent->mux, on_post, parent), POOL_OK);
    cr_assert_eq(pool_mux_after(parent->mux, 1, on_timer, parent, &parent->timer), POOL_OK);
    cr_assert_eq(pool_mux_signal(parent->mux, SIGHUP, on_timer, parent), POOL_OK);
}

static void expect_undisturbed(struct parent *parent)
{
    while (!parent->fires)
        cr_assert_eq(pool_mux_dispatch(parent->mux, SOON), POOL_OK);
    cr_expect_eq(parent->posts, 1);
    cr_expect_eq(parent->fires, 1);
    pool_timer_cancel(parent->timer);
    pool_mux_destroy(parent->mux);
    cr_expect_eq(count_descriptors(), parent->descriptors_before);
}

static int use_the_mux(void *argument)
{
    struct parent *parent = argument;
    struct pool_timer *timer;
    struct pool *pool;

    child_watch_door();
    CHILD_NEEDS(pool_mux_dispatch(parent->mux, POOL_ZERO) == POOL_E_FORKED);
    CHILD_NEEDS(pool_mux_run(parent->mux) == POOL_E_FORKED);
    CHILD_NEEDS(pool_mux_post(parent->mux, on_post, parent) == POOL_E_FORKED);
    CHILD_NEEDS(pool_mux_after(parent->mux, 1, on_timer, parent, &timer) == POOL_E_FORKED);
    CHILD_NEEDS(!timer);
    CHILD_NEEDS(pool_mux_signal(parent->mux, SIGHUP, on_timer, parent) == POOL_E_FORKED);
    CHILD_NEEDS(pool_timer_again(parent->timer, 1) == POOL_E_FORKED);
    CHILD_NEEDS(pool_create(POOL_OPTIONS(.mux = parent->mux), &pool) == POOL_E_FORKED);
    CHILD_NEEDS(!pool && pool_mux_fd(parent->mux) == -1);
    pool_mux_stop(parent->mux);
    CHILD_NEEDS(pool_mux_run(parent->mux) == POOL_E_FORKED);
    pool_timer_cancel(parent->timer);
    pool_mux_destroy(parent->mux);
    CHILD_NEEDS(!parent->posts && !parent->fires);
    CHILD_NEEDS(count_descriptors() == parent->descriptors_before);
    CHILD_NEEDS(child_door_calls() == 0);
    return 0;
}

Test(mux_fork, the_child_is_refused_the_parents_mux_and_runs_nothing_of_it)
{
    struct parent parent;

    set_up(&parent);
    cr_expect_eq(child_run(use_the_mux, &parent), 0);
    expect_undisturbed(&parent);
}

static int use_an_own_mux(void *argument)
{
    struct parent *parent = argument, own;

    pool_mux_destroy(parent->mux);
    own = (struct parent){ .descriptors_before = count_descriptors() };
    CHILD_NEEDS(pool_mux_create(&own.mux) == POOL_OK);
    CHILD_NEEDS(pool_mux_post(own.mux, on_post, &own) == POOL_OK);
    CHILD_NEEDS(pool_mux_after(own.mux, 1, on_timer, &own, &own.timer) == POOL_OK);
    while (!own.fires)
        CHILD_NEEDS(pool_mux_dispatch(own.mux, SOON) == POOL_OK);
    CHILD_NEEDS(own.posts == 1 && !parent->posts && !parent->fires);
    pool_timer_cancel(own.timer);
    pool_mux_destroy(own.mux);
    CHILD_NEEDS(count_descriptors() == own.descriptors_before);
    return 0;
}

Test(mux_fork, the_child_makes_a_mux_of_its_own)
{
    struct parent parent;

    set_up(&parent);
    cr_expect_eq(child_run(use_an_own_mux, &parent), 0);
    expect_undisturbed(&parent);
}

/* The numbers are closed before the program's code runs: what it opens there is never taken for the
 * mux's. */
static int reuse_the_numbers(void *argument)
{
    struct parent *parent = argument;
    int line[2];
    char byte = 0;

    CHILD_NEEDS(pipe(line) == 0);
    pool_mux_stop(parent->mux);
    pool_mux_destroy(parent->mux);
    CHILD_NEEDS(write(line[1], "x", 1) == 1 && read(line[0], &byte, 1) == 1 && byte == 'x');
    return 0;
}

Test(mux_fork, destroying_it_in_the_child_leaves_what_the_child_opened_since)
{
    struct parent parent;

    set_up(&parent);
    cr_expect_eq(child_run(reuse_the_numbers, &parent), 0);
    expect_undisturbed(&parent);
}
