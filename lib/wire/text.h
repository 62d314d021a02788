/* text.h: words of protocols, which are ASCII whatever the program's locale is. */
#ifndef PL_WIRE_TEXT_H
#define PL_WIRE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static inline unsigned char pl_lower(unsigned char byte)
{
    return byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte;
}

/* Is it that word, which is given in lower case? */
static inline bool pl_is_word(const void *text, size_t size, const char *word)
{
    const unsigned char *bytes = text;

    if (size != strlen(word))
        return false;
    for (size_t i = 0; i < size; i++)
        if (pl_lower(bytes[i]) != (unsigned char)word[i])
            return false;
    return true;
}

#endif
