/* test_targets.c: addresses looked up beforehand. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static enum pool_status talk_to(struct pool *pool, struct pool_target *target)
{
    char text[] = "ping";

    return pool_communicate(pool, NULL, use_echo, text,
                            POOL_CALL(.target = target, .timeout_ms = VERBS_SOON));
}

Test(pool_targets, a_target_serves_instead_of_the_text_and_shares_its_connections)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_target *target;

    cr_assert_eq(pool_target_get(pool, peer_address(peer), &target), POOL_OK);
    cr_expect_eq(STAT(pool, total), 0, "looking it up opens nothing");
    for (int i = 0; i < 10; i++) {
        cr_expect_eq(talk_to(pool, target), POOL_OK);
        cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    }
    cr_expect_eq(STAT(pool, opened), 1);
    pool_target_free(target);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1, "what it opened stays");
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_targets, a_bad_address_gives_no_target)
{
    struct pool *pool = MAKE_POOL();
    struct pool_target *target;

    cr_expect_eq(pool_target_get(pool, "tcp://127.0.0.1", &target), POOL_E_ADDRESS);
    cr_expect_null(target);
    cr_expect_null(target);
    pool_destroy(pool);
}

Test(pool_targets, a_target_of_another_pool_is_refused)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL(), *other = MAKE_POOL();
    struct pool_target *target;
    struct pool_conn conn;

    cr_assert_eq(pool_target_get(other, peer_address(peer), &target), POOL_OK);
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(talk_to(pool, target), POOL_E_ARGUMENT);
        cr_expect_eq(pool_borrow(pool, peer_address(peer), POOL_CALL(.target = target), &conn),
                     POOL_E_ARGUMENT, "even with a text beside it");
        cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK); /* and now it is warm */
    }
    pool_target_free(target);
    pool_destroy(other);
    pool_destroy(pool);
    peer_stop(peer);
}

static int refuse(struct pool_conn *conn, void *user)
{
    (void)conn, (void)user;
    return -2;
}

/* The address beside a target is not looked at, so no error may speak of it. */
Test(pool_targets, errors_name_the_targets_peer_and_not_the_address_beside_it)
{
    static const char beside[] = "tcp://192.0.2.1:9";
    struct pool_error error = POOL_ERROR_INIT;
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_target *target;
    struct pool_conn conn;

    cr_assert_eq(pool_target_get(pool, peer_address(peer), &target), POOL_OK);
    for (int warm = 0; warm < 2; warm++) {
        error.text[0] = '\0';
        cr_expect_eq(pool_communicate(pool, beside, refuse, NULL,
                                      POOL_CALL(.target = target, .error = &error)),
                     POOL_E_USER);
        cr_expect_eq(strncmp(error.text, peer_address(peer), strlen(peer_address(peer))), 0, "%s",
                     error.text);
        cr_expect_eq(talk_to(pool, target), POOL_OK);
    }
    cr_expect_eq(pool_borrow(pool, beside, POOL_CALL(.target = target, .error = &error), NULL),
                 POOL_E_ARGUMENT);
    cr_expect_null(strstr(error.text, beside), "%s", error.text);
    cr_expect_eq(pool_remove_some_connection(pool), 1);
    peer_down(peer);
    cr_expect_eq(pool_borrow(pool, beside, POOL_CALL(.target = target, .error = &error), &conn),
                 POOL_E_REFUSED);
    cr_expect_null(strstr(error.text, beside), "%s", error.text);
    pool_destroy(pool);
    cr_expect_eq(pool_borrow(pool, beside, POOL_CALL(.target = target, .error = &error), &conn),
                 POOL_E_CLOSING);
    cr_expect_null(strstr(error.text, beside), "%s", error.text);
    pool_target_free(target);
    peer_stop(peer);
}

struct sharing {
    struct pool *pool;
    struct pool_target *target;
    unsigned rounds;
    atomic_uint failures;
};

static void share(unsigned index, void *argument)
{
    struct sharing *sharing = argument;

    (void)index;
    for (unsigned i = 0; i < sharing->rounds; i++)
        if (talk_to(sharing->pool, sharing->target))
            atomic_fetch_add(&sharing->failures, 1);
}

Test(pool_targets, many_threads_may_use_one_target)
{
    struct peer *peer = PEER(.own_process = true);
    struct sharing sharing = { .pool = MAKE_POOL(.max_per_address = 2) };

    sharing.rounds = 1000 / slowness();
    cr_assert_eq(pool_target_get(sharing.pool, peer_address(peer), &sharing.target), POOL_OK);
    cr_assert(run_threads(8, share, &sharing));
    cr_expect_eq(sharing.failures, 0);
    cr_expect_leq(STAT(sharing.pool, opened), 2);
    pool_target_free(sharing.target);
    pool_destroy(sharing.pool);
    peer_stop(peer);
}

/* Peers come and go; a target holds its own, through evictions and the peer's restarts. */
Test(pool_targets, a_target_outlives_all_connections_of_its_peer)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct pool_target *target;

    cr_assert_eq(pool_target_get(pool, peer_address(peer), &target), POOL_OK);
    for (int i = 0; i < 20; i++) {
        cr_expect_eq(talk_to(pool, target), POOL_OK);
        if (i % 2)
            cr_expect_eq(pool_remove_some_connection(pool), 1);
        else
            cr_expect(peer_restart(peer));
    }
    pool_target_free(target);
    pool_destroy(pool);
    peer_stop(peer);
}

Test(pool_targets, a_target_may_be_freed_after_its_pool)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_target *target;
    int before = count_descriptors();

    cr_assert_eq(pool_target_get(pool, peer_address(peer), &target), POOL_OK);
    cr_expect_eq(talk_to(pool, target), POOL_OK);
    pool_destroy(pool);
    pool_target_free(target);
    cr_expect_lt(count_descriptors(), before + 1);
    peer_stop(peer);
}

Test(pool_targets, a_closing_pool_gives_none_not_even_of_an_address_that_it_knows)
{
    struct peer *peer = PEER();
    struct pool *pool = MAKE_POOL();
    struct pool_target *target;
    struct pool_conn conn;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_close(pool, POOL_NONE, NULL, NULL), POOL_OK);
    cr_expect_eq(pool_target_get(pool, peer_address(peer), &target), POOL_E_CLOSING);
    cr_expect_null(target);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    peer_stop(peer);
}

/* Without anybody who needs it, a peer's record is given up, and the next use makes a new one. */
Test(pool_targets, thousands_of_addresses_leave_no_trace_once_nobody_needs_them)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    char address[128];

    for (int i = 0; i < 3000; i++) {
        struct pool_conn conn;

        snprintf(address, sizeof(address), "%s?tenant=%d", peer_address(peer), i % 1500);
        cr_assert(borrow(pool, address, &conn));
        cr_assert_str_eq(pool_conn_address(&conn), address);
        cr_assert_eq(pool_discard(&conn), POOL_OK);
    }
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(STAT(pool, opened), 3000);
    pool_destroy(pool);
    peer_stop(peer);
}
