/* test_borrow.c: which connection a borrower gets: his own, the right one, the warm one. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

#define IDS 64

/* Who has which connection, by id; nobody may have one that somebody has. */
struct crowd {
    struct pool *pool;
    const char *address;
    unsigned rounds;
    atomic_bool is_lent[IDS];
    atomic_uint doubles, foreign, failures;
};

static int use_alone(struct pool_conn *conn, void *user)
{
    struct crowd *crowd = user;
    uint64_t id = pool_conn_id(conn);
    char token[32];
    static atomic_uint tokens;

    if (id >= IDS || atomic_exchange(&crowd->is_lent[id], true))
        atomic_fetch_add(&crowd->doubles, 1);
    snprintf(token, sizeof(token), "token %08x", atomic_fetch_add(&tokens, 1));
    if (echo(conn, token))
        atomic_fetch_add(&crowd->foreign, 1);
    atomic_store(&crowd->is_lent[id % IDS], false);
    return 0;
}

static void crowd_in(unsigned index, void *argument)
{
    struct crowd *crowd = argument;

    (void)index;
    for (unsigned i = 0; i < crowd->rounds; i++)
        if (pool_communicate(crowd->pool, crowd->address, use_alone, crowd, NULL))
            atomic_fetch_add(&crowd->failures, 1);
}

Test(pool_borrow, eight_threads_never_share_a_connection_nor_a_reply)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL(.max_per_address = 4, .timeout_ms = VERBS_SOON);
    struct crowd crowd = { .pool = pool, .address = peer_address(peer) };

    crowd.rounds = 10000 / slowness();
    cr_assert(run_threads(8, crowd_in, &crowd));
    cr_expect_eq(crowd.doubles, 0);
    cr_expect_eq(crowd.foreign, 0);
    cr_expect_eq(crowd.failures, 0);
    cr_expect_leq(peer_count(peer, PEER_ACCEPTED), 4);
    cr_expect_eq(STAT(pool, borrowed), 8 * crowd.rounds);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_borrow, a_thousand_borrows_in_a_row_open_one_connection)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();

    for (int i = 0; i < 1000; i++)
        cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(peer_accepted(peer, 1), 1);
    cr_expect_eq(STAT(pool, opened), 1);
    cr_expect_eq(STAT(pool, borrowed), 1000);
    cr_expect_eq(STAT(pool, reused), 999);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_borrow, a_second_user_of_an_address_gets_a_connection_of_his_own)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn first, second;

    cr_assert(borrow(pool, peer_address(peer), &first));
    cr_assert(borrow(pool, peer_address(peer), &second));
    cr_expect_not(pool_conn_same(&first, &second));
    cr_expect_neq(pool_conn_fd(&first), pool_conn_fd(&second));
    cr_expect_eq(echo(&first, "one"), 0);
    cr_expect_eq(echo(&second, "two"), 0);
    cr_expect_eq(peer_accepted(peer, 2), 2);
    cr_expect_eq(pool_return(&first), POOL_OK);
    cr_expect_eq(pool_return(&second), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

struct taking {
    struct pool *pool;
    const char *address;
    struct pool_conn conns[3];
};

static void take_three(unsigned index, void *argument)
{
    struct taking *taking = argument;

    (void)index;
    for (int i = 0; i < 3; i++)
        if (!borrow(taking->pool, taking->address, &taking->conns[i]))
            taking->conns[i] = (struct pool_conn){ 0 };
}

Test(pool_borrow, what_was_returned_last_is_lent_first)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct taking taking = { .pool = pool, .address = peer_address(peer) };
    struct pool_conn *conns = taking.conns;
    uint64_t ids[3];

    take_three(0, &taking);
    for (int i = 0; i < 3; i++)
        ids[i] = pool_conn_id(&conns[i]);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(pool_return(&conns[i]), POOL_OK);
    cr_assert(run_threads(1, take_three, &taking));
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(pool_conn_id(&conns[i]), ids[2 - i], "place %d", i);
        cr_expect_eq(pool_return(&conns[i]), POOL_OK);
    }
    cr_expect_eq(id_of_next(pool, peer_address(peer)), ids[0]);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_borrow, with_fifo_the_one_idle_for_longest_is_lent_first)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.order = POOL_FIFO);
    struct taking taking = { .pool = pool, .address = peer_address(peer) };

    take_three(0, &taking);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(pool_return(&taking.conns[i]), POOL_OK);
    for (uint64_t i = 0; i < 9; i++)
        cr_expect_eq(id_of_next(pool, peer_address(peer)), 1 + i % 3);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_borrow, a_thread_gets_back_the_connection_that_it_returned_last)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn first, second;
    uint64_t id;

    cr_assert(borrow(pool, peer_address(peer), &first));
    cr_assert(borrow(pool, peer_address(peer), &second));
    id = pool_conn_id(&second);
    cr_expect_eq(pool_return(&first), POOL_OK);
    cr_expect_eq(pool_return(&second), POOL_OK);
    for (int i = 0; i < 100; i++)
        cr_expect_eq(id_of_next(pool, peer_address(peer)), id);
    pool_destroy(pool);
    peer_stop(peer);
}

