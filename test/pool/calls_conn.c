/* calls_conn.c: the rows of the functions that take a handle. See calls.h. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pool/calls.h"

/* ---- the end of a loan */

static int run_return(struct props *props)
{
    return pool_return(props->conn);
}

static int run_discard(struct props *props)
{
    return pool_discard(props->conn);
}

/* Who detached it ends it, too. */
static int run_detach(struct props *props)
{
    return pool_detach(props->conn);
}

static int run_release_fd(struct props *props)
{
    int fd = -1;
    enum pool_status status = pool_release_fd(props->conn, &fd);

    cr_expect_eq(status == POOL_OK, fd >= 0);
    if (fd >= 0)
        close(fd);
    return status;
}

static void wrong_release_fd(struct props *props)
{
    REFUSES(pool_release_fd(props->conn, NULL), POOL_E_ARGUMENT);
}

/* ---- blocking I/O */

static int run_send(struct props *props)
{
    return pool_send(props->conn, "x", 1);
}

static void wrong_send(struct props *props)
{
    REFUSES(pool_send(props->conn, NULL, 1), POOL_E_ARGUMENT);
    REFUSES(pool_send(props->conn, NULL, SIZE_MAX), POOL_E_ARGUMENT);
}

static int run_sendv(struct props *props)
{
    struct iovec piece = { .iov_base = (char[]){ "x" }, .iov_len = 1 };

    return pool_sendv(props->conn, &piece, 1);
}

static void wrong_sendv(struct props *props)
{
    struct iovec piece = { .iov_base = (char[]){ "x" }, .iov_len = 1 };
    struct iovec nowhere = { .iov_base = NULL, .iov_len = 1 };

    REFUSES(pool_sendv(props->conn, NULL, 1), POOL_E_ARGUMENT);
    REFUSES(pool_sendv(props->conn, &piece, -1), POOL_E_ARGUMENT);
    REFUSES(pool_sendv(props->conn, &piece, INT32_MIN), POOL_E_ARGUMENT);
    REFUSES(pool_sendv(props->conn, &nowhere, 1), POOL_E_ARGUMENT);
}

static int run_recv(struct props *props)
{
    char byte;
    size_t got = 7;
    enum pool_status status;

    (void)pool_conn_deadline(props->conn, WAITS_MS);
    status = pool_recv(props->conn, &byte, 1, &got);
    cr_expect_eq(got, status == POOL_OK);
    return status;
}

static void wrong_recv(struct props *props)
{
    char byte;
    size_t got;

    REFUSES(pool_recv(props->conn, NULL, 1, &got), POOL_E_ARGUMENT);
    REFUSES(pool_recv(props->conn, &byte, 1, NULL), POOL_E_ARGUMENT);
}

static int run_recv_exact(struct props *props)
{
    char byte;

    (void)pool_conn_deadline(props->conn, WAITS_MS);
    return pool_recv_exact(props->conn, &byte, 1);
}

static void wrong_recv_exact(struct props *props)
{
    REFUSES(pool_recv_exact(props->conn, NULL, 1), POOL_E_ARGUMENT);
}

static int run_recv_until(struct props *props)
{
    struct pool_bytes bytes = { .data = "no", .size = 2 };
    enum pool_status status;

    (void)pool_conn_deadline(props->conn, WAITS_MS);
    status = pool_recv_until(props->conn, "\n", 1, &bytes);
    cr_expect_eq(bytes.size > 0, status == POOL_OK);
    return status;
}

static void wrong_recv_until(struct props *props)
{
    struct pool_bytes bytes;

    REFUSES(pool_recv_until(props->conn, NULL, 1, &bytes), POOL_E_ARGUMENT);
    REFUSES(pool_recv_until(props->conn, "\n", 0, &bytes), POOL_E_ARGUMENT);
    REFUSES(pool_recv_until(props->conn, "\n", 1, NULL), POOL_E_ARGUMENT);
}

static int run_ask(struct props *props)
{
    struct pool_bytes reply = { .data = "no", .size = 2 };
    enum pool_status status;

    (void)pool_conn_deadline(props->conn, WAITS_MS);
    status = pool_ask(props->conn, POOL_TEXT("x"), &reply);
    cr_expect_eq(reply.size > 0, status == POOL_OK);
    return status;
}

static void wrong_ask(struct props *props)
{
    struct pool_bytes reply = { .data = "no", .size = 2 };

    REFUSES(pool_ask(props->conn, POOL_TEXT("x"), NULL), POOL_E_ARGUMENT);
    REFUSES(pool_ask(props->conn, (struct pool_bytes){ NULL, 1 }, &reply), POOL_E_ARGUMENT);
    REFUSES(pool_ask(props->conn, (struct pool_bytes){ NULL, SIZE_MAX }, &reply), POOL_E_ARGUMENT);
    REFUSES(pool_ask(props->conn, POOL_TEXT("two\nlines"), &reply), POOL_E_ARGUMENT);
    cr_expect_eq(reply.size, 0);
}

