/* hello.c: asks a peer one line and prints the line that it answers: the program of the README.
 *
 *     ./examples/run hello tcp://127.0.0.1:6379
 *
 * Any peer that answers a line with a line will do: an echo server, or Redis, which says +PONG. */
#include <commpool/pool.h>
#include <stdio.h>

static int ask(struct pool_conn *conn, void *user)
{
    struct pool_bytes question = *(struct pool_bytes *)user, line;

    if (pool_send(conn, question.data, question.size) || pool_recv_until(conn, "\n", 1, &line))
        return -1;
    return printf("%.*s", (int)line.size, (const char *)line.data) < 0;
}

int main(int argc, char **argv)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pool *pool = NULL;
    enum pool_status status;

    if (pool_create(NULL, &pool) != POOL_OK)
        return 1;
    status = pool_communicate(pool, argc > 1 ? argv[1] : "tcp://127.0.0.1:6379", ask,
                              &POOL_TEXT("PING\r\n"), POOL_CALL(.error = &error));
    if (status != POOL_OK)
        fprintf(stderr, "%s\n", error.text);
    pool_destroy(pool);
    return status != POOL_OK;
}
