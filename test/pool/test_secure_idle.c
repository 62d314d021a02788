/* test_secure_idle.c: idle connections of tls:// addresses. What TLS says for itself, tickets and
 * new keys, is swallowed and costs no reuse; what the peer says is seen, for the program or against
 * the connection, and no borrower ever reads it as an answer. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "pool/secure_stage.h"

TestSuite(pool_secure_idle, .init = secure_stage_begin, .fini = secure_stage_end, .timeout = 120);

#define ROUNDS 20
#define FAR_MS 50000 /* it stays hot for the whole test */

static const enum pool_check checks[] = { POOL_CHECK_ALWAYS, POOL_CHECK_PARKED, POOL_CHECK_NEVER };
static const int versions[] = { 0x0303, 0x0304 };

/* One connection: who borrows in the moment in which the mux looks at it waits, and does not open
 * another. */
static void start_with(uint32_t park_ms, enum pool_check check)
{
    pool_destroy(pool);
    SECURE_POOL(.park_ms = park_ms, .check = check, .max_per_address = 1);
}

/* ---- what TLS says for itself */

Test(pool_secure_idle, tickets_cost_no_reuse)
{
    static const int tickets[] = { -1, 1, 2, 8 };

    for (int t = 0; t < 4; t++) {
        START_PEER(.version = 0x0304, .tickets = tickets[t]);
        for (int c = 0; c < 3; c++) {
            unsigned before = tls_peer_accepted(tls_peer);

            start_with(1, checks[c]);
            for (int i = 0; i < ROUNDS; i++) {
                cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
                cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
                cr_assert(wait_next_parked(secure_at("")));
            }
            cr_expect_eq(tls_peer_accepted(tls_peer) - before, 1, "%d tickets, check %d",
                         tickets[t], checks[c]);
        }
        pool_destroy(pool);
        pool = NULL;
        tls_peer_stop(tls_peer);
    }
    tls_peer = NULL;
}

/* Tickets that come while nobody looks: they make the socket readable. */
Test(pool_secure_idle, a_connection_that_is_only_borrowed_and_returned_is_reused)
{
    struct pool_conn conn;

    START_PEER(.version = 0x0304, .tickets = 8);
    start_with(1, POOL_CHECK_ALWAYS);
    for (int i = 0; i < ROUNDS; i++) {
        cr_assert(borrow(pool, secure_at(""), &conn));
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_assert(wait_next_parked(secure_at("")));
    }
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

static void expect_swallowed(uint32_t park_ms, enum pool_check check, const char *what)
{
    unsigned before = tls_peer_accepted(tls_peer);

    start_with(park_ms, check);
    for (int i = 0; i < ROUNDS; i++) {
        cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
        cr_assert_eq(tls_peer_open(tls_peer), 1, "%s, park %u, check %d, round %d", what, park_ms,
                     check, i);
        if (park_ms == 1)
            cr_assert(wait_next_parked(secure_at("")));
        for (int n = 0; n <= i % 3; n++)
            cr_assert_eq(tls_peer_tell(tls_peer, what), 1);
    }
    cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer) - before, 1, "%s, %s, check %d", what,
                 park_ms == 1 ? "parked" : "hot", check);
    pool_destroy(pool);
    pool = NULL;
    cr_assert(wait_peer_open(0));
}

Test(pool_secure_idle, new_keys_and_late_tickets_cost_no_reuse)
{
    START_PEER(.version = 0x0304);
    for (int c = 0; c < 3; c++) {
        expect_swallowed(1, checks[c], ORDER_KEY_UPDATE);
        expect_swallowed(FAR_MS, checks[c], ORDER_KEY_UPDATE);
        expect_swallowed(1, checks[c], ORDER_TICKET);
        expect_swallowed(FAR_MS, checks[c], ORDER_TICKET);
    }
}

