/* codec.h: how a protocol cuts bytes into messages.
 *
 * A codec is a table of functions and sizes. It opens no socket, keeps no time and holds no
 * connection: it sees bytes only, so that it can be tested and fuzzed alone. Its functions run
 * under a lock of the library: they must not wait, and may call nothing of it but
 * pool_out_append(). Programs write their own codec or take a ready-made one.
 *
 * Invariants: `next` and `encode` run on whichever threads receive and send, callers' and mux
 * threads, each one at a time for a connection, but maybe the two at once, so their states are
 * apart; fed byte by byte, `next` gives the same messages as fed whole.
 */
#ifndef COMMPOOL_CODEC_H
#define COMMPOOL_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "commpool/status.h"
#include "commpool/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a message is. */
enum pool_message_kind {
    POOL_REPLY, /* answers a query, whole or its last part */
    POOL_PART, /* a part of a reply; more follow; goes to pool_call.on_part */
    POOL_PUSH, /* nobody asked for it; goes to the actor */
    POOL_REQUEST, /* one side asks the other */
    POOL_ERROR_REPLY /* for `encode` only: a reply that tells of an error; `next` says so by
                      * POOL_REPLY and `failed` */
};

/* One message, as `next` found it. It comes with zeros in all but `size`. */
struct pool_message {
    /* Bytes of the struct; the library has set it. */
    size_t size;

    enum pool_message_kind kind;

    /* In keyed protocols the key of the query that it answers, or of a POOL_REQUEST the peer's own,
     * which `encode` gets back for the answer; 0 in others. */
    uint64_t key;

    /* The peer answered with an error of its own. */
    bool failed;

    /* The connection cannot be used again after this message. */
    bool closes;

    /* What is left when the framing is taken off; it lies within the bytes given to `next`. */
    struct pool_bytes body;

    /* For an answer of 0, where it is known already: the bytes that the whole message will take, or
     * will take at least. They are made room for at once, or the message is refused before it has
     * come. 0: not known. */
    size_t wanted;
};

/* What will come back for one request. It comes with zeros in all but `size`. */
struct pool_expect {
    /* Bytes of the struct; the library has set it. */
    size_t size;

    /* How many replies answer this request; 0 for none, e.g. noreply. */
    uint32_t replies;

    /* What `next` must know of the request, for example that it was a HEAD. */
    uint64_t hint;

    /* The peer ends the connection when it has answered this request: nothing is sent behind it,
     * and others ask elsewhere. `next` says `closes` of the last reply, too. False where `encode`
     * says nothing. */
    bool closes;
};

struct pool_out;

/* Appends `size` bytes to what `encode` writes. They are copied. Only for use inside `encode`, on
 * its thread. Errors: POOL_E_MEMORY, POOL_E_FULL past max_message, POOL_E_ARGUMENT; `encode` then
 * answers the same. */
POOL_API enum pool_status pool_out_append(struct pool_out *out, const void *data, size_t size);

/* A codec. It is constant and must outlive every pool that uses it. pool_create() answers
 * POOL_E_ARGUMENT to one that is too small, lacks `next` or `encode`, or is keyed without keys. */
struct pool_codec {
    /* Bytes of the struct as the program was compiled. */
    size_t size;

    /* Its name, for messages. */
    const char *name;

    /* Replies carry a key; else they come in order. */
    bool keyed;

    /* Bytes of state that `next` keeps with a connection. They are zeros when a message begins, and
     * `next` leaves them so when it has found a whole one. */
    size_t read_state_size;

    /* The same for `encode`, which may keep in it what it likes from one message to the next. It is
     * zeros at first, and again when the connection was idle meanwhile or goes from one to another:
     * to its first borrower from `prepare`, from borrower to borrower, to queries and back. */
    size_t write_state_size;

    /* Keys are 1 to key_limit, given in turn to the requests on all connections to an address. */
    uint64_t key_limit;

