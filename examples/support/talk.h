/* talk.h: PING, SET and GET on a Redis server, event by event: what the examples of loops do in
 * their loops. It blocks nowhere; everything happens in callbacks on the mux thread. */
#ifndef EXAMPLES_TALK_H
#define EXAMPLES_TALK_H

#include <commpool/pool.h>
#include <stdbool.h>

struct talk {
    bool is_over;
    bool has_failed; /* and the reason was printed */
    /* the talk's own */
    const char *address;
    unsigned answered;
    char reply[512];
    size_t got;
};

/* Borrows a connection and begins; from then on the callbacks go on. `talk` is all zeros and stays
 * where it is until it is over, the address too. */
void talk_begin(struct talk *talk, struct pool *pool, const char *address);

#endif
