/* libuv.c: a mux in a libuv loop. A timer that never fires keeps the mux for the link. */
#include "commpool/adapt/libuv.h"
#include <stdlib.h>
#include <uv.h>

struct pool_uv_link {
    uv_poll_t poll; /* first, as libuv hands it out; its data is the mux */
    struct pool_timer *hold;
};

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events, (void)pool_mux_dispatch(poll->data, 0);
}
static void free_link(uv_handle_t *poll) { free(poll); }

enum pool_status pool_uv_attach(struct pool_mux *mux, uv_loop_t *loop, struct pool_uv_link **link)
{
    if (!mux || !loop || !link)
        return POOL_E_ARGUMENT;
    *link = calloc(1, sizeof(**link));
    if (!*link || pool_mux_after(mux, POOL_NONE, free, NULL, &(*link)->hold)) {
        free(*link);
        return POOL_E_MEMORY;
    }
    (*link)->poll.data = mux;
    if (!uv_poll_init(loop, &(*link)->poll, pool_mux_fd(mux)))
        return uv_poll_start(&(*link)->poll, UV_READABLE, on_readable) ? POOL_E_SYSTEM : POOL_OK;
    pool_timer_cancel((*link)->hold);
    free(*link);
    return POOL_E_SYSTEM;
}

void pool_uv_detach(struct pool_uv_link *link)
{
    if (!link)
        return;
    uv_close((uv_handle_t *)&link->poll, free_link);
    pool_timer_cancel(link->hold);
}
