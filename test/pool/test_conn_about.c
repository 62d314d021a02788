/* test_conn_about.c: what a handle tells about its connection, what a program attaches to it, and
 * the deadline that it sets itself. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

TestSuite(conn_about, .timeout = 60);

/* ---- where it leads */

Test(conn_about, both_ends_are_told_as_text)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    char local[64] = "", remote[64] = "", expected[64];

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_conn_remote(&conn, remote, sizeof(remote)), POOL_OK);
    snprintf(expected, sizeof(expected), "127.0.0.1:%d", peer_port(peer));
    cr_expect_str_eq(remote, expected);
    cr_expect_eq(pool_conn_local(&conn, local, sizeof(local)), POOL_OK);
    cr_expect_eq(strncmp(local, "127.0.0.1:", 10), 0, "%s", local);
    cr_expect_str_neq(local, remote);
    cr_expect_eq(pool_conn_remote(&conn, remote, strlen(expected)), POOL_E_ARGUMENT);
    cr_expect_eq(pool_conn_remote(&conn, remote, strlen(expected) + 1), POOL_OK);
    cr_expect_eq(pool_conn_remote(&conn, NULL, 64), POOL_E_ARGUMENT);
    cr_expect_eq(pool_conn_remote(NULL, remote, 64), POOL_E_ARGUMENT);
    pool_return(&conn);
    cr_expect_eq(pool_conn_local(&conn, local, sizeof(local)), POOL_E_ARGUMENT);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(conn_about, unix_peers_are_told_by_path_and_by_abstract_name)
{
    struct peer *path = PEER(.family = AF_UNIX), *name = PEER(.family = AF_UNIX, .abstract = true);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    char text[256] = "";

    cr_assert(borrow(pool, peer_address(path), &conn));
    cr_expect_eq(pool_conn_remote(&conn, text, sizeof(text)), POOL_OK);
    cr_expect_str_eq(text, peer_address(path) + strlen("unix://"));
    cr_expect_eq(pool_conn_local(&conn, text, sizeof(text)), POOL_OK);
    cr_expect_str_eq(text, "", "our end has no name");
    pool_return(&conn);
    cr_assert(borrow(pool, peer_address(name), &conn));
    cr_expect_eq(pool_conn_remote(&conn, text, sizeof(text)), POOL_OK);
    cr_expect_eq(text[0], '@');
    cr_expect_str_eq(text + 1, peer_address(name) + strlen("abstract://"));
    pool_return(&conn);
    pool_destroy(pool);
    peer_stop(path);
    peer_stop(name);
}

Test(conn_about, a_socket_that_took_our_number_is_not_asked)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    char text[256] = "before";
    int pair[2], fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    cr_assert_eq(dup2(pair[0], fd), fd);
    cr_expect_eq(pool_conn_remote(&conn, text, sizeof(text)), POOL_E_BROKEN);
    cr_expect_eq(pool_conn_local(&conn, text, sizeof(text)), POOL_E_BROKEN);
    cr_expect_str_eq(text, "before");
    pool_discard(&conn);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- numbers */

Test(conn_about, a_connection_counts_what_happened_on_it)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn_counts counts = { .size = sizeof(counts) };
    struct pool_conn conn;

    for (int i = 0; i < 3; i++)
        cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);      /* "ping" */
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(echo(&conn, "hello"), 0);
    cr_expect_eq(pool_conn_count(&conn, &counts), POOL_OK);
    cr_expect_eq(counts.bytes_in, 3 * 4 + 5);
    cr_expect_eq(counts.bytes_out, 3 * 4 + 5);
    cr_expect_eq(counts.uses, 4);
    cr_expect_gt(counts.opened_ns, 0);
    cr_expect_geq(counts.last_used_ns, counts.opened_ns);
    cr_expect_eq(counts.last_used_ns, pool_conn_last_used_ns(&conn));
    pool_return(&conn);
    cr_expect_eq(pool_conn_count(&conn, &counts), POOL_E_ARGUMENT);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(conn_about, counts_are_written_as_far_as_the_program_knows_the_struct)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn_counts counts = { .size = offsetof(struct pool_conn_counts, uses) };
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    counts.uses = 77;
    cr_expect_eq(pool_conn_count(&conn, &counts), POOL_OK);
    cr_expect_eq(counts.uses, 77);
    cr_expect_eq(counts.size, offsetof(struct pool_conn_counts, uses));
    counts.size = sizeof(size_t) - 1;
    cr_expect_eq(pool_conn_count(&conn, &counts), POOL_E_ARGUMENT);
    cr_expect_eq(pool_conn_count(&conn, NULL), POOL_E_ARGUMENT);
    pool_return(&conn);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- the program's own data */

