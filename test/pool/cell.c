/* cell.c: the callbacks that programs can have, and how each is brought about. See cell.h. */
#include "pool/cell.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATIENT POOL_CALL(.timeout_ms = VERBS_SOON)

struct cell cell;

void poke(struct pool_conn *conn)
{
    struct pool_conn copy = conn ? *conn : cell.loan;

    if (atomic_exchange(&cell.has_begun, true))
        return;
    cell.props.conn = &copy;
    atomic_store(&cell.answer, cell.call->run(&cell.props));
    cell.props.conn = NULL;
    if (conn && strcmp(cell.call->function, "pool_detach") == 0)
        pool_discard(&copy); /* nobody else knows of it any more */
    atomic_store(&cell.has_run, true);
}

bool cell_has_run(void *argument)
{
    (void)argument;
    return atomic_load(&cell.has_run);
}

static int use(struct pool_conn *conn, void *user)
{
    (void)user;
    poke(conn);
    return 0;
}

static void communicate(void)
{
    (void)pool_communicate(cell.props.pool, cell.props.address, do_nothing, NULL, PATIENT);
}

static void communicate_with_use(void)
{
    (void)pool_communicate(cell.props.pool, cell.props.address, use, NULL, PATIENT);
}

static void set_prepare(struct pool_options *options)
{
    options->prepare = use;
}

static int on_new_connection(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    (void)user;
    poke(conn);
    return 0;
}

static void set_on_new_connection(struct pool_options *options)
{
    options->on_new_connection = on_new_connection;
}

static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    (void)message;
    (void)user;
    poke(conn);
    return 0;
}

static void on_close(uint64_t connection, const struct pool_error *error, void *user)
{
    (void)connection;
    (void)error;
    (void)user;
    poke(NULL);
}

static int attach_listener(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    (void)user;
    actor->on_message = on_message;
    return 0;
}

static int attach_mourner(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    (void)user;
    actor->on_close = on_close;
    return 0;
}

static void set_listener(struct pool_options *options)
{
    options->on_new_connection = attach_listener;
}

static void set_mourner(struct pool_options *options)
{
    options->on_new_connection = attach_mourner;
}

static void be_told_something(void)
{
    communicate();
    peer_push(cell.peer, PEER_ALL, "news", 4);
    wait_until(cell_has_run, NULL, VERBS_SOON);
}

/* The call that a ticket stands for may have had the first connection after the loan's. */
static void be_left(void)
{
    communicate();
    peer_close(cell.peer, 1);
    peer_close(cell.peer, 2);
    wait_until(cell_has_run, NULL, VERBS_SOON);
}

static int on_socket(int fd, const char *address, void *user)
{
    (void)fd;
    (void)address;
    (void)user;
    poke(NULL);
    return 0;
}

static void set_on_socket(struct pool_options *options)
{
    options->on_socket = on_socket;
}

static int on_resolved(const char *address, const struct sockaddr *place, socklen_t size,
                       void *user)
{
    (void)address, (void)place, (void)size, (void)user;
    poke(NULL);
    return 0;
}

static void set_on_resolved(struct pool_options *options)
{
    options->on_resolved = on_resolved;
}

static void communicate_by_name(void)
{
    char named[64];

    snprintf(named, sizeof(named), "tcp://localhost:%d", peer_port(cell.peer));
    (void)pool_communicate(cell.props.pool, named, do_nothing, NULL, PATIENT);
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)error;
    (void)user;
    poke(conn);
    if (conn && pool_conn_id(conn))
        pool_discard(conn);
}

static void lend(void)
{
    enum pool_status status =
        pool_communicate_async(cell.props.pool, cell.props.address, on_lent, NULL, PATIENT, NULL);

    cr_expect_eq(status, POOL_OK);
    wait_until(cell_has_run, NULL, VERBS_SOON);
}

static void on_event_of_connection(struct pool_conn *conn, enum pool_event event,
                                   struct pool_bytes bytes, void *user)
{
    struct pool_conn copy = *conn;

    (void)bytes;
    (void)user;
    if (event == POOL_EV_WRITTEN)
        return; /* the answer is yet to come */
    poke(conn);
    pool_conn_ready(&copy, POOL_OK);
}

static int watch(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)actor;
    (void)user;
    if (pool_conn_watch(conn, on_event_of_connection, NULL) || pool_write(conn, "x", 1))
        return 2;
    return POOL_LATER;
}

