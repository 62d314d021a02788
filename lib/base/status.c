/* status.c: the names and the texts of enum pool_status. */
#include "commpool/status.h"

#include <stddef.h>

#include "base/compiler.h"

static const struct {
    const char *name, *text;
} statuses[] = {
    { "POOL_OK", "success" },
    { "POOL_E_ARGUMENT", "the call was used wrongly" },
    { "POOL_E_MEMORY", "no memory" },
    { "POOL_E_ADDRESS", "no usable address" },
    { "POOL_E_RESOLVE", "the name could not be resolved" },
    { "POOL_E_REFUSED", "the peer refused the connection" },
    { "POOL_E_CONNECT", "could not connect" },
    { "POOL_E_TLS", "no secure connection" },
    { "POOL_E_ACCESS", "the system forbade it" },
    { "POOL_E_TIMEOUT", "out of time" },
    { "POOL_E_TIMEOUT_IN_TRANSFER", "out of time part way" },
    { "POOL_E_CLOSED", "the peer ended the stream" },
    { "POOL_E_BROKEN", "the connection broke" },
    { "POOL_E_PROTOCOL", "the peer's bytes make no sense or pass a limit" },
    { "POOL_E_RESOURCE", "descriptors, ports or buffers ran out" },
    { "POOL_E_FULL", "a limit of the pool is reached" },
    { "POOL_E_WOULD_BLOCK", "waiting is not allowed on this thread, the mux thread" },
    { "POOL_E_CANCELED", "canceled" },
    { "POOL_E_CLEARED", "the address was cleared or the pool is paused" },
    { "POOL_E_SUSPENDED", "the address is backing off after failures" },
    { "POOL_E_CLOSING", "the pool is closing" },
    { "POOL_E_FORKED", "the pool belongs to the parent process" },
    { "POOL_E_USER", "the program's own function refused" },
    { "POOL_E_SYSTEM", "the system reported an unexpected error" },
};

static size_t index_of(enum pool_status status)
{
    return (size_t)-(long)status;       /* a positive number becomes a huge one */
}

const char *pool_status_name(enum pool_status status)
{
    return index_of(status) < PL_COUNT(statuses) ? statuses[index_of(status)].name
                                                 : "POOL_E_UNKNOWN";
}

const char *pool_status_text(enum pool_status status)
{
    return index_of(status) < PL_COUNT(statuses) ? statuses[index_of(status)].text
                                                 : "unknown status";
}
