/* stream.c: how a borrower waits. Connected sockets are in blocking mode, so one recv is one system
 * call; the kernel's own receive timeout is late by design, so it is set to a bucket that surely
 * ends before the deadline, and ppoll waits the exact rest. Sends never block in send: what does
 * not fit waits in ppoll.
 */
#include "net/stream.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/time.h>

#include "base/os.h"
#include "net/tls.h"
#include "net/transport.h"

#define EXACT_NS (50 * PL_MS) /* with less time left than this only ppoll is exact enough */
#define BUCKET_MAX_MS (1u << 20)
#define OUT_OF_TIME (-ETIME) /* ours; the kernel's ETIMEDOUT means that the peer fell silent */
#define INPUT_FIRST 2048u
#define PIECES 64

uint64_t pl_stream_deadline(struct pl_connection *connection, uint64_t now_ns)
{
    struct pl_lease *lease = &connection->lease;
    uint64_t deadline_ns = pl_get(lease->deadline_ns), start_ns, none = 0;

    if (deadline_ns)
        return deadline_ns;
    /* The coarse clock is a step behind, and more where ticks come late: rather late than early. */
    start_ns = lease->start_ns + 2 * pl_os->coarse_step_ns();
    if (start_ns > now_ns)
        start_ns = now_ns;
    deadline_ns =
        lease->timeout_ms == POOL_NONE ? PL_NEVER : pl_after(start_ns, lease->timeout_ms * PL_MS);
    /* Another thread may set one for good meanwhile. */
    if (!atomic_compare_exchange_strong(&lease->deadline_ns, &none, deadline_ns))
        deadline_ns = none;
    return deadline_ns;
}

uint32_t pl_stream_bucket_ms(uint64_t left_ns, uint32_t armed_ms)
{
    uint64_t bucket_ms = BUCKET_MAX_MS, step_ns = PL_MS / 100;

    while (bucket_ms > 1 && bucket_ms * 115 * step_ns + 10 * PL_MS > left_ns)
        bucket_ms /= 2;
    if (armed_ms && armed_ms <= bucket_ms && armed_ms >= bucket_ms / 8)
        return 0;
    return (uint32_t)bucket_ms;
}

/* The earlier one of the loan's deadline and of the call's own, which is set when the call begins
 * (*own_ns is 0) and stays for all that it does: a peer that drips does not stretch it. */
static uint64_t call_deadline(struct pl_connection *connection, uint32_t own_ms, uint64_t now_ns,
                              uint64_t *own_ns)
{
    uint64_t whole_ns = pl_stream_deadline(connection, now_ns);
    uint32_t each_ms = pl_get(connection->each_ms);

    if (own_ms == POOL_NONE)
        own_ms = each_ms;
    if (!*own_ns)
        *own_ns = own_ms == POOL_NONE ? PL_NEVER : pl_after(now_ns, own_ms * PL_MS);
    return pl_earlier(*own_ns, whole_ns);
}

/* A detached connection knows no mux, but a batch of any must not be held up. */
bool pl_stream_may_wait(const struct pl_connection *connection)
{
    if (connection->mux)
        return !pl_mux_is_here(connection->mux);
    return !pl_thread_current || !pl_thread_current->dispatching;
}

/* While somebody waits the number may be closed and become another socket's: the wait goes on with
 * ours, and what comes after it would take that one's bytes, or send it some. */
static ssize_t wait_for(struct pl_connection *connection, short events, uint64_t deadline_ns)
{
    struct pollfd polled = { .fd = connection->fd, .events = events };
    int ready = pl_os->poll_until(&polled, 1, deadline_ns);

    if (ready == 0)
        return OUT_OF_TIME;
    if (ready < 0 && ready != -EINTR)
        return ready;
    return pl_connection_is_ours(connection) ? 0 : -EBADF;
}

/* False: the number is not ours any more, and nothing was set. */
static bool set_receive_timeout(struct pl_connection *connection, uint64_t left_ns)
{
    uint32_t bucket_ms = pl_stream_bucket_ms(left_ns, pl_get(connection->armed_ms));
    struct timeval wait = { .tv_sec = bucket_ms / 1000,
                            .tv_usec = (suseconds_t)(bucket_ms % 1000) * 1000 };

    if (!bucket_ms)
        return true;
    if (!pl_connection_is_ours(connection))
        return false;
    if (pl_os->setsockopt(connection->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)))
        bucket_ms = 0;                  /* the kernel keeps another one, which may be too long */
    pl_set(connection->armed_ms, bucket_ms);
    return true;
}

