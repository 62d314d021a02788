/* world_file.c: descriptor numbers and the open files that they name, ours and those of foreign
 * code.
 *
 * A file ends when its last number is closed and no call waits on it any more; only then does its
 * peer hear of it and do the epoll sets forget it. That is how the kernel does it, and what stolen
 * and inherited sockets depend on.
 */
#include <errno.h>
#include <stdlib.h>

#include "world/world_parts.h"

static int lowest_free(struct world *world)
{
    for (unsigned fd = WORLD_FIRST_FD; fd < world->number_limit; fd++) {
        if (!world->numbers[fd])
            return (int)fd;
    }
    return -EMFILE;
}

static void name_file(struct world *world, int fd, struct world_file *file)
{
    world->numbers[fd] = file;
    if ((unsigned)fd >= world->highest)
        world->highest = (unsigned)fd + 1;
}

static struct world_file *make_file(struct world *world, enum file_kind kind)
{
    struct world_file *file = world_memory(sizeof(*file));

    file->world = world;
    file->kind = kind;
    file->refs = 1;
    file->deadline_ns = PL_NEVER;
    file->socket.cookie = ++world->last_cookie;
    pl_list_init(&file->watchers);
    pl_list_init(&file->watches);
    pl_list_push_back(&world->files, &file->all_link);
    return file;
}

int world_file_open(struct world *world, enum file_kind kind, struct world_file **file)
{
    int fd = lowest_free(world);

    if (fd < 0)
        return fd;
    *file = make_file(world, kind);
    name_file(world, fd, *file);
    return fd;
}

struct world_file *world_file_at(struct world *world, int fd)
{
    return fd >= WORLD_FIRST_FD && (unsigned)fd < world->highest ? world->numbers[fd] : NULL;
}

struct world_file *world_file_ours(struct world *world, int fd, bool changes)
{
    struct world_file *file = world_file_at(world, fd);

    if (file && file->is_foreign && changes)
        world->violations++;
    return file;
}

void world_file_unref(struct world_file *file)
{
    if (--file->refs)
        return;
    world_forget_watches(file);
    if (file->kind == FILE_SOCKET)
        world_socket_release(file);
    pl_list_unlink(&file->all_link);
    free(file->socket.inbox.data);
    free(file);
}

int door_close(int fd)
{
    struct world *world = world_current;
    struct world_file *file = world_file_ours(world, fd, true);

    world->calls++;
    world_note_call(world);
    if (!file) {
        world->violations++; /* closed twice: the number may be anybody's by now */
        return -EBADF;
    }
    world->numbers[fd] = NULL;
    world_file_unref(file);
    return 0;
}

unsigned world_descriptors(const struct world *world)
{
    unsigned count = 0;

    for (unsigned fd = WORLD_FIRST_FD; fd < world->highest; fd++)
        count += world->numbers[fd] && !world->numbers[fd]->is_foreign;
    return count;
}

/* ---- foreign code */

static struct world_file *make_foreign(struct world *world)
{
    struct world_file *file = make_file(world, FILE_SOCKET);

    file->is_foreign = true;
    file->socket.family = AF_UNIX;
    file->socket.state = SOCKET_CONNECTED;
    return file;
}

int world_foreign_open(struct world *world)
{
    int fd = lowest_free(world);

    if (fd >= 0)
        name_file(world, fd, make_foreign(world));
    return fd;
}

void world_foreign_close(struct world *world, int fd)
{
    struct world_file *file = world_file_at(world, fd);

    if (!file)
        return;
    world->numbers[fd] = NULL;
    world_file_unref(file);
}

int world_foreign_replace(struct world *world, int fd)
{
    if (fd < WORLD_FIRST_FD || fd >= WORLD_MOST_FDS)
        return -EBADF;
    world_foreign_close(world, fd);
    name_file(world, fd, make_foreign(world));
    return fd;
}

void world_foreign_say(struct world *world, int fd, const void *bytes, size_t size)
{
    struct world_file *file = world_file_at(world, fd);

    if (!file || !file->is_foreign)
        world_fail("%d is no foreign socket", fd);
    world_bytes_add(&file->socket.inbox, bytes, size);
}

void world_foreign_hold(struct world *world, int fd)
{
    struct world_file *file = world_file_at(world, fd);

    if (file)
        file->refs++;
}
