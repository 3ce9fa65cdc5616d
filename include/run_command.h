/* run_command.h: the command lines of undo: writing them for a shell, and running them as a
 * janitor.
 *
 *     shell_word(&t, path);                    // '/tmp/a file': one word, whatever it contains
 *     puts(recover_words(state, id));          // hangupd recover --state DIR ID
 *
 *     cleanup_report = report_failure;         // failures go to the log, and are remembered
 *     hunt_once(id, parent, known);            // end what is left of the request
 *     how.run = run_command;                   // cleanup.c calls it for each `run` record
 *     ...
 *     log_eventf(id, "NOT undone: %s", failure_take());
 *
 * Lines are for undo commands that we write ourselves, and for people who copy them from the log;
 * what does not fit into the text is cut. Running is for a process that undoes: a janitor, or the
 * child of `hangupd recover`. It must be a subreaper without children of its own, because whatever
 * a command leaves behind is ended with it; so the server itself must never call this. It waits:
 * --undo-timeout for each command.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_RUN_COMMAND_H
#define HANGUPD_RUN_COMMAND_H

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <sysexits.h>

#include "environment_file.h"
#include "log.h"
#include "options.h"

/* ---- Words of a command line ------------------------------------------------------------- */

/* Add WORD, quoted if it needs that. A keyword needs it where a command's name is wanted. */
static void shell_word(struct text *t, const char *word)
{
    static const char keywords[] = " if then elif else fi case esac for select while until do done "
                                   "in function time coproc ";
    char padded[16];
    bool plain = *word != '\0' && (snprintf(padded, sizeof padded, " %s ", word) > 12 ||
                                   strstr(keywords, padded) == NULL);
    for (const char *s = word; *s != '\0'; s++)
        plain = plain && (isalnum((unsigned char)*s) || strchr("_./:@%+,-", *s) != NULL);
    if (plain) {
        text_add(t, word);
        return;
    }
    text_char(t, '\'');
    for (const char *s = word; *s != '\0'; s++)
        if (*s == '\'')
            text_add(t, "'\\''");
        else
            text_char(t, *s);
    text_char(t, '\'');
}

/* The same of what the log shows as it is: it escapes all else, and what is copied from there would
 * then be another word. */
static void shell_word_printable(struct text *t, const char *word)
{
    uint32_t c;
    size_t n;
    const char *s = word;
    while (*s != '\0' && (n = utf8_next(s, &c)) > 0 && !is_obeyed(c))
        s += n;
    if (*s == '\0') {
        shell_word(t, word);
        return;
    }
    text_add(t, "\"$(printf '");
    for (s = word; *s != '\0'; s += n) {
        n = utf8_next(s, &c);
        bool plain = n > 0 && !is_obeyed(c) && strchr("'\\%", *s) == NULL;
        n = n > 0 ? n : 1;
        if (plain)
            text_bytes(t, s, n);
        for (size_t i = 0; !plain && i < n; i++) {
            char piece[8];
            snprintf(piece, sizeof piece, "\\%03o", (unsigned char)s[i]);
            text_add(t, piece);
        }
    }
    text_add(t, "')\"");
}

#define COMMAND_SIZE (4 * PATH_MAX + 256) /* a byte becomes four at most */

/* Returns the command line that settles what ID left, or everything if it is NULL, in the state
 * directory PATH; until the next call. */
static const char *recover_words(const char *path, const char *id)
{
    static char words[COMMAND_SIZE];
    struct text t = TEXT(words);
    text_add(&t, "hangupd recover --state ");
    shell_word_printable(&t, path);
    if (id != NULL) {
        text_char(&t, ' ');
        text_add(&t, id);
    }
    return text_end(&t);
}

/* "2026-11-23T11:27:50Z" */
static const char *moment_words(int64_t ms)
{
    static char words[32];
    const int64_t last = 253402300799; /* second of the year 9999 */
    struct text t = TEXT(words);
    text_time(&t, ms < 0 || ms / 1000 > last ? 0 : ms / 1000);
    text_char(&t, 'Z');
    return text_end(&t);
}

