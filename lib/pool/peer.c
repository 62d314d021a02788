/* peer.c: lending and taking back, under one short lock for each peer. Deciding is in decide.c;
 * opening in open.c. */
#include "pool/peer.h"

#include "base/os.h"
#include "commpool/address.h"
#include "net/tls_sessions.h"
#include "pool/ask.h"
#include "pool/channel.h"
#include "pool/close.h"
#include "pool/decide.h"
#include "pool/events.h"
#include "pool/exchange.h"
#include "pool/names.h"
#include "pool/open.h"
#include "pool/pool.h"
#include "pool/secure.h"
#include "pool/spare.h"
#include "pool/waiter.h"

static void prepare_peer(void *element)
{
    struct pl_peer *peer = element;

    pthread_mutex_init(&peer->lock, NULL);
    pl_list_init(&peer->shared.all);
    pl_list_init(&peer->shared.idle);
    pl_list_init(&peer->shared.waiters);
}

static struct pl_arena peers = PL_ARENA_INIT(peers, struct pl_peer, prepare_peer);
struct pl_peer pl_nowhere = { .lock = PTHREAD_MUTEX_INITIALIZER, .text = "" };

/* ---- life */

struct pl_peer *pl_peer_make(struct pool *pool, struct pool_address *address)
{
    struct pl_peer *peer = pl_arena_take(&peers);

    if (!peer)
        return NULL;
    pthread_mutex_lock(&peer->lock);
    peer->pool = pool;
    peer->address = address;
    peer->text = pool_address_text(address);
    atomic_store(&peer->hints, 0);
    peer->round = 0;
    peer->is_ended = false;
    peer->shared.users = 1;
    peer->shared.backoff = (struct pl_backoff){ 0 };
    peer->shared.keeps_spares = peer->shared.keeps_names = false;
    peer->shared.spare_ns = peer->shared.spare_lost_ns = 0;
    atomic_fetch_add(&peer->generation, 1);
    pthread_mutex_unlock(&peer->lock);
    return peer;
}

void pl_peer_library_end(void)
{
    pl_arena_release(&peers);
}

void pl_peers_hold(void)
{
    pl_arena_hold(&peers);
}

void pl_peers_let_go(void)
{
    pl_arena_let_go(&peers);
}

/* A thread that is no more may have been looking whether a free one is still the one it knew. */
static void renew_lock(void *element, void *unused)
{
    (void)unused;
    pthread_mutex_init(&((struct pl_peer *)element)->lock, NULL);
}

void pl_peers_orphan(void)
{
    pl_arena_visit(&peers, renew_lock, NULL);
    renew_lock(&pl_nowhere, NULL);
}

static bool is_live(const struct pl_peer *peer)
{
    return atomic_load(&peer->generation) & 1;
}

struct pl_peer *pl_peer_join(struct pl_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    peer->shared.users++;
    pthread_mutex_unlock(&peer->lock);
    return peer;
}

bool pl_peer_enter(struct pl_peer *peer, const struct pool *pool, uint64_t generation)
{
    bool is_same;

    pthread_mutex_lock(&peer->lock);
    is_same = is_live(peer) && atomic_load(&peer->generation) == generation &&
              (!pool || peer->pool == pool);
    if (is_same) {
        peer->shared.users++;
        if (!pool)
            pl_pool_ref(peer->pool); /* it is there: a live peer's users and connections hold it */
    }
    pthread_mutex_unlock(&peer->lock);
    return is_same;
}

/* Peer lock held. */
static bool is_needed(struct pl_peer *peer)
{
    bool is_remembered = (peer->shared.backoff.failures || peer->shared.keeps_spares ||
                          peer->shared.keeps_names || pl_secure_keeps(peer)) &&
                         !(atomic_load(&peer->hints) & PL_HINT_CLOSING);

    return peer->shared.users || peer->shared.count || is_remembered ||
           !pl_list_is_empty(&peer->shared.waiters);
}

