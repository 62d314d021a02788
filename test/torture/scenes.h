/* scenes.h: the scenarios, by file. */
#ifndef TEST_TORTURE_SCENES_H
#define TEST_TORTURE_SCENES_H

#include "torture/torture.h"

/* scenes_plain.c */
extern const struct scenario scene_create, scene_once, scene_reuse, scene_two, scene_parked,
    scene_unix, scene_parameters, scene_borrow, scene_hidden, scene_discard, scene_target,
    scene_use_fails, scene_nested, scene_long, scene_lines, scene_destroy_lent;

/* scenes_peer.c */
extern const struct scenario scene_closed_hot, scene_closed_parked, scene_stale, scene_idle,
    scene_refused, scene_connect_timeout, scene_bad_answers, scene_waiter, scene_waiter_late,
    scene_descriptors, scene_max_connections, scene_room, scene_share;

/* scenes_rules.c */
extern const struct scenario scene_max_uses, scene_max_age, scene_drain, scene_one_way,
    scene_dont_wait, scene_no_room, scene_no_share, scene_no_room_late, scene_deaf,
    scene_vanished, scene_setup_timeout, scene_bad_prepare, scene_big_setup, scene_ping,
    scene_stolen_lent, scene_closed_by_others;

/* scenes_hooks.c */
extern const struct scenario scene_prepare, scene_set_up, scene_rejected, scene_actor,
    scene_unasked, scene_observed, scene_marked, scene_stolen_hot, scene_stolen_parked;

/* scenes_mux.c */
extern const struct scenario scene_shared_mux, scene_signals, scene_end_in_use,
    scene_end_in_connect, scene_end_in_prepare, scene_end_in_setup, scene_end_queued,
    scene_end_in_actor;

/* scenes_orders.c */
extern const struct scenario scene_clear, scene_clear_connecting, scene_pause, scene_kill,
    scene_kill_connecting, scene_kill_setup, scene_close, scene_reserve;

/* scenes_handles.c */
extern const struct scenario scene_detach, scene_detach_share, scene_detach_use,
    scene_detach_late, scene_adopt, scene_adopt_share, scene_tries;

/* scenes_async.c */
extern const struct scenario scene_async, scene_async_target, scene_async_queue,
    scene_async_chain, scene_async_closed, scene_async_late, scene_async_share, scene_async_room,
    scene_async_prepare, scene_async_cancel, scene_async_end;

/* scenes_policy.c */
extern const struct scenario scene_fresh, scene_again, scene_spares, scene_leak;

/* scenes_names.c */
extern const struct scenario scene_name_silent, scene_name_refused, scene_name_family,
    scene_name_unknown, scene_name_nobody, scene_name_late, scene_name_connect_ms,
    scene_name_cancel, scene_name_clear, scene_name_end, scene_name_moves, scene_name_unread;

/* scenes_filter.c */
extern const struct scenario scene_filter_refuses, scene_filter_asks, scene_filter_ends;

/* scenes_query.c */
extern const struct scenario scene_query, scene_query_async, scene_query_full, scene_query_post,
    scene_query_vain, scene_query_behind, scene_query_closed, scene_query_end;

#endif
