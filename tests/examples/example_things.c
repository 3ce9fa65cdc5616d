/* example_things.c: handlers that do the odd things that the system tests need done. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <hangupd/server.h>

static const char *text_of(struct request *rq, const char *name, const char *otherwise)
{
    const char *value = request_parameter(rq, name);
    return value ? value : otherwise;
}

static long number_of(struct request *rq, const char *name, long otherwise)
{
    const char *value = request_parameter(rq, name);
    return value ? strtol(value, NULL, 10) : otherwise;
}

static void pause_for(double seconds)
{
    struct timespec left = {.tv_sec = (time_t)seconds};
    left.tv_nsec = (long)((seconds - (double)left.tv_sec) * 1e9);
    while (nanosleep(&left, &left) < 0 && errno == EINTR) {
    }
}

static void work(struct request *rq)
{
    pause_for(strtod(text_of(rq, "seconds", "0"), NULL));
}

/* Make the file named by the parameter NAME. */
static int create(struct request *rq, const char *name, int flags)
{
    const char *path = text_of(rq, name, "");
    int fd = cleanup_create(path, flags, 0644);
    if (fd < 0)
        return -1;
    if (dprintf(fd, "%s\n", request_id(rq)) < 0) {
        close(fd);
        return -1;
    }
    close(fd);
    request_log(rq, "made %s pid %d", path, (int)getpid());
    return 0;
}

