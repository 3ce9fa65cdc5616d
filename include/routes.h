/* routes.h: routes, durations and sizes, as people write them and read them; and the names of the
 * variables that a program is told things by.
 *
 *     struct route r;
 *     char why[512];
 *     if (route_parse("/report=./report.sh,timeout=10m", compiled, &r, why, sizeof why) < 0)
 *         complain(why);
 *
 * A route is PATH=TARGET[,KEY=VALUE...], in which "\," is a comma that is meant; what the keys are,
 * and what --help says of each, is in one table, route_keys. A new key is a row there and a member
 * of struct route (hangupd/handler.h). Nothing is printed here: what is wrong is put into
 * words for the caller to print. Files of routes, and the option --routes, are in options.h.
 *
 * Kind: pure.
 * Signal safety: none.
 */
#ifndef HANGUPD_ROUTES_H
#define HANGUPD_ROUTES_H

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <hangupd/handler.h>

#include "http.h"
#include "text.h"

/* ---- Durations, sizes, counts -------------------------------------------------------- */

/* "1.5", "90s", "250ms", "15m", "2h": milliseconds. Returns -1 if TEXT is none of these. */
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

/* The most of requests, connections and the like; and how to have it in a string literal. */
#define COUNT_MOST 1000000
#define DIGITS_(number) #number
#define DIGITS(number) DIGITS_(number)

/* "256": a whole number up to COUNT_MOST. Returns -1 if TEXT is none. */
static inline int64_t parse_count(const char *text)
{
    unsigned long long n;
    return parse_number(&text, COUNT_MOST, &n) && *text == '\0' ? (int64_t)n : -1;
}

/* "65536", "64k", "1M", "2G": bytes. Returns -1 if TEXT is none of these. */
static inline int64_t parse_size(const char *text)
{
    static const char units[] = "kKmMgG"; /* each 1024 times the one before */
    unsigned long long n;
    int shift = 0;
    if (!parse_number(&text, INT64_MAX, &n))
        return -1;
    const char *unit = *text != '\0' ? strchr(units, *text) : NULL;
    if (unit != NULL)
        shift = 10 * (int)((unit - units) / 2 + 1);
    if (text[shift > 0] != '\0' || n > (unsigned long long)INT64_MAX >> shift)
        return -1;
    return (int64_t)(n << shift);
}

/* "0660": the bits of a file's mode, in octal. Returns -1 if TEXT is none. */
static inline int64_t parse_mode(const char *text)
{
    size_t length = strlen(text);
    bool octal = length > 0 && length <= 4 && strspn(text, "01234567") == length;
    long mode = octal ? strtol(text, NULL, 8) : -1;
    return mode <= 0777 ? mode : -1;
}

/* ---- Choices: one of several words, as in --help ------------------------------------- */

#define HALF_CLOSE_WORDS "probe|hangup|ignore" /* in the order of enum half_close */
#define ON_HANGUP_WORDS "undo|finish"          /* in the order of enum on_hangup */
#define OPTIONS_WORDS "program|server"         /* in the order of enum options_by */
#define TMPDIR_WORDS "own|leave"               /* in the order of enum tmpdir */

/* The place of WORD in WORDS, counted from 1. Returns 0 if it is not there. */
static inline int choice_find(const char *words, const char *word)
{
    for (int place = 1;; place++) {
        size_t length = strcspn(words, "|");
        if (strlen(word) == length && strncmp(words, word, length) == 0)
            return place;
        if (words[length] == '\0')
            return 0;
        words += length + 1;
    }
}

/* "neither undo nor finish", "none of probe, hangup, ignore" */
static inline void text_not_a_choice(struct text *t, const char *words)
{
    const char *second = strchr(words, '|') + 1;
    bool more = strchr(second, '|') != NULL;
    text_add(t, more ? "none of " : "neither ");
    for (; *words != '\0'; words++)
        if (*words == '|')
            text_add(t, more ? ", " : " nor ");
        else
            text_char(t, *words);
}

/* ---- Variables ----------------------------------------------------------------------- */

/* The variables that say something of the request, or are hangupd's own. What the server's own
 * environment says there is not passed on: a program could not tell it from what the request says.
 */
