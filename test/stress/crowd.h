/* crowd.h: what a crowd of threads knows of the connections that it is lent: who has which, which
 * was thrown away, and which errors fit.
 *
 * The ids of a pool's connections index the cards, so only one pool at a time. */
#ifndef TEST_STRESS_CROWD_H
#define TEST_STRESS_CROWD_H

#include <stdatomic.h>

#include "stress/stress.h"
#include "support/peer.h"

#define PLACES 8u
#define ENOUGH_MS 30000u /* calls to steady peers succeed within it */

enum temper { STEADY, UNSTEADY, ABSENT };

struct place {
    struct peer *peer;
    const char *address;
    enum temper temper;
};

/* What is known of a connection of the pool, by its id. */
struct card {
    _Atomic uint32_t holder; /* the thread that has it, plus one */
    _Atomic uint32_t nth; /* of the peer, plus one; or: must never be lent again */
};

extern struct place places[PLACES];
extern atomic_ullong handed, asked, strays, failed_calls;
extern __thread struct stress_caller *self; /* NULL: not one of the crowd */

void forget_cards(void); /* a new pool begins */

/* Notes that this thread got the connection, and looks whether it may have it. */
struct card *hold(const struct pool_conn *conn, const struct place *place);
void let_go(struct card *card);
void retire(struct card *card); /* nobody may get it any more */

/* One to three questions on a connection that this thread has; as stress_ask(). */
int talk(struct pool_conn *conn, struct card *card, const struct place *place);

/* Fails unless `status` fits the place and the call, and came in time. */
void judge(const char *what, int status, const struct place *place, const struct pool_call *call,
           uint64_t start_ms);

#endif
