/* routes.h: routes, durations and sizes as people write them.
 *
 * Kind: pure.
 * Signal safety: none.
 */
#ifndef HANGUPD_ROUTES_H
#define HANGUPD_ROUTES_H

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <hangupd/handler.h>

#include "text.h"

/* Parse "PATH=TARGET[,KEY=VALUE...]" into *ROUTE, whose strings are allocated, with COMPILED
 * (ended by path NULL) for @NAME. 0, or -1 and WHY says what is wrong and what would be right. */
static inline int route_parse(const char *text, const struct route *compiled, struct route *route,
                              char *why, size_t why_size);
/* "1.5", "90s", "15m", "2h" -> milliseconds; "64k", "1M", "2G" -> bytes. -1: not such a thing. */
static inline enum half_close parse_half_close(const char *text); /* HALF_CLOSE_DEFAULT: not one */
static inline enum on_hangup parse_on_hangup(const char *text);   /* ON_HANGUP_DEFAULT: not one */
static inline int64_t parse_duration(const char *text);
static inline int64_t parse_size(const char *text);

/* ---- Routes, durations and sizes as people write them -------------------------------- */

static inline int64_t parse_duration(const char *text)
{
    static const struct {
        const char *unit;
        double ms;
    } units[] = {{"", 1000}, {"s", 1000}, {"ms", 1}, {"m", 60000}, {"h", 3600000}};
    char *end;
    double value = strtod(text, &end);
    /* strtod takes 0x10 and 1e3 too, and nobody would write a time so. */
    if (end == text || end != text + strspn(text, "0123456789."))
        return -1;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(end, units[i].unit) == 0 && value * units[i].ms <= (double)INT_MAX)
            return value > 0 && value * units[i].ms < 1 ? 1 : (int64_t)(value * units[i].ms + 0.5);
    return -1;
}

static inline int64_t parse_size(const char *text)
{
    static const char units[] = "kMG";
    unsigned long long n;
    int shift = 0;
    if (!parse_number(&text, INT64_MAX, &n))
        return -1;
    for (int i = 0; *text != '\0' && shift == 0 && i < 3; i++)
        if ((*text | 0x20) == (units[i] | 0x20))
            shift = 10 * (i + 1);
    if (text[shift > 0] != '\0' || n > (unsigned long long)INT64_MAX >> shift)
        return -1;
    return (int64_t)(n << shift);
}

#define ROUTE_MAX_MAX 1000000

static inline int parse_key(struct route *r, const char *key, const char *value, char *why,
                            size_t size)
{
    if (strcmp(key, "timeout") == 0) {
        r->timeout_ms = parse_duration(value);
        if (r->timeout_ms > 0)
            return 0;
        snprintf(why, size, "timeout=%s is not a time; write timeout=90s, 15m or 2h", value);
    } else if (strcmp(key, "on-hangup") == 0) {
        r->on_hangup = parse_on_hangup(value);
        if (r->on_hangup != ON_HANGUP_DEFAULT)
            return 0;
        snprintf(why, size, "on-hangup=%s is neither undo nor finish", value);
    } else if (strcmp(key, "half-close") == 0) {
        r->half_close = parse_half_close(value);
        if (r->half_close != HALF_CLOSE_DEFAULT)
            return 0;
        snprintf(why, size, "half-close=%s is none of probe, hangup, ignore", value);
    } else if (strcmp(key, "max") == 0) {
        unsigned long long n = 0;
        const char *end = value;
        if (parse_number(&end, ROUTE_MAX_MAX, &n) && *end == '\0' && n > 0) {
            r->max = (int64_t)n;
            return 0;
        }
        snprintf(why, size, "max=%s is not a whole number from 1 to %d", value, ROUTE_MAX_MAX);
    } else {
        snprintf(why, size, "there is no key %s; there are timeout, max, on-hangup, half-close",
                 key);
    }
    return -1;
}

