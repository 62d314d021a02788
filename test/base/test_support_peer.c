/* test_support_peer.c: the loopback peer, tested with bare sockets: what the other tests rely on
 * must itself be right.
 *
 * Every behaviour is tested in a thread; what differs in a process of its own, there. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/peer.h"
#include "support/tests.h"

#define SOON 10000                  /* ms that no wait of a healthy run comes near */

static void say(int fd, const char *text)
{
    cr_assert(write_exactly(fd, text, strlen(text), SOON));
}

static bool hears(int fd, const char *text)
{
    char buffer[256] = "";

    cr_assert_lt(strlen(text), sizeof(buffer));
    return read_exactly(fd, buffer, strlen(text), SOON) && memcmp(buffer, text, strlen(text)) == 0;
}

static int dial(const struct peer *peer)
{
    int fd = peer_dial(peer);

    cr_assert_geq(fd, 0, "%s: %s", peer_address(peer), strerror(errno));
    return fd;
}

static void expect_echo(struct peer *peer, const char *prefix)
{
    int fd;

    cr_assert_not_null(peer);
    cr_expect_eq(strncmp(peer_address(peer), prefix, strlen(prefix)), 0, "%s", peer_address(peer));
    fd = dial(peer);
    say(fd, "ping");
    cr_expect(hears(fd, "ping"));
    close(fd);
    cr_expect(peer_wait_open(peer, 0, SOON));
    cr_expect_eq(peer_count(peer, PEER_BYTES_IN), 4);
    cr_expect_eq(peer_count(peer, PEER_BYTES_OUT), 4);
    cr_expect_eq(peer_how_ended(peer, 0), PEER_CLOSED_BY_OTHER);
    peer_stop(peer);
}

Test(support_peer, echoes_over_every_family_from_thread_and_process)
{
    int before = count_descriptors(), own;

    for (own = 0; own < 2; own++) {
        expect_echo(PEER(.own_process = own), "tcp://127.0.0.1:");
        expect_echo(PEER(.own_process = own, .host = "127.3.2.1"), "tcp://127.3.2.1:");
        expect_echo(PEER(.own_process = own, .family = AF_INET6), "tcp://[::1]:");
        expect_echo(PEER(.own_process = own, .family = AF_UNIX), "unix:///");
        expect_echo(PEER(.own_process = own, .family = AF_UNIX, .abstract = true), "abstract://");
    }
    cr_expect_eq(count_descriptors(), before);
}

Test(support_peer, a_bad_place_is_an_error)
{
    int before = count_descriptors();
    struct peer *first = PEER();

    cr_assert_null(PEER(.host = "not-an-address"));
    cr_assert_null(PEER(.queue_bytes = 256, .extra_bytes = 1000));
    cr_expect_null(PEER(.port = peer_port(first)));
    cr_expect_eq(errno, EADDRINUSE);
    peer_stop(first);
    peer_stop(NULL);
    cr_expect_eq(count_descriptors(), before);
}

Test(support_peer, echoes_more_than_its_queue_holds)
{
    static char sent[1 << 20], got[1 << 20];
    struct peer *peer = PEER(.own_process = true, .queue_bytes = 4096);
    int fd = dial(peer);
    size_t done = 0, read = 0, i;
    ssize_t moved;

    for (i = 0; i < sizeof(sent); i++)
        sent[i] = (char)(i * 7 + i / 251);
    while (read < sizeof(got)) {
        moved = done < sizeof(sent) ? send(fd, sent + done, sizeof(sent) - done, MSG_DONTWAIT) : 0;
        done += moved > 0 ? (size_t)moved : 0;
        moved = recv(fd, got + read, sizeof(got) - read, MSG_DONTWAIT);
        read += moved > 0 ? (size_t)moved : 0;
        if (moved < 0)
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, SOON);
    }
    cr_expect_eq(memcmp(sent, got, sizeof(sent)), 0);
    close(fd);
    peer_stop(peer);
}

