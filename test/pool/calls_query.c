/* calls_query.c: the rows of queries, their replies, responders and codecs. See calls.h. */
#include <criterion/criterion.h>
#include <string.h>

#include "commpool/query.h"
#include "pool/calls.h"

#define PATIENT(props)                                                                             \
    POOL_CALL(.timeout_ms = (props)->patience_ms ? (props)->patience_ms : VERBS_SOON)

static const struct pool_bytes word = { "x", 1 };

/* ---- queries */

typedef enum pool_status attempt_fn(struct props *props, struct pool *pool, const char *address,
                                    struct pool_bytes request, const struct pool_call *call);

static enum pool_status query_with(struct props *props, struct pool *pool, const char *address,
                                   struct pool_bytes request, const struct pool_call *call)
{
    struct pool_reply *reply = NULL;
    enum pool_status status = pool_query(pool, address, request, call, &reply);

    (void)props;
    cr_expect_eq(status == POOL_OK, reply != NULL);
    if (reply) {
        cr_expect_eq(pool_reply_bytes(reply).size, request.size);
        cr_expect_null(pool_reply_error(reply));
        cr_expect_not(pool_reply_failed(reply));
    }
    pool_reply_free(reply);
    return status;
}

static void drop(struct pool_reply *reply, void *user)
{
    (void)user;
    pool_reply_free(reply);
}

static enum pool_status begin_with(struct props *props, struct pool *pool, const char *address,
                                   struct pool_bytes request, const struct pool_call *call)
{
    struct pool_ticket *ticket = (struct pool_ticket *)(void *)props;
    enum pool_status status = pool_query_async(pool, address, request, drop, NULL, call, &ticket);

    if (status)
        cr_expect_null(ticket);
    else
        pool_ticket_free(ticket);
    return status;
}

static enum pool_status post_with(struct props *props, struct pool *pool, const char *address,
                                  struct pool_bytes request, const struct pool_call *call)
{
    (void)props;
    return pool_post_request(pool, address, request, call);
}

static void refuse_targets(struct props *props, attempt_fn *attempt)
{
    struct pool *other = MAKE_POOL();
    struct pool_target *target;

    REFUSES(attempt(props, other, props->address, word, NULL), POOL_E_ARGUMENT); /* no codec */
    cr_assert_eq(pool_target_get(other, props->address, &target), POOL_OK);
    REFUSES(attempt(props, props->pool, props->address, word, POOL_CALL(.target = target)),
            POOL_E_ARGUMENT);
    REFUSES(attempt(props, other, NULL, word, POOL_CALL(.target = target)), POOL_E_ARGUMENT);
    pool_target_free(target);
    pool_destroy(other);
}

static void refuse_calls(struct props *props, attempt_fn *attempt)
{
    static const size_t sizes[] = { 3, 8, 5000, SIZE_MAX };
    static const uint32_t flags[] = { POOL_FRESH, POOL_ONE_WAY, 128, 1u << 31 };
    struct pool_call call = { .size = 0, .timeout_ms = 5 };
    const char *address = props->address;
    struct pool *pool = props->pool;

    REFUSES(attempt(props, pool, NULL, word, NULL), POOL_E_ARGUMENT);
    REFUSES(attempt(props, pool, address, (struct pool_bytes){ NULL, 1 }, NULL), POOL_E_ARGUMENT);
    REFUSES(attempt(props, pool, address, (struct pool_bytes){ NULL, SIZE_MAX }, NULL),
            POOL_E_ARGUMENT);
    REFUSES(attempt(props, pool, address, word, &call), POOL_E_ARGUMENT);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        call = (struct pool_call){ .size = sizes[i] };
        REFUSES(attempt(props, pool, address, word, &call), POOL_E_ARGUMENT);
    }
    for (unsigned i = 0; i < sizeof(flags) / sizeof(*flags); i++)
        cr_expect_eq(attempt(props, pool, address, word, POOL_CALL(.flags = flags[i])),
                     POOL_E_ARGUMENT, "%x", flags[i]);
    for (unsigned i = 0; i < count_of_bad_addresses; i++)
        cr_expect_eq(attempt(props, pool, bad_addresses[i], word, NULL), POOL_E_ADDRESS, "\"%s\"",
                     bad_addresses[i]);
    refuse_targets(props, attempt);
}

/* What cannot be counted is refused by the connection that it would go to: at the start where one
 * stands, and else when there is one. */
static void refuse_uncountable(struct props *props)
{
    const struct pool_bytes lines = POOL_TEXT("two\nlines");
    struct pool *pool = MAKE_POOL(.codec = pool_codec_line());
    struct pool_error error = POOL_ERROR_INIT;
    struct pool_ticket *ticket = NULL;

    REFUSES(query_with(props, pool, props->address, lines, POOL_CALL(.error = &error)),
            POOL_E_ARGUMENT);
    cr_expect_eq(error.status, POOL_E_ARGUMENT);
    cr_expect_eq(error.outcome, POOL_NOT_SENT);
    cr_expect(strlen(error.text) > 0);
    REFUSES(query_with(props, pool, props->address, word, NULL), POOL_OK);
    REFUSES(begin_with(props, pool, props->address, lines, NULL), POOL_E_ARGUMENT);
    REFUSES(post_with(props, pool, props->address, lines, NULL), POOL_E_ARGUMENT);
    REFUSES(pool_query_async(pool, props->address, word, drop, NULL,
                             POOL_CALL(.ticket = &ticket), NULL),
            POOL_OK);
    cr_expect_not_null(ticket, "that of the call counts where there is no other");
    pool_ticket_free(ticket);
    pool_destroy(pool);
}

