/* correlator.h: which reply answers which request, on one connection: by the key that it carries,
 * or by its turn.
 *
 * It owns none of its entries, keeps no bytes and no time, and locks nothing. An entry stands in it
 * from the moment its request may be on the wire until the last of its replies has come, whether
 * anybody still waits for them or not: so no key is used again while a late reply may come, and the
 * turns stay in step.
 *
 * A key's place is its lowest bits, and a key whose place is taken is passed over: however old the
 * oldest entry is, finding one is one look.
 */
#ifndef PL_WIRE_CORRELATOR_H
#define PL_WIRE_CORRELATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "commpool/codec.h"

struct pl_entry {
    uint64_t key;                       /* where replies carry none: its turn */
    union {
        uint64_t hint;                  /* the codec's, where replies come in order */
        uint64_t number;                /* where they carry keys: its place among all ever added */
    };
    uint32_t replies;                   /* that are still to come */
    uint32_t size;                      /* of its frame, in bytes; its owner's */
};

struct pl_correlator {
    const struct pool_codec *codec;
    struct pl_entry **places;           /* NULL: none was needed yet */
    size_t mask;                        /* their number less 1 */
    uint32_t count, most;               /* entries; so many before there must be more places */
    uint64_t *next_key;                 /* its owner's */
    uint64_t oldest;                    /* where replies come in order: the turn of the first
                                         * entry, or the next one's */
    uint64_t added;                     /* entries ever, where replies carry keys */
    size_t popped;                      /* of those that stand in a row; 0: they stand by key */
};

/* Keys, or turns, are given from *next_key on, which moves on with them. Correlators by key that
 * share it give no key twice, so that an entry of one may go to another with its key, and meets no
 * second reply to an entry that was there. */
void pl_correlator_init(struct pl_correlator *correlator, const struct pool_codec *codec,
                        uint64_t *next_key);
/* The same with one that has no entry. */
void pl_correlator_go_on(struct pl_correlator *correlator, uint64_t *next_key);
void pl_correlator_fini(struct pl_correlator *correlator);

/* The same as the next one, for when the next key is not simply free. */
enum pool_status pl_correlator_reserve_slowly(struct pl_correlator *correlator,
                                              uint64_t *key) PL_MUST_USE;

/* Finds a key for one more entry. POOL_E_MEMORY; POOL_E_FULL: none is free. */
static inline PL_MUST_USE enum pool_status pl_correlator_reserve(struct pl_correlator *correlator,
                                                                 uint64_t *key)
{
    *key = *correlator->next_key;
    if (PL_LIKELY(correlator->count < correlator->most && !correlator->codec->key_allowed &&
                  !correlator->places[*key & correlator->mask]))
        return POOL_OK;
    return pl_correlator_reserve_slowly(correlator, key);
}

/* The same with a given key, where replies carry one. */
enum pool_status pl_correlator_reserve_key(struct pl_correlator *correlator,
                                           uint64_t key) PL_MUST_USE;

/* Adds an entry by the key that was reserved last. */
void pl_correlator_add(struct pl_correlator *correlator, struct pl_entry *entry, uint64_t key);

/* That key went out with a request that is not to be answered. If it is, that answers nobody. */
void pl_correlator_pass(struct pl_correlator *correlator, uint64_t key);

/* Whose a reply with this key is (0 where replies carry none); NULL: nobody's. */
static inline struct pl_entry *pl_correlator_find(const struct pl_correlator *correlator,
                                                  uint64_t key)
{
    struct pl_entry *entry;

    if (!correlator->count)
        return NULL;
    if (!correlator->codec->keyed)
        return correlator->places[correlator->oldest & correlator->mask];
    entry = correlator->places[key & correlator->mask];
    return entry && entry->key == key ? entry : NULL;
}

/* The hint for reading on: of the entry whose turn it is, or 0. */
static inline uint64_t pl_correlator_hint(const struct pl_correlator *correlator)
{
    if (correlator->codec->keyed || !correlator->count)
        return 0;
    return correlator->places[correlator->oldest & correlator->mask]->hint;
}

/* One reply to it has come. True: that was the last one, and the entry is gone. */
bool pl_correlator_count_off(struct pl_correlator *correlator, struct pl_entry *entry);

/* Takes out one whose request is not on the wire, and never will be. */
void pl_correlator_withdraw(struct pl_correlator *correlator, struct pl_entry *entry);

/* Takes out any entry, in the order in which they were added; NULL: there is none. Once one was
 * taken out so, none can be found or added before all are out. */
struct pl_entry *pl_correlator_pop(struct pl_correlator *correlator);

/* Visits all, in no order, from *place = 0 on; NULL: that was the last one. */
struct pl_entry *pl_correlator_visit(const struct pl_correlator *correlator, size_t *place);

#endif
