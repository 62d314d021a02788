/* test_main_job.c: the whole job: many threads, few warm connections, many peers, few descriptors,
 * pushes, thefts, signals; and what the library must not do to the process it lives in. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

/* ---- everything at once */

struct job {
    struct pool *pool;
    struct peer *busy, *many, *pusher;
    unsigned rounds;
    atomic_uint good, bad, foreign, pushes;
    bool has_storm;
};

static int hear(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct job *job = user;

    (void)conn;
    for (size_t i = 0; i < message.size; i++)
        if (((const char *)message.data)[i] == '\n')
            atomic_fetch_add(&job->pushes, 1);
        else
            atomic_fetch_add(&job->foreign, 1);
    return 0;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct job *job = user;

    if (strcmp(pool_conn_address(conn), peer_address(job->pusher)) == 0) {
        actor->on_message = hear;
        actor->user = user;
    }
    return 0;
}

static int use_token(struct pool_conn *conn, void *user)
{
    char back[32];

    if (pool_send(conn, user, 24) || pool_recv_exact(conn, back, 24))
        return -1;
    return memcmp(back, user, 24) ? 99 : 0;
}

static void work(unsigned index, void *argument)
{
    struct job *job = argument;
    struct signal_storm *storm = job->has_storm ? start_signal_storm(1000) : NULL;
    struct pool_error error = POOL_ERROR_INIT;
    unsigned seed = index + 1;
    char token[32], other[64];
    enum pool_status status;

    for (unsigned i = 0; i < job->rounds; i++) {
        snprintf(token, sizeof(token), "thread %2u round %8u.", index, i);
        snprintf(other, sizeof(other), "tcp://127.3.%u.1:%d", 1 + (unsigned)rand_r(&seed) % 50,
                 peer_port(job->many));
        status = pool_communicate(job->pool, i % 10 ? peer_address(job->busy) : other, use_token,
                                  token, POOL_CALL(.timeout_ms = VERBS_SOON, .error = &error));
        if (status)
            fprintf(stderr, "%s\n", error.text);
        if (status == POOL_E_USER && error.cause == 99)
            atomic_fetch_add(&job->foreign, 1);
        atomic_fetch_add(status ? &job->bad : &job->good, 1);
    }
    if (storm)
        stop_signal_storm(storm);
}

static void do_the_job(bool has_storm)
{
    int before = count_descriptors();
    struct job job = { .has_storm = has_storm, .rounds = 4000 / slowness() };
    struct pool_conn conn;

    job.busy = PEER(.own_process = true);
    job.many = PEER(.own_process = true, .every_loopback = true);
    job.pusher = PEER(.own_process = true, .behave = PEER_PUSH, .push = "\n", .interval_ms = 2);
    job.pool =
        MAKE_POOL(.max_per_address = 4, .park_ms = 2, .on_new_connection = attach, .user = &job);
    set_descriptor_limit((unsigned)count_descriptors() + 24);
    cr_assert(borrow(job.pool, peer_address(job.pusher), &conn));
    cr_assert_eq(pool_return(&conn), POOL_OK);
    cr_assert(run_threads(8, work, &job));
    cr_expect_eq(job.bad, 0);
    cr_expect_eq(job.foreign, 0);
    cr_expect_eq(job.good, 8 * job.rounds);
    cr_expect_gt(job.pushes, 0);
    cr_expect_leq(peer_count(job.busy, PEER_MOST_OPEN), 8);
    cr_expect_gt(STAT(job.pool, evicted), 0,
                 "room was never short: the test shows less than it says");
    cr_expect_eq(STAT(job.pool, lent), 0);
    cr_expect_eq(STAT(job.pool, waiting), 0);
    pool_destroy(job.pool);
    set_descriptor_limit(4096);
    peer_stop(job.busy);
    peer_stop(job.many);
    peer_stop(job.pusher);
    cr_expect_eq(count_descriptors(), before);
}

Test(main_job, eight_threads_sixty_peers_two_dozen_descriptors, .timeout = 170)
{
    do_the_job(false);
}

Test(main_job, goes_on_under_eight_thousand_signals_a_second, .timeout = 170)
{
    do_the_job(true);
}

/* ---- a peer that is gone, in clear text: SIGPIPE at its default */

/* The peer has ended its direction, and then resets: from then on every write is EPIPE. */
static void break_pipe(struct peer *peer, int fd)
{
    struct pollfd polled = { .fd = fd, .events = POLLRDHUP };

    cr_expect_eq(poll(&polled, 1, VERBS_SOON), 1);
    cr_expect_eq(peer_reset_all(peer), 1);
    polled.events = 0;
    cr_expect_eq(poll(&polled, 1, VERBS_SOON), 1);
    cr_expect(polled.revents & POLLERR);
}