static int run_query(struct props *props)
{
    return query_with(props, props->pool, props->address, word, PATIENT(props));
}

static void wrong_query(struct props *props)
{
    refuse_calls(props, query_with);
    refuse_uncountable(props);
    REFUSES(pool_query(props->pool, props->address, word, NULL, NULL), POOL_E_ARGUMENT);
}

static int run_query_async(struct props *props)
{
    return begin_with(props, props->pool, props->address, word, PATIENT(props));
}

static void wrong_query_async(struct props *props)
{
    struct pool_ticket *ticket = (struct pool_ticket *)(void *)props;

    refuse_calls(props, begin_with);
    REFUSES(pool_query_async(props->pool, props->address, word, NULL, NULL, NULL, &ticket),
            POOL_E_ARGUMENT);
    cr_expect_null(ticket);
}

static int run_post_request(struct props *props)
{
    return post_with(props, props->pool, props->address, word, PATIENT(props));
}

static void wrong_post_request(struct props *props)
{
    refuse_calls(props, post_with);
}

/* ---- replies and responders: NULL alone can be wrong, the rest is in test_ask.c and the tests of
 * queries */

static int run_reply_bytes(struct props *props)
{
    (void)props;
    return something_if(pool_reply_bytes(NULL).data || pool_reply_bytes(NULL).size);
}

static int run_reply_error(struct props *props)
{
    (void)props;
    return something_if(pool_reply_error(NULL));
}

static int run_reply_failed(struct props *props)
{
    (void)props;
    return something_if(pool_reply_failed(NULL));
}

static int run_reply_free(struct props *props)
{
    (void)props;
    pool_reply_free(NULL);
    return DONE;
}

static int run_respond(struct props *props)
{
    (void)props;
    pool_respond(NULL, word);
    return DONE;
}

static int run_respond_error(struct props *props)
{
    (void)props;
    pool_respond_error(NULL, word);
    return DONE;
}

/* ---- codecs */

static int run_out_append(struct props *props)
{
    (void)props;
    return pool_out_append(NULL, "x", 1);
}

static int run_codec(const struct pool_codec *codec)
{
    cr_expect(codec && codec->name && codec->next && codec->encode);
    return something_if(codec);
}

static int run_codec_length(struct props *props)
{
    (void)props;
    return run_codec(pool_codec_length());
}

static int run_codec_line(struct props *props)
{
    (void)props;
    return run_codec(pool_codec_line());
}

static int run_codec_resp(struct props *props)
{
    (void)props;
    return run_codec(pool_codec_resp());
}

static int run_codec_http1(struct props *props)
{
    (void)props;
    return run_codec(pool_codec_http1());
}

static int run_codec_memcached(struct props *props)
{
    (void)props;
    return run_codec(pool_codec_memcached());
}

/* ---- the rows */

#define ARG POOL_E_ARGUMENT
#define SHY POOL_E_WOULD_BLOCK
#define END POOL_E_CLOSING
#define CUT POOL_E_CLEARED
#define KID POOL_E_FORKED
#define YES SOMETHING
#define NO NOTHING

/* Inside a callback all connections that there may be can be lent already, or their peer may not
 * answer lines. */
#define LACKS                                                                                      \
    (BIT(POOL_E_FULL) | BIT(POOL_E_RESOURCE) | BIT(POOL_E_TIMEOUT) |                               \
     BIT(POOL_E_TIMEOUT_IN_TRANSFER))

/* In order: no pool, live, paused, closing, closed, on the mux thread, forked. */
const struct call calls_of_queries[] = {
    { "pool_query", run_query, wrong_query, { ARG, 0, CUT, END, END, SHY, KID }, LACKS },
    { "pool_query_async",
      run_query_async,
      wrong_query_async,
      { ARG, 0, CUT, END, END, 0, KID },
      0 },
    { "pool_post_request",
      run_post_request,
      wrong_post_request,
      { ARG, 0, CUT, END, END, 0, KID },
      0 },
};

/* These know no place, and answer a child what they answer its parent. */
const struct call calls_of_replies[] = {
    { "pool_reply_bytes", run_reply_bytes, NULL, { NO, NO, NO, NO }, 0 },
    { "pool_reply_error", run_reply_error, NULL, { NO, NO, NO, NO }, 0 },
    { "pool_reply_failed", run_reply_failed, NULL, { NO, NO, NO, NO }, 0 },
    { "pool_reply_free", run_reply_free, NULL, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_respond", run_respond, NULL, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_respond_error", run_respond_error, NULL, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_out_append", run_out_append, NULL, { ARG, ARG, ARG, ARG }, 0 },
    { "pool_codec_length", run_codec_length, NULL, { YES, YES, YES, YES }, 0 },
    { "pool_codec_line", run_codec_line, NULL, { YES, YES, YES, YES }, 0 },
    { "pool_codec_resp", run_codec_resp, NULL, { YES, YES, YES, YES }, 0 },
    { "pool_codec_http1", run_codec_http1, NULL, { YES, YES, YES, YES }, 0 },
    { "pool_codec_memcached", run_codec_memcached, NULL, { YES, YES, YES, YES }, 0 },
};

const unsigned count_of_queries = sizeof(calls_of_queries) / sizeof(*calls_of_queries);
const unsigned count_of_replies = sizeof(calls_of_replies) / sizeof(*calls_of_replies);
