/* fault_syscalls.c: one request is disturbed at every system call that it makes, one after the
 * other, and each time the caller's view and the world must agree with the promise: a whole answer
 * below 400 and all that the request made, or no such answer and nothing of it.
 *
 *     fault_syscalls [--sweep NAME] [--handler c|program] [--every N] [--offset R]
 *                    [--seconds S] [--jobs N]
 *
 * It is the caller and, by ptrace(2), the watcher of the server and of all its descendants. The
 * one process that a sweep is about, its target, runs from its first instruction from system-call
 * stop to system-call stop, entry and exit counted apart; at the K-th the disturbance comes. Then
 * everything runs on until it is quiet: no process but the server, no ledger, and the caller has
 * its answer or knows that there is none. K = 1, 2, ... until the target has ended before its K-th
 * stop three times in a row.
 *
 * Since every process is watched, "no process is left" is known and not looked for.
 *
 * One window cannot be closed: when child and server both die between the ledger's `sent` mark and
 * the last byte of the answer, the mark says keep, and the caller has no whole answer. A point
 * there is counted apart, if the ledger had the mark, the answer had not been sent, and both were
 * killed.
 *
 * Each worker has its own server, directory and, where that is allowed, PID namespace, in which
 * /proc is short and the numbers of the stops do not depend on what else runs.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness_files.h"
#include "harness_obstacles.h"
#include "reader.h"

/* ---- The sweeps -------------------------------------------------------------------------- */

/* What a request is like. */
static const struct scenario {
    const char *name, *target;
    enum {
        IS_CLOSING = 1,     /* asks for Connection: close */
        IS_OLD = 2,         /* HTTP/1.0: the end of the connection is the end of the answer */
        IS_PLAIN = 4,       /* the file system knows neither O_TMPFILE nor RENAME_NOREPLACE */
        ON_UNIX_SOCKET = 8, /* and not on TCP */
        IS_PROGRAM = 16,    /* by CGI */
        IS_IDLE = 32,       /* makes nothing, and so leaves its scratch directory as it was */
        IS_SECOND = 64,     /* its slot has the records of a request that was answered */
        IS_CHANGED = 128,   /* its slot's scratch directory is not as its maker left it */
        IS_FIRST = 256,     /* its slot has no files yet */
        IS_AGAIN = 512      /* its undo command gets a second look */
    } is;
} scenarios[] = {
    {"whole", "/c?answer=whole", 0},
    {"stream", "/c?answer=stream&daemon", IS_CLOSING},
    {"old", "/c?answer=stream", IS_OLD},
    {"plain", "/c?answer=length", IS_PLAIN},
    {"unix", "/c?answer=stream", ON_UNIX_SOCKET},
    {"program", "/program", IS_PROGRAM},
    {"idle", "/idle", IS_PROGRAM | IS_IDLE},
    {"second", "/c?answer=whole", IS_SECOND},
    {"second-program", "/program", IS_PROGRAM | IS_SECOND},
    {"changed", "/program", IS_PROGRAM | IS_CHANGED},
    {"first", "/c?answer=whole", IS_FIRST},
    {"first-program", "/program", IS_PROGRAM | IS_FIRST},
    {"again", "/program", IS_PROGRAM | IS_AGAIN},
};

static bool is(const struct scenario *s, unsigned flag)
{
    return (s->is & flag) != 0;
}

/* Whose system calls are counted. */
enum target {
    TARGET_CHILD,
    TARGET_PROGRAM, /* which the child runs */
    TARGET_JANITOR, /* which settles what the dead child left */
    TARGET_RECOVERY /* of the next server, after child and server died */
};

/* Where the child dies for the janitor or the recovery to have work. */
enum death {
    DEATH_UNSENT,  /* before the `sent` mark: to be undone */
    DEATH_MARKED,  /* just after it, no byte of the rest sent */
    DEATH_ANSWERED /* when the last byte has been sent: to be kept */
};

enum action {
    ACT_TERM,
    ACT_KILL,
    ACT_KILL_CHILD, /* while the target, its program, is held */
    ACT_KILL_BOTH,  /* the server and the target; of a program also the child */
    ACT_FIN,
    ACT_RST,
    ACT_HALF_CLOSE,
    ACT_ERROR /* a call of the target fails */
};

