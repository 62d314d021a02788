/* stress_copies.c: copies of handles that are used while those who have the connection let go of
 * it.
 *
 * What must hold: an operation on a copy that came too late is told so, and whatever it left behind
 * reaches nobody; a connection whose `prepare` failed is lent to nobody, whoever gave it back
 * meanwhile; "ready" may be said at any moment of the hook and after it; and an actor's data may
 * meet a borrower and the pool's end at once. */
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define SPIN 300u
#define PATIENCE 2000u /* turns of waiting before the processor is given away */

/* What the one thread hands to the other, again and again, in three turns: the copy is there, it
 * was taken, it was used. */
enum { USED, THERE, TAKEN, TURNS };
static struct pool_conn copy;
static _Atomic unsigned turn; /* counts on; modulo TURNS it is one of the above */
static atomic_bool is_over;
static struct pool *pool;
static struct peer *peer;
static atomic_ullong handed, in_time;

static void spin(struct stress_caller *caller)
{
    for (volatile unsigned left = stress_below(caller, SPIN); left; left--)
        continue;
}

/* False: it never will be. */
static bool await_turn(unsigned awaited)
{
    for (unsigned i = 0; atomic_load(&turn) % TURNS != awaited; i++) {
        if (atomic_load(&is_over))
            return false;
        if (i > PATIENCE)
            sched_yield();
    }
    return true;
}

static void await_change(unsigned seen)
{
    for (unsigned i = 0; atomic_load(&turn) == seen && !atomic_load(&is_over); i++) {
        if (i > PATIENCE)
            sched_yield();
    }
}

static void hand_out(const struct pool_conn *conn)
{
    unsigned there;

    if (!await_turn(USED))
        return;
    copy = *conn;
    there = atomic_fetch_add(&turn, 1) + 1;
    atomic_fetch_add(&handed, 1);
    await_change(there);
}

static bool take_copy(struct pool_conn *conn)
{
    if (!await_turn(THERE))
        return false;
    *conn = copy;
    atomic_fetch_add(&turn, 1);
    return true;
}

/* ---- a return beside an operation */

static void return_beside(struct stress_caller *caller)
{
    struct pool_conn conn;
    int status;

    while (stress_is_on()) {
        if (pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 20000), &conn)) {
            stress_fail("no loan");
            break;
        }
        status = stress_ask(caller, &conn, NULL);
        if (status)
            stress_fail("a fresh loan answers %d", status);
        hand_out(&conn);
        spin(caller);
        pool_return(&conn);
        await_turn(USED);
    }
}

static void operate(struct stress_caller *caller, struct pool_conn *conn)
{
    enum pool_status status;

    spin(caller);
    status = pool_send(conn, "TOKEN t9-9\n", 11);
    if (status != POOL_OK && status != POOL_E_ARGUMENT)
        stress_fail("a copy that is too late was told %s", pool_status_name(status));
    atomic_fetch_add(&in_time, !status);
}

/* ---- a copy that is given back while `prepare` fails */

static int fail_to_prepare(struct pool_conn *conn, void *user)
{
    hand_out(conn);
    spin(user);
    return -1;
}

static void borrow_in_vain(struct stress_caller *caller)
{
    struct pool_conn conn;
    enum pool_status status;

    (void)caller;
    while (stress_is_on()) {
        status = pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 20000), &conn);
        if (status != POOL_E_USER)
            stress_fail("what could not be prepared: %s", pool_status_name(status));
        if (!status)
            pool_discard(&conn);
        await_turn(USED);
    }
}

static void give_back(struct stress_caller *caller, struct pool_conn *conn)
{
    spin(caller);
    atomic_fetch_add(&in_time,
                     !(stress_chance(caller, 50) ? pool_return(conn) : pool_discard(conn)));
}

/* ---- "ready" beside a hook that answers at once */

static int hand_out_and_go_on(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    hand_out(conn);
    spin(user);
    return 0;
}

static void open_anew(struct stress_caller *caller)
{
    struct pool_conn conn;
    enum pool_status status;

    (void)caller;
    while (stress_is_on()) {
        status = pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 20000), &conn);
        if (!status)
            pool_discard(&conn);
        await_turn(USED);
    }
}

static void say_ready(struct stress_caller *caller, struct pool_conn *conn)
{
    spin(caller);
    pool_conn_ready(conn, stress_chance(caller, 50) ? POOL_OK : POOL_E_PROTOCOL);
}

/* ---- the parts */

typedef void lead_fn(struct stress_caller *caller);
typedef void follow_fn(struct stress_caller *caller, struct pool_conn *conn);

