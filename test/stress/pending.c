/* pending.c: see pending.h. */
#include "stress/pending.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pending *pending_make(const char *order, size_t padding)
{
    struct pending *pending = calloc(1, sizeof(*pending) + strlen(order) + padding + 32);
    uint64_t token = seen_new_token();
    int head;

    if (!pending)
        abort();
    head = sprintf(pending->body, "%st%llu.", order, (unsigned long long)token);
    memset(pending->body + head, 'a' + (int)(token % 26), padding);
    pending->size = (size_t)head + padding;
    return pending;
}

struct pool_bytes pending_bytes(const struct pending *pending)
{
    return (struct pool_bytes){ pending->body, pending->size };
}

uint32_t pending_timeout(struct stress_caller *caller, struct pending *pending)
{
    if (stress_chance(caller, 5))
        pending->is_hurried = true;
    return pending->is_hurried ? 1 + stress_below(caller, HURRIED_MS) : CALL_MS;
}

void pending_cancel(struct stress_caller *caller, struct pool_ticket *ticket)
{
    if (ticket && stress_chance(caller, 50))
        pool_ticket_cancel(ticket);
    pool_ticket_free(ticket);
}

bool pending_may_fail(const struct pending *pending, enum pool_status status)
{
    switch (status) {
    case POOL_E_TIMEOUT:
    case POOL_E_TIMEOUT_IN_TRANSFER:
        return pending->is_hurried;
    case POOL_E_CANCELED:
        return pending->is_canceled;
    case POOL_E_FULL:
        return pending->is_hasty;
    default:
        return false;
    }
}

void pending_note_told(struct pending *pending)
{
    if (atomic_fetch_add(&pending->told, 1))
        stress_fail("%.40s: told twice", pending->body);
}

void pending_check_failure(const struct pending *pending, const struct pool_error *error,
                           bool may_be)
{
    if (!may_be)
        stress_fail("%.40s: %s: %s", pending->body, pool_status_name(error->status), error->text);
    if (error->outcome == POOL_NOT_SENT)
        seen_note_unsent(seen_token_in(pending->body, pending->size));
}
