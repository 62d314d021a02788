/* test_shortage.c: every errno that closing something can cure is cured by evicting the least
 * recently used idle connection and trying again; told by a door that runs short on command. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/os.h"
#include "pool/room.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"
#include "world/world.h"

/* ---- the door */

static struct pl_os door;
static _Atomic int shortage, most_sockets;
static atomic_int open_sockets;
static atomic_uint attempts;
static enum { AT_SOCKET, AT_CONNECT, AT_CONNECT_LATE, AT_COOKIE } where;

static bool is_short(void)
{
    atomic_fetch_add(&attempts, 1);
    return shortage && open_sockets > most_sockets;
}

static int short_socket(int family, int type, int protocol)
{
    int fd;

    atomic_fetch_add(&open_sockets, 1);
    if (where == AT_SOCKET && is_short()) {
        atomic_fetch_sub(&open_sockets, 1);
        return -shortage;
    }
    fd = pl_os_real.socket(family, type, protocol);
    if (fd < 0)
        atomic_fetch_sub(&open_sockets, 1);
    return fd;
}

static int short_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    return where == AT_CONNECT && is_short() ? -shortage : pl_os_real.connect(fd, address, size);
}

static int short_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    int result = pl_os_real.getsockopt(fd, level, name, value, size);

    if (where == AT_CONNECT_LATE && level == SOL_SOCKET && name == SO_ERROR && is_short())
        *(int *)value = shortage;
    return result;
}

static int counting_close(int fd)
{
    int type;
    socklen_t size = sizeof(type);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0)
        atomic_fetch_sub(&open_sockets, 1);
    return pl_os_real.close(fd);
}

static void open_short_door(int error, int most)
{
    shortage = error;
    most_sockets = most;
    open_sockets = 0;
    attempts = 0;
    door = pl_os_real;
    door.socket = short_socket;
    door.connect = short_connect;
    door.getsockopt = short_getsockopt;
    door.close = counting_close;
    pl_os_replace(&door);
}

static void cure(int error)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool;

    open_short_door(error, 5);
    pool = MAKE_POOL();
    for (unsigned i = 0; i < 30; i++)
        cr_expect_eq(talk(pool, loopback_at(peer, i)), POOL_OK, "%s %d", strerrorname_np(error),
                     where);
    cr_expect_eq(STAT(pool, total), 5, "%s", strerrorname_np(error));
    cr_expect_eq(STAT(pool, evicted), 25, "%s", strerrorname_np(error));
    cr_expect_leq(attempts, 30 + 25, "%s: it tried again and again", strerrorname_np(error));
    pool_destroy(pool);
    cr_expect_eq(open_sockets, 0);
    pl_os_replace(NULL);
    peer_stop(peer);
}

Test(pool_shortage, every_shortage_evicts_and_tries_again)
{
    static const int errors[] = { EMFILE, ENFILE, ENOBUFS, ENOMEM };

    where = AT_SOCKET;
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
        cure(errors[i]);
    where = AT_CONNECT;
    cure(EADDRNOTAVAIL);
    where = AT_CONNECT_LATE;
    cure(EADDRNOTAVAIL);
}

/* There never is a port, so it ends at the deadline, not before. */
Test(pool_shortage, a_shortage_that_nothing_cures_ends_at_the_deadline)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    struct pool *pool;
    uint64_t start_ms;

    where = AT_CONNECT;
    open_short_door(EADDRNOTAVAIL, 0);
    pool = MAKE_POOL();
    start_ms = now_ms();
    cr_expect_eq(pool_borrow(pool, peer_address(peer),
                             POOL_CALL(.timeout_ms = 250, .error = &error), &conn),
                 POOL_E_RESOURCE);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 250));
    cr_expect_eq(error.cause, EADDRNOTAVAIL);
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
    cr_expect_eq(STAT(pool, total), 0);
    cr_expect_eq(pl_room_wanted, 0);
    pool_destroy(pool);
    pl_os_replace(NULL);
    peer_stop(peer);
}

static atomic_bool is_trying_again, is_caller_back;

static bool has_caller_come_back(void *argument)
{
    (void)argument;
    return atomic_load(&is_caller_back);
}

/* The first attempt finds no descriptor at once, the next one only when its caller has gone. */
static int slow_socket(int family, int type, int protocol)
{
    (void)family, (void)type, (void)protocol;
    if (atomic_fetch_add(&attempts, 1) > 0) {
        atomic_store(&is_trying_again, true);
        cr_expect(wait_until(has_caller_come_back, NULL, VERBS_SOON));
    }
    return -EMFILE;
}

