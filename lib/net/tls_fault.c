/* tls_fault.c: see tls_fault.h. */
#include "net/tls_fault.h"

#include <errno.h>
#include <openssl/err.h>

int pl_tls_fault_errno(const struct pl_failure *fault)
{
    switch (fault->reason) {
    case PL_REASON_NONE:
        return 0;
    case PL_REASON_CUT:
    case PL_REASON_NO_HANDSHAKE:
        return ECONNABORTED;
    default:
        return fault->status == POOL_E_MEMORY ? ENOMEM : EPROTO;
    }
}

static struct pl_failure because(enum pl_reason reason, int cause)
{
    return pl_failure_because(reason, POOL_PHASE_TLS, cause);
}

struct pl_failure pl_tls_fault_of_memory(void)
{
    struct pl_failure fault = because(PL_REASON_HANDSHAKE, ENOMEM);

    fault.status = POOL_E_MEMORY;
    return fault;
}

/* The error that says most: the first one of OpenSSL's TLS, else the first. */
static unsigned long first_error(bool *is_memory)
{
    unsigned long code, first = 0;

    *is_memory = false;
    while ((code = ERR_get_error())) {
        *is_memory |= ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE;
        if (!first || (ERR_GET_LIB(first) != ERR_LIB_SSL && ERR_GET_LIB(code) == ERR_LIB_SSL))
            first = code;
    }
    return first;
}

struct pl_failure pl_tls_fault(const SSL *ssl, bool is_ready)
{
    bool is_memory;
    unsigned long code = first_error(&is_memory);
    int reason = ERR_GET_REASON(code);
    long verdict = SSL_get_verify_result(ssl);

    if (is_memory)
        return pl_tls_fault_of_memory();
    if (ERR_GET_LIB(code) != ERR_LIB_SSL)
        return because(PL_REASON_HANDSHAKE, (int)code);
    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED && verdict != X509_V_OK)
        return because(PL_REASON_CERTIFICATE, (int)verdict);
    if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        return because(is_ready ? PL_REASON_CUT : PL_REASON_NO_HANDSHAKE, 0);
    if (reason >= SSL_AD_REASON_OFFSET)
        return because(PL_REASON_ALERT, reason - SSL_AD_REASON_OFFSET);
    return because(PL_REASON_HANDSHAKE, (int)code);
}
