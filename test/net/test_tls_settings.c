/* test_tls_settings.c: what TLS options become, and what is refused when they are made. */
#include "net/tls_settings.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/conf.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/os.h"
#include "net/tls_client.h"
#include "support/child.h"
#include "support/tests.h"

#define STRANGE 12345 /* no errno of any call */

static struct credential *authority, *own;
static char folder[256];

static void set_up(void)
{
    signal(SIGPIPE, SIG_DFL);
    cr_assert(make_temp_dir(folder, sizeof(folder)));
    authority = CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);
    own = CREDENTIAL(authority, .common_name = "the client");
}

static void tear_down(void)
{
    remove_temp_dir(folder);
    credential_free(authority);
    credential_free(own);
}

TestSuite(tls_settings, .init = set_up, .fini = tear_down);

/* The status, and the sentence in `error`. */
static enum pool_status make(const struct pool_tls_options *options, struct pool_error *error)
{
    struct pool_tls *tls = (struct pool_tls *)(void *)&tls;
    enum pool_status status;

    *error = (struct pool_error)POOL_ERROR_INIT;
    errno = STRANGE;
    status = pool_tls_create(options, &tls, error);
    cr_expect_eq(errno, STRANGE);
    cr_expect_eq(tls == NULL, status != POOL_OK);
    if (status)
        cr_expect_eq(error->status, status);
    pool_tls_free(tls);
    return status;
}

static void refuses(const struct pool_tls_options *options, enum pool_status status,
                    const char *says)
{
    struct pool_error error;

    cr_expect_eq(make(options, &error), status, "%s", error.text);
    cr_expect_not_null(strstr(error.text, says), "%s does not say %s", error.text, says);
}

static void accepts(const struct pool_tls_options *options)
{
    struct pool_error error;

    cr_expect_eq(make(options, &error), POOL_OK, "%s", error.text);
}

static char *in_folder(const char *name, const char *text)
{
    return write_pem(folder, name, text);
}

/* ---- options */

Test(tls_settings, options_of_a_wrong_size_are_refused)
{
    static const size_t wrong[] = { 0, 1, 7, 8, 5000, SIZE_MAX };
    struct {
        struct pool_tls_options options;
        char more[64];
    } later = { .options = { .size = sizeof(later), .insecure = true } };
    struct pool_tls_options options = { 0 };

    for (size_t i = 0; i < PL_COUNT(wrong); i++) {
        options.size = wrong[i];
        refuses(&options, POOL_E_ARGUMENT, "size");
    }
    accepts(&later.options);
    later.more[63] = 1;
    refuses(&later.options, POOL_E_ARGUMENT, "size");
    pool_tls_options_init(&options);
    cr_expect_eq(options.size, sizeof(options));
    pool_tls_options_init(NULL);
    cr_expect_eq(pool_tls_create(NULL, NULL, NULL), POOL_E_ARGUMENT);
    cr_expect_eq(pool_tls_reload(NULL, NULL, NULL), POOL_E_ARGUMENT);
    pool_tls_free(NULL);
}

Test(tls_settings, options_that_contradict_each_other_are_refused)
{
    const char *pem = own->certificate, *key = own->key;

    refuses(POOL_TLS_OPTIONS(.cert_pem = pem, .cert_file = "x"), POOL_E_ARGUMENT,
            "TLS settings: cert_file and cert_pem cannot both");
    refuses(POOL_TLS_OPTIONS(.cert_pem = pem, .key_file = "x", .key_pem = key), POOL_E_ARGUMENT,
            "TLS settings: key_file and key_pem cannot both");
    refuses(POOL_TLS_OPTIONS(.key_pem = key), POOL_E_ARGUMENT, "a key without its certificate");
    refuses(POOL_TLS_OPTIONS(.key_file = "x"), POOL_E_ARGUMENT, "a key without its certificate");
    refuses(POOL_TLS_OPTIONS(.name = ""), POOL_E_ARGUMENT, "name is empty");
    refuses(POOL_TLS_OPTIONS(.min_version = TLS1_1_VERSION), POOL_E_ARGUMENT, "min_version");
    refuses(POOL_TLS_OPTIONS(.min_version = TLS1_3_VERSION + 1), POOL_E_ARGUMENT, "min_version");
    refuses(POOL_TLS_OPTIONS(.alpn = ""), POOL_E_ARGUMENT, "alpn");
    refuses(POOL_TLS_OPTIONS(.alpn = "h2,,x"), POOL_E_ARGUMENT, "alpn");
    refuses(POOL_TLS_OPTIONS(.alpn = "h2,"), POOL_E_ARGUMENT, "alpn");
    accepts(POOL_TLS_OPTIONS(.ca_pem = authority->certificate, .alpn = "h2,http/1.1",
                             .min_version = TLS1_3_VERSION));
}

