/* test_leak.c: a loan that lasts for too long is reported once, and by name; and the other lines of
 * the log. In the scripted world, which has its own clock. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "commpool/query.h"
#include "world/world.h"

#define A "tcp://10.0.0.1:80"
#define B "tcp://10.0.0.2:80"

static struct world *world;
static struct pool *pool;

/* ---- the log */

static struct {
    unsigned count;
    enum pool_log_level level;          /* of the last line */
    char line[512];
    int inside;
    bool calls_back;
    unsigned events;
} logged;

static void hear(enum pool_log_level level, const char *line, void *user)
{
    struct pool_conn conn;

    cr_expect_eq(user, &logged);
    cr_expect_eq(logged.inside, 0, "told inside itself: %s", line);
    logged.inside++;
    logged.count++;
    logged.level = level;
    snprintf(logged.line, sizeof(logged.line), "%s", line);
    if (logged.calls_back && pool_borrow(pool, B, NULL, &conn) == POOL_OK)
        pool_return(&conn);
    logged.inside--;
}

static void expect_line(unsigned count, enum pool_log_level level, const char *part)
{
    cr_expect_eq(logged.count, count, "%u lines, the last: %s", logged.count, logged.line);
    cr_expect_eq(logged.level, level);
    cr_expect_not_null(strstr(logged.line, part), "\"%s\" has no \"%s\"", logged.line, part);
    cr_expect_null(strchr(logged.line, '\n'));
}

static void begin(void)
{
    memset(&logged, 0, sizeof(logged));
    world = world_create(5);
    WORLD_LISTEN(world, A, .behave = WORLD_ECHO);
    WORLD_LISTEN(world, B, .behave = WORLD_ECHO);
    pl_os_replace(world_os(world));
}

static void end(void)
{
    pool_destroy(pool);
    pl_os_replace(NULL);
    world_destroy(world);
}

TestSuite(leak, .init = begin, .fini = end);

#define MAKE(...)                                                                                  \
    cr_assert_eq(pool_create(POOL_OPTIONS(.on_log = hear, .user = &logged, __VA_ARGS__), &pool), \
                 POOL_OK)

static struct pool_conn lend(const char *address, const char *tag)
{
    struct pool_conn conn;

    cr_assert_eq(pool_borrow(pool, address, POOL_CALL(.tag = tag), &conn), POOL_OK);
    return conn;
}

/* ---- leaks */

Test(leak, a_loan_older_than_leak_ms_is_reported_once_with_address_connection_tag_and_age)
{
    struct pool_conn conn;

    MAKE(.leak_ms = 1000);
    conn = lend(A, "nightly report");
    world_run(world, 990);
    cr_expect_eq(logged.count, 0);
    world_run(world, 200);
    expect_line(1, POOL_LOG_WARNING, A);
    expect_line(1, POOL_LOG_WARNING, "connection 1 ");
    expect_line(1, POOL_LOG_WARNING, "\"nightly report\"");
    expect_line(1, POOL_LOG_WARNING, " 1000 ms");
    world_run(world, 10000);
    cr_expect_eq(logged.count, 1);
    pool_return(&conn);
}

Test(leak, each_loan_is_a_new_one)
{
    struct pool_conn conn, other;

    MAKE(.leak_ms = 1000);
    conn = lend(A, "first");
    world_run(world, 1500);
    expect_line(1, POOL_LOG_WARNING, "\"first\"");
    pool_return(&conn);
    conn = lend(A, NULL);
    world_run(world, 500);
    other = lend(A, "later");
    world_run(world, 800);
    expect_line(2, POOL_LOG_WARNING, "was lent 1000 ms ago");
    world_run(world, 800);
    expect_line(3, POOL_LOG_WARNING, "\"later\" 1000 ms ago");
    pool_return(&conn);
    pool_return(&other);
}

Test(leak, a_loan_that_comes_back_in_time_is_none)
{
    MAKE(.leak_ms = 1000);
    for (unsigned i = 0; i < 20; i++) {
        struct pool_conn conn = lend(A, "quick"), other = lend(B, "quick, too");

        world_run(world, 400);
        pool_return(&conn);
        world_run(world, 400);
        pool_discard(&other);
    }
    cr_expect_eq(logged.count, 0, "%s", logged.line);
}

static void on_reply(struct pool_reply *reply, void *told)
{
    cr_expect_null(pool_reply_error(reply));
    pool_reply_free(reply);
    ++*(unsigned *)told;
}

