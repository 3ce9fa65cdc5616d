#include "callers.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- One answer -------------------------------------------------------------------------- */

void reader_begin(struct reader *r, bool head)
{
    *r = (struct reader){.head = head};
}

/* The head is whole: what follows it? */
static void head_ended(struct reader *r)
{
    if (r->status >= 100 && r->status < 200) {
        uint64_t bytes = r->bytes;
        reader_begin(r, r->head);
        r->bytes = bytes;
    } else if (r->head || r->status == 204 || r->status == 304) {
        r->state = READ_WHOLE;
    } else if (r->chunked) {
        r->state = READ_CHUNK_SIZE;
    } else if (r->sized) {
        r->state = r->left > 0 ? READ_SIZED : READ_WHOLE;
    } else {
        r->state = READ_TO_END;
    }
}

static void field_read(struct reader *r)
{
    if (strncasecmp(r->line, "Content-Length:", 15) == 0) {
        r->sized = true;
        r->left = strtoull(r->line + 15, NULL, 10);
    } else if (strcasecmp(r->line, "Transfer-Encoding: chunked") == 0) {
        r->chunked = true;
    } else if (strcasecmp(r->line, "Connection: close") == 0) {
        r->closes = true;
    }
}

static void line_read(struct reader *r)
{
    bool empty = r->line_length == 0;
    char *end = r->line;
    switch (r->state) {
    case READ_STATUS:
        r->status = strncmp(r->line, "HTTP/1.1 ", 9) == 0 ? atoi(r->line + 9) : 0;
        r->state = r->status >= 100 && r->status < 600 ? READ_FIELDS : READ_WRONG;
        break;
    case READ_FIELDS:
        if (empty)
            head_ended(r);
        else
            field_read(r);
        break;
    case READ_CHUNK_SIZE:
        r->left = strtoull(r->line, &end, 16);
        r->state = end == r->line ? READ_WRONG : r->left == 0 ? READ_TRAILER : READ_CHUNK;
        break;
    case READ_CHUNK_END:
        r->state = empty ? READ_CHUNK_SIZE : READ_WRONG;
        break;
    default: /* READ_TRAILER */
        if (empty)
            r->state = READ_WHOLE;
        break;
    }
}

static void byte_of_line(struct reader *r, char byte)
{
    if (byte != '\n') {
        if (r->line_length < sizeof(r->line) - 1)
            r->line[r->line_length++] = byte;
        return;
    }
    if (r->line_length == 0 || r->line[r->line_length - 1] != '\r') {
        r->state = READ_WRONG;
        return;
    }
    r->line[--r->line_length] = '\0';
    line_read(r);
    r->line_length = 0;
}

void reader_take(struct reader *r, const char *bytes, size_t n)
{
    r->bytes += n;
    while (n > 0 && r->state != READ_WRONG) {
        size_t used = 1;
        if (r->state == READ_WHOLE) { /* nobody asked for more */
            r->state = READ_WRONG;
        } else if (r->state == READ_TO_END) {
            used = n;
        } else if (r->state == READ_SIZED || r->state == READ_CHUNK) {
            used = n < r->left ? n : (size_t)r->left;
            r->left -= used;
            if (r->left == 0)
                r->state = r->state == READ_SIZED ? READ_WHOLE : READ_CHUNK_END;
        } else {
            byte_of_line(r, *bytes);
        }
        bytes += used;
        n -= used;
    }
}

void reader_end(struct reader *r)
{
    if (r->state == READ_TO_END)
        r->state = READ_WHOLE;
}

/* ---- What was asked for, and how it went ------------------------------------------------- */

enum fate { FATE_OPEN, FATE_KEPT, FATE_VOID, FATE_DOUBT };

/* Also the position in `asks`. */
struct ask {
    uint8_t kind, fate;
    uint8_t manner;
    uint8_t there; /* things of its that were found */
    bool window;
    bool old, slow, sips, first; /* how it was asked for; first on its connection */
    uint16_t name;               /* of what several make */
    uint32_t began, ended;       /* lines of the journal; 0: none */
};

static struct ask *asks;
static unsigned long ask_room;
struct callers_tally tally;
static struct callers_plan plan;
static uint16_t port;

