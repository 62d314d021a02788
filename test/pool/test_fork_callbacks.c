/* test_fork_callbacks.c: a callback may fork and come back in the child. The call, or the batch,
 * that it runs in ends there with POOL_E_FORKED, without a step on anything of the parent's; the
 * parent goes on. Each callback is tried on a mux with a thread of its own and on one that the
 * program dispatches. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/child.h"
#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

enum place {
    IN_USE,
    IN_PREPARE,
    IN_NONE_REMOVABLE, /* asked by the caller */
    IN_EVENT_OF_CALL,
    IN_ERROR,
    IN_LAST_PLACE_OF_CALLER = IN_ERROR,
    IN_SOCKET,
    IN_RESOLVED,
    IN_NEW_CONNECTION,
    IN_CONN_EVENT,
    IN_MESSAGE,
    IN_GONE,
    IN_NONE_REMOVABLE_ON_MUX,
    IN_EVENT_OF_MUX,
    IN_LENT,
    IN_LENT_EVENT,
    IN_WORKER, /* `prepare`, on a thread of the pool's */
    IN_LAST_PLACE_OF_POOL = IN_WORKER,
    IN_POST,
    IN_TIMER,
    PLACES
};

static const char *const names[PLACES] = {
    [IN_USE] = "use",
    [IN_PREPARE] = "prepare",
    [IN_NONE_REMOVABLE] = "on_none_removable",
    [IN_EVENT_OF_CALL] = "on_event of a call",
    [IN_ERROR] = "on_error",
    [IN_SOCKET] = "on_socket",
    [IN_RESOLVED] = "on_resolved",
    [IN_NEW_CONNECTION] = "on_new_connection",
    [IN_CONN_EVENT] = "event of a connection",
    [IN_MESSAGE] = "on_message",
    [IN_GONE] = "on_close",
    [IN_NONE_REMOVABLE_ON_MUX] = "on_none_removable, on the mux",
    [IN_EVENT_OF_MUX] = "on_event of the mux",
    [IN_LENT] = "on_lent",
    [IN_LENT_EVENT] = "event of a lent connection",
    [IN_WORKER] = "prepare, on a worker",
    [IN_POST] = "post",
    [IN_TIMER] = "timer",
};

static struct scene {
    enum place place;
    struct peer *peer, *other;
    struct pool *pool;
    struct pool_mux *mux; /* NULL: a thread of its own */
    struct pool_timer *timer;
    struct pool_conn kept;
    enum pool_status status; /* of the worker's last talk */
    _Atomic pid_t child;
    atomic_bool is_over;
    bool is_child;
} scene;

static _Thread_local bool is_caller;

/* ---- the child */

/* The parent's pool is refused and destroyed, and one of its own serves. */
static int begin_anew(void)
{
    int before = count_descriptors();
    struct pool *own;

    CHILD_NEEDS(talk(scene.pool, peer_address(scene.peer)) == POOL_E_FORKED);
    pool_destroy(scene.pool);
    pool_timer_cancel(scene.timer);
    pool_mux_destroy(scene.mux);
    CHILD_NEEDS(count_descriptors() <= before);
    CHILD_NEEDS(child_door_calls() == 0);
    free_descriptors(PEER_ALL);
    own = MAKE_POOL();
    CHILD_NEEDS(talk(own, peer_address(scene.peer)) == POOL_OK);
    pool_destroy(own);
    return 0;
}

static void fork_at(enum place place)
{
    pid_t child;

    if (scene.place != place || scene.is_child || atomic_load(&scene.child))
        return;
    child = child_fork();
    if (child) {
        atomic_store(&scene.child, child);
        return;
    }
    scene.is_child = true;
    child_watch_door();
}

/* ---- callbacks */

static int use(struct pool_conn *conn, void *user)
{
    int answer = echo(conn, "ping");

    (void)user;
    fork_at(IN_USE);
    return answer;
}

static int prepare(struct pool_conn *conn, void *user)
{
    (void)user;
    fork_at(IN_PREPARE);
    if (!is_caller)
        fork_at(IN_WORKER);
    return echo(conn, "log in");
}

/* The peer is there again for the parent's next attempt. */
static enum pool_decision on_error(const struct pool_error *error, void *user)
{
    (void)error, (void)user;
    fork_at(IN_ERROR);
    if (!scene.is_child)
        peer_up(scene.other);
    return POOL_CONTINUE;
}

static enum pool_decision on_none_removable(struct pool *pool, void *user)
{
    (void)pool, (void)user;
    fork_at(IN_NONE_REMOVABLE);
    fork_at(IN_NONE_REMOVABLE_ON_MUX);
    return POOL_CONTINUE;
}

