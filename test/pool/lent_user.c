/* lent_user.c: see lent_user.h. */
#include "pool/lent_user.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

void lent_on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                   void *argument)
{
    struct lent_user *user = argument;

    user->handle = *conn;
    cr_expect(event == POOL_EV_READ ? bytes.size > 0 : bytes.size == 0);
    cr_expect_eq(user->errors + user->ends, 0, "nothing comes after the last event");
    switch (event) {
    case POOL_EV_CONNECTED:
        cr_expect(false, "it was connected before");
        break;
    case POOL_EV_READ:
        if (user->bytes + bytes.size <= LENT_TEXT)
            memcpy(user->text + user->bytes, bytes.data, bytes.size);
        atomic_fetch_add(&user->bytes, bytes.size);
        atomic_fetch_add(&user->reads, 1);
        if (user->at_read)
            user->at_read(user);
        break;
    case POOL_EV_WRITTEN:
        atomic_fetch_add(&user->written, 1);
        if (user->at_written)
            user->at_written(user);
        break;
    case POOL_EV_TIMEOUT_READ:
        atomic_fetch_add(&user->silences_read, 1);
        break;
    case POOL_EV_TIMEOUT_WRITE:
        atomic_fetch_add(&user->silences_write, 1);
        break;
    case POOL_EV_ERROR:
        user->error = (struct pool_error)POOL_ERROR_INIT;
        cr_expect_eq(pool_conn_error(conn, &user->error), POOL_OK);
        atomic_fetch_add(&user->errors, 1);
        break;
    case POOL_EV_CLOSED:
        atomic_fetch_add(&user->ends, 1);
        break;
    }
}

void lent_do_watch(void *argument)
{
    struct lent_user *user = argument;

    user->status = pool_conn_watch(&user->ask.conn, lent_on_event, user);
}

struct lent_user *lent_user_at(const char *address, const struct pool_options *options,
                               const struct pool_call *call)
{
    struct lent_user *user = calloc(1, sizeof(*user));
    struct pool_options own = *options;

    cr_assert_not_null(user);
    cr_assert(start_mux_thread(&user->mux));
    own.mux = user->mux.mux;
    user->pool = make_pool(&own);
    user->ask.is_kept = true;
    cr_assert_eq(start_ask_with_ticket(&user->ask, user->pool, address, call), POOL_OK);
    cr_assert(wait_told(&user->ask));
    cr_assert_eq(user->ask.status, POOL_OK);
    return user;
}

struct lent_user *lent_user_with(struct peer *peer, const struct pool_options *options,
                                 const struct pool_call *call)
{
    return lent_user_at(peer_address(peer), options, call);
}

struct lent_user *lent_user(struct peer *peer)
{
    return lent_user_with(peer, POOL_OPTIONS(.user = NULL), NULL);
}

void lent_on_mux(struct lent_user *user, pool_post_fn *work)
{
    cr_assert(run_on_mux(user->mux.mux, work, user));
}

void lent_watch(struct lent_user *user)
{
    lent_on_mux(user, lent_do_watch);
    cr_assert_eq(user->status, POOL_OK);
}

void lent_end(struct lent_user *user, struct peer *peer)
{
    pool_return(&user->ask.conn);
    pool_destroy(user->pool);
    pool_ticket_free(user->ask.ticket);
    stop_mux_thread(&user->mux);
    free(user);
    peer_stop(peer);
}

struct count {
    atomic_uint *number;
    unsigned least;
};

static bool has_come(void *argument)
{
    struct count *count = argument;

    return atomic_load(count->number) >= count->least;
}

bool lent_wait(atomic_uint *number, unsigned least)
{
    return wait_until(has_come, &(struct count){ number, least }, VERBS_SOON);
}

static bool has_bytes(void *argument)
{
    struct lent_user *user = argument;

    return atomic_load(&user->bytes) >= user->wanted;
}

bool lent_wait_bytes(struct lent_user *user, size_t least)
{
    user->wanted = least;
    return wait_until(has_bytes, user, VERBS_SOON);
}
