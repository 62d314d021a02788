/* uninitialised.c: a decision on memory that was never written; every check passes. */
#include <criterion/criterion.h>
#include <stdlib.h>

Test(planted, decides_on_nothing)
{
    volatile int *number = malloc(sizeof(*number));
    volatile int seen = 0;

    cr_assert_not_null((void *)number);
    if (*number == 42)
        seen = 1;
    cr_expect(seen == 0 || seen == 1);
    free((void *)number);
}
