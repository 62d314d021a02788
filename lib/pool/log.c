/* log.c: see log.h. */
#include "pool/log.h"

#include <stdarg.h>
#include <stdio.h>

#include "pool/events.h"
#include "pool/pool.h"

#define LINE 512                        /* longer lines are cut */

void pl_log(struct pool *pool, enum pool_log_level level, const char *format, ...)
{
    char line[LINE];
    va_list values;

    if (!pool->settings.options.on_log)
        return;
    va_start(values, format);
    vsnprintf(line, sizeof(line), format, values);
    va_end(values);
    pl_event_line(pool, level, line);
}

void pl_log_closed(struct pool *pool, const struct pl_connection *connection)
{
    const char *address = connection->peer->text;
    unsigned long long id = connection->id;

    if (connection->close_reason == POOL_CLOSE_STOLEN)
        pl_log(pool, POOL_LOG_WARNING,
               "%s: the descriptor of connection %llu is another socket now, which was left alone",
               address, id);
    else if (connection->close_reason == POOL_CLOSE_EVICTED)
        pl_log(pool, POOL_LOG_INFO, "%s: connection %llu was closed to make room", address, id);
}
