/* stress_destroy.c: pools end at any moment: while threads borrow, wait, connect and hold; from
 * another thread, from every kind of callback, from inside a use; with a mux of their own, or
 * several pools on one that the program dispatches.
 *
 * What must hold: whoever is inside a call comes back, with his own data or with POOL_E_CLOSING;
 * a connection that is still lent can be given back; after each round no descriptor and no
 * allocation is left. The threads stay the same over all rounds, and so does what they remember
 * of the last pool. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "stress/stress.h"
#include "support/peer.h"
#include "support/tests.h"

#define WORKERS 6u
#define CONDUCTOR WORKERS
#define PLACES 4u
#define HUNG (PLACES - 1) /* the place where connecting never ends */
#define CONNECT_MS 20u /* who hangs must not take all the room there is */
#define LEAST 12u /* rounds of each kind */
#define CALL_MS 20000u
#define ACTS_MOST 60u
#define LATE_MS 200u /* then the conductor sees to it that it ends */

enum who {
    CONDUCTS, /* the conductor's thread */
    WORKS, /* a worker, between two calls */
    IN_USE,
    IN_PREPARE,
    IN_NEW_CONNECTION,
    IN_SOCKET,
    IN_NONE_REMOVABLE,
    IN_EVENT,
    IN_CONN_EVENT,
    IN_MESSAGE,
    IN_TIMER,
    IN_POST
};

enum mux_kind {
    OWN,
    DISPATCHED,
    LEFT_ALONE
}; /* the last one: its program is busy with other things */

struct kind {
    const char *name;
    enum who who;
    enum mux_kind mux;
    struct pool_options options;
};

static struct peer *peers[PLACES];
static const char *addresses[PLACES];

static struct {
    const struct kind *kind;
    struct pool *pools[2]; /* the second one only on a shared mux */
    struct pool *second; /* until it is destroyed; the conductor's */
    struct pool_mux *mux;
    struct pool_timer *timer;
    unsigned number;
    atomic_uint acts_before; /* how much is done before the end */
    atomic_uint acts;
    atomic_bool is_begun; /* the end: somebody is at it */
    atomic_bool is_destroyed;
    atomic_uint workers; /* who are still at work */
} round_;

static pthread_barrier_t begin_and_end; /* of a round */
static atomic_bool is_over;
static atomic_ullong asked, closed, helped;
static unsigned rounds;
static __thread struct stress_caller *self;

/* ---- the end */

static bool is_time(void)
{
    return atomic_load(&round_.acts) >= atomic_load(&round_.acts_before);
}

static void destroy_now(void)
{
    uint64_t start_ms = now_ms();

    if (atomic_exchange(&round_.is_begun, true))
        return;
    pool_destroy(round_.pools[0]);
    if (elapsed_ms(start_ms) > 500 * slowness())
        stress_fail("round %u, %s: pool_destroy took %llu ms", round_.number, round_.kind->name,
                    (unsigned long long)elapsed_ms(start_ms));
    atomic_store(&round_.is_destroyed, true);
}

static void here(enum who who)
{
    if (round_.kind->who == who && is_time())
        destroy_now();
}

/* ---- hooks */

static int on_socket(int fd, const char *address, void *user)
{
    (void)fd, (void)address, (void)user;
    here(IN_SOCKET);
    return 0;
}

static void on_conn_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                          void *user)
{
    (void)bytes, (void)user;
    here(IN_CONN_EVENT);
    if (event == POOL_EV_READ)
        pool_conn_ready(conn, POOL_OK);
}

static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn, (void)message, (void)user;
    here(IN_MESSAGE);
    return 0;
}

static int on_new_connection(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)user;
    here(IN_NEW_CONNECTION);
    if (round_.kind->who == IN_MESSAGE)
        actor->on_message = on_message;
    if (round_.kind->who != IN_CONN_EVENT)
        return 0;
    if (pool_conn_watch(conn, on_conn_event, NULL) || pool_write(conn, "TOKEN t77-7\n", 12))
        return 1;
    return POOL_LATER;
}

static int prepare(struct pool_conn *conn, void *user)
{
    (void)user;
    here(IN_PREPARE);
    return stress_ask(self, conn, NULL);
}

