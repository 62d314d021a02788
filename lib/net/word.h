/* word.h: who owns a connection, in one atomic word: state, listed, pins, touched, serial.
 *
 *   bits 0..3    state (enum pl_state)
 *   bit  4       listed: it stands in its peer's list of idle connections (a hint, never a right)
 *   bits 5..14   pins: operations that are under way on it
 *   bit  15      touched: there was one since the bit was last cleared, so what it left behind must
 *                be looked at before the connection goes to somebody else
 *   bits 16..63  serial: one more each time somebody is given the connection; a handle is good for
 *                one serial
 *
 * Whoever wins the swap from the state it saw owns the connection. A serial never comes back in a
 * slot: when the numbers of a slot are used up, the slot is retired.
 */
#ifndef PL_NET_WORD_H
#define PL_NET_WORD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/assert.h"

enum pl_state {
    PL_FREE,                            /* a slot without a connection */
    PL_OPENING,                         /* the mux dials; or it is being adopted */
    PL_SETUP,                           /* connected; hooks are at work on the mux */
    PL_IDLE,                            /* lendable, hot: not watched */
    PL_PARKED,                          /* lendable, watched by the mux */
    PL_MUX,                             /* taken from the idle ones for a moment, by the pool
                                         * itself: no handle is good */
    PL_HEARD,                           /* its actor's: data came while it was idle */
    PL_LENT,                            /* somebody's */
    PL_ENDING,          /* given back while operations were under way: the last of them closes it */
    PL_CLOSING,                         /* its owner is closing it */
    PL_FORKED,                          /* the parent's; this is the child: nobody's, for ever */
    PL_STATES
};

#define PL_STATE_MASK UINT64_C(0xf)
#define PL_LISTED UINT64_C(0x10)
#define PL_PIN UINT64_C(0x20)
#define PL_PIN_MASK UINT64_C(0x7fe0)
#define PL_TOUCHED UINT64_C(0x8000)
#define PL_SERIAL UINT64_C(0x10000)
#define PL_SERIAL_LAST (UINT64_MAX >> 16)

static inline enum pl_state pl_word_state(uint64_t word)
{
    return (enum pl_state)(word & PL_STATE_MASK);
}

static inline uint64_t pl_word_serial(uint64_t word)
{
    return word >> 16;
}

static inline uint64_t pl_word_pins(uint64_t word)
{
    return (word & PL_PIN_MASK) / PL_PIN;
}

static inline uint64_t pl_word_with(uint64_t word, enum pl_state state)
{
    return (word & ~PL_STATE_MASK) | (uint64_t)state;
}

/* Which states may follow which. */
static inline bool pl_word_is_legal(enum pl_state from, enum pl_state to)
{
    static const uint16_t legal[PL_STATES] = {
        [PL_FREE] = 1 << PL_OPENING,
        [PL_OPENING] = 1 << PL_SETUP | 1 << PL_MUX | 1 << PL_CLOSING | 1 << PL_FORKED,
        [PL_SETUP] = 1 << PL_IDLE | 1 << PL_LENT | 1 << PL_ENDING | 1 << PL_CLOSING |
                     1 << PL_FORKED,
        [PL_IDLE] = 1 << PL_LENT | 1 << PL_MUX | 1 << PL_CLOSING | 1 << PL_FORKED,
        [PL_PARKED] = 1 << PL_LENT | 1 << PL_MUX | 1 << PL_CLOSING | 1 << PL_FORKED,
        [PL_MUX] = 1 << PL_IDLE | 1 << PL_PARKED | 1 << PL_HEARD | 1 << PL_LENT | 1 << PL_ENDING |
                   1 << PL_CLOSING | 1 << PL_FORKED,
        [PL_HEARD] = 1 << PL_MUX | 1 << PL_ENDING | 1 << PL_CLOSING | 1 << PL_FORKED,
        [PL_LENT] = 1 << PL_IDLE | 1 << PL_MUX | 1 << PL_LENT | 1 << PL_ENDING | 1 << PL_CLOSING |
                    1 << PL_FORKED,
        [PL_ENDING] = 1 << PL_CLOSING | 1 << PL_FORKED,
        [PL_CLOSING] = 1 << PL_FREE | 1 << PL_FORKED,
    };

    return from < PL_STATES && (legal[from] & 1u << to);
}

/* True in the states in which a handle can be good. */
static inline bool pl_word_is_held(uint64_t word)
{
    enum pl_state state = pl_word_state(word);

    return state == PL_LENT || state == PL_HEARD || state == PL_SETUP;
}

/* The one function that moves a connection from state to state: true when nobody was quicker.
 * `seen` is the word as the caller read it, `next` what it becomes. */
static inline bool pl_word_become(_Atomic uint64_t *word, uint64_t seen, uint64_t next)
{
    pl_assert(pl_word_is_legal(pl_word_state(seen), pl_word_state(next)));
    return atomic_compare_exchange_strong(word, &seen, next);
}

/* The same where nobody else may touch the word: a slot between two connections. */
static inline void pl_word_move(_Atomic uint64_t *word, uint64_t next)
{
    bool is_alone = pl_word_become(word, atomic_load(word), next);

    pl_assert(is_alone);
}

/* The same to `state`, keeping all else. */
static inline bool pl_word_become_state(_Atomic uint64_t *word, uint64_t seen, enum pl_state state)
{
    return pl_word_become(word, seen, pl_word_with(seen, state));
}

/* Given to somebody new: handles from before are stale from here on. */
static inline uint64_t pl_word_handed(uint64_t seen, enum pl_state state)
{
    return (pl_word_with(seen, state) & ~PL_TOUCHED) + PL_SERIAL;
}

static inline bool pl_word_is_used_up(uint64_t word)
{
    return pl_word_serial(word) >= PL_SERIAL_LAST - 8;
}

/* Holds the connection as it is for one operation of the holder of `serial`; false: the handle is
 * stale. */
static inline bool pl_word_pin(_Atomic uint64_t *word, uint64_t serial)
{
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);

    do {
        if (pl_word_serial(seen) != serial || !pl_word_is_held(seen) ||
            (seen & PL_PIN_MASK) == PL_PIN_MASK)
            return false;
    } while (!atomic_compare_exchange_weak(word, &seen, (seen + PL_PIN) | PL_TOUCHED));
    return true;
}

/* The same for whoever wants a look at a connection that somebody holds. */
static inline bool pl_word_pin_any(_Atomic uint64_t *word)
{
    uint64_t seen = atomic_load(word);

    do {
        if (!pl_word_is_held(seen) || (seen & PL_PIN_MASK) == PL_PIN_MASK)
            return false;
    } while (!atomic_compare_exchange_weak(word, &seen, (seen + PL_PIN) | PL_TOUCHED));
    return true;
}

/* True: this was the last pin of a connection that was given back meanwhile; the caller owns it
 * (CLOSING) and closes. */
static inline bool pl_word_unpin(_Atomic uint64_t *word)
{
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed), next;

    do {
        pl_assert(seen & PL_PIN_MASK);
        next = seen - PL_PIN;
        if (pl_word_state(seen) == PL_ENDING && !(next & PL_PIN_MASK))
            next = pl_word_with(next, PL_CLOSING);
    } while (!atomic_compare_exchange_weak(word, &seen, next));
    return pl_word_state(next) == PL_CLOSING;
}

#endif
