/* handler.c: the child, one per request.
 *
 * It reads and checks the request, runs its route (a C function, or a program by CGI), answers, and
 * then keeps what the request made or undoes it. It knows one request and one connection, which it
 * borrows from the parent and gives back by exiting:
 *
 *     READING     the head, the line of a route with `max`,    SIGTERM: answered by on_sigterm
 *                 then the whole body into a file              (408, 503 or 504)
 *     RUNNING     the route's handler works                    SIGTERM: undone in on_sigterm, then
 *                                                              answered if somebody is there
 *     ANSWERING   from the first byte of the answer on         SIGTERM: reset, then undone
 *       delivery  a flag: the answer's last byte goes out;     SIGTERM waits: the client's
 *                 then its acknowledgement is awaited          acknowledgement alone decides
 *     DONE        kept or undone; exit 0 or 1
 *
 * Plan:
 *   The state word - parent and child in turns
 *   The connection - wait, send, reset, close
 *   Serve - the recipe: what happens to a request, in order
 *   Read: the head - up to the empty line, and not a byte of the next request
 *   Read: the route - which one serves the path, and may it be asked so
 *   Read: the turn - where the route has `max`, wait in its line
 *   Read: the body - whole, into a file
 *   Run: the route - tell the parent that the work begins, call the handler, follow redirects
 *   Run: what a handler may ask - the request's half of hangupd/handler.h
 *   Run: which program - from the route and the path to a file
 *   Run: the program starts - its descriptors, its environment, its birth
 *   Run: the program answers - pass on what it writes until it has ended
 *   Answer - respond_*: the head, the body, and its last byte, which is held back
 *   Finish - the handler has returned: is its answer kept, is it an error, must it be cut
 *   Deliver - send the last byte and wait until the client has acknowledged it
 *   End - undo what was made, on SIGTERM too; the server's own answers; exit
 *   The demonstration - the route that runs where none was named
 *
 * Invariants, between any two lines:
 *   - Until RUNNING nothing has been made that outlives this process: the body's file has no name,
 *     or lies in the scratch directory. That, and all that is made later, cleanup.c records first.
 *     So this process may die anywhere: the parent finds the ledger and settles it.
 *   - It exits with HANDLER_EXIT_KEEP or HANDLER_EXIT_CLOSE only if there is no ledger any more.
 *   - SIGTERM may come anywhere but while it is blocked. `request` and `program` are in order then:
 *     a descriptor there is open or -1, and answer.started is set before the first byte goes out.
 *   - The byte that completes an answer below 400 goes out last, when the handler has returned 0
 *     and, if anything is recorded, after `sent N` is in the ledger: whoever asks later, this
 *     process or the parent after its death, can tell from N whether the client has it. From
 *     block_sigterm on nothing else decides.
 *   - An answer of 400 or above is completed only after the undo: it says that nothing is left.
 *   - Memory is touched sparingly. Every page that this process is the first to write to since the
 *     fork costs a fault and a copy, which is what a short request consists of.
 *
 * BUGS:
 *   - After the answer has started, a client that closes is noticed by the question (ask) only in a
 *     program's chunked answer; else at the next write, or by TCP keep-alive. Until then a C
 * handler that computes in mid-answer works for nobody.
 *   - A program's errors are not read while the client has no room for its answer: the log gets
 *     them late, and a program that writes many of them waits.
 *   - A C handler that has threads is not ended gently: at SIGTERM its process kills itself, and
 *     the parent undoes what it made.
 *   - There are no ranges, no upgrades and no compression, and trailers are read and dropped.
 */
#include <hangupd/handler.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "http.h"
#include "log.h"
#include "program_limits.h"
#include "routes.h"
#include "serve.h"
#include "text.h"

enum framing { FRAMING_LENGTH, FRAMING_CHUNKED, FRAMING_CLOSE };

/* Seconds, in a 503 of the server's. One for a program that could not be started (not_started) has
 * none, as nobody knows when that will be mended. */
#define RETRY_AFTER "5"

#define TYPE_SIZE 256 /* of Content-Type's value and a NUL */
#define ANSWER_FIELDS_SIZE 16384
#define ANSWER_HEAD_SIZE (ANSWER_FIELDS_SIZE + 1024) /* with a status line and our own fields */

struct answer {
    bool prepared;    /* respond* has been called */
    bool started;     /* bytes of it may have been sent: from here on it is completed or cut */
    bool says_undone; /* it is respond_failure's */
    int status;
    const char *type, *reason; /* NULL: none, the usual one */
    const char *own_type;      /* by respond_header: instead of type; NULL: none */
    enum framing framing;
    int64_t length;   /* of the body; -1: not known */
    uint64_t written; /* of the body, by the handler */
    char *body;       /* the whole of it, when it was given at once */
    size_t body_size;
    const char *held; /* the end of a body of known length, not yet sent */
    size_t held_size;
    size_t owed;    /* bytes of the CRLF behind the last chunk, not yet sent: see ask */
    bool fin_seen;  /* the client has ended its side, and may be asked */
    int64_t ask_at; /* clock_ms() of the next question */
    size_t fields_size;
    size_t head_size; /* 0: sent, or not built yet */
    int more;         /* MSG_MORE: a flag for sendmsg(2) */
    /* Large, and last: most answers touch the first bytes of each alone. */
    char head[ANSWER_HEAD_SIZE];
    char fields[ANSWER_FIELDS_SIZE];
};

struct request {
    const struct handler_call *call;
    const struct handler_settings *settings;
    struct slot *slot;
    char *buffer;      /* the head as it came, and behind it what request_keep keeps */
    size_t room, used; /* of the buffer */
    struct http_head head;
    char *method, *path, *query;
    char *parameters; /* of the query, decoded; NULL until asked for */
    const char *path_info;
    const struct route *route;
    int body; /* -1: none */
    uint64_t body_length;
    uint64_t room_granted; /* bytes of the body that the parent has counted; 0: not asked */
    bool is_head;
    bool has_body;     /* the head announces one */
    bool haunted;      /* a process of it lives on: only a janitor may undo */
    bool rest_unread;  /* what comes next on the connection is not a request */
    bool must_close;   /* the connection is of no use after this request */
    int64_t waited_ms; /* in its route's line */
    bool client_gone;  /* a write has failed: why it failed is not the handler's fault */
    char *redirect;    /* a program's local redirect: the target to go on with */
    pid_t parent;
    struct stat connection; /* as it was when a C handler was called; st_ino 0: before */
    _Atomic int delivering; /* the acknowledgement decides now: SIGTERM, in any thread, waits */
    /* The signal mask for waits. While a program runs SIGTERM is blocked but there, so that it
     * finds everything in order. NULL: waits change nothing. */
    const sigset_t *mask_of_waits;
    struct answer answer;
};

/* The process's one request, where the signal handler finds it. What most requests touch of it is
 * its beginning: aligned, that is as few pages as can be. */
static _Alignas(4096) struct request request;

/* ---- The state word ------------------------------------------------------------------ */

ASYNC_SAFE static uint32_t state_of(uint32_t word)
{
    return word & SLOT_STATE_MASK;
}

/* Go to STATE, with the flags SET and without CLEAR. Returns the word as it was. While the parent
 * is PROBING this waits, for the time of one system call: two writers would mix an interim answer
 * into the answer. A parent that died in the middle of it probes no more. */
ASYNC_SAFE static uint32_t slot_advance(struct slot *slot, uint32_t state, uint32_t set,
                                        uint32_t clear)
{
    uint32_t was = atomic_load(&slot->state);
    for (;;) {
        while (state_of(was) == SLOT_PROBING && getppid() == request.parent) {
            sleep_ms(0);
            was = atomic_load(&slot->state);
        }
        uint32_t now = ((was & ~(uint32_t)SLOT_STATE_MASK & ~clear) | set) | state;
        if (atomic_compare_exchange_weak(&slot->state, &was, now))
            return was;
    }
}

ASYNC_SAFE static void slot_flag(struct slot *slot, uint32_t flag)
{
    uint32_t was = atomic_load(&slot->state);
    while (!atomic_compare_exchange_weak(&slot->state, &was, was | flag))
        continue;
}

/* From here on the connection is the child's alone to write: the parent probes in RUNNING only. */
ASYNC_SAFE static void begin_answering(struct request *rq)
{
    if (state_of(atomic_load(&rq->slot->state)) < SLOT_ANSWERING)
        slot_advance(rq->slot, SLOT_ANSWERING, 0, SLOT_HEAD_OPEN | SLOT_BODY_OPEN | SLOT_WAITING);
}

/* ---- The connection ------------------------------------------------------------------ */

/* Wait for EVENTS. Returns false if MS have passed without. A signal does not end the wait, but may
 * end the process in it. */
static bool wait_for(int fd, short events, int64_t ms)
{
    struct pollfd p = {.fd = fd, .events = events};
    int64_t until = clock_ms() + ms;
    for (;;) {
        int64_t left = until - clock_ms();
        struct timespec t = {.tv_sec = left < 0 ? 0 : left / 1000,
                             .tv_nsec = left < 0 ? 0 : left % 1000 * 1000000};
        int n = ppoll(&p, 1, &t, request.mask_of_waits);
        if (n > 0 || (n < 0 && errno != EINTR))
            return true; /* an error shows in the call that was waited for */
        if (n == 0)
            return false;
    }
}

/* Returns how many bytes sent are not acknowledged (TCP), or not read by the peer (AF_UNIX). */
static int outstanding(int fd)
{
    int n = 0;
    return ioctl(fd, SIOCOUTQ, &n) < 0 ? 0 : n;
}

/* Wait until FD takes more. Returns false if MS have passed without any progress: a client that
 * reads slowly may take longer than that to make room, while every acknowledgement shows that it
 * lives. */
static bool wait_writable(int fd, int64_t ms)
{
    for (int before = outstanding(fd);;) {
        if (wait_for(fd, POLLOUT, ms))
            return true;
        int now = outstanding(fd);
        if (now >= before)
            return false;
        before = now;
    }
}

/* Send one call's worth of the vectors. Returns as sendmsg(2). In delivery on AF_UNIX, which counts
 * no bytes, the call is made so that the kernel notes in the shared slot how many it took: if this
 * process dies right then, the parent can tell whether all of the answer was sent. */
static ssize_t send_some(struct request *rq, struct iovec *v, int count)
{
    struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)count};
    const int flags = MSG_DONTWAIT | MSG_NOSIGNAL | rq->answer.more;
    struct slot *slot = rq->slot;
    if (rq->call->is_tcp || rq->delivering == 0)
        return sendmsg(rq->call->connection, &m, flags);
    slot->last = (struct mmsghdr){.msg_hdr = m};
    slot->rest = 0;
    for (int i = 0; i < count; i++)
        slot->rest += v[i].iov_len;
    int sent = sendmmsg(rq->call->connection, &slot->last, 1, flags);
    return sent < 0 ? -1 : (ssize_t)slot->last.msg_len;
}

bool handler_was_sent(const struct slot *slot)
{
    return slot->rest > 0 && slot->last.msg_len == slot->rest;
}

/* Send all of the vectors, which are changed. Returns 0, or -1 with EPIPE, ECONNRESET, ETIMEDOUT:
 * then the client is gone, or does not read, which comes to the same. */
static int send_all(struct request *rq, struct iovec *v, int count)
{
    while (count > 0) {
        ssize_t n = send_some(rq, v, count);
        if (n < 0 && errno == EAGAIN) {
            if (wait_writable(rq->call->connection, rq->settings->send_ms))
                continue;
            errno = ETIMEDOUT;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rq->client_gone = true;
            return -1;
        }
        while (count > 0 && (size_t)n >= v->iov_len) {
            n -= (ssize_t)v->iov_len;
            v++;
            count--;
        }
        if (count > 0) {
            v->iov_base = (char *)v->iov_base + n;
            v->iov_len -= (size_t)n;
        }
    }
    return 0;
}

/* Returns true unless a C handler has closed the connection's descriptor, or has made another file
 * of it (closefrom(3), dup2(2)), which must not get the answer. */
ASYNC_SAFE static bool connection_is_ours(const struct request *rq)
{
    struct stat now;
    return rq->connection.st_ino == 0 ||
           (fstat(rq->call->connection, &now) == 0 && now.st_ino == rq->connection.st_ino &&
            now.st_dev == rq->connection.st_dev);
}

static int send_continue(struct request *rq)
{
    static const char interim[] = HTTP_CONTINUE;
    struct iovec v = {(char *)interim, sizeof interim - 1};
    return send_all(rq, &v, 1);
}

/* connect(2) to nobody resets a TCP connection at once, whoever else has a descriptor of it; a
 * close would wait for the parent's. A unix socket has no reset. */
ASYNC_SAFE void handler_cut(int connection, bool is_tcp)
{
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    if (!is_tcp || connect(connection, &nobody, sizeof nobody) < 0)
        shutdown(connection, SHUT_RDWR);
}

