/* export.c: one snapshot of a pool's numbers as text, for programs that gather such text: a JSON
 * object, and the OpenMetrics format. One table says what each number is called in both; the texts
 * are written into the caller's memory, so nothing is allocated.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "commpool/observe.h"

/* Consecutive entries of one family differ in their label, and are written under one heading. */
struct number {
    const char *name;                   /* as in struct pool_stats */
    size_t offset;
    const char *family, *state;
    bool is_gauge;
    const char *help;
};

#define FAMILY "db_client_connection_"
#define GAUGE(field, family, state, help)                                                          \
    { #field, offsetof(struct pool_stats, field), FAMILY family, state, true, help }
#define COUNTER(field, family, help)                                                               \
    { #field, offsetof(struct pool_stats, field), FAMILY family, NULL, false, help }

#define OPEN_NOW "Connections by state."

static const struct number numbers[] = {
    GAUGE(idle, "count", "idle", OPEN_NOW),
    GAUGE(lent, "count", "used", OPEN_NOW),
    GAUGE(shared, "count", "shared", OPEN_NOW),
    GAUGE(opening, "count", "opening", OPEN_NOW),
    GAUGE(closing, "count", "closing", OPEN_NOW),
    GAUGE(total, "open", NULL, "Connections in any state."),
    GAUGE(waiting, "pending_requests", NULL, "Callers that wait for a connection."),
    COUNTER(borrowed, "borrowed", "Borrows that got a connection."),
    COUNTER(reused, "reused", "Borrows that got one which had served before."),
    COUNTER(opened, "opened", "Connections that became ready."),
    COUNTER(evicted, "evicted", "Idle connections closed to make room."),
    COUNTER(stolen, "stolen", "Descriptors found to be somebody else's."),
    COUNTER(borrow_failed, "borrow_failed", "Borrows that got no connection."),
    COUNTER(timeouts, "timeouts", "Calls that ran out of time."),
    COUNTER(retries, "retries", "Attempts made again."),
    COUNTER(queries, "queries", "Queries started."),
    COUNTER(late_replies, "late_replies", "Replies whose query had been given up."),
    COUNTER(orphans, "orphans", "Messages that belonged to no query."),
    COUNTER(bytes_in, "received_bytes", "Bytes received."),
    COUNTER(bytes_out, "sent_bytes", "Bytes sent."),
    COUNTER(wakeups, "wakeups", "Times that the multiplexer woke up."),
};

static const char *const reasons[] = {
    [POOL_CLOSE_IDLE] = "idle",   [POOL_CLOSE_AGE] = "age",       [POOL_CLOSE_USES] = "uses",
    [POOL_CLOSE_STALE] = "stale", [POOL_CLOSE_EVICTED] = "evicted", [POOL_CLOSE_ERROR] = "error",
    [POOL_CLOSE_DIRTY] = "dirty", [POOL_CLOSE_PEER] = "peer",     [POOL_CLOSE_STOLEN] = "stolen",
    [POOL_CLOSE_POOL] = "pool",   [POOL_CLOSE_DETACHED] = "detached",
};

/* What fits is written, all is counted. */
struct text {
    char *memory;
    size_t size, used;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *text, const char *format, ...)
{
    size_t room = text->used < text->size ? text->size - text->used : 0;
    va_list values;

    va_start(values, format);
    text->used += (size_t)vsnprintf(room ? text->memory + text->used : NULL, room, format, values);
    va_end(values);
}

static unsigned long long value_of(const struct pool_stats *stats, const struct number *number)
{
    return *(const uint64_t *)(const void *)((const char *)stats + number->offset);
}

static void put_json(struct text *text, const struct pool_stats *stats)
{
    put(text, "{");
    for (size_t i = 0; i < PL_COUNT(numbers); i++)
        put(text, "\"%s\":%llu,", numbers[i].name, value_of(stats, &numbers[i]));
    put(text, "\"closed\":{");
    for (size_t i = 0; i < PL_COUNT(reasons); i++)
        put(text, "%s\"%s\":%llu", i ? "," : "", reasons[i], (unsigned long long)stats->closed[i]);
    put(text, "}}");
}

static bool is_in_bytes(const char *family)
{
    const char *last = strrchr(family, '_');

    return last && strcmp(last, "_bytes") == 0;
}

static void put_heading(struct text *text, const char *family, bool is_gauge, const char *help)
{
    put(text, "# TYPE %s %s\n", family, is_gauge ? "gauge" : "counter");
    if (is_in_bytes(family))
        put(text, "# UNIT %s bytes\n", family);
    put(text, "# HELP %s %s\n", family, help);
}

static void put_number(struct text *text, const struct pool_stats *stats, size_t at)
{
    const struct number *number = &numbers[at];

    if (!at || strcmp(number->family, numbers[at - 1].family) != 0)
        put_heading(text, number->family, number->is_gauge, number->help);
    put(text, "%s%s", number->family, number->is_gauge ? "" : "_total");
    if (number->state)
        put(text, "{state=\"%s\"}", number->state);
    put(text, " %llu\n", value_of(stats, number));
}

static void put_openmetrics(struct text *text, const struct pool_stats *stats)
{
    for (size_t i = 0; i < PL_COUNT(numbers); i++)
        put_number(text, stats, i);
    put_heading(text, FAMILY "closed", false, "Connections that ended, by reason.");
    for (size_t i = 0; i < PL_COUNT(reasons); i++)
        put(text, FAMILY "closed_total{reason=\"%s\"} %llu\n", reasons[i],
            (unsigned long long)stats->closed[i]);
    put(text, "# EOF\n");
}

typedef void writer_fn(struct text *text, const struct pool_stats *stats);

static enum pool_status export(struct pool *pool, struct text text, size_t *needed,
                               writer_fn *put_all)
{
    struct pool_stats stats = { .size = sizeof(stats) };
    enum pool_status status;

    if (!pool || !needed || (!text.memory && text.size))
        return POOL_E_ARGUMENT;
    status = pool_stats(pool, &stats);
    if (status)
        return status;
    put_all(&text, &stats);
    *needed = text.used + 1;
    return *needed <= text.size ? POOL_OK : POOL_E_FULL;
}

enum pool_status pool_stats_json(struct pool *pool, char *text, size_t size, size_t *needed)
{
    return export(pool, (struct text){ .memory = text, .size = size }, needed, put_json);
}

enum pool_status pool_stats_openmetrics(struct pool *pool, char *text, size_t size, size_t *needed)
{
    return export(pool, (struct text){ .memory = text, .size = size }, needed, put_openmetrics);
}
