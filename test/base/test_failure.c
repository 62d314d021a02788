/* test_failure.c: every errno has its status, and every failure its sentence. */
#include "base/failure.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "base/os.h"
#include "base/subject.h"

struct expected {
    int error;
    enum pool_status status;
};

/* What the manual pages of socket, connect, bind and getsockopt name, with ip(7), tcp(7), unix(7),
 * and what routes answer. */
static const struct expected while_connecting[] = {
    { EACCES, POOL_E_ACCESS },          { EPERM, POOL_E_ACCESS },
    { EADDRINUSE, POOL_E_RESOURCE },    { EADDRNOTAVAIL, POOL_E_RESOURCE },
    { EMFILE, POOL_E_RESOURCE },        { ENFILE, POOL_E_RESOURCE },
    { ENOBUFS, POOL_E_RESOURCE },       { ENOMEM, POOL_E_RESOURCE },
    { ENOSPC, POOL_E_RESOURCE },        { EDQUOT, POOL_E_RESOURCE },
    { EAFNOSUPPORT, POOL_E_ADDRESS },   { EPFNOSUPPORT, POOL_E_ADDRESS },
    { EPROTONOSUPPORT, POOL_E_ADDRESS }, { EPROTOTYPE, POOL_E_ADDRESS },
    { EDESTADDRREQ, POOL_E_ADDRESS },   { ENAMETOOLONG, POOL_E_ADDRESS },
    { ENOTDIR, POOL_E_ADDRESS },        { ELOOP, POOL_E_ADDRESS },
    { ENODEV, POOL_E_ADDRESS },         { ENXIO, POOL_E_ADDRESS },
    { ENOENT, POOL_E_REFUSED },         { ECONNREFUSED, POOL_E_REFUSED },
    { ETIMEDOUT, POOL_E_TIMEOUT },      { EAGAIN, POOL_E_TIMEOUT },
    { ECONNRESET, POOL_E_CONNECT },     { ECONNABORTED, POOL_E_CONNECT },
    { EPIPE, POOL_E_CONNECT },          { ENETDOWN, POOL_E_CONNECT },
    { ENETRESET, POOL_E_CONNECT },      { ENETUNREACH, POOL_E_CONNECT },
    { EHOSTDOWN, POOL_E_CONNECT },      { EHOSTUNREACH, POOL_E_CONNECT },
    { EINVAL, POOL_E_CONNECT },         { EBADF, POOL_E_BROKEN },
    { ENOTSOCK, POOL_E_BROKEN },        { ENOTCONN, POOL_E_BROKEN },
    { ESHUTDOWN, POOL_E_BROKEN },       { EALREADY, POOL_E_WOULD_BLOCK },
    { EINPROGRESS, POOL_E_WOULD_BLOCK }, { ECANCELED, POOL_E_CANCELED },
    { EMSGSIZE, POOL_E_PROTOCOL },      { EBADMSG, POOL_E_PROTOCOL },
    { EPROTO, POOL_E_PROTOCOL },
};

