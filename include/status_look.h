/* status_look.h: `hangupd status`: what is asked, what is told, and gathering it.
 *
 *     parse_status_options(argc, argv);
 *     status_gather();                  // `status` is filled; the tables of fields describe it
 *     status_forget();
 *
 * It reads files and /proc and takes no lock, so a server under full load does not notice. The
 * scoreboard's copy is read and not mapped, because somebody could cut the file short meanwhile,
 * and nothing in it is believed, because a child can write there: strings are ended here, indices
 * are checked. How it is shown is in status_show.h.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_STATUS_LOOK_H
#define HANGUPD_STATUS_LOOK_H

#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>

#include "ledger.h"
#include "options.h"
#include "scoreboard.h"
#include "state.h"

/* ---- hangupd status: what is asked --------------------------------------------------- */

#define WATCH_S 1
#define PAGE_S 5
#define WATCH_LEAST_MS 100

enum status_format { FORMAT_TEXT, FORMAT_JSON, FORMAT_PROMETHEUS, FORMAT_HTML };

/* How it is to be shown. */
static struct view {
    enum status_format format;
    bool chosen[FORMAT_HTML + 1]; /* by an option */
    int64_t every_ms;             /* -1: once; 0: it was not said how often */
    size_t columns, rows;         /* of the terminal; 0: any number */
} view = {.every_ms = -1};

static const char status_about[] =
    "Usage: hangupd status [OPTION...]\n"
    "What the servers of a state directory are doing: requests in flight, queued, being undone\n"
    "and parked (undo failed for good), and totals by outcome.\n"
    "\n";

static const char status_notes[] =
    "\n"
    "Run as a program of a request (CGI), it says its header first. A status page is the script\n"
    "    #!/bin/sh\n"
    "    exec hangupd status --html\n"
    "It shows request lines and addresses: do not serve it to strangers.\n"
    "\n"
    "Exit status: 0 told, also that no server is running; 1 it could not be; 2 wrong use.\n";

#define FORMAT_IN(format) .kind = OPTION_FLAG, .value = &view.chosen[format]
static const struct option_row status_rows[] = {
    {NULL, status_about, .kind = OPTION_TEXT},
    {"state",
     "as the server was given it; same default. In a program that serves a\n"
     "request: the state directory of the server that runs it",
     WORD_IN(state, "DIR")},
    {"json", "one JSON object", FORMAT_IN(FORMAT_JSON)},
    {"prometheus", "metrics for Prometheus (text format 0.0.4)", FORMAT_IN(FORMAT_PROMETHEUS)},
    {"html", "a page, which loads itself again every TIME of --watch (" DIGITS(PAGE_S) ")",
     FORMAT_IN(FORMAT_HTML)},
    {"watch", "show it again every TIME (" DIGITS(WATCH_S) "), until Ctrl-C", OPTION_EVERY,
     "[TIME]", &view.every_ms, .least = WATCH_LEAST_MS},
    {"help", NULL, .kind = OPTION_HELP},
    {NULL, status_notes, .kind = OPTION_TEXT},
    {0},
};

static const struct option_table status_options = {"hangupd status", 25, status_rows};

static void parse_status_options(int argc, char **argv)
{
    parse_options(argc, argv, &status_options);
    if (optind < argc)
        wrong_use("%s is not an option, and nothing else is wanted", argv[optind]);
    for (enum status_format f = FORMAT_JSON; f <= FORMAT_HTML; f++) {
        if (view.chosen[f] && view.format != FORMAT_TEXT)
            wrong_use("--json, --prometheus and --html exclude each other");
        if (view.chosen[f])
            view.format = f;
    }
}

/* ---- hangupd status: what is told ---------------------------------------------------- */

#define UNKNOWN UINT64_MAX /* a count that cannot be seen from here */