static enum pool_decision on_none_removable(struct pool *pool, void *user)
{
    (void)pool, (void)user;
    here(IN_NONE_REMOVABLE);
    return POOL_CONTINUE;
}

static void on_event(const struct pool_event_info *event, void *user)
{
    (void)event, (void)user;
    here(IN_EVENT);
}

static void on_timer(void *user)
{
    (void)user;
    here(IN_TIMER);
    if (!atomic_load(&round_.is_begun))
        pool_timer_again(round_.timer, 1);
}

static void on_post(void *user)
{
    (void)user;
    here(IN_POST);
}

static const struct kind kinds[] = {
    { "by another thread", CONDUCTS, OWN, { .max_per_address = 4 } },
    { "with waiters", CONDUCTS, OWN, { .max_per_address = 1 } },
    { "by a worker", WORKS, OWN, { .max_connections = 3 } },
    { "in use", IN_USE, OWN, { .max_per_address = 2 } },
    { "in prepare", IN_PREPARE, OWN, { .max_per_address = 4, .max_uses = 2, .prepare = prepare } },
    { "in on_new_connection",
      IN_NEW_CONNECTION,
      OWN,
      { .max_uses = 2, .on_new_connection = on_new_connection } },
    { "in on_socket", IN_SOCKET, OWN, { .max_uses = 1, .on_socket = on_socket } },
    { "in on_none_removable",
      IN_NONE_REMOVABLE,
      OWN,
      { .max_connections = 2, .on_none_removable = on_none_removable } },
    { "in on_event", IN_EVENT, OWN, { .max_per_address = 3, .on_event = on_event } },
    { "in a connection's event",
      IN_CONN_EVENT,
      OWN,
      { .max_uses = 1, .on_new_connection = on_new_connection } },
    { "in on_message", IN_MESSAGE, OWN, { .park_ms = 1, .on_new_connection = on_new_connection } },
    { "dispatched, by a worker", WORKS, DISPATCHED, { .max_per_address = 3 } },
    { "dispatched, between batches", CONDUCTS, DISPATCHED, { .max_per_address = 3, .park_ms = 1 } },
    { "dispatched, in a timer", IN_TIMER, DISPATCHED, { .max_per_address = 1 } },
    { "dispatched, in a post", IN_POST, DISPATCHED, { .max_connections = 4 } },
    { "dispatched, in on_event", IN_EVENT, DISPATCHED, { .max_uses = 2, .on_event = on_event } },
    { "dispatched, in on_new_connection",
      IN_NEW_CONNECTION,
      DISPATCHED,
      { .max_uses = 1, .on_new_connection = on_new_connection } },
    { "left alone, by a worker", WORKS, LEFT_ALONE, { .max_per_address = 3 } },
    { "left alone, by its thread", CONDUCTS, LEFT_ALONE, { .max_per_address = 3 } },
};

#define KINDS (sizeof(kinds) / sizeof(*kinds))

/* ---- workers */

/* What may come out of a call to a pool that ends meanwhile. */
static void judge(const char *what, int status, bool is_hasty)
{
    if (!status) {
        atomic_fetch_add(&asked, 1);
        return;
    }
    if (status == POOL_E_CLOSING && atomic_load(&round_.is_begun)) {
        atomic_fetch_add(&closed, 1);
        sched_yield();
        return;
    }
    if ((status == POOL_E_TIMEOUT || status == POOL_E_TIMEOUT_IN_TRANSFER ||
         status == POOL_E_RESOURCE) &&
        is_hasty)
        return;
    if ((status == STRESS_STRAY || status == POOL_E_USER) && round_.kind->who == IN_MESSAGE)
        return;
    stress_fail("%s, round %u, %s: %d %s", round_.kind->name, round_.number, what, status,
                status < 0 ? pool_status_name((enum pool_status)status) : "");
}

/* On a busy machine setting up may take longer than it may. */
static bool was_slow_to_open(const struct pool_error *error)
{
    return error->status == POOL_E_TIMEOUT &&
           (error->phase == POOL_PHASE_CONNECT || error->phase == POOL_PHASE_SETUP);
}

