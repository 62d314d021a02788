/* test_query_surplus.c: where replies come in order, a peer that answers once too often answers
 * nobody with that who asks later, whenever the surplus comes, and in whatever pieces. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>

#include "base/os.h"
#include "support/query_script.h"

TestSuite(query_surplus, .timeout = 60);

#define ALONE .max_per_address = 1

static void end(void)
{
    cr_expect(script_end());
}

/* ---- behind a reply upon which the next query of the queue is asked */

static struct pl_os door;
static size_t cut; /* bytes that the next receive finds; 0: all */

/* It may be set while somebody waits here. */
static ssize_t receive_cut(int fd, void *buffer, size_t size, int flags)
{
    char first;
    ssize_t got = world_os(script.world)->recv(fd, &first, 1, flags | MSG_PEEK);
    bool is_cut = cut && !(flags & MSG_PEEK);

    if (got <= 0)
        return got;
    got = world_os(script.world)->recv(fd, buffer, is_cut ? cut : size, flags);
    cut = is_cut ? 0 : cut;
    return got;
}

static struct query queued;

/* Both lines are there at once, and two receives take them. */
static void answer_twice(struct world_link *link)
{
    cut = strlen("first\n");
    world_say_text(link, "first\nextra\n");
}

static void begin_cut(void)
{
    queued = (struct query){ 0 };
    cut = 0;
    script_begin(SPEAK_LINE, POOL_OPTIONS(ALONE, .max_inflight = 1), NULL);
    door = *world_os(script.world);
    door.recv = receive_cut;
    pl_os_replace(&door);
}

static void expect_asked_elsewhere(void)
{
    world_settle(script.world);
    cr_expect(script_is_answered(&queued, "queued"));
    cr_expect_eq(world_counts(script.peer).accepted, 2);
    cr_expect_eq(cut, 0);
    end();
}

static void answer_the_second_link(const struct script_request *request, struct pool_bytes token)
{
    if (world_link_nth(request->link))
        script_answer(request, token);
}

Test(query_surplus, is_no_answer_to_the_next_of_the_queue_where_the_mux_reads)
{
    struct query first = { 0 };

    begin_cut();
    script.on_request = answer_the_second_link;
    cr_assert_eq(script_ask(&first, "first", NULL), POOL_OK);
    cr_assert_eq(script_ask(&queued, "queued", NULL), POOL_OK);
    world_settle(script.world);
    cr_assert_eq(script.count, 1);
    answer_twice(script.requests[0].link);
    world_settle(script.world);
    cr_expect(script_is_answered(&first, "first"));
    expect_asked_elsewhere();
}

static void have_one_queued(const struct script_request *request, struct pool_bytes token)
{
    answer_the_second_link(request, token);
    if (script.count > 1)
        return;
    cr_assert_eq(script_ask(&queued, "queued", NULL), POOL_OK);
    answer_twice(request->link);
}

Test(query_surplus, is_no_answer_to_the_next_of_the_queue_where_a_thread_reads)
{
    struct query first = { 0 };

    begin_cut();
    script.on_request = have_one_queued;
    cr_expect_eq(script_ask_and_wait(&first, "first", NULL), POOL_OK);
    cr_expect(script_is_answered(&first, "first"));
    expect_asked_elsewhere();
}
