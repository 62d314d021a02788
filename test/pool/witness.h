/* witness.h: what the tests of orders to a pool share: a blocked borrower, a record of events, and
 * a snapshot that must add up.
 */
#ifndef TEST_POOL_WITNESS_H
#define TEST_POOL_WITNESS_H

#include "support/verbs.h"

/* A thread that reads from a silent peer until the read ends. Start it, read the rest after
 * joining. */
struct reader {
    struct pool_conn conn;
    struct pool_error error; /* of the connection, after the read */
    enum pool_status status, second; /* of the read; of the send after it */
    bool sends_first;
    atomic_bool has_begun;
    pthread_t thread;
};

/* Begins when the thread is about to read, at the latest. */
bool start_reader(struct reader *reader, const struct pool_conn *conn, bool sends_first);
void join_reader(struct reader *reader);

/* The events of one pool at a time, as text: one word an event, a closed connection with its
 * reason. */
struct pool *observed_pool(const struct pool_options *options);
#define OBSERVED_POOL(...) observed_pool(POOL_OPTIONS(__VA_ARGS__))
const char *story_so_far(void);
bool wait_story(const char *expected); /* false: the story is on stderr */

/* Do the gauges of one snapshot add up? */
bool adds_up(struct pool *pool);

#endif
