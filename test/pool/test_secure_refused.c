/* test_secure_refused.c: what a peer of a tls:// address must prove before it gets a single byte:
 * each fault is told in a sentence that names it and the certificate. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "pool/secure_stage.h"

TestSuite(pool_secure_refused, .init = secure_stage_begin, .fini = secure_stage_end,
          .timeout = 60);

#define HOUR 3600L
#define NAMES "DNS:db.test,IP:127.0.0.1"

/* A borrow from a peer with this certificate fails, and its sentence says both. */
static void expect_refused(const struct credential *bad, const char *rest, const char *fault,
                           const char *subject)
{
    struct tls_peer *peer = TLS_PEER(.credential = bad);
    struct pool_error error = POOL_ERROR_INIT;

    cr_expect_eq(borrow_in_vain(secure_address(tls_peer_port(peer), rest), &error), POOL_E_TLS,
                 "%s", fault);
    cr_expect_eq(error.phase, POOL_PHASE_TLS);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    cr_expect_not_null(strstr(error.text, fault), "\"%s\" does not say \"%s\"", error.text, fault);
    cr_expect_not_null(strstr(error.text, subject), "\"%s\" does not say \"%s\"", error.text,
                       subject);
    cr_expect_eq(tls_peer_resumed(peer), 0);
    tls_peer_stop(peer);
}

static void expect_bad(const struct credential *by, const struct credential_options *options,
                       const char *rest, const char *fault)
{
    struct credential *bad = credential_make(by, options);

    expect_refused(bad, rest, fault, options->common_name);
    credential_free(bad);
}

#define EXPECT_BAD(by, rest, fault, ...)                                                           \
    expect_bad((by),                                                                               \
               &(struct credential_options){ .follow = true, .common_name = "the bad one",         \
                                             __VA_ARGS__ },                                        \
               (rest), (fault))

Test(pool_secure_refused, certificates_out_of_their_time)
{
    SECURE_POOL();
    EXPECT_BAD(authority, "", "expired", .names = NAMES, .from_s = -3 * HOUR, .to_s = -HOUR);
    EXPECT_BAD(authority, "", "not yet valid", .names = NAMES, .from_s = HOUR, .to_s = 3 * HOUR);
}

Test(pool_secure_refused, certificates_that_nobody_we_trust_signed)
{
    struct credential *stranger = CREDENTIAL(NULL, .common_name = "stranger", .is_authority = true);
    struct credential *between =
        CREDENTIAL(authority, .common_name = "between", .is_authority = true);

    SECURE_POOL();
    EXPECT_BAD(NULL, "", "self-signed", .names = NAMES);
    EXPECT_BAD(stranger, "", "issuer", .names = NAMES);
    EXPECT_BAD(between, "", "issuer", .names = NAMES);
    credential_free(between);
    credential_free(stranger);
}

Test(pool_secure_refused, certificates_of_others)
{
    static const char zero[] = "db.test\0.evil.test";

    SECURE_POOL();
    EXPECT_BAD(authority, "?sni=db.test", "hostname mismatch", .names = "DNS:evil.test");
    EXPECT_BAD(authority, "", "IP address mismatch", .names = "IP:127.0.0.2");
    EXPECT_BAD(authority, "", "IP address mismatch", .names = "DNS:127.0.0.1");
    EXPECT_BAD(authority, "?sni=a.b.test", "hostname mismatch", .names = "DNS:*.test");
    EXPECT_BAD(authority, "?sni=db.test", "hostname mismatch", .raw_name = zero,
               .raw_size = sizeof(zero) - 1);
    expect_bad(authority,
               &(struct credential_options){ .follow = true, .common_name = "db.test" },
               "?sni=db.test", "hostname mismatch");
}

Test(pool_secure_refused, keys_and_digests_that_are_too_weak)
{
    SECURE_POOL();
    EXPECT_BAD(authority, "", "too weak", .names = NAMES, .rsa_bits = 1024);
    EXPECT_BAD(authority, "", "too weak", .names = NAMES, .uses_sha1 = true);
}

