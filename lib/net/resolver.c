/* resolver.c: who waits for which answer, what is remembered, and when it is told. Asking is the
 * source's (resolver_source.h), remembering the cache's.
 *
 * Nobody is called from where an answer arrives: it is noted, and told by the due timer, so no call
 * of the DNS client is ever on the stack of a callback. A callback may start and cancel lookups and
 * close the resolver, whose memory goes when the round of tellings has ended.
 *
 * A question belongs to a generation; what was asked before the files changed is told to those who
 * waited for it, but neither remembered nor joined by others.
 */
#include "net/resolver.h"

#include <string.h>

#include "base/os.h"
#include "mux/mux.h"
#include "net/resolver_cache.h"
#include "net/resolver_source.h"

#define HOLD_NS (50 * PL_MS)            /* RFC 8305, section 3: Resolution Delay */
#define MOST_QUERIES 4096               /* under way at once, abandoned ones included */

struct query {
    struct pl_question question;
    struct pl_table_node node;          /* in resolver->queries */
    struct pl_list link;                /* in resolver->asked, then ->answered */
    struct pl_resolver *resolver;
    struct pl_list waiters;             /* struct pl_lookup_part.link */
    const struct pl_addresses *got[PL_FAMILIES];
    uint64_t generation;
    bool is_begun;
    char name[];
};

struct pl_resolver {
    struct pool_mux *mux;
    const struct pl_source_ops *ops;
    struct pl_source *source;
    struct pl_cache cache;
    struct pl_table queries;
    struct pl_list asked, answered;     /* struct query.link, in order */
    struct pl_list lookups;             /* all that are under way, in no order */
    struct pl_list held;                /* those that wait a little for IPv6, first due in front */
    struct pl_list ready, telling;      /* to be told, in order */
    struct pl_timer due_timer;
    uint64_t generation;
    bool is_telling, is_closed;
};

struct key {
    const char *name;
    enum pl_ask ask;
    uint64_t generation;
};

static const struct pl_source_ops *source_ops = &pl_source_ares;

void pl_source_replace(const struct pl_source_ops *ops)
{
    source_ops = ops ? ops : &pl_source_ares;
}

/* ---- the due timer */

static void arm_due(struct pl_resolver *resolver)
{
    uint64_t due_ns = PL_NEVER;

    if (!pl_list_is_empty(&resolver->answered) || !pl_list_is_empty(&resolver->ready))
        due_ns = 0;
    else if (!pl_list_is_empty(&resolver->held))
        due_ns = pl_container(resolver->held.next, struct pl_lookup, turn_link)->held_until_ns;
    if (due_ns == PL_NEVER)
        pl_mux_timer_disarm(resolver->mux, &resolver->due_timer);
    else
        pl_mux_timer_arm(resolver->mux, &resolver->due_timer, due_ns);
}

/* ---- queries */

static bool is_query(const struct pl_table_node *node, const void *key)
{
    const struct query *query = pl_container(node, struct query, node);
    const struct key *wanted = key;

    return query->question.ask == wanted->ask && query->generation == wanted->generation &&
           !strcmp(query->name, wanted->name);
}

static void on_answer(struct pl_question *question,
                      const struct pl_addresses *addresses[PL_FAMILIES])
{
    struct query *query = pl_container(question, struct query, question);

    memcpy(query->got, addresses, sizeof(query->got));
    pl_list_unlink(&query->link);
    pl_list_push_back(&query->resolver->answered, &query->link);
    arm_due(query->resolver);
}

static struct query *make_query(struct pl_resolver *resolver, const struct key *key)
{
    size_t size = strlen(key->name) + 1;
    struct query *query = pl_zalloc(sizeof(*query) + size);