    /* Whether a key may be used; NULL: all may. */
    bool (*key_allowed)(uint64_t key);

    /* Optional: a request whose reply proves that an in-order stream is in step. It is asked when a
     * query on the connection was given up, before the connection is lent again; another body than
     * this ends it. Both come together; one alone is POOL_E_ARGUMENT. */
    struct pool_bytes sentinel;
    struct pool_bytes sentinel_reply;

    /* Finds the next message at the start of `in`. Above 0: the bytes of one whole message,
     * described in *out; what is behind it comes again in the next call. 0: more bytes are needed;
     * the next call is given the same bytes and some behind them. Below 0: an enum pool_status, and
     * the connection ends. `at_end`: the peer has closed, for bodies that end so; `in` may then be
     * empty, and 0 answers that as it answers half of a message. `hint` is that of the oldest
     * unanswered request; 0 without one, and in keyed protocols. */
    long (*next)(void *read_state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *out);

    /* Writes what surrounds `body`, and the body, to `out`, and says in *expect how many replies
     * will answer it. POOL_E_ARGUMENT when that cannot be counted, or for a kind that the protocol
     * does not have. It is asked for POOL_REQUEST and, for pool_respond() and pool_respond_error(),
     * for POOL_REPLY and POOL_ERROR_REPLY, which nothing answers; the library sends no parts and no
     * pushes. */
    enum pool_status (*encode)(void *write_state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect);
};

/* Answers the codec of length-prefixed frames, which is keyed: 12 bytes, big-endian, and the body.
 * Of the ready-made ones it alone has requests of the peer, for pool_options.on_request.
 *
 * 4 bytes say the size of the body, 4 the id, 4 what it is: 1 a request, 2 a reply, 3 a part of a
 * reply, 4 a push, and 8 more where a reply is an error. Anything else is POOL_E_PROTOCOL, and so
 * is the id 0 but for a push. It is constant, belongs to the library, and cannot fail; any thread
 * may call it. */
POOL_API const struct pool_codec *pool_codec_length(void);

/* Answers the codec of lines, whose replies come in order: a message ends with a newline, which is
 * none of its body, nor is a '\r' before it.
 *
 * A request is one line, written with '\n' behind it, and one line answers it; whoever needs
 * "\r\n" ends the body with '\r'. A body with a newline in it is POOL_E_ARGUMENT, as it cannot be
 * counted; so is what is neither a request nor a reply. A line without its end when the stream ends
 * is POOL_E_BROKEN. The codec is constant, belongs to the library, and cannot fail; any thread may
 * call it. */
POOL_API const struct pool_codec *pool_codec_line(void);

/* Answers the codec of RESP2 and RESP3, the protocol of Redis, in order, with pushes told apart.
 *
 * The body of a message is the whole value as it came, with its type, sizes and line ends, and with
 * the attributes in front of it: programs read it with a reader of their own. An error at the top
 * has `failed`. Values are nested at most 32 deep, attributes counted. Line ends are CR LF, numbers
 * have no superfluous zeros, a push stands at the top only, and strings or aggregates that do not
 * say their size are not spoken; anything else is POOL_E_PROTOCOL.
 *
 * The body of a request is one command or several, each an array of strings, for example
 * "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"; all else, inline commands ("GET a\r\n") among it, is
 * POOL_E_ARGUMENT. Each command has one reply; those of one body stand one behind the other. What
 * has another number, or would shift the replies of others, is POOL_E_ARGUMENT: MONITOR, SYNC,
 * PSYNC, REPLCONF, CLIENT REPLY, CLUSTER SYNCSLOTS, SUNSUBSCRIBE; MULTI without the EXEC or DISCARD
 * that ends it in the same body; HELLO with another version than 3. QUIT stands alone; its reply
 * has `closes`.
 *
 * All else is sent. What changes the state of a connection changes it for all queries that share
 * it (docs/tour.md has a table): AUTH, SELECT and HELLO belong in `prepare`. ASKING and CLIENT
 * CACHING go into one body with the command that they are for, and WATCH guards nothing on a shared
 * connection, where anybody's EXEC ends it. What waits, as BLPOP and WAIT do, holds up all that is
 * behind it, in its turn.
 *
 * (P|S)SUBSCRIBE and (P)UNSUBSCRIBE stand alone and name one channel: several have one confirmation
 * each, or one error. They are for RESP3, after "HELLO 3", where the reply is the push that
 * confirms them, and messages are pushes. In RESP2 messages look like replies, so a confirmation
 * that is no push is POOL_E_PROTOCOL, before a message can be taken for the reply to somebody's
 * query; subscribe on a borrowed connection there.
 *
 * It is constant, belongs to the library, and cannot fail; any thread may call it. */
