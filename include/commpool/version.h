/* version.h: which release this is, and where its memory comes from.
 *
 * It is about the library as a whole, not about one pool. The allocator set here is the only
 * setting of the process that the library has; everything else is said to each pool.
 */
#ifndef COMMPOOL_VERSION_H
#define COMMPOOL_VERSION_H

#include <stddef.h>

#include "commpool/status.h"
#include "commpool/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Has the library take its memory from three functions of the program, in place of those of the C
 * library.
 *
 * They must behave as malloc(3) says and may be called from any thread at once, so they must be
 * thread-safe; they must not call commpool. They are used until the process ends or this is called
 * again. Three NULLs bring back the C library's own. Call it before anything else of commpool, from
 * one thread: what one allocator gave must not be handed to the free function of another. Errors:
 * POOL_E_ARGUMENT when some of the three are NULL and some are not; the allocator is then
 * unchanged. */
POOL_API enum pool_status pool_set_allocator(void *(*malloc_fn)(size_t),
                                             void *(*realloc_fn)(void *, size_t),
                                             void (*free_fn)(void *));

/* Answers the version of the library that the program runs with, for example "0.1.0" (semantic
 * versioning).
 *
 * That may be another one than the program was compiled with, when the library is a shared one. The
 * text is constant and belongs to the library. Any thread may call it. It cannot fail. */
POOL_API const char *pool_version(void);

#ifdef __cplusplus
}
#endif

#endif
