/* test_query_parts.c: receivers of parts that are slower than the peer: the time of their query goes
 * on, and an order ends it all the same. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "pool/raw_line.h"

TestSuite(query_parts, .fini = raw_line_end, .timeout = 60);

#define PARTS 20u
#define TIMEOUT 500u /* ms */

static atomic_uint told;
static struct pool_ticket *ticket;
static uint32_t id; /* of the request */

static void put_parts(void)
{
    for (unsigned i = 0; i < PARTS; i++)
        cr_assert(raw_put(id, FRAME_PART, "part"));
}

/* Until all that was put so far is there, and so told at once. */
static bool is_all_in(void)
{
    return WAIT_STAT(raw_pool, bytes_in, (uint64_t)PARTS * (12 + 4));
}

/* What a test does within the first part. */
static void (*meanwhile)(void);

static void on_part(struct pool_bytes part, void *user)
{
    (void)part, (void)user;
    if (!atomic_fetch_add(&told, 1) && is_all_in())
        meanwhile();
}

static void begin(void (*does)(void))
{
    raw_line_end();
    RAW_LINE(.codec = pool_codec_length());
    meanwhile = does;
    atomic_store(&told, 0);
}

static bool start(struct asker *asker, uint32_t timeout_ms)
{
    struct raw_frame frame;

    if (!start_asker(asker, raw_pool, RAW, "parts",
                     POOL_CALL(.timeout_ms = timeout_ms, .on_part = on_part, .ticket = &ticket)) ||
        !raw_get(&frame))
        return false;
    id = frame.id;
    return true;
}

/* ---- a peer that never runs dry */

static uint64_t start_ms;

/* Before each part is done with, another one has come; and some have, first. */
static void put_next(struct pool_bytes part, void *user)
{
    uint64_t put = 1 + PARTS + atomic_fetch_add(&told, 1);

    (void)part, (void)user;
    if (elapsed_ms(start_ms) > VERBS_SOON / 2)
        return;
    if (put == 1 + PARTS)
        put_parts();
    else if (!raw_put(id, FRAME_PART, "part"))
        return;
    WAIT_STAT(raw_pool, bytes_in, put * (12 + 4));
}

Test(query_parts, a_query_ends_in_its_time_though_parts_come_faster_than_they_are_told)
{
    struct asker asker = { .query = { 0 } };
    struct raw_frame frame;

    begin(NULL);
    start_ms = now_ms();
    cr_assert(start_asker(&asker, raw_pool, RAW, "parts",
                          POOL_CALL(.timeout_ms = TIMEOUT, .on_part = put_next)));
    cr_assert(raw_get(&frame));
    id = frame.id;
    cr_assert(raw_put(id, FRAME_PART, "part"));
    cr_expect_eq(join_asker(&asker), POOL_E_TIMEOUT_IN_TRANSFER);
    cr_expect_lt(asker.took_ms, VERBS_SOON / 2);
    cr_expect_gt(told, 0);
}

/* ---- parts that came together */

/* All that the query had. */
static void let_time_pass(void)
{
    uint64_t from_ms = now_ms();

    while (elapsed_ms(from_ms) <= TIMEOUT)
        let_peer_take_time(20);
}

static void cancel(void)
{
    cr_expect(pool_ticket_cancel(__atomic_load_n(&ticket, __ATOMIC_ACQUIRE)));
}

static void clear(void)
{
    cr_expect_eq(pool_clear(raw_pool, NULL, POOL_INTERRUPT), POOL_OK);
    cr_expect(WAIT_STAT(raw_pool, shared, 0));
}

static uint64_t line_id(void)
{
    struct pool_conn conn;
    uint64_t found;

    cr_assert(borrow(raw_pool, RAW, &conn));
    found = pool_conn_id(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return found;
}

static uint64_t killed;

static void kill_line(void)
{
    cr_expect(pool_kill(raw_pool, killed));
    cr_expect(WAIT_STAT(raw_pool, shared, 0));
}

static void expect_one_told(void (*does)(void), enum pool_status status)
{
    struct asker asker = { .query = { 0 } };

    begin(does);
    killed = line_id();
    ticket = NULL;
    cr_assert(start(&asker, does == let_time_pass ? TIMEOUT : VERBS_SOON));
    put_parts();
    cr_expect_eq(join_asker(&asker), status, "%s", asker.query.error.text);
    cr_expect_leq(told, 1);
    pool_ticket_free(ticket);
}

Test(query_parts, what_came_is_not_told_when_its_time_is_over)
{
    expect_one_told(let_time_pass, POOL_E_TIMEOUT_IN_TRANSFER);
}

Test(query_parts, what_came_is_not_told_when_it_is_ended)
{
    expect_one_told(cancel, POOL_E_CANCELED);
    expect_one_told(clear, POOL_E_CLEARED);
    expect_one_told(kill_line, POOL_E_BROKEN);
}

static void let_reply_come(void)
{
    cr_assert(raw_put(id, FRAME_REPLY, "end"));
    WAIT_STAT(raw_pool, bytes_in, (uint64_t)PARTS * (12 + 4) + 12 + 3);
    let_time_pass();
}

Test(query_parts, what_came_is_told_when_the_reply_came_in_time)
{
    struct asker asker = { .query = { 0 } };

    begin(let_reply_come);
    cr_assert(start(&asker, TIMEOUT));
    put_parts();
    cr_expect_eq(join_asker(&asker), POOL_OK, "%s", asker.query.error.text);
    cr_expect_eq(told, PARTS);
    pool_ticket_free(ticket);
}

/* ---- nobody waits for it */

static atomic_bool is_in;

static bool is_set(void *unused)
{
    (void)unused;
    return atomic_load(&is_in);
}

static void let_time_pass_here(void)
{
    uint64_t from_ms = now_ms();

    while (elapsed_ms(from_ms) <= TIMEOUT)
        continue;
}

/* The mux is held meanwhile. */
static void be_slow(struct pool_bytes part, void *user)
{
    (void)part, (void)user;
    if (atomic_fetch_add(&told, 1) == 0)
        wait_until(is_set, NULL, VERBS_SOON);
    else
        let_time_pass_here();
}

Test(query_parts, what_came_is_not_told_on_the_mux_when_its_time_is_over)
{
    struct query query = { 0 };
    struct raw_frame frame;

    begin(NULL);
    cr_assert_eq(start_query(&query, raw_pool, RAW, "parts",
                             POOL_CALL(.timeout_ms = TIMEOUT, .on_part = be_slow)),
                 POOL_OK);
    cr_assert(raw_get(&frame));
    id = frame.id;
    put_parts();
    atomic_store(&is_in, true);
    cr_assert(wait_answered(&query));
    cr_expect(has_failed_with(&query, POOL_E_TIMEOUT_IN_TRANSFER));
    cr_expect_leq(told, 2);
}
