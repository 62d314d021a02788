/* assert.c: the end of a process whose own invariants broke: going on could hand one caller's bytes
 * to another. */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void pl_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "commpool: %s:%d: invariant broken: %s\n", file, line, condition);
    abort();
}
