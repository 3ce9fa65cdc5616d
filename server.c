/* server.c: the parent.
 *
 * It listens, accepts, holds every connection, forks a child for each request, watches for the
 * hangup, signals, reaps, settles what a dead child left, and logs. It never reads a byte of a
 * request, never blocks, and believes nothing that a child can write.
 *
 * A connection's phases:
 *
 *     IDLE ──bytes──▶ (QUEUED ──▶) BUSY ──exit 0──▶ IDLE
 *       │                           │ └──exit 1──▶ LINGERING ──▶ closed
 *       └──FIN, time──▶ LINGERING   └──any other end──▶ SETTLING (a janitor undoes) ──▶ ...
 *
 * One thread, one epoll loop; signals arrive through a signalfd and are blocked elsewhere. The
 * table of connections is memory that no child inherits (MADV_DONTFORK): a child can neither see
 * nor pay for it. What parent and child share is the scoreboard, one slot a request.
 *
 * At the end of the file are the commands, which run beside a server and not in it: `hangupd undo`
 * (a program's records), `recover` (what a janitor does, on demand) and `status`.
 */
#include "server.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- The log: one line, one write ---------------------------------------------------- */

static const char *called = "hangupd"; /* what is being run: the server, or one of the commands */

static struct {
    int fd;
    bool json, syslog;
    bool plain;      /* for a person who waits: no time */
    bool may_block;  /* not a regular file: look before writing */
    int patience_ms; /* a janitor's, which may wait; until once in vain */
    unsigned lost;   /* lines dropped because the log did not take them */
} journal = {.fd = STDERR_FILENO};

#define LOG_LINE_SIZE 2048
#define LOG_PATIENCE_MS 5000
#define LOG_SYSLOG_PRIORITY "<30>" /* daemon, informational: RFC 3164 section 4.1.1 */

/* "2026-11-23T11:27:50" */
ASYNC_SAFE static void text_time(struct text *t, int64_t seconds)
{
    struct utc u = handler_utc(seconds);
    text_number(t, u.year, 4);
    text_char(t, '-');
    text_number(t, u.month, 2);
    text_char(t, '-');
    text_number(t, u.day, 2);
    text_char(t, 'T');
    text_number(t, u.hour, 2);
    text_char(t, ':');
    text_number(t, u.minute, 2);
    text_char(t, ':');
    text_number(t, u.second, 2);
}

/* Where text is going to stand: in a line, between quotes, in a label of a metric, on a page. */
enum escape { ESCAPE_LINE, ESCAPE_STRING, ESCAPE_JSON, ESCAPE_METRIC, ESCAPE_HTML };

/* C as it may stand there: nothing that a client sends can end it, or steer a terminal. */
ASYNC_SAFE static void text_escaped_char(struct text *t, char c, enum escape how)
{
    unsigned char byte = (unsigned char)c;
    bool quoted = how == ESCAPE_STRING || how == ESCAPE_JSON || how == ESCAPE_METRIC;
    if (byte < ' ' || byte >= 0x7f) {
        text_add(t, how == ESCAPE_JSON ? "\\u00" : how == ESCAPE_METRIC ? "\\\\x" : "\\x");
        text_char(t, "0123456789abcdef"[byte >> 4]);
        text_char(t, "0123456789abcdef"[byte & 15]);
    } else if (how == ESCAPE_HTML && strchr("&<>\"'", c) != NULL) {
        text_add(t, "&#");
        text_number(t, byte, 1);
        text_char(t, ';');
    } else {
        if (quoted && (c == '"' || c == '\\'))
            text_char(t, '\\');
        text_char(t, c);
    }
}

ASYNC_SAFE static void text_escaped(struct text *t, const char *s, enum escape how)
{
    for (; *s != '\0'; s++)
        text_escaped_char(t, *s, how);
}

ASYNC_SAFE static void log_string(struct text *t, const char *s)
{
    text_char(t, '"');
    text_escaped(t, s, journal.json ? ESCAPE_JSON : ESCAPE_STRING);
    text_char(t, '"');
}

ASYNC_SAFE static void log_time(struct text *t)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    text_time(t, now.tv_sec);
    text_char(t, '.');
    text_number(t, (unsigned long)now.tv_nsec / 1000000, 3);
    text_char(t, 'Z');
}

ASYNC_SAFE static void log_begin(struct text *t)
{
    if (journal.syslog) {
        text_add(t, LOG_SYSLOG_PRIORITY "hangupd[");
        text_signed(t, getpid());
        text_add(t, "]: ");
    }
    if (journal.json)
        text_add(t, "{\"time\":\"");
    if (journal.json || !(journal.syslog || journal.plain))
        log_time(t);
    if (journal.json)
        text_add(t, "\",\"id\":");
    else if (!(journal.syslog || journal.plain))
        text_char(t, ' ');
}

ASYNC_SAFE static void log_id(struct text *t, const char *id)
{
    if (journal.plain)
        text_add(t, id != NULL ? id : called);
    else if (!journal.json)
        text_add(t, id != NULL ? id : "-");
    else if (id != NULL)
        log_string(t, id);
    else
        text_add(t, "null");
}

