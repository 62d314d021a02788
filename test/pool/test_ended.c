/* test_ended.c: once pool_destroy() has returned, nothing of the pool's options is called any more,
 * although a caller of another thread was about to. */
#include <criterion/criterion.h>
#include <semaphore.h>

#include "support/verbs.h"

/* What the callbacks share. `is_gone`: the program has freed what the options point to. */
static struct {
    sem_t is_inside, may_leave;
    atomic_bool is_gone, was_called_late;
} scene;

static enum pool_decision wait_in_the_call(const struct pool_error *error, void *user)
{
    (void)error, (void)user;
    sem_post(&scene.is_inside);
    sem_wait(&scene.may_leave);
    return POOL_ABORT;
}

static enum pool_decision decide(const struct pool_error *error, void *user)
{
    (void)error, (void)user;
    atomic_store(&scene.was_called_late, atomic_load(&scene.is_gone));
    return POOL_ABORT;
}

Test(pool_ended, the_pools_on_error_is_not_asked_after_the_end)
{
    struct pool *pool = MAKE_POOL(.on_error = decide);
    struct pool_call call = { .size = sizeof(call), .on_error = wait_in_the_call };
    struct caller caller;

    cr_assert(sem_init(&scene.is_inside, 0, 0) == 0 && sem_init(&scene.may_leave, 0, 0) == 0);
    cr_assert(start_caller_with(&caller, pool, "tcp://127.0.0.1:1", &call));
    sem_wait(&scene.is_inside);
    pool_destroy(pool);
    atomic_store(&scene.is_gone, true);
    sem_post(&scene.may_leave);
    cr_expect_eq(join_caller(&caller), POOL_E_REFUSED);
    cr_expect_not(atomic_load(&scene.was_called_late));
}

static int prepare(struct pool_conn *conn, void *user)
{
    char byte;

    (void)user;
    sem_post(&scene.is_inside);
    (void)pool_recv_exact(conn, &byte, 1);       /* until the pool ends */
    sem_wait(&scene.may_leave);
    atomic_store(&scene.was_called_late, atomic_load(&scene.is_gone));
    return 0;
}

static void *release(void *unused)
{
    (void)unused;
    sem_post(&scene.may_leave);
    return NULL;
}

Test(pool_ended, a_prepare_that_runs_is_waited_for)
{
    struct peer *peer = PEER(.behave = PEER_SILENT);
    struct pool *pool = MAKE_POOL(.prepare = prepare);
    struct caller caller;
    pthread_t thread;

    cr_assert(sem_init(&scene.is_inside, 0, 0) == 0 && sem_init(&scene.may_leave, 0, 0) == 0);
    cr_assert(start_caller(&caller, pool, peer_address(peer), VERBS_SOON));
    sem_wait(&scene.is_inside);
    cr_assert_eq(pthread_create(&thread, NULL, release, NULL), 0);
    pool_destroy(pool);
    atomic_store(&scene.is_gone, true);
    cr_expect_eq(join_caller(&caller), POOL_E_CLOSING);
    cr_expect_not(atomic_load(&scene.was_called_late));
    pthread_join(thread, NULL);
    peer_stop(peer);
}
