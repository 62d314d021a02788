/* settings.h: the options of a pool with every default filled in and every value checked. */
#ifndef PL_POOL_SETTINGS_H
#define PL_POOL_SETTINGS_H

#include "commpool/options.h"
#include "net/connection.h"
#include "pool/decide.h"

struct pl_settings {
    struct pool_options options;        /* with defaults; POOL_ZERO has become 0, POOL_NONE stays */
    struct pl_backoff_rules backoff;
    struct pl_limits limits;            /* what each connection is told */
    uint64_t park_ns, barge_ns;
    uint32_t woken_most;                /* threads woken and not back yet: the processors run so
                                         * many soon */
    uint64_t leak_ns;                   /* PL_NEVER: leaks are not looked for */
    bool is_plain;              /* a return may take the short way: nothing observes or bounds it */
};

/* POOL_E_ARGUMENT: a size no release has had, a value out of its range, a codec that lacks
 * something, or a hook that needs one without it. */
enum pool_status pl_settings_make(const struct pool_options *options,
                                  struct pl_settings *settings) PL_MUST_USE;

/* A copy of `call` as this release knows it, of a borrow or of a query; NULL: all defaults. What
 * only the other kind knows is POOL_E_ARGUMENT. */
enum pool_status pl_call_read(const struct pool_call *call, struct pool_call *copy) PL_MUST_USE;
enum pool_status pl_call_read_query(const struct pool_call *call,
                                    struct pool_call *copy) PL_MUST_USE;

#endif
