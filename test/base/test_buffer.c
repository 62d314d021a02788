/* test_buffer.c: bytes leave in the order in which they came, and a lack of memory loses none. */
#include "base/buffer.h"

#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "support/tests.h"

static struct pl_buffer buffer;
static unsigned char next_in, next_out;

static bool append(size_t size)
{
    unsigned char bytes[8192], byte = next_in;

    for (size_t i = 0; i < size; i++)
        bytes[i] = byte++;
    if (!pl_buffer_append(&buffer, bytes, size))
        return false;
    next_in = byte;
    return true;
}

/* All that is in it continues where the last drop ended. */
static void check(size_t size)
{
    unsigned char byte = next_out;

    cr_assert_eq(pl_buffer_size(&buffer), size);
    for (size_t i = 0; i < size; i++)
        cr_assert_eq((unsigned char)buffer.data[buffer.start + i], byte++);
}

static void drop(size_t size)
{
    pl_buffer_drop(&buffer, size);
    next_out = (unsigned char)(next_out + size);
}

Test(buffer, it_is_a_queue_of_bytes)
{
    size_t size = 0;

    for (uint32_t i = 1; i < 3000; i++) {
        size_t more = i * UINT64_C(2654435761) >> 7 & 0x1ff, less = i * UINT64_C(40503) & 0x3ff;

        cr_assert(append(more));
        size += more;
        less = less < size ? less : size;
        drop(less);
        size -= less;
        check(size);
    }
    cr_expect_leq(buffer.capacity, 64u << 10, "room in front is used again");
    pl_buffer_fini(&buffer);
    cr_expect_null(buffer.data);
    cr_expect_eq(pl_buffer_size(&buffer), 0);
}

Test(buffer, one_that_is_used_up_begins_again_at_its_front)
{
    cr_assert(append(500));
    drop(500);
    cr_assert(append(500));
    cr_expect_eq(buffer.capacity, 512, "it did not grow");
    check(500);
    pl_buffer_fini(&buffer);
}

static void *no_memory(void *memory, size_t size)
{
    (void)memory;
    (void)size;
    return NULL;
}

Test(buffer, without_memory_appending_fails_and_keeps_what_was_there)
{
    struct pl_os os = pl_os_real;

    cr_assert(append(400));
    drop(100);
    os.realloc = no_memory;
    pl_os_replace(&os);
    cr_expect_not(append(513));
    check(300);
    cr_expect(append(212), "what fits needs no memory");
    check(512);
    cr_expect_not(append(1));
    check(512);
    pl_os_replace(NULL);
    cr_expect(append(1));
    check(513);
    pl_buffer_fini(&buffer);
}

Test(buffer, a_size_that_cannot_be_is_refused_before_it_overflows)
{
    static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 16, SIZE_MAX / 2 + 1,
                                    SIZE_MAX / 4 };

    cr_assert(append(16));
    for (size_t i = 0; i < PL_COUNT(sizes); i++)
        cr_expect_not(pl_buffer_append(&buffer, "", sizes[i]), "%zx", sizes[i]);
    check(16);
    pl_buffer_fini(&buffer);
}

Test(buffer, nothing_can_be_appended_and_needs_no_memory)
{
    cr_expect(pl_buffer_append(&buffer, NULL, 0));
    cr_expect_null(buffer.data);
}

static void drop_five_of_four(void)
{
    cr_assert(append(4));
    pl_buffer_drop(&buffer, 5);
}

Test(buffer, dropping_more_than_there_is_ends_the_process)
{
    cr_expect(aborts_saying("invariant broken: size <= pl_buffer_size(buffer)", drop_five_of_four));
}
