/* floor.c: the least that a process per request can cost.
 *
 *     floor
 *
 * Accept, fork, read, write, exit: no parsing, no limits, no log, no watching. Listens on a free
 * port of 127.0.0.1 and prints its number. What a real server does beside this is its overhead.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
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

static _Noreturn void serve(int connection)
{
    char request[4096];
    ssize_t n = read(connection, request, sizeof request);
    if (n > 0)
        n = write(connection, answer, sizeof answer - 1);
    _exit(n > 0 ? 0 : 1);
}

int main(void)
{
    int listener = listen_anywhere();
    signal(SIGCHLD, SIG_IGN); /* nobody has to reap */
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0)
            continue;
        pid_t pid = fork();
        if (pid == 0)
            serve(connection);
        if (pid < 0)
            perror("floor: could not fork");
        close(connection);
    }
}
