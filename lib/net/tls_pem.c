/* tls_pem.c: see tls_pem.h. */
#include "net/tls_pem.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"

#define FILE_MOST (16u << 20) /* bytes of one file */
#define PATH_MOST 4096

/* A PEM text and what to call it in a sentence. */
struct text {
    const char *name;
    char *data;
    size_t size;
};

bool pl_tls_trouble(struct pl_tls_trouble *trouble, enum pool_status status, const char *format,
                    ...)
{
    va_list values;

    trouble->status = status;
    va_start(values, format);
    vsnprintf(trouble->text, sizeof(trouble->text), format, values);
    va_end(values);
    return false;
}

bool pl_tls_trouble_openssl(struct pl_tls_trouble *trouble, const char *what)
{
    unsigned long code, first = 0;
    const char *reason;

    while ((code = ERR_get_error())) {
        if (!first || ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE)
            first = code;
    }
    reason = ERR_reason_error_string(first);
    return pl_tls_trouble(
        trouble, ERR_GET_REASON(first) == ERR_R_MALLOC_FAILURE ? POOL_E_MEMORY : POOL_E_TLS,
        "%s: %s", what, reason ? reason : "unusable");
}

static bool file_trouble(struct pl_tls_trouble *trouble, const char *path, int error)
{
    enum pool_status status = POOL_E_SYSTEM;
    const char *name = strerrorname_np(error);

    trouble->cause = error;
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case EFBIG:
    case ENAMETOOLONG:
        status = POOL_E_TLS;
        break;
    case EACCES:
    case EPERM:
        status = POOL_E_ACCESS;
        break;
    case ENOMEM:
        status = POOL_E_MEMORY;
        break;
    case EMFILE:
    case ENFILE:
        status = POOL_E_RESOURCE;
        break;
    default:
        break;
    }
    return pl_tls_trouble(trouble, status, "%s cannot be read (%s)", path, name ? name : "?");
}

/* Without it OpenSSL would ask at the terminal. */
static int refuse_passphrase(char *buffer, int size, int is_writing, void *user)
{
    (void)buffer;
    (void)size;
    (void)is_writing;
    (void)user;
    return -1;
}

/* Of a file or of the program's memory; what is read may be a key. */
static bool open_text(struct text *text, const char *path, const char *pem,
                      struct pl_tls_trouble *trouble)
{
    ssize_t size;

    *text = (struct text){ .name = path ? path : "the PEM text" };
    if (!path) {
        text->data = (char *)pem;
        text->size = strnlen(pem, FILE_MOST);
        return true;
    }
    size = pl_os->read_file(path, FILE_MOST, &text->data);
    if (size < 0)
        return file_trouble(trouble, path, (int)-size);
    text->size = (size_t)size;
    return true;
}

static void close_text(struct text *text, const char *path)
{
    if (path && text->data) {
        OPENSSL_cleanse(text->data, text->size);
        pl_os->free(text->data);
    }
    text->data = NULL;
}

/* Nothing more to be found is no error. */
static bool is_at_end(void)
{
    unsigned long code = ERR_peek_last_error();
    bool is_end = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;

    if (is_end)
        ERR_clear_error();
    return is_end;
}

/* How many certificates were added; -1: OpenSSL's queue says why not all. */
static int add_trust(X509_STORE *store, const struct text *text)
{
    BIO *source = BIO_new_mem_buf(text->data, (int)text->size);
    X509 *certificate;
    int count = 0;
    bool is_added = true;

    ERR_clear_error();
    if (!source)
        return -1;
    while (is_added &&
           (certificate = PEM_read_bio_X509_AUX(source, NULL, refuse_passphrase, NULL))) {
        is_added = X509_STORE_add_cert(store, certificate) == 1;
        X509_free(certificate);
        count++;
    }
    BIO_free(source);
    return is_added && is_at_end() ? count : -1;
}

static bool trust(X509_STORE *store, const char *path, const char *pem,
                  struct pl_tls_trouble *trouble)
{
    struct text text;
    int count;

    if (!open_text(&text, path, pem, trouble))
        return false;
    count = add_trust(store, &text);
    close_text(&text, path);
    if (count < 0)
        return pl_tls_trouble_openssl(trouble, text.name);
    return count || pl_tls_trouble(trouble, POOL_E_TLS, "%s has no certificate", text.name);
}

struct listing {
    X509_STORE *store;
    const char *path;
    struct pl_tls_trouble *trouble;
    int count;
    bool is_by_hash;                    /* only names as OpenSSL looks them up: of the same
                                         * certificates there may be others, and a bundle */
};

/* "0a775a30.0" */
static bool is_hash_name(const char *name)
{
    size_t digits = strspn(name, "0123456789abcdef");

    return digits == 8 && name[8] == '.' && name[9] && !name[9 + strspn(name + 9, "0123456789")];
}

/* What is no certificate, or cannot be read, is not trusted, and nothing else. */
static bool on_entry(const char *name, void *user)
{
    struct listing *listing = user;
    struct pl_tls_trouble ignored;
    struct text text;
    char path[PATH_MOST];
    int count, length = snprintf(path, sizeof(path), "%s/%s", listing->path, name);

    if (*name == '.' || length >= (int)sizeof(path) ||
        (listing->is_by_hash && !is_hash_name(name)))
        return true;
    if (!open_text(&text, path, NULL, &ignored)) {
        if (!pl_is_out_of_descriptors(ignored.cause))
            return true;
        file_trouble(listing->trouble, path, ignored.cause);
        return false;
    }
    count = add_trust(listing->store, &text);
    close_text(&text, path);
    listing->count += count > 0 ? count : 0;
    ERR_clear_error();
    return true;
}