Test(support_peer, lines_tokens_and_ids_are_answered_by_lines)
{
    struct peer *peer = PEER(.behave = PEER_LINE_ECHO);
    int first = dial(peer), second = dial(peer);

    say(first, "half ");
    cr_expect(peer_wait_bytes_in(peer, 5, SOON));
    cr_expect_eq(peer_count(peer, PEER_REQUESTS), 0);
    say(first, "whole\nrest");
    cr_expect(hears(first, "half whole\n"));
    peer_set_behaviour(peer, PEER_TOKEN);
    say(second, "TOKEN 8f\r\nTOKEN 77\n");
    cr_expect(hears(second, "1 8f\n1 77\n"));
    say(first, "TOKEN x\n");
    cr_expect(hears(first, "0 x\n"));
    peer_set_behaviour(peer, PEER_ID);
    say(second, "who?\n");
    cr_expect(hears(second, "1\n"));
    peer_set_behaviour(peer, PEER_REPLY_LINE);
    say(first, "a\nb\n");
    cr_expect(hears(first, "reply\nreply\n"));
    cr_expect_eq(peer_count(peer, PEER_REQUESTS), 7);
    close(first);
    close(second);
    peer_stop(peer);
}

Test(support_peer, a_line_without_an_end_is_cut)
{
    static char line[6000], got[6000];
    struct peer *peer = PEER(.behave = PEER_LINE_ECHO);
    int fd = dial(peer);

    memset(line, 'x', sizeof(line));
    line[sizeof(line) - 1] = '\n';
    cr_assert(write_exactly(fd, line, sizeof(line), SOON));
    cr_assert(read_exactly(fd, got, sizeof(got), SOON));
    cr_expect_eq(memcmp(line, got, sizeof(line)), 0);
    close(fd);
    peer_stop(peer);
}

Test(support_peer, slow_answers_come_late_and_each_in_its_time)
{
    struct peer *peer = PEER(.behave = PEER_SLOW, .delay_ms = 150);
    int fd = dial(peer);
    uint64_t first = now_ms(), second;

    say(fd, "one");
    cr_expect(peer_wait_requests(peer, 1, SOON));
    cr_expect_eq(listen_to(fd, 60), HEARD_NOTHING);
    second = now_ms();
    say(fd, "two");
    cr_expect(hears(fd, "one"));
    cr_expect(WITHIN(elapsed_ms(first), 149, 300));
    cr_expect(hears(fd, "two"));
    cr_expect(WITHIN(elapsed_ms(second), 149, 300));
    close(fd);
    peer_stop(peer);
}

Test(support_peer, silent_peers_never_answer_and_remember_what_they_got)
{
    struct peer *peer = PEER(.behave = PEER_SILENT, .record_bytes = 4);
    int fd = dial(peer);
    char got[16] = "";

    say(fd, "secret");
    cr_expect(peer_wait_bytes_in(peer, 6, SOON));
    cr_expect_eq(listen_to(fd, 30), HEARD_NOTHING);
    cr_expect_eq(peer_received(peer, 0, got, sizeof(got)), 6);
    cr_expect_str_eq(got, "secr");
    cr_expect_eq(peer_received(peer, 1, got, sizeof(got)), 0);
    cr_expect_eq(peer_how_ended(peer, 0), PEER_STILL_OPEN);
    cr_expect_eq(peer_how_ended(peer, 1), PEER_UNKNOWN);
    close(fd);
    cr_expect(peer_wait_end(peer, 0, PEER_CLOSED_BY_OTHER, SOON));
    peer_stop(peer);
}

Test(support_peer, deaf_peers_read_nothing_until_they_change)
{
    struct peer *peer = PEER(.behave = PEER_DEAF);
    int fd = dial(peer);

    say(fd, "hello");
    cr_expect(peer_wait_accepted(peer, 1, SOON));
    cr_expect_eq(listen_to(fd, 30), HEARD_NOTHING);
    cr_expect_eq(peer_count(peer, PEER_BYTES_IN), 0);
    peer_set_behaviour(peer, PEER_ECHO);
    cr_expect(hears(fd, "hello"));
    close(fd);
    peer_stop(peer);
}

Test(support_peer, resets_when_accepted_or_after_so_many_bytes)
{
    struct peer *peer = PEER(.behave = PEER_RESET);
    int fd = dial(peer);

    cr_expect_eq(listen_to(fd, SOON), HEARD_ERROR);
    close(fd);
    peer_set_after(peer, 6);
    fd = dial(peer);
    say(fd, "abc");
    cr_expect(hears(fd, "abc"));
    say(fd, "def");
    cr_expect_eq(listen_to(fd, SOON), HEARD_ERROR);
    cr_expect(peer_wait_end(peer, 1, PEER_CLOSED_BY_US, SOON));
    close(fd);
    peer_stop(peer);
}

