/* no_case.c: a test program without a test. */
#include <criterion/criterion.h>