static int write_after_the_end(struct pool_conn *conn, void *user)
{
    static char block[1 << 16];
    struct iovec pieces[3] = { { block, sizeof(block) }, { NULL, 0 }, { block, 1 } };

    cr_expect_eq(pool_send(conn, "!", 1), POOL_OK);
    break_pipe(user, pool_conn_fd(conn));
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(pool_send(conn, block, sizeof(block)), POOL_E_BROKEN);
        cr_expect_eq(pool_sendv(conn, pieces, 3), POOL_E_BROKEN);
    }
    return -1;
}

static int write_in_hook(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    cr_expect_eq(pool_write(conn, "!", 1), POOL_OK);
    break_pipe(user, pool_conn_fd(conn));
    for (int i = 0; i < 3; i++)
        cr_expect_eq(pool_write(conn, "!", 1), POOL_E_BROKEN);
    return -1;
}

/* What is queued is written by an event, later. */
static int queue_in_hook(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    static char block[1 << 16];
    enum pool_status status = POOL_OK;

    (void)actor;
    while (!status)
        status = pool_write(conn, block, sizeof(block));
    cr_expect_eq(status, POOL_E_FULL);
    break_pipe(user, pool_conn_fd(conn));
    return POOL_LATER;
}

/* On this thread: one of the pool's own could have it blocked. */
static void break_in_hook(struct peer *peer, pool_new_connection_fn *hook)
{
    struct pool_mux *mux;
    struct caller caller;
    struct pool *pool;

    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    pool = MAKE_POOL(.mux = mux, .on_new_connection = hook, .user = peer);
    cr_assert(start_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&caller.is_back))
        cr_assert_eq(pool_mux_dispatch(mux, 10), POOL_OK);
    cr_expect_lt(join_caller(&caller), POOL_OK);
    pool_destroy(pool);
    pool_mux_destroy(mux);
}

Test(main_job, no_signal_is_raised_by_a_broken_connection)
{
    struct peer *peer = PEER(.behave = PEER_HALF_CLOSE, .after_bytes = 1);
    struct sigaction action;
    struct pool *pool;

    signal(SIGPIPE, SIG_DFL); /* one would end this test */
    pool = MAKE_POOL();
    cr_expect_eq(pool_communicate(pool, peer_address(peer), write_after_the_end, peer, NULL),
                 POOL_E_BROKEN);
    pool_destroy(pool);
    break_in_hook(peer, write_in_hook);
    break_in_hook(peer, queue_in_hook);
    sigaction(SIGPIPE, NULL, &action);
    cr_expect_eq((void *)(uintptr_t)action.sa_handler, (void *)SIG_DFL,
                 "the program's disposition was touched");
    peer_stop(peer);
}

/* ---- what a child inherits */