Test(support_peer, half_closes_and_goes_on_reading)
{
    struct peer *peer = PEER(.behave = PEER_HALF_CLOSE, .after_bytes = 3);
    int fd = dial(peer);

    say(fd, "abc");
    cr_expect(hears(fd, "abc"));
    cr_expect_eq(listen_to(fd, SOON), HEARD_END);
    say(fd, "more");
    cr_expect(peer_wait_bytes_in(peer, 7, SOON));
    cr_expect_eq(peer_count(peer, PEER_OPEN), 1);
    close(fd);
    cr_expect(peer_wait_open(peer, 0, SOON));
    peer_stop(peer);
}

Test(support_peer, garbage_is_as_long_as_asked_and_the_same_for_a_seed)
{
    unsigned char got[2][300];
    unsigned round;

    for (round = 0; round < 2; round++) {
        struct peer *peer =
            PEER(.behave = PEER_GARBAGE, .reply_bytes = 300, .message_bytes = 4, .seed = 7);
        int fd = dial(peer);

        say(fd, "four");
        cr_expect(read_exactly(fd, got[round], 300, SOON));
        cr_expect_eq(listen_to(fd, 0), HEARD_NOTHING);
        close(fd);
        peer_stop(peer);
    }
    cr_expect_eq(memcmp(got[0], got[1], 300), 0);
    cr_expect_neq(memcmp(got[0], got[0] + 150, 150), 0);
}

Test(support_peer, closes_after_so_many_bytes_received_or_sent)
{
    struct peer *peer = PEER(.behave = PEER_CLOSE_RECEIVED, .after_bytes = 6);
    int fd = dial(peer);

    say(fd, "abc");
    cr_expect(hears(fd, "abc"));
    say(fd, "def");
    cr_expect_eq(listen_to(fd, SOON), HEARD_END);
    close(fd);
    peer_set_behaviour(peer, PEER_CLOSE_SENT);
    peer_set_after(peer, 5);
    fd = dial(peer);
    say(fd, "abcdefgh");
    cr_expect(hears(fd, "abcde"));
    cr_expect_eq(listen_to(fd, SOON), HEARD_END);
    close(fd);
    peer_stop(peer);
}

Test(support_peer, pushes_when_accepted_at_intervals_and_on_command)
{
    struct peer *peer =
        PEER(.behave = PEER_PUSH, .push_on_accept = true, .interval_ms = 20, .push = "news ");
    int fd = dial(peer), other;

    cr_expect(hears(fd, "news news news "));
    peer_set_behaviour(peer, PEER_ECHO);
    other = dial(peer);
    cr_expect(peer_wait_accepted(peer, 2, SOON));
    cr_expect_eq(peer_push(peer, 1, "only you", 8), 1);
    cr_expect(hears(other, "only you"));
    cr_expect_eq(peer_push(peer, PEER_ALL, "all", 3), 2);
    cr_expect(hears(other, "all"));
    cr_expect_eq(peer_push(peer, 7, "nobody", 6), 0);
    close(fd);
    close(other);
    peer_stop(peer);
}

Test(support_peer, drips_one_byte_an_interval)
{
    struct peer *peer = PEER(.behave = PEER_DRIP, .interval_ms = 30);
    int fd = dial(peer);
    uint64_t start = now_ms();

    say(fd, "drops");
    cr_expect(hears(fd, "d"));
    cr_expect_eq(listen_to(fd, 0), HEARD_NOTHING);
    cr_expect(hears(fd, "rops"));
    cr_expect(WITHIN(elapsed_ms(start), 119, 300));
    close(fd);
    cr_expect(peer_wait_open(peer, 0, SOON));
    peer_stop(peer);
}

Test(support_peer, accepts_then_closes)
{
    struct peer *peer = PEER(.behave = PEER_ACCEPT_CLOSE);
    int fd = dial(peer);

    cr_expect_eq(listen_to(fd, SOON), HEARD_END);
    cr_expect(peer_wait_accepted(peer, 1, SOON));
    cr_expect(peer_wait_open(peer, 0, SOON));
    close(fd);
    peer_stop(peer);
}

Test(support_peer, appends_stray_bytes_at_once_or_later)
{
    struct peer *peer = PEER(.behave = PEER_EXTRA, .extra_bytes = 3);
    int fd = dial(peer);
    uint64_t start;

    say(fd, "abc");
    cr_expect(hears(fd, "abc!!!"));
    peer_set_delay(peer, 80);
    start = now_ms();
    say(fd, "abc");
    cr_expect(hears(fd, "abc"));
    cr_expect_eq(listen_to(fd, 10), HEARD_NOTHING);
    cr_expect(hears(fd, "!!!"));
    cr_expect(WITHIN(elapsed_ms(start), 79, 250));
    close(fd);
    peer_stop(peer);
}

