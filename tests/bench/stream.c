/* stream.c: a program (CGI) that answers in pieces, each with the time at which it was written.
 *
 * "t=NANOSECONDS", of CLOCK_MONOTONIC, just before each write; 20 ms between two of them.
 */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define PIECES 5

static int piece(const char *head)
{
    char text[128];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int n = snprintf(text, sizeof text, "%st=%lld\n", head,
                     (long long)now.tv_sec * 1000000000 + now.tv_nsec);
    return write(STDOUT_FILENO, text, (size_t)n) == n ? 0 : -1;
}

int main(void)
{
    const struct timespec pause = {.tv_nsec = 20000000};
    for (int i = 0; i < PIECES; i++) {
        if (piece(i == 0 ? "Content-Type: text/plain\n\n" : "") < 0)
            return 1;
        nanosleep(&pause, NULL);
    }
    return 0;
}
