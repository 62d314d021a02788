/* options.c: see options.h. */
#include "base/options.h"

#include <string.h>

#define LARGEST_STRUCT 4096u /* no release's struct is that large: the size was never set */

bool pl_options_copy(void *copy, size_t known, const void *given, size_t smallest)
{
    size_t size;

    memcpy(&size, given, sizeof(size));
    if (size < smallest || size > LARGEST_STRUCT || size % sizeof(void *))
        return false; /* no struct with a pointer ends so: half of one would be followed */
    memcpy(copy, given, size < known ? size : known);
    for (size_t i = known; i < size; i++) {
        if (((const char *)given)[i])
            return false; /* a later release's field, set: ignoring it could be unsafe */
    }
    return true;
}
