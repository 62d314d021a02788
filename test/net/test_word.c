/* test_word.c: the ownership word: its moves, pins and serials one by one, then every interleaving
 * of two threads that borrow, use, return, discard and evict one connection. */
#include "net/word.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "support/tests.h"

/* A row for each state that is left, a column for each that is reached, in the order of pl_state:
 * Free Opening Setup Idle Parked Mux Heard Lent Ending Closing forKed. */
static const char moves[PL_STATES][PL_STATES + 1] = {
    [PL_FREE] = ".o.........",   [PL_OPENING] = "..s..m...ck", [PL_SETUP] = "...i...leck",
    [PL_IDLE] = ".....m.l.ck",   [PL_PARKED] = ".....m.l.ck",  [PL_MUX] = "...ip.hleck",
    [PL_HEARD] = ".....m..eck",  [PL_LENT] = "...i.m.leck",    [PL_ENDING] = ".........ck",
    [PL_CLOSING] = "f.........k", [PL_FORKED] = "...........",
};

Test(word, only_the_moves_of_the_table_are_legal)
{
    for (int from = 0; from < PL_STATES; from++) {
        for (int to = 0; to < PL_STATES; to++)
            cr_expect_eq(pl_word_is_legal((enum pl_state)from, (enum pl_state)to),
                         moves[from][to] != '.', "%d to %d", from, to);
    }
    for (int beyond = PL_STATES; beyond <= (int)PL_STATE_MASK; beyond++)
        cr_expect_not(pl_word_is_legal((enum pl_state)beyond, PL_IDLE));
}

static uint64_t word_of(enum pl_state state, uint64_t pins, uint64_t serial)
{
    return serial * PL_SERIAL + pins * PL_PIN + (uint64_t)state;
}

Test(word, a_move_is_made_by_whoever_saw_the_word_as_it_is_and_by_nobody_else)
{
    uint64_t seen = word_of(PL_IDLE, 0, 5) | PL_LISTED;
    _Atomic uint64_t word = seen;

    cr_expect_not(pl_word_become_state(&word, seen ^ PL_LISTED, PL_LENT));
    cr_expect_not(pl_word_become_state(&word, seen + PL_PIN, PL_LENT));
    cr_expect_not(pl_word_become_state(&word, seen + PL_SERIAL, PL_LENT));
    cr_expect_eq(word, seen);
    cr_expect(pl_word_become(&word, seen, pl_word_handed(seen, PL_LENT)));
    cr_expect_eq(word, word_of(PL_LENT, 0, 6) | PL_LISTED);
    cr_expect_not(pl_word_become(&word, seen, pl_word_handed(seen, PL_LENT)));
}

static void make_an_illegal_move(void)
{
    _Atomic uint64_t word = word_of(PL_CLOSING, 0, 1);

    pl_word_become_state(&word, word, PL_LENT);
}

Test(word, an_illegal_move_ends_the_process)
{
    cr_expect(aborts_saying("invariant broken: pl_word_is_legal", make_an_illegal_move));
}

static _Atomic uint64_t contested;

static void *list_and_unlist(void *argument)
{
    for (;;)
        atomic_fetch_xor(&contested, PL_LISTED);
    return argument;
}

static void move_what_others_move_too(void)
{
    pthread_t thread;

    contested = word_of(PL_LENT, 0, 1);
    if (pthread_create(&thread, NULL, list_and_unlist, NULL))
        return;
    for (;;) /* until the other one comes between the look and the swap */
        pl_word_move(&contested, word_of(PL_LENT, 0, 1));
}

Test(word, a_move_of_one_who_must_be_alone_ends_the_process_when_it_is_not)
{
    cr_expect(aborts_saying("invariant broken: is_alone", move_what_others_move_too));
}