/* Gives the peer back to the arena when nobody needs it. The pool's lock keeps new users away. */
static void reclaim(struct pl_peer *peer, struct pool *pool)
{
    struct pool_address *address = NULL;
    struct pl_names *names = NULL;
    struct pl_tls_sessions *sessions = NULL;

    pthread_mutex_lock(&pool->lock);
    pthread_mutex_lock(&peer->lock);
    if (is_live(peer) && peer->pool == pool && !is_needed(peer) &&
        !pl_room_peer_is_listed(pool->room, peer)) {
        pl_table_remove(&pool->peers, &peer->table_node);
        pl_list_unlink(&peer->pool_link);
        pl_exchange_keep_books(peer);
        atomic_fetch_add(&peer->generation, 1);
        address = peer->address;
        names = peer->names;
        peer->names = NULL;
        sessions = peer->sessions;
        peer->sessions = NULL;
        peer->pool = NULL;
        peer->address = NULL;
        peer->text = NULL;
    }
    pthread_mutex_unlock(&peer->lock);
    pthread_mutex_unlock(&pool->lock);
    if (address) {
        pl_names_free(names);
        pl_tls_sessions_release(sessions);
        pool_address_unref(address);
        pl_arena_give(&peers, peer);
    }
}

void pl_peer_leave(struct pl_peer *peer)
{
    struct pool *pool = peer->pool;
    bool is_last;

    if (pl_pool_is_forked(pool))
        return;
    pthread_mutex_lock(&peer->lock);
    peer->shared.users--;
    is_last = !is_needed(peer);
    if (is_last) {
        peer->shared.is_wanting = peer->shared.was_asked = peer->shared.is_short = false;
        pl_room_forget_peer(pool->room, peer);
        pl_pool_ref(pool); /* whoever leaves came in through the pool: it is still there */
    }
    pthread_mutex_unlock(&peer->lock);
    pl_close_look(pool);
    if (!is_last)
        return;
    reclaim(peer, pool);
    pl_pool_leave(pool);
}

/* ---- lending */

/* Out of the list of idle ones; peer lock held. */
static void unlist(struct pl_connection *connection)
{
    pl_list_unlink(&connection->idle_link);
}

/* Tries to lend one that stands in the list. False: it is not to be had; then `seen` is the word
 * that said so. */
static bool take_listed(struct pl_connection *connection, bool must_be_prepared)
{
    uint64_t seen = atomic_load(&connection->word);
    enum pl_state state;

    for (;;) {
        state = pl_word_state(seen);
        if (state == PL_LENT) { /* a thread took it from memory; its return will list it again */
            if (!atomic_compare_exchange_weak(&connection->word, &seen, seen & ~PL_LISTED))
                continue;
            unlist(connection);
            return false;
        }
        if ((state != PL_IDLE && state != PL_PARKED) || (seen & PL_PIN_MASK))
            return false;
        if (must_be_prepared && !pl_get(connection->is_prepared))
            return false;
        if (pl_word_become(&connection->word, seen, pl_word_handed(seen & ~PL_LISTED, PL_LENT))) {
            connection->is_armed = state == PL_PARKED;
            unlist(connection);
            return true;
        }
        seen = atomic_load(&connection->word);
    }
}

/* In the list they stand by their return, so the one to be used first is at one end. */
struct pl_connection *pl_peer_take_coldest(struct pl_peer *peer)
{
    bool is_last = peer->pool->settings.options.order == POOL_LIFO;
    struct pl_list *idle = &peer->shared.idle, *link = is_last ? idle->previous : idle->next, *next;

    for (; link != idle; link = next) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, idle_link);

        next = is_last ? link->previous : link->next;
        if (take_listed(connection, false))
            return connection;
    }
    return NULL;
}

struct pl_connection *pl_peer_take_idle(struct pl_peer *peer, bool must_be_prepared)
{
    PL_LIST_EACH(link, &peer->shared.idle) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, idle_link);

        if (take_listed(connection, must_be_prepared))
            return connection;
    }
    return NULL;
}

uint32_t pl_peer_count_idle(struct pl_peer *peer)
{
    uint32_t idle = 0;

    PL_LIST_EACH(link, &peer->shared.idle) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, idle_link);
        enum pl_state state = pl_word_state(atomic_load(&connection->word));

        idle += state == PL_IDLE || state == PL_PARKED;
    }
    return idle;
}

