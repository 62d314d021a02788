/* made.c: see made.h. */
#include "wire/made.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

size_t any_number(uint64_t *state, size_t count)
{
    uint64_t mixed = *state += UINT64_C(0x9e3779b97f4a7c15);

    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return (size_t)((mixed ^ mixed >> 31) % count);
}

void make_text(struct made *made, const char *format, ...)
{
    size_t room = sizeof(made->bytes) - made->size;
    va_list arguments;
    int size;

    va_start(arguments, format);
    size = vsnprintf(made->bytes + made->size, room, format, arguments);
    va_end(arguments);
    made->size += (size_t)size < room ? (size_t)size : room ? room - 1 : 0;
}

/* Replaces `removed` bytes at `at` by others, as far as there is room. */
static void replace(struct made *made, size_t at, size_t removed, const char *bytes, size_t size)
{
    char copy[MADE_MOST];

    if (size > MADE_MOST || made->size - removed + size > MADE_MOST)
        return;
    memcpy(copy, bytes, size);
    memmove(made->bytes + at + size, made->bytes + at + removed, made->size - at - removed);
    memcpy(made->bytes + at, copy, size);
    made->size += size - removed;
}

void spoil(struct made *made, uint64_t *state, const char *const *words, size_t count)
{
    size_t at = any_number(state, made->size + 1), rest = made->size - at;
    const char *word = words[any_number(state, count)];
    char byte = (char)any_number(state, 256);

    switch (any_number(state, 5)) {
    case 0:
        replace(made, at, 0, word, strlen(word));
        break;
    case 1:
        replace(made, at, rest > 0, &byte, 1);
        break;
    case 2:
        replace(made, at, any_number(state, rest < 4 ? rest + 1 : 4), "", 0);
        break;
    case 3:
        replace(made, at, 0, made->bytes + at, any_number(state, rest + 1));
        break;
    default:
        replace(made, at, rest > 0, word, strlen(word));
    }
}
