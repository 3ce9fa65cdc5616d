/* ledger.h: what cleanup.c offers to the server's own files, beside hangupd/cleanup.h.
 *
 *     cleanup_begin(&owner);                      in the request's child, first of all
 *     ... cleanup_create(...), cleanup_run(...) ...
 *     cleanup_sent(n);                            the answer is on its way
 *     cleanup_keep();  or  cleanup_undo();        then exit
 *
 * A child names the owner of its ledger, and at its end undoes or keeps what was recorded. What
 * another process left is settled (cleanup_settle...), under the ledger's lock.
 *
 * Not for handlers, which use hangupd/cleanup.h; and not for settling a ledger while the server
 * that it belongs to lives, unless the caller is a child of that server.
 *
 * Common to all: descriptors are returned close-on-exec and are the caller's to close, but for
 * those of a request's own ledger; strings that are handed in are not copied where a struct holds
 * them; unless something else is said, a failure is -1, NULL or false with errno set by the call
 * that failed.
 *
 * Kind: declared here, defined in cleanup.c (what is about processes: in processes.h, what is for
 * status: in look.h, which machine this is: in machine.h, and pools: in pool.h, which cleanup.c
 * includes).
 * Signal safety: what is marked ASYNC_SAFE may be called in a signal handler, and nothing else.
 */
#ifndef HANGUPD_LEDGER_H
#define HANGUPD_LEDGER_H

#include <hangupd/cleanup.h>

#include "identity.h"
#include "text.h"

/* ---- Names ----------------------------------------------------------------------------- */

#define CLEANUP_TOKEN_SIZE 17 /* a server's token: 16 hex digits and a NUL */
#define CLEANUP_ID_SIZE 40    /* a request's id: TOKEN-NUMBER and a NUL */
#define PARKED_NAME "failed"  /* in STATE: the ledgers that could not be undone */

/* Returns true if NAME has the form of a server's token, or of a request's id. */
bool cleanup_is_server_token(const char *name);
bool cleanup_is_id(const char *name);

/* ---- This process's ledger --------------------------------------------------------------- */

/* The maker of a ledger. The strings must live as long as the request. */
struct cleanup_owner {
    int dir;            /* STATE/SERVER, open */
    const char *id;     /* the request's id, also the ledger's name in DIR */
    const char *title;  /* "GET /report", for people; it may hold anything, and is cut */
    const char *client; /* whose request it is, for people: a word; NULL: nobody's */
    const char *tmpdir; /* absolute; where scratch directories go if there is no pool */
    bool sync;          /* every record is on the disk when its call returns: for power loss */
    uint64_t forked;    /* clock_ticks() just before this process was made; 0: not known */
    pid_t pid;          /* the calling process; 0: it is asked for */
    /* The server's own directory for scratch directories (cleanup_pool_open); NULL: none. */
    const char *pool_path;
    /* The number of the slot that keeps the ledger, plus 1. It is no other process's now. 0: there
     * is none, and the ledger is made for this request. */
    unsigned slot;
};

/* Name the owner of this process's ledger, once in its life. Nothing is written before the first
 * record. */
void cleanup_begin(const struct cleanup_owner *owner);
/* Say which of the environments that the server has kept (environment_file.h) is for this ledger's
 * undo commands; before anything is recorded. */
void cleanup_use_environment(unsigned number);
/* Say whether the program whose ledger is opened next gets a scratch directory; else none is made
 * for it. */
void cleanup_want_scratch(bool wanted);
/* Returns true if the calling process is the one that called cleanup_begin; a fork of it is not. */
ASYNC_SAFE bool cleanup_is_owner(void);
/* Returns true if this process owns a ledger, which may not have been made yet. */
ASYNC_SAFE bool cleanup_pending(void);
/* Returns true if that ledger says anything that an undo would act on, beside the scratch
 * directory. In doubt it returns true. */
ASYNC_SAFE bool cleanup_has_records(void);
/* Returns the path that the calling thread could not make last (cleanup_create, cleanup_mkdir) for
 * the reason ERROR, until it makes the next one; NULL: there is none. */
