/* answer.c: see answer.h. */
#include "net/answer.h"

#include "base/assert.h"
#include "base/os.h"

#define NS_PER_S (1000 * PL_MS)

/* Its count is never looked at. */
static struct pl_addresses no_memory = {
    .failure = { .status = POOL_E_MEMORY, .phase = POOL_PHASE_RESOLVE }
};

uint64_t pl_ttl_end(uint64_t now_ns, int64_t ttl_s)
{
    if (ttl_s > INT32_MAX || ttl_s < PL_TTL_LEAST_S)
        ttl_s = PL_TTL_LEAST_S;
    if (ttl_s > PL_TTL_MOST_S)
        ttl_s = PL_TTL_MOST_S;
    return pl_after(now_ns, (uint64_t)ttl_s * NS_PER_S);
}

struct pl_addresses *pl_addresses_make(uint32_t count, uint64_t expires_ns)
{
    struct pl_addresses *addresses =
        pl_zalloc(sizeof(*addresses) + count * sizeof(addresses->list[0]));

    if (!addresses)
        return NULL;
    atomic_init(&addresses->references, 1);
    addresses->expires_ns = expires_ns;
    return addresses;
}

const struct pl_addresses *pl_addresses_none(struct pl_failure failure, uint64_t expires_ns)
{
    struct pl_addresses *addresses = pl_addresses_make(0, expires_ns);

    pl_assert(failure.status);
    if (!addresses)
        return &no_memory;
    addresses->failure = failure;
    return addresses;
}

/* Counting is not part of what a record says, which is what is const. */
static struct pl_addresses *counted(const struct pl_addresses *addresses)
{
    return (struct pl_addresses *)(uintptr_t)addresses;
}

const struct pl_addresses *pl_addresses_ref(const struct pl_addresses *addresses)
{
    if (addresses != &no_memory)
        atomic_fetch_add(&counted(addresses)->references, 1);
    return addresses;
}

void pl_addresses_unref(const struct pl_addresses *addresses)
{
    if (!addresses || addresses == &no_memory)
        return;
    if (atomic_fetch_sub(&counted(addresses)->references, 1) == 1)
        pl_os->free(counted(addresses));
}

bool pl_addresses_are_denied(const struct pl_addresses *addresses)
{
    return addresses->failure.status == POOL_E_RESOLVE &&
           (addresses->failure.reason == PL_REASON_NO_HOST ||
            addresses->failure.reason == PL_REASON_NO_ADDRESS);
}
