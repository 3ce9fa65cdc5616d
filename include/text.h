/* text.h: text built in place, numbers, escapes, clocks and dates, without stdio.
 *
 *     char buffer[64];
 *     struct text t = TEXT(buffer);
 *     text_add(&t, "pid=");
 *     text_signed(&t, getpid());
 *     puts(text_end(&t));
 *
 * What does not fit is cut, and never overflows. For lines of the log and of ledgers, names, heads
 * of answers: for whatever a signal handler may have to write. Not for text of unbounded length.
 *
 * Kind: pure.
 * Signal safety: what is marked ASYNC_SAFE, which is all but random_hex.
 */
#ifndef HANGUPD_TEXT_H
#define HANGUPD_TEXT_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* A function so marked may run in a signal handler. It goes to a section of its own, and
 * `make lint` proves that nothing in that section calls anything but async-signal-safe
 * functions (signal-safety(7)) and other functions of that section. */
#define ASYNC_SAFE __attribute__((section(".text.async_safe")))

/* ---- Text and numbers ---------------------------------------------------------------- */

/* Text built in place; what does not fit is cut. */
struct text {
    char *at;
    size_t length, room; /* length < room; at[length] is not kept NUL: see text_end */
};
#define TEXT(array) ((struct text){.at = (array), .length = 0, .room = sizeof(array)})

ASYNC_SAFE static inline void text_bytes(struct text *t, const void *bytes, size_t n)
{
    size_t left = t->room - 1 - t->length;
    if (n > left)
        n = left;
    memcpy(t->at + t->length, bytes, n);
    t->length += n;
}

ASYNC_SAFE static inline void text_add(struct text *t, const char *s)
{
    text_bytes(t, s, strlen(s));
}

ASYNC_SAFE static inline void text_char(struct text *t, char c)
{
    text_bytes(t, &c, 1);
}

ASYNC_SAFE static inline void text_number(struct text *t, unsigned long long n, unsigned width)
{
    char digits[24];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n != 0);
    while (sizeof digits - at < width && at > 0)
        digits[--at] = '0';
    text_bytes(t, digits + at, sizeof digits - at);
}

ASYNC_SAFE static inline void text_signed(struct text *t, long long n)
{
    if (n < 0)
        text_char(t, '-');
    text_number(t, n < 0 ? 0ULL - (unsigned long long)n : (unsigned long long)n, 1);
}

ASYNC_SAFE static inline const char *text_end(struct text *t)
{
    t->at[t->length] = '\0';
    return t->at;
}

/* The decimal number at *S, which is advanced past it. False: no digit, or over MAX. */
ASYNC_SAFE static inline bool parse_number(const char **s, unsigned long long max,
                                           unsigned long long *n)
{
    const char *p = *s;
    unsigned long long value = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        unsigned digit = (unsigned)(*p - '0');
        if (value > (max - digit) / 10 || digit > max)
            return false;
        value = value * 10 + digit;
    }
    if (p == *s)
        return false;
    *s = p;
    *n = value;
    return true;
}

/* ---- Escapes --------------------------------------------------------------------------- */

/* Where text is going to stand: in a line, between quotes, in a label of a metric, on a page. */
enum escape { ESCAPE_LINE, ESCAPE_STRING, ESCAPE_JSON, ESCAPE_METRIC, ESCAPE_HTML };

/* C as it may stand there: nothing that a client sends can end it, or steer a terminal. */
ASYNC_SAFE static inline void text_escaped_char(struct text *t, char c, enum escape how)
{
    unsigned char byte = (unsigned char)c;
    bool quoted = how == ESCAPE_STRING || how == ESCAPE_JSON || how == ESCAPE_METRIC;
    if (byte < ' ' || byte >= 0x7f) {
        text_add(t, how == ESCAPE_JSON ? "\\u00" : how == ESCAPE_METRIC ? "\\\\x" : "\\x");
        text_char(t, "0123456789abcdef"[byte >> 4]);
        text_char(t, "0123456789abcdef"[byte & 15]);
    } else if (how == ESCAPE_HTML && strchr("&<>\"'", c) != NULL) {
        text_add(t, "&#");
        text_number(t, byte, 1);
        text_char(t, ';');
    } else {
        if (quoted && (c == '"' || c == '\\'))
            text_char(t, '\\');
        text_char(t, c);
    }
}

