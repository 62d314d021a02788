/* os_file.c: whole files and the names in a directory, for settings that are read once, and when a
 * file changed. Nothing
 * here is meant for a path that is taken often.
 */
#include "base/os_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FIRST_READ 4096
#define NS_PER_S UINT64_C(1000000000)

/* No cancellation points: see os.c. */
static int open_path(const char *path, int flags)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_RDONLY | O_CLOEXEC, 0);

    return fd < 0 ? -errno : fd;
}

static ssize_t read_some(int fd, char *buffer, size_t size)
{
    ssize_t got;

    do
        got = syscall(SYS_read, fd, buffer, size);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

/* The file's bytes, ended by a zero byte; `most` of them at most. */
static ssize_t read_all(int fd, size_t most, char **text)
{
    size_t size = 0, capacity = 0;
    char *grown;
    ssize_t got;

    *text = NULL;
    do {
        if (size + 1 >= capacity) {
            capacity = capacity ? capacity * 2 : FIRST_READ;
            grown = pl_os->realloc(*text, capacity);
            if (!grown)
                return -ENOMEM;
            *text = grown;
        }
        got = read_some(fd, *text + size, capacity - size - 1);
        if (got < 0)
            return got;
        size += (size_t)got;
        if (size > most)
            return -EFBIG;
    } while (got);
    (*text)[size] = '\0';
    return (ssize_t)size;
}

ssize_t pl_os_real_read_file(const char *path, size_t most, char **text)
{
    int saved = errno, fd = open_path(path, O_NOCTTY);
    ssize_t size = fd;

    if (fd >= 0) {
        size = read_all(fd, most, text);
        syscall(SYS_close, fd);
        if (size < 0) {
            pl_os->free(*text);
            *text = NULL;
        }
    }
    errno = saved;
    return size;
}

/* Negative errno, or 0 when all entries, or as many as were wanted, were told. */
static int tell_entries(int fd, pl_entry_fn *on_entry, void *user)
{
    _Alignas(struct dirent64) char entries[4096];
    long size, at;

    while ((size = syscall(SYS_getdents64, fd, entries, sizeof(entries))) > 0) {
        for (at = 0; at < size;) {
            const struct dirent64 *entry = (const struct dirent64 *)(const void *)(entries + at);

            if (!on_entry(entry->d_name, user))
                return 0;
            at += entry->d_reclen;
        }
    }
    return size < 0 ? -errno : 0;
}

int pl_os_real_list_directory(const char *path, pl_entry_fn *on_entry, void *user)
{
    int saved = errno, fd = open_path(path, O_DIRECTORY), result = fd;

    if (fd >= 0) {
        result = tell_entries(fd, on_entry, user);
        syscall(SYS_close, fd);
    }
    errno = saved;
    return result;
}

int pl_os_real_file_stamp(const char *path, struct pl_file_stamp *stamp)
{
    struct stat status;
    int saved = errno, result = stat(path, &status) < 0 ? -errno : 0;

    errno = saved;
    if (result < 0)
        return result;
    /* The time of a change of the inode covers writing and renaming, too. */
    *stamp = (struct pl_file_stamp){
        .device = status.st_dev,
        .inode = status.st_ino,
        .size = (uint64_t)status.st_size,
        .changed_ns =
            (uint64_t)status.st_ctim.tv_sec * NS_PER_S + (uint64_t)status.st_ctim.tv_nsec,
    };
    return 0;
}
