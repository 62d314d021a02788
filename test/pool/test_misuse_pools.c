/* test_misuse_pools.c: the rows of calls.h about pools, muxes and the rest, in each place where
 * they can be wrong. test_misuse_table.c has those about connections, and sees that no row is
 * missing. */
#include <criterion/criterion.h>
#include <signal.h>

#include "commpool/codec.h"
#include "pool/calls.h"
#include "support/child.h"

#define AS_STATUS(answer) ((answer)&0xff)

static void expect_answer(const struct call *call, unsigned place, int answer, const char *where)
{
    cr_expect_eq(answer, call->answers[place], "%s %s: %s, not %s", call->function, where,
                 answer_name(answer), answer_name(call->answers[place]));
}

/* The rows about pools, those of queries among them. */
static unsigned count_of_pools(void)
{
    return count_of_pool + count_of_queries;
}

static const struct call *pool_row(unsigned row)
{
    return row < count_of_pool ? &calls_of_pool[row] : &calls_of_queries[row - count_of_pool];
}

static void run_at(const struct call *call, struct props *props, unsigned place, const char *where)
{
    expect_answer(call, place, call->run(props), where);
}

/* ---- pools: the first connection of each is lent */

struct scene {
    struct props props;
    struct pool_conn loan;
};

static void begin(struct scene *scene, struct pool_mux *mux)
{
    *scene = (struct scene){ .props.peer = PEER(.own_process = true), .props.conn = &scene->loan };
    cr_assert(scene->props.peer);
    scene->props.address = peer_address(scene->props.peer);
    scene->props.pool = MAKE_POOL(.mux = mux, .codec = pool_codec_line());
    cr_assert(scene->props.pool);
    if (!mux)
        cr_assert(borrow(scene->props.pool, scene->props.address, &scene->loan));
}

static void end(struct scene *scene)
{
    if (scene->loan.slot)
        pool_discard(&scene->loan);
    pool_destroy(scene->props.pool);
    peer_stop(scene->props.peer);
}

Test(pool_misuse_pools, no_pool_at_all)
{
    struct scene scene;
    struct pool *pool;

    begin(&scene, NULL);
    pool = scene.props.pool;
    for (unsigned row = 0; row < count_of_pools(); row++) {
        scene.props.pool = NULL;
        run_at(pool_row(row), &scene.props, NO_POOL, "without a pool");
    }
    scene.props.pool = pool;
    cr_expect_eq(echo(&scene.loan, "untouched"), 0);
    end(&scene);
}

Test(pool_misuse_pools, wrong_arguments_and_then_the_right_ones)
{
    struct scene scene;
    uint64_t total;

    for (unsigned row = 0; row < count_of_pools(); row++) {
        const struct call *call = pool_row(row);

        begin(&scene, NULL);
        if (call->wrong) {
            total = STAT(scene.props.pool, total);
            call->wrong(&scene.props);
            cr_expect_eq(STAT(scene.props.pool, total), total, "%s", call->function);
            cr_expect_eq(echo(&scene.loan, "untouched"), 0, "%s", call->function);
            cr_expect_eq(talk(scene.props.pool, scene.props.address), POOL_OK, "%s",
                         call->function);
            pool_clear(scene.props.pool, NULL, 0);
        }
        run_at(call, &scene.props, LIVE, "on a live pool");
        end(&scene);
    }
}

Test(pool_misuse_pools, paused_ones)
{
    struct scene scene;

    for (unsigned row = 0; row < count_of_pools(); row++) {
        begin(&scene, NULL);
        cr_assert_eq(pool_pause(scene.props.pool), POOL_OK);
        run_at(pool_row(row), &scene.props, PAUSED, "on a paused pool");
        end(&scene);
    }
}

Test(pool_misuse_pools, closing_ones)
{
    struct scene scene;

    for (unsigned row = 0; row < count_of_pools(); row++) {
        begin(&scene, NULL);
        cr_assert_eq(pool_close(scene.props.pool, POOL_NONE, NULL, NULL), POOL_OK);
        run_at(pool_row(row), &scene.props, CLOSING, "on a closing pool");
        end(&scene);
    }
}

