/* scenes.h: the scenarios, by file. */
#ifndef TEST_TORTURE_SCENES_H
#define TEST_TORTURE_SCENES_H

#include "torture/torture.h"

/* scenes_plain.c */
extern const struct scenario scene_create, scene_once, scene_reuse, scene_two, scene_parked,
    scene_unix, scene_parameters, scene_borrow, scene_discard,
    scene_target, scene_use_fails, scene_nested, scene_long, scene_lines,
    scene_destroy_lent;
/* scenes_peer.c */
extern const struct scenario scene_closed_hot, scene_closed_parked, scene_stale, scene_idle,
    scene_refused, scene_connect_timeout, scene_bad_answers,
    scene_waiter, scene_waiter_late, scene_descriptors,
    scene_max_connections, scene_room;
/* scenes_hooks.c */
extern const struct scenario scene_prepare, scene_set_up, scene_rejected, scene_actor,
    scene_unasked, scene_observed, scene_marked, scene_stolen_hot,
    scene_stolen_parked;

#endif
