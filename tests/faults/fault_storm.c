/* fault_storm.c: storms of callers. What is left afterwards must equal what they were answered.
 *
 * Variants: nobody is killed; random children and janitors are killed with SIGKILL; the server is,
 * and is started again at once on the same port and state, while its children still end; the server
 * and all its children are.
 *
 * What may differ from the answers, and is counted apart, is what the promise itself names. DOUBT:
 * see callers.h. The WINDOW: server and child are both dead, and the ledger says `sent`; it is kept
 * then, though its caller may not have read the whole answer. Which ledgers say so is known
 * exactly: all that a killed server leaves are held open, and their descriptors show them as they
 * were in the end, also after they were unlinked.
 */
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "callers.h"

enum victim { NOBODY, CHILDREN, SERVER, ALL, VICTIMS };
static const char *const victim_names[VICTIMS] = {"nobody is killed", "children are killed",
                                                  "the server is killed",
                                                  "server and children are killed"};

static struct {
    long seconds, callers, seed;
    const char *log;
} options = {.seconds = 60, .callers = 300};

/* ---- Killing ----------------------------------------------------------------------------- */

static unsigned long killed_children, killed_servers;

static void kill_some_children(const struct server *s)
{
    pid_t pids[1024];
    unsigned count = children_of(s->pid, pids, 1024);
    for (unsigned i = 0; count > 0 && i < 1 + count / 8; i++) {
        pid_t child = pids[callers_random(count)], below[64];
        unsigned grandchildren = callers_random(8) == 0 ? children_of(child, below, 64) : 0;
        if (grandchildren > 0)
            kill_child(child, below[callers_random(grandchildren)]);
        else
            killed_children += kill_child(s->pid, child);
    }
}

/* ---- Ledgers of a dead server ------------------------------------------------------------ */

static int *ledgers;
static unsigned ledger_count;

static bool is_ledger(const char *text)
{
    return strncmp(text, "# hangupd ledger 2 ", 19) == 0;
}

static void ledgers_hold_in(const char *directory)
{
    char head[20];
    DIR *d = opendir(directory);
    if (!d)
        return;
    for (const struct dirent *e; (e = readdir(d));) {
        if (strchr(e->d_name, '-') == NULL || strchr(e->d_name, '.') != NULL)
            continue; /* a program's file has no marks */
        int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (pread(fd, head, sizeof(head), 0) != sizeof(head) || !is_ledger(head)) { /* idle slot */
            close(fd);
            continue;
        }
        int *more = realloc(ledgers, (ledger_count + 1) * sizeof(*ledgers));
        must(more);
        ledgers = more;
        ledgers[ledger_count++] = fd;
    }
    closedir(d);
}

/* Children of the dead server that live on may still answer; they have their ledgers already, for
 * who has none is not in delivery, and so is ended by its parent's death. */
