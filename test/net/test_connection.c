/* test_connection.c: a connection knows its own socket and leaves every other one alone, whatever
 * number it stands under. */
#include "net/connection.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "support/tests.h"

static struct pool_mux *mux;
static struct pl_os os;
static struct pl_connection *connection;
static int far; /* the other end */

/* A connection whose socket is one end of a pair; the mux watches it, as from birth on. */
static struct pl_connection *connected(int *other)
{
    struct pl_connection *made = pl_connection_take();
    int pair[2];

    cr_assert_not_null(made);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    made->fd = pair[0];
    made->mux = mux;
    *other = pair[1];
    cr_assert_eq(pl_connection_remember(made), 0);
    cr_assert(pl_fd_table_set(made->fd, made));
    cr_assert_eq(pl_mux_add(mux, made->fd, EPOLLONESHOT,
                            pl_mux_data(PL_WATCH_CONNECTION, made->node.index, made->birth)),
                 POOL_OK);
    return made;
}

static void begin(void)
{
    os = pl_os_real;
    pl_os_replace(&os);
    cr_assert_eq(pool_mux_create(&mux), POOL_OK);
    connection = connected(&far);
}

TestSuite(connection, .init = begin);

/* Other code of the program: closes our number by mistake and connects a socket of its own, which
 * gets the number. Answers that one's other end. */
static int steal(int fd)
{
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_eq(dup2(pair[0], fd), fd);
    close(pair[0]);
    return pair[1];
}

static void end_word(struct pl_connection *ended)
{
    pl_word_move(&ended->word, pl_word_with(ended->word, PL_CLOSING));
    pl_connection_give(ended);
}

/* ---- slots */

Test(connection, a_taken_slot_is_blank_opening_and_has_a_new_serial_and_birth)
{
    uint64_t serial = pl_word_serial(connection->word);
    uint32_t birth = connection->birth, index = connection->node.index;

    cr_expect_eq(pl_word_state(connection->word), PL_OPENING);
    cr_expect_eq(pl_connection_at(index), connection);
    connection->uses = 7;
    connection->doom = PL_DOOM_STOLEN;
    connection->lease.marks = PL_MARK_DIRT;
    connection->is_armed = true;
    pl_connection_close_fd(connection, mux);
    end_word(connection);
    cr_expect_eq(pl_word_state(connection->word), PL_FREE);
    for (struct pl_connection *next = NULL; next != connection;) {
        next = pl_connection_take();
        cr_assert_not_null(next);
    }
    cr_expect_eq(connection->node.index, index);
    cr_expect_gt(pl_word_serial(connection->word), serial);
    cr_expect_gt(connection->birth, birth);
    cr_expect_eq(connection->fd, -1);
    cr_expect(!connection->uses && !connection->doom && !connection->lease.marks);
    cr_expect_not(connection->is_armed);
}

static void give_back_a_pinned_one(void)
{
    connection->word = pl_word_with(connection->word, PL_CLOSING) + PL_PIN;
    pl_connection_give(connection);
}

Test(connection, a_slot_given_back_while_it_is_pinned_ends_the_process)
{
    cr_expect(aborts_saying("invariant broken: !(word & (PL_LISTED | PL_PIN_MASK))",
                            give_back_a_pinned_one));
}

Test(connection, a_slot_whose_serials_are_used_up_is_never_taken_again)
{
    pl_connection_close_fd(connection, mux);
    connection->word = (PL_SERIAL_LAST - 4) * PL_SERIAL;
    connection->word = pl_word_with(connection->word, PL_CLOSING);
    pl_connection_give(connection);
    for (unsigned i = 0; i < 1000; i++)
        cr_expect_neq(pl_connection_take(), connection);
}

Test(connection, a_handle_names_the_slot_and_the_serial)
{
    uint64_t word = pl_word_handed(connection->word, PL_LENT);
    struct pool_conn handle = pl_connection_handle(connection, word);

    cr_expect_eq(pl_connection_of(handle.slot), connection);
    cr_expect_eq(handle.serial, pl_word_serial(word));
}

/* ---- identity */

Test(connection, its_number_is_ours_until_another_socket_stands_there)
{
    cr_expect(pl_connection_is_ours(connection));
    close(connection->fd);
    cr_expect_not(pl_connection_is_ours(connection), "closed by somebody else");
    dup2(STDERR_FILENO, connection->fd);
    cr_expect_not(pl_connection_is_ours(connection), "a file, a terminal, a pipe");
    steal(connection->fd);
    cr_expect_not(pl_connection_is_ours(connection), "another socket");
    connection->fd = -1;
    cr_expect_not(pl_connection_is_ours(connection), "none");
}

Test(connection, a_copy_of_our_socket_under_our_number_is_still_ours)
{
    int copy = dup(connection->fd);

    close(connection->fd);
    dup2(copy, connection->fd);
    cr_expect(pl_connection_is_ours(connection));
}

