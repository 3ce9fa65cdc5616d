/* check_start.c: the command line, sockets and super-servers, tests/deploy, and --user. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

SUITE();

/* ---- The command line ---------------------------------------------------------------------- */

THEME("command line");

static const struct {
    const char *words, *wrong, *right; /* what the message must name */
} mistakes[] = {
    {"--bogus", "--bogus", "--help"},
    {"-z", "-z", "--help"},
    {"--requests many", "--requests", "many"},
    {"--requests 0", "--requests", "0"},
    {"--requests -1", "--requests", "-1"},
    {"--requests", "--requests", ""},
    {"--connections 1.5", "--connections", "1.5"},
    {"--per-client x", "--per-client", "x"},
    {"--timeout 5y", "--timeout", "5y"},
    {"--grace -1", "--grace", "-1"},
    {"--undo-at-once 0", "--undo-at-once", "0"},
    {"--undo-retries x", "--undo-retries", "x"},
    {"--undo-timeout x", "--undo-timeout", "x"},
    {"--drain forever", "--drain", "forever"},
    {"--queue-timeout x", "--queue-timeout", "x"},
    {"--header-timeout x", "--header-timeout", "x"},
    {"--body-timeout x", "--body-timeout", "x"},
    {"--idle-timeout x", "--idle-timeout", "x"},
    {"--send-timeout x", "--send-timeout", "x"},
    {"--dead-peer x", "--dead-peer", "x"},
    {"--idle-exit x", "--idle-exit", "x"},
    {"--max-body 12q", "--max-body", "12q"},
    {"--max-header x", "--max-header", "x"},
    {"--max-target x", "--max-target", "x"},
    {"--listen 127.0.0.1", "--listen", "PORT"},
    {"--listen 127.0.0.1:99999", "99999", ""},
    {"--listen [::1:80", "--listen", "[::1:80"},
    {"--listen unix:", "--listen", "unix:"},
    {"--listen no.such.host:80", "no.such.host", "address"},
    {"--listen [fe80::1%nosuchlink]:80", "fe80::1%nosuchlink", "address"},
    {"--half-close maybe", "--half-close", "probe"},
    {"--on-hangup cry", "--on-hangup", "undo"},
    {"--log xml", "--log", "json"},
    {"--options nobody", "--options", "server"},
    {"--tmpdir mine", "--tmpdir", "leave"},
    {"--cpu x", "--cpu", "x"},
    {"--memory 12q", "--memory", "12q"},
    {"--processes x", "--processes", "x"},
    {"--file-size x", "--file-size", "x"},
    {"--pass-env A=1", "A=1", "env=NAME=VALUE"},
    {"--pass-env LANG,HTTP_PROXY", "HTTP_PROXY", "none of the server's"},
    {"--pass-env TMPDIR", "TMPDIR", "none of the server's"},
    {"--node a/b", "--node a/b", "letters"},
    {"--node ''", "--node", "1 to 64"},
    {"--log-to file", "--log-to", "syslog"},
    {"a=@a", "a=@a", "/"},
    {"/a", "/a", "="},
    {"/a=@nobody", "@nobody", "@a"},
    {"/a=", "/a=", ""},
    {"/a=@a,colour=red", "colour", "timeout"},
    {"/a=@a,timeout=x", "timeout", "x"},
    {"/a=@a,half-close=x", "half-close", "probe"},
    {"/a=@a,on-hangup=x", "on-hangup", "finish"},
    {"/a=@a /a=@a", "/a", ""},
};

TEST_EACH(mistake_is_explained, mistakes)
{
    struct output o = run("%s --state %s --listen 127.0.0.1:0 %s", the_hangupd(), at("state"),
                          mistakes[_i].words);
    must_say(o.status == 2, "%s: %d: %s", mistakes[_i].words, o.status, o.text);
    must_say(strstr(o.text, mistakes[_i].wrong) && strstr(o.text, mistakes[_i].right), "%s: %s",
             mistakes[_i].words, o.text);
    must(!state_is_there());
}

TEST(help_names_every_option)
{
    static const char *const options[] = {
        "--listen",         "--inetd",        "--idle-exit",    "--user",
        "--requests",       "--connections",  "--per-client",   "--queue-timeout",
        "--header-timeout", "--body-timeout", "--timeout",      "--idle-timeout",
        "--send-timeout",   "--dead-peer",    "--grace",        "--drain",
        "--max-body",       "--max-header",   "--max-target",   "--half-close",
        "--on-hangup",      "--state",        "--sync",         "--log",
        "--log-to",         "--help",         "--version",      "timeout=",
        "on-hangup=",       "half-close=",    "127.0.0.1:8080", "--undo-timeout",
        "--undo-retries",   "--undo-at-once", "hangupd undo",   "hangupd recover",
        "--undo-give-up",   "--socket-mode",  "--socket-group", "--check",
        "--node",
    };
    const char *argv[] = {the_hangupd(), "--help", NULL};
    struct output o = run_argv(argv, NULL, false);
    must(o.status == 0);
    for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        must_say(strstr(o.text, options[i]), "%s is not in --help", options[i]);
    argv[1] = "--version";
    o = run_argv(argv, NULL, false);
    must_say(o.status == 0 && strncmp(o.text, "hangupd ", 8) == 0, "%s", o.text);
}