PL_COLD bool pl_peer_is_idle_full(struct pl_peer *peer)
{
    const struct pool_options *options = &peer->pool->settings.options;
    uint32_t idle = 0;

    if (options->max_idle == POOL_NONE)
        return false;
    pthread_mutex_lock(&peer->lock);
    PL_LIST_EACH(link, &peer->shared.idle) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, idle_link);
        enum pl_state state = pl_word_state(atomic_load(&connection->word));

        idle += state == PL_IDLE || state == PL_PARKED || state == PL_MUX;
    }
    pthread_mutex_unlock(&peer->lock);
    return idle >= options->max_idle;
}

/* Swaps the word of an owned connection to `state`; false: operations are under way on it, so it
 * must end. */
static bool settle(struct pl_connection *connection, enum pl_state state, bool handed)
{
    uint64_t seen = atomic_load(&connection->word), next;

    while (!(seen & PL_PIN_MASK)) {
        next = handed ? pl_word_handed(seen, state) : pl_word_with(seen, state);
        next = (next & ~PL_TOUCHED) | (state == PL_IDLE ? PL_LISTED : 0);
        if (pl_word_become(&connection->word, seen, next))
            return true;
        seen = atomic_load(&connection->word);
    }
    return false;
}

static void list_idle(struct pl_peer *peer, struct pl_connection *connection)
{
    if (atomic_load(&connection->word) & PL_LISTED)
        return;
    if (peer->pool->settings.options.order == POOL_LIFO)
        pl_list_push_front(&peer->shared.idle, &connection->idle_link);
    else
        pl_list_push_back(&peer->shared.idle, &connection->idle_link);
}

int pl_peer_verdict(const struct pl_connection *connection)
{
    switch ((enum pl_doom)atomic_load(&connection->doom)) {
    case PL_DOOM_NONE:
        break;
    case PL_DOOM_STOLEN:
        return POOL_CLOSE_STOLEN;
    case PL_DOOM_POOL:
    case PL_DOOM_FORKED:
        return POOL_CLOSE_POOL;
    case PL_DOOM_CLEARED:
        return POOL_CLOSE_STALE;
    case PL_DOOM_TIMEOUT:
        return pl_get(connection->failure) ? POOL_CLOSE_ERROR : POOL_CLOSE_DIRTY;
    case PL_DOOM_STALE_COPY:
    case PL_DOOM_CANCELED:
    case PL_DOOM_KILLED:
        return POOL_CLOSE_DIRTY;
    }
    return pl_get(connection->epoch) == atomic_load(&connection->peer->epoch) ? -1
                                                                              : POOL_CLOSE_STALE;
}

enum pool_close_reason pl_peer_reason_of_age(const struct pl_connection *connection)
{
    int verdict = pl_peer_verdict(connection), leaves_for = pl_get(connection->leaves_for);

    if (verdict >= 0)
        return (enum pool_close_reason)verdict;
    return leaves_for ? (enum pool_close_reason)leaves_for : POOL_CLOSE_AGE;
}

static bool is_draining(const struct pl_peer *peer)
{
    return atomic_load(&peer->pool->state) == PL_POOL_CLOSING;
}

/* Why a connection that comes back is neither kept nor lent; -1: it is. Peer lock held. */
static int why_not_kept(struct pl_peer *peer, const struct pl_connection *connection, bool is_new)
{
    if (atomic_load(&peer->hints) & PL_HINT_CLOSING)
        return POOL_CLOSE_POOL;
    if (is_draining(peer) && !pl_waiter_first(peer, is_new))
        return POOL_CLOSE_POOL;
    if (connection->tls && pl_secure_is_outdated(connection))
        return POOL_CLOSE_STALE;
    return pl_peer_verdict(connection);
}

enum give_back_end { GIVEN, UNFIT, EVICT };

/* The connection becomes idle; peer lock held. It must be in the sweep's list before it can be seen
 * as idle, and the look at who wants room comes after that: whoever begins to want room then finds
 * either the flag read or the peer. */