static int run_try_send(struct props *props)
{
    size_t sent = 7;
    enum pool_status status = pool_try_send(props->conn, "x", 1, &sent);

    cr_expect_eq(sent, status == POOL_OK);
    return status;
}

static void wrong_try_send(struct props *props)
{
    size_t sent;

    REFUSES(pool_try_send(props->conn, NULL, 1, &sent), POOL_E_ARGUMENT);
    REFUSES(pool_try_send(props->conn, "x", 1, NULL), POOL_E_ARGUMENT);
}

static int run_try_recv(struct props *props)
{
    char byte;
    size_t got = 7;
    enum pool_status status = pool_try_recv(props->conn, &byte, 1, &got);

    cr_expect_eq(got, status == POOL_OK);
    return status;
}

static void wrong_try_recv(struct props *props)
{
    char byte;
    size_t got;

    REFUSES(pool_try_recv(props->conn, NULL, 1, &got), POOL_E_ARGUMENT);
    REFUSES(pool_try_recv(props->conn, &byte, 1, NULL), POOL_E_ARGUMENT);
}

static int run_deadline(struct props *props)
{
    return pool_conn_deadline(props->conn, VERBS_SOON);
}

/* ---- event-driven I/O */

static void on_event(struct pool_conn *conn, enum pool_event event, struct pool_bytes bytes,
                     void *user)
{
    (void)conn;
    (void)event;
    (void)bytes;
    (void)user;
}

static int run_watch(struct props *props)
{
    return pool_conn_watch(props->conn, on_event, NULL);
}

static void wrong_watch(struct props *props)
{
    REFUSES(pool_conn_watch(props->conn, NULL, NULL), POOL_E_ARGUMENT);
}

static int run_write(struct props *props)
{
    return pool_write(props->conn, "x", 1);
}

static void wrong_write(struct props *props)
{
    REFUSES(pool_write(props->conn, NULL, 1), POOL_E_ARGUMENT);
}

static int run_timeout(struct props *props)
{
    return pool_conn_timeout(props->conn, POOL_READ, VERBS_SOON);
}

static void wrong_timeout(struct props *props)
{
    REFUSES(pool_conn_timeout(props->conn, (enum pool_direction)2, 1), POOL_E_ARGUMENT);
    REFUSES(pool_conn_timeout(props->conn, (enum pool_direction) - 1, 1), POOL_E_ARGUMENT);
}

/* ---- questions */

static int run_id(struct props *props)
{
    return something_if(pool_conn_id(props->conn) > 0);
}

static int run_fd(struct props *props)
{
    int fd = pool_conn_fd(props->conn);

    cr_expect(fd >= -1);
    return something_if(fd >= 0);
}

static int run_address(struct props *props)
{
    return something_if(pool_conn_address(props->conn) != NULL);
}

static int run_last_used_ns(struct props *props)
{
    return something_if(pool_conn_last_used_ns(props->conn) > 0);
}

static int run_same(struct props *props)
{
    return something_if(pool_conn_same(props->conn, props->conn));
}

static void wrong_same(struct props *props)
{
    struct pool_conn zero = { 0 }, other = *props->conn;

    other.serial ^= UINT64_C(1) << 40;
    cr_expect_not(pool_conn_same(props->conn, NULL));
    cr_expect_not(pool_conn_same(NULL, props->conn));
    cr_expect_not(pool_conn_same(NULL, NULL));
    cr_expect_not(pool_conn_same(props->conn, &zero));
    cr_expect_not(pool_conn_same(&other, props->conn));
    cr_expect_not(pool_conn_same(&other, &other));
}

static int run_error(struct props *props)
{
    struct pool_error error = { .size = sizeof(error), .status = (enum pool_status)77 };
    enum pool_status status = pool_conn_error(props->conn, &error);

    cr_expect_eq(status == POOL_OK, error.status != (enum pool_status)77);
    return status;
}

static void wrong_error(struct props *props)
{
    REFUSES(pool_conn_error(props->conn, NULL), POOL_E_ARGUMENT);
}

static atomic_int freed;

static void free_data(void *user)
{
    (void)user;
    atomic_fetch_add(&freed, 1);
}

