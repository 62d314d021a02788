/* test_fork.c: in a child of fork() the parent's pools are refused, its sockets untouched, and its
 * descriptors closed by destroy; the child makes pools of its own. Where it forks, from a callback
 * or beside other threads, makes no difference. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool/exchange.h"
#include "pool/pool.h"
#include "support/child.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* A parent with one connection of each kind: lent, idle, being opened. */
struct parent {
    struct peer *peer, *hung;
    struct pool_mux *mux; /* NULL: a thread of its own */
    struct pool *pool;
    struct pool_target *target;
    struct pool_conn lent, stale;
    struct caller opening;
    struct pool_ticket *ticket; /* of one more that waits there */
    atomic_int ends;
    int descriptors_before, descriptors;
};

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct parent *parent = user;

    parent->ends += !conn && error->status == POOL_E_CANCELED;
}

static bool has_opened_all(void *argument)
{
    return count_descriptors() == ((struct parent *)argument)->descriptors;
}

static void set_up_parent(struct parent *parent, const struct pool_options *options)
{
    struct pool_conn idle;

    parent->peer = PEER(.own_process = true);
    parent->hung = PEER(.behave = PEER_NEVER_ACCEPT, .own_process = true);
    parent->descriptors_before = count_descriptors();
    parent->pool = make_pool(options);
    cr_assert(borrow(parent->pool, peer_address(parent->peer), &parent->lent));
    cr_assert(borrow(parent->pool, peer_address(parent->peer), &idle));
    parent->stale = idle;
    cr_assert_eq(pool_return(&idle), POOL_OK);
    cr_assert_eq(pool_target_get(parent->pool, peer_address(parent->peer), &parent->target),
                 POOL_OK);
    cr_assert(
        queue_caller(&parent->opening, parent->pool, peer_address(parent->hung), VERBS_SOON * 10));
    cr_assert_eq(pool_communicate_async(parent->pool, peer_address(parent->hung), on_lent, parent,
                                        POOL_CALL(.timeout_ms = POOL_NONE), &parent->ticket),
                 POOL_OK);
    parent->descriptors = parent->descriptors_before + 7; /* three of the mux */
    cr_assert(wait_until(has_opened_all, parent, VERBS_SOON));
}

/* It goes on as if nothing had been: the same connections, no end, no byte too many. */
static void expect_undisturbed(struct parent *parent)
{
    uint64_t id = pool_conn_id(&parent->lent);

    cr_expect(peer_wait_open(parent->peer, 2, VERBS_SOON));
    cr_expect_eq(peer_count(parent->peer, PEER_BYTES_IN), peer_count(parent->peer, PEER_BYTES_OUT));
    cr_expect_eq(echo(&parent->lent, "still mine"), 0);
    cr_expect_eq(pool_return(&parent->lent), POOL_OK);
    cr_expect_eq(id_of_next(parent->pool, peer_address(parent->peer)), id);
    cr_expect_eq(talk(parent->pool, peer_address(parent->peer)), POOL_OK);
    cr_expect_eq(peer_accepted(parent->peer, 2), 2);
    cr_expect_eq(count_descriptors(), parent->descriptors);
}

static bool has_ended(void *argument)
{
    return ((struct parent *)argument)->ends == 1;
}

static void tear_down_parent(struct parent *parent)
{
    cr_expect(pool_ticket_cancel(parent->ticket));
    cr_expect(wait_until(has_ended, parent, VERBS_SOON));
    pool_ticket_free(parent->ticket);
    pool_target_free(parent->target);
    pool_destroy(parent->pool);
    cr_expect_eq(join_caller(&parent->opening), POOL_E_CLOSING);
    pool_mux_destroy(parent->mux);
    cr_expect(peer_wait_open(parent->peer, 0, VERBS_SOON));
    cr_expect_eq(count_descriptors(), parent->descriptors_before);
    peer_stop(parent->peer);
    peer_stop(parent->hung);
}

/* ---- refused */