/* The socket of a secured connection is waited for without anything being taken from it. 0: it is
 * worth another look. Whose the number is need not be looked at after a wait within one step of the
 * coarse clock, as at a borrow. */
static ssize_t wait_secured(struct pl_connection *connection, short wants, uint64_t deadline_ns)
{
    uint64_t now_ns = pl_os->now_ns(), start_ns = pl_os->coarse_ns();
    ssize_t got;
    char byte;

    if (wants != POLLIN || deadline_ns <= now_ns || deadline_ns - now_ns < EXACT_NS)
        return wait_for(connection, wants, deadline_ns);
    if (!set_receive_timeout(connection, deadline_ns - now_ns))
        return -EBADF;
    if (!pl_get(connection->armed_ms))
        return wait_for(connection, wants, deadline_ns);
    got = pl_os->recv(connection->fd, &byte, 1, MSG_PEEK);
    if (got < 0 && got != -EAGAIN && got != -EINTR)
        return got;
    if (pl_os->coarse_ns() == start_ns && !pl_stream_doom(connection))
        return 0;
    return pl_connection_is_ours(connection) ? 0 : -EBADF;
}

/* One moment at which bytes are waited for. */
struct patience {
    uint64_t now_ns, deadline_ns;
    bool may_wait;
};

static ssize_t receive_secured(struct pl_connection *connection, void *buffer, size_t size,
                               const struct patience *patience)
{
    bool is_due = pl_get(connection->lease.marks) & PL_MARK_AWAITS;
    ssize_t got = -EAGAIN;
    short wants = POLLIN;

    /* An answer that was just asked for has hardly come: one look less. */
    if (!is_due || !patience->may_wait || patience->deadline_ns <= patience->now_ns ||
        pl_transport_has_more(connection))
        got = pl_transport_recv(connection, buffer, size, &wants);
    while (got == -EAGAIN && patience->may_wait) {
        got = wait_secured(connection, wants, patience->deadline_ns);
        if (got < 0)
            return got;
        got = pl_transport_recv(connection, buffer, size, &wants);
        if (got == -EAGAIN && pl_os->now_ns() >= patience->deadline_ns)
            return OUT_OF_TIME;         /* a peer that drips, or says nothing at length */
    }
    return got;
}

static ssize_t receive_plain(struct pl_connection *connection, void *buffer, size_t size,
                             const struct patience *patience)
{
    uint64_t now_ns = patience->now_ns, deadline_ns = patience->deadline_ns;
    ssize_t got = -EAGAIN;

    if (patience->may_wait && deadline_ns > now_ns && deadline_ns - now_ns >= EXACT_NS) {
        if (!set_receive_timeout(connection, deadline_ns - now_ns))
            return -EBADF;
        if (pl_get(connection->armed_ms))
            got = pl_os->recv(connection->fd, buffer, size, 0);
        if ((got == -EAGAIN || got == -EINTR) && !pl_connection_is_ours(connection))
            return -EBADF;
    }
    while (got == -EAGAIN || got == -EINTR) {
        got = pl_os->recv(connection->fd, buffer, size, MSG_DONTWAIT);
        if ((got != -EAGAIN && got != -EINTR) || !patience->may_wait)
            break;
        got = wait_for(connection, POLLIN, deadline_ns);
        if (got < 0)
            return got;
        got = -EAGAIN;
    }
    return got;
}

/* Waits for at least one byte. > 0: bytes; 0: the peer's end; < 0: negative errno, OUT_OF_TIME. Of
 * a call that receives again and again, only the first one still takes what is there when time is
 * over. */
static ssize_t receive(struct pl_connection *connection, void *buffer, size_t size,
                       uint64_t *own_ns)
{
    uint64_t now_ns = pl_os->now_ns();
    bool is_first = !*own_ns;
    struct patience patience = {
        .now_ns = now_ns,
        .deadline_ns = call_deadline(connection, connection->limits.read_ms, now_ns, own_ns),
        .may_wait = pl_stream_may_wait(connection),
    };
    ssize_t got;

    /* The receive that brought a part may have slept while the number became another socket's. */
    if (!is_first && (pl_stream_doom(connection) || !pl_connection_is_ours(connection)))
        return -EBADF;
    if (!is_first && patience.deadline_ns <= now_ns)
        return OUT_OF_TIME;
    got = PL_UNLIKELY(connection->tls) ? receive_secured(connection, buffer, size, &patience)
                                       : receive_plain(connection, buffer, size, &patience);
    if (got > 0)
        pl_stream_note_received(connection, (size_t)got, now_ns);
    return got;
}

