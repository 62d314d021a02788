/* query_script.h: queries in the scripted world, with a peer that answers what the test says, when
 * and in which pieces it says so.
 *
 *     struct query query = { 0 };
 *     struct script_bytes bytes = { 0 };
 *
 *     script_begin(SPEAK_LENGTH, POOL_OPTIONS(.max_per_address = 1), NULL);
 *     cr_assert_eq(script_ask(&query, "hello", NULL), POOL_OK);
 *     world_settle(script.world);
 *     script_reply(&bytes, &script.requests[0]);
 *     script_say_cut(script.requests[0].link, &bytes, 3);
 *     cr_expect(script_is_answered(&query, "hello"));
 *     cr_expect(script_end());
 *
 * A request carries a token, and the reply to it the same one. The peer keeps what it is asked and
 * says nothing by itself. One script at a time, on one thread; it needs no Criterion. */
#ifndef TEST_SUPPORT_QUERY_SCRIPT_H
#define TEST_SUPPORT_QUERY_SCRIPT_H

#include "support/frames.h"
#include "support/queries.h"
#include "world/world.h"

#define SCRIPT_ADDRESS "tcp://10.0.0.1:80"
#define SCRIPT_KEPT 4096u
#define SCRIPT_LINKS 4096u
#define SCRIPT_TOKEN 48u

enum script_speech {
    SPEAK_LENGTH, /* any token; the others: one without line ends */
    SPEAK_LINE,
    SPEAK_RESP /* ECHO, and a string */
};

/* What the peer was asked. */
struct script_request {
    struct world_link *link;
    uint32_t id; /* 0 where there is none */
    char token[SCRIPT_TOKEN]; /* as much of it as there is room for, as text */
};

struct script {
    enum script_speech speech;
    struct world *world;
    struct world_peer *peer;
    struct pool *pool;
    /* May be set: is told each request when it has come, with its whole token. */
    void (*on_request)(const struct script_request *request, struct pool_bytes token);
    struct script_request requests[SCRIPT_KEPT]; /* the first ones since count was 0 */
    unsigned count;
    unsigned orphans; /* told to on_orphan */
    size_t parsed[SCRIPT_LINKS]; /* bytes of each link's that are taken apart */
};

extern struct script script;

/* A world with the peer in it, and a pool with the codec; what cannot be made ends the process.
 * `options` may set all but on_orphan, and name a codec that looks the same on the wire; `peer` may
 * be NULL, and its hooks are the script's. */
void script_begin(enum script_speech speech, const struct pool_options *options,
                  const struct world_peer_options *peer);
/* Ends both. False: something is left, and stderr says what. A pool that was destroyed is NULL. */
bool script_end(void);

/* start_query() and ask_and_wait() with a token. */
enum pool_status script_ask(struct query *query, const char *token, const struct pool_call *call);
enum pool_status script_ask_and_wait(struct query *query, const char *token,
                                     const struct pool_call *call);
bool script_is_answered(const struct query *query, const char *token);

/* What a token looks like as the body of a query and as that of its reply. Answers its size. */
size_t script_write_request(char *at, size_t room, struct pool_bytes token);
size_t script_write_body(char *at, size_t room, struct pool_bytes token);

/* ---- what the peer says */

struct script_bytes {
    char data[8192];
    size_t size;
};

void script_add(struct script_bytes *bytes, const void *more, size_t size);
void script_reply(struct script_bytes *bytes, const struct script_request *request);
void script_push(struct script_bytes *bytes, const char *text); /* not in lines */

/* A frame of the length codec. */
void script_frame(struct script_bytes *bytes, uint32_t id, enum frame_kind kind, const char *body);

/* Says it in two segments: the second one when the first has been dealt with. Or a byte at a time.
 * Both let the world settle. */
void script_say_cut(struct world_link *link, const struct script_bytes *bytes, size_t cut);
void script_say_dripped(struct world_link *link, const struct script_bytes *bytes);

/* An on_request that answers at once. */
void script_answer(const struct script_request *request, struct pool_bytes token);

#endif