const char *cleanup_unmade(int error);
/* Make the program's own ledger (ID.p), and if it can be, the scratch directory with it. Returns a
 * descriptor for the program to append to, the same one at every call, which stays cleanup.c's; or
 * -1 with errno, EPERM if this process owns no ledger. */
int cleanup_open_for_program(void);
/* Keep the other threads of the handler, which has returned, off the ledger: one that calls
 * cleanup_... waits until the process ends. What such a thread is making is made first. */
void cleanup_hold_threads(void);

/* Look at what the program has recorded since the last look, and record in which directories that
 * is: there alone "not there" will be success for its undo. One system call if there is nothing. */
void cleanup_look_at_program(void);
/* Look at what the program has written to its ledger since the last call. TELL is called for each
 * line that is no record, with what is wrong with it. If nothing is new that costs one fstat(2). */
typedef void cleanup_tell_fn(const char *line, const char *wrong);
void cleanup_check_program(cleanup_tell_fn *tell);
/* Record that the answer is complete when the peer's kernel has acknowledged N bytes of the
 * connection, as TCP_INFO counts them; and take the newest of these marks back. With 0 all is kept
 * whatever the peer has. Return 0, or -1 with errno. */
int cleanup_sent(uint64_t n);
ASYNC_SAFE int cleanup_unsent(void);

/* Of several results the last one in this order is that of the whole. */
enum cleanup_result {
    CLEANUP_DONE,    /* nothing is left; the ledger is gone */
    CLEANUP_REFUSED, /* but for lines that are no records: these stay, and were reported */
    CLEANUP_AGAIN,   /* all is undone, and a second look waits for its time (again.h) */
    CLEANUP_FAILED,  /* something could not be undone; it stays on record, and was reported */
    CLEANUP_LATER,   /* as FAILED, but it cannot be told yet: time may mend it, and nothing else */
    CLEANUP_RUN_LEFT /* a `run` record is next: a janitor's work, not a signal handler's */
};

/* Undo what this process's ledger says, newest first, up to the first `run`. In a process that owns
 * none nothing is done, which is CLEANUP_DONE. */
ASYNC_SAFE enum cleanup_result cleanup_undo(void);
/* Keep everything: remove the scratch directories and then the ledger. Never CLEANUP_RUN_LEFT. */
ASYNC_SAFE enum cleanup_result cleanup_keep(void);
/* How a failure to undo is told: once a record, in plain words, for the request ID. It is called in
 * signal handlers too, so it must be async-signal-safe; never NULL. The default is stderr. */
typedef void cleanup_report_fn(const char *id, const char *what);
extern cleanup_report_fn *cleanup_report;
/* How it is told, once each, that a thing was there and is "removed", or a command was "ran" with
 * success, in WHAT; NAME is its path, or the command line. As cleanup_report; the default tells
 * nobody. */
typedef void cleanup_undone_fn(const char *id, const char *what, const char *name);
extern cleanup_undone_fn *cleanup_undone;

/* ---- A ledger that was handed over as a descriptor, for `hangupd undo` -------------------- */

/* Append one record to the ledger FD, an O_APPEND descriptor: VERB by its name and ARGUMENT, see
 * verbs.h. SYNC: wait until it is on the disk. Returns 0, or -1 with errno, and then the ledger is
 * as before: EINVAL if the grammar has no such record, ENAMETOOLONG if it is longer than
 * CLEANUP_RECORD_MAX, ENOSPC if the disk is full, and those of write(2). */
int cleanup_append(int fd, const char *verb, const char *argument, bool sync);
/* Returns NULL if FD is a ledger that can be appended to; else what is wrong with it, in words. */
const char *cleanup_not_a_ledger(int fd);
/* Put PATH as an absolute one, against the current directory, into FULL (PATH_MAX bytes); links and
 * dots stay as they are. Returns 0, or -1 with errno: EINVAL if it is empty or a newline is in it
 * or in the current directory's name, ENAMETOOLONG, and those of getcwd(3). */
