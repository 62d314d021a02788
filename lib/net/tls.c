/* tls.c: see tls.h. SSL_get_error() believes the thread's queue of errors, so that is emptied
 * before each call, and after it: nothing of ours is left to the program's own use of OpenSSL.
 *
 * A record that the socket took only in part cannot be taken back, and OpenSSL wants the same bytes
 * again. So it is kept here, and its last byte is reported as unsent: the caller comes again with
 * that byte in any case, and finds out that it is done.
 */
#include "net/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "base/assert.h"
#include "base/buffer.h"
#include "base/os.h"
#include "net/address.h"
#include "net/tls_bio.h"
#include "net/tls_fault.h"
#include "net/tls_gate.h"
#include "net/tls_peer.h"
#include "net/tls_record.h"

struct pl_tls {
    pthread_mutex_t lock; /* one call at a time; all below is under it */
    SSL *ssl;
    struct pl_tls_settings *settings;
    struct pl_tls_sessions *sessions; /* NULL: none are kept */
    struct pl_tls_wire wire;
    struct pl_failure fault; /* reason NONE: none so far; else nothing goes on */
    SSL_SESSION *fresh; /* came before the peer was known to be the right one */
    struct {
        char *data;
        size_t size; /* 0: nothing is kept */
    } kept;
    struct pl_buffer secrets; /* lines for key_log, each with a zero byte */
    char *alpn; /* agreed on */
    bool has_begun, is_ready, has_said_goodbye;
    bool is_drained; /* the last look found nothing; one that had to send first looked at nothing */
    bool has_own_alpn; /* behind the name, as a struct pl_tls_alpn */
    char name[PL_TLS_NAME_MOST + 1];
};

/* ---- around each call */

#define OVER (-ESHUTDOWN) /* the process exits */

struct visit {
    int saved; /* errno of the program */
};

static bool enter(struct pl_tls *tls, int fd, struct visit *visit)
{
    visit->saved = errno;
    if (!pl_tls_gate_enter())
        return false;
    pthread_mutex_lock(&tls->lock);
    tls->wire = (struct pl_tls_wire){ .fd = fd };
    ERR_clear_error();
    return true;
}

/* The program's function gets its lines when nothing is locked any more. */
static void tell_secrets(const struct pl_tls_settings *settings, struct pl_buffer *secrets)
{
    const char *line = secrets->data + secrets->start;

    for (const char *end = secrets->data + secrets->end; line < end; line += strlen(line) + 1)
        settings->key_log(line, settings->user);
    pl_buffer_fini(secrets);
}

static void leave(struct pl_tls *tls, struct visit *visit)
{
    struct pl_buffer secrets = tls->secrets;

    tls->secrets = (struct pl_buffer){ 0 };
    ERR_clear_error();
    pthread_mutex_unlock(&tls->lock);
    pl_tls_gate_leave();
    if (secrets.data)
        tell_secrets(tls->settings, &secrets);
    errno = visit->saved;
}

/* ---- what went wrong */

static int fail(struct pl_tls *tls, struct pl_failure fault)
{
    uint16_t subject = tls->fault.subject;

    if (fault.reason == PL_REASON_CERTIFICATE && !subject)
        subject = pl_tls_subject_of(tls->ssl, fault.cause, tls->settings->name);
    tls->fault = fault;
    tls->fault.subject = subject & 0x3ff;
    return -pl_tls_fault_errno(&fault);
}

static int fail_because(struct pl_tls *tls, enum pl_reason reason, int cause)
{
    return fail(tls, pl_failure_because(reason, POOL_PHASE_TLS, cause));
}

/* What a call of OpenSSL means that did not do what it was asked for; 0: the peer's close_notify. A
 * failure of the socket is no fault of TLS: the other direction may still work. */
