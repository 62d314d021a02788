/* test_tls_names.c: whose certificate is accepted: each bad one is refused with a reason of its
 * own, and good ones are not. */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/x509_vfy.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "net/tls_client.h"
#include "net/tls_peer.h"

#define HOUR 3600L

static struct credential *authority;

static void set_up(void)
{
    signal(SIGPIPE, SIG_DFL);
    authority = CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);
}

static void tear_down(void)
{
    credential_free(authority);
}

TestSuite(tls_names, .init = set_up, .fini = tear_down);

/* One handshake with a peer of these options, that must have this name; 0 or the reason. */
static int meet(const struct tls_peer_options *options, const char *name, const char *says)
{
    struct tls_peer *peer = tls_peer_start(options);
    struct pl_tls_settings *settings = SETTINGS(.ca_pem = authority->certificate);
    struct client client = client_dial(peer, settings, NULL, name);
    struct pl_tls_facts facts;
    int error = client_shake(&client), reason = 0;

    if (error) {
        struct pl_failure failure = client_failure(&client, POOL_PHASE_TLS);
        const char *sentence = client_sentence(&client, POOL_PHASE_TLS);

        reason = failure.cause;
        cr_expect_eq(failure.status, POOL_E_TLS, "%s", sentence);
        cr_expect_eq(failure.reason, PL_REASON_CERTIFICATE, "%s", sentence);
        cr_expect_not_null(strstr(sentence, says), "%s does not say %s", sentence, says);
        cr_expect_not(pl_tls_tell(client.tls, &facts));
        cr_expect_not(client_say(&client, "x", 1));
    } else {
        cr_expect(client_echo(&client, "hello"));
        cr_expect(pl_tls_tell(client.tls, &facts));
        cr_expect_str_eq(facts.peer_name, name);
    }
    client_close(&client);
    pl_tls_settings_release(settings);
    tls_peer_stop(peer);
    return reason;
}

static int meet_one(const struct credential *by, const struct credential_options *options,
                    const char *name, const char *says)
{
    struct credential *credential = credential_make(by, options);
    int reason = meet(&(struct tls_peer_options){ .credential = credential }, name, says);

    credential_free(credential);
    return reason;
}

#define MEET(by, name, says, ...)                                                                  \
    meet_one(by, &(struct credential_options){ .follow = true, __VA_ARGS__ }, name, says)

Test(tls_names, names_and_addresses_that_a_certificate_bears_are_accepted)
{
    static const char names[] = "DNS:db.test,DNS:*.wild.test,IP:127.0.0.1,IP:::1";

    cr_expect_eq(MEET(authority, "db.test", "", .names = names), 0);
    cr_expect_eq(MEET(authority, "DB.Test", "", .names = names), 0);
    cr_expect_eq(MEET(authority, "a.wild.test", "", .names = names), 0);
    cr_expect_eq(MEET(authority, "127.0.0.1", "", .names = names), 0);
    cr_expect_eq(MEET(authority, "::1", "", .names = names), 0);
}

Test(tls_names, other_names_are_refused)
{
    static const char *const others[] = { "other.test", "b.db.test", "test", "db.test.evil.test",
                                          "xdb.test" };

    for (size_t i = 0; i < PL_COUNT(others); i++)
        cr_expect_eq(
            MEET(authority, others[i], "hostname mismatch (CN=the peer)", .names = "DNS:db.test"),
            X509_V_ERR_HOSTNAME_MISMATCH, "%s", others[i]);
}

/* What is said of a peer that is somebody else, when settings name whom they mean. */
static const char *say_of_other(const char *wanted, const char *subject)
{
    struct credential *other =
        CREDENTIAL(authority, .common_name = subject, .names = "DNS:other.test,IP:127.0.0.2");
    struct tls_peer *peer = TLS_PEER(.credential = other);
    struct pl_tls_settings *settings = SETTINGS(.ca_pem = authority->certificate, .name = wanted);
    struct client client = client_dial(peer, settings, NULL, "other.test");
    const char *sentence;

    cr_expect(client_shake(&client));
    sentence = client_sentence(&client, POOL_PHASE_TLS);
    client_close(&client);
    pl_tls_settings_release(settings);
    tls_peer_stop(peer);
    credential_free(other);
    return sentence;
}

Test(tls_names, a_name_that_settings_demand_is_told_where_it_is_not_the_peers)
{
    static const char a60[] = "a23456789b123456789c123456789d123456789e123456789f123456.test";
    const char *sentence = say_of_other("db.test", "the peer");

    cr_expect(strstr(sentence, "hostname mismatch (CN=the peer; expected db.test) while"), "%s",
              sentence);
    sentence = say_of_other("127.0.0.1", "the peer");
    cr_expect(strstr(sentence, "IP address mismatch (CN=the peer; expected 127.0.0.1) while"), "%s",
              sentence);
    sentence = say_of_other(a60, a60);
    cr_expect(strstr(sentence, "(CN=a23456789b123456789c12; expected "
                               "a23456789b123456789c123456789d123456789e...) while"),
              "%s", sentence);
}