static void expect_echo_at(struct pool *pool, struct peer *peer)
{
    cr_assert_not_null(peer);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK, "%s", peer_address(peer));
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK, "%s", peer_address(peer));
    cr_expect_eq(peer_accepted(peer, 1), 1);
    peer_stop(peer);
}

Test(pool_borrow, every_family_is_reached)
{
    struct pool *pool = MAKE_POOL();

    expect_echo_at(pool, PEER());
    expect_echo_at(pool, PEER(.family = AF_INET6));
    expect_echo_at(pool, PEER(.family = AF_UNIX));
    expect_echo_at(pool, PEER(.family = AF_UNIX, .abstract = true));
    pool_destroy(pool);
}

/* A listener whose accepted socket tells where the other end comes from. */
static in_addr_t source_of_borrow(const char *parameter)
{
    struct sockaddr_in place = { .sin_family = AF_INET };
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), accepted;
    socklen_t size = sizeof(place);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    char address[128];

    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(bind(listener, (struct sockaddr *)&place, size), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&place, &size), 0);
    snprintf(address, sizeof(address), "tcp://127.0.0.1:%d%s", ntohs(place.sin_port), parameter);
    cr_assert(borrow(pool, address, &conn), "%s", address);
    accepted = accept(listener, (struct sockaddr *)&place, &size);
    cr_assert_geq(accepted, 0);
    pool_discard(&conn);
    pool_destroy(pool);
    close(accepted);
    close(listener);
    return ntohl(place.sin_addr.s_addr);
}

Test(pool_borrow, the_peer_sees_the_address_that_was_bound)
{
    cr_expect_eq(source_of_borrow(""), 0x7f000001u);
    cr_expect_eq(source_of_borrow("?bind=127.0.0.2"), 0x7f000002u);
    cr_expect_eq(source_of_borrow("?bind=127.9.8.7"), 0x7f090807u);
    cr_expect_eq(source_of_borrow("?bind=lo"), 0x7f000001u);
}

Test(pool_borrow, an_interface_that_does_not_exist_is_an_error_of_the_address)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.timeout_ms = 2000);
    struct pool_conn conn;
    char address[128];

    snprintf(address, sizeof(address), "%s?bind=nosuch0", peer_address(peer));
    cr_expect_eq(pool_borrow(pool, address, NULL, &conn), POOL_E_ADDRESS);
    cr_expect_eq(peer_count(peer, PEER_ACCEPTED), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Ports out of range, and what this release cannot dial. */
Test(pool_borrow, what_cannot_be_dialled_is_refused_before_any_socket_is_made)
{
    static const struct {
        const char *address;
        enum pool_status status;
    } rows[] = {
        { "tcp://127.0.0.1:0", POOL_E_ADDRESS },
        { "tcp://127.0.0.1:65536", POOL_E_ADDRESS },
        { "tcp://127.0.0.1", POOL_E_ADDRESS },
        { "tcp://127.0.0.1:80/path", POOL_E_ADDRESS },
        { "", POOL_E_ADDRESS },
        { "127.0.0.1:80", POOL_E_ADDRESS },
        { "tcp://127.0.0.1:80?no=1", POOL_E_ADDRESS },
        { "tcp://example.invalid:80", POOL_E_RESOLVE },
    };
    struct pool *pool = MAKE_POOL();
    int before = count_descriptors();
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        memset(error.text, 0, sizeof(error.text));
        cr_expect_eq(pool_borrow(pool, rows[i].address, POOL_CALL(.error = &error), &conn),
                     rows[i].status, "%s", rows[i].address);
        cr_expect_eq(error.status, rows[i].status, "%s", rows[i].address);
        cr_expect_eq(error.outcome, POOL_NOT_SENT);
        cr_expect(error.text[0], "%s", rows[i].address);
        cr_expect(!conn.slot && !conn.serial);
    }
    cr_expect_eq(count_descriptors(), before);
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(STAT(pool, borrow_failed), sizeof(rows) / sizeof(*rows));
    pool_destroy(pool);
}

