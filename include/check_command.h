/* check_command.h: `hangupd --check`, what a start with these options would find.
 *
 *     parse_options(...), parse_routes(...);   // what is wrong there ends the process already
 *     if (settings.check)
 *         check_all(owner);                    // does not return
 *
 * Nothing is made, changed, bound or waited for, so it may be asked beside the server that runs
 * with these options, before that is told to reload. What is wrong is said in lines on standard
 * error, as many as there are; the exit status is 0 or 2. It becomes the user of --user, so that
 * programs are looked at with that user's eyes.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_CHECK_COMMAND_H
#define HANGUPD_CHECK_COMMAND_H

#include "listen.h"
#include "options.h"
#include "state.h"
#include "surroundings.h"

static unsigned check_wrong; /* lines said */

__attribute__((format(printf, 1, 2))) static void check_say(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", program_name);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    check_wrong++;
}

/* STATE is there and is OWNER's alone, or it can be made. */
static void check_state(uid_t owner)
{
    char above[PATH_MAX];
    struct stat now;
    const char *path = state_path();
    if (lstat(path, &now) == 0) {
        if (!S_ISDIR(now.st_mode))
            check_say("the state directory %s is not a directory (symbolic links are not followed)",
                      path);
        else if (now.st_uid != owner)
            check_say("the state directory %s belongs to another user", path);
        else if ((now.st_mode & 077) != 0)
            check_say("the state directory %s is open to others; chmod 700 makes it private", path);
        else if (access(path, R_OK | W_OK | X_OK) < 0)
            check_say("the state directory %s: %s", path, strerror(errno));
        return;
    }
    int error = errno;
    if (error == ENOENT && cleanup_absolute(path, above) == 0) {
        do
            *strrchr(above, '/') = '\0';
        while (*above != '\0' && access(above, F_OK) < 0 && errno == ENOENT);
        error = access(*above != '\0' ? above : "/", W_OK | X_OK) < 0 ? errno : 0;
    }
    if (error != 0)
        check_say("the state directory %s cannot be made: %s", path, strerror(error));
}

static void check_program(const struct route *r)
{
    struct stat now;
    if (stat(r->program, &now) < 0 || access(r->program, X_OK) < 0)
        check_say("the program of the route %s, %s: %s%s", r->path, r->program, strerror(errno),
                  errno == EACCES ? "; chmod +x makes it executable" : "");
    else if (!S_ISREG(now.st_mode) && !S_ISDIR(now.st_mode))
        check_say("the program of the route %s, %s, is no file that can be run", r->path,
                  r->program);
}

/* OWNER is the user that --user names, or NULL. */
static _Noreturn void check_all(const struct passwd *owner)
{
    gid_t group;
    uid_t user = owner != NULL ? owner->pw_uid : geteuid();
    bool change = user != geteuid();
    for (size_t i = 0; i < settings.listen.count; i++)
        listen_on(&(struct listener){0}, settings.listen.words[i], owner);
    if (settings.socket_group != NULL && !find_group(settings.socket_group, &group))
        check_say("--socket-group %s: not a group in /etc/group", settings.socket_group);
    bool as_root = change && is_roots_alone(state_path());
    if (as_root)
        check_state(user);
    settings.state = state_path(); /* whose default is that of who started us */
    if (change)
        become_user(owner->pw_name, owner->pw_uid, owner->pw_gid);
    if (!as_root)
        check_state(user);
    for (size_t i = 0; i < settings.handler.route_count; i++)
        if (settings.handler.routes[i].program != NULL)
            check_program(&settings.handler.routes[i]);
    settings.handler.tmpdir = find_tmpdir();
    if (check_wrong == 0)
        printf("%s: nothing is wrong; routes: %zu\n", program_name, settings.handler.route_count);
    exit(check_wrong == 0 && fflush(stdout) == 0 ? 0 : EXIT_WRONG_USE);
}

#endif
