/* test_race.c: one dial and several places: which is tried when, who wins, and that the losers
 * leave nothing behind. The door leads each place, 127.0.0.<n>, to the peer that the test chose for
 * it. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "net/address.h"
#include "net/dialer.h"
#include "net/tls_client.h"
#include "support/peer.h"
#include "support/tests.h"

#define STAGGER_MS (PL_STAGGER_NS / PL_MS)

enum fate { ANSWERS, REFUSES, IS_SILENT, IS_UNREACHABLE, LACKS, STALLS, IS_SECURE, IS_IMPOSTOR };

static struct pool_mux *mux;
static struct pl_os os;
static struct peer *good, *gone, *silent, *stalling;
static struct tls_peer *secure, *impostor;
static struct credential *authority, *credential;
static struct pl_tls_settings *settings; /* NULL: nothing is secured */
static enum fate fates[16];
static struct pl_dial dial;
static struct pl_grudges grudges;
static uint32_t tls_ms = SOON;
static int descriptors;
static unsigned ends, rooms;
static int end_error;
static uint64_t begun_ns, ended_ns;
static char tried[64]; /* the last bytes of the places, in order */
static bool is_over;

/* ---- the door */

static int connect_by_fate(int fd, const struct sockaddr *address, socklen_t size)
{
    struct sockaddr_in place = *(const struct sockaddr_in *)address;
    unsigned number = ntohl(place.sin_addr.s_addr) & 0xff;
    size_t length = strlen(tried);

    cr_assert_lt(number, PL_COUNT(fates));
    cr_assert_eq(ntohs(place.sin_port), 7777, "the port is the address's");
    snprintf(tried + length, sizeof(tried) - length, "%s%u", length ? " " : "", number);
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    switch (fates[number]) {
    case IS_UNREACHABLE:
        return -ENETUNREACH;
    case LACKS:
        return -EADDRNOTAVAIL;
    case ANSWERS:
        place.sin_port = htons((in_port_t)peer_port(good));
        break;
    case REFUSES:
        place.sin_port = htons((in_port_t)peer_port(gone));
        break;
    case IS_SILENT:
        place.sin_port = htons((in_port_t)peer_port(silent));
        break;
    case STALLS:
        place.sin_port = htons((in_port_t)peer_port(stalling));
        break;
    case IS_SECURE:
        place.sin_port = htons((in_port_t)tls_peer_port(secure));
        break;
    case IS_IMPOSTOR:
        place.sin_port = htons((in_port_t)tls_peer_port(impostor));
        break;
    }
    return pl_os_real.connect(fd, (struct sockaddr *)&place, size);
}

/* ---- the dial's surroundings */

static void on_watch(struct pool_mux *of, uint32_t index, uint32_t birth, uint32_t events)
{
    struct pl_connection *connection = pl_connection_at(index);

    (void)of, (void)events;
    if (pl_get(connection->birth) == birth && connection->dial)
        pl_dial_on_event(connection->dial, connection);
}

static void on_end(struct pl_dial *ended, int error)
{
    cr_assert_eq(ended, &dial);
    ended_ns = pl_os->now_ns();
    ends++;
    end_error = error;
}

static int on_socket(struct pl_dial *asked, int fd)
{
    (void)asked, (void)fd;
    return 0;
}

static bool make_room(struct pl_dial *of)
{
    (void)of;
    if (!rooms)
        return false;
    if (!--rooms)
        fates[1] = ANSWERS;
    return true;
}

static bool may_go_on(struct pl_dial *of)
{
    (void)of;
    return !is_over;
}

static const struct pl_dial_ops ops = {
    .on_socket = on_socket, .make_room = make_room, .may_go_on = may_go_on, .on_end = on_end
};

static void begin(void)
{
    os = pl_os_real;
    os.connect = connect_by_fate;
    pl_os_replace(&os);
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    atomic_store(&mux->on_watch[PL_WATCH_CONNECTION], on_watch);
    good = PEER(.own_process = true);
    gone = PEER(.own_process = true);
    silent = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
    cr_assert(good && gone && silent);
    peer_down(gone);
}

static void end(void)
{
    tls_peer_stop(impostor);
    tls_peer_stop(secure);
    pl_tls_settings_release(settings);
    credential_free(credential);
    credential_free(authority);
    if (stalling)
        peer_stop(stalling);
    peer_stop(silent);
    peer_stop(gone);
    peer_stop(good);
    pool_mux_destroy(mux);
}

TestSuite(race, .init = begin, .fini = end, .timeout = 60);