TEST(state_that_cannot_be_used)
{
    struct output o;
    file_write(at("file"), "");
    o = run("%s --listen 127.0.0.1:0 --state %s", the_hangupd(), at("file"));
    must_say(o.status == 1 && strstr(o.text, at("file")), "%d: %s", o.status, o.text);
    must(mkdir(at("open"), 0755) == 0);
    o = run("%s --listen 127.0.0.1:0 --state %s", the_hangupd(), at("open"));
    must_say(o.status == 1 && strstr(o.text, at("open")) && strstr(o.text, "700"), "%d: %s",
             o.status, o.text);
    if (geteuid() != 0)
        return;
    must(mkdir(at("theirs"), 0700) == 0 && chown(at("theirs"), 65534, 65534) == 0);
    o = run("%s --listen 127.0.0.1:0 --state %s", the_hangupd(), at("theirs"));
    must_say(o.status == 1 && strstr(o.text, at("theirs")) && strstr(o.text, "another user"),
             "%d: %s", o.status, o.text);
}

TEST(state_is_private)
{
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    struct output o = run("find %s -perm /077", at("state"));
    must_say(o.length == 0, "%s", o.text);
    o = run("grep -r -l unlink-if %s", at("state"));
    must_say(o.status == 0, "there is no ledger: %s", run("ls -lR %s", at("state")).text);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}

/* ---- Listening ----------------------------------------------------------------------------- */

THEME("listening");

TEST(several_sockets)
{
    struct server *s = things("--listen 127.0.0.1:0 --listen unix:sock --listen 127.0.0.1:0");
    log_wait(s, "listening on unix:");
    wait_until(log_count(s, "listening on 127.0.0.1:") == 2);
    const char *first = strstr(s->text, "127.0.0.1:"), *second = strstr(first + 5, "127.0.0.1:");
    struct server other = {.port = (unsigned)atoi(second + 10)};
    must(other.port != s->port);
    must(hear_answer(get(s, "/who"), false).status == 200);
    must(hear_answer(get(&other, "/who"), false).status == 200);
    struct output o = curl(s, "--unix-socket sock /who");
    must_say(o.status == 0 && strstr(o.text, "client unix"), "%s", o.text);
    server_stop(s);
    must_say(!exists(at("sock")), "the socket's path was left");
}

static int get_unix(const char *target)
{
    int fd = dial_unix("sock");
    say(fd, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", target);
    return fd;
}

static const char *format(const char *how, const char *path)
{
    static char text[8192];
    snprintf(text, sizeof(text), "%s%s", how, path);
    return text;
}

TEST(unix_answer_is_kept)
{
    struct server *s = things("--listen unix:sock");
    static const char *const kinds[] = {
        "/make?path=", "/stream?path=", "/length?path=", "/big?bytes=2000000&path="};
    for (unsigned i = 0; i < 40; i++) {
        int c = get_unix(format(kinds[i % 4], at("f%u", i)));
        must(hear_answer(c, false).status == 200);
        close_fin(c);
    }
    wait_until(log_count(s, " ok undo=none") == 40);
    for (unsigned i = 0; i < 40; i++)
        must(exists(at("f%u", i)));
    struct output o = run("curl -sS -0 -f --unix-socket sock http://x/stream?path=%s", at("old"));
    must_say(o.status == 0 && exists(at("old")), "%s", o.text);
    server_stop(s);
}

TEST(unix_hangup_undoes)
{
    struct server *s = things("--listen unix:sock");
    int c = get_unix(format("/make?seconds=60&path=", at("file")));
    wait_made(s, at("file"));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    log_mark(s);
    c = get_unix(format("/big?bytes=5000000&path=", at("file")));
    hear_until(c, "bbb");
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}

TEST(unix_half_close_is_answered)
{
    struct server *s = things("--listen unix:sock");
    int c = get_unix(format("/make?seconds=0.3&path=", at("file")));
    wait_made(s, at("file"));
    shutdown(c, SHUT_WR);
    struct heard h = hear(c);
    must_say(h.status == 200, "%s", h.text);
    log_wait(s, " ok undo=none");
    must(exists(at("file")));
    server_stop(s);
}

TEST(unix_answer_that_is_cut)
{
    struct server *s = things("--listen unix:sock");
    /* What must end with the connection is held back whole there: then it is a plain 500. */
    for (int way = 0; way < 4; way++) {
        struct output o = run("curl -sS -f -o body %s --unix-socket sock http://x/cut?%spath=%s",
                              way % 2 ? "-0" : "-H X:1", way / 2 ? "length&" : "", at("file"));
        must_say(o.status != 0, "curl was content: %d: %s", way, o.text);
        wait_until(log_count(s, " error undo=ok") == (unsigned)way + 1);
        must(!exists(at("file")));
    }
    server_stop(s);
}

TEST(unix_path_that_was_left)
{
    struct server *s = things("--listen unix:sock");
    server_kill(s, SIGKILL);
    must(exists(at("sock")));
    s = things("--listen unix:sock");
    must(hear_answer(get_unix("/who"), false).status == 200);

    struct output o = run("%s --state %s --listen unix:sock", the_things(), at("state2"));
    must_say(o.status != 0 && strstr(o.text, "sock"), "%s", o.text);
    must(hear_answer(get_unix("/who"), false).status == 200);
    server_stop(s);

    file_write(at("sock"), "not a socket");
    o = run("%s --state %s --listen unix:sock", the_things(), at("state2"));
    must_say(o.status != 0 && strstr(o.text, "sock"), "%s", o.text);
    must(strcmp(file_read(at("sock")), "not a socket") == 0);
}

TEST(every_address)
{
    struct server *s = things("--listen :0");
    struct output o = run("curl -sS http://127.0.0.1:%u/who", s->port);
    must_say(o.status == 0 && strstr(o.text, "client 127.0.0.1:"), "%s", o.text);
    if (strstr(log_wait(s, "listening on "), "[::]")) {
        o = run("curl -sS -g http://[::1]:%u/who", s->port);
        must_say(o.status == 0 && strstr(o.text, "client [::1]:"), "%s", o.text);
    }
    server_stop(s);
    s = things("--listen localhost:0");
    log_wait(s, "listening on 127.0.0.1:");
    server_stop(s);
}

TEST(ipv6)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        test_skipped("ipv6", "there is no ::1 here");
        return;
    }
    close(fd);
    struct server *s = things("--listen [::1]:0");
    log_wait(s, "listening on [::1]:");
    struct output o = run("curl -sS -g http://[::1]:%u/who", s->port);
    must_say(o.status == 0 && strstr(o.text, "client [::1]:"), "%s", o.text);
    server_stop(s);
    s = things("--listen :0");
    o = run("curl -sS -f http://127.0.0.1:%u/who", s->port);
    must_say(o.status == 0 && strstr(o.text, "client 127.0.0.1:"), "%s", o.text);
    server_stop(s);
}