/* How many certificates were found; -1: *trouble says why. */
static int trust_directory(X509_STORE *store, const char *path, bool is_by_hash,
                           struct pl_tls_trouble *trouble)
{
    struct listing listing = { store, path, trouble, 0, is_by_hash };
    int error;

    trouble->status = POOL_OK;
    error = pl_os->list_directory(path, on_entry, &listing);
    if (error < 0)
        file_trouble(trouble, path, -error);
    return trouble->status ? -1 : listing.count;
}

/* A part of the system's store that is not there is no trouble while there is another. */
static bool is_missing(const struct pl_tls_trouble *trouble)
{
    return trouble->cause == ENOENT || trouble->cause == ENOTDIR;
}

static bool trust_system_directories(X509_STORE *store, const char *list, int *count,
                                     struct pl_tls_trouble *trouble)
{
    char path[PATH_MOST];
    size_t length;
    int found;

    for (; *list; list += length + (list[length] == ':')) {
        length = strcspn(list, ":");
        if (!length || length >= sizeof(path))
            continue;
        memcpy(path, list, length);
        path[length] = '\0';
        *trouble = (struct pl_tls_trouble){ 0 };
        found = trust_directory(store, path, true, trouble);
        if (!found)
            found = trust_directory(store, path, false, trouble);
        if (found < 0 && !is_missing(trouble))
            return false;
        *count += found > 0 ? found : 0;
    }
    return true;
}

static const char *variable_or(const char *variable, const char *standard)
{
    const char *value = secure_getenv(variable);

    return value && *value ? value : standard;
}

static bool trust_system(X509_STORE *store, struct pl_tls_trouble *trouble)
{
    const char *file = variable_or(X509_get_default_cert_file_env(), X509_get_default_cert_file());
    const char *list = variable_or(X509_get_default_cert_dir_env(), X509_get_default_cert_dir());
    int count = 0;

    if (trust(store, file, NULL, trouble))
        count = 1;
    else if (!is_missing(trouble))
        return false;
    if (!trust_system_directories(store, list, &count, trouble))
        return false;
    return count || pl_tls_trouble(trouble, POOL_E_TLS,
                                   "the system trusts nobody: there is no certificate in %.60s or "
                                   "%.60s; say whom to trust (ca_file)",
                                   file, list);
}

bool pl_tls_load_trust(X509_STORE *store, const struct pool_tls_options *options,
                       struct pl_tls_trouble *trouble)
{
    int count = 1;

    if (!options->ca_file && !options->ca_dir && !options->ca_pem)
        return options->insecure || trust_system(store, trouble);
    if (options->ca_file && !trust(store, options->ca_file, NULL, trouble))
        return false;
    if (options->ca_pem && !trust(store, NULL, options->ca_pem, trouble))
        return false;
    if (options->ca_dir)
        count = trust_directory(store, options->ca_dir, false, trouble);
    if (count < 0)
        return false;
    return count || pl_tls_trouble(trouble, POOL_E_TLS, "%s has no file with a certificate",
                                   options->ca_dir);
}

/* The first certificate is ours, the others lead to an authority. */
static bool use_chain(SSL_CTX *context, const struct text *text, struct pl_tls_trouble *trouble)
{
    BIO *source = BIO_new_mem_buf(text->data, (int)text->size);
    X509 *certificate = NULL;
    bool is_used = false;

    ERR_clear_error();
    if (source)
        certificate = PEM_read_bio_X509_AUX(source, NULL, refuse_passphrase, NULL);
    if (certificate)
        is_used = SSL_CTX_use_certificate(context, certificate) == 1;
    X509_free(certificate);
    while (is_used && (certificate = PEM_read_bio_X509(source, NULL, refuse_passphrase, NULL))) {
        is_used = SSL_CTX_add0_chain_cert(context, certificate) == 1;
        if (!is_used)
            X509_free(certificate);
    }
    BIO_free(source);
    return (is_used && is_at_end()) || pl_tls_trouble_openssl(trouble, text->name);
}

/* `hint` goes on with the sentence when there is none. */
static bool use_key(SSL_CTX *context, const struct text *text, const char *hint,
                    struct pl_tls_trouble *trouble)
{
    BIO *source = BIO_new_mem_buf(text->data, (int)text->size);
    EVP_PKEY *key = NULL;
    bool is_used = false;

    ERR_clear_error();
    if (source)
        key = PEM_read_bio_PrivateKey(source, NULL, refuse_passphrase, NULL);
    if (key)
        is_used =
            SSL_CTX_use_PrivateKey(context, key) == 1 && SSL_CTX_check_private_key(context) == 1;
    EVP_PKEY_free(key);
    BIO_free(source);
    if (is_used)
        return true;
    if (key)
        return pl_tls_trouble_openssl(trouble, text->name);
    return pl_tls_trouble(trouble, POOL_E_TLS, "%s has no key that needs no passphrase%s",
                          text->name, hint);
}

bool pl_tls_load_identity(SSL_CTX *context, const struct pool_tls_options *options,
                          struct pl_tls_trouble *trouble)
{
    bool has_key = options->key_file || options->key_pem;
    const char *key_file = has_key ? options->key_file : options->cert_file;
    const char *key_pem = has_key ? options->key_pem : options->cert_pem;
    const char *hint = has_key ? "" : ", and no other place of it is given (key_file, key_pem)";
    struct text text;
    bool is_used;

    if (!options->cert_file && !options->cert_pem)
        return true;
    if (!open_text(&text, options->cert_file, options->cert_pem, trouble))
        return false;
    is_used = use_chain(context, &text, trouble);
    close_text(&text, options->cert_file);
    if (!is_used || !open_text(&text, key_file, key_pem, trouble))
        return false;
    is_used = use_key(context, &text, hint, trouble);
    close_text(&text, key_file);
    return is_used;
}