static const char *const own_names[] = {
    "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE", "PATH_INFO", "QUERY_STRING",
    "REDIRECT_STATUS", "REMOTE_ADDR", "REMOTE_PORT", "REQUEST_ID", "REQUEST_METHOD", "REQUEST_URI",
    "SCRIPT_NAME", "SCRIPT_FILENAME", "SERVER_ADDR", "SERVER_NAME", "SERVER_PORT", "PWD",
    "SERVER_PROTOCOL", "SERVER_SOFTWARE", "TMPDIR", "UNDO_FD", "HANGUPD", "HANGUPD_STATE", "OLDPWD",
    /* These are never set here; a route's `env` may. */
    "AUTH_TYPE", "REMOTE_HOST", "PATH_TRANSLATED", "REMOTE_IDENT", "REMOTE_USER"};
#define OWN_NAMES (sizeof own_names / sizeof own_names[0])
#define OWN_NAMES_SET (OWN_NAMES - 5)

/* Returns true if the N bytes at NAME are among the first COUNT of these, or the name of a header
 * field's variable: an inherited HTTP_PROXY is the known trap (httpoxy), and any other is one, too.
 */
static inline bool variable_is_own(const char *name, size_t n, size_t count)
{
    bool own = n >= 5 && memcmp(name, "HTTP_", 5) == 0;
    for (size_t i = 0; i < count && !own; i++)
        own = strlen(own_names[i]) == n && memcmp(own_names[i], name, n) == 0;
    return own;
}

/* ---- The keys of a route ------------------------------------------------------------- */

/* Say in WHY, as printf() would, what is wrong. Returns -1. */
__attribute__((format(printf, 3, 4))) static inline int refuse(char *why, size_t size,
                                                               const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, size, format, args);
    va_end(args);
    return -1;
}

/* Add the variable "NAME=VALUE" to what the route's program gets. */
static inline int take_variable(struct route *r, const char *value, char *why, size_t size)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    size_t n = strspn(value, letters), count = 0;
    if (n == 0 || value[n] != '=' || strchr("0123456789", *value) != NULL)
        return refuse(why, size, "env=%s is not a variable; write env=NAME=VALUE", value);
    if (variable_is_own(value, n, OWN_NAMES_SET))
        return refuse(why, size,
                      "env=%s: a program is told of its request by that variable; choose "
                      "another name",
                      value);
    for (; r->env != NULL && r->env[count] != NULL; count++)
        if (strncmp(r->env[count], value, n + 1) == 0)
            return refuse(why, size, "env=%s: the variable is there twice", value);
    const char **more = reallocarray(r->env, count + 2, sizeof *more);
    char *copy = strdup(value);
    if (more != NULL)
        r->env = more;
    if (more == NULL || copy == NULL) {
        free(copy);
        return refuse(why, size, "out of memory");
    }
    more[count] = copy;
    more[count + 1] = NULL;
    return 0;
}

static const struct route_key {
    const char *name, *argument, *help; /* as the columns of options (options.h) */
    size_t at;                          /* in struct route */
    int64_t (*parse)(const char *text); /* of an int64_t; NULL: an enum, one of ARGUMENT's words */
    const char *wanted;                 /* after "is not", if it is no enum */
    bool programs;                      /* it is about programs alone */
    int (*take)(struct route *r, const char *value, char *why, size_t size); /* unless NULL */
} route_keys[] = {
    {"timeout", "TIME", "for the whole request, instead of --timeout",
     .at = offsetof(struct route, timeout_ms), .parse = parse_duration,
     .wanted = "a time; write timeout=90s, 15m or 2h"},
    {"max", "N",
     "requests of this route at once; further ones wait for\n"
     "their turn, up to --queue-timeout",
     .at = offsetof(struct route, max), .parse = parse_count,
     .wanted = "a whole number from 1 to " DIGITS(COUNT_MOST)},
    {"on-hangup", ON_HANGUP_WORDS, "instead of --on-hangup",
     .at = offsetof(struct route, on_hangup)},
    {"half-close", HALF_CLOSE_WORDS, "instead of --half-close",
     .at = offsetof(struct route, half_close)},
    {"options", OPTIONS_WORDS, "instead of --options", .at = offsetof(struct route, options),
     .programs = true},
    {"tmpdir", TMPDIR_WORDS, "instead of --tmpdir", .at = offsetof(struct route, use_tmpdir),
     .programs = true},
    {"cpu", "TIME", "instead of --cpu", .at = offsetof(struct route, limits.cpu_ms),
     .parse = parse_duration, .wanted = "a time; write cpu=90s or 15m", .programs = true},
    {"memory", "SIZE", "instead of --memory", .at = offsetof(struct route, limits.memory),
     .parse = parse_size, .wanted = "a size; write memory=64M or 2G", .programs = true},
    {"processes", "N", "instead of --processes", .at = offsetof(struct route, limits.processes),
     .parse = parse_count, .wanted = "a whole number from 1 to " DIGITS(COUNT_MOST),
     .programs = true},
    {"file-size", "SIZE", "instead of --file-size", .at = offsetof(struct route, limits.file_size),
     .parse = parse_size, .wanted = "a size; write file-size=64M or 2G", .programs = true},
    {"env", "NAME=VALUE", "a variable for the program and its undo commands; may be\nrepeated",
     .programs = true, .take = take_variable},
};
#define ROUTE_KEY_COUNT (sizeof route_keys / sizeof route_keys[0])

