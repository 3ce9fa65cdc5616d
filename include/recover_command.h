/* recover_command.h: `hangupd recover`, undo on demand.
 *
 * It does what a server's janitors do, for servers that are dead and for what was parked, while no
 * server need run. Results are lines on standard output, through the log. It forks once: the child,
 * a subreaper without other children, does the work, so that all that descends from it is an undo
 * command's and may be killed. The parent only passes its exit status on.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_RECOVER_COMMAND_H
#define HANGUPD_RECOVER_COMMAND_H

#include <sys/file.h>
#include <sys/stat.h>

#include "again.h"
#include "ledger.h"
#include "options.h"
#include "pass_env.h"
#include "run_command.h"
#include "state.h"

static const char recover_about[] =
    "Usage: hangupd recover [OPTION...] [ID...]\n"
    "Undo what servers that are dead left, and try again what had failed for good and lies in\n"
    "STATE/failed: all of it, or that of the requests with these IDs, which are in the log. What "
    "a\n"
    "server that lives has in hand is left alone. Root becomes the owner of STATE first.\n"
    "\n";

static const char recover_notes[] =
    "  --help\n"
    "\n"
    "Commands run with the environment that their server has kept for them, in its directory.\n"
    "\n"
    "To drop a record without undoing it, remove its line from the ledger, STATE/failed/ID or\n"
    "STATE/failed/ID.p, and recover again.\n"
    "\n"
    "A command that is to be run twice (--undo-again, hangupd undo --again) is run when its time\n"
    "has come; until then its ledger is named, with that time, and left. Of a request whose ID is\n"
    "given it is run at once, and still once more when its time has come.\n"
    "\n"
    "Exit status: 0 nothing is left; 1 something is left, or could not be looked at; 2 wrong "
    "use.\n";

static const struct option_row recover_rows[] = {
    {NULL, recover_about, .kind = OPTION_TEXT},
    {"state", STATE_HELP, WORD_IN(state, "DIR")},
    {"node", NODE_HELP, WORD_IN(node, "NAME")},
    {TIME("undo-timeout", "for each command that undoes something", undo_ms, 1, "30")},
    {TIME("undo-again", UNDO_AGAIN_HELP, again_ms, 0, "60")},
    {CHOICE("log", "the form of the lines", log_form, LOG_FORM_WORDS, "text")},
    {"log-to", "where they go, as the server's; else to standard output", OPTION_CHOICE,
     LOG_TO_WORDS, .value = &settings.log_to},
    {"log-undone", LOG_UNDONE_HELP, .kind = OPTION_FLAG, .value = &log_sink.names_undone},
    {"help", NULL, .kind = OPTION_HELP},
    {NULL, recover_notes, .kind = OPTION_TEXT},
    {0},
};

static const struct option_table recover_options = {"hangupd recover", 24, recover_rows};

static struct {
    struct state_dir state;
    char **ids;   /* those that are wanted; one that was refused is NULL */
    int count;    /* 0: all are wanted */
    bool unknown; /* one of them was */
    bool moving;  /* to STATE/failed: what does not go at once is told of when it is tried there */
} recovering;

static bool is_wanted(const char *id)
{
    for (int i = 0; i < recovering.count; i++)
        if (recovering.ids[i] != NULL && strcmp(recovering.ids[i], id) == 0)
            return true;
    return false;
}

static void recover_told(const struct cleanup_look *was, enum cleanup_result result, bool kept)
{
    const char *failure = failure_take();
    if (result == CLEANUP_DONE) {
        janitor.settled++;
        tell_settled(was, kept ? "kept, as it had been answered" : "undone");
    } else if (result == CLEANUP_AGAIN && !recovering.moving) {
        janitor.left++;
        log_eventf(was->id, "undone; a second look is due at %s", moment_words(was->due_ms));
    } else if (!recovering.moving) {
        janitor.left++;
        log_eventf(was->id, "NOT undone: %s", failure);
    }
}

static void recover_left_alone(const char *id, const char *node)
{
    janitor.left++;
    tell_of_another_node(id, node);
}

