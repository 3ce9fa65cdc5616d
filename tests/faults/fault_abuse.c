/* fault_abuse.c: callers that mean harm. Beside each abuse ordinary callers are served, every one
 * of them; and when it is over, the server is as before: its memory, descriptors, processes, state.
 *
 * Each abuse is done twice. The first time the server may grow, for tables and buffers that it then
 * keeps; between the first time and the second it must not.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "callers.h"

static int64_t abuse_ms = 20000;
static unsigned idle_count = 10000;

/* ---- The server, and ordinary callers beside ---------------------------------------------- */

#define ORDINARY_CALLERS 4
#define SERVED_BESIDE 20        /* ordinary requests, at least, while the abuse goes on, */
#define SERVED_WITHIN_MS 120000 /* on however slow a machine */
#define PSS_TOLERANCE_KB 256

static struct server *s;
static unsigned most_children;

static void begin(const char *words)
{
    struct callers_plan plan = {
        .seed = 1,
        .count = ORDINARY_CALLERS,
        .work_ms = 10,
        .weights = {[KIND_MADE] = 4, [KIND_POSTED] = 2, [KIND_PLAIN] = 4},
        .undisturbed = true,
        .ordinary = true,
    };
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    s = server_start(callers_program(), "%s", words);
    callers_begin(&plan, s->port);
}

/* Ordinary callers have MS. */
static void beside(int64_t ms)
{
    callers_go(ms);
    log_mark(s);
}

/* Whether the abuse goes on: for MS since the first call, with *UNTIL 0, and until ordinary callers
 * have been served beside it, for which there is a generous time. */
static bool goes_on(int64_t *until, int64_t ms)
{
    static unsigned long served;
    int64_t now = now_ms();
    if (*until == 0) {
        *until = now + ms;
        served = tally.kept;
    }
    bool enough = tally.kept >= served + SERVED_BESIDE;
    must_say(enough || now < *until + SERVED_WITHIN_MS, "only %lu ordinary requests were answered",
             tally.kept - served);
    return now < *until || !enough;
}

static void note_children(void)
{
    pid_t pids[4096];
    unsigned count = children_of(s->pid, pids, 4096);
    most_children = count > most_children ? count : most_children;
}

static void end(const char *name, struct gauge before, struct gauge after)
{
    server_stop(s);
    callers_check_world();
    printf(
        "abuse, %s: %lu ordinary requests, %lu answered, the slowest in %lld ms; before and after: "
        "PSS %ld and %ld kB, %u and %u descriptors, %u and %u processes; at most %u processes; "
        "%lu violations\n",
        name, tally.requests, tally.kept, (long long)tally.slowest_ms, before.pss_kb, after.pss_kb,
        before.descriptors, after.descriptors, before.children, after.children, most_children,
        tally.violations);
    fflush(stdout);
    must_say(after.pss_kb <= before.pss_kb + PSS_TOLERANCE_KB, "the server has grown by %ld kB",
             after.pss_kb - before.pss_kb);
    must(after.descriptors == before.descriptors && after.children == before.children);
    must(tally.kept + tally.retried == tally.requests && tally.violations == 0);
}

/* ABUSE for so long, twice. */
static void twice(const char *name, void (*abuse)(int64_t ms))
{
    abuse(abuse_ms / 2);
    struct gauge before = callers_settled(s);
    callers_resume();
    abuse(abuse_ms / 2);
    struct gauge after = callers_settled(s);
    end(name, before, after);
}

/* ---- Slowloris ----------------------------------------------------------------------------- */

THEME("slow");

#define SLOW_MAX 200

static unsigned slow_count = SLOW_MAX;
static unsigned abuser_addresses = 200;