static int use_the_pool(void *argument)
{
    struct parent *parent = argument;
    const char *address = peer_address(parent->peer);
    struct pool_stats stats = { .size = sizeof(stats) };
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_ticket *ticket;
    struct pool_target *target;
    struct pool_conn conn;
    size_t needed;

    child_watch_door();
    CHILD_NEEDS(pool_borrow(parent->pool, address, NULL, &conn) == POOL_E_FORKED);
    CHILD_NEEDS(!conn.slot && !conn.serial);
    CHILD_NEEDS(pool_borrow(parent->pool, NULL, POOL_CALL(.target = parent->target), &conn) ==
                POOL_E_FORKED);
    CHILD_NEEDS(pool_communicate(parent->pool, address, do_nothing, NULL,
                                 POOL_CALL(.error = &error)) == POOL_E_FORKED);
    CHILD_NEEDS(error.status == POOL_E_FORKED && error.outcome == POOL_NOT_SENT);
    CHILD_NEEDS(pool_communicate_async(parent->pool, address, on_lent, parent, NULL, &ticket) ==
                POOL_E_FORKED);
    CHILD_NEEDS(!ticket && !pool_ticket_cancel(parent->ticket) && !parent->ends);
    pool_ticket_free(parent->ticket);
    CHILD_NEEDS(pool_target_get(parent->pool, address, &target) == POOL_E_FORKED && !target);
    CHILD_NEEDS(pool_stats(parent->pool, &stats) == POOL_E_FORKED);
    CHILD_NEEDS(pool_stats_json(parent->pool, NULL, 0, &needed) == POOL_E_FORKED);
    CHILD_NEEDS(pool_clear(parent->pool, NULL, POOL_INTERRUPT) == POOL_E_FORKED);
    CHILD_NEEDS(pool_pause(parent->pool) == POOL_E_FORKED);
    CHILD_NEEDS(pool_ready(parent->pool) == POOL_E_FORKED);
    CHILD_NEEDS(pool_close(parent->pool, POOL_ZERO, NULL, NULL) == POOL_E_FORKED);
    CHILD_NEEDS(pool_reserve_fds(parent->pool, 1) == POOL_E_FORKED);
    CHILD_NEEDS(!pool_kill(parent->pool, 1) && !pool_force_timeout(parent->pool, 1));
    CHILD_NEEDS(pool_mark_as_dead(parent->pool, pool_conn_fd(&parent->lent)) == 0);
    CHILD_NEEDS(pool_remove_some_connection(parent->pool) == 0);
    pool_target_free(parent->target);
    CHILD_NEEDS(child_door_calls() == 0);
    return 0;
}

Test(pool_fork, the_child_is_refused_every_use_of_the_parents_pool)
{
    struct parent parent = { .ends = 0 };

    set_up_parent(&parent, POOL_OPTIONS(.connect_ms = POOL_NONE));
    cr_expect_eq(child_run(use_the_pool, &parent), 0);
    expect_undisturbed(&parent);
    tear_down_parent(&parent);
}

static int use_the_handles(void *argument)
{
    struct parent *parent = argument;
    struct pool_conn lent = parent->lent, stale = parent->stale;
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_bytes bytes;
    char buffer[8] = "no";
    struct iovec piece = { .iov_base = buffer, .iov_len = 2 };
    size_t got;

    child_watch_door();
    CHILD_NEEDS(pool_send(&lent, "no", 2) == POOL_E_FORKED);
    CHILD_NEEDS(pool_sendv(&lent, &piece, 1) == POOL_E_FORKED);
    CHILD_NEEDS(pool_recv(&lent, buffer, sizeof(buffer), &got) == POOL_E_FORKED && got == 0);
    CHILD_NEEDS(pool_recv_exact(&lent, buffer, sizeof(buffer)) == POOL_E_FORKED);
    CHILD_NEEDS(pool_recv_until(&lent, "\n", 1, &bytes) == POOL_E_FORKED && !bytes.size);
    CHILD_NEEDS(pool_write(&lent, "no", 2) == POOL_E_FORKED);
    CHILD_NEEDS(pool_conn_timeout(&lent, POOL_READ, 1) == POOL_E_FORKED);
    CHILD_NEEDS(pool_conn_error(&lent, &error) == POOL_E_FORKED);
    CHILD_NEEDS(pool_conn_id(&lent) == 0 && pool_conn_fd(&lent) == -1);
    CHILD_NEEDS(!pool_conn_address(&lent) && pool_conn_last_used_ns(&lent) == 0);
    CHILD_NEEDS(!pool_conn_same(&lent, &lent));
    pool_conn_drain(&lent);
    pool_conn_ready(&lent, POOL_OK);
    CHILD_NEEDS(pool_return(&lent) == POOL_E_FORKED);
    CHILD_NEEDS(pool_discard(&lent) == POOL_E_FORKED);
    CHILD_NEEDS(pool_return(&lent) == POOL_E_FORKED && lent.slot);
    CHILD_NEEDS(pool_send(&stale, "no", 2) == POOL_E_ARGUMENT);
    CHILD_NEEDS(pool_return(&stale) == POOL_E_ARGUMENT);
    CHILD_NEEDS(child_door_calls() == 0);
    return 0;
}