Test(word, a_pin_holds_the_connection_for_its_holder_only)
{
    for (int state = 0; state < PL_STATES; state++) {
        bool is_held = state == PL_LENT || state == PL_HEARD || state == PL_SETUP;
        _Atomic uint64_t word = word_of((enum pl_state)state, 3, 7);
        uint64_t before = word;

        cr_expect_not(pl_word_pin(&word, 6));
        cr_expect_not(pl_word_pin(&word, 8));
        cr_expect_not(pl_word_pin(&word, 7 + (UINT64_C(1) << 48)));
        cr_expect_eq(word, before);
        cr_expect_eq(pl_word_pin(&word, 7), is_held, "state %d", state);
        cr_expect_eq(pl_word_pin_any(&word), is_held, "state %d", state);
        cr_expect_eq(pl_word_pins(word), is_held ? 5 : 3);
        cr_expect_eq(word % PL_PIN, before % PL_PIN);
        cr_expect_eq(pl_word_serial(word), 7);
    }
}

Test(word, pins_that_are_used_up_are_refused_and_never_run_into_the_serial)
{
    _Atomic uint64_t word = word_of(PL_LENT, 0, 1);
    unsigned pins = 0;

    while (pl_word_pin(&word, 1))
        pins++;
    cr_expect_eq(pins, 1023);
    cr_expect_not(pl_word_pin_any(&word));
    cr_expect_eq(pl_word_serial(word), 1);
    while (pins--)
        cr_expect_not(pl_word_unpin(&word));
    cr_expect_eq(word, word_of(PL_LENT, 0, 1) | PL_TOUCHED, "whoever gives it on must look");
}

Test(word, the_last_of_the_operations_under_way_closes_what_was_given_back)
{
    _Atomic uint64_t word = word_of(PL_ENDING, 3, 9) | PL_LISTED;

    cr_expect_not(pl_word_unpin(&word));
    cr_expect_not(pl_word_unpin(&word));
    cr_expect(pl_word_unpin(&word));
    cr_expect_eq(word, word_of(PL_CLOSING, 0, 9) | PL_LISTED);
}

static void unpin_without_a_pin(void)
{
    _Atomic uint64_t word = word_of(PL_LENT, 0, 9);

    pl_word_unpin(&word);
}

Test(word, unpinning_without_a_pin_ends_the_process)
{
    cr_expect(aborts_saying("invariant broken: seen & PL_PIN_MASK", unpin_without_a_pin));
}

Test(word, a_slot_is_retired_before_its_serials_come_back)
{
    cr_expect_not(pl_word_is_used_up(word_of(PL_CLOSING, 0, PL_SERIAL_LAST / 2)));
    cr_expect_not(pl_word_is_used_up(word_of(PL_CLOSING, 0, PL_SERIAL_LAST - 9)));
    cr_expect(pl_word_is_used_up(word_of(PL_CLOSING, 0, PL_SERIAL_LAST - 8)));
    cr_expect(pl_word_is_used_up(word_of(PL_CLOSING, 0, PL_SERIAL_LAST)));
}

/* ---- the model: each step below is one access to the word, as the pool makes them */

enum deed { BORROW, RETURN, DISCARD, USE, EVICT, DEEDS };

#define ACTORS 2
#define STEPS 3

struct actor {
    uint64_t seen, handle;  /* what it read last; the serial it believes to hold */
    uint16_t deed, at, left; /* at 0: before the next deed */
    uint16_t pins;
};

struct state {
    uint64_t word;
    struct actor actors[ACTORS];
    uint32_t is_lent, is_closed; /* what really is, as far as one who sees everything can tell */
};

#define SEEN_MAX (1u << 18)

static struct state visited[SEEN_MAX];
static bool is_taken[SEEN_MAX];
static size_t states;
static const char *broken;

static void hold(bool condition, const char *rule)
{
    if (!condition && !broken)
        broken = rule;
}

static uint16_t pins_of_all(const struct state *state)
{
    return (uint16_t)(state->actors[0].pins + state->actors[1].pins);
}

static void close_it(struct state *state)
{
    hold(!state->is_closed, "one closes");
    hold(!state->is_lent, "nobody has what is closed");
    hold(!pins_of_all(state), "no operation is under way on what is closed");
    state->is_closed = 1;
}

static void unpin(struct state *state, struct actor *actor, _Atomic uint64_t *word, uint16_t next)
{
    bool is_last = pl_word_unpin(word);

    actor->pins--;
    if (is_last)
        close_it(state);
    actor->at = is_last ? next : 0;
}

