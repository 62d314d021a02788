/* test_settings.c: options and calls as a program gives them: defaults, impossible values, reserved
 * features, and structs of older and later releases. */
#include "pool/settings.h"

#include <criterion/criterion.h>
#include <stddef.h>
#include <string.h>

#include "base/os.h"
#include "commpool/codec.h"

static struct pl_settings settings;

static enum pool_status make(const struct pool_options *options)
{
    memset(&settings, 0x5a, sizeof(settings));
    return pl_settings_make(options, &settings);
}

/* Every number of the options: its default, and whether "none at all" (POOL_ZERO) is possible. */
#define NUMBERS(NUMBER)                                                                            \
    NUMBER(max_connections, 936, false)                                                            \
    NUMBER(max_per_address, 64, false)                                                             \
    NUMBER(max_waiters, 10000, true)                                                               \
    NUMBER(max_connecting, 2, false)                                                               \
    NUMBER(max_inflight, 1024, false)                                                              \
    NUMBER(min_idle, 0, true)                                                                      \
    NUMBER(max_idle, POOL_NONE, true)                                                              \
    NUMBER(max_uses, POOL_NONE, false)                                                             \
    NUMBER(idle_ms, 60000, true)                                                                   \
    NUMBER(max_age_ms, 1800000, true)                                                              \
    NUMBER(park_ms, 100, true)                                                                     \
    NUMBER(leak_ms, POOL_NONE, true)                                                               \
    NUMBER(timeout_ms, 10000, true)                                                                \
    NUMBER(connect_ms, 5000, true)                                                                 \
    NUMBER(tls_ms, 5000, true)                                                                     \
    NUMBER(read_ms, POOL_NONE, true)                                                               \
    NUMBER(write_ms, POOL_NONE, true)                                                              \
    NUMBER(barge_ms, 10, true)                                                                     \
    NUMBER(write_high, 1048576, false)                                                             \
    NUMBER(write_low, 262144, true)                                                                \
    NUMBER(max_line, 65536, false)                                                                 \
    NUMBER(max_message, 16777216, false)                                                           \
    NUMBER(backoff_first_ms, 100, true)                                                            \
    NUMBER(backoff_max_ms, 10000, true)                                                            \
    NUMBER(suspend_after, 5, true)                                                                 \
    NUMBER(suspend_ms, 1000, true)

