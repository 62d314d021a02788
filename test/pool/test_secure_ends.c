/* test_secure_ends.c: how connections of tls:// addresses end: with a farewell to the peer where
 * that is possible, and with not a byte to anybody else, thieves of the number and the peer of the
 * parent of a fork() included. */
#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool/secure_stage.h"
#include "support/child.h"

TestSuite(pool_secure_ends, .init = secure_stage_begin, .fini = secure_stage_end, .timeout = 60);

static struct pool_conn lend(void)
{
    struct pool_conn conn;

    cr_assert(borrow(pool, secure_at(""), &conn));
    cr_assert_eq(echo(&conn, "hello"), 0);
    return conn;
}

/* ---- farewells */

Test(pool_secure_ends, whatever_ends_an_idle_connection_says_goodbye)
{
    struct pool_conn conn;
    unsigned goodbyes = 0;

    START_PEER(.version = 0x0304);
    SECURE_POOL(.max_uses = 0);
    cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    cr_expect(wait_goodbyes(++goodbyes), "evicted");
    cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
    cr_expect_eq(pool_clear(pool, secure_at(""), 0), POOL_OK);
    cr_expect(wait_goodbyes(++goodbyes), "cleared");
    conn = lend();
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    cr_expect(wait_goodbyes(++goodbyes), "discarded");
    conn = lend();
    pool_conn_drain(&conn);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_expect(wait_goodbyes(++goodbyes), "drained");
    cr_assert_eq(talk(pool, secure_at("")), POOL_OK);
    pool_destroy(pool);
    pool = NULL;
    cr_expect(wait_goodbyes(++goodbyes), "destroyed");
    cr_expect_eq(tls_peer_accepted(tls_peer), goodbyes);
    cr_expect(wait_peer_open(0));
}

Test(pool_secure_ends, a_lent_connection_is_killed_at_once)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    char byte;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    conn = lend();
    cr_expect(pool_kill(pool, pool_conn_id(&conn)));
    cr_expect_lt(pool_recv_exact(&conn, &byte, 1), POOL_OK);
    cr_expect_lt(pool_send(&conn, "x", 1), POOL_OK);
    cr_expect_eq(pool_conn_error(&conn, &error), POOL_OK);
    pool_return(&conn);
    cr_expect(wait_peer_open(0));
    cr_expect_eq(talk(pool, secure_at("")), POOL_OK);
}

Test(pool_secure_ends, a_pool_may_end_while_connections_are_lent)
{
    struct pool_conn conns[3];
    int descriptors;

    START_PEER(.version = 0x0304);
    descriptors = count_descriptors();
    SECURE_POOL();
    for (int i = 0; i < 3; i++)
        conns[i] = lend();
    pool_destroy(pool);
    pool = NULL;
    for (int i = 0; i < 3; i++) {
        cr_expect_lt(pool_send(&conns[i], "x", 1), POOL_OK);
        pool_return(&conns[i]);
    }
    cr_expect(wait_peer_open(0));
    cr_expect_eq(count_descriptors(), descriptors);
}

Test(pool_secure_ends, a_pool_may_end_in_the_middle_of_handshakes)
{
    struct peer *silent = PEER(.behave = PEER_SILENT);
    struct caller callers[3];

    SECURE_POOL();
    for (int i = 0; i < 3; i++)
        cr_assert(start_caller(&callers[i], pool, secure_address(peer_port(silent), ""),
                               VERBS_SOON));
    cr_assert(peer_wait_bytes_in(silent, 1, VERBS_SOON));
    pool_destroy(pool);
    pool = NULL;
    for (int i = 0; i < 3; i++)
        cr_expect_eq(join_caller(&callers[i]), POOL_E_CLOSING);
    cr_expect(peer_wait_open(silent, 0, VERBS_SOON));
    peer_stop(silent);
}

/* ---- stolen numbers */

enum moment { HOT, PARKED, LENT, MOMENTS };

/* A connection whose number is a socket of somebody else now. */
struct theft {
    struct pool_conn conn;
    int fd, far; /* of that socket, and its other end */
};

/* Makes the pool, brings a connection of it to that moment, and steals its number. */
static struct theft steal_when(enum moment moment)
{
    struct theft theft;
    int pair[2];