/* Set what the TEXT "KEY=VALUE", which is taken apart, says in *R. Returns 0, or -1 with WHY. No
 * value may be 0, which says that it is not given. */
static inline int parse_key(struct route *r, char *text, char *why, size_t size)
{
    char *key = text, *value = strchr(text, '=');
    if (value == NULL)
        return refuse(why, size, "%s has no value; write %s=VALUE", key, key);
    *value++ = '\0';
    char words[256];
    struct text t = TEXT(words);
    const struct route_key *k = route_keys, *end = k + ROUTE_KEY_COUNT;
    while (k < end && strcmp(k->name, key) != 0)
        k++;
    if (k == end) {
        for (k = route_keys; k < end; k++)
            text_format(&t, k == route_keys ? "%s" : ", %s", k->name);
        return refuse(why, size, "there is no key %s; there are %s", key, text_end(&t));
    }
    if (k->programs && r->name != NULL)
        return refuse(why, size, "%s is about programs, and @%s is a handler compiled in", key,
                      r->name);
    if (k->take != NULL)
        return k->take(r, value, why, size);
    void *at = (char *)r + k->at;
    int64_t n = k->parse != NULL ? k->parse(value) : choice_find(k->argument, value);
    if (k->parse != NULL)
        *(int64_t *)at = n;
    else
        *(int *)at = (int)n;
    if (n > 0)
        return 0;
    if (k->parse != NULL)
        return refuse(why, size, "%s=%s is not %s", key, value, k->wanted);
    text_not_a_choice(&t, k->argument);
    return refuse(why, size, "%s=%s is %s", key, value, text_end(&t));
}

/* ---- A route ------------------------------------------------------------------------- */

/* A program's path, or that of a directory of programs, which need not be there yet. */
static inline int parse_program(struct route *r, const char *target, char *why, size_t size)
{
    struct stat now;
    char cwd[PATH_MAX] = "", path[PATH_MAX];
    while (target[0] == '.' && target[1] == '/')
        target += 2;
    if (*target != '/' && getcwd(cwd, sizeof cwd) == NULL)
        return refuse(why, size, "the current directory cannot be found: %s", strerror(errno));
    int n = snprintf(path, sizeof path, "%s%s%s", cwd, *target != '/' ? "/" : "", target);
    if (n >= PATH_MAX)
        return refuse(why, size, "the program's path is too long");
    bool there = stat(path, &now) == 0;
    if (there && S_ISDIR(now.st_mode) && r->path[strlen(r->path) - 1] != '/')
        return refuse(why, size, "%s is a directory; for a directory of programs write %s/=%s",
                      target, r->path, target);
    const char *space = there ? NULL : strchr(target, ' ');
    if (space != NULL) {
        char *end = path + n - strlen(space);
        *end = '\0';
        if (stat(path, &now) == 0)
            return refuse(why, size,
                          "there is no program \"%s\", and %s gets no arguments: write a script "
                          "that calls it with them",
                          target, path);
        *end = ' ';
    }
    r->program = strdup(path);
    return r->program != NULL ? 0 : refuse(why, size, "out of memory");
}

static inline int parse_target(struct route *r, const char *target, const struct route *compiled,
                               char *why, size_t size)
{
    char words[512];
    struct text names = TEXT(words);
    if (*target != '@')
        return parse_program(r, target, why, size);
    for (const struct route *c = compiled; c->path != NULL; c++) {
        if (c->name == NULL)
            continue;
        if (strcmp(c->name, target + 1) == 0) {
            const char *path = r->path;
            *r = *c;
            r->path = path;
            return 0;
        }
        text_format(&names, " @%s", c->name);
    }
    return refuse(why, size, "no handler is called %s; there are:%s", target, text_end(&names));
}

/* Returns the text from *AT up to the next comma, without the backslash of those that are meant,
 * and moves *AT behind it; NULL: there is no more. Nothing between two commas is nothing. */
