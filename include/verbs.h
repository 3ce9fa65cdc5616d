/* verbs.h: the ledger's grammar: its verbs, what each takes, and how each is undone.
 *
 *     struct record r = record_parse(line);
 *     if (r.verb == VERB_UNKNOWN || r.error != 0)
 *         ... it cannot be obeyed, and r.error says in which way ...
 *     if (verbs[r.verb].undo == UNDO_TREE)
 *         ... remove r.argument, if it still is r.identity (identify, and compare) ...
 *
 * A record is one line: a verb and, behind one space, its argument up to the end of the line. This
 * table is the only place that knows their names: cleanup.c writes and undoes records by it, status
 * counts by it, and `hangupd undo` takes its help and the kind of argument from it. A line that
 * does not fit the grammar is reported and kept; nothing in it is guessed at.
 *
 * A new verb is a row here. If it is undone in a new way, it is also an enum verb_undo, a case in
 * cleanup.c's undo_record (the compiler asks for it) and, if status does not count it as a record
 * to undo, one in look.h's tally_line. If it takes a new kind of argument, it is an enum
 * verb_argument, with a case in record_parse and one in undo_command.h's undo_argument.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE, which is all of it.
 */
#ifndef HANGUPD_VERBS_H
#define HANGUPD_VERBS_H

#include <errno.h>
#include <stdint.h>

#include "identity.h"
#include "text.h"

/* ---- The table ------------------------------------------------------------------------- */

/* VERB(ENUM, NAME, ARGUMENT, UNDO, HELP) for each. HELP is its part of `hangupd undo --help`, whole
 * lines, in the order in which they are shown; a verb without it is the server's own, and is not
 * offered there. What is shown may be put together by the preprocessor:
 *
 *     #define VERB_HELP(id, name, argument, undo, help) help
 *     static const char text[] = "Usage...\n" VERBS(VERB_HELP) "Exit status...\n";
 */
#define VERBS(VERB)                                                                                \
    VERB(RUN, "run", COMMAND, COMMAND,                                                             \
         "  hangupd undo run COMMAND           run the shell command line COMMAND\n"               \
         "  hangupd undo run PROGRAM ARG...    run exactly these words, whatever is in them\n"     \
         "  hangupd undo --again TIME run ...  the same, and once more when TIME has passed\n")    \
    VERB(UNLINK, "unlink", PATH, FILE,                                                             \
         "  hangupd undo unlink PATH           remove the file that then has this name\n")         \
    VERB(RMTREE, "rmtree", PATH, TREE,                                                             \
         "  hangupd undo rmtree PATH           remove the directory and all that is in it\n")      \
    VERB(UNLINK_IF, "unlink-if", FILEID_PATH, FILE,                                                \
         "  hangupd undo unlink-if [FILEID] PATH   the same, but only if it is still the very "    \
         "thing\n")                                                                                \
    VERB(RMTREE_IF, "rmtree-if", FILEID_PATH, TREE,                                                \
         "  hangupd undo rmtree-if [FILEID] PATH   that it is now; or that FILEID, "               \
         "DEV:INO:BTIME:HANDLE, names\n")                                                          \
    VERB(COMMIT, "commit", NOTHING, MARK_KEEP,                                                     \
         "  hangupd undo commit                keep all that was recorded so far, however this "   \
         "ends\n")                                                                                 \
    VERB(AGAIN, "again", AGAIN, AGAIN, "")                                                         \
    VERB(SCRATCH, "scratch", PATH, SCRATCH, "")                                                    \
    VERB(IN, "in", FILEID_PATH, PLACE, "")                                                         \
    VERB(SENT, "sent", NUMBER, MARK_SENT, "")

#define VERB_ENUM(id, name, argument, undo, help) VERB_##id,
enum verb {
    VERB_NONE,    /* an empty line or a comment, as what is struck out has become */
    VERB_UNKNOWN, /* of a newer version, or no record at all */
    VERBS(VERB_ENUM) VERB_COUNT
};
#define VERB_FIRST (VERB_UNKNOWN + 1)
#undef VERB_ENUM

enum verb_argument {
    ARGUMENT_NOTHING,
    ARGUMENT_NUMBER,
    ARGUMENT_COMMAND,    /* for the shell; not empty */
    ARGUMENT_AGAIN,      /* "+SECONDS", "DUE" or "DUE+SECONDS", a space and "run COMMAND" */
    ARGUMENT_PATH,       /* absolute */
    ARGUMENT_FILEID_PATH /* an identity, a space and an absolute path */
};

