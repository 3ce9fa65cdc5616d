/* ledger.h: what cleanup.c offers to the server's own files, beside hangupd/cleanup.h.
 *
 * A child names the owner of its ledger (cleanup_begin), and at its end undoes or keeps what was
 * recorded. What another process left is settled (cleanup_settle...), under the ledger's lock.
 *
 * Kind: declared here, defined in cleanup.c.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_LEDGER_H
#define HANGUPD_LEDGER_H

#include <hangupd/cleanup.h>

#include "text.h"

/* Who makes a ledger. DIR is the open STATE/SERVER directory. Strings are not copied. */
struct cleanup_owner {
    int dir;
    const char *id;     /* the request's id, also the ledger's name in DIR */
    const char *title;  /* "GET /report", for people */
    const char *tmpdir; /* absolute; where scratch directories go */
    bool sync;          /* fdatasync every record */
    uint64_t forked;    /* clock_ticks() just before this process was made; 0: not known */
    /* The server's own directory for them, open, and its path; NULL: none. */
    int pool;
    const char *pool_path;
    unsigned spare; /* what is reused has this number, which is no other's now; 0: nothing is */
};

/* How a failure to undo is told: once a record, in plain words. */
typedef void cleanup_report_fn(const char *id, const char *what);
extern cleanup_report_fn *cleanup_report; /* async-signal-safe; never NULL */

/* Name the owner of this process's ledger. Nothing is written before the first record. */
void cleanup_begin(const struct cleanup_owner *owner);
/* Whether this process owns a ledger. */
ASYNC_SAFE bool cleanup_pending(void);
/* Whether it says anything that an undo would act on, beside the scratch directory. */
ASYNC_SAFE bool cleanup_has_records(void);
/* Whether the calling process is the one that called cleanup_begin (a fork of it is not). */
ASYNC_SAFE bool cleanup_is_owner(void);
/* Make the program's own ledger (ID.p), and if it can be, the scratch directory with it: a
 * descriptor on the ledger, which is appended to by whoever writes, or -1 with errno. */
int cleanup_open_for_program(void);

/* Record that the answer is complete when the peer has acknowledged N bytes; take it back. */
int cleanup_sent(uint64_t n);
ASYNC_SAFE int cleanup_unsent(void);

/* Append one record, checked: VERB and ARGUMENT as in the ledger's grammar. FD is an O_APPEND
 * descriptor on a ledger. 0, or -1 with errno, and then the ledger is as before. */
int cleanup_append(int fd, const char *verb, const char *argument, bool sync);

/* For who records through a descriptor that was handed over. */
/* NULL: FD is a ledger that can be appended to; else what is wrong with it, in words. */
const char *cleanup_not_a_ledger(int fd);
/* PATH as an absolute one, against the current directory, in FULL (PATH_MAX bytes). */
int cleanup_absolute(const char *path, char *full);
/* "DEV:INO:BTIME" of what PATH stands for now; a link is not followed. */
#define CLEANUP_FILEID_SIZE 96
int cleanup_fileid(const char *path, char text[CLEANUP_FILEID_SIZE], bool *directory);

enum cleanup_result {
    CLEANUP_DONE,     /* nothing is left; the ledger is gone */
    CLEANUP_RUN_LEFT, /* a `run` record is next: a janitor's work, not a signal handler's */
    CLEANUP_FAILED    /* something could not be undone; it stays on record */
};

/* Undo what this process's ledger says, up to the first `run`. */
ASYNC_SAFE enum cleanup_result cleanup_undo(void);
/* Keep everything: remove the scratch directories and then the ledger. */
ASYNC_SAFE enum cleanup_result cleanup_keep(void);

/* What settling a ledger that another process made needs to know. */
struct cleanup_settling {
    int dir; /* STATE/SERVER */
    const char *id;
    const char *pool_path; /* as in cleanup_owner, if its scratch directory may be there */
    bool after_crash;      /* its server is dead: identities without a birth time prove nothing */
    /* Run COMMAND for the request ID to its end: 0, or -1 when it failed. NULL: stop there. */
    int (*run)(const char *id, const char *command);
};
/* The `sent` mark of the ledger: 1 and *N, 0 if there is none, -1 with errno if it cannot be told.
 */
int cleanup_was_sent(int dir, const char *id, uint64_t *n);
ASYNC_SAFE enum cleanup_result cleanup_settle(const struct cleanup_settling *how);
enum cleanup_result cleanup_settle_kept(const struct cleanup_settling *how);
enum cleanup_result cleanup_settle_refuted(const struct cleanup_settling *how);
/* Whether DIR has a ledger of ID. */
bool cleanup_exists(int dir, const char *id);

/* Directories of state. */
#define CLEANUP_TOKEN_SIZE 17 /* a server's token: 16 hex digits and a NUL */
#define CLEANUP_ID_SIZE 40    /* a request's id: TOKEN-NUMBER and a NUL */
/* Open the state directory PATH, making it if need be. -1 with *WHY in words, and errno, which is 0
 * where the words say all. */
int cleanup_state_open(const char *path, uid_t owner, gid_t group, const char **why);
/* Make STATE/TOKEN for this server and hold its lock until it dies: a descriptor on it, or -1. */
int cleanup_server_open(int state, char token[CLEANUP_TOKEN_SIZE]);
/* Remove it again, when it is empty but for the server's own files. */
void cleanup_server_close(int state, int dir, const char *token);
/* Make the server's directory for scratch directories, in TMPDIR: a descriptor on it and its PATH
 * (PATH_MAX bytes), or -1 with errno. It goes with the server's directory DIR. */