static void add(const char *numbers)
{
    union pl_ip places[16] = { 0 };
    uint32_t count = 0;
    unsigned number;
    int length;

    for (; sscanf(numbers, "%u%n", &number, &length) == 1; numbers += length) {
        places[count].ipv4.sin_family = AF_INET;
        places[count++].ipv4.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + number);
    }
    cr_assert_eq(pl_dial_add_places(&dial, places, count), 0);
}

static void start(const char *numbers, uint32_t timeout_ms)
{
    struct pool_address *address;

    cr_assert_eq(pool_address_parse(settings ? "tls://127.0.0.1:7777" : "tcp://127.0.0.1:7777",
                                    &address, NULL),
                 POOL_OK);
    begun_ns = pl_os->now_ns();
    dial = (struct pl_dial){ .connection = pl_connection_take(),
                             .mux = mux,
                             .address = address,
                             .ops = &ops,
                             .grudges = &grudges,
                             .tls = settings ? pl_tls_settings_keep(settings) : NULL,
                             .tls_ns = tls_ms * PL_MS,
                             .deadline_ns = pl_os->now_ns() + timeout_ms * PL_MS };
    dial.connection->mux = mux;
    dial.connection->dial = &dial;
    cr_assert(pl_dial_open(&dial));
    descriptors = count_descriptors();
    ends = 0;
    *tried = '\0';
    add(numbers);
    pl_dial_start(&dial);
}

/* Dispatches until the dial has ended; answers its errno. */
static int outcome(void)
{
    while (!ends)
        cr_assert_eq(pool_mux_dispatch(mux, SOON), POOL_OK);
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_assert_eq(ends, 1);
    return end_error;
}

/* The race is won, and these places were tried, in that order. */
static void expect_won(const char *order)
{
    cr_expect_eq(outcome(), 0);
    cr_expect_str_eq(tried, order);
}

static uint64_t spent_ms(void)
{
    return (ended_ns - begun_ns) / PL_MS;
}

static void expect_spent(uint64_t ms, uint64_t slack_ms)
{
    cr_expect(WITHIN(spent_ms(), ms, ms + slack_ms), "%d ms", (int)spent_ms());
}

static bool is_all_closed(void *unused)
{
    (void)unused;
    return count_descriptors() == descriptors;
}

/* A peer that speaks TLS is of this process, and closes its own ends when ours are. */
static void drop(void)
{
    pl_dial_close(&dial);
    pl_connection_close_fd(dial.connection, mux);
    pool_address_unref((struct pool_address *)(uintptr_t)dial.address);
    cr_expect(wait_until(is_all_closed, NULL, settings ? SOON : 0),
              "the losers left something open");
}

/* The connection has the winner's socket, and all that proves it. */
static void expect_connected(void)
{
    cr_expect_eq(count_descriptors(), descriptors + 1, "the losers are closed at once");
    cr_expect(pl_connection_is_ours(dial.connection));
    cr_expect_eq(pl_fd_table_get(dial.connection->fd), dial.connection);
    cr_assert_eq(send(dial.connection->fd, "x", 1, MSG_NOSIGNAL), 1);
    cr_expect_eq(listen_to(dial.connection->fd, SOON), HEARD_BYTES);
}

static int port_of_peer(int fd)
{
    struct sockaddr_in there;
    socklen_t size = sizeof(there);

    cr_assert_eq(getpeername(fd, (struct sockaddr *)&there, &size), 0);
    return ntohs(there.sin_port);
}

/* ---- the order */

Test(race, a_refusal_brings_the_next_place_at_once)
{
    fates[1] = fates[2] = REFUSES;
    start("1 2 3", SOON);
    expect_won("1 2 3");
    cr_expect_lt(spent_ms(), STAGGER_MS);
    expect_connected();
    drop();
}

Test(race, a_place_that_is_silent_is_passed_after_the_stagger_and_closed)
{
    fates[1] = IS_SILENT;
    start("1 2", SOON);
    expect_won("1 2");
    expect_spent(STAGGER_MS, 50);
    expect_connected();
    drop();
}

Test(race, a_failure_beside_a_silent_place_lets_the_next_one_begin_at_once)
{
    fates[1] = IS_SILENT;
    fates[2] = REFUSES;
    start("1 2 3", SOON);
    expect_won("1 2 3");
    expect_spent(STAGGER_MS, 50);
    drop();
}

Test(race, the_first_place_wins_when_it_answers_first)
{
    start("1 2", SOON);
    expect_won("1");
    expect_connected();
    drop();
}

