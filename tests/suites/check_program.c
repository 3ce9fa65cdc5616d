/* check_program.c: programs as handlers, by CGI/1.1 (RFC 3875), as their callers and they
 * themselves see it: what they are told, how they answer, how they fail, and that nothing of them
 * is left. The programs are real ones, mostly shell scripts that a test writes. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

SUITE();

/* A shell script cgi/NAME of the text BODY: its path. It runs in cgi/, below the test's directory.
 */
static const char *script(const char *name, const char *body)
{
    static char text[8192];
    mkdir(at("cgi"), 0755);
    const char *path = at("cgi/%s", name);
    snprintf(text, sizeof text, "#!/bin/sh\n%s", body);
    file_write(path, text);
    must(chmod(path, 0755) == 0);
    return path;
}

#define HEAD "printf 'Content-Type: text/plain\\n\\n'\n"
/* Until the test opens it, with say_go. */
#define AWAIT_GO "read word <../go\n"

static struct server *serve(const char *body)
{
    script("program", body);
    must(mkfifo(at("go"), 0600) == 0 || errno == EEXIST);
    return hangupd("/p/=%s /cgi/=%s --grace 5", at("cgi/program"), at("cgi"));
}

static void say_go(void)
{
    int fd = open(at("go"), O_WRONLY | O_CLOEXEC);
    must(fd >= 0 && write(fd, "go\n", 3) == 3);
    close(fd);
}

static pid_t pid_in(const char *path)
{
    wait_until(*file_read(path) != '\0' && strchr(file_read(path), '\n') != NULL);
    return (pid_t)atoi(file_read(path));
}

/* ---- What a program is told ---------------------------------------------------------------- */

THEME("what it is told");

static char *variable(const char *text, const char *name)
{
    static char value[4096];
    char line[128];
    snprintf(line, sizeof line, "\n%s=", name);
    const char *found = strstr(text, line);
    if (found == NULL)
        return NULL;
    found += strlen(line);
    snprintf(value, sizeof value, "%.*s", (int)strcspn(found, "\n"), found);
    return value;
}

static void must_have(const char *text, const char *name, const char *expected)
{
    const char *value = variable(text, name);
    must_say(value != NULL && strcmp(value, expected) == 0, "%s is %s, not %s in:\n%s", name,
             value != NULL ? value : "not there", expected, text);
}

static void must_lack(const char *text, const char *name)
{
    must_say(variable(text, name) == NULL, "%s is there: %s", name, text);
}

static struct heard asked(struct server *s, const char *request)
{
    int c = dial(s);
    say(c, "%s", request);
    bool till_the_end = strstr(request, "HTTP/1.0") != NULL;
    struct heard h = till_the_end ? hear(c) : hear_answer(c, false);
    must_say(h.status == 200, "%s", h.text);
    return h;
}

TEST(variables_of_a_request)
{
    struct server *s = serve(HEAD "echo; env");
    char port[16];
    snprintf(port, sizeof port, "%u", s->port);
    const char *t = asked(s, "POST /p/a%20b/%c3%a4?x=%20y&z HTTP/1.1\r\nHost: example.org:81\r\n"
                             "Content-Type: text/x-odd\r\nX-One: 1\r\nx-one: 2\r\nCookie: a=1\r\n"
                             "Cookie: b=2\r\nProxy: evil\r\nX_Two: 3\r\nAuthorization: Basic x\r\n"
                             "Connection: close\r\nTE: trailers\r\nContent-Length: 3\r\n\r\nabc")
                        .text;
    must_have(t, "GATEWAY_INTERFACE", "CGI/1.1");
    must_have(t, "REQUEST_METHOD", "POST");
    must_have(t, "SCRIPT_NAME", "/p");
    must_have(t, "PATH_INFO", "/a b/\xc3\xa4");
    must_have(t, "QUERY_STRING", "x=%20y&z");
    must_have(t, "REQUEST_URI", "/p/a%20b/%c3%a4?x=%20y&z");
    must_have(t, "SCRIPT_FILENAME", at("cgi/program"));
    must_have(t, "CONTENT_LENGTH", "3");
    must_have(t, "CONTENT_TYPE", "text/x-odd");
    must_have(t, "SERVER_NAME", "example.org");
    must_have(t, "SERVER_PORT", port);
    must_have(t, "SERVER_ADDR", "127.0.0.1");
    must_have(t, "SERVER_PROTOCOL", "HTTP/1.1");
    must_have(t, "REMOTE_ADDR", "127.0.0.1");
    must_have(t, "HTTP_HOST", "example.org:81");
    must_have(t, "HTTP_X_ONE", "1, 2");
    must_have(t, "HTTP_COOKIE", "a=1; b=2");
    must_have(t, "HTTP_AUTHORIZATION", "Basic x");
    must_have(t, "UNDO_FD", "3");
    must_have(t, "REDIRECT_STATUS", "200");
    must_have(t, "HANGUPD", the_binary());
    must(strncmp(variable(t, "SERVER_SOFTWARE"), "hangupd/", 8) == 0);
    must(strlen(variable(t, "REMOTE_PORT")) > 0);
    must(strlen(variable(t, "REQUEST_ID")) > 16);
    must(strstr(variable(t, "TMPDIR"), at("tmp/hangupd-")) == variable(t, "TMPDIR"));
    static const char *const absent[] = {"HTTP_PROXY", "HTTP_X_TWO",          "HTTP_CONNECTION",
                                         "HTTP_TE",    "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE",
                                         "AUTH_TYPE",  "PATH_TRANSLATED",     "REMOTE_USER"};
    for (size_t i = 0; i < COUNT(absent); i++)
        must_lack(t, absent[i]);
    server_stop(s);
}

TEST(variables_of_a_plain_get)
{
    struct server *s = serve(HEAD "echo; env");
    const char *t = asked(s, "GET /cgi/program HTTP/1.0\r\n\r\n").text;
    must_have(t, "REQUEST_METHOD", "GET");
    must_have(t, "SCRIPT_NAME", "/cgi/program");
    must_have(t, "QUERY_STRING", "");
    must_have(t, "SERVER_PROTOCOL", "HTTP/1.0");
    must_have(t, "SERVER_NAME", "127.0.0.1");
    static const char *const absent[] = {"PATH_INFO", "CONTENT_LENGTH", "CONTENT_TYPE",
                                         "HTTP_HOST"};
    for (size_t i = 0; i < COUNT(absent); i++)
        must_lack(t, absent[i]);
    t = asked(s, "POST /cgi/program/ HTTP/1.1\r\nHost: [::1]:8080\r\nContent-Length: 0\r\n\r\n")
            .text;
    must_have(t, "PATH_INFO", "/");
    must_have(t, "CONTENT_LENGTH", "0");
    must_have(t, "SERVER_NAME", "[::1]");
    t = asked(s, "GET /cgi/program HTTP/1.2\r\nHost: h\r\n\r\n").text;
    must_have(t, "SERVER_PROTOCOL", "HTTP/1.2");
    server_stop(s);
}

/* Of 64 bits on the command line, also where a pointer has 32. */
TEST(head_may_be_as_large_as_was_said)
{
    script("program", HEAD "echo; env");
    struct server *s = hangupd("--max-header 64k --max-target 8k --max-body 4G --memory 4G /p=%s",
                               at("cgi/program"));
    must_have(asked(s, "GET /p HTTP/1.1\r\nHost: h\r\n\r\n").text, "SCRIPT_NAME", "/p");
    server_stop(s);
}

/* A shell would hide that. */
TEST(variables_are_there_once)
{
    struct server *s =
        serve(HEAD "echo; tr '\\0' '\\n' </proc/$$/environ | cut -d= -f1 | sort >../names;"
                   "uniq -d ../names");
    const char *t =
        asked(s, "GET /p/ HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nx-one: 2\r\nX-ONE: 3\r\n\r\n").text;
    must_say(strstr(t, "HTTP_X_ONE") == NULL, "%s", t);
    must_say(strstr(file_read(at("names")), "HTTP_X_ONE\n") != NULL, "%s", t);
    server_stop(s);
}

/* More than the page in which short ones are kept has room for. */
TEST(variables_of_a_large_head)
{
    static char request[40000];
    struct server *s = serve(HEAD "echo; env | sed -n 's/^HTTP_X_\\(.\\)=\\(.*\\)$/\\1 \\2/p' | "
                                  "awk '{print length($2), $1 == substr($2, 1, 1)}' | sort -u");
    size_t n = (size_t)sprintf(request, "GET /p/ HTTP/1.1\r\nHost: h\r\n");
    for (int c = 'A'; c < 'A' + 15; c++) {
        n += (size_t)sprintf(request + n, "X-%c: ", c);
        memset(request + n, c, 2000);
        n += 2000;
        n += (size_t)sprintf(request + n, "\r\n");
    }
    strcpy(request + n, "\r\n");
    const char *t = asked(s, request).text;
    must_say(strstr(t, "\n2000 1\n") != NULL && strstr(t, " 0\n") == NULL, "%s", t);
    server_stop(s);
}

/* Of what the server was started with a program gets what is named, but never what would pass for
 * the request's own. */
static const struct passed_case {
    const char *options, *has, *lacks; /* names with spaces between them */
} passed[] = {
    {"", "PATH HOME LANG LC_ODD https_proxy NO_PROXY", "GREETING GREAT SECRET HTTP_X OLDPWD"},
    {"--pass-env GREETING", "PATH HOME GREETING", "GREAT SECRET"},
    {"--pass-env SECRET,GRE*", "PATH HOME GREETING GREAT SECRET", "HTTP_PROXY"},
    {"--pass-env GREETING --pass-env GREAT", "GREETING GREAT HOME", "SECRET"},
    {"--pass-env SECRET --pass-env QUOTES --pass-env GREAT", "GREAT", "HOME GREETING SECRET LANG"},
    {"--pass-env *", "GREETING SECRET HOME", "HTTP_PROXY HTTP_X OLDPWD PATH_INFO REMOTE_USER"},
};

static void must_have_all(const char *text, const char *names, bool wanted)
{
    char copy[256], *save = NULL;
    snprintf(copy, sizeof copy, "%s", names);
    for (char *name = strtok_r(copy, " ", &save); name; name = strtok_r(NULL, " ", &save))
        must_say((variable(text, name) != NULL) == wanted, "%s in %s", name, text);
}

