/* tls_peer.c: see tls_peer.h. */
#include "support/tls_peer.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* OpenSSL counts references to sessions with atomic operations that the sanitizer does not see,
 * since it is not compiled with it: what the last holder frees looks like a race with those who
 * read it before. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
    return "race:^OPENSSL_sk_free$";
}

#define REQUEST_MOST 65536

struct served {
    struct tls_peer *peer; /* NULL: the place was never used */
    pthread_t thread;
    int fd; /* -1: it is over, and its thread ends */
    int tell[2]; /* a byte for each order of tls_peer_tell() */
    bool is_deaf, has_ended;
    bool owes_end; /* an order is carried out when the connection is closed */
};

struct tls_peer {
    struct tls_peer_options options;
    SSL_CTX *context;
    int listener, port;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t told; /* one order less is to be carried out */
    struct served served[TLS_PEER_MOST];
    unsigned handshakes, resumed, accepted, goodbyes, open;
    const char *order; /* of tls_peer_tell() */
    unsigned due; /* connections that have not carried it out */
    char asked_for[256], client[256];
    char asked_for_copy[256], client_copy[256];
};

static void must(int succeeded, const char *what)
{
    if (succeeded)
        return;
    fprintf(stderr, "tls_peer: %s failed\n", what);
    ERR_print_errors_fp(stderr);
    abort();
}

/* ---- the context */

static void use_chain(SSL_CTX *context, const char *chain)
{
    BIO *source = BIO_new_mem_buf(chain, -1);
    X509 *certificate;

    while ((certificate = PEM_read_bio_X509(source, NULL, NULL, NULL)))
        must(SSL_CTX_add0_chain_cert(context, certificate), "chain");
    ERR_clear_error();
    BIO_free(source);
}

static void use_credential(SSL_CTX *context, const struct credential *credential)
{
    BIO *source = BIO_new_mem_buf(credential->certificate, -1);
    X509 *certificate = PEM_read_bio_X509(source, NULL, NULL, NULL);
    EVP_PKEY *key;

    BIO_free(source);
    source = BIO_new_mem_buf(credential->key, -1);
    key = PEM_read_bio_PrivateKey(source, NULL, NULL, NULL);
    BIO_free(source);
    must(SSL_CTX_use_certificate(context, certificate), "certificate");
    must(SSL_CTX_use_PrivateKey(context, key), "key");
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static void trust_clients(SSL_CTX *context, const char *authority)
{
    BIO *source = BIO_new_mem_buf(authority, -1);
    X509 *certificate = PEM_read_bio_X509(source, NULL, NULL, NULL);

    must(X509_STORE_add_cert(SSL_CTX_get_cert_store(context), certificate), "client authority");
    X509_free(certificate);
    BIO_free(source);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
}

static int choose_alpn(SSL *ssl, const unsigned char **chosen, unsigned char *size,
                       const unsigned char *offered, unsigned offered_size, void *user)
{
    const struct tls_peer_options *options = user;
    const char *wanted = options->liar ? options->liar : options->alpn;

    (void)ssl;
    *chosen = (const unsigned char *)wanted;
    *size = (unsigned char)strlen(wanted);
    if (options->liar)
        return SSL_TLSEXT_ERR_OK;
    for (unsigned at = 0; at < offered_size; at += offered[at] + 1u) {
        if (offered[at] == *size && memcmp(offered + at + 1, wanted, *size) == 0)
            return SSL_TLSEXT_ERR_OK;
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *make_context(struct tls_peer_options *options)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());

    must(context != NULL, "SSL_CTX_new");
    SSL_CTX_set_security_level(context, options->security_level);
    SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY); /* what is no data must not hold up orders */
    if (options->ciphers)
        must(SSL_CTX_set_cipher_list(context, options->ciphers), "ciphers");
    if (options->credential)
        use_credential(context, options->credential);
    if (options->chain)
        use_chain(context, options->chain);
    if (options->client_ca)
        trust_clients(context, options->client_ca);
    if (options->version) {
        SSL_CTX_set_min_proto_version(context, options->version);
        SSL_CTX_set_max_proto_version(context, options->version);
    }
    if (options->tickets)
        SSL_CTX_set_num_tickets(context, options->tickets < 0 ? 0 : (size_t)options->tickets);
    if (options->tickets < 0)
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    if (options->ticket_lifetime_s)
        SSL_CTX_set_timeout(context, options->ticket_lifetime_s);
    if (options->alpn || options->liar)
        SSL_CTX_set_alpn_select_cb(context, choose_alpn, options);
    SSL_CTX_set_session_id_context(context, (const unsigned char *)"test", 4);
    return context;
}

