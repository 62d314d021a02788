/* seen.c: see seen.h. */
#include "stress/seen.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "stress/stress.h"

#define TIMES 255u
#define UNSENT 256u
#define PLACE 9
#define NEAR 8u

static _Atomic uint32_t seen[SEEN_TOKENS];
static atomic_ullong tokens;

uint64_t seen_new_token(void)
{
    return atomic_fetch_add(&tokens, 1);
}

uint64_t seen_token_in(const char *text, size_t size)
{
    const char *at = memchr(text, 't', size < NEAR ? size : NEAR);
    char digits[24] = "";

    if (!at)
        return SEEN_TOKENS;
    size -= (size_t)(at + 1 - text);
    memcpy(digits, at + 1, size < sizeof(digits) - 1 ? size : sizeof(digits) - 1);
    return strtoull(digits, NULL, 10);
}

void seen_note(uint64_t token, unsigned connection)
{
    if (token >= SEEN_TOKENS)
        return;
    atomic_fetch_and(&seen[token], TIMES | UNSENT);
    atomic_fetch_add(&seen[token], ((uint32_t)connection << PLACE) + 1);
}

void seen_note_unsent(uint64_t token)
{
    if (token < SEEN_TOKENS)
        atomic_fetch_or(&seen[token], UNSENT);
}

unsigned seen_times(uint64_t token)
{
    return token < SEEN_TOKENS ? atomic_load(&seen[token]) & TIMES : 1;
}

unsigned seen_connection(uint64_t token)
{
    return atomic_load(&seen[token]) >> PLACE;
}

void seen_check(unsigned most)
{
    uint64_t count = atomic_load(&tokens);

    for (uint64_t i = 0; i < count && i < SEEN_TOKENS; i++) {
        uint32_t what = atomic_load(&seen[i]);

        if ((what & TIMES) > most)
            stress_fail("t%llu came %u times", (unsigned long long)i, what & TIMES);
        if ((what & UNSENT) && (what & TIMES))
            stress_fail("t%llu came, and was said not to be sent", (unsigned long long)i);
        atomic_store(&seen[i], 0);
    }
    atomic_store(&tokens, 0);
}
