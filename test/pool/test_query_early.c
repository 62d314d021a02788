/* test_query_early.c: where replies come in order, what the peer said before a query was asked
 * answers nobody, also while somebody else has it in his hands: the mux that receives it, and one
 * who still writes. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/os.h"
#include "pool/raw_line.h"

static struct pl_os door;
static atomic_bool is_armed, is_there, may_go_on;

static bool is_set(void *flag)
{
    return atomic_load((atomic_bool *)flag);
}

static void hold(void)
{
    atomic_store(&is_armed, false);
    atomic_store(&is_there, true);
    (void)wait_until(is_set, &may_go_on, VERBS_SOON);
}

static ssize_t receive_and_hold(int fd, void *buffer, size_t size, int flags)
{
    ssize_t got = pl_os_real.recv(fd, buffer, size, flags);

    if (got > 0 && atomic_load(&is_armed))
        hold();
    return got;
}

static ssize_t send_and_hold(int fd, const void *data, size_t size, int flags)
{
    ssize_t sent = pl_os_real.send(fd, data, size, flags);

    if (atomic_load(&is_armed))
        hold();
    return sent;
}

/* Who asked waits for his reply: all that he does before that is done. */
static int sleep_and_tell(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    if (atomic_load(&is_there))
        atomic_store(&may_go_on, true);
    return pl_os_real.sleep_until(word, expected, deadline_ns);
}

static void answer_nothing(struct pool_responder *responder, struct pool_bytes body, void *user)
{
    (void)body;
    (void)user;
    pool_respond(responder, text_bytes("nothing"));
}

static void say(const char *line)
{
    cr_assert(write_exactly(raw_end, line, strlen(line), VERBS_SOON));
}

static void expect_line(const char *expected)
{
    char line[32] = "";

    cr_assert(raw_get_line(line, sizeof(line)), "no \"%s\"", expected);
    cr_expect_str_eq(line, expected);
}

Test(query_early, what_the_mux_receives_at_that_moment_answers_nobody)
{
    struct query warm = { 0 };
    struct asker asker;
    char line[32];

    door = pl_os_real;
    door.recv = receive_and_hold;
    door.sleep_until = sleep_and_tell;
    pl_os_replace(&door);
    RAW_LINE(.codec = pool_codec_line(), .on_request = answer_nothing);
    cr_assert_eq(start_query(&warm, raw_pool, RAW, "warm", NULL), POOL_OK);
    expect_line("warm");
    say("warm\n");
    cr_assert(wait_answered(&warm));
    atomic_store(&is_armed, true);
    say("early\n");
    cr_assert(wait_until(is_set, &is_there, VERBS_SOON));
    cr_assert(start_asker(&asker, raw_pool, RAW, "asked", NULL));
    cr_expect_neq(join_asker(&asker), POOL_OK, "\"%s\" is no answer", asker.query.text);
    cr_expect(atomic_load(&may_go_on));
    cr_expect_eq(asker.query.error.outcome, POOL_NOT_SENT);
    cr_expect_not(raw_get_line(line, sizeof(line)), "\"%s\" was sent", line);
    raw_line_end();
    pl_os_replace(NULL);
}

/* A reply too many, behind that of a query whose sender is still at it. */
static void *ask_first(void *query)
{
    (void)!start_query(query, raw_pool, RAW, "first", NULL);
    return NULL;
}

Test(query_early, what_comes_while_somebody_writes_answers_nobody_who_asks_later)
{
    struct query warm = { 0 }, first = { 0 }, second = { 0 };
    struct pool_mux *mux;
    pthread_t writer;

    door = pl_os_real;
    door.send = send_and_hold;
    pl_os_replace(&door);
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    RAW_LINE(.mux = mux, .codec = pool_codec_line(), .on_request = answer_nothing);
    cr_assert_eq(start_query(&warm, raw_pool, RAW, "warm", NULL), POOL_OK);
    say("warm\n");
    cr_assert(dispatch_until_answered(mux, &warm));
    expect_line("warm");
    atomic_store(&is_armed, true);
    cr_assert_eq(pthread_create(&writer, NULL, ask_first, &first), 0);
    cr_assert(wait_until(is_set, &is_there, VERBS_SOON));
    expect_line("first");
    say("first\n");
    cr_assert(dispatch_until_answered(mux, &first));
    cr_expect(is_answered_with(&first, "first"));
    say("extra\n");
    cr_assert_eq(start_query(&second, raw_pool, RAW, "second", NULL), POOL_OK);
    atomic_store(&may_go_on, true);
    pthread_join(writer, NULL);
    cr_assert(dispatch_until_answered(mux, &second));
    cr_expect_neq(second.status, POOL_OK, "\"%s\" is no answer", second.text);
    cr_expect_eq(second.error.outcome, POOL_NOT_SENT);
    raw_line_end();
    pool_mux_destroy(mux);
    pl_os_replace(NULL);
}

/* Half of it lies before the request, the other half behind. */
Test(query_early, what_began_before_the_request_is_no_answer_to_pool_ask)
{
    struct pool_conn conn;
    struct pool_bytes line, reply;

    RAW_LINE(.codec = pool_codec_line());
    cr_assert_eq(pool_borrow(raw_pool, RAW, NULL, &conn), POOL_OK);
    say("first\nsec");
    cr_assert_eq(pool_recv_until(&conn, "\n", 1, &line), POOL_OK);
    say("ond\nanswer\n");
    cr_expect_eq(pool_ask(&conn, text_bytes("asked"), &reply), POOL_E_PROTOCOL);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(raw_pool, closed[POOL_CLOSE_ERROR]), 1);
    raw_line_end();
}
