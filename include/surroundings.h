/* surroundings.h: what a start finds around it, and what it needs of that.
 *
 *     open_standard_descriptors();                 // first of all
 *     settings.handler.tmpdir = find_tmpdir();
 *     settings.handler.open_files = raise_descriptor_limit(one_connection);
 *
 * Facts of the process and of the machine that do not change while it serves: its descriptors,
 * TMPDIR, its own path, its limits, the signals that were ignored. Like options.h, for the start
 * only: what cannot be had ends the process with a plain sentence.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_SURROUNDINGS_H
#define HANGUPD_SURROUNDINGS_H

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "options.h"

/* Descriptors 0 to 2 must be something: the first socket would become one of them, and a line that
 * somebody prints would go to a client. */
static void open_standard_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* Returns where scratch directories and bodies go: nobody else may rename or remove them. */
static const char *find_tmpdir(void)
{
    struct stat now;
    const char *tmp = getenv("TMPDIR");
    if (tmp == NULL || *tmp == '\0')
        tmp = "/tmp";
    const char *path = realpath(tmp, NULL);
    if (path == NULL || stat(path, &now) < 0)
        cannot("TMPDIR=%s: %s", tmp, strerror(errno));
    if (!S_ISDIR(now.st_mode))
        cannot("TMPDIR=%s is not a directory", tmp);
    if (now.st_uid != geteuid() && now.st_uid != 0)
        cannot("TMPDIR=%s belongs to another user, who could take away what requests make there; "
               "choose another",
               tmp);
    if ((now.st_mode & (S_IWOTH | S_ISVTX)) == S_IWOTH)
        cannot("TMPDIR=%s is open to others, who could take away what requests make there; make "
               "it sticky with chmod +t, or choose another",
               tmp);
    return path;
}

/* Returns the path of what is running, so that a program can call `hangupd undo`. */
static const char *find_self(void)
{
    static char self[PATH_MAX];
    if (readlink("/proc/self/exe", self, sizeof self - 1) <= 0)
        cannot("/proc cannot be read (%s), and without it the processes of a request could not be "
               "found, nor ended: mount it there",
               strerror(errno));
    return self;
}

#define DESCRIPTORS_OWN 64 /* beside those of connections */

/* Allow as many descriptors as the connections need, if the hard limit has them. Returns the limit
 * as it was, which programs get back: more than 1024 breaks those that use select(2). A server for
 * ONE_CONNECTION needs few. */
static uint64_t raise_descriptor_limit(bool one_connection)
{
    struct rlimit limit;
    rlim_t needed = (rlim_t)settings.connections + DESCRIPTORS_OWN;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 0;
    rlim_t before = limit.rlim_cur;
    if (before < needed) {
        limit.rlim_cur = limit.rlim_max < needed ? limit.rlim_max : needed;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    unsigned long long now = limit.rlim_cur, own = DESCRIPTORS_OWN;
    if (now <= own)
        cannot("the limit of open files is %llu, and the server needs more than %llu for itself; "
               "raise it with ulimit -n",
               now, own);
    if (now < needed && !one_connection)
        log_eventf(NULL,
                   "warning: the limit of open files, %llu, has room for %llu connections, and not "
                   "for --connections %lld; raise it with ulimit -n",
                   now, now - own, (long long)settings.connections);
    return before;
}

/* Returns the signals that are ignored now, which a program must not inherit. */
static sigset_t find_ignored(void)
{
    struct sigaction now;
    sigset_t ignored;
    sigemptyset(&ignored);
    for (int signal = 1; signal < NSIG; signal++)
        if (sigaction(signal, NULL, &now) == 0 && now.sa_handler == SIG_IGN)
            sigaddset(&ignored, signal);
    return ignored;
}

#endif
