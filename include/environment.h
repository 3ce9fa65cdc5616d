/* environment.h: the environment of a program (RFC 3875 section 4.1).
 *
 * Kind: included by handler.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_ENVIRONMENT_H
#define HANGUPD_ENVIRONMENT_H

/* ---- Running a program: its environment (RFC 3875 section 4.1) ----------------------- */

/* Bytes of a variable's name; a field with a longer one is left out. */
#define HEADER_NAME_MAX 256

/* Names that are the request's: what the server's own environment says there is not passed on. */
static const char *const own_names[] = {
    "AUTH_TYPE",       "CONTENT_LENGTH",  "CONTENT_TYPE",    "GATEWAY_INTERFACE",
    "PATH_INFO",       "PATH_TRANSLATED", "QUERY_STRING",    "REMOTE_ADDR",
    "REMOTE_HOST",     "REMOTE_IDENT",    "REMOTE_PORT",     "REMOTE_USER",
    "REQUEST_METHOD",  "REQUEST_URI",     "SCRIPT_FILENAME", "SCRIPT_NAME",
    "SERVER_ADDR",     "SERVER_NAME",     "SERVER_PORT",     "SERVER_PROTOCOL",
    "SERVER_SOFTWARE", "TMPDIR",          "UNDO_FD",         "HANGUPD"};
#define OWN_NAMES (sizeof own_names / sizeof own_names[0])

/* Built without stdio and malloc: each request's process would pay for their pages. */
struct environment {
    struct request *rq;
    char **variables; /* with room for all that there can be, and a NULL */
    size_t count;
    bool lacks; /* one, for want of memory */
};

static void set_bytes(struct environment *e, const char *name, const char *value, size_t length)
{
    struct text t = {.room = strlen(name) + 1 + length + 1};
    t.at = request_allocate(e->rq, t.room);
    if (t.at == NULL) {
        e->lacks = true;
        return;
    }
    text_add(&t, name);
    text_char(&t, '=');
    text_bytes(&t, value, length);
    text_end(&t);
    e->variables[e->count++] = t.at;
}

static void set_variable(struct environment *e, const char *name, const char *value)
{
    set_bytes(e, name, value, strlen(value));
}

static void set_number(struct environment *e, const char *name, uint64_t n)
{
    char digits[24];
    struct text t = TEXT(digits);
    text_number(&t, n, 1);
    set_variable(e, name, text_end(&t));
}

/* HTTP_NAME for a header field that a program may see. Names with a '_' are left out: "X_Y" and
 * "X-Y" would be the same variable. */
static bool header_variable(const char *field, size_t length, char variable[HEADER_NAME_MAX])
{
    static const char *const left_out[] = {
        "Connection", "Content-Length", "Content-Type",      "Expect", "Keep-Alive", "Proxy",
        "TE",         "Trailer",        "Transfer-Encoding", "Upgrade"};
    struct text t = {.at = variable, .room = HEADER_NAME_MAX};
    for (size_t i = 0; i < sizeof left_out / sizeof left_out[0]; i++)
        if (strcasecmp(field, left_out[i]) == 0)
            return false;
    text_add(&t, "HTTP_");
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)field[i];
        if (!http_is_alpha(c) && !http_is_digit(c) && c != '-')
            return false;
        text_char(&t, (char)(c == '-' ? '_' : http_is_alpha(c) ? c & ~0x20 : c));
    }
    text_end(&t);
    return true;
}

static void set_header_variables(struct environment *e)
{
    const struct request *rq = e->rq;
    for (uint32_t i = 0; i < rq->head.field_count; i++) {
        char field[HEADER_NAME_MAX - 5], variable[HEADER_NAME_MAX];
        struct http_span name = rq->head.fields[i].name;
        bool is_first = true; /* of its name: all values are joined there */
        if (name.length >= sizeof field)
            continue;
        memcpy(field, rq->buffer + name.at, name.length);
        field[name.length] = '\0';
        for (uint32_t k = 0; k < i && is_first; k++)
            is_first = !http_span_is(rq->buffer, rq->head.fields[k].name, field);
        if (!is_first || !header_variable(field, name.length, variable))
            continue;
        const char *value = request_header(e->rq, field);
        if (value != NULL)
            set_variable(e, variable, value);
        else
            e->lacks = true;
    }
}

/* inet_ntop without stdio. */
static void write_ipv4(char host[INET6_ADDRSTRLEN], const uint8_t bytes[4])
{
    struct text t = {.at = host, .room = INET6_ADDRSTRLEN};
    for (int i = 0; i < 4; i++) {
        if (i > 0)
            text_char(&t, '.');
        text_number(&t, bytes[i], 1);
    }
    text_end(&t);
}