static const struct sweep {
    const char *name;
    enum target target;
    enum death death;
    enum action action;
} sweeps[] = {
    {"sigterm", TARGET_CHILD, 0, ACT_TERM},
    {"sigkill", TARGET_CHILD, 0, ACT_KILL},
    {"sigkill-both", TARGET_CHILD, 0, ACT_KILL_BOTH},
    {"fin", TARGET_CHILD, 0, ACT_FIN},
    {"rst", TARGET_CHILD, 0, ACT_RST},
    {"half-close", TARGET_CHILD, 0, ACT_HALF_CLOSE},
    {"error", TARGET_CHILD, 0, ACT_ERROR},
    {"program-sigterm", TARGET_PROGRAM, 0, ACT_TERM},
    {"program-sigkill", TARGET_PROGRAM, 0, ACT_KILL},
    {"program-orphaned", TARGET_PROGRAM, 0, ACT_KILL_CHILD},
    {"program-both", TARGET_PROGRAM, 0, ACT_KILL_BOTH},
    {"program-fin", TARGET_PROGRAM, 0, ACT_FIN},
    {"program-rst", TARGET_PROGRAM, 0, ACT_RST},
    {"program-error", TARGET_PROGRAM, 0, ACT_ERROR},
    {"janitor-undoes", TARGET_JANITOR, DEATH_UNSENT, ACT_KILL},
    {"janitor-refutes", TARGET_JANITOR, DEATH_MARKED, ACT_KILL},
    {"janitor-keeps", TARGET_JANITOR, DEATH_ANSWERED, ACT_KILL},
    {"janitor-undoes-error", TARGET_JANITOR, DEATH_UNSENT, ACT_ERROR},
    {"janitor-refutes-error", TARGET_JANITOR, DEATH_MARKED, ACT_ERROR},
    {"janitor-keeps-error", TARGET_JANITOR, DEATH_ANSWERED, ACT_ERROR},
    {"janitor-both", TARGET_JANITOR, DEATH_UNSENT, ACT_KILL_BOTH},
    {"janitor-refutes-both", TARGET_JANITOR, DEATH_MARKED, ACT_KILL_BOTH},
    {"recovery", TARGET_RECOVERY, DEATH_UNSENT, ACT_KILL},
    {"recovery-both", TARGET_RECOVERY, DEATH_UNSENT, ACT_KILL_BOTH},
    {"recovery-keeps", TARGET_RECOVERY, DEATH_ANSWERED, ACT_KILL_BOTH},
    {"recovery-error", TARGET_RECOVERY, DEATH_UNSENT, ACT_ERROR},
    {"recovery-keeps-error", TARGET_RECOVERY, DEATH_ANSWERED, ACT_ERROR},
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static struct {
    const char *sweep;   /* NAME or NAME/SCENARIO; NULL: all */
    const char *handler; /* "c" or "program"; NULL: both */
    unsigned long every, offset, jobs;
    int64_t until; /* 0: no limit */
    char server[PATH_MAX];
    char program[PATH_MAX + 16], idle[PATH_MAX + 16]; /* routes to the program */
    char base[PATH_MAX];
} options = {.every = 1};

#define PATIENCE_MS 20000
#define HANGUP_SEEN_MS 15 /* so long the target is held for the server to see a hangup */
#define UNDISTURBED_ENOUGH 3
#define VIOLATIONS_ENOUGH 5 /* of one worker; then it gives up its sweep */
#define WINDOW_NAMED 3      /* points of a sweep in the known window; all are counted */
#define WAITING_JOBS 24     /* of a sweep whose points wait for a retry, a second each */

/* What the workers of one sweep have found. */
struct tally {
    _Atomic unsigned points, violations, window;
    _Atomic unsigned undisturbed; /* that were behind the last point */
    _Atomic bool time_up;
};
static struct tally *tally;

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

_Noreturn static void give_up(const char *what)
{
    fprintf(stderr, "fault_syscalls: could not %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---- System calls: names, and the errors that each can give ------------------------------- */

struct call {
    long number;
    const char *name;
    int errors[5]; /* 0 ends them */
    bool after;    /* it is made all the same: a close that fails has closed */
};
#define CALL(name, ...)                                                                            \
    {                                                                                              \
        SYS_##name, #name, {__VA_ARGS__}, false                                                    \
    }
static const struct call calls[] = {
    CALL(openat, EMFILE, ENOMEM, ENOSPC, EIO, EINTR),
    CALL(openat2, EMFILE, ENOMEM, EIO, EINTR),
    CALL(read, EIO, EINTR),
    CALL(write, ENOSPC, EIO, EINTR),
    CALL(pread64, EIO, EINTR),
    CALL(pwrite64, ENOSPC, EIO, EINTR),
    CALL(pwritev2, ENOSPC, EIO, EINTR),
    {SYS_close, "close", {EIO, EINTR}, true},
    CALL(linkat, ENOSPC, EIO, ENOMEM),
    CALL(renameat2, ENOSPC, EIO, ENOMEM),
    CALL(renameat, ENOSPC, EIO, ENOMEM),
    CALL(mkdirat, ENOSPC, EIO, ENOMEM),
    CALL(unlinkat, EIO, ENOMEM),
    CALL(statx, EIO, ENOMEM),
    CALL(name_to_handle_at, EOPNOTSUPP, ENOMEM),
    CALL(fstat, EIO, ENOMEM),
    CALL(fallocate, ENOSPC, EIO, EINTR),
    CALL(ftruncate, EIO, EINTR),
    CALL(fsync, EIO, ENOSPC),
    CALL(fdatasync, EIO, ENOSPC),
    CALL(flock, EINTR, ENOMEM),
    CALL(fcntl, ENOLCK, EMFILE, EAGAIN),
    CALL(getdents64, EIO, ENOMEM),
    CALL(getcwd, ENOMEM),
    CALL(getrandom, EINTR),
    CALL(recvfrom, ENOMEM, EINTR),
    CALL(sendto, ENOMEM, EINTR),
    CALL(sendmsg, ENOMEM, EINTR),
    CALL(sendmmsg, ENOMEM, EINTR),
    CALL(memfd_create, EMFILE, ENOMEM),
    CALL(pipe2, EMFILE, ENFILE),
    CALL(dup, EMFILE),
    CALL(dup3, 0),
    CALL(clone, ENOMEM, EAGAIN),
    CALL(clone3, ENOMEM, EAGAIN),
    CALL(execve, ENOMEM, EIO),
    CALL(wait4, EINTR),
    CALL(waitid, EINTR),
    CALL(ppoll, EINTR, ENOMEM),
    CALL(clock_nanosleep, EINTR),
    CALL(mmap, ENOMEM),
    CALL(brk, ENOMEM),
#ifdef __x86_64__
    CALL(open, EMFILE, ENOMEM, ENOSPC, EIO, EINTR),
    CALL(link, ENOSPC, EIO, ENOMEM),
    CALL(rename, ENOSPC, EIO, ENOMEM),
    CALL(mkdir, ENOSPC, EIO, ENOMEM),
    CALL(unlink, EIO, ENOMEM),
    CALL(rmdir, EIO, ENOMEM),
    CALL(stat, EIO, ENOMEM),
    CALL(lstat, EIO, ENOMEM),
    CALL(newfstatat, EIO, ENOMEM),
    CALL(poll, EINTR, ENOMEM),
    CALL(dup2, 0),
    CALL(fork, ENOMEM, EAGAIN),
    CALL(vfork, ENOMEM, EAGAIN),
#endif
    CALL(ioctl, 0),
    CALL(lseek, 0),
    CALL(connect, 0),
    CALL(shutdown, 0),
    CALL(setsockopt, 0),
    CALL(getsockopt, 0),
    CALL(prctl, 0),
    CALL(setsid, 0),
    CALL(setpgid, 0),
    CALL(getsid, 0),
    CALL(close_range, 0),
    CALL(kill, 0),
    CALL(tgkill, 0),
    CALL(faccessat, 0),
    CALL(fchmod, 0),
    CALL(rt_sigaction, 0),
    CALL(rt_sigprocmask, 0),
    CALL(rt_sigreturn, 0),
    CALL(getpid, 0),
    CALL(gettid, 0),
    CALL(getppid, 0),
    CALL(geteuid, 0),
    CALL(munmap, 0),
    CALL(mprotect, 0),
    CALL(futex, 0),
    CALL(set_robust_list, 0),
    CALL(exit_group, 0),
};

static const struct call *call_find(uint64_t number)
{
    for (size_t i = 0; i < COUNT(calls); i++)
        if ((uint64_t)calls[i].number == number)
            return &calls[i];
    return NULL;
}

/* ---- The trial: one request, and its disturbance ------------------------------------------ */

struct stop {
    uint64_t number, arguments[6];
    bool exit;
};

static struct trial {
    const struct sweep *sweep;
    const struct scenario *scenario;
    unsigned long k, count; /* the point wanted; stops so far */
    int64_t deadline;
    pid_t child, target; /* the request's process; the one that is stepped */
    int child_status;
    bool to_death;     /* the child runs to its death, to make work for the target */
    pid_t expected;    /* whose next child is the target; 0: none is expected */
    bool held;         /* it is held, at `at` */
    bool disturbed;    /* it has had its disturbance */
    bool ended;        /* it has ended */
    struct stop at;    /* its newest stop */
    struct stop point; /* where it was disturbed */
    bool override;     /* at its exit this call returns `result` instead */
    long result;
    int error;      /* what ACT_ERROR has put in a call's place */
    bool marking;   /* it is writing the `sent` mark */
    bool marked;    /* has written it, */
    bool answered;  /* and then sent the rest of the answer */
    bool window;    /* was killed, with the server, between the two */
    int connection; /* its descriptor */
    unsigned pid_count;
    pid_t pids[512]; /* of all processes that there were */
} trial;

static const char *point_name(void)
{
    static char name[160];
    const struct call *c = call_find(trial.point.number);
    int n =
        snprintf(name, sizeof name, "k=%lu, %s of ", trial.k, trial.point.exit ? "exit" : "entry");
    n += c != NULL ? snprintf(name + n, sizeof name - (size_t)n, "%s", c->name)
                   : snprintf(name + n, sizeof name - (size_t)n, "system call %lu",
                              (unsigned long)trial.point.number);
    if (trial.error != 0)
        snprintf(name + n, sizeof name - (size_t)n, " failing with %s",
                 strerrorname_np(trial.error));
    return name;
}

/* ---- Watching processes ------------------------------------------------------------------- */

static struct tracee {
    pid_t pid;
    bool known;   /* its parent's fork has been reported */
    bool waiting; /* stopped since before that */
    bool step;
} tracees[256];
static size_t tracee_count;

static struct {
    pid_t pid;
    bool ended;
    int status, log;
    unsigned port;
    unsigned children; /* born so far; the first recovers from dead servers */
} server;

static int signal_fd;

/* ptrace(2), whose last two arguments are pointers or numbers as the case may be. */
static long trace(long request, pid_t pid, uintptr_t address, uintptr_t data)
{
    return syscall(SYS_ptrace, request, pid, address, data);
}

static struct tracee *tracee_find(pid_t pid)
{
    for (size_t i = 0; i < tracee_count; i++)
        if (tracees[i].pid == pid)
            return &tracees[i];
    return NULL;
}

static struct tracee *tracee_add(pid_t pid)
{
    struct tracee *t = tracee_find(pid);
    if (t != NULL)
        return t;
    if (tracee_count == COUNT(tracees)) {
        errno = E2BIG;
        give_up("watch so many processes");
    }
    tracees[tracee_count] = (struct tracee){.pid = pid};
    return &tracees[tracee_count++];
}

/* It may have been killed meanwhile: then its end is reported. */
static void resume(const struct tracee *t, int signal)
{
    trace(t->step ? PTRACE_SYSCALL : PTRACE_CONT, t->pid, 0, (uintptr_t)signal);
}

/* A process has been born. */
static void adopt(pid_t pid, pid_t parent)
{
    struct tracee *t = tracee_add(pid);
    t->known = true;
    if (trial.pid_count < COUNT(trial.pids))
        trial.pids[trial.pid_count++] = pid;
    server.children += parent == server.pid;
    bool first = parent == server.pid && trial.child == 0;
    if (first)
        trial.child = pid;
    if (first && trial.expected != 0 && trial.sweep->target == TARGET_PROGRAM) {
        trial.expected = pid;
    } else if (parent == trial.expected) {
        trial.expected = 0;
        trial.target = pid;
        t->step = true;
    }
    if (t->waiting)
        resume(t, 0);
}

static void tracee_ended(pid_t pid, int status)
{
    struct tracee *t = tracee_find(pid);
    if (t != NULL)
        *t = tracees[--tracee_count];
    if (pid == server.pid) {
        server.ended = true;
        server.status = status;
    }
    if (pid == trial.child)
        trial.child_status = status;
    if (pid == trial.target)
        trial.ended = true;
}

static void target_stopped(struct tracee *t);

static void tracee_stopped(pid_t pid, int status)
{
    struct tracee *t = tracee_add(pid);
    int signal = WSTOPSIG(status), event = status >> 16;
    unsigned long born;
    if (!t->known) {
        t->waiting = true;
        return;
    }
    if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
        if (trace(PTRACE_GETEVENTMSG, pid, 0, (uintptr_t)&born) == 0)
            adopt((pid_t)born, pid);
        resume(tracee_find(pid), 0);
    } else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
        trace(PTRACE_LISTEN, pid, 0, 0); /* stopped by a signal, until SIGCONT */
    } else if (signal == (SIGTRAP | 0x80) && pid == trial.target) {
        target_stopped(t);
    } else {
        resume(t, event != 0 || signal == (SIGTRAP | 0x80) ? 0 : signal);
    }
}

static void client_read(void);
static int client_descriptor(void);

/* Let everything go on for a moment: until something has happened, or MS have passed. */
static void pump(int ms)
{
    int status;
    pid_t pid;
    bool any = false;
    while ((pid = waitpid(-1, &status, __WALL | WNOHANG)) > 0) {
        any = true;
        if (WIFSTOPPED(status))
            tracee_stopped(pid, status);
        else
            tracee_ended(pid, status);
    }
    struct signalfd_siginfo info[4];
    struct pollfd p[] = {{.fd = signal_fd, .events = POLLIN},
                         {.fd = client_descriptor(), .events = POLLIN}};
    if (poll(p, 2, any ? 0 : ms) <= 0)
        return;
    if (p[0].revents != 0)
        (void)!read(signal_fd, info, sizeof info);
    if (p[1].revents != 0)
        client_read();
}

/* ---- The target, from stop to stop -------------------------------------------------------- */

static bool stop_look(pid_t pid, struct stop *at)
{
    struct __ptrace_syscall_info info;
    if (trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, (uintptr_t)&info) <= 0)
        return false;
    at->exit = info.op == PTRACE_SYSCALL_INFO_EXIT;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        at->number = info.entry.nr;
        memcpy(at->arguments, info.entry.args, sizeof at->arguments);
    }
    return true;
}

