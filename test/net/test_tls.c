/* test_tls.c: bytes over TLS, one step at a time: what each call answers, and that nothing
 * of OpenSSL's reaches the program. */
#include "net/tls.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "net/tls_stage.h"
#include "support/tests.h"

#define STRANGE 12345 /* no errno of any call */

TestSuite(tls, .init = tls_stage_begin, .fini = tls_stage_end);

static char alphabet_at(size_t at)
{
    return (char)('a' + at % 26);
}

static bool hear_flood(struct client *client, size_t bite)
{
    char bytes[PL_TLS_RECORD];

    for (size_t have = 0, size; have < FLOOD_SIZE; have += size) {
        size = FLOOD_SIZE - have < bite ? FLOOD_SIZE - have : bite;
        if (client_hear(client, bytes, size) != size)
            return false;
        for (size_t i = 0; i < size; i++) {
            if (bytes[i] != alphabet_at(have + i))
                return false;
        }
    }
    return true;
}

/* ---- agreement */

Test(tls, both_versions_work_and_tell_what_was_agreed_on)
{
    static const struct {
        int version;
        const char *name;
    } versions[] = { { TLS1_2_VERSION, "TLSv1.2" }, { TLS1_3_VERSION, "TLSv1.3" } };
    struct pl_tls_facts facts;

    for (size_t i = 0; i < PL_COUNT(versions); i++) {
        struct client client = OPEN(.version = versions[i].version);

        cr_expect(client_echo(&client, "hello"));
        cr_assert(pl_tls_tell(client.tls, &facts));
        cr_expect_str_eq(facts.version, versions[i].name);
        cr_expect(strlen(facts.cipher) > 5);
        cr_expect_str_eq(facts.peer_name, "db.test");
        cr_expect_null(facts.alpn);
        cr_expect_not(facts.is_resumed);
        client_close(&client);
        tls_peer_stop(peer);
        peer = NULL;
    }
}

Test(tls, older_versions_are_refused)
{
    struct client client;

    peer =
        TLS_PEER(.credential = credential, .version = TLS1_1_VERSION, .ciphers = "ALL:@SECLEVEL=0");
    client = client_dial(peer, settings, NULL, "db.test");
    cr_expect_eq(client_shake(&client), EPROTO);
    cr_expect_eq(client_failure(&client, POOL_PHASE_TLS).status, POOL_E_TLS);
    client_close(&client);
}

static int shake_with_alpn(const char *offered, const char *chosen, const char *liar)
{
    struct pl_tls_wish wish = { { "db.test", 7 }, { offered, strlen(offered) } };
    struct client client = { 0 };
    struct pl_tls_facts facts;
    int error;

    peer = TLS_PEER(.credential = credential, .alpn = chosen, .liar = liar);
    client.fd = tls_peer_dial(peer);
    cr_assert_eq(pl_tls_create(settings, NULL, &wish, &client.tls), 0);
    error = client_shake(&client);
    if (!error && pl_tls_tell(client.tls, &facts) && chosen) {
        cr_assert_not_null(facts.alpn);
        cr_expect_str_eq(facts.alpn, chosen);
    }
    if (error)
        cr_expect_eq(client_failure(&client, POOL_PHASE_TLS).status, POOL_E_TLS);
    client_close(&client);
    tls_peer_stop(peer);
    peer = NULL;
    return error;
}

Test(tls, the_protocol_agreed_on_is_one_that_was_offered)
{
    cr_expect_eq(shake_with_alpn("h2,http/1.1", "http/1.1", NULL), 0);
    cr_expect_eq(shake_with_alpn("h2", NULL, NULL), 0);
    cr_expect_eq(shake_with_alpn("h2", "spdy", NULL), EPROTO);
    cr_expect_eq(shake_with_alpn("h2", NULL, "http/1.1"), EPROTO, "chosen, but never offered");
}

/* ---- bytes */

Test(tls, a_long_stream_is_whole_in_bites_of_any_size)
{
    static const size_t bites[] = { 1, 1000, 1024, PL_TLS_RECORD };
    struct client client = OPEN(.version = 0);

    for (size_t i = bites[0] == 1 && slowness() > 1; i < PL_COUNT(bites); i++) {
        cr_assert(client_order(&client, ORDER_FLOOD));
        cr_expect(hear_flood(&client, bites[i]), "bites of %zu", bites[i]);
    }
    client_close(&client);
}

Test(tls, a_door_that_moves_single_bytes_and_often_nothing_changes_no_byte)
{
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    char big[3000], back[3000];

    for (size_t i = 0; i < sizeof(big); i++)
        big[i] = alphabet_at(i);
    for (size_t i = 0; i < PL_COUNT(versions); i++) {
        struct client client;

        door.most = 1;
        door.refuse = 20;
        client = OPEN(.version = versions[i]);
        cr_assert(client_say(&client, big, sizeof(big)));
        cr_assert_eq(client_hear(&client, back, sizeof(back)), sizeof(back));
        cr_expect_arr_eq(big, back, sizeof(big));
        cr_expect(client_order(&client, ORDER_KEY_UPDATE) || versions[i] == TLS1_2_VERSION);
        if (versions[i] == TLS1_3_VERSION)
            cr_expect(client_echo(&client, "after the key update"));
        cr_expect_gt(door.calls, 6000);
        client_close(&client);
        tls_peer_stop(peer);
        peer = NULL;
    }
}

