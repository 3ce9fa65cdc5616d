/* check_status.c: `hangupd status`: every column and total against requests that are really in
 * flight or have really ended, its four formats, and scoreboards that lie. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "serve.h"

SUITE();

/* ---- Asking -------------------------------------------------------------------------------- */

/* `hangupd status --state STATE WORDS`; it must exit with 0. */
static const char *status(const char *words)
{
    struct output o = run("%s status --state %s %s", the_hangupd(), at("state"), words);
    must_say(o.status == 0, "status %s: %d: %s", words, o.status, o.text);
    return o.text;
}

/* EXPRESSION in Python, of S, the only living server in JSON text, and D, the whole of it. */
static const char *of_json(const char *json, const char *expression)
{
    char script[4096];
    snprintf(script, sizeof(script),
             "import json, sys\n"
             "d = json.load(sys.stdin)\n"
             "s = d['servers'][0] if d['servers'] else {}\n"
             "r = s.get('requests', [])\n"
             "sys.stdout.write(str((%s)))\n",
             expression);
    const char *argv[] = {"python3", "-c", script, NULL};
    struct output o = run_argv(argv, json, true);
    must_say(o.status == 0, "%s\nof %s\n%s", expression, json, o.text);
    return o.text;
}

static const char *ask(const char *expression)
{
    return of_json(status("--json"), expression);
}

static bool says(const char *expression, const char *answer)
{
    return strcmp(ask(expression), answer) == 0;
}

#define must_be(expression, answer)                                                                \
    must_say(says(expression, answer), "%s is %s", expression, ask(expression))
#define wait_for(expression, answer) wait_until(says(expression, answer))
/* The ledgers' `run`, which goes on until the file is there. */
#define UNTIL "until%%20test%%20-e%%20%s;do%%20sleep%%200.02;done"
/* Ended requests as "ok/none:2 hangup/ok:1". */
#define ENDED "' '.join('%s/%s:%d' % (e['outcome'], e['undo'], e['count']) for e in s['ended'])"

/* ---- Requests in flight -------------------------------------------------------------------- */

THEME("in flight");

TEST(request_in_flight)
{
    struct server *s = things("--requests 7");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    struct sockaddr_in me = {0};
    must(getsockname(c, (struct sockaddr *)&me, &(socklen_t){sizeof(me)}) == 0);
    pid_t pid = wait_made(s, at("file"));
    wait_for("[x['phase'] for x in r]", "['running']");
    must_be("s['condition'], s['in_flight'], s['requests_limit'], s['queued']",
            "('serving', 1, 7, 0)");
    must_be("s['connections_open'], s['connections_idle'], s['requests_started']", "(1, 0, 1)");
    must_be("s['requests_ended'], s['ended'], s['undoing'], d['parked'], d['other_servers']",
            "(0, [], [], [], [])");
    must_be("r[0]['processes'], r[0]['records'], r[0]['cause']", "(1, 1, None)");
    must_be("0 <= r[0]['age_seconds'] < 60 and 0 <= s['uptime_seconds'] < 600", "True");

    char answer[PATH_MAX];
    snprintf(answer, sizeof(answer), "('127.0.0.1:%u', 'GET /make?path=%s&seconds=60 HTTP/1.1')",
             ntohs(me.sin_port), at("file"));
    must_be("(r[0]['client'], r[0]['request'])", answer);
    snprintf(answer, sizeof(answer), "(%d, ['127.0.0.1:%u'], '%s')", (int)s->pid, s->port,
             at("state"));
    must_be("(s['pid'], s['listening'], d['state'])", answer);
    char *id = file_read(at("file"));
    id[strcspn(id, "\n")] = '\0';
    must_be("r[0]['id']", id);

    const char *text = status("");
    char row[PATH_MAX];
    snprintf(row, sizeof(row), "  127.0.0.1:%u  running      1        1  GET /make?path=%s",
             ntohs(me.sin_port), at("file"));
    must_say(strstr(text, row) && strstr(text, id), "%s\nwithout %s", text, row);
    snprintf(row, sizeof(row), "hangupd on 127.0.0.1:%u, pid %d, up ", s->port, (int)s->pid);
    must_say(strstr(text, row), "%s\nwithout %s", text, row);
    must_say(strstr(text, "1 of 7 requests in flight, 0 queued; 1 connection, 0 of them idle"),
             "%s", text);
    must(is_alive(pid));
    close_rst(c);
    wait_for(ENDED, "hangup/ok:1");
    wait_for("r", "[]");
    must_say(strstr(status(""), "0 of 7 requests in flight") &&
                 strstr(status(""), "1 request ended: 1 hangup (1 undone)"),
             "%s", status(""));
    server_stop(s);
}

TEST(processes_are_those_below_the_child)
{
    struct server *s = things("%s", "");
    int c = get(s, "/fork?path=%s&seconds=60", at("file")), d = get(s, "/fork?seconds=60");
    wait_for("sorted((x['processes'], x['records']) for x in r)", "[(4, 0), (4, 1)]");
    close_fin(c);
    wait_for("[x['processes'] for x in r]", "[4]");
    close_fin(d);
    wait_for("r", "[]");
    server_stop(s);
}

TEST(records_are_those_not_struck_out)
{
    struct server *s = things("%s", "");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    /* scratch, the private name, the public one. */
    wait_for("[x['records'] for x in r]", "[3]");
    int d = get(s, "/commit?first=%s&second=%s&seconds=60", at("one"), at("two"));
    wait_made(s, at("two"));
    wait_for("[x['records'] for x in r if 'commit' in x['request']]", "[1]");
    close_fin(c);
    close_fin(d);
    wait_for("r", "[]");
    must(unlink(at("one")) == 0);
    server_stop(s);
}