static enum give_back_end make_idle(struct pl_peer *peer, struct pl_connection *connection)
{
    bool was_listed = atomic_load(&connection->word) & PL_LISTED;

    if (!(atomic_load(&peer->hints) & PL_HINT_HOT))
        pl_room_note_hot(peer->pool->room, peer);
    if (atomic_load(&pl_room_wanted) && pl_room_is_wanted_of(peer->pool->room, peer->pool))
        return EVICT;
    list_idle(peer, connection);
    connection->is_fresh = false;
    if (settle(connection, PL_IDLE, false))
        return GIVEN;
    if (!was_listed)
        unlist(connection);
    return UNFIT;
}

/* Peer lock held. An asynchronous waiter cannot look for itself without a way to the mux and back,
 * so it is handed what a thread would be called for. */
static enum give_back_end give_back(struct pl_peer *peer, struct pl_connection *connection,
                                    bool is_new, struct pl_thread **wake)
{
    struct pl_waiter *waiter = pl_waiter_first(peer, is_new);
    enum give_back_end end;

    if (!is_new && pl_waiter_wants_place(peer, waiter))
        return EVICT;
    if (!waiter)
        return make_idle(peer, connection);
    if (!is_new && !is_draining(peer) && pl_waiter_may_be_passed(peer, waiter, pl_os->now_ns())) {
        /* It is anybody's, and one who waits is told to look. */
        waiter = pl_waiter_next_untold(peer);
        if (!waiter || waiter->thread) {
            end = make_idle(peer, connection);
            if (end == GIVEN && waiter) {
                waiter->is_woken = true;
                *wake = waiter->thread;
            }
            return end;
        }
    }
    if (!settle(connection, PL_LENT, true))
        return UNFIT;
    *wake = pl_waiter_serve(peer, waiter, connection);
    return GIVEN;
}

void pl_peer_give_back(struct pl_peer *peer, struct pl_connection *connection)
{
    bool is_new = pl_word_state(atomic_load(&connection->word)) == PL_SETUP;
    struct pl_thread *wake = NULL;
    enum give_back_end end;
    int reason;

    if (pl_pool_is_forked(peer->pool))
        return;
    connection->is_fresh = connection->is_fresh && is_new; /* whoever is next looks at it */
    pthread_mutex_lock(&peer->lock);
    reason = why_not_kept(peer, connection, is_new);
    peer->shared.opening -= connection->is_opening;
    connection->is_opening = false;
    end = reason >= 0 ? UNFIT : give_back(peer, connection, is_new, &wake);
    pthread_mutex_unlock(&peer->lock);
    if (wake)
        pl_thread_wake(wake);
    if (end == EVICT)
        pl_peer_close(connection, POOL_CLOSE_EVICTED);
    else if (end == UNFIT)
        pl_peer_close(connection, reason >= 0 ? (enum pool_close_reason)reason : POOL_CLOSE_DIRTY);
}

void pl_peer_look_again(struct pl_peer *peer, struct pl_connection *connection, uint64_t word)
{
    if (pl_word_become_state(&connection->word, word, PL_MUX))
        pl_peer_give_back(peer, connection);    /* it is ours again, so the peer is still there */
}

/* ---- closing */

void pl_peer_close(struct pl_connection *connection, enum pool_close_reason reason)
{
    uint64_t seen = atomic_load(&connection->word);
    enum pl_state next;

    if (pl_word_state(seen) == PL_FORKED)
        return;
    connection->close_reason = (uint8_t)reason;
    for (;;) {
        next = seen & PL_PIN_MASK ? PL_ENDING : PL_CLOSING;
        if (next == PL_ENDING) {
            pl_connection_doom(connection, PL_DOOM_STALE_COPY);
            pl_connection_shut(connection);
        }
        if (pl_word_become_state(&connection->word, seen, next))
            break;
        seen = atomic_load(&connection->word);
    }
    if (next == PL_CLOSING)
        pl_peer_finish_close(connection);
}

