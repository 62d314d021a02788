/* test_misuse_table.c: each public function with each wrong argument and in each wrong place
 * answers what its header says. The rows are in calls.h; every name that the library exports has
 * one. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commpool/codec.h"
#include "pool/calls.h"
#include "support/child.h"

/* A child's answer comes back as its exit status. */
#define AS_STATUS(answer) ((answer)&0xff)

static void expect_answer(const struct call *call, unsigned place, int answer, const char *where)
{
    cr_expect_eq(answer, call->answers[place], "%s %s: %s, not %s", call->function, where,
                 answer_name(answer), answer_name(call->answers[place]));
}

static void expect_in_child(const struct call *call, unsigned place, int status)
{
    cr_expect_eq(status, AS_STATUS(call->answers[place]),
                 "%s in a child: exit status %d, not of %s", call->function, status,
                 answer_name(call->answers[place]));
}

/* ---- completeness */

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

#define TABLES (sizeof(tables) / sizeof(*tables))

static unsigned rows_of(const char *function)
{
    unsigned rows = 0;

    for (unsigned i = 0; i < TABLES; i++) {
        for (unsigned row = 0; row < *tables[i].count; row++)
            rows += strcmp(tables[i].calls[row].function, function) == 0;
    }
    return rows;
}

static unsigned count_rows(void)
{
    unsigned rows = 0;

    for (unsigned i = 0; i < TABLES; i++)
        rows += *tables[i].count;
    return rows;
}

Test(pool_misuse_table, every_function_that_the_library_exports_has_one_row)
{
    FILE *map = fopen(COMMPOOL_SOURCE "/lib/commpool.map", "r");
    char line[256], function[128];
    unsigned functions = 0;

    cr_assert_not_null(map);
    while (fgets(line, sizeof(line), map)) {
        if (sscanf(line, " %127[a-z_0-9];", function) != 1 || strncmp(function, "pool_", 5) != 0)
            continue;
        functions++;
        cr_expect_eq(rows_of(function), 1, "%s has %u rows", function, rows_of(function));
    }
    fclose(map);
    cr_expect_gt(functions, 70);
    cr_expect_eq(count_rows(), functions, "a row speaks of a function that is not exported");
}

/* ---- a connection in each place; the peer never answers and never notices an end */

static void set_up(struct props *props, const struct pool_options *options)
{
    *props = (struct props){ .peer = PEER(.behave = PEER_DEAF, .own_process = true) };
    cr_assert(props->peer);
    props->address = peer_address(props->peer);
    props->pool = make_pool(options);
    cr_assert(props->pool);
}

static void tear_down(struct props *props)
{
    pool_destroy(props->pool);
    peer_stop(props->peer);
}

/* The pool's own timeout bounds what a detached connection waits for. */
#define SET_UP(props, ...)                                                                         \
    set_up((props), POOL_OPTIONS(.timeout_ms = WAITS_MS, .codec = pool_codec_line(), __VA_ARGS__))

static void run_on(const struct call *call, struct props *props, struct pool_conn *conn,
                   enum conn_place place, const char *where)
{
    props->conn = conn;
    expect_answer(call, place, call->run(props), where);
}

static void on_each_stale_one(const struct call *call, struct props *props)
{
    struct pool_conn zero = { 0 }, returned, discarded, released, wrong, now;
    int fd;

    cr_assert(borrow(props->pool, props->address, &now));
    discarded = now;
    cr_assert_eq(pool_discard(&now), POOL_OK);
    cr_assert(borrow(props->pool, props->address, &now));
    released = now;
    cr_assert_eq(pool_release_fd(&now, &fd), POOL_OK);
    close(fd);
    cr_assert(borrow(props->pool, props->address, &now));
    returned = now;
    cr_assert_eq(pool_return(&now), POOL_OK);
    run_on(call, props, &returned, ON_NOTHING, "on a returned one that is idle");
    cr_assert(borrow(props->pool, props->address, &now));
    wrong = now;
    wrong.serial++;
    run_on(call, props, NULL, ON_NOTHING, "on NULL");
    run_on(call, props, &zero, ON_NOTHING, "on a zero handle");
    run_on(call, props, &returned, ON_NOTHING, "on a returned one that another has");
    run_on(call, props, &discarded, ON_NOTHING, "on a discarded one");
    run_on(call, props, &released, ON_NOTHING, "on a released one");
    run_on(call, props, &wrong, ON_NOTHING, "on another serial");
    cr_expect_eq(pool_send(&now, "y", 1), POOL_OK, "%s: the one who has it goes on",
                 call->function);
    cr_expect_eq(pool_discard(&now), POOL_OK);
}

