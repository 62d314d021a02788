/* stress_limits.c: the main job with few descriptors, with none left, and with nearly all there
 * are.
 *
 * Under RLIMIT_NOFILE = 16, 24, 64 and 20,000 many threads visit more addresses than there is
 * room for: every call succeeds, because everybody gives back soon. Where all that could be
 * closed is in use, a borrow fails with POOL_E_RESOURCE, at its deadline or at once if the
 * program says so, without spinning, and goes on as soon as one is given back. 200 addresses one
 * after the other fit into 40 descriptors. 19,000 connections live in 20,000 descriptors, are
 * evicted, and come again.
 *
 * The peers are processes of their own, whose descriptors do not count here. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define THREADS 10u
#define PORTS 2u
#define MUX_DESCRIPTORS 3 /* epoll, its wake-up, its timer */
#define CALL_MS 20000u
#define IN_VAIN_MS 600u
#define MOST 19000u
#define MOST_SLOWLY 3000u /* the same under a sanitizer */
#define HELD_MOST 64u

static struct peer *peers[PORTS];
static struct pool *pool;
static atomic_ullong visits, asked_for_room;
static unsigned addresses;
static unsigned full = 20000; /* the highest limit that is tried and may be set */
static unsigned highest; /* descriptor allowed by the limit, plus one */

static const char *address_of(unsigned number, char *text, size_t size)
{
    unsigned host = number / PORTS;

    snprintf(text, size, "tcp://127.7.%u.%u:%d", host / 200, host % 200 + 1,
             peer_port(peers[number % PORTS]));
    return text;
}

/* Descriptors in use; needs none itself. */
static unsigned count_in_use(void)
{
    unsigned count = 0;

    for (unsigned fd = 0; fd < highest; fd++)
        count += fcntl((int)fd, F_GETFD) >= 0;
    return count;
}

static void begin(const struct pool_options *options)
{
    if (pool_create(options, &pool)) {
        stress_fail("no pool with %u descriptors", highest);
        exit(stress_end("nothing could be tried"));
    }
}

static void limit_to(unsigned limit)
{
    set_descriptor_limit(limit);
    highest = limit;
}

/* ---- everybody gives back soon */

static int visit(struct pool_conn *conn, void *user)
{
    struct stress_caller *caller = user;
    int answer = POOL_OK;

    for (unsigned rounds = 1 + stress_below(caller, 2); rounds && !answer; rounds--)
        answer = stress_ask(caller, conn, NULL);
    atomic_fetch_add(&visits, 1);
    return answer;
}

static int visit_by_hand(struct stress_caller *caller, const char *address)
{
    struct pool_conn conn;
    int status = pool_borrow(pool, address, POOL_CALL(.timeout_ms = CALL_MS), &conn);

    if (status)
        return status;
    status = visit(&conn, caller);
    if (stress_chance(caller, 80))
        pool_return(&conn);
    else
        pool_discard(&conn);
    return status;
}

static void visit_some(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index + highest);
    char address[64];
    int status;

    (void)argument;
    while (stress_is_on()) {
        address_of(stress_below(&caller, addresses), address, sizeof(address));
        if (stress_chance(&caller, 70))
            status =
                pool_communicate(pool, address, visit, &caller, POOL_CALL(.timeout_ms = CALL_MS));
        else
            status = visit_by_hand(&caller, address);
        if (status)
            stress_fail("limit %u: %s answers %s", highest, address,
                        pool_status_name((enum pool_status)status));
    }
}

static bool has_moved_on(void *argument)
{
    return atomic_load(&visits) > *(unsigned long long *)argument || !stress_is_on();
}

/* Other code of the program takes all descriptors there are, again and again, for a moment. */
static void *hoard(void *argument)
{
    int taken[HELD_MOST], count;
    unsigned long long before;

    while (stress_is_on()) {
        for (count = 0; count < (int)HELD_MOST; count++) {
            taken[count] = fcntl(0, F_DUPFD_CLOEXEC, 3);
            if (taken[count] < 0)
                break;
        }
        sched_yield();
        while (count)
            close(taken[--count]);
        before = atomic_load(&visits) + 20;
        wait_until(has_moved_on, &before, 1000);
    }
    return argument;
}

static void do_the_main_job(unsigned limit, const struct pool_options *options, bool with_hoarder)
{
    int descriptors = count_descriptors();
    long blocks = stress_blocks();
    pthread_t hoarder;

    limit_to(limit);
    begin(options);
    stress_begin_part(stress_seconds() * 1000 / 6);
    if (with_hoarder && pthread_create(&hoarder, NULL, hoard, NULL))
        with_hoarder = false;
    run_threads(THREADS, visit_some, NULL);
    if (with_hoarder)
        pthread_join(hoarder, NULL);
    pool_destroy(pool);
    limit_to(full);
    stress_expect_nothing_left(descriptors, blocks, "after the main job");
}

