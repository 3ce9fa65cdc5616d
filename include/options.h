/* options.h: the command line: what can be set there, what --help says of it, and complaints.
 *
 *     parse_options(argc, argv, &server_options);
 *     serve(settings.requests);
 *
 * An option is one row of a table: its name, the word for its value, what it does, where its value
 * goes, its limits, and its default. parse_options() reads by the table and --help is printed from
 * it, so they cannot differ; hangupd(8) is made from --help. A command beside the server has a
 * table of its own (status_look.h). A new option is a row of server_rows and a member of
 * `settings`; if a request's child needs it, the member is in `struct handler_settings` (serve.h),
 * which is the part of the settings that handler.c sees. All here is done before anything is
 * served: wrong_use() and cannot() end the process, so call neither in the loop or in a child.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_OPTIONS_H
#define HANGUPD_OPTIONS_H

#include <ctype.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>

#include "log.h"
#include "routes.h"
#include "serve.h"

/* ---- Settings ------------------------------------------------------------------------ */

#define WORDS_MAX LISTENERS_MAX
#define LOG_FORM_WORDS "text|json"
#define LOG_TO_WORDS "stderr|syslog"

/* What an option gives that may be repeated. */
struct word_list {
    const char *advice; /* to one who gives too many */
    const char *words[WORDS_MAX];
    size_t count;
};

static struct settings {
    struct handler_settings handler;
    struct word_list listen, route_files, pass_env;
    bool inetd, check;
    int64_t idle_exit_ms; /* -1: not asked for */
    const char *user, *socket_group;
    int64_t socket_mode; /* -1: not asked for */
    int64_t requests, connections, per_client;
    int64_t drain_ms, undo_ms, undo_retries, undo_at_once, give_up_ms, again_ms;
    const char *state;                                /* NULL: the default of state.h */
    const char *node;                                 /* NULL: by the machine id */
    enum { LOG_FORM_JSON = 2 } log_form;              /* the word of this place in LOG_FORM_WORDS */
    enum { LOG_TO_STDERR = 1, LOG_TO_SYSLOG } log_to; /* 0: not asked for */
} settings = {
    .listen = {.advice = ""},
    .route_files = {.advice = "; one file can hold all routes"},
    .pass_env = {.advice = "; one can have several names, with commas between them"},
    .idle_exit_ms = -1,
    .socket_mode = -1,
};

#define LISTEN_DEFAULT "127.0.0.1:8080"
#define IDLE_EXIT_WAIT_S 60 /* inetd's `wait`: it starts the server again when it is needed */
#define STATE_OF_ROOT "/var/lib/hangupd"
#define PASS_ENV_DEFAULT                                                                           \
    "PATH,HOME,LANG,LC_*,TZ,USER,LOGNAME,SSL_CERT_FILE,http_proxy,https_proxy,HTTPS_PROXY,"        \
    "no_proxy,NO_PROXY,all_proxy,ALL_PROXY"

/* ---- Options, one row each ----------------------------------------------------------- */

enum option_kind {
    OPTION_END,
    OPTION_TEXT,    /* no option: HELP stands there in --help */
    OPTION_KEYS,    /* no option: the keys of routes stand there */
    OPTION_FLAG,    /* bool; from here on options without a value */
    OPTION_HELP,    /* print --help */
    OPTION_VERSION, /* print the version */
    OPTION_EVERY,   /* int64_t, milliseconds; 0 if it is given without a value */
    OPTION_TIME,    /* int64_t, milliseconds; from here on with a value */
    OPTION_SIZE,    /* size_t or uint64_t, bytes */
    OPTION_COUNT,   /* int64_t, up to COUNT_MOST */
    OPTION_MODE,    /* int64_t, octal */
    OPTION_STRING,  /* const char * */
    OPTION_CHOICE,  /* an enum: the place, from 1, of the word among those of ARGUMENT */
    OPTION_LIST     /* struct word_list */
};

struct option_row {
    const char *name; /* without dashes; NULL: no option */
    const char *help; /* what it does, in lines; NULL: it is not listed */
    enum option_kind kind;
    const char *argument; /* the word for its value in --help, or the words of a choice */
    void *value;
    int64_t least;
    const char *most;     /* in words; NULL: as its kind has it */
    const char *standard; /* the default, in words; NULL: *VALUE as it is, or none */
};

struct option_table {
    const char *command; /* "hangupd status", for complaints */
    int column;          /* where what an option does begins in --help */
    const struct option_row *rows;
};