#define PLACE(name, standard, may_be_none)                                                         \
    { #name, offsetof(struct pool_options, name), standard, may_be_none },
static const struct number {
    const char *name;
    size_t offset;
    uint32_t standard;
    bool may_be_none;
} numbers[] = { NUMBERS(PLACE) };

static uint32_t *field(struct pool_options *options, const struct number *number)
{
    return (uint32_t *)(void *)((char *)options + number->offset);
}

static uint64_t limit_of_1000(void)
{
    return 1000;
}

static void begin(void)
{
    static struct pl_os os;

    os = pl_os_real;
    os.descriptor_limit = limit_of_1000;
    pl_os_replace(&os);
}

TestSuite(settings, .init = begin);

Test(settings, zeros_and_null_mean_the_documented_defaults)
{
    struct pool_options options;

    for (unsigned given = 0; given < 2; given++) {
        pool_options_init(&options);
        cr_assert_eq(make(given ? &options : NULL), POOL_OK);
        for (size_t i = 0; i < PL_COUNT(numbers); i++)
            cr_expect_eq(*field(&settings.options, &numbers[i]), numbers[i].standard, "%s",
                         numbers[i].name);
        cr_expect_eq(settings.options.check, POOL_CHECK_ALWAYS);
        cr_expect_eq(settings.options.order, POOL_LIFO);
        cr_expect_eq(settings.park_ns, 100 * PL_MS);
        cr_expect_eq(settings.barge_ns, 10 * PL_MS);
        cr_expect_eq(settings.limits.max_line, 65536);
        cr_expect(settings.is_plain);
    }
}

Test(settings, a_number_is_taken_as_given_none_is_no_limit_and_zero_is_none_at_all)
{
    for (size_t i = 0; i < PL_COUNT(numbers); i++) {
        const struct number *number = &numbers[i];
        struct pool_options options = { .size = sizeof(options) };

        if (number->offset == offsetof(struct pool_options, write_low))
            options.write_high = POOL_NONE;
        *field(&options, number) = 300000;
        cr_expect_eq(make(&options), POOL_OK, "%s", number->name);
        cr_expect_eq(*field(&settings.options, number), 300000, "%s", number->name);
        *field(&options, number) = POOL_NONE;
        cr_expect_eq(make(&options), POOL_OK, "%s", number->name);
        cr_expect_eq(*field(&settings.options, number), POOL_NONE, "%s", number->name);
        *field(&options, number) = POOL_ZERO;
        cr_expect_eq(make(&options), number->may_be_none ? POOL_OK : POOL_E_ARGUMENT, "%s",
                     number->name);
        if (number->may_be_none)
            cr_expect_eq(*field(&settings.options, number), 0, "%s", number->name);
    }
}

static uint64_t limit;

static uint64_t read_limit(void)
{
    return limit;
}

Test(settings, by_default_a_pool_leaves_64_descriptors_to_the_program_and_takes_8_at_least)
{
    static const struct {
        uint64_t limit;
        uint32_t connections;
    } limits[] = { { 1024, 960 },        { 73, 9 },
                   { 72, 8 },            { 64, 8 },
                   { 0, 8 },             { UINT64_MAX, POOL_ZERO - 1 - 64 },
                   { UINT32_MAX, POOL_ZERO - 1 - 64 } };
    struct pl_os os = pl_os_real;

    os.descriptor_limit = read_limit;
    pl_os_replace(&os);
    for (size_t i = 0; i < PL_COUNT(limits); i++) {
        limit = limits[i].limit;
        cr_expect_eq(make(NULL), POOL_OK);
        cr_expect_eq(settings.options.max_connections, limits[i].connections, "%llu",
                     (unsigned long long)limit);
    }
    pl_os_replace(NULL);
}

static enum pool_status make_with(struct pool_options options)
{
    options.size = sizeof(options);
    return make(&options);
}

#define REFUSED(...) cr_expect_eq(make_with((struct pool_options){ __VA_ARGS__ }), POOL_E_ARGUMENT)
#define TAKEN(...) cr_expect_eq(make_with((struct pool_options){ __VA_ARGS__ }), POOL_OK)

Test(settings, an_impossible_value_is_an_argument_error)
{
    REFUSED(.check = (enum pool_check)3);
    REFUSED(.check = (enum pool_check)-1);
    REFUSED(.order = (enum pool_order)2);
    REFUSED(.order = (enum pool_order)-1);
    REFUSED(.write_high = 1000, .write_low = 1001);
    TAKEN(.write_high = 1000, .write_low = 1000);
    TAKEN(.write_high = 1000);
    cr_expect_leq(settings.options.write_low, 1000, "its default follows a lower write_high");
    TAKEN(.check = POOL_CHECK_NEVER);
}

static void nothing_to_do(void)
{
}

static long next(void *read_state, struct pool_bytes in, bool at_end, uint64_t hint,
                 struct pool_message *out)
{
    (void)read_state, (void)in, (void)at_end, (void)hint, (void)out;
    return 0;
}

static enum pool_status encode(void *write_state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect)
{
    (void)write_state, (void)kind, (void)key, (void)body, (void)out, (void)expect;
    return POOL_OK;
}

static const struct pool_bytes word = { "x", 1 };

#define WHOLE sizeof(struct pool_codec)
#define CODEC(bytes, ...) .codec = &(struct pool_codec){ .size = (bytes), __VA_ARGS__ }

Test(settings, a_codec_that_lacks_something_is_an_argument_error)
{
    TAKEN(CODEC(WHOLE, .next = next, .encode = encode));
    TAKEN(CODEC(WHOLE, .next = next, .encode = encode, .keyed = true, .key_limit = 1));
    TAKEN(CODEC(WHOLE, .next = next, .encode = encode, .sentinel = word, .sentinel_reply = word));
    TAKEN(CODEC(WHOLE + 8, .next = next, .encode = encode));
    REFUSED(CODEC(WHOLE - 1, .next = next, .encode = encode));
    REFUSED(CODEC(0, .next = next, .encode = encode));
    REFUSED(CODEC(WHOLE, .encode = encode));
    REFUSED(CODEC(WHOLE, .next = next));
    REFUSED(CODEC(WHOLE, .next = next, .encode = encode, .keyed = true));
    REFUSED(CODEC(WHOLE, .next = next, .encode = encode, .sentinel = word));
    REFUSED(CODEC(WHOLE, .next = next, .encode = encode, .sentinel_reply = word));
}

Test(settings, every_ready_made_codec_is_taken)
{
    TAKEN(.codec = pool_codec_length());
    TAKEN(.codec = pool_codec_line());
    TAKEN(.codec = pool_codec_resp());
    TAKEN(.codec = pool_codec_http1());
    TAKEN(.codec = pool_codec_memcached());
}

Test(settings, hooks_for_messages_need_a_codec)
{
    void *something = &settings;

    REFUSED(.on_request = (pool_request_fn *)nothing_to_do);
    REFUSED(.on_orphan = (pool_orphan_fn *)nothing_to_do);
    TAKEN(.codec = pool_codec_line(), .on_request = (pool_request_fn *)nothing_to_do);
    TAKEN(.codec = pool_codec_line(), .on_orphan = (pool_orphan_fn *)nothing_to_do);
    TAKEN(.start_paused = true);
    TAKEN(.on_error = (pool_error_fn *)nothing_to_do);
    TAKEN(.user = something);
}

static void observe(const struct pool_event_info *event, void *user)
{
    (void)event, (void)user;
}

Test(settings, a_return_may_take_the_short_way_only_when_nothing_observes_or_bounds_it)
{
    TAKEN(.on_event = observe);
    cr_expect_not(settings.is_plain);
    TAKEN(.max_idle = 5);
    cr_expect_not(settings.is_plain);
    TAKEN(.order = POOL_FIFO);
    cr_expect_not(settings.is_plain);
    TAKEN(.leak_ms = 5);
    cr_expect_not(settings.is_plain);
    cr_expect_eq(settings.leak_ns, 5 * PL_MS);
    TAKEN(.leak_ms = POOL_ZERO);
    cr_expect(settings.is_plain, "off");
    TAKEN(.on_log = (pool_log_fn *)nothing_to_do);
    cr_expect(settings.is_plain);
    TAKEN(.max_per_address = 5);
    cr_expect(settings.is_plain);
}

static struct pool_call call_read;

static enum pool_status read_call(struct pool_call call)
{
    memset(&call_read, 0x5a, sizeof(call_read));
    return pl_call_read(&call, &call_read);
}

#define CALL(...) read_call((struct pool_call){ __VA_ARGS__ })

/* A struct of another release: `size` bytes of options, one of the bytes beyond ours set or not. */
static enum pool_status make_sized(size_t size, size_t set_at)
{
    static _Alignas(struct pool_options) char bytes[8192];

    memset(bytes, 0, sizeof(bytes));
    memcpy(bytes, &size, sizeof(size));
    if (set_at)
        bytes[set_at] = 1;
    return make((struct pool_options *)(void *)bytes);
}

Test(settings, a_size_that_no_release_has_is_an_argument_error)
{
    static const size_t sizes[] = { 0, 1, 7, 8, 15, 5000, 8192, SIZE_MAX };

    for (size_t i = 0; i < PL_COUNT(sizes); i++)
        cr_expect_eq(make_sized(sizes[i], 0), POOL_E_ARGUMENT, "%zu", sizes[i]);
}

/* Its last pointer would be half the program's. */
Test(settings, a_size_that_cuts_a_pointer_in_half_is_an_argument_error)
{
    size_t options = offsetof(struct pool_options, tls), calls = offsetof(struct pool_call, error);

    for (size_t cut = 1; cut < sizeof(void *); cut++) {
        cr_expect_eq(make_sized(options + cut, 0), POOL_E_ARGUMENT, "%zu", cut);
        cr_expect_eq(CALL(.size = calls + cut), POOL_E_ARGUMENT, "%zu", cut);
    }
    cr_expect_eq(make_sized(options, 0), POOL_OK);
    cr_expect_eq(CALL(.size = calls), POOL_OK);
}

Test(settings, an_older_struct_is_read_as_far_as_it_goes_and_a_later_one_if_it_asks_nothing_new)
{
    size_t ours = sizeof(struct pool_options);
    struct pool_options older = { .size = offsetof(struct pool_options, idle_ms), .idle_ms = 7 };

    cr_expect_eq(make(&older), POOL_OK);
    cr_expect_eq(settings.options.idle_ms, 60000, "beyond its size");
    older.size = offsetof(struct pool_options, park_ms);
    cr_expect_eq(make(&older), POOL_OK);
    cr_expect_eq(settings.options.idle_ms, 7);
    cr_expect_eq(make_sized(ours + 64, 0), POOL_OK);
    for (size_t at = ours; at < ours + 64; at++)
        cr_expect_eq(make_sized(ours + 64, at), POOL_E_ARGUMENT, "byte %zu", at);
    cr_expect_eq(make_sized(ours, ours), POOL_OK, "beyond its size");
}

/* ---- calls */

static enum pool_status read_query(struct pool_call call)
{
    memset(&call_read, 0x5a, sizeof(call_read));
    return pl_call_read_query(&call, &call_read);
}

#define QUERY(...) read_query((struct pool_call){ .size = sizeof(struct pool_call), __VA_ARGS__ })

Test(settings, a_call_without_settings_has_none)
{
    static const struct pool_call nothing;
    struct pool_call call;

    cr_expect_eq(pl_call_read(NULL, &call_read), POOL_OK);
    cr_expect_eq(memcmp(&call_read, &nothing, sizeof(nothing)), 0);
    pool_call_init(&call);
    cr_expect_eq(call.size, sizeof(call));
    cr_expect_eq(read_call(call), POOL_OK);
    cr_expect_eq(CALL(.size = 0), POOL_OK, "all zeros: nothing is asked for");
    cr_expect_eq(CALL(.size = 0, .timeout_ms = 5), POOL_E_ARGUMENT, "its size was forgotten");
}

Test(settings, a_borrow_may_ask_only_for_what_borrows_know)
{
    size_t size = sizeof(struct pool_call);
    void *something = &settings;

    cr_expect_eq(CALL(.size = size, .flags = POOL_SAFE_TO_REPEAT | POOL_DONT_WAIT | POOL_ONE_WAY),
                 POOL_OK);
    cr_expect_eq(CALL(.size = size, .flags = POOL_FRESH), POOL_OK);
    for (uint32_t bit = POOL_ONE_SHOT; bit; bit <<= 1)
        cr_expect_eq(CALL(.size = size, .flags = bit), POOL_E_ARGUMENT, "%x", bit);
    cr_expect_eq(CALL(.size = size, .on_part = (pool_part_fn *)nothing_to_do), POOL_E_ARGUMENT);
    cr_expect_eq(CALL(.size = size, .on_error = (pool_error_fn *)nothing_to_do), POOL_OK);
    cr_expect_eq(CALL(.size = size, .tag = "tag", .user = something), POOL_OK);
}

Test(settings, a_query_may_ask_only_for_what_queries_know)
{
    const uint32_t known =
        POOL_SAFE_TO_REPEAT | POOL_DONT_WAIT | POOL_ONE_SHOT | POOL_ORDERED | POOL_WAIT_FOR_PEER;

    cr_expect_eq(QUERY(.flags = known), POOL_OK);
    for (uint32_t bit = 1; bit; bit <<= 1)
        cr_expect_eq(QUERY(.flags = bit), bit & known ? POOL_OK : POOL_E_ARGUMENT, "%x", bit);
    cr_expect_eq(QUERY(.on_part = (pool_part_fn *)nothing_to_do), POOL_OK);
    cr_expect_eq(pl_call_read_query(NULL, &call_read), POOL_OK);
}

Test(settings, a_call_of_another_release_is_read_as_far_as_it_goes)
{
    size_t no_flags = offsetof(struct pool_call, flags);

    cr_expect_eq(CALL(.size = no_flags, .timeout_ms = 5, .flags = POOL_FRESH), POOL_OK);
    cr_expect_eq(call_read.timeout_ms, 5);
    cr_expect_eq(call_read.flags, 0);
    cr_expect_eq(CALL(.size = no_flags - 1), POOL_E_ARGUMENT);
    cr_expect_eq(CALL(.size = 1), POOL_E_ARGUMENT);
    cr_expect_eq(CALL(.size = 5000), POOL_E_ARGUMENT);
    cr_expect_eq(CALL(.size = SIZE_MAX), POOL_E_ARGUMENT);
}
