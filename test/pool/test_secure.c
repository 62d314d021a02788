/* test_secure.c: blocking use of tls:// addresses: every call does what it does on a plain
 * connection, and ends as exactly. What peers must prove is in test_secure_refused.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "pool/secure_stage.h"

TestSuite(pool_secure, .init = secure_stage_begin, .fini = secure_stage_end, .timeout = 120);

#define MIB (1u << 20)

static struct pool_conn lend(const char *address)
{
    struct pool_conn conn;

    cr_assert(borrow(pool, address, &conn));
    return conn;
}

/* ---- what comes and goes */

Test(pool_secure, exchanges_are_as_those_of_plain_connections)
{
    static const int versions[] = { 0x0303, 0x0304 };

    for (int i = 0; i < 2; i++) {
        START_PEER(.version = versions[i]);
        SECURE_POOL();
        for (int n = 0; n < 100; n++)
            cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
        cr_expect_eq(tls_peer_accepted(tls_peer), 1);
        pool_destroy(pool);
        tls_peer_stop(tls_peer);
    }
    pool = NULL;
    tls_peer = NULL;
}

Test(pool_secure, what_was_agreed_on_is_told)
{
    struct pool_tls_info info = { .size = sizeof(info) };
    struct pool_conn conn;

    START_PEER(.version = 0x0304, .alpn = "echo");
    SECURE_POOL();
    conn = lend(secure_at("?sni=db.test&alpn=echo"));
    cr_assert_eq(echo(&conn, "hello"), 0);
    cr_assert_eq(pool_conn_tls(&conn, &info), POOL_OK);
    cr_expect(info.secure);
    cr_expect_not(info.resumed);
    cr_expect_str_eq(info.version, "TLSv1.3");
    cr_expect_str_eq(info.alpn, "echo");
    cr_expect_str_eq(info.peer_name, "db.test");
    cr_expect_str_eq(tls_peer_asked_for(tls_peer), "db.test");
    pool_return(&conn);
}

