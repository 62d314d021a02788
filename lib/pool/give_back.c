/* give_back.c: the end of a loan. Warm, it is one swap; else the connection is claimed first, so
 * that of several who return one loan exactly one does, and then given to whoever waits, kept, or
 * closed.
 */
#include "base/os.h"
#include "pool/borrow.h"
#include "pool/events.h"
#include "pool/lent.h"
#include "pool/pool.h"
#include "pool/recent.h"

static PL_COLD int what_failed(const struct pl_connection *connection, uint32_t doom)
{
    struct pl_failure failure = pl_failure_unpack(pl_get(connection->failure));

    if (doom)
        return pl_peer_verdict(connection);
    return failure.status == POOL_E_CLOSED ? POOL_CLOSE_PEER : POOL_CLOSE_ERROR;
}

/* It may be lent again: as it is, or once the mux has let go of it. */
enum { FIT = -1, FIT_BUT_WATCHED = -2 };

int pl_give_back_unfitness(struct pl_connection *connection, uint64_t now_ns)
{
    uint32_t marks = pl_get(connection->lease.marks), doom = pl_get(connection->doom);

    if (PL_UNLIKELY(doom | (marks & PL_MARK_FAILED)))
        return what_failed(connection, doom);
    if (PL_UNLIKELY(marks & PL_MARK_DIRT))
        return POOL_CLOSE_DIRTY;
    if ((marks & PL_MARK_AWAITS) && !(pl_get(connection->lease.flags) & POOL_ONE_WAY))
        return POOL_CLOSE_DIRTY;
    if (PL_UNLIKELY(pl_get(connection->expires_ns) <= now_ns))
        return (int)pl_peer_reason_of_age(connection);
    if (pl_get(connection->uses) >= pl_get(connection->max_uses))
        return POOL_CLOSE_USES;
    return marks & PL_MARK_EVENTS ? FIT_BUT_WATCHED : FIT;
}

/* Operations are under way on copies of the handle: whoever does them must not meet the next
 * borrower's connection, so it ends, and the last of them closes it. False: the handle is stale. */
static bool end_shared(struct pl_connection *connection, uint64_t serial)
{
    uint64_t seen;
    struct pool *pool;
    bool is_mine = false;

    if (!pl_word_pin(&connection->word, serial))
        return false;
    pool = connection->peer->pool;      /* NULL: it is detached */
    if (pool)
        pl_pool_ref(pool);
    pl_connection_doom(connection, PL_DOOM_STALE_COPY);
    pl_connection_shut(connection);
    for (seen = atomic_load(&connection->word); !is_mine && pl_word_state(seen) == PL_LENT;
         seen = atomic_load(&connection->word))
        is_mine = pl_word_become_state(&connection->word, seen, PL_ENDING);
    if (is_mine) {
        connection->close_reason = (uint8_t)pl_peer_verdict(connection);
        if (pool)
            pl_event_returned(pool, connection);
    }
    if (pl_word_unpin(&connection->word))
        pl_peer_finish_close(connection);
    if (pool) {
        pl_events_tell(pool);
        pl_pool_leave(pool);
    }
    return is_mine;
}

enum claim { CLAIMED, SHARED_AND_ENDED, STALE };

/* Makes the connection of a loan the caller's own (MUX): of several who return one loan, one wins.
 * One that is driven by events the mux may just be looking at: the pins are counted when it lets
 * go of it (lent.c), and its own are gone then. */
static enum claim claim(struct pl_connection *connection, uint64_t serial, bool is_by_events)
{
    uint64_t seen;

    for (;;) {
        seen = atomic_load(&connection->word);
        if (pl_word_serial(seen) != serial || pl_word_state(seen) != PL_LENT)
            return STALE;
        if ((seen & PL_PIN_MASK) && !is_by_events)
            return end_shared(connection, serial) ? SHARED_AND_ENDED : STALE;
        if (pl_word_become_state(&connection->word, seen, PL_MUX))
            return CLAIMED;
    }
}

bool pl_give_back_claim(struct pl_connection *connection, uint64_t serial)
{
    return claim(connection, serial, false) == CLAIMED;
}

static void remember_returned(struct pl_connection *connection, struct pl_peer *peer)
{
    struct pl_thread *self = pl_thread_self();
    struct pl_recent *recent;

    if (!self || !peer->pool->settings.is_plain)
        return;
    recent = pl_recent_make(self, peer);
    recent->connection = connection;
    recent->word = (pl_word_with(atomic_load(&connection->word), PL_IDLE) &
                    ~(PL_TOUCHED | PL_PIN_MASK)) |
                   PL_LISTED;
}

/* A loan that ran out of time counts where it ends; pool_communicate() counts its own. */
static void count_timeout(struct pool *pool, const struct pl_connection *connection)
{
    int status = pl_failure_unpack(pl_get(connection->failure)).status;

    if ((pl_get(connection->lease.marks) & PL_MARK_FAILED) &&
        (status == POOL_E_TIMEOUT || status == POOL_E_TIMEOUT_IN_TRANSFER))
        pl_pool_count(pool, &pool->books.timeouts);
}

