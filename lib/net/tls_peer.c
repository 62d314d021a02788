/* tls_peer.c: see tls_peer.h. Only subject alternative names count, a wildcard stands for a whole
 * first label, and an IP address is compared with IP addresses.
 */
#include "net/tls_peer.h"

#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "base/subject.h"

#define EXPECTED_MOST 40 /* bytes of it in a sentence; the subject has the rest */
#define HOST_FLAGS (X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT)

bool pl_tls_is_name(const char *name, size_t size)
{
    return size && size <= PL_TLS_NAME_MOST && *name != '.' && !memchr(name, '\0', size);
}

bool pl_tls_is_ip(const char *name)
{
    ASN1_OCTET_STRING *address = a2i_IPADDRESS(name);

    ASN1_OCTET_STRING_free(address);
    return address != NULL;
}

bool pl_tls_expect(SSL *ssl, const char *name)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

    X509_VERIFY_PARAM_set_hostflags(param, HOST_FLAGS);
    if (pl_tls_is_ip(name))
        return X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1;
    return X509_VERIFY_PARAM_set1_host(param, name, 0) == 1 &&
           SSL_set_tlsext_host_name(ssl, name) == 1;
}

static bool bears(X509 *certificate, const char *name)
{
    if (pl_tls_is_ip(name))
        return X509_check_ip_asc(certificate, name, 0) == 1;
    return X509_check_host(certificate, name, 0, HOST_FLAGS, NULL) == 1;
}

int pl_tls_judge(const SSL *ssl, const char *name)
{
    X509 *certificate = SSL_get0_peer_certificate(ssl);
    long verdict = SSL_get_verify_result(ssl);

    if (!certificate)
        return X509_V_ERR_UNSPECIFIED; /* a cipher without any: OpenSSL finds nothing wrong */
    if (verdict != X509_V_OK)
        return (int)verdict;
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0)
        return X509_V_ERR_CERT_HAS_EXPIRED; /* since the session began */
    if (bears(certificate, name))
        return X509_V_OK;
    return pl_tls_is_ip(name) ? X509_V_ERR_IP_ADDRESS_MISMATCH : X509_V_ERR_HOSTNAME_MISMATCH;
}

static bool is_mismatch(int verdict)
{
    return verdict == X509_V_ERR_HOSTNAME_MISMATCH || verdict == X509_V_ERR_IP_ADDRESS_MISMATCH;
}

/* How many bytes of the text there are now. */
static int write_subject(const X509 *certificate, char *text, int size)
{
    BIO *memory = certificate ? BIO_new(BIO_s_mem()) : NULL;
    int length = 0;

    if (!memory)
        return 0;
    /* RFC 2253 escapes what could mislead in a log. */
    if (X509_NAME_print_ex(memory, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) > 0)
        length = BIO_read(memory, text, size - 1);
    BIO_free(memory);
    text[length > 0 ? length : 0] = '\0';
    return length > 0 ? length : 0;
}

static uint16_t note(const X509 *certificate, int verdict, const char *demanded)
{
    const char *expected = is_mismatch(verdict) ? demanded : NULL;
    char more[EXPECTED_MOST + 16] = "", text[PL_SUBJECT] = "";
    int length, size = 0;

    if (expected)
        size = snprintf(more, sizeof(more), "; expected %.*s%s", EXPECTED_MOST, expected,
                        strlen(expected) > EXPECTED_MOST ? "..." : "");
    length = write_subject(certificate, text, PL_SUBJECT - size);
    snprintf(text + length, sizeof(text) - (size_t)length, "%s",
             length || !expected ? more : more + strlen("; "));
    return pl_subject_note(text);
}

uint16_t pl_tls_subject_of(const SSL *ssl, int verdict, const char *demanded)
{
    return note(SSL_get0_peer_certificate(ssl), verdict, demanded);
}

uint16_t pl_tls_subject_in(const X509_STORE_CTX *verification, const char *demanded)
{
    return note(X509_STORE_CTX_get_current_cert(verification),
                X509_STORE_CTX_get_error(verification), demanded);
}
