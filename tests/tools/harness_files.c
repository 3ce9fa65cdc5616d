#include "harness_files.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "suite.h"

const char *at(const char *format, ...)
{
    static char paths[16][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 16];
    int n = snprintf(path, PATH_MAX, "%s/", test_dir);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + n, (size_t)(PATH_MAX - n), format, arguments);
    va_end(arguments);
    return path;
}

bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

bool is_empty(const char *directory)
{
    DIR *d = opendir(directory);
    if (!d)
        return true;
    unsigned entries = 0;
    while (readdir(d))
        entries++;
    closedir(d);
    return entries == 2;
}

/* Returns true if NAME in a pool is a slot's scratch directory, as a slot keeps it. */
static bool is_free(const char *pool, const char *name)
{
    size_t number = strspn(name, "0123456789abcdefghijklmnopqrstuv");
    size_t letter = strspn(name + number, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    if (number > 0 && letter <= 1 && name[number + letter] == '\0')
        return is_empty(at("tmp/%s/%s", pool, name));
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

bool is_pool_name(const char *name)
{
    static const char prefix[] = "hangupd-";
    size_t n = strlen(prefix);
    return strncmp(name, prefix, n) == 0 && strspn(name + n, "0123456789abcdef") == 5 &&
           name[n + 5] == '\0';
}

bool no_scratch(void)
{
    unsigned pools = 0;
    bool none = true;
    DIR *tmp = opendir(at("tmp"));
    for (const struct dirent *e; tmp && (e = readdir(tmp));) {
        if (e->d_name[0] == '.')
            continue;
        DIR *pool = is_pool_name(e->d_name) ? opendir(at("tmp/%s", e->d_name)) : NULL;
        none = none && pool;
        for (const struct dirent *d; pool && (d = readdir(pool));)
            none = none && is_free(e->d_name, d->d_name);
        pools++;
        if (pool)
            closedir(pool);
    }
    if (tmp)
        closedir(tmp);
    return none && pools <= 1;
}

void file_write(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    must_say(f && fputs(text, f) >= 0 && fclose(f) == 0, "write %s: %s", path, strerror(errno));
}

char *file_read(const char *path)
{
    static char texts[4][16384];
    static unsigned next;
    char *text = texts[next++ % 4];
    size_t n = 0;
    FILE *f = fopen(path, "r");
    if (f) {
        n = fread(text, 1, sizeof(texts[0]) - 1, f);
        fclose(f);
    }
    text[n] = '\0';
    return text;
}

void wait_exists(const char *path)
{
    wait_until(exists(path));
}

void wait_gone(const char *path)
{
    wait_until(!exists(path));
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)walk;
    if (type == FTW_DP)
        rmdir(path);
    else
        unlink(path);
    return 0;
}

void remove_tree(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* ---- What users copy -------------------------------------------------------------------- */

char *replaced(char *text, const char *what, const char *with)
{
    char *found = strstr(text, what);
    must_say(found, "no %s in: %s", what, text);
    char *result;
    must(asprintf(&result, "%.*s%s%s", (int)(found - text), text, with, found + strlen(what)) >= 0);
    free(text);
    return result;
}

char *readme_block(const char *info, const char *with)
{
    char path[4096], fence[64];
    must(getenv("TESTS"));
    snprintf(path, sizeof(path), "%s/../README.md", getenv("TESTS"));
    snprintf(fence, sizeof(fence), "```%s\n", info);
    const char *at = file_read(path);
    while ((at = strstr(at, fence))) {
        at += strlen(fence);
        const char *end = strstr(at, "```");
        must(end);
        char *block = strndup(at, (size_t)(end - at));
        must(block);
        if (strstr(block, with))
            return block;
        free(block);
    }
    must_say(false, "the README has no block %s with %s", info, with);
    return NULL;
}

char *deploy_file(const char *name)
{
    char path[4096];
    must(getenv("TESTS"));
    snprintf(path, sizeof(path), "%s/deploy/%s", getenv("TESTS"), name);
    char *text = strdup(file_read(path));
    must(text);
    return text;
}
