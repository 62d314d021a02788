/* heap_overflow.c: a write one past the end; every check passes. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(planted, writes_past_the_end)
{
    volatile size_t size = 17;
    char *memory = malloc(16);

    cr_assert_not_null(memory);
    memset(memory, 1, size);
    cr_expect_eq(memory[15], 1);
    free(memory);
}