    if (!query)
        return NULL;
    memcpy(query->name, key->name, size);
    query->question.name = query->name;
    query->question.ask = key->ask;
    query->question.on_answer = on_answer;
    query->resolver = resolver;
    query->generation = key->generation;
    pl_list_init(&query->waiters);
    pl_table_add(&resolver->queries, &query->node, pl_name_hash(key->name, key->ask));
    pl_list_push_back(&resolver->asked, &query->link);
    return query;
}

/* The one that is under way, or a new one that is not begun; NULL: *status says why not. */
static struct query *query_for(struct pl_resolver *resolver, const char *name, enum pl_ask ask,
                               enum pool_status *status)
{
    struct key key = { name, ask, resolver->generation };
    struct pl_table_node *node =
        pl_table_find(&resolver->queries, pl_name_hash(name, ask), is_query, &key);
    struct query *query;

    if (node)
        return pl_container(node, struct query, node);
    *status = POOL_E_FULL;
    if (resolver->queries.count >= MOST_QUERIES)
        return NULL;
    query = make_query(resolver, &key);
    *status = query ? POOL_OK : POOL_E_MEMORY;
    return query;
}

static void free_query(struct query *query)
{
    pl_table_remove(&query->resolver->queries, &query->node);
    pl_list_unlink(&query->link);
    for (int family = 0; family < PL_FAMILIES; family++)
        pl_addresses_unref(query->got[family]);
    pl_os->free(query);
}

/* ---- lookups */

static enum pl_family family_of(const struct pl_lookup_part *part)
{
    return part == &part->lookup->parts[PL_IPV6] ? PL_IPV6 : PL_IPV4;
}

static bool is_pending(const struct pl_lookup *lookup)
{
    return pl_list_is_linked(&lookup->parts[PL_IPV6].link) ||
           pl_list_is_linked(&lookup->parts[PL_IPV4].link);
}

static bool has_addresses(const struct pl_lookup_part *part)
{
    return part->got && part->got->count;
}

static void drop_answers(struct pl_lookup *lookup)
{
    for (int family = 0; family < PL_FAMILIES; family++) {
        pl_addresses_unref(lookup->parts[family].got);
        lookup->parts[family].got = NULL;
    }
}

static void begin(struct pl_resolver *resolver, struct pl_lookup *lookup)
{
    lookup->resolver = resolver;
    lookup->all_link = lookup->turn_link = (struct pl_list){ 0 };
    lookup->held_until_ns = 0;
    lookup->is_searched = false;
    for (int family = 0; family < PL_FAMILIES; family++)
        lookup->parts[family] = (struct pl_lookup_part){ .lookup = lookup };
    lookup->parts[PL_IPV6].is_wanted = lookup->family != 4;
    lookup->parts[PL_IPV4].is_wanted = lookup->family != 6;
    pl_list_push_back(&resolver->lookups, &lookup->all_link);
}

/* Nothing of the resolver's points to it any more. */
static void end(struct pl_lookup *lookup)
{
    for (int family = 0; family < PL_FAMILIES; family++)
        pl_list_drop(&lookup->parts[family].link);
    pl_list_drop(&lookup->turn_link);
    pl_list_unlink(&lookup->all_link);
    drop_answers(lookup);
    lookup->resolver = NULL;
}

/* Lets the parts that have no answer wait for one; where none can be had, that is the answer. */
static void ask(struct pl_lookup *lookup)
{
    struct pl_resolver *resolver = lookup->resolver;
    struct query *queries[PL_FAMILIES] = { NULL };

    for (int family = 0; family < PL_FAMILIES; family++) {
        struct pl_lookup_part *part = &lookup->parts[family];
        enum pl_ask kind = family == PL_IPV6 ? PL_ASK_IPV6 : PL_ASK_IPV4;
        enum pool_status status = POOL_OK;

        if (!part->is_wanted || part->got)
            continue;
        queries[family] =
            query_for(resolver, lookup->name, lookup->is_searched ? PL_ASK_SEARCH : kind, &status);
        if (queries[family])
            pl_list_push_back(&queries[family]->waiters, &part->link);
        else
            part->got = pl_addresses_none(pl_failure_make(status, POOL_PHASE_RESOLVE, 0), 0);
    }
    for (int family = 0; family < PL_FAMILIES; family++) {
        if (!queries[family] || queries[family]->is_begun)
            continue;
        queries[family]->is_begun = true;
        resolver->ops->ask(resolver->source, &queries[family]->question);
    }
}

