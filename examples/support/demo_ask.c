/* demo_ask.c: one question to the demo's peer, whose answer must be the question's own. */
#include <stdio.h>
#include <string.h>

#include "support/demo.h"

struct question {
    const char *token;
    char answer[64];
};

static int ask(struct pool_conn *conn, void *user)
{
    struct question *question = user;
    struct pool_bytes line;
    char text[80];
    int size = snprintf(text, sizeof(text), "echo %s\n", question->token);

    if (pool_send(conn, text, (size_t)size) != POOL_OK ||
        pool_recv_until(conn, "\n", 1, &line) != POOL_OK)
        return -1;
    snprintf(question->answer, sizeof(question->answer), "%.*s", (int)line.size - 1,
             (const char *)line.data);
    return 0;
}

bool demo_ask(struct demo *demo, struct pool *pool, const char *address, const char *token)
{
    struct question question = { .token = token };
    struct pool_error error = POOL_ERROR_INIT;
    char text[256];

    if (pool_communicate(pool, address, ask, &question, POOL_CALL(.error = &error)) != POOL_OK) {
        show_trouble(&demo->show, error.text);
        return false;
    }
    if (!strcmp(question.answer, token))
        return true;
    snprintf(text, sizeof(text), "asked %s, got %s", token, question.answer);
    show_trouble(&demo->show, text);
    return false;
}

struct pool *demo_pool(struct demo *demo, const struct pool_options *options)
{
    struct pool *pool = NULL;
    enum pool_status status = pool_create(options, &pool);

    if (status == POOL_OK)
        return pool;
    show_trouble(&demo->show, pool_status_text(status));
    return NULL;
}