Test(tls, small_pieces_travel_in_one_record)
{
    struct client client = OPEN(.version = 0);
    struct iovec pieces[100];
    char text[] = "ab", back[200];
    short wants;

    for (size_t i = 0; i < PL_COUNT(pieces); i++)
        pieces[i] = (struct iovec){ text, i % 3 ? 2 : 0 };
    door.calls = 0;
    cr_expect_eq(pl_tls_send(client.tls, client.fd, pieces, 100, &wants), 132);
    cr_expect_eq(door.calls, 1);
    cr_expect_eq(client_hear(&client, back, 132), 132);
    cr_expect_eq(pl_tls_send(client.tls, client.fd, pieces, 1, &wants), 0, "nothing to send");
    cr_expect_eq(pl_tls_send(client.tls, client.fd, pieces, 0, &wants), 0);
    client_close(&client);
}

/* The socket takes `room` bytes of a record of `size` and no more, for now. */
static void send_into(size_t room, size_t size)
{
    struct client client = OPEN(.version = 0);
    char bytes[PL_TLS_RECORD], back[PL_TLS_RECORD], other[] = "!";
    struct iovec piece = { bytes, size };
    size_t done = 0;
    ssize_t sent;
    short wants;

    for (size_t i = 0; i < size; i++)
        bytes[i] = alphabet_at(i);
    door.room = room;
    sent = pl_tls_send(client.tls, client.fd, &piece, 1, &wants);
    cr_expect(pl_tls_is_unsent(client.tls));
    cr_expect_eq(sent, size > 1 ? (ssize_t)size - 1 : -EAGAIN);
    done = sent > 0 ? (size_t)sent : 0;
    piece = (struct iovec){ bytes + done, size - done };
    cr_expect_eq(pl_tls_send(client.tls, client.fd, &piece, 1, &wants), -EAGAIN);
    cr_expect_eq(wants, POLLOUT);
    door.room = SIZE_MAX;
    cr_expect_eq(pl_tls_send(client.tls, client.fd, &(struct iovec){ other, 1 }, 1, &wants),
                 -EINVAL, "another byte than the one that must follow");
    cr_expect(client_say(&client, bytes + done, size - done));
    cr_expect_not(pl_tls_is_unsent(client.tls));
    cr_expect_eq(client_hear(&client, back, size), size);
    cr_expect_arr_eq(bytes, back, size);
    client_close(&client);
    tls_peer_stop(peer);
    peer = NULL;
}

Test(tls, what_is_reported_as_sent_is_followed_by_something_until_all_is_with_the_socket)
{
    send_into(0, 1);
    send_into(5, 1);
    send_into(0, 100);
    send_into(50, 100);
    send_into(16000, PL_TLS_RECORD);
}

Test(tls, what_lies_inside_is_pending_and_what_only_the_socket_knows_is_not)
{
    struct client client = OPEN(.tickets = -1);
    char bytes[1024];
    short wants;
    ssize_t got;

    cr_expect_not(pl_tls_pending(client.tls));
    cr_assert(client_order(&client, ORDER_FLOOD));
    for (size_t have = 0; have<FLOOD_SIZE; have += got> 0 ? (size_t)got : 0) {
        got = pl_tls_recv(client.tls, client.fd, (struct iovec){ bytes, 100 }, &wants);
        if (got == -EAGAIN) {
            cr_expect_not(pl_tls_pending(client.tls), "it was said that there is nothing");
            cr_assert(is_readable(&client));
        } else {
            cr_assert_gt(got, 0);
        }
    }
    cr_expect_not(pl_tls_pending(client.tls));
    client_close(&client);
}

/* What is sent first is the answer to a KeyUpdate, and until it has left, OpenSSL gives nothing out
 * either. */
Test(tls, what_lies_inside_stays_pending_when_receiving_has_to_wait_for_room_to_send)
{
    struct client client = OPEN(.version = TLS1_3_VERSION, .tickets = -1);
    static const int three_records = 3 * 27;
    struct iovec piece = { (char *)"x", 1 };
    char bytes[8];
    struct iovec into = { bytes, sizeof(bytes) };
    short wants;

    tls_peer_tell(peer, ORDER_KEY_UPDATE);
    tls_peer_tell(peer, ORDER_PUSH);
    tls_peer_tell(peer, ORDER_PUSH);
    setsockopt(client.fd, SOL_SOCKET, SO_RCVLOWAT, &three_records, sizeof(three_records));
    cr_assert(is_readable(&client));
    cr_assert_eq(pl_tls_recv(client.tls, client.fd, into, &wants), 5);
    cr_assert(pl_tls_pending(client.tls));
    door.room = 0;
    cr_assert_eq(pl_tls_send(client.tls, client.fd, &piece, 1, &wants), -EAGAIN);
    cr_assert_eq(pl_tls_recv(client.tls, client.fd, into, &wants), -EAGAIN);
    cr_expect_eq(wants, POLLOUT);
    cr_expect(pl_tls_pending(client.tls));
    cr_expect_eq(pl_tls_peek(client.tls, client.fd), PL_TLS_HALF);
    cr_expect(pl_tls_pending(client.tls));
    door.room = SIZE_MAX;
    cr_assert_eq(pl_tls_send(client.tls, client.fd, &piece, 1, &wants), 1);
    cr_expect(pl_tls_pending(client.tls), "the socket will not say that it is there");
    cr_expect_eq(pl_tls_recv(client.tls, client.fd, into, &wants), 5);
    client_close(&client);
}

