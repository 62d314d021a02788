/* runner.c: see runner.h. */
#include "wire/runner.h"

#include <string.h>

#include "base/assert.h"
#include "base/os.h"

/* Bytes by which a buffer that had to be large may stay larger than it need be. */
#define KEEP 65536u

enum pool_status pl_runner_init(struct pl_runner *runner, const struct pool_codec *codec,
                                size_t most)
{
    size_t size = codec->read_state_size ? codec->read_state_size : 1;

    *runner = (struct pl_runner){ .codec = codec, .most = most };
    runner->state = pl_os->malloc(size);
    if (!runner->state)
        return POOL_E_MEMORY;
    memset(runner->state, 0, size);
    return POOL_OK;
}

void pl_runner_fini(struct pl_runner *runner)
{
    pl_os->free(runner->state);
    runner->state = NULL;
    pl_buffer_fini(&runner->in);
}

void *pl_runner_space(struct pl_runner *runner, size_t least, size_t *room)
{
    size_t have = pl_buffer_size(&runner->in);

    pl_assert(!runner->found);
    if (!have && runner->in.capacity > KEEP && runner->in.capacity > least)
        pl_buffer_fini(&runner->in);    /* a large message has gone through */
    if (pl_runner_missing(runner) > least)
        least = pl_runner_missing(runner);
    return pl_buffer_space(&runner->in, least, room);
}

void pl_runner_filled(struct pl_runner *runner, size_t size)
{
    pl_buffer_filled(&runner->in, size);
}

void pl_runner_end(struct pl_runner *runner)
{
    runner->is_at_end = true;
}

void pl_runner_reset(struct pl_runner *runner)
{
    pl_buffer_drop(&runner->in, pl_buffer_size(&runner->in));
    memset(runner->state, 0, runner->codec->read_state_size);
    runner->wanted = runner->found = 0;
    runner->is_at_end = runner->is_over = false;
    runner->status = POOL_OK;
}

static bool fail(struct pl_runner *runner, enum pool_status status)
{
    runner->status = status;
    return false;
}

/* No whole message yet. */
static bool wait_for_more(struct pl_runner *runner, const struct pool_message *message, size_t have)
{
    if (have >= runner->most || message->wanted > runner->most)
        return fail(runner, POOL_E_PROTOCOL);
    if (runner->is_at_end)
        return fail(runner, have ? POOL_E_BROKEN : POOL_E_CLOSED);
    runner->wanted = message->wanted;
    return false;
}

static bool lies_within(struct pool_bytes inner, const char *outer, size_t size)
{
    const char *data = inner.data;

    if (!inner.size)
        return true;
    return data >= outer && inner.size <= size && (size_t)(data - outer) <= size - inner.size;
}

bool pl_runner_next(struct pl_runner *runner, uint64_t hint, struct pool_message *message)
{
    struct pool_bytes in = { "", pl_buffer_size(&runner->in) };
    long taken;

    pl_assert(!runner->found);
    if (runner->status)
        return false;
    if (runner->is_over)
        return in.size ? fail(runner, POOL_E_PROTOCOL) : false;
    if (in.size)
        in.data = runner->in.data + runner->in.start;
    *message = (struct pool_message){ .size = sizeof(*message) };
    if (!in.size && !runner->is_at_end)
        return wait_for_more(runner, message, 0);
    taken = runner->codec->next(runner->state, in, runner->is_at_end, hint, message);
    if (taken == 0)
        return wait_for_more(runner, message, in.size);
    if (taken < 0)
        return fail(runner, taken >= POOL_E_SYSTEM ? (enum pool_status)taken : POOL_E_PROTOCOL);
    if ((size_t)taken > in.size || (size_t)taken > runner->most ||
        !lies_within(message->body, in.data, (size_t)taken) ||
        (unsigned)message->kind > POOL_REQUEST)
        return fail(runner, POOL_E_PROTOCOL);
    runner->found = (size_t)taken;
    runner->wanted = 0;
    runner->is_over = message->closes;
    return true;
}
