/* names.c: see names.h. */
#include "pool/names.h"

#include "base/os.h"
#include "net/address.h"
#include "net/dialer.h"
#include "pool/drain.h"
#include "pool/pool.h"
#include "pool/tend.h"

#define READ_LEAST_NS (5 * 1000 * PL_MS)        /* between two readings, however short the TTL */
#define READ_FAILED_NS (30 * 1000 * PL_MS)      /* after one that failed */
#define ABSENCES 2u                             /* answers without its place, until one ends */

struct pl_resolver *pl_names_resolver(struct pl_room *room)
{
    if (!room->on_mux.resolver &&
        pl_resolver_open(room->mux, NULL, &room->on_mux.resolver) != POOL_OK)
        room->on_mux.resolver = NULL;
    return room->on_mux.resolver;
}

struct pl_names *pl_names_of(struct pl_peer *peer)
{
    if (!peer->names && !pl_address_is_literal(peer->address)) {
        peer->names = pl_zalloc(sizeof(*peer->names));
        if (peer->names) {
            peer->names->peer = peer;
            peer->names->next_read_ns = PL_NEVER;
        }
    }
    return peer->names;
}

void pl_names_free(struct pl_names *names)
{
    pl_os->free(names);
}

static void read_at(struct pl_names *names, uint64_t when_ns)
{
    uint64_t least_ns = pl_after(pl_os->now_ns(), READ_LEAST_NS);

    names->next_read_ns = when_ns > least_ns ? when_ns : least_ns;
    pl_tend_at(names->peer->pool->room, names->peer, names->next_read_ns);
}

void pl_names_note_place(struct pl_peer *peer, const struct pl_dial *dial)
{
    struct pl_names *names = pl_names_of(peer);

    dial->connection->place = dial->won;
    if (names && !names->is_reading && names->next_read_ns == PL_NEVER)
        read_at(names, dial->expires_ns);
}

/* Until when the peer is kept for what failed; PL_NEVER: it is not. */
static uint64_t keep_for_failures(struct pl_names *names, uint64_t now_ns)
{
    struct pl_peer *peer = names->peer;
    uint64_t end_ns = pl_grudges_end(&names->grudges);

    pthread_mutex_lock(&peer->lock);
    peer->shared.keeps_names = end_ns > now_ns;
    pthread_mutex_unlock(&peer->lock);
    return end_ns > now_ns ? end_ns : PL_NEVER;
}

void pl_names_note_failures(struct pl_peer *peer)
{
    uint64_t end_ns = PL_NEVER;

    if (peer->names)
        end_ns = keep_for_failures(peer->names, pl_os->now_ns());
    if (end_ns != PL_NEVER)
        pl_tend_at(peer->pool->room, peer, end_ns);
}

/* ---- what the name stands for now */

static bool stands_for(const struct pl_addresses *addresses, uint64_t place)
{
    for (uint32_t i = 0; i < addresses->count; i++) {
        if (pl_place_hash(&addresses->list[i]) == place)
            return true;
    }
    return false;
}

/* Does the answer say anything, and for the first time? */
static bool is_news(const struct pl_names *names, enum pl_family family)
{
    const struct pl_addresses *read = names->read[family];

    return read && (read->count || pl_addresses_are_denied(read)) &&
           read->expires_ns != names->read_expires_ns[family];
}

/* Answers when the first of those that are to end now is to. Peer lock held. */
static uint64_t compare(struct pl_names *names, uint64_t now_ns)
{
    uint64_t first_ns = PL_NEVER;

    PL_LIST_EACH(link, &names->peer->shared.all) {
        struct pl_connection *connection = pl_container(link, struct pl_connection, all_link);
        enum pl_family family = pl_place_family(connection->place);

        if (!connection->place || !is_news(names, family))
            continue;
        if (stands_for(names->read[family], connection->place)) {
            connection->absences = 0;
        } else if (connection->absences < ABSENCES && ++connection->absences == ABSENCES) {
            first_ns =
                pl_earlier(first_ns, pl_drain_soon(connection, POOL_CLOSE_AGE, now_ns));
        }
    }
    return first_ns;
}

