/* status_show.h: `hangupd status`: showing it, as tables, JSON, metrics or a page.
 *
 *     exit(command_status(argc, argv));
 *
 * Each format is a function that writes `status` (status_look.h) to a stream, by the same tables of
 * fields, so that a figure has one name and one meaning in all of them. A client or a program has
 * chosen part of what is shown: put() and put_escaped() escape it as the format wants it. All is
 * made in memory and written at the end, so that a reader never gets half of it with exit status 0.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_STATUS_SHOW_H
#define HANGUPD_STATUS_SHOW_H

#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "run_command.h"
#include "status_look.h"

/* ---- hangupd status: words ----------------------------------------------------------- */

#define WORDS_SIZE (COMMAND_SIZE + 256) /* of a line with such a command in it */

static void put_escaped(FILE *out, const char *s)
{
    static const enum escape escapes[] = {ESCAPE_LINE, ESCAPE_JSON, ESCAPE_METRIC, ESCAPE_HTML};
    while (*s != '\0') {
        char c[32];
        struct text t = TEXT(c);
        s += text_escaped_char(&t, s, escapes[view.format]);
        fputs(text_end(&t), out);
    }
}

/* As fprintf(), escaped. */
__attribute__((format(printf, 2, 3))) static void put(FILE *out, const char *format, ...)
{
    char words[WORDS_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    put_escaped(out, words);
}

/* A number as machines read it: times in seconds. */
static void put_number(FILE *out, enum field_kind kind, uint64_t n)
{
    if (n == UNKNOWN)
        fputs("null", out);
    else if (kind == FIELD_COUNT)
        fprintf(out, "%llu", (unsigned long long)n);
    else
        fprintf(out, "%llu.%03llu", (unsigned long long)n / 1000, (unsigned long long)n % 1000);
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
    for (int outcome = OUTCOME_OK; outcome < OUTCOME_COUNT; outcome++) {
        const uint64_t *ended = s->totals[outcome];
        unsigned long long done = ended[UNDO_OK], failed = ended[UNDO_FAILED];
        if (ended[UNDO_NONE] + done + failed == 0)
            continue;
        fprintf(out, "%s%llu %s", comma, ended[UNDO_NONE] + done + failed,
                outcome_name((enum outcome)outcome));
        comma = ", ";
        if (done > 0)
            fprintf(out, " (%llu undone", done);
        if (failed > 0)
            fprintf(out, "%s%llu not undone", done > 0 ? ", " : " (", failed);
        fputs(done + failed > 0 ? ")" : "", out);
    }
    if (s->figures.later > 0)
        fprintf(out, "; %llu cannot be undone yet", (unsigned long long)s->figures.later);
    if (s->looking_count > 0)
        fprintf(out, "; %zu second look%s to come, the next in %s", s->looking_count,
                plural(s->looking_count), age_words(s->looking[0].due_ms - status.now_ms));
}

/* In one line, a server that cannot be asked. */
static void put_other_server(FILE *out, const struct status_server *s)
{
    bool dead = s->condition == CONDITION_DEAD;
    if (s->condition == CONDITION_STARTING)
        put(out, "server %s is starting", s->token);
    else if (s->condition == CONDITION_UNREADABLE)
        put(out, "server %s: %s", s->token, s->why);
    else
        put(out, "dead server %s, %zu ledger%s%s%s", s->token, s->undoing_count,
            plural(s->undoing_count), dead ? "; to settle: " : ", being settled now",
            dead ? recover_words(status.state.path, NULL) : "");
}

/* ---- hangupd status: tables ---------------------------------------------------------- */

static bool is_number(const struct field *f)
{
    return f->kind == FIELD_COUNT || f->kind == FIELD_AGE || f->kind == FIELD_MOMENT ||
           f->kind == FIELD_DUE;
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
    case FIELD_DUE:
        return age_words((int64_t)n - status.now_ms);
    case FIELD_COUNT:
        snprintf(number, sizeof number, "%llu", (unsigned long long)n);
        return n == UNKNOWN ? "-" : number;
    case FIELD_ID:
        return view.columns > 0 && view.columns < 100 && strlen(words) > CLEANUP_TOKEN_SIZE
                   ? words + CLEANUP_TOKEN_SIZE - 1
                   : words;
    default:
        return *words != '\0' ? words : "-";
    }
}

/* Returns how many bytes at S have COLUMNS characters, or all of them if they are fewer. */
static size_t bytes_of(const char *s, size_t columns)
{
    size_t n = 0;
    while (s[n] != '\0' && ((s[n] & 0xc0) == 0x80 || columns-- > 0))
        n++;
    return n;
}