Test(pool_fork, the_child_is_refused_every_operation_on_a_lent_handle)
{
    struct parent parent = { .ends = 0 };

    set_up_parent(&parent, POOL_OPTIONS(.connect_ms = POOL_NONE));
    cr_expect_eq(child_run(use_the_handles, &parent), 0);
    expect_undisturbed(&parent);
    tear_down_parent(&parent);
}

/* ---- destroyed */

static int destroy_the_pool(void *argument)
{
    struct parent *parent = argument;
    int before = count_descriptors(); /* those of a mux are gone already */

    child_watch_door();
    pool_destroy(parent->pool);
    CHILD_NEEDS(before - count_descriptors() == 4);
    CHILD_NEEDS(count_descriptors() == parent->descriptors_before);
    pool_destroy(parent->pool);
    CHILD_NEEDS(pool_send(&parent->lent, "no", 2) == POOL_E_FORKED);
    CHILD_NEEDS(pool_discard(&parent->lent) == POOL_E_FORKED);
    CHILD_NEEDS(talk(parent->pool, peer_address(parent->peer)) == POOL_E_FORKED);
    CHILD_NEEDS(count_descriptors() == parent->descriptors_before);
    CHILD_NEEDS(child_door_calls() == 0);
    return 0;
}

Test(pool_fork, destroying_it_in_the_child_closes_the_copies_and_nothing_else)
{
    struct parent parent = { .ends = 0 };

    set_up_parent(&parent, POOL_OPTIONS(.connect_ms = POOL_NONE, .park_ms = 1));
    cr_expect_eq(child_run(destroy_the_pool, &parent), 0);
    expect_undisturbed(&parent);
    tear_down_parent(&parent);
}

/* Ends the first child's life with a child of its own, which must find the same. */
static int destroy_in_a_grandchild(void *argument)
{
    return child_run(destroy_the_pool, argument);
}

Test(pool_fork, a_grandchild_finds_what_a_child_does)
{
    struct parent parent = { .ends = 0 };

    set_up_parent(&parent, POOL_OPTIONS(.connect_ms = POOL_NONE));
    cr_expect_eq(child_run(destroy_in_a_grandchild, &parent), 0);
    expect_undisturbed(&parent);
    tear_down_parent(&parent);
}

struct replaced {
    struct parent *parent;
    int fd;
};

static int replace_then_destroy(void *argument)
{
    struct replaced *replaced = argument;
    int pair[2];
    char byte = 0;

    CHILD_NEEDS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHILD_NEEDS(dup2(pair[0], replaced->fd) == replaced->fd);
    pool_destroy(replaced->parent->pool);
    CHILD_NEEDS(write(replaced->fd, "x", 1) == 1 && read(pair[1], &byte, 1) == 1 && byte == 'x');
    return 0;
}

Test(pool_fork, destroying_it_in_the_child_leaves_a_number_that_is_another_s_by_now)
{
    struct parent parent = { .ends = 0 };
    struct replaced replaced = { .parent = &parent };

    set_up_parent(&parent, POOL_OPTIONS(.connect_ms = POOL_NONE));
    replaced.fd = pool_conn_fd(&parent.lent);
    cr_expect_eq(child_run(replace_then_destroy, &replaced), 0);
    expect_undisturbed(&parent);
    tear_down_parent(&parent);
}

