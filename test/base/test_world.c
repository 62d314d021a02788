/* test_world.c: the scripted world by itself: its clock, its threads and its accounts. That its
 * network is Linux's is shown by test_world_linux.c. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/time.h>

#include "mux/mux.h"
#include "support/tests.h"
#include "world/fault.h"
#include "world/world.h"

#define QUIET (MSG_DONTWAIT | MSG_NOSIGNAL)

static struct world *world;

static void begin(void)
{
    world = world_create(1);
    pl_os_replace(world_os(world));
}

static void end(void)
{
    pl_os_replace(NULL);
    world_destroy(world);
}

TestSuite(world, .init = begin, .fini = end);

static int dial(const char *ip, uint16_t port)
{
    int fd = pl_os->socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };

    inet_pton(AF_INET, ip, &address.sin_addr);
    cr_assert_eq(pl_os->connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

Test(world, runs_out_of_numbers_and_ports)
{
    int fd;

    world_limit_descriptors(world, 5);
    cr_expect_eq(pl_os->descriptor_limit(), 5);
    cr_expect_eq(pl_os->socket(AF_INET, SOCK_STREAM, 0), 3);
    cr_expect_eq(pl_os->eventfd_create(), 4);
    cr_expect_eq(pl_os->epoll_create(), -EMFILE);
    cr_expect_eq(world_descriptors(world), 2);
    pl_os->close(3);
    cr_expect_eq(pl_os->timerfd_create(), 3);
    pl_os->close(3);
    WORLD_LISTEN(world, "tcp://10.0.0.1:80", .behave = WORLD_ECHO);
    world_limit_ports(world, 1);
    fd = dial("10.0.0.1", 80);
    world_limit_descriptors(world, 10);
    cr_expect_eq(pl_os->connect(pl_os->socket(AF_INET, SOCK_STREAM, 0),
                                (struct sockaddr *)&(struct sockaddr_in){ .sin_family = AF_INET },
                                sizeof(struct sockaddr_in)), -EADDRNOTAVAIL);
    pl_os->close(fd);
    cr_expect_eq(world_violations(world), 0);
}

static void note_time(void *argument)
{
    *(uint64_t *)argument = world_now_ms(world);
}

Test(world, the_clock_moves_only_while_somebody_waits)
{
    uint64_t start_ns = pl_os->now_ns(), later_ms = 0;
    struct pollfd polled = { .fd = pl_os->eventfd_create(), .events = POLLIN };

    cr_expect_eq(pl_os->now_ns(), start_ns);
    world_at(world, 70, note_time, &later_ms);
    cr_expect_eq(pl_os->poll_until(&polled, 1, start_ns + 50 * PL_MS), 0);
    cr_expect_eq(pl_os->now_ns(), start_ns + 50 * PL_MS);
    cr_expect_eq(pl_os->coarse_ns(), start_ns + 48 * PL_MS);
    cr_expect_eq(later_ms, 0);
    world_run(world, 1000);
    cr_expect_eq(later_ms, 70);
    cr_expect_eq(world_now_ms(world), 1050);
}

/* SO_RCVTIMEO is as late here as it can be on Linux: an eighth of it and 4 ms. */
Test(world, a_blocking_receive_waits_as_long_as_it_was_told)
{
    struct world_peer *peer =
        WORLD_LISTEN(world, "tcp://10.0.0.1:80", .behave = WORLD_ECHO, .delay_ms = 300);
    struct timeval wait = { .tv_usec = 128000 };
    uint64_t start_ms;
    int fd = dial("10.0.0.1", 80);
    char byte;

    pl_os->setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    start_ms = world_now_ms(world);
    cr_expect_eq(pl_os->send(fd, "x", 1, QUIET), 1);
    cr_expect_eq(pl_os->recv(fd, &byte, 1, 0), -EAGAIN);
    cr_expect_eq(world_now_ms(world) - start_ms, 148);
    cr_expect_eq(pl_os->recv(fd, &byte, 1, 0), -EAGAIN);
    cr_expect_eq(pl_os->recv(fd, &byte, 1, 0), 1);
    cr_expect_eq(world_now_ms(world) - start_ms, 300);
    pl_os->close(fd);
    world_settle(world);
    cr_expect_eq(world_counts(peer).open, 0);
    cr_expect_eq(world_counts(peer).ends, 1);
    cr_expect_eq(world_counts(peer).bytes_in, 1);
}

