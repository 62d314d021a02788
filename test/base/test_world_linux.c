/* test_world_linux.c: the scripted world held against Linux: small scripts are played on both, and
 * what the door answers must be the same. */
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/time.h>

#include "world/stage.h"

#define QUIET (MSG_DONTWAIT | MSG_NOSIGNAL)

static void note_recv(struct stage *stage, int fd, int flags)
{
    char buffer[64] = "";
    ssize_t got = stage->os->recv(fd, buffer, sizeof(buffer) - 1, flags | MSG_DONTWAIT);

    stage_note(stage, "recv", got);
    if (got > 0)
        stage_note_text(stage, "bytes", buffer);
}

static void note_send(struct stage *stage, int fd, const char *text)
{
    stage_note(stage, "send", stage->os->send(fd, text, strlen(text), QUIET));
}

static void note_error(struct stage *stage, int fd)
{
    int error = 0;
    socklen_t size = sizeof(error);

    stage_note(stage, "SO_ERROR asked",
               stage->os->getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size));
    stage_note(stage, "SO_ERROR", -error);
}

static void note_events(struct stage *stage, int fd)
{
    stage_note_events(stage, "events", stage_events(stage, fd));
}

/* Everything that may be asked of a socket, in an order that shows what each answer leaves
 * behind. */
static void note_bytes_and_error(struct stage *stage, int fd)
{
    note_events(stage, fd);
    note_recv(stage, fd, MSG_PEEK);
    note_events(stage, fd);
    note_recv(stage, fd, 0);
    note_send(stage, fd, "x");
    note_send(stage, fd, "y");
    note_recv(stage, fd, 0);
    note_error(stage, fd);
    note_events(stage, fd);
}

static void note_all(struct stage *stage, int fd)
{
    struct sockaddr_storage name;
    socklen_t size = sizeof(name);

    note_bytes_and_error(stage, fd);
    stage_note(stage, "getpeername",
               stage->os->getpeername(fd, (struct sockaddr *)&name, &size));
}

/* ---- connecting */

static void connect_and_echo(struct stage *stage, enum stage_place place)
{
    int fd = stage_socket(stage, place);

    stage_peer(stage, place, STAGE_ECHO);
    stage->os->set_nonblocking(fd, true);
    stage_note(stage, "connect", stage_connect(stage, fd));
    stage_note_events(stage, "then", stage_wait(stage, fd, EPOLLOUT));
    note_error(stage, fd);
    stage_note(stage, "connect again", stage_connect(stage, fd));
    stage_note(stage, "and again", stage_connect(stage, fd));
    note_recv(stage, fd, 0);
    note_send(stage, fd, "hello");
    stage_note_events(stage, "then", stage_wait(stage, fd, EPOLLIN));
    note_recv(stage, fd, MSG_PEEK);
    note_recv(stage, fd, 0);
    note_recv(stage, fd, 0);
    stage_note(stage, "close", stage->os->close(fd));
}

static void connect_tcp(struct stage *stage)
{
    connect_and_echo(stage, STAGE_TCP);
}

static void connect_unix(struct stage *stage)
{
    connect_and_echo(stage, STAGE_UNIX);
}

static void connect_abstract(struct stage *stage)
{
    connect_and_echo(stage, STAGE_ABSTRACT);
}

Test(world_linux, connects_and_carries_bytes_as_linux)
{
    cr_expect(stage_play(connect_tcp));
    cr_expect(stage_play(connect_unix));
    cr_expect(stage_play(connect_abstract));
}

static void connect_nowhere(struct stage *stage)
{
    for (enum stage_place place = STAGE_TCP; place <= STAGE_ABSTRACT; place++) {
        int fd = stage_socket(stage, place);

        stage->os->set_nonblocking(fd, true);
        stage_note(stage, "connect", stage_connect_nowhere(stage, fd, place));
        if (place == STAGE_TCP)
            stage_note_events(stage, "then", stage_wait(stage, fd, EPOLLOUT));
        note_error(stage, fd);
        note_all(stage, fd);
        stage->os->close(fd);
    }
}

static void connect_nowhere_blocking(struct stage *stage)
{
    int fd = stage_socket(stage, STAGE_TCP);

    stage_note(stage, "connect", stage_connect_nowhere(stage, fd, STAGE_TCP));
    note_all(stage, fd);
    stage->os->close(fd);
}

