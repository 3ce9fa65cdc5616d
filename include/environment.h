/* environment.h: the environment of a program (RFC 3875 section 4.1).
 *
 *     struct program_facts facts = {.head = &head, .buffer = buffer, .method = "GET", ...};
 *     char **environment = environment_make(&facts, allocate, owner);
 *     if (environment == NULL)
 *         ...                                        out of memory: errno is ENOMEM
 *     execve(facts.file, words, environment);
 *
 * It has CGI's variables, hangupd's own, an HTTP_ variable for each header field that a program may
 * see, and what the route's programs inherit (pass_env.h). The strings of that last part are the
 * server's; all others are made by ALLOCATE, and freed by nobody here.
 *
 * A new variable is a name in own_names (routes.h), a call of set_variable or the like in one of
 * the parts below, what it tells in program_facts (filled in by handler.c's serve_program), and a
 * line of hangupd(8).
 *
 * For one program of one request, in the request's process: it asks the connection for its own
 * address. It is built without stdio, and with no malloc of its own, because
 * each request's process would pay for their pages.
 *
 * Kind: included by handler.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_ENVIRONMENT_H
#define HANGUPD_ENVIRONMENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http.h"
#include "routes.h"
#include "text.h"

/* What is told to the program. All strings are the caller's, and end in a NUL. */
struct program_facts {
    const struct http_head *head;
    const char *buffer; /* the head as it came: what the spans of HEAD point into */
    const char *method, *path, *query;
    const char *file;          /* the program's */
    size_t script_name_length; /* SCRIPT_NAME, the beginning of PATH */
    const char *path_info;     /* what follows it, or "" */
    bool has_body;
    uint64_t body_length; /* bytes */
    int connection;       /* asked for its own address, if it is TCP */
    bool is_tcp;
    const char *client;     /* "192.0.2.7:5180", "[2001:db8::7]:5180", or "unix" */
    const char *software;   /* "hangupd/0.1" */
    const char *id;         /* the request's */
    const char *tmpdir;     /* NULL: what is inherited */
    const char *directory;  /* that it lies in */
    char *const *inherited; /* and a NULL; none of them is among own_names */
};

/* Returns SIZE bytes that live until the program has been executed, or NULL: out of memory. */
typedef void *environment_allocate(void *owner, size_t size);

/* ---- Setting variables --------------------------------------------------------------- */

struct environment {
    const struct program_facts *facts;
    environment_allocate *allocate;
    void *owner;
    char **variables;   /* with room for all that there can be (own_names), and a NULL */
    size_t count, room; /* without the NULL */
    bool lacks;         /* one, for want of memory or of that room */
};

/* Set NAME to the LENGTH bytes at VALUE, or, if that is NULL, to what the caller writes there.
 * Returns where the value is, with a NUL behind it, or NULL: there is no room for it, which is
 * noted. */
static char *set_bytes(struct environment *e, const char *name, const char *value, size_t length)
{
    size_t at = strlen(name) + 1;
    char *variable = e->count < e->room ? e->allocate(e->owner, at + length + 1) : NULL;
    if (variable == NULL) {
        e->lacks = true;
        return NULL;
    }
    e->variables[e->count++] = variable;
    memcpy(variable, name, at - 1);
    variable[at - 1] = '=';
    if (value != NULL)
        memcpy(variable + at, value, length);
    variable[at + length] = '\0';
    return variable + at;
}

static void set_variable(struct environment *e, const char *name, const char *value)
{
    set_bytes(e, name, value, strlen(value));
}

static void set_decimal(struct environment *e, const char *name, unsigned long long n)
{
    char digits[24];
    struct text t = TEXT(digits);
    set_variable(e, name, text_format(&t, "%llu", n));
}

/* Set NAME to the values of all header fields FIELD, joined, if there is one. */
static void set_from_field(struct environment *e, const char *name, const char *field)
{
    const struct program_facts *f = e->facts;
    size_t size = http_join_values(f->head, f->buffer, field, NULL);
    char *values = size > 0 ? set_bytes(e, name, NULL, size - 1) : NULL;
    if (values != NULL)
        http_join_values(f->head, f->buffer, field, values);
}