static bool connects(const struct peer *peer, unsigned within_ms)
{
    socklen_t size;
    const struct sockaddr *name = peer_sockaddr(peer, &size);
    int fd = socket(name->sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    bool is_done = connect(fd, name, size) == 0;

    if (!is_done && errno == EINPROGRESS)
        is_done = poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, (int)within_ms) == 1;
    close(fd);
    return is_done;
}

Test(support_peer, never_accepting_lets_nobody_connect)
{
    int families[] = {AF_INET, AF_INET6, AF_UNIX}, own;
    unsigned i;

    for (i = 0; i < 6; i++) {
        own = i % 2;
        struct peer *peer =
            PEER(.behave = PEER_NEVER_ACCEPT, .family = families[i / 2], .own_process = own);

        cr_expect_not(connects(peer, 100));
        cr_expect_eq(peer_count(peer, PEER_ACCEPTED), 0);
        peer_set_behaviour(peer, PEER_ECHO);
        cr_expect(connects(peer, SOON));
        cr_expect(peer_wait_accepted(peer, 1, SOON));
        cr_expect(peer_wait_open(peer, 0, SOON));
        peer_stop(peer);
    }
}

Test(support_peer, commands_close_reset_and_half_close)
{
    struct peer *peer = PEER(.own_process = true);
    int fds[4], i;

    for (i = 0; i < 4; i++)
        fds[i] = dial(peer);
    cr_expect(peer_wait_open(peer, 4, SOON));
    cr_expect_eq(peer_close(peer, 0), 1);
    cr_expect_eq(peer_close(peer, 0), 0);
    cr_expect_eq(listen_to(fds[0], SOON), HEARD_END);
    cr_expect_eq(peer_reset(peer, 1), 1);
    cr_expect_eq(listen_to(fds[1], SOON), HEARD_ERROR);
    cr_expect_eq(peer_half_close_all(peer), 2);
    cr_expect_eq(listen_to(fds[2], SOON), HEARD_END);
    cr_expect_eq(peer_count(peer, PEER_OPEN), 2);
    cr_expect_eq(peer_reset_all(peer), 2);
    cr_expect_eq(peer_count(peer, PEER_OPEN), 0);
    cr_expect_eq(peer_count(peer, PEER_MOST_OPEN), 4);
    for (i = 0; i < 4; i++)
        close(fds[i]);
    peer_stop(peer);
}

Test(support_peer, reading_and_accepting_pause)
{
    struct peer *peer = PEER();
    int fd = dial(peer);

    cr_expect(peer_wait_accepted(peer, 1, SOON));
    peer_pause_reading(peer);
    peer_pause_accepting(peer);
    say(fd, "wait");
    cr_expect(connects(peer, SOON));
    cr_expect_eq(listen_to(fd, 30), HEARD_NOTHING);
    cr_expect_eq(peer_count(peer, PEER_ACCEPTED), 1);
    peer_resume_reading(peer);
    peer_resume_accepting(peer);
    cr_expect(hears(fd, "wait"));
    cr_expect(peer_wait_accepted(peer, 2, SOON));
    close(fd);
    peer_stop(peer);
}

static void expect_restart(struct peer *peer)
{
    char address[160];
    int fd = dial(peer);

    snprintf(address, sizeof(address), "%s", peer_address(peer));
    cr_expect(peer_wait_open(peer, 1, SOON));
    peer_down(peer);
    cr_expect_neq(listen_to(fd, SOON), HEARD_BYTES);
    cr_expect_lt(peer_dial(peer), 0);
    cr_expect_eq(errno, ECONNREFUSED);
    cr_expect(peer_up(peer));
    cr_expect(peer_restart(peer));
    cr_expect_str_eq(peer_address(peer), address);
    close(fd);
    fd = dial(peer);
    say(fd, "again");
    cr_expect(hears(fd, "again"));
    close(fd);
    peer_stop(peer);
}

Test(support_peer, goes_down_and_comes_up_where_it_was)
{
    expect_restart(PEER());
    expect_restart(PEER(.own_process = true));
    expect_restart(PEER(.own_process = true, .family = AF_UNIX));
    expect_restart(PEER(.family = AF_UNIX, .abstract = true));
}

