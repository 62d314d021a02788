/* test_query_redis.c: queries on a Redis that is slow, blocks, kills connections and speaks
 * unasked, and commands that belong together. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "story/query_stage.h"
#include "support/tests.h"

#define THREADS 50u
#define PAUSE_MS 1000u
#define SHORT_MS 100u

TestSuite(query_redis, .fini = stage_end, .timeout = 120);

static struct orphans orphans;

/* So many connections. */
static void begin(unsigned most)
{
    stage_begin(redis_start(NULL),
                POOL_OPTIONS(.codec = pool_codec_resp(), .max_per_address = most,
                             .on_orphan = count_orphan, .user = &orphans));
}

/* ---- numbers that come once */

#define COUNTED 200000u

static atomic_uchar seen[COUNTED + 1];
static atomic_uint wrong;

/* The number in the reply to INCR is nobody else's. */
static void note_number(const char *text)
{
    unsigned long number = text[0] == ':' ? strtoul(text + 1, NULL, 10) : 0;

    if (!number || number > COUNTED || atomic_fetch_add(&seen[number], 1))
        atomic_fetch_add(&wrong, 1);
}

static unsigned long count_in_redis(void)
{
    struct query query = { 0 };

    start_command(&query, "GET count", NULL);
    cr_assert(wait_answered(&query));
    cr_assert_eq(query.text[0], '$');
    return strtoul(strchr(query.text, '\n') + 1, NULL, 10);
}

static void increment(unsigned index, void *rounds)
{
    char request[REQUEST_ROOM + 1];
    struct query query = { 0 };

    (void)index;
    request[write_command(request, "INCR count")] = 0;
    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        if (ask_and_wait(&query, stage.pool, server_address(stage.server), request, NULL))
            atomic_fetch_add(&wrong, 1);
        else
            note_number(query.text);
    }
}

