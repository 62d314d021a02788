/* address_text.h: between address.c, address_text.c and address_write.c: an address that is being
 * read, and how it is written. */
#ifndef PL_NET_ADDRESS_TEXT_H
#define PL_NET_ADDRESS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "net/address.h"
#include "net/address_host.h"

#define PL_SCHEME_COUNT 4
#define PL_QUALITY_COUNT 6

struct pl_name {
    const char *text;
    int32_t value;
};

extern const struct pl_name pl_schemes[PL_SCHEME_COUNT]; /* by enum pl_scheme */
extern const struct pl_name pl_qualities[PL_QUALITY_COUNT]; /* from small to large */

static inline bool pl_must_be_encoded(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f || strchr("?&#", c);
}

/* Where bytes are written; with `bytes` NULL they are only counted, so that the same code measures
 * and writes. */
struct pl_sink {
    char *bytes;
    size_t size;
};

static inline void pl_sink_put(struct pl_sink *sink, const void *bytes, size_t size)
{
    if (sink->bytes && size)
        memcpy(sink->bytes + sink->size, bytes, size);
    sink->size += size;
}

/* The decoded values, none longer than its text; host, sni and bind in canonical form once more. */
#define PL_DRAFT_ROOM (PL_ADDRESS_TEXT_MAX + 512)

/* An address on its way from text to value. The texts of `parts` lie in `room`; so a draft must
 * not be copied. */
struct pl_draft {
    struct pool_address parts; /* the KEY fields and the kinds; the rest is left at zero */
    const char *wrong; /* a constant text, NULL: nothing */
    size_t wrong_at; /* offset of the byte it is about, or of where one is missing */
    const char *text;
    size_t size; /* of text, at most PL_ADDRESS_TEXT_MAX */
    size_t family_at, bind_at; /* where their values begin */
    size_t used; /* of room */
    char room[PL_DRAFT_ROOM];
};

/* Reads `text`; false: `wrong` and `wrong_at` say why. */
bool pl_draft_read(struct pl_draft *draft, const char *text);

/* The canonical text, without a zero byte at its end. */
void pl_address_write(struct pl_sink *sink, const struct pool_address *address);

#endif
