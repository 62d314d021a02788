/* dialer.h: opens one socket to one address, on the mux, without blocking. It knows no pool: what
 * to do when it fails is its caller's business, and so is trying again.
 */
#ifndef PL_NET_DIALER_H
#define PL_NET_DIALER_H

#include "base/failure.h"
#include "mux/mux.h"
#include "net/connection.h"

struct pool_address;

struct pl_dial {
    struct pl_post post;            /* brings the dial to the mux; free for the caller afterwards */
    struct pl_connection *connection;
    struct pool_mux *mux;
    const struct pool_address *address;
    uint64_t deadline_ns;
    uint32_t user_timeout_ms;                   /* TCP_USER_TIMEOUT; 0: the system's */
    int (*on_socket)(int fd, const char *address, void *user);
    void *user;
    /* Called once, on the mux thread, when the connection stands (0) or cannot (a positive errno).
     * Not called when pl_dial_start answers an error, nor after pl_dial_close. */
    void (*on_end)(struct pl_dial *dial, int error);
    struct pl_timer timer;
    bool is_begun;                   /* for the caller: under way, and nothing of it on the stack */
    enum pl_reason reason;              /* for the caller: more about the error that it was told */
    int answer;                         /* of on_socket */
};

bool pl_dial_open(struct pl_dial *dial) PL_MUST_USE;    /* false: no memory */
/* After its end, or to stop it; the socket stays the connection's. */
void pl_dial_close(struct pl_dial *dial);

/* Makes the socket and begins to connect: 0, or a positive errno with no socket left behind. Mux
 * thread only. */
int pl_dial_start(struct pl_dial *dial) PL_MUST_USE;

void pl_dial_on_event(struct pl_dial *dial, uint32_t events);

#endif
