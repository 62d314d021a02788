/* stage.h: a small play for the door, given twice: on the scripted world and on the real kernel
 * with the loopback peer.
 *
 * A script calls the door and notes what it answers; the two notes must be the same text. It waits
 * for events, never for a time, so the real kernel may be as slow as it likes. It is how the world
 * is held against Linux; it is of no use for anything else.
 */
#ifndef TEST_WORLD_STAGE_H
#define TEST_WORLD_STAGE_H

#include "base/os.h"

enum stage_place { STAGE_TCP, STAGE_UNIX, STAGE_ABSTRACT };
enum stage_peer { STAGE_ECHO, STAGE_DEAF, STAGE_FULL /* connecting is never answered */ };

struct stage {
    const struct pl_os *os;
    struct world *world; /* NULL: this is the real kernel */
    struct world_peer *scripted;
    struct peer *real;
    char notes[4096];
};

typedef void stage_script(struct stage *stage);

/* Plays it on both. True: the same notes; else says on stderr how they differ. */
bool stage_play(stage_script *script);

/* a negative one as the errno's name */
void stage_note(struct stage *stage, const char *what, long answer);
void stage_note_text(struct stage *stage, const char *what, const char *text);
void stage_note_events(struct stage *stage, const char *what, uint32_t events);

void stage_peer(struct stage *stage, enum stage_place place, enum stage_peer peer);
int stage_socket(struct stage *stage, enum stage_place place); /* blocking */
int stage_connect(struct stage *stage, int fd); /* to the peer */
int stage_connect_nowhere(struct stage *stage, int fd, enum stage_place place);
int stage_dial(struct stage *stage, enum stage_place place); /* a connected blocking socket */

/* The peer does it to its only connection; it has arrived when the call returns. */
void stage_push(struct stage *stage, const char *text);
void stage_half_close(struct stage *stage);
void stage_close(struct stage *stage);
void stage_reset(struct stage *stage);

/* until one of them; what there is then */
uint32_t stage_wait(struct stage *stage, int fd, uint32_t events);
uint32_t stage_events(struct stage *stage, int fd); /* all that there is now */
uint64_t stage_cookie(struct stage *stage, int fd);

/* Foreign code in the same process. */
int stage_foreign_replace(struct stage *stage, int fd);
void stage_foreign_hold(struct stage *stage, int fd);
void stage_foreign_close(struct stage *stage, int fd);

#endif
