/* signed_overflow.c: an addition past the largest number; every check passes. */
#include <criterion/criterion.h>
#include <limits.h>

Test(planted, adds_past_the_largest)
{
    volatile int number = INT_MAX;

    number = number + 1;
    cr_expect(true);
}