/* The descriptors that a program started from here would have, as text. */
static void list_of_child(char *text, size_t size)
{
    int ends[2], status;
    size_t length = 0;
    ssize_t got;
    pid_t child;

    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        execl("/bin/sh", "sh", "-c", "cd /proc/$$/fd && echo *", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    while ((got = read(ends[0], text + length, size - 1 - length)) > 0)
        length += (size_t)got;
    text[length] = '\0';
    close(ends[0]);
    waitpid(child, &status, 0);
    cr_assert_eq(status, 0);
}

struct caught {
    atomic_bool is_inside, may_leave;
};

static int linger(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct caught *caught = user;

    (void)conn;
    (void)actor;
    atomic_store(&caught->is_inside, true);
    while (!atomic_load(&caught->may_leave))
        sched_yield();
    return 0;
}

Test(main_job, a_child_inherits_no_descriptor_of_the_pool)
{
    static char before[4096], after[4096];
    struct peer *peer = PEER(.own_process = true),
                *hung = PEER(.own_process = true, .behave = PEER_NEVER_ACCEPT);
    struct caught caught = { .may_leave = false };
    struct caller waiting, being_set_up;
    struct pool *pool, *hooked;
    struct pool_conn lent;

    list_of_child(before, sizeof(before));
    pool = MAKE_POOL();
    hooked = MAKE_POOL(.on_new_connection = linger, .user = &caught);
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    cr_assert(borrow(pool, peer_address(peer), &lent));
    cr_assert(queue_caller(&waiting, pool, peer_address(hung), 1000));
    cr_assert(start_caller(&being_set_up, hooked, peer_address(peer), VERBS_SOON));
    while (!atomic_load(&caught.is_inside))
        sched_yield();
    list_of_child(after, sizeof(after));
    cr_expect_str_eq(after, before);
    atomic_store(&caught.may_leave, true);
    cr_expect_eq(join_caller(&being_set_up), POOL_OK);
    cr_expect_eq(join_caller(&waiting), POOL_E_TIMEOUT);
    pool_return(&being_set_up.conn);
    pool_return(&lent);
    pool_destroy(pool);
    pool_destroy(hooked);
    peer_stop(peer);
    peer_stop(hung);
}

/* Non-blocking all but the connected streams, on which the borrower's thread waits in the
 * kernel. */
Test(main_job, every_descriptor_is_close_on_exec_and_only_streams_block)
{
    static char link[64], name[128];
    struct peer *peer = PEER(.own_process = true);
    bool was_open[1024];
    struct pool *pool;
    ssize_t size;
    int sockets = 0;

    for (int fd = 0; fd < 1024; fd++)
        was_open[fd] = fcntl(fd, F_GETFD) >= 0;
    pool = MAKE_POOL();
    cr_expect_eq(talk(pool, peer_address(peer)), POOL_OK);
    for (int fd = 0; fd < 1024; fd++) {
        if (was_open[fd] || fcntl(fd, F_GETFD) < 0)
            continue;
        cr_expect(fcntl(fd, F_GETFD) & FD_CLOEXEC, "descriptor %d", fd);
        cr_expect_gt(fd, 2);
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        size = readlink(link, name, sizeof(name) - 1);
        name[size > 0 ? size : 0] = '\0';
        sockets += strncmp(name, "socket:", 7) == 0;
        if (strstr(name, "eventpoll"))
            continue;
        cr_expect_eq(!(fcntl(fd, F_GETFL) & O_NONBLOCK), strncmp(name, "socket:", 7) == 0, "%s",
                     name);
    }
    cr_expect_eq(sockets, 1);
    pool_destroy(pool);
    peer_stop(peer);
}

/* ---- 0 to 2 are never ours, even when they are free */

Test(main_job, with_stdin_stdout_and_stderr_closed_no_stray_byte_reaches_a_peer)
{
    struct peer *peer = PEER(.own_process = true);
    int saved[3], least = 1000;
    struct pool_conn conns[4];
    struct pool *pool = NULL;
    bool is_good = true;
    uint64_t received = 0;

    for (int fd = 0; fd < 3; fd++) {
        saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 10);
        close(fd);
    }
    is_good = pool_create(NULL, &pool) == POOL_OK;
    for (int i = 0; i < 4; i++) {
        is_good = is_good && pool_borrow(pool, peer_address(peer), NULL, &conns[i]) == POOL_OK;
        least = is_good && pool_conn_fd(&conns[i]) < least ? pool_conn_fd(&conns[i]) : least;
    }
    fputs("to stderr", stderr);
    is_good = is_good && write(STDOUT_FILENO, "to stdout", 9) < 0;
    for (int i = 0; i < 4; i++)
        is_good = is_good && pool_return(&conns[i]) == POOL_OK;
    for (int fd = 0; fd < 3; fd++) {
        is_good = is_good && fcntl(fd, F_GETFD) < 0;
        if (saved[fd] >= 0)
            dup2(saved[fd], fd);
    }
    cr_expect(is_good);
    cr_expect_gt(least, 2);
    pool_destroy(pool);
    cr_expect(peer_wait_open(peer, 0, VERBS_SOON));
    for (uint32_t i = 0; i < 4; i++)
        received += peer_received(peer, i, NULL, 0);
    cr_expect_eq(received, 0);
    peer_stop(peer);
}

/* ---- partial transfers anywhere */

static int send_in_pieces(struct pool_conn *conn, void *user)
{
    static char sent[200000], back[200000];
    struct iovec pieces[150];

    (void)user;
    for (size_t i = 0; i < sizeof(sent); i++)
        sent[i] = (char)(i * 31 + i / 997);
    for (size_t i = 0; i < 150; i++)
        pieces[i] = (struct iovec){ sent + i * 1000, i == 149 ? sizeof(sent) - 149000 : 1000 };
    if (pool_sendv(conn, pieces, 150) || pool_recv_exact(conn, back, sizeof(back)))
        return -1;
    return memcmp(sent, back, sizeof(sent)) ? 99 : 0;
}

Test(main_job, large_and_scattered_messages_arrive_whole)
{
    struct peer *peer = PEER(.own_process = true, .queue_bytes = 1 << 20);
    struct pool *pool = MAKE_POOL();

    for (int i = 0; i < 20; i++)
        cr_expect_eq(pool_communicate(pool, peer_address(peer), send_in_pieces, NULL, NULL),
                     POOL_OK);
    cr_expect_eq(STAT(pool, opened), 1);
    pool_destroy(pool);
    peer_stop(peer);
}