#define OPTIONS_MAX 96  /* of one table */
#define HEAD_MOST "64M" /* head and target are held in memory, once for each child */

/* The parts of a row that go together, for a value in `settings`. */
#define FLAG_IN(at) .kind = OPTION_FLAG, .value = &settings.at
#define WORD_IN(at, word) .kind = OPTION_STRING, .argument = (word), .value = &settings.at
#define LIST_IN(at, word) .kind = OPTION_LIST, .argument = (word), .value = &settings.at

/* All of a row of an option that has a default, IS, which --help shows. */
#define CHOICE(name, help, at, words, is)                                                          \
    name, help " (" is ")", OPTION_CHOICE, words, &settings.at, .standard = (is)
#define NUMBER(kind, word, name, help, at, n, is)                                                  \
    name, help " (" is ")", kind, word, &settings.at, .least = (n), .standard = (is)
#define COUNT(name, help, at, n, is) NUMBER(OPTION_COUNT, "N", name, help, at, n, is)
#define TIME(name, help, at, n, is) NUMBER(OPTION_TIME, "TIME", name, help, at, n, is)
#define SIZE(name, help, at, n, is) NUMBER(OPTION_SIZE, "SIZE", name, help, at, n, is)

/* What these are in more than one table. */
#define UNDO_AGAIN_HELP                                                                            \
    "until a command that names its request (by its id, or\n"                                      \
    "$REQUEST_ID) is run once more: what it undoes may still\n"                                    \
    "have been on its way; 0: never"
#define STATE_HELP                                                                                 \
    "where ledgers are kept (root: " STATE_OF_ROOT "; else\n"                                      \
    "$XDG_STATE_HOME/hangupd, ~/.local/state/hangupd)"

#define LOG_UNDONE_HELP "a line for each thing that an undo removes or runs, too"

/* And `node`. */
#define NODE_HELP                                                                                  \
    "which machine this is, where several use one STATE, or a\n"                                   \
    "container's outlives it: another's ledgers are left alone\n"                                  \
    "(/etc/machine-id)"

static const char help_begin[] =
    "Usage: hangupd [OPTION...] [ROUTE...]\n"
    "Serve slow, expensive HTTP requests, each in a process of its own. When the caller\n"
    "hangs up, the work is stopped and everything it made is undone.\n"
    "\n"
    "A ROUTE is PATH=TARGET[,KEY=VALUE...]. A PATH that ends in / stands for all below it.\n"
    "TARGET is a program, run by CGI/1.1; for a PATH that ends in /, also a directory of\n"
    "programs; or @NAME, a handler compiled in. Without a ROUTE: /a=@a, the demonstration.\n";

static const char help_listening[] =
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
    "  hangupd stop ID...             end requests in flight and undo them (hangupd stop --help)\n"
    "\n"
    "Listening:\n";

static const char help_end[] =
    "\n"
    "  -h, --help, -V, --version\n"
    "\n"
    "SIGTERM drains; a second one, or SIGINT, undoes what is in flight at once. SIGHUP starts\n"
    "a new server with the same words, for new --routes or a new program, and hands over to it.\n"
    "\n"
    "Examples:\n"
    "  hangupd                                   the demonstration, on " LISTEN_DEFAULT "\n"
    "  hangupd /report=./report.sh /cgi-bin/=/usr/lib/cgi-bin\n"
    "  hangupd --listen :80 --user www-data --requests 50 /a=@a,timeout=10m\n"
    "  hangupd --listen unix:/run/report.sock --half-close hangup --log json\n";