struct status_request {
    struct slot slot;          /* with its strings ended */
    const char *phase, *cause; /* NULL: none */
    char doing[32];            /* both */
    bool undoing;
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
static const char *const condition_names[] = {"serving",    "draining", "starting",
                                              "recovering", "dead",     "unreadable"};

struct status_server {
    char token[CLEANUP_TOKEN_SIZE];
    enum status_condition condition;
    const char *condition_name, *why; /* WHY: unreadable */
    uint64_t pid;                     /* UNKNOWN: not of this pid namespace */
    struct figures figures;
    uint64_t slot_count, uptime_ms, oldest_ms, processes, ended_count;
    uint64_t totals[OUTCOME_COUNT][UNDO_COUNT]; /* of the figures, and what was undone since */
    struct status_ended ended[OUTCOME_COUNT * UNDO_COUNT];
    char listening[LISTENERS_MAX][LISTENER_NAME_SIZE];
    char where[LISTENERS_MAX * (LISTENER_NAME_SIZE + 2)]; /* the same in one line */
    struct status_request *requests;                      /* the oldest first */
    struct cleanup_look *undoing;                         /* of a dead server: all its ledgers */
    struct cleanup_look *looking; /* undone, and waiting for a second look: the end of UNDOING */
    size_t ended_kinds, listening_count, request_count, undoing_count, looking_count;
};

static struct status {
    const char *version;
    struct state_dir state;
    int64_t now_ms;   /* since 1970 */
    int64_t asked_at; /* clock_ms() */
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
    FIELD_DUE,    /* the same; to people: in how long */
    FIELD_ROWS,   /* a pointer to an array of structs, each with fields of its own */
    FIELD_ARRAY   /* the array itself; without fields: of char[] */
};

/* What is to be told is a row of these, and nothing else. A metric is a counter if its name ends in
 * _total, else a gauge. Where the servers of one address are merged, FIELD_COUNT is added up, and
 * of any other kind the larger is taken. */
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
    {FIELD_ID, REQUEST(slot.id), "id", HEADS("ID", "Id")},
    {FIELD_AGE, REQUEST(age_ms), "age_seconds", HEADS("AGE", "Age")},
    {FIELD_WORDS, REQUEST(slot.client), "client", HEADS("CLIENT", "Client")},
    {FIELD_NAME, REQUEST(phase), .json = "phase"},
    {FIELD_NAME, REQUEST(cause), .json = "cause"},
    {FIELD_WORDS, REQUEST(doing), HEADS("PHASE", "Phase")},
    {FIELD_COUNT, REQUEST(processes), "processes", HEADS("PROCS", "Processes")},
    {FIELD_COUNT, REQUEST(records), "records", HEADS("RECORDS", "Records")},
    {FIELD_CODE, REQUEST(slot.request), "request", HEADS("REQUEST", "Request")},
    {0},
};

#define LEDGER(member) offsetof(struct cleanup_look, member)
static const struct field ledger_fields[] = {
    {FIELD_CODE, LEDGER(id), "id", HEADS("ID", "Id")},
    {FIELD_MOMENT, LEDGER(changed_ms), "changed", HEADS("SINCE", "Since")},
    {FIELD_COUNT, LEDGER(records), "records", HEADS("RECORDS", "Records")},
    {FIELD_CODE, LEDGER(title), "request", HEADS("REQUEST", "Request")},
    {FIELD_CODE, LEDGER(next), "next", HEADS("NEXT", "To undo next")},
    {FIELD_COUNT, LEDGER(looks), .json = "second_looks"},
    {FIELD_RETRY, LEDGER(id), .json = "retry"},
    {0},
};

static const struct field look_fields[] = {
    {FIELD_CODE, LEDGER(id), "id", HEADS("ID", "Id")},
    {FIELD_DUE, LEDGER(due_ms), "due", HEADS("DUE IN", "Due in")},
    {FIELD_COUNT, LEDGER(looks), "second_looks", HEADS("LOOKS", "Looks")},
    {FIELD_CODE, LEDGER(title), "request", HEADS("REQUEST", "Request")},
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
    {FIELD_COUNT, SERVER(looking_count),
     METRIC("undo_second_looks", "Requests that are undone, and wait for a second look.")},
    {FIELD_COUNT, SERVER(figures.later), "undo_later",
     METRIC("undo_later", "Requests that cannot be undone yet, and are tried again.")},
    {FIELD_COUNT, SERVER(figures.requests), "requests_started",
     METRIC("requests_started_total", "Requests that got a process.")},
    {FIELD_COUNT, SERVER(figures.log_lost), "log_lines_lost",
     METRIC("log_lines_lost_total", "Lines that the log did not take in time.")},
    {FIELD_COUNT, SERVER(ended_count), .json = "requests_ended"},
    {FIELD_ARRAY, SERVER(ended), "ended",
     ROWS(ended_fields, struct status_ended, SERVER(ended_kinds))},
    {FIELD_ROWS, SERVER(requests), "requests", HEADS("\n", "Requests in flight"),
     ROWS(request_fields, struct status_request, SERVER(request_count))},
    {FIELD_ROWS, SERVER(undoing), "undoing", HEADS("\nBeing undone:\n", "Being undone"),
     ROWS(ledger_fields, struct cleanup_look, SERVER(undoing_count))},
    {FIELD_ROWS, SERVER(looking), "second_looks",
     HEADS("\nUndone, with a second look to come:\n", "Second looks"),
     ROWS(look_fields, struct cleanup_look, SERVER(looking_count))},
    {0},
};