ASYNC_SAFE int handler_end_sending(int connection)
{
    struct linger orderly = {0};
    setsockopt(connection, SOL_SOCKET, SO_LINGER, &orderly, sizeof orderly);
    return shutdown(connection, SHUT_WR);
}

/* Let the kernel give the client up when it has acknowledged nothing for MS (tcp(7)). While an
 * answer is on its way that is the send timeout; else the time for a peer that vanished. */
static void set_user_timeout(const struct request *rq, int64_t ms)
{
    unsigned value = (unsigned)(ms > INT_MAX ? INT_MAX : ms);
    if (rq->call->is_tcp && rq->settings->send_ms != rq->settings->dead_peer_ms)
        setsockopt(rq->call->connection, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, sizeof value);
}

/* Returns false if FD is no TCP connection; all of INFO is 0 then. */
static bool get_tcp_info(int fd, struct tcp_info *info)
{
    socklen_t size = sizeof *info;
    memset(info, 0, sizeof *info); /* an older kernel fills less of it */
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0;
}

uint64_t handler_traffic(int connection, uint32_t *unsendable)
{
    struct tcp_info info;
    get_tcp_info(connection, &info);
    *unsendable = info.tcpi_notsent_bytes;
    return info.tcpi_bytes_received + info.tcpi_bytes_acked;
}

/* Forward: what is called before it is defined. In the order of a life most calls go forward. */
/* Serve */
static void arm_signals(void);
/* Read: the head */
static void request_read_head(struct request *rq);
static void request_decode_head(struct request *rq);
/* Read: the route */
static void request_check(struct request *rq);
/* Read: the turn */
static void await_turn(struct request *rq);
/* Read: the body */
static void request_read_body(struct request *rq);
/* Run: the route */
static uint32_t half_close_flags(const struct request *rq);
static void heed_fin(struct request *rq, uint32_t flags);
static void enter_running(struct request *rq);
static int run_route(struct request *rq);
/* Run: what a handler may ask */
static void *request_allocate(void *of, size_t size);
static char *request_keep(struct request *rq, const void *bytes, size_t length);
/* Run: the program answers */
static int run_program(struct request *rq);
/* Answer */
static int askable(const struct request *rq);
static const struct timespec *until_question(const struct answer *a, struct timespec *left);
static int ask(struct request *rq);
static bool is_reserved_field(const char *name);
static bool is_complete(const struct request *rq);
static bool is_whole_error(const struct request *rq);
static void answer_again(struct request *rq);
static int respond_failure(struct request *rq, int status, bool undone);
/* Finish */
static void block_sigterm(struct request *rq);
_Noreturn static void finish_badly(struct request *rq, enum outcome outcome);
_Noreturn static void finish(struct request *rq, int result);
_Noreturn static void refuse_request(struct request *rq, int status, const char *reason);
/* Deliver */
static int send_rest(struct request *rq, bool more);
static enum outcome deliver(struct request *rq);
/* End */
ASYNC_SAFE static bool has_other_threads(void);
ASYNC_SAFE static bool undo(struct request *rq);
ASYNC_SAFE _Noreturn static void abandon(struct request *rq, enum outcome outcome,
                                         enum cause cause);
ASYNC_SAFE static void on_sigterm(int signal);
ASYNC_SAFE _Noreturn static void leave(struct request *rq, int code);

/* ---- Serve --------------------------------------------------------------------------- */

_Noreturn void handler_serve(const struct handler_call *call)
{
    struct request *rq = &request;
    const struct handler_settings *s = call->settings;
    /* All of it is zero yet. An assignment of the whole would touch all of its pages. */
    rq->call = call;
    rq->settings = s;
    rq->slot = call->slot;
    rq->room = handler_head_room(s);
    rq->buffer = s->head;
    rq->query = "";
    rq->path_info = "";
    rq->body = -1;
    rq->parent = call->parent;
    struct cleanup_owner owner = {.dir = call->state_dir,
                                  .id = rq->slot->id,
                                  .title = rq->slot->request,
                                  .client = rq->slot->client,
                                  .tmpdir = s->tmpdir,
                                  .sync = s->sync,
                                  .forked = call->forked,
                                  .pool_path = s->pool_path,
                                  .pid = call->pid,
                                  .slot = call->once ? 0 : call->slot_number + 1};
    cleanup_begin(&owner);
    arm_signals(); /* after it: on_sigterm asks cleanup.c whose ledger this is */
    request_read_head(rq);
    request_decode_head(rq);
    request_check(rq);
    await_turn(rq);
    request_read_body(rq);
    enter_running(rq);
    finish(rq, run_route(rq));
}

/* Let SIGTERM in: the parent forked with all signals blocked, so that none comes before there is
 * something to handle it. In its handler all others wait, as it is the last thing that runs. */
static void arm_signals(void)
{
    struct sigaction term = {.sa_handler = on_sigterm};
    sigset_t none;
    sigfillset(&term.sa_mask);
    sigaction(SIGTERM, &term, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

size_t handler_head_room(const struct handler_settings *s)
{
    return (size_t)(s->max_target + s->max_header) + HTTP_LINE_SLACK; /* at most HEAD_MOST each */
}

/* ---- Read: the head ------------------------------------------------------------------ */

/* Put the request line, of which N bytes have come, into the slot, for logs and people: of a
 * request that is refused or never completes, the log should show what there was. */
ASYNC_SAFE static void note_request(struct slot *slot, const char *from, size_t n)
{
    const char *end = memchr(from, '\r', n);
    if (end != NULL)
        n = (size_t)(end - from);
    if (n >= SLOT_REQUEST_SIZE)
        n = SLOT_REQUEST_SIZE - 1;
    memcpy(slot->request, from, n);
    slot->request[n] = '\0';
}

ASYNC_SAFE void handler_peek_request(int connection, struct slot *slot)
{
    char head[SLOT_REQUEST_SIZE + 8];
    ssize_t n = recv(connection, head, sizeof head, MSG_PEEK | MSG_DONTWAIT);
    size_t at = 0;
    while (n > 0 && at < (size_t)n && (head[at] == '\r' || head[at] == '\n'))
        at++; /* empty lines before it are allowed */
    if (n > 0)
        note_request(slot, head + at, (size_t)n - at);
}

/* Look at what the connection holds, behind what we have, without taking it: it may belong to the
 * next request already, which another child will read. Returns its size, or 0 at the client's FIN;
 * refuses the request with 408 and the words LATE at DEADLINE. */
static size_t peek(struct request *rq, char *to, size_t room, int64_t deadline, const char *late)
{
    int fd = rq->call->connection;
    for (;;) {
        ssize_t n = recv(fd, to, room, MSG_PEEK | MSG_DONTWAIT);
        if (n >= 0)
            return (size_t)n;
        if (errno == EAGAIN) {
            int64_t left = deadline - clock_ms();
            if (left <= 0 || !wait_for(fd, POLLIN, left)) {
                rq->rest_unread = true;
                refuse_request(rq, 408, late);
            }
        } else if (errno != EINTR) {
            abandon(rq, OUTCOME_HANGUP, CAUSE_NONE);
        }
    }
}

/* Take N bytes that were peeked at. They are there, so this does not wait. */
static void consume(struct request *rq, char *to, size_t n)
{
    while (n > 0) {
        ssize_t got = recv(rq->call->connection, to, n, 0);
        if (got == 0 || (got < 0 && errno != EINTR))
            abandon(rq, OUTCOME_HANGUP, CAUSE_NONE);
        if (got > 0) {
            to += got;
            n -= (size_t)got;
        }
    }
}

/* The client's FIN came before the end of its request. It may only have half-closed, so it is
 * answered; but the log calls it a hangup, which is what it is in nearly all cases. A connection
 * that ended before the first byte is no request at all. */
_Noreturn static void refuse_truncated(struct request *rq)
{
    if (rq->used == 0)
        leave(rq, HANDLER_EXIT_CLOSE);
    rq->head.keep_alive = false;
    slot_reason(rq->slot, "the request ended before it was complete");
    respond_text(rq, 400, "400 Bad Request: %s\n", rq->slot->reason);
    block_sigterm(rq);
    finish_badly(rq, OUTCOME_HANGUP); /* open_named_spool may have made a directory */
}

/* Read the head: peek, look for its end, and take what belongs to it. While the end is not there
 * all that came is taken, because bytes that stay in the socket would make every wait return at
 * once. */
static void request_read_head(struct request *rq)
{
    const struct handler_settings *s = rq->settings;
    struct http_limits limits = {.max_target = (uint32_t)s->max_target,
                                 .max_header = (uint32_t)s->max_header};
    int64_t deadline = clock_ms() + s->header_ms;
    for (;;) {
        size_t n = peek(rq, rq->buffer + rq->used, rq->room - rq->used, deadline,
                        "the header did not arrive in time");
        if (n == 0)
            refuse_truncated(rq);
        int64_t size = http_parse_head(&rq->head, rq->buffer, rq->used + n, &limits);
        size_t taken = size > 0 ? (size_t)size - rq->used : n;
        consume(rq, rq->buffer + rq->used, taken);
        rq->used += taken;
        note_request(rq->slot, rq->buffer + rq->head.method.at, rq->used - rq->head.method.at);
        if (size > 0)
            break;
        /* An empty line that some send behind a body, and no request (RFC 9112 section 2.2): what
         * comes next is waited for as ever. */
        if (size == 0 && !rq->head.started && rq->head.line == rq->used)
            leave(rq, HANDLER_EXIT_KEEP);
        if (size < 0 || rq->used == rq->room) {
            rq->rest_unread = true;
            rq->slot->head = rq->is_head = http_span_is(rq->buffer, rq->head.method, "HEAD");
            refuse_request(rq, size < 0 ? rq->head.status : 431,
                           size < 0 ? rq->head.reason : "the header is too large");
        }
        /* The parent may now evict this request to make room: it has made nothing. */
        slot_advance(rq->slot, SLOT_READING, SLOT_HEAD_OPEN, 0);
    }
    if ((atomic_load(&rq->slot->state) & SLOT_HEAD_OPEN) != 0)
        slot_advance(rq->slot, SLOT_READING, 0, SLOT_HEAD_OPEN);
}

/* Take what is asked for out of the head. The spans stay, as a program is told of the fields; the
 * strings are copies, as a span has no NUL. */
static void request_decode_head(struct request *rq)
{
    const struct http_head *h = &rq->head;
    struct http_span query;
    rq->method = request_keep(rq, rq->buffer + h->method.at, h->method.length);
    rq->path = request_keep(rq, rq->buffer + h->target.at, (size_t)h->target.length + 1);
    if (rq->method == NULL || rq->path == NULL)
        refuse_request(rq, 503, "out of memory");
    rq->slot->head = rq->is_head = strcmp(rq->method, "HEAD") == 0;
    if (strcmp(rq->method, "CONNECT") == 0)
        rq->must_close = true; /* what follows was meant for a tunnel */
    rq->has_body = rq->rest_unread = h->chunked || h->body_length > 0;
    const char *target = rq->buffer + h->target.at;
    if (strcmp(rq->method, "OPTIONS") == 0 && h->target.length == 1 && *target == '*') {
        memcpy(rq->path, "*", 2);
        return;
    }
    const char *wrong = http_decode_target(target, h->target.length, rq->path, &query);
    if (wrong != NULL)
        refuse_request(rq, 400, wrong);
    rq->query = request_keep(rq, target + query.at, query.length);
    if (rq->query == NULL)
        refuse_request(rq, 503, "out of memory");
}

/* ---- Read: the route ----------------------------------------------------------------- */

/* RFC 9110 section 9.3, and RFC 5789: for any other that the route does not list the answer is 501,
 * for these 405. */
static const char standard_methods[] = "GET HEAD POST PUT DELETE PATCH OPTIONS CONNECT TRACE";

/* Returns true if METHODS, words with spaces between them, has the first N bytes of METHOD. */
static bool lists_word(const char *methods, const char *method, size_t n)
{
    for (const char *at = methods; *at != '\0'; at += strcspn(at, " "), at += *at == ' ')
        if (strcspn(at, " ") == n && memcmp(at, method, n) == 0)
            return true;
    return false;
}

static bool lists_method(const char *methods, const char *method)
{
    return lists_word(methods, method, strlen(method));
}

static const char *methods_of(const struct route *r)
{
    return r->methods != NULL   ? r->methods
           : r->program != NULL ? "GET HEAD POST PUT DELETE PATCH"
                                : "GET";
}

/* A program takes a body, and a C handler one whose methods name one that has a body, or one of its
 * own: for another it would be stored in vain. */
static bool takes_body(const struct route *r)
{
    const char *methods = methods_of(r);
    bool takes = r->program != NULL;
    for (const char *at = methods; *at != '\0'; at += strcspn(at, " "), at += *at == ' ') {
        size_t n = strcspn(at, " ");
        takes =
            takes || lists_word("POST PUT PATCH", at, n) || !lists_word(standard_methods, at, n);
    }
    return takes;
}

/* Returns true if the route's handler is asked with METHOD. A program is with any token, so that it
 * can be what speaks WebDAV or answers a preflight; but not with CONNECT, which is for a tunnel,
 * nor with TRACE, which asks the server to say what it got, cookies and all. */
static bool takes_method(const struct request *rq, const struct route *r, const char *method)
{
    enum options_by by = r->options != OPTIONS_DEFAULT ? r->options : rq->settings->options;
    if (r->methods != NULL || r->program == NULL)
        return lists_method(methods_of(r), method);
    return strcmp(method, "CONNECT") != 0 && strcmp(method, "TRACE") != 0 &&
           (strcmp(method, "OPTIONS") != 0 || by == OPTIONS_PROGRAM);
}

/* Returns the route of PATH, the one that is exactly it, else the longest prefix; or NULL. A
 * program below "/gw/" is told that its name is "/gw", so that is its path, too. */
static const struct route *route_of(const struct request *rq, const char *path)
{
    const struct route *found = NULL;
    size_t best = 0;
    for (size_t i = 0; i < rq->settings->route_count; i++) {
        const struct route *r = &rq->settings->routes[i];
        size_t n = strlen(r->path);
        bool prefix = r->path[n - 1] == '/';
        if (r->program != NULL && prefix && strlen(path) == n - 1)
            n--;
        if (strcmp(r->path, path) == 0)
            n += rq->room; /* beats every prefix */
        else if (!prefix || strncmp(r->path, path, n) != 0)
            continue;
        if (n > best) {
            best = n;
            found = r;
        }
    }
    return found;
}

static void find_route(struct request *rq)
{
    rq->route = route_of(rq, rq->path);
    size_t n = rq->route != NULL ? strlen(rq->route->path) : 0;
    bool below = n > 0 && rq->route->path[n - 1] == '/' && strlen(rq->path) >= n;
    rq->path_info = below ? rq->path + n : "";
}

/* Returns what the route's program inherits. */
static const struct inherited *inherited_by(const struct request *rq)
{
    return &rq->settings->inherited[rq->route - rq->settings->routes];
}

/* Add the field Allow, as in "GET, HEAD, OPTIONS" (RFC 9110 section 10.2.1): what the route lists,
 * and what is answered for any. */
static void add_allow(struct request *rq)
{
    char allow[512];
    struct text t = TEXT(allow);
    const char *methods = rq->route != NULL ? methods_of(rq->route) : standard_methods;
    for (const char *at = methods; *at != '\0'; at++) {
        if (*at == ' ')
            text_char(&t, ',');
        text_char(&t, *at);
    }
    if (lists_method(methods, "GET") && !lists_method(methods, "HEAD"))
        text_add(&t, ", HEAD");
    if (!lists_method(methods, "OPTIONS"))
        text_add(&t, ", OPTIONS");
    respond_header(rq, "Allow", text_end(&t));
}

/* A C handler gets the values of the query as strings, which a NUL would end: what stood behind it
 * would be taken for another name. A program decodes for itself. Returns what is wrong, or NULL. */
static const char *check_query(const struct request *rq)
{
    return rq->route->handler != NULL && strstr(rq->query, "%00") != NULL ? "a NUL in the query"
                                                                          : NULL;
}

/* Refuse, or answer here, what needs no work. Everything that can be refused is refused before the
 * body is asked for: the client need not send what nobody wants. */
static void request_check(struct request *rq)
{
    bool known = lists_method(standard_methods, rq->method), listed = false;
    if (strcmp(rq->path, "*") != 0) {
        find_route(rq);
        listed = rq->route != NULL && takes_method(rq, rq->route, rq->method);
        /* A place in its line is kept when a program redirects: published here, and once. */
        if (rq->route != NULL)
            rq->slot->route = (int16_t)(rq->route - rq->settings->routes);
        if (!known && !listed)
            refuse_request(rq, 501, "the method is not implemented");
        if (rq->route == NULL)
            refuse_request(rq, 404, "no route serves this path");
        if (check_query(rq) != NULL)
            refuse_request(rq, 400, check_query(rq));
    }
    if (rq->route != NULL)
        cleanup_use_environment(inherited_by(rq)->kept);
    if (strcmp(rq->method, "OPTIONS") == 0 && (rq->route == NULL || !listed)) {
        add_allow(rq);
        respond(rq, 200, NULL, "", 0);
        finish(rq, 0);
    }
    if (!listed && !(rq->is_head && takes_method(rq, rq->route, "GET"))) {
        add_allow(rq);
        refuse_request(rq, 405, "the method is not allowed here");
    }
    if (rq->head.body_length > rq->settings->max_body)
        refuse_request(rq, 413, "the body is too large");
    if (rq->has_body && rq->route != NULL && !takes_body(rq->route))
        refuse_request(rq, 413, "a body is not taken here");
    if (rq->is_head && !listed) { /* the work would be done for nobody to read */
        respond(rq, 200, NULL, "", 0);
        rq->answer.framing = FRAMING_CHUNKED; /* no length is claimed for what was not made */
        finish(rq, 0);
    }
}

/* ---- Read: the turn ------------------------------------------------------------------ */

/* A parent that lives has looked at a slot that was named to it in much less. */
#define ANSWERED_IN_MS 10000

/* Let the parent look at this request's slot. Returns false, and logs it, if it cannot be told. */
static bool nudge(const struct request *rq)
{
    const struct handler_call *call = rq->call;
    if (write_all(call->nudge, &call->slot_number, sizeof call->slot_number) == 0)
        return true;
    request_log(rq, "could not tell the server about this request: %s", strerror(errno));
    return false;
}

/* Tell the parent the time limit. What was spent WAITING does not count, as the time in the queue
 * does not. */
static void announce_limit(struct request *rq, int64_t waiting)
{
    int64_t limit = rq->route->timeout_ms > 0 ? rq->route->timeout_ms : rq->settings->request_ms;
    if (limit <= 0)
        return;
    limit += waiting;
    atomic_store(&rq->slot->limit_ms, limit < INT_MAX ? limit : INT_MAX);
    (void)nudge(rq); /* else the server's own limit ends it */
}

/* Sleep until the parent has changed WORD, of the slot, from WAS, or until UNTIL on clock_ms.
 * Returns what it is then. */
static uint32_t await_change(const struct request *rq, _Atomic uint32_t *word, uint32_t was,
                             int64_t until)
{
    struct timespec end = {.tv_sec = until / 1000, .tv_nsec = until % 1000 * 1000000};
    uint32_t now;
    while ((now = atomic_load(word)) == was)
        if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, was, &end, NULL, FUTEX_BITSET_MATCH_ANY) <
                0 &&
            errno != EAGAIN && errno != EINTR) {
            if (errno != ETIMEDOUT)
                request_log(rq, "could not wait for the server's word: %s", strerror(errno));
            break;
        }
    return now;
}