/* Returns how many characters are in S, which is UTF-8. */
static size_t columns_of(const char *s)
{
    size_t n = 0;
    for (; *s != '\0'; s++)
        n += (*s & 0xc0) != 0x80;
    return n;
}

#define CELL_SIZE (4 * SLOT_REQUEST_SIZE + 64)
#define COLUMNS_MAX 10

/* What ROW has in F's column, as it is printed; the column's head if ROW is NULL. */
static const char *line_words(const struct field *f, const void *row, char visible[CELL_SIZE])
{
    struct text v = {.at = visible, .room = CELL_SIZE};
    text_escaped(&v, row != NULL ? cell_words(f, row) : f->brief, ESCAPE_LINE);
    return text_end(&v);
}

static void text_line(FILE *out, const struct field *fields, const void *row, const size_t *widths)
{
    char words[(CELL_SIZE + 2) * COLUMNS_MAX], visible[CELL_SIZE];
    struct text l = TEXT(words);
    size_t blanks = 0;
    for (const struct field *f = fields; f->kind != FIELD_END; f++, widths++) {
        if (f->brief == NULL)
            continue;
        const char *cell = line_words(f, row, visible);
        size_t fill = *widths - columns_of(cell);
        for (blanks += is_number(f) ? fill : 0; blanks > 0; blanks--)
            text_char(&l, ' ');
        text_add(&l, cell);
        blanks = 2 + (is_number(f) ? 0 : fill);
    }
    if (view.columns > 3 && columns_of(text_end(&l)) > view.columns) {
        l.length = bytes_of(text_end(&l), view.columns - 3);
        text_add(&l, "...");
    }
    fprintf(out, "%s\n", text_end(&l));
}

static void text_table(FILE *out, const struct field *table, const void *of)
{
    size_t widths[COLUMNS_MAX] = {0}, count = row_count(table, of);
    char visible[CELL_SIZE];
    for (size_t i = 0; table->fields[i].kind != FIELD_END; i++)
        for (size_t line = 0; table->fields[i].brief != NULL && line <= count; line++) {
            const void *row = line > 0 ? row_at(table, of, line - 1) : NULL;
            size_t width = columns_of(line_words(&table->fields[i], row, visible));
            widths[i] = width > widths[i] ? width : widths[i];
        }
    fputs(table->brief, out);
    for (size_t line = 0; line <= count; line++)
        text_line(out, table->fields, line > 0 ? row_at(table, of, line - 1) : NULL, widths);
}

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
        put_escaped(out, cell_words(f, row));
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

/* The tables of what FIELDS describe that are not empty, for people. */
static void put_tables(FILE *out, const struct field *fields, const void *of)
{
    for (const struct field *f = fields; f->kind != FIELD_END; f++)
        if (f->kind == FIELD_ROWS && f->full != NULL && row_count(f, of) > 0)
            (view.format == FORMAT_HTML ? page_table : text_table)(out, f, of);
}

/* ---- hangupd status: text, for terminals --------------------------------------------- */

static void text_server(FILE *out, const struct status_server *s)
{
    put(out, "hangupd on %s",
        s->where[0] != '\0' ? s->where : "a connection that was handed to it");
    if (s->pid != UNKNOWN)
        fprintf(out, ", pid %llu", (unsigned long long)s->pid);
    fprintf(out, ", up %s%s\n", age_words((int64_t)s->uptime_ms),
            s->condition == CONDITION_DRAINING ? ", draining" : "");
    put_figures(out, s, "", "");
    fprintf(out, "; ids %s-N\n", s->token);
    put_totals(out, s);
    putc('\n', out);
    if (s->figures.log_lost > 0)
        fprintf(out, "%llu lines lost, which the log did not take in time\n",
                (unsigned long long)s->figures.log_lost);
    put_tables(out, server_fields, s);
    putc('\n', out);
}

