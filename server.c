/* server.c: the parent.
 *
 * It listens, accepts, holds every connection, forks a child for each request, watches for the
 * hangup, signals, reaps, has undone what a dead child left, and logs. One thread, one epoll loop.
 *
 * Plan:
 *   Data - what the parent holds
 *   Tables - lists, clients, deadlines, pids
 *   Log - the one line of each request, and the totals; what stands in it: log.h
 *   Forward - what is called before it is defined
 *   Main - server_main, the recipe, and the commands beside it
 *   Start - sockets, user, state, tables, signals
 *   Loop - wait, hand on events, do what is due
 *   Accept - connections come; what happens when there is no room for them
 *   Connection - what an event and a deadline mean in each phase; idle, finished, closed
 *   Child - forking for it, cheaply at any number of open connections
 *   Request - it has arrived: refuse, start, or let it wait
 *   Queue - waiting for a slot, and who must make room
 *   Turn - what a child asks by a nudge: its time limit, a place of its route, room for its body
 *   Hangup - and every other reason to end a request
 *   Reap - the child has ended; if all is well, the request is over
 *   Settle - it left something: jobs for janitors, and when they work
 *   Janitor - the process that undoes
 *   Settled - what becomes of the job, the client and the slot
 *   Recover - what dead servers left
 *   Hand over - a new server at SIGHUP; what this one still has to finish
 *   Stop - drain, end, leave
 *
 * A connection's phases:
 *
 *     IDLE ──bytes──▶ (QUEUED ──▶) BUSY ──DONE and exit 0──▶ IDLE
 *       │                │           ├──DONE and exit 1──▶ LINGERING ──▶ closed
 *       │                │           └──any other end──▶ SETTLING (a janitor undoes)
 *       │                └──refused──▶ LINGERING             ├──answered──▶ LINGERING
 *       └──FIN, time──▶ LINGERING                            └──cut──▶ closed
 *
 * A reset closes it at once while it is IDLE, QUEUED or LINGERING; while it is BUSY, or SETTLING,
 * the request comes first.
 *
 * What holds between any two lines:
 *   - What a client sends is not looked at here: the child reads it. Nothing waits but epoll_wait:
 *     a client, a child or a log that stands still must not stop the others. Sends and receives
 *     have MSG_DONTWAIT, since O_NONBLOCK belongs to the open file that the child has too, and
 *     would disturb it.
 *   - A slot is free, or belongs to one connection, which is BUSY or SETTLING. It is given back
 *     when the first attempt to undo has ended and could tell whether the request was answered. So
 *     a server never runs more than --requests at once.
 *   - A pid in the table of pids is a child that has not been reaped. It is forgotten before the
 *     wait that frees the number, so kill(2) here never hits a stranger.
 *   - A cause stands in the slot before the SIGTERM is sent that it is the cause of.
 *   - A request is logged once, by request_log_line (its fields are log.h's), when nothing can
 *     change its outcome any more. No line is written for a connection on which nothing was asked.
 *   - The scoreboard, which every child can write, is read once and checked before it is used. A
 *     false word harms at worst the requests whose slots it is written to. The truth is kept in
 *     memory that no child has.
 *
 * If this process dies, at whatever line: nothing in its memory is needed to keep the promise. Its
 * children get SIGTERM from the kernel and undo; janitors get SIGKILL, and their ledgers stay. All
 * ledgers lie in STATE/SERVER, whose lock has gone with us: the next start takes them over. A
 * server that we have handed over to (handover.h) gets SIGTERM. Clients get a reset (SO_LINGER),
 * and not the FIN that would look like the end of an answer.
 *
 * BUGS
 *   - A child that not even SIGKILL ends (it sleeps in the kernel, on a dead NFS server) keeps its
 *     slot for as long as it sleeps. The log says so every ten seconds.
 *   - A route's time limit is known when the child has read the head and says so through `nudge`.
 *     Until then the server's holds.
 *   - After an answer has begun this process no longer asks whether a client that sent FIN has
 *     gone. The child does in a program's chunked answer; else the next write tells, or TCP
 *     keep-alive.
 *   - A child that lies about its turn runs beyond the `max` of its route.
 *   - --per-client does not count callers on unix sockets, which have no address.
 *   - Calls on STATE (a ledger that is put aside, those that recovery has moved here, the stamp of
 *     the last recovery), and writes to a log that is a regular file, wait for the disk, and
 *     everybody with them.
 */
#include <hangupd/server.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "again.h"
#include "check_command.h"
#include "handover.h"
#include "http.h"
#include "listen.h"
#include "options.h"
#include "pass_env.h"
#include "recover_command.h"
#include "run_command.h"
#include "scoreboard.h"
#include "serve.h"
#include "state.h"
#include "status_look.h"
#include "status_show.h"
#include "stop_command.h"
#include "surroundings.h"
#include "undo_command.h"

const char *program_name = "hangupd";
static _Atomic uint32_t lines_lost; /* until there is a scoreboard */
struct log_sink log_sink = {.fd = STDERR_FILENO, .lost = &lines_lost};

/* ---- Data --------------------------------------------------------------------------- */

enum phase { PHASE_FREE, PHASE_IDLE, PHASE_QUEUED, PHASE_BUSY, PHASE_SETTLING, PHASE_LINGERING };

#define NOBODY (-1) /* no index */

/* The table of these is memory that no child has (private_memory): a child that followed a pointer
 * into it would be killed by SIGSEGV. So whatever a child needs of its connection is copied for it
 * before the fork. */
struct connection {
    int fd;
    uint32_t generation; /* tells a new connection from an old one of the same index */
    enum phase phase;
    TAILQ_ENTRY(connection) link; /* in the list of its phase, see list_of */
    struct address address;
    bool is_tcp, fin_seen;
    bool watched;      /* it is in the set of epoll */
    int timer;         /* place in the heap, or NOBODY */
    int64_t deadline;  /* clock_ms() */
    int64_t since;     /* when the phase began, or the request */
    uint32_t requests; /* so far */
    /* Of its request, while it is BUSY or SETTLING: */
    int slot;
    pid_t pid;                        /* the child's, until it is reaped */
    SLIST_ENTRY(connection) pid_link; /* in the bucket of its pid */
    int loan;                         /* the number that was lent to it, or NOBODY */
    uint64_t id_number;               /* the last part of the request's id */
    enum cause cause; /* the true one; the slot has a copy, which the child can change */
    uint64_t room;    /* bytes that its body was granted */
    enum turn turn;   /* as we have granted it, for a place of the route */
    int route;        /* that the turn is for */
    TAILQ_ENTRY(connection) line; /* of the route, while it is TURN_WAITING */
    bool signalled, killed;       /* SIGTERM, SIGKILL were sent to the child */
    bool prolonged;               /* delivery has been given --send-timeout beyond the deadline */
    uint64_t moved;               /* bytes both ways at the time looked_at, see is_slow */
    int64_t looked_at;            /* 0: not yet in this request */
};

TAILQ_HEAD(connections, connection);
struct list {
    struct connections members;
    int count;
};

/* An address with requests, kept for --per-client. */
#define CLIENT_BYTES 8 /* users of IPv6 have a /64 each, and could take any address in it */
struct client {
    struct address address;   /* of which CLIENT_BYTES count */
    int busy, queued;         /* requests in flight, and those that wait for a slot */
    SLIST_ENTRY(client) link; /* in its bucket, or free */
};

/* VERDICT_OPEN until a janitor can tell whether the request was answered. Its word is remembered,
 * because the next janitor may have no connection left to ask. */
enum verdict {
    VERDICT_OPEN,      /* nobody could tell yet */
    VERDICT_ANSWERED,  /* the results stay, only scratch is left to remove */
    VERDICT_UNANSWERED /* all is undone, and the ledger's `sent` mark is not believed any more */
};

/* An undo that a janitor does, or will do. It is made when a child is dead, or for what a dead
 * server left, and waits (ready, or urgent while a connection waits for it) until a janitor may be
 * started for it (running). It ends when nothing is left, or after --undo-retries, or, while the
 * janitors say "later", after --undo-give-up; until then it is delayed, longer each time, and gets
 * ready again. */
struct job {
    TAILQ_ENTRY(job) link;         /* in one of server.jobs */
    char id[CLEANUP_ID_SIZE];      /* of the request; "": recovery of dead servers */
    char name[CLEANUP_ID_SIZE];    /* of the ledger's files: a slot's, or the id */
    siginfo_t ended;               /* how the child ended */
    struct connection *connection; /* which waits for the first attempt, or NULL */
    enum verdict verdict;
    unsigned tries;         /* that did not end it */
    unsigned failures;      /* of these: not those that said "later" */
    int64_t since;          /* when it was made: clock_ms() */
    bool later;             /* the last one has said "later" */
    enum outcome failed_as; /* the request's, whose undo was logged as failed; or NONE */
    bool looks;             /* all is undone, and a second look is what it is still for */
    bool overdue;           /* that is no longer good enough for the janitor that is running */
    pid_t pid;              /* the janitor, while it is running, */
    int64_t begun;          /* since then, */
    bool slow;              /* which is long ago */
    int64_t due;            /* when it is delayed */
};
TAILQ_HEAD(jobs, job);

/* Lent numbers for the connections of newborns, see "Child". */
#define LOAN_COUNT 16
#define LOAN_FROM 64 /* a table of so many descriptors costs nothing */

/* Only forward. HANDED_OVER: another server accepts, and this one finishes without a limit. */
enum stage { SERVING, HANDED_OVER, DRAINING, ENDING };

static struct {
    /* The process, and what it has open. */
    pid_t pid;
    bool has_strangers; /* children that were there before us, or we are pid 1 */
    int epoll, signals;
    sigset_t handled; /* what `signals` reports */
    int nudge[2];     /* children write here, see nudged */
    int errors;       /* what C handlers say on standard error, see open_errors; -1: none */
    struct log_lines error_lines;
    int reserve; /* a descriptor to give up when there are no others, see refuse_one */

    /* STATE and STATE/SERVER. */
    struct state_dir state;
    int dir;
    bool dir_closed; /* all is settled, and the directory removed */
    char token[CLEANUP_TOKEN_SIZE];
    uint64_t request_count; /* ids given out */

    /* Where connections come from. */
    struct listener listeners[LISTENERS_MAX];
    size_t listener_count;
    struct remover remover; /* of the names that root has made */
    int pool;               /* of scratch directories, locked; -1: none */
    int64_t pool_looked_at; /* clock_ms() */
    bool one_connection;    /* listeners[0] is the one connection (inetd's nowait) */
    bool muted;             /* the listeners are out of epoll */
    int64_t unmute_at;
    int64_t idle_exit_ms; /* --idle-exit, or what inetd's wait wants; -1: stay */

    /* Time and ends. */
    enum stage stage;
    int64_t drain_end;  /* when DRAINING becomes ENDING */
    int64_t idle_since; /* for idle_exit_ms */
    int64_t reaped_at;  /* when all dead children were looked for */
    int64_t slow_looked_at;

    /* Shared with the children. */
    struct scoreboard *board;
    int board_copy;        /* STATE/SERVER/scoreboard, for `hangupd status` */
    int board_used;        /* slots, of those that come first, that a request has had */
    int64_t board_written; /* when the copy was; clock_ms() */
    bool board_due, board_failed;
    struct figures figures; /* our own copy, which is the true one */

    /* Tables: memory that no child has. */
    struct connection *connections;
    struct list free, idle, queue, busy, lingering; /* busy: SETTLING too, its slot is taken */
    int open_count;
    int *free_slots, free_slot_count;
    struct connection **slot_users;
    struct route_line {
        int64_t running;                         /* requests that have a place */
        TAILQ_HEAD(waiting, connection) waiting; /* first come, first served */
    } * route_lines;                             /* of each route */
    uint64_t room_taken;                         /* bytes that bodies were granted */
    int *heap, heap_size;                        /* connections by their deadlines */
    SLIST_HEAD(pid_bucket, connection) * pid_buckets;
    SLIST_HEAD(client_bucket, client) * client_buckets, free_clients;
    int bucket_count;

    /* How children are forked, see "Child". */
    bool shares; /* newborns share our table of descriptors for a moment */
    struct loan {
        int fd;
        struct connection *user;
    } loans[LOAN_COUNT];
    unsigned loan_next;

    /* Undo: a job is in one of these, or in the hands of the function that moves it. */
    struct {
        struct jobs urgent;  /* a connection, and so a slot, waits */
        struct jobs ready;   /* nobody waits */
        struct jobs delayed; /* by the time they are due */
        struct jobs running; /* a janitor works on it; at most --undo-at-once */
        int janitors, slow;  /* how many are running; of these, for SLOW_JANITOR_MS */
    } jobs;
    bool recovered; /* recovery was begun */
} server;

#define LINGER_MS 2000      /* for a client to end its side, after we have ended ours */
#define KILL_AFTER_MS 1000  /* beyond --grace, for a child to undo by itself */
#define UNKILLABLE_MS 10000 /* between two complaints */
#define SLOW_JANITOR_MS 10000

/* An event of epoll carries one of these bits, or else a connection's generation above its index.
 * So a generation has 28 bits. */
#define WATCH_LISTENER (UINT64_C(1) << 63)
#define WATCH_SIGNALS (UINT64_C(1) << 62)
#define WATCH_NUDGE (UINT64_C(1) << 61)
#define WATCH_HANDOVER (UINT64_C(1) << 60) /* below it: the descriptor */
#define WATCH_ERRORS (UINT64_C(1) << 59)
#define GENERATION_MASK 0x0fffffff

#define WATCH_IDLE (EPOLLIN | EPOLLRDHUP)
/* Without EPOLLIN, as the bytes are the child's. Edge-triggered: a FIN that has been dealt with, or
 * an error, would keep the loop awake until the child has ended. */
#define WATCH_HANGUP ((uint32_t)EPOLLRDHUP | (uint32_t)EPOLLET)

/* Sent by the kernel for each child that ends, with its pid. It is a real-time signal since those
 * queue, while one SIGCHLD stands for any number of children, and finding them costs the more, the
 * more others there are. */
#define CHILD_ENDED SIGRTMIN
/* Signals that queue are lost when too many wait (RLIMIT_SIGPENDING): so often we look ourselves.
 */
#define POOL_EVERY_MS 1000
#define REAP_EVERY_MS 1000

/* A janitor's exit status: JANITOR_SPEAKS and bits that say what it found. Any other one is not a
 * janitor's word but a crash, or a sanitizer's. */