static void raise_flag(void *user)
{
    atomic_store((atomic_bool *)user, true);
}

static bool is_raised(void *argument)
{
    return atomic_load((atomic_bool *)argument);
}

Test(pool_misuse_pools, closed_ones)
{
    struct scene scene;

    for (unsigned row = 0; row < count_of_pools(); row++) {
        atomic_bool is_closed = false;

        begin(&scene, NULL);
        cr_assert_eq(pool_close(scene.props.pool, POOL_NONE, raise_flag, &is_closed), POOL_OK);
        cr_assert_eq(pool_return(&scene.loan), POOL_OK);
        cr_assert(wait_until(is_raised, &is_closed, VERBS_SOON));
        run_at(pool_row(row), &scene.props, CLOSED, "on a closed pool");
        end(&scene);
    }
}

/* ---- on the mux thread */

struct visit {
    const struct call *call;
    struct props *props;
    struct pool_conn loan;
    atomic_int answer;
    atomic_bool is_done;
};

static void visit(void *user)
{
    struct visit *visit = user;

    atomic_store(&visit->answer, visit->call->run(visit->props));
    atomic_store(&visit->is_done, true);
}

static void visit_with_loan(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct visit *visiting = user;

    (void)error;
    cr_assert(conn);
    visiting->loan = *conn;
    visit(visiting);
}

/* The loan that keeps the first connection is its own. */
static void visit_on(const struct call *call, struct pool_mux *mux)
{
    struct scene scene;
    struct visit visiting = { .call = call, .answer = 77 };
    uint64_t start_ms = now_ms();

    begin(&scene, mux);
    if (!mux)
        end(&scene);
    if (!mux)
        return;
    visiting.props = &scene.props;
    cr_assert_eq(pool_communicate_async(scene.props.pool, scene.props.address, visit_with_loan,
                                        &visiting, POOL_CALL(.timeout_ms = VERBS_SOON), NULL),
                 POOL_OK);
    while (!atomic_load(&visiting.is_done) && elapsed_ms(start_ms) < VERBS_SOON)
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_assert(atomic_load(&visiting.is_done), "%s", call->function);
    expect_answer(call, ON_MUX, atomic_load(&visiting.answer), "on an embedded mux's thread");
    pool_discard(&visiting.loan);
    end(&scene);
}

/* The same on a thread of the pool's own. */
static void visit_own(const struct call *call)
{
    struct scene scene;
    struct visit visiting = { .call = call, .answer = 77 };

    begin(&scene, NULL);
    visiting.props = &scene.props;
    pool_discard(&scene.loan);
    pool_destroy(scene.props.pool);
    scene.props.pool = MAKE_POOL(.codec = pool_codec_line());
    cr_assert_eq(pool_communicate_async(scene.props.pool, scene.props.address, visit_with_loan,
                                        &visiting, POOL_CALL(.timeout_ms = VERBS_SOON), NULL),
                 POOL_OK);
    cr_assert(wait_until(is_raised, &visiting.is_done, VERBS_SOON));
    expect_answer(call, ON_MUX, atomic_load(&visiting.answer), "on the pool's mux thread");
    pool_discard(&visiting.loan);
    end(&scene);
}

Test(pool_misuse_pools, asked_by_the_mux_thread)
{
    struct pool_mux *mux;

    for (unsigned row = 0; row < count_of_pools(); row++) {
        visit_own(pool_row(row));
        cr_assert_eq(pool_mux_create(&mux), POOL_OK);
        visit_on(pool_row(row), mux);
        pool_mux_destroy(mux);
    }
}

/* ---- a child's */

struct childs {
    const struct call *call;
    struct props *props;
};

static int run_in_child(void *argument)
{
    struct childs *childs = argument;

    return AS_STATUS(childs->call->run(childs->props));
}

static void expect_in_child(const struct call *call, unsigned place, struct props *props)
{
    struct childs childs = { call, props };
    int status = child_run(run_in_child, &childs);

    cr_expect_eq(status, AS_STATUS(call->answers[place]),
                 "%s in a child: exit status %d, not of %s", call->function, status,
                 answer_name(call->answers[place]));
}

