/* raw_line.c: see raw_line.h. */
#include "pool/raw_line.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct pool *raw_pool;
int raw_end = -1;
const char *raw_big;

static char big[RAW_BIG + 1];

void raw_line_begin(const struct pool_options *options)
{
    int ends[2], room = 4096;

    memset(big, 'x', RAW_BIG);
    raw_big = big;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    cr_assert_eq(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
    raw_pool = make_pool(options);
    cr_assert_not_null(raw_pool);
    cr_assert_eq(pool_adopt(raw_pool, RAW, ends[0]), POOL_OK);
    raw_end = ends[1];
}

void raw_line_end(void)
{
    pool_destroy(raw_pool);
    raw_pool = NULL;
    if (raw_end >= 0)
        close(raw_end);
    raw_end = -1;
}

bool raw_put(uint32_t id, enum frame_kind kind, const char *body)
{
    char head[FRAME_HEAD];

    frame_write_head(head, &(struct frame_head){ (uint32_t)strlen(body), id, kind });
    return write_exactly(raw_end, head, sizeof(head), VERBS_SOON) &&
           write_exactly(raw_end, body, strlen(body), VERBS_SOON);
}

bool raw_get(struct raw_frame *frame)
{
    char bytes[FRAME_HEAD];
    struct frame_head head;
    bool is_whole;
    char *body;

    *frame = (struct raw_frame){ 0 };
    if (!read_exactly(raw_end, bytes, sizeof(bytes), VERBS_SOON))
        return false;
    head = frame_read_head(bytes);
    *frame = (struct raw_frame){ .id = head.id, .size = head.size, .kind = head.kind };
    body = malloc(frame->size + 1);
    is_whole = body && read_exactly(raw_end, body, frame->size, VERBS_SOON);
    if (is_whole)
        memcpy(frame->body, body, frame->size < 31 ? frame->size : 31);
    free(body);
    return is_whole;
}

bool raw_serve(const char *begins)
{
    struct raw_frame frame;

    if (!raw_get(&frame) || frame.kind != FRAME_REQUEST ||
        strncmp(frame.body, begins, strlen(begins)) != 0) {
        fprintf(stderr, "not \"%s\" came, but \"%s\"\n", begins, frame.body);
        return false;
    }
    return raw_put(frame.id, FRAME_REPLY, begins);
}

bool raw_get_line(char *line, size_t room)
{
    for (size_t at = 0; at < room; at++) {
        if (!read_exactly(raw_end, line + at, 1, VERBS_SOON))
            return false;
        if (line[at] == '\n') {
            line[at] = 0;
            return true;
        }
    }
    return false;
}

/* ---- lines in both directions */

static long next_of_both(void *state, struct pool_bytes in, bool at_end, uint64_t hint,
                         struct pool_message *message)
{
    long taken = pool_codec_line()->next(state, in, at_end, hint, message);

    if (taken > 0 && message->body.size && *(const char *)message->body.data == '?')
        message->kind = POOL_REQUEST;
    return taken;
}

static enum pool_status encode_both(void *state, enum pool_message_kind kind, uint64_t key,
                                    struct pool_bytes body, struct pool_out *out,
                                    struct pool_expect *expect)
{
    (void)kind;
    return pool_codec_line()->encode(state, POOL_REQUEST, key, body, out, expect);
}

const struct pool_codec *raw_asking_lines(void)
{
    static struct pool_codec codec;

    codec = *pool_codec_line();
    codec.next = next_of_both;
    codec.encode = encode_both;
    return &codec;
}
