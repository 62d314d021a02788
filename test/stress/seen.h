/* seen.h: what the peer saw of requests that carry a token each, which is used once: how often it
 * came, and on which connection at last; and of which it was said that they were not sent.
 *
 * Any thread may call; one thread notes what it saw of a token. */
#ifndef TEST_STRESS_SEEN_H
#define TEST_STRESS_SEEN_H

#include <stddef.h>
#include <stdint.h>

#define SEEN_TOKENS (1u << 22) /* tokens from here on are not looked after */

uint64_t seen_new_token(void);

/* A token stands in a text as 't' and digits, near its beginning. SEEN_TOKENS: there is none. */
uint64_t seen_token_in(const char *text, size_t size);

void seen_note(uint64_t token, unsigned connection);
void seen_note_unsent(uint64_t token);
unsigned seen_times(uint64_t token); /* 1 where it is not looked after */
unsigned seen_connection(uint64_t token);

/* Fails the program where one came more often than that, or came though it was not sent; begins
 * anew. Nobody else is there. */
void seen_check(unsigned most);

#endif
