/* state.h: the state directory, STATE in help and messages; and the user whom it belongs to.
 *
 *     const struct passwd *who = find_user("www-data", 0);        // NULL: errno
 *     struct state_dir state = state_open_as(who->pw_name, who->pw_uid, who->pw_gid);
 *
 * The server, `hangupd recover` and `hangupd status` must mean the same directory when they are
 * started alike, so all of them ask here. What lies in it is ledger.h's affair. When state_open_as
 * returns, no line that follows can get root's rights back: open before it whatever needs them.
 *
 * Root makes and gives away only what lies below directories of its own (is_roots_alone). On the
 * way to anything else its target user could put a link, and root would make, or give to him, what
 * is not his: so there he makes it himself.
 * Only /etc is looked at, not LDAP or NIS: getpwnam(3) loads libraries, which a static program
 * should not. Like options.h, for the start only: what cannot be had ends the process.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_STATE_H
#define HANGUPD_STATE_H

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>

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

/* Say to the ledger which node this is. */
static void node_take(void)
{
    if (!cleanup_node_set(settings.node))
        wrong_use("--node %s: a name has 1 to 64 letters, digits, dots, hyphens or underscores",
                  settings.node);
}

/* Open it, made first for OWNER and GROUP if need be. A umask that keeps a user from what is his
 * own would leave ledgers that nobody can read at the next start. */
static struct state_dir state_open(uid_t owner, gid_t group)
{
    const char *why, *path = state_path();
    umask(umask(077) & 077);
    int fd = cleanup_state_open(path, owner, group, &why);
    if (fd < 0)
        cannot("the state directory %s %s%s%s", path, why, errno != 0 ? ": " : "",
               errno != 0 ? strerror(errno) : "");
    const char *absolute = realpath(path, NULL);
    return (struct state_dir){fd, absolute != NULL ? absolute : path};
}

/* Try in DIR, the server's own directory in STATE, what ledgers need of a file system, or end the
 * process: found out in the first request it would be an error 500 that nobody understands. */
static void state_try(const struct state_dir *state, int dir)
{
    static const char name[] = ".try", renamed[] = ".tried"; /* dots: left by a crash, they go */
    char back[2];
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    int again = openat(dir, name, O_RDWR | O_CLOEXEC);
    const char *failed = fd < 0                                 ? "make a file"
                         : again < 0                            ? "open a file again"
                         : write(fd, "ab", 2) != 2              ? "append to a file"
                         : pwrite(again, "#", 1, 0) != 1        ? "write in the middle of a file"
                         : pread(fd, back, sizeof back, 0) != 2 ? "read a file"
                         : settings.handler.sync && fdatasync(fd) < 0 ? "flush a file"
                         : renameat(dir, name, dir, renamed) < 0      ? "rename a file"
                         : unlinkat(dir, renamed, 0) < 0              ? "remove a file"
                                                                      : NULL;
    int error = errno;
    if (failed == NULL && memcmp(back, "#b", 2) != 0) {
        failed = "find what was written";
        error = EIO;
    }
    if (failed != NULL) {
        unlinkat(dir, name, 0);
        cannot("the file system of the state directory %s does not do what ledgers need: could not "
               "%s: %s; choose another with --state",
               state->path, failed, strerror(error));
    }
    close(fd);
    close(again);
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

/* Returns the user whom --user names, or NULL. */
static const struct passwd *find_owner(void)
{
    if (settings.user == NULL)
        return NULL;
    errno = 0;
    const struct passwd *who = find_user(settings.user, 0);
    if (who == NULL)
        cannot("--user %s: %s", settings.user,
               errno != 0 && errno != ENOENT ? strerror(errno) : "not a user in /etc/passwd");
    if (geteuid() != 0 && who->pw_uid != geteuid())
        cannot("--user %s: only root can become another user", settings.user);
    return who;
}

/* Set *GROUP to the group called NAME. */
static bool find_group(const char *name, gid_t *group)
{
    FILE *all = fopen("/etc/group", "re");
    const struct group *g = NULL;
    while (all != NULL && (g = fgetgrent(all)) != NULL && strcmp(g->gr_name, name) != 0)
        continue;
    if (g != NULL)
        *group = g->gr_gid;
    if (all != NULL)
        fclose(all);
    return g != NULL;
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

/* Returns true if only root can change which directory PATH lies in: all on the way to its last
 * name is root's, links too. In a directory like /tmp others cannot touch what is root's, but may
 * be first to make what is not there yet. LINKS counts down. */
static bool is_roots_way(const char *path, int links)
{
    char part[PATH_MAX], target[PATH_MAX];
    bool shared = false;
    for (size_t at = 0, next; path[at] != '\0'; at = next) {
        struct stat now;
        next = at + 1 + strcspn(path + at + 1, "/");
        snprintf(part, sizeof part, "%.*s", at == 0 ? 1 : (int)at, path);
        if (lstat(part, &now) < 0)
            return errno == ENOENT && !shared;
        ssize_t n = S_ISLNK(now.st_mode) ? readlink(part, target, sizeof target - 1) : 0;
        if (now.st_uid != 0 || n < 0)
            return false;
        if (n > 0) {
            target[n] = '\0';
            char *slash = strrchr(part, '/');
            char whole[3 * PATH_MAX];
            *slash = '\0';
            snprintf(whole, sizeof whole, "%s%s%s%s", *target == '/' ? "" : part,
                     *target == '/' ? "" : "/", target, path + at);
            return strlen(whole) < PATH_MAX && links > 0 && is_roots_way(whole, links - 1);
        }
        shared = (now.st_mode & 022) != 0;
        if (shared && (now.st_mode & S_ISVTX) == 0)
            return false;
        if (path[next] == '\0')
            break; /* the last name itself may be anybody's */
    }
    return true;
}

static bool is_roots_alone(const char *path)
{
    char full[PATH_MAX];
    return cleanup_absolute(path, full) == 0 && strlen(full) < PATH_MAX && is_roots_way(full, 8);
}

/* Open STATE and become its user, unless that is the one that we are: NAME as for become_user. */
static struct state_dir state_open_as(const char *name, uid_t user, gid_t group)
{
    struct state_dir state;
    bool change = geteuid() == 0 && user != 0;
    const char *path = state_path(); /* whose default is the user's who started us */
    bool first = change && !is_roots_alone(path);
    settings.state = path;
    if (first)
        become_user(name, user, group);
    state = state_open(user, group);
    if (change && !first)
        become_user(name, user, group);
    return state;
}

/* Let HOME, USER and LOGNAME be WHO's. */
static void take_home_of(const struct passwd *who)
{
    if (setenv("HOME", who->pw_dir, 1) < 0 || setenv("USER", who->pw_name, 1) < 0 ||
        setenv("LOGNAME", who->pw_name, 1) < 0)
        cannot("could not set the environment of %s: %s", who->pw_name, strerror(errno));
}

#endif