static bool may_take(uint64_t word)
{
    return pl_word_state(word) == PL_IDLE && !pl_word_pins(word);
}

enum { REBORN = 8 };

static void borrow(struct state *state, struct actor *actor, _Atomic uint64_t *word)
{
    if (actor->at == 1) {
        actor->seen = *word;
        actor->at = may_take(actor->seen) ? 2 : 0;
        return;
    }
    actor->at = 0;
    if (!pl_word_become(word, actor->seen, pl_word_handed(actor->seen, PL_LENT)))
        return;
    hold(!state->is_lent, "one has it");
    hold(!state->is_closed, "nobody borrows what is closed");
    hold(!pins_of_all(state), "nobody borrows what another still works on");
    state->is_lent = 1;
    actor->handle = pl_word_serial(*word);
}

static void evict(struct state *state, struct actor *actor, _Atomic uint64_t *word)
{
    if (actor->at == 1) {
        actor->seen = *word;
        actor->at = may_take(actor->seen) ? 2 : 0;
    } else if (pl_word_become_state(word, actor->seen, PL_CLOSING)) {
        close_it(state);
        actor->at = REBORN;
    } else {
        actor->at = 0;
    }
}

/* Two at once may do it with copies of one handle: one ends the loan, the other's copy is stale. */
static void give_back(struct state *state, struct actor *actor, _Atomic uint64_t *word)
{
    switch (actor->at) {
    case 1:
        actor->seen = *word;
        if (pl_word_serial(actor->seen) != actor->handle || pl_word_state(actor->seen) != PL_LENT)
            actor->at = 0;
        else
            actor->at = pl_word_pins(actor->seen) ? 3 : 2;
        break;
    case 2:
        if (!pl_word_become_state(word, actor->seen, PL_MUX)) {
            actor->at = 1;
            break;
        }
        hold(state->is_lent, "what is given back was lent");
        state->is_lent = 0;
        actor->at = 7;
        break;
    case 3:
        actor->at = pl_word_pin(word, actor->handle) ? 4 : 0;
        actor->pins += actor->at == 4;
        break;
    case 4:
        actor->seen = *word;
        actor->at = pl_word_state(actor->seen) == PL_LENT ? 5 : 6;
        break;
    case 5:
        actor->at = 4;
        if (pl_word_become_state(word, actor->seen, PL_ENDING)) {
            hold(state->is_lent, "what is ended was lent");
            state->is_lent = 0;
            actor->at = 6;
        }
        break;
    case 6:
        unpin(state, actor, word, REBORN);
        break;
    default:
        hold(pl_word_become_state(word, *word, actor->deed == RETURN ? PL_IDLE : PL_CLOSING),
             "what was claimed is the claimer's alone");
        actor->at = 0;
        if (actor->deed == DISCARD) {
            close_it(state);
            actor->at = REBORN;
        }
    }
}

static void use(struct state *state, struct actor *actor, _Atomic uint64_t *word)
{
    if (actor->at == 1) {
        actor->at = pl_word_pin(word, actor->handle) ? 2 : 0;
        actor->pins += actor->at == 2;
    } else {
        unpin(state, actor, word, REBORN);
    }
}

/* The slot's next connection, which old handles must not reach. */
static void be_reborn(struct state *state, struct actor *actor, _Atomic uint64_t *word)
{
    if (actor->at == REBORN) {
        pl_word_move(word, pl_word_handed(*word, PL_FREE));
        actor->at = REBORN + 1;
        return;
    }
    pl_word_move(word, pl_word_handed(*word, PL_OPENING));
    pl_word_move(word, pl_word_with(*word, PL_SETUP));
    pl_word_move(word, pl_word_with(*word, PL_IDLE));
    state->is_closed = 0;
    actor->at = 0;
}

