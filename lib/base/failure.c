/* failure.c: from errno to status, and from a failure to a sentence. */
#include "base/failure.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "base/subject.h"

#define ADDRESS_MAX 80 /* bytes of an address that a sentence repeats */

static const char *const phase_names[] = {
    "", "waiting", "resolving", "connecting", "securing", "setting up", "in use",
    "awaiting the reply",
};
static const char *const spent_names[] = {
    "none", "wait", "resolve", "connect", "tls", "setup", "use", "reply",
};
static const char *const outcome_texts[] = {
    "the request was not sent",
    "the peer may have seen the request",
    "the peer had answered",
    "the request was sent, but the peer's system acknowledged nothing of it",
    "the peer's system acknowledged the request, or a part of it",
};

/* What each reason stands for, and says; a text of NULL: what the status says. */
static const struct {
    enum pool_status status;
    bool tells_cause, tells_phase;
    const char *text;
} reasons[] = {
    [PL_REASON_NONE] = { POOL_OK, true, true, NULL },
    [PL_REASON_DEADLINE] = { POOL_E_TIMEOUT, false, true, NULL },
    [PL_REASON_QUEUE] = { POOL_E_TIMEOUT, false, false,
                          "out of time while waiting for a free connection" },
    [PL_REASON_PAUSE] = { POOL_E_TIMEOUT, true, false,
                          "out of time while the address backs off after a failure" },
    [PL_REASON_BEHIND] = { POOL_E_TIMEOUT, false, false,
                           "out of time behind others that the peer does not read" },
    [PL_REASON_OVER] = { POOL_E_CLOSED, false, false,
                         "the peer ended the connection with its answer to an earlier request" },
    [PL_REASON_OVERDUE] = { POOL_E_BROKEN, false, false,
                            "the connection was given up: an earlier request was never answered" },
    [PL_REASON_CAP] = { POOL_E_RESOURCE, false, false,
                        "no room: max_connections is reached and nothing is idle" },
    [PL_REASON_BIND] = { POOL_E_ADDRESS, true, true, "bind= is no address of this machine" },
    [PL_REASON_ZONE] = { POOL_E_ADDRESS, true, true,
                         "a link-local address needs a zone, as in [fe80::1%eth0]" },
    [PL_REASON_PATH] = { POOL_E_REFUSED, true, true, "no socket stands at this path" },
    [PL_REASON_NO_HOST] = { POOL_E_RESOLVE, false, false, "no such host" },
    [PL_REASON_NO_ADDRESS] = { POOL_E_RESOLVE, false, false, "the host has no address" },
    [PL_REASON_DNS_FAILED] = { POOL_E_RESOLVE, false, false, "the DNS server failed" },
    [PL_REASON_DNS_SILENT] = { POOL_E_RESOLVE, false, false, "no DNS server answered in time" },
    [PL_REASON_DNS_UNREACHED] = { POOL_E_RESOLVE, false, false,
                                  "no DNS server could be reached, or would answer" },
    [PL_REASON_DNS_GARBLED] = { POOL_E_RESOLVE, false, false, "the DNS answer makes no sense" },
    [PL_REASON_LINE] = { POOL_E_PROTOCOL, false, false, "no delimiter came within max_line bytes" },
    [PL_REASON_CERTIFICATE] = { POOL_E_TLS, true, true, "the peer's certificate was refused" },
    [PL_REASON_ALERT] = { POOL_E_TLS, true, true, "the peer refused" },
    [PL_REASON_HANDSHAKE] = { POOL_E_TLS, true, true, "TLS failed" },
    [PL_REASON_NO_HANDSHAKE] = { POOL_E_TLS, false, true,
                                 "the peer ended the connection in the handshake" },
    [PL_REASON_CLEAR] = { POOL_E_TLS, false, false,
                          "starttls=1 asks for TLS, and neither hook nor `prepare` began it" },
    [PL_REASON_EARLY] = { POOL_E_TLS, false, false,
                          "the peer sent bytes in the clear before TLS began" },
    [PL_REASON_CUT] = { POOL_E_BROKEN, false, true,
                        "the peer's stream was cut off: no close_notify came" },
    [PL_REASON_USE] = { POOL_E_USER, true, false, "`use` answered" },
    [PL_REASON_PREPARE] = { POOL_E_USER, true, false, "`prepare` answered" },
    [PL_REASON_UNCLEAN] = { POOL_E_USER, false, false,
                            "`prepare` answered 0, but the connection was not clean" },
    [PL_REASON_HOOK] = { POOL_E_USER, true, false, "on_new_connection answered" },
    [PL_REASON_DRAINED] = { POOL_E_USER, false, false,
                            "on_new_connection drained the connection that it set up" },
    [PL_REASON_SOCKET] = { POOL_E_USER, true, false, "on_socket answered" },
    [PL_REASON_RESOLVED] = { POOL_E_USER, true, false, "on_resolved answered" },
};

