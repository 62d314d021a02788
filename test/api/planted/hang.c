/* hang.c: a program that never ends. */
#include <unistd.h>

int main(void)
{
    for (;;)
        pause();
}
