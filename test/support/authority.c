/* authority.c: see authority.h. */
#include "support/authority.h"

#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOUR 3600

static void must(int succeeded, const char *what)
{
    if (succeeded)
        return;
    fprintf(stderr, "authority: cannot make %s\n", what);
    abort();
}

static char *text_of(BIO *memory)
{
    char *data, *text;
    long size = BIO_get_mem_data(memory, &data);

    text = strndup(data, (size_t)size);
    must(text != NULL, "a text");
    BIO_free(memory);
    return text;
}

static X509 *read_certificate(const char *text)
{
    BIO *source = BIO_new_mem_buf(text, -1);
    X509 *certificate = PEM_read_bio_X509(source, NULL, NULL, NULL);

    must(certificate != NULL, "a certificate of its text");
    BIO_free(source);
    return certificate;
}

static EVP_PKEY *read_key(const char *text)
{
    BIO *source = BIO_new_mem_buf(text, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(source, NULL, NULL, NULL);

    must(key != NULL, "a key of its text");
    BIO_free(source);
    return key;
}

static void add_extension(X509 *certificate, int kind, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;

    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, certificate, certificate, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    must(extension && X509_add_ext(certificate, extension, -1), "an extension");
    X509_EXTENSION_free(extension);
}

/* As text it could not have a zero byte. */
static void add_raw_name(X509 *certificate, const char *name, size_t size)
{
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    GENERAL_NAME *general = GENERAL_NAME_new();
    ASN1_IA5STRING *text = ASN1_IA5STRING_new();

    must(ASN1_STRING_set(text, name, (int)size), "a raw name");
    GENERAL_NAME_set0_value(general, GEN_DNS, text);
    sk_GENERAL_NAME_push(names, general);
    must(X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, 0), "a raw name");
    sk_GENERAL_NAME_pop_free(names, GENERAL_NAME_free);
}

static void fill(X509 *certificate, const struct credential_options *options, EVP_PKEY *key)
{
    static atomic_long serial = 1000;
    const char *common_name = options->common_name ? options->common_name : "the peer";
    X509_NAME *name = X509_get_subject_name(certificate);

    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(certificate), options->from_s ? options->from_s : -HOUR);
    X509_gmtime_adj(X509_getm_notAfter(certificate), options->to_s ? options->to_s : HOUR);
    must(X509_set_pubkey(certificate, key), "a public key");
    must(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name,
                                    -1, -1, 0),
         "a subject");
    add_extension(certificate, NID_basic_constraints,
                  options->is_authority ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (options->is_authority)
        add_extension(certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
    if (options->names)
        add_extension(certificate, NID_subject_alt_name, options->names);
    if (options->raw_name)
        add_raw_name(certificate, options->raw_name, options->raw_size);
}

static void sign(X509 *certificate, EVP_PKEY *key, const struct credential *by,
                 const EVP_MD *digest)
{
    X509 *issuer = by ? read_certificate(by->certificate) : NULL;
    EVP_PKEY *signer = by ? read_key(by->key) : key;

    X509_set_issuer_name(certificate, X509_get_subject_name(issuer ? issuer : certificate));
    must(X509_sign(certificate, signer, digest) > 0, "a signature");
    if (by) {
        X509_free(issuer);
        EVP_PKEY_free(signer);
    }
}

struct credential *credential_make(const struct credential *by,
                                   const struct credential_options *options)
{
    struct credential *credential = calloc(1, sizeof(*credential));
    X509 *certificate = X509_new();
    EVP_PKEY *key =
        options->rsa_bits ? EVP_RSA_gen((unsigned)options->rsa_bits) : EVP_EC_gen("P-256");
    BIO *memory = BIO_new(BIO_s_mem());

    must(credential && certificate && key && memory, "anything");
    fill(certificate, options, key);
    sign(certificate, key, by, options->uses_sha1 ? EVP_sha1() : EVP_sha256());
    must(PEM_write_bio_X509(memory, certificate), "a PEM text");
    credential->certificate = text_of(memory);
    memory = BIO_new(BIO_s_mem());
    must(PEM_write_bio_PrivateKey(memory, key, NULL, NULL, 0, NULL, NULL), "a PEM text");
    credential->key = text_of(memory);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return credential;
}

void credential_free(struct credential *credential)
{
    if (!credential)
        return;
    free(credential->certificate);
    free(credential->key);
    free(credential);
}

char *pem_join(const char *first, const char *second)
{
    char *joined = malloc(strlen(first) + strlen(second) + 1);

    must(joined != NULL, "a text");
    return strcat(strcpy(joined, first), second);
}

char *write_pem(const char *folder, const char *name, const char *text)
{
    char *path = malloc(strlen(folder) + strlen(name) + 2);
    FILE *file;

    must(path != NULL, "a path");
    sprintf(path, "%s/%s", folder, name);
    file = fopen(path, "w");
    must(file && fputs(text, file) >= 0 && fclose(file) == 0, "a file");
    return path;
}
