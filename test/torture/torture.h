/* torture.h: a scenario, played in the scripted world again and again with one call of the door
 * failing.
 *
 * First it is played without a fault, which counts the points; then once for every point, every
 * plausible errno there, and both ways of failing, once and for good. After each run the accounts
 * must be even: no memory, no descriptor and no thread is left, nothing foreign was touched, every
 * caller had his one answer in time, a documented one that names the peer, and no reply crossed. As
 * soon as the fault has struck and the script is through, the fault is taken away, and the same
 * script must go well on the same pool.
 *
 * A scenario is written as a script against the public contract. It must bear that any step fails
 * while torture->is_strict is false, and expects everything to go well while it is true; the
 * helpers here do both. It is played up to twice on one pool, so it must not depend on how it finds
 * the connections.
 */
#ifndef TEST_TORTURE_TORTURE_H
#define TEST_TORTURE_TORTURE_H

#include <stdbool.h>

#include "commpool/pool.h"
#include "world/fault.h"
#include "world/world.h"

#define TCP "tcp://10.0.0.1:80"
#define TCP2 "tcp://10.0.0.2:80"

struct torture {
    const struct scenario *scenario;
    struct world *world;
    struct world_peer *peer, *second; /* what furnish() made; NULL: there is none */
    struct pool *pool;
    bool is_strict; /* no fault can strike: everything must go well */
    unsigned failures;
    unsigned asked; /* exchanges so far; each has its own text */
    bool may_refuse; /* a hook of the script gave up: POOL_E_USER is right */
    /* for the scripts */
    struct pool_conn conn;
    struct pool_conn setup;
    unsigned uses, heard, attached, gone;
    int fd;
};

struct scenario {
    const char *name;
    struct pool_options options; /* `user` becomes the torture */
    unsigned descriptors; /* limit of numbers; 0: many */
    void (*furnish)(struct torture *torture); /* peers; NULL: an echo at TCP and another at TCP2 */
    void (*exercise)(struct torture *torture);
    void (*afterwards)(struct torture *torture); /* when the pool was destroyed; may be NULL */
};

/* All of them, ended by NULL. */
extern const struct scenario *const torture_scenarios[];

/* What one run does to the pool. */
struct torture_plan {
    uint64_t point; /* 0: no fault, count the points */
    int error;
    bool for_good;
    bool is_fresh; /* the library has no pages yet, so the run may keep some */
};

/* Plays one run; answers how many things were wrong, after saying so on stdout. `say_at_most`
 * bounds the saying. */
unsigned torture_run(const struct scenario *scenario, const struct torture_plan *plan,
                     unsigned say_at_most);

void torture_fail(struct torture *torture, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
#define torture_check(torture, condition) \
    ((condition) ? (void)0 : torture_fail((torture), "%s (line %d)", #condition, __LINE__))
/* Only where no fault can strike. */
#define torture_must(torture, condition)                                                           \
    torture_check((torture), (condition) || !(torture)->is_strict)

/* One call of pool_communicate(), with all that must be true of its answer. */
struct torture_ask {
    const char *address;
    pool_use_fn *use; /* NULL: sends a text of its own and receives the same */
    void *user; /* of `use`; NULL: the torture */
    enum pool_status expected; /* where no fault can strike */
    uint32_t timeout_ms; /* 1,000 by default */
    uint32_t flags;
    struct pool_target *target;
};
enum pool_status torture_ask(struct torture *torture, const struct torture_ask *ask);
#define TORTURE_ASK(torture, ...) torture_ask((torture), &(struct torture_ask){ __VA_ARGS__ })

/* The exchange of an ask without `use`; 0: it went well. */
int torture_exchange(struct pool_conn *conn, void *user);

/* Is this an answer that a call may have while faults strike? Says so if not. */
void torture_check_status(struct torture *torture, enum pool_status status, const char *of);

#endif
