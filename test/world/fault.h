/* fault.h: a door in front of a door, which makes one call fail.
 *
 * It stands before the scripted world or before the real kernel, counts the calls that can fail,
 * and fails the n-th of them: once, or from then on every call of the same function ("for good"),
 * with an errno that Linux may really answer there. Rerunning the same script for every n is
 * torture.
 *
 * Invariants: a call that can fail is a point; counting starts with fault_count() or fault_arm()
 * and ends with fault_off(). What fails has not been done, but for three kinds: a close that says
 * EINTR has closed, a connect that says EINTR goes on connecting, and a short transfer has moved
 * one byte. SO_COOKIE never fails, since on a socket that lives it cannot.
 *
 * There is one of it in a process. Any thread may call the door; arming and asking is one thread's
 * business.
 */
#ifndef TEST_WORLD_FAULT_H
#define TEST_WORLD_FAULT_H

#include "base/os.h"

enum fault_call {
    FAULT_SOCKET,
    FAULT_CONNECT,
    FAULT_BIND,
    FAULT_SEND,
    FAULT_SENDMSG,
    FAULT_RECV,
    FAULT_RECVFROM,
    FAULT_SHUTDOWN,
    FAULT_CLOSE,
    FAULT_SETSOCKOPT,
    FAULT_GETSOCKOPT,
    FAULT_GETSOCKNAME,
    FAULT_GETPEERNAME,
    FAULT_MAKE_OWN,
    FAULT_COPY,
    FAULT_POLL,
    FAULT_EPOLL_CREATE,
    FAULT_EPOLL_ADD,
    FAULT_EPOLL_MOD,
    FAULT_EPOLL_WAIT,
    FAULT_EVENTFD,
    FAULT_TIMERFD,
    FAULT_SIGNALFD,
    FAULT_RANDOM,
    FAULT_MALLOC,
    FAULT_REALLOC,
    FAULT_MAP,
    FAULT_THREAD,
    FAULT_FREE_DESCRIPTORS,
    FAULT_READ_FILE,
    FAULT_LIST_DIRECTORY,
    FAULT_FILE_STAMP,
    FAULT_CALLS
};

#define FAULT_SHORT 4096 /* not an errno: one byte only is sent or received */

const struct pl_os *fault_os(const struct pl_os *inner);

const char *fault_call_name(enum fault_call call);
const char *fault_error_name(int error);
int fault_error_named(const char *name); /* 0: there is none */

/* The errnos plausible for a call, from index 0; 0 after the last one. Some can only happen once in
 * a row. */
int fault_error(enum fault_call call, unsigned index, bool *once_only);

void fault_count(void); /* nothing fails; the points are counted and remembered */
void fault_arm(uint64_t point, int error, bool for_good); /* points count from 1 again */
void fault_off(void); /* the fault is gone, and nothing is counted any more */

uint64_t fault_points(void); /* counted last */
enum fault_call fault_kind(uint64_t point); /* of the run that fault_count() began; from 1 */
bool fault_has_struck(void);
enum fault_call fault_struck_kind(void);

/* What went through this door and has not come back, since the process began. */
long fault_live_allocations(void);
long fault_live_maps(void);

#endif