Test(pool_secure_idle, keys_that_change_at_the_end_of_a_loan_cost_no_reuse)
{
    START_PEER(.version = 0x0304);
    start_with(1, POOL_CHECK_ALWAYS);
    for (int i = 0; i < ROUNDS; i++) {
        order(secure_at(""), ORDER_KEY_UPDATE);
        cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
        order(secure_at(""), ORDER_KEY_UPDATE);
        cr_assert(wait_next_parked(secure_at("")));
    }
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

/* A part of a record may be of either kind: it is not lent as if it were silent, and not waited for
 * by a thread. The rest never comes here. */
Test(pool_secure_idle, half_a_record_does_not_turn_the_mux_round_and_round)
{
    struct pool_stats before = { .size = sizeof(before) }, after = { .size = sizeof(after) };
    int bystander;

    START_PEER(.version = 0x0304);
    start_with(1, POOL_CHECK_ALWAYS);
    cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
    cr_assert(wait_next_parked(secure_at("")));
    cr_assert_eq(tls_peer_tell(tls_peer, ORDER_HALF), 1);
    cr_assert(WAIT_STAT(pool, idle, 1));
    cr_assert_eq(pool_stats(pool, &before), POOL_OK);
    bystander = tls_peer_dial(tls_peer);
    cr_expect_eq(listen_to(bystander, 100), HEARD_NOTHING, "nothing but time passes");
    close(bystander);
    cr_assert_eq(pool_stats(pool, &after), POOL_OK);
    cr_expect_lt(after.wakeups - before.wakeups, 20);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
}

/* ---- what the peer says */

Test(pool_secure_idle, words_that_nobody_asked_for_end_a_parked_connection)
{
    for (int v = 0; v < 2; v++) {
        START_PEER(.version = versions[v]);
        start_with(1, POOL_CHECK_ALWAYS);
        cr_assert(wait_next_parked(secure_at("")));
        cr_assert_eq(tls_peer_tell(tls_peer, ORDER_PUSH), 1);
        cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_PEER], 1));
        cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
        cr_expect_eq(tls_peer_accepted(tls_peer), 2);
        pool_destroy(pool);
        pool = NULL;
        tls_peer_stop(tls_peer);
    }
    tls_peer = NULL;
}

Test(pool_secure_idle, words_that_nobody_asked_for_are_never_an_answer)
{
    START_PEER(.version = 0x0304);
    start_with(FAR_MS, POOL_CHECK_ALWAYS);
    for (unsigned i = 0; i < ROUNDS; i++) {
        cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
        cr_assert_eq(tls_peer_tell(tls_peer, ORDER_PUSH), 1);
        cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_PEER]), i + 1);
        pool_clear(pool, NULL, 0);
        cr_assert(wait_peer_open(0));
    }
}

static void expect_noticed(const char *what)
{
    cr_assert(wait_next_parked(secure_at("")));
    cr_assert_eq(tls_peer_tell(tls_peer, what), 1);
    cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_PEER], 1), "%s", what);
    cr_expect_eq(STAT(pool, idle), 0, "%s", what);
}

Test(pool_secure_idle, the_end_of_a_parked_connection_is_noticed)
{
    static const char *const ends[] = { ORDER_GOODBYE, ORDER_END, ORDER_CUT, ORDER_RESET };

    for (int v = 0; v < 2; v++) {
        for (int e = 0; e < 4; e++) {
            START_PEER(.version = versions[v]);
            start_with(1, POOL_CHECK_ALWAYS);
            expect_noticed(ends[e]);
            pool_destroy(pool);
            pool = NULL;
            tls_peer_stop(tls_peer);
        }
    }
    tls_peer = NULL;
}

