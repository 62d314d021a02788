/* resp.h: what the two halves of the RESP codec share: replies (codec_resp.c) and commands
 * (resp_command.c). Pure functions of bytes. */
#ifndef PL_WIRE_RESP_H
#define PL_WIRE_RESP_H

#include "base/compiler.h"
#include "commpool/codec.h"

/* How a reply is unlike others, as its request tells: the hint. */
enum pl_resp_hint {
    PL_RESP_ANY,
    PL_RESP_SUBSCRIBE, /* these are answered by a push, of which there is exactly one */
    PL_RESP_PSUBSCRIBE,
    PL_RESP_SSUBSCRIBE,
    PL_RESP_UNSUBSCRIBE,
    PL_RESP_PUNSUBSCRIBE,
    PL_RESP_QUIT
};

/* The word that a push begins with which answers such a request; NULL: none does. */
const char *pl_resp_confirmation(uint64_t hint);

/* What has been found of something that may not be whole. */
enum pl_found { PL_BAD = -1, PL_MORE, PL_WHOLE };

/* Reads digits and the line end behind them, without superfluous zeros, up to 2^63: *end is behind
 * the line end. `at` may be the end of the bytes. */
enum pl_found pl_resp_number(struct pool_bytes in, size_t at, uint64_t *number, size_t *end);

/* Checks that the bytes are commands, whole and nothing else, and counts what answers them.
 * POOL_E_ARGUMENT: they are not, or it cannot be counted. */
enum pool_status pl_resp_commands(struct pool_bytes bytes, struct pool_expect *expect) PL_MUST_USE;

#endif