/* Our end of the connection, in numbers. */
static void own_address(const struct request *rq, char host[INET6_ADDRSTRLEN], unsigned *port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at = {0};
    socklen_t size = sizeof at;
    memcpy(host, "localhost", sizeof "localhost");
    *port = 0;
    if (!rq->call->is_tcp || getsockname(rq->call->connection, &at.any, &size) < 0)
        return;
    bool v6 = at.any.sa_family == AF_INET6;
    bool mapped = v6 && IN6_IS_ADDR_V4MAPPED(&at.v6.sin6_addr); /* a caller by IPv4, on :PORT */
    *port = ntohs(v6 ? at.v6.sin6_port : at.v4.sin_port);
    if (v6 && !mapped)
        inet_ntop(AF_INET6, &at.v6.sin6_addr, host, INET6_ADDRSTRLEN);
    else
        write_ipv4(host, mapped ? &at.v6.sin6_addr.s6_addr[12] : (uint8_t *)&at.v4.sin_addr);
}

/* SERVER_NAME is what the client called us, else our address. */
static void set_address_variables(struct environment *e)
{
    const struct request *rq = e->rq;
    char host[INET6_ADDRSTRLEN], name[INET6_ADDRSTRLEN + 2];
    struct text t = TEXT(name);
    unsigned port;
    own_address(rq, host, &port);
    bool v6 = strchr(host, ':') != NULL;
    text_add(&t, v6 ? "[" : "");
    text_add(&t, host);
    text_add(&t, v6 ? "]" : "");
    const char *asked = request_header(e->rq, "Host");
    size_t n = asked == NULL ? 0 : *asked == '[' ? strcspn(asked, "]") + 1 : strcspn(asked, ":");
    if (n > 0)
        set_bytes(e, "SERVER_NAME", asked, n);
    else
        set_variable(e, "SERVER_NAME", text_end(&t));
    set_variable(e, "SERVER_ADDR", host);
    set_number(e, "SERVER_PORT", port);
    const char *client = rq->slot->client, *colon = strrchr(client, ':');
    if (!rq->call->is_tcp || colon == NULL) {
        set_variable(e, "REMOTE_ADDR", ""); /* a unix socket's peer has none */
        return;
    }
    bool bracketed = *client == '[';
    set_bytes(e, "REMOTE_ADDR", client + bracketed, (size_t)(colon - client) - (bracketed ? 2 : 0));
    set_variable(e, "REMOTE_PORT", colon + 1);
}

static void inherit_variables(struct environment *e)
{
    for (char **v = environ; *v != NULL; v++) {
        size_t n = strcspn(*v, "=");
        bool wanted = strncmp(*v, "HTTP_", 5) != 0; /* httpoxy, and any other */
        for (size_t i = 0; i < OWN_NAMES && wanted; i++)
            wanted = strlen(own_names[i]) != n || memcmp(own_names[i], *v, n) != 0;
        if (wanted)
            e->variables[e->count++] = *v;
    }
}

static void set_request_variables(struct environment *e, const struct script *script)
{
    struct request *rq = e->rq;
    char protocol[] = "HTTP/1.0";
    protocol[sizeof protocol - 2] = (char)('0' + rq->head.minor);
    bool has_body = rq->body >= 0 || rq->head.has_length;
    const char *type = has_body ? request_header(rq, "Content-Type") : NULL;
    set_variable(e, "GATEWAY_INTERFACE", "CGI/1.1");
    set_variable(e, "SERVER_SOFTWARE", "hangupd/" HANGUPD_VERSION);
    set_variable(e, "SERVER_PROTOCOL", protocol);
    set_variable(e, "REQUEST_METHOD", rq->method);
    set_bytes(e, "REQUEST_URI", rq->buffer + rq->head.target.at, rq->head.target.length);
    set_bytes(e, "SCRIPT_NAME", rq->path, script->name_length);
    set_variable(e, "SCRIPT_FILENAME", script->file);
    if (*script->path_info != '\0')
        set_variable(e, "PATH_INFO", script->path_info);
    set_variable(e, "QUERY_STRING", rq->query);
    if (has_body)
        set_number(e, "CONTENT_LENGTH", rq->body_length);
    if (type != NULL)
        set_variable(e, "CONTENT_TYPE", type);
    set_variable(e, "TMPDIR", cleanup_tempdir());
    set_variable(e, "UNDO_FD", "3");
    if (rq->settings->self != NULL) /* so that a program finds `hangupd undo` wherever it is */
        set_variable(e, "HANGUPD", rq->settings->self);
}

/* NULL: out of memory. */
static char **make_environment(struct request *rq, const struct script *script)
{
    struct environment e = {.rq = rq};
    size_t most = OWN_NAMES + rq->head.field_count;
    for (char **v = environ; *v != NULL; v++)
        most++;
    e.variables = request_allocate(rq, (most + 1) * sizeof *e.variables);
    if (e.variables == NULL)
        return NULL;
    inherit_variables(&e); /* REQUEST_ID among them */
    set_request_variables(&e, script);
    set_address_variables(&e);
    set_header_variables(&e);
    e.variables[e.count] = NULL;
    if (e.lacks)
        errno = ENOMEM;
    return e.lacks ? NULL : e.variables;
}

#endif
