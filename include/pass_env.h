/* pass_env.h: what programs and undo commands get of the server's environment: --pass-env.
 *
 *     pass_env_check();                       the option's words; ends the process if one is wrong
 *     pass_env_prepare();                     fills in settings.handler.inherited
 *     pass_env_keep(server.dir, server.token);            before the first request
 *
 * What a program inherits is a list of names, which the option adds to, as a server may have been
 * started with secrets in its environment, and with variables (PWD is one) that say what is not
 * true in the program. The lists are made once: a request copies pointers.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_PASS_ENV_H
#define HANGUPD_PASS_ENV_H

#include "environment_file.h"
#include "options.h"

/* Returns true if LIST, names with commas between them, has the N bytes at NAME. */
static bool list_has(const char *list, const char *name, size_t n)
{
    for (size_t length; *list != '\0'; list += length + (list[length] == ',')) {
        length = strcspn(list, ",");
        bool any = length > 0 && list[length - 1] == '*'; /* it stands for any rest */
        size_t fixed = length - any;
        if ((any ? n >= fixed : n == fixed) && memcmp(list, name, fixed) == 0)
            return true;
    }
    return false;
}

/* Returns true if the variable, "NAME=VALUE", is passed on. */
static bool is_passed(const char *variable)
{
    size_t n = strcspn(variable, "=");
    bool passed = list_has(PASS_ENV_DEFAULT, variable, n);
    for (size_t i = 0; i < settings.pass_env.count; i++) {
        const char *word = settings.pass_env.words[i];
        passed = *word != '\0' && (passed || list_has(word, variable, n));
    }
    return passed && !variable_is_own(variable, n, OWN_NAMES);
}

/* Complain of a name that means nothing here. */
static void pass_env_check(void)
{
    for (size_t i = 0; i < settings.pass_env.count; i++)
        for (const char *at = settings.pass_env.words[i]; *at != '\0';) {
            size_t n = strcspn(at, ",");
            if (memchr(at, '=', n) != NULL)
                wrong_use("--pass-env %s: it wants names of variables; a route sets one by "
                          "env=NAME=VALUE",
                          at);
            if (variable_is_own(at, n, OWN_NAMES))
                wrong_use(
                    "--pass-env %.*s: a program is told of its request by such variables, and "
                    "none of the server's passes for one",
                    (int)n, at);
            at += n + (at[n] == ',');
        }
}

static char *variable_make(const char *name, const char *value)
{
    char *variable;
    if (asprintf(&variable, "%s=%s", name, value) < 0)
        cannot("out of memory for the environment of programs");
    return variable;
}

/* Returns true if the route's programs have the server's TMPDIR. */
static bool leaves_tmpdir(const struct route *r)
{
    enum tmpdir use = r->use_tmpdir != TMPDIR_DEFAULT ? r->use_tmpdir : settings.handler.use_tmpdir;
    return r->program != NULL && use == TMPDIR_LEAVE;
}

/* Returns what a program with the variables OWN, if that is not NULL, inherits; by TMPDIR that one,
 * too. FIXED, COUNT of them, come first. */
static char **inherited_make(char **fixed, size_t count, const char **own, bool tmpdir)
{
    size_t room = count + 1, n = 0;
    for (char **v = environ; *v != NULL; v++)
        room++;
    for (size_t i = 0; own != NULL && own[i] != NULL; i++)
        room++;
    char **all = calloc(room, sizeof *all);
    if (all == NULL)
        cannot("out of memory for the environment of programs");
    memcpy(all, fixed, count * sizeof *fixed);
    n = count;
    for (size_t i = 0; own != NULL && own[i] != NULL; i++)
        all[n++] = (char *)own[i];
    for (char **v = environ; *v != NULL; v++) {
        bool is_set = false; /* by the route, which has the last word */
        for (size_t i = 0; own != NULL && own[i] != NULL && !is_set; i++)
            is_set = strncmp(own[i], *v, strcspn(*v, "=") + 1) == 0;
        if (!is_set && (is_passed(*v) || (tmpdir && strncmp(*v, "TMPDIR=", 7) == 0)))
            all[n++] = *v;
    }
    return all;
}

/* Make the lists, of which routes without variables of their own share one. SELF and STATE are the
 * paths of hangupd (NULL: not known) and of STATE, for `hangupd undo` and `hangupd status`. */
static void pass_env_prepare(const char *self, const char *state)
{
    char *fixed[] = {variable_make("HANGUPD_STATE", state),
                     self != NULL ? variable_make("HANGUPD", self) : NULL};
    size_t count = self != NULL ? 2 : 1, routes = settings.handler.route_count;
    struct inherited *lists = calloc(routes + 1, sizeof *lists);
    if (lists == NULL)
        cannot("out of memory for the environment of programs");
    lists[routes].variables = inherited_make(fixed, count, NULL, false);
    for (size_t i = 0; i < routes; i++) {
        const char **own = settings.handler.routes[i].env;
        lists[i] = lists[routes];
        bool tmpdir = leaves_tmpdir(&settings.handler.routes[i]);
        if (own != NULL || tmpdir)
            lists[i] =
                (struct inherited){inherited_make(fixed, count, own, tmpdir), (unsigned)i + 1};
    }
    settings.handler.inherited = lists;
}

/* Say how many variables programs do not see. */
static void pass_env_tell(void)
{
    unsigned held_back = 0;
    for (char **v = environ; *v != NULL; v++)
        held_back += !is_passed(*v) && strncmp(*v, "REQUEST_ID=", 11) != 0;
    if (held_back > 0)
        log_eventf(NULL, "%u variables of the environment are held back from programs (--pass-env)",
                   held_back);
}

/* Take what is not passed on out of this process's own environment. */
static void pass_env_forget(void)
{
    char **to = environ;
    for (char **v = environ; *v != NULL; v++)
        if (is_passed(*v) || strncmp(*v, "REQUEST_ID=", 11) == 0)
            *to++ = *v;
    *to = NULL;
}

/* Keep them for undo commands in DIR, the directory of the server TOKEN. */
static void pass_env_keep(int dir, const char *token)
{
    const struct inherited *lists = settings.handler.inherited;
    for (size_t i = 0; i <= settings.handler.route_count; i++)
        if ((i == settings.handler.route_count || lists[i].kept != 0) &&
            environment_keep(dir, (int)lists[i].kept, token, lists[i].variables,
                             settings.handler.sync) < 0)
            cannot("could not keep the environment in the state directory: %s", strerror(errno));
}

#endif
