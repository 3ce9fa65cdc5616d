/* pool.h: a server's pool of scratch directories, in TMPDIR.
 *
 *     int pool = cleanup_pool_open(dir, "/tmp", token, path);   // /tmp/hangupd-1f0c2, and its link
 *     ...
 *     struct spot at;
 *     int fd = pool_open(path, owner, &at);                     // to remove what is in it
 *
 * Its slots' scratch directories are in it, under short names, as TMPDIR is a part of the paths of
 * sockets. Its own name has a few digits of the server's token. STATE/SERVER has a link to it, and
 * goes with it; what somebody else has put in the place of either is left alone.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_POOL_H
#define HANGUPD_POOL_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger.h"
#include "text.h"
#include "tree.h"

/* In TMPDIR, before a name of the server's own. */
#define POOL_PREFIX "/hangupd-"

#define POOL "scratch" /* in STATE/SERVER: a link to the pool, which is in TMPDIR */
#define POOL_DIGITS 5  /* of the server's token, which make its name */

/* Returns true if PATH's last name is that of the pool of the server with the token that TOKEN,
 * which may be a request's id, begins with: a few of its digits, or (version 1) all and more. */
ASYNC_SAFE static bool is_pool_of(const char *path, const char *token)
{
    const char *name = strrchr(path, '/');
    size_t prefix = sizeof POOL_PREFIX - 1;
    if (path[0] != '/' || strncmp(name, POOL_PREFIX, prefix) != 0)
        return false;
    if (strlen(name + prefix) != POOL_DIGITS)
        return strncmp(name + prefix, token, CLEANUP_TOKEN_SIZE - 1) == 0;
    for (int at = 0; at + POOL_DIGITS < CLEANUP_TOKEN_SIZE; at++)
        if (memcmp(name + prefix, token + at, POOL_DIGITS) == 0)
            return true;
    return false;
}

/* Open the pool PATH of this OWNER, which is at AT. If somebody has cleaned TMPDIR up, another user
 * may have taken its name, even for a link to what is ours: ENOENT, as nothing of ours is there. */
ASYNC_SAFE static int pool_open(const char *path, uid_t owner, struct spot *at)
{
    struct stat now;
    if (spot_open(path, at) < 0)
        return -1;
    int fd = open_directory(at->dir, at->name);
    bool looked = fd >= 0 && fstat(fd, &now) == 0;
    if (looked && now.st_uid == owner)
        return fd;
    errno = looked || errno == ELOOP || is_not_there(errno) ? ENOENT : errno;
    if (fd >= 0)
        close_keep_errno(fd);
    close_keep_errno(at->dir);
    return -1;
}

/* Write the path of the pool whose name has the digits of TOKEN from AT on. */
static int pool_path(char path[PATH_MAX], const char *tmpdir, const char *token, int at)
{
    struct text t = {.at = path, .room = PATH_MAX};
    text_add(&t, tmpdir);
    text_add(&t, POOL_PREFIX);
    text_bytes(&t, token + at, POOL_DIGITS);
    text_end(&t);
    errno = ENAMETOOLONG;
    return t.length + CLEANUP_ID_SIZE + 1 >= PATH_MAX ? -1 : 0;
}

int cleanup_pool_open(int dir, const char *tmpdir, const char *token, char *path)
{
    struct stat there;
    char last[PATH_MAX];
    errno = EINVAL;
    if (strchr(tmpdir, '\n') != NULL)
        return -1;
    /* A pool that was cleaned up does not get its name back: ledgers that outlive their requests
     * may have records of what was in it, and whoever undoes them would remove another's directory.
     */
    ssize_t n = readlinkat(dir, POOL, last, sizeof last - 1);
    last[n > 0 ? n : 0] = '\0';
    bool is_new = n < 0;
    for (int at = 0; at + POOL_DIGITS < CLEANUP_TOKEN_SIZE; at++) {
        if (pool_path(path, tmpdir, token, at) < 0)
            return -1;
        if (!is_new || lstat(path, &there) == 0) {
            is_new = is_new || strcmp(path, last) == 0;
            continue;
        }
        /* The link first: if the process dies in between, nothing is left that is not known. */
        if ((unlinkat(dir, POOL, 0) < 0 && errno != ENOENT) || symlinkat(path, dir, POOL) < 0 ||
            mkdir(path, 0700) < 0)
            return -1;
        int pool = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (pool >= 0) /* systemd-tmpfiles(8) leaves what is locked alone, however old it is */
            (void)flock(pool, LOCK_SH);
        return pool;
    }
    errno = EEXIST;
    return -1;
}

bool cleanup_pool_is_there(int pool, const char *path)
{
    struct stat is, was;
    return lstat(path, &is) == 0 && fstat(pool, &was) == 0 && is.st_ino == was.st_ino &&
           is.st_dev == was.st_dev;
}

#endif