struct part {
    const char *name;
    lead_fn *lead;
    follow_fn *follow;
};

static void play_part(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);
    const struct part *part = argument;
    struct pool_conn conn;

    caller.must_copy = true;
    if (!index) {
        part->lead(&caller);
        atomic_store(&is_over, true);
        return;
    }
    while (take_copy(&conn)) {
        part->follow(&caller, &conn);
        atomic_fetch_add(&turn, 1);
    }
}

static void play(const struct part *part, const struct pool_options *options)
{
    int descriptors = count_descriptors();
    long blocks = stress_blocks();

    if (pool_create(options, &pool)) {
        stress_fail("no pool");
        return;
    }
    atomic_store(&turn, USED);
    atomic_store(&is_over, false);
    stress_begin_part(stress_seconds() * 1000 / 4);
    run_threads(2, play_part, (void *)(uintptr_t)part);
    pool_destroy(pool);
    stress_expect_nothing_left(descriptors, blocks, part->name);
}

/* ---- an actor's data, a borrower and the pool's end */

static atomic_uint ends, opened;
static atomic_bool has_ended;

static int hear(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn, (void)message, (void)user;
    if (atomic_load(&has_ended))
        stress_fail("an actor hears something after the pool's end");
    return 0;
}

static void hear_the_end(uint64_t connection, const struct pool_error *error, void *user)
{
    (void)connection, (void)error, (void)user;
    atomic_fetch_add(&ends, 1);
    if (atomic_load(&has_ended))
        stress_fail("an actor is told of an end after the pool's");
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)user;
    actor->on_message = hear;
    actor->on_close = hear_the_end;
    atomic_fetch_add(&opened, 1);
    return 0;
}

static void meet(unsigned index, void *argument)
{
    struct stress_caller *callers = argument;
    struct pool_conn conn;

    spin(&callers[index]);
    if (index == 1) {
        pool_destroy(pool);
        atomic_store(&has_ended, true);
    } else if (!pool_borrow(pool, peer_address(peer), POOL_CALL(.timeout_ms = 20000), &conn)) {
        spin(&callers[index]);
        pool_return(&conn);
    }
}

static bool leave_data(struct stress_caller *caller, struct pool_target **target)
{
    struct pool_conn conn;
    int fd;

    if (pool_borrow(pool, peer_address(peer), NULL, &conn) || stress_ask(caller, &conn, NULL))
        return false;
    fd = pool_conn_fd(&conn);
    pool_return(&conn);
    peer_push(peer, PEER_ALL, "push", 4);
    listen_to(fd, 20000);
    /* The borrower comes late. */
    return pool_target_get(pool, peer_address(peer), target) == POOL_OK;
}

static void end_beside_data(void)
{
    struct stress_caller callers[2] = { stress_caller_make(0), stress_caller_make(1) };
    int descriptors = count_descriptors();
    long blocks = stress_blocks();
    struct pool_target *target;

    stress_begin_part(stress_seconds() * 1000 / 4);
    while (stress_is_on()) {
        atomic_store(&has_ended, false);
        pool = NULL;
        if (pool_create(POOL_OPTIONS(.on_new_connection = attach, .park_ms = POOL_NONE), &pool) ||
            !leave_data(callers, &target)) {
            stress_fail("no pool with something to hear");
            break;
        }
        run_threads(2, meet, callers);
        pool_target_free(target);
        peer_close_all(peer);
        if (atomic_load(&ends) != atomic_load(&opened))
            stress_fail("%u connections, %u ends", atomic_load(&opened), atomic_load(&ends));
    }
    stress_expect_nothing_left(descriptors, blocks, "ends beside data");
}

int main(int argc, char **argv)
{
    static const struct part beside = { "return beside", return_beside, operate };
    static const struct part prepares = { "prepare", borrow_in_vain, give_back };
    static const struct part readies = { "ready", open_anew, say_ready };
    static struct stress_caller user;

    stress_begin(argc, argv, 4);
    user = stress_caller_make(9);
    peer = PEER(.behave = PEER_TOKEN, .own_process = true, .record_connections = 1);
    if (peer) {
        play(&beside, POOL_OPTIONS(.max_per_address = 1, .park_ms = POOL_NONE));
        play(&prepares,
             POOL_OPTIONS(.max_per_address = 2, .prepare = fail_to_prepare, .user = &user));
        play(&readies, POOL_OPTIONS(.on_new_connection = hand_out_and_go_on, .user = &user));
        end_beside_data();
    } else {
        stress_fail("no peer");
    }
    peer_stop(peer);
    return stress_end("%llu copies handed out, %llu of them used in time, %u pools ended", handed,
                      in_time, opened);
}
