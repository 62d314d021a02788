/* query_scene.c: see query_scene.h. */
#include "pool/query_scene.h"

struct query_peer *peer;
const char *address;

void query_scene_end(void)
{
    pool_destroy(pool);
    pool = NULL;
    query_peer_stop(peer);
    peer = NULL;
}

void query_scene_begin(const struct query_peer_options *options)
{
    query_scene_end();
    peer = query_peer_start(options);
    address = query_peer_address(peer);
}

void query_scene_plain(void)
{
    QUERY_SCENE();
}
