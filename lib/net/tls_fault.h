/* tls_fault.h: what OpenSSL's queue of errors says about a call that failed, as a failure. */
#ifndef PL_NET_TLS_FAULT_H
#define PL_NET_TLS_FAULT_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "base/failure.h"

/* Empties the thread's queue. `is_ready`: the handshake is over. */
struct pl_failure pl_tls_fault(const SSL *ssl, bool is_ready);
struct pl_failure pl_tls_fault_of_memory(void);

/* The errno that stands for a fault in answers; 0: there is none. */
int pl_tls_fault_errno(const struct pl_failure *fault);

#endif
