/* child.h: children that tests fork, and what a child of theirs may do to the sockets of its
 * parent.
 *
 * A child says what went wrong on stderr and by its exit status. It never uses Criterion: that
 * belongs to the parent. */
#ifndef TEST_SUPPORT_CHILD_H
#define TEST_SUPPORT_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

/* In a child's function: fails it unless `condition` holds. */
#define CHILD_NEEDS(condition)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return child_failed(#condition, __FILE__, __LINE__);                                   \
    } while (0)
int child_failed(const char *condition, const char *file, int line); /* 1 */

/* Forks. In the parent it answers the child's id, in the child 0, and a watch is set that ends a
 * child that hangs. */
pid_t child_fork(void);

/* The exit status of a child; -1: it ended by a signal, or did not end in time and was killed. */
int child_status(pid_t child);

/* Both: runs fn(argument) in a child, which ends with what it answers and nothing else. */
int child_run(int (*fn)(void *argument), void *argument);

/* In a child: puts a door before the library's that counts what could reach the parent's peers or
 * its multiplexer: every transfer, shutdown, option set, epoll_ctl, wake-up and timer armed on a
 * descriptor that is open now, until the library closes it. */
void child_watch_door(void);
unsigned child_door_calls(void);

/* In a program with a sanitizer that looks for leaks at exit: children do not look. What the parent
 * had is only half there. */
void child_leaks_are_fine(void);

#endif