static void status_text(FILE *out)
{
    if (status.living == 0) {
        put(out, "No server is running with the state directory %s.", status.state.path);
        fputs("\n\n", out);
    }
    for (size_t i = 0; i < status.living; i++)
        text_server(out, &status.servers[i]);
    for (size_t i = 0; i < status.other_count; i++) {
        put_other_server(out, &status.others[i]);
        putc('\n', out);
    }
    if (status.parked_count > 0) {
        put(out, "Undo failed for good; to try again: %s [ID...]",
            recover_words(status.state.path, NULL));
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
    put_escaped(out, s);
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
    if (f->kind == FIELD_ROWS || f->kind == FIELD_ARRAY)
        json_list(out, f, row);
    else if (f->kind == FIELD_COUNT || f->kind == FIELD_AGE)
        put_number(out, f->kind, field_number(f, row));
    else if (f->kind == FIELD_MOMENT || f->kind == FIELD_DUE)
        json_string(out, moment_words((int64_t)field_number(f, row)));
    else if (f->kind == FIELD_RETRY)
        json_string(out, recover_words(status.state.path, field_words(f, row)));
    else
        json_string(out, field_words(f, row));
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

/* A server's series have the label `listen`, where it listens, because a restart does not change
 * that. While one server drains another may listen at the same address: then the first of them is
 * told of, with counts added up, and of times the larger. */
static bool is_first_of_address(const struct status_server *s)
{
    const struct status_server *first = status.servers;
    while (strcmp(first->where, s->where) != 0)
        first++;
    return first == s;
}

static void metric_head(FILE *out, const char *name, const char *words)
{
    bool counts = strcmp(name + strlen(name) - strlen("_total"), "_total") == 0;
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, words, name, counts ? "counter" : "gauge");
}

static void metric_whole(FILE *out, const char *name, const char *words, size_t value)
{
    metric_head(out, name, words);
    fprintf(out, "%s %zu\n", name, value);
}

static void metric_series(FILE *out, const struct field *f, const struct status_server *first,
                          const char *labels)
{
    uint64_t value = 0;
    for (const struct status_server *s = first; s < status.others; s++) {
        uint64_t n = strcmp(s->where, first->where) == 0 ? field_number(f, s) : 0;
        value = f->kind == FIELD_COUNT ? value + n : n > value ? n : value;
    }
    fprintf(out, "%s{listen=\"", f->metric);
    put_escaped(out, first->where);
    fprintf(out, "\"%s} ", labels);
    put_number(out, f->kind, value);
    putc('\n', out);
}

static void metric_ended(FILE *out, const struct status_server *first)
{
    for (int outcome = OUTCOME_OK; outcome < OUTCOME_COUNT; outcome++)
        for (int undo = UNDO_NONE; undo < UNDO_COUNT; undo++) {
            char labels[64];
            const struct field f = {FIELD_COUNT, SERVER(figures.ended[outcome][undo]),
                                    .metric = "hangupd_requests_total"};
            snprintf(labels, sizeof labels, ",outcome=\"%s\",undo=\"%s\"",
                     outcome_name((enum outcome)outcome), undo_name((enum undo_result)undo));
            metric_series(out, &f, first, labels);
        }
}

static void status_prometheus(FILE *out)
{
    size_t left = 0;
    for (size_t i = 0; i < status.other_count; i++)
        left += status.others[i].undoing_count;
    metric_whole(out, "hangupd_servers", "Servers that run with this state directory.",
                 status.living);
    for (const struct field *f = server_fields; f->kind != FIELD_END; f++) {
        if (f->metric != NULL)
            metric_head(out, f->metric, f->help);
        for (size_t i = 0; f->metric != NULL && i < status.living; i++)
            if (is_first_of_address(&status.servers[i]))
                metric_series(out, f, &status.servers[i], "");
    }
    metric_head(out, "hangupd_requests_total",
                "Requests that have ended, by outcome and by what was logged of their undo.");
    for (size_t i = 0; i < status.living; i++)
        if (is_first_of_address(&status.servers[i]))
            metric_ended(out, &status.servers[i]);
    metric_whole(out, "hangupd_undo_parked", "Requests whose undo has failed for good.",
                 status.parked_count);
    metric_whole(out, "hangupd_undo_left_by_dead",
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

static void page_server(FILE *out, const struct status_server *s)
{
    fputs("<section>\n<h2>", out);
    put(out, "Server on %s", s->where[0] != '\0' ? s->where : "a connection that was handed over");
    fputs("</h2>\n<p class=\"soft\">", out);
    if (s->pid != UNKNOWN)
        fprintf(out, "pid %llu, ", (unsigned long long)s->pid);
    fprintf(out, "up %s%s</p>\n<p>", age_words((int64_t)s->uptime_ms),
            s->condition == CONDITION_DRAINING ? ", <strong class=\"bad\">draining</strong>" : "");
    put_figures(out, s, "<strong>", "</strong>");
    fputs("</p>\n<p>", out);
    put_totals(out, s);
    fputs("</p>\n", out);
    put_tables(out, server_fields, s);
    fputs("</section>\n", out);
}

static void status_page(FILE *out)
{
    int64_t every_ms = view.every_ms > 0 ? view.every_ms : INT64_C(1000) * PAGE_S;
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
    put_escaped(out, status.state.path);
    fputs("</code></p>\n", out);
    if (status.living == 0)
        fputs("<p>No server is running with this state directory.</p>\n", out);
    for (size_t i = 0; i < status.living; i++)
        page_server(out, &status.servers[i]);
    for (size_t i = 0; i < status.other_count; i++) {
        fputs("<p class=\"bad\">", out);
        put_other_server(out, &status.others[i]);
        fputs("</p>\n", out);
    }
    if (status.parked_count > 0) {
        fputs("<section>\n<h2 class=\"bad\">Parked</h2>\n<p>To try again: <code>", out);
        put(out, "%s [ID...]", recover_words(status.state.path, NULL));
        fputs("</code></p>\n", out);
        put_tables(out, status_fields, &status);
        fputs("</section>\n", out);
    }
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

/* A program of a request is told its server's state directory, so that a status page needs no
 * option. A user who sets HANGUPD_STATE by hand means it, too. */
static void open_status(void)
{
    const char *told = getenv("HANGUPD_STATE");
    bool is_told = settings.state == NULL && told != NULL && *told != '\0';
    status.state.path = is_told ? told : state_path();
    status.state.fd = open(status.state.path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (status.state.fd < 0)
        cannot("could not open the state directory %s: %s; %s", status.state.path, strerror(errno),
               errno == EACCES ? "ask as its owner or as root"
                               : "--state DIR names the one that the server was started with");
}

static void status_write(const char *words, size_t length)
{
    if (write_all(STDOUT_FILENO, words, length) < 0)
        cannot("could not write the status: %s", strerror(errno));
}

/* WORDS over what the terminal shows, as much as it holds; in one write, so as not to flicker. */
static void show_in_place(const char *words)
{
    size_t rows = view.rows > 1 ? view.rows - 1 : SIZE_MAX;
    size_t room = 4 * strlen(words) + 64; /* an empty line becomes four bytes */
    struct text frame = {.at = malloc(room), .room = room};
    if (frame.at == NULL)
        no_memory();
    text_add(&frame, "\033[H");
    while (*words != '\0' && rows-- > 0) {
        size_t n = strcspn(words, "\n"),
               shown = view.columns > 0 ? bytes_of(words, view.columns) : n;
        if (rows == 0 && words[n] != '\0' && words[n + 1] != '\0')
            text_add(&frame, "...");
        else
            text_bytes(&frame, words, n < shown ? n : shown);
        text_add(&frame, "\033[K\n");
        words += n + (words[n] != '\0');
    }
    text_add(&frame, "\033[J");
    status_write(frame.at, frame.length);
    free(frame.at);
}

static void status_show(void)
{
    struct winsize screen = {0}; /* it may change while it is watched */
    bool terminal = isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &screen) == 0;
    char *words = NULL;
    size_t length;
    FILE *out = open_memstream(&words, &length);
    if (out == NULL)
        no_memory();
    view.columns = screen.ws_col;
    view.rows = screen.ws_row;
    status_gather();
    status_formats[view.format].put(out);
    status_forget();
    if (fclose(out) != 0)
        no_memory();
    if (terminal && view.every_ms >= 0)
        show_in_place(words);
    else
        status_write(words, length);
    free(words);
}

/* Show it again and again until a signal comes. Signals are blocked and waited for in the pauses,
 * so that what is shown last is whole. */
static void watch_status(void)
{
    int64_t every = view.every_ms > 0 ? view.every_ms : INT64_C(1000) * WATCH_S;
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
        status_show();
    while (sigtimedwait(&ending, NULL, &pause) < 0);
    if (isatty(STDOUT_FILENO))
        status_write("\n", 1);
}

static int command_status(int argc, char **argv)
{
    parse_status_options(argc, argv);
    open_status();
    if (getenv("GATEWAY_INTERFACE") != NULL) { /* what a CGI program says first */
        char head[128];
        snprintf(head, sizeof head, "Content-Type: %s\nCache-Control: no-store\n\n",
                 status_formats[view.format].type);
        status_write(head, strlen(head));
    }
    if (view.every_ms >= 0 && view.format != FORMAT_HTML)
        watch_status();
    else
        status_show();
    close(status.state.fd);
    return 0;
}

#endif