static int make(struct request *rq)
{
    if (create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    work(rq);
    return respond_text(rq, 200, "made\n");
}

static int over(struct request *rq)
{
    if (create(rq, "path", CLEANUP_OVERWRITE) < 0)
        return respond_errno(rq, "create the file");
    work(rq);
    return respond_text(rq, 200, "made\n");
}

/* A file that its maker does not ask the library to create: recorded beforehand. */
static int byhand(struct request *rq)
{
    const char *path = text_of(rq, "path", "");
    if (cleanup_unlink(path) < 0)
        return respond_errno(rq, "record the file");
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return respond_errno(rq, "create the file");
    close(fd);
    request_log(rq, "made %s pid %d", path, (int)getpid());
    work(rq);
    return respond_text(rq, 200, "made\n");
}

static int touch(const char *directory, const char *name)
{
    char path[8192];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return -1;
    return close(fd);
}

static int tree(struct request *rq)
{
    const char *path = text_of(rq, "path", "");
    char below[4096];
    snprintf(below, sizeof(below), "%s/below", path);
    const char *scratch = cleanup_tempdir();
    if (!scratch || touch(scratch, "notes") < 0)
        return respond_errno(rq, "use the scratch directory");
    if (cleanup_mkdir(path, 0755) < 0)
        return respond_errno(rq, "create the directory");
    if (touch(path, "one") < 0 || mkdir(below, 0755) < 0 || touch(below, "two") < 0)
        return respond_errno(rq, "fill the directory");
    request_log(rq, "made %s pid %d scratch %s", path, (int)getpid(), scratch);
    work(rq);
    return respond_text(rq, 200, "%s\n", scratch);
}

static int echo(struct request *rq)
{
    uint64_t length = request_body_length(rq);
    char head[64];
    int n = snprintf(head, sizeof(head), "%llu ", (unsigned long long)length);
    if (n < 0 || respond_begin(rq, 200, "application/octet-stream", (int64_t)length + n) < 0 ||
        respond_write(rq, head, (size_t)n) < 0)
        return -1;
    char buffer[65536];
    ssize_t got;
    int body = request_body(rq);
    while (body >= 0 && (got = read(body, buffer, sizeof(buffer))) > 0)
        if (respond_write(rq, buffer, (size_t)got) < 0)
            return -1;
    return 0;
}

static int with_status(struct request *rq)
{
    if (request_parameter(rq, "path") && create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    return respond_text(rq, (int)number_of(rq, "code", 200), "as asked\n");
}

static int silent(struct request *rq)
{
    return create(rq, "path", 0);
}

static int fail(struct request *rq)
{
    if (create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    return -1;
}

/* The default action even where a sanitizer wants to be told: this death is meant. */
static int crash(struct request *rq)
{
    if (create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
    return 0;
}

static int stop(struct request *rq)
{
    if (create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    raise(SIGSTOP);
    return respond_text(rq, 200, "went on\n");
}

/* Make one file beside the directory again and again, faster than anybody removes it. */
static void *make_again(void *directory)
{
    char name[4200];
    snprintf(name, sizeof(name), "%s.again", (const char *)directory);
    for (;;) {
        int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd >= 0)
            close(fd);
    }
    return NULL;
}

static void *fill_and_make_again(void *directory)
{
    for (unsigned n = 0; n < 500; n++) {
        char name[16];
        snprintf(name, sizeof(name), "%u", n);
        touch(directory, name);
    }
    return make_again(directory);
}

static int threaded(struct request *rq)
{
    static char directory[4096];
    char again[4200];
    snprintf(directory, sizeof(directory), "%s", text_of(rq, "path", ""));
    snprintf(again, sizeof(again), "%s.again", directory);
    pthread_t thread;
    if (cleanup_unlink(again) < 0 || cleanup_mkdir(directory, 0755) < 0)
        return respond_errno(rq, "create the directory");
    /* Two of them: whichever thread takes the signal, another goes on. */
    int error = pthread_create(&thread, NULL, fill_and_make_again, directory);
    if (!error)
        error = pthread_create(&thread, NULL, make_again, directory);
    if (error) {
        errno = error;
        return respond_errno(rq, "start a thread");
    }
    request_log(rq, "made %s pid %d", directory, (int)getpid());
    work(rq);
    return respond_text(rq, 200, "made\n");
}

_Noreturn static void stay(int tell)
{
    pid_t pid = getpid();
    signal(SIGTERM, SIG_IGN);
    if (write(tell, &pid, sizeof(pid)) != (ssize_t)sizeof(pid))
        _exit(1);
    close(tell);
    for (;;)
        pause();
}

/* A helper, a daemon, and a daemon whose parent is gone; all deaf to SIGTERM. */
static int forking(struct request *rq)
{
    int told[2];
    pid_t pids[3];
    if (request_parameter(rq, "path") && create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    if (pipe2(told, O_CLOEXEC) < 0)
        return respond_errno(rq, "make a pipe");
    for (int kind = 0; kind < 3; kind++) {
        pid_t pid = fork();
        if (pid < 0)
            return respond_errno(rq, "fork");
        if (pid == 0) {
            if (kind > 0)
                setsid();
            if (kind > 1 && fork() != 0)
                _exit(0);
            stay(told[1]);
        }
    }
    for (int kind = 0; kind < 3; kind++)
        if (read(told[0], &pids[kind], sizeof(pids[kind])) != (ssize_t)sizeof(pids[kind]))
            return respond_errno(rq, "hear from a helper");
    request_log(rq, "forked %d %d %d", (int)pids[0], (int)pids[1], (int)pids[2]);
    work(rq);
    return respond_text(rq, 200, "forked\n");
}

static int write_pieces(struct request *rq, long pieces, long bytes)
{
    long ms = number_of(rq, "ms", 0);
    char *piece = malloc((size_t)bytes);
    if (!piece)
        return -1;
    memset(piece, 's', (size_t)bytes);
    for (long n = 0; n < pieces; n++) {
        if (respond_write(rq, piece, (size_t)bytes) < 0) {
            free(piece);
            return -1;
        }
        request_log(rq, "wrote piece %ld", n + 1);
        if (ms)
            pause_for((double)ms / 1000);
    }
    free(piece);
    return 0;
}

static int streamed(struct request *rq)
{
    long pieces = number_of(rq, "chunks", 3), bytes = number_of(rq, "bytes", 10);
    if (request_parameter(rq, "path") && create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    if (respond_begin(rq, 200, "text/plain", -1) < 0)
        return -1;
    return write_pieces(rq, pieces, bytes);
}

static int with_length(struct request *rq)
{
    long pieces = number_of(rq, "chunks", 3), bytes = number_of(rq, "bytes", 10);
    if (request_parameter(rq, "path") && create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    if (respond_begin(rq, 200, "text/plain", pieces * bytes) < 0)
        return -1;
    return write_pieces(rq, pieces, bytes);
}

/* ?length: with a Content-Length; ?pieces=N; ?how=crash: dies instead of returning. All bytes are
 * written, so that only what the server holds back can tell the client that the answer is void. */
static int cut(struct request *rq)
{
    if (request_parameter(rq, "path") && create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    bool known = request_parameter(rq, "length") != NULL;
    long pieces = number_of(rq, "pieces", 3);
    if (respond_begin(rq, 200, "text/plain", known ? 3000 : -1) < 0 ||
        write_pieces(rq, pieces, 3000 / pieces) < 0)
        return -1;
    if (strcmp(text_of(rq, "how", ""), "crash") == 0) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    return -1;
}

static int big(struct request *rq)
{
    size_t bytes = (size_t)number_of(rq, "bytes", 1000000);
    if (request_parameter(rq, "path") && create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    if (request_parameter(rq, "run") && cleanup_run(text_of(rq, "run", "")) < 0)
        return respond_errno(rq, "record the command");
    char *body = malloc(bytes);
    if (!body)
        return respond_errno(rq, "find the memory");
    memset(body, 'b', bytes);
    int result = respond(rq, 200, "text/plain", body, bytes);
    free(body);
    request_log(rq, "big answer is ready pid %d", (int)getpid());
    return result;
}

static int committed(struct request *rq)
{
    if (create(rq, "first", 0) < 0 || cleanup_commit() < 0 || create(rq, "second", 0) < 0)
        return respond_errno(rq, "create the files");
    work(rq);
    return respond_text(rq, 200, "made\n");
}

static int run(struct request *rq)
{
    if (cleanup_run(text_of(rq, "cmd", "")) < 0)
        return respond_errno(rq, "record the command");
    request_log(rq, "recorded pid %d", (int)getpid());
    work(rq);
    return respond_text(rq, 200, "recorded\n");
}

/* What the query says, in its order of numbers: ?run1=COMMAND&make2=PATH&unlink3=PATH... */
static int records(struct request *rq)
{
    for (int n = 1; n <= 9; n++) {
        char name[16];
        snprintf(name, sizeof(name), "run%d", n);
        if (request_parameter(rq, name) && cleanup_run(text_of(rq, name, "")) < 0)
            return respond_errno(rq, "record the command");
        snprintf(name, sizeof(name), "unlink%d", n);
        if (request_parameter(rq, name) && cleanup_unlink(text_of(rq, name, "")) < 0)
            return respond_errno(rq, "record the file");
        snprintf(name, sizeof(name), "make%d", n);
        if (request_parameter(rq, name) && create(rq, name, 0) < 0)
            return respond_errno(rq, "create the file");
    }
    request_log(rq, "recorded pid %d", (int)getpid());
    work(rq);
    return respond_text(rq, 200, "recorded\n");
}

static int who(struct request *rq)
{
    const char *header = request_header(rq, "X-Who");
    return respond_text(
        rq, 200, "method %s\npath %s\ninfo %s\nquery %s\nheader %s\nclient %s\nid %s\n",
        request_method(rq), request_path(rq), request_path_info(rq), request_query(rq),
        header ? header : "(none)", request_client(rq), request_id(rq));
}

/* After this no file can grow: the ledger cannot take another line. */
static int stuck(struct request *rq)
{
    const struct rlimit none = {0};
    if (create(rq, "path", 0) < 0)
        return respond_errno(rq, "create the file");
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &none) < 0)
        return respond_errno(rq, "limit the size of files");
    return respond_text(rq, 200, "made\n");
}

/* Fill a file until it has ?bytes=, which a full disk does not allow. */
static int full(struct request *rq)
{
    static char block[4096];
    int fd = cleanup_create(text_of(rq, "path", ""), 0, 0644);
    if (fd < 0)
        return respond_errno(rq, "create the file");
    for (long left = number_of(rq, "bytes", 0); left > 0; left -= (long)sizeof(block))
        if (write(fd, block, sizeof(block)) != (ssize_t)sizeof(block)) {
            int error = errno;
            close(fd);
            errno = error;
            return respond_errno(rq, "write the file");
        }
    close(fd);
    return respond_text(rq, 200, "made\n");
}

/* What descriptors this process has, one a line. */
static int descriptors(struct request *rq)
{
    DIR *directory = opendir("/proc/self/fd");
    if (!directory)
        return respond_errno(rq, "list the descriptors");
    if (respond_begin(rq, 200, "text/plain", -1) < 0)
        return -1;
    for (const struct dirent *entry; (entry = readdir(directory));) {
        char target[4096], line[4200];
        ssize_t n = readlinkat(dirfd(directory), entry->d_name, target, sizeof(target) - 1);
        if (n < 0)
            continue;
        target[n] = '\0';
        int length = snprintf(line, sizeof(line), "%s %s\n", entry->d_name, target);
        if (length < 0 || respond_write(rq, line, (size_t)length) < 0)
            break;
    }
    closedir(directory);
    return 0;
}

static int logs(struct request *rq)
{
    request_log(rq, "%s", text_of(rq, "text", ""));
    return respond_text(rq, 200, "logged\n");
}

static int adds_header(struct request *rq)
{
    if (respond_header(rq, text_of(rq, "name", ""), text_of(rq, "value", "")) < 0)
        return respond_errno(rq, "add the header field");
    return respond_text(rq, 200, "added\n");
}

/* One of a crowd: its file is in the directory ?in= while it works, and a file beside that says how
 * many were there together. */
static int crowd(struct request *rq)
{
    const char *directory = text_of(rq, "in", "");
    char path[8192];
    unsigned together = 0;
    snprintf(path, sizeof(path), "%s/%s", directory, request_id(rq));
    int fd = cleanup_create(path, 0, 0644);
    DIR *d = opendir(directory);
    if (fd < 0 || !d)
        return respond_errno(rq, "join the crowd");
    for (const struct dirent *entry; (entry = readdir(d));)
        together += entry->d_name[0] != '.';
    closedir(d);
    char mark[8192];
    snprintf(mark, sizeof(mark), "%s.%u", directory, together);
    int marked = open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (close(fd) < 0 || marked < 0 || close(marked) < 0)
        return respond_errno(rq, "say how many there are");
    work(rq);
    if (unlink(path) < 0)
        return respond_errno(rq, "leave the crowd");
    return respond_text(rq, 200, "%u together\n", together);
}

int main(int argc, char **argv)
{
    static const struct route routes[] = {
        {.path = "/make", .handler = make, .name = "make"},
        {.path = "/over", .handler = over},
        {.path = "/byhand", .handler = byhand},
        {.path = "/tree", .handler = tree},
        {.path = "/echo", .handler = echo, .name = "echo", .methods = "POST PUT"},
        {.path = "/ignore-body", .handler = make, .methods = "POST"},
        {.path = "/status", .handler = with_status},
        {.path = "/silent", .handler = silent},
        {.path = "/fail", .handler = fail},
        {.path = "/crash", .handler = crash},
        {.path = "/stop", .handler = stop},
        {.path = "/thread", .handler = threaded},
        {.path = "/fork", .handler = forking},
        {.path = "/stream", .handler = streamed},
        {.path = "/length", .handler = with_length},
        {.path = "/cut", .handler = cut},
        {.path = "/big", .handler = big},
        {.path = "/commit", .handler = committed},
        {.path = "/run", .handler = run, .name = "run"},
        {.path = "/records", .handler = records},
        {.path = "/who", .handler = who, .name = "who"},
        {.path = "/under/", .handler = who},
        {.path = "/full", .handler = full},
        {.path = "/stuck", .handler = stuck},
        {.path = "/descriptors", .handler = descriptors},
        {.path = "/logs", .handler = logs},
        {.path = "/header", .handler = adds_header},
        {.path = "/brief", .handler = make, .timeout_ms = 300},
        {.path = "/finish", .handler = make, .on_hangup = ON_HANGUP_FINISH},
        {.path = "/crowd", .handler = crowd, .name = "crowd"},
        {.path = "/few", .handler = make, .name = "few", .max = 2},
        {.path = "/strict", .handler = make, .half_close = HALF_CLOSE_HANGUP},
        {0},
    };
    return server_main(argc, argv, routes);
}
