/* run_command.h: running an undo command, for a janitor and for `hangupd recover`.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_RUN_COMMAND_H
#define HANGUPD_RUN_COMMAND_H

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "options.h"

/* ---- Undo commands: `run` records ---------------------------------------------------- */

/* What could not be undone, and why: of the first record that failed, for the line at the end. */
static struct {
    char what[1024];
    bool more;
} failure;

/* A janitor's cleanup_report: in the log, and noted. */
static void report_failure(const char *id, const char *what)
{
    static const char prefix[] = "could not undo: ";
    log_event(id, what);
    if (failure.what[0] != '\0')
        failure.more = true;
    else if (strncmp(what, prefix, sizeof prefix - 1) == 0)
        snprintf(failure.what, sizeof failure.what, "%s", what + sizeof prefix - 1);
    else
        snprintf(failure.what, sizeof failure.what, "%s", what);
}

/* A command's output, which goes to the log line by line. */
struct output {
    int from; /* -1 when it has ended */
    struct log_lines lines;
};

/* Wait at most MS for output and log it. False: none came. */
static bool output_take(struct output *o, const char *id, int ms)
{
    struct pollfd p = {.fd = o->from, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0)
        return false;
    if (log_lines_read(&o->lines, id, o->from) > 0)
        return true;
    close(o->from);
    o->from = -1;
    return false;
}

static void output_end(struct output *o, const char *id, int64_t until)
{
    while (o->from >= 0 && clock_ms() < until && output_take(o, id, 0))
        continue;
    log_lines_end(&o->lines, id);
    if (o->from >= 0)
        close(o->from);
}

static _Noreturn void exec_command(const char *id, const char *command, int output, pid_t janitor)
{
    sigset_t none;
    /* With its janitor it dies too: the next one begins the command anew. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != janitor)
        _exit(126);
    cleanup_mark_process(id);
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0)
        _exit(126);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/* Wait for PID's end, within --undo-timeout, and end all that it has started. False: in vain. */
static bool await_command(pid_t pid, const char *id, int from, int *status)
{
    struct output out = {.from = from};
    siginfo_t ended = {0};
    int64_t until = clock_ms() + settings.undo_ms;
    for (int pause = 1;; pause = pause < 20 ? pause * 2 : pause) {
        bool late = clock_ms() >= until; /* before the look: a slow log must not decide */
        if (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) < 0 ||
            ended.si_pid != 0 || late)
            break;
        if (output_take(&out, id, pause))
            pause = 1;
    }
    kill(-pid, SIGKILL); /* its zombie, if that is what it is, still holds the number */
    bool in_time = ended.si_pid != 0 && waitpid(pid, status, 0) == pid;
    /* What it left behind: daemons are a service manager's business. */
    cleanup_end_children(0, NULL);
    output_end(&out, id, clock_ms() + 1000);
    return in_time;
}

/* The request whose processes have been ended by this janitor, so that no command of an earlier
 * one, which has lost the ledger with its life, runs beside its own. */
static char hunted[CLEANUP_ID_SIZE];

static void hunt_once(const char *id, pid_t session, pid_t parent, bool (*known)(pid_t))
{
    if (strcmp(hunted, id) == 0)
        return;
    if (!cleanup_end_request(id, session, parent, known))
        log_event(id, "a process of this request does not end, even by SIGKILL");
    snprintf(hunted, sizeof hunted, "%s", id);
}

static void command_failed(const char *id, const char *command, bool in_time, int status)
{
    char what[1200], why[64];
    if (!in_time)
        snprintf(why, sizeof why, "no end within %lld ms", (long long)settings.undo_ms);
    else if (WIFEXITED(status))
        snprintf(why, sizeof why, "exit status %d", WEXITSTATUS(status));
    else
        snprintf(why, sizeof why, "ended by signal %d", WTERMSIG(status));
    snprintf(what, sizeof what, "could not undo: run %.800s%s: %s", command,
             strlen(command) > 800 ? "..." : "", why);
    report_failure(id, what);
}

/* Run an undo command to its end. The ledger's lock is held. */
static int run_command(const char *id, const char *command)
{
    int ends[2], status = 0;
    pid_t janitor = getpid();
    hunt_once(id, 0, 0, NULL);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0)
        exec_command(id, command, ends[1], janitor);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return -1;
    }
    setpgid(pid, pid); /* here too: its group may have to be killed before it has run */
    bool in_time = await_command(pid, id, ends[0], &status);
    if (in_time && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    command_failed(id, command, in_time, status);
    errno = 0; /* told */
    return -1;
}

#endif