Test(pool_misuse_table, handles_of_nothing)
{
    struct props props;

    SET_UP(&props);
    for (unsigned row = 0; row < count_of_conn; row++) {
        struct pool_conn left;

        on_each_stale_one(&calls_of_conn[row], &props);
        cr_expect_eq(STAT(props.pool, lent), 0);
        cr_assert(borrow(props.pool, props.address, &left));
        pool_destroy(props.pool);
        pool_discard(&left);
        props.pool = MAKE_POOL(.timeout_ms = WAITS_MS, .codec = pool_codec_line());
        run_on(&calls_of_conn[row], &props, &left, ON_NOTHING, "on one of a pool that is gone");
    }
    tear_down(&props);
}

/* Ends a loan unless the call did. */
static void end_loan(struct pool_conn *conn)
{
    if (pool_conn_id(conn))
        cr_expect_eq(pool_discard(conn), POOL_OK);
}

Test(pool_misuse_table, wrong_arguments_about_a_loan_and_then_the_right_ones)
{
    struct props props;
    struct pool_conn conn;

    SET_UP(&props);
    for (unsigned row = 0; row < count_of_conn; row++) {
        const struct call *call = &calls_of_conn[row];

        cr_assert(borrow(props.pool, props.address, &conn));
        props.conn = &conn;
        if (call->wrong) {
            call->wrong(&props);
            cr_expect_eq(pool_return(&conn), POOL_OK);
            cr_expect_eq(STAT(props.pool, idle), 1, "%s: it did no harm", call->function);
            cr_assert(borrow(props.pool, props.address, &conn));
        }
        run_on(call, &props, &conn, ON_LOAN, "on a loan");
        end_loan(&conn);
    }
    tear_down(&props);
}

Test(pool_misuse_table, loans_go_on_while_their_pool_is_paused_or_closes)
{
    struct props props;
    struct pool_conn conn;

    for (unsigned row = 0; row < count_of_conn; row++) {
        SET_UP(&props);
        cr_assert(borrow(props.pool, props.address, &conn));
        cr_assert_eq(pool_pause(props.pool), POOL_OK);
        run_on(&calls_of_conn[row], &props, &conn, ON_LOAN, "in a paused pool");
        end_loan(&conn);
        cr_assert_eq(pool_ready(props.pool), POOL_OK);
        cr_assert(borrow(props.pool, props.address, &conn));
        cr_assert_eq(pool_close(props.pool, POOL_NONE, NULL, NULL), POOL_OK);
        run_on(&calls_of_conn[row], &props, &conn, ON_LOAN, "in a closing pool");
        end_loan(&conn);
        tear_down(&props);
    }
}

Test(pool_misuse_table, loans_that_their_pool_ended)
{
    struct props props;
    struct pool_conn conn;

    for (unsigned row = 0; row < count_of_conn; row++) {
        SET_UP(&props);
        cr_assert(borrow(props.pool, props.address, &conn));
        cr_assert_eq(pool_close(props.pool, 0, NULL, NULL), POOL_OK);
        run_on(&calls_of_conn[row], &props, &conn, ON_ENDED_LOAN, "in a closed pool");
        end_loan(&conn);
        pool_destroy(props.pool);
        props.pool = MAKE_POOL(.timeout_ms = WAITS_MS, .codec = pool_codec_line());
        cr_assert(borrow(props.pool, props.address, &conn));
        pool_destroy(props.pool);
        props.pool = NULL;
        run_on(&calls_of_conn[row], &props, &conn, ON_ENDED_LOAN, "of a destroyed pool");
        end_loan(&conn);
        tear_down(&props);
    }
}

