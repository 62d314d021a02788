/* frames.c: see frames.h. */
#include "support/frames.h"

#include <arpa/inet.h>
#include <string.h>

void frame_write_head(void *to, const struct frame_head *head)
{
    uint32_t words[3] = { htonl(head->size), htonl(head->id), htonl((uint32_t)head->kind) };

    memcpy(to, words, sizeof(words));
}

struct frame_head frame_read_head(const void *from)
{
    uint32_t words[3];

    memcpy(words, from, sizeof(words));
    return (struct frame_head){ .size = ntohl(words[0]),
                                .id = ntohl(words[1]),
                                .kind = (enum frame_kind)ntohl(words[2]) };
}

size_t frame_write(char *to, uint32_t id, enum frame_kind kind, const char *body)
{
    size_t size = strlen(body);

    frame_write_head(to, &(struct frame_head){ (uint32_t)size, id, kind });
    memcpy(to + FRAME_HEAD, body, size);
    return FRAME_HEAD + size;
}
