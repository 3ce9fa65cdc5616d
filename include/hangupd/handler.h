/* handler.h: a request and its answer, as a route's handler sees them.
 *
 * A handler is a C function that is called in a process of its own, for one request:
 *
 *     static int report(struct request *rq)
 *     {
 *         int fd = cleanup_create("/srv/reports/q3.csv", 0, 0644);
 *         if (fd < 0)
 *             return respond_errno(rq, "create the report");
 *         ... minutes of work ...
 *         return respond_text(rq, 200, "done\n");
 *     }
 *
 * It may block, sleep, and take its time. When the caller hangs up, the time limit is reached or
 * the server is told to stop, the process is ended in a signal handler and everything that was
 * made through cleanup.h is undone; the handler does not return then.
 *
 * It returns 0 when it has answered. Any other value, an answer of status 400 or above, or no
 * answer at all undoes what was made; without an answer the client gets 500.
 *
 * The process: signals are as the server was started with them, and SIGPIPE has a handler that does
 * nothing, so that a write fails with EPIPE. What the handler executes, by popen(3), system(3) or
 * exec, has default dispositions, nothing blocked, and the limit of descriptors that the server was
 * started with. SIGTERM is the library's.
 * Standard error is the server's; with --log json each line of it becomes one of the log, without
 * an id: request_log writes lines that have it.
 * When the handler returns, what it left in buffers of stdio is written; if that fails (but for
 * standard output) the request fails. Functions of atexit(3) and destructors are not called. If it
 * calls exit(3), or a signal ends it, that is a crash: undone, and the log says what ended it.
 *
 * Threads: request_log and the functions of cleanup.h may be called by all of them at once, the
 * others by one at a time. Threads that the handler has left can record nothing once it has
 * returned. If it has failed then, the undo comes when the process has ended, which may be after
 * the answer.
 *
 * Descriptors: those that the handler did not open are the library's, from 0 to 2 apart: the
 * connection, the ledger, the body. If its connection is closed, or another file put over it
 * (closefrom(3), dup2(2)), the request fails, and nothing is written to that file.
 *
 * Forks: a process that the handler forked may ask (request_...) and log; it can neither answer nor
 * record: respond_... and cleanup_... fail with EPERM. It should end by _exit(2) or exec. If it
 * returns from the handler, it is ended there. None of them outlives the request.
 *
 * Ownership: strings returned belong to the request and live as long as it does.
 * Errors: functions that return int return 0, or -1 with errno set.
 * Signal safety: none of these may be called in a signal handler.
 */
#ifndef HANGUPD_HANDLER_H
#define HANGUPD_HANDLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleanup.h"

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

struct request; /* the server's */

/* A handler. Returns 0 if it has answered and what it made may stay. */
typedef int handler_fn(struct request *rq);

/* What a FIN from the client means while the work runs: the client may have closed, or only
 * half-closed and be waiting for its answer. */
enum half_close {
    HALF_CLOSE_DEFAULT, /* as --half-close says */
    HALF_CLOSE_PROBE,   /* ask, with an interim 100 (Continue): a closed client's kernel resets */
    HALF_CLOSE_HANGUP,  /* it has hung up */
    HALF_CLOSE_IGNORE   /* it is waiting; only a reset is a hangup */
};

/* What a hangup does. */
enum on_hangup {
    ON_HANGUP_DEFAULT, /* as --on-hangup says */
    ON_HANGUP_UNDO,    /* end the work and undo it */
    ON_HANGUP_FINISH   /* nothing: the work goes on to its end and is kept */
};

/* Who answers the method OPTIONS of a program's route. */
enum options_by {
    OPTIONS_DEFAULT, /* as --options says */
    OPTIONS_PROGRAM, /* the program, as all others: it may be a preflight, or WebDAV */
    OPTIONS_SERVER
};

/* Where a program makes its temporary files. */
enum tmpdir {
    TMPDIR_DEFAULT, /* as --tmpdir says */
    TMPDIR_OWN,     /* in a directory of its request's own, which is removed at the end */
    TMPDIR_LEAVE    /* where the server does, so that they outlive the request: sessions, caches */
};

/* Limits of a program's processes, setrlimit(2). 0: as the option of this name says. */
struct route_limits {
    int64_t cpu_ms;            /* of processor time */
    int64_t memory, file_size; /* bytes */
    int64_t processes;         /* at once, all of the user's counted */
};

/* A path and what serves it: a C function or a program. Members left 0 have the default named. The
 * strings are the caller's, and stay. */
struct route {
    const char *path;    /* "/report"; one that ends in '/' stands for all below it */
    handler_fn *handler; /* the C function */
    const char *program; /* else the absolute path of a program, run by CGI/1.1 (RFC 3875); or, for
                          * a path that ends in '/', of a directory of programs */
    const char *name;    /* what @NAME on the command line calls it; NULL: cannot be named */
    const char *methods; /* of any name, separated by spaces; NULL: "GET", for a program any but
                          * CONNECT and TRACE. HEAD is answered without the work being done unless
                          * it is listed; OPTIONS is always answered. A C handler gets a body only
                          * if POST, PUT, PATCH or a method beyond the standard's is listed. */
    int64_t timeout_ms;  /* milliseconds for the whole request; 0: as --timeout says */
    int64_t max;         /* requests of this route at once; 0: no limit */
    const char **env;    /* "NAME=VALUE", what a program gets beside what --pass-env names, and a
                          * NULL; NULL: nothing */
    enum on_hangup on_hangup;
    enum half_close half_close;
    enum options_by options;
    enum tmpdir use_tmpdir;
    struct route_limits limits;
};