static atomic_uint freed;
static void *_Atomic freed_last;

static void count_free(void *user)
{
    atomic_store(&freed_last, user);
    atomic_fetch_add(&freed, 1);
}

static bool is_freed(void *times)
{
    return atomic_load(&freed) == *(unsigned *)times;
}

Test(conn_about, data_stays_across_borrows_and_is_freed_once_when_the_connection_closes)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    int mine, other;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_null(pool_conn_user(&conn));
    pool_conn_set_user(&conn, &mine, count_free);
    cr_expect_eq(pool_conn_user(&conn), &mine);
    pool_return(&conn);
    cr_expect_null(pool_conn_user(&conn), "the handle is stale");
    pool_conn_set_user(&conn, &other, count_free);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_conn_user(&conn), &mine);
    cr_expect_eq(freed, 0);
    pool_discard(&conn);
    cr_expect_eq(freed, 1);
    cr_expect_eq(freed_last, &mine);
    pool_destroy(pool);
    cr_expect_eq(freed, 1);
    peer_stop(peer);
}

Test(conn_about, replaced_data_is_freed_at_once_but_not_the_same_twice)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    int first, second;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    pool_conn_set_user(&conn, &first, count_free);
    pool_conn_set_user(&conn, &first, count_free);
    cr_expect_eq(freed, 0, "it is still attached");
    pool_conn_set_user(&conn, &second, NULL);
    cr_expect_eq(freed, 1);
    cr_expect_eq(freed_last, &first);
    pool_conn_set_user(&conn, NULL, count_free);
    cr_expect_eq(freed, 1, "nobody frees the second");
    pool_discard(&conn);
    cr_expect_eq(freed, 1, "nothing is attached");
    pool_destroy(pool);
    peer_stop(peer);
}

/* How a connection may end, while nobody or somebody holds it. */
Test(conn_about, data_is_freed_whoever_closes_the_connection)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    int mine;
    unsigned once = 1, twice = 2, thrice = 3;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    pool_conn_set_user(&conn, &mine, count_free);
    pool_return(&conn);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    cr_expect(wait_until(is_freed, &once, VERBS_SOON), "evicted");

    cr_assert(borrow(pool, peer_address(peer), &conn));
    pool_conn_set_user(&conn, &mine, count_free);
    cr_assert_eq(echo(&conn, "x"), 0);
    pool_return(&conn);
    peer_close_all(peer);
    cr_expect(wait_until(is_freed, &twice, VERBS_SOON), "the mux saw its end");

    cr_assert(borrow(pool, peer_address(peer), &conn));
    pool_conn_set_user(&conn, &mine, count_free);
    pool_destroy(pool);
    cr_expect_eq(freed, 2, "it is still lent");
    pool_return(&conn);
    cr_expect(wait_until(is_freed, &thrice, VERBS_SOON));
    peer_stop(peer);
}

static struct pool *calling_pool;
static const char *calling_address;
static enum pool_status called;

/* At the cap of one connection, this works only if the one that closes has left its place. */
static void borrow_another(void *user)
{
    called = talk(calling_pool, calling_address);
    count_free(user);
}