static const struct option_row server_rows[] = {
    {NULL, help_begin, .kind = OPTION_TEXT},
    {NULL, NULL, .kind = OPTION_KEYS},
    {"routes", "further routes, one a line; # begins a comment; may be\nrepeated",
     LIST_IN(route_files, "FILE")},
    {NULL, help_listening, .kind = OPTION_TEXT},
    {"listen",
     "or [V6]:PORT, :PORT (all addresses), unix:PATH; may be\n"
     "repeated; port 0 takes a free one (" LISTEN_DEFAULT ")",
     LIST_IN(listen, "ADDR:PORT")},
    {"inetd",
     "serve descriptor 0, from inetd, xinetd or systemd: a\n"
     "connection (nowait) or a listening socket (wait)",
     FLAG_IN(inetd)},
    {"idle-exit",
     "leave after TIME without a connection (wait: " DIGITS(IDLE_EXIT_WAIT_S) "; else never)",
     OPTION_TIME, "TIME", .value = &settings.idle_exit_ms},
    {"socket-mode", "of unix: sockets, octal (0777 less the umask)", OPTION_MODE, "MODE",
     .value = &settings.socket_mode},
    {"socket-group", "of unix: sockets; their owner is the user", WORD_IN(socket_group, "GROUP")},
    {"user", "become NAME, of /etc/passwd, when the sockets are open", WORD_IN(user, "NAME")},
    {NULL, "\nLimits:\n", .kind = OPTION_TEXT},
    {COUNT("requests", "at once; further ones queue", requests, 1, "256")},
    {COUNT("connections", "open at once; the oldest idle one makes room", connections, 1, "4096")},
    {COUNT("per-client",
           "requests at once from one address; who queues most makes\nroom for another connection; "
           "0: no limit",
           per_client, 0, "0")},
    {TIME("queue-timeout", "in the queue, or for a route's turn, then 503", handler.queue_ms, 0,
          "30")},
    {TIME("header-timeout", "for the header to arrive, then 408", handler.header_ms, 1, "10")},
    {TIME("body-timeout", "without progress of the body, then 408", handler.body_ms, 1, "30")},
    {TIME("timeout", "for the whole request, then undo and 504; 0: none", handler.request_ms, 0,
          "3600")},
    {TIME("idle-timeout", "for a connection between requests", handler.idle_ms, 1, "15")},
    {TIME("send-timeout",
          "without progress of the answer, or a quarter of the time\n"
          "for all of it to be acknowledged at its end; then undo",
          handler.send_ms, 1, "30")},
    {TIME("dead-peer", "until a client that vanished without a word is found", handler.dead_peer_ms,
          3000, "30")},
    {SIZE("max-body", "else 413", handler.max_body, 0, "1G")},
    {"max-spool", "of all bodies together, else 503 (four times --max-body)", OPTION_SIZE, "SIZE",
     .value = &settings.handler.max_spool, .least = 1},
    {SIZE("max-header", "else 431", handler.max_header, 64, "32k"), .most = HEAD_MOST},
    {SIZE("max-target", "of the request target, else 414", handler.max_target, 16, "8k"),
     .most = HEAD_MOST},
    {NULL, "\nPrograms:\n", .kind = OPTION_TEXT},
    {"pass-env",
     "variables that programs and undo commands get of this\n"
     "environment, beside PATH, HOME, LANG, LC_*, TZ, USER,\n"
     "LOGNAME, SSL_CERT_FILE and the proxies'; a * at the end\n"
     "stands for any rest, and '' first takes these away; may\nbe repeated",
     LIST_IN(pass_env, "NAME[,NAME...]")},
    {CHOICE("options", "who answers the method OPTIONS of a program's route", handler.options,
            OPTIONS_WORDS, "program")},
    {CHOICE("tmpdir",
            "a request's TMPDIR: its own, removed at the end; or the\nserver's, for "
            "programs that keep sessions there",
            handler.use_tmpdir, TMPDIR_WORDS, "own")},
    {TIME("cpu", "of processor time, for each process; 0: no limit", handler.limits.cpu_ms, 0,
          "0")},
    {SIZE("memory", "of addresses, for each process; 0: no limit", handler.limits.memory, 0, "0")},
    {COUNT("processes", "at once, of all that the user has; 0: no limit", handler.limits.processes,
           0, "0")},
    {SIZE("file-size", "of each file that is written; 0: no limit", handler.limits.file_size, 0,
          "0")},
    {NULL, "\nHangup and undo:\n", .kind = OPTION_TEXT},
    {CHOICE("half-close", "what a FIN alone means: ask the client's kernel, a\nhangup, or nothing",
            handler.half_close, HALF_CLOSE_WORDS, "probe")},
    {CHOICE("on-hangup", "undo the request, or let it finish and be kept", handler.on_hangup,
            ON_HANGUP_WORDS, "undo")},
    {TIME("grace", "from SIGTERM to SIGKILL for what a request started", handler.grace_ms, 0, "2")},
    {TIME("undo-timeout", "for each command that undoes something", undo_ms, 1, "30")},
    {COUNT("undo-retries", "of an undo that fails, after 1 s, 2 s, 4 s...", undo_retries, 0, "5")},
    {TIME("undo-give-up", "of an undo that says \"later\" (exit status 75)", give_up_ms, 0, "24h")},
    {TIME("undo-again", UNDO_AGAIN_HELP, again_ms, 0, "60")},
    {COUNT("undo-at-once",
           "undos that go on at once, after their requests' ends; one that has\n"
           "taken 10 s no longer counts",
           undo_at_once, 1, "16")},
    {TIME("drain", "on SIGTERM, for requests in flight to finish", drain_ms, 0, "30")},
    {NULL, "\nState and log:\n", .kind = OPTION_TEXT},
    {"state", STATE_HELP, WORD_IN(state, "DIR")},
    {"node", NODE_HELP, WORD_IN(node, "NAME")},
    {"sync", "flush every ledger record to the disk, for power loss", FLAG_IN(handler.sync)},
    {CHOICE("log", "the form of the log's lines", log_form, LOG_FORM_WORDS, "text")},
    {"log-to", "where they go (stderr; syslog with --inetd)", OPTION_CHOICE, LOG_TO_WORDS,
     .value = &settings.log_to},
    {"log-begin", "a line when a handler starts, too", FLAG_IN(handler.log_begin)},
    {"log-undone", LOG_UNDONE_HELP, .kind = OPTION_FLAG, .value = &log_sink.names_undone},
    {"check",
     "do not serve: look at options, routes, programs and the\n"
     "state directory, touch nothing, and say what is wrong;\nexit status 0 or 2",
     FLAG_IN(check)},
    {NULL, help_end, .kind = OPTION_TEXT},
    {"help", NULL, .kind = OPTION_HELP},
    {"version", NULL, .kind = OPTION_VERSION},
    {0},
};