/* ---- a connection */

static void flood(SSL *ssl)
{
    char bytes[1000];
    unsigned sent = 0, size, number = 0;

    while (sent < FLOOD_SIZE) {
        size = FLOOD_SIZE - sent < sizeof(bytes) ? FLOOD_SIZE - sent : sizeof(bytes);
        for (unsigned i = 0; i < size; i++)
            bytes[i] = (char)('a' + (sent + i) % 26);
        if (SSL_write(ssl, bytes, (int)size) <= 0)
            return;
        sent += size;
        if (++number % 10 == 0 && SSL_version(ssl) == TLS1_3_VERSION)
            SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED);
    }
}

static void reset(int fd)
{
    struct linger linger = { 1, 0 };

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

/* False: the connection is over. */
static bool obey(SSL *ssl, int fd, const char *order)
{
    if (!strcmp(order, ORDER_NOTHING))
        return true;
    if (!strcmp(order, ORDER_KEY_UPDATE)) {
        SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED);
        return SSL_do_handshake(ssl) == 1;
    }
    if (!strcmp(order, ORDER_TICKET)) {
        SSL_new_session_ticket(ssl);
        return SSL_do_handshake(ssl) == 1;
    }
    if (!strcmp(order, ORDER_RENEGOTIATE)) {
        SSL_renegotiate(ssl);
        SSL_do_handshake(ssl);
        ERR_clear_error();
        return SSL_write(ssl, "asked", 5) == 5;
    }
    if (!strcmp(order, ORDER_WHO)) {
        SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
        SSL_verify_client_post_handshake(ssl);
        return SSL_do_handshake(ssl) == 1;
    }
    if (!strcmp(order, ORDER_HALF))
        return send(fd, "\x17\x03\x03\x00\x40half", 9, MSG_NOSIGNAL) == 9;
    if (!strcmp(order, ORDER_PUSH))
        return SSL_write(ssl, "push\n", 5) == 5;
    if (!strcmp(order, ORDER_GOODBYE))
        SSL_shutdown(ssl);
    if (!strcmp(order, ORDER_RESET))
        reset(fd);
    return false;
}

static bool echo(SSL *ssl, const struct served *served, const char *bytes, int size)
{
    int most = served->peer->options.record_size ? served->peer->options.record_size : size;
    int on = 1, off = 0, done = 0;

    setsockopt(served->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
    while (done < size) {
        int record = size - done < most ? size - done : most;

        if (SSL_write(ssl, bytes + done, record) != record)
            break;
        done += record;
    }
    setsockopt(served->fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off));
    return done == size;
}

static bool answer(SSL *ssl, struct served *served, char *request, int size)
{
    int fd = served->fd;

    request[size] = '\0';
    if (served->has_ended)
        return true;
    if (!strcmp(request, ORDER_END)) {
        SSL_shutdown(ssl);
        return served->has_ended = true;
    }
    if (!strcmp(request, ORDER_FLOOD)) {
        flood(ssl);
        return true;
    }
    if (*request == '<' && request[size - 1] == '>')
        return obey(ssl, fd, request);
    return echo(ssl, served, request, size);
}

static void note_handshake(struct tls_peer *peer, const SSL *ssl)
{
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    X509 *client = SSL_get0_peer_certificate(ssl);

    pthread_mutex_lock(&peer->lock);
    peer->handshakes++;
    peer->resumed += SSL_session_reused(ssl) == 1;
    snprintf(peer->asked_for, sizeof(peer->asked_for), "%s", name ? name : "");
    *peer->client = '\0';
    if (client)
        X509_NAME_oneline(X509_get_subject_name(client), peer->client, sizeof(peer->client));
    pthread_mutex_unlock(&peer->lock);
}

static bool talk_in_the_clear(const struct served *served)
{
    const char *answer = served->peer->options.clear_answer;
    char request[9];

    if (!answer)
        return true;
    return recv(served->fd, request, sizeof(request), MSG_WAITALL) == sizeof(request) &&
           memcmp(request, "STARTTLS\n", sizeof(request)) == 0 &&
           send(served->fd, answer, strlen(answer), MSG_NOSIGNAL) == (ssize_t)strlen(answer);
}

