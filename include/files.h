/* files.h: small calls on descriptors, and names that nobody can guess.
 *
 * Each does one thing that every file here needs done in the same way. Directories and what is in
 * them are no business of this room.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_FILES_H
#define HANGUPD_FILES_H

#include <errno.h>
#include <sys/random.h>
#include <unistd.h>

#include "text.h"

/* Write all N BYTES to FD, a file, a pipe or a terminal, going on after a signal and after a short
 * write. Returns 0, or -1 with errno: some of them may have been written then. It waits where FD
 * waits. */
ASYNC_SAFE static inline int write_all(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno != EINTR)
            return -1;
        if (done > 0) {
            p += done;
            n -= (size_t)done;
        }
    }
    return 0;
}

/* Close FD on the way out of a failure, whose errno the caller still has to tell. */
ASYNC_SAFE static inline void close_keep_errno(int fd)
{
    int saved = errno;
    close(fd);
    errno = saved;
}

#define HEX_SIZE 17

/* Write HEX_SIZE - 1 hex digits, 64 bits that nobody can guess, and a NUL. Returns 0, or -1 with
 * errno if the kernel has no randomness yet. */
static inline int random_hex(char hex[HEX_SIZE])
{
    unsigned char bytes[(HEX_SIZE - 1) / 2];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return -1;
    for (size_t i = 0; i < sizeof bytes; i++) {
        hex[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    hex[HEX_SIZE - 1] = '\0';
    return 0;
}

#endif