static int settle(struct pl_tls *tls, int result, short *wants)
{
    int error = SSL_get_error(tls->ssl, result);

    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        /* It says so as well when it had no memory, not even for the error. */
        if (!tls->wire.wants)
            return fail(tls, pl_tls_fault_of_memory());
        *wants = tls->wire.wants;
        return -EAGAIN;
    }
    if (error == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (tls->wire.error)
        return -tls->wire.error;
    return fail(tls, pl_tls_fault(tls->ssl, tls->is_ready));
}

struct pl_failure pl_tls_failure(struct pl_tls *tls, int error, enum pool_phase phase)
{
    struct pl_failure failure;

    pthread_mutex_lock(&tls->lock);
    failure = tls->fault;
    pthread_mutex_unlock(&tls->lock);
    if (!failure.reason || error != pl_tls_fault_errno(&failure))
        return pl_failure_of_errno(error, phase);
    failure.phase = (unsigned)phase & 7;
    return failure;
}

/* ---- birth and end */

static const struct pl_tls_alpn *alpn_of(const struct pl_tls *tls)
{
    return tls->has_own_alpn ? (const struct pl_tls_alpn *)(const void *)(tls + 1)
                             : &tls->settings->alpn;
}

static bool open_ssl(struct pl_tls *tls)
{
    const struct pl_tls_alpn *alpn = alpn_of(tls);
    BIO *bio;

    tls->ssl = SSL_new(tls->settings->context);
    bio = tls->ssl ? pl_tls_bio(tls->settings->bio_method, &tls->wire) : NULL;
    if (!bio)
        return false;
    SSL_set_bio(tls->ssl, bio, bio);
    SSL_set_connect_state(tls->ssl);
    if (!pl_tls_expect(tls->ssl, tls->name))
        return false;
    if (alpn->size && SSL_set_alpn_protos(tls->ssl, alpn->wire, alpn->size))
        return false; /* this one answers 0 when it worked */
    return SSL_set_app_data(tls->ssl, tls) == 1;
}

/* Names end without a dot there, whatever the program writes. */
static bool set_name(struct pl_tls *tls, const char *name, size_t size)
{
    if (size > 1 && name[size - 1] == '.')
        size--;
    if (!pl_tls_is_name(name, size))
        return false;
    memcpy(tls->name, name, size);
    return true;
}

static bool set_wish(struct pl_tls *tls, const struct pl_tls_wish *wish)
{
    const char *name = tls->settings->name;

    tls->has_own_alpn = wish->alpn.size > 0;
    if (tls->has_own_alpn && !pl_tls_alpn_parse(wish->alpn.data, wish->alpn.size,
                                                (struct pl_tls_alpn *)(void *)(tls + 1)))
        return false;
    return name ? set_name(tls, name, strlen(name))
                : set_name(tls, wish->name.data, wish->name.size);
}

static int create(struct pl_tls_settings *settings, struct pl_tls_sessions *sessions,
                  const struct pl_tls_wish *wish, struct pl_tls **made)
{
    size_t more = wish->alpn.size ? sizeof(struct pl_tls_alpn) : 0;
    struct pl_tls *tls = pl_zalloc(sizeof(*tls) + more);
    int saved = errno, error = 0;

    if (!tls)
        return -ENOMEM;
    pthread_mutex_init(&tls->lock, NULL);
    tls->settings = pl_tls_settings_keep(settings);
    tls->sessions = pl_tls_sessions_keep(sessions);
    if (!set_wish(tls, wish))
        error = -EINVAL;
    else if (!open_ssl(tls))
        error = -ENOMEM;
    ERR_clear_error();
    errno = saved;
    if (error)
        pl_tls_free(tls);
    else
        *made = tls;
    return error;
}

int pl_tls_create(struct pl_tls_settings *settings, struct pl_tls_sessions *sessions,
                  const struct pl_tls_wish *wish, struct pl_tls **made)
{
    int error;

    *made = NULL;
    if (!pl_tls_gate_enter())
        return OVER;
    error = create(settings, sessions, wish, made);
    pl_tls_gate_leave();
    return error;
}

