/* dialer.c: which places are tried when, and who wins. The next place is tried at once when an
 * attempt failed, and after PL_STAGGER_NS when none did; all those under way go on until one
 * stands. Connecting has one deadline for all, each handshake has its own.
 */
#include "net/dialer.h"

#include <errno.h>
#include <string.h>

#include "base/os.h"
#include "net/address.h"
#include "net/attempt.h"
#include "net/tls.h"

#define ROOMS_MAX 16u                   /* others may take what was freed; after so many it is their
                                         * turn for good */

bool pl_dial_is_shortage(enum pl_reason reason, int error)
{
    if (reason)
        return false;
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM ||
           error == EADDRNOTAVAIL;
}

/* ---- slots and sockets of attempts */

static struct pl_dial_attempt *free_attempt(struct pl_dial *dial)
{
    for (size_t i = 0; i < PL_COUNT(dial->attempts); i++) {
        if (!dial->attempts[i].connection)
            return &dial->attempts[i];
    }
    return NULL;
}

/* The dial's own slot, unless an attempt has it already. NULL: no memory. */
static struct pl_connection *take_slot(struct pl_dial *dial)
{
    struct pl_connection *slot = dial->connection;
    bool is_free = true;

    for (size_t i = 0; i < PL_COUNT(dial->attempts); i++)
        is_free = is_free && dial->attempts[i].connection != slot;
    if (is_free)
        return slot;
    slot = pl_connection_take();
    if (slot) {
        pl_set(slot->peer, pl_get(dial->connection->peer));
        slot->mux = dial->mux;
        slot->dial = dial;
    }
    return slot;
}

static void give_slot(const struct pl_dial *dial, struct pl_connection *slot)
{
    if (slot == dial->connection)
        return;
    slot->dial = NULL;
    pl_word_move(&slot->word, pl_word_with(atomic_load(&slot->word), PL_CLOSING));
    pl_connection_give(slot);
}

/* The socket of the dial's own slot is left to whoever has the connection, if it `keeps_own`. */
static void end_attempt(struct pl_dial *dial, struct pl_dial_attempt *attempt, bool keeps_own)
{
    struct pl_connection *slot = attempt->connection;

    if (!keeps_own || slot != dial->connection)
        pl_connection_close_fd(slot, dial->mux);
    if (slot->robbed && !dial->connection->robbed)
        dial->connection->robbed = slot->robbed;        /* who lost his number is told by the dial */
    attempt->connection = NULL;
    dial->live--;
    give_slot(dial, slot);
}

static void end_attempts(struct pl_dial *dial, bool keeps_own)
{
    for (size_t i = 0; i < PL_COUNT(dial->attempts); i++) {
        if (dial->attempts[i].connection)
            end_attempt(dial, &dial->attempts[i], keeps_own);
    }
}

/* ---- the end */

static void finish(struct pl_dial *dial, int error)
{
    pl_mux_timer_disarm(dial->mux, &dial->timer);
    pl_lookup_cancel(&dial->lookup);
    end_attempts(dial, false);
    dial->ops->on_end(dial, error);
}

/* How much an error says about the peer: of several the one that says most is told. A shortage says
 * that it is worth trying again; who came to shake hands knows more than who was not let in; and
 * most knows who was shown the wrong certificate. */
static int weight(const struct pl_failure *failure, enum pl_reason reason, enum pool_phase phase,
                  int error)
{
    if (!error)
        return 0;
    if (pl_dial_is_shortage(reason, error))
        return 5;
    if (phase == POOL_PHASE_TLS)
        return failure->status == POOL_E_TLS ? 4 : 3;
    switch (error) {
    case EAFNOSUPPORT:
    case ENETUNREACH:
    case ENODEV:
    case EINVAL:
        return 1;
    default:
        return 2;
    }
}

static void bear_grudge(struct pl_dial *dial, const struct pl_dial_attempt *attempt)
{
    if (dial->grudges && dial->places)
        pl_grudge_bear(dial->grudges, &attempt->place, pl_os->now_ns());
}

static void note_error(struct pl_dial *dial, const struct pl_dial_attempt *attempt, int error)
{
    enum pool_phase phase = attempt->is_securing ? POOL_PHASE_TLS : POOL_PHASE_CONNECT;

    if (weight(&attempt->failure, attempt->reason, phase, error) <
        weight(&dial->failure, dial->reason, dial->phase, dial->error))
        return;
    dial->error = error;
    dial->reason = attempt->reason;
    dial->phase = phase;
    dial->failure = attempt->failure;
    dial->answer = attempt->answer;
}

