/* options.h: option structs, as programs of older and later releases give them. */
#ifndef PL_BASE_OPTIONS_H
#define PL_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

/* Copies what this release knows, `known` bytes at most, of a struct that begins with its size;
 * `copy` is zeroed by the caller. False: no release wrote it, or it asks for what this one does not
 * have. */
bool pl_options_copy(void *copy, size_t known, const void *given, size_t smallest);

#endif