Test(tls_names, other_addresses_are_refused)
{
    cr_expect_eq(MEET(authority, "127.0.0.2", "IP address mismatch", .names = "IP:127.0.0.1"),
                 X509_V_ERR_IP_ADDRESS_MISMATCH);
    cr_expect_eq(MEET(authority, "127.0.0.1", "IP address mismatch", .names = "DNS:127.0.0.1"),
                 X509_V_ERR_IP_ADDRESS_MISMATCH, "an address is no name");
    cr_expect_eq(MEET(authority, "::1", "IP address mismatch", .names = "IP:127.0.0.1"),
                 X509_V_ERR_IP_ADDRESS_MISMATCH);
}

Test(tls_names, a_common_name_is_no_name)
{
    cr_expect_eq(MEET(authority, "the.peer", "hostname mismatch", .common_name = "the.peer"),
                 X509_V_ERR_HOSTNAME_MISMATCH);
    cr_expect_eq(MEET(authority, "127.0.0.1", "IP address mismatch", .common_name = "127.0.0.1"),
                 X509_V_ERR_IP_ADDRESS_MISMATCH);
}

Test(tls_names, a_wildcard_stands_for_one_whole_label_and_not_below_the_top)
{
    static const char *const pairs[][2] = {
        { "DNS:*.com", "example.com" },          { "DNS:*", "example.com" },
        { "DNS:*.*.test", "a.b.test" },          { "DNS:w*.wild.test", "www.wild.test" },
        { "DNS:*w.wild.test", "www.wild.test" }, { "DNS:*.wild.test", "a.b.wild.test" },
        { "DNS:*.wild.test", "wild.test" },      { "DNS:a.*.test", "a.b.test" },
    };

    for (size_t i = 0; i < PL_COUNT(pairs); i++)
        cr_expect_eq(MEET(authority, pairs[i][1], "hostname mismatch", .names = pairs[i][0]),
                     X509_V_ERR_HOSTNAME_MISMATCH, "%s for %s", pairs[i][0], pairs[i][1]);
}

Test(tls_names, a_zero_byte_does_not_end_a_name)
{
    static const char name[] = "db.test\0.evil.test";

    cr_expect_eq(MEET(authority, "db.test", "hostname mismatch", .raw_name = name,
                      .raw_size = sizeof(name) - 1),
                 X509_V_ERR_HOSTNAME_MISMATCH);
}

Test(tls_names, certificates_out_of_their_time_are_refused)
{
    cr_expect_eq(MEET(authority, "db.test", "certificate has expired", .names = "DNS:db.test",
                      .from_s = -3 * HOUR, .to_s = -HOUR),
                 X509_V_ERR_CERT_HAS_EXPIRED);
    cr_expect_eq(MEET(authority, "db.test", "certificate is not yet valid", .names = "DNS:db.test",
                      .from_s = HOUR, .to_s = 3 * HOUR),
                 X509_V_ERR_CERT_NOT_YET_VALID);
}

Test(tls_names, authorities_that_are_not_trusted_are_refused)
{
    struct credential *stranger = CREDENTIAL(NULL, .common_name = "stranger", .is_authority = true);
    struct credential *namesake =
        CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);

    cr_expect_eq(
        MEET(NULL, "db.test", "self-signed certificate (CN=the peer)", .names = "DNS:db.test"),
        X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT);
    cr_expect_eq(
        MEET(stranger, "db.test", "unable to get local issuer certificate", .names = "DNS:db.test"),
        X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
    cr_expect_eq(MEET(namesake, "db.test", "certificate signature failure", .names = "DNS:db.test"),
                 X509_V_ERR_CERT_SIGNATURE_FAILURE);
    credential_free(stranger);
    credential_free(namesake);
}

