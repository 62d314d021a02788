/* open.c: see open.h. Everything after the first post runs on the mux thread, which owns
 * connections in the states OPENING and SETUP. Allocations are made before anything is promised.
 */
#include "pool/open.h"

#include <errno.h>

#include "base/os.h"
#include "net/address.h"
#include "net/dialer.h"
#include "pool/backoff.h"
#include "pool/channel.h"
#include "pool/decide.h"
#include "pool/events.h"
#include "pool/identity.h"
#include "pool/names.h"
#include "pool/pool.h"
#include "pool/secure.h"
#include "pool/spare.h"
#include "pool/waiter.h"

#define UNSENT_MOST 131072u             /* bytes of queries that a socket takes and cannot send yet:
                                         * what the kernel has cannot be withdrawn */

static struct pool *pool_of(const struct pl_connection *connection)
{
    return connection->peer->pool;
}

static bool is_closing(const struct pl_peer *peer)
{
    return atomic_load(&peer->hints) & PL_HINT_CLOSING;
}

static struct pl_failure dial_failure(const struct pl_dial *dial, int error)
{
    if (dial->failure.status)
        return dial->failure;
    if (!dial->reason)
        return pl_failure_of_errno(error, dial->phase);
    if (dial->reason == PL_REASON_SOCKET || dial->reason == PL_REASON_RESOLVED)
        error = dial->answer;
    return pl_failure_because(dial->reason, dial->phase, error);
}

static void drop_dial(struct pl_connection *connection)
{
    if (!connection->dial)
        return;
    pl_dial_close(connection->dial);
    pl_os->free(connection->dial);
    connection->dial = NULL;
}

/* ---- the end of an attempt */

static void note_result(struct pl_peer *peer, const struct pl_failure *failure, bool is_ready)
{
    pthread_mutex_lock(&peer->lock);
    peer->shared.was_asked = peer->shared.was_asked && (failure->status || peer->shared.is_wanting);
    if (!is_ready)
        pl_spare_fail(peer, failure);
    pthread_mutex_unlock(&peer->lock);
}

/* Keeps the peer, and keeps it from dialing for those who are about to be told that it is no
 * use. */
static void hold_supply(struct pl_peer *peer)
{
    pl_pool_ref(peer->pool);
    pthread_mutex_lock(&peer->lock);
    peer->shared.users++;
    peer->shared.holds++;
    pthread_mutex_unlock(&peer->lock);
}

static void release_supply(struct pl_peer *peer)
{
    struct pool *pool = peer->pool;

    if (pl_pool_is_forked(pool))
        return;
    pthread_mutex_lock(&peer->lock);
    peer->shared.holds--;
    pthread_mutex_unlock(&peer->lock);
    pl_peer_supply(peer);
    pl_peer_leave(peer);
    pl_pool_leave(pool);
}

/* Nobody else can serve those who wait: no connection stands, none is on its way. */
static bool is_hopeless(struct pl_peer *peer)
{
    bool is_hopeless;

    pthread_mutex_lock(&peer->lock);
    is_hopeless = peer->shared.count == 0;
    pthread_mutex_unlock(&peer->lock);
    return is_hopeless;
}

/* From OPENING or SETUP to its end. Who only waits for room goes on waiting, and is not told; all
 * others are told when the connection is gone, so that they find its descriptor free and its share
 * of the caps given back. */
static void end_attempt(struct pl_connection *connection, const struct pl_failure *failure,
                        bool is_told)
{
    struct pl_peer *peer = connection->peer;
    static const struct pl_failure none = { .status = POOL_OK };
    struct pl_failure told = *failure;
    int verdict = pl_peer_verdict(connection);
    bool is_replaced = verdict == POOL_CLOSE_STALE || verdict == POOL_CLOSE_STOLEN;
    bool is_killed = atomic_load(&connection->doom) == PL_DOOM_KILLED;
    uint64_t begun_ns = connection->opened_ns;

    drop_dial(connection);
    pl_set(connection->failure, pl_failure_pack(told));
    note_result(peer, is_replaced ? &none : &told, false);
    hold_supply(peer);
    if (is_closing(peer))
        pl_peer_close(connection, POOL_CLOSE_POOL);
    else if (is_replaced)               /* who waits now waits for another one */
        pl_peer_close(connection, (enum pool_close_reason)verdict);
    else
        pl_peer_close(connection, told.status ? POOL_CLOSE_ERROR : POOL_CLOSE_IDLE);
    if (pl_pool_is_forked(peer->pool))
        return;
    if (told.status && is_told && !is_replaced) {
        if (!is_killed)                 /* that is no fault of the peer's */
            pl_backoff_fail(peer, begun_ns, &told);
        pl_peer_fail_waiters(peer, &told, begun_ns, is_hopeless(peer));
    }
    release_supply(peer);
}