static void keep_read(struct pl_names *names, const struct pl_answer *answer)
{
    for (int i = 0; i < PL_FAMILIES; i++) {
        if (answer->of[i] && !names->read[i])
            names->read[i] = pl_addresses_ref(answer->of[i]);
    }
}

static void drop_read(struct pl_names *names)
{
    for (int i = 0; i < PL_FAMILIES; i++) {
        pl_addresses_unref(names->read[i]);
        names->read[i] = NULL;
    }
}

/* When it is to be read again: with the first of the addresses that expire. That there is none in a
 * family is asked for no sooner. */
static uint64_t note_read(struct pl_names *names)
{
    uint64_t next_ns = PL_NEVER;

    for (int i = 0; i < PL_FAMILIES; i++) {
        const struct pl_addresses *read = names->read[i];

        if (!read)
            continue;
        names->read_expires_ns[i] = read->expires_ns;
        if (read->count)
            next_ns = pl_earlier(next_ns, read->expires_ns);
    }
    return next_ns;
}

/* The reading is over. */
static void finish_reading(struct pl_names *names, const struct pl_answer *answer)
{
    struct pl_peer *peer = names->peer;
    uint64_t now_ns = pl_os->now_ns(), next_ns = pl_after(now_ns, READ_FAILED_NS);
    uint64_t first_ns = PL_NEVER;

    keep_read(names, answer);
    if (!answer->failure.status) {
        pthread_mutex_lock(&peer->lock);
        first_ns = compare(names, now_ns);
        pthread_mutex_unlock(&peer->lock);
        next_ns = note_read(names);
    }
    drop_read(names);
    read_at(names, next_ns);
    if (first_ns != PL_NEVER)
        pl_tend_at(peer->pool->room, peer, first_ns);
}

static void leave(struct pl_names *names)
{
    struct pl_peer *peer = names->peer;
    struct pool *pool = peer->pool;

    names->is_reading = false;
    pl_peer_leave(peer);
    pl_pool_leave(pool);
}

static void on_read(struct pl_lookup *lookup, const struct pl_answer *answer)
{
    struct pl_names *names = pl_container(lookup, struct pl_names, lookup);

    if (!answer->is_last) {
        keep_read(names, answer);
        return;
    }
    finish_reading(names, answer);
    leave(names);
}

static void begin_reading(struct pl_names *names)
{
    struct pl_peer *peer = names->peer;
    struct pl_resolver *resolver = pl_names_resolver(peer->pool->room);
    struct pl_answer answer;

    names->next_read_ns = PL_NEVER;
    names->lookup = (struct pl_lookup){ .name = peer->address->host.data,
                                        .family = peer->address->family,
                                        .on_addresses = on_read };
    if (!resolver) {
        read_at(names, 0);
    } else if (pl_resolver_look_up(resolver, &names->lookup, &answer)) {
        finish_reading(names, &answer);
    } else {
        names->is_reading = true;
        pl_pool_ref(peer->pool);
        pl_peer_join(peer);
    }
}

bool pl_names_are_read(const struct pl_peer *peer)
{
    return peer->names && peer->names->is_reading;
}

void pl_names_abort(struct pl_peer *peer)
{
    pl_lookup_cancel(&peer->names->lookup);
    drop_read(peer->names);
    leave(peer->names);
}

static bool has_connections(struct pl_peer *peer)
{
    bool has_connections;

    pthread_mutex_lock(&peer->lock);
    has_connections = peer->shared.count && !(atomic_load(&peer->hints) & PL_HINT_CLOSING);
    pthread_mutex_unlock(&peer->lock);
    return has_connections;
}

uint64_t pl_names_tend(struct pl_peer *peer, uint64_t now_ns)
{
    struct pl_names *names = peer->names;
    uint64_t kept_ns;

    if (!names)
        return PL_NEVER;
    kept_ns = keep_for_failures(names, now_ns);
    if (!has_connections(peer))
        names->next_read_ns = PL_NEVER;      /* the next dial looks it up anyway */
    else if (names->next_read_ns <= now_ns)
        begin_reading(names);
    return pl_earlier(kept_ns, names->next_read_ns);
}
