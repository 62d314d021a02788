/* tls_stage.c: see tls_stage.h. */
#include "net/tls_stage.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>

#include "base/os.h"

struct credential *authority, *credential;
struct pl_tls_settings *settings;
struct tls_peer *peer;
struct stage_door door;

static bool is_refused(void)
{
    door.calls++;
    door.state = door.state * 1103515245 + 12345;
    return (door.state >> 16) % 100 < door.refuse;
}

static ssize_t door_recv(int fd, void *buffer, size_t size, int flags)
{
    ssize_t got;

    if (door.read >= door.end_after)
        return 0;
    if (is_refused() || door.read >= door.arrived)
        return -EAGAIN;
    if (size > door.arrived - door.read)
        size = door.arrived - door.read;
    if (door.most && size > door.most)
        size = door.most;
    if (size > door.end_after - door.read)
        size = door.end_after - door.read;
    got = pl_os_real.recv(fd, buffer, size, flags);
    if (got > 0)
        door.read += (size_t)got;
    return got;
}

static ssize_t door_send(int fd, const void *data, size_t size, int flags)
{
    ssize_t sent;

    cr_expect(flags & MSG_NOSIGNAL);
    if (is_refused() || !door.room)
        return -EAGAIN;
    if (door.most && size > door.most)
        size = door.most;
    if (size > door.room)
        size = door.room;
    sent = pl_os_real.send(fd, data, size, flags);
    if (sent > 0 && door.room != SIZE_MAX)
        door.room -= (size_t)sent;
    return sent;
}

static ssize_t door_read_file(const char *path, size_t most, char **text)
{
    door.files++;
    return pl_os_real.read_file(path, most, text);
}

static struct pl_os wrapped;

void tls_stage_begin(void)
{
    signal(SIGPIPE, SIG_DFL);
    door.end_after = door.room = door.arrived = SIZE_MAX;
    door.state = 1;
    wrapped = pl_os_real;
    wrapped.recv = door_recv;
    wrapped.send = door_send;
    wrapped.read_file = door_read_file;
    pl_os_replace(&wrapped);
    authority = CREDENTIAL(NULL, .common_name = "test authority", .is_authority = true);
    credential = CREDENTIAL(authority, .names = "DNS:db.test");
    settings = SETTINGS(.ca_pem = authority->certificate);
}

void tls_stage_end(void)
{
    pl_tls_settings_release(settings);
    tls_peer_stop(peer);
    credential_free(credential);
    credential_free(authority);
    pl_os_replace(NULL);
}

struct client open_to(const struct tls_peer_options *options)
{
    peer = tls_peer_start(options);
    return client_open(peer, settings, NULL, "db.test");
}

bool is_readable(const struct client *client)
{
    struct pollfd polled = { client->fd, POLLIN, 0 };

    return poll(&polled, 1, SOON) == 1;
}

enum pl_tls_look look_until_it_is_not(struct client *client, enum pl_tls_look now)
{
    enum pl_tls_look seen = now;

    for (unsigned i = 0; i < 100 && seen == now && is_readable(client); i++)
        seen = pl_tls_peek(client->tls, client->fd);
    return seen;
}