static void note_back(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)conn;
    *(struct pool_error *)user = *error;
}

Test(pool_shortage, a_deadline_that_comes_while_it_is_tried_again_still_tells_of_the_shortage)
{
    struct peer *peer = PEER(.own_process = true);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    struct pool *pool;

    open_short_door(EMFILE, 0);
    door.socket = slow_socket;
    is_trying_again = is_caller_back = false;
    pool = MAKE_POOL();
    cr_expect_eq(pool_borrow(pool, peer_address(peer),
                             POOL_CALL(.timeout_ms = 250, .error = &error), &conn),
                 POOL_E_RESOURCE, "%s", error.text);
    cr_expect(is_trying_again);
    cr_expect_eq(error.cause, EMFILE);
    atomic_store(&is_caller_back, true);
    cr_expect(WAIT_STAT(pool, total, 0));
    pool_destroy(pool);
    pl_os_replace(NULL);
    peer_stop(peer);
}

#define A "tcp://10.0.0.1:80"

/* At every moment between two attempts, and in the middle of them, in one order or the other. */
Test(pool_shortage, whenever_the_deadline_comes_in_a_shortage_the_shortage_is_told)
{
    struct world *world = world_create(11);
    struct pool_error error, told;
    struct pool_conn conn;
    struct pool *pool;

    WORLD_LISTEN(world, A, .behave = WORLD_ECHO);
    pl_os_replace(world_os(world));
    pool = MAKE_POOL();
    world_settle(world);
    world_limit_descriptors(world, world_descriptors(world) + 3);
    for (uint32_t ms = 1; ms <= 320; ms++) {
        error = told = (struct pool_error)POOL_ERROR_INIT;
        cr_assert_eq(pool_communicate_async(pool, A, note_back, &told,
                                            POOL_CALL(.timeout_ms = ms), NULL),
                     POOL_OK);
        cr_expect_eq(pool_borrow(pool, A, POOL_CALL(.timeout_ms = ms, .error = &error), &conn),
                     POOL_E_RESOURCE, "%u: %s", ms, error.text);
        world_run(world, 2);
        cr_expect_eq(told.status, POOL_E_RESOURCE, "%u: %s", ms, told.text);
    }
    world_limit_descriptors(world, 1024);
    world_run(world, 200);
    cr_expect_eq(talk(pool, A), POOL_OK);
    pool_destroy(pool);
    pl_os_replace(NULL);
    world_destroy(world);
}

static void lift_limit(void *argument)
{
    world_limit_descriptors(argument, 1024);
}

Test(pool_shortage, a_deadline_after_the_shortage_tells_what_is_waited_for_by_then)
{
    struct world *world = world_create(11);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_conn conn;
    struct pool *pool;

    WORLD_LISTEN(world, A, .behave = WORLD_BLACK_HOLE);
    pl_os_replace(world_os(world));
    pool = MAKE_POOL();
    world_settle(world);
    world_limit_descriptors(world, world_descriptors(world) + 3);
    world_at(world, 50, lift_limit, world);
    cr_expect_eq(pool_borrow(pool, A, POOL_CALL(.timeout_ms = 250, .error = &error), &conn),
                 POOL_E_TIMEOUT, "%s", error.text);
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
    pool_destroy(pool);
    pl_os_replace(NULL);
    world_destroy(world);
}

