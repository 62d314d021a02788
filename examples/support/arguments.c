/* arguments.c: what the examples understand on the command line. */
#include "support/arguments.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool argument_address(int argc, char **argv, const char *usage, char address[256])
{
    int size = 256;

    if (argc > 1 && argv[1][0] != '-')
        size = snprintf(address, 256, "%s%s", strstr(argv[1], "://") ? "" : "tcp://", argv[1]);
    if (size < 256)
        return true;
    fprintf(stderr, "usage: ./examples/run %s\n", usage);
    return false;
}

long argument_number(int argc, char **argv, int index, long otherwise, long most)
{
    char *end;
    long number;

    if (argc <= index)
        return otherwise;
    number = strtol(argv[index], &end, 10);
    if (number >= 1 && number <= most && *end == '\0')
        return number;
    fprintf(stderr, "'%s' is no number from 1 to %ld\n", argv[index], most);
    return 0;
}
