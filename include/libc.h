/* libc.h: what a C library may lack of what hangupd calls: musl, and glibc before 2.34.
 *
 *     #include "libc.h"                  text.h does it, and so everybody has it
 *     close_range(3, ~0U, 0);            the library's, or the kernel's own call
 *
 * They are macros, since a later version of the library may declare functions of these names. The
 * kernel's headers are needed anyway (linux-libc-dev, on Alpine linux-headers).
 *
 * Kind: pure.
 * Signal safety: all of it may be called in a signal handler.
 */
#ifndef HANGUPD_LIBC_H
#define HANGUPD_LIBC_H

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifdef __GLIBC__
#define LIBC_IS_OLDER_THAN(minor) (!__GLIBC_PREREQ(2, minor))
#else
#define LIBC_IS_OLDER_THAN(minor) 1
#endif

#if LIBC_IS_OLDER_THAN(34)
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define close_range(first, last, flags) syscall(SYS_close_range, first, last, flags)
#endif

/* The text of an error, from a table: strerror(3) may translate, which takes memory, but in musl,
 * whose strings are constant. */
#if !defined __GLIBC__
#define strerrordesc_np(error) ((const char *)strerror(error))
#elif LIBC_IS_OLDER_THAN(32)
#define strerrordesc_np(error)                                                                     \
    ((error) >= 0 && (error) < sys_nerr ? sys_errlist[error] : (const char *)NULL)
#endif

#ifndef __GLIBC__
#ifndef STATX_BASIC_STATS
#include <linux/stat.h>
#define statx(dir, path, flags, mask, to) syscall(SYS_statx, dir, path, flags, mask, to)
#endif
#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define renameat2(from, name, to, other, flags) syscall(SYS_renameat2, from, name, to, other, flags)
#endif
#ifndef RWF_APPEND
#define RWF_APPEND 0x10
/* The kernel's call takes the offset in two halves; of -1, which is all that is asked for, both are
 * -1. */
#define pwritev2(fd, v, count, offset, flags)                                                      \
    ((ssize_t)syscall(SYS_pwritev2, fd, v, count, (long)(offset), (long)(offset), flags))
#endif
#endif

/* Close the descriptors FIRST to LAST; one by one where a sandbox forbids close_range(2). */
static inline void close_from_to(int first, int last)
{
    struct rlimit limit;
    if (close_range((unsigned)first, (unsigned)last, 0) == 0 ||
        getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    for (int fd = first; fd <= last && (rlim_t)fd < limit.rlim_cur; fd++)
        close(fd);
}

#endif
