/* stress_responders.c: answers to a peer that asked come late: the connection is gone, the pool
 * too, and the memory that knew both may be another pool's, while a thread says what nobody waits
 * for any more.
 *
 * Each answer that comes in time reaches who asked, and nothing is left. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "commpool/query.h"
#include "stress/stress.h"
#include "support/tests.h"

#define KEPT 64u
#define FRAME 16u

static struct {
    pthread_mutex_t lock;
    struct pool_responder *responders[KEPT];
    unsigned count;
} kept = { .lock = PTHREAD_MUTEX_INITIALIZER };

static atomic_ullong asked, answered;
static atomic_bool is_over;

static void keep(struct pool_responder *responder, struct pool_bytes request, void *user)
{
    (void)user;
    if (request.size == 4 && memcmp(request.data, "next", 4) == 0) {
        pool_respond(responder, request);
        return;
    }
    pthread_mutex_lock(&kept.lock);
    if (kept.count < KEPT) {
        kept.responders[kept.count++] = responder;
        responder = NULL;
    }
    pthread_mutex_unlock(&kept.lock);
    pool_respond(responder, request);
    atomic_fetch_add(&asked, 1);
}

/* Takes many at once, so that most are answered long after that. */
static void *answer(void *unused)
{
    struct pool_responder *mine[KEPT];
    bool is_last;
    unsigned count;

    (void)unused;
    do {
        is_last = atomic_load(&is_over);
        pthread_mutex_lock(&kept.lock);
        count = kept.count >= KEPT / 2 || is_last ? kept.count : 0;
        memcpy(mine, kept.responders, count * sizeof(*mine));
        kept.count -= count;
        pthread_mutex_unlock(&kept.lock);
        for (unsigned i = 0; i < count; i++) {
            sched_yield();
            pool_respond(mine[i], POOL_TEXT("late"));
            atomic_fetch_add(&answered, 1);
        }
        sched_yield();
    } while (!is_last);
    return NULL;
}

static void say(int fd, const char *body)
{
    char frame[FRAME] = "\0\0\0\4\0\0\0\7\0\0\0\1";

    memcpy(frame + 12, body, 4);
    if (send(fd, frame, sizeof(frame), MSG_NOSIGNAL) != sizeof(frame))
        stress_fail("nothing can be asked");
}

/* One request is left, one is answered at once, and the pool ends. */
static void serve_once(void)
{
    struct pool_options *options =
        POOL_OPTIONS(.codec = pool_codec_length(), .on_request = keep);
    char frame[FRAME];
    struct pool *pool;
    int ends[2];

    if (pool_create(options, &pool) || socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) {
        stress_fail("no pool, or no sockets");
        return;
    }
    if (pool_adopt(pool, "unix:///peer", ends[1]))
        stress_fail("it is not adopted");
    say(ends[0], "late");
    say(ends[0], "next");
    do {
        if (recv(ends[0], frame, sizeof(frame), MSG_WAITALL) != sizeof(frame))
            stress_fail("no answer");
    } while (memcmp(frame + 12, "next", 4) != 0 && !stress_failures());
    pool_destroy(pool);
    close(ends[0]);
}

int main(int argc, char **argv)
{
    int descriptors;
    long blocks;
    pthread_t thread;

    stress_begin(argc, argv, 3);
    serve_once();                       /* what is made once is made */
    atomic_store(&is_over, true);
    answer(NULL);
    atomic_store(&is_over, false);
    descriptors = count_descriptors();
    blocks = stress_blocks();
    pthread_create(&thread, NULL, answer, NULL);
    while (stress_is_on())
        serve_once();
    atomic_store(&is_over, true);
    pthread_join(thread, NULL);
    stress_expect_nothing_left(descriptors, blocks, "at the end");
    return stress_end("%llu asked, %llu answered late", atomic_load(&asked),
                      atomic_load(&answered));
}
