/* test_adopt.c: a socket that the program connected itself becomes a connection of the pool, or
 * stays exactly as it was. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/os.h"
#include "support/child.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

static struct peer *peer;

static void begin(void)
{
    peer = PEER();
}

static void end(void)
{
    peer_stop(peer);
}

TestSuite(adopt, .init = begin, .fini = end, .timeout = 60);

/* ---- what becomes of it */

Test(adopt, an_adopted_socket_is_lent_like_any_other)
{
    struct pool *pool = MAKE_POOL();
    int fd = peer_dial(peer);
    struct pool_conn conn;

    cr_assert_geq(fd, 3);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_OK);
    cr_expect_eq(STAT(pool, idle), 1);
    cr_expect_eq(STAT(pool, opened), 1);
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_conn_fd(&conn), fd, "it keeps its number");
    cr_expect_eq(pool_conn_id(&conn), 1);
    cr_expect_str_eq(pool_conn_address(&conn), peer_address(peer));
    cr_expect_eq(echo(&conn, "hello"), 0);
    pool_return(&conn);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1, "warm");
    cr_assert(wait_parked(fd));
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 1, "and when it was parked");
    cr_expect_eq(peer_accepted(peer, 1), 1);
    pool_destroy(pool);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON), "the pool closed it");
}

Test(adopt, it_is_made_blocking_and_close_on_exec)
{
    struct pool *pool = MAKE_POOL();
    int fd = peer_dial(peer);

    cr_assert_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    cr_assert_eq(fcntl(fd, F_SETFD, 0), 0);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_OK);
    cr_expect_eq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    cr_expect_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    pool_destroy(pool);
}

Test(adopt, numbers_of_the_standard_streams_are_moved_up)
{
    struct pool *pool = MAKE_POOL();

    for (int number = 0; number <= 2; number++) {
        int saved = fcntl(number, F_DUPFD_CLOEXEC, 10), fd = peer_dial(peer), copy;
        struct pool_conn conn;
        bool is_free;

        cr_assert_eq(dup2(fd, number), number);
        close(fd);
        cr_expect_eq(pool_adopt(pool, peer_address(peer), number), POOL_OK);
        copy = fcntl(number, F_GETFD);
        is_free = copy < 0 && errno == EBADF;
        dup2(saved, number);
        close(saved);
        cr_expect(is_free, "%d is the program's again", number);
        cr_assert(borrow(pool, peer_address(peer), &conn));
        cr_expect_geq(pool_conn_fd(&conn), 3);
        cr_expect_eq(fcntl(pool_conn_fd(&conn), F_GETFD), FD_CLOEXEC);
        cr_expect_eq(echo(&conn, "hello"), 0);
        pool_discard(&conn);
    }
    pool_destroy(pool);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
}

Test(adopt, a_caller_who_waits_gets_it)
{
    struct pool *pool = MAKE_POOL(.max_per_address = 2, .max_connecting = 1);
    struct peer *hanging = PEER(.behave = PEER_NEVER_ACCEPT, .family = AF_UNIX);
    struct caller caller;
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    cr_assert(queue_caller(&caller, pool, peer_address(hanging), VERBS_SOON));
    cr_expect_eq(pool_adopt(pool, peer_address(hanging), pair[0]), POOL_OK);
    cr_expect_eq(join_caller(&caller), POOL_OK);
    cr_expect_eq(pool_conn_fd(&caller.conn), pair[0]);
    cr_expect_eq(pool_return(&caller.conn), POOL_OK);
    pool_destroy(pool);
    close(pair[1]);
    peer_stop(hanging);
}

static int must_not_run(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)actor;
    ++*(unsigned *)user;
    return 1;
}

static int must_not_prepare(struct pool_conn *conn, void *user)
{
    (void)conn;
    ++*(unsigned *)user;
    return 1;
}

static int must_not_see(int fd, const char *address, void *user)
{
    (void)fd, (void)address;
    ++*(unsigned *)user;
    return 1;
}