TEST(address_that_is_taken)
{
    struct server *s = things("%s", "");
    struct output o =
        run("%s --state %s --listen 127.0.0.1:%u", the_things(), at("state2"), s->port);
    char port[16];
    snprintf(port, sizeof(port), ":%u", s->port);
    must_say(o.status == 1 && strstr(o.text, port) && strstr(o.text, "in use"), "%d: %s", o.status,
             o.text);
    server_stop(s);
}

TEST_TIMES(handed_connection_is_served, 2)
{
    int c;
    struct server *s = serve_connection(_i, &c, _i ? "" : "--inetd");
    say(c, "GET /make?path=%s HTTP/1.1\r\nHost: test\r\n\r\n", at("one"));
    struct heard h = hear_answer(c, false);
    must_say(strncmp(h.text, "HTTP/1.1 200 OK\r\n", 17) == 0, "%s", h.text);
    say(c, "GET /make?path=%s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", at("two"));
    h = hear(c);
    must_say(strncmp(h.text, "HTTP/1.1 200 OK\r\n", 17) == 0 && !h.reset, "%s", h.text);
    must_say(strcmp(h.text + h.length - 5, "made\n") == 0, "more than HTTP came: %s", h.text);
    must(server_wait(s) == 0);
    must(exists(at("one")) && exists(at("two")));
}

TEST_TIMES(handed_connection_that_hangs_up, 2)
{
    int c;
    struct server *s = serve_connection(_i, &c, _i ? "" : "--inetd");
    say(c, "GET /make?path=%s&seconds=60 HTTP/1.1\r\nHost: test\r\n\r\n", at("file"));
    wait_exists(at("file"));
    must(is_quiet(c));
    close_fin(c);
    must(server_wait(s) == 0 && !exists(at("file")));
}

TEST_TIMES(handed_connection_that_says_nothing, 2)
{
    int c;
    struct server *s = serve_connection(_i, &c, _i ? "" : "--inetd");
    close_fin(c);
    must(server_wait(s) == 0);
}

TEST(handed_connection_with_trouble)
{
    /* What would be said on stderr elsewhere must not reach the client. */
    int c;
    struct server *s = serve_connection(false, &c, "--inetd");
    say(c, "GET /crash?path=%s HTTP/1.1\r\nHost: test\r\n\r\n", at("file"));
    struct heard h = hear(c);
    must_say(strncmp(h.text, "HTTP/1.1 500 ", 13) == 0, "%s", h.text);
    const char *body = strstr(h.text, "\r\n\r\n") + 4;
    must_say(strlen(body) == strtoul(field(h, "Content-Length"), NULL, 10), "%s", h.text);
    must(server_wait(s) == 0 && !exists(at("file")));
}

TEST_TIMES(handed_listener_is_served, 2)
{
    struct server here;
    int fd = listening_socket(&here.port);
    struct server *s = _i ? server_spawn(the_things(), "--idle-exit 0.5", -1, false, fd)
                          : server_spawn(the_things(), "--inetd --idle-exit 0.5", fd, true, -1);
    for (int i = 0; i < 3; i++) {
        int c = get(&here, "/make?path=%s", at("f%d", i));
        must(hear_answer(c, false).status == 200);
        close_fin(c);
    }
    int c = get(&here, "/make?path=%s&seconds=60", at("file"));
    wait_exists(at("file"));
    close_fin(c);
    wait_gone(at("file"));
    must(server_wait(s) == 0);
    for (int i = 0; i < 3; i++)
        must(exists(at("f%d", i)));
    close(fd);
}

