/* test_s_server.c: the pool on OpenSSL's own server over TLS 1.3, which gives tickets by number and
 * changes its keys on command: what it says beside the data costs no connection and no byte. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "support/servers.h"
#include "support/tests.h"
#include "support/verbs.h"

#define ROUNDS 10

static struct credential *authority, *credential;
static struct pool_tls *trust;
static struct server *server;
static struct pool *pool;

static void begin(void)
{
    authority = CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "IP:127.0.0.1");
    cr_assert_eq(
        pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &trust, NULL),
        POOL_OK);
}

static void end(void)
{
    pool_destroy(pool);
    server_stop(server);
    pool_tls_free(trust);
    credential_free(credential);
    credential_free(authority);
}

TestSuite(s_server, .init = begin, .fini = end, .timeout = 120);

static void start(unsigned tickets, bool reverses, uint32_t park_ms)
{
    server = openssl_start(credential, tickets, reverses);
    if (!server)
        cr_skip("%s", server_why_not());
    pool = MAKE_POOL(.tls = trust, .park_ms = park_ms, .max_per_address = 1);
}

static bool is_resumed(const struct pool_conn *conn)
{
    struct pool_tls_info info = { .size = sizeof(info) };

    cr_assert_eq(pool_conn_tls(conn, &info), POOL_OK);
    cr_expect_str_eq(info.version, "TLSv1.3");
    return info.resumed;
}

/* ---- tickets */

/* One loan; answers whether its connection continues an earlier session, and its descriptor. */
static bool ask_reversed(unsigned number, int *fd)
{
    struct pool_conn conn;
    char text[16], expected[16], got[16] = "";
    size_t size = (size_t)snprintf(text, sizeof(text), "line %04u\n", number);
    bool resumed;

    for (size_t i = 0; i < size - 1; i++)
        expected[i] = text[size - 2 - i];
    expected[size - 1] = '\n';
    cr_assert(borrow(pool, server_address(server), &conn));
    resumed = is_resumed(&conn);
    *fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_send(&conn, text, size), POOL_OK);
    cr_assert_eq(pool_recv_exact(&conn, got, size), POOL_OK);
    cr_expect_arr_eq(got, expected, size, "%.*s", (int)size, got);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return resumed;
}

/* The tickets lie unread in the socket when the first loan ends without a byte. */
static void park_over_tickets(unsigned tickets)
{
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, server_address(server), &conn));
    cr_expect_not(is_resumed(&conn));
    fd = pool_conn_fd(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_assert(server_wait_log(server, OPENSSL_SENT, "NewSessionTicket", tickets));
    cr_assert(wait_parked(fd));
}

static void reuse_and_resume(unsigned tickets)
{
    int fd;

    start(tickets, true, 1);
    park_over_tickets(tickets);
    for (unsigned i = 0; i < ROUNDS; i++) {
        cr_expect_not(ask_reversed(i, &fd));
        cr_assert(wait_parked(fd));
    }
    cr_expect_eq(STAT(pool, opened), 1, "it is always the same");
    cr_expect_eq(server_log_count(server, OPENSSL_SENT, "NewSessionTicket"), tickets);
    for (unsigned i = 0; i < ROUNDS; i++) {
        cr_assert_eq(pool_clear(pool, NULL, 0), POOL_OK);
        cr_expect_eq(ask_reversed(i, &fd), tickets > 0, "dial %u", i);
        cr_assert(wait_parked(fd));
        cr_expect_eq(ask_reversed(i, &fd), tickets > 0);
    }
    cr_expect_eq(STAT(pool, opened), 1 + ROUNDS);
}

Test(s_server, without_tickets_each_handshake_is_a_full_one)
{
    reuse_and_resume(0);
}

Test(s_server, one_ticket_is_swallowed_and_continues_the_session)
{
    reuse_and_resume(1);
}

Test(s_server, two_tickets_are_swallowed_and_continue_the_session)
{
    reuse_and_resume(2);
}

Test(s_server, five_tickets_are_swallowed_and_continue_the_session)
{
    reuse_and_resume(5);
}

/* ---- new keys */

static unsigned orders, asked, questions;

/* The server has sent it when this returns. */
static void change_keys(bool asks)
{
    orders++;
    asked += asks;
    cr_assert(server_say(server, asks ? "K\n" : "k\n"));
    cr_assert(server_wait_log(server, OPENSSL_SENT, "KeyUpdate", orders));
}

/* One question and its answer, which the test gives in the server's name. */
static void exchange(struct pool_conn *conn)
{
    char question[32], answer[4096], got[sizeof(answer)] = "";
    unsigned number = ++questions;

    snprintf(question, sizeof(question), "question %u of many\n", number);
    memset(answer, 'a' + (int)(number % 26), sizeof(answer));
    snprintf(answer, 16, "answer %u ", number);
    answer[sizeof(answer) - 2] = '\n';
    answer[sizeof(answer) - 1] = 0;
    cr_assert_eq(pool_send(conn, question, strlen(question)), POOL_OK);
    cr_assert(server_wait_log(server, "question", " of many", number));
    cr_assert(server_say(server, answer));
    cr_assert_eq(pool_recv_exact(conn, got, strlen(answer)), POOL_OK);
    cr_expect_str_eq(got, answer);
}

static int exchange_on_a_loan(void)
{
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, server_address(server), &conn));
    fd = pool_conn_fd(&conn);
    exchange(&conn);
    cr_assert_eq(pool_return(&conn), POOL_OK);
    return fd;
}

static void expect_one_connection(unsigned loans)
{
    cr_expect_eq(STAT(pool, opened), 1);
    cr_expect_eq(STAT(pool, reused), loans - 1);
    cr_expect(server_wait_log(server, OPENSSL_GOT, "KeyUpdate", asked), "what was asked for comes");
}

static bool has_woken_up(void *before)
{
    return STAT(pool, wakeups) > *(uint64_t *)before;
}

/* The mux of an idle pool wakes up for nothing else. */
Test(s_server, new_keys_on_a_parked_connection_are_swallowed)
{
    start(2, false, 1);
    for (unsigned i = 0; i < ROUNDS; i++) {
        int fd = exchange_on_a_loan();
        uint64_t wakeups;

        cr_assert(wait_parked(fd));
        wakeups = STAT(pool, wakeups);
        change_keys(i % 2 == 0);
        cr_assert(wait_until(has_woken_up, &wakeups, VERBS_SOON));
        cr_assert(wait_parked(fd));
    }
    exchange_on_a_loan();
    expect_one_connection(ROUNDS + 1);
}

Test(s_server, new_keys_on_an_idle_connection_are_swallowed)
{
    start(2, false, 60000);
    for (unsigned i = 0; i < ROUNDS; i++) {
        exchange_on_a_loan();
        change_keys(i % 2 == 0);
    }
    exchange_on_a_loan();
    expect_one_connection(ROUNDS + 1);
}

Test(s_server, new_keys_during_a_loan_change_no_byte)
{
    struct pool_conn conn;

    start(2, false, 1);
    for (unsigned i = 0; i < ROUNDS; i++) {
        cr_assert(borrow(pool, server_address(server), &conn));
        if (i % 3 == 0)
            exchange(&conn);
        change_keys(i % 2 == 0);
        exchange(&conn);
        if (i % 4 == 0)
            change_keys(false);
        cr_assert_eq(pool_return(&conn), POOL_OK);
    }
    exchange_on_a_loan();
    expect_one_connection(ROUNDS + 1);
}