ASYNC_SAFE static inline void text_escaped(struct text *t, const char *s, enum escape how)
{
    for (; *s != '\0'; s++)
        text_escaped_char(t, *s, how);
}

/* ---- Clocks and dates ------------------------------------------------------------------ */

/* Milliseconds on CLOCK_MONOTONIC. */
ASYNC_SAFE static inline int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* USER_HZ, in which the kernel tells people its times, whatever it counts in itself: time(7). */
#define TICKS_PER_SECOND 100

/* Now, in the clock ticks since boot that /proc/PID/stat counts a process's start in, see proc(5).
 */
ASYNC_SAFE static inline uint64_t clock_ticks(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * TICKS_PER_SECOND +
           (uint64_t)now.tv_nsec / (1000000000 / TICKS_PER_SECOND);
}

/* A wait that a signal may cut short. */
ASYNC_SAFE static inline void sleep_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* A time in UTC, from seconds since 1970. */
struct utc {
    unsigned year, month, day, weekday, hour, minute, second; /* weekday 0: Sunday */
};

/* gmtime_r and strftime are not async-signal-safe. Days to dates after the usual reckoning in
 * years that begin in March, eras of 400 years. */
ASYNC_SAFE static inline struct utc handler_utc(int64_t seconds)
{
    static const unsigned char lengths[] = {31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 29};
    int64_t day = seconds / 86400, rest = seconds % 86400;
    unsigned era_day = (unsigned)((day + 719468) % 146097);
    unsigned year = (era_day - era_day / 1460 + era_day / 36524 - era_day / 146096) / 365;
    unsigned year_day = era_day - (365 * year + year / 4 - year / 100);
    unsigned month = 0;
    while (year_day >= lengths[month])
        year_day -= lengths[month++];
    return (struct utc){
        .year = (unsigned)((day + 719468) / 146097 * 400) + year + (month >= 10),
        .month = month < 10 ? month + 3 : month - 9,
        .day = year_day + 1,
        .weekday = (unsigned)((day + 4) % 7),
        .hour = (unsigned)(rest / 3600),
        .minute = (unsigned)(rest % 3600 / 60),
        .second = (unsigned)(rest % 60),
    };
}
/* "2026-11-23T11:27:50" */
ASYNC_SAFE static inline void text_time(struct text *t, int64_t seconds)
{
    struct utc u = handler_utc(seconds);
    text_number(t, u.year, 4);
    text_char(t, '-');
    text_number(t, u.month, 2);
    text_char(t, '-');
    text_number(t, u.day, 2);
    text_char(t, 'T');
    text_number(t, u.hour, 2);
    text_char(t, ':');
    text_number(t, u.minute, 2);
    text_char(t, ':');
    text_number(t, u.second, 2);
}

/* ---- Descriptors and names --------------------------------------------------------------- */

/* Write all of BYTES to FD, a file or pipe: 0, or -1 with errno. */
ASYNC_SAFE static inline int write_all(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno != EINTR)
            return -1;
        if (done > 0) {
            p += done;
            n -= (size_t)done;
        }
    }
    return 0;
}

ASYNC_SAFE static inline void close_keep_errno(int fd)
{
    int saved = errno;
    close(fd);
    errno = saved;
}

#define HEX_SIZE 17
/* An unguessable name part: HEX_SIZE - 1 hex digits. -1 with errno when there is no randomness. */
static inline int random_hex(char hex[HEX_SIZE])
{
    unsigned char bytes[(HEX_SIZE - 1) / 2];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return -1;
    for (size_t i = 0; i < sizeof bytes; i++) {
        hex[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    hex[HEX_SIZE - 1] = '\0';
    return 0;
}

#endif
