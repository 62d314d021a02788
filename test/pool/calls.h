/* calls.h: every public function as a call of one shape, and what it answers where it is out of
 * place: the table that test_misuse_table.c and test_reentrancy.c walk through.
 *
 * A row makes its call on what the props hold and puts nothing right afterwards but what is its
 * own. No call waits for bytes for longer than WAITS_MS. The rows stand in calls_conn.c,
 * calls_pool.c, calls_mux.c and calls_query.c, by what their functions are about. */
#ifndef TEST_POOL_CALLS_H
#define TEST_POOL_CALLS_H

#include "support/verbs.h"

#define WAITS_MS 20

/* What a call answers that answers no status. */
enum { NOTHING = 100, SOMETHING, DONE };

/* Where a call about a connection is made; the rows' answers stand in this order. */
enum conn_place {
    ON_NOTHING, /* NULL, zero, returned, discarded, released, another serial */
    ON_LOAN,
    ON_MUX_LOAN, /* the handle that on_lent was given, there */
    ON_SETUP, /* the one that on_new_connection was given, there */
    ON_ENDED_LOAN, /* its pool was destroyed, or closed by force */
    ON_CLEARED_LOAN,
    ON_DETACHED,
    ON_FORKED_LOAN,
    CONN_PLACES
};

enum pool_place {
    NO_POOL,
    LIVE,
    PAUSED,
    CLOSING, /* and a loan keeps it */
    CLOSED, /* on_closed has run */
    ON_MUX, /* nothing is idle, and the mux thread asks */
    FORKED,
    POOL_PLACES
};

enum mux_place { NO_MUX, MUX, IN_BATCH, FORKED_MUX, MUX_PLACES };

enum subject { OF_CONN, OF_POOL, OF_MUX, OF_NONE };

#define MOST_PLACES 8

/* What the calls are made on. Who ends something by its call sets it to NULL. */
struct props {
    struct peer *peer;
    const char *address;
    struct pool_conn *conn;
    struct pool *pool;
    struct pool_mux *mux;
    struct pool_timer *timer;
    struct pool_ticket *ticket;
    struct pool_target *target;
    struct pool_address *parsed;
    uint32_t patience_ms; /* of calls that borrow; 0: VERBS_SOON */
};

typedef int call_fn(struct props *props);

/* Makes the call with each wrong argument in turn, all else being right, and expects what the
 * header says. */
typedef void wrong_fn(struct props *props);

struct call {
    const char *function;
    call_fn *run;
    wrong_fn *wrong; /* NULL: it takes nothing else that could be wrong */
    int answers[MOST_PLACES]; /* by the place of its subject */
    unsigned also; /* BIT()s of statuses that it may answer inside a callback besides these */
};

#define BIT(status) (1u << -(status))

extern const struct call calls_of_conn[], calls_of_pool[], calls_of_mux[], calls_of_none[];
extern const unsigned count_of_conn, count_of_pool, count_of_mux, count_of_none;
/* Those of queries take a pool, or none of the library's things. Their pools have the codec of
 * lines. */
extern const struct call calls_of_queries[], calls_of_replies[];
extern const unsigned count_of_queries, count_of_replies;

/* Texts that are no addresses. */
extern const char *const bad_addresses[];
extern const unsigned count_of_bad_addresses;

const char *answer_name(int answer);
int something_if(bool is_something);

/* Expects `call` to answer `status`, in a row's function for wrong arguments. */
#define REFUSES(call, status) cr_expect_eq((call), (status), "%s", #call)

#endif
