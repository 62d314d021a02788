/* round.h: one order, carried to every connection of a peer or of a pool: who waits is told, what
 * is idle is taken, what is lent is doomed, and what only the mux may end is marked for it.
 *
 * A round decides under the locks and acts after them, in pl_round_finish(). Rounds of one pool
 * come one after the other.
 */
#ifndef PL_POOL_ROUND_H
#define PL_POOL_ROUND_H

#include "pool/peer.h"

enum pl_round_idle {
    PL_ROUND_LEAVE,                     /* idle connections stay */
    PL_ROUND_CLOSE,                     /* they are closed, for `reason` */
    PL_ROUND_GIVE_BACK                  /* they go to who waits, or where else they must */
};

struct pl_round {
    struct pl_failure failure;          /* told to all who wait; POOL_OK: they go on waiting */
    uint32_t hints;                     /* set at each peer */
    bool is_new_epoch;                  /* what there is counts as cleared */
    bool is_for_lent;                   /* only lent connections are meant */
    bool spares_unready;                /* what only the mux may end is passed by */
    enum pl_round_idle idle;
    enum pool_close_reason reason;
    enum pl_doom doom;                  /* of what is in use; NONE: it goes on */
    /* what came of it */
    bool has_met;                       /* a connection that the order was for */
    bool needs_mux;                     /* something is marked that only the mux may end */
    struct pl_list taken;               /* by lru_link: CLOSING or MUX, and ours */
    struct pl_list doomed;              /* by lru_link: pinned, and to be shut */
};

void pl_round_begin(struct pl_round *round);            /* all other fields are filled in */
void pl_round_of_peer(struct pl_round *round, struct pl_peer *peer);    /* entered */
void pl_round_of_pool(struct pl_round *round, struct pool *pool);
void pl_round_of_connection(struct pl_round *round, struct pool *pool, uint64_t id);

/* Closes, gives back and shuts what was met. No lock held. */
void pl_round_finish(struct pl_round *round);

#endif
