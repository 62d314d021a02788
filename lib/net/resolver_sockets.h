/* resolver_sockets.h: the sockets of c-ares, made and used through the door.
 *
 * c-ares knows them by number; here each has a slot, type-stable as those of connections, so that
 * an event that comes too late is known by its birth. A number is used only while it is still the
 * socket that was opened (its cookie says so), and never after c-ares closed it.
 */
#ifndef PL_NET_RESOLVER_SOCKETS_H
#define PL_NET_RESOLVER_SOCKETS_H

#include <stdint.h>

#include "base/list.h"

struct pool_mux;
struct ares_channeldata;

/* The sockets of one channel. */
struct pl_dns_sockets {
    struct pool_mux *mux;
    struct pl_list open;                /* in no order */
    uint64_t shortages;                 /* times that no socket could be had for want of room */
    int shortage;                       /* the last errno of these, positive */
    void *owner;                        /* whom on_event is told */
    void (*on_event)(void *owner, struct pl_dns_sockets *sockets, int read_fd, int write_fd);
};

/* From now on the channel's sockets are these. */
void pl_dns_sockets_init(struct pl_dns_sockets *sockets, struct pool_mux *mux);
void pl_dns_sockets_use(struct pl_dns_sockets *sockets, struct ares_channeldata *channel);

/* As pl_resolver_hold() and its like. */
void pl_dns_sockets_hold(void);
void pl_dns_sockets_let_go(void);
void pl_dns_sockets_orphan(void);
void pl_dns_sockets_library_end(void);

/* ARES_OPT_SOCK_STATE_CB; `sockets` is its data. */
void pl_dns_sockets_want(void *sockets, int fd, int readable, int writable);

#endif
