/* frames.h: frames of the length codec, put together and taken apart by hand: the head is the size
 * of the body, an id, and what it is. Nothing of the library stands below it. */
#ifndef TEST_SUPPORT_FRAMES_H
#define TEST_SUPPORT_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#define FRAME_HEAD 12u

enum frame_kind {
    FRAME_REQUEST = 1,
    FRAME_REPLY = 2,
    FRAME_PART = 3,
    FRAME_PUSH = 4,
    FRAME_ERROR = 10 /* a reply that tells of one */
};

struct frame_head {
    uint32_t size, id;
    enum frame_kind kind; /* or what nobody knows */
};

/* Any bytes may stand there that are FRAME_HEAD in number. */
void frame_write_head(void *to, const struct frame_head *head);
struct frame_head frame_read_head(const void *from);

/* A whole one, whose body is a text; answers how many bytes it took. */
size_t frame_write(char *to, uint32_t id, enum frame_kind kind, const char *body);

#endif
