/* fed.h: feeds bytes to a codec, through the runner, in several ways at once: whole, byte by byte,
 * in pieces of random sizes, and in such pieces with nothing readable behind them (an exact copy of
 * what came so far, so that the address sanitizer sees a look past the end). All must tell the same
 * messages and end with the same status.
 *
 * It also holds the codec to its contract: the body lies within the message, `wanted` is more than
 * what is there, the state is zeros again when a message is whole, memory stays within the bound.
 * What is not so is said on stderr. It needs no Criterion, so that the fuzzers use it too; one
 * thread at a time.
 *
 *     static const uint64_t head = 1;
 *     struct feed feed = { .codec = pool_codec_http1(), .hints = &head, .hint_count = 1 };
 *     struct fed fed;
 *
 *     cr_assert(fed_text(&fed, &feed, "HTTP/1.1 200 OK\r\n\r\n"));
 *     cr_expect(fed_is(&fed, 0, POOL_REPLY, "..."));
 *     cr_expect_eq(fed.status, POOL_E_CLOSED);
 *     fed_free(&fed);
 */
#ifndef TEST_WIRE_FED_H
#define TEST_WIRE_FED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "commpool/codec.h"

#define FED_MOST 65536u /* the longest message, where the test does not say */

struct feed {
    const struct pool_codec *codec;
    size_t most; /* bytes of one message; 0: FED_MOST */
    const uint64_t *hints; /* of the first reply, of the second ... */
    size_t hint_count; /* replies behind the last of them have the hint 0 */
    uint64_t seed; /* of the splits; any number */
    bool stays_open; /* the peer does not close after the bytes */
};

struct fed_message {
    enum pool_message_kind kind;
    uint64_t key;
    bool failed, closes;
    char *body; /* a copy, with a zero behind it */
    size_t size;
};

struct fed {
    struct fed_message *messages;
    size_t count;
    enum pool_status status; /* what ended it; POOL_OK: more may come */
    bool is_clean; /* it ended between two messages, and nothing ended it */
};

/* False: the ways differ, or the codec broke its contract. *fed is that of the whole bytes; free it
 * in any case. */
bool fed_bytes(struct fed *fed, const struct feed *feed, const void *bytes, size_t size);
bool fed_text(struct fed *fed, const struct feed *feed, const char *text);
void fed_free(struct fed *fed);

/* Is there a message of that kind and body at `index`? If not, says so on stderr. */
bool fed_is(const struct fed *fed, size_t index, enum pool_message_kind kind, const char *body);

/* What the codec writes for a request. False: it is refused with *status. `text` gets it, with a
 * zero behind, in any case; free() it. */
bool fed_encode(const struct pool_codec *codec, struct pool_bytes body, char **text,
                struct pool_expect *expect, enum pool_status *status);

#endif
