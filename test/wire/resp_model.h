/* resp_model.h: RESP read the simplest way, all at once and by recursion, to compare the codec
 * with; and replies at random. */
#ifndef TEST_WIRE_RESP_MODEL_H
#define TEST_WIRE_RESP_MODEL_H

#include "wire/made.h"

/* The bytes of the value that these begin with; 0: it is not whole; -1: it is none, or nested more
 * than 32 deep. */
long resp_model(const char *bytes, size_t size);

/* Appends a value; of RESP2 alone, or of RESP3 as well. `depth` is 0. What does not fit is cut. */
void make_value(struct made *made, uint64_t *state, bool is_resp3, unsigned depth);

#endif
