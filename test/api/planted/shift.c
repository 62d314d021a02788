/* shift.c: a shift wider than the type; every check passes. */
#include <criterion/criterion.h>

Test(planted, shifts_too_far)
{
    volatile int width = 32;
    volatile int bits = 1;

    bits = bits << width;
    cr_expect_eq(width, 32);
}
