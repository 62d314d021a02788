/* tls_client.c: see tls_client.h. */
#include "net/tls_client.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "support/tests.h"

struct pl_tls_settings *settings_of(const struct pool_tls_options *options)
{
    struct pool_error error = POOL_ERROR_INIT;
    struct pl_tls_settings *settings;
    struct pool_tls *tls;

    cr_assert_eq(pool_tls_create(options, &tls, &error), POOL_OK, "%s", error.text);
    settings = pl_tls_settings_take(tls);
    pool_tls_free(tls);
    return settings;
}

struct client client_dial(const struct tls_peer *peer, struct pl_tls_settings *settings,
                          struct pl_tls_sessions *sessions, const char *name)
{
    struct client client = { .fd = tls_peer_dial(peer) };
    struct pl_tls_wish wish = { .name = { name, strlen(name) } };

    cr_assert_eq(pl_tls_create(settings, sessions, &wish, &client.tls), 0);
    return client;
}

/* False: nothing came for too long. */
static bool await(struct client *client, short events)
{
    struct pollfd polled = { client->fd, events, 0 };

    return poll(&polled, 1, SOON) == 1;
}

int client_shake(struct client *client)
{
    short wants;
    int error;

    while ((error = pl_tls_handshake(client->tls, client->fd, &wants)) == -EAGAIN) {
        if (!await(client, wants))
            return ETIME;
    }
    client->error = -error;
    return -error;
}

struct client client_open(const struct tls_peer *peer, struct pl_tls_settings *settings,
                          struct pl_tls_sessions *sessions, const char *name)
{
    struct client client = client_dial(peer, settings, sessions, name);

    cr_assert_eq(client_shake(&client), 0, "%s", client_sentence(&client, POOL_PHASE_TLS));
    return client;
}

void client_close(struct client *client)
{
    pl_tls_shutdown(client->tls, client->fd);
    pl_tls_free(client->tls);
    close(client->fd);
}

bool client_say(struct client *client, const char *bytes, size_t size)
{
    struct iovec piece;
    short wants;
    ssize_t sent;

    for (size_t done = 0; done < size;) {
        piece = (struct iovec){ (char *)bytes + done, size - done };
        sent = pl_tls_send(client->tls, client->fd, &piece, 1, &wants);
        if (sent == -EAGAIN && await(client, wants))
            continue;
        if (sent <= 0) {
            client->error = (int)-sent;
            return false;
        }
        done += (size_t)sent;
    }
    return true;
}

size_t client_hear(struct client *client, char *bytes, size_t size)
{
    size_t have = 0;
    short wants;
    ssize_t got;

    client->error = 0;
    while (have < size) {
        got = pl_tls_recv(client->tls, client->fd, (struct iovec){ bytes + have, size - have },
                          &wants);
        if (got == -EAGAIN && await(client, wants))
            continue;
        if (got <= 0) {
            client->error = (int)-got;
            break;
        }
        have += (size_t)got;
    }
    return have;
}

bool client_echo(struct client *client, const char *text)
{
    char back[256];
    size_t size = strlen(text);

    return client_say(client, text, size) && client_hear(client, back, size) == size &&
           memcmp(back, text, size) == 0;
}

bool client_order(struct client *client, const char *order)
{
    return client_say(client, order, strlen(order));
}

struct pl_failure client_failure(struct client *client, enum pool_phase phase)
{
    return pl_tls_failure(client->tls, client->error, phase);
}

const char *client_sentence(struct client *client, enum pool_phase phase)
{
    static struct pool_error error;
    struct pl_failure failure = client_failure(client, phase);

    error = (struct pool_error)POOL_ERROR_INIT;
    pl_failure_tell(&failure, NULL, "tls://peer:1", &error);
    return error.text;
}