Test(conn_about, what_frees_data_may_call_the_pool_and_finds_no_lock_held)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(.max_connections = 1);
    struct pool_conn conn;
    int mine;

    calling_pool = pool;
    calling_address = peer_address(peer);
    called = POOL_E_SYSTEM;
    cr_assert(borrow(pool, peer_address(peer), &conn));
    pool_conn_set_user(&conn, &mine, borrow_another);
    pool_discard(&conn);
    cr_expect_eq(called, POOL_OK);
    cr_expect_eq(freed, 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- a deadline of its own */

Test(conn_about, a_new_deadline_counts_for_what_follows_and_ends_with_the_borrow)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    uint64_t start_ms;
    char byte;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_conn_deadline(&conn, 150), POOL_OK);
    start_ms = now_ms();
    cr_expect_eq(pool_recv_exact(&conn, &byte, 1), POOL_E_TIMEOUT);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 150));
    pool_discard(&conn);
    cr_expect_eq(pool_conn_deadline(&conn, 150), POOL_E_ARGUMENT);
    cr_expect_eq(pool_conn_deadline(NULL, 150), POOL_E_ARGUMENT);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(conn_about, a_deadline_can_be_moved_out_and_taken_away)
{
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 200);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;

    cr_assert_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 150), &conn),
                 POOL_OK);
    cr_expect_eq(pool_conn_deadline(&conn, VERBS_SOON), POOL_OK);
    cr_expect_eq(echo(&conn, "later than the call allowed"), 0);
    cr_expect_eq(pool_conn_deadline(&conn, 1), POOL_OK);
    cr_expect_eq(pool_conn_deadline(&conn, POOL_NONE), POOL_OK);
    cr_expect_eq(echo(&conn, "without any"), 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    cr_assert_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 50), &conn),
                 POOL_OK);
    cr_expect_neq(echo(&conn, "its own deadline again"), 0);
    pool_discard(&conn);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(conn_about, no_time_at_all_takes_only_what_is_there)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    char byte;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_conn_deadline(&conn, POOL_ZERO), POOL_OK);
    cr_expect_eq(pool_send(&conn, "x", 1), POOL_OK);
    cr_expect_eq(pool_recv_exact(&conn, &byte, 1), POOL_E_TIMEOUT_IN_TRANSFER);
    pool_discard(&conn);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- only trying */

struct tried {
    struct pool_conn conn;
    char bytes[16];
    size_t got;
    enum pool_status status;
};

static bool has_tried(void *argument)
{
    struct tried *tried = argument;

    tried->status =
        pool_try_recv(&tried->conn, tried->bytes, sizeof(tried->bytes) - 1, &tried->got);
    return tried->status != POOL_E_WOULD_BLOCK;
}

Test(conn_about, trying_never_waits_and_keeps_a_connection_clean)
{
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 50);
    struct pool *pool = MAKE_POOL();
    struct tried tried = { .got = 9 };
    uint64_t id;
    size_t sent;

    cr_assert(borrow(pool, peer_address(peer), &tried.conn));
    id = pool_conn_id(&tried.conn);
    cr_expect_eq(pool_try_recv(&tried.conn, tried.bytes, 4, &tried.got), POOL_E_WOULD_BLOCK);
    cr_expect_eq(tried.got, 0);
    cr_expect_eq(pool_try_send(&tried.conn, "ping", 4, &sent), POOL_OK);
    cr_expect_eq(sent, 4);
    cr_expect(wait_until(has_tried, &tried, VERBS_SOON));
    cr_expect_eq(tried.status, POOL_OK);
    cr_expect_eq(tried.got, 4);
    cr_expect_str_eq(tried.bytes, "ping");
    cr_expect_eq(pool_return(&tried.conn), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), id, "it was kept warm");
    pool_destroy(pool);
    peer_stop(peer);
}

Test(conn_about, trying_with_a_mistake_is_an_error_and_touches_nothing)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn, stale;
    size_t count = 9;
    char byte;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_try_send(&conn, "x", 1, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_try_send(&conn, NULL, 1, &count), POOL_E_ARGUMENT);
    cr_expect_eq(pool_try_recv(&conn, &byte, 1, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_try_recv(&conn, NULL, 1, &count), POOL_E_ARGUMENT);
    cr_expect_eq(count, 0);
    cr_expect_eq(pool_try_send(&conn, NULL, 0, &count), POOL_OK);
    cr_expect_eq(pool_try_recv(&conn, NULL, 0, &count), POOL_OK);
    stale = conn;
    pool_return(&conn);
    cr_expect_eq(pool_try_send(&stale, "x", 1, &count), POOL_E_ARGUMENT);
    cr_expect_eq(pool_try_recv(&stale, &byte, 1, &count), POOL_E_ARGUMENT);
    cr_expect_eq(pool_try_send(NULL, "x", 1, &count), POOL_E_ARGUMENT);
    cr_expect_eq(STAT(pool, idle), 1, "the mistakes did it no harm");
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- failures */

Test(conn_about, a_connection_without_a_failure_has_no_words_for_one)
{
    struct pool_error error = { .size = sizeof(error), .text = "of something else" };
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_conn_error(&conn, &error), POOL_OK);
    cr_expect_eq(error.status, POOL_OK);
    cr_expect_str_eq(error.text, "");
    pool_return(&conn);
    pool_destroy(pool);
    peer_stop(peer);
}