enum {
    JANITOR_LEFT = 1,       /* something is left to be done */
    JANITOR_KEPT = 2,       /* the request had been answered */
    JANITOR_NOTHING = 4,    /* there was nothing to undo */
    JANITOR_PARKED = 8,     /* what is left was put aside, in STATE/failed */
    JANITOR_UNDECIDED = 16, /* it could not tell whether the request had been answered */
    JANITOR_LATER = 32,     /* with LEFT: time may mend it, and nothing else */
    JANITOR_AGAIN = 128,    /* all is undone, but a second look waits for its time */
    JANITOR_BITS = 191,
    JANITOR_SPEAKS = 64
};

/* The connection as a janitor has it. It alone can tell whether the answer has arrived. */
struct witness {
    int fd;            /* -1: gone, the ledger's `sent` mark must do */
    struct slot *slot; /* of the request; NULL: it has been given back */
    bool is_tcp;
    bool unsent;         /* AF_UNIX, which counts no bytes: the child had not sent all of it */
    int64_t patience_ms; /* how long progress is waited for */
    const _Atomic uint32_t *cause; /* in the slot; CAUSE_DRAIN ends the wait */
};

static struct slot *slot_of(const struct connection *c)
{
    return &server.board->slots[c->slot];
}

static int index_of(const struct connection *c)
{
    return (int)(c - server.connections);
}

/* Returns how many bytes the client has sent that nobody has read. */
static int unread(const struct connection *c)
{
    int n = 0;
    return ioctl(c->fd, FIONREAD, &n) < 0 ? 0 : n;
}

static bool is_stopping(void)
{
    return server.stage >= DRAINING;
}

/* ---- Tables ------------------------------------------------------------------------- */

static struct list *list_of(enum phase phase)
{
    return phase == PHASE_FREE        ? &server.free
           : phase == PHASE_IDLE      ? &server.idle
           : phase == PHASE_QUEUED    ? &server.queue
           : phase == PHASE_LINGERING ? &server.lingering
                                      : &server.busy;
}

static void list_append(struct list *l, struct connection *c)
{
    TAILQ_INSERT_TAIL(&l->members, c, link);
    l->count++;
}

static void list_remove(struct list *l, struct connection *c)
{
    TAILQ_REMOVE(&l->members, c, link);
    l->count--;
}

/* How much of an address tells one client from another. */
static size_t client_bytes(const struct address *a)
{
    return a->family == AF_INET6 ? CLIENT_BYTES : 4;
}

/* The number is 2^64 divided by the golden ratio: it spreads neighbouring addresses. */
static struct client_bucket *client_bucket(const struct address *a)
{
    uint64_t bits = 0;
    memcpy(&bits, a->bytes, client_bytes(a));
    return &server.client_buckets[bits * 0x9e3779b97f4a7c15 >> 32 &
                                  (uint64_t)(server.bucket_count - 1)];
}

static struct client *client_find(const struct address *a)
{
    struct client *client;
    for (client = SLIST_FIRST(client_bucket(a)); client != NULL; client = SLIST_NEXT(client, link))
        if (client->address.family == a->family &&
            memcmp(client->address.bytes, a->bytes, client_bytes(a)) == 0)
            break;
    return client;
}

/* Count BY more of this client's connections in the list L, if that is one that counts. There is
 * always a free entry, as there are not more clients than connections. */
static void client_count(const struct address *a, const struct list *l, int by)
{
    if (l != &server.busy && l != &server.queue)
        return;
    struct client *client = client_find(a);
    if (client == NULL) {
        client = SLIST_FIRST(&server.free_clients);
        SLIST_REMOVE_HEAD(&server.free_clients, link);
        *client = (struct client){.address = *a};
        SLIST_INSERT_HEAD(client_bucket(a), client, link);
    }
    *(l == &server.busy ? &client->busy : &client->queued) += by;
    if (client->busy > 0 || client->queued > 0)
        return;
    SLIST_REMOVE(client_bucket(a), client, client, link);
    SLIST_INSERT_HEAD(&server.free_clients, client, link);
}

/* Phase, list and --per-client's counts change together, here alone. */
static void set_phase(struct connection *c, enum phase phase)
{
    struct list *from = list_of(c->phase), *to = list_of(phase);
    c->phase = phase;
    if (from == to)
        return;
    list_remove(from, c);
    list_append(to, c);
    if (settings.per_client > 0 && c->is_tcp) {
        client_count(&c->address, to, 1); /* first: the entry stays */
        client_count(&c->address, from, -1);
    }
}

static void heap_put(int place, int connection)
{
    server.heap[place] = connection;
    server.connections[connection].timer = place;
}

static bool heap_before(int a, int b)
{
    return server.connections[a].deadline < server.connections[b].deadline;
}

/* Put CONNECTION where it belongs, given that the heap is one but for PLACE. */
static void heap_settle(int place, int connection)
{
    while (place > 0 && heap_before(connection, server.heap[(place - 1) / 2])) {
        heap_put(place, server.heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (int child; (child = 2 * place + 1) < server.heap_size; place = child) {
        if (child + 1 < server.heap_size && heap_before(server.heap[child + 1], server.heap[child]))
            child++;
        if (!heap_before(server.heap[child], connection))
            break;
        heap_put(place, server.heap[child]);
    }
    heap_put(place, connection);
}

/* Look at the connection again at DEADLINE; 0: never. */
static void set_deadline(struct connection *c, int64_t deadline)
{
    c->deadline = deadline;
    if (deadline != 0) {
        heap_settle(c->timer != NOBODY ? c->timer : server.heap_size++, index_of(c));
    } else if (c->timer != NOBODY) {
        int place = c->timer, last = server.heap[--server.heap_size];
        c->timer = NOBODY;
        if (last != index_of(c))
            heap_settle(place, last);
    }
}

static struct pid_bucket *pid_bucket(pid_t pid)
{
    return &server.pid_buckets[pid & (server.bucket_count - 1)];
}

static void pid_remember(struct connection *c, pid_t pid)
{
    c->pid = pid;
    SLIST_INSERT_HEAD(pid_bucket(pid), c, pid_link);
}

static struct connection *pid_find(pid_t pid)
{
    struct connection *c;
    for (c = SLIST_FIRST(pid_bucket(pid)); c != NULL; c = SLIST_NEXT(c, pid_link))
        if (c->pid == pid)
            break;
    return c;
}

static void pid_forget(struct connection *c)
{
    SLIST_REMOVE(pid_bucket(c->pid), c, connection, pid_link);
    c->pid = 0;
}

/* ---- Log --------------------------------------------------------------------------- */

/* The request's end: its one log line, and the totals. */
static void request_log_line(const struct slot *s, enum outcome outcome, enum undo_result undo,
                             int64_t ms)
{
    server.figures.ended[outcome][undo]++;
    log_request(s, outcome, undo, ms);
}

/* The one log line of a request that never got a child. S has what was answered, and its id if it
 * was given one. If UNREAD is not -1 the request waits on that connection: a child looks at its
 * first line, writes ours, and is gone when the fork returns (CLONE_VFORK). */
static void log_unserved(const struct address *from, int64_t since, struct slot *s,
                         enum outcome outcome, int unread)
{
    struct clone_args how = {.flags = CLONE_VFORK, .exit_signal = SIGCHLD};
    if (s->id[0] == '\0')
        snprintf(s->id, sizeof s->id, "%s-%llx", server.token,
                 (unsigned long long)++server.request_count);
    address_text(from, s->client, sizeof s->client);
    server.figures.ended[outcome][UNDO_NONE]++;
    pid_t pid = unread >= 0 ? (pid_t)syscall(SYS_clone3, &how, sizeof how) : -1;
    if (pid == 0)
        handler_peek_request(unread, s);
    if (pid <= 0)
        log_request(s, outcome, UNDO_NONE, clock_ms() - since);
    if (pid == 0)
        _exit(0);
}

/* ---- Forward ------------------------------------------------------------------------ */

/* In the order of the sections, and why they are called before. */

/* Start: before anything else. */
static void check_inetd(void);
static void note_strangers(void);
static void open_all(void);
static void begin_serving(void);
/* Loop: turns until the server is over. */
static void loop(void);
/* Accept: the loop says that somebody calls. */
static void listeners_watch(int how);
static void unmute(void);
static void connection_open(int fd, const struct sockaddr_storage *from, bool is_tcp);
static void accept_some(const struct listener *l);
/* Connection: one that was accepted is looked at at once, and is closed from everywhere. */
static void connection_close(struct connection *c);
static void connection_idle(struct connection *c);
static void connection_event(struct connection *c, uint32_t events);
static void connection_due(struct connection *c, int64_t now);
/* Child: Start prepares the forks. */
static void find_libc(void);
static void gather_kept(void);
static void loans_reserve(void);
/* Request: a connection has bytes. */
static void request_arrived(struct connection *c);
/* Queue: there is no slot; or no room for another connection. */
static bool queue_makes_room(void);
static void refuse_unread(struct connection *c, const char *id, enum outcome outcome,
                          const char *reason);
static void wait_in_queue(struct connection *c);
static void queue_serve(void);
/* Turn: the loop hears of it. */
static void nudged(void);
static void line_serve(size_t route);
/* Hangup: an event or a deadline of a busy connection; --requests are reached. */
static void request_stop(struct connection *c, enum cause cause);
static void request_cut(struct connection *c);
static void request_due(struct connection *c, int64_t now);
static void hangup(struct connection *c);
static void fin_arrived(struct connection *c);
/* Reap: signals end the wait of the loop; a failed fork gives its slot back. */
static void slot_release(struct connection *c);
static void reap_children(void);
static void signals_arrived(void);
/* Settle: a dead child left something. */
static struct job *job_make(const char *id);
static void job_ready(struct job *j);
static void jobs_due(int64_t now);
static int64_t janitors_slow_down(int64_t now);
static void jobs_start(void);
/* Janitor: forked by Settle. */
static _Noreturn void janitor_main(const struct job *j, const struct witness *w);
/* Settled: the janitor has ended, or there is no memory for a job. */
static void request_settled(struct connection *c, struct job *j, int result);
static void janitor_ended(pid_t pid, const siginfo_t *ended);
/* Recover: at the start, and after the one connection. */
static void recovery_begin(void);
static void jobs_adopt(bool again);
/* Hand over: a signal asks for it, and the loop hears of what comes of it. */
static void reload(void);
static void handover_heard(int fd);
static bool successor_ended(pid_t pid, const siginfo_t *ended);
static void dir_close(void);
static bool is_done(void);
/* Stop: signals and times ask for it. */
static void drain(void);
static void end_all(void);
static void jobs_leave(const struct jobs *jobs);
static bool is_over(void);

/* ---- Main --------------------------------------------------------------------------- */

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
} commands[] = {
    {"recover", command_recover},
    {"undo", command_undo},
    {"status", command_status},
    {"stop", command_stop},
};

/* `hangupd COMMAND...`: run it, and end the process. A command runs beside a server and not in it:
 * it shares options, log and cleanup.c with the server, and none of what follows here. */
static void run_command_named(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            exit(commands[i].run(argc - 1, argv + 1));
}

int server_main(int argc, char **argv, const struct route *routes)
{
    open_standard_descriptors();
    run_command_named(argc, argv);
    handover_prepare();
    cleanup_mark_prepare(argc, argv);
    cleanup_report = log_event;
    cleanup_undone = log_undone;
    parse_options(argc, argv, &server_options);
    pass_env_check();
    node_take();
    parse_routes(argc, argv, routes);
    if (settings.check) {
        check_inetd();
        check_all(find_owner());
    }
    note_strangers();
    open_all();
    begin_serving();
    fflush(NULL); /* else each child would write what this program has printed so far */
    loop();
    jobs_leave(&server.jobs.ready);
    jobs_leave(&server.jobs.delayed);
    dir_close();
    handover_end();
    remover_wait(&server.remover);
    while (server.errors >= 0 && log_lines_read(&server.error_lines, NULL, server.errors) > 0)
        continue; /* who could write is dead */
    log_lines_end(&server.error_lines, NULL);
    if (!server.one_connection)
        log_event(NULL, "stopped");
    return handover.status;
}

/* Weak, because tests that link what the library hides, this too, bring their own. */
__attribute__((weak)) int main(int argc, char **argv)
{
    static const struct route routes[] = {
        {.path = "/a", .name = "a", .handler = handler_demonstration}, {0}};
    return server_main(argc, argv, routes);
}

/* ---- Start -------------------------------------------------------------------------- */

/* A shell that execs us leaves us its children, and pid 1 gets everybody's orphans. As what a
 * request left behind comes back to us too (we are a subreaper), a janitor may take any child of
 * ours for one of those, but only if there are no others. */
static void note_strangers(void)
{
    siginfo_t any = {0};
    bool childless = waitid(P_ALL, 0, &any, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
    server.pid = getpid();
    server.has_strangers = !childless || server.pid == 1;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

/* Said on standard error: if descriptor 0 is no socket, no client is there to be disturbed. */
static void check_inetd(void)
{
    if (settings.inetd && settings.listen.count > 0)
        wrong_use("--inetd and --listen exclude each other");
    if (settings.inetd && !settings.check && getenv(HANDOVER_VARIABLE) == NULL &&
        listen_kind(0) < 0)
        cannot("--inetd: descriptor 0 is not a socket (%s); start it from inetd, xinetd or a "
               "systemd socket unit, or use --listen",
               strerror(errno));
}

/* Keep the socket FD, which was handed over: to listen on, or the one connection of this process.
 */
static void inherit(int fd, const char *from)
{
    struct listener given;
    if (listen_inherit(&given, fd, from)) {
        server.listeners[server.listener_count++] = given;
        return;
    }
    if (server.one_connection)
        cannot("more than one connection was handed over");
    server.one_connection = true;
    server.listeners[0] = given;
}

/* There are at most LISTENERS_MAX of either kind: options and LISTEN_FDS see to it. OWNER is the
 * user that we become, or NULL. */
static void open_sockets(const struct passwd *owner)
{
    server.idle_exit_ms = settings.idle_exit_ms;
    server.listener_count = handover_adopt(server.listeners);
    if (server.listener_count > 0) {
        if (settings.inetd && server.idle_exit_ms < 0)
            server.idle_exit_ms = INT64_C(1000) * IDLE_EXIT_WAIT_S;
        return;
    }
    if (settings.inetd) {
        int fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
            cannot("could not keep the socket: %s", strerror(errno));
        inherit(fd, "--inetd: descriptor 0");
        if (!server.one_connection && server.idle_exit_ms < 0)
            server.idle_exit_ms = INT64_C(1000) * IDLE_EXIT_WAIT_S; /* inetd starts us again */
        return;
    }
    int handed = settings.listen.count == 0 ? listen_handed_over() : 0;
    for (int i = 0; i < handed; i++) {
        char from[64];
        snprintf(from, sizeof from, "the descriptor %d of LISTEN_FDS", 3 + i);
        inherit(3 + i, from);
    }
    for (size_t i = 0; i < settings.listen.count; i++) {
        struct listener *l = &server.listeners[server.listener_count++];
        if (!listen_waits_for_user(settings.listen.words[i]))
            listen_on(l, settings.listen.words[i], owner);
    }
    if (settings.listen.count == 0 && handed == 0)
        listen_on(&server.listeners[server.listener_count++], LISTEN_DEFAULT, owner);
}

/* Those that waited until we are the user. */
static void open_late_sockets(const struct passwd *owner)
{
    for (size_t i = 0; i < settings.listen.count; i++)
        if (server.listeners[i].name[0] == '\0')
            listen_on(&server.listeners[i], settings.listen.words[i], owner);
}

/* Under inetd 0, 1 and 2 are the client: not a byte of ours may go there. */
static void leave_standard_descriptors(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    bool client = log_stderr_is_client();
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || (client && dup2(null, 2) < 0))
        cannot("could not open /dev/null: %s", strerror(errno));
    close(null);
}

/* In this order: ports below 1024 are bound by now, then STATE is opened, and with that we are the
 * user. */
static void drop_privileges(const struct passwd *who)
{
    if (who == NULL && geteuid() == 0 && !server.one_connection)
        log_event(NULL,
                  "warning: running as root; --user NAME drops that when the sockets are open");
    if (who != NULL && geteuid() == 0)
        listen_remover(&server.remover, server.listeners, server.listener_count);
    server.state = who != NULL ? state_open_as(who->pw_name, who->pw_uid, who->pw_gid)
                               : state_open(geteuid(), getegid());
    if (who != NULL)
        take_home_of(who);
}

/* Returns memory for a request's head. Only children write to it, so that the parent has no page of
 * it and no fork pays for one. */
static char *make_head(void)
{
    const size_t page = 4096;
    size_t room = handler_head_room(&settings.handler);
    char *head = aligned_alloc(page, (room + page - 1) / page * page);
    if (head == NULL)
        cannot("out of memory for the heads of requests");
    return head;
}

/* Open the directory of scratch directories, if there are programs, each of which gets one: a later
 * request takes what an earlier one has left untouched. A server for one connection has no later
 * request. */
static void open_pool(void)
{
    static char path[PATH_MAX];
    struct handler_settings *h = &settings.handler;
    bool programs = false;
    for (size_t i = 0; i < h->route_count; i++)
        programs = programs || h->routes[i].program != NULL;
    if (server.pool >= 0)
        close(server.pool);
    server.pool = -1;
    h->pool_path = NULL;
    if (!programs || server.one_connection)
        return;
    server.pool = cleanup_pool_open(server.dir, h->tmpdir, server.token, path);
    if (server.pool >= 0)
        h->pool_path = path;
    else
        log_eventf(NULL, "could not make a directory for programs in %s: %s; each makes its own",
                   h->tmpdir, strerror(errno));
}

/* Look from time to time whether somebody has cleaned TMPDIR up. Until then requests do without. */
static void pool_look(int64_t now)
{
    const struct handler_settings *h = &settings.handler;
    if (h->pool_path == NULL || now - server.pool_looked_at < POOL_EVERY_MS)
        return;
    server.pool_looked_at = now;
    if (!cleanup_pool_is_there(server.pool, h->pool_path)) {
        log_eventf(NULL, "the directory %s has been removed; another one is made", h->pool_path);
        open_pool();
    }
}

static size_t board_size(void)
{
    return sizeof(struct scoreboard) + (size_t)settings.requests * sizeof(struct slot);
}

/* Write the scoreboard's copy. A full disk is no reason to end: then status shows what was. */
static void write_board(int64_t now)
{
    size_t size = sizeof(struct scoreboard) + (size_t)server.board_used * sizeof(struct slot);
    server.board_due = server.busy.count > 0; /* as a child changes its slot unseen */
    server.board_written = now;
    server.board->at_rest = !server.board_due;
    server.board->written = now;
    bool failed = ftruncate(server.board_copy, (off_t)board_size()) < 0 || /* slots never used */
                  pwrite(server.board_copy, server.board, size, 0) != (ssize_t)size;
    if (failed && !server.board_failed)
        log_eventf(NULL, "could not write the scoreboard, so hangupd status shows an old one: %s",
                   strerror(errno));
    server.board_failed = failed;
}

/* Write out what `hangupd status` tells: what has changed, or may have, and not too often. */
static void publish(void)
{
    const uint64_t *words = (const uint64_t *)&server.figures;
    int64_t now = clock_ms();
    server.figures.draining = server.stage != SERVING;
    server.figures.open = (uint64_t)server.open_count;
    server.figures.idle = (uint64_t)server.idle.count;
    server.figures.queued = (uint64_t)server.queue.count;
    server.board_due = server.board_due || server.busy.count > 0 ||
                       memcmp(server.board->figures, words, sizeof server.figures) != 0;
    memcpy(server.board->figures, words, sizeof server.figures);
    if (server.board_due && now - server.board_written >= BOARD_EVERY_MS)
        write_board(now);
}

static void open_scoreboard(void)
{
    size_t size = board_size();
    int fd = memfd_create("hangupd-scoreboard", MFD_CLOEXEC);
    /* Allocated now: where there is no memory later, a write to a page would be a SIGBUS. */
    int error = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)size);
    struct scoreboard *board =
        error != 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED)
        cannot("no memory for the scoreboard: %s", strerror(error != 0 ? error : errno));
    server.board_copy =
        openat(server.dir, "scoreboard", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    server.board = board;
    log_sink.lost = &board->log_lost;
    board->slot_count = (uint32_t)settings.requests;
    board->slot_size = sizeof(struct slot);
    for (size_t i = 0; i < server.listener_count; i++)
        memcpy(board->listening[i], server.listeners[i].name, LISTENER_NAME_SIZE);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    server.figures.pid = (uint64_t)server.pid;
    server.figures.started = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    memcpy(board->magic, SCOREBOARD_MAGIC, sizeof board->magic);
    publish();
}