/* ---- the program's own things */

Test(tls, errno_and_the_threads_queue_of_errors_are_left_alone)
{
    struct client client = OPEN(.version = 0);
    short wants;
    char byte;

    ERR_put_error(ERR_LIB_USER, 0, 1, "stale", 1);
    errno = STRANGE;
    cr_expect_eq(pl_tls_send(client.tls, client.fd, &(struct iovec){ (char *)"x", 1 }, 1, &wants),
                 1);
    cr_assert(is_readable(&client));
    errno = STRANGE;
    ERR_put_error(ERR_LIB_USER, 0, 1, "stale", 1);
    while (pl_tls_recv(client.tls, client.fd, (struct iovec){ &byte, 1 }, &wants) == -EAGAIN)
        cr_assert(is_readable(&client));
    cr_expect_eq(byte, 'x', "a stale error is none of ours");
    ERR_put_error(ERR_LIB_USER, 0, 1, "stale", 1);
    errno = STRANGE;
    cr_expect_eq(pl_tls_recv(client.tls, client.fd, (struct iovec){ &byte, 1 }, &wants), -EAGAIN);
    cr_expect_eq(errno, STRANGE);
    cr_expect_eq(ERR_peek_error(), 0);
    client_close(&client);
}

static struct {
    struct client *client;
    unsigned lines;
    bool is_free;
} log_seen;

static void on_secret(const char *line, void *user)
{
    (void)user;
    log_seen.lines += strncmp(line, "CLIENT_", 7) == 0 || strncmp(line, "SERVER_", 7) == 0;
    /* It would wait for ever if the lock were held. */
    log_seen.is_free |= log_seen.client && !pl_tls_pending(log_seen.client->tls);
}

Test(tls, secrets_are_told_only_when_asked_for_and_without_a_lock)
{
    struct pl_tls_settings *logging =
        SETTINGS(.ca_pem = authority->certificate, .key_log = on_secret);
    struct client client = OPEN(.version = TLS1_3_VERSION);

    cr_expect_null(SSL_CTX_get_keylog_callback(settings->context));
    client_close(&client);
    client = client_dial(peer, logging, NULL, "db.test");
    log_seen.client = &client;
    cr_expect_eq(client_shake(&client), 0);
    cr_expect_geq(log_seen.lines, 4);
    cr_expect(log_seen.is_free);
    client_close(&client);
    pl_tls_settings_release(logging);
}

Test(tls, no_handshake_opens_a_file)
{
    struct pl_tls_settings *of_system = SETTINGS();
    struct client client;
    int before;

    cr_expect_gt(door.files, 0, "the system's store was read when the settings were made");
    door.files = 0;
    before = count_descriptors();
    client = OPEN(.version = 0);
    cr_expect(client_echo(&client, "x"));
    cr_expect_eq(door.files, 0);
    client_close(&client);
    client = client_dial(peer, of_system, NULL, "db.test");
    cr_expect_eq(client_shake(&client), EPROTO, "the system does not know our authority");
    cr_expect_eq(door.files, 0);
    client_close(&client);
    tls_peer_stop(peer);
    peer = NULL;
    cr_expect_eq(count_descriptors(), before);
    pl_tls_settings_release(of_system);
}

/* ---- two threads */

#define SHARED_ROUNDS 300

struct shared {
    struct client client;
    atomic_bool is_good;
};

/* One writes and one reads, while the peer changes its keys again and again. */
static void use_both_ways(unsigned index, void *argument)
{
    struct shared *shared = argument;
    struct client own = shared->client;
    bool is_good = true;

    for (unsigned round = 0; round < SHARED_ROUNDS && is_good; round += index ? 100 : 1)
        is_good = index ? hear_flood(&own, 1000)
                        : client_order(&own, round % 100 ? ORDER_NOTHING : ORDER_FLOOD);
    if (!is_good)
        atomic_store(&shared->is_good, false);
}

Test(tls, one_thread_may_write_while_another_reads_and_keys_change)
{
    struct shared shared = { .client = OPEN(.version = TLS1_3_VERSION), .is_good = true };

    cr_assert(run_threads(2, use_both_ways, &shared));
    cr_expect(atomic_load(&shared.is_good));
    client_close(&shared.client);
}
