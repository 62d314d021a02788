/* test_called.c: a waiter who is told to look, and comes late or not at all, keeps nobody else
 * waiting beside a connection that is idle. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/os.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* The thread of the first waiter gets no processor until it may run, and time is what we say. */
static struct pl_os door;
static __thread bool is_held_up;
static atomic_bool holds_up, may_run;
static _Atomic uint64_t later_ns;

static int wait_late(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    is_held_up = is_held_up || atomic_exchange(&holds_up, false);
    if (!is_held_up)
        return pl_os_real.sleep_until(word, expected, deadline_ns);
    while (!atomic_load(&may_run))
        sched_yield();
    is_held_up = false;
    return 0;
}

static uint64_t time_as_told(void)
{
    return pl_os_real.now_ns() + atomic_load(&later_ns);
}

struct called {
    struct peer *peer;
    struct pool *pool;
    struct pool_conn conns[2], conn;
    struct pool_ticket *ticket;
    enum pool_status status;
    pthread_t late;
    struct caller next;
};

static void *borrow_late(void *user)
{
    struct called *called = user;

    called->status = pool_borrow(called->pool, peer_address(called->peer),
                                 POOL_CALL(.timeout_ms = 4 * VERBS_SOON, .ticket = &called->ticket),
                                 &called->conn);
    return NULL;
}

/* Two connections are lent, two callers wait, and the first one was told that one came back. */
static void call_late_one(struct called *called)
{
    const char *address;

    door = pl_os_real;
    door.sleep_until = wait_late;
    door.now_ns = time_as_told;
    pl_os_replace(&door);
    called->peer = PEER(.own_process = true);
    address = peer_address(called->peer);
    called->pool = MAKE_POOL(.max_per_address = 2, .park_ms = POOL_NONE, .barge_ms = 5000);
    for (int i = 0; i < 2; i++)
        cr_assert(borrow(called->pool, address, &called->conns[i]));
    atomic_store(&holds_up, true);
    cr_assert_eq(pthread_create(&called->late, NULL, borrow_late, called), 0);
    while (atomic_load(&holds_up))
        sched_yield();
    cr_assert(queue_caller(&called->next, called->pool, address, 4 * VERBS_SOON));
    cr_expect_eq(pool_return(&called->conns[0]), POOL_OK);
}

/* The second one need not wait until the first one runs. */
static void end(struct called *called, enum pool_status status)
{
    cr_expect(wait_back(&called->next), "a connection is idle, and he was not told");
    atomic_store(&may_run, true);
    pthread_join(called->late, NULL);
    cr_expect_eq(called->status, status);
    if (!status)
        cr_expect_eq(pool_return(&called->conn), POOL_OK);
    pool_ticket_free(called->ticket);
    cr_expect_eq(join_caller(&called->next), POOL_OK);
    cr_expect_eq(pool_return(&called->next.conn), POOL_OK);
    if (called->conns[1].slot)
        cr_expect_eq(pool_return(&called->conns[1]), POOL_OK);
    pool_destroy(called->pool);
    peer_stop(called->peer);
}

Test(pool_called, one_who_is_served_directly_passes_the_call_on, .timeout = 60)
{
    static struct called called;

    call_late_one(&called);
    atomic_store(&later_ns, 6 * UINT64_C(1000000000));
    cr_expect_eq(pool_return(&called.conns[1]), POOL_OK); /* it is the first one's by right */
    end(&called, POOL_OK);
}

Test(pool_called, one_who_is_canceled_passes_the_call_on, .timeout = 60)
{
    static struct called called;

    call_late_one(&called);
    cr_expect(pool_ticket_cancel(called.ticket));
    end(&called, POOL_E_CANCELED);
}

Test(pool_called, one_who_finds_another_idle_has_not_used_up_two_calls, .timeout = 60)
{
    static struct called called;

    call_late_one(&called);
    cr_expect_eq(pool_return(&called.conns[1]), POOL_OK); /* the second one is told of it */
    end(&called, POOL_OK);
}
