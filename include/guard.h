/* guard.h: what a handler may do to the process that its ledger is kept in, and the ledger is safe
 * from: threads, descriptors that it closes, ids that it gives up.
 *
 *     int cancel = guard_take();              one thread at a time, ...
 *     if (!guard_is_open(fd, &was)) ...       ... through a descriptor that is the ledger's,
 *     uid_t self = guard_become(own_uid());   ... with the ids of the server
 *     ... make the ledger ...
 *     guard_become(self);
 *     guard_give(cancel);
 *
 * A signal handler that undoes takes nothing: it runs only where there is no other thread
 * (handler.c, on_sigterm), and between any two lines the ledger is in order. Nor does a process
 * that was forked, which cleanup_is_owner keeps out: its parent's thread may hold the lock for
 * ever.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_GUARD_H
#define HANGUPD_GUARD_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"

static pthread_mutex_t guard_mutex = PTHREAD_MUTEX_INITIALIZER;

/* Wait for the turn of this thread. Returns what guard_give wants: a thread that was cancelled here
 * would never give it back. */
static int guard_take(void)
{
    int cancel = PTHREAD_CANCEL_ENABLE;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    pthread_mutex_lock(&guard_mutex);
    return cancel;
}

static void guard_give(int cancel)
{
    int saved = errno;
    pthread_mutex_unlock(&guard_mutex);
    pthread_setcancelstate(cancel, NULL);
    errno = saved;
}

/* Returns true if FD is open on what WAS says: a handler that closes all descriptors, or dup2s over
 * one, has made another file of it, which must not be written to. */
ASYNC_SAFE static bool guard_is_open(int fd, const struct stat *was)
{
    struct stat now;
    return fstat(fd, &now) == 0 && now.st_ino == was->st_ino && now.st_dev == was->st_dev;
}

/* Look at files as the user UID, in this thread alone, if that may be: a handler that has called
 * seteuid(2) can. Returns as whom it was before. */
ASYNC_SAFE static uid_t guard_become(uid_t uid)
{
    return geteuid() != uid ? (uid_t)setfsuid(uid) : uid;
}

#endif
