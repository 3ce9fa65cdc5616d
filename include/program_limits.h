/* program_limits.h: the limits of a route's program, which are those of setrlimit(2).
 *
 *     struct route_limits l = limits_choose(&route->limits, &settings->limits);
 *     if (limits_set(&l) < 0)                         in the program's process, before execve(2)
 *         ...
 *     text_limits(&t, &l);                            "; its limits: cpu=10s, memory=64M", or ""
 *
 * They are limits of each process, and `processes` counts all of the user's. A program cannot lift
 * them; one that the server was started with, and that is less, stays.
 *
 * Kind: pure.
 * Signal safety: none. limits_set makes system calls alone, as its process shares our memory.
 */
#ifndef HANGUPD_PROGRAM_LIMITS_H
#define HANGUPD_PROGRAM_LIMITS_H

#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>

#include <hangupd/handler.h>

#include "text.h"

static const struct limit_row {
    const char *name;
    size_t at; /* in struct route_limits */
    unsigned resource;
} limit_rows[] = {{"cpu", offsetof(struct route_limits, cpu_ms), RLIMIT_CPU},
                  {"memory", offsetof(struct route_limits, memory), RLIMIT_AS},
                  {"processes", offsetof(struct route_limits, processes), RLIMIT_NPROC},
                  {"file-size", offsetof(struct route_limits, file_size), RLIMIT_FSIZE}};
#define LIMIT_ROWS (sizeof limit_rows / sizeof limit_rows[0])

static inline int64_t *limit_in(struct route_limits *l, size_t row)
{
    return (int64_t *)((char *)l + limit_rows[row].at);
}

/* Returns the route's own limits, and those of ALL routes where it has none. */
static inline struct route_limits limits_choose(const struct route_limits *own,
                                                const struct route_limits *all)
{
    struct route_limits chosen = *own, others = *all;
    for (size_t i = 0; i < LIMIT_ROWS; i++)
        if (*limit_in(&chosen, i) == 0)
            *limit_in(&chosen, i) = *limit_in(&others, i);
    return chosen;
}

/* Put this process under the limits. Returns 0, or -1 with errno. */
static inline int limits_set(struct route_limits *l)
{
    for (size_t i = 0; i < LIMIT_ROWS; i++) {
        bool is_time = limit_rows[i].resource == RLIMIT_CPU;
        int64_t value = *limit_in(l, i);
        struct rlimit r;
        if (value == 0)
            continue;
        if (getrlimit(limit_rows[i].resource, &r) < 0)
            return -1;
        rlim_t soft = is_time ? (rlim_t)(value + 999) / 1000 : (rlim_t)value;
        rlim_t hard = soft + is_time; /* the second before SIGKILL, in which SIGXCPU comes */
        if (r.rlim_max == RLIM_INFINITY || hard < r.rlim_max)
            r.rlim_max = hard;
        r.rlim_cur = soft < r.rlim_max ? soft : r.rlim_max;
        if (setrlimit(limit_rows[i].resource, &r) < 0)
            return -1;
    }
    return 0;
}

/* Add the limits as they are written in a route, "; its limits: cpu=1500ms, memory=64M". */
static inline void text_limits(struct text *t, struct route_limits *l)
{
    const char *before = "; its limits: ";
    for (size_t i = 0; i < LIMIT_ROWS; i++) {
        static const char units[][2] = {"", "k", "M", "G"};
        int64_t value = *limit_in(l, i), step = i == 0 ? 1000 : 1024;
        size_t unit = 0;
        if (value == 0)
            continue;
        while (limit_rows[i].resource != RLIMIT_NPROC && value % step == 0 &&
               unit < (i == 0 ? 1 : 3)) {
            value /= step;
            unit++;
        }
        text_format(t, "%s%s=%lld%s", before, limit_rows[i].name, (long long)value,
                    i > 0       ? units[unit]
                    : unit == 1 ? "s"
                                : "ms");
        before = ", ";
    }
    text_end(t);
}

/* Returns what a process that SIGNAL has ended has met: the limit's name, or the signal's. */
static inline const char *limit_or_signal(int signal)
{
    return signal == SIGXCPU ? "cpu" : signal == SIGXFSZ ? "file-size" : strsignal(signal);
}

#endif