static void on_event(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind == POOL_EVENT_BORROWED)
        fork_at(IN_EVENT_OF_CALL);
    if (event->kind == POOL_EVENT_CONNECTION_READY)
        fork_at(IN_EVENT_OF_MUX);
}

static int on_socket(int fd, const char *address, void *user)
{
    (void)fd, (void)address, (void)user;
    fork_at(IN_SOCKET);
    return 0;
}

static int on_resolved(const char *address, const struct sockaddr *place, socklen_t size,
                       void *user)
{
    (void)address, (void)place, (void)size, (void)user;
    fork_at(IN_RESOLVED);
    return 0;
}

static void on_conn_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                          void *user)
{
    (void)bytes, (void)user;
    if (event != POOL_EV_READ)
        return;
    fork_at(IN_CONN_EVENT);
    pool_conn_ready(conn, POOL_OK);
}

static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)conn, (void)message, (void)user;
    fork_at(IN_MESSAGE);
    return 0;
}

static void on_close(uint64_t connection, const struct pool_error *error, void *user)
{
    (void)connection, (void)error, (void)user;
    fork_at(IN_GONE);
}

static int on_new_connection(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)user;
    fork_at(IN_NEW_CONNECTION);
    if (scene.place == IN_MESSAGE || scene.place == IN_GONE) {
        actor->on_message = on_message;
        actor->on_close = on_close;
    }
    if (scene.place != IN_CONN_EVENT)
        return 0;
    return pool_conn_watch(conn, on_conn_event, NULL) || pool_write(conn, "hello", 5) ? 1
                                                                                      : POOL_LATER;
}

static void on_lent_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                          void *user)
{
    (void)bytes, (void)user;
    if (event != POOL_EV_READ)
        return;
    fork_at(IN_LENT_EVENT);
    pool_return(&(struct pool_conn){ conn->slot, conn->serial });
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct pool_conn lent;

    (void)user;
    if (error)
        return;
    lent = *conn;
    fork_at(IN_LENT);
    if (scene.place == IN_LENT_EVENT && !pool_conn_watch(&lent, on_lent_event, NULL) &&
        !pool_write(&lent, "hello", 5))
        return;
    pool_return(&lent);
}

static void on_post(void *user)
{
    (void)user;
    fork_at(IN_POST);
}

static void on_timer(void *user)
{
    (void)user;
    fork_at(IN_TIMER);
}

/* ---- the parent */

static struct pool_options options_of(enum place place)
{
    struct pool_options options = { .size = sizeof(options), .mux = scene.mux, .park_ms = 1 };

    if (place == IN_PREPARE || place == IN_WORKER)
        options.prepare = prepare;
    if (place == IN_EVENT_OF_CALL || place == IN_EVENT_OF_MUX)
        options.on_event = on_event;
    if (place == IN_SOCKET)
        options.on_socket = on_socket;
    if (place == IN_RESOLVED)
        options.on_resolved = on_resolved;
    if (place == IN_NONE_REMOVABLE || place == IN_NONE_REMOVABLE_ON_MUX)
        options.on_none_removable = on_none_removable;
    if (place == IN_NONE_REMOVABLE)
        options.max_connections = 1;
    if (place >= IN_NEW_CONNECTION && place <= IN_GONE)
        options.on_new_connection = on_new_connection;
    return options;
}

static bool has_forked(void *unused)
{
    (void)unused;
    return atomic_load(&scene.child) != 0;
}

/* Whatever it takes that the callback is called. */
static void provoke(enum place place)
{
    if (place == IN_MESSAGE)
        peer_push(scene.peer, PEER_ALL, "news", 4);
    if (place == IN_GONE)
        peer_close_all(scene.peer);
    if (place == IN_POST)
        pool_mux_post(scene.mux, on_post, NULL);
    if (place == IN_TIMER)
        pool_mux_after(scene.mux, 1, on_timer, NULL, &scene.timer);
}

/* Two at once: one of them gets a new connection. */
static void start_asynchronous(enum place place)
{
    if (place < IN_LENT || place > IN_WORKER)
        return;
    for (int i = 0; i < 2; i++)
        pool_communicate_async(scene.pool, peer_address(scene.peer), on_lent, NULL,
                               POOL_CALL(.timeout_ms = VERBS_SOON), NULL);
}

