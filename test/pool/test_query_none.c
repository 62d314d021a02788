/* test_query_none.c: a request that has no answer is answered by an empty reply when it is on its
 * way: then nothing can fail any more. */
#include <criterion/criterion.h>

#include "base/os.h"
#include "pool/reply.h"
#include "support/queries.h"

static atomic_bool is_short; /* of memory for small replies */

static void *allocate(size_t size)
{
    if (atomic_load(&is_short) && size == sizeof(struct pool_reply) + PL_REPLY_SMALL)
        return NULL;
    return pl_os_real.malloc(size);
}

Test(query_none, needs_no_memory_for_its_answer, .timeout = 60)
{
    struct query_peer *peer = QUERY_PEER(.is_line = true);
    struct pool_codec codec = *pool_codec_memcached();
    struct pl_os os = pl_os_real;
    struct query query;
    struct pool *pool;

    os.malloc = allocate;
    pl_os_replace(&os);
    pool = MAKE_POOL(.codec = &codec);
    for (unsigned i = 0; i < 3; i++) {
        atomic_store(&is_short, i > 0);
        query = (struct query){ 0 };
        if (i < 2)
            ask_and_wait(&query, pool, query_peer_address(peer), "delete a noreply\r\n", NULL);
        else
            cr_expect_eq(start_query(&query, pool, query_peer_address(peer),
                                     "delete a noreply\r\n", NULL),
                         POOL_OK);
        cr_assert(wait_answered(&query));
        cr_expect(is_answered_with(&query, ""));
        cr_assert(query_peer_wait_requests(peer, i + 1), "it was not sent");
    }
    atomic_store(&is_short, false);
    pool_destroy(pool);
    pl_os_replace(NULL);
    query_peer_stop(peer);
}
