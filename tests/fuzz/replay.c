/* replay.c: feed a fuzz target files, once each, without libFuzzer.
 *
 *     replay DIRECTORY          every file in it; an empty directory is an error
 *     replay FILE...            these, as when looking at what `make fuzz` has found
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

static const char *current; /* what is being fed */

static void on_abort(int signal)
{
    (void)signal;
    static const char words[] = "replay: this was found with the input ";
    if (write(STDERR_FILENO, words, sizeof words - 1) < 0 ||
        write(STDERR_FILENO, current, strlen(current)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
        _exit(1);
}

static _Noreturn void die(const char *doing, const char *what)
{
    fprintf(stderr, "replay: could not %s %s: %s\n", doing, what, strerror(errno));
    exit(1);
}

static void feed(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        die("open", path);
    uint8_t *bytes = NULL;
    size_t size = 0;
    for (;;) {
        enum { STEP = 65536 };
        uint8_t *more = realloc(bytes, size + STEP);
        if (more == NULL)
            die("hold", path);
        bytes = more;
        size_t n = fread(bytes + size, 1, STEP, file);
        size += n;
        if (n < STEP)
            break;
    }
    if (ferror(file))
        die("read", path);
    fclose(file);
    /* Exactly as long as the input, as libFuzzer does it. */
    uint8_t *exact = (uint8_t *)exact_copy(bytes, size);
    free(bytes);
    current = path;
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static unsigned feed_directory(const char *directory)
{
    unsigned count = 0;
    DIR *list = opendir(directory);
    if (list == NULL)
        die("list", directory);
    for (const struct dirent *e; (e = readdir(list)) != NULL;) {
        char path[4096];
        if (e->d_name[0] == '.')
            continue;
        if (snprintf(path, sizeof path, "%s/%s", directory, e->d_name) >= (int)sizeof path) {
            errno = ENAMETOOLONG;
            die("open", e->d_name);
        }
        feed(path);
        count++;
    }
    closedir(list);
    return count;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    signal(SIGABRT, on_abort);
    for (int i = 1; i < argc; i++) {
        struct stat s;
        if (stat(argv[i], &s) < 0)
            die("look at", argv[i]);
        if (S_ISDIR(s.st_mode))
            count += feed_directory(argv[i]);
        else
            feed(argv[i]), count++;
    }
    if (count == 0) {
        fprintf(stderr, "replay: there was nothing to feed\n");
        return 1;
    }
    const char *name = strrchr(argv[0], '/');
    printf("%s: fed %u inputs, each taken as it must be\n", name != NULL ? name + 1 : argv[0],
           count);
    return 0;
}