static void set_watch(struct pool_options *options)
{
    options->on_new_connection = watch;
}

static enum pool_decision on_error(const struct pool_error *error, void *user)
{
    (void)error;
    (void)user;
    poke(NULL);
    return POOL_ABORT;
}

static void set_on_error(struct pool_options *options)
{
    options->on_error = on_error;
}

static int fail(struct pool_conn *conn, void *user)
{
    (void)conn;
    (void)user;
    return 7;
}

static void communicate_in_vain(void)
{
    (void)pool_communicate(cell.props.pool, cell.props.address, fail, NULL, PATIENT);
}

/* Once the call was made, whoever comes later waits. */
static enum pool_decision on_none_removable(struct pool *pool, void *user)
{
    bool was_made = atomic_load(&cell.has_run);

    (void)pool;
    (void)user;
    poke(NULL);
    return was_made ? POOL_CONTINUE : POOL_ABORT;
}

/* The loan is all that there may be. */
static void set_on_none_removable(struct pool_options *options)
{
    options->on_none_removable = on_none_removable;
    options->max_connections = 1;
}

static void on_event(const struct pool_event_info *event, void *user)
{
    (void)user;
    if (event->kind == POOL_EVENT_BORROWED && cell.loan.slot)
        poke(NULL);
}

static void set_on_event(struct pool_options *options)
{
    options->on_event = on_event;
}

static void on_log(enum pool_log_level level, const char *line, void *user)
{
    (void)level;
    (void)line;
    (void)user;
    poke(NULL);
}

static void set_on_log(struct pool_options *options)
{
    options->on_log = on_log;
    options->max_connections = 2;
}

/* A second address needs the room of what is idle at the first. */
static void evict_one(void)
{
    communicate();
    (void)pool_communicate(cell.props.pool, loopback_at(cell.peer, 1), do_nothing, NULL, PATIENT);
}

static void on_call(void *user)
{
    (void)user;
    poke(NULL);
}

static void post(void)
{
    cr_expect_eq(pool_mux_post(cell.mux, on_call, NULL), POOL_OK);
    wait_until(cell_has_run, NULL, VERBS_SOON);
}

/* The timer is the one that the call is made on. */
static void fire(void)
{
    pool_timer_cancel(cell.props.timer);
    cr_expect_eq(pool_mux_after(cell.mux, 0, on_call, NULL, &cell.props.timer), POOL_OK);
    wait_until(cell_has_run, NULL, VERBS_SOON);
}

static void send_signal(void)
{
    cr_expect_eq(pool_mux_signal(cell.mux, SIGUSR2, on_call, NULL), POOL_OK);
    kill(getpid(), SIGUSR2);
    wait_until(cell_has_run, NULL, VERBS_SOON);
}

static void close_it(void)
{
    cr_expect_eq(pool_close(cell.props.pool, POOL_NONE, on_call, NULL), POOL_OK);
    wait_until(cell_has_run, NULL, VERBS_SOON);
}

static void free_data(void *user)
{
    (void)user;
    poke(NULL);
}

static int attach_data(struct pool_conn *conn, void *user)
{
    (void)user;
    pool_conn_set_user(conn, &cell, free_data);
    return 1;
}

static void lose_data(void)
{
    (void)pool_communicate(cell.props.pool, cell.props.address, attach_data, NULL, PATIENT);
}

const struct callback callbacks[] = {
    { "use", NULL, communicate_with_use, false },
    { "prepare", set_prepare, communicate, false },
    { "on_new_connection", set_on_new_connection, communicate, false },
    { "on_message", set_listener, be_told_something, false },
    { "on_close", set_mourner, be_left, false },
    { "on_socket", set_on_socket, communicate, false },
    { "on_lent", NULL, lend, false },
    { "on_event of a connection", set_watch, communicate, false },
    { "on_error", set_on_error, communicate_in_vain, false },
    { "on_none_removable", set_on_none_removable, communicate, false },
    { "on_event", set_on_event, communicate, false },
    { "on_log", set_on_log, evict_one, false },
    { "a post", NULL, post, false },
    { "a timer", NULL, fire, false },
    { "a signal", NULL, send_signal, false },
    { "on_closed", NULL, close_it, true },
    { "free_user", NULL, lose_data, false },
    { "on_resolved", set_on_resolved, communicate_by_name, false },
};

const unsigned count_of_callbacks = sizeof(callbacks) / sizeof(*callbacks);
