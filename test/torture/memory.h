/* memory.h: the allocators of OpenSSL and c-ares, which fail on demand, and know what is left.
 *
 * Only what the tested thread asks for between memory_begin() and memory_end() is counted, fails,
 * and is remembered; the rest of the process is served as ever. What is given back later, by
 * whomever, is not left any more.
 */
#ifndef TEST_TORTURE_MEMORY_H
#define TEST_TORTURE_MEMORY_H

#include <stdbool.h>

/* Before anything of either library runs. False: it is too late. */
bool memory_take_over(void);

enum memory_of { MEMORY_OPENSSL, MEMORY_CARES };

/* From here on the allocation number `point` of that library fails, from 1 on; 0: none does. For
 * good: and every one after it. */
void memory_begin(enum memory_of of, unsigned long point, bool for_good);
void memory_heal(void); /* nothing fails any more, and nothing is counted */
void memory_end(void); /* and nothing is remembered */
bool memory_has_struck(void);
unsigned long memory_count(void); /* allocations up to memory_heal() */

/* What was allocated since the last memory_begin() and is not freed: blocks in all, and, with
 * `says`, a line on stdout for each. What OpenSSL keeps for the process does not count, nor the
 * texts of the thread's last errors, which go with the thread and are dropped here. */
unsigned memory_left(bool says);

#endif
