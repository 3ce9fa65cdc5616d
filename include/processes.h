/* processes.h: what /proc says of processes, and ending all that a request started.
 *
 * Every process of a request has its id in its environment, as REQUEST_ID, and is a descendant of
 * the request's child, which is a subreaper. What others may call is declared in ledger.h.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_PROCESSES_H
#define HANGUPD_PROCESSES_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "ledger.h"

/* ---- Processes: what /proc says of one ----------------------------------------------- */

struct process {
    char state;
    pid_t parent, session;
    unsigned long long start; /* clock ticks since boot */
};

/* Read /proc/PID/stat, see proc(5): the command's name is skipped, as it may hold anything. */
ASYNC_SAFE static bool process_read(pid_t pid, struct process *p)
{
    char path[32], buffer[1024];
    struct text t = TEXT(path);
    text_add(&t, "/proc/");
    text_signed(&t, pid);
    text_add(&t, "/stat");
    int fd = open(text_end(&t), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, buffer, sizeof buffer - 1);
    close(fd);
    if (n <= 0)
        return false;
    buffer[n] = '\0';
    const char *s = strrchr(buffer, ')');
    if (s == NULL || s[1] != ' ')
        return false;
    s += 2;
    *p = (struct process){.state = *s++};
    for (int field = 4; field <= 22; field++) {
        while (*s == ' ' || *s == '-')
            s++;
        unsigned long long value;
        if (!parse_number(&s, ULLONG_MAX, &value))
            return false;
        if (field == 4)
            p->parent = (pid_t)value;
        else if (field == 6)
            p->session = (pid_t)value;
        else if (field == 22)
            p->start = value;
    }
    return true;
}

/* ---- Processes: ending what is left of a request ------------------------------------- */

/* The mark: this process's first environment bytes, which /proc/PID/environ shows and which a
 * fork inherits; and the variable itself, which what it executes inherits. */
static struct {
    char *at;
    size_t room;
} mark;
static char mark_variable[sizeof "REQUEST_ID=" + CLEANUP_ID_SIZE] = "REQUEST_ID=";

void cleanup_mark_prepare(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    size_t count = 0, size = 0;
    for (; environ[count] != NULL; count++)
        size += strlen(environ[count]) + 1;
    /* In one block: no variable is lost when it is taken out again. */
    char **copy = malloc((count + 2) * sizeof *copy + size);
    if (copy == NULL)
        return;
    char *text = (char *)(copy + count + 2);
    size_t kept = 0;
    copy[kept++] = mark_variable;
    char *end = count > 0 ? environ[0] : NULL;
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(environ[i]) + 1;
        if (environ[i] == end) /* still the kernel's block, without a gap */
            end += length;
        if (strncmp(environ[i], "REQUEST_ID=", sizeof "REQUEST_ID=" - 1) == 0)
            continue; /* a server started by a request is not that request */
        copy[kept++] = memcpy(text, environ[i], length);
        text += length;
    }
    copy[kept] = NULL;
    if (count > 0) {
        mark.at = environ[0];
        mark.room = (size_t)(end - environ[0]);
    }
    environ = copy;
}

void cleanup_mark_process(const char *id)
{
    size_t name = sizeof "REQUEST_ID=" - 1, length = strlen(id);
    if (length >= CLEANUP_ID_SIZE)
        length = CLEANUP_ID_SIZE - 1;
    memcpy(mark_variable + name, id, length);
    mark_variable[name + length] = '\0';
    size_t size = name + length + 1;
    if (size > mark.room)
        return; /* too small an environment: the session must do */
    memcpy(mark.at, mark_variable, size);
    for (size_t at = size; at < mark.room && mark.at[at] != '\0'; at++)
        mark.at[at] = '\0'; /* the rest of the variable that was cut in two */
}

/* What to look for in /proc. Who holds a ledger ends its processes, and no one else's. */
struct hunt {
    char (*ids)[CLEANUP_ID_SIZE]; /* processes of these requests, */
    size_t id_count;
    const char *token;     /* of all other requests of this server, */
    int state;             /* ...but those whose ledger is now elsewhere in this STATE, */
    const pid_t *sessions; /* of these sessions, */
    size_t session_count;
    pid_t parent;         /* all children of this process... */
    pid_t spared_session; /* ...but those of this session, */
    bool (*known)(pid_t); /* and those that this vouches for */
};

/* Call EACH for every process there is. */
typedef void process_fn(pid_t pid, const struct process *p, void *data);
ASYNC_SAFE static void each_process(process_fn *each, void *data)
{
    static union {
        char bytes[4096];
        struct dirent64 aligned;
    } entries;
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return;
    long n;
    while ((n = syscall(SYS_getdents64, proc, entries.bytes, sizeof entries.bytes)) > 0) {
        for (long at = 0; at < n;) {
            const struct dirent64 *e = (const void *)(entries.bytes + at);
            const char *name = e->d_name;
            unsigned long long pid;
            struct process p;
            at += e->d_reclen;
            if (parse_number(&name, INT_MAX, &pid) && *name == '\0' &&
                process_read((pid_t)pid, &p) && p.state != 'Z' && p.state != 'X')
                each((pid_t)pid, &p, data);
        }
    }
    close(proc);
}