/* Say of the ids that cannot be recovered why not, and take them off the list. */
static void refuse_ids(void)
{
    for (int i = 0; i < recovering.count; i++) {
        const char *id = recovering.ids[i];
        pid_t holder = 0;
        enum cleanup_place place = cleanup_find(recovering.state.fd, id, &holder);
        if (place == CLEANUP_NOWHERE)
            log_event(id, "refused: there is no ledger of this request; it is settled, or had made "
                          "nothing");
        else if (place == CLEANUP_HELD)
            log_eventf(id, "refused: process %d has it in hand, a server that lives or recovers",
                       (int)holder);
        else
            continue;
        if (place == CLEANUP_NOWHERE)
            recovering.unknown = true;
        else
            janitor.left++;
        recovering.ids[i] = NULL;
    }
}

/* Two at a time would kill each other's undo commands as leftovers of the dead. The lock goes with
 * the last descriptor of this open file, so with this process and its forks. */
static void recover_alone(void)
{
    if (flock(recovering.state.fd, LOCK_EX | LOCK_NB) == 0)
        return;
    if (errno == EWOULDBLOCK)
        log_event(NULL, "another one is at work here: waiting for its end");
    while (flock(recovering.state.fd, LOCK_EX) < 0)
        if (errno != EINTR)
            cannot("could not lock %s: %s", recovering.state.path, strerror(errno));
}

/* While we work in a dead server's directory we hold its lock, and a starting server leaves it
 * alone. If only some of its ledgers are wanted, that must be short, or the start would not take
 * over the others: so the wanted ones are moved to STATE/failed first and undone there. */
static bool recover_wanted(void)
{
    struct cleanup_recovery how = {.state = recovering.state.fd,
                                   .adopt = -1,
                                   .again_s = (settings.again_ms + 999) / 1000,
                                   .again_now = recovering.count > 0,
                                   .run = run_command,
                                   .foreign = recover_left_alone,
                                   .settled = recover_told};
    struct cleanup_recovery first = how;
    if (recovering.count > 0) {
        how.wanted = first.wanted = is_wanted;
        first.run = NULL;
        first.adopt = cleanup_failed_open(recovering.state.fd, true);
        if (first.adopt < 0)
            cannot("could not make failed in %s: %s", recovering.state.path, strerror(errno));
        recovering.moving = true;
    }
    bool looked = cleanup_recover(&first);
    recovering.moving = false;
    return cleanup_recover_parked(&how) && looked;
}

static _Noreturn void recover_main(pid_t parent)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_COULD_NOT);
    setsid(); /* what the owner of STATE has recorded must not reach root's terminal */
    recover_alone();
    refuse_ids();
    bool looked = recover_wanted();
    bool none = janitor.settled + janitor.left == 0 && looked;
    if (!none)
        log_eventf(NULL, "%u undone or kept, %u left in %s", janitor.settled, janitor.left,
                   recovering.state.path);
    else if (!recovering.unknown)
        log_event(NULL, "nothing is left to undo");
    _exit(janitor.left == 0 && looked && !recovering.unknown ? 0 : EXIT_COULD_NOT);
}

/* Open STATE and become its owner. It must be there: recovering a directory that was mistyped must
 * not make it. */
static void recover_open(void)
{
    const char *path = state_path();
    struct stat there;
    if (lstat(path, &there) < 0)
        cannot("the state directory %s cannot be looked at: %s", path, strerror(errno));
    uid_t owner = geteuid() == 0 ? there.st_uid : geteuid();
    bool other = owner != geteuid();
    const struct passwd *who = find_user(NULL, owner);
    recovering.state = state_open_as(who != NULL ? who->pw_name : NULL, owner,
                                     who != NULL ? who->pw_gid : there.st_gid);
    if (other) /* a ledger of an older version would show that user's commands root's */
        pass_env_forget();
    if (other && who != NULL)
        take_home_of(who);
}

static int command_recover(int argc, char **argv)
{
    int status = 0;
    cleanup_mark_prepare(argc, argv);
    parse_options(argc, argv, &recover_options);
    node_take();
    recovering.ids = argv + optind;
    recovering.count = argc - optind;
    for (int i = 0; i < recovering.count; i++)
        if (!cleanup_is_id(argv[optind + i]))
            wrong_use("%s is not the id of a request, as in 0123456789abcdef-1f", argv[optind + i]);
    recover_open();
    open_log();
    if (settings.log_to == 0)
        log_sink.fd = STDOUT_FILENO;
    log_sink.plain = settings.log_to == 0;
    log_sink.may_block = false; /* nobody else waits while this does */
    cleanup_report = report_failure;
    cleanup_undone = log_undone;
    signal(SIGPIPE, SIG_IGN);
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