/* What those of send, recv, poll and shutdown name, with tcp(7) and unix(7). */
static const struct expected in_use[] = {
    { EACCES, POOL_E_ACCESS },          { EPERM, POOL_E_ACCESS },
    { EAGAIN, POOL_E_WOULD_BLOCK },     { EALREADY, POOL_E_WOULD_BLOCK },
    { EINPROGRESS, POOL_E_WOULD_BLOCK }, { EBADF, POOL_E_BROKEN },
    { ENOTSOCK, POOL_E_BROKEN },        { ENOTCONN, POOL_E_BROKEN },
    { ESHUTDOWN, POOL_E_BROKEN },       { EPIPE, POOL_E_BROKEN },
    { ECONNRESET, POOL_E_BROKEN },      { ECONNABORTED, POOL_E_BROKEN },
    { ECONNREFUSED, POOL_E_BROKEN },    { ETIMEDOUT, POOL_E_BROKEN },
    { ENETDOWN, POOL_E_BROKEN },        { ENETRESET, POOL_E_BROKEN },
    { ENETUNREACH, POOL_E_BROKEN },     { EHOSTDOWN, POOL_E_BROKEN },
    { EHOSTUNREACH, POOL_E_BROKEN },    { EDESTADDRREQ, POOL_E_BROKEN },
    { EAFNOSUPPORT, POOL_E_BROKEN },    { EPFNOSUPPORT, POOL_E_BROKEN },
    { EPROTONOSUPPORT, POOL_E_BROKEN }, { ENAMETOOLONG, POOL_E_BROKEN },
    { ENODEV, POOL_E_BROKEN },          { ENXIO, POOL_E_BROKEN },
    { EMFILE, POOL_E_RESOURCE },        { ENFILE, POOL_E_RESOURCE },
    { ENOBUFS, POOL_E_RESOURCE },       { ENOMEM, POOL_E_RESOURCE },
    { ENOSPC, POOL_E_RESOURCE },        { EDQUOT, POOL_E_RESOURCE },
    { EADDRINUSE, POOL_E_RESOURCE },    { EADDRNOTAVAIL, POOL_E_RESOURCE },
    { ECANCELED, POOL_E_CANCELED },     { EMSGSIZE, POOL_E_PROTOCOL },
    { EBADMSG, POOL_E_PROTOCOL },       { EPROTO, POOL_E_PROTOCOL },
};

/* All errnos there are, and some that are not: as the table says, else POOL_E_SYSTEM. */
static void check(const struct expected *table, size_t count, enum pool_phase phase)
{
    for (int error = 1; error < 4096; error++) {
        enum pool_status wanted = POOL_E_SYSTEM, status = pl_status_of_errno(error, phase);

        for (size_t i = 0; i < count; i++) {
            if (table[i].error == error)
                wanted = table[i].status;
        }
        cr_expect_eq(status, wanted, "%s in phase %d: %s", strerrorname_np(error), phase,
                     pool_status_name(status));
    }
}

Test(failure, every_errno_of_connecting_has_its_status)
{
    check(while_connecting, PL_COUNT(while_connecting), POOL_PHASE_CONNECT);
    check(while_connecting, PL_COUNT(while_connecting), POOL_PHASE_RESOLVE);
}

Test(failure, every_errno_of_a_connection_in_use_has_its_status)
{
    check(in_use, PL_COUNT(in_use), POOL_PHASE_USE);
    check(in_use, PL_COUNT(in_use), POOL_PHASE_REPLY);
}

Test(failure, an_errno_that_nobody_knows_is_the_systems_and_none_is_success)
{
    static const int unknown[] = { 4095, 100000, INT32_MAX, -1, -EPIPE, INT32_MIN };

    for (int phase = POOL_PHASE_NONE; phase <= POOL_PHASE_REPLY; phase++) {
        cr_expect_eq(pl_status_of_errno(0, (enum pool_phase)phase), POOL_OK);
        for (size_t i = 0; i < PL_COUNT(unknown); i++)
            cr_expect_eq(pl_status_of_errno(unknown[i], (enum pool_phase)phase), POOL_E_SYSTEM);
    }
}

Test(failure, one_made_of_an_errno_keeps_it_as_its_cause)
{
    struct pl_failure failure = pl_failure_of_errno(EMFILE, POOL_PHASE_CONNECT);

    cr_expect_eq(failure.status, POOL_E_RESOURCE);
    cr_expect_eq(failure.phase, POOL_PHASE_CONNECT);
    cr_expect_eq(failure.outcome, POOL_NOT_SENT);
    cr_expect_eq(failure.cause, EMFILE);
}

