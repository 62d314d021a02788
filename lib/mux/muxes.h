/* muxes.h: every mux of the process, so that fork() leaves none out, whoever made it.
 *
 * The child's copies of their descriptors name what the parent goes on using: a wake-up written
 * there would wake the parent, an epoll_ctl would change its set. So they are closed in the child
 * before any of the program's code runs, while the numbers are surely still these. A mux of the
 * parent keeps its memory in the child, marked; nothing is done with it any more.
 */
#ifndef PL_MUX_MUXES_H
#define PL_MUX_MUXES_H

#include <stdbool.h>

#include "base/compiler.h"

struct pool_mux;

/* From now on a fork is noticed; false: no memory. */
bool pl_muxes_notice_forks(void) PL_MUST_USE;

/* Around opening and closing the descriptors of a mux: a fork waits until they are all there and
 * listed, or all gone. The program's code never runs in between. */
void pl_muxes_hold(void);
void pl_muxes_let_go(void);
void pl_muxes_add(struct pool_mux *mux); /* held */
void pl_muxes_remove(struct pool_mux *mux); /* held */

#endif
