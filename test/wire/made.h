/* made.h: bytes made at random, and what spoils them. */
#ifndef TEST_WIRE_MADE_H
#define TEST_WIRE_MADE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* splitmix64: a number below `count`. */
size_t any_number(uint64_t *state, size_t count);

#define MADE_MOST 4096u
struct made {
    char bytes[MADE_MOST];
    size_t size;
};

/* Appends, printf-like, what fits: MADE_MOST - 1 bytes in all. */
void make_text(struct made *made, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Changes something. `words` are put in at times. */
void spoil(struct made *made, uint64_t *state, const char *const *words, size_t count);

#endif