Test(adopt, the_hooks_for_new_connections_do_not_run)
{
    unsigned calls = 0;
    struct pool *pool = MAKE_POOL(.on_new_connection = must_not_run, .prepare = must_not_prepare,
                                  .on_socket = must_not_see, .user = &calls);

    cr_expect_eq(pool_adopt(pool, peer_address(peer), peer_dial(peer)), POOL_OK);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(calls, 0);
    pool_destroy(pool);
}

static char told[256];

static void note(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind == POOL_EVENT_CONNECTION_CREATED)
        strcat(told, "created ");
    if (event->kind == POOL_EVENT_CONNECTION_READY)
        strcat(told, "ready ");
    if (event->kind == POOL_EVENT_CONNECTION_CLOSED)
        strcat(told, "closed ");
}

Test(adopt, observers_see_it_come_and_go)
{
    struct pool *pool = MAKE_POOL(.on_event = note);

    cr_expect_eq(pool_adopt(pool, peer_address(peer), peer_dial(peer)), POOL_OK);
    cr_expect_str_eq(told, "created ready ");
    pool_destroy(pool);
    cr_expect_str_eq(told, "created ready closed ");
}

Test(adopt, what_the_peer_ended_meanwhile_is_noticed_as_ever)
{
    struct pool *pool = MAKE_POOL();
    int fd = peer_dial(peer);

    cr_assert(peer_wait_accepted(peer, 1, VERBS_SOON));
    peer_close_all(peer);
    cr_assert_eq(listen_to(fd, VERBS_SOON), HEARD_END);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2, "a new one is opened");
    pool_destroy(pool);
}

Test(adopt, a_released_connection_can_come_back)
{
    struct pool *pool = MAKE_POOL(), *other = MAKE_POOL();
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(echo(&conn, "x"), 0);
    cr_assert_eq(pool_release_fd(&conn, &fd), POOL_OK);
    cr_expect_eq(pool_adopt(other, peer_address(peer), fd), POOL_OK);
    cr_expect_eq(talk(other, peer_address(peer)), POOL_OK);
    cr_assert(wait_parked(fd));
    cr_expect_eq(talk(other, peer_address(peer)), POOL_OK);
    cr_expect_eq(peer_accepted(peer, 1), 1);
    pool_destroy(pool);
    pool_destroy(other);
}

/* ---- limits */

Test(adopt, it_counts_against_the_limit_of_its_address)
{
    struct pool *pool = MAKE_POOL(.max_per_address = 2);
    int third = peer_dial(peer);

    cr_expect_eq(pool_adopt(pool, peer_address(peer), peer_dial(peer)), POOL_OK);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), peer_dial(peer)), POOL_OK);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), third), POOL_E_FULL);
    cr_expect_eq(STAT(pool, total), 2);
    cr_expect_geq(fcntl(third, F_GETFD), 0);
    close(third);
    pool_destroy(pool);
}

Test(adopt, no_more_are_kept_idle_than_max_idle_says)
{
    struct pool *pool = MAKE_POOL(.max_idle = 1);
    int second = peer_dial(peer);

    cr_expect_eq(pool_adopt(pool, peer_address(peer), peer_dial(peer)), POOL_OK);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), second), POOL_E_FULL);
    close(second);
    pool_destroy(pool);
}

Test(adopt, a_full_pool_evicts_an_idle_connection_for_it_and_refuses_it_when_none_is_idle)
{
    struct peer *other = PEER();
    struct pool *pool = MAKE_POOL(.max_connections = 1);
    struct pool_conn conn;
    int fd = peer_dial(peer);

    cr_assert_eq(talk(pool, peer_address(other)), POOL_OK);
    cr_assert(borrow(pool, peer_address(other), &conn));
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_E_FULL);
    cr_expect_eq(STAT(pool, total), 1);
    pool_return(&conn);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_OK);
    cr_expect_eq(STAT(pool, evicted), 1);
    cr_expect_eq(STAT(pool, total), 1);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_expect_eq(peer_accepted(peer, 1), 1);
    pool_destroy(pool);
    peer_stop(other);
}

/* ---- what is refused */

/* The peer in this process may still be accepting or closing its end of another one. */
static bool are_no_more(void *before)
{
    return count_descriptors() <= *(int *)before;
}