/* Write the line if the log takes it now: nobody but a janitor waits for a log. */
ASYNC_SAFE static void log_end(struct text *t)
{
    int saved = errno;
    struct pollfd p = {.fd = journal.fd, .events = POLLOUT};
    ssize_t n = -1;
    if (journal.syslog) {
        n = send(journal.fd, t->at, t->length, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        if (t->length == t->room - 1)
            t->length--;
        text_char(t, '\n');
        if (!journal.may_block || poll(&p, 1, journal.patience_ms) > 0)
            n = write(journal.fd, t->at, t->length);
        else
            journal.patience_ms = 0;
    }
    if (n < 0)
        journal.lost++;
    errno = saved;
}

ASYNC_SAFE void log_event(const char *id, const char *what)
{
    char buffer[LOG_LINE_SIZE];
    struct text t = TEXT(buffer);
    t.room -= 2; /* for what closes the line */
    log_begin(&t);
    log_id(&t, id);
    if (journal.json) {
        text_add(&t, ",\"event\":\"");
        text_escaped(&t, what, ESCAPE_JSON);
        t.room += 2;
        text_add(&t, "\"}");
    } else {
        text_add(&t, journal.plain ? ": " : " ");
        text_escaped(&t, what, ESCAPE_LINE);
    }
    log_end(&t);
}

void log_eventf(const char *id, const char *format, ...)
{
    char line[LOG_LINE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    log_event(id, line);
}

ASYNC_SAFE ssize_t log_lines_read(struct log_lines *lines, const char *id, int fd)
{
    char *text = lines->text;
    ssize_t n = read(fd, text + lines->length, sizeof lines->text - 1 - lines->length);
    if (n <= 0)
        return n;
    size_t length = lines->length + (size_t)n, from = 0;
    for (size_t at = lines->length; at < length; at++)
        if (text[at] == '\0') {
            text[at] = ' '; /* it would hide what follows */
        } else if (text[at] == '\n') {
            text[at] = '\0';
            log_event(id, text + from);
            from = at + 1;
        }
    lines->length = length - from;
    memmove(text, text + from, lines->length);
    if (lines->length == sizeof lines->text - 1)
        log_lines_end(lines, id);
    return n;
}

ASYNC_SAFE void log_lines_end(struct log_lines *lines, const char *id)
{
    if (lines->length > 0) {
        lines->text[lines->length] = '\0';
        log_event(id, lines->text);
    }
    lines->length = 0;
}

static const char *const outcome_names[] = {"none",    "ok",    "error", "hangup",
                                            "timeout", "crash", "drain", "killed"};
static const char *const undo_names[] = {"none", "ok", "failed"};

/* The request's one line. SLOT is the parent's copy: a child cannot change it any more. */
static void log_request(const struct slot *s, enum outcome outcome, enum undo_result undo,
                        int64_t ms)
{
    char buffer[LOG_LINE_SIZE];
    struct text t = TEXT(buffer);
    const char *line = s->request[0] != '\0' ? s->request : "-";
    log_begin(&t);
    log_id(&t, s->id);
    text_add(&t, journal.json ? ",\"client\":" : " ");
    journal.json ? log_string(&t, s->client) : text_add(&t, s->client);
    text_add(&t, journal.json ? ",\"request\":" : " ");
    log_string(&t, line);
    text_add(&t, journal.json ? ",\"status\":" : " ");
    if (s->status != 0)
        text_number(&t, s->status, 3);
    else
        text_add(&t, journal.json ? "null" : "-");
    text_add(&t, journal.json ? ",\"bytes\":" : " ");
    text_number(&t, s->bytes, 1);
    text_add(&t, journal.json ? ",\"ms\":" : " ");
    text_signed(&t, ms);
    text_add(&t, journal.json ? ",\"outcome\":\"" : "ms ");
    text_add(&t, outcome_names[outcome]);
    text_add(&t, journal.json ? "\",\"undo\":\"" : " undo=");
    text_add(&t, undo_names[undo]);
    if (journal.json)
        text_add(&t, "\"}");
    log_end(&t);
}

/* ---- Settings ------------------------------------------------------------------------ */

#define LISTENERS_MAX 16
#define ROUTE_FILES_MAX 16

static struct settings {
    struct handler_settings handler;
    const char *listen[LISTENERS_MAX];
    size_t listen_count;
    const char *route_files[ROUTE_FILES_MAX];
    size_t route_file_count;
    bool inetd;
    int64_t idle_exit_ms; /* -1: not asked for */
    const char *user;
    int64_t requests, connections, per_client;
    int64_t drain_ms, undo_ms, undo_retries, undo_at_once;
    const char *state;
    const char *log_to;
} settings = {
    .handler = {.max_header = 32 << 10,
                .max_target = 8 << 10,
                .max_body = 1ULL << 30,
                .header_ms = 10000,
                .body_ms = 30000,
                .send_ms = 30000,
                .grace_ms = 2000,
                .idle_ms = 15000,
                .request_ms = 3600000,
                .queue_ms = 30000,
                .dead_peer_ms = 30000,
                .half_close = HALF_CLOSE_PROBE,
                .on_hangup = ON_HANGUP_UNDO},
    .idle_exit_ms = -1,
    .requests = 256,
    .connections = 4096,
    .drain_ms = 30000,
    .undo_ms = 30000,
    .undo_retries = 5,
    .undo_at_once = 16,
};

static const char help[] =
    "Usage: hangupd [OPTION...] [ROUTE...]\n"
    "Serve slow, expensive HTTP requests, each in a process of its own. When the caller\n"
    "hangs up, the work is stopped and everything it made is undone.\n"
    "\n"
    "A ROUTE is PATH=TARGET[,KEY=VALUE...]. A PATH that ends in / stands for all below it.\n"
    "TARGET is a program, run by CGI/1.1; for a PATH that ends in /, also a directory of\n"
    "programs; or @NAME, a handler compiled in. Without a ROUTE: /a=@a, the demonstration.\n"
    "  timeout=TIME                  for the whole request, instead of --timeout\n"
    "  max=N                         requests of this route at once; further ones wait for\n"
    "                                their turn, up to --queue-timeout\n"
    "  on-hangup=undo|finish         instead of --on-hangup\n"
    "  half-close=probe|hangup|ignore  instead of --half-close\n"
    "  --routes FILE                 further routes, one a line; # begins a comment; may be\n"
    "                                repeated\n"
    "\n"
    "TIME is in seconds, or has a unit: 0.5, 250ms, 90s, 15m, 2h. SIZE is in bytes, or has\n"
    "a unit: 64k, 1M, 2G. Defaults are in parentheses.\n"
    "\n"
    "Commands:\n"
    "  hangupd undo VERB ARGUMENT...  for a request's program: record how to undo what it is\n"
    "                                 about to make (hangupd undo --help)\n"
    "  hangupd recover [ID...]        undo what dead servers left and what had failed for good\n"
    "                                 (hangupd recover --help)\n"
    "  hangupd status [OPTION...]     requests in flight, queued, being undone and parked, as a\n"
    "                                 table, JSON, page or metrics (hangupd status --help)\n"
    "\n"
    "Listening:\n"
    "  --listen ADDR:PORT            or [V6]:PORT, :PORT (all addresses), unix:PATH; may be\n"
    "                                repeated; port 0 takes a free one (127.0.0.1:8080)\n"
    "  --inetd                       serve descriptor 0, from inetd, xinetd or systemd: a\n"
    "                                connection (nowait) or a listening socket (wait)\n"
    "  --idle-exit TIME              leave after TIME without a connection (wait: 60; else never)\n"
    "  --user NAME                   become NAME, of /etc/passwd, when the sockets are open\n"
    "\n"
    "Limits:\n"
    "  --requests N                  at once; further ones queue (256)\n"
    "  --connections N               open at once; the oldest idle one makes room (4096)\n"
    "  --per-client N                requests at once from one address; 0: no limit (0)\n"
    "  --queue-timeout TIME          in the queue, or for a route's turn, then 503 (30)\n"
    "  --header-timeout TIME         for the header to arrive, then 408 (10)\n"
    "  --body-timeout TIME           without progress of the body, then 408 (30)\n"
    "  --timeout TIME                for the whole request, then undo and 504; 0: none (3600)\n"
    "  --idle-timeout TIME           for a connection between requests (15)\n"
    "  --send-timeout TIME           without progress of the answer, then undo (30)\n"
    "  --dead-peer TIME              until a client that vanished without a word is found (30)\n"
    "  --max-body SIZE               else 413 (1G)\n"
    "  --max-header SIZE             else 431 (32k)\n"
    "  --max-target SIZE             of the request target, else 414 (8k)\n"
    "\n"
    "Hangup and undo:\n"
    "  --half-close probe|hangup|ignore  what a FIN alone means: ask the client's kernel, a\n"
    "                                hangup, or nothing (probe)\n"
    "  --on-hangup undo|finish       undo the request, or let it finish and be kept (undo)\n"
    "  --grace TIME                  from SIGTERM to SIGKILL for what a request started (2)\n"
    "  --undo-timeout TIME           for each command that undoes something (30)\n"
    "  --undo-retries N              of an undo that fails, after 1 s, 2 s, 4 s... (5)\n"
    "  --undo-at-once N              undos that go on at once, after their requests' ends (16)\n"
    "  --drain TIME                  on SIGTERM, for requests in flight to finish (30)\n"
    "\n"
    "State and log:\n"
    "  --state DIR                   where ledgers are kept (root: /var/lib/hangupd; else\n"
    "                                $XDG_STATE_HOME/hangupd, ~/.local/state/hangupd)\n"
    "  --sync                        flush every ledger record to the disk, for power loss\n"
    "  --log text|json               the form of the log's lines (text)\n"
    "  --log-to stderr|syslog        where they go (stderr; syslog with --inetd)\n"
    "\n"
    "  --help, --version\n"
    "\n"
    "SIGTERM drains; a second one, or SIGINT, undoes what is in flight at once.\n"
    "\n"
    "Examples:\n"
    "  hangupd                                   the demonstration, on 127.0.0.1:8080\n"
    "  hangupd /report=./report.sh /cgi-bin/=/usr/lib/cgi-bin\n"
    "  hangupd --listen :80 --user www-data --requests 50 /a=@a,timeout=10m\n"
    "  hangupd --listen unix:/run/report.sock --half-close hangup --log json\n";

enum option_kind {
    KIND_END,
    KIND_FLAG, /* from here on without a value */
    KIND_HELP,
    KIND_VERSION,
    KIND_EVERY, /* a time, or nothing: 0 */
    KIND_TIME,  /* from here on with a value */
    KIND_SIZE,
    KIND_COUNT,
    KIND_STRING,
    KIND_OTHER
};

/* The options of the server, or of a command. */
static const struct option_rule {
    const char *name;
    enum option_kind kind;
    void *value;
    int64_t least;
} server_options[] = {
    {"listen", KIND_OTHER, NULL, 0},
    {"routes", KIND_OTHER, NULL, 0},
    {"inetd", KIND_FLAG, &settings.inetd, 0},
    {"idle-exit", KIND_TIME, &settings.idle_exit_ms, 0},
    {"user", KIND_STRING, &settings.user, 0},
    {"requests", KIND_COUNT, &settings.requests, 1},
    {"connections", KIND_COUNT, &settings.connections, 1},
    {"per-client", KIND_COUNT, &settings.per_client, 0},
    {"queue-timeout", KIND_TIME, &settings.handler.queue_ms, 0},
    {"header-timeout", KIND_TIME, &settings.handler.header_ms, 1},
    {"body-timeout", KIND_TIME, &settings.handler.body_ms, 1},
    {"timeout", KIND_TIME, &settings.handler.request_ms, 0},
    {"idle-timeout", KIND_TIME, &settings.handler.idle_ms, 1},
    {"send-timeout", KIND_TIME, &settings.handler.send_ms, 1},
    {"dead-peer", KIND_TIME, &settings.handler.dead_peer_ms, 3000},
    {"max-body", KIND_SIZE, &settings.handler.max_body, 0},
    {"max-header", KIND_SIZE, &settings.handler.max_header, 64},
    {"max-target", KIND_SIZE, &settings.handler.max_target, 16},
    {"half-close", KIND_OTHER, NULL, 0},
    {"on-hangup", KIND_OTHER, NULL, 0},
    {"grace", KIND_TIME, &settings.handler.grace_ms, 0},
    {"undo-timeout", KIND_TIME, &settings.undo_ms, 1},
    {"undo-retries", KIND_COUNT, &settings.undo_retries, 0},
    {"undo-at-once", KIND_COUNT, &settings.undo_at_once, 1},
    {"drain", KIND_TIME, &settings.drain_ms, 0},
    {"state", KIND_STRING, &settings.state, 0},
    {"sync", KIND_FLAG, &settings.handler.sync, 0},
    {"log", KIND_OTHER, NULL, 0},
    {"log-to", KIND_OTHER, NULL, 0},
    {"help", KIND_HELP, NULL, 0},
    {"version", KIND_VERSION, NULL, 0},
    {0},
};
#define COUNT_MAX 1000000
#define HEADER_MAX (64 << 20) /* bytes; header and target are held in memory */

#define EXIT_COULD_NOT 1
#define EXIT_WRONG_USE 2

static const char *the_help = help; /* of what is being run */
static bool same_file(int a, int b);
static void open_log(void);

static _Noreturn void wrong_use(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void wrong_use(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (settings.inetd && same_file(STDIN_FILENO, STDERR_FILENO)) { /* that is the client */
        char line[LOG_LINE_SIZE];
        vsnprintf(line, sizeof line, format, args);
        open_log();
        log_event(NULL, line);
    } else {
        fprintf(stderr, "%s: ", called);
        vfprintf(stderr, format, args);
        fprintf(stderr, "\n%s --help tells more.\n", called);
    }
    va_end(args);
    exit(EXIT_WRONG_USE);
}

static _Noreturn void tell(const char *words)
{
    fputs(words, stdout);
    exit(fflush(stdout) == 0 ? 0 : EXIT_COULD_NOT);
}

/* Give up starting. Under inetd standard error may be the client: only the log is told then. */
static _Noreturn void cannot(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void cannot(const char *format, ...)
{
    char line[LOG_LINE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (journal.syslog)
        log_event(NULL, line);
    else
        fprintf(stderr, "%s: %s\n", called, line);
    exit(EXIT_COULD_NOT);
}

static void take_number(const struct option_rule *rule, const char *text)
{
    static const char *const wanted[] = {
        [KIND_EVERY] = "a time, as in 0.5, 90s, 15m or 2h",
        [KIND_TIME] = "a time, as in 0.5, 90s, 15m or 2h",
        [KIND_SIZE] = "a size, as in 65536, 64k or 1G",
        [KIND_COUNT] = "a whole number up to 1000000",
    };
    const char *end = text;
    unsigned long long count = 0;
    bool is_time = rule->kind == KIND_TIME || rule->kind == KIND_EVERY;
    int64_t n = is_time                                                 ? parse_duration(text)
                : rule->kind == KIND_SIZE                               ? parse_size(text)
                : parse_number(&end, COUNT_MAX, &count) && *end == '\0' ? (int64_t)count
                                                                        : -1;
    if (n < 0)
        wrong_use("--%s %s is not %s", rule->name, text, wanted[rule->kind]);
    if (n < rule->least)
        wrong_use("--%s %s is too little; the least is %lld%s", rule->name, text,
                  (long long)rule->least, is_time ? " ms" : "");
    if ((rule->value == &settings.handler.max_header ||
         rule->value == &settings.handler.max_target) &&
        n > HEADER_MAX)
        wrong_use("--%s %s is too much; the most is 64M", rule->name, text);
    memcpy(rule->value, &n, sizeof n); /* int64_t, uint64_t or size_t: all of one size */
}

static void take_other(const char *name, const char *text)
{
    struct handler_settings *h = &settings.handler;
    if (strcmp(name, "listen") == 0) {
        if (settings.listen_count == LISTENERS_MAX)
            wrong_use("--listen may be given %d times", LISTENERS_MAX);
        settings.listen[settings.listen_count++] = text;
    } else if (strcmp(name, "routes") == 0) {
        if (settings.route_file_count == ROUTE_FILES_MAX)
            wrong_use("--routes may be given %d times; one file can hold all routes",
                      ROUTE_FILES_MAX);
        settings.route_files[settings.route_file_count++] = text;
    } else if (strcmp(name, "half-close") == 0) {
        h->half_close = parse_half_close(text);
        if (h->half_close == HALF_CLOSE_DEFAULT)
            wrong_use("--half-close %s is none of probe, hangup, ignore", text);
    } else if (strcmp(name, "on-hangup") == 0) {
        h->on_hangup = parse_on_hangup(text);
        if (h->on_hangup == ON_HANGUP_DEFAULT)
            wrong_use("--on-hangup %s is neither undo nor finish", text);
    } else if (strcmp(name, "log") == 0) {
        journal.json = strcmp(text, "json") == 0;
        if (!journal.json && strcmp(text, "text") != 0)
            wrong_use("--log %s is neither text nor json", text);
    } else {
        settings.log_to = text;
        if (strcmp(text, "stderr") != 0 && strcmp(text, "syslog") != 0)
            wrong_use("--log-to %s is neither stderr nor syslog", text);
    }
}

static void take_option(const struct option_rule *rule, const char *text)
{
    if (rule->kind == KIND_FLAG)
        *(bool *)rule->value = true;
    else if (rule->kind == KIND_HELP)
        tell(the_help);
    else if (rule->kind == KIND_VERSION)
        tell("hangupd " HANGUPD_VERSION "\n");
    else if (rule->kind == KIND_STRING)
        *(const char **)rule->value = text;
    else if (rule->kind == KIND_OTHER)
        take_other(rule->name, text);
    else if (text == NULL) /* KIND_EVERY */
        *(int64_t *)rule->value = 0;
    else
        take_number(rule, text);
}

/* By RULES, of which nobody has more than the server. */
static void parse_options(int argc, char **argv, const struct option_rule *rules)
{
    struct option options[sizeof server_options / sizeof server_options[0]] = {0};
    int which = 0;
    for (int i = 0; rules[i].kind != KIND_END; i++)
        options[i] = (struct option){rules[i].name,
                                     rules[i].kind < KIND_EVERY    ? no_argument
                                     : rules[i].kind == KIND_EVERY ? optional_argument
                                                                   : required_argument,
                                     &which, i};
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (c == ':')
            wrong_use("%s wants a value", argv[optind - 1]);
        if (c != 0)
            wrong_use("there is no option %s", argv[optind - 1]);
        /* A value that may be left out is for getopt(3) always "--every=TIME". */
        if (rules[which].kind == KIND_EVERY && optarg == NULL && optind < argc &&
            isdigit((unsigned char)*argv[optind]))
            optarg = argv[optind++];
        take_option(&rules[which], optarg);
    }
}

/* ---- Settings: the routes, from files and from the command line ----------------------- */

#define ROUTE_LINE_MAX 8192 /* bytes */

static struct {
    struct route *routes;
    struct source { /* where it was written */
        const char *file;
        unsigned line;
    } * sources;
    size_t count;
} written;

static const char *source_name(struct source s)
{
    static char names[2][PATH_MAX + 16];
    static unsigned next;
    char *name = names[next++ % 2];
    if (s.file == NULL)
        return "the command line";
    snprintf(name, sizeof names[0], "%s:%u", s.file, s.line);
    return name;
}

static void add_route(const char *text, const struct route *compiled, struct source from)
{
    char why[512];
    size_t n = written.count;
    struct route *routes = reallocarray(written.routes, n + 1, sizeof *routes);
    struct source *sources = reallocarray(written.sources, n + 1, sizeof *sources);
    if (routes == NULL || sources == NULL)
        cannot("out of memory for %zu routes", n + 1);
    written.routes = routes;
    written.sources = sources;
    if (n == INT16_MAX)
        wrong_use("%s: there are more than %d routes", source_name(from), INT16_MAX);
    if (route_parse(text, compiled, &routes[n], why, sizeof why) < 0) {
        if (from.file == NULL)
            wrong_use("in the route %s: %s", text, why);
        wrong_use("%s: %s", source_name(from), why);
    }
    for (size_t i = 0; i < n; i++)
        if (strcmp(routes[i].path, routes[n].path) == 0)
            wrong_use("%s: the path %s has two routes; the other one is in %s; remove one of them",
                      source_name(from), routes[n].path, source_name(sources[i]));
    sources[n] = from;
    written.count++;
}

/* LINE without its comment, its end, and white space around it. */
static char *bare_line(char *line)
{
    static const char blank[] = " \t\r\n\v\f";
    char *end = line + strlen(line);
    for (char *at = line; (at = strchr(at, '#')) != NULL && at < end; at++)
        if (at == line || strchr(blank, at[-1]) != NULL)
            end = at;
    while (end > line && strchr(blank, end[-1]) != NULL)
        end--;
    *end = '\0';
    return line + strspn(line, blank);
}

static _Noreturn void cannot_read(const char *file)
{
    wrong_use("could not read the routes in %s: %s; --routes wants a text file with one route a "
              "line, as in /report=@report",
              file, strerror(errno));
}

static void add_routes_of(const char *file, const struct route *compiled)
{
    char *line = NULL;
    size_t room = 0;
    struct source at = {file, 1};
    FILE *f = fopen(file, "re");
    if (f == NULL)
        cannot_read(file);
    for (ssize_t n; (n = getline(&line, &room, f)) >= 0; at.line++) {
        if (n > ROUTE_LINE_MAX)
            wrong_use("%s: the line is longer than %d bytes; a route is one line, as in "
                      "/report=@report",
                      source_name(at), ROUTE_LINE_MAX);
        if (memchr(line, '\0', (size_t)n) != NULL)
            wrong_use("%s: a NUL byte in the line; the routes must be text, one a line",
                      source_name(at));
        const char *route = bare_line(line);
        if (*route != '\0')
            add_route(route, compiled, at);
    }
    if (!feof(f))
        cannot_read(file);
    free(line);
    fclose(f);
}

static void parse_routes(int argc, char **argv, const struct route *compiled)
{
    for (size_t i = 0; i < settings.route_file_count; i++)
        add_routes_of(settings.route_files[i], compiled);
    for (int i = optind; i < argc; i++)
        add_route(argv[i], compiled, (struct source){0});
    if (written.count == 0 && settings.route_file_count > 0)
        wrong_use("there is no route in %s; write one a line, as in /report=@report",
                  settings.route_files[0]);
    free(written.sources);
    settings.handler.routes = written.routes;
    settings.handler.route_count = written.count;
    if (written.count > 0)
        return;
    settings.handler.routes = compiled;
    for (size_t i = 0; compiled[i].path != NULL; i++)
        settings.handler.route_count = i + 1;
}

/* ---- What the parent holds ----------------------------------------------------------- */

#define SCOREBOARD_MAGIC "hangupd board 3\n" /* the number changes with what follows */
#define LISTENER_NAME_SIZE 140

/* What the parent alone knows. It holds this in private memory and writes copies out. */
struct figures {
    uint64_t pid;
    uint64_t started; /* milliseconds since 1970 */
    uint64_t draining, open, idle, queued;
    uint64_t requests;                                   /* that got a child so far */
    uint64_t ended[OUTCOME_KILLED + 1][UNDO_FAILED + 1]; /* as logged */
};
#define FIGURE_WORDS (sizeof(struct figures) / sizeof(uint64_t))

/* The file STATE/SERVER/scoreboard, mapped and shared with the children, read by `hangupd status`.
 */
struct scoreboard {
    char magic[16];
    uint32_t slot_count, slot_size;
    _Atomic uint32_t draining;
    char listening[LISTENERS_MAX][LISTENER_NAME_SIZE];
    _Atomic uint64_t figures[FIGURE_WORDS]; /* struct figures */
    struct line line;
    struct slot slots[];
};

enum phase { PHASE_FREE, PHASE_IDLE, PHASE_QUEUED, PHASE_BUSY, PHASE_SETTLING, PHASE_LINGERING };

#define NOBODY (-1)    /* no index */
#define CLIENT_BYTES 8 /* IPv6 users have a /64 each */

/* Numbers for the connections of newborns, whose tables of descriptors end where the connection's
 * number is: c->fd if that is low enough, else for a time one of these. */
#define LOW_COUNT 16
#define LOW_ENOUGH 64 /* a table of so many costs nothing */

struct connection {
    int fd;
    uint32_t generation; /* tells a new connection from an old one of the same index */
    enum phase phase;
    bool is_tcp, fin_seen;
    bool watched;           /* it is in the set of epoll */
    bool signalled, killed; /* SIGTERM, SIGKILL were sent to the child */
    bool patient;           /* its delivery was given --send-timeout more */
    enum cause cause;
    pid_t pid;
    int slot;
    int low;            /* which number of server.low it has, or NOBODY */
    int pid_next;       /* in the bucket of pids */
    int previous, next; /* in the list of its phase */
    int timer;          /* place in the heap, or NOBODY */
    int64_t deadline;   /* clock_ms() */
    int64_t since;      /* of the phase, or of the request */
    uint64_t moved;     /* bytes, at the time looked_at, both ways; see is_slow */
    int64_t looked_at;  /* 0: not yet in this request */
    uint32_t requests;  /* so far */
    uint64_t id_number; /* of its request's id */
    unsigned char address[16];
    uint16_t port;
    sa_family_t family;
};

struct list {
    int first, last, count;
};

/* An address with requests in flight, kept for --per-client. */
struct client {
    sa_family_t family;
    unsigned char address[CLIENT_BYTES];
    int busy; /* requests */
    int next; /* in its bucket, or free */
};

/* An undo that a janitor does, or will do. */
struct job {
    struct job *next;
    char id[CLEANUP_ID_SIZE]; /* "": recovery of dead servers */
    pid_t pid;                /* the janitor; 0: none now */
    pid_t session;            /* of the dead child; 0: not known */
    int connection;           /* waiting for it, or NOBODY */
    uint32_t number;          /* the connection's request */
    unsigned tries;
    int64_t due;     /* when it is delayed */
    bool kept;       /* it was found to be answered: only scratch is left to remove */
    bool refuted;    /* it was found not to be */
    bool nothing;    /* it was found to have made nothing */
    bool unsent;     /* on AF_UNIX: not all of its answer was sent */
    bool brief;      /* the client was given its time: it is not waited for */
    siginfo_t ended; /* how the child ended */
};

struct job_list {
    struct job *first, *last;
};

static struct {
    pid_t pid;
    int epoll, signals, reserve, state, dir, nudge[2];
    struct listener {
        int fd;
        bool is_tcp;
        char name[LISTENER_NAME_SIZE];
        char unix_path[sizeof((struct sockaddr_un *)0)->sun_path];
        dev_t dev;
        ino_t ino;
    } listeners[LISTENERS_MAX];
    size_t listener_count;
    bool muted, once; /* listeners are out of epoll; there is one connection only (nowait) */
    int64_t unmute_at;
    bool draining, ending;
    int64_t drain_at, idle_since, slow_looked_at;
    const char *state_path; /* absolute, for people */
    char token[CLEANUP_TOKEN_SIZE];
    uint64_t request_count;
    struct figures figures;
    bool shares; /* descriptors, with newborn children */
    struct low {
        int fd, user; /* a connection, or NOBODY */
    } low[LOW_COUNT];
    unsigned low_next;
    int64_t reaped_at; /* looked for all dead children */
    sigset_t handled;  /* signals */
    struct scoreboard *board;
    int *free_slots, free_slot_count;
    int *slot_users; /* connections */
    struct connection *connections;
    int connection_room, free_connection;
    int *heap, heap_size;
    int *pid_buckets, *client_buckets, bucket_count;
    struct client *clients;
    int free_client;
    struct list idle, queue, busy;
    int open_count;
    struct job_list urgent, patient;  /* jobs whose turn comes: with a connection waiting; others */
    struct job_list delayed, running; /* by the time they are due; at most undo_at_once */
    int janitors;                     /* running */
    bool recovered;                   /* recovery was begun */
    bool has_strangers;               /* children that were there before us, or we are pid 1 */
} server = {.epoll = -1,
            .reserve = -1,
            .idle = {NOBODY, NOBODY, 0},
            .queue = {NOBODY, NOBODY, 0},
            .busy = {NOBODY, NOBODY, 0}};

#define LINGER_MS 2000
#define MUTE_MS 100
#define EVICT_AGE_MS 1000 /* a header may take so long before it must make room */
#define SLOW_MS 2000      /* a client that moves less than SLOW_BYTES in this time must, too */
#define SLOW_BYTES 2048
#define SLOW_LOOK_MS 250
#define KILL_AFTER_MS 1000
#define UNKILLABLE_MS 10000

static struct slot *slot_of(const struct connection *c)
{
    return &server.board->slots[c->slot];
}

/* Write out what `hangupd status` tells. It is never read back: a child can write there too. */
static void publish(void)
{
    uint64_t words[FIGURE_WORDS];
    server.figures.draining = server.draining || server.ending;
    server.figures.open = (uint64_t)server.open_count;
    server.figures.idle = (uint64_t)server.idle.count;
    server.figures.queued = (uint64_t)server.queue.count;
    memcpy(words, &server.figures, sizeof words);
    for (size_t i = 0; i < FIGURE_WORDS; i++)
        atomic_store_explicit(&server.board->figures[i], words[i], memory_order_relaxed);
}

/* The request's end: its one log line, and the totals. */
static void request_ended(const struct slot *s, enum outcome outcome, enum undo_result undo,
                          int64_t ms)
{
    server.figures.ended[outcome][undo]++;
    log_request(s, outcome, undo, ms);
}

/* ---- Lists, timers, pids ------------------------------------------------------------- */

static int index_of(const struct connection *c)
{
    return (int)(c - server.connections);
}

static void list_append(struct list *l, struct connection *c)
{
    c->previous = l->last;
    c->next = NOBODY;
    if (l->last != NOBODY)
        server.connections[l->last].next = index_of(c);
    else
        l->first = index_of(c);
    l->last = index_of(c);
    l->count++;
}

static void list_remove(struct list *l, struct connection *c)
{
    if (c->previous != NOBODY)
        server.connections[c->previous].next = c->next;
    else
        l->first = c->next;
    if (c->next != NOBODY)
        server.connections[c->next].previous = c->previous;
    else
        l->last = c->previous;
    l->count--;
}

static int *client_bucket(const struct connection *c)
{
    uint64_t address = 0;
    memcpy(&address, c->address, c->family == AF_INET6 ? CLIENT_BYTES : 4);
    return &server.client_buckets[address * 0x9e3779b97f4a7c15 >> 32 &
                                  (uint64_t)(server.bucket_count - 1)];
}

static struct client *client_find(const struct connection *c)
{
    for (int i = *client_bucket(c); i != NOBODY; i = server.clients[i].next)
        if (server.clients[i].family == c->family &&
            memcmp(server.clients[i].address, c->address,
                   c->family == AF_INET6 ? CLIENT_BYTES : 4) == 0)
            return &server.clients[i];
    return NULL;
}

/* A request of C's client begins. */
static void client_enter(const struct connection *c)
{
    struct client *client = client_find(c);
    if (client == NULL) {
        client = &server.clients[server.free_client];
        server.free_client = client->next;
        *client = (struct client){.family = c->family, .next = *client_bucket(c)};
        memcpy(client->address, c->address, CLIENT_BYTES);
        *client_bucket(c) = (int)(client - server.clients);
    }
    client->busy++;
}

/* It has ended. */
static void client_leave(const struct connection *c)
{
    struct client *client = client_find(c);
    if (client == NULL || --client->busy > 0)
        return;
    int *at = client_bucket(c), index = (int)(client - server.clients);
    while (*at != index)
        at = &server.clients[*at].next;
    *at = client->next;
    client->next = server.free_client;
    server.free_client = index;
}

static struct list *list_of(enum phase phase)
{
    return phase == PHASE_IDLE                              ? &server.idle
           : phase == PHASE_QUEUED                          ? &server.queue
           : phase == PHASE_BUSY || phase == PHASE_SETTLING ? &server.busy
                                                            : NULL;
}

static void set_phase(struct connection *c, enum phase phase)
{
    struct list *from = list_of(c->phase), *to = list_of(phase);
    if (from != to && from != NULL)
        list_remove(from, c);
    if (from != to && to != NULL)
        list_append(to, c);
    bool counts = from != to && settings.per_client > 0 && c->is_tcp;
    if (counts && from == &server.busy)
        client_leave(c);
    if (counts && to == &server.busy)
        client_enter(c);
    c->phase = phase;
}

static void heap_put(int place, int connection)
{
    server.heap[place] = connection;
    server.connections[connection].timer = place;
}

static bool heap_before(int a, int b)
{
    return server.connections[a].deadline < server.connections[b].deadline;
}

static void heap_settle(int place, int connection)
{
    while (place > 0 && heap_before(connection, server.heap[(place - 1) / 2])) {
        heap_put(place, server.heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (int child; (child = 2 * place + 1) < server.heap_size; place = child) {
        if (child + 1 < server.heap_size && heap_before(server.heap[child + 1], server.heap[child]))
            child++;
        if (!heap_before(server.heap[child], connection))
            break;
        heap_put(place, server.heap[child]);
    }
    heap_put(place, connection);
}

/* Look at the connection again at DEADLINE; 0: never. */
static void set_deadline(struct connection *c, int64_t deadline)
{
    c->deadline = deadline;
    if (deadline != 0) {
        heap_settle(c->timer != NOBODY ? c->timer : server.heap_size++, index_of(c));
    } else if (c->timer != NOBODY) {
        int place = c->timer, last = server.heap[--server.heap_size];
        c->timer = NOBODY;
        if (last != index_of(c))
            heap_settle(place, last);
    }
}

static int *pid_bucket(pid_t pid)
{
    return &server.pid_buckets[pid & (server.bucket_count - 1)];
}

static void pid_remember(struct connection *c, pid_t pid)
{
    c->pid = pid;
    c->pid_next = *pid_bucket(pid);
    *pid_bucket(pid) = index_of(c);
}

static struct connection *pid_find(pid_t pid)
{
    for (int i = *pid_bucket(pid); i != NOBODY; i = server.connections[i].pid_next)
        if (server.connections[i].pid == pid)
            return &server.connections[i];
    return NULL;
}

static void pid_forget(struct connection *c)
{
    for (int *at = pid_bucket(c->pid); *at != NOBODY; at = &server.connections[*at].pid_next)
        if (*at == index_of(c)) {
            *at = c->pid_next;
            break;
        }
    c->pid = 0;
}

/* ---- Connections: opening, watching, closing ----------------------------------------- */

#define WATCH_LISTENER (UINT64_C(1) << 63)
#define WATCH_SIGNALS (UINT64_C(1) << 62)
#define WATCH_NUDGE (UINT64_C(1) << 61)

static void watch(struct connection *c, uint32_t events)
{
    int how = c->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    c->watched = true;
    struct epoll_event e = {.events = events,
                            .data.u64 = (uint64_t)c->generation << 32 | (uint32_t)index_of(c)};
    if (epoll_ctl(server.epoll, how, c->fd, &e) < 0)
        log_eventf(NULL, "could not watch a connection: %s", strerror(errno));
}

#define WATCH_IDLE (EPOLLIN | EPOLLRDHUP)
/* Edge-triggered: a FIN that has been dealt with, or an error, would keep the loop awake. */
#define WATCH_HANGUP ((uint32_t)EPOLLRDHUP | (uint32_t)EPOLLET)

/* Close at once: by a reset, unless the sending side was ended in order before. */
static void connection_close(struct connection *c)
{
    set_deadline(c, 0);
    set_phase(c, PHASE_FREE);
    /* A child that is still closing its copies must not keep it in the set, or open. */
    epoll_ctl(server.epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->generation = (c->generation + 1) & 0x1fffffff;
    c->next = server.free_connection;
    server.free_connection = index_of(c);
    server.open_count--;
}

static void discard_input(struct connection *c)
{
    char nowhere[4096]; /* AF_UNIX copies in spite of MSG_TRUNC; never looked at */
    for (int i = 0; i < 16; i++) {
        ssize_t n = recv(c->fd, nowhere, sizeof nowhere, MSG_TRUNC | MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            connection_close(c);
            return;
        }
        if (n < 0)
            return;
    }
}

/* Close in order: end our side, and discard what still comes until the client has ended its own.
 * Closing with input unread would reset the connection and could take the answer along
 * (RFC 9112 section 9.6). */
static void connection_finish(struct connection *c)
{
    if (handler_end_sending(c->fd) < 0 && errno == ENOTCONN) { /* both sides have ended it */
        connection_close(c);
        return;
    }
    set_phase(c, PHASE_LINGERING);
    set_deadline(c, clock_ms() + LINGER_MS);
    watch(c, WATCH_IDLE);
}

static bool is_draining(void)
{
    return server.draining || server.ending;
}

static int unread(const struct connection *c)
{
    int n = 0;
    return ioctl(c->fd, FIONREAD, &n) < 0 ? 0 : n;
}

/* Answer 503, as S notes; then the connection ends. */
static void refuse(struct connection *c, struct slot *s, const char *reason)
{
    if (handler_send_canned(c->fd, s, 503, false, reason))
        connection_finish(c);
    else
        connection_close(c);
}

static void request_arrived(struct connection *c);

/* The connection has no request: is there one, or is it over? */
static void connection_idle(struct connection *c)
{
    set_phase(c, PHASE_IDLE);
    c->since = clock_ms();
    set_deadline(c, c->since + settings.handler.idle_ms);
    if (unread(c) > 0)
        request_arrived(c);
    else if (c->fin_seen || is_draining())
        connection_finish(c);
    else
        watch(c, WATCH_IDLE);
}

static void connection_name(const struct connection *c, char *name, size_t size)
{
    char address[INET6_ADDRSTRLEN];
    if (!c->is_tcp || inet_ntop(c->family, c->address, address, sizeof address) == NULL)
        snprintf(name, size, "unix");
    else
        snprintf(name, size, c->family == AF_INET6 ? "[%s]:%u" : "%s:%u", address, c->port);
}

static void set_address(struct connection *c, const struct sockaddr_storage *from)
{
    c->family = from->ss_family;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)from;
        memcpy(c->address, &in->sin_addr, sizeof in->sin_addr);
        c->port = ntohs(in->sin_port);
    } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)from;
        memcpy(c->address, &in6->sin6_addr, sizeof in6->sin6_addr);
        c->port = ntohs(in6->sin6_port);
        if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) { /* a caller by IPv4, on :PORT */
            c->family = AF_INET;
            memcpy(c->address, &in6->sin6_addr.s6_addr[12], 4);
        }
    }
}

static void connection_open(int fd, const struct sockaddr_storage *from, bool is_tcp)
{
    struct connection *c = &server.connections[server.free_connection];
    server.free_connection = c->next;
    uint32_t generation = c->generation;
    *c = (struct connection){.fd = fd,
                             .generation = generation,
                             .is_tcp = is_tcp,
                             .slot = NOBODY,
                             .low = NOBODY,
                             .timer = NOBODY};
    set_address(c, from);
    server.open_count++;
    connection_idle(c); /* mostly its first request is there already */
}

/* ---- Children: forked without a copy of all descriptors ------------------------------ */

static struct {
    pid_t *tid;
    struct robust_list_head *robust_list;
    size_t robust_size;
} library;

/* Sent by the kernel for each child that ends. A SIGCHLD stands for any number of them, and looking
 * for who they are costs the more the more others there are. */
#define CHILD_ENDED SIGRTMIN
/* Such signals are lost when too many wait (RLIMIT_SIGPENDING): so often we look for ourselves. */
#define REAP_EVERY_MS 1000

/* A fork that does not copy the table of descriptors, which has an entry for every connection.
 * Until the child has called close_all_but it shares the parent's, and must neither open nor close
 * anything. Beside that all is as with fork(3), but that handlers of pthread_atfork(3) are not
 * called. */
static pid_t fork_sharing(void)
{
    struct clone_args how = {.flags = CLONE_FILES | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID,
                             .child_tid = (uintptr_t)library.tid,
                             .exit_signal = (unsigned)CHILD_ENDED};
    pid_t pid = (pid_t)syscall(SYS_clone3, &how, sizeof how);
    if (pid == 0)
        syscall(SYS_set_robust_list, library.robust_list, library.robust_size);
    return pid;
}

/* Where the C library keeps what the kernel writes for it into a new process (set_tid_address(2),
 * get_robust_list(2)). A kernel that does not tell, or a sandbox that forbids: no sharing. */
static void find_library(void)
{
    pid_t *tid = NULL;
    server.shares =
        prctl(PR_GET_TID_ADDRESS, &tid) == 0 && tid != NULL && *tid == gettid() &&
        syscall(SYS_get_robust_list, 0, &library.robust_list, &library.robust_size) == 0 &&
        close_range(INT_MAX, INT_MAX, CLOSE_RANGE_UNSHARE) == 0;
    library.tid = tid;
}

static void reserve_low_numbers(void)
{
    for (int i = 0; i < LOW_COUNT; i++) {
        server.low[i] = (struct low){.fd = fcntl(server.dir, F_DUPFD_CLOEXEC, 3), .user = NOBODY};
        server.shares = server.shares && server.low[i].fd >= 0;
    }
}

/* A low number for C, or -1: all are taken by children that do not have their own tables yet. */
static int take_low_number(struct connection *c)
{
    for (int tries = 0; tries < LOW_COUNT; tries++) {
        int i = server.low_next++ % LOW_COUNT;
        struct low *l = &server.low[i];
        struct connection *user = l->user != NOBODY ? &server.connections[l->user] : NULL;
        if (user != NULL && atomic_load(&slot_of(user)->pid) == 0)
            continue;
        if (dup3(c->fd, l->fd, O_CLOEXEC) < 0)
            return -1;
        if (user != NULL)
            user->low = NOBODY;
        l->user = index_of(c);
        c->low = i;
        return l->fd;
    }
    return -1;
}

/* No longer hold the connection open by it. */
static void return_low_number(struct connection *c)
{
    if (c->low == NOBODY)
        return;
    dup3(server.dir, server.low[c->low].fd, O_CLOEXEC); /* anything that keeps the number taken */
    server.low[c->low].user = NOBODY;
    c->low = NOBODY;
}

/* Fork for C's request: the child finds the connection at *NUMBER. */
static pid_t fork_for(struct connection *c, int *number)
{
    *number = server.shares && c->fd >= LOW_ENOUGH ? take_low_number(c) : c->fd;
    if (server.shares && *number >= 0) {
        pid_t pid = fork_sharing();
        if (pid >= 0 || (errno != ENOSYS && errno != EPERM))
            return pid;
        server.shares = false; /* a sandbox forbids it */
    }
    *number = c->fd;
    return fork();
}

static void sort(int *numbers, size_t count)
{
    for (size_t i = 1; i < count; i++)
        for (size_t k = i; k > 0 && numbers[k] < numbers[k - 1]; k--) {
            int larger = numbers[k - 1];
            numbers[k - 1] = numbers[k];
            numbers[k] = larger;
        }
}

/* Close all descriptors from 3 on but the COUNT in KEEP, of which some may be -1 or below 3. Those
 * behind the last are not even copied where the table is still shared. */
static void close_all_but(int *keep, size_t count)
{
    int from = STDERR_FILENO + 1;
    sort(keep, count);
    int last = keep[count - 1] >= from ? keep[count - 1] : from - 1;
    if (close_range((unsigned)last + 1, ~0U, CLOSE_RANGE_UNSHARE) < 0 && server.shares)
        _exit(HANDLER_EXIT_UNDONE);
    for (size_t i = 0; i < count; i++) {
        if (keep[i] > from)
            close_range((unsigned)from, (unsigned)keep[i] - 1, 0);
        if (keep[i] >= from)
            from = keep[i] + 1;
    }
}

/* A newborn of the server: it keeps no other client's connection open, and is gone when the server
 * is. */
static void become_child(int connection, int death_signal)
{
    int keep[] = {journal.fd,      server.dir, server.state,
                  server.nudge[1], connection, settings.handler.pool};
    close_all_but(keep, sizeof keep / sizeof keep[0]);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, death_signal);
    if (getppid() != server.pid)
        _exit(HANDLER_EXIT_UNDONE); /* it died before it could be asked for */
}

/* ---- Requests: starting, queueing ---------------------------------------------------- */

static void fill_slot(struct connection *c, const char *id)
{
    struct slot *s = slot_of(c);
    memset(s, 0, sizeof *s);
    s->started = c->since;
    s->number = c->requests;
    s->route = -1;
    snprintf(s->id, sizeof s->id, "%s", id);
    connection_name(c, s->client, sizeof s->client);
    atomic_store(&s->state, SLOT_READING | (c->fin_seen ? SLOT_FIN_SEEN : 0));
}

static _Noreturn void child_main(const struct handler_call *call)
{
    become_child(call->connection, SIGTERM);
    /* In this order: the parent's session is spared by janitors, and then this number is. */
    atomic_store(&call->slot->pid, getpid());
    setsid();
    cleanup_mark_process(call->slot->id);
    handler_serve(call);
}

/* Fork a child for the connection's next request. A slot is free. */
static void request_start(struct connection *c)
{
    char id[CLEANUP_ID_SIZE];
    c->id_number = ++server.request_count;
    snprintf(id, sizeof id, "%s-%llx", server.token, (unsigned long long)c->id_number);
    c->slot = server.free_slots[--server.free_slot_count];
    server.slot_users[c->slot] = index_of(c);
    c->since = clock_ms();
    c->requests++;
    c->cause = CAUSE_NONE;
    c->signalled = c->killed = c->patient = false;
    c->looked_at = 0;
    fill_slot(c, id);
    struct handler_call call = {.settings = &settings.handler,
                                .slot = slot_of(c),
                                .line = &server.board->line,
                                .slots = server.board->slots,
                                .slot_count = (uint32_t)settings.requests,
                                .draining = &server.board->draining,
                                .state_dir = server.dir,
                                .nudge = server.nudge[1],
                                .slot_number = (uint32_t)c->slot,
                                .is_tcp = c->is_tcp,
                                .forked = clock_ticks()};
    pid_t pid = fork_for(c, &call.connection);
    if (pid == 0)
        child_main(&call);
    if (pid < 0) {
        log_eventf(id, "could not fork for a request: %s", strerror(errno));
        atomic_store(&slot_of(c)->state, SLOT_FREE);
        return_low_number(c);
        server.slot_users[c->slot] = NOBODY;
        server.free_slots[server.free_slot_count++] = c->slot;
        refuse(c, &(struct slot){0}, "the server has no room for another process");
        return;
    }
    server.figures.requests++;
    pid_remember(c, pid);
    set_phase(c, PHASE_BUSY);
    set_deadline(c, settings.handler.request_ms > 0 ? c->since + settings.handler.request_ms : 0);
    watch(c, WATCH_HANGUP);
}

static bool may_start(const struct connection *c)
{
    if (server.free_slot_count == 0)
        return false;
    const struct client *client = settings.per_client > 0 ? client_find(c) : NULL;
    return client == NULL || client->busy < settings.per_client;
}

static void request_end(struct connection *c, enum cause cause);

/* Whether the request waits for its client alone, who moves less than SLOW_BYTES in SLOW_MS: of the
 * body, all of which that came has been read, or of the answer, part of which he has no room for.
 */
static bool is_slow(struct connection *c, int64_t now)
{
    uint32_t flags = atomic_load(&slot_of(c)->state), state = flags & SLOT_STATE_MASK;
    if (c->phase != PHASE_BUSY || !c->is_tcp || c->signalled || (flags & SLOT_FINISH) != 0 ||
        (c->looked_at != 0 && now - c->looked_at < SLOW_MS))
        return false;
    uint32_t unsendable;
    uint64_t before = c->moved;
    bool first = c->looked_at == 0;
    c->moved = handler_traffic(c->fd, &unsendable);
    c->looked_at = now;
    bool reads = state == SLOT_READING && (flags & SLOT_BODY_OPEN) != 0 && unread(c) == 0;
    bool sends = state == SLOT_ANSWERING && unsendable > 0;
    return !first && c->moved - before < SLOW_BYTES && (reads || sends);
}

static void request_cut(struct connection *c);

/* When all slots are taken, and nobody can make room who has made nothing: slow clients do, as many
 * as wait for a slot. Each is looked at from time to time. */
static void evict_slow(void)
{
    int64_t now = clock_ms();
    int left = server.queue.count + 1; /* and the one that is about to wait */
    if (server.slow_looked_at != 0 && now - server.slow_looked_at < SLOW_LOOK_MS)
        return;
    server.slow_looked_at = now;
    for (int i = server.busy.first; i != NOBODY && left > 0; i = server.connections[i].next)
        if (is_slow(&server.connections[i], now)) {
            request_cut(&server.connections[i]);
            left--;
        }
}

static bool may_be_evicted(const struct connection *c, uint32_t flag)
{
    return c->phase == PHASE_BUSY && !c->signalled && clock_ms() - c->since >= EVICT_AGE_MS &&
           (atomic_load(&slot_of(c)->state) & flag) != 0;
}

/* When all slots are taken: who has made nothing yet makes room. That is the oldest request whose
 * head is not whole, else the one that came last to a route's line. */
static void evict_one(void)
{
    const struct connection *all = server.connections;
    int i = server.busy.first;
    if (server.free_slot_count > 0)
        return;
    while (i != NOBODY && !may_be_evicted(&all[i], SLOT_HEAD_OPEN))
        i = all[i].next;
    if (i == NOBODY)
        i = server.busy.last;
    while (i != NOBODY && !may_be_evicted(&all[i], SLOT_HEAD_OPEN | SLOT_WAITING))
        i = all[i].previous;
    if (i != NOBODY)
        request_end(&server.connections[i], CAUSE_EVICTED);
    else
        evict_slow();
}

static void wait_in_queue(struct connection *c)
{
    int64_t end = c->since + settings.handler.queue_ms, soon = clock_ms() + EVICT_AGE_MS;
    set_deadline(c, end < soon ? end : soon);
    evict_one();
}

static void queue_serve(void)
{
    for (int i = server.queue.first, next; i != NOBODY && server.free_slot_count > 0; i = next) {
        struct connection *c = &server.connections[i];
        next = c->next;
        if (may_start(c))
            request_start(c);
    }
}

static void request_arrived(struct connection *c)
{
    if (is_draining()) {
        refuse(c, &(struct slot){0}, "the server is stopping");
        return;
    }
    queue_serve(); /* first come, first served */
    if (may_start(c)) {
        request_start(c);
    } else {
        set_phase(c, PHASE_QUEUED);
        c->since = clock_ms();
        watch(c, WATCH_HANGUP);
        wait_in_queue(c);
    }
}

/* A request that never got a child: its one log line. S has what was answered. */
static void log_queued(const struct connection *c, struct slot *s, enum outcome outcome)
{
    snprintf(s->id, sizeof s->id, "%s-%llx", server.token,
             (unsigned long long)++server.request_count);
    connection_name(c, s->client, sizeof s->client);
    request_ended(s, outcome, UNDO_NONE, clock_ms() - c->since);
}

static void refuse_queued(struct connection *c, enum outcome outcome, const char *reason)
{
    struct connection was = *c;
    struct slot s = {0};
    refuse(c, &s, reason);
    log_queued(&was, &s, outcome);
}

/* ---- Hangup, and every other reason to end a request --------------------------------- */

/* Stop the child: one way for every cause. What it undoes and whether there is still somebody to
 * tell it finds out itself; if it does not end, it is killed, and a janitor undoes. */
static void request_end(struct connection *c, enum cause cause)
{
    if (c->phase != PHASE_BUSY || c->signalled)
        return;
    c->signalled = true;
    c->cause = cause;
    atomic_store(&slot_of(c)->cause, cause);
    kill(c->pid, SIGTERM);
    kill(c->pid, SIGCONT); /* a stopped child cannot act on it */
    set_deadline(c, clock_ms() + settings.handler.grace_ms + KILL_AFTER_MS);
}

/* The client is too slow for a server that has no room. In delivery SIGTERM waits: what the client
 * has acknowledged by now decides, a janitor asks. */
static void request_cut(struct connection *c)
{
    if ((atomic_load(&slot_of(c)->state) & SLOT_DELIVERING) == 0) {
        request_end(c, CAUSE_EVICTED);
        return;
    }
    c->signalled = c->killed = true;
    c->cause = CAUSE_EVICTED;
    kill(c->pid, SIGKILL);
    set_deadline(c, clock_ms() + UNKILLABLE_MS);
}

static void hangup(struct connection *c)
{
    uint32_t state = atomic_load(&slot_of(c)->state);
    if ((state & SLOT_STATE_MASK) == SLOT_DONE) /* it is about to exit; if not, it is killed */
        set_deadline(c, clock_ms() + settings.handler.grace_ms + KILL_AFTER_MS);
    else if ((state & SLOT_FINISH) == 0)
        request_end(c, CAUSE_HANGUP);
}

/* Ask with an interim answer, in the turn that PROBING gives us: a closed client's kernel answers
 * it with a reset. False: the state is not what it WAS, but what that says now. */
static bool probe(struct connection *c, uint32_t *was)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    _Atomic uint32_t *word = &slot_of(c)->state;
    uint32_t mine = (*was & ~(uint32_t)SLOT_STATE_MASK) | SLOT_PROBING;
    if (!atomic_compare_exchange_strong(word, was, mine))
        return false;
    ssize_t n = send(c->fd, interim, sizeof interim - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    bool gone = n < 0 && errno != EAGAIN;
    for (int tries = 0; tries < 100 && (mine & SLOT_STATE_MASK) == SLOT_PROBING; tries++)
        if (atomic_compare_exchange_strong(
                word, &mine, (mine & ~(uint32_t)SLOT_STATE_MASK) | SLOT_RUNNING | SLOT_FIN_SEEN))
            break;
    if (gone)
        hangup(c);
    return true;
}

/* What a FIN means in the state WAS. False: as with probe. */
static bool judge_fin(struct connection *c, uint32_t *was)
{
    uint32_t state = *was & SLOT_STATE_MASK;
    bool reading = state == SLOT_READING;
    if ((*was & SLOT_FIN_SEEN) != 0)
        return true;                              /* asked already, or the child is going to */
    if (reading && (*was & SLOT_FIN_HANGUP) == 0) /* the child asks when it has read the request */
        return atomic_compare_exchange_strong(&slot_of(c)->state, was, *was | SLOT_FIN_SEEN);
    if (!reading && (state != SLOT_RUNNING || (*was & (SLOT_FIN_IGNORE | SLOT_FINISH)) != 0))
        return true; /* answering: writing tells */
    if ((*was & (SLOT_FIN_HANGUP | SLOT_NOPROBE)) == 0)
        return probe(c, was);
    hangup(c);
    return true;
}

/* The client has closed, or has only ended its own side and waits for the answer. */
static void fin_arrived(struct connection *c)
{
    uint32_t was = atomic_load(&slot_of(c)->state);
    c->fin_seen = true;
    for (int tries = 0; tries < 100 && !judge_fin(c, &was); tries++)
        continue; /* a child that plays with the word cannot keep us here */
}

static void connection_event(struct connection *c, uint32_t events)
{
    bool dead = (events & (EPOLLERR | EPOLLHUP)) != 0, fin = (events & EPOLLRDHUP) != 0;
    switch (c->phase) {
    case PHASE_IDLE:
        c->fin_seen = fin;
        if (dead && unread(c) > 0)
            log_queued(c, &(struct slot){0}, OUTCOME_HANGUP); /* it had asked for something */
        if (dead)
            connection_close(c);
        else
            connection_idle(c);
        break;
    case PHASE_QUEUED:
        c->fin_seen = c->fin_seen || fin;
        if (dead || (fin && settings.handler.half_close == HALF_CLOSE_HANGUP)) {
            log_queued(c, &(struct slot){0}, OUTCOME_HANGUP);
            connection_close(c);
        }
        break;
    case PHASE_BUSY:
        if (dead)
            hangup(c);
        else if (fin)
            fin_arrived(c);
        break;
    case PHASE_LINGERING:
        if (dead)
            connection_close(c);
        else
            discard_input(c);
        break;
    default:
        c->fin_seen = c->fin_seen || fin;
        break;
    }
}

/* ---- Time ---------------------------------------------------------------------------- */

static void request_due(struct connection *c, int64_t now)
{
    /* In delivery the client's acknowledgement is awaited, and --send-timeout is the limit. */
    bool delivering = (atomic_load(&slot_of(c)->state) & SLOT_DELIVERING) != 0;
    if (c->killed) {
        log_eventf(NULL, "the process %d does not end, even by SIGKILL", (int)c->pid);
        set_deadline(c, now + UNKILLABLE_MS);
    } else if (delivering && !c->patient) {
        c->patient = true;
        set_deadline(c, now + settings.handler.send_ms + KILL_AFTER_MS);
    } else if (c->signalled || delivering) {
        c->killed = true;
        kill(c->pid, SIGKILL);
        set_deadline(c, now + UNKILLABLE_MS);
    } else {
        request_end(c, CAUSE_TIMEOUT);
    }
}

static void connection_due(struct connection *c, int64_t now)
{
    set_deadline(c, 0);
    switch (c->phase) {
    case PHASE_IDLE:
        connection_finish(c);
        break;
    case PHASE_QUEUED:
        if (now < c->since + settings.handler.queue_ms) {
            wait_in_queue(c);
            break;
        }
        refuse_queued(c, OUTCOME_ERROR, "too many requests; this one waited too long in the queue");
        break;
    case PHASE_BUSY:
        request_due(c, now);
        break;
    case PHASE_LINGERING:
        connection_close(c);
        break;
    default:
        break;
    }
}

/* Children with a time limit of their own name their slot here. */
static void nudged(void)
{
    uint32_t number;
    while (read(server.nudge[0], &number, sizeof number) == sizeof number) {
        int i = number < settings.requests ? server.slot_users[number] : NOBODY;
        if (i == NOBODY)
            continue;
        struct connection *c = &server.connections[i];
        if (c->phase != PHASE_BUSY || c->signalled)
            continue;
        int64_t limit = atomic_load(&slot_of(c)->limit_ms);
        if (limit > 0 && limit <= INT_MAX)
            set_deadline(c, c->since + limit);
    }
}

/* ---- Words for the shell ------------------------------------------------------------- */

/* WORD as one word of a shell command line. */
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

/* The same in printable characters only, as the log leaves no others as they are. */
static void shell_word_printable(struct text *t, const char *word)
{
    bool printable = true;
    for (const char *s = word; *s != '\0'; s++)
        printable = printable && isprint((unsigned char)*s);
    if (printable) {
        shell_word(t, word);
        return;
    }
    text_add(t, "\"$(printf '");
    for (const char *s = word; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        if (isprint(c) && strchr("'\\%", c) == NULL) {
            text_char(t, *s);
            continue;
        }
        text_char(t, '\\');
        for (int shift = 6; shift >= 0; shift -= 3)
            text_char(t, (char)('0' + (c >> shift & 7)));
    }
    text_add(t, "')\"");
}

#define COMMAND_SIZE (4 * PATH_MAX + 256) /* a byte becomes four at most */

/* The command line that settles what ID left, or everything, in the state directory PATH. */
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

/* ---- Undo commands: `run` records ---------------------------------------------------- */

/* What could not be undone, and why: of the first record that failed, for the line at the end. */
static struct {
    char what[1024];
    bool more;
} failure;

/* A janitor's cleanup_report: in the log, and noted. */
static void report_failure(const char *id, const char *what)
{
    static const char prefix[] = "could not undo: ";
    log_event(id, what);
    if (failure.what[0] != '\0')
        failure.more = true;
    else if (strncmp(what, prefix, sizeof prefix - 1) == 0)
        snprintf(failure.what, sizeof failure.what, "%s", what + sizeof prefix - 1);
    else
        snprintf(failure.what, sizeof failure.what, "%s", what);
}

/* A command's output, which goes to the log line by line. */
struct output {
    int from; /* -1 when it has ended */
    struct log_lines lines;
};

/* Wait at most MS for output and log it. False: none came. */
static bool output_take(struct output *o, const char *id, int ms)
{
    struct pollfd p = {.fd = o->from, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0)
        return false;
    if (log_lines_read(&o->lines, id, o->from) > 0)
        return true;
    close(o->from);
    o->from = -1;
    return false;
}

static void output_end(struct output *o, const char *id, int64_t until)
{
    while (o->from >= 0 && clock_ms() < until && output_take(o, id, 0))
        continue;
    log_lines_end(&o->lines, id);
    if (o->from >= 0)
        close(o->from);
}

static _Noreturn void exec_command(const char *id, const char *command, int output, pid_t janitor)
{
    sigset_t none;
    /* With its janitor it dies too: the next one begins the command anew. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != janitor)
        _exit(126);
    cleanup_mark_process(id);
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0)
        _exit(126);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/* Wait for PID's end, within --undo-timeout, and end all that it has started. False: in vain. */
static bool await_command(pid_t pid, const char *id, int from, int *status)
{
    struct output out = {.from = from};
    siginfo_t ended = {0};
    int64_t until = clock_ms() + settings.undo_ms;
    for (int pause = 1;; pause = pause < 20 ? pause * 2 : pause) {
        bool late = clock_ms() >= until; /* before the look: a slow log must not decide */
        if (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) < 0 ||
            ended.si_pid != 0 || late)
            break;
        if (output_take(&out, id, pause))
            pause = 1;
    }
    kill(-pid, SIGKILL); /* its zombie, if that is what it is, still holds the number */
    bool in_time = ended.si_pid != 0 && waitpid(pid, status, 0) == pid;
    /* What it left behind: daemons are a service manager's business. */
    cleanup_end_children(0, NULL);
    output_end(&out, id, clock_ms() + 1000);
    return in_time;
}

/* The request whose processes have been ended by this janitor, so that no command of an earlier
 * one, which has lost the ledger with its life, runs beside its own. */
static char hunted[CLEANUP_ID_SIZE];

static void hunt_once(const char *id, pid_t session, pid_t parent, bool (*known)(pid_t))
{
    if (strcmp(hunted, id) == 0)
        return;
    if (!cleanup_end_request(id, session, parent, known))
        log_event(id, "a process of this request does not end, even by SIGKILL");
    snprintf(hunted, sizeof hunted, "%s", id);
}

static void command_failed(const char *id, const char *command, bool in_time, int status)
{
    char what[1200], why[64];
    if (!in_time)
        snprintf(why, sizeof why, "no end within %lld ms", (long long)settings.undo_ms);
    else if (WIFEXITED(status))
        snprintf(why, sizeof why, "exit status %d", WEXITSTATUS(status));
    else
        snprintf(why, sizeof why, "ended by signal %d", WTERMSIG(status));
    snprintf(what, sizeof what, "could not undo: run %.800s%s: %s", command,
             strlen(command) > 800 ? "..." : "", why);
    report_failure(id, what);
}

/* Run an undo command to its end. The ledger's lock is held. */
static int run_command(const char *id, const char *command)
{
    int ends[2], status = 0;
    pid_t janitor = getpid();
    hunt_once(id, 0, 0, NULL);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0)
        exec_command(id, command, ends[1], janitor);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return -1;
    }
    setpgid(pid, pid); /* here too: its group may have to be killed before it has run */
    bool in_time = await_command(pid, id, ends[0], &status);
    if (in_time && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    command_failed(id, command, in_time, status);
    errno = 0; /* told */
    return -1;
}

