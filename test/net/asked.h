/* asked.h: the stage of the tests of the resolver: an embedded mux, a DNS server, a resolver that
 * asks it and reads no file of the system; and lookups that keep what they were told. */
#ifndef TEST_NET_ASKED_H
#define TEST_NET_ASKED_H

#include "base/os.h"
#include "mux/mux.h"
#include "net/resolver.h"

#define ASKED_SOON 20000 /* ms that no wait of a healthy run comes near */

struct asked {
    struct pl_lookup lookup;
    unsigned tellings;
    bool is_over, was_cached;
    char first[1024], text[1024]; /* addresses by a space each; of the first telling, of all */
    unsigned count;
    uint64_t expires_ns, began_ms, first_ms, over_ms;
    struct pl_failure failure;
    void (*then)(struct asked *of);  /* inside the telling, when it is noted; may be NULL */
    void *user;
};

/* Begins to look it up; what the cache answers is noted at once. */
void ask_name(struct asked *of, const char *name, int family);
/* Runs the mux until it is over, or until there were so many tellings. */
void await_answer(struct asked *of);
void await_tellings(struct asked *of, unsigned tellings);
/* Both. */
void look_up(struct asked *of, const char *name);

/* ---- the stage: one for each test */

extern struct pool_mux *mux;
extern struct pl_resolver *resolver;
extern struct dns *dns;
extern struct pl_os os;                 /* the door; its members may be changed */
extern struct asked asked, other;
extern int descriptors;                 /* before the resolver was opened */

void begin_names(void);
void end_names(void);
void open_names(uint32_t timeout_ms, uint32_t tries);
void reopen_names(uint32_t timeout_ms, uint32_t tries);

/* Of `asked`. */
void expect_text(const char *text);
void expect_reason(enum pl_reason reason);

#endif
