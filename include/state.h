/* state.h: the state directory, STATE in help and messages; and the user whom it belongs to.
 *
 *     const struct passwd *who = find_user("www-data", 0);        // NULL: errno
 *     struct state_dir state = state_open(who->pw_uid, who->pw_gid);
 *     become_user(who->pw_name, who->pw_uid, who->pw_gid);
 *
 * The server, `hangupd recover` and `hangupd status` must mean the same directory when they are
 * started alike, so all of them ask here. What lies in it is ledger.h's affair. When become_user
 * returns, no line that follows can get root's rights back: open before it whatever needs them.
 * Only /etc is looked at, not LDAP or NIS: getpwnam(3) loads libraries, which a static program
 * should not. Like options.h, for the start only: what cannot be had ends the process.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_STATE_H
#define HANGUPD_STATE_H

#include <grp.h>
#include <pwd.h>

#include "ledger.h"
#include "options.h"

/* ---- The directory --------------------------------------------------------------------- */

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

/* ---- Its user ---------------------------------------------------------------------------- */

/* Returns the user with this NAME, or with this number if NAME is NULL, until the next call.
 * Returns NULL if there is none; errno is 0 or ENOENT then, and anything else if /etc/passwd cannot
 * be read. */
static const struct passwd *find_user(const char *name, uid_t user)
{
    FILE *all = fopen("/etc/passwd", "re");
    const struct passwd *who = NULL;
    while (all != NULL && (who = fgetpwent(all)) != NULL)
        if (name != NULL ? strcmp(who->pw_name, name) == 0 : who->pw_uid == user)
            break;
    if (all != NULL)
        fclose(all);
    return who;
}

/* Put GROUP and the groups to which NAME belongs into GROUPS. Returns how many they are, or -1 with
 * errno if /etc/group cannot be read. */
static int find_groups(const char *name, gid_t group, gid_t groups[NGROUPS_MAX])
{
    FILE *all = fopen("/etc/group", "re");
    int count = 1;
    if (all == NULL)
        return -1;
    groups[0] = group;
    for (const struct group *g; count < NGROUPS_MAX && (g = fgetgrent(all)) != NULL;) {
        char **member = g->gr_mem;
        while (*member != NULL && strcmp(*member, name) != 0)
            member++;
        if (*member != NULL)
            groups[count++] = g->gr_gid;
    }
    fclose(all);
    return count;
}

/* Become USER and GROUP with the further groups of NAME, which is NULL if the user has none. The
 * groups go first, because only root can change them. Then it is proved that there is no way back:
 * setuid(2) leaves the saved ids as they are if it may not change them all. Ends the process if any
 * of that fails. */
static void become_user(const char *name, uid_t user, gid_t group)
{
    static gid_t groups[NGROUPS_MAX];
    const char *told = name != NULL ? name : "without a name";
    int count = name != NULL ? find_groups(name, group, groups) : 0;
    if (count < 0 || setgroups((size_t)count, groups) < 0 || setgid(group) < 0 || setuid(user) < 0)
        cannot("could not become the user %s (%u): %s", told, (unsigned)user, strerror(errno));
    if (user != 0 && (setuid(0) == 0 || seteuid(0) == 0))
        cannot("the user %s (%u) can become root again: not going on", told, (unsigned)user);
}

#endif