/* ---- Janitors: settling what a child left -------------------------------------------- */

enum janitor_exit {
    JANITOR_UNDONE,
    JANITOR_NOTHING, /* there was nothing to undo */
    JANITOR_UNDO_FAILED,
    JANITOR_KEPT,
    JANITOR_KEEP_FAILED,
    JANITOR_PARKED, /* failed for the last time */
    JANITOR_KEEP_PARKED,
    JANITOR_RECOVERED,
    JANITOR_UNDECIDED, /* it could not tell whether the answer had been sent */
    JANITOR_DIED       /* any other end */
};

/* Whether one of our own children: their pids are in the scoreboard. */
static bool is_a_child_of_ours(pid_t pid)
{
    for (uint32_t i = 0; i < server.board->slot_count; i++)
        if (atomic_load(&server.board->slots[i].pid) == pid)
            return true;
    return false;
}

/* A ledger taken over from a dead server: its identities must prove themselves. */
static bool is_adopted(const char *id)
{
    return strncmp(id, server.token, sizeof server.token - 1) != 0;
}

/* Whether the client has the answer; without the connection, the ledger's mark is believed. */
static bool was_delivered(const struct job *j, int connection, bool is_tcp, uint64_t n)
{
    if (connection < 0)
        return true;
    return !j->unsent &&
           handler_was_delivered(connection, is_tcp, n, j->brief ? 0 : settings.handler.send_ms);
}