int cleanup_absolute(const char *path, char *full);
/* Put the identity of what PATH stands for now into TEXT; a link is not followed. *DIRECTORY says
 * whether it is one. Returns 0, or -1 with the errno of lstat(2) or statx(2). */
int cleanup_fileid(const char *path, char text[IDENTITY_SIZE], bool *directory);

/* ---- Settling what another process left ---------------------------------------------------- */

/* Which ledger, and what is known about it. */
struct cleanup_settling {
    int dir; /* STATE/SERVER, open */
    const char *id;
    const char *name; /* of its files, if a slot keeps them (cleanup_slot_name); NULL: the id */
    bool after_crash; /* its server is dead: identities without a birth time prove nothing */
    int64_t again_s;  /* the default time until a second look; 0: none */
    bool again_now;   /* second looks are not waited for, but are not yet done with either */
    /* Run COMMAND for the request ID to its end, for the first or the second LOOK. Returns 0; 1 if
     * it says "later", which has been reported; or -1 if it failed, with errno 0 if it has been
     * reported. NULL: no command is run, CLEANUP_RUN_LEFT instead. */
    int (*run)(const char *id, const char *command, int look);
    /* A process of the request lives on: what is undone stays on record, to be undone again when
     * that has gone, which makes the result CLEANUP_LATER. No matter for what is kept. */
    bool lives_on;
};

/* For `run`, while it is called: returns the descriptor of the environment that was kept for its
 * ledger, which stays cleanup.c's; -1: none was, as the ledger is of an older version. */
int cleanup_environment(void);

/* Returns what the janitor PID is doing, for the log, until the next call. */
const char *cleanup_process_words(pid_t pid);
/* Report who lives on (cleanup_survivor), and note it in the ledger for people. */
void cleanup_note_survivor(const struct cleanup_settling *how);
/* Undo a ledger, and drop it if all could be undone. If another process settles it, that is waited
 * for. A ledger that is not there is CLEANUP_DONE. */
ASYNC_SAFE enum cleanup_result cleanup_settle(const struct cleanup_settling *how);
/* Keep what a ledger records, whose answer has arrived: only scratch directories are removed. */
enum cleanup_result cleanup_settle_kept(const struct cleanup_settling *how);
/* Undo a ledger whose answer has not arrived although it has the `sent` mark. The mark is struck
 * out first; if that fails nothing is undone, which is CLEANUP_FAILED. If there is another one
 * below it, that of a request which is kept whatever its client has, it is *KEPT. */
enum cleanup_result cleanup_settle_refuted(const struct cleanup_settling *how, bool *kept);
/* Look for the `sent` mark of the ledger ID in DIR. Returns 1 and the number of bytes in *N, 0 if
 * there is none, or -1 with errno if it cannot be told. */
int cleanup_was_sent(int dir, const char *name, uint64_t *n);

/* Returns true if DIR has a ledger of ID, or its program's. */
bool cleanup_exists(int dir, const char *id);
/* Returns the ids of the ledgers in DIR, *COUNT of them, for the caller to free; NULL if there are
 * none. errno is 0 if that is all there are, else it says why not. */
char (*cleanup_list(int dir, size_t *count))[CLEANUP_ID_SIZE];

/* Move the ledger NAME from one directory to another, where it is called ID. This is how a ledger
 * outlives its slot, is adopted from a dead server, and is parked. It may be repeated after a
 * crash. Returns false with errno; then a part of it may have been moved. */
bool cleanup_move(int from, const char *name, int to, const char *id);

/* Bring the program's file of the ledger ID, called NAME in DIR, back from STATE/failed, if a crash
 * has left it there alone while the ledger was parked. Returns false, with errno, if it may still
 * be there: then nothing must be decided. */
bool cleanup_unite(int state, int dir, const char *name, const char *id);

/* The name of the files of the ledger that the slot number SLOT keeps. Async-signal-safe. */
void cleanup_slot_name(char name[CLEANUP_ID_SIZE], unsigned slot);

/* ---- Directories of state ------------------------------------------------------------------ */

