/* stress_exit.c: a process exits while threads of it, the mux's among them, shake hands, talk and
 * make settings: it ends with the status that it means, and soon. OpenSSL takes itself apart then,
 * under their hands. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "stress/stress.h"
#include "support/child.h"
#include "support/tests.h"
#include "support/tls_peer.h"

#define TALKERS 4
#define STATUS 7
#define LEAST 20u /* children */

static struct credential *authority, *credential;
static char address[80];
static unsigned children;

/* A process without threads, so that its children may use OpenSSL; and the peer, which has some, in
 * another one. */
static pid_t start_peer(void)
{
    int port = 0, line[2];
    pid_t child;

    if (pipe(line))
        return -1;
    child = fork();
    if (child == 0) {
        port = tls_peer_port(TLS_PEER(.credential = credential));
        if (write(line[1], &port, sizeof(port)) == sizeof(port))
            pause();
        _exit(1);
    }
    if (read(line[0], &port, sizeof(port)) != sizeof(port))
        return -1;
    snprintf(address, sizeof(address), "tls://127.0.0.1:%d", port);
    return child;
}

struct life {
    struct pool *pool;
    struct pool_tls *trust;
    unsigned ms;
};

static void talk_reload_or_exit(unsigned index, void *argument)
{
    struct life *life = argument;
    uint64_t start_ms = now_ms();
    struct pool_conn conn;
    char bytes[5];

    for (;;) {
        if (index == 0 && elapsed_ms(start_ms) >= life->ms)
            exit(STATUS);
        if (index == 1)
            pool_tls_reload(life->trust, POOL_TLS_OPTIONS(.ca_pem = authority->certificate), NULL);
        if (pool_borrow(life->pool, address, NULL, &conn))
            continue;
        if (pool_send(&conn, "hello", 5) == POOL_OK)
            pool_recv_exact(&conn, bytes, 5);
        pool_discard(&conn);
    }
}

static int live(void *argument)
{
    struct life *life = argument;

    if (pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = authority->certificate), &life->trust, NULL) ||
        pool_create(POOL_OPTIONS(.tls = life->trust, .max_connecting = 8), &life->pool))
        return 1;
    run_threads(TALKERS, talk_reload_or_exit, life);
    return 1;
}

int main(int argc, char **argv)
{
    struct stress_caller self;
    pid_t peer;
    int status;

    stress_begin(argc, argv, 5);
    child_leaks_are_fine();
    self = stress_caller_make(0);
    authority = CREDENTIAL(NULL, .common_name = "authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "IP:127.0.0.1");
    peer = start_peer();
    for (; peer > 0 && (stress_is_on() || children < LEAST); children++) {
        struct life life = { .ms = 20 + stress_below(&self, 30) };

        status = child_run(live, &life);
        if (status != STATUS)
            stress_fail("child %u ended with %d", children, status);
    }
    if (peer > 0)
        kill(peer, SIGKILL);
    credential_free(credential);
    credential_free(authority);
    return stress_end("%u children", children);
}
