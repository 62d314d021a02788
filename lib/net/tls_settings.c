/* tls_settings.c: from options to an SSL_CTX that trusts, demands and offers what they say.
 *
 * OpenSSL puts what the system's configuration file says into every new SSL_CTX. What makes it
 * stricter is kept (a higher least version, a higher security level); what weakens it is taken out
 * again. Trust and identities cannot come from there.
 */
#include "net/tls_settings.h"

#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/failure.h"
#include "base/options.h"
#include "base/os.h"
#include "net/tls.h"
#include "net/tls_bio.h"
#include "net/tls_gate.h"
#include "net/tls_pem.h"

#define SMALLEST_OPTIONS offsetof(struct pool_tls_options, ca_dir)
#define SECURITY_LEVEL 2 /* 112 bits: RSA 2048, no SHA-1 */
#define WEAKNESSES                                                                                 \
    (SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_ALLOW_UNSAFE_LEGACY_RENEGOTIATION |                     \
     SSL_OP_LEGACY_SERVER_CONNECT | SSL_OP_ALLOW_CLIENT_RENEGOTIATION |                            \
     SSL_OP_NO_ENCRYPT_THEN_MAC | SSL_OP_NO_EXTENDED_MASTER_SECRET)

struct pool_tls {
    atomic_size_t references;
    struct pl_tls_settings *current; /* under `lock` */
    _Atomic uint64_t generation; /* of those */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all of them; whole at a fork */
static _Atomic uint64_t generations;

void pl_tls_settings_hold(void)
{
    pthread_mutex_lock(&lock);
}

void pl_tls_settings_let_go(void)
{
    pthread_mutex_unlock(&lock);
}

/* ---- options */

/* NULL: nothing. */
static const char *what_is_impossible(const struct pool_tls_options *options)
{
    bool has_certificate = options->cert_file || options->cert_pem;

    if (options->cert_file && options->cert_pem)
        return "cert_file and cert_pem cannot both be given";
    if (options->key_file && options->key_pem)
        return "key_file and key_pem cannot both be given";
    if ((options->key_file || options->key_pem) && !has_certificate)
        return "a key without its certificate (cert_file or cert_pem)";
    if (options->name && !*options->name)
        return "name is empty"; /* OpenSSL would check none */
    if (options->min_version && options->min_version != TLS1_2_VERSION &&
        options->min_version != TLS1_3_VERSION)
        return "min_version is none of 0, 0x0303 (TLS 1.2) and 0x0304 (TLS 1.3)";
    return NULL;
}

bool pl_tls_alpn_parse(const char *text, size_t size, struct pl_tls_alpn *alpn)
{
    size_t start = 0, length;

    alpn->size = 0;
    if (size + 1 > PL_TLS_ALPN_MOST)
        return false;
    for (size_t at = 0; at <= size; at++) {
        if (at < size && text[at] != ',')
            continue;
        length = at - start;
        if (!length)
            return false;
        alpn->wire[start] = (unsigned char)length;
        memcpy(alpn->wire + start + 1, text + start, length);
        start = at + 1;
    }
    alpn->size = (unsigned)size + 1;
    return true;
}

/* ---- the context */

static bool demand_version(SSL_CTX *context, int wanted)
{
    long least = SSL_CTX_get_min_proto_version(context);
    long most = SSL_CTX_get_max_proto_version(context);

    if (!wanted)
        wanted = TLS1_2_VERSION;
    if (least < wanted)
        least = wanted;
    if (most && most < least)
        SSL_CTX_set_max_proto_version(context, 0);
    return SSL_CTX_set_min_proto_version(context, least) == 1;
}

static bool harden(SSL_CTX *context, const struct pool_tls_options *options)
{
    if (SSL_CTX_get_security_level(context) < SECURITY_LEVEL)
        SSL_CTX_set_security_level(context, SECURITY_LEVEL);
    SSL_CTX_clear_options(context, WEAKNESSES);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_post_handshake_auth(context, 0);
    SSL_CTX_set_max_early_data(context, 0);
    SSL_CTX_set_read_ahead(context, 1); /* one call of the kernel for a record, not two */
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, pl_tls_on_session);
    SSL_CTX_set_keylog_callback(context, options->key_log ? pl_tls_on_secret : NULL);
    SSL_CTX_set_verify(context, options->insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER,
                       pl_tls_on_verify);
    return demand_version(context, options->min_version);
}