static void *work(void *unused)
{
    bool is_elsewhere = scene.kept.slot || scene.place == IN_ERROR;
    const char *address = peer_address(is_elsewhere ? scene.other : scene.peer);
    char named[64];

    (void)unused;
    if (scene.place == IN_RESOLVED) {
        snprintf(named, sizeof(named), "tcp://localhost:%d", peer_port(scene.peer));
        address = named;
    }
    is_caller = true;
    start_asynchronous(scene.place);
    scene.status =
        pool_communicate(scene.pool, address, use, NULL,
                         POOL_CALL(.timeout_ms = VERBS_SOON,
                                   .on_error = scene.place == IN_ERROR ? on_error : NULL));
    if (scene.is_child) {
        if (scene.status != POOL_E_FORKED)
            _exit(child_failed(pool_status_name(scene.status), names[scene.place], 0));
        _exit(begin_anew());
    }
    if (!scene.status && !has_forked(NULL))
        provoke(scene.place);
    if (!wait_until(has_forked, NULL, VERBS_SOON))
        scene.status = POOL_E_TIMEOUT;
    atomic_store(&scene.is_over, true);
    return NULL;
}

/* Without a peer, a share of the cap, or a descriptor, until the callback was asked and has
 * forked. */
static void make_short(enum place place)
{
    if (place == IN_ERROR)
        peer_down(scene.other);
    if (place == IN_NONE_REMOVABLE)
        cr_assert(borrow(scene.pool, peer_address(scene.peer), &scene.kept));
    if (place == IN_NONE_REMOVABLE_ON_MUX) {
        set_descriptor_limit((unsigned)count_descriptors() + 8);
        fill_descriptors_but(0);
    }
}

static void end_shortage(void)
{
    if (!has_forked(NULL))
        return;
    if (scene.kept.slot)
        cr_expect_eq(pool_return(&scene.kept), POOL_OK);
    free_descriptors(PEER_ALL);
}

static void drive(void)
{
    while (!atomic_load(&scene.is_over)) {
        enum pool_status status = scene.mux ? pool_mux_dispatch(scene.mux, 1)
                                            : (wait_until(has_forked, NULL, 1), POOL_OK);

        if (scene.is_child) {
            if (status != POOL_E_FORKED)
                _exit(child_failed(pool_status_name(status), names[scene.place], 1));
            _exit(begin_anew());
        }
        end_shortage();
    }
}

static void play(enum place place, bool is_embedded)
{
    struct pool_options options;
    pthread_t worker;

    scene = (struct scene){ .place = place };
    scene.peer = PEER(.own_process = true);
    scene.other = PEER(.own_process = true);
    if (is_embedded)
        cr_assert_eq(pool_mux_create(&scene.mux), POOL_OK);
    options = options_of(place);
    scene.pool = make_pool(&options);
    make_short(place);
    cr_assert_eq(pthread_create(&worker, NULL, work, NULL), 0);
    drive();
    pthread_join(worker, NULL);
    cr_expect_eq(scene.status, POOL_OK, "%s: %s", names[place], pool_status_name(scene.status));
    cr_expect_eq(child_status(scene.child), 0, "%s", names[place]);
    pool_destroy(scene.pool);
    pool_timer_cancel(scene.timer);
    pool_mux_destroy(scene.mux);
    cr_expect(peer_wait_open(scene.peer, 0, VERBS_SOON), "%s", names[place]);
    cr_expect(peer_wait_open(scene.other, 0, VERBS_SOON), "%s", names[place]);
    peer_stop(scene.peer);
    peer_stop(scene.other);
}

/* A child of a thread beside which others run gets the address sanitizer's own locks as they were:
 * where one of those threads was allocating, the child's next allocation waits for ever. */
static void need_own_allocator(void)
{
#ifdef __SANITIZE_ADDRESS__
    cr_skip("the sanitizer's allocator does not survive a fork beside running threads");
#endif
}

Test(pool_fork_callbacks, a_callback_of_a_call_may_fork_and_come_back)
{
    need_own_allocator();
    for (int place = 0; place <= IN_LAST_PLACE_OF_CALLER; place++)
        play((enum place)place, false);
}

Test(pool_fork_callbacks, a_callback_on_the_own_thread_of_a_mux_may_fork_and_come_back)
{
    need_own_allocator();
    for (int place = IN_LAST_PLACE_OF_CALLER + 1; place <= IN_LAST_PLACE_OF_POOL; place++)
        play((enum place)place, false);
}

Test(pool_fork_callbacks, a_callback_in_the_programs_loop_may_fork_and_come_back)
{
    need_own_allocator();
    for (int place = IN_LAST_PLACE_OF_CALLER + 1; place < PLACES; place++)
        play((enum place)place, true);
}