Test(query_redis, fifty_threads_count_and_no_number_is_lost_or_doubled)
{
    unsigned rounds = 1000 / slowness();

    begin(1);
    cr_assert(run_threads(THREADS, increment, &rounds));
    cr_expect_eq(atomic_load(&wrong), 0);
    cr_expect_eq(count_in_redis(), THREADS * rounds);
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

/* ---- a server that is slow */

static atomic_uint late, in_time;

/* Every other thread has less time than the server takes. */
static void ask_patiently_or_not(unsigned index, void *unused)
{
    struct query query = { 0 };
    char words[32], request[REQUEST_ROOM + 1], expected[32];
    bool is_short = index % 2;

    (void)unused;
    snprintf(words, sizeof(words), "ECHO mine:%02u", index);
    snprintf(expected, sizeof(expected), "$7\r\nmine:%02u\r\n", index);
    request[write_command(request, words)] = 0;
    ask_and_wait(&query, stage.pool, server_address(stage.server), request,
                 POOL_CALL(.timeout_ms = is_short ? SHORT_MS : VERBS_SOON));
    if (!is_short)
        in_time += is_answered_with(&query, expected);
    else if (query.status == POOL_E_TIMEOUT_IN_TRANSFER && query.error.outcome == POOL_MAYBE_SENT)
        late++;
}

/* Half of those who ask now give up, and their replies come when somebody waits for others. */
static void expect_half_to_be_late(void)
{
    cr_assert(run_threads(THREADS, ask_patiently_or_not, NULL));
    cr_expect_eq(atomic_load(&late), THREADS / 2);
    cr_expect_eq(atomic_load(&in_time), THREADS / 2);
    cr_expect(WAIT_STAT(stage.pool, late_replies, THREADS / 2));
    cr_expect(wait_orphans(&orphans, THREADS / 2));
    for (unsigned i = 0; i < 20; i++)
        cr_expect(redis_answers("ECHO after", "$5\r\nafter\r\n"));
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

Test(query_redis, a_pause_ends_those_with_less_time_and_no_others)
{
    char words[48];

    begin(1);
    snprintf(words, sizeof(words), "CLIENT PAUSE %u ALL", PAUSE_MS);
    cr_expect(redis_answers(words, "+OK\r\n"));
    expect_half_to_be_late();
}

Test(query_redis, while_it_sleeps_neighbours_run_out_of_time_and_their_replies_are_swallowed)
{
    struct query sleeper = { 0 };

    begin(1);
    cr_assert_eq(start_command(&sleeper, "DEBUG SLEEP 1", NULL), POOL_OK);
    expect_half_to_be_late();
    cr_expect(wait_answered(&sleeper));
    cr_expect(is_answered_with(&sleeper, "+OK\r\n"));
}

/* ---- connections that are killed */

#define KILLS 20u
#define KILLED_THREADS 8u
#define AT_ONCE 50u

struct tally {
    atomic_uint answered, maybe, unsent, other, repeated;
    atomic_bool is_over;
};

/* A connection with bytes that the server did not read ends by a reset. */
static bool was_killed(const struct query *query)
{
    return query->status == POOL_E_CLOSED || query->status == POOL_E_BROKEN;
}

static void note_outcome(struct tally *tally, const struct query *query)
{
    if (query->told != 1)
        atomic_fetch_add(&tally->other, 1);
    else if (!query->status)
        note_number(query->text);
    else if (!was_killed(query))
        atomic_fetch_add(&tally->other, 1);
    if (!query->status)
        atomic_fetch_add(&tally->answered, 1);
    else if (query->error.outcome == POOL_NOT_SENT)
        atomic_fetch_add(&tally->unsent, 1);
    else
        atomic_fetch_add(&tally->maybe, 1);
}

/* Fifty increments in flight at once, and one that waits and may be repeated. */
static void be_killed(unsigned index, void *user)
{
    struct tally *tally = user;
    struct query *queries;
    char words[32], expected[32];

    snprintf(words, sizeof(words), "ECHO mine:%02u", index);
    snprintf(expected, sizeof(expected), "$7\r\nmine:%02u\r\n", index);
    while (!atomic_load(&tally->is_over)) {
        queries = calloc(AT_ONCE, sizeof(*queries));
        for (unsigned i = 0; i < AT_ONCE; i++)
            if (start_command(&queries[i], "INCR count", NULL))
                atomic_fetch_add(&tally->other, 1);
        if (redis_answers_to(POOL_CALL(.flags = POOL_SAFE_TO_REPEAT), words, expected))
            atomic_fetch_add(&tally->repeated, 1);
        else
            atomic_fetch_add(&tally->other, 1);
        for (unsigned i = 0; i < AT_ONCE; i++)
            if (wait_answered(&queries[i]))
                note_outcome(tally, &queries[i]);
        free(queries);
    }
}

struct more {
    struct tally *tally;
    unsigned least;
};

static bool has_answered(void *argument)
{
    struct more *more = argument;

    return atomic_load(&more->tally->answered) >= more->least;
}

static void *kill_often(void *user)
{
    struct tally *tally = user;
    struct more more = { .tally = tally };
    for (unsigned i = 0; i < KILLS; i++) {
        struct query query = { 0 };

        more.least = atomic_load(&tally->answered) + 500 / slowness();
        if (!wait_until(has_answered, &more, VERBS_SOON) ||
            ask_as_another(&query, "CLIENT KILL TYPE normal SKIPME yes"))
            atomic_fetch_add(&tally->other, 1);
    }
    atomic_store(&tally->is_over, true);
    return NULL;
}

/* What the server counted lies between what was answered and what may have been sent besides. */
Test(query_redis, kills_fail_each_in_flight_once_and_the_pool_works_on)
{
    static struct tally tally;
    pthread_t killer;
    unsigned long counted;

    begin(3);
    cr_assert_eq(pthread_create(&killer, NULL, kill_often, &tally), 0);
    cr_assert(run_threads(KILLED_THREADS, be_killed, &tally));
    pthread_join(killer, NULL);
    counted = count_in_redis();
    cr_expect_eq(atomic_load(&tally.other), 0);
    cr_expect_eq(atomic_load(&wrong), 0, "a number came twice");
    cr_expect_geq(counted, atomic_load(&tally.answered));
    cr_expect_leq(counted, atomic_load(&tally.answered) + atomic_load(&tally.maybe));
    cr_expect_gt(STAT(stage.pool, opened), KILLS / 2);
    cr_expect(redis_answers("ECHO after", "$5\r\nafter\r\n"));
}

/* Writes are held up, so all of them are with the server, and none was carried out. */
Test(query_redis, a_kill_fails_a_thousand_that_the_server_holds)
{
    struct query *queries = calloc(1000, sizeof(*queries));

    begin(1);
    cr_expect(redis_answers("SET count 0", "+OK\r\n"));
    cr_assert(another_is_answered("CLIENT PAUSE 60000 WRITE", "+OK\r\n"));
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_eq(start_command(&queries[i], "INCR count", NULL), POOL_OK);
    cr_assert(wait_until(has_blocked, NULL, VERBS_SOON));
    cr_expect(another_is_answered("CLIENT KILL TYPE normal SKIPME yes", ":1\r\n"));
    for (unsigned i = 0; i < 1000; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(was_killed(&queries[i]), "%s", queries[i].error.text);
        cr_expect_eq(queries[i].told, 1);
        cr_expect_eq(queries[i].error.outcome, POOL_MAYBE_SENT);
    }
    cr_expect(another_is_answered("CLIENT UNPAUSE", "+OK\r\n"));
    cr_expect(redis_answers("INCR count", ":1\r\n"));
    cr_expect_eq(STAT(stage.pool, opened), 2);
    free(queries);
}

/* ---- what belongs together */

/* One request of four commands, one reply of four: nobody gets between. */
static void transact(unsigned index, void *rounds)
{
    static const char words[] = "MULTI;INCR one;INCR two;EXEC";
    static const char head[] = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:";
    char request[REQUEST_ROOM + 1];
    struct query query = { 0 };
    unsigned long one = 0, two = 1;

    (void)index;
    request[write_command(request, words)] = 0;
    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        ask_and_wait(&query, stage.pool, server_address(stage.server), request, NULL);
        if (query.status || strncmp(query.text, head, strlen(head)) != 0 ||
            sscanf(query.text + strlen(head), "%lu\r\n:%lu\r\n", &one, &two) != 2 || one != two)
            atomic_fetch_add(&wrong, 1);
    }
}

Test(query_redis, a_transaction_in_one_request_has_one_reply_of_all_its_replies)
{
    unsigned rounds = 200 / slowness();
    char expected[32];

    begin(1);
    cr_assert(run_threads(20, transact, &rounds));
    cr_expect_eq(atomic_load(&wrong), 0);
    snprintf(expected, sizeof(expected), ":%u\r\n", 20 * rounds + 1);
    cr_expect(redis_answers("INCR two", expected));
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

Test(query_redis, what_is_not_a_number_of_whole_commands_is_refused_and_disturbs_nobody)
{
    static const char *const refused[] = {
        "PING\r\n",                                     /* inline */
        "*2\r\n$3\r\nGET\r\n",                          /* one word is missing */
        "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPIN",          /* the second is cut */
        "*1\r\n$4\r\nPING\r\n\r\n",                     /* something behind it */
        "*1\r\n$7\r\nMONITOR\r\n",
        "*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n",
        "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
        "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQUIT\r\n",
    };
    struct query held = { 0 }, query = { 0 };

    begin(1);
    cr_assert_eq(start_command(&held, "DEBUG SLEEP 0.1", NULL), POOL_OK);
    for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        ask_and_wait(&query, stage.pool, server_address(stage.server), refused[i], NULL);
        cr_expect_eq(query.status, POOL_E_ARGUMENT, "%s", refused[i]);
    }
    cr_expect(redis_answers("ECHO after", "$5\r\nafter\r\n"));
    cr_expect(wait_answered(&held));
    cr_expect(is_answered_with(&held, "+OK\r\n"));
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

/* ---- what blocks */

static void *take_job(void *user)
{
    static const char command[] = "*3\r\n$5\r\nBLPOP\r\n$4\r\njobs\r\n$1\r\n0\r\n";
    struct pool_bytes reply = { 0 };
    struct query *query = user;
    struct pool_conn conn;

    if (!borrow(stage.pool, server_address(stage.server), &conn))
        return NULL;
    query->status = pool_ask(&conn, (struct pool_bytes){ command, sizeof(command) - 1 }, &reply);
    snprintf(query->text, sizeof(query->text), "%.*s", (int)reply.size, (const char *)reply.data);
    pool_return(&conn);
    atomic_fetch_add(&query->told, 1);
    return NULL;
}

Test(query_redis, a_blocking_command_on_a_borrowed_connection_holds_up_no_query)
{
    struct query job = { 0 };
    pthread_t worker;

    begin(2);
    cr_expect(redis_answers("ECHO before", "$6\r\nbefore\r\n"));
    cr_assert_eq(pthread_create(&worker, NULL, take_job, &job), 0);
    cr_assert(wait_until(has_blocked, NULL, VERBS_SOON));
    for (unsigned i = 0; i < 1000; i++)
        cr_expect(redis_answers("ECHO meanwhile", "$9\r\nmeanwhile\r\n"));
    cr_expect_eq(job.told, 0);
    cr_expect(redis_answers("RPUSH jobs it", ":1\r\n"));
    pthread_join(worker, NULL);
    cr_expect(is_answered_with(&job, "*2\r\n$4\r\njobs\r\n$2\r\nit\r\n"));
    cr_expect_eq(STAT(stage.pool, opened), 2);
}
