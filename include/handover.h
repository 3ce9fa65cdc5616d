/* handover.h: a new server in the place of this one, while the process that was started stays.
 *
 *     handover_prepare();                        // first of all: what was executed, and how
 *     size_t n = handover_adopt(listeners);      // the new one's sockets; 0: we were started
 *     ...
 *     handover_ready();                          // the new one listens
 *
 *     int fd = handover_start(listeners, n, state, files);  // the started one, at SIGHUP
 *     if (handover_said(fd)) ...                 // it is ready: accept no more, only finish
 *     if (handover_ended(pid, &info, stopping))  // it was one of them that has ended
 *
 *     if (place_take(PLACES_ALL, mine + 1, most)) ...       // counted with those of the others
 *
 * Whoever watches the pid of the process that was started (systemd, docker, runit, inetd) sees it
 * stay. Each new server is its child, executed by the path that it was itself started by, so that
 * a replaced binary counts, with the same command line, and with the listening sockets. The two are
 * joined by a pair of sockets. The new one writes a byte when it listens. When the old one closes
 * its end, as a third server is ready, the new one finishes; when it dies, the new one gets SIGTERM
 * as well. So there are never more than two generations: no successor starts one itself.
 *
 * What dies, at whatever line: a new one that has not said that it is ready was never there, and
 * the old one has gone on accepting. One that was: the started process ends, with its status. The
 * started process: all its successors stop. Nobody has a lock or a ledger of another.
 *
 * `max` and --requests count all that serve at a time. What each has in hand are locks in a file
 * that exists for this alone: a server locks as many bytes as it has requests, at a place of its
 * own, and looks how many others have. It locks first and looks then, so two that come at once may
 * both step back, but never both go on. The kernel unlocks what a dead one had. Before the first
 * SIGHUP there is no such file, and no call is made.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_HANDOVER_H
#define HANGUPD_HANDOVER_H

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "listen.h"
#include "options.h"

/* PARENT FD PLACES SOCKET... /STATE */
#define HANDOVER_VARIABLE "HANGUPD_HANDOVER"
#define SUCCESSORS_MAX 16

static struct {
    /* How to start one. */
    char path[PATH_MAX]; /* "": unknown */
    char **words;
    bool terminal; /* there was a controlling terminal: SIGHUP says that it has gone */
    /* In a successor: */
    pid_t parent; /* 0: it is none */
    int pipe;
    /* In the process that was started: */
    struct successor {
        pid_t pid; /* 0: free */
        int fd;    /* its pair's other end; -1: it was told to finish */
    } successors[SUCCESSORS_MAX];
    struct successor *starting, *serving;
    bool again; /* SIGHUP came while one was starting */
    int status; /* exit status of the last that served */
    /* In all of them: */
    int places;       /* -1: nobody else is there */
    int64_t short_at; /* a place was refused because of others: when to look again; 0: it was not */
} handover = {.pipe = -1, .places = -1};

/* ---- The process that was started ------------------------------------------------------ */

/* The words are those that were executed: main may have changed its own. */
static char **handover_words(void)
{
    static char *words[4096], text[256 * 1024];
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    size_t length = 0, count = 0;
    for (ssize_t n; fd >= 0 && length < sizeof text &&
                    (n = read(fd, text + length, sizeof text - length)) > 0;)
        length += (size_t)n;
    if (fd >= 0)
        close(fd);
    if (length == 0 || length == sizeof text)
        return NULL;
    for (size_t at = 0; at < length && count < sizeof words / sizeof words[0] - 1;
         at += strlen(text + at) + 1)
        words[count++] = text + at;
    return words;
}

static void handover_prepare(void)
{
    const char *name;
    unsigned long at = getauxval(AT_EXECFN); /* the name, as it was given to execve(2) */
    memcpy(&name, &at, sizeof name);
    int terminal = open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);
    handover.terminal = terminal >= 0;
    if (terminal >= 0)
        close(terminal);
    handover.words = handover_words();
    if (name == NULL || handover.words == NULL || cleanup_absolute(name, handover.path) < 0)
        handover.path[0] = '\0';
}