    SECURE_POOL(.park_ms = moment == PARKED ? 1 : POOL_NONE);
    theft.conn = lend();
    theft.fd = pool_conn_fd(&theft.conn);
    if (moment != LENT)
        cr_assert_eq(pool_return(&theft.conn), POOL_OK);
    if (moment == PARKED)
        cr_assert(wait_parked(theft.fd));
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    cr_assert_eq(dup2(pair[0], theft.fd), theft.fd);
    close(pair[0]);
    theft.far = pair[1];
    return theft;
}

/* The pool has ended. */
static void expect_unharmed(const struct theft *theft, enum moment moment)
{
    char back[4];

    cr_expect_eq(listen_to(theft->far, 20), HEARD_NOTHING, "moment %d", moment);
    cr_expect(write_exactly(theft->fd, "fore", 4, VERBS_SOON), "moment %d", moment);
    cr_expect(read_exactly(theft->far, back, 4, VERBS_SOON), "moment %d", moment);
    close(theft->fd);
    close(theft->far);
}

Test(pool_secure_ends, a_stolen_number_gets_not_a_byte)
{
    START_PEER(.version = 0x0304);
    for (int moment = 0; moment < MOMENTS; moment++) {
        struct theft theft = steal_when(moment);

        if (moment == LENT)
            pool_return(&theft.conn);
        cr_expect_eq(talk(pool, secure_at("")), POOL_OK, "moment %d", moment);
        cr_expect_eq(STAT(pool, closed[POOL_CLOSE_STOLEN]), 1, "moment %d", moment);
        pool_destroy(pool);
        pool = NULL;
        expect_unharmed(&theft, moment);
    }
}

Test(pool_secure_ends, a_stolen_number_is_not_said_goodbye_to)
{
    START_PEER(.version = 0x0304);
    for (int moment = 0; moment < MOMENTS; moment++) {
        struct theft theft = steal_when(moment);

        if (moment == LENT)
            pool_discard(&theft.conn);
        pool_destroy(pool);
        pool = NULL;
        expect_unharmed(&theft, moment);
    }
}

/* ---- fork */

static int use_in_child(void *argument)
{
    struct pool_conn *conn = argument;
    char byte;

    child_watch_door();
    CHILD_NEEDS(pool_send(conn, "no", 2) == POOL_E_FORKED);
    CHILD_NEEDS(pool_recv_exact(conn, &byte, 1) == POOL_E_FORKED);
    CHILD_NEEDS(talk(pool, secure_at("")) == POOL_E_FORKED);
    pool_discard(conn);
    pool_destroy(pool);
    CHILD_NEEDS(child_door_calls() == 0);
    return 0;
}

static int use_own_pool_in_child(void *argument)
{
    struct pool *own;

    (void)argument;
    pool_destroy(pool);
    own = MAKE_POOL(.tls = trust);
    CHILD_NEEDS(own != NULL);
    for (int i = 0; i < 3; i++)
        CHILD_NEEDS(talk(own, secure_at("")) == POOL_OK);
    pool_destroy(own);
    return 0;
}

Test(pool_secure_ends, a_child_says_nothing_to_the_peers_of_its_parent)
{
    struct pool_conn lent;
    uint64_t id;

    START_PEER(.version = 0x0304);
    SECURE_POOL(.park_ms = 1);
    lent = lend();
    cr_assert(wait_next_parked(secure_at("")));
    id = id_of_next(pool, secure_at(""));
    cr_expect_eq(child_run(use_in_child, &lent), 0);
    cr_expect_eq(echo(&lent, "still mine"), 0);
    cr_expect_eq(id_of_next(pool, secure_at("")), id);
    cr_expect_eq(pool_return(&lent), POOL_OK);
    cr_expect_eq(tls_peer_accepted(tls_peer), 2);
    cr_expect_eq(tls_peer_goodbyes(tls_peer), 0);
}

Test(pool_secure_ends, a_child_makes_a_pool_of_its_own_with_the_same_settings)
{
    uint64_t id;

    START_PEER(.version = 0x0304);
    SECURE_POOL();
    id = id_of_next(pool, secure_at(""));
    cr_expect_eq(child_run(use_own_pool_in_child, NULL), 0);
    cr_expect_eq(id_of_next(pool, secure_at("")), id);
    cr_expect_eq(tls_peer_accepted(tls_peer), 2);
}
