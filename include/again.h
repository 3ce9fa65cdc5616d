/* again.h: second looks: which commands get one, and when it is due.
 *
 *     if (record.seconds > 0 || again_is_own(record.argument, id))
 *         text_format(&t, "again %llu run %s", again_due(seconds), command);
 *     ...
 *     int64_t ms = again_wait_ms(dir, id);     // the parent, which reads no ledger
 *
 * An undo command that finds nothing may have come too early: the order to make the thing can still
 * be on its way. So it is run once more, some time later. That must be a command that cannot meet
 * another request's thing, which would be kept by then: it names this request's id, or its author
 * says so (`hangupd undo --again`).
 *
 * When a ledger's second looks are due stands in its records, by the clock on the wall, and, so
 * that the parent need not read these, as the time at which its file was changed last.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_AGAIN_H
#define HANGUPD_AGAIN_H

#include <ctype.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "reader.h"
#include "text.h"
#include "verbs.h"

/* Returns true if the command line COMMAND names the request ID: by its id, or by a variable that
 * the shell will replace by it. What follows an id must not make it another one's. */
ASYNC_SAFE static inline bool again_is_own(const char *command, const char *id)
{
    static const char *const variables[] = {"$REQUEST_ID", "${REQUEST_ID}"};
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    for (const char *at = command; (at = strstr(at, id)) != NULL; at++)
        if (strchr("0123456789abcdef", at[strlen(id)]) == NULL || at[strlen(id)] == '\0')
            return true;
    for (const char *at = command; (at = strstr(at, variables[0])) != NULL; at++)
        if (strchr(letters, at[strlen(variables[0])]) == NULL || at[strlen(variables[0])] == '\0')
            return true;
    return strstr(command, variables[1]) != NULL;
}

/* Returns how long the second look of R waits, in seconds, if the default is STANDARD. */
ASYNC_SAFE static inline unsigned long long again_seconds(const struct record *r, int64_t standard)
{
    return r->seconds > 0 || standard < 0 ? r->seconds : (unsigned long long)standard;
}

/* Returns the second since 1970 in which SECONDS will have passed. */
ASYNC_SAFE static inline unsigned long long again_due(unsigned long long seconds)
{
    return (unsigned long long)time(NULL) + seconds + 1;
}

/* Note in the file NAME of a ledger when its second looks are due. */
ASYNC_SAFE static inline void again_note(int dir, const char *name, unsigned long long due)
{
    const struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = (time_t)due}};
    if (utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0)
        return; /* who waits looks again in a second, and again */
}

/* Returns when the second looks of the ledger ID in DIR are due, in seconds since 1970; 0 if that
 * cannot be told. */
static inline int64_t again_noted(int dir, const char *id)
{
    char program[LEDGER_NAME_SIZE];
    struct stat now;
    if (fstatat(dir, id, &now, AT_SYMLINK_NOFOLLOW) < 0 &&
        fstatat(dir, ledger_program_name(program, id), &now, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    return now.st_mtim.tv_sec;
}

#define AGAIN_LEAST_MS 1000 /* between two looks at whether it is time */

/* Returns how many milliseconds that is from now. */
static inline int64_t again_wait_ms(int dir, const char *id)
{
    int64_t seconds = again_noted(dir, id) - (int64_t)time(NULL);
    seconds = seconds < AGAIN_MOST_S ? seconds : AGAIN_MOST_S;
    return seconds > 0 ? seconds * 1000 : AGAIN_LEAST_MS;
}

#endif