/* A server that leaves waits for a janitor, and sleeps meanwhile. */
TEST(leaving_does_not_spin)
{
    struct server *s = things("--idle-exit 1.4");
    int c = get(s, "/records?run1=%s&seconds=60",
                "if+test+-e+tried;+then+exec+sleep+3;+fi;+:+>tried;+false");
    log_wait(s, " recorded pid ");
    close_fin(c);
    log_wait(s, " hangup undo=failed");
    log_wait(s, " - stopping\n");
    long before = processor_ms(s->pid);
    poll(NULL, 0, 1000);
    long used = processor_ms(s->pid) - before;
    must_say(used < 200, "it spins: %ld of 1000 ms", used);
    must(server_wait(s) == 0);
    must(log_has(s, " undone at last"));
}

TEST(descriptor_that_is_no_socket)
{
    const char *argv[] = {the_hangupd(), "--inetd", "--state", at("state"), NULL};
    struct output o = run_argv(argv, "GET / HTTP/1.0\r\n\r\n", true);
    must_say(o.status != 0 && strstr(o.text, "socket") && strstr(o.text, "--inetd"), "%d: %s",
             o.status, o.text);
    must(!state_is_there());
}

/* Find PROGRAM where the Makefile may have put it. */
static bool find_program(const char *program, char *path, size_t size)
{
    const char *value = getenv("PATH");
    char *search = strdup(value ? value : ""), *rest_of_it = search;
    bool found = false;
    for (char *directory; !found && (directory = strsep(&rest_of_it, ":"));) {
        snprintf(path, size, "%s/%s", directory, program);
        found = access(path, X_OK) == 0;
    }
    free(search);
    return found;
}

static void stop_daemon(pid_t pid)
{
    int status;
    kill(pid, SIGTERM);
    must(waitpid(pid, &status, 0) == pid);
}

static bool port_is_open(unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool open_there = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
    close(fd);
    return open_there;
}

static const char *user_name(void)
{
    const struct passwd *user = getpwuid(geteuid());
    must(user);
    return user->pw_name;
}

/* Requests through a super-server on PORT: answered, hung up, and again. */
static void use_super_server(unsigned port, pid_t daemon)
{
    struct server there = {.port = port};
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (!port_is_open(port)) {
        must_say(now_ms() < deadline, "%s", file_read(at("daemon.log")));
        rest();
    }
    for (int i = 0; i < 3; i++) {
        int c = dial(&there);
        say(c, "GET /make?path=%s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
            at("f%d", i));
        struct heard h = hear(c);
        must_say(strncmp(h.text, "HTTP/1.1 200 OK\r\n", 17) == 0 && !h.reset &&
                     strcmp(h.text + h.length - 5, "made\n") == 0,
                 "%s\n%s", h.text, file_read(at("daemon.log")));
        close(c);
        must(exists(at("f%d", i)));
    }
    struct output o = curl(&there, "-f /who");
    must_say(o.status == 0 && strstr(o.text, "client 127.0.0.1:"), "%s", o.text);
    int c = get(&there, "/tree?path=%s&seconds=60", at("tree"));
    wait_exists(at("tree/below/two"));
    close_fin(c);
    wait_gone(at("tree"));
    wait_until(!state_is_there());
    stop_daemon(daemon);
    wait_no_process();
    nothing_left();
}

TEST_TIMES(xinetd, 2)
{
    char program[4096], config[16384];
    unsigned port;
    if (!find_program("xinetd", program, sizeof(program))) {
        test_skipped("xinetd", "it is not installed");
        return;
    }
    close(listening_socket(&port));
    snprintf(config, sizeof(config),
             "defaults\n{\n    log_type = FILE %s\n    instances = UNLIMITED\n    cps = 1000 1\n}\n"
             "service hangupd\n{\n    type = UNLISTED\n    bind = 127.0.0.1\n    port = %u\n"
             "    socket_type = stream\n    protocol = tcp\n    wait = %s\n    user = %s\n"
             "    server = %s\n    server_args = --inetd --state %s %s\n}\n",
             at("xinetd.log"), port, _i ? "yes" : "no", user_name(), the_things(), at("state"),
             _i ? "--idle-exit 0.3" : "");
    file_write(at("xinetd.conf"), config);
    char command[16384];
    snprintf(command, sizeof(command), "exec %s -f %s -dontfork -pidfile %s >daemon.log 2>&1",
             program, at("xinetd.conf"), at("pid"));
    use_super_server(port, start_shell(command));
}

TEST_TIMES(inetd, 2)
{
    char program[4096], config[16384];
    unsigned port;
    if (!find_program("inetd", program, sizeof(program))) {
        test_skipped("inetd", "it is not installed");
        return;
    }
    close(listening_socket(&port));
    snprintf(config, sizeof(config),
             "127.0.0.1:%u stream tcp %s %s %s hangupd --inetd --state %s %s\n", port,
             _i ? "wait" : "nowait.1000", user_name(), the_things(), at("state"),
             _i ? "--idle-exit 0.3" : "");
    file_write(at("inetd.conf"), config);
    char command[16384];
    snprintf(command, sizeof(command), "exec %s -i -E %s >daemon.log 2>&1", program,
             at("inetd.conf"));
    use_super_server(port, start_shell(command));
}

