/* compiler.h: what we ask of the compiler, and the only place that may ask which one it is. */
#ifndef PL_BASE_COMPILER_H
#define PL_BASE_COMPILER_H

#include <stddef.h>

#define PL_MUST_USE __attribute__((warn_unused_result))
#define PL_LIKELY(condition) __builtin_expect(!!(condition), 1)
#define PL_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define PL_INLINE static inline __attribute__((always_inline))
#define PL_NOINLINE __attribute__((noinline))
#define PL_COLD __attribute__((cold, noinline))
#define PL_LINE 64                                   /* bytes that two cores cannot write at once */

/* The struct that `member` at `pointer` belongs to. */
#define pl_container(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#define PL_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
