/* settings.c: the defaults that the comments in options.h promise, and what no pool can do with. */
#include "pool/settings.h"

#include <string.h>

#include "base/options.h"
#include "base/os.h"
#include "commpool/codec.h"

#define DESCRIPTORS_SPARED 64u       /* left to the program when the pool takes its default share */
#define CONNECTIONS_AT_LEAST 8u
#define WRITE_LOW (256u << 10)
#define WOKEN_PER_PROCESSOR 4u
#define SMALLEST_OPTIONS offsetof(struct pool_options, codec)
#define SMALLEST_CALL offsetof(struct pool_call, wait_ms)
#define BORROW_FLAGS (POOL_SAFE_TO_REPEAT | POOL_FRESH | POOL_DONT_WAIT | POOL_ONE_WAY)
#define QUERY_FLAGS (POOL_SAFE_TO_REPEAT | POOL_DONT_WAIT | POOL_ONE_SHOT | POOL_ORDERED | \
                     POOL_WAIT_FOR_PEER)

/* 0 becomes `value`, POOL_ZERO becomes 0. */
static void fill(uint32_t *field, uint32_t value)
{
    if (*field == 0)
        *field = value;
    else if (*field == POOL_ZERO)
        *field = 0;
}

static uint32_t default_connections(void)
{
    uint64_t limit = pl_os->descriptor_limit();

    if (limit > POOL_ZERO - 1)
        limit = POOL_ZERO - 1;
    return limit < DESCRIPTORS_SPARED + CONNECTIONS_AT_LEAST ? CONNECTIONS_AT_LEAST
                                                             : (uint32_t)limit - DESCRIPTORS_SPARED;
}

static void fill_counts(struct pool_options *options)
{
    fill(&options->max_connections, default_connections());
    fill(&options->max_per_address, 64);
    fill(&options->max_waiters, 10000);
    fill(&options->max_connecting, 2);
    fill(&options->max_inflight, 1024);
    fill(&options->min_idle, 0);
    fill(&options->max_idle, POOL_NONE);
    fill(&options->max_uses, POOL_NONE);
    fill(&options->write_high, 1u << 20);
    fill(&options->write_low, options->write_high < WRITE_LOW ? options->write_high : WRITE_LOW);
    fill(&options->max_line, 64u << 10);
    fill(&options->max_message, 16u << 20);
    fill(&options->suspend_after, 5);
}

static void fill_times(struct pool_options *options)
{
    fill(&options->idle_ms, 60000);
    fill(&options->max_age_ms, 1800000);
    fill(&options->park_ms, 100);
    fill(&options->leak_ms, POOL_NONE);
    fill(&options->timeout_ms, 10000);
    fill(&options->connect_ms, 5000);
    fill(&options->tls_ms, 5000);
    fill(&options->read_ms, POOL_NONE);
    fill(&options->write_ms, POOL_NONE);
    fill(&options->barge_ms, 10);
    fill(&options->backoff_first_ms, 100);
    fill(&options->backoff_max_ms, 10000);
    fill(&options->suspend_ms, 1000);
}

/* Counts of which none at all would make a pool that can do nothing. */
static bool is_possible(const struct pool_options *options)
{
    return options->max_connections && options->max_per_address && options->max_connecting &&
           options->max_uses && options->max_line && options->write_high &&
           options->max_inflight && options->max_message &&
           options->write_low <= options->write_high && options->check >= POOL_CHECK_ALWAYS &&
           options->check <= POOL_CHECK_NEVER && options->order >= POOL_LIFO &&
           options->order <= POOL_FIFO;
}

static uint64_t span_of(uint32_t ms)
{
    return ms == POOL_NONE ? PL_NEVER : ms * PL_MS;
}

static struct pl_backoff_rules backoff_of(const struct pool_options *options)
{
    return (struct pl_backoff_rules){
        .first_ns = span_of(options->backoff_first_ms),
        .longest_ns = span_of(options->backoff_max_ms),
        .suspend_after = options->suspend_after == POOL_NONE ? 0 : options->suspend_after,
        .suspend_ns = span_of(options->suspend_ms),
    };
}

/* The size first: what lies behind it is not there. */
static bool is_whole(const struct pool_codec *codec)
{
    return codec->size >= sizeof(*codec) && codec->next && codec->encode &&
           (!codec->keyed || codec->key_limit) &&
           !codec->sentinel.size == !codec->sentinel_reply.size;
}

/* Without a codec nothing that came could be told apart. */
static bool has_what_it_needs(const struct pool_options *options)
{
    if (options->codec)
        return is_whole(options->codec);
    return !options->on_request && !options->on_orphan;
}

enum pool_status pl_settings_make(const struct pool_options *given, struct pl_settings *settings)
{
    struct pool_options *options = &settings->options;

    memset(settings, 0, sizeof(*settings));
    if (given && !pl_options_copy(options, sizeof(*options), given, SMALLEST_OPTIONS))
        return POOL_E_ARGUMENT;
    options->size = sizeof(*options);
    if (!has_what_it_needs(options))
        return POOL_E_ARGUMENT;
    fill_counts(options);
    fill_times(options);
    if (!is_possible(options))
        return POOL_E_ARGUMENT;
    settings->limits = (struct pl_limits){ options->read_ms, options->write_ms, options->max_line,
                                           options->max_message, options->codec };
    settings->backoff = backoff_of(options);
    settings->park_ns = options->park_ms * PL_MS;
    settings->woken_most = WOKEN_PER_PROCESSOR * pl_os->processors();
    settings->barge_ns = options->barge_ms == POOL_NONE ? PL_NEVER : options->barge_ms * PL_MS;
    settings->leak_ns = !options->leak_ms || options->leak_ms == POOL_NONE
                            ? PL_NEVER
                            : options->leak_ms * PL_MS;
    settings->is_plain = !options->on_event && options->max_idle == POOL_NONE &&
                         options->order == POOL_LIFO && settings->leak_ns == PL_NEVER;
    return POOL_OK;
}

/* A size that was never set says nothing about where the struct ends, so nothing in it counts; what
 * is in every release's must be zeros, or somebody meant it. */
static bool is_blank(const struct pool_call *call)
{
    const char *bytes = (const char *)call;

    for (size_t i = 0; i < SMALLEST_CALL; i++) {
        if (bytes[i])
            return false;
    }
    return true;
}

static enum pool_status read_call(const struct pool_call *call, uint32_t flags,
                                  struct pool_call *copy)
{
    memset(copy, 0, sizeof(*copy));
    if (!call)
        return POOL_OK;
    if (!call->size)
        return is_blank(call) ? POOL_OK : POOL_E_ARGUMENT;
    if (!pl_options_copy(copy, sizeof(*copy), call, SMALLEST_CALL))
        return POOL_E_ARGUMENT;
    return copy->flags & ~flags ? POOL_E_ARGUMENT : POOL_OK;
}

enum pool_status pl_call_read(const struct pool_call *call, struct pool_call *copy)
{
    enum pool_status status = read_call(call, BORROW_FLAGS, copy);

    return copy->on_part ? POOL_E_ARGUMENT : status;
}

enum pool_status pl_call_read_query(const struct pool_call *call, struct pool_call *copy)
{
    return read_call(call, QUERY_FLAGS, copy);
}