Test(pool_secure, lines_are_found_in_records_of_any_cut)
{
    static const char text[] = "first\r\nsecond line\r\n\r\nrest";
    struct pool_bytes line;
    struct pool_conn conn;
    char rest[4];

    START_PEER(.version = 0);
    SECURE_POOL();
    conn = lend(secure_at(""));
    for (size_t cut = 1; cut < sizeof(text) - 1; cut++) {
        cr_assert_eq(pool_send(&conn, text, cut), POOL_OK);
        cr_assert_eq(pool_send(&conn, text + cut, sizeof(text) - 1 - cut), POOL_OK);
        cr_assert_eq(pool_recv_until(&conn, "\r\n", 2, &line), POOL_OK);
        cr_expect(line.size == 7 && !memcmp(line.data, "first\r\n", 7));
        cr_assert_eq(pool_recv_until(&conn, "\r\n", 2, &line), POOL_OK);
        cr_expect(line.size == 13 && !memcmp(line.data, "second line\r\n", 13));
        cr_assert_eq(pool_recv_until(&conn, "\r\n", 2, &line), POOL_OK);
        cr_expect_eq(line.size, 2);
        cr_assert_eq(pool_recv_exact(&conn, rest, 4), POOL_OK);
        cr_expect_eq(memcmp(rest, "rest", 4), 0, "cut at %zu", cut);
    }
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

/* A record is larger than what is asked for: the rest waits inside OpenSSL, and no event tells. */
Test(pool_secure, a_record_taken_in_small_bites_never_stalls)
{
    static char sent[16384], back[16384];
    struct pool_conn conn;
    size_t have = 0, got;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    conn = lend(secure_at(""));
    for (size_t i = 0; i < sizeof(sent); i++)
        sent[i] = (char)(i * 31 + i / 257);
    cr_assert_eq(pool_send(&conn, sent, sizeof(sent)), POOL_OK);
    for (; have < sizeof(back); have += got)
        cr_assert_eq(pool_recv(&conn, back + have, 1000, &got), POOL_OK);
    cr_expect_eq(memcmp(sent, back, sizeof(back)), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
}

static char much[MIB], much_back[MIB];

static void send_or_receive(unsigned index, void *argument)
{
    struct pool_conn conn = *(struct pool_conn *)argument;

    if (index == 0)
        cr_expect_eq(pool_send(&conn, much, MIB), POOL_OK);
    else
        cr_expect_eq(pool_recv_exact(&conn, much_back, MIB), POOL_OK);
}

Test(pool_secure, a_mebibyte_goes_both_ways_at_once)
{
    static const int versions[] = { 0x0303, 0x0304 };
    struct pool_conn conn;

    for (size_t i = 0; i < MIB; i++)
        much[i] = (char)(i * 7 + i / 251);
    for (int i = 0; i < 2; i++) {
        START_PEER(.version = versions[i]);
        SECURE_POOL();
        conn = lend(secure_at(""));
        memset(much_back, 0, MIB);
        cr_assert(run_threads(2, send_or_receive, &conn));
        cr_expect_eq(memcmp(much, much_back, MIB), 0);
        cr_expect_eq(echo(&conn, "and on"), 0);
        cr_expect_eq(pool_return(&conn), POOL_OK);
        cr_expect_eq(STAT(pool, bytes_out), MIB + 6);
        cr_expect_eq(STAT(pool, bytes_in), MIB + 6);
        cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
        cr_expect_eq(tls_peer_accepted(tls_peer), 1);
        pool_destroy(pool);
        tls_peer_stop(tls_peer);
    }
    pool = NULL;
    tls_peer = NULL;
}

Test(pool_secure, key_updates_in_the_middle_of_a_reply_are_not_seen)
{
    static char flood[FLOOD_SIZE];
    struct pool_conn conn;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    conn = lend(secure_at(""));
    for (int i = 0; i < 3; i++) {
        cr_assert(say(&conn, ORDER_FLOOD));
        cr_assert_eq(pool_recv_exact(&conn, flood, FLOOD_SIZE), POOL_OK);
        for (size_t at = 0; at < FLOOD_SIZE; at++)
            cr_assert_eq(flood[at], (char)('a' + at % 26), "byte %zu", at);
        cr_assert_eq(echo(&conn, "between"), 0);
    }
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

Test(pool_secure, many_small_pieces_arrive_as_one_text)
{
    static char text[3000], back[3000];
    struct iovec pieces[1000];
    struct pool_conn conn;
    size_t at = 0;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)('a' + i % 26);
    for (int i = 0; i < 1000; i++) {
        pieces[i] = (struct iovec){ text + at, (size_t)(i % 7) };
        at += pieces[i].iov_len;
    }
    conn = lend(secure_at(""));
    cr_assert_eq(pool_sendv(&conn, pieces, 1000), POOL_OK);
    cr_assert_eq(pool_recv_exact(&conn, back, at), POOL_OK);
    cr_expect_eq(memcmp(text, back, at), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 1);
}

/* ---- trying */

static bool can_receive(void *argument)
{
    struct pool_conn *conn = argument;
    char byte;
    size_t got;

    return pool_try_recv(conn, &byte, 1, &got) == POOL_OK && got == 1;
}

Test(pool_secure, trying_moves_what_can_be_moved_and_never_waits)
{
    struct pool_conn conn;
    size_t moved;
    char byte;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    conn = lend(secure_at(""));
    cr_expect_eq(pool_try_recv(&conn, &byte, 1, &moved), POOL_E_WOULD_BLOCK);
    cr_expect_eq(pool_try_send(&conn, "abc", 3, &moved), POOL_OK);
    cr_expect_eq(moved, 3);
    cr_expect(wait_until(can_receive, &conn, VERBS_SOON));
    cr_expect_eq(pool_try_recv(&conn, &byte, 1, &moved), POOL_OK, "without an event");
    cr_expect_eq(byte, 'b');
    cr_expect_eq(pool_try_recv(&conn, &byte, 1, &moved), POOL_OK);
    cr_expect_eq(byte, 'c');
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer), 1);
}

