/* libevent.c: a mux in a libevent loop. A timer that never fires keeps the mux for the link. */
#include "commpool/adapt/libevent.h"

#include <event2/event.h>
#include <stdlib.h>

struct pool_event_link {
    struct event *event;
    struct pool_timer *hold;
};

static void on_readable(evutil_socket_t fd, short what, void *mux)
{
    (void)fd, (void)what, (void)pool_mux_dispatch(mux, 0);
}

enum pool_status pool_event_attach(struct pool_mux *mux, struct event_base *base,
                                   struct pool_event_link **link)
{
    if (!mux || !base || !link)
        return POOL_E_ARGUMENT;
    *link = calloc(1, sizeof(**link));
    if (*link)
        (*link)->event = event_new(base, pool_mux_fd(mux), EV_READ | EV_PERSIST, on_readable, mux);
    if (*link && (*link)->event && !pool_mux_after(mux, POOL_NONE, free, NULL, &(*link)->hold) &&
        !event_add((*link)->event, NULL))
        return POOL_OK;
    pool_event_detach(*link);
    return POOL_E_MEMORY;
}

void pool_event_detach(struct pool_event_link *link)
{
    if (link && link->event)
        event_free(link->event);
    if (link)
        pool_timer_cancel(link->hold);
    free(link);
}