enum half_close parse_half_close(const char *text)
{
    return strcmp(text, "probe") == 0    ? HALF_CLOSE_PROBE
           : strcmp(text, "hangup") == 0 ? HALF_CLOSE_HANGUP
           : strcmp(text, "ignore") == 0 ? HALF_CLOSE_IGNORE
                                         : HALF_CLOSE_DEFAULT;
}

enum on_hangup parse_on_hangup(const char *text)
{
    return strcmp(text, "undo") == 0     ? ON_HANGUP_UNDO
           : strcmp(text, "finish") == 0 ? ON_HANGUP_FINISH
                                         : ON_HANGUP_DEFAULT;
}

/* A program's path, or that of a directory of programs, which need not be there yet. */
static inline int parse_program(struct route *r, const char *target, char *why, size_t size)
{
    struct stat now;
    char cwd[PATH_MAX] = "", *path;
    while (target[0] == '.' && target[1] == '/')
        target += 2;
    if (*target != '/' && getcwd(cwd, sizeof cwd) == NULL) {
        snprintf(why, size, "the current directory cannot be found: %s", strerror(errno));
        return -1;
    }
    if (asprintf(&path, "%s%s%s", cwd, *target != '/' ? "/" : "", target) < 0) {
        snprintf(why, size, "out of memory");
        return -1;
    }
    if (strlen(path) >= PATH_MAX) {
        snprintf(why, size, "the program's path is too long");
        free(path);
        return -1;
    }
    if (stat(path, &now) == 0 && S_ISDIR(now.st_mode) && r->path[strlen(r->path) - 1] != '/') {
        snprintf(why, size, "%s is a directory; for a directory of programs write %s/=%s", target,
                 r->path, target);
        free(path);
        return -1;
    }
    r->program = path;
    return 0;
}

static inline int parse_target(struct route *r, const char *target, const struct route *compiled,
                               char *why, size_t size)
{
    struct text names = {.at = why, .room = size};
    if (*target != '@')
        return parse_program(r, target, why, size);
    for (const struct route *c = compiled; c->path != NULL; c++)
        if (c->name != NULL && strcmp(c->name, target + 1) == 0) {
            const char *path = r->path;
            *r = *c;
            r->path = path;
            return 0;
        }
    text_add(&names, "no handler is called ");
    text_add(&names, target);
    text_add(&names, "; there are:");
    for (const struct route *c = compiled; c->path != NULL; c++)
        if (c->name != NULL) {
            text_add(&names, " @");
            text_add(&names, c->name);
        }
    text_end(&names);
    return -1;
}

static inline int route_parse(const char *text, const struct route *compiled, struct route *route,
                              char *why, size_t why_size)
{
    char *copy = strdup(text), *save = NULL;
    *route = (struct route){0};
    if (copy == NULL) {
        snprintf(why, why_size, "out of memory");
        return -1;
    }
    char *equals = strchr(copy, '=');
    if (*copy != '/' || equals == NULL || equals[1] == '\0' || equals[1] == ',') {
        snprintf(why, why_size, "a route is PATH=TARGET, as in /report=./report.sh or /a=@a");
        goto wrong;
    }
    *equals = '\0';
    route->path = strdup(copy);
    char *target = strtok_r(equals + 1, ",", &save);
    if (route->path == NULL || target == NULL ||
        parse_target(route, target, compiled, why, why_size) < 0)
        goto wrong;
    for (char *key; (key = strtok_r(NULL, ",", &save)) != NULL;) {
        char *value = strchr(key, '=');
        if (value == NULL) {
            snprintf(why, why_size, "%s has no value; write %s=VALUE", key, key);
            goto wrong;
        }
        *value = '\0';
        if (parse_key(route, key, value + 1, why, why_size) < 0)
            goto wrong;
    }
    free(copy);
    return 0;
wrong:
    free(copy);
    free((char *)route->path);
    *route = (struct route){0};
    return -1;
}

#endif
