/* scoreboard.h: what parent and child share, one slot a request; causes, outcomes, figures.
 *
 * The parent maps it before it forks; each child changes its own slot, and `hangupd status` reads a
 * copy in STATE/SERVER/scoreboard, which the parent writes. A child can write everywhere there, so
 * the parent checks what it reads, and acts on it only where a false word harms at worst the
 * request whose slot has it.
 *
 * A new cause is also a name in cause_name, an outcome in outcome_of, a status and words for the
 * client in handler.c (status_for, handler_words) and in server.c's send_failure, and a caller of
 * server.c's request_stop. A new outcome is also a name in outcome_name; the totals, the log, and
 * status with its metrics go by OUTCOME_COUNT. Both change the layout: see SCOREBOARD_MAGIC.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_SCOREBOARD_H
#define HANGUPD_SCOREBOARD_H

#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "ledger.h"
#include <hangupd/handler.h>

#define LISTENERS_MAX 16

/* ---- What parent and child share: one slot a request -------------------------------------
 *
 * While a child lives the state word is changed by compare-and-swap alone:
 *
 *     READING ──▶ RUNNING ──▶ ANSWERING ──▶ DONE        by the child; where it refuses a request,
 *      │  ▲        │  ▲                                 or is ended, it leaves states out
 *      ▼  │        ▼  │
 *     PROBING     PROBING                               by the parent, for a moment; from READING
 *                                                       only while the child is WAITING
 *
 * While PROBING, the parent writes to the connection and the child must not. DONE: the child
 * has settled its ledger and is about to exit 0 or 1. The parent stores the word when it gives the
 * slot out and takes it back, and adds SETTLING when the child is dead.
 *
 * Of the rest of the slot the parent acts on pid (a loan may be given on), limit_ms, turn and
 * route, and, of a dead child, on head, rest, last, outcome and undo. All else is for logs and
 * people. */
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
    SLOT_OUTLIVES = 0x200,   /* on-hangup=finish: the work outlives its client */
    SLOT_DELIVERING = 0x400, /* SIGTERM waits: the client's acknowledgement decides */
    SLOT_SETTLING = 0x800,   /* the child is dead, a janitor undoes: for people, by the parent */
    SLOT_WAITING = 0x1000,  /* READING, in its route's line: it writes nothing, and may be probed */
    SLOT_BODY_OPEN = 0x2000 /* the child reads the body: it has made nothing */
};

/* What the client's FIN means for a request in the state WORD: of one that closed, or of one that
 * has only ended its own side. This is where half-close is decided; a new policy is also a flag of
 * the state (handler.c, half_close_flags) and a word of routes.h. It is asked when the FIN comes
 * while a child waits or works (server.c, judge_fin), when the FIN has come before that (handler.c,
 * heed_fin), and in mid-answer (askable). Without a child there is nothing to undo: server.c,
 * connection_event and connection_idle. */
enum fin {
    FIN_NOTHING, /* it is not to be acted on: writing the answer tells */
    FIN_ASK,     /* ask the client's kernel with an interim answer */
    FIN_HANGUP
};
ASYNC_SAFE static inline enum fin fin_means(uint32_t word)
{
    return (word & (SLOT_FIN_IGNORE | SLOT_OUTLIVES)) != 0  ? FIN_NOTHING
           : (word & (SLOT_FIN_HANGUP | SLOT_NOPROBE)) != 0 ? FIN_HANGUP
                                                            : FIN_ASK;
}

/* Why the parent ends a request. It writes the cause into the slot before it sends SIGTERM, so that
 * the child's signal handler finds it there. */
enum cause {
    CAUSE_NONE,
    CAUSE_HANGUP,
    CAUSE_TIMEOUT,
    CAUSE_DRAIN,
    CAUSE_EVICTED,
    CAUSE_OPERATOR /* written by the child: a SIGTERM came, and the parent had sent none */
};

/* How a request ended: a word of its line in the log. */
enum outcome {
    OUTCOME_NONE,
    OUTCOME_OK,
    OUTCOME_ERROR,
    OUTCOME_HANGUP,
    OUTCOME_TIMEOUT,
    OUTCOME_CRASH,
    OUTCOME_DRAIN,
    OUTCOME_KILLED,
    OUTCOME_COUNT
};
enum undo_result { UNDO_NONE, UNDO_OK, UNDO_FAILED, UNDO_COUNT };

/* Returns the name of CAUSE for people, or NULL if there is none: no cause, or a number that a
 * child has made up. */
ASYNC_SAFE static inline const char *cause_name(uint32_t cause)
{
    static const char *const names[] = {NULL, "hangup", "timeout", "drain", "evicted", "operator"};
    return cause < sizeof names / sizeof names[0] ? names[cause] : NULL;
}

/* Return the name of an outcome, or of an undo's result; both are those of the enum, never taken
 * from a slot unchecked. */
ASYNC_SAFE static inline const char *outcome_name(enum outcome outcome)
{
    static const char *const names[] = {"none",    "ok",    "error", "hangup",
                                        "timeout", "crash", "drain", "killed"};
    _Static_assert(sizeof names / sizeof names[0] == OUTCOME_COUNT, "each has a name");
    return names[outcome];
}

ASYNC_SAFE static inline const char *undo_name(enum undo_result undo)
{
    static const char *const names[] = {"none", "ok", "failed"};
    _Static_assert(sizeof names / sizeof names[0] == UNDO_COUNT, "each has a name");
    return names[undo];
}

/* Returns the outcome of a request that was ended for CAUSE. A SIGTERM without a cause is not from
 * the parent, but from an operator. */