/* ---- The parts ----------------------------------------------------------------------- */

static void set_request_variables(struct environment *e)
{
    const struct program_facts *f = e->facts;
    char protocol[] = "HTTP/1.0";
    protocol[sizeof protocol - 2] = (char)('0' + f->head->minor);
    set_variable(e, "GATEWAY_INTERFACE", "CGI/1.1");
    set_variable(e, "SERVER_SOFTWARE", f->software);
    set_variable(e, "SERVER_PROTOCOL", protocol);
    set_variable(e, "REQUEST_METHOD", f->method);
    set_bytes(e, "REQUEST_URI", f->buffer + f->head->target.at, f->head->target.length);
    set_bytes(e, "SCRIPT_NAME", f->path, f->script_name_length);
    set_variable(e, "SCRIPT_FILENAME", f->file);
    if (*f->path_info != '\0')
        set_variable(e, "PATH_INFO", f->path_info);
    set_variable(e, "QUERY_STRING", f->query);
    if (f->has_body) {
        set_decimal(e, "CONTENT_LENGTH", f->body_length);
        set_from_field(e, "CONTENT_TYPE", "Content-Type");
    }
    set_variable(e, "REDIRECT_STATUS", "200"); /* php-cgi runs nothing without it */
    set_variable(e, "PWD", f->directory);
    if (f->tmpdir != NULL)
        set_variable(e, "TMPDIR", f->tmpdir);
    set_variable(e, "UNDO_FD", "3");
}

/* Our end of the connection, in numbers: "localhost" and 0 for a unix socket, which has none. */
static void own_address(const struct program_facts *f, char host[INET6_ADDRSTRLEN], unsigned *port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at = {0};
    socklen_t size = sizeof at;
    struct text t = {.at = host, .room = INET6_ADDRSTRLEN};
    memcpy(host, "localhost", sizeof "localhost");
    *port = 0;
    if (!f->is_tcp || getsockname(f->connection, &at.any, &size) < 0)
        return;
    bool v6 = at.any.sa_family == AF_INET6;
    bool mapped = v6 && IN6_IS_ADDR_V4MAPPED(&at.v6.sin6_addr); /* a caller by IPv4, on :PORT */
    *port = ntohs(v6 ? at.v6.sin6_port : at.v4.sin_port);
    const uint8_t *v4 = mapped ? &at.v6.sin6_addr.s6_addr[12] : (uint8_t *)&at.v4.sin_addr;
    if (v6 && !mapped)
        inet_ntop(AF_INET6, &at.v6.sin6_addr, host, INET6_ADDRSTRLEN);
    else /* inet_ntop would take stdio's pages for these */
        text_format(&t, "%u.%u.%u.%u", v4[0], v4[1], v4[2], v4[3]);
}

/* The name by which the client called us, without its port: *LENGTH bytes, 0 if it gave none. */
static const char *asked_name(const struct program_facts *f, size_t *length)
{
    const struct http_field *host = http_find_field(f->head, f->buffer, "Host");
    const char *name = host != NULL ? f->buffer + host->value.at : "";
    size_t most = host != NULL ? host->value.length : 0;
    const char *end = most == 0 ? NULL : memchr(name, *name == '[' ? ']' : ':', most);
    *length = end != NULL ? (size_t)(end - name) + (*name == '[') : most;
    return name;
}

/* The port behind that name, or 80: for a unix socket, which has none, so that the links that a
 * program makes lead to where it was asked. */
static unsigned asked_port(const struct program_facts *f)
{
    unsigned long long port = 0;
    size_t length;
    const struct http_field *host = http_find_field(f->head, f->buffer, "Host");
    const char *name = asked_name(f, &length), *at = name + length;
    bool has_port = host != NULL && length < host->value.length && *at++ == ':';
    return has_port && parse_number(&at, UINT16_MAX, &port) && port > 0 ? (unsigned)port : 80;
}