/* ---- nothing can be removed */

struct vain {
    const struct pool_call *call;
    uint64_t least_ms, most_ms;
    atomic_uint failed;
};

static void visit_in_vain(unsigned index, void *argument)
{
    struct vain *vain = argument;
    uint64_t start_ms = now_ms(), took_ms;
    struct pool_conn conn;
    char address[64];
    int status;

    status =
        pool_borrow(pool, address_of(100 + index, address, sizeof(address)), vain->call, &conn);
    took_ms = elapsed_ms(start_ms);
    if (!status)
        pool_discard(&conn);
    if (status != POOL_E_RESOURCE || took_ms < vain->least_ms || took_ms > vain->most_ms)
        stress_fail("limit %u, nothing to remove: %s after %llu ms instead of RESOURCE after %llu",
                    highest, pool_status_name((enum pool_status)status),
                    (unsigned long long)took_ms, (unsigned long long)vain->least_ms);
    atomic_fetch_add(&vain->failed, 1);
}

static void wait_in_vain(uint32_t timeout_ms, uint64_t least_ms, uint64_t most_ms)
{
    struct vain vain = { POOL_CALL(.timeout_ms = timeout_ms), least_ms, most_ms, 0 };
    uint64_t cpu_ms = stress_cpu_ms();

    run_threads(THREADS, visit_in_vain, &vain);
    cpu_ms = stress_cpu_ms() - cpu_ms;
    if (cpu_ms > 60 * slowness())
        stress_fail("limit %u: %u waits of %u ms cost %llu ms of processor time", highest, THREADS,
                    timeout_ms, (unsigned long long)cpu_ms);
}

struct late {
    struct pool_conn *conn;
    uint64_t returned_ms, served_ms;
};

static bool somebody_waits(void *argument)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    (void)argument;
    return !pool_stats(pool, &stats) && stats.waiting;
}

/* 0: waits for a new address; 1: gives one of another address back. */
static void give_room(unsigned index, void *argument)
{
    struct late *late = argument;
    struct stress_caller caller = stress_caller_make(900);
    char address[64];

    if (index) {
        if (!wait_until(somebody_waits, NULL, 5000))
            stress_fail("limit %u: nobody waits for room", highest);
        late->returned_ms = now_ms();
        pool_return(late->conn);
    } else {
        if (visit_by_hand(&caller, address_of(190, address, sizeof(address))))
            stress_fail("limit %u: room was made, in vain", highest);
        late->served_ms = now_ms();
    }
}

static enum pool_decision on_none_removable(struct pool *asking, void *user)
{
    (void)asking;
    atomic_fetch_add(&asked_for_room, 1);
    return *(enum pool_decision *)user;
}

static unsigned hold_all(struct pool_conn *held)
{
    unsigned count = 0;
    char address[64];

    while (count < HELD_MOST && !pool_borrow(pool, address_of(count, address, sizeof(address)),
                                             POOL_CALL(.timeout_ms = 300), &held[count]))
        count++;
    return count;
}

static void run_out(unsigned limit, uint32_t max_connections)
{
    enum pool_decision decision = POOL_CONTINUE;
    struct pool_conn held[HELD_MOST];
    struct late late = { .conn = held };
    unsigned count, room;

    limit_to(limit);
    room = limit - count_in_use() - MUX_DESCRIPTORS;
    room = max_connections && max_connections < room ? max_connections : room;
    begin(POOL_OPTIONS(.max_connections = max_connections ? max_connections : 1000,
                       .on_none_removable = on_none_removable, .user = &decision));
    stress_begin_part(0);
    count = hold_all(held);
    if (count != room)
        stress_fail("limit %u, at most %u: room for %u, yet %u could be held", limit,
                    max_connections, room, count);
    wait_in_vain(IN_VAIN_MS, IN_VAIN_MS - 1, IN_VAIN_MS + 300 * slowness());
    if (!atomic_load(&asked_for_room))
        stress_fail("limit %u: on_none_removable was not asked", limit);
    run_threads(2, give_room, &late);
    if (late.served_ms > late.returned_ms + 500 * slowness())
        stress_fail("limit %u: served %llu ms after there was room", limit,
                    (unsigned long long)(late.served_ms - late.returned_ms));
    decision = POOL_ABORT;
    if (pool_borrow(pool, "tcp://127.9.9.9:9", POOL_CALL(.timeout_ms = 300), held) == POOL_OK)
        stress_fail("limit %u: nobody listens there", limit);
    while (count-- > 1)
        pool_return(&held[count]);
    pool_destroy(pool);
    limit_to(full);
}

static void fail_at_once(unsigned limit)
{
    enum pool_decision decision = POOL_ABORT;
    struct pool_conn held[HELD_MOST];
    unsigned count;

    limit_to(limit);
    begin(POOL_OPTIONS(.max_connections = 1000, .on_none_removable = on_none_removable,
                       .user = &decision));
    count = hold_all(held);
    wait_in_vain(CALL_MS, 0, 500 * slowness());
    while (count--)
        pool_return(&held[count]);
    pool_destroy(pool);
    limit_to(full);
}

