/* pubsub.c: receives messages that Redis sends unasked, while another pool publishes them.
 *
 *     ./examples/run pubsub 127.0.0.1:6379 [count]
 *
 * It shows an actor (support/inbox.c): the hook on_new_connection subscribes, event-driven, and
 * names who gets what arrives while the connection is idle. No thread waits for it, and nobody
 * borrows the connection meanwhile. */
#include <commpool/pool.h>
#include <stdio.h>

#include "support/arguments.h"
#include "support/inbox.h"

/* Borrowing opens the connection; nothing needs doing on it. */
static int look(struct pool_conn *conn, void *user)
{
    (void)user;
    printf("listening over connection %llu\n", (unsigned long long)pool_conn_id(conn));
    return 0;
}

/* Publishes message number *user; Redis answers how many subscribers got it. */
static int publish(struct pool_conn *conn, void *user)
{
    char command[256];
    struct pool_bytes line;
    int size = snprintf(command, sizeof(command), "PUBLISH commpool:example message-%ld\r\n",
                        *(long *)user);

    if (pool_send(conn, command, (size_t)size) != POOL_OK ||
        pool_recv_until(conn, "\r\n", 2, &line) != POOL_OK)
        return -1;
    return *(const char *)line.data == ':' ? 0 : -1;
}

/* Answers whether all `count` messages were published and heard. */
static bool run(struct pool *listening, struct pool *talking, const char *address,
                struct inbox *inbox, long count)
{
    struct pool_error error = POOL_ERROR_INIT;
    const struct pool_call *call = POOL_CALL(.error = &error);
    enum pool_status status = pool_communicate(listening, address, look, NULL, call);

    for (long message = 1; message <= count && status == POOL_OK; message++)
        status = pool_communicate(talking, address, publish, &message, call);
    if (status != POOL_OK) {
        fprintf(stderr, "pubsub: %s\n", error.text);
        return false;
    }
    return inbox_wait(inbox, count, 10) == count;
}

int main(int argc, char **argv)
{
    static struct inbox inbox = INBOX_INIT("commpool:example");
    long count = argument_number(argc, argv, 2, 5, 1000000);
    struct pool *listening = NULL, *talking = NULL;
    bool is_right = false;
    char address[256];

    if (!count || !argument_address(argc, argv, "pubsub 127.0.0.1:6379 [count]", address))
        return 2;
    if (pool_create(POOL_OPTIONS(.on_new_connection = inbox_open, .user = &inbox,
                                 .idle_ms = POOL_NONE, .max_age_ms = POOL_NONE),
                    &listening) == POOL_OK &&
        pool_create(NULL, &talking) == POOL_OK)
        is_right = run(listening, talking, address, &inbox, count);
    pool_destroy(talking);
    pool_destroy(listening);
    printf("%ld of %ld messages heard\n", inbox.heard, count);
    return is_right ? 0 : 1;
}
