/* reply.h: what a query came to: bytes of the peer's, or why there are none. It belongs to the
 * program once it was handed over, and knows neither pool nor connection. */
#ifndef PL_POOL_REPLY_H
#define PL_POOL_REPLY_H

#include "base/failure.h"
#include "base/list.h"
#include "commpool/query.h"

#define PL_REPLY_SMALL 72u

struct pl_query;

struct pool_reply {
    struct pl_list link;                /* among parts that are to be told, while it is the
                                         * library's */
    struct pool_error *error;           /* NULL: it is an answer */
    bool is_failed;                     /* the peer says that it failed */
    bool is_small;                      /* it has room for PL_REPLY_SMALL bytes, and is kept */
    size_t size;
    char bytes[];
};

/* NULL: no memory. */
struct pool_reply *pl_reply_make(struct pool_bytes bytes, bool is_failed) PL_MUST_USE;

/* The answer to what has none, which nobody can run out of memory for. */
struct pool_reply *pl_reply_nothing(void);

/* Never NULL: without memory it is one that says so. */
struct pool_reply *pl_reply_of_failure(const struct pl_query *query, const char *address);

/* One of two; NULL: no memory. */
struct pool_reply *pl_reply_join(struct pool_bytes first, struct pool_bytes last,
                                 bool is_failed) PL_MUST_USE;

void pl_reply_drop_all(struct pl_list *replies);
/* The spare ones of a mux. */
void pl_reply_drop_spares(struct pl_list *spares);

#endif
