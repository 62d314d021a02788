/* authority.h: certificates for tests, good and bad, made in memory in a moment.
 *
 * They call libcrypto directly and never the library. What cannot be made ends the test program. */
#ifndef TEST_SUPPORT_AUTHORITY_H
#define TEST_SUPPORT_AUTHORITY_H

#include <stdbool.h>
#include <stddef.h>

/* A certificate with its key, as PEM text. */
struct credential {
    char *certificate, *key;
};

struct credential_options {
    bool follow; /* nothing; lets CREDENTIAL() stand without more */
    const char *common_name; /* "the peer" by default */
    const char *names; /* "DNS:a.test,IP:127.0.0.1"; NULL: none */
    const char *raw_name; /* one DNS name of raw_size bytes instead */
    size_t raw_size;
    long from_s, to_s; /* seconds from now; an hour ago to an hour ahead */
    int rsa_bits; /* 0, the default: an elliptic curve, P-256 */
    bool uses_sha1;
    bool is_authority; /* may sign others */
};

/* Signed by `by`; NULL: by itself. */
struct credential *credential_make(const struct credential *by,
                                   const struct credential_options *options);
#define CREDENTIAL(by, ...)                                                                        \
    credential_make((by), &(struct credential_options){ .follow = true, __VA_ARGS__ })
void credential_free(struct credential *credential); /* NULL: nothing */

/* One text after the other, for a chain; the caller frees it. */
char *pem_join(const char *first, const char *second);

/* Writes `text` to folder/name and answers the path, which the caller frees. */
char *write_pem(const char *folder, const char *name, const char *text);

#endif
