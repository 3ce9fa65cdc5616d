/* callers.h: hundreds of callers of one server, all in one process, each doing something else: what
 * each of them was answered, and whether the world agrees with that.
 *
 * They call the handlers of example_storm.c. A caller's request is
 *
 *     KEPT   when it has read a whole answer below 400 and did not reset the connection then: its
 *            thing must be there;
 *     VOID   when it hung up before a whole answer had come, or was answered otherwise, or the
 *            connection broke: its thing must not be there;
 *     DOUBT  when it read a whole answer and reset the connection at once: by the promise's own
 *            definition it is answered only if the acknowledgement had been sent, which the caller
 *            cannot know. Its thing may be there or not; such requests are counted apart.
 *
 * Between the last look at what has come and the hangup more can come. So a caller that closes ends
 * its receiving side first (shutdown(2); what comes later is refused, not acknowledged), and one
 * that resets drops all packets first (a socket filter), and then looks: what its kernel may have
 * acknowledged is exactly what it finds.
 */
#ifndef CALLERS_H
#define CALLERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness.h"

/* ---- One answer, as its bytes come in ---------------------------------------------------- */

struct reader {
    enum {
        READ_STATUS,
        READ_FIELDS,
        READ_SIZED,
        READ_CHUNK_SIZE,
        READ_CHUNK,
        READ_CHUNK_END,
        READ_TRAILER,
        READ_TO_END,
        READ_WHOLE,
        READ_WRONG
    } state;
    bool head; /* the answer has no body */
    bool chunked, sized, closes;
    int status;
    uint64_t left;  /* of the body or chunk */
    uint64_t bytes; /* so far, of everything */
    char line[512];
    size_t line_length;
};
void reader_begin(struct reader *r, bool head);
void reader_take(struct reader *r, const char *bytes, size_t n);
void reader_end(struct reader *r); /* the other side's FIN */

/* ---- Callers ----------------------------------------------------------------------------- */

/* What is asked for, by the handlers' names. */
enum kind {
    KIND_MADE,
    KIND_OVER,
    KIND_TAKEN,
    KIND_TREE,
    KIND_CLOUD,
    KIND_STREAMED,
    KIND_DAEMONS,
    KIND_BAD,
    KIND_POSTED,
    KIND_PLAIN,
    KIND_PROGRAM, /* makes two things */
    KINDS
};

struct callers_plan {
    uint64_t seed;
    unsigned count;          /* callers at once */
    unsigned long limit;     /* requests; 0: no limit */
    unsigned hangups;        /* in 100 requests */
    unsigned work_ms;        /* at most */
    unsigned weights[KINDS]; /* how often each is asked for */
    bool undisturbed;        /* nobody is killed: who stays must be answered */
    bool ordinary;           /* all stay, and nobody does anything odd */
};

struct callers_tally {
    unsigned long requests;
    unsigned long kept, doubt, refused; /* whole answers: below 400, then reset, 400 and above */
    unsigned long hung_up, broken;      /* no whole answer: by the caller, by the server */
    unsigned long unreached;            /* connections that were refused */
    unsigned long retried;              /* see is_retried */
    unsigned long given_up;             /* see was_starved */
    unsigned long doubt_there, window;  /* of the things found: in doubt, and see callers_window */
    unsigned long violations;
    int64_t slowest_ms; /* answer below 400 to somebody who stayed */
};
extern struct callers_tally tally;

/* The server to start: example_storm, with WORLD in its environment, which is made. */
const char *callers_program(void);
/* Make callers, AS planned, of 127.0.0.1, port TO. */
void callers_begin(const struct callers_plan *as, unsigned to);
void callers_go(int64_t ms);
bool callers_done(void); /* the plan's limit is reached, and all is answered */
/* Nobody asks any more; wait until all are answered or have hung up. */
void callers_finish(void);
void callers_resume(void);
/* callers_finish, and wait until the server S has nothing left to do: what it takes then. */
struct gauge callers_settled(struct server *s);
/* The request TAG's ledger said `sent` when all its processes had been killed: it is kept, whether
 * the answer came or not. */
void callers_window(unsigned long tag);
/* Hold the world against what was answered. Once the server has stopped. */
void callers_check_world(void);
/* Say what is wrong, and count it. */
void callers_violation(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Random numbers, from the plan's seed: below N. */
unsigned callers_random(unsigned n);

#endif