ASYNC_SAFE static inline enum outcome outcome_of(enum cause cause)
{
    return cause == CAUSE_HANGUP    ? OUTCOME_HANGUP
           : cause == CAUSE_TIMEOUT ? OUTCOME_TIMEOUT
           : cause == CAUSE_DRAIN   ? OUTCOME_DRAIN
           : cause == CAUSE_EVICTED ? OUTCOME_ERROR
                                    : OUTCOME_KILLED;
}

#define SLOT_REQUEST_SIZE 256
#define SLOT_REASON_SIZE 80
struct slot {
    _Atomic uint32_t state;
    _Atomic uint32_t cause;   /* enum cause; by the parent */
    _Atomic int32_t pid;      /* the child's */
    _Atomic int64_t limit_ms; /* the route's time limit; 0: the server's */
    int64_t started;          /* clock_ms() */
    uint64_t forked;          /* clock_ticks(), before the child was made */
    uint64_t bytes;           /* sent of the answer */
    uint16_t status;          /* of the answer */
    uint8_t outcome, undo;    /* enum outcome, enum undo_result: as the child saw them */
    uint32_t undone;          /* things that were removed, and commands run, to undo it */
    uint8_t head;             /* the method is HEAD */
    _Atomic int16_t route;    /* index, or -1 */
    _Atomic uint32_t turn;    /* enum turn, a futex; see below */
    _Atomic uint32_t room;    /* enum room, a futex, and for how much of the body; see below */
    _Atomic uint64_t room_for;
    /* In delivery on AF_UNIX, which counts no bytes: how many are left to send, and the call that
     * sends them, where the kernel itself notes how many it took, before the call returns. So
     * whoever asks after the child's death knows whether all of the answer was sent. */
    uint64_t rest;
    struct mmsghdr last;
    char id[CLEANUP_ID_SIZE];
    char client[72];
    char request[SLOT_REQUEST_SIZE]; /* the request line as sent, cut to fit */
    char reason[SLOT_REASON_SIZE];   /* why it was refused, in words; "": it was not */
};

ASYNC_SAFE static inline void slot_reason(struct slot *s, const char *reason)
{
    struct text t = TEXT(s->reason);
    text_add(&t, reason);
    text_end(&t);
}

/* ---- Routes with `max`: a turn that the parent grants -----------------------------------
 *
 * Only the child knows which route its request wants, and only the parent knows when a place is
 * free: when nothing is left to undo of the request that had it, and its slot is free. So the child
 * writes TURN_ASKED, names its slot to the parent (handler_call.nudge), and sleeps on the word
 * until it has changed:
 *
 *     NONE ──▶ ASKED              by the child
 *     ASKED ──▶ WAITING           by the parent: all places are taken, it is in the route's line
 *     ASKED, WAITING ──▶ GRANTED  by the parent: the place is its own until its slot is free
 *
 * The parent counts places and keeps the lines in its own memory, and of the word believes only
 * ASKED. A child that writes GRANTED itself runs beyond `max`, and frees no place at its end. A
 * child may die at any line: what the parent has noted of it goes with the slot. */
enum turn { TURN_NONE, TURN_ASKED, TURN_WAITING, TURN_GRANTED };

/* ---- Bodies: room that the parent grants ------------------------------------------------
 *
 * What all bodies take together has a bound, --max-spool, which only the parent can keep. Before a
 * child stores more of one than ROOM_UNASKED it puts into the slot how much that will be in all,
 * writes ROOM_ASKED, and sleeps on the word as for its turn:
 *
 *     0, GRANTED ──▶ ASKED           by the child
 *     ASKED ──▶ GRANTED, REFUSED     by the parent: what was granted is counted till the slot is
 * free
 *
 * The parent believes no more than --max-body: a child that lies keeps out others by one body. One
 * that stores without asking is a child that could fill the disk in any other way. */
enum room { ROOM_ASKED = 1, ROOM_GRANTED, ROOM_REFUSED }; /* 0: not asked yet */
#define ROOM_UNASKED                                                                               \
    65536 /* bytes: most bodies are smaller, and asking takes a fifth of a request */

/* The number changes with struct slot, struct figures, struct scoreboard and the enums in them. */
#define SCOREBOARD_MAGIC "hangupd board 8\n"
#define LISTENER_NAME_SIZE 140

/* What the parent alone knows. It holds this in private memory and writes copies out. */
struct figures {
    uint64_t pid;
    uint64_t started; /* milliseconds since 1970 */
    uint64_t draining, open, idle, queued;
    uint64_t log_lost;                         /* lines that the log did not take */
    uint64_t later;                            /* undos that cannot be done yet */
    uint64_t late[OUTCOME_COUNT];              /* undone after it was logged that they had failed */
    uint64_t requests;                         /* that got a child so far */
    uint64_t ended[OUTCOME_COUNT][UNDO_COUNT]; /* as logged */
};
#define FIGURE_WORDS (sizeof(struct figures) / sizeof(uint64_t))

/* How often the copy is written while it may have changed. */
#define BOARD_EVERY_MS 50

/* Memory of no file, mapped and shared with the children. STATE/SERVER/scoreboard is a copy, for
 * `hangupd status`. */
struct scoreboard {
    char magic[16];
    uint32_t slot_count, slot_size;
    _Atomic uint32_t draining;
    _Atomic uint32_t log_lost; /* log_sink.lost */
    uint32_t at_rest;          /* in a copy: it is not written again before something happens */
    int64_t written;           /* when the copy was; clock_ms() */
    char listening[LISTENERS_MAX][LISTENER_NAME_SIZE];
    uint64_t figures[FIGURE_WORDS]; /* struct figures */
    struct slot slots[];
};

#endif
