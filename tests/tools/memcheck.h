/* memcheck.h: tests that mean nothing with memcheck, for suites with and without servers. */
#ifndef MEMCHECK_H
#define MEMCHECK_H

#include <stdbool.h>

/* Whether this runs for tests/tools/valgrind.sh, which sets MEMCHECK, and counts what is said here:
 * that TEST is left out, and why. The test then returns. */
#define NO_MARK "no process is marked: what /proc shows of an environment is memcheck's own"
bool left_out_with_memcheck(const char *test, const char *why);

#endif