/* Of a server that is dead, or cannot be asked. */
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
    {FIELD_NAME, STATUS(state.path), .json = "state"},
    {FIELD_ROWS, STATUS(servers), "servers",
     ROWS(server_fields, struct status_server, STATUS(living))},
    {FIELD_ROWS, STATUS(others), "other_servers",
     ROWS(other_fields, struct status_server, STATUS(other_count))},
    {FIELD_ROWS, STATUS(parked), "parked", HEADS("", "Undo failed for good"),
     ROWS(ledger_fields, struct cleanup_look, STATUS(parked_count))},
    {0},
};

static const void *field_at(const struct field *f, const void *row)
{
    return (const char *)row + f->at;
}

static uint64_t field_number(const struct field *f, const void *row)
{
    return *(const uint64_t *)field_at(f, row);
}

static const char *field_words(const struct field *f, const void *row)
{
    bool named = f->kind == FIELD_NAME || f->kind == FIELD_WHY;
    return named ? *(const char *const *)field_at(f, row) : field_at(f, row);
}

static size_t row_count(const struct field *f, const void *of)
{
    return *(const size_t *)(const void *)((const char *)of + f->count_at);
}

static const void *row_at(const struct field *f, const void *of, size_t i)
{
    const char *first = field_at(f, of);
    if (f->kind == FIELD_ROWS)
        memcpy(&first, field_at(f, of), sizeof first);
    return first + i * f->size;
}

/* ---- hangupd status: gathering ------------------------------------------------------- */

static _Noreturn void no_memory(void)
{
    cannot("out of memory for the status");
}

static const char *phase_of_state(uint32_t state)
{
    uint32_t at = state & SLOT_STATE_MASK;
    if (at == SLOT_READING)
        return (state & SLOT_WAITING) != 0 ? "waiting" : "reading";
    if (at == SLOT_ANSWERING)
        return (state & SLOT_DELIVERING) != 0 ? "delivering" : "answering";
    return at == SLOT_DONE ? "ending" : "running";
}

static struct status_request request_of_slot(int dir, const struct slot *s, uint64_t number)
{
    struct status_request r = {.slot = *s, .processes = UNKNOWN, .cause = cause_name(s->cause)};
    struct cleanup_look ledger;
    char name[CLEANUP_ID_SIZE];
    int64_t now = clock_ms();
    r.slot.id[sizeof r.slot.id - 1] = '\0';
    r.slot.client[sizeof r.slot.client - 1] = '\0';
    r.slot.request[sizeof r.slot.request - 1] = '\0';
    r.age_ms = s->started < 0 || s->started > now ? 0 : (uint64_t)(now - s->started);
    cleanup_slot_name(name, (unsigned)number);
    if ((cleanup_look_ledger(dir, name, &ledger) && strcmp(ledger.id, r.slot.id) == 0) ||
        cleanup_look_ledger(dir, r.slot.id, &ledger))
        r.records = ledger.records;
    bool failed = s->outcome > OUTCOME_OK && s->undo == UNDO_NONE && r.records > 0;
    bool settling = (s->state & SLOT_SETTLING) != 0;
    r.undoing = settling || failed || r.cause != NULL;
    r.phase = r.undoing ? "undoing" : phase_of_state(s->state);
    snprintf(r.doing, sizeof r.doing, "%s%s%s", r.phase, r.cause != NULL ? ": " : "",
             r.cause != NULL ? r.cause : "");
    if (settling)
        r.slot.pid = 0; /* reaped: the number may be another's */
    return r;
}

/* All requests in the slots of the scoreboard FD. Returns false if it was cut short meanwhile. */
static bool read_slots(int fd, int dir, struct status_server *s)
{
    for (uint64_t i = 0; i < s->slot_count; i++) {
        struct slot slot;
        off_t at = (off_t)(offsetof(struct scoreboard, slots) + i * sizeof slot);
        if (pread(fd, &slot, sizeof slot, at) != (ssize_t)sizeof slot)
            return false;
        if ((slot.state & SLOT_STATE_MASK) == SLOT_FREE)
            continue;
        s->requests = reallocarray(s->requests, s->request_count + 1, sizeof *s->requests);
        if (s->requests == NULL)
            no_memory();
        s->requests[s->request_count++] = request_of_slot(dir, &slot, i);
    }
    return true;
}