static long stop_result(pid_t pid)
{
    struct __ptrace_syscall_info info;
    if (trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, (uintptr_t)&info) <= 0 ||
        info.op != PTRACE_SYSCALL_INFO_EXIT)
        return -1;
    return (long)info.exit.rval;
}

#ifdef __x86_64__
#define CAN_OVERRIDE true
static void set_number(pid_t pid, long number)
{
    trace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.orig_rax), (uintptr_t)number);
}

static void set_result(pid_t pid, long result)
{
    trace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.rax), (uintptr_t)result);
}

static void set_first_argument(pid_t pid, long value)
{
    trace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.rdi), (uintptr_t)value);
}
#else
#define CAN_OVERRIDE false
static void set_number(pid_t pid, long number)
{
    (void)pid, (void)number;
}

static void set_result(pid_t pid, long result)
{
    (void)pid, (void)result;
}

static void set_first_argument(pid_t pid, long value)
{
    (void)pid, (void)value;
}
#endif

/* The call is not made (unless AFTER), and fails with ERROR. */
static void fail_call(pid_t pid, int error, bool after)
{
    if (trial.at.number == SYS_brk) {
        set_first_argument(pid, 0); /* it returns where the break is: not what was asked for */
        return;
    }
    if (!after)
        set_number(pid, -1);
    trial.override = true;
    trial.result = -error;
}

/* Where the file system is a plain one, what it does not know fails. */
static bool plain_refuses(const struct stop *at)
{
    if (at->number == SYS_renameat2)
        return at->arguments[4] != 0;
    return at->number == SYS_openat && (at->arguments[2] & O_TMPFILE) == O_TMPFILE;
}

static bool peek(pid_t pid, uint64_t address, void *to, size_t n)
{
    struct iovec here = {to, n}, far = {.iov_len = n};
    memcpy(&far.iov_base, &address, sizeof far.iov_base);
    return process_vm_readv(pid, &here, 1, &far, 1, 0) == (ssize_t)n;
}

/* Whether the call that the target makes appends a record that starts with TEXT. */
static bool appends(pid_t pid, const struct stop *at, const char *text)
{
    char there[16];
    uint64_t address; /* the first member of the struct iovec */
    size_t n = strlen(text);
    return at->number == SYS_pwritev2 && peek(pid, at->arguments[1], &address, sizeof address) &&
           peek(pid, address, there, n) && memcmp(there, text, n) == 0;
}

/* How far the answer is, by what the target calls. */
static void note_progress(pid_t pid)
{
    const struct stop *at = &trial.at;
    bool ok = at->exit && stop_result(pid) > 0;
    if (!at->exit && at->number == SYS_recvfrom && trial.connection < 0)
        trial.connection = (int)at->arguments[0];
    if (at->number == SYS_pwritev2 && !at->exit)
        trial.marking = appends(pid, at, "sent ");
    if (at->number == SYS_pwritev2 && trial.marking && ok)
        trial.marked = true;
    bool sends = at->number == SYS_sendmsg || at->number == SYS_sendmmsg;
    if (is(trial.scenario, IS_OLD)) {
        sends = at->number == SYS_shutdown;
        ok = at->exit;
    }
    if (sends && trial.marked && ok)
        trial.answered = true;
}

static bool is_death(void)
{
    const struct stop *at = &trial.at;
    switch (trial.sweep->death) {
    case DEATH_UNSENT:
        return at->number == SYS_pwritev2 && trial.marking && !at->exit;
    case DEATH_MARKED:
        return trial.marked;
    default:
        return trial.answered;
    }
}

/* What a call of this name can give, this one may not. */
static bool can_give(const struct stop *at, int error)
{
    if (at->number == SYS_openat && error == ENOSPC)
        return (at->arguments[2] & O_CREAT) != 0 || (at->arguments[2] & O_TMPFILE) == O_TMPFILE;
    if (at->number == SYS_wait4) /* one that does not wait is not interrupted */
        return (at->arguments[2] & WNOHANG) == 0;
    if (at->number == SYS_fcntl)
        return at->arguments[1] == (error == ENOLCK   ? F_SETLK
                                    : error == EAGAIN ? F_SETLEASE
                                                      : F_DUPFD_CLOEXEC);
    return true;
}