TEST_EACH(variables_that_are_passed_on, passed)
{
    static const char *const names[] = {"HTTP_PROXY", "HTTP_X",      "PATH_INFO", "GREETING",
                                        "GREAT",      "SECRET",      "LC_ODD",    "LANG",
                                        "NO_PROXY",   "https_proxy", "OLDPWD",    "REMOTE_USER"};
    for (size_t i = 0; i < COUNT(names); i++)
        must(setenv(names[i], "a b", 1) == 0);
    must(setenv("PWD", "/elsewhere", 1) == 0 && setenv("HOME", test_dir, 1) == 0);
    script("program", HEAD "echo; env >&2; tr '\\0' '\\n' </proc/$$/environ");
    char text[512];
    snprintf(text, sizeof text, "%s /cgi/=%s", passed[_i].options, at("cgi"));
    char *quotes = strstr(text, "QUOTES"); /* the harness splits at spaces, and drops nothing */
    struct server *s;
    if (quotes == NULL) {
        s = hangupd("%s", text);
    } else {
        file_write(at("start"), "#!/bin/sh\nfor w; do shift; [ \"$w\" = QUOTES ] && w=; "
                                "set -- \"$@\" \"$w\"; done; exec \"$HANGUPD\" \"$@\"\n");
        must(chmod(at("start"), 0755) == 0);
        s = server_start(at("start"), "%s", text);
    }
    log_wait(s, " variables of the environment are held back from programs");
    const char *t = asked(s, "GET /cgi/program HTTP/1.1\r\nHost: h\r\n\r\n").text;
    must_have_all(t, passed[_i].has, true);
    must_have_all(t, passed[_i].lacks, false);
    must_have(t, "PWD", at("cgi"));
    server_stop(s);
}

TEST(variables_of_a_route)
{
    must(setenv("HOME", "/elsewhere", 1) == 0 && setenv("GREETING", "no", 1) == 0);
    script("program", HEAD "echo; tr '\\0' '\\n' </proc/$$/environ");
    struct server *s =
        hangupd("/one=%s,env=HOME=/one,env=GREETING=a\\,b=c,max=2,env=REMOTE_USER=me "
                "/two=%s,env=EMPTY= --pass-env GREETING",
                at("cgi/program"), at("cgi/program"));
    const char *t = asked(s, "GET /one HTTP/1.1\r\nHost: h\r\n\r\n").text;
    must_have(t, "HOME", "/one");
    must_have(t, "GREETING", "a,b=c");
    must_have(t, "REMOTE_USER", "me");
    must_say(strstr(strstr(t, "\nHOME=") + 1, "\nHOME=") == NULL, "%s", t);
    t = asked(s, "GET /two HTTP/1.1\r\nHost: h\r\n\r\n").text;
    must_have(t, "HOME", "/elsewhere");
    must_have(t, "GREETING", "no");
    must_have(t, "EMPTY", "");
    must_lack(t, "REMOTE_USER");
    server_stop(s);
}

/* The user's home, not that of the root who has started the server. */
TEST(variables_of_a_user)
{
    if (only_for_root("variables_of_a_user"))
        return;
    const struct passwd *nobody = getpwnam("nobody");
    must(nobody != NULL && setenv("HOME", "/root", 1) == 0 && setenv("USER", "root", 1) == 0);
    must(setenv("LOGNAME", "root", 1) == 0);
    script("program", HEAD "echo; env");
    struct server *s = hangupd("--user nobody /p=%s", at("cgi/program"));
    const char *t = asked(s, "GET /p HTTP/1.1\r\nHost: h\r\n\r\n").text;
    must_have(t, "HOME", nobody->pw_dir);
    must_have(t, "USER", "nobody");
    must_have(t, "LOGNAME", "nobody");
    server_stop(s);
}

/* It deletes what is in the program's directory, and not what is in the server's. */
TEST(record_with_the_variable_pwd)
{
    struct server *s =
        serve("exec python3 - <<'END'\nimport os, time\n"
              "os.write(3, b'unlink %s/q3.csv\\n' % os.environb[b'PWD'])\n"
              "open('q3.csv', 'w'); os.write(2, b'ready\\n'); time.sleep(1000)\nEND\n");
    file_write(at("q3.csv"), "the operator's");
    int c = get(s, "/p/");
    log_wait(s, " ready");
    must(exists(at("cgi/q3.csv")));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(exists(at("q3.csv")) && !exists(at("cgi/q3.csv")));
    server_stop(s);
}

