/* key.c: keys, and the proof that no option was forgotten in their tables. */
#include "pool/key.h"

#include <stddef.h>
#include <string.h>

#include "base/compiler.h"
#include "net/address.h"

/* The public structs once more, from the tables alone. */
#define CALL_MEMBER(name) __typeof__(((struct pool_call *)0)->name) name;
struct options_of_table {
    PL_OPTION_FIELDS(PL_OPTION_MEMBER, PL_OPTION_MEMBER)
};
struct call_of_table {
    PL_CALL_FIELDS(CALL_MEMBER, CALL_MEMBER)
};

#define OPTION_STANDS(name)                                                                        \
    _Static_assert(offsetof(struct options_of_table, name) == offsetof(struct pool_options, name), \
                   "a row is missing before this one, or out of order");
#define CALL_STANDS(name)                                                                          \
    _Static_assert(offsetof(struct call_of_table, name) == offsetof(struct pool_call, name),       \
                   "a row is missing before this one, or out of order");

PL_OPTION_FIELDS(OPTION_STANDS, OPTION_STANDS)
PL_CALL_FIELDS(CALL_STANDS, CALL_STANDS)
_Static_assert(sizeof(struct options_of_table) == sizeof(struct pool_options), "a row is missing");
_Static_assert(sizeof(struct call_of_table) == sizeof(struct pool_call), "a row is missing");

/* A field that hides in padding moves no other one, but it counts: one initializer a row leaves the
 * last field without any. The same lists refuse a row that is a plain declaration. */
#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wmissing-field-initializers"
#define ZERO(name) 0,
_Static_assert(sizeof((struct pool_options){ PL_OPTION_FIELDS(ZERO, ZERO) }), "all rows");
_Static_assert(sizeof((struct pool_call){ PL_CALL_FIELDS(ZERO, ZERO) }), "all rows");
#pragma GCC diagnostic pop

#define ONE(name) +1
_Static_assert(0 PL_CALL_FIELDS(ONE, PL_KEY_NOTHING) == 0,
               "a call's option that is KEY must first be handed to pl_key_make");

/* Padding would be compared too. */
#define SIZE(name) +sizeof(((struct pl_key_options *)0)->name)
_Static_assert(0 PL_OPTION_FIELDS(SIZE, PL_KEY_NOTHING) == sizeof(struct pl_key_options),
               "the KEY options must stand without gaps");

struct pl_key pl_key_make(const struct pool_address *address, const struct pool_options *options)
{
    struct pl_key key = { .address = address };

#define COPY(name) key.options.name = options->name;
    PL_OPTION_FIELDS(COPY, PL_KEY_NOTHING)
    return key;
}

bool pl_key_is_same(const struct pl_key *a, const struct pl_key *b)
{
    const struct pool_bytes *first = &a->address->key, *second = &b->address->key;

    return first->size == second->size && memcmp(first->data, second->data, first->size) == 0 &&
           memcmp(&a->options, &b->options, sizeof(a->options)) == 0;
}

uint64_t pl_key_hash(const struct pl_key *key)
{
    return pool_address_hash(key->address);
}
