/* types.h: the small types that every other header of commpool needs.
 *
 * It declares no function and allocates nothing. Programs get it through pool.h, or through any
 * other header of this folder, and need not include it themselves.
 *
 * Invariants: every struct without a body is opaque, so programs hold pointers to it and the
 * library alone knows its size; the two structs with a body never change their layout.
 */
#ifndef COMMPOOL_TYPES_H
#define COMMPOOL_TYPES_H

#include <stddef.h>
#include <stdint.h>

/* Stands before every public function: its symbol stays visible in a library whose symbols are
 * hidden. */
#define POOL_API __attribute__((visibility("default")))

/* "No limit", "for ever". It may stand wherever a number of connections, calls, bytes or
 * milliseconds is a limit. */
#define POOL_NONE UINT32_MAX

/* "None at all". It is needed because a plain 0 in an options struct asks for the default. */
#define POOL_ZERO (UINT32_MAX - 1)

/* Bytes that belong to somebody else. Whoever hands it over says how long `data` stays valid.
 * `size` counts bytes; no zero byte follows them. With a size of 0, `data` may be NULL. */
struct pool_bytes {
    const void *data;
    size_t size;
};

/* The bytes of a string literal, or of an array that holds a text, without the zero byte at the end.
 * The bytes live as long as what it is made of. A char pointer, whose size is not that of its text,
 * does not compile with GCC and Clang. For C only, since C++17 has no compound literals; there, fill
 * a struct pool_bytes by hand. */
#ifndef __cplusplus
#ifdef __GNUC__
#define POOL_NO_POINTER(text)                                                                      \
    (sizeof(char[__builtin_types_compatible_p(__typeof__(text), __typeof__(&*(text))) ? -1 : 1]))
#else
#define POOL_NO_POINTER(text) 1
#endif
#define POOL_TEXT(literal) \
    ((struct pool_bytes){ (literal), sizeof(literal) - POOL_NO_POINTER(literal) })
#endif

struct pool;
struct pool_target;
struct pool_ticket;
struct pool_responder;
struct pool_slot;

/* A handle: the checked right to use one connection.
 *
 * It is a plain value of 16 bytes and may be copied freely. All copies name the same loan and go
 * stale together when the connection is returned or discarded. Every function that takes a handle
 * checks it first, in every build: a stale one is an error and never reaches somebody else's
 * connection. All zeros is "no connection". Look at neither member; compare handles with
 * pool_conn_same(). */
struct pool_conn {
    struct pool_slot *slot;
    uint64_t serial;
};

#endif
