/* correlator.c: see correlator.h. */
#include "wire/correlator.h"

#include <string.h>

#include "base/assert.h"
#include "base/os.h"

#define FIRST 16u                       /* places */
#define REFUSED 4096u                   /* keys in a row that a codec may not allow */
#define FAR (1u << 20)                  /* the same where no other key is in use */
#define FURTHEST 65535u                 /* the mask to which it grows for one key that is given */

void pl_correlator_init(struct pl_correlator *correlator, const struct pool_codec *codec,
                        uint64_t *next_key)
{
    *correlator = (struct pl_correlator){ .codec = codec };
    pl_correlator_go_on(correlator, next_key);
}

void pl_correlator_go_on(struct pl_correlator *correlator, uint64_t *next_key)
{
    pl_assert(!correlator->count);
    correlator->next_key = next_key;
    correlator->oldest = *next_key;
}

void pl_correlator_fini(struct pl_correlator *correlator)
{
    pl_os->free(correlator->places);
    correlator->places = NULL;
    correlator->count = correlator->most = 0;
}

static struct pl_entry **place_of(const struct pl_correlator *correlator, uint64_t key)
{
    return &correlator->places[key & correlator->mask];
}

/* Twice as many places. What stood apart stands apart among more of them. */
static bool grow(struct pl_correlator *correlator)
{
    size_t count = correlator->places ? 2 * (correlator->mask + 1) : FIRST, size;
    struct pl_entry **old = correlator->places, **places;
    size_t old_count = old ? correlator->mask + 1 : 0;

    size = count * sizeof(*places);
    places = count > SIZE_MAX / sizeof(*places) ? NULL : pl_os->malloc(size);
    if (!places)
        return false;
    memset(places, 0, size);
    correlator->places = places;
    correlator->mask = count - 1;
    correlator->most = count / 4 * 3 < UINT32_MAX ? (uint32_t)(count / 4 * 3) : UINT32_MAX;
    for (size_t i = 0; i < old_count; i++) {
        if (old[i])
            *place_of(correlator, old[i]->key) = old[i];
    }
    pl_os->free(old);
    return true;
}

static bool is_allowed(const struct pool_codec *codec, uint64_t key)
{
    return !codec->key_allowed || codec->key_allowed(key);
}

static uint64_t after(const struct pool_codec *codec, uint64_t key)
{
    return key >= codec->key_limit ? 1 : key + 1;
}

/* The next key that nobody has, in a place that nobody has; 0: a whole round met none. */
static uint64_t free_key(struct pl_correlator *correlator)
{
    const struct pool_codec *codec = correlator->codec;
    uint64_t key = *correlator->next_key;
    size_t tries = correlator->count ? correlator->mask + 1 + REFUSED : FAR;

    if (tries > codec->key_limit)
        tries = (size_t)codec->key_limit;
    if (!correlator->codec->keyed)
        return key;                     /* their places are taken in turn */
    for (; tries; tries--, key = after(codec, key)) {
        if (!*place_of(correlator, key) && is_allowed(codec, key))
            return key;
    }
    return 0;
}

/* The turns that were withdrawn are given to those behind. */
static void close_ranks(struct pl_correlator *correlator)
{
    uint64_t turn = correlator->oldest;

    for (uint64_t key = turn; key != *correlator->next_key; key++) {
        struct pl_entry *entry = *place_of(correlator, key);

        *place_of(correlator, key) = NULL;
        if (!entry)
            continue;
        entry->key = turn++;
        *place_of(correlator, entry->key) = entry;
    }
    *correlator->next_key = turn;
}

/* A quarter of the places stays free, so that a free one is met soon. False: no memory. */
static bool make_room(struct pl_correlator *correlator)
{
    if (correlator->count >= correlator->most)
        return grow(correlator);
    if (!correlator->codec->keyed && *correlator->next_key - correlator->oldest > correlator->mask)
        close_ranks(correlator);
    return true;
}

enum pool_status pl_correlator_reserve_key(struct pl_correlator *correlator, uint64_t key)
{
    const struct pl_entry *taken;