Test(failure, packing_loses_nothing)
{
    for (int status = POOL_OK; status >= POOL_E_SYSTEM; status--) {
        struct pl_failure failure =
            pl_failure_make((enum pool_status)status, POOL_PHASE_REPLY, INT32_MIN - status);
        struct pl_failure again;

        failure.outcome = POOL_ANSWERED;
        failure.reason = PL_REASON_SOCKET;
        again = pl_failure_unpack(pl_failure_pack(failure));
        cr_expect_eq(again.status, status);
        cr_expect_eq(again.phase, POOL_PHASE_REPLY);
        cr_expect_eq(again.outcome, POOL_ANSWERED);
        cr_expect_eq(again.reason, PL_REASON_SOCKET);
        cr_expect_eq(again.cause, INT32_MIN - status);
    }
}

#define PEER "tcp://127.0.0.1:6379"

static struct pool_error told(const struct pl_failure *failure, const struct pl_spent *spent,
                              const char *address)
{
    struct pool_error error = POOL_ERROR_INIT;

    pl_failure_tell(failure, spent, address, &error);
    return error;
}

Test(failure, the_sentence_names_peer_cause_phase_outcome_and_times)
{
    struct pl_failure failure = pl_failure_of_errno(ECONNREFUSED, POOL_PHASE_CONNECT);
    struct pl_spent spent = { .ns = { [POOL_PHASE_WAIT] = 471 * PL_MS + 999999,
                                      [POOL_PHASE_CONNECT] = 27 * PL_MS } };
    struct pool_error error = told(&failure, &spent, PEER);

    cr_expect_eq(error.status, POOL_E_REFUSED);
    cr_expect_eq(error.phase, POOL_PHASE_CONNECT);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    cr_expect_eq(error.cause, ECONNREFUSED);
    cr_expect_eq(error.spent_ms[POOL_PHASE_WAIT], 471);
    cr_expect_eq(error.spent_ms[POOL_PHASE_CONNECT], 27);
    cr_expect_eq(error.spent_ms[POOL_PHASE_USE], 0);
    cr_expect_str_eq(error.text,
                     PEER ": the peer refused the connection (ECONNREFUSED) while "
                          "connecting, the request was not sent; 498 ms: wait 471, connect 27");
}

Test(failure, every_phase_that_took_time_is_named_and_no_other)
{
    static const char *const names[] = { "none", "wait", "resolve", "connect",
                                         "tls",  "setup", "use",    "reply" };

    for (int phase = POOL_PHASE_WAIT; phase <= POOL_PHASE_REPLY; phase++) {
        struct pl_failure failure = pl_failure_make(POOL_E_TIMEOUT, (enum pool_phase)phase, 0);
        struct pl_spent spent = { .ns = { 0 } };
        struct pool_error error;
        char wanted[64];

        spent.ns[phase] = 12345 * PL_MS;
        error = told(&failure, &spent, PEER);
        snprintf(wanted, sizeof(wanted), "; 12345 ms: %s 12345", names[phase]);
        cr_expect_str_eq(strchr(error.text, ';'), wanted);
        cr_expect_not_null(strstr(error.text, " while "));
    }
}

Test(failure, all_phases_at_their_longest_and_the_longest_address_fit)
{
    static char address[4096];
    struct pl_failure failure = pl_failure_of_errno(EPROTONOSUPPORT, POOL_PHASE_REPLY);
    struct pl_spent spent;
    struct pool_error error;

    memset(address, 'a', sizeof(address) - 1);
    memset(&spent, 0xff, sizeof(spent));
    failure.outcome = POOL_MAYBE_SENT;
    error = told(&failure, &spent, address);
    cr_expect_not_null(memchr(error.text, '\0', sizeof(error.text)));
    cr_expect_eq(strncmp(error.text, address, 64), 0, "%s", error.text);
    cr_expect_not_null(strstr(error.text, pool_status_text(POOL_E_BROKEN)));
}

