/* processes.h: what /proc says of processes, and ending all that a request started.
 *
 *     struct hunt h = {.ids = ids, .id_count = count};
 *     if (!hunt_down(&h))
 *         ... some of them would not die ...
 *
 * Every process of a request bears its mark, and is a descendant of the request's child, which is a
 * subreaper. So there are two ways to find them: the child itself, while it lives, ends what is
 * below it (cleanup_end_children); after its death somebody else hunts for the mark (hunt_down,
 * cleanup_end_request).
 *
 * The mark is a resource limit that the kernel keeps for each process and has not used since Linux
 * 2.4, RLIMIT_LOCKS. It is inherited whatever a process becomes: another session, another
 * environment, another program or user, a daemon; and it can be read of each of them. Only who sets
 * this very limit sheds it (`ulimit -x`, or PAM where limits.conf has `locks`). REQUEST_ID in the
 * environment is a second one, which is easily lost. A session proves nothing: after the death of
 * its leader the number may be a stranger's.
 *
 * A look at /proc is not a picture of one moment. Processes fork while they are looked through, so
 * both ways look again until a look finds nobody. Whoever holds a ledger ends its processes and no
 * one else's: never hunt for a request whose ledger a living server may still hold.
 *
 * What others may call is declared in ledger.h.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_PROCESSES_H
#define HANGUPD_PROCESSES_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "ledger.h"
#include "reader.h"
#include "walk.h"

/* ---- What /proc says of one process -------------------------------------------------- */

struct process {
    char state;
    pid_t pid, parent, session;
    unsigned long long start; /* clock ticks since boot */
};

/* Read /proc/PID/stat, see proc(5). Returns false if there is no such process. The command's name
 * is skipped from its end, as it may hold anything, brackets too. */
ASYNC_SAFE static bool process_read(pid_t pid, struct process *p)
{
    char path[32], buffer[1024];
    unsigned long long field[23]; /* by its number in proc(5) */
    struct text t = TEXT(path);
    int fd = open(text_format(&t, "/proc/%d/stat", pid), O_RDONLY | O_CLOEXEC);
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
    char state = s[2];
    s += 3;
    for (int i = 4; i <= 22; i++) {
        s += strspn(s, " -");
        if (!parse_number(&s, ULLONG_MAX, &field[i]))
            return false;
    }
    *p = (struct process){state, pid, (pid_t)field[4], (pid_t)field[6], field[22]};
    return true;
}

/* ---- Who lives on -------------------------------------------------------------------- */

/* Append what /proc/PID/status, in WORDS, says of NAME, up to the end of the word or line. */
ASYNC_SAFE static void add_status_field(struct text *t, const char *words, const char *name,
                                        const char *end)
{
    const char *at = strstr(words, name);
    if (at != NULL)
        text_bytes(t, at + strlen(name), strcspn(at + strlen(name), end));
}

static char survivor[256];

/* Read what the kernel says of PID into WORDS, SIZE bytes; "" if it is gone. */
ASYNC_SAFE static void read_status(pid_t pid, char *words, size_t size)
{
    char path[32];
    struct text t = TEXT(path);
    int fd = open(text_format(&t, "/proc/%d/status", pid), O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, words, size - 1);
    if (fd >= 0)
        close(fd);
    words[n > 0 ? n : 0] = '\0';
}

#define LEFTOVERS_NAMED 4

/* As in "sleep (4711)". */
ASYNC_SAFE static void add_name(struct text *to, pid_t pid)
{
    char words[256];
    read_status(pid, words, sizeof words);
    add_status_field(to, words, "Name:\t", "\n");
    text_format(to, " (%d)", pid);
}

/* Describe PID, which lives on although it was killed, or which may not be killed, with ERROR. */
ASYNC_SAFE static void survivor_note(pid_t pid, int error)
{
    char words[2048];
    struct text said = TEXT(survivor);
    read_status(pid, words, sizeof words);
    text_format(&said, "its process %d (", pid);
    add_status_field(&said, words, "Name:\t", "\n");
    text_add(&said, ") of the user ");
    add_status_field(&said, words, "\nUid:\t", "\t\n");
    if (error != 0) {
        text_format(&said, " cannot be ended: %s", strerrordesc_np(error));
    } else {
        text_add(&said, " does not end, even by SIGKILL; its state is ");
        add_status_field(&said, words, "\nState:\t", "\n");
    }
    text_end(&said);
}