static void connect_again_after_refusal(struct stage *stage)
{
    int fd = stage_socket(stage, STAGE_TCP);

    stage->os->set_nonblocking(fd, true);
    stage_connect_nowhere(stage, fd, STAGE_TCP);
    stage_wait(stage, fd, EPOLLOUT);
    stage_note(stage, "tells", stage_connect_nowhere(stage, fd, STAGE_TCP));
    stage_note(stage, "tries", stage_connect_nowhere(stage, fd, STAGE_TCP));
    stage->os->close(fd);
}

Test(world_linux, refuses_as_linux)
{
    cr_expect(stage_play(connect_nowhere));
    cr_expect(stage_play(connect_nowhere_blocking));
    cr_expect(stage_play(connect_again_after_refusal));
}

static void connect_in_vain(struct stage *stage)
{
    int fd = stage_socket(stage, STAGE_TCP);

    stage_peer(stage, STAGE_TCP, STAGE_FULL);
    stage->os->set_nonblocking(fd, true);
    stage_note(stage, "connect", stage_connect(stage, fd));
    stage_note(stage, "again", stage_connect(stage, fd));
    note_all(stage, fd);
    stage_note(stage, "shutdown", stage->os->shutdown(fd, SHUT_RDWR));
    note_all(stage, fd);
    stage->os->close(fd);
}

static void connect_unix_in_vain(struct stage *stage)
{
    int fd = stage_socket(stage, STAGE_UNIX);

    stage_peer(stage, STAGE_UNIX, STAGE_FULL);
    stage->os->set_nonblocking(fd, true);
    stage_note(stage, "connect", stage_connect(stage, fd));
    stage_note(stage, "again", stage_connect(stage, fd));
    note_all(stage, fd);
    stage->os->close(fd);
}

Test(world_linux, leaves_a_connect_unanswered_as_linux)
{
    cr_expect(stage_play(connect_in_vain));
    cr_expect(stage_play(connect_unix_in_vain));
}

static void ask_fresh_sockets(struct stage *stage)
{
    for (enum stage_place place = STAGE_TCP; place <= STAGE_UNIX; place++) {
        int fd = stage_socket(stage, place);

        note_all(stage, fd);
        stage_note(stage, "shutdown", stage->os->shutdown(fd, SHUT_RDWR));
        note_all(stage, fd);
        stage->os->close(fd);
    }
}

Test(world_linux, knows_what_unconnected_sockets_answer)
{
    cr_expect(stage_play(ask_fresh_sockets));
}

/* ---- ends */

static void hear_end(struct stage *stage, enum stage_place place, void (*end)(struct stage *),
                     bool with_bytes)
{
    int fd;

    stage_peer(stage, place, STAGE_ECHO);
    fd = stage_dial(stage, place);
    if (with_bytes)
        stage_push(stage, "last words");
    end(stage);
    stage_wait(stage, fd, EPOLLRDHUP);
    note_all(stage, fd);
    note_all(stage, fd);
    stage_note(stage, "shutdown", stage->os->shutdown(fd, SHUT_RDWR));
    note_bytes_and_error(stage, fd); /* the peer's name goes when it has answered our end */
    stage->os->close(fd);
}

#define END_SCRIPT(name, place, end, with_bytes) \
    static void name(struct stage *stage)        \
    {                                            \
        hear_end(stage, place, end, with_bytes); \
    }

END_SCRIPT(tcp_half_close, STAGE_TCP, stage_half_close, false)
END_SCRIPT(tcp_half_close_after_bytes, STAGE_TCP, stage_half_close, true)
END_SCRIPT(tcp_reset, STAGE_TCP, stage_reset, false)
END_SCRIPT(tcp_reset_after_bytes, STAGE_TCP, stage_reset, true)
END_SCRIPT(unix_half_close, STAGE_UNIX, stage_half_close, false)
END_SCRIPT(unix_close, STAGE_UNIX, stage_close, false)
END_SCRIPT(unix_close_after_bytes, STAGE_UNIX, stage_close, true)

Test(world_linux, ends_as_linux)
{
    cr_expect(stage_play(tcp_half_close));
    cr_expect(stage_play(tcp_half_close_after_bytes));
    cr_expect(stage_play(unix_half_close));
    cr_expect(stage_play(unix_close));
    cr_expect(stage_play(unix_close_after_bytes));
}

Test(world_linux, resets_as_linux)
{
    cr_expect(stage_play(tcp_reset));
    cr_expect(stage_play(tcp_reset_after_bytes));
}

