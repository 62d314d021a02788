/* resp.h: cuts a stream of Redis messages (RESP2) into arrays of strings and numbers. It parses and
 * does nothing else: no sockets, no memory of its own. */
#ifndef EXAMPLES_RESP_H
#define EXAMPLES_RESP_H

#include <commpool/pool.h>

enum { RESP_PARTS = 8 };

/* Reads the array that `bytes` begins with. Answers how many bytes it takes, after filling `parts`
 * and `*count`; 0 when the array is not complete yet; -1 when there is something else. */
long resp_array(struct pool_bytes bytes, struct pool_bytes parts[RESP_PARTS], int *count);

/* Answers whether a part has this text. */
int resp_is(struct pool_bytes part, const char *text);

#endif
