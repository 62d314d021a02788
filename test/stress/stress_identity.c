/* stress_identity.c: other code of the process closes, replaces and reuses descriptors that
 * belong to the pool.
 *
 * Eight threads borrow. A thief, while nobody has a connection, closes some of the pool's
 * descriptors, puts sockets of its own on their numbers, or lets them fall to whoever opens
 * next; now and then it tells the pool (pool_mark_as_dead), mostly not. Others steal from their
 * own loan, and go on.
 *
 * What must hold: no foreign socket ever receives a byte, is shut down, closed, or changed;
 * every call ends with the right data or an error; at the end no descriptor of either side is
 * left.
 *
 * Between the look and the use, or the close, nobody can know (the kernel has no such question),
 * so the thief waits until nobody is between the two: borrowers hold a lock that many may hold,
 * and nothing is being opened or closed. It calls the kernel by syscall(), for the sanitizer to
 * see no more of it than the pool does. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define BORROWERS 8u
#define THIEF BORROWERS
#define PLACES 3u
#define NUMBERS 4096u
#define FOREIGN 64u /* at most so many are in place at once */
#define MOST_LOOT 6u
#define CALL_MS 5000u

/* A foreign socket, whose other end the thief keeps, on a number that was the pool's. */
struct foreign {
    int fd, other;
    uint64_t cookie;
};

static struct peer *peers[PLACES];
static struct pool *pool;
static pthread_rwlock_t loans = PTHREAD_RWLOCK_INITIALIZER;
static _Atomic uint64_t
    known[NUMBERS]; /* the cookie of the pool's socket at each number, 0: none */
static struct foreign foreign[FOREIGN];
static unsigned foreign_count; /* loans, for writing */
static atomic_ullong visits, failed, thefts, inside, told;
static atomic_uint borrowers_left;

/* ---- sockets */

static uint64_t cookie_of(int fd)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof(cookie);

    if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size))
        return 0;
    return cookie;
}

static void quietly_close(int fd)
{
    syscall(SYS_close, fd);
}

/* A pair of sockets; the first one lands on `number`, or on whatever is free if that is
 * negative. */
static bool make_foreign(struct foreign *made, int number)
{
    int pair[2];

    if (syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return false;
    *made = (struct foreign){ .fd = pair[0], .other = pair[1], .cookie = cookie_of(pair[0]) };
    if (number >= 0 && number != made->fd) {
        syscall(SYS_dup2, made->fd, number);
        quietly_close(made->fd);
        made->fd = number;
    }
    return true;
}

static void expect_untouched(const struct foreign *looked)
{
    struct timeval timeout = { 0 };
    socklen_t size = sizeof(timeout);
    char byte;
    ssize_t got;

    if (cookie_of(looked->fd) != looked->cookie) {
        stress_fail("the foreign socket on %d was closed", looked->fd);
        return;
    }
    got = recv(looked->other, &byte, 1, MSG_DONTWAIT);
    if (got > 0)
        stress_fail("the foreign socket on %d was written to", looked->fd);
    else if (got == 0)
        stress_fail("the foreign socket on %d was shut down", looked->fd);
    getsockopt(looked->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &size);
    if (timeout.tv_sec || timeout.tv_usec || fcntl(looked->fd, F_GETFL) & O_NONBLOCK)
        stress_fail("the foreign socket on %d was changed", looked->fd);
    if (send(looked->other, "for its owner", 13, MSG_NOSIGNAL) != 13 ||
        recv(looked->fd, (char[16]){ 0 }, 16, MSG_DONTWAIT) != 13)
        stress_fail("the foreign socket on %d was read from", looked->fd);
}

/* Its owner is done with it, and the number is free again. */
static void end_foreign(struct foreign *ended)
{
    expect_untouched(ended);
    quietly_close(ended->fd);
    quietly_close(ended->other);
}

/* ---- borrowers */

/* Only the borrower who has it may say so: while it is lent the number is surely the pool's. */
static void note_number(const struct pool_conn *conn)
{
    int fd = pool_conn_fd(conn);

    if (fd >= 0 && fd < (int)NUMBERS)
        atomic_store(&known[fd], cookie_of(fd));
}

static int visit(struct pool_conn *conn, void *user)
{
    note_number(conn);
    return stress_ask(user, conn, NULL);
}

/* Puts a foreign socket on the number of its own loan. If the pool is told, every use says so;
 * if not, nothing is used any more. The loan goes back in some way, and the foreign socket stays
 * what it is. */
static void steal_from_inside(struct stress_caller *caller, struct pool_conn *conn)
{
    int fd = pool_conn_fd(conn), status;
    bool is_told = stress_chance(caller, 50);
    struct foreign own;

    if (is_told && pool_mark_as_dead(pool, fd) != 1)
        stress_fail("the lent descriptor %d was not found", fd);
    if (!make_foreign(&own, fd))
        return;
    status = is_told ? stress_send(caller, conn) : POOL_E_BROKEN;
    if (status != POOL_E_BROKEN)
        stress_fail("sending on what is marked as dead: %s",
                    pool_status_name((enum pool_status)status));
    if (stress_chance(caller, 30))
        pool_discard(conn);
    else
        pool_return(conn);
    atomic_fetch_add(&inside, 1);
    pthread_rwlock_unlock(&loans);
    if (stress_chance(caller, 50))
        sched_yield(); /* the pool may meet the number once more */
    pthread_rwlock_wrlock(&loans);
    end_foreign(&own);
    atomic_store(&known[fd % (int)NUMBERS], 0);
}

static int by_hand(struct stress_caller *caller, const char *address)
{
    struct pool_conn conn;
    int status = pool_borrow(pool, address, POOL_CALL(.timeout_ms = CALL_MS), &conn);

    if (status)
        return status;
    status = visit(&conn, caller);
    if (!status && stress_chance(caller, 10))
        steal_from_inside(caller, &conn);
    else
        pool_return(&conn);
    return status;
}

static void borrow(struct stress_caller *caller)
{
    const char *address = peer_address(peers[stress_below(caller, PLACES)]);
    int status;

    pthread_rwlock_rdlock(&loans);
    if (stress_chance(caller, 70))
        status = pool_communicate(pool, address, visit, caller, POOL_CALL(.timeout_ms = CALL_MS));
    else
        status = by_hand(caller, address);
    pthread_rwlock_unlock(&loans);
    atomic_fetch_add(&visits, 1);
    if (status) {
        atomic_fetch_add(&failed, 1);
        stress_fail("%s: %s", address, pool_status_name((enum pool_status)status));
    }
}

/* ---- the thief */

/* Numbers that are the pool's at this moment. */
static unsigned look_for_loot(struct stress_caller *thief, int *loot)
{
    unsigned count = 0, first = stress_below(thief, 64);

    for (unsigned i = 0; i < NUMBERS && count < MOST_LOOT; i++) {
        unsigned number = i < 64 ? (i + first) % 64 : i;
        uint64_t cookie = atomic_load(&known[number]);

        if (cookie && cookie_of((int)number) == cookie && stress_chance(thief, 50))
            loot[count++] = (int)number;
    }
    return count;
}

static void place(int number)
{
    if (foreign_count < FOREIGN && make_foreign(&foreign[foreign_count], number))
        foreign_count++;
}

static void steal(struct stress_caller *thief, int fd)
{
    bool is_told = stress_chance(thief, 25);

    if (is_told && stress_chance(thief, 50))
        atomic_fetch_add(&told, (unsigned)pool_mark_as_dead(pool, fd));
    atomic_fetch_add(&thefts, 1);
    atomic_store(&known[fd], 0);
    switch (stress_below(thief, 4)) {
    case 0:
        quietly_close(fd); /* whoever opens next gets the number, the pool included */
        break;
    case 1:
        quietly_close(fd);
        place(-1); /* on this number, unless a lower one is free */
        break;
    default:
        place(fd);
        break;
    }
    if (is_told)
        atomic_fetch_add(&told, (unsigned)pool_mark_as_dead(pool, fd));
}

static void end_some(struct stress_caller *thief, unsigned percent)
{
    for (unsigned i = 0; i < foreign_count;) {
        if (stress_chance(thief, percent)) {
            end_foreign(&foreign[i]);
            foreign[i] = foreign[--foreign_count];
        } else {
            expect_untouched(&foreign[i++]);
        }
    }
}

/* Without borrowers the pool touches its sockets only to open or to close some. */
static bool is_quiet(void)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    return !pool_stats(pool, &stats) && !stats.opening && !stats.closing;
}