static int settle(const struct job *j, int connection, bool is_tcp)
{
    struct cleanup_settling how = {.dir = server.dir,
                                   .id = j->id,
                                   .pool_path = settings.handler.pool_path,
                                   .run = run_command,
                                   .after_crash = is_adopted(j->id)};
    uint64_t n;
    int sent = cleanup_was_sent(server.dir, j->id, &n);
    if (sent < 0 && !j->kept && !j->refuted) {
        cleanup_report(j->id, "could not look for the ledger's sent mark");
        return JANITOR_UNDECIDED;
    }
    bool keep = j->kept || (sent > 0 && !j->refuted && was_delivered(j, connection, is_tcp, n));
    if (keep)
        return cleanup_settle_kept(&how) == CLEANUP_DONE ? JANITOR_KEPT : JANITOR_KEEP_FAILED;
    if (sent > 0 && connection >= 0) /* it must not complete any more while it is undone */
        handler_cut(connection, is_tcp);
    struct cleanup_look before;
    bool made = cleanup_look_ledger(server.dir, j->id, &before) && before.made;
    if ((sent != 0 ? cleanup_settle_refuted(&how) : cleanup_settle(&how)) != CLEANUP_DONE)
        return JANITOR_UNDO_FAILED;
    return made ? JANITOR_UNDONE : JANITOR_NOTHING;
}

static bool is_last_try(const struct job *j)
{
    return j->tries >= (unsigned)settings.undo_retries;
}

/* Put the ledger aside, and say once, loudly, what is left and how it is tried again. WHAT is what
 * failed, as a janitor knows it. */
static bool park(const char *id, const char *what, const char *and_more, int patience_ms)
{
    if (!cleanup_park(server.state, server.dir, id))
        return false;
    journal.patience_ms = patience_ms;
    log_eventf(id, "UNDO FAILED for good: %s%s; when that is mended: %s", what, and_more,
               recover_words(server.state_path, id));
    return true;
}

#define RECOVERY_LIMIT_S 10 /* of a server that was started for one connection */

static struct {
    unsigned settled, left;
} recovery;

static void recovery_told(const char *id, enum cleanup_result result, bool kept)
{
    if (result == CLEANUP_DONE) {
        recovery.settled++;
        log_event(id, kept ? "left by a dead server: kept, as it had been answered"
                           : "left by a dead server: undone");
    } else {
        recovery.left++; /* told of when its job ends */
    }
}

static _Noreturn void recover(void)
{
    const struct cleanup_recovery how = {
        .state = server.state, .adopt = server.dir, .settled = recovery_told};
    if (server.once)
        alarm(RECOVERY_LIMIT_S);
    bool done = cleanup_recover(&how);
    if (recovery.settled > 0 || recovery.left > 0)
        log_eventf(NULL, "recovered from a dead server: %u undone or kept, %u still to do",
                   recovery.settled, recovery.left);
    _exit(done ? JANITOR_RECOVERED : JANITOR_UNDO_FAILED);
}

static _Noreturn void janitor_main(const struct job *j, int connection, bool is_tcp)
{
    sigset_t none;
    become_child(connection, SIGKILL); /* a ledger has one settler: the next server goes on */
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (j->id[0] == '\0')
        recover();
    cleanup_report = report_failure;
    journal.patience_ms = LOG_PATIENCE_MS;
    if (j->session != 0)
        hunt_once(j->id, j->session, server.has_strangers ? 0 : server.pid, is_a_child_of_ours);
    int result = settle(j, connection, is_tcp);
    if ((result == JANITOR_UNDO_FAILED || result == JANITOR_KEEP_FAILED) && is_last_try(j) &&
        park(j->id, failure.what, failure.more ? " (and more)" : "", LOG_PATIENCE_MS))
        result = result == JANITOR_KEEP_FAILED ? JANITOR_KEEP_PARKED : JANITOR_PARKED;
    _exit(result);
}

/* ---- Jobs: which janitor works when -------------------------------------------------- */

#define RETRY_FIRST_MS 1000
#define RETRY_MAX_MS 300000

static void job_append(struct job_list *l, struct job *j)
{
    j->next = NULL;
    if (l->first == NULL)
        l->first = j;
    else
        l->last->next = j;
    l->last = j;
}

static struct job *job_take(struct job_list *l)
{
    struct job *j = l->first;
    if (j != NULL)
        l->first = j->next;
    return j;
}

/* Its turn comes: before the others if a connection, and so a slot, waits for it. */
static void job_ready(struct job *j)
{
    job_append(j->connection != NOBODY ? &server.urgent : &server.patient, j);
}

static void job_delay(struct job *j, int64_t ms)
{
    j->due = clock_ms() + ms;
    if (server.delayed.first == NULL || server.delayed.last->due <= j->due) {
        job_append(&server.delayed, j);
        return;
    }
    struct job **at = &server.delayed.first;
    while ((*at)->due <= j->due)
        at = &(*at)->next;
    j->next = *at;
    *at = j;
}

static void jobs_due(int64_t now)
{
    while (server.delayed.first != NULL && server.delayed.first->due <= now)
        job_ready(job_take(&server.delayed));
}

static void job_start(struct job *j)
{
    int connection = -1;
    bool is_tcp = false;
    if (j->connection != NOBODY) {
        const struct connection *c = &server.connections[j->connection];
        connection = c->fd;
        is_tcp = c->is_tcp;
        j->unsent = !is_tcp && !handler_was_sent(slot_of(c));
    }
    pid_t pid = fork();
    if (pid == 0)
        janitor_main(j, connection, is_tcp);
    if (pid > 0) {
        j->pid = pid;
        server.janitors++;
        job_append(&server.running, j);
    } else {
        log_eventf(j->id, "could not fork a janitor: %s", strerror(errno));
        job_delay(j, RETRY_FIRST_MS);
    }
}

/* Start janitors while there may be more; what waits for no connection is left to the next start
 * when this server is stopping. */
static void jobs_start(void)
{
    while (server.janitors < settings.undo_at_once) {
        struct job *j = job_take(&server.urgent);
        if (j == NULL && !is_draining())
            j = job_take(&server.patient);
        if (j == NULL)
            return;
        job_start(j);
    }
}

static struct job *job_make(const char *id)
{
    struct job *j = calloc(1, sizeof *j);
    if (j == NULL) {
        log_event(id, "no memory to undo now: the ledger stays for the next start");
        return NULL;
    }
    snprintf(j->id, sizeof j->id, "%s", id);
    j->connection = NOBODY;
    return j;
}

static bool is_listed(const struct job_list *l, const char *id)
{
    for (const struct job *j = l->first; j != NULL; j = j->next)
        if (strcmp(j->id, id) == 0)
            return true;
    return false;
}

/* Ledgers that recovery has moved to our directory; by AGAIN not for the first time. */
static void jobs_adopt(bool again)
{
    size_t count;
    char(*ids)[CLEANUP_ID_SIZE] = cleanup_list(server.dir, &count);
    for (size_t i = 0; i < count; i++) {
        bool known =
            again && (is_listed(&server.patient, ids[i]) || is_listed(&server.delayed, ids[i]) ||
                      is_listed(&server.running, ids[i]));
        if (!is_adopted(ids[i]) || known)
            continue;
        struct job *j = job_make(ids[i]);
        if (j != NULL)
            job_ready(j);
    }
    free(ids);
}

/* It has failed as often as it may, and its janitor did not put it aside. */
static void job_give_up(const struct job *j)
{
    if (j->id[0] == '\0')
        log_event(NULL, "could not recover from dead servers; the next start tries again, or "
                        "hangupd recover");
    else if (!park(j->id, "the janitor could not say what", "", 0) && errno != ENOENT)
        log_eventf(j->id,
                   "UNDO FAILED for good, and the ledger could not be put aside: %s; the "
                   "next start tries again",
                   strerror(errno));
}

static void request_settled(struct connection *c, const struct job *j, bool done);

static void job_ended(struct job *j, int result)
{
    bool done = result == JANITOR_UNDONE || result == JANITOR_NOTHING || result == JANITOR_KEPT ||
                result == JANITOR_RECOVERED;
    bool brief = server.once && j->id[0] == '\0'; /* the next one goes on */
    bool parked = result == JANITOR_PARKED || result == JANITOR_KEEP_PARKED;
    bool again = !done && !parked && !is_last_try(j) && !brief;
    j->pid = 0;
    j->kept = j->kept || result == JANITOR_KEPT || result == JANITOR_KEEP_FAILED ||
              result == JANITOR_KEEP_PARKED;
    j->refuted = j->refuted || result == JANITOR_UNDO_FAILED;
    j->nothing = result == JANITOR_NOTHING && j->tries == 0; /* one that died may have undone it */
    /* The connection, which alone can tell whether the answer arrived, is kept to be asked again.
     */
    bool undecided = result == JANITOR_DIED || result == JANITOR_UNDECIDED;
    if (j->connection != NOBODY && !(undecided && again)) {
        struct connection *c = &server.connections[j->connection];
        j->connection = NOBODY;
        request_settled(c, j, done);
    } else if (done && j->id[0] != '\0' && (j->tries > 0 || is_adopted(j->id))) {
        log_event(j->id, j->kept ? "kept at last, as it had been answered" : "undone at last");
    }
    if (j->id[0] == '\0')
        jobs_adopt(j->tries > 0); /* also what one that died has moved */
    if (again) {
        int64_t pause = (int64_t)RETRY_FIRST_MS << (j->tries < 9 ? j->tries : 9);
        pause = pause < RETRY_MAX_MS ? pause : RETRY_MAX_MS;
        log_eventf(j->id[0] != '\0' ? j->id : NULL, "undo failed; it is tried again in %lld s",
                   (long long)(pause / 1000));
        j->tries++;
        job_delay(j, pause);
        return;
    }
    if (!done && !parked)
        job_give_up(j);
    free(j);
}

/* If PID was a janitor, its job has ended. */
static void janitor_ended(pid_t pid, const siginfo_t *ended)
{
    struct job **at = &server.running.first, *before = NULL;
    while (*at != NULL && (*at)->pid != pid) {
        before = *at;
        at = &before->next;
    }
    struct job *j = *at;
    if (j == NULL)
        return;
    *at = j->next;
    if (server.running.last == j)
        server.running.last = before;
    server.janitors--;
    bool said = ended->si_code == CLD_EXITED && ended->si_status < JANITOR_DIED;
    if (!said)
        log_eventf(j->id[0] != '\0' ? j->id : NULL, "a janitor ended by %s %d",
                   ended->si_code == CLD_EXITED ? "exit status" : "signal", ended->si_status);
    job_ended(j, said ? ended->si_status : JANITOR_DIED);
}

#define RECOVERY_EVERY_S 60

/* Whether another server of this STATE has done it a short time ago; if not, this one does now. */
static bool was_recovered(void)
{
    struct stat last;
    if (fstatat(server.state, "recovered", &last, AT_SYMLINK_NOFOLLOW) == 0 &&
        time(NULL) - last.st_mtime < RECOVERY_EVERY_S)
        return true;
    int stamp =
        openat(server.state, "recovered", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (stamp < 0 || futimens(stamp, NULL) < 0)
        log_eventf(NULL, "could not note the recovery: %s", strerror(errno));
    if (stamp >= 0)
        close(stamp);
    return false;
}

/* Take over from dead servers. One that inetd started for one connection does so after that, not
 * too often, and not for long. */
static void recovery_begin(void)
{
    server.recovered = true;
    if (server.once && (is_draining() || was_recovered()))
        return;
    struct job *j = job_make("");
    if (j != NULL)
        job_ready(j);
}

static void jobs_leave(const struct job_list *l)
{
    for (const struct job *j = l->first; j != NULL; j = j->next)
        if (j->id[0] != '\0')
            log_event(j->id, "still to be undone: the next start goes on with it");
}

/* ---- The end of a request ------------------------------------------------------------ */

/* A place in a route's line is free: those behind it look again. A false ROUTE wakes the wrong
 * ones, and the right ones look when their time is up. */
static void line_moves(int route)
{
    _Atomic uint32_t *releases = &server.board->line.releases;
    atomic_fetch_add(releases, 1);
    syscall(SYS_futex, releases, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, LINE_BIT(route));
}

static void slot_release(struct connection *c)
{
    struct slot *s = slot_of(c);
    bool had_place = atomic_exchange(&s->ticket, TICKET_NONE) != TICKET_NONE;
    atomic_store(&s->pid, 0);
    atomic_store(&s->state, SLOT_FREE);
    server.slot_users[c->slot] = NOBODY;
    server.free_slots[server.free_slot_count++] = c->slot;
    c->slot = NOBODY;
    if (had_place)
        line_moves(atomic_load(&s->route));
}

/* The slot as it is now, made safe to print. */
static struct slot slot_copy(const struct connection *c)
{
    struct slot s;
    memcpy(&s, slot_of(c), sizeof s);
    s.id[sizeof s.id - 1] = s.client[sizeof s.client - 1] = s.request[sizeof s.request - 1] = '\0';
    if (s.outcome > OUTCOME_KILLED)
        s.outcome = OUTCOME_NONE;
    if (s.undo > UNDO_FAILED)
        s.undo = UNDO_NONE;
    return s;
}

static enum outcome outcome_of_cause(enum cause cause)
{
    return cause == CAUSE_HANGUP    ? OUTCOME_HANGUP
           : cause == CAUSE_TIMEOUT ? OUTCOME_TIMEOUT
           : cause == CAUSE_DRAIN   ? OUTCOME_DRAIN
           : cause == CAUSE_EVICTED ? OUTCOME_ERROR
                                    : OUTCOME_KILLED;
}

/* The child did what it should: nothing is left. */
static void request_done(struct connection *c, bool reuse)
{
    struct slot s = slot_copy(c);
    enum outcome outcome = s.outcome != OUTCOME_NONE ? (enum outcome)s.outcome : OUTCOME_OK;
    if (s.request[0] != '\0' || outcome != OUTCOME_OK)
        request_ended(&s, outcome, (enum undo_result)s.undo, clock_ms() - c->since);
    slot_release(c);
    if (reuse)
        connection_idle(c);
    else
        connection_finish(c);
}

/* Signals that an operator or the memory killer sends; any other is the program's own fault. */
static bool is_sent_by_people(int signal)
{
    return signal == SIGKILL || signal == SIGTERM || signal == SIGINT || signal == SIGHUP ||
           signal == SIGQUIT;
}

/* The answer that the dead child did not begin, as S notes. False: it did not go whole. */
static bool send_failure(const struct connection *c, struct slot *s, enum outcome outcome)
{
    bool late = outcome == OUTCOME_TIMEOUT, stopping = outcome == OUTCOME_DRAIN;
    return handler_send_canned(c->fd, s,
                               late       ? 504
                               : stopping ? 503
                                          : 500,
                               s->head != 0,
                               late ? "the time limit was reached; the work was stopped and undone"
                               : stopping
                                   ? "the server is stopping; the work was stopped and undone"
                                   : "the work failed and was undone");
}

/* A janitor has settled, or tried to, what the dead child left: tell the client, log it. */
static void request_settled(struct connection *c, const struct job *j, bool done)
{
    struct slot s = slot_copy(c);
    uint32_t state = atomic_load(&slot_of(c)->state) & SLOT_STATE_MASK;
    bool by_itself = j->ended.si_code == CLD_EXITED && j->ended.si_status == HANDLER_EXIT_UNDONE;
    bool by_signal = j->ended.si_code != CLD_EXITED && is_sent_by_people(j->ended.si_status);
    enum outcome outcome = j->kept                                  ? OUTCOME_OK
                           : by_itself && s.outcome != OUTCOME_NONE ? (enum outcome)s.outcome
                           : c->cause != CAUSE_NONE                 ? outcome_of_cause(c->cause)
                           : by_signal                              ? OUTCOME_KILLED
                                                                    : OUTCOME_CRASH;
    bool nothing = j->nothing && s.undo == UNDO_NONE; /* nor has the child undone anything */
    bool tell = state != SLOT_ANSWERING && state != SLOT_DONE && outcome != OUTCOME_HANGUP;
    bool orderly =
        tell ? send_failure(c, &s, outcome) : j->kept || (by_itself && outcome == OUTCOME_ERROR);
    request_ended(&s, outcome,
                  nothing || j->kept ? UNDO_NONE
                  : done             ? UNDO_OK
                                     : UNDO_FAILED,
                  clock_ms() - c->since);
    slot_release(c);
    if (orderly)
        connection_finish(c);
    else
        connection_close(c);
    queue_serve();
}

static void child_ended(struct connection *c, const siginfo_t *ended)
{
    pid_t pid = c->pid;
    bool settled =
        ended->si_code == CLD_EXITED &&
        (ended->si_status == HANDLER_EXIT_KEEP || ended->si_status == HANDLER_EXIT_CLOSE) &&
        (atomic_load(&slot_of(c)->state) & SLOT_STATE_MASK) == SLOT_DONE;
    pid_forget(c);
    return_low_number(c);
    set_deadline(c, 0);
    if (settled) {
        request_done(c, ended->si_status == HANDLER_EXIT_KEEP);
        return;
    }
    kill(-pid, SIGKILL); /* its zombie still holds the number */
    set_phase(c, PHASE_SETTLING);
    atomic_fetch_or(&slot_of(c)->state, SLOT_SETTLING);
    char id[CLEANUP_ID_SIZE];
    snprintf(id, sizeof id, "%s-%llx", server.token, (unsigned long long)c->id_number);
    struct job *j = job_make(id);
    if (j == NULL) {
        struct job none = {.ended = *ended};
        request_settled(c, &none, false);
        return;
    }
    j->session = pid;
    j->connection = index_of(c);
    j->brief = c->cause == CAUSE_EVICTED;
    j->ended = *ended;
    job_ready(j);
}

/* Look at a dead child before its number is given away, and only then reap it. False: there is none
 * among these. Only with P_ALL does that cost more the more children there are. */
static bool reap(idtype_t which, pid_t pid)
{
    siginfo_t ended = {0}, gone = {0};
    const int how = WEXITED | WNOHANG | __WALL;
    if (waitid(which, (id_t)pid, &ended, how | WNOWAIT) < 0 || ended.si_pid == 0)
        return false;
    struct connection *c = pid_find(ended.si_pid);
    if (c != NULL)
        child_ended(c, &ended);
    waitid(P_PID, (id_t)ended.si_pid, &gone, how);
    if (c == NULL)
        janitor_ended(ended.si_pid, &ended);
    return true;
}

static void reap_all(void)
{
    server.reaped_at = clock_ms();
    while (reap(P_ALL, 0))
        continue;
}

/* ---- Accepting ----------------------------------------------------------------------- */

static void listeners_watch(int how)
{
    for (size_t i = 0; i < server.listener_count; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.u64 = WATCH_LISTENER | i};
        epoll_ctl(server.epoll, how, server.listeners[i].fd, &e);
    }
}

static void mute(int64_t ms)
{
    if (!server.muted)
        listeners_watch(EPOLL_CTL_DEL);
    server.muted = true;
    server.unmute_at = clock_ms() + ms;
}

static void unmute(void)
{
    if (server.muted && !is_draining())
        listeners_watch(EPOLL_CTL_ADD);
    server.muted = false;
}

#define LOOK_FOR_IDLE 64 /* connections */
#define FRESH_MS 100     /* so long a new connection may take to ask for something */

static bool may_be_dropped(const struct connection *c)
{
    bool fresh = c->requests == 0 && clock_ms() - c->since < FRESH_MS;
    return !fresh && unread(c) == 0;
}

/* An idle connection makes room for a new one: the oldest that has not asked for anything. */
static bool drop_oldest_idle(void)
{
    int i = server.idle.first;
    for (int looks = 0; i != NOBODY && !may_be_dropped(&server.connections[i]); looks++)
        i = looks < LOOK_FOR_IDLE ? server.connections[i].next : NOBODY;
    if (i == NOBODY)
        return false;
    struct connection *c = &server.connections[i];
    handler_end_sending(c->fd); /* also for the copies that children still hold */
    connection_close(c);
    return true;
}