static int wait_for_the_end(void *argument)
{
    int go = *(int *)argument;
    char byte;

    return read(go, &byte, 1) == 0 ? 0 : 1;
}

Test(pool_fork, a_connection_that_the_parent_closes_ends_also_while_a_child_has_its_copy)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    int line[2];
    pid_t child;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pipe(line), 0);
    child = child_fork();
    if (child == 0) {
        close(line[1]);
        pool_destroy(pool);
        _exit(wait_for_the_end(&line[0]));
    }
    close(line[0]);
    cr_expect_eq(pool_discard(&conn), POOL_OK);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON), "the child let go of its copy");
    close(line[1]);
    cr_expect_eq(child_status(child), 0);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- the child's own */

static int use_an_own_pool(void *argument)
{
    struct parent *parent = argument;
    struct pool *pool = MAKE_POOL(.park_ms = 1, .max_per_address = 1);
    struct pool_conn conn, other;

    CHILD_NEEDS(pool);
    CHILD_NEEDS(talk(pool, peer_address(parent->peer)) == POOL_OK);
    CHILD_NEEDS(id_of_next(pool, peer_address(parent->peer)) == 1);
    CHILD_NEEDS(borrow(pool, peer_address(parent->peer), &conn));
    CHILD_NEEDS(STAT(pool, lent) == 1 && STAT(pool, total) == 1);
    CHILD_NEEDS(pool_borrow(pool, peer_address(parent->peer), POOL_CALL(.timeout_ms = 20),
                            &other) == POOL_E_TIMEOUT);
    CHILD_NEEDS(talk(parent->pool, peer_address(parent->peer)) == POOL_E_FORKED);
    pool_destroy(parent->pool);
    CHILD_NEEDS(echo(&conn, "mine") == 0 && pool_return(&conn) == POOL_OK);
    CHILD_NEEDS(talk(pool, peer_address(parent->peer)) == POOL_OK);
    pool_destroy(pool);
    return 0;
}

static int use_an_own_pool_in_a_grandchild(void *argument)
{
    struct parent *parent = argument;
    struct pool *pool = MAKE_POOL();

    CHILD_NEEDS(talk(pool, peer_address(parent->peer)) == POOL_OK);
    CHILD_NEEDS(child_run(use_an_own_pool, argument) == 0);
    CHILD_NEEDS(talk(pool, peer_address(parent->peer)) == POOL_OK);
    CHILD_NEEDS(id_of_next(pool, peer_address(parent->peer)) == 1);
    pool_destroy(pool);
    return 0;
}

Test(pool_fork, the_child_has_pools_of_its_own_and_may_fork_again)
{
    struct parent parent = { .ends = 0 };

    set_up_parent(&parent, POOL_OPTIONS(.connect_ms = POOL_NONE));
    cr_expect_eq(child_run(use_an_own_pool_in_a_grandchild, &parent), 0);
    cr_expect(peer_wait_open(parent.peer, 2, VERBS_SOON));
    cr_expect_eq(peer_accepted(parent.peer, 4), 4);
    cr_expect_eq(echo(&parent.lent, "still mine"), 0);
    cr_expect_eq(pool_return(&parent.lent), POOL_OK);
    tear_down_parent(&parent);
}

static int make_many(void *argument)
{
    struct parent *parent = argument;
    struct pool *pools[8];

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 8; i++) {
            pools[i] = MAKE_POOL();
            CHILD_NEEDS(talk(pools[i], peer_address(parent->peer)) == POOL_OK);
        }
        for (int i = 0; i < 8; i++)
            pool_destroy(pools[i]);
    }
    return 0;
}

Test(pool_fork, the_childs_pools_meet_no_memory_of_the_parents)
{
    struct parent parent = { .ends = 0 };

    set_up_parent(&parent, POOL_OPTIONS(.connect_ms = POOL_NONE));
    cr_expect_eq(child_run(make_many, &parent), 0);
    cr_expect_eq(echo(&parent.lent, "still mine"), 0);
    cr_expect_eq(pool_return(&parent.lent), POOL_OK);
    tear_down_parent(&parent);
}