/* What stands before the slots: figures, totals and where the server listens. */
static void copy_figures(struct status_server *s, const struct scoreboard *head)
{
    struct text where = TEXT(s->where);
    uint64_t *words = (uint64_t *)&s->figures, now = (uint64_t)status.now_ms;
    for (size_t i = 0; i < FIGURE_WORDS; i++)
        words[i] = head->figures[i];
    s->figures.log_lost += head->log_lost; /* told of, and not yet */
    s->figures.draining = s->figures.draining != 0;
    s->condition = s->figures.draining ? CONDITION_DRAINING : CONDITION_SERVING;
    s->uptime_ms = s->figures.started < now ? now - s->figures.started : 0;
    for (int outcome = OUTCOME_OK; outcome < OUTCOME_COUNT; outcome++)
        for (int undo = UNDO_NONE; undo < UNDO_COUNT; undo++) {
            uint64_t late = s->figures.late[outcome], n = s->figures.ended[outcome][undo];
            n = undo == UNDO_OK ? n + late : undo == UNDO_FAILED && late <= n ? n - late : n;
            s->totals[outcome][undo] = n;
            s->ended_count += n;
            if (n != 0)
                s->ended[s->ended_kinds++] = (struct status_ended){
                    outcome_name((enum outcome)outcome), undo_name((enum undo_result)undo), n};
        }
    for (size_t i = 0; i < LISTENERS_MAX; i++) {
        char *name = s->listening[s->listening_count];
        memcpy(name, head->listening[i], LISTENER_NAME_SIZE - 1);
        if (name[0] == '\0')
            continue;
        text_add(&where, s->listening_count++ > 0 ? ", " : "");
        text_add(&where, name);
    }
    text_end(&where);
}

#define BOARD_PATIENCE_MS 1000 /* with a server that should write, and does not */

/* Read what stands before the slots, when the server has had the time to write out what was so when
 * we were asked. Returns as pread(2). */
static ssize_t read_head(int fd, struct scoreboard *head)
{
    for (;; sleep_ms(5)) {
        ssize_t n = pread(fd, head, sizeof *head, 0);
        bool written = n == (ssize_t)sizeof *head && head->slot_size == sizeof(struct slot);
        int64_t patience = head->at_rest != 0 ? BOARD_EVERY_MS : BOARD_PATIENCE_MS;
        if (!written || head->written >= status.asked_at || clock_ms() - status.asked_at > patience)
            return n;
    }
}

/* The scoreboard FD of the server in DIR. Returns NULL, or why it cannot be read. */
static const char *read_board(int fd, int dir, struct status_server *s)
{
    static const char none[sizeof((struct scoreboard *)0)->magic];
    struct scoreboard head;
    struct stat now;
    if (fstat(fd, &now) < 0 || !S_ISREG(now.st_mode))
        return "its scoreboard is not a file";
    ssize_t n = read_head(fd, &head);
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
    copy_figures(s, &head);
    return read_slots(fd, dir, s) ? NULL : "its scoreboard is cut short";
}

static bool is_living(const struct status_server *s)
{
    return s->condition == CONDITION_SERVING || s->condition == CONDITION_DRAINING;
}

/* The lock's holder is the server itself, which knows itself by its number in its own pid
 * namespace, or a process that recovers a dead one. */
static void judge_holder(struct status_server *s, pid_t holder)
{
    char path[32], line[256];
    bool same = false;
    if (holder != 0 && (!is_living(s) || (uint64_t)holder == s->figures.pid))
        s->pid = (uint64_t)holder;
    if (holder == 0 || s->pid != UNKNOWN)
        return;
    snprintf(path, sizeof path, "/proc/%d/status", (int)holder);
    FILE *in = fopen(path, "re");
    while (in != NULL && fgets(line, sizeof line, in) != NULL)
        if (strncmp(line, "NSpid:", 6) == 0)
            same = strtoull(strrchr(line, '\t'), NULL, 10) == s->figures.pid;
    if (in != NULL)
        fclose(in);
    if (!same)
        s->condition = CONDITION_RECOVERING;
}