/* Out of descriptors: one is kept in reserve, to tell a caller so instead of leaving it hanging. */
static void refuse_one(const struct listener *l, int error)
{
    static int64_t last;
    int64_t now = clock_ms();
    if (now - last > 1000)
        log_eventf(NULL, "could not accept a connection: %s; raise the limit of open files",
                   strerror(error));
    last = now;
    if (server.reserve >= 0)
        close(server.reserve);
    struct connection caller = {.is_tcp = l->is_tcp, .since = now};
    struct sockaddr_storage from = {0};
    socklen_t size = sizeof from;
    int fd = accept4(l->fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        char nowhere[1024];
        struct slot s = {0};
        if (handler_send_canned(fd, &s, 503, false,
                                "the server has no room for another connection")) {
            handler_end_sending(fd);
            (void)!recv(fd, nowhere, sizeof nowhere, MSG_TRUNC | MSG_DONTWAIT);
        }
        close(fd);
        set_address(&caller, &from);
        log_queued(&caller, &s, OUTCOME_ERROR);
    }
    server.reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    mute(MUTE_MS);
}

#define ACCEPT_AT_ONCE 64

static void accept_some(const struct listener *l)
{
    for (int i = 0; i < ACCEPT_AT_ONCE && !server.muted; i++) {
        if (server.free_connection == NOBODY && i > 0)
            return; /* whether a further one waits only the next event tells */
        if (server.free_connection == NOBODY && !drop_oldest_idle()) {
            mute(MUTE_MS);
            return;
        }
        struct sockaddr_storage from = {0};
        socklen_t size = sizeof from;
        int fd = accept4(l->fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC);
        if (fd >= 0) {
            connection_open(fd, &from, l->is_tcp);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            int error = errno;
            if (!drop_oldest_idle()) {
                refuse_one(l, error);
                return;
            }
        } else if (errno != EINTR && errno != ECONNABORTED && errno != EPROTO) {
            return; /* EAGAIN; the network errors of accept(2) concern that caller only */
        }
    }
}

/* ---- Stopping ------------------------------------------------------------------------ */

static void listeners_close(void)
{
    for (size_t i = 0; i < server.listener_count; i++) {
        struct listener *l = &server.listeners[i];
        struct stat now;
        /* Only the socket that we made, not one that has taken its place. */
        if (l->unix_path[0] != '\0' && lstat(l->unix_path, &now) == 0 && now.st_dev == l->dev &&
            now.st_ino == l->ino)
            unlink(l->unix_path);
        close(l->fd);
    }
    server.listener_count = 0;
}

static void drain(void)
{
    server.draining = true;
    server.drain_at = clock_ms() + settings.drain_ms;
    atomic_store(&server.board->draining, 1);
    if (server.busy.count == 0)
        log_event(NULL, "stopping");
    else if (server.ending)
        log_eventf(NULL, "stopping: %d in flight, to be undone now", server.busy.count);
    else
        log_eventf(NULL, "stopping: %d in flight, which may take %lld s to finish",
                   server.busy.count, (long long)(settings.drain_ms / 1000));
    if (!server.muted)
        listeners_watch(EPOLL_CTL_DEL);
    listeners_close();
    while (server.idle.first != NOBODY)
        connection_finish(&server.connections[server.idle.first]);
    while (server.queue.first != NOBODY) {
        struct connection *c = &server.connections[server.queue.first];
        refuse_queued(c, OUTCOME_DRAIN, "the server is stopping");
    }
}

static void end_all(void)
{
    server.ending = true;
    if (!server.draining)
        drain();
    for (int i = server.busy.first; i != NOBODY; i = server.connections[i].next)
        request_end(&server.connections[i], CAUSE_DRAIN);
}

#define SIGNALS_AT_ONCE 64

static void signals_arrived(void)
{
    const struct timespec at_once = {0};
    bool some = false;
    for (int i = 0; i < SIGNALS_AT_ONCE; i++) {
        siginfo_t info;
        int signal = sigtimedwait(&server.handled, &info, &at_once);
        if (signal < 0)
            break;
        if (signal == CHILD_ENDED)
            some = !reap(P_PID, info.si_pid) || some;
        else if (signal == SIGCHLD)
            some = true;
        else if (signal == SIGINT || is_draining())
            end_all();
        else
            drain();
    }
    if (some)
        reap_all();
    jobs_start();
    queue_serve();
}

static bool is_over(void)
{
    bool waiting = server.patient.first != NULL || server.delayed.first != NULL;
    if (server.listener_count > 0 || server.open_count > 0 || server.janitors > 0)
        return false;
    return is_draining() || (server.once && server.recovered && !waiting);
}

/* ---- The loop ------------------------------------------------------------------------ */

static void sooner(int64_t *at, int64_t other)
{
    if (other != 0 && (*at == 0 || other < *at))
        *at = other;
}

static int time_to_wait(int64_t now)
{
    int64_t at = server.heap_size > 0 ? server.connections[server.heap[0]].deadline : 0;
    if (server.muted)
        sooner(&at, server.unmute_at);
    if (server.draining && !server.ending)
        sooner(&at, server.drain_at);
    if (settings.idle_exit_ms >= 0 && server.open_count == 0)
        sooner(&at, server.idle_since + settings.idle_exit_ms);
    if (server.delayed.first != NULL)
        sooner(&at, server.delayed.first->due);
    if (server.busy.count > 0)
        sooner(&at, server.reaped_at + REAP_EVERY_MS);
    if (at == 0)
        return -1;
    return at <= now ? 0 : at - now > INT_MAX ? INT_MAX : (int)(at - now);
}

static void do_what_is_due(int64_t now)
{
    while (server.heap_size > 0 && server.connections[server.heap[0]].deadline <= now)
        connection_due(&server.connections[server.heap[0]], now);
    if (server.busy.count > 0 && server.reaped_at + REAP_EVERY_MS <= now)
        reap_all();
    if (server.muted && server.unmute_at <= now)
        unmute();
    if (server.draining && !server.ending && server.drain_at <= now)
        end_all();
    if (server.once && server.open_count == 0 && !server.recovered)
        recovery_begin();
    jobs_due(now);
    jobs_start();
    if (server.open_count > 0)
        server.idle_since = now;
    else if (settings.idle_exit_ms >= 0 && now - server.idle_since >= settings.idle_exit_ms &&
             !is_draining())
        drain();
    if (journal.lost > 0) {
        unsigned lost = journal.lost;
        journal.lost = 0;
        log_eventf(NULL, "%u log lines were lost: the log did not take them in time", lost);
    }
}

static void dispatch(const struct epoll_event *e)
{
    uint64_t what = e->data.u64;
    if ((what & WATCH_LISTENER) != 0) {
        if (!server.muted && !is_draining())
            accept_some(&server.listeners[what & 0xff]);
    } else if ((what & WATCH_SIGNALS) != 0) {
        signals_arrived();
    } else if ((what & WATCH_NUDGE) != 0) {
        nudged();
    } else {
        struct connection *c = &server.connections[(uint32_t)what];
        if (c->phase != PHASE_FREE && c->generation == (uint32_t)(what >> 32))
            connection_event(c, e->events);
    }
}

static void loop(void)
{
    struct epoll_event events[128];
    server.idle_since = clock_ms();
    while (!is_over()) {
        publish();
        int n = epoll_wait(server.epoll, events, 128, time_to_wait(clock_ms()));
        if (n < 0 && errno != EINTR)
            cannot("could not wait for events: %s", strerror(errno));
        for (int i = 0; i < n; i++)
            dispatch(&events[i]);
        do_what_is_due(clock_ms());
    }
}

/* ---- Starting: sockets --------------------------------------------------------------- */

/* Accepted connections inherit these on Linux. */
static void set_socket_options(int fd, bool is_tcp)
{
    const int on = 1;
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    /* Probes for the last two thirds of the time, so that the loss of a few ends no request. With
     * TCP_USER_TIMEOUT it is that time that ends it, and no count of probes (tcp(7)). */
    int dead_s = (int)(settings.handler.dead_peer_ms / 1000);
    int interval_s = dead_s < 20 ? 1 : dead_s / 10;
    int idle_s = dead_s - dead_s * 2 / 3 / interval_s * interval_s;
    unsigned user_ms = (unsigned)settings.handler.dead_peer_ms;
    /* If everybody dies the client must see a reset, and not the end of an answer. */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (!is_tcp)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof user_ms);
}

static struct listener *listener_add(int fd, bool is_tcp)
{
    if (server.listener_count == LISTENERS_MAX)
        cannot("more than %d listening sockets", LISTENERS_MAX);
    struct listener *l = &server.listeners[server.listener_count++];
    *l = (struct listener){.fd = fd, .is_tcp = is_tcp};
    set_socket_options(fd, is_tcp);
    struct sockaddr_storage at = {0};
    socklen_t size = sizeof at;
    getsockname(fd, (struct sockaddr *)&at, &size);
    if (at.ss_family == AF_UNIX) {
        snprintf(l->name, sizeof l->name, "unix:%s", ((struct sockaddr_un *)&at)->sun_path);
    } else {
        struct connection here = {.is_tcp = true};
        set_address(&here, &at);
        connection_name(&here, l->name, sizeof l->name);
    }
    return l;
}

static void listen_unix(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct stat there;
    if (*path == '\0' || strlen(path) >= sizeof at.sun_path)
        wrong_use("--listen unix:%s: the path is empty or longer than %zu bytes", path,
                  sizeof at.sun_path - 1);
    memcpy(at.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        cannot("could not make a socket: %s", strerror(errno));
    if (lstat(path, &there) == 0) {
        /* Left by a server that was killed: ours, a socket, and nobody answers. */
        bool stale = S_ISSOCK(there.st_mode) && there.st_uid == geteuid() &&
                     connect(fd, (struct sockaddr *)&at, sizeof at) < 0 && errno == ECONNREFUSED;
        if (!stale)
            cannot("could not listen on unix:%s: the path exists and is %s; remove it or choose "
                   "another",
                   path, S_ISSOCK(there.st_mode) ? "in use or another user's" : "not a socket");
        unlink(path);
    }
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, SOMAXCONN) < 0)
        cannot("could not listen on unix:%s: %s", path, strerror(errno));
    struct listener *l = listener_add(fd, false);
    memcpy(l->unix_path, at.sun_path, sizeof l->unix_path);
    if (lstat(path, &there) == 0) {
        l->dev = there.st_dev;
        l->ino = there.st_ino;
    }
}

static void listen_address(const struct sockaddr_storage *at, socklen_t size, const char *name)
{
    const int on = 1;
    int fd = socket(at->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        cannot("could not make a socket for %s: %s", name, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (at->ss_family == AF_INET6) {
        const int only = *name != ':'; /* :PORT is IPv4 as well */
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
    }
    if (bind(fd, (const struct sockaddr *)at, size) < 0 || listen(fd, SOMAXCONN) < 0)
        cannot("could not listen on %s: %s%s", name, strerror(errno),
               errno == EADDRINUSE ? "; another server has this port: stop it, or choose another "
                                     "port with --listen"
               : errno == EACCES   ? "; ports below 1024 want root"
                                   : "");
    listener_add(fd, true);
}

/* HOST as an address of IPv4 or IPv6: its size, or 0. Not by getaddrinfo(3), which loads libraries:
 * a statically linked program should not. */
static socklen_t parse_address(const char *host, in_port_t port, struct sockaddr_storage *at)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    char address[INET6_ADDRSTRLEN];
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(at, &v4, sizeof v4);
        return sizeof v4;
    }
    const char *zone = strchr(host, '%'); /* fe80::1%eth0 */
    size_t length = zone != NULL ? (size_t)(zone - host) : strlen(host);
    if (length >= sizeof address)
        return 0;
    memcpy(address, host, length);
    address[length] = '\0';
    if (zone != NULL)
        v6.sin6_scope_id = if_nametoindex(zone + 1);
    if (inet_pton(AF_INET6, address, &v6.sin6_addr) != 1 || (zone != NULL && v6.sin6_scope_id == 0))
        return 0;
    memcpy(at, &v6, sizeof v6);
    return sizeof v6;
}

/* All addresses: of both kinds, where the kernel has IPv6. */
static const char *all_addresses(void)
{
    int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe < 0)
        return "0.0.0.0";
    close(probe);
    return "::";
}

/* ADDR:PORT, [V6]:PORT, :PORT, unix:PATH */
static void listen_on(const char *name)
{
    char host[256] = "";
    if (strncmp(name, "unix:", 5) == 0) {
        listen_unix(name + 5);
        return;
    }
    const char *colon = strrchr(name, ':'), *port = colon != NULL ? colon + 1 : "", *end = port;
    unsigned long long number;
    size_t length = colon != NULL ? (size_t)(colon - name) : 0;
    if (!parse_number(&end, 65535, &number) || *end != '\0' || length >= sizeof host)
        wrong_use("--listen %s is not ADDR:PORT, [V6]:PORT, :PORT or unix:PATH", name);
    bool bracketed = length > 2 && name[0] == '[' && name[length - 1] == ']';
    if (bracketed)
        memcpy(host, name + 1, length - 2);
    else
        memcpy(host, name, length);
    if (!bracketed && strchr(host, ':') != NULL)
        wrong_use("--listen %s: write an IPv6 address in brackets, as in [::1]:8080", name);
    const char *where = host[0] == '\0'                  ? all_addresses()
                        : strcmp(host, "localhost") == 0 ? "127.0.0.1"
                                                         : host;
    struct sockaddr_storage at = {0};
    socklen_t size = parse_address(where, (in_port_t)number, &at);
    if (size == 0)
        wrong_use("--listen %s: %s is not an address of this machine", name, host);
    listen_address(&at, size, name);
}

static bool is_listening(int fd, bool *listening)
{
    int yes = 0;
    socklen_t size = sizeof yes;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &size) < 0)
        return false;
    *listening = yes != 0;
    return true;
}

/* A socket that was handed to us. */
static void inherit(int fd, const char *from)
{
    bool listening;
    int domain = 0, type = 0;
    socklen_t size = sizeof domain;
    if (!is_listening(fd, &listening))
        cannot("%s is not a socket (%s); it must be a connection or a listening socket", from,
               strerror(errno));
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
    if (type != SOCK_STREAM || (domain != AF_UNIX && domain != AF_INET && domain != AF_INET6))
        cannot("%s is not a stream socket of TCP or AF_UNIX", from);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (listening) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        listener_add(fd, domain != AF_UNIX);
        return;
    }
    if (server.once)
        cannot("more than one connection was handed over");
    server.once = true;
    set_socket_options(fd, domain != AF_UNIX);
    server.listeners[0] = (struct listener){.fd = fd, .is_tcp = domain != AF_UNIX};
}

/* sd_listen_fds(3): descriptors from 3 on. True: there were some. */
static bool inherit_from_systemd(void)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    unsigned long long owner, n;
    if (pid == NULL || count == NULL || !parse_number(&pid, INT_MAX, &owner) ||
        (pid_t)owner != getpid())
        return false;
    if (!parse_number(&count, LISTENERS_MAX, &n) || n == 0)
        cannot("LISTEN_FDS=%s is not a number from 1 to %d", getenv("LISTEN_FDS"), LISTENERS_MAX);
    for (int fd = 3; fd < 3 + (int)n; fd++) {
        char from[64];
        snprintf(from, sizeof from, "the descriptor %d of LISTEN_FDS", fd);
        inherit(fd, from);
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return true;
}

static void open_sockets(void)
{
    if (settings.inetd) {
        bool listening = false;
        is_listening(0, &listening);
        int fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
            cannot("could not keep the socket: %s", strerror(errno));
        inherit(fd, "--inetd: descriptor 0");
        if (listening && settings.idle_exit_ms < 0)
            settings.idle_exit_ms = 60000;
        return;
    }
    if (settings.listen_count == 0 && inherit_from_systemd())
        return;
    for (size_t i = 0; i < settings.listen_count; i++)
        listen_on(settings.listen[i]);
    if (settings.listen_count == 0)
        listen_on("127.0.0.1:8080");
}

/* ---- Starting: log, user, state, tables ---------------------------------------------- */

/* Descriptors 0 to 2 must be something, or the first socket would become one of them. */
static void open_standard_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static bool same_file(int a, int b)
{
    struct stat x, y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Under inetd 0, 1 and 2 are the client: not a byte of ours may go there. */
static void leave_standard_descriptors(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    bool client = same_file(0, 2);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || (client && dup2(null, 2) < 0))
        cannot("could not open /dev/null: %s", strerror(errno));
    close(null);
}

static void open_log(void)
{
    struct stat now;
    bool syslog = settings.log_to != NULL ? strcmp(settings.log_to, "syslog") == 0 : settings.inetd;
    if (settings.inetd && !syslog && same_file(0, 2))
        syslog = true; /* standard error is the client */
    if (syslog) {
        struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            cannot("could not make a socket for syslog: %s", strerror(errno));
        /* Without a syslog daemon there is no log; that is no reason not to serve. */
        if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0 && !settings.inetd)
            fprintf(stderr, "hangupd: no syslog at /dev/log (%s): nothing will be logged\n",
                    strerror(errno));
        journal.fd = fd;
        journal.syslog = true;
        return;
    }
    journal.fd = STDERR_FILENO;
    journal.may_block = fstat(journal.fd, &now) < 0 || !S_ISREG(now.st_mode);
}

static const char *default_state(void)
{
    static char path[PATH_MAX];
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (geteuid() == 0)
        return "/var/lib/hangupd";
    if (xdg != NULL && xdg[0] == '/')
        snprintf(path, sizeof path, "%s/hangupd", xdg);
    else if (home != NULL && home[0] == '/')
        snprintf(path, sizeof path, "%s/.local/state/hangupd", home);
    else
        cannot("there is no HOME to keep the ledgers in: say where with --state DIR");
    return path;
}

static void open_state(uid_t owner, gid_t group)
{
    const char *why, *path = settings.state != NULL ? settings.state : default_state();
    server.state = cleanup_state_open(path, owner, group, &why);
    if (server.state < 0)
        cannot("the state directory %s %s%s%s", path, why, errno != 0 ? ": " : "",
               errno != 0 ? strerror(errno) : "");
    server.state_path = realpath(path, NULL);
    if (server.state_path == NULL)
        server.state_path = path;
}

/* The user with this NAME, or of this number if NAME is NULL, in /etc/passwd. NULL: there is none;
 * errno says more. Not by getpwnam(3), which loads libraries: a static program should not. */
static const struct passwd *find_user(const char *name, uid_t user)
{
    FILE *all = fopen("/etc/passwd", "re");
    const struct passwd *who = NULL;
    while (all != NULL && (who = fgetpwent(all)) != NULL)
        if (name != NULL ? strcmp(who->pw_name, name) == 0 : who->pw_uid == user)
            break;
    if (all != NULL)
        fclose(all);
    return who;
}

/* GROUP, and those to which /etc/group says that NAME belongs: how many, or -1. */
static int find_groups(const char *name, gid_t group, gid_t groups[NGROUPS_MAX])
{
    FILE *all = fopen("/etc/group", "re");
    int count = 1;
    if (all == NULL)
        return -1;
    groups[0] = group;
    for (const struct group *g; count < NGROUPS_MAX && (g = fgetgrent(all)) != NULL;) {
        char **member = g->gr_mem;
        while (*member != NULL && strcmp(*member, name) != 0)
            member++;
        if (*member != NULL)
            groups[count++] = g->gr_gid;
    }
    fclose(all);
    return count;
}

/* Groups, group, user; then prove that there is no way back (setuid(2)). NAME: NULL if the user
 * has none, and so no further groups. */
static void become_user(const char *name, uid_t user, gid_t group)
{
    static gid_t groups[NGROUPS_MAX];
    int count = name != NULL ? find_groups(name, group, groups) : 0;
    if (count < 0 || setgroups((size_t)count, groups) < 0 || setgid(group) < 0 || setuid(user) < 0)
        cannot("could not become the user %s (%u): %s", name != NULL ? name : "without a name",
               (unsigned)user, strerror(errno));
    if (user != 0 && (setuid(0) == 0 || seteuid(0) == 0))
        cannot("the user %s (%u) can become root again: not going on",
               name != NULL ? name : "without a name", (unsigned)user);
}

static void drop_privileges(void)
{
    const struct passwd *who = NULL;
    if (settings.user != NULL) {
        errno = 0;
        who = find_user(settings.user, 0);
        if (who == NULL)
            cannot("--user %s: %s", settings.user,
                   errno != 0 && errno != ENOENT ? strerror(errno) : "not a user in /etc/passwd");
        if (geteuid() != 0 && who->pw_uid != geteuid())
            cannot("--user %s: only root can become another user", settings.user);
    } else if (geteuid() == 0 && !server.once) {
        log_event(NULL,
                  "warning: running as root; --user NAME drops that when the sockets are open");
    }
    open_state(who != NULL ? who->pw_uid : geteuid(), who != NULL ? who->pw_gid : getegid());
    if (who != NULL && geteuid() == 0)
        become_user(who->pw_name, who->pw_uid, who->pw_gid);
}

static void open_scoreboard(void)
{
    size_t count = (size_t)settings.requests;
    size_t size = sizeof(struct scoreboard) + count * sizeof(struct slot);
    int fd = openat(server.dir, "scoreboard", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int error = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)size); /* or SIGBUS on a full disk */
    struct scoreboard *board =
        error != 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED)
        cannot("could not make the scoreboard in the state directory: %s",
               strerror(error != 0 ? error : errno));
    close(fd);
    server.board = board;
    board->slot_count = (uint32_t)count;
    board->slot_size = sizeof(struct slot);
    for (size_t i = 0; i < server.listener_count; i++)
        memcpy(board->listening[i], server.listeners[i].name, LISTENER_NAME_SIZE);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    server.figures.pid = (uint64_t)server.pid;
    server.figures.started = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    publish();
    memcpy(board->magic, SCOREBOARD_MAGIC, sizeof board->magic);
}

/* Memory that children do not get: they need not pay for it at fork, and cannot read it. */
static void *private_memory(size_t size)
{
    void *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED || madvise(m, size, MADV_DONTFORK) < 0)
        cannot("out of memory for the table of connections: %s", strerror(errno));
    return m;
}

