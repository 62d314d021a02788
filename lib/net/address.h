/* address.h: what names a peer, taken apart. An address is a value: immutable, counted, made by
 * pool_address_parse only.
 *
 * PL_ADDRESS_FIELDS is the whole struct. Each row says whether the field tells two connections
 * apart (KEY) or not (NOT_KEY: worked out from the others, or bookkeeping); the struct, the key
 * and the copying are generated from it, so a field without a class does not compile, nor does one
 * beside the table.
 *
 * Two addresses are equal if and only if their keys are the same bytes. The key holds every KEY
 * field in the table's order: numbers in four bytes, texts with their length before them
 * (UINT32_MAX: absent, which is not the same as empty). The hash only says where to look.
 *
 * Resolving names is not done here; a text field's data ends with a zero byte that its size does
 * not count.
 */
#ifndef PL_NET_ADDRESS_H
#define PL_NET_ADDRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "commpool/address.h"
#include "commpool/status.h"

#define PL_ADDRESS_TEXT_MAX 4096 /* bytes, of the text given and of the canonical one */
#define PL_ADDRESS_PATH_MAX 107 /* sun_path without the zero byte before or after */
#define PL_DSCP_NONE (-1)

enum pl_scheme { PL_SCHEME_TCP, PL_SCHEME_TLS, PL_SCHEME_UNIX, PL_SCHEME_ABSTRACT };
enum pl_host_kind { PL_HOST_NONE, PL_HOST_NAME, PL_HOST_IPV4, PL_HOST_IPV6 };

/* What rely= may ask of a transport. A stream has them all, so they only take part in the key. */
enum pl_quality {
    PL_UNRELIABLE = 1,
    PL_LOSS = 2,
    PL_DUP = 4,
    PL_ORDER = 8,
    PL_CONTENTS = 16,
    PL_RELIABLE = 31
};

#define PL_ADDRESS_FIELDS(KEY, NOT_KEY)                                                            \
    KEY(number, scheme) /* enum pl_scheme */                                                       \
    KEY(text, host) /* lower-case name, or IP in canonical text, no brackets */                    \
    KEY(text, zone) /* of an IPv6 host: interface name or index */                                 \
    KEY(number, port) /* tcp, tls; else 0 */                                                       \
    KEY(text, path) /* of unix; or the abstract name, without its first zero byte */               \
    KEY(text, tenant)                                                                              \
    KEY(text, sni)                                                                                 \
    KEY(text, alpn) /* "h2,http/1.1" */                                                            \
    KEY(number, family) /* 4, 6; 0: either */                                                      \
    KEY(text, bind) /* IP in canonical text, with its zone, or an interface */                     \
    KEY(number, dscp) /* 0..63 or PL_DSCP_NONE */                                                  \
    KEY(number, rely) /* enum pl_quality, added up; 0: does not matter */                          \
    KEY(number, starttls) /* 0, 1 */                                                               \
    NOT_KEY(number, host_kind) /* enum pl_host_kind of host */                                     \
    NOT_KEY(number, bind_kind) /* the same of bind; PL_HOST_NAME: an interface */                  \
    NOT_KEY(text, text) /* canonical */                                                            \
    NOT_KEY(text, key)                                                                             \
    NOT_KEY(count, references)                                                                     \
    NOT_KEY(hash, hash) /* of key */

#define PL_ADDRESS_TYPE_number int32_t
#define PL_ADDRESS_TYPE_text struct pool_bytes
#define PL_ADDRESS_TYPE_hash uint64_t
#define PL_ADDRESS_TYPE_count atomic_size_t
#define PL_ADDRESS_MEMBER(kind, name) PL_ADDRESS_TYPE_##kind name;

struct pool_address {
    PL_ADDRESS_FIELDS(PL_ADDRESS_MEMBER, PL_ADDRESS_MEMBER)
};

/* Also what refuses a row that is a plain declaration: it cannot stand in an enum. */
#define PL_ADDRESS_INDEX(kind, name) PL_ADDRESS_FIELD_##name,
enum pl_address_field {
    PL_ADDRESS_FIELDS(PL_ADDRESS_INDEX, PL_ADDRESS_INDEX) PL_ADDRESS_FIELD_COUNT
};

/* Nothing has to be looked up before it can be connected: an IP host, a path, an abstract name. */
static inline bool pl_address_is_literal(const struct pool_address *address)
{
    return address->host_kind != PL_HOST_NAME;
}

/* The interface that sockets are bound to (SO_BINDTODEVICE), or NULL. */
static inline const char *pl_address_bind_interface(const struct pool_address *address)
{
    return address->bind_kind == PL_HOST_NAME ? address->bind.data : NULL;
}

/* Where to connect, of a literal address. -EDESTADDRREQ: the host is a name; -ENODEV: no such
 * interface. */
int pl_address_sockaddr(const struct pool_address *address, struct sockaddr_storage *peer,
                        socklen_t *size);

/* What to bind a socket of `family` to before it is connected; *size 0: nothing. -EAFNOSUPPORT:
 * bind= is an IP of the other family; -ENODEV: no such interface. */
int pl_address_bind_sockaddr(const struct pool_address *address, int family,
                             struct sockaddr_storage *local, socklen_t *size);

/* For tests: all addresses parsed from now on get their hash from `hash`; NULL: the real one
 * again. Only while nobody else parses. */
void pl_address_replace_hash(uint64_t (*hash)(const void *bytes, size_t size));

#endif
