/* hello.c: the smallest program that answers.
 *
 *     hello         as CGI/1.1 has it: a head and a body on stdout
 *     hello http    speaks HTTP itself on descriptors 0 and 1, for tcpserver
 *
 * Linked statically, so that starting it costs as little as a program can.
 */
#include <unistd.h>

static const char cgi[] = "Content-Type: text/plain\n"
                          "Content-Length: 6\n"
                          "\n"
                          "hello\n";
static const char http[] = "HTTP/1.1 200 OK\r\n"
                           "Content-Type: text/plain\r\n"
                           "Content-Length: 6\r\n"
                           "Connection: close\r\n"
                           "\r\n"
                           "hello\n";

int main(int argc, char **argv)
{
    char request[4096];
    (void)argv;
    if (argc < 2)
        return write(STDOUT_FILENO, cgi, sizeof cgi - 1) < 0;
    if (read(STDIN_FILENO, request, sizeof request) <= 0)
        return 1;
    return write(STDOUT_FILENO, http, sizeof http - 1) < 0;
}
