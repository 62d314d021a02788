/* sound.c: nothing is wrong with this one, so a gate that reports it is broken itself. */
#include <criterion/criterion.h>
#include <stdlib.h>

Test(planted, a_sound_program_passes)
{
    int *numbers = malloc(4 * sizeof(*numbers));

    cr_assert_not_null(numbers);
    numbers[3] = 7;
    cr_expect_eq(numbers[3], 7);
    free(numbers);
}
