/* undo_command.h: `hangupd undo`, records from a request's program.
 *
 * It appends one record to the ledger that the program was given as a descriptor, UNDO_FD. What
 * could never be undone is refused with exit status 2, because the program must not make the thing
 * then; the verbs, their help and what each takes are rows of verbs.h.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_UNDO_COMMAND_H
#define HANGUPD_UNDO_COMMAND_H

#include "ledger.h"
#include "options.h"
#include "run_command.h"
#include "verbs.h"

static const char undo_about[] =
    "Usage: hangupd undo VERB ARGUMENT...\n"
    "In a program that serves a request: record how to undo what it is about to make. Call it\n"
    "before the thing is made, and do not make it if this fails.\n"
    "\n";

#define VERB_HELP(id, name, argument, undo, help) help
static const char undo_verbs[] = VERBS(VERB_HELP);
#undef VERB_HELP

static const char undo_notes[] =
    "\n"
    "A relative PATH is one in the current directory. What is recorded last is undone first. A\n"
    "command may be run more than once and must succeed when there is nothing to undo: name what\n"
    "you make by a token known beforehand, such as $REQUEST_ID. If it cannot tell yet, it exits\n"
    "with 75 and is run again later. Records are lines in the request's ledger, which is open as\n"
    "the descriptor $UNDO_FD; a newline cannot be recorded.\n"
    "\n"
    "Exit status: 0 recorded; 1 it could not be written: do not make the thing; 2 wrong use.\n"
    "\n"
    "Example:\n"
    "  hangupd undo run kubectl delete job --ignore-not-found \"report-$REQUEST_ID\" &&\n"
    "      kubectl create job \"report-$REQUEST_ID\" --image=report\n";

static int undo_descriptor(void)
{
    const char *value = getenv("UNDO_FD"), *end = value;
    unsigned long long fd;
    if (value == NULL || *value == '\0')
        wrong_use("not called from a request's program: UNDO_FD, the ledger's descriptor, is not "
                  "set");
    if (!parse_number(&end, INT_MAX, &fd) || *end != '\0')
        wrong_use("UNDO_FD=%s is not the number of a descriptor", value);
    const char *why = cleanup_not_a_ledger((int)fd);
    if (why != NULL)
        cannot("UNDO_FD=%s: this descriptor %s: nothing is recorded, so do not make the thing",
               value, why);
    return (int)fd;
}

/* Put PATH into FULL as the ledger wants it: absolute, and the thing's own name at the end. */
static void undo_path(enum verb verb, const char *path, char full[PATH_MAX])
{
    const char *name = verbs[verb].name;
    if (*path == '\0')
        wrong_use("%s: the path is empty", name);
    if (strchr(path, '\n') != NULL)
        wrong_use("%s: a newline in the path: the ledger cannot hold it", name);
    if (cleanup_absolute(path, full) < 0)
        wrong_use("%s %s: %s", name, path,
                  errno == EINVAL ? "the current directory has a newline in its name"
                                  : strerror(errno));
    size_t length = strlen(full);
    if (full[length - 1] == '/' && verbs[verb].undo == UNDO_FILE)
        wrong_use("%s %s: that names a directory; use %s", name, path, verbs[VERB_RMTREE].name);
    while (length > 1 && full[length - 1] == '/')
        full[--length] = '\0';
    const char *last = strrchr(full, '/') + 1;
    if (*last == '\0' || strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
        wrong_use("%s %s: name the thing itself, not /, . or ..", name, path);
}

/* Append the identity of what PATH is now. */
static void undo_identity(struct text *t, enum verb verb, const char *path)
{
    char id[IDENTITY_SIZE];
    bool tree = verbs[verb].undo == UNDO_TREE, directory;
    if (cleanup_fileid(path, id, &directory) < 0)
        wrong_use("%s %s: %s; make it first, or record %s before it is made", verbs[verb].name,
                  path, strerror(errno), verbs[tree ? VERB_RMTREE : VERB_UNLINK].name);
    if (directory != tree)
        wrong_use("%s %s: that is %s directory; use %s", verbs[verb].name, path,
                  directory ? "a" : "not a",
                  verbs[directory ? VERB_RMTREE_IF : VERB_UNLINK_IF].name);
    text_add(t, id);
}

/* Append the command line: one word is one already, several are quoted to stay what they are. */
static void undo_command(struct text *t, int count, char **words)
{
    if (count < 1 || words[0][strspn(words[0], " \t")] == '\0')
        wrong_use("run: the command is empty");
    for (int i = 0; i < count; i++)
        if (strchr(words[i], '\n') != NULL)
            wrong_use("run: a newline in the command: the ledger cannot hold it; put such a "
                      "command in a script");
    if (count == 1)
        text_add(t, words[0]);
    for (int i = 0; count > 1 && i < count; i++) {
        text_add(t, i > 0 ? " " : "");
        shell_word(t, words[i]);
    }
}

static void undo_path_argument(struct text *t, enum verb verb, int count, char **words)
{
    char path[PATH_MAX];
    bool identity = verbs[verb].argument == ARGUMENT_FILEID_PATH;
    if (count != 1 && !(identity && count == 2))
        wrong_use("%s takes one path%s, and %d words came: quote a path with spaces",
                  verbs[verb].name, identity ? ", and a FILEID before it if that is known" : "",
                  count);
    undo_path(verb, words[count - 1], path);
    if (count == 2)
        text_add(t, words[0]);
    else if (identity)
        undo_identity(t, verb, path);
    if (identity)
        text_char(t, ' ');
    text_add(t, path);
}

static _Noreturn void no_such_verb(const char *name)
{
    char names[256];
    struct text t = TEXT(names);
    for (int verb = VERB_FIRST, next; verb < VERB_COUNT; verb = next) {
        for (next = verb + 1; next < VERB_COUNT && !verbs[next].offered;)
            next++;
        text_add(&t, verb == VERB_FIRST ? "" : next < VERB_COUNT ? ", " : " and ");
        text_add(&t, verbs[verb].name);
    }
    wrong_use("there is no verb %s; there are %s", name, text_end(&t));
}

/* Append how long the second look is to wait, "--again TIME" or "--again=TIME". Returns how many
 * words that took; 0 if it is not asked for. */
static int undo_again_option(struct text *t, int argc, char **argv)
{
    static const char option[] = "--again";
    size_t n = sizeof option - 1;
    if (argc < 2 || strncmp(argv[1], option, n) != 0 || (argv[1][n] != '\0' && argv[1][n] != '='))
        return 0;
    bool joined = argv[1][n] == '=';
    const char *time = joined ? argv[1] + n + 1 : argc > 2 ? argv[2] : "";
    int64_t ms = parse_duration(time);
    if (ms < 1 || ms > INT64_C(1000) * AGAIN_MOST_S)
        wrong_use("--again %s is not a time up to a year, as in 90s, 15m or 2h", time);
    text_format(t, "+%lld run ", (long long)(ms + 999) / 1000);
    return joined ? 1 : 2;
}

static int command_undo(int argc, char **argv)
{
    static char argument[2 * CLEANUP_RECORD_MAX]; /* what is cut is too long in any case */
    struct text t = TEXT(argument);
    program_name = "hangupd undo";
    int again = undo_again_option(&t, argc, argv);
    argc -= again;
    argv += again;
    if (argc < 2)
        wrong_use("what is to be undone? VERB is missing");
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        printf("%s%s%s", undo_about, undo_verbs, undo_notes);
        exit_printed();
    }
    enum verb verb = verb_find(name, strlen(name));
    if (!verbs[verb].offered)
        no_such_verb(name);
    if (again > 0 && verb != VERB_RUN)
        wrong_use("--again is for run: %s finds what it undoes at the first look", name);
    if (verbs[verb].argument == ARGUMENT_COMMAND)
        undo_command(&t, argc - 2, argv + 2);
    else if (verbs[verb].argument != ARGUMENT_NOTHING)
        undo_path_argument(&t, verb, argc - 2, argv + 2);
    else if (argc > 2)
        wrong_use("%s takes no argument: it keeps all that was recorded so far", name);
    int fd = undo_descriptor();
    if (cleanup_append(fd, again > 0 ? "again" : name, text_end(&t), false) == 0)
        return 0;
    if (errno == ENAMETOOLONG)
        wrong_use("%s: the record would be longer than %d bytes, which the ledger cannot hold",
                  name, CLEANUP_RECORD_MAX);
    if (errno == EINVAL)
        wrong_use("%s %s: that is not FILEID PATH, as in %s 8:1:1095:1795412859.324394260 /tmp/it",
                  name, argument, name);
    cannot("could not record \"%s\": %s: do not make what it was to undo", name, strerror(errno));
}

#endif
