/* test_tls_ends.c: what ends a connection, what peers may try in vain, and what is seen of them on
 * a connection that nobody uses. SIGPIPE is as every program has it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/compiler.h"
#include "net/tls_stage.h"
#include "support/tests.h"

TestSuite(tls_ends, .init = tls_stage_begin, .fini = tls_stage_end);

/* ---- ends */

Test(tls_ends, close_notify_is_an_end_and_a_bare_end_is_a_cut)
{
    struct client client = OPEN(.version = 0);
    struct pl_failure failure;
    char byte;

    cr_assert(client_order(&client, ORDER_GOODBYE));
    cr_expect_eq(client_hear(&client, &byte, 1), 0);
    cr_expect_eq(client.error, 0);
    client_close(&client);
    client = client_open(peer, settings, NULL, "db.test");
    cr_assert(client_order(&client, ORDER_CUT));
    cr_expect_eq(client_hear(&client, &byte, 1), 0);
    cr_expect_eq(client.error, ECONNABORTED);
    failure = client_failure(&client, POOL_PHASE_USE);
    cr_expect_eq(failure.status, POOL_E_BROKEN);
    cr_expect_eq(failure.reason, PL_REASON_CUT);
    cr_expect_not_null(strstr(client_sentence(&client, POOL_PHASE_USE), "close_notify"));
    cr_expect_eq(client_hear(&client, &byte, 1), 0);
    cr_expect_eq(client.error, ECONNABORTED, "it stays so");
    client_close(&client);
}

/* HelloRequests, which OpenSSL skips for as long as there is one: who is no peer at all could keep
 * a thread for ever. */
Test(tls_ends, what_means_nothing_keeps_no_call)
{
    static const unsigned char nothing[9] = { 22, 3, 3, 0, 4 };
    struct pl_tls_wish wish = { .name = { "db.test", 7 } };
    struct pl_tls_settings *careless = SETTINGS(.insecure = true);
    struct pl_tls *tls;
    char greeting[4096];
    size_t sent = 0, left = 0;
    int ends[2];
    short wants;
    ssize_t size;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    cr_assert_eq(pl_tls_create(careless, NULL, &wish, &tls), 0);
    cr_expect_eq(pl_tls_handshake(tls, ends[0], &wants), -EAGAIN);
    cr_assert_gt(recv(ends[1], greeting, sizeof(greeting), 0), 0);
    for (char many[9 * 1800]; sent < 9 * 1800 * 10; sent += (size_t)size) {
        for (size_t at = 0; at < sizeof(many); at += sizeof(nothing))
            memcpy(many + at, nothing, sizeof(nothing));
        size = send(ends[1], many, sizeof(many), 0);
        cr_assert_eq(size, (ssize_t)sizeof(many));
    }
    cr_expect_eq(pl_tls_handshake(tls, ends[0], &wants), -EAGAIN);
    cr_expect_eq(wants, POLLIN);
    while ((size = recv(ends[0], greeting, sizeof(greeting), 0)) > 0)
        left += (size_t)size;
    cr_expect_gt(left, 0, "it is not done with all %zu bytes at once", sent);
    pl_tls_free(tls);
    pl_tls_settings_release(careless);
    close(ends[0]);
    close(ends[1]);
}

/* A reply of three records, cut at every byte. */
Test(tls_ends, a_stream_cut_at_any_byte_is_never_a_clean_end)
{
    struct client client;
    char back[64];
    size_t start, whole;

    peer = TLS_PEER(.credential = credential, .tickets = -1);
    for (size_t at = 0, end = 1; at < end; at++) {
        client = client_open(peer, settings, NULL, "db.test");
        start = door.read;
        door.end_after = start + at;
        cr_assert(client_say(&client, "the first of them", 17));
        whole = client_hear(&client, back, 17);
        if (whole == 17) {
            cr_expect_eq(client_hear(&client, back, 1), 0);
            end = 0;
        }
        cr_expect_eq(client.error, ECONNABORTED, "cut after %zu bytes", at);
        if (end)
            end = at + 2;
        client_close(&client);
        door.end_after = SIZE_MAX;
        cr_assert_lt(at, TLS_PEER_MOST - 2);
    }
}

