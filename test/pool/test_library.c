/* test_library.c: what concerns the whole library: its version, and the allocator of the
 * program's. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/peer.h"
#include "support/tests.h"
#include "support/verbs.h"

TestSuite(library, .timeout = 60);

Test(library, its_version_is_that_of_the_release)
{
    FILE *file = fopen(COMMPOOL_SOURCE "/CMakeLists.txt", "r");
    char line[256], version[32] = "";

    cr_assert_not_null(file);
    while (!*version && fgets(line, sizeof(line), file))
        sscanf(line, "project(commpool VERSION %31[0-9.]", version);
    fclose(file);
    cr_expect_str_eq(pool_version(), version);
}

/* ---- the allocator */

static atomic_long given, living;
static atomic_long refuse_after = 1L << 40;

static bool is_refused(void)
{
    return atomic_fetch_add(&given, 1) >= atomic_load(&refuse_after);
}

static void *my_malloc(size_t size)
{
    void *memory = is_refused() ? NULL : malloc(size);

    atomic_fetch_add(&living, memory != NULL);
    return memory;
}

static void *my_realloc(void *old, size_t size)
{
    void *memory = is_refused() ? NULL : realloc(old, size);

    atomic_fetch_add(&living, memory && !old);
    return memory;
}

static void my_free(void *memory)
{
    atomic_fetch_sub(&living, memory != NULL);
    free(memory);
}

Test(library, all_memory_comes_from_the_programs_allocator_and_goes_back_there)
{
    struct peer *peer = PEER();
    struct pool_bytes line;
    struct pool_conn conn;
    struct pool *pool;

    cr_assert_eq(pool_set_allocator(my_malloc, my_realloc, my_free), POOL_OK);
    pool = MAKE_POOL();
    cr_assert(borrow(pool, peer_address(peer), &conn));
    cr_assert_eq(pool_send(&conn, "line\n", 5), POOL_OK);
    cr_assert_eq(pool_recv_until(&conn, "\n", 1, &line), POOL_OK);
    cr_expect_gt(living, 0);
    cr_expect_eq(pool_return(&conn), POOL_OK);
    pool_destroy(pool);
    cr_expect_eq(living, 0);
    cr_expect_eq(pool_set_allocator(NULL, NULL, NULL), POOL_OK);
    peer_stop(peer);
}

Test(library, an_allocator_that_gives_nothing_more_is_an_error_and_nothing_is_lost)
{
    struct peer *peer = PEER();
    enum pool_status status = POOL_E_SYSTEM;
    struct pool *pool;
    long allowed;

    cr_assert_eq(talk(pool = MAKE_POOL(), peer_address(peer)), POOL_OK);
    pool_destroy(pool);
    cr_assert_eq(pool_set_allocator(my_malloc, my_realloc, my_free), POOL_OK);
    for (allowed = 0; status && allowed < 1000; allowed++) {
        given = 0;
        refuse_after = allowed;
        status = pool_create(NULL, &pool);
        if (!status)
            status = talk(pool, peer_address(peer));
        cr_expect(!status || status == POOL_E_MEMORY || status == POOL_E_RESOURCE, "%ld: %s",
                  allowed, pool_status_name(status));
        refuse_after = 1L << 40;
        pool_destroy(pool);
        cr_expect_eq(living, 0, "%ld allocations", allowed);
    }
    cr_expect_gt(allowed, 3, "it allocates");
    cr_expect_eq(status, POOL_OK);
    peer_stop(peer);
}

Test(library, half_an_allocator_is_refused_and_changes_nothing)
{
    struct pool *pool;

    cr_expect_eq(pool_set_allocator(my_malloc, NULL, my_free), POOL_E_ARGUMENT);
    cr_expect_eq(pool_set_allocator(my_malloc, my_realloc, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_set_allocator(NULL, my_realloc, my_free), POOL_E_ARGUMENT);
    pool = MAKE_POOL();
    pool_destroy(pool);
    cr_expect_eq(given, 0);
}