/* ---- The configurations in tests/deploy, as they stand but for what differs here -- */

static void use_deployed(const char *name, const char *daemon, const char *arguments)
{
    char program[4096], command[16384], number[16];
    unsigned port;
    if (!find_program(daemon, program, sizeof(program))) {
        test_skipped(daemon, "it is not installed");
        return;
    }
    close(listening_socket(&port));
    snprintf(number, sizeof(number), "%u", port);
    char *config = deploy_file(name);
    config = replaced(config, "8080", number);
    /* Its user of its own, where it stands in each of them. */
    const char *before = strstr(config, "= hangupd\n") ? "= hangupd\n" : "nowait hangupd ";
    char user[64];
    snprintf(user, sizeof(user), "%.*s%s%s", (int)strcspn(before, "h"), before, user_name(),
             strstr(before, "hangupd") + strlen("hangupd"));
    config = replaced(config, before, user);
    config = replaced(config, "/usr/local/bin/hangupd", the_things());
    config = replaced(config, "/var/lib/hangupd", at("state"));
    file_write(at("deployed.conf"), config);
    free(config);
    snprintf(command, sizeof(command), "exec %s %s >daemon.log 2>&1", program, arguments);
    use_super_server(port, start_shell(command));
}

TEST(deployed_xinetd)
{
    use_deployed("xinetd.conf", "xinetd", "-f deployed.conf -dontfork -pidfile pid");
}

TEST(deployed_inetd)
{
    use_deployed("inetd.conf", "inetd", "-i -E deployed.conf");
}

/* What systemd would do with the two units: no systemd runs here, so a starter stands for it. */
TEST(deployed_systemd)
{
    char *unit = replaced(deploy_file("hangupd.service"), "/var/lib/hangupd", at("state"));
    const char *start = strstr(unit, "ExecStart=/usr/local/bin/hangupd ");
    must_say(start, "%s", unit);
    start += strlen("ExecStart=/usr/local/bin/hangupd ");
    char *words = strndup(start, strcspn(start, "\n"));
    must(words);
    struct server here;
    int fd = listening_socket(&here.port);
    struct server *s = server_spawn(the_things(), words, -1, false, fd);
    int c = get(&here, "/make?path=%s", at("kept"));
    must(hear_answer(c, false).status == 200);
    close_fin(c);
    c = get(&here, "/make?path=%s&seconds=60", at("file"));
    wait_exists(at("file"));
    close_fin(c);
    wait_gone(at("file"));
    kill(s->pid, SIGTERM);
    must(server_wait(s) == 0 && exists(at("kept")));
    close(fd);
    free(words);
    free(unit);
}

/* The words of hangupd in the line of tests/deploy/FILE that begins with START, for this test's
 * STATE. */
static void deployed_words(const char *file, const char *start, char *words, size_t size)
{
    static const char program[] = "/usr/local/bin/hangupd ";
    char *text = deploy_file(file);
    char *line = strstr(text, start);
    must_say(line, "%s: no %s: %s", file, start, text);
    line = strstr(line, program);
    must_say(line, "%s: no %s: %s", file, program, text);
    line += sizeof(program) - 1;
    line[strcspn(line, "\n")] = '\0';
    char *shell = strstr(line, " 2>&1");
    if (shell)
        *shell = '\0';
    char *here = replaced(strdup(line), "/var/lib/hangupd", at("state"));
    snprintf(words, size, "%s", here);
    free(here);
    free(text);
}

/* Without a caller, what a dead server has left is undone by what the machine starts. */
TEST_TIMES(deployed_after_a_crash, 4)
{
    static const struct {
        const char *file, *start;
    } starts[] = {{"hangupd.service", "ExecStart="},
                  {"hangupd-recover.service", "ExecStart="},
                  {"hangupd.cron", "@reboot "},
                  {"hangupd.cron", "*/10 "}};
    char words[8192];
    struct server *s = things("%s", "");
    (void)get(s, "/tree?path=%s&seconds=60", at("tree"));
    pid_t child = wait_made(s, at("tree"));
    must(kill(s->pid, SIGSTOP) == 0 && kill_child(s->pid, child));
    server_kill(s, SIGKILL);
    must(exists(at("tree")));
    deployed_words(starts[_i].file, starts[_i].start, words, sizeof(words));
    if (_i > 0) {
        struct output o = run("%s %s", the_hangupd(), words);
        must_say(o.status == 0 && strstr(o.text, " undone"), "%d: %s", o.status, o.text);
    } else {
        const char *unit = deploy_file(starts[_i].file);
        must(strstr(unit, "\nRestart=on-failure\n") &&
             strstr(unit, "\nWantedBy=multi-user.target"));
        struct server here;
        int fd = listening_socket(&here.port);
        s = server_spawn(the_things(), words, -1, false, fd);
        wait_gone(at("tree"));
        log_wait(s, "recovered from a dead server");
        close(fd);
        kill(s->pid, SIGTERM);
        must(server_wait(s) == 0);
    }
    must(!exists(at("tree")));
    nothing_left();
}