static inline char *next_part(char **at)
{
    char *from = *at + strspn(*at, ","), *to = from, *in = from;
    if (*from == '\0')
        return NULL;
    for (; *in != '\0' && *in != ','; *to++ = *in++)
        in += in[0] == '\\' && in[1] == ',';
    *at = in + (*in == ',');
    *to = '\0';
    return from;
}

/* Free what route_parse has allocated: of a compiled one (@NAME) that is the path. */
static inline void route_free(struct route *r)
{
    const char **env = r->name == NULL ? r->env : NULL;
    for (size_t i = 0; env != NULL && env[i] != NULL; i++)
        free((char *)env[i]);
    free(env);
    free((char *)(r->name == NULL ? r->program : NULL));
    free((char *)r->path);
    *r = (struct route){0};
}

/* Returns true if METHODS is words of which each can be a method, with a space between two. */
static inline bool are_methods(const char *methods)
{
    for (;; methods++) {
        size_t n = strcspn(methods, " ");
        if (!http_is_token(methods, n))
            return false;
        methods += n;
        if (*methods == '\0')
            return true;
    }
}

/* Returns what is wrong with the target of the route R, in words, or NULL. */
static inline const char *target_wrong(const struct route *r)
{
    if (r->handler == NULL && r->program == NULL)
        return "it has neither a handler nor a program";
    if (r->handler != NULL && r->program != NULL)
        return "it has both a handler and a program";
    return r->program != NULL && r->program[0] != '/' ? "its program is not an absolute path"
                                                      : NULL;
}

/* The same of its values as route_wrong. */
static inline const char *values_wrong(const struct route *r)
{
    const struct route_limits *l = &r->limits;
    if (r->timeout_ms < 0 || r->max < 0 || l->cpu_ms < 0 || l->memory < 0 || l->file_size < 0 ||
        l->processes < 0)
        return "a limit of it is negative";
    if (r->on_hangup > ON_HANGUP_FINISH || r->half_close > HALF_CLOSE_IGNORE ||
        r->options > OPTIONS_SERVER || r->use_tmpdir > TMPDIR_LEAVE)
        return "on_hangup, half_close, options or use_tmpdir is none of the values that there are";
    for (const char **v = r->env; v != NULL && *v != NULL; v++)
        if (strchr(*v, '=') == NULL || variable_is_own(*v, strcspn(*v, "="), OWN_NAMES_SET))
            return "a variable in env is not NAME=VALUE, or says something of the request";
    return NULL;
}

/* Check the route R of a table that is compiled in. Returns NULL, or what is wrong, in words. */
static inline const char *route_wrong(const struct route *r)
{
    if (r->path[0] != '/')
        return "its path does not begin with a slash";
    for (const char *c = r->path; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return "its path has a control character";
    if (r->methods != NULL && !are_methods(r->methods))
        return "its methods are not words with one space between two";
    const char *wrong = values_wrong(r);
    return wrong != NULL ? wrong : target_wrong(r);
}

/* Parse "PATH=TARGET[,KEY=VALUE...]" into *ROUTE, whose strings are then allocated, with COMPILED
 * (ended by path NULL) for @NAME. Returns 0, or -1 with WHY: what is wrong, and what would be
 * right. */
static inline int route_parse(const char *text, const struct route *compiled, struct route *route,
                              char *why, size_t size)
{
    char *copy = strdup(text);
    int result = -1;
    *route = (struct route){0};
    if (copy == NULL)
        return refuse(why, size, "out of memory");
    char *equals = strchr(copy, '='), *rest = equals != NULL ? equals + 1 : NULL;
    if (*copy != '/' || equals == NULL || equals[1] == '\0' || equals[1] == ',') {
        refuse(why, size, "a route is PATH=TARGET, as in /report=./report.sh or /a=@a");
    } else if (isblank((unsigned char)equals[-1]) || isblank((unsigned char)equals[1])) {
        refuse(why, size, "a space beside the =; write %.*s=%s", (int)strcspn(copy, " \t="), copy,
               equals + 1 + strspn(equals + 1, " \t"));
    } else {
        *equals = '\0';
        route->path = strdup(copy);
        char *target = next_part(&rest);
        if (route->path != NULL && target != NULL)
            result = parse_target(route, target, compiled, why, size);
    }
    for (char *key; result == 0 && (key = next_part(&rest)) != NULL;)
        result = parse_key(route, key, why, size);
    free(copy);
    if (result < 0)
        route_free(route);
    return result;
}

#endif