/* All signals are blocked, and those that mean something are read between events. So no handler of
 * ours ever runs, and no line here can be interrupted by one. */
static void open_events(sigset_t *ignored)
{
    sigset_t all;
    if (pipe2(server.nudge, O_CLOEXEC | O_NONBLOCK) < 0)
        cannot("could not make a pipe: %s", strerror(errno));
    fcntl(server.nudge[1], F_SETFL, O_WRONLY); /* a child waits for room; the parent never writes */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    sigemptyset(&server.handled);
    sigaddset(&server.handled, SIGCHLD);
    sigaddset(&server.handled, CHILD_ENDED);
    sigaddset(&server.handled, SIGTERM);
    sigaddset(&server.handled, SIGINT);
    struct sigaction hup;
    if (sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN) /* nohup(1) stays so */
        sigaddset(&server.handled, SIGHUP);
    server.signals = signalfd(-1, &server.handled, SFD_CLOEXEC | SFD_NONBLOCK);
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    server.reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (server.signals < 0 || server.epoll < 0)
        cannot("could not watch for events: %s", strerror(errno));
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* ignored, as some starters leave it, children could not be reaped */
    signal(SIGTERM, SIG_DFL);
    *ignored = find_ignored();
}

/* Returns memory that children do not get: a fork does not pay for it (16 MB that the parent has
 * written cost 560 us instead of 110), and no child can read what belongs to others. */
static void *private_memory(size_t size)
{
    void *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED || madvise(m, size, MADV_DONTFORK) < 0)
        cannot("out of memory for the table of connections: %s", strerror(errno));
    return m;
}

static void make_tables(void)
{
    int room = (int)settings.connections, slots = (int)settings.requests;
    for (enum phase phase = PHASE_FREE; phase <= PHASE_LINGERING; phase++)
        TAILQ_INIT(&list_of(phase)->members);
    TAILQ_INIT(&server.jobs.urgent);
    TAILQ_INIT(&server.jobs.ready);
    TAILQ_INIT(&server.jobs.delayed);
    TAILQ_INIT(&server.jobs.running);
    server.connections = private_memory((size_t)room * sizeof *server.connections);
    server.heap = private_memory((size_t)room * sizeof *server.heap);
    server.free_slots = private_memory((size_t)slots * sizeof *server.free_slots);
    server.slot_users = private_memory((size_t)slots * sizeof(struct connection *));
    server.bucket_count = 64;
    while (server.bucket_count < room)
        server.bucket_count *= 2;
    size_t buckets = (size_t)server.bucket_count;
    server.pid_buckets = private_memory(buckets * sizeof *server.pid_buckets);
    server.client_buckets = private_memory(buckets * sizeof *server.client_buckets);
    struct client *clients = private_memory((size_t)room * sizeof *clients);
    for (int i = 0; i < room; i++)
        SLIST_INSERT_HEAD(&server.free_clients, &clients[i], link);
    for (int i = slots - 1; i >= 0; i--)
        server.free_slots[server.free_slot_count++] = i;
    server.route_lines =
        private_memory((settings.handler.route_count + 1) * sizeof *server.route_lines);
    for (size_t i = 0; i < settings.handler.route_count; i++)
        TAILQ_INIT(&server.route_lines[i].waiting);
    for (int i = 0; i < room; i++)
        list_append(&server.free, &server.connections[i]);
}

/* All bodies together are bounded, and no one may be larger than that. */
static void limit_bodies(struct handler_settings *h)
{
    if (h->max_spool == 0)
        h->max_spool = h->max_body <= INT64_MAX / 4 ? (int64_t)h->max_body * 4 : INT64_MAX;
    if (h->max_body > (uint64_t)h->max_spool)
        h->max_body = (uint64_t)h->max_spool;
}

/* What a C handler writes to standard error is in a log of JSON no JSON. So it writes to a pipe,
 * which all of them share, and we make lines of the log of it; whose they are is not known. */
static void open_errors(void)
{
    struct handler_settings *h = &settings.handler;
    int ends[2] = {-1, -1};
    bool wanted = false;
    for (size_t i = 0; i < h->route_count; i++)
        wanted = wanted || h->routes[i].handler != NULL;
    if (wanted && log_sink.json && log_sink.fd == STDERR_FILENO) {
        log_sink.fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
        if (log_sink.fd < 0 || pipe2(ends, O_CLOEXEC) < 0)
            cannot("could not make a pipe for what handlers say: %s", strerror(errno));
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
    }
    server.errors = ends[0];
    server.error_lines.stream = "stderr";
    h->errors = ends[1];
}

/* Handlers are given some facts that only a start can find, in their settings: they are filled in
 * here and nowhere else, before the first fork. */
static void open_all(void)
{
    struct handler_settings *found = &settings.handler;
    check_inetd();
    signal(SIGXFSZ, SIG_IGN); /* a log that may not grow is a lost line, and nobody's end */
    open_log();
    const struct passwd *owner = find_owner();
    open_sockets(owner);
    if (settings.inetd)
        leave_standard_descriptors();
    drop_privileges(owner);
    open_late_sockets(owner);
    limit_bodies(found);
    found->tmpdir = find_tmpdir();
    pass_env_prepare(find_self(), server.state.path);
    found->null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (found->null < 0)
        cannot("could not open /dev/null, which programs without a body read: %s; make it with "
               "mknod -m 666 /dev/null c 1 3",
               strerror(errno));
    found->head = make_head();
    found->open_files = raise_descriptor_limit(server.one_connection);
    server.dir = cleanup_server_open(server.state.fd, server.token);
    if (server.dir < 0)
        cannot("could not make a directory in the state directory: %s", strerror(errno));
    state_try(&server.state, server.dir);
    pass_env_keep(server.dir, server.token);
    open_pool();
    open_scoreboard();
    open_events(&found->ignored);
    open_errors();
    find_libc();
    gather_kept();
    loans_reserve();
    make_tables();
}

static void add_watch(int fd, uint64_t what)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = what};
    if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        cannot("could not watch for events: %s", strerror(errno));
}

/* A warning only: the program may come later. But most often its name is wrong. */
static void warn_of_missing_programs(void)
{
    for (size_t i = 0; i < settings.handler.route_count; i++) {
        const struct route *r = &settings.handler.routes[i];
        if (r->program != NULL && access(r->program, X_OK) < 0)
            log_eventf(NULL, "warning: the program of the route %s, %s: %s", r->path, r->program,
                       strerror(errno));
    }
}

static void begin_serving(void)
{
    add_watch(server.signals, WATCH_SIGNALS);
    add_watch(server.nudge[0], WATCH_NUDGE);
    if (server.errors >= 0)
        add_watch(server.errors, WATCH_ERRORS);
    if (server.one_connection) {
        struct sockaddr_storage from = {0};
        socklen_t size = sizeof from;
        const struct listener *l = &server.listeners[0];
        getpeername(l->fd, (struct sockaddr *)&from, &size);
        connection_open(l->fd, &from, l->is_tcp);
        return; /* recovery comes after the caller has been served */
    }
    listeners_watch(EPOLL_CTL_ADD);
    for (size_t i = 0; i < server.listener_count; i++)
        log_eventf(NULL, "listening on %s", server.listeners[i].name);
    pass_env_tell();
    handover_ready();
    if (handover.parent != 0)
        add_watch(handover.pipe, WATCH_HANDOVER | (unsigned)handover.pipe);
    warn_of_missing_programs();
    recovery_begin();
    jobs_start();
}

/* ---- Loop --------------------------------------------------------------------------- */

static void sooner(int64_t *at, int64_t other)
{
    if (other != 0 && (*at == 0 || other < *at))
        *at = other;
}

/* Every time that do_what_is_due looks at must be here, on the same condition: one that is left out
 * waits for the next event, and one that it does not act on keeps the loop awake. */
static int time_to_wait(int64_t now)
{
    int64_t at = server.heap_size > 0 ? server.connections[server.heap[0]].deadline : 0;
    if (server.muted)
        sooner(&at, server.unmute_at);
    if (server.stage == DRAINING)
        sooner(&at, server.drain_end);
    sooner(&at, handover.short_at);
    if (server.idle_exit_ms >= 0 && server.open_count == 0 && server.stage == SERVING)
        sooner(&at, server.idle_since + server.idle_exit_ms);
    if (!TAILQ_EMPTY(&server.jobs.delayed))
        sooner(&at, TAILQ_FIRST(&server.jobs.delayed)->due);
    if (server.busy.count > 0)
        sooner(&at, server.reaped_at + REAP_EVERY_MS);
    sooner(&at, janitors_slow_down(now));
    if (server.board_due)
        sooner(&at, server.board_written + BOARD_EVERY_MS);
    if (at == 0)
        return -1;
    return at <= now ? 0 : at - now > INT_MAX ? INT_MAX : (int)(at - now);
}