TEST(start_without_proc)
{
    if (geteuid() != 0 || !private_mounts()) {
        test_skipped("start_without_proc", "not root, or no mounts of one's own");
        return;
    }
    must(mount("none", "/proc", "tmpfs", 0, NULL) == 0);
    struct output o = run("%s --state %s --listen 127.0.0.1:0", the_hangupd(), at("state"));
    must(umount("/proc") == 0);
    must_say(o.status == 1 && strstr(o.text, "/proc cannot be read"), "%d: %s", o.status, o.text);
}

TEST(user_is_dropped_for_good)
{
    if (only_for_root("user_is_dropped_for_good"))
        return;
    struct server *s = things("--user nobody");
    const struct passwd *user = getpwnam("nobody");
    must(user);
    char path[64], uids[128], gids[128];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)s->pid);
    snprintf(uids, sizeof(uids), "Uid:\t%u\t%u\t%u\t%u\n", user->pw_uid, user->pw_uid, user->pw_uid,
             user->pw_uid);
    snprintf(gids, sizeof(gids), "Gid:\t%u\t%u\t%u\t%u\nFDSize", user->pw_gid, user->pw_gid,
             user->pw_gid, user->pw_gid);
    char *status = file_read(path);
    must_say(strstr(status, uids) && strstr(status, gids), "%s", status);
    char *groups = strstr(status, "\nGroups:");
    must_say(groups && strtoul(groups + 8, NULL, 10) != 0, "%s", status);
    must_say(strstr(status, "CapEff:\t0000000000000000\n"), "%s", status);

    must(mkdir(at("theirs"), 0777) == 0 && chown(at("theirs"), user->pw_uid, user->pw_gid) == 0);
    int c = get(s, "/tree?path=%s&seconds=60", at("theirs/tree"));
    wait_made(s, at("theirs/tree"));
    struct stat st;
    must(stat(at("theirs/tree/one"), &st) == 0 && st.st_uid == user->pw_uid);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("theirs/tree")));

    /* The death signal must have survived the change of user. */
    (void)get(s, "/make?path=%s&seconds=60", at("theirs/file"));
    pid_t pid = wait_made(s, at("theirs/file"));
    server_kill(s, SIGKILL);
    wait_until(!is_alive(pid));
    must(!exists(at("theirs/file")));
    s = things("--user nobody");
    server_stop(s);
}

/* The groups are those of /etc/group, and not root's. */
TEST(user_has_groups)
{
    if (geteuid() != 0 || !private_mounts()) {
        test_skipped("user_has_groups", "not root, or no mounts of one's own");
        return;
    }
    file_write(at("passwd"), "root:x:0:0::/:/bin/sh\nsomebody:x:4711:4712::/:/bin/sh\n");
    file_write(at("group"), "root:x:0:root\nfirst:x:4801:root,somebody\nown:x:4712:\n"
                            "not:x:4802:root\nneither:x:4803:somebody2\nlast:x:4804:somebody\n");
    must(mount(at("passwd"), "/etc/passwd", "none", MS_BIND, NULL) == 0 &&
         mount(at("group"), "/etc/group", "none", MS_BIND, NULL) == 0);
    struct server *s = things("--user somebody");
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)s->pid);
    char *status = file_read(path);
    must_say(strstr(status, "\nUid:\t4711\t4711\t4711\t4711\nGid:\t4712\t4712\t4712\t4712\n"), "%s",
             status);
    must_say(strstr(status, "\nGroups:\t4712 4801 4804 \n"), "%s", status);
    server_stop(s);
}

TEST(user_that_is_not_there)
{
    struct output o = run("%s --state %s --listen 127.0.0.1:0 --user no-such-user-at-all",
                          the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, "no-such-user-at-all"), "%d: %s", o.status, o.text);
    must(!state_is_there());
}

TEST(root_is_warned)
{
    struct server *s = things("%s", "");
    must(log_count(s, "--user") == (geteuid() == 0 ? 1 : 0));
    server_stop(s);
}

/* ---- Sockets of another user -------------------------------------------------------------------
 */

THEME("users' sockets");

TEST(socket_has_its_mode)
{
    struct stat st;
    struct server *s = things("--listen unix:sock --socket-mode 0620");
    must(lstat(at("sock"), &st) == 0);
    must_say((st.st_mode & 0777) == 0620, "%o", st.st_mode);
    server_stop(s);
    s = things("--listen unix:sock");
    must(lstat(at("sock"), &st) == 0);
    mode_t mask = umask(0);
    umask(mask);
    must_say((st.st_mode & 0777) == (0777 & ~mask), "%o", st.st_mode);
    server_stop(s);
    struct output o = run("%s --state %s --listen unix:sock --socket-group no-such-group-at-all",
                          the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, "no-such-group-at-all"), "%d: %s", o.status, o.text);
}

/* Connect as nobody to the socket "sock", and ask. */
static bool nobody_is_served(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        const struct passwd *user = getpwnam("nobody");
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        char text[64] = "";
        snprintf(to.sun_path, sizeof(to.sun_path), "%s", at("sock"));
        _exit(setgid(user->pw_gid) == 0 && setuid(user->pw_uid) == 0 &&
                      connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 &&
                      write(fd, "GET /who HTTP/1.0\r\n\r\n", 21) == 21 &&
                      read(fd, text, sizeof(text) - 1) > 12 && strstr(text, " 200 ")
                  ? 0
                  : 1);
    }
    return wait_status(pid) == 0;
}