static void check(const struct state *state)
{
    hold(pl_word_pins(state->word) == pins_of_all(state), "the word counts all pins");
    hold(state->is_lent == (pl_word_state(state->word) == PL_LENT), "lent is what the word says");
    for (size_t i = 0; i < ACTORS; i++) {
        const struct actor *actor = &state->actors[i];
        enum pl_state is = pl_word_state(state->word);

        hold(!actor->pins || (pl_word_serial(state->word) == actor->handle &&
                              (is == PL_LENT || is == PL_ENDING)),
             "who works on it works on its own loan");
    }
}

static void take_step(struct state *state, size_t who)
{
    struct actor *actor = &state->actors[who];
    _Atomic uint64_t word = state->word;

    if (actor->at >= REBORN)
        be_reborn(state, actor, &word);
    else if (actor->deed == BORROW)
        borrow(state, actor, &word);
    else if (actor->deed == EVICT)
        evict(state, actor, &word);
    else if (actor->deed == USE)
        use(state, actor, &word);
    else
        give_back(state, actor, &word);
    state->word = word;
    check(state);
}

static bool is_new(const struct state *state)
{
    const unsigned char *bytes = (const unsigned char *)state;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    size_t at;

    for (size_t i = 0; i < sizeof(*state); i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    for (at = (size_t)(hash ^ hash >> 29) % SEEN_MAX; is_taken[at]; at = (at + 1) % SEEN_MAX) {
        if (memcmp(&visited[at], state, sizeof(*state)) == 0)
            return false;
    }
    cr_assert_lt(++states, SEEN_MAX * 3 / 4);
    visited[at] = *state;
    is_taken[at] = true;
    return true;
}

/* Everything that can come of `state`. */
static void explore(const struct state *state)
{
    bool is_over = true;

    if (broken || !is_new(state))
        return;
    for (size_t who = 0; who < ACTORS; who++) {
        const struct actor *actor = &state->actors[who];

        if (!actor->at && !actor->left)
            continue;
        is_over = false;
        for (uint16_t deed = 0; deed < DEEDS; deed++) {
            struct state next = *state;

            if (actor->at && deed != actor->deed)
                continue;
            if (!actor->at) {
                next.actors[who].deed = deed;
                next.actors[who].at = 1;
                next.actors[who].left--;
            }
            take_step(&next, who);
            explore(&next);
        }
    }
    hold(!is_over || pl_word_state(state->word) == PL_IDLE || pl_word_state(state->word) == PL_LENT,
         "in the end it is idle or lent, not stuck");
}

Test(word, in_no_interleaving_of_two_threads_do_two_own_the_connection, .timeout = 120)
{
    struct state state = { .word = word_of(PL_IDLE, 0, 1) };

    _Static_assert(sizeof(state) == 8 + ACTORS * 24 + 8, "no padding in what is compared");
    for (size_t i = 0; i < ACTORS; i++)
        state.actors[i].left = STEPS;
    explore(&state);
    cr_expect_null(broken, "%s", broken);
    state.word = word_of(PL_LENT, 0, 1); /* both have the handle */
    state.is_lent = 1;
    state.actors[0].handle = state.actors[1].handle = 1;
    explore(&state);
    cr_expect_null(broken, "%s", broken);
    cr_expect_gt(states, 10000);
    cr_log_info("%zu states", states);
}

/* The same on real threads, as long as it takes to see that they do meet. */
static _Atomic uint64_t contended = 0;
static _Atomic unsigned inside, won, twice;

static void fight(unsigned index, void *argument)
{
    (void)index, (void)argument;
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t seen = contended;

        if (!may_take(seen) || !pl_word_become(&contended, seen, pl_word_handed(seen, PL_LENT)))
            continue;
        twice += atomic_fetch_add(&inside, 1) != 0;
        won++;
        atomic_fetch_sub(&inside, 1);
        seen = contended;
        pl_word_become_state(&contended, seen, PL_IDLE);
    }
}

Test(word, of_many_threads_that_want_it_one_has_it)
{
    contended = word_of(PL_IDLE, 0, 1);
    cr_assert(run_threads(4, fight, NULL));
    cr_expect_eq(twice, 0);
    cr_expect_gt(won, 1000);
    cr_expect_eq(pl_word_serial(contended), won + 1);
}