static void do_what_is_due(int64_t now)
{
    while (server.heap_size > 0 && server.connections[server.heap[0]].deadline <= now)
        connection_due(&server.connections[server.heap[0]], now);
    if (server.busy.count > 0 && server.reaped_at + REAP_EVERY_MS <= now)
        reap_children();
    if (server.busy.count > 0)
        pool_look(now);
    if (server.muted && server.unmute_at <= now)
        unmute();
    if (server.stage == DRAINING && server.drain_end <= now)
        end_all();
    /* Under inetd nobody but the caller is waited for: recovery comes when it has been served. */
    if (server.one_connection && server.open_count == 0 && !server.recovered)
        recovery_begin();
    jobs_due(now);
    jobs_start();
    if (handover.short_at != 0 && handover.short_at <= now) {
        handover.short_at = 0;
        queue_serve();
        for (size_t i = 0; i < settings.handler.route_count; i++)
            line_serve(i);
    }
    if (server.open_count > 0)
        server.idle_since = now;
    else if (server.idle_exit_ms >= 0 && now - server.idle_since >= server.idle_exit_ms &&
             server.stage == SERVING)
        drain();
    if (server.stage == HANDED_OVER && is_done())
        dir_close();
    if (atomic_load(log_sink.lost) > 0 && log_has_room()) {
        unsigned lost = atomic_exchange(log_sink.lost, 0);
        server.figures.log_lost += lost;
        log_eventf(NULL, "%u log lines were lost: the log did not take them in time", lost);
    }
}

/* Hand an event on. An earlier one of the same round may have closed its connection, and given the
 * index to another: the generation tells. */
static void dispatch(const struct epoll_event *e)
{
    uint64_t what = e->data.u64;
    if ((what & WATCH_LISTENER) != 0) {
        if (!server.muted && server.stage == SERVING)
            accept_some(&server.listeners[what & 0xff]);
    } else if ((what & WATCH_SIGNALS) != 0) {
        signals_arrived();
    } else if ((what & WATCH_NUDGE) != 0) {
        nudged();
    } else if ((what & WATCH_ERRORS) != 0) {
        log_lines_read(&server.error_lines, NULL, server.errors);
    } else if ((what & WATCH_HANDOVER) != 0) {
        handover_heard((int)(uint32_t)what);
    } else {
        struct connection *c = &server.connections[(uint32_t)what];
        if (c->phase != PHASE_FREE && c->generation == (uint32_t)(what >> 32))
            connection_event(c, e->events);
    }
}

static void loop(void)
{
    struct epoll_event events[128];
    server.idle_since = clock_ms();
    while (!is_over()) {
        publish();
        int n = epoll_wait(server.epoll, events, 128, time_to_wait(clock_ms()));
        if (n < 0 && errno != EINTR)
            cannot("could not wait for events: %s", strerror(errno));
        for (int i = 0; i < n; i++)
            dispatch(&events[i]);
        do_what_is_due(clock_ms());
    }
}

/* ---- Accept ------------------------------------------------------------------------- */

#define MUTE_MS 100
#define ACCEPT_AT_ONCE 64
#define LOOK_FOR_IDLE 64 /* connections */
#define FRESH_MS 100     /* so long a new connection may take to ask for something */

static void listeners_watch(int how)
{
    for (size_t i = 0; i < server.listener_count; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.u64 = WATCH_LISTENER | i};
        epoll_ctl(server.epoll, how, server.listeners[i].fd, &e);
    }
}

/* When nothing can be accepted, the listeners stay readable and would keep the loop awake: 88,682
 * times in 100 ms, measured. So they are left out until room may have come. */
static void mute(int64_t ms)
{
    if (!server.muted)
        listeners_watch(EPOLL_CTL_DEL);
    server.muted = true;
    server.unmute_at = clock_ms() + ms;
}

static void unmute(void)
{
    if (server.muted && server.stage == SERVING)
        listeners_watch(EPOLL_CTL_ADD);
    server.muted = false;
}

static bool may_be_dropped(const struct connection *c)
{
    bool fresh = c->requests == 0 && clock_ms() - c->since < FRESH_MS;
    return !fresh && unread(c) == 0;
}

/* An idle connection makes room for a new one: the oldest that has not asked for anything. If there
 * is none, one that is queued may have to. */
static bool make_room(void)
{
    struct connection *c = TAILQ_FIRST(&server.idle.members);
    for (int looks = 0; c != NULL && !may_be_dropped(c); looks++)
        c = looks < LOOK_FOR_IDLE ? TAILQ_NEXT(c, link) : NULL;
    if (c == NULL)
        return queue_makes_room();
    handler_end_sending(c->fd); /* also for the copies that children still hold */
    connection_close(c);
    return true;
}

static void connection_open(int fd, const struct sockaddr_storage *from, bool is_tcp)
{
    struct connection *c = TAILQ_FIRST(&server.free.members);
    list_remove(&server.free, c);
    *c = (struct connection){.fd = fd,
                             .generation = c->generation,
                             .phase = PHASE_IDLE,
                             .is_tcp = is_tcp,
                             .address = address_of(from),
                             .slot = NOBODY,
                             .loan = NOBODY,
                             .timer = NOBODY};
    list_append(&server.idle, c);
    server.open_count++;
    connection_idle(c); /* mostly its first request is there already */
}

/* Answer 503 on the connection FD, which is closed next, and log it; UNREAD is as in log_unserved.
 */
static void refuse_at_once(int fd, const struct address *from, int64_t since, int unread,
                           const char *reason)
{
    char nowhere[4096];
    struct slot s = {0};
    slot_reason(&s, reason);
    bool sent = handler_send_canned(fd, &s, 503, false, reason);
    log_unserved(from, since, &s, OUTCOME_ERROR, unread);
    if (sent)
        handler_end_sending(fd);
    /* Closing with input unread would reset the connection, and lose the answer. */
    for (int i = 0; sent && i < 16; i++)
        sent = recv(fd, nowhere, sizeof nowhere, MSG_TRUNC | MSG_DONTWAIT) > 0;
}

/* Out of descriptors: one is kept in reserve, to tell a caller so instead of leaving it hanging. */
static void refuse_one(const struct listener *l, int error)
{
    static int64_t last;
    int64_t now = clock_ms();
    if (now - last > 1000)
        log_eventf(NULL, "could not accept a connection: %s; raise the limit of open files",
                   strerror(error));
    last = now;
    if (server.reserve >= 0)
        close(server.reserve);
    struct sockaddr_storage from = {0};
    socklen_t size = sizeof from;
    int fd = accept4(l->fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        struct address caller = address_of(&from);
        refuse_at_once(fd, &caller, now, -1, "the server has no room for another connection");
        close(fd);
    }
    server.reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    mute(MUTE_MS);
}

/* Not all that wait, so that a flood of new callers leaves the others their turn: epoll tells again
 * of those that are left. */
static void accept_some(const struct listener *l)
{
    for (int i = 0; i < ACCEPT_AT_ONCE && !server.muted; i++) {
        if (server.free.count == 0 && i > 0)
            return; /* whether a further one waits only the next event tells */
        if (server.free.count == 0 && !make_room()) {
            mute(MUTE_MS);
            return;
        }
        struct sockaddr_storage from = {0};
        socklen_t size = sizeof from;
        int fd = accept4(l->fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC);
        if (fd >= 0) {
            connection_open(fd, &from, l->is_tcp);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            int error = errno;
            if (!make_room()) {
                refuse_one(l, error);
                return;
            }
        } else if (errno != EINTR && errno != ECONNABORTED && errno != EPROTO) {
            return; /* EAGAIN; the network errors of accept(2) concern that caller only */
        }
    }
}

/* ---- Connection --------------------------------------------------------------------- */

static void watch(struct connection *c, uint32_t events)
{
    int how = c->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    c->watched = true;
    struct epoll_event e = {.events = events,
                            .data.u64 = (uint64_t)c->generation << 32 | (uint32_t)index_of(c)};
    if (epoll_ctl(server.epoll, how, c->fd, &e) < 0)
        log_eventf(NULL, "could not watch a connection: %s", strerror(errno));
}

/* Close at once: by a reset, unless our side was ended in order before. */
static void connection_close(struct connection *c)
{
    set_deadline(c, 0);
    set_phase(c, PHASE_FREE);
    /* close(2) takes a descriptor out of epoll only with its last copy, and a child may still be
     * closing the ones that it has inherited. */
    epoll_ctl(server.epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->generation = (c->generation + 1) & GENERATION_MASK;
    server.open_count--;
}

/* Close in order: end our side, and discard what still comes until the client has ended its own.
 * Closing with input unread would reset the connection and could take the answer along
 * (RFC 9112 section 9.6). */
static void connection_finish(struct connection *c)
{
    if (handler_end_sending(c->fd) < 0 && errno == ENOTCONN) { /* both sides have ended it */
        connection_close(c);
        return;
    }
    set_phase(c, PHASE_LINGERING);
    set_deadline(c, clock_ms() + LINGER_MS);
    watch(c, WATCH_IDLE);
}

/* Answer 503 and end the connection; the log's line is for the request, with ID, or a new one if
 * that is NULL. Of the server's own errors only two do not go this way: there is no connection yet
 * (refuse_one), or a child has died and its outcome decides (send_failure). */
static void refuse_unread(struct connection *c, const char *id, enum outcome outcome,
                          const char *reason)
{
    struct slot s = {0};
    snprintf(s.id, sizeof s.id, "%s", id != NULL ? id : "");
    slot_reason(&s, reason);
    bool sent = handler_send_canned(c->fd, &s, 503, false, reason);
    log_unserved(&c->address, c->since, &s, outcome, c->fd); /* before its bytes are discarded */
    if (sent)
        connection_finish(c);
    else
        connection_close(c);
}

/* The connection has no request now: is there one, or is it over? An end that the client has sent
 * counts only if nothing stands before it: many send a request and their FIN at once. */
static void connection_idle(struct connection *c)
{
    set_phase(c, PHASE_IDLE);
    c->since = clock_ms();
    set_deadline(c, c->since + settings.handler.idle_ms);
    if (unread(c) > 0)
        request_arrived(c);
    else if (c->fin_seen || is_stopping())
        connection_finish(c);
    else
        watch(c, WATCH_IDLE);
}

/* Of a lingering connection. A client that goes on sending gets LINGER_MS, and no more turns of
 * this loop than others. */
static void discard_input(struct connection *c)
{
    char nowhere[4096]; /* AF_UNIX copies in spite of MSG_TRUNC; never looked at */
    for (int i = 0; i < 16; i++) {
        ssize_t n = recv(c->fd, nowhere, sizeof nowhere, MSG_TRUNC | MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            connection_close(c);
            return;
        }
        if (n < 0)
            return;
    }
}

static void connection_event(struct connection *c, uint32_t events)
{
    bool dead = (events & (EPOLLERR | EPOLLHUP)) != 0, fin = (events & EPOLLRDHUP) != 0;
    switch (c->phase) {
    case PHASE_IDLE:
        c->fin_seen = fin;         /* level-triggered here: it is told again with every event */
        if (dead && unread(c) > 2) /* it had asked for something: this is no stray line end */
            log_unserved(&c->address, c->since, &(struct slot){0}, OUTCOME_HANGUP, -1);
        if (dead)
            connection_close(c);
        else
            connection_idle(c);
        break;
    case PHASE_QUEUED:
        c->fin_seen = c->fin_seen || fin;
        if (dead || (fin && settings.handler.half_close == HALF_CLOSE_HANGUP)) {
            log_unserved(&c->address, c->since, &(struct slot){0}, OUTCOME_HANGUP, -1);
            connection_close(c);
        }
        break;
    case PHASE_BUSY:
        if (dead)
            hangup(c);
        else if (fin)
            fin_arrived(c);
        break;
    case PHASE_LINGERING:
        if (dead)
            connection_close(c);
        else
            discard_input(c);
        break;
    default: /* SETTLING: what is undone is undone whoever is there */
        break;
    }
}

static void connection_due(struct connection *c, int64_t now)
{
    set_deadline(c, 0);
    switch (c->phase) {
    case PHASE_IDLE:
        connection_finish(c);
        break;
    case PHASE_QUEUED:
        if (now < c->since + settings.handler.queue_ms)
            wait_in_queue(c);
        else
            refuse_unread(c, NULL, OUTCOME_ERROR,
                          "too many requests; this one waited too long in the queue");
        break;
    case PHASE_BUSY:
        request_due(c, now);
        break;
    case PHASE_LINGERING:
        connection_close(c);
        break;
    default: /* SETTLING: its janitor has limits of its own */
        break;
    }
}

/* ---- Child -------------------------------------------------------------------------- */

/* A fork copies the table of descriptors, which has an entry for every open connection, and the
 * child must close them all again, or another client's close would not reach the wire while this
 * child lives. Both is paid for by the number of connections. Measured, fork + exit + wait:
 *
 *     open descriptors          10      1,000      10,000
 *     fork                  134 us     186 us      640 us (and 1,118 us with close_range(2))
 *     sharing the table     112 us     112 us      112 us
 *
 * So a newborn shares our table (CLONE_FILES) and then takes a copy of only what lies up to its own
 * connection, by close_range(2) with CLOSE_RANGE_UNSHARE. For that the connection must have a low
 * number: one from LOAN_FROM on is duplicated to one of LOAN_COUNT low numbers, which it has until
 * the child has a table of its own. */

/* Where the C library keeps what the kernel writes for it into a new process (set_tid_address(2),
 * get_robust_list(2)): fork(3) would see to it. */
static struct {
    pid_t *tid;
    struct robust_list_head *robust_list;
    size_t robust_size;
} libc;

/* A kernel that does not tell, or a sandbox that forbids: no sharing. */
static void find_libc(void)
{
    pid_t *tid = NULL;
    server.shares = prctl(PR_GET_TID_ADDRESS, &tid) == 0 && tid != NULL && *tid == gettid() &&
                    syscall(SYS_get_robust_list, 0, &libc.robust_list, &libc.robust_size) == 0 &&
                    close_range(INT_MAX, INT_MAX, CLOSE_RANGE_UNSHARE) == 0;
    libc.tid = tid;
}

/* The numbers are held by copies of a directory that every child keeps anyhow: so nobody else gets
 * them, and a newborn that finds one in its table has nothing that it should not have. */
static void loans_reserve(void)
{
    for (int i = 0; i < LOAN_COUNT; i++) {
        server.loans[i] = (struct loan){.fd = fcntl(server.dir, F_DUPFD_CLOEXEC, 3)};
        server.shares = server.shares && server.loans[i].fd >= 0;
    }
}

/* Returns a low number for C, or -1 if all are lent to children that do not have their own tables
 * yet. That a child has one is seen by the pid in its slot, which child_main writes afterwards; one
 * that writes it too early harms itself. */
static int loan_take(struct connection *c)
{
    for (int tries = 0; tries < LOAN_COUNT; tries++) {
        int i = server.loan_next++ % LOAN_COUNT;
        struct loan *l = &server.loans[i];
        if (l->user != NULL && atomic_load(&slot_of(l->user)->pid) == 0)
            continue;
        if (dup3(c->fd, l->fd, O_CLOEXEC) < 0)
            return -1;
        if (l->user != NULL)
            l->user->loan = NOBODY;
        l->user = c;
        c->loan = i;
        return l->fd;
    }
    return -1;
}

/* No longer hold the connection open by it. */
static void loan_return(struct connection *c)
{
    if (c->loan == NOBODY)
        return;
    dup3(server.dir, server.loans[c->loan].fd, O_CLOEXEC);
    server.loans[c->loan].user = NULL;
    c->loan = NOBODY;
}

/* As fork(3), but that the table of descriptors is shared: until the child has called close_all_but
 * it must neither open nor close anything. Handlers of pthread_atfork(3) are not called. */
static pid_t fork_sharing(void)
{
    struct clone_args how = {.flags = CLONE_FILES | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID,
                             .child_tid = (uintptr_t)libc.tid,
                             .exit_signal = (unsigned)CHILD_ENDED};
    pid_t pid = (pid_t)syscall(SYS_clone3, &how, sizeof how);
    if (pid == 0)
        syscall(SYS_set_robust_list, libc.robust_list, libc.robust_size);
    return pid;
}

/* Fork for C's request: the child finds the connection at *NUMBER. */
static pid_t fork_for(struct connection *c, int *number)
{
    *number = server.shares && c->fd >= LOAN_FROM ? loan_take(c) : c->fd;
    if (server.shares && *number >= 0) {
        pid_t pid = fork_sharing();
        if (pid >= 0 || (errno != ENOSYS && errno != EPERM))
            return pid;
        server.shares = false; /* a sandbox forbids it */
    }
    *number = c->fd;
    return fork();
}

/* What every child keeps lies side by side, so that few calls close all the rest. */
#define KEPT_FROM 40

static void gather_kept(void)
{
    int *kept[] = {&server.dir,
                   &server.state.fd,
                   &server.nudge[1],
                   &settings.handler.null,
                   &settings.handler.errors,
                   &log_sink.fd};
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        int fd = *kept[i] > STDERR_FILENO ? fcntl(*kept[i], F_DUPFD_CLOEXEC, KEPT_FROM) : -1;
        if (fd < 0)
            continue;
        close(*kept[i]);
        *kept[i] = fd;
    }
}