/* The descriptor is as it was: its flags, its number, and no epoll set knows it. */
static void expect_refused(struct pool *pool, const char *address, int fd,
                           enum pool_status expected)
{
    int descriptor = fcntl(fd, F_GETFD), file = fcntl(fd, F_GETFL), before = count_descriptors();

    cr_expect_eq(pool_adopt(pool, address, fd), expected, "%s of %d", address, fd);
    cr_expect_eq(fcntl(fd, F_GETFD), descriptor, "%s of %d", address, fd);
    cr_expect_eq(fcntl(fd, F_GETFL), file, "%s of %d", address, fd);
    cr_expect(wait_until(are_no_more, &before, VERBS_SOON), "%s of %d", address, fd);
    cr_expect_eq(STAT(pool, total), 0);
}

Test(adopt, only_connected_stream_sockets_of_the_addresss_kind_are_taken)
{
    struct pool *pool = MAKE_POOL();
    struct sockaddr_in any = { .sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct peer *six = PEER(.family = AF_INET6);
    char text[128];
    int files[2], datagrams[2], packets[2], streams[2];
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int unconnected = socket(AF_INET, SOCK_STREAM, 0);
    int four = peer_dial(peer), sixth = peer_dial(six);

    cr_assert(peer_wait_accepted(peer, 1, VERBS_SOON)); /* what it opens is counted, too */
    cr_assert(peer_wait_accepted(six, 1, VERBS_SOON));
    cr_assert_eq(pipe(files), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, streams), 0);
    cr_assert_eq(bind(listening, (struct sockaddr *)&any, sizeof(any)), 0);
    cr_assert_eq(listen(listening, 1), 0);
    expect_refused(pool, peer_address(peer), files[0], POOL_E_ARGUMENT);
    expect_refused(pool, peer_address(peer), listening, POOL_E_ARGUMENT);
    expect_refused(pool, peer_address(peer), unconnected, POOL_E_ARGUMENT);
    expect_refused(pool, "unix:///run/x", datagrams[0], POOL_E_ARGUMENT);
    expect_refused(pool, "unix:///run/x", packets[0], POOL_E_ARGUMENT);
    expect_refused(pool, peer_address(peer), streams[0], POOL_E_ARGUMENT);
    expect_refused(pool, "unix:///run/x", four, POOL_E_ARGUMENT);
    expect_refused(pool, "abstract://x", sixth, POOL_E_ARGUMENT);
    snprintf(text, sizeof(text), "%s?family=6", "tcp://[::1]:1");
    expect_refused(pool, text, four, POOL_E_ARGUMENT);
    snprintf(text, sizeof(text), "%s?family=4", "tcp://127.0.0.1:1");
    expect_refused(pool, text, sixth, POOL_E_ARGUMENT);
    expect_refused(pool, "tls://127.0.0.1:1", four, POOL_E_ADDRESS);
    expect_refused(pool, "nonsense", four, POOL_E_ADDRESS);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), -1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), 9999), POOL_E_ARGUMENT);
    cr_expect_eq(pool_adopt(pool, NULL, four), POOL_E_ARGUMENT);
    cr_expect_eq(pool_adopt(NULL, peer_address(peer), four), POOL_E_ARGUMENT);
    cr_expect_eq(pool_adopt(pool, "abstract://x", streams[0]), POOL_OK);
    cr_expect_eq(pool_adopt(pool, text, four), POOL_OK);
    pool_destroy(pool);
    peer_stop(six);
}

Test(adopt, a_number_that_is_a_connection_already_is_refused)
{
    struct pool *pool = MAKE_POOL(), *other = MAKE_POOL();
    struct pool_conn conn;
    int fd;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_E_ARGUMENT, "lent");
    cr_expect_eq(pool_adopt(other, peer_address(peer), fd), POOL_E_ARGUMENT, "of another pool");
    pool_return(&conn);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_E_ARGUMENT, "idle");
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_expect_eq(pool_conn_fd(&conn), fd);
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_E_ARGUMENT, "detached");
    cr_expect_eq(echo(&conn, "unharmed"), 0);
    pool_discard(&conn);
    cr_expect_eq(STAT(pool, total) + STAT(other, total), 0);
    pool_destroy(pool);
    pool_destroy(other);
}