/* An error sweep counts the errors that there could be, not the stops. */
static bool is_error_point(int *error)
{
    const struct call *c = call_find(trial.at.number);
    if (trial.at.exit || c == NULL)
        return false;
    for (size_t i = 0; i < COUNT(c->errors) && c->errors[i] != 0; i++) {
        *error = c->errors[i];
        if (can_give(&trial.at, *error) && ++trial.count == trial.k)
            return true;
    }
    return false;
}

/* Whether the target is where it is wanted. */
static bool is_the_point(void)
{
    if (trial.to_death)
        return is_death();
    if (trial.disturbed)
        return false;
    if (trial.sweep->action != ACT_ERROR)
        return ++trial.count == trial.k;
    int error;
    if (!is_error_point(&error))
        return false;
    trial.error = error;
    return true;
}

static void target_stopped(struct tracee *t)
{
    if (!stop_look(t->pid, &trial.at)) {
        resume(t, 0);
        return;
    }
    if (trial.at.exit && trial.override) {
        set_result(t->pid, trial.result);
        trial.override = false;
    }
    note_progress(t->pid);
    if (is_the_point()) {
        trial.held = true;
        return;
    }
    if (is(trial.scenario, IS_PLAIN) && !trial.at.exit && plain_refuses(&trial.at))
        fail_call(t->pid, trial.at.number == SYS_renameat2 ? EINVAL : EOPNOTSUPP, false);
    t->step = !trial.disturbed || is(trial.scenario, IS_PLAIN) || trial.override;
    resume(t, 0);
}

/* Let the target run until it is held at the point, or has ended without coming there. */
static bool run_to_point(void)
{
    while (!trial.held && !trial.ended && !server.ended && now_ms() < trial.deadline)
        pump(10);
    return trial.held;
}

static void let_go(void)
{
    struct tracee *t = tracee_find(trial.target);
    trial.held = false;
    if (t == NULL)
        return;
    t->step = is(trial.scenario, IS_PLAIN) || trial.override;
    resume(t, 0);
}

/* ---- The caller ---------------------------------------------------------------------------- */

static struct {
    int fd; /* -1: closed */
    char text[16384];
    size_t length;
    bool fin, reset;
} client = {.fd = -1};

static int client_descriptor(void)
{
    return client.fin || client.reset ? -1 : client.fd;
}

static void client_read(void)
{
    while (client_descriptor() >= 0) {
        ssize_t n = recv(client.fd, client.text + client.length,
                         sizeof client.text - 1 - client.length, MSG_DONTWAIT);
        if (n > 0)
            client.length += (size_t)n;
        else if (n == 0)
            client.fin = true;
        else if (errno == EAGAIN)
            return;
        else if (errno != EINTR)
            client.reset = true;
    }
}

static void client_close(bool reset)
{
    struct linger hard = {.l_onoff = 1};
    if (client.fd < 0)
        return;
    if (reset)
        setsockopt(client.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(client.fd);
    client.fd = -1;
}

static int dial(bool unix_socket)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "socket"};
    struct sockaddr_in port = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)server.port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct sockaddr *to = unix_socket ? (struct sockaddr *)&name : (struct sockaddr *)&port;
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, to, unix_socket ? sizeof name : sizeof port) < 0)
        give_up("connect to the server");
    return fd;
}