static const char *const kind_names[KINDS] = {"made",   "over",     "taken",   "tree",
                                              "cloud",  "streamed", "daemons", "bad",
                                              "posted", "plain",    "program"};

/* In the order of enum manner. */
static const char *const manner_names[] = {"stays", "resets when answered", "closes", "resets",
                                           "half-closes"};

#define OVER_NAMES 8
#define TAKEN_NAMES_AT_ONCE 8 /* a name is tried by many, and then given up for a new one */
#define TRIES_A_NAME 40

void callers_violation(const char *format, ...)
{
    va_list arguments;
    if (tally.violations++ >= 20)
        return;
    va_start(arguments, format);
    fputs("VIOLATION: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

/* The request TAG, for people. */
static const char *described(unsigned long tag)
{
    static char text[160];
    const struct ask *a = &asks[tag];
    snprintf(text, sizeof(text), "request %lu (%s, %s%s%s%s%s)", tag, kind_names[a->kind],
             manner_names[a->manner], a->old ? ", HTTP/1.0" : "", a->slow ? ", sends slowly" : "",
             a->sips ? ", reads slowly" : "", a->first ? "" : ", connection used before");
    return text;
}

/* xorshift64*, of which the upper half is good. */
static uint64_t random_state;
unsigned callers_random(unsigned n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (unsigned)((random_state * UINT64_C(2685821657736338717) >> 33) % n);
}

static bool chance(unsigned in_100)
{
    return callers_random(100) < in_100;
}

static enum kind random_kind(void)
{
    unsigned sum = 0, kind = 0;
    for (unsigned k = 0; k < KINDS; k++)
        sum += plan.weights[k];
    for (unsigned at = callers_random(sum); at >= plan.weights[kind]; kind++)
        at -= plan.weights[kind];
    return (enum kind)kind;
}

static unsigned long ask_new(void)
{
    static unsigned taken_tries;
    unsigned long tag = ++tally.requests;
    if (tag >= ask_room) {
        ask_room = 2 * ask_room + 4096;
        asks = realloc(asks, ask_room * sizeof(*asks));
        if (!asks)
            abort();
    }
    struct ask *a = &asks[tag];
    *a = (struct ask){.kind = (uint8_t)random_kind(), .fate = FATE_OPEN};
    if (a->kind == KIND_OVER)
        a->name = (uint16_t)callers_random(OVER_NAMES);
    if (a->kind == KIND_TAKEN)
        a->name =
            (uint16_t)(taken_tries++ / (TRIES_A_NAME * TAKEN_NAMES_AT_ONCE) * TAKEN_NAMES_AT_ONCE +
                       callers_random(TAKEN_NAMES_AT_ONCE));
    return tag;
}

/* ---- A caller ---------------------------------------------------------------------------- */

enum manner { STAY, STAY_AND_RESET, CLOSE, RESET, HALF_CLOSE };

struct caller {
    enum { RESTING, SENDING, READING, PARTING } phase;
    int fd; /* -1: none */
    uint32_t watched;
    unsigned long tag;
    unsigned long before; /* the connection's last request, which was answered; 0: none */
    enum manner manner;
    bool again;    /* the connection is to be used again */
    bool old;      /* HTTP/1.0 */
    bool slow;     /* sends in pieces */
    bool sips;     /* reads in small pieces */
    bool cut;      /* the connection ended with an error */
    int64_t due;   /* when to hang up, or half-close; 0: not by the clock */
    uint64_t fed;  /* hang up when so many bytes of the answer have come; 0: not by these */
    int64_t next;  /* when to send or sip again, or to end the rest */
    int64_t since; /* of the request */
    char out[8192];
    size_t out_length, out_done;
    struct reader in;
};

static struct caller *callers;
static int epoll = -1;
static bool finishing;

#define STUCK_MS 60000 /* so long whoever stays waits for his answer, on however slow a machine */

static void caller_watch(struct caller *c, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u32 = (uint32_t)(c - callers)};
    if (c->watched == events)
        return;
    if (epoll_ctl(epoll, c->watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &e) < 0)
        abort();
    c->watched = events;
}

static void caller_rest(struct caller *c, int64_t ms)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->watched = 0;
    c->phase = RESTING;
    c->next = now_ms() + ms;
}