Test(tls_settings, a_list_of_protocols_becomes_what_is_offered)
{
    struct pl_tls_alpn alpn;
    char longest[PL_TLS_ALPN_MOST + 1];

    cr_expect(pl_tls_alpn_parse("h2,http/1.1", 11, &alpn));
    cr_expect_eq(alpn.size, 12);
    cr_expect_arr_eq(alpn.wire, "\2h2\10http/1.1", 12);
    memset(longest, 'x', sizeof(longest));
    cr_expect(pl_tls_alpn_parse(longest, PL_TLS_ALPN_MOST - 1, &alpn));
    cr_expect_eq(alpn.wire[0], PL_TLS_ALPN_MOST - 1);
    cr_expect_not(pl_tls_alpn_parse(longest, PL_TLS_ALPN_MOST, &alpn));
    cr_expect_eq(alpn.size, 0);
    cr_expect_not(pl_tls_alpn_parse("", 0, &alpn));
}

Test(tls_settings, ciphers_of_both_kinds_stand_in_one_list)
{
    struct pl_tls_settings *settings =
        SETTINGS(.ca_pem = authority->certificate,
                 .ciphers = "TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256");
    STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(settings->context);

    cr_expect_eq(sk_SSL_CIPHER_num(ciphers), 2);
    pl_tls_settings_release(settings);
    refuses(POOL_TLS_OPTIONS(.ca_pem = authority->certificate, .ciphers = "NO-SUCH-CIPHER"),
            POOL_E_TLS, "ciphers: no cipher match");
    refuses(POOL_TLS_OPTIONS(.ca_pem = authority->certificate, .ciphers = "TLS_NO_SUCH"),
            POOL_E_TLS, "ciphers");
    refuses(POOL_TLS_OPTIONS(.ca_pem = authority->certificate, .ciphers = "aNULL"), POOL_E_TLS,
            "ciphers");
}

/* ---- certificates and keys */