/* In a directory of root's, where the server, as nobody, could not remove the name. */
TEST_TIMES(socket_is_its_users, 2)
{
    struct stat st;
    if (only_for_root("socket_is_its_users"))
        return;
    const struct passwd *user = getpwnam("nobody");
    must(user);
    uid_t uid = user->pw_uid;
    for (int round = 0; round < 2; round++) { /* again over a name that was left */
        struct server *s = things("--user nobody --listen unix:sock --socket-mode 0660 "
                                  "--socket-group daemon");
        must(lstat(at("sock"), &st) == 0);
        must_say(st.st_uid == uid && st.st_gid == 1 && (st.st_mode & 0777) == 0660, "%u:%u %o",
                 st.st_uid, st.st_gid, st.st_mode);
        must_say(nobody_is_served(), "nobody could not connect");
        if (_i == 1)
            server_kill(s, SIGKILL);
        else
            server_stop(s);
        wait_gone(at("sock"));
        wait_no_process();
    }
}

/* In a directory of nobody's only nobody makes it: root would follow his links. */
TEST(socket_below_users_directory)
{
    struct stat st;
    if (only_for_root("socket_below_users_directory"))
        return;
    const struct passwd *user = getpwnam("nobody");
    must(user && mkdir(at("theirs"), 0755) == 0 && mkdir(at("roots"), 0755) == 0);
    uid_t uid = user->pw_uid;
    must(chown(at("theirs"), user->pw_uid, user->pw_gid) == 0);
    must(symlink("../roots", at("theirs/run")) == 0);
    struct output o = run("%s --state %s --user nobody --listen unix:theirs/run/sock",
                          the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, "Permission denied"), "%d: %s", o.status, o.text);
    must(is_empty(at("roots")));
    struct server *s = things("--user nobody --listen unix:theirs/sock --listen 127.0.0.1:0");
    must(lstat(at("theirs/sock"), &st) == 0 && st.st_uid == uid);
    server_stop(s);
    must(!exists(at("theirs/sock")));
}

/* Nor does root make STATE there, or give it away. */
TEST_TIMES(state_below_users_directory, 2)
{
    struct stat st;
    if (only_for_root("state_below_users_directory"))
        return;
    const struct passwd *user = getpwnam("nobody");
    must(user && mkdir(at("theirs"), 0755) == 0 && mkdir(at("roots"), 0755) == 0);
    uid_t uid = user->pw_uid;
    must(chown(at("theirs"), user->pw_uid, user->pw_gid) == 0);
    must(symlink("../roots", at("theirs/run")) == 0);
    /* The second time root's own link leads there. */
    must(symlink("theirs/run", at("link")) == 0);
    struct output o = run("%s --state %s/below/state --user nobody --listen 127.0.0.1:0",
                          the_hangupd(), _i ? "link" : "theirs/run");
    must_say(o.status == 1 && strstr(o.text, "Permission denied"), "%d: %s", o.status, o.text);
    must_say(is_empty(at("roots")), "%s", run("ls -lR %s", at("roots")).text);
    struct server *s = things("--user nobody --state theirs/x/state");
    must(lstat(at("theirs/x"), &st) == 0 && st.st_uid == uid);
    must(lstat(at("theirs/x/state"), &st) == 0 && st.st_uid == uid);
    server_stop(s);
    o = run("%s recover --state theirs/x/state", the_hangupd());
    must_say(o.status == 0, "%s", o.text);
}

/* ---- Surroundings that are odd -----------------------------------------------------------------
 */

THEME("surroundings");

/* Start the server below `sh -c COMMAND exec ...`. */
static struct server *start_in(const char *command, const char *words)
{
    char text[8192];
    snprintf(text, sizeof(text), "#!/bin/sh\n%s\nexec %s \"$@\"\n", command, the_things());
    file_write(at("start"), text);
    must(chmod(at("start"), 0700) == 0);
    snprintf(text, sizeof(text), "--state %s --listen 127.0.0.1:0 %s", at("state"), words);
    return server_spawn(at("start"), text, -1, false, -1);
}

TEST(umask_that_forbids_all)
{
    struct server *s = start_in("umask 0777", "");
    const char *said = log_wait(s, "listening on ");
    s->port = (unsigned)atoi(strrchr(said, ':') + 1);
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    struct output o = run("find %s -perm 0", at("state"));
    must_say(o.length == 0, "%s", o.text);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    server_stop(s);
}

TEST(few_descriptors_are_told_at_the_start)
{
    struct server *s = start_in("ulimit -n 20", "");
    log_wait(s, "ulimit -n");
    must(server_wait(s) == 1);
    s = start_in("ulimit -n 100", "");
    log_wait(s, "listening on ");
    must_say(log_has(s, "--connections 4096; raise it with ulimit -n"), "%s", s->text);
    server_stop(s);
}

