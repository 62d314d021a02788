/* tls_gate.h: whether OpenSSL may be called. Each call of ours stands between pl_tls_gate_enter()
 * and pl_tls_gate_leave(), with nothing of the program's and no waiting for others in between, so
 * that there are moments at which none is under way:
 *
 * At a fork, since the child would find locked what another thread had locked.
 *
 * When the process exits, since OpenSSL then takes itself apart under the hands of every thread
 * that still runs, those of muxes among them. From just before that on no call begins: what would
 * have called it fails, and what would have been freed stays.
 */
#ifndef PL_NET_TLS_GATE_H
#define PL_NET_TLS_GATE_H

#include <stdbool.h>

#include "base/compiler.h"

/* Before the first call of all; OpenSSL is set up then, so that its end comes after ours. */
void pl_tls_gate_open(void);

/* False: never again, and there is nothing to leave. May be nested. */
bool pl_tls_gate_enter(void) PL_MUST_USE;
void pl_tls_gate_leave(void);

/* Around a fork, as the last of all that we hold, as who is inside may have to come out first; and
 * in the child, before it lets go. Either side waits for the other for a second at most: what the
 * program holds for its forks is not ours to know. */
void pl_tls_gate_hold(void);
void pl_tls_gate_let_go(void);
void pl_tls_gate_orphan(void);

#endif
