/* leak.h: loans that last suspiciously long. With leak_ms each loan is noted at its connection, and
 * the sweep reports every one that is older, once. Without it nothing is noted and nothing is
 * looked for.
 */
#ifndef PL_POOL_LEAK_H
#define PL_POOL_LEAK_H

#include <stdbool.h>
#include <stdint.h>

struct pool;
struct pl_room;
struct pl_connection;

#define PL_TAG 32                       /* bytes of a call's tag that are kept, the zero byte too */

/* Of the latest loan of one connection; peer lock. */
struct pl_loan_note {
    uint64_t serial;                    /* which loan it is */
    uint64_t lent_ns;
    bool is_reported;
    char tag[PL_TAG];
};

/* The connection is lent from now on, for a call with this tag. Its lessee's thread. */
void pl_leak_note(struct pl_connection *connection, const char *tag);

/* Reports what is due, of all pools on the mux; answers when to look again. No lock held. */
uint64_t pl_leak_look(struct pl_room *room, uint64_t now_ns);

#endif