Test(world, silence_ends_in_a_timeout_of_the_kernel)
{
    struct world_peer *peer = WORLD_LISTEN(world, "tcp://10.0.0.1:80", .behave = WORLD_ECHO);
    struct sockaddr_in nowhere = { .sin_family = AF_INET, .sin_port = htons(81) };
    int fd = dial("10.0.0.1", 80), patience_ms = 1000;
    uint64_t start_ms = world_now_ms(world);
    char byte;

    pl_os->setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof(patience_ms));
    world_vanish(peer);
    pl_os->send(fd, "x", 1, QUIET);
    cr_expect_eq(pl_os->recv(fd, &byte, 1, 0), -ETIMEDOUT);
    cr_expect_eq(world_now_ms(world) - start_ms, 1000);
    WORLD_LISTEN(world, "tcp://10.0.0.2:81", .behave = WORLD_BLACK_HOLE);
    nowhere.sin_addr.s_addr = htonl(0x0a000002);
    cr_expect_eq(pl_os->connect(pl_os->socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&nowhere,
                                sizeof(nowhere)), -ETIMEDOUT);
    cr_expect_gt(world_now_ms(world), 127000);
}

Test(world, counts_what_is_done_to_foreign_descriptors)
{
    int fd = pl_os->eventfd_create(), on = 1;

    cr_expect_eq(world_foreign_replace(world, fd), fd);
    cr_expect_eq(world_descriptors(world), 0);
    pl_os->getsockopt(fd, SOL_SOCKET, SO_TYPE, &on, &(socklen_t){ sizeof(on) });
    pl_os->recv(fd, &on, 1, MSG_PEEK | MSG_DONTWAIT);
    cr_expect_eq(world_violations(world), 0);
    pl_os->send(fd, "12345", 5, QUIET);
    cr_expect_eq(world_violations(world), 5);
    pl_os->setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    pl_os->shutdown(fd, SHUT_RDWR);
    pl_os->close(fd);
    cr_expect_eq(world_violations(world), 8);
    cr_expect_eq(pl_os->close(fd), -EBADF);
    cr_expect_eq(world_violations(world), 9);
}

Test(world, counts_memory)
{
    char *some = pl_os->malloc(10), *more = pl_os->realloc(NULL, 20);

    cr_expect_eq(world_allocations(world), 2);
    cr_expect_geq(world_allocated_bytes(world), 30);
    some = pl_os->realloc(some, 1000);
    cr_expect_eq(world_allocations(world), 2);
    pl_os->free(some);
    pl_os->free(more);
    pl_os->free(NULL);
    cr_expect_eq(world_allocations(world) + world_allocated_bytes(world), 0);
}

/* ---- with a mux on a thread of its own, which here is a row of steps */

static void ring(void *user)
{
    ++*(int *)user;
}

Test(world, a_mux_runs_its_steps_while_somebody_waits)
{
    struct pool_mux *mux;
    struct pool_timer *timer;
    uint64_t wakeups;
    int rung = 0;

    cr_assert_eq(pl_mux_open(&mux, true), POOL_OK);
    cr_expect_eq(world_threads(world), 1);
    pool_mux_post(mux, ring, &rung);
    cr_expect_eq(rung, 0);
    world_settle(world);
    cr_expect_eq(rung, 1);
    pool_mux_after(mux, 50, ring, &rung, &timer);
    world_run(world, 49);
    cr_expect_eq(rung, 1);
    world_run(world, 1);
    cr_expect_eq(rung, 2);
    wakeups = world_wakeups(world);
    world_run(world, 3600000);
    cr_expect_eq(world_wakeups(world), wakeups);
    pool_timer_cancel(timer);
    pl_mux_unref(mux);
    cr_expect_eq(world_threads(world) + world_descriptors(world) + world_allocations(world), 0);
}