int cleanup_pool_open(int dir, const char *tmpdir, const char *token, char *path);
/* Recovery: the ledgers that dead servers left, and those that were parked. */
struct cleanup_recovery {
    int state;
    /* What still needs a `run`, or failed, is moved to this directory; -1: it stays. */
    int adopt;
    int (*run)(const char *id, const char *command); /* as in cleanup_settling */
    bool (*wanted)(const char *id);                  /* NULL: all */
    /* Told of each ledger: what became of it, and whether its answer stands. */
    void (*settled)(const char *id, enum cleanup_result result, bool kept);
};
/* Take over from every dead server in STATE: end its processes, settle its ledgers.
 * False: there may be ledgers that could not be looked at. */
bool cleanup_recover(const struct cleanup_recovery *how);
/* Try again what is in STATE/failed. One process at a time. */
bool cleanup_recover_parked(const struct cleanup_recovery *how);
/* Open STATE/failed, made first if MAKE: -1 with errno. */
int cleanup_failed_open(int state, bool make);
/* Move the ledger ID from DIR to STATE/failed. False with errno. */
bool cleanup_park(int state, int dir, const char *id);

/* Where the ledger ID is: nowhere; in STATE/failed; in the directory of a dead server; or of a
 * server that lives or is being recovered by *HOLDER. */
enum cleanup_place { CLEANUP_NOWHERE, CLEANUP_PARKED, CLEANUP_LEFT, CLEANUP_HELD };
enum cleanup_place cleanup_find(int state, const char *id, pid_t *holder);

/* Whether NAME has the form of a server's token. */
bool cleanup_is_server_token(const char *name);
/* Whether TEXT has the form of a request's id. */
bool cleanup_is_id(const char *text);
/* The ids of the ledgers in DIR, *COUNT of them, for the caller to free; NULL: none. What could
 * not be listed is told by errno, which is 0 otherwise. */
char (*cleanup_list(int dir, size_t *count))[CLEANUP_ID_SIZE];
/* Move the ledger ID from one directory to another. False with errno. */
bool cleanup_adopt(int from, int to, const char *id);

/* Processes. Every process of a request has its id in its environment, as REQUEST_ID, and is a
 * descendant of the request's child, which is a subreaper. */
/* Remember where this process's environment lies, so that cleanup_mark_process can write there;
 * environ is moved away. Call once, early in main. */
void cleanup_mark_prepare(int argc, char **argv);
/* Make /proc/self/environ say REQUEST_ID=ID, here and in what is forked from here. */
void cleanup_mark_process(const char *id);
/* End all that descends from this process, a subreaper: SIGTERM, then after GRACE_MS, or at once
 * if that is 0, SIGKILL. MEANWHILE, if not NULL, is called now and then during the grace; it must
 * be async-signal-safe. True when no child is left. */
typedef void cleanup_meanwhile_fn(void);
ASYNC_SAFE bool cleanup_end_children(int64_t grace_ms, cleanup_meanwhile_fn *meanwhile);
/* End all that is left of the request ID, whose child had the pid SESSION (0: not known): processes
 * with its id, of its session, and below these. With SERVER not 0: also that process's children
 * outside its session that KNOWN does not vouch for. True when none is left. */
bool cleanup_end_request(const char *id, pid_t session, pid_t server, bool (*known)(pid_t));

/* Looking, for `hangupd status`: nothing is made, changed, locked or waited for, and nothing that
 * is read is believed. Lists are for the caller to free; errno not 0: not all there is. */
/* The tokens of the servers in STATE, living and dead, sorted. NULL: none. */
char (*cleanup_look_servers(int state, size_t *count))[CLEANUP_TOKEN_SIZE];
/* Who holds the lock of the server's directory DIR: 1 and *PID, which is 0 in a pid namespace that
 * cannot be seen from here; 0: nobody, the server is dead. -1 with errno: it cannot be told. */
int cleanup_look_lock(int dir, pid_t *pid);

#define CLEANUP_EXCERPT_SIZE 256
struct cleanup_look {
    char id[CLEANUP_ID_SIZE];
    uint64_t records;   /* that an undo would still act on; marks are not records */
    int64_t changed_ms; /* last, since 1970 */
    bool made;          /* there is, or was, more to undo than scratch directories */
    /* Cut to fit: the title in its header, and the record that is undone next; "" for none. */
    char title[CLEANUP_EXCERPT_SIZE], next[CLEANUP_EXCERPT_SIZE];
};
/* The ledger ID in DIR with its program's. False: there is none, or it cannot be read (errno). */
bool cleanup_look_ledger(int dir, const char *id, struct cleanup_look *l);
/* All ledgers in DIR, sorted by id. NULL: none. */
struct cleanup_look *cleanup_look_ledgers(int dir, size_t *count);

struct cleanup_process {
    pid_t pid, parent;
};
/* All processes that live, sorted by pid. NULL: it cannot be told. */
struct cleanup_process *cleanup_look_processes(size_t *count);
/* That with PID among ALL of these, or NULL. */
const struct cleanup_process *cleanup_find_process(const struct cleanup_process *all, size_t count,
                                                   pid_t pid);

#endif
