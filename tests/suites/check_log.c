/* check_log.c: what the log says, in text, JSON and syslog. */
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

SUITE();

/* ---- The log ------------------------------------------------------------------------------- */

THEME("log");

TEST(outcomes_in_text)
{
    struct server *s = things("--grace 0.2 --drain 0.2");
    must(hear_answer(get(s, "/make?path=%s", at("ok")), false).status == 200);
    log_wait(s, "\" 200 5 ");
    log_wait(s, "ms ok undo=none");
    must(hear_answer(get(s, "/status?code=418&path=%s", at("e")), false).status == 418);
    log_wait(s, "\" 418 9 ");
    log_wait(s, "ms error undo=ok");
    must(hear_answer(get(s, "/nowhere"), false).status == 404);
    log_wait(s, "\"GET /nowhere HTTP/1.1\" 404 ");
    log_wait(s, "ms error undo=none");
    int c = get(s, "/make?path=%s&seconds=60", at("h"));
    wait_made(s, at("h"));
    close_fin(c);
    log_wait(s, "\" - 0 ");
    log_wait(s, "ms hangup undo=ok");
    struct heard slow = hear_answer(get(s, "/brief?path=%s&seconds=60", at("t")), false);
    log_wait(s, "\" 504 %s ", field(slow, "Content-Length"));
    log_wait(s, "ms timeout undo=ok");
    struct heard crashed = hear_answer(get(s, "/crash?path=%s", at("c")), false);
    log_wait(s, "\" 500 %s ", field(crashed, "Content-Length"));
    log_wait(s, "ms crash undo=ok");
    c = get(s, "/make?path=%s&seconds=60", at("k"));
    kill(wait_made(s, at("k")), SIGKILL);
    log_wait(s, "ms killed undo=ok");
    close(c);
    (void)get(s, "/make?path=%s&seconds=60", at("d"));
    wait_made(s, at("d"));
    server_stop(s);
    log_wait(s, "ms drain undo=ok");
    static const char *const outcomes[] = {"ok", "hangup", "timeout", "crash", "killed", "drain"};
    for (unsigned i = 0; i < 6; i++) {
        char text[32];
        snprintf(text, sizeof(text), "ms %s undo=", outcomes[i]);
        must_say(log_count(s, text) == 1, "%s", outcomes[i]);
    }
    must(log_count(s, "ms error undo=") == 2);
}

#define REQUEST(head) head "Host: test\r\n\r\n"

/* Each way to be refused, and the end of the log's line. */
static const struct {
    const char *request;
    int status;
    const char *reason;
} refusals[] = {
    {"GET /a HTTP/1.1\r\n\r\n", 400, "the Host is missing"},
    {REQUEST("GET /a%zz HTTP/1.1\r\n"), 400,
     "a '%' in the request target is not followed by two hexadecimal digits"},
    {REQUEST("GET /nowhere HTTP/1.1\r\n"), 404, "no route serves this path"},
    {REQUEST("GET /cgi/none HTTP/1.1\r\n"), 404, "no program serves this path"},
    {REQUEST("DELETE /a HTTP/1.1\r\n"), 405, "the method is not allowed here"},
    {"GET /a HTTP/1.1\r\nHost:", 408, "the header did not arrive in time"},
    {REQUEST("POST /cgi/none HTTP/1.1\r\nContent-Length: 5\r\n"), 408,
     "the body did not arrive in time"},
    {REQUEST("POST /cgi/none HTTP/1.1\r\nContent-Length: 11\r\n"), 413, "the body is too large"},
    {REQUEST("POST /cgi/none HTTP/1.1\r\nTransfer-Encoding: chunked\r\n") "b\r\n01234567890\r\n",
     413, "the body is too large"},
    {REQUEST("POST /cgi/none HTTP/1.1\r\nTransfer-Encoding: chunked\r\n") "x\r\n", 400,
     "a chunk's size is not a hexadecimal number"},
    {REQUEST("GET /012345678901234567890 HTTP/1.1\r\n"), 414, "the request target is too long"},
    {REQUEST("GET /a HTTP/1.1\r\nExpect: wonders\r\n"), 417,
     "the only expectation that can be met is 100-continue"},
    {REQUEST(
         "GET /a HTTP/1.1\r\nX: 0123456789012345678901234567890123456789012345678901234567890123"
         "45678901234567890123456789012345678901234567890123456789\r\n"),
     431, "the header is too large"},
    {REQUEST("BREW /a HTTP/1.1\r\n"), 501, "the method is not implemented"},
    {REQUEST("GET /a HTTP/2.0\r\n"), 505, "only HTTP/1.1 and HTTP/1.0 are spoken here"},
};

