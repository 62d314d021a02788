/* test_query_deadlines.c: queries whose time runs out, each at another moment. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "pool/query_scene.h"

static void begin(void)
{
    QUERY_SCENE();
    pool = MAKE_POOL(.codec = pool_codec_length(), .max_inflight = 1u << 20, .max_per_address = 1,
                     .write_high = 64u << 20);
}

TestSuite(query_deadlines, .init = begin, .fini = query_scene_end, .timeout = 120);

#define FEW 100u

struct timed {
    struct query query;
    uint64_t start_ms, took_ms;
};

static void note_time(struct query *query)
{
    struct timed *timed = query->user;

    timed->took_ms = elapsed_ms(timed->start_ms);
}

/* From 15 ms to 1.5 s, in no order. */
Test(query_deadlines, each_fails_in_its_own_time)
{
    static struct timed timed[FEW];

    for (unsigned i = 0; i < FEW; i++) {
        timed[i].query.then = note_time;
        timed[i].query.user = &timed[i];
        timed[i].start_ms = now_ms();
        cr_assert_eq(start_query(&timed[i].query, pool, address, i % 2 ? "Never" : "D2000",
                                 POOL_CALL(.timeout_ms = 15 * (1 + i * 37 % FEW))),
                     POOL_OK);
    }
    for (unsigned i = 0; i < FEW; i++) {
        cr_assert(wait_answered(&timed[i].query));
        cr_expect(has_failed_with(&timed[i].query, POOL_E_TIMEOUT_IN_TRANSFER));
        cr_expect(IN_TIME(timed[i].took_ms, 15 * (1 + i * 37 % FEW)), "%u: %u", i,
                  (unsigned)timed[i].took_ms);
    }
}

#define MANY 30000u

static struct query *many;

/* How long it takes to ask them, in microseconds; the later, the earlier they are due. */
static uint64_t ask_many(uint32_t step_ms)
{
    uint64_t start_us;

    cr_assert_eq(start_query(&many[MANY], pool, address, "first", NULL), POOL_OK);
    cr_assert(wait_answered(&many[MANY]));
    start_us = now_us();
    for (unsigned i = 0; i < MANY; i++)
        cr_assert_eq(start_query(&many[i], pool, address, "Never",
                                 POOL_CALL(.timeout_ms = 100000 + step_ms * (MANY - i))),
                     POOL_OK);
    return now_us() - start_us;
}

Test(query_deadlines, to_ask_costs_no_more_where_all_differ)
{
    uint64_t same_us, differing_us;

    many = calloc(MANY + 1, sizeof(*many));
    same_us = ask_many(0);
    begin();
    free(many);
    many = calloc(MANY + 1, sizeof(*many));
    differing_us = ask_many(1);
    cr_expect_lt(differing_us, 20 * same_us, "%u instead of %u us", (unsigned)differing_us,
                 (unsigned)same_us);
    query_scene_end();
    free(many);
}