    if (!make_room(correlator))
        return POOL_E_MEMORY;
    while ((taken = *place_of(correlator, key)) && taken->key != key &&
           correlator->mask < FURTHEST) {
        if (!grow(correlator))
            return POOL_E_MEMORY;
    }
    return taken ? POOL_E_FULL : POOL_OK;
}

enum pool_status pl_correlator_reserve_slowly(struct pl_correlator *correlator, uint64_t *key)
{
    if (!make_room(correlator))
        return POOL_E_MEMORY;
    /* Where a codec allows few keys, or all of one kind, they crowd some of the places. */
    while (!(*key = free_key(correlator)) && correlator->mask < correlator->codec->key_limit &&
           correlator->mask < 8 * (size_t)correlator->count) {
        if (!grow(correlator))
            return POOL_E_MEMORY;
    }
    if (*key)
        *correlator->next_key = *key;
    return *key ? POOL_OK : POOL_E_FULL;
}

void pl_correlator_pass(struct pl_correlator *correlator, uint64_t key)
{
    if (correlator->codec->keyed && key == *correlator->next_key)
        *correlator->next_key = after(correlator->codec, key);
}

void pl_correlator_add(struct pl_correlator *correlator, struct pl_entry *entry, uint64_t key)
{
    struct pl_entry **place = place_of(correlator, key);

    pl_assert(!*place);
    pl_assert(!correlator->popped);
    entry->key = key;
    *place = entry;
    correlator->count++;
    if (!correlator->codec->keyed) {
        *correlator->next_key = key + 1;
        return;
    }
    entry->number = correlator->added++;
    pl_correlator_pass(correlator, key);        /* or it came from elsewhere, and is behind */
}

static void take_out(struct pl_correlator *correlator, struct pl_entry *entry)
{
    *place_of(correlator, entry->key) = NULL;
    correlator->count--;
    if (correlator->codec->keyed)
        return;
    while (correlator->oldest != *correlator->next_key &&
           !*place_of(correlator, correlator->oldest))
        correlator->oldest++;           /* and over those that were withdrawn */
}

bool pl_correlator_count_off(struct pl_correlator *correlator, struct pl_entry *entry)
{
    pl_assert(entry->replies);
    if (--entry->replies)
        return false;
    take_out(correlator, entry);
    return true;
}

void pl_correlator_withdraw(struct pl_correlator *correlator, struct pl_entry *entry)
{
    take_out(correlator, entry);
}

/* By their numbers, in place (Shell's way, with Knuth's gaps): most are in order already. */
static void sort(struct pl_entry **entries, size_t count)
{
    size_t gap = 1, at;

    while (gap < count / 3)
        gap = 3 * gap + 1;
    for (; gap; gap /= 3) {
        for (size_t i = gap; i < count; i++) {
            struct pl_entry *entry = entries[i];

            for (at = i; at >= gap && entries[at - gap]->number > entry->number; at -= gap)
                entries[at] = entries[at - gap];
            entries[at] = entry;
        }
    }
}

/* From now on they stand in a row, and not by key. */
static void line_up(struct pl_correlator *correlator)
{
    struct pl_entry **places = correlator->places;
    size_t count = 0;

    for (size_t i = 0; i <= correlator->mask; i++) {
        if (places[i])
            places[count++] = places[i];
    }
    sort(places, count);
}

struct pl_entry *pl_correlator_pop(struct pl_correlator *correlator)
{
    struct pl_entry *entry;

    if (!correlator->count)
        return NULL;
    if (!correlator->codec->keyed) {
        entry = *place_of(correlator, correlator->oldest);
        take_out(correlator, entry);
        return entry;
    }
    if (!correlator->popped)
        line_up(correlator);
    entry = correlator->places[correlator->popped++];
    if (!--correlator->count) {
        memset(correlator->places, 0, (correlator->mask + 1) * sizeof(*correlator->places));
        correlator->popped = 0;
    }
    return entry;
}

struct pl_entry *pl_correlator_visit(const struct pl_correlator *correlator, size_t *place)
{
    struct pl_entry *entry = NULL;

    while (correlator->places && !entry && *place <= correlator->mask)
        entry = correlator->places[(*place)++];
    return entry;
}