Test(support_peer, no_descriptor_left_makes_it_wait_not_spin)
{
    struct peer *peer = PEER(.own_process = true, .max_descriptors = 16);
    uint64_t turns;
    int fds[20], i;

    if (is_under_valgrind())
        cr_skip("valgrind closes what accept() returns beyond the limit");
    for (i = 0; i < 20; i++)
        fds[i] = dial(peer);
    cr_expect(peer_wait_least(peer, PEER_ACCEPT_FAILURES, 3, SOON));
    cr_expect_leq(peer_count(peer, PEER_OPEN), 16);
    turns = peer_count(peer, PEER_TURNS);
    cr_expect_eq(listen_to(fds[19], 200), HEARD_NOTHING);
    cr_expect_leq(peer_count(peer, PEER_TURNS) - turns, 60);
    for (i = 0; i < 19; i++)
        close(fds[i]);
    say(fds[19], "at last");
    cr_expect(hears(fds[19], "at last"));
    close(fds[19]);
    cr_expect(peer_wait_accepted(peer, 20, SOON));
    peer_stop(peer);
}

Test(support_peer, idle_it_does_nothing)
{
    struct peer *peer = PEER(.own_process = true);
    int fd = dial(peer);
    uint64_t turns;

    say(fd, "x");
    cr_expect(hears(fd, "x"));
    peer_set_delay(peer, 0);
    turns = peer_count(peer, PEER_TURNS);
    cr_expect_eq(listen_to(fd, 100), HEARD_NOTHING);
    cr_expect_leq(peer_count(peer, PEER_TURNS), turns + 1);
    close(fd);
    peer_stop(peer);
}

Test(support_peer, one_peer_listens_on_all_of_loopback)
{
    struct peer *peer = PEER(.own_process = true, .every_loopback = true);
    char command[64];
    int fd;

    cr_assert_not_null(peer);
    fd = dial(peer);
    snprintf(command, sizeof(command), "tcp://127.0.0.1:%d", peer_port(peer));
    cr_expect_str_eq(peer_address(peer), command);
    cr_expect(peer_wait_accepted(peer, 1, SOON));
    close(fd);
    peer_stop(peer);
}

Test(support_peer, serves_thousands_at_once)
{
    struct peer *peer = PEER(.own_process = true);
    int count = 10000, i, *fds = malloc((size_t)count * sizeof(*fds));

    set_descriptor_limit(20000);
    for (i = 0; i < count; i++)
        fds[i] = dial(peer);
    cr_expect(peer_wait_open(peer, (uint64_t)count, SOON));
    for (i = 0; i < count; i += 97) {
        say(fds[i], "hello");
        cr_expect(hears(fds[i], "hello"));
    }
    for (i = 0; i < count; i++)
        close(fds[i]);
    cr_expect(peer_wait_open(peer, 0, SOON));
    cr_expect_eq(peer_count(peer, PEER_MOST_OPEN), (uint64_t)count);
    free(fds);
    peer_stop(peer);
}

static void ask_tokens(unsigned index, void *argument)
{
    char request[32], reply[32], expected[32], *space;
    struct peer *peer = argument;
    int fd = dial(peer), i;

    for (i = 0; i < 200; i++) {
        snprintf(request, sizeof(request), "TOKEN %03u%03d\n", index, i);
        snprintf(expected, sizeof(expected), "%03u%03d\n", index, i);
        say(fd, request);
        memset(reply, 0, sizeof(reply));
        for (space = reply; !strchr(reply, '\n'); space++)
            cr_assert(read_exactly(fd, space, 1, SOON));
        space = strchr(reply, ' ');
        cr_assert_not_null(space);
        cr_assert_str_eq(space + 1, expected);
        if (i % 50 == 0)
            peer_push(peer, 12345, "x", 1);
    }
    close(fd);
}

Test(support_peer, many_threads_talk_to_it_and_command_it)
{
    struct peer *peer = PEER(.behave = PEER_TOKEN, .own_process = true);

    cr_expect(run_threads(8, ask_tokens, peer));
    cr_expect_eq(peer_count(peer, PEER_REQUESTS), 1600);
    cr_expect(peer_wait_open(peer, 0, SOON));
    peer_stop(peer);
}

Test(support_peer, its_process_shares_no_descriptor_and_may_be_killed)
{
    int pair[2], pid;
    struct peer *peer;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    peer = PEER(.own_process = true);
    close(pair[1]);
    cr_expect_eq(listen_to(pair[0], SOON), HEARD_END);
    close(pair[0]);
    pid = peer_pid(peer);
    cr_assert_gt(pid, 0);
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_expect_not(peer_wait_accepted(peer, 1, SOON));
    peer_stop(peer);
}
