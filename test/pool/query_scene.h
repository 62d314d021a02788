/* query_scene.h: what most tests of queries begin with: a peer that is asked, and room for the pool
 * that asks it, which each test makes as it needs it.
 *
 *     TestSuite(query_x, .init = query_scene_plain, .fini = query_scene_end, .timeout = 60);
 *
 * A suite whose peer or pool is special has an .init of its own. One scene at a time. */
#ifndef TEST_POOL_QUERY_SCENE_H
#define TEST_POOL_QUERY_SCENE_H

#include "pool/own_pool.h"
#include "support/queries.h"

extern struct query_peer *peer;
extern const char *address; /* of the peer */

/* Its options are those of the peer. Ends the scene before it, if that has not ended. */
#define QUERY_SCENE(...)                                                                           \
    query_scene_begin(&(struct query_peer_options){ .follow = true, __VA_ARGS__ })
void query_scene_begin(const struct query_peer_options *options);
void query_scene_plain(void);
void query_scene_end(void);

#endif