/* All at once many connections of one address would use up its ports. */
static bool caller_connect(struct caller *c)
{
    static unsigned count;
    const int on = 1, small = 4096;
    struct sockaddr_in address = {.sin_family = AF_INET};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        abort();
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    if (c->sips)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + count++ % 200);
    if (bind(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        abort();
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(c->fd, (struct sockaddr *)&address, sizeof(address)) == 0 ||
           errno == EINPROGRESS;
}

/* The request's text. */
static void caller_write(struct caller *c)
{
    const struct ask *a = &asks[c->tag];
    unsigned ms = callers_random(plan.work_ms + 1);
    unsigned bytes = chance(15) ? callers_random(300000) : 0;
    unsigned length = a->kind == KIND_POSTED ? callers_random(3000) : 0;
    bool chunked = length > 0 && !c->old && chance(50);
    int n = snprintf(c->out, sizeof(c->out),
                     "%s /%s?tag=%lu&name=%u&ms=%u&bytes=%u&how=%u&length=%u HTTP/1.%d\r\n"
                     "Host: test\r\n%s",
                     a->kind == KIND_POSTED ? "POST" : "GET", kind_names[a->kind], c->tag, a->name,
                     ms, bytes, callers_random(4), length, c->old ? 0 : 1,
                     c->again && !c->old ? "" : "Connection: close\r\n");
    char *at = c->out + n;
    if (chunked)
        at += sprintf(at, "Transfer-Encoding: chunked\r\n\r\n%x\r\n", length);
    else if (a->kind == KIND_POSTED)
        at += sprintf(at, "Content-Length: %u\r\n\r\n", length);
    else
        at += sprintf(at, "\r\n");
    memset(at, 'p', length);
    at += length;
    if (chunked)
        at += sprintf(at, "\r\n0\r\n\r\n");
    c->out_length = (size_t)(at - c->out);
    c->out_done = 0;
}

static enum manner random_manner(void)
{
    if (plan.ordinary)
        return STAY;
    if (chance(plan.hangups))
        return chance(50) ? CLOSE : RESET;
    return chance(15) ? HALF_CLOSE : chance(5) ? STAY_AND_RESET : STAY;
}

/* A new request, on the connection that there is or a new one. */
static void caller_ask(struct caller *c)
{
    int64_t now = now_ms();
    bool odd = !plan.ordinary;
    c->manner = random_manner();
    c->old = odd && c->fd < 0 && chance(15);
    c->again = !c->old && c->manner == STAY && chance(50);
    c->slow = odd && chance(20);
    c->sips = odd && c->fd < 0 && chance(10);
    c->cut = false;
    c->since = c->next = now;
    c->due = 0;
    c->fed = 0;
    if (c->manner != STAY && c->manner != STAY_AND_RESET) {
        if (c->manner != HALF_CLOSE && chance(25))
            c->fed = 1 + callers_random(chance(50) ? 200 : 20000);
        else
            c->due = now + callers_random(2 * plan.work_ms + 10);
    }
    bool first = c->fd < 0;
    c->before = first ? 0 : c->tag;
    if (first && !caller_connect(c)) {
        tally.unreached++;
        caller_rest(c, 20);
        return;
    }
    c->tag = ask_new();
    struct ask *a = &asks[c->tag];
    a->manner = (uint8_t)c->manner;
    a->old = c->old;
    a->slow = c->slow;
    a->sips = c->sips;
    a->first = first;
    caller_write(c);
    reader_begin(&c->in, false);
    c->phase = SENDING;
    caller_watch(c, (c->sips ? EPOLLPRI : EPOLLIN) | (c->slow ? 0 : EPOLLOUT));
}

/* ---- The end of a request ---------------------------------------------------------------- */

/* A server may end a connection between two requests, just when the second is on its way: its
 * sender then sends it again (RFC 9112 section 9.3.1). */
static bool is_retried(const struct caller *c)
{
    return plan.ordinary && !asks[c->tag].first && c->in.bytes == 0;
}

/* When this process last got no time for so long that the server may have taken a caller who was
 * reading for one who does not. */
static int64_t starved_at;

static bool was_starved(const struct caller *c)
{
    return c->in.bytes > 0 && c->since <= starved_at;
}

static void caller_judge(struct caller *c, bool by_caller, bool by_reset)
{
    struct ask *a = &asks[c->tag];
    bool whole = c->in.state == READ_WHOLE;
    if (c->in.state == READ_WRONG)
        callers_violation("%s: the answer is not one", described(c->tag));
    a->fate = !whole || c->in.status >= 400 ? FATE_VOID : by_reset ? FATE_DOUBT : FATE_KEPT;
    tally.kept += a->fate == FATE_KEPT;
    if (a->fate == FATE_KEPT && c->manner == STAY && now_ms() - c->since > tally.slowest_ms)
        tally.slowest_ms = now_ms() - c->since;
    tally.doubt += a->fate == FATE_DOUBT;
    tally.refused += whole && c->in.status >= 400;
    tally.hung_up += !whole && by_caller;
    tally.broken += !whole && !by_caller;
    tally.retried += is_retried(c);
    if (by_caller || !plan.undisturbed || a->kind == KIND_BAD)
        return;
    /* A slow sender may be evicted; who ends his side of HTTP/1.0 has hung up. */
    bool may_be_refused = (a->kind == KIND_TAKEN && c->in.status == 409) ||
                          (c->slow && c->in.status == 408) || (c->manner == HALF_CLOSE && c->old);
    if (a->fate != FATE_VOID || may_be_refused || is_retried(c))
        return;
    if (was_starved(c))
        tally.given_up++;
    else
        callers_violation("%s got %s answer (status %d, %" PRIu64 " bytes, after %" PRId64 " ms)",
                          described(c->tag), whole ? "a bad" : "no", c->in.status, c->in.bytes,
                          now_ms() - c->since);
}

/* Read what is there, at most ROOM bytes. False: the connection has ended, in order or not. */
static bool caller_read(struct caller *c, size_t room)
{
    static char buffer[65536];
    ssize_t n = recv(c->fd, buffer, room < sizeof(buffer) ? room : sizeof(buffer), MSG_DONTWAIT);
    if (n > 0)
        reader_take(&c->in, buffer, (size_t)n);
    if (n == 0)
        reader_end(&c->in);
    c->cut = c->cut || (n < 0 && errno != EAGAIN && errno != EINTR); /* told only once */
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* What has come before this moment. */
static void caller_drain(struct caller *c)
{
    uint64_t before;
    do
        before = c->in.bytes;
    while (caller_read(c, SIZE_MAX) && c->in.bytes > before);
}

/* From now on nothing that comes is taken, or acknowledged. */
static void caller_deafen(const struct caller *c)
{
    struct sock_filter nothing = {.code = BPF_RET | BPF_K, .k = 0};
    struct sock_fprog program = {.len = 1, .filter = &nothing};
    if (setsockopt(c->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
        abort();
}

static void caller_end(struct caller *c, bool by_reset)
{
    if (by_reset) {
        close_rst(c->fd);
        c->fd = -1;
    }
    caller_judge(c, true, by_reset && c->manner != CLOSE);
    caller_rest(c, callers_random(10));
}

static void caller_reset(struct caller *c)
{
    caller_deafen(c);
    caller_drain(c);
    if (c->out_done == 0 && c->before != 0 && asks[c->before].fate == FATE_KEPT) {
        asks[c->before].fate = FATE_DOUBT; /* nothing was sent that says it has come */
        tally.kept--;
        tally.doubt++;
    }
    caller_end(c, true);
}

/* Whether the other side's FIN has come, before ours or after. */
static bool fin_came(const struct caller *c, bool *open)
{
    struct tcp_info info = {0};
    int error = 0;
    getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
    *open = info.tcpi_state != TCP_CLOSE;
    if (info.tcpi_state == TCP_CLOSE)
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof(error)});
    return info.tcpi_state == TCP_LAST_ACK || info.tcpi_state == TCP_CLOSING ||
           (info.tcpi_state == TCP_CLOSE && error == 0 && !c->cut);
}

/* Our FIN acknowledges what has come; then, as close(2) does it when not all had been read, a reset
 * (the window may have been full: the other side could not learn from a FIN alone that nobody will
 * read the rest). */
static void caller_close(struct caller *c)
{
    struct reader before;
    uint64_t bytes = c->in.bytes;
    bool open;
    shutdown(c->fd, SHUT_RDWR);
    do {
        before = c->in;
    } while (caller_read(c, SIZE_MAX) && c->in.bytes > before.bytes);
    c->in = before; /* recv(2) of 0 is no FIN once this side does not receive any more */
    if (c->in.bytes > bytes) {
        caller_deafen(c);
        if (fin_came(c, &open))
            reader_end(&c->in);
        caller_end(c, true);
    } else if (c->in.state == READ_TO_END) { /* whether a FIN had come, or will, the end tells */
        c->phase = PARTING;
        epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL); /* where it would be ready all the time */
    } else {
        caller_end(c, false);
    }
}

/* After caller_close: have both sides ended, or was the connection reset? */
static void caller_parting(struct caller *c)
{
    bool open, came = fin_came(c, &open);
    if (open)
        return;
    if (came)
        reader_end(&c->in);
    caller_end(c, false);
}

static void caller_answered(struct caller *c)
{
    bool again = c->again && !c->in.closes && !finishing;
    if (c->manner == STAY_AND_RESET && c->in.state == READ_WHOLE) {
        caller_reset(c);
        return;
    }
    caller_judge(c, false, false);
    if (again && c->in.state == READ_WHOLE)
        caller_ask(c);
    else
        caller_rest(c, callers_random(10));
}

/* ---- Events and time --------------------------------------------------------------------- */

static void caller_send(struct caller *c)
{
    size_t left = c->out_length - c->out_done, piece = left;
    if (c->slow) {
        piece = 1 + callers_random((unsigned)c->out_length / 3);
        piece = piece < left ? piece : left;
        c->next = now_ms() + callers_random(15);
    }
    ssize_t n = send(c->fd, c->out + c->out_done, piece, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0)
        c->out_done += (size_t)n;
    if (n >= 0 || errno == EAGAIN) {
        if (c->out_done < c->out_length)
            return;
        c->phase = READING;
        caller_watch(c, c->sips ? EPOLLPRI : EPOLLIN);
        return;
    }
    if (errno == ECONNREFUSED)
        tally.unreached++;
    caller_drain(c); /* an answer may have come before the end */
    caller_answered(c);
}

static void caller_hear(struct caller *c, size_t room)
{
    bool open = caller_read(c, room);
    if (c->fed > 0 && c->in.bytes >= c->fed) {
        if (c->manner == RESET)
            caller_reset(c);
        else
            caller_close(c);
    } else if (!open || c->in.state == READ_WHOLE || c->in.state == READ_WRONG) {
        caller_answered(c);
    }
}

static void caller_event(struct caller *c, uint32_t events)
{
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !c->sips) {
        caller_hear(c, SIZE_MAX);
    } else if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
        caller_drain(c);
        caller_answered(c);
    } else if ((events & EPOLLOUT) != 0 && c->phase == SENDING) {
        caller_send(c);
    }
}