static const struct {
    int error;
    enum pool_status status;
} classes[] = {
    { EACCES, POOL_E_ACCESS },          { EPERM, POOL_E_ACCESS },
    { ECONNREFUSED, POOL_E_REFUSED },   { ETIMEDOUT, POOL_E_TIMEOUT },
    { EMFILE, POOL_E_RESOURCE },        { ENFILE, POOL_E_RESOURCE },
    { ENOBUFS, POOL_E_RESOURCE },       { EADDRNOTAVAIL, POOL_E_RESOURCE },
    { EADDRINUSE, POOL_E_RESOURCE },    { ENOMEM, POOL_E_RESOURCE },
    { ENOSPC, POOL_E_RESOURCE },        { EDQUOT, POOL_E_RESOURCE },
    { EPIPE, POOL_E_BROKEN },           { ECONNRESET, POOL_E_BROKEN },
    { ECONNABORTED, POOL_E_BROKEN },    { ENOTCONN, POOL_E_BROKEN },
    { ESHUTDOWN, POOL_E_BROKEN },       { EBADF, POOL_E_BROKEN },
    { ENOTSOCK, POOL_E_BROKEN },        { ENETRESET, POOL_E_BROKEN },
    { ENETDOWN, POOL_E_BROKEN },        { ENETUNREACH, POOL_E_BROKEN },
    { EHOSTDOWN, POOL_E_BROKEN },       { EHOSTUNREACH, POOL_E_BROKEN },
    { EAFNOSUPPORT, POOL_E_ADDRESS },   { EPFNOSUPPORT, POOL_E_ADDRESS },
    { EPROTONOSUPPORT, POOL_E_ADDRESS }, { EDESTADDRREQ, POOL_E_ADDRESS },
    { ENAMETOOLONG, POOL_E_ADDRESS },   { ENODEV, POOL_E_ADDRESS },
    { ENXIO, POOL_E_ADDRESS },          { EAGAIN, POOL_E_WOULD_BLOCK },
    { EINPROGRESS, POOL_E_WOULD_BLOCK }, { EALREADY, POOL_E_WOULD_BLOCK },
    { ECANCELED, POOL_E_CANCELED },     { EMSGSIZE, POOL_E_PROTOCOL },
    { EBADMSG, POOL_E_PROTOCOL },       { EPROTO, POOL_E_PROTOCOL },
};

/* While connecting, a connection that breaks never was one. */
static enum pool_status status_while_connecting(int error, enum pool_status status)
{
    switch (error) {
    case ENOENT: /* a unix socket that is not there is a peer that is not there */
        return POOL_E_REFUSED;
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case ENETRESET:
    case EINVAL:                        /* a blackhole route */
        return POOL_E_CONNECT;
    case EAGAIN:                        /* a unix listener whose backlog is full, to the end */
        return POOL_E_TIMEOUT;
    case EPROTOTYPE:
    case ENOTDIR:
    case ELOOP:
        return POOL_E_ADDRESS;
    default:
        return status;
    }
}

