/* library.c: what concerns the whole library: its version, its allocator, and the _init functions
 * of option structs. */
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "commpool/pool.h"

const char *pool_version(void)
{
    return "0.1.0";
}

enum pool_status pool_set_allocator(void *(*malloc_fn)(size_t), void *(*realloc_fn)(void *, size_t),
                                    void (*free_fn)(void *))
{
    if (!malloc_fn && !realloc_fn && !free_fn) {
        pl_os_set_allocator(malloc, realloc, free);
        return POOL_OK;
    }
    if (!malloc_fn || !realloc_fn || !free_fn)
        return POOL_E_ARGUMENT;
    pl_os_set_allocator(malloc_fn, realloc_fn, free_fn);
    return POOL_OK;
}

void pool_options_init(struct pool_options *options)
{
    if (!options)
        return;
    memset(options, 0, sizeof(*options));
    options->size = sizeof(*options);
}

void pool_call_init(struct pool_call *call)
{
    if (!call)
        return;
    memset(call, 0, sizeof(*call));
    call->size = sizeof(*call);
}