/* SERVER_NAME is what the client called us, else our address. */
static void set_address_variables(struct environment *e)
{
    const struct program_facts *f = e->facts;
    char host[INET6_ADDRSTRLEN], name[INET6_ADDRSTRLEN + 2];
    struct text t = TEXT(name);
    unsigned port;
    size_t n;
    own_address(f, host, &port);
    bool v6 = strchr(host, ':') != NULL;
    text_format(&t, v6 ? "[%s]" : "%s", host);
    const char *asked = asked_name(f, &n);
    if (n > 0)
        set_bytes(e, "SERVER_NAME", asked, n);
    else
        set_variable(e, "SERVER_NAME", text_end(&t));
    set_variable(e, "SERVER_ADDR", host);
    set_decimal(e, "SERVER_PORT", f->is_tcp ? port : asked_port(f));
    const char *client = f->client, *colon = strrchr(client, ':');
    if (!f->is_tcp || colon == NULL) {
        set_variable(e, "REMOTE_ADDR", ""); /* a unix socket's peer has none */
        return;
    }
    bool bracketed = *client == '[';
    set_bytes(e, "REMOTE_ADDR", client + bracketed, (size_t)(colon - client) - (bracketed ? 2 : 0));
    set_variable(e, "REMOTE_PORT", colon + 1);
}

#define VARIABLE_NAME_MAX 256 /* bytes; a field whose variable would be longer is left out */

/* Write HTTP_NAME for the header field FIELD. Returns false if a program may not see it: it is the
 * connection's or has a variable of its own, its NAME would set a proxy (httpoxy), or it has a '_':
 * "X_Y" and "X-Y" would be the same variable. */
static bool header_variable(const char *field, size_t length, char variable[VARIABLE_NAME_MAX])
{
    static const char *const left_out[] = {
        "Connection", "Content-Length", "Content-Type",      "Expect", "Keep-Alive", "Proxy",
        "TE",         "Trailer",        "Transfer-Encoding", "Upgrade"};
    struct text t = {.at = variable, .room = VARIABLE_NAME_MAX};
    for (size_t i = 0; i < sizeof left_out / sizeof left_out[0]; i++)
        if (strcasecmp(field, left_out[i]) == 0)
            return false;
    text_add(&t, "HTTP_");
    for (size_t i = 0; i < length; i++) {
        char c = field[i];
        if (!http_is_alpha(c) && !http_is_digit(c) && c != '-')
            return false;
        text_char(&t, c == '-' ? '_' : http_is_alpha(c) ? (char)(c & ~0x20) : c);
    }
    text_end(&t);
    return true;
}

static void set_header_variables(struct environment *e)
{
    const struct http_head *h = e->facts->head;
    const char *buffer = e->facts->buffer;
    for (uint32_t i = 0; i < h->field_count; i++) {
        char field[VARIABLE_NAME_MAX - 5], variable[VARIABLE_NAME_MAX];
        struct http_span name = h->fields[i].name;
        if (name.length >= sizeof field)
            continue;
        memcpy(field, buffer + name.at, name.length);
        field[name.length] = '\0';
        /* Only the first of its name: all values are joined there. */
        if (http_find_field(h, buffer, field) == &h->fields[i] &&
            header_variable(field, name.length, variable))
            set_from_field(e, variable, field);
    }
}

/* Returns the environment as execve(2) takes it, or NULL with errno ENOMEM. */
static char **environment_make(const struct program_facts *facts, environment_allocate *allocate,
                               void *owner)
{
    struct environment e = {.facts = facts,
                            .allocate = allocate,
                            .owner = owner,
                            .room = OWN_NAMES + facts->head->field_count};
    for (char *const *v = facts->inherited; *v != NULL; v++)
        e.room++;
    e.variables = allocate(owner, (e.room + 1) * sizeof *e.variables);
    e.lacks = e.variables == NULL;
    if (!e.lacks) {
        set_variable(&e, "REQUEST_ID", facts->id); /* first: it marks its processes */
        for (char *const *v = facts->inherited; *v != NULL; v++)
            e.variables[e.count++] = *v;
        set_request_variables(&e);
        set_address_variables(&e);
        set_header_variables(&e);
        e.variables[e.count] = NULL;
    }
    if (e.lacks)
        errno = ENOMEM;
    return e.lacks ? NULL : e.variables;
}

#endif
