/* test_secure_lent.c: event-driven use of tls:// addresses: loans that are watched, and hooks that
 * talk on the mux thread. What OpenSSL holds back raises no event, and must be told all the
 * same. */
#include <criterion/criterion.h>
#include <string.h>

#include "pool/lent_user.h"
#include "pool/secure_stage.h"

TestSuite(pool_secure_lent, .init = secure_stage_begin, .fini = secure_stage_end, .timeout = 60);

#define MIB (1u << 20)
#define KEPT (LENT_TEXT - 65536) /* of the text, surely */

static struct lent_user *user;

#define LEND(...)                                                                                  \
    (user = lent_user_at(secure_at(""), POOL_OPTIONS(.tls = trust, __VA_ARGS__), NULL))

static void finish(void)
{
    lent_end(user, NULL);
    user = NULL;
}

static const char *to_write;

static void write_it(void *argument)
{
    (void)argument;
    user->status = pool_write(&user->ask.conn, to_write, strlen(to_write));
}

static void write_text(const char *text)
{
    to_write = text;
    lent_on_mux(user, write_it);
    cr_assert_eq(user->status, POOL_OK);
}

/* ---- reading and writing */

Test(pool_secure_lent, what_is_written_leaves_and_what_comes_is_told)
{
    static const int versions[] = { 0x0303, 0x0304 };

    for (int v = 0; v < 2; v++) {
        START_PEER(.version = versions[v]);
        LEND(.max_per_address = 1);
        lent_watch(user);
        write_text("hello");
        cr_expect(lent_wait_bytes(user, 5));
        cr_expect(lent_wait(&user->written, 1));
        cr_expect_eq(memcmp(user->text, "hello", 5), 0);
        cr_expect_eq(user->written, 1);
        cr_expect_eq(user->errors + user->ends, 0);
        cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
        cr_expect(WAIT_STAT(user->pool, idle, 1), "it is clean");
        cr_expect_eq(id_of_next(user->pool, secure_at("")), user->ask.id);
        finish();
        tls_peer_stop(tls_peer);
    }
    tls_peer = NULL;
}

static char much[MIB];

static void write_much(void *argument)
{
    (void)argument;
    user->status = pool_write(&user->ask.conn, much, MIB);
}

static void fill_much(void)
{
    for (size_t i = 0; i < MIB; i++)
        much[i] = (char)(i * 7 + i / 251);
}

static void expect_much_back(void)
{
    cr_assert(lent_wait_bytes(user, MIB));
    cr_expect_eq(memcmp(user->text, much, KEPT), 0, "the order is lost");
    cr_expect(lent_wait(&user->written, 1));
    cr_expect_eq(user->written, 1);
    cr_expect_eq(user->bytes, MIB);
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    cr_expect(WAIT_STAT(user->pool, idle, 1), "it is clean");
}

Test(pool_secure_lent, a_mebibyte_comes_back_whole)
{
    fill_much();
    START_PEER(.version = 0x0304);
    LEND(.write_high = 4 * MIB);
    lent_watch(user);
    lent_on_mux(user, write_much);
    cr_assert_eq(user->status, POOL_OK);
    expect_much_back();
    finish();
}

Test(pool_secure_lent, a_mebibyte_waits_for_a_peer_that_does_not_read)
{
    size_t count = 0;

    fill_much();
    START_PEER(.version = 0x0304);
    LEND(.write_high = 4 * MIB);
    lent_watch(user);
    cr_assert_eq(tls_peer_tell(tls_peer, ORDER_DEAF), 1);
    do {
        lent_on_mux(user, write_much);
        count += user->status == POOL_OK;
    } while (!user->status && count < 64);
    cr_expect_eq(user->status, POOL_E_FULL, "what the kernel has not taken waits here");
    cr_expect_eq(user->bytes, 0);
    cr_expect_eq(tls_peer_tell(tls_peer, ORDER_NOTHING), 1);
    cr_assert(lent_wait_bytes(user, count * MIB));
    cr_expect_eq(user->bytes, count * MIB);
    cr_expect_eq(memcmp(user->text, much, KEPT), 0, "the order is lost");
    finish();
}

