/* peer.h: the other end of the figures: a server in a process of its own, which echoes or does what
 * a figure has it do.
 *
 * It does the least that an epoll server can, so that what is measured is this end. It listens on
 * the same port of several loopback addresses, which gives more connections than one address has
 * ports. It is killed with the thread that started it.
 */
#ifndef TEST_BENCH_PEER_H
#define TEST_BENCH_PEER_H

#include <sys/types.h>

#define ECHO_ADDRESSES 4u

struct echo {
    pid_t pid;
    unsigned short port;
    char addresses[ECHO_ADDRESSES][32]; /* for pool_borrow() */
};

/* Starts it on one core; any core if `core` is negative. */
void echo_start(struct echo *echo, int core);

/* The same with something else than an echo: `answer` runs whenever a connection can be read, and
 * closes it when it has ended. */
typedef void answer_fn(int fd);
void echo_start_as(struct echo *echo, int core, answer_fn *answer);
void echo_stop(struct echo *echo);

/* A bare blocking connection to the nth of its addresses, with TCP_NODELAY like the pool's. */
int echo_connect(const struct echo *echo, unsigned nth);

#endif
