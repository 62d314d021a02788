/* test_line_frames.c: what a line knows of where its frames are: places are kept modulo 2^32, and
 * more may pass than that while one query waits for its reply. */
#include <criterion/criterion.h>

#include "pool/line.h"

#define WRAP (UINT64_C(1) << 32)
#define SIZE 50u

static struct pl_line line;
static struct pl_query query;
static uint64_t next_key;

/* One frame was put behind so many bytes. */
static void put_behind(uint64_t given)
{
    uint64_t key;

    line = (struct pl_line){ .given = given + SIZE, .taken = given, .sent = given };
    query = (struct pl_query){ .entry = { .size = SIZE, .replies = 1 },
                               .end = (uint32_t)(given + SIZE) };
    next_key = 1;
    pl_correlator_init(&line.correlator, pool_codec_length(), &next_key);
    cr_assert_eq(pl_correlator_reserve(&line.correlator, &key), POOL_OK);
    pl_correlator_add(&line.correlator, &query.entry, key);
}

static void send_all(uint64_t more)
{
    line.given += more;
    line.taken = line.sent = line.given;
}

static void end(void)
{
    pl_correlator_fini(&line.correlator);
}

TestSuite(line_frames, .fini = end);

Test(line_frames, one_has_begun_with_its_first_byte)
{
    static const uint64_t befores[] = { 0, 1000, WRAP - SIZE, WRAP - 20, WRAP, 5 * WRAP + 7 };

    for (size_t i = 0; i < PL_COUNT(befores); i++) {
        put_behind(befores[i]);
        cr_expect_not(pl_line_has_begun(&line, &query));
        cr_expect_eq(pl_line_unsent(&line, &query).size, SIZE);
        line.taken += SIZE;
        cr_expect_not(pl_line_has_begun(&line, &query), "it is the next to be written");
        line.is_writing = true;
        cr_expect(pl_line_has_begun(&line, &query), "it may be gone already");
        line.is_writing = false;
        line.sent++;
        cr_expect(pl_line_has_begun(&line, &query));
        cr_expect_eq(pl_line_unsent(&line, &query).size, 0);
        pl_correlator_fini(&line.correlator);
    }
}

Test(line_frames, what_left_long_ago_is_never_taken_for_unsent)
{
    put_behind(100);
    send_all(WRAP / 4 + 1);
    pl_line_note_long_gone(&line);
    for (unsigned i = 1; i <= 20; i++) {
        send_all(WRAP / 4 - 10);
        pl_line_note_long_gone(&line);
        line.given += 10;               /* of others, which wait */
        cr_expect(pl_line_has_begun(&line, &query), "after %u", i);
        cr_expect_eq(pl_line_unsent(&line, &query).size, 0);
    }
    for (uint64_t unsent = 0; unsent < 200; unsent++) {
        line.given = 100 + 6 * WRAP + unsent;
        line.sent = line.taken = line.given - 100;
        cr_expect(pl_line_has_begun(&line, &query));
    }
}

Test(line_frames, what_waits_is_not_long_gone)
{
    put_behind(WRAP - 10);
    line.sent++;
    pl_line_note_long_gone(&line);
    cr_expect_not(query.is_long_gone, "its end has not left");
    line.sent = line.taken = line.given;
    pl_line_note_long_gone(&line);
    cr_expect(query.is_long_gone);
}