/* One name of a list, appended to the list that it belongs to. */
static void sort_cipher(const char *name, size_t length, char *old_list, char *new_list)
{
    char *list = strncmp(name, "TLS_", 4) == 0 ? new_list : old_list;
    size_t size = strlen(list);

    if (size)
        list[size++] = ':';
    memcpy(list + size, name, length);
    list[size + length] = '\0';
}

/* OpenSSL has two lists, TLS 1.3's and the other one; the program has one. */
static bool allow_ciphers(SSL_CTX *context, const char *ciphers, struct pl_tls_trouble *trouble)
{
    static const char never[] = ":!aNULL:!eNULL";
    size_t size = strlen(ciphers), length;
    char *lists = pl_zalloc(2 * (size + sizeof(never)));
    char *old_list = lists, *new_list = lists + size + sizeof(never);
    bool is_set = true;

    if (!lists)
        return pl_tls_trouble(trouble, POOL_E_MEMORY, "ciphers: no memory");
    for (const char *name = ciphers; *name; name += length + (name[length] != '\0')) {
        length = strcspn(name, ":, ;");
        if (length)
            sort_cipher(name, length, old_list, new_list);
    }
    ERR_clear_error();
    if (*old_list)
        is_set = SSL_CTX_set_cipher_list(context, strcat(old_list, never)) == 1;
    if (is_set && *new_list)
        is_set = SSL_CTX_set_ciphersuites(context, new_list) == 1;
    pl_os->free(lists);
    return is_set || pl_tls_trouble_openssl(trouble, "ciphers");
}

static bool trust(SSL_CTX *context, const struct pool_tls_options *options,
                  struct pl_tls_trouble *trouble)
{
    X509_STORE *store = X509_STORE_new();

    if (!store)
        return pl_tls_trouble(trouble, POOL_E_MEMORY, "no memory for certificates");
    SSL_CTX_set_cert_store(context, store);
    return pl_tls_load_trust(store, options, trouble);
}

static bool fill_context(SSL_CTX *context, const struct pool_tls_options *options,
                         struct pl_tls_trouble *trouble)
{
    if (!harden(context, options))
        return pl_tls_trouble_openssl(trouble, "the lowest version");
    if (options->ciphers && !allow_ciphers(context, options->ciphers, trouble))
        return false;
    return trust(context, options, trouble) && pl_tls_load_identity(context, options, trouble);
}

/* ---- settings */

static void free_settings(struct pl_tls_settings *settings)
{

    if (!pl_tls_gate_enter())
        return;
    SSL_CTX_free(settings->context);
    BIO_meth_free(settings->bio_method);
    pl_tls_gate_leave();
    pl_os->free(settings->name);
    pl_os->free(settings);
}

struct pl_tls_settings *pl_tls_settings_keep(struct pl_tls_settings *settings)
{
    atomic_fetch_add(&settings->references, 1);
    return settings;
}

void pl_tls_settings_release(struct pl_tls_settings *settings)
{
    if (settings && atomic_fetch_sub(&settings->references, 1) == 1)
        free_settings(settings);
}

static char *copy_text(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = pl_os->malloc(size);

    return copy ? memcpy(copy, text, size) : NULL;
}

static bool fill_settings(struct pl_tls_settings *settings, const struct pool_tls_options *options,
                          struct pl_tls_trouble *trouble)
{
    if (options->alpn && !pl_tls_alpn_parse(options->alpn, strlen(options->alpn), &settings->alpn))
        return pl_tls_trouble(trouble, POOL_E_ARGUMENT, "alpn is no list of protocols");
    settings->is_insecure = options->insecure;
    settings->key_log = options->key_log;
    settings->user = options->user;
    settings->name = options->name ? copy_text(options->name) : NULL;
    settings->bio_method = pl_tls_bio_method();
    ERR_clear_error();
    settings->context = SSL_CTX_new(TLS_client_method());
    if (!settings->context)
        return pl_tls_trouble_openssl(trouble, "OpenSSL");
    if (!settings->bio_method || (options->name && !settings->name))
        return pl_tls_trouble(trouble, POOL_E_MEMORY, "no memory");
    return fill_context(settings->context, options, trouble);
}