TEST_TIMES(refusal_has_its_reason, 2)
{
    must(mkdir(at("cgi"), 0755) == 0);
    struct server *s = hangupd("--log %s --max-target 20 --max-header 100 --max-body 10 "
                               "--header-timeout 0.2 --body-timeout 0.2 /a=@a /cgi/=%s",
                               _i == 0 ? "text" : "json", at("cgi"));
    for (unsigned i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        log_mark(s);
        int c = dial(s);
        say(c, "%s", refusals[i].request);
        int status = hear(c).status;
        must_say(status == refusals[i].status, "%d is not %d: %s", status, refusals[i].status,
                 refusals[i].reason);
        const char *line =
            _i == 0 ? log_wait(s, "\" %d ", status) : log_wait(s, "\"status\":%d,", status);
        char end[256];
        snprintf(end, sizeof(end),
                 _i == 0 ? "ms error undo=none reason=\"%s\""
                         : "\"outcome\":\"error\",\"undo\":\"none\",\"reason\":\"%s\"}",
                 refusals[i].reason);
        must_say(strstr(line, end) != NULL, "%s without %s", line, end);
        close(c);
    }
    log_mark(s);
    int c = dial(s);
    say(c, "GET /a HTTP/1.1\r\nHost: t");
    close_fin(c);
    log_wait(s, _i == 0
                    ? "ms hangup undo=none reason=\"the request ended before it was complete\"\n"
                    : "\"reason\":\"the request ended before it was complete\"}\n");
    server_stop(s);
}

