/* calls_mux.c: the rows of the functions that take a mux, a timer, or none of the library's things
 * at all. See calls.h. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "pool/calls.h"

const char *answer_name(int answer)
{
    switch (answer) {
    case NOTHING:
        return "nothing";
    case SOMETHING:
        return "something";
    case DONE:
        return "done";
    default:
        return pool_status_name((enum pool_status)answer);
    }
}

int something_if(bool is_something)
{
    return is_something ? SOMETHING : NOTHING;
}

static void do_no_more(void *user)
{
    (void)user;
}

/* ---- a mux */

static int run_mux_create(struct props *props)
{
    struct pool_mux *mux = NULL;
    enum pool_status status = pool_mux_create(&mux);

    (void)props;
    pool_mux_destroy(mux);
    return status;
}

static void wrong_mux_create(struct props *props)
{
    (void)props;
    REFUSES(pool_mux_create(NULL), POOL_E_ARGUMENT);
}

static int run_mux_destroy(struct props *props)
{
    pool_mux_destroy(props->mux);
    props->mux = NULL;
    return DONE;
}

static int run_mux_fd(struct props *props)
{
    return something_if(pool_mux_fd(props->mux) >= 0);
}

static int run_mux_dispatch(struct props *props)
{
    return pool_mux_dispatch(props->mux, 0);
}

static int run_mux_run(struct props *props)
{
    pool_mux_stop(props->mux);
    return pool_mux_run(props->mux);
}

static int run_mux_stop(struct props *props)
{
    pool_mux_stop(props->mux);
    return DONE;
}

static int run_mux_post(struct props *props)
{
    return pool_mux_post(props->mux, do_no_more, NULL);
}

static void wrong_mux_post(struct props *props)
{
    REFUSES(pool_mux_post(props->mux, NULL, NULL), POOL_E_ARGUMENT);
}

static int run_mux_after(struct props *props)
{
    struct pool_timer *timer = NULL;
    enum pool_status status = pool_mux_after(props->mux, 1, do_no_more, NULL, &timer);

    cr_expect_eq(status == POOL_OK, timer != NULL);
    pool_timer_cancel(timer);
    return status;
}

static void wrong_mux_after(struct props *props)
{
    struct pool_timer *timer = NULL;

    REFUSES(pool_mux_after(props->mux, 1, NULL, NULL, &timer), POOL_E_ARGUMENT);
    cr_expect_null(timer);
    REFUSES(pool_mux_after(props->mux, 1, do_no_more, NULL, NULL), POOL_E_ARGUMENT);
}

static int run_mux_signal(struct props *props)
{
    return pool_mux_signal(props->mux, SIGUSR1, do_no_more, NULL);
}

static void wrong_mux_signal(struct props *props)
{
    static const int signals[] = { 0, -1, SIGKILL, SIGSTOP, 65, 1000, INT32_MAX, INT32_MIN };

    REFUSES(pool_mux_signal(props->mux, SIGUSR1, NULL, NULL), POOL_E_ARGUMENT);
    for (unsigned i = 0; i < sizeof(signals) / sizeof(*signals); i++)
        cr_expect_eq(pool_mux_signal(props->mux, signals[i], do_no_more, NULL), POOL_E_ARGUMENT,
                     "signal %d", signals[i]);
}

static int run_timer_again(struct props *props)
{
    return pool_timer_again(props->timer, VERBS_SOON);
}

static int run_timer_cancel(struct props *props)
{
    pool_timer_cancel(props->timer);
    props->timer = NULL;
    return DONE;
}

/* ---- tickets and targets */

static int run_ticket_cancel(struct props *props)
{
    return something_if(pool_ticket_cancel(props->ticket));
}

static int run_ticket_free(struct props *props)
{
    pool_ticket_free(props->ticket);
    props->ticket = NULL;
    return DONE;
}

static int run_target_free(struct props *props)
{
    pool_target_free(props->target);
    props->target = NULL;
    return DONE;
}

/* ---- addresses */

static int run_address_parse(struct props *props)
{
    struct pool_address *address = NULL;
    enum pool_status status = pool_address_parse(props->address, &address, NULL);

    pool_address_unref(address);
    return status;
}

static void wrong_address_parse(struct props *props)
{
    struct pool_address *address = NULL;
    struct pool_error error = POOL_ERROR_INIT;

    REFUSES(pool_address_parse(NULL, &address, &error), POOL_E_ARGUMENT);
    REFUSES(pool_address_parse(props->address, NULL, &error), POOL_E_ARGUMENT);
    REFUSES(pool_address_parse("", &address, &error), POOL_E_ADDRESS);
    REFUSES(pool_address_parse("tcp://127.0.0.1:65536", &address, NULL), POOL_E_ADDRESS);
    cr_expect_null(address);
}