Test(pool_secure_idle, the_end_of_a_hot_connection_is_seen_before_it_is_lent)
{
    static const char *const ends[] = { ORDER_GOODBYE, ORDER_END, ORDER_CUT, ORDER_RESET };

    START_PEER(.version = 0x0304);
    for (int e = 0; e < 4; e++) {
        struct pool_conn conn;

        start_with(FAR_MS, POOL_CHECK_ALWAYS);
        cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
        tls_peer_tell(tls_peer, ends[e]);
        cr_assert(borrow(pool, secure_at(""), &conn));
        cr_expect_eq(echo(&conn, "alive"), 0, "%s", ends[e]);
        cr_assert_eq(pool_return(&conn), POOL_OK);
        cr_expect_eq(STAT(pool, opened), 2, "%s", ends[e]);
        pool_destroy(pool);
        pool = NULL;
        cr_assert(wait_peer_open(0));
    }
}

/* ---- the rest of a record, inside OpenSSL already */

/* A borrower takes `taken` bytes of an answer that came in one record, and returns. */
static uint64_t leave_rest(const char *answer, size_t taken)
{
    struct pool_conn conn;
    char bytes[64];
    uint64_t id;

    cr_assert(borrow(pool, secure_at(""), &conn));
    id = pool_conn_id(&conn);
    cr_assert(say(&conn, answer));
    cr_assert_eq(pool_recv_exact(&conn, bytes, taken), POOL_OK);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return id;
}

Test(pool_secure_idle, the_rest_of_a_record_is_never_the_next_ones_answer)
{
    for (int v = 0; v < 2; v++) {
        START_PEER(.version = versions[v]);
        for (int c = 0; c < 3; c++) {
            start_with(FAR_MS, checks[c]);
            leave_rest("reply and more", 5);
            cr_expect_eq(talk(pool, secure_at("")), POOL_OK, "check %d", checks[c]);
            cr_expect_eq(STAT(pool, opened), 2, "check %d", checks[c]);
            leave_rest("reply and more", 5);
            cr_expect_gt(id_of_next(pool, secure_at("")), 0, "check %d", checks[c]);
            cr_expect_eq(STAT(pool, opened), 3, "check %d", checks[c]);
        }
        pool_destroy(pool);
        pool = NULL;
        tls_peer_stop(tls_peer);
    }
    tls_peer = NULL;
}

Test(pool_secure_idle, the_rest_of_a_record_ends_the_connection_when_it_is_parked)
{
    START_PEER(.version = 0x0304);
    for (int c = 0; c < 3; c++) {
        start_with(1, checks[c]);
        leave_rest("reply and more", 5);
        cr_expect(WAIT_STAT(pool, closed[POOL_CLOSE_PEER], 1), "check %d", checks[c]);
    }
}

/* ---- actors */

struct inbox {
    char text[4096];
    atomic_size_t size;
    atomic_uint ends, failures;
    size_t wanted;
};

static int hear(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct inbox *inbox = user;
    size_t size = atomic_load(&inbox->size);

    (void)conn;
    if (size + message.size < sizeof(inbox->text))
        memcpy(inbox->text + size, message.data, message.size);
    atomic_fetch_add(&inbox->size, message.size);
    return 0;
}

static void hear_the_end(uint64_t connection, const struct pool_error *error, void *user)
{
    struct inbox *inbox = user;

    (void)connection;
    atomic_fetch_add(&inbox->failures, error != NULL);
    atomic_fetch_add(&inbox->ends, 1);
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    actor->on_message = hear;
    actor->on_close = hear_the_end;
    actor->user = user;
    return 0;
}

static bool has_text(void *argument)
{
    struct inbox *inbox = argument;

    return atomic_load(&inbox->size) >= inbox->wanted;
}

static bool wait_text(struct inbox *inbox, const char *text)
{
    inbox->wanted = strlen(text);
    return wait_until(has_text, inbox, VERBS_SOON) && !strcmp(inbox->text, text);
}

static bool has_ended(void *argument)
{
    return atomic_load(&((struct inbox *)argument)->ends) > 0;
}