static int use_it(struct pool_conn *conn, void *user)
{
    int answer = stress_ask(self, conn, NULL);

    (void)user;
    here(IN_USE);
    return answer;
}

/* A loan that a worker keeps while it goes on, also beyond the end of the pool. */
struct kept {
    struct pool_conn conn;
    struct pool_target *target;
    bool is_here;
};

static void end_kept(struct kept *kept)
{
    int status;

    if (!kept->is_here)
        return;
    if (atomic_load(&round_.is_destroyed)) {
        status = stress_send(self, &kept->conn);
        if (status != POOL_E_CLOSING)
            stress_fail("%s: sending after the end: %s", round_.kind->name,
                        pool_status_name((enum pool_status)status));
    }
    status = stress_chance(self, 80) ? pool_return(&kept->conn) : pool_discard(&kept->conn);
    if (status)
        stress_fail("%s: giving back after the end: %s", round_.kind->name,
                    pool_status_name((enum pool_status)status));
    pool_target_free(kept->target);
    *kept = (struct kept){ 0 };
}

static void by_hand(struct pool *pool, const char *address, const struct pool_call *call,
                    struct kept *kept)
{
    bool is_hasty = call->timeout_ms < CALL_MS;
    struct pool_conn conn;
    int status = pool_borrow(pool, address, call, &conn);

    judge("borrow", status, is_hasty || was_slow_to_open(call->error));
    if (status)
        return;
    status = stress_ask(self, &conn, NULL);
    judge("ask", status, is_hasty);
    if (status) {
        pool_discard(&conn);
    } else if (!kept->is_here && pool == round_.pools[0] && stress_chance(self, 10)) {
        *kept = (struct kept){ .conn = conn, .target = call->target, .is_here = true };
        return;
    } else {
        pool_return(&conn);
    }
}

static void act(struct pool *pool, struct kept *kept)
{
    unsigned place = stress_below(self, stress_chance(self, 10) ? PLACES : HUNG);
    bool is_hasty = place == HUNG || stress_chance(self, 10);
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_call call = { .size = sizeof(call),
                              .timeout_ms = is_hasty ? 3 : CALL_MS,
                              .error = &error };
    struct pool_target *target = NULL;
    int status;

    if (stress_chance(self, 30) && pool_target_get(pool, addresses[place], &target) == POOL_OK)
        call.target = target;
    if (stress_chance(self, 50)) {
        status = pool_communicate(pool, addresses[place], use_it, NULL, &call);
        judge("communicate", status, is_hasty || was_slow_to_open(&error));
    } else {
        by_hand(pool, addresses[place], &call, kept);
    }
    if (!target || kept->target != target)
        pool_target_free(target);
}

static void work(void)
{
    struct kept kept = { 0 };
    struct pool *other = round_.pools[1];
    unsigned patience;

    while (!atomic_load(&round_.is_destroyed)) {
        act(other && stress_chance(self, 30) ? other : round_.pools[0], &kept);
        atomic_fetch_add(&round_.acts, 1);
        here(WORKS);
        if (kept.is_here && stress_chance(self, 20))
            end_kept(&kept);
    }
    for (patience = stress_below(self, 20); patience; patience--)
        sched_yield();
    end_kept(&kept);
    atomic_fetch_sub(&round_.workers, 1);
}

/* ---- the conductor */

static void dispatch_some(void)
{
    bool is_left = round_.kind->mux == LEFT_ALONE &&
                   2 * atomic_load(&round_.acts) > atomic_load(&round_.acts_before);
    enum pool_status status;

    if (atomic_load(&round_.is_destroyed)) {
        pool_destroy(round_.second);
        round_.second = NULL;
    }
    if (!round_.mux || is_left) {
        sched_yield();
        return;
    }
    if (round_.kind->who == IN_POST)
        pool_mux_post(round_.mux, on_post, NULL);
    /* A worker who ends the pool dispatches what is left himself. */
    status = pool_mux_dispatch(round_.mux, 1);
    if (status && !(status == POOL_E_ARGUMENT && atomic_load(&round_.is_begun)))
        stress_fail("%s: dispatching answers %s", round_.kind->name, pool_status_name(status));
}