static struct pl_tls_settings *make(const struct pool_tls_options *given,
                                    struct pl_tls_trouble *trouble)
{
    struct pool_tls_options options = { .size = sizeof(options) };
    struct pl_tls_settings *settings;
    const char *wrong = "the options have no size that is known";

    if (!given || pl_options_copy(&options, sizeof(options), given, SMALLEST_OPTIONS))
        wrong = what_is_impossible(&options);
    if (wrong) {
        pl_tls_trouble(trouble, POOL_E_ARGUMENT, "%s", wrong);
        return NULL;
    }
    settings = pl_zalloc(sizeof(*settings));
    if (!settings) {
        pl_tls_trouble(trouble, POOL_E_MEMORY, "no memory");
        return NULL;
    }
    atomic_init(&settings->references, 1);
    settings->generation = atomic_fetch_add(&generations, 1) + 1;
    if (fill_settings(settings, &options, trouble))
        return settings;
    free_settings(settings);
    return NULL;
}

static struct pl_tls_settings *make_settings(const struct pool_tls_options *options,
                                             struct pl_tls_trouble *trouble)
{
    int saved = errno;
    struct pl_tls_settings *settings;

    pl_tls_gate_open();
    if (!pl_tls_gate_enter()) {
        pl_tls_trouble(trouble, POOL_E_CLOSING, "the process exits");
        return NULL;
    }
    settings = make(options, trouble);
    ERR_clear_error();
    pl_tls_gate_leave();
    errno = saved;
    return settings;
}

static enum pool_status tell(const struct pl_tls_trouble *trouble, struct pool_error *error)
{
    struct pool_error told = { .status = trouble->status, .cause = trouble->cause };

    snprintf(told.text, sizeof(told.text), "TLS settings: %s", trouble->text);
    if (error)
        told.size = error->size;
    pl_failure_copy(&told, error);
    return trouble->status;
}

/* ---- what programs call */

void pool_tls_options_init(struct pool_tls_options *options)
{
    if (!options)
        return;
    memset(options, 0, sizeof(*options));
    options->size = sizeof(*options);
}

enum pool_status pool_tls_create(const struct pool_tls_options *options, struct pool_tls **tls,
                                 struct pool_error *error)
{
    struct pl_tls_trouble trouble = { .status = POOL_E_MEMORY, .text = "no memory" };
    struct pool_tls *made;

    if (!tls) {
        pl_tls_trouble(&trouble, POOL_E_ARGUMENT, "there is nowhere to put them");
        return tell(&trouble, error);
    }
    *tls = NULL;
    made = pl_zalloc(sizeof(*made));
    if (!made)
        return tell(&trouble, error);
    atomic_init(&made->references, 1);
    made->current = make_settings(options, &trouble);
    if (!made->current) {
        pl_os->free(made);
        return tell(&trouble, error);
    }
    atomic_init(&made->generation, made->current->generation);
    *tls = made;
    return POOL_OK;
}

enum pool_status pl_tls_reload(struct pool_tls *tls, const struct pool_tls_options *options,
                               struct pool_error *error)
{
    struct pl_tls_trouble trouble = { .status = POOL_E_ARGUMENT, .text = "there are none" };
    struct pl_tls_settings *made, *old;

    if (!tls)
        return tell(&trouble, error);
    made = make_settings(options, &trouble);
    if (!made)
        return tell(&trouble, error);
    pthread_mutex_lock(&lock);
    old = tls->current;
    tls->current = made;
    atomic_store(&tls->generation, made->generation);
    pthread_mutex_unlock(&lock);
    pl_tls_settings_release(old);
    return POOL_OK;
}

struct pool_tls *pl_tls_keep(struct pool_tls *tls)
{
    atomic_fetch_add(&tls->references, 1);
    return tls;
}

void pool_tls_free(struct pool_tls *tls)
{
    if (!tls || atomic_fetch_sub(&tls->references, 1) > 1)
        return;
    pl_tls_settings_release(tls->current);
    pl_os->free(tls);
}

struct pl_tls_settings *pl_tls_settings_take(struct pool_tls *tls)
{
    struct pl_tls_settings *settings;

    pthread_mutex_lock(&lock);
    settings = pl_tls_settings_keep(tls->current);
    pthread_mutex_unlock(&lock);
    return settings;
}

uint64_t pl_tls_generation_now(const struct pool_tls *tls)
{
    return atomic_load(&tls->generation);
}