static void make_tables(void)
{
    int room = (int)settings.connections, slots = (int)settings.requests;
    server.connection_room = room;
    server.connections = private_memory((size_t)room * sizeof *server.connections);
    server.heap = private_memory((size_t)room * sizeof *server.heap);
    server.free_slots = private_memory((size_t)slots * sizeof *server.free_slots);
    server.slot_users = private_memory((size_t)slots * sizeof *server.slot_users);
    server.bucket_count = 64;
    while (server.bucket_count < slots)
        server.bucket_count *= 2;
    size_t buckets = (size_t)server.bucket_count * sizeof(int);
    server.pid_buckets = private_memory(buckets);
    server.client_buckets = private_memory(buckets);
    for (int i = 0; i < server.bucket_count; i++)
        server.pid_buckets[i] = server.client_buckets[i] = NOBODY;
    server.clients = private_memory((size_t)slots * sizeof *server.clients);
    for (int i = 0; i < slots; i++)
        server.clients[i].next = i + 1 < slots ? i + 1 : NOBODY;
    for (int i = slots - 1; i >= 0; i--)
        server.free_slots[server.free_slot_count++] = i;
    for (int i = 0; i < slots; i++)
        server.slot_users[i] = NOBODY;
    for (int i = 0; i < room; i++)
        server.connections[i].next = i + 1 < room ? i + 1 : NOBODY;
}

/* Memory that is touched by children only. */
static void make_head(void)
{
    const size_t page = 4096;
    size_t room = handler_head_room(&settings.handler);
    settings.handler.head = aligned_alloc(page, (room + page - 1) / page * page);
    if (settings.handler.head == NULL)
        cannot("out of memory for the heads of requests");
}

/* As many descriptors as the connections need, if the hard limit has them. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)settings.connections + 64;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    settings.handler.open_files = limit.rlim_cur;
    if (limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void add_watch(int fd, uint64_t what)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = what};
    if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        cannot("could not watch for events: %s", strerror(errno));
}

static void note_ignored(void)
{
    struct sigaction now;
    sigemptyset(&settings.handler.ignored);
    for (int signal = 1; signal < NSIG; signal++)
        if (sigaction(signal, NULL, &now) == 0 && now.sa_handler == SIG_IGN)
            sigaddset(&settings.handler.ignored, signal);
}

static void open_events(void)
{
    sigset_t all;
    if (pipe2(server.nudge, O_CLOEXEC | O_NONBLOCK) < 0)
        cannot("could not make a pipe: %s", strerror(errno));
    fcntl(server.nudge[1], F_SETFL, O_WRONLY); /* a child waits for room; the parent never writes */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    sigemptyset(&server.handled);
    sigaddset(&server.handled, SIGCHLD);
    sigaddset(&server.handled, CHILD_ENDED);
    sigaddset(&server.handled, SIGTERM);
    sigaddset(&server.handled, SIGINT);
    struct sigaction hup;
    if (sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN) /* nohup(1) stays so */
        sigaddset(&server.handled, SIGHUP);
    server.signals = signalfd(-1, &server.handled, SFD_CLOEXEC | SFD_NONBLOCK);
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    server.reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (server.signals < 0 || server.epoll < 0)
        cannot("could not watch for events: %s", strerror(errno));
    signal(SIGPIPE, SIG_IGN);
    note_ignored();
    signal(SIGCHLD, SIG_DFL); /* ignored, as some starters leave it, children could not be reaped */
    signal(SIGTERM, SIG_DFL);
}

/* Where scratch directories and bodies go: nobody else may rename or remove them. */
static void find_tmpdir(void)
{
    struct stat now;
    const char *tmp = getenv("TMPDIR");
    if (tmp == NULL || *tmp == '\0')
        tmp = "/tmp";
    settings.handler.tmpdir = realpath(tmp, NULL);
    if (settings.handler.tmpdir == NULL || stat(settings.handler.tmpdir, &now) < 0)
        cannot("TMPDIR=%s: %s", tmp, strerror(errno));
    if (!S_ISDIR(now.st_mode))
        cannot("TMPDIR=%s is not a directory", tmp);
    if (now.st_uid != geteuid() && now.st_uid != 0)
        cannot("TMPDIR=%s belongs to another user, who could take away what requests make there; "
               "choose another",
               tmp);
    if ((now.st_mode & (S_IWOTH | S_ISVTX)) == S_IWOTH)
        cannot("TMPDIR=%s is open to others, who could take away what requests make there; make "
               "it sticky with chmod +t, or choose another",
               tmp);
}

static void find_self(void)
{
    static char self[PATH_MAX];
    if (readlink("/proc/self/exe", self, sizeof self - 1) > 0)
        settings.handler.self = self;
}

/* For programs, each of which gets a scratch directory. A server for one connection has no next
 * request to keep one for. */
static void open_pool(void)
{
    static char path[PATH_MAX];
    bool programs = false;
    for (size_t i = 0; i < settings.handler.route_count; i++)
        programs = programs || settings.handler.routes[i].program != NULL;
    settings.handler.pool = -1;
    if (!programs || server.once)
        return;
    settings.handler.pool =
        cleanup_pool_open(server.dir, settings.handler.tmpdir, server.token, path);
    if (settings.handler.pool >= 0)
        settings.handler.pool_path = path;
    else
        log_eventf(NULL, "could not make a directory for programs in %s: %s; each makes its own",
                   settings.handler.tmpdir, strerror(errno));
}

/* Said on standard error, which is no client's as there is none. */
static void check_inetd(void)
{
    bool listening;
    if (settings.inetd && settings.listen_count > 0)
        wrong_use("--inetd and --listen exclude each other");
    if (settings.inetd && !is_listening(0, &listening))
        cannot("--inetd: descriptor 0 is not a socket (%s); start it from inetd, xinetd or a "
               "systemd socket unit, or use --listen",
               strerror(errno));
}

static void open_all(void)
{
    check_inetd();
    open_log();
    open_sockets();
    if (settings.inetd)
        leave_standard_descriptors();
    drop_privileges();
    find_tmpdir();
    find_self();
    make_head();
    raise_descriptor_limit();
    server.dir = cleanup_server_open(server.state, server.token);
    if (server.dir < 0)
        cannot("could not make a directory in the state directory: %s", strerror(errno));
    open_pool();
    open_scoreboard();
    open_events();
    find_library();
    reserve_low_numbers();
    make_tables();
}

/* ---- Starting and leaving ------------------------------------------------------------ */

static void note_strangers(void)
{
    siginfo_t any = {0};
    bool childless = waitid(P_ALL, 0, &any, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
    server.pid = getpid();
    server.has_strangers = !childless || server.pid == 1;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

/* A program may come later; but most often its name is wrong. */
static void warn_of_missing_programs(void)
{
    for (size_t i = 0; i < settings.handler.route_count; i++) {
        const struct route *r = &settings.handler.routes[i];
        if (r->program != NULL && access(r->program, X_OK) < 0)
            log_eventf(NULL, "warning: the program of the route %s, %s: %s", r->path, r->program,
                       strerror(errno));
    }
}

static void begin_serving(void)
{
    add_watch(server.signals, WATCH_SIGNALS);
    add_watch(server.nudge[0], WATCH_NUDGE);
    if (server.once) {
        struct sockaddr_storage from = {0};
        socklen_t size = sizeof from;
        const struct listener *l = &server.listeners[0];
        getpeername(l->fd, (struct sockaddr *)&from, &size);
        connection_open(l->fd, &from, l->is_tcp);
        return; /* recovery comes after the caller has been served */
    }
    listeners_watch(EPOLL_CTL_ADD);
    for (size_t i = 0; i < server.listener_count; i++)
        log_eventf(NULL, "listening on %s", server.listeners[i].name);
    warn_of_missing_programs();
    recovery_begin();
    jobs_start();
}

/* ---- hangupd undo: records from a request's program ---------------------------------- */

static const char undo_help[] =
    "Usage: hangupd undo VERB ARGUMENT...\n"
    "In a program that serves a request: record how to undo what it is about to make. Call it\n"
    "before the thing is made, and do not make it if this fails.\n"
    "\n"
    "  hangupd undo run COMMAND           run the shell command line COMMAND\n"
    "  hangupd undo run PROGRAM ARG...    run exactly these words, whatever is in them\n"
    "  hangupd undo unlink PATH           remove the file that then has this name\n"
    "  hangupd undo rmtree PATH           remove the directory and all that is in it\n"
    "  hangupd undo unlink-if [FILEID] PATH   the same, but only if it is still the very thing\n"
    "  hangupd undo rmtree-if [FILEID] PATH   that it is now; or that FILEID, DEV:INO:BTIME, "
    "names\n"
    "  hangupd undo commit                keep all that was recorded so far, however this ends\n"
    "\n"
    "A relative PATH is one in the current directory. What is recorded last is undone first. A\n"
    "command may be run more than once and must succeed when there is nothing to undo: name what\n"
    "you make by a token known beforehand, such as $REQUEST_ID. Records are lines in the "
    "request's\n"
    "ledger, which is open as the descriptor $UNDO_FD; a newline cannot be recorded.\n"
    "\n"
    "Exit status: 0 recorded; 1 it could not be written: do not make the thing; 2 wrong use.\n"
    "\n"
    "Example:\n"
    "  hangupd undo run kubectl delete job --ignore-not-found \"report-$REQUEST_ID\" &&\n"
    "      kubectl create job \"report-$REQUEST_ID\" --image=report\n";

static int undo_descriptor(void)
{
    const char *value = getenv("UNDO_FD"), *end = value;
    unsigned long long fd;
    if (value == NULL || *value == '\0')
        wrong_use("not called from a request's program: UNDO_FD, the ledger's descriptor, is not "
                  "set");
    if (!parse_number(&end, INT_MAX, &fd) || *end != '\0')
        wrong_use("UNDO_FD=%s is not the number of a descriptor", value);
    const char *why = cleanup_not_a_ledger((int)fd);
    if (why != NULL)
        wrong_use("UNDO_FD=%s: this descriptor %s: nothing is recorded, so do not make the thing",
                  value, why);
    return (int)fd;
}

/* PATH as the ledger wants it, in FULL; what could never be undone is refused. */
static void undo_path(const char *verb, const char *path, char full[PATH_MAX])
{
    bool tree = strncmp(verb, "rmtree", 6) == 0;
    if (*path == '\0')
        wrong_use("%s: the path is empty", verb);
    if (strchr(path, '\n') != NULL)
        wrong_use("%s: a newline in the path: the ledger cannot hold it", verb);
    if (cleanup_absolute(path, full) < 0)
        wrong_use("%s %s: %s", verb, path,
                  errno == EINVAL ? "the current directory has a newline in its name"
                                  : strerror(errno));
    size_t length = strlen(full);
    if (full[length - 1] == '/' && !tree)
        wrong_use("%s %s: that names a directory; use rmtree", verb, path);
    while (length > 1 && full[length - 1] == '/')
        full[--length] = '\0';
    const char *last = strrchr(full, '/') + 1;
    if (*last == '\0' || strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
        wrong_use("%s %s: name the thing itself, not /, . or ..", verb, path);
}

/* The identity of what PATH is now. */
static void undo_identity(struct text *t, const char *verb, const char *path)
{
    char id[CLEANUP_FILEID_SIZE];
    bool directory;
    if (cleanup_fileid(path, id, &directory) < 0)
        wrong_use("%s %s: %s; make it first, or record %.6s before it is made", verb, path,
                  strerror(errno), verb);
    if (directory != (strncmp(verb, "rmtree", 6) == 0))
        wrong_use("%s %s: that is %s directory; use %s", verb, path, directory ? "a" : "not a",
                  directory ? "rmtree-if" : "unlink-if");
    text_add(t, id);
}

static void undo_command(struct text *t, int count, char **words)
{
    if (count < 1 || words[0][strspn(words[0], " \t")] == '\0')
        wrong_use("run: the command is empty");
    for (int i = 0; i < count; i++)
        if (strchr(words[i], '\n') != NULL)
            wrong_use("run: a newline in the command: the ledger cannot hold it; put such a "
                      "command in a script");
    if (count == 1)
        text_add(t, words[0]);
    for (int i = 0; count > 1 && i < count; i++) {
        if (i > 0)
            text_char(t, ' ');
        shell_word(t, words[i]);
    }
}

static void undo_argument(struct text *t, const char *verb, int count, char **words)
{
    bool identity = strcmp(verb, "unlink-if") == 0 || strcmp(verb, "rmtree-if") == 0;
    if (strcmp(verb, "run") == 0) {
        undo_command(t, count, words);
    } else if (strcmp(verb, "commit") == 0) {
        if (count != 0)
            wrong_use("commit takes no argument: it keeps all that was recorded so far");
    } else if (identity || strcmp(verb, "unlink") == 0 || strcmp(verb, "rmtree") == 0) {
        if (count != 1 && !(identity && count == 2))
            wrong_use("%s takes one path%s, and %d words came: quote a path with spaces", verb,
                      identity ? ", and a FILEID before it if that is known" : "", count);
        char path[PATH_MAX];
        undo_path(verb, words[count - 1], path);
        if (count == 2)
            text_add(t, words[0]);
        else if (identity)
            undo_identity(t, verb, path);
        if (identity)
            text_char(t, ' ');
        text_add(t, path);
    } else {
        wrong_use("there is no verb %s; there are run, unlink, rmtree, unlink-if, rmtree-if and "
                  "commit",
                  verb);
    }
}

static int command_undo(int argc, char **argv)
{
    static char argument[2 * CLEANUP_RECORD_MAX]; /* what is cut is too long in any case */
    struct text t = TEXT(argument);
    called = "hangupd undo";
    the_help = undo_help;
    if (argc < 2)
        wrong_use("what is to be undone? VERB is missing");
    const char *verb = argv[1];
    if (strcmp(verb, "--help") == 0)
        tell(the_help);
    undo_argument(&t, verb, argc - 2, argv + 2);
    int fd = undo_descriptor();
    if (cleanup_append(fd, verb, text_end(&t), false) == 0)
        return 0;
    if (errno == ENAMETOOLONG)
        wrong_use("%s: the record would be longer than %d bytes, which the ledger cannot hold",
                  verb, CLEANUP_RECORD_MAX);
    if (errno == EINVAL)
        wrong_use("%s %s: that is not FILEID PATH, as in %s 8:1:1095:1795412859.324394260 /tmp/it",
                  verb, argument, verb);
    cannot("could not record \"%s\": %s: do not make what it was to undo", verb, strerror(errno));
}

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
        log_eventf(id, "NOT undone: %s%s", failure.what, failure.more ? " (and more)" : "");
    }
    failure.what[0] = '\0';
    failure.more = false;
}

/* What is moved to failed is told of when it is tried there. */
static void recover_moved(const char *id, enum cleanup_result result, bool kept)
{
    if (result == CLEANUP_DONE)
        recover_told(id, result, kept);
    failure.what[0] = '\0';
    failure.more = false;
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
    called = "hangupd recover";
    the_help = recover_help;
    cleanup_mark_prepare(argc, argv);
    parse_options(argc, argv, recover_options);
    wanted.ids = argv + optind;
    wanted.count = argc - optind;
    for (int i = 0; i < wanted.count; i++)
        if (!cleanup_is_id(wanted.ids[i]))
            wrong_use("%s is not the id of a request, as in 0123456789abcdef-1f", wanted.ids[i]);
    recover_open();
    journal.plain = true;
    journal.fd = STDOUT_FILENO;
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

/* ---- hangupd status: what is asked --------------------------------------------------- */

static const char status_help[] =
    "Usage: hangupd status [OPTION...]\n"
    "What the servers of a state directory are doing: requests in flight, queued, being undone\n"
    "and parked (undo failed for good), and totals by outcome.\n"
    "\n"
    "  --state DIR            as the server was given it; same default. In a program that serves "
    "a\n"
    "                         request: the state directory of the server that runs it\n"
    "  --json                 one JSON object\n"
    "  --prometheus           metrics for Prometheus (text format 0.0.4)\n"
    "  --html                 a page, which loads itself again every TIME of --watch (5)\n"
    "  --watch [TIME]         show it again every TIME (1), until Ctrl-C\n"
    "\n"
    "Run as a program of a request (CGI), it says its header first. A status page is the script\n"
    "    #!/bin/sh\n"
    "    exec hangupd status --html\n"
    "It shows request lines and addresses: do not serve it to strangers.\n"
    "\n"
    "Exit status: 0 told, also that no server is running; 1 it could not be; 2 wrong use.\n";

#define WATCH_MS 1000
#define PAGE_MS 5000
#define WATCH_LEAST_MS 100

enum status_format { FORMAT_TEXT, FORMAT_JSON, FORMAT_PROMETHEUS, FORMAT_HTML };

static struct {
    enum status_format format;
    bool wanted[FORMAT_HTML + 1];
    int64_t every_ms; /* -1: once; 0: it was not said how often */
    size_t screen;    /* its width; 0: any */
} view = {.every_ms = -1};

static const struct option_rule status_options[] = {
    {"state", KIND_STRING, &settings.state, 0},
    {"json", KIND_FLAG, &view.wanted[FORMAT_JSON], 0},
    {"prometheus", KIND_FLAG, &view.wanted[FORMAT_PROMETHEUS], 0},
    {"html", KIND_FLAG, &view.wanted[FORMAT_HTML], 0},
    {"watch", KIND_EVERY, &view.every_ms, WATCH_LEAST_MS},
    {"help", KIND_HELP, NULL, 0},
    {0},
};

static void parse_status_options(int argc, char **argv)
{
    parse_options(argc, argv, status_options);
    if (optind < argc)
        wrong_use("%s is not an option, and nothing else is wanted", argv[optind]);
    for (enum status_format f = FORMAT_JSON; f <= FORMAT_HTML; f++) {
        if (view.wanted[f] && view.format != FORMAT_TEXT)
            wrong_use("--json, --prometheus and --html exclude each other");
        if (view.wanted[f])
            view.format = f;
    }
}

/* ---- hangupd status: what is told ---------------------------------------------------- */

#define UNKNOWN UINT64_MAX /* a count that cannot be seen from here */

struct status_request {
    char id[CLEANUP_ID_SIZE];
    char client[sizeof((struct slot *)0)->client];
    char line[SLOT_REQUEST_SIZE];
    const char *phase, *cause; /* NULL: none */
    char doing[32];            /* both */
    bool undoing;
    pid_t pid;
    uint64_t age_ms, processes, records;
};

struct status_ended {
    const char *outcome, *undo;
    uint64_t count;
};

enum status_condition {
    CONDITION_SERVING, /* of these two everything is known */
    CONDITION_DRAINING,
    CONDITION_STARTING,
    CONDITION_RECOVERING, /* dead, and its ledgers are being settled */
    CONDITION_DEAD,
    CONDITION_UNREADABLE
};

struct status_server {
    char token[CLEANUP_TOKEN_SIZE];
    enum status_condition condition;
    const char *condition_name, *why; /* WHY: unreadable */
    uint64_t pid;                     /* UNKNOWN: not of this pid namespace */
    struct figures figures;
    uint64_t slot_count, uptime_ms, oldest_ms, processes, ended_count;
    struct status_ended ended[(OUTCOME_KILLED + 1) * (UNDO_FAILED + 1)];
    char listening[LISTENERS_MAX][LISTENER_NAME_SIZE];
    char where[LISTENERS_MAX * (LISTENER_NAME_SIZE + 2)]; /* the same in one line */
    struct status_request *requests;                      /* the oldest first */
    struct cleanup_look *undoing;                         /* of a dead server: all its ledgers */
    size_t ended_kinds, listening_count, request_count, undoing_count;
};

static struct status {
    const char *version, *path; /* of STATE */
    int64_t now_ms;             /* since 1970 */
    struct status_server *servers, *others;
    size_t living, other_count; /* SERVERS are those that live, and then the OTHERS */
    struct cleanup_look *parked;
    size_t parked_count;
} status = {.version = HANGUPD_VERSION};

/* What is told, and by what name: tables for terminals, tables on the page, JSON and metrics are
 * all made from the descriptions that follow. */
enum field_kind {
    FIELD_END,
    FIELD_WORDS,  /* char[] */
    FIELD_CODE,   /* char[], of a client's or a program's making */
    FIELD_ID,     /* char[]; on a narrow terminal without its server */
    FIELD_RETRY,  /* char[], an id: the command line that settles what it left */
    FIELD_NAME,   /* const char *; NULL: none */
    FIELD_WHY,    /* const char *; NULL: not told */
    FIELD_COUNT,  /* uint64_t, as the two that follow; size_t is as long */
    FIELD_AGE,    /* in milliseconds */
    FIELD_MOMENT, /* in milliseconds since 1970; to people: how long ago */
    FIELD_ROWS,   /* a pointer to an array of structs, each with fields of its own */
    FIELD_ARRAY   /* the array itself; without fields: of char[] */
};

struct field {
    enum field_kind kind;
    size_t at;                 /* in its struct */
    const char *json;          /* its name; NULL, as all that follow: it is not told there */
    const char *brief, *full;  /* the head of its column, or of its table: on terminals, on pages */
    const char *metric, *help; /* for Prometheus */
    const struct field *fields; /* of a row */
    size_t size, count_at;      /* of a row; where the number of rows is in the struct */
};

#define HEADS(terminal, page) .brief = (terminal), .full = (page)
#define METRIC(name, words) .metric = "hangupd_" name, .help = (words)
#define ROWS(of, type, count) .fields = (of), .size = sizeof(type), .count_at = (count)

#define REQUEST(member) offsetof(struct status_request, member)
static const struct field request_fields[] = {
    {FIELD_ID, REQUEST(id), "id", HEADS("ID", "Id")},
    {FIELD_AGE, REQUEST(age_ms), "age_seconds", HEADS("AGE", "Age")},
    {FIELD_WORDS, REQUEST(client), "client", HEADS("CLIENT", "Client")},
    {FIELD_NAME, REQUEST(phase), .json = "phase"},
    {FIELD_NAME, REQUEST(cause), .json = "cause"},
    {FIELD_WORDS, REQUEST(doing), HEADS("PHASE", "Phase")},
    {FIELD_COUNT, REQUEST(processes), "processes", HEADS("PROCS", "Processes")},
    {FIELD_COUNT, REQUEST(records), "records", HEADS("RECORDS", "Records")},
    {FIELD_CODE, REQUEST(line), "request", HEADS("REQUEST", "Request")},
    {0},
};

#define LEDGER(member) offsetof(struct cleanup_look, member)
static const struct field ledger_fields[] = {
    {FIELD_CODE, LEDGER(id), "id", HEADS("ID", "Id")},
    {FIELD_MOMENT, LEDGER(changed_ms), "changed", HEADS("SINCE", "Since")},
    {FIELD_COUNT, LEDGER(records), "records", HEADS("RECORDS", "Records")},
    {FIELD_CODE, LEDGER(title), "request", HEADS("REQUEST", "Request")},
    {FIELD_CODE, LEDGER(next), "next", HEADS("NEXT", "To undo next")},
    {FIELD_RETRY, LEDGER(id), .json = "retry"},
    {0},
};

#define ENDED(member) offsetof(struct status_ended, member)
static const struct field ended_fields[] = {
    {FIELD_NAME, ENDED(outcome), .json = "outcome"},
    {FIELD_NAME, ENDED(undo), .json = "undo"},
    {FIELD_COUNT, ENDED(count), .json = "count"},
    {0},
};

#define SERVER(member) offsetof(struct status_server, member)
static const struct field server_fields[] = {
    {FIELD_WORDS, SERVER(token), .json = "server"},
    {FIELD_NAME, SERVER(condition_name), .json = "condition"},
    {FIELD_COUNT, SERVER(pid), .json = "pid"},
    {FIELD_MOMENT, SERVER(figures.started), "started",
     METRIC("start_time_seconds", "Start of the server, in seconds since 1970.")},
    {FIELD_AGE, SERVER(uptime_ms), .json = "uptime_seconds"},
    {FIELD_ARRAY, SERVER(listening), "listening",
     ROWS(NULL, char[LISTENER_NAME_SIZE], SERVER(listening_count))},
    {FIELD_COUNT, SERVER(figures.draining), METRIC("draining", "Servers that are stopping.")},
    {FIELD_COUNT, SERVER(slot_count), "requests_limit",
     METRIC("requests_limit", "Requests that may be in flight at once.")},
    {FIELD_COUNT, SERVER(request_count), "in_flight",
     METRIC("requests_in_flight", "Requests that have a process or are being undone.")},
    {FIELD_COUNT, SERVER(figures.queued), "queued",
     METRIC("requests_queued", "Requests that wait for a place.")},
    {FIELD_AGE, SERVER(oldest_ms),
     METRIC("request_oldest_seconds", "Age of the oldest request in flight; 0 for none.")},
    {FIELD_COUNT, SERVER(processes),
     METRIC("request_processes", "Processes of the requests in flight.")},
    {FIELD_COUNT, SERVER(figures.open), "connections_open",
     METRIC("connections_open", "Connections that are open.")},
    {FIELD_COUNT, SERVER(figures.idle), "connections_idle",
     METRIC("connections_idle", "Open connections without a request.")},
    {FIELD_COUNT, SERVER(undoing_count),
     METRIC("undo_in_progress", "Requests that are being undone, or wait for a retry.")},
    {FIELD_COUNT, SERVER(figures.requests), "requests_started",
     METRIC("requests_started_total", "Requests that got a process.")},
    {FIELD_COUNT, SERVER(ended_count), .json = "requests_ended"},
    {FIELD_ARRAY, SERVER(ended), "ended",
     ROWS(ended_fields, struct status_ended, SERVER(ended_kinds))},
    {FIELD_ROWS, SERVER(requests), "requests", HEADS("\n", "Requests in flight"),
     ROWS(request_fields, struct status_request, SERVER(request_count))},
    {FIELD_ROWS, SERVER(undoing), "undoing", HEADS("\nBeing undone:\n", "Being undone"),
     ROWS(ledger_fields, struct cleanup_look, SERVER(undoing_count))},
    {0},
};

/* Of one that is dead, or cannot be asked. */
static const struct field other_fields[] = {
    {FIELD_WORDS, SERVER(token), .json = "server"},
    {FIELD_NAME, SERVER(condition_name), .json = "condition"},
    {FIELD_WHY, SERVER(why), .json = "why"},
    {FIELD_ROWS, SERVER(undoing), "ledgers",
     ROWS(ledger_fields, struct cleanup_look, SERVER(undoing_count))},
    {0},
};

#define STATUS(member) offsetof(struct status, member)
static const struct field status_fields[] = {
    {FIELD_NAME, STATUS(version), .json = "hangupd"},
    {FIELD_MOMENT, STATUS(now_ms), .json = "time"},
    {FIELD_NAME, STATUS(path), .json = "state"},
    {FIELD_ROWS, STATUS(servers), "servers",
     ROWS(server_fields, struct status_server, STATUS(living))},
    {FIELD_ROWS, STATUS(others), "other_servers",
     ROWS(other_fields, struct status_server, STATUS(other_count))},
    {FIELD_ROWS, STATUS(parked), "parked", HEADS("", "Undo failed for good"),
     ROWS(ledger_fields, struct cleanup_look, STATUS(parked_count))},
    {0},
};

static uint64_t field_number(const struct field *f, const void *row)
{
    uint64_t n;
    memcpy(&n, (const char *)row + f->at, sizeof n);
    return n;
}

static const char *field_words(const struct field *f, const void *row)
{
    const char *at = (const char *)row + f->at, *words;
    if (f->kind != FIELD_NAME && f->kind != FIELD_WHY)
        return at;
    memcpy(&words, at, sizeof words);
    return words;
}

static size_t row_count(const struct field *f, const void *of)
{
    size_t n;
    memcpy(&n, (const char *)of + f->count_at, sizeof n);
    return n;
}

static const void *row_at(const struct field *f, const void *of, size_t i)
{
    const char *at = (const char *)of + f->at, *first = at;
    if (f->kind == FIELD_ROWS)
        memcpy(&first, at, sizeof first);
    return first + i * f->size;
}

/* ---- hangupd status: gathering ------------------------------------------------------- */

/* It reads files and /proc, and takes no lock: a server under full load does not notice. The
 * scoreboard is read and not mapped, as a child could cut the file short meanwhile, and none of
 * what is in it is believed: a child can write there. */

static _Noreturn void no_memory(void)
{
    cannot("out of memory for the status");
}

static void copy_bounded(char *to, const char *from, size_t size)
{
    memcpy(to, from, size);
    to[size - 1] = '\0';
}

static const char *phase_of_state(uint32_t state)
{
    switch (state & SLOT_STATE_MASK) {
    case SLOT_READING:
        return (state & SLOT_WAITING) != 0 ? "waiting" : "reading";
    case SLOT_DONE:
        return "ending";
    case SLOT_ANSWERING:
        return (state & SLOT_DELIVERING) != 0 ? "delivering" : "answering";
    default:
        return "running";
    }
}

static struct status_request request_of_slot(int dir, const struct slot *s)
{
    static const char *const causes[] = {NULL, "hangup", "timeout", "drain", "operator", "evicted"};
    struct status_request r = {.pid = s->pid, .processes = UNKNOWN};
    struct cleanup_look ledger;
    uint32_t state = s->state, cause = s->cause;
    int64_t now = clock_ms();
    copy_bounded(r.id, s->id, sizeof r.id);
    copy_bounded(r.client, s->client, sizeof r.client);
    copy_bounded(r.line, s->request, sizeof r.line);
    r.age_ms = s->started < 0 || s->started > now ? 0 : (uint64_t)(now - s->started);
    r.cause = cause <= CAUSE_EVICTED ? causes[cause] : NULL;
    if (cleanup_look_ledger(dir, r.id, &ledger))
        r.records = ledger.records;
    bool failed = s->outcome > OUTCOME_OK && s->undo == UNDO_NONE && r.records > 0;
    bool settling = (state & SLOT_SETTLING) != 0;
    r.undoing = settling || failed || r.cause != NULL;
    r.phase = r.undoing ? "undoing" : phase_of_state(state);
    snprintf(r.doing, sizeof r.doing, "%s%s%s", r.phase, r.cause != NULL ? ": " : "",
             r.cause != NULL ? r.cause : "");
    if (settling)
        r.pid = 0; /* reaped: the number may be another's */
    return r;
}

/* All requests in the slots of the scoreboard FD. False: it was cut short meanwhile. */
static bool read_slots(int fd, int dir, struct status_server *s)
{
    struct slot some[32];
    for (uint64_t i = 0, got; i < s->slot_count; i += got) {
        uint64_t want = s->slot_count - i < 32 ? s->slot_count - i : 32;
        off_t at = (off_t)(offsetof(struct scoreboard, slots) + i * sizeof some[0]);
        ssize_t n = pread(fd, some, want * sizeof some[0], at);
        if (n < (ssize_t)sizeof some[0])
            return false;
        got = (size_t)n / sizeof some[0];
        s->requests = reallocarray(s->requests, s->request_count + got, sizeof *s->requests);
        if (s->requests == NULL)
            no_memory();
        for (size_t k = 0; k < got; k++)
            if ((some[k].state & SLOT_STATE_MASK) != SLOT_FREE)
                s->requests[s->request_count++] = request_of_slot(dir, &some[k]);
    }
    return true;
}

static void read_head(struct status_server *s, const struct scoreboard *head)
{
    struct text where = TEXT(s->where);
    uint64_t *words = (uint64_t *)&s->figures, now = (uint64_t)status.now_ms;
    for (size_t i = 0; i < FIGURE_WORDS; i++)
        words[i] = head->figures[i];
    s->figures.draining = s->figures.draining != 0;
    s->condition = s->figures.draining ? CONDITION_DRAINING : CONDITION_SERVING;
    s->uptime_ms = s->figures.started < now ? now - s->figures.started : 0;
    for (int outcome = OUTCOME_OK; outcome <= OUTCOME_KILLED; outcome++)
        for (int undo = UNDO_NONE; undo <= UNDO_FAILED; undo++) {
            uint64_t n = s->figures.ended[outcome][undo];
            s->ended_count += n;
            if (n != 0)
                s->ended[s->ended_kinds++] =
                    (struct status_ended){outcome_names[outcome], undo_names[undo], n};
        }
    for (size_t i = 0; i < LISTENERS_MAX; i++) {
        char *name = s->listening[s->listening_count];
        copy_bounded(name, head->listening[i], LISTENER_NAME_SIZE);
        if (name[0] == '\0')
            continue;
        text_add(&where, s->listening_count++ > 0 ? ", " : "");
        text_add(&where, name);
    }
    text_end(&where);
}

/* The scoreboard FD of the server in DIR. NULL, or why it cannot be read. */
static const char *read_board(int fd, int dir, struct status_server *s)
{
    static const char none[sizeof((struct scoreboard *)0)->magic];
    struct scoreboard head;
    struct stat now;
    if (fstat(fd, &now) < 0 || !S_ISREG(now.st_mode))
        return "its scoreboard is not a file";
    ssize_t n = pread(fd, &head, sizeof head, 0);
    if (n == 0 || (n == (ssize_t)sizeof head && memcmp(head.magic, none, sizeof none) == 0)) {
        s->condition = CONDITION_STARTING;
        return NULL;
    }
    if (n != (ssize_t)sizeof head)
        return "its scoreboard is cut short";
    if (memcmp(head.magic, SCOREBOARD_MAGIC, sizeof head.magic) != 0 ||
        head.slot_size != sizeof(struct slot))
        return "its scoreboard is of another version of hangupd; ask that version";
    s->slot_count = head.slot_count;
    if ((uint64_t)now.st_size <
        offsetof(struct scoreboard, slots) + s->slot_count * sizeof(struct slot))
        return "its scoreboard is cut short";
    read_head(s, &head);
    return read_slots(fd, dir, s) ? NULL : "its scoreboard is cut short";
}

static bool is_living(const struct status_server *s)
{
    return s->condition == CONDITION_SERVING || s->condition == CONDITION_DRAINING;
}

/* Whether the process PID calls itself NAMED in the pid namespace that it lives in. */
static bool is_called(pid_t pid, uint64_t named)
{
    char path[32], line[256];
    bool same = false;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *in = fopen(path, "re");
    while (in != NULL && fgets(line, sizeof line, in) != NULL)
        if (strncmp(line, "NSpid:", 6) == 0)
            same = strtoull(strrchr(line, '\t'), NULL, 10) == named;
    if (in != NULL)
        fclose(in);
    return same;
}

/* HOLDER has the lock: is it the server, or somebody who recovers a dead one? */
static void judge_holder(struct status_server *s, pid_t holder)
{
    if (holder != 0 && (!is_living(s) || (uint64_t)holder == s->figures.pid))
        s->pid = (uint64_t)holder;
    else if (holder != 0 && !is_called(holder, s->figures.pid))
        s->condition = CONDITION_RECOVERING;
}

/* Take out the ledgers of requests in flight that nobody undoes yet, and those that are gone. */
static void keep_undoing(int dir, struct status_server *s)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->undoing_count; i++) {
        struct cleanup_look now;
        bool busy = false;
        for (size_t k = 0; k < s->request_count && !busy; k++)
            busy = !s->requests[k].undoing && strcmp(s->requests[k].id, s->undoing[i].id) == 0;
        if (!busy && cleanup_look_ledger(dir, s->undoing[i].id, &now))
            s->undoing[kept++] = now;
    }
    s->undoing_count = kept;
}