static void conduct(void)
{
    uint64_t start_ms = now_ms();

    while (atomic_load(&round_.workers) || round_.second) {
        dispatch_some();
        here(CONDUCTS);
        if (round_.kind->who == IN_MESSAGE)
            peer_push(peers[stress_below(self, HUNG)], PEER_ALL, "push\n", 5);
        if (elapsed_ms(start_ms) > LATE_MS)
            atomic_store(&round_.acts_before, 0);
        if (elapsed_ms(start_ms) > 2 * LATE_MS && !atomic_load(&round_.is_begun)) {
            atomic_fetch_add(&helped, 1);
            destroy_now();
        }
    }
}

static bool make_pools(void)
{
    struct pool_options options = round_.kind->options;
    unsigned count = round_.kind->mux == OWN ? 1 : 2;

    if (round_.kind->mux != OWN && pool_mux_create(&round_.mux))
        return false;
    options.size = sizeof(options);
    options.mux = round_.mux;
    options.connect_ms = CONNECT_MS;
    for (unsigned i = 0; i < count; i++) {
        if (pool_create(&options, &round_.pools[i]))
            return false;
    }
    round_.second = round_.pools[1];
    if (round_.kind->who == IN_TIMER &&
        pool_mux_after(round_.mux, 1, on_timer, NULL, &round_.timer))
        return false;
    return true;
}

static void begin_round(void)
{
    round_.kind = &kinds[rounds % KINDS];
    round_.number = rounds++;
    round_.pools[0] = round_.pools[1] = NULL;
    round_.mux = NULL;
    round_.timer = NULL;
    atomic_store(&round_.acts_before, stress_below(self, ACTS_MOST));
    atomic_store(&round_.acts, 0);
    atomic_store(&round_.is_begun, false);
    atomic_store(&round_.is_destroyed, false);
    atomic_store(&round_.workers, WORKERS);
    stress_begin_part(0);
    if (make_pools())
        return;
    stress_fail("%s: no pool", round_.kind->name);
    atomic_store(&is_over, true);
}

/* True: one more. */
static bool play_round(void)
{
    int descriptors = count_descriptors();
    long blocks = stress_blocks();
    char name[64];

    begin_round();
    pthread_barrier_wait(&begin_and_end);
    if (atomic_load(&is_over))
        return false;
    conduct();
    pool_timer_cancel(round_.timer);
    pool_mux_destroy(round_.mux);
    snprintf(name, sizeof(name), "round %u, %s", round_.number, round_.kind->name);
    stress_expect_nothing_left(descriptors, blocks, name);
    return !stress_failures();
}

static void take_part(unsigned index, void *argument)
{
    struct stress_caller caller = stress_caller_make(index);
    uint64_t start_ms = now_ms();

    (void)argument;
    self = &caller;
    while (index != CONDUCTOR) {
        pthread_barrier_wait(&begin_and_end);
        if (atomic_load(&is_over))
            return;
        work();
    }
    while (play_round() &&
           (rounds < LEAST * KINDS || elapsed_ms(start_ms) < 1000 * stress_seconds()))
        continue;
    if (!atomic_exchange(&is_over, true))
        pthread_barrier_wait(&begin_and_end);
}

int main(int argc, char **argv)
{
    stress_begin(argc, argv, 4);
    for (unsigned i = 0; i < PLACES; i++) {
        peers[i] = PEER(.behave = i == HUNG ? PEER_NEVER_ACCEPT : PEER_TOKEN, .own_process = true,
                        .family = i == 1 ? AF_UNIX : AF_INET, .record_connections = 1);
        if (!peers[i])
            return stress_end("no peer");
        addresses[i] = peer_address(peers[i]);
    }
    pthread_barrier_init(&begin_and_end, NULL, WORKERS + 1);
    run_threads(WORKERS + 1, take_part, NULL);
    pthread_barrier_destroy(&begin_and_end);
    for (unsigned i = 0; i < PLACES; i++)
        peer_stop(peers[i]);
    return stress_end("%u rounds, %llu asked, %llu times closed, %llu ended with help", rounds,
                      asked, closed, helped);
}