/* What a thread that the child does not have may have held: locks of a pool, a peer and an
 * exchange that were free by then, and so will be the child's next ones. */
struct held {
    const char *address;
    pthread_mutex_t *locks[3];
    pthread_barrier_t taken;
    int line[2]; /* the holder lets go at its end */
};

static void *hold_locks(void *argument)
{
    struct held *held = argument;
    char byte;

    for (int i = 0; i < 3; i++)
        pthread_mutex_lock(held->locks[i]);
    pthread_barrier_wait(&held->taken);
    cr_expect_eq(read(held->line[0], &byte, 1), 0);
    for (int i = 0; i < 3; i++)
        pthread_mutex_unlock(held->locks[i]);
    return NULL;
}

static int look_at_the_locks(void *argument)
{
    struct held *held = argument;
    struct pool *pool;

    for (int i = 0; i < 3; i++) {
        CHILD_NEEDS(pthread_mutex_trylock(held->locks[i]) == 0);
        pthread_mutex_unlock(held->locks[i]);
    }
    pool = MAKE_POOL();
    CHILD_NEEDS(pool && talk(pool, held->address) == POOL_OK);
    pool_destroy(pool);
    return 0;
}

Test(pool_fork, a_lock_that_another_thread_held_at_the_fork_hinders_no_pool_of_the_child)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool = MAKE_POOL();
    struct pool_target *target;
    struct pl_exchange *exchange;
    struct held held = { .address = peer_address(peer) };
    pthread_t thread;

    cr_assert_eq(pool_target_get(pool, peer_address(peer), &target), POOL_OK);
    held.locks[0] = &pool->lock;
    held.locks[1] = &target->peer->lock;
    exchange = pl_exchange_of(target->peer);
    cr_assert_not_null(exchange);
    held.locks[2] = &exchange->lock;
    pool_target_free(target);
    pool_destroy(pool);
    cr_assert_eq(pipe(held.line), 0);
    pthread_barrier_init(&held.taken, NULL, 2);
    pthread_create(&thread, NULL, hold_locks, &held);
    pthread_barrier_wait(&held.taken);
    cr_expect_eq(child_run(look_at_the_locks, &held), 0);
    close(held.line[1]);
    pthread_join(thread, NULL);
    close(held.line[0]);
    peer_stop(peer);
}

/* ---- the ways out of a child */

static int leave_by_exit(void *argument)
{
    (void)argument;
    exit(7);
}

Test(pool_fork, the_child_may_exit_whatever_the_parent_has)
{
    struct parent parent = { .ends = 0 };

    set_up_parent(&parent, POOL_OPTIONS(.connect_ms = POOL_NONE));
    cr_expect_eq(child_run(leave_by_exit, &parent), 7);
    expect_undisturbed(&parent);
    tear_down_parent(&parent);
}

/* The numbers from 3 on that are open; a bit each. */
static uint64_t open_numbers(void)
{
    uint64_t numbers = 0;

    for (int fd = 3; fd < 64; fd++)
        numbers |= (uint64_t)(fcntl(fd, F_GETFD) >= 0) << fd;
    return numbers;
}

static int look_after_exec(void *argument)
{
    uint64_t numbers = *(uint64_t *)argument;
    char script[1024] = "";

    for (int fd = 3; fd < 64; fd++) {
        if (numbers >> fd & 1)
            snprintf(script + strlen(script), sizeof(script) - strlen(script),
                     "[ ! -e /proc/$$/fd/%d ] || exit 1; ", fd);
    }
    execl("/bin/sh", "sh", "-c", script, (char *)NULL);
    return 2;
}

Test(pool_fork, a_program_that_the_child_executes_has_none_of_the_descriptors)
{
    uint64_t before, ours;
    struct peer *peer = PEER(.own_process = true);
    struct pool *pool;

    before = open_numbers();
    pool = MAKE_POOL();
    cr_assert_eq(talk(pool, peer_address(peer)), POOL_OK);
    ours = open_numbers() & ~before;
    cr_assert_eq(__builtin_popcountll(ours), 4, "three of the mux, one connection");
    cr_expect_eq(child_run(look_after_exec, &ours), 0);
    pool_destroy(pool);
    peer_stop(peer);
}