Test(tls_settings, what_is_no_certificate_is_named_with_the_reason)
{
    char *junk = in_folder("junk.pem", "nothing of the kind\n");
    char *bad =
        in_folder("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    char *good = in_folder("good.pem", authority->certificate);
    char missing[300];

    snprintf(missing, sizeof(missing), "%s/missing.pem", folder);
    accepts(POOL_TLS_OPTIONS(.ca_file = good));
    refuses(POOL_TLS_OPTIONS(.ca_file = junk), POOL_E_TLS, "junk.pem has no certificate");
    refuses(POOL_TLS_OPTIONS(.ca_file = bad), POOL_E_TLS, "bad.pem: ");
    refuses(POOL_TLS_OPTIONS(.ca_file = missing), POOL_E_TLS,
            "missing.pem cannot be read (ENOENT)");
    refuses(POOL_TLS_OPTIONS(.ca_file = folder), POOL_E_TLS, "(EISDIR)");
    refuses(POOL_TLS_OPTIONS(.ca_pem = ""), POOL_E_TLS, "the PEM text has no certificate");
    refuses(POOL_TLS_OPTIONS(.ca_file = good, .ca_pem = "x"), POOL_E_TLS, "the PEM text");
    refuses(POOL_TLS_OPTIONS(.ca_file = good, .cert_file = missing), POOL_E_TLS, "missing.pem");
    refuses(POOL_TLS_OPTIONS(.ca_dir = missing), POOL_E_TLS, "(ENOENT)");
    free(junk);
    free(bad);
    free(good);
}

Test(tls_settings, a_directory_is_read_whole_and_what_is_no_certificate_does_not_count)
{
    struct pool_error error;
    char *paths[3];

    refuses(POOL_TLS_OPTIONS(.ca_dir = folder), POOL_E_TLS, "has no file with a certificate");
    paths[0] = in_folder("README", "read me\n");
    paths[1] = in_folder("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    refuses(POOL_TLS_OPTIONS(.ca_dir = folder), POOL_E_TLS, "has no file with a certificate");
    paths[2] = in_folder("1.pem", authority->certificate);
    cr_expect_eq(make(POOL_TLS_OPTIONS(.ca_dir = folder), &error), POOL_OK, "%s", error.text);
    for (size_t i = 0; i < PL_COUNT(paths); i++)
        free(paths[i]);
}

static ssize_t refuse_file(const char *path, size_t most, char **text)
{
    (void)path;
    (void)most;
    *text = NULL;
    return -EMFILE;
}

Test(tls_settings, a_shortage_is_no_missing_certificate)
{
    struct pl_os wrapped = pl_os_real;
    char *path = in_folder("1.pem", authority->certificate);

    wrapped.read_file = refuse_file;
    pl_os_replace(&wrapped);
    refuses(POOL_TLS_OPTIONS(.ca_dir = folder), POOL_E_RESOURCE, "1.pem cannot be read (EMFILE)");
    refuses(POOL_TLS_OPTIONS(.ca_file = path), POOL_E_RESOURCE, "(EMFILE)");
    refuses(NULL, POOL_E_RESOURCE, "(EMFILE)");
    pl_os_replace(NULL);
    free(path);
}

Test(tls_settings, a_certificate_needs_its_own_key_and_no_passphrase)
{
    static const char encrypted[] =
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
        "DEK-Info: AES-128-CBC,00000000000000000000000000000000\n\nAAAA\n"
        "-----END RSA PRIVATE KEY-----\n";
    struct credential *other = CREDENTIAL(authority, .common_name = "other");
    char *both = pem_join(own->certificate, own->key);
    const char *ca = authority->certificate, *certificate = own->certificate;

    accepts(POOL_TLS_OPTIONS(.ca_pem = ca, .cert_pem = certificate, .key_pem = own->key));
    accepts(POOL_TLS_OPTIONS(.ca_pem = ca, .cert_pem = both));
    refuses(POOL_TLS_OPTIONS(.ca_pem = ca, .cert_pem = certificate), POOL_E_TLS,
            "no key that needs no passphrase, and no other place of it is given (key_file, "
            "key_pem)");
    refuses(POOL_TLS_OPTIONS(.ca_pem = ca, .cert_pem = certificate, .key_pem = other->key),
            POOL_E_TLS, "key values mismatch");
    refuses(POOL_TLS_OPTIONS(.ca_pem = ca, .cert_pem = certificate, .key_pem = encrypted),
            POOL_E_TLS, "no key that needs no passphrase");
    free(both);
    credential_free(other);
}

Test(tls_settings, our_certificate_and_its_chain_are_shown_to_who_asks)
{
    struct credential *between =
        CREDENTIAL(authority, .common_name = "between", .is_authority = true);
    struct credential *client_own = CREDENTIAL(between, .common_name = "chained");
    struct credential *server = CREDENTIAL(authority, .names = "DNS:db.test");
    char *chain = pem_join(client_own->certificate, between->certificate);
    struct tls_peer *peer = TLS_PEER(.credential = server, .client_ca = authority->certificate);
    struct pl_tls_settings *settings =
        SETTINGS(.ca_pem = authority->certificate, .cert_pem = chain, .key_pem = client_own->key);
    struct client client = client_open(peer, settings, NULL, "db.test");

    cr_expect(client_echo(&client, "x"));
    cr_expect_str_eq(tls_peer_client(peer), "/CN=chained");
    client_close(&client);
    pl_tls_settings_release(settings);
    tls_peer_stop(peer);
    free(chain);
    credential_free(between);
    credential_free(client_own);
    credential_free(server);
}

/* ---- the system */

static void set_system_store(const char *file, const char *list)
{
    cr_assert_eq(setenv("SSL_CERT_FILE", file, 1), 0);
    cr_assert_eq(setenv("SSL_CERT_DIR", list, 1), 0);
}

Test(tls_settings, the_systems_store_is_where_openssl_looks_for_it)
{
    char *path = in_folder("store.pem", authority->certificate), two[600];

    set_system_store("/nothing", "/nothing:/nothing/either");
    refuses(NULL, POOL_E_TLS, "the system trusts nobody");
    accepts(POOL_TLS_OPTIONS(.insecure = true));
    set_system_store(path, "/nothing");
    accepts(NULL);
    snprintf(two, sizeof(two), "/nothing:%s", folder);
    set_system_store("/nothing", two);
    accepts(NULL);
    free(path);
}

static bool is_weak_by_itself(void)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    bool is_weak = SSL_CTX_get_min_proto_version(context) == TLS1_VERSION &&
                   SSL_CTX_get_security_level(context) == 0 &&
                   (SSL_CTX_get_options(context) & SSL_OP_LEGACY_SERVER_CONNECT);

    SSL_CTX_free(context);
    return is_weak;
}

/* In a child, since what OpenSSL read it keeps for the life of a process. */
static int look_under_configuration(void *argument)
{
    const char *path = argument;
    struct credential *server = CREDENTIAL(authority, .names = "DNS:db.test", .rsa_bits = 1024);
    struct tls_peer *peer;
    struct pl_tls_settings *settings;
    struct client client;
    int wrong = 0;

    if (CONF_modules_load_file(path, NULL, 0) != 1 || !is_weak_by_itself())
        return 128;
    peer = TLS_PEER(.credential = server, .client_ca = authority->certificate);
    settings = SETTINGS(.ca_pem = own->certificate);
    wrong |= SSL_CTX_get_min_proto_version(settings->context) < TLS1_2_VERSION ? 1 : 0;
    wrong |= SSL_CTX_get_security_level(settings->context) < 2 ? 2 : 0;
    wrong |= SSL_CTX_get_options(settings->context) & SSL_OP_LEGACY_SERVER_CONNECT ? 4 : 0;
    client = client_dial(peer, settings, NULL, "db.test");
    wrong |= client_shake(&client) != EPROTO ? 8 : 0; /* whom the file trusts we do not */
    client_close(&client);
    pl_tls_settings_release(settings);
    settings = SETTINGS(.insecure = true);
    client = client_dial(peer, settings, NULL, "db.test");
    wrong |= client_shake(&client) == 0 && client_echo(&client, "x") ? 32 : 0;
    wrong |= *tls_peer_client(peer) ? 64 : 0; /* nor are we whom the file says */
    client_close(&client);
    pl_tls_settings_release(settings);
    return wrong;
}

Test(tls_settings, the_systems_configuration_cannot_weaken_them)
{
    char text[2000], *certificate = in_folder("own.pem", own->certificate);
    char *key = in_folder("own.key", own->key), *ca = in_folder("ca.pem", authority->certificate);
    char *path;
    int wrong;

    snprintf(text, sizeof(text),
             "openssl_conf = start\n[start]\nssl_conf = modules\n[modules]\n"
             "system_default = defaults\n[defaults]\nMinProtocol = TLSv1\n"
             "CipherString = ALL:eNULL:@SECLEVEL=0\n"
             "Options = UnsafeLegacyServerConnect,UnsafeLegacyRenegotiation\n"
             "VerifyCAFile = %s\nCertificate = %s\nPrivateKey = %s\n",
             ca, certificate, key);
    path = in_folder("openssl.cnf", text);
    wrong = child_run(look_under_configuration, path);
    cr_expect_eq(wrong, 0, "0x%x", wrong);
    free(path);
    free(ca);
    free(key);
    free(certificate);
}

/* ---- reload */

Test(tls_settings, a_reload_changes_what_comes_later_and_a_bad_one_changes_nothing)
{
    struct credential *server = CREDENTIAL(authority, .names = "DNS:db.test");
    struct tls_peer *peer = TLS_PEER(.credential = server);
    struct pl_tls_settings *before, *after;
    struct client old, late;
    struct pool_tls *tls;

    cr_assert_eq(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = own->certificate), &tls, NULL), 0);
    before = pl_tls_settings_take(tls);
    cr_expect_eq(pool_tls_reload(tls, POOL_TLS_OPTIONS(.ca_pem = "x"), NULL), POOL_E_TLS);
    after = pl_tls_settings_take(tls);
    cr_expect_eq(before, after);
    pl_tls_settings_release(after);
    old = client_dial(peer, before, NULL, "db.test");
    cr_expect_eq(pool_tls_reload(tls, POOL_TLS_OPTIONS(.ca_pem = authority->certificate), NULL),
                 POOL_OK);
    after = pl_tls_settings_take(tls);
    cr_expect_gt(after->generation, before->generation);
    pl_tls_settings_release(before);
    cr_expect_eq(client_shake(&old), EPROTO, "what was made before keeps what it was made with");
    late = client_open(peer, after, NULL, "db.test");
    pl_tls_settings_release(after);
    pool_tls_free(tls);
    cr_expect(client_echo(&late, "the connection outlives its settings"));
    client_close(&old);
    client_close(&late);
    tls_peer_stop(peer);
    credential_free(server);
}

static atomic_bool is_over;

static void take_or_reload(unsigned index, void *argument)
{
    struct pool_tls *tls = argument;

    for (unsigned i = 0; i < 50 && !index; i++)
        cr_expect_eq(pool_tls_reload(tls, POOL_TLS_OPTIONS(.ca_pem = authority->certificate), NULL),
                     POOL_OK);
    if (!index)
        atomic_store(&is_over, true);
    while (!atomic_load(&is_over))
        pl_tls_settings_release(pl_tls_settings_take(tls));
}

Test(tls_settings, settings_are_taken_while_others_reload_them)
{
    struct pool_tls *tls;

    cr_assert_eq(pool_tls_create(POOL_TLS_OPTIONS(.insecure = true), &tls, NULL), POOL_OK);
    cr_expect(run_threads(3, take_or_reload, tls));
    pool_tls_free(tls);
}