/* A list of processes that grows while it is looked through. */
struct pids {
    size_t count;
    pid_t at[4096];
};

ASYNC_SAFE static void pids_add(struct pids *to, pid_t pid)
{
    if (to->count < sizeof to->at / sizeof to->at[0])
        to->at[to->count++] = pid;
}

/* Add the pids in /proc/PID/task/TID/children, see proc(5). False: not to be read. */
ASYNC_SAFE static bool children_of_thread(int tasks, const char *tid, struct pids *to)
{
    char path[32], piece[512];
    struct text t = TEXT(path);
    text_add(&t, tid);
    text_add(&t, "/children");
    int fd = openat(tasks, text_end(&t), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    pid_t pid = 0;
    for (ssize_t n; (n = read(fd, piece, sizeof piece)) > 0;)
        for (ssize_t i = 0; i < n; i++) {
            bool digit = piece[i] >= '0' && piece[i] <= '9';
            if (!digit && pid > 0)
                pids_add(to, pid);
            pid = digit ? pid * 10 + (piece[i] - '0') : 0;
        }
    close(fd);
    return true;
}

/* Add the children of PID. False: the kernel does not tell (CONFIG_PROC_CHILDREN). */
ASYNC_SAFE static bool children_of(pid_t pid, struct pids *to)
{
    static union {
        char bytes[1024];
        struct dirent64 aligned;
    } entries;
    char path[32];
    struct text t = TEXT(path);
    text_add(&t, "/proc/");
    text_signed(&t, pid);
    text_add(&t, "/task");
    int tasks = open(text_end(&t), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (tasks < 0)
        return false;
    bool told = false;
    for (long n; (n = syscall(SYS_getdents64, tasks, entries.bytes, sizeof entries.bytes)) > 0;)
        for (long at = 0; at < n;) {
            const struct dirent64 *e = (const void *)(entries.bytes + at);
            at += e->d_reclen;
            if (e->d_name[0] != '.' && children_of_thread(tasks, e->d_name, to))
                told = true;
        }
    close(tasks);
    return told;
}

ASYNC_SAFE static void signal_one(pid_t pid, int signal)
{
    kill(pid, signal);
    if (signal != SIGKILL)
        kill(pid, SIGCONT); /* what is stopped cannot act on it */
}

struct child_signal {
    pid_t self;
    int signal;
};

ASYNC_SAFE static void signal_child(pid_t pid, const struct process *p, void *data)
{
    const struct child_signal *s = data;
    if (pid != s->self && (p->parent == s->self || p->session == s->self))
        signal_one(pid, s->signal);
}

/* Signal all that descends from this process. */
ASYNC_SAFE static void signal_below(int signal)
{
    static struct pids below;
    struct child_signal asked = {.self = getpid(), .signal = signal};
    below.count = 0;
    if (!children_of(asked.self, &below)) {
        each_process(signal_child, &asked);
        return;
    }
    for (size_t i = 0; i < below.count; i++) {
        children_of(below.at[i], &below); /* before it can die and they become ours */
        signal_one(below.at[i], signal);
    }
}

/* Reap what has ended. True when there is no child left. */
ASYNC_SAFE static bool reap_all(void)
{
    pid_t pid;
    do
        pid = waitpid(-1, NULL, WNOHANG | __WALL); /* also who was cloned without SIGCHLD */
    while (pid > 0 || (pid < 0 && errno == EINTR));
    return pid < 0;
}

/* Long enough for a process in an uninterruptible wait to come out of it; bounded, as nothing
 * may hold up the rest for ever. */
#define KILL_PATIENCE_MS 10000

/* Reap until no child is left, for MS; what becomes our child meanwhile is SIGNALled if that is not
 * 0. SIGCHLD is blocked, and so ends the pauses. */
ASYNC_SAFE static bool reap_until(int64_t ms, int signal, cleanup_meanwhile_fn *meanwhile)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (int64_t now = clock_ms(), until = now + ms, pause = 1; now < until; now = clock_ms()) {
        if (signal != 0)
            signal_below(signal); /* orphans of the killed come to us: look again */
        if (reap_all())
            return true;
        if (meanwhile != NULL)
            meanwhile();
        struct timespec t = {.tv_nsec = pause * 1000000};
        if (sigtimedwait(&child, NULL, &t) < 0 && pause < 16)
            pause *= 2;
    }
    return false;
}

ASYNC_SAFE bool cleanup_end_children(int64_t grace_ms, cleanup_meanwhile_fn *meanwhile)
{
    sigset_t child, before;
    if (reap_all())
        return true;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &before);
    if (grace_ms > 0)
        signal_below(SIGTERM);
    bool none = reap_until(grace_ms, 0, meanwhile) || reap_until(KILL_PATIENCE_MS, SIGKILL, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return none;
}

/* Of "Recovery" below. */
static bool is_elsewhere(int state, const char *id);

static bool is_hunted(const char *id, const struct hunt *h)
{
    for (size_t i = 0; i < h->id_count; i++)
        if (strcmp(id, h->ids[i]) == 0)
            return true;
    size_t length = CLEANUP_TOKEN_SIZE - 1;
    return h->token != NULL && strncmp(id, h->token, length) == 0 && id[length] == '-' &&
           !is_elsewhere(h->state, id);
}

static bool environment_has(pid_t pid, const struct hunt *h)
{
    static char environment[128 * 1024]; /* more than any sane program's; cut beyond */
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t length = 0;
    ssize_t n;
    while (length < sizeof environment - 1 &&
           (n = read(fd, environment + length, sizeof environment - 1 - length)) > 0)
        length += (size_t)n;
    close(fd);
    environment[length] = '\0';
    const size_t name = sizeof "REQUEST_ID=" - 1;
    for (const char *at = environment; at < environment + length; at += strlen(at) + 1)
        if (strncmp(at, "REQUEST_ID=", name) == 0 && is_hunted(at + name, h))
            return true;
    return false;
}

static bool is_quarry(pid_t pid, const struct process *p, const struct hunt *h)
{
    if (pid == getpid() || pid == h->parent)
        return false;
    for (size_t i = 0; i < h->session_count; i++)
        if (p->session == h->sessions[i])
            return true;
    if (environment_has(pid, h))
        return true;
    return h->parent != 0 && p->parent == h->parent && p->session != h->spared_session &&
           !h->known(pid);
}

/* The found, and what descends from them: grows while it is looked through. */
struct found {
    const struct hunt *hunt;
    size_t count;
    pid_t pids[4096];
};

static void collect(pid_t pid, const struct process *p, void *data)
{
    struct found *f = data;
    bool ours = is_quarry(pid, p, f->hunt);
    for (size_t i = 0; !ours && i < f->count; i++)
        ours = f->pids[i] == p->parent && p->parent != getpid();
    if (ours && f->count < sizeof f->pids / sizeof f->pids[0]) {
        f->pids[f->count++] = pid;
        kill(pid, SIGKILL);
    }
}

/* Kill until a look finds nobody. */
static bool hunt_down(const struct hunt *h)
{
    static struct found found;
    for (int64_t until = clock_ms() + KILL_PATIENCE_MS; clock_ms() < until; sleep_ms(2)) {
        found.hunt = h;
        found.count = 0;
        each_process(collect, &found);
        if (found.count == 0)
            break;
    }
    found.hunt = NULL;
    return found.count == 0;
}

/* A session's number is not given out again while it has members; so if a process of that number
 * lives which is not the leader it was, the session is over. */
static bool session_is_over(pid_t leader, unsigned long long start)
{
    struct process p;
    return process_read(leader, &p) && p.state != 'Z' && p.start != start;
}

bool cleanup_end_request(const char *id, pid_t session, pid_t server, bool (*known)(pid_t))
{
    char ids[1][CLEANUP_ID_SIZE];
    snprintf(ids[0], sizeof ids[0], "%s", id);
    /* Its leader is dead: a live process of that number is a stranger. */
    bool over = session == 0 || session_is_over(session, 0);
    struct hunt h = {.ids = ids,
                     .id_count = 1,
                     .sessions = &session,
                     .session_count = over ? 0 : 1,
                     .parent = server,
                     .spared_session = getsid(0),
                     .known = known};
    return hunt_down(&h);
}

/* ---- Processes: a list of all ------------------------------------------------------ */

/* The array ITEMS, or where it went to have room for one more of SIZE bytes; NULL with errno. */
static void *make_room(void *items, size_t count, size_t *room, size_t size)
{
    size_t more = *room == 0 ? 64 : *room * 2;
    if (count < *room)
        return items;
    items = reallocarray(items, more, size);
    if (items != NULL)
        *room = more;
    return items;
}

static int compare_pids(const void *a, const void *b)
{
    const struct cleanup_process *x = a, *y = b;
    return (x->pid > y->pid) - (x->pid < y->pid);
}

struct cleanup_process *cleanup_look_processes(size_t *count)
{
    struct cleanup_process *all = NULL;
    size_t room = 0;
    *count = 0;
    errno = 0;
    DIR *proc = opendir("/proc");
    for (const struct dirent *e; proc != NULL && (e = readdir(proc)) != NULL;) {
        const char *name = e->d_name;
        unsigned long long pid;
        struct process p;
        if (!parse_number(&name, INT_MAX, &pid) || !process_read((pid_t)pid, &p) ||
            p.state == 'Z' || p.state == 'X')
            continue;
        void *more = make_room(all, *count, &room, sizeof *all);
        if (more == NULL)
            break;
        all = more;
        all[(*count)++] = (struct cleanup_process){(pid_t)pid, p.parent};
    }
    if (proc != NULL)
        closedir(proc);
    if (all != NULL)
        qsort(all, *count, sizeof *all, compare_pids);
    return all;
}

const struct cleanup_process *cleanup_find_process(const struct cleanup_process *all, size_t count,
                                                   pid_t pid)
{
    return bsearch(&(struct cleanup_process){.pid = pid}, all, count, sizeof *all, compare_pids);
}

#endif
