/* resolver.h: from a host name to socket addresses, without blocking. Literal addresses never come
 * here, and connecting is somebody else's.
 *
 * One resolver serves one mux. All calls belong on the mux thread (or inside pl_mux_enter), where
 * callbacks come, too. However many lookups wait for a name, it is asked for once; A and AAAA are
 * separate questions, so that the silence of one does not hold back the other. A lookup has no
 * deadline: it ends when the DNS client gives up (with its defaults after some 14 s for each
 * server), or is canceled.
 *
 * A lookup is told at most twice, and the last telling says so. By RFC 8305 IPv6 addresses are told
 * at once; IPv4 addresses that come first wait 50 ms for them.
 */
#ifndef PL_NET_RESOLVER_H
#define PL_NET_RESOLVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/list.h"
#include "commpool/status.h"
#include "net/answer.h"

struct pool_mux;
struct pl_resolver;
struct pl_lookup;

/* Texts are the caller's until the resolver is closed. NULL and 0: the system's, or the default. */
struct pl_resolver_options {
    const char *servers;                /* "127.0.0.1:5353,[::1]:53" instead of resolv.conf's */
    const char *resolv_conf;
    const char *hosts;                  /* before c-ares 1.19 $CARES_HOSTS has to name it, too */
    uint32_t timeout_ms;                /* of the first try; later ones wait longer: 2,000 */
    uint32_t tries;                     /* at each server: 3 */
};

/* What a lookup is told at one time: the answers of its families, borrowed for the call. Records
 * may be kept by pl_addresses_ref(). */
struct pl_answer {
    const struct pl_addresses *of[PL_FAMILIES]; /* NULL: not asked for, or not of this telling */
    uint64_t expires_ns;                /* of the first of them to expire */
    struct pl_failure failure;          /* POOL_OK: there is an address, in this telling or the one
                                         * before; else never one */
    bool is_last;
};

typedef void pl_addresses_fn(struct pl_lookup *lookup, const struct pl_answer *answer);

/* One family's part of a lookup. */
struct pl_lookup_part {
    struct pl_list link;                /* among those who wait for its question */
    struct pl_lookup *lookup;
    const struct pl_addresses *got;
    bool is_wanted, is_told;
};

/* Lives in what its caller waits with. The caller sets the first three; nothing of it is touched
 * once it was told for the last time, or canceled. */
struct pl_lookup {
    const char *name;                   /* lower case, no literal; the caller's until the end */
    int family;                         /* 4, 6, or 0 for both */
    pl_addresses_fn *on_addresses;
    struct pl_resolver *resolver;       /* NULL: it is not under way */
    struct pl_lookup_part parts[PL_FAMILIES];
    struct pl_list all_link, turn_link; /* the latter among those held, or to be told */
    uint64_t held_until_ns;             /* 0: it was never held */
    bool is_searched;
};

enum pool_status pl_resolver_open(struct pool_mux *mux, const struct pl_resolver_options *options,
                                  struct pl_resolver **resolver) PL_MUST_USE;
/* Also from a callback. Lookups that wait end silently: none is told any more. */
void pl_resolver_close(struct pl_resolver *resolver);

/* True: *answer is filled at once, for the last time, from the cache or because it cannot be asked
 * (no memory, POOL_E_FULL); its records are borrowed until the next call that concerns the
 * resolver. False: on_addresses will be called, never on this stack. */
bool pl_resolver_look_up(struct pl_resolver *resolver, struct pl_lookup *lookup,
                         struct pl_answer *answer) PL_MUST_USE;
/* At any time, in any callback; one that is not under way is left alone. The question goes on, and
 * its answer is remembered. */
void pl_lookup_cancel(struct pl_lookup *lookup);

/* The rest is of what all resolvers share, and so is done where c-ares is (resolver_ares.c). */

/* For tests: servers of all resolvers opened from now on that are given none; NULL: as before. */
void pl_resolver_use_servers(const char *servers);

/* Around fork(), as with connections: in the child the sockets are closed, and nothing is sent. */
void pl_resolver_hold(void);
void pl_resolver_let_go(void);
void pl_resolver_orphan(void);

void pl_resolver_library_end(void);     /* the library is being unloaded */

#endif