Test(connection, closing_closes_our_own_socket_and_forgets_its_number)
{
    int fd = connection->fd;

    pl_connection_close_fd(connection, mux);
    cr_expect_eq(connection->fd, -1);
    cr_expect_eq(listen_to(far, 1000), HEARD_END);
    cr_expect_null(pl_fd_table_get(fd));
    pl_connection_close_fd(connection, mux);
    pl_connection_shut(connection);
}

Test(connection, neither_closing_nor_shutting_down_touches_a_foreign_socket)
{
    int fd = connection->fd, foreign = steal(fd);

    cr_expect_eq(listen_to(far, 1000), HEARD_END, "ours ended when it was stolen");
    pl_connection_shut(connection);
    cr_expect_eq(listen_to(foreign, 20), HEARD_NOTHING);
    pl_connection_close_fd(connection, mux);
    cr_expect_eq(connection->fd, -1);
    cr_expect_eq(listen_to(foreign, 20), HEARD_NOTHING);
    cr_expect_eq(send(fd, "x", 1, MSG_NOSIGNAL), 1, "it is as open as before");
    cr_expect_eq(listen_to(foreign, 1000), HEARD_BYTES);
}

Test(connection, what_the_program_says_is_stolen_is_not_closed_even_if_it_is_ours)
{
    int fd = connection->fd;

    connection->doom = PL_DOOM_STOLEN;
    pl_connection_close_fd(connection, mux);
    cr_expect_eq(connection->fd, -1);
    cr_expect_eq(send(fd, "x", 1, MSG_NOSIGNAL), 1);
    cr_expect_eq(listen_to(far, 1000), HEARD_BYTES);
}

static struct calls {
    unsigned closes, dels, order, del_at, close_at;
} calls;

static int interrupted_close(int fd)
{
    calls.closes++;
    calls.close_at = ++calls.order;
    pl_os_real.close(fd);
    return -EINTR;
}

static int counted_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    calls.dels += operation == EPOLL_CTL_DEL;
    calls.del_at = ++calls.order;
    return pl_os_real.epoll_ctl(epoll_fd, operation, fd, event);
}

Test(connection, a_close_that_a_signal_interrupts_is_not_repeated)
{
    os.close = interrupted_close;
    pl_connection_close_fd(connection, mux);
    pl_connection_close_fd(connection, mux);
    cr_expect_eq(calls.closes, 1);
}

Test(connection, the_watch_ends_before_the_close)
{
    os.close = interrupted_close;
    os.epoll_ctl = counted_ctl;
    pl_connection_close_fd(connection, mux);
    cr_expect_eq(calls.dels, 1);
    cr_expect_lt(calls.del_at, calls.close_at);
}

Test(connection, shutting_down_is_seen_at_both_ends)
{
    pl_connection_shut(connection);
    cr_expect_eq(listen_to(far, 1000), HEARD_END);
    cr_expect_eq(listen_to(connection->fd, 1000), HEARD_END);
}

/* ---- looking and watching */

static unsigned interruptions;

static ssize_t interrupted_recv(int fd, void *buffer, size_t size, int flags)
{
    return interruptions-- ? -EINTR : pl_os_real.recv(fd, buffer, size, flags);
}

Test(connection, a_look_tells_healthy_unasked_data_and_ended_apart_and_takes_nothing)
{
    cr_expect_eq(pl_connection_peek(connection), PL_HEALTHY);
    os.recv = interrupted_recv;
    interruptions = 3;
    cr_expect_eq(pl_connection_peek(connection), PL_HEALTHY);
    os.recv = pl_os_real.recv;
    cr_assert_eq(send(far, "x", 1, 0), 1);
    cr_expect_eq(pl_connection_peek(connection), PL_UNASKED_DATA);
    cr_expect_eq(pl_connection_peek(connection), PL_UNASKED_DATA);
    close(far);
    cr_expect_eq(pl_connection_peek(connection), PL_UNASKED_DATA, "data before the end");
    cr_assert_eq(recv(connection->fd, &far, 1, 0), 1);
    cr_expect_eq(pl_connection_peek(connection), PL_ENDED);
    close(connection->fd);
    cr_expect_eq(pl_connection_peek(connection), PL_ENDED);
}

static uint32_t heard_index, heard_birth;
static unsigned heard;

static void on_event(struct pool_mux *of, uint32_t index, uint32_t birth, uint32_t events)
{
    (void)of, (void)events;
    heard++;
    heard_index = index;
    heard_birth = birth;
}

Test(connection, an_armed_one_is_heard_once_and_a_disarmed_one_never)
{
    atomic_store(&mux->on_watch[PL_WATCH_CONNECTION], on_event);
    cr_assert_eq(send(far, "x", 1, 0), 1);
    cr_expect_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect_eq(heard, 0, "watched from birth, but not armed");
    cr_expect(pl_connection_arm(connection, mux, EPOLLIN));
    cr_expect_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect_eq(heard, 1);
    cr_expect_eq(heard_index, connection->node.index);
    cr_expect_eq(heard_birth, connection->birth);
    cr_expect(pl_connection_arm(connection, mux, EPOLLIN));
    cr_expect(pl_connection_arm(connection, mux, 0));
    cr_expect_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect_eq(heard, 1);
}