/* EADDRNOTAVAIL, too, but of bind(): no connection that closes could cure it. */
Test(pool_shortage, a_bind_that_is_not_of_this_machine_fails_at_once_and_evicts_nobody)
{
    enum { IDLE = 8 };
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool *pool = MAKE_POOL();
    char address[64];
    uint64_t start_ms;

    for (unsigned i = 0; i < IDLE; i++)
        cr_assert_eq(talk(pool, loopback_at(peer, i)), POOL_OK);
    snprintf(address, sizeof(address), "%s?bind=192.0.2.1", loopback_at(peer, 0));
    start_ms = now_ms();
    cr_expect_eq(pool_communicate(pool, address, do_nothing, NULL,
                                  POOL_CALL(.timeout_ms = VERBS_SOON, .error = &error)),
                 POOL_E_ADDRESS);
    cr_expect(IN_TIME(elapsed_ms(start_ms), 0));
    cr_expect_eq(error.cause, EADDRNOTAVAIL);
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
    cr_expect_not_null(strstr(error.text, "bind= is no address of this machine (EADDRNOTAVAIL)"),
                       "%s", error.text);
    cr_expect_eq(STAT(pool, evicted), 0);
    cr_expect_eq(STAT(pool, idle), IDLE);
    for (unsigned i = 0; i < IDLE; i++)
        cr_expect_eq(id_of_next(pool, loopback_at(peer, i)), i + 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* The same number from both, told apart by who said it. */
Test(pool_shortage, a_bad_bind_takes_no_time_and_a_lack_of_ports_evicts_in_the_scripted_world)
{
    struct world *world = world_create(11);
    struct world_peer *peer = WORLD_LISTEN(world, "tcp://10.0.0.1:80", .behave = WORLD_ECHO);
    struct pool_conn conn;
    uint64_t before_ms;
    struct pool *pool;

    WORLD_LISTEN(world, "tcp://10.0.0.2:80", .behave = WORLD_ECHO);
    world_limit_ports(world, 1);
    pl_os_replace(world_os(world));
    pool = MAKE_POOL();
    cr_assert_eq(talk(pool, "tcp://10.0.0.1:80"), POOL_OK);
    before_ms = world_now_ms(world);
    cr_expect_eq(pool_borrow(pool, "tcp://10.0.0.2:80?bind=192.0.2.1", NULL, &conn),
                 POOL_E_ADDRESS);
    cr_expect_eq(world_now_ms(world), before_ms);
    cr_expect_eq(world_counts(peer).open, 1);
    cr_expect_eq(talk(pool, "tcp://10.0.0.2:80"), POOL_OK);
    world_settle(world);
    cr_expect_eq(world_counts(peer).open, 0);
    cr_expect_eq(STAT(pool, evicted), 1);
    pool_destroy(pool);
    cr_expect_eq(world_violations(world), 0);
    pl_os_replace(NULL);
    world_destroy(world);
}

Test(pool_shortage, what_is_no_shortage_evicts_nothing)
{
    static const int errors[] = { EACCES, EAFNOSUPPORT, EINVAL };
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    struct pool *pool;

    where = AT_SOCKET;
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        open_short_door(errors[i], 1);
        pool = MAKE_POOL();
        cr_expect_eq(talk(pool, loopback_at(peer, 0)), POOL_OK);
        cr_expect_lt(talk(pool, loopback_at(peer, 1)), POOL_OK);
        cr_expect(WAIT_STAT(pool, total, 1));
        cr_expect_eq(STAT(pool, evicted), 0);
        pool_destroy(pool);
        pl_os_replace(NULL);
    }
    peer_stop(peer);
}

/* ---- a spare for which there is no memory */

static pthread_t mux_thread;
static atomic_bool is_scarce, has_asked, may_answer;
static atomic_uint slept;

static int note_thread(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)actor, (void)user;
    mux_thread = pthread_self();
    return 0;
}

/* The mux is refused once, and has to wait for the answer. */
static void *scarce_malloc(size_t size)
{
    if (!atomic_load(&is_scarce) || !pthread_equal(pthread_self(), mux_thread))
        return pl_os_real.malloc(size);
    atomic_store(&is_scarce, false);
    atomic_store(&has_asked, true);
    while (!atomic_load(&may_answer))
        sched_yield();
    return NULL;
}

static int counted_sleep(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    atomic_fetch_add(&slept, 1);
    return pl_os_real.sleep_until(word, expected, deadline_ns);
}

static bool is_set(void *flag)
{
    return atomic_load((atomic_bool *)flag);
}

static bool has_slept(void *unused)
{
    (void)unused;
    return atomic_load(&slept);
}

Test(pool_shortage, who_queued_behind_a_spare_that_comes_to_nothing_has_one_opened_at_once)
{
    struct peer *peer = PEER();
    struct pool_conn kept, spare;
    struct caller waiter;
    struct pool *pool;

    door = pl_os_real;
    door.malloc = scarce_malloc;
    door.sleep_until = counted_sleep;
    pl_os_replace(&door);
    pool = MAKE_POOL(.max_per_address = 2, .min_idle = 2, .on_new_connection = note_thread);
    cr_assert(borrow(pool, peer_address(peer), &kept));
    cr_assert(borrow(pool, peer_address(peer), &spare));
    atomic_store(&slept, 0);
    atomic_store(&is_scarce, true);
    pool_discard(&spare);
    cr_assert(wait_until(is_set, &has_asked, VERBS_SOON));
    cr_assert(queue_caller(&waiter, pool, peer_address(peer), 700));
    cr_assert(wait_until(has_slept, NULL, VERBS_SOON));
    atomic_store(&may_answer, true);
    cr_expect_eq(join_caller(&waiter), POOL_OK);
    pool_return(&waiter.conn);
    pool_return(&kept);
    pool_destroy(pool);
    pl_os_replace(NULL);
    peer_stop(peer);
}