/* A record that only half fits is finished by whoever sends next; until then the connection is
 * dirty. */
Test(pool_secure, trying_to_send_to_who_does_not_read_ends_in_would_block_and_goes_on)
{
    static char back[MIB * 16];
    size_t moved, sent = 0, bites = 0;
    struct pool_conn conn;
    enum pool_status status;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    conn = lend(secure_at(""));
    for (size_t i = 0; i < MIB; i++)
        much[i] = (char)(i * 7 + i / 251);
    cr_assert_eq(tls_peer_tell(tls_peer, ORDER_DEAF), 1);
    while ((status = pool_try_send(&conn, much + sent % MIB, MIB - sent % MIB, &moved)) ==
           POOL_OK) {
        sent += moved;
        cr_assert_lt(sent, sizeof(back), "somebody reads");
        bites++;
    }
    cr_expect_eq(status, POOL_E_WOULD_BLOCK);
    cr_expect_gt(bites, 1);
    cr_expect_eq(tls_peer_tell(tls_peer, ORDER_NOTHING), 1);
    cr_assert_eq(pool_send(&conn, much + sent % MIB, 1), POOL_OK);
    sent++;
    cr_assert_eq(pool_recv_exact(&conn, back, sent), POOL_OK);
    for (size_t i = 0; i < sent; i++)
        cr_assert_eq(back[i], much[i % MIB], "byte %zu", i);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 1);
}

Test(pool_secure, a_loan_that_left_half_a_record_is_not_lent_again)
{
    struct pool_conn conn;
    size_t moved;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    conn = lend(secure_at(""));
    cr_assert_eq(tls_peer_tell(tls_peer, ORDER_DEAF), 1);
    while (pool_try_send(&conn, much, MIB, &moved) == POOL_OK)
        continue;
    tls_peer_tell(tls_peer, ORDER_NOTHING);
    pool_return(&conn);
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer), 2);
    cr_expect_eq(STAT(pool, closed[POOL_CLOSE_DIRTY]), 1);
}

/* ---- time */

static int ask_in_vain(struct pool_conn *conn, void *user)
{
    char byte;

    (void)user;
    return say(conn, ORDER_NOTHING) && pool_recv_exact(conn, &byte, 1);
}

/* Other programs may take the processor away: what is late by itself is late each time. */
static void expect_exact(const char *address, uint32_t ms, enum pool_phase phase)
{
    enum pool_status expected =
        phase == POOL_PHASE_USE ? POOL_E_TIMEOUT_IN_TRANSFER : POOL_E_TIMEOUT;
    struct pool_error error = POOL_ERROR_INIT;
    bool is_exact = false;
    uint64_t start_ms;

    for (int i = 0; i < 3 && !is_exact; i++) {
        start_ms = now_ms();
        cr_expect_eq(pool_communicate(pool, address, ask_in_vain, NULL,
                                      POOL_CALL(.timeout_ms = ms, .error = &error)),
                     expected, "%s", error.text);
        is_exact = within(elapsed_ms(start_ms), ms, ms + 20, address);
        cr_expect_eq(error.phase, phase, "%s", error.text);
    }
    cr_expect(is_exact, "%u ms", ms);
}

static void expect_exact_times(void)
{
    START_PEER(.version = 0x0304);
    SECURE_POOL();
    expect_exact(secure_at(""), 100, POOL_PHASE_USE);
    expect_exact(secure_at(""), 333, POOL_PHASE_USE);
    expect_exact(secure_at(""), 1500, POOL_PHASE_USE);
}

Test(pool_secure, no_call_to_a_silent_peer_is_more_than_20_ms_late)
{
    expect_exact_times();
}

