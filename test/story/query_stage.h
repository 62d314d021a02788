/* query_stage.h: the stage of queries to real servers: a server, a pool that speaks its protocol,
 * and what to ask and compare. One of each at a time. */
#ifndef TEST_STORY_QUERY_STAGE_H
#define TEST_STORY_QUERY_STAGE_H

#include <stdatomic.h>

#include "commpool/query.h"
#include "support/queries.h"
#include "support/servers.h"

#define REQUEST_ROOM 512u

extern struct stage {
    struct server *server;
    struct pool *pool;
} stage;

/* Skips the test where the server did not start. */
void stage_begin(struct server *started, const struct pool_options *options);
void stage_end(void);

/* Words as Redis wants them, several commands with ';' between them; answers the size. */
size_t write_command(char request[REQUEST_ROOM], const char *words);

/* Asks and compares the reply; what differs is on stderr. `call` may be NULL. */
bool is_answered(struct pool_bytes request, const struct pool_call *call, const char *expected);
bool redis_answers(const char *words, const char *expected);
bool redis_answers_to(const struct pool_call *call, const char *words, const char *expected);

/* Starts it; see queries.h. */
enum pool_status start_command(struct query *query, const char *words,
                               const struct pool_call *call);

/* Asks Redis over another pool, as somebody else would. One thread at a time. */
enum pool_status ask_as_another(struct query *query, const char *words);
bool another_is_answered(const char *words, const char *expected);

/* Does Redis hold somebody's command? For wait_until(); asks as another. */
bool has_blocked(void *unused);

#endif