/* Nobody has it who could forget to return it. */
Test(leak, a_connection_that_queries_share_is_none_however_long_they_use_it)
{
    unsigned told = 0;

    MAKE(.leak_ms = 1000, .park_ms = 500, .codec = pool_codec_line());
    for (unsigned i = 0; i < 50; i++) {
        cr_assert_eq(pool_query_async(pool, A, (struct pool_bytes){ "hello", 5 }, on_reply, &told,
                                      NULL, NULL),
                     POOL_OK);
        world_run(world, 100);
    }
    cr_expect_eq(told, 50);
    cr_expect_eq(logged.count, 0, "%s", logged.line);
}

Test(leak, the_tag_is_read_during_the_call_only_and_kept_up_to_31_bytes)
{
    char tag[64] = "0123456789012345678901234567890123456789";
    struct pool_conn conn;

    MAKE(.leak_ms = 1000);
    conn = lend(A, tag);
    memset(tag, '!', sizeof(tag));
    world_run(world, 2000);
    expect_line(1, POOL_LOG_WARNING, "\"0123456789012345678901234567890\"");
    pool_return(&conn);
}

Test(leak, without_leak_ms_nothing_is_looked_for_and_the_mux_sleeps)
{
    struct pool_conn conn;
    uint64_t wakeups;

    MAKE(.leak_ms = POOL_ZERO);
    conn = lend(A, "kept");
    world_run(world, 1000);
    wakeups = world_wakeups(world);
    world_run(world, 3600000);
    cr_expect_eq(world_wakeups(world), wakeups);
    cr_expect_eq(logged.count, 0);
    pool_return(&conn);
}

Test(leak, with_leak_ms_the_mux_sleeps_while_nothing_is_lent)
{
    struct pool_conn conn;
    uint64_t wakeups;

    MAKE(.leak_ms = 1000);
    conn = lend(A, "kept");
    world_run(world, 2000);
    wakeups = world_wakeups(world);
    world_run(world, 3600000);
    cr_expect_eq(world_wakeups(world), wakeups, "it was reported: there is nothing more to say");
    pool_discard(&conn);
    world_run(world, 3600000);
    cr_expect_leq(world_wakeups(world), wakeups + 1);
    cr_expect_eq(logged.count, 1);
}

Test(leak, what_listens_may_use_the_pool_and_is_not_told_inside_itself)
{
    struct pool_conn conn, other;

    MAKE(.leak_ms = 1000);
    logged.calls_back = true;
    conn = lend(A, "one");
    other = lend(A, "two");
    world_run(world, 3000);
    cr_expect_eq(logged.count, 2);
    pool_return(&conn);
    pool_return(&other);
}

/* ---- other lines */

Test(leak, a_stolen_descriptor_is_told_to_the_log)
{
    struct pool_conn conn;

    MAKE(.park_ms = POOL_NONE);
    conn = lend(A, NULL);
    world_foreign_replace(world, pool_conn_fd(&conn));
    pool_return(&conn);
    conn = lend(A, NULL);
    cr_expect_eq(pool_conn_id(&conn), 2);
    expect_line(1, POOL_LOG_WARNING, A ": the descriptor of connection 1 is another socket");
    pool_return(&conn);
}

Test(leak, a_descriptor_marked_as_dead_is_told_at_once)
{
    struct pool_conn conn;
    int fd;

    MAKE(.park_ms = 1);
    conn = lend(A, NULL);
    fd = pool_conn_fd(&conn);
    pool_return(&conn);
    cr_expect_eq(pool_mark_as_dead(pool, fd), 1);
    expect_line(1, POOL_LOG_WARNING, "connection 1 ");
}

Test(leak, an_eviction_is_told_to_the_log)
{
    struct pool_conn conn;

    MAKE(.max_connections = 1);
    conn = lend(A, NULL);
    pool_return(&conn);
    conn = lend(B, NULL);
    expect_line(1, POOL_LOG_INFO, A ": connection 1 was closed to make room");
    pool_return(&conn);
}

static void count_event(const struct pool_event_info *event, void *user)
{
    (void)event;
    cr_expect_eq(user, &logged);
    cr_expect_eq(logged.inside, 0, "told while a line is told");
    logged.events++;
}

Test(leak, lines_and_events_are_told_in_turn)
{
    struct pool_conn conn;

    MAKE(.max_connections = 1, .on_event = count_event);
    conn = lend(A, NULL);
    pool_return(&conn);
    conn = lend(B, NULL);
    expect_line(1, POOL_LOG_INFO, "connection 1 ");
    cr_expect_gt(logged.events, 8);
    pool_return(&conn);
}
