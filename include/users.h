/* users.h: becoming another user.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_USERS_H
#define HANGUPD_USERS_H

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <unistd.h>

#include "options.h"

/* The user with this NAME, or of this number if NAME is NULL, in /etc/passwd. NULL: there is none;
 * errno says more. Not by getpwnam(3), which loads libraries: a static program should not. */
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

/* GROUP, and those to which /etc/group says that NAME belongs: how many, or -1. */
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

/* Groups, group, user; then prove that there is no way back (setuid(2)). NAME: NULL if the user
 * has none, and so no further groups. */
static void become_user(const char *name, uid_t user, gid_t group)
{
    static gid_t groups[NGROUPS_MAX];
    int count = name != NULL ? find_groups(name, group, groups) : 0;
    if (count < 0 || setgroups((size_t)count, groups) < 0 || setgid(group) < 0 || setuid(user) < 0)
        cannot("could not become the user %s (%u): %s", name != NULL ? name : "without a name",
               (unsigned)user, strerror(errno));
    if (user != 0 && (setuid(0) == 0 || seteuid(0) == 0))
        cannot("the user %s (%u) can become root again: not going on",
               name != NULL ? name : "without a name", (unsigned)user);
}

#endif