Test(pool_misuse_table, loans_that_were_cleared_away)
{
    struct props props;
    struct pool_conn conn;

    SET_UP(&props);
    for (unsigned row = 0; row < count_of_conn; row++) {
        cr_assert(borrow(props.pool, props.address, &conn));
        cr_assert_eq(pool_clear(props.pool, NULL, POOL_INTERRUPT), POOL_OK);
        run_on(&calls_of_conn[row], &props, &conn, ON_CLEARED_LOAN, "after a clear");
        end_loan(&conn);
    }
    tear_down(&props);
}

Test(pool_misuse_table, connections_that_left_their_pool)
{
    struct props props;
    struct pool_conn conn;

    for (unsigned row = 0; row < count_of_conn; row++) {
        SET_UP(&props);
        for (unsigned turn = 0; turn < 2; turn++) {
            cr_assert(borrow(props.pool, props.address, &conn));
            cr_assert_eq(pool_detach(&conn), POOL_OK);
            if (turn) {
                pool_destroy(props.pool);
                props.pool = NULL;
            }
            run_on(&calls_of_conn[row], &props, &conn, ON_DETACHED,
                   turn ? "detached, and the pool is gone" : "detached");
            end_loan(&conn);
        }
        tear_down(&props);
    }
}

/* ---- on the mux thread: of the pool's own, and of one that this thread dispatches */

struct visit {
    const struct call *call;
    struct props *props;
    struct pool_conn conn;
    atomic_int answer;
    atomic_bool is_done;
};

static void visit_with(struct visit *visit, struct pool_conn *conn)
{
    visit->conn = *conn;
    visit->props->conn = &visit->conn;
    atomic_store(&visit->answer, visit->call->run(visit->props));
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct visit *visit = user;

    (void)error;
    if (conn) {
        visit_with(visit, conn);
        end_loan(&visit->conn);
    }
    atomic_store(&visit->is_done, true);
}

static int on_new_connection(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct visit *visit = user;

    (void)actor;
    visit_with(visit, conn);
    atomic_store(&visit->is_done, true);
    return 5;
}

static bool is_done(void *argument)
{
    return atomic_load(&((struct visit *)argument)->is_done);
}

static void await(struct visit *visit, struct pool_mux *mux)
{
    uint64_t start_ms = now_ms();

    while (mux && !is_done(visit) && elapsed_ms(start_ms) < VERBS_SOON)
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_assert(wait_until(is_done, visit, VERBS_SOON), "%s", visit->call->function);
}

static void visit_on_mux(const struct call *call, struct pool_mux *mux, bool in_setup)
{
    struct props props;
    struct visit visit = { .call = call, .props = &props, .answer = 77 };

    SET_UP(&props, .mux = mux, .on_new_connection = in_setup ? on_new_connection : NULL,
           .user = &visit);
    cr_assert_eq(pool_communicate_async(props.pool, props.address, on_lent, &visit,
                                        POOL_CALL(.timeout_ms = VERBS_SOON), NULL),
                 POOL_OK);
    await(&visit, mux);
    expect_answer(call, in_setup ? ON_SETUP : ON_MUX_LOAN, atomic_load(&visit.answer),
                  in_setup ? "in on_new_connection" : "in on_lent");
    tear_down(&props);
}

static void visit_all_on_mux(bool in_setup)
{
    struct pool_mux *mux;

    for (unsigned row = 0; row < count_of_conn; row++) {
        visit_on_mux(&calls_of_conn[row], NULL, in_setup);
        cr_assert_eq(pool_mux_create(&mux), POOL_OK);
        visit_on_mux(&calls_of_conn[row], mux, in_setup);
        pool_mux_destroy(mux);
    }
}

Test(pool_misuse_table, loans_on_the_mux_thread)
{
    visit_all_on_mux(false);
}

Test(pool_misuse_table, connections_that_are_being_set_up)
{
    visit_all_on_mux(true);
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

Test(pool_misuse_table, loans_of_the_parent)
{
    struct props props;
    struct pool_conn conn;

    SET_UP(&props);
    cr_assert(borrow(props.pool, props.address, &conn));
    props.conn = &conn;
    for (unsigned row = 0; row < count_of_conn; row++) {
        struct childs childs = { &calls_of_conn[row], &props };

        expect_in_child(childs.call, ON_FORKED_LOAN, child_run(run_in_child, &childs));
    }
    cr_expect_eq(pool_send(&conn, "y", 1), POOL_OK);
    end_loan(&conn);
    tear_down(&props);
}