Test(failure, what_the_program_answered_is_told_as_a_number)
{
    struct pl_failure failure = pl_failure_make(POOL_E_USER, POOL_PHASE_SETUP, EPIPE);
    struct pool_error error = told(&failure, NULL, PEER);

    cr_expect_not_null(strstr(error.text, " (32) "));
    cr_expect_null(strstr(error.text, "EPIPE"));
    cr_expect_eq(error.cause, EPIPE);
}

Test(failure, a_reason_brings_its_status_and_its_words)
{
    struct pl_failure failure = pl_failure_because(PL_REASON_HOOK, POOL_PHASE_SETUP, 42);

    cr_expect_eq(failure.status, POOL_E_USER);
    cr_expect_str_eq(told(&failure, NULL, PEER).text,
                     PEER ": on_new_connection answered 42, the request was not sent; 0 ms");
}

Test(failure, a_reason_is_not_told_once_the_status_is_another_one)
{
    struct pl_failure failure = pl_failure_because(PL_REASON_QUEUE, POOL_PHASE_WAIT, 0);

    failure.status = POOL_E_CANCELED;
    cr_expect_eq(strncmp(told(&failure, NULL, PEER).text, PEER ": canceled while waiting", 44), 0);
}

Test(failure, every_reason_has_a_status_and_fits_into_a_sentence)
{
    for (int reason = PL_REASON_DEADLINE; reason <= PL_REASON_RESOLVED; reason++) {
        struct pl_failure failure =
            pl_failure_because((enum pl_reason)reason, POOL_PHASE_CONNECT, INT32_MIN);
        struct pl_spent spent = { .ns = { [POOL_PHASE_CONNECT] = 12345 * PL_MS } };

        cr_expect_lt(failure.status, POOL_OK, "%d", reason);
        cr_expect_not_null(strstr(told(&failure, &spent, PEER).text, "connect 12345"), "%d",
                           reason);
    }
}

Test(failure, a_cause_that_is_no_errno_has_no_made_up_name)
{
    struct pl_failure failure = pl_failure_of_errno(100000, POOL_PHASE_USE);

    cr_expect_not_null(strstr(told(&failure, NULL, PEER).text, "unknown errno"));
}

Test(failure, without_an_address_it_still_is_a_sentence)
{
    struct pl_failure failure = pl_failure_make(POOL_E_ARGUMENT, POOL_PHASE_NONE, 0);

    cr_expect_str_eq(told(&failure, NULL, NULL).text, told(&failure, NULL, "").text);
    cr_expect_eq(strncmp(told(&failure, NULL, NULL).text, "pool: ", 6), 0);
    pl_failure_tell(&failure, NULL, PEER, NULL);
}

Test(failure, the_address_is_text_and_no_format)
{
    struct pl_failure failure = pl_failure_make(POOL_E_REFUSED, POOL_PHASE_CONNECT, 0);

    cr_expect_eq(strncmp(told(&failure, NULL, "unix:///%s%n").text, "unix:///%s%n: ", 14), 0);
}

Test(failure, no_byte_beyond_the_size_of_the_struct_is_written)
{
    struct pl_failure failure = pl_failure_of_errno(EPIPE, POOL_PHASE_USE);
    struct pl_spent spent = { .ns = { [POOL_PHASE_USE] = 5 * PL_MS } };
    struct pool_error whole = told(&failure, &spent, PEER);

    for (size_t size = 0; size <= sizeof(whole) + 8; size++) {
        size_t filled = size && size < sizeof(whole) ? size : sizeof(whole);
        struct pool_error error;

        memset(&error, 0x5a, sizeof(error));
        error.size = size;
        pl_failure_tell(&failure, &spent, PEER, &error);
        cr_assert_eq(error.size, size);
        for (size_t i = sizeof(size); i < sizeof(error); i++) {
            unsigned char wanted = i < filled ? ((unsigned char *)&whole)[i] : 0x5a;

            if (i != filled - 1 || i < offsetof(struct pool_error, text))
                cr_assert_eq(((unsigned char *)&error)[i], wanted, "size %zu byte %zu", size, i);
        }
        if (filled > offsetof(struct pool_error, text))
            cr_assert_not_null(
                memchr(error.text, '\0', filled - offsetof(struct pool_error, text)),
                "a text that is cut ends with a zero byte: size %zu", size);
    }
}

