/* example_sweep.c: the request that fault_syscalls disturbs: it makes one of everything.
 *
 *     /c?answer=whole|stream|length[&daemon][&world=before]
 *
 * In the server's current directory: world/new is created, world/over is overwritten, world/dir
 * is made with a file in it, and remote/ID, which stands for a thing in a cloud, is made after
 * the command that removes it has been recorded. A note goes to the scratch directory. With
 * world=before it is before/... and before/remote/it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <hangupd/server.h>

static int fill(int fd)
{
    static const char made[] = "made\n";
    if (fd < 0)
        return -1;
    ssize_t n;
    do
        n = write(fd, made, sizeof made - 1);
    while (n < 0 && errno == EINTR);
    int error = n < 0 ? errno : ENOSPC;
    close(fd);
    errno = error;
    return n == (ssize_t)(sizeof made - 1) ? 0 : -1;
}

static int fill_new(const char *path)
{
    return fill(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
}

static int make_note(void)
{
    char path[PATH_MAX];
    const char *scratch = cleanup_tempdir();
    if (scratch == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/note", scratch);
    return fill_new(path);
}

/* Record first how it is deleted, by a name that is known before it is made. */
static int make_remote(const char *path)
{
    char here[PATH_MAX], command[2 * PATH_MAX + 64];
    if (getcwd(here, sizeof here) == NULL)
        return -1;
    snprintf(command, sizeof command, "rm -f '%s/%s'", here, path);
    return cleanup_run(command) < 0 ? -1 : fill_new(path);
}

/* Returns NAME in the directory WORLD. */
static const char *in(const char *world, const char *name)
{
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", world, name);
    return path;
}

/* A process out of the handler's session and family, deaf to SIGTERM. */
static int make_daemon(void)
{
    pid_t pid = fork();
    if (pid < 0)
        return -1;
    if (pid == 0) {
        signal(SIGTERM, SIG_IGN);
        if (setsid() < 0)
            _exit(1);
        pid = fork();
        if (pid != 0)
            _exit(pid < 0);
        for (;;)
            pause();
    }
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    errno = EAGAIN;
    return status == 0 ? 0 : -1;
}

static int answer(struct request *rq, const char *how)
{
    static const char first[] = "all of it ", second[] = "is there\n";
    if (strcmp(how, "whole") == 0)
        return respond_text(rq, 200, "%s%s", first, second);
    int64_t length = strcmp(how, "length") == 0 ? (int64_t)(sizeof first + sizeof second - 2) : -1;
    if (respond_begin(rq, 200, "text/plain", length) < 0 ||
        respond_write(rq, first, sizeof first - 1) < 0)
        return -1;
    return respond_write(rq, second, sizeof second - 1);
}

static int sweep(struct request *rq)
{
    const char *how = request_parameter(rq, "answer"), *world = request_parameter(rq, "world");
    const char *remote = world != NULL ? in(world, "remote/it") : in("remote", request_id(rq));
    world = world != NULL ? world : "world";
    if (make_note() < 0)
        return respond_errno(rq, "use the scratch directory");
    if (fill(cleanup_create(in(world, "new"), 0, 0644)) < 0)
        return respond_errno(rq, "create a file");
    if (fill(cleanup_create(in(world, "over"), CLEANUP_OVERWRITE, 0644)) < 0)
        return respond_errno(rq, "overwrite a file");
    if (cleanup_mkdir(in(world, "dir"), 0755) < 0 || fill_new(in(world, "dir/inside")) < 0)
        return respond_errno(rq, "make a directory");
    if (make_remote(remote) < 0)
        return respond_errno(rq, "make the remote thing");
    if (request_parameter(rq, "daemon") != NULL && make_daemon() < 0)
        return respond_errno(rq, "start a daemon");
    return answer(rq, how != NULL ? how : "whole");
}

int main(int argc, char **argv)
{
    static const struct route routes[] = {{.path = "/c", .handler = sweep, .name = "sweep"}, {0}};
    return server_main(argc, argv, routes);
}