/* Leave out the ledgers of requests in flight that nobody undoes yet, and those that are gone. */
static void keep_undoing(int dir, struct status_server *s)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->undoing_count; i++) {
        struct cleanup_look now;
        bool busy = false;
        for (size_t k = 0; k < s->request_count && !busy; k++)
            busy = !s->requests[k].undoing && strcmp(s->requests[k].slot.id, s->undoing[i].id) == 0;
        if (!busy && cleanup_look_ledger(dir, s->undoing[i].name, &now))
            s->undoing[kept++] = now;
    }
    s->undoing_count = kept;
}

static bool waits_for_look(const struct cleanup_look *l)
{
    return l->records == 0 && l->looks > 0;
}

static int compare_looks(const void *a, const void *b)
{
    const struct cleanup_look *x = a, *y = b;
    bool waits = waits_for_look(x) && waits_for_look(y);
    if (waits_for_look(x) != waits_for_look(y))
        return waits_for_look(x) ? 1 : -1;
    return waits && x->due_ms != y->due_ms ? (x->due_ms > y->due_ms ? 1 : -1)
                                           : strcmp(x->id, y->id);
}

/* Tell those that only wait for a second look from what is being undone; what is due next first. */
static void part_looking(struct status_server *s)
{
    qsort(s->undoing, s->undoing_count, sizeof *s->undoing, compare_looks);
    while (s->undoing_count > 0 && waits_for_look(&s->undoing[s->undoing_count - 1])) {
        s->undoing_count--;
        s->looking_count++;
    }
    s->looking = s->undoing + s->undoing_count;
}

/* The server of TOKEN. Returns false if there is nothing to tell of. */
static bool read_server(const char *token, struct status_server *s)
{
    pid_t holder = 0;
    *s = (struct status_server){.condition = CONDITION_UNREADABLE, .pid = UNKNOWN};
    memcpy(s->token, token, CLEANUP_TOKEN_SIZE);
    int dir = openat(status.state.fd, token, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
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
    } else if (board < 0 && errno == ENOENT) {
        s->condition = CONDITION_STARTING;
    } else if (board < 0) {
        s->why = strerror(errno);
    } else {
        s->why = read_board(board, dir, s);
        if (s->why != NULL)
            s->condition = CONDITION_UNREADABLE;
        judge_holder(s, holder);
        keep_undoing(dir, s);
        part_looking(s);
    }
    /* Dead and with neither, it is just being made, or removed. */
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

/* A request's child adopts its orphans, so what is below it is its request's, and nothing else. */
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
            struct status_request *r = &s->requests[k];
            const struct cleanup_process *p = cleanup_find_process(all, count, r->slot.pid);
            r->processes = 0;
            if (p != NULL)
                requests[p - all] = r;
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
    return order != 0 ? order : strcmp(x->slot.id, y->slot.id);
}

/* What is known only when all processes have been counted. */
static void complete_server(struct status_server *s)
{
    s->condition_name = condition_names[s->condition];
    if (s->request_count == 0)
        return;
    qsort(s->requests, s->request_count, sizeof *s->requests, compare_requests);
    s->oldest_ms = s->requests[0].age_ms;
    for (size_t i = 0; i < s->request_count; i++)
        s->processes += s->requests[i].processes != UNKNOWN ? s->requests[i].processes : 0;
}

static void status_gather(void)
{
    struct timespec now;
    size_t tokens, count = 0;
    clock_gettime(CLOCK_REALTIME, &now);
    status.asked_at = clock_ms();
    status.now_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    char(*token)[CLEANUP_TOKEN_SIZE] = cleanup_look_servers(status.state.fd, &tokens);
    if (errno != 0)
        cannot("could not list the state directory %s: %s", status.state.path, strerror(errno));
    status.servers = calloc(tokens + 1, sizeof *status.servers);
    if (status.servers == NULL)
        no_memory();
    for (size_t i = 0; i < tokens; i++)
        count += read_server(token[i], &status.servers[count]);
    free(token);
    count_processes(count);
    qsort(status.servers, count, sizeof *status.servers, compare_servers);
    for (size_t i = 0; i < count; i++) {
        complete_server(&status.servers[i]);
        status.living += is_living(&status.servers[i]);
    }
    status.others = status.servers + status.living;
    status.other_count = count - status.living;
    int failed =
        openat(status.state.fd, PARKED_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
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

#endif