static void caller_hang_up(struct caller *c)
{
    c->due = 0;
    if (c->manner == RESET)
        caller_reset(c);
    else if (c->manner == CLOSE)
        caller_close(c);
    else if (c->phase == SENDING)
        c->due = now_ms() + 5; /* half of a request is nothing to wait for an answer with */
    else
        shutdown(c->fd, SHUT_WR);
}

static void caller_time(struct caller *c, int64_t now)
{
    if (c->phase == RESTING) {
        if (now >= c->next && !finishing && (plan.limit == 0 || tally.requests < plan.limit))
            caller_ask(c);
    } else if (now - c->since > STUCK_MS) {
        callers_violation("%s: nothing after %d s", described(c->tag), STUCK_MS / 1000);
        caller_reset(c);
    } else if (c->phase == PARTING) {
        caller_parting(c);
    } else if (c->due > 0 && now >= c->due) {
        caller_hang_up(c);
    } else if (c->slow && c->phase == SENDING && now >= c->next) {
        caller_send(c);
    } else if (c->sips && c->phase == READING && now >= c->next) {
        c->next = now + 2;
        caller_hear(c, 1 + callers_random(20000));
    }
}

#define STARVED_MS 500

static void turn(void)
{
    static int64_t last;
    struct epoll_event events[256];
    if (last != 0 && now_ms() - last > STARVED_MS)
        starved_at = now_ms();
    last = now_ms();
    int n = epoll_wait(epoll, events, 256, 1);
    for (int i = 0; i < n; i++) {
        struct caller *c = &callers[events[i].data.u32];
        if (c->fd >= 0)
            caller_event(c, events[i].events);
    }
    int64_t now = now_ms();
    for (unsigned i = 0; i < plan.count; i++)
        caller_time(&callers[i], now);
}

