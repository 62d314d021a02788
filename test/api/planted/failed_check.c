/* failed_check.c: an expectation that does not hold. */
#include <criterion/criterion.h>

Test(planted, one_is_two)
{
    cr_expect_eq(1, 2);
}

Test(planted, one_is_one)
{
    cr_expect_eq(1, 1);
}
