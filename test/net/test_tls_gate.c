/* test_tls_gate.c: no call of OpenSSL is under way at a fork, however it is nested; who wants to
 * begin one waits for the end of the fork. That it is so at exit() is in stress/stress_exit.c. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "net/tls_gate.h"
#include "support/child.h"
#include "support/tests.h"
#include "support/verbs.h"

#define A_WHILE 50
#define PATIENCE_MS 1000 /* of the gate's */

struct guest {
    pthread_t thread;
    atomic_bool is_inside, may_leave, has_left;
};

static bool is_true(void *argument)
{
    return atomic_load((atomic_bool *)argument);
}

/* Whoever forks meanwhile has a while to do it too soon. */
static void *visit(void *argument)
{
    struct guest *guest = argument;

    cr_assert(pl_tls_gate_enter());
    atomic_store(&guest->is_inside, true);
    cr_expect_not(wait_until(is_true, &guest->may_leave, A_WHILE));
    cr_expect(pl_tls_gate_enter(), "nested");
    pl_tls_gate_leave();
    atomic_store(&guest->has_left, true);
    pl_tls_gate_leave();
    return NULL;
}

static int has_left(void *argument)
{
    const struct guest *guest = argument;

    CHILD_NEEDS(atomic_load(&guest->has_left));
    CHILD_NEEDS(pl_tls_gate_enter());
    pl_tls_gate_leave();
    return 0;
}

Test(tls_gate, a_fork_waits_for_those_inside_and_they_for_nobody)
{
    struct guest guest = { .is_inside = false };
    struct pool *pool = MAKE_POOL(); /* forks are noticed */
    uint64_t start_ms;

    cr_assert_eq(pthread_create(&guest.thread, NULL, visit, &guest), 0);
    cr_assert(wait_until(is_true, &guest.is_inside, VERBS_SOON));
    start_ms = now_ms();
    cr_expect_eq(child_run(has_left, &guest), 0);
    cr_expect_lt(elapsed_ms(start_ms), PATIENCE_MS);
    cr_assert_eq(pthread_join(guest.thread, NULL), 0);
    pool_destroy(pool);
}

static void *come_late(void *argument)
{
    struct guest *guest = argument;

    cr_assert(pl_tls_gate_enter());
    atomic_store(&guest->is_inside, true);
    pl_tls_gate_leave();
    return NULL;
}

Test(tls_gate, who_comes_while_it_is_held_waits_for_the_end_of_that)
{
    struct guest guest = { .is_inside = false };

    pl_tls_gate_hold();
    cr_assert_eq(pthread_create(&guest.thread, NULL, come_late, &guest), 0);
    cr_expect_not(wait_until(is_true, &guest.is_inside, A_WHILE));
    pl_tls_gate_let_go();
    cr_expect(wait_until(is_true, &guest.is_inside, VERBS_SOON));
    cr_assert_eq(pthread_join(guest.thread, NULL), 0);
}

static int enter_beside_the_dead(void *argument)
{
    (void)argument;
    pl_tls_gate_hold();
    pl_tls_gate_let_go();
    return 0;
}

static void *stay(void *argument)
{
    struct guest *guest = argument;

    cr_assert(pl_tls_gate_enter());
    atomic_store(&guest->is_inside, true);
    cr_assert(wait_until(is_true, &guest->may_leave, VERBS_SOON));
    pl_tls_gate_leave();
    return NULL;
}

/* One that reads a file which does not come, say. */
Test(tls_gate, a_fork_waits_a_second_for_who_stays_and_its_child_no_more)
{
    struct guest guest = { .is_inside = false };
    struct pool *pool = MAKE_POOL();
    uint64_t start_ms = now_ms();

    cr_assert_eq(pthread_create(&guest.thread, NULL, stay, &guest), 0);
    cr_assert(wait_until(is_true, &guest.is_inside, VERBS_SOON));
    cr_expect_eq(child_run(enter_beside_the_dead, NULL), 0);
    cr_expect_lt(elapsed_ms(start_ms), 2 * PATIENCE_MS);
    atomic_store(&guest.may_leave, true);
    cr_assert_eq(pthread_join(guest.thread, NULL), 0);
    pool_destroy(pool);
}
