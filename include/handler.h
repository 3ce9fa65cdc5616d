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

#ifdef HANGUPD_INTERNAL

/* ---- For the server's own files from here on ----------------------------------------- */

#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>

/* ---- What parent and child share: one slot a request -------------------------------------
 *
 * The state word is changed by compare-and-swap alone:
 *
 *     READING ──▶ RUNNING ──▶ ANSWERING ──▶ DONE        by the child
 *                  │  ▲
 *                  ▼  │
 *                 PROBING                               by the parent, for a moment
 *
 * While PROBING, the parent writes to the connection and the child must not. DONE: the child
 * has settled its ledger and is about to exit 0 or 1. The rest of the slot is for logs and
 * people; the parent believes none of it. */
enum slot_state {
    SLOT_FREE,
    SLOT_READING,
    SLOT_RUNNING,
    SLOT_PROBING,
    SLOT_ANSWERING,
    SLOT_DONE,
    SLOT_STATE_MASK = 0x0f,
    SLOT_FIN_SEEN = 0x10,    /* the parent has seen the client's FIN */
    SLOT_NOPROBE = 0x20,     /* HTTP/1.0 has no interim answers */
    SLOT_HEAD_OPEN = 0x40,   /* the child waits for the rest of the head: it has made nothing */
    SLOT_FIN_HANGUP = 0x80,  /* half-close=hangup */
    SLOT_FIN_IGNORE = 0x100, /* half-close=ignore */
    SLOT_FINISH = 0x200,     /* on-hangup=finish */
    SLOT_DELIVERING = 0x400, /* SIGTERM waits: the client's acknowledgement decides */
    SLOT_SETTLING = 0x800,   /* the child is dead, a janitor undoes: for people, by the parent */
    SLOT_WAITING = 0x1000,   /* READING, in its route's line: it has made nothing */
    SLOT_BODY_OPEN = 0x2000  /* the child reads the body: it has made nothing */
};

/* Why the parent ends a request; written before it signals. */
enum cause { CAUSE_NONE, CAUSE_HANGUP, CAUSE_TIMEOUT, CAUSE_DRAIN, CAUSE_OPERATOR, CAUSE_EVICTED };

enum outcome {
    OUTCOME_NONE,
    OUTCOME_OK,
    OUTCOME_ERROR,
    OUTCOME_HANGUP,
    OUTCOME_TIMEOUT,
    OUTCOME_CRASH,
    OUTCOME_DRAIN,
    OUTCOME_KILLED
};
enum undo_result { UNDO_NONE, UNDO_OK, UNDO_FAILED };

#define SLOT_REQUEST_SIZE 256
struct slot {
    _Atomic uint32_t state;
    _Atomic uint32_t cause;   /* enum cause; by the parent */
    _Atomic int32_t pid;      /* the child's */
    _Atomic int64_t limit_ms; /* the route's time limit; 0: the server's */
    int64_t started;          /* clock_ms() */
    uint64_t bytes;           /* sent of the answer */
    uint32_t number;          /* of the request on its connection */
    uint16_t status;          /* of the answer */
    uint8_t outcome, undo;    /* enum outcome, enum undo_result: as the child saw them */
    uint8_t head;             /* the method is HEAD */
    _Atomic int16_t route;    /* index, or -1 */
    _Atomic uint64_t ticket;  /* place in its route's line, see below */
    /* In delivery on AF_UNIX, which counts no bytes: how many are left to send, and the call that
     * sends them, where the kernel itself notes how many it took, before the call returns. So
     * whoever asks after the child's death knows whether all of the answer was sent. */
    uint64_t rest;
    struct mmsghdr last;
    char id[CLEANUP_ID_SIZE];
    char client[72];
    char request[SLOT_REQUEST_SIZE]; /* the request line as sent, cut to fit */
};

/* ---- Routes with `max`: a line for each ---------------------------------------------------
 *
 * The parent does not know which route a request wants, so the children keep the order among
 * themselves, by Lamport's bakery. Each writes TICKET_CHOOSING in its slot, draws the next number,
 * and writes that. Its turn has come when fewer than `max` slots of its route have a smaller ticket
 * or are choosing. Nothing gives the place back but the parent, when it frees the slot, which is
 * when nothing is left to undo; it then wakes those who wait on `releases`.
 *
 * Why there are never more than `max`: of all whose turn has come, take the one with the largest
 * ticket. Each of the others drew before it, and so was choosing, or had its ticket, from before it
 * drew until now: it has counted all of them, and counted fewer than `max`.
 *
 * Why a child may die at any line: there is no lock to die with. Dead before TICKET_CHOOSING it has
 * no place; from then on it holds one, drawn or not, until the parent has settled what it left and
 * frees the slot, as it does for every child. A number drawn and never written is a gap, and
 * gaps do not count. Who waits holds nothing that others need. When the parent dies its children
 * end, and the next server has a scoreboard of its own.
 *
 * A false ticket makes those of its route wait, each at most --queue-timeout, while its request
 * lives; a number out of order (the counter is the children's) the same. A look is one pass. */