/* Of an attempt that came to nothing; its socket is gone. */
static void note_failure(struct pl_dial *dial, const struct pl_dial_attempt *attempt, int error)
{
    dial->is_next_due = true;
    if (!pl_dial_is_shortage(attempt->reason, error))
        bear_grudge(dial, attempt);
    note_error(dial, attempt, error);
}

static void win(struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    struct pl_connection *slot = attempt->connection, *own = dial->connection;

    dial->connected_ns = attempt->is_securing ? attempt->connected_ns : pl_os->now_ns();
    if (dial->places)
        dial->won = pl_place_hash(&attempt->place);
    if (dial->grudges && dial->places)
        pl_grudge_forget(dial->grudges, &attempt->place);
    for (size_t i = 0; i < PL_COUNT(dial->attempts); i++) {
        struct pl_dial_attempt *other = &dial->attempts[i];

        if (!other->connection || other == attempt)
            continue;
        if (other->begun_ns < attempt->begun_ns)
            bear_grudge(dial, other);   /* it was given more time, and was slower */
        end_attempt(dial, other, false);
    }
    if (slot != own)
        pl_connection_move_socket(own, slot);
    end_attempt(dial, attempt, true);
    pl_lookup_cancel(&dial->lookup);
    pl_mux_timer_disarm(dial->mux, &dial->timer);
    dial->ops->on_end(dial, 0);
}

/* ---- attempts */

static bool make_room(struct pl_dial *dial)
{
    return dial->rooms_made++ < ROOMS_MAX && dial->ops->make_room(dial) && !dial->mux->is_forked;
}

static void begin_next(struct pl_dial *dial)
{
    struct pl_dial_attempt *attempt = free_attempt(dial);
    int error = ENOMEM;

    attempt->connection = take_slot(dial);
    if (dial->places)
        attempt->place = dial->places[dial->next_place];
    attempt->reason = PL_REASON_NONE;
    attempt->failure = (struct pl_failure){ 0 };
    attempt->is_securing = false;
    attempt->until_ns = PL_NEVER;
    attempt->begun_ns = dial->last_begun_ns = pl_os->now_ns();
    if (!dial->connecting_ns)
        dial->connecting_ns = attempt->begun_ns;
    dial->is_next_due = false;
    if (attempt->connection) {
        do
            error = pl_attempt_begin(dial, attempt);
        while (pl_dial_is_shortage(attempt->reason, error) && make_room(dial));
    }
    if (dial->mux->is_forked)
        return;
    if (!error) {
        dial->next_place++;
        dial->live++;
        return;
    }
    if (attempt->connection)
        give_slot(dial, attempt->connection);
    attempt->connection = NULL;
    if (pl_dial_is_shortage(attempt->reason, error) && dial->live)
        return;                         /* this place is tried again, after the next stagger */
    dial->next_place++;
    note_failure(dial, attempt, error);
}

/* ---- names */

static bool is_any_securing(const struct pl_dial *dial)
{
    for (size_t i = 0; i < PL_COUNT(dial->attempts); i++) {
        if (dial->attempts[i].connection && dial->attempts[i].is_securing)
            return true;
    }
    return false;
}

/* How far it is, for those who run out of time meanwhile. */
static void show_phase(struct pl_dial *dial)
{
    enum pool_phase phase = is_any_securing(dial)                      ? POOL_PHASE_TLS
                            : dial->is_resolving && !dial->place_count ? POOL_PHASE_RESOLVE
                                                                       : POOL_PHASE_CONNECT;

    atomic_store(&dial->connection->dial_phase, (uint8_t)phase);
}

static void set_resolving(struct pl_dial *dial, bool is_resolving)
{
    dial->is_resolving = is_resolving;
    show_phase(dial);
}

/* The name, or nothing but it, is what fails. A shortage is told as one of connecting is. */
static void note_failed_name(struct pl_dial *dial, const struct pl_failure *failure)
{
    bool is_short = failure->status == POOL_E_RESOURCE || failure->status == POOL_E_MEMORY;

    if (dial->place_count)
        return;                         /* what the places say says more */
    dial->phase = POOL_PHASE_RESOLVE;
    dial->error = !is_short ? ENOENT : failure->cause ? failure->cause : ENOMEM;
    if (!is_short)
        dial->failure = *failure;
}

static void take_answer(struct pl_dial *dial, const struct pl_answer *answer)
{
    int error = 0;

    /* What is added comes before what is there, and IPv6 is to come first. */
    for (int i = PL_FAMILIES - 1; i >= 0 && !error; i--) {
        const struct pl_addresses *addresses = answer->of[i];

        if (!addresses || !addresses->count)
            continue;
        error = pl_dial_add_places(dial, addresses->list, addresses->count);
        if (!dial->expires_ns || addresses->expires_ns < dial->expires_ns)
            dial->expires_ns = addresses->expires_ns;
    }
    if (error)
        dial->error = error;
    if (answer->is_last && answer->failure.status)
        note_failed_name(dial, &answer->failure);
    set_resolving(dial, !answer->is_last);
}

