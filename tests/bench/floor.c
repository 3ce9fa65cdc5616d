/* floor.c: the least that a process per request can cost.
 *
 *     floor [PROGRAM]
 *
 * Accept, fork, read, write, exit: no parsing, no limits, no log, no watching. With PROGRAM, what
 * the child writes is what PROGRAM, which it starts, has written: an answer with its head (see
 * hello.c). Listens on a free port of 127.0.0.1 and prints its number. What a real server does
 * beside this is its overhead.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\n"
                             "Content-Type: text/plain\r\n"
                             "Content-Length: 6\r\n"
                             "Connection: close\r\n"
                             "\r\n"
                             "hello\n";

static int listen_anywhere(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, SOMAXCONN) < 0 ||
        getsockname(fd, (struct sockaddr *)&at, &size) < 0) {
        perror("floor: could not listen");
        exit(1);
    }
    printf("%u\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

/* Start PROGRAM, whose standard input is the request that was read, and take what it writes. */
static size_t ask(char *program, const char *request, size_t length, char *text, size_t room)
{
    char *const argv[] = {program, "http", NULL};
    posix_spawn_file_actions_t ends;
    int in[2], out[2];
    size_t got = 0;
    pid_t pid;
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 ||
        write(in[1], request, length) != (ssize_t)length ||
        posix_spawn_file_actions_init(&ends) != 0 ||
        posix_spawn_file_actions_adddup2(&ends, in[0], STDIN_FILENO) != 0 ||
        posix_spawn_file_actions_adddup2(&ends, out[1], STDOUT_FILENO) != 0 ||
        posix_spawn(&pid, program, &ends, NULL, argv, environ) != 0)
        return 0;
    close(in[1]);
    close(out[1]);
    for (ssize_t n; (n = read(out[0], text + got, room - got)) > 0;)
        got += (size_t)n;
    waitpid(pid, NULL, 0);
    return got;
}

static _Noreturn void serve(int connection, char *program)
{
    char request[4096], text[4096];
    ssize_t n = read(connection, request, sizeof request);
    const char *what = answer;
    size_t length = sizeof answer - 1;
    if (n > 0 && program != NULL) {
        length = ask(program, request, (size_t)n, text, sizeof text);
        what = text;
    }
    if (n > 0)
        n = write(connection, what, length);
    _exit(n > 0 ? 0 : 1);
}

int main(int argc, char **argv)
{
    char *program = argc > 1 ? argv[1] : NULL;
    int listener = listen_anywhere();
    signal(SIGCHLD, SIG_IGN); /* nobody has to reap */
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0)
            continue;
        pid_t pid = fork();
        if (pid == 0)
            serve(connection, program);
        if (pid < 0)
            perror("floor: could not fork");
        close(connection);
    }
}
