/* raw_line.h: a pool whose one connection is a socket pair, the other end of which the test plays
 * byte by byte. Nothing listens at the address, so what moves from there fails to connect. */
#ifndef TEST_POOL_RAW_LINE_H
#define TEST_POOL_RAW_LINE_H

#include "support/frames.h"
#include "support/queries.h"

#define RAW "unix:///nowhere/raw"
#define RAW_BIG 1000000u /* more than the pair holds */

struct raw_frame {
    uint32_t id, size;
    enum frame_kind kind;
    char body[32]; /* the beginning, as text */
};

extern struct pool *raw_pool;
extern int raw_end; /* blocking; the test's */
extern const char *raw_big; /* RAW_BIG bytes */

/* The options name a codec. Ends with raw_line_end(). */
#define RAW_LINE(...)                                                                              \
    raw_line_begin(POOL_OPTIONS(.max_per_address = 1, .backoff_first_ms = POOL_ZERO,               \
                                .suspend_after = POOL_ZERO, __VA_ARGS__))
void raw_line_begin(const struct pool_options *options);
void raw_line_end(void);

/* Frames of the length codec. Reading is false at the end, or when none came in time. */
bool raw_put(uint32_t id, enum frame_kind kind, const char *body);
bool raw_get(struct raw_frame *frame);
/* Reads one, which must be a request with this beginning, and answers it with the same. */
bool raw_serve(const char *begins);
/* A line, without its end. */
bool raw_get_line(char *line, size_t room);
/* The codec of lines, but what begins with '?' is a request of the peer's. */
const struct pool_codec *raw_asking_lines(void);

#endif