/* ---- what is told */

/* Which of two failures is the one to tell: what can be helped first, then what may be over soon,
 * then that there is no such host. */
static int weight(const struct pl_failure *failure)
{
    switch (failure->status) {
    case POOL_E_MEMORY:
        return 5;
    case POOL_E_RESOURCE:
        return 4;
    case POOL_E_FULL:
        return 3;
    default:
        return failure->reason == PL_REASON_NO_ADDRESS ? 0
               : failure->reason == PL_REASON_NO_HOST  ? 1
                                                       : 2;
    }
}

static struct pl_failure failure_of(const struct pl_lookup *lookup)
{
    const struct pl_failure *worst = NULL;

    for (int family = 0; family < PL_FAMILIES; family++) {
        const struct pl_lookup_part *part = &lookup->parts[family];

        if (has_addresses(part))
            return (struct pl_failure){ 0 };
        if (part->got && (!worst || weight(&part->got->failure) > weight(worst)))
            worst = &part->got->failure;
    }
    pl_assert(worst);
    return *worst;
}

/* What came since the last telling. */
static void fill(struct pl_lookup *lookup, struct pl_answer *answer)
{
    *answer = (struct pl_answer){ .is_last = !is_pending(lookup), .expires_ns = PL_NEVER };
    if (answer->is_last)
        answer->failure = failure_of(lookup);
    for (int family = 0; family < PL_FAMILIES; family++) {
        struct pl_lookup_part *part = &lookup->parts[family];

        if (!part->got || part->is_told)
            continue;
        part->is_told = true;
        answer->of[family] = part->got;
        if (part->got->expires_ns)
            answer->expires_ns = pl_earlier(answer->expires_ns, part->got->expires_ns);
    }
    if (answer->expires_ns == PL_NEVER)
        answer->expires_ns = 0;
}

static void tell(struct pl_lookup *lookup)
{
    const struct pl_addresses *kept[PL_FAMILIES] = { NULL };
    struct pl_answer answer;

    fill(lookup, &answer);
    for (int family = 0; family < PL_FAMILIES; family++) {
        if (answer.of[family])
            kept[family] = pl_addresses_ref(answer.of[family]);
    }
    if (answer.is_last)
        end(lookup);
    lookup->on_addresses(lookup, &answer);
    for (int family = 0; family < PL_FAMILIES; family++)
        pl_addresses_unref(kept[family]);
}

static void make_ready(struct pl_lookup *lookup)
{
    pl_list_drop(&lookup->turn_link);
    pl_list_push_back(&lookup->resolver->ready, &lookup->turn_link);
}

static bool are_all_denied(const struct pl_lookup *lookup)
{
    for (int family = 0; family < PL_FAMILIES; family++) {
        const struct pl_lookup_part *part = &lookup->parts[family];

        if (part->is_wanted && !(part->got && pl_addresses_are_denied(part->got)))
            return false;
    }
    return true;
}

/* Something is new for it: is it to be told, held for a moment, asked for elsewhere? */
static void consider(struct pl_lookup *lookup)
{
    struct pl_resolver *resolver = lookup->resolver;
    const struct pl_lookup_part *ipv6 = &lookup->parts[PL_IPV6], *ipv4 = &lookup->parts[PL_IPV4];

    if (!is_pending(lookup) && !lookup->is_searched && are_all_denied(lookup) &&
        resolver->ops->search(resolver->source, lookup->name) == PL_SEARCH_LAST) {
        lookup->is_searched = true;
        drop_answers(lookup);
        ask(lookup);
    }
    if (!is_pending(lookup) || (has_addresses(ipv6) && !ipv6->is_told)) {
        make_ready(lookup);
    } else if (has_addresses(ipv4) && !ipv4->is_told && !lookup->held_until_ns) {
        lookup->held_until_ns = pl_after(pl_os->now_ns(), HOLD_NS);
        pl_list_push_back(&resolver->held, &lookup->turn_link);
    }
}

