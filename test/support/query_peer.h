/* query_peer.h: the loopback peer of queries: a server that is asked in frames of the length codec,
 * or in lines, and made to misbehave by what it is asked.
 *
 * The first byte of a request's body is an order to the peer; any other byte asks for an echo of
 * the body, as ANSWER_ECHO does. Answers carry the whole body of the request unless told otherwise.
 *
 *     struct query_peer *peer = QUERY_PEER(.close_after = 3);
 *     ... ask query_peer_address(peer) for "D50 hello" ...
 *     query_peer_stop(peer);
 *
 * One thread of its own serves it, in this process. It is not part of the library and does not go
 * through the door. Every function may be called from any thread; a command has been carried out
 * when its function returns. With lines, answers keep the order of the requests, come what may. */
#ifndef TEST_SUPPORT_QUERY_PEER_H
#define TEST_SUPPORT_QUERY_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum query_answer {
    ANSWER_ECHO = 'E',
    ANSWER_DELAY = 'D', /* "D50...": 50 ms later */
    ANSWER_NEVER = 'N', /* read, and not answered */
    ANSWER_HOLD = 'H', /* answered by query_peer_release(), the last one first */
    ANSWER_TWICE = 'W', /* two answers with one id */
    ANSWER_PARTS = 'P', /* "P100...": 100 messages, "0;" to "99;", the last one the end */
    ANSWER_BIG = 'B', /* "B1024x65536": 1,024 messages of 65,536 bytes, the last one the end; each
                       * is put when the socket took all before it, so other answers get between */
    ANSWER_FAIL = 'F', /* an answer that tells of an error */
    ANSWER_UNKNOWN = 'U', /* an answer that nobody asked for, and then the right one */
    ANSWER_PUSH = 'S', /* a push, and then the answer */
    ANSWER_ASK = 'A', /* asks back, and answers with what it was told; "!" before an error */
    ANSWER_GARBAGE = 'G', /* what is no frame */
    ANSWER_CUT = 'T', /* half of an answer, and the end */
    ANSWER_CLOSE = 'C',
    ANSWER_RESET = 'R'
};

struct query_peer_options {
    bool follow; /* nothing; lets QUERY_PEER() stand without arguments */
    bool is_line; /* lines instead of frames */
    unsigned close_after, reset_after; /* so many requests of one connection; 0: never */
    unsigned only_first; /* the two above, and ANSWER_CUT, are for so many connections alone; 0: for
                          * all */
    size_t bytes_at_once; /* reads so slowly, as often as it can; 0: as much as there is */
    bool is_deaf; /* reads nothing until query_peer_hear() */
    int receive_buffer; /* SO_RCVBUF; 0: the system's */
    bool says_connection; /* "@3" behind what it repeats: it came on connection number 3 */
    void (*saw)(const char *body, size_t size, unsigned nth); /* told of each request, or NULL */
};

struct query_peer;

#define QUERY_PEER(...)                                                                            \
    query_peer_start(&(struct query_peer_options){ .follow = true, __VA_ARGS__ })
struct query_peer *query_peer_start(const struct query_peer_options *options);
void query_peer_stop(struct query_peer *peer);

const char *query_peer_address(const struct query_peer *peer);
int query_peer_port(const struct query_peer *peer);

/* What came so far. */
unsigned query_peer_requests(struct query_peer *peer);
unsigned query_peer_accepted(struct query_peer *peer);
unsigned query_peer_open(struct query_peer *peer); /* connections, now */
bool query_peer_wait_requests(struct query_peer *peer, unsigned least);
bool query_peer_wait_open(struct query_peer *peer, unsigned exact);
bool query_peer_wait_unread(struct query_peer *peer, unsigned least); /* bytes, while it is deaf */

/* The request by its number, from 0: as much of its body as is kept, as text; and the connection
 * that it came on, from 0. */
#define QUERY_PEER_KEPT 24
void query_peer_request(struct query_peer *peer, unsigned number, char *body, unsigned *nth);
uint32_t query_peer_last_id(struct query_peer *peer);

/* Commands. */
unsigned query_peer_release(struct query_peer *peer); /* what is held; answers how many */
unsigned query_peer_push(struct query_peer *peer, const char *body); /* on each connection */
void query_peer_hear(struct query_peer *peer, bool does_hear);
void query_peer_close(struct query_peer *peer); /* all connections; it goes on accepting */
void query_peer_reset(struct query_peer *peer);

#endif