enum verb_undo {
    UNDO_NOTHING, /* no verb: a comment, or a line that cannot be obeyed */
    UNDO_COMMAND, /* run it: a janitor's work, never a signal handler's */
    UNDO_AGAIN,   /* the same, twice: for the second time when DUE, seconds since 1970, has come */
    UNDO_FILE,    /* remove this name */
    UNDO_TREE,    /* remove this directory and all that is in it */
    UNDO_SCRATCH, /* the same, even if everything else is kept */
    UNDO_PLACE,   /* nothing: which directory it is that records lie in (thing.h) */
    UNDO_MARK_KEEP, /* a mark: of what is recorded above it, only scratch is removed */
    UNDO_MARK_SENT  /* a mark: whether all is kept is decided before the undo begins */
};

#define VERB_ROW(id, name, argument, undo, help)                                                   \
    [VERB_##id] = {name, ARGUMENT_##argument, UNDO_##undo, sizeof(help) > 1},
static const struct verb_row {
    const char *name;
    enum verb_argument argument;
    enum verb_undo undo;
    bool offered; /* by `hangupd undo`, to programs */
} verbs[VERB_COUNT] = {VERBS(VERB_ROW)};
#undef VERB_ROW

/* Returns the verb whose name is the N bytes at NAME, or VERB_UNKNOWN. */
ASYNC_SAFE static inline enum verb verb_find(const char *name, size_t n)
{
    for (int verb = VERB_FIRST; verb < VERB_COUNT; verb++)
        if (strncmp(name, verbs[verb].name, n) == 0 && verbs[verb].name[n] == '\0')
            return (enum verb)verb;
    return VERB_UNKNOWN;
}

/* ---- Records ----------------------------------------------------------------------------- */

struct record {
    enum verb verb;
    int error;                  /* why it cannot be obeyed, an errno; 0: it can */
    struct identity identity;   /* only with ARGUMENT_FILEID_PATH */
    unsigned long long number;  /* only with ARGUMENT_NUMBER; with ARGUMENT_AGAIN: DUE, or 0 */
    unsigned long long seconds; /* only with ARGUMENT_AGAIN; 0: the default */
    char *argument; /* in the line: its path or command; if it is wrong, all behind the verb */
};

#define AGAIN_MOST_S 31622400 /* a year */

/* Parse what stands before the command of an `again`, and step over it. Returns false if that is
 * not what is there. */
ASYNC_SAFE static inline bool again_parse(const char **s, struct record *r)
{
    bool good = **s == '+' || (parse_number(s, INT64_MAX, &r->number) && r->number > 0);
    if (good && **s == '+') {
        ++*s;
        good = parse_number(s, AGAIN_MOST_S, &r->seconds) && r->seconds > 0;
    }
    if (!good || strncmp(*s, " run ", 5) != 0)
        return false;
    *s += 5;
    return **s != '\0';
}

/* Parse LINE, which has no newline. The record points into it. */
ASYNC_SAFE static inline struct record record_parse(char *line)
{
    struct record r = {.verb = VERB_NONE, .argument = line};
    if (*line == '#' || *line == '\0')
        return r;
    size_t n = strcspn(line, " ");
    r.verb = verb_find(line, n);
    r.argument = line + n + (line[n] != '\0');
    const char *at = r.argument;
    bool good = r.verb != VERB_UNKNOWN;
    r.error = EBADMSG;
    switch (verbs[r.verb].argument) {
    case ARGUMENT_NOTHING:
        good = good && line[n] == '\0';
        break;
    case ARGUMENT_NUMBER:
        good = parse_number(&at, UINT64_MAX, &r.number) && *at == '\0';
        break;
    case ARGUMENT_COMMAND:
        good = *at != '\0';
        break;
    case ARGUMENT_AGAIN:
        good = again_parse(&at, &r);
        if (good)
            r.argument += at - r.argument;
        break;
    case ARGUMENT_PATH:
        good = *at == '/';
        break;
    case ARGUMENT_FILEID_PATH:
        r.error = EINVAL;
        good = identity_parse(&at, &r.identity) && *at == '/';
        if (good)
            r.argument += at - r.argument;
        break;
    }
    if (good)
        r.error = 0;
    return r;
}

/* What is wrong with a line that is not whole (reader.h). */
#define LINE_NOT_WHOLE "it is longer than a record may be, or has a NUL in it"

/* Returns in words what is wrong with a record that has an error. */
ASYNC_SAFE static inline const char *record_wrong(const struct record *r)
{
    if (r->verb == VERB_UNKNOWN)
        return "there is no such verb";
    switch (verbs[r->verb].argument) {
    case ARGUMENT_NOTHING:
        return "it takes no argument";
    case ARGUMENT_NUMBER:
        return "that is not a number";
    case ARGUMENT_COMMAND:
        return "the command is empty";
    case ARGUMENT_AGAIN:
        return "that is not +SECONDS run COMMAND";
    case ARGUMENT_PATH:
        return "the path is not absolute";
    case ARGUMENT_FILEID_PATH:
        return "that is not FILEID and an absolute path";
    }
    return "it cannot be obeyed";
}

#endif