Test(race, what_failed_or_was_too_slow_is_tried_last_the_next_time)
{
    fates[1] = IS_SILENT;
    fates[2] = REFUSES;
    start("1 2 3", SOON);
    expect_won("1 2 3");
    drop();
    start("1 2 3", SOON);
    expect_won("3");
    cr_expect_lt(spent_ms(), STAGGER_MS);
    drop();
}

Test(race, places_that_come_later_join_the_race)
{
    fates[1] = IS_SILENT;
    start("1", SOON);
    add("2 1 3");
    cr_assert_eq(ends, 0);
    pl_dial_go_on(&dial);
    expect_won("1 2");
    expect_connected();
    drop();
}

/* ---- all fail */

Test(race, when_all_fail_the_most_telling_error_is_told)
{
    fates[1] = REFUSES;
    fates[2] = IS_UNREACHABLE;
    start("1 2", SOON);
    cr_expect_eq(outcome(), ECONNREFUSED);
    cr_expect_str_eq(tried, "1 2");
    cr_expect_eq(dial.connection->fd, -1);
    drop();
}

Test(race, the_deadline_ends_all_attempts)
{
    fates[1] = fates[2] = fates[3] = IS_SILENT;
    start("1 2 3", STAGGER_MS * 2 + 300);
    cr_expect_eq(outcome(), ETIMEDOUT);
    cr_expect_eq(dial.reason, PL_REASON_DEADLINE);
    cr_expect_str_eq(tried, "1 2 3");
    expect_spent(STAGGER_MS * 2 + 300, 20);
    cr_expect_eq(dial.connection->fd, -1);
    drop();
}

Test(race, every_place_is_tried_although_many_are_silent)
{
    for (unsigned i = 1; i <= PL_ATTEMPTS + 1; i++)
        fates[i] = IS_SILENT;
    start("1 2 3 4 5 6 7 8", SOON);
    expect_won("1 2 3 4 5 6 7 8");
    expect_connected();
    drop();
}

/* ---- the race goes on through the handshake */

static void begin_secure(void)
{
    authority = CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "IP:127.0.0.1");
    settings = SETTINGS(.ca_pem = authority->certificate);
    secure = TLS_PEER(.credential = credential);
    stalling = PEER(.behave = PEER_SILENT, .own_process = true);
    cr_assert(settings && secure && stalling);
}

static void begin_impostor(void)
{
    struct credential *bad = CREDENTIAL(NULL, .names = "IP:127.0.0.1");

    impostor = TLS_PEER(.credential = bad);
    cr_assert_not_null(impostor);
    credential_free(bad);
}

Test(race, a_handshake_that_hangs_is_given_up_by_itself_and_the_next_place_begins_at_once)
{
    begin_secure();
    fates[1] = STALLS;
    fates[2] = IS_SECURE;
    tls_ms = STAGGER_MS / 2;
    start("1 2", SOON);
    cr_expect_eq(outcome(), 0);
    cr_expect_str_eq(tried, "1 2");
    expect_spent(tls_ms, STAGGER_MS - tls_ms);
    cr_expect(pl_connection_is_ours(dial.connection));
    drop();
}

Test(race, each_handshake_has_time_of_its_own)
{
    begin_secure();
    fates[1] = fates[2] = STALLS;
    tls_ms = STAGGER_MS + 100;
    start("1 2", SOON);
    cr_expect_eq(outcome(), ETIMEDOUT);
    cr_expect_eq(dial.reason, PL_REASON_DEADLINE);
    cr_expect_eq(dial.phase, POOL_PHASE_TLS);
    expect_spent(STAGGER_MS + tls_ms, 50);
    drop();
}

Test(race, the_deadline_for_connecting_ends_no_handshake_and_begins_nothing)
{
    begin_secure();
    fates[1] = STALLS;
    fates[2] = IS_SILENT;
    tls_ms = STAGGER_MS + 400;
    start("1 2 3", STAGGER_MS + 200);
    cr_expect_eq(outcome(), ETIMEDOUT);
    cr_expect_eq(dial.phase, POOL_PHASE_TLS);
    cr_expect_str_eq(tried, "1 2");
    expect_spent(tls_ms, 50);
    drop();
}

Test(race, a_handshake_goes_on_when_those_who_only_connect_have_had_their_time)
{
    static uint32_t no_time = 1;

    begin_secure();
    fates[1] = IS_SECURE;
    start("1", SOON);
    while (!dial.attempts[0].is_securing)
        cr_assert_eq(pool_mux_dispatch(mux, SOON), POOL_OK);
    dial.deadline_ns = no_time;
    cr_expect_eq(outcome(), 0);
    drop();
}

