/* own_pool.c: see own_pool.h. */
#include "pool/own_pool.h"

struct pool *pool;