static int run_address_text(struct props *props)
{
    return something_if(pool_address_text(props->parsed) != NULL);
}

static int run_address_equal(struct props *props)
{
    return something_if(pool_address_equal(props->parsed, props->parsed));
}

static void wrong_address_equal(struct props *props)
{
    cr_expect_not(pool_address_equal(props->parsed, NULL));
    cr_expect_not(pool_address_equal(NULL, props->parsed));
}

static int run_address_hash(struct props *props)
{
    return something_if(pool_address_hash(props->parsed) != 0);
}

static int run_address_ref(struct props *props)
{
    struct pool_address *address = pool_address_ref(props->parsed);

    cr_expect_eq(address, props->parsed);
    pool_address_unref(address);
    return something_if(address != NULL);
}

static int run_address_unref(struct props *props)
{
    pool_address_unref(props->parsed);
    props->parsed = NULL;
    return DONE;
}

/* ---- the library */

static int run_options_init(struct props *props)
{
    struct pool_options options;

    (void)props;
    pool_options_init(&options);
    cr_expect_eq(options.size, sizeof(options));
    return DONE;
}

static void wrong_options_init(struct props *props)
{
    (void)props;
    pool_options_init(NULL);
}

static int run_call_init(struct props *props)
{
    struct pool_call call;

    (void)props;
    pool_call_init(&call);
    cr_expect_eq(call.size, sizeof(call));
    return DONE;
}

static void wrong_call_init(struct props *props)
{
    (void)props;
    pool_call_init(NULL);
}

/* ---- TLS settings */

static int run_tls_options_init(struct props *props)
{
    struct pool_tls_options options;

    (void)props;
    pool_tls_options_init(&options);
    cr_expect_eq(options.size, sizeof(options));
    return DONE;
}

static void wrong_tls_options_init(struct props *props)
{
    (void)props;
    pool_tls_options_init(NULL);
}

static int run_tls_create(struct props *props)
{
    struct pool_tls *tls;
    enum pool_status status = pool_tls_create(POOL_TLS_OPTIONS(.insecure = true), &tls, NULL);

    (void)props;
    pool_tls_free(tls);
    return status;
}

static void wrong_tls_create(struct props *props)
{
    struct pool_tls *tls = (struct pool_tls *)(void *)props;

    REFUSES(pool_tls_create(NULL, NULL, NULL), POOL_E_ARGUMENT);
    REFUSES(pool_tls_create(&(struct pool_tls_options){ .size = 1 }, &tls, NULL), POOL_E_ARGUMENT);
    REFUSES(pool_tls_create(POOL_TLS_OPTIONS(.name = ""), &tls, NULL), POOL_E_ARGUMENT);
    REFUSES(pool_tls_create(POOL_TLS_OPTIONS(.ca_pem = "none"), &tls, NULL), POOL_E_TLS);
    cr_expect_null(tls);
}

static int run_tls_reload(struct props *props)
{
    const struct pool_tls_options *options = POOL_TLS_OPTIONS(.insecure = true);
    enum pool_status status;
    struct pool_tls *tls;

    (void)props;
    cr_assert_eq(pool_tls_create(options, &tls, NULL), POOL_OK);
    status = pool_tls_reload(tls, options, NULL);
    pool_tls_free(tls);
    return status;
}

static void wrong_tls_reload(struct props *props)
{
    (void)props;
    REFUSES(pool_tls_reload(NULL, NULL, NULL), POOL_E_ARGUMENT);
}

static int run_tls_free(struct props *props)
{
    (void)props;
    pool_tls_free(NULL);
    return DONE;
}

static int run_status_name(struct props *props)
{
    (void)props;
    return something_if(pool_status_name(POOL_OK) != NULL);
}

static void wrong_status_name(struct props *props)
{
    (void)props;
    cr_expect_not_null(pool_status_name((enum pool_status)1));
    cr_expect_not_null(pool_status_name((enum pool_status) - 1000));
    cr_expect_not_null(pool_status_name((enum pool_status)INT32_MIN));
}

static int run_status_text(struct props *props)
{
    (void)props;
    return something_if(pool_status_text(POOL_E_FORKED) != NULL);
}