Test(race, a_place_whose_certificate_is_refused_loses_against_one_that_is_slower)
{
    begin_secure();
    begin_impostor();
    fates[1] = IS_IMPOSTOR;
    fates[2] = IS_SECURE;
    start("1 2", SOON);
    cr_expect_eq(outcome(), 0);
    cr_expect_str_eq(tried, "1 2");
    cr_expect_eq(tls_peer_accepted(impostor), 1);
    cr_expect_eq(tls_peer_port(secure), port_of_peer(dial.connection->fd));
    drop();
}

/* Whatever else fails, before or after. */
Test(race, a_refused_certificate_is_what_is_told_of_a_race)
{
    static const enum fate others[] = { REFUSES, IS_UNREACHABLE, STALLS, IS_SILENT };

    begin_secure();
    begin_impostor();
    tls_ms = STAGGER_MS;
    for (size_t i = 0; i < PL_COUNT(others) * 2; i++) {
        fates[1 + i % 2] = IS_IMPOSTOR;
        fates[2 - i % 2] = others[i / 2];
        start("1 2", STAGGER_MS * 2);
        cr_expect_neq(outcome(), 0);
        cr_expect_eq(dial.failure.status, POOL_E_TLS, "%zu", i);
        cr_expect_eq(dial.failure.reason, PL_REASON_CERTIFICATE, "%zu", i);
        drop();
        grudges = (struct pl_grudges){ 0 };
    }
}

/* ---- room */

Test(race, a_lack_that_room_cures_is_cured_once_and_the_place_tried_again)
{
    fates[1] = LACKS;
    rooms = 2;
    start("1 2", SOON);
    expect_won("1 1 1");
    expect_connected();
    drop();
}

Test(race, a_lack_is_told_when_no_place_can_do_without)
{
    fates[1] = LACKS;
    fates[2] = REFUSES;
    start("1 2", SOON);
    cr_expect_eq(outcome(), EADDRNOTAVAIL);
    drop();
}

Test(race, a_lack_beside_a_refused_certificate_is_told)
{
    begin_secure();
    begin_impostor();
    fates[1] = LACKS;
    fates[2] = IS_IMPOSTOR;
    start("1 2", SOON);
    cr_expect_eq(outcome(), EADDRNOTAVAIL);
    cr_expect_eq(dial.failure.status, POOL_OK);
    drop();
}

static int make_no_socket(int family, int type, int protocol)
{
    return ends || dial.live ? -EMFILE : pl_os_real.socket(family, type, protocol);
}

Test(race, one_beside_another_waits_while_no_descriptor_is_left)
{
    fates[1] = IS_SILENT;
    os.socket = make_no_socket;
    start("1 2", SOON);
    while (pl_os->now_ns() < begun_ns + 2 * PL_STAGGER_NS)
        cr_assert_eq(pool_mux_dispatch(mux, 20), POOL_OK);
    cr_expect_eq(ends, 0);
    os.socket = pl_os_real.socket;
    expect_won("1 2");
    drop();
}

/* ---- the end in between */

Test(race, a_dial_that_was_closed_ends_its_attempts_and_never_calls_back)
{
    fates[1] = fates[2] = IS_SILENT;
    start("1 2", SOON);
    while (dial.live < 2)
        cr_assert_eq(pool_mux_dispatch(mux, SOON), POOL_OK);
    drop();
    cr_assert_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect_eq(ends, 0);
}

Test(race, a_number_of_an_attempt_that_is_stolen_is_left_alone)
{
    int pair[2], stolen = -1;

    fates[1] = fates[2] = IS_SILENT;
    start("1 2 3", SOON);
    while (dial.live < 2)
        cr_assert_eq(pool_mux_dispatch(mux, SOON), POOL_OK);
    for (size_t i = 0; i < PL_ATTEMPTS; i++) {
        if (dial.attempts[i].connection && dial.attempts[i].connection != dial.connection)
            stolen = dial.attempts[i].connection->fd;
    }
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_eq(dup2(pair[0], stolen), stolen);
    cr_expect_eq(outcome(), 0);
    cr_expect_eq(send(stolen, "x", 1, 0), 1);
    cr_expect_eq(listen_to(pair[1], SOON), HEARD_BYTES);
    close(stolen), close(pair[0]), close(pair[1]);
    drop();
}