static void sort(int *numbers, size_t count)
{
    for (size_t i = 1; i < count; i++)
        for (size_t k = i; k > 0 && numbers[k] < numbers[k - 1]; k--) {
            int larger = numbers[k - 1];
            numbers[k - 1] = numbers[k];
            numbers[k] = larger;
        }
}

/* Close all descriptors from 3 on but the COUNT in KEEP, of which some may be -1 or below 3. Those
 * behind the last are not even copied where the table is still shared. */
static void close_all_but(int *keep, size_t count)
{
    int from = STDERR_FILENO + 1;
    sort(keep, count);
    int last = keep[count - 1] >= from ? keep[count - 1] : from - 1;
    /* Still sharing, the next close would be the parent's. */
    bool unshared = close_range((unsigned)last + 1, ~0U, CLOSE_RANGE_UNSHARE) == 0;
    if (!unshared && server.shares)
        _exit(HANDLER_EXIT_UNDONE);
    for (size_t i = 0; i < count; i++) {
        if (keep[i] > from)
            close_from_to(from, keep[i] - 1);
        if (keep[i] >= from)
            from = keep[i] + 1;
    }
    if (!unshared)
        close_from_to(from, INT_MAX);
}

/* A newborn of the server, which is going to serve or to undo: it keeps no other client's
 * connection open, and is gone when the server is. */
static void become_child(int connection, int death_signal)
{
    int keep[] = {log_sink.fd,
                  server.dir,
                  server.state.fd,
                  server.nudge[1],
                  connection,
                  settings.handler.null,
                  settings.handler.errors};
    close_all_but(keep, sizeof keep / sizeof keep[0]);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, death_signal);
    if (getppid() != server.pid)
        _exit(HANDLER_EXIT_UNDONE); /* it died before it could be asked for */
}

static _Noreturn void child_main(struct handler_call *call)
{
    become_child(call->connection, SIGTERM);
    /* In this order: the parent's session is spared by janitors, and then this number is. */
    call->pid = getpid();
    atomic_store(&call->slot->pid, call->pid);
    setsid();
    cleanup_mark_process(call->slot->id);
    handler_serve(call);
}

/* ---- Request ------------------------------------------------------------------------ */

static int64_t slots_taken(void)
{
    return settings.requests - server.free_slot_count;
}

/* Returns true if C's request may start; its place among those of all servers is taken then. */
static bool place_for(const struct connection *c)
{
    if (server.free_slot_count == 0)
        return false;
    const struct client *client = settings.per_client > 0 ? client_find(&c->address) : NULL;
    return (client == NULL || client->busy < settings.per_client) &&
           place_take(PLACES_ALL, slots_taken() + 1, settings.requests);
}

static void fill_slot(struct connection *c, const char *id)
{
    struct slot *s = slot_of(c);
    memset(s, 0, sizeof *s);
    s->started = c->since;
    s->forked = clock_ticks();
    s->route = -1;
    snprintf(s->id, sizeof s->id, "%s", id);
    address_text(&c->address, s->client, sizeof s->client);
    /* Last: a slot in a state is one that `hangupd status` shows. */
    atomic_store(&s->state, SLOT_READING | (c->fin_seen ? SLOT_FIN_SEEN : 0));
}

/* Fork a child for the connection's next request. A slot is free. */
static void request_start(struct connection *c)
{
    char id[CLEANUP_ID_SIZE];
    c->id_number = ++server.request_count;
    snprintf(id, sizeof id, "%s-%llx", server.token, (unsigned long long)c->id_number);
    c->slot = server.free_slots[--server.free_slot_count];
    server.slot_users[c->slot] = c;
    server.board_used = c->slot >= server.board_used ? c->slot + 1 : server.board_used;
    c->since = clock_ms();
    c->requests++;
    c->cause = CAUSE_NONE;
    c->signalled = c->killed = c->prolonged = false;
    c->looked_at = 0;
    fill_slot(c, id);
    struct handler_call call = {.settings = &settings.handler,
                                .slot = slot_of(c),
                                .draining = &server.board->draining,
                                .state_dir = server.dir,
                                .nudge = server.nudge[1],
                                .slot_number = (uint32_t)c->slot,
                                .once = server.one_connection,
                                .parent = server.pid,
                                .is_tcp = c->is_tcp,
                                .forked = slot_of(c)->forked};
    pid_t pid = fork_for(c, &call.connection);
    if (pid == 0)
        child_main(&call);
    if (pid < 0) {
        log_eventf(id, "could not fork for a request: %s", strerror(errno));
        loan_return(c);
        slot_release(c);
        refuse_unread(c, id, OUTCOME_ERROR, "the server has no room for another process");
        return;
    }
    server.figures.requests++;
    pid_remember(c, pid);
    set_phase(c, PHASE_BUSY);
    set_deadline(c, settings.handler.request_ms > 0 ? c->since + settings.handler.request_ms : 0);
    watch(c, WATCH_HANGUP);
}

/* The connection has bytes to read, which are the beginning of a request, or of nonsense: that the
 * child will find out. */
static void request_arrived(struct connection *c)
{
    if (is_stopping()) {
        refuse_unread(c, NULL, OUTCOME_DRAIN, "the server is stopping");
        return;
    }
    queue_serve(); /* first come, first served */
    if (place_for(c)) {
        request_start(c);
    } else {
        set_phase(c, PHASE_QUEUED);
        c->since = clock_ms();
        watch(c, WATCH_HANGUP);
        wait_in_queue(c);
    }
}

/* ---- Queue -------------------------------------------------------------------------- */

#define EVICT_AGE_MS 1000 /* a header may take so long before it must make room */
#define SLOW_MS 2000      /* a client that moves less than SLOW_BYTES in this time must, too */
#define SLOW_BYTES 2048
#define SLOW_LOOK_MS 250

/* Returns true if only the client holds the request up: less than SLOW_BYTES moved in SLOW_MS while
 * we had read all of the body that arrived, or while the client's window was full. */
static bool is_slow(struct connection *c, int64_t now)
{
    uint32_t flags = atomic_load(&slot_of(c)->state), state = flags & SLOT_STATE_MASK;
    if (c->phase != PHASE_BUSY || !c->is_tcp || c->signalled || (flags & SLOT_OUTLIVES) != 0 ||
        (c->looked_at != 0 && now - c->looked_at < SLOW_MS))
        return false;
    uint32_t unsendable;
    uint64_t before = c->moved;
    bool first = c->looked_at == 0;
    c->moved = handler_traffic(c->fd, &unsendable);
    c->looked_at = now;
    bool reads = state == SLOT_READING && (flags & SLOT_BODY_OPEN) != 0 && unread(c) == 0;
    bool sends = state == SLOT_ANSWERING && unsendable > 0;
    return !first && c->moved - before < SLOW_BYTES && (reads || sends);
}

/* All slots are taken, and each of their requests may have made something: end those whose clients
 * are slow, as many as wait for a slot. Each is looked at from time to time. */
static void evict_slow(void)
{
    struct connection *c;
    int64_t now = clock_ms();
    int left = server.queue.count + 1; /* and the one that is about to wait */
    if (server.slow_looked_at != 0 && now - server.slow_looked_at < SLOW_LOOK_MS)
        return;
    server.slow_looked_at = now;
    for (c = TAILQ_FIRST(&server.busy.members); c != NULL; c = TAILQ_NEXT(c, link))
        if (left > 0 && is_slow(c, now)) {
            request_cut(c);
            left--;
        }
}

/* Returns true if C's request has made nothing yet: its head is not whole or, if IN_LINE is true,
 * it waits for its turn. */
static bool may_be_evicted(const struct connection *c, bool in_line)
{
    return c->phase == PHASE_BUSY && !c->signalled && clock_ms() - c->since >= EVICT_AGE_MS &&
           ((in_line && c->turn == TURN_WAITING) ||
            (atomic_load(&slot_of(c)->state) & SLOT_HEAD_OPEN) != 0);
}

/* When all slots are taken, a request that has made nothing yet makes room: the oldest whose head
 * is not whole, as slow heads are how slots are held for nothing; else the one that came last to a
 * route's line, which has waited least. */
static void evict_one(void)
{
    struct connection *c;
    if (server.free_slot_count > 0)
        return;
    for (c = TAILQ_FIRST(&server.busy.members); c != NULL; c = TAILQ_NEXT(c, link))
        if (may_be_evicted(c, false))
            break;
    if (c == NULL)
        for (c = TAILQ_LAST(&server.busy.members, connections); c != NULL;
             c = TAILQ_PREV(c, connections, link))
            if (may_be_evicted(c, true))
                break;
    if (c != NULL)
        request_stop(c, CAUSE_EVICTED);
    else
        evict_slow();
}

/* One that is queued makes room for another connection: who has sent FIN, and may have gone; else,
 * with --per-client, the last of the address that has the most there. So none keeps others out. */
static bool queue_makes_room(void)
{
    struct connection *c, *found = NULL;
    int most = 2; /* an address with one has no more than another could want */
    for (c = TAILQ_FIRST(&server.queue.members); c != NULL; c = TAILQ_NEXT(c, link)) {
        const struct client *client =
            settings.per_client > 0 && c->is_tcp ? client_find(&c->address) : NULL;
        int has = c->fin_seen ? INT_MAX : client != NULL ? client->queued : 0;
        if (has >= most) {
            most = has;
            found = c;
        }
    }
    if (found == NULL)
        return false;
    refuse_at_once(found->fd, &found->address, found->since, found->fd,
                   "too many requests; this one had to make room");
    connection_close(found);
    return true;
}

/* Perhaps nobody is old enough to be evicted yet, so a request in the queue looks again soon. */
static void wait_in_queue(struct connection *c)
{
    int64_t end = c->since + settings.handler.queue_ms, soon = clock_ms() + EVICT_AGE_MS;
    set_deadline(c, end < soon ? end : soon);
    evict_one();
}

/* Start those that may, in the order in which they came; but behind all others who has sent FIN,
 * and may have gone: only a child can ask. One whose address has its share already (--per-client)
 * lets those behind it pass. */
static void queue_serve(void)
{
    for (int fin = 0; fin <= 1; fin++) {
        struct connection *c = TAILQ_FIRST(&server.queue.members), *next;
        for (; c != NULL && server.free_slot_count > 0; c = next) {
            next = TAILQ_NEXT(c, link);
            if (c->fin_seen == (fin != 0) && place_for(c))
                request_start(c);
        }
    }
}

/* ---- Turn -------------------------------------------------------------------------- */

