/* ask.c: one exchange through the codec on a connection that the caller has borrowed. See ask.h.
 *
 * Whatever came and is no part of the answer counts as read ahead of it again, so that every other
 * receiving call finds it, and the return sees that something is unread. Pushes alone are taken
 * out, also those that came behind the answer.
 */
#include "pool/ask.h"

#include <string.h>

#include "base/os.h"
#include "net/stream.h"
#include "pool/conn.h"
#include "pool/exchange.h"
#include "pool/push.h"
#include "wire/correlator.h"
#include "wire/out.h"
#include "wire/runner.h"

#define RECEIVE 4096u                   /* room for bytes of which nothing is known yet */
#define KEEP 65536u                     /* a buffer that is larger is not kept */

struct pl_asker {
    struct pl_runner runner;
    struct pl_correlator correlator;    /* of one request at a time */
    struct pl_entry entry;
    void *write_state;
    uint64_t serial;                    /* of the loan that `write_state` belongs to */
    struct pl_buffer out;
    struct pl_buffer whole;             /* an answer that came in several messages */
    bool is_out_of_step;                /* an answer is due that nobody waits for any more */
};

/* One call. */
struct asking {
    struct pl_connection *connection;
    struct pool_conn conn;
    struct pl_asker *asker;
    uint64_t own_ns;                    /* pl_stream_receive()'s */
    size_t early_size;                  /* bytes that were there, in order, before it was sent */
};

/* ---- what is kept */

static void free_asker(struct pl_asker *asker)
{
    pl_correlator_fini(&asker->correlator);
    pl_runner_fini(&asker->runner);
    pl_buffer_fini(&asker->out);
    pl_buffer_fini(&asker->whole);
    pl_os->free(asker->write_state);
    pl_os->free(asker);
}

void pl_ask_forget(struct pl_connection *connection)
{
    pl_stream_drop_input(connection);
    if (!connection->asker)
        return;
    free_asker(connection->asker);
    connection->asker = NULL;
}

static struct pl_asker *make_asker(struct pl_connection *connection)
{
    const struct pl_limits *limits = &connection->limits;
    const struct pool_codec *codec = limits->codec;
    struct pl_asker *asker = pl_zalloc(sizeof(*asker));

    if (!asker)
        return NULL;
    pl_correlator_init(&asker->correlator, codec, &connection->next_key);
    asker->write_state = pl_zalloc(codec->write_state_size ? codec->write_state_size : 1);
    if (asker->write_state && !pl_runner_init(&asker->runner, codec, limits->max_message))
        return asker;
    free_asker(asker);
    return NULL;
}

/* Whoever had the connection meanwhile, a borrower or queries, began with zeros, too. It is not
 * forgotten that an answer is due. */
static void enter_loan(struct asking *asking)
{
    struct pl_asker *asker = asking->asker;

    if (asker->serial == asking->conn.serial)
        return;
    memset(asker->write_state, 0, asking->connection->limits.codec->write_state_size);
    asker->serial = asking->conn.serial;
}

void pl_ask_begin_anew(struct pl_connection *connection)
{
    if (connection->asker)
        connection->asker->serial = 0;
}

static void trim(struct pl_buffer *buffer)
{
    pl_buffer_drop(buffer, pl_buffer_size(buffer));
    if (buffer->capacity > KEEP)
        pl_buffer_fini(buffer);
}

/* ---- what is no part of the answer */

/* What was read ahead is what comes next. */
static enum pool_status take_ahead(struct asking *asking)
{
    const struct pl_input *input = asking->connection->input;
    struct pl_runner *runner = &asking->asker->runner;
    size_t room, size = input ? input->end - input->start : 0;
    void *space = size ? pl_runner_space(runner, size, &room) : NULL;

    if (!size)
        return POOL_OK;
    if (!space)
        return pl_stream_fail(asking->connection, POOL_E_MEMORY, ENOMEM);
    pl_runner_filled(runner, pl_stream_take_ahead(asking->connection, space, size));
    return POOL_OK;
}

/* The other way round. The bytes of an answer, which lie in front of these, stay where they are. */
static enum pool_status put_ahead(struct asking *asking, enum pool_status status)
{
    struct pl_runner *runner = &asking->asker->runner;
    size_t size = pl_buffer_size(&runner->in);
    const char *rest = size ? runner->in.data + runner->in.start : NULL;
    bool is_kept = pl_stream_put_ahead(asking->connection, rest, size);

    pl_runner_reset(runner);
    if (is_kept)
        return status;
    return pl_stream_fail(asking->connection, POOL_E_MEMORY, ENOMEM);
}

static enum pool_status tell_push(struct asking *asking, const struct pool_message *message)
{
    enum pool_status status = pl_push_tell(asking->connection, asking->conn, message);

    return status ? pl_stream_fail(asking->connection, status, 0) : POOL_OK;
}

/* Pushes that have come, up to what is none: that, and half of one, are left. */
static enum pool_status take_pushes(struct asking *asking)
{
    struct pl_runner *runner = &asking->asker->runner;
    enum pool_status status = POOL_OK;
    struct pool_message message;