Test(pool_secure_lent, a_flood_with_new_keys_in_it_stays_in_order)
{
    START_PEER(.version = 0x0304);
    LEND(.idle_ms = 60000);
    lent_watch(user);
    write_text(ORDER_FLOOD);
    cr_assert(lent_wait_bytes(user, FLOOD_SIZE));
    for (size_t i = 0; i < LENT_TEXT; i++)
        cr_assert_eq(user->text[i], (char)('a' + i % 26), "byte %zu", i);
    write_text("and on");
    cr_expect(lent_wait_bytes(user, FLOOD_SIZE + 6));
    finish();
}

Test(pool_secure_lent, what_tls_says_for_itself_is_no_event)
{
    START_PEER(.version = 0x0304);
    LEND(.idle_ms = 60000);
    lent_watch(user);
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(tls_peer_tell(tls_peer, ORDER_KEY_UPDATE), 1);
        cr_assert_eq(tls_peer_tell(tls_peer, ORDER_TICKET), 1);
    }
    write_text("hello");
    cr_expect(lent_wait_bytes(user, 5));
    cr_expect_eq(user->reads, 1);
    cr_expect_eq(user->errors + user->ends, 0);
    finish();
}

/* ---- what is with us already */

Test(pool_secure_lent, the_rest_of_a_record_is_told_without_an_event_of_the_socket)
{
    char first[5];

    fill_much();
    START_PEER(.version = 0x0304);
    LEND(.idle_ms = 60000);
    cr_assert_eq(pool_send(&user->ask.conn, much, 12000), POOL_OK);
    cr_assert_eq(pool_recv_exact(&user->ask.conn, first, 5), POOL_OK);
    lent_watch(user);
    cr_assert(lent_wait_bytes(user, 12000 - 5));
    cr_expect_eq(memcmp(user->text, much + 5, 12000 - 5), 0);
    finish();
}

Test(pool_secure_lent, what_was_read_ahead_comes_before_the_rest_of_its_record)
{
    static char sent[12000];
    struct pool_bytes line;

    START_PEER(.version = 0x0304);
    LEND(.idle_ms = 60000);
    for (size_t i = 0; i < sizeof(sent); i++)
        sent[i] = (char)('a' + i % 23);
    sent[9] = '\n';
    cr_assert_eq(pool_send(&user->ask.conn, sent, sizeof(sent)), POOL_OK);
    cr_assert_eq(pool_recv_until(&user->ask.conn, "\n", 1, &line), POOL_OK);
    cr_expect_eq(line.size, 10);
    lent_watch(user);
    cr_assert(lent_wait_bytes(user, sizeof(sent) - 10));
    cr_expect_eq(memcmp(user->text, sent + 10, sizeof(sent) - 10), 0, "the order is lost");
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    cr_expect(WAIT_STAT(user->pool, idle, 1), "it is clean");
    finish();
}

/* ---- ends */

static void expect_end(const char *what, bool is_error)
{
    START_PEER(.version = 0x0304);
    LEND(.idle_ms = 60000);
    lent_watch(user);
    cr_assert_eq(tls_peer_tell(tls_peer, what), 1);
    cr_expect(lent_wait(is_error ? &user->errors : &user->ends, 1), "%s", what);
    cr_expect_eq(user->errors + user->ends, 1, "%s", what);
    if (is_error)
        cr_expect_eq(user->error.status, POOL_E_BROKEN, "%s", user->error.text);
    cr_expect_eq(pool_return(&user->ask.conn), POOL_OK);
    cr_expect(
        WAIT_STAT(user->pool, closed[is_error ? POOL_CLOSE_ERROR : POOL_CLOSE_PEER], 1));
    finish();
    tls_peer_stop(tls_peer);
    tls_peer = NULL;
}

Test(pool_secure_lent, a_farewell_is_told_as_closed_and_all_else_as_an_error)
{
    expect_end(ORDER_GOODBYE, false);
    expect_end(ORDER_END, false);
    expect_end(ORDER_CUT, true);
    expect_end(ORDER_RESET, true);
}