Test(tls_ends, resets_and_dead_sockets_are_errnos_and_no_signal)
{
    struct client client = OPEN(.version = 0);
    struct pl_failure failure;
    char byte;

    cr_assert(client_order(&client, ORDER_RESET));
    cr_expect_eq(client_hear(&client, &byte, 1), 0);
    cr_expect_eq(client.error, ECONNRESET);
    failure = client_failure(&client, POOL_PHASE_USE);
    cr_expect_eq(failure.status, POOL_E_BROKEN);
    cr_expect_eq(failure.cause, ECONNRESET);
    cr_expect_not(client_say(&client, "x", 1));
    cr_expect_eq(client.error, EPIPE);
    pl_tls_shutdown(client.tls, client.fd);
    client_close(&client);
}

Test(tls_ends, an_end_in_the_handshake_is_told_as_such)
{
    struct client client;

    peer = TLS_PEER(.credential = credential, .ends_in_handshake = true);
    client = client_dial(peer, settings, NULL, "db.test");
    cr_expect_eq(client_shake(&client), ECONNABORTED);
    cr_expect_eq(client_failure(&client, POOL_PHASE_TLS).status, POOL_E_TLS);
    cr_expect_eq(client_failure(&client, POOL_PHASE_TLS).reason, PL_REASON_NO_HANDSHAKE);
    client_close(&client);
}

Test(tls_ends, a_peer_that_speaks_no_tls_fails_the_handshake)
{
    int ends[2];
    struct pl_tls_wish wish = { .name = { "db.test", 7 } };
    struct client client = { 0 };

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    client.fd = ends[0];
    cr_assert_eq(pl_tls_create(settings, NULL, &wish, &client.tls), 0);
    cr_assert(write_exactly(ends[1], "220 welcome to smtp\r\n", 21, SOON));
    cr_expect_eq(client_shake(&client), EPROTO);
    cr_expect_eq(client_failure(&client, POOL_PHASE_TLS).status, POOL_E_TLS);
    cr_expect_not_null(strstr(client_sentence(&client, POOL_PHASE_TLS), "wrong version number"),
                       "%s", client_sentence(&client, POOL_PHASE_TLS));
    client_close(&client);
    close(ends[1]);
}

Test(tls_ends, goodbye_is_said_once_and_the_peer_hears_it)
{
    struct client client = OPEN(.version = 0);
    char byte;

    door.calls = 0;
    pl_tls_shutdown(client.tls, client.fd);
    pl_tls_shutdown(client.tls, client.fd);
    cr_expect_eq(door.calls, 1);
    cr_expect_eq(client_hear(&client, &byte, 1), 0);
    cr_expect_not(client_say(&client, "x", 1));
    cr_expect_eq(client.error, EPIPE);
    client_close(&client);
}

/* ---- what peers may try */

Test(tls_ends, a_request_to_negotiate_again_is_turned_down)
{
    struct client client = OPEN(.version = TLS1_2_VERSION);
    char back[5];

    cr_assert(client_order(&client, ORDER_RENEGOTIATE));
    cr_expect_eq(client_hear(&client, back, 5), 5);
    cr_expect_arr_eq(back, "asked", 5);
    cr_expect_not(client_echo(&client, "x"), "that peer takes a refusal amiss");
    client_close(&client);
}

Test(tls_ends, nobody_gets_our_certificate_after_the_handshake)
{
    struct client client = OPEN(.version = TLS1_3_VERSION);
    char byte;

    cr_assert(client_order(&client, ORDER_WHO));
    cr_expect_eq(client_hear(&client, &byte, 1), 0);
    cr_expect_str_eq(tls_peer_client(peer), "");
    client_close(&client);
}

