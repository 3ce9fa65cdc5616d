/* stop_command.h: `hangupd stop`, the operator's end of requests in flight.
 *
 * It finds a request's child in the scoreboard, as `hangupd status` does, and sends it SIGTERM: the
 * child undoes what it made, as after a hangup, and tells its server why (CAUSE_OPERATOR). A board
 * is a child's to write, so a process is signalled only if it is a child of the server and as old
 * as the request; and by a descriptor (pidfd_open(2)) which was opened while the slot named it, so
 * that the number cannot be another's by then. Root becomes STATE's owner first: what a board says
 * never reaches another user's process.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_STOP_COMMAND_H
#define HANGUPD_STOP_COMMAND_H

#include <signal.h>
#include <sys/syscall.h>

#include "status_look.h"

static const char stop_about[] =
    "Usage: hangupd stop [OPTION...] ID...\n"
    "End the requests with these IDs, which are in the log and in hangupd status, and wait until\n"
    "they have ended. What they made is undone, as after a hangup; a caller that has no answer "
    "yet\n"
    "gets 503. An answer that is on its way is not recalled. Root becomes the owner of STATE "
    "first.\n"
    "\n";

static const char stop_notes[] =
    "  --help\n"
    "\n"
    "Exit status: 0 all have ended; 1 one was not in flight, or has not ended in time; 2 wrong "
    "use.\n";

static const struct option_row stop_rows[] = {
    {NULL, stop_about, .kind = OPTION_TEXT},
    {"state", STATE_HELP, WORD_IN(state, "DIR")},
    {TIME("grace", "as the server's; it is waited for 2 s more", handler.grace_ms, 0, "2")},
    {"help", NULL, .kind = OPTION_HELP},
    {NULL, stop_notes, .kind = OPTION_TEXT},
    {0},
};

static const struct option_table stop_options = {"hangupd stop", 24, stop_rows};

#define STOP_MORE_MS 2000
#define STOP_LOOK_MS 50

/* Look at all servers anew. Returns the request ID and its server in *OF, or NULL: it is not in
 * flight. Both until the next look. */
static const struct status_request *stop_look(const char *id, const struct status_server **of)
{
    status_forget();
    status_gather();
    for (size_t i = 0; i < status.living; i++)
        for (size_t k = 0; k < status.servers[i].request_count; k++)
            if (strcmp(status.servers[i].requests[k].slot.id, id) == 0) {
                *of = &status.servers[i];
                return &status.servers[i].requests[k];
            }
    return NULL;
}

/* Signal the child of the request ID. Returns true if it is ending, also without us; false, with a
 * line, if it cannot be made to. */
static bool stop_one(const char *id)
{
    const struct status_server *s;
    const struct status_request *r = stop_look(id, &s);
    if (r == NULL || s->pid == UNKNOWN) {
        log_event(id, r == NULL
                          ? "not in flight: it has ended, or no server with this --state has it"
                          : "its server is in another pid namespace: ask there");
        return false;
    }
    pid_t pid = r->slot.pid;
    if (pid <= 0) /* dead, and being undone */
        return true;
    int process = (int)syscall(SYS_pidfd_open, pid, 0);
    if (process < 0 && errno != ESRCH)
        log_eventf(id, "could not open the process %d: %s", (int)pid, strerror(errno));
    if (process < 0)
        return errno == ESRCH;
    /* A server writes to the slot before it reaps: who still stands there had not been reaped. */
    r = stop_look(id, &s);
    bool born = r != NULL && r->slot.pid == pid && s->pid != UNKNOWN &&
                cleanup_is_born(pid, (pid_t)s->pid, r->slot.forked);
    if (born) {
        syscall(SYS_pidfd_send_signal, process, SIGTERM, NULL, 0);
        syscall(SYS_pidfd_send_signal, process, SIGCONT, NULL,
                0); /* stopped, it cannot act on it */
    }
    close(process);
    r = born ? NULL : stop_look(id, &s);
    if (r == NULL || r->slot.pid != pid)
        return true;
    log_eventf(id, "the process %d is not this request's, whatever its server's board says",
               (int)pid);
    return false;
}

/* As its owner, and without making it: what was mistyped is told. */
static void stop_open(void)
{
    const char *path = state_path();
    struct stat there;
    if (lstat(path, &there) < 0)
        cannot("the state directory %s cannot be looked at: %s", path, strerror(errno));
    uid_t owner = geteuid() == 0 ? there.st_uid : geteuid();
    const struct passwd *who = find_user(NULL, owner);
    status.state = state_open_as(who != NULL ? who->pw_name : NULL, owner,
                                 who != NULL ? who->pw_gid : there.st_gid);
}

static int command_stop(int argc, char **argv)
{
    const struct status_server *of;
    parse_options(argc, argv, &stop_options);
    char **ids = argv + optind;
    int left = argc - optind, missed = 0;
    if (left == 0)
        wrong_use("which request? ID is missing");
    for (char **id = ids; *id != NULL; id++)
        if (!cleanup_is_id(*id))
            wrong_use("%s is not the id of a request, as in 0123456789abcdef-1f", *id);
    stop_open();
    log_sink.plain = true;
    log_sink.fd = STDOUT_FILENO;
    for (int i = 0; i < left; i++)
        if (!stop_one(ids[i])) {
            missed++;
            ids[i--] = ids[--left];
        }
    for (int64_t until = clock_ms() + settings.handler.grace_ms + STOP_MORE_MS; left > 0;) {
        bool late = clock_ms() >= until; /* before the look, so that the last one counts */
        for (int i = 0; i < left; i++)
            if (stop_look(ids[i], &of) == NULL) {
                log_event(ids[i], "ended");
                ids[i--] = ids[--left];
            }
        if (late)
            break;
        sleep_ms(left > 0 ? STOP_LOOK_MS : 0);
    }
    for (int i = 0; i < left; i++)
        log_event(ids[i], "has not ended: hangupd status shows what it does");
    status_forget();
    close(status.state.fd);
    return left + missed == 0 ? 0 : EXIT_COULD_NOT;
}

#endif