int pl_tls_create_for(struct pl_tls_settings *settings, struct pl_tls_sessions *sessions,
                      const struct pool_address *address, struct pl_tls **tls)
{
    struct pl_tls_wish wish = { .name = address->sni.data ? address->sni : address->host,
                                .alpn = address->alpn };

    return pl_tls_create(settings, sessions, &wish, tls);
}

static void drop_kept(struct pl_tls *tls)
{
    if (tls->kept.data)
        OPENSSL_cleanse(tls->kept.data, tls->kept.size);
    pl_os->free(tls->kept.data);
    tls->kept.data = NULL;
    tls->kept.size = 0;
}

void pl_tls_free(struct pl_tls *tls)
{
    int saved = errno;

    if (!tls || !pl_tls_gate_enter())
        return;
    /* Without it OpenSSL takes a session for bad whose connection ended without farewell. */
    if (tls->ssl && tls->is_ready && !tls->fault.reason)
        SSL_set_shutdown(tls->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(tls->ssl);
    SSL_SESSION_free(tls->fresh);
    drop_kept(tls);
    pl_buffer_fini(&tls->secrets);
    pl_os->free(tls->alpn);
    pl_tls_sessions_release(tls->sessions);
    pl_tls_settings_release(tls->settings);
    pl_tls_gate_leave();
    pthread_mutex_destroy(&tls->lock);
    pl_os->free(tls);
    errno = saved;
}

/* ---- handshake */

static void begin(struct pl_tls *tls)
{
    SSL_SESSION *session = NULL;

    tls->has_begun = true;
    if (tls->sessions)
        session = pl_tls_sessions_take(tls->sessions, tls->settings->generation);
    if (session)
        SSL_set_session(tls->ssl, session);
    SSL_SESSION_free(session);
}

/* The peer may answer only with what was offered. */
static bool is_offered(const struct pl_tls_alpn *offered, const unsigned char *chosen,
                       unsigned size)
{
    for (unsigned at = 0; at < offered->size; at += offered->wire[at] + 1u) {
        if (offered->wire[at] == size && memcmp(offered->wire + at + 1, chosen, size) == 0)
            return true;
    }
    return false;
}

static int take_alpn(struct pl_tls *tls)
{
    const unsigned char *chosen;
    unsigned size;

    SSL_get0_alpn_selected(tls->ssl, &chosen, &size);
    if (!size)
        return 0;
    if (!is_offered(alpn_of(tls), chosen, size))
        return fail_because(tls, PL_REASON_ALERT, SSL_AD_NO_APPLICATION_PROTOCOL);
    tls->alpn = pl_zalloc(size + 1);
    if (!tls->alpn)
        return -ENOMEM;
    memcpy(tls->alpn, chosen, size);
    return 0;
}

/* OpenSSL has verified the peer unless it continued a session; then nobody has. */
static int accept_peer(struct pl_tls *tls)
{
    int verdict = tls->settings->is_insecure ? X509_V_OK : pl_tls_judge(tls->ssl, tls->name), error;

    if (verdict != X509_V_OK)
        return fail_because(tls, PL_REASON_CERTIFICATE, verdict);
    error = take_alpn(tls);
    if (error)
        return error;
    tls->is_ready = true;
    if (tls->fresh)
        pl_tls_sessions_put(tls->sessions, tls->fresh, tls->settings->generation);
    tls->fresh = NULL;
    return 0;
}

static int shake_hands(struct pl_tls *tls, short *wants)
{
    int result, error;

    if (tls->fault.reason)
        return -pl_tls_fault_errno(&tls->fault);
    if (tls->is_ready)
        return 0;
    if (!tls->has_begun)
        begin(tls);
    result = SSL_do_handshake(tls->ssl);
    if (result == 1)
        return accept_peer(tls);
    error = settle(tls, result, wants);
    return error ? error : fail_because(tls, PL_REASON_NO_HANDSHAKE, 0);
}

int pl_tls_handshake(struct pl_tls *tls, int fd, short *wants)
{
    struct visit visit;
    int result;

    *wants = 0;
    if (!enter(tls, fd, &visit))
        return OVER;
    result = shake_hands(tls, wants);
    leave(tls, &visit);
    return result;
}

/* ---- receiving */

static int refusal(const struct pl_tls *tls)
{
    if (tls->fault.reason)
        return -pl_tls_fault_errno(&tls->fault);
    return tls->is_ready ? 0 : -ENOTCONN;
}

static ssize_t receive(struct pl_tls *tls, struct iovec into, short *wants)
{
    size_t got = 0;
    int error = refusal(tls), result;

    if (error)
        return error;
    result = SSL_read_ex(tls->ssl, into.iov_base, into.iov_len, &got);
    tls->is_drained = result != 1 && tls->wire.wants != POLLOUT;
    return result == 1 ? (ssize_t)got : settle(tls, result, wants);
}

ssize_t pl_tls_recv(struct pl_tls *tls, int fd, struct iovec into, short *wants)
{
    struct visit visit;
    ssize_t result;

    *wants = 0;
    if (!enter(tls, fd, &visit))
        return OVER;
    result = receive(tls, into, wants);
    leave(tls, &visit);
    return result;
}

bool pl_tls_pending(struct pl_tls *tls)
{
    bool is_pending;

    pthread_mutex_lock(&tls->lock);
    is_pending = !tls->is_drained && tls->is_ready && SSL_has_pending(tls->ssl);
    pthread_mutex_unlock(&tls->lock);
    return is_pending;
}

/* ---- sending */

/* All bytes but the last are done with as far as the caller goes. */
static ssize_t keep(struct pl_tls *tls, struct pool_bytes bytes, short *wants)
{
    tls->kept.data = pl_os->malloc(bytes.size);
    if (!tls->kept.data)
        return fail(tls, pl_tls_fault_of_memory());
    memcpy(tls->kept.data, bytes.data, bytes.size);
    tls->kept.size = bytes.size;
    if (bytes.size == 1)
        return -EAGAIN;
    *wants = 0;
    return (ssize_t)bytes.size - 1;
}

/* Answers 1 when all of the kept record is with the socket: its last byte is sent. */
static ssize_t send_kept(struct pl_tls *tls, struct pool_bytes next, short *wants)
{
    size_t written = 0;
    int result;

    if (next.size && *(const char *)next.data != tls->kept.data[tls->kept.size - 1])
        return -EINVAL;
    result = SSL_write_ex(tls->ssl, tls->kept.data, tls->kept.size, &written);
    if (result != 1) {
        result = settle(tls, result, wants);
        return result ? result : -EPIPE;
    }
    pl_assert(written == tls->kept.size);
    drop_kept(tls);
    return 1;
}

static ssize_t transmit(struct pl_tls *tls, struct pool_bytes bytes, short *wants)
{
    size_t written = 0;
    int error = refusal(tls), result;

    if (error)
        return error;
    if (!bytes.size)
        return 0;
    if (tls->has_said_goodbye)
        return -EPIPE;
    if (tls->kept.size)
        return send_kept(tls, bytes, wants);
    result = SSL_write_ex(tls->ssl, bytes.data, bytes.size, &written);
    if (result == 1)
        return (ssize_t)written;
    result = settle(tls, result, wants);
    if (result == -EAGAIN)
        return keep(tls, bytes, wants);
    return result ? result : -EPIPE;
}

ssize_t pl_tls_send(struct pl_tls *tls, int fd, const struct iovec *pieces, int count, short *wants)
{
    char record[PL_TLS_RECORD];
    struct pool_bytes bytes = pl_tls_gather(pieces, count, record);
    struct visit visit;
    ssize_t result;

    *wants = 0;
    if (!enter(tls, fd, &visit))
        return OVER;
    result = transmit(tls, bytes, wants);
    leave(tls, &visit);
    return result;
}

bool pl_tls_is_unsent(struct pl_tls *tls)
{
    bool is_unsent;

    pthread_mutex_lock(&tls->lock);
    is_unsent = tls->kept.size > 0;
    pthread_mutex_unlock(&tls->lock);
    return is_unsent;
}

/* ---- looking, and the end */

/* OpenSSL reads a record's head and body one after the other: it may wait for the body, or have a
 * part of either. */
static bool has_half(const SSL *ssl)
{
    return SSL_has_pending(ssl) || SSL_rstate_string(ssl)[1] == 'B';
}

static enum pl_tls_look look(struct pl_tls *tls)
{
    size_t got = 0;
    short wants;
    char byte;
    int result;

    if (refusal(tls))
        return PL_TLS_ENDED;
    result = SSL_peek_ex(tls->ssl, &byte, 1, &got);
    tls->is_drained = result != 1 && tls->wire.wants != POLLOUT;
    if (result == 1)
        return PL_TLS_DATA;
    if (settle(tls, result, &wants) != -EAGAIN)
        return PL_TLS_ENDED;
    return tls->wire.is_cut_short || has_half(tls->ssl) ? PL_TLS_HALF : PL_TLS_QUIET;
}

enum pl_tls_look pl_tls_peek(struct pl_tls *tls, int fd)
{
    struct visit visit;
    enum pl_tls_look seen;

    if (!enter(tls, fd, &visit))
        return PL_TLS_ENDED;
    seen = look(tls);
    leave(tls, &visit);
    return seen;
}

void pl_tls_shutdown(struct pl_tls *tls, int fd)
{
    struct visit visit;

    if (!enter(tls, fd, &visit))
        return;
    /* In the middle of a record there is no place for it. */
    if (!refusal(tls) && !tls->has_said_goodbye && !tls->kept.size)
        SSL_shutdown(tls->ssl);
    tls->has_said_goodbye = true;
    leave(tls, &visit);
}

void pl_tls_keep_no_sessions(struct pl_tls *tls)
{
    struct pl_tls_sessions *sessions;

    pthread_mutex_lock(&tls->lock);
    sessions = tls->sessions;
    tls->sessions = NULL;
    pthread_mutex_unlock(&tls->lock);
    pl_tls_sessions_release(sessions);
}

bool pl_tls_tell(struct pl_tls *tls, struct pl_tls_facts *facts)
{
    bool is_ready;

    pthread_mutex_lock(&tls->lock);
    is_ready = tls->is_ready;
    if (is_ready)
        *facts = (struct pl_tls_facts){
            .version = SSL_get_version(tls->ssl),
            .cipher = SSL_get_cipher_name(tls->ssl),
            .alpn = tls->alpn,
            .peer_name = tls->settings->is_insecure ? NULL : tls->name,
            .is_resumed = SSL_session_reused(tls->ssl) == 1,
        };
    pthread_mutex_unlock(&tls->lock);
    return is_ready;
}

uint64_t pl_tls_generation(const struct pl_tls *tls)
{
    return tls->settings->generation;
}

/* ---- what OpenSSL calls, always inside one of the calls above */

int pl_tls_on_verify(int is_good, X509_STORE_CTX *verification)
{
    const SSL *ssl = X509_STORE_CTX_get_ex_data(verification, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct pl_tls *tls = SSL_get_app_data(ssl);

    if (!is_good)
        tls->fault.subject = 0x3ff & pl_tls_subject_in(verification, tls->settings->name);
    return is_good;
}

int pl_tls_on_session(SSL *ssl, SSL_SESSION *session)
{
    struct pl_tls *tls = SSL_get_app_data(ssl);

    if (!tls->sessions || tls->settings->is_insecure)
        return 0;
    if (tls->is_ready) {
        pl_tls_sessions_put(tls->sessions, session, tls->settings->generation);
        return 1;
    }
    SSL_SESSION_free(tls->fresh);
    tls->fresh = session;
    return 1;
}

void pl_tls_on_secret(const SSL *ssl, const char *line)
{
    struct pl_tls *tls = SSL_get_app_data(ssl);

    if (!pl_buffer_append(&tls->secrets, line, strlen(line) + 1))
        tls->secrets.end = tls->secrets.start; /* only a recording depends on it */
}