/* Put VALUE into a slot's WORD, on which a child sleeps. */
static void word_tell(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store(word, value);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void turn_tell(const struct connection *c, enum turn turn)
{
    word_tell(&slot_of(c)->turn, turn);
}

static void turn_grant(struct connection *c)
{
    c->turn = TURN_GRANTED;
    server.route_lines[c->route].running++;
    turn_tell(c, TURN_GRANTED);
}

/* C's child asks for one of the places of its route (scoreboard.h). Its word on which route that is
 * is believed as far as it harms itself: a route without `max` has places for all. */
static void turn_asked(struct connection *c)
{
    int route = atomic_load(&slot_of(c)->route);
    bool known = route >= 0 && (size_t)route < settings.handler.route_count;
    int64_t max = known ? settings.handler.routes[route].max : 0;
    if (max <= 0) {
        turn_tell(c, TURN_GRANTED);
        return;
    }
    c->route = route;
    if (place_take(places_of(settings.handler.routes[route].path),
                   server.route_lines[route].running + 1, max)) {
        turn_grant(c);
        return;
    }
    c->turn = TURN_WAITING;
    TAILQ_INSERT_TAIL(&server.route_lines[route].waiting, c, line);
    turn_tell(c, TURN_WAITING);
}

/* Give the places of a route that are free to the first in its line, but not to one that is being
 * ended, which would only keep it from the others. */
static void line_serve(size_t route)
{
    const struct route *r = &settings.handler.routes[route];
    struct route_line *l = &server.route_lines[route];
    struct connection *c = TAILQ_FIRST(&l->waiting), *next;
    for (; c != NULL; c = next) {
        next = TAILQ_NEXT(c, line);
        if (c->signalled)
            continue;
        if (!place_take(places_of(r->path), l->running + 1, r->max))
            return;
        TAILQ_REMOVE(&l->waiting, c, line);
        turn_grant(c);
    }
}

/* C's request is over, and nothing is left to undo. Its place goes to the next. */
static void turn_over(struct connection *c)
{
    struct route_line *l = &server.route_lines[c->route];
    enum turn had = c->turn;
    c->turn = TURN_NONE;
    if (had == TURN_WAITING)
        TAILQ_REMOVE(&l->waiting, c, line);
    if (had != TURN_GRANTED)
        return;
    place_give(places_of(settings.handler.routes[c->route].path), --l->running);
    line_serve((size_t)c->route);
}

/* C's child asks for room for its body, as much as it says in all (scoreboard.h). */
static void room_asked(struct connection *c)
{
    struct slot *s = slot_of(c);
    uint64_t all = atomic_load(&s->room_for), most = (uint64_t)settings.handler.max_spool;
    if (all > settings.handler.max_body)
        all = settings.handler.max_body;
    uint64_t more = all > c->room ? all - c->room : 0;
    bool granted = more <= most - server.room_taken;
    if (granted) {
        c->room += more;
        server.room_taken += more;
    }
    word_tell(&s->room, granted ? ROOM_GRANTED : ROOM_REFUSED);
}

/* Returns true if an operator has ended C's request by a SIGTERM to its child, which notes that. It
 * counts where we have no cause of our own; a child that lies so ends itself. */
static bool is_operators(struct connection *c)
{
    if (c->cause == CAUSE_NONE && atomic_load(&slot_of(c)->cause) == CAUSE_OPERATOR)
        c->cause = CAUSE_OPERATOR;
    return c->cause == CAUSE_OPERATOR;
}

/* A child that has something to say names its slot here: a time limit of its own, that it wants its
 * turn, or room for its body. */
static void nudged(void)
{
    uint32_t number;
    while (read(server.nudge[0], &number, sizeof number) == sizeof number) {
        struct connection *c = number < settings.requests ? server.slot_users[number] : NULL;
        if (c == NULL || c->phase != PHASE_BUSY || c->signalled)
            continue;
        if (is_operators(c)) {
            c->signalled = true; /* by somebody else, and its time runs as ever */
            set_deadline(c, clock_ms() + settings.handler.grace_ms + KILL_AFTER_MS);
            continue;
        }
        int64_t limit = atomic_load(&slot_of(c)->limit_ms);
        if (limit > 0 && limit <= INT_MAX)
            set_deadline(c, c->since + limit);
        if (c->turn == TURN_NONE && atomic_load(&slot_of(c)->turn) == TURN_ASKED)
            turn_asked(c);
        if (atomic_load(&slot_of(c)->room) == ROOM_ASKED)
            room_asked(c);
    }
}

/* ---- Hangup ------------------------------------------------------------------------- */

/* Stop the child: one way for every cause. The child finds out by itself what to undo, and whether
 * there is still somebody to tell. If it does not end, it is killed, and a janitor undoes. */
static void request_stop(struct connection *c, enum cause cause)
{
    if (c->phase != PHASE_BUSY || c->signalled)
        return;
    c->signalled = true;
    c->cause = cause;
    atomic_store(&slot_of(c)->cause, cause);
    kill(c->pid, SIGTERM);
    kill(c->pid, SIGCONT); /* a stopped child cannot act on it */
    set_deadline(c, clock_ms() + settings.handler.grace_ms + KILL_AFTER_MS);
}

/* The client is too slow for a server that has no room. In delivery SIGTERM waits, so it is killed,
 * and a janitor decides by what the client has acknowledged. */
static void request_cut(struct connection *c)
{
    if ((atomic_load(&slot_of(c)->state) & SLOT_DELIVERING) == 0) {
        request_stop(c, CAUSE_EVICTED);
        return;
    }
    c->signalled = c->killed = true;
    c->cause = CAUSE_EVICTED;
    kill(c->pid, SIGKILL);
    set_deadline(c, clock_ms() + UNKILLABLE_MS);
}

/* The deadlines of a request, in turn: its time limit, when it is asked to end; --grace and a
 * second more, when it is killed; and then only complaints. */
static void request_due(struct connection *c, int64_t now)
{
    /* In delivery the client's acknowledgement is awaited, and the child has a limit for that. */
    bool delivering = (atomic_load(&slot_of(c)->state) & SLOT_DELIVERING) != 0;
    if (c->killed) {
        log_eventf(NULL, "the process %d does not end, even by SIGKILL", (int)c->pid);
        set_deadline(c, now + UNKILLABLE_MS);
    } else if (delivering && !c->prolonged && c->cause != CAUSE_DRAIN) {
        c->prolonged = true;
        set_deadline(c, now + 4 * settings.handler.send_ms + KILL_AFTER_MS);
    } else if (c->signalled || delivering) {
        c->killed = true;
        c->cause = c->cause != CAUSE_NONE ? c->cause : CAUSE_TIMEOUT;
        kill(c->pid, SIGKILL);
        set_deadline(c, now + UNKILLABLE_MS);
    } else {
        request_stop(c, CAUSE_TIMEOUT);
    }
}

/* The client has gone. A child that has settled its ledger is about to exit, and knows. */
static void hangup(struct connection *c)
{
    uint32_t state = atomic_load(&slot_of(c)->state);
    if ((state & SLOT_STATE_MASK) == SLOT_DONE) /* if it does not exit after all, it is killed */
        set_deadline(c, clock_ms() + settings.handler.grace_ms + KILL_AFTER_MS);
    else if ((state & SLOT_OUTLIVES) == 0)
        request_stop(c, CAUSE_HANGUP);
}

/* Ask with an interim answer: a closed client's kernel replies with a reset, a half-closed one
 * stays quiet. Only in the turn that PROBING gives us, because the child would otherwise begin to
 * answer in the middle of it. Returns false as judge_fin does. */
static bool probe(struct connection *c, uint32_t *was)
{
    _Atomic uint32_t *word = &slot_of(c)->state;
    uint32_t before = *was & SLOT_STATE_MASK;
    uint32_t mine = (*was & ~(uint32_t)SLOT_STATE_MASK) | SLOT_PROBING;
    if (!atomic_compare_exchange_strong(word, was, mine))
        return false;
    ssize_t n = send(c->fd, HTTP_CONTINUE, sizeof HTTP_CONTINUE - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    bool gone = n < 0 && errno != EAGAIN;
    /* Give the word back. The child may set flags beside the state meanwhile. */
    for (int tries = 0; tries < 100 && (mine & SLOT_STATE_MASK) == SLOT_PROBING; tries++)
        if (atomic_compare_exchange_strong(
                word, &mine, (mine & ~(uint32_t)SLOT_STATE_MASK) | before | SLOT_FIN_SEEN))
            break;
    if (gone)
        hangup(c);
    return true;
}

/* Act on a FIN that came in the state WAS. Returns false if the state has changed meanwhile, and
 * sets *WAS to what it is now. */
static bool judge_fin(struct connection *c, uint32_t *was)
{
    uint32_t state = *was & SLOT_STATE_MASK;
    enum fin means = fin_means(*was);
    bool reads = state == SLOT_READING, waits = reads && (*was & SLOT_WAITING) != 0;
    bool answers = !reads && state != SLOT_RUNNING;
    if ((*was & SLOT_FIN_SEEN) != 0)
        return true; /* asked already, or the child is going to */
    if (answers && (*was & (SLOT_FIN_HANGUP | SLOT_DELIVERING)) != SLOT_FIN_HANGUP)
        return true; /* writing tells, or the child asks */
    if (means == FIN_ASK && (waits || !reads))
        return probe(c, was);
    if (means == FIN_HANGUP)
        hangup(c);
    else if (reads) /* the child asks when it has read all */
        return atomic_compare_exchange_strong(&slot_of(c)->state, was, *was | SLOT_FIN_SEEN);
    return true;
}

/* The client has closed, or has only ended its own side and waits for the answer. */
static void fin_arrived(struct connection *c)
{
    uint32_t was = atomic_load(&slot_of(c)->state);
    c->fin_seen = true;
    for (int tries = 0; tries < 100 && !judge_fin(c, &was); tries++)
        continue; /* a child that plays with the word cannot keep us here */
}

/* ---- Reap --------------------------------------------------------------------------- */

#define SIGNALS_AT_ONCE 64

/* Returns the slot as it is now, made safe to print: strings end, and words are words. */
static struct slot slot_copy(const struct connection *c)
{
    struct slot s;
    memcpy(&s, slot_of(c), sizeof s);
    s.id[sizeof s.id - 1] = s.client[sizeof s.client - 1] = s.request[sizeof s.request - 1] = '\0';
    s.reason[sizeof s.reason - 1] = '\0';
    if (s.outcome >= OUTCOME_COUNT)
        s.outcome = OUTCOME_NONE;
    if (s.undo >= UNDO_COUNT)
        s.undo = UNDO_NONE;
    return s;
}

/* The first attempt to undo has ended, or nothing was left: another request may begin. The place in
 * the line is given back here and not by the child, so that `max` counts what is being undone. */
static void slot_release(struct connection *c)
{
    struct slot *s = slot_of(c);
    turn_over(c);
    server.room_taken -= c->room;
    c->room = 0;
    atomic_store(&s->pid, 0);
    atomic_store(&s->state, SLOT_FREE);
    server.slot_users[c->slot] = NULL;
    server.free_slots[server.free_slot_count++] = c->slot;
    c->slot = NOBODY;
    place_give(PLACES_ALL, slots_taken());
}

/* The child did what it should: nothing is left. */
static void request_done(struct connection *c, bool reuse)
{
    struct slot s = slot_copy(c);
    enum outcome outcome = s.outcome != OUTCOME_NONE ? (enum outcome)s.outcome : OUTCOME_OK;
    if (s.request[0] != '\0' || outcome != OUTCOME_OK) /* else nothing was asked */
        request_log_line(&s, outcome, (enum undo_result)s.undo, clock_ms() - c->since);
    slot_release(c);
    if (reuse)
        connection_idle(c);
    else
        connection_finish(c);
}

/* Log what ended the process of the request ID, if not we: the outcome is one word for a handler
 * that crashed, called exit(3), or was killed, maybe for its memory. */
static void tell_what_ended(const struct connection *c, const char *id, const siginfo_t *ended)
{
    int how = ended->si_status;
    bool exited = ended->si_code == CLD_EXITED;
    if (c->cause != CAUSE_NONE ||
        (exited && how == HANDLER_EXIT_UNDONE && slot_of(c)->outcome != OUTCOME_NONE))
        return;
    if (exited)
        log_eventf(id, "the handler did not return: it ended its process with exit status %d", how);
    else
        log_eventf(id, "the request's process was ended by signal %d (%s)", how, strsignal(how));
}

/* Believe that a child has settled its ledger only if it says so twice, by its exit status and in
 * its slot: a handler that calls exit(0) has not. All else is a janitor's work: it finds out
 * from the ledger what there is to undo. */
static void child_ended(struct connection *c, const siginfo_t *ended)
{
    pid_t pid = c->pid;
    bool settled =
        ended->si_code == CLD_EXITED &&
        (ended->si_status == HANDLER_EXIT_KEEP || ended->si_status == HANDLER_EXIT_CLOSE) &&
        (atomic_load(&slot_of(c)->state) & SLOT_STATE_MASK) == SLOT_DONE;
    (void)is_operators(c); /* the nudge may not have been heard yet */
    pid_forget(c);
    loan_return(c);
    set_deadline(c, 0);
    if (settled) {
        request_done(c, ended->si_status == HANDLER_EXIT_KEEP);
        return;
    }
    kill(-pid, SIGKILL); /* its zombie still holds the number */
    set_phase(c, PHASE_SETTLING);
    atomic_fetch_or(&slot_of(c)->state, SLOT_SETTLING);
    char id[CLEANUP_ID_SIZE]; /* not the one in the slot, which the child could change */
    snprintf(id, sizeof id, "%s-%llx", server.token, (unsigned long long)c->id_number);
    tell_what_ended(c, id, ended);
    if (ended->si_code != CLD_EXITED && !c->signalled && !c->killed)
        log_eventf(id, "its process was ended by signal %d, which this server did not send%s",
                   ended->si_status,
                   ended->si_status == SIGKILL ? ": by hand, or as memory was short" : "");
    struct job *j = job_make(id);
    if (j == NULL) {
        struct job none = {.ended = *ended};
        request_settled(c, &none, JANITOR_LEFT);
        return;
    }
    if (!server.one_connection)
        cleanup_slot_name(j->name, (unsigned)c->slot);
    j->connection = c;
    j->ended = *ended;
    job_ready(j);
}

/* Look at a dead child before its number is given away, and only then reap it: while it is a zombie
 * its pid, its group and its session are no one else's, and can be signalled. Returns false if none
 * of these is dead. Only with P_ALL does that cost more the more children there are. */
static bool reap(idtype_t which, pid_t pid)
{
    siginfo_t ended = {0}, gone = {0};
    const int how = WEXITED | WNOHANG | __WALL;
    if (waitid(which, (id_t)pid, &ended, how | WNOWAIT) < 0 || ended.si_pid == 0)
        return false;
    struct connection *c = pid_find(ended.si_pid);
    if (c != NULL)
        child_ended(c, &ended);
    waitid(P_PID, (id_t)ended.si_pid, &gone, how);
    if (c == NULL && !successor_ended(ended.si_pid, &ended))
        janitor_ended(ended.si_pid, &ended);
    return true;
}

/* All that are dead: janitors, which are made by fork(3) and so send SIGCHLD, orphans that have
 * come to us, and children whose CHILD_ENDED was lost. */
static void reap_children(void)
{
    server.reaped_at = clock_ms();
    while (reap(P_ALL, 0))
        continue;
}

/* Taken by sigtimedwait(2) and not read from the signalfd: that gives the pid of the very child
 * that a CHILD_ENDED is about, in a siginfo_t. Slots that have become free are given out at the
 * end, once for all. */
static void signals_arrived(void)
{
    const struct timespec at_once = {0};
    bool some = false;
    for (int i = 0; i < SIGNALS_AT_ONCE; i++) {
        siginfo_t info;
        int signal = sigtimedwait(&server.handled, &info, &at_once);
        if (signal < 0)
            break;
        if (signal == CHILD_ENDED)
            some = !reap(P_PID, info.si_pid) || some;
        else if (signal == SIGCHLD)
            some = true;
        else if (signal == SIGHUP && !handover.terminal)
            reload();
        else if (signal == SIGINT || (is_stopping() && handover.parent == 0))
            end_all();
        else if (!is_stopping()) /* a successor gets SIGTERM twice if all of us get it */
            drain();
    }
    if (some)
        reap_children();
    jobs_start();
    queue_serve();
}

/* ---- Settle ------------------------------------------------------------------------- */

#define RETRY_FIRST_MS 1000
#define RETRY_MAX_MS 300000

static struct job *job_take(struct jobs *jobs)
{
    struct job *j = TAILQ_FIRST(jobs);
    if (j != NULL)
        TAILQ_REMOVE(jobs, j, link);
    return j;
}

/* A ledger taken over from a dead server: an identity without a time of birth proves nothing there.
 */
static bool is_adopted(const char *id)
{
    return strncmp(id, server.token, sizeof server.token - 1) != 0;
}

static bool is_recovery(const struct job *j)
{
    return j->id[0] == '\0';
}

/* Returns the id for the log. The recovery of dead servers has none. */
static const char *logged_id(const char *id)
{
    return *id != '\0' ? id : NULL;
}

static struct job *job_make(const char *id)
{
    struct job *j = calloc(1, sizeof *j);
    if (j == NULL) {
        log_event(logged_id(id), "no memory to undo now: the ledger stays for the next start");
        return NULL;
    }
    snprintf(j->id, sizeof j->id, "%s", id);
    snprintf(j->name, sizeof j->name, "%s", id);
    j->since = clock_ms();
    return j;
}

/* The job may start: before the others if a connection, and so a slot, waits for it. */
static void job_ready(struct job *j)
{
    struct jobs *to = j->connection != NULL ? &server.jobs.urgent : &server.jobs.ready;
    TAILQ_INSERT_TAIL(to, j, link);
}

static void job_delay(struct job *j, int64_t ms)
{
    struct job *before = TAILQ_LAST(&server.jobs.delayed, jobs);
    j->due = clock_ms() + ms;
    while (before != NULL && before->due > j->due)
        before = TAILQ_PREV(before, jobs, link);
    if (before != NULL)
        TAILQ_INSERT_AFTER(&server.jobs.delayed, before, j, link);
    else
        TAILQ_INSERT_HEAD(&server.jobs.delayed, j, link);
}

static void jobs_due(int64_t now)
{
    while (!TAILQ_EMPTY(&server.jobs.delayed) && TAILQ_FIRST(&server.jobs.delayed)->due <= now)
        job_ready(job_take(&server.jobs.delayed));
}

/* An evicted client has had its time, and somebody else waits for its slot; nor does the server's
 * end wait: what it has acknowledged by now decides. Any other gets --send-timeout to acknowledge
 * the rest. */
static void job_start(struct job *j)
{
    const struct connection *c = j->connection;
    struct witness w = {.fd = -1};
    if (c != NULL) {
        w.fd = c->fd;
        w.slot = slot_of(c);
        w.is_tcp = c->is_tcp;
        w.unsent = !c->is_tcp && !handler_was_sent(slot_of(c));
        w.cause = &slot_of(c)->cause;
        w.patience_ms =
            c->cause == CAUSE_EVICTED || server.stage == ENDING ? 0 : settings.handler.send_ms;
    }
    j->overdue = clock_ms() - j->since >= settings.give_up_ms;
    pid_t pid = fork();
    if (pid == 0)
        janitor_main(j, &w);
    if (pid > 0) {
        j->pid = pid;
        j->begun = clock_ms();
        j->slow = false;
        server.jobs.janitors++;
        TAILQ_INSERT_TAIL(&server.jobs.running, j, link);
    } else {
        log_eventf(logged_id(j->id), "could not fork a janitor: %s", strerror(errno));
        job_delay(j, RETRY_FIRST_MS);
    }
}

/* The janitors that have worked for so long make room for others: they may wait for a disk that
 * does not answer. Returns when the next one will have, or 0. */
static int64_t janitors_slow_down(int64_t now)
{
    int64_t next = 0;
    struct job *j;
    for (j = TAILQ_FIRST(&server.jobs.running); j != NULL; j = TAILQ_NEXT(j, link)) {
        if (!j->slow && now - j->begun >= SLOW_JANITOR_MS) {
            j->slow = true;
            server.jobs.slow++;
            log_eventf(logged_id(j->id), "the undo goes on for %d s; its %s",
                       SLOW_JANITOR_MS / 1000, cleanup_process_words(j->pid));
        }
        if (!j->slow)
            sooner(&next, j->begun + SLOW_JANITOR_MS);
    }
    return next;
}

/* Start janitors while there may be more. When this server is stopping, what waits for no
 * connection is left to the next start: a stop must not take as long as the last retry. */
static void jobs_start(void)
{
    while (server.jobs.janitors - server.jobs.slow < settings.undo_at_once) {
        struct job *j = job_take(&server.jobs.urgent);
        if (j == NULL && !is_stopping())
            j = job_take(&server.jobs.ready);
        if (j == NULL)
            return;
        job_start(j);
    }
}

/* ---- Janitor ------------------------------------------------------------------------ */

/* The process that undoes what a dead child left. Undoing can take long: it waits for the client's
 * kernel, for commands, for disks; and it can be killed by what it meets. So the parent has it
 * done. */

/* The pids of our own children are in the scoreboard. */
static bool is_a_child_of_ours(pid_t pid)
{
    for (uint32_t i = 0; i < server.board->slot_count; i++)
        if (atomic_load(&server.board->slots[i].pid) == pid)
            return true;
    return pid == server.remover.pid || handover_is_successor(pid);
}

/* Returns true if the client has the answer, whose mark says that N bytes are to be acknowledged.
 */
static bool was_delivered(const struct witness *w, uint64_t n)
{
    return w->fd < 0 || (!w->unsent && handler_delivery(w->fd, w->is_tcp, n, w->patience_ms,
                                                        w->cause) == OUTCOME_OK);
}

/* Returns what a janitor says of RESULT. */
static int janitor_says(enum cleanup_result result)
{
    janitor.hopeless = result == CLEANUP_REFUSED; /* no other try will do better */
    return result == CLEANUP_DONE    ? 0
           : result == CLEANUP_AGAIN ? JANITOR_AGAIN
           : result == CLEANUP_LATER ? JANITOR_LEFT | JANITOR_LATER
                                     : JANITOR_LEFT;
}

/* Keep or undo: a `sent` mark says that the child was about to complete its answer, and the
 * client's acknowledgement whether it has arrived. LIVES_ON: a process of the request. Returns what
 * the janitor says. */
static int janitor_settle(const struct job *j, const struct witness *w, bool lives_on,
                          struct cleanup_look *before)
{
    bool seen = cleanup_look_ledger(server.dir, j->name, before);
    if (!seen && errno != ENOENT) { /* it may well be there */
        cleanup_report(j->id, "could not look at the ledger");
        return JANITOR_LEFT | (j->verdict == VERDICT_OPEN ? JANITOR_UNDECIDED : 0);
    }
    bool there = seen && strcmp(before->id, j->id) == 0;
    const char *name = there ? j->name : j->id; /* it may have left its slot meanwhile */
    bool made = (there || cleanup_look_ledger(server.dir, name, before)) && before->made;
    struct cleanup_settling how = {.dir = server.dir,
                                   .id = j->id,
                                   .name = name,
                                   .again_s = (settings.again_ms + 999) / 1000,
                                   .run = run_command,
                                   .after_crash = is_adopted(j->id),
                                   .lives_on = lives_on};
    uint64_t n;
    bool whole = cleanup_unite(server.state.fd, server.dir, name, j->id);
    int sent = whole ? cleanup_was_sent(server.dir, name, &n) : -1;
    if (sent < 0 && j->verdict == VERDICT_OPEN) {
        cleanup_report(j->id, "could not look for the ledger's sent mark");
        return JANITOR_LEFT | JANITOR_UNDECIDED;
    }
    bool keeps = sent > 0 && n == 0; /* whatever the client has: on-hangup=finish */
    if (j->verdict == VERDICT_ANSWERED || keeps ||
        (sent > 0 && j->verdict == VERDICT_OPEN && was_delivered(w, n)))
        return JANITOR_KEPT | janitor_says(cleanup_settle_kept(&how));
    if (lives_on)
        cleanup_note_survivor(&how);
    if (sent > 0 && w->fd >= 0) /* it must not complete any more while it is undone */
        handler_cut(w->fd, w->is_tcp);
    bool kept = false;
    int result = sent != 0 ? janitor_says(cleanup_settle_refuted(&how, &kept))
                           : janitor_says(cleanup_settle(&how));
    return kept ? JANITOR_KEPT | result : result != 0 || made ? result : JANITOR_NOTHING;
}

/* Returns true if the try that ended with RESULT was the last. Its janitor and the parent ask, and
 * must get the same answer, so the clock is not asked here. */
static bool is_last_try(const struct job *j, int result)
{
    return (result & JANITOR_LATER) != 0 ? j->overdue
                                         : j->failures >= (unsigned)settings.undo_retries;
}

/* Put the ledger aside, and say once, loudly, WHAT is left and how it is tried again. */
static bool park(const struct job *j, const char *what, int patience_ms)
{
    if (!cleanup_park(server.state.fd, server.dir, j->name, j->id))
        return false;
    log_sink.patience_ms = patience_ms;
    log_eventf(j->id, "%s FAILED for good: %s; when that is mended: %s",
               j->looks ? "SECOND LOOK" : "UNDO", what, recover_words(server.state.path, j->id));
    return true;
}

#define RECOVERY_LIMIT_S 10 /* of a server that was started for one connection */

static void note_recovered(const struct cleanup_look *was, enum cleanup_result result, bool kept)
{
    if (result == CLEANUP_DONE) {
        janitor.settled++;
        tell_settled(was, kept ? "left by a dead server: kept, as it had been answered"
                               : "left by a dead server: undone");
    } else {
        janitor.left++; /* told of when its job ends */
    }
}

/* A janitor's work too. A ledger that can be settled at once is; one that wants commands, or fails,
 * is moved to our own directory, where it becomes a job like any other (jobs_adopt). */
static _Noreturn void recover(void)
{
    const struct cleanup_recovery how = {.state = server.state.fd,
                                         .adopt = server.dir,
                                         .foreign = tell_of_another_node,
                                         .settled = note_recovered};
    if (server.one_connection)
        alarm(RECOVERY_LIMIT_S);
    bool done = cleanup_recover(&how);
    if (janitor.settled > 0 || janitor.left > 0)
        log_eventf(NULL, "recovered from a dead server: %u undone or kept, %u still to do",
                   janitor.settled, janitor.left);
    _exit(JANITOR_SPEAKS | (done ? 0 : JANITOR_LEFT));
}

/* It is killed with the server, unlike a request's child, which is asked to undo: a ledger has one
 * settler, and when this server is dead that is the next one. It undoes nothing before all that the
 * request has started is dead, or that would go on making things. */
static _Noreturn void janitor_main(const struct job *j, const struct witness *w)
{
    struct cleanup_look before;
    sigset_t none;
    become_child(w->fd, SIGKILL);
    setpgid(0, 0);
    leave_terminal();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (is_recovery(j))
        recover();
    cleanup_report = report_failure;
    log_sink.patience_ms = LOG_PATIENCE_MS;
    bool lives_on = !hunt_once(j->id, server.has_strangers ? 0 : server.pid, is_a_child_of_ours);
    /* One undo with what lives, one when that has gone, and none between them. */
    bool again = lives_on && j->later && j->verdict == VERDICT_UNANSWERED;
    if (again)
        cleanup_report(j->id, cleanup_survivor());
    int result = again ? JANITOR_LEFT | JANITOR_LATER : janitor_settle(j, w, lives_on, &before);
    if (w->slot != NULL) /* its line is still to come */
        w->slot->undone += log_sink.undone;
    else if ((result & JANITOR_LEFT) == 0 && ((result & JANITOR_AGAIN) == 0 || log_sink.undone > 0))
        tell_settled(&before, (result & JANITOR_KEPT) != 0 ? "kept at last, as it had been answered"
                              : j->looks                   ? "second look: done"
                                                           : "undone at last");
    if ((result & (JANITOR_LEFT | JANITOR_UNDECIDED)) == JANITOR_LEFT &&
        (janitor.hopeless || is_last_try(j, result)) && park(j, failure_take(), LOG_PATIENCE_MS))
        result |= JANITOR_PARKED;
    _exit(JANITOR_SPEAKS | result);
}

/* ---- Settled ------------------------------------------------------------------------ */

/* Signals that an operator or the memory killer sends; any other is the program's own fault. */
static bool is_sent_by_people(int signal)
{
    return signal == SIGKILL || signal == SIGTERM || signal == SIGINT || signal == SIGHUP ||
           signal == SIGQUIT;
}

/* Send the answer that the dead child did not begin, and note it in S. Returns false if it did not
 * go whole: then the connection must be reset. */
static bool send_failure(const struct connection *c, struct slot *s, enum outcome outcome,
                         bool undone)
{
    bool stopped = outcome == OUTCOME_DRAIN || c->cause == CAUSE_OPERATOR;
    int code = outcome == OUTCOME_TIMEOUT ? 504 : stopped ? 503 : 500;
    enum cause cause = outcome == OUTCOME_DRAIN ? CAUSE_DRAIN : CAUSE_NONE;
    return handler_send_canned(c->fd, s, code, s->head != 0, handler_words(code, cause, undone));
}

/* A janitor has settled, or tried to, what the dead child left: tell the client, log it, and give
 * the slot back. The client is owed an answer if the child had not begun one; one that was begun
 * and is not whole ends with a reset. */
static void request_settled(struct connection *c, struct job *j, int result)
{
    struct slot s = slot_copy(c);
    uint32_t state = atomic_load(&slot_of(c)->state) & SLOT_STATE_MASK;
    bool by_itself = j->ended.si_code == CLD_EXITED && j->ended.si_status == HANDLER_EXIT_UNDONE;
    bool by_signal = j->ended.si_code != CLD_EXITED && is_sent_by_people(j->ended.si_status);
    bool kept = j->verdict == VERDICT_ANSWERED;
    bool unread = by_itself && s.outcome == OUTCOME_HANGUP; /* and yet kept: on-hangup=finish */
    enum outcome outcome = kept && !unread                          ? OUTCOME_OK
                           : by_itself && s.outcome != OUTCOME_NONE ? (enum outcome)s.outcome
                           : c->cause != CAUSE_NONE                 ? outcome_of(c->cause)
                           : by_signal                              ? OUTCOME_KILLED
                                                                    : OUTCOME_CRASH;
    /* Nor has the child undone anything, before it died. */
    bool nothing = (result & JANITOR_NOTHING) != 0 && s.undo == UNDO_NONE;
    bool owed = state != SLOT_ANSWERING && state != SLOT_DONE && outcome != OUTCOME_HANGUP;
    bool orderly = owed ? send_failure(c, &s, outcome, (result & JANITOR_LEFT) == 0)
                        : kept || (by_itself && outcome == OUTCOME_ERROR);
    enum undo_result undo = nothing || kept                ? UNDO_NONE
                            : (result & JANITOR_LEFT) == 0 ? UNDO_OK
                                                           : UNDO_FAILED;
    request_log_line(&s, outcome, undo, clock_ms() - c->since);
    j->failed_as = undo == UNDO_FAILED ? outcome : OUTCOME_NONE;
    slot_release(c);
    if (orderly)
        connection_finish(c);
    else
        connection_close(c);
    queue_serve();
}

/* It has failed as often as it may, and its janitor did not put it aside. If there is no ledger any
 * more, the janitor had done its work before it died. */
static void job_give_up(const struct job *j)
{
    if (is_recovery(j))
        log_event(NULL, "could not recover from dead servers; the next start tries again, or "
                        "hangupd recover");
    else if (!park(j, "the janitor could not say what", 0) && errno != ENOENT)
        log_eventf(j->id,
                   "UNDO FAILED for good, and the ledger could not be put aside: %s; the "
                   "next start tries again",
                   strerror(errno));
}

/* All is undone, and what is left is a second look: when it is due stands in the file's times. A
 * server for one connection does not wait for that: the next one takes it over. */
static void job_wait_for_look(struct job *j)
{
    int64_t ms = again_wait_ms(server.dir, j->id);
    log_eventf(j->id, "undone; a second look is due in %lld s%s", (long long)(ms / 1000),
               server.one_connection ? ", for a later connection to take" : "");
    j->looks = true;
    j->failed_as = OUTCOME_NONE;
    j->tries = j->failures = 0;
    j->since = clock_ms() + ms;
    if (server.one_connection)
        free(j);
    else
        job_delay(j, ms);
}

/* Note whether the job has to wait for what only time can mend. */
static void job_set_later(struct job *j, bool later)
{
    server.figures.later = server.figures.later + later - j->later;
    j->later = later;
}

static void job_again(struct job *j)
{
    int64_t pause = (int64_t)RETRY_FIRST_MS << (j->tries < 9 ? j->tries : 9);
    pause = pause < RETRY_MAX_MS ? pause : RETRY_MAX_MS;
    log_eventf(logged_id(j->id), "%s; it is tried again in %lld s",
               j->later   ? "cannot be undone yet"
               : j->looks ? "second look failed"
                          : "undo failed",
               (long long)(pause / 1000));
    j->tries++;
    j->failures += !j->later;
    job_delay(j, pause);
}

/* Give the ledger the name of its request, as its slot is given back. If that fails the slot's next
 * child does it. */
static void job_outlives_slot(struct job *j)
{
    if (strcmp(j->name, j->id) != 0 && cleanup_move(server.dir, j->name, server.dir, j->id))
        snprintf(j->name, sizeof j->name, "%s", j->id);
}

/* Its janitor has ended, and has said the bits in RESULT: remember them, let the connection go, and
 * try again or be done. */
static void job_ended(struct job *j, int result)
{
    bool looks = (result & (JANITOR_LEFT | JANITOR_AGAIN)) == JANITOR_AGAIN;
    bool done = !looks && (result & JANITOR_LEFT) == 0, parked = (result & JANITOR_PARKED) != 0;
    bool undecided = (result & JANITOR_UNDECIDED) != 0;
    bool leave = is_recovery(j) && server.one_connection; /* the next server goes on */
    bool again = !done && !looks && !parked && !leave && !is_last_try(j, result);
    j->pid = 0;
    job_set_later(j, again && (result & JANITOR_LATER) != 0);
    if ((result & JANITOR_KEPT) != 0)
        j->verdict = VERDICT_ANSWERED;
    else if (!done && !undecided)
        j->verdict = VERDICT_UNANSWERED;
    if (j->tries > 0) /* an earlier janitor may have undone it, before it died */
        result &= ~JANITOR_NOTHING;
    /* The connection goes after the first attempt, failed or not. But as long as nobody could tell
     * whether the answer arrived, it is kept to be asked again: nobody else knows. */
    if (j->connection != NULL && !(undecided && again)) {
        struct connection *c = j->connection;
        j->connection = NULL;
        if (!done && !parked)
            job_outlives_slot(j);
        request_settled(c, j, result);
    }
    if (is_recovery(j))
        jobs_adopt(j->tries > 0); /* also what one that died has moved */
    if (again) {
        job_again(j);
        return;
    }
    if ((done || looks) && j->failed_as != OUTCOME_NONE && j->tries > 0)
        server.figures.late[j->failed_as]++;
    if (looks) {
        job_wait_for_look(j);
        return;
    }
    if (!done && !parked)
        job_give_up(j);
    free(j);
}

/* If PID was a janitor, its job has ended. If it does not speak it may have done anything, or
 * nothing: that is as if it could not tell, and the next one looks again. */
static void janitor_ended(pid_t pid, const siginfo_t *ended)
{
    struct job *j;
    for (j = TAILQ_FIRST(&server.jobs.running); j != NULL; j = TAILQ_NEXT(j, link))
        if (j->pid == pid)
            break;
    if (j == NULL)
        return;
    TAILQ_REMOVE(&server.jobs.running, j, link);
    server.jobs.janitors--;
    server.jobs.slow -= j->slow;
    bool speaks =
        ended->si_code == CLD_EXITED && (ended->si_status & ~JANITOR_BITS) == JANITOR_SPEAKS;
    if (!speaks)
        log_eventf(logged_id(j->id), "a janitor ended by %s %d",
                   ended->si_code == CLD_EXITED ? "exit status" : "signal", ended->si_status);
    job_ended(j, speaks ? ended->si_status & JANITOR_BITS : JANITOR_LEFT | JANITOR_UNDECIDED);
}

/* ---- Recover ------------------------------------------------------------------------ */

#define RECOVERY_EVERY_S 60

/* Returns true if another server of this STATE has done it a short time ago; if not, this one does
 * now. */
static bool was_recovered(void)
{
    struct stat last;
    bool there = fstatat(server.state.fd, "recovered", &last, AT_SYMLINK_NOFOLLOW) == 0;
    time_t ago = there ? time(NULL) - last.st_mtime : RECOVERY_EVERY_S;
    if (ago >= 0 && ago < RECOVERY_EVERY_S) /* a time to come is of a clock that was wrong */
        return true;
    int stamp =
        openat(server.state.fd, "recovered", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (stamp < 0 || futimens(stamp, NULL) < 0)
        log_eventf(NULL, "could not note the recovery: %s", strerror(errno));
    if (stamp >= 0)
        close(stamp);
    return false;
}

/* Take over from dead servers. A server that inetd started for one connection does so after that,
 * not too often, and not for long: there is one for every caller. */
static void recovery_begin(void)
{
    server.recovered = true;
    if (server.one_connection && (is_stopping() || was_recovered()))
        return;
    struct job *j = job_make("");
    if (j != NULL)
        job_ready(j);
}

static bool is_listed(const struct jobs *jobs, const char *id)
{
    const struct job *j;
    for (j = TAILQ_FIRST(jobs); j != NULL; j = TAILQ_NEXT(j, link))
        if (strcmp(j->id, id) == 0)
            return true;
    return false;
}

/* Make jobs of the ledgers that recovery has moved to our directory; by AGAIN not for the first
 * time, so that some may have theirs already. */
static void jobs_adopt(bool again)
{
    size_t count;
    char(*ids)[CLEANUP_ID_SIZE] = cleanup_list(server.dir, &count);
    for (size_t i = 0; i < count; i++) {
        bool known = again && (is_listed(&server.jobs.ready, ids[i]) ||
                               is_listed(&server.jobs.delayed, ids[i]) ||
                               is_listed(&server.jobs.running, ids[i]));
        if (!is_adopted(ids[i]) || known)
            continue;
        struct job *j = job_make(ids[i]);
        if (j != NULL)
            job_ready(j);
    }
    free(ids);
}

/* ---- Hand over ---------------------------------------------------------------------- */

/* Accept no more, and finish what is here: one more answer on each connection. The process that was
 * started keeps the sockets, so that no caller is refused whatever becomes of its successors. */
static void hand_over(void)
{
    server.stage = HANDED_OVER;
    atomic_store(&server.board->draining, 1);
    if (!server.muted)
        listeners_watch(EPOLL_CTL_DEL);
    server.muted = false;
    for (size_t i = 0; handover.parent != 0 && i < server.listener_count; i++)
        listen_end(&server.listeners[i]);
    server.listener_count = handover.parent != 0 ? 0 : server.listener_count;
    log_eventf(NULL, "handed over to the new server: %d in flight are finished here",
               server.busy.count + server.queue.count);
}

/* From now on requests are counted together. */
static bool places_count(void)
{
    if (!places_open())
        return false;
    place_give(PLACES_ALL, slots_taken());
    for (size_t i = 0; i < settings.handler.route_count; i++)
        place_give(places_of(settings.handler.routes[i].path), server.route_lines[i].running);
    return true;
}

/* SIGHUP. A server for one connection has nothing to hand over, and a successor leaves it to the
 * process that was started. */
static void reload(void)
{
    if (server.one_connection || is_stopping())
        return;
    if (handover.parent != 0) {
        log_eventf(NULL, "SIGHUP is for process %d, which was started", (int)handover.parent);
        return;
    }
    handover.again = handover.starting != NULL;
    if (handover.again)
        return; /* it may have read the routes already, so another one follows it */
    int fd = !places_count() ? -1
                             : handover_start(server.listeners, server.listener_count,
                                              server.state.path, settings.handler.open_files);
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = WATCH_HANDOVER | (unsigned)fd};
    if (fd >= 0)
        epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &e);
}

/* A byte of a successor, or the end of one's pipe; or, in a successor, the old server has let go of
 * it. Each comes once. */
static void handover_heard(int fd)
{
    epoll_ctl(server.epoll, EPOLL_CTL_DEL, fd, NULL);
    bool hands = handover.parent != 0 || handover_said(fd);
    if (hands && server.stage == SERVING)
        hand_over();
    if (hands && handover.again)
        reload();
}

/* Returns true if PID was a successor. When nobody serves any more this process ends as that one
 * did, so that whoever watches it acts. */
static bool successor_ended(pid_t pid, const siginfo_t *ended)
{
    if (!handover_ended(pid, ended, is_stopping()))
        return false;
    if (handover.starting == NULL && handover.again)
        reload();
    if (server.stage == HANDED_OVER && handover.serving == NULL && handover.starting == NULL)
        drain();
    return true;
}

/* What was in flight is settled, if it can be: what is left to be undone is undone. */
static bool is_done(void)
{
    return server.open_count == 0 && server.jobs.janitors == 0 && TAILQ_EMPTY(&server.jobs.ready) &&
           TAILQ_EMPTY(&server.jobs.delayed);
}

/* The last to leave STATE/SERVER, which may be long before this process ends. */
static void dir_close(void)
{
    if (!server.dir_closed)
        cleanup_server_close(server.state.fd, server.dir, server.token);
    server.dir_closed = true;
}

/* ---- Stop --------------------------------------------------------------------------- */

/* Stop accepting, and let what is in flight finish until drain_end. Idle connections end in order,
 * and requests in the queue are refused: none of them has begun. */
static void drain(void)
{
    struct connection *c;
    if (server.stage < DRAINING)
        server.stage = DRAINING;
    handover_pass_on(SIGTERM);
    server.drain_end = clock_ms() + settings.drain_ms;
    atomic_store(&server.board->draining, 1); /* children answer with Connection: close */
    if (server.busy.count == 0)
        log_event(NULL, "stopping");
    else if (server.stage == ENDING)
        log_eventf(NULL, "stopping: %d in flight, to be undone now", server.busy.count);
    else
        log_eventf(NULL, "stopping: %d in flight, which may take %lld s to finish",
                   server.busy.count, (long long)(settings.drain_ms / 1000));
    if (!server.muted)
        listeners_watch(EPOLL_CTL_DEL);
    for (size_t i = 0; i < server.listener_count; i++)
        listen_end(&server.listeners[i]);
    server.listener_count = 0;
    remover_begin(&server.remover);
    while ((c = TAILQ_FIRST(&server.idle.members)) != NULL)
        connection_finish(c);
    while ((c = TAILQ_FIRST(&server.queue.members)) != NULL)
        refuse_unread(c, NULL, OUTCOME_DRAIN, "the server is stopping");
}

/* Undo what is in flight, at once. Who waits for an acknowledgement, a child or a janitor, sees the
 * cause in the slot. */
static void end_all(void)
{
    bool was_stopping = is_stopping();
    struct connection *c;
    server.stage = ENDING;
    if (!was_stopping)
        drain();
    handover_pass_on(SIGINT);
    for (c = TAILQ_FIRST(&server.busy.members); c != NULL; c = TAILQ_NEXT(c, link)) {
        if (c->phase == PHASE_SETTLING)
            atomic_store(&slot_of(c)->cause, CAUSE_DRAIN);
        request_stop(c, CAUSE_DRAIN);
    }
}

static void jobs_leave(const struct jobs *jobs)
{
    const struct job *j;
    long long looks = 0, last = 0;
    for (j = TAILQ_FIRST(jobs); j != NULL; j = TAILQ_NEXT(j, link)) {
        looks += j->looks;
        if (j->looks)
            last = j->due > last ? j->due : last;
        else if (!is_recovery(j))
            log_event(j->id, "still to be undone: the next start goes on with it");
    }
    last -= clock_ms();
    if (looks > 0)
        log_eventf(NULL, "second looks: %lld, due until %s: the next start takes them", looks,
                   moment_words(((int64_t)time(NULL) + last / 1000) * 1000));
}

/* Wait for janitors, since they would be killed with us, and for successors. Jobs that wait for
 * their turn are left to the next start; but a server for one connection does them, as no other may
 * start for long, and one that has handed over, as the next one has started. */
static bool is_over(void)
{
    if (server.listener_count > 0 || server.open_count > 0 || server.jobs.janitors > 0 ||
        handover_has_any())
        return false;
    bool leaves = server.stage == HANDED_OVER || (server.one_connection && server.recovered);
    return is_stopping() || (leaves && is_done());
}
