/* attempt.h: one socket of a dial: made, set as the address asks, and connected to one place.
 * Errors are positive errnos; attempt->reason says more. */
#ifndef PL_NET_ATTEMPT_H
#define PL_NET_ATTEMPT_H

#include "net/dialer.h"

/* 0: on the way, and watched; else no socket is left. A fork inside the program's function is
 * ECANCELED. */
int pl_attempt_begin(struct pl_dial *dial, struct pl_dial_attempt *attempt) PL_MUST_USE;

/* A unix listener was full, and it is time to ask again. The socket stays, whatever it answers. */
int pl_attempt_again(const struct pl_dial *dial, struct pl_dial_attempt *attempt) PL_MUST_USE;

/* The kernel has something to say: 0: it is connected. */
int pl_attempt_outcome(const struct pl_dial_attempt *attempt) PL_MUST_USE;

/* Begins to secure a connected one, or goes on with it. 0: it is ready; EAGAIN: it waits for the
 * peer, and is watched; else attempt->failure says why not. */
int pl_attempt_secure(struct pl_dial *dial, struct pl_dial_attempt *attempt) PL_MUST_USE;

/* Where it goes, as far as the kernel is told. 0, or a negative errno. */
int pl_attempt_place(const struct pl_dial *dial, const struct pl_dial_attempt *attempt,
                     struct sockaddr_storage *peer, socklen_t *size) PL_MUST_USE;

#endif
