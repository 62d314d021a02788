/* arguments.h: what the examples understand on the command line. */
#ifndef EXAMPLES_ARGUMENTS_H
#define EXAMPLES_ARGUMENTS_H

#include <stdbool.h>

/* Makes an address of the first argument: one without a scheme, such as 127.0.0.1:6379, is a tcp
 * one. Without an argument, or with one that is too long, it prints `usage`, what stands behind
 * "usage: ./examples/run", and answers false. */
bool argument_address(int argc, char **argv, const char *usage, char address[256]);

/* Answers argument `index` as a number from 1 to `most`, or `otherwise` when there is none; prints
 * what is wrong and answers 0 when it is no such number. */
long argument_number(int argc, char **argv, int index, long otherwise, long most);

#endif