ssize_t pl_stream_take(struct pl_connection *connection, void *buffer, size_t size,
                       uint64_t deadline_ns)
{
    struct patience patience = { .now_ns = pl_os->now_ns(),
                                 .deadline_ns = deadline_ns,
                                 .may_wait = true };

    if (PL_UNLIKELY(connection->tls))
        return receive_secured(connection, buffer, size, &patience);
    return receive_plain(connection, buffer, size, &patience);
}

/* ---- sending */

/* Leaves out the first `sent` bytes. */
static void advance(struct iovec *pieces, int *first, int count, size_t sent)
{
    while (*first < count && sent >= pieces[*first].iov_len) {
        sent -= pieces[*first].iov_len;
        ++*first;
    }
    if (*first < count) {
        pieces[*first].iov_base = (char *)pieces[*first].iov_base + sent;
        pieces[*first].iov_len -= sent;
    }
}

static enum pool_status send_pieces(struct pl_connection *connection, struct iovec *pieces,
                                    int count, uint64_t *own_ns)
{
    uint64_t now_ns = pl_os->now_ns();
    bool is_first = !*own_ns, may_wait = pl_stream_may_wait(connection), has_sent = false;
    uint64_t deadline_ns = call_deadline(connection, connection->limits.write_ms, now_ns, own_ns);
    ssize_t sent;
    short wants;
    int first = 0;

    advance(pieces, &first, count, 0); /* empty pieces would look like nothing sent */
    for (; first < count; is_first = false) {
        if (!is_first && pl_os->now_ns() >= deadline_ns)
            return pl_stream_fail_errno(connection, ETIME);
        sent = pl_transport_send(connection, pieces + first, count - first, &wants);
        if (sent >= 0) {
            pl_stream_note_sent(connection, (size_t)sent, now_ns);
            has_sent = true;
            advance(pieces, &first, count, (size_t)sent);
            continue;
        }
        if (sent == -EAGAIN && may_wait)
            sent = wait_for(connection, wants, deadline_ns);
        if (sent == -EAGAIN && has_sent)
            return pl_stream_fail(connection, POOL_E_WOULD_BLOCK, EAGAIN); /* half of it left */
        if (sent < 0 && sent != -EINTR)
            return pl_stream_fail_errno(connection, (int)-sent);
    }
    return POOL_OK;
}

enum pool_status pl_stream_send(struct pl_connection *connection, const struct iovec *pieces,
                                int count)
{
    const struct iovec *all = pieces;
    enum pool_status status = POOL_OK;
    struct iovec some[PIECES];
    uint64_t own_ns = 0;

    if (pl_stream_doom(connection))
        return pl_stream_fail_errno(connection, EBADF);
    while (count > 0 && !status) {
        int now = count < PIECES ? count : PIECES;

        memcpy(some, pieces, (size_t)now * sizeof(*some));
        status = send_pieces(connection, some, now, &own_ns);
        if (status == POOL_E_WOULD_BLOCK && pieces != all)
            pl_stream_fail(connection, status, EAGAIN); /* earlier pieces are on the wire */
        pieces += now;
        count -= now;
    }
    return status;
}

/* Nothing could be moved at once. Whoever only tries learns, too, that time is over. */
static enum pool_status not_now(struct pl_connection *connection)
{
    uint64_t now_ns = pl_os->now_ns();

    return pl_stream_fail_errno(connection,
                                pl_stream_deadline(connection, now_ns) <= now_ns ? ETIME : EAGAIN);
}

enum pool_status pl_stream_try_send(struct pl_connection *connection, const void *data, size_t size,
                                    size_t *sent)
{
    struct iovec piece = { (void *)(uintptr_t)data, size };
    ssize_t done;
    short wants;

    *sent = 0;
    if (pl_stream_doom(connection))
        return pl_stream_fail_errno(connection, EBADF);
    if (!size)
        return POOL_OK;
    do
        done = pl_transport_send(connection, &piece, 1, &wants);
    while (done == -EINTR);
    if (done == -EAGAIN)
        return not_now(connection);
    if (done < 0)
        return pl_stream_fail_errno(connection, (int)-done);
    pl_stream_note_sent(connection, (size_t)done, pl_os->coarse_ns());
    *sent = (size_t)done;
    return POOL_OK;
}

/* ---- from clear to TLS */

enum pool_status pl_stream_secure(struct pl_connection *connection, uint64_t until_ns)
{
    uint64_t deadline_ns = pl_stream_deadline(connection, pl_os->now_ns());
    int error = pl_stream_doom(connection) ? EBADF : EAGAIN;
    ssize_t ready;
    short wants;