/* Two who read one socket would share what comes. */
Test(adopt, nor_is_its_socket_taken_by_another_number)
{
    struct pool *pool = MAKE_POOL(), *other = MAKE_POOL();
    struct pool_conn conn;
    int copy, released;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    copy = dup(pool_conn_fd(&conn));
    cr_expect_eq(pool_adopt(pool, peer_address(peer), copy), POOL_E_ARGUMENT, "lent");
    cr_expect_eq(pool_adopt(other, peer_address(peer), copy), POOL_E_ARGUMENT, "of another pool");
    cr_assert_eq(pool_detach(&conn), POOL_OK);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), copy), POOL_E_ARGUMENT, "detached");
    cr_expect_eq(echo(&conn, "unharmed"), 0);
    cr_assert_eq(pool_release_fd(&conn, &released), POOL_OK);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), copy), POOL_OK, "the program's again");
    cr_expect_eq(pool_adopt(pool, peer_address(peer), released), POOL_E_ARGUMENT, "and lent anew");
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    close(released);
    pool_destroy(pool);
    pool_destroy(other);
}

struct heir {
    struct pool *parents;
    int fd;
};

static int take_parents(void *argument)
{
    struct heir *heir = argument;
    struct pool *pool = MAKE_POOL();
    int copy = dup(heir->fd);

    CHILD_NEEDS(pool && copy >= 0);
    CHILD_NEEDS(pool_adopt(pool, peer_address(peer), heir->fd) == POOL_E_ARGUMENT);
    CHILD_NEEDS(pool_adopt(pool, peer_address(peer), copy) == POOL_E_ARGUMENT);
    pool_destroy(heir->parents);
    CHILD_NEEDS(pool_adopt(pool, peer_address(peer), copy) == POOL_E_ARGUMENT);
    pool_destroy(pool);
    return 0;
}

Test(adopt, a_child_does_not_take_its_parents_connection)
{
    struct heir heir = { .parents = MAKE_POOL() };
    struct pool_conn conn;

    cr_assert(borrow(heir.parents, peer_address(peer), &conn));
    heir.fd = pool_conn_fd(&conn);
    cr_expect_eq(child_run(take_parents, &heir), 0);
    cr_expect_eq(echo(&conn, "unharmed"), 0);
    pool_return(&conn);
    pool_destroy(heir.parents);
}

Test(adopt, a_number_that_other_code_took_from_us_is_the_programs_to_give)
{
    struct pool *pool = MAKE_POOL();
    struct pool_conn conn;
    int fd, dialed;

    cr_assert(borrow(pool, peer_address(peer), &conn));
    fd = pool_conn_fd(&conn);
    pool_return(&conn);
    dialed = peer_dial(peer);
    cr_assert_eq(dup2(dialed, fd), fd);
    close(dialed);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_OK);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect_eq(id_of_next(pool, peer_address(peer)), 2);
    cr_expect(WAIT_STAT(pool, total, 1), "ours died silently");
    cr_expect_eq(STAT(pool, stolen), 1);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    pool_destroy(pool);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
}

struct twice {
    struct pool *pools[2];
    int fd;
    atomic_uint taken, refused;
};

static void adopt_too(unsigned index, void *argument)
{
    struct twice *twice = argument;
    enum pool_status status =
        pool_adopt(twice->pools[index % 2], peer_address(peer), twice->fd);

    if (status == POOL_OK)
        atomic_fetch_add(&twice->taken, 1);
    else if (status == POOL_E_ARGUMENT)
        atomic_fetch_add(&twice->refused, 1);
}

Test(adopt, of_several_threads_that_give_one_socket_one_does)
{
    struct twice twice = { .pools = { MAKE_POOL(), MAKE_POOL() } };

    for (unsigned i = 0; i < 100; i++) {
        twice.taken = twice.refused = 0;
        twice.fd = peer_dial(peer);
        cr_assert(run_threads(4, adopt_too, &twice));
        cr_expect_eq(twice.taken, 1, "round %u", i);
        cr_expect_eq(twice.refused, 3, "round %u", i);
        cr_expect_eq(pool_remove_some_connection(twice.pools[0]) +
                         pool_remove_some_connection(twice.pools[1]),
                     1);
    }
    pool_destroy(twice.pools[0]);
    pool_destroy(twice.pools[1]);
}

