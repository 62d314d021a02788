/* os_file.h: the door's real side for files, which os.c puts into its table. What the functions
 * answer is said in os.h. */
#ifndef PL_BASE_OS_FILE_H
#define PL_BASE_OS_FILE_H

#include "base/os.h"

ssize_t pl_os_real_read_file(const char *path, size_t most, char **text);
int pl_os_real_list_directory(const char *path, pl_entry_fn *on_entry, void *user);
int pl_os_real_file_stamp(const char *path, struct pl_file_stamp *stamp);

#endif