ASYNC_SAFE const char *cleanup_survivor(void)
{
    return survivor;
}

const char *cleanup_process_words(pid_t pid)
{
    static char words[64];
    struct process p = {.state = '?'};
    (void)process_read(pid, &p);
    snprintf(words, sizeof words, "janitor %d is in state %c%s", (int)pid, p.state,
             p.state == 'D' ? " and waits for a disk" : "");
    return words;
}

void cleanup_note_survivor(const struct cleanup_settling *how)
{
    char line[sizeof LEDGER_WAITS + sizeof survivor];
    struct text t = TEXT(line);
    int fd = openat(how->dir, how->name != NULL ? how->name : how->id,
                    O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    cleanup_report(how->id, survivor);
    text_format(&t, LEDGER_WAITS "%s\n", survivor);
    if (fd >= 0) /* else nothing was made, or its program's file alone is there */
        (void)write_all(fd, line, t.length);
    if (fd >= 0)
        close(fd);
}

/* ---- The mark ------------------------------------------------------------------------ */

/* The soft limit: of the server's token so many bits as are left, and the request's number. It is
 * read and set as prlimit(2) has it, two words on any machine, as rlim_t may be shorter. */
#define LIMIT_NUMBER_BITS 36
#define LIMIT_NUMBER_MASK ((UINT64_C(1) << LIMIT_NUMBER_BITS) - 1)
#define LIMIT_NONE UINT64_MAX

static uint64_t limit_of_id(const char *id)
{
    char *number;
    uint64_t token = strtoull(id, &number, 16) << (LIMIT_NUMBER_BITS + 1) >> 1;
    return token | (*number == '-' ? strtoull(number + 1, NULL, 16) & LIMIT_NUMBER_MASK : 0);
}

/* The kernel tells it of this user's processes at once, and of all others in words. */
static uint64_t limit_of_process(pid_t pid)
{
    static const char name[] = "Max file locks";
    char path[32], words[4096];
    uint64_t now[2] = {LIMIT_NONE, LIMIT_NONE};
    struct text t = TEXT(path);
    if (syscall(SYS_prlimit64, pid, RLIMIT_LOCKS, NULL, now) == 0)
        return now[0];
    int fd = open(text_format(&t, "/proc/%d/limits", pid), O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, words, sizeof words - 1);
    if (fd >= 0)
        close(fd);
    words[n > 0 ? n : 0] = '\0';
    const char *line = strstr(words, name);
    unsigned long long soft = LIMIT_NONE;
    if (line != NULL) {
        line += strlen(name);
        line += strspn(line, " ");
        (void)parse_number(&line, ULLONG_MAX, &soft); /* else it is "unlimited" */
    }
    return soft;
}

/* The mark in the environment, in two places, as a process may be forked or executed. */
#define MARK_NAME "REQUEST_ID="
#define MARK_NAME_LENGTH (sizeof MARK_NAME - 1)
static struct {
    char *at;    /* the kernel's block of this process's environment: /proc/PID/environ shows it, */
    size_t room; /* and a fork inherits it */
    char variable[MARK_NAME_LENGTH + CLEANUP_ID_SIZE + 1]; /* in environ: for what is executed */
} mark = {.variable = MARK_NAME};

void cleanup_mark_prepare(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    size_t count = 0, kept = 0;
    char *block = environ[0], *end = block;
    for (; environ[count] != NULL; count++)
        if (environ[count] == end) /* still the kernel's block, without a gap */
            end += strlen(end) + 1;
    size_t size = (size_t)(end - block);
    char **copy = malloc((count + 2) * sizeof *copy + size);
    if (copy == NULL)
        return;
    char *text = (char *)(copy + count + 2);
    copy[kept++] = mark.variable;
    for (size_t i = 0; i < count; i++) {
        bool inside = environ[i] >= block && environ[i] < end;
        if (strncmp(environ[i], MARK_NAME, MARK_NAME_LENGTH) == 0)
            continue; /* a server that a request has started is not that request */
        copy[kept++] = inside ? text + (environ[i] - block) : environ[i];
    }
    copy[kept] = NULL;
    if (count > 0)
        memcpy(text, block, size);
    mark.at = block;
    mark.room = size;
    environ = copy;
}

void cleanup_mark_process(const char *id)
{
    size_t name = MARK_NAME_LENGTH, length = strlen(id);
    if (length >= CLEANUP_ID_SIZE)
        length = CLEANUP_ID_SIZE - 1;
    uint64_t limit[2];
    if (syscall(SYS_prlimit64, 0, RLIMIT_LOCKS, NULL, limit) == 0) {
        limit[0] = limit_of_id(id);
        syscall(SYS_prlimit64, 0, RLIMIT_LOCKS, limit, NULL);
    }
    memcpy(mark.variable + name, id, length);
    mark.variable[name + length] = '\0';
    size_t size = name + length + 1;
    if (size > mark.room)
        return; /* so small an environment has no room: the limit must be enough to find it */
    memcpy(mark.at, mark.variable, size);
    for (size_t at = size; at < mark.room && mark.at[at] != '\0'; at++)
        mark.at[at] = '\0'; /* the rest of the variable that was here, now cut in two */
}

/* ---- Ending what is left of a request ------------------------------------------------ */

/* Step to the next process in the walk through /proc, zombies left out. Returns false at the end
 * and after a failure. */
ASYNC_SAFE static bool process_next(struct walk *proc, struct process *p)
{
    const struct dirent64 *e;
    while ((e = walk_next(proc)) != NULL) {
        const char *name = e->d_name;
        unsigned long long pid;
        if (parse_number(&name, INT_MAX, &pid) && *name == '\0' && process_read((pid_t)pid, p) &&
            p->state != 'Z' && p->state != 'X')
            return true;
    }
    return false;
}

/* A list of processes that grows while it is looked through. On more than it holds the next look
 * goes on: those in it have been killed by then. */
struct pids {
    size_t count;
    pid_t at[4096];
};

ASYNC_SAFE static bool pids_add(struct pids *to, pid_t pid)
{
    bool room = to->count < sizeof to->at / sizeof to->at[0];
    if (room)
        to->at[to->count++] = pid;
    return room;
}

/* Add the pids in /proc/PID/task/TID/children, see proc(5). Returns false if it cannot be read. */
ASYNC_SAFE static bool children_of_thread(int tasks, const char *tid, struct pids *to)
{
    char path[32], piece[512];
    struct text t = TEXT(path);
    int fd = openat(tasks, text_format(&t, "%s/children", tid), O_RDONLY | O_CLOEXEC);
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

/* Add the children of PID. Returns false if it is gone, or the kernel does not tell: it does so
 * only with CONFIG_PROC_CHILDREN. */
ASYNC_SAFE static bool children_of(pid_t pid, struct pids *to)
{
    static _Alignas(struct dirent64) char entries[1024];
    char path[32];
    struct text t = TEXT(path);
    bool told = false;
    const char *name = text_format(&t, "/proc/%d/task", pid);
    struct walk tasks = walk_open(AT_FDCWD, name, entries, sizeof entries);
    for (const struct dirent64 *e; (e = walk_next(&tasks)) != NULL;)
        told |= children_of_thread(tasks.fd, e->d_name, to);
    (void)walk_close(&tasks);
    return told;
}

/* What a look has seen below this process: how many could be signalled, and how many not, as they
 * are another user's. */
struct sight {
    size_t reached, refused;
    pid_t first; /* of those that could not, else of all */
};

/* Those that have had their SIGTERM in this ending, or their SIGKILL without one. */
static struct pids told;

/* Of the latter: how many, and who, for the log. */
static struct {
    size_t count;
    char words[160];
} leftovers;

ASYNC_SAFE static void leftover_note(pid_t pid)
{
    struct text said = TEXT(leftovers.words);
    said.length = leftovers.count == 0 ? 0 : strlen(leftovers.words);
    if (leftovers.count++ < LEFTOVERS_NAMED) {
        text_add(&said, said.length == 0 ? "" : ", ");
        add_name(&said, pid);
    }
    text_end(&said);
}

ASYNC_SAFE const char *cleanup_leftovers(size_t *count)
{
    *count = leftovers.count;
    return leftovers.words;
}

ASYNC_SAFE static bool told_for_the_first_time(pid_t pid)
{
    for (size_t i = 0; i < told.count; i++)
        if (told.at[i] == pid)
            return false;
    return pids_add(&told, pid);
}

/* Send SIGNAL to PID, 0 to none, and note whether that may be done. */
ASYNC_SAFE static void signal_one(pid_t pid, int signal, struct sight *s)
{
    if (signal == SIGKILL && told_for_the_first_time(pid))
        leftover_note(pid);
    bool refused = kill(pid, signal) < 0 && errno == EPERM;
    if (signal == SIGTERM)
        kill(pid, SIGCONT); /* a process that is stopped would not act on it */
    if (s->first == 0 || (refused && s->refused == 0))
        s->first = pid;
    if (refused)
        s->refused++;
    else
        s->reached++;
}

/* Signal all that descends from this process, but SIGTERM only to those that have not had it. If
 * ALL is false they are only those that have come to us as orphans, and what is below these: who
 * has had its SIGTERM, and lives, may start what its last word needs. If the kernel does not tell
 * the children of a process, it is its own children and those of its session: grandchildren come to
 * it when their parents die, as it is a subreaper. */
ASYNC_SAFE static struct sight signal_below(int signal, bool all)
{
    static _Alignas(struct dirent64) char entries[4096];
    static struct pids below;
    static bool due[sizeof below.at / sizeof below.at[0]];
    const pid_t self = getpid();
    struct sight sight = {0};
    below.count = 0;
    if (children_of(self, &below)) {
        memset(due, true, below.count);
        for (size_t i = 0; i < below.count; i++) {
            size_t own = below.count;
            bool now = due[i] && (signal != SIGTERM || told_for_the_first_time(below.at[i]));
            /* Its children are found before it dies, as they would become ours, unseen; and when it
             * has been stopped: a fork that has not come to its end by then begins anew after it.
             */
            if (now && signal == SIGTERM)
                kill(below.at[i], SIGSTOP);
            children_of(below.at[i], &below);
            signal_one(below.at[i], now ? signal : 0, &sight);
            memset(due + own, all || now, below.count - own);
        }
        return sight;
    }
    struct walk proc = walk_open(AT_FDCWD, "/proc", entries, sizeof entries);
    for (struct process p; process_next(&proc, &p);)
        if (p.pid != self && (p.parent == self || p.session == self)) {
            bool now = signal != SIGTERM || told_for_the_first_time(p.pid);
            signal_one(p.pid, now ? signal : 0, &sight);
        }
    (void)walk_close(&proc);
    return sight;
}

/* Reap what has ended. Returns true if no child is left. */
ASYNC_SAFE static bool reap_all(void)
{
    pid_t pid;
    do
        pid = waitpid(-1, NULL, WNOHANG | __WALL); /* also what was cloned without SIGCHLD */
    while (pid > 0 || (pid < 0 && errno == EINTR));
    return pid < 0;
}

/* A process in an uninterruptible wait dies when it comes out of it. That is given this long, and
 * no longer, as one process on a dead disk must not hold up all other undoing for ever. */
#define KILL_PATIENCE_MS 10000

/* Signal what is below this process again and again, and reap, until no child is left, or MS have
 * passed, or only those are left that may not be signalled. CHILD is SIGCHLD, which the caller has
 * blocked, so that sigtimedwait takes it and a pause ends when a child does. Returns true if no
 * child is left. */
ASYNC_SAFE static bool reap_until(int64_t ms, int signal, const sigset_t *child,
                                  cleanup_meanwhile_fn *meanwhile)
{
    int in_vain = 0;
    struct sight sight = {0};
    for (int64_t now = clock_ms(), until = now + ms, pause = 1; now < until; now = clock_ms()) {
        /* What the killed leave behind has come to us: look again. */
        sight = signal_below(signal, signal != SIGTERM);
        if (reap_all())
            return true;
        if (meanwhile != NULL)
            meanwhile();
        in_vain = sight.reached == 0 && sight.refused > 0 ? in_vain + 1 : 0;
        if (in_vain > 1)
            break;
        struct timespec t = {.tv_nsec = pause * 1000000};
        if (sigtimedwait(child, NULL, &t) < 0 && pause < 16)
            pause *= 2;
    }
    survivor_note(sight.first, sight.refused > 0 ? EPERM : 0);
    return false;
}

ASYNC_SAFE bool cleanup_end_children(int64_t grace_ms, cleanup_meanwhile_fn *meanwhile)
{
    sigset_t child, before;
    leftovers.count = 0;
    if (reap_all())
        return true;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &before);
    told.count = 0;
    if (grace_ms > 0)
        (void)signal_below(SIGTERM, true);
    bool none = reap_until(grace_ms, SIGTERM, &child, meanwhile) ||
                reap_until(KILL_PATIENCE_MS, SIGKILL, &child, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return none;
}

/* What to look for in /proc. All that is 0 or NULL is not looked for. */
struct hunt {
    char (*ids)[CLEANUP_ID_SIZE]; /* processes of these requests, */
    size_t id_count;
    const char *token; /* of all other requests of the server with this token, */
    int state;         /* except those of which SPARED(STATE, ID) is true: */
    bool (*spared)(int state, const char *id); /* their ledgers are in somebody else's hands */
    const struct process *children;            /* these children of a dead server, */
    size_t child_count;
    pid_t parent;         /* and all children of this process, */
    pid_t spared_session; /* except those of this session */
    bool (*known)(pid_t); /* and those of which this is true */
};

static bool is_hunted(const char *id, const struct hunt *h)
{
    for (size_t i = 0; i < h->id_count; i++)
        if (strcmp(id, h->ids[i]) == 0)
            return true;
    size_t length = CLEANUP_TOKEN_SIZE - 1;
    return h->token != NULL && strncmp(id, h->token, length) == 0 && id[length] == '-' &&
           !(h->spared != NULL && h->spared(h->state, id));
}

/* Returns true if the limit SOFT marks a request that is hunted. */
static bool limit_is_hunted(uint64_t soft, const struct hunt *h)
{
    char id[CLEANUP_ID_SIZE];
    for (size_t i = 0; i < h->id_count; i++)
        if (soft == limit_of_id(h->ids[i]))
            return true;
    if (h->token == NULL || soft >> LIMIT_NUMBER_BITS != limit_of_id(h->token) >> LIMIT_NUMBER_BITS)
        return false;
    snprintf(id, sizeof id, "%s-%llx", h->token, (unsigned long long)(soft & LIMIT_NUMBER_MASK));
    return is_hunted(id, h);
}

/* Returns true if the environment of PID, as it was executed or as it has marked itself, names a
 * request that is hunted. */
static bool environment_has(pid_t pid, const struct hunt *h)
{
    static char environment[128 * 1024]; /* a longer one is cut: the limit must be enough */
    char path[32];
    struct text t = TEXT(path);
    int fd = open(text_format(&t, "/proc/%d/environ", pid), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t length = 0;
    ssize_t n;
    while (length < sizeof environment - 1 &&
           (n = read(fd, environment + length, sizeof environment - 1 - length)) > 0)
        length += (size_t)n;
    close(fd);
    environment[length] = '\0';
    for (const char *at = environment; at < environment + length; at += strlen(at) + 1)
        if (strncmp(at, MARK_NAME, MARK_NAME_LENGTH) == 0 && is_hunted(at + MARK_NAME_LENGTH, h))
            return true;
    return false;
}

enum quarry { QUARRY_NONE, QUARRY_MARKED, QUARRY_ORPHAN };

/* Returns whether the process is one to kill: never this one, nor the parent whose children are
 * looked at. An orphan that bears another request's mark is that one's leftover. */
static enum quarry quarry(const struct process *p, const struct hunt *h)
{
    if (p->pid == getpid() || p->pid == h->parent)
        return QUARRY_NONE;
    for (size_t i = 0; i < h->child_count; i++)
        if (p->pid == h->children[i].pid && p->start == h->children[i].start)
            return QUARRY_MARKED;
    uint64_t soft = limit_of_process(p->pid);
    if (limit_is_hunted(soft, h) || environment_has(p->pid, h))
        return QUARRY_MARKED;
    bool orphan = h->parent != 0 && p->parent == h->parent && p->session != h->spared_session &&
                  soft >> LIMIT_NUMBER_BITS != limit_of_id(h->ids[0]) >> LIMIT_NUMBER_BITS &&
                  !h->known(p->pid);
    return orphan ? QUARRY_ORPHAN : QUARRY_NONE;
}

/* What one look at /proc has found. */
struct found {
    size_t killed, refused;
    bool busy;      /* one of the killed does not sleep in the kernel: it will end soon */
    pid_t survivor; /* one of those that are certainly the request's */
    int error;      /* why that cannot be killed */
};

/* Kill those that are hunted and what is below them, as far as one look at /proc shows it. */
static struct found hunt_look(const struct hunt *h)
{
    _Alignas(struct dirent64) char entries[4096];
    static struct pids seen;
    struct found found = {0};
    seen.count = 0;
    struct walk proc = walk_open(AT_FDCWD, "/proc", entries, sizeof entries);
    for (struct process p; process_next(&proc, &p);) {
        enum quarry how = quarry(&p, h);
        for (size_t i = 0; how == QUARRY_NONE && i < seen.count; i++)
            if (seen.at[i] == p.parent && p.parent != getpid())
                how = QUARRY_MARKED;
        if (how == QUARRY_NONE || !pids_add(&seen, p.pid))
            continue;
        bool refused = kill(p.pid, SIGKILL) < 0 && errno == EPERM;
        found.killed += !refused;
        found.refused += refused;
        found.busy = found.busy || (!refused && p.state != 'D');
        if (how == QUARRY_MARKED && (found.survivor == 0 || (refused && found.error == 0))) {
            found.survivor = p.pid;
            found.error = refused ? EPERM : 0;
        }
    }
    (void)walk_close(&proc);
    return found;
}

/* Who sleeps in the kernel when it is killed may do so for long: its request's undo begins without
 * waiting for that. */
#define SLEEPER_PATIENCE_MS 1000

/* Kill until a look finds nobody. Returns false if that has not come to an end in time. Those who
 * may not be killed are not waited for. */
static bool hunt_down(const struct hunt *h)
{
    for (int64_t begun = clock_ms();; sleep_ms(2)) {
        struct found found = hunt_look(h);
        int64_t patience = found.busy ? KILL_PATIENCE_MS : SLEEPER_PATIENCE_MS;
        if (found.killed > 0 && clock_ms() - begun < patience)
            continue;
        if (found.survivor != 0)
            survivor_note(found.survivor, found.error);
        return found.survivor == 0;
    }
}

bool cleanup_end_request(const char *id, pid_t server, bool (*known)(pid_t))
{
    char ids[1][CLEANUP_ID_SIZE];
    snprintf(ids[0], sizeof ids[0], "%s", id);
    struct hunt h = {
        .ids = ids, .id_count = 1, .parent = server, .spared_session = getsid(0), .known = known};
    return hunt_down(&h);
}

/* ---- A list of all processes --------------------------------------------------------- */

static int compare_pids(const void *a, const void *b)
{
    const struct cleanup_process *x = a, *y = b;
    return (x->pid > y->pid) - (x->pid < y->pid);
}

struct cleanup_process *cleanup_look_processes(size_t *count)
{
    _Alignas(struct dirent64) char entries[WALK_SIZE];
    struct cleanup_process *all = NULL;
    size_t room = 0;
    *count = 0;
    struct walk proc = walk_open(AT_FDCWD, "/proc", entries, sizeof entries);
    for (struct process p; process_next(&proc, &p);) {
        void *more = list_grow(all, *count, &room, sizeof *all);
        if (more == NULL) {
            proc.error = errno;
            break;
        }
        all = more;
        all[(*count)++] = (struct cleanup_process){p.pid, p.parent};
    }
    if (all != NULL)
        qsort(all, *count, sizeof *all, compare_pids);
    (void)walk_close(&proc);
    return all;
}

/* A server may be stopped in the midst of a fork. */
#define BORN_WITHIN (UINT64_C(10) * TICKS_PER_SECOND)

bool cleanup_is_born(pid_t pid, pid_t parent, uint64_t forked)
{
    struct process p;
    return process_read(pid, &p) && p.parent == parent && p.start >= forked &&
           p.start - forked <= BORN_WITHIN;
}

const struct cleanup_process *cleanup_find_process(const struct cleanup_process *all, size_t count,
                                                   pid_t pid)
{
    return bsearch(&(struct cleanup_process){.pid = pid}, all, count, sizeof *all, compare_pids);
}

#endif