void pl_open_give_up(struct pl_connection *connection, const struct pl_failure *failure)
{
    end_attempt(connection, failure, true);
}

/* False: the pool ends, or this one was ordered to; it is closed now. */
static bool may_go_on(struct pl_connection *connection)
{
    struct pl_failure failure;

    if (!is_closing(connection->peer) && pl_peer_verdict(connection) < 0)
        return true;
    failure = pl_open_ordered_failure(connection);
    pl_open_give_up(connection, &failure);
    return false;
}

bool pl_open_may_wait_for_room(struct pl_peer *peer, bool *was_told)
{
    const struct pool_options *options = &peer->pool->settings.options;
    bool was_asked, may_wait;

    pthread_mutex_lock(&peer->lock);
    was_asked = peer->shared.was_asked;
    peer->shared.was_asked = true;
    pthread_mutex_unlock(&peer->lock);
    *was_told = !was_asked && options->on_none_removable;
    may_wait = was_asked || pl_room_ask(peer->pool, options->on_none_removable) == POOL_CONTINUE;
    if (may_wait || pl_pool_is_forked(peer->pool))
        return true;
    pthread_mutex_lock(&peer->lock);
    peer->shared.was_asked = false;     /* whoever comes next is asked for anew */
    pthread_mutex_unlock(&peer->lock);
    return false;
}

/* Whoever waits, waits for room from now on. */
static void note_short(struct pl_connection *connection, int error)
{
    struct pl_peer *peer = connection->peer;

    pthread_mutex_lock(&peer->lock);
    pl_room_note_short(peer, error);
    connection->is_short = true;
    pthread_mutex_unlock(&peer->lock);
}

static void note_not_short(struct pl_connection *connection)
{
    struct pl_peer *peer = connection->peer;

    if (!connection->is_short)
        return;
    pthread_mutex_lock(&peer->lock);
    connection->is_short = peer->shared.is_short = false;
    pthread_mutex_unlock(&peer->lock);
}

/* Nothing could be evicted. The waiters stay, and the peer asks for room. */
static void give_up_for_room(struct pl_connection *connection, int error)
{
    struct pl_peer *peer = connection->peer;
    struct pool *pool = peer->pool;
    struct pl_failure failure = pl_failure_of_errno(error, POOL_PHASE_CONNECT), none = { 0 };
    bool may_wait, was_told;

    failure.status = POOL_E_RESOURCE;
    if (pl_pool_is_forked(pool))
        return;
    if (!pl_peer_has_waiters(peer)) {
        pl_open_give_up(connection, &none);
        return;
    }
    if (!pl_peer_has_patient(peer)) {
        pl_open_give_up(connection, &failure);
        return;
    }
    note_short(connection, error);
    pl_peer_fail_hasty(peer, &failure);
    connection->dial->is_begun = false;         /* the program is asked, and may end the pool */
    may_wait = pl_open_may_wait_for_room(peer, &was_told);
    if (pl_pool_is_forked(pool))
        return;
    if (is_closing(peer))
        failure = pl_open_ordered_failure(connection);
    if (!may_wait || is_closing(peer)) {
        pl_open_give_up(connection, &failure);
        return;
    }
    if (!was_told)                      /* else the next dial, at once, sees what it freed */
        pl_room_want(pool->room, peer, true, error);
    end_attempt(connection, &failure, false);
}

/* ---- setting up */

static uint64_t scattered(uint64_t span_ns, uint64_t seed)
{
    seed = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
    return span_ns - span_ns / 10 + (seed >> 11) % (span_ns / 5 + 1);      /* +- 10 % */
}