Test(pool_misuse_pools, those_of_the_parent)
{
    struct scene scene;

    begin(&scene, NULL);
    for (unsigned row = 0; row < count_of_pools(); row++)
        expect_in_child(pool_row(row), FORKED, &scene.props);
    cr_expect_eq(echo(&scene.loan, "undisturbed"), 0);
    cr_expect_eq(talk(scene.props.pool, scene.props.address), POOL_OK);
    end(&scene);
}

/* ---- muxes, timers, tickets, targets, addresses */

static void count_end(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)error;
    atomic_fetch_add((atomic_int *)user, 1);
    if (conn)
        pool_discard(conn);
}

static void do_no_more(void *user)
{
    (void)user;
}

static atomic_int ends;

/* One of each; the ticket's call waits for what cannot come. */
static void equip(struct scene *scene, struct peer *hung)
{
    begin(scene, NULL);
    cr_assert_eq(pool_mux_create(&scene->props.mux), POOL_OK);
    cr_assert_eq(pool_mux_after(scene->props.mux, POOL_NONE, do_no_more, NULL, &scene->props.timer),
                 POOL_OK);
    cr_assert_eq(pool_target_get(scene->props.pool, scene->props.address, &scene->props.target),
                 POOL_OK);
    cr_assert_eq(pool_communicate_async(scene->props.pool, peer_address(hung), count_end, &ends,
                                        POOL_CALL(.timeout_ms = POOL_NONE), &scene->props.ticket),
                 POOL_OK);
    cr_assert_eq(pool_address_parse(scene->props.address, &scene->props.parsed, NULL), POOL_OK);
}

static void strip(struct scene *scene)
{
    pool_ticket_free(scene->props.ticket);
    pool_target_free(scene->props.target);
    pool_timer_cancel(scene->props.timer);
    pool_mux_destroy(scene->props.mux);
    pool_address_unref(scene->props.parsed);
    end(scene);
}

static const struct call *other_row(unsigned row)
{
    if (row < count_of_mux)
        return &calls_of_mux[row];
    row -= count_of_mux;
    return row < count_of_none ? &calls_of_none[row] : &calls_of_replies[row - count_of_none];
}

typedef void each_fn(const struct call *call, struct scene *scene);

/* For each row a scene of its own; each asynchronous call is told its end once. */
static void for_each(each_fn *visit_row)
{
    struct peer *hung = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
    struct scene scene;
    unsigned rows = count_of_mux + count_of_none + count_of_replies;
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    atomic_store(&ends, 0);
    for (unsigned row = 0; row < rows; row++) {
        equip(&scene, hung);
        visit_row(other_row(row), &scene);
        strip(&scene);
    }
    cr_expect_eq(atomic_load(&ends), (int)rows);
    peer_stop(hung);
}

static void without_any(const struct call *call, struct scene *scene)
{
    struct props props = { .address = scene->props.address };

    run_at(call, &props, NO_MUX, "on NULL");
}

static void wrongly_then_rightly(const struct call *call, struct scene *scene)
{
    if (call->wrong)
        call->wrong(&scene->props);
    run_at(call, &scene->props, MUX, "as it should be");
}

static void in_a_batch(const struct call *call, struct scene *scene)
{
    struct visit visiting = { .call = call, .props = &scene->props, .answer = 77 };
    struct pool_mux *mux = scene->props.mux;

    cr_assert_eq(pool_mux_post(mux, visit, &visiting), POOL_OK);
    cr_expect_eq(pool_mux_dispatch(mux, POOL_NONE), POOL_OK);
    expect_answer(call, IN_BATCH, atomic_load(&visiting.answer), "in a batch");
}

static void in_a_child(const struct call *call, struct scene *scene)
{
    expect_in_child(call, FORKED_MUX, &scene->props);
}

Test(pool_misuse_pools, no_mux_timer_ticket_target_or_address)
{
    for_each(without_any);
}

Test(pool_misuse_pools, wrong_arguments_about_muxes_and_the_rest)
{
    for_each(wrongly_then_rightly);
}

Test(pool_misuse_pools, inside_a_batch)
{
    for_each(in_a_batch);
}

Test(pool_misuse_pools, muxes_and_the_rest_of_the_parent)
{
    for_each(in_a_child);
}