/* ---- answers */

/* That there is no such name is final only where no search follows. */
static bool is_to_be_remembered(const struct query *query, const struct pl_addresses *addresses)
{
    struct pl_resolver *resolver = query->resolver;

    if (!addresses || query->generation != resolver->generation)
        return false;
    return addresses->count ||
           (pl_addresses_are_denied(addresses) &&
            (query->question.ask == PL_ASK_SEARCH ||
             resolver->ops->search(resolver->source, query->name) == PL_SEARCH_NEVER));
}

static void settle(struct query *query)
{
    struct pl_resolver *resolver = query->resolver;
    struct pl_list waiters, *link;

    for (int family = 0; family < PL_FAMILIES; family++) {
        if (is_to_be_remembered(query, query->got[family]))
            pl_cache_put(&resolver->cache, query->name, (enum pl_family)family, query->got[family]);
    }
    PL_LIST_EACH(waiter, &query->waiters) {
        struct pl_lookup_part *part = pl_container(waiter, struct pl_lookup_part, link);

        part->got = pl_addresses_ref(query->got[family_of(part)]);
    }
    /* With both parts' answers in hand: one that waits for both here is looked at once. */
    pl_list_init(&waiters);
    pl_list_move_all(&waiters, &query->waiters);
    free_query(query);
    while ((link = pl_list_pop_front(&waiters))) {
        struct pl_lookup *lookup = pl_container(link, struct pl_lookup_part, link)->lookup;

        if (!is_pending(lookup) || !lookup->is_searched)
            consider(lookup);
    }
}

static void release_held(struct pl_resolver *resolver)
{
    uint64_t now_ns = pl_os->now_ns();

    while (!pl_list_is_empty(&resolver->held)) {
        struct pl_lookup *first =
            pl_container(resolver->held.next, struct pl_lookup, turn_link);

        if (first->held_until_ns > now_ns)
            break;
        make_ready(first);
    }
}

static void on_due(void *user)
{
    struct pl_resolver *resolver = user;
    struct pool_mux *mux = resolver->mux;
    struct pl_list *link;

    while (!pl_list_is_empty(&resolver->answered))
        settle(pl_container(resolver->answered.next, struct query, link));
    release_held(resolver);
    pl_list_move_all(&resolver->telling, &resolver->ready);
    resolver->is_telling = true;
    while ((link = pl_list_pop_front(&resolver->telling))) { /* closing empties it */
        tell(pl_container(link, struct pl_lookup, turn_link));
        if (mux->is_forked)
            return;                     /* the callback did, and this is the child */
    }
    resolver->is_telling = false;
    if (resolver->is_closed)
        pl_os->free(resolver);
    else
        arm_due(resolver);
}

/* ---- what others call */

enum pool_status pl_resolver_open(struct pool_mux *mux, const struct pl_resolver_options *options,
                                  struct pl_resolver **opened)
{
    static const struct pl_resolver_options defaults;
    struct pl_resolver *resolver = pl_zalloc(sizeof(*resolver));
    enum pool_status status = POOL_E_MEMORY;

