/* world_resolve.c: see world_resolve.h. What was asked stands in a list until its moment comes; a
 * source that is closed takes its questions out of it. */
#include "world/world_resolve.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/resolver_source.h"
#include "world/world_parts.h"

#define MOST_NAMES 256

struct known {
    char name[256];
    char addresses[WORLD_MOST_ADDRESSES][64];
    struct world_name is;
    bool is_known;
    unsigned asked[PL_FAMILIES];
};

struct world_names {
    struct world *world;
    struct known known[MOST_NAMES];
    unsigned count, waiting;
    bool has_changed;
    struct pl_list all; /* struct pending.all_link: they live until the names are closed */
};

struct pl_source {
    struct pl_list pending;
};

/* A question on its way to its answer; its event in the world comes in any case. */
struct pending {
    struct pl_list all_link;
    struct pl_list link; /* in the source's list; unlinked: nobody wants the answer */
    struct pl_question *question;
};

static struct world_names *current;

static struct known *known_of(const struct world_names *names, const char *name)
{
    for (unsigned i = 0; i < names->count; i++) {
        if (!strcmp(names->known[i].name, name))
            return (struct known *)(uintptr_t)&names->known[i];
    }
    return NULL;
}

static struct known *make_known(struct world_names *names, const char *name)
{
    struct known *known = known_of(names, name);

    if (known)
        return known;
    if (names->count == MOST_NAMES)
        world_fail("too many names");
    known = &names->known[names->count++];
    snprintf(known->name, sizeof(known->name), "%s", name);
    return known;
}

static bool is_of(enum pl_family family, int wanted)
{
    return !wanted || (wanted == 6) == (family == PL_IPV6);
}

/* ---- answers */

static const struct pl_addresses *denial(enum pl_reason reason, uint64_t now_ns)
{
    return pl_addresses_none(pl_failure_because(reason, POOL_PHASE_RESOLVE, 0),
                             pl_ttl_end(now_ns, PL_TTL_NEGATIVE_S));
}

static void add(struct pl_addresses *addresses, const char *text, enum pl_family family)
{
    union pl_ip ip = { .any = { 0 } };

    if (family == PL_IPV4 && inet_pton(AF_INET, text, &ip.ipv4.sin_addr) == 1)
        ip.ipv4.sin_family = AF_INET;
    else if (family == PL_IPV6 && inet_pton(AF_INET6, text, &ip.ipv6.sin6_addr) == 1)
        ip.ipv6.sin6_family = AF_INET6;
    else
        return;
    addresses->list[addresses->count++] = ip;
}

static const struct pl_addresses *answer_of(const struct known *known, enum pl_family family)
{
    uint64_t now_ns = world_current->now_ns;
    const struct world_name *is = &known->is;
    struct pl_addresses *addresses;

    if (!known->is_known)
        return denial(PL_REASON_NO_HOST, now_ns);
    if (is->failure.status && is_of(family, is->only_family))
        return pl_addresses_none(is->failure, pl_ttl_end(now_ns, PL_TTL_NEGATIVE_S));
    addresses = pl_addresses_make(WORLD_MOST_ADDRESSES, pl_ttl_end(now_ns, is->ttl ? is->ttl : 60));
    if (!addresses)
        return pl_addresses_none(pl_failure_make(POOL_E_MEMORY, POOL_PHASE_RESOLVE, 0), 0);
    for (unsigned i = 0; i < WORLD_MOST_ADDRESSES && *known->addresses[i]; i++)
        add(addresses, known->addresses[i], family);
    if (addresses->count)
        return addresses;
    pl_addresses_unref(addresses);
    return denial(PL_REASON_NO_ADDRESS, now_ns);
}

static void on_time(void *argument)
{
    struct pending *pending = argument;
    const struct pl_addresses *addresses[PL_FAMILIES] = { NULL };
    struct pl_question *question = pending->question;
    enum pl_family family;

    if (!pl_list_is_linked(&pending->link))
        return;
    pl_list_unlink(&pending->link);
    family = question->ask == PL_ASK_IPV6 ? PL_IPV6 : PL_IPV4;
    addresses[family] = answer_of(make_known(current, question->name), family);
    current->waiting--;
    question->on_answer(question, addresses);
}

/* ---- the source */

static enum pool_status open_source(struct pool_mux *mux,
                                    const struct pl_resolver_options *options,
                                    struct pl_source **opened)
{
    struct pl_source *source = pl_zalloc(sizeof(*source));

    (void)mux, (void)options;
    *opened = source;
    if (!source)
        return POOL_E_MEMORY;
    pl_list_init(&source->pending);
    return POOL_OK;
}

static void close_source(struct pl_source *source)
{
    while (pl_list_pop_front(&source->pending))
        current->waiting--;
    pl_os->free(source);
}

static void ask(struct pl_source *source, struct pl_question *question)
{
    struct known *known = make_known(current, question->name);
    enum pl_family family = question->ask == PL_ASK_IPV6 ? PL_IPV6 : PL_IPV4;
    const struct world_name *is = &known->is;
    struct pending *pending = world_memory(sizeof(*pending));

    known->asked[family]++;
    current->waiting++;
    pending->question = question;
    pl_list_push_back(&source->pending, &pending->link);
    pl_list_push_back(&current->all, &pending->all_link);
    if (!is->is_silent || !is_of(family, is->only_family))
        world_at(current->world,
                 is->delay_ms + (family == PL_IPV6 ? is->delay6_ms : is->delay4_ms), on_time,
                 pending);
}

static bool has_changed(struct pl_source *source, uint64_t now_ns)
{
    bool has = current->has_changed;

    (void)source, (void)now_ns;
    current->has_changed = false;
    return has;
}

static enum pl_search search(struct pl_source *source, const char *name)
{
    (void)source, (void)name;
    return PL_SEARCH_NEVER;
}

static const struct pl_source_ops scripted = {
    .open = open_source,
    .close = close_source,
    .ask = ask,
    .has_changed = has_changed,
    .search = search,
};

/* ---- the script's side */

struct world_names *world_names_open(struct world *world)
{
    current = world_memory(sizeof(*current));
    current->world = world;
    pl_list_init(&current->all);
    pl_source_replace(&scripted);
    return current;
}

void world_names_close(struct world_names *names)
{
    struct pl_list *link;

    pl_source_replace(NULL);
    while ((link = pl_list_pop_front(&names->all)))
        free(pl_container(link, struct pending, all_link));
    current = NULL;
    free(names);
}

void world_name(struct world_names *names, const char *name, const struct world_name *is)
{
    struct known *known = make_known(names, name);

    known->is = *is;
    known->is_known = true;
    memset(known->addresses, 0, sizeof(known->addresses));
    for (unsigned i = 0; i < WORLD_MOST_ADDRESSES && is->addresses[i]; i++)
        snprintf(known->addresses[i], sizeof(known->addresses[i]), "%s", is->addresses[i]);
}

void world_names_change(struct world_names *names)
{
    names->has_changed = true;
}

unsigned world_name_asked(const struct world_names *names, const char *name, int family)
{
    const struct known *known = known_of(names, name);
    unsigned asked = 0;

    for (int of = 0; known && of < PL_FAMILIES; of++)
        asked += is_of((enum pl_family)of, family) ? known->asked[of] : 0;
    return asked;
}

unsigned world_names_waiting(const struct world_names *names)
{
    return names->waiting;
}
