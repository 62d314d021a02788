/* subject.c: see subject.h. */
#include "base/subject.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define KEPT 16
#define NUMBERS 1023

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* only ever tried */
static struct {
    uint16_t number;
    char name[PL_SUBJECT];
} kept[KEPT];
static uint16_t last;

uint16_t pl_subject_note(const char *name)
{
    uint16_t number;

    if (!*name || pthread_mutex_trylock(&lock))
        return 0;
    number = last = last % NUMBERS + 1;
    kept[number % KEPT].number = number;
    snprintf(kept[number % KEPT].name, PL_SUBJECT, "%s", name);
    pthread_mutex_unlock(&lock);
    return number;
}

void pl_subject_find(uint16_t number, char *name)
{
    *name = '\0';
    if (!number || pthread_mutex_trylock(&lock))
        return;
    if (kept[number % KEPT].number == number)
        memcpy(name, kept[number % KEPT].name, PL_SUBJECT);
    pthread_mutex_unlock(&lock);
}
