/* undo_command.h: `hangupd undo`, records from a request's program.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_UNDO_COMMAND_H
#define HANGUPD_UNDO_COMMAND_H

#include "options.h"
#include "shell.h"

/* ---- hangupd undo: records from a request's program ---------------------------------- */

static const char undo_help[] =
    "Usage: hangupd undo VERB ARGUMENT...\n"
    "In a program that serves a request: record how to undo what it is about to make. Call it\n"
    "before the thing is made, and do not make it if this fails.\n"
    "\n"
    "  hangupd undo run COMMAND           run the shell command line COMMAND\n"
    "  hangupd undo run PROGRAM ARG...    run exactly these words, whatever is in them\n"
    "  hangupd undo unlink PATH           remove the file that then has this name\n"
    "  hangupd undo rmtree PATH           remove the directory and all that is in it\n"
    "  hangupd undo unlink-if [FILEID] PATH   the same, but only if it is still the very thing\n"
    "  hangupd undo rmtree-if [FILEID] PATH   that it is now; or that FILEID, DEV:INO:BTIME, "
    "names\n"
    "  hangupd undo commit                keep all that was recorded so far, however this ends\n"
    "\n"
    "A relative PATH is one in the current directory. What is recorded last is undone first. A\n"
    "command may be run more than once and must succeed when there is nothing to undo: name what\n"
    "you make by a token known beforehand, such as $REQUEST_ID. Records are lines in the "
    "request's\n"
    "ledger, which is open as the descriptor $UNDO_FD; a newline cannot be recorded.\n"
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
        wrong_use("UNDO_FD=%s: this descriptor %s: nothing is recorded, so do not make the thing",
                  value, why);
    return (int)fd;
}

/* PATH as the ledger wants it, in FULL; what could never be undone is refused. */
static void undo_path(const char *verb, const char *path, char full[PATH_MAX])
{
    bool tree = strncmp(verb, "rmtree", 6) == 0;
    if (*path == '\0')
        wrong_use("%s: the path is empty", verb);
    if (strchr(path, '\n') != NULL)
        wrong_use("%s: a newline in the path: the ledger cannot hold it", verb);
    if (cleanup_absolute(path, full) < 0)
        wrong_use("%s %s: %s", verb, path,
                  errno == EINVAL ? "the current directory has a newline in its name"
                                  : strerror(errno));
    size_t length = strlen(full);
    if (full[length - 1] == '/' && !tree)
        wrong_use("%s %s: that names a directory; use rmtree", verb, path);
    while (length > 1 && full[length - 1] == '/')
        full[--length] = '\0';
    const char *last = strrchr(full, '/') + 1;
    if (*last == '\0' || strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
        wrong_use("%s %s: name the thing itself, not /, . or ..", verb, path);
}

/* The identity of what PATH is now. */
static void undo_identity(struct text *t, const char *verb, const char *path)
{
    char id[CLEANUP_FILEID_SIZE];
    bool directory;
    if (cleanup_fileid(path, id, &directory) < 0)
        wrong_use("%s %s: %s; make it first, or record %.6s before it is made", verb, path,
                  strerror(errno), verb);
    if (directory != (strncmp(verb, "rmtree", 6) == 0))
        wrong_use("%s %s: that is %s directory; use %s", verb, path, directory ? "a" : "not a",
                  directory ? "rmtree-if" : "unlink-if");
    text_add(t, id);
}

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
        if (i > 0)
            text_char(t, ' ');
        shell_word(t, words[i]);
    }
}

static void undo_argument(struct text *t, const char *verb, int count, char **words)
{
    bool identity = strcmp(verb, "unlink-if") == 0 || strcmp(verb, "rmtree-if") == 0;
    if (strcmp(verb, "run") == 0) {
        undo_command(t, count, words);
    } else if (strcmp(verb, "commit") == 0) {
        if (count != 0)
            wrong_use("commit takes no argument: it keeps all that was recorded so far");
    } else if (identity || strcmp(verb, "unlink") == 0 || strcmp(verb, "rmtree") == 0) {
        if (count != 1 && !(identity && count == 2))
            wrong_use("%s takes one path%s, and %d words came: quote a path with spaces", verb,
                      identity ? ", and a FILEID before it if that is known" : "", count);
        char path[PATH_MAX];
        undo_path(verb, words[count - 1], path);
        if (count == 2)
            text_add(t, words[0]);
        else if (identity)
            undo_identity(t, verb, path);
        if (identity)
            text_char(t, ' ');
        text_add(t, path);
    } else {
        wrong_use("there is no verb %s; there are run, unlink, rmtree, unlink-if, rmtree-if and "
                  "commit",
                  verb);
    }
}

static int command_undo(int argc, char **argv)
{
    static char argument[2 * CLEANUP_RECORD_MAX]; /* what is cut is too long in any case */
    struct text t = TEXT(argument);
    program_name = "hangupd undo";
    if (argc < 2)
        wrong_use("what is to be undone? VERB is missing");
    const char *verb = argv[1];
    if (strcmp(verb, "--help") == 0) {
        fputs(undo_help, stdout);
        exit_printed();
    }
    undo_argument(&t, verb, argc - 2, argv + 2);
    int fd = undo_descriptor();
    if (cleanup_append(fd, verb, text_end(&t), false) == 0)
        return 0;
    if (errno == ENAMETOOLONG)
        wrong_use("%s: the record would be longer than %d bytes, which the ledger cannot hold",
                  verb, CLEANUP_RECORD_MAX);
    if (errno == EINVAL)
        wrong_use("%s %s: that is not FILEID PATH, as in %s 8:1:1095:1795412859.324394260 /tmp/it",
                  verb, argument, verb);
    cannot("could not record \"%s\": %s: do not make what it was to undo", verb, strerror(errno));
}

#endif