/* What looks alike and is not, and what looks different and is the same. */
Test(pool_borrow, addresses_share_a_connection_only_when_their_keys_are_equal)
{
    static const struct {
        const char *a, *b;
        bool is_same;
    } rows[] = {
        { "127.0.0.1", "127.0.0.1", true },
        { "127.0.0.1", "127.0.0.2", false },
        { "[::ffff:127.0.0.1]", "127.0.0.1", false },
        { "127.0.0.1?tenant=a", "127.0.0.1?tenant=a", true },
        { "127.0.0.1?tenant=a", "127.0.0.1?tenant=%61", true },
        { "127.0.0.1?tenant=a", "127.0.0.1?tenant=A", false },
        { "127.0.0.1?tenant=a", "127.0.0.1?tenant=b", false },
        { "127.0.0.1?tenant=a", "127.0.0.1", false },
        { "127.0.0.1?bind=127.0.0.1", "127.0.0.1?bind=127.0.0.2", false },
        { "127.0.0.1?bind=127.0.0.1", "127.0.0.1", false },
        { "127.0.0.1?dscp=0", "127.0.0.1?dscp=8", false },
        { "127.0.0.1?tenant=a&dscp=8", "127.0.0.1?dscp=8&tenant=a", true },
        { "127.0.0.1?tenant=a%26dscp%3D8", "127.0.0.1?tenant=a&dscp=8", false },
    };
    struct peer *peer = PEER(.every_loopback = true);
    struct pool *pool = MAKE_POOL();
    char a[128], b[128];
    size_t host;

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        host = strcspn(rows[i].a, "?");
        snprintf(a, sizeof(a), "tcp://%.*s:%d%s", (int)host, rows[i].a, peer_port(peer),
                 rows[i].a + host);
        host = strcspn(rows[i].b, "?");
        snprintf(b, sizeof(b), "tcp://%.*s:%d%s", (int)host, rows[i].b, peer_port(peer),
                 rows[i].b + host);
        cr_expect_eq(id_of_next(pool, a) == id_of_next(pool, b), rows[i].is_same, "%s %s", a, b);
    }
    pool_destroy(pool);
    peer_stop(peer);
}

/* A peer's unix sockets: the name is the key, path and abstract name differ. */
Test(pool_borrow, unix_peers_are_told_apart_by_their_whole_name)
{
    struct peer *first = PEER(.family = AF_UNIX, .behave = PEER_REPLY, .reply = "1111");
    struct peer *second = PEER(.family = AF_UNIX, .behave = PEER_REPLY, .reply = "2222");
    struct peer *third =
        PEER(.family = AF_UNIX, .abstract = true, .behave = PEER_REPLY, .reply = "3333");
    struct peer *peers[] = { first, second, third };
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    char got[4];

    for (int i = 0; i < 9; i++) {
        cr_assert(borrow(pool, peer_address(peers[i % 3]), &conn));
        cr_expect_eq(pool_send(&conn, "x", 1), POOL_OK);
        cr_expect_eq(pool_recv_exact(&conn, got, sizeof(got)), POOL_OK);
        cr_expect_eq(got[0], '1' + i % 3);
        cr_expect_str_eq(pool_conn_address(&conn), peer_address(peers[i % 3]));
        cr_expect_eq(pool_return(&conn), POOL_OK);
    }
    cr_expect_eq(STAT(pool, opened), 3);
    pool_destroy(pool);
    for (int i = 0; i < 3; i++)
        peer_stop(peers[i]);
}

Test(pool_borrow, communicate_nests_and_each_use_has_its_own_connection)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_per_address = 2);
    struct pool_conn outer;

    cr_assert(borrow(pool, peer_address(peer), &outer));
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(echo(&outer, "still mine"), 0);
    cr_expect_eq(pool_return(&outer), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 2);
    cr_expect_eq(STAT(pool, lent), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_borrow, last_used_grows_with_every_use)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    uint64_t last = 0, now;

    for (int i = 0; i < 200; i++) {
        cr_assert(borrow(pool, peer_address(peer), &conn));
        now = pool_conn_last_used_ns(&conn);
        cr_expect_gt(now, last);
        last = now;
        cr_assert_eq(echo(&conn, "use"), 0);
        now = pool_conn_last_used_ns(&conn);
        cr_expect_gt(now, last);
        last = now;
        cr_assert_eq(pool_return(&conn), POOL_OK);
    }
    cr_expect_leq(last / 1000000, now_ms() + 1);
    cr_expect_geq(last / 1000000 + 1000, now_ms());
    pool_destroy(pool);
    peer_stop(peer);
}