Test(pool_secure_idle, an_actor_hears_what_comes_between_loans)
{
    for (int v = 0; v < 2; v++) {
        struct inbox inbox = { .size = 0 };

        START_PEER(.version = versions[v]);
        SECURE_POOL(.park_ms = 1, .on_new_connection = attach, .user = &inbox,
                    .max_per_address = 1);
        cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
        cr_assert_eq(tls_peer_tell(tls_peer, ORDER_PUSH), 1);
        cr_expect(wait_text(&inbox, "push\n"));
        cr_assert(wait_next_parked(secure_at("")));
        cr_assert_eq(tls_peer_tell(tls_peer, ORDER_PUSH), 1);
        cr_expect(wait_text(&inbox, "push\npush\n"));
        for (int i = 0; i < ROUNDS; i++) {
            cr_assert_eq(tls_peer_tell(tls_peer, ORDER_PUSH), 1);
            cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
        }
        cr_expect_eq(tls_peer_accepted(tls_peer), 1);
        pool_destroy(pool);
        pool = NULL;
        cr_expect(wait_until(has_ended, &inbox, VERBS_SOON));
        tls_peer_stop(tls_peer);
    }
    tls_peer = NULL;
}

Test(pool_secure_idle, an_actor_hears_the_rest_of_the_record_that_held_the_answer)
{
    static const uint32_t times[] = { 1, FAR_MS };

    for (int v = 0; v < 2; v++) {
        START_PEER(.version = versions[v]);
        for (int t = 0; t < 2; t++) {
            struct inbox inbox = { .size = 0 };
            struct pool_conn conn;
            uint64_t id;

            SECURE_POOL(.park_ms = times[t], .on_new_connection = attach, .user = &inbox,
                        .max_per_address = 1);
            id = leave_rest("reply and more", 5);
            /* Hot, the next borrower finds it; parked, the mux does. */
            cr_assert(borrow(pool, secure_at(""), &conn));
            cr_expect(wait_text(&inbox, " and more"), "it is \"%s\"", inbox.text);
            cr_expect_eq(echo(&conn, "hello"), 0);
            cr_expect_eq(pool_conn_id(&conn), id);
            cr_assert_eq(pool_return(&conn), POOL_OK);
            pool_destroy(pool);
            pool = NULL;
            cr_expect(wait_until(has_ended, &inbox, VERBS_SOON));
        }
        tls_peer_stop(tls_peer);
    }
    tls_peer = NULL;
}

Test(pool_secure_idle, an_actor_hears_a_record_that_is_larger_than_one_read)
{
    struct inbox inbox = { .size = 0, .wanted = 12000 - 5 };
    static char answer[12001];

    memset(answer, 'x', 12000);
    START_PEER(.version = 0x0304);
    SECURE_POOL(.park_ms = 1, .on_new_connection = attach, .user = &inbox);
    leave_rest(answer, 5);
    cr_expect(wait_until(has_text, &inbox, VERBS_SOON));
    cr_expect_eq(inbox.size, 12000 - 5);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
    pool_destroy(pool);
    pool = NULL;
}

Test(pool_secure_idle, an_actor_is_told_how_it_ended)
{
    static const struct {
        const char *order;
        unsigned failures;
    } ends[] = { { ORDER_GOODBYE, 0 }, { ORDER_CUT, 1 }, { ORDER_RESET, 1 } };

    START_PEER(.version = 0x0304);
    for (int e = 0; e < 3; e++) {
        struct inbox inbox = { .size = 0 };

        SECURE_POOL(.park_ms = 1, .on_new_connection = attach, .user = &inbox);
        cr_assert(wait_next_parked(secure_at("")));
        tls_peer_tell(tls_peer, ends[e].order);
        cr_expect(wait_until(has_ended, &inbox, VERBS_SOON));
        cr_expect_eq(inbox.failures, ends[e].failures, "%s", ends[e].order);
        pool_destroy(pool);
        pool = NULL;
        cr_assert(wait_peer_open(0));
    }
}