/* ---- What a process that undoes remembers ------------------------------------------------ */

/* The memory of a process that undoes. */
static struct {
    char failure[1024]; /* the first that could not be undone, and why; "": none */
    bool more_failed;
    bool hopeless;                /* what is left can never be undone: lines that are no records */
    char hunted[CLEANUP_ID_SIZE]; /* the request whose processes it has ended */
    unsigned settled, left;       /* ledgers of dead servers, or those that are recovered */
} janitor;

/* A janitor's cleanup_report: in the log, and remembered for the line at the end. */
static void report_failure(const char *id, const char *what)
{
    bool prefixed =
        strncmp(what, "could not undo", 14) == 0 || strncmp(what, "second look ", 12) == 0;
    const char *colon = prefixed ? strstr(what, ": ") : NULL;
    log_event(id, what);
    if (janitor.failure[0] != '\0')
        janitor.more_failed = true;
    else
        snprintf(janitor.failure, sizeof janitor.failure, "%s", colon != NULL ? colon + 2 : what);
}

/* Returns what failed since the last call, in words that stay until the next one. */
static const char *failure_take(void)
{
    static char words[sizeof janitor.failure + sizeof " (and more)"];
    snprintf(words, sizeof words, "%s%s", janitor.failure,
             janitor.more_failed ? " (and more)" : "");
    janitor.failure[0] = '\0';
    janitor.more_failed = false;
    return words;
}

/* Say that what a dead child or server left is settled: whose it was, and what was undone. */
static void tell_settled(const struct cleanup_look *was, const char *how)
{
    log_about(was->id, was->client, was->title, how, (int)log_sink.undone);
    log_sink.undone = 0; /* the next ledger's are counted anew */
}

/* A cleanup_recovery's `foreign`. */
static void tell_of_another_node(const char *id, const char *node)
{
    log_eventf(id,
               "left alone, as it is of another node, %s: start hangupd there, or recover with "
               "--node %s if that is this machine",
               node, node);
}

/* ---- Running a command ------------------------------------------------------------------- */

/* Wait at most MS for output of a command and log it. Returns false if none came; *FROM becomes -1
 * at its end. */
static bool output_take(int *from, struct log_lines *lines, const char *id, int ms)
{
    struct pollfd p = {.fd = *from, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0)
        return false;
    if (log_lines_read(lines, id, *from) > 0)
        return true;
    close(*from);
    *from = -1;
    return false;
}

/* Returns the environment of an undo command of the request ID for this LOOK: what was kept for it,
 * or, as a ledger of an older version has none, this process's own. Returns NULL with errno if it
 * cannot be had. The directory is entered that its server was in, if that can be. */
static char **command_environment(const char *id, int look)
{
    static char mark_variable[sizeof "REQUEST_ID=" + CLEANUP_ID_SIZE];
    char *look_variable = look > 1 ? "UNDO_LOOK=2" : "UNDO_LOOK=1";
    int kept = cleanup_environment();
    if (kept < 0)
        return putenv(look_variable) == 0 ? environ : NULL;
    snprintf(mark_variable, sizeof mark_variable, "REQUEST_ID=%s", id);
    char **all = environment_read(kept, mark_variable, look_variable);
    for (char **v = all; v != NULL && *v != NULL; v++)
        if (strncmp(*v, "PWD=", 4) == 0 && chdir(*v + 4) < 0)
            continue; /* a server's own janitor is there, also if its user may not go there */
    return all;
}

static _Noreturn void exec_command(const char *id, const char *command, int look, int output,
                                   pid_t parent)
{
    const char *const words[] = {"sh", "-c", command, NULL};
    sigset_t none;
    /* It dies with its janitor, because the next janitor begins the command anew, and two of them
     * must not run at once. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(126);
    cleanup_mark_process(id);
    /* A session of its own, without a terminal: who runs it may be root at a terminal, and its
     * author another user, who could type there (TIOCSTI). */
    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0)
        dprintf(output, "could not open /dev/null: %s\n", strerror(errno));
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0)
        _exit(126);
    char **environment = command_environment(id, look);
    if (environment != NULL)
        execve("/bin/sh", (char *const *)words, environment);
    fprintf(stderr, "could not run /bin/sh: %s\n", strerror(errno));
    _exit(127);
}