static const struct option_table server_options = {"hangupd", 32, server_rows};

/* ---- Complaints, and the log they may have to go to ---------------------------------- */

#define EXIT_COULD_NOT 1
#define EXIT_WRONG_USE 2

/* Give up starting. Once the log is syslog, standard error may be inetd's client. */
__attribute__((format(printf, 1, 2))) static _Noreturn void cannot(const char *format, ...)
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
    exit(settings.check ? EXIT_WRONG_USE : EXIT_COULD_NOT);
}

/* Open the log where the settings want it, or end the process. */
static void open_log(void)
{
    log_sink.json = settings.log_form == LOG_FORM_JSON;
    bool syslog =
        settings.log_to == LOG_TO_SYSLOG || (settings.log_to != LOG_TO_STDERR && settings.inetd);
    if (log_open(syslog, settings.inetd) < 0)
        cannot("could not make a socket for syslog: %s", strerror(errno));
}

/* The command line, the environment or a file of routes is wrong: say what would be right. */
__attribute__((format(printf, 1, 2))) static _Noreturn void wrong_use(const char *format, ...)
{
    char line[LOG_LINE_SIZE];
    va_list args;
    va_start(args, format);
    if (settings.inetd && log_stderr_is_client()) {
        vsnprintf(line, sizeof line, format, args);
        open_log();
        log_event(NULL, line);
    } else { /* a path in it may be longer than a line of the log */
        fprintf(stderr, "%s: ", program_name);
        vfprintf(stderr, format, args);
        fprintf(stderr, "\n%s --help tells more.\n", program_name);
    }
    va_end(args);
    exit(EXIT_WRONG_USE);
}

/* ---- Help, from the table ------------------------------------------------------------ */

/* LEFT, and HELP from COLUMN on. */
static void print_entry(const char *left, const char *help, int column)
{
    printf("  %-*s  ", column - 4, left);
    for (; *help != '\0'; help++) {
        putchar(*help);
        if (*help == '\n')
            printf("%*s", column, "");
    }
    putchar('\n');
}

static void print_help(const struct option_table *table)
{
    char left[128];
    for (const struct option_row *row = table->rows; row->kind != OPTION_END; row++) {
        for (size_t i = 0; row->kind == OPTION_KEYS && i < ROUTE_KEY_COUNT; i++) {
            const struct route_key *k = &route_keys[i];
            snprintf(left, sizeof left, "%s=%s", k->name, k->argument);
            print_entry(left, k->help, table->column);
        }
        if (row->kind == OPTION_TEXT)
            fputs(row->help, stdout);
        if (row->name == NULL || row->help == NULL)
            continue;
        bool bare = row->argument == NULL;
        snprintf(left, sizeof left, "--%s%s%s", row->name, bare ? "" : " ",
                 bare ? "" : row->argument);
        print_entry(left, row->help, table->column);
    }
}

