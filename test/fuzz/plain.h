/* plain.h: the main() of a fuzzer that libFuzzer does not drive: mutates the files of a corpus with
 * a generator of its own, so that the suite runs the same inputs every time.
 *
 *     fuzz_NAME                        a fixed seed and number of rounds over corpus/NAME
 *     fuzz_NAME SEED ROUNDS            others; a seed is not 0
 *     fuzz_NAME FILE...                replays files
 */
#ifndef TEST_FUZZ_PLAIN_H
#define TEST_FUZZ_PLAIN_H

#include <stddef.h>
#include <stdint.h>

struct plain {
    const char *name; /* and that of the folder of its corpus */
    unsigned long rounds;
    /* What mutations may put into this input, up to a NULL. */
    const char *const *(*words)(const uint8_t *data, size_t size);
    int (*run)(const uint8_t *data, size_t size);
};

int plain_main(const struct plain *plain, int argc, char **argv);

#endif