Test(pool_secure_refused, everybody_when_nobody_was_said_to_be_trusted)
{
    struct pool_error error = POOL_ERROR_INIT;

    START_PEER(.version = 0x0304);
    pool = MAKE_POOL();
    cr_expect_eq(borrow_in_vain(secure_at(""), &error), POOL_E_TLS, "the system's store is used");
    cr_expect_not_null(strstr(error.text, "issuer"), "%s", error.text);
    cr_expect_eq(tls_peer_goodbyes(tls_peer), 0);
}

static void never_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    (void)conn, (void)error, (void)user;
    cr_expect_fail("the start failed");
}

Test(pool_secure_refused, everybody_where_the_system_trusts_nobody_and_every_call_says_so)
{
    struct pool_error error = POOL_ERROR_INIT, later = POOL_ERROR_INIT;
    struct pool_target *target;

    cr_assert_eq(setenv("SSL_CERT_FILE", "/nowhere/certificates", 1), 0);
    cr_assert_eq(setenv("SSL_CERT_DIR", "/nowhere", 1), 0);
    START_PEER(.version = 0x0304);
    pool = MAKE_POOL();
    cr_expect_eq(borrow_in_vain(secure_at(""), &error), POOL_E_TLS);
    cr_expect_not_null(strstr(error.text, "the system trusts nobody"), "%s", error.text);
    cr_expect_eq(pool_communicate_async(pool, secure_at(""), never_lent, NULL,
                                        POOL_CALL(.error = &later), NULL),
                 POOL_E_TLS);
    cr_expect_str_eq(later.text, error.text);
    cr_expect_eq(pool_target_get(pool, secure_at(""), &target), POOL_E_TLS);
    cr_expect_eq(tls_peer_accepted(tls_peer), 0);
}

Test(pool_secure_refused, a_peer_that_speaks_no_tls)
{
    struct peer *plain = PEER(.push_on_accept = true, .behave = PEER_PUSH, .push = "220 hello\r\n");
    struct pool_error error = POOL_ERROR_INIT;

    SECURE_POOL();
    cr_expect_eq(borrow_in_vain(secure_address(peer_port(plain), ""), &error), POOL_E_TLS, "%s",
                 error.text);
    cr_expect_eq(error.phase, POOL_PHASE_TLS, "%s", error.text);
    pool_destroy(pool);
    pool = NULL;
    peer_stop(plain);
}

Test(pool_secure_refused, a_peer_that_leaves_in_the_handshake)
{
    struct pool_error error = POOL_ERROR_INIT;

    START_PEER(.ends_in_handshake = true);
    SECURE_POOL();
    cr_expect_lt(borrow_in_vain(secure_at(""), &error), POOL_OK);
    cr_expect_eq(error.phase, POOL_PHASE_TLS, "%s", error.text);
    cr_expect_eq(error.outcome, POOL_NOT_SENT, "%s", error.text);
}

Test(pool_secure_refused, old_versions_of_the_protocol)
{
    struct pool_error error = POOL_ERROR_INIT;

    START_PEER(.version = 0x0302, .ciphers = "ALL:@SECLEVEL=0");
    SECURE_POOL();
    cr_expect_eq(borrow_in_vain(secure_at(""), &error), POOL_E_TLS, "%s", error.text);
    cr_expect_not_null(strstr(error.text, "version"), "%s", error.text);
}

/* Not a byte of a request leaves in the clear, whoever asks for what on the same port. */
Test(pool_secure_refused, a_plain_connection_for_a_tls_address)
{
    struct peer *plain = PEER();
    struct pool_error error = POOL_ERROR_INIT;
    char bytes[600];
    uint64_t size;

    SECURE_POOL();
    cr_expect_eq(talk(pool, peer_address(plain)), POOL_OK);
    cr_expect_neq(borrow_in_vain(secure_address(peer_port(plain), ""), &error), POOL_OK);
    cr_expect_eq(peer_accepted(plain, 2), 2, "the idle one was not taken");
    cr_expect_eq(talk(pool, peer_address(plain)), POOL_OK);
    cr_expect_eq(peer_accepted(plain, 2), 2);
    size = peer_received(plain, 1, bytes, sizeof(bytes));
    cr_expect(size > 0 && bytes[0] == 0x16, "a handshake, and nothing else");
    pool_destroy(pool);
    pool = NULL;
    peer_stop(plain);
}
