/* demo_stolen.c: other code of the program replaces a descriptor of the pool by one of its own,
 * as a close() too many does. The pool must notice, and leave the stranger alone. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/demo.h"

struct theft {
    uint64_t worked, untouched, still_open;
};

static int note_descriptor(struct pool_conn *conn, void *user)
{
    *(int *)user = pool_conn_fd(conn);
    return 0;
}

/* Answers whether nothing came out of the foreign socket's other end, not even its end. */
static bool is_silent(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/* Answers whether what is written to one end still comes out of the other. */
static bool carries(int from, int to)
{
    char byte = 0;

    return send(from, "x", 1, MSG_NOSIGNAL) == 1 && recv(to, &byte, 1, MSG_DONTWAIT) == 1 &&
           byte == 'x';
}

/* Puts a foreign socket in the place of an idle connection's, then borrows. */
static void steal(struct demo *demo, struct pool *pool, int idle_ms, struct theft *theft)
{
    const char *address = demo->peer.address[DEMO_STOLEN];
    struct pool_error error = POOL_ERROR_INIT;
    int pair[2], number = -1;

    if (pool_communicate(pool, address, note_descriptor, &number, POOL_CALL(.error = &error))) {
        show_trouble(&demo->show, error.text);
        return;
    }
    poll(NULL, 0, idle_ms);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) || dup2(pair[0], number) < 0) {
        show_trouble(&demo->show, "cannot steal: no descriptors");
        return;
    }
    theft->worked += demo_ask(demo, pool, address, "after the theft");
    theft->untouched += is_silent(pair[1]);
    theft->still_open += carries(number, pair[1]);
    close(number);
    close(pair[0]);
    close(pair[1]);
    show_step(&demo->show);
}

void demo_stolen(struct demo *demo)
{
    struct pool *pool = demo_pool(demo, POOL_OPTIONS(.park_ms = 20));
    struct pool_stats stats = { .size = sizeof(stats) };
    struct theft theft = { .worked = 0 };

    show_begin(&demo->show, "descriptors are stolen, one hot and one parked", 2);
    steal(demo, pool, 0, &theft);
    steal(demo, pool, 200, &theft);
    show_end(&demo->show);
    pool_stats(pool, &stats);
    pool_destroy(pool);

    show_check(&demo->show, "thefts that the pool noticed", SHOW_EXACTLY, 2, stats.stolen);
    show_check(&demo->show, "questions answered right after a theft", SHOW_EXACTLY, 2,
               theft.worked);
    show_check(&demo->show, "foreign sockets that got not one byte", SHOW_EXACTLY, 2,
               theft.untouched);
    show_check(&demo->show, "foreign sockets that are still open", SHOW_EXACTLY, 2,
               theft.still_open);
}