#define TICKET_NONE 0
#define TICKET_CHOOSING UINT64_MAX
struct line {
    _Atomic uint64_t drawn;    /* tickets so far */
    _Atomic uint32_t releases; /* a futex; only the parent adds to it */
};
/* Who waits on `releases` waits with the bit of its route, so that others are not woken. */
#define LINE_BIT(route) (1U << ((unsigned)(route) % 32))

/* Draw a ticket for SLOT, whose route is in it already. */
uint64_t handler_draw_ticket(struct line *line, struct slot *slot);

/* Whether TICKET's turn has come. UNCLEAR: it depends on one who is choosing. */
enum turn { TURN_NOW, TURN_LATER, TURN_UNCLEAR };
enum turn handler_turn(const struct slot *slots, uint32_t count, int route, uint64_t ticket,
                       int64_t max);

/* ---- The child's settings and entry -------------------------------------------------- */

struct handler_settings {
    const struct route *routes;
    size_t route_count;
    size_t max_header, max_target; /* bytes */
    uint64_t max_body;             /* bytes */
    int64_t header_ms, body_ms, send_ms, grace_ms, idle_ms;
    int64_t request_ms, queue_ms;
    int64_t dead_peer_ms; /* TCP_USER_TIMEOUT outside answers */
    enum half_close half_close;
    enum on_hangup on_hangup;
    bool sync;
    const char *tmpdir;    /* absolute */
    int pool;              /* of scratch directories (cleanup.h), open; */
    const char *pool_path; /* ...NULL: none */
    const char *self;      /* the path of what is running; NULL: not known */
    char *head;            /* memory for a request's head, which each child has to itself */
    sigset_t ignored;      /* signals that the server ignores and a program must not */
    uint64_t open_files;   /* the soft limit that the server was started with, for programs */
};

struct handler_call {
    const struct handler_settings *settings;
    struct slot *slot;
    struct line *line;
    const struct slot *slots; /* all of them */
    uint32_t slot_count;
    const _Atomic uint32_t *draining; /* not 0: answer with Connection: close */
    int connection;
    int state_dir; /* STATE/SERVER */
    int nudge;     /* write the slot's number here after setting limit_ms */
    uint32_t slot_number;
    bool is_tcp;
    uint64_t forked; /* clock_ticks() just before */
};

/* How many bytes a head may have; handler_settings.head must have room for them. */
size_t handler_head_room(const struct handler_settings *s);

#define HANDLER_EXIT_KEEP 0   /* the ledger is settled; the connection may be used again */
#define HANDLER_EXIT_CLOSE 1  /* settled; close the connection */
#define HANDLER_EXIT_UNDONE 2 /* not settled: the parent's turn */

/* Serve one request on the connection, and exit. All signals are blocked on entry. */
_Noreturn void handler_serve(const struct handler_call *call);

/* Whether all of the answer has reached the client, for the ledger's `sent N`; waits while
 * there is progress, at most SEND_MS without. On AF_UNIX N is not looked at. */
bool handler_was_delivered(int connection, bool is_tcp, uint64_t n, int64_t send_ms);
/* Whether a child that died in delivery had sent all of its answer, on AF_UNIX. */
bool handler_was_sent(const struct slot *slot);
/* The bytes of both ways that have gone over the TCP connection, and those of ours, *UNSENDABLE,
 * that wait to be sent at all, as the client has no room for them. */
uint64_t handler_traffic(int connection, uint32_t *unsendable);

/* The orderly end of what we send, as shutdown(2); without it, SO_LINGER makes every close a reset.
 */
ASYNC_SAFE int handler_end_sending(int connection);

/* An answer that has begun and must not complete: reset the connection, at once, whoever else holds
 * it. */
ASYNC_SAFE void handler_cut(int connection, bool is_tcp);

/* A whole answer of the server's own: an error, or an answer without a body. */
ASYNC_SAFE size_t handler_canned_answer(char *buffer, size_t room, int status, bool head_only,
                                        const char *reason);
/* Send it without waiting, and note it in SLOT. False: it did not go, or not whole. */
ASYNC_SAFE bool handler_send_canned(int connection, struct slot *slot, int status, bool head_only,
                                    const char *reason);