static void wait_in_step(void *user)
{
    struct pollfd polled = { .fd = *(int *)user, .events = POLLIN };

    pl_os->poll_until(&polled, 1, PL_NEVER);
}

static void wait_inside_a_step(void)
{
    struct pool_mux *mux;
    int fd = pl_os->eventfd_create();

    cr_assert_eq(pl_mux_open(&mux, true), POOL_OK);
    pool_mux_post(mux, wait_in_step, &fd);
    world_settle(world);
}

Test(world, a_step_that_waits_is_found_out)
{
    cr_expect(aborts_saying("waits inside its step", wait_inside_a_step));
}

static void wait_for_ever(void)
{
    struct pollfd polled = { .fd = pl_os->eventfd_create(), .events = POLLIN };

    pl_os->poll_until(&polled, 1, PL_NEVER);
}

Test(world, waiting_for_ever_is_found_out)
{
    cr_expect(aborts_saying("somebody waits for ever", wait_for_ever));
}

static void go_round_in_circles(void)
{
    uint64_t later_ns = pl_os->now_ns() + 1;

    while (pl_os->now_ns() < later_ns)
        continue;
}

Test(world, going_round_in_circles_is_found_out)
{
    cr_expect(aborts_saying("goes round in circles", go_round_in_circles));
}

/* ---- the door that makes calls fail */

static void count_three_calls(const struct pl_os *os)
{
    void *memory = os->malloc(1);
    int fd = os->eventfd_create();

    os->free(memory);
    if (fd >= 0)
        os->close(fd);
}

static void expect_points(const struct pl_os *os)
{
    fault_count();
    count_three_calls(os);
    fault_off();
    count_three_calls(os);
    cr_expect_eq(fault_points(), 3);
    cr_expect_eq(fault_kind(1), FAULT_MALLOC);
    cr_expect_eq(fault_kind(2), FAULT_EVENTFD);
    cr_expect_eq(fault_kind(3), FAULT_CLOSE);
    cr_expect_eq(fault_kind(4), FAULT_CALLS);
    cr_expect_eq(fault_live_allocations(), 0);
}

Test(world, points_are_counted_before_any_door)
{
    expect_points(fault_os(world_os(world)));
    expect_points(fault_os(&pl_os_real));
}

Test(world, a_call_fails_once_or_for_good)
{
    const struct pl_os *os = fault_os(world_os(world));

    fault_arm(2, EMFILE, false);
    cr_expect_eq(os->eventfd_create(), 3);
    cr_expect_not(fault_has_struck());
    cr_expect_eq(os->eventfd_create(), -EMFILE);
    cr_expect(fault_has_struck());
    cr_expect_eq(os->eventfd_create(), 4);
    fault_arm(1, ENFILE, true);
    cr_expect_eq(os->eventfd_create(), -ENFILE);
    cr_expect_eq(os->timerfd_create(), 5);
    cr_expect_eq(os->eventfd_create(), -ENFILE);
    fault_off();
    cr_expect_eq(os->eventfd_create(), 6);
}

Test(world, a_close_that_was_interrupted_has_closed)
{
    const struct pl_os *os = fault_os(world_os(world));
    int fd = os->eventfd_create();

    fault_arm(1, EINTR, false);
    cr_expect_eq(os->close(fd), -EINTR);
    cr_expect_eq(world_descriptors(world), 0);
    cr_expect_eq(os->close(fd), -EBADF);
    cr_expect_eq(world_violations(world), 1);
}

Test(world, every_call_has_errors_with_names)
{
    bool once_only;

    for (enum fault_call call = 0; call < FAULT_CALLS; call++) {
        cr_expect_neq(fault_error(call, 0, &once_only), 0);
        for (unsigned i = 0; fault_error(call, i, &once_only); i++) {
            int error = fault_error(call, i, &once_only);

            cr_expect_eq(fault_error_named(fault_error_name(error)), error);
        }
    }
}
