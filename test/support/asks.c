/* asks.c: see asks.h. */
#include "support/asks.h"

#include <stdio.h>

#include "support/tests.h"

static atomic_uint places;
static __thread const struct ask *starting;

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct ask *ask = user;

    ask->thread = pthread_self();
    ask->was_under_the_start = starting != NULL;
    ask->was_unset = ask->has_ticket && !ask->ticket;
    ask->took_ms = elapsed_ms(ask->start_ms);
    ask->place = atomic_fetch_add(&places, 1) + 1;
    if (!conn == !error)
        ask->status = POOL_E_ARGUMENT; /* exactly one of them is there */
    if (error) {
        ask->error = *error;
        ask->status = error->status;
    }
    if (conn) {
        ask->id = pool_conn_id(conn);
        if (ask->is_kept)
            ask->conn = *conn;
        else
            pool_return(conn);
    }
    if (ask->then)
        ask->then(ask);
    atomic_fetch_add(&ask->told, 1);
}

static enum pool_status start(struct ask *ask, struct pool *pool, const char *address,
                              const struct pool_call *call)
{
    const struct ask *outer = starting;
    enum pool_status status;

    ask->start_ms = now_ms();
    starting = ask;
    status = pool_communicate_async(pool, address, on_lent, ask,
                                    call ? call : POOL_CALL(.timeout_ms = VERBS_SOON),
                                    ask->has_ticket ? &ask->ticket : NULL);
    starting = outer;
    return status;
}

enum pool_status start_ask(struct ask *ask, struct pool *pool, const char *address,
                           const struct pool_call *call)
{
    return start(ask, pool, address, call);
}

enum pool_status start_ask_with_ticket(struct ask *ask, struct pool *pool, const char *address,
                                       const struct pool_call *call)
{
    ask->has_ticket = true;
    return start(ask, pool, address, call);
}

static bool is_told(void *argument)
{
    struct ask *ask = argument;

    return atomic_load(&ask->told);
}

bool wait_told(struct ask *ask)
{
    return wait_until(is_told, ask, VERBS_SOON);
}

bool dispatch_until_told(struct pool_mux *mux, struct ask *ask)
{
    uint64_t start_ms = now_ms();

    while (!atomic_load(&ask->told) && elapsed_ms(start_ms) < VERBS_SOON) {
        if (pool_mux_dispatch(mux, 10))
            return false;
    }
    return atomic_load(&ask->told);
}

struct errand {
    pool_post_fn *work;
    void *user;
    atomic_bool is_done;
};

static void run_errand(void *user)
{
    struct errand *errand = user;

    errand->work(errand->user);
    atomic_store(&errand->is_done, true);
}

static bool is_done(void *argument)
{
    struct errand *errand = argument;

    return atomic_load(&errand->is_done);
}

bool run_on_mux(struct pool_mux *mux, pool_post_fn *work, void *user)
{
    struct errand errand = { .work = work, .user = user };

    return pool_mux_post(mux, run_errand, &errand) == POOL_OK &&
           wait_until(is_done, &errand, VERBS_SOON);
}

static void *run_mux(void *mux)
{
    enum pool_status status = pool_mux_run(mux);

    if (status)
        fprintf(stderr, "pool_mux_run: %s\n", pool_status_name(status));
    return NULL;
}

static void do_none(void *user)
{
    (void)user;
}

/* Until it has dispatched, the creating thread counts as the mux's. */
bool start_mux_thread(struct mux_thread *thread)
{
    return pool_mux_create(&thread->mux) == POOL_OK &&
           pthread_create(&thread->thread, NULL, run_mux, thread->mux) == 0 &&
           run_on_mux(thread->mux, do_none, NULL);
}

void stop_mux_thread(struct mux_thread *thread)
{
    pool_mux_stop(thread->mux);
    pthread_join(thread->thread, NULL);
    pool_mux_destroy(thread->mux);
}

static bool is_held(void *hold)
{
    return atomic_load(&((struct mux_hold *)hold)->is_held);
}

static bool may_go(void *hold)
{
    return atomic_load(&((struct mux_hold *)hold)->may_go);
}

static void stay(void *user)
{
    struct mux_hold *hold = user;

    atomic_store(&hold->is_held, true);
    wait_until(may_go, hold, VERBS_SOON);
}

bool hold_mux(struct pool_mux *mux, struct mux_hold *hold)
{
    return pool_mux_post(mux, stay, hold) == POOL_OK && wait_until(is_held, hold, VERBS_SOON);
}

void let_mux_go(struct mux_hold *hold)
{
    atomic_store(&hold->may_go, true);
}