static void client_ask(const struct scenario *s)
{
    char text[512];
    client.length = 0;
    client.fin = client.reset = false;
    client.fd = dial(is(s, ON_UNIX_SOCKET));
    int n = snprintf(text, sizeof text, "GET %s HTTP/1.%d\r\nHost: here\r\n%s\r\n", s->target,
                     is(s, IS_OLD) ? 0 : 1, is(s, IS_CLOSING) ? "Connection: close\r\n" : "");
    if (send(client.fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        give_up("send the request");
}

struct view {
    int status;      /* of the final answer; 0: none */
    bool complete;   /* its last byte is there */
    const char *bad; /* what is wrong with it */
};

/* The value of the header field NAME within HEAD, or NULL. */
static const char *header_value(const char *head, const char *name)
{
    for (const char *at = head; (at = strstr(at, "\r\n")) != NULL;) {
        at += 2;
        if (strncasecmp(at, name, strlen(name)) == 0 && at[strlen(name)] == ':')
            return at + strlen(name) + 1 + strspn(at + strlen(name) + 1, " ");
    }
    return NULL;
}

/* How many bytes the chunked BODY takes: 0 when its end is not there, -1 when it is no such. */
static long chunked_size(const char *body, size_t length)
{
    size_t at = 0;
    for (;;) {
        const char *line = memmem(body + at, length - at, "\r\n", 2);
        if (line == NULL)
            return 0;
        char *end;
        unsigned long size = strtoul(body + at, &end, 16);
        if (end != line || end == body + at)
            return -1;
        at = (size_t)(line + 2 - body);
        if (size > length || at + size + 2 > length)
            return 0;
        if (memcmp(body + at + size, "\r\n", 2) != 0)
            return -1;
        at += size + 2;
        if (size == 0)
            return (long)at;
    }
}

/* What the caller has heard so far, read strictly. */
static struct view client_view(void)
{
    struct view v = {0};
    char *head = client.text, *end;
    client.text[client.length] = '\0';
    for (;; head = end + 4) {
        end = strstr(head, "\r\n\r\n");
        if (end == NULL)
            return v;
        if (sscanf(head, "HTTP/1.1 %3d ", &v.status) != 1 || v.status < 100) {
            v.bad = "its status line";
            return v;
        }
        if (v.status >= 200)
            break;
    }
    size_t rest = (size_t)(client.text + client.length - (end + 4));
    end[2] = '\0';
    const char *length = header_value(head, "Content-Length");
    bool chunked = header_value(head, "Transfer-Encoding") != NULL;
    long size = chunked          ? chunked_size(end + 4, rest)
                : length != NULL ? strtol(length, NULL, 10)
                                 : -1;
    end[2] = '\r';
    if (is(trial.scenario, IS_OLD) && length == NULL && !chunked) {
        v.complete = client.fin;
        return v;
    }
    if ((length != NULL) == chunked || size < 0)
        v.bad = "its framing";
    v.complete = v.bad == NULL && (chunked ? size > 0 : rest >= (size_t)size);
    if (v.complete && rest > (size_t)size)
        v.bad = "bytes behind its end";
    return v;
}

static bool is_answered(void)
{
    struct view v = client_view();
    return v.complete && v.status < 400;
}

/* After these the caller's view does not change any more. */
static bool client_is_served(void)
{
    return client_descriptor() < 0 || client_view().complete;
}

/* ---- Hangups -------------------------------------------------------------------------------- */

static bool tcp_look(int fd, struct tcp_info *info)
{
    socklen_t size = sizeof *info;
    memset(info, 0, sizeof *info);
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0;
}

/* A copy of the target's descriptor of the connection. */
static int borrow_connection(void)
{
    int process = (int)syscall(SYS_pidfd_open, trial.target, 0);
    if (process < 0 || trial.connection < 0)
        return -1;
    int fd = (int)syscall(SYS_pidfd_getfd, process, trial.connection, 0);
    close(process);
    return fd;
}

/* Of tcpi_state, where a FIN may wait: netinet/tcp.h, which names them, and linux/tcp.h, which has
 * bytes_acked, exclude each other. */
enum { STATE_FIN_WAIT1 = 4, STATE_LAST_ACK = 9, STATE_CLOSING = 11 };

/* What was read and then reset is answered if all of it had been acknowledged by then: the
 * server's kernel knows. SIOCOUTQ counts a FIN that waits, which is no part of the answer. */
static bool reset_after_acknowledgement(void)
{
    struct tcp_info before, after;
    int queued = 0, fd = borrow_connection();
    if (fd < 0)
        give_up("borrow the connection");
    tcp_look(fd, &before);
    ioctl(fd, SIOCOUTQ, &queued);
    client_close(true);
    tcp_look(fd, &after);
    close(fd);
    bool fin = queued > 0 && !is(trial.scenario, IS_OLD) &&
               (before.tcpi_state == STATE_FIN_WAIT1 || before.tcpi_state == STATE_CLOSING ||
                before.tcpi_state == STATE_LAST_ACK);
    return after.tcpi_bytes_acked >= before.tcpi_bytes_acked + (unsigned)queued - (unsigned)fin;
}

/* SIGTERM is on its way to the target. */
static bool has_seen_hangup(void)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", (int)trial.target);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *pending = strstr(text, "ShdPnd:");
    return pending != NULL && (strtoull(pending + 7, NULL, 16) >> (SIGTERM - 1) & 1) != 0;
}

static bool answered_before_hangup;
/* It closed when all but the end of the connection had come, which ends an answer in HTTP/1.0. Its
 * kernel acknowledges that FIN as well: by the promise's own definition it may have been answered.
 */
static bool closed_before_fin;

static void hang_up(enum action how)
{
    client_read();
    answered_before_hangup = is_answered();
    closed_before_fin = how == ACT_FIN && is(trial.scenario, IS_OLD) && !client.fin &&
                        memmem(client.text, client.length, "is there\n", 9) != NULL;
    if (how == ACT_HALF_CLOSE)
        shutdown(client.fd, SHUT_WR);
    else if (how == ACT_RST && answered_before_hangup && !is(trial.scenario, ON_UNIX_SOCKET))
        answered_before_hangup = reset_after_acknowledgement();
    else
        client_close(how == ACT_RST);
    for (int64_t until = now_ms() + HANGUP_SEEN_MS; now_ms() < until && !has_seen_hangup();)
        pump(1);
}

/* ---- The world ------------------------------------------------------------------------------ */

/* Paths are relative: a worker works in its own directory, and so does its server. */
static bool holds(const char *path, const char *text)
{
    char there[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, there, sizeof there);
    if (fd >= 0)
        close(fd);
    return n == (ssize_t)strlen(text) && memcmp(there, text, (size_t)n) == 0;
}

/* Whether NAME in DIR is a file of a slot that has no ledger, as the head of the slot's own file
 * says. Before that is made for the first time the program's has its first line alone. */
static bool is_idle(int dir, const char *name)
{
    static const char first[] = "# hangupd ledger 2 of a program; ";
    char text[256], own[32];
    size_t n = strcspn(name, ".");
    if (is(trial.scenario, IS_PLAIN) && strncmp(name, ".slot-", 6) == 0)
        return true; /* its maker has died: the next one removes it */
    snprintf(own, sizeof own, "%.*s", n < sizeof own ? (int)n : 0, name);
    int fd = ledger_is_slot_name(own) ? openat(dir, own, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        bool idle = header_read(fd).idle;
        close(fd);
        return idle;
    }
    fd = ledger_is_slot_name(own) ? openat(dir, name, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[length > 0 ? length : 0] = '\0';
    return strncmp(text, first, strlen(first)) == 0 &&
           strchr(text, '\n') == text + strlen(text) - 1;
}

/* The first name in DIRECTORY that is none of EXPECTED, and no idle slot's, or NULL; *COUNT of all.
 */
static const char *stranger(const char *directory, const char *const expected[], unsigned *count)
{
    static char name[300];
    const char *found = NULL;
    DIR *d = opendir(directory);
    *count = 0;
    for (const struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        bool known = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
                     is_idle(dirfd(d), e->d_name);
        *count += !known;
        for (size_t i = 0; expected[i] != NULL; i++)
            known = known || strcmp(e->d_name, expected[i]) == 0;
        if (!known)
            found = strcpy(name, e->d_name);
    }
    if (d != NULL)
        closedir(d);
    return found;
}

static const char *const no_names[] = {NULL};

/* Whether there is all that an answered request made before this one, if there was such a one. */
static bool is_before_intact(void)
{
    return !is(trial.scenario, IS_SECOND) ||
           (holds("before/new", "made\n") && holds("before/over", "made\n") &&
            holds("before/dir/inside", "made\n") && exists("before/remote/it"));
}

enum world { WORLD_NONE, WORLD_ALL, WORLD_MIXED };

/* What there is of the request's things, in words at TO. */
static enum world world_look(char *to, size_t size)
{
    static const char *const names[] = {"new", "over", "dir", NULL}, *const inside[] = {"inside",
                                                                                        NULL};
    unsigned count;
    const char *odd = stranger("world", names, &count);
    bool new = exists("world/new"), over = !holds("world/over", "old\n") && exists("world/over");
    bool dir = exists("world/dir");
    if (odd == NULL && !is_before_intact())
        odd = "what the request before had made is gone";
    stranger("remote", no_names, &count);
    bool remote = count > 0;
    snprintf(to, size, "file %s, overwritten file %s, directory %s, remote thing %s%s%s",
             new ? "there" : "gone",
             over                   ? "there"
             : exists("world/over") ? "as before"
                                    : "gone",
             dir ? "there" : "gone", remote ? "there" : "gone", odd != NULL ? ", and " : "",
             odd != NULL ? odd : "");
    if (odd != NULL)
        return WORLD_MIXED;
    if (!new && !over && !dir && !remote)
        return WORLD_NONE;
    bool all = holds("world/new", "made\n") && holds("world/over", "made\n") && remote && dir &&
               stranger("world/dir", inside, &count) == NULL && holds("world/dir/inside", "made\n");
    return all ? WORLD_ALL : WORLD_MIXED;
}

static void world_make(void)
{
    static const char *const directories[] = {"world", "remote", "before", "before/remote"};
    for (size_t i = 0; i < COUNT(directories); i++) {
        remove_tree(directories[i]);
        if (mkdir(directories[i], 0755) < 0)
            give_up("make a directory");
    }
    static const char *const olds[] = {"world/over", "before/over"};
    for (size_t i = 0; i < COUNT(olds); i++) {
        int fd = open(olds[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0 || write(fd, "old\n", 4) != 4 || close(fd) < 0)
            give_up("write the file to be overwritten");
    }
}

/* What STATE holds beside the living server's own files, or NULL. */
static const char *state_stranger(void)
{
    static const char *const own[] = {"env", "lock", "scoreboard", "scratch", NULL};
    static char what[700];
    const char *found = NULL;
    DIR *d = opendir("state");
    for (const struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char path[300];
        unsigned count;
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "state/%s", e->d_name);
        const char *odd = stranger(path, own, &count);
        if (odd == NULL && count == 4 && found == NULL) {
            found = "";
            continue;
        }
        snprintf(what, sizeof what, "state/%s%s%s", e->d_name, odd != NULL ? "/" : "",
                 odd != NULL ? odd : " of a dead server");
        found = what;
        if (odd != NULL)
            break;
    }
    if (d != NULL)
        closedir(d);
    return found != NULL && *found == '\0' ? NULL : found;
}

/* Who dies before it chooses its scratch directory leaves to the next one what it has not seen; who
 * cannot remove it takes another; and other slots have theirs. The program looks that there is none
 * in its own. */
#define NOTE "note of the last request"
static const char *const left_by_us[] = {NOTE, NULL};

/* What TMPDIR holds beside the living server's pool of its slots' empty directories, or NULL;
 * *KEPT in that. */
static const char *tmp_stranger(unsigned *kept)
{
    static char what[700];
    const char *found = NULL;
    unsigned pools = 0, count;
    *kept = 0;
    DIR *d = opendir("tmp");
    for (const struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char path[700];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "tmp/%s", e->d_name);
        DIR *pool = is_pool_name(e->d_name) ? opendir(path) : NULL;
        const char *odd = NULL;
        for (const struct dirent *in; pool != NULL && (in = readdir(pool)) != NULL;) {
            if (in->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "tmp/%.300s/%.300s", e->d_name, in->d_name);
            if (stranger(path, left_by_us, &count) != NULL)
                odd = "a directory that is not empty";
            ++*kept;
        }
        if (pool != NULL)
            closedir(pool);
        if (++pools > 1 || pool == NULL)
            odd = "of a dead server, or no pool";
        if (odd != NULL) {
            snprintf(what, sizeof what, "tmp/%s: %s", e->d_name, odd);
            found = what;
        }
    }
    if (d != NULL)
        closedir(d);
    return found;
}

/* Whether the ledger PATH has the `sent` mark. The lines that its slot had before are not its. */
static bool is_marked(const char *path)
{
    static struct reader r;
    struct stat now;
    bool marked = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    struct header head = header_read(fd);
    if (head.valid && fstat(fd, &now) == 0) {
        reader_begin(&r, fd, now.st_size, head.from);
        while (!marked && reader_next(&r) > 0)
            marked = strncmp(r.line, "sent ", 5) == 0;
    }
    close(fd);
    return marked;
}

/* Whether a ledger in STATE has it. */
static bool ledger_is_marked(void)
{
    bool marked = false;
    DIR *d = opendir("state");
    for (const struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char path[600];
        snprintf(path, sizeof path, "state/%s", e->d_name);
        DIR *ledgers = e->d_name[0] == '.' ? NULL : opendir(path);
        for (const struct dirent *l; ledgers != NULL && (l = readdir(ledgers)) != NULL;) {
            snprintf(path, sizeof path, "state/%s/%s", e->d_name, l->d_name);
            marked = marked || (strchr(l->d_name, '-') != NULL && is_marked(path));
        }
        if (ledgers != NULL)
            closedir(ledgers);
    }
    if (d != NULL)
        closedir(d);
    return marked;
}

/* ---- The server ------------------------------------------------------------------------------ */

_Noreturn static void server_run(int go)
{
    char byte;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(server.log, 2) < 0 ||
        read(go, &byte, 1) != 1)
        _exit(2);
    char here[PATH_MAX], tmp[PATH_MAX + 8];
    if (getcwd(here, sizeof here) == NULL)
        _exit(2);
    snprintf(tmp, sizeof tmp, "%s/tmp", here);
    setenv("TMPDIR", tmp, 1);
    setenv("SWEEP", here, 1);
    execl(options.server, options.server, "--listen", "127.0.0.1:0", "--listen", "unix:socket",
          "--state", "state", "--grace", "50ms", "--undo-again",
          is(trial.scenario, IS_AGAIN) ? "1" : "0", "--pass-env", "SWEEP", "/c=@sweep",
          options.program, options.idle, NULL);
    _exit(2);
}