/* ---- All callers ------------------------------------------------------------------------- */

const char *callers_program(void)
{
    static const char *const places[] = {"", "made", "over", "taken", "tree", "cloud"};
    static char path[4096];
    if (path[0] != '\0')
        return path;
    const char *examples = getenv("EXAMPLES");
    must_say(examples, "EXAMPLES is not set: see the Makefile");
    snprintf(path, sizeof(path), "%s/example_storm", examples);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        must(mkdir(at("world/%s", places[i]), 0777) == 0);
    must(setenv("WORLD", at("world"), 1) == 0);
    return path;
}

void callers_begin(const struct callers_plan *as, unsigned to)
{
    plan = *as;
    port = (uint16_t)to;
    random_state = plan.seed * 2 + 1;
    for (unsigned i = 0; i < 20; i++)
        callers_random(2); /* small seeds look alike at first */
    callers = calloc(plan.count, sizeof(*callers));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!callers || epoll < 0)
        abort();
    for (unsigned i = 0; i < plan.count; i++) {
        callers[i].fd = -1;
        caller_rest(&callers[i], callers_random(50));
    }
}

void callers_go(int64_t ms)
{
    for (int64_t until = now_ms() + ms; now_ms() < until;)
        turn();
}

static bool all_rest(void)
{
    for (unsigned i = 0; i < plan.count; i++)
        if (callers[i].phase != RESTING)
            return false;
    return true;
}