TEST(phases)
{
    struct server *s = things("%s", "");
    static const char phase[] = "[(x['phase'], x['request'][:9]) for x in r]";
    int c = dial(s);
    say(c, "GET /make");
    wait_for(phase, "[('reading', 'GET /make')]");
    close_rst(c);
    wait_for("r", "[]");
    c = get(s, "/stream?chunks=1000&ms=50");
    hear_until(c, "ssss");
    wait_for(phase, "[('answering', 'GET /stre')]");
    close_rst(c);
    wait_for("r", "[]");
    c = get(s, "/big?bytes=50000000&path=%s", at("file"));
    wait_for(phase, "[('delivering', 'GET /big?')]");
    close_rst(c);
    wait_for("r", "[]");
    c = get(s, "/run?cmd=" UNTIL "&seconds=60", at("go"));
    wait_for(phase, "[('running', 'GET /run?')]");
    close_fin(c);
    wait_for("[(x['phase'], x['cause'], x['records'], x['processes']) for x in r]",
             "[('undoing', 'hangup', 1, 0)]");
    must_be("[u['id'] for u in s['undoing']] == [x['id'] for x in r]", "True");
    must_be("[(u['records'], u['next'][:10], u['request'][:9]) for u in s['undoing']]",
            "[(1, 'run until ', 'GET /run?')]");
    must_say(strstr(status(""), "  undoing: hangup  ") && strstr(status(""), "Being undone:\n"),
             "%s", status(""));
    file_write(at("go"), "");
    wait_for("(r, s['undoing'])", "([], [])");
    /* A child that died by itself: only the server knows that it is being undone. */
    log_mark(s);
    c = get(s, "/run?cmd=" UNTIL "&seconds=60", at("go-again"));
    const char *pid = strrchr(log_wait(s, "recorded pid"), ' ');
    kill((pid_t)atoi(pid), SIGKILL);
    wait_for("[(x['phase'], x['cause'], x['records'], x['processes']) for x in r]",
             "[('undoing', None, 1, 0)]");
    file_write(at("go-again"), "");
    wait_for("(r, s['undoing'])", "([], [])");
    close_fin(c);
    server_stop(s);
}

TEST(oldest_comes_first)
{
    struct server *s = things("%s", "");
    int first = get(s, "/make?path=%s&seconds=60", at("a"));
    wait_made(s, at("a"));
    int second = get(s, "/make?path=%s&seconds=60", at("b"));
    wait_made(s, at("b"));
    wait_for("len(r)", "2");
    wait_until(!says("r[0]['age_seconds']", ask("r[1]['age_seconds']")));
    must_be("r[0]['request'].count('/a&'), r[1]['request'].count('/b&')", "(1, 1)");
    close_fin(first);
    close_fin(second);
    wait_for("r", "[]");
    server_stop(s);
}

TEST(queued_and_idle)
{
    struct server *s = things("--requests 1 --idle-timeout 60");
    int busy = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    int first = get(s, "/who"), second = get(s, "/who"), idle = dial(s);
    static const char figures[] = "(s['in_flight'], s['queued'], s['connections_open'], "
                                  "s['connections_idle'], s['requests_started'])";
    wait_for(figures, "(1, 2, 4, 1, 1)");
    must_say(strstr(status(""), "1 of 1 requests in flight, 2 queued; 4 connections, 1 of them"),
             "%s", status(""));
    close_rst(second);
    wait_for(figures, "(1, 1, 3, 1, 1)");
    must_be(ENDED, "hangup/none:1");
    close_fin(busy);
    must(hear_answer(first, false).status == 200);
    wait_for(figures, "(0, 0, 2, 2, 2)");
    close_fin(first);
    close_fin(idle);
    wait_for(figures, "(0, 0, 0, 0, 2)");
    server_stop(s);
}

TEST(two_hundred_and_fifty_six)
{
    enum { MANY = 256 };
    struct server *s = things("--requests %d", MANY);
    int c[MANY];
    for (int i = 0; i < MANY; i++)
        c[i] = get(s, "/make?path=%s&seconds=60", at("file%d", i));
    wait_for("(s['in_flight'], sum(x['processes'] for x in r), sum(x['records'] for x in r))",
             "(256, 256, 256)");
    must_be("len(set(x['id'] for x in r)), len(set(x['client'] for x in r))", "(256, 256)");
    unsigned rows = 0;
    for (const char *p = status(""); (p = strstr(p, "  running  ")); p++)
        rows++;
    must_say(rows == MANY, "%u rows", rows);
    for (int i = 0; i < MANY; i++)
        close_rst(c[i]);
    wait_for("(s['in_flight'], s['requests_ended'], s['connections_open'])", "(0, 256, 0)");
    must_be(ENDED, "hangup/ok:256");
    server_stop(s);
}

/* ---- Totals -------------------------------------------------------------------------------- */