static void on_addresses(struct pl_lookup *lookup, const struct pl_answer *answer)
{
    struct pl_dial *dial = pl_container(lookup, struct pl_dial, lookup);

    take_answer(dial, answer);
    pl_dial_go_on(dial);
}

static void look_up(struct pl_dial *dial)
{
    struct pl_answer answer;

    dial->lookup = (struct pl_lookup){ .name = dial->address->host.data,
                                       .family = dial->address->family,
                                       .on_addresses = on_addresses };
    dial->error = 0;
    dial->expires_ns = 0;
    dial->failure = (struct pl_failure){ 0 };
    set_resolving(dial, true);
    if (pl_resolver_look_up(dial->resolver, &dial->lookup, &answer))
        take_answer(dial, &answer);
}

/* The resolver itself lacked a descriptor, and one can be had. */
static void look_up_with_room(struct pl_dial *dial)
{
    while (!dial->is_resolving && !dial->place_count &&
           pl_dial_is_shortage(PL_REASON_NONE, dial->error) && make_room(dial))
        look_up(dial);
}

/* ---- what is due */

static bool has_places(const struct pl_dial *dial)
{
    return dial->next_place < dial->place_count;
}

/* When the next place is to be tried, if no attempt fails before. */
static uint64_t next_begin(const struct pl_dial *dial)
{
    if (!has_places(dial))
        return PL_NEVER;
    return dial->live && !dial->is_next_due ? dial->last_begun_ns + PL_STAGGER_NS : 0;
}

/* So many are silent: the one that had most time makes way. */
static void drop_oldest(struct pl_dial *dial)
{
    struct pl_dial_attempt *oldest = &dial->attempts[0];

    for (size_t i = 1; i < PL_COUNT(dial->attempts); i++) {
        if (dial->attempts[i].begun_ns < oldest->begun_ns)
            oldest = &dial->attempts[i];
    }
    end_attempt(dial, oldest, false);
    note_failure(dial, oldest, ETIMEDOUT);
}

static void arm(struct pl_dial *dial)
{
    uint64_t when_ns = pl_earlier(dial->is_late ? PL_NEVER : dial->deadline_ns, next_begin(dial));

    for (size_t i = 0; i < PL_COUNT(dial->attempts); i++) {
        const struct pl_dial_attempt *attempt = &dial->attempts[i];

        if (attempt->connection)
            when_ns = pl_earlier(when_ns, pl_earlier(attempt->again_ns, attempt->until_ns));
    }
    pl_mux_timer_arm(dial->mux, &dial->timer, when_ns);
}

/* False: there is nothing to go on with, and the dial may be no more. */
static bool may_go_on(struct pl_dial *dial)
{
    return !dial->mux->is_forked && dial->ops->may_go_on(dial);
}

/* Begins what is due, after a failure or by time. The dial may end here. */
void pl_dial_go_on(struct pl_dial *dial)
{
    dial->is_begun = false; /* the program's functions must not end the dial under us */
    look_up_with_room(dial);
    if (!may_go_on(dial))
        return;
    while (next_begin(dial) <= pl_os->now_ns()) {
        if (dial->live == PL_ATTEMPTS)
            drop_oldest(dial);
        begin_next(dial);
        if (!may_go_on(dial))
            return;                     /* and none of them is called any more */
    }
    dial->is_begun = true;
    show_phase(dial);
    if (dial->live || has_places(dial) || dial->is_resolving)
        arm(dial);
    else
        finish(dial, dial->error);
}

/* Its socket is closed. When it lacked something that can be had, its place is tried once more. */
static void fail_attempt(struct pl_dial *dial, struct pl_dial_attempt *attempt, int error)
{
    union pl_ip place = attempt->place;
    bool is_short = pl_dial_is_shortage(attempt->reason, error);

    end_attempt(dial, attempt, false);
    dial->is_begun = false;
    if (is_short && !dial->is_late && dial->next_place && make_room(dial)) {
        dial->next_place--;
        dial->is_next_due = true;
        if (dial->places)
            dial->places[dial->next_place] = place;
    } else if (!dial->mux->is_forked) {
        note_failure(dial, attempt, error);
    }
}

static void give_up_attempt(struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    attempt->reason = PL_REASON_DEADLINE;
    attempt->failure = (struct pl_failure){ 0 };
    end_attempt(dial, attempt, false);
    note_failure(dial, attempt, ETIMEDOUT);
}