    *opened = NULL;
    if (!resolver)
        return status;
    resolver->mux = mux;
    resolver->ops = source_ops;
    if (!pl_mux_timer_open(mux, &resolver->due_timer, on_due, resolver))
        goto no_timer;
    status = resolver->ops->open(mux, options ? options : &defaults, &resolver->source);
    if (status)
        goto no_source;
    pl_cache_init(&resolver->cache);
    pl_table_init(&resolver->queries);
    pl_list_init(&resolver->asked);
    pl_list_init(&resolver->answered);
    pl_list_init(&resolver->lookups);
    pl_list_init(&resolver->held);
    pl_list_init(&resolver->ready);
    pl_list_init(&resolver->telling);
    *opened = resolver;
    return POOL_OK;

no_source:
    pl_mux_timer_close(mux, &resolver->due_timer);
no_timer:
    pl_os->free(resolver);
    return status;
}

void pl_resolver_close(struct pl_resolver *resolver)
{
    if (!resolver || resolver->mux->is_forked)
        return;
    while (!pl_list_is_empty(&resolver->lookups))
        end(pl_container(resolver->lookups.next, struct pl_lookup, all_link));
    resolver->ops->close(resolver->source);
    while (!pl_list_is_empty(&resolver->asked))
        free_query(pl_container(resolver->asked.next, struct query, link));
    while (!pl_list_is_empty(&resolver->answered))
        free_query(pl_container(resolver->answered.next, struct query, link));
    pl_mux_timer_close(resolver->mux, &resolver->due_timer);
    pl_cache_fini(&resolver->cache);
    pl_table_fini(&resolver->queries);
    resolver->is_closed = true;
    if (!resolver->is_telling)
        pl_os->free(resolver);
}

/* All that is wanted, or nothing where a search decides whose addresses they are. */
static void take_cached(struct pl_lookup *lookup, uint64_t now_ns)
{
    struct pl_resolver *resolver = lookup->resolver;
    bool is_whole = true;

    for (int family = 0; family < PL_FAMILIES; family++) {
        struct pl_lookup_part *part = &lookup->parts[family];
        const struct pl_addresses *known = NULL;

        if (part->is_wanted)
            known = pl_cache_find(&resolver->cache, lookup->name, (enum pl_family)family, now_ns);
        if (known)
            part->got = pl_addresses_ref(known);
        is_whole = is_whole && (known || !part->is_wanted);
    }
    if (is_whole)
        return;
    lookup->is_searched =
        resolver->ops->search(resolver->source, lookup->name) == PL_SEARCH_FIRST;
    if (lookup->is_searched)
        drop_answers(lookup);
}

/* Whole already? Its records stay where they are remembered. */
static bool is_answered(struct pl_lookup *lookup, struct pl_answer *answer)
{
    if (is_pending(lookup))
        return false;
    fill(lookup, answer);
    for (int family = 0; family < PL_FAMILIES; family++) {
        if (answer->of[family] && !answer->of[family]->expires_ns)
            answer->of[family] = NULL;  /* remembered nowhere: the failure says it all */
    }
    end(lookup);
    return true;
}

static bool lacks_answers(const struct pl_lookup *lookup)
{
    for (int family = 0; family < PL_FAMILIES; family++) {
        if (lookup->parts[family].is_wanted && !lookup->parts[family].got)
            return true;
    }
    return false;
}

bool pl_resolver_look_up(struct pl_resolver *resolver, struct pl_lookup *lookup,
                         struct pl_answer *answer)
{
    uint64_t now_ns = pl_os->now_ns();

    pl_assert(!resolver->is_closed);
    if (resolver->ops->has_changed(resolver->source, now_ns)) {
        resolver->generation++;
        pl_cache_clear(&resolver->cache);
    }
    begin(resolver, lookup);
    take_cached(lookup, now_ns);
    if (lacks_answers(lookup))
        ask(lookup);
    if (is_answered(lookup, answer))
        return true;
    /* What is known of one family already need not wait for the other. */
    consider(lookup);
    arm_due(resolver);
    return false;
}

void pl_lookup_cancel(struct pl_lookup *lookup)
{
    if (lookup->resolver && !lookup->resolver->mux->is_forked)
        end(lookup);
}