/* After what was printed: its end is known only when it is flushed. */
static _Noreturn void exit_printed(void)
{
    exit(fflush(stdout) == 0 ? 0 : EXIT_COULD_NOT);
}

/* ---- Parsing ------------------------------------------------------------------------- */

static void set_number(const struct option_row *row, const char *text)
{
    static const struct number {
        int64_t (*parse)(const char *text); /* -1: it is not what is wanted */
        const char *wanted, *unit;
    } time = {parse_duration, "a time, as in 0.5, 90s, 15m or 2h", " ms"},
      size = {parse_size, "a size, as in 65536, 64k or 1G", ""},
      count = {parse_count, "a whole number up to " DIGITS(COUNT_MOST), ""},
      mode = {parse_mode, "an octal mode, as in 0660", ""};
    const struct number *is = row->kind == OPTION_SIZE    ? &size
                              : row->kind == OPTION_COUNT ? &count
                              : row->kind == OPTION_MODE  ? &mode
                                                          : &time;
    int64_t n = is->parse(text);
    if (n < 0)
        wrong_use("--%s %s is not %s", row->name, text, is->wanted);
    if (n < row->least)
        wrong_use("--%s %s is too little; the least is %lld%s", row->name, text,
                  (long long)row->least, is->unit);
    if (row->most != NULL && n > is->parse(row->most))
        wrong_use("--%s %s is too much; the most is %s", row->name, text, row->most);
    *(int64_t *)row->value = n; /* a size is unsigned there, and as long */
}

static void set_choice(const struct option_row *row, const char *text)
{
    char words[128];
    struct text t = TEXT(words);
    int place = choice_find(row->argument, text);
    text_not_a_choice(&t, row->argument);
    if (place == 0)
        wrong_use("--%s %s is %s", row->name, text, text_end(&t));
    *(int *)row->value = place;
}

static void add_word(const struct option_row *row, const char *text)
{
    struct word_list *list = row->value;
    if (list->count == WORDS_MAX)
        wrong_use("--%s may be given %d times%s", row->name, WORDS_MAX, list->advice);
    list->words[list->count++] = text;
}

/* TEXT is NULL for an option without a value. */
static void set_option(const struct option_row *row, const char *text)
{
    if (row->kind == OPTION_FLAG)
        *(bool *)row->value = true;
    else if (row->kind == OPTION_STRING)
        *(const char **)row->value = text;
    else if (row->kind == OPTION_CHOICE)
        set_choice(row, text);
    else if (row->kind == OPTION_LIST)
        add_word(row, text);
    else if (text == NULL) /* OPTION_EVERY */
        *(int64_t *)row->value = 0;
    else
        set_number(row, text);
}

/* Set the defaults, and put TABLE into OPTIONS for getopt(3), which writes the number of the row
 * that it has met to *WHICH. */
static void begin_options(const struct option_table *table, struct option *options, int *which)
{
    for (int i = 0; table->rows[i].kind != OPTION_END; i++) {
        const struct option_row *row = &table->rows[i];
        int argument = row->kind < OPTION_EVERY    ? no_argument
                       : row->kind == OPTION_EVERY ? optional_argument
                                                   : required_argument;
        if (row->name != NULL)
            *options++ = (struct option){row->name, argument, which, i};
        if (row->standard != NULL)
            set_option(row, row->standard);
    }
}

/* Set what the command line says. What is no option stays, from argv[optind] on. */
static void parse_options(int argc, char **argv, const struct option_table *table)
{
    struct option options[OPTIONS_MAX] = {0};
    int which = 0;
    program_name = table->command;
    begin_options(table, options, &which);
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":hV", options, NULL)) != -1;) {
        const struct option_row *row = &table->rows[which];
        enum option_kind kind = c == 'h' ? OPTION_HELP : c == 'V' ? OPTION_VERSION : row->kind;
        if (c == ':')
            wrong_use("%s wants a value", argv[optind - 1]);
        if (c == '?')
            wrong_use("there is no option %s", argv[optind - 1]);
        if (kind == OPTION_HELP) {
            print_help(table);
            exit_printed();
        } else if (kind == OPTION_VERSION) {
            puts("hangupd " HANGUPD_VERSION);
            exit_printed();
        }
        /* A value that may be left out is for getopt(3) always "--every=TIME". */
        if (row->kind == OPTION_EVERY && optarg == NULL && optind < argc &&
            isdigit((unsigned char)*argv[optind]))
            optarg = argv[optind++];
        set_option(row, optarg);
    }
}

