/* test_out.c: a frame is written whole or not at all, within its bound, whatever its codec does. */
#include "wire/out.h"

#include <criterion/criterion.h>
#include <limits.h>
#include <string.h>

#include "base/os.h"

#define MOST 10u

/* A codec that writes the body twice, and answers what the test asks for. */
static struct {
    int answer;
    bool answers, ignores; /* `answer` instead of its own; what appending said */
    enum pool_status appended;
} is;

static enum pool_status encode(void *state, enum pool_message_kind kind, uint64_t key,
                               struct pool_bytes body, struct pool_out *out,
                               struct pool_expect *expect)
{
    (void)state;
    (void)kind;
    expect->replies = 3;
    expect->hint = key;
    is.appended = pool_out_append(out, body.data, body.size);
    if (!is.appended || is.ignores)
        is.appended = pool_out_append(out, body.data, body.size);
    if (is.answers)
        return (enum pool_status)is.answer;
    return is.ignores ? POOL_OK : is.appended;
}

static const struct pool_codec codec = { .size = sizeof(codec), .name = "twice", .encode = encode };

static struct pl_buffer buffer;
static struct pool_out out;
static struct pool_expect expect;

static void init(void)
{
    memset(&is, 0, sizeof(is));
    out = (struct pool_out){ .buffer = &buffer, .most = MOST };
}

static void fini(void)
{
    pl_buffer_fini(&buffer);
}

TestSuite(out, .init = init, .fini = fini);

static enum pool_status write_text(const char *body)
{
    struct pl_frame frame = { .kind = POOL_REQUEST, .key = 7, .body = { body, strlen(body) } };

    return pl_out_encode(&out, &codec, NULL, &frame, &expect);
}

static bool has(const char *text)
{
    return pl_buffer_size(&buffer) == strlen(text) &&
           (!*text || memcmp(buffer.data + buffer.start, text, strlen(text)) == 0);
}

Test(out, frames_stand_one_behind_the_other_and_say_what_comes_back)
{
    cr_expect_eq(write_text("ab"), POOL_OK);
    cr_expect_eq(expect.size, sizeof(expect));
    cr_expect_eq(expect.replies, 3);
    cr_expect_eq(expect.hint, 7);
    cr_expect_eq(write_text("c"), POOL_OK);
    cr_expect(has("ababcc"));
}

Test(out, the_bound_is_that_of_one_frame)
{
    cr_expect_eq(write_text("abcde"), POOL_OK);
    cr_expect_eq(write_text("fghij"), POOL_OK);
    cr_expect_eq(write_text("klmnop"), POOL_E_FULL);
    cr_expect_eq(is.appended, POOL_E_FULL);
    cr_expect(has("abcdeabcdefghijfghij"), "nothing of the third");
    cr_expect_eq(write_text("k"), POOL_OK, "the next one is not concerned");
}

Test(out, what_a_codec_does_not_look_at_is_refused_all_the_same)
{
    is.ignores = true;
    cr_expect_eq(write_text("abcdef"), POOL_E_FULL);
    cr_expect(has(""));
}

Test(out, after_the_first_failure_nothing_is_appended)
{
    is.ignores = true;
    out.most = 11;
    cr_assert_eq(write_text("abcdef"), POOL_E_FULL);
    cr_expect_eq(pool_out_append(&out, "x", 1), POOL_E_FULL);
    cr_expect(has(""));
}

Test(out, what_a_codec_wrote_before_it_refused_is_taken_back)
{
    cr_assert_eq(write_text("a"), POOL_OK);
    is.answers = true;
    is.answer = POOL_E_ARGUMENT;
    cr_expect_eq(write_text("bc"), POOL_E_ARGUMENT);
    cr_expect(has("aa"));
}

Test(out, an_answer_that_is_no_status_is_the_fault_of_the_codec)
{
    static const int answers[] = { 1, INT_MAX, POOL_E_SYSTEM - 1, INT_MIN, POOL_E_WOULD_BLOCK };

    is.answers = true;
    for (size_t i = 0; i < PL_COUNT(answers); i++) {
        is.answer = answers[i];
        cr_expect_eq(write_text("a"), POOL_E_USER, "%d", answers[i]);
        cr_expect(has(""));
    }
}

static void *no_memory(void *memory, size_t size)
{
    (void)memory;
    (void)size;
    return NULL;
}

Test(out, without_memory_a_frame_is_not_begun)
{
    struct pl_os os = pl_os_real;

    os.realloc = no_memory;
    pl_os_replace(&os);
    cr_expect_eq(write_text("abc"), POOL_E_MEMORY);
    is.ignores = true;
    cr_expect_eq(write_text("abc"), POOL_E_MEMORY);
    pl_os_replace(NULL);
    cr_expect(has(""));
    cr_expect_eq(write_text("abc"), POOL_OK);
    cr_expect(has("abcabc"));
}

Test(out, appending_to_nothing_and_of_nothing_is_told)
{
    cr_expect_eq(pool_out_append(NULL, "a", 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_out_append(&out, NULL, 1), POOL_E_ARGUMENT);
    cr_expect_eq(pool_out_append(&out, NULL, 0), POOL_OK);
    cr_expect(has(""));
}

Test(out, a_size_that_would_wrap_the_bound_is_full)
{
    out.most = SIZE_MAX - 1;
    cr_expect_eq(pool_out_append(&out, "a", SIZE_MAX), POOL_E_FULL);
    out.status = POOL_OK;
    cr_expect_eq(pool_out_append(&out, "a", SIZE_MAX - 1), POOL_E_MEMORY);
}