TEST(variables_on_a_unix_socket)
{
    script("program", HEAD "echo; env");
    struct server *s = hangupd("--listen unix:%s /p=%s", at("socket"), at("cgi/program"));
    int c = dial_unix(at("socket"));
    say(c, "GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    const char *t = hear_answer(c, false).text;
    must_have(t, "SCRIPT_NAME", "/p");
    must_have(t, "REMOTE_ADDR", "");
    must_have(t, "SERVER_PORT", "80");
    static const char *const ports[][2] = {{"h:8081", "8081"}, {"[::1]:81", "81"},
                                           {"[::1]", "80"},    {"h:", "80"},
                                           {"h:0", "80"},      {"h:65536", "80"}};
    for (size_t i = 0; i < COUNT(ports); i++) {
        say(c, "GET /p HTTP/1.1\r\nHost: %s\r\n\r\n", ports[i][0]);
        must_have(hear_answer(c, false).text, "SERVER_PORT", ports[i][1]);
    }
    close(c);
    server_stop(s);
}

/* What stands before us has gone by the target. */
TEST(variables_of_an_absolute_target)
{
    struct server *s = serve(HEAD "echo; env");
    const char *t = asked(s, "GET http://other:81/p/x?y HTTP/1.1\r\nHost: example.org\r\n"
                             "X-Host: h\r\n\r\n")
                        .text;
    must_have(t, "HTTP_HOST", "other:81");
    must_have(t, "SERVER_NAME", "other");
    must_have(t, "PATH_INFO", "/x");
    must_have(t, "HTTP_X_HOST", "h");
    t = asked(s, "GET HTTPS://[::1]/p/?y HTTP/1.0\r\nHost: example.org\r\n\r\n").text;
    must_have(t, "HTTP_HOST", "[::1]");
    must_have(t, "SERVER_NAME", "[::1]");
    server_stop(s);
}

/* Directory, descriptors, signals, group: as a program started by a shell would have them. */
TEST(surroundings)
{
    struct server *s =
        serve(HEAD "pwd; ls /proc/self/fd | tr '\\n' ' '; echo\n"
                   "sed -nE 's/^(Sig(Blk|Ign)):.*(.{7})$/\\1 \\3/p' /proc/self/status\n"
                   "ls -ld $TMPDIR | cut -c 1-10; ls -A $TMPDIR; touch $TMPDIR/rest\n"
                   "kill -s WINCH 0; cat /proc/$$/stat | cut -d ' ' -f 5; echo $$");
    struct output o = curl(s, "/p/");
    char expected[512];
    snprintf(expected, sizeof expected,
             "%s\n0 1 2 3 4 \nSigBlk 0000000\nSigIgn 0000000\ndrwx------\n", at("cgi"));
    must_say(o.status == 0 && strncmp(o.text, expected, strlen(expected)) == 0, "%s\n%s", o.text,
             expected);
    int group = 0, pid = -1;
    must(sscanf(o.text + strlen(expected), "%d\n%d", &group, &pid) == 2 && group == pid);
    log_wait(s, " ok undo=none");
    must(no_scratch());
    server_stop(s);
}

TEST(limit_of_descriptors)
{
    if (left_out_with_memcheck("limit_of_descriptors", "memcheck adds its own descriptors to it"))
        return;
    struct rlimit files;
    must(getrlimit(RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = 256; /* the server raises that for itself */
    must(setrlimit(RLIMIT_NOFILE, &files) == 0);
    struct server *s = serve(HEAD "ulimit -n");
    struct output o = curl(s, "/p/");
    must_say(o.status == 0 && strcmp(o.text, "256\n") == 0, "%s", o.text);
    server_stop(s);
}

/* ---- Its body ------------------------------------------------------------------------------ */

TEST(body_of_known_length)
{
    struct server *s = serve(HEAD "echo $CONTENT_LENGTH; cat");
    must(strcmp(curl(s, "-d hello /p/").text, "5\nhello") == 0);
    server_stop(s);
}

TEST(body_in_chunks)
{
    struct server *s = serve(HEAD "echo; echo L=$CONTENT_LENGTH; env | grep TRANSFER; cat");
    const char *t = asked(s, "POST /p/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
                             "Content-Encoding: gzip\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
                        .text;
    must_have(t, "L", "7");
    must_say(strstr(t, "TRANSFER") == NULL && strstr(t, "abcdefg") != NULL, "%s", t);
    server_stop(s);
}

TEST(body_that_is_large)
{
    struct server *s = serve(HEAD "sha256sum; echo $CONTENT_LENGTH >&2");
    must(run_argv((const char *const[]){"sh", "-c", "head -c 5000000 /dev/urandom >data", NULL},
                  NULL, true)
             .status == 0);
    struct output sum =
        run_argv((const char *const[]){"sh", "-c", "sha256sum <data", NULL}, NULL, true);
    must(strcmp(curl(s, "--data-binary @data /p/").text, sum.text) == 0);
    must(strcmp(curl(s, "-H Transfer-Encoding:chunked --data-binary @data /p/").text, sum.text) ==
         0);
    must(log_count(s, "5000000") == 2);
    server_stop(s);
}

/* The body goes to the disk, also where no file can be without a name. */
TEST(body_without_tmpfile)
{
    if (getenv("OTHER_LIBC") || !deny(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP)) {
        test_skipped("body_without_tmpfile", "no seccomp, or another call of another libc");
        return;
    }
    struct server *s = serve(HEAD "readlink /proc/self/fd/0; cat");
    struct output o = curl(s, "-H Transfer-Encoding:chunked -d abc /p/");
    must_say(strstr(o.text, at("tmp/hangupd-")) == o.text, "%s", o.text);
    must_say(strstr(o.text, "/body (deleted)\nabc") != NULL, "%s", o.text);
    log_wait(s, " ok undo=none");
    must(no_scratch());
    server_stop(s);
}

/* ...and what was made for it is undone, also if the body never comes whole. */
TEST(cut_body_without_tmpfile)
{
    if (!deny(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP)) {
        test_skipped("cut_body_without_tmpfile", "no seccomp");
        return;
    }
    struct server *s = serve(HEAD "cat");
    int c = dial(s);
    say(c, "POST /p/ HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab");
    wait_read(s, c);
    shutdown(c, SHUT_WR);
    struct heard h = hear(c);
    must_say(h.status == 400 && strcmp(field(h, "Connection"), "close") == 0, "%s", h.text);
    log_wait(s, " hangup undo=none");
    struct output o = run("%s status --json --state %s", the_hangupd(), at("state"));
    must_say(strstr(o.text, "\"undoing\":[]") != NULL, "%s", o.text);
    server_stop(s);
}

/* A program that does not read its body is not harmed by it. */
TEST(body_that_nobody_reads)
{
    struct server *s = serve(HEAD "echo well");
    file_write(at("data"), "x");
    must(truncate(at("data"), 3000000) == 0);
    must(strcmp(curl(s, "--data-binary @data /p/").text, "well\n") == 0);
    server_stop(s);
}

/* ---- Its answer ---------------------------------------------------------------------------- */

THEME("how it answers");

static const struct answer_case {
    const char *body, *request; /* NULL: GET of HTTP/1.1 */
    int status;
    const char *has, *lacks; /* in the whole answer; NULL: nothing */
    const char *says;        /* its body, in chunks if that is how it must come */
} answers[] = {
    {"printf 'Content-Type: text/x\\r\\nX-A: 1\\r\\n\\r\\nhello'", NULL, 200,
     "Content-Type: text/x\r\n", "Content-Length", "5\r\nhello\r\n0\r\n\r\n"},
    {"printf 'Content-Type: text/x\\nContent-Length: 5\\n\\nhello'", NULL, 200,
     "Content-Length: 5\r\n", "chunked", "hello"},
    {"printf 'content-type:text/x\\nSet-Cookie: a=1\\nSet-Cookie: b=2\\n\\n'", NULL, 200,
     "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n", NULL, "0\r\n\r\n"},
    {"printf 'Content-Type: text/x\\n\\nhello'", "GET /p/ HTTP/1.0\r\n\r\n", 200,
     "Connection: close\r\n", "chunked", "hello"},
    {"printf 'Status: 201\\nContent-Type: text/x\\n\\nhi'", NULL, 201, "HTTP/1.1 201 Created\r\n",
     NULL, "2\r\nhi\r\n0\r\n\r\n"},
    {"printf 'Status: 299 Well, well\\n\\nhi'", NULL, 299, "HTTP/1.1 299 Well, well\r\n",
     "Content-Type", "2\r\nhi\r\n0\r\n\r\n"},
    {"printf 'Status: 204 None\\n\\n'", NULL, 204, "204 None", "chunked", ""},
    {"printf 'Status: 404 Not Here\\nContent-Type: text/x\\n\\nhi'", NULL, 404, "404 Not Here",
     NULL, "2\r\nhi\r\n0\r\n\r\n"},
    {"printf 'Location: http://example.org/x\\n\\n'", NULL, 302,
     "Location: http://example.org/x\r\n", NULL, "0\r\n\r\n"},
    {"printf 'Location: //example.org/x\\n\\n'", NULL, 302, "Location: //example.org/x\r\n", NULL,
     "0\r\n\r\n"},
    {"printf 'Status: 303 See\\nLocation: /x\\nContent-Type: text/x\\n\\nhi'", NULL, 303,
     "Location: /x\r\n", NULL, "2\r\nhi\r\n0\r\n\r\n"},
    {"printf 'Content-Type: text/x\\nConnection: close\\nTransfer-Encoding: odd\\nDate: now\\n\\n'",
     NULL, 200, "Date: ", "odd", "0\r\n\r\n"},
    {"printf 'Content-Type: text/x\\nX-Empty:\\n\\nhi'", NULL, 200, "X-Empty: \r\n", NULL,
     "2\r\nhi\r\n0\r\n\r\n"},
};

TEST_EACH(answers_as_the_program_says, answers)
{
    const struct answer_case *a = &answers[_i];
    struct server *s = serve(a->body);
    int c = dial(s);
    say(c, "%s",
        a->request != NULL ? a->request
                           : "GET /p/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    struct heard h = hear(c);
    const char *body = strstr(h.text, "\r\n\r\n");
    must_say(h.status == a->status && !h.reset && body != NULL, "%s", h.text);
    must_say(a->has == NULL || strstr(h.text, a->has) != NULL, "%s", h.text);
    must_say(a->lacks == NULL || strstr(h.text, a->lacks) == NULL, "%s", h.text);
    must_say(strcmp(body + 4, a->says) == 0, "%s", h.text);
    server_stop(s);
}

TEST(answer_to_head)
{
    struct server *s = serve("printf 'Content-Type: text/x\\nContent-Length: 5\\n\\n'\n"
                             "echo $REQUEST_METHOD >&2; printf hello");
    struct output o = curl(s, "-I /p/");
    must_say(o.status == 0 && strstr(o.text, "200 OK") && strstr(o.text, "Content-Length: 5\r\n"),
             "%s", o.text);
    must(log_has(s, " HEAD"));
    log_wait(s, "\"HEAD /p/ HTTP/1.1\" 200 0 ");
    server_stop(s);
}

TEST(answer_of_all_bytes)
{
    struct server *s =
        serve("printf 'Content-Type: application/octet-stream\\n\\n'; cat ../all; cat ../all");
    char all[256];
    for (int i = 0; i < 256; i++)
        all[i] = (char)i;
    int fd = open(at("all"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    must(write(fd, all, sizeof all) == (ssize_t)sizeof all);
    close(fd);
    struct output o = curl(s, "/p/");
    must(o.length == 512 && memcmp(o.text, all, 256) == 0 && memcmp(o.text + 256, all, 256) == 0);
    server_stop(s);
}

/* What the program has written is with the client while the program goes on. */
TEST(answer_is_streamed)
{
    struct server *s = serve(HEAD "echo first; " AWAIT_GO "echo second");
    int c = get(s, "/p/");
    must(strstr(hear_until(c, "first\n").text, "200 OK") != NULL);
    say_go();
    must(strstr(hear_until(c, "0\r\n\r\n").text, "second") != NULL);
    close(c);
    server_stop(s);
}

static long memory_kb(pid_t pid, const char *what)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    const char *line = strstr(file_read(path), what);
    return line != NULL ? atol(line + strlen(what)) : -1;
}

#define GIGABYTE "1073741824"

TEST(answer_of_a_gigabyte_in_little_memory)
{
    if (left_out_with_memcheck("answer_of_a_gigabyte_in_little_memory",
                               "it is memcheck that takes the memory"))
        return;
    struct server *s = serve("printf 'Content-Type: application/x\\n\\n'\n"
                             "head -c " GIGABYTE " /dev/zero; echo sent >&2; " AWAIT_GO);
    file_write(at("size"), "");
    char command[512];
    snprintf(command, sizeof command,
             "curl -sS -o /dev/null -w '%%{size_download}\\n' http://127.0.0.1:%u/p/ >%s", s->port,
             at("size"));
    pid_t caller = start_shell(command);
    for (int patience = 0; !log_has(s, " sent"); patience++) { /* longer than any other wait */
        must(patience < 20000);
        rest();
    }
    pid_t child = only_child(s->pid);
    const char *sanitizers = getenv("SAN");
    long peak = memory_kb(child, "VmHWM:");
    must_say(peak > 0 && (sanitizers == NULL || *sanitizers != '\0' || peak < 8192),
             "%ld kB at the most", peak);
    say_go();
    int status;
    must(waitpid(caller, &status, 0) == caller && status == 0);
    must_say(strcmp(file_read(at("size")), GIGABYTE "\n") == 0, "%s", file_read(at("size")));
    server_stop(s);
}

/* The program's exit ends the answer, not the last of its relatives to let go of the pipe. */
TEST(answer_when_a_relative_holds_the_pipe)
{
    struct server *s = serve(HEAD "sleep 1000 & echo $! >../relative; echo well");
    int c = get(s, "/p/");
    must(strstr(hear_until(c, "0\r\n\r\n").text, "well\n") != NULL);
    must(!is_alive(pid_in(at("relative"))));
    close(c);
    server_stop(s);
}

TEST(answers_on_one_connection)
{
    struct server *s = serve(HEAD "echo $QUERY_STRING");
    int c = dial(s);
    for (int i = 0; i < 20; i++) {
        say(c, "GET /p/?%d HTTP/1.1\r\nHost: h\r\n\r\n", i);
        char line[16];
        snprintf(line, sizeof line, "\n%d\n", i);
        must(strstr(hear_answer(c, false).text, line) != NULL);
    }
    close_fin(c);
    server_stop(s);
}

/* ---- Local redirects ----------------------------------------------------------------------- */

TEST(redirect_to_another_program)
{
    struct server *s = serve("printf 'Location: /cgi/second/more%%20of?it=1\\n\\n'; "
                             "echo \"unlink $PWD/../made\" >&3; touch ../made");
    script("second", HEAD "echo; echo M=$REQUEST_METHOD; echo I=$PATH_INFO; echo Q=$QUERY_STRING; "
                          "echo L=$CONTENT_LENGTH; echo T=$CONTENT_TYPE; cat; ls ../made");
    struct output o = curl(s, "-d body /p/");
    must_have(o.text, "M", "GET");
    must_have(o.text, "I", "/more of");
    must_have(o.text, "Q", "it=1");
    must_have(o.text, "L", "");
    must_have(o.text, "T", "");
    must_say(strstr(o.text, "body") == NULL && strstr(o.text, "../made") != NULL, "%s", o.text);
    must(exists(at("made"))); /* it is one request, and it was answered */
    server_stop(s);
}

TEST(redirect_to_a_handler)
{
    script("program", "printf 'Location: /a?seconds=0.01\\n\\n'");
    struct server *s = hangupd("/p=%s /a=@a", at("cgi/program"));
    must(strcmp(curl(s, "/p").text, "File persisted.\n") == 0);
    must(unlink(at("tmp/txt")) == 0);
    server_stop(s);
}

TEST(redirects_without_an_end)
{
    struct server *s = serve("printf 'Location: /p/again\\n\\n'; touch ../made; "
                             "echo \"unlink $PWD/../made\" >&3");
    struct output o = curl(s, "-w %%{http_code} /p/");
    must_say(strstr(o.text, "502") != NULL, "%s", o.text);
    must(log_has(s, "too many redirects") && !exists(at("made")));
    server_stop(s);
}

/* A local redirect is a Location alone, to what this server serves. All others are the client's. */
static const char *const redirects[][2] = {
    {"Location: /cgi/second\\nSet-Cookie: a=1", "Set-Cookie: a=1\r\n"},
    {"Set-Cookie: a=1\\nLocation: /cgi/second\\nContent-Type: text/x", "Content-Type: text/x\r\n"},
    {"Location: /cgi/second\\nContent-Length: 0", "Content-Length: 0\r\n"},
    {"Location: /elsewhere", "Location: /elsewhere\r\n"},
    {"Location: /elsewhere/%%zz", "Location: /elsewhere/%zz\r\n"},
    {"Location: /posted", "Location: /posted\r\n"},
    {"Location: page.html", "Location: page.html\r\n"},
};

TEST_EACH(redirect_for_the_client, redirects)
{
    char text[512];
    snprintf(text, sizeof text,
             "echo \"unlink $PWD/../made\" >&3; touch ../made\n"
             "printf '%s\\n\\n'",
             redirects[_i][0]);
    script("program", text);
    script("second", HEAD "echo second");
    struct server *s = things("/p=%s /cgi/=%s /posted=@echo", at("cgi/program"), at("cgi"));
    struct heard h = hear_answer(get(s, "/p"), false);
    must_say(h.status == 302 && strstr(h.text, redirects[_i][1]) != NULL &&
                 strstr(h.text, "\r\nLocation: ") != NULL,
             "%s", h.text);
    log_wait(s, " 302 ");
    must(exists(at("made")));
    server_stop(s);
}

/* ---- Methods, and the path of a prefix ------------------------------------------------------ */

TEST(methods_go_to_the_program)
{
    script("program", HEAD "echo \"$REQUEST_METHOD $(cat)\"");
    struct server *s =
        hangupd("/p=%s /q=%s,options=server --max-body 9", at("cgi/program"), at("cgi/program"));
    static const char *const methods[] = {"OPTIONS",  "PROPFIND", "REPORT", "MKCOL", "PURGE",
                                          "M-SEARCH", "get",      "PATCH",  "BREW"};
    for (size_t i = 0; i < COUNT(methods); i++) {
        int c = dial(s);
        say(c, "%s /p HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody", methods[i]);
        struct heard h = hear_answer(c, false);
        char line[64];
        snprintf(line, sizeof line, "\r\n%s body\n", methods[i]);
        must_say(h.status == 200 && strstr(h.text, line) != NULL, "%s", h.text);
    }
    must_say(strstr(curl(s, "-i -X PROPFIND -d 0123456789 /p").text, "413") != NULL, "no 413");
    static const char *const closed[] = {"TRACE", "CONNECT"};
    for (size_t i = 0; i < COUNT(closed); i++) {
        int c = dial(s);
        say(c, "%s /p HTTP/1.1\r\nHost: h\r\n\r\n", closed[i]);
        struct heard h = hear_answer(c, false);
        must_say(h.status == 405 && strstr(field(h, "Allow"), "PATCH") != NULL, "%s", h.text);
    }
    struct output o = curl(s, "-i -X OPTIONS /q");
    must_say(strstr(o.text, " 200 ") && strstr(o.text, "Allow: GET, ") &&
                 !strstr(o.text, "OPTIONS b"),
             "%s", o.text);
    must_say(strstr(curl(s, "-i -X OPTIONS --request-target * /").text, "Allow: ") != NULL, "*");
    server_stop(s);
}

TEST(prefix_is_served_without_its_slash)
{
    script("program", HEAD "echo \"$SCRIPT_NAME,${PATH_INFO-none},$QUERY_STRING\"");
    script("other", HEAD "echo other");
    struct server *s = hangupd("/gw/=%s /gw/x/=%s /exact/=%s /exact=%s /cgi/=%s", at("cgi/program"),
                               at("cgi/program"), at("cgi/program"), at("cgi/other"), at("cgi"));
    must(strcmp(curl(s, "/gw").text, "/gw,none,\n") == 0);
    must(strcmp(curl(s, "/gw?a=b").text, "/gw,none,a=b\n") == 0);
    must(strcmp(curl(s, "/gw/").text, "/gw,/,\n") == 0);
    must(strcmp(curl(s, "/gw/x").text, "/gw/x,none,\n") == 0);
    must(strcmp(curl(s, "/exact").text, "other\n") == 0);
    must(hear_answer(get(s, "/gwx"), false).status == 404);
    must(hear_answer(get(s, "/cgi"), false).status == 404);
    server_stop(s);
}

/* ---- How it fails -------------------------------------------------------------------------- */

THEME("how it fails");

#define MADE "echo \"unlink $PWD/../made\" >&3; touch ../made\n"

static const struct failure {
    const char *body;
    int status; /* 0: the connection is cut after some of a 200 */
    const char *log;
} failures[] = {
    {MADE "exit 3", 502, "exited with status 3"},
    {MADE "kill -s SEGV $$", 502, "was ended by signal 11"},
    {MADE "kill -s KILL $$", 502, "was ended by signal 9"},
    {MADE "exit 0", 502, "exited without a whole header"},
    {MADE "printf 'Content-Type: text/x\\n'", 502, "exited without a whole header"},
    {MADE "echo hello", 502, "not a header field, NAME: VALUE: hello"},
    {MADE "printf '\\nhello'", 502, "a header without Content-Type"},
    {MADE "printf 'X-A: 1\\n\\nhello'", 502, "a header without Content-Type"},
    {MADE "printf 'Content-Type: a\\nContent-Type: b\\n\\n'", 502, "there twice: Content-Type: b"},
    {MADE "printf 'Status: 99\\n\\n'", 502, "a Status is"},
    {MADE "printf 'Status: 600\\n\\n'", 502, "a Status is"},
    {MADE "printf 'Status: 100\\n\\n'", 502, "a Status is"},
    {MADE "printf 'Status: abc\\n\\n'", 502, "a Status is"},
    {MADE "printf 'Content-Type: a\\nContent-Length: x\\n\\n'", 502, "not a number"},
    {MADE "printf 'Content-Type: a\\nX-A: \\001\\n\\n'", 502, "a control character"},
    {MADE "printf 'Content-Type: a\\nX A: 1\\n\\n'", 502, "not a header field"},
    {MADE "printf 'Content-Type: a\\n'; yes 'X-A: 1'", 502, "too many header fields"},
    {MADE "yes | tr -d '\\n'", 502, "the header is too large"},
    {MADE HEAD "exit 4", 502, "exited with status 4"}, /* no byte of it had been sent */
    {MADE "printf 'Content-Type: a\\nContent-Length: 1\\n\\nx'; exit 5", 502,
     "exited with status 5"},
    {MADE "printf 'Content-Type: a\\nContent-Length: 9\\n\\n'", 502,
     "less than its Content-Length"},
    {MADE "printf 'Content-Type: a\\nContent-Length: 4096\\n\\n%4096s'; exit 6", 502,
     "exited with status 6"},
    {MADE "printf 'Content-Type: a\\nContent-Length: 4097\\n\\npart%4093s'; " AWAIT_GO "exit 7", 0,
     "exited with status 7"},
    {MADE HEAD "echo part; " AWAIT_GO "exit 4", 0, "exited with status 4"},
    {MADE HEAD "echo part; " AWAIT_GO "kill -s ABRT $$", 0, "was ended by signal 6"},
    {MADE "printf 'Content-Type: a\\nContent-Length: 9\\n\\npart\\n'; " AWAIT_GO, 0, NULL},
    {MADE "printf 'Content-Type: a\\nContent-Length: 6\\n\\npart\\n'; " AWAIT_GO "echo too much", 0,
     "more than its Content-Length"},
    {MADE "printf 'Status: 500 Sorry\\nContent-Type: a\\n\\npart\\n'", 500, NULL},
    /* An error that it has told is told, however it ends. */
    {MADE "printf 'Status: 500 Sorry\\nContent-Type: a\\n\\npart\\n'; exit 1", 500,
     "exited with status 1"},
    {MADE "printf 'Status: 422\\nContent-Type: a\\nContent-Length: 5\\n\\npart\\n'; exit 1", 422,
     "exited with status 1"},
    {MADE "printf 'Status: 404\\n\\n'; exit 1", 404, "exited with status 1"},
    {MADE "printf 'Status: 503\\nContent-Type: a\\n\\n%5000spart\\n'; kill -s SEGV $$", 503,
     "was ended by signal 11"},
    /* What it says of its length is not so: that is no error which it has told. */
    {MADE "printf 'Status: 500\\nContent-Length: 9\\n\\npart\\n'; " AWAIT_GO "exit 1", 0,
     "exited with status 1"},
    {MADE "printf 'Status: 500\\nContent-Length: 3\\n\\npart\\n'", 502,
     "wrote more than its Content-Length"},
    {MADE "printf 'Content-Type: a\\nContent-Length: 3\\n\\npart\\n'", 502,
     "wrote more than its Content-Length"},
    {MADE "printf 'Status: 399\\n\\npart\\n'; " AWAIT_GO "exit 1", 0, "exited with status 1"},
};

TEST_EACH(failure_is_told_and_undone, failures)
{
    const struct failure *f = &failures[_i];
    struct server *s = serve(f->body);
    int c = get(s, "/p/");
    struct heard h;
    if (f->status == 0) {
        hear_until(c, "par");
        wait_exists(at("made"));
        say_go();
        h = hear(c);
        must_say(h.reset, "%s", h.text);
    } else {
        h = hear_answer(c, false);
        must_say(h.status == f->status, "%s", h.text);
        /* Nothing of what it wrote is in the server's own words. */
        must_say(h.status != 502 || strstr(h.text, "\r\n\r\n502 ") != NULL, "%s", h.text);
        must_say(h.status == 502 || h.status == 404 || strstr(h.text, "part\n") != NULL, "%s",
                 h.text);
    }
    if (f->log != NULL)
        log_wait(s, "%s", f->log);
    log_wait(s, " error undo=ok");
    must(!exists(at("made")) && no_scratch());
    server_stop(s);
}

/* Each of CASES, which ends at an entry without a path, with its status and its line in the log. */
struct no_start {
    const char *path;
    int status;
    const char *log;
};

static void must_not_start(struct server *s, const struct no_start *cases)
{
    for (; cases->path != NULL; cases++) {
        struct heard h = hear_answer(get(s, "%s", cases->path), false);
        must_say(h.status == cases->status, "%s: %s", cases->path, h.text);
        log_wait(s, "%s", cases->log);
    }
}

static const struct {
    const char *body;
    bool undone;
} said[] = {
    {"echo \"unlink $PWD/made\" >&3; : >made; exit 3", true},
    {"echo 'run true' >&3; exit 3", false}, /* the answer does not wait for it */
    {"echo 'run false' >&3; exit 3", false},
    {"echo 'run true' >&3; exec sleep 600", true},
    {"echo 'run false' >&3; exec sleep 600", false},
    {"echo 'run false' >&3; kill -9 $PPID; exec sleep 600", false},
};

/* "undone" is said only of what is. */
TEST_EACH(error_says_whether_it_was_undone, said)
{
    script("program", said[_i].body);
    struct server *s = hangupd("/p=%s --timeout 0.5 --undo-retries 0", at("cgi/program"));
    struct heard h = hear(get(s, "/p"));
    must_say(h.status == (_i < 3 ? 502 : _i < 5 ? 504 : 500), "%s", h.text);
    bool not_yet = strstr(h.text, "stopped, and is not undone yet\n") != NULL;
    must_say(not_yet != (strstr(h.text, "stopped and undone\n") != NULL), "%s", h.text);
    must_say(not_yet == !said[_i].undone, "%s", h.text);
    remove_tree(at("state/failed"));
    server_stop(s);
}

TEST(program_that_is_none)
{
    struct server *s = serve("true");
    script("plain", "true");
    must(chmod(at("cgi/plain"), 0644) == 0);
    static const struct no_start cases[] = {
        {"/cgi/absent", 404, "cgi/absent: No such file or directory"},
        {"/cgi/absent/more", 404, "cgi/absent: No such file or directory"},
        {"/cgi/plain", 404, "cgi/plain: it is not an executable file"},
        {NULL, 0, NULL},
    };
    must_not_start(s, cases);
    must(unlink(at("cgi/program")) == 0);
    must(hear_answer(get(s, "/p/"), false).status == 404);
    server_stop(s);
}

TEST(program_that_cannot_be_started)
{
    if (left_out_with_memcheck("program_that_cannot_be_started",
                               "memcheck does not survive an exec that fails"))
        return;
    struct server *s = serve("true");
    script("nointerpreter", "");
    file_write(at("cgi/nointerpreter"), "#!/does/not/exist\n");
    file_write(at("cgi/nothing"), "\n");
    must(chmod(at("cgi/nothing"), 0755) == 0);
    static const struct no_start cases[] = {
        {"/cgi/nointerpreter", 502, "the interpreter in its first line is not there"},
        {"/cgi/nothing", 502, "Exec format error (a script begins with #!"},
        {NULL, 0, NULL},
    };
    must_not_start(s, cases);
    must(chmod(at("cgi/program"), 0644) == 0);
    if (geteuid() == 0) { /* root may search, but not execute */
        must(hear_answer(get(s, "/p/"), false).status == 502);
        log_wait(s, "Permission denied (chmod +x makes it executable)");
    }
    server_stop(s);
}

TEST(directory_gives_programs_only)
{
    struct server *s = serve(HEAD "echo $SCRIPT_NAME $PATH_INFO");
    must(mkdir(at("cgi/sub"), 0755) == 0 && mkdir(at("cgi/.git"), 0755) == 0);
    must(rename(script(".hidden", HEAD), at("cgi/.hidden")) == 0);
    must(rename(script("x", HEAD "echo $SCRIPT_NAME $PATH_INFO"), at("cgi/sub/x")) == 0);
    must(rename(script("x", HEAD), at("cgi/.git/x")) == 0);
    script("../outside", HEAD);
    must(mkfifo(at("cgi/fifo"), 0755) == 0);
    must(strcmp(curl(s, "/cgi/sub/x").text, "/cgi/sub/x\n") == 0);
    must(strcmp(curl(s, "/cgi/sub/x/a//b").text, "/cgi/sub/x /a//b\n") == 0);
    static const char *const refused[] = {"/cgi/",
                                          "/cgi/sub",
                                          "/cgi/sub/",
                                          "/cgi/.hidden",
                                          "/cgi/.git/x",
                                          "/cgi/../outside",
                                          "/cgi/%%2e%%2e/outside",
                                          "/cgi/sub/..%%2f..%%2f../outside",
                                          "/cgi//program",
                                          "/cgi/fifo",
                                          "/cgi/%%2e%%2e%%2foutside",
                                          "/cgi/program%%00"};
    for (size_t i = 0; i < COUNT(refused); i++) {
        char path[64];
        snprintf(path, sizeof path, refused[i], 0);
        struct heard h = hear_answer(get(s, "%s", path), false);
        must_say(h.status == 404 || h.status == 400, "%s: %s", path, h.text);
    }
    server_stop(s);
}

TEST(mistaken_routes_are_explained)
{
    script("program", HEAD);
    struct output o = run("%s --state %s /cgi=%s", the_hangupd(), at("state"), at("cgi"));
    must_say(o.status == 2 && strstr(o.text, "write /cgi/=") != NULL, "%d %s", o.status, o.text);
    struct server *s = hangupd("/x=%s", at("cgi/absent"));
    log_wait(s, "warning: the program of the route /x, %s: No such file", at("cgi/absent"));
    server_stop(s);
}

TEST(errors_go_to_the_log)
{
    struct server *s =
        serve("echo one >&2; printf 'two\\nthree' >&2; printf '\\033[31m' >&2\n" HEAD);
    must(curl(s, "/p/").status == 0);
    const char *line = log_wait(s, " one");
    char id[64];
    must(sscanf(line, "%*s %63s", id) == 1 && strlen(id) > 16);
    log_wait(s, "%s stderr: two\n", id);
    log_wait(s, "%s stderr: three\\x1b[31m\n", id);
    script("program", "printf 'before\\0behind\\n' >&2\n" HEAD);
    must(curl(s, "/p/").status == 0);
    log_wait(s, " before behind");
    script("program", "head -c 3000 /dev/zero | tr '\\0' x >&2\n" HEAD);
    must(curl(s, "/p/").status == 0);
    log_wait(s, "\"GET /p/ HTTP/1.1\" 200 0 ");
    must_say(log_count(s, " xxxx") == 3, "%u", log_count(s, " xxxx"));
    server_stop(s);
}

/* Errors without an end, and without a pause where the system allows that. */
#define FLOOD                                                                                      \
    "first= && chrt -f 1 true 2>/dev/null && first='chrt -f 1'\n"                                  \
    "(trap '' TERM; touch ../flood; exec $first yes 'what has gone wrong' >&2) &\n"                \
    "until [ -e ../flood ]; do sleep 0.01; done; sleep 0.1\n"

TEST(errors_without_an_end)
{
    struct server *s = serve(HEAD FLOOD "echo well");
    int c = get(s, "/p/");
    must(strstr(hear_until(c, "0\r\n\r\n").text, "well\n") != NULL);
    close(c);
    /* A shell that gets the signal just before its command begins waits for that to end. */
    script("program", "trap 'touch ../word; exit' TERM\n" FLOOD
                      "echo $$ >../pid; while :; do sleep 0.05; done");
    c = get(s, "/p/");
    pid_in(at("pid"));
    close_fin(c);
    wait_exists(at("word"));
    script("program", FLOOD "echo no header; echo; sleep 1000");
    must(hear_answer(get(s, "/p/"), false).status == 502);
    server_stop(s);
}

/* ---- Its limits, and its TMPDIR ------------------------------------------------------------- */

THEME("limits");

static const struct limit_case {
    const char *body, *key, *log;
} limited[] = {
    {MADE "while :; do :; done", "cpu=1", "by signal 24 (cpu); its limits: cpu=1s"},
    {MADE "exec head -c 10000 /dev/zero >../big", "file-size=4k",
     "by signal 25 (file-size); its limits: file-size=4k"},
    {MADE "exec python3 -c 'bytearray(1000000000)'", "memory=200M",
     "exited with status 1; its limits: memory=200M"},
    {MADE "(exit 0) || exit 3; exit 4", "processes=1", "; its limits: processes=1"},
    {MADE "exit 5", "cpu=90s,memory=1G,file-size=5000",
     "exited with status 5; its limits: cpu=90s, memory=1G, file-size=5000"},
};

TEST_TIMES(limit_is_met_and_told, 2 * COUNT(limited))
{
    const struct limit_case *l = &limited[_i / 2];
    bool as_option = _i % 2 == 1;
    char option[128] = "--";
    snprintf(option + 2, sizeof option - 2, "%s", l->key);
    if (as_option)
        *strchr(option, '=') = ' ';
    for (char *comma; as_option && (comma = strchr(option, ',')) != NULL;)
        *comma = '\0';
    script("program", l->body);
    must(chmod(test_dir, 0777) == 0);
    /* Root's processes are not limited in their number. */
    bool other = geteuid() == 0 && strstr(l->key, "processes") != NULL;
    struct server *s =
        hangupd("%s /p=%s%s%s %s", other ? "--user nobody" : "--grace 1", at("cgi/program"),
                as_option ? "" : ",", as_option ? "" : l->key, as_option ? option : "");
    must(hear_answer(get(s, "/p"), false).status == 502);
    char log[256];
    snprintf(log, sizeof log, "%s", l->log);
    for (char *comma; as_option && (comma = strchr(log, ',')) != NULL;)
        *comma = '\0';
    log_wait(s, "%s", log);
    log_wait(s, " error undo=ok");
    must(!exists(at("made")));
    server_stop(s);
}

static char *limit_line(struct output o, const char *name)
{
    static char value[64];
    char *line = strstr(o.text, name);
    must_say(line != NULL, "%s", o.text);
    must(sscanf(line + strlen(name), " %63s", value) == 1);
    return value;
}

/* A route's own limits come before those of all; a program has none by default, and cannot lift
 * one. */
TEST(limits_of_a_route_and_of_all)
{
    script("program", HEAD "cat /proc/self/limits");
    struct server *s = hangupd("/none=%s /own=%s,memory=2G,processes=1000 --memory 1G --cpu 1.5",
                               at("cgi/program"), at("cgi/program"));
    struct output o = curl(s, "/none");
    must(strcmp(limit_line(o, "Max address space"), "1073741824") == 0);
    must(strcmp(limit_line(o, "Max cpu time"), "2") == 0);
    must(strcmp(limit_line(o, "Max file size"), "unlimited") == 0);
    o = curl(s, "/own");
    must(strcmp(limit_line(o, "Max address space"), "2147483648") == 0);
    must(strcmp(limit_line(o, "Max cpu time"), "2") == 0);
    must(strcmp(limit_line(o, "Max processes"), "1000") == 0);
    must_say(strstr(o.text, "2147483648           2147483648") != NULL, "%s", o.text);
    server_stop(s);
}

/* What a program keeps there it finds again, and nothing is made for it. */
TEST_TIMES(tmpdir_that_is_left_alone, 2)
{
    script("program", HEAD "echo x >>$TMPDIR/visits; wc -l <$TMPDIR/visits\n"
                           "find $TMPDIR -mindepth 2; echo \"in $TMPDIR\"");
    struct server *s =
        hangupd(_i == 0 ? "/p=%s,tmpdir=leave" : "/p=%s --tmpdir leave", at("cgi/program"));
    char expected[4096];
    for (int i = 1; i < 4; i++) {
        struct output o = curl(s, "/p");
        snprintf(expected, sizeof expected, "%d\nin %s\n", i, at("tmp"));
        must_say(strcmp(o.text, expected) == 0, "%s", o.text);
    }
    int c = get(s, "/p");
    hear_answer(c, false);
    must(unlink(at("tmp/visits")) == 0);
    server_stop(s);
}

/* ---- Its ledger, and its last word ---------------------------------------------------------- */

THEME("undo");

TEST_TIMES(hangup_undoes_what_it_recorded, 2)
{
    struct server *s =
        serve("d=$(dirname $PWD); echo \"unlink $d/file\" >&3; touch ../file\n"
              "echo \"rmtree $d/tree\" >&3; mkdir -p ../tree/below; touch ../tree/x\n"
              "echo \"run rm -f $d/remote; echo removed\" >&3; touch ../remote\n"
              "echo ready >&2; sleep 1000");
    int c = get(s, "/p/");
    log_wait(s, " ready");
    must(exists(at("file")) && exists(at("tree/x")) && exists(at("remote")));
    _i == 0 ? close_fin(c) : close_rst(c);
    log_wait(s, " removed");
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")) && !exists(at("tree")) && !exists(at("remote")));
    must(no_scratch());
    server_stop(s);
}

TEST(answer_keeps_what_it_recorded)
{
    struct server *s =
        serve("echo \"unlink $(dirname $PWD)/file\" >&3; touch ../file\n" HEAD "echo");
    must(curl(s, "/p/").status == 0);
    log_wait(s, " ok undo=none");
    must(exists(at("file")) && no_scratch());
    server_stop(s);
}

TEST(commit_keeps_what_stands_above)
{
    struct server *s = serve("d=$(dirname $PWD); echo \"unlink $d/one\" >&3; touch ../one\n"
                             "echo commit >&3; echo \"unlink $d/two\" >&3; touch ../two\n"
                             "echo ready >&2; sleep 1000");
    int c = get(s, "/p/");
    log_wait(s, " ready");
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(exists(at("one")) && !exists(at("two")));
    server_stop(s);
}

/* SIGTERM, the trap runs though a command is in the foreground, and what it records still counts.
 */
TEST(last_word)
{
    struct server *s = serve("d=$(dirname $PWD)\n"
                             "trap 'echo \"unlink $d/late\" >&3; touch ../late; echo bye >&2; "
                             "head -c 300000 /dev/zero; exit 1' TERM\n"
                             "echo $$ >../pid; sleep 1000");
    int c = get(s, "/p/");
    /* The foreground command is there, to get the signal too: not a shell that is about to be it.
     */
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/comm", (int)only_child(pid_in(at("pid"))));
    wait_until(strcmp(file_read(name), "sleep\n") == 0);
    close_fin(c);
    log_wait(s, " bye");
    log_wait(s, " hangup undo=ok");
    must(!exists(at("late")));
    server_stop(s);
}

TEST_TIMES(last_word_in_the_log, 2)
{
    static const char *const then[] = {"", "echo no header; echo; "};
    char body[256];
    snprintf(body, sizeof body,
             "trap 'echo bye >&2; exit 1' TERM\necho $$ >../pid\n%swhile :; do sleep 0.05; done",
             then[_i]);
    struct server *s = serve(body);
    int c = get(s, "/p/");
    pid_in(at("pid"));
    if (_i == 0)
        close_fin(c);
    else
        must(hear_answer(c, false).status == 502);
    log_wait(s, " bye");
    server_stop(s);
}

/* A careless > instead of >> or >& takes its own records along, but not the server's. */
TEST(ledger_that_its_program_truncates)
{
    struct server *s = serve("echo \"unlink $(dirname $PWD)/file\" >/dev/fd/3; touch ../file\n"
                             "echo ready >&2; sleep 1000");
    int c = get(s, "/p/");
    log_wait(s, " ready");
    close_fin(c);
    log_wait(s, "the ledger was overwritten and records may be lost");
    log_wait(s, " hangup ");
    must(!exists(at("file")) && no_scratch());
    server_stop(s);
}

/* What one request leaves as it was is the next one's; what it does to it, is not. */
static const char *const treatments[] = {
    "",
    "touch $TMPDIR/file",
    "mkdir $TMPDIR/directory",
    "chmod 755 $TMPDIR",
    "rmdir $TMPDIR",
    "rmdir $TMPDIR; ln -s .. $TMPDIR",
    "echo '# a word' >&3",
    "rm -f ../link; ln -L /proc/self/fd/3 ../link",
    "> /dev/fd/3",
};

TEST_EACH(nothing_of_the_one_before, treatments)
{
    char text[1024];
    snprintf(
        text, sizeof text,
        HEAD
        "[ ! -L $TMPDIR ] && [ \"$(ls -ld $TMPDIR | cut -c 1-10)\" = drwx------ ] &&\n"
        "[ -z \"$(ls -A $TMPDIR)\" ] && [ \"$(wc -l </proc/self/fd/3)\" = 1 ] && echo good\n%s",
        treatments[_i]);
    struct server *s = serve(text);
    for (int i = 0; i < 3; i++) {
        struct output o = curl(s, "/p/");
        must_say(strcmp(o.text, "good\n") == 0, "%s", o.text);
        log_wait(s, " ok undo=none");
        log_mark(s);
    }
    must(no_scratch());
    server_stop(s);
}

/* Who cleans TMPDIR up looks for a lock (flock(2)) on what may be old and in use. */
TEST(pool_is_locked)
{
    struct server *s = serve(HEAD "cd $TMPDIR/..; pwd");
    struct output o = curl(s, "/p/");
    o.text[strcspn(o.text, "\n")] = '\0';
    int pool = open(o.text, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must_say(pool >= 0 && strstr(o.text, at("tmp/hangupd-")) == o.text, "%s", o.text);
    must(flock(pool, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    close(pool);
    server_stop(s);
}

/* Somebody outside the request has its ledger open, and writes when that is not its any more. */
TEST(record_that_comes_too_late)
{
    char path[64];
    struct server *s = serve("rm -f ../go; echo $$ >../pid; until [ -e ../go ]; do sleep 0.01; "
                             "done\n" HEAD "echo well");
    int c = get(s, "/p/");
    snprintf(path, sizeof path, "/proc/%d/fd/3", (int)pid_in(at("pid")));
    int late = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    must(late >= 0);
    file_write(at("go"), "");
    must(strstr(hear_until(c, "0\r\n\r\n").text, "well\n") != NULL);
    close(c);
    log_wait(s, " ok undo=none");
    must(unlink(at("pid")) == 0);
    file_write(at("file"), "");
    c = get(s, "/p/");
    pid_in(at("pid"));
    must(dprintf(late, "unlink %s\n", at("file")) > 0 && close(late) == 0);
    close_fin(c);
    log_wait(s, " hangup undo=none");
    must(exists(at("file")) && no_scratch());
    server_stop(s);
}

/* As in flock(1), so that one process at a time writes there. */
TEST(ledger_that_its_program_locks)
{
    struct server *s =
        serve("f=$(dirname $PWD)/file; flock 3; echo \"unlink $f\" >&3; touch $f\n"
              "echo ready >&2; [ -e ../wait ] && exec sleep 1000\n" HEAD "echo well");
    must(strcmp(curl(s, "/p/").text, "well\n") == 0);
    log_wait(s, " ok undo=none");
    must(exists(at("file")));
    log_mark(s);
    file_write(at("wait"), "");
    int c = get(s, "/p/");
    log_wait(s, " ready");
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")) && no_scratch());
    server_stop(s);
}

TEST(undo_command_in_a_program)
{
    struct server *s =
        serve("\"$HANGUPD\" undo rmtree '../a b' && mkdir '../a b'\n"
              "\"$HANGUPD\" undo run rm -f \"$(dirname $PWD)/it's\" && touch \"../it's\"\n"
              "\"$HANGUPD\" undo nonsense x; echo \"it says $?\" >&2\n"
              "echo ready >&2; sleep 1000");
    int c = get(s, "/p/");
    log_wait(s, "it says 2");
    log_wait(s, " ready");
    must(exists(at("a b")) && exists(at("it's")));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("a b")) && !exists(at("it's")));
    server_stop(s);
}

TEST(finish_goes_on_for_nobody)
{
    script("program", HEAD "echo first; " AWAIT_GO
                           "head -c 3000000 /dev/zero && touch ../done; echo gone on >&2");
    must(mkfifo(at("go"), 0600) == 0);
    struct server *s = hangupd("/p=%s,on-hangup=finish", at("cgi/program"));
    int c = get(s, "/p");
    hear_until(c, "first\n");
    close_rst(c);
    say_go();
    log_wait(s, "gone on");
    log_wait(s, " hangup undo=none");
    must(exists(at("done")));
    server_stop(s);
}

static const struct {
    const char *line, *wrong;
} no_records[] = {
    {"delete foo", "delete foo: there is no such verb; it will not be undone"},
    {"unlink rel", "unlink rel: the path is not absolute; it will not be undone"},
    {"unlink-if 1:2 /x", "unlink-if 1:2 /x: that is not FILEID and an absolute path;"},
};

/* What is no record is told when it is written: while the program is silent, when it says something
 * and at its end; and at a hangup no other try is made of it. */
TEST_TIMES(no_record_is_told_when_it_is_made, 3 * COUNT(no_records))
{
    char body[512], undone[256];
    int line = _i % (int)COUNT(no_records), when = _i / (int)COUNT(no_records);
    snprintf(body, sizeof body, "printf \"unlink $PWD/none\\n%s\\n\" >&3; echo ready >&2; %s",
             no_records[line].line,
             when == 0   ? "exec sleep 1000"
             : when == 1 ? HEAD "echo first; exec sleep 1000"
                         : HEAD "echo done");
    struct server *s = serve(body);
    int c = get(s, "/p/");
    log_wait(s, " the program wrote no record to descriptor 3: %s", no_records[line].wrong);
    must(log_count(s, "wrote no record") == 1);
    if (when == 2) {
        must(hear_answer(c, false).status == 200);
        log_wait(s, " ok undo=none");
    } else {
        close_fin(c);
        snprintf(undone, sizeof undone, "%.*s", (int)strcspn(no_records[line].wrong, ";"),
                 no_records[line].wrong);
        log_wait(s, " UNDO FAILED for good: %s; ", undone);
        log_wait(s, " hangup undo=failed");
        must(!log_has(s, "tried again"));
    }
    server_kill(s, SIGTERM);
}

/* A scratch directory that cannot be emptied is no reason to undo what is kept: not when the route
 * finishes for a caller who has left, nor when the caller has the answer; whoever goes on with it.
 */
TEST_TIMES(kept_though_scratch_stays, 4)
{
    enum { ANSWERED = 1, BY_THE_NEXT_SERVER = 2 };
    script("program", "echo \"unlink $PWD/../made\" >&3; touch ../made $TMPDIR/x\n"
                      "echo $TMPDIR >../tmpdir; echo ready >&2; " AWAIT_GO HEAD "echo done");
    must(mkfifo(at("go"), 0600) == 0);
    const char *how = _i & BY_THE_NEXT_SERVER ? "--undo-retries 9" : "--undo-retries 0";
    struct server *s =
        hangupd("/p=%s,on-hangup=%s %s", at("cgi/program"), _i & ANSWERED ? "undo" : "finish", how);
    int c = get(s, "/p");
    log_wait(s, " ready");
    char x[PATH_MAX];
    snprintf(x, sizeof x, "%.*s/x", (int)strcspn(file_read(at("tmpdir")), "\n"),
             file_read(at("tmpdir")));
    if (!set_file_flag(x, FS_IMMUTABLE_FL, true)) {
        test_skipped("kept_though_scratch_stays", "no immutable files here");
        say_go();
        server_stop(s);
        return;
    }
    if (!(_i & ANSWERED))
        close_rst(c);
    say_go();
    if (_i & ANSWERED)
        must(hear_answer(c, false).status == 200);
    log_wait(s, " %s undo=none", _i & ANSWERED ? "ok" : "hangup");
    must(exists(at("made")));
    if (_i & BY_THE_NEXT_SERVER) {
        log_wait(s, " undo failed; ");
        server_kill(s, SIGKILL);
        s = hangupd("/p=%s %s", at("cgi/program"), how);
        log_wait(s, " undo failed; ");
        must(set_file_flag(x, FS_IMMUTABLE_FL, false));
        log_wait(s, " kept at last, as it had been answered");
    } else {
        log_wait(s, " UNDO FAILED for good: scratch ");
        must(set_file_flag(x, FS_IMMUTABLE_FL, false));
        struct output o = run("%s recover --state %s", the_hangupd(), at("state"));
        must_say(o.status == 0 && strstr(o.text, ": kept, as it had been answered"), "%s", o.text);
    }
    must(exists(at("made")) && !exists(x));
    server_stop(s);
}

/* ---- Nobody is left ------------------------------------------------------------------------ */

THEME("nobody is left");

#define SAY_PID "echo $$ >>../pids; "

static const char *const families[] = {
    /* a child in the background */
    "sh -c '" SAY_PID "exec sleep 1000' &\n",
    /* a session of its own */
    "setsid sh -c '" SAY_PID "exec sleep 1000' &\n",
    /* a daemon: forked twice, a session of its own, holding the pipes */
    "(setsid sh -c '" SAY_PID "exec sleep 1000' & )\n",
    /* the same without any descriptor, in / and with an empty environment */
    "(setsid sh -c '" SAY_PID "cd /; exec env -i sleep 1000' </dev/null >/dev/null 2>&1 3>&- & )\n",
    /* deaf to SIGTERM, with a child */
    "sh -c 'trap \"\" TERM; " SAY_PID "sleep 1000; sleep 1000' &\n",
    /* stopped */
    "sh -c '" SAY_PID "kill -s STOP $$; sleep 1000' &\n",
    /* forks on and on, in sessions of their own */
    "sh -c '" SAY_PID
    "i=0; while [ $i -lt 200 ]; do i=$((i+1)); setsid sleep 1000 & done; wait' &\n",
};

enum { END_BY_HANGUP, END_BY_SUCCESS, END_BY_FAILURE, END_BY_TIMEOUT, END_BY_KILL, ENDS };

static void wait_for_family(void)
{
    wait_until(strchr(file_read(at("pids")), '\n') != NULL);
}

TEST_TIMES(nobody_is_left, COUNT(families) * ENDS)
{
    int family = _i / ENDS, end = _i % ENDS;
    char body[2048];
    snprintf(body, sizeof body, "%s%s%s", families[family],
             "while ! [ -s ../pids ]; do sleep 0.01; done; echo ready >&2\n",
             end == END_BY_SUCCESS   ? HEAD "echo well"
             : end == END_BY_FAILURE ? "exit 1"
                                     : "sleep 1000");
    script("program", body);
    struct server *s = hangupd("/p=%s%s --grace 0.2", at("cgi/program"),
                               end == END_BY_TIMEOUT ? ",timeout=2s" : "");
    int c = get(s, "/p");
    log_wait(s, " ready");
    wait_for_family();
    if (end == END_BY_HANGUP)
        close_fin(c);
    else if (end == END_BY_KILL)
        kill(only_child(s->pid), SIGKILL);
    static const char *const outcomes[] = {" hangup undo=", " ok undo=none",
                                           " error undo=", " timeout undo=", " killed undo="};
    log_wait(s, "%s", outcomes[end]);
    if (end == END_BY_SUCCESS || end == END_BY_FAILURE)
        must(log_has(s, " ended what it had left running, "));
    no_process_left();
    must(no_scratch());
    server_stop(s);
}

/* The server's own answer to HEAD has no body, from the child as from the parent. */
TEST_TIMES(head_of_what_failed_is_logged_without_bytes, 2)
{
    script("program", "echo ready >&2; sleep 1000");
    struct server *s = hangupd("/p=%s%s", at("cgi/program"), _i == 0 ? ",timeout=1s" : "");
    int c = dial(s);
    say(c, "HEAD /p HTTP/1.1\r\nHost: test\r\n\r\n");
    log_wait(s, " ready");
    if (_i == 1)
        kill(only_child(s->pid), SIGKILL);
    must(hear(c).status == (_i == 0 ? 504 : 500));
    log_wait(s, "\"HEAD /p HTTP/1.1\" %d 0 ", _i == 0 ? 504 : 500);
    server_stop(s);
}

/* A ledger and a scratch directory, which every program has, are nothing that was to be undone. */
static const struct {
    const char *records, *undo;
} recorded[] = {
    {"touch $TMPDIR/x\n", " undo=none"},
    {"echo \"unlink $(dirname $PWD)/none\" >&3\n", " undo=ok"},
    {"echo \"unlink $(dirname $PWD)/none\" >&3\necho commit >&3\n", " undo=none"},
};

TEST_EACH(killed_child_had_something_to_undo_or_not, recorded)
{
    char body[256];
    snprintf(body, sizeof body, "%secho ready >&2; sleep 1000", recorded[_i].records);
    struct server *s = serve(body);
    int c = get(s, "/p/");
    log_wait(s, " ready");
    kill(only_child(s->pid), SIGKILL);
    const char *line = log_wait(s, " killed undo=");
    must_say(strstr(line, recorded[_i].undo), "%s", line);
    must(hear(c).status == 500 && no_scratch());
    server_stop(s);
}

/* kill -9 of the server and the child together: the next start ends the daemons first, and then
 * undoes: a daemon that makes its file again and again would win otherwise. */
TEST(next_start_ends_the_daemons_first)
{
    struct server *s =
        serve("f=$(dirname $PWD)/file; echo \"unlink $f\" >&3\n"
              "(setsid sh -c \"echo \\$\\$ >>../pids; while :; do touch $f; done\" & )\n"
              "echo $$ >../pid; echo ready >&2; sleep 1000");
    int c = get(s, "/p/");
    log_wait(s, " ready");
    wait_for_family();
    wait_exists(at("file"));
    pid_t child = only_child(s->pid);
    kill(s->pid, SIGSTOP);
    kill(child, SIGKILL);
    server_kill(s, SIGKILL);
    must(hear(c).reset);
    wait_until(!is_alive(pid_in(at("pid")))); /* the program itself dies with its child */
    must(is_alive(pid_in(at("pids"))) && exists(at("file")));
    struct server *next = hangupd("/p=%s", at("cgi/program"));
    log_wait(next, " left by a dead server: undone");
    log_wait(next, "recovered from a dead server");
    must(!is_alive(pid_in(at("pids"))) && !exists(at("file")));
    must(no_scratch());
    server_stop(next);
}

/* An undo command, which the next server runs after it has taken the ledger over, may need what is
 * in the scratch directory; that goes with it, also where the program has thrown its own records
 * away. */
static const char *const undo_commands[] = {
    "echo 'rm ../../../file' >$TMPDIR/undo; echo \"run cd $TMPDIR && sh ./undo\" >&3\n",
    "touch $TMPDIR/x; echo \"run [ -e $TMPDIR/x ] && rm $f\" >/dev/fd/3\n",
};

TEST_EACH(next_start_undoes_with_the_scratch_directory, undo_commands)
{
    char text[1024];
    snprintf(text, sizeof text, "f=$(dirname $PWD)/file; touch $f\n%secho ready >&2; sleep 1000",
             undo_commands[_i]);
    struct server *s = serve(text);
    int c = get(s, "/p/");
    log_wait(s, " ready");
    pid_t child = only_child(s->pid);
    kill(s->pid, SIGSTOP);
    kill(child, SIGKILL);
    server_kill(s, SIGKILL);
    must(hear(c).reset && exists(at("file")));
    struct server *next = hangupd("/p=%s", at("cgi/program"));
    log_wait(next, " undone at last");
    must(!log_has(next, "could not undo") && !exists(at("file")));
    must(no_scratch());
    server_stop(next);
}

/* What was there before the server, it leaves alone. */
TEST(strangers_live_on)
{
    script("program", "(setsid sh -c '" SAY_PID "exec sleep 1000' & )\n"
                      "while ! [ -s ../pids ]; do sleep 0.01; done; echo ready >&2; sleep 1000");
    char text[1024];
    snprintf(
        text, sizeof text,
        "#!/bin/sh\nsetsid sleep 1000 & echo $! >%s\n(sleep 1000 & echo $! >%s)\nexec %s \"$@\"\n",
        at("stranger"), at("orphan"), the_hangupd());
    file_write(at("start"), text);
    must(chmod(at("start"), 0755) == 0);
    struct server *s = server_start(at("start"), "/p=%s", at("cgi/program"));
    int c = get(s, "/p");
    log_wait(s, " ready");
    pid_t stranger = pid_in(at("stranger")), children[3] = {0};
    wait_until(children_of(s->pid, children, 3) == 2);
    kill(children[children[0] == stranger], SIGKILL); /* then what is left is looked for */
    log_wait(s, " killed undo=");
    close(c);
    must(!is_alive(pid_in(at("pids"))));
    must(is_alive(stranger) && is_alive(pid_in(at("orphan"))));
    kill(stranger, SIGKILL);
    kill(pid_in(at("orphan")), SIGKILL);
    wait_until(!is_alive(stranger) && !is_alive(pid_in(at("orphan"))));
    server_stop(s);
}

/* As the first process of a namespace, as in a container, it gets orphans that were never its own,
 * from before its start and later. */
TEST(strangers_of_a_container_live_on)
{
    if (run("unshare --pid --fork --mount-proc true").status != 0) {
        test_skipped("strangers_of_a_container_live_on", "no PID namespaces");
        return;
    }
    script("program", "(setsid sh -c 'echo up >&9; exec sleep 1000' 9>../life &)\n"
                      "echo ready >&2; sleep 1000");
    char text[1024];
    snprintf(text, sizeof text,
             "#!/bin/sh\nexec unshare --pid --fork --kill-child --mount-proc sh -c '\n"
             "setsid sleep 1000 &\nexec %s \"$@\"' sh \"$@\"\n",
             the_hangupd());
    file_write(at("start"), text);
    must(chmod(at("start"), 0755) == 0 && mkfifo(at("life"), 0600) == 0);
    int life = open(at("life"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    must(life >= 0);
    struct server *s = server_start(at("start"), "/p=%s", at("cgi/program"));
    pid_t server = only_child(s->pid), strangers[4] = {0}, left[4] = {0};
    char word[8];
    char pid[16];
    snprintf(pid, sizeof pid, "%d", (int)server);
    must(run_argv((const char *const[]){"nsenter", "-t", pid, "--pid", "sh", "-c",
                                        "setsid sleep 1000 >/dev/null 2>&1 &", NULL},
                  NULL, true)
             .status == 0);
    wait_until(children_of(server, strangers, 4) == 2);
    int c = get(s, "/p");
    log_wait(s, " ready");
    wait_until(read(life, word, sizeof word) == 3);
    wait_until(children_of(server, left, 4) == 3);
    for (int i = 0; i < 3; i++)
        if (left[i] != strangers[0] && left[i] != strangers[1])
            kill(left[i], SIGKILL); /* its processes are looked for among all the server's */
    log_wait(s, " killed undo=");
    close(c);
    wait_until(read(life, word, sizeof word) == 0); /* the daemon is gone */
    must(children_of(server, left, 4) == 2 && left[0] == strangers[0] && left[1] == strangers[1]);
    kill(server, SIGTERM);
    log_wait(s, " stopped");
    must(server_wait(s) == 0);
}

/* A long-lived program whose orphans come to its child, which must reap them. */
TEST(orphans_are_reaped_meanwhile)
{
    struct server *s = serve("i=0; while [ $i -lt 50 ]; do i=$((i+1)); (setsid true &); done\n"
                             "echo ready >&2; sleep 1000");
    int c = get(s, "/p/");
    log_wait(s, " ready");
    pid_t child = only_child(s->pid);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)child, (int)child);
    wait_until(strlen(file_read(path)) < 20); /* one or two pids: the shell, its sleep not ours */
    close_fin(c);
    log_wait(s, " hangup undo=");
    server_stop(s);
}

/* ---- The examples -------------------------------------------------------------------------- */

THEME("examples");

static struct server *serve_example(const char *route, const char *name)
{
    must(mkdir(at("things"), 0755) == 0);
    char env[4 * PATH_MAX], path[PATH_MAX];
    const char *it = at("things");
    snprintf(env, sizeof env, "env=REPORTS=%s,env=CLOUD=%s,env=VIDEOS=%s,env=EXPORTS=%s", it, it,
             it, it);
    bool script = strchr(name, '.') != NULL;
    snprintf(path, sizeof path, "%s%s/%s", getenv(script ? "TESTS" : "EXAMPLES"),
             script ? "/examples" : "", name);
    return hangupd("%s=%s,%s --undo-again 0", route, path, env);
}

TEST(example_in_sh)
{
    struct server *s = serve_example("/report", "example_report.sh");
    struct output o = curl(s, "-f /report?name=q3&lines=3");
    must_say(o.status == 0 && strncmp(o.text, at("things/q3-"), strlen(at("things/q3-"))) == 0,
             "%s", o.text);
    o.text[strlen(o.text) - 1] = '\0';
    must(strcmp(file_read(o.text), "1,1\n2,4\n3,9\n") == 0 && unlink(o.text) == 0);
    must(strstr(curl(s, "-i /report?name=../x").text, "400") != NULL);
    log_mark(s);
    int c = get(s, "/report?name=q4&lines=1000");
    log_wait(s, "writing %s", at("things/q4-"));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(is_empty(at("things")));
    server_stop(s);
}

TEST_TIMES(example_in_python, 2)
{
    struct server *s = serve_example("/machine", "example_cloud.py");
    struct output o = curl(s, "-f /machine");
    must_say(o.status == 0 && strncmp(o.text, "machine-", 8) == 0, "%s", o.text);
    o.text[strlen(o.text) - 1] = '\0';
    must(strcmp(file_read(at("things/%s", o.text)), "running\n") == 0);
    must(unlink(at("things/%s", o.text)) == 0);
    log_mark(s);
    int c = get(s, "/machine?seconds=1000");
    if (_i == 0)
        wait_until(!is_empty(at("things"))); /* in the midst of the making */
    else
        log_wait(s, " made machine-");
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(is_empty(at("things")));
    server_stop(s);
}

TEST(example_in_perl)
{
    struct server *s = serve_example("/video", "example_transcode.pl");
    file_write(at("data"), "x");
    must(truncate(at("data"), 3000) == 0);
    struct output o = curl(s, "-f --data-binary @data /video");
    must_say(o.status == 0 && strcmp(o.text, "frame\nframe\nframe\ndone\n") == 0, "%s", o.text);
    must(!is_empty(at("things")));
    must(run_argv((const char *const[]){"sh", "-c", "rm things/*", NULL}, NULL, true).status == 0);
    must(truncate(at("data"), 10000000) == 0);
    pid_t caller = curl_start(s, "--data-binary @data /video");
    wait_until(!is_empty(at("things")));
    log_mark(s);
    kill(caller, SIGINT);
    waitpid(caller, NULL, 0);
    log_wait(s, " hangup undo=ok");
    must(is_empty(at("things")));
    no_process_left();
    server_stop(s);
}

TEST(example_in_c)
{
    struct server *s = serve_example("/export", "example_export");
    struct output o = curl(s, "-f -d hello /export");
    must_say(o.status == 0, "%s", o.text);
    o.text[strlen(o.text) - 1] = '\0';
    must(strcmp(file_read(at("things/%s/data", strrchr(o.text, '/') + 1)), "hello") == 0);
    log_mark(s);
    int c = get(s, "/export?wait");
    const char *line = log_wait(s, "committed ");
    char path[4096];
    must(sscanf(strstr(line, "committed "), "committed %4095s", path) == 1);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must_say(exists(path), "what was committed is gone");
    server_stop(s);
}

/* The README's script, with its stand-in for a cloud. */
TEST(readme_machine)
{
    char *text = readme_block("sh", "# machine.sh");
    text = replaced(text, "sleep 5", "[ \"$QUERY_STRING\" = quick ] || sleep 1000");
    file_write(at("machine.sh"), text);
    must(chmod(at("machine.sh"), 0755) == 0);
    free(text);
    char path[8192], target[4096];
    snprintf(target, sizeof target, "%s/examples/example_cloudctl.sh", getenv("TESTS"));
    must(mkdir(at("bin"), 0755) == 0 && mkdir(at("cloud"), 0755) == 0);
    must(symlink(target, at("bin/cloud")) == 0);
    snprintf(path, sizeof path, "%s:%s", at("bin"), getenv("PATH"));
    setenv("PATH", path, 1);
    struct server *s =
        hangupd("/machine=./machine.sh,env=CLOUD=%s --undo-retries 0 --undo-again 1", at("cloud"));
    struct output o = curl(s, "-f /machine?quick");
    must_say(o.status == 0 && strstr(o.text, " is yours\n") != NULL, "%s", o.text);
    o.text[strcspn(o.text, " ")] = '\0';
    must(exists(at("cloud/%s", o.text)));
    log_mark(s);
    int c = get(s, "/machine");
    wait_until(run("ls %s", at("cloud")).length > strlen(o.text) + 2);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(strncmp(run("ls %s", at("cloud")).text, o.text, strlen(o.text)) == 0 &&
         run("ls %s", at("cloud")).length == strlen(o.text) + 1);
    log_wait(s, " second look: done");
    server_stop(s);
}

/* ---- git ------------------------------------------------------------------------------------ */

/* A clone and a push of real git, large enough for chunked and gzip-coded bodies. */
TEST(git_over_http)
{
    static const char prepare[] =
        "set -e; export HOME=$PWD GIT_CONFIG_NOSYSTEM=1\n"
        "git init -q -b main --bare repo.git; git -C repo.git config http.receivepack true\n"
        "git init -q -b main first; cd first; git config user.email t@example.org; "
        "git config user.name t\n"
        "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i >f$i; done\n"
        "head -c 3000000 /dev/urandom >big; git add .; git commit -qm one\n"
        "i=0; while [ $i -lt 60 ]; do i=$((i+1)); git tag t$i; done\n";
    static const char exchange[] =
        "set -e; export HOME=$PWD GIT_CONFIG_NOSYSTEM=1\n"
        "git -C first push -q $1 main --tags\n"
        "git clone -q $1 second; cmp first/big second/big\n"
        "cd second; git config user.email t@example.org; git config user.name t\n"
        "echo more >>f1; git commit -qam two; git push -q origin main\n"
        "cd ../first; git fetch -q $1; git -C ../second rev-parse HEAD >../a; "
        "git rev-parse FETCH_HEAD >../b; cmp ../a ../b\n";
    struct output o = run_argv((const char *const[]){"sh", "-c", prepare, NULL}, NULL, true);
    must_say(o.status == 0, "%s", o.text);
    setenv("HOME", test_dir, 1);
    o = run("git --exec-path");
    o.text[strcspn(o.text, "\n")] = '\0';
    struct server *s =
        hangupd("/git/=%s/git-http-backend,env=GIT_PROJECT_ROOT=%s,env=GIT_HTTP_EXPORT_ALL=1",
                o.text, test_dir);
    char url[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/git/repo.git", s->port);
    o = run_argv((const char *const[]){"sh", "-c", exchange, "sh", url, NULL}, NULL, true);
    must_say(o.status == 0, "%s", o.text);
    log_wait(s, "\"POST /git/repo.git/git-receive-pack HTTP/1.1\" 200 ");
    log_wait(s, "\"POST /git/repo.git/git-upload-pack HTTP/1.1\" 200 ");
    server_stop(s);
}