/* The newborn becomes a server. */
static _Noreturn void handover_execute(const struct listener *listeners, size_t count, int pipe,
                                       const char *state, uint64_t files)
{
    char value[PATH_MAX + 512];
    struct text t = TEXT(value);
    struct rlimit limit;
    sigset_t none;
    text_format(&t, "%d %d %d", getppid(), pipe, handover.places);
    fcntl(pipe, F_SETFD, 0);
    fcntl(handover.places, F_SETFD, 0);
    for (size_t i = 0; i < count; i++) {
        text_format(&t, " %d", listeners[i].fd);
        fcntl(listeners[i].fd, F_SETFD, 0);
    }
    text_add(&t, " ");
    text_add(&t, state);
    if (files > 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = files;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    sigemptyset(&none);
    if (setenv(HANDOVER_VARIABLE, text_end(&t), 1) == 0) {
        sigprocmask(SIG_SETMASK, &none, NULL);
        execv(handover.path, handover.words);
    }
    log_eventf(NULL, "could not execute %s: %s", handover.path, strerror(errno));
    _exit(127);
}

/* Start a server with these sockets; FILES is the limit of open files that it begins with. Returns
 * the descriptor that tells when it is ready, or -1, which has been logged. */
static int handover_start(const struct listener *listeners, size_t count, const char *state,
                          uint64_t files)
{
    int ends[2];
    struct successor *s = handover.successors;
    while (s < handover.successors + SUCCESSORS_MAX && s->pid != 0)
        s++;
    if (s == handover.successors + SUCCESSORS_MAX || handover.path[0] == '\0') {
        log_event(NULL, handover.path[0] == '\0'
                            ? "not reloaded: /proc/self does not say how this server was started"
                            : "not reloaded: too many earlier servers still have work to finish");
        return -1;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        log_eventf(NULL, "not reloaded: could not make a pair of sockets: %s", strerror(errno));
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0)
        handover_execute(listeners, count, ends[1], state, files);
    close(ends[1]);
    if (pid < 0) {
        log_eventf(NULL, "not reloaded: could not fork: %s", strerror(errno));
        close(ends[0]);
        return -1;
    }
    log_eventf(NULL, "reload: process %d is the new server, and is starting", (int)pid);
    *s = (struct successor){.pid = pid, .fd = ends[0]};
    handover.starting = s;
    return s->fd;
}

/* Something came from FD. Returns true if its server is ready: it is the one that serves, and the
 * one before it is told to finish. */
static bool handover_said(int fd)
{
    char byte;
    struct successor *s = handover.starting, *before = handover.serving;
    if (s == NULL || s->fd != fd || recv(fd, &byte, 1, MSG_DONTWAIT) != 1)
        return false;
    handover.serving = s;
    handover.starting = NULL;
    if (before != NULL) {
        shutdown(before->fd, SHUT_RDWR); /* also the copies that newborns may still hold */
        close(before->fd);
        before->fd = -1;
    }
    return true;
}

/* Returns true if PID was a successor, which has ENDED, as it should if this server is STOPPING. */
static bool handover_ended(pid_t pid, const siginfo_t *ended, bool stopping)
{
    struct successor *s = handover.successors;
    while (s < handover.successors + SUCCESSORS_MAX && s->pid != pid)
        s++;
    if (s == handover.successors + SUCCESSORS_MAX)
        return false;
    bool exited = ended->si_code == CLD_EXITED, started = s != handover.starting;
    int status = exited ? ended->si_status : 128 + ended->si_status;
    if (s == handover.serving)
        handover.status = status;
    if (!stopping && (status != 0 || !started))
        log_eventf(NULL, "the new server, process %d, %s: %s %d%s", (int)pid,
                   started ? "has failed" : "could not start", exited ? "exit status" : "signal",
                   ended->si_status,
                   started ? ""
                           : "; this one goes on; --check with its options says what is wrong");
    handover.serving = s == handover.serving ? NULL : handover.serving;
    handover.starting = started ? handover.starting : NULL;
    if (s->fd >= 0)
        close(s->fd);
    s->pid = 0;
    return true;
}

static bool handover_is_successor(pid_t pid)
{
    for (size_t i = 0; i < SUCCESSORS_MAX; i++)
        if (handover.successors[i].pid == pid)
            return true;
    return false;
}

/* Returns true if a successor is there. */
static bool handover_has_any(void)
{
    for (size_t i = 0; i < SUCCESSORS_MAX; i++)
        if (handover.successors[i].pid != 0)
            return true;
    return false;
}

static void handover_pass_on(int signal)
{
    for (size_t i = 0; i < SUCCESSORS_MAX; i++)
        if (handover.successors[i].pid != 0)
            kill(handover.successors[i].pid, signal);
}

/* ---- A successor ----------------------------------------------------------------------- */

/* Take the sockets that the old server has handed over into LISTENERS. Returns how many; 0: there
 * is no old server. */
static size_t handover_adopt(struct listener *listeners)
{
    const char *value = getenv(HANDOVER_VARIABLE), *at = value != NULL ? strdup(value) : NULL;
    unsigned long long numbers[3 + LISTENERS_MAX];
    size_t count = 0, most = sizeof numbers / sizeof numbers[0];
    if (value == NULL)
        return 0;
    unsetenv(HANDOVER_VARIABLE); /* as LISTEN_FDS: it is for this process alone */
    while (at != NULL && *at != '/' && count < most &&
           parse_number(&at, INT_MAX, &numbers[count]) && *at++ == ' ')
        count++;
    if (at == NULL || count < 4 || *at != '/')
        cannot("%s does not say what was handed over", HANDOVER_VARIABLE);
    /* Nobody who watches the one that was started would know of this one. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if ((pid_t)numbers[0] != getppid())
        cannot("the old server has gone");
    settings.state = at;
    handover.parent = (pid_t)numbers[0];
    handover.pipe = (int)numbers[1];
    handover.places = (int)numbers[2];
    fcntl(handover.pipe, F_SETFD, FD_CLOEXEC);
    fcntl(handover.places, F_SETFD, FD_CLOEXEC);
    for (size_t i = 0; i < count - 3; i++) {
        if (!listen_inherit(&listeners[i], (int)numbers[i + 3], "a socket of the old server"))
            cannot("the old server has handed over a socket that does not listen");
        if (!listeners[i].is_tcp && i < settings.listen.count) /* a relative path stays one */
            snprintf(listeners[i].name, sizeof listeners[i].name, "%s", settings.listen.words[i]);
    }
    return count - 3;
}