/* In use, whatever says that there is no such connection, or none any more, says that it broke. */
static enum pool_status status_in_use(enum pool_status status)
{
    switch (status) {
    case POOL_E_TIMEOUT: /* the kernel's own ETIMEDOUT: the peer fell silent for too long */
    case POOL_E_REFUSED:
    case POOL_E_ADDRESS:
        return POOL_E_BROKEN;
    default:
        return status;
    }
}

enum pool_status pl_status_of_errno(int error, enum pool_phase phase)
{
    enum pool_status status = error ? POOL_E_SYSTEM : POOL_OK;

    for (size_t i = 0; i < PL_COUNT(classes); i++) {
        if (classes[i].error == error)
            status = classes[i].status;
    }
    if (phase == POOL_PHASE_CONNECT || phase == POOL_PHASE_RESOLVE || phase == POOL_PHASE_TLS)
        return status_while_connecting(error, status);
    return phase >= POOL_PHASE_USE ? status_in_use(status) : status;
}

struct pl_failure pl_failure_of_errno(int error, enum pool_phase phase)
{
    struct pl_failure failure = pl_failure_make(pl_status_of_errno(error, phase), phase, error);

    if (error == ENOENT && failure.status == POOL_E_REFUSED)
        failure.reason = PL_REASON_PATH;
    return failure;
}

struct pl_failure pl_failure_make(enum pool_status status, enum pool_phase phase, int cause)
{
    return (struct pl_failure){
        .status = (int8_t)status, .phase = (unsigned)phase & 7, .cause = cause
    };
}

struct pl_failure pl_failure_because(enum pl_reason reason, enum pool_phase phase, int cause)
{
    struct pl_failure failure = pl_failure_make(reasons[reason].status, phase, cause);

    failure.reason = (uint8_t)reason;
    return failure;
}

/* "500 ms: wait 471, connect 27", only what took any time. */
static void write_spent(const struct pool_error *error, char *text, size_t size)
{
    uint64_t total = 0;
    size_t length;

    for (size_t i = 0; i < PL_COUNT(spent_names); i++)
        total += error->spent_ms[i];
    length = (size_t)snprintf(text, size, "%llu ms", (unsigned long long)total);
    for (size_t i = 0; i < PL_COUNT(spent_names) && total; i++) {
        if (error->spent_ms[i] && length < size)
            length +=
                (size_t)snprintf(text + length, size - length, "%s %s %u",
                                 strchr(text, ':') ? "," : ":", spent_names[i], error->spent_ms[i]);
    }
}

/* Whoever changes the status of a failure need not think of its reason. */
static enum pl_reason reason_of(const struct pl_failure *failure)
{
    bool is_late = failure->reason == PL_REASON_DEADLINE &&
                   failure->status == POOL_E_TIMEOUT_IN_TRANSFER;

    return is_late || failure->status == reasons[failure->reason].status
               ? (enum pl_reason)failure->reason
               : PL_REASON_NONE;
}

/* OpenSSL's words for a number of its own. False: it is an errno, or none. */
static bool write_tls_cause(const struct pl_failure *failure, char *text, size_t size)
{
    char subject[PL_SUBJECT] = "";
    const char *words;

    switch (reason_of(failure)) {
    case PL_REASON_CERTIFICATE:
        words = X509_verify_cert_error_string(failure->cause);
        pl_subject_find(failure->subject, subject);
        break;
    case PL_REASON_ALERT:
        words = ERR_reason_error_string(
            ERR_PACK(ERR_LIB_SSL, 0, SSL_AD_REASON_OFFSET + failure->cause));
        break;
    case PL_REASON_HANDSHAKE:
        words = ERR_reason_error_string((unsigned)failure->cause);
        break;
    default:
        return false;
    }
    snprintf(text, size, ": %.70s%s%s%s", words ? words : "for an unknown reason",
             *subject ? " (" : "", subject, *subject ? ")" : "");
    return true;
}

