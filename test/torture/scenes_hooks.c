/* scenes_hooks.c: connections that are set up, actors, observers, and numbers that are stolen. */
#include "torture/scenes.h"

#include <string.h>

#define SECRET "AUTH secret\n"
#define WELCOME "OK\n"

/* ---- a peer that wants to be greeted first */

static void on_bytes(struct world_link *link, const char *bytes, size_t size, void *user)
{
    const char *all;
    size_t before = world_link_received(link, &all) - size, greeting = strlen(SECRET), skipped;

    (void)user;
    skipped = before < greeting ? greeting - before : 0;
    if (skipped > size)
        skipped = size;
    if (before < greeting && before + size >= greeting) {
        if (memcmp(all, SECRET, greeting)) {
            world_close(link);
            return;
        }
        world_say_text(link, WELCOME);
    }
    world_say(link, bytes + skipped, size - skipped);
}

static void listen_with_secret(struct torture *torture)
{
    torture->peer = WORLD_LISTEN(torture->world, TCP, .on_bytes = on_bytes);
}

static int authenticate(struct pool_conn *conn, void *user)
{
    struct pool_bytes line;

    (void)user;
    if (pool_send(conn, SECRET, strlen(SECRET)) || pool_recv_until(conn, "\n", 1, &line))
        return 1;
    return line.size == strlen(WELCOME) && !memcmp(line.data, WELCOME, line.size) ? 0 : 2;
}

static void ask_prepared(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_prepare = { "prepare", .options = { .prepare = authenticate },
                                        .furnish = listen_with_secret, .exercise = ask_prepared };

/* The same, event-driven. */
static void on_greeting(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                        void *user)
{
    struct torture *torture = user;

    torture_check(torture, !torture->gone);
    if (event == POOL_EV_READ && bytes.size && ((const char *)bytes.data)[bytes.size - 1] == '\n')
        pool_conn_ready(conn, POOL_OK);
    if (event == POOL_EV_TIMEOUT_READ)
        pool_conn_ready(conn, POOL_E_TIMEOUT);
}

static int greet(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    struct torture *torture = user;

    (void)actor;
    torture->setup = *conn;
    if (pool_conn_watch(conn, on_greeting, torture) || pool_conn_timeout(conn, POOL_READ, 500) ||
        pool_write(conn, SECRET, strlen(SECRET))) {
        torture->may_refuse = true;
        return 3;
    }
    return POOL_LATER;
}

const struct scenario scene_set_up = { "set-up", .options = { .on_new_connection = greet },
                                       .furnish = listen_with_secret, .exercise = ask_prepared };

static int reject(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn, (void)actor, (void)user;
    return 5;
}

static void ask_rejected(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP, .expected = POOL_E_USER);
}

const struct scenario scene_rejected = { "rejected", .options = { .on_new_connection = reject },
                                         .exercise = ask_rejected };

/* ---- actors */

static int on_message(struct pool_conn *conn, struct pool_bytes message, void *user)
{
    struct torture *torture = user;

    (void)conn;
    torture->heard += (unsigned)message.size;
    return 0;
}

static void on_gone(uint64_t connection, const struct pool_error *error, void *user)
{
    (void)connection, (void)error;
    ((struct torture *)user)->gone++;
}

static int attach(struct pool_conn *conn, struct pool_actor *actor, void *user)
{
    (void)conn;
    ((struct torture *)user)->attached++;
    actor->on_message = on_message;
    actor->on_close = on_gone;
    actor->user = user;
    return 0;
}

/* Answers how many bytes were said, on all connections together. */
static unsigned push_news(struct torture *torture)
{
    unsigned accepted = world_counts(torture->peer).accepted, said = 0;

    for (unsigned nth = 0; nth < accepted; nth++) {
        if (world_link_is_open(world_link_at(torture->peer, nth)))
            said += 5;
        world_say_text(world_link_at(torture->peer, nth), "news\n");
    }
    world_settle(torture->world);
    return said;
}

static void hear_news(struct torture *torture)
{
    unsigned said;

    TORTURE_ASK(torture, .address = TCP);
    torture->heard = 0;
    world_run(torture->world, 400);
    said = push_news(torture);
    torture_must(torture, said && torture->heard == said);
    TORTURE_ASK(torture, .address = TCP);
    said += push_news(torture); /* it is hot now: heard when it is looked at */
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 400);
    torture_must(torture, torture->heard == said);
}

static void all_are_gone(struct torture *torture)
{
    if (torture->gone != torture->attached)
        torture_fail(torture, "%u actors were told of the end of %u connections", torture->gone,
                     torture->attached);
}

const struct scenario scene_actor = { "actor", .options = { .on_new_connection = attach },
                                      .exercise = hear_news, .afterwards = all_are_gone };

/* Without an actor, unasked data closes the connection. */
static void hear_unasked(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 400);
    push_news(torture);
    TORTURE_ASK(torture, .address = TCP);
    push_news(torture);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_unasked = { "unasked", .exercise = hear_unasked };

/* ---- observers */

static void on_event(const struct pool_event_info *event, void *user)
{
    struct torture *torture = user;

    torture_check(torture, event->kind <= POOL_EVENT_RETURNED);
}

static void ask_observed(struct torture *torture)
{
    TORTURE_ASK(torture, .address = TCP);
    TORTURE_ASK(torture, .address = "tcp://10.0.0.9:80", .expected = POOL_E_REFUSED);
    world_close_all(torture->peer);
    world_settle(torture->world);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_observed = { "observed", .options = { .on_event = on_event },
                                         .exercise = ask_observed };

/* ---- stolen numbers */

static int note_fd(struct pool_conn *conn, void *user)
{
    struct torture *torture = user;

    torture->fd = pool_conn_fd(conn);
    return torture_exchange(conn, user);
}

/* Foreign code takes the number of the connection that was used last, if it is a connection's at
 * all. */
static bool steal(struct torture *torture)
{
    torture->fd = -1;
    if (TORTURE_ASK(torture, .address = TCP, .use = note_fd) || torture->fd < 0)
        return false;
    world_foreign_replace(torture->world, torture->fd);
    return true;
}

static void steal_and_tell(struct torture *torture)
{
    if (steal(torture)) {
        torture_must(torture, pool_mark_as_dead(torture->pool, torture->fd) == 1);
        TORTURE_ASK(torture, .address = TCP);
        world_foreign_close(torture->world, torture->fd);
    }
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_marked = { "marked", .exercise = steal_and_tell };

static void steal_hot(struct torture *torture)
{
    bool is_stolen = steal(torture);

    TORTURE_ASK(torture, .address = TCP);
    if (is_stolen)
        world_foreign_close(torture->world, torture->fd);
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_stolen_hot = { "stolen-hot", .exercise = steal_hot };

static void steal_parked(struct torture *torture)
{
    bool is_stolen;

    TORTURE_ASK(torture, .address = TCP, .use = note_fd);
    world_run(torture->world, 400);
    is_stolen = torture->fd >= 0 && world_counts(torture->peer).open;
    if (is_stolen)
        world_foreign_replace(torture->world, torture->fd);
    TORTURE_ASK(torture, .address = TCP);
    world_run(torture->world, 400);
    if (is_stolen)
        world_foreign_close(torture->world, torture->fd);
    torture->fd = -1;
    TORTURE_ASK(torture, .address = TCP);
}

const struct scenario scene_stolen_parked = { "stolen-parked", .exercise = steal_parked };