/* Say which node this is, once, before a directory is opened: NAME, or by its machine id, if it has
 * one, if that is NULL. Returns false if NAME is none: 1 to 64 letters, digits and ._- */
bool cleanup_node_set(const char *name);
/* Open the state directory PATH; if it is not there it is made, for OWNER and GROUP, with mode
 * 0700. Returns a descriptor, or -1 with *WHY in words and errno, which is 0 if the words say all:
 * the directory belongs to another user, or is open to others. */
int cleanup_state_open(const char *path, uid_t owner, gid_t group, const char **why);
/* Make the directory STATE/TOKEN for this server, with a TOKEN that is made up here, and hold its
 * lock until this process ends. Returns a descriptor on it, or -1 with errno. */
int cleanup_server_open(int state, char token[CLEANUP_TOKEN_SIZE]);
/* Remove it again, with its pool, if no ledger is left in it. */
void cleanup_server_close(int state, int dir, const char *token);
/* Make the server's directory for scratch directories, in TMPDIR. Returns a descriptor on it, and
 * its path in PATH (PATH_MAX bytes); or -1 with errno. It goes with the server's directory DIR. */
int cleanup_pool_open(int dir, const char *tmpdir, const char *token, char *path);
/* Returns true if PATH still is the directory POOL. If not, whoever cleans TMPDIR up has removed or
 * renamed it, and another one can be opened. */
bool cleanup_pool_is_there(int pool, const char *path);

/* ---- Recovery: the ledgers that dead servers left, and those that were parked -------------- */

struct cleanup_look;
struct cleanup_recovery {
    int state; /* STATE, open */
    /* What still needs a `run`, or failed, is moved to this directory; -1: it stays. */
    int adopt;
    int64_t again_s; /* as in cleanup_settling */
    bool again_now;
    int (*run)(const char *id, const char *command, int look);
    bool (*wanted)(const char *id); /* only these are settled; NULL: all */
    /* Called for what is another NODE's, and so is left alone: a ledger's id, or the token of a
     * server. NULL: it is left alone in silence. */
    void (*foreign)(const char *id, const char *node);
    /* Called for each ledger: what it WAS, what became of it, and whether it was kept, as it had
     * been sent. */
    void (*settled)(const struct cleanup_look *was, enum cleanup_result result, bool kept);
};

/* Take over from every dead server in STATE: end its processes, settle its ledgers, remove its
 * directory. Returns false if there may be ledgers that could not be looked at, which it reports.
 */
bool cleanup_recover(const struct cleanup_recovery *how);
/* Try again what is in STATE/failed. For one process at a time, which the caller must see to.
 * Returns as cleanup_recover. */
bool cleanup_recover_parked(const struct cleanup_recovery *how);
/* Open STATE/failed, which is made first if MAKE is true. Returns a descriptor, or -1 with errno:
 * ENOENT if there is none, EPERM if it is another user's. */
int cleanup_failed_open(int state, bool make);

/* Move the ledger ID from DIR to STATE/failed. Returns true if it is there now; false with errno.
 */
bool cleanup_park(int state, int dir, const char *name, const char *id);

/* Where a ledger is: nowhere; in STATE/failed; in the directory of a dead server; or of a server
 * that lives, or is being recovered, by the process *HOLDER. */
enum cleanup_place { CLEANUP_NOWHERE, CLEANUP_PARKED, CLEANUP_LEFT, CLEANUP_HELD };
enum cleanup_place cleanup_find(int state, const char *id, pid_t *holder);

/* ---- Processes --------------------------------------------------------------------------- */

/* Every process of a request bears its mark, and is a descendant of the request's child, which is a
 * subreaper. The mark is a resource limit, and in the environment REQUEST_ID: see processes.h. */

/* Remember where this process's environment lies, so that cleanup_mark_process can write there;
 * environ is moved away. Call it once, early in main. */
void cleanup_mark_prepare(int argc, char **argv);
/* Mark this process, and what is forked or executed from here, as the request ID's: also with
 * REQUEST_ID=ID in /proc/self/environ. ID is copied. */
