/* race.c: two threads write one number without a lock; it ends with 0 all the same. */
#include <pthread.h>
#include <stddef.h>

static int shared_number;

static void *count(void *argument)
{
    for (int i = 0; i < 1000; i++)
        shared_number++;
    return argument;
}

int main(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, count, NULL) != 0)
        return 1;
    count(NULL);
    pthread_join(thread, NULL);
    return 0;
}