/* False: the connection is over. */
static bool carry_out_order(struct served *served, SSL *ssl)
{
    struct tls_peer *peer = served->peer;
    char order[32], byte;
    bool goes_on;

    must(read(served->tell[0], &byte, 1) == 1, "an order");
    pthread_mutex_lock(&peer->lock);
    snprintf(order, sizeof(order), "%s", peer->order);
    pthread_mutex_unlock(&peer->lock);
    served->is_deaf = !strcmp(order, ORDER_DEAF);
    goes_on = served->is_deaf || answer(ssl, served, order, (int)strlen(order));
    served->owes_end = !goes_on;
    pthread_mutex_lock(&peer->lock);
    peer->due -= goes_on;
    pthread_cond_broadcast(&peer->told);
    pthread_mutex_unlock(&peer->lock);
    return goes_on;
}

static bool serve_once(struct served *served, SSL *ssl, char *request)
{
    struct pollfd polled[2] = { { served->tell[0], POLLIN, 0 }, { served->fd, POLLIN, 0 } };
    int size;

    if (served->is_deaf)
        polled[1].events = 0;
    if (!SSL_pending(ssl) || served->is_deaf) {
        if (poll(polled, 2, -1) < 0)
            return errno == EINTR;
        if (polled[0].revents)
            return carry_out_order(served, ssl);
        if (served->is_deaf)
            return false;       /* the connection is broken, or is to end */
    }
    ERR_clear_error();
    size = SSL_read(ssl, request, REQUEST_MOST);
    if (size <= 0)
        return SSL_get_error(ssl, size) == SSL_ERROR_WANT_READ;
    return answer(ssl, served, request, size);
}

/* Orders that came too late for it count as carried out. */
static void end_serving(struct served *served)
{
    struct tls_peer *peer = served->peer;
    char byte;

    pthread_mutex_lock(&peer->lock);
    shutdown(served->tell[1], SHUT_WR);
    close(served->fd);
    while (read(served->tell[0], &byte, 1) == 1)
        peer->due--;
    peer->due -= served->owes_end;
    pthread_cond_broadcast(&peer->told);
    close(served->tell[0]);
    close(served->tell[1]);
    served->fd = -1;
    peer->open--;
    pthread_mutex_unlock(&peer->lock);
}

static void *serve(void *argument)
{
    struct served *served = argument;
    SSL *ssl = SSL_new(served->peer->context);
    char *request = malloc(REQUEST_MOST + 1);

    must(ssl && request, "a connection");
    SSL_set_fd(ssl, served->fd);
    if (talk_in_the_clear(served) && SSL_accept(ssl) == 1) {
        note_handshake(served->peer, ssl);
        while (serve_once(served, ssl, request))
            continue;
        if (SSL_get_shutdown(ssl) & SSL_RECEIVED_SHUTDOWN) {
            pthread_mutex_lock(&served->peer->lock);
            served->peer->goodbyes++;
            pthread_mutex_unlock(&served->peer->lock);
        }
        if (SSL_get_shutdown(ssl) == SSL_RECEIVED_SHUTDOWN)
            SSL_shutdown(ssl);
    }
    ERR_clear_error();
    free(request);
    SSL_free(ssl);
    end_serving(served);
    return NULL;
}

static void end_at_once(int fd)
{
    char byte;

    if (recv(fd, &byte, 1, MSG_PEEK) > 0)
        shutdown(fd, SHUT_WR);
    while (recv(fd, &byte, 1, 0) > 0)
        continue;
    close(fd);
}

static void send_at_once(int fd)
{
    int yes = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}

/* A place whose connection is over, or NULL. */
static struct served *find_place(struct tls_peer *peer)
{
    struct served *found = NULL;

    pthread_mutex_lock(&peer->lock);
    for (unsigned i = 0; i < TLS_PEER_MOST && !found; i++) {
        if (!peer->served[i].peer || peer->served[i].fd < 0)
            found = &peer->served[i];
    }
    pthread_mutex_unlock(&peer->lock);
    if (found && found->peer)
        pthread_join(found->thread, NULL);
    return found;
}

static void *accept_all(void *argument)
{
    struct tls_peer *peer = argument;
    struct served *served;
    int fd;

    while ((fd = accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        served = peer->options.ends_in_handshake ? NULL : find_place(peer);
        if (!served) {
            end_at_once(fd);
            continue;
        }
        send_at_once(fd);
        pthread_mutex_lock(&peer->lock);
        *served = (struct served){ .peer = peer, .fd = fd };
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, served->tell) == 0, "a pair");
        peer->accepted++;
        peer->open++;
        must(pthread_create(&served->thread, NULL, serve, served) == 0, "a thread");
        pthread_mutex_unlock(&peer->lock);
    }
    return NULL;
}