Test(tls_ends, a_client_that_must_have_a_certificate_and_has_none_learns_that)
{
    struct client client;
    char byte;

    peer = TLS_PEER(.credential = credential, .client_ca = authority->certificate,
                    .version = TLS1_3_VERSION);
    client = client_dial(peer, settings, NULL, "db.test");
    cr_assert_eq(client_shake(&client), 0, "in TLS 1.3 the client is done before it is refused");
    cr_expect_eq(client_hear(&client, &byte, 1), 0);
    cr_expect_eq(client_failure(&client, POOL_PHASE_USE).status, POOL_E_TLS);
    cr_expect_eq(client_failure(&client, POOL_PHASE_USE).reason, PL_REASON_ALERT);
    cr_expect_not_null(strstr(client_sentence(&client, POOL_PHASE_USE), "certificate required"),
                       "%s", client_sentence(&client, POOL_PHASE_USE));
    client_close(&client);
}

/* ---- looking at one that nobody uses */

Test(tls_ends, tickets_and_key_updates_are_swallowed_and_data_and_ends_are_seen)
{
    static const int tickets[] = { -1, 1, 0, 8 };

    for (size_t i = 0; i < PL_COUNT(tickets); i++) {
        struct client client = OPEN(.version = TLS1_3_VERSION, .tickets = tickets[i]);

        cr_assert(client_echo(&client, "x"));
        for (unsigned turn = 0; turn < 3; turn++) {
            cr_assert(client_order(&client, turn % 2 ? ORDER_TICKET : ORDER_KEY_UPDATE));
            cr_assert(is_readable(&client));
            cr_expect_eq(pl_tls_peek(client.tls, client.fd), PL_TLS_QUIET);
            cr_expect_eq(pl_tls_peek(client.tls, client.fd), PL_TLS_QUIET);
        }
        cr_expect(client_echo(&client, "y"));
        cr_assert(client_say(&client, "unasked", 7));
        cr_expect_eq(look_until_it_is_not(&client, PL_TLS_QUIET), PL_TLS_DATA);
        cr_expect(pl_tls_pending(client.tls));
        cr_expect(client_hear(&client, (char[7]){ 0 }, 7) == 7, "it took nothing out");
        cr_assert(client_order(&client, ORDER_GOODBYE));
        cr_expect_eq(look_until_it_is_not(&client, PL_TLS_QUIET), PL_TLS_ENDED);
        client_close(&client);
        tls_peer_stop(peer);
        peer = NULL;
    }
}

Test(tls_ends, a_cut_and_half_a_record_are_seen)
{
    struct client client = OPEN(.version = 0);

    cr_assert(client_order(&client, ORDER_CUT));
    cr_expect_eq(look_until_it_is_not(&client, PL_TLS_QUIET), PL_TLS_ENDED);
    client_close(&client);
    client = client_open(peer, settings, NULL, "db.test");
    cr_assert(client_echo(&client, "x"));
    cr_assert(client_order(&client, ORDER_HALF));
    cr_expect_eq(look_until_it_is_not(&client, PL_TLS_QUIET), PL_TLS_HALF);
    client_close(&client);
}

/* The head of a record may come alone. */
Test(tls_ends, the_head_of_a_record_is_half_of_one)
{
    struct client client = OPEN(.tickets = -1);

    cr_assert(client_echo(&client, "x"));
    cr_expect_eq(pl_tls_peek(client.tls, client.fd), PL_TLS_QUIET);
    cr_assert(client_order(&client, ORDER_HALF));
    cr_assert(is_readable(&client));
    for (size_t size = 1, start = door.read; size < 9; size++) {
        door.arrived = start + size;
        cr_expect_eq(pl_tls_peek(client.tls, client.fd), PL_TLS_HALF, "%zu", size);
    }
    client_close(&client);
}