/* What is sent to a peer that has closed is answered with a reset, which tells itself as EPIPE. */
static void send_to_closed_peer(struct stage *stage)
{
    int fd;

    stage_peer(stage, STAGE_TCP, STAGE_ECHO);
    fd = stage_dial(stage, STAGE_TCP);
    stage_close(stage);
    stage_note_events(stage, "closed", stage_wait(stage, fd, EPOLLRDHUP));
    note_recv(stage, fd, 0);
    note_send(stage, fd, "x");
    stage_note_events(stage, "answered", stage_wait(stage, fd, 0));
    note_all(stage, fd);
    stage->os->close(fd);
}

Test(world_linux, a_closed_peer_answers_with_a_reset)
{
    cr_expect(stage_play(send_to_closed_peer));
}

static void shut_down_ourselves(struct stage *stage)
{
    int fd;

    stage_peer(stage, STAGE_TCP, STAGE_DEAF);
    fd = stage_dial(stage, STAGE_TCP);
    stage_push(stage, "unread");
    stage_wait(stage, fd, EPOLLIN);
    stage_note(stage, "shutdown", stage->os->shutdown(fd, SHUT_RDWR));
    note_all(stage, fd);
    note_all(stage, fd);
    stage->os->close(fd);
}

Test(world_linux, shuts_down_as_linux)
{
    cr_expect(stage_play(shut_down_ourselves));
}

static void fill_deaf_peer(struct stage *stage)
{
    static char block[16384];
    ssize_t sent;
    int fd;

    stage_peer(stage, STAGE_TCP, STAGE_DEAF);
    fd = stage_dial(stage, STAGE_TCP);
    do
        sent = stage->os->send(fd, block, sizeof(block), QUIET);
    while (sent > 0);
    stage_note(stage, "full", sent);
    note_events(stage, fd);
    stage->os->close(fd);
}

Test(world_linux, a_full_window_takes_no_more)
{
    cr_expect(stage_play(fill_deaf_peer));
}

/* ---- numbers and epoll */

static void give_numbers(struct stage *stage)
{
    int first = stage_socket(stage, STAGE_TCP), second = stage_socket(stage, STAGE_UNIX), third;
    uint64_t cookie = stage_cookie(stage, second), other;

    stage_note(stage, "in order", second == first + 1);
    stage->os->close(second);
    third = stage->os->eventfd_create();
    stage_note(stage, "lowest", third == second);
    stage->os->close(third);
    third = stage_socket(stage, STAGE_UNIX);
    other = stage_cookie(stage, third);
    stage_note(stage, "same number", third == second);
    stage_note(stage, "same socket", cookie == other);
    stage->os->close(first);
    stage->os->close(third);
    stage_note(stage, "closed",
               stage->os->getsockopt(third, SOL_SOCKET, SO_COOKIE, &other, &(socklen_t){ 8 }));
    stage_note_events(stage, "poll", stage_events(stage, third));
    third = stage->os->eventfd_create();
    stage_note(stage, "no socket", stage->os->recv(third, &other, 1, MSG_DONTWAIT));
    stage->os->close(third);
}

Test(world_linux, gives_the_lowest_number_and_never_a_cookie_twice)
{
    cr_expect(stage_play(give_numbers));
}

static int watch(struct stage *stage, int epoll_fd, int operation, int fd, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.u64 = 7 };

    return stage->os->epoll_ctl(epoll_fd, operation, fd, &event);
}

static void note_wait(struct stage *stage, int epoll_fd, bool is_due)
{
    struct epoll_event events[8];
    int count = stage->os->epoll_wait(epoll_fd, events, 8, is_due ? 10000 : 0);

    stage_note(stage, "epoll_wait", count);
    for (int i = 0; i < count; i++) {
        stage_note_events(stage, "has", events[i].events);
        stage_note(stage, "data", (long)events[i].data.u64);
    }
}