/* The port, once the log says it. */
static unsigned logged_port(void)
{
    char text[4096];
    ssize_t n = pread(server.log, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    const char *at = strstr(text, "listening on 127.0.0.1:");
    const char *end = at == NULL ? NULL : strchr(at, '\n');
    return end == NULL ? 0 : (unsigned)strtoul(at + strlen("listening on 127.0.0.1:"), NULL, 10);
}

static void print_log_tail(FILE *to)
{
    char text[3072], *at = text;
    struct stat now;
    if (fstat(server.log, &now) < 0)
        return;
    off_t from = now.st_size > (off_t)sizeof text - 1 ? now.st_size - (off_t)sizeof text + 1 : 0;
    ssize_t n = pread(server.log, text, sizeof text - 1, from);
    text[n > 0 ? n : 0] = '\0';
    for (char *line; (line = strsep(&at, "\n")) != NULL;)
        if (*line != '\0')
            fprintf(to, "    | %s\n", line);
}

/* Start it; STEPPED: its first child, which recovers, is the target. */
static void server_start(bool stepped)
{
    int go[2];
    const uintptr_t follow = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
                             PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    if (ftruncate(server.log, 0) < 0 || pipe2(go, O_CLOEXEC) < 0)
        give_up("make a pipe");
    server.ended = false;
    server.port = server.children = 0;
    server.pid = fork();
    if (server.pid == 0)
        server_run(go[0]);
    if (server.pid < 0 || trace(PTRACE_SEIZE, server.pid, 0, follow) < 0)
        give_up("trace the server");
    tracee_add(server.pid)->known = true;
    trial.expected = stepped ? server.pid : 0;
    (void)!write(go[1], "", 1);
    close(go[0]);
    close(go[1]);
    int64_t until = now_ms() + PATIENCE_MS;
    while (!server.ended && now_ms() < until && (server.port = logged_port()) == 0)
        pump(1);
    if (server.port == 0) {
        print_log_tail(stderr);
        errno = ETIMEDOUT;
        give_up("start the server");
    }
}

/* End everything that is left. */
static void server_kill(void)
{
    int64_t until = now_ms() + PATIENCE_MS;
    while (tracee_count > 0 && now_ms() < until) {
        for (size_t i = 0; i < tracee_count; i++)
            kill(tracees[i].pid, SIGKILL);
        pump(10);
    }
    trial.held = false;
}

/* A server that knows of nothing. */
static void server_fresh(void)
{
    server_kill();
    remove_tree("state");
    remove_tree("tmp");
    if (mkdir("tmp", 0755) < 0)
        give_up("make a directory");
    server_start(false);
    int64_t until = now_ms() + PATIENCE_MS;
    while ((server.children == 0 || tracee_count > 1) && now_ms() < until)
        pump(10);
}

/* ---- After the disturbance ------------------------------------------------------------------- */

/* What is not at rest yet, in words, or NULL. */
static const char *unrest(void)
{
    static char what[800];
    const char *odd;
    unsigned count;
    if (server.ended)
        return "the server has died";
    if (!client_is_served())
        return "the client still waits";
    if (server.children == 0)
        return "the server has not looked for dead ones";
    if (tracee_count > 1) {
        pid_t left = tracees[tracees[0].pid == server.pid].pid;
        snprintf(what, sizeof what, "process %d is left", (int)left);
        return what;
    }
    if ((odd = state_stranger()) != NULL) {
        snprintf(what, sizeof what, "%s is left", odd);
        return what;
    }
    if ((odd = tmp_stranger(&count)) != NULL) {
        snprintf(what, sizeof what, "%s is left", odd);
        return what;
    }
    for (; trial.pid_count > 0; trial.pid_count--)
        if (kill(trial.pids[trial.pid_count - 1], 0) == 0) {
            snprintf(what, sizeof what, "zombie %d is left", (int)trial.pids[trial.pid_count - 1]);
            return what;
        }
    return NULL;
}

static const char *wait_for_rest(void)
{
    const char *what;
    while ((what = unrest()) != NULL && !server.ended && now_ms() < trial.deadline)
        pump(tracee_count > 1 ? 10 : 1);
    return what;
}

/* What contradicts the promise, in words, or NULL. */
static const char *contradiction(bool answered, enum world world, bool disturbed)
{
    struct view v = client_view();
    bool crashed = WIFSIGNALED(trial.child_status) && WTERMSIG(trial.child_status) != SIGKILL;
    if (crashed)
        return "the child crashed";
    if (v.bad != NULL)
        return "the answer is malformed";
    if (world == WORLD_MIXED)
        return "some of it is there";
    if (is(trial.scenario, IS_IDLE))
        return !disturbed && !answered ? "not disturbed and not answered" : NULL;
    if (answered && world != WORLD_ALL)
        return "answered and undone";
    if (!answered && world == WORLD_ALL)
        return trial.window || closed_before_fin ? NULL : "not answered and kept";
    if (!disturbed && trial.sweep->target <= TARGET_PROGRAM && !answered)
        return "not disturbed and not answered";
    return NULL;
}

static void report(const char *kind, const char *why, const char *world, const char *left)
{
    char *text = NULL;
    size_t size;
    struct view v = client_view();
    FILE *to = open_memstream(&text, &size);
    if (to == NULL)
        give_up("write a report");
    fprintf(to, "  %s in %s/%s at %s: %s\n", kind, trial.sweep->name, trial.scenario->name,
            trial.disturbed ? point_name() : "no point", why);
    fprintf(to, "    client: status %d, %s%s%s; world: %s%s%s\n", v.status,
            v.complete ? "complete" : "not complete",
            client.reset ? ", reset"
            : client.fin ? ", FIN"
                         : "",
            v.bad != NULL ? v.bad : "", world, left != NULL ? "; " : "", left != NULL ? left : "");
    if (strcmp(kind, "violation") == 0)
        print_log_tail(to);
    fclose(to);
    (void)!write(STDOUT_FILENO, text, size);
    free(text);
}

/* Compare. True: the promise was kept. */
static bool judge(bool disturbed)
{
    char words[600];
    enum action action = trial.sweep->action;
    const char *left = wait_for_rest();
    bool hung_up = disturbed && (action == ACT_FIN || action == ACT_RST);
    bool answered = hung_up ? answered_before_hangup : is_answered();
    enum world world = world_look(words, sizeof words);
    const char *wrong = contradiction(answered, world, disturbed);
    atomic_fetch_add(&tally->points, disturbed);
    if (wrong == NULL && left == NULL) {
        if (trial.window && !answered && world == WORLD_ALL) {
            if (atomic_fetch_add(&tally->window, 1) < WINDOW_NAMED)
                report("known window", "both died behind the mark and before the last byte", words,
                       NULL);
        }
        return true;
    }
    atomic_fetch_add(&tally->violations, 1);
    report("violation", wrong != NULL ? wrong : left, words, wrong != NULL ? left : NULL);
    return false;
}

/* ---- One point --------------------------------------------------------------------------------
 */

/* Kill the held target, and the server first: stopped, the target cannot act on that. */
static void kill_held(bool both)
{
    if (both)
        kill(server.pid, SIGKILL);
    if (both && trial.sweep->target == TARGET_PROGRAM)
        kill(trial.child, SIGKILL);
    kill(trial.target, SIGKILL);
    trial.held = false;
    if (!both)
        return;
    trial.window = ledger_is_marked() && !trial.answered;
    /* A child in its first moments still holds the sockets that the next server wants. */
    const pid_t dying[] = {server.pid, trial.child, trial.target};
    int64_t until = now_ms() + PATIENCE_MS;
    for (size_t i = 0; i < COUNT(dying); i++)
        while (tracee_find(dying[i]) != NULL && now_ms() < until)
            pump(10);
    client_read();
}

static void disturb(void)
{
    enum action action = trial.sweep->action;
    trial.disturbed = true;
    trial.point = trial.at;
    switch (action) {
    case ACT_TERM:
        kill(trial.target, SIGTERM);
        break;
    case ACT_KILL:
        kill_held(false);
        return;
    case ACT_KILL_CHILD:
        kill(trial.child, SIGKILL);
        break;
    case ACT_KILL_BOTH:
        kill_held(true);
        server_start(false);
        return;
    case ACT_ERROR:
        fail_call(trial.target, trial.error, call_find(trial.at.number)->after);
        break;
    default:
        hang_up(action);
        break;
    }
    let_go();
}

/* Let the child die where the sweep wants it to, and make who comes after it the target. */
static bool prepare_target(void)
{
    trial.to_death = true;
    if (!run_to_point())
        return false;
    trial.to_death = false;
    bool both = trial.sweep->target == TARGET_RECOVERY;
    trial.expected = both ? 0 : server.pid;
    kill_held(both);
    trial.target = 0;
    trial.window = false;
    while (tracee_find(trial.child) != NULL && now_ms() < trial.deadline)
        pump(10);
    trial.ended = false;
    if (both)
        server_start(true);
    return true;
}

enum result { POINT_OK, POINT_NONE, POINT_VIOLATION };

/* Disturb a request at the point K. POINT_NONE: it ended before. */
static enum result try_point(const struct sweep *sweep, const struct scenario *scenario,
                             unsigned long k)
{
    closed_before_fin = false;
    trial = (struct trial){.sweep = sweep,
                           .scenario = scenario,
                           .k = k,
                           .deadline = now_ms() + PATIENCE_MS,
                           .connection = -1,
                           .expected = server.pid};
    if (ftruncate(server.log, 0) < 0)
        give_up("empty the log");
    client_ask(scenario);
    bool there = (sweep->target <= TARGET_PROGRAM || prepare_target()) && run_to_point();
    if (there)
        disturb();
    bool kept = judge(there);
    client_close(false);
    if (!kept)
        return POINT_VIOLATION;
    return there ? POINT_OK : POINT_NONE;
}

/* One request for TARGET that is not disturbed, and is answered. */
static void ask_before(const char *target)
{
    static const struct sweep undisturbed = {"before", TARGET_CHILD, 0, ACT_TERM};
    struct scenario before = {"before", target, 0};
    trial = (struct trial){.sweep = &undisturbed,
                           .scenario = &before,
                           .k = ULONG_MAX,
                           .deadline = now_ms() + PATIENCE_MS,
                           .connection = -1,
                           .expected = server.pid};
    client_ask(&before);
    while (!client_is_served() && !server.ended && now_ms() < trial.deadline)
        pump(10);
    bool answered = is_answered();
    client_close(false);
    if (answered && wait_for_rest() == NULL)
        return;
    print_log_tail(stdout);
    errno = EPROTO;
    give_up("have a request answered before the one that is disturbed");
}

/* Call EACH with the paths PATTERN stands for: how many there are. */
static size_t for_each(const char *pattern, int (*each)(const char *path))
{
    glob_t found;
    size_t count = glob(pattern, GLOB_NOSORT, NULL, &found) == 0 ? found.gl_pathc : 0;
    for (size_t i = 0; i < count; i++)
        if (each(found.gl_pathv[i]) < 0)
            give_up("change what a request has left to the next one");
    if (count > 0)
        globfree(&found);
    return count;
}

static int leave_alone(const char *path)
{
    (void)path;
    return 0;
}

static int put_note(const char *directory)
{
    char path[300];
    snprintf(path, sizeof path, "%s/" NOTE, directory);
    return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : -1;
}

/* Bring the slot to where the scenario has it. Each request takes the slot that was freed last, and
 * here one comes after the other: it is always the same one. */
static void prepare_slot(const struct scenario *scenario)
{
    if (is(scenario, IS_SECOND))
        ask_before(is(scenario, IS_PROGRAM) ? "/program?before" : "/c?answer=whole&world=before");
    if (is(scenario, IS_FIRST))
        for_each("state/*/slot-*", unlink);
    if (!is(scenario, IS_IDLE | IS_CHANGED))
        return;
    ask_before("/idle");
    if (for_each("tmp/hangupd-*/*", is(scenario, IS_CHANGED) ? put_note : leave_alone) == 0) {
        errno = ENOENT;
        give_up("find what a request has left to the next one");
    }
}

/* ---- One sweep, by several workers --------------------------------------------------------------
 */

static void enter_directory(unsigned long number)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.4000s/%lu", options.base, number);
    if ((mkdir(path, 0755) < 0 && errno != EEXIST) || chdir(path) < 0)
        give_up("make a directory");
    server.log = open("log", O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    if (server.log < 0)
        give_up("make a log");
}

/* A janitor that failed is followed by another one a second later: many wait at once. */
static bool waits_for_retry(const struct sweep *sweep)
{
    return sweep->target > TARGET_PROGRAM && sweep->action != ACT_KILL_BOTH;
}

/* A child takes now more stops, now less, so each worker must see for itself that it is behind the
 * last; a janitor always takes as many. */
static bool is_behind_last(const struct sweep *sweep, unsigned undisturbed)
{
    unsigned all = atomic_load(&tally->undisturbed);
    return (waits_for_retry(sweep) ? all : undisturbed) >= UNDISTURBED_ENOUGH;
}

_Noreturn static void work(const struct sweep *sweep, const struct scenario *scenario,
                           unsigned long number, unsigned long workers)
{
    unsigned undisturbed = 0, violations = 0;
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    signal_fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    enter_directory(number);
    world_make();
    trial.scenario = scenario;
    server_fresh();
    unsigned long k = options.offset % options.every;
    for (k = (k == 0 ? options.every : k) + number * options.every;
         !is_behind_last(sweep, undisturbed) && violations < VIOLATIONS_ENOUGH;
         k += workers * options.every) {
        if (options.until != 0 && now_ms() >= options.until) {
            atomic_store(&tally->time_up, true);
            break;
        }
        world_make();
        prepare_slot(scenario);
        enum result result = try_point(sweep, scenario, k);
        undisturbed = result == POINT_NONE ? undisturbed + 1 : 0;
        atomic_fetch_add(&tally->undisturbed, result == POINT_NONE);
        violations += result == POINT_VIOLATION;
        if (result == POINT_VIOLATION)
            server_fresh();
    }
    server_kill();
    _exit(0);
}

static pid_t worker_start(const struct sweep *sweep, const struct scenario *scenario,
                          unsigned long number, unsigned long workers)
{
    pid_t outer = fork();
    if (outer != 0)
        return outer;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    bool apart = own_namespaces(CLONE_NEWNS | CLONE_NEWPID); /* pids: from the next fork on */
    pid_t inner = apart ? fork() : 0;
    if (inner != 0) {
        int status = 0;
        while (waitpid(inner, &status, 0) < 0 && errno == EINTR)
            continue;
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 2);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (apart && (mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
                  mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0))
        give_up("mount /proc");
    work(sweep, scenario, number, workers);
}

/* Whether all its workers came to their end. */
static bool sweep_run(const struct sweep *sweep, const struct scenario *scenario)
{
    unsigned long workers = options.jobs;
    if (waits_for_retry(sweep) && workers < WAITING_JOBS)
        workers = WAITING_JOBS;
    bool ok = true;
    *tally = (struct tally){0};
    for (unsigned long i = 0; i < workers; i++)
        if (worker_start(sweep, scenario, i, workers) < 0)
            give_up("start a worker");
    int status;
    while (wait(&status) > 0 || errno == EINTR)
        ok = ok && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    printf("sweep %s/%s: %u points, %u violations", sweep->name, scenario->name, tally->points,
           tally->violations);
    if (sweep->action == ACT_KILL_BOTH)
        printf(", %u in the known window", tally->window);
    printf("%s%s\n", tally->time_up ? " (stopped by --seconds)" : "",
           ok ? "" : " (A WORKER FAILED: not all points were tried)");
    fflush(stdout);
    return ok;
}

/* ---- The command line
 * ------------------------------------------------------------------------------ */

/* When not every point is tried, then not every janitor and recovery in every scenario either: a
 * third of them, by the offset. */
static bool is_left_out(const struct sweep *sweep, const struct scenario *scenario)
{
    if (options.every == 1 || options.sweep != NULL || sweep->target <= TARGET_PROGRAM)
        return false;
    return ((unsigned long)(sweep - sweeps) + (unsigned long)(scenario - scenarios) +
            options.offset) %
               3 !=
           0;
}

static bool is_wanted(const struct sweep *sweep, const struct scenario *scenario)
{
    char name[128];
    snprintf(name, sizeof name, "%s/%s", sweep->name, scenario->name);
    bool overrides = sweep->action == ACT_ERROR || is(scenario, IS_PLAIN);
    if ((overrides && !CAN_OVERRIDE) ||
        (sweep->target == TARGET_PROGRAM && !is(scenario, IS_PROGRAM)))
        return false;
    bool is_of_child = is(scenario, IS_IDLE | IS_CHANGED | IS_FIRST);
    if (is_left_out(sweep, scenario) || (is_of_child && sweep->target != TARGET_CHILD))
        return false;
    if (options.handler != NULL &&
        is(scenario, IS_PROGRAM) != (strcmp(options.handler, "program") == 0))
        return false;
    return options.sweep == NULL || strcmp(options.sweep, sweep->name) == 0 ||
           strcmp(options.sweep, name) == 0;
}

_Noreturn static void wrong_use(void)
{
    fprintf(stderr, "usage: fault_syscalls [--sweep NAME[/SCENARIO]] "
                    "[--handler c|program] [--every N] [--offset R] "
                    "[--seconds S] [--jobs N]\n  sweeps:");
    for (size_t i = 0; i < COUNT(sweeps); i++)
        fprintf(stderr, " %s", sweeps[i].name);
    fprintf(stderr, "\n  scenarios:");
    for (size_t i = 0; i < COUNT(scenarios); i++)
        fprintf(stderr, " %s", scenarios[i].name);
    fprintf(stderr, "\n");
    exit(2);
}

static unsigned long number_of(const char *text)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0')
        wrong_use();
    return n;
}

