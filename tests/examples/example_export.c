/* example_export.c: a program in C that uses no library of ours. It writes the request's body to a
 * directory of its own under EXPORTS, by way of a hidden name, and commits when the directory has
 * its final one: what follows may fail or be hung up on without taking it back. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void give_up(const char *doing, const char *what)
{
    fprintf(stderr, "could not %s %s: %s\n", doing, what, strerror(errno));
    exit(1); /* not 0: everything recorded is undone */
}

/* A record is one line, in one write, before the act. */
static void record(const char *verb, const char *path)
{
    char line[4096];
    int n = snprintf(line, sizeof line, "%s%s%s\n", verb, *path != '\0' ? " " : "", path);
    if (n < 0 || n >= (int)sizeof line || write(3, line, (size_t)n) != n)
        give_up("record", path);
}

int main(void)
{
    char hidden[1024], shown[1024], file[1100], piece[4096];
    const char *exports = getenv("EXPORTS"), *id = getenv("REQUEST_ID"), *query;
    if (exports == NULL || id == NULL) {
        fputs("EXPORTS and REQUEST_ID are wanted\n", stderr);
        return 1;
    }
    snprintf(hidden, sizeof hidden, "%s/.%s", exports, id);
    snprintf(shown, sizeof shown, "%s/%s", exports, id);
    snprintf(file, sizeof file, "%s/data", hidden);
    record("rmtree", hidden);
    if (mkdir(hidden, 0755) < 0)
        give_up("make", hidden);
    FILE *data = fopen(file, "w");
    if (data == NULL)
        give_up("make", file);
    for (size_t n; (n = fread(piece, 1, sizeof piece, stdin)) > 0;)
        if (fwrite(piece, 1, n, data) != n)
            give_up("write", file);
    if (fclose(data) != 0)
        give_up("write", file);
    record("rmtree", shown);
    if (rename(hidden, shown) < 0)
        give_up("rename", hidden);
    record("commit", "");
    fprintf(stderr, "committed %s\n", shown);
    query = getenv("QUERY_STRING");
    if (query != NULL && strcmp(query, "wait") == 0)
        pause();
    printf("Content-Type: text/plain\n\n%s\n", shown);
    return 0;
}
