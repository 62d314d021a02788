/* skipped.c: a program that cannot run here and says so. */
int main(void)
{
    return 77;
}