    while (!status && pl_runner_next(runner, 0, &message) && message.kind == POOL_PUSH) {
        status = tell_push(asking, &message);
        pl_runner_drop(runner);
    }
    return status;
}

/* Before anything is sent nothing but pushes can have come: an answer would be another's. */
static enum pool_status take_what_is_there(struct asking *asking)
{
    struct pl_runner *runner = &asking->asker->runner;
    enum pool_status status = take_ahead(asking);

    if (!status)
        status = take_pushes(asking);
    if (!status && (runner->found || runner->status))
        status = pl_stream_fail(asking->connection,
                                runner->status ? runner->status : POOL_E_PROTOCOL, 0);
    if (!asking->connection->limits.codec->keyed)       /* half of one would be, too */
        asking->early_size = pl_buffer_size(&runner->in);
    return status;
}

/* ---- the request */

/* Turns are the connection's own, and keys those of all connections to its peer: a query whose
 * frame moves here later must not have one that was used here. */
static enum pool_status take_key(struct asking *asking, uint64_t *key)
{
    struct pl_correlator *correlator = &asking->asker->correlator;
    struct pl_connection *connection = asking->connection;
    struct pl_exchange *exchange;
    enum pool_status status;

    pl_correlator_go_on(correlator, &connection->next_key);
    if (!connection->limits.codec->keyed || pl_connection_is_detached(connection))
        return pl_correlator_reserve(correlator, key);
    exchange = pl_exchange_of(connection->peer);
    if (!exchange)
        return POOL_E_MEMORY;
    pthread_mutex_lock(&exchange->lock);
    pl_exchange_renew(exchange);
    connection->next_key = exchange->next_key;
    status = pl_correlator_reserve(correlator, key);
    if (!status)
        pl_correlator_pass(correlator, *key);
    exchange->next_key = connection->next_key;
    pthread_mutex_unlock(&exchange->lock);
    return status;
}

static enum pool_status encode(struct asking *asking, struct pool_bytes request)
{
    struct pl_asker *asker = asking->asker;
    const struct pl_limits *limits = &asking->connection->limits;
    struct pool_out out = { .buffer = &asker->out, .most = limits->max_message };
    struct pl_frame frame = { .kind = POOL_REQUEST, .body = request };
    struct pool_expect expect;
    uint64_t key;
    enum pool_status status = take_key(asking, &key);

    if (status)
        return status;
    frame.key = limits->codec->keyed ? key : 0;
    status = pl_out_encode(&out, limits->codec, asker->write_state, &frame, &expect);
    if (status)
        return status;
    asker->entry = (struct pl_entry){ .hint = expect.hint, .replies = expect.replies };
    if (expect.closes)                  /* as where a reply says so */
        pl_set(asking->connection->expires_ns, 0);
    if (expect.replies)
        pl_correlator_add(&asker->correlator, &asker->entry, key);
    else
        pl_correlator_pass(&asker->correlator, key);
    return POOL_OK;
}

static enum pool_status send_request(struct asking *asking, struct pool_bytes request)
{
    struct pl_asker *asker = asking->asker;
    enum pool_status status = encode(asking, request);
    bool was_due = pl_get(asking->connection->lease.marks) & PL_MARK_AWAITS;
    struct iovec piece;

    if (status)
        return status;
    piece = (struct iovec){ asker->out.data + asker->out.start, pl_buffer_size(&asker->out) };
    status = pl_stream_send(asking->connection, &piece, 1);
    trim(&asker->out);
    if (!status && !asker->entry.replies && !was_due)   /* what was sent before may wait for one */
        pl_stream_mark(asking->connection, 0, PL_MARK_AWAITS);
    return status;
}

/* ---- the answer */

static enum pool_status fail_runner(struct asking *asking)
{
    enum pool_status status = asking->asker->runner.status;

    if (status == POOL_E_CLOSED || status == POOL_E_BROKEN)
        return pl_stream_fail_at_end(asking->connection,
                                     status == POOL_E_BROKEN ||
                                         pl_buffer_size(&asking->asker->whole));
    return pl_stream_fail(asking->connection, status, 0);
}

static enum pool_status receive_more(struct asking *asking)
{
    struct pl_runner *runner = &asking->asker->runner;
    size_t room;
    void *space = pl_runner_space(runner, RECEIVE, &room);
    ssize_t got;

    if (!space)
        return pl_stream_fail(asking->connection, POOL_E_MEMORY, ENOMEM);
    got = pl_stream_receive(asking->connection, space, room, &asking->own_ns);
    if (got < 0)
        return pl_stream_fail_errno(asking->connection, (int)-got);
    if (!got && pl_stream_doom(asking->connection))     /* it is not the peer who ended it */
        return pl_stream_fail_at_end(asking->connection, true);
    if (got)
        pl_runner_filled(runner, (size_t)got);
    else
        pl_runner_end(runner);
    return POOL_OK;
}

