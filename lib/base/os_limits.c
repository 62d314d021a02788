/* os_limits.c: see os_limits.h. */
#include "base/os_limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/os.h"

#define PROBED (1 << 20)                /* descriptor numbers that are tried one by one, at most */

uint32_t pl_os_real_processors(void)
{
    int saved = errno, count;
    cpu_set_t set;

    count = sched_getaffinity(0, sizeof(set), &set) ? 0 : CPU_COUNT(&set);
    errno = saved;
    return count > 0 ? (uint32_t)count : 1;
}

uint64_t pl_os_real_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1024;
    return limit.rlim_cur;
}

/* An entry of /proc/self/fd: is it a number below the limit, and not the one we look through? */
static bool is_counted(const char *name, uint64_t limit, int own)
{
    char *end;
    unsigned long fd = strtoul(name, &end, 10);

    return end != name && !*end && fd < limit && fd != (unsigned long)own;
}

/* Negative errno, or how many numbers below the limit are open. */
static long count_listed(int directory, uint64_t limit)
{
    _Alignas(struct dirent64) char entries[4096];
    long count = 0, size, at;

    while ((size = syscall(SYS_getdents64, directory, entries, sizeof(entries))) > 0) {
        for (at = 0; at < size;) {
            const struct dirent64 *entry = (const struct dirent64 *)(const void *)(entries + at);

            count += is_counted(entry->d_name, limit, directory);
            at += entry->d_reclen;
        }
    }
    return size < 0 ? -errno : count;
}

/* Where /proc is not mounted. Numbers are given out from below, so hardly any is beyond what is
 * looked at here. */
static long count_probed(uint64_t limit)
{
    long count = 0;

    for (int fd = 0; fd < PROBED && (uint64_t)fd < limit; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

int pl_os_real_free_descriptors(void)
{
    int saved = errno, error;
    uint64_t limit = pl_os_real_descriptor_limit(), free;
    int directory = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    long count;

    error = directory < 0 ? errno : 0;
    count = directory < 0 ? -error : count_listed(directory, limit);
    if (directory >= 0)
        close(directory);
    if (count < 0 && !pl_is_out_of_descriptors((int)-count))
        count = count_probed(limit);
    errno = saved;
    if (count < 0)
        return (int)count;
    free = limit > (uint64_t)count ? limit - (uint64_t)count : 0;
    return free < INT_MAX ? (int)free : INT_MAX;
}
