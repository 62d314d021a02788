/* os_limits.h: the door's real side for how many descriptors there may be, which os.c puts into its
 * table. What the functions answer is said in os.h. */
#ifndef PL_BASE_OS_LIMITS_H
#define PL_BASE_OS_LIMITS_H

#include <stdint.h>

uint32_t pl_os_real_processors(void);
uint64_t pl_os_real_descriptor_limit(void);
int pl_os_real_free_descriptors(void);

#endif