TEST(outcomes)
{
    struct server *s = things("--drain 0 --undo-retries 0");
    must(curl(s, "-f /make?path=%s", at("kept")).status == 0);
    wait_for(ENDED, "ok/none:1");
    must(curl(s, "/who").status == 0);
    wait_for(ENDED, "ok/none:2");
    curl(s, "/nowhere");
    curl(s, "/fail?path=%s", at("file"));
    wait_for(ENDED, "ok/none:2 error/none:1 error/ok:1");
    close_rst(get(s, "/make?path=%s&seconds=60", at("file")));
    wait_for("sum(e['count'] for e in s['ended'] if e['outcome'] == 'hangup')", "1");
    curl(s, "/brief?path=%s&seconds=60", at("file"));
    wait_for("[e['undo'] for e in s['ended'] if e['outcome'] == 'timeout']", "['ok']");
    curl(s, "/crash?path=%s", at("file"));
    wait_for("[e['undo'] for e in s['ended'] if e['outcome'] == 'crash']", "['ok']");
    log_mark(s);
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    kill(wait_made(s, at("file")), SIGKILL);
    wait_for("[e['undo'] for e in s['ended'] if e['outcome'] == 'killed']", "['ok']");
    close_fin(c);
    int d = get(s, "/run?cmd=false&seconds=60");
    log_wait(s, "recorded pid");
    close_fin(d);
    wait_for("[e['count'] for e in s['ended'] if e['undo'] == 'failed']", "[1]");

    int e = get(s, "/make?path=%s&seconds=60", at("file"));
    int f = get(s, "/run?cmd=" UNTIL "&seconds=60", at("go"));
    wait_for("[x['records'] for x in r]", "[1, 1]");
    kill(s->pid, SIGTERM);
    wait_for("[e['undo'] for e in s['ended'] if e['outcome'] == 'drain']", "['ok']");
    must_be("(s['condition'], s['in_flight'], r[0]['cause'])", "('draining', 1, 'drain')");
    must_say(strstr(status(""), ", draining\n"), "%s", status(""));
    must_be("s['requests_ended'] == sum(e['count'] for e in s['ended'])", "True");
    file_write(at("go"), "");
    close_fin(e);
    close_fin(f);
    must(server_wait(s) == 0);
    must(unlink(at("kept")) == 0);
}

/* ---- Undo that goes on, or was given up ---------------------------------------------------- */

THEME("undo");

TEST(undo_that_waits_for_its_retry)
{
    struct server *s = things("--undo-retries 9");
    int c = get(s, "/run?cmd=test%%20-e%%20%s&seconds=60", at("go"));
    log_wait(s, "recorded pid");
    close_fin(c);
    wait_for("(" ENDED ", len(r), len(s['undoing']))", "('hangup/failed:1', 0, 1)");
    must_be("s['undoing'][0]['records']", "1");
    file_write(at("go"), "");
    wait_for("s['undoing']", "[]");
    server_stop(s);
}

TEST(undo_that_was_given_up)
{
    struct server *s = things("--undo-retries 0");
    int c = get(s, "/run?cmd=false&seconds=60");
    log_wait(s, "recorded pid");
    must_be("d['parked']", "[]");
    char *id = strdup(ask("r[0]['id']"));
    close_fin(c);
    wait_for("len(d['parked'])", "1");
    must_be("d['parked'][0]['id']", id);
    must_be("[(p['records'], p['next'], p['request']) for p in d['parked']]",
            "[(1, 'run false', 'GET /run?cmd=false&seconds=60 HTTP/1.1')]");
    char retry[PATH_MAX];
    snprintf(retry, sizeof(retry), "hangupd recover --state %s %s", at("state"), id);
    must_be("d['parked'][0]['retry']", retry);
    server_stop(s);

    const char *text = status("");
    snprintf(retry, sizeof(retry), "hangupd recover --state %s [ID...]\n", at("state"));
    must_say(strstr(text, "No server is running") && strstr(text, retry) && strstr(text, id) &&
                 strstr(text, "  run false"),
             "%s", text);
    must(strstr(status("--prometheus"), "\nhangupd_undo_parked 1\n"));
    must(strstr(status("--html"), "<h2 class=\"bad\">Parked</h2>"));
    free(id);
}

/* Whatever the name of the state directory, it works as it stands. */
TEST(retry_can_be_pasted)
{
    static const char id[] = "0123456789abcdef-1f";
    char shell[PATH_MAX];
    must(mkdir(at("st\344t'e"), 0700) == 0 && mkdir(at("st\344t'e/failed"), 0700) == 0);
    snprintf(shell, sizeof(shell), "unlink %s\n", at("nonexistent"));
    file_write(at("st\344t'e/failed/%s", id), shell);
    struct output o = run("%s status --json --state %s", the_hangupd(), at("st\344t'e"));
    snprintf(shell, sizeof(shell), "hangupd() { exec %s \"$@\"; }\n%s", the_hangupd(),
             of_json(o.text, "d['parked'][0]['retry']"));
    const char *argv[] = {"sh", "-c", shell, NULL};
    o = run_argv(argv, NULL, true);
    must_say(o.status == 0 && strstr(o.text, "undone"), "%s: %d: %s", shell, o.status, o.text);
    must(!exists(at("st\344t'e/failed/%s", id)));
}

/* What is struck out, a mark, kept by a `commit`, or not whole is not counted. */
TEST(records_of_a_ledger)
{
    static const char id[] = "state/failed/0123456789abcdef-1f";
    static const char *const parked =
        "[(p['records'], p['next'], p['request']) for p in d['parked']]";
    server_stop(things("%s", ""));
    must(mkdir(at("state/failed"), 0700) == 0 || errno == EEXIST);
    file_write(at("%s", id),
               "# hangupd ledger 1 id=0123456789abcdef-1f pid=1 start=1 boot=b GET /x y\n"
               "scratch /s\nunlink /kept\ncommit\nrmtree /left\n#nlink /struck\n"
               "# a comment\n\nsent 77\nrun not whole");
    must_be(parked, "[(2, 'rmtree /left', 'GET /x y')]");
    file_write(at("%s.p", id),
               "# hangupd ledger 1 id=0123456789abcdef-1f pid=1 start=1 boot=b (p)\n"
               "unlink /kept\ncommit\n");
    must_be(parked, "[(2, 'rmtree /left', 'GET /x y')]");
    file_write(at("%s.p", id), "run this\n#ommit\ncommit\nunlink /a\nrun that\n");
    must_be(parked, "[(4, 'run that', 'GET /x y')]");
    must(unlink(at("%s", id)) == 0);
    must_be(parked, "[(2, 'run that', '')]");
    file_write(at("state/failed/no-ledger"), "run x\n");
    file_write(at("state/failed/0123456789abcdef-1g"), "run x\n");
    must_be("len(d['parked'])", "1");
}