/* ---- one after the other */

static void visit_one_by_one(unsigned limit, unsigned count)
{
    struct stress_caller caller = stress_caller_make(800);
    char address[64];
    unsigned most = 0, now;
    int status;

    limit_to(limit);
    begin(POOL_OPTIONS(.max_connections = 1000));
    for (unsigned i = 0; i < count; i++) {
        status = pool_communicate(pool, address_of(i, address, sizeof(address)), visit, &caller,
                                  POOL_CALL(.timeout_ms = CALL_MS));
        if (status)
            stress_fail("limit %u, one by one: %s answers %s", limit, address,
                        pool_status_name((enum pool_status)status));
        now = count_in_use();
        most = now > most ? now : most;
    }
    if (most > limit || most < limit - 1)
        stress_fail("limit %u, one by one: at most %u descriptors in use", limit, most);
    pool_destroy(pool);
    limit_to(full);
}

/* ---- nearly all there are */

struct crowd {
    struct pool_conn *conns;
    unsigned count, each;
};

static void take_share(unsigned index, void *argument)
{
    struct crowd *crowd = argument;
    struct stress_caller caller = stress_caller_make(index + 700);
    char address[64];
    int status;

    for (unsigned i = index * crowd->each; i < crowd->count && i < (index + 1) * crowd->each; i++) {
        address_of(i % addresses, address, sizeof(address));
        status = pool_borrow(pool, address, POOL_CALL(.timeout_ms = 60000), &crowd->conns[i]);
        if (!status)
            status = stress_ask(&caller, &crowd->conns[i], NULL);
        if (status)
            stress_fail("connection %u of %u: %s", i, crowd->count,
                        pool_status_name((enum pool_status)status));
    }
}

static void return_share(unsigned index, void *argument)
{
    struct crowd *crowd = argument;

    for (unsigned i = index * crowd->each; i < crowd->count && i < (index + 1) * crowd->each; i++)
        pool_return(&crowd->conns[i]);
}

static void expect_idle(unsigned idle, const char *when)
{
    struct pool_stats stats = { .size = sizeof(stats) };

    pool_stats(pool, &stats);
    if (stats.idle != idle || stats.total != idle)
        stress_fail("%s: %llu idle of %llu instead of %u", when, (unsigned long long)stats.idle,
                    (unsigned long long)stats.total, idle);
}

static void live_most(unsigned most)
{
    struct crowd crowd = { calloc(most, sizeof(*crowd.conns)), most, most / 4 + 1 };
    unsigned evicted = most / 10;

    limit_to(full);
    begin(POOL_OPTIONS(.max_connections = most, .max_per_address = most, .max_connecting = 64));
    stress_begin_part(120000);
    for (unsigned round = 0; round < 2 && !stress_failures(); round++) {
        run_threads(4, take_share, &crowd);
        run_threads(4, return_share, &crowd);
        expect_idle(most, "all returned");
        for (unsigned i = 0; i < evicted; i++) {
            if (pool_remove_some_connection(pool) != 1)
                stress_fail("nothing was removed from among %u", most - i);
        }
        expect_idle(most - evicted, "a tenth evicted");
    }
    pool_destroy(pool);
    free(crowd.conns);
}

int main(int argc, char **argv)
{
    static const unsigned few[] = { 16, 24, 64 };
    struct rlimit allowed;
    unsigned most = slowness() > 1 ? MOST_SLOWLY : MOST;

    stress_begin(argc, argv, 4);
    if (getrlimit(RLIMIT_NOFILE, &allowed) == 0 && allowed.rlim_max < full)
        full = (unsigned)allowed.rlim_max;
    most = most < full - 1000 ? most : full - 1000;
    limit_to(full);
    for (unsigned i = 0; i < PORTS; i++) {
        peers[i] = PEER(.behave = PEER_TOKEN, .own_process = true, .every_loopback = true,
                        .record_connections = 1);
        if (!peers[i])
            return stress_end("no peer");
    }
    addresses = 60;
    for (unsigned i = 0; i < 3; i++)
        do_the_main_job(few[i], POOL_OPTIONS(.max_connections = 1000), few[i] == 24);
    do_the_main_job(full, NULL, false);
    do_the_main_job(16, NULL, false);
    do_the_main_job(64, NULL, false);
    run_out(16, 0);
    run_out(64, 0);
    run_out(full, 20);
    fail_at_once(24);
    visit_one_by_one(40, 200);
    addresses = 400;
    live_most(most);
    for (unsigned i = 0; i < PORTS; i++)
        peer_stop(peers[i]);
    return stress_end("%llu visits, asked %llu times for room, %u at once", visits, asked_for_room,
                      most);
}