POOL_API const struct pool_codec *pool_codec_resp(void);

/* Answers the codec of HTTP/1.1 responses (RFC 9112), in order.
 *
 * The body of a message is the response as it came, head and content, chunks with their sizes;
 * interim responses (1xx) in front of it are taken off. A status of 400 and above has `failed`.
 * "Connection: close" on either side, HTTP/1.0 without keep-alive, and content that ends with the
 * connection have `closes`. What two readers could cut in two ways is POOL_E_PROTOCOL: two lengths,
 * even if equal, a length beside chunks, any coding but "chunked", a length other than 0 with a 1xx
 * or 204, lines that end with a lone LF, folded fields, blanks before a colon, control characters,
 * lengths in trailers; and so is a 101. A head has at most 64 KiB with the interim ones, and 256
 * fields; so have trailers; the line of a chunk has 4 KiB.
 *
 * The body of a request is exactly one request, whole, by the same rules, and has one response. Two
 * at once, content that its length does not match, CONNECT, Upgrade and Expect are POOL_E_ARGUMENT.
 *
 * Queries send one request behind the other without waiting for responses (pipelining). What stands
 * behind a response that `closes` is not answered: it fails with POOL_E_CLOSED, or with
 * POOL_SAFE_TO_REPEAT moves, as often as it takes. Servers close so after some number of requests,
 * nginx after 1,000, so keep max_inflight well below that; and set it to 1 for what must not be
 * repeated, where a server or what stands before it does not bear pipelining, and where slow
 * responses must not hold up quick ones.
 *
 * It is constant, belongs to the library, and cannot fail; any thread may call it. */
POOL_API const struct pool_codec *pool_codec_http1(void);

/* Answers the codec of memcached's text protocol, whose replies come in order.
 *
 * A request is the text of one or more commands as it goes on the wire: each line with "\r\n" and
 * one space between its words, each block of data whole and with "\r\n". It is sent as it is; each
 * command that is not `noreply` is answered by one reply. What could not be counted, or would end
 * or change the connection under others, is POOL_E_ARGUMENT: commands that are not about items,
 * such as quit, watch and shutdown, what servers refuse before they have read the data, and meta
 * commands with the flag q, unless all commands of the body are meta commands and the last one is
 * mn; then one reply holds all that comes up to and with each MN. An error that a server sends in
 * spite of `noreply` would pass for the next reply, so mind what you send so.
 *
 * A reply is one line, or VALUE blocks or STAT lines with the END, without the last "\r\n". Those
 * of several commands in one body stand one behind the other with nothing between, "STOREDSTORED":
 * where they cannot be told apart, as two numbers cannot, ask for each by itself, or with on_part.
 * ERROR, CLIENT_ERROR and SERVER_ERROR are `failed`. After the first two of them the connection
 * `closes` if the request had data, as a server that refuses the command may read the data as
 * commands. What answers none of the request's commands is POOL_E_PROTOCOL, and so is data of 2 GiB
 * and more.
 *
 * The codec is constant, belongs to the library, and cannot fail; any thread may call it. */
POOL_API const struct pool_codec *pool_codec_memcached(void);

#ifdef __cplusplus
}
#endif
#endif
