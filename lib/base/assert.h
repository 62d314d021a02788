/* assert.h: checks of our own mistakes (illegal moves of a state machine, broken list links). They
 * stay on in every build. Nothing that a peer, a program's argument or the kernel can cause may
 * reach one. */
#ifndef PL_BASE_ASSERT_H
#define PL_BASE_ASSERT_H

#include "base/compiler.h"

#define pl_assert(condition)                                                                       \
    (PL_LIKELY(condition) ? (void)0 : pl_assert_failed(#condition, __FILE__, __LINE__))

_Noreturn PL_COLD void pl_assert_failed(const char *condition, const char *file, int line);

#endif
