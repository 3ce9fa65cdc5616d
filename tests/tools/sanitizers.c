/* sanitizers.c: linked into every suite. A test does not free what dies with its process; the
 * servers that it starts must, and LeakSanitizer looks at these. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return 1;
}
