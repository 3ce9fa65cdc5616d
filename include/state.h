/* state.h: the state directory, STATE in help and messages: which it is, and opening it.
 *
 *     struct state_dir state = state_open(geteuid(), getegid());
 *
 * The server, `hangupd recover` and `hangupd status` must mean the same directory when they are
 * started alike, so all of them ask here. What lies in it is ledger.h's affair. Like options.h, for
 * the start only: a directory that cannot be had ends the process.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_STATE_H
#define HANGUPD_STATE_H

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ledger.h"
#include "options.h"

struct state_dir {
    int fd;
    const char *path; /* for people; absolute if state_open has opened it */
};

/* The directory that --state names, or without that the user's. */
static const char *state_path(void)
{
    static char path[PATH_MAX];
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (settings.state != NULL)
        return settings.state;
    if (geteuid() == 0)
        return STATE_OF_ROOT;
    if (xdg != NULL && xdg[0] == '/')
        snprintf(path, sizeof path, "%s/hangupd", xdg);
    else if (home != NULL && home[0] == '/')
        snprintf(path, sizeof path, "%s/.local/state/hangupd", home);
    else
        cannot("there is no HOME to keep the ledgers in: say where with --state DIR");
    return path;
}

/* Open it, made first for OWNER and GROUP if need be. */
static struct state_dir state_open(uid_t owner, gid_t group)
{
    const char *why, *path = state_path();
    int fd = cleanup_state_open(path, owner, group, &why);
    if (fd < 0)
        cannot("the state directory %s %s%s%s", path, why, errno != 0 ? ": " : "",
               errno != 0 ? strerror(errno) : "");
    const char *absolute = realpath(path, NULL);
    return (struct state_dir){fd, absolute != NULL ? absolute : path};
}

#endif
