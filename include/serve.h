/* serve.h: what handler.c offers to server.c, beside hangupd/handler.h: to serve one request.
 *
 * Kind: declared here, defined in handler.c.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_SERVE_H
#define HANGUPD_SERVE_H

#include <hangupd/handler.h>

#include "scoreboard.h"

#define HANGUPD_VERSION "0.1"

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
    const char *state;     /* the absolute path of STATE, for programs; NULL: they are not told */
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
/* The demonstration, @a. */
int handler_demonstration(struct request *rq);

#endif
