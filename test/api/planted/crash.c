/* crash.c: a case that dies of a signal. */
#include <criterion/criterion.h>
#include <stdlib.h>

Test(planted, dies)
{
    abort();
}
