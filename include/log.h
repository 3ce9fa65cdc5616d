/* log.h: the log, one line with one write.
 *
 *     log_event(id, "new file /tmp/txt");
 *     log_eventf(NULL, "listening on %s", name);
 *
 * ID is the request's, or NULL. What a client or a program sent is escaped. A line that the log
 * cannot take at once is dropped and counted, and never waited for, but by a janitor.
 *
 * Kind: declared here; its one variable is defined in server.c.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_LOG_H
#define HANGUPD_LOG_H

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#include "scoreboard.h"
#include "text.h"

extern const char *called; /* what is being run: the server, or one of the commands */

extern struct journal {
    int fd;
    bool json, syslog;
    bool plain;      /* for a person who waits: no time */
    bool may_block;  /* not a regular file: look before writing */
    int patience_ms; /* a janitor's, which may wait; until once in vain */
    unsigned lost;   /* lines dropped because the log did not take them */
} journal;

#define LOG_LINE_SIZE 2048
#define LOG_PATIENCE_MS 5000
#define LOG_SYSLOG_PRIORITY "<30>" /* daemon, informational: RFC 3164 section 4.1.1 */

ASYNC_SAFE static inline void log_string(struct text *t, const char *s)
{
    text_char(t, '"');
    text_escaped(t, s, journal.json ? ESCAPE_JSON : ESCAPE_STRING);
    text_char(t, '"');
}

ASYNC_SAFE static inline void log_time(struct text *t)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    text_time(t, now.tv_sec);
    text_char(t, '.');
    text_number(t, (unsigned long)now.tv_nsec / 1000000, 3);
    text_char(t, 'Z');
}

ASYNC_SAFE static inline void log_begin(struct text *t)
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

ASYNC_SAFE static inline void log_id(struct text *t, const char *id)
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
ASYNC_SAFE static inline void log_end(struct text *t)
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

ASYNC_SAFE static inline void log_event(const char *id, const char *what)
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

__attribute__((format(printf, 2, 3))) static inline void log_eventf(const char *id,
                                                                    const char *format, ...)
{
    char line[LOG_LINE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    log_event(id, line);
}

/* What a process prints, a log line a line. Zeroed at first. */
struct log_lines {
    size_t length;
    char text[1024]; /* of a line whose end has not come; a longer one is cut in two */
};
/* Read once from FD and log what is whole: as read(2) returns. */
ASYNC_SAFE static inline ssize_t log_lines_read(struct log_lines *lines, const char *id, int fd);
/* There will be no more. */
ASYNC_SAFE static inline void log_lines_end(struct log_lines *lines, const char *id);

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
            log_event(id, text + from);
            from = at + 1;
        }
    lines->length = length - from;
    memmove(text, text + from, lines->length);
    if (lines->length == sizeof lines->text - 1)
        log_lines_end(lines, id);
    return n;
}

ASYNC_SAFE static inline void log_lines_end(struct log_lines *lines, const char *id)
{
    if (lines->length > 0) {
        lines->text[lines->length] = '\0';
        log_event(id, lines->text);
    }
    lines->length = 0;
}

/* The request's one line. SLOT is the parent's copy: a child cannot change it any more. */
static inline void log_request(const struct slot *s, enum outcome outcome, enum undo_result undo,
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
    text_add(&t, outcome_name(outcome));
    text_add(&t, journal.json ? "\",\"undo\":\"" : " undo=");
    text_add(&t, undo_name(undo));
    if (journal.json)
        text_add(&t, "\"}");
    log_end(&t);
}

#endif