    deadline_ns = pl_earlier(deadline_ns, until_ns);
    while (error == EAGAIN) {
        error = -pl_tls_handshake(connection->tls, connection->fd, &wants);
        if (error != EAGAIN)
            break;
        ready =
            pl_stream_may_wait(connection) ? wait_for(connection, wants, deadline_ns) : -EDEADLK;
        if (ready >= 0 && pl_os->now_ns() >= deadline_ns)
            ready = OUT_OF_TIME;
        if (ready < 0)
            error = (int)-ready;
    }
    if (!error)
        return POOL_OK;
    if (error == EDEADLK)
        return pl_stream_fail(connection, POOL_E_WOULD_BLOCK, EAGAIN);
    return pl_stream_fail_securing(connection, error);
}

/* ---- receiving; one operation at a time reads a connection, or what was read ahead would be
 * torn */

enum pool_status pl_stream_begin_reading(struct pl_connection *connection)
{
    if (atomic_fetch_or(&connection->lease.marks, PL_MARK_READING) & PL_MARK_READING)
        return POOL_E_ARGUMENT;
    return pl_stream_doom(connection) ? pl_stream_fail_errno(connection, EBADF) : POOL_OK;
}

static void stop_reading(struct pl_connection *connection, uint32_t set, uint32_t clear)
{
    struct pl_input *input = connection->input;
    bool is_unread = input && input->start < input->end;

    pl_stream_mark(connection, set | (is_unread ? PL_MARK_UNREAD : 0),
         clear | PL_MARK_READING | (is_unread ? 0 : PL_MARK_UNREAD));
}

enum pool_status pl_stream_end_reading(struct pl_connection *connection,
                                       enum pool_status status)
{
    stop_reading(connection, status == POOL_E_WOULD_BLOCK ? PL_MARK_EXPECTS : 0,
                 status ? 0 : PL_MARK_EXPECTS);
    return status;
}

/* Who only tries expects nothing. */
static enum pool_status end_trying(struct pl_connection *connection, enum pool_status status)
{
    stop_reading(connection, 0, status ? 0 : PL_MARK_EXPECTS);
    return status;
}

size_t pl_stream_take_ahead(struct pl_connection *connection, void *buffer, size_t size)
{
    struct pl_input *input = connection->input;
    size_t have = input ? input->end - input->start : 0;

    if (size > have)
        size = have;
    if (size) {
        memcpy(buffer, input->data + input->start, size);
        input->start += size;
        if (input->start == input->end)
            pl_stream_mark(connection, 0, PL_MARK_UNREAD);
    }
    return size;
}

bool pl_stream_put_ahead(struct pl_connection *connection, const void *data, size_t size)
{
    struct pl_input *input;

    if (!size)
        return true;
    input = pl_os->malloc(sizeof(*input) + size);
    if (!input)
        return false;
    *input = (struct pl_input){ .end = size, .capacity = size };
    memcpy(input->data, data, size);
    pl_os->free(connection->input);
    connection->input = input;
    return true;
}

ssize_t pl_stream_receive(struct pl_connection *connection, void *buffer, size_t size,
                          uint64_t *own_ns)
{
    return receive(connection, buffer, size, own_ns);
}

enum pool_status pl_stream_recv(struct pl_connection *connection, void *buffer, size_t size,
                                size_t *got)
{
    enum pool_status status = pl_stream_begin_reading(connection);
    uint64_t own_ns = 0;
    ssize_t received;

    *got = 0;
    if (status == POOL_E_ARGUMENT)
        return status;
    if (!status && size) {
        *got = pl_stream_take_ahead(connection, buffer, size);
        received = *got ? (ssize_t)*got : receive(connection, buffer, size, &own_ns);
        if (received > 0)
            *got = (size_t)received;
        else
            status = received ? pl_stream_fail_errno(connection, (int)-received)
                              : pl_stream_fail_at_end(connection, false);
    }
    return pl_stream_end_reading(connection, status);
}

/* What is there, without waiting, behind what was read ahead. */
static enum pool_status try_receive(struct pl_connection *connection, void *buffer, size_t size,
                                    size_t *got)
{
    ssize_t received;
    short wants;

    *got = pl_stream_take_ahead(connection, buffer, size);
    if (*got || !size)
        return POOL_OK;
    received = pl_transport_recv(connection, buffer, size, &wants);
    if (received == -EAGAIN)
        return not_now(connection);
    if (received <= 0)
        return received ? pl_stream_fail_errno(connection, (int)-received)
                        : pl_stream_fail_at_end(connection, false);
    pl_stream_note_received(connection, (size_t)received, pl_os->coarse_ns());
    *got = (size_t)received;
    return POOL_OK;
}