Test(pool_secure, signals_make_no_call_late)
{
    struct signal_storm *storm = start_signal_storm(1000);

    expect_exact_times();
    for (int i = 0; i < 200; i++)
        cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_gt(stop_signal_storm(storm), 0);
}

static int send_for_ever(struct pool_conn *conn, void *user)
{
    (void)user;
    cr_assert_geq(tls_peer_tell(tls_peer, ORDER_DEAF), 1);
    while (pool_send(conn, much, MIB) == POOL_OK)
        continue;
    return -1;
}

Test(pool_secure, sending_to_who_does_not_read_ends_in_time)
{
    struct pool_error error = POOL_ERROR_INIT;
    bool is_exact = false;
    uint64_t start_ms;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    for (int i = 0; i < 3 && !is_exact; i++) {
        start_ms = now_ms();
        cr_expect_eq(pool_communicate(pool, secure_at(""), send_for_ever, NULL,
                                      POOL_CALL(.timeout_ms = 333, .error = &error)),
                     POOL_E_TIMEOUT_IN_TRANSFER);
        is_exact = WITHIN(elapsed_ms(start_ms), 333, 353);
    }
    cr_expect(is_exact);
}

/* A peer that accepts and says nothing: the call's own end, and tls_ms. */
Test(pool_secure, a_handshake_that_stalls_ends_exactly)
{
    struct peer *silent = PEER(.behave = PEER_SILENT);
    const char *address = secure_address(peer_port(silent), "");

    SECURE_POOL();
    expect_exact(address, 333, POOL_PHASE_TLS);
    expect_exact(address, 100, POOL_PHASE_TLS);
    pool_destroy(pool);
    pool = NULL;
    peer_stop(silent);
}

Test(pool_secure, a_handshake_has_no_more_time_than_tls_ms)
{
    struct peer *silent = PEER(.behave = PEER_SILENT);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    bool is_exact = false;
    uint64_t start_ms;

    SECURE_POOL(.tls_ms = 250, .backoff_first_ms = 1);
    for (int i = 0; i < 3 && !is_exact; i++) {
        start_ms = now_ms();
        cr_expect_eq(pool_borrow(pool, secure_address(peer_port(silent), ""),
                                 POOL_CALL(.timeout_ms = 5000, .error = &error), &conn),
                     POOL_E_TIMEOUT, "%s", error.text);
        is_exact = WITHIN(elapsed_ms(start_ms), 250, 290);
        cr_expect_eq(error.phase, POOL_PHASE_TLS, "%s", error.text);
        cr_expect_eq(error.outcome, POOL_NOT_SENT, "%s", error.text);
    }
    cr_expect(is_exact);
    cr_expect(peer_wait_open(silent, 0, VERBS_SOON));
    pool_destroy(pool);
    pool = NULL;
    peer_stop(silent);
}

/* ---- ends */

Test(pool_secure, tls_ms_bounds_a_handshake_where_connecting_is_unbounded)
{
    struct peer *silent = PEER(.behave = PEER_SILENT);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;

    SECURE_POOL(.tls_ms = 250, .connect_ms = POOL_NONE, .backoff_first_ms = 1);
    cr_expect_eq(pool_borrow(pool, secure_address(peer_port(silent), ""),
                             POOL_CALL(.timeout_ms = 20000, .error = &error), &conn),
                 POOL_E_TIMEOUT, "%s", error.text);
    cr_expect_eq(error.phase, POOL_PHASE_TLS, "%s", error.text);
    cr_expect_lt(error.spent_ms[POOL_PHASE_TLS], 10000, "not the call's own time");
    pool_destroy(pool);
    pool = NULL;
    peer_stop(silent);
}

/* The least thing in a handshake that a test can make slow. */
static void take_time(const char *line, void *user)
{
    (void)line, (void)user;
    poll(NULL, 0, 30);
}

static int refuse(struct pool_conn *conn, void *user)
{
    (void)conn, (void)user;
    return 1;
}