/* Nobody has read these requests, and yet the line has what was asked for. */
TEST(queued_request_is_refused_with_its_path)
{
    struct server *s = things("--requests 1 --queue-timeout 0.2 --drain 0.1");
    int busy = get(s, "/make?path=%s&seconds=60", at("file")), waits;
    wait_made(s, at("file"));
    must(hear_answer(get(s, "/make?path=%s", at("other")), false).status == 503);
    const char *line = log_wait(s, "\" 503 ");
    char part[PATH_MAX];
    snprintf(part, sizeof(part), " \"GET /make?path=%s HTTP/1.1\" 503 ", at("other"));
    must_say(strstr(line, part), "%s", line);
    must_say(
        strstr(line,
               "ms error undo=none reason=\"too many requests; this one waited too long in the "
               "queue\""),
        "%s", line);
    waits = dial(s);
    say(waits, "\r\nPUT /%%0a\x1b[2J HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_seen(s);
    log_mark(s);
    kill(s->pid, SIGTERM);
    must(hear(waits).status == 503);
    line = log_wait(s, " \"PUT /");
    must_say(strstr(line, " \"PUT /%0a\\x1b[2J HTTP/1.1\" 503 ") &&
                 strstr(line, "ms drain undo=none reason=\"the server is stopping\""),
             "%s", line);
    close(busy);
    must(server_wait(s) == 0);
}

TEST(request_in_a_routes_line_is_refused_with_its_path)
{
    struct server *s = hangupd("/a=@a,max=1 --queue-timeout 0.2");
    int busy = get(s, "/a?seconds=60");
    log_wait(s, "new file");
    must(hear_answer(get(s, "/a?second"), false).status == 503);
    const char *line = log_wait(s, "\"GET /a?second HTTP/1.1\" 503 ");
    must_say(
        strstr(
            line,
            " reason=\"too many requests for this path; this one waited too long for its turn\""),
        "%s", line);
    close(busy);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}

/* Check every line of the log with a Python expression that is given the line as L. */
static void check_lines(const struct server *s, const char *expression)
{
    char script[4096];
    snprintf(script, sizeof(script),
             "import json, re, sys\n"
             "lines = sys.stdin.read().splitlines()\n"
             "assert lines\n"
             "for L in lines:\n"
             "    assert %s, L\n",
             expression);
    const char *argv[] = {"python3", "-c", script, NULL};
    struct output o = run_argv(argv, s->text, true);
    must_say(o.status == 0, "%s", o.text);
}

static void make_trouble(struct server *s)
{
    static const char *const requests[] = {
        "GET /who?\"\\\x1b[31m\x7f\x80\xff HTTP/1.1\r\nHost: test\r\n\r\n",
        REQUEST(
            "GET /logs?text=%0a2026-01-01T00:00:00.000Z%20forged%0d%1b%22%5c%c3%a9 HTTP/1.1\r\n"),
        "GET /logs?text=%0d%0a{\"time\":\"forged\"} HTTP/1.1\r\nHost: test\r\n\r\n",
        "\n\n\x01\x02\n\nforged\n\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\r\n\r\nGET /who HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    };
    for (unsigned i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        int c = dial(s);
        say(c, "%s", requests[i]);
        shutdown(c, SHUT_WR);
        hear(c);
        close(c);
    }
    must(hear_answer(get(s, "/make?path=%s", at("ok")), false).status == 200);
    hear_answer(get(s, "/crash?path=%s", at("crash")), false);
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    close_fin(c);
    wait_gone(at("file"));
}

TEST(text_lines_cannot_be_forged)
{
    struct server *s = things("%s", "");
    make_trouble(s);
    log_wait(s, "\"GET /who?\\\"\\\\\\x1b[31m\\x7f\\x80\\xff HTTP/1.1\" ");
    server_stop(s);
    log_has(s, "%s", "");
    check_lines(s, "re.match(r'20\\d\\d-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d\\d\\dZ "
                   "(-|[0-9a-f]{16}-[0-9a-f]+) [ -~\u00e9]+$', L)");
    must(log_has(s, "forged\\x0d\\x1b\"\\\xc3\xa9\n"));
    check_lines(s, "' undo=' not in L or re.match(r'\\S+ \\S+ 127\\.0\\.0\\.1:\\d+ "
                   "\"([^\"\\\\]|\\\\[\"\\\\]|\\\\x[0-9a-f]{2})*\" (\\d\\d\\d|-) \\d+ \\d+ms "
                   "(ok|error|hangup|timeout|crash|drain|killed) "
                   "undo=(none|(ok|failed) undone=\\d+)"
                   "( reason=\"([^\"\\\\]|\\\\[\"\\\\])*\")?$', L)");
}

TEST(json_lines_can_be_parsed)
{
    struct server *s = things("--log json");
    make_trouble(s);
    log_wait(s, "\"outcome\":\"hangup\",\"undo\":\"ok\"");
    server_stop(s);
    log_has(s, "%s", "");
    check_lines(s, "json.loads(L)['time'][10] == 'T' and 'id' in json.loads(L)");
    check_lines(s, "'event' in json.loads(L) or set(json.loads(L)) - {'reason', 'undone'} == "
                   "{'time','id','client','request','status','bytes','ms','outcome','undo'}");
    check_lines(s, "json.loads(L).get('request', '') is None or "
                   "isinstance(json.loads(L).get('request', ''), str)");
    check_lines(s, "json.loads(L)['time'] != 'forged' and L.isprintable()");
}

TEST_TIMES(beginning_is_told_if_that_is_wanted, 3)
{
    static const char *const options[] = {"--log-begin", "--log-begin --log json", ""};
    struct server *s = things("%s", options[_i]);
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    char begun[PATH_MAX];
    snprintf(begun, sizeof(begun),
             _i == 1 ? "\"request\":\"GET /make?path=%s&seconds=60 HTTP/1.1\",\"event\":\"begun\"}"
                     : " begun: 127.0.0.1:%.0s",
             at("file"));
    must(log_has(s, "%s", begun) == (_i < 2));
    snprintf(begun, sizeof(begun), " \"GET /make?path=%s&seconds=60 HTTP/1.1\"\n", at("file"));
    must(log_has(s, "%s", begun) == (_i == 0));
    close_fin(c);
    log_wait(s, _i == 1 ? "\"hangup\"" : " hangup undo=ok");
    server_stop(s);
}

/* Of five records three did something: a file and a tree were there, a command ran. */
#define FIVE                                                                                       \
    "#!/bin/sh\nmkdir tree && touch file tree/a tree/b\n"                                          \
    "for r in \"unlink $PWD/file\" \"unlink $PWD/none\" \"rmtree $PWD/tree\" \"rmtree $PWD/no\" "  \
    "'run :'; do echo \"$r\" >&3; done\n"

TEST_TIMES(undone_things_are_counted_and_named, 3)
{
    static const char *const options[] = {"--log-undone", "--log-undone --log json", ""};
    file_write(at("program"), FIVE "printf 'Status: 404\\nContent-Type: text/plain\\n\\n'\n");
    must(chmod(at("program"), 0755) == 0);
    struct server *s = hangupd("%s /p=%s", options[_i], at("program"));
    must(hear_answer(get(s, "/p"), false).status == 404);
    log_wait(s, _i == 1 ? "\"undo\":\"ok\",\"undone\":3}" : " error undo=ok undone=3\n");
    must(!exists(at("file")) && !exists(at("tree")));
    must(log_count(s, "undone: ") == (_i < 2 ? 3 : 0));
    must(_i == 2 || (log_has(s, "undone: removed %s", at("file")) &&
                     log_has(s, "undone: removed %s", at("tree")) && log_has(s, "undone: ran :")));
    server_stop(s);
}

/* Server and child are dead: by whom, and how, what they left is told of. */
static const struct {
    const char *program, *text, *json;
} settlings[] = {
    {"printf 'unlink %s\\n' \"$PWD/file\" >&3", " left by a dead server: undone: 127.0.0.1:",
     "\"event\":\"left by a dead server: undone\",\"undone\":1}"},
    {"printf 'unlink %s\\nrun :\\n' \"$PWD/file\" >&3",
     " undone at last: 127.0.0.1:", "\"event\":\"undone at last\",\"undone\":2}"},
};

TEST_TIMES(crash_is_told_with_whose_it_was, 8)
{
    bool json = (_i & 1) != 0, recovers = (_i & 2) != 0;
    unsigned which = (unsigned)_i >> 2;
    char text[PATH_MAX];
    snprintf(text, sizeof(text), "#!/bin/sh\ntouch file\n%s\necho ready >&2; sleep 1000\n",
             settlings[which].program);
    file_write(at("program"), text);
    must(chmod(at("program"), 0755) == 0);
    struct server *s = hangupd("/p=%s", at("program"));
    int c = get(s, "/p?of=whom");
    char id[64];
    must(sscanf(log_wait(s, " ready"), "%*s %63s", id) == 1);
    pid_t child = only_child(s->pid);
    kill(s->pid, SIGSTOP);
    kill(child, SIGKILL);
    server_kill(s, SIGKILL);
    close(c);
    const char *said;
    if (recovers) {
        struct output o =
            run("%s recover --state %s %s", the_hangupd(), at("state"), json ? "--log json" : "");
        must_say(o.status == 0, "%s", o.text);
        said = o.text;
    } else {
        s = hangupd("%s /p=%s", json ? "--log json" : "", at("program"));
        said = log_wait(s, "%s", json ? settlings[which].json : settlings[which].text);
    }
    must_say(strstr(said, id) && strstr(said, "127.0.0.1:") &&
                 strstr(said, "GET /p?of=whom HTTP/1.1"),
             "%s", said);
    snprintf(text, sizeof(text), json ? "\"undone\":%u}" : " undone=%u", which + 1);
    must_say(strstr(said, text) && !exists(at("file")), "%s", said);
    if (!recovers)
        server_stop(s);
    nothing_left();
}

/* What a program says, for its caller or in an undo command, looks like no line of the server's. */
#define FORGED                                                                                     \
    "127.0.0.1:9 \"GET /forged HTTP/1.1\" 200 5 9ms ok undo=none\n"                                \
    "UNDO FAILED for good: run forged: exit status 1; when that is mended: hangupd recover 1\n"    \
    "\r\033[2Jforged\n\302\205forged\n\342\200\250forged\nforged \303\274 \377\n"

TEST_TIMES(program_cannot_speak_for_the_server, 2)
{
    file_write(at("forged"), FORGED);
    file_write(at("program"), "#!/bin/sh\n"
                              "\"$HANGUPD\" undo run cat \"$PWD/forged\"\n"
                              "cat forged >&2\n"
                              "printf 'Content-Type: text/plain\\n\\n'; exit 1\n");
    must(chmod(at("program"), 0755) == 0);
    struct server *s = hangupd("--log %s /p=%s", _i == 0 ? "text" : "json", at("program"));
    must(hear_answer(get(s, "/p"), false).status == 502);
    log_wait(s, _i == 0 ? " error undo=ok" : "\"error\",\"undo\":\"ok\"");
    server_stop(s);
    log_has(s, "%s", "");
    if (_i == 0) {
        check_lines(
            s, "'forged' not in L or "
               "re.match(r'\\S+ [0-9a-f]{16}-1 (stderr|undo): [^\\x00-\\x1f\\x7f-\\x9f]*$', L) or "
               "re.match(r'\\S+ [0-9a-f]{16}-1 could not undo', L)");
        must(log_count(s, "-1 stderr: ") == 6 && log_count(s, "-1 undo: ") == 6);
        must(log_count(s, "stderr: \\x0d\\x1b[2Jforged\n") == 1);
        must(log_count(s, "undo: forged \xc3\xbc \\xff\n") == 1);
    } else {
        check_lines(s, "'forged' not in L or json.loads(L)['stream'] in ('stderr', 'undo')");
        check_lines(s, "'stream' not in json.loads(L) or set(json.loads(L)) == "
                       "{'time','id','stream','event'}");
        must(log_count(s, "\"stream\":\"stderr\"") == 6 &&
             log_count(s, "\"stream\":\"undo\"") == 6);
        must(log_count(s, "\"event\":\"forged \xc3\xbc \\\\xff\"}") == 2);
    }
}

TEST(log_that_nobody_reads_holds_up_nobody)
{
    struct server *s = things("%s", "");
    fcntl(s->log, F_SETPIPE_SZ, 4096);
    for (unsigned i = 0; i < 150; i++)
        must(hear_answer(get(s, "/who?0123456789012345678901234567890123456789"), false).status ==
             200);
    /* A child's line, too. */
    must(hear_answer(get(s, "/logs?text=0123456789"), false).status == 200);
    struct output o = run("%s status --json --state %s", the_hangupd(), at("state"));
    const char *told = strstr(o.text, "\"log_lines_lost\":");
    unsigned lost = 0;
    must_say(told && sscanf(told, "\"log_lines_lost\":%u", &lost) == 1 && lost > 0, "%s", o.text);
    log_has(s, "%s", ""); /* reads it, which makes room */
    hear_answer(get(s, "/who"), false);
    log_wait(s, " log lines were lost");
    server_stop(s);
    unsigned lines = log_count(s, "\"GET /who"), all = 0;
    for (const char *at_ = s->text; (at_ = strstr(at_, " log lines were lost")) != NULL; at_++) {
        const char *number = at_;
        while (number[-1] >= '0' && number[-1] <= '9')
            number--;
        all += (unsigned)atoi(number);
    }
    /* What is lost after that line may be told of no more. */
    must_say(lines < 150 && all >= 100 && lines + all <= 153, "%u lines, %u lost", lines, all);
}

/* A /dev of this test's own, with a socket for the syslog in it; -1: not allowed here. */
static int private_syslog(void)
{
    static const char *const devices[] = {"null", "zero", "random", "urandom", "full", "tty"};
    if (!private_mounts() || !mount_small(at("dev"), "1m") || chmod(at("dev"), 0755) < 0)
        return -1;
    for (unsigned i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
        char device[32];
        snprintf(device, sizeof(device), "/dev/%s", devices[i]);
        file_write(at("dev/%s", devices[i]), "");
        if (mount(device, at("dev/%s", devices[i]), "none", MS_BIND, NULL) < 0)
            return -1;
    }
    if (mount(at("dev"), "/dev", "none", MS_BIND | MS_REC, NULL) < 0)
        return -1;
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    must(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
         chmod("/dev/log", 0666) == 0 &&
         setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0);
    return fd;
}

/* Wait for a message with TEXT. */
static void syslog_wait(int fd, const char *text)
{
    char message[8192];
    int64_t deadline = now_ms() + PATIENCE_MS;
    for (;;) {
        ssize_t n = recv(fd, message, sizeof(message) - 1, 0);
        must_say(n > 0 && now_ms() < deadline, "no message with: %s", text);
        message[n] = '\0';
        must_say(message[0] == '<' && strstr(message, "hangupd"), "%s", message);
        if (strstr(message, text))
            return;
    }
}

TEST_TIMES(log_to_syslog, 2)
{
    int syslog = private_syslog();
    if (syslog < 0) {
        test_skipped("log_to_syslog", "mounting is not allowed here");
        return;
    }
    if (_i == 0) {
        struct server *s =
            server_spawn(the_hangupd(), "--log-to syslog --listen unix:sock", -1, false, -1);
        syslog_wait(syslog, "listening on unix:");
        struct output o = run("curl -sS --unix-socket sock http://x/a?seconds=0");
        must_say(o.status == 0, "%s", o.text);
        syslog_wait(syslog, "new file ");
        syslog_wait(syslog, " ok undo=none");
        must(unlink(at("tmp/txt")) == 0);
        server_stop(s);
        must_say(s->length == 0, "on stderr: %s", s->text);
        return;
    }
    /* inetd's log goes there by itself. */
    int c;
    struct server *s = serve_connection(false, &c, "--inetd");
    say(c, "GET /make?path=%s&seconds=60 HTTP/1.1\r\nHost: test\r\n\r\n", at("file"));
    syslog_wait(syslog, "made ");
    close_fin(c);
    syslog_wait(syslog, " hangup undo=ok");
    must(server_wait(s) == 0);
}
