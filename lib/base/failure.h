/* failure.h: what went wrong, small enough to keep in every connection, and how it becomes a struct
 * pool_error. */
#ifndef PL_BASE_FAILURE_H
#define PL_BASE_FAILURE_H

#include <stdint.h>
#include <string.h>

#include "commpool/status.h"

struct pl_failure {
    int16_t status;                     /* enum pool_status; POOL_OK: nothing failed */
    uint8_t phase;                      /* enum pool_phase */
    uint8_t outcome;                    /* enum pool_outcome */
    int32_t cause;                      /* errno, or what `use` answered */
};

/* Time that one call spent in each phase so far, in nanoseconds. */
struct pl_spent {
    uint64_t ns[8];                     /* by enum pool_phase */
};

static inline uint64_t pl_failure_pack(struct pl_failure failure)
{
    uint64_t packed;

    memcpy(&packed, &failure, sizeof(packed));
    return packed;
}

static inline struct pl_failure pl_failure_unpack(uint64_t packed)
{
    struct pl_failure failure;

    memcpy(&failure, &packed, sizeof(failure));
    return failure;
}

enum pool_status pl_status_of_errno(int error, enum pool_phase phase);
struct pl_failure pl_failure_of_errno(int error, enum pool_phase phase);
struct pl_failure pl_failure_make(enum pool_status status, enum pool_phase phase, int cause);

/* Fills *error, as far as its size says, with one sentence that names `address`; `error` NULL does
 * nothing. */
void pl_failure_tell(const struct pl_failure *failure, const struct pl_spent *spent,
                     const char *address, struct pool_error *error);

/* Copies *told, as far as the size of *error says; `error` NULL does nothing. */
void pl_failure_copy(const struct pool_error *told, struct pool_error *error);

#endif
