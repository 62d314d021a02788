/* runner.h: runs a codec over what a connection receives: bytes in, messages out.
 *
 * It owns the bytes that are no whole message yet, and bounds them: a peer decides neither how much
 * memory it takes nor how long one message is. What a codec answers is checked, so a faulty one
 * ends its connection and nothing else. It knows no socket, no time and no queries, and locks
 * nothing.
 *
 * A message that was found lies in the runner's bytes until pl_runner_drop(), without which there
 * is no next one, and no space for more. The state that the codec keeps is cleared between two
 * messages by the codec itself.
 */
#ifndef PL_WIRE_RUNNER_H
#define PL_WIRE_RUNNER_H

#include "base/buffer.h"
#include "commpool/codec.h"

struct pl_runner {
    const struct pool_codec *codec;
    void *state;                        /* the codec's, for reading */
    struct pl_buffer in;
    size_t most;                        /* bytes of one message */
    size_t wanted;                      /* of the one that is coming, where it is known; else 0 */
    size_t found;                       /* bytes of the one that was found and not dropped yet */
    bool is_at_end;                     /* nothing follows what is there */
    bool is_over;                       /* no message follows: one said so */
    enum pool_status status;            /* of the first failure, which stays */
};

/* POOL_E_MEMORY, or POOL_OK. */
enum pool_status pl_runner_init(struct pl_runner *runner, const struct pool_codec *codec,
                                size_t most) PL_MUST_USE;
void pl_runner_fini(struct pl_runner *runner);

/* Where to put what comes: at least `least` bytes of room, *room of it; NULL: no memory. Then says
 * how much was put there. */
void *pl_runner_space(struct pl_runner *runner, size_t least, size_t *room) PL_MUST_USE;
void pl_runner_filled(struct pl_runner *runner, size_t size);

/* The peer has closed. */
void pl_runner_end(struct pl_runner *runner);

/* Forgets what was received, as if nothing had been yet. */
void pl_runner_reset(struct pl_runner *runner);

/* Finds the next message. True: *message is it. False: more must come, or runner->status is why
 * nothing more will. `hint` as for the codec. */
bool pl_runner_next(struct pl_runner *runner, uint64_t hint, struct pool_message *message);

/* Is done with the message that was found last. */
static inline void pl_runner_drop(struct pl_runner *runner)
{
    pl_buffer_drop(&runner->in, runner->found);
    runner->found = 0;
}

/* Bytes of the message that is coming which are known to be missing. */
static inline size_t pl_runner_missing(const struct pl_runner *runner)
{
    size_t have = pl_buffer_size(&runner->in);

    return runner->wanted > have ? runner->wanted - have : 0;
}

/* Stands it between two messages, with nothing received of the next one? */
static inline bool pl_runner_is_clean(const struct pl_runner *runner)
{
    return !runner->status && !runner->is_over && pl_buffer_size(&runner->in) == runner->found;
}

#endif