static void write_cause(const struct pl_failure *failure, char *text, size_t size)
{
    enum pl_reason reason = reason_of(failure);
    const char *name;

    *text = '\0';
    if (write_tls_cause(failure, text, size))
        return;
    if (!reasons[reason].tells_cause || (!failure->cause && !reason))
        return;
    if (failure->status == POOL_E_USER) {
        snprintf(text, size, reason ? " %d" : " (%d)", failure->cause);
        return;
    }
    name = strerrorname_np(failure->cause);
    snprintf(text, size, " (%s)", name ? name : "unknown errno");
}

static const char *words_for(const struct pl_failure *failure)
{
    if (failure->status == POOL_E_FULL && failure->cause == EDEADLK)
        return "this thread itself holds every connection that could serve the call";
    return pool_status_text((enum pool_status)failure->status);
}

static void write_sentence(const struct pl_failure *failure, const char *address,
                           struct pool_error *error)
{
    enum pl_reason reason = reason_of(failure);
    const char *what = reasons[reason].text, *phase = phase_names[failure->phase];
    char spent[128], cause[PL_SUBJECT + 80], text[512] = "";
    bool is_cut;

    if (!what)
        what = words_for(failure);
    if (!reasons[reason].tells_phase)
        phase = "";
    if (!address || !*address)
        address = "pool";
    is_cut = strnlen(address, ADDRESS_MAX + 1) > ADDRESS_MAX;
    write_spent(error, spent, sizeof(spent));
    write_cause(failure, cause, sizeof(cause));
    snprintf(text, sizeof(text), "%.*s%s: %s%s%s%s, %s; %s", ADDRESS_MAX, address,
             is_cut ? "..." : "", what, cause, *phase ? " while " : "", phase,
             outcome_texts[failure->outcome], spent);
    text[sizeof(error->text) - 1] = '\0';
    memcpy(error->text, text, sizeof(error->text));
}

/* The sentence ends with it, unless it is cut before. */
void pl_failure_retell(struct pool_error *told, const struct pl_spent *spent)
{
    char words[128], *old = strrchr(told->text, ';');

    for (size_t i = 0; i < PL_COUNT(told->spent_ms); i++)
        told->spent_ms[i] = (uint32_t)(spent->ns[i] / PL_MS);
    write_spent(told, words, sizeof(words));
    if (old)
        snprintf(old, sizeof(told->text) - (size_t)(old - told->text), "; %s", words);
}

void pl_failure_copy(const struct pool_error *told, struct pool_error *error)
{
    struct pool_error copy = *told;
    size_t size;

    if (!error)
        return;
    size = error->size ? error->size : sizeof(copy);
    copy.size = error->size;
    if (size > sizeof(copy))
        size = sizeof(copy);
    if (size > offsetof(struct pool_error, text))
        ((char *)&copy)[size - 1] = '\0';
    memcpy(error, &copy, size);
}

void pl_failure_tell(const struct pl_failure *failure, const struct pl_spent *spent,
                     const char *address, struct pool_error *error)
{
    struct pool_error told = { .size = sizeof(told) };

    if (!error)
        return;
    told.status = (enum pool_status)failure->status;
    told.phase = (enum pool_phase)failure->phase;
    told.outcome = failure->outcome > POOL_ANSWERED ? POOL_MAYBE_SENT
                                                    : (enum pool_outcome)failure->outcome;
    told.cause = failure->cause;
    for (size_t i = 0; spent && i < PL_COUNT(told.spent_ms); i++)
        told.spent_ms[i] = (uint32_t)(spent->ns[i] / PL_MS);
    if (failure->status)
        write_sentence(failure, address, &told);
    pl_failure_copy(&told, error);
}
