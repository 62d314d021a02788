/* leak.c: memory that nobody frees; every check passes. */
#include <criterion/criterion.h>
#include <stdlib.h>

Test(planted, leaks)
{
    char *volatile memory = malloc(100);

    cr_expect_not_null(memory);
    memory = NULL;
}
