/* test_query_pushes.c: what Redis says unasked in RESP3, on a connection that queries share: an
 * actor hears it, in order, whether queries run or not, and nobody takes it for a reply. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "story/query_stage.h"
#include "support/tests.h"

#define ASKING 8u
#define ROUNDS 50u
#define AT_ONCE 20u /* messages of a round, which come in haste */

TestSuite(query_pushes, .fini = stage_end, .timeout = 120);

/* What came and is no whole message yet; the next one's number. */
static struct {
    char bytes[65536];
    size_t size;
    unsigned next;
    atomic_uint heard, wrong;
} inbox;

static atomic_uint stray;

static void note_stray(uint64_t id, uint64_t key, struct pool_bytes body, void *user)
{
    (void)id, (void)key, (void)user;
    fprintf(stderr, "stray: %.*s\n", (int)body.size, (const char *)body.data);
    atomic_fetch_add(&stray, 1);
}

static void hear_one(const struct pool_message *message)
{
    char expected[64];
    int size = snprintf(expected, sizeof(expected),
                        ">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$8\r\nnews%04u\r\n", inbox.next++);

    if (message->kind != POOL_PUSH || message->body.size != (size_t)size ||
        memcmp(message->body.data, expected, (size_t)size) != 0)
        atomic_fetch_add(&inbox.wrong, 1);
    atomic_fetch_add(&inbox.heard, 1);
}

/* While queries run it is told whole pushes, and else whatever came: it cuts all alike. */
static int hear(struct pool_conn *conn, struct pool_bytes bytes, void *user)
{
    char state[1024] = "";
    long taken = 0;

    (void)conn, (void)user;
    cr_assert_leq(pool_codec_resp()->read_state_size, sizeof(state));
    if (inbox.size + bytes.size > sizeof(inbox.bytes)) {
        atomic_fetch_add(&inbox.wrong, 1);
        return -1;
    }
    memcpy(inbox.bytes + inbox.size, bytes.data, bytes.size);
    inbox.size += bytes.size;
    for (;;) {
        struct pool_message message = { .size = sizeof(message) };

        memset(state, 0, sizeof(state));
        taken = pool_codec_resp()->next(state, (struct pool_bytes){ inbox.bytes, inbox.size },
                                        false, 0, &message);
        if (taken <= 0)
            break;
        hear_one(&message);
        inbox.size -= (size_t)taken;
        memmove(inbox.bytes, inbox.bytes + taken, inbox.size);
    }
    atomic_fetch_add(&inbox.wrong, taken < 0);
    return inbox.size ? POOL_LATER : 0;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)user;
    actor->on_message = hear;
    return 0;
}

static bool asks(struct pool_conn *conn, const char *words, const char *head)
{
    char request[REQUEST_ROOM];
    struct pool_bytes reply;

    return pool_ask(conn, (struct pool_bytes){ request, write_command(request, words) }, &reply) ==
               POOL_OK &&
           reply.size > strlen(head) && memcmp(reply.data, head, strlen(head)) == 0;
}

static int subscribe(struct pool_conn *conn, void *user)
{
    (void)user;
    return asks(conn, "HELLO 3", "%") &&
                   asks(conn, "SUBSCRIBE news", ">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n")
               ? 0
               : 1;
}

static void begin(pool_use_fn *prepare)
{
    stage_begin(redis_start(NULL),
                POOL_OPTIONS(.codec = pool_codec_resp(), .max_per_address = 1, .park_ms = 2,
                             .on_new_connection = attach, .prepare = prepare,
                             .on_orphan = note_stray));
}

/* ---- asking meanwhile */

static atomic_bool is_over;
static atomic_uint wrong;

static void ask_meanwhile(unsigned index, void *unused)
{
    char words[32], expected[32];

    (void)unused;
    for (unsigned i = 0; !atomic_load(&is_over); i++) {
        snprintf(words, sizeof(words), "ECHO %u:%06u", index, i);
        snprintf(expected, sizeof(expected), "$8\r\n%u:%06u\r\n", index, i);
        if (!redis_answers(words, expected))
            atomic_fetch_add(&wrong, 1);
    }
}

static bool has_heard(void *count)
{
    return atomic_load(&inbox.heard) >= *(unsigned *)count;
}

/* Publishes on the connection that hears it, and on another. */
static void publish(unsigned number)
{
    char words[32];

    snprintf(words, sizeof(words), "PUBLISH news news%04u", number);
    cr_assert(number % 2 ? redis_answers(words, ":1\r\n") : another_is_answered(words, ":1\r\n"));
}

