/* borrow.h: how a call comes to a connection; give_back.c has the way back. */
#ifndef PL_POOL_BORROW_H
#define PL_POOL_BORROW_H

#include "pool/pool.h"

/* One borrow of one caller; on its stack. */
struct pl_borrow {
    struct pool *pool;
    const char *address;                /* as given; NULL with a target */
    struct pool_call call;
    struct pl_thread *self;
    struct pl_peer *peer;               /* entered */
    uint64_t start_ns, deadline_ns, wait_deadline_ns;
    struct pl_spent spent;
    struct pl_failure failure;
    bool must_look;            /* look at the connection closely, whatever the pool's option says */
};

/* The whole of pool_borrow; what the way took stays in borrow->spent. */
enum pool_status pl_borrow_first(struct pl_borrow *borrow, const struct pool_call *call,
                                 struct pool_conn *conn) PL_MUST_USE;

/* Its slow part, with borrow->call read. Lends one to the caller; POOL_OK, or a failure that
 * `error` of the call was told. */
enum pool_status pl_borrow_any(struct pl_borrow *borrow, struct pool_conn *conn) PL_MUST_USE;

/* The text by which errors name this borrow's peer. */
const char *pl_borrow_text(const struct pl_borrow *borrow);

#endif
