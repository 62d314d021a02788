/* secure_peer.c: see secure_peer.h. */
#include "secure_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "support/authority.h"

#define BACKLOG 4096
#define BATCH 64

static X509 *read_certificate(const char *text)
{
    BIO *source = BIO_new_mem_buf(text, -1);
    X509 *certificate = PEM_read_bio_X509(source, NULL, NULL, NULL);

    need(certificate, "a certificate");
    BIO_free(source);
    return certificate;
}

static EVP_PKEY *read_key(const char *text)
{
    BIO *source = BIO_new_mem_buf(text, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(source, NULL, NULL, NULL);

    need(key, "a key");
    BIO_free(source);
    return key;
}

static void set_nodelay(int fd)
{
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ---- the server */

static void watch(int epoll_fd, int fd, SSL *ssl)
{
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = ssl };

    need(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0, "the peer's epoll_ctl");
}

static void accept_all(int epoll_fd, int listener, SSL_CTX *context)
{
    int fd;
    SSL *ssl;

    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        set_nodelay(fd);
        ssl = SSL_new(context);
        need(ssl && SSL_set_fd(ssl, fd), "the peer's SSL object");
        SSL_set_accept_state(ssl);
        watch(epoll_fd, fd, ssl);
    }
}

/* Shakes hands, too: reading does that by itself. */
static void answer(SSL *ssl)
{
    static char buffer[16384];
    int got = SSL_read(ssl, buffer, sizeof(buffer)), fd = SSL_get_fd(ssl);

    if (got > 0 && SSL_write(ssl, buffer, got) == got)
        return;
    if (got <= 0 && SSL_get_error(ssl, got) == SSL_ERROR_WANT_READ)
        return;
    ERR_clear_error();
    SSL_free(ssl);
    close(fd);
}

static _Noreturn void serve(int listener, SSL_CTX *context)
{
    struct epoll_event events[BATCH];
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC), count;

    need(epoll_fd >= 0, "the peer's epoll_create");
    signal(SIGPIPE, SIG_IGN);
    watch(epoll_fd, listener, NULL);
    for (;;) {
        count = epoll_wait(epoll_fd, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                answer(events[i].data.ptr);
            else
                accept_all(epoll_fd, listener, context);
        }
    }
}

static SSL_CTX *server_context(const struct credential *credential)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    X509 *certificate = read_certificate(credential->certificate);
    EVP_PKEY *key = read_key(credential->key);

    need(context && SSL_CTX_use_certificate(context, certificate) &&
             SSL_CTX_use_PrivateKey(context, key),
         "the peer's certificate");
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_session_id_context(context, (const unsigned char *)"bench", 5);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return context;
}

static int open_listener(struct secure_echo *echo)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    need(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
             listen(fd, BACKLOG) == 0 && getsockname(fd, (struct sockaddr *)&address, &size) == 0,
         "the peer's listener");
    echo->port = ntohs(address.sin_port);
    snprintf(echo->address, sizeof(echo->address), "tls://127.0.0.1:%u", echo->port);
    return fd;
}

/* ---- this end */

static SSL_CTX *client_context(const struct credential *authority)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    X509 *certificate = read_certificate(authority->certificate);

    need(context && X509_STORE_add_cert(SSL_CTX_get_cert_store(context), certificate),
         "a context for bare connections");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    X509_free(certificate);
    return context;
}

void secure_echo_start(struct secure_echo *echo, int core)
{
    struct credential *authority =
        CREDENTIAL(NULL, .common_name = "authority", .is_authority = true);
    struct credential *credential = CREDENTIAL(authority, .names = "IP:127.0.0.1");
    pid_t parent = getpid();
    int listener;

    *echo = (struct secure_echo){ 0 };
    listener = open_listener(echo);
    echo->pid = fork();
    need(echo->pid >= 0, "fork");
    if (echo->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            exit(1);
        if (core >= 0)
            pin_to_core((unsigned)core);
        serve(listener, server_context(credential));
    }
    close(listener);
    need_ok(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &echo->trust, NULL),
            "pool_tls_create");
    echo->bare = client_context(authority);
    credential_free(credential);
    credential_free(authority);
}

void secure_echo_stop(struct secure_echo *echo)
{
    kill(echo->pid, SIGKILL);
    waitpid(echo->pid, NULL, 0);
    pool_tls_free(echo->trust);
    SSL_CTX_free(echo->bare);
}

SSL *secure_echo_connect(const struct secure_echo *echo)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons(echo->port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    SSL *ssl = SSL_new(echo->bare);

    need(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0,
         "a bare connection to the peer");
    set_nodelay(fd);
    need(ssl && SSL_set_fd(ssl, fd) && SSL_connect(ssl) == 1, "a bare handshake");
    return ssl;
}

void secure_echo_close(SSL *ssl)
{
    int fd = SSL_get_fd(ssl);

    SSL_free(ssl);
    close(fd);
}
