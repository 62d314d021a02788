/* test_query_crowd.c: many threads whose replies come at once: few are woken, and wake the others,
 * and what they ask waits for one write. Who was woken and gets no processor is played by threads
 * whose sleep does not end before the test lets it. */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/os.h"
#include "pool/query_scene.h"
#include "pool/raw_line.h"

#define CROWD 8u
#define WOKEN 4u /* by one processor */

static struct pl_os door;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static __thread bool is_back;           /* the first reply is this thread's */
static __thread bool has_slept;         /* since then */
static atomic_uint answered, again, slept_first, asleep;

static uint32_t one_processor(void)
{
    return 1;
}

static int sleep_to_the_gate(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    int result;

    atomic_fetch_add(&asleep, 1);
    result = pl_os_real.sleep_until(word, expected, deadline_ns);
    atomic_fetch_sub(&asleep, 1);
    has_slept = true;
    if (!is_back && result != -ETIMEDOUT) {
        pthread_mutex_lock(&gate);
        pthread_mutex_unlock(&gate);
    }
    return result;
}

static ssize_t send_and_note(int fd, const void *data, size_t size, int flags)
{
    if (is_back)
        atomic_fetch_add(&slept_first, has_slept);
    return pl_os_real.send(fd, data, size, flags);
}

struct one {
    struct pool *pool;
    const char *address;
    uint32_t timeout_ms;
    bool is_right;
    pthread_t thread;
};

static void *ask_twice(void *user)
{
    struct one *one = user;
    struct query held = { 0 }, next = { 0 };

    ask_and_wait(&held, one->pool, one->address, "Hold", POOL_CALL(.timeout_ms = one->timeout_ms));
    atomic_fetch_add(&answered, 1);
    is_back = true;
    has_slept = false;
    ask_and_wait(&next, one->pool, one->address, "again", NULL);
    atomic_fetch_add(&again, 1);
    one->is_right = is_answered_with(&held, "Hold") && is_answered_with(&next, "again");
    return NULL;
}

static bool has_one_again(void *unused)
{
    (void)unused;
    return atomic_load(&again) > 0;
}

static bool do_all_but_one_sleep(void *unused)
{
    (void)unused;
    return atomic_load(&asleep) == CROWD - 1;
}

static bool are_so_many_answered(void *count)
{
    return atomic_load(&answered) == *(unsigned *)count;
}

static struct one all[CROWD];

/* All ask, and are answered at once, while the gate is closed. */
static void gather(uint32_t timeout_ms)
{
    door = pl_os_real;
    door.processors = one_processor;
    door.sleep_until = sleep_to_the_gate;
    door.send = send_and_note;
    pl_os_replace(&door);
    QUERY_SCENE();
    pool = MAKE_POOL(.codec = pool_codec_length(), .max_per_address = 1);
    for (unsigned i = 0; i < CROWD; i++) {
        all[i] = (struct one){ .pool = pool,
                               .address = address,
                               .timeout_ms = timeout_ms };
        pthread_create(&all[i].thread, NULL, ask_twice, &all[i]);
    }
    cr_assert(query_peer_wait_requests(peer, CROWD));
    cr_assert(wait_until(do_all_but_one_sleep, NULL, VERBS_SOON), "one reads");
    pthread_mutex_lock(&gate);
    cr_expect_eq(query_peer_release(peer), CROWD);
}

static void disperse(void)
{
    pthread_mutex_unlock(&gate);
    for (unsigned i = 0; i < CROWD; i++) {
        pthread_join(all[i].thread, NULL);
        cr_expect(all[i].is_right);
    }
    cr_expect_eq(query_peer_accepted(peer), 1);
    query_scene_end();
    pl_os_replace(NULL);
}

/* All but one of them have their replies, and do not come. The one asks again, and waits in vain
 * for what they ask; what it asked is sent nevertheless, by itself. */
Test(query_crowd, what_waits_for_others_is_sent_though_they_do_not_come)
{
    gather(VERBS_SOON);
    cr_expect(wait_until(has_one_again, NULL, VERBS_SOON));
    cr_expect_eq(again, 1);
    cr_expect_eq(slept_first, 1, "it waited for the others before it sent");
    disperse();
}

/* One received for all; WOKEN of the others were woken, and do not come to wake the rest. */
Test(query_crowd, who_is_not_woken_comes_in_time_with_the_reply)
{
    unsigned count = CROWD - WOKEN;

    gather(1500);
    cr_expect(wait_until(are_so_many_answered, &count, VERBS_SOON));
    disperse();
}

/* ---- who is woken, and does not go on */

static atomic_bool is_other_answered;
static atomic_uint waited_in_vain;

static bool is_set(void *flag)
{
    return atomic_load((atomic_bool *)flag);
}

/* A part that is told only when the reply behind it has come, too. */
static void wait_for_the_other(struct pool_bytes part, void *user)
{
    (void)part;
    (void)user;
    atomic_fetch_add(&waited_in_vain, !wait_until(is_set, &is_other_answered, VERBS_SOON));
}

static void *ask_for_parts(void *status)
{
    struct pool_reply *reply = NULL;

    *(enum pool_status *)status =
        pool_query(raw_pool, RAW, text_bytes("parts"),
                   POOL_CALL(.on_part = wait_for_the_other, .timeout_ms = 2 * VERBS_SOON), &reply);
    pool_reply_free(reply);
    return NULL;
}

static void *ask_plainly(void *status)
{
    struct pool_reply *reply = NULL;

    *(enum pool_status *)status = pool_query(raw_pool, RAW, text_bytes("plain"),
                                             POOL_CALL(.timeout_ms = 2 * VERBS_SOON), &reply);
    atomic_store(&is_other_answered, true);
    pool_reply_free(reply);
    return NULL;
}

/* As many as are woken at once get a part and the reply behind it in one receive, which the first
 * one makes for all, and wait in on_part for one who is not woken yet. */
Test(query_crowd, callbacks_keep_nobody_asleep)
{
    enum { COUNT = WOKEN + 2 };         /* who receives, those with parts, the other */
    enum pool_status statuses[COUNT];
    pthread_t threads[COUNT];
    struct raw_frame frame;
    uint32_t ids[COUNT];
    char bytes[512];
    size_t size = 0;

    door = pl_os_real;
    door.processors = one_processor;
    pl_os_replace(&door);
    RAW_LINE(.codec = pool_codec_length());
    for (unsigned i = 0; i < COUNT; i++) {
        pthread_create(&threads[i], NULL, i && i < COUNT - 1 ? ask_for_parts : ask_plainly,
                       &statuses[i]);
        cr_assert(raw_get(&frame));
        ids[i] = frame.id;
    }
    for (unsigned i = 1; i < COUNT - 1; i++) {
        size += frame_write(bytes + size, ids[i], FRAME_PART, "x");
        size += frame_write(bytes + size, ids[i], FRAME_REPLY, "x");
    }
    size += frame_write(bytes + size, ids[COUNT - 1], FRAME_REPLY, "x");
    cr_assert_eq(send(raw_end, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
    pthread_join(threads[COUNT - 1], NULL);
    cr_assert(raw_put(ids[0], FRAME_REPLY, "x"));
    for (unsigned i = 0; i < COUNT - 1; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < COUNT; i++)
        cr_expect_eq(statuses[i], POOL_OK);
    cr_expect_eq(waited_in_vain, 0);
    raw_line_end();
    pl_os_replace(NULL);
}