static void parse_options(int argc, char **argv)
{
    options.jobs = (unsigned long)sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 1; i < argc; i += 2) {
        const char *value = argv[i + 1];
        if (value == NULL)
            wrong_use();
        if (strcmp(argv[i], "--sweep") == 0)
            options.sweep = value;
        else if (strcmp(argv[i], "--handler") == 0 &&
                 (strcmp(value, "c") == 0 || strcmp(value, "program") == 0))
            options.handler = value;
        else if (strcmp(argv[i], "--every") == 0)
            options.every = number_of(value);
        else if (strcmp(argv[i], "--offset") == 0)
            options.offset = number_of(value);
        else if (strcmp(argv[i], "--jobs") == 0)
            options.jobs = number_of(value);
        else if (strcmp(argv[i], "--seconds") == 0)
            options.until = now_ms() + (int64_t)number_of(value) * 1000;
        else
            wrong_use();
    }
    if (options.every == 0 || options.jobs == 0)
        wrong_use();
}

/* The examples: as the Makefile says, else as it lays them from where it is called. */
static void find_programs(void)
{
    const char *examples = getenv("EXAMPLES"), *tests = getenv("TESTS");
    char path[PATH_MAX], program[PATH_MAX];
    snprintf(path, sizeof path, "%s/example_sweep",
             examples != NULL ? examples : ".build/examples");
    if (realpath(path, options.server) == NULL)
        give_up("find example_sweep (EXAMPLES names its directory; make everything)");
    snprintf(path, sizeof path, "%s/examples/example_sweep.sh", tests != NULL ? tests : "tests");
    if (realpath(path, program) == NULL)
        give_up("find example_sweep.sh (TESTS names its directory)");
    snprintf(options.program, sizeof options.program, "/program=%s", program);
    snprintf(options.idle, sizeof options.idle, "/idle=%s", program);
}

int main(int argc, char **argv)
{
    unsigned points = 0, violations = 0, window = 0, run = 0;
    bool ok = true;
    parse_options(argc, argv);
    find_programs();
    const char *tmp = getenv("TMPDIR");
    snprintf(options.base, sizeof options.base, "%s/fault-syscalls-XXXXXX",
             tmp != NULL ? tmp : "/tmp");
    tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tally == MAP_FAILED || mkdtemp(options.base) == NULL)
        give_up("make a directory");
    for (size_t i = 0; i < COUNT(sweeps); i++)
        for (size_t j = 0; j < COUNT(scenarios); j++) {
            if (!is_wanted(&sweeps[i], &scenarios[j]))
                continue;
            ok = sweep_run(&sweeps[i], &scenarios[j]) && ok;
            run++;
            points += tally->points;
            violations += tally->violations;
            window += tally->window;
        }
    remove_tree(options.base);
    if (run == 0)
        wrong_use();
    printf("total: %u sweeps, %u points, %u violations, %u in the known window (server and child "
           "both killed between the `sent` mark and the answer's last byte)\n",
           run, points, violations, window);
    return ok && violations == 0 ? 0 : 1;
}