/* Every return but the warm one. `has_holder`: a pool_communicate() has the loan. */
static PL_COLD enum pool_status return_cold(struct pl_connection *connection, uint64_t serial,
                                            bool is_discarded, bool has_holder)
{
    bool is_by_events = pl_get(connection->lease.marks) & PL_MARK_EVENTS;
    enum claim claimed = claim(connection, serial, is_by_events);
    int reason;
    struct pl_peer *peer;
    struct pool *pool;

    if (claimed != CLAIMED)
        return claimed == STALE ? POOL_E_ARGUMENT : POOL_OK;
    if (pl_connection_is_detached(connection)) {
        pl_peer_close(connection, POOL_CLOSE_DETACHED);
        return POOL_OK;
    }
    peer = connection->peer;
    pool = peer->pool;
    pl_pool_ref(pool);
    pl_event_returned(pool, connection);
    if (!has_holder)
        count_timeout(pool, connection);
    /* It may have begun meanwhile. */
    is_by_events = pl_get(connection->lease.marks) & PL_MARK_EVENTS;
    reason = pl_give_back_unfitness(connection, is_discarded ? 0 : pl_os->coarse_ns());
    if (is_discarded && reason < 0)
        reason = POOL_CLOSE_DIRTY;
    if (reason < 0 && !(atomic_load(&peer->hints) & PL_HINT_WAITERS) &&
        pl_peer_is_idle_full(peer))
        reason = POOL_CLOSE_IDLE;
    if (reason < 0)
        remember_returned(connection, peer);
    if (is_by_events) {
        pl_lent_end(connection, reason);
    } else if (reason >= 0) {
        pl_peer_close(connection, (enum pool_close_reason)reason);
    } else {
        pl_peer_give_back(peer, connection);
    }
    pl_events_tell(pool);
    pl_pool_leave(pool);
    return POOL_OK;
}

/* The warm return: one swap. False: it takes more than that. */
static bool return_warm(struct pl_connection *connection, struct pl_peer *peer,
                        struct pl_recent *recent, uint64_t word)
{
    uint64_t next = pl_word_with(word, PL_IDLE);

    /* An entry that is left from another peer in the same memory knows that one's text: it must not
     * learn ours. */
    if (!recent || recent->generation != pl_get(peer->generation))
        return false;
    if (!(word & PL_LISTED) || (word & (PL_PIN_MASK | PL_TOUCHED)) || !recent->is_plain)
        return false;
    recent->connection = connection;
    recent->word = next;
    if (!pl_word_become(&connection->word, word, next))
        return false;
    /* From here on it may be anybody's. Whether there is more to do is read where memory stays what
     * it is. */
    if (PL_UNLIKELY(atomic_load(&peer->hints) != PL_HINT_HOT || atomic_load(&pl_room_wanted)))
        pl_peer_look_again(peer, connection, next);
    return true;
}

/* What queries share is theirs to end, whoever was shown its handle. */
static bool is_shared(const struct pl_connection *connection)
{
    return PL_UNLIKELY(pl_get(connection->lease.flags) & PL_LEASE_SHARED);
}

/* A loan whose word is that. */
PL_INLINE enum pool_status give_back(struct pl_connection *connection, uint64_t word)
{
    struct pl_thread *self = pl_thread_current;
    struct pl_recent *recent;
    struct pl_peer *peer;
    uint64_t now_ns;
    bool has_holder;
    int reason;

    has_holder = pl_get(connection->lease.holder);
    if (PL_UNLIKELY(has_holder))
        pl_set(connection->lease.holder, 0);
    /* What operations left behind is read after the bit was cleared: one that comes meanwhile sets
     * it again, and the swap below fails. */
    if ((word & PL_TOUCHED) && pl_word_become(&connection->word, word, word & ~PL_TOUCHED))
        word &= ~PL_TOUCHED;
    peer = pl_get(connection->peer);
    recent = self ? pl_recent_of_peer(self, peer) : NULL;
    /* Without looks at each borrow every nanosecond counts: this thread's last reading of the clock
     * will do, and its age shows when it is borrowed or parked. */
    now_ns = recent && recent->is_unlooked_at ? 0 : pl_os->coarse_ns();
    pl_set(connection->last_used_ns, pl_thread_stamp(self, now_ns));
    reason = pl_give_back_unfitness(connection, now_ns);
    if (PL_LIKELY(reason == FIT) && return_warm(connection, peer, recent, word))
        return POOL_OK;
    return return_cold(connection, pl_word_serial(word), false, has_holder);
}

enum pool_status pool_return(struct pool_conn *conn)
{
    struct pl_connection *connection = conn ? pl_connection_of(conn->slot) : NULL;
    uint64_t word;

    if (!connection)
        return POOL_E_ARGUMENT;
    word = atomic_load(&connection->word);
    if (pl_word_serial(word) != conn->serial || pl_word_state(word) != PL_LENT)
        return pl_connection_refusal(conn);
    if (is_shared(connection))
        return POOL_E_ARGUMENT;
    *conn = (struct pool_conn){ 0 };
    return give_back(connection, word);
}

void pl_give_back_shared(struct pool_conn conn, bool is_good)
{
    struct pl_connection *connection = pl_connection_of(conn.slot);
    uint64_t word = atomic_load(&connection->word);

    if (pl_word_serial(word) != conn.serial || pl_word_state(word) != PL_LENT)
        return;
    if (is_good)
        (void)!give_back(connection, word);
    else
        (void)!return_cold(connection, conn.serial, true, false);
}

enum pool_status pool_discard(struct pool_conn *conn)
{
    struct pl_connection *connection = conn ? pl_connection_of(conn->slot) : NULL;
    enum pool_status status;
    uint64_t word;

    if (!connection)
        return POOL_E_ARGUMENT;
    word = atomic_load(&connection->word);
    if (pl_word_serial(word) != conn->serial || pl_word_state(word) != PL_LENT) {
        if (pl_connection_refusal(conn) != POOL_E_FORKED)
            return POOL_E_ARGUMENT;
        pl_connection_close_copy(connection);
        return POOL_E_FORKED;
    }
    if (is_shared(connection))
        return POOL_E_ARGUMENT;
    status = return_cold(connection, conn->serial, true, pl_get(connection->lease.holder));
    if (!status)
        *conn = (struct pool_conn){ 0 };
    return status;
}