void pl_open_note_birth(struct pl_connection *connection, uint64_t now_ns)
{
    const struct pool_options *options = &pool_of(connection)->settings.options;
    uint64_t age_ns = options->max_age_ms * PL_MS;

    pl_set(connection->expires_ns, PL_NEVER);
    if (options->max_age_ms != POOL_NONE)
        pl_set(connection->expires_ns,
               pl_after(now_ns, scattered(age_ns, connection->id ^ connection->cookie)));
    pl_set(connection->max_uses, options->max_uses == POOL_NONE ? UINT64_MAX : options->max_uses);
    pl_set(connection->is_prepared, options->prepare == NULL);
    pl_set(connection->last_used_ns, now_ns);
}

static uint32_t us_between(uint64_t begin_ns, uint64_t end_ns)
{
    uint64_t us = end_ns > begin_ns ? (end_ns - begin_ns) / 1000 : 0;

    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static void note_dialed(struct pl_connection *connection, uint64_t now_ns)
{
    const struct pl_dial *dial = connection->dial;
    uint64_t begun_ns = connection->opened_ns;

    if (!pl_address_is_literal(dial->address)) {
        connection->took_us[POOL_PHASE_RESOLVE] = us_between(begun_ns, dial->connecting_ns);
        begun_ns = dial->connecting_ns;
    }
    connection->took_us[POOL_PHASE_CONNECT] = us_between(begun_ns, dial->connected_ns);
    if (dial->tls)
        connection->took_us[POOL_PHASE_TLS] = us_between(dial->connected_ns, now_ns);
}

static void become_ready(struct pl_connection *connection)
{
    static const struct pl_failure none = { 0 };
    struct pl_peer *peer = connection->peer;
    struct pool *pool = peer->pool;

    if (pool->settings.options.on_new_connection && connection->dial)
        connection->took_us[POOL_PHASE_SETUP] =
            us_between(connection->dial->ended_ns, pl_os->now_ns());
    drop_dial(connection);
    pl_os->set_nonblocking(connection->fd, false);
    note_result(peer, &none, true);
    pl_backoff_succeed(peer);
    pl_spare_begin(peer);
    pl_pool_count(pool, &pool->books.opened);
    pl_event_ready(pool, connection);
    pl_channel_settle(connection);
    connection->is_fresh = true;
    pl_pool_ref(pool);
    pl_peer_join(peer);
    pl_peer_give_back(peer, connection);
    pl_peer_supply(peer);               /* max_connecting held others back, who still wait */
    if (atomic_load(&pl_room_wanted))
        pl_room_serve(pool->room, NULL, true);  /* descriptors are to be had again */
    pl_peer_leave(peer);
    pl_pool_leave(pool);
}

void pl_open_finish(struct pl_connection *connection, const struct pl_failure *failure)
{
    struct pl_failure told = *failure;

    if (told.status) {
        pl_open_give_up(connection, &told); /* and whoever watches it is told that it ended */
        return;
    }
    if (!may_go_on(connection))
        return;
    if (pl_channel_defers_ready(connection))
        return;                         /* it is being secured, and goes on from there */
    pl_channel_stop_watching(connection);
    if (!pl_connection_is_ours(connection))     /* the hook took its time */
        told = pl_failure_make(POOL_E_BROKEN, POOL_PHASE_SETUP, EBADF);
    else if (pl_channel_is_busy(connection))
        told = pl_failure_make(POOL_E_PROTOCOL, POOL_PHASE_SETUP, 0);
    else if (pl_get(connection->expires_ns) == 0)       /* the hook itself drained it */
        told = pl_failure_because(PL_REASON_DRAINED, POOL_PHASE_SETUP, 0);
    else if (pl_get(connection->is_prepared) && pl_secure_is_missing(connection))
        told = pl_failure_because(PL_REASON_CLEAR, POOL_PHASE_TLS, 0);
    if (told.status) {
        pl_open_give_up(connection, &told);
        return;
    }
    become_ready(connection);
}

static struct pl_failure hook_failure(struct pl_connection *connection, int answer)
{
    struct pl_failure failure = pl_failure_unpack(pl_get(connection->failure));

    if (!failure.status)
        failure = pl_failure_because(PL_REASON_HOOK, POOL_PHASE_SETUP, answer);
    failure.phase = POOL_PHASE_SETUP;
    return failure;
}

static void set_up(struct pl_connection *connection)
{
    struct pl_failure failure = { 0 };
    int answer = 0;

    if (pool_of(connection)->settings.options.on_new_connection) {
        if (!pl_channel_call_hook(connection, &answer)) {
            failure = pl_failure_make(pl_channel_refusal(pool_of(connection)), POOL_PHASE_SETUP, 0);
            pl_open_finish(connection, &failure);
            return;
        }
        if (answer == POOL_LATER)
            return;
        if (answer)
            failure = hook_failure(connection, answer);
    }
    pl_open_finish(connection, &failure);
}

/* ---- dialing */

static int ask_on_resolved(struct pl_dial *dial, const struct sockaddr *place, socklen_t size)
{
    const struct pool_options *options = &pool_of(dial->connection)->settings.options;

    return options->on_resolved(pool_address_text(dial->address), place, size, options->user);
}

static int ask_on_socket(struct pl_dial *dial, int fd)
{
    const struct pool_options *options = &pool_of(dial->connection)->settings.options;

    return options->on_socket(fd, pool_address_text(dial->address), options->user);
}

/* For one that somebody waits for; a spare is not worth another connection. */
static bool make_room(struct pl_dial *dial)
{
    struct pl_connection *connection = dial->connection;

    return pl_peer_has_waiters(connection->peer) &&
           pl_room_evict(pool_of(connection)->room, NULL);
}

static bool may_dial_on(struct pl_dial *dial)
{
    if (pl_dial_has_socket(dial))
        note_not_short(dial->connection);
    return may_go_on(dial->connection);
}

static void on_setup_timeout(void *user)
{
    struct pl_dial *dial = user;
    struct pl_failure failure =
        pl_failure_because(PL_REASON_DEADLINE, pl_channel_phase(dial->connection), ETIMEDOUT);

    /* Whoever watches it is told by the connection's end. */
    pl_open_give_up(dial->connection, &failure);
}

void pl_open_give_time(struct pl_connection *connection, uint32_t ms)
{
    struct pl_dial *dial = connection->dial;

    if (ms == POOL_NONE)
        pl_mux_timer_disarm(dial->mux, &dial->timer);
    else
        pl_mux_timer_arm(dial->mux, &dial->timer, pl_after(pl_os->now_ns(), ms * PL_MS));
}

static void finish_dial(struct pl_dial *dial, int error)
{
    struct pl_connection *connection = dial->connection;
    struct pool *pool = pool_of(connection);
    uint64_t now_ns = pl_os->now_ns();
    struct pl_failure failure;

    pl_names_note_failures(connection->peer);
    if (pl_dial_is_shortage(dial->reason, error)) {
        give_up_for_room(connection, error);
        return;
    }
    note_not_short(connection);
    if (error) {
        failure = dial_failure(dial, error);
        pl_open_give_up(connection, &failure);
        return;
    }
    pl_open_note_birth(connection, now_ns);
    dial->ended_ns = now_ns;
    note_dialed(connection, now_ns);
    if (dial->won)
        pl_names_note_place(connection->peer, dial);
    pl_word_move(&connection->word, pl_word_handed(atomic_load(&connection->word), PL_SETUP));
    dial->timer.fire = on_setup_timeout;
    dial->timer.user = dial;
    pl_open_give_time(connection, pool->settings.options.connect_ms);
    set_up(connection);
}

static void on_dialed(struct pl_dial *dial, int error)
{
    struct pool *pool = pool_of(dial->connection);
    uint32_t robbed = dial->connection->robbed;

    if (!robbed) {
        finish_dial(dial, error);
        return;
    }
    pl_pool_ref(pool);
    finish_dial(dial, error);
    pl_identity_forget_robbed(pool, robbed);
    pl_pool_leave(pool);
}

/* Is it to be there although nobody waits? */
static bool is_spare(struct pl_peer *peer)
{
    bool is_spare;

    pthread_mutex_lock(&peer->lock);
    is_spare = peer->shared.count <= pl_spare_least(peer);
    pthread_mutex_unlock(&peer->lock);
    return is_spare;
}

static void on_mux(struct pl_post *post)
{
    struct pl_dial *dial = pl_container(post, struct pl_dial, post);
    struct pl_connection *connection = dial->connection;
    struct pl_peer *peer = connection->peer;
    static const struct pl_failure nobody_needs_it;
    struct pl_failure failure;
    struct pl_names *names;

    if (!may_go_on(connection))
        return;
    if (!pl_peer_has_waiters(peer) && !is_spare(peer)) {
        pl_open_give_up(connection, &nobody_needs_it); /* a connection came back first */
        return;
    }
    names = pl_names_of(peer);
    if (names) {
        dial->grudges = &names->grudges;
        dial->resolver = pl_names_resolver(pool_of(connection)->room);
    }
    if (pl_secure_dial(peer, dial) &&
        (dial->resolver || pl_address_is_literal(dial->address))) {
        pl_dial_start(dial);
        return;
    }
    failure = pl_failure_make(POOL_E_MEMORY, POOL_PHASE_CONNECT, ENOMEM);
    pl_open_give_up(connection, &failure);
}

void pl_open_on_event(struct pl_connection *connection)
{
    if (connection->dial)
        pl_dial_on_event(connection->dial, connection);
}

/* ---- the beginning */

static const struct pl_dial_ops ops = {
    .on_place = ask_on_resolved,
    .on_socket = ask_on_socket,
    .make_room = make_room,
    .may_go_on = may_dial_on,
    .on_end = on_dialed,
};

static struct pl_dial *make_dial(struct pool *pool, struct pl_peer *peer)
{
    const struct pool_options *options = &pool->settings.options;
    struct pl_dial *dial = pl_zalloc(sizeof(*dial));

    if (!dial)
        return NULL;
    dial->connection = pl_connection_take();
    if (!dial->connection)
        goto no_connection;
    dial->post = (struct pl_post){ .run = on_mux, .owner = pool };
    dial->mux = pool->mux;
    dial->address = peer->address;
    dial->ops = &ops;
    dial->asks_places = options->on_resolved != NULL;
    dial->shows_sockets = options->on_socket != NULL;
    dial->deadline_ns = PL_NEVER;
    if (options->connect_ms != POOL_NONE)
        dial->deadline_ns = pl_after(pl_os->now_ns(), options->connect_ms * PL_MS);
    if (options->timeout_ms != POOL_NONE && options->timeout_ms <= INT32_MAX)
        dial->user_timeout_ms = options->timeout_ms;
    if (options->codec)
        dial->unsent_most = UNSENT_MOST;
    if (!pl_dial_open(dial))
        goto no_timer;
    return dial;

no_timer:
    pl_word_move(&dial->connection->word,
                 pl_word_with(atomic_load(&dial->connection->word), PL_CLOSING));
    pl_connection_give(dial->connection);
no_connection:
    pl_os->free(dial);
    return NULL;
}

static void begin(struct pool *pool, struct pl_peer *peer, struct pl_dial *dial)
{
    struct pl_connection *connection = dial->connection;

    pl_set(connection->peer, peer);
    connection->mux = pool->mux;
    connection->limits = pool->settings.limits;
    pl_set(connection->is_shown, pool->settings.options.on_socket != NULL);
    connection->dial = dial;
    connection->is_opening = true;
    connection->id = atomic_fetch_add(&pool->last_id, 1) + 1;
    connection->opened_ns = pl_os->now_ns();
    pl_pool_ref(pool);
    pthread_mutex_lock(&peer->lock);
    pl_set(connection->epoch, atomic_load(&peer->epoch));
    peer->shared.is_short = peer->shared.is_short && peer->shared.short_of; /* of a cap no more */
    connection->is_short = peer->shared.is_short;
    pl_list_push_back(&peer->shared.all, &connection->all_link);
    pthread_mutex_unlock(&peer->lock);
    pl_event_created(pool, connection);
    pl_mux_post(pool->mux, &dial->post);
}

bool pl_open_begin(struct pl_peer *peer)
{
    struct pl_dial *dial = make_dial(peer->pool, peer);

    if (!dial)
        return false;
    begin(peer->pool, peer, dial);
    return true;
}