static void watch_once(struct stage *stage)
{
    int epoll_fd = stage->os->epoll_create(), fd;

    stage_peer(stage, STAGE_TCP, STAGE_ECHO);
    fd = stage_dial(stage, STAGE_TCP);
    stage_note(stage, "mod", watch(stage, epoll_fd, EPOLL_CTL_MOD, fd, EPOLLIN));
    stage_note(stage, "del", watch(stage, epoll_fd, EPOLL_CTL_DEL, fd, 0));
    stage_note(stage, "add", watch(stage, epoll_fd, EPOLL_CTL_ADD, fd, EPOLLONESHOT));
    stage_note(stage, "add", watch(stage, epoll_fd, EPOLL_CTL_ADD, fd, EPOLLONESHOT));
    stage_note(stage, "itself", watch(stage, epoll_fd, EPOLL_CTL_ADD, epoll_fd, EPOLLIN));
    stage_note(stage, "no epoll", watch(stage, fd, EPOLL_CTL_ADD, epoll_fd, EPOLLIN));
    stage_note(stage, "no file", watch(stage, epoll_fd, EPOLL_CTL_ADD, 4000, EPOLLIN));
    stage_push(stage, "news");
    stage_wait(stage, fd, EPOLLIN);
    note_wait(stage, epoll_fd, false);
    watch(stage, epoll_fd, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLRDHUP | EPOLLONESHOT);
    stage_note_events(stage, "epoll itself", stage_events(stage, epoll_fd));
    note_wait(stage, epoll_fd, true);
    note_wait(stage, epoll_fd, false);
    stage_reset(stage);
    stage_wait(stage, fd, EPOLLRDHUP);
    note_wait(stage, epoll_fd, false);
    watch(stage, epoll_fd, EPOLL_CTL_MOD, fd, EPOLLONESHOT);
    note_wait(stage, epoll_fd, true);
    watch(stage, epoll_fd, EPOLL_CTL_MOD, fd, EPOLLIN);
    note_wait(stage, epoll_fd, true);
    note_wait(stage, epoll_fd, true);
    stage_note(stage, "del", watch(stage, epoll_fd, EPOLL_CTL_DEL, fd, 0));
    note_wait(stage, epoll_fd, false);
    stage->os->close(fd);
    stage->os->close(epoll_fd);
}

Test(world_linux, watches_once_as_linux)
{
    cr_expect(stage_play(watch_once));
}

static void steal_watched(struct stage *stage)
{
    int epoll_fd = stage->os->epoll_create(), fd;
    uint64_t cookie;

    stage_peer(stage, STAGE_TCP, STAGE_ECHO);
    fd = stage_dial(stage, STAGE_TCP);
    cookie = stage_cookie(stage, fd);
    watch(stage, epoll_fd, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT);
    note_wait(stage, epoll_fd, true);
    stage_foreign_replace(stage, fd);
    note_wait(stage, epoll_fd, false);
    stage_note(stage, "same", cookie == stage_cookie(stage, fd));
    stage_note(stage, "mod", watch(stage, epoll_fd, EPOLL_CTL_MOD, fd, EPOLLIN));
    stage_note(stage, "del", watch(stage, epoll_fd, EPOLL_CTL_DEL, fd, 0));
    note_recv(stage, fd, MSG_PEEK);
    stage_foreign_close(stage, fd);
    stage_note(stage, "mod", watch(stage, epoll_fd, EPOLL_CTL_MOD, fd, EPOLLIN));
    stage->os->close(epoll_fd);
}

/* A child that inherited the socket keeps its entry in the set alive, under a number that is
 * somebody else's by then. */
static void hold_watched(struct stage *stage)
{
    int epoll_fd = stage->os->epoll_create(), fd;

    stage_peer(stage, STAGE_TCP, STAGE_ECHO);
    fd = stage_dial(stage, STAGE_TCP);
    watch(stage, epoll_fd, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLONESHOT);
    stage_foreign_hold(stage, fd);
    stage->os->close(fd);
    stage_note(stage, "number", stage->os->eventfd_create() == fd);
    note_wait(stage, epoll_fd, true);
    note_wait(stage, epoll_fd, false);
    stage_note(stage, "del", watch(stage, epoll_fd, EPOLL_CTL_DEL, fd, 0));
    stage->os->close(fd);
    stage->os->close(epoll_fd);
}

static void replace_epoll(struct stage *stage)
{
    int epoll_fd = stage->os->epoll_create(), fd = stage_socket(stage, STAGE_TCP);

    watch(stage, epoll_fd, EPOLL_CTL_ADD, fd, EPOLLONESHOT);
    stage_foreign_replace(stage, epoll_fd);
    stage_note(stage, "mod", watch(stage, epoll_fd, EPOLL_CTL_MOD, fd, EPOLLIN));
    stage_note(stage, "wait", stage->os->epoll_wait(epoll_fd, &(struct epoll_event){ 0 }, 1, 0));
    stage_foreign_close(stage, epoll_fd);
    stage_note(stage, "wait", stage->os->epoll_wait(epoll_fd, &(struct epoll_event){ 0 }, 1, 0));
    stage->os->close(fd);
}