Test(connection, arming_a_number_that_is_not_ours_any_more_fails)
{
    int fd = connection->fd;

    steal(fd);
    cr_expect_not(pl_connection_arm(connection, mux, EPOLLIN), "somebody else's socket");
    close(fd);
    cr_expect_not(pl_connection_arm(connection, mux, EPOLLIN), "nobody's");
}

Test(connection, arming_a_number_that_a_later_connection_has_fails_and_leaves_that_ones_watch)
{
    struct pl_connection *later;
    int other_far;

    atomic_store(&mux->on_watch[PL_WATCH_CONNECTION], on_event);
    close(connection->fd);
    later = connected(&other_far);
    cr_assert_eq(later->fd, connection->fd);
    cr_expect(pl_connection_arm(later, mux, EPOLLIN));
    cr_expect_not(pl_connection_arm(connection, mux, 0));
    cr_assert_eq(send(other_far, "x", 1, 0), 1);
    cr_expect_eq(pool_mux_dispatch(mux, 0), POOL_OK);
    cr_expect_eq(heard, 1);
    cr_expect_eq(heard_index, later->node.index);
}

/* ---- the table of numbers */

Test(connection, a_number_is_found_from_birth_to_close_and_no_other_is)
{
    static const int never[] = { -1, INT32_MIN, INT32_MAX, 1 << 22, 5000 };

    cr_expect_eq(pl_fd_table_get(connection->fd), connection);
    for (size_t i = 0; i < PL_COUNT(never); i++)
        cr_expect_null(pl_fd_table_get(never[i]), "%d", never[i]);
    cr_expect(pl_fd_table_set(4000000, connection));
    cr_expect_eq(pl_fd_table_get(4000000), connection);
    pl_fd_table_clear(4000000, connection);
    cr_expect_null(pl_fd_table_get(4000000));
    cr_expect(pl_fd_table_set(INT32_MAX, connection), "beyond the table: no failure");
    pl_fd_table_clear(INT32_MAX, connection);
    pl_fd_table_clear(-1, connection);
}

Test(connection, clearing_a_number_leaves_its_next_owner_in_the_table)
{
    struct pl_connection *later = pl_connection_take();

    cr_expect(pl_fd_table_set(connection->fd, later));
    pl_fd_table_clear(connection->fd, connection);
    cr_expect_eq(pl_fd_table_get(connection->fd), later);
}

Test(connection, who_is_still_there_when_its_number_is_given_away_has_lost_it)
{
    struct pl_connection *later;
    int other_far;

    close(connection->fd);
    later = connected(&other_far);
    cr_assert_eq(later->fd, connection->fd);
    cr_expect_eq(connection->doom, PL_DOOM_STOLEN);
    cr_expect_eq(later->robbed, connection->node.index + 1);
    cr_expect_eq(later->doom, PL_DOOM_NONE);
    pl_connection_close_fd(connection, mux);
    cr_expect(pl_connection_is_ours(later));
    cr_expect_eq(pl_fd_table_get(later->fd), later);
}

Test(connection, a_number_that_was_closed_robs_nobody)
{
    struct pl_connection *later;
    int other_far, fd = connection->fd;

    pl_connection_close_fd(connection, mux);
    later = connected(&other_far);
    cr_assert_eq(later->fd, fd);
    cr_expect_eq(connection->doom, PL_DOOM_NONE);
    cr_expect_eq(later->robbed, 0);
}

Test(connection, a_socket_that_moves_was_not_lost_and_one_that_was_lost_robs_nobody_by_moving)
{
    struct pl_connection *to = pl_connection_take(), *later, *last = pl_connection_take();
    int other_far, fd = connection->fd;

    pl_connection_move_socket(to, connection);
    cr_expect_eq(connection->doom, PL_DOOM_NONE);
    cr_expect_eq(to->doom, PL_DOOM_NONE);
    cr_expect_eq(to->robbed, 0);
    cr_expect_eq(pl_fd_table_get(fd), to);
    close(fd);
    later = connected(&other_far);
    cr_assert_eq(later->fd, fd);
    pl_connection_move_socket(last, to);
    cr_expect_eq(last->doom, PL_DOOM_STOLEN);
    cr_expect_eq(later->doom, PL_DOOM_NONE);
    cr_expect_eq(pl_fd_table_get(fd), later);
}

static void *no_map(size_t size)
{
    (void)size;
    return NULL;
}

Test(connection, without_memory_a_number_is_not_noted_and_that_is_told)
{
    os.map = no_map;
    cr_expect_not(pl_fd_table_set(4000000, connection));
    cr_expect_null(pl_fd_table_get(4000000));
    cr_expect(pl_fd_table_set(connection->fd, connection), "where there is room already");
}