/* ---- The routes, from files and from the command line -------------------------------- */

#define ROUTE_LINE_MAX 8192 /* bytes */

/* The routes so far, and where each of them was written: "FILE:LINE". */
static struct {
    struct route *routes;
    char **sources;
    size_t count;
} route_list;

/* FROM is NULL for a route of the command line. */
static void add_route(const char *text, const struct route *compiled, const char *from)
{
    char why[512], *source = strdup(from != NULL ? from : "the command line");
    size_t n = route_list.count++;
    struct route *routes = reallocarray(route_list.routes, n + 1, sizeof *routes);
    char **sources = reallocarray(route_list.sources, n + 1, sizeof *sources);
    if (source == NULL || routes == NULL || sources == NULL)
        cannot("out of memory for %zu routes", n + 1);
    route_list.routes = routes;
    route_list.sources = sources;
    sources[n] = source;
    if (n == INT16_MAX)
        wrong_use("%s: there are more than %d routes", source, INT16_MAX);
    if (route_parse(text, compiled, &routes[n], why, sizeof why) < 0) {
        if (from == NULL)
            wrong_use("in the route %s: %s", text, why);
        wrong_use("%s: %s", source, why);
    }
    for (size_t i = 0; i < n; i++)
        if (strcmp(routes[i].path, routes[n].path) == 0)
            wrong_use("%s: the path %s has two routes; the other one is in %s; remove one of them",
                      source, routes[n].path, sources[i]);
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

static void add_routes_of(const char *file, const struct route *compiled)
{
    char *line = NULL, from[PATH_MAX + 16];
    size_t room = 0;
    unsigned number = 0;
    FILE *f = fopen(file, "re");
    for (ssize_t n; f != NULL && (n = getline(&line, &room, f)) >= 0;) {
        snprintf(from, sizeof from, "%s:%u", file, ++number);
        if (n > ROUTE_LINE_MAX)
            wrong_use("%s: the line is longer than %d bytes; a route is one line, as in "
                      "/report=@report",
                      from, ROUTE_LINE_MAX);
        if (number == 1 && strncmp(line, "\xef\xbb\xbf", 3) == 0)
            wrong_use("%s: the file begins with a byte order mark, which is no text; save it as "
                      "UTF-8 without one",
                      from);
        if (memchr(line, '\0', (size_t)n) != NULL)
            wrong_use("%s: a NUL byte in the line; the routes must be text, one a line", from);
        const char *route = bare_line(line);
        if (*route != '\0')
            add_route(route, compiled, from);
    }
    if (f == NULL || !feof(f))
        wrong_use("could not read the routes in %s: %s; --routes wants a text file with one route "
                  "a line, as in /report=@report",
                  file, strerror(errno));
    free(line);
    fclose(f);
}

/* The table of routes that a program hands to server_main: exits if one of them is wrong. */
static void check_compiled(const struct route *compiled)
{
    if (compiled == NULL)
        wrong_use("server_main has no table of routes; the least is one that ends at once, {0}");
    for (const struct route *r = compiled; r->path != NULL; r++) {
        char path[256];
        struct text t = TEXT(path);
        text_escaped(&t, r->path, ESCAPE_STRING);
        if (route_wrong(r) != NULL)
            wrong_use("number %d of the routes of server_main, \"%s\": %s", (int)(r - compiled) + 1,
                      text_end(&t), route_wrong(r));
    }
}

/* Read the routes of the files and of the command line into the settings; the COMPILED ones if
 * there is none. */
static void parse_routes(int argc, char **argv, const struct route *compiled)
{
    struct handler_settings *found = &settings.handler;
    check_compiled(compiled);
    for (size_t i = 0; i < settings.route_files.count; i++)
        add_routes_of(settings.route_files.words[i], compiled);
    for (int i = optind; i < argc; i++)
        add_route(argv[i], compiled, NULL);
    if (route_list.count == 0 && settings.route_files.count > 0)
        wrong_use("there is no route in %s; write one a line, as in /report=@report",
                  settings.route_files.words[0]);
    for (size_t i = 0; i < route_list.count; i++)
        free(route_list.sources[i]);
    free(route_list.sources);
    found->routes = route_list.count > 0 ? route_list.routes : compiled;
    found->route_count = route_list.count;
    while (route_list.count == 0 && compiled[found->route_count].path != NULL)
        found->route_count++;
}

#endif
