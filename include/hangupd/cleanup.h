/* cleanup.h: what a request makes, and how it is undone.
 *
 * Calling sequence, in a handler:
 *
 *     int fd = cleanup_create("/srv/reports/q3.csv", 0, 0644);
 *     if (fd < 0)
 *         return respond_errno(rq, "create the report");
 *     ... write to fd, close(fd) ...
 *     return respond_text(rq, 200, "done\n");
 *
 * Every function below first records in the request's ledger how to undo what it is about to do,
 * and then does it; death at any instruction in between leaves nothing behind. When the request has
 * been answered the ledger is dropped; however else it ends, the ledger is undone, newest record
 * first.
 *
 * Ownership: paths are copied; returned descriptors (close-on-exec) are the caller's. Paths may be
 * relative; the ledger holds them absolute.
 * Errors: -1 (or NULL) with errno set, and then nothing was made. Common to all:
 *     EINVAL        a newline, or an empty path or command: the ledger cannot hold it
 *     ENAMETOOLONG  the record would be longer than CLEANUP_RECORD_MAX
 *     ENOSPC, EIO   the ledger could not be written
 *     EPERM         called outside a request, or by a process the handler forked
 *     EBADF         the handler has closed the ledger's descriptor, or put a file over it
 *     EACCES        the handler has given up the server's ids for good before its first record
 *
 * Threads: any of them may be called from any thread of the handler; one at a time gets its turn,
 * and is not cancelled in it. What is returned belongs to all. When the handler has returned, a
 * thread that it left waits in its next call until the process ends. A hangup ends a process that
 * has other threads by SIGKILL, and the server undoes what it recorded.
 *
 * Descriptors: those that the handler did not open are the library's: closefrom(3) is an error.
 *
 * Ids: a handler may change its effective user and group at any time; the undo has the server's.
 *
 * Signal safety: none of these may be called in a signal handler.
 */
#ifndef HANGUPD_CLEANUP_H
#define HANGUPD_CLEANUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* The version of hangupd whose headers these are: as --version says it, and as a number that grows,
 * 1000 times the first part and the second one. */
#define HANGUPD_VERSION "0.1"
#define HANGUPD_VERSION_NUMBER 1

/* The longest record, in bytes, verb and newline included. */
#define CLEANUP_RECORD_MAX 8192

/* cleanup_create: replace what has the name now, instead of failing with EEXIST. What was
 * there is gone, as with O_TRUNC: undo removes the new file and does not restore the old. */
#define CLEANUP_OVERWRITE 1

/* Make the file PATH, open for reading and writing, with MODE (less the umask). The name
 * appears in one step. FLAGS: 0 or CLEANUP_OVERWRITE. Undo removes it only while the name
 * still stands for this very file. Errors also: EEXIST and those of open(2), rename(2). */
int cleanup_create(const char *path, int flags, mode_t mode);

/* Make the directory PATH with MODE (less the umask). Undo removes it with all that is in it,
 * while the name still stands for this very directory. Errors also: those of mkdir(2). */
int cleanup_mkdir(const char *path, mode_t mode);

/* The request's scratch directory, made at the first call, below $TMPDIR (else /tmp) and
 * private to it. It is removed at the end in any case, answered or not.
 * Returns its path, valid until the request ends. */
const char *cleanup_tempdir(void);

/* For what other code is about to make: on undo, remove the file PATH, or the directory PATH
 * and all that is in it, whatever then has that name; a slash at its end says nothing. Call it
 * before the thing is made. */
int cleanup_unlink(const char *path);
int cleanup_rmtree(const char *path);

/* On undo, run COMMAND with /bin/sh. It runs outside the request, with REQUEST_ID in its
 * environment, maybe more than once, and must succeed when there is nothing to undo. Record it
 * before the thing is made, and name the thing by a token known beforehand (request_id). */
int cleanup_run(const char *command);

/* Keep everything recorded so far, however the request ends. */
int cleanup_commit(void);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
