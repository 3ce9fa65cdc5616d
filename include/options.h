/* options.h: what can be set on the command line: options with their help, and routes.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_OPTIONS_H
#define HANGUPD_OPTIONS_H

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "routes.h"
#include "serve.h"

/* ---- Settings ------------------------------------------------------------------------ */

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

static _Noreturn void wrong_use(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void wrong_use(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (settings.inetd && log_stderr_is_client()) {
        char line[LOG_LINE_SIZE];
        vsnprintf(line, sizeof line, format, args);
        if (log_open(settings.log_to, true) < 0)
            exit(EXIT_WRONG_USE);
        log_event(NULL, line);
    } else {
        fprintf(stderr, "%s: ", program_name);
        vfprintf(stderr, format, args);
        fprintf(stderr, "\n%s --help tells more.\n", program_name);
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
    if (log_sink.syslog)
        log_event(NULL, line);
    else
        fprintf(stderr, "%s: %s\n", program_name, line);
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
        log_sink.json = strcmp(text, "json") == 0;
        if (!log_sink.json && strcmp(text, "text") != 0)
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

#endif
