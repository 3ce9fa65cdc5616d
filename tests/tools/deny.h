/* deny.h: system calls that fail, for suites with and without servers. */
#ifndef DENY_H
#define DENY_H

#include <stdbool.h>

/* From here on the system call NUMBER fails with ERROR, here and in what is started, when its
 * argument ARG (from 0) has one of BITS. False: not allowed here, errno says why. */
bool deny(unsigned number, unsigned arg, unsigned bits, unsigned error);

#endif