/* Lock FILE as a server, or whoever recovers it, does. */
static void hold_lock(const char *file)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0 && fcntl(fd, F_SETLK, &lock) == 0);
}

TEST(server_that_died)
{
    struct server *s = things("%s", "");
    int c = get(s, "/run?cmd=test%%20-e%%20%s&seconds=60", at("go"));
    log_wait(s, "recorded pid");
    char *token = strdup(ask("s['server']"));
    server_kill(s, SIGKILL);
    close_fin(c);
    wait_no_process();
    must_be("d['servers'], [(o['server'], o['condition'], len(o['ledgers'])) "
            "for o in d['other_servers'] if 'why' not in o] == "
            "[('%s' % d['other_servers'][0]['server'], 'dead', 1)]",
            "([], True)");
    must_be("d['other_servers'][0]['server']", token);
    char words[PATH_MAX];
    snprintf(words, sizeof(words),
             "dead server %s, 1 ledger; to settle: hangupd recover --state %s\n", token,
             at("state"));
    must_say(strstr(status(""), words), "%s", status(""));
    must(strstr(status("--prometheus"), "\nhangupd_undo_left_by_dead 1\n"));

    /* Somebody settles it, and is not taken for the server. */
    hold_lock(at("state/%s/lock", token));
    must_be("d['servers'], [o['condition'] for o in d['other_servers']]", "([], ['recovering'])");
    file_write(at("go"), "");
    int lock = open(at("state/%s/lock", token), O_RDONLY);
    close(lock); /* which lets go of it */
    s = things("%s", "");
    wait_for("(d['other_servers'], s['undoing'])", "([], [])");
    server_stop(s);
    free(token);
}

/* ---- What there is to be told when there is nothing ----------------------------------------- */

THEME("command line");

TEST(nothing_runs)
{
    struct output o = run("%s status --state %s", the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, at("state")) && strstr(o.text, "--state"), "%d: %s",
             o.status, o.text);
    must(!exists(at("state")));
    server_stop(things("%s", ""));
    must_say(strncmp(status(""), "No server is running with the state directory ", 46) == 0, "%s",
             status(""));
    must_be("(d['servers'], d['other_servers'], d['parked'])", "([], [], [])");
    /* The directory of a server that is just being made, or removed, does not count. */
    must(mkdir(at("state/0123456789abcdef"), 0700) == 0);
    must(strstr(status("--html"), "No server is running"));
    must(strstr(status("--prometheus"), "\nhangupd_servers 0\n"));
}

TEST(several_servers)
{
    struct server *first = things("%s", ""), *second = hangupd("%s", "");
    int c = get(second, "/a?seconds=60");
    log_wait(second, "new file");
    char answer[256];
    snprintf(answer, sizeof(answer), "[(%d, 0), (%d, 1)]", (int)first->pid, (int)second->pid);
    wait_for("[(x['pid'], x['in_flight']) for x in d['servers']]", answer);
    close_fin(c);
    wait_for("[x['in_flight'] for x in d['servers']]", "[0, 0]");
    server_kill(second, SIGTERM);
    server_stop(first);
}

static const struct {
    const char *words, *explanation;
    int status;
} mistakes[] = {
    {"--nonsense", "no option --nonsense", 2},
    {"-x", "no option -x", 2},
    {"now", "now is not an option", 2},
    {"--json now", "now is not an option", 2},
    {"--json --html", "exclude each other", 2},
    {"--watch=soon", "--watch soon is not a time", 2},
    {"--watch soon", "soon is not an option", 2},
    {"--watch 0.01", "too little", 2},
    {"--state", "--state wants a value", 2},
    {"--state /nonexistent/state", "/nonexistent/state: No such file or directory", 1},
    {"--state /dev/null", "/dev/null: Not a directory", 1},
};

TEST_EACH(mistake_is_explained, mistakes)
{
    struct output o = run("%s status %s", the_hangupd(), mistakes[_i].words);
    must_say(o.status == mistakes[_i].status && strstr(o.text, mistakes[_i].explanation) &&
                 strncmp(o.text, "hangupd status: ", 16) == 0,
             "%s: %d: %s", mistakes[_i].words, o.status, o.text);
}

TEST(state_of_another_user)
{
    if (only_for_root("state_of_another_user"))
        return;
    server_stop(things("%s", ""));
    struct output o = run("setpriv --reuid 65534 --clear-groups %s status --state %s",
                          the_hangupd(), at("state"));
    if (o.status == 127 || strstr(o.text, "failed to execute"))
        test_skipped("state_of_another_user", o.text);
    else
        must_say(o.status == 1 && strstr(o.text, "Permission denied; ask as its owner"), "%d: %s",
                 o.status, o.text);
}

TEST(help)
{
    struct output o = run("%s status --help", the_hangupd());
    static const char *const options[] = {"--state", "--json",  "--prometheus",
                                          "--html",  "--watch", "Exit status"};
    for (int i = 0; i < COUNT(options); i++)
        must_say(o.status == 0 && strstr(o.text, options[i]), "%s: %s", options[i], o.text);
    o = run("%s --help", the_hangupd());
    must(o.status == 0 && strstr(o.text, "hangupd status"));
}

