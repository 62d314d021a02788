/* address.h: addresses, the texts that name a peer.
 *
 * An address names a peer and everything else that makes two connections different. Two calls to
 * one pool share connections if and only if their addresses have the same canonical text. Most
 * programs never need this header: the functions of pool.h take the text. It serves programs that
 * check, compare or store addresses themselves.
 *
 *     scheme://[host][:port][/path][?name=value&...]
 *
 *     tcp://127.0.0.1:6379      tcp://[fe80::1%eth0]:80?tenant=a     tls://db.example:5432
 *     unix:///run/redis.sock    abstract://name
 *
 * The parts:
 *     scheme   tcp or tls (host and port; tls is secured and its peer verified, tls.h), unix (an
 *              absolute path), or abstract (a name in Linux's abstract namespace, unix(7))
 *     host     an IPv4 address; an IPv6 address in brackets with an optional zone (RFC 4007), which
 *              a link-local one needs unless bind= names an interface; or a name in ASCII, which
 *              is looked up (hosts(5), then DNS, resolv.conf(5)) when a connection is opened;
 *              all its places are tried (RFC 8305), and connections of a place that leaves
 *              the name end when the name is read again
 *     port     1 to 65535, required for tcp and tls
 *
 * Parameters are part of the key, so different values never share a connection:
 *     tenant=  any text of yours; keeps apart users who must not share a connection
 *     family=  4 or 6, the only address family to use
 *     bind=    a local IP address or the name of an interface to connect from; one that is not of
 *              this machine answers POOL_E_ADDRESS when a connection is opened
 *     dscp=    0 to 63, the code point that outgoing packets are marked with (RFC 2474)
 *     sni=     tls only: the name that the peer must prove to have, instead of the host
 *     alpn=    tls only: protocols offered, for example h2,http/1.1 (RFC 7301)
 *     starttls=1  tls only: connections begin in the clear, and on_new_connection or `prepare`
 *              secures them (pool_conn_start_tls); until then they are lent to nobody
 *     rely=    qualities that the transport must have: unreliable, loss, dup, order, contents,
 *              reliable; a stream has them all, and an unknown one is POOL_E_ADDRESS
 *
 * Values may be percent-encoded (RFC 3986, section 2.1); in them ?, &, %, # and control characters
 * must be. Unknown and repeated parameters are errors. Several peers in one
 * address come with a later release.
 *
 * Canonical text: host names in lower case and without a trailing dot; equal addresses give the
 * same text, and parsing it gives an equal address again.
 *
 * Invariants: an address never changes once it is parsed, so any number of threads may read it at
 * once; it is counted, and lives until the last reference is given back.
 */
#ifndef COMMPOOL_ADDRESS_H
#define COMMPOOL_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "commpool/status.h"
#include "commpool/types.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pool_address;

/* Parses `text`, a string ended by a zero byte, and stores a new address in *address.
 *
 * It touches neither the network nor the file system. The address is the caller's and is given back
 * with pool_address_unref(). `text` is read during the call only. *address means something only
 * after POOL_OK. `error` may be NULL; else a failure fills it, and its text says what is wrong at
 * which character. Any thread may call it. Errors: POOL_E_ADDRESS when the text is no address or
 * asks for what the transport cannot give, POOL_E_MEMORY, POOL_E_ARGUMENT when `text` or `address`
 * is NULL. Source of the form: RFC 3986. */
POOL_API enum pool_status pool_address_parse(const char *text, struct pool_address **address,
                                             struct pool_error *error);

/* Answers the canonical text of an address.
 *
 * The text belongs to the address and is valid while the caller holds a reference to it. Any thread
 * may call it. It cannot fail; NULL gives NULL. */
POOL_API const char *pool_address_text(const struct pool_address *address);

/* Answers whether two addresses have the same key, so that calls to them share connections.
 *
 * The whole keys are compared, never only their hashes. Both addresses stay the caller's. Any
 * thread may call it. It cannot fail; with a NULL on either side the answer is false. */
POOL_API bool pool_address_equal(const struct pool_address *a, const struct pool_address *b);

/* Answers a number for hash tables: equal addresses have the same one.
 *
 * The address stays the caller's. The number is good within one run of the program; store the text,
 * not the hash. Any thread may call it. It cannot fail; NULL gives 0. */
POOL_API uint64_t pool_address_hash(const struct pool_address *address);

/* Takes one more reference and answers `address` itself, so that two owners can hold it.
 *
 * Each reference is given back with its own pool_address_unref(). Any thread may call it while it,
 * or somebody on its behalf, holds a reference. It cannot fail; NULL gives NULL. */
POOL_API struct pool_address *pool_address_ref(struct pool_address *address);

/* Gives back one reference; the last one frees the address.
 *
 * The caller must not use its pointer afterwards. Any thread may call it. It cannot fail; NULL is
 * fine. */
POOL_API void pool_address_unref(struct pool_address *address);

#ifdef __cplusplus
}
#endif

#endif