bool callers_done(void)
{
    return plan.limit > 0 && tally.requests >= plan.limit && all_rest();
}

void callers_finish(void)
{
    finishing = true;
    while (!all_rest())
        turn();
}

void callers_resume(void)
{
    finishing = false;
}

struct gauge callers_settled(struct server *s)
{
    callers_finish();
    for (int64_t deadline = now_ms() + PATIENCE_MS;; rest()) {
        struct gauge g = server_gauge(s);
        log_mark(s);
        if (g.children == 0 && g.ledgers == 0 && g.sockets == 1) /* which it listens on */
            return g;
        must_say(now_ms() < deadline, "the server still has %u children, %u ledgers, %u sockets",
                 g.children, g.ledgers, g.sockets);
    }
}

/* ---- The world --------------------------------------------------------------------------- */

void callers_window(unsigned long tag)
{
    if (tag >= 1 && tag <= tally.requests)
        asks[tag].window = true;
}

/* Call EACH for the entries of WORLD/KIND. */
static void each_entry(const char *kind, void (*each)(const char *path, const char *name))
{
    DIR *d = opendir(at("world/%s", kind));
    if (!d)
        abort();
    for (const struct dirent *e; (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        each(at("world/%s/%s", kind, e->d_name), e->d_name);
    }
    closedir(d);
}

/* The ask whose number TEXT is; NULL, and a violation, if it is none. */
static struct ask *ask_named(const char *text, const char *path)
{
    char *end;
    unsigned long tag = strtoul(text, &end, 10);
    if (end != text && (*end == '\0' || *end == '\n') && tag >= 1 && tag <= tally.requests)
        return &asks[tag];
    callers_violation("%s is nobody's", path);
    return NULL;
}

static void found_own(const char *path, const char *name)
{
    struct ask *a = ask_named(name, path);
    if (a)
        a->there++;
}

/* A name that several wanted: its content says whose it is now. */
static struct ask *holders[2][65536];
static void found_shared(const char *path, const char *name)
{
    struct ask *a = ask_named(file_read(path), path);
    unsigned long number = strtoul(name, NULL, 10);
    bool over = strstr(path, "/over/") != NULL;
    if (!a || number >= 65536)
        return;
    if (a->kind != (over ? KIND_OVER : KIND_TAKEN) || a->name != number)
        callers_violation("%s holds what was made elsewhere", path);
    a->there++;
    holders[over][number] = a;
}

static void read_journal(void)
{
    char what;
    unsigned long tag;
    uint32_t line = 0;
    FILE *f = fopen(at("world/journal"), "re");
    while (f && fscanf(f, "%c %lu\n", &what, &tag) == 2 && tag <= tally.requests) {
        line++;
        if (what == 'B')
            asks[tag].began = line;
        else
            asks[tag].ended = line;
    }
    if (f)
        fclose(f);
}

/* Whether it must be there, or may. */
static bool is_sure(const struct ask *a)
{
    return a->fate == FATE_KEPT;
}

static bool is_possible(const struct ask *a)
{
    return a->fate != FATE_VOID || a->window;
}

/* What a request made alone: there if and only if it was answered. */
static void check_own(unsigned long tag)
{
    struct ask *a = &asks[tag];
    unsigned makes = a->kind == KIND_PLAIN ? 0 : a->kind == KIND_PROGRAM ? 2 : 1;
    if (is_sure(a) && a->there < makes)
        callers_violation("%s was answered and undone", described(tag));
    else if (a->there != 0 && a->there != makes)
        callers_violation("%s: half of what it made is there", described(tag));
}

/* A file is there: whoever it names may have made it. */
static void check_there(unsigned long tag)
{
    struct ask *a = &asks[tag];
    if (!a->there)
        return;
    if (!is_possible(a))
        callers_violation("%s was not answered and not undone", described(tag));
    tally.doubt_there += a->fate == FATE_DOUBT;
    tally.window += a->fate == FATE_VOID && a->window;
}

/* Files that nobody overwrites: whoever was answered has the name for good. */
static void check_taken(unsigned long tag)
{
    struct ask *a = &asks[tag], *holder = holders[false][a->name];
    if (is_sure(a) && holder != a)
        callers_violation("%s was answered, and %s has the name %u", described(tag),
                          holder ? "another" : "nobody", a->name);
}

/* Files that are overwritten: what is left is the last one's. LAST is the answered request that
 * surely took the name after all others that were answered, if there is such a one; then, unless
 * one that was not answered may have taken it later (and was undone, which does not bring back what
 * it replaced), the file must be there. And whose file it is: nobody can surely have replaced it.
 */
static void check_over(unsigned name)
{
    const struct ask *holder = holders[true][name];
    uint32_t sure = 0, maybe = 0; /* last lines: of one that was kept, of one that may be undone */
    for (unsigned long tag = 1; tag <= tally.requests; tag++) {
        const struct ask *a = &asks[tag];
        if (a->kind != KIND_OVER || a->name != name || a->began == 0)
            continue;
        if (holder && holder->ended > 0 && a->ended > 0 && a->began > holder->ended)
            callers_violation("over/%u: the file of a request that %lu replaced is back", name,
                              tag);
        if (is_sure(a))
            sure = a->began > sure ? a->began : sure;
        else if (a->ended == 0)
            maybe = UINT32_MAX;
        else
            maybe = a->ended > maybe ? a->ended : maybe;
    }
    if (sure > maybe && !holder)
        callers_violation("over/%u: an answered request had the name last, and it is gone", name);
}

void callers_check_world(void)
{
    each_entry("made", found_own);
    each_entry("tree", found_own);
    each_entry("cloud", found_own);
    each_entry("over", found_shared);
    each_entry("taken", found_shared);
    read_journal();
    for (unsigned long tag = 1; tag <= tally.requests; tag++) {
        check_there(tag);
        if (asks[tag].kind == KIND_TAKEN)
            check_taken(tag);
        else if (asks[tag].kind != KIND_OVER)
            check_own(tag);
    }
    for (unsigned name = 0; name < OVER_NAMES; name++)
        check_over(name);
}
