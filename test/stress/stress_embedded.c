/* stress_embedded.c: a program's loop drives connections event by event, inside its dispatches and
 * between them, while other threads make pools on the same mux, lend from them to the loop and end
 * them at any moment.
 *
 * What must hold: no dispatch of the loop fails; callbacks of the pool that stays come on the
 * loop's thread only, those of one that ends there or on the thread that ends it; none comes after
 * its end; and nothing is left. */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define MAKERS 3u
#define GUESTS 4u /* of each maker's pool, lent to the loop */
#define RESIDENTS 8u
#define MESSAGE 8u

/* A loan of a pool that ends. */
struct guest {
    pthread_mutex_t lock;
    struct pool_conn conn; /* zero: none */
    struct pool *pool;
    pthread_t maker;
    atomic_bool may_be_told;
};

struct resident {
    struct pool_conn conn; /* the last loan */
    size_t got;
    bool waits; /* for the loop to begin its next turn */
};

static struct pool_mux *mux;
static struct pool *resident_pool;
static const char *address;
static pthread_t loop_thread;
static struct guest guests[MAKERS * GUESTS];
static struct resident residents[RESIDENTS];
static atomic_bool is_over;
static atomic_ullong turns, ended, driven, told_elsewhere;

/* ---- the pool that stays */

static void expect_loop(const char *what)
{
    if (!pthread_equal(pthread_self(), loop_thread))
        stress_fail("%s of the pool that stays on another thread", what);
}

static void on_resident_lent(struct pool_conn *conn, const struct pool_error *error, void *user);

static void begin_turn(struct resident *resident)
{
    enum pool_status status;

    resident->got = 0;
    resident->waits = false;
    status = pool_communicate_async(resident_pool, address, on_resident_lent, resident, NULL, NULL);
    if (status)
        stress_fail("pool_communicate_async: %s", pool_status_name(status));
}

static void on_resident_event(struct pool_conn *conn, enum pool_event event,
                              struct pool_bytes bytes, void *user)
{
    struct resident *resident = user;

    expect_loop("an event");
    if ((event == POOL_EV_ERROR || event == POOL_EV_CLOSED) && !atomic_load(&is_over))
        stress_fail("a resident lost its connection");
    if (event != POOL_EV_READ)
        return;
    resident->got += bytes.size;
    if (resident->got < MESSAGE)
        return;
    if (resident->got > MESSAGE)
        stress_fail("%zu bytes for %u", resident->got, MESSAGE);
    turns++;
    if (turns % 2) { /* given back here, or by the loop between two dispatches */
        resident->waits = true;
        return;
    }
    pool_return(conn);
    begin_turn(resident);
}

static void on_resident_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct resident *resident = user;

    expect_loop("on_lent");
    if (!conn) {
        if (error->status != POOL_E_CLOSING)
            stress_fail("no connection: %s", error->text);
        return;
    }
    resident->conn = *conn;
    if (pool_conn_watch(conn, on_resident_event, resident) || pool_write(conn, "resident", MESSAGE))
        stress_fail("a resident cannot begin");
}

/* ---- pools that end */

static void expect_guest(struct guest *guest)
{
    if (!atomic_load(&guest->may_be_told))
        stress_fail("a callback after the end of its pool");
    if (pthread_equal(pthread_self(), loop_thread))
        return;
    told_elsewhere++;
    if (!pthread_equal(pthread_self(), guest->maker))
        stress_fail("a callback neither on the loop's thread nor where its pool ends");
}

static void on_guest_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                           void *user)
{
    (void)conn, (void)event, (void)bytes;
    expect_guest(user);
}

static void on_guest_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct guest *guest = user;

    (void)error;
    expect_guest(guest);
    if (!conn)
        return;
    pthread_mutex_lock(&guest->lock);
    guest->conn = *conn;
    pthread_mutex_unlock(&guest->lock);
    if (pool_conn_watch(conn, on_guest_event, guest) == POOL_OK)
        pool_write(conn, "guest", 5);
}

static void on_setup_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                           void *user)
{
    (void)bytes, (void)user;
    if (event == POOL_EV_READ)
        pool_conn_ready(conn, POOL_OK);
}

static int set_up(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    if (pool_conn_watch(conn, on_setup_event, user) || pool_write(conn, "hello", 5))
        return 1;
    return POOL_LATER;
}