static void be_the_thief(struct stress_caller *thief)
{
    int loot[MOST_LOOT];
    unsigned count, long_enough;

    while (atomic_load(&borrowers_left)) {
        long_enough = (unsigned)atomic_load(&visits) + stress_below(thief, 60);
        while (atomic_load(&borrowers_left) && (unsigned)atomic_load(&visits) < long_enough)
            sched_yield();
        pthread_rwlock_wrlock(&loans);
        end_some(thief, 20);
        count = is_quiet() ? look_for_loot(thief, loot) : 0;
        while (count)
            steal(thief, loot[--count]);
        pthread_rwlock_unlock(&loans);
    }
}

static void take_part(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);

    (void)argument;
    if (index == THIEF) {
        be_the_thief(&caller);
        return;
    }
    while (stress_is_on())
        borrow(&caller);
    atomic_fetch_sub(&borrowers_left, 1);
}

/* ---- the pools */

static void play(const struct pool_options *options, const char *name)
{
    int descriptors = count_descriptors();
    long blocks = stress_blocks();
    struct stress_caller thief = stress_caller_make(500);

    if (pool_create(options, &pool)) {
        stress_fail("no pool");
        return;
    }
    memset(known, 0, sizeof(known));
    atomic_store(&borrowers_left, BORROWERS);
    stress_begin_part(stress_seconds() * 1000 / 3);
    run_threads(BORROWERS + 1, take_part, NULL);
    end_some(&thief, 50);
    pool_destroy(pool);
    end_some(&thief, 100);
    stress_expect_nothing_left(descriptors, blocks, name);
}

int main(int argc, char **argv)
{
    stress_begin(argc, argv, 6);
    for (unsigned i = 0; i < PLACES; i++) {
        peers[i] = PEER(.behave = PEER_TOKEN, .own_process = true, .record_connections = 1,
                        .family = i ? AF_INET : AF_UNIX);
        if (!peers[i])
            return stress_end("no peer");
    }
    play(POOL_OPTIONS(.max_per_address = 6, .park_ms = 600000), "hot");
    play(POOL_OPTIONS(.max_per_address = 6, .park_ms = 1), "parked");
    play(POOL_OPTIONS(.max_connections = 10, .park_ms = 1, .max_uses = 50), "few");
    for (unsigned i = 0; i < PLACES; i++)
        peer_stop(peers[i]);
    return stress_end("%llu visits, %llu failed, %llu thefts, %llu from inside, %llu told", visits,
                      failed, thefts, inside, told);
}