/* A connection from one of the abusers' addresses, with a small window if SMALL. */
static int abuser_dial(bool small)
{
    static unsigned count;
    const int on = 1, bytes = 2048;
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    if (small)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 0x10000 + count++ % abuser_addresses);
    must(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    address.sin_port = htons((uint16_t)s->port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must_say(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connect: %s",
             strerror(errno));
    return fd;
}

/* Whether the other side has answered or gone. */
static bool is_over(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n >= 0 || errno != EAGAIN;
}

/* Many connections say BEGIN, and then a byte from time to time; who is thrown out comes again. */
static void drip(const char *begin_with, int64_t ms)
{
    int fds[SLOW_MAX];
    memset(fds, -1, sizeof(fds));
    for (int64_t until = 0; goes_on(&until, ms); beside(100)) {
        for (unsigned i = 0; i < slow_count; i++) {
            if (fds[i] >= 0 && is_over(fds[i])) {
                close(fds[i]);
                fds[i] = -1;
            }
            if (fds[i] < 0) {
                fds[i] = abuser_dial(false);
                (void)!send(fds[i], begin_with, strlen(begin_with), MSG_NOSIGNAL | MSG_DONTWAIT);
            } else {
                (void)!send(fds[i], "a", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
            }
        }
        note_children();
    }
    for (unsigned i = 0; i < slow_count; i++)
        close(fds[i]);
}

static void slow_headers(int64_t ms)
{
    drip("GET /plain HTTP/1.1\r\nHost: test\r\nX-Slow: ", ms);
}

TEST(slowloris_in_the_header)
{
    begin("--requests 32");
    twice("slow headers", slow_headers);
}

static void slow_bodies(int64_t ms)
{
    drip("POST /posted HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n", ms);
}

/* From many addresses; and from one, which may have a part of the slots. */
TEST_TIMES(slowloris_in_the_body, 2)
{
    abuser_addresses = _i == 0 ? 200 : 1;
    begin(_i == 0 ? "--requests 32 --queue-timeout 120" : "--requests 32 --per-client 16");
    twice(_i == 0 ? "slow bodies" : "slow bodies from one address", slow_bodies);
}

static void slow_readers(int64_t ms)
{
    static const char request[] =
        "GET /plain?bytes=3000000 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    int fds[SLOW_MAX];
    memset(fds, -1, sizeof(fds));
    for (int64_t until = 0; goes_on(&until, ms); beside(100)) {
        for (unsigned i = 0; i < slow_count; i++) {
            char bytes[16];
            if (fds[i] >= 0 && recv(fds[i], bytes, sizeof(bytes), MSG_DONTWAIT) >= 0)
                continue;
            if (fds[i] >= 0 && errno == EAGAIN)
                continue;
            if (fds[i] >= 0)
                close(fds[i]);
            fds[i] = abuser_dial(true);
            (void)!send(fds[i], request, sizeof(request) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        note_children();
    }
    for (unsigned i = 0; i < slow_count; i++)
        close_rst(fds[i]);
}

TEST_TIMES(slowloris_in_the_answer, 2)
{
    abuser_addresses = _i == 0 ? 200 : 1;
    begin(_i == 0 ? "--requests 32 --queue-timeout 120" : "--requests 32 --per-client 16");
    twice(_i == 0 ? "slow readers" : "slow readers from one address", slow_readers);
}

/* ---- Connections --------------------------------------------------------------------------- */

THEME("connections");

static void idle_connections(int64_t ms)
{
    int *fds = calloc(idle_count, sizeof(*fds));
    must(fds);
    for (unsigned i = 0; i < idle_count; i++) {
        fds[i] = abuser_dial(false);
        if (i % 100 == 0)
            beside(1);
    }
    for (int64_t until = 0; goes_on(&until, ms);)
        beside(10);
    note_children();
    for (unsigned i = 0; i < idle_count; i++)
        close(fds[i]);
    free(fds);
}

/* Room for all of them, or for a tenth. */
TEST_TIMES(idle_connections_by_the_thousand, 2)
{
    begin(_i == 0 ? "--connections 20000 --idle-timeout 60" : "--connections 1000");
    twice(_i == 0 ? "idle connections" : "more idle connections than there is room for",
          idle_connections);
}

/* Connect and go, as fast as that can be, and with and without asking for something. */
static void flood(int64_t ms)
{
    static const char request[] = "GET /plain?ms=5 HTTP/1.1\r\nHost: test\r\n\r\n";
    unsigned n = 0;
    int fds[300];
    memset(fds, -1, sizeof(fds));
    for (int64_t until = 0; goes_on(&until, ms); n++) {
        int *fd = &fds[n % 300];
        if (*fd >= 0 && n % 2 == 0)
            close_rst(*fd);
        else if (*fd >= 0)
            close(*fd);
        *fd = abuser_dial(false);
        if (n % 3 == 0)
            (void)!send(*fd, request, sizeof(request) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n % 50 == 0) {
            beside(5);
            note_children();
        }
    }
    for (unsigned i = 0; i < 300; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

TEST(flood_of_connections)
{
    begin("--requests 16 --connections 100 --queue-timeout 120");
    twice("a flood of connections", flood);
}

/* Hang up and come again, 40 at a time, when what was made takes longer to undo than to make. */
static void come_again(int64_t ms)
{
    static unsigned tag;
    struct {
        int fd;
        int64_t until;
    } all[40] = {0};
    for (unsigned i = 0; i < 40; i++)
        all[i].fd = -1;
    for (int64_t until = 0; goes_on(&until, ms); beside(10)) {
        for (unsigned i = 0; i < 40; i++) {
            if (all[i].fd >= 0 && now_ms() < all[i].until)
                continue;
            if (all[i].fd >= 0)
                close_rst(all[i].fd);
            all[i].fd = abuser_dial(false);
            all[i].until = now_ms() + 20 + callers_random(100);
            say(all[i].fd, "GET /cloud?tag=abuse%u&ms=60000&undo=200 HTTP/1.1\r\nHost: t\r\n\r\n",
                tag++);
        }
        note_children();
    }
    for (unsigned i = 0; i < 40; i++)
        close_rst(all[i].fd);
}

TEST(hangup_and_come_again)
{
    begin("--requests 16 --queue-timeout 120");
    twice("hanging up and coming again", come_again);
    must_say(most_children <= 16, "%u processes for 16 requests at once", most_children);
}

/* ---- Too much ------------------------------------------------------------------------------ */

THEME("bytes");

static char *repeated(const char *text, unsigned times)
{
    size_t length = strlen(text);
    char *all = malloc(length * times + 1);
    must(all);
    for (unsigned i = 0; i < times; i++)
        memcpy(all + i * length, text, length);
    all[length * times] = '\0';
    return all;
}

/* Send what the other side takes, and hear what it says of it. */
static int refused_with(const char *begin_with, const char *then)
{
    int fd = abuser_dial(false);
    const char *parts[] = {begin_with, then};
    for (unsigned i = 0; i < 2; i++)
        for (const char *at = parts[i]; *at;) {
            ssize_t n = send(fd, at, strlen(at), MSG_NOSIGNAL);
            must_say(n > 0, "reset while still sending, which can destroy the answer: %s",
                     strerror(errno));
            at += n;
        }
    struct heard h = hear(fd);
    close(fd);
    must_say(!h.reset, "the answer was followed by a reset, which may overtake it: %s", h.text);
    return h.status;
}

static void too_much(int64_t ms)
{
    static const char get[] = "GET /plain HTTP/1.1\r\nHost: test\r\n";
    static const char post[] = "POST /posted HTTP/1.1\r\nHost: test\r\n";
    char chunked[128], sized[128];
    snprintf(chunked, sizeof(chunked), "%sTransfer-Encoding: chunked\r\n\r\n", post);
    snprintf(sized, sizeof(sized), "%sContent-Length: 4000000\r\n\r\n", post);
    char *line = repeated("X-Long-Long-Long-Header-Field: 0123456789abcdef", 22000);
    char *fields = repeated("X: y\r\n", 100000), *words = repeated("a ", 500000);
    char *chunks = repeated("10\r\n0123456789abcdef\r\n", 100000), *path = repeated("/a", 500000);
    for (int64_t until = 0; goes_on(&until, ms); beside(5)) {
        must(refused_with(get, line) == 431);
        must(refused_with(get, fields) == 431);
        must(refused_with("", path) >= 400);
        must(refused_with("GET ", path) == 414);
        must(refused_with(words, "") >= 400);
        must(refused_with(chunked, chunks) == 413);
        must(refused_with(sized, chunks) == 413);
        note_children();
    }
    free(line);
    free(fields);
    free(words);
    free(chunks);
    free(path);
}

TEST(too_much_of_everything)
{
    begin("--max-body 100k");
    twice("headers of 1 MB, 100,000 fields, bodies over the limit", too_much);
}

static void pipelines(int64_t ms)
{
    static const char last[] = "GET /plain HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    char *many = repeated("GET /plain HTTP/1.1\r\nHost: t\r\n\r\n", 999);
    for (int64_t until = 0; goes_on(&until, ms); beside(5)) {
        int fd = abuser_dial(false);
        say(fd, "%s%s", many, last);
        unsigned answers = 0;
        for (int64_t patience = now_ms() + 60000; !is_over(fd) && now_ms() < patience;)
            beside(5);
        struct heard h = hear(fd);
        for (const char *at = h.text; (at = strstr(at, "HTTP/1.1 200 ")); at++)
            answers++;
        must_say(answers == 1000, "%u answers", answers);
        close(fd);
        note_children();
    }
    free(many);
}

TEST(pipelines_of_a_thousand)
{
    begin("");
    twice("pipelines of 1,000", pipelines);
}

/* Bytes that are no HTTP. */
static void noise(int64_t ms)
{
    for (int64_t until = 0; goes_on(&until, ms); beside(1)) {
        char bytes[600];
        int fd = abuser_dial(false);
        size_t n = 1 + callers_random(sizeof(bytes) - 1);
        for (size_t i = 0; i < n; i++)
            bytes[i] = callers_random(4) > 0 ? (char)callers_random(256) : "\r\n :"[i % 4];
        (void)!send(fd, bytes, n, MSG_NOSIGNAL);
        if (callers_random(2) == 0)
            shutdown(fd, SHUT_WR);
        if (callers_random(2) == 0)
            close_rst(fd);
        else
            close(fd);
        note_children();
    }
}

TEST(noise_instead_of_requests)
{
    begin("--requests 16");
    twice("noise", noise);
}

static void parse(int argc, char **argv)
{
    bool brief = false;
    static const struct option known[] = {{"seconds", required_argument, NULL, 's'},
                                          {"idle", required_argument, NULL, 'i'},
                                          {"brief", no_argument, NULL, 'b'},
                                          {0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 's')
            abuse_ms = atol(optarg) * 1000;
        else if (c == 'i')
            idle_count = (unsigned)atol(optarg);
        else if (c == 'b')
            brief = true;
        else
            exit(2);
    }
    if (brief) {
        abuse_ms = 2000;
        slow_count = 64;
    }
    suite_seconds = (double)abuse_ms / 1000 + 300;
}

SUITE(.start = parse);