enum pool_status pl_stream_try_recv(struct pl_connection *connection, void *buffer, size_t size,
                                    size_t *got)
{
    enum pool_status status = pl_stream_begin_reading(connection);

    *got = 0;
    if (status == POOL_E_ARGUMENT)
        return status;
    if (!status)
        status = try_receive(connection, buffer, size, got);
    return end_trying(connection, status);
}

enum pool_status pl_stream_recv_exact(struct pl_connection *connection, void *buffer, size_t size)
{
    enum pool_status status = pl_stream_begin_reading(connection);
    uint64_t own_ns = 0;
    ssize_t received;
    size_t have;

    if (status == POOL_E_ARGUMENT)
        return status;
    have = status ? 0 : pl_stream_take_ahead(connection, buffer, size);
    while (!status && have < size) {
        received = receive(connection, (char *)buffer + have, size - have, &own_ns);
        if (received > 0)
            have += (size_t)received;
        else if (received == -EAGAIN && have)
            status = pl_stream_fail(connection, POOL_E_WOULD_BLOCK, EAGAIN); /* a part is gone */
        else
            status = received ? pl_stream_fail_errno(connection, (int)-received)
                              : pl_stream_fail_at_end(connection, have > 0);
    }
    return pl_stream_end_reading(connection, status);
}

/* Room behind the unread bytes for at least one more; false: no memory. */
static bool make_room(struct pl_connection *connection)
{
    struct pl_input *input = connection->input;
    size_t have = input ? input->end - input->start : 0;
    size_t capacity = input ? input->capacity : 0;

    if (input && input->start) {
        memmove(input->data, input->data + input->start, have);
        input->start = 0;
        input->end = have;
    }
    if (have < capacity)
        return true;
    capacity = capacity ? capacity * 2 : INPUT_FIRST;
    input = pl_os->realloc(input, sizeof(*input) + capacity);
    if (!input)
        return false;
    *input = (struct pl_input){ .end = have, .capacity = capacity };
    connection->input = input;
    return true;
}

static enum pool_status read_ahead(struct pl_connection *connection, uint64_t *own_ns)
{
    struct pl_input *input;
    ssize_t received;

    if (!make_room(connection))
        return pl_stream_fail(connection, POOL_E_MEMORY, ENOMEM);
    input = connection->input;
    received = receive(connection, input->data + input->end, input->capacity - input->end, own_ns);
    if (received > 0) {
        input->end += (size_t)received;
        return POOL_OK;
    }
    return received ? pl_stream_fail_errno(connection, (int)-received)
                    : pl_stream_fail_at_end(connection, input->end > input->start);
}

/* The length of the unread bytes up to and with the delimiter; 0: it is not there yet. The first
 * `seen` need no look. */
static size_t find(const struct pl_input *input, struct pool_bytes delimiter, size_t seen)
{
    const char *unread = input->data + input->start, *found;

    seen = seen >= delimiter.size ? seen - delimiter.size + 1 : 0;
    found = memmem(unread + seen, input->end - input->start - seen, delimiter.data, delimiter.size);
    return found ? (size_t)(found - unread) + delimiter.size : 0;
}

enum pool_status pl_stream_recv_until(struct pl_connection *connection, struct pool_bytes delimiter,
                                      struct pool_bytes *bytes)
{
    enum pool_status status = pl_stream_begin_reading(connection);
    size_t seen = 0, length = 0, max_line = connection->limits.max_line;
    uint64_t own_ns = 0;
    struct pl_input *input;

    if (status == POOL_E_ARGUMENT)
        return status;
    while (!status) {
        input = connection->input;
        length = input ? find(input, delimiter, seen) : 0;
        seen = input ? input->end - input->start : 0;
        if (length || seen >= max_line)
            break;
        status = read_ahead(connection, &own_ns);
    }
    if (!status && (!length || length > max_line))
        status =
            pl_stream_fail_with(connection, pl_failure_because(PL_REASON_LINE, POOL_PHASE_USE, 0));
    if (!status) {
        *bytes = (struct pool_bytes){ input->data + input->start, length };
        input->start += length;
    }
    return pl_stream_end_reading(connection, status);
}

void pl_stream_drop_input(struct pl_connection *connection)
{
    pl_os->free(connection->input);
    connection->input = NULL;
}
