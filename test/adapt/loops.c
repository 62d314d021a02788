/* loops.c: see loops.h. */
#include "adapt/loops.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

#include "base/os.h"
#include "commpool/pool.h"
#include "support/peer.h"
#include "support/tests.h"

#define SOON 10000

struct bench {
    const struct loop_verbs *verbs;
    void *loop, *link;
    struct pool_mux *mux;
    bool is_done;
    unsigned calls, wanted;
    pthread_t thread; /* of the last call */
};

static struct bench begin(const struct loop_verbs *verbs)
{
    struct bench bench = { .verbs = verbs, .loop = verbs->open(), .wanted = 1 };

    cr_assert_eq(pool_mux_create(&bench.mux), POOL_OK);
    cr_assert_eq(verbs->attach(bench.mux, bench.loop, &bench.link), POOL_OK);
    return bench;
}

static void end(struct bench *bench)
{
    bench->verbs->detach(bench->link);
    pool_mux_destroy(bench->mux);
    bench->verbs->settle(bench->loop);
    bench->verbs->close(bench->loop);
}

static void count(void *user)
{
    struct bench *bench = user;

    bench->thread = pthread_self();
    bench->is_done = ++bench->calls == bench->wanted;
}

static void post_some(unsigned index, void *user)
{
    struct bench *bench = user;

    (void)index;
    for (int i = 0; i < 100; i++)
        pool_mux_post(bench->mux, count, bench);
}

static void *post_later(void *user)
{
    run_threads(4, post_some, user);
    return NULL;
}

void loop_test_posts_and_timers(const struct loop_verbs *verbs)
{
    struct bench bench = begin(verbs);
    struct pool_timer *timer;
    uint64_t begin_ms = now_ms();
    pthread_t poster;

    cr_assert_eq(pool_mux_after(bench.mux, 30, count, &bench, &timer), POOL_OK);
    cr_expect_eq(bench.calls, 0);
    verbs->run(bench.loop, &bench.is_done);
    cr_expect(WITHIN(elapsed_ms(begin_ms), 29, 50));
    bench.is_done = false;
    bench.wanted = 1 + 400;
    cr_assert_eq(pthread_create(&poster, NULL, post_later, &bench), 0);
    verbs->run(bench.loop, &bench.is_done);
    pthread_join(poster, NULL);
    cr_expect_eq(bench.calls, 401);
    cr_expect(pthread_equal(bench.thread, pthread_self()));
    pool_timer_cancel(timer);
    end(&bench);
}

static bool is_over;

static void stop(void *user)
{
    (void)user;
    is_over = true;
}

/* A loop that spun would burn the time; one that sleeps uses next to none. */
void loop_test_idle(const struct loop_verbs *verbs)
{
    struct bench bench = begin(verbs);
    struct timespec before, after;

    cr_assert_eq(pool_mux_post(bench.mux, count, &bench), POOL_OK);
    verbs->run(bench.loop, &bench.is_done);
    is_over = false;
    verbs->after(bench.loop, 300, stop, NULL);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    verbs->run(bench.loop, &is_over);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    cr_expect_lt((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000,
                 60);
    end(&bench);
}

struct talk {
    struct bench *bench;
    struct pool *pool;
    const char *address;
    bool has_failed;
    char text[8];
    size_t got;
};

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    struct talk *talk = user;

    if (event != POOL_EV_READ || bytes.size > sizeof(talk->text) - talk->got)
        return;
    memcpy(talk->text + talk->got, bytes.data, bytes.size);
    talk->got += bytes.size;
    if (talk->got < 5)
        return;
    talk->has_failed |= memcmp(talk->text, "ping\n", 5) || pool_return(conn);
    count(talk->bench);
}

static void on_lent(struct pool_conn *conn, const struct pool_error *error, void *user)
{
    struct talk *talk = user;

    (void)error;
    talk->got = 0;
    if (conn && !pool_conn_watch(conn, on_event, talk) && !pool_write(conn, "ping\n", 5))
        return;
    talk->has_failed = true;
    count(talk->bench);
}

static void ask(void *user)
{
    struct talk *talk = user;

    if (pool_communicate_async(talk->pool, talk->address, on_lent, talk, NULL, NULL)) {
        talk->has_failed = true;
        count(talk->bench);
    }
}

void loop_test_borrow(const struct loop_verbs *verbs)
{
    struct bench bench = begin(verbs);
    struct peer *peer = PEER(.behave = PEER_ECHO);
    struct talk talk = { .bench = &bench, .address = peer_address(peer) };

    cr_assert_eq(pool_create(POOL_OPTIONS(.mux = bench.mux), &talk.pool), POOL_OK);
    for (unsigned i = 0; i < 3; i++) {
        bench.is_done = false;
        bench.wanted = i + 1;
        if (i % 2) /* inside a callback of the loop's own, or between two turns of it */
            verbs->after(bench.loop, 1, ask, &talk);
        else
            ask(&talk);
        verbs->run(bench.loop, &bench.is_done);
        cr_expect_not(talk.has_failed);
    }
    cr_expect_eq(peer_accepted(peer, 1), 1);
    pool_destroy(talk.pool);
    end(&bench);
    peer_stop(peer);
}

