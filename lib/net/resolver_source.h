/* resolver_source.h: where answers come from: c-ares (resolver_ares.c), or a script of the tests.
 *
 * A source answers questions, one for each name and family, and knows nothing of who waits, of the
 * cache or of callbacks. All of it happens on the mux thread. A question belongs to the asker and
 * is answered once, by question->on_answer: inside ask() or later, on any stack, so whoever is told
 * only takes note. A source that is closed answers nothing any more.
 */
#ifndef PL_NET_RESOLVER_SOURCE_H
#define PL_NET_RESOLVER_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "commpool/status.h"
#include "net/answer.h"

struct pool_mux;
struct pl_source;
struct pl_question;
struct pl_resolver_options;

/* The name as it is, in one family; or with the search list of resolv.conf, which is asked in both
 * at once, since the families of two different hosts must not be mixed. */
enum pl_ask { PL_ASK_IPV6, PL_ASK_IPV4, PL_ASK_SEARCH };

/* Hands over the references; what was not asked for is NULL. */
typedef void pl_answered_fn(struct pl_question *question,
                            const struct pl_addresses *addresses[PL_FAMILIES]);

struct pl_question {
    const char *name;                   /* the asker's, until it is answered */
    enum pl_ask ask;
    pl_answered_fn *on_answer;
    struct {
        struct pl_list link;
        void *engine;
        uint64_t shortages;
    } at_source; /* the source's alone */
};

/* Whether a name is looked for in the search list, and when. */
enum pl_search { PL_SEARCH_NEVER, PL_SEARCH_LAST, PL_SEARCH_FIRST };

struct pl_source_ops {
    enum pool_status (*open)(struct pool_mux *mux, const struct pl_resolver_options *options,
                             struct pl_source **source);
    void (*close)(struct pl_source *source);
    void (*ask)(struct pl_source *source, struct pl_question *question);
    /* True, once for each time: what was answered before may have become wrong. Cheap, so that it
     * can be asked at every lookup. */
    bool (*has_changed)(struct pl_source *source, uint64_t now_ns);
    enum pl_search (*search)(struct pl_source *source, const char *name);
};

extern const struct pl_source_ops pl_source_ares;

/* For tests: resolvers that are opened from now on ask this one; NULL: c-ares again. */
void pl_source_replace(const struct pl_source_ops *ops);

#endif
