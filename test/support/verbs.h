/* verbs.h: what tests of the pool do again and again: make one, talk through it, borrow in other
 * threads, wait for one of its numbers.
 *
 * Only the public API stands below it, and none of it needs Criterion. Every wait here is bounded
 * by VERBS_SOON; running into that bound is a failure, never a way to pass. */
#ifndef TEST_SUPPORT_VERBS_H
#define TEST_SUPPORT_VERBS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "commpool/pool.h"
#include "support/peer.h"
#include "support/tests.h"

#define VERBS_SOON 20000 /* ms that no wait of a healthy run comes near */

/* Did it take `low` ms and not much more? For tests whose rule is another one than exactness: other
 * programs may run at the same time. */
#define IN_TIME(ms, low) WITHIN((ms), (low), (low) + 400)

/* A pool, or NULL with the reason on stderr. The caller ends it with pool_destroy(). */
#define MAKE_POOL(...) make_pool(POOL_OPTIONS(__VA_ARGS__))
struct pool *make_pool(const struct pool_options *options);

/* An exchange with an echoing peer: 0 when the same bytes came back, else -1. The second is a
 * pool_use_fn whose `user` is the text; do_nothing touches nothing and answers 0. */
int echo(struct pool_conn *conn, const char *text);
int use_echo(struct pool_conn *conn, void *text);
int do_nothing(struct pool_conn *conn, void *user);

/* One exchange with an echoing peer through pool_communicate(). */
enum pool_status talk(struct pool *pool, const char *address);

/* Borrows, exchanges one echo, returns; answers the id of the connection that served, 0 when it
 * failed. */
uint64_t id_of_next(struct pool *pool, const char *address);

/* Borrows with a timeout of VERBS_SOON. False: the reason is on stderr. */
bool borrow(struct pool *pool, const char *address, struct pool_conn *conn);

/* The numbers of pool_stats() by name. Waiting answers false when VERBS_SOON passed in vain. */
#define STAT(pool, field) stat_at((pool), offsetof(struct pool_stats, field))
#define WAIT_STAT(pool, field, value) wait_stat((pool), offsetof(struct pool_stats, field), (value))
uint64_t stat_at(struct pool *pool, size_t offset);
bool wait_stat(struct pool *pool, size_t offset, uint64_t value);

/* Is a descriptor watched for reading in an epoll set of this process? */
bool is_watched(int fd);

/* Waits until the connection of a descriptor is parked, which no number of the pool tells: whoever
 * borrows then gets it, and has no other one opened. */
bool wait_parked(int fd);

/* Leaves one connection parked that was borrowed and returned; answers its descriptor, -1: it was
 * not parked in time, or not to be had. */
int leave_parked(struct pool *pool, const char *address);

/* The address of a peer with .every_loopback by number: one port, many hosts. The text is good
 * until the fourth call after this one, by this thread. */
const char *loopback_at(const struct peer *peer, unsigned number);

/* Descriptors of the program's own: takes all that the limit allows but `free_ones`, and gives so
 * many back, PEER_ALL for all. One thread at a time. */
void fill_descriptors_but(unsigned free_ones);
void free_descriptors(unsigned count);

/* A thread that borrows and keeps what it got. Fill in the first three, start it, read the rest
 * after joining; is_back may be read at any time. */
struct caller {
    struct pool *pool;
    const char *address;
    struct pool_call call; /* its error is set to the field below */
    struct pool_conn conn;
    struct pool_error error;
    enum pool_status status;
    uint64_t took_ms;
    unsigned place; /* in the order in which callers came back, from 1 */
    atomic_bool is_back;
    pthread_t thread;
};

bool start_caller(struct caller *caller, struct pool *pool, const char *address,
                  uint32_t timeout_ms);
bool start_caller_with(struct caller *caller, struct pool *pool, const char *address,
                       const struct pool_call *call);
enum pool_status join_caller(struct caller *caller);
bool wait_back(struct caller *caller);

/* Starts one more caller and waits until the pool counts one more waiter. */
bool queue_caller(struct caller *caller, struct pool *pool, const char *address,
                  uint32_t timeout_ms);

#endif