/* What the first loop of a process opens for good is not counted. */
static int descriptors_without(const struct loop_verbs *verbs)
{
    verbs->close(verbs->open());
    return count_descriptors();
}

static void detach_inside(void *user)
{
    struct bench *bench = user;

    bench->verbs->detach(bench->link);
    bench->link = NULL;
    pool_mux_destroy(bench->mux); /* and the mux, too */
    bench->mux = NULL;
    count(bench);
}

void loop_test_detach_in_callback(const struct loop_verbs *verbs)
{
    int before = descriptors_without(verbs), opened;
    struct bench bench = { .verbs = verbs, .loop = verbs->open() };

    opened = count_descriptors() - before;
    verbs->close(bench.loop);
    bench = begin(verbs);
    pool_mux_post(bench.mux, detach_inside, &bench);
    pool_mux_post(bench.mux, count, &bench);
    bench.wanted = 2;
    verbs->run(bench.loop, &bench.is_done);
    cr_expect_eq(bench.calls, 2, "the batch goes on to its end");
    verbs->settle(bench.loop);
    cr_expect_eq(count_descriptors(), before + opened, "the mux is gone");
    end(&bench);
    cr_expect_eq(count_descriptors(), before);
}

void loop_test_mux_ends_first(const struct loop_verbs *verbs)
{
    int before = descriptors_without(verbs);
    struct bench bench = begin(verbs);

    pool_mux_post(bench.mux, count, &bench);
    pool_mux_destroy(bench.mux);
    cr_expect_eq(bench.calls, 1, "what was posted runs");
    bench.mux = NULL;
    is_over = false;
    verbs->after(bench.loop, 20, stop, NULL);
    verbs->run(bench.loop, &is_over);
    end(&bench);
    cr_expect_eq(count_descriptors(), before);
}

void loop_test_attach_again(const struct loop_verbs *verbs)
{
    struct bench bench = begin(verbs);

    for (unsigned i = 1; i <= 50; i++) {
        bench.is_done = false;
        bench.wanted = i;
        pool_mux_post(bench.mux, count, &bench);
        verbs->run(bench.loop, &bench.is_done);
        verbs->detach(bench.link);
        pool_mux_post(bench.mux, count, &bench);
        verbs->settle(bench.loop);
        cr_assert_eq(bench.calls, i, "nothing is dispatched any more");
        cr_assert_eq(pool_mux_dispatch(bench.mux, 0), POOL_OK);
        cr_assert_eq(bench.calls, i + 1);
        bench.calls--;
        cr_assert_eq(verbs->attach(bench.mux, bench.loop, &bench.link), POOL_OK);
    }
    end(&bench);
}

void loop_test_two_muxes(const struct loop_verbs *verbs)
{
    struct bench bench = begin(verbs);
    struct pool_mux *second;
    void *link;

    cr_assert_eq(pool_mux_create(&second), POOL_OK);
    cr_assert_eq(verbs->attach(second, bench.loop, &link), POOL_OK);
    bench.wanted = 2;
    pool_mux_post(bench.mux, count, &bench);
    pool_mux_post(second, count, &bench);
    verbs->run(bench.loop, &bench.is_done);
    cr_expect_eq(bench.calls, 2);
    verbs->detach(link);
    pool_mux_destroy(second);
    end(&bench);
}

static void *no_memory(size_t size)
{
    (void)size;
    return NULL;
}

void loop_test_no_memory(const struct loop_verbs *verbs)
{
    struct bench bench = begin(verbs);
    struct pl_os os = pl_os_real;
    void *link;

    os.malloc = no_memory;
    pl_os_replace(&os);
    verbs->detach(bench.link);
    cr_expect_eq(verbs->attach(bench.mux, bench.loop, &link), POOL_E_MEMORY);
    pl_os_replace(NULL);
    cr_expect_eq(verbs->attach(bench.mux, bench.loop, &bench.link), POOL_OK);
    end(&bench);
}

void loop_test_arguments(const struct loop_verbs *verbs)
{
    struct bench bench = begin(verbs);
    void *link;

    cr_expect_eq(verbs->attach(NULL, bench.loop, &link), POOL_E_ARGUMENT);
    cr_expect_eq(verbs->attach(bench.mux, NULL, &link), POOL_E_ARGUMENT);
    cr_expect_eq(verbs->attach(bench.mux, bench.loop, NULL), POOL_E_ARGUMENT);
    verbs->detach(NULL);
    end(&bench);
}