/* "Not Found" for 404; "Unknown" for what has no name (RFC 9110 section 15). */
ASYNC_SAFE const char *handler_reason(int status);

/* A time in UTC, from seconds since 1970. */
struct utc {
    unsigned year, month, day, weekday, hour, minute, second; /* weekday 0: Sunday */
};
ASYNC_SAFE struct utc handler_utc(int64_t seconds);

/* The demonstration, @a. */
int handler_demonstration(struct request *rq);

/* Parse "PATH=TARGET[,KEY=VALUE...]" into *ROUTE, whose strings are allocated, with COMPILED
 * (ended by path NULL) for @NAME. 0, or -1 and WHY says what is wrong and what would be right. */
int route_parse(const char *text, const struct route *compiled, struct route *route, char *why,
                size_t why_size);
/* "1.5", "90s", "15m", "2h" -> milliseconds; "64k", "1M", "2G" -> bytes. -1: not such a thing. */
enum half_close parse_half_close(const char *text); /* HALF_CLOSE_DEFAULT: not one */
enum on_hangup parse_on_hangup(const char *text);   /* ON_HANGUP_DEFAULT: not one */
int64_t parse_duration(const char *text);
int64_t parse_size(const char *text);

/* ---- The parser: pure, over (buffer, length); no descriptor, no memory of its own ---- */

#define HTTP_FIELDS_MAX 128
#define HTTP_LINE_SLACK 1024 /* bytes of a request line beside its target */
struct http_span {
    uint32_t at, length; /* in the buffer */
};
struct http_field {
    struct http_span name, value;
};
struct http_head {
    /* Progress, zeroed before the first call. */
    uint32_t line;      /* where the next line starts */
    uint32_t seen;      /* bytes already looked at in it */
    bool started;       /* the request line has been read */
    uint32_t fields_at; /* where the header fields start */
    /* The result. */
    struct http_span method, target;
    uint8_t minor; /* HTTP/1.minor */
    uint32_t field_count;
    struct http_field fields[HTTP_FIELDS_MAX];
    uint64_t body_length; /* from Content-Length */
    bool has_length, chunked, keep_alive, expect_continue, has_host;
    bool close_asked, keep_alive_asked; /* by Connection */
    /* The error. */
    int status;         /* 0, or 4xx, 5xx */
    const char *reason; /* what was wrong */
};
struct http_limits {
    uint32_t max_target, max_header;
};
/* Parse what has arrived so far; call again with more of the same buffer while it returns 0.
 * Returns the head's length when it is whole, 0 when more is needed, -1 with h->status set.
 * (RFC 9112 sections 2 to 6.) */
int64_t http_parse_head(struct http_head *h, const char *buffer, size_t length,
                        const struct http_limits *limits);

/* Decode chunked coding (RFC 9112 section 7.1), in whatever pieces it comes. */
struct http_chunks {
    uint8_t state;
    uint32_t line_length; /* of the size line or trailer section so far */
    uint64_t left;        /* of the chunk's data */
    const char *reason;
};
enum http_chunk_step { CHUNK_MORE, CHUNK_DATA, CHUNK_END, CHUNK_BAD };
/* Look at LENGTH bytes; *USED says how many are done with. CHUNK_DATA: *DATA_AT and *DATA_LENGTH
 * in BUFFER are body (within USED). CHUNK_END: the body ended at USED. */
enum http_chunk_step http_decode_chunks(struct http_chunks *c, const char *buffer, size_t length,
                                        size_t *used, size_t *data_at, size_t *data_length);

/* The header of a program's answer (RFC 3875 section 6). */
#define CGI_HEAD_MAX 16000 /* bytes, with the empty line */
struct cgi_head {
    /* What the server acts on; a span's length is 0 where the field is not there. */
    struct http_span type, location, reason;
    int status; /* 0: not given */
    bool has_length;
    uint64_t length; /* Content-Length */
    /* The other fields, for the client. */
    uint32_t field_count;
    struct http_field fields[HTTP_FIELDS_MAX];
    /* The error. */
    const char *wrong;
    struct http_span line; /* the one that is wrong, or empty */
};
/* Parse what has come so far, from its beginning. Returns the header's length with the empty line
 * that ends it, 0 when more is needed, -1 with h->wrong set. */
int64_t cgi_parse_head(struct cgi_head *h, const char *buffer, size_t length);

/* The path of TARGET (origin-form, or absolute-form), decoded and resolved into PATH (room for
 * length + 1 bytes), and where its query is. NULL, or what is wrong with it. */
const char *http_decode_target(const char *target, size_t length, char *path,
                               struct http_span *query);

#endif /* HANGUPD_INTERNAL */
#endif