static void handover_ready(void)
{
    if (handover.parent != 0 && send(handover.pipe, "", 1, MSG_NOSIGNAL) < 0)
        log_eventf(NULL, "could not tell the old server: %s", strerror(errno));
}

/* ---- Places that are counted together --------------------------------------------------- */

#define PLACES_ALL 0 /* --requests; others are those of a route */
#define PLACES_BITS 20
#define PLACES_LOOK_MS 20

_Static_assert(COUNT_MOST < 1 << PLACES_BITS, "each server has room for its own");

/* Returns false, and logs why, if there is no file to count them in. */
static bool places_open(void)
{
    if (handover.places < 0)
        handover.places = memfd_create("hangupd places", MFD_CLOEXEC);
    if (handover.places < 0)
        log_eventf(NULL, "not reloaded: could not make a file in memory: %s", strerror(errno));
    return handover.places >= 0;
}

/* This server has none any more. */
static void handover_end(void)
{
    if (handover.places >= 0)
        close(handover.places);
    handover.places = -1;
}

/* The places of the route PATH. Two that share them would only wait for each other, and only while
 * there are two servers. */
static uint32_t places_of(const char *path)
{
    uint32_t hash = 2166136261;
    for (; *path != '\0'; path++)
        hash = (hash ^ (unsigned char)*path) * 16777619;
    return 1 + hash % ((1 << PLACES_BITS) - 1);
}

/* A pid has at most 22 bits. */
static off_t places_at(uint32_t which, pid_t pid)
{
    return (off_t)which << (22 + PLACES_BITS) | (off_t)pid << PLACES_BITS;
}

/* Have COUNT of them, and no more. */
static void places_set(uint32_t which, int64_t count)
{
    struct flock have = {.l_type = F_WRLCK, .l_start = places_at(which, getpid()), .l_len = count};
    struct flock rest = {
        .l_type = F_UNLCK, .l_start = have.l_start + count, .l_len = (1 << PLACES_BITS) - count};
    if (count > 0)
        fcntl(handover.places, F_SETLK, &have);
    fcntl(handover.places, F_SETLK, &rest);
}

/* Returns how many bytes from FROM to END others have locked. The kernel tells of one stretch at a
 * time, which is not always the first. */
static int64_t places_of_others(off_t from, off_t end)
{
    struct flock lock = {.l_type = F_WRLCK, .l_start = from, .l_len = end - from};
    if (from >= end || fcntl(handover.places, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
        return 0;
    off_t after = lock.l_len > 0 ? lock.l_start + lock.l_len : end;
    int64_t here = (after < end ? after : end) - (lock.l_start > from ? lock.l_start : from);
    return here + places_of_others(from, lock.l_start) + places_of_others(after, end);
}

/* Have MINE of them, one more than before, if with those of others that is not more than MOST. */
static bool place_take(uint32_t which, int64_t mine, int64_t most)
{
    if (mine > most || handover.places < 0)
        return mine <= most;
    places_set(which, mine);
    if (mine + places_of_others(places_at(which, 0), places_at(which + 1, 0)) <= most)
        return true;
    places_set(which, mine - 1);
    handover.short_at = clock_ms() + PLACES_LOOK_MS;
    return false;
}

/* Have only MINE of them now. */
static void place_give(uint32_t which, int64_t mine)
{
    if (handover.places >= 0)
        places_set(which, mine);
}

#endif
