/* queries.h: queries in tests: one record for each, which counts how often it was told, where, and
 * what.
 *
 *     struct query query = { 0 };
 *
 *     cr_assert_eq(start_query(&query, pool, address, "hello", NULL), POOL_OK);
 *     cr_assert(wait_answered(&query));
 *     cr_expect_str_eq(query.text, "hello");
 *
 * As verbs.h: only the public API stands below it, and it needs no Criterion. */
#ifndef TEST_SUPPORT_QUERIES_H
#define TEST_SUPPORT_QUERIES_H

#include "commpool/query.h"
#include "support/query_peer.h"
#include "support/verbs.h"

#define QUERY_TEXT 1024u

struct query {
    /* before the start */
    void (*then)(struct query *query); /* runs on the mux thread, when it was told; may be NULL */
    void *user; /* of `then` */
    bool has_ticket;
    /* afterwards, once it is told */
    atomic_uint told; /* how often */
    enum pool_status status;
    struct pool_error error;
    bool failed; /* the peer says so */
    size_t size;
    char text[QUERY_TEXT]; /* as much as there is room for */
    pthread_t thread; /* on which it was told */
    bool was_under_the_start; /* it was told on the stack of the call that asked */
    unsigned place; /* in the order in which queries were told, from 1 */
    struct pool_ticket *ticket; /* when asked for, of the start */
};

/* The bytes of a text. */
struct pool_bytes text_bytes(const char *text);

/* Starts it; `call` may be NULL, which means a timeout of VERBS_SOON. */
enum pool_status start_query(struct query *query, struct pool *pool, const char *address,
                             const char *body, const struct pool_call *call);
bool wait_answered(struct query *query);
/* The same where the calling thread drives the mux. */
bool dispatch_until_answered(struct pool_mux *mux, struct query *query);

/* A query that this thread waits for, into the same record. */
enum pool_status ask_and_wait(struct query *query, struct pool *pool, const char *address,
                              const char *body, const struct pool_call *call);

/* Was it answered once, with these bytes? If not, says so on stderr. */
bool is_answered_with(const struct query *query, const char *body);
/* Did it fail once, so? */
bool has_failed_with(const struct query *query, enum pool_status status);

/* Comes back when a peer of its own has answered, which takes it that long: more than other threads
 * need to get to their system calls. */
bool let_peer_take_time(unsigned ms);

/* A query of a thread of its own. */
struct asker {
    struct query query;
    struct pool *pool;
    const char *address, *body;
    struct pool_call call; /* its error is set to that of the query */
    pthread_t thread;
    uint64_t took_ms;
};

bool start_asker(struct asker *asker, struct pool *pool, const char *address, const char *body,
                 const struct pool_call *call);
enum pool_status join_asker(struct asker *asker);

/* An on_orphan that counts, for pools whose `user` is a struct orphans. */
struct orphans {
    atomic_uint count;
    uint64_t key, id;
    char text[64]; /* of the last one */
};
void count_orphan(uint64_t id, uint64_t key, struct pool_bytes body, void *user);
bool wait_orphans(struct orphans *orphans, unsigned least);

#endif