void pl_peer_keep_books(struct pool *pool, const struct pl_connection *connection)
{
    uint64_t uses = pl_get(connection->uses);

    pool->books.borrowed += uses;
    pool->books.reused += uses ? uses - 1 : 0;
    pool->books.closed[connection->close_reason]++;
    pool->books.stolen += connection->close_reason == POOL_CLOSE_STOLEN;
    pool->books.bytes_in += pl_get(connection->bytes_in);
    pool->books.bytes_out += pl_get(connection->bytes_out);
}

void pl_peer_stop_looking(struct pl_peer *peer)
{
    if (!(atomic_load(&peer->hints) & PL_HINT_LOOK) || is_draining(peer))
        return;
    PL_LIST_EACH(link, &peer->shared.all) {
        if (pl_peer_verdict(pl_container(link, struct pl_connection, all_link)) >= 0)
            return;
    }
    atomic_fetch_and(&peer->hints, ~(uint32_t)PL_HINT_LOOK);
}

void pl_peer_remove(struct pl_peer *peer, struct pl_connection *connection)
{
    if (atomic_load(&connection->word) & PL_LISTED) {
        atomic_fetch_and(&connection->word, ~PL_LISTED);
        unlist(connection);
    }
    pl_list_unlink(&connection->all_link);
    peer->shared.count--;
    peer->shared.opening -= connection->is_opening;
    peer->shared.users++;
    pl_peer_stop_looking(peer);
}

void pl_peer_after_loss(struct pl_peer *peer, bool has_freed_descriptor)
{
    struct pool *pool = peer->pool;

    pl_pool_give_share(pool);
    pl_peer_supply(peer);
    pl_spare_note(peer);
    pl_secure_note_loss(peer);
    if (atomic_load(&pl_room_wanted))
        pl_room_serve(pool->room, pool, has_freed_descriptor);
    pl_peer_leave(peer);
    pl_pool_leave(pool);
}

/* The books were closed when it was detached. */
static void finish_detached(struct pl_connection *connection)
{
    struct pool_address *address = connection->address;

    pl_ask_forget(connection);
    pl_connection_close_fd(connection, NULL);
    connection->address = NULL;
    pl_connection_give(connection);
    pool_address_unref(address);
}

static void close_in_pool(struct pl_connection *connection)
{
    struct pl_peer *peer = connection->peer;
    struct pool *pool = peer->pool;
    bool has_descriptor = connection->fd >= 0;

    if (pl_word_state(atomic_load(&connection->word)) == PL_FORKED)
        return;
    pl_room_unpark(pool->room, connection);
    pl_ask_forget(connection);
    pthread_mutex_lock(&pool->room->close_lock);
    pl_connection_close_fd(connection, pool->mux);
    pthread_mutex_unlock(&pool->room->close_lock);
    pl_channel_end(connection);
    pl_event_closed(pool, connection);
    /* From the living to the books in one step: statistics see it once. */
    pthread_mutex_lock(&pool->lock);
    pthread_mutex_lock(&peer->lock);
    pl_spare_lose(peer, connection);
    pl_peer_remove(peer, connection);
    pthread_mutex_unlock(&peer->lock);
    pl_peer_keep_books(pool, connection);
    pthread_mutex_unlock(&pool->lock);
    pl_connection_give(connection);
    pl_peer_after_loss(peer, has_descriptor);
}

void pl_peer_finish_close(struct pl_connection *connection)
{
    void (*free_user)(void *user) = connection->free_user;
    void *user = pl_get(connection->user);

    if (pl_connection_is_detached(connection))
        finish_detached(connection);
    else
        close_in_pool(connection);
    if (free_user && user)
        free_user(user); /* last of all: whatever it calls finds nothing half done */
}

void pl_peer_finish_close_and_tell(struct pl_connection *connection)
{
    struct pool *pool = connection->peer->pool;

    if (!pool) {                        /* it is detached */
        pl_peer_finish_close(connection);
        return;
    }
    pl_pool_ref(pool);
    pl_peer_finish_close(connection);
    pl_events_tell(pool);
    pl_pool_leave(pool);
}
