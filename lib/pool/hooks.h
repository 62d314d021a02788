/* hooks.h: the hooks of a pool's options that run on threads of callers: prepare, on_error,
 * on_none_removable. The pool's end waits for those that run, and none is begun after it.
 */
#ifndef PL_POOL_HOOKS_H
#define PL_POOL_HOOKS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/list.h"

struct pool;

/* One that runs; on the stack of its caller, in the pool's list. */
struct pl_hook {
    struct pl_list link;
    uint64_t thread; /* its id; 0: without memory for one */
};

/* False: the pool has ended, and nothing that its options point to may be touched. */
bool pl_hook_enter(struct pool *pool, struct pl_hook *hook) PL_MUST_USE;
void pl_hook_leave(struct pool *pool, struct pl_hook *hook);

/* Does one run on another thread than this? One around this call cannot be waited for. */
bool pl_hooks_run_elsewhere(struct pool *pool);

#endif
