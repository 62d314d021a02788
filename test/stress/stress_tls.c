/* stress_tls.c: TLS among threads: one connection is written and read at once while the peer
 * changes its keys; settings are reloaded and sessions shared while others connect. For TSan. */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/tls.h"
#include "stress/stress.h"
#include "support/tests.h"
#include "support/tls_peer.h"

#define THREADS 4
#define ROUNDS 12
#define ORDERS 200
#define SOON 20000

static struct credential *authority, *credential;
static struct pool_tls *trust;
static struct pl_tls_sessions *sessions;
static struct tls_peer *peer;
static atomic_uint connections, resumed;

struct end {
    int fd;
    struct pl_tls *tls;
};

static bool is_ready_for(int fd, short events)
{
    struct pollfd polled = { fd, events, 0 };

    return poll(&polled, 1, SOON) == 1;
}

static bool say(struct end *end, const char *text)
{
    struct iovec piece = { (char *)text, strlen(text) };
    short wants;
    ssize_t sent;

    while (piece.iov_len) {
        sent = pl_tls_send(end->tls, end->fd, &piece, 1, &wants);
        if (sent == -EAGAIN && is_ready_for(end->fd, wants))
            continue;
        if (sent <= 0)
            return false;
        piece = (struct iovec){ (char *)piece.iov_base + sent, piece.iov_len - (size_t)sent };
    }
    return true;
}

static bool hear(struct end *end, char *bytes, size_t size)
{
    short wants;
    ssize_t got;

    for (size_t have = 0; have<size; have += got> 0 ? (size_t)got : 0) {
        got = pl_tls_recv(end->tls, end->fd, (struct iovec){ bytes + have, size - have }, &wants);
        if (got <= 0 && (got != -EAGAIN || !is_ready_for(end->fd, wants)))
            return false;
    }
    return true;
}

static bool open_end(struct end *end)
{
    struct pl_tls_wish wish = { .name = { "db.test", 7 } };
    struct pl_tls_settings *settings = pl_tls_settings_take(trust);
    struct pl_tls_facts facts = { 0 };
    short wants;
    int error = pl_tls_create(settings, sessions, &wish, &end->tls);

    pl_tls_settings_release(settings);
    end->fd = tls_peer_dial(peer);
    while (!error && (error = pl_tls_handshake(end->tls, end->fd, &wants)) == -EAGAIN)
        error = is_ready_for(end->fd, wants) ? 0 : -ETIME;
    atomic_fetch_add(&connections, 1);
    if (!error && pl_tls_tell(end->tls, &facts))
        atomic_fetch_add(&resumed, facts.is_resumed);
    return !error;
}

static void close_end(struct end *end)
{
    pl_tls_shutdown(end->tls, end->fd);
    pl_tls_free(end->tls);
    close(end->fd);
}

static void write_or_read(unsigned index, void *argument)
{
    char bytes[1000];

    if (index == 0) {
        for (unsigned i = 0; i < ORDERS; i++) {
            if (!say(argument, i % 100 ? ORDER_NOTHING : ORDER_FLOOD))
                stress_fail("order %u was not sent", i);
        }
        return;
    }
    for (size_t have = 0, size; have < FLOOD_SIZE * (ORDERS / 100); have += size) {
        size = FLOOD_SIZE - have % FLOOD_SIZE < sizeof(bytes) ? FLOOD_SIZE - have % FLOOD_SIZE
                                                              : sizeof(bytes);
        if (!hear(argument, bytes, size)) {
            stress_fail("the flood ended after %zu bytes", have);
            return;
        }
        for (size_t i = 0; i < size; i++) {
            if (bytes[i] != (char)('a' + (have % FLOOD_SIZE + i) % 26))
                stress_fail("byte %zu is not what was sent", have + i);
        }
    }
}

static void come_and_go(unsigned index, void *argument)
{
    const struct pool_tls_options *options = argument;
    struct end end;
    char back[5];

    for (unsigned i = 0; i < ROUNDS; i++) {
        if (index == 0 && pool_tls_reload(trust, options, NULL))
            stress_fail("no reload");
        if (!open_end(&end) || !say(&end, "hello") || !hear(&end, back, 5))
            stress_fail("no exchange");
        close_end(&end);
    }
}

int main(int argc, char **argv)
{
    const struct pool_tls_options *options;
    struct end end;

    stress_begin(argc, argv, 10);
    authority = CREDENTIAL(NULL, .common_name = "authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "DNS:db.test");
    options = POOL_TLS_OPTIONS(.ca_pem = authority->certificate);
    peer = TLS_PEER(.credential = credential, .version = TLS1_3_VERSION);
    sessions = pl_tls_sessions_create();
    if (pool_tls_create(options, &trust, NULL) || !open_end(&end))
        return stress_end("no connection");
    run_threads(2, write_or_read, &end);
    close_end(&end);
    run_threads(THREADS, come_and_go, (void *)options);
    pl_tls_sessions_release(sessions);
    pool_tls_free(trust);
    tls_peer_stop(peer);
    credential_free(credential);
    credential_free(authority);
    return stress_end("%u connections, %u resumed", connections, resumed);
}
