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

#ifdef __cplusplus
extern "C" {
#endif

struct request;
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

/* A path and what serves it: a C function or a program. Members left 0 have the default named. */
struct route {
    const char *path;    /* "/report"; one that ends in '/' stands for all below it */
    handler_fn *handler; /* the C function */
    const char *program; /* else the absolute path of a program, run by CGI/1.1 (RFC 3875); or, for
                          * a path that ends in '/', of a directory of programs */
    const char *name;    /* what @NAME on the command line calls it; NULL: cannot be named */
    const char *methods; /* separated by spaces; NULL: "GET", for a program "GET HEAD POST PUT
                          * DELETE PATCH". HEAD is answered without the work being done unless it is
                          * listed; OPTIONS is always answered. */
    int64_t timeout_ms;  /* for the whole request; 0: as --timeout says */
    int64_t max;         /* requests of this route at once; 0: no limit */
    enum on_hangup on_hangup;
    enum half_close half_close;
};

/* ---- The request --------------------------------------------------------------------- */

const char *request_id(const struct request *rq);     /* unique among all servers; [0-9a-f-] */
const char *request_method(const struct request *rq); /* "GET" */
/* The path: percent-decoded, "." and ".." resolved, starting with '/', without a NUL
 * (RFC 3986 section 6.2.2). */
const char *request_path(const struct request *rq);
/* What follows the route's path, for a route that ends in '/'; else "". */
const char *request_path_info(const struct request *rq);
/* The query as sent, without the '?'; "" if there is none (RFC 3986 section 3.4). */
const char *request_query(const struct request *rq);
/* The value of NAME in the query, percent-decoded, '+' as a space; NULL if it is not there. */
const char *request_parameter(struct request *rq, const char *name);
/* The value of the header field NAME (any case), without surrounding white space; the values of
 * several are joined by ", " (RFC 9110 section 5.3). NULL if there is none. The request owns it;
 * for one thread at a time, as request_parameter and all that answers. */
const char *request_header(struct request *rq, const char *name);
/* A descriptor on the whole body, at its start, which may be read, mapped and sought; the
 * request owns it. -1 if there is no body. */
int request_body(const struct request *rq);
uint64_t request_body_length(const struct request *rq); /* in bytes, after any chunked coding */
/* "192.0.2.7:5180", "[2001:db8::7]:5180", or "unix". */
const char *request_client(const struct request *rq);
/* One line in the server's log, with the request's id. */
void request_log(const struct request *rq, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- The answer ---------------------------------------------------------------------- */

/* Add a header field; before the answer begins. Content-Length, Transfer-Encoding, Connection
 * and Date are the server's. Errors: EINVAL (not a field, RFC 9110 section 5), EALREADY (the
 * answer has begun), E2BIG. */
int respond_header(struct request *rq, const char *name, const char *value);

/* The whole answer at once. BODY is copied. It is sent when the handler has returned.
 * TYPE is the Content-Type, or NULL. Errors: EINVAL (STATUS), EALREADY, ENOMEM. */
int respond(struct request *rq, int status, const char *type, const void *body, size_t length);

/* The same, with printf's FORMAT as text/plain. */
int respond_text(struct request *rq, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a failure: "could not DOING", errno's text in the log and a fitting status: 409
 * (EEXIST), 507 (ENOSPC, EDQUOT), else 500. Always returns -1, for the handler to return. */
int respond_errno(struct request *rq, const char *doing);

/* A streamed answer: begin, then any number of writes. LENGTH is the body's length in bytes, or
 * -1 if it is not known (then chunked; closing the connection for HTTP/1.0). Its last byte is
 * held back until the handler has returned 0, so that a cut answer is seen to be cut; or all of
 * it, when it is whole in the first write and at most 4096 bytes: then a failure is answered.
 * Errors: as above; EMSGSIZE (more than LENGTH); EPIPE, ECONNRESET, ETIMEDOUT (the client is
 * gone or does not read: give up). */
int respond_begin(struct request *rq, int status, const char *type, int64_t length);
int respond_write(struct request *rq, const void *data, size_t length);

#ifdef __cplusplus
}
#endif
#endif