struct ending {
    struct pool *pool;
    int fd;
    enum pool_status status;
};

static void adopt_or_destroy(unsigned index, void *argument)
{
    struct ending *ending = argument;

    if (index)
        pool_destroy(ending->pool);
    else
        ending->status = pool_adopt(ending->pool, peer_address(peer), ending->fd);
}

Test(adopt, while_the_pool_ends_the_socket_is_taken_and_closed_or_left)
{
    for (unsigned i = 0; i < 200; i++) {
        struct ending ending = { .pool = MAKE_POOL(), .fd = peer_dial(peer) };

        cr_assert_eq(talk(ending.pool, peer_address(peer)), POOL_OK);
        cr_assert(run_threads(2, adopt_or_destroy, &ending));
        if (ending.status) {
            cr_expect_eq(ending.status, POOL_E_CLOSING, "round %u", i);
            cr_expect_eq(close(ending.fd), 0, "round %u", i);
        }
        cr_expect(peer_wait_open(peer, 0, VERBS_SOON), "round %u", i);
    }
}

/* ---- when the kernel refuses */

static struct pl_os os;
static const char *failing;

static int fail_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    if (operation == EPOLL_CTL_ADD && !strcmp(failing, "epoll"))
        return -ENOSPC;
    return pl_os_real.epoll_ctl(epoll_fd, operation, fd, event);
}

static int fail_make_own(int fd)
{
    return strcmp(failing, "flags") ? pl_os_real.make_own(fd) : -ENOMEM;
}

static int fail_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    if (name == SO_COOKIE && !strcmp(failing, "cookie"))
        return -ENOPROTOOPT;
    return pl_os_real.getsockopt(fd, level, name, value, size);
}

static int fail_copy(int fd)
{
    return strcmp(failing, "copy") ? pl_os_real.copy_above_stdio(fd) : -EMFILE;
}

Test(adopt, whatever_fails_the_descriptor_is_as_it_was)
{
    static const struct {
        const char *what;
        enum pool_status status;
    } rows[] = { { "epoll", POOL_E_RESOURCE },
                 { "flags", POOL_E_RESOURCE },
                 { "cookie", POOL_E_ARGUMENT },
                 { "copy", POOL_E_RESOURCE } };
    int fd = peer_dial(peer), saved = fcntl(0, F_DUPFD_CLOEXEC, 10);
    struct pool *pool;

    cr_assert(peer_wait_accepted(peer, 1, VERBS_SOON)); /* what it opens is counted, too */
    os = pl_os_real;
    os.epoll_ctl = fail_epoll_ctl;
    os.make_own = fail_make_own;
    os.getsockopt = fail_getsockopt;
    os.copy_above_stdio = fail_copy;
    failing = "nothing";
    pl_os_replace(&os);
    pool = MAKE_POOL();
    cr_assert_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    cr_assert_eq(fcntl(fd, F_SETFD, 0), 0);
    cr_assert_eq(dup2(fd, 0), 0);
    for (size_t i = 0; i < PL_COUNT(rows); i++) {
        failing = rows[i].what;
        expect_refused(pool, peer_address(peer), 0, rows[i].status);
        if (strcmp(failing, "copy"))
            expect_refused(pool, peer_address(peer), fd, rows[i].status);
    }
    failing = "nothing";
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_OK, "it is good to the end");
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    dup2(saved, 0);
    pool_destroy(pool);
    pl_os_replace(NULL);
}

Test(adopt, a_pool_that_has_ended_takes_nothing)
{
    struct pool *pool = MAKE_POOL();
    int fd = peer_dial(peer);

    pool_destroy(pool);
    cr_expect_eq(pool_adopt(pool, peer_address(peer), fd), POOL_E_CLOSING);
    cr_expect_eq(close(fd), 0);
}