Test(pool_secure, the_time_of_a_handshake_that_succeeded_is_told_by_itself)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_tls *slow;

    START_PEER(.version = 0x0304);
    cr_assert_eq(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate,
                                                  .key_log = take_time),
                                 &slow, NULL),
                 POOL_OK);
    pool = MAKE_POOL(.tls = slow);
    cr_expect_eq(pool_communicate(pool, secure_at(""), refuse, NULL, POOL_CALL(.error = &error)),
                 POOL_E_USER);
    cr_expect_geq(error.spent_ms[POOL_PHASE_TLS], 60, "%s", error.text);
    cr_expect_lt(error.spent_ms[POOL_PHASE_CONNECT], 60, "%s", error.text);
    cr_expect_eq(error.spent_ms[POOL_PHASE_RESOLVE], 0, "%s", error.text);
    pool_tls_free(slow);
}

/* ---- the system's store, which is large, and read when it is first needed */

static unsigned files_read;

static ssize_t read_slowly(const char *path, size_t most, char **text)
{
    (void)path, (void)most;
    files_read++;
    poll(NULL, 0, 100);
    *text = pl_os_real.malloc(strlen(authority->certificate) + 1);
    strcpy(*text, authority->certificate);
    return (ssize_t)strlen(*text);
}

Test(pool_secure, a_deadline_that_passes_while_the_systems_store_is_read_is_told_right_after)
{
    static struct pl_os os;
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    uint64_t start_ms;

    setenv("SSL_CERT_FILE", "/the/one", 1);
    setenv("SSL_CERT_DIR", "/none", 1);
    START_PEER(.version = 0x0304);
    os = pl_os_real;
    os.read_file = read_slowly;
    pl_os_replace(&os);
    pool = MAKE_POOL();
    start_ms = now_ms();
    cr_expect_eq(pool_borrow(pool, secure_at(""), POOL_CALL(.timeout_ms = 20, .error = &error),
                             &conn),
                 POOL_E_TIMEOUT, "%s", error.text);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 100));
    cr_expect_eq(STAT(pool, total), 0, "nothing was begun");
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(files_read, 1);
}

static enum pool_status receive_after(const char *text, struct pool_error *error)
{
    struct pool_conn conn = lend(secure_at(""));
    enum pool_status status;
    char byte;
    size_t got;

    cr_assert(say(&conn, text));
    status = pool_recv(&conn, &byte, 1, &got);
    *error = (struct pool_error)POOL_ERROR_INIT;
    cr_expect_eq(pool_conn_error(&conn, error), POOL_OK);
    pool_return(&conn);
    return status;
}

Test(pool_secure, an_end_without_farewell_is_no_end)
{
    static const int versions[] = { 0x0303, 0x0304 };
    struct pool_error error;

    for (int i = 0; i < 2; i++) {
        START_PEER(.version = versions[i]);
        SECURE_POOL();
        cr_expect_eq(receive_after(ORDER_GOODBYE, &error), POOL_E_CLOSED, "%s", error.text);
        cr_expect_eq(receive_after(ORDER_CUT, &error), POOL_E_BROKEN, "%s", error.text);
        cr_expect_eq(error.phase, POOL_PHASE_USE, "%s", error.text);
        cr_expect_eq(receive_after(ORDER_RESET, &error), POOL_E_BROKEN, "%s", error.text);
        cr_expect_eq(error.cause, ECONNRESET, "%s", error.text);
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_PEER]), 1);
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_ERROR]), 2);
        pool_destroy(pool);
        tls_peer_stop(tls_peer);
    }
    pool = NULL;
    tls_peer = NULL;
}

Test(pool_secure, a_record_cut_short_is_broken)
{
    struct pool_conn conn;
    char bytes[100];

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    conn = lend(secure_at(""));
    cr_assert(say(&conn, ORDER_HALF));
    cr_assert(say(&conn, ORDER_CUT));
    cr_expect_eq(pool_recv_exact(&conn, bytes, 1), POOL_E_BROKEN);
    pool_return(&conn);
}
