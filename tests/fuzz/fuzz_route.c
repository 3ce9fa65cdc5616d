/* fuzz_route.c: routes, durations and sizes as people write them: any text, a line each.
 *
 * What is accepted must be a route that can be served; what is refused must be told why, in the
 * room given; and numbers must be those that were written.
 */
#include <errno.h>
#include <limits.h>

#include "fuzz.h"
#include "routes.h"

static int handler_a(struct request *rq)
{
    (void)rq;
    return 0;
}

static const struct route compiled[] = {
    {.path = "/a", .handler = handler_a, .name = "a"},
    {.path = "/unnamed", .handler = handler_a},
    {.path = "/long/", .handler = handler_a, .name = "a-long-name", .methods = "GET POST"},
    {0},
};

/* Each variable has a name, once, that says nothing of the request; and its value was written, but
 * for the backslashes before its commas. */
static void check_env(const struct route *r, const char *text)
{
    for (size_t i = 0; r->env != NULL && r->env[i] != NULL; i++) {
        size_t n = strcspn(r->env[i], "=");
        must_of(n > 0 && r->env[i][n] == '=' && strlen(r->env[i]) < strlen(text), text,
                strlen(text));
        must_of(!variable_is_own(r->env[i], n, OWN_NAMES_SET), text, strlen(text));
        for (size_t k = 0; k < i; k++)
            must_of(strncmp(r->env[i], r->env[k], n + 1) != 0, text, strlen(text));
        must_of(r->handler == NULL && r->program != NULL, text, strlen(text));
    }
}

static void check_route(const char *text, size_t why_size)
{
    struct route r;
    char *why = malloc(why_size);
    must(why != NULL);
    memset(why, '?', why_size);
    int result = route_parse(text, compiled, &r, why, why_size);
    if (result == 0) {
        size_t path = strcspn(text, "=");
        must_of(r.path != NULL && strlen(r.path) == path, text, strlen(text));
        must_of(r.path[0] == '/' && strncmp(r.path, text, path) == 0, text, strlen(text));
        must_of((r.handler == handler_a) != (r.program != NULL), text, strlen(text));
        must_of(r.program == NULL || (*r.program == '/' && strlen(r.program) < PATH_MAX), text,
                strlen(text));
        must_of(r.timeout_ms >= 0 && r.timeout_ms <= INT_MAX, text, strlen(text));
        must_of(r.on_hangup <= ON_HANGUP_FINISH && r.half_close <= HALF_CLOSE_IGNORE &&
                    r.max >= 0 && r.max <= 1000000,
                text, strlen(text));
        must_of(r.options <= OPTIONS_SERVER && r.use_tmpdir <= TMPDIR_LEAVE &&
                    r.limits.cpu_ms >= 0 && r.limits.memory >= 0 && r.limits.file_size >= 0 &&
                    r.limits.processes >= 0 && r.limits.processes <= 1000000,
                text, strlen(text));
        bool programs = r.options != 0 || r.use_tmpdir != 0 || r.limits.cpu_ms != 0 ||
                        r.limits.memory != 0 || r.limits.file_size != 0 || r.limits.processes != 0;
        must_of(!programs || r.program != NULL, text, strlen(text));
        check_env(&r, text);
        route_free(&r);
    } else {
        must(result == -1 && r.path == NULL);
        must_of(memchr(why, '\0', why_size) != NULL, text, strlen(text));
        must_of(why_size < 2 || why[0] != '\0', text, strlen(text));
    }
    free(why);
}

/* Digits and one optional unit; what does not fit into 63 bits is refused. */
static void check_size(const char *text)
{
    static const char units[] = "kKmMgG";
    size_t digits = strspn(text, "0123456789");
    const char *unit = text + digits, *known = *unit != '\0' ? strchr(units, *unit) : units;
    int64_t factor = *unit == '\0'   ? 1
                     : known == NULL ? 0
                                     : INT64_C(1) << 10 * (1 + (known - units) / 2);
    errno = 0;
    int64_t n = strtoll(text, NULL, 10), product = -1;
    bool is_size = digits > 0 && errno == 0 && factor > 0 && (*unit == '\0' || unit[1] == '\0') &&
                   !__builtin_mul_overflow(n, factor, &product);
    must_of(parse_size(text) == (is_size ? product : -1), text, strlen(text));
}

/* Digits with at most one point, and a unit; over INT_MAX milliseconds is refused. */
static void check_duration(const char *text)
{
    size_t length = strspn(text, "0123456789."), digits = 0, points = 0;
    for (size_t i = 0; i < length; i++)
        text[i] == '.' ? points++ : digits++;
    int64_t ms = parse_duration(text);
    must_of(ms >= -1 && ms <= INT_MAX, text, strlen(text));
    if (ms < 0)
        return;
    must_of(digits > 0 && points <= 1, text, strlen(text));
    const char *unit = text + length;
    double factor = strcmp(unit, "ms") == 0                   ? 1
                    : strcmp(unit, "m") == 0                  ? 60000
                    : strcmp(unit, "h") == 0                  ? 3600000
                    : *unit == '\0' || strcmp(unit, "s") == 0 ? 1000
                                                              : 0;
    must_of(factor > 0, text, strlen(text));
    double exact = strtod(text, NULL) * factor;
    /* What is more than nothing is 1 ms at least; a double cannot tell 1 - 1e-30 from 1. */
    must_of(exact - (double)ms <= 0.5 && (double)ms - exact <= 1, text, strlen(text));
    must_of((ms == 0) == (exact == 0), text, strlen(text));
}

static void check_line(const char *line)
{
    size_t length = strlen(line);
    check_route(line, 1 + length % 7);
    check_route(line, 512);
    check_size(line);
    check_duration(line);
    must(
        (choice_find(HALF_CLOSE_WORDS, line) != 0) ==
        (strcmp(line, "probe") == 0 || strcmp(line, "hangup") == 0 || strcmp(line, "ignore") == 0));
    must((choice_find(ON_HANGUP_WORDS, line) != 0) ==
         (strcmp(line, "undo") == 0 || strcmp(line, "finish") == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    while (size > 0) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t n = end != NULL ? (size_t)(end - data) : size;
        char *line = malloc(n + 1);
        must(line != NULL);
        memcpy(line, data, n);
        line[n] = '\0';
        check_line(line);
        free(line);
        data += n + (end != NULL);
        size -= n + (end != NULL);
    }
    return 0;
}