/* ---- the peer */

static void listen_on_loopback(struct tls_peer *peer)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);

    peer->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(bind(peer->listener, (struct sockaddr *)&address, size) == 0, "bind");
    must(listen(peer->listener, 64) == 0, "listen");
    getsockname(peer->listener, (struct sockaddr *)&address, &size);
    peer->port = ntohs(address.sin_port);
}

struct tls_peer *tls_peer_start(const struct tls_peer_options *options)
{
    struct tls_peer *peer = calloc(1, sizeof(*peer));
    sigset_t pipe_only, before;

    must(peer != NULL, "calloc");
    peer->options = *options;
    pthread_mutex_init(&peer->lock, NULL);
    pthread_cond_init(&peer->told, NULL);
    peer->context = make_context(&peer->options);
    listen_on_loopback(peer);
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    must(pthread_create(&peer->thread, NULL, accept_all, peer) == 0, "a thread");
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return peer;
}

void tls_peer_stop(struct tls_peer *peer)
{
    if (!peer)
        return;
    shutdown(peer->listener, SHUT_RDWR);
    pthread_join(peer->thread, NULL);
    close(peer->listener);
    for (unsigned i = 0; i < TLS_PEER_MOST && peer->served[i].peer; i++) {
        pthread_mutex_lock(&peer->lock);
        if (peer->served[i].fd >= 0)
            shutdown(peer->served[i].fd, SHUT_RDWR);
        pthread_mutex_unlock(&peer->lock);
        pthread_join(peer->served[i].thread, NULL);
    }
    SSL_CTX_free(peer->context);
    pthread_cond_destroy(&peer->told);
    pthread_mutex_destroy(&peer->lock);
    free(peer);
}

unsigned tls_peer_tell(struct tls_peer *peer, const char *order)
{
    unsigned count = 0;

    pthread_mutex_lock(&peer->lock);
    while (peer->due)                   /* somebody else's order is being carried out */
        pthread_cond_wait(&peer->told, &peer->lock);
    peer->order = order;
    for (unsigned i = 0; i < TLS_PEER_MOST && peer->served[i].peer; i++) {
        if (peer->served[i].fd >= 0)
            count += send(peer->served[i].tell[1], "!", 1, MSG_NOSIGNAL) == 1;
    }
    peer->due = count;
    while (peer->due)
        pthread_cond_wait(&peer->told, &peer->lock);
    pthread_mutex_unlock(&peer->lock);
    return count;
}

int tls_peer_port(const struct tls_peer *peer)
{
    return peer->port;
}

int tls_peer_dial(const struct tls_peer *peer)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                   .sin_port = htons((unsigned short)peer->port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    must(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connect");
    send_at_once(fd);
    return fd;
}

static unsigned read_count(struct tls_peer *peer, const unsigned *count)
{
    unsigned value;

    pthread_mutex_lock(&peer->lock);
    value = *count;
    pthread_mutex_unlock(&peer->lock);
    return value;
}

unsigned tls_peer_handshakes(struct tls_peer *peer)
{
    return read_count(peer, &peer->handshakes);
}

unsigned tls_peer_resumed(struct tls_peer *peer)
{
    return read_count(peer, &peer->resumed);
}

unsigned tls_peer_accepted(struct tls_peer *peer)
{
    return read_count(peer, &peer->accepted);
}

unsigned tls_peer_goodbyes(struct tls_peer *peer)
{
    return read_count(peer, &peer->goodbyes);
}

unsigned tls_peer_open(struct tls_peer *peer)
{
    return read_count(peer, &peer->open);
}

static const char *read_text(struct tls_peer *peer, const char *text, char *copy)
{
    pthread_mutex_lock(&peer->lock);
    memcpy(copy, text, sizeof(peer->client));
    pthread_mutex_unlock(&peer->lock);
    return copy;
}

const char *tls_peer_asked_for(struct tls_peer *peer)
{
    return read_text(peer, peer->asked_for, peer->asked_for_copy);
}

const char *tls_peer_client(struct tls_peer *peer)
{
    return read_text(peer, peer->client, peer->client_copy);
}