/* What was not kept must not be freed, either. */
static int run_set_user(struct props *props)
{
    static char data;
    int before = atomic_load(&freed);
    bool is_kept;

    pool_conn_set_user(props->conn, &data, free_data);
    is_kept = pool_conn_user(props->conn) == &data;
    cr_expect_eq(atomic_load(&freed), before);
    pool_conn_set_user(props->conn, NULL, NULL);
    cr_expect_eq(atomic_load(&freed), before + is_kept);
    return something_if(is_kept);
}

static int run_user(struct props *props)
{
    static char data;
    bool is_there;

    cr_expect_null(pool_conn_user(props->conn));
    pool_conn_set_user(props->conn, &data, NULL);
    is_there = pool_conn_user(props->conn) == &data;
    pool_conn_set_user(props->conn, NULL, NULL);
    return something_if(is_there);
}

static int run_tls(struct props *props)
{
    struct pool_tls_info info = { .size = sizeof(info), .secure = true };
    enum pool_status status = pool_conn_tls(props->conn, &info);

    if (!status)
        cr_expect_not(info.secure, "it is plain");
    return status;
}

static void wrong_tls(struct props *props)
{
    static const size_t sizes[] = { 0, 1, sizeof(size_t), SIZE_MAX };
    struct pool_tls_info info = { .size = 0 };

    REFUSES(pool_conn_tls(props->conn, NULL), POOL_E_ARGUMENT);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        info.size = sizes[i];
        REFUSES(pool_conn_tls(props->conn, &info), POOL_E_ARGUMENT);
    }
}

static int run_start_tls(struct props *props)
{
    return pool_conn_start_tls(props->conn);
}

static void wrong_start_tls(struct props *props)
{
    REFUSES(pool_conn_start_tls(props->conn), POOL_E_ARGUMENT); /* nothing asks for it */
}

static int run_count(struct props *props)
{
    struct pool_conn_counts counts = { .size = sizeof(counts), .uses = UINT64_MAX };
    enum pool_status status = pool_conn_count(props->conn, &counts);

    cr_expect_eq(status == POOL_OK, counts.uses != UINT64_MAX);
    return status;
}

static void wrong_count(struct props *props)
{
    static const size_t sizes[] = { 0, 3, 7, SIZE_MAX };
    struct pool_conn_counts counts;

    REFUSES(pool_conn_count(props->conn, NULL), POOL_E_ARGUMENT);
    memset(&counts, 'g', sizeof(counts));
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        counts.size = sizes[i];
        REFUSES(pool_conn_count(props->conn, &counts), POOL_E_ARGUMENT);
        cr_expect_eq(counts.uses, UINT64_C(0x6767676767676767), "size %zu", sizes[i]);
    }
    counts.size = 5000;
    REFUSES(pool_conn_count(props->conn, &counts), POOL_OK);
}

typedef enum pool_status end_fn(const struct pool_conn *conn, char *text, size_t size);

static int run_end(struct props *props, end_fn *write_end)
{
    char text[128];

    return write_end(props->conn, text, sizeof(text));
}

static void wrong_end(struct props *props, end_fn *write_end)
{
    char text[3] = "gg";

    REFUSES(write_end(props->conn, NULL, 100), POOL_E_ARGUMENT);
    REFUSES(write_end(props->conn, text, 0), POOL_E_ARGUMENT);
    REFUSES(write_end(props->conn, text, 2), POOL_E_ARGUMENT);
}

static int run_local(struct props *props)
{
    return run_end(props, pool_conn_local);
}

static void wrong_local(struct props *props)
{
    wrong_end(props, pool_conn_local);
}

static int run_remote(struct props *props)
{
    return run_end(props, pool_conn_remote);
}

static void wrong_remote(struct props *props)
{
    wrong_end(props, pool_conn_remote);
}

/* ---- orders */

static int run_ready(struct props *props)
{
    pool_conn_ready(props->conn, POOL_OK);
    return DONE;
}

static int run_drain(struct props *props)
{
    pool_conn_drain(props->conn);
    return DONE;
}

/* ---- the rows */

#define ARG POOL_E_ARGUMENT
#define SHY POOL_E_WOULD_BLOCK
#define END POOL_E_CLOSING
#define CUT POOL_E_CLEARED
#define KID POOL_E_FORKED
#define LATE POOL_E_TIMEOUT
#define CUT_SHORT POOL_E_TIMEOUT_IN_TRANSFER
#define YES SOMETHING
#define NO NOTHING

/* Inside a callback the loan may have sent before, or its deadline may be near. */
#define IN_IO (BIT(LATE) | BIT(POOL_E_TIMEOUT_IN_TRANSFER))