void cleanup_mark_process(const char *id);
/* End all that descends from this process, a subreaper: SIGTERM, then after GRACE_MS milliseconds,
 * or at once if that is 0, SIGKILL. MEANWHILE, if not NULL, is called now and then during the
 * grace; it must be async-signal-safe. Returns true if no child is left, false after ten seconds of
 * SIGKILL, or if those that are left may not be signalled. */
typedef void cleanup_meanwhile_fn(void);
ASYNC_SAFE bool cleanup_end_children(int64_t grace_ms, cleanup_meanwhile_fn *meanwhile);
/* Kill all that is left of the request ID, whose child is dead: processes with its mark, and below
 * these. If SERVER is not 0, also that process's children, but for those in the caller's session
 * and those of which KNOWN returns true. Returns true if none is left of those that are certainly
 * its own; false if some live on: after ten seconds; if they sleep in the kernel, after one; and if
 * they may not be killed, at once. */
bool cleanup_end_request(const char *id, pid_t server, bool (*known)(pid_t));
/* When one of these two has returned false: which process it was, whose, and why it lives on. */
ASYNC_SAFE const char *cleanup_survivor(void);
/* Returns who was killed by the last cleanup_end_children without a SIGTERM before it, as in "sleep
 * (4711), sh (4712)": the first few of *COUNT. */
ASYNC_SAFE const char *cleanup_leftovers(size_t *count);

/* ---- Looking, for `hangupd status` ------------------------------------------------------- */

/* Nothing is made, changed, locked or waited for, and nothing that is read is believed. Lists are
 * sorted, and are for the caller to free; errno is 0 if a list has all there is. */

/* Returns the tokens of the servers in STATE, living and dead; NULL if there are none. */
char (*cleanup_look_servers(int state, size_t *count))[CLEANUP_TOKEN_SIZE];
/* Look at the lock of the server's directory DIR. If it is held, returns 1 and *PID, which is 0 if
 * it is in a pid namespace that cannot be seen from here; 0 if nobody holds it: the server is dead;
 * or -1 with errno if it cannot be told. Not for the server itself: it would let go of its lock.
 */
int cleanup_look_lock(int dir, pid_t *pid);

#define CLEANUP_EXCERPT_SIZE 256
struct cleanup_look {
    char id[CLEANUP_ID_SIZE];
    char name[CLEANUP_ID_SIZE]; /* of its files in the directory */
    uint64_t records;           /* that an undo would still act on; marks are not records */
    uint64_t looks;             /* second looks that wait for their time */
    int64_t due_ms;             /* when the last of these is due: milliseconds since 1970 */
    int64_t changed_ms;         /* when the ledger was changed last: milliseconds since 1970 */
    bool made;                  /* there is, or was, more to undo than scratch directories */
    char client[72];            /* "" if the header does not say */
    /* Cut to fit: the title in its header, and the record that is undone next; "" for none. */
    char title[CLEANUP_EXCERPT_SIZE], next[CLEANUP_EXCERPT_SIZE];
};

/* Look at the ledger ID in DIR, with its program's: the first 16 MB of each. Returns false if there
 * is none, or it cannot be read (errno). */
bool cleanup_look_ledger(int dir, const char *name, struct cleanup_look *l);

/* Returns all ledgers in DIR, by id; NULL only if there is no memory. */
struct cleanup_look *cleanup_look_ledgers(int dir, size_t *count);

struct cleanup_process {
    pid_t pid, parent;
};

/* Returns true if PID is a child of PARENT that was made within a few seconds after FORKED
 * (clock_ticks), and not a later process of that number. */
bool cleanup_is_born(pid_t pid, pid_t parent, uint64_t forked);

/* Returns all processes that live, by pid; NULL if it cannot be told. */
struct cleanup_process *cleanup_look_processes(size_t *count);
/* Returns the process PID among ALL of these, or NULL. */
const struct cleanup_process *cleanup_find_process(const struct cleanup_process *all, size_t count,
                                                   pid_t pid);

#endif
