/* log.h: the log, one line with one write.
 *
 *     if (log_open(to_syslog, inetd) < 0)
 *         ...                                         // errno; until then it is standard error
 *     log_event(id, "new file /tmp/txt");
 *     log_eventf(NULL, "listening on %s", name);
 *     log_request(&slot, OUTCOME_OK, UNDO_NONE, ms);  // a request's one line, at its end
 *
 * A new field of that line is added in log_request, for both forms, and told of in the README and
 * in hangupd(8); what it shows must be in the slot (scoreboard.h), or be handed in by server.c's
 * request_log_line.
 *
 * ID is the request's, or NULL. Control characters, and bytes that are no UTF-8, are escaped here,
 * so callers pass words of a client or a program as they came. What another program has said is a
 * line that begins with its stream's name (struct log_lines), so that it cannot look like one of
 * the server's. A line is one write, because several processes write to the same log and their
 * lines must not be mixed.
 *
 * Nobody waits for the log but a janitor (patience_ms): a reader that has stopped would stop the
 * server. A line that the log does not take at once is dropped and counted in `lost`, which all
 * processes of a server share; it says how many there were when the log takes lines again. So never
 * put anything here that must not be lost.
 *
 * Kind: declared here, defined in server.c: its two variables; all else is pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_LOG_H
#define HANGUPD_LOG_H

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "scoreboard.h"
#include "text.h"

/* The name under which log and complaints speak: "hangupd", or that of a command. */
extern const char *program_name;

extern struct log_sink {
    int fd;
    bool json, syslog;
    bool plain;      /* for a person who waits: lines without the time */
    bool may_block;  /* not a regular file: look for room before writing */
    int patience_ms; /* how long a janitor waits for room; 0 after it has waited once in vain */
    _Atomic uint32_t *lost; /* lines dropped because the log did not take them, not told of yet */
    bool names_undone;      /* --log-undone */
    unsigned undone;        /* things that this process has removed, and commands that it has run */
} log_sink;

#define LOG_LINE_SIZE 2048
#define LOG_PATIENCE_MS 5000
#define LOG_SYSLOG_PRIORITY "<30>" /* daemon, informational: RFC 3164 section 4.1.1 */

/* True if standard error is the client's connection, as it is under inetd: not a byte of ours may
 * go there, since the client would take it for part of the answer. */
static inline bool log_stderr_is_client(void)
{
    struct stat in, err;
    return fstat(STDIN_FILENO, &in) == 0 && fstat(STDERR_FILENO, &err) == 0 &&
           in.st_dev == err.st_dev && in.st_ino == err.st_ino;
}

/* Log to syslog if SYSLOG, or if standard error is inetd's client; else to standard error. Returns
 * -1 with errno if no socket can be had for syslog. */
static inline int log_open(bool syslog, bool inetd)
{
    struct stat now;
    if (!syslog && !(inetd && log_stderr_is_client())) {
        log_sink.fd = STDERR_FILENO;
        log_sink.may_block = fstat(log_sink.fd, &now) < 0 || !S_ISREG(now.st_mode);
        return 0;
    }
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    /* Without a syslog daemon there is no log. That is no reason not to serve. */
    if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0 && !inetd)
        fprintf(stderr, "hangupd: no syslog at /dev/log (%s): nothing will be logged\n",
                strerror(errno));
    log_sink.fd = fd;
    log_sink.syslog = true;
    return 0;
}

ASYNC_SAFE static inline void log_string(struct text *t, const char *s)
{
    text_char(t, '"');
    text_escaped(t, s, log_sink.json ? ESCAPE_JSON : ESCAPE_STRING);
    text_char(t, '"');
}

/* Begin a line: when, if nobody else notes that, and whose it is. */
ASYNC_SAFE static inline void log_begin(struct text *t, const char *id)
{
    bool bare = !log_sink.json && (log_sink.syslog || log_sink.plain);
    if (log_sink.syslog)
        text_format(t, LOG_SYSLOG_PRIORITY "hangupd[%d]: ", getpid());
    if (!bare) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        text_add(t, log_sink.json ? "{\"time\":\"" : "");
        text_time(t, now.tv_sec);
        text_format(t, ".%03luZ", (unsigned long)now.tv_nsec / 1000000);
        text_add(t, log_sink.json ? "\",\"id\":" : " ");
    }
    if (!log_sink.json) /* a slot's id is what a child has left there */
        text_escaped(t, id != NULL ? id : log_sink.plain ? program_name : "-", ESCAPE_LINE);
    else if (id != NULL)
        log_string(t, id);
    else
        text_add(t, "null");
}

/* Returns true if the log takes a line now, as far as can be told. */
static inline bool log_has_room(void)
{
    struct pollfd p = {.fd = log_sink.fd, .events = POLLOUT};
    return !log_sink.may_block || poll(&p, 1, 0) > 0;
}

/* Write the line if the log takes it now. errno is as before: callers log between a failed call and
 * their look at its errno. */
