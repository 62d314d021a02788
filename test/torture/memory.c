/* memory.c: see memory.h. */
#include "torture/memory.h"

#include <ares.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"

struct block {
    struct pl_list link; /* in `left`, while it is remembered */
    const char *file; /* NULL: c-ares, which does not say */
    int line;
    size_t size;
    _Alignas(max_align_t) char bytes[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct pl_list left = { &left, &left };

/* Of the tested thread. */
static __thread struct {
    enum memory_of of;
    bool is_remembering, is_counting, for_good, has_struck;
    unsigned long count, point;
} now;

static bool strikes(enum memory_of of)
{
    if (!now.is_counting || now.of != of)
        return false;
    now.count++;
    if (!now.point || now.count < now.point || (now.count > now.point && !now.for_good))
        return false;
    now.has_struck = true;
    return true;
}

static struct block *block_of(void *memory)
{
    return (struct block *)(void *)((char *)memory - offsetof(struct block, bytes));
}

static void *give(enum memory_of of, size_t size, const char *file, int line)
{
    struct block *block = strikes(of) ? NULL : malloc(sizeof(*block) + size);

    if (!block)
        return NULL;
    block->link = (struct pl_list){ NULL, NULL };
    block->file = file;
    block->line = line;
    block->size = size;
    if (now.is_remembering) {
        pthread_mutex_lock(&lock);
        pl_list_push_back(&left, &block->link);
        pthread_mutex_unlock(&lock);
    }
    return block->bytes;
}

static void take(void *memory)
{
    struct block *block;

    if (!memory)
        return;
    block = block_of(memory);
    pthread_mutex_lock(&lock);
    if (pl_list_is_linked(&block->link))
        pl_list_unlink(&block->link);
    pthread_mutex_unlock(&lock);
    free(block);
}

static void *give_again(enum memory_of of, void *memory, size_t size, const char *file, int line)
{
    size_t old_size = memory ? block_of(memory)->size : 0;
    void *more;

    if (memory && !size) {
        take(memory);
        return NULL;
    }
    more = give(of, size, file, line);
    if (more && memory) {
        memcpy(more, memory, old_size < size ? old_size : size);
        take(memory);
    }
    return more;
}

static void *openssl_malloc(size_t size, const char *file, int line)
{
    return give(MEMORY_OPENSSL, size, file, line);
}

static void *openssl_realloc(void *memory, size_t size, const char *file, int line)
{
    return give_again(MEMORY_OPENSSL, memory, size, file, line);
}

static void openssl_free(void *memory, const char *file, int line)
{
    (void)file;
    (void)line;
    take(memory);
}

static void *cares_malloc(size_t size)
{
    return give(MEMORY_CARES, size, NULL, 0);
}

static void *cares_realloc(void *memory, size_t size)
{
    return give_again(MEMORY_CARES, memory, size, NULL, 0);
}

bool memory_take_over(void)
{
    return CRYPTO_set_mem_functions(openssl_malloc, openssl_realloc, openssl_free) == 1 &&
           ares_library_init_mem(ARES_LIB_INIT_ALL, cares_malloc, take, cares_realloc) ==
               ARES_SUCCESS;
}

void memory_begin(enum memory_of of, unsigned long point, bool for_good)
{
    pthread_mutex_lock(&lock);
    while (!pl_list_is_empty(&left))
        pl_list_pop_front(&left);
    pthread_mutex_unlock(&lock);
    now.of = of;
    now.point = point;
    now.for_good = for_good;
    now.count = 0;
    now.has_struck = false;
    now.is_counting = now.is_remembering = true;
}

void memory_heal(void)
{
    now.is_counting = false;
}

void memory_end(void)
{
    now.is_counting = now.is_remembering = false;
}

bool memory_has_struck(void)
{
    return now.has_struck;
}

unsigned long memory_count(void)
{
    return now.count;
}

/* OpenSSL's cache of algorithms, which is filled whenever one was looked for. */
static bool is_of_process(const struct block *block)
{
    return block->file && strstr(block->file, "crypto/property/");
}

unsigned memory_left(bool says)
{
    unsigned count = 0;

    OPENSSL_thread_stop(); /* the texts of this thread's last errors are kept */
    pthread_mutex_lock(&lock);
    PL_LIST_EACH(link, &left) {
        const struct block *block = pl_container(link, struct block, link);

        if (is_of_process(block))
            continue;
        count++;
        if (says)
            printf("    left: %zu bytes of %s:%d\n", block->size,
                   block->file ? block->file : "c-ares", block->line);
    }
    pthread_mutex_unlock(&lock);
    return count;
}
