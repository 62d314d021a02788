/* own_pool.h: the pool that a test makes on a stage (secure_stage.h) or in a scene (query_scene.h),
 * which destroy it at its end. NULL before. */
#ifndef TEST_POOL_OWN_POOL_H
#define TEST_POOL_OWN_POOL_H

#include "commpool/pool.h"

extern struct pool *pool;

#endif