/* ---- The request ---------------------------------------------------------------------
 *
 * RQ is the handler's argument. None of these waits. */

/* Returns the request's id, [0-9a-f-], which no other request of any server has. Each line of the
 * log has it, and a program gets it as REQUEST_ID. */
const char *request_id(const struct request *rq);

/* Returns the method as sent, "GET": case counts (RFC 9110 section 9.1). */
const char *request_method(const struct request *rq);

/* Returns the path: percent-decoded, "." and ".." resolved, starting with '/', without a NUL
 * (RFC 3986 section 6.2.2). It can hold any other byte. */
const char *request_path(const struct request *rq);

/* Returns what follows the route's path, if that ends in '/', else "". */
const char *request_path_info(const struct request *rq);

/* Returns the query as sent, without the '?', or "" if there is none (RFC 3986 section 3.4). A
 * query with a NUL (%00) has been answered with 400. */
const char *request_query(const struct request *rq);

/* Returns the value of NAME in the query, percent-decoded, '+' as a space: of the first, if there
 * are several, and "" for a name without a value. Returns NULL if NAME is not there, or out of
 * memory. */
const char *request_parameter(struct request *rq, const char *name);

/* Returns the value of the header field NAME (in any case), without surrounding white space; the
 * values of several are joined by ", " (RFC 9110 section 5.3), of Cookie by "; ". Returns NULL if
 * there is none, or out of memory. For one thread at a time, as request_parameter and all that
 * answers. */
const char *request_header(struct request *rq, const char *name);

/* Returns a descriptor on the whole body, at its start, which may be read, mapped and sought, or -1
 * if there is no body. The request owns it: do not close it. */
int request_body(const struct request *rq);

/* Returns the body's length in bytes, after any chunked coding has been taken off. */
uint64_t request_body_length(const struct request *rq);

/* Returns the client's address, "192.0.2.7:5180" or "[2001:db8::7]:5180", or "unix". */
const char *request_client(const struct request *rq);

/* Put one line, as printf makes it of FORMAT, into the server's log, with the request's id. What is
 * in it is escaped, and cut at 2 KiB; a line that the log cannot take at once is dropped. */
void request_log(const struct request *rq, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- The answer ----------------------------------------------------------------------
 *
 * Once: fields, then one of respond, respond_text, respond_errno and respond_begin. All strings and
 * bytes are copied. */

/* Add a header field, before the answer is begun. Content-Length, Transfer-Encoding, Connection and
 * Date are the server's; Content-Type replaces the TYPE of respond and the like, and one that was
 * added before. Errors: EINVAL (not a field, RFC 9110 section 5, NULL, or the server's), EALREADY
 * (the answer is begun), E2BIG (over 16 KiB of fields, or 255 bytes of Content-Type), EPERM (in a
 * process that was forked), ENOMEM. */
int respond_header(struct request *rq, const char *name, const char *value);

/* Give the whole answer at once: STATUS from 200 to 599, TYPE for Content-Type, or NULL, and LENGTH
 * bytes of BODY. It is sent when the handler has returned; with 204, 205 and 304 no body is.
 * Errors: EINVAL (STATUS, TYPE, or a BODY that is NULL), EALREADY, ENOMEM, EPERM. */
int respond(struct request *rq, int status, const char *type, const void *body, size_t length);

/* The same, with what printf makes of FORMAT as text/plain. */
int respond_text(struct request *rq, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a failure: the client is told "could not DOING", the log also the path if it was
 * cleanup_create or cleanup_mkdir that failed last, and errno's text if errno is not 0; and the
 * status fits that: 409 (EEXIST), 507 (ENOSPC, EDQUOT), else 500. If there is an answer already it
 * stays. Always returns -1, for the handler to return, with errno as it was. */
int respond_errno(struct request *rq, const char *doing);

/* Begin a streamed answer, of any number of writes. LENGTH is the body's length in bytes, or -1 if
 * it is not known (then it is chunked; for HTTP/1.0 the end of the connection ends it). Errors: as
 * respond. */
int respond_begin(struct request *rq, int status, const char *type, int64_t length);

/* Write LENGTH bytes of the body. This waits while the client has no room for it. The last byte of
 * a body whose length is known is held back until the handler has returned 0, as is the last chunk,
 * so that a cut answer is seen to be cut; or all of it, if it is whole in the first write and at
 * most 4096 bytes: then a failure is still answered. Errors: EINVAL (not begun, or given at once),
 * EMSGSIZE (more than the length), ENOMEM, EPERM; EPIPE, ECONNRESET, ETIMEDOUT (the client is gone
 * or does not read: give up). */
int respond_write(struct request *rq, const void *data, size_t length);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