/* ---- Scoreboards that lie ------------------------------------------------------------------- */

THEME("lies");

#define TOKEN "00000000deadbeef"
#define OTHER_TOKEN "00000000deadbee0"

struct board {
    unsigned char *bytes;
    size_t length, slots; /* where the slots begin */
};

/* The scoreboard of a server with two slots that has served a request and has one in flight, as a
 * dead server's. */
static struct board board_take(void)
{
    struct server *s = things("--requests 2");
    must(curl(s, "-f /who").status == 0);
    wait_for("(" ENDED ", r)", "('ok/none:1', [])");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    wait_for("len(r)", "1");
    struct board b = {.bytes = malloc(1 << 16)};
    int fd = open(at("state/%s/scoreboard", ask("s['server']")), O_RDONLY | O_CLOEXEC);
    must(b.bytes && fd >= 0);
    ssize_t n = read(fd, b.bytes, 1 << 16);
    close(fd);
    must_say(n > (ssize_t)(2 * sizeof(struct slot)) && n < 1 << 16, "%zd bytes", n);
    ((struct scoreboard *)(void *)b.bytes)->written = INT64_MAX; /* nobody waits for a newer one */
    b.length = (size_t)n;
    b.slots = b.length - 2 * sizeof(struct slot);
    close_fin(c);
    wait_for("r", "[]");
    server_stop(s);
    must(mkdir(at("state/" TOKEN), 0700) == 0);
    hold_lock(at("state/" TOKEN "/lock"));
    return b;
}

