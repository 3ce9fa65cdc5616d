/* serve.h: what handler.c offers to server.c, beside hangupd/handler.h: to serve one request.
 *
 *     struct handler_settings settings = {...};           once
 *     struct handler_call call = {.settings = &settings, .slot = slot, ...};
 *     pid = fork();                                       with all signals blocked
 *     if (pid == 0)
 *         handler_serve(&call);                           does not return
 *
 * and, when the child is dead, what the connection says of its answer. Not for a process that means
 * to go on: handler_serve belongs to a child, and everything in it ends by _exit(2).
 *
 * Ownership: what is pointed to is the caller's and stays as it is while a child lives.
 * Kind: declared here, defined in handler.c.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_SERVE_H
#define HANGUPD_SERVE_H

#include <hangupd/handler.h>

#include "scoreboard.h"

/* What a route's program gets of the server's environment and of the route's own, with a NULL at
 * its end; and the number under which it is kept for undo commands (environment_file.h). */
struct inherited {
    char *const *variables;
    unsigned kept;
};

/* What is the same for all requests. A duration of 0 or less is no limit where that is said. */
struct handler_settings {
    const struct route *routes;
    size_t route_count;
    uint64_t max_header;        /* bytes; over it 431 */
    uint64_t max_target;        /* the same; 414 */
    uint64_t max_body;          /* bytes, decoded; over it 413 */
    int64_t max_spool;          /* the server's: bytes of all bodies together; over it 503 */
    int64_t header_ms;          /* for the whole head, from the child's start; then 408 */
    int64_t body_ms;            /* without a byte of the body; then 408 */
    int64_t send_ms;            /* without progress while the answer goes out: a hangup */
    int64_t grace_ms;           /* what a program has after SIGTERM for a last word */
    int64_t idle_ms;            /* the server's: between two requests of a connection */
    int64_t request_ms;         /* the time limit of a route that has none; 0: none */
    int64_t queue_ms;           /* at most in the line of a route with `max`; then 503 */
    int64_t dead_peer_ms;       /* TCP_USER_TIMEOUT outside answers */
    enum half_close half_close; /* of a route that does not say */
    enum on_hangup on_hangup;   /* of a route that does not say */
    enum options_by options;    /* the same */
    enum tmpdir use_tmpdir;     /* the same */
    struct route_limits limits; /* the same; 0: none */
    bool sync;                  /* flush ledgers to the disk: they outlive a power cut */
    bool log_begin;             /* a line of the log when a handler starts */
    const char *tmpdir;         /* absolute; for scratch directories and bodies */
    int null;                   /* /dev/null, for reading */
    int errors;                 /* becomes standard error of C handlers; -1: nothing does */
    const char *pool_path;      /* of scratch directories (ledger.h); NULL: there is none */
    char *head;                 /* handler_head_room bytes, which each child has to itself */
    sigset_t ignored;           /* signals that the server ignores and a program must not */
    uint64_t open_files;        /* the soft limit that the server was started with: a program's */
    /* One for each route. */
    const struct inherited *inherited;
};

/* What is this request's own. */
struct handler_call {
    const struct handler_settings *settings;
    struct slot *slot;                /* shared; READING, with id, client and started filled in */
    const _Atomic uint32_t *draining; /* not 0: answer with Connection: close */
    int connection;                   /* SO_LINGER{1,0} is set on it */
    int state_dir;                    /* STATE/SERVER */
    int nudge;         /* write slot_number here after setting limit_ms, turn, room */
    bool once;         /* the slot keeps nothing: there is no next request */
    pid_t pid, parent; /* the calling process, and the server */
    uint32_t slot_number;
    bool is_tcp;     /* else AF_UNIX */
    uint64_t forked; /* clock_ticks() just before */
};

/* Returns how many bytes a head may have, with its line ends and empty line: what
 * handler_settings.head must have room for. */
size_t handler_head_room(const struct handler_settings *s);