Test(tls_names, a_chain_must_be_whole_and_made_by_authorities)
{
    struct credential *between =
        CREDENTIAL(authority, .common_name = "between", .is_authority = true);
    struct credential *usurper = CREDENTIAL(authority, .common_name = "usurper");
    struct credential *good = CREDENTIAL(between, .names = "DNS:db.test");
    struct credential *bad = CREDENTIAL(usurper, .names = "DNS:db.test");

    cr_expect_eq(
        meet(&(struct tls_peer_options){ .credential = good, .chain = between->certificate },
             "db.test", ""),
        0);
    cr_expect_eq(meet(&(struct tls_peer_options){ .credential = good }, "db.test",
                      "unable to get local issuer"),
                 X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
    cr_expect_eq(
        meet(&(struct tls_peer_options){ .credential = bad, .chain = usurper->certificate },
             "db.test", "invalid CA certificate (CN=usurper)"),
        X509_V_ERR_INVALID_CA);
    credential_free(between);
    credential_free(usurper);
    credential_free(good);
    credential_free(bad);
}

Test(tls_names, weak_keys_and_digests_are_refused)
{
    struct credential *tiny = CREDENTIAL(authority, .names = "DNS:db.test", .rsa_bits = 512);

    cr_expect_eq(
        MEET(authority, "db.test", "key too weak", .names = "DNS:db.test", .rsa_bits = 1024),
        X509_V_ERR_EE_KEY_TOO_SMALL);
    cr_expect_eq(meet(&(struct tls_peer_options){ .credential = tiny, .version = TLS1_2_VERSION },
                      "db.test", "key too weak"),
                 X509_V_ERR_EE_KEY_TOO_SMALL);
    cr_expect_eq(MEET(authority, "db.test", "too weak", .names = "DNS:db.test", .uses_sha1 = true),
                 X509_V_ERR_CA_MD_TOO_WEAK);
    cr_expect_eq(MEET(authority, "db.test", "", .names = "DNS:db.test", .rsa_bits = 2048), 0);
    credential_free(tiny);
}

/* A cipher without certificates passes OpenSSL's verification: there was nothing to verify. */
Test(tls_names, a_peer_without_a_certificate_is_refused)
{
    struct tls_peer *peer = TLS_PEER(.version = TLS1_2_VERSION, .ciphers = "aNULL:@SECLEVEL=0");
    struct pl_tls_settings *settings =
        SETTINGS(.ca_pem = authority->certificate, .ciphers = "ALL:aNULL:@SECLEVEL=0");
    struct client client;

    /* What the option refuses anyway is forced here. */
    SSL_CTX_set_cipher_list(settings->context, "aNULL:@SECLEVEL=0");
    client = client_dial(peer, settings, NULL, "db.test");
    cr_expect_eq(client_shake(&client), EPROTO);
    cr_expect_eq(client_failure(&client, POOL_PHASE_TLS).reason, PL_REASON_CERTIFICATE);
    client_close(&client);
    pl_tls_settings_release(settings);
    tls_peer_stop(peer);
}

Test(tls_names, what_is_no_name_is_not_asked_for)
{
    static const char wild[] = ".test", zero[] = "db\0.test";
    struct pl_tls_settings *settings = SETTINGS(.ca_pem = authority->certificate);
    const struct pool_bytes bad[] = { { NULL, 0 }, { "", 0 },   { wild, 5 },
                                      { zero, 8 }, { "\0", 1 }, { ".", 1 } };
    struct pl_tls *tls;

    for (size_t i = 0; i < PL_COUNT(bad); i++) {
        cr_expect_eq(pl_tls_create(settings, NULL, &(struct pl_tls_wish){ .name = bad[i] }, &tls),
                     -EINVAL, "%zu", i);
        cr_expect_null(tls);
    }
    pl_tls_settings_release(settings);
}

Test(tls_names, a_name_of_the_settings_takes_the_place_of_the_addresss)
{
    struct credential *credential = CREDENTIAL(authority, .names = "DNS:db.test");
    struct tls_peer *peer = TLS_PEER(.credential = credential);
    struct pl_tls_settings *settings =
        SETTINGS(.ca_pem = authority->certificate, .name = "db.test");
    struct client client = client_open(peer, settings, NULL, "127.0.0.1");

    cr_expect(client_echo(&client, "x"));
    cr_expect_str_eq(tls_peer_asked_for(peer), "db.test");
    client_close(&client);
    pl_tls_settings_release(settings);
    tls_peer_stop(peer);
    credential_free(credential);
}

Test(tls_names, a_dot_at_the_end_is_no_part_of_a_name_and_addresses_are_not_asked_for)
{
    struct credential *credential = CREDENTIAL(authority, .names = "DNS:db.test,IP:127.0.0.1");
    struct tls_peer *peer = TLS_PEER(.credential = credential);
    struct pl_tls_settings *settings = SETTINGS(.ca_pem = authority->certificate);
    struct client dotted = client_open(peer, settings, NULL, "db.test."), numeric;

    cr_expect(client_echo(&dotted, "x"));
    cr_expect_str_eq(tls_peer_asked_for(peer), "db.test");
    numeric = client_open(peer, settings, NULL, "127.0.0.1");
    cr_expect(client_echo(&numeric, "x"));
    cr_expect_str_eq(tls_peer_asked_for(peer), "");
    client_close(&dotted);
    client_close(&numeric);
    pl_tls_settings_release(settings);
    tls_peer_stop(peer);
    credential_free(credential);
}

Test(tls_names, insecure_settings_accept_anybody_and_say_so)
{
    struct credential *credential = CREDENTIAL(NULL, .names = "DNS:other.test");
    struct tls_peer *peer = TLS_PEER(.credential = credential);
    struct pl_tls_settings *settings = SETTINGS(.insecure = true);
    struct client client = client_open(peer, settings, NULL, "db.test");
    struct pl_tls_facts facts;

    cr_expect(client_echo(&client, "x"));
    cr_expect(pl_tls_tell(client.tls, &facts));
    cr_expect_null(facts.peer_name);
    client_close(&client);
    pl_tls_settings_release(settings);
    tls_peer_stop(peer);
    credential_free(credential);
}