/* Nothing new begins, and room would come too late. */
static void on_deadline(struct pl_dial *dial)
{
    static const struct pl_dial_attempt none = { .reason = PL_REASON_DEADLINE };

    dial->is_late = true;
    dial->is_resolving = false;
    pl_lookup_cancel(&dial->lookup);
    dial->next_place = dial->place_count;
    if (pl_dial_is_shortage(dial->reason, dial->error))
        dial->error = 0;
    for (size_t i = 0; i < PL_COUNT(dial->attempts); i++) {
        struct pl_dial_attempt *attempt = &dial->attempts[i];

        if (attempt->connection && !attempt->is_securing)
            give_up_attempt(dial, attempt);
    }
    note_error(dial, &none, ETIMEDOUT);
    if (!dial->place_count)
        dial->phase = POOL_PHASE_RESOLVE;
}

static void on_timer(void *user)
{
    struct pl_dial *dial = user;
    uint64_t now_ns = pl_os->now_ns();
    int error;

    if (!dial->is_late && now_ns >= dial->deadline_ns)
        on_deadline(dial);
    for (size_t i = 0; i < PL_COUNT(dial->attempts); i++) {
        struct pl_dial_attempt *attempt = &dial->attempts[i];

        if (attempt->connection && attempt->until_ns <= now_ns)
            give_up_attempt(dial, attempt);
        if (!attempt->connection || attempt->again_ns > now_ns)
            continue;
        error = pl_attempt_again(dial, attempt);
        if (error)
            fail_attempt(dial, attempt, error);
    }
    pl_dial_go_on(dial);
}

/* 0: the connection stands; EAGAIN: not yet; else why it does not. */
static int step(struct pl_dial *dial, struct pl_dial_attempt *attempt)
{
    int error = attempt->is_securing ? 0 : pl_attempt_outcome(attempt);

    if (error || !dial->tls)
        return error;
    if (!attempt->is_securing) {
        attempt->connected_ns = pl_os->now_ns();
        attempt->until_ns = pl_after(attempt->connected_ns, dial->tls_ns);
        arm(dial);
    }
    return pl_attempt_secure(dial, attempt);
}

void pl_dial_on_event(struct pl_dial *dial, struct pl_connection *connection)
{
    int error;

    for (size_t i = 0; i < PL_COUNT(dial->attempts); i++) {
        struct pl_dial_attempt *attempt = &dial->attempts[i];

        if (attempt->connection != connection)
            continue;
        attempt->reason = PL_REASON_NONE;
        dial->is_begun = !dial->tls;    /* key_log may end pools, or fork */
        error = step(dial, attempt);
        if (dial->tls && !may_go_on(dial))
            return;
        dial->is_begun = true;
        if (error == EAGAIN) {
            show_phase(dial);
            return;
        }
        if (error) {
            fail_attempt(dial, attempt, error);
            pl_dial_go_on(dial);
        } else {
            win(dial, attempt);
        }
        return;
    }
}

bool pl_dial_open(struct pl_dial *dial)
{
    return pl_mux_timer_open(dial->mux, &dial->timer, on_timer, dial);
}

void pl_dial_close(struct pl_dial *dial)
{
    if (!dial->mux->is_forked) {
        end_attempts(dial, true);
        pl_lookup_cancel(&dial->lookup);
    }
    pl_mux_timer_close(dial->mux, &dial->timer);
    pl_os->free(dial->places);
    dial->places = NULL;
    pl_tls_settings_release(dial->tls);
    dial->tls = NULL;
}

int pl_dial_add_places(struct pl_dial *dial, const union pl_ip *places, uint32_t count)
{
    uint32_t left = dial->place_count - dial->next_place;
    union pl_ip *all = pl_os->malloc((left + count + 1) * sizeof(*all));

    if (!all)
        return ENOMEM;
    memcpy(all, places, count * sizeof(*all));
    if (left)
        memcpy(all + count, dial->places + dial->next_place, left * sizeof(*all));
    pl_os->free(dial->places);
    dial->places = all;
    dial->next_place = 0;
    dial->place_count = pl_places_unique(all, left + count);
    pl_places_order(all, dial->place_count, dial->grudges, pl_os->now_ns());
    return 0;
}

void pl_dial_start(struct pl_dial *dial)
{
    dial->phase = POOL_PHASE_CONNECT;
    if (!dial->places && !pl_address_is_literal(dial->address))
        look_up(dial);
    else if (!dial->places)
        dial->place_count = 1;
    pl_dial_go_on(dial);
}