static void publish_at_once(unsigned from)
{
    struct query queries[AT_ONCE] = { 0 };
    char words[32];

    for (unsigned i = 0; i < AT_ONCE; i++) {
        snprintf(words, sizeof(words), "PUBLISH news news%04u", from + i);
        cr_assert_eq(start_command(&queries[i], words, NULL), POOL_OK);
    }
    for (unsigned i = 0; i < AT_ONCE; i++) {
        cr_assert(wait_answered(&queries[i]));
        cr_expect(is_answered_with(&queries[i], ":1\r\n"));
    }
}

static void *publish_all(void *rounds)
{
    unsigned count = 0;

    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        for (unsigned j = 0; j < AT_ONCE; j++)
            publish(count++);
        publish_at_once(count);
        count += AT_ONCE;
    }
    cr_expect(wait_until(has_heard, &count, VERBS_SOON));
    atomic_store(&is_over, true);
    return NULL;
}

static void expect_all_heard(unsigned count)
{
    cr_expect_eq(atomic_load(&inbox.heard), count);
    cr_expect_eq(atomic_load(&inbox.wrong), 0);
    cr_expect_eq(atomic_load(&stray), 0);
    cr_expect_eq(STAT(stage.pool, orphans), 0);
    cr_expect_eq(STAT(stage.pool, opened), 1);
}

Test(query_pushes, they_come_in_order_and_none_is_lost_while_queries_run)
{
    unsigned rounds = ROUNDS / slowness();
    pthread_t publisher;

    begin(subscribe);
    cr_expect(redis_answers("ECHO before", "$6\r\nbefore\r\n"));
    cr_assert_eq(pthread_create(&publisher, NULL, publish_all, &rounds), 0);
    cr_assert(run_threads(ASKING, ask_meanwhile, NULL));
    pthread_join(publisher, NULL);
    cr_expect_eq(atomic_load(&wrong), 0);
    expect_all_heard(rounds * 2 * AT_ONCE);
}

/* In turns: queries run, the connection is idle, queries run. */
Test(query_pushes, they_come_in_order_and_none_is_lost_whether_queries_run_or_not)
{
    unsigned rounds = ROUNDS / slowness(), count = 0;

    begin(subscribe);
    cr_expect(redis_answers("ECHO before", "$6\r\nbefore\r\n"));
    for (unsigned i = 0; i < rounds; i++) {
        publish_at_once(count);
        count += AT_ONCE;
        cr_assert(i % 2 || WAIT_STAT(stage.pool, shared, 0));
        for (unsigned j = 0; j < AT_ONCE; j++, count++) {
            char words[32];

            snprintf(words, sizeof(words), "PUBLISH news news%04u", count);
            cr_assert(another_is_answered(words, ":1\r\n"));
        }
        cr_assert(i % 3 || wait_until(has_heard, &count, VERBS_SOON));
    }
    cr_expect(wait_until(has_heard, &count, VERBS_SOON));
    cr_expect(redis_answers("ECHO after", "$5\r\nafter\r\n"));
    expect_all_heard(count);
}

Test(query_pushes, a_subscription_by_query_is_answered_by_what_confirms_it)
{
    struct query hello = { 0 }, subscription = { 0 };
    unsigned count = AT_ONCE;

    begin(NULL);
    cr_assert_eq(start_command(&hello, "HELLO 3", NULL), POOL_OK);
    cr_assert_eq(start_command(&subscription, "SUBSCRIBE news", NULL), POOL_OK);
    cr_assert(wait_answered(&hello) && wait_answered(&subscription));
    cr_expect_eq(hello.text[0], '%');
    cr_expect(is_answered_with(&subscription, ">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"));
    publish_at_once(0);
    cr_expect(wait_until(has_heard, &count, VERBS_SOON));
    expect_all_heard(count);
}

/* There its messages would look like replies. */
Test(query_pushes, a_subscription_in_resp2_ends_the_connection_before_a_message_is_mistaken)
{
    struct query subscription = { 0 };

    begin(NULL);
    cr_expect(redis_answers("ECHO before", "$6\r\nbefore\r\n"));
    cr_assert_eq(start_command(&subscription, "SUBSCRIBE news", NULL), POOL_OK);
    cr_assert(wait_answered(&subscription));
    cr_expect(has_failed_with(&subscription, POOL_E_PROTOCOL));
    for (unsigned i = 0; i < AT_ONCE; i++)
        cr_expect(redis_answers("ECHO after", "$5\r\nafter\r\n"));
    cr_expect_eq(atomic_load(&inbox.heard), 0);
    cr_expect_eq(STAT(stage.pool, opened), 2);
}