ASYNC_SAFE static inline void log_end(struct text *t)
{
    int saved = errno;
    struct pollfd p = {.fd = log_sink.fd, .events = POLLOUT};
    ssize_t n = -1;
    if (log_sink.syslog) {
        n = send(log_sink.fd, t->at, t->length, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        if (t->length == t->room - 1)
            t->length--;
        text_char(t, '\n');
        if (!log_sink.may_block || poll(&p, 1, log_sink.patience_ms) > 0)
            n = write(log_sink.fd, t->at, t->length);
        else
            log_sink.patience_ms = 0;
    }
    if (n < 0)
        atomic_fetch_add(log_sink.lost, 1);
    errno = saved;
}

/* One line of what STREAM has said: a program, or the server itself if that is NULL. */
ASYNC_SAFE static inline void log_said(const char *id, const char *stream, const char *what)
{
    char buffer[LOG_LINE_SIZE];
    struct text t = TEXT(buffer);
    t.room -= 2; /* for what closes the line, also of one that is cut */
    log_begin(&t, id);
    if (stream != NULL && log_sink.json)
        text_format(&t, ",\"stream\":\"%s\"", stream);
    text_add(&t, log_sink.json ? ",\"event\":\"" : log_sink.plain ? ": " : " ");
    if (stream != NULL && !log_sink.json)
        text_format(&t, "%s: ", stream);
    text_escaped(&t, what, log_sink.json ? ESCAPE_JSON : ESCAPE_LINE);
    t.room += 2;
    text_add(&t, log_sink.json ? "\"}" : "");
    log_end(&t);
}

ASYNC_SAFE static inline void log_event(const char *id, const char *what)
{
    log_said(id, NULL, what);
}

__attribute__((format(printf, 2, 3))) static inline void log_eventf(const char *id,
                                                                    const char *format, ...)
{
    char line[LOG_LINE_SIZE]; /* longer ones are cut */
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    log_event(id, line);
}

/* A cleanup_undone_fn (ledger.h): count what is undone, and name it if that is wanted. */
ASYNC_SAFE static inline void log_undone(const char *id, const char *done, const char *name)
{
    char buffer[LOG_LINE_SIZE];
    struct text t = TEXT(buffer);
    log_sink.undone++;
    if (log_sink.names_undone)
        log_event(id, text_format(&t, "undone: %s %s", done, name));
}

/* What has happened to a request, which the line names: whose it is and what was asked. UNDONE is
 * how many things were undone; -1: nothing is said of that. */
ASYNC_SAFE static inline void log_about(const char *id, const char *client, const char *request,
                                        const char *event, int undone)
{
    char buffer[LOG_LINE_SIZE];
    struct text t = TEXT(buffer);
    client = client[0] != '\0' ? client : "-";
    request = request[0] != '\0' ? request : "-";
    log_begin(&t, id);
    if (log_sink.json) {
        text_add(&t, ",\"client\":");
        log_string(&t, client);
        text_add(&t, ",\"request\":");
        log_string(&t, request);
        text_format(&t, ",\"event\":\"%s\"", event);
    } else {
        text_format(&t, "%s%s: ", log_sink.plain ? ": " : " ", event);
        text_escaped(&t, client, ESCAPE_LINE);
        text_char(&t, ' ');
        log_string(&t, request);
    }
    if (undone >= 0)
        text_format(&t, log_sink.json ? ",\"undone\":%d" : " undone=%d", undone);
    text_add(&t, log_sink.json ? "}" : "");
    log_end(&t);
}

/* A process's output, which becomes lines of the log. Its length is 0 at first. */
struct log_lines {
    const char *stream; /* "stderr" of a request's program, "undo" of an undo command */
    size_t length;
    char text[1024]; /* the line whose end has not come; a longer one is cut in two */
};

/* Log what is left as a line: no more will come. */
ASYNC_SAFE static inline void log_lines_end(struct log_lines *lines, const char *id)
{
    if (lines->length > 0) {
        lines->text[lines->length] = '\0';
        log_said(id, lines->stream, lines->text);
    }
    lines->length = 0;
}

/* Read once from FD and log the lines that are whole. Returns what read(2) does. */
ASYNC_SAFE static inline ssize_t log_lines_read(struct log_lines *lines, const char *id, int fd)
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
            log_said(id, lines->stream, text + from);
            from = at + 1;
        }
    lines->length = length - from;
    memmove(text, text + from, lines->length);
    if (lines->length == sizeof lines->text - 1)
        log_lines_end(lines, id);
    return n;
}

/* The request's one line. S is the parent's copy of the slot, which a child cannot change while it
 * is printed. */
static inline void log_request(const struct slot *s, enum outcome outcome, enum undo_result undo,
                               long long ms)
{
    char buffer[LOG_LINE_SIZE], status[8];
    struct text t = TEXT(buffer), number = TEXT(status);
    unsigned long long bytes = s->bytes;
    if (s->status != 0)
        text_number(&number, s->status, 3);
    else
        text_add(&number, log_sink.json ? "null" : "-");
    text_end(&number);
    const char *line = s->request[0] != '\0' ? s->request : "-";
    log_begin(&t, s->id);
    if (log_sink.json) {
        text_add(&t, ",\"client\":");
        log_string(&t, s->client);
        text_add(&t, ",\"request\":");
        log_string(&t, line);
        text_format(&t,
                    ",\"status\":%s,\"bytes\":%llu,\"ms\":%lld,\"outcome\":\"%s\",\"undo\":\"%s\"",
                    status, bytes, ms, outcome_name(outcome), undo_name(undo));
    } else {
        text_char(&t, ' ');
        text_escaped(&t, s->client, ESCAPE_LINE);
        text_char(&t, ' ');
        log_string(&t, line);
        text_format(&t, " %s %llu %lldms %s undo=%s", status, bytes, ms, outcome_name(outcome),
                    undo_name(undo));
    }
    if (undo != UNDO_NONE)
        text_format(&t, log_sink.json ? ",\"undone\":%u" : " undone=%u", (unsigned)s->undone);
    if (s->reason[0] != '\0') {
        text_add(&t, log_sink.json ? ",\"reason\":" : " reason=");
        log_string(&t, s->reason);
    }
    text_add(&t, log_sink.json ? "}" : "");
    log_end(&t);
}

#endif