Test(failure, every_status_has_a_name_and_a_text)
{
    for (int status = POOL_OK; status >= POOL_E_SYSTEM; status--) {
        cr_expect_eq(strncmp(pool_status_name((enum pool_status)status), "POOL_", 5), 0);
        cr_expect(*pool_status_text((enum pool_status)status));
        cr_expect_str_neq(pool_status_name((enum pool_status)status), "POOL_E_UNKNOWN");
    }
    cr_expect_str_eq(pool_status_name(POOL_E_SYSTEM), "POOL_E_SYSTEM");
    cr_expect_str_eq(pool_status_name(POOL_E_ADDRESS), "POOL_E_ADDRESS");
    cr_expect_str_eq(pool_status_name((enum pool_status)(POOL_E_SYSTEM - 1)), "POOL_E_UNKNOWN");
    cr_expect_str_eq(pool_status_name((enum pool_status)1), "POOL_E_UNKNOWN");
    cr_expect_str_eq(pool_status_name((enum pool_status)INT32_MIN), "POOL_E_UNKNOWN");
    cr_expect_str_eq(pool_status_text((enum pool_status)1), "unknown status");
}

/* ---- TLS */

static const char *sentence_of(const struct pl_failure *failure)
{
    static struct pool_error error;

    error = (struct pool_error)POOL_ERROR_INIT;
    pl_failure_tell(failure, NULL, "tls://db:1", &error);
    return error.text;
}

Test(failure, a_refused_certificate_is_told_with_its_fault_and_whose_it_is)
{
    struct pl_failure failure =
        pl_failure_because(PL_REASON_CERTIFICATE, POOL_PHASE_TLS, X509_V_ERR_CERT_HAS_EXPIRED);

    cr_expect_eq(failure.status, POOL_E_TLS);
    cr_expect_str_eq(
        sentence_of(&failure),
        "tls://db:1: the peer's certificate was refused: certificate has expired while "
        "securing, the request was not sent; 0 ms");
    failure.subject = pl_subject_note("CN=db") & 0x3ff;
    failure = pl_failure_unpack(pl_failure_pack(failure));
    cr_expect_not_null(strstr(sentence_of(&failure), "certificate has expired (CN=db) while"));
    for (unsigned i = 0; i < 20; i++)
        pl_subject_note("CN=another");
    cr_expect_null(strstr(sentence_of(&failure), "CN="), "only the latest are kept");
}

Test(failure, tls_failures_have_words_whatever_their_number)
{
    static const enum pl_reason reasons[] = { PL_REASON_CERTIFICATE, PL_REASON_ALERT,
                                              PL_REASON_HANDSHAKE, PL_REASON_NO_HANDSHAKE,
                                              PL_REASON_CUT };

    for (size_t i = 0; i < PL_COUNT(reasons); i++) {
        for (int cause = -1; cause < 300; cause++) {
            struct pl_failure failure = pl_failure_because(reasons[i], POOL_PHASE_TLS, cause);

            cr_expect(strlen(sentence_of(&failure)) > 60);
        }
    }
}

Test(failure, a_connection_that_breaks_in_its_handshake_never_was_one)
{
    cr_expect_eq(pl_status_of_errno(ECONNRESET, POOL_PHASE_TLS), POOL_E_CONNECT);
    cr_expect_eq(pl_status_of_errno(EPIPE, POOL_PHASE_TLS), POOL_E_CONNECT);
    cr_expect_eq(pl_status_of_errno(ETIMEDOUT, POOL_PHASE_TLS), POOL_E_TIMEOUT);
}