/* Leave the terminal that the server has, if it has one. A session of its own would do that too,
 * but the server's is what tells one janitor from what requests leave behind (is_quarry). */
static void leave_terminal(void)
{
    int terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0)
        return;
    ioctl(terminal, TIOCNOTTY);
    close(terminal);
}

/* Wait for PID's end, log its output FROM, and end all that it has started. Returns false if it did
 * not end within --undo-timeout, and so was killed. */
static bool await_command(pid_t pid, const char *id, int from, int *status)
{
    struct log_lines lines = {.stream = "undo"};
    siginfo_t ended = {0};
    int64_t until = clock_ms() + settings.undo_ms;
    for (int pause = 1;; pause = pause < 20 ? pause * 2 : pause) {
        bool late = clock_ms() >= until; /* before the look: a slow log must not decide */
        if (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) < 0 ||
            ended.si_pid != 0 || late)
            break;
        if (output_take(&from, &lines, id, pause))
            pause = 1;
    }
    /* Its group, if it has made one by now; its zombie, if that is what it is, still holds the
     * number. */
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    bool in_time = ended.si_pid != 0 && waitpid(pid, status, 0) == pid;
    /* Whatever it left behind: daemons are a service manager's business. */
    cleanup_end_children(0, NULL);
    /* A process that escaped may go on writing for ever. */
    until = clock_ms() + 1000;
    while (from >= 0 && clock_ms() < until && output_take(&from, &lines, id, 0))
        continue;
    log_lines_end(&lines, id);
    if (from >= 0)
        close(from);
    return in_time;
}

/* End the processes of the request ID, once. A janitor that was killed has lost the ledger's lock
 * with its life, but the command that it had started may still run: it must be gone before the same
 * command is begun again. PARENT and KNOWN, and what it returns, as for cleanup_end_request. */
static bool hunt_once(const char *id, pid_t parent, bool (*known)(pid_t))
{
    if (strcmp(janitor.hunted, id) == 0)
        return true;
    snprintf(janitor.hunted, sizeof janitor.hunted, "%s", id);
    return cleanup_end_request(id, parent, known);
}

/* Run an undo command to its end, for this LOOK; the ledger's lock is held meanwhile. Returns 0 if
 * it exited with status 0, and 1 if with EX_TEMPFAIL, which has been reported: ask again later.
 * Returns -1 with errno if it could not be run, or with errno 0 if it failed, which has then been
 * reported. */
static int run_command(const char *id, const char *command, int look)
{
    char what[1200], why[64];
    int ends[2], status = 0;
    pid_t self = getpid();
    if (!hunt_once(id, 0, NULL))
        report_failure(id, cleanup_survivor());
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0)
        exec_command(id, command, look, ends[1], self);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return -1;
    }
    bool in_time = await_command(pid, id, ends[0], &status);
    bool exited = in_time && WIFEXITED(status);
    bool later = exited && WEXITSTATUS(status) == EX_TEMPFAIL;
    if (exited && WEXITSTATUS(status) == 0)
        return 0;
    if (!in_time)
        snprintf(why, sizeof why, "no end within %lld ms", (long long)settings.undo_ms);
    else if (exited)
        snprintf(why, sizeof why, "exit status %d%s", WEXITSTATUS(status), later ? ", later" : "");
    else
        snprintf(why, sizeof why, "ended by signal %d", WTERMSIG(status));
    snprintf(what, sizeof what, "%s%s: run %.800s%s: %s",
             look == 1 ? "could not undo"
             : later   ? "second look cannot tell"
                       : "second look failed",
             later ? " yet" : "", command, strlen(command) > 800 ? "..." : "", why);
    report_failure(id, what);
    errno = 0; /* told */
    return later ? 1 : -1;
}

#endif
