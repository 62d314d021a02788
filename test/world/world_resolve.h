/* world_resolve.h: names in the scripted world: a source of answers in the place of c-ares, below
 * the resolver and its cache.
 *
 *     struct world_names *names = world_names_open(world);
 *     WORLD_NAME(names, "db.example", .addresses = { "10.0.0.1", "2001:db8::1" }, .delay6_ms = 30);
 *     ... look db.example up ...
 *     world_names_close(names);
 *
 * Open it before the resolver, and close it when that is closed and the world turns no more. There
 * is one at a time. A name that it was not told of does not exist, and there is no search list.
 * Answers are given by the world's clock, never inside the question.
 */
#ifndef TEST_WORLD_WORLD_RESOLVE_H
#define TEST_WORLD_WORLD_RESOLVE_H

#include "base/failure.h"
#include "world/world.h"

#define WORLD_MOST_ADDRESSES 16

struct world_names;

struct world_name {
    const char *addresses[WORLD_MOST_ADDRESSES]; /* of both families, up to the first NULL */
    uint32_t ttl; /* seconds; 60 by default */
    unsigned delay_ms, delay4_ms, delay6_ms; /* the last two for one family more */
    bool is_silent; /* never answered */
    /* instead of addresses, where a status is set; remembered only where it denies the name */
    struct pl_failure failure;
    int only_family; /* 4, 6: the failure or the silence is of this one only */
};

struct world_names *world_names_open(struct world *world);
void world_names_close(struct world_names *names);

/* From now on, instead of what was said of the name before. */
void world_name(struct world_names *names, const char *name, const struct world_name *is);
#define WORLD_NAME(names, name, ...) \
    world_name((names), (name), &(struct world_name){ __VA_ARGS__ })

/* As if the files of the system had changed: what was answered is forgotten at the next lookup. */
void world_names_change(struct world_names *names);
/* How often it was asked for; family 0: both. */
unsigned world_name_asked(const struct world_names *names, const char *name, int family);
unsigned world_names_waiting(const struct world_names *names); /* questions that have no answer */

#endif