static void end_guests(struct guest *first)
{
    for (unsigned i = 0; i < GUESTS; i++) {
        struct guest *guest = &first[i];

        atomic_store(&guest->may_be_told, false);
        pthread_mutex_lock(&guest->lock);
        pool_discard(&guest->conn);
        guest->conn = (struct pool_conn){ 0 };
        pthread_mutex_unlock(&guest->lock);
    }
}

static void *make_pools(void *argument)
{
    unsigned maker = (unsigned)(uintptr_t)argument;
    struct stress_caller self = stress_caller_make(maker);
    struct guest *first = &guests[(size_t)maker * GUESTS];
    struct pool *pool;

    while (stress_is_on()) {
        if (pool_create(POOL_OPTIONS(.mux = mux, .on_new_connection = set_up), &pool)) {
            stress_fail("no pool");
            break;
        }
        for (unsigned i = 0; i < GUESTS; i++) {
            first[i].maker = pthread_self();
            atomic_store(&first[i].may_be_told, true);
            if (pool_communicate_async(pool, address, on_guest_lent, &first[i], NULL, NULL))
                stress_fail("a guest cannot be asked for");
        }
        for (unsigned i = stress_below(&self, 2000); i; i--)
            sched_yield();
        pool_destroy(pool);
        end_guests(first);
        ended++;
    }
    return NULL;
}

/* ---- the loop */

static void drive_guest(struct stress_caller *self)
{
    struct guest *guest = &guests[stress_below(self, MAKERS * GUESTS)];
    struct pool_conn conn;

    pthread_mutex_lock(&guest->lock);
    conn = guest->conn;
    pthread_mutex_unlock(&guest->lock);
    if (!conn.slot)
        return;
    driven += pool_write(&conn, "x", 1) == POOL_OK;
    switch (stress_below(self, 8)) {
    case 0:
        pool_conn_timeout(&conn, POOL_READ, 1);
        break;
    case 1:
        pool_conn_watch(&conn, on_guest_event, guest);
        break;
    case 2:
        pool_return(&conn);
        break;
    default:
        break;
    }
}

static void *run_loop(void *argument)
{
    struct stress_caller self = stress_caller_make(MAKERS);
    struct pollfd polled = { .fd = pool_mux_fd(mux), .events = POLLIN };
    enum pool_status status;

    (void)argument;
    for (unsigned i = 0; i < RESIDENTS; i++)
        begin_turn(&residents[i]);
    while (!atomic_load(&is_over)) {
        if (poll(&polled, 1, 1) == 1) {
            status = pool_mux_dispatch(mux, stress_below(&self, 2) ? 0 : 1);
            if (status)
                stress_fail("pool_mux_dispatch: %s", pool_status_name(status));
        }
        for (unsigned i = 0; i < 8; i++)
            drive_guest(&self);
        for (unsigned i = 0; i < RESIDENTS; i++) {
            if (residents[i].waits) {
                if (pool_return(&residents[i].conn))
                    stress_fail("a resident cannot give back");
                begin_turn(&residents[i]);
            }
        }
    }
    pool_destroy(resident_pool);
    for (unsigned i = 0; i < RESIDENTS; i++)
        pool_discard(&residents[i].conn);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t makers[MAKERS];
    struct peer *peer;
    int descriptors;
    long blocks;

    stress_begin(argc, argv, 5);
    peer = PEER(.behave = PEER_ECHO, .own_process = true, .record_connections = 1);
    address = peer_address(peer);
    for (unsigned i = 0; i < MAKERS * GUESTS; i++)
        pthread_mutex_init(&guests[i].lock, NULL);
    descriptors = count_descriptors();
    blocks = stress_blocks();
    if (pool_mux_create(&mux) || pool_create(POOL_OPTIONS(.mux = mux), &resident_pool))
        return stress_end("nothing could be tried");
    pthread_create(&loop_thread, NULL, run_loop, NULL);
    for (unsigned i = 0; i < MAKERS; i++)
        pthread_create(&makers[i], NULL, make_pools, (void *)(uintptr_t)i);
    for (unsigned i = 0; i < MAKERS; i++)
        pthread_join(makers[i], NULL);
    atomic_store(&is_over, true);
    pool_mux_stop(mux);
    pthread_join(loop_thread, NULL);
    pool_mux_destroy(mux);
    stress_expect_nothing_left(descriptors, blocks, "the end");
    peer_stop(peer);
    return stress_end("%llu turns, %llu pools ended, %llu writes between dispatches, "
                      "%llu callbacks on their threads",
                      turns, ended, driven, told_elsewhere);
}