/* In order: on nothing, a loan, a loan on the mux, in setup, ended, cleared, detached, forked. */
const struct call calls_of_conn[] = {
    { "pool_return", run_return, NULL, { ARG, 0, 0, ARG, 0, 0, 0, KID }, 0 },
    { "pool_discard", run_discard, NULL, { ARG, 0, 0, ARG, 0, 0, 0, KID }, 0 },
    { "pool_detach", run_detach, NULL, { ARG, 0, 0, ARG, END, CUT, ARG, KID }, 0 },
    { "pool_release_fd",
      run_release_fd,
      wrong_release_fd,
      { ARG, 0, 0, ARG, END, CUT, 0, KID },
      0 },
    { "pool_send", run_send, wrong_send, { ARG, 0, 0, SHY, END, CUT, 0, KID }, IN_IO },
    { "pool_sendv", run_sendv, wrong_sendv, { ARG, 0, 0, SHY, END, CUT, 0, KID }, IN_IO },
    { "pool_recv", run_recv, wrong_recv, { ARG, LATE, SHY, SHY, END, CUT, LATE, KID }, IN_IO },
    { "pool_recv_exact",
      run_recv_exact,
      wrong_recv_exact,
      { ARG, LATE, SHY, SHY, END, CUT, LATE, KID },
      IN_IO },
    { "pool_recv_until",
      run_recv_until,
      wrong_recv_until,
      { ARG, LATE, SHY, SHY, END, CUT, LATE, KID },
      IN_IO },
    { "pool_ask",
      run_ask,
      wrong_ask,
      { ARG, CUT_SHORT, SHY, SHY, END, CUT, CUT_SHORT, KID },
      IN_IO | BIT(POOL_OK) },
    { "pool_try_send", run_try_send, wrong_try_send, { ARG, 0, 0, SHY, END, CUT, 0, KID }, IN_IO },
    { "pool_try_recv",
      run_try_recv,
      wrong_try_recv,
      { ARG, SHY, SHY, SHY, END, CUT, SHY, KID },
      IN_IO },
    { "pool_conn_deadline", run_deadline, NULL, { ARG, 0, 0, ARG, 0, 0, 0, KID }, 0 },
    { "pool_conn_watch", run_watch, wrong_watch, { ARG, ARG, 0, 0, ARG, ARG, ARG, KID }, 0 },
    { "pool_write", run_write, wrong_write, { ARG, ARG, 0, 0, ARG, ARG, ARG, KID }, 0 },
    { "pool_conn_timeout", run_timeout, wrong_timeout, { ARG, ARG, 0, 0, ARG, ARG, ARG, KID }, 0 },
    { "pool_conn_id", run_id, NULL, { NO, YES, YES, YES, YES, YES, YES, NO }, 0 },
    { "pool_conn_fd", run_fd, NULL, { NO, YES, YES, YES, YES, YES, YES, NO }, 0 },
    { "pool_conn_address", run_address, NULL, { NO, YES, YES, YES, YES, YES, YES, NO }, 0 },
    { "pool_conn_last_used_ns",
      run_last_used_ns,
      NULL,
      { NO, YES, YES, YES, YES, YES, YES, NO },
      0 },
    { "pool_conn_same", run_same, wrong_same, { NO, YES, YES, YES, YES, YES, YES, NO }, 0 },
    { "pool_conn_error", run_error, wrong_error, { ARG, 0, 0, 0, 0, 0, 0, KID }, 0 },
    { "pool_conn_set_user", run_set_user, NULL, { NO, YES, YES, YES, YES, YES, YES, NO }, 0 },
    { "pool_conn_user", run_user, NULL, { NO, YES, YES, YES, YES, YES, YES, NO }, 0 },
    { "pool_conn_start_tls",
      run_start_tls,
      wrong_start_tls,
      { ARG, ARG, ARG, ARG, ARG, ARG, ARG, KID },
      0 },
    { "pool_conn_tls", run_tls, wrong_tls, { ARG, 0, 0, 0, 0, 0, 0, KID }, 0 },
    { "pool_conn_count", run_count, wrong_count, { ARG, 0, 0, 0, 0, 0, 0, KID }, 0 },
    { "pool_conn_local", run_local, wrong_local, { ARG, 0, 0, 0, 0, 0, 0, KID }, 0 },
    { "pool_conn_remote",
      run_remote,
      wrong_remote,
      { ARG, 0, 0, 0, 0, 0, 0, KID },
      BIT(POOL_E_BROKEN) },
    { "pool_conn_ready", run_ready, NULL, { DONE, DONE, DONE, DONE, DONE, DONE, DONE, DONE }, 0 },
    { "pool_conn_drain", run_drain, NULL, { DONE, DONE, DONE, DONE, DONE, DONE, DONE, DONE }, 0 },
};

const unsigned count_of_conn = sizeof(calls_of_conn) / sizeof(*calls_of_conn);
