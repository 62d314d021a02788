/* pending.h: one query under way in the programs that ask by the million: what it asks, what may
 * become of it, and whether that is what became of it.
 *
 * A request is an order to the peer, a token (seen.h), and as many letters as are wanted behind it,
 * so no two are the same. */
#ifndef TEST_STRESS_PENDING_H
#define TEST_STRESS_PENDING_H

#include <stdatomic.h>

#include "commpool/query.h"
#include "stress/seen.h"
#include "stress/stress.h"

#define CALL_MS 30000u /* who is not hurried is answered within it */
#define HURRIED_MS 20u

struct pending {
    unsigned caller;
    bool is_canceled, is_hasty, is_hurried, may_repeat; /* what may become of it */
    bool asks_again; /* from on_reply */
    void *owner, *more; /* the program's; it frees the second one */
    atomic_uint told;
    size_t size;
    char body[];
};

struct pending *pending_make(const char *order, size_t padding); /* freed by free() */
struct pool_bytes pending_bytes(const struct pending *pending);

/* Patience; hurried are those that are already, and a few others. */
uint32_t pending_timeout(struct stress_caller *caller, struct pending *pending);

/* Cancels some, and frees the ticket, which may be NULL. */
void pending_cancel(struct stress_caller *caller, struct pool_ticket *ticket);

/* Is the status one that fits the query itself? Whether it fits what happens around it is the
 * program's to know. */
bool pending_may_fail(const struct pending *pending, enum pool_status status);

/* Each fails the program: it is told twice; it failed as it may not, or failed unsent and came. */
void pending_note_told(struct pending *pending);
void pending_check_failure(const struct pending *pending, const struct pool_error *error,
                           bool may_be);

#endif
