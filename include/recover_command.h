/* recover_command.h: `hangupd recover`, undo on demand.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_RECOVER_COMMAND_H
#define HANGUPD_RECOVER_COMMAND_H

#include "options.h"
#include "run_command.h"
#include "users.h"

/* ---- hangupd recover: undo on demand ------------------------------------------------- */

static const char recover_help[] =
    "Usage: hangupd recover [OPTION...] [ID...]\n"
    "Undo what servers that are dead left, and try again what had failed for good and lies in\n"
    "STATE/failed: all of it, or that of the requests with these IDs, which are in the log. What "
    "a\n"
    "server that lives has in hand is left alone. Root becomes the owner of STATE first.\n"
    "\n"
    "  --state DIR           where ledgers are kept (root: /var/lib/hangupd; else\n"
    "                        $XDG_STATE_HOME/hangupd, ~/.local/state/hangupd)\n"
    "  --undo-timeout TIME   for each command that undoes something (30)\n"
    "  --help\n"
    "\n"
    "Commands run in the current directory, with this environment and REQUEST_ID.\n"
    "\n"
    "To drop a record without undoing it, remove its line from the ledger, STATE/failed/ID or\n"
    "STATE/failed/ID.p, and recover again.\n"
    "\n"
    "Exit status: 0 nothing is left; 1 something is left, or could not be looked at; 2 wrong "
    "use.\n";

static const struct option_rule recover_options[] = {
    {"state", KIND_STRING, &settings.state, 0},
    {"undo-timeout", KIND_TIME, &settings.undo_ms, 1},
    {"help", KIND_HELP, NULL, 0},
    {0},
};

static struct {
    char **ids; /* NULL: all */
    int count;
    unsigned settled, left;
} wanted;

static bool is_wanted(const char *id)
{
    for (int i = 0; i < wanted.count; i++)
        if (wanted.ids[i] != NULL && strcmp(wanted.ids[i], id) == 0)
            return true;
    return false;
}

static void recover_told(const char *id, enum cleanup_result result, bool kept)
{
    if (result == CLEANUP_DONE) {
        wanted.settled++;
        log_event(id, kept ? "kept, as it had been answered" : "undone");
    } else {
        wanted.left++;
        log_eventf(id, "NOT undone: %s", failure_take());
    }
    failure_take();
}

/* What is moved to failed is told of when it is tried there. */
static void recover_moved(const char *id, enum cleanup_result result, bool kept)
{
    if (result == CLEANUP_DONE)
        recover_told(id, result, kept);
    failure_take();
}

/* Refuse the ids that are not there to be recovered; they are taken off the list. */
static void refuse_ids(void)
{
    for (int i = 0; i < wanted.count; i++) {
        pid_t holder = 0;
        enum cleanup_place place = cleanup_find(server.state, wanted.ids[i], &holder);
        if (place == CLEANUP_NOWHERE)
            log_event(wanted.ids[i], "refused: there is no ledger of this request; it is settled, "
                                     "or had made nothing");
        else if (place == CLEANUP_HELD)
            log_eventf(wanted.ids[i],
                       "refused: process %d has it in hand, a server that lives or recovers",
                       (int)holder);
        else
            continue;
        wanted.left++;
        wanted.ids[i] = NULL;
    }
}

/* One at a time: a command of another's would be taken for a leftover. Held while FD is open, by
 * this process and, for a moment, by what it forks. */
static void recover_alone(void)
{
    if (flock(server.state, LOCK_EX | LOCK_NB) == 0)
        return;
    if (errno == EWOULDBLOCK)
        log_event(NULL, "another one is at work here: waiting for its end");
    while (flock(server.state, LOCK_EX) < 0)
        if (errno != EINTR)
            cannot("could not lock %s: %s", server.state_path, strerror(errno));
}

/* A dead server's directory is locked while that is at work in it. When only some of its ledgers
 * are wanted that must be short, so that a start can take over the others: those that take long
 * are moved to failed first. */
static bool recover_wanted(void)
{
    struct cleanup_recovery how = {
        .state = server.state, .adopt = -1, .run = run_command, .settled = recover_told};
    if (wanted.count == 0) {
        bool all = cleanup_recover(&how);
        return cleanup_recover_parked(&how) && all;
    }
    struct cleanup_recovery move = {.state = server.state,
                                    .adopt = cleanup_failed_open(server.state, true),
                                    .wanted = is_wanted,
                                    .settled = recover_moved};
    if (move.adopt < 0)
        cannot("could not make failed in %s: %s", server.state_path, strerror(errno));
    how.wanted = is_wanted;
    bool looked = cleanup_recover(&move);
    return cleanup_recover_parked(&how) && looked;
}

static _Noreturn void recover_main(pid_t parent)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_COULD_NOT);
    recover_alone();
    refuse_ids();
    bool looked = recover_wanted();
    if (wanted.settled + wanted.left == 0 && looked)
        log_event(NULL, "nothing is left to undo");
    else
        log_eventf(NULL, "%u undone or kept, %u left in %s", wanted.settled, wanted.left,
                   server.state_path);
    _exit(wanted.left == 0 && looked ? 0 : EXIT_COULD_NOT);
}

/* STATE as it is: nothing is made. With the ids of its owner from then on. */
static void recover_open(void)
{
    const char *path = settings.state != NULL ? settings.state : default_state();
    struct stat there;
    if (lstat(path, &there) < 0)
        cannot("the state directory %s cannot be looked at: %s", path, strerror(errno));
    open_state(geteuid() == 0 ? there.st_uid : geteuid(), there.st_gid);
    if (geteuid() == 0 && there.st_uid != 0) {
        const struct passwd *who = find_user(NULL, there.st_uid);
        become_user(who != NULL ? who->pw_name : NULL, there.st_uid,
                    who != NULL ? who->pw_gid : there.st_gid);
    }
}

/* The work is done by a child, which has no children but its own. */
static int command_recover(int argc, char **argv)
{
    int status = 0;
    program_name = "hangupd recover";
    the_help = recover_help;
    cleanup_mark_prepare(argc, argv);
    parse_options(argc, argv, recover_options);
    wanted.ids = argv + optind;
    wanted.count = argc - optind;
    for (int i = 0; i < wanted.count; i++)
        if (!cleanup_is_id(wanted.ids[i]))
            wrong_use("%s is not the id of a request, as in 0123456789abcdef-1f", wanted.ids[i]);
    recover_open();
    log_sink.plain = true;
    log_sink.fd = STDOUT_FILENO;
    cleanup_report = report_failure;
    signal(SIGPIPE, SIG_IGN);
    note_ignored();
    signal(SIGCHLD, SIG_DFL);
    pid_t self = getpid(), pid = fork();
    if (pid == 0)
        recover_main(self);
    if (pid < 0)
        cannot("could not fork: %s", strerror(errno));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            cannot("could not wait for the work: %s", strerror(errno));
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    cannot("ended by signal %d; recover again", WTERMSIG(status));
}

#endif