/* Wait until the parent grants one of the route's places (scoreboard.h). The request has made
 * nothing and has read no byte of its body, so it may be ended to make room, and it is refused if
 * its turn does not come in time. */
static void await_turn(struct request *rq)
{
    static const char late[] = "too many requests for this path; this one waited too long for its "
                               "turn";
    if (rq->route->max <= 0)
        return;
    int64_t since = clock_ms(), limit = rq->settings->queue_ms;
    atomic_store(&rq->slot->turn, TURN_ASKED);
    if (!nudge(rq))
        refuse_request(rq, 503, late);
    _Atomic uint32_t *word = &rq->slot->turn;
    enum turn turn = await_change(rq, word, TURN_ASKED, since + limit + ANSWERED_IN_MS);
    if (turn == TURN_GRANTED)
        return;
    if (turn != TURN_WAITING)
        refuse_request(rq, 503, late);
    announce_limit(rq, limit);
    uint32_t fin = half_close_flags(rq);
    uint32_t was = slot_advance(rq->slot, SLOT_READING, SLOT_WAITING | fin, 0);
    if ((was & SLOT_FIN_SEEN) != 0)
        heed_fin(rq, fin);
    if (await_change(rq, word, TURN_WAITING, since + limit) != TURN_GRANTED)
        refuse_request(rq, 503, late);
    slot_advance(rq->slot, SLOT_READING, 0, SLOT_WAITING | fin);
    rq->waited_ms = clock_ms() - since;
}

/* ---- Read: the body ------------------------------------------------------------------ */

/* The body is read before the work begins, for two reasons. A client's FIN cannot be seen behind a
 * receive window that is full of unread body (measured), so a hangup would go unnoticed; and a CGI
 * program needs CONTENT_LENGTH, which a chunked body has only when all of it is here. */
#define BODY_IN_MEMORY_MAX (1U << 20) /* bytes; a longer or chunked body goes to the disk */
#define BODY_PIECE 65536

/* For file systems without O_TMPFILE: below the request's scratch directory, so that the file goes
 * even if this process dies between the two calls. */
