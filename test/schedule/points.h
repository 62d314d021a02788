/* points.h: given to the compiler before each source of the library (-include), it makes every lock
 * and every atomic operation a point at which the schedule may let another thread run (schedule.h).
 *
 * The operations stay what they were. A lock is tried for and not waited for, since who has it may
 * have to run first. */
#ifndef TEST_SCHEDULE_POINTS_H
#define TEST_SCHEDULE_POINTS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <pthread.h>
#include <stdatomic.h>

void schedule_point(void);
void schedule_yield(void);
void schedule_leave(void);
void schedule_come(void);

#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_exchange_explicit
#undef atomic_compare_exchange_strong_explicit
#undef atomic_compare_exchange_weak_explicit
#undef atomic_fetch_add
#undef atomic_fetch_sub
#undef atomic_fetch_or
#undef atomic_fetch_and
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub_explicit

#define atomic_load_explicit(object, order) \
    __extension__({ \
        __auto_type point_object = (object); \
        __typeof__((void)0, *point_object) point_value; \
        schedule_point(); \
        __atomic_load(point_object, &point_value, (order)); \
        point_value; \
    })
#define atomic_store_explicit(object, value, order) \
    __extension__({ \
        __auto_type point_object = (object); \
        __typeof__((void)0, *point_object) point_value = (value); \
        schedule_point(); \
        __atomic_store(point_object, &point_value, (order)); \
    })
#define atomic_exchange_explicit(object, value, order) \
    __extension__({ \
        __auto_type point_object = (object); \
        __typeof__((void)0, *point_object) point_value = (value), point_old; \
        schedule_point(); \
        __atomic_exchange(point_object, &point_value, &point_old, (order)); \
        point_old; \
    })
#define atomic_compare_exchange_strong_explicit(object, expected, value, order, failed) \
    __extension__({ \
        __auto_type point_object = (object); \
        __typeof__((void)0, *point_object) point_value = (value); \
        schedule_point(); \
        __atomic_compare_exchange(point_object, (expected), &point_value, 0, (order), (failed)); \
    })
#define atomic_compare_exchange_weak_explicit(object, expected, value, order, failed) \
    atomic_compare_exchange_strong_explicit(object, expected, value, order, failed)
#define atomic_fetch_add(object, value) \
    (schedule_point(), __atomic_fetch_add((object), (value), __ATOMIC_SEQ_CST))
#define atomic_fetch_add_explicit(object, value, order) \
    (schedule_point(), __atomic_fetch_add((object), (value), (order)))
#define atomic_fetch_sub_explicit(object, value, order) \
    (schedule_point(), __atomic_fetch_sub((object), (value), (order)))
#define atomic_fetch_sub(object, value) \
    (schedule_point(), __atomic_fetch_sub((object), (value), __ATOMIC_SEQ_CST))
#define atomic_fetch_or(object, value) \
    (schedule_point(), __atomic_fetch_or((object), (value), __ATOMIC_SEQ_CST))
#define atomic_fetch_and(object, value) \
    (schedule_point(), __atomic_fetch_and((object), (value), __ATOMIC_SEQ_CST))

static inline int point_lock(pthread_mutex_t *mutex)
{
    schedule_point();
    while (pthread_mutex_trylock(mutex))
        schedule_yield();
    return 0;
}

static inline int point_unlock(pthread_mutex_t *mutex)
{
    int error = pthread_mutex_unlock(mutex);

    schedule_point();
    return error;
}

static inline int point_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    int error;

    schedule_leave();
    error = pthread_cond_wait(condition, mutex);
    schedule_come();
    return error;
}

#define pthread_mutex_lock(mutex) point_lock(mutex)
#define pthread_mutex_unlock(mutex) point_unlock(mutex)
#define pthread_cond_wait(condition, mutex) point_wait(condition, mutex)

#endif