Test(world_linux, stolen_and_inherited_numbers_are_those_of_linux)
{
    cr_expect(stage_play(steal_watched));
    cr_expect(stage_play(hold_watched));
    cr_expect(stage_play(replace_epoll));
}

static void count_and_time(struct stage *stage)
{
    int counter = stage->os->eventfd_create(), timer = stage->os->timerfd_create();
    int epoll_fd = stage->os->epoll_create();

    watch(stage, epoll_fd, EPOLL_CTL_ADD, counter, EPOLLIN);
    watch(stage, epoll_fd, EPOLL_CTL_ADD, timer, EPOLLIN);
    note_wait(stage, epoll_fd, false);
    stage->os->eventfd_add(counter);
    stage_note(stage, "add", stage->os->eventfd_add(counter));
    note_wait(stage, epoll_fd, true);
    note_wait(stage, epoll_fd, true);
    watch(stage, epoll_fd, EPOLL_CTL_DEL, counter, 0);
    note_wait(stage, epoll_fd, false);
    stage_note(stage, "arm", stage->os->timerfd_arm(timer, 1));
    note_wait(stage, epoll_fd, true);
    note_wait(stage, epoll_fd, true);
    stage->os->timerfd_arm(timer, PL_NEVER);
    note_wait(stage, epoll_fd, false);
    stage->os->timerfd_arm(timer, stage->os->now_ns() + 20 * PL_MS);
    note_wait(stage, epoll_fd, true);
    stage->os->timerfd_arm(timer, PL_NEVER);
    note_wait(stage, epoll_fd, false);
    stage->os->close(counter);
    stage->os->close(timer);
    stage->os->close(epoll_fd);
}

Test(world_linux, counts_and_times_as_linux)
{
    cr_expect(stage_play(count_and_time));
}

static void tell_edges(struct stage *stage)
{
    int counter = stage->os->eventfd_create(), epoll_fd = stage->os->epoll_create();
    int outer = stage->os->epoll_create();

    stage->os->eventfd_add(counter);
    watch(stage, epoll_fd, EPOLL_CTL_ADD, counter, EPOLLIN | EPOLLET);
    watch(stage, outer, EPOLL_CTL_ADD, epoll_fd, EPOLLIN);
    for (int i = 0; i < 2; i++) {
        note_wait(stage, outer, true);
        note_wait(stage, epoll_fd, true);
        note_wait(stage, epoll_fd, false);
        note_wait(stage, outer, false);
        stage_note(stage, "add", stage->os->eventfd_add(counter));
        stage_note(stage, "add", stage->os->eventfd_add(counter));
    }
    stage->os->close(counter);
    stage->os->close(epoll_fd);
    stage->os->close(outer);
}

Test(world_linux, edges_of_a_counter_are_told_as_linux_does)
{
    cr_expect(stage_play(tell_edges));
}

static void set_options(struct stage *stage)
{
    int tcp = stage_socket(stage, STAGE_TCP), local = stage_socket(stage, STAGE_UNIX), on = 1,
        got = 0;
    struct timeval wait = { .tv_usec = 1000000 };
    socklen_t size = sizeof(got);
    const struct pl_os *os = stage->os;

    stage_note(stage, "nodelay", os->setsockopt(tcp, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
    os->getsockopt(tcp, IPPROTO_TCP, TCP_NODELAY, &got, &size);
    stage_note(stage, "is", got);
    stage_note(stage, "short", os->setsockopt(tcp, IPPROTO_TCP, TCP_NODELAY, &on, 1));
    stage_note(stage, "unix", os->setsockopt(local, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
    stage_note(stage, "v6", os->setsockopt(tcp, IPPROTO_IPV6, IPV6_TCLASS, &on, sizeof(on)));
    stage_note(stage, "unknown", os->setsockopt(tcp, IPPROTO_TCP, 4711, &on, sizeof(on)));
    stage_note(stage, "wait", os->setsockopt(tcp, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)));
    wait = (struct timeval){ .tv_usec = 20000 };
    stage_note(stage, "wait", os->setsockopt(tcp, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)));
    os->close(tcp);
    os->close(local);
    stage_peer(stage, STAGE_TCP, STAGE_ECHO);
    tcp = stage_dial(stage, STAGE_TCP);
    os->setsockopt(tcp, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    stage_note(stage, "recv", os->recv(tcp, &got, sizeof(got), 0));
    os->close(tcp);
}

Test(world_linux, keeps_options_as_linux)
{
    cr_expect(stage_play(set_options));
}