static void board_put(const void *bytes, size_t length)
{
    int fd = open(at("state/" TOKEN "/scoreboard"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(fd >= 0 && write(fd, bytes, length) == (ssize_t)length);
    close(fd);
}

/* What is printed has no byte that steers a terminal, is JSON, and is a page without holes. */
static void all_formats_are_sane(void)
{
    static const char *const formats[] = {"", "--html", "--prometheus", "--json"};
    for (int i = 0; i < COUNT(formats); i++) {
        const char *text = status(formats[i]);
        for (const char *p = text; *p; p++)
            must_say(*p == '\n' || (*p >= ' ' && *p < 0x7f), "%s: byte %d in %s", formats[i], *p,
                     text);
        if (i == 1)
            must(!strstr(text, "<script") && strstr(text, "</html>\n"));
        if (i == 3)
            of_json(text, "len(json.dumps(d))");
    }
}

static const char *condition(void)
{
    return ask("[x['condition'] for x in d['servers'] + d['other_servers']]");
}

TEST(board_that_is_no_board)
{
    struct board b = board_take();
    static char other[1 << 16];
    must(strcmp(condition(), "['starting']") == 0);
    board_put("", 0);
    must(strcmp(condition(), "['starting']") == 0);
    board_put(other, sizeof(other)); /* zeros: it was made, and not filled yet */
    must(strcmp(condition(), "['starting']") == 0);
    board_put(b.bytes, b.length);
    must_say(strcmp(condition(), "['recovering']") == 0, "%s", condition());
    for (size_t cut = 1; cut < b.length; cut += cut < b.slots ? 997 : 211) {
        board_put(b.bytes, b.length - cut);
        must_say(strcmp(condition(), "['unreadable']") == 0 ||
                     strcmp(condition(), "['starting']") == 0,
                 "without %zu bytes: %s", cut, condition());
    }
    memset(other, 0xff, sizeof(other));
    board_put(other, sizeof(other));
    must(strcmp(condition(), "['unreadable']") == 0);
    must(strstr(ask("d['other_servers'][0]['why']"), "another version"));
    all_formats_are_sane();
    b.bytes[14]++; /* another version */
    board_put(b.bytes, b.length);
    must(strcmp(condition(), "['unreadable']") == 0 && strstr(status(""), "another version"));
    must(unlink(at("state/" TOKEN "/scoreboard")) == 0);
    must(mkfifo(at("state/" TOKEN "/scoreboard"), 0600) == 0);
    must(strcmp(condition(), "['unreadable']") == 0);
    must(unlink(at("state/" TOKEN "/scoreboard")) == 0);
    must(symlink("/etc/passwd", at("state/" TOKEN "/scoreboard")) == 0);
    must(strcmp(condition(), "['unreadable']") == 0);
}

/* What is cut off a mapped file kills whoever touches it, and so does a page that a full disk has
 * no room for: the server's memory is no file. */
TEST(board_that_is_cut_harms_nobody)
{
    struct server *s = things("%s", "");
    must(curl(s, "-f /who").status == 0);
    char board[PATH_MAX];
    snprintf(board, sizeof(board), "%s", at("state/%s/scoreboard", ask("s['server']")));
    must(truncate(board, 0) == 0 && curl(s, "-f /who").status == 0);
    wait_until(*file_read(board) != '\0');
    wait_for("(" ENDED ", r)", "('ok/none:2', [])");
    server_stop(s);
}

/* The server of the board is this test, so that it is believed to live. */
static void board_adopt(struct board *b)
{
    for (size_t at_ = 0; at_ + 8 <= b->slots; at_ += 8) {
        uint64_t word;
        memcpy(&word, b->bytes + at_, sizeof(word));
        if (word > 1 && word < 1 << 22 && at_ > 2000) { /* the pid comes first of the figures */
            word = (uint64_t)getpid();
            memcpy(b->bytes + at_, &word, sizeof(word));
            return;
        }
    }
    must_say(false, "no pid in the scoreboard");
}

TEST(board_with_false_slots)
{
    struct board b = board_take();
    board_adopt(&b);
    board_put(b.bytes, b.length);
    wait_for("(s['condition'], s['in_flight'])", "('serving', 1)");
    memset(b.bytes + b.slots, 0xff, b.length - b.slots);
    board_put(b.bytes, b.length);
    must_be("(s['in_flight'], [(x['age_seconds'], x['processes'], x['records']) for x in r])",
            "(2, [(0.0, 0, 0), (0.0, 0, 0)])");
    must_be("[(len(x['id']), len(x['client']), len(x['request'])) for x in r]",
            "[(156, 284, 1020), (156, 284, 1020)]");
    all_formats_are_sane();

    static const char bad[] = "\"/><script>alert(1)</script>\\\n\033[2J\200'&";
    struct slot slot = {.state = SLOT_RUNNING, .pid = 1, .started = INT64_MIN, .cause = 77};
    snprintf(slot.id, sizeof(slot.id), "../../../%.20s", bad);
    snprintf(slot.client, sizeof(slot.client), "%s", bad);
    snprintf(slot.request, sizeof(slot.request), "%s", bad);
    memcpy(b.bytes + b.slots, &slot, sizeof(slot));
    snprintf(slot.id, sizeof(slot.id), "../failed");
    slot.started = INT64_MAX;
    slot.pid = INT32_MIN;
    memcpy(b.bytes + b.slots + sizeof(slot), &slot, sizeof(slot));
    board_put(b.bytes, b.length);
    all_formats_are_sane();
    must_be("r[0]['request'] == '\"/><script>alert(1)</script>\\\\\\n\\x1b[2J\\\\x80\\'&'", "True");
    must(strstr(status("--html"), "&#60;script&#62;alert(1)&#60;/script&#62;"));
    memset(b.bytes + 2000, 0xff, b.slots - 2000);
    board_put(b.bytes, b.length);
    all_formats_are_sane();
}

TEST_TIMES(board_of_random_bytes, 4)
{
    struct board b = board_take();
    board_adopt(&b);
    unsigned seed = (unsigned)_i + 1;
    for (int turn = 0; turn < 20; turn++) {
        unsigned char *bytes = malloc(b.length);
        must(bytes != NULL);
        memcpy(bytes, b.bytes, b.length);
        for (int n = rand_r(&seed) % 400; n >= 0; n--)
            bytes[(size_t)rand_r(&seed) % b.length] = (unsigned char)rand_r(&seed);
        board_put(bytes, b.length - (rand_r(&seed) % 4 == 0 ? (size_t)rand_r(&seed) % 99 : 0));
        all_formats_are_sane();
        free(bytes);
    }
}

/* ---- Prometheus ------------------------------------------------------------------------------ */

THEME("formats");

/* promtool's rules, and what its parser wants; prints the samples. */
static const char metrics_check[] =
    "import sys, re\n"
    "from prometheus_client.parser import text_string_to_metric_families as parse\n"
    "text = sys.stdin.read()\n"
    "assert text.endswith('\\n')\n"
    "heads = re.findall(r'^# (HELP|TYPE) (\\S+) ', text, re.M)\n"
    "assert len(set(heads)) == len(heads) and heads[0::2] == [('HELP', n) for _, n in "
    "heads[1::2]]\n"
    "assert all(n.endswith('_total') for n in re.findall(r'^# TYPE (\\S+) counter$', text, re.M))\n"
    "names = re.findall(r'^([a-z_]+)[{ ]', text, re.M)\n"
    "assert set(names) == {n for _, n in heads}, (names, heads)\n"
    "seen = set()\n"
    "for family in parse(text):\n"
    "    name = family.name + ('_total' if family.type == 'counter' else '')\n"
    "    assert re.fullmatch(r'hangupd_[a-z_]+', name), name\n"
    "    assert family.type in ('counter', 'gauge') and family.documentation, name\n"
    "    assert family.type == 'counter' or not re.search('_(total|count|sum|bucket)$', name), "
    "name\n"
    "    assert not re.search('gauge|counter|milli|minutes|hours|_ms', name), name\n"
    "    for sample in family.samples:\n"
    "        assert sample.name == name, sample\n"
    "        key = (sample.name, tuple(sorted(sample.labels.items())))\n"
    "        assert key not in seen and sample.value >= 0, key\n"
    "        seen.add(key)\n"
    "        print(*[name.replace('hangupd_', '')] + [v for _, v in sorted(sample.labels.items())]"
    " + ['%.12g' % sample.value])\n";

static const char *samples(void)
{
    /* Debian's, which has the package. */
    const char *argv[] = {"/usr/bin/python3", "-c", metrics_check, NULL};
    const char *text = status("--prometheus");
    struct output o = run_argv(argv, text, true);
    must_say(o.status == 0, "%s\nof\n%s", o.text, text);
    return o.text;
}

TEST(metrics)
{
    struct server *s = things("--listen unix:un\"ix.sock --listen 127.0.0.1:0 --requests 2");
    const char *listening = log_wait(s, "listening on 127");
    s->port = (unsigned)atoi(strrchr(listening, ':') + 1);
    int c = get(s, "/make?path=%s&seconds=60", at("file")), d = get(s, "/fork?seconds=60");
    wait_for("sum(x['processes'] for x in r)", "5");
    int e = get(s, "/who");
    wait_for("s['queued']", "1");
    close_rst(c);
    must(hear_answer(e, false).status == 200);
    wait_for(ENDED, "ok/none:1 hangup/ok:1");
    wait_for("s['connections_idle']", "1");
    const char *said = samples();
    static const char *const wanted[] = {
        "servers 1",
        "requests_in_flight %s 1",
        "requests_queued %s 0",
        "requests_limit %s 2",
        "request_processes %s 4",
        "connections_open %s 2",
        "draining %s 0",
        "requests_started_total %s 3",
        "connections_idle %s 1",
        "undo_in_progress %s 0",
        "undo_parked 0",
        "requests_total %s hangup ok 1",
        "requests_total %s ok none 1",
        "requests_total %s error none 0",
        "undo_left_by_dead 0",
    };
    char listen[128];
    snprintf(listen, sizeof(listen), "unix:un\"ix.sock, 127.0.0.1:%u", s->port);
    for (int i = 0; i < COUNT(wanted); i++) {
        char line[256] = "\n";
        const char *hole = strstr(wanted[i], "%s");
        if (hole)
            snprintf(line, sizeof(line), "%.*s%s%s\n", (int)(hole - wanted[i]), wanted[i], listen,
                     hole + 2);
        else
            snprintf(line, sizeof(line), "%s\n", wanted[i]);
        must_say(strstr(said, line), "%s is not in %s", line, said);
    }
    must(strstr(said, "start_time_seconds ") && strstr(said, "request_oldest_seconds "));
    close_fin(d);
    close_fin(e);
    wait_for("r", "[]");
    server_stop(s);
}

TEST(metrics_of_several)
{
    struct server *first = things("%s", "");
    samples();
    struct server *second = things("%s", "");
    samples();
    server_kill(first, SIGTERM);
    samples();
    server_stop(second);
}

/* As while one drains and the next has come: what is counted is added up, and times are not. */
TEST(metrics_of_two_at_one_address)
{
    struct board b = board_take();
    board_adopt(&b);
    board_put(b.bytes, b.length);
    must(mkdir(at("state/" OTHER_TOKEN), 0700) == 0);
    hold_lock(at("state/" OTHER_TOKEN "/lock"));
    int fd = open(at("state/" OTHER_TOKEN "/scoreboard"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0 && write(fd, b.bytes, b.length) == (ssize_t)b.length);
    close(fd);
    char listen[64], line[256];
    snprintf(listen, sizeof(listen), "%s", ask("d['servers'][1]['listening'][0]"));
    const char *said = samples();
    static const char *const wanted[] = {"requests_limit %s 4\n", "requests_in_flight %s 2\n",
                                         "requests_started_total %s 4\n", "draining %s 0\n",
                                         "requests_total %s ok none 2\n"};
    must_say(strncmp(said, "servers 2\n", 10) == 0, "%s", said);
    for (int i = 0; i < COUNT(wanted); i++) {
        snprintf(line, sizeof(line), "%.*s%s%s", (int)(strstr(wanted[i], "%s") - wanted[i]),
                 wanted[i], listen, strstr(wanted[i], "%s") + 2);
        must_say(strstr(said, line), "%s is not in %s", line, said);
    }
    snprintf(line, sizeof(line), "start_time_seconds %s ", listen);
    const char *start = strstr(said, line);
    must_say(start && atoll(start + strlen(line)) <= time(NULL), "%s", said);
}

/* ---- As a program of a request ----------------------------------------------------------------
 */

TEST(cgi_header)
{
    static const struct {
        const char *option, *type;
    } formats[] = {{"", "text/plain; charset=utf-8"},
                   {"--json", "application/json"},
                   {"--prometheus", "text/plain; version=0.0.4; charset=utf-8"},
                   {"--html", "text/html; charset=utf-8"}};
    struct server *s = things("%s", "");
    for (int i = 0; i < COUNT(formats); i++) {
        char head[256];
        snprintf(head, sizeof(head), "Content-Type: %s\nCache-Control: no-store\n\n",
                 formats[i].type);
        struct output o = run("env GATEWAY_INTERFACE=CGI/1.1 %s status --state %s %s",
                              the_hangupd(), at("state"), formats[i].option);
        must_say(o.status == 0 && strncmp(o.text, head, strlen(head)) == 0, "%s", o.text);
        must(!strstr(status(formats[i].option), "Content-Type"));
    }
    server_stop(s);
}

/* A script in the test's directory. */
static void program(const char *name, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void program(const char *name, const char *format, ...)
{
    char text[PATH_MAX + 256] = "#!/bin/sh\n";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + strlen(text), sizeof(text) - strlen(text), format, arguments);
    va_end(arguments);
    file_write(at("%s", name), text);
    must(chmod(at("%s", name), 0755) == 0);
}

TEST(served_through_itself)
{
    program("json", "exec %s status --json\n", the_hangupd());
    program("text", "exec %s status\n", the_hangupd());
    program("work", "echo \"unlink $TMPDIR/x\" >&3\nsleep 60 &\nsleep 60\n");
    struct server *s = hangupd("/json=%s /text=%s /work=%s", at("json"), at("text"), at("work"));
    int c = get(s, "/work");
    wait_for("[(x['processes'], x['records']) for x in r]", "[(4, 2)]");
    struct output o = curl(s, "-f -i /json");
    char *body = strstr(o.text, "\r\n\r\n");
    must_say(o.status == 0 && body && strstr(o.text, "Content-Type: application/json\r\n") &&
                 strstr(o.text, "Cache-Control: no-store\r\n"),
             "%s", o.text);
    must(strcmp(of_json(body, "d['state']"), at("state")) == 0);
    must(strcmp(of_json(body, "[(x['request'], x['phase'], x['processes']) for x in r]"),
                "[('GET /work HTTP/1.1', 'running', 4), ('GET /json HTTP/1.1', 'running', 2)]") ==
         0);
    o = curl(s, "-f /text");
    must_say(o.status == 0 && strstr(o.text, "  GET /text HTTP/1.1\n"), "%s", o.text);
    close_fin(c);
    wait_for("r", "[]");
    server_stop(s);
}

/* --state comes first, then HANGUPD_STATE if it says anything, then the default. */
TEST(state_by_environment)
{
    static const struct {
        const char *settings, *option;
        bool found;
    } cases[] = {
        {"HANGUPD_STATE=$AWAY", "", true},
        {"HANGUPD_STATE=$AWAY REQUEST_ID=" TOKEN "-1", "", true},
        {"HANGUPD_STATE=/nowhere", "--state $AWAY", true},
        {"HANGUPD_STATE=$AWAY", "--state /nowhere", false},
        {"HANGUPD_STATE=", "", false},
        {"UNDO_FD=3 REQUEST_ID=" TOKEN "-1", "", false},
    };
    char shell[2 * PATH_MAX];
    must(mkdir(at("away"), 0700) == 0);
    for (int i = 0; i < COUNT(cases); i++) {
        snprintf(shell, sizeof(shell), "AWAY=%s; HOME=/ XDG_STATE_HOME= %s exec %s status %s",
                 at("away"), cases[i].settings, the_hangupd(), cases[i].option);
        const char *argv[] = {"sh", "-c", shell, NULL};
        struct output o = run_argv(argv, NULL, true);
        must_say((strstr(o.text, at("away")) != NULL) == cases[i].found, "%s %s: %s",
                 cases[i].settings, cases[i].option, o.text);
    }
}

TEST(page_reloads_itself)
{
    server_stop(things("%s", ""));
    must(strstr(status("--html"), "<meta http-equiv=\"refresh\" content=\"5\">"));
    must(strstr(status("--html --watch"), "<meta http-equiv=\"refresh\" content=\"5\">"));
    must(strstr(status("--html --watch 1500ms"), "<meta http-equiv=\"refresh\" content=\"2\">"));
    must(strstr(status("--watch=2m --html"), "<meta http-equiv=\"refresh\" content=\"120\">"));
}

/* ---- Watching ----------------------------------------------------------------------------------
 */

/* Read from FD until PATTERN was there TIMES times. */
static char *read_until(int fd, const char *pattern, int times)
{
    static char text[1 << 20];
    size_t length = 0;
    int64_t deadline = now_ms() + PATIENCE_MS;
    for (;;) {
        int n = 0;
        text[length] = '\0';
        for (const char *p = text; (p = strstr(p, pattern)); p++)
            n++;
        if (n >= times)
            return text;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        must_say(now_ms() < deadline && length + 1 < sizeof(text), "waited for %s in: %s", pattern,
                 text);
        if (poll(&p, 1, 100) <= 0)
            continue;
        ssize_t got = read(fd, text + length, sizeof(text) - 1 - length);
        must_say(got > 0, "it ended, saying: %s", text);
        length += (size_t)got;
    }
}

/* Start `hangupd status --watch 0.1 OPTION` with OUT as its terminal, or standard output. */
static pid_t watch_start(int out, bool terminal, const char *option)
{
    char state[PATH_MAX];
    snprintf(state, sizeof(state), "%s", at("state"));
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        if (terminal && (setsid() < 0 || ioctl(out, TIOCSCTTY, 0) < 0 || dup2(out, 0) < 0))
            _exit(125);
        if (dup2(out, 1) < 0)
            _exit(125);
        execl(the_hangupd(), "hangupd", "status", "--state", state, "--watch", "0.1", option,
              (char *)NULL);
        _exit(127);
    }
    return pid;
}

TEST(watch_into_a_pipe)
{
    struct server *s = things("%s", "");
    int ends[2], status;
    must(pipe2(ends, O_CLOEXEC) == 0);
    pid_t pid = watch_start(ends[1], false, "--json");
    close(ends[1]);
    char *text = read_until(ends[0], "}\n", 3);
    must(!strstr(text, "\033") && text[0] == '{');
    *strstr(text, "\n") = '\0';
    must(strcmp(of_json(text, "s['in_flight']"), "0") == 0);
    kill(pid, SIGINT);
    must(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    server_stop(s);
}

TEST(watch_on_a_terminal)
{
    enum { MANY = 12, WIDTH = 70, HEIGHT = 10 };
    struct server *s = things("%s", "");
    int c[MANY], status;
    for (int i = 0; i < MANY; i++)
        c[i] = get(s, "/make?path=%s&seconds=60", at("file%d", i));
    wait_for("len([x for x in r if x['records'] == 1])", "12");
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    must(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct winsize size = {.ws_row = HEIGHT, .ws_col = WIDTH};
    must(slave >= 0 && ioctl(slave, TIOCSWINSZ, &size) == 0);
    pid_t pid = watch_start(slave, true, NULL);
    char *text = strstr(read_until(master, "\033[J", 3), "\033[J") + 3;
    char *end = strstr(text, "\033[J");
    must_say(strncmp(text, "\033[H", 3) == 0, "%s", text);
    *end = '\0';
    unsigned lines = 0;
    for (char *line = text + 3, *next; (next = strstr(line, "\033[K\r\n")); line = next + 5) {
        must_say(next - line <= WIDTH, "%.*s", (int)(next - line), line);
        lines++;
    }
    must_say(lines == HEIGHT - 1 && strstr(text, "\n...\033[K"), "%u: %s", lines, text);
    must_say(strstr(text, "12 of ") && strstr(text, "\n-1 "), "%s", text);
    must(write(master, "\003", 1) == 1); /* Ctrl-C */
    must(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (int i = 0; i < MANY; i++)
        close_fin(c[i]);
    wait_for("r", "[]");
    server_stop(s);
}