/* How the child exits. The parent believes the first two only if the slot is DONE; anything else,
 * and death by a signal, means that the parent settles what is left. */
#define HANDLER_EXIT_KEEP 0   /* the ledger is settled; the connection may be used again */
#define HANDLER_EXIT_CLOSE 1  /* settled; close the connection */
#define HANDLER_EXIT_UNDONE 2 /* not settled: the parent's turn */

/* Serve one request on the connection, and exit. All signals are blocked on entry; SIGTERM is let
 * in and ends the request, for the cause in the slot. For a process that has just been forked: its
 * one request is static, and all zero. */
_Noreturn void handler_serve(const struct handler_call *call);

/* Returns OUTCOME_OK if all of the answer has reached the client: on TCP, if the kernel's count of
 * bytes acknowledged is at least N, which the ledger's `sent N` says (tcp(7), TCP_INFO); on
 * AF_UNIX, if the peer has read all that was sent, and N is not looked at. Waits while there is
 * progress, and at most SEND_MS without; 0 looks once. Else why it has not: OUTCOME_HANGUP, the
 * client is gone or there was no progress; OUTCOME_TIMEOUT, it was not whole after four times
 * SEND_MS; OUTCOME_DRAIN, *CAUSE is CAUSE_DRAIN, which ends the wait. Reads nothing from the
 * connection, and leaves its SO_ERROR. */
enum outcome handler_delivery(int connection, bool is_tcp, uint64_t n, int64_t send_ms,
                              const _Atomic uint32_t *cause);

/* Returns true if a child that died in delivery on AF_UNIX had sent all of its answer: whether it
 * was read is handler_delivery's. The slot is the child's to write: a false one harms its
 * request. */
bool handler_was_sent(const struct slot *slot);

/* Returns how many bytes have gone over the TCP connection, of both directions, and puts into
 * *UNSENDABLE how many of ours wait to be sent at all, because the client's window is full. Both
 * are 0 for what is no TCP connection. */
uint64_t handler_traffic(int connection, uint32_t *unsendable);

/* End what we send in an orderly way, by FIN: every connection has SO_LINGER{1,0} from accept on,
 * which makes any other close a reset. Returns as shutdown(2), with its errno. */
ASYNC_SAFE int handler_end_sending(int connection);

/* Reset a connection whose answer has begun and must not be completed: at once, and also if others
 * hold it (connect(2), AF_UNSPEC). A unix socket is shut down, as it knows no reset. */
ASYNC_SAFE void handler_cut(int connection, bool is_tcp);

/* Returns what is said with an error STATUS of the server's own to a request that was ended for
 * CAUSE, and of which nothing is left to undo if UNDONE. */
ASYNC_SAFE const char *handler_words(int status, enum cause cause, bool undone);

/* Write a whole answer of the server's own, an error with REASON in plain words, or its head alone,
 * to BUFFER, without a NUL; RETRY: a 503 says when to try again. Returns its length, at most
 * ROOM - 1: what does not fit is cut, and 1,024 bytes are enough for what is said here. */
ASYNC_SAFE size_t handler_canned_answer(char *buffer, size_t room, int status, bool head_only,
                                        bool retry, const char *reason);

/* Send that answer without waiting, with RETRY unless an operator has ended the request, and note
 * its status and bytes in SLOT. Returns false if it did not go, or not whole: then the connection
 * is of no more use. */
ASYNC_SAFE bool handler_send_canned(int connection, struct slot *slot, int status, bool head_only,
                                    const char *reason);

/* Put into SLOT the request line that waits on CONNECTION, as far as it has come, for a line of the
 * log: nothing is taken from the connection, and nothing waited for. For a short-lived process of
 * its own, as the server does not look at what a client has sent. */
ASYNC_SAFE void handler_peek_request(int connection, struct slot *slot);

/* The demonstration, which is called @a: a handler (hangupd/handler.h). */
int handler_demonstration(struct request *rq);

#endif