static void ledgers_hold(void)
{
    DIR *d = opendir(at("state"));
    for (const struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.')
            ledgers_hold_in(at("state/%s", e->d_name));
    if (d)
        closedir(d);
}

/* Which of them said `sent` in the end? A mark that was struck out starts with '#', and what is
 * above `from` in a slot's file was said of requests before. The mark of a child that has lived on,
 * and was done with its ledger, is not asked: it has seen that the answer had arrived. */
static void ledgers_judge(void)
{
    static char text[65536];
    for (unsigned i = 0; i < ledger_count; i++) {
        ssize_t n = pread(ledgers[i], text, sizeof(text) - 1, 0);
        text[n < 0 ? 0 : n] = '\0';
        const char *tag = strstr(text, "?tag="), *from = strstr(text, " from=");
        long at_ = is_ledger(text) && tag && from ? strtol(from + 6, NULL, 10) : n;
        if (at_ > 0 && at_ < n && strstr(text + at_ - 1, "\nsent "))
            callers_window(strtoul(tag + 5, NULL, 10));
        close(ledgers[i]);
    }
}

/* ---- Servers ----------------------------------------------------------------------------- */

static const char server_words[] =
    "--requests 64 --connections 4000 --queue-timeout 120 --send-timeout 10 --grace 0.1 "
    "--undo-retries 1000";

/* Start again on the same port. A child that was being born when its server died holds the
 * listening socket for a moment; whoever restarts servers tries again. */
static struct server *restart(unsigned port)
{
    char words[512];
    snprintf(words, sizeof(words), "%s --listen 127.0.0.1:%u", server_words, port);
    for (int64_t deadline = now_ms() + PATIENCE_MS;;) {
        struct server *s = server_spawn(callers_program(), words, -1, false, -1);
        s->port = port;
        while (!log_has(s, "listening on ")) {
            must_say(now_ms() < deadline, "the server did not start again: %s", s->text);
            if (log_has(s, "could not listen on")) {
                server_kill(s, SIGKILL);
                s = NULL;
                break;
            }
            callers_go(1);
        }
        if (s)
            return s;
        callers_go(5);
    }
}

/* What the servers said, for whoever looks for the cause of a violation. */
static void keep_log(struct server *s)
{
    log_mark(s);
    FILE *f = options.log ? fopen(options.log, "ae") : NULL;
    if (!f)
        return;
    fprintf(f, "=== server %d\n%s", (int)s->pid, s->text);
    fclose(f);
}

/* Stopped first, it cannot settle what its children leave. */
static struct server *kill_server(struct server *s, enum victim victim)
{
    pid_t pids[1024];
    if (victim == ALL)
        kill(s->pid, SIGSTOP);
    unsigned count = victim == ALL ? children_of(s->pid, pids, 1024) : 0;
    for (unsigned i = 0; i < count; i++)
        killed_children += kill_child(s->pid, pids[i]);
    server_kill(s, SIGKILL);
    killed_servers++;
    ledgers_hold();
    keep_log(s);
    return restart(s->port);
}

/* ---- The storm --------------------------------------------------------------------------- */

static void blow(struct server **s, enum victim victim)
{
    int64_t end = now_ms() + options.seconds * 1000;
    while (now_ms() < end) {
        if (victim == CHILDREN) {
            callers_go(20);
            kill_some_children(*s);
        } else if (victim == NOBODY) {
            callers_go(100);
        } else {
            for (int64_t until = now_ms() + 200 + callers_random(1200); now_ms() < until;) {
                callers_go(50);
                log_mark(*s);
            }
            *s = kill_server(*s, victim);
        }
        log_mark(*s);
    }
}

static void report(enum victim victim)
{
    printf(
        "storm, %s: seed %ld, %ld s, %ld callers, %lu requests (%lu answered, %lu answered and "
        "then reset, of these %lu kept, %lu refused, %lu hung up, %lu broken off, %lu of a starved "
        "caller), %lu children "
        "and %lu servers killed, %lu kept in the window after sent, %lu violations\n",
        victim_names[victim], options.seed, options.seconds, options.callers, tally.requests,
        tally.kept, tally.doubt, tally.doubt_there, tally.refused, tally.hung_up, tally.broken,
        tally.given_up, killed_children, killed_servers, tally.window, tally.violations);
    fflush(stdout);
}

TEST_TIMES(storm, VICTIMS)
{
    struct callers_plan plan = {
        .seed = (uint64_t)options.seed + (uint64_t)_i,
        .count = (unsigned)options.callers,
        .hangups = 45,
        .work_ms = 60,
        .weights = {[KIND_MADE] = 30,
                    [KIND_OVER] = 15,
                    [KIND_TAKEN] = 10,
                    [KIND_TREE] = 10,
                    [KIND_CLOUD] = 8,
                    [KIND_STREAMED] = 8,
                    [KIND_DAEMONS] = 4,
                    [KIND_BAD] = 5,
                    [KIND_POSTED] = 8,
                    [KIND_PLAIN] = 2,
                    [KIND_PROGRAM] = 4},
        .undisturbed = _i == NOBODY,
    };
    struct rlimit files = {65536, 65536};
    enum victim victim = (enum victim)_i;
    setrlimit(RLIMIT_NOFILE, &files);
    struct server *s = server_start(callers_program(), "%s", server_words);
    callers_begin(&plan, s->port);
    blow(&s, victim);
    callers_settled(s);
    keep_log(s);
    server_stop(s);
    ledgers_judge();
    callers_check_world();
    report(victim);
    must(tally.kept > 0 && tally.hung_up > 0 && tally.refused > 0); /* or it was no storm */
    ck_assert_uint_eq(tally.violations, 0);
}

/* -------------------------------------------------------------------------------------------- */

static void parse(int argc, char **argv)
{
    static const struct option known[] = {{"seconds", required_argument, NULL, 's'},
                                          {"callers", required_argument, NULL, 'c'},
                                          {"seed", required_argument, NULL, 'r'},
                                          {"variant", required_argument, NULL, 'v'},
                                          {"log", required_argument, NULL, 'l'},
                                          {"brief", no_argument, NULL, 'b'},
                                          {0}};
    options.seed = (long)(now_ms() % 1000000);
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 's')
            options.seconds = atol(optarg);
        else if (c == 'c')
            options.callers = atol(optarg);
        else if (c == 'r')
            options.seed = atol(optarg);
        else if (c == 'v')
            suite_only("storm", atoi(optarg));
        else if (c == 'l')
            options.log = optarg;
        else if (c == 'b')
            options.seconds = 8;
        else
            exit(2);
    }
    suite_seconds = (double)options.seconds + 300;
}

SUITE(.start = parse);