static void wrong_status_text(struct props *props)
{
    (void)props;
    cr_expect_not_null(pool_status_text((enum pool_status)1));
    cr_expect_not_null(pool_status_text((enum pool_status)INT32_MIN));
}

static int run_version(struct props *props)
{
    (void)props;
    return something_if(pool_version() != NULL);
}

/* Bringing back what is there changes nothing. */
static int run_set_allocator(struct props *props)
{
    (void)props;
    return pool_set_allocator(NULL, NULL, NULL);
}

static void wrong_set_allocator(struct props *props)
{
    (void)props;
    REFUSES(pool_set_allocator(malloc, NULL, NULL), POOL_E_ARGUMENT);
    REFUSES(pool_set_allocator(malloc, realloc, NULL), POOL_E_ARGUMENT);
    REFUSES(pool_set_allocator(NULL, NULL, free), POOL_E_ARGUMENT);
    REFUSES(pool_set_allocator(NULL, realloc, free), POOL_E_ARGUMENT);
}

/* ---- the rows */

#define ARG POOL_E_ARGUMENT
#define KID POOL_E_FORKED
#define YES SOMETHING
#define NO NOTHING

/* In order: no mux, a mux, inside its batch, forked. */
const struct call calls_of_mux[] = {
    { "pool_mux_destroy", run_mux_destroy, NULL, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_mux_fd", run_mux_fd, NULL, { NO, YES, YES, NO }, 0 },
    { "pool_mux_dispatch", run_mux_dispatch, NULL, { ARG, 0, ARG, KID }, 0 },
    { "pool_mux_run", run_mux_run, NULL, { ARG, 0, ARG, KID }, 0 },
    { "pool_mux_stop", run_mux_stop, NULL, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_mux_post", run_mux_post, wrong_mux_post, { ARG, 0, 0, KID }, 0 },
    { "pool_mux_after", run_mux_after, wrong_mux_after, { ARG, 0, 0, KID }, 0 },
    { "pool_mux_signal", run_mux_signal, wrong_mux_signal, { ARG, 0, 0, KID }, 0 },
    { "pool_timer_again", run_timer_again, NULL, { ARG, 0, 0, KID }, 0 },
    { "pool_timer_cancel", run_timer_cancel, NULL, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_ticket_cancel", run_ticket_cancel, NULL, { NO, YES, YES, NO }, 0 },
    { "pool_ticket_free", run_ticket_free, NULL, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_target_free", run_target_free, NULL, { DONE, DONE, DONE, DONE }, 0 },
};

/* These know no place but NULL, and answer a child what they answer its parent. */
const struct call calls_of_none[] = {
    { "pool_address_parse", run_address_parse, wrong_address_parse, { 0, 0, 0, 0 }, 0 },
    { "pool_address_text", run_address_text, NULL, { NO, YES, YES, YES }, 0 },
    { "pool_address_equal", run_address_equal, wrong_address_equal, { NO, YES, YES, YES }, 0 },
    { "pool_address_hash", run_address_hash, NULL, { NO, YES, YES, YES }, 0 },
    { "pool_address_ref", run_address_ref, NULL, { NO, YES, YES, YES }, 0 },
    { "pool_address_unref", run_address_unref, NULL, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_mux_create", run_mux_create, wrong_mux_create, { 0, 0, 0, 0 }, 0 },
    { "pool_options_init", run_options_init, wrong_options_init, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_call_init", run_call_init, wrong_call_init, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_tls_options_init", run_tls_options_init, wrong_tls_options_init,
      { DONE, DONE, DONE, DONE }, 0 },
    { "pool_tls_create", run_tls_create, wrong_tls_create, { 0, 0, 0, 0 }, 0 },
    { "pool_tls_reload", run_tls_reload, wrong_tls_reload, { 0, 0, 0, 0 }, 0 },
    { "pool_tls_free", run_tls_free, NULL, { DONE, DONE, DONE, DONE }, 0 },
    { "pool_status_name", run_status_name, wrong_status_name, { YES, YES, YES, YES }, 0 },
    { "pool_status_text", run_status_text, wrong_status_text, { YES, YES, YES, YES }, 0 },
    { "pool_version", run_version, NULL, { YES, YES, YES, YES }, 0 },
    { "pool_set_allocator", run_set_allocator, wrong_set_allocator, { 0, 0, 0, 0 }, 0 },
};

const unsigned count_of_mux = sizeof(calls_of_mux) / sizeof(*calls_of_mux);
const unsigned count_of_none = sizeof(calls_of_none) / sizeof(*calls_of_none);