static enum pool_status find_message(struct asking *asking, struct pool_message *message)
{
    struct pl_asker *asker = asking->asker;
    enum pool_status status = POOL_OK;

    while (!pl_runner_next(&asker->runner, pl_correlator_hint(&asker->correlator), message)) {
        if (asker->runner.status)
            return fail_runner(asking);
        status = receive_more(asking);
        if (status)
            return status;
    }
    return POOL_OK;
}

/* The last of it, or a part, to the others that came before. */
static enum pool_status gather(struct asking *asking, struct pool_bytes body)
{
    struct pl_buffer *whole = &asking->asker->whole;

    if (body.size > asking->connection->limits.max_message - pl_buffer_size(whole))
        return pl_stream_fail(asking->connection, POOL_E_PROTOCOL, EMSGSIZE);
    if (!pl_buffer_append(whole, body.data, body.size))
        return pl_stream_fail(asking->connection, POOL_E_MEMORY, ENOMEM);
    return POOL_OK;
}

/* *is_whole: *reply is all of it. */
static enum pool_status take_reply(struct asking *asking, const struct pool_message *message,
                                   struct pool_bytes *reply, bool *is_whole)
{
    struct pl_asker *asker = asking->asker;
    struct pl_entry *entry = pl_correlator_find(&asker->correlator, message->key);
    enum pool_status status = POOL_OK;

    if (!entry || asking->early_size)
        return pl_stream_fail(asking->connection, POOL_E_PROTOCOL, 0);
    *is_whole =
        message->kind == POOL_REPLY && pl_correlator_count_off(&asker->correlator, entry);
    *reply = message->body;
    if (!*is_whole || pl_buffer_size(&asker->whole)) {
        status = gather(asking, message->body);
        *reply = (struct pool_bytes){ asker->whole.data + asker->whole.start,
                                      pl_buffer_size(&asker->whole) };
    }
    if (message->closes)                /* whoever has it may go on, and nobody after him */
        pl_set(asking->connection->expires_ns, 0);
    return status;
}

static enum pool_status receive_reply(struct asking *asking, struct pool_bytes *reply)
{
    struct pl_runner *runner = &asking->asker->runner;
    enum pool_status status = POOL_OK;
    struct pool_message message;
    bool is_whole = false;

    while (!status && !is_whole) {
        status = find_message(asking, &message);
        if (status)
            break;
        if (message.kind == POOL_PUSH)
            status = tell_push(asking, &message);
        else if (message.kind == POOL_REQUEST)
            status = pl_stream_fail(asking->connection, POOL_E_PROTOCOL, 0);
        else
            status = take_reply(asking, &message, reply, &is_whole);
        asking->early_size -=
            asking->early_size < runner->found ? asking->early_size : runner->found;
        pl_runner_drop(runner);
    }
    return status ? status : take_pushes(asking);
}

/* ---- the whole */

static enum pool_status exchange(struct asking *asking, struct pool_bytes request,
                                 struct pool_bytes *reply)
{
    struct pl_asker *asker = asking->asker;
    enum pool_status status;

    if (asker->is_out_of_step)
        return pl_stream_fail(asking->connection, POOL_E_BROKEN, 0);
    enter_loan(asking);
    trim(&asker->whole);
    status = take_what_is_there(asking);
    if (!status)
        status = send_request(asking, request);
    if (!status && asker->entry.replies)
        status = receive_reply(asking, reply);
    asker->is_out_of_step = asker->correlator.count;
    return put_ahead(asking, status);
}

static enum pool_status ask(struct asking *asking, struct pool_bytes request,
                            struct pool_bytes *reply)
{
    struct pl_connection *connection = asking->connection;
    enum pool_status status;

    if (!connection->limits.codec)
        return POOL_E_ARGUMENT;
    if (!pl_stream_may_wait(connection))
        return POOL_E_WOULD_BLOCK;
    status = pl_stream_begin_reading(connection);
    if (status == POOL_E_ARGUMENT)
        return status;
    if (!status && !connection->asker) {
        connection->asker = make_asker(connection);
        status = connection->asker ? POOL_OK : POOL_E_MEMORY;
    }
    asking->asker = connection->asker;
    if (!status)
        status = exchange(asking, request, reply);
    return pl_stream_end_reading(connection, status);
}

enum pool_status pool_ask(struct pool_conn *conn, struct pool_bytes request,
                          struct pool_bytes *reply)
{
    struct asking asking = { 0 };
    struct pool_bytes answer = { 0 };
    enum pool_status status;

    if (!reply)
        return POOL_E_ARGUMENT;
    *reply = answer;
    if (!request.data && request.size)
        return POOL_E_ARGUMENT;
    status = pl_conn_enter_loan(conn, &asking.connection);
    if (status)
        return status;
    asking.conn = *conn;
    status = ask(&asking, request, &answer);
    if (pl_conn_leave(asking.connection)) /* and with it what `answer` would point to */
        return POOL_E_ARGUMENT;
    if (!status)
        *reply = answer;
    return status;
}
