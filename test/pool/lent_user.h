/* lent_user.h: a loan in event-driven use, and all that its watcher heard. Tests of the loan's
 * events and of its end share it. */
#ifndef TEST_POOL_LENT_USER_H
#define TEST_POOL_LENT_USER_H

#include "support/asks.h"

#define LENT_TEXT 200000u

struct lent_user {
    struct ask ask; /* its connection is the loan */
    struct pool *pool; /* on the mux below */
    struct mux_thread mux;
    atomic_uint reads, written, silences_read, silences_write, errors, ends; /* events, by kind */
    atomic_size_t bytes; /* how many came; the first LENT_TEXT of them are kept */
    char text[LENT_TEXT];
    struct pool_error error; /* of POOL_EV_ERROR */
    pool_post_fn *at_read, *at_written; /* run inside the event, on this; may be NULL */
    enum pool_status status; /* of what a test did on the mux */
    struct pool_conn handle; /* as the last event had it */
    size_t wanted;
};

/* A pool, and a loan of one of its connections that nobody watches yet. lent_end() returns the loan
 * if it is still out, and ends all of it, the peer too. */
#define LENT_USER(peer, ...) lent_user_with((peer), POOL_OPTIONS(__VA_ARGS__), NULL)
struct lent_user *lent_user(struct peer *peer);
struct lent_user *lent_user_with(struct peer *peer, const struct pool_options *options,
                                 const struct pool_call *call);
/* The same at any address; `peer` of lent_end() is NULL then. */
struct lent_user *lent_user_at(const char *address, const struct pool_options *options,
                               const struct pool_call *call);
void lent_end(struct lent_user *user, struct peer *peer);

/* Runs work(user) on the mux thread, and comes back when it is done. */
void lent_on_mux(struct lent_user *user, pool_post_fn *work);

/* Watches the loan. The second one is for the mux thread; its answer is in user->status. */
void lent_watch(struct lent_user *user);
void lent_do_watch(void *user);
void lent_on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                   void *user);

/* Waiting for one of the numbers above. */
bool lent_wait(atomic_uint *number, unsigned least);
bool lent_wait_bytes(struct lent_user *user, size_t least);

#endif