static int open_named_spool(void)
{
    char path[PATH_MAX];
    const char *directory = cleanup_tempdir();
    if (directory == NULL)
        return -1;
    snprintf(path, sizeof path, "%.*s/body", PATH_MAX - 8, directory);
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* A body goes where nothing has to be undone: to memory, or to a file that never has a name. */
static int open_spool(const struct request *rq)
{
    if (!rq->head.chunked && rq->head.body_length <= BODY_IN_MEMORY_MAX)
        return memfd_create("body", MFD_CLOEXEC);
    int fd = open(rq->settings->tmpdir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR) ? open_named_spool() : fd;
}

/* Have room for BYTES of the body in all, or refuse the request. One without a length asks for a
 * little more each time. */
static void have_room(struct request *rq, uint64_t bytes)
{
    struct slot *s = rq->slot;
    if (bytes <= (rq->room_granted > 0 ? rq->room_granted : ROOM_UNASKED))
        return;
    rq->room_granted = bytes + (rq->head.chunked ? bytes / 4 : 0);
    atomic_store(&s->room_for, rq->room_granted);
    atomic_store(&s->room, ROOM_ASKED);
    if (!nudge(rq) ||
        await_change(rq, &s->room, ROOM_ASKED, clock_ms() + ANSWERED_IN_MS) != ROOM_GRANTED)
        refuse_request(rq, 503, "the server has no room for this body now");
}

static void spool(struct request *rq, const char *data, size_t n)
{
    if (n > rq->settings->max_body - rq->body_length)
        refuse_request(rq, 413, "the body is too large");
    have_room(rq, rq->body_length + n);
    if (write_all(rq->body, data, n) < 0) {
        request_log(rq, "could not store the body: %s", strerror(errno));
        refuse_request(rq, 507, "the body could not be stored");
    }
    rq->body_length += n;
}

/* The end of a chunked body is known only when it has been decoded, so it is peeked at first. */
static void read_chunked_body(struct request *rq, char *piece)
{
    struct http_chunks chunks = {0};
    enum http_chunk_step step = CHUNK_MORE;
    while (step != CHUNK_END) {
        size_t n = peek(rq, piece, BODY_PIECE, clock_ms() + rq->settings->body_ms,
                        "the body did not arrive in time");
        if (n == 0)
            refuse_truncated(rq);
        size_t done = 0;
        do {
            size_t used, at, length;
            step = http_decode_chunks(&chunks, piece + done, n - done, &used, &at, &length);
            if (step == CHUNK_DATA)
                spool(rq, piece + done + at, length);
            done += used;
        } while (step == CHUNK_DATA);
        consume(rq, piece, done); /* the next request's bytes stay in the socket */
        if (step == CHUNK_BAD)
            refuse_request(rq, 400, chunks.reason);
    }
}

static void read_sized_body(struct request *rq, char *piece)
{
    for (uint64_t left = rq->head.body_length; left > 0;) {
        size_t room = left < BODY_PIECE ? (size_t)left : BODY_PIECE;
        ssize_t n = recv(rq->call->connection, piece, room, MSG_DONTWAIT);
        if (n > 0) {
            spool(rq, piece, (size_t)n);
            left -= (uint64_t)n;
        } else if (n == 0) {
            refuse_truncated(rq);
        } else if (errno == EAGAIN) {
            if (!wait_for(rq->call->connection, POLLIN, rq->settings->body_ms))
                refuse_request(rq, 408, "the body did not arrive in time");
        } else if (errno != EINTR) {
            abandon(rq, OUTCOME_HANGUP, CAUSE_NONE);
        }
    }
}

static void request_read_body(struct request *rq)
{
    char piece[BODY_PIECE];
    if (!rq->has_body)
        return;
    have_room(rq, rq->head.body_length);
    rq->body = open_spool(rq);
    if (rq->body < 0) {
        request_log(rq, "could not make a file for the body: %s", strerror(errno));
        refuse_request(rq, 503, "the body could not be stored");
    }
    /* A client that waits for it gets its 100, unless the body is on its way already: one that
     * does not wait for long may have given up waiting (RFC 9110 section 10.1.1). */
    if (rq->head.expect_continue &&
        recv(rq->call->connection, piece, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && send_continue(rq) < 0)
        abandon(rq, OUTCOME_HANGUP, CAUSE_NONE);
    slot_flag(rq->slot, SLOT_BODY_OPEN);
    if (rq->head.chunked)
        read_chunked_body(rq, piece);
    else
        read_sized_body(rq, piece);
    slot_advance(rq->slot, SLOT_READING, 0, SLOT_BODY_OPEN);
    rq->rest_unread = false;
    if (lseek(rq->body, 0, SEEK_SET) < 0)
        refuse_request(rq, 500, "the body could not be read back");
}

/* ---- Run: the route ------------------------------------------------------------------ */

/* What a FIN means while this route's request waits or works, as flags of the state word. */
static uint32_t half_close_flags(const struct request *rq)
{
    enum half_close policy = rq->route->half_close != HALF_CLOSE_DEFAULT ? rq->route->half_close
                                                                         : rq->settings->half_close;
    return policy == HALF_CLOSE_HANGUP   ? SLOT_FIN_HANGUP
           : policy == HALF_CLOSE_IGNORE ? SLOT_FIN_IGNORE
           : rq->head.minor == 0         ? SLOT_NOPROBE
                                         : 0;
}

#define REPLY_MS 5 /* a reset from nearby is here in less, through a proxy in 1 to 3 ms */

/* The client's FIN came when it could not be asked. The parent, who is told of a FIN once, has
 * noted it and leaves the question to us. Nothing is begun for one who is known to have gone: its
 * reset is waited for, and silence proves nothing. */
static void heed_fin(struct request *rq, uint32_t flags)
{
    enum fin means = fin_means(flags);
    if (means == FIN_HANGUP || (means == FIN_ASK && (send_continue(rq) < 0 ||
                                                     wait_for(rq->call->connection, 0, REPLY_MS))))
        abandon(rq, OUTCOME_HANGUP, CAUSE_HANGUP);
}

/* The server has raised the limit for its connections; select(2) cannot take as many. */
static void restore_descriptor_limit(const struct handler_settings *s)
{
    struct rlimit files;
    if (s->open_files > 0 && getrlimit(RLIMIT_NOFILE, &files) == 0 &&
        files.rlim_cur > s->open_files) {
        files.rlim_cur = s->open_files;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* The work begins: from here on the parent acts on a hangup as the route wants it. The flags that
 * say so come with the state in one step: the parent never sees RUNNING without them. */
static void enter_running(struct request *rq)
{
    uint32_t flags = half_close_flags(rq);
    enum on_hangup policy =
        rq->route->on_hangup != ON_HANGUP_DEFAULT ? rq->route->on_hangup : rq->settings->on_hangup;
    if (policy == ON_HANGUP_FINISH)
        flags |= SLOT_OUTLIVES;
    /* In a line the limit that was told included the longest wait: the true one is known now. */
    if (rq->route->timeout_ms > 0 || atomic_load(&rq->slot->limit_ms) > 0)
        announce_limit(rq, rq->waited_ms);
    uint32_t was = slot_advance(rq->slot, SLOT_RUNNING, flags, 0);
    if ((was & SLOT_FIN_SEEN) != 0) /* also if it was asked in its line: that may be long ago */
        heed_fin(rq, flags);
    if (rq->settings->log_begin)
        log_about(rq->slot->id, rq->slot->client, rq->slot->request, "begun", -1);
}

#define REDIRECTS_MAX 10

/* Returns true if a GET of TARGET, a program's Location, is for a route of this server. */
static bool is_served_here(struct request *rq, const char *target)
{
    struct http_span query;
    size_t length = strlen(target);
    char *path = target[0] == '/' && target[1] != '/' ? request_allocate(rq, length + 2) : NULL;
    if (path == NULL || http_decode_target(target, length, path, &query) != NULL)
        return false;
    const struct route *r = route_of(rq, path);
    return r != NULL && takes_method(rq, r, "GET");
}

/* Go on with the target that a program has named, as a GET without a body (RFC 3875 section 6.2.2).
 * The place in the first route's line is kept; a redirect to a route with `max` waits for none. */
static int follow_redirect(struct request *rq)
{
    struct http_span query;
    const char *target = rq->redirect;
    size_t length = strlen(target);
    rq->redirect = NULL;
    rq->path = malloc(length + 2);
    if (rq->path == NULL)
        return respond_errno(rq, "follow the program's redirect");
    const char *wrong = http_decode_target(target, length, rq->path, &query);
    rq->query = strndup(target + query.at, query.length);
    rq->parameters = NULL;
    rq->method = "GET";
    rq->body = -1;
    rq->head.has_length = false;
    rq->body_length = 0;
    if (wrong == NULL)
        find_route(rq);
    if (wrong == NULL && rq->query != NULL)
        wrong = check_query(rq);
    if (wrong == NULL && rq->query != NULL)
        return 0;
    request_log(rq, "the program redirects to %s: %s", target,
                wrong != NULL ? wrong : "out of memory");
    respond_failure(rq, 502, true);
    return -1;
}

ASYNC_SAFE static void on_nothing(int signal)
{
    (void)signal;
}

/* What the handler executes, by popen(3), system(3) or another way, gets signals and the limit of
 * descriptors as the server was started with them. A signal that is ignored would stay so over
 * exec; one with a handler does not, and here it comes to the same. */
static void prepare_for_helpers(const struct handler_settings *s)
{
    const struct sigaction nothing = {.sa_handler = on_nothing, .sa_flags = SA_RESTART};
    for (int signal = 1; signal < NSIG; signal++)
        if (sigismember(&s->ignored, signal) == 1)
            sigaction(signal, &nothing, NULL);
    restore_descriptor_limit(s);
    if (s->errors >= 0)
        dup2(s->errors, STDERR_FILENO);
}

/* Write what the handler has left in buffers of stdio: its process will not end by exit(3). Where
 * standard output goes, nobody who called cares. Returns false, with errno, if that failed. */
static bool flush_streams(void)
{
    if (fflush(stdout) != 0)
        __fpurge(stdout);
    return fflush(NULL) == 0;
}

/* Call the route's C function. A process that it forked, and that has come back instead of exiting,
 * ends here: there is one request, and one process that answers it. */
static int call_handler(struct request *rq)
{
    prepare_for_helpers(rq->settings);
    fstat(rq->call->connection, &rq->connection);
    int result = rq->route->handler(rq);
    if (cleanup_is_owner()) {
        bool flushed = flush_streams();
        cleanup_hold_threads();
        if (flushed)
            return result;
        request_log(rq, "could not write what the handler left in a buffer: %s", strerror(errno));
        return -1;
    }
    request_log(rq, "process %d, which the handler forked, returned from the handler and is ended",
                getpid());
    _exit(result != 0);
}

/* Run the route's handler, or its program, and those that it redirects to. Returns 0 if the last
 * has done what it should. */
static int run_route(struct request *rq)
{
    for (int redirects = 0;; redirects++) {
        int result = rq->route->handler != NULL ? call_handler(rq) : run_program(rq);
        if (result != 0 || rq->redirect == NULL)
            return result;
        if (redirects == REDIRECTS_MAX) {
            request_log(rq, "the program redirects to %s: too many redirects", rq->redirect);
            return respond_failure(rq, 502, true);
        }
        if (follow_redirect(rq) < 0)
            return -1;
    }
}

/* ---- Run: what a handler may ask ----------------------------------------------------- */

/* Returns SIZE bytes that live as long as the request OF, or NULL: out of memory. They come from
 * the pages that the head has touched, if there is room: malloc's own would be copied for each
 * request. */
static void *request_allocate(void *of, size_t size)
{
    struct request *rq = of;
    size_t at = (rq->used + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
    if (at > rq->room || size > rq->room - at)
        return malloc(size);
    rq->used = at + size;
    return rq->buffer + at;
}

/* Returns a copy of LENGTH bytes, and a NUL behind it, or NULL: out of memory. */
static char *request_keep(struct request *rq, const void *bytes, size_t length)
{
    char *copy = request_allocate(rq, length + 1);
    if (copy == NULL)
        return NULL;
    if (length > 0)
        memcpy(copy, bytes, length);
    copy[length] = '\0';
    return copy;
}

const char *request_id(const struct request *rq)
{
    return rq->slot->id;
}

const char *request_method(const struct request *rq)
{
    return rq->method;
}

const char *request_path(const struct request *rq)
{
    return rq->path;
}

const char *request_path_info(const struct request *rq)
{
    return rq->path_info;
}

const char *request_query(const struct request *rq)
{
    return rq->query;
}

const char *request_client(const struct request *rq)
{
    return rq->slot->client;
}

int request_body(const struct request *rq)
{
    return rq->body;
}

uint64_t request_body_length(const struct request *rq)
{
    return rq->body_length;
}

const char *request_header(struct request *rq, const char *name)
{
    size_t size = http_join_values(&rq->head, rq->buffer, name, NULL);
    char *values = size > 0 ? request_allocate(rq, size) : NULL;
    if (values != NULL)
        http_join_values(&rq->head, rq->buffer, name, values);
    return values;
}

const char *request_parameter(struct request *rq, const char *name)
{
    if (rq->parameters == NULL) {
        rq->parameters = malloc(http_query_room(rq->query));
        if (rq->parameters != NULL)
            http_decode_query(rq->query, rq->parameters);
    }
    for (const char *at = rq->parameters; at != NULL && *at != '\0';) {
        const char *value = at + strlen(at) + 1;
        if (strcmp(at, name) == 0)
            return value;
        at = value + strlen(value) + 1;
    }
    return NULL;
}

void request_log(const struct request *rq, const char *format, ...)
{
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    log_event(rq->slot->id, line);
}

/* ---- Run: which program -------------------------------------------------------------- */

/* There is no program for this path. The client gets a plain 404, as what is wrong with a file is
 * not for it to know; the log says it. Returns -1. */
static int no_program(struct request *rq, const char *file, const char *why)
{
    request_log(rq, "no program for %s: %s: %s", rq->path, file, why);
    slot_reason(rq->slot, "no program serves this path");
    respond_text(rq, 404, "404 Not Found: %s\n", rq->slot->reason);
    return -1;
}

/* Walk down the directory FACTS->file along the path, segment by segment, to the program. The path
 * is resolved already, so no segment leads up; a symbolic link may lead anywhere, as its owner
 * wants. */
static int find_in_directory(struct request *rq, struct program_facts *facts)
{
    static char file[PATH_MAX];
    struct stat now;
    size_t length = strlen(facts->file);
    memcpy(file, facts->file, length + 1);
    facts->file = file;
    for (const char *at = rq->path_info;;) {
        size_t n = strcspn(at, "/");
        if (n == 0)
            return no_program(rq, file, "a directory is not listed");
        if (*at == '.')
            return no_program(rq, file, "hidden files are not served");
        if (length + 1 + n >= sizeof file)
            return no_program(rq, file, strerror(ENAMETOOLONG));
        file[length++] = '/';
        memcpy(file + length, at, n);
        file[length += n] = '\0';
        at += n;
        if (stat(file, &now) < 0)
            return no_program(rq, file, strerror(errno));
        if (!S_ISDIR(now.st_mode)) {
            facts->path_info = at;
            facts->script_name_length = (size_t)(at - rq->path);
            break;
        }
        at += *at == '/';
    }
    if (!S_ISREG(now.st_mode) || access(file, X_OK) < 0)
        return no_program(rq, file, "it is not an executable file");
    return 0;
}

/* Find the program of the route and what it is told of the path. Returns 0, or -1 when the client
 * has its answer. */
static int find_program(struct request *rq, struct program_facts *facts)
{
    struct stat now;
    size_t length = strlen(rq->route->path);
    bool prefix = rq->route->path[length - 1] == '/';
    facts->file = rq->route->program;
    facts->script_name_length = prefix ? length - 1 : length;
    facts->path_info = prefix ? rq->path + length - 1 : "";
    if (stat(facts->file, &now) < 0)
        return no_program(rq, facts->file, strerror(errno));
    return S_ISDIR(now.st_mode) ? find_in_directory(rq, facts) : 0;
}

/* ---- Run: the program starts --------------------------------------------------------- */

/* A route's program, while it runs. */
static struct program {
    pid_t pid;
    int out, err; /* the read ends of its pipes; -1: none */
    int ends[2];  /* the write ends, which are kept open: so a wait is not ended by their close */
    volatile sig_atomic_t child_ended; /* SIGCHLD has come */
    int64_t looked;                    /* when its records were looked at; 0: not yet */
    bool ended;
    int status;     /* of waitpid(2), once it has ended */
    size_t have;    /* of its header, in program_output */
    bool answering; /* its header is whole: what follows is body */
    struct log_lines lines;
} program = {.out = -1, .err = -1, .lines = {.stream = "stderr"}};

/* A piece of what it has written. Apart from the struct, which has initial values: those of 64 KiB
 * would lie in the executable, to be copied page by page. */
static char program_output[65536];

struct launch {
    const struct request *rq;
    const char *file, *directory;
    char *const *environment;
    struct route_limits limits;
    int fds[4]; /* what it gets as descriptors 0 to 3; all above 2 */
    pid_t self;
    int error; /* errno of what failed */
    const char *failed;
};

/* The newborn. It is in our memory until it executes, and we wait so long: only system calls, and
 * nothing written but what is for us. (AddressSanitizer is kept out: it would mark the frames of a
 * process that never returns, in memory that is ours.) */
__attribute__((no_sanitize("address"))) static int become_program(void *data)
{
    struct launch *l = data;
    struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t none;
    char *const words[] = {(char *)l->file, NULL};
    /* A handled signal is reset here, while all are blocked: exec would do so only after they are
     * let in, and our handler would run in it. An ignored one stays ignored over exec. */
    for (int signal = 1; signal < NSIG; signal++)
        if (signal == SIGTERM || sigismember(&l->rq->settings->ignored, signal) == 1)
            sigaction(signal, &usual, NULL);
    sigemptyset(&none);
    /* The program dies with us, whoever kills us; unless we died before it could ask for that. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != l->self)
        _exit(127);
    setpgid(0, 0);                 /* so that "kill 0" in it does not reach its server */
    for (int fd = 0; fd < 4; fd++) /* the last may be 3 already, and would be closed by exec */
        if ((l->fds[fd] != fd ? dup2(l->fds[fd], fd) : fcntl(fd, F_SETFD, 0)) < 0)
            goto failed;
    restore_descriptor_limit(l->rq->settings);
    l->failed = "set the limits of";
    if (limits_set(&l->limits) < 0)
        goto failed;
    l->failed = "enter the directory of";
    if (chdir(l->directory) < 0)
        goto failed;
    l->failed = "execute";
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(l->file, words, l->environment);
failed:
    l->error = errno;
    _exit(127);
}

/* Close the pipes of the last program, which has redirected to another one. */
static void program_close(void)
{
    int *fds[] = {&program.out, &program.err, &program.ends[0], &program.ends[1]};
    for (size_t i = 0; program.out >= 0 && i < sizeof fds / sizeof fds[0]; i++)
        close(*fds[i]);
    program.out = program.err = -1;
}

/* Make a pipe for what the program writes: one that is read only when it holds something, so it
 * need not be non-blocking. Returns its read end, or -1 with errno; *END is the program's. */
static int open_output(int *end)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return *end = -1;
    *end = ends[1];
    return ends[0];
}

/* Make the program's process. Memory is shared until it executes, so no page is copied; its stack
 * is a piece of ours (clone(2), as vfork, which cannot have a stack of its own). All signals are
 * blocked: a handler that ran in the newborn would change what is ours. */
static pid_t spawn(struct launch *l)
{
    _Alignas(16) char stack[32768];
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    pid_t pid = clone(become_program, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, l);
    if (pid < 0) {
        l->error = errno;
        l->failed = "make a process for";
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return pid;
}

/* The program could not be started: the log says why, with a hint where the error's own text
 * misleads. It is 503 if it may work later, else 502. Returns -1. */
static int not_started(struct request *rq, const struct launch *l)
{
    const char *file = l->file, *hint = "";
    if (l->error == ENOENT && access(file, F_OK) == 0)
        hint = " (the interpreter in its first line is not there)";
    else if (l->error == ENOEXEC)
        hint = " (a script begins with #! and its interpreter)";
    else if (l->error == EACCES)
        hint = " (chmod +x makes it executable)";
    request_log(rq, "could not %s the program %s: %s%s", l->failed, file, strerror(l->error), hint);
    bool room = l->error != EAGAIN && l->error != ENOMEM && l->error != EMFILE &&
                l->error != ENFILE && l->error != ENOSPC;
    int status = room ? 502 : 503;
    respond_text(rq, status, "%d %s: the program could not be started\n", status,
                 http_reason(status));
    return -1;
}

/* Returns true if the program's TMPDIR is its request's own. */
static bool has_own_tmpdir(const struct request *rq)
{
    enum tmpdir use = rq->route->use_tmpdir;
    return (use != TMPDIR_DEFAULT ? use : rq->settings->use_tmpdir) == TMPDIR_OWN;
}

/* Start the program. Its ledger and TMPDIR come first: a program that runs can make things, and
 * records them itself by descriptor 3. Returns 0, or -1 when the client has its answer. */
static int program_start(struct request *rq, struct program_facts *facts)
{
    const char *file = facts->file, *slash = strrchr(file, '/');
    struct launch l = {.rq = rq,
                       .file = file,
                       .self = rq->call->pid,
                       .limits = limits_choose(&rq->route->limits, &rq->settings->limits)};
    program_close();
    program.ended = program.answering = false;
    program.child_ended = 0;
    program.have = 0;
    bool own_tmpdir = has_own_tmpdir(rq);
    cleanup_want_scratch(own_tmpdir);
    int ledger = cleanup_open_for_program();
    if (ledger < 0)
        return respond_errno(rq, "make the program's ledger");
    facts->tmpdir = own_tmpdir ? cleanup_tempdir() : NULL;
    if (own_tmpdir && facts->tmpdir == NULL)
        return respond_errno(rq, "make the program's TMPDIR");
    facts->directory = l.directory =
        request_keep(rq, file, slash > file ? (size_t)(slash - file) : 1);
    if (l.directory == NULL)
        return respond_errno(rq, "find the program's directory");
    l.environment = environment_make(facts, request_allocate, rq);
    if (l.environment == NULL)
        return respond_errno(rq, "make the program's environment");
    l.failed = "make the descriptors of";
    program.out = open_output(&program.ends[0]);
    program.err = open_output(&program.ends[1]);
    if (program.out < 0 || program.err < 0) {
        l.error = errno;
        return not_started(rq, &l);
    }
    l.fds[0] = rq->body >= 0 ? rq->body : rq->settings->null;
    l.fds[1] = program.ends[0];
    l.fds[2] = program.ends[1];
    l.fds[3] = ledger;
    program.pid = spawn(&l);
    return program.pid < 0 || l.error != 0 ? not_started(rq, &l) : 0;
}

/* ---- Run: the program answers -------------------------------------------------------- */

#define PIPE_HOLDS 65536 /* bytes, pipe(7) */

/* Header fields that are the server's, or concern a connection that is not the program's. */
static bool is_for_client(const char *name)
{
    return !is_reserved_field(name) && strcasecmp(name, "Keep-Alive") != 0 &&
           strcasecmp(name, "Upgrade") != 0 && strcasecmp(name, "Trailer") != 0;
}

/* Returns what the span of the program's header holds, as a string, without a copy: the byte behind
 * it, which ended a name or a line and has been parsed, becomes its NUL. */
static const char *span_text(struct http_span s)
{
    program_output[s.at + s.length] = '\0';
    return program_output + s.at;
}

static int add_program_fields(struct request *rq, const struct cgi_head *h)
{
    for (uint32_t i = 0; i < h->field_count; i++) {
        const char *name = span_text(h->fields[i].name);
        const char *value = span_text(h->fields[i].value);
        if (is_for_client(name) && respond_header(rq, name, value) < 0)
            return -1;
    }
    return 0;
}

/* The program's header is whole: prepare the answer (RFC 3875 section 6). Its head goes out with
 * the body's first byte, so that a program which fails before that is still answered with 502. */
static int begin_program_answer(struct request *rq, const struct cgi_head *h)
{
    const char *location = h->location.length > 0 ? span_text(h->location) : NULL;
    /* A local redirect is a Location alone (RFC 3875 section 6.2.2): with a Set-Cookie, say, it is
     * for the client, and so is one to what another server serves, behind the same proxy. */
    bool alone = h->status == 0 && h->type.length == 0 && !h->has_length && h->field_count == 0;
    if (location != NULL && alone && is_served_here(rq, location)) {
        rq->redirect = strdup(location);
        return rq->redirect != NULL ? 0 : -1;
    }
    if (location != NULL && respond_header(rq, "Location", location) < 0)
        return -1;
    if (add_program_fields(rq, h) < 0)
        return -1;
    int status = h->status != 0 ? h->status : location != NULL ? 302 : 200;
    const char *type = h->type.length > 0 ? span_text(h->type) : NULL;
    if (respond_begin(rq, status, type, h->has_length ? (int64_t)h->length : -1) < 0)
        return -1;
    rq->answer.reason = h->reason.length > 0 ? strdup(span_text(h->reason)) : NULL;
    return 0;
}

/* Pass N bytes of the program's body on. Returns 0, or -1, which the log tells. */
static int pass_body(struct request *rq, const char *data, size_t n)
{
    if (n == 0 || rq->redirect != NULL || respond_write(rq, data, n) == 0)
        return 0;
    if (!rq->client_gone)
        request_log(rq, "the program wrote more than its Content-Length");
    return -1;
}

/* N more bytes of the program's header have come. Returns 0, or -1 if it is bad, or if what stood
 * behind it could not be passed on. */
static int parse_program_header(struct request *rq, size_t n)
{
    static struct cgi_head h; /* too large for the stack of a process that shall touch little */
    program.have += n;
    int64_t size = cgi_parse_head(&h, program_output, program.have);
    if (size == 0)
        return 0;
    if (size > 0 && begin_program_answer(rq, &h) < 0) {
        size = -1;
        h.wrong = "a field that cannot be sent";
    }
    if (size < 0) {
        request_log(rq, "the program's header is bad: %s%s%.*s", h.wrong,
                    h.line.length > 0 ? ": " : "", (int)(h.line.length < 200 ? h.line.length : 200),
                    program_output + h.line.at);
        return -1;
    }
    program.answering = true;
    return pass_body(rq, program_output + size, program.have - (size_t)size);
}

/* Read at most MOST bytes of the answer and pass them on. Returns how many, 0 if there is no more
 * now or ever, -1 if the answer can go no further. What follows a redirect is read and dropped: a
 * program that waited for room in its pipe would not end. */
static ssize_t pass_on_piece(struct request *rq, size_t most)
{
    size_t at = program.answering ? 0 : program.have, room = sizeof program_output - at;
    ssize_t n = read(program.out, program_output + at, most < room ? most : room);
    if (n <= 0)
        return 0;
    if (!program.answering)
        return parse_program_header(rq, (size_t)n) < 0 ? -1 : n;
    return pass_body(rq, program_output, (size_t)n) < 0 ? -1 : n;
}

/* Returns true if the pipe FD holds something, so that reading it does not wait. */
ASYNC_SAFE static bool holds_something(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return fd >= 0 && poll(&p, 1, 0) > 0 && (p.revents & POLLIN) != 0;
}

/* Log what the program's pipe of errors holds, and no more than it can hold at once: a process that
 * goes on writing must not keep us here. */
ASYNC_SAFE static void log_held_errors(void)
{
    ssize_t n = 1;
    for (ssize_t left = PIPE_HOLDS; n > 0 && left > 0 && holds_something(program.err); left -= n)
        n = log_lines_read(&program.lines, request.slot->id, program.err);
}

/* Reap the program, and whatever of its descendants has come to us, as we are their subreaper. */
static void reap_program(void)
{
    int status;
    program.child_ended = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == program.pid) {
            program.ended = true;
            program.status = status;
        }
}

/* Let a pending signal in by a wait for nothing. A wait that finds something to read at once does
 * not, and a program that writes without a pause would never be stopped. */
static void let_signals_in(void)
{
    const struct timespec at_once = {0};
    ppoll(NULL, 0, &at_once, request.mask_of_waits);
}

#define LOOK_MS 500 /* between two looks at what a program has recorded, beside one at its end */

/* Returns the shorter of MOST, a wait that is in LEFT, or NULL for any, and the time between two
 * looks. */
static const struct timespec *until_look(const struct timespec *most, struct timespec *left)
{
    const struct timespec look = {0, LOOK_MS * 1000000L};
    if (most == NULL || most->tv_sec > 0 || most->tv_nsec > look.tv_nsec)
        *left = look;
    return left;
}

/* Look, if it is time for it. */
static void look_at_records(void)
{
    int64_t now = clock_ms();
    if (program.looked == 0)
        program.looked = now;
    if (now - program.looked < LOOK_MS)
        return;
    cleanup_look_at_program();
    program.looked = now;
}

#define ROUNDS_WITHOUT_SIGNALS 16 /* pieces of output; the parent's signals are seen at once */

/* Tell whoever writes the program while it can be mended: at the undo it would be too late. */
static void tell_no_record(const char *line, const char *wrong)
{
    if (*line == '\0')
        request_log(&request, "the program's ledger, descriptor 3: %s", wrong);
    else
        request_log(&request,
                    "the program wrote no record to descriptor 3: %.200s: %s; it will not "
                    "be undone",
                    line, wrong);
}

/* Pass on what the program writes until it has ended, and ask the client while it writes nothing.
 * Then what its pipes hold is read, and no end of file is waited for: a grandchild that still has
 * them open would keep the answer back. Returns 0, or -1 if the answer can go no further. */
static int pass_on(struct request *rq)
{
    int client = askable(rq);
    for (unsigned round = 1; !program.ended; round++) {
        struct pollfd p[] = {
            {program.out, POLLIN, 0}, {program.err, POLLIN, 0}, {client, POLLRDHUP, 0}};
        struct timespec left;
        const struct timespec *most = until_look(until_question(&rq->answer, &left), &left);
        int ready = program.child_ended == 0 ? ppoll(p, 3, most, request.mask_of_waits) : -1;
        if (program.child_ended != 0)
            reap_program();
        if (ready < 0)
            continue;
        look_at_records();
        if (p[2].revents != 0) {
            client = -1; /* it would be ready from now on */
            rq->answer.fin_seen = true;
        }
        if (p[1].revents != 0)
            log_lines_read(&program.lines, rq->slot->id, program.err);
        if ((p[0].revents != 0 ? pass_on_piece(rq, sizeof program_output) : ask(rq)) < 0)
            return -1;
        cleanup_check_program(tell_no_record);
        if (round % ROUNDS_WITHOUT_SIGNALS == 0 || atomic_load(&rq->slot->cause) != CAUSE_NONE)
            let_signals_in();
    }
    cleanup_look_at_program();
    int left = 0;
    if (ioctl(program.out, FIONREAD, &left) < 0)
        left = 0;
    for (ssize_t n = 1; n > 0 && left > 0; left -= (int)n)
        if ((n = pass_on_piece(rq, (size_t)left)) < 0)
            return -1;
    log_held_errors();
    cleanup_check_program(tell_no_record);
    return 0;
}

/* After SIGTERM, what the program says goes to the log, and what it still answers is dropped: it
 * must not spend its last seconds waiting for room in a pipe. */
ASYNC_SAFE static void program_last_words(void)
{
    char nowhere[4096];
    ssize_t n = 1;
    log_held_errors();
    for (ssize_t left = PIPE_HOLDS; n > 0 && left > 0 && holds_something(program.out); left -= n)
        n = read(program.out, nowhere, sizeof nowhere);
}

/* End the program and all other processes of the request, which have GRACE_MS for a last word.
 * Returns true if none is left. Also for a C handler, which may have forked. */
ASYNC_SAFE static bool end_program(int64_t grace_ms)
{
    bool none = cleanup_end_children(grace_ms, program_last_words);
    log_held_errors(); /* the very last may have come with its end */
    return none;
}

/* Returns true if the program has done what it should. Otherwise the log says what it did instead;
 * the client is told only that it failed. */
static bool ended_well(const struct request *rq, const char *file)
{
    int status = program.status;
    char limits[128] = "";
    struct text t = TEXT(limits);
    struct route_limits l = limits_choose(&rq->route->limits, &rq->settings->limits);
    text_limits(&t, &l); /* those of memory and processes show only in what the program fails at */
    if (WIFSIGNALED(status))
        request_log(rq, "the program %s was ended by signal %d (%s)%s", file, WTERMSIG(status),
                    limit_or_signal(WTERMSIG(status)), limits);
    else if (WEXITSTATUS(status) != 0)
        request_log(rq, "the program %s exited with status %d%s", file, WEXITSTATUS(status),
                    limits);
    else if (!program.answering)
        request_log(rq, "the program %s exited without a whole header%s", file, limits);
    else if (rq->redirect == NULL && !is_complete(rq))
        request_log(rq, "the program %s wrote less than its Content-Length%s", file, limits);
    else
        return true;
    return false;
}

ASYNC_SAFE static void on_sigchld(int signal)
{
    (void)signal;
    program.child_ended = 1;
}

/* From here on signals come in waits alone, where everything is in order. SIGCHLD ends a wait. */
static void hold_signals(sigset_t *before)
{
    static sigset_t waits;
    const struct sigaction child = {.sa_handler = on_sigchld, .sa_flags = SA_RESTART};
    sigset_t both;
    sigaction(SIGCHLD, &child, NULL);
    sigemptyset(&both);
    sigaddset(&both, SIGTERM);
    sigaddset(&both, SIGCHLD);
    sigprocmask(SIG_BLOCK, &both, before);
    waits = *before;
    sigdelset(&waits, SIGCHLD);
    request.mask_of_waits = &waits;
}

static void release_signals(const sigset_t *before)
{
    request.mask_of_waits = NULL;
    sigprocmask(SIG_SETMASK, before, NULL);
}

/* Run the program to its end. What it fails at is answered or logged here. Returns as a C handler
 * does: 0, or -1 if what was made is to be undone. */
static int serve_program(struct request *rq)
{
    struct program_facts facts = {.head = &rq->head,
                                  .buffer = rq->buffer,
                                  .method = rq->method,
                                  .path = rq->path,
                                  .query = rq->query,
                                  .has_body = rq->body >= 0 || rq->head.has_length,
                                  .body_length = rq->body_length,
                                  .connection = rq->call->connection,
                                  .is_tcp = rq->call->is_tcp,
                                  .client = rq->slot->client,
                                  .software = "hangupd/" HANGUPD_VERSION,
                                  .id = rq->slot->id,
                                  .inherited = inherited_by(rq)->variables};
    if (find_program(rq, &facts) < 0 || program_start(rq, &facts) < 0)
        return -1;
    int passed = pass_on(rq);
    if (passed < 0 && rq->client_gone)
        abandon(rq, OUTCOME_HANGUP, CAUSE_HANGUP);
    if (passed < 0) /* it has its last word, as ever */
        end_program(rq->settings->grace_ms);
    if (passed == 0 && ended_well(rq, facts.file))
        return 0;
    rq->redirect = NULL;
    if (!rq->answer.started && !is_whole_error(rq)) {
        answer_again(rq);
        respond_failure(rq, 502, true);
    }
    return -1;
}

/* Signals are held while a program runs: the reading of its pipes is no code to be interrupted, and
 * its waits, where SIGTERM is let in, are what it does nearly all of the time. */
static int run_program(struct request *rq)
{
    sigset_t before;
    hold_signals(&before);
    int result = serve_program(rq);
    log_lines_end(&program.lines, rq->slot->id);
    release_signals(&before);
    return result;
}

/* ---- Answer -------------------------------------------------------------------------- */

/* Returns true for fields that say where the answer ends or what becomes of the connection: a
 * handler that set them could contradict what is sent. */
static bool is_reserved_field(const char *name)
{
    static const char *const names[] = {"Content-Length", "Transfer-Encoding", "Connection",
                                        "Date"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcasecmp(name, names[i]) == 0)
            return true;
    return false;
}

/* Returns true if the answer can still be prepared by this process: with errno if not. */
static bool may_answer(const struct request *rq, bool valid)
{
    bool owner = cleanup_is_owner();
    errno = !owner ? EPERM : !valid ? EINVAL : EALREADY;
    return owner && valid && !rq->answer.prepared;
}

/* Returns true if VALUE can stand in a header field. No CR or LF: it would begin a field. */
static bool is_field_value(const char *value)
{
    while (*value != '\0' && http_is_text(*value))
        value++;
    return *value == '\0';
}

int respond_header(struct request *rq, const char *name, const char *value)
{
    struct answer *a = &rq->answer;
    if (!may_answer(rq, name != NULL && value != NULL && http_is_token(name, strlen(name)) &&
                            !is_reserved_field(name) && is_field_value(value)))
        return -1;
    size_t n = strlen(name), m = strlen(value);
    bool is_type = strcasecmp(name, "Content-Type") == 0; /* there is one, whoever names it */
    errno = E2BIG;
    if (is_type ? m >= TYPE_SIZE : n + m + 4 >= sizeof a->fields - a->fields_size)
        return -1;
    if (is_type) {
        a->own_type = request_keep(rq, value, m);
        return a->own_type != NULL ? 0 : -1;
    }
    struct text t = {.at = a->fields, .length = a->fields_size, .room = sizeof a->fields};
    text_format(&t, "%s: %s\r\n", name, value);
    a->fields_size = t.length;
    return 0;
}

int respond_begin(struct request *rq, int status, const char *type, int64_t length)
{
    struct answer *a = &rq->answer;
    if (!may_answer(rq, status >= 200 && status <= 599 && length >= -1 &&
                            (type == NULL || (strlen(type) < TYPE_SIZE && is_field_value(type)))))
        return -1;
    a->prepared = true;
    a->status = status;
    a->type = type != NULL ? request_keep(rq, type, strlen(type)) : NULL;
    a->length = length;
    a->framing = length >= 0          ? FRAMING_LENGTH
                 : rq->head.minor > 0 ? FRAMING_CHUNKED
                                      : FRAMING_CLOSE;
    return 0;
}

int respond(struct request *rq, int status, const char *type, const void *body, size_t length)
{
    struct answer *a = &rq->answer;
    if (body == NULL && length > 0) {
        errno = EINVAL;
        return -1;
    }
    if (respond_begin(rq, status, type, (int64_t)length) < 0)
        return -1;
    a->body = request_keep(rq, body, length);
    if (a->body == NULL) {
        a->prepared = false;
        return -1;
    }
    a->body_size = length;
    a->written = length;
    return 0;
}

int respond_text(struct request *rq, int status, const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) {
        errno = ENOMEM;
        return -1;
    }
    int done = respond(rq, status, "text/plain; charset=utf-8", text, (size_t)n);
    free(text);
    return done;
}

int respond_errno(struct request *rq, const char *doing)
{
    int error = errno; /* 0: what failed has set none */
    const char *path = cleanup_unmade(error);
    request_log(rq, "could not %s%s%s%s%s", doing, path != NULL ? ": " : "",
                path != NULL ? path : "", error != 0 ? ": " : "",
                error != 0 ? strerror(error) : "");
    int status = error == EEXIST ? 409 : error == ENOSPC || error == EDQUOT ? 507 : 500;
    if (!rq->answer.prepared) {
        rq->answer.own_type = NULL; /* it was for what could not be done */
        respond_text(rq, status, "could not %s\n", doing);
    }
    errno = error;
    return -1;
}

static bool has_no_body(const struct request *rq)
{
    int status = rq->answer.status;
    return rq->is_head || status == 204 || status == 205 || status == 304;
}

/* Returns true if the answer has all the body that its head promises. */
static bool is_complete(const struct request *rq)
{
    const struct answer *a = &rq->answer;
    return a->prepared &&
           (a->framing != FRAMING_LENGTH || has_no_body(rq) || a->written == (uint64_t)a->length);
}

/* Returns true if the answer is an error that its handler has written whole: it is ended in order,
 * whatever else the handler says of its end, as many programs exit with a status that is not 0 when
 * they have told what is wrong. */
static bool is_whole_error(const struct request *rq)
{
    return is_complete(rq) && rq->answer.status >= 400 && !rq->client_gone;
}

/* Forget the answer that was prepared, for another; none of it has been sent. */
static void answer_again(struct request *rq)
{
    memset(&rq->answer, 0, offsetof(struct answer, head));
}

/* Give the server's own answer to work that failed. Whether it is UNDONE is known only later, and
 * then it is given again: finish_badly. */
static int respond_failure(struct request *rq, int status, bool undone)
{
    int done = respond_text(rq, status, "%d %s: %s\n", status, http_reason(status),
                            handler_words(status, CAUSE_NONE, undone));
    rq->answer.says_undone = done == 0;
    return done;
}

ASYNC_SAFE static void add_status_line(struct text *t, int status, const char *reason)
{
    text_format(t, "HTTP/1.1 %d %s\r\n", status, reason != NULL ? reason : http_reason(status));
    http_add_date(t);
}

/* Build the head. It goes out in one packet with the first bytes of the body, or in delivery. */
static void build_head(struct request *rq)
{
    struct answer *a = &rq->answer;
    struct text t = TEXT(a->head);
    bool draining = atomic_load(rq->call->draining) != 0;
    if (!rq->head.keep_alive || a->framing == FRAMING_CLOSE || rq->rest_unread || draining)
        rq->must_close = true;
    add_status_line(&t, a->status, a->reason);
    const char *type = a->own_type != NULL ? a->own_type : a->type;
    if (type != NULL)
        text_format(&t, "Content-Type: %s\r\n", type);
    if (a->status == 205) /* RFC 9110 section 15.3.6 */
        text_add(&t, "Content-Length: 0\r\n");
    else if (a->framing == FRAMING_LENGTH && a->status != 204 && a->status != 304)
        text_format(&t, "Content-Length: %llu\r\n", (unsigned long long)a->length);
    else if (a->framing == FRAMING_CHUNKED && !has_no_body(rq))
        text_add(&t, "Transfer-Encoding: chunked\r\n");
    if (rq->must_close)
        text_add(&t, "Connection: close\r\n");
    else if (rq->head.minor == 0)
        text_add(&t, "Connection: keep-alive\r\n");
    text_bytes(&t, a->fields, a->fields_size);
    text_add(&t, "\r\n");
    a->head_size = t.length;
}

/* The answer begins: after this it can only be completed or cut, and a hangup shows by writing. The
 * client gets the send timeout, for which it may be silent from here on. */
static void start_answer(struct request *rq)
{
    if (rq->answer.started)
        return;
    if (!connection_is_ours(rq)) {
        request_log(rq,
                    "the handler has closed the descriptor of its connection, %d: it may close "
                    "what it has opened, and no other",
                    rq->call->connection);
        rq->slot->outcome = OUTCOME_ERROR;
        _exit(HANDLER_EXIT_UNDONE); /* the parent undoes, and tells the client */
    }
    rq->answer.started = true;
    rq->slot->status = (uint16_t)rq->answer.status;
    begin_answering(rq);
    set_user_timeout(rq, rq->settings->send_ms);
    build_head(rq);
}

/* Returns true if the route has on-hangup=finish: the work is kept even if nobody reads of it. */
static bool outlives_client(const struct request *rq)
{
    return (atomic_load(&rq->slot->state) & SLOT_OUTLIVES) != 0;
}

/* What ends a chunk waits for the next one, or for the last: the client has all of the data without
 * it, and meanwhile it is what the client can be asked with. */
static const char chunk_end[] = {'\r', '\n'};

static struct iovec owed_end(const struct answer *a)
{
    return (struct iovec){(char *)chunk_end + sizeof chunk_end - a->owed, a->owed};
}

#define ASK_EVERY_MS 1000 /* a relay that acknowledged for one who had gone has ended by then */

/* Returns the connection, to be polled for the FIN of a client that can be asked, or -1. */
static int askable(const struct request *rq)
{
    bool may = rq->call->is_tcp && fin_means(atomic_load(&rq->slot->state)) == FIN_ASK;
    return may ? rq->call->connection : -1;
}

/* Find how long a wait may take until the next question. Returns NULL if there is none to come. */
static const struct timespec *until_question(const struct answer *a, struct timespec *left)
{
    if (!a->fin_seen || a->owed == 0)
        return NULL;
    int64_t ms = a->ask_at - clock_ms();
    *left = (struct timespec){.tv_sec = ms < 0 ? 0 : ms / 1000,
                              .tv_nsec = ms < 0 ? 0 : ms % 1000 * 1000000};
    return left;
}

/* In the middle of a chunked answer whose program is silent, ask a client that has sent FIN whether
 * it is there, by the next byte of what ends the chunk: the kernel of one that has gone replies
 * with a reset, which the parent sees. Not while bytes are on their way, which ask by themselves.
 * Returns -1 if it is known to have gone. */
static int ask(struct request *rq)
{
    struct answer *a = &rq->answer;
    int fd = rq->call->connection;
    if (!a->fin_seen || a->owed == 0 || clock_ms() < a->ask_at)
        return 0;
    a->ask_at = clock_ms() + ASK_EVERY_MS;
    if (outstanding(fd) > 0)
        return 0;
    ssize_t n = send(fd, owed_end(a).iov_base, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0)
        a->owed--;
    rq->client_gone = n < 0 && errno != EAGAIN && errno != EINTR;
    return rq->client_gone ? -1 : 0;
}

/* Send LENGTH bytes of the body, with what must come before and behind them, by one call: pieces
 * would go out as packets of their own. Returns 0, or -1 with errno if the client is gone; then
 * also 0 if the work goes on without it. */
static int send_body(struct request *rq, const char *data, size_t length)
{
    struct answer *a = &rq->answer;
    char size_line[24];
    struct iovec v[5];
    int n = 0;
    size_t held = a->held_size;
    start_answer(rq);
    if (a->head_size > 0)
        v[n++] = (struct iovec){a->head, a->head_size};
    if (a->owed > 0)
        v[n++] = owed_end(a);
    if (held > 0)
        v[n++] = (struct iovec){(char *)a->held, held};
    if (a->framing == FRAMING_CHUNKED && length > 0) {
        int size = snprintf(size_line, sizeof size_line, "%zx\r\n", length);
        v[n++] = (struct iovec){size_line, (size_t)size};
    }
    if (length > 0)
        v[n++] = (struct iovec){(char *)data, length};
    if (a->framing == FRAMING_CHUNKED && length > 0)
        a->owed = sizeof chunk_end;
    if (a->fin_seen) /* this asks, too */
        a->ask_at = clock_ms() + ASK_EVERY_MS;
    a->head_size = 0;
    a->held_size = 0;
    if (rq->client_gone && outlives_client(rq))
        return 0; /* the work goes on, for nobody to read */
    if (send_all(rq, v, n) < 0)
        return outlives_client(rq) ? 0 : -1;
    rq->slot->bytes += length + held;
    return 0;
}

/* On AF_UNIX a close-delimited answer is collected whole and given its length. There is no reset
 * there, so a cut answer would look like a complete one. */
static int collect_body(struct answer *a, const void *data, size_t length)
{
    char *more = realloc(a->body, a->body_size + length);
    if (more == NULL)
        return -1;
    memcpy(more + a->body_size, data, length);
    a->body = more;
    a->body_size += length;
    return 0;
}

#define HOLD_MAX 4096 /* bytes */

/* Hold the end of the body back, so that the answer cannot be complete before its handler has
 * returned: one byte of it, or all of a small one that came at once. Then nothing of the answer is
 * out yet, and if the handler fails after all the client gets a plain error. */
static int hold_end(struct request *rq, const char *data, size_t length)
{
    struct answer *a = &rq->answer;
    size_t held = !a->started && length <= HOLD_MAX ? length : 1;
    if (length > held && send_body(rq, data, length - held) < 0)
        return -1;
    a->held = request_keep(rq, data + length - held, held);
    if (a->held == NULL) {
        a->written -= length; /* even if the handler looks away: the answer is not complete */
        return -1;
    }
    a->held_size = held;
    return 0;
}

int respond_write(struct request *rq, const void *data, size_t length)
{
    struct answer *a = &rq->answer;
    bool owner = cleanup_is_owner();
    if (!owner || !a->prepared || (a->body != NULL && a->framing != FRAMING_CLOSE) ||
        (data == NULL && length > 0)) {
        errno = owner ? EINVAL : EPERM;
        return -1;
    }
    if (a->framing == FRAMING_LENGTH && length > (uint64_t)a->length - a->written) {
        errno = EMSGSIZE;
        return -1;
    }
    a->written += length;
    if (length == 0 || has_no_body(rq))
        return 0;
    if (a->framing == FRAMING_CLOSE && !rq->call->is_tcp)
        return collect_body(a, data, length);
    if (a->framing != FRAMING_LENGTH || a->written < (uint64_t)a->length)
        return send_body(rq, data, length);
    return hold_end(rq, data, length);
}

/* ---- Finish -------------------------------------------------------------------------- */

/* From here on SIGTERM waits: only the client's acknowledgement, or its absence, ends the request
 * now. The parent sees the flag, and gives it the send timeout before it kills. */
static void block_sigterm(struct request *rq)
{
    sigset_t term;
    rq->delivering = 1;
    rq->mask_of_waits = NULL;
    slot_flag(rq->slot, SLOT_DELIVERING);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
}

/* The request is settled: give the connection back to the parent, for another request if it can. */
_Noreturn static void hand_back(struct request *rq)
{
    if (!rq->must_close)
        set_user_timeout(rq, rq->settings->dead_peer_ms);
    leave(rq, rq->must_close ? HANDLER_EXIT_CLOSE : HANDLER_EXIT_KEEP);
}

/* The handler has done what it should: deliver its answer, and keep what it made if the client has
 * it. Else the connection is reset before the undo, so that the client cannot take the answer for
 * whole; and the ledger's `sent` is struck, which would make the parent keep everything. */
_Noreturn static void finish_well(struct request *rq)
{
    struct answer *a = &rq->answer;
    if (a->framing == FRAMING_CLOSE && !rq->call->is_tcp) {
        a->framing = FRAMING_LENGTH;
        a->length = (int64_t)a->body_size;
    }
    enum outcome outcome = deliver(rq);
    rq->slot->outcome = (uint8_t)outcome;
    if (outcome == OUTCOME_ERROR || (outcome != OUTCOME_OK && !outlives_client(rq))) {
        handler_cut(rq->call->connection, rq->call->is_tcp);
        bool struck = cleanup_unsent() == 0;
        if (!struck || !undo(rq))
            _exit(HANDLER_EXIT_UNDONE);
        leave(rq, HANDLER_EXIT_CLOSE);
    }
    if (outcome != OUTCOME_OK) /* what is left says that all is kept: see deliver */
        (void)cleanup_unsent();
    if (cleanup_keep() != CLEANUP_DONE)
        _exit(HANDLER_EXIT_UNDONE);
    hand_back(rq);
}

/* Undo, then send an answer of 400 or above: when it is complete nothing is left of what it failed
 * at. Except for what only a janitor may do, `run` commands: the parent has it done, and the
 * connection ends with this answer. */
_Noreturn static void finish_badly(struct request *rq, enum outcome outcome)
{
    rq->slot->outcome = (uint8_t)outcome;
    bool undone = undo(rq);
    if (!undone)
        rq->must_close = true;
    if (!undone && rq->answer.says_undone && !rq->answer.started) {
        int status = rq->answer.status;
        answer_again(rq);
        respond_failure(rq, status, false);
    }
    start_answer(rq);
    if (send_rest(rq, rq->must_close) < 0)
        rq->must_close = true;
    else if (rq->must_close)
        handler_end_sending(rq->call->connection);
    if (!undone)
        _exit(HANDLER_EXIT_UNDONE);
    hand_back(rq);
}

/* The answer has begun and cannot be completed. Reset the connection first: what is not
 * acknowledged by then never will be, and the client sees a cut answer. */
_Noreturn static void finish_cut(struct request *rq)
{
    rq->slot->outcome = rq->client_gone ? OUTCOME_HANGUP : OUTCOME_ERROR;
    handler_cut(rq->call->connection, rq->call->is_tcp);
    if (!undo(rq))
        _exit(HANDLER_EXIT_UNDONE);
    leave(rq, HANDLER_EXIT_CLOSE);
}

/* The handler has returned RESULT. What it left running is ended before anything is decided: it
 * could go on creating. Then the answer is kept, is an error, or must be cut. */
_Noreturn static void finish(struct request *rq, int result)
{
    struct answer *a = &rq->answer;
    block_sigterm(rq);
    rq->haunted = !cleanup_end_children(0, NULL);
    if (rq->haunted)
        request_log(rq, "%s", cleanup_survivor());
    size_t count;
    const char *leftovers = cleanup_leftovers(&count);
    if (count > 0)
        request_log(rq, "ended what it had left running, %zu in all: %s", count, leftovers);
    bool complete = is_complete(rq);
    if (result == 0 && complete && a->status < 400)
        finish_well(rq);
    if (a->started && !is_whole_error(rq))
        finish_cut(rq);
    if (!is_whole_error(rq)) {
        request_log(rq, "the handler %s",
                    result != 0    ? "failed"
                    : !a->prepared ? "returned without an answer"
                                   : "returned before its answer was complete");
        answer_again(rq);
        respond_failure(rq, 500, true);
    }
    finish_badly(rq, OUTCOME_ERROR);
}

/* Refuse the request, of which nothing has been made, with REASON in plain words. */
_Noreturn static void refuse_request(struct request *rq, int status, const char *reason)
{
    if (status == 503)
        respond_header(rq, "Retry-After", RETRY_AFTER);
    slot_reason(rq->slot, reason);
    respond_text(rq, status, "%d %s: %s\n", status, http_reason(status), reason);
    finish(rq, 0);
}

/* ---- Deliver ------------------------------------------------------------------------- */

/* Send what the answer still lacks. With MORE it waits in the kernel for the FIN that follows at
 * once, and both go in one packet. */
static int send_rest(struct request *rq, bool more)
{
    struct answer *a = &rq->answer;
    a->more = more ? MSG_MORE : 0;
    if (a->body != NULL && !has_no_body(rq))
        return send_body(rq, a->body, a->body_size);
    start_answer(rq);
    if (a->framing == FRAMING_CHUNKED && !has_no_body(rq)) {
        struct iovec v[] = {{a->head, a->head_size}, owed_end(a), {"0\r\n\r\n", 5}};
        return send_all(rq, v, 3);
    }
    return a->held_size > 0 || a->head_size > 0 ? send_body(rq, NULL, 0) : 0;
}

/* Returns how many bytes send_rest will send. A FIN counts one, where that completes the answer:
 * the kernel's count of what was acknowledged has it, too. */
static uint64_t rest_size(const struct request *rq)
{
    const struct answer *a = &rq->answer;
    uint64_t n = a->head_size + a->held_size;
    if (!has_no_body(rq))
        n += a->body != NULL ? a->body_size : a->framing == FRAMING_CHUNKED ? a->owed + 5 : 0;
    return n + (a->framing == FRAMING_CLOSE);
}

/* Find the kernel's count of bytes acknowledged since accept, and whether the connection is closed,
 * in one look (tcp(7), TCP_INFO; RFC 4898 tcpEStatsAppHCThruOctetsAcked). Returns false if it
 * cannot. */
static bool tcp_look(int fd, uint64_t *acked, bool *closed)
{
    struct tcp_info info;
    if (!get_tcp_info(fd, &info))
        return false;
    *acked = info.tcpi_bytes_acked;
    *closed = info.tcpi_state == 7; /* TCP_CLOSE: reset, or closed by both */
    return true;
}

/* Returns what that count will be when all sent so far and MORE bytes are acknowledged. */
static uint64_t acked_when_all_is(int fd, uint64_t more)
{
    struct tcp_info before, after;
    uint64_t queued;
    do { /* the two numbers belong together only if the first stood still meanwhile */
        get_tcp_info(fd, &before);
        queued = (uint64_t)outstanding(fd);
        get_tcp_info(fd, &after);
    } while (before.tcpi_bytes_acked != after.tcpi_bytes_acked);
    return (uint64_t)after.tcpi_bytes_acked + queued + more;
}

/* Returns true if the peer of a unix socket has read all that was sent: it leaves the queue then.
 * It does so, too, when a peer closes with bytes unread, which is an error; that is looked at by
 * poll(2) alone, as reading SO_ERROR would take it from whoever asks next. The queue is asked again
 * after the hangup was seen, because the peer may have read and closed between the two. */
static bool unix_was_read(int fd, bool *closed)
{
    struct pollfd p = {.fd = fd};
    bool read = outstanding(fd) == 0;
    *closed = poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
    return *closed ? (p.revents & POLLERR) == 0 && outstanding(fd) == 0 : read;
}

/* The count alone decides, and is asked first: a client, or HAProxy for it, may reset the
 * connection after it has acknowledged everything. */
enum outcome handler_delivery(int connection, bool is_tcp, uint64_t n, int64_t send_ms,
                              const _Atomic uint32_t *cause)
{
    uint64_t acked = 0, best = 0;
    int64_t until = clock_ms() + send_ms, whole_by = until + 3 * send_ms;
    int queued_before = INT_MAX;
    /* No event announces an acknowledgement, which may be 40 ms late (delayed ACK): look again in
     * steps, and at once when the client's FIN, which carries one, comes in. */
    struct pollfd p = {.fd = connection, .events = POLLRDHUP};
    for (int64_t step_us = 50;; step_us = step_us < 5000 ? step_us * 2 : step_us) {
        bool closed = false;
        if (is_tcp ? tcp_look(connection, &acked, &closed) && acked >= n
                   : unix_was_read(connection, &closed))
            return OUTCOME_OK;
        /* It never will be if less was ever sent: the child that was to send the rest is dead. */
        if (closed || (is_tcp && acked_when_all_is(connection, 0) < n))
            return OUTCOME_HANGUP;
        int queued = outstanding(connection);
        int64_t now = clock_ms();
        if (acked > best || queued < queued_before)
            until = now + send_ms;
        best = acked;
        queued_before = queued;
        if (now >= until || now >= whole_by)
            return now >= until ? OUTCOME_HANGUP : OUTCOME_TIMEOUT;
        if (atomic_load(cause) == CAUSE_DRAIN)
            return OUTCOME_DRAIN;
        struct timespec pause = {.tv_nsec = step_us * 1000};
        if (ppoll(&p, p.fd < 0 ? 0 : 1, &pause, NULL) > 0)
            p.fd = -1; /* it would be ready from now on */
    }
}

/* Send the end of an answer below 400 and learn whether the client has it. Returns OK, or why it
 * has not: HANGUP, TIMEOUT, DRAIN; or ERROR, if it must not go out. N is in the ledger before the
 * byte that completes the answer is out: if this process dies between the two, the parent asks the
 * connection, and the connection answers no, as that byte was never sent. With on-hangup=finish the
 * work is kept either way, and that must be in the ledger first: what is to be removed of a kept
 * request may not go, and whoever goes on with that must not take the hangup for a reason to undo.
 * Where nothing is recorded there is nothing to undo, and no wait for the acknowledgement. */
static enum outcome deliver(struct request *rq)
{
    bool recorded = cleanup_has_records(), is_tcp = rq->call->is_tcp;
    start_answer(rq); /* builds the head, which counts */
    uint64_t n = rest_size(rq);
    if (recorded && is_tcp)
        n = acked_when_all_is(rq->call->connection, n);
    if (recorded && ((outlives_client(rq) && cleanup_sent(0) < 0) || cleanup_sent(n) < 0)) {
        request_log(rq, "could not record the answer in the ledger: %s", strerror(errno));
        return OUTCOME_ERROR;
    }
    /* The FIN may share a packet with the last bytes only where nothing depends on it: such a
     * packet is acknowledged late, when its client may have closed by a reset already. */
    if (send_rest(rq, rq->must_close && !recorded) < 0)
        return OUTCOME_HANGUP;
    if (rq->must_close)
        handler_end_sending(rq->call->connection);
    return !recorded ? OUTCOME_OK
                     : handler_delivery(rq->call->connection, is_tcp, n, rq->settings->send_ms,
                                        &rq->slot->cause);
}

/* ---- End ----------------------------------------------------------------------------- */

/* Returns the status that tells the client of OUTCOME. To be evicted with a head or body that has
 * not come whole is the client's own delay; to wait in a line is not. */
ASYNC_SAFE static int status_for(enum outcome outcome, enum cause cause, uint32_t state)
{
    if (cause == CAUSE_EVICTED)
        return (state & (SLOT_HEAD_OPEN | SLOT_BODY_OPEN)) != 0 ? 408 : 503;
    return outcome == OUTCOME_TIMEOUT ? 504 : outcome == OUTCOME_CRASH ? 500 : 503;
}

/* What is said with a status, and of the undo what is so: UNDONE if nothing is left. */
ASYNC_SAFE const char *handler_words(int status, enum cause cause, bool undone)
{
#define AND_UNDONE(what) (undone ? what " and undone" : what ", and is not undone yet")
    switch (status) {
    case 408:
        return "the request did not arrive in time";
    case 504:
        return AND_UNDONE("the time limit was reached; the work was stopped");
    case 503:
        return cause == CAUSE_EVICTED
                   ? "too many requests; this one waited for its turn and had to make room"
               : cause == CAUSE_DRAIN ? AND_UNDONE("the server is stopping; the work was stopped")
                                      : AND_UNDONE("the work was stopped");
    case 502:
        return AND_UNDONE("the program failed; its work was stopped");
    default:
        return AND_UNDONE("the work failed; it was stopped");
    }
#undef AND_UNDONE
}

ASYNC_SAFE size_t handler_canned_answer(char *buffer, size_t room, int status, bool head_only,
                                        bool retry, const char *reason)
{
    struct text t = {.at = buffer, .room = room};
    const char *name = http_reason(status);
    unsigned long length = 3 + 1 + strlen(name) + 2 + strlen(reason) + 1;
    add_status_line(&t, status, NULL);
    text_format(&t, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %lu\r\n", length);
    text_add(&t, status == 503 && retry ? "Retry-After: " RETRY_AFTER "\r\n" : "");
    text_add(&t, "Connection: close\r\n\r\n");
    if (!head_only)
        text_format(&t, "%d %s: %s\n", status, name, reason);
    return t.length;
}

ASYNC_SAFE bool handler_send_canned(int connection, struct slot *slot, int status, bool head_only,
                                    const char *reason)
{
    char answer[1024];
    bool retry = atomic_load(&slot->cause) != CAUSE_OPERATOR; /* who wants it not to be done */
    size_t n = handler_canned_answer(answer, sizeof answer, status, head_only, retry, reason);
    if (send(connection, answer, n, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)n)
        return false;
    const char *blank = memmem(answer, n, "\r\n\r\n", 4);
    slot->status = (uint16_t)status;
    slot->bytes = n - 4 - (size_t)(blank - answer); /* of its body, as with all others */
    return true;
}

/* Undo, and note in the slot how that went. Returns true if nothing is left. Where the handler has
 * left threads running, which may go on creating, the parent does it when this process is dead. */
ASYNC_SAFE static bool undo(struct request *rq)
{
    bool something = cleanup_has_records();
    if (something && has_other_threads())
        return false;
    bool done = !rq->haunted && cleanup_undo() == CLEANUP_DONE;
    if (something)
        rq->slot->undo = done ? UNDO_OK : UNDO_FAILED;
    rq->slot->undone = log_sink.undone;
    return done;
}

/* Stop the work and undo it, tell the client if there is something to tell, and exit. The order is
 * the promise's: a begun answer is cut first, so that nobody takes it for whole; nothing runs any
 * more when the undo begins, so that nothing is made behind its back; and the client is told last,
 * when what it is told is true. */
ASYNC_SAFE _Noreturn static void abandon(struct request *rq, enum outcome outcome, enum cause cause)
{
    uint32_t state = atomic_load(&rq->slot->state);
    bool ran = state_of(state) >= SLOT_RUNNING;
    rq->slot->outcome = (uint8_t)outcome;
    if (rq->answer.started)
        handler_cut(rq->call->connection, rq->call->is_tcp);
    if (ran && outcome == OUTCOME_HANGUP)
        log_event(rq->slot->id, "The client closed the connection prematurely. Cleaning up.");
    rq->haunted = !end_program(ran ? rq->settings->grace_ms : 0);
    log_lines_end(&program.lines, rq->slot->id);
    if (!undo(rq))
        _exit(HANDLER_EXIT_UNDONE); /* the parent goes on, and tells the client */
    if (outcome != OUTCOME_HANGUP && !rq->answer.started && connection_is_ours(rq)) {
        int status = status_for(outcome, cause, state);
        begin_answering(rq);
        if (cause == CAUSE_EVICTED)
            slot_reason(rq->slot, handler_words(status, cause, true));
        if (handler_send_canned(rq->call->connection, rq->slot, status, rq->is_head,
                                handler_words(status, cause, true)))
            handler_end_sending(rq->call->connection);
    }
    leave(rq, HANDLER_EXIT_CLOSE);
}

/* Returns true if a handler has started threads; false, too, if /proc is not there to ask. */
ASYNC_SAFE static bool has_other_threads(void)
{
    struct stat task; /* a directory for each thread, and two links of its own */
    return stat("/proc/self/task", &task) == 0 && task.st_nlink > 3;
}

/* SIGTERM: the parent ends the request, for a cause that it has written into the slot; or it has
 * died, or an operator ends the request, and there is no cause. */
ASYNC_SAFE static void on_sigterm(int signal)
{
    if (!cleanup_is_owner()) { /* a process that the route forked: it dies of it, nothing more */
        struct sigaction fatal = {.sa_handler = SIG_DFL};
        sigaction(signal, &fatal, NULL);
        raise(signal);
        return;
    }
    if (request.delivering != 0)
        return;
    /* The parent writes a cause first. It is told of one that it has not sent: its time for us
     * begins then. If it is dead, the signal is the kernel's (PR_SET_PDEATHSIG). */
    uint32_t cause = CAUSE_NONE;
    if (getppid() == request.parent &&
        atomic_compare_exchange_strong(&request.slot->cause, &cause, CAUSE_OPERATOR)) {
        const struct handler_call *call = request.call;
        cause = CAUSE_OPERATOR;
        (void)write_all(call->nudge, &call->slot_number, sizeof call->slot_number);
    }
    /* Other threads would go on creating while this one undoes. No signal handler can stop them,
     * but SIGKILL does, and then the parent undoes. */
    if (has_other_threads()) {
        kill(getpid(), SIGKILL);
        return;
    }
    abandon(&request, outcome_of((enum cause)cause), (enum cause)cause);
}

/* Exit. The parent believes CODE only beside DONE: a C handler may call exit(0) at any time. */
ASYNC_SAFE _Noreturn static void leave(struct request *rq, int code)
{
    if (code != HANDLER_EXIT_UNDONE)
        slot_advance(rq->slot, SLOT_DONE, 0, 0);
    _exit(code);
}

/* ---- The demonstration --------------------------------------------------------------- */

#define DEMONSTRATION_MS_MAX INT64_C(60000)

/* Write a file, work for a while, answer. Hang up meanwhile, and the file is gone. */
int handler_demonstration(struct request *rq)
{
    char path[PATH_MAX];
    const char *asked = request_parameter(rq, "seconds");
    int64_t ms = asked != NULL ? parse_duration(asked) : 4000;
    if (ms < 0 || ms > DEMONSTRATION_MS_MAX)
        return respond_text(rq, 400, "seconds is a number from 0 to 60\n");
    snprintf(path, sizeof path, "%s/txt", rq->settings->tmpdir);
    int fd = cleanup_create(path, CLEANUP_OVERWRITE, 0644);
    if (fd < 0 || write_all(fd, "hello\n", 6) < 0 || close(fd) < 0)
        return respond_errno(rq, "write the file");
    request_log(rq, "new file %s", path);
    sleep_ms(ms);
    return respond_text(rq, 200, "File persisted.\n");
}