/* A log that has reached RLIMIT_FSIZE loses lines, and no requests. */
TEST(log_that_may_not_grow)
{
    file_write(at("log"), "");
    must(truncate(at("log"), 1 << 20) == 0);
    struct server *s = start_in("ulimit -f 2048; exec 2>>log", "--listen unix:sock");
    wait_until(run("curl -sS --unix-socket sock http://x/who").status == 0);
    struct output o = run("curl -sS --unix-socket sock http://x/make?path=%s", at("file"));
    must_say(o.status == 0 && strcmp(o.text, "made\n") == 0 && exists(at("file")), "%s", o.text);
    server_stop(s);
    struct stat st;
    must(stat(at("log"), &st) == 0 && st.st_size == 1 << 20);
}

/* Without /dev/null the server says so; when it goes later, an undo command's failure does. */
TEST_TIMES(dev_null_is_missing, 2)
{
    if (only_for_root("dev_null_is_missing"))
        return;
    char text[8192];
    snprintf(
        text, sizeof(text),
        "mount -t tmpfs none /dev\n"
        "[ %d = 1 ] || exec %s --state state --listen unix:sock >log 2>&1\n"
        "mknod /dev/null c 1 3\n"
        "%s --state state --listen unix:sock >log 2>&1 &\n"
        "until curl -sS --unix-socket sock http://x/who >out 2>&1; do sleep 0.05; done\n"
        "rm /dev/null\n"
        "curl -sS -m 0.3 --unix-socket sock 'http://x/records?run1=true&seconds=60' >out 2>&1\n"
        "until grep -q 'could not undo' log; do sleep 0.05; done\n"
        "kill $!; wait\n",
        _i, the_things(), the_things());
    file_write(at("script"), text);
    (void)run("unshare -m sh %s", at("script"));
    must_say(strstr(file_read(at("log")), "could not open /dev/null"), "%s", file_read(at("log")));
}

/* STATE on a file system that lacks a call: a plain word at the start. */
TEST(state_that_lacks_a_call)
{
    if (!deny(SYS_pwrite64, 2, ~0U, EINVAL)) {
        test_skipped("state_that_lacks_a_call", "no seccomp");
        return;
    }
    struct output o = run("%s --state %s --listen 127.0.0.1:0", the_hangupd(), at("state"));
    must_say(o.status == 1 && strstr(o.text, at("state")) &&
                 strstr(o.text, "could not write in the middle of a file: Invalid argument"),
             "%d: %s", o.status, o.text);
}

/* ---- Looking before a start --------------------------------------------------------------------
 */

THEME("check");

static const struct {
    const char *words, *says;
} wrong_starts[] = {
    {"/x=/no/such/program", "/no/such/program: No such file or directory"},
    {"/x=data", "chmod +x"},
    {"/x/=nowhere --max-body 12q", "12q"},
    {"--routes nowhere", "nowhere"},
    {"--state data", "is not a directory"},
    {"--state open", "chmod 700"},
    {"--state data/below", "cannot be made: Not a directory"},
    {"--listen unix:data", "is not a socket"},
    {"--listen nowhere:80", "nowhere is not an address"},
    {"--user no-such-user-at-all", "no-such-user-at-all"},
    {"--socket-group no-such-group-at-all", "no-such-group-at-all"},
    {"--socket-mode 888", "0660"},
};

TEST_EACH(check_says_what_is_wrong, wrong_starts)
{
    file_write(at("data"), "");
    must(mkdir(at("open"), 0755) == 0);
    struct output o =
        run("%s --check --state %s %s", the_hangupd(), at("state"), wrong_starts[_i].words);
    must_say(o.status == 2 && strstr(o.text, wrong_starts[_i].says), "%s: %d: %s",
             wrong_starts[_i].words, o.status, o.text);
    must(!exists(at("state")));
}

TEST(check_touches_nothing)
{
    struct server *s = hangupd("/sh=/bin/sh --listen unix:sock");
    struct output before = run("ls -lR --time-style=+ .");
    for (int user = 0; user < (geteuid() == 0 ? 2 : 1); user++) {
        struct output o =
            run("%s --check --state %s --listen unix:sock %s /sh=/bin/sh", the_hangupd(),
                at(user ? "new" : "state"), user ? "--user nobody" : "");
        must_say(o.status == 0 && strstr(o.text, "nothing is wrong; routes: 1"), "%d: %s", o.status,
                 o.text);
    }
    struct output after = run("ls -lR --time-style=+ .");
    must_say(strcmp(before.text, after.text) == 0, "%s\n%s", before.text, after.text);
    must(!exists(at("new")));
    server_stop(s);
    /* Two things at once. */
    struct output o =
        run("%s --check --state %s /x=/no/one /y=/no/two", the_hangupd(), at("state"));
    must_say(o.status == 2 && strstr(o.text, "/no/one") && strstr(o.text, "/no/two"), "%s", o.text);
}

TEST(short_options)
{
    struct output o = run("%s -h", the_hangupd());
    must_say(o.status == 0 && strstr(o.text, "Usage: hangupd"), "%d: %s", o.status, o.text);
    o = run("%s -V", the_hangupd());
    must_say(o.status == 0 && strncmp(o.text, "hangupd ", 8) == 0, "%d: %s", o.status, o.text);
    o = run("%s recover -h", the_hangupd());
    must_say(o.status == 0 && strstr(o.text, "Usage: hangupd recover"), "%d: %s", o.status, o.text);
}