Test(pool_secure_lent, after_the_peers_farewell_one_may_still_write)
{
    struct pool_stats before = { .size = sizeof(before) }, after = { .size = sizeof(after) };

    START_PEER(.version = 0x0304);
    LEND(.idle_ms = 60000);
    lent_watch(user);
    write_text("hello");
    cr_expect(lent_wait_bytes(user, 5));
    cr_expect(lent_wait(&user->written, 1));
    cr_assert_eq(tls_peer_tell(tls_peer, ORDER_END), 1);
    cr_expect(lent_wait(&user->ends, 1));
    write_text("hello");
    cr_assert_eq(pool_stats(user->pool, &before), POOL_OK);
    cr_expect_eq(before.bytes_out, 10);
    for (int i = 0; i < 50; i++)
        cr_assert_eq(pool_stats(user->pool, &after), POOL_OK);
    cr_expect_lt(after.wakeups - before.wakeups, 20);
    cr_expect_eq(user->errors, 0);
    cr_expect_eq(user->ends, 1);
    finish();
}

Test(pool_secure_lent, the_deadline_of_the_call_ends_the_loan)
{
    uint64_t start_ms = now_ms();

    START_PEER(.version = 0x0304);
    user = lent_user_at(secure_at(""), POOL_OPTIONS(.tls = trust), POOL_CALL(.timeout_ms = 300));
    lent_watch(user);
    write_text(ORDER_NOTHING);
    cr_expect(lent_wait(&user->errors, 1));
    cr_expect(IN_TIME(elapsed_ms(start_ms), 300));
    cr_expect_eq(user->error.status, POOL_E_TIMEOUT_IN_TRANSFER);
    finish();
}

/* ---- asynchronous calls */

Test(pool_secure_lent, a_handshake_that_stalls_is_told_in_time)
{
    struct peer *silent = PEER(.behave = PEER_SILENT);
    struct ask ask = { .is_kept = true };

    SECURE_POOL();
    cr_assert_eq(start_ask(&ask, pool, secure_address(peer_port(silent), ""),
                           POOL_CALL(.timeout_ms = 333)),
                 POOL_OK);
    cr_assert(wait_told(&ask));
    cr_expect_eq(ask.status, POOL_E_TIMEOUT, "%s", ask.error.text);
    cr_expect_eq(ask.error.phase, POOL_PHASE_TLS, "%s", ask.error.text);
    cr_expect(IN_TIME(ask.took_ms, 333));
    pool_destroy(pool);
    pool = NULL;
    peer_stop(silent);
}

Test(pool_secure_lent, many_calls_at_once_get_connections)
{
    struct ask asks[16] = { { .is_kept = true } };

    START_PEER(.version = 0x0304);
    SECURE_POOL(.max_per_address = 8);
    for (int i = 0; i < 16; i++) {
        asks[i].is_kept = false;
        cr_assert_eq(start_ask(&asks[i], pool, secure_at(""), NULL), POOL_OK);
    }
    for (int i = 0; i < 16; i++) {
        cr_assert(wait_told(&asks[i]));
        cr_expect_eq(asks[i].status, POOL_OK);
        cr_expect_eq(asks[i].told, 1);
    }
    cr_expect_leq(tls_peer_accepted(tls_peer), 8);
}

/* ---- hooks that talk */

static void greeted(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                    void *argument)
{
    (void)argument;
    if (event == POOL_EV_READ)
        pool_conn_ready(conn, bytes.size == 4 && !memcmp(bytes.data, "ehlo", 4) ? POOL_OK
                                                                                : POOL_E_USER);
}

static int greet(struct pool_conn *conn, struct pool_actor *actor, void *argument)
{
    struct pool_tls_info info = { .size = sizeof(info) };

    (void)actor, (void)argument;
    cr_expect_eq(pool_conn_tls(conn, &info), POOL_OK);
    cr_expect(info.secure, "the hook comes after the handshake");
    cr_expect_eq(pool_conn_watch(conn, greeted, NULL), POOL_OK);
    cr_expect_eq(pool_write(conn, "ehlo", 4), POOL_OK);
    return POOL_LATER;
}

Test(pool_secure_lent, a_hook_talks_before_the_first_use)
{
    START_PEER(.version = 0x0304);
    SECURE_POOL(.on_new_connection = greet);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_ERROR]), 0);
}
