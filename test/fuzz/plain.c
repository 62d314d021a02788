/* plain.c: see plain.h. */
#include "fuzz/plain.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CORPUS COMMPOOL_SOURCE "/test/fuzz/corpus/"
#define LONGEST 5000
#define FILES 128

struct input {
    uint8_t bytes[LONGEST];
    size_t size;
};

static struct input corpus[FILES];
static size_t files;
static uint64_t state;

/* splitmix64 */
static size_t any(size_t count)
{
    uint64_t mixed = state += UINT64_C(0x9e3779b97f4a7c15);

    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return (size_t)((mixed ^ mixed >> 31) % count);
}

static void give_up(const char *path)
{
    fprintf(stderr, "cannot read %s\n", path);
    exit(1);
}

static void load(const char *path, struct input *input)
{
    FILE *file = fopen(path, "rb");

    if (!file)
        give_up(path);
    input->size = fread(input->bytes, 1, sizeof(input->bytes), file);
    fclose(file);
}

/* In the order of their names, so that a seed means the same everywhere. */
static void load_corpus(const char *name)
{
    struct dirent **entries;
    char path[1024];
    int count;

    snprintf(path, sizeof(path), CORPUS "%s", name);
    count = scandir(path, &entries, NULL, alphasort);
    if (count < 0)
        give_up(path);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof(path), CORPUS "%s/%s", name, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.' && files < FILES)
            load(path, &corpus[files++]);
        free(entries[i]);
    }
    free(entries);
    if (!files)
        give_up(path);
}

/* Replaces `removed` bytes at `at` by `size` others, as far as there is room. */
static void replace(struct input *input, size_t at, size_t removed, const void *bytes, size_t size)
{
    uint8_t copy[LONGEST];
    size_t rest = input->size - at - removed;

    if (input->size - removed + size > LONGEST)
        return;
    memcpy(copy, bytes, size);
    memmove(input->bytes + at + size, input->bytes + at + removed, rest);
    memcpy(input->bytes + at, copy, size);
    input->size = at + size + rest;
}

static const char *any_word(const struct plain *plain, const struct input *input)
{
    const char *const *words = plain->words(input->bytes, input->size);
    size_t count = 0;

    while (words[count])
        count++;
    return words[any(count)];
}

static void mutate(const struct plain *plain, struct input *input)
{
    size_t at = any(input->size + 1), rest = input->size - at, size;
    const struct input *other = &corpus[any(files)];
    const char *word = any_word(plain, input);
    uint8_t byte = (uint8_t)any(256);

    switch (any(6)) {
    case 0:
        replace(input, at, 0, word, strlen(word));
        break;
    case 1:
        replace(input, at, rest ? 1 : 0, &byte, 1);
        break;
    case 2:
        replace(input, at, any(rest + 1), "", 0);
        break;
    case 3:
        size = any(other->size + 1);
        replace(input, at, any(rest + 1), other->bytes + other->size - size, size);
        break;
    case 4:
        replace(input, at, 0, input->bytes + at, any(rest + 1));
        break;
    default:
        replace(input, at, rest ? 1 : 0, word, strlen(word));
    }
}

static void run(const struct plain *plain, uint64_t seed, unsigned long rounds)
{
    static struct input input;

    state = seed;
    for (unsigned long i = 0; i < rounds; i++) {
        if (i % 16 == 0)
            input = corpus[any(files)];
        mutate(plain, &input);
        plain->run(input.bytes, input.size);
    }
    printf("%s: %zu files, %lu mutations of seed %llu\n", plain->name, files, rounds,
           (unsigned long long)seed);
}

static void replay(const struct plain *plain, int count, char **paths)
{
    static struct input input;

    for (int i = 0; i < count; i++) {
        load(paths[i], &input);
        plain->run(input.bytes, input.size);
    }
}

int plain_main(const struct plain *plain, int argc, char **argv)
{
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : plain->rounds;
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;

    if (argc > 1 && !seed) {
        replay(plain, argc - 1, argv + 1);
        return 0;
    }
    load_corpus(plain->name);
    for (size_t i = 0; i < files; i++)
        plain->run(corpus[i].bytes, corpus[i].size);
    run(plain, seed, rounds);
    return 0;
}