/* The server of TOKEN. False: there is nothing to tell of. */
static bool read_server(int state, const char *token, struct status_server *s)
{
    pid_t holder = 0;
    *s = (struct status_server){.condition = CONDITION_UNREADABLE, .pid = UNKNOWN};
    memcpy(s->token, token, CLEANUP_TOKEN_SIZE);
    int dir = openat(state, token, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0) {
        s->why = strerror(errno);
        return errno != ENOENT;
    }
    int lives = cleanup_look_lock(dir, &holder);
    int error = errno;
    /* Ledgers first: what is not in flight when the slots are read later had ended by then. */
    s->undoing = cleanup_look_ledgers(dir, &s->undoing_count);
    int board = openat(dir, "scoreboard", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (lives < 0 && error != ENOENT) {
        s->why = strerror(error);
    } else if (lives <= 0) {
        s->condition = CONDITION_DEAD;
    } else if (board < 0) {
        if (errno == ENOENT)
            s->condition = CONDITION_STARTING;
        else
            s->why = strerror(errno);
    } else {
        s->why = read_board(board, dir, s);
        if (s->why != NULL)
            s->condition = CONDITION_UNREADABLE;
        judge_holder(s, holder);
        keep_undoing(dir, s);
    }
    /* Without either it is just being made, or removed. */
    bool anything = s->condition != CONDITION_DEAD || board >= 0 || s->undoing_count > 0;
    if (!anything)
        free(s->undoing);
    if (board >= 0)
        close(board);
    close(dir);
    return anything;
}

static int compare_numbers(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

#define ANCESTORS_MAX 1000 /* the list was not made at one moment: it may go round in circles */

/* A child adopts its orphans: what is below it is its request's, and nothing else is. */
static void count_processes(size_t server_count)
{
    size_t count;
    struct cleanup_process *all = cleanup_look_processes(&count);
    struct status_request **requests = calloc(count + 1, sizeof(void *)); /* of ALL, the children */
    if (requests == NULL)
        no_memory();
    for (size_t i = 0; all != NULL && i < server_count; i++) {
        const struct status_server *s = &status.servers[i];
        for (size_t k = 0; s->pid != UNKNOWN && k < s->request_count; k++) {
            const struct cleanup_process *p = cleanup_find_process(all, count, s->requests[k].pid);
            s->requests[k].processes = 0;
            if (p != NULL)
                requests[p - all] = &s->requests[k];
        }
    }
    for (size_t i = 0; all != NULL && i < count; i++) {
        const struct cleanup_process *p = &all[i];
        for (int steps = 0; p != NULL && requests[p - all] == NULL; steps++)
            p = steps < ANCESTORS_MAX ? cleanup_find_process(all, count, p->parent) : NULL;
        if (p != NULL)
            requests[p - all]->processes++;
    }
    free(all);
    free(requests);
}

static int compare_servers(const void *a, const void *b)
{
    const struct status_server *x = a, *y = b;
    int order = compare_numbers(x->condition, y->condition);
    if (order == 0)
        order = compare_numbers(x->figures.started, y->figures.started);
    return order != 0 ? order : strcmp(x->token, y->token);
}

static int compare_requests(const void *a, const void *b)
{
    const struct status_request *x = a, *y = b;
    int order = compare_numbers(y->age_ms, x->age_ms);
    return order != 0 ? order : strcmp(x->id, y->id);
}

/* What is known only when all have been read. */
static void complete_server(struct status_server *s)
{
    static const char *const names[] = {"serving",    "draining", "starting",
                                        "recovering", "dead",     "unreadable"};
    s->condition_name = names[s->condition];
    if (s->request_count == 0)
        return;
    qsort(s->requests, s->request_count, sizeof *s->requests, compare_requests);
    s->oldest_ms = s->requests[0].age_ms;
    for (size_t i = 0; i < s->request_count; i++)
        s->processes += s->requests[i].processes != UNKNOWN ? s->requests[i].processes : 0;
}

static void status_gather(int state)
{
    struct timespec now;
    size_t tokens, count = 0;
    clock_gettime(CLOCK_REALTIME, &now);
    status.now_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    char(*token)[CLEANUP_TOKEN_SIZE] = cleanup_look_servers(state, &tokens);
    if (errno != 0)
        cannot("could not list the state directory %s: %s", status.path, strerror(errno));
    status.servers = calloc(tokens + 1, sizeof *status.servers);
    if (status.servers == NULL)
        no_memory();
    for (size_t i = 0; i < tokens; i++)
        count += read_server(state, token[i], &status.servers[count]);
    free(token);
    count_processes(count);
    qsort(status.servers, count, sizeof *status.servers, compare_servers);
    for (size_t i = 0; i < count; i++) {
        complete_server(&status.servers[i]);
        status.living += is_living(&status.servers[i]);
    }
    status.others = status.servers + status.living;
    status.other_count = count - status.living;
    int failed = openat(state, "failed", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (failed < 0)
        return;
    status.parked = cleanup_look_ledgers(failed, &status.parked_count);
    close(failed);
}

static void status_forget(void)
{
    for (size_t i = 0; i < status.living + status.other_count; i++) {
        free(status.servers[i].requests);
        free(status.servers[i].undoing);
    }
    free(status.servers);
    free(status.parked);
    status.parked = NULL;
    status.living = status.parked_count = 0;
}

/* ---- hangupd status: words ----------------------------------------------------------- */

#define WORDS_SIZE (COMMAND_SIZE + 256) /* of a line with such a command in it */

static void put_escaped(FILE *out, enum escape how, const char *s)
{
    for (; *s != '\0'; s++) {
        char c[8];
        struct text t = TEXT(c);
        text_escaped_char(&t, *s, how);
        fputs(text_end(&t), out);
    }
}

/* What FORMAT makes of its arguments, escaped. */
static void put(FILE *out, enum escape how, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void put(FILE *out, enum escape how, const char *format, ...)
{
    char words[WORDS_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    put_escaped(out, how, words);
}

/* A number as machines read it: times in seconds. */
static void put_number(FILE *out, enum field_kind kind, uint64_t n)
{
    if (kind == FIELD_COUNT)
        fprintf(out, "%llu", (unsigned long long)n);
    else
        fprintf(out, "%llu.%03llu", (unsigned long long)n / 1000, (unsigned long long)n % 1000);
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

/* "3.2s", "42s", "12m", "5h", "9d": in the largest unit of which there are two. */
static const char *age_words(int64_t ms)
{
    static const int64_t units[] = {86400000, 3600000, 60000, 1000};
    static char words[32];
    size_t unit = 0;
    ms = ms < 0 ? 0 : ms;
    while (unit < 3 && ms < 2 * units[unit])
        unit++;
    if (ms < 10000)
        snprintf(words, sizeof words, "%d.%ds", (int)ms / 1000, (int)ms % 1000 / 100);
    else
        snprintf(words, sizeof words, "%lld%c", (long long)(ms / units[unit]), "dhms"[unit]);
    return words;
}

static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

/* The figures of a server, the first of them between ON and OFF. */
static void put_figures(FILE *out, const struct status_server *s, const char *on, const char *off)
{
    fprintf(out,
            "%s%zu%s of %llu requests in flight, %s%llu%s queued; %llu connection%s, %llu of them "
            "idle",
            on, s->request_count, off, (unsigned long long)s->slot_count, on,
            (unsigned long long)s->figures.queued, off, (unsigned long long)s->figures.open,
            plural(s->figures.open), (unsigned long long)s->figures.idle);
}

/* "1230 requests ended: 1200 ok, 30 hangup (28 undone, 1 not undone)" */
static void put_totals(FILE *out, const struct status_server *s)
{
    fprintf(out, "%llu request%s ended: %s", (unsigned long long)s->ended_count,
            plural(s->ended_count), s->ended_count == 0 ? "none yet" : "");
    const char *comma = "";
    for (int outcome = OUTCOME_OK; outcome <= OUTCOME_KILLED; outcome++) {
        const uint64_t *ended = s->figures.ended[outcome];
        unsigned long long done = ended[UNDO_OK], failed = ended[UNDO_FAILED];
        if (ended[UNDO_NONE] + done + failed == 0)
            continue;
        fprintf(out, "%s%llu %s", comma, ended[UNDO_NONE] + done + failed, outcome_names[outcome]);
        comma = ", ";
        if (done > 0)
            fprintf(out, " (%llu undone", done);
        if (failed > 0)
            fprintf(out, "%s%llu not undone", done > 0 ? ", " : " (", failed);
        fputs(done + failed > 0 ? ")" : "", out);
    }
}

/* A server that cannot be asked, in one line. */
static void put_other_server(FILE *out, enum escape how, const struct status_server *s)
{
    switch (s->condition) {
    case CONDITION_STARTING:
        put(out, how, "server %s is starting", s->token);
        break;
    case CONDITION_RECOVERING:
        put(out, how, "dead server %s, %zu ledger%s, being settled now", s->token, s->undoing_count,
            plural(s->undoing_count));
        break;
    case CONDITION_DEAD:
        put(out, how, "dead server %s, %zu ledger%s; to settle: %s", s->token, s->undoing_count,
            plural(s->undoing_count), recover_words(status.path, NULL));
        break;
    default:
        put(out, how, "server %s: %s", s->token, s->why);
        break;
    }
}

/* ---- hangupd status: tables, for terminals ------------------------------------------- */

#define CELL_SIZE (4 * SLOT_REQUEST_SIZE + 64)

static bool is_number(const struct field *f)
{
    return f->kind == FIELD_COUNT || f->kind == FIELD_AGE || f->kind == FIELD_MOMENT;
}

/* What people read in F's column. */
static const char *cell_words(const struct field *f, const void *row)
{
    static char number[24];
    uint64_t n = is_number(f) ? field_number(f, row) : 0;
    const char *words = field_words(f, row);
    switch (f->kind) {
    case FIELD_AGE:
        return age_words((int64_t)n);
    case FIELD_MOMENT:
        return age_words(status.now_ms - (int64_t)n);
    case FIELD_COUNT:
        snprintf(number, sizeof number, "%llu", (unsigned long long)n);
        return n == UNKNOWN ? "-" : number;
    case FIELD_ID:
        return view.screen > 0 && view.screen < 100 && strlen(words) > CLEANUP_TOKEN_SIZE
                   ? words + CLEANUP_TOKEN_SIZE - 1
                   : words;
    default:
        return *words != '\0' ? words : "-";
    }
}

/* A line of a table: what it has in F's column; without a ROW, the column's head. */
static const char *line_words(const struct field *f, const void *row, char visible[CELL_SIZE])
{
    struct text v = {.at = visible, .room = CELL_SIZE};
    text_escaped(&v, row != NULL ? cell_words(f, row) : f->brief, ESCAPE_LINE);
    return text_end(&v);
}

#define COLUMNS_MAX 10

static void put_line(FILE *out, const struct field *fields, const void *row, const size_t *widths)
{
    char words[(CELL_SIZE + 2) * COLUMNS_MAX], visible[CELL_SIZE];
    struct text l = TEXT(words);
    size_t blanks = 0;
    for (const struct field *f = fields; f->kind != FIELD_END; f++, widths++) {
        if (f->brief == NULL)
            continue;
        const char *cell = line_words(f, row, visible);
        size_t fill = *widths - strlen(cell);
        for (blanks += is_number(f) ? fill : 0; blanks > 0; blanks--)
            text_char(&l, ' ');
        text_add(&l, cell);
        blanks = 2 + (is_number(f) ? 0 : fill);
    }
    if (view.screen > 3 && l.length > view.screen) {
        l.length = view.screen - 3;
        text_add(&l, "...");
    }
    fprintf(out, "%s\n", text_end(&l));
}

static void put_table(FILE *out, const struct field *table, const void *of)
{
    size_t widths[COLUMNS_MAX] = {0}, count = row_count(table, of);
    char visible[CELL_SIZE];
    for (size_t i = 0; table->fields[i].kind != FIELD_END; i++)
        for (size_t line = 0; table->fields[i].brief != NULL && line <= count; line++) {
            const void *row = line > 0 ? row_at(table, of, line - 1) : NULL;
            size_t width = strlen(line_words(&table->fields[i], row, visible));
            widths[i] = width > widths[i] ? width : widths[i];
        }
    fputs(table->brief, out);
    for (size_t line = 0; line <= count; line++)
        put_line(out, table->fields, line > 0 ? row_at(table, of, line - 1) : NULL, widths);
}

/* The tables of what FIELDS describe that are not empty. */
static void put_tables(FILE *out, const struct field *fields, const void *of)
{
    for (const struct field *f = fields; f->kind != FIELD_END; f++)
        if (f->kind == FIELD_ROWS && f->brief != NULL && row_count(f, of) > 0)
            put_table(out, f, of);
}

static void put_server(FILE *out, const struct status_server *s)
{
    put(out, ESCAPE_LINE, "hangupd on %s",
        s->where[0] != '\0' ? s->where : "a connection that was handed to it");
    if (s->pid != UNKNOWN)
        fprintf(out, ", pid %llu", (unsigned long long)s->pid);
    fprintf(out, ", up %s%s\n", age_words((int64_t)s->uptime_ms),
            s->condition == CONDITION_DRAINING ? ", draining" : "");
    put_figures(out, s, "", "");
    fprintf(out, "; ids %s-N\n", s->token);
    put_totals(out, s);
    putc('\n', out);
    put_tables(out, server_fields, s);
    putc('\n', out);
}

static void status_text(FILE *out)
{
    if (status.living == 0) {
        put(out, ESCAPE_LINE, "No server is running with the state directory %s.", status.path);
        fputs("\n\n", out);
    }
    for (size_t i = 0; i < status.living; i++)
        put_server(out, &status.servers[i]);
    for (size_t i = 0; i < status.other_count; i++) {
        put_other_server(out, ESCAPE_LINE, &status.others[i]);
        putc('\n', out);
    }
    if (status.parked_count > 0) {
        put(out, ESCAPE_LINE, "Undo failed for good; to try again: %s [ID...]",
            recover_words(status.path, NULL));
        putc('\n', out);
    }
    put_tables(out, status_fields, &status);
}

/* ---- hangupd status: JSON ------------------------------------------------------------ */

static void json_row(FILE *out, const struct field *fields, const void *row);

static void json_string(FILE *out, const char *s)
{
    if (s == NULL) {
        fputs("null", out);
        return;
    }
    putc('"', out);
    put_escaped(out, ESCAPE_JSON, s);
    putc('"', out);
}

static void json_list(FILE *out, const struct field *f, const void *of)
{
    putc('[', out);
    for (size_t i = 0; i < row_count(f, of); i++) {
        fputs(i > 0 ? "," : "", out);
        if (f->fields != NULL)
            json_row(out, f->fields, row_at(f, of, i));
        else
            json_string(out, row_at(f, of, i));
    }
    putc(']', out);
}

static void json_value(FILE *out, const struct field *f, const void *row)
{
    switch (f->kind) {
    case FIELD_COUNT:
    case FIELD_AGE:
        if (field_number(f, row) == UNKNOWN)
            json_string(out, NULL);
        else
            put_number(out, f->kind, field_number(f, row));
        break;
    case FIELD_MOMENT:
        json_string(out, moment_words((int64_t)field_number(f, row)));
        break;
    case FIELD_RETRY:
        json_string(out, recover_words(status.path, field_words(f, row)));
        break;
    case FIELD_ROWS:
    case FIELD_ARRAY:
        json_list(out, f, row);
        break;
    default:
        json_string(out, field_words(f, row));
        break;
    }
}

static void json_row(FILE *out, const struct field *fields, const void *row)
{
    char before = '{';
    for (const struct field *f = fields; f->kind != FIELD_END; f++) {
        if (f->json == NULL || (f->kind == FIELD_WHY && field_words(f, row) == NULL))
            continue;
        fprintf(out, "%c\"%s\":", before, f->json);
        json_value(out, f, row);
        before = ',';
    }
    putc('}', out);
}

static void status_json(FILE *out)
{
    json_row(out, status_fields, &status);
    putc('\n', out);
}

/* ---- hangupd status: Prometheus, text exposition format 0.0.4 ------------------------ */

/* Series are told apart by where a server listens, which a restart does not change. Several listen
 * at one address while one of them drains: what is counted is added up, and of times the largest
 * is told. */
static void merge_server(struct status_server *into, const struct status_server *s)
{
    for (const struct field *f = server_fields; f->kind != FIELD_END; f++) {
        if (f->metric == NULL)
            continue;
        uint64_t a = field_number(f, into), b = field_number(f, s);
        uint64_t both = f->kind == FIELD_COUNT ? a + b : a > b ? a : b;
        memcpy((char *)into + f->at, &both, sizeof both);
    }
    for (int outcome = OUTCOME_OK; outcome <= OUTCOME_KILLED; outcome++)
        for (int undo = UNDO_NONE; undo <= UNDO_FAILED; undo++)
            into->figures.ended[outcome][undo] += s->figures.ended[outcome][undo];
}

/* Leave one server for each address, which come first: how many. */
static size_t merge_addresses(void)
{
    struct status_server *all = status.servers;
    size_t count = 0;
    for (size_t i = 0; i < status.living; i++) {
        size_t k = 0;
        while (k < count && strcmp(all[k].where, all[i].where) != 0)
            k++;
        if (k < count) {
            merge_server(&all[k], &all[i]);
            continue;
        }
        struct status_server other = all[count];
        all[count++] = all[i];
        all[i] = other;
    }
    return count;
}

static void put_metric_head(FILE *out, const char *name, const char *words)
{
    bool counts = strcmp(name + strlen(name) - strlen("_total"), "_total") == 0;
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, words, name, counts ? "counter" : "gauge");
}

static void put_series(FILE *out, const char *name, const struct status_server *s)
{
    fprintf(out, "%s{listen=\"", name);
    put_escaped(out, ESCAPE_METRIC, s->where);
    putc('"', out);
}

static void put_metric(FILE *out, const struct field *f, size_t count)
{
    put_metric_head(out, f->metric, f->help);
    for (size_t i = 0; i < count; i++) {
        put_series(out, f->metric, &status.servers[i]);
        fputs("} ", out);
        put_number(out, f->kind, field_number(f, &status.servers[i]));
        putc('\n', out);
    }
}

static void put_ended(FILE *out, size_t count)
{
    put_metric_head(out, "hangupd_requests_total",
                    "Requests that have ended, by outcome and by the result of their undo.");
    for (size_t i = 0; i < count; i++)
        for (int outcome = OUTCOME_OK; outcome <= OUTCOME_KILLED; outcome++)
            for (int undo = UNDO_NONE; undo <= UNDO_FAILED; undo++) {
                put_series(out, "hangupd_requests_total", &status.servers[i]);
                fprintf(out, ",outcome=\"%s\",undo=\"%s\"} %llu\n", outcome_names[outcome],
                        undo_names[undo],
                        (unsigned long long)status.servers[i].figures.ended[outcome][undo]);
            }
}

static void put_whole(FILE *out, const char *name, const char *words, size_t value)
{
    put_metric_head(out, name, words);
    fprintf(out, "%s %zu\n", name, value);
}

static void status_prometheus(FILE *out)
{
    size_t left = 0, count;
    for (size_t i = 0; i < status.other_count; i++)
        left += status.others[i].undoing_count;
    put_whole(out, "hangupd_servers", "Servers that run with this state directory.", status.living);
    count = merge_addresses();
    for (const struct field *f = server_fields; f->kind != FIELD_END; f++)
        if (f->metric != NULL)
            put_metric(out, f, count);
    put_ended(out, count);
    put_whole(out, "hangupd_undo_parked", "Requests whose undo has failed for good.",
              status.parked_count);
    put_whole(out, "hangupd_undo_left_by_dead",
              "Requests of dead servers that still have to be undone.", left);
}

/* ---- hangupd status: the page -------------------------------------------------------- */

static const char page_style[] =
    ":root{color-scheme:light dark;--ink:#1c2733;--soft:#5a6876;--line:#d5dce3;--paper:#fff;"
    "--head:#eef2f6;--bad:#a61b1b}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e4eaf0;--soft:#9fb0c0;--line:#34414e;"
    "--paper:#131a21;--head:#1d2730;--bad:#ff8a80}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;padding:1rem;max-width:80rem;background:var(--paper);color:var(--ink);"
    "font:1rem/1.45 system-ui,sans-serif;overflow-wrap:anywhere}\n"
    "h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .25rem}p{margin:.25rem 0}\n"
    ".soft{color:var(--soft)}.bad{color:var(--bad)}\n"
    "code,tbody .mono span{font:.9em ui-monospace,monospace}\n"
    "table{border-collapse:collapse;width:100%;margin:.75rem 0}\n"
    "caption{text-align:left;font-weight:600;padding:.25rem 0}\n"
    "th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);"
    "vertical-align:baseline}\n"
    "thead th{background:var(--head);white-space:nowrap}tbody th{font-weight:400}\n"
    ".number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\n"
    "tbody th{white-space:nowrap}\n"
    /* On a phone each row is a card, and each cell has its label. */
    "@media(max-width:45rem){table,caption,tbody,tr,th,td{display:block}\n"
    "thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}\n"
    "tbody tr{border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0;padding:.25rem 0}\n"
    "tbody th,tbody td{display:flex;gap:1rem;align-items:baseline;border:0;padding:.2rem .6rem}\n"
    "tbody th::before,tbody td::before{content:attr(data-label);color:var(--soft);"
    "flex:0 0 6.5rem;text-align:left}}";

static const char *style_of(const struct field *f)
{
    return is_number(f) ? "number" : f->kind == FIELD_CODE || f->kind == FIELD_ID ? "mono" : "";
}

static void page_row(FILE *out, const struct field *fields, const void *row)
{
    const char *element = "th role=\"rowheader\" scope=\"row\"";
    fputs("<tr role=\"row\">", out);
    for (const struct field *f = fields; f->kind != FIELD_END; f++) {
        if (f->full == NULL)
            continue;
        fprintf(out, "<%s data-label=\"%s\" class=\"%s\"><span>", element, f->full, style_of(f));
        put_escaped(out, ESCAPE_HTML, cell_words(f, row));
        fprintf(out, "</span></%.2s>", element);
        element = "td role=\"cell\"";
    }
    fputs("</tr>\n", out);
}

static void page_table(FILE *out, const struct field *table, const void *of)
{
    fprintf(out, "<table role=\"table\"><caption>%s</caption>\n", table->full);
    fputs("<thead role=\"rowgroup\"><tr role=\"row\">", out);
    for (const struct field *f = table->fields; f->kind != FIELD_END; f++)
        if (f->full != NULL)
            fprintf(out, "<th role=\"columnheader\" scope=\"col\" class=\"%s\">%s</th>",
                    style_of(f), f->full);
    fputs("</tr></thead>\n<tbody role=\"rowgroup\">\n", out);
    for (size_t i = 0; i < row_count(table, of); i++)
        page_row(out, table->fields, row_at(table, of, i));
    fputs("</tbody></table>\n", out);
}

static void page_tables(FILE *out, const struct field *fields, const void *of)
{
    for (const struct field *f = fields; f->kind != FIELD_END; f++)
        if (f->kind == FIELD_ROWS && f->full != NULL && row_count(f, of) > 0)
            page_table(out, f, of);
}

static void page_server(FILE *out, const struct status_server *s)
{
    fputs("<section>\n<h2>", out);
    put(out, ESCAPE_HTML, "Server on %s",
        s->where[0] != '\0' ? s->where : "a connection that was handed over");
    fputs("</h2>\n<p class=\"soft\">", out);
    if (s->pid != UNKNOWN)
        fprintf(out, "pid %llu, ", (unsigned long long)s->pid);
    fprintf(out, "up %s%s</p>\n<p>", age_words((int64_t)s->uptime_ms),
            s->condition == CONDITION_DRAINING ? ", <strong class=\"bad\">draining</strong>" : "");
    put_figures(out, s, "<strong>", "</strong>");
    fputs("</p>\n<p>", out);
    put_totals(out, s);
    fputs("</p>\n", out);
    page_tables(out, server_fields, s);
    fputs("</section>\n", out);
}

static void page_parked(FILE *out)
{
    if (status.parked_count == 0)
        return;
    fputs("<section>\n<h2 class=\"bad\">Parked</h2>\n<p>To try again: <code>", out);
    put(out, ESCAPE_HTML, "%s [ID...]", recover_words(status.path, NULL));
    fputs("</code></p>\n", out);
    page_tables(out, status_fields, &status);
    fputs("</section>\n", out);
}

static void status_page(FILE *out)
{
    int64_t every_ms = view.every_ms > 0 ? view.every_ms : PAGE_MS;
    size_t in_flight = 0;
    for (size_t i = 0; i < status.living; i++)
        in_flight += status.servers[i].request_count;
    fprintf(out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            "<meta http-equiv=\"refresh\" content=\"%lld\">\n"
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
            "style-src 'unsafe-inline'; img-src data:\">\n<link rel=\"icon\" href=\"data:,\">\n"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            "<title>hangupd: %zu in flight</title>\n<style>%s</style>\n</head>\n<body>\n<main>\n"
            "<h1>hangupd</h1>\n<p class=\"soft\">%s, <code>",
            (long long)(every_ms + 999) / 1000, in_flight, page_style, moment_words(status.now_ms));
    put_escaped(out, ESCAPE_HTML, status.path);
    fputs("</code></p>\n", out);
    if (status.living == 0)
        fputs("<p>No server is running with this state directory.</p>\n", out);
    for (size_t i = 0; i < status.living; i++)
        page_server(out, &status.servers[i]);
    for (size_t i = 0; i < status.other_count; i++) {
        fputs("<p class=\"bad\">", out);
        put_other_server(out, ESCAPE_HTML, &status.others[i]);
        fputs("</p>\n", out);
    }
    page_parked(out);
    fputs("</main>\n</body>\n</html>\n", out);
}

/* ---- hangupd status: showing it ------------------------------------------------------ */

static const struct {
    const char *type; /* Content-Type */
    void (*put)(FILE *out);
} status_formats[] = {
    [FORMAT_TEXT] = {"text/plain; charset=utf-8", status_text},
    [FORMAT_JSON] = {"application/json", status_json},
    [FORMAT_PROMETHEUS] = {"text/plain; version=0.0.4; charset=utf-8", status_prometheus},
    [FORMAT_HTML] = {"text/html; charset=utf-8", status_page},
};

/* A program of a request has its ledger, STATE/SERVER/ID.p, as UNDO_FD: so a status page needs no
 * option to find the state directory of the server that runs it. The file's own name is not looked
 * at, as one that was made nameless is said to be deleted. */
static const char *state_of_request(void)
{
    static char found[PATH_MAX];
    char descriptor[32];
    unsigned long long fd;
    const char *number = getenv("UNDO_FD"), *id = getenv("REQUEST_ID");
    if (number == NULL || id == NULL || !cleanup_is_id(id) ||
        !parse_number(&number, INT_MAX, &fd) || *number != '\0')
        return NULL;
    snprintf(descriptor, sizeof descriptor, "/proc/self/fd/%llu", fd);
    ssize_t n = readlink(descriptor, found, sizeof found - 1);
    found[n > 0 ? n : 0] = '\0';
    char *file = strrchr(found, '/');
    if (file == NULL)
        return NULL;
    *file = '\0';
    char *token = strrchr(found, '/');
    if (token == NULL || token == found || strlen(token + 1) != CLEANUP_TOKEN_SIZE - 1 ||
        strncmp(token + 1, id, CLEANUP_TOKEN_SIZE - 1) != 0)
        return NULL;
    *token = '\0';
    return found;
}

static int status_open(void)
{
    status.path = settings.state != NULL ? settings.state : state_of_request();
    if (status.path == NULL)
        status.path = default_state();
    int fd = open(status.path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        cannot("could not open the state directory %s: %s; %s", status.path, strerror(errno),
               errno == EACCES ? "ask as its owner or as root"
                               : "--state DIR names the one that the server was started with");
    return fd;
}

/* The status as it is now, allocated. */
static char *status_render(int state)
{
    char *words = NULL;
    size_t length;
    FILE *out = open_memstream(&words, &length);
    if (out == NULL)
        no_memory();
    status_gather(state);
    status_formats[view.format].put(out);
    status_forget();
    if (fclose(out) != 0)
        no_memory();
    return words;
}

static void status_write(const char *words, size_t length)
{
    if (write_all(STDOUT_FILENO, words, length) < 0)
        cannot("could not write the status: %s", strerror(errno));
}

/* WORDS in the place of what the screen shows, as much as it holds; in one write, not to flicker.
 */
static void show_in_place(const char *words, const struct winsize *screen)
{
    char *frame = NULL;
    size_t length, rows = screen->ws_row > 1 ? screen->ws_row - 1U : SIZE_MAX;
    FILE *out = open_memstream(&frame, &length);
    if (out == NULL)
        no_memory();
    fputs("\033[H", out);
    while (*words != '\0' && rows-- > 0) {
        int n = (int)strcspn(words, "\n"), room = screen->ws_col > 0 ? screen->ws_col : INT_MAX;
        if (rows == 0 && words[n] != '\0' && words[n + 1] != '\0')
            fputs("...\033[K\n", out);
        else
            fprintf(out, "%.*s\033[K\n", n < room ? n : room, words);
        words += n + (words[n] != '\0');
    }
    fputs("\033[J", out);
    if (fclose(out) != 0)
        no_memory();
    status_write(frame, length);
    free(frame);
}

static void status_show(int state)
{
    struct winsize screen = {0};
    bool terminal = isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &screen) == 0;
    view.screen = screen.ws_col;
    char *words = status_render(state);
    if (terminal && view.every_ms >= 0)
        show_in_place(words, &screen);
    else
        status_write(words, strlen(words));
    free(words);
}

/* Until a signal ends it: they are blocked, so that what is shown is whole. */
static void watch_status(int state)
{
    int64_t every = view.every_ms > 0 ? view.every_ms : WATCH_MS;
    struct timespec pause = {.tv_sec = every / 1000, .tv_nsec = every % 1000 * 1000000};
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGINT);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGHUP);
    sigprocmask(SIG_BLOCK, &ending, NULL);
    if (isatty(STDOUT_FILENO))
        status_write("\033[H\033[2J", 7);
    do
        status_show(state);
    while (sigtimedwait(&ending, NULL, &pause) < 0);
    if (isatty(STDOUT_FILENO))
        status_write("\n", 1);
}

static int command_status(int argc, char **argv)
{
    called = "hangupd status";
    the_help = status_help;
    parse_status_options(argc, argv);
    int state = status_open();
    if (getenv("GATEWAY_INTERFACE") != NULL) { /* what a CGI program says first */
        char head[128];
        snprintf(head, sizeof head, "Content-Type: %s\nCache-Control: no-store\n\n",
                 status_formats[view.format].type);
        status_write(head, strlen(head));
    }
    if (view.every_ms >= 0 && view.format != FORMAT_HTML)
        watch_status(state);
    else
        status_show(state);
    close(state);
    return 0;
}

/* ---- Commands ------------------------------------------------------------------------ */

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
} commands[] = {
    {"recover", command_recover},
    {"undo", command_undo},
    {"status", command_status},
};

/* `hangupd COMMAND...`: it is run, and the process ends. */
static void run_command_named(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            exit(commands[i].run(argc - 1, argv + 1));
}

int server_main(int argc, char **argv, const struct route *routes)
{
    open_standard_descriptors();
    run_command_named(argc, argv);
    cleanup_mark_prepare(argc, argv);
    cleanup_report = log_event;
    parse_options(argc, argv, server_options);
    parse_routes(argc, argv, routes);
    note_strangers();
    open_all();
    begin_serving();
    loop();
    jobs_leave(&server.patient);
    jobs_leave(&server.delayed);
    cleanup_server_close(server.state, server.dir, server.token);
    if (!server.once)
        log_event(NULL, "stopped");
    return 0;
}

/* A program that links the library brings its own. */
__attribute__((weak)) int main(int argc, char **argv)
{
    static const struct route routes[] = {
        {.path = "/a", .name = "a", .handler = handler_demonstration}, {0}};
    return server_main(argc, argv, routes);
}
